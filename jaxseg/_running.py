"""Sums of statistics over steps, devices and hosts: exact for integers, compensated for floats.

A sum of int32 counts wraps at 2**31, and one of float32 counts stops growing at 2**24 pixels. A
``Running`` keeps two limbs of 32 bits for each leaf, also with ``jax_enable_x64`` off: an integer
is ``high * 2**32 + low`` (int32 and uint32, together 64 bits in two's complement), a float is
``high + low``, where ``low`` is what ``high`` could not hold.
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
from jaxseg._numerics import two_sum

__all__ = ["Running", "running", "total", "psum", "pad_batch"]

State = TypeVar("State")
Limbs = tuple[Array, Array]  # high and low
if TYPE_CHECKING:  # Python's own TypeVar has no default before 3.13
    import typing_extensions

    Statistic = typing_extensions.TypeVar("Statistic", default=Any)
else:
    Statistic = TypeVar("Statistic")


class Running(NamedTuple, Generic[Statistic]):
    """An exact sum of statistics, held as two pytrees of limbs like the statistic.

    ``running + statistic`` and ``running + running`` give a ``Running`` of the same shapes and
    dtypes, in one compiled call; ``sum`` adds a list of them. All statistics in one sum have the
    same shapes. A leaf is an integer ``high * 2**32 + low``, exact to 2**63, or a float ``high +
    low`` with twice the digits. To type checkers ``Running[Counts]`` is a sum of ``Counts``.

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

    def __add__(self, other: object) -> Running[Statistic]:
        if type(other) is int and other == 0:
            return self  # the start of Python's sum
        return _sum(self, other if isinstance(other, Running) else _lossless(other))

    def __radd__(self, other: object) -> Running[Statistic]:
        return self + other

    def __mul__(self, factor: object) -> Running[Statistic]:
        raise TypeError(
            "A Running is not multiplied: it holds exact sums. Multiply each statistic before it "
            f"is added, or the total; got {_checks.kind(factor)}."
        )

    def __rmul__(self, factor: object) -> Running[Statistic]:
        return self * factor


# NumPy, which would take a Running for a sequence, leaves + and * to its methods.
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
      shapes and dtypes of this one, so it can be the carry of ``lax.scan`` and can be donated; a
      float64 added to a pair of float32 is split over both. A NaN stays; an integer of 2**63 or
      more wraps, and a float beyond float32's range is infinite.

    Raises:
      TypeError: a ``Running``, or leaves that are not real numbers. In a sum: another structure, or
        floats added to integers.
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
    return _start(_lossless(statistic))


def total(running: Running[Statistic]) -> Statistic:
    r"""The sum that a ``Running`` holds, as a statistic for scores.

    .. math:: 2^{32}\,high + low \quad\text{(integers)}, \qquad high + low \quad\text{(floats)}

    Args:
      running: a ``Running``.

    Returns:
      The statistic. On the host its leaves are NumPy's int64, exact, and float64; under ``jit``,
      ``vmap`` and the like they are float32, right to the last digit (float64 with
      ``jax_enable_x64``).

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
    they are summed in halves of 16 bits, exact for up to 65,536 devices. The floats of a
    ``Running`` keep more digits than a plain sum and cannot be differentiated.

    Args:
      state: a statistic, a ``Running``, or a pytree of them.
      axis_name: name or names of mesh axes.

    Returns:
      The sum, the same on all devices along the axes. A statistic keeps its dtype, and int32 leaves
      wrap at 2**31: sum a ``Running`` where there may be more pixels.

    Raises:
      NameError: an axis that the mesh does not have (raised by JAX).

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

    def psum_leaf(x: ArrayLike | Running) -> Array | Running:
        if not isinstance(x, Running):
            return lax.psum(x, axis_name)
        return _map_limbs(partial(_psum_limbs, axis_name=axis_name), x)

    return jax.tree.map(psum_leaf, state, is_leaf=_is_running)


def pad_batch(batch: State, size: int) -> tuple[State, Array | np.ndarray]:
    r"""Pad the last batch of a data set with zeros, so that all batches have one shape.

    .. math:: where_i = [i < n]

    Args:
      batch: array ``[n, ...]``, or a pytree of arrays with the same n; NumPy arrays stay in NumPy.
      size: number of entries of the padded batch, at least n.

    Returns:
      The batch with arrays ``[size, ...]``, and ``where``, bool ``[size]``, False for the padding.
      Broadcast it to the pixels: ``where[:, None, None] & (labels != 255)``.

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

    def pad(x: Array | np.ndarray) -> Array | np.ndarray:
        xp = jnp if isinstance(x, Array) else np
        return xp.pad(x, [(0, size - n)] + [(0, 0)] * (np.ndim(x) - 1))

    return jax.tree.map(pad, batch), np.arange(size) < n


def _map_limbs(f: Callable[..., Limbs], *trees: object) -> Running:
    """Make a ``Running`` of what ``f`` gives for the leaves of a statistic or for their limbs."""
    parts = [part for tree in trees for part in (tree if isinstance(tree, Running) else [tree])]
    structure = jax.tree.structure(parts[0])
    pairs = [f(*leaves) for leaves in zip(*map(jax.tree.leaves, parts), strict=True)]
    high, low = ([pair[i] for pair in pairs] for i in range(2))
    return Running(jax.tree.unflatten(structure, high), jax.tree.unflatten(structure, low))


