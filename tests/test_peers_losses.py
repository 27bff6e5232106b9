"""jaxseg's losses beside others': the numbers recorded in ``golden/peers_losses.json``.

Most of what agrees stands in the tables of ``docs/from-pytorch.md``, which are read here: the left
cell is a recorded call, and the expression in the right cell must give its value. ``AGREE`` has the
rest, gradients among it. ``DIFFER`` has what does not agree: jaxseg must give the value of the
formula, computed here in NumPy, and the recorded number must be another one. ``golden/README.md``
has the key to the faults' numbers (``t18_...``).
"""

import functools
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import jaxseg

ROOT = pathlib.Path(__file__).parents[1]
PEERS = json.loads((ROOT / "tests/golden/peers_losses.json").read_text())
X = {
    name: jnp.asarray(array)
    for name, array in np.load(ROOT / "tests/golden/losses_inputs.npz").items()
}
IMAGE = (1, 2)
RTOL = 2e-5
WEIGHTS = X["class_weights"]
LOGITS, LABELS = X["logits"], X["labels"]
MASK_LOGITS, MASKS = X["mask_logits"], X["masks"]


def golden(peer: str, name: str) -> np.ndarray:
    return np.asarray(PEERS[peer]["cases"][name]["value"], np.float64)


# The page


PAGE_NAMES = {
    **X,
    "probs": jax.nn.softmax(LOGITS),
    "soft_masks": jax.nn.sigmoid(MASK_LOGITS[::-1]),
    "soft_labels": jax.nn.softmax(LOGITS[::-1]),
    "mask_probs": jax.nn.sigmoid(MASK_LOGITS),
}
PAGE_TEXT = (ROOT / "docs/from-pytorch.md").read_text()
for block in re.findall(r"```python\n(.*?)```", PAGE_TEXT, flags=re.DOTALL):
    exec(block, PAGE_NAMES)  # the imports and what the tables use
SECTIONS = {
    "MONAI": ["monai"],
    "segmentation_models.pytorch": ["smp"],
    "nnU-Net": ["nnunet"],
    "PyTorch": ["torch"],
    "Code of papers": [
        "lovasz",
        "cldice",
        "boundary",
        "boundary_dou",
        "hausdorff",
        "skeleton_recall",
        "odyssey",
    ],
}


def page_rows() -> list[tuple[str, str, str]]:
    """Peer, recorded call and jaxseg's expression of each row of code in the page's tables."""
    rows = []
    for section in PAGE_TEXT.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        for call, ours in re.findall(r"^\| `(.*)` \| `(.*)` \|$", section, flags=re.MULTILINE):
            if title in SECTIONS:  # the other tables have rules
                [peer] = [p for p in SECTIONS[title] if call in PEERS[p]["cases"]]
                rows.append((peer, call, ours))
    return rows


PAGE = page_rows()


