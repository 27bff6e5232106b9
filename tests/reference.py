"""The library's results once more: slow, obvious NumPy, written from the formulas alone.

Shares no code with jaxseg. Scores are of Python numbers, one class at a time, so integers never
round or overflow. Losses take NumPy float64 arrays for values, or JAX arrays, so that ``jax.grad``
differentiates the plain formula.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

nan = math.nan
inf = math.inf

# ---------------------------------------------------------------------------------- labels


def one_hot(ids: Any, num_classes: int) -> np.ndarray:
    """Bool ``[..., C]``; an id outside [0, C) is no class; with one class, id 1 is the class."""
    ids = np.asarray(ids).astype(np.int64)
    classes = [1] if num_classes == 1 else range(num_classes)
    return np.stack([ids == c for c in classes], axis=-1)


def map_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in ((axis,) if isinstance(axis, int) else axis))


# ---------------------------------------------------------------------------------- statistics


def hard_counts(predictions, labels, num_classes=None, where=None, axis=None):
    """``(tp, fp, fn, tn)``, each ``[..., C]``."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if num_classes is not None:
        predictions, labels = one_hot(predictions, num_classes), one_hot(labels, num_classes)
    valid = np.ones(labels.shape, bool)
    if where is not None:
        valid &= np.asarray(where)[..., None]
    cases = ((True, True), (True, False), (False, True), (False, False))
    axes = map_axes(axis, labels.ndim - 1)
    return tuple(((predictions == p) & (labels == g) & valid).sum(axes) for p, g in cases)


