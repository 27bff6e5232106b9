"""The library's results once more: slow, obvious NumPy, written from the formulas alone.

Shares no code with jaxseg. Scores are of Python numbers, one class at a time, so integers never
round or overflow. Losses take NumPy float64 arrays for values, or JAX arrays, so that ``jax.grad``
differentiates the plain formula.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import ndimage

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


def hard_counts(predictions, labels, num_classes=None, where=None, axis=None, weights=None):
    """``(tp, fp, fn, tn)``, each ``[..., C]``; ``weights`` may have a class axis too."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if num_classes is not None:
        predictions, labels = one_hot(predictions, num_classes), one_hot(labels, num_classes)
    valid = np.ones(labels.shape, bool)
    if where is not None:
        where = np.asarray(where)
        valid &= where if where.ndim == labels.ndim else where[..., None]
    cases = ((True, True), (True, False), (False, True), (False, False))
    axes = map_axes(axis, labels.ndim - 1)
    found = [(predictions == p) & (labels == g) & valid for p, g in cases]
    if weights is None:
        return tuple(x.sum(axes) for x in found)
    weights = np.asarray(weights, np.float64)
    weights = weights if weights.ndim == labels.ndim else weights[..., None]
    return tuple(np.where(x, weights, 0).sum(axes) for x in found)


