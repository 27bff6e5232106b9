"""Exact Euclidean distance transforms under ``jit``, in any dimension, one axis after another."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from jaxseg import _checks
from jaxseg._kernels import forms
from jaxseg._sharding import Cut, on_shards, placed_as, uncut

__all__ = ["centre_distance", "distance_transform", "signed_distance"]

Spacing = ArrayLike | Sequence[float]
Spacings = Array | tuple[Array, ...]  # one for all axes, or one per axis
# The minimum of squares and of the squared steps from them, along an axis, of a step's length.
Least = Callable[[Array, int, Array | None], Array]
Pointwise = Callable[[Array], Array]

_FAR = 2**30  # more steps than an axis has, and more squared steps than a small image has

# On CPU, of lines side by side; XLA shares an operation on a tile among the cores.
_LINES, _TILE, _GROUP = 512, 64, 16
_STEPPED_LINES = 2**13  # of which an extent's first sweep takes one row after another
_LEAST_ROW = 16  # pixels of a row for which a loop over the rows is faster than cumulative maxima
# On other platforms, the longest axis for which comparisons are faster than cumulative maxima.
_MOST_COMPARED = 512


def distance_transform(mask: ArrayLike, *, spacing: Spacing = 1.0) -> Array:
    r"""Euclidean distance of each pixel to the nearest True pixel.

    .. math:: d(x) = \min_{y : mask(y)} \lVert (x - y) \cdot spacing \rVert_2

    Args:
      mask: bool ``[*space]``, of one axis or more; ``jax.vmap`` for a batch.
      spacing: distance of neighbouring pixels: a number, or one per axis, in the order of the axes.

    Returns:
      Float32 ``[*space]``, in the units of ``spacing``; inf where no pixel is True. Squared
      distances are compared exactly, in integers, if the spacing is one number and the diagonal of
      the image is shorter than 32,768 pixels; otherwise in float32, with a relative error of about
      1e-7.

    Raises:
      TypeError: a mask that is not bool, a spacing that is not a real number.
      ValueError: an empty mask or one without axes, an axis longer than 2**30, another number of
        spacings than of axes, or a spacing that is not positive and finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> mask = jnp.array([[True, False, False], [False, False, False]])
      >>> jaxseg.distance_transform(mask).tolist()
      [[0., 1., 2.], [1., 1.4142, 2.2361]]
      >>> jaxseg.distance_transform(mask, spacing=(3.0, 1.0)).tolist()
      [[0., 1., 2.], [3., 3.1623, 3.6056]]

    References:
      P. F. Felzenszwalb and D. P. Huttenlocher, "Distance transforms of sampled functions", 2012:
      the separation by axes.

    Note:
      SciPy's ``distance_transform_edt`` measures to the nearest zero, that of ``~mask``, and to a
      point outside the image if there is none.
    """
    mask = check_mask(mask)
    return distances_along(mask, tuple(range(mask.ndim)), axis_spacings(spacing, mask.ndim))


def signed_distance(mask: ArrayLike, *, spacing: Spacing = 1.0) -> Array:
    r"""Distance to the mask from outside it, and minus the distance to its outside from within.

    .. math:: \phi(x) = d_{mask}(x) - d_{\neg mask}(x)

    Args:
      mask: bool ``[*space]``, of one axis or more; ``jax.vmap`` for a batch.
      spacing: as in ``distance_transform``.

    Returns:
      Float32 ``[*space]``, in the units of ``spacing``: positive outside, negative inside, never 0;
      inf if no pixel is True, -inf if all are.

    Raises:
      TypeError, ValueError: as ``distance_transform``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> jaxseg.signed_distance(jnp.array([False, False, True, True, True])).tolist()
      [2., 1., -1., -2., -3.]

    Note:
      The authors' code for the boundary loss adds 1 inside, so that the mask's outermost pixels
      have distance 0.
    """
    mask = check_mask(mask)
    space, spacings = tuple(range(mask.ndim)), axis_spacings(spacing, mask.ndim)
    to_mask = distances_along(mask, space, spacings)
    # Always so, but known after the first: both transforms use the same memory.
    outside = ~mask & (to_mask >= 0)
    return to_mask - distances_along(outside, space, spacings)


def centre_distance(predictions: ArrayLike, labels: ArrayLike, *, spacing: Spacing = 1.0) -> Array:
    r"""Distance between the centres of mass of two masks.

    .. math:: \left\lVert \left(\frac{1}{|P|} \sum_{x \in P} x - \frac{1}{|G|} \sum_{x \in G} x
              \right) \cdot spacing \right\rVert_2

    Args:
      predictions: bool ``[*space]``, of one axis or more; ``jax.vmap`` for a batch, or for classes.
      labels: the true mask, of the same shape.
      spacing: as in ``distance_transform``.

    Returns:
      Float32 ``[]``, in the units of ``spacing``: inf if one mask is empty, NaN if both are.

    Raises:
      TypeError, ValueError: as ``distance_transform``; masks of different shapes, or of 2**31
        pixels or more.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((6, 8), bool).at[1:3, 1:3].set(True)
      >>> jaxseg.centre_distance(jnp.roll(labels, (3, 4), (0, 1)), labels).item()
      5.
      >>> predictions, labels = jnp.array([[0, 1, 1, 2], [2, 2, 0, 1]])
      >>> one_hot = [jax.nn.one_hot(x, 3, dtype=bool) for x in (predictions, labels)]
      >>> jax.vmap(jaxseg.centre_distance, -1)(*one_hot).tolist()  # of each class
      [2., 1.5, 2.5]

    Note:
      MetricsReloaded returns -1 where a mask is empty, so that a missed object improves its mean.
    """
    p, g = check_mask(predictions, "predictions"), check_mask(labels, "labels")
    check_pair(p, g)
    return _centre_distance(p, g, axis_spacings(spacing, p.ndim))


@jax.jit
def _centre_distance(p: Array, g: Array, spacings: Spacings) -> Array:
    sizes = [x.sum(dtype=jnp.int32) for x in (p, g)]
    per_axis = jnp.broadcast_to(jnp.asarray(spacings, jnp.float32), (p.ndim,))
    offsets = []
    for axis in range(p.ndim):
        others = tuple(a for a in range(p.ndim) if a != axis)
        shares = [
            x.sum(others, dtype=jnp.int32) / jnp.maximum(size, 1)
            for x, size in zip((p, g), sizes, strict=True)
        ]
        index = jnp.arange(p.shape[axis], dtype=jnp.float32)
        index -= jnp.round((shares[0] * index).sum())  # so that sums round by the mask's size
        offsets.append((index * (shares[0] - shares[1])).sum())
    steps = jnp.stack(offsets) * per_axis
    largest = jnp.abs(steps).max()
    unit = jnp.where(largest == 0, 1, largest)  # squares stay in range
    distance = unit * jnp.sqrt(((steps / unit) ** 2).sum())
    distance = jnp.where(jnp.minimum(*sizes) == 0, jnp.inf, distance)
    return jnp.where(jnp.maximum(*sizes) == 0, jnp.nan, distance)


@partial(jax.jit, static_argnames="axes")
def distances_along(
    mask: Array, axes: tuple[int, ...], spacings: Spacings, extent: Array | None = None
) -> Array:
    """``distance_transform`` over some ``axes`` of a mask; the others are batch axes.

    Every pixel may need every other along these axes, so a device gets all of them.

    A mask may be larger than its image, so that images of many sizes need one program: ``extent``
    is then the image's size along the axes, int32 ``[len(axes)]``. The image begins at the first
    pixel, and the mask is False beyond it, where the distances may be anything. On CPU this takes
    about the time that the image alone takes.
    """
    sides = [mask.shape[axis] for axis in axes]
    if max(sides) > _FAR:
        raise ValueError(f"A spatial axis can have up to 2**30 pixels; got shape {mask.shape}.")
    whole = uncut(mask, axes)
    if not isinstance(spacings, tuple) and sum(n * n for n in sides) < _FAR:
        are_floats = sum((n - 1) ** 2 for n in sides) <= 2**24

        def roots_of(squares: Array) -> Array:
            roots = jnp.sqrt(squares.astype(jnp.float32)) if are_floats else _root(squares)
            return jnp.where(squares < _FAR, roots, jnp.inf)

        roots = _roots_along(whole, axes, None, roots_of, extent)
        distances = _times(roots, jnp.asarray(spacings, jnp.float32))
    else:
        per_axis = jnp.broadcast_to(jnp.asarray(spacings, jnp.float32), (len(axes),))
        # Dividing by a power of two rounds nothing, and squares stay in range.
        largest = lax.stop_gradient(per_axis.max())
        unit = jnp.ldexp(jnp.float32(1), jnp.frexp(largest)[1] - 1)
        distances = _roots_of_steps(axes, whole, per_axis / unit, extent) * unit
    return placed_as(distances, jax.typeof(mask).sharding.spec)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _roots_of_steps(
    axes: tuple[int, ...], mask: Array, steps: Array, extent: Array | None
) -> Array:
    return _roots_along(mask, axes, steps, jnp.sqrt, extent)


@_roots_of_steps.defjvp
def _roots_of_steps_jvp(
    axes: tuple[int, ...], primals: tuple[Array, Array, Array | None], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    """By the form in which JAX differentiates every operation, and XLA partitions it."""
    (mask, steps, _), (_, d_steps, _) = primals, tangents

    def roots_of(squares: Array) -> Array:
        is_there = squares == 0  # where a root has no derivative
        return jnp.where(is_there, 0, jnp.sqrt(jnp.where(is_there, 1, squares)))

    def differentiable(steps: Array) -> Array:
        return _by_rows(axes, roots_of, _offer_rows, mask, steps)

    roots: tuple[Array, Array] = jax.jvp(differentiable, (steps,), (d_steps,))
    return roots


def _roots_along(
    mask: Array,
    axes: tuple[int, ...],
    steps: Array | None,
    roots_of: Pointwise,
    extent: Array | None = None,
) -> Array:
    """Roots of squared distances, on each device of its shard.

    Squares are int32 of pixels, or float32 of ``steps``.

    Axis by axis, each pixel becomes the minimum over its whole line. That is more arithmetic than
    the lower envelope of parabolas needs, but nothing in it depends on the pixel, so a CPU's
    vectors and a GPU's threads are all busy.
    """
    names = " ".join("_" if a in axes else f"a{a}" for a in range(mask.ndim))

    def local(arrays: tuple[Array, Array | None, Array | None], _: Cut | None) -> Array:
        each = {
            "cpu": partial(_by_blocks, axes, roots_of),
            "cuda": partial(_by_rows, axes, roots_of, forms.distance_kernel() or _offer_rows),
            "default": partial(_by_rows, axes, roots_of, _offer_rows),
        }
        roots: Array = lax.platform_dependent(*arrays, **each)
        return roots

    arrays = (mask, steps, extent)
    return on_shards(local, arrays, (names, *(x if x is None else "_" for x in arrays[1:])), names)


def _by_rows(
    axes: tuple[int, ...],
    roots_of: Pointwise,
    least: Least,
    mask: Array,
    steps: Array | None = None,
    _: Array | None = None,
) -> Array:
    """The form of all platforms but CPU: each row of pixels is offered to all others."""
    first, *others = axes
    each = [None] * len(axes) if steps is None else list(steps)
    if mask.shape[first] <= _MOST_COMPARED:
        here = _of_steps(jnp.where(mask, 0, jnp.int32(_FAR)), each[0])
        squares = least(here, first, each[0])
    else:
        squares = _of_steps(_steps_to(mask, first), each[0])
    for axis, step in zip(others, each[1:], strict=True):
        squares = least(squares, axis, step)
    return roots_of(squares)


def _offer_rows(squares: Array, axis: int, step: Array | None) -> Array:
    """The minimum of ``squares[j] + ((i - j) step)^2`` over j along ``axis``."""
    n = squares.shape[axis]
    at = jnp.arange(n, dtype=jnp.int32).reshape(n, *(1 for _ in squares.shape[axis + 1 :]))
    at = lax.expand_dims(at, range(axis))

    def offer(row: Array, least: Array) -> Array:
        value = lax.dynamic_index_in_dim(squares, row, axis)
        return jnp.minimum(least, value + _square(at - row, step))

    return lax.fori_loop(0, n, offer, squares, unroll=8)


def _by_blocks(
    axes: tuple[int, ...],
    roots_of: Pointwise,
    mask: Array,
    steps: Array | None = None,
    extent: Array | None = None,
) -> Array:
    """The form of CPUs: in blocks of lines that fit a cache, and of these the rows that may count.

    Under ``vmap`` the batch is one more axis: a loop that ends sooner for one image than for
    another would do for all what it does for any, and copy its carry.
    """
    if extent is not None:
        return _sweep_extent(axes, roots_of, mask, steps, extent)

    @jax.custom_batching.custom_vmap
    def run(mask: Array, *steps: Array) -> Array:
        return _sweep_blocks(axes, roots_of, mask, *steps)

    @run.def_vmap
    def batch(size: int, batched: Sequence[bool], *arrays: Array) -> tuple[Array, bool]:
        if batched[1:] == [True]:
            masks, steps = arrays
            masks = masks if batched[0] else jnp.broadcast_to(masks, (size, *masks.shape))
            return lax.map(lambda each: _by_blocks(axes, roots_of, *each), (masks, steps)), True
        return _by_blocks(tuple(a + 1 for a in axes), roots_of, *arrays), True

    roots: Array = run(mask) if steps is None else run(mask, steps)
    return roots


def _sweep_blocks(
    axes: tuple[int, ...], roots_of: Pointwise, mask: Array, steps: Array | None = None
) -> Array:
    first, *others = axes
    each = [None] * len(axes) if steps is None else list(steps)
    none = mask.shape[first]

    def squared(away: Array) -> Array:
        return _of_steps(jnp.where(away < none, away.astype(jnp.int32), _FAR), each[0])

    x = _steps_on_cpu(mask, first)
    read: Pointwise = squared
    if not others:
        return roots_of(read(x))
    for axis, step in zip(others, each[1:], strict=True):
        # The last sweep writes roots, so that squares and roots are not in memory together.
        write = roots_of if axis == axes[-1] else _same
        x, read = _sweep(x, read, write, axis, step), _same
    return x


def _same(x: Array) -> Array:
    return x


def _steps_on_cpu(mask: Array, axis: int, end: int | Array | None = None) -> Array:
    """Steps to the nearest True pixel along ``axis``, in few bytes; n if there is none.

    Beyond ``end`` the mask is False, and the steps may be anything.
    """
    n = mask.shape[axis]
    dtype = jnp.int16 if n < 2**15 else jnp.int32
    rows = mask.reshape(math.prod(mask.shape[:axis]), n, -1)
    if rows.shape[2] < _LEAST_ROW:
        return jnp.minimum(_steps_to(mask, axis), n).astype(dtype)

    def go(away: Array, to: Array, came_from: Array) -> Array:
        before = lax.dynamic_index_in_dim(away, came_from, 1)
        nearest = jnp.minimum(lax.dynamic_index_in_dim(away, to, 1), jnp.minimum(before, n - 1) + 1)
        return lax.dynamic_update_index_in_dim(away, nearest, to, 1)

    end = n if end is None else end
    away = jnp.where(rows, 0, n).astype(dtype)
    away = lax.fori_loop(1, end, lambda i, away: go(away, i, i - 1), away)
    away = lax.fori_loop(1, end, lambda i, away: go(away, end - 1 - i, end - i), away)
    return away.reshape(mask.shape)


def _sweep(x: Array, read: Pointwise, write: Pointwise, axis: int, step: Array | None) -> Array:
    """The minimum of ``read(x)[j] + ((i - j) step)^2`` over j along ``axis``, block by block.

    ``write`` is applied to it.
    """
    shape = x.shape
    x = x.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    before, n, after = x.shape
    width = min(after, _LINES)
    height = min(before, max(1, _LINES // width))
    across = -(-after // width)

    def of_block(k: Array, out: Array) -> Array:
        # The last blocks lie over those before them where the sides are not whole multiples.
        top = jnp.minimum(k // across * height, before - height)
        left = jnp.minimum(k % across * width, after - width)
        block = lax.dynamic_slice(x, (top, 0, left), (height, n, width))
        lines = read(block).swapaxes(0, 1).reshape(n, height * width)
        least = _least_of_lines(lines, step).reshape(n, height, width).swapaxes(0, 1)
        return lax.dynamic_update_slice(out, write(least), (top, 0, left))

    # All of it is overwritten. Zeros would be shared by all transforms of a program, and kept.
    start = x.astype(jax.eval_shape(lambda x: write(_of_steps(read(x), step)), x).dtype)
    return lax.fori_loop(0, -(-before // height) * across, of_block, start).reshape(shape)


def _least_of_lines(lines: Array, step: Array | None, end: int | Array | None = None) -> Array:
    """The minimum of ``lines[j] + ((i - j) step)^2`` over j, for lines ``[n, lines]``.

    Results come in tiles of rows, offers in groups of rows. The least value of a group tells how
    small and how large its best offer to a tile may be. A group whose best is larger than
    another's worst, in each of the lines, has nothing to offer. The line ends at ``end``, which
    is the end of a group.
    """
    n = lines.shape[0]
    end = n if end is None else end
    rows, offers = min(n, _TILE), min(n, _GROUP)
    tiles, groups = -(-n // rows), -(-n // offers)
    # The last of each ends at the last row, and lies over the one before.
    tile_starts = jnp.minimum(jnp.arange(tiles, dtype=jnp.int32) * rows, n - rows)
    group_starts = jnp.minimum(jnp.arange(groups, dtype=jnp.int32) * offers, n - offers)
    ahead = group_starts[None] - tile_starts[:, None]
    nearest = jnp.maximum(0, jnp.maximum(ahead - (rows - 1), -ahead - (offers - 1)))
    farthest = jnp.maximum(ahead + (offers - 1), rows - 1 - ahead)
    nearest, farthest = _square(nearest, step), _square(farthest, step)

    def least_of_group(k: Array, least: Array) -> Array:
        group = lax.dynamic_slice_in_dim(lines, group_starts[k], offers).min(0, keepdims=True)
        return lax.dynamic_update_slice_in_dim(least, group, k, 0)

    least = _like(lines[:groups], _far(lines))
    least = lax.fori_loop(0, -(-end // offers), least_of_group, least)
    worst = lax.fori_loop(
        0,
        groups,
        lambda k, worst: jnp.minimum(worst, least[k][None] + farthest[:, k, None]),
        _like(lines[:tiles], _far(lines)),
        unroll=min(groups, 8),
    )
    best = least[None] + nearest[..., None]
    counts = ((best <= worst[:, None]) & (least < _far(lines))[None]).any(-1)
    first = jnp.argmax(counts, 1)
    last = jnp.where(counts.any(1), groups - jnp.argmax(counts[:, ::-1], 1), 0)
    at = lax.iota(jnp.int32, rows)[:, None]

    def of_tile(t: Array, out: Array) -> Array:
        def offer(k: Array, least: Array) -> Array:
            for row in range(offers):
                j = group_starts[k] + row
                value = lax.dynamic_index_in_dim(lines, j, 0)
                least = jnp.minimum(least, value + _square(tile_starts[t] - j + at, step))
            return least

        tile = lax.fori_loop(first[t], last[t], offer, _like(lines[:rows], _far(lines)))
        return lax.dynamic_update_slice_in_dim(out, tile, tile_starts[t], 0)

    return lax.fori_loop(0, -(-end // rows), of_tile, _like(lines, 0))


def _sweep_extent(
    axes: tuple[int, ...], roots_of: Pointwise, mask: Array, steps: Array | None, extent: Array
) -> Array:
    """As ``_sweep_blocks``, in about the time that the image in a larger mask takes alone.

    Loops over blocks, groups and tiles end where the image does. One array holds the squares, bit
    by bit, and in the end the roots: a sweep takes no longer than new memory for all of the mask.
    """
    ends: list[int | Array] = list(mask.shape)
    for k, axis in enumerate(axes):  # the last group is filled up by pixels that are False
        ends[axis] = jnp.minimum(-(-extent[k] // _GROUP) * _GROUP, mask.shape[axis])
    each = [None] * len(axes) if steps is None else list(steps)
    far = _far(jnp.zeros((), jnp.int32 if steps is None else jnp.float32))
    of_bits = partial(lax.bitcast_convert_type, new_dtype=far.dtype)
    to_bits = partial(lax.bitcast_convert_type, new_dtype=jnp.float32)

    def of_mask(step: Array | None, end: int | Array, lines: Array) -> Array:
        away = _steps_on_cpu(lines, 0, end)
        return _of_steps(jnp.where(away < len(lines), away.astype(jnp.int32), _FAR), step)

    def of_squares(step: Array | None, end: int | Array, lines: Array) -> Array:
        return _least_of_lines(of_bits(lines), step, end)

    x = _like(mask, to_bits(far), jnp.float32)
    for axis, step in zip(axes, each, strict=True):
        write = roots_of if axis == axes[-1] else to_bits
        if axis == axes[0]:
            sides = _sides(mask.shape, axis, _STEPPED_LINES, min)
            x = _in_blocks(partial(of_mask, step, ends[axis]), write, sides, axis, ends, x, mask)
        else:
            sides = _sides(mask.shape, axis, _LINES, math.gcd)
            x = _in_blocks(partial(of_squares, step, ends[axis]), write, sides, axis, ends, x)
    return x


def _sides(
    shape: tuple[int, ...], axis: int, lines: int, fit: Callable[[int, int], int]
) -> tuple[int, ...]:
    """The shape of a block of up to so many whole lines along an axis, about as wide as high.

    ``fit(n, limit)`` is a side of a block along an axis of n pixels.
    """
    most, sides = 1 << (lines.bit_length() // 2), list(shape)
    for a in reversed([a for a in range(len(shape)) if a != axis]):
        sides[a] = fit(shape[a], min(most, lines))
        lines //= sides[a]
    return tuple(sides)


def _in_blocks(
    of_lines: Pointwise,
    write: Pointwise,
    sides: tuple[int, ...],
    axis: int,
    ends: Sequence[int | Array],
    x: Array,
    source: Array | None = None,
) -> Array:
    """Overwrite ``x`` by a function of its lines along an axis, or by one of those of ``source``.

    Lines ``[n, lines]`` come in blocks that begin before the ends. The last blocks may lie over
    those before them, but not without a ``source``: then each block is read once.
    """
    counts = [1 if a == axis else -(-ends[a] // side) for a, side in enumerate(sides)]

    def of_block(k: Array, x: Array) -> Array:
        starts: list[int | Array] = []
        for count, side in zip(reversed(counts), reversed(sides), strict=True):
            starts, k = [k % count * side, *starts], k // count
        block = lax.dynamic_slice(x if source is None else source, starts, sides)
        lines = jnp.moveaxis(block, axis, 0)
        found = of_lines(lines.reshape(len(lines), -1)).reshape(lines.shape)
        return lax.dynamic_update_slice(x, write(jnp.moveaxis(found, 0, axis)), starts)

    return lax.fori_loop(0, math.prod(counts), of_block, x)


def _of_steps(count: Array, step: Array | None) -> Array:
    """The square of so many steps along the first axis; of ``_FAR`` steps, that of no pixel."""
    square = _square(count, step)
    return jnp.where(count < _FAR, square, _far(square))


def _square(count: Array, step: Array | None) -> Array:
    """The square of so many steps."""
    return count * count if step is None else (count.astype(jnp.float32) * step) ** 2


def _far(squares: Array) -> Array:
    """What stands for no pixel among such squares."""
    return jnp.asarray(_FAR if squares.dtype == jnp.int32 else jnp.inf, squares.dtype)


def _like(x: Array, value: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """As ``jnp.full_like``; in a ``shard_map``, it varies over the same mesh axes as ``x``."""
    x = x if dtype is None else x.astype(dtype)
    return jnp.where(False, x, jnp.asarray(value, x.dtype))


def axis_spacings(spacing: Spacing, ndim: int) -> Array | tuple[Array, ...]:
    """Check the spacing: one scalar for all axes, or a tuple of one scalar per axis."""
    if isinstance(spacing, np.ndarray | np.generic):
        spacing = spacing.tolist()
    is_number = isinstance(spacing, Array) and spacing.ndim == 0
    if is_number or isinstance(spacing, str) or not isinstance(spacing, Sequence | Array):
        return _check_spacing(spacing)
    if len(spacing) != ndim:
        raise ValueError(
            f"spacing must be a number or one for each of {ndim} axes, got {len(spacing)}."
        )
    return tuple(_check_spacing(step) for step in spacing)


def _check_spacing(step: object) -> Array:
    smallest, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    rule = "positive and finite in float32"
    return _checks.check_scalar("spacing", step, rule, lambda x: smallest <= x <= largest)


def check_spatial_axes(spatial_axes: Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Check the spatial axes of a label map; by default all but the first, which is the batch."""
    if spatial_axes is None and ndim == 2:
        raise ValueError(
            "A label map of two axes is one image or a batch of signals: give spatial_axes=(0, 1) "
            "for one image [H, W], as inside jax.vmap over images, or spatial_axes=(1,) for "
            "signals [batch, W]."
        )
    if spatial_axes is None:
        spatial_axes = range(1, ndim)
    rule = (
        "spatial_axes must be a tuple of the axes of the label map that are space, such as (1, 2) "
        "for images [batch, H, W]"
    )
    try:
        if any(isinstance(a, bool | np.bool_) for a in spatial_axes):
            raise TypeError
        axes = tuple(operator.index(a) for a in spatial_axes)
    except TypeError:
        raise TypeError(f"{rule}; got {spatial_axes!r}.") from None
    if not axes:
        raise ValueError(
            "Space needs an axis: label maps are [batch, *space] unless spatial_axes says which "
            f"axes are space, as (0,) for one signal [W]; got a map of {ndim} axes."
        )
    if not all(-ndim <= a < ndim for a in axes):
        raise ValueError(f"spatial_axes {axes} are out of range of the label map's {ndim} axes.")
    if len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"spatial_axes names the same axis twice: {axes}.")
    return tuple(sorted(a % ndim for a in axes))


