"""Mean and standard deviation of values, one per case, such as the Dice score of each image.

A mean of batch means is wrong where batches differ in size or in what is undefined, so the state is
sums: ``+``, ``psum`` and ``running`` work on ``Moments`` as on ``Counts``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._arithmetic import Leaf, add, multiply
from jaxseg._checks import Axis
from jaxseg._numerics import safe_divide, safe_power, select, sum_in_turn
from jaxseg._running import Running

__all__ = ["Moments", "moments", "mean", "std"]


class Moments(NamedTuple):
    """Number of cases, sums of their values and squares, and number of excluded (NaN) cases.

    The numbers are integers, the sums floats. ``a + b`` and ``sum([a, b])`` add leaf by leaf and so
    pool both sets of cases. ``2 * a`` is ``a + a``, each case twice, and not cases of twice the
    value: a factor weights the cases.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> m = jaxseg.moments(jnp.array([0.5, jnp.nan])) + jaxseg.moments(jnp.array([1.0]))
      >>> m.count.item(), m.excluded.item(), jaxseg.mean(m).item()
      (2, 1, 0.75)
    """

    count: Leaf  # type: ignore[assignment]  # a tuple's method, which nobody calls here
    total: Leaf
    squares: Leaf
    excluded: Leaf

    def __add__(self, other: object) -> Moments:
        return add(self, other)

    def __radd__(self, other: object) -> Moments:
        return add(self, other)

    def __mul__(self, factor: object) -> Moments:
        return multiply(self, factor)

    def __rmul__(self, factor: object) -> Moments:
        return multiply(self, factor)


Moments.__array_ufunc__ = None  # type: ignore[attr-defined]  # NumPy leaves + and * to Moments
jax.export.register_namedtuple_serialization(Moments, serialized_name="jaxseg.Moments")


def moments(values: ArrayLike, *, where: ArrayLike | None = None, axis: Axis = 0) -> Moments:
    r"""Sum values over cases, for their mean and standard deviation.

    .. math:: count = \sum 1, \quad total = \sum x, \quad squares = \sum x^2

    over the cases whose value is not NaN; ``excluded`` counts those whose value is NaN.

    Args:
      values: float ``[N, ...]``, such as the Dice ``[N, C]`` of each image and class.
      where: bool, with the shape of ``values`` or of its first axes: ``[N]`` for whole cases. A
        False case neither counts nor is excluded.
      axis: axes of ``values`` that hold the cases, to sum over; None is all.

    Returns:
      ``Moments`` whose leaves have the other axes, ``[C]`` for ``[N, C]``: int32 counts, float32
      sums (float64 for float64 input). Infinite values count: their mean is infinite.

    Raises:
      ValueError: ``where`` of another shape, ``axis`` out of range, empty values.
      TypeError: values that are not floating point, ``where`` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> predictions = jnp.array([[0, 0, 1, 1], [0, 0, 0, 0]])  # two images of four pixels
      >>> labels = jnp.array([[0, 1, 1, 1], [0, 0, 0, 0]])
      >>> dice = jaxseg.dice(jaxseg.counts(predictions, labels, num_classes=2, axis=1))
      >>> m = jaxseg.moments(dice)
      >>> m.count.tolist(), m.excluded.tolist()  # the second image has no class 1
      ([2, 1], [0, 1])
      >>> jaxseg.mean(m).tolist()
      [0.8333, 0.8]

    Note:
      MONAI's aggregate of values that are all NaN is 0; metrax's sums stay NaN after one NaN.
    """
    values = _checks.as_array(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"values must be floating point, got {values.dtype}.")
    if values.size == 0:
        raise ValueError(f"values must not be empty, got shape {values.shape}.")
    axes = _checks.normalize_axis(axis, values.ndim, of=f"the {values.ndim} axes of values")
    valid = _valid(where, values)
    nan = jnp.isnan(values)
    counted = valid & ~nan
    x = jnp.where(counted, _checks.at_least_float32(values), 0)
    return Moments(
        count=counted.sum(axes, dtype=jnp.int32),
        total=sum_in_turn(x, axes),
        squares=sum_in_turn(x * x, axes),
        excluded=(valid & nan).sum(axes, dtype=jnp.int32),
    )


def mean(moments: Moments, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Mean of the values that ``Moments`` hold the sums of.

    .. math:: \frac{total}{count}

    Args:
      moments: ``Moments``, also with NumPy's leaves from ``total``.
      zero_division: the mean where there is no case.

    Returns:
      Float array with the leaves' shape.

    Raises:
      TypeError: anything but ``Moments``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> jaxseg.mean(jaxseg.moments(jnp.array([0.5, 1.0, jnp.nan]))).item()
      0.75
    """
    count, values, _ = (_checks.at_least_float32(x) for x in _float_sums(moments))
    return safe_divide(values, count, zero_division)