@pytest.mark.parametrize("row", PAGE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_page_gives_the_number_of_the_peer(row):
    peer, call, ours = row
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as for users
        actual = eval(ours, dict(PAGE_NAMES))
    assert jnp.shape(actual) == ()
    np.testing.assert_allclose(actual, golden(peer, call), rtol=RTOL, atol=1e-6)


# What agrees and is not on the page


def gradient(loss: Callable, values: Any) -> np.ndarray:
    """The loss, summed, and the sum of absolute values of its gradient."""
    value, gradient = jax.value_and_grad(lambda x: loss(x).sum())(jnp.asarray(values))
    return np.stack([value, jnp.abs(gradient).sum()]).astype(np.float64)


def mean(loss: Callable, labels: Any, **kwargs: Any) -> Callable:
    return lambda values: loss(values, labels, **kwargs).mean()


AGREE: list[tuple[str, str, Callable[[], Any]]] = [
    ("monai", "focal_loss_none", lambda: jaxseg.softmax_focal_loss(LOGITS, LABELS)),
    (
        "monai",
        "asymmetric_focal_loss",
        lambda: (
            jaxseg.unified_focal_loss(MASK_LOGITS, MASKS, weight=1.0, delta=0.7, axis=IMAGE) / 2
        ),
    ),
    (
        "monai",
        "asymmetric_focal_tversky_loss",
        lambda: jaxseg.unified_focal_loss(
            MASK_LOGITS, MASKS, weight=0.0, delta=0.7, smooth=1e-7, axis=IMAGE
        ),
    ),
    (
        "monai",
        "gradient_squared_dice",
        lambda: gradient(
            mean(jaxseg.dice_loss, LABELS, overlap="squared", axis=IMAGE, smooth=1e-5), LOGITS
        ),
    ),
    (
        "monai",
        "gradient_generalized_dice",
        lambda: gradient(
            mean(jaxseg.generalized_dice_loss, LABELS, axis=IMAGE, smooth=0.0), LOGITS
        ),
    ),
    (
        "monai",
        "gradient_generalized_wasserstein_dice",
        lambda: gradient(
            mean(
                jaxseg.generalized_wasserstein_dice_loss,
                LABELS,
                distances=X["distances"],
                axis=IMAGE,
                smooth=1e-5,
            ),
            LOGITS,
        ),
    ),
    (
        "monai",
        "gradient_matthews",
        lambda: gradient(
            mean(jaxseg.matthews_correlation_loss, LABELS, axis=IMAGE, smooth=0.0), LOGITS
        ),
    ),
    (
        "monai",
        "gradient_focal",
        lambda: gradient(mean(jaxseg.softmax_focal_loss, LABELS), LOGITS) / 4,
    ),
    ("monai", "gradient_nacl", lambda: gradient(mean(jaxseg.nacl_loss, LABELS), LOGITS)),
    (
        "monai",
        "gradient_boundary",
        lambda: gradient(
            lambda x: (
                jaxseg.boundary_loss(x, LABELS)
                + jaxseg.soft_counts(x, LABELS, activation="softmax").tp / LABELS.size
            ).mean(),
            LOGITS,
        ),
    ),
    (
        "monai",
        "gradient_hausdorff_dt",
        lambda: gradient(lambda x: jaxseg.hausdorff_dt_loss(x, LABELS)[1:].mean(), LOGITS),
    ),
    (
        "monai",
        "gradient_cldice",
        lambda: gradient(
            mean(jaxseg.cldice_loss, MASKS, activation="sigmoid", iterations=3, axis=IMAGE),
            MASK_LOGITS,
        ),
    ),
    (
        "monai",
        "gradient_unified_focal",
        lambda: (
            0.75
            * gradient(
                mean(
                    jaxseg.unified_focal_loss,
                    MASKS,
                    weight=1 / 3,
                    delta=0.7,
                    smooth=1e-7,
                    axis=IMAGE,
                ),
                MASK_LOGITS,
            )
        ),
    ),
    (
        "smp",
        "gradient_lovasz_hinge",
        lambda: gradient(mean(jaxseg.lovasz_hinge_loss, MASKS), MASK_LOGITS),
    ),
    (
        "smp",
        "gradient_lovasz_softmax",
        lambda: gradient(mean(jaxseg.lovasz_softmax_loss, LABELS), LOGITS),
    ),
    (
        "smp",
        "gradient_matthews",
        lambda: gradient(
            mean(jaxseg.matthews_correlation_loss, MASKS, activation=None, smooth=0.0),
            jax.nn.sigmoid(MASK_LOGITS),
        ),
    ),
    (
        "smp",
        "gradient_log_dice",
        lambda: gradient(mean(jaxseg.log_dice_loss, LABELS, smooth=0.0), LOGITS),
    ),
    (
        "smp",
        "lovasz_hinge_ignore_index",
        lambda: jaxseg.lovasz_hinge_loss(MASK_LOGITS, X["masks_with_void"], where=X["valid_masks"])[
            0
        ],
    ),
    (
        "smp",
        "cross_entropy_none",
        lambda: jaxseg.cross_entropy_loss(LOGITS, LABELS, label_smoothing=0.1),
    ),
    (
        "torch",
        "cross_entropy_none",
        lambda: jaxseg.cross_entropy_loss(
            LOGITS, LABELS, class_weights=WEIGHTS, label_smoothing=0.1
        ),
    ),
    (
        "torch",
        "cross_entropy_none_ignore_index",
        lambda: jaxseg.cross_entropy_loss(
            LOGITS,
            X["labels_with_void"],
            class_weights=WEIGHTS,
            label_smoothing=0.1,
            where=X["valid"],
        ),
    ),
    ("nnunet", "gradient_top_k", lambda: gradient(mean(jaxseg.top_k_loss, LABELS), LOGITS)),
    (
        "lovasz",
        "lovasz_softmax_absent_class",
        lambda: jaxseg.lovasz_softmax_loss(LOGITS, X["labels_without_3"]),
    ),
    (
        "cldice",
        "gradient_cldice",
        lambda: gradient(
            mean(jaxseg.cldice_loss, MASKS, activation=None), jax.nn.sigmoid(MASK_LOGITS)
        ),
    ),
    (
        "boundary_dou",
        "gradient_boundary_dou",
        lambda: gradient(mean(jaxseg.boundary_dou_loss, LABELS, smooth=1e-5), LOGITS),
    ),
]


@pytest.mark.parametrize("row", AGREE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_peer_gives_the_same_number(row):
    peer, name, ours = row
    expected = golden(peer, name)
    actual = np.asarray(ours())
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, rtol=RTOL, atol=1e-6, err_msg=PEERS[peer]["cases"][name]["call"]
    )


# Formulas in NumPy, for what differs


def softmax(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


PROBS, TRUTH = softmax(LOGITS), np.eye(4)[LABELS]
NO_3 = np.eye(4)[X["labels_without_3"]]
VALID = np.asarray(X["valid"])
NLL = -np.log((PROBS * TRUTH).sum(-1))
MASK_TRUTH = np.asarray(MASKS, np.float64)[..., None]
MASK_PROBS = 1 / (1 + np.exp(-np.asarray(MASK_LOGITS, np.float64)))
EMPTY = np.zeros((1, 4, 4), np.int32)
NINE_TENTHS = np.full((1, 4, 4, 1), 0.9, np.float32)
SURE = np.float32([[[[100, -100], [-100, 100]]]])
SURE_LABELS = np.int32([[[0, 1]]])
SQUARE_OF_11 = np.zeros((1, 15, 15, 1))
SQUARE_OF_11[:, 2:13, 2:13] = 1


def dice_formula(p: np.ndarray, g: np.ndarray, axis: Any, smooth: float = 0.0) -> np.ndarray:
    total = p.sum(axis) + g.sum(axis) + smooth
    return 1 - (2 * (p * g).sum(axis) + smooth) / total


def generalized_dice_formula(p: np.ndarray, g: np.ndarray, smooth: float) -> np.ndarray:
    """Per image; all classes present."""
    size = g.sum(IMAGE)
    weight = (size.min(-1, keepdims=True) / size) ** 2
    overlap = (weight * (p * g).sum(IMAGE)).sum(-1)
    return 1 - (2 * overlap + smooth) / ((weight * (p.sum(IMAGE) + size)).sum(-1) + smooth)


def wasserstein_volume_formula(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Per image; all classes present."""
    distances = np.asarray(X["distances"], np.float64)
    errors = np.einsum("bhwl,lc,bhwc->bhw", g, distances / distances.max(), p)
    weight = ((1 / g.sum(IMAGE))[:, None, None] * g).sum(-1)
    overlap = (weight * (1 - errors)).sum(IMAGE)
    return 1 - 2 * overlap / (weight * (2 - errors)).sum(IMAGE)


def unified_focal_formula(p: np.ndarray, g: np.ndarray, smooth: float) -> float:
    """Of the defaults: weight 0.5, delta 0.6, gamma 0.5; per image."""
    tp, fp, fn = (x.sum(IMAGE) for x in (p * g, p * (1 - g), (1 - p) * g))
    error = 1 - (tp + smooth) / (tp + 0.6 * fn + 0.4 * fp + smooth)
    region = np.concatenate([error[:, :1], error[:, 1:] ** 0.5], -1).mean()
    pixel = -0.6 * g * np.log(p)
    pixel[..., 0] *= 0.4 / 0.6 * (1 - p[..., 0]) ** 0.5
    return (region + pixel.sum(-1).mean()) / 2


def skeleton_formula(x: np.ndarray, iterations: int) -> np.ndarray:
    """Of maps [B, H, W, 1]."""

    def erode(x):
        sizes = ((1, 3, 1, 1), (1, 1, 3, 1))
        return np.minimum(*(ndimage.minimum_filter(x, size, mode="nearest") for size in sizes))

    skeleton = 0.0
    for _ in range(iterations + 1):
        opened = ndimage.maximum_filter(erode(x), (1, 3, 3, 1), mode="nearest")
        delta = np.maximum(x - opened, 0)
        skeleton = skeleton + np.maximum(delta - skeleton * delta, 0)
        x = erode(x)
    return skeleton


def cldice_formula(p: np.ndarray, g: np.ndarray, iterations: int) -> float:
    """Of the batch, smooth 1."""
    predicted, true = (skeleton_formula(x, iterations) for x in (p, g))
    precision = ((predicted * g).sum() + 1) / (predicted.sum() + 1)
    sensitivity = ((true * p).sum() + 1) / (true.sum() + 1)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def erosion_formula(p: np.ndarray, g: np.ndarray, erosions: int = 10, alpha: float = 2.0) -> float:
    """Of one image and class, [*space]."""
    cross = ndimage.generate_binary_structure(p.ndim, 1)
    error, total = (p - g) ** 2, 0.0
    for k in range(erosions):
        error = ndimage.convolve(error, cross / cross.sum(), mode="constant") - 0.5
        error = np.maximum(error, 0)
        if np.ptp(error):
            error = (error - error.min()) / np.ptp(error)
        total = total + (k + 1) ** alpha * error
    return total.mean()


def lovasz_formula(p: np.ndarray, g: np.ndarray) -> float:
    """The Lovász extension of the Jaccard loss of one class."""
    error, g = abs(p - g).ravel(), g.ravel()
    order = np.argsort(-error)
    g = g[order]
    jaccard = 1 - (g.sum() - g.cumsum()) / (g.sum() + (1 - g).cumsum())
    return error[order] @ np.diff(jaccard, prepend=0)


def boundary_dou_formula(p: np.ndarray, g: np.ndarray, smooth: float = 1.0) -> np.ndarray:
    losses = []
    for c in range(p.shape[-1]):
        inner = [ndimage.binary_erosion(image) for image in g[..., c] > 0]
        overlap, size = (p[..., c] * g[..., c]).sum(), g[..., c].sum()
        edge = size - np.sum(inner)
        alpha = min(2 * (1 - (edge + smooth) / (size + smooth)) - 1, 0.8)
        total = (p[..., c] ** 2).sum() + size - (1 + alpha) * overlap + smooth
        losses.append(1 - ((1 - alpha) * overlap + smooth) / total)
    return np.array(losses)


# What differs


class Difference(NamedTuple):
    peer: str
    name: str  # of the recorded case: the fault's number, then what it is
    ours: Callable[[], Any]
    formula: Any  # the right value


def of_nine_tenths(loss: Callable, **kwargs: Any) -> Callable[[], np.ndarray]:
    """The loss where 0.9 is predicted everywhere and the mask is empty, and its gradient."""
    return lambda: gradient(lambda p: loss(p, EMPTY, activation=None, **kwargs), NINE_TENTHS)


def empty_pair() -> np.ndarray:
    loss = functools.partial(jaxseg.generalized_dice_loss, activation=None, smooth=0.0)
    return gradient(lambda p: loss(p, EMPTY), 0 * NINE_TENTHS)[0]


def cldice(iterations: int, p: Any = MASK_PROBS, g: Any = MASK_TRUTH) -> jax.Array:
    loss = jaxseg.cldice_loss
    return loss(jnp.float32(p), jnp.float32(g), activation=None, iterations=iterations)[0]


def all_void(loss: Callable, **kwargs: Any) -> Callable[[], np.ndarray]:
    void, where = jnp.full_like(LABELS, 255), jnp.zeros(LABELS.shape, bool)
    return lambda: gradient(lambda x: loss(x, void, where=where, **kwargs), LOGITS)


def matthews_of_nine_tenths() -> np.ndarray:
    """Value and gradient of 1 - MCC of (tp, fp, fn, tn) + (1, 0, 0, 1), by small differences."""

    def loss(p):
        fp, tn = 16 * p, 16 * (1 - p) + 1
        return 1 - tn / np.sqrt((1 + fp) * (tn + fp) * tn)

    return np.array([loss(0.9), abs(loss(0.9 + 1e-6) - loss(0.9 - 1e-6)) / 2e-6])


def log_dice_of_the_opposite() -> np.ndarray:
    """Value and gradient of log_dice_loss where the prediction is 1 - g."""
    size, total = MASK_TRUTH.sum(), MASK_TRUTH.size + 1.0
    on_mask = 2 - 1 / total  # of -log((2tp + 1) / (P + G + 1)), at tp = 0
    return np.array([np.log(total), size * on_mask + (MASK_TRUTH.size - size) / total])


DIFFER: list[Difference] = [
    # its weights of 1 / (G + 1) are not 1 / G
    Difference(
        "monai",
        "generalized_wasserstein_dice_volume",
        lambda: jaxseg.generalized_wasserstein_dice_loss(
            LOGITS,
            LABELS,
            distances=X["distances"],
            weighting="volume",
            axis=IMAGE,
            smooth=0.0,
        ).mean(),
        wasserstein_volume_formula(PROBS, TRUTH).mean(),
    ),
    Difference(
        "monai",
        "focal_softmax_without_background",  # the softmax is taken after class 0 is left out
        lambda: jaxseg.softmax_focal_loss(LOGITS, LABELS, alpha=jnp.float32([0, 1, 1, 1])).mean(),
        (NLL * (1 - np.exp(-NLL)) ** 2 * (np.asarray(LABELS) > 0)).mean(),
    ),
    Difference(
        "monai",
        "unified_focal_third_class",  # classes 2 and 3 cost nothing
        lambda: jaxseg.unified_focal_loss(LOGITS, LABELS, axis=IMAGE),
        unified_focal_formula(PROBS, TRUTH, 1.0),
    ),
    Difference("monai", "t3_generalized_dice_empty", empty_pair, 0.0),
    Difference(
        "monai",
        "t5_generalized_dice_empty_target",
        of_nine_tenths(jaxseg.generalized_dice_loss),
        [1 - 1 / 15.4, 16 / 15.4**2],
    ),
    *(
        Difference(
            peer,
            "t5_matthews_empty_target",
            of_nine_tenths(jaxseg.matthews_correlation_loss),
            matthews_of_nine_tenths(),
        )
        for peer in ("monai", "smp")
    ),
    Difference(
        "monai", "t5_boundary_empty_target", of_nine_tenths(jaxseg.boundary_loss), [0.9, 1.0]
    ),
    Difference(
        "monai",
        "t5_hausdorff_dt_empty_target",
        of_nine_tenths(jaxseg.hausdorff_dt_loss),
        [0.81, 1.8],
    ),
    Difference(
        "monai",
        "t11_focal_saturated",
        lambda: gradient(mean(jaxseg.softmax_focal_loss, SURE_LABELS, gamma=0.5), SURE),
        [0.0, 0.0],
    ),
    Difference(
        "smp",
        "t11_focal_saturated",
        lambda: gradient(mean(jaxseg.softmax_focal_loss, SURE_LABELS, gamma=0.5), SURE),
        [0.0, 0.0],
    ),
    Difference(
        "monai",
        "t18_generalized_dice_of_a_missed_object",
        lambda: jaxseg.generalized_dice_loss(
            jnp.zeros((1024, 1024, 1)),
            jnp.ones((1024, 1024), jnp.int32),
            activation=None,
            smooth=1e-5,
        ),
        1.0,
    ),
    Difference(
        "monai",
        "t18_generalized_dice_smooth_1",
        lambda: jaxseg.generalized_dice_loss(LOGITS, LABELS, axis=IMAGE).mean(),
        generalized_dice_formula(PROBS, TRUTH, 1.0).mean(),
    ),
    Difference(
        "monai",
        "t22_focal_unused_ignore_index",
        lambda: (
            np.stack(
                [
                    jaxseg.softmax_focal_loss(LOGITS, LABELS).mean(),
                    jaxseg.softmax_focal_loss(LOGITS, LABELS, where=LABELS != 255).mean(),
                ]
            )
            / 4
        ),
        np.repeat((NLL * (1 - np.exp(-NLL)) ** 2).mean() / 4, 2),
    ),
    Difference(
        "monai",
        "t25_ignored_nan",
        lambda: jaxseg.dice_loss(
            jnp.where(X["valid"][..., None], LOGITS, jnp.nan),
            X["labels_with_void"],
            where=X["valid"],
            axis=IMAGE,
        ).mean(),
        dice_formula(PROBS * VALID[..., None], TRUTH * VALID[..., None], IMAGE, 1.0).mean(),
    ),
    Difference(
        "monai",
        "t29_cldice_of_a_perfect_mask",
        lambda: cldice(3, MASK_TRUTH, MASK_TRUTH),
        0.0,
    ),
    Difference(
        "monai",
        "t29_cldice_few_iterations",  # 3 do not reach the middle of a square of 11: no skeleton
        lambda: np.stack([cldice(5, 0.9 * SQUARE_OF_11, SQUARE_OF_11)] * 2),
        np.repeat(cldice_formula(0.9 * SQUARE_OF_11, SQUARE_OF_11, 5), 2),
    ),
    Difference(
        "monai",
        "t31_dice_of_its_own_target",
        lambda: jaxseg.dice_loss(
            jnp.float32(PROBS), jnp.float32(PROBS), activation=None, overlap="minimum"
        ).mean(),
        0.0,
    ),
    Difference(
        "monai",
        "t32_unified_focal_of_logits",  # its documentation asks for logits; it takes no sigmoid
        lambda: jaxseg.unified_focal_loss(MASK_LOGITS, MASKS, axis=IMAGE, smooth=1e-7),
        unified_focal_formula(
            np.concatenate([1 - MASK_PROBS, MASK_PROBS], -1),
            np.concatenate([1 - MASK_TRUTH, MASK_TRUTH], -1),
            1e-7,
        ),
    ),
    Difference(
        "smp",
        "t5_absent_class",
        lambda: jaxseg.dice_loss(LOGITS, X["labels_without_3"], smooth=0.0).mean(),
        dice_formula(PROBS, NO_3, (0, 1, 2)).mean(),
    ),
    Difference(
        "smp",
        "t13_tversky_gamma_of_a_perfect_map",
        lambda: gradient(mean(jaxseg.focal_tversky_loss, SURE_LABELS), SURE),
        [0.0, 0.0],
    ),
    Difference(
        "smp",
        "t14_log_dice_without_overlap",
        lambda: gradient(lambda p: jaxseg.log_dice_loss(p, MASKS, activation=None), 1 - MASK_TRUTH),
        log_dice_of_the_opposite(),
    ),
    Difference(
        "smp",
        "t23_cross_entropy_ignore_index",
        lambda: jaxseg.cross_entropy_loss(LOGITS, X["labels_with_void"], where=X["valid"]).mean(
            where=X["valid"]
        ),
        NLL[VALID].mean(),
    ),
    Difference("smp", "t24_focal_all_ignored", all_void(jaxseg.softmax_focal_loss), [0.0, 0.0]),
    Difference("smp", "t24_lovasz_all_ignored", all_void(jaxseg.lovasz_softmax_loss), [0.0, 0.0]),
    Difference("lovasz", "t24_all_ignored", all_void(jaxseg.lovasz_softmax_loss), [0.0, 0.0]),
    Difference(
        "smp",
        "t34_cross_entropy_default",
        lambda: jaxseg.cross_entropy_loss(LOGITS, LABELS),
        NLL,
    ),
    Difference(
        "nnunet",
        "top_k_counts_ignored_pixels",
        lambda: jaxseg.top_k_loss(LOGITS, X["labels_with_void"], where=X["valid"]),
        np.sort(NLL[VALID])[-int(VALID.sum() / 10) :].mean(),
    ),
    Difference(
        "nnunet",
        "top_k_of_few_pixels",  # 10 % of 8 pixels is none
        lambda: jaxseg.top_k_loss(LOGITS[:1, :2, :4], LABELS[:1, :2, :4]),
        NLL[:1, :2, :4].max(),
    ),
    Difference(
        "lovasz",
        "t26_present_in_another_string",
        lambda: jaxseg.lovasz_softmax_loss(
            LOGITS, X["labels_without_3"], classes="".join(["pre", "sent"])
        ),
        np.mean([lovasz_formula(PROBS[..., c], NO_3[..., c]) for c in range(3)]),
    ),
    Difference(
        "lovasz",
        "t28_transposed",
        lambda: jaxseg.lovasz_hinge_loss(MASK_LOGITS.swapaxes(1, 2), MASKS.swapaxes(1, 2)),
        golden("lovasz", "lovasz_hinge(mask_logits[:, 0], masks, per_image=False)")[None],
    ),
    Difference(
        "cldice",
        "t29_iterations_not_used",
        lambda: np.stack([cldice(0), cldice(10)]),
        [cldice_formula(MASK_PROBS, MASK_TRUTH, n) for n in (0, 10)],
    ),
    Difference(
        "boundary",
        "t5_absent_class",
        lambda: jaxseg.boundary_loss(LOGITS, X["labels_without_3"])[3],
        PROBS[..., 3].mean(),
    ),
    Difference(
        "boundary_dou",
        "boundary_dou_of_a_perfect_map",
        lambda: jaxseg.boundary_dou_loss(jnp.float32(100 * NO_3), X["labels_without_3"]).mean(),
        boundary_dou_formula(softmax(100 * NO_3), NO_3).mean(),
    ),
    Difference(
        "hausdorff",
        "erosion_in_two_of_three_dimensions",
        lambda: jaxseg.hausdorff_erosion_loss(
            X["wrong_volume_logits"], X["volume_masks"], activation="sigmoid"
        )[0],
        erosion_formula(
            1 / (1 + np.exp(-np.asarray(X["wrong_volume_logits"][0, ..., 0], np.float64))),
            np.asarray(X["volume_masks"][0]),
        ),
    ),
    Difference(
        "odyssey",
        "exponential_logarithmic",  # the log of the mean, and the cross-entropy without its power
        lambda: jaxseg.exponential_logarithmic_loss(
            LOGITS, LABELS, ce_class_weights=WEIGHTS, axis=IMAGE
        ),
        0.8 * ((-np.log(1 - dice_formula(PROBS, TRUTH, IMAGE, 1.0))) ** 0.3).mean()
        + 0.2 * (np.asarray(WEIGHTS)[LABELS] * NLL**0.3).mean(),
    ),
]


@pytest.mark.parametrize("row", DIFFER, ids=lambda row: f"{row[0]}-{row[1]}")
def test_peer_gives_another_number_than_the_formula(row):
    formula = np.asarray(row.formula, np.float64)
    actual = np.asarray(row.ours())
    assert actual.shape == formula.shape
    np.testing.assert_allclose(actual, formula, rtol=RTOL, atol=1e-6)
    recorded = PEERS[row.peer]["cases"][row.name]["value"]
    try:
        recorded = np.asarray(recorded, np.float64)
    except ValueError:
        assert recorded.endswith("Error")  # the peer raises
        return
    if recorded.size:  # or it gives an empty array where a number is due
        recorded, formula = np.broadcast_arrays(recorded, formula)
        assert not np.allclose(recorded, formula, rtol=1e-3, atol=1e-6, equal_nan=True)


def test_every_recorded_number_is_compared():
    compared = [(row[0], row[1]) for row in [*PAGE, *AGREE, *DIFFER]]
    recorded = [(peer, name) for peer, library in PEERS.items() for name in library["cases"]]
    assert sorted(compared) == sorted(recorded)
