"""Exact Euclidean distance transforms under ``jit``, in any dimension, one axis after another."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._sharding import placed_as, uncut

__all__ = ["centre_distance", "distance_transform", "signed_distance"]

Spacing = ArrayLike | Sequence[float]
Spacings = Array | tuple[Array, ...]  # one for all axes, or one per axis
_Round = tuple[Array, Array, Array, Array]  # whether one changed, k, the minima, those that move

_FAR = 2**30  # more steps than an axis has, and more squared steps than a small image has


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
    return distances_along(mask, space, spacings) - distances_along(~mask, space, spacings)


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
    if p.shape != g.shape:
        raise ValueError(
            f"predictions and labels must have the same shape, got {p.shape} and {g.shape}."
        )
    if p.size >= 2**31:
        raise ValueError(f"A mask must have fewer than 2**31 pixels; got shape {p.shape}.")
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
    empty = jnp.minimum(*sizes) == 0
    return jnp.where(empty, jnp.where(jnp.maximum(*sizes) == 0, jnp.nan, jnp.inf), distance)


@partial(jax.jit, static_argnames="axes")
def distances_along(mask: Array, axes: tuple[int, ...], spacings: Spacings) -> Array:
    """``distance_transform`` over some ``axes`` of a mask; the others are batch axes.

    Every pixel may need every other along these axes, so a device gets all of them.
    """
    distances = _distances_along(uncut(mask, axes), axes, spacings)
    return placed_as(distances, jax.typeof(mask).sharding.spec)


def _distances_along(mask: Array, axes: tuple[int, ...], spacings: Spacings) -> Array:
    sides = [mask.shape[axis] for axis in axes]
    if max(sides) > _FAR:
        raise ValueError(f"A spatial axis can have up to 2**30 pixels; got shape {mask.shape}.")
    steps = _steps_to(mask, axes[0])
    if not isinstance(spacings, tuple) and sum(n * n for n in sides) < _FAR:
        squares = jnp.where(steps < _FAR, steps * steps, _FAR)
        for axis in axes[1:]:
            squares = _sweep(squares, axis, 1)
        lengths = _root(squares) * jnp.asarray(spacings, jnp.float32)
        return jnp.where(squares < _FAR, lengths, jnp.inf)
    per_axis = jnp.broadcast_to(jnp.asarray(spacings, jnp.float32), (len(axes),))
    # Dividing by a power of two rounds nothing, and squares stay in range.
    unit = jnp.ldexp(jnp.float32(1), jnp.frexp(per_axis.max())[1] - 1)
    first, *others = per_axis / unit
    squares = jnp.where(steps < _FAR, (steps.astype(jnp.float32) * first) ** 2, jnp.inf)
    for axis, step in zip(axes[1:], others, strict=True):
        squares = _sweep(squares, axis, step)
    return jnp.sqrt(squares) * unit


def axis_spacings(spacing: Spacing, ndim: int) -> Array | tuple[Array, ...]:
    """Check the spacing: one scalar for all axes, or a tuple of one scalar per axis."""
    if isinstance(spacing, np.ndarray | np.generic):
        spacing = spacing.tolist()
    if np.ndim(spacing) == 0 or not isinstance(spacing, Sequence | Array):
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


def _sweep(squares: Array, axis: int, step: ArrayLike) -> Array:
    """The minimum of ``squares[y] + ((x - y) step)^2`` over y along ``axis``.

    In round k the value of a pixel reaches the pixels k steps away, if it was the minimum in those
    between: where another value is less, it is less in all pixels behind too. When a round changes
    nothing, no later one does.
    """
    far = jnp.asarray(_FAR if squares.dtype == jnp.int32 else jnp.inf, squares.dtype)
    step = jnp.asarray(step, squares.dtype)

    def next_round(state: _Round) -> _Round:
        _, k, least, moving = state
        moved = jnp.minimum(shift(moving, 1, axis, far), shift(moving, -1, axis, far))
        square = moved + (k.astype(step.dtype) * step) ** 2
        nearer = square < least
        least, moving = jnp.where(nearer, square, least), jnp.where(nearer, moved, far)
        return nearer.any(), k + 1, least, moving

    # Always True, but computed from ``squares``: in a shard_map it varies over the same mesh axes.
    start = ((squares >= 0).any(), jnp.ones((), jnp.int32), squares, squares)
    return lax.while_loop(lambda state: state[0], next_round, start)[2]


def _root(squares: Array) -> Array:
    """Square roots of int32, rounded once: the integer part is exact, the fraction small."""
    root = jnp.sqrt(squares.astype(jnp.float32))
    whole = root.astype(jnp.int32)
    remainder = (squares - whole * whole).astype(jnp.float32)
    divisor = whole.astype(jnp.float32) + root
    return whole.astype(jnp.float32) + remainder / jnp.where(divisor == 0, 1, divisor)


def check_mask(mask: ArrayLike, name: str = "mask") -> Array:
    """Check a bool mask ``[*space]``."""
    mask = _checks.as_array(mask)
    if mask.dtype != bool:
        raise TypeError(f"{name} must be bool, got {mask.dtype}; of class ids: labels == 1.")
    if mask.ndim == 0 or mask.size == 0:
        raise ValueError(f"{name} must be [*space] and not empty, got shape {mask.shape}.")
    return mask
