"""jaxseg beside other libraries: the numbers recorded in ``golden/peers.json``, and Optax's live.

``AGREE`` holds what comes out the same, and with which arguments. ``DIFFER`` holds what does not:
jaxseg must give the value of the formula, computed here in NumPy, and the recorded number must be
another one. ``golden/README.md`` has the key to the faults' numbers (``t20_...``).
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
import optax
import pytest

import jaxseg
from jaxseg import Counts

GOLDEN = pathlib.Path(__file__).parent / "golden"
PEERS = json.loads((GOLDEN / "peers.json").read_text())
X = dict(np.load(GOLDEN / "inputs.npz"))
IMAGE = (1, 2)
WEIGHTS = X["class_weights"]
RTOL = 1e-5


def golden(peer: str, name: str) -> np.ndarray:
    return np.asarray(PEERS[peer]["cases"][name]["value"], np.float64)


def key(row: Any) -> str:
    return f"{row[0]}-{row[1]}"


# What both tables are written with: a few statistics of the inputs.


@functools.cache
def hard(
    predictions: str = "predictions", labels: str = "labels", axis: Any = None, where: Any = None
) -> Counts:
    where = None if where is None else X[where]
    return jaxseg.counts(X[predictions], X[labels], num_classes=4, axis=axis, where=where)


def masks(axis: Any = None) -> Counts:
    return jaxseg.counts(X["mask_predictions"], X["mask_labels"], num_classes=1, axis=axis)


def multi(axis: Any = None) -> Counts:
    return jaxseg.counts(X["multi_predictions"], X["multi_labels"], axis=axis)


@functools.cache
def matrix(labels: str = "labels", axis: Any = None, where: Any = None) -> jax.Array:
    where = None if where is None else X[where]
    return jaxseg.confusion_matrix(
        X["predictions"], X[labels], num_classes=4, axis=axis, where=where
    )


def micro(score: Callable, counts: Counts, **kwargs: Any) -> jax.Array:
    """The score of the counts summed over classes."""
    return score(Counts(*(x.sum(-1, keepdims=True) for x in counts)), **kwargs)[..., 0]


def loss(
    function: Callable,
    labels: str = "labels",
    axis: Any = IMAGE,
    where: Any = None,
    **kwargs: Any,
) -> jax.Array:
    where = None if where is None else X[where]
    return function(X["logits"], X[labels], axis=axis, where=where, **kwargs)


def mask_loss(function: Callable, axis: Any = IMAGE, **kwargs: Any) -> jax.Array:
    return function(X["mask_logits"], X["mask_labels"], activation="sigmoid", axis=axis, **kwargs)


def dice_ce(**kwargs: Any) -> jax.Array:
    return loss(jaxseg.dice_ce_loss, **kwargs)


def cross_entropy(**kwargs: Any) -> jax.Array:
    return dice_ce(dice_weight=0.0, **kwargs)


BCE = {"bce_weight": 1.0, "dice_weight": 0.0}


def bce_dice(**kwargs: Any) -> jax.Array:
    return jaxseg.bce_dice_loss(X["mask_logits"], X["mask_labels"], axis=IMAGE, **kwargs)


def support(counts: Counts) -> np.ndarray:
    return np.asarray(counts.tp + counts.fn)


dice_loss, iou_loss, tversky_loss = jaxseg.dice_loss, jaxseg.iou_loss, jaxseg.tversky_loss
void = {"labels": "labels_with_void", "where": "valid"}
absent = {"labels": "labels_without_3", "predictions": "predictions_without_3"}


# peer, case, jaxseg's call
AGREE: list[tuple[str, str, Callable[[], Any]]] = [
    # MONAI's losses are per image, then the mean over images and classes
    ("monai", "dice_loss_smooth_1", lambda: loss(dice_loss).mean()),
    ("monai", "dice_loss_smooth_1e-05", lambda: loss(dice_loss, smooth=1e-5).mean()),
    ("monai", "dice_loss_smooth_nr_0", lambda: loss(dice_loss, smooth=0.0, eps=1e-3).mean()),
    ("monai", "dice_loss_none", lambda: loss(dice_loss)),
    ("monai", "dice_loss_batch", lambda: loss(dice_loss, axis=None).mean()),
    ("monai", "dice_loss_foreground", lambda: loss(dice_loss)[..., 1:].mean()),
    # its Jaccard doubles the overlap but not the smooth (t19)
    ("monai", "dice_loss_jaccard", lambda: loss(iou_loss, smooth=0.5).mean()),
    ("monai", "dice_loss_ignore_index", lambda: loss(dice_loss, **void).mean()),
    ("monai", "dice_loss_absent_class", lambda: loss(dice_loss, "labels_without_3").mean()),
    (
        "monai",
        "dice_loss_volume",
        lambda: dice_loss(X["volume_logits"], X["volume_labels"], axis=(1, 2, 3)).mean(),
    ),
    ("monai", "dice_loss_sigmoid", lambda: mask_loss(dice_loss).mean()),
    ("monai", "tversky_loss_0.3_0.7", lambda: loss(tversky_loss, alpha=0.3, beta=0.7).mean()),
    ("monai", "tversky_loss_0.7_0.3", lambda: loss(tversky_loss, alpha=0.7, beta=0.3).mean()),
    ("monai", "dice_ce_loss", dice_ce),
    (
        "monai",
        "dice_ce_loss_lambda",
        lambda: dice_ce(axis=None, dice_weight=0.3, ce_weight=0.7, label_smoothing=0.1),
    ),
    (
        "monai",
        "dice_ce_loss_foreground",
        lambda: dice_ce(class_weights=np.float32([0, 1, 1, 1])),
    ),
    ("monai", "dice_ce_loss_sigmoid", lambda: bce_dice(bce_weight=1.0)),
    ("monai", "dice", lambda: jaxseg.dice(hard(axis=IMAGE))),
    ("monai", "dice_multi_label", lambda: jaxseg.dice(multi(IMAGE))),
    ("monai", "dice_absent_class", lambda: jaxseg.dice(hard(**absent, axis=IMAGE))),
    (
        "monai",
        "dice_false_positives_only_ignore_empty_false",
        lambda: jaxseg.dice(hard(labels="labels_without_3", axis=IMAGE)),
    ),
    ("monai", "iou", lambda: jaxseg.iou(hard(axis=IMAGE))),
    ("monai", "iou_multi_label", lambda: jaxseg.iou(multi(IMAGE))),
    ("monai", "iou_absent_class", lambda: jaxseg.iou(hard(**absent, axis=IMAGE))),
    (
        "monai",
        "iou_false_positives_only_ignore_empty_false",
        lambda: jaxseg.iou(hard(labels="labels_without_3", axis=IMAGE)),
    ),
    *(
        (
            "monai",
            f"generalized_dice_{name}{suffix}",
            functools.partial(
                lambda labels, power: jaxseg.generalized_dice(
                    hard(labels=labels, axis=IMAGE), power=power
                ),
                labels,
                power,
            ),
        )
        for name, power in (("square", 2), ("simple", 1), ("uniform", 0))
        for suffix, labels in (("", "labels"), ("_absent_class", "labels_without_3"))
    ),
    (
        "monai",
        "confusion_matrix",
        lambda: np.stack([getattr(hard(axis=IMAGE), k) for k in ("tp", "fp", "tn", "fn")], -1),
    ),
    *(
        ("monai", theirs, functools.partial(lambda f: getattr(jaxseg, f)(hard(axis=IMAGE)), ours))
        for theirs, ours in (
            ("sensitivity", "sensitivity"),
            ("specificity", "specificity"),
            ("precision", "precision"),
            ("negative_predictive_value", "negative_predictive_value"),
            ("false_positive_rate", "false_positive_rate"),
            ("false_negative_rate", "false_negative_rate"),
            ("false_discovery_rate", "false_discovery_rate"),
            ("false_omission_rate", "false_omission_rate"),
            ("accuracy", "accuracy"),
            ("balanced_accuracy", "balanced_accuracy"),
            ("matthews_correlation_coefficient", "matthews_correlation"),
            ("fowlkes_mallows_index", "fowlkes_mallows"),
            ("informedness", "informedness"),
            ("markedness", "markedness"),
            ("f1_score", "fbeta"),
            ("threat_score", "iou"),
        )
    ),
    # SMP pools the batch; its Dice smooth is half of jaxseg's (t19), its eps only a floor
    ("smp", "dice_loss_smooth_0", lambda: loss(dice_loss, axis=None, smooth=0.0).mean()),
    ("smp", "dice_loss_smooth_1", lambda: loss(dice_loss, axis=None, smooth=2.0).mean()),
    (
        "smp",
        "dice_loss_binary_smooth_0",
        lambda: mask_loss(dice_loss, axis=None, smooth=0.0).mean(),
    ),
    (
        "smp",
        "dice_loss_binary_smooth_1",
        lambda: mask_loss(dice_loss, axis=None, smooth=2.0).mean(),
    ),
    (
        "smp",
        "dice_loss_ignore_index",
        lambda: loss(dice_loss, **void, axis=None, smooth=2.0).mean(),
    ),
    (
        "smp",
        "dice_loss_class_weights",
        lambda: jnp.average(loss(dice_loss, axis=None, smooth=2.0), weights=WEIGHTS),
    ),
    ("smp", "jaccard_loss_smooth_0", lambda: loss(iou_loss, axis=None, smooth=0.0).mean()),
    ("smp", "jaccard_loss_smooth_1", lambda: loss(iou_loss, axis=None).mean()),
    (
        "smp",
        "jaccard_loss_binary_smooth_0",
        lambda: mask_loss(iou_loss, axis=None, smooth=0.0).mean(),
    ),
    ("smp", "jaccard_loss_binary_smooth_1", lambda: mask_loss(iou_loss, axis=None).mean()),
    ("smp", "jaccard_loss_ignore_index", lambda: loss(iou_loss, **void, axis=None).mean()),
    (
        "smp",
        "tversky_loss_0.3_0.7",
        lambda: loss(tversky_loss, axis=None, alpha=0.3, beta=0.7).mean(),
    ),
    (
        "smp",
        "tversky_loss_0.7_0.3",
        lambda: loss(tversky_loss, axis=None, alpha=0.7, beta=0.3).mean(),
    ),
    # its gamma is on the mean of the classes, focal_tversky_loss's on each class
    (
        "smp",
        "tversky_loss_gamma",
        lambda: loss(tversky_loss, axis=None, alpha=0.3, beta=0.7).mean() ** 0.75,
    ),
    ("smp", "get_stats", lambda: np.stack(hard(axis=IMAGE))),
    ("smp", "get_stats_ignore_index", lambda: np.stack(hard(axis=IMAGE, **void))),
    ("smp", "get_stats_multi_label", lambda: np.stack(multi(IMAGE))),
    (
        "smp",
        "t48_label_outside",
        lambda: np.stack(
            jaxseg.counts(np.int32([[0, 0, 9, 1]]), np.int32([[0, 0, 1, 1]]), num_classes=2, axis=1)
        ),
    ),
    *(
        ("smp", theirs, functools.partial(lambda f: getattr(jaxseg, f)(hard(axis=IMAGE)), ours))
        for theirs, ours in (
            ("iou_score", "iou"),
            ("f1_score", "dice"),
            ("accuracy", "accuracy"),
            ("precision", "precision"),
            ("recall", "recall"),
            ("specificity", "specificity"),
            ("balanced_accuracy", "balanced_accuracy"),
            ("negative_predictive_value", "negative_predictive_value"),
            ("false_negative_rate", "false_negative_rate"),
            ("false_positive_rate", "false_positive_rate"),
            ("false_discovery_rate", "false_discovery_rate"),
            ("false_omission_rate", "false_omission_rate"),
        )
    ),
    ("smp", "fbeta_score_2", lambda: jaxseg.fbeta(hard(axis=IMAGE), beta=2.0)),
    ("smp", "iou_score_micro", lambda: micro(jaxseg.iou, hard())),
    ("smp", "iou_score_macro", lambda: jaxseg.iou(hard()).mean()),
    ("smp", "iou_score_micro-imagewise", lambda: micro(jaxseg.iou, hard(axis=IMAGE)).mean()),
    ("smp", "iou_score_macro-imagewise", lambda: jaxseg.iou(hard(axis=IMAGE)).mean()),
    # torch's weighted mean is over the weights of the pixels
    ("torch", "cross_entropy", cross_entropy),
    ("torch", "cross_entropy_label_smoothing", lambda: cross_entropy(label_smoothing=0.1)),
    ("torch", "cross_entropy_weight", lambda: cross_entropy(ce_class_weights=WEIGHTS)),
    (
        "torch",
        "cross_entropy_weight_label_smoothing",
        lambda: cross_entropy(ce_class_weights=WEIGHTS, label_smoothing=0.1),
    ),
    ("torch", "cross_entropy_ignore_index", lambda: cross_entropy(**void)),
    (
        "torch",
        "cross_entropy_weight_ignore_index",
        lambda: cross_entropy(**void, ce_class_weights=WEIGHTS),
    ),
    ("torch", "binary_cross_entropy", lambda: bce_dice(**BCE)),
    ("torch", "binary_cross_entropy_pos_weight", lambda: bce_dice(**BCE, pos_weight=3.0)),
    ("torchmetrics", "confusion_matrix", matrix),
    ("torchmetrics", "confusion_matrix_ignore_index", lambda: matrix(**void)),
    ("torchmetrics", "binary_jaccard", lambda: jaxseg.iou(masks())[0]),
    (
        "torchmetrics",
        "matthews_multiclass",
        lambda: jaxseg.multiclass_matthews_correlation(matrix()),
    ),
    ("torchmetrics", "matthews_binary", lambda: jaxseg.matthews_correlation(masks())[0]),
    ("torchmetrics", "jaccard_none", lambda: jaxseg.iou(jaxseg.counts_from_confusion(matrix()))),
    ("torchmetrics", "jaccard_macro", lambda: jaxseg.mean_iou(matrix())),
    ("torchmetrics", "jaccard_micro", lambda: micro(jaxseg.iou, hard())),
    ("torchmetrics", "jaccard_weighted", lambda: jaxseg.frequency_weighted_iou(matrix())),
    (
        "torchmetrics",
        "jaccard_macro_absent_class",
        lambda: jnp.nanmean(jaxseg.iou(hard(**absent))),
    ),
    ("torchmetrics", "cohen_kappa_none", lambda: jaxseg.cohen_kappa(matrix())),
    *(
        (
            "torchmetrics",
            f"cohen_kappa_{weights}",
            functools.partial(lambda w: jaxseg.cohen_kappa(matrix(), weights=w), weights),
        )
        for weights in ("linear", "quadratic")
    ),
    ("torchmetrics", "dice_score_none_samplewise", lambda: jaxseg.dice(hard(axis=IMAGE))),
    ("torchmetrics", "dice_score_none_global", lambda: jaxseg.dice(hard())[None]),
    (
        "torchmetrics",
        "dice_score_macro_samplewise",
        lambda: jaxseg.dice(hard(axis=IMAGE)).mean(-1),
    ),
    ("torchmetrics", "dice_score_macro_global", lambda: jaxseg.dice(hard()).mean()[None]),
    ("torchmetrics", "dice_score_micro_samplewise", lambda: micro(jaxseg.dice, hard(axis=IMAGE))),
    ("torchmetrics", "dice_score_micro_global", lambda: micro(jaxseg.dice, hard())[None]),
    (
        "torchmetrics",
        "dice_score_weighted_samplewise",
        lambda: np.average(
            jaxseg.dice(hard(axis=IMAGE)), weights=support(hard(axis=IMAGE)), axis=-1
        ),
    ),
    (
        "torchmetrics",
        "dice_score_weighted_global",
        lambda: np.average(jaxseg.dice(hard()), weights=support(hard()))[None],
    ),
    ("torchmetrics", "mean_iou_per_class", lambda: jaxseg.iou(hard(axis=IMAGE))),
    ("torchmetrics", "mean_iou", lambda: jaxseg.iou(hard(axis=IMAGE)).mean(-1)),
    *(
        (
            "torchmetrics",
            f"generalized_dice_{name}",
            functools.partial(
                lambda power: jaxseg.generalized_dice(hard(axis=IMAGE), power=power), power
            ),
        )
        for name, power in (("square", 2), ("simple", 1), ("linear", 0))
    ),
    ("keras", "dice_per_image", lambda: loss(dice_loss, smooth=0.0, eps=1e-7).mean()),
    (
        "keras",
        "dice_default",  # pools the classes too
        lambda: (
            1
            - micro(
                jaxseg.dice,
                jaxseg.soft_counts(X["logits"], X["labels"], activation="softmax"),
                eps=1e-7,
            )
        ),
    ),
    ("keras", "dice_binary", lambda: mask_loss(dice_loss, axis=None, smooth=0.0, eps=1e-7)[0]),
    ("keras", "tversky_0.5_0.5", lambda: loss(tversky_loss, smooth=0.0, eps=1e-7).mean()),
    ("keras", "binary_crossentropy", lambda: bce_dice(**BCE)),
    ("keras", "binary_crossentropy_label_smoothing", lambda: bce_dice(**BCE, label_smoothing=0.2)),
    (
        "keras",
        "binary_crossentropy_of_probs",
        lambda: jaxseg.bce_dice_loss(
            jax.nn.sigmoid(X["mask_logits"]), X["mask_labels"], activation=None, **BCE
        ),
    ),
    ("keras", "categorical_crossentropy", cross_entropy),
    (
        "keras",
        "categorical_crossentropy_label_smoothing",
        lambda: cross_entropy(label_smoothing=0.1),
    ),
    ("keras", "mean_iou", lambda: jaxseg.mean_iou(matrix())),
    ("keras", "mean_iou_absent_class", lambda: jnp.nanmean(jaxseg.iou(hard(**absent)))),
    (
        "keras",
        "mean_iou_two_updates",
        lambda: jaxseg.mean_iou(matrix(axis=IMAGE).sum(0)),
    ),
    ("keras", "mean_iou_ignore_class", lambda: jaxseg.mean_iou(matrix(**void))),
    (
        "keras",
        "one_hot_mean_iou",
        lambda: jaxseg.mean_iou(
            jaxseg.confusion_matrix(jaxseg.predict_labels(X["logits"]), X["labels"], num_classes=4)
        ),
    ),
    ("keras", "iou_of_classes_1_2", lambda: jaxseg.iou(hard())[1:3].mean()),
    (
        "keras",
        "binary_iou",
        lambda: jaxseg.iou(
            jaxseg.counts(
                jaxseg.predict_labels(X["mask_logits"], activation="sigmoid"),
                X["mask_labels"][..., None] == 1,
            )
        )[0],
    ),
    (
        "metrax",
        "dice",
        lambda: jaxseg.dice(
            jaxseg.soft_counts(X["mask_logits"], X["mask_labels"], activation="sigmoid")
        )[0],
    ),
    (
        "metrax",
        "dice_merged",
        lambda: jaxseg.dice(
            functools.reduce(
                lambda a, b: a + b,
                (
                    jaxseg.soft_counts(x, y, activation="sigmoid")
                    for x, y in zip(X["mask_logits"], X["mask_labels"], strict=True)
                ),
            )
        )[0],
    ),
    ("metrax", "iou", lambda: jaxseg.mean_iou(matrix())),
    ("metrax", "iou_from_logits", lambda: jaxseg.iou(hard())[1:3].mean()),
    # the other orders of averaging, for those who want the peer's number (t55)
    ("metrax", "t55_iou_merged", lambda: jaxseg.iou(hard(axis=IMAGE)).mean()),
    ("torchmetrics", "t55_mean_iou_module", lambda: jnp.nanmean(order_iou(IMAGE))),
    ("torchmetrics", "t55_mean_iou_function", lambda: jnp.nanmean(order_iou(IMAGE), -1).mean()),
]


def order_iou(axis: Any = None) -> jax.Array:
    counts = jaxseg.counts(X["order_predictions"], X["order_labels"], num_classes=2, axis=axis)
    return jaxseg.iou(counts)


@pytest.mark.parametrize("row", AGREE, ids=key)
def test_peer_gives_the_same_number(row):
    peer, name, ours = row
    expected = golden(peer, name)
    actual = np.asarray(ours())
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, rtol=RTOL, atol=1e-7, err_msg=PEERS[peer]["cases"][name]["call"]
    )


# The formulas in NumPy, float64: nothing of jaxseg below this line but what "ours" calls.


def members(ids: Any, num_classes: int) -> np.ndarray:
    """0/1 ``[..., C]``; with one class, id 1 is the class."""
    classes = np.array([1]) if num_classes == 1 else np.arange(num_classes)
    return (np.asarray(ids)[..., None] == classes).astype(np.float64)


def sums(p: Any, g: Any, axis: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tp, fp, fn of ``[..., C]`` arrays."""
    p, g = np.asarray(p, np.float64), np.asarray(g, np.float64)
    axis = tuple(range(p.ndim - 1)) if axis is None else axis
    return (p * g).sum(axis), (p * (1 - g)).sum(axis), ((1 - p) * g).sum(axis)