def confusion_matrix(predictions, labels, num_classes, where=None, axis=None, weights=None):
    """``[..., C, C]``, rows truth; a pixel with an id outside [0, C) has no cell."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    predicted, true = one_hot(predictions, num_classes), one_hot(labels, num_classes)
    axes = map_axes(axis, labels.ndim)
    kept = tuple(n for a, n in enumerate(labels.shape) if a not in axes)
    dtype = np.int64 if weights is None else np.float64
    weights = np.broadcast_to(1 if weights is None else weights, labels.shape)
    matrix = np.zeros((*kept, num_classes, num_classes), dtype)
    for pixel in np.ndindex(labels.shape):
        if where is not None and not where[pixel]:
            continue
        place = tuple(i for a, i in enumerate(pixel) if a not in axes)
        for i in np.flatnonzero(true[pixel]):
            for j in np.flatnonzero(predicted[pixel]):
                matrix[(*place, i, j)] += weights[pixel]
    return matrix


def counts_from_confusion(matrix):
    """``(tp, fp, fn, tn)`` of each class against the rest."""
    matrix = np.asarray(matrix)
    tp = np.diagonal(matrix, axis1=-2, axis2=-1)
    predicted, truth = matrix.sum(-2), matrix.sum(-1)
    return tp, predicted - tp, truth - tp, matrix.sum((-2, -1))[..., None] - predicted - truth + tp


def inverse_frequency(counts):
    n = (np.asarray(counts[0]) + counts[2]).reshape(-1, counts[0].shape[-1]).sum(0)
    present = [c for c in range(len(n)) if n[c]]
    weights = {c: sum(n) / len(present) / n[c] for c in present}
    return np.array([weights.get(c, max(weights.values(), default=1)) for c in range(len(n))])


def effective_number(counts, beta):
    n = (np.asarray(counts[0]) + counts[2]).reshape(-1, counts[0].shape[-1]).sum(0)
    number = {c: sum(beta**i for i in range(n[c])) for c in range(len(n)) if n[c]}
    least = min(number.values(), default=1)
    weights = [1 / number.get(c, least) for c in range(len(n))]
    return np.array([len(n) * w / sum(weights) for w in weights])


def median_frequency(counts):
    tp, fp, fn, tn = (np.asarray(x).reshape(-1, counts[0].shape[-1]) for x in counts)
    frequency = {}
    for c in range(tp.shape[-1]):
        images = [i for i in range(len(tp)) if tp[i, c] + fn[i, c]]
        pixels = sum(tp[i, c] + fp[i, c] + fn[i, c] + tn[i, c] for i in images)
        if images:
            frequency[c] = sum(tp[i, c] + fn[i, c] for i in images) / pixels
    weights = {c: np.median(list(frequency.values())) / f for c, f in frequency.items()}
    return np.array([weights.get(c, max(weights.values(), default=1)) for c in range(tp.shape[-1])])


def marginal_logits(x, sets):
    """Of ``sets`` ``[K, C]``."""
    x = np.asarray(x, np.float64)
    members = [x[..., np.asarray(each)] for each in sets]
    return np.stack([np.log(np.exp(each).sum(-1)) for each in members], -1)


def predict_labels(x, activation="softmax", threshold=0.5):
    if activation == "softmax":
        return np.argmax(x, -1)
    return ACTIVATIONS[activation](np.asarray(x)) >= threshold


def moments(values, where=None, axis=0):
    """Number, sum and sum of squares of the values that are not NaN, and the number of NaN."""
    known = ~np.isnan(values)
    if where is not None:
        known, nan = known & where, np.isnan(values) & where
    else:
        nan = ~known
    x = np.where(known, values, 0.0)
    return known.sum(axis), x.sum(axis), (x**2).sum(axis), nan.sum(axis)


def mean(moments, zero_division=nan):
    count, total, *_ = moments
    return np.where(count > 0, total / np.maximum(count, 1), zero_division)


def std(moments, ddof=0, zero_division=nan):
    count, total, squares, _ = moments
    spread = squares - total**2 / np.maximum(count, 1)
    return np.where(count > ddof, np.sqrt(spread / np.maximum(count - ddof, 1)), zero_division)


def pad_batch(batch, size):
    padding = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
    return np.concatenate([batch, padding]), np.arange(size) < len(batch)


def soft_sums(probs, labels, where=None, axis=None, weights=None):
    """I, P, G and N per class: weighted sums of p g, p, g and 1 over the valid pixels."""
    xp = probs.__array_namespace__()
    truth = labels if labels.ndim == probs.ndim else one_hot(labels, probs.shape[-1])
    truth = truth.astype(probs.dtype)
    one = xp.ones_like(probs)
    if where is not None:
        valid = np.asarray(where)[..., None]
        probs, truth, one = (xp.where(valid, x, xp.zeros_like(x)) for x in (probs, truth, one))
    axes = map_axes(axis, probs.ndim - 1)
    return tuple(weighted(x, weights).sum(axes) for x in (probs * truth, probs, truth, one))


def soft_counts(probs, labels, where=None, axis=None, weights=None):
    """``(tp, fp, fn, tn)``, each ``[..., C]``: I, P - I, G - I, N - P - G + I."""
    i, p, g, n = soft_sums(probs, labels, where, axis, weights)
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


def positive_likelihood_ratio(tp, fp, fn, tn, zero_division=nan):
    if tp + fn == 0 or fp + tn == 0 or tp + fp == 0:
        return zero_division
    return inf if fp == 0 else (tp / (tp + fn)) / (fp / (fp + tn))


def negative_likelihood_ratio(tp, fp, fn, tn, zero_division=nan):
    if tp + fn == 0 or fp + tn == 0 or tn + fn == 0:
        return zero_division
    return inf if tn == 0 else (fn / (tp + fn)) / (tn / (fp + tn))


def prevalence_threshold(tp, fp, fn, tn, zero_division=nan):
    """As Balayla writes it, with the roots of both rates; where they are equal, its limit."""
    if tp + fn == 0 or fp + tn == 0 or tp + fp == 0:
        return zero_division
    found, false = tp / (tp + fn), fp / (fp + tn)
    if math.isclose(found, false):
        return 0.5
    return (math.sqrt(found * false) - false) / (found - false)


def net_benefit(tp, fp, fn, tn, exchange_rate=1.0, zero_division=nan):
    return ratio(tp - exchange_rate * fp, tp + fp + fn + tn, zero_division)


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
    named = {
        None: lambda i, j: i != j,
        "linear": lambda i, j: abs(i - j),
        "quadratic": lambda i, j: (i - j) ** 2,
    }
    is_matrix = isinstance(weights, list)
    cost = (lambda i, j: weights[i][j]) if is_matrix else named[weights]
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


# ---------------------------------------------------------------------------------- pixels


def masked(values, where):
    """0 at masked pixels of ``[*map]`` or ``[*map, C]``."""
    if where is None:
        return values
    xp, where = values.__array_namespace__(), np.asarray(where)
    where = where.reshape(where.shape + (1,) * (values.ndim - where.ndim))
    return xp.where(where, values, xp.zeros_like(values))


def weighted(values, weights):
    """``values`` of ``[*map]`` or ``[*map, C]`` times the weights of the pixels."""
    if weights is None:
        return values
    weights = np.asarray(weights, np.float64)
    if weights.ndim < values.ndim:
        weights = weights[..., None]
    return values * values.__array_namespace__().asarray(np.broadcast_to(weights, values.shape))


def each_weight(weights, shape):
    """The weights of the map, 1 for None."""
    return np.broadcast_to(1.0 if weights is None else np.asarray(weights, np.float64), shape)


def pixels(x, labels, activation="softmax", where=None):
    """Probabilities and truth ``[*map, C]``, 0 at masked pixels."""
    truth = labels if labels.ndim == x.ndim else one_hot(labels, x.shape[-1])
    x = masked(x, where)
    return masked(ACTIVATIONS[activation](x), where), masked(truth.astype(x.dtype), where)


def grouped(function, where, axis, *arrays, ndim):
    """``function`` of the valid pixels ``[N, ...]`` of each group of summed axes, stacked."""
    shape = arrays[0].shape[:ndim]
    valid = np.ones(shape, bool) if where is None else np.asarray(where)
    summed = map_axes(axis, ndim)
    kept = tuple(a for a in range(ndim) if a not in summed)
    results = []
    for place in np.ndindex(*(shape[a] for a in kept)):
        index = tuple(place[kept.index(a)] if a in kept else slice(None) for a in range(ndim))
        results.append(function(*(x[index][valid[index]] for x in arrays)))
    out = arrays[0].__array_namespace__().stack(results)
    return out.reshape((*(shape[a] for a in kept), *out.shape[1:]))


# ---------------------------------------------------------------------------------- region losses


def overlap_sums(x, labels, activation, where, axis, overlap="product", weights=None):
    """The overlap I, and P and G, their values squared or not: each ``[..., C]``."""
    p, g = pixels(x, labels, activation, where)
    both = x.__array_namespace__().minimum(p, g) if overlap == "minimum" else p * g
    power, axes = 2 if overlap == "squared" else 1, map_axes(axis, x.ndim - 1)
    return tuple(weighted(v, weights).sum(axes) for v in (both, p**power, g**power))


def dice_loss(
    x,
    labels,
    activation="softmax",
    smooth=1.0,
    eps=0.0,
    where=None,
    axis=None,
    overlap="product",
    weights=None,
):
    i, p, g = overlap_sums(x, labels, activation, where, axis, overlap, weights)
    return 1 - (2 * i + smooth) / (p + g + smooth + eps)


def iou_loss(
    x,
    labels,
    activation="softmax",
    smooth=1.0,
    eps=0.0,
    where=None,
    axis=None,
    overlap="product",
    weights=None,
):
    i, p, g = overlap_sums(x, labels, activation, where, axis, overlap, weights)
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
    overlap="product",
    weights=None,
):
    i, p, g = overlap_sums(x, labels, activation, where, axis, overlap, weights)
    return 1 - (i + smooth) / (i + alpha * (p - i) + beta * (g - i) + smooth + eps)


def focal_tversky_loss(x, labels, alpha=0.3, beta=0.7, gamma=0.75, **kwargs):
    return tversky_loss(x, labels, alpha=alpha, beta=beta, **kwargs) ** gamma


def log_dice_loss(x, labels, gamma=1.0, **kwargs):
    xp = x.__array_namespace__()
    return (-xp.log(1 - dice_loss(x, labels, **kwargs))) ** gamma


def log_cosh_dice_loss(x, labels, **kwargs):
    xp = x.__array_namespace__()
    return xp.log(xp.cosh(dice_loss(x, labels, **kwargs)))


def rarity(g):
    """``smallest present G / G`` of the classes of weighted truth ``[N, C]``; 1 if absent."""
    sizes = np.asarray(g, np.float64).sum(0)
    smallest = min(sizes[sizes > 0], default=1.0)
    return np.array([smallest / size if size > 0 else 1.0 for size in sizes])


def generalized_dice_loss(
    x,
    labels,
    power=2.0,
    activation="softmax",
    smooth=1.0,
    eps=0.0,
    where=None,
    axis=None,
    weights=None,
    overlap="product",
):
    def loss(p, g, u):
        w, u = rarity(weighted(g, u)) ** power, u[:, None]
        common = p * g if overlap == "product" else p.__array_namespace__().minimum(p, g)
        both, volume = w * (u * common).sum(0), w * ((u * p).sum(0) + (u * g).sum(0))
        return 1 - (2 * both.sum() + smooth) / (volume.sum() + smooth + eps)

    p, g = pixels(x, labels, activation, where)
    return grouped(loss, where, axis, p, g, each_weight(weights, x.shape[:-1]), ndim=x.ndim - 1)


def generalized_wasserstein_dice_loss(
    x,
    labels,
    *,
    distances,
    weighting="foreground",
    activation="softmax",
    smooth=1.0,
    eps=0.0,
    where=None,
    axis=None,
    weights=None,
):
    costs = np.asarray(distances, np.float64) / np.max(distances)
    classes = range(len(costs))

    def loss(p, g, u):
        wrong = sum(costs[i, j] * g[:, i] * p[:, j] for i in classes for j in classes)
        a = [float(c > 0) for c in classes]
        if weighting != "foreground":
            a = rarity(weighted(g, u))
        true = sum(a[c] * (u * g[:, c] * (1 - wrong)).sum() for c in classes)
        if weighting == "foreground":
            volume = 2 * true + (u * wrong).sum()
        else:
            volume = sum(a[c] * (u * g[:, c] * (2 - wrong)).sum() for c in classes)
        return 1 - (2 * true + smooth) / (volume + smooth + eps)

    p, g = pixels(x, labels, activation, where)
    return grouped(loss, where, axis, p, g, each_weight(weights, x.shape[:-1]), ndim=x.ndim - 1)


def matthews_correlation_loss(
    x, labels, activation="softmax", smooth=1.0, where=None, axis=None, weights=None
):
    xp = x.__array_namespace__()
    probs, _ = pixels(x, labels, activation, where)
    tp, fp, fn, tn = soft_counts(probs, labels, where, axis, weights)
    tp, tn = tp + smooth, tn + smooth
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    some = product > 0
    score = (tp * tn - fp * fn) / xp.sqrt(xp.where(some, product, xp.ones_like(product)))
    return xp.where(some, 1 - score, xp.where(fp + fn == 0, 0 * score, 1 + 0 * score))


def sensitivity_specificity_loss(
    x,
    labels,
    sensitivity_weight=0.05,
    activation="softmax",
    smooth=1.0,
    eps=0.0,
    where=None,
    axis=None,
    weights=None,
):
    p, g = pixels(x, labels, activation, where)
    axes = map_axes(axis, x.ndim - 1)
    in_truth, elsewhere = (weighted(masked(v, where), weights) for v in (g, 1 - g))
    right_in = (in_truth * (1 - (p - g) ** 2)).sum(axes)
    right_out = (elsewhere * (1 - (p - g) ** 2)).sum(axes)
    sensitivity = (right_in + smooth) / (in_truth.sum(axes) + smooth + eps)
    specificity = (right_out + smooth) / (elsewhere.sum(axes) + smooth + eps)
    return 1 - sensitivity_weight * sensitivity - (1 - sensitivity_weight) * specificity


# ---------------------------------------------------------------------------------- pixel losses


def each_class(weights, num_classes):
    """``[C]`` of None (ones), a number or a list."""
    return np.broadcast_to(1.0 if weights is None else np.asarray(weights, float), (num_classes,))


def cross_entropy_loss(
    x, labels, class_weights=None, label_smoothing=0.0, where=None, weights=None
):
    """``- sum_c u_c g~_c log p_c`` of each pixel; ``g~`` is smoothed at pixels with a label."""
    num_classes = x.shape[-1]
    _, truth = pixels(x, labels, None, where)
    spread = truth.sum(-1, keepdims=True) / num_classes
    smoothed = (1 - label_smoothing) * truth + label_smoothing * spread
    logs = log_softmax(masked(x, where))
    return weighted_map(
        sum(
            -u * smoothed[..., c] * logs[..., c]
            for c, u in enumerate(each_class(class_weights, num_classes).tolist())
        ),
        where,
        weights,
    )


def weighted_map(losses, where, weights):
    """Losses ``[*map]``, 0 at masked pixels, times the weights."""
    return weighted(masked(losses, where), weights)


def softmax_focal_loss(x, labels, gamma=2.0, alpha=None, where=None, weights=None):
    p, truth = pixels(x, labels, "softmax", where)
    logs = log_softmax(masked(x, where))
    return weighted_map(
        sum(
            -a * truth[..., c] * (1 - p[..., c]) ** gamma * logs[..., c]
            for c, a in enumerate(each_class(alpha, x.shape[-1]).tolist())
        ),
        where,
        weights,
    )


def space(spatial_axes, ndim):
    """The axes of one image's map: by default all but the first."""
    return map_axes(range(1, ndim) if spatial_axes is None else tuple(spatial_axes), ndim)


