"""Division, powers and sums that stay finite, in value and in gradient, where plain ones do not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike


def sum_axis_by_axis(x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over sorted axes one by one, so that no chain of float additions is as long as the map.

    XLA (JAX 0.9) adds the pixels of several axes one after another, which loses 0.5 % of four
    million of them. The barrier stops it from merging the sums into one.
    """
    for axis in reversed(axes[1:]):
        x = lax.optimization_barrier(x.sum(axis))
    return x.sum(axes[:1])


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum and its rounding error, which together are exactly a + b."""
    rounded = a + b
    part = rounded - a
    error = (a - (rounded - part)) + (b - part)
    return rounded, jnp.where(jnp.isfinite(rounded), error, 0)


def along_classes(weights: Array, like: Array, class_axis: int = -1) -> Array:
    """Make ``[C]`` broadcast along the class axis of ``like``, in the dtype of ``like``."""
    axis = class_axis % like.ndim
    others = tuple(a for a in range(like.ndim) if a != axis)
    return jnp.expand_dims(weights, others).astype(like.dtype)


@jax.jit  # eagerly, one call
def safe_divide(numerator: Array, denominator: Array, zero_division: ArrayLike) -> Array:
    """Divide; where the denominator is 0, ``zero_division`` with a gradient of 0.

    Equal numbers give exactly 1, and a numerator up to the denominator never more, also where the
    last bits of a quotient are wrong, as on GPU and TPU.

    Both are multiplied by one power of two (XLA would reorder a division), which brings the
    denominator near 1: derivatives divide by its square, which would under- or overflow.
    """
    empty = denominator == 0
    denominator = jnp.where(empty, 1, denominator)
    scale = power_of_two_near_inverse(denominator)
    quotient = (numerator * scale) / (denominator * scale)
    size, one = jnp.abs(numerator), jnp.abs(denominator)
    low, high = jnp.where(size >= one, 1.0, 0.0), jnp.where(size <= one, 1.0, jnp.inf)
    return select(empty, zero_division, held(quotient, low, high))


@jax.jit
def divide_by_roots(x: Array, a: Array, b: Array) -> Array:
    """``x / sqrt(a b)``, where ``|x|`` is at most that root; exactly 1 where ``x = a = b``."""
    a, b = (jnp.where(m == 0, 1, m) for m in (a, b))  # x is 0 there too
    size = jnp.abs(x)
    low = jnp.where((size >= a) & (size >= b), 1.0, 0.0)
    return held(x / jnp.sqrt(a) / jnp.sqrt(b), low, 1.0)


@jax.custom_jvp
def held(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """``x`` with its size clipped to [low, high], which only rounding takes it out of.

    The derivative is that of ``x``; of a clip it would be 0 beyond a bound, and half of it there.
    """
    return jnp.copysign(jnp.clip(jnp.abs(x), low, high), x)


held.defjvps(lambda tangent, *_: tangent, None, None)


def power_of_two_near_inverse(x: Array) -> Array:
    """A power of two, by which multiplication is exact, that brings a number not 0 near 1."""
    near = jnp.clip(jnp.abs(1 / lax.stop_gradient(x)), 1e-30, 1e36)
    bits = np.finfo(near.dtype).bits
    return lax.reduce_precision(near, exponent_bits=8 if bits == 32 else 11, mantissa_bits=0)


@jax.jit  # eagerly, debug_nans would raise for a NaN that the selection drops
def select(empty: Array, zero_division: ArrayLike, score: Array) -> Array:
    """``score``; where ``empty``, ``zero_division`` with a gradient of 0."""
    return jnp.where(empty, jnp.asarray(zero_division, score.dtype), score)


def safe_power(base: Array, exponent: ArrayLike) -> Array:
    """``base ** exponent``; 0 with a gradient of 0 where the base is 0, or less by rounding."""
    zero = base <= 0  # NaN stays NaN
    return jnp.where(zero, 0, jnp.where(zero, 1, base) ** exponent)


def fence(x: Array) -> Array:
    """``x``, which XLA must compute once, as it is, before what uses it."""
    x = lax.optimization_barrier(x)
    return x
