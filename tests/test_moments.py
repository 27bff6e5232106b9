"""Moments of values per case, their mean and their standard deviation, against NumPy."""

import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxseg

VALUES = np.random.default_rng(0).uniform(size=(30, 4)).astype(np.float32)
VALUES[[3, 7, 7, 11], [0, 0, 2, 3]] = np.nan


def in_parts(values, cuts):
    """Moments summed over parts of the cases, the empty ones left out."""
    edges = [0, *sorted(cuts), len(values)]
    parts = [values[a:b] for a, b in itertools.pairwise(edges) if a < b]
    total = jaxseg.moments(parts[0])
    for part in parts[1:]:
        total = total + jaxseg.moments(part)
    return total


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 1), None], ids=str)
def test_mean_and_std_are_numpys_over_what_is_not_nan(axis):
    m = jaxseg.moments(VALUES, axis=axis)
    x = VALUES.astype(np.float64)
    np.testing.assert_array_equal(m.count, (~np.isnan(x)).sum(axis))
    np.testing.assert_array_equal(m.excluded, np.isnan(x).sum(axis))
    np.testing.assert_allclose(m.total, np.nansum(x, axis), rtol=1e-6)
    np.testing.assert_allclose(m.squares, np.nansum(x * x, axis), rtol=1e-6)
    np.testing.assert_allclose(jaxseg.mean(m), np.nanmean(x, axis), rtol=1e-6)
    for ddof in (0, 1):
        want = np.nanstd(x, axis, ddof=ddof)
        np.testing.assert_allclose(jaxseg.std(m, ddof=ddof), want, rtol=1e-5)
    assert {leaf.dtype for leaf in m} == {jnp.int32.dtype, jnp.float32.dtype}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0, 1, 5, 10, 15, 20, 30]), max_size=5))
def test_any_batches_give_the_same(cuts):  # t54
    got, want = in_parts(VALUES, cuts), jaxseg.moments(VALUES)
    np.testing.assert_array_equal(got.count, want.count)
    np.testing.assert_array_equal(got.excluded, want.excluded)
    np.testing.assert_allclose(jaxseg.mean(got), jaxseg.mean(want), rtol=1e-6)
    np.testing.assert_allclose(jaxseg.std(got), jaxseg.std(want), rtol=1e-4)


def test_one_nan_does_not_last():
    m = jaxseg.moments(jnp.array([jnp.nan])) + jaxseg.moments(jnp.array([0.25, 0.75]))
    assert jaxseg.mean(m) == 0.5
    assert m.excluded == 1


def test_all_nan_is_nan_and_not_zero():
    m = jaxseg.moments(jnp.full((5, 2), jnp.nan))
    assert m.excluded.tolist() == [5, 5] and m.count.tolist() == [0, 0]
    assert np.isnan(jaxseg.mean(m)).all() and np.isnan(jaxseg.std(m)).all()
    assert jaxseg.mean(m, zero_division=0.25).tolist() == [0.25, 0.25]
    assert jaxseg.std(m, zero_division=0.25).tolist() == [0.25, 0.25]


def test_one_case_has_no_sample_deviation():
    m = jaxseg.moments(jnp.array([0.5]))
    assert jaxseg.std(m) == 0
    assert np.isnan(jaxseg.std(m, ddof=1))
    assert jaxseg.std(m, ddof=1, zero_division=-1.0) == -1


@pytest.mark.parametrize("ddof", [0, 1, 3])
def test_fewer_cases_than_ddof_have_no_deviation(ddof):
    for values in ([], [0.5], [0.5, 1.0]):
        x = jnp.array([*values, jnp.nan])
        want = np.std(values, ddof=ddof) if len(values) > ddof else 0.25
        for m in (jaxseg.moments(x), jaxseg.total(jaxseg.running(jaxseg.moments(x)))):
            assert float(jaxseg.std(m, ddof=ddof, zero_division=0.25)) == pytest.approx(want)


def test_infinite_values_count():
    m = jaxseg.moments(jnp.array([[1.0, 1.0], [jnp.inf, 2.0], [jnp.nan, 3.0]]))
    assert m.count.tolist() == [2, 3]
    assert jaxseg.mean(m).tolist() == [np.inf, 2.0]
    assert np.isnan(jaxseg.std(m)[0]) and np.isfinite(jaxseg.std(m)[1])