def tversky_formula(p, g, axis=None, alpha=0.5, beta=0.5, smooth=0.0, eps=0.0):
    tp, fp, fn = sums(p, g, axis)
    return (tp + smooth) / (tp + alpha * fp + beta * fn + smooth + eps)


def dice_formula(p, g, axis=None, smooth=0.0, eps=0.0):
    tp, fp, fn = sums(p, g, axis)
    return (2 * tp + smooth) / (2 * tp + fp + fn + smooth + eps)


def iou_formula(p, g, axis=None):
    tp, fp, fn = sums(p, g, axis)
    with np.errstate(invalid="ignore"):
        return tp / (tp + fp + fn)


def generalized_formula(p, g, axis=None):
    tp, fp, fn = sums(p, g, axis)
    size = tp + fn
    weight = np.where(size > 0, 1 / np.maximum(size, 1) ** 2, 0)
    weight = np.where(size > 0, weight, weight.max(-1, keepdims=True))
    return 2 * (weight * tp).sum(-1) / (weight * (2 * tp + fp + fn)).sum(-1)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(np.asarray(x, np.float64) - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


TRUTH, PROBS = members(X["labels"], 4), softmax(X["logits"])
MASK, MASK_PROBS = members(X["mask_labels"], 1), sigmoid(X["mask_logits"])
TWO_CLASSES = np.int32([[0, 0, 1, 1]])
BYTES = np.uint8(255 * X["mask_labels"])
HALVES = np.repeat(np.int32([0, 1]), 8).reshape(1, 1, 16)
SMALL_OBJECT = np.zeros((1, 2048, 2048), np.int32)
SMALL_OBJECT[0, 0, :3] = 1


def value_and_one_gradient(function: Callable, x: Any) -> np.ndarray:
    """The value, and the gradient of the first element of ``x``."""
    value, gradient = jax.value_and_grad(function)(jnp.asarray(x))
    return np.stack([value, gradient.reshape(-1)[0]]).astype(np.float64)


def sigmoid_dice_loss(labels: Any, **kwargs: Any) -> Callable:
    return lambda z: dice_loss(z, labels, activation="sigmoid", **kwargs).sum()


def prob_dice_loss(labels: Any, **kwargs: Any) -> Callable:
    return lambda p: (1 - jaxseg.dice(jaxseg.soft_counts(p, labels), **kwargs)).sum()


def half_ones_loss() -> jax.Array:
    half = jnp.ones((1, 300, 300, 1), jnp.float16)
    return 1 - jaxseg.dice(jaxseg.soft_counts(half, half), smooth=1.0)[0]


def false_positives_after(total: int, number: int) -> np.ndarray:
    zero = jnp.zeros(1, jnp.int32)
    one_more = Counts(zero, zero + 1, zero, zero)
    counts = jax.lax.fori_loop(
        0, number, lambda _, c: c + one_more, Counts(zero + total, zero, zero, zero)
    )
    return np.stack([jaxseg.dice(counts)[0], counts.fp[0]])


def nan_iou() -> jax.Array:
    predictions = jaxseg.predict_labels(jnp.full((1, 4, 4, 3), jnp.nan))
    return jaxseg.iou(jaxseg.counts(predictions, np.zeros((1, 4, 4), np.int32), num_classes=3))[0]


class Difference(NamedTuple):
    peer: str
    name: str  # of the recorded case: the fault's number, then what it is
    ours: Callable[[], Any]
    formula: Any  # the right value


no_3 = members(X["labels_without_3"], 4)
predicted = members(X["predictions"], 4)
empty = np.zeros((1, 4, 4), np.int32)

DIFFER: list[Difference] = [
    Difference(
        "optax",
        "t1_jit",
        lambda: jax.jit(
            lambda p: jaxseg.dice(jaxseg.soft_counts(p, X["labels"], axis=IMAGE), smooth=1.0)
        )(jnp.asarray(PROBS, jnp.float32)),
        dice_formula(PROBS, TRUTH, IMAGE, smooth=1),
    ),
    Difference(
        "optax",
        "t1_vmap",
        lambda: jax.vmap(lambda p, g: jaxseg.dice(jaxseg.soft_counts(p, g), smooth=1.0))(
            jnp.asarray(PROBS, jnp.float32), X["labels"]
        ),
        dice_formula(PROBS, TRUTH, IMAGE, smooth=1),
    ),
    Difference(
        "optax",
        "t2_binary_probabilities",
        lambda: jaxseg.dice(jaxseg.soft_counts(np.float32(MASK_PROBS), X["mask_labels"])),
        dice_formula(MASK_PROBS, MASK),
    ),
    Difference(
        "optax",
        "t2_bfloat16_probabilities",
        lambda: jaxseg.dice(jaxseg.soft_counts(jnp.asarray(PROBS, jnp.bfloat16), X["labels"])),
        dice_formula(jnp.asarray(PROBS, jnp.bfloat16), TRUTH),
    ),
    Difference(
        "optax",
        "t3_empty_smooth_0",
        lambda: value_and_one_gradient(sigmoid_dice_loss(empty), np.full((1, 4, 4, 1), -200.0)),
        [0.0, 0.0],
    ),
    Difference(
        "monai",
        "t3_empty_smooth_0",
        lambda: value_and_one_gradient(
            prob_dice_loss(empty, smooth=1.0), np.zeros((1, 4, 4, 1), np.float32)
        ),
        [0.0, 1.0],
    ),
    Difference(
        "keras",
        "t3_empty_pair",
        lambda: prob_dice_loss(empty, smooth=1.0)(np.zeros((1, 4, 4, 1), np.float32)),
        0.0,
    ),
    Difference(
        "monai",
        "t4_gradient_of_empty",
        lambda: value_and_one_gradient(
            prob_dice_loss(empty, smooth=1.0), np.zeros((1, 4, 4, 1), np.float32)
        )[1],
        1.0,
    ),
    Difference(
        "smp",
        "t5_empty_target",
        lambda: value_and_one_gradient(
            prob_dice_loss(empty, smooth=1.0), np.ones((1, 4, 4, 1), np.float32)
        ),
        [1 - 1 / 17, 1 / 17**2],
    ),
    Difference(
        "monai",
        "dice_false_positives_only",  # t5: NaN, so the false positives drop out of the mean
        lambda: jaxseg.dice(hard(labels="labels_without_3", axis=IMAGE)),
        dice_formula(predicted, no_3, IMAGE),
    ),
    Difference(
        "monai",
        "iou_false_positives_only",
        lambda: jaxseg.iou(hard(labels="labels_without_3", axis=IMAGE)),
        iou_formula(predicted, no_3, IMAGE),
    ),
    Difference("monai", "t6_float16_dice_loss", half_ones_loss, 0.0),
    Difference("monai", "t6_float16_iou", lambda: 1 - half_ones_loss(), 1.0),
    Difference("keras", "t6_float16_dice", half_ones_loss, 0.0),
    Difference(
        "optax",
        "t6_float16",
        lambda: value_and_one_gradient(
            sigmoid_dice_loss(np.ones((1, 300, 300), np.int32)),
            jnp.full((1, 300, 300, 1), 30, jnp.float16),
        ),
        [0.0, 0.0],
    ),
    Difference(
        "smp",
        "t9_small_object",
        lambda: jaxseg.dice(jaxseg.soft_counts(jnp.full((1, 2048, 2048, 1), 0.3), SMALL_OBJECT))[0],
        2 * 0.9 / (0.3 * 2048**2 + 3),
    ),
    Difference(
        "optax",
        "t17_generalized_absent_class",
        lambda: (
            1
            - jaxseg.generalized_dice(
                jaxseg.soft_counts(10 * jnp.eye(3)[1 - HALVES], HALVES, activation="softmax")
            )
        ),
        1 - generalized_formula(softmax(10 * np.eye(3)[1 - HALVES]), np.eye(3)[HALVES]),
    ),
    Difference(
        "torchmetrics",
        "t17_generalized_dice_absent_class",
        lambda: jaxseg.generalized_dice(hard(labels="labels_without_3", axis=IMAGE)),
        generalized_formula(predicted, no_3, IMAGE),
    ),
    Difference(
        "keras",
        "t20_tversky_0.3_0.7",
        lambda: loss(tversky_loss, alpha=0.3, beta=0.7, smooth=0.0, eps=1e-7).mean(),
        1 - tversky_formula(PROBS, TRUTH, IMAGE, alpha=0.3, beta=0.7).mean(),
    ),
    Difference(
        "keras",
        "t20_false_positives_only",
        lambda: (
            1
            - jaxseg.tversky(
                jaxseg.soft_counts(np.ones((4, 1), np.float32), np.int32([1, 0, 0, 0])),
                alpha=0.1,
                beta=0.9,
            )[0]
        ),
        0.3 / 1.3,
    ),
    Difference(
        "smp",
        "t21_weights_of_a_perfect_map",
        lambda: jnp.average(jaxseg.iou(hard("labels")), weights=np.ones(4, np.float32)),
        1.0,
    ),
    Difference(
        "metrax",
        "t38_count_stops",
        lambda: false_positives_after(2**24, 1000),
        [2**25 / (2**25 + 1000), 1000],
    ),
    Difference(
        "smp",
        "t41_masks_of_255",
        lambda: np.stack(jaxseg.counts(BYTES, X["mask_labels"], num_classes=1, axis=IMAGE)),
        np.stack(
            [
                *sums(np.zeros_like(MASK), MASK, IMAGE),
                (1 - MASK).sum(IMAGE),
            ]
        ),
    ),
    *(
        Difference(
            peer,
            name,
            functools.partial(
                lambda score: getattr(jaxseg, score)(
                    jaxseg.counts(BYTES != 0, BYTES != 0, num_classes=1, axis=IMAGE)
                ),
                score,
            ),
            np.ones((2, 1)),
        )
        for peer, name, score in (
            ("metrax", "t43_masks_of_255", "dice"),
            ("monai", "t43_masks_of_255_dice", "dice"),
            ("monai", "t43_masks_of_255_iou", "iou"),
            ("torchmetrics", "t43_masks_of_255", "iou"),
        )
    ),
    *(
        Difference(
            peer,
            name,
            lambda: 1 - jaxseg.dice(jaxseg.soft_counts(np.float32(MASK), BYTES), smooth=1.0)[0],
            1 - 1 / (MASK.sum() + 1),  # 255 is no class: all of the prediction is false
        )
        for peer, name in (("monai", "t43_masks_of_255_dice_loss"), ("keras", "t43_masks_of_255"))
    ),
    Difference(
        "monai",
        "t44_probabilities_dice",
        lambda: jaxseg.dice(
            jaxseg.soft_counts(np.float32(0.6 * MASK), X["mask_labels"], axis=IMAGE)
        ),
        dice_formula(0.6 * MASK, MASK, IMAGE),
    ),
    Difference(
        "torchmetrics",
        "t45_float_masks",
        lambda: jaxseg.dice(jaxseg.counts(empty == 1, empty == 0, num_classes=1, axis=IMAGE)),
        np.zeros((1, 1)),
    ),
    Difference(
        "torchmetrics",
        "t47_activation_by_value",
        lambda: np.stack(
            [
                jaxseg.iou(jaxseg.counts(np.float32(p) > 0.5, np.array(g) == 1, num_classes=1))[0]
                for p, g in (
                    ([0.4, 0.6], [1, 1]),
                    ([0.4, 0.6, 0.0], [1, 1, 0]),
                    ([0.4, 0.6, -2.0], [1, 1, 0]),
                )
            ]
        ),
        [0.5, 0.5, 0.5],
    ),
    Difference(
        "torchmetrics",
        "t48_prediction_outside",
        lambda: jaxseg.confusion_matrix(np.int32([3]), np.int32([0]), num_classes=3),
        np.zeros((3, 3)),
    ),
    Difference(
        "torchmetrics",
        "t48_prediction_outside_validated",
        lambda: jaxseg.confusion_matrix(np.int32([0, 1, 3]), np.int32([0, 1, 0]), num_classes=3),
        np.diag([1, 1, 0]),
    ),
    Difference(
        "keras",
        "t48_label_outside",
        lambda: jaxseg.iou(
            jaxseg.counts(np.int32([0, 1, 5]), np.int32([0, 1, 1]), num_classes=2)
        ).mean(),
        0.75,
    ),
    Difference(
        "metrax",
        "t51_absent_class",
        lambda: jnp.nanmean(jaxseg.iou(jaxseg.counts(TWO_CLASSES, TWO_CLASSES, num_classes=3))),
        1.0,
    ),
    *(
        Difference(
            peer,
            name,
            lambda: jaxseg.iou(jaxseg.counts(TWO_CLASSES, TWO_CLASSES, num_classes=3, axis=1)),
            [[1.0, 1.0, np.nan]],
        )
        for peer, name in (
            ("smp", "t51_absent_class"),
            ("torchmetrics", "t51_absent_class_per_class"),
        )
    ),
    *(
        Difference(peer, "t52_nan_logits", nan_iou, 0.0)
        for peer in ("keras", "metrax", "torchmetrics")
    ),
    Difference(
        "metrax",
        "t54_mean_of_batch_means",
        lambda: jaxseg.iou(
            jaxseg.counts(np.ones((2, 2), bool), np.ones((2, 2), bool), num_classes=1)
            + jaxseg.counts(np.ones((24, 24), bool), np.zeros((24, 24), bool), num_classes=1)
        )[0],
        4 / 580,
    ),
    Difference(
        "metrax",
        "t55_iou_merged",
        lambda: jaxseg.iou(hard()).mean(),
        iou_formula(predicted, TRUTH).mean(),
    ),
    *(
        Difference("torchmetrics", name, lambda: order_iou().mean(), 7 / 12)
        for name in ("t55_mean_iou_module", "t55_mean_iou_function")
    ),
    *(
        Difference("torchmetrics", "matthews_overflow", ours, 1 - 2 * 1e8 / 3.1e9)
        for ours in (
            lambda: jaxseg.multiclass_matthews_correlation(np.float32([[3e9, 1e8], [1e8, 3e9]])),
            lambda: jaxseg.matthews_correlation(Counts(*np.float32([[3e9], [1e8], [1e8], [3e9]])))[
                0
            ],
        )
    ),
]


@pytest.mark.parametrize("row", DIFFER, ids=key)
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
    else:
        recorded, formula = np.broadcast_arrays(recorded, formula)
        assert not np.allclose(recorded, formula, rtol=1e-3, atol=1e-6, equal_nan=True)


def test_t3_empty_masks_without_smooth_are_finite():
    value = value_and_one_gradient(
        sigmoid_dice_loss(empty, smooth=0.0), np.full((1, 4, 4, 1), -200.0)
    )
    assert np.isfinite(value).all()


def test_t43_scores_of_255_stay_in_the_unit_interval():
    counts = jaxseg.counts(BYTES, BYTES, num_classes=1, axis=IMAGE)
    for score in (jaxseg.dice(counts), jaxseg.iou(counts)):
        assert bool(jnp.isnan(score).all() | ((score >= 0) & (score <= 1)).all())


@pytest.mark.parametrize("predictions", [0.6 * MASK[..., 0], MASK[..., 0]])
def test_t44_t45_float_masks_raise(predictions):
    with pytest.raises(TypeError):
        jaxseg.counts(np.float32(predictions), X["mask_labels"], num_classes=1)


def test_t59_shapes_do_not_broadcast():
    assert golden("metrax", "t59_broadcast") > 1  # a Dice score of 2
    labels = np.int32([1, 0, 1, 0])
    with pytest.raises(ValueError, match="same shape"):
        jaxseg.counts(labels, labels[:, None], num_classes=1)
    with pytest.raises(ValueError, match="shape"):
        jaxseg.soft_counts(np.ones((4, 1), np.float32), np.ones((4, 4), np.int32))


OPTAX: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    (
        "dice_loss",  # its smooth is half of jaxseg's (t19)
        lambda x, y: optax.losses.dice_loss(x, y),
        lambda: loss(dice_loss, smooth=2.0).mean(-1),
    ),
    (
        "dice_loss none",
        lambda x, y: optax.losses.dice_loss(x, y, reduction="none"),
        lambda: loss(dice_loss, smooth=2.0),
    ),
    (
        "dice_loss axis",
        lambda x, y: optax.losses.dice_loss(x, y, reduction="none", axis=(0, 1, 2)),
        lambda: loss(dice_loss, axis=None, smooth=2.0),
    ),
    (
        "dice_loss ignore_background",
        lambda x, y: optax.losses.dice_loss(x, y, ignore_background=True),
        lambda: loss(dice_loss, smooth=2.0)[..., 1:].mean(-1),
    ),
    (
        "dice_loss alpha beta",
        lambda x, y: optax.losses.dice_loss(x, y, alpha=0.3, beta=0.7, smooth=0.5),
        lambda: loss(tversky_loss, alpha=0.3, beta=0.7, smooth=0.5).mean(-1),
    ),
    (
        "cross_entropy",
        lambda x, y: optax.losses.softmax_cross_entropy(x, y).mean(),
        cross_entropy,
    ),
]


@pytest.mark.parametrize("row", OPTAX, ids=lambda row: row[0])
def test_optax_gives_the_same_number(row):
    _, theirs, ours = row
    expected = theirs(jnp.asarray(X["logits"]), jnp.asarray(TRUTH, jnp.float32))
    np.testing.assert_allclose(ours(), expected, rtol=RTOL, atol=1e-7)


def test_every_fault_has_its_row():
    rows = re.findall(r"^\| (`t.*?) \|", (GOLDEN / "README.md").read_text(encoding="utf-8"), re.M)
    named = set(re.findall(r"t\d+", " ".join(rows)))
    tests = GOLDEN.parent
    files = (tests.parent / "README.md", *tests.rglob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert set(re.findall(r"\bt\d+(?=_|\b)", text)) == named


def test_every_recorded_number_is_compared():
    compared = {(row[0], row[1]) for row in [*AGREE, *DIFFER]} | {("metrax", "t59_broadcast")}
    recorded = {(peer, name) for peer, library in PEERS.items() for name in library["cases"]}
    assert compared == recorded
