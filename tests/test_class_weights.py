"""Class weights at the edges: classes that never occur, large counts, and wrong arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jaxseg

SCHEMES = {
    "inverse": jaxseg.inverse_frequency,
    "effective": partial(jaxseg.effective_number, beta=0.99),
    "median": jaxseg.median_frequency,
}
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def counts_of(pixels) -> jaxseg.Counts:
    """Of a perfect prediction of one image."""
    tp = np.asarray(pixels)
    none = np.zeros_like(tp)
    return jaxseg.Counts(tp, none, none, tp.sum() - tp)


@each_scheme
def test_a_class_that_never_occurs_weighs_as_the_rarest(scheme):
    weights = SCHEMES[scheme](counts_of([70, 0, 20, 0, 10]))
    assert weights.shape == (5,)
    assert weights[1] == weights[3] == weights[4] == weights.max()
    assert (weights > 0).all()


@each_scheme
def test_without_a_pixel_all_classes_weigh_one(scheme):
    assert SCHEMES[scheme](counts_of([0, 0, 0])).tolist() == [1, 1, 1]


@each_scheme
def test_equal_classes_weigh_one(scheme):
    np.testing.assert_allclose(SCHEMES[scheme](counts_of([7, 7, 7])), 1, rtol=1e-6)


@each_scheme
def test_large_counts_of_a_running_sum(scheme):
    tp = np.array([2**40, 2**30, 5])
    state = jaxseg.running(counts_of(tp))
    got = SCHEMES[scheme](jaxseg.total(state))
    scaled = jax.jit(lambda r: SCHEMES[scheme](jaxseg.total(r)))(state)
    np.testing.assert_allclose(got, scaled, rtol=1e-6)
    assert np.isfinite(got).all()
    if scheme == "inverse":
        np.testing.assert_allclose(got, tp.sum() / 3 / tp, rtol=1e-6)


def test_the_mean_weight_of_a_pixel_is_one():
    pixels = np.array([700, 0, 250, 50])
    weights = np.asarray(jaxseg.inverse_frequency(counts_of(pixels)))
    assert np.average(weights, weights=pixels) == pytest.approx(1)


def test_a_beta_near_one_keeps_its_digits():
    """1 - 1e-9 is 1 in float32."""
    pixels = np.array([10**9, 10**7])
    got = jaxseg.effective_number(counts_of(pixels), beta=1 - 1e-9)
    raw = 1 / -np.expm1(pixels * np.log1p(-1e-9))
    np.testing.assert_allclose(got, 2 * raw / raw.sum(), rtol=1e-5)
    small = counts_of(np.array([5, 9, 2]))
    traced = jax.jit(jaxseg.effective_number)(small, beta=jnp.float32(0.75))
    np.testing.assert_allclose(traced, reference.effective_number(small, 0.75), rtol=1e-6)


def test_median_frequency_compares_with_the_images_of_a_class():
    labels = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [0, 2, 2, 0]])
    c = jaxseg.counts(labels, labels, num_classes=3, axis=1)
    frequencies = np.array([8 / 12, 2 / 4, 2 / 4])
    np.testing.assert_allclose(jaxseg.median_frequency(c), 0.5 / frequencies, rtol=1e-6)
    pooled = jaxseg.counts(labels, labels, num_classes=3)
    np.testing.assert_allclose(jaxseg.median_frequency(pooled), [2 / 8, 1, 1], rtol=1e-6)


def test_weighted_and_soft_counts_are_counts():
    labels = np.array([0, 0, 0, 1])
    weights = np.float32([1, 1, 1, 3])
    c = jaxseg.counts(labels, labels, num_classes=2, weights=weights)
    assert jaxseg.inverse_frequency(c).tolist() == [1, 1]
    probs = np.float32([[0.5, 0.5]] * 4)
    assert jaxseg.inverse_frequency(jaxseg.soft_counts(probs, labels)).tolist() == [
        pytest.approx(2 / 3),
        2,
    ]


@each_scheme
def test_what_is_no_counts_is_refused(scheme):
    for wrong in (np.array([3, 4]), jaxseg.running(counts_of([3, 4]))):
        with pytest.raises(TypeError, match="takes Counts"):
            SCHEMES[scheme](wrong)


@pytest.mark.parametrize(
    ("beta", "error", "message"),
    [
        (1.0, ValueError, r"beta must be in \[0, 1\), got 1.0"),
        (-0.1, ValueError, r"beta must be in \[0, 1\)"),
        (np.nan, ValueError, r"beta must be in \[0, 1\)"),
        (None, TypeError, "beta must be a real number"),
        (np.ones(3), ValueError, "beta must be one number"),
    ],
)
def test_a_wrong_beta_is_refused(beta, error, message):
    with pytest.raises(error, match=message):
        jaxseg.effective_number(counts_of([3, 4]), beta=beta)