@pytest.mark.parametrize("cases", [True, False], ids=["of cases", "of values"])
def test_where_leaves_out_and_does_not_exclude(cases):
    rng = np.random.default_rng(1)
    where = rng.random(30 if cases else (30, 4)) < 0.6
    m = jaxseg.moments(VALUES, where=where)
    whole = np.broadcast_to(where[:, None] if cases else where, VALUES.shape)
    kept = np.where(whole, VALUES, np.nan).astype(np.float64)
    np.testing.assert_array_equal(m.count, (~np.isnan(kept)).sum(0))
    np.testing.assert_array_equal(m.excluded, (whole & np.isnan(VALUES)).sum(0))
    np.testing.assert_allclose(jaxseg.mean(m), np.nanmean(kept, 0), rtol=1e-6)


def test_masked_cases_may_hold_anything():
    where = np.random.default_rng(1).random(30) < 0.6
    garbage = np.where(where[:, None], VALUES, np.float32([np.nan, np.inf, -np.inf, 1e30]))
    got = jaxseg.moments(garbage, where=where)
    want = jaxseg.moments(VALUES[where])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    gradient = jax.grad(lambda x: jaxseg.mean(jaxseg.moments(x, where=where)).sum())(garbage)
    assert not gradient[~where].any() and jnp.isfinite(gradient).all()


def test_order_of_the_means_is_the_callers():
    """Of each class over images, then of classes; or of an image over classes, then of images."""
    dice = jnp.array([[0.5, jnp.nan], [1.0, 0.25]])
    by_class = jaxseg.mean(jaxseg.moments(dice))
    by_image = jaxseg.mean(jaxseg.moments(dice, axis=1))
    pooled = jaxseg.mean(jaxseg.moments(dice, axis=None))
    assert (by_class.mean(), by_image.mean()) == (0.5, 0.5625)
    assert float(pooled) == pytest.approx(1.75 / 3)


def test_cases_are_counted_beyond_two_to_the_24_and_to_the_31():
    m = jaxseg.moments(jnp.ones(2**24 + 3))
    assert m.count == 2**24 + 3
    # Twice 2**30 cases of 0 and of 1, as sums alone: int32 would be negative.
    batch = jaxseg.Moments(jnp.int32(2**30), *jnp.array([2.0**29, 2.0**29]), jnp.int32(2**30))
    total = jaxseg.total(jaxseg.running(batch) + batch + batch + batch)
    assert total.count == total.excluded == 2**32
    assert jaxseg.mean(total) == jaxseg.std(total) == 0.5
    in_jit = jax.jit(lambda r: (jaxseg.mean(jaxseg.total(r)), jaxseg.std(jaxseg.total(r))))
    assert in_jit(jaxseg.running(total)) == (0.5, 0.5)


def test_numpys_sums_are_taken_in_float64_also_as_scalars():
    values = 1000 + np.tile([0.0, 0.5], 50_000)
    sums = np.int64(values.size), values.sum(), (values**2).sum(), np.int64(0)
    for make in (np.asarray, lambda x: x):  # arrays without axes, and scalars
        m = jaxseg.Moments(*map(make, sums))
        assert float(jaxseg.std(m)) == pytest.approx(0.25, rel=1e-6)
    in_float32 = jaxseg.std(jax.tree.map(jnp.asarray, m))
    assert abs(float(in_float32) - 0.25) > 1e-3


def test_infinite_sums_of_numpy_do_not_warn():
    r = jaxseg.running(jaxseg.moments(jnp.array([[1.0, 1.0], [jnp.inf, 3.0]])))
    total = jaxseg.total(r)
    assert jaxseg.mean(total).tolist() == [np.inf, 2.0]
    assert np.isnan(jaxseg.std(total)[0]) and jaxseg.std(total)[1] == 1


def test_float64_stays_float64():
    values = VALUES.astype(np.float64)
    assert jaxseg.moments(values).total.dtype == jnp.float32
    with jax.enable_x64(True):
        m = jaxseg.moments(jnp.asarray(values))
        assert (m.count.dtype, m.total.dtype) == (jnp.int32, jnp.float64)
        np.testing.assert_allclose(jaxseg.mean(m), np.nanmean(values, 0), rtol=1e-14)
        np.testing.assert_allclose(jaxseg.std(m), np.nanstd(values, 0), rtol=1e-13)