def shifted(x, axis, step, fill):
    """The value ``step`` further along an axis, and ``fill`` outside."""
    xp = x.__array_namespace__()
    index = np.arange(x.shape[axis]) + step
    inside = (index >= 0) & (index < x.shape[axis])
    inside = inside.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return xp.where(inside, xp.roll(x, -step, axis), xp.full_like(x, fill))


def nacl_loss(
    x,
    labels,
    weight=0.1,
    kernel_size=3,
    kernel="uniform",
    sigma=1.0,
    distance="l1",
    spatial_axes=None,
    where=None,
    weights=None,
):
    logits, share = pixels(x, labels, None, where)
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    near = [1.0 for _ in reach]
    if kernel == "gaussian":  # the integral over each pixel
        below = [math.erf((step - 0.5) / sigma / 2**0.5) for step in (*reach, reach[-1] + 1)]
        near = np.diff(below)
    for a in space(spatial_axes, x.ndim - 1):
        terms = [w * shifted(share, a, step, 0.0) for w, step in zip(near, reach, strict=True)]
        share = sum(terms) / sum(near)
    gap = abs(share - logits) if distance == "l1" else (share - logits) ** 2
    return weighted_map(cross_entropy_loss(x, labels) + weight * gap.mean(-1), where, weights)


def top_k_loss(x, labels, fraction=0.1, where=None, axis=None, weights=None, class_weights=None):
    def count(losses):
        return max(1, math.floor(fraction * len(losses)))

    return mean_of_hardest(count, x, labels, where, axis, weights, class_weights)


