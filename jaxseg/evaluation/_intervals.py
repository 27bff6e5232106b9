"""Intervals by the percentile bootstrap, which draws whole groups of cases with replacement.

The weight of a group in a resample is how often it was drawn. Means and pooled sums of all
resamples are then one product of the weights with the sums of each group; a median is where the
weights of the sorted values reach a half.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import ArrayLike

from jaxseg._counts import Counts

Statistic = Literal["mean", "median"]
Score = Callable[[Counts], Array]
Resamples: TypeAlias = "int | np.ndarray"
Groups: TypeAlias = "Sequence[str] | Sequence[int] | np.ndarray"

FEW = 20  # with fewer groups an interval covers less than it says
CELLS = 2**21  # of the arrays of one block of resamples: 8 MB each


def few(groups: int) -> bool:
    """Whether there are too few groups for an interval that covers what it says."""
    return groups < FEW


def intervals(
    values: ArrayLike,
    *,
    groups: Groups | None = None,
    statistic: Statistic = "mean",
    resamples: Resamples = 10_000,
    level: float = 0.95,
    seed: int = 0,
    macro: bool = False,
) -> np.ndarray:
    """Percentile bootstrap interval of the mean or of the median over cases.

    The ends are the ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles of the statistic over the
    resamples. A resample without a value has no part in them.

    Args:
      values: ``[cases, ...]``; NaN is no value, and inf is one.
      groups: the group of each case, such as the patient: groups are drawn whole. ``None`` if each
        case is a group.
      statistic: ``"mean"`` or ``"median"``.
      resamples: how many; or integers ``[resamples, groups]`` that say how often each draws each of
        the groups, in sorted order (without ``groups``, the cases in their order).
      level: of confidence, such as 0.95.
      seed: of the random numbers. Calls with as many groups and one seed share their resamples.
      macro: also of the mean over the last axis, as its last entry.

    Returns:
      Float64 array ``[2, ...]``: the lower and the upper ends.

    Raises:
      ValueError: an argument of another shape or value.
    """
    check_level(level)
    return ends(bootstrap(values, groups, statistic, resamples, seed, macro), level)


def pooled_intervals(
    counts: ArrayLike,
    score: Score,
    *,
    groups: Groups | None = None,
    resamples: Resamples = 10_000,
    level: float = 0.95,
    seed: int = 0,
    macro: bool = False,
) -> np.ndarray:
    """Percentile bootstrap interval of a score of summed counts.

    Args:
      counts: ``[cases, C, 4]``: tp, fp, fn and tn of each case and class.
      score: of ``Counts``, such as ``jaxseg.dice``.
      groups: the group of each case, as in ``intervals``; so are the other arguments.
      resamples: how many, or how often each draws each group.
      level: of confidence.
      seed: of the random numbers.
      macro: also of the mean over the classes, as the last entry.

    Returns:
      Float64 array ``[2, C]``, or ``[2, C + 1]`` with ``macro``.

    Raises:
      ValueError: an argument of another shape or value.
    """
    check_level(level)
    array = np.asarray(counts, np.float64)
    if array.ndim != 3 or array.shape[-1] != 4:
        raise ValueError(
            f"counts must be [cases, C, 4], of tp, fp, fn and tn; got the shape {array.shape}."
        )
    place, num_groups = _places(groups, len(array))
    sums = np.zeros((num_groups, *array.shape[1:]))
    np.add.at(sums, place, array)
    of = functools.partial(_pooled, sums.astype(np.float32), score=score)
    drawn = _drawn(of, num_groups, array.shape[1], resamples, seed)
    return ends(_with_macro(drawn) if macro else drawn, level)


def bootstrap(
    values: ArrayLike,
    groups: Groups | None = None,
    statistic: Statistic = "mean",
    resamples: Resamples = 10_000,
    seed: int = 0,
    macro: bool = False,
) -> np.ndarray:
    """The mean or the median of each resample, ``[resamples, ...]``; NaN without a value.

    Arguments are those of ``intervals``.
    """
    array = np.asarray(values, np.float64)
    if array.ndim < 1 or (macro and array.ndim < 2):
        raise ValueError(
            f"values must be [cases, ...], with macro [cases, ..., C]; got shape {array.shape}."
        )
    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic must be 'mean' or 'median', got {statistic!r}.")
    place, num_groups = _places(groups, len(array))
    columns = array.reshape(len(array), math.prod(array.shape[1:]))

    # In float32 the distances from a centre lose less than the values, and equal values nothing.
    finite = np.isfinite(columns)
    centre = np.where(finite, columns, 0).sum(0) / np.maximum(finite.sum(0), 1)
    size = np.where(finite, np.abs(columns - centre), 0).max(0, initial=0)
    unit = np.exp2(np.floor(np.log2(np.where(size > 0, size, 1))))
    whole = np.round(centre / unit) * unit  # distances of ranks, and so their sums, are exact
    centre = np.where(size > 0, whole, centre)
    of = (_means if statistic == "mean" else _medians)(columns - centre, place, num_groups)
    drawn = centre + _drawn(of, num_groups, columns.shape[1], resamples, seed)
    drawn = drawn.reshape(-1, *array.shape[1:])
    return _with_macro(drawn) if macro else drawn


def _drawn(
    of: Callable[[Array], Array], groups: int, columns: int, resamples: Resamples, seed: int
) -> np.ndarray:
    """``of(weights)`` of all resamples, float64 ``[resamples, columns]``, block by block."""
    if isinstance(resamples, (int, np.integer)):
        number, given = int(resamples), None
    else:
        given = np.asarray(resamples)
        if given.ndim != 2 or given.shape[1] != groups or given.dtype.kind not in "iu":
            raise ValueError(
                f"resamples must be a number or integers [resamples, {groups}], how often each"
                f" draws each group; got {given.dtype} of the shape {given.shape}."
            )
        number = len(given)
    if number < 1:
        raise ValueError(f"resamples must be at least 1, got {number}.")
    if not groups or not columns:
        return np.full((number, columns), np.nan)
    blocks = math.ceil(number * max(groups, columns) / CELLS)
    size = math.ceil(number / min(blocks, number))  # the same for each: one program
    key = jax.random.key(seed, impl="threefry2x32")
    parts = []
    for start in range(0, number, size):
        if given is None:
            weights = _draw(key, start, size, groups)
        else:
            rows = given[start : start + size].T
            weights = jnp.asarray(np.pad(rows, ((0, 0), (0, size - rows.shape[1]))), jnp.float32)
        parts.append(np.asarray(of(weights), np.float64))
    return np.concatenate(parts)[:number]


@functools.partial(jax.jit, static_argnames=("size", "groups"))
def _draw(key: Array, start: int, size: int, groups: int) -> Array:
    """How often the resamples from ``start`` on draw each group, float32 ``[groups, size]``."""

    # The numbers are the same whatever the blocks; the remainder favours the first groups by
    # groups / 2**32, and takes half the time of jax.random.randint.
    def one(index: Array) -> Array:
        bits = jax.random.bits(jax.random.fold_in(key, index), (groups,), jnp.uint32)
        return (bits % jnp.uint32(groups)).astype(jnp.int32)

    index = jnp.arange(size, dtype=jnp.int32)
    drawn = jax.vmap(one)(start + index)
    weights = jnp.zeros((size, groups), jnp.float32)
    return weights.at[index[:, None], drawn].add(1.0).T


# ------------------------------------------------------------------ a statistic of each resample


def _means(values: np.ndarray, place: np.ndarray, groups: int) -> Callable[[Array], Array]:
    parts = [np.where(np.isfinite(values), values, 0)]
    parts += [~np.isnan(values), np.isposinf(values), np.isneginf(values)]
    sums = np.zeros((4, groups, values.shape[1]))
    for total, part in zip(sums, parts, strict=True):
        np.add.at(total, place, part)
    return functools.partial(_weighted_means, sums.astype(np.float32))


@jax.jit
def _weighted_means(sums: Array, weights: Array) -> Array:
    product = functools.partial(jnp.matmul, weights.T, precision="highest")
    total, number, above, below = (product(x) for x in sums)
    total = jnp.where(above > 0, jnp.inf, 0) + jnp.where(below > 0, -jnp.inf, 0) + total
    return jnp.where(number > 0, total / number, jnp.nan)


def _medians(values: np.ndarray, place: np.ndarray, groups: int) -> Callable[[Array], Array]:
    order = np.argsort(values, axis=0, kind="stable")  # NaN last
    ordered = np.take_along_axis(values, order, 0).astype(np.float32)
    return functools.partial(_weighted_medians, ordered, place[order].astype(np.int32))


@jax.jit
def _weighted_medians(ordered: Array, place: Array, weights: Array) -> Array:
    """The mean of the middle two values, which are one if their number is odd."""
    valid = ~jnp.isnan(ordered)

    def add(case: int | Array, number: Array) -> Array:
        return number + jnp.where(valid[case][:, None], weights[place[case]], 0)

    zero = jnp.zeros((ordered.shape[1], weights.shape[1]), jnp.float32)
    number = lax.fori_loop(0, len(ordered), add, zero)
    middle = jnp.floor((number - 1) / 2), jnp.floor(number / 2)

    def pass_by(case: int | Array, state: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        seen, first, second = state
        seen = add(case, seen)
        first, second = (
            index + (seen <= half).astype(jnp.int32)
            for index, half in zip((first, second), middle, strict=True)
        )
        return seen, first, second

    start = zero, zero.astype(jnp.int32), zero.astype(jnp.int32)
    _, first, second = lax.fori_loop(0, len(ordered), pass_by, start)
    last = len(ordered) - 1
    low, high = (jnp.take_along_axis(ordered, jnp.clip(x, 0, last).T, 0) for x in (first, second))
    median = jnp.where(low == high, low, low / 2 + high / 2)
    return jnp.where(number.T > 0, median, jnp.nan)


@functools.partial(jax.jit, static_argnames="score")
def _pooled(sums: Array, weights: Array, *, score: Score) -> Array:
    groups, size = weights.shape
    product = jnp.matmul(weights.T, sums.reshape(groups, -1), precision="highest")
    return score(Counts(*jnp.moveaxis(product.reshape(size, -1, 4), -1, 0)))


# ---------------------------------------------------------------------------------------- the ends


def check_level(level: float) -> None:
    """Refuse a confidence level that is no share, such as 95."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95; got {level}.")