def std(moments: Moments, *, ddof: int = 0, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Standard deviation of the values that ``Moments`` hold the sums of.

    .. math:: \sqrt{\frac{squares - total^2 / count}{count - ddof}}

    The difference loses digits where the mean is much larger than the deviation: subtract a
    constant from the values first. For NumPy's float64 sums, which ``total`` of a ``Running`` gives
    on the host, it is taken in float64, and only the rounding of each batch's float32 sums remains.

    Args:
      moments: ``Moments``, also with NumPy's leaves from ``total``.
      ddof: 0 for the deviation of these cases, 1 to estimate that of a population, as in NumPy.
      zero_division: the deviation where there are ``ddof`` cases or fewer.

    Returns:
      Float array with the leaves' shape. Its gradient is finite, and 0 up to rounding where
      all values are equal.

    Raises:
      TypeError: anything but ``Moments``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> m = jaxseg.moments(jnp.array([1.0, 2.0, 3.0, 4.0]))
      >>> jaxseg.std(m).item(), jaxseg.std(m, ddof=1).item()
      (1.118, 1.291)
    """
    count, values, squares = _float_sums(moments)
    with np.errstate(invalid="ignore"):  # infinite sums
        divisor = count + (count == 0).astype(count.dtype)  # with weighted cases it may be below 1
        deviations = _checks.at_least_float32(squares - values * (values / divisor))
    cases = (_checks.at_least_float32(count) - ddof).clip(0)
    variance = safe_divide(deviations, cases, 0.0)
    spread = safe_power(variance, 0.5)
    return select(cases == 0, zero_division, spread)


def _float_sums(moments: object) -> list[np.ndarray] | list[Array]:
    """Count, total and squares as floats of one dtype, which is float64 if they are NumPy's."""
    if not isinstance(moments, Moments):
        hint = (
            "jaxseg.total(running) is the sum that a Running holds."
            if isinstance(moments, Running)
            else "jaxseg.moments makes them of values, one per case."
        )
        raise TypeError(f"This takes Moments, got {_checks.kind(moments)}. {hint}")
    sums = moments[:3]
    if all(isinstance(x, np.ndarray | np.generic) for x in sums):
        return [np.asarray(x, np.float64) for x in sums]
    values, squares = (_checks.at_least_float32(x) for x in sums[1:])
    return [jnp.asarray(sums[0], values.dtype), values, squares]


def _valid(where: ArrayLike | None, values: Array) -> Array:
    """``where`` with the axes of ``values``; those that it lacks have length 1."""
    if where is None:
        return jnp.ones((), bool)
    where = _checks.as_array(where)
    if where.dtype != bool:
        raise TypeError(f"where must be bool, got {where.dtype}.")
    if where.shape != values.shape[: where.ndim]:
        raise ValueError(
            f"where must have the shape of values {values.shape} or of its first axes, "
            f"got {where.shape}."
        )
    return where.reshape(where.shape + (1,) * (values.ndim - where.ndim))