def ohem_loss(
    x,
    labels,
    threshold=0.7,
    min_kept=100_000,
    where=None,
    axis=None,
    weights=None,
    class_weights=None,
):
    def count(losses):
        return max(int((np.exp(-losses) < threshold).sum()), min_kept)

    return mean_of_hardest(count, x, labels, where, axis, weights, class_weights)


def mean_of_hardest(count, x, labels, where, axis, weights, class_weights):
    def loss(losses, u):
        kept = np.argsort(-constant(losses))[: count(constant(losses))]
        return (u[kept] * losses[kept]).sum() / u[kept].sum()

    losses, (_, g) = cross_entropy_loss(x, labels, where=where), pixels(x, labels, None, where)
    u = np.array(each_weight(weights, losses.shape))
    if class_weights is not None:
        u *= (constant(g) * each_class(class_weights, x.shape[-1])).sum(-1)
    return grouped(loss, where, axis, losses, u, ndim=x.ndim - 1)


def constant(x):
    """An array's values in NumPy, without a derivative."""
    return np.asarray(jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x)


def lovasz_steps(g, sizes):
    """Jaccard loss after each pixel of the sorted truth ``[N]``, less that after the one before.

    The pixels count as their ``sizes`` say.
    """
    total, steps, before = (sizes * g).sum(), [], 0.0
    for n in range(1, len(g) + 1):
        hits, false = (sizes * g)[:n].sum(), (sizes * (1 - g))[:n].sum()
        jaccard = 1 - (total - hits) / (total + false)
        steps.append(jaccard - before)
        before = jaccard
    return np.array(steps)


def lovasz(errors, g, sizes):
    """The Lovász extension of the Jaccard loss, of errors and truth ``[N]``."""
    order = np.argsort(-constant(errors), kind="stable")
    return (errors[order] * lovasz_steps(constant(g)[order], sizes[order])).sum()


def lovasz_hinge_loss(x, labels, where=None, axis=None, weights=None):
    def loss(x, g, u):
        xp = x.__array_namespace__()
        errors = xp.maximum(1 - x * (2 * g - 1), xp.zeros_like(x))
        return xp.stack([lovasz(errors[:, c], g[:, c], u) for c in range(x.shape[-1])])

    x, g = pixels(x, labels, None, where)
    return grouped(loss, where, axis, x, g, each_weight(weights, x.shape[:-1]), ndim=x.ndim - 1)


def lovasz_softmax_loss(
    x,
    labels,
    activation="softmax",
    classes="present",
    class_weights=None,
    where=None,
    axis=None,
    weights=None,
):
    def loss(p, g, u):
        present = [c for c in range(p.shape[-1]) if classes == "present" and g[:, c].any()]
        present = present or range(p.shape[-1])  # all, too, if none is present
        losses = [(c, lovasz(abs(g[:, c] - p[:, c]), g[:, c], u)) for c in present]
        return sum(v[c] * loss for c, loss in losses) / sum(v[c] for c, _ in losses)

    p, g = pixels(x, labels, activation, where)
    v = each_class(class_weights, x.shape[-1])
    return grouped(loss, where, axis, p, g, each_weight(weights, x.shape[:-1]), ndim=x.ndim - 1)


def border_weights(instances, border_weight=10.0, sigma=5.0, spacing=1.0):
    instances = np.asarray(instances)
    ids = [i for i in np.unique(instances) if i > 0]
    if len(ids) < 2:
        return np.zeros(instances.shape)
    nearest = np.sort([distance_transform(instances == i, spacing) for i in ids], axis=0)
    return border_weight * np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2))


# ---------------------------------------------------------------------------------- distances


def per_axis(spacing, ndim):
    return tuple(np.broadcast_to(np.asarray(spacing, float), (ndim,)).tolist())


def distance_transform(mask, spacing=1.0):
    """Distance of each pixel to the nearest True; SciPy's has no answer for a mask without."""
    mask = np.asarray(mask, bool)
    if not mask.any():
        return np.full(mask.shape, inf)
    return ndimage.distance_transform_edt(~mask, sampling=per_axis(spacing, mask.ndim))


def brute_distance_transform(mask, spacing=1.0):
    """The same, of all pairs of pixels."""
    mask = np.asarray(mask, bool)
    step, places = per_axis(spacing, mask.ndim), list(zip(*np.nonzero(mask), strict=True))
    out = np.full(mask.shape, inf)
    for pixel in np.ndindex(mask.shape):
        for place in places:
            gaps = [s * (a - b) for s, a, b in zip(step, pixel, place, strict=True)]
            out[pixel] = min(out[pixel], math.hypot(*gaps))
    return out


def signed_distance(mask, spacing=1.0):
    mask = np.asarray(mask, bool)
    return distance_transform(mask, spacing) - distance_transform(~mask, spacing)


def each_map(function, masks, spatial_axes=None):
    """``function`` of the map of each image and class of ``[*map, C]``."""
    axes = space(spatial_axes, masks.ndim - 1)
    last = range(-len(axes), 0)
    maps = np.moveaxis(masks, axes, last)
    out = np.empty(maps.shape)
    for place in np.ndindex(maps.shape[: -len(axes)]):
        out[place] = function(maps[place])
    return np.moveaxis(out, last, axes)


# ---------------------------------------------------------------------------------- boundary


def mean_of_sums(values, where, axis, weights=None):
    """Weighted mean over the valid pixels of the summed axes: ``[..., C]``."""
    axes = map_axes(axis, values.ndim - 1)
    count = weighted(masked(np.ones(values.shape), where), weights).sum(axes)
    return weighted(masked(values, where), weights).sum(axes) / count


def boundary_loss(
    x,
    labels,
    distances=None,
    activation="softmax",
    spacing=1.0,
    spatial_axes=None,
    where=None,
    axis=None,
    weights=None,
):
    def signed(mask):
        away = signed_distance(mask, spacing)
        smallest = min(per_axis(spacing, mask.ndim))
        return away if np.isfinite(away).all() else np.sign(away) * smallest

    p, g = pixels(x, labels, activation, where)
    phi = each_map(signed, g >= 0.5, spatial_axes) if distances is None else distances
    return mean_of_sums(p * masked(np.asarray(phi, p.dtype), where), where, axis, weights)


