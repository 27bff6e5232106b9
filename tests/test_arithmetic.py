"""Arithmetic of statistics: sums and multiples, and what is neither."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import Counts, Moments

C = Counts(*jnp.arange(12, dtype=jnp.int32).reshape(4, 3))
SOFT = Counts(*jnp.arange(12.0).reshape(4, 3))
M = jaxseg.moments(jnp.array([[0.5, jnp.nan], [1.0, 0.25]]))
R = jaxseg.running(C)
STATISTICS = [pytest.param(C, id="Counts"), pytest.param(SOFT, id="soft"), pytest.param(M, id="M")]


def assert_same(got: Any, want: Any) -> None:
    """The same structure, dtypes and values."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


@pytest.mark.parametrize("statistic", [*STATISTICS, pytest.param(R, id="Running")])
def test_pythons_sum_needs_no_start(statistic: Any) -> None:
    assert_same(sum([statistic] * 3), statistic + statistic + statistic)
    assert_same(0 + statistic, statistic)
    assert_same(statistic + 0, statistic)
    assert_same(jax.jit(lambda s: sum([s, s]))(statistic), statistic + statistic)


@pytest.mark.parametrize(
    "two", [2, np.int64(2), np.uint8(2), jnp.int32(2), np.full(1, 2), jnp.full((), 2)], ids=repr
)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_multiple_is_a_repeated_sum(statistic: Any, two: Any) -> None:
    if statistic is M and np.shape(two):
        two = two[0]
    for product in (2 * statistic, statistic * two, two * statistic):
        assert_same(product, statistic + statistic)


def test_a_multiple_under_jit() -> None:
    for statistic in (C, SOFT, M):
        assert_same(jax.jit(lambda s: 2 * s)(statistic), statistic + statistic)
        assert_same(jax.jit(operator.mul)(statistic, jnp.int32(2)), statistic + statistic)
    assert_same(jax.vmap(operator.mul)(C, jnp.array([1, 0, 2])), C * np.array([1, 0, 2]))


@pytest.mark.parametrize("half", [0.5, np.float64(0.5), np.float32(0.5), jnp.float32(0.5)])
def test_a_fraction_of_integers_is_a_float(half: Any) -> None:
    for product in (half * C, C * half, half * SOFT):
        assert_same(product, Counts(*(leaf * jnp.float32(0.5) for leaf in SOFT)))


def test_a_factor_per_class() -> None:
    images = Counts(*jnp.arange(24, dtype=jnp.int32).reshape(4, 2, 3))
    for factor in (np.array([1, 2, 3]), np.array([[2], [3]]), np.arange(6).reshape(2, 3)):
        want = Counts(*(jnp.asarray(np.asarray(leaf) * factor, jnp.int32) for leaf in images))
        assert_same(images * jnp.asarray(factor), want)
        assert_same(factor * images, want)


def test_weights_of_cases() -> None:
    """A factor of ``Moments`` is the number of times that its cases count."""
    a, b = jaxseg.moments(jnp.array([1.0, 2.0])), jaxseg.moments(jnp.array([5.0]))
    for weighted in (0.25 * a + b * 0.5, 0.125 * (2 * a + 4 * b)):
        assert float(jaxseg.mean(weighted)) == pytest.approx(np.mean([1, 2, 5, 5]))
        assert float(jaxseg.std(weighted)) == pytest.approx(np.std([1, 2, 5, 5]))


def test_numpy_leaves_stay_exact() -> None:
    """What ``total`` gives on the host, added to what a step counts: JAX would cut it to int32."""
    total = jaxseg.total(jaxseg.running(Counts(*np.full((4, 3), 2**40 + 1))))
    for sum_ in (total + C, C + total):
        assert [leaf.tolist() for leaf in sum_] == (
            np.arange(12).reshape(4, 3) + 2**40 + 1
        ).tolist()
    assert (3 * total).tp.tolist() == (total * jnp.int32(3)).tp.tolist() == [3 * 2**40 + 3] * 3
    small = Counts(*np.ones((4, 3), np.int64))
    assert_same(jax.jit(lambda c: c + small)(C), Counts(*(leaf + 1 for leaf in C)))
    for wraps in (lambda c: c + total, lambda c: total + c, lambda c: total * c.tp[0]):
        with pytest.raises(ValueError, match="would wrap under jit; add them to a Running"):
            jax.jit(wraps)(C)