def ends(drawn: np.ndarray, level: float) -> np.ndarray:
    """The quantiles over the resamples, of what is not NaN: linear between neighbours."""
    ordered = np.sort(drawn, axis=0)  # NaN last
    last = (~np.isnan(drawn)).sum(0) - 1
    return np.stack([_quantile(ordered, last, q) for q in ((1 - level) / 2, (1 + level) / 2)])


def _quantile(ordered: np.ndarray, last: np.ndarray, q: float) -> np.ndarray:
    place = q * np.maximum(last, 0)
    below = np.floor(place).astype(int)
    low = np.take_along_axis(ordered, below[None], 0)[0]
    high = np.take_along_axis(ordered, np.minimum(below + 1, np.maximum(last, 0))[None], 0)[0]
    part = place - below
    with np.errstate(invalid="ignore"):  # 0 * inf
        between = (1 - part) * low + part * high
    return np.where((part == 0) | (low == high), low, between)


def _with_macro(drawn: np.ndarray) -> np.ndarray:
    """With the mean over the last axis, of what is not NaN, as its last entry."""
    valid = ~np.isnan(drawn)
    with np.errstate(invalid="ignore"):  # inf - inf
        total = np.where(valid, drawn, 0).sum(-1, keepdims=True)
    number = valid.sum(-1, keepdims=True)
    mean = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return np.concatenate([drawn, mean], -1)


def _places(groups: Groups | None, cases: int) -> tuple[np.ndarray, int]:
    """The index of each case's group, and how many groups there are."""
    if groups is None:
        return np.arange(cases), cases
    if len(groups) != cases:
        raise ValueError(f"groups must have one entry per case, {cases}; got {len(groups)}.")
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    return place.reshape(-1), len(names)