def hausdorff_dt_loss(
    x,
    labels,
    alpha=2.0,
    activation="softmax",
    spacing=1.0,
    spatial_axes=None,
    where=None,
    axis=None,
    weights=None,
):
    def away_from_boundary(mask, without):
        if mask.all() or not mask.any():
            return without
        return distance_transform(mask, spacing) + distance_transform(~mask, spacing)

    p, g = pixels(x, labels, activation, where)
    smallest = float(np.min(spacing))
    of_p = each_map(lambda m: away_from_boundary(m, 0.0), constant(p) > 0.5, spatial_axes)
    of_g = each_map(lambda m: away_from_boundary(m, smallest), g >= 0.5, spatial_axes)
    return mean_of_sums((p - g) ** 2 * (of_p**alpha + of_g**alpha), where, axis, weights)


def hausdorff_erosion_loss(
    x,
    labels,
    alpha=2.0,
    erosions=10,
    activation="softmax",
    spatial_axes=None,
    where=None,
    axis=None,
    weights=None,
):
    xp = x.__array_namespace__()
    p, g = pixels(x, labels, activation, where)
    axes = space(spatial_axes, x.ndim - 1)
    bound, total = (p - g) ** 2, 0 * p
    for k in range(1, erosions + 1):
        cross = [bound, *(shifted(bound, a, step, 0.0) for a in axes for step in (-1, 1))]
        bound = xp.maximum(sum(cross) / len(cross) - 0.5, 0 * bound)
        low, high = bound.min(axes, keepdims=True), bound.max(axes, keepdims=True)
        width = xp.where(high > low, high - low, xp.ones_like(high))
        bound = xp.where(high > low, (bound - low) / width, bound)
        total = total + k**alpha * bound
    return mean_of_sums(total, where, axis, weights)


def boundary_dou_loss(
    x,
    labels,
    activation="softmax",
    smooth=1.0,
    eps=0.0,
    spatial_axes=None,
    where=None,
    axis=None,
    weights=None,
):
    p, g = pixels(x, labels, activation, where)
    axes = map_axes(axis, x.ndim - 1)
    i, z, y = (weighted(v, weights).sum(axes) for v in (p * g, p**2, g**2))
    inside = g >= 0.5
    filled = inside if where is None else inside | ~np.asarray(where)[..., None]
    edge = inside & ~each_map(ndimage.binary_erosion, filled, spatial_axes).astype(bool)
    share = edge.sum(axes) + smooth
    a = np.minimum(2 * (1 - share / (g.sum(axes) + smooth)) - 1, 0.8)
    return 1 - ((1 - a) * i + smooth) / (z + y - (1 + a) * i + smooth + eps)


# ---------------------------------------------------------------------------------- topology


def centre_distance(predictions, labels, spacing=1.0):
    if not predictions.any() or not labels.any():
        return inf if predictions.any() or labels.any() else nan
    centres = [np.argwhere(x).mean(0) for x in (predictions, labels)]
    return np.linalg.norm((centres[0] - centres[1]) * per_axis(spacing, labels.ndim))


# ---------------------------------------------------------------------------------- surfaces


def edges(mask, where=None):
    valid = np.ones(mask.shape, bool) if where is None else where
    return mask & valid & ~ndimage.binary_erosion(mask | ~valid)


def surface_distances(predictions, labels, spacing=1.0, where=None):
    """Distances of the edge pixels of each mask to the other's, in two lists."""
    surfaces = [edges(x, where) for x in (predictions, labels)]
    return [
        distance_transform(there, spacing)[here]
        for here, there in zip(surfaces, surfaces[::-1], strict=True)
    ]


def of_sides(score, distances, method, one=inf):
    """A score of each image, of both lists of its distances or of each by itself."""

    def of_image(p, g, held_p, held_g):
        sides = p[held_p], g[held_g]
        empty = [not len(x) for x in sides]
        if any(empty):
            value = nan if all(empty) else one
            return [value] * 2 if method == "directed" else value
        if method == "pooled":
            return score(np.concatenate(sides))
        both = [score(x) for x in sides]
        return {"directed": both, "max": max(both), "mean": np.mean(both)}[method]

    leaves = [np.asarray(x) for x in distances]
    images = leaves[0].shape[:-1]
    found = [of_image(*(x[i] for x in leaves)) for i in np.ndindex(images)]
    return np.reshape(found, images + (2,) * (method == "directed"))


def hausdorff_distance(distances, percentile=100.0, method="max"):
    return of_sides(lambda x: np.percentile(x, percentile), distances, method)


def average_surface_distance(distances, method="pooled"):
    return of_sides(np.mean, distances, method)


def surface_dice(distances, tolerance, method="pooled"):
    return of_sides(lambda x: np.mean(x <= tolerance), distances, method, one=0.0)


def boundary_f_score(distances, tolerance):
    p, g = np.moveaxis(
        of_sides(lambda x: np.mean(x <= tolerance), distances, "directed", 0.0), -1, 0
    )
    return 2 * p * g / np.where(p + g == 0, 1, p + g)


def boundary_iou(predictions, labels, width=None, spacing=1.0, where=None, method="distance"):
    valid = np.ones(labels.shape, bool) if where is None else where
    if method == "erosion":
        width = width or max(1, round(0.02 * math.hypot(*labels.shape)))

    def band(mask):
        if method == "erosion":
            square = np.ones((3, 3))
            return mask & valid & ~ndimage.binary_erosion(mask | ~valid, square, width)
        return mask & valid & (distance_transform(edges(mask, where), spacing) <= width)

    p, g = band(predictions), band(labels)
    return (p & g).sum() / (p | g).sum() if (p | g).any() else nan


# The ring of a pixel, clockwise from the north.
RING = {
    "N": (-1, 0), "NE": (-1, 1), "E": (0, 1), "SE": (1, 1),
    "S": (1, 0), "SW": (1, -1), "W": (0, -1), "NW": (-1, -1),
}  # fmt: skip
# Where scikit-image departs from the paper, in the first pass and in the second.
ENDS = (
    {"E SE", "SE S", "E SE S", "S SW", "SW W", "S SW W", "W NW"},
    {"N NE", "NE E", "N NE E", "SE S", "W NW", "N NW", "N W NW"},
)
CORNERS = (
    {"N E", "E S", "S W", "N W", "N E NW", "S W NW", "N NE W", "N SW W", "N NE SW W"},
    {"N E", "E S", "S W", "N W", "N E SE", "SE S W", "E S SW", "NE E S SW"},
)