def test_a_large_factor_does_not_wrap() -> None:
    for factor in (2**40, np.int64(2**40)):
        with pytest.raises(OverflowError):
            factor * C
    assert (Counts(1, 2, 3, 4) * 2**40).tn == 2**42


def test_numbers_of_0_are_the_zero_of_any_shape() -> None:
    for zero in (Counts(0, 0, 0, 0), Counts(0.0, 0, 0, 0)):
        assert_same(zero + C, C)
        assert_same(C + zero, C)
        assert_same(jax.jit(lambda c, zero=zero: zero + c)(C), C)
    assert_same(sum([C, C], start=Counts(0, 0, 0, 0)), C + C)
    assert Counts(0, 0, 0, 0) + Counts(1, 2, 3, 4) == (1, 2, 3, 4)


IMAGES = Counts(*jnp.ones((4, 2, 3), jnp.int32))
NUMBERS = Counts(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("a", "b", "shapes"),
    [
        (C, IMAGES, "(3,) and (2, 3)"),
        (C, Counts(*jnp.ones((4, 1), jnp.int32)), "(3,) and (1,)"),
        (C, NUMBERS, "(3,) and ()"),
        (C, Counts(*jnp.zeros(4, jnp.int32)), "(3,) and ()"),
        (M, jaxseg.moments(jnp.ones((2, 3))), "(2,) and (3,)"),
    ],
    ids=["images", "one", "numbers", "micro", "Moments"],
)
def test_no_sum_broadcasts(a: Any, b: Any, shapes: str) -> None:
    for add in (operator.add, jax.jit(lambda a, b: a + b)):
        if b is NUMBERS and add is not operator.add:
            continue
        with pytest.raises(ValueError, match="same shape") as error:
            add(a, b)
        assert f"got {shapes};" in str(error.value)


def test_no_factor_enlarges() -> None:
    for factor in (jnp.ones((2, 3)), np.ones(2), np.ones((1, 3))):
        with pytest.raises(ValueError, match=r"broadcast to the leaves' shape \(3,\), got shape"):
            factor * C
        with pytest.raises(ValueError, match=r"broadcast to the leaves' shape \(3,\), got shape"):
            jax.jit(lambda c, f: c * f)(C, factor)


OTHERS = [(1, 2), [1], "ab", None, True, 1j, np.bool_(True), jnp.ones(3, bool), {"a": 1}]


@pytest.mark.parametrize("statistic", [*STATISTICS, pytest.param(R, id="Running")])
@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_a_statistic_is_no_tuple(statistic: Any, other: Any) -> None:
    """Neither concatenated nor repeated, on either side; the error says what is possible."""
    rule = "same structure|must hold" if statistic is R else "can be added to"
    for a, b in ((statistic, other), (other, statistic)):
        with pytest.raises(TypeError, match=rule):
            operator.add(a, b)
        with pytest.raises(TypeError, match="multiplied"):
            operator.mul(a, b)


@pytest.mark.parametrize("other", [1, 0.0, False, np.int32(0), jnp.zeros((), int), np.ones(3)])
def test_only_the_integer_0_is_a_sums_start(other: Any) -> None:
    for statistic in (C, M):
        for a, b in ((statistic, other), (other, statistic)):
            with pytest.raises(TypeError, match=f"added to {type(statistic).__name__}"):
                operator.add(a, b)


def test_statistics_are_not_multiplied_by_statistics() -> None:
    for a, b in ((C, C), (C, M), (M, C), (M, M)):
        with pytest.raises(
            TypeError, match=f"number or an array of numbers, got {type(b).__name__}"
        ):
            operator.mul(a, b)
    for a, b in ((C, M), (M, C)):
        with pytest.raises(TypeError, match=f"added to {type(a).__name__}.*got {type(b).__name__}"):
            operator.add(a, b)


@pytest.mark.parametrize("factor", [2, 2.0, np.float32(2), jnp.int32(2), np.ones(3), R, C])
def test_a_running_sum_is_not_multiplied(factor: Any) -> None:
    message = "A Running is not multiplied: .* or the total"
    for a, b in ((R, factor), (factor, R)):
        if isinstance(a, Counts):
            message = "Counts can be multiplied by a number"
        with pytest.raises(TypeError, match=message):
            operator.mul(a, b)


def test_moments_of_numpy_multiply() -> None:
    total = jaxseg.total(jaxseg.running(M))
    assert isinstance(2 * total, Moments)
    assert (2 * total).count.tolist() == [4, 2]
    assert (0.5 * total).count.dtype == np.float64