def confusion_matrix(predictions, labels, num_classes, where=None, axis=None):
    """``[..., C, C]``, rows truth; a pixel with an id outside [0, C) has no cell."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    predicted, true = one_hot(predictions, num_classes), one_hot(labels, num_classes)
    axes = map_axes(axis, labels.ndim)
    kept = tuple(n for a, n in enumerate(labels.shape) if a not in axes)
    matrix = np.zeros((*kept, num_classes, num_classes), np.int64)
    for pixel in np.ndindex(labels.shape):
        if where is not None and not where[pixel]:
            continue
        place = tuple(i for a, i in enumerate(pixel) if a not in axes)
        for i in np.flatnonzero(true[pixel]):
            for j in np.flatnonzero(predicted[pixel]):
                matrix[(*place, i, j)] += 1
    return matrix


def soft_sums(probs, labels, where=None, axis=None):
    """I, P, G and N per class: sums of p g, p, g and 1 over the valid pixels."""
    xp = probs.__array_namespace__()
    truth = labels if labels.ndim == probs.ndim else one_hot(labels, probs.shape[-1])
    truth = truth.astype(probs.dtype)
    one = xp.ones_like(probs)
    if where is not None:
        valid = np.asarray(where)[..., None]
        probs, truth, one = (xp.where(valid, x, xp.zeros_like(x)) for x in (probs, truth, one))
    axes = map_axes(axis, probs.ndim - 1)
    return tuple(x.sum(axes) for x in (probs * truth, probs, truth, one))


def soft_counts(probs, labels, where=None, axis=None):
    """``(tp, fp, fn, tn)``, each ``[..., C]``: I, P - I, G - I, N - P - G + I."""
    i, p, g, n = soft_sums(probs, labels, where, axis)
    return i, p - i, g - i, n - p - g + i


def softmax(x):
    xp = x.__array_namespace__()
    return xp.exp(log_softmax(x))


def log_softmax(x):
    xp = x.__array_namespace__()
    x = x - x.max(-1, keepdims=True)
    return x - xp.log(xp.exp(x).sum(-1, keepdims=True))


def log_sigmoid(x):
    xp = x.__array_namespace__()
    return -xp.logaddexp(xp.zeros_like(x), -x)


def sigmoid(x):
    xp = x.__array_namespace__()
    return xp.exp(log_sigmoid(x))


ACTIVATIONS = {None: lambda x: x, "softmax": softmax, "sigmoid": sigmoid}

# ---------------------------------------------------------------------------------- scores

Score = Callable[..., float]


def ratio(numerator, denominator, zero_division=nan):
    return zero_division if denominator == 0 else numerator / denominator


def dice(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(2 * tp + smooth, 2 * tp + fp + fn + smooth + eps, zero_division)


def iou(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(tp + smooth, tp + fp + fn + smooth + eps, zero_division)


def tversky(tp, fp, fn, tn, alpha=0.5, beta=0.5, smooth=0, eps=0, zero_division=nan):
    return ratio(tp + smooth, tp + alpha * fp + beta * fn + smooth + eps, zero_division)


def fbeta(tp, fp, fn, tn, beta=1.0, smooth=0, eps=0, zero_division=nan):
    hits = (1 + beta**2) * tp
    return ratio(hits + smooth, hits + beta**2 * fn + fp + smooth + eps, zero_division)


def precision(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(tp + smooth, tp + fp + smooth + eps, zero_division)


def recall(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(tp + smooth, tp + fn + smooth + eps, zero_division)


def specificity(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(tn + smooth, tn + fp + smooth + eps, zero_division)


def negative_predictive_value(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(tn + smooth, tn + fn + smooth + eps, zero_division)


def false_positive_rate(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(fp + smooth, fp + tn + smooth + eps, zero_division)


def false_negative_rate(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(fn + smooth, fn + tp + smooth + eps, zero_division)


def false_discovery_rate(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(fp + smooth, fp + tp + smooth + eps, zero_division)


def false_omission_rate(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(fn + smooth, fn + tn + smooth + eps, zero_division)


def accuracy(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(tp + tn + smooth, tp + fp + fn + tn + smooth + eps, zero_division)


def prevalence(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    return ratio(tp + fn + smooth, tp + fp + fn + tn + smooth + eps, zero_division)


def balanced_accuracy(tp, fp, fn, tn, zero_division=nan):
    if tp + fn == 0 or tn + fp == 0:
        return zero_division
    return (tp / (tp + fn) + tn / (tn + fp)) / 2


def informedness(tp, fp, fn, tn, zero_division=nan):
    if tp + fn == 0 or tn + fp == 0:
        return zero_division
    return tp / (tp + fn) + tn / (tn + fp) - 1


def markedness(tp, fp, fn, tn, zero_division=nan):
    if tp + fp == 0 or tn + fn == 0:
        return zero_division
    return tp / (tp + fp) + tn / (tn + fn) - 1


def matthews_correlation(tp, fp, fn, tn, zero_division=nan):
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return zero_division if product == 0 else (tp * tn - fp * fn) / math.sqrt(product)


def fowlkes_mallows(tp, fp, fn, tn, zero_division=nan):
    if tp + fp + fn == 0:
        return zero_division
    return 0.0 if tp == 0 else tp / math.sqrt((tp + fp) * (tp + fn))


def volumetric_similarity(tp, fp, fn, tn, smooth=0, eps=0, zero_division=nan):
    similar = 2 * tp + fp + fn - abs(fn - fp)
    return ratio(similar + smooth, 2 * tp + fp + fn + smooth + eps, zero_division)


def relative_volume_difference(tp, fp, fn, tn, zero_division=nan):
    if tp + fp + fn == 0:
        return zero_division
    return ratio(fp - fn, tp + fn, inf)


def per_class(score: Score, counts: Any, **kwargs: Any) -> np.ndarray:
    """A score of Python numbers, at each place of counts ``[..., C]``."""
    leaves = [np.asarray(leaf) for leaf in counts]
    out = np.empty(leaves[0].shape)
    for place in np.ndindex(out.shape):
        out[place] = score(*(leaf[place].item() for leaf in leaves), **kwargs)
    return out


def generalized_dice(tp, fp, fn, tn, power=2, smooth=0, eps=0, zero_division=nan):
    """Of counts ``[C]``: weights ``1 / G^power``, an absent class's the largest of the others'.

    Scaled so that the largest weight is 1, which matters with ``smooth`` or ``eps`` only.
    """
    truth = [int(t + m) for t, m in zip(tp, fn, strict=True)]
    smallest = min((g for g in truth if g > 0), default=1)
    weights = [(smallest / g) ** power if g > 0 else 1.0 for g in truth]
    overlap = sum(w * t for w, t in zip(weights, tp, strict=True))
    volume = sum(w * (2 * t + p + m) for w, t, p, m in zip(weights, tp, fp, fn, strict=True))
    return ratio(2 * overlap + smooth, volume + smooth + eps, zero_division)


# ---------------------------------------------------------------------------------- of a matrix


def rows_and_columns(matrix: Any) -> tuple[list[list[Any]], list[Any], list[Any], Any]:
    m = np.asarray(matrix).tolist()
    size = range(len(m))
    truth = [sum(m[i]) for i in size]
    predicted = [sum(m[i][j] for i in size) for j in size]
    return m, truth, predicted, sum(truth)


def pixel_accuracy(matrix, zero_division=nan):
    m, _, _, n = rows_and_columns(matrix)
    return ratio(sum(m[c][c] for c in range(len(m))), n, zero_division)


def mean_class_accuracy(matrix, zero_division=nan):
    m, truth, _, _ = rows_and_columns(matrix)
    scores = [m[c][c] / truth[c] for c in range(len(m)) if truth[c] > 0]
    return ratio(sum(scores), len(scores), zero_division)


def mean_iou(matrix, zero_division=nan):
    m, truth, predicted, _ = rows_and_columns(matrix)
    unions = [g + p - m[c][c] for c, (g, p) in enumerate(zip(truth, predicted, strict=True))]
    scores = [m[c][c] / union for c, union in enumerate(unions) if union > 0]
    return ratio(sum(scores), len(scores), zero_division)


def frequency_weighted_iou(matrix, zero_division=nan):
    m, truth, predicted, n = rows_and_columns(matrix)
    if n == 0:
        return zero_division
    unions = [g + p - m[c][c] for c, (g, p) in enumerate(zip(truth, predicted, strict=True))]
    return sum(g / n * ratio(m[c][c], unions[c], 0) for c, g in enumerate(truth))


def cohen_kappa(matrix, weights=None, zero_division=nan):
    m, truth, predicted, n = rows_and_columns(matrix)
    cost = {
        None: lambda i, j: i != j,
        "linear": lambda i, j: abs(i - j),
        "quadratic": lambda i, j: (i - j) ** 2,
    }[weights]
    pairs = [(i, j) for i in range(len(m)) for j in range(len(m))]
    observed = sum(cost(i, j) * m[i][j] for i, j in pairs)
    expected = sum(cost(i, j) * truth[i] * predicted[j] for i, j in pairs)
    return zero_division if expected == 0 else 1 - observed * n / expected


def multiclass_matthews_correlation(matrix, zero_division=nan):
    m, truth, predicted, n = rows_and_columns(matrix)
    covariance = n * sum(m[c][c] for c in range(len(m))) - sum(
        g * p for g, p in zip(truth, predicted, strict=True)
    )
    variances = (n**2 - sum(p**2 for p in predicted)) * (n**2 - sum(g**2 for g in truth))
    return zero_division if variances == 0 else covariance / math.sqrt(variances)


def expected_cost(matrix, costs=None, zero_division=nan):
    m, truth, _, _ = rows_and_columns(matrix)
    size = range(len(m))
    costs = [[float(i != j) for j in size] for i in size] if costs is None else costs
    paid = sum(costs[i][j] * m[i][j] for i in size for j in size)
    naive = min(sum(costs[i][j] * truth[i] for i in size) for j in size)
    return ratio(paid, naive, zero_division)


# ---------------------------------------------------------------------------------- losses


def dice_loss(x, labels, activation="softmax", smooth=1.0, eps=0.0, where=None, axis=None):
    i, p, g, _ = soft_sums(ACTIVATIONS[activation](x), labels, where, axis)
    return 1 - (2 * i + smooth) / (p + g + smooth + eps)


def iou_loss(x, labels, activation="softmax", smooth=1.0, eps=0.0, where=None, axis=None):
    i, p, g, _ = soft_sums(ACTIVATIONS[activation](x), labels, where, axis)
    return 1 - (i + smooth) / (p + g - i + smooth + eps)


def tversky_loss(
    x,
    labels,
    alpha=0.5,
    beta=0.5,
    activation="softmax",
    smooth=1.0,
    eps=0.0,
    where=None,
    axis=None,
):
    i, p, g, _ = soft_sums(ACTIVATIONS[activation](x), labels, where, axis)
    return 1 - (i + smooth) / (i + alpha * (p - i) + beta * (g - i) + smooth + eps)


def focal_tversky_loss(x, labels, alpha=0.3, beta=0.7, gamma=0.75, **kwargs):
    return tversky_loss(x, labels, alpha=alpha, beta=beta, **kwargs) ** gamma


def mean_over_valid(values, where):
    """Mean of ``[..., C]`` over valid pixels and classes."""
    if where is None:
        return values.mean()
    return values[np.asarray(where)].mean()


def bce(x, labels, where=None):
    """Binary cross-entropy of logits, averaged over valid pixels and classes."""
    truth = labels if labels.ndim == x.ndim else one_hot(labels, x.shape[-1])
    truth = truth.astype(x.dtype)
    losses = -(truth * log_sigmoid(x) + (1 - truth) * log_sigmoid(-x))
    return mean_over_valid(losses, where)


def bce_dice_loss(x, labels, bce_weight=0.5, dice_weight=1.0, smooth=1.0, where=None, axis=None):
    region = dice_loss(x, labels, "sigmoid", smooth=smooth, where=where, axis=axis)
    return bce_weight * bce(x, labels, where) + dice_weight * region.mean()


def cross_entropy(x, labels, class_weights=None, label_smoothing=0.0, where=None):
    """Softmax cross-entropy, weighted by class and averaged as the weights say.

    ``- sum u_c g~ log p / sum u_c g``, where ``g~ = (1 - s) g + s / C`` for a labelled pixel.
    """
    xp, num_classes = x.__array_namespace__(), x.shape[-1]
    truth = labels if labels.ndim == x.ndim else one_hot(labels, num_classes)
    truth = truth.astype(x.dtype)
    labelled = truth.sum(-1, keepdims=True)
    smoothed = (1 - label_smoothing) * truth + label_smoothing * labelled / num_classes
    weights = np.ones(num_classes) if class_weights is None else np.asarray(class_weights, float)
    weights = xp.broadcast_to(xp.asarray(weights, dtype=x.dtype), x.shape)
    losses, shares = -weights * smoothed * log_softmax(x), weights * truth
    if where is not None:
        losses, shares = losses[np.asarray(where)], shares[np.asarray(where)]
    return losses.sum() / shares.sum()


def dice_ce_loss(
    x,
    labels,
    dice_weight=1.0,
    ce_weight=1.0,
    class_weights=None,
    ce_class_weights=None,
    label_smoothing=0.0,
    smooth=1.0,
    where=None,
    axis=None,
):
    region = dice_loss(x, labels, smooth=smooth, where=where, axis=axis)
    weights = [1.0] * x.shape[-1] if class_weights is None else class_weights
    # One class at a time, averaged over images first.
    means = [w * region[..., c].mean() for c, w in enumerate(weights)]
    pixel = cross_entropy(x, labels, ce_class_weights, label_smoothing, where)
    return dice_weight * sum(means) / sum(weights) + ce_weight * pixel


# ---------------------------------------------------------------------------------- Keras style
#
# What a segmentation project under Keras writes for itself: truth first, probabilities or masks
# with the class axis last.


def keras_dice(masks, probs, smooth=1.0):
    """Soft Dice of the flattened batch."""
    masks, probs = masks.reshape(-1), probs.reshape(-1)
    return (2 * (masks * probs).sum() + smooth) / (masks.sum() + probs.sum() + smooth)


def keras_iou(masks, probs, smooth=1.0):
    """Soft IoU of each image, averaged over the batch; sums over height, width and classes."""
    overlap = (masks * probs).sum((1, 2, 3))
    union = masks.sum((1, 2, 3)) + probs.sum((1, 2, 3)) - overlap
    return ((overlap + smooth) / (union + smooth)).mean()


def keras_bce_dice_loss(masks, logits):
    """``0.5 BCE - dice``, which goes down to -1."""
    return 0.5 * bce(logits, masks) - keras_dice(masks, sigmoid(logits))


def keras_class_scores(true_map, predicted_map, num_classes):
    """IoU and Dice of two label maps, one class at a time."""
    ious, dices = [], []
    for c in range(num_classes):
        true, predicted = true_map == c, predicted_map == c
        overlap = np.count_nonzero(true & predicted)
        areas = np.count_nonzero(true) + np.count_nonzero(predicted)
        ious.append(overlap / (areas - overlap + 1e-5))
        dices.append(2 * overlap / (areas + 1e-5))
    return np.array(ious), np.array(dices)


def keras_label_map(probs):
    """The class of the largest probability of each pixel."""
    return np.argmax(np.asarray(probs), axis=-1)