def thinned_plane(mask):
    """Zhang and Suen's two passes, as scikit-image has them."""
    x = np.pad(mask, 1)
    while True:
        before = x.copy()
        for number in (0, 1):
            gone = []
            for r, c in np.argwhere(x):
                ring = [bool(x[r + i, c + j]) for i, j in RING.values()]
                names = " ".join(n for n, there in zip(RING, ring, strict=True) if there)
                if names in CORNERS[number] or (goes(ring, number) and names not in ENDS[number]):
                    gone.append((r, c))
            for pixel in gone:
                x[pixel] = False
        if (x == before).all():
            return x[1:-1, 1:-1]


def goes(ring, number):
    """The paper's conditions: two to six neighbours in one run, and a border pixel of the pass."""
    north, _, east, _, south, _, west, _ = ring
    runs = sum(b and not a for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
    at_border = (
        not (north and east and south) and not (east and south and west)
        if number == 0
        else not (north and east and west) and not (north and south and west)
    )
    return 2 <= sum(ring) <= 6 and runs == 1 and at_border


def euler_number(voxels):
    """Corners less edges plus faces less cubes, of closed unit cubes."""
    cells = {
        tuple(2 * v + d for v, d in zip(voxel, offset, strict=True))
        for voxel in voxels
        for offset in itertools.product((0, 1, 2), repeat=3)
    }
    return sum((-1) ** sum(c % 2 for c in cell) for cell in cells)


@functools.cache
def neighbourhood(bits):
    """Number of neighbours, of pieces of them, and whether the centre leaves the Euler number."""
    cube = np.frombuffer(bits, bool).reshape(3, 3, 3).copy()
    cube[1, 1, 1] = False
    voxels = [tuple(v) for v in np.argwhere(cube)]
    pieces = ndimage.label(cube, np.ones((3, 3, 3)))[1]
    return len(voxels), pieces, euler_number(voxels) == euler_number([*voxels, (1, 1, 1)])


def thinned_volume(mask):
    """Lee, Kashyap and Chu: border by border, each voxel once more before it goes."""
    x = np.pad(mask, 1)
    borders = [(0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0)]

    def around(v):
        return neighbourhood(x[tuple(slice(i - 1, i + 2) for i in v)].tobytes())

    while True:
        before = x.copy()
        for border in borders[:4] if len(mask) == 1 else borders:
            outer = [v for v in np.argwhere(x) if not x[tuple(v + border)]]
            facts = [around(v) for v in outer]
            for voxel, (number, pieces, same) in zip(outer, facts, strict=True):
                if number != 1 and pieces <= 1 and same and around(voxel)[1] <= 1:
                    x[tuple(voxel)] = False
        if (x == before).all():
            return x[1:-1, 1:-1, 1:-1]


def skeleton(mask):
    return thinned_plane(mask) if mask.ndim == 2 else thinned_volume(mask)


def skeleton_counts(
    predictions, labels, num_classes=None, spatial_axes=None, where=None, axis=None
):
    """``(right, wrong, found, missed)``, each ``[..., C]``."""
    if num_classes is not None:
        predictions, labels = one_hot(predictions, num_classes), one_hot(labels, num_classes)
    if where is not None:
        predictions, labels = predictions & where[..., None], labels & where[..., None]
    s_p, s_g = (each_map(skeleton, x, spatial_axes).astype(bool) for x in (predictions, labels))
    parts = s_p & labels, s_p & ~labels, s_g & predictions, s_g & ~predictions
    return tuple(x.sum(map_axes(axis, labels.ndim - 1)) for x in parts)


def topology_precision(counts, zero_division=nan):
    return per_class(lambda r, w, f, m: ratio(r, r + w, zero_division), counts)


def topology_sensitivity(counts, zero_division=nan):
    return per_class(lambda r, w, f, m: ratio(f, f + m, zero_division), counts)


def cldice(counts, zero_division=nan):
    def of_one(right, wrong, found, missed):
        if right + wrong + found + missed == 0:
            return zero_division
        precision, sensitivity = ratio(right, right + wrong, 0), ratio(found, found + missed, 0)
        return ratio(2 * precision * sensitivity, precision + sensitivity, 0)

    return per_class(of_one, counts)


def soft_erode(x, axes):
    """Least of a pixel and its face neighbours in the image."""
    xp = x.__array_namespace__()
    return xp.stack([x, *(shifted(x, a, step, inf) for a in axes for step in (-1, 1))]).min(0)


def soft_dilate(x, axes):
    """Largest of the 3 x 3 (x 3) pixels in the image."""
    xp = x.__array_namespace__()
    for a in axes:
        x = xp.stack([shifted(x, a, step, -inf) for step in (-1, 0, 1)]).max(0)
    return x


def soft_skeleton(probs, iterations=10, spatial_axes=None, where=None):
    """Masked pixels neither erode nor grow into others."""
    xp, axes = probs.__array_namespace__(), space(spatial_axes, probs.ndim - 1)

    def erode(x):
        if where is None:
            return soft_erode(x, axes)
        eroded = soft_erode(xp.where(np.asarray(where)[..., None], x, inf), axes)
        return masked(eroded, where)

    def dilate(x):  # along one axis after the other, past no masked pixel
        if where is None:
            return soft_dilate(x, axes)
        return masked(soft_dilate(x, axes), where)

    def ridges(x):
        return xp.maximum(x - dilate(erode(x)), 0 * x)

    x = masked(probs, where)
    skeleton = ridges(x)
    for _ in range(iterations):
        x = erode(x)
        new = ridges(x)
        skeleton = skeleton + xp.maximum(new - skeleton * new, 0 * new)
    return masked(skeleton, where)


def cldice_loss(
    x,
    labels,
    iterations=10,
    smooth=1.0,
    activation="softmax",
    spatial_axes=None,
    where=None,
    axis=None,
    weights=None,
):
    p, g = pixels(x, labels, activation, where)
    of_p, of_g = (soft_skeleton(m, iterations, spatial_axes, where) for m in (p, g))
    axes = map_axes(axis, x.ndim - 1)
    sums = (weighted(v, weights).sum(axes) + smooth for v in (of_p * g, of_p, of_g * p, of_g))
    hits, predicted, found, true = sums
    precision, sensitivity = hits / predicted, found / true
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def dice_cldice_loss(
    x, labels, iterations=10, cldice_weight=0.5, smooth=1.0, spatial_axes=None, **kwargs
):
    region = dice_loss(x, labels, smooth=smooth, **kwargs)
    lines = cldice_loss(x, labels, iterations, smooth, spatial_axes=spatial_axes, **kwargs)
    return (1 - cldice_weight) * region + cldice_weight * lines


def skeleton_recall_loss(
    x,
    labels,
    skeletons=None,
    iterations=10,
    radius=2,
    smooth=1.0,
    activation="softmax",
    spatial_axes=None,
    where=None,
    axis=None,
    weights=None,
):
    def dilated(mask):
        return ndimage.binary_dilation(mask, iterations=radius) if radius else mask

    p, g = pixels(x, labels, activation, where)
    inside = g >= 0.5
    if skeletons is None:
        lines = soft_skeleton(inside.astype(float), iterations, spatial_axes, where) > 0.5
        tubes = each_map(dilated, lines, spatial_axes) * inside
    else:
        tubes = skeletons if skeletons.ndim == x.ndim else one_hot(skeletons, x.shape[-1])
        tubes = masked(tubes.astype(p.dtype), where)
    axes = map_axes(axis, x.ndim - 1)
    found, true = (weighted(v, weights).sum(axes) for v in (p * tubes, tubes))
    return 1 - (found + smooth) / (true + smooth)


# ---------------------------------------------------------------------------------- compound losses


def mean_over_valid(values, where, weights=None):
    """Weighted mean of ``[..., C]`` over valid pixels and classes."""
    count = weighted(masked(np.ones(values.shape), where), weights).sum()
    return weighted(masked(values, where), weights).sum() / count


def bce(
    x,
    labels,
    where=None,
    weights=None,
    class_weights=None,
    pos_weight=None,
    label_smoothing=0.0,
    activation="sigmoid",
):
    """Binary cross-entropy, averaged over valid pixels and, by their weights, over classes."""
    truth = labels if labels.ndim == x.ndim else one_hot(labels, x.shape[-1])
    truth = truth.astype(x.dtype) * (1 - label_smoothing) + label_smoothing / 2
    if activation is None:
        xp = x.__array_namespace__()
        log_p, log_q = xp.log(xp.clip(x, 1e-7, None)), xp.log(xp.clip(1 - x, 1e-7, None))
    else:
        log_p, log_q = log_sigmoid(x), log_sigmoid(-x)
    positive, each = (
        np.broadcast_to(each_class(v, x.shape[-1]), x.shape) for v in (pos_weight, class_weights)
    )
    losses = -(positive * truth * log_p + (1 - truth) * log_q)
    valid = weighted(masked(np.ones(losses.shape), where), weights)
    return (each * weighted(masked(losses, where), weights)).sum() / (each * valid).sum()


def bce_dice_loss(
    x,
    labels,
    bce_weight=0.5,
    dice_weight=1.0,
    class_weights=None,
    pos_weight=None,
    label_smoothing=0.0,
    activation="sigmoid",
    smooth=1.0,
    where=None,
    axis=None,
    weights=None,
):
    options = {"where": where, "axis": axis, "weights": weights}
    region = dice_loss(x, labels, activation, smooth=smooth, **options)
    shares = image_shares(x, where, axis, weights)
    dice = mean_over_classes(region, class_weights, shares)
    entropy = bce(x, labels, where, weights, class_weights, pos_weight, label_smoothing, activation)
    return bce_weight * entropy + dice_weight * dice


def image_shares(x, where, axis, weights):
    """The mean weight of each image's valid pixels, ``[...]``, or ``[..., C]`` of each class."""
    valid = np.ones(x.shape[:-1], bool) if where is None else np.asarray(where)
    axes = map_axes(axis, x.ndim - 1)
    if weights is None and valid.ndim < x.ndim:
        return None
    sizes = np.broadcast_to(1.0 if weights is None else np.asarray(weights), valid.shape)
    return (valid * sizes).sum(axes) / np.maximum(valid.sum(axes), 1)


def cross_entropy(x, labels, class_weights=None, label_smoothing=0.0, where=None, weights=None):
    """Softmax cross-entropy, weighted by class and averaged as the weights say.

    ``- sum u_c g~ log p / sum u_c g``, where ``g~ = (1 - s) g + s / C`` for a labelled pixel.
    """
    xp, num_classes = x.__array_namespace__(), x.shape[-1]
    truth = labels if labels.ndim == x.ndim else one_hot(labels, num_classes)
    truth = truth.astype(x.dtype)
    labelled = truth.sum(-1, keepdims=True)
    smoothed = (1 - label_smoothing) * truth + label_smoothing * labelled / num_classes
    of_class = np.ones(num_classes) if class_weights is None else np.asarray(class_weights, float)
    of_class = xp.broadcast_to(xp.asarray(of_class, dtype=x.dtype), x.shape)
    losses, shares = -of_class * smoothed * log_softmax(x), of_class * truth
    losses, shares = (weighted(masked(v, where), weights) for v in (losses, shares))
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
    weights=None,
):
    region = dice_loss(x, labels, smooth=smooth, where=where, axis=axis, weights=weights)
    pixel = cross_entropy(x, labels, ce_class_weights, label_smoothing, where, weights)
    region = mean_over_classes(region, class_weights, image_shares(x, where, axis, weights))
    return dice_weight * region + ce_weight * pixel


