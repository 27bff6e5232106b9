"""Statistics of segmentation maps: pixel counts per class, hard and soft, and confusion matrices.

``counts`` compares label maps exactly, in integers; ``soft_counts`` compares probabilities with
labels and is differentiable. Scores and losses are functions of these sums (see ``_scores``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._arithmetic import add, multiply
from jaxseg._blocks import blocked_sum, fused_sum, turns
from jaxseg._checks import Axis
from jaxseg._histogram import histogram
from jaxseg._kernels import softmax_sums as kernel
from jaxseg._labels import membership
from jaxseg._numerics import sum_in_turn
from jaxseg._sharding import sum_in_place

# Cells up to which counts come from a table of all pairs of classes: more leave the cache. Nor are
# they more than the pixels to count, unless these are few.
LARGE_TABLE = 2**18
SMALL_TABLE = 2**12


class Counts(NamedTuple):
    """True and false positives and negatives per class, in pixels: four arrays ``[..., C]``.

    Integers if hard (``counts``), floats if soft (``soft_counts``). ``a + b`` adds leaf by leaf:
    the counts of two sets of images together. So does ``sum([a, b])``; leaves must have the same
    shapes, but ``Counts(0, 0, 0, 0)`` is the zero of any. ``2 * a`` and ``0.5 * a`` multiply each
    leaf by a number or by an array that broadcasts to it; an integer leaf times a float is a
    float. Leaves of int32 wrap at 2**31: a ``Running`` does not.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> a = jaxseg.counts(jnp.array([0, 1]), jnp.array([0, 1]), num_classes=2)
      >>> (a + a).tp.tolist(), sum([a, a, a]).tp.tolist(), (0.5 * a).tp.tolist()
      ([2, 2], [3, 3], [0.5, 0.5])
    """

    # Arrays, for which numbers and NumPy's arrays may stand.
    tp: Array | Any
    fp: Array | Any
    fn: Array | Any
    tn: Array | Any

    def __add__(self, other: Any) -> Counts:
        return add(self, other)

    def __radd__(self, other: Any) -> Counts:
        return add(self, other)

    def __mul__(self, factor: Any) -> Counts:
        return multiply(self, factor)

    def __rmul__(self, factor: Any) -> Counts:
        return multiply(self, factor)


Counts.__array_ufunc__ = None  # type: ignore[attr-defined]  # NumPy leaves + and * to Counts
jax.export.register_namedtuple_serialization(Counts, serialized_name="jaxseg.Counts")


def counts(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int | None = None,
    where: ArrayLike | None = None,
    axis: Axis = None,
) -> Counts:
    r"""Pixel counts per class of predicted label maps against true ones, exact in int32.

    .. math:: tp_c = \sum [p = c][g = c], \quad fp_c = \sum [p = c][g \ne c], \quad
              fn_c = \sum [p \ne c][g = c], \quad tn_c = \sum [p \ne c][g \ne c]

    Args:
      predictions: integer or bool ids ``[...]``, or without ``num_classes`` bool masks ``[...,
        C]``.
      labels: the truth, in the same format and shape.
      num_classes: C, static. With 1, both are masks and id 1 is the class.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.

    Returns:
      ``Counts`` of int32 ``[..., C]``. An id outside [0, C) belongs to no class: a predicted one
      is a miss of the true class and no other's false positive.

    Raises:
      ValueError: shapes that differ, ``num_classes`` missing or below 1, ``axis`` out of range, an
        empty map, or 2**31 pixels or more.
      TypeError: float predictions or labels, ``where`` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> predictions = jnp.array([[0, 1, 1], [2, 2, 0]])
      >>> labels = jnp.array([[0, 1, 2], [2, 2, 0]])
      >>> jaxseg.counts(predictions, labels, num_classes=3).tp.tolist()
      [2, 1, 2]
      >>> jaxseg.counts(predictions, labels, num_classes=3, axis=1).fn.tolist()  # per row
      [[0, 0, 1], [0, 0, 0]]

    Note:
      metrax counts in float32, which stops growing at 2**24 pixels, and TorchMetrics' confusion
      matrix counts an out-of-range prediction as another class.
    """
    predictions, labels, where, axes = _checks.check_hard(
        predictions, labels, where, axis, dense=num_classes is None
    )
    if num_classes is None:
        return _dense_counts(predictions, labels, where, axes=axes)
    num_classes = _checks.check_num_classes(num_classes)
    return _id_counts(predictions, labels, where, num_classes=num_classes, axes=axes)


@partial(jax.jit, static_argnames="axes")
def _dense_counts(
    predictions: Array, labels: Array, where: Array | None, *, axes: tuple[int, ...]
) -> Counts:
    """Counts of bool masks, by each device of its part."""
    arrays = (predictions, labels) if where is None else (predictions, labels, where)
    sums = sum_in_place(_mask_sums, arrays, axes, predictions.ndim - 1)
    return Counts(*jnp.split(sums, 4, axis=-1))


def _mask_sums(arrays: tuple[Array, ...], axes: tuple[int, ...]) -> Array:
    predictions, labels, where = (*arrays, None)[:3]
    sums = blocked_sum(_mask_counts, (predictions, labels, where), axes=axes)
    return jnp.concatenate(sums, axis=-1)


def _mask_counts(arrays: Any, _: None, axes: tuple[int, ...], class_axis: int) -> Counts:
    """Counts of bool masks ``[..., C]``, for ``blocked_sum``."""
    p, g, where = arrays
    valid = jnp.ones((), bool) if where is None else jnp.expand_dims(where, class_axis)

    def count(mask: Array) -> Array:
        return (mask & valid).sum(axes, dtype=jnp.int32)

    return Counts(tp=count(p & g), fp=count(p & ~g), fn=count(~p & g), tn=count(~p & ~g))


@partial(jax.jit, static_argnames=("num_classes", "axes"))
def _id_counts(
    predictions: Array,
    labels: Array,
    where: Array | None,
    *,
    num_classes: int,
    axes: tuple[int, ...],
) -> Counts:
    """Counts of id maps, from histograms: no array of ``[..., C]`` is formed."""
    pixels = math.prod(labels.shape[a] for a in axes)
    if (num_classes + 1) ** 2 <= min(max(pixels, SMALL_TABLE), LARGE_TABLE):
        pairs = _pairs(predictions, labels, where, num_classes, axes)
        tp = pairs.diagonal(axis1=-2, axis2=-1)
        predicted, true = (pairs.sum(a, dtype=jnp.int32) for a in (-2, -1))
    else:  # the table of pairs would cost more than to read the maps three times
        maps = (predictions, labels)

        def histogram_of(index: Callable[[Array, Array], Array]) -> Array:
            def of_ids(p: Array, g: Array) -> Array:
                p, g = (_class_index(x, num_classes).astype(jnp.uint32) for x in (p, g))
                return index(p, g)

            return histogram(of_ids, maps, where, num_classes + 1, axes)

        tp = histogram_of(lambda p, g: jnp.where(p == g, p, num_classes))
        predicted, true = histogram_of(lambda p, _: p), histogram_of(lambda _, g: g)
    total = true.sum(-1, dtype=jnp.int32)[..., None]
    tp, predicted, true = (x[..., :num_classes] for x in (tp, predicted, true))
    return Counts(tp=tp, fp=predicted - tp, fn=true - tp, tn=total - predicted - true + tp)


def soft_counts(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = None,
    where: ArrayLike | None = None,
    axis: Axis = None,
) -> Counts:
    r"""Differentiable counts per class of probabilities against labels: what region losses read.

    .. math:: tp_c = \sum p_c g_c, \quad fp_c = \sum p_c (1 - g_c), \quad
              fn_c = \sum (1 - p_c) g_c, \quad tn_c = \sum (1 - p_c)(1 - g_c)

    With an ``activation``, ``probs`` are logits and the softmax or sigmoid is taken inside, block
    by block, in a small fraction of the logits' memory, forward and backward. That path has no pure
    forward mode (``jax.jvp``, ``jax.jacfwd``); ``soft_counts(jax.nn.softmax(logits), labels)`` has.

    Args:
      probs: float ``[..., C]``: probabilities, or logits if ``activation`` is given.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` (one-hot, soft,
        multi-label).
      activation: None, "softmax" (over classes, C > 1) or "sigmoid" (each class by itself).
      where: bool ``[...]``; False pixels do not count, whatever they hold, NaN included.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.

    Returns:
      ``Counts`` of float32 (float64 for float64 input) ``[..., C]``; half precision is summed in
      float32. A NaN in a valid pixel comes out as NaN.

    Raises:
      ValueError: shapes that do not fit, an unknown ``activation``, a softmax over one class,
        ``axis`` out of range, an empty map.
      TypeError: probabilities that are not floating point, float ids, ``where`` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> probs = jnp.array([[0.75, 0.25], [0.5, 0.5]])
      >>> jaxseg.soft_counts(probs, jnp.array([0, 1])).tp.tolist()
      [0.75, 0.5]
      >>> logits = jnp.array([[2.0], [-2.0]])
      >>> c = jaxseg.soft_counts(logits, jnp.array([1, 0]), activation="sigmoid")
      >>> jaxseg.dice(c).tolist()
      [0.8808]

    Note:
      Optax's and MONAI's Dice overflow in float16; SMP can compute the intersection by subtraction,
      which loses small objects to rounding.
    """
    c: Counts = soft_sums(prob_counts, probs, labels, activation, where, axis)
    # XLA may drop a NaN that is multiplied by a label of 0, in one of tp and fp: it makes all NaN.
    nan = c.tp + c.fp
    nan = jnp.where(jnp.isnan(nan), nan, 0)
    return Counts(*(leaf + nan for leaf in c))


def soft_sums(
    statistic: Callable[..., Any],
    probs: ArrayLike,
    labels: ArrayLike,
    activation: str | None,
    where: ArrayLike | None,
    axis: Axis,
    constants: Any = None,
) -> Any:
    """``statistic(probs, labels, where, axes, class_axis, constants)`` of checked arrays.

    A sum over pixels, defined at module level; that of logits is taken block by block.
    """
    name = "probs" if activation is None else "logits"
    probs, labels, where, axes = _checks.check_soft(name, probs, labels, where, axis)
    _checks.check_activation(activation, (None, "softmax", "sigmoid"), probs.shape[-1])
    if activation is None:
        labels, where = _checks.clean_bools(labels), _checks.clean_bools(where)
        return statistic(probs, labels, where, axes, -1, constants)
    if statistic is prob_counts and activation == "softmax" and labels.ndim < probs.ndim:
        return softmax_sums(probs, labels, where, axes)[0]
    of_logits = _of_logits(statistic, activation)
    return blocked_sum(of_logits, (probs, labels, where), constants, axes=axes)


def softmax_sums(
    logits: Array, ids: Array, where: Array | None, axes: tuple[int, ...]
) -> tuple[Counts, Array]:
    """Soft counts of a softmax against ids, and the sum of ``-log p_c`` over each class's pixels.

    Of checked arrays, C > 1; ``_kernels.softmax_sums`` has the formulas and the derivative.
    """
    return _counts_of(
        fused_sum(_softmax_sums, _fused_sums, _fused_gradient, (logits, ids, where), axes=axes)
    )


def softmax_sums_of_block(logits: Array, ids: Array, where: Array | None) -> tuple[Counts, Array]:
    """``softmax_sums`` of a block ``[*others, pixels, C]`` over its pixels."""
    return _counts_of(_block_sums(logits, ids, where, turns(logits.shape[-1])))


def _counts_of(sums: Any) -> tuple[Counts, Array]:
    tp, fp, fn, tn, surprise = sums
    # A NaN logit is in every fp, but XLA may drop a NaN that is multiplied by a label of 0.
    nan = jnp.where(jnp.isnan(fp), fp, 0)
    return Counts(tp=tp + nan, fp=fp, fn=fn + nan, tn=tn + nan), surprise


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _block_sums(logits: Array, ids: Array, where: Array | None, turned: bool) -> Any:
    return _fused_sums((logits, ids, where), turned)[0]


def _block_sums_forward(logits: Array, ids: Array, where: Array | None, turned: bool) -> Any:
    sums, p = _fused_sums((logits, ids, where), turned)
    return sums, (p, (logits, ids, where))


def _block_sums_backward(turned: bool, residuals: Any, cotangents: Any) -> Any:
    p, arrays = residuals
    return _fused_gradient(p, arrays, cotangents, turned), None, None


_block_sums.defvjp(_block_sums_forward, _block_sums_backward)


def _softmax_sums(
    arrays: Any, _: None, axes: tuple[int, ...], class_axis: int
) -> tuple[Array, ...]:
    """The kernel's sums, written plainly."""
    logits, ids, where = arrays
    x = valid_logits(logits, where, class_axis)
    counts = prob_counts(jax.nn.softmax(x, class_axis), ids, where, axes, class_axis)
    truth = truth_of(ids, where, x, class_axis)
    ce = jnp.where(truth, -jax.nn.log_softmax(x, class_axis), 0)
    return *counts, sum_in_turn(ce, axes)


def _fused_sums(arrays: Any, turned: bool) -> Any:
    logits, ids, where = arrays
    index = _own_class(ids, logits.shape[-1], where)
    return kernel.forward(valid_logits(logits, where, -1), index, where, turned)


def _fused_gradient(kept: Array, arrays: Any, cotangents: Any, turned: bool) -> Array:
    logits, ids, where = arrays
    index = _own_class(ids, logits.shape[-1], where)
    return kernel.backward(kept, index, cotangents, turned)


def _own_class(ids: Array, num_classes: int, where: Array | None) -> Array:
    """Index of each pixel's class, int32; ``num_classes`` where masked or of no class."""
    index = _class_index(ids, num_classes).astype(jnp.int32)
    return index if where is None else jnp.where(where, index, num_classes)


@cache  # the same function each time, so that it is compiled once
def _of_logits(statistic: Callable[..., Any], activation: str) -> Callable[..., Any]:
    def of_logits(arrays: Any, constants: Any, axes: tuple[int, ...], class_axis: int) -> Any:
        logits, labels, where = arrays
        probs = activate(valid_logits(logits, where, class_axis), activation, class_axis)
        return statistic(probs, labels, where, axes, class_axis, constants)

    return of_logits


def prob_counts(
    probs: Array,
    labels: Array,
    where: Array | None,
    axes: tuple[int, ...],
    class_axis: int = -1,
    _: None = None,
) -> Counts:
    """``soft_counts`` of checked arrays, written plainly: the formula itself."""
    p = _checks.at_least_float32(probs)
    g = truth_of(labels, where, p, class_axis)
    outside = ~g if g.dtype == bool else 1 - g
    valid = None if where is None else jnp.expand_dims(where, class_axis)
    if valid is not None:
        p = jnp.where(valid, p, 0)  # before the products: 0 * NaN is NaN

    def total(x: Array, g: Array) -> Array:
        product = jnp.where(g, x, 0) if g.dtype == bool else x * g
        product = product if valid is None else jnp.where(valid, product, 0)
        return sum_in_turn(product, axes)

    return Counts(
        tp=total(p, g), fp=total(p, outside), fn=total(1 - p, g), tn=total(1 - p, outside)
    )


def truth_of(labels: Array, where: Array | None, like: Array, class_axis: int) -> Array:
    """Labels as an array of the shape of ``like``, 0 where masked: bool, or floats if they are."""
    if labels.ndim < like.ndim:
        truth = membership(labels, like.shape[class_axis], class_axis)
    else:
        # Not half precision, which would round soft labels.
        dtype = jnp.float64 if like.dtype == jnp.float64 else jnp.float32
        truth = labels if labels.dtype == bool else labels.astype(dtype)
    if where is None:
        return truth
    return jnp.where(jnp.expand_dims(where, class_axis), truth, jnp.zeros((), truth.dtype))


def valid_logits(logits: Array, where: Array | None, class_axis: int) -> Array:
    """Logits for an activation: in float32 or better, and 0 where masked, so that gradients are."""
    logits = _checks.at_least_float32(logits)
    return logits if where is None else jnp.where(jnp.expand_dims(where, class_axis), logits, 0)


def activate(x: Array, activation: str | None, class_axis: int = -1) -> Array:
    """Probabilities of checked logits, or of themselves."""
    if activation is None:
        return x
    return jax.nn.softmax(x, class_axis) if activation == "softmax" else jax.nn.sigmoid(x)


def masks_of(labels: Array, where: Array | None, like: Array, class_axis: int = -1) -> Array:
    """``truth_of`` as bool: of float labels, 0.5 or more is the class."""
    if labels.ndim == like.ndim and labels.dtype != bool:
        labels = labels >= 0.5
    return truth_of(labels, where, like, class_axis)


def valid_pair(
    probs: Array, labels: Array, where: Array | None, class_axis: int
) -> tuple[Array, Array]:
    """Probabilities and the truth, both floats of one shape and 0 where masked."""
    p = _checks.at_least_float32(probs)
    if where is not None:
        p = jnp.where(jnp.expand_dims(where, class_axis), p, 0)
    return p, truth_of(labels, where, p, class_axis).astype(p.dtype)


def confusion_matrix(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    where: ArrayLike | None = None,
    axis: Axis = None,
) -> Array:
    r"""Confusion matrix of label maps: rows are true classes, columns predicted ones.

    .. math:: M_{ij} = \sum [g = i][p = j]

    Args:
      predictions: integer or bool ids ``[...]``.
      labels: true ids, in the same shape.
      num_classes: C, static. With 1, both are masks and id 1 is the class.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.

    Returns:
      int32 ``[..., C, C]``. A pixel whose true or predicted id is outside [0, C) has no cell. To
      keep such predictions as misses, which ``counts`` does, give them a class of their own:
      ``jnp.where((p >= 0) & (p < C), p, C)`` with ``num_classes=C + 1``.

    Raises:
      ValueError: shapes that differ, ``num_classes`` below 1 or above 46,339, ``axis`` out of
        range, an empty map, or 2**31 pixels or more.
      TypeError: float predictions or labels, ``where`` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> predictions = jnp.array([[0, 1, 1], [2, 2, 0]])
      >>> labels = jnp.array([[0, 1, 2], [2, 2, 0]])
      >>> jaxseg.confusion_matrix(predictions, labels, num_classes=3).tolist()
      [[2, 0, 0], [0, 1, 0], [0, 1, 2]]

    Note:
      TorchMetrics counts the pair (truth 0, prediction 3) of 3 classes in cell (1, 0); MONAI's
      matrix holds float32 binary counts per class instead.
    """
    num_classes = _checks.check_num_classes(num_classes)
    if (num_classes + 1) ** 2 >= 2**31:
        raise ValueError(
            "A confusion matrix has fewer than 2**31 cells, so at most 46,339 classes; "
            f"got {num_classes}."
        )
    predictions, labels, where, axes = _checks.check_hard(
        predictions, labels, where, axis, dense=False
    )
    return _confusion_matrix(predictions, labels, where, num_classes=num_classes, axes=axes)


@partial(jax.jit, static_argnames=("num_classes", "axes"))
def _confusion_matrix(
    predictions: Array,
    labels: Array,
    where: Array | None,
    *,
    num_classes: int,
    axes: tuple[int, ...],
) -> Array:
    return _pairs(predictions, labels, where, num_classes, axes)[..., :num_classes, :num_classes]


def _pairs(
    predictions: Array, labels: Array, where: Array | None, num_classes: int, axes: tuple[int, ...]
) -> Array:
    """Pixels of each pair of a true and a predicted class: int32 ``[..., C + 1, C + 1]``.

    The last row and column are those of no class.
    """
    size = num_classes + 1
    dtype = next(d for d in (jnp.uint8, jnp.uint16, jnp.uint32) if size**2 <= np.iinfo(d).max)

    def pair(p: Array, g: Array) -> Array:
        p, g = (_class_index(x, num_classes).astype(dtype) for x in (p, g))
        return g * size + p

    table = histogram(pair, (predictions, labels), where, size**2, axes)
    return table.reshape(*table.shape[:-1], size, size)


def _class_index(ids: Array, num_classes: int) -> Array:
    """Index of each id's class, unsigned; ``num_classes`` for an id of no class."""
    ids = _checks.clean_bools(ids)
    if ids.dtype not in (jnp.uint8, jnp.uint16) or num_classes > np.iinfo(ids.dtype).max:
        ids = ids.astype(jnp.uint64 if ids.dtype.itemsize == 8 else jnp.uint32)
    # Below zero, an unsigned number wraps to one above all classes.
    index = ids - 1 if num_classes == 1 else ids  # of a mask, id 1 is the class
    return jnp.minimum(index, num_classes)


def counts_from_confusion(matrix: ArrayLike) -> Counts:
    r"""``Counts`` per class from a confusion matrix.

    .. math:: tp_c = M_{cc}, \quad fp_c = \sum_{i \ne c} M_{ic}, \quad
              fn_c = \sum_{j \ne c} M_{cj}, \quad tn_c = \sum_{i \ne c, j \ne c} M_{ij}

    Args:
      matrix: integer or float ``[..., C, C]``, rows truth.

    Returns:
      ``Counts`` of the matrix's dtype ``[..., C]``, or of 32 bits if that has fewer. A NumPy
      matrix of 64-bit integers, such as a sum over a data set, stays in NumPy, exact.

    Raises:
      ValueError: a matrix that is not square.
      TypeError: a bool or complex matrix, or ``Counts``.

    Example:
      >>> import jaxseg
      >>> jaxseg.counts_from_confusion([[3, 1], [0, 6]]).fn.tolist()
      [1, 0]
    """
    m = _checks.check_matrix(matrix)
    if jnp.issubdtype(m.dtype, jnp.floating):
        return _float_counts_from_confusion(_checks.at_least_float32(m))
    m = m if m.dtype.itemsize >= 4 else m.astype(jnp.int32)
    tp = m.diagonal(axis1=-2, axis2=-1)
    fp = m.sum(-2, dtype=m.dtype) - tp
    fn = m.sum(-1, dtype=m.dtype) - tp
    total = m.sum((-2, -1), dtype=m.dtype)[..., None]
    return Counts(tp=tp, fp=fp, fn=fn, tn=total - tp - fp - fn)


def _float_counts_from_confusion(m: Array) -> Counts:
    """The sums as printed: a difference of floats would lose a small one beside a large cell."""
    tp = m.diagonal(axis1=-2, axis2=-1)
    other = ~jnp.eye(m.shape[-1], dtype=bool)
    off = jnp.where(jnp.expand_dims(other, tuple(range(m.ndim - 2))), m, 0)
    unequal = other.astype(m.dtype)
    tn = jnp.einsum("...ij,ci,cj->...c", m, unequal, unequal, precision="highest")
    return Counts(tp=tp, fp=off.sum(-2), fn=off.sum(-1), tn=tn)