@pytest.mark.parametrize("n", [2, 7, 100])
def test_equal_values_deviate_by_rounding_alone(n):
    run = jax.jit(jax.value_and_grad(lambda x: jaxseg.std(jaxseg.moments(x))))
    for value in (0.1, 1 / 3, 0.7, 0.9, 12.3):
        spread, gradient = run(jnp.full(n, value))
        assert 0 <= spread <= 1e-3 * value
        assert abs(gradient).max() < 1e-3


def test_half_precision_is_summed_in_float32():
    x = jnp.full((70_000,), 3.0, jnp.float16)  # the sum and the squares pass 65504
    m = jaxseg.moments(x)
    assert m.total == 210_000 and m.squares == 630_000
    assert m.total.dtype == jnp.float32


def test_a_small_deviation_beside_the_mean_survives_many_steps():
    """The variance is a difference of two sums that agree in five digits."""
    rng = np.random.default_rng(2)
    values = (0.95 + 0.002 * rng.normal(size=(400, 50))).astype(np.float32)
    state = jaxseg.running(jaxseg.moments(values[0]))
    plain = jaxseg.moments(values[0])
    for batch in values[1:]:
        state = state + jaxseg.moments(batch)
        plain = plain + jaxseg.moments(batch)
    want = values.astype(np.float64).std()
    total = jaxseg.total(state)
    assert abs(jaxseg.std(total) / want - 1) < 1e-3
    assert abs(jaxseg.std(plain) / want - 1) > 1e-2  # what float32 alone makes of it
    np.testing.assert_allclose(jaxseg.mean(total), values.astype(np.float64).mean(), rtol=1e-7)
    assert total.count.dtype == np.int64 and total.total.dtype == np.float64


def test_a_constant_taken_off_keeps_the_digits_of_large_values():
    values = (1000 + np.random.default_rng(3).normal(size=500)).astype(np.float32)
    want = values.astype(np.float64).std()
    assert abs(jaxseg.std(jaxseg.moments(values - 1000)) / want - 1) < 1e-6


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [0.5], [np.nan, np.nan], [0.0, 0.0]], ids=str)
def test_gradients_are_finite_where_nothing_deviates(values, ddof):
    def spread(x):
        m = jaxseg.moments(x)
        return jaxseg.std(m, ddof=ddof, zero_division=0.0) + jaxseg.mean(m, zero_division=0.0)

    gradient = jax.jit(jax.grad(spread))(jnp.array(values))
    assert jnp.isfinite(gradient).all()


def test_the_gradient_of_the_deviation():
    x = jnp.array([1.0, 2.0, 4.0, jnp.nan])
    got = jax.grad(lambda x: jaxseg.std(jaxseg.moments(x)))(x)
    centred = np.array([1.0, 2.0, 4.0]) - 7 / 3
    want = centred / (3 * np.sqrt((centred**2).mean()))
    np.testing.assert_allclose(got, [*want, 0.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        (np.ones((3, 2), np.int32), {}, TypeError, "values must be floating"),
        (np.ones((0, 2), np.float32), {}, ValueError, "must not be empty"),
        (np.ones((3, 2), np.float32), {"axis": 2}, ValueError, "out of range"),
        (np.ones((3, 2), np.float32), {"where": np.ones(3)}, TypeError, "where must be bool"),
        (np.ones((3, 2), np.float32), {"where": np.ones(2, bool)}, ValueError, "first axes"),
        (np.ones(3, np.float32), {"where": np.ones((3, 1), bool)}, ValueError, "first axes"),
    ],
)
def test_bad_input_is_refused_eagerly_and_under_jit(values, options, error, message):
    where = options.pop("where", None)
    for transform in (lambda f: f, jax.jit):
        run = transform(lambda x, where: jaxseg.moments(x, where=where, **options))
        with pytest.raises(error, match=message):
            run(values, where)


@pytest.mark.parametrize("function", [jaxseg.mean, jaxseg.std])
def test_only_moments_have_a_mean(function):
    with pytest.raises(TypeError, match="takes Moments, got tuple"):
        function((1, 2, 3))
    with pytest.raises(TypeError, match="takes Moments, got Counts"):
        function(jaxseg.Counts(1, 2, 3, 4))


def test_moments_are_not_added_to_other_tuples():
    with pytest.raises(TypeError):
        operator.add(jaxseg.moments(jnp.ones(3)), (1, 2, 3, 4))