def linear_dice_ce_loss(
    features,
    kernel,
    bias,
    labels,
    dice_weight=1.0,
    ce_weight=1.0,
    class_weights=None,
    ce_class_weights=None,
    label_smoothing=0.0,
    smooth=1.0,
    where=None,
    axis=None,
    weights=None,
):
    """Of the logits ``features @ kernel + bias``."""
    return dice_ce_loss(
        features @ kernel + bias,
        labels,
        dice_weight,
        ce_weight,
        class_weights,
        ce_class_weights,
        label_smoothing,
        smooth,
        where,
        axis,
        weights,
    )


def two_classes(x, labels):
    """Of one class, logits and labels of "not it", of logit 0, and "it"."""
    if x.shape[-1] > 1:
        return x, labels
    dense = labels if labels.ndim == x.ndim else one_hot(labels, 1)
    dense = dense.astype(float)
    pair = x.__array_namespace__().concat([0 * x, x], axis=-1)
    return pair, np.concatenate([1 - dense, dense], axis=-1)


def mean_over_classes(losses, weights, shares=None):
    """Mean of ``[..., C]`` over images and classes, by the class weights and the images' shares."""
    shares = np.ones(losses.shape[:-1]) if shares is None else shares
    if shares.ndim < losses.ndim:
        shares = shares[..., None]
    weights = shares * each_class(weights, losses.shape[-1])
    return (weights * losses).sum() / weights.sum()