def shift(x: Array, step: int, axis: int, fill: ArrayLike) -> Array:
    """Move ``x`` by ``step`` pixels along ``axis``; ``fill`` goes where no pixel moves in."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (step, -step, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), padding)


def _steps_to(mask: Array, axis: int) -> Array:
    """Steps to the nearest True pixel along ``axis``, as int32; ``_FAR`` if there is none."""
    index = lax.broadcasted_iota(jnp.int32, mask.shape, axis)
    before = lax.cummax(jnp.where(mask, index, -_FAR), axis)
    after = lax.cummin(jnp.where(mask, index, 2 * _FAR - 1), axis, reverse=True)
    nearest = jnp.minimum(index - before, after - index)
    return jnp.minimum(nearest, _FAR)


@jax.custom_jvp
def _times(roots: Array, spacing: Array) -> Array:
    """Roots, which have no derivative, times a spacing; that of an infinite one is 0."""
    return roots * spacing


@_times.defjvp
def _times_jvp(values: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    roots, spacing = values
    return _times(roots, spacing), jnp.where(roots < jnp.inf, roots, 0) * tangents[1]


def _root(squares: Array) -> Array:
    """Square roots of int32, rounded once: the integer part is exact, the fraction small."""
    root = jnp.sqrt(squares.astype(jnp.float32))
    whole = root.astype(jnp.int32)
    remainder = (squares - whole * whole).astype(jnp.float32)
    divisor = whole.astype(jnp.float32) + root
    return whole.astype(jnp.float32) + remainder / jnp.where(divisor == 0, 1, divisor)


def check_pair(p: Array, g: Array) -> None:
    """Check that two masks are of one shape, and not too large to count in int32."""
    if p.shape != g.shape:
        raise ValueError(
            f"predictions and labels must have the same shape, got {p.shape} and {g.shape}."
        )
    if p.size >= 2**31:
        raise ValueError(f"A mask must have fewer than 2**31 pixels; got shape {p.shape}.")


def check_mask(mask: ArrayLike, name: str = "mask") -> Array:
    """Check a bool mask ``[*space]``."""
    mask = _checks.as_array(mask)
    if mask.dtype != bool:
        raise TypeError(f"{name} must be bool, got {mask.dtype}; of class ids: labels == 1.")
    if mask.ndim == 0 or mask.size == 0:
        raise ValueError(f"{name} must be [*space] and not empty, got shape {mask.shape}.")
    return mask
