"""Every public function of jaxseg with its smallest inputs: the table that the laws run over.

A new function is one line of ``CASES``; ``test_api`` fails until it has one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from inspect import signature
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxseg

MAP = (8, 3, 5)  # images, height, width: one image for each device; 3 by 5 pixels are odd to cut
CLASSES = 3

HARD = ("hard",)  # statistics of two hard maps
LOSSES = ("region", "compound")  # of soft counts
PIXEL = ("pixel",)  # losses of each pixel: of the label map's shape
ORDERED = ("ordered",)  # losses in which the pixels' order matters
SPATIAL = ("spatial",)  # losses in which pixels see their neighbours
SOFT = ("soft", *LOSSES)  # differentiable, of floats [..., C] and labels, summed over pixels
GRADED = (*SOFT, *PIXEL, *ORDERED, *SPATIAL)  # all that are differentiable, with where=
MAPS = HARD + SOFT  # take where= and axis=
SCORES = ("counts", "matrix")  # of a statistic, with zero_division=
SPREAD = ("spread",)  # scores of Moments, with zero_division=
SUMS = ("moments", "running")  # of values for each case; of statistics
ARRAYS = (  # no text
    *MAPS,
    *PIXEL,
    *ORDERED,
    *SPATIAL,
    *SCORES,
    *SPREAD,
    *SUMS,
    "convert",
    "predict",
    "space",
)


class Case(NamedTuple):
    """A public function with inputs, in one of its variants."""

    public: str  # its name in jaxseg
    kind: str  # one of those named above, or one of its own
    make: Callable[[np.random.Generator], tuple[Any, ...]]  # its positional arguments
    variant: str = ""
    options: Mapping[str, Any] = {}
    bounds: tuple[float, float] = (-np.inf, np.inf)
    class_axes: int = 1  # how many axes of the result, its last ones, are classes
    second: tuple[Any, ...] = ()  # positional arguments after the first, the same in every call

    @property
    def name(self) -> str:
        return f"{self.public}-{self.variant}" if self.variant else self.public

    @property
    def function(self) -> Callable[..., Any]:
        function = partial(getattr(jaxseg, self.public), **self.options)
        if not self.second:
            return function
        return lambda x, *args, **options: function(x, *self.second, *args, **options)

    def args(self, seed: int = 0) -> tuple[Any, ...]:
        return jax.tree.map(jnp.asarray, self.make(np.random.default_rng(seed)))


def logits(rng: np.random.Generator, classes: int = CLASSES) -> np.ndarray:
    return rng.normal(scale=2, size=(*MAP, classes)).astype(np.float32)


def ids(rng: np.random.Generator, classes: int = CLASSES) -> np.ndarray:
    return rng.integers(0, classes, MAP).astype(np.uint8)


def masks(rng: np.random.Generator) -> np.ndarray:
    return rng.random((*MAP, CLASSES)) < 0.4


def shares(rng: np.random.Generator) -> np.ndarray:
    """Probabilities or soft labels, which sum to 1 over the classes."""
    return rng.dirichlet(np.ones(CLASSES), MAP).astype(np.float32)


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(1, 20, (*MAP[:1], *shape)).astype(np.int32)


def a_counts(rng: np.random.Generator) -> tuple[jaxseg.Counts]:
    return (jaxseg.Counts(*(integers(rng, CLASSES) for _ in range(4))),)


def a_moments(rng: np.random.Generator) -> tuple[jaxseg.Moments]:
    """Moments of small integers, which half precision and uint8 hold."""
    values = rng.integers(0, 4, (9, *MAP[:1], CLASSES))
    total, squares = values.sum(0), (values**2).sum(0)
    count, excluded = np.full_like(total, 9, np.int32), np.ones_like(total, np.int32)
    return (jaxseg.Moments(count, total.astype(np.float32), squares.astype(np.float32), excluded),)


# The variants of inputs: floats [..., C] with labels.
SOFTMAX_IDS = ("softmax-ids", lambda rng: (logits(rng), ids(rng)), {"activation": "softmax"})
SIGMOID_IDS = ("sigmoid-ids", lambda rng: (logits(rng, 1), ids(rng, 2)), {"activation": "sigmoid"})
SIGMOID_DENSE = ("sigmoid-dense", lambda rng: (logits(rng), masks(rng)), {"activation": "sigmoid"})
WASSERSTEIN = (
    *SOFTMAX_IDS[:2],
    {
        "activation": "softmax",
        "distances": np.array([[0, 1, 1], [1, 0, 0.3], [1, 0.3, 0]], np.float32),
    },
)
PROBS_DENSE = ("probs-dense", lambda rng: (shares(rng), shares(rng)), {"activation": None})
SQUARED = ("softmax-ids-squared", SOFTMAX_IDS[1], {"activation": "softmax", "squared": True})
SOFT_TARGETS = (
    "probs-dense-soft-targets",
    PROBS_DENSE[1],
    {"activation": None, "soft_targets": True},
)


def soft(public: str, *variants: Any, kind: str = "region") -> list[Case]:
    unbounded = kind != "region" or public in ("log_dice_loss", "matthews_correlation_loss")
    bounds = (0, np.inf) if unbounded else (0, 1)
    return [
        Case(public, kind, make, variant, options, bounds, 0 if "generalized" in public else 1)
        for variant, make, options in variants
    ]


def compound(public: str, variant: Any, **options: Any) -> Case:
    name, make, _ = variant
    name = f"{name}-weighted" if options else name
    return Case(public, "compound", make, name, options, (0, np.inf), class_axes=0)


def loss(
    public: str,
    kind: str,
    variant: Any = SOFTMAX_IDS,
    high: float = np.inf,
    *,
    low: float = 0,
    class_axes: int = 1,
    **options: Any,
) -> Case:
    """A pixel, ordered or spatial loss; of a spatial one, the last two axes are the image."""
    name, make, given = variant
    given = {k: v for k, v in given.items() if k in signature(getattr(jaxseg, public)).parameters}
    if kind == "spatial" or public == "nacl_loss":
        given |= {"spatial_axes": (-2, -1)}
    return Case(public, kind, make, name, given | options, (low, high), class_axes)


def score(public: str, low: float = 0, high: float = 1, class_axes: int = 1) -> Case:
    return Case(public, "counts", a_counts, bounds=(low, high), class_axes=class_axes)


def matrix(public: str, low: float = 0, high: float = 1) -> Case:
    return Case(
        public,
        "matrix",
        lambda rng: (integers(rng, CLASSES, CLASSES),),
        bounds=(low, high),
        class_axes=0,
    )


CASES = [
    # statistics
    Case("counts", "hard", lambda rng: (ids(rng), ids(rng)), "ids", {"num_classes": CLASSES}),
    Case("counts", "hard", lambda rng: (masks(rng), masks(rng)), "masks"),
    Case(
        "confusion_matrix", "hard", lambda rng: (ids(rng), ids(rng)), "", {"num_classes": CLASSES}
    )._replace(class_axes=2),
    *soft("soft_counts", SOFTMAX_IDS, SIGMOID_IDS, SIGMOID_DENSE, PROBS_DENSE, kind="soft"),
    Case("counts_from_confusion", "convert", lambda rng: (integers(rng, CLASSES, CLASSES),)),
    Case("predict_labels", "predict", lambda rng: (logits(rng),), "softmax"),
    Case("predict_labels", "predict", lambda rng: (logits(rng),), "sigmoid")._replace(
        options={"activation": "sigmoid"}
    ),
    Case("predict_labels", "predict", lambda rng: (shares(rng),), "probs")._replace(
        options={"activation": None}
    ),
    Case("check_labels", "check", lambda rng: (ids(rng),), options={"num_classes": CLASSES}),
    # scores of Counts
    score("dice"),
    score("iou"),
    score("jaccard"),
    score("tversky"),
    score("fbeta"),
    score("precision"),
    score("recall"),
    score("sensitivity"),
    score("specificity"),
    score("negative_predictive_value"),
    score("false_positive_rate"),
    score("false_negative_rate"),
    score("false_discovery_rate"),
    score("false_omission_rate"),
    score("accuracy"),
    score("balanced_accuracy"),
    score("informedness", -1, 1),
    score("markedness", -1, 1),
    score("matthews_correlation", -1, 1),
    score("fowlkes_mallows"),
    score("volumetric_similarity"),
    score("relative_volume_difference", -1, np.inf),
    score("prevalence"),
    score("generalized_dice", class_axes=0),
    # scores of a confusion matrix
    matrix("pixel_accuracy"),
    matrix("mean_class_accuracy"),
    matrix("mean_iou"),
    matrix("frequency_weighted_iou"),
    matrix("cohen_kappa", -1, 1),
    matrix("multiclass_matthews_correlation", -1, 1),
    matrix("expected_cost", 0, np.inf),
    Case("class_report", "text", lambda rng: (jax.tree.map(lambda x: x[0], a_counts(rng)[0]),)),
    # losses
    *soft("dice_loss", SOFTMAX_IDS, SIGMOID_IDS, SIGMOID_DENSE, PROBS_DENSE),
    *soft("iou_loss", SIGMOID_DENSE, SOFTMAX_IDS, PROBS_DENSE),
    *soft("tversky_loss", SOFTMAX_IDS, SIGMOID_DENSE, PROBS_DENSE),
    *soft("focal_tversky_loss", SIGMOID_DENSE, SOFTMAX_IDS, PROBS_DENSE),
    compound("bce_dice_loss", SIGMOID_IDS),
    compound(
        "dice_ce_loss",
        SOFTMAX_IDS,
        class_weights=np.array([0, 1, 3], np.float32),
        ce_class_weights=np.array([1, 2, 4], np.float32),
    ),
    compound("dice_ce_loss", PROBS_DENSE, label_smoothing=0.1),
    # A kernel in which classes can be permuted as features are.
    compound(
        "linear_dice_ce_loss", SOFTMAX_IDS, ce_class_weights=np.array([1, 2, 4], np.float32)
    )._replace(second=(2 * np.eye(CLASSES, dtype=np.float32), None)),
    *soft("dice_loss", SQUARED),
    *soft("dice_loss", SOFT_TARGETS),
    *soft("log_dice_loss", SIGMOID_DENSE),
    *soft("log_cosh_dice_loss", SOFTMAX_IDS),
    *soft("generalized_dice_loss", SOFTMAX_IDS),
    *soft("generalized_wasserstein_dice_loss", WASSERSTEIN),
    *soft("matthews_correlation_loss", SIGMOID_DENSE),
    *soft("sensitivity_specificity_loss", SIGMOID_DENSE),
    compound("dice_focal_loss", SOFTMAX_IDS),
    compound("dice_top_k_loss", SOFTMAX_IDS),
    compound("exponential_logarithmic_loss", SIGMOID_IDS),
    compound("unified_focal_loss", SIGMOID_IDS),
    loss(
        "cross_entropy_loss",
        "pixel",
        class_axes=0,
        class_weights=np.array([1, 2, 4], np.float32),
        label_smoothing=0.1,
    ),
    loss("softmax_focal_loss", "pixel", class_axes=0),
    loss("nacl_loss", "pixel", class_axes=0),
    loss("top_k_loss", "ordered", class_axes=0, fraction=0.3),
    loss("ohem_loss", "ordered", class_axes=0, min_kept=3),
    loss("lovasz_hinge_loss", "ordered", SIGMOID_DENSE),
    loss("lovasz_softmax_loss", "ordered", high=1, class_axes=0),
    loss("boundary_loss", "spatial", low=-np.inf),
    loss("hausdorff_dt_loss", "spatial"),
    loss("hausdorff_erosion_loss", "spatial", erosions=2),
    loss("boundary_dou_loss", "spatial", SIGMOID_DENSE, high=1),
    loss("cldice_loss", "spatial", SIGMOID_IDS, high=1, iterations=2),
    loss("dice_cldice_loss", "spatial", high=1, iterations=1),
    loss("skeleton_recall_loss", "spatial", high=1, iterations=1, radius=1),
    # of space
    Case(
        "soft_skeleton",
        "space",
        lambda rng: (shares(rng),),
        options={"iterations": 2, "spatial_axes": (-2, -1)},
    ),
    Case("border_weights", "space", lambda rng: (ids(rng),)),
    Case("distance_transform", "space", lambda rng: (ids(rng) == 0,)),
    Case("signed_distance", "space", lambda rng: (ids(rng) == 0,)),
    # moments of values per case
    Case("moments", "moments", lambda rng: (logits(rng)[:, 0, 0],)),
    Case("mean", "spread", a_moments),
    Case("std", "spread", a_moments),
    Case("std", "spread", a_moments, "sample", {"ddof": 1}),
    # sums over steps and devices
    Case("running", "running", a_counts, "counts"),
    Case("running", "running", lambda rng: (logits(rng)[:, 0, 0],), "floats"),
    Case("total", "state", lambda rng: (jaxseg.running(*a_counts(rng)),)),
    Case("psum", "state", a_counts, second=("b",)),
    Case("pad_batch", "state", lambda rng: (ids(rng),), second=(MAP[0] + 3,)),
    # of a loss
    Case("deep_supervision", "wrapper", lambda rng: (jaxseg.dice_ce_loss,)),
]


# One of each way through the code. Laws that compile much run for these each time, and for all
# functions with the slow tests.
REPRESENTATIVES = (
    "counts",
    "confusion_matrix",
    "soft_counts",
    "dice_loss",
    "dice_ce_loss",
    "cross_entropy_loss",
    "top_k_loss",
    "lovasz_softmax_loss",
    "boundary_loss",
    "cldice_loss",
    "dice",
    "mean_iou",
)


KIND = {case.public: case.kind for case in CASES}


def cases(*kinds: str) -> list[Case]:
    return [case for case in CASES if case.kind in kinds]


def one_of_each(chosen: list[Case]) -> list[Case]:
    """The first variant of each function, for laws that compile much."""
    return list({case.public: case for case in reversed(chosen)}.values())[::-1]


# ---------------------------------------------------------------------------------- values


def steps(classes: int) -> np.ndarray:
    """Distances of classes that lie on a line."""
    return np.abs(np.subtract.outer(np.arange(classes), np.arange(classes))) / 2.0


def rising(classes: int) -> list[float]:
    """A weight of each class of the map, all different."""
    return [1.0 + 0.5 * c for c in range(classes)]


def rising_pair(classes: int) -> list[float]:
    """The same, where a map of one class has two: the class and what is not of it."""
    return rising(max(classes, 2))


def of_features(library: Any, name: str) -> Callable[..., Any]:
    """A loss of a linear layer, as one of its features: of as many as there are classes."""
    loss = getattr(library, name)

    @wraps(loss)
    def with_kernel(x: Any, labels: Any, **options: Any) -> Any:
        kernel = np.random.default_rng(3).normal(size=(x.shape[-1], x.shape[-1]))
        return loss(x, kernel, kernel[0] / 2, labels, **options)

    return with_kernel


def of_two_resolutions(library: Any, name: str) -> Callable[..., Any]:
    supervised = getattr(library, name)(library.dice_ce_loss)

    @wraps(library.dice_ce_loss)
    def loss(x: Any, labels: Any, **options: Any) -> Any:
        coarse = [size // 2 for size in x.shape[1:-1]]
        for axis, size in enumerate(coarse, 1):
            x = x if axis > 1 else [x, x]
            centres = [math.floor((i + 0.5) * x[0].shape[axis] / size) for i in range(size)]
            x = [x[0], x[1].take(np.array(centres), axis)]
        return supervised(x, labels, **options)

    return loss


def of_thick_errors(library: Any, name: str) -> Callable[..., Any]:
    """A loss of logits that mistake most pixels for the first class: erosions leave some of it."""
    loss = getattr(library, name)

    @wraps(loss)
    def mistaken(x: Any, labels: Any, **options: Any) -> Any:
        first = np.zeros((1,) * (x.ndim - 1) + x.shape[-1:])
        first[..., 0] = 6.0
        return loss(x + first, labels, **options)

    return mistaken


class Value(NamedTuple):
    """The plain formula that a function is compared with, and the arguments of both."""

    calls: Sequence[Mapping[str, Any]] = ({},)  # a function in them is of the number of classes
    formula: str = ""  # its name in reference.py, where that is not the function's
    call: Callable[[Any, str], Callable[..., Any]] = getattr  # of library (or reference) and name
    one_class: bool = True  # whether a loss takes one logit
    hard_labels: bool = False  # whether a loss thresholds its labels, or has none but ids


VALUES = {
    **{case.public: Value() for case in CASES if case.kind in SCORES},
    "jaccard": Value(formula="iou"),
    "sensitivity": Value(formula="recall"),
    "tversky": Value([{"alpha": 0.3, "beta": 0.9}]),
    "fbeta": Value([{"beta": 0.5}]),
    "generalized_dice": Value([{}, {"power": 1.5}]),
    "cohen_kappa": Value([{}, {"weights": "linear"}, {"weights": "quadratic"}]),
    "expected_cost": Value([{}, {"costs": [[0.0, 1.0, 3.0], [2.0, 0.0, 1.0], [5.0, 1.0, 0.5]]}]),
    # losses
    "dice_loss": Value([{}, {"squared": True}, {"soft_targets": True}]),
    "iou_loss": Value([{}, {"squared": True}, {"soft_targets": True}]),
    "tversky_loss": Value([{"alpha": 0.3, "beta": 0.9}, {"soft_targets": True, "alpha": 0.2}]),
    "focal_tversky_loss": Value([{}, {"gamma": 1.5, "alpha": 0.2, "beta": 0.9}]),
    "log_dice_loss": Value([{"gamma": 0.3}]),
    "log_cosh_dice_loss": Value(),
    "generalized_dice_loss": Value([{}, {"power": 1.0}]),
    "generalized_wasserstein_dice_loss": Value(
        [{"distances": steps}, {"distances": steps, "weighting": "volume"}], one_class=False
    ),
    "matthews_correlation_loss": Value(),
    "sensitivity_specificity_loss": Value([{"sensitivity_weight": 0.3}]),
    "cross_entropy_loss": Value([{"class_weights": rising_pair, "label_smoothing": 0.1}]),
    "softmax_focal_loss": Value([{"gamma": 1.5, "alpha": rising_pair}]),
    "nacl_loss": Value([{}, {"distance": "l2", "weight": 0.3}]),
    "top_k_loss": Value([{"fraction": 0.3}]),
    "ohem_loss": Value([{"threshold": 0.6, "min_kept": 5}, {"threshold": 0.01, "min_kept": 5}]),
    "lovasz_hinge_loss": Value(hard_labels=True),
    "lovasz_softmax_loss": Value([{}, {"classes": "all"}], hard_labels=True),
    "boundary_loss": Value(hard_labels=True),
    "hausdorff_dt_loss": Value(
        [{"spacing": lambda n: (2.0, 1.0, 1.5), "alpha": 1.5}, {"log": True}], hard_labels=True
    ),
    "hausdorff_erosion_loss": Value(
        [{"erosions": 1}, {"erosions": 3}], call=of_thick_errors, hard_labels=True
    ),
    "boundary_dou_loss": Value(hard_labels=True),
    "cldice_loss": Value([{"iterations": 2}]),
    "dice_cldice_loss": Value([{"iterations": 1, "cldice_weight": 0.3}]),
    "skeleton_recall_loss": Value([{"iterations": 2, "radius": 1}], hard_labels=True),
    "bce_dice_loss": Value([{"bce_weight": 0.7, "dice_weight": 1.5}]),
    "dice_ce_loss": Value(
        [
            {"dice_weight": 0.7, "ce_weight": 1.5, "ce_class_weights": rising},
            {"class_weights": rising, "label_smoothing": 0.1},
        ],
        one_class=False,
    ),
    "linear_dice_ce_loss": Value(
        [
            {"dice_weight": 0.7, "ce_weight": 1.5, "ce_class_weights": rising},
            {"class_weights": rising, "label_smoothing": 0.1},
        ],
        call=of_features,
        one_class=False,
    ),
    "dice_focal_loss": Value(
        [{"gamma": 1.5, "focal_weight": 0.7, "alpha": rising_pair, "class_weights": rising}]
    ),
    "dice_top_k_loss": Value([{"fraction": 0.3, "ce_weight": 0.7, "class_weights": rising}]),
    "exponential_logarithmic_loss": Value(
        [{"ce_class_weights": rising_pair, "class_weights": rising, "dice_gamma": 0.7}]
    ),
    "unified_focal_loss": Value([{}, {"asymmetric": False, "gamma": 0.3, "delta": 0.7}]),
    "deep_supervision": Value(call=of_two_resolutions, one_class=False, hard_labels=True),
    # of space
    "soft_skeleton": Value(),
    "border_weights": Value(),
    "distance_transform": Value(),
    "signed_distance": Value(),
}