def mean_over_labelled(values, x, labels, where, weights=None):
    """Weighted mean of ``[*map]`` over the valid pixels that are of some class."""
    _, g = pixels(x, labels, None, where)
    return weighted(masked(values, where), weights).sum() / weighted(g, weights).sum()


def dice_focal_loss(
    x,
    labels,
    dice_weight=1.0,
    focal_weight=1.0,
    gamma=2.0,
    alpha=None,
    class_weights=None,
    smooth=1.0,
    where=None,
    axis=None,
    weights=None,
):
    activation = "sigmoid" if x.shape[-1] == 1 else "softmax"
    options = {"where": where, "axis": axis, "weights": weights}
    region = dice_loss(x, labels, activation, smooth=smooth, **options)
    shares = image_shares(x, where, axis, weights)
    x, labels = two_classes(x, labels)
    focal = softmax_focal_loss(x, labels, gamma, alpha, where)
    pixel = mean_over_labelled(focal, x, labels, where, weights)
    return dice_weight * mean_over_classes(region, class_weights, shares) + focal_weight * pixel


def dice_top_k_loss(
    x,
    labels,
    dice_weight=1.0,
    ce_weight=1.0,
    fraction=0.1,
    class_weights=None,
    ce_class_weights=None,
    smooth=1.0,
    where=None,
    axis=None,
    weights=None,
):
    activation = "sigmoid" if x.shape[-1] == 1 else "softmax"
    options = {"where": where, "axis": axis, "weights": weights}
    region = dice_loss(x, labels, activation, smooth=smooth, **options)
    shares = image_shares(x, where, axis, weights)
    options = {"weights": weights, "class_weights": ce_class_weights}
    pixel = top_k_loss(*two_classes(x, labels), fraction, where, **options)
    return dice_weight * mean_over_classes(region, class_weights, shares) + ce_weight * pixel


def exponential_logarithmic_loss(
    x,
    labels,
    dice_weight=0.8,
    ce_weight=0.2,
    dice_gamma=0.3,
    ce_gamma=0.3,
    class_weights=None,
    ce_class_weights=None,
    smooth=1.0,
    where=None,
    axis=None,
    weights=None,
):
    activation = "sigmoid" if x.shape[-1] == 1 else "softmax"
    options = {"where": where, "axis": axis, "weights": weights}
    region = log_dice_loss(
        x, labels, gamma=dice_gamma, activation=activation, smooth=smooth, **options
    )
    shares = image_shares(x, where, axis, weights)
    x, labels = two_classes(x, labels)
    _, g = pixels(x, labels, None, where)
    of_class = each_class(ce_class_weights, x.shape[-1]).tolist()
    logs = log_softmax(masked(x, where))
    pixel = sum(w * g[..., c] * (-logs[..., c]) ** ce_gamma for c, w in enumerate(of_class))
    pixel = mean_over_labelled(pixel, x, labels, where, weights)
    return dice_weight * mean_over_classes(region, class_weights, shares) + ce_weight * pixel


def unified_focal_loss(
    x,
    labels,
    asymmetric=True,
    weight=0.5,
    delta=0.6,
    gamma=0.5,
    class_weights=None,
    activation="softmax",
    smooth=1.0,
    where=None,
    axis=None,
    weights=None,
):
    if activation is None and x.shape[-1] == 1:
        _, labels = two_classes(x, labels)
        x = x.__array_namespace__().concat([1 - x, x], axis=-1)
    x, labels = two_classes(x, labels)
    p, g = pixels(x, labels, activation, where)
    if activation is None:
        logs = x.__array_namespace__().log(x.__array_namespace__().clip(p, 1e-7, None))
    else:
        logs = log_softmax(masked(x, where))
    axes = map_axes(axis, x.ndim - 1)
    products = (p * g, p * (1 - g), (1 - p) * g)
    tp, fp, fn = (weighted(v, weights).sum(axes) for v in products)
    shares = image_shares(x, where, axis, weights)
    missing = 1 - (tp + smooth) / (tp + delta * fn + (1 - delta) * fp + smooth)
    each = each_class(class_weights, x.shape[-1])
    region, focal, count = 0.0, 0.0, 0.0
    for c, u in enumerate(each.tolist()):
        rare = c > 0
        enhanced = missing[..., c] ** (1 - gamma) if rare or not asymmetric else missing[..., c]
        region = region + u * mean_over_classes(enhanced[..., None], None, shares) / each.sum()
        suppressed = 1.0 if rare and asymmetric else (1 - p[..., c]) ** gamma
        entropy = -(delta if rare else 1 - delta) * suppressed * g[..., c] * logs[..., c]
        focal = focal + u * weighted(entropy, weights).sum()
        count = count + u * weighted(g[..., c], weights).sum()
    return weight * focal / count + (1 - weight) * region


def nearest(labels, shape):
    """Label maps resized to ``shape``: of the pixel under the centre of each new one."""
    for axis, size in enumerate(shape):
        old = labels.shape[axis]
        labels = labels.take([math.floor((i + 0.5) * old / size) for i in range(size)], axis)
    return labels


def deep_supervision(loss, weights=None):
    of_outputs = weights

    def supervised(outputs, labels, where=None, weights=None, **kwargs):
        shares = [0.5**i for i in range(len(outputs))] if of_outputs is None else of_outputs
        total = 0.0
        for share, x in zip(shares, outputs, strict=True):
            for name, values in (("where", where), ("weights", weights)):
                kwargs[name] = None if values is None else nearest(values, x.shape[:-1])
            total = total + share * loss(x, nearest(labels, x.shape[:-1]), **kwargs)
        return total / sum(shares)

    return supervised


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
