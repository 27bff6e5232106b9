"""The one table of the public functions: ``TABLE``, a row for each.

The laws of ``test_laws`` run over its small inputs, ``test_values`` and ``test_safety_net`` compare
each function with its plain formula, ``test_api`` checks names and defaults, ``test_examples`` and
``test_conventions`` that the pages have them all. A new function is a new row; until it has one,
``test_api`` fails.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from inspect import Parameter, signature
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import reference

import jaxseg

MAP = (8, 3, 5)  # images, height, width: one image for each device; 3 by 5 pixels are odd to cut
CLASSES = 3

HARD = ("hard",)  # statistics of two hard maps
LOSSES = ("region", "compound")  # of soft counts
PIXEL = ("pixel",)  # losses of each pixel: of the label map's shape
ORDERED = ("ordered",)  # losses in which the pixels' order matters
SPATIAL = ("spatial",)  # losses in which pixels see their neighbours
SOFT = ("soft", *LOSSES)  # differentiable, of floats [..., C] and labels, summed over pixels
ALL_LOSSES = (*LOSSES, "pixel", "ordered", "spatial")
GRADED = (*SOFT, *PIXEL, *ORDERED, *SPATIAL)  # all that are differentiable, with where=
MAPS = HARD + SOFT  # take where= and axis=
SCORES = ("counts", "matrix")  # of a statistic, with zero_division=
SPREAD = ("spread",)  # scores of Moments, with zero_division=
SUMS = ("moments", "running")  # of values for each case; of statistics
SKELETONS = ("skeletons", "topology")  # of two hard maps of space; scores of them
ARRAYS = (  # no text
    *MAPS,
    *PIXEL,
    *ORDERED,
    *SPATIAL,
    *SCORES,
    *SPREAD,
    *SUMS,
    *SKELETONS,
    "convert",
    "predict",
    "space",
    "surface",
    "class weights",
)


Make = Callable[[np.random.Generator], tuple[Any, ...]]
Variant = tuple[str, Make, Mapping[str, Any]]  # a name, positional arguments, and the others
Call = Callable[[Any, str], Callable[..., Any]]


class Row(NamedTuple):
    """What the tests know of a public function."""

    kind: str  # one of those named above, or one of its own
    variants: Sequence[Variant]  # its small inputs, for the laws
    bounds: tuple[float, float] = (-np.inf, np.inf)
    class_axes: int = 1  # how many axes of the result, its last ones, are classes
    second: tuple[Any, ...] = ()  # positional arguments after the first, the same in every call
    # The positional arguments and the defaults, where the function has others than its kind.
    data: Sequence[str] | None = None
    defaults: Mapping[str, Any] = {}
    # Values: with each of these arguments, the function is the formula.
    calls: Sequence[Mapping[str, Any]] = ({},)  # a function in them is of the number of classes
    formula: str | Callable[..., Any] = ""  # in reference.py, where its name is not the function's
    call: Call = getattr  # the function of a library, or of reference, and of a name
    one_class: bool = True  # whether a loss takes one logit
    hard_labels: bool = False  # whether a loss thresholds its labels, or has none but ids
    tested: str = ""  # the test that has its values, where no formula can: "file::test"
    # Whether docs/examples trains with the loss, and draws it.
    in_examples: bool = True


class Case(NamedTuple):
    """A public function with inputs, in one of its variants."""

    public: str  # its name in jaxseg
    kind: str
    make: Make
    variant: str
    options: Mapping[str, Any]
    bounds: tuple[float, float]
    class_axes: int
    second: tuple[Any, ...]

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


# ---------------------------------------------------------------------------------- inputs


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


def a_skeleton_counts(rng: np.random.Generator) -> tuple[jaxseg.SkeletonCounts]:
    return (jaxseg.SkeletonCounts(*(integers(rng, CLASSES) for _ in range(4))),)


def a_surface(rng: np.random.Generator) -> tuple[jaxseg.SurfaceDistances]:
    """Distances of surfaces of up to 14 elements, two images of which have none or one surface."""
    distances = rng.integers(0, 40, (2, *MAP[:1], 14)).astype(np.float32) / 4
    held = rng.random((2, *MAP[:1], 14)) < 0.7
    held[:, 0] = held[0, 1] = False
    distances[1, 1] = np.inf
    return (jaxseg.SurfaceDistances(*distances, *held),)


def counts_of_an_absent_class(rng: np.random.Generator) -> tuple[jaxseg.Counts]:
    """Counts of images in which the last class never occurs, and another one in a few."""
    tp, fp, fn, tn = (integers(rng, CLASSES) for _ in range(4))
    occurs = np.array([[1, image % 3 == 0, 0] for image in range(MAP[0])], np.int32)
    return (jaxseg.Counts(tp * occurs, fp, fn * occurs, tn),)


def a_matrix(rng: np.random.Generator) -> tuple[np.ndarray]:
    return (integers(rng, CLASSES, CLASSES),)


def a_moments(rng: np.random.Generator) -> tuple[jaxseg.Moments]:
    """Moments of small integers, which half precision and uint8 hold."""
    values = rng.integers(0, 4, (9, *MAP[:1], CLASSES))
    total, squares = values.sum(0), (values**2).sum(0)
    count, excluded = np.full_like(total, 9, np.int32), np.ones_like(total, np.int32)
    return (jaxseg.Moments(count, total.astype(np.float32), squares.astype(np.float32), excluded),)


# Floats [..., C] with labels.
SOFTMAX_IDS = ("softmax-ids", lambda rng: (logits(rng), ids(rng)), {"activation": "softmax"})
SIGMOID_IDS = ("sigmoid-ids", lambda rng: (logits(rng, 1), ids(rng, 2)), {"activation": "sigmoid"})
SIGMOID_DENSE = ("sigmoid-dense", lambda rng: (logits(rng), masks(rng)), {"activation": "sigmoid"})
PROBS_DENSE = ("probs-dense", lambda rng: (shares(rng), shares(rng)), {"activation": None})


def also(variant: Variant, name: str = "", **options: Any) -> Variant:
    """The same inputs, with further arguments."""
    first, make, given = variant
    return f"{first}-{name}" if name else first, make, {**given, **options}


SQUARED = also(SOFTMAX_IDS, "squared", overlap="squared")
MINIMUM = also(PROBS_DENSE, "minimum", overlap="minimum")
WEIGHTS = np.array([1, 2, 4], np.float32)
SETS = np.array([[True, False, True], [False, True, False]])
COSTS = [[0.0, 1.0, 3.0], [2.0, 0.0, 1.0], [5.0, 1.0, 0.0]]
DISTANCES = np.array([[0, 1, 1], [1, 0, 0.3], [1, 0.3, 0]], np.float32)

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
    """A loss of logits that are wrong in whole regions, so that erosions leave some of them.

    Of one class, in all pixels; of several, in those that are not of the first.
    """
    loss = getattr(library, name)

    @wraps(loss)
    def mistaken(x: Any, labels: Any, **options: Any) -> Any:
        if x.shape[-1] == 1:
            truth = labels if labels.ndim == x.ndim else labels[..., None]
            return loss(x + 6.0 - 12.0 * (truth == 1).astype(float), labels, **options)
        first = np.zeros((1,) * (x.ndim - 1) + x.shape[-1:])
        first[..., 0] = 6.0
        return loss(x + first, labels, **options)

    return mistaken


def of_running(library: Any, name: str) -> Callable[..., Any]:
    """What goes into a running sum comes out."""
    if library is reference:
        return lambda statistic: statistic
    return lambda statistic: library.total(library.running(statistic))


# ---------------------------------------------------------------------------------- rows


def region(*variants: Variant, high: float = 1, **row: Any) -> Row:
    return Row("region", variants, (0, high), **row)


def compound(*variants: Variant, **row: Any) -> Row:
    return Row("compound", variants, (0, np.inf), class_axes=0, **row)


def loss(
    kind: str,
    variant: Variant = SOFTMAX_IDS,
    high: float = np.inf,
    *,
    low: float = 0,
    options: Mapping[str, Any] = {},
    **row: Any,
) -> Row:
    """A pixel, ordered or spatial loss; of a spatial one, the last two axes are the image."""
    if kind == "spatial":
        options = {"spatial_axes": (-2, -1), **options}
    return Row(kind, [also(variant, **options)], (low, high), **row)


def score(low: float = 0, high: float = 1, **row: Any) -> Row:
    return Row("counts", [("", a_counts, {})], (low, high), **row)


def matrix(low: float = 0, high: float = 1, **row: Any) -> Row:
    return Row("matrix", [("", a_matrix, {})], (low, high), class_axes=0, **row)


def other(kind: str, make: Make, /, **row: Any) -> Row:
    return Row(kind, [("", make, row.pop("options", {}))], **row)


ALPHA_BETA = {"alpha": 0.3, "beta": 0.9}
WEIGHTED_TERMS = (
    {"dice_weight": 0.7, "ce_weight": 1.5, "ce_class_weights": rising},
    {"class_weights": rising, "label_smoothing": 0.1},
)
TERMS = {"dice_weight": 1.0, "ce_weight": 1.0}
NO_WEIGHTS = {"class_weights": None, "ce_class_weights": None}
EACH_OVERLAP = ({}, {"overlap": "squared"}, {"overlap": "minimum"})
REQUIRED = Parameter.empty
SIDES = ("max", "pooled", "mean", "directed")
OF_COUNTS = [("", a_counts, {}), ("absent", counts_of_an_absent_class, {})]

TABLE = {
    # statistics
    "counts": Row(
        "hard",
        [
            ("ids", lambda rng: (ids(rng), ids(rng)), {"num_classes": CLASSES}),
            ("masks", lambda rng: (masks(rng), masks(rng)), {}),
        ],
        defaults={"num_classes": None},
        formula="hard_counts",
    ),
    "confusion_matrix": Row(
        "hard",
        [("", lambda rng: (ids(rng), ids(rng)), {"num_classes": CLASSES})],
        class_axes=2,
        defaults={"num_classes": REQUIRED},
    ),
    "soft_counts": Row(
        "soft",
        [SOFTMAX_IDS, SIGMOID_IDS, SIGMOID_DENSE, PROBS_DENSE],
        (0, np.inf),
        formula=lambda x, labels, activation: reference.soft_counts(
            *reference.pixels(x, labels, activation)
        ),
    ),
    "counts_from_confusion": other("convert", lambda rng: (integers(rng, CLASSES, CLASSES),)),
    # class weights
    "inverse_frequency": Row("class weights", OF_COUNTS),
    "effective_number": Row(
        "class weights",
        [also(OF_COUNTS[0], beta=0.9), also(OF_COUNTS[1], beta=0.0)],
        data=["counts"],
        defaults={"beta": REQUIRED},
    ),
    "median_frequency": Row("class weights", OF_COUNTS),
    # labels
    "predict_labels": Row(
        "predict",
        [
            ("softmax", lambda rng: (logits(rng),), {}),
            ("sigmoid", lambda rng: (logits(rng),), {"activation": "sigmoid"}),
            ("probs", lambda rng: (shares(rng),), {"activation": None}),
        ],
    ),
    "marginal_logits": other(
        "predict",
        lambda rng: (logits(rng),),
        options={"sets": SETS},
        defaults={"sets": REQUIRED},
        data=["logits"],
    ),
    "check_labels": other(
        "check",
        lambda rng: (ids(rng),),
        options={"num_classes": CLASSES},
        defaults={"num_classes": REQUIRED, "predictions": None},
        tested="test_labels.py::test_values_that_are_no_class_are_named",
    ),
    # moments of values per case
    "moments": other("moments", lambda rng: (logits(rng)[:, 0, 0],)),
    "mean": other("spread", a_moments),
    "std": Row(
        "spread",
        [("", a_moments, {}), ("sample", a_moments, {"ddof": 1})],
        defaults={"ddof": 0},
    ),
    # sums over steps and devices
    "running": Row(
        "running",
        [("counts", a_counts, {}), ("floats", lambda rng: (logits(rng)[:, 0, 0],), {})],
        call=of_running,
    ),
    "total": other(
        "state",
        lambda rng: (jaxseg.running(*a_counts(rng)),),
        data=["running"],
        tested="test_running.py::test_total_on_the_host_is_numpys",
    ),
    "psum": other(
        "state",
        a_counts,
        second=("b",),
        data=["state", "axis_name"],
        tested="test_running.py::test_psum_of_any_limbs_is_exact",
    ),
    "pad_batch": other(
        "state", lambda rng: (ids(rng),), second=(MAP[0] + 3,), data=["batch", "size"]
    ),
    # scores of Counts
    "dice": score(),
    "iou": score(),
    "jaccard": score(formula="iou"),
    "tversky": score(defaults={"alpha": 0.5, "beta": 0.5}, calls=[{}, ALPHA_BETA]),
    "fbeta": score(defaults={"beta": 1.0}, calls=[{}, {"beta": 0.5}, {"beta": 2.0}]),
    "precision": score(),
    "recall": score(),
    "sensitivity": score(formula="recall"),
    "specificity": score(),
    "negative_predictive_value": score(),
    "false_positive_rate": score(),
    "false_negative_rate": score(),
    "false_discovery_rate": score(),
    "false_omission_rate": score(),
    "accuracy": score(),
    "balanced_accuracy": score(),
    "informedness": score(-1),
    "markedness": score(-1),
    "matthews_correlation": score(-1),
    "fowlkes_mallows": score(),
    "positive_likelihood_ratio": score(0, np.inf),
    "negative_likelihood_ratio": score(0, np.inf),
    "prevalence_threshold": score(),
    "net_benefit": score(-1, defaults={"exchange_rate": 1.0}, calls=[{}, {"exchange_rate": 0.25}]),
    "volumetric_similarity": score(),
    "relative_volume_difference": score(-1, np.inf),
    "prevalence": score(),
    "generalized_dice": score(
        class_axes=0, defaults={"power": 2.0}, calls=[{}, {"power": 1.5}, {"power": 0.0}]
    ),
    # scores of a confusion matrix
    "pixel_accuracy": matrix(),
    "mean_class_accuracy": matrix(),
    "mean_iou": matrix(),
    "frequency_weighted_iou": matrix(),
    "cohen_kappa": matrix(
        -1,
        defaults={"weights": None},
        calls=[{}, {"weights": "linear"}, {"weights": "quadratic"}, {"weights": COSTS}],
    ),
    "multiclass_matthews_correlation": matrix(-1),
    "expected_cost": matrix(0, np.inf, defaults={"costs": None}, calls=[{}, {"costs": COSTS}]),
    "class_report": other(
        "text",
        lambda rng: (jax.tree.map(lambda x: x[0], a_counts(rng)[0]),),
        defaults={"names": None, "sort_by": None, "eps": 0.0, "zero_division": math.nan},
        tested="test_scores.py::test_class_report_text",
    ),
    "class_table": other(
        "text",
        lambda rng: (jax.tree.map(lambda x: x[0], a_counts(rng)[0]),),
        defaults={"names": None, "eps": 0.0, "zero_division": math.nan},
        tested="test_scores.py::test_class_table_is_columns_of_plain_values",
    ),
    # skeletons
    "skeleton_counts": Row(
        "skeletons",
        [
            (
                "ids",
                lambda rng: (ids(rng), ids(rng)),
                {"num_classes": CLASSES, "spatial_axes": (-2, -1)},
            ),
            ("masks", lambda rng: (masks(rng), masks(rng)), {"spatial_axes": (-2, -1)}),
        ],
        defaults={"num_classes": None, "spatial_axes": None},
    ),
    "cldice": other("topology", a_skeleton_counts),
    "topology_precision": other("topology", a_skeleton_counts),
    "topology_sensitivity": other("topology", a_skeleton_counts),
    "skeleton": Row(
        "space",
        [
            ("volume", lambda rng: (rng.random(MAP) < 0.7,), {}),
            ("plane", lambda rng: (rng.random((9, 16)) < 0.7,), {}),
        ],
    ),
    # region losses
    "dice_loss": region(
        SOFTMAX_IDS,
        SIGMOID_IDS,
        SIGMOID_DENSE,
        PROBS_DENSE,
        SQUARED,
        MINIMUM,
        defaults={"overlap": "product"},
        calls=EACH_OVERLAP,
    ),
    "iou_loss": region(
        SIGMOID_DENSE,
        SOFTMAX_IDS,
        PROBS_DENSE,
        defaults={"overlap": "product"},
        calls=EACH_OVERLAP,
    ),
    "tversky_loss": region(
        SOFTMAX_IDS,
        SIGMOID_DENSE,
        PROBS_DENSE,
        defaults={"alpha": 0.5, "beta": 0.5, "overlap": "product"},
        calls=[ALPHA_BETA, {"overlap": "minimum", "alpha": 0.2}],
    ),
    "focal_tversky_loss": region(
        SIGMOID_DENSE,
        SOFTMAX_IDS,
        PROBS_DENSE,
        defaults={"alpha": 0.3, "beta": 0.7, "gamma": 0.75, "overlap": "product"},
        calls=[{}, {**ALPHA_BETA, "gamma": 1.5, "overlap": "minimum"}],
    ),
    "log_dice_loss": region(
        SIGMOID_DENSE, high=np.inf, defaults={"gamma": 1.0}, calls=[{"gamma": 0.3}]
    ),
    "log_cosh_dice_loss": region(SOFTMAX_IDS),
    "generalized_dice_loss": region(
        SOFTMAX_IDS,
        also(PROBS_DENSE, "minimum", overlap="minimum"),
        class_axes=0,
        defaults={"power": 2.0, "overlap": "product"},
        calls=[{}, {"power": 1.0, "overlap": "minimum"}],
    ),
    "generalized_wasserstein_dice_loss": region(
        also(SOFTMAX_IDS, distances=DISTANCES),
        class_axes=0,
        defaults={"distances": REQUIRED, "weighting": "foreground"},
        calls=[{"distances": steps}, {"distances": steps, "weighting": "volume"}],
        one_class=False,
    ),
    "matthews_correlation_loss": region(SIGMOID_DENSE, high=np.inf),
    "sensitivity_specificity_loss": region(
        SIGMOID_DENSE,
        defaults={"sensitivity_weight": 0.05},
        calls=[{"sensitivity_weight": 0.3}],
    ),
    # pixel losses
    "cross_entropy_loss": loss(
        "pixel",
        class_axes=0,
        options={"class_weights": WEIGHTS, "label_smoothing": 0.1},
        defaults={"class_weights": None, "label_smoothing": 0.0},
        calls=[{"class_weights": rising_pair, "label_smoothing": 0.1}],
    ),
    "softmax_focal_loss": loss(
        "pixel",
        class_axes=0,
        defaults={"gamma": 2.0, "alpha": None},
        calls=[{"gamma": 1.5, "alpha": rising_pair}],
    ),
    "nacl_loss": loss(
        "pixel",
        class_axes=0,
        options={"spatial_axes": (-2, -1)},
        defaults={
            "weight": 0.1,
            "kernel_size": 3,
            "kernel": "uniform",
            "sigma": 1.0,
            "distance": "l1",
            "spatial_axes": None,
        },
        calls=[
            {},
            {"distance": "l2", "weight": 0.3},
            {"kernel": "gaussian", "kernel_size": 5, "sigma": 0.8},
        ],
    ),
    "top_k_loss": loss(
        "ordered",
        class_axes=0,
        options={"fraction": 0.3},
        defaults={"fraction": 0.1, "class_weights": None},
        calls=[{"fraction": 0.32}, {"fraction": 0.32, "class_weights": rising_pair}],
    ),
    "ohem_loss": loss(
        "ordered",
        class_axes=0,
        options={"min_kept": 3},
        defaults={"threshold": 0.7, "min_kept": 100_000, "class_weights": None},
        calls=[
            {"threshold": 0.6, "min_kept": 5, "class_weights": rising_pair},
            {"threshold": 0.01, "min_kept": 5},
        ],
    ),
    "lovasz_hinge_loss": loss("ordered", SIGMOID_DENSE, hard_labels=True),
    "lovasz_softmax_loss": loss(
        "ordered",
        high=1,
        class_axes=0,
        defaults={"classes": "present", "class_weights": None},
        calls=[{"class_weights": rising}, {"classes": "all"}],
        hard_labels=True,
    ),
    # boundary losses
    "boundary_loss": loss("spatial", low=-np.inf, defaults={"distances": None}, hard_labels=True),
    "hausdorff_dt_loss": loss(
        "spatial",
        defaults={"alpha": 2.0},
        calls=[{}, {"spacing": lambda n: (2.0, 1.0, 1.5), "alpha": 1.5}],
        hard_labels=True,
    ),
    "hausdorff_erosion_loss": loss(
        "spatial",
        options={"erosions": 2},
        defaults={"alpha": 2.0, "erosions": 10},
        calls=[{"erosions": 1}, {"erosions": 3}],
        call=of_thick_errors,
        hard_labels=True,
    ),
    "boundary_dou_loss": loss("spatial", SIGMOID_DENSE, high=1, hard_labels=True),
    # topology losses
    "cldice_loss": loss(
        "spatial",
        SIGMOID_IDS,
        high=1,
        options={"iterations": 2},
        defaults={"iterations": 10},
        calls=[{"iterations": 2}],
    ),
    "dice_cldice_loss": loss(
        "spatial",
        high=1,
        options={"iterations": 1},
        defaults={"cldice_weight": 0.5, "iterations": 10},
        calls=[{"iterations": 1, "cldice_weight": 0.3}],
    ),
    "skeleton_recall_loss": loss(
        "spatial",
        high=1,
        options={"iterations": 1, "radius": 1},
        defaults={"skeletons": None, "iterations": 10, "radius": 2},
        calls=[{"iterations": 2, "radius": 1}],
        hard_labels=True,
    ),
    # compound losses
    "bce_dice_loss": compound(
        SIGMOID_IDS,
        also(PROBS_DENSE, "weighted", class_weights=WEIGHTS, pos_weight=3.0),
        defaults={
            "bce_weight": 0.5,
            "dice_weight": 1.0,
            "class_weights": None,
            "pos_weight": None,
            "label_smoothing": 0.0,
            "activation": "sigmoid",
        },
        calls=[
            {"bce_weight": 0.7, "dice_weight": 1.5},
            {"class_weights": rising, "pos_weight": rising, "label_smoothing": 0.1},
        ],
    ),
    "dice_ce_loss": compound(
        also(
            SOFTMAX_IDS,
            "weighted",
            class_weights=np.array([0, 1, 3], np.float32),
            ce_class_weights=WEIGHTS,
        ),
        also(PROBS_DENSE, "weighted", label_smoothing=0.1),
        defaults={**TERMS, **NO_WEIGHTS, "label_smoothing": 0.0},
        calls=WEIGHTED_TERMS,
        one_class=False,
    ),
    "linear_dice_ce_loss": compound(
        also(SOFTMAX_IDS, "weighted", ce_class_weights=WEIGHTS),
        # A kernel in which classes can be permuted as features are.
        second=(2 * np.eye(CLASSES, dtype=np.float32), None),
        data=["features", "kernel", "bias", "labels"],
        defaults={**TERMS, **NO_WEIGHTS, "label_smoothing": 0.0},
        calls=WEIGHTED_TERMS,
        call=of_features,
        one_class=False,
        in_examples=False,  # many_classes.py is its own
    ),
    "dice_focal_loss": compound(
        SOFTMAX_IDS,
        defaults={
            "dice_weight": 1.0,
            "focal_weight": 1.0,
            "gamma": 2.0,
            "alpha": None,
            "class_weights": None,
        },
        calls=[{"gamma": 1.5, "focal_weight": 0.7, "alpha": rising_pair, "class_weights": rising}],
    ),
    "dice_top_k_loss": compound(
        SOFTMAX_IDS,
        defaults={**TERMS, "fraction": 0.1, **NO_WEIGHTS},
        calls=[
            {
                "fraction": 0.32,
                "ce_weight": 0.7,
                "class_weights": rising,
                "ce_class_weights": rising_pair,
            }
        ],
    ),
    "exponential_logarithmic_loss": compound(
        SIGMOID_IDS,
        defaults={
            "dice_weight": 0.8,
            "ce_weight": 0.2,
            "dice_gamma": 0.3,
            "ce_gamma": 0.3,
            **NO_WEIGHTS,
        },
        calls=[{"ce_class_weights": rising_pair, "class_weights": rising, "dice_gamma": 0.7}],
    ),
    "unified_focal_loss": compound(
        SIGMOID_IDS,
        also(PROBS_DENSE, "weighted", class_weights=WEIGHTS),
        defaults={
            "asymmetric": True,
            "weight": 0.5,
            "delta": 0.6,
            "gamma": 0.5,
            "class_weights": None,
            "activation": "softmax",
        },
        calls=[
            {},
            {"asymmetric": False, "gamma": 0.3, "delta": 0.7, "class_weights": rising_pair},
        ],
    ),
    "deep_supervision": other(
        "wrapper",
        lambda rng: (jaxseg.dice_ce_loss,),
        data=["loss", "weights"],
        call=of_two_resolutions,
        one_class=False,
        hard_labels=True,
    ),
    # of space
    "soft_skeleton": other(
        "space",
        lambda rng: (shares(rng),),
        options={"iterations": 2, "spatial_axes": (-2, -1)},
        data=["probs"],
        defaults={"iterations": 10},
    ),
    "border_weights": other(
        "space",
        lambda rng: (ids(rng),),
        data=["instances"],
        defaults={"border_weight": 10.0, "sigma": 5.0},
    ),
    "distance_transform": other("space", lambda rng: (ids(rng) == 0,)),
    "signed_distance": other("space", lambda rng: (ids(rng) == 0,)),
    "centre_distance": other(
        "space", lambda rng: (ids(rng) == 0, ids(rng) == 1), data=["predictions", "labels"]
    ),
    # surfaces
    "edges": other("space", lambda rng: (ids(rng) == 0,)),
    "surface_distances": other(
        "surfaces",
        lambda rng: (ids(rng) == 0, ids(rng) == 1),
        defaults={"num_classes": None, "spacing": 1.0, "element_areas": False},
        tested="test_surface.py::test_distances_are_those_of_scipy",
    ),
    "hausdorff_distance": Row(
        "surface",
        [("", a_surface, {})],
        class_axes=0,
        defaults={"percentile": 100.0, "method": "max"},
        calls=[{"percentile": q, "method": m} for q in (95, 100) for m in SIDES],
    ),
    "average_surface_distance": Row(
        "surface",
        [("", a_surface, {})],
        class_axes=0,
        defaults={"method": "pooled"},
        calls=[{"method": m} for m in SIDES[1:]],
    ),
    "surface_dice": Row(
        "surface",
        [("", a_surface, {"tolerance": 2.0})],
        (0, 1),
        class_axes=0,
        defaults={"tolerance": REQUIRED, "method": "pooled"},
        calls=[{}, {"method": "mean"}],
    ),
    "boundary_f_score": Row(
        "surface",
        [("", a_surface, {"tolerance": 2.0})],
        (0, 1),
        class_axes=0,
        defaults={"tolerance": REQUIRED},
    ),
    "boundary_iou": other(
        "surfaces",
        lambda rng: (ids(rng) == 0, ids(rng) == 1),
        options={"method": "distance", "width": 1.0},
        defaults={"num_classes": None, "method": "erosion", "width": None, "spacing": 1.0},
        tested="test_surface.py::test_boundary_iou_is_that_of_the_bands",
    ),
}


# Losses that take logits of one kind, or probabilities.
ONE_ACTIVATION = ("bce_dice_loss", "unified_focal_loss")


def accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a function takes."""
    parameters = signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(arguments)
    given = {k: v for k, v in arguments.items() if k in parameters}
    if function.__name__ in ONE_ACTIVATION and given.get("activation") is not None:
        del given["activation"]
    return given


CASES = [
    Case(
        public,
        row.kind,
        make,
        variant,
        accepted(getattr(jaxseg, public), options),
        row.bounds,
        row.class_axes,
        row.second,
    )
    for public, row in TABLE.items()
    for variant, make, options in row.variants
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


def cases(*kinds: str) -> list[Case]:
    return [case for case in CASES if case.kind in kinds]


def one_of_each(chosen: list[Case]) -> list[Case]:
    """The first variant of each function, for laws that compile much."""
    return list({case.public: case for case in reversed(chosen)}.values())[::-1]
