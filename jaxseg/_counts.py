"""Pixel counts per class of label maps, and confusion matrices: exact, in integers.

With weights they are floats.

Scores are functions of these sums (see ``_scores``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._arithmetic import Leaf, add, multiply
from jaxseg._checks import Axis
from jaxseg._histogram import add_pairs, histogram, sum_pairs, weighted_histogram
from jaxseg._kernels.blocks import At, Blocks, read, read_classes
from jaxseg._labels import class_index, masked
from jaxseg._sharding import on_shards

__all__ = ["Counts", "confusion_matrix", "counts", "counts_from_confusion"]

# Cells up to which counts come from a table of all pairs of classes: more leave the cache. Nor are
# they more than the pixels to count, unless these are few.
LARGE_TABLE = 2**18
SMALL_TABLE = 2**12


class Counts(NamedTuple):
    """True and false positives and negatives per class, in pixels: four arrays ``[..., C]``.

    Integers if hard (``counts``), floats if soft (``soft_counts``) or weighted. ``a + b`` adds leaf
    by leaf: the counts of two sets of images together. So does ``sum([a, b])``; leaves must have
    the same shapes, but ``Counts(0, 0, 0, 0)`` is the zero of any. ``2 * a`` and ``0.5 * a``
    multiply each leaf by a number or by an array that broadcasts to it; an integer leaf times a
    float is a float. Leaves of int32 wrap at 2**31: a ``Running`` does not.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> a = jaxseg.counts(jnp.array([0, 1]), jnp.array([0, 1]), num_classes=2)
      >>> (a + a).tp.tolist(), sum([a, a, a]).tp.tolist(), (0.5 * a).tp.tolist()
      ([2, 2], [3, 3], [0.5, 0.5])
    """

    tp: Leaf
    fp: Leaf
    fn: Leaf
    tn: Leaf

    def __add__(self, other: object) -> Counts:
        return add(self, other)

    def __radd__(self, other: object) -> Counts:
        return add(self, other)

    def __mul__(self, factor: object) -> Counts:
        return multiply(self, factor)

    def __rmul__(self, factor: object) -> Counts:
        return multiply(self, factor)


Counts.__array_ufunc__ = None  # type: ignore[attr-defined]  # NumPy leaves + and * to Counts
jax.export.register_namedtuple_serialization(Counts, serialized_name="jaxseg.Counts")


def counts(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
) -> Counts:
    r"""Pixel counts per class of predicted label maps against true ones, exact in int32.

    .. math:: tp_c = \sum w [p = c][g = c], \quad fp_c = \sum w [p = c][g \ne c], \quad
              fn_c = \sum w [p \ne c][g = c], \quad tn_c = \sum w [p \ne c][g \ne c]

    where :math:`w`, the weight of a pixel, is 1 without ``weights``.

    Args:
      predictions: integer or bool ids ``[...]``, or without ``num_classes`` bool masks ``[...,
        C]``.
      labels: the truth, in the same format and shape.
      num_classes: C, static. With 1, both are masks and id 1 is the class.
      where: bool ``[...]``; False pixels do not count, whatever they hold. For bool masks also
        ``[..., C]``: a class that is not annotated there does not count.
      weights: float ``[...]``, how much each pixel counts, finite and at least 0; an axis along
        which they are the same may have length 1, so ``[B, 1, 1]`` is one weight per image. For
        bool masks also ``[..., C]``.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.

    Returns:
      ``Counts`` of int32 ``[..., C]``; with ``weights``, of float32 (float64 for weights of
      float64), right to the last digit or two, without a derivative. An id outside [0, C) belongs
      to no class: a predicted one is a miss of the true class and no other's false positive.

    Raises:
      ValueError: shapes that differ, ``num_classes`` missing or below 1, ``axis`` out of range, an
        empty map, or 2**31 pixels or more.
      TypeError: float predictions or labels, ``where`` not bool, ``weights`` not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> predictions = jnp.array([[0, 1, 1], [2, 2, 0]])
      >>> labels = jnp.array([[0, 1, 2], [2, 2, 0]])
      >>> jaxseg.counts(predictions, labels, num_classes=3).tp.tolist()
      [2, 1, 2]
      >>> jaxseg.counts(predictions, labels, num_classes=3, axis=1).fn.tolist()  # per row
      [[0, 0, 1], [0, 0, 0]]
      >>> of_rows = jnp.array([[0.5], [2.0]])
      >>> jaxseg.counts(predictions, labels, num_classes=3, weights=of_rows).tp.tolist()
      [2.5, 0.5, 4.0]

    Note:
      metrax counts in float32, which stops growing at 2**24 pixels, and TorchMetrics' confusion
      matrix counts an out-of-range prediction as another class.
    """
    predictions, labels, where, axes = _checks.check_hard(
        predictions, labels, where, axis, dense=num_classes is None
    )
    if num_classes is None:
        *space, classes = predictions.shape
        if weights is not None:
            weights = _checks.check_weights(weights, tuple(space), classes)
        if weights is not None or (where is not None and where.ndim > len(space)):
            return _pair_counts(predictions, labels, where, weights, axes=axes)
        return _mask_counts(predictions, labels, where, axes=axes)
    num_classes = _checks.check_num_classes(num_classes)
    if weights is not None:
        weights = _checks.check_weights(weights, predictions.shape)
        return _weighted_id_counts(
            predictions, labels, where, weights, num_classes=num_classes, axes=axes
        )
    return _id_counts(predictions, labels, where, num_classes=num_classes, axes=axes)


@partial(jax.jit, static_argnames="axes")
def _mask_counts(
    predictions: Array, labels: Array, where: Array | None, *, axes: tuple[int, ...]
) -> Counts:
    """Counts of bool masks; each device counts the shard it holds."""
    maps = [x for x in (predictions, labels, where) if x is not None]
    space = [f"a{i}" for i in range(predictions.ndim - 1)]
    rest = " ".join(name for i, name in enumerate(space) if i not in axes)
    names = [" ".join((*space, "class")[: x.ndim]) for x in maps]
    local = lambda maps, _: jnp.stack(_local_mask_counts(maps, axes), -1)  # noqa: E731
    sums = on_shards(local, maps, names, f"{rest} class _")
    return Counts(*(sums[..., i] for i in range(4)))


def _local_mask_counts(maps: Sequence[Array], axes: tuple[int, ...]) -> tuple[Array, ...]:
    """The counts of maps on one device; on CPU block by block, since XLA keeps the four masks."""
    *space, classes = maps[0].shape

    def found(maps: Sequence[Array], class_axis: int = -1) -> list[Array]:
        p, g, *where = (_checks.clean_bools(x) for x in maps)
        pairs = (p & g, p & ~g, ~p & g, ~p & ~g)
        return [masked(x, where[0] if where else None, class_axis) for x in pairs]

    def plain(*maps: Array) -> list[Array]:
        return [x.sum(axes, dtype=jnp.int32) for x in found(maps)]

    def by_blocks(*maps: Array) -> list[Array]:
        blocks = Blocks.of(tuple(space), axes, classes, pixels_last=True)
        merged = [blocks.merge(x) for x in maps]

        def step(at: At, sums: list[Array]) -> list[Array]:
            classes = [jnp.swapaxes(read_classes(x, at), -1, -2) for x in merged[:2]]
            block = [*classes, *(read(x, at) for x in merged[2:])]
            parts = [blocks.sum(x.astype(jnp.int32), -2) for x in found(block, -2)]
            return [blocks.add_sums(x, part, at) for x, part in zip(sums, parts, strict=True)]

        zero = jnp.where(False, maps[0].ravel()[0].astype(jnp.int32), 0)
        sums = blocks.loop(step, [blocks.full_sums(zero, classes)] * 4)
        return [blocks.unmerge_sums(x) for x in sums]

    return tuple(lax.platform_dependent(*maps, cpu=by_blocks if space else plain, default=plain))


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

        def histogram_by_class(index: Callable[[Array, Array], Array]) -> Array:
            def of_indices(p: Array, g: Array) -> Array:
                p, g = (class_index(x, num_classes).astype(jnp.uint32) for x in (p, g))
                return index(p, g)

            return histogram(of_indices, maps, where, num_classes + 1, axes, at_once=3)

        tp = histogram_by_class(lambda p, g: jnp.where(p == g, p, num_classes))
        predicted = histogram_by_class(lambda p, _: p)
        true = histogram_by_class(lambda _, g: g)
    pixels_counted = true.sum(-1, dtype=jnp.int32)[..., None]
    tp, predicted, true = (x[..., :num_classes] for x in (tp, predicted, true))
    return Counts(tp=tp, fp=predicted - tp, fn=true - tp, tn=pixels_counted - predicted - true + tp)


@partial(jax.jit, static_argnames="axes")
def _pair_counts(
    predictions: Array,
    labels: Array,
    where: Array | None,
    weights: Array | None,
    *,
    axes: tuple[int, ...],
) -> Counts:
    """Counts of bool masks with weights, or a mask per class: histograms of four pairs of bools."""
    where, weights = (
        x if x is None or x.ndim == predictions.ndim else x[..., None] for x in (where, weights)
    )

    def pair(p: Array, g: Array) -> Array:
        p, g = (_checks.clean_bools(x).astype(jnp.uint8) for x in (p, g))
        return 2 * p + g

    maps = (predictions, labels)
    if weights is None:
        sums = histogram(pair, maps, where, 4, axes)
    else:
        sums = weighted_histogram((pair,), maps, weights, where, 4, axes).sum(-1)
    return Counts(tp=sums[..., 3], fp=sums[..., 2], fn=sums[..., 1], tn=sums[..., 0])


@partial(jax.jit, static_argnames=("num_classes", "axes"))
def _weighted_id_counts(
    predictions: Array,
    labels: Array,
    where: Array | None,
    weights: Array,
    *,
    num_classes: int,
    axes: tuple[int, ...],
) -> Counts:
    """Counts of id maps with weights: sums of floats, since differences would not be exactly 0."""
    size = num_classes + 1  # and no class
    if size**2 <= SMALL_TABLE:
        pairs = _pairs(predictions, labels, where, num_classes, axes, weights)
        return Counts(*(x[..., :num_classes] for x in _float_counts_from_confusion(pairs)))

    def predicted(p: Array, g: Array) -> Array:
        """The class predicted, rightly or wrongly."""
        p, g = (class_index(x, num_classes).astype(jnp.uint32) for x in (p, g))
        return jnp.where(p == g, p, size + p)

    def missed(p: Array, g: Array) -> Array:
        """The true class if another one is predicted, else no class."""
        p, g = (class_index(x, num_classes).astype(jnp.uint32) for x in (p, g))
        return 2 * size + jnp.where(p == g, num_classes, g)

    maps, indices = (predictions, labels), (predicted, missed)
    pairs = weighted_histogram(indices, maps, weights, where, 3 * size, axes)
    tp, fp, fn = (pairs[..., i * size : i * size + num_classes, :] for i in range(3))
    all_pixels = sum_pairs(pairs[..., 2 * size :, :], pairs.ndim - 2)[..., None, :]
    tn = add_pairs(jnp.broadcast_to(all_pixels, tp.shape), -add_pairs(tp, add_pairs(fp, fn)))
    tp, fp, fn, tn, everything = (pairs.sum(-1) for pairs in (tp, fp, fn, tn, all_pixels))
    rounding = float(np.finfo(tn.dtype).eps) * everything  # none is left if less than this is
    return Counts(tp=tp, fp=fp, fn=fn, tn=jnp.where(tn > rounding, tn, 0))


def confusion_matrix(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
) -> Array:
    r"""Confusion matrix of label maps: rows are true classes, columns predicted ones.

    .. math:: M_{ij} = \sum w [g = i][p = j]

    where :math:`w`, the weight of a pixel, is 1 without ``weights``.

    Args:
      predictions: integer or bool ids ``[...]``.
      labels: true ids, in the same shape.
      num_classes: C, static. With 1, both are masks and id 1 is the class.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, how much each pixel counts, finite and at least 0; an axis along
        which they are the same may have length 1, so ``[B, 1, 1]`` is one weight per image.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.

    Returns:
      int32 ``[..., C, C]``; with ``weights``, float32 (float64 for weights of float64), right to
      the last digit or two, without a derivative. A pixel whose true or predicted id is outside [0,
      C) has no cell. To keep such predictions as misses, which ``counts`` does, give them a class
      of their own: ``jnp.where((p >= 0) & (p < C), p, C)`` with ``num_classes=C + 1``.

    Raises:
      ValueError: shapes that differ, ``num_classes`` below 1 or above 46,339, ``axis`` out of
        range, an empty map, or 2**31 pixels or more.
      TypeError: float predictions or labels, ``where`` not bool, ``weights`` not floating.

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
    if weights is not None:
        weights = _checks.check_weights(weights, predictions.shape)
    return _confusion_matrix(
        predictions, labels, where, weights, num_classes=num_classes, axes=axes
    )