def _lossless(statistic: object) -> object:
    """The statistic, or a ``Running`` of it if ``jit`` could cut its leaves to 32 bits."""
    if all(isinstance(x, Array) for x in jax.tree.leaves(statistic)):
        return statistic
    return _map_limbs(_limbs, statistic)


@jax.jit
def _start(statistic: object) -> Running:
    return statistic if isinstance(statistic, Running) else _map_limbs(_limbs, statistic)


def _limbs(x: ArrayLike) -> Limbs:
    """The high and low limb of a leaf, as copies: a shared buffer could not be donated."""
    x = x if isinstance(x, Array) else np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        if jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype:  # NumPy's float64
            with np.errstate(over="ignore", invalid="ignore"):
                near = x.astype(np.float32)
                low = np.where(np.isfinite(near), x - near, 0)  # the digits that it cannot hold
            return jnp.array(near), jnp.array(low, np.float32)
        high = jnp.array(x, x.dtype if x.dtype == np.float64 else np.float32)
        return high, jnp.where(False, high, 0)
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        raise TypeError(f"A statistic must hold integers, bools or floats; got {x.dtype}.")
    if x.dtype.itemsize == 8:
        return jnp.array((x >> 32).astype(np.int32)), jnp.array(x.astype(np.uint32))
    x = jnp.array(x)
    x = x if x.dtype == jnp.uint32 else x.astype(jnp.int32)
    return -(x < 0).astype(jnp.int32), jnp.array(x.astype(jnp.uint32))


def _is_running(x: object) -> bool:
    return isinstance(x, Running)


def _is_integer(low: Array) -> bool:
    return low.dtype == jnp.uint32


def _check_alike(a: Running, b: Running) -> None:
    """Check that two sums have the same structure, and leaves of the same shapes and kinds."""
    structures = [jax.tree.structure(x.low) for x in (a, b)]
    if len(set(structures)) > 1:
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
def _sum(a: Running, b: object) -> Running:
    other: Running = _start(b)
    _check_alike(a, other)
    return _map_limbs(_add_limbs, a, other)


def _add_limbs(high: Array, low: Array, other_high: Array, other_low: Array) -> Limbs:
    add = _add_integers if _is_integer(low) else _add_floats
    return add(high, low, other_high, other_low)


def _add_integers(high: Array, low: Array, other_high: Array, other_low: Array) -> Limbs:
    low_sum = low + other_low  # modulo 2**32
    carry = (low_sum < low).astype(high.dtype)
    return high + other_high + carry, low_sum


def _add_floats(high: Array, low: Array, other_high: Array, other_low: Array) -> Limbs:
    """Add two pairs; where the sum is not finite, ``low`` is 0."""
    if other_high.dtype == jnp.float64 != high.dtype:
        other_high, remainder = _split(other_high)
        other_low = remainder + other_low
    other_high, other_low = other_high.astype(high.dtype), other_low.astype(low.dtype)
    rounded, error = two_sum(high, other_high)
    return two_sum(rounded, error + (low + other_low))


def _split(x: Array) -> Limbs:
    """Round a float64 to the digits and the range of float32; the second limb is the remainder."""
    near = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)
    return near, jnp.where(jnp.isfinite(near), x - near, 0)


def _psum_limbs(high: Array, low: Array, axis_name: AxisName) -> Limbs:
    if not _is_integer(low):
        return _psum_floats(high, low, axis_name)
    # The halves of the low limbs are below 2**16; the high limbs are summed modulo 2**32.
    lower, upper, high = lax.psum((low & 0xFFFF, low >> 16, high), axis_name)
    upper = upper + (lower >> 16)
    return high + (upper >> 16).astype(high.dtype), (upper << 16) | (lower & 0xFFFF)


def _psum_floats(high: Array, low: Array, axis_name: AxisName) -> Limbs:
    """Sum the leading digits of all high limbs, which is exact, and then the remaining digits.

    All devices cut their high limb at the same place: each adds and subtracts a power of two that
    is larger than the sum of all magnitudes.
    """
    devices = lax.psum(1, axis_name)
    _, exponent = jnp.frexp(lax.pmax(jnp.abs(high), axis_name))
    large = jnp.ldexp(jnp.ones_like(high), exponent + (devices - 1).bit_length())
    leading = jnp.where(jnp.isfinite(large), (large + high) - large, high)
    remainder = jnp.where(jnp.isfinite(large + leading), high - leading, 0)
    leading, remainder = lax.psum((leading, remainder + low), axis_name)
    return two_sum(leading, remainder)


def _value(high: Array, low: Array) -> Array:
    """The leaf as a float, under a transformation."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    if not _is_integer(low):
        return high.astype(dtype) + low.astype(dtype)
    # The nearest multiple of 2**32, and a remainder of either sign, so that a small negative number
    # is not the difference of two large ones.
    nearest = high.astype(dtype) + (low >> 31).astype(dtype)
    return nearest * 2.0**32 + low.astype(jnp.int32).astype(dtype)


def _host_value(high: Array, low: Array) -> np.ndarray:
    """The leaf in 64 bits; an array also without axes, of which NumPy makes scalars."""
    if _is_integer(low):
        return np.asarray((np.asarray(high, np.int64) << 32) + np.asarray(low, np.int64))
    return np.asarray(np.asarray(high, np.float64) + np.asarray(low, np.float64))
