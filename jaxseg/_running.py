"""Sums of statistics over steps, devices and hosts: exact for integers, compensated for floats.

A sum of int32 counts wraps at 2**31, and one of float32 counts stops growing at 2**24 pixels. A
``Running`` keeps each leaf as two of 32 bits, with ``jax_enable_x64`` off: an integer is
``high * 2**32 + low`` (int32 and uint32, together a number of 64 bits in two's complement), a float
is ``high + low``, of which ``low`` is what ``high`` could not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._checks import AxisName

State = TypeVar("State")
if TYPE_CHECKING:  # Python's TypeVar has defaults from 3.13 on; type checkers have this one
    import typing_extensions

    Statistic = typing_extensions.TypeVar("Statistic", default=Any)
else:
    Statistic = TypeVar("Statistic")


class Running(NamedTuple, Generic[Statistic]):
    """An exact sum of statistics: two pytrees like the statistic, of limbs.

    ``running + statistic`` and ``running + running`` give a ``Running`` of the same shapes and
    dtypes, in one compiled call; ``sum`` adds a list of them. Every statistic of one sum has the
    same shapes. A leaf is an integer ``high * 2**32 + low``, exact to 2**63, or a float ``high +
    low``, of twice the digits. To type checkers ``Running[Counts]`` is a sum of ``Counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> c = jaxseg.Counts(*jnp.full((4, 2), 2**30, jnp.int32))
      >>> r = jaxseg.running(c)
      >>> for _ in range(7):
      ...     r = r + c
      >>> jaxseg.total(r).tp.tolist() == [2**33, 2**33]
      True
    """

    high: Statistic
    low: Statistic

    def __add__(self, other: Any) -> Running[Statistic]:
        if type(other) is int and other == 0:
            return self  # the start of Python's sum
        return _sum(self, other if isinstance(other, Running) else _kept(other))

    def __radd__(self, other: Any) -> Running[Statistic]:
        return self + other

    def __mul__(self, factor: Any) -> Running[Statistic]:
        raise TypeError(
            "A Running is not multiplied: it holds exact sums. Multiply each statistic before it "
            f"is added, or the total; got {_checks.kind(factor)}."
        )

    def __rmul__(self, factor: Any) -> Running[Statistic]:
        return self * factor


# NumPy would take it for a sequence; so it leaves + and * to the methods.
Running.__array_ufunc__ = None  # type: ignore[attr-defined]
jax.export.register_namedtuple_serialization(Running, serialized_name="jaxseg.Running")


def running(statistic: Statistic) -> Running[Statistic]:
    r"""Start an exact sum of statistics, to carry through steps.

    .. math:: x = 2^{32}\,high + low \quad\text{(integers)}, \qquad x = high + low
              \quad\text{(floats)}

    Args:
      statistic: ``Counts``, a confusion matrix, ``Moments``, or any pytree of them: integers,
        bools or floats of any shape. NumPy's 64-bit numbers keep their digits.

    Returns:
      ``Running`` with leaves of the same shapes: int32 and uint32 for an integer, a pair of float32
      (float64 for JAX's float64) for a float. Adding a statistic or another ``Running`` keeps the
      shapes and dtypes of this one, so that it is a carry of ``lax.scan`` and may be donated; a
      float64 added to a pair of float32 is split over both. A NaN stays; an integer of 2**63 or
      more wraps, and a float beyond float32's range is infinite.

    Raises:
      TypeError: a ``Running``, or leaves that are not real numbers. In a sum: another structure, or
        floats beside integers.
      ValueError: in a sum, leaves of other shapes.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> predictions = jnp.array([[0, 1, 1], [1, 1, 0], [0, 0, 1]])
      >>> labels = jnp.array([[0, 1, 0], [1, 1, 1], [0, 0, 0]])
      >>> def step(r, maps):
      ...     return r + jaxseg.counts(*maps, num_classes=2), None
      >>> zero = jaxseg.running(jaxseg.Counts(*jnp.zeros((4, 2), jnp.int32)))
      >>> r, _ = jax.lax.scan(step, zero, (predictions, labels))
      >>> jaxseg.total(r).tp.tolist()
      [3, 3]

    References:
      O. Møller, "Quasi double-precision in floating point addition", BIT 1965; D. E. Knuth, "The
      Art of Computer Programming", volume 2, 4.2.2, for the floats.

    Note:
      metrax, clu and Flax sum in float32, Keras in its metric's dtype, MONAI in float32.
    """
    if any(isinstance(x, Running) for x in jax.tree.leaves(statistic, is_leaf=_is_running)):
        raise TypeError("running starts a sum of a statistic; this is a Running already: add it.")
    return _start(_kept(statistic))


def total(running: Running[Statistic]) -> Statistic:
    r"""The sum that a ``Running`` holds, as a statistic for scores.

    .. math:: 2^{32}\,high + low \quad\text{(integers)}, \qquad high + low \quad\text{(floats)}

    Args:
      running: a ``Running``.

    Returns:
      The statistic. On the host NumPy's int64, exact, and float64; under ``jit``, ``vmap`` and the
      like float32, to its last digit (float64 with ``jax_enable_x64``).

    Raises:
      TypeError: anything but a ``Running``.

    Example:
      >>> import jax
      >>> import jaxseg
      >>> r = jaxseg.running(jaxseg.Counts(tp=2**24 + 1, fp=0, fn=2**33, tn=1))
      >>> jaxseg.total(r).tp.item(), jax.jit(jaxseg.total)(r).tp.item()
      (16777217, 16777216.0)
    """
    if not isinstance(running, Running):
        raise TypeError(f"total takes a Running, got {type(running).__name__}.")
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(running))
    return jax.tree.map(_value if traced else _host_value, running.high, running.low)


def psum(state: State, axis_name: AxisName) -> State:
    r"""Sum a statistic or a ``Running`` over devices, in the body of a ``shard_map`` or ``pmap``.

    .. math:: \sum_{d} x_d

    A ``Running`` needs this and not ``jax.lax.psum``, which would let its low limbs overflow. Here
    they are summed in halves of 16 bits, exact for up to 65,536 devices. Floats keep more digits
    than a plain sum; those of a ``Running`` cannot be differentiated.

    Args:
      state: a statistic, a ``Running``, or a pytree of them.
      axis_name: name or names of mesh axes.

    Returns:
      The same, summed; equal on all devices of the axes. A statistic stays in its dtype: int32
      leaves wrap at 2**31, so that the sum of many pixels is taken of a ``Running``.

    Raises:
      NameError: an axis that is not of the mesh (by JAX).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> each = jaxseg.running(jnp.full((4, 2), 2**31 - 1, jnp.int32))  # four devices
      >>> whole = jax.vmap(lambda r: jaxseg.psum(r, "data"), axis_name="data")(each)
      >>> jaxseg.total(whole)[0].tolist()
      [8589934588, 8589934588]

    References:
      S. M. Rump, T. Ogita, S. Oishi, "Accurate floating-point summation", SIAM Journal on
      Scientific Computing 2008, for the floats.
    """

    def of_leaf(x: Any) -> Any:
        if not isinstance(x, Running):
            return lax.psum(x, axis_name)
        return _map(partial(_psum_limbs, axis_name=axis_name), x)

    return jax.tree.map(of_leaf, state, is_leaf=_is_running)


def pad_batch(batch: State, size: int) -> tuple[State, Array | np.ndarray]:
    r"""Pad the last batch of a data set with zeros, so that all batches have one shape.

    .. math:: where_i = [i < n]

    Args:
      batch: array ``[n, ...]``, or a pytree of such, with one n; NumPy arrays stay in NumPy.
      size: how many entries the padded batch has, at least n.

    Returns:
      The batch with arrays ``[size, ...]``, and ``where``, bool ``[size]``, False for the padding.
      Spread it over the pixels: ``where[:, None, None] & (labels != 255)``.

    Raises:
      ValueError: arrays of different lengths, without a first axis, or longer than ``size``.

    Example:
      >>> import numpy as np
      >>> import jaxseg
      >>> labels = np.ones((3, 2, 2), np.uint8)
      >>> padded, where = jaxseg.pad_batch(labels, 4)
      >>> padded.shape, where.tolist()
      ((4, 2, 2), [True, True, True, False])
    """
    shapes = [np.shape(x) for x in jax.tree.leaves(batch)]
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ValueError(f"batch needs arrays [n, ...] with one n, got shapes {shapes}.")
    n = shapes[0][0]
    if n > size:
        raise ValueError(f"size must be at least the batch's {n} entries, got {size}.")

    def pad(x: Any) -> Any:
        xp = jnp if isinstance(x, Array) else np
        return xp.pad(x, [(0, size - n)] + [(0, 0)] * (np.ndim(x) - 1))

    return jax.tree.map(pad, batch), np.arange(size) < n


def _map(f: Callable[..., tuple[Any, Any]], *trees: Any) -> Running:
    """A ``Running`` of the pairs that ``f`` makes of the leaves of a statistic or of limbs."""
    parts = [part for tree in trees for part in (tree if isinstance(tree, Running) else [tree])]
    structure = jax.tree.structure(parts[0])
    pairs = [f(*leaves) for leaves in zip(*map(jax.tree.leaves, parts), strict=True)]
    high, low = ([pair[i] for pair in pairs] for i in range(2))
    return Running(jax.tree.unflatten(structure, high), jax.tree.unflatten(structure, low))


def _kept(statistic: Any) -> Any:
    """The statistic, or a ``Running`` of it if a leaf is not JAX's: NumPy's may be of 64 bits."""
    if all(isinstance(x, Array) for x in jax.tree.leaves(statistic)):
        return statistic
    return _map(_limbs, statistic)


@jax.jit
def _start(statistic: Any) -> Running:
    return statistic if isinstance(statistic, Running) else _map(_limbs, statistic)


def _limbs(x: ArrayLike) -> tuple[Array, Array]:
    """High and low limb of a leaf, copies: a buffer that a statistic shares cannot be donated."""
    x = x if isinstance(x, Array) else np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        if jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype:  # NumPy's float64
            with np.errstate(over="ignore", invalid="ignore"):
                near = x.astype(np.float32)
                rest = np.where(np.isfinite(near), x - near, 0)  # the digits that it cannot hold
            return jnp.array(near), jnp.array(rest, np.float32)
        high = jnp.array(x, x.dtype if x.dtype == np.float64 else np.float32)
        return high, jnp.where(False, high, 0)
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        raise TypeError(f"A statistic must hold integers, bools or floats; got {x.dtype}.")
    if x.dtype.itemsize == 8:
        return jnp.array((x >> 32).astype(np.int32)), jnp.array(x.astype(np.uint32))
    x = jnp.array(x)
    x = x if x.dtype == jnp.uint32 else x.astype(jnp.int32)
    return -(x < 0).astype(jnp.int32), jnp.array(x.astype(jnp.uint32))


def _is_running(x: Any) -> bool:
    return isinstance(x, Running)


def _is_integer(low: Any) -> bool:
    return low.dtype == jnp.uint32


def _check_alike(a: Running, b: Running) -> None:
    """Check that two sums are of one structure, with leaves of the same shapes and kinds."""
    structures: Any = jax.tree.structure(a.low), jax.tree.structure(b.low)
    if structures[0] != structures[1]:
        raise TypeError(
            f"A Running of {structures[0]} cannot be added to {structures[1]}: "
            "every statistic of a sum has the same structure."
        )
    for x, y in zip(jax.tree.leaves(a.low), jax.tree.leaves(b.low), strict=True):
        if _is_integer(x) != _is_integer(y):
            raise TypeError("A sum has integers or floats in a leaf, not both; got one of each.")
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(
                "Every statistic of a sum has the same shapes, "
                f"got {jnp.shape(x)} and {jnp.shape(y)}."
            )


@jax.jit
def _sum(a: Running, b: Any) -> Running:
    b = _start(b)
    _check_alike(a, b)
    return _map(_add_limbs, a, b)


def _add_limbs(high: Array, low: Array, other_high: Array, other_low: Array) -> tuple[Array, Array]:
    add = _add_integers if _is_integer(low) else _add_floats
    return add(high, low, other_high, other_low)


def _add_integers(
    high: Array, low: Array, other_high: Array, other_low: Array
) -> tuple[Array, Array]:
    total = low + other_low  # modulo 2**32
    carry = (total < low).astype(high.dtype)
    return high + other_high + carry, total


def _add_floats(
    high: Array, low: Array, other_high: Array, other_low: Array
) -> tuple[Array, Array]:
    """The sum of two pairs, as a pair; ``low`` of a sum that is not finite is 0."""
    if other_high.dtype == jnp.float64 != high.dtype:
        other_high, rest = _split(other_high)
        other_low = rest + other_low
    other_high, other_low = other_high.astype(high.dtype), other_low.astype(low.dtype)
    sum_, error = _two_sum(high, other_high)
    return _two_sum(sum_, error + (low + other_low))


def _split(x: Array) -> tuple[Array, Array]:
    """A float64 rounded to the digits and the range of float32, and the rest."""
    near = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)
    return near, jnp.where(jnp.isfinite(near), x - near, 0)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum, and its rounding error: exactly a + b together."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return total, jnp.where(jnp.isfinite(total), error, 0)


def _psum_limbs(high: Array, low: Array, axis_name: AxisName) -> tuple[Array, Array]:
    if not _is_integer(low):
        return _psum_floats(high, low, axis_name)
    # Sums of numbers below 2**16; that of the high limbs is taken modulo 2**32, as all sums here.
    ones, halves, high = lax.psum((low & 0xFFFF, low >> 16, high), axis_name)
    halves = halves + (ones >> 16)
    return high + (halves >> 16).astype(high.dtype), (halves << 16) | (ones & 0xFFFF)


def _psum_floats(high: Array, low: Array, axis_name: AxisName) -> tuple[Array, Array]:
    """The leading digits of all high limbs, cut at one place, sum exactly; then there is the rest.

    A power of two that is larger than the sum of all magnitudes, added and subtracted, cuts there.
    """
    devices = lax.psum(1, axis_name)
    _, exponent = jnp.frexp(lax.pmax(jnp.abs(high), axis_name))
    large = jnp.ldexp(jnp.ones_like(high), exponent + (devices - 1).bit_length())
    leading = jnp.where(jnp.isfinite(large), (large + high) - large, high)
    rest = jnp.where(jnp.isfinite(large + leading), high - leading, 0)
    leading, rest = lax.psum((leading, rest + low), axis_name)
    return _two_sum(leading, rest)


def _value(high: Array, low: Array) -> Array:
    """A leaf as a float, in a trace."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    if not _is_integer(low):
        return high.astype(dtype) + low.astype(dtype)
    # The nearest multiple of 2**32, and what is left, of either sign: a small negative number is
    # not the difference of two large ones.
    nearest = high.astype(dtype) + (low >> 31).astype(dtype)
    return nearest * 2.0**32 + low.astype(jnp.int32).astype(dtype)


def _host_value(high: Any, low: Any) -> np.ndarray:
    value: Any
    if _is_integer(low):
        value = (np.asarray(high, np.int64) << 32) + np.asarray(low, np.int64)
    else:
        value = np.asarray(high, np.float64) + np.asarray(low, np.float64)
    return np.asarray(value)  # NumPy makes scalars of arrays without axes
