"""Addition and multiplication of statistics, leaf by leaf.

Statistics are NamedTuples. As plain tuples they would be concatenated by ``+`` and repeated by
``*``; NumPy and JAX leave both to the methods of a statistic, which call the functions here.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxseg import _checks
from jaxseg._running import Running

Leaf = Array | Any  # JAX's as a rule; NumPy's and numbers are left unchecked
Sums = TypeVar("Sums", bound=tuple[Leaf, ...])  # ``Counts`` or ``Moments``


def add(statistic: Sums, other: object) -> Sums:
    """Add leaf by leaf; the integer 0, with which Python's ``sum`` starts, changes nothing."""
    if isinstance(other, Running):
        return NotImplemented  # a Running adds statistics itself
    if type(other) is int and other == 0:
        return statistic
    name = type(statistic).__name__
    if not isinstance(other, type(statistic)):
        raise TypeError(
            f"{name} can be added to {name} and to a Running of {name}, got {_checks.kind(other)}."
        )
    return type(statistic)(*(_add_leaf(name, a, b) for a, b in zip(statistic, other, strict=True)))


def multiply(statistic: Sums, factor: object) -> Sums:
    """Multiply each leaf by a number, or by an array that broadcasts to the leaf's shape."""
    name = type(statistic).__name__
    if not _checks.is_real(factor):
        raise TypeError(
            f"{name} can be multiplied by a number or an array of numbers, "
            f"got {_checks.kind(factor)}."
        )
    return type(statistic)(*(_multiply_leaf(name, leaf, factor) for leaf in statistic))


def _add_leaf(name: str, a: Leaf, b: Leaf) -> Leaf:
    if jnp.shape(a) == jnp.shape(b):
        if all(isinstance(x, jax.core.Tracer) or not _is_wide(x) for x in (a, b)):
            return a + b
        if any(isinstance(x, jax.core.Tracer) for x in (a, b)):
            return _narrow(a) + _narrow(b)
        return np.asarray(a) + np.asarray(b)  # JAX would cut NumPy's 64 bits to 32
    for number, leaf in ((a, b), (b, a)):
        if type(number) in (int, float) and number == 0:
            return leaf
    raise ValueError(
        f"{name} that are added must have leaves of the same shape, got {jnp.shape(a)} and "
        f"{jnp.shape(b)}; only the number 0 may stand for a leaf of any shape."
    )


def _multiply_leaf(name: str, leaf: Leaf, factor: Leaf) -> Leaf:
    shape, given = jnp.shape(leaf), jnp.shape(factor)
    fits = [n in (1, m) for n, m in zip(given[::-1], shape[::-1])]
    if len(given) > len(shape) or not all(fits):
        raise ValueError(
            f"A factor of {name} must broadcast to the leaves' shape {shape}, got shape {given}."
        )
    if isinstance(factor, np.generic):
        factor = factor.item()  # a Python number, whose type is weak
    if not isinstance(leaf, Array) and not isinstance(factor, jax.core.Tracer):
        return leaf * (np.asarray(factor) if isinstance(factor, Array) else factor)
    leaf, factor = _narrow(leaf), _narrow(factor)
    dtype = leaf.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        if _is_float(factor):
            dtype = jax.dtypes.canonicalize_dtype(float)
        elif not isinstance(factor, int):
            dtype = jax.dtypes.canonicalize_dtype(np.promote_types(dtype, factor.dtype))
    return leaf.astype(dtype) * jnp.broadcast_to(jnp.asarray(factor, dtype), shape)


def _is_float(x: Leaf) -> bool:
    return isinstance(x, float) or jnp.issubdtype(getattr(x, "dtype", int), jnp.floating)


def _is_wide(x: Leaf) -> bool:
    """Whether ``x`` is NumPy's, with more bits than JAX holds."""
    return isinstance(x, np.ndarray | np.generic) and (
        jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype
    )


def _narrow(x: Leaf) -> Leaf:
    """Turn a NumPy array, whose integers must not wrap, into JAX's; return anything else as is."""
    if not isinstance(x, np.ndarray | np.generic):
        return x
    narrow = x.astype(jax.dtypes.canonicalize_dtype(x.dtype))
    if jnp.issubdtype(x.dtype, jnp.integer) and (narrow != x).any():
        raise ValueError(
            f"{x.dtype} numbers beyond {narrow.dtype} would wrap under jit; add them to a Running."
        )
    return jnp.asarray(narrow)
