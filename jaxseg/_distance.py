"""Exact Euclidean distance transforms, inside ``jit``: one axis after another, in any dimension."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

Spacing = ArrayLike | Sequence[float]

# Squared distances of unit spacing are int32: exact for axes of up to 8,192 pixels, where those of
# three axes sum to 2.0e8. Float32 would round from 2**24 on.
_FAR = 2**30


def distance_transform(mask: ArrayLike, *, spacing: Spacing = 1.0) -> Array:
    r"""Euclidean distance of each pixel to the nearest True pixel.

    .. math:: d(x) = \min_{y : mask(y)} \lVert (x - y) \cdot spacing \rVert_2

    Args:
      mask: bool ``[*space]``, of one axis or more; ``jax.vmap`` for a batch.
      spacing: distance of neighbouring pixels: a number, or one for each axis in the axes' order.

    Returns:
      Float32 ``[*space]``, in the units of ``spacing``; inf where no pixel is True. Squared
      distances are compared exactly, in integers, if the spacing is one number and no axis is
      longer than 8,192.

    Raises:
      TypeError: a mask that is not bool.
      ValueError: an empty mask or one without axes, another number of spacings than of axes, or a
        spacing that is not positive.

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
    mask = _check_mask(mask)
    return distances_to(mask, tuple(range(mask.ndim)), spacing_of_axes(spacing, mask.ndim))


def signed_distance(mask: ArrayLike, *, spacing: Spacing = 1.0) -> Array:
    r"""Distance to the mask outside of it, and minus the distance to its outside within.

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
      The code of the boundary loss's paper adds 1 inside, so that the mask's outermost pixels have
      distance 0.
    """
    mask = _check_mask(mask)
    space, spacings = tuple(range(mask.ndim)), spacing_of_axes(spacing, mask.ndim)
    return distances_to(mask, space, spacings) - distances_to(~mask, space, spacings)


@partial(jax.jit, static_argnames="axes")
def distances_to(mask: Array, axes: tuple[int, ...], spacings: Any) -> Array:
    """``distance_transform`` over some ``axes`` of a mask; the others are a batch."""
    steps = _steps_to(mask, axes[0])
    if isinstance(spacings, tuple):
        first, *others = (jnp.asarray(step, jnp.float32) for step in spacings)
        squares = jnp.where(steps < _FAR, (steps.astype(jnp.float32) * first) ** 2, jnp.inf)
        for axis, step in zip(axes[1:], others, strict=True):
            squares = _sweep(squares, axis, step)
        return jnp.sqrt(squares)
    whole = jnp.where(steps < _FAR, steps * steps, _FAR)
    for axis in axes[1:]:
        whole = _sweep(whole, axis, 1)
    return jnp.where(whole < _FAR, _root(whole) * jnp.asarray(spacings, jnp.float32), jnp.inf)


def spacing_of_axes(spacing: Any, ndim: int) -> Any:
    """One spacing for all axes, a scalar, or a tuple of one for each."""
    if not isinstance(spacing, Sequence) and jnp.ndim(spacing) == 0:
        spacings: Any = spacing
    else:
        spacings = tuple(spacing)
        if len(spacings) != ndim:
            raise ValueError(
                f"spacing must be a number or one for each of {ndim} axes, got {len(spacings)}."
            )
    for step in spacings if isinstance(spacings, tuple) else (spacings,):
        if isinstance(step, int | float) and not step > 0:
            raise ValueError(f"spacing must be positive, got {spacing}.")
    return spacings


def spatial_axes_of(spatial_axes: Any, ndim: int) -> tuple[int, ...]:
    """Axes of a label map that are space: all but the first, the batch, unless others are named."""
    if spatial_axes is None:
        axes = tuple(range(1, ndim))
    else:
        axes = tuple(operator.index(a) for a in spatial_axes)
        if not all(-ndim <= a < ndim for a in axes):
            raise ValueError(
                f"spatial_axes {axes} are out of range of the label map's {ndim} axes."
            )
        axes = tuple(sorted({a % ndim for a in axes}))
    if not axes:
        raise ValueError(
            "Space needs an axis: label maps are [batch, *space] unless spatial_axes says which "
            f"axes are space; got {ndim} axes."
        )
    return axes


def shift(x: Array, step: int, axis: int, fill: ArrayLike) -> Array:
    """``x`` moved ``step`` pixels along ``axis``, with ``fill`` where nothing moves in."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (step, -step, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), padding)


def _steps_to(mask: Array, axis: int) -> Array:
    """Pixels to the nearest True one along ``axis``, as int32; at least ``_FAR`` if none."""
    index = lax.broadcasted_iota(jnp.int32, mask.shape, axis)
    before = lax.cummax(jnp.where(mask, index, -_FAR), axis)
    after = lax.cummin(jnp.where(mask, index, 2 * _FAR - 1), axis, reverse=True)
    nearest = jnp.minimum(index - before, after - index)
    return jnp.minimum(nearest, _FAR)


def _sweep(squares: Array, axis: int, step: Any) -> Array:
    """The least of ``squares[y] + ((x - y) step)^2`` over y along ``axis``.

    The k-th round goes one pixel farther for ``(2 k - 1) step^2``; k pixels cost ``(k step)^2``.
    When a round changes nothing, no later one does, as it costs more.
    """
    far = jnp.asarray(_FAR if squares.dtype == jnp.int32 else jnp.inf, squares.dtype)
    price = jnp.asarray(step, squares.dtype) ** 2

    def one_farther(state: Any) -> Any:
        _, k, least = state
        beside = jnp.minimum(shift(least, 1, axis, far), shift(least, -1, axis, far))
        nearer = jnp.minimum(least, beside + (2 * k - 1).astype(price.dtype) * price)
        return (nearer != least).any(), k + 1, nearer

    start = ((squares >= 0).any(), jnp.ones((), jnp.int32), squares)  # true, on each device
    return lax.while_loop(lambda state: state[0], one_farther, start)[2]


def _root(squares: Array) -> Array:
    """Square roots of int32, rounded once: the integer part is exact, the rest small."""
    root = jnp.sqrt(squares.astype(jnp.float32))
    whole = root.astype(jnp.int32)
    rest = (squares - whole * whole).astype(jnp.float32)
    total = whole.astype(jnp.float32) + root
    return whole.astype(jnp.float32) + rest / jnp.where(total == 0, 1, total)


def _check_mask(mask: ArrayLike) -> Array:
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}; of class ids: labels == 1.")
    if mask.ndim == 0 or mask.size == 0:
        raise ValueError(f"mask must be [*space] and not empty, got shape {mask.shape}.")
    return mask