@partial(jax.jit, static_argnames=("num_classes", "axes"))
def _confusion_matrix(
    predictions: Array,
    labels: Array,
    where: Array | None,
    weights: Array | None,
    *,
    num_classes: int,
    axes: tuple[int, ...],
) -> Array:
    pairs = _pairs(predictions, labels, where, num_classes, axes, weights)
    return pairs[..., :num_classes, :num_classes]


def _pairs(
    predictions: Array,
    labels: Array,
    where: Array | None,
    num_classes: int,
    axes: tuple[int, ...],
    weights: Array | None = None,
) -> Array:
    """Pixels, or weights, of each pair of a true and a predicted class: ``[..., C + 1, C + 1]``.

    The last row and column are those of no class.
    """
    size = num_classes + 1
    dtype = next(d for d in (jnp.uint8, jnp.uint16, jnp.uint32) if size**2 <= np.iinfo(d).max)

    def pair(p: Array, g: Array) -> Array:
        p, g = (class_index(x, num_classes).astype(dtype) for x in (p, g))
        return g * size + p

    maps = (predictions, labels)
    if weights is None:
        table = histogram(pair, maps, where, size**2, axes)
    else:
        table = weighted_histogram((pair,), maps, weights, where, size**2, axes).sum(-1)
    return table.reshape(*table.shape[:-1], size, size)


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
    pixels = m.sum((-2, -1), dtype=m.dtype)[..., None]
    return Counts(tp=tp, fp=fp, fn=fn, tn=pixels - tp - fp - fn)


def _float_counts_from_confusion(m: Array) -> Counts:
    """The sums as printed: a difference of floats would lose a small one beside a large cell."""
    tp = m.diagonal(axis1=-2, axis2=-1)
    other = ~jnp.eye(m.shape[-1], dtype=bool)
    off = jnp.where(jnp.expand_dims(other, tuple(range(m.ndim - 2))), m, 0)
    unequal = other.astype(m.dtype)
    tn = jnp.einsum("...ij,ci,cj->...c", m, unequal, unequal, precision="highest")
    return Counts(tp=tp, fp=off.sum(-2), fn=off.sum(-1), tn=tn)
