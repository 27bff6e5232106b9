"""Distance transforms: those of SciPy and of all pairs of pixels, exact squares, and the signs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxseg

SPACINGS = (1.0, 2.5, (0.7, 1.0, 3.0))
transform = jax.jit(jaxseg.distance_transform, static_argnames="spacing")


def spacing_of(spacing, ndim):
    return spacing[:ndim] if isinstance(spacing, tuple) else spacing


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(17,), (6, 9), (9, 6), (1, 8), (4, 3, 5)]),
    share=st.sampled_from([0.02, 0.1, 0.4, 0.9]),
    spacing=st.sampled_from(SPACINGS),
    seed=st.integers(0, 2**32 - 1),
)
def test_distances_are_those_of_scipy(shape, share, spacing, seed):
    mask = np.random.default_rng(seed).random(shape) < share
    spacing = spacing_of(spacing, mask.ndim)
    got = transform(mask, spacing=spacing)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, reference.distance_transform(mask, spacing), rtol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shape", [(9,), (4, 7), (7, 4), (3, 5, 2)])
def test_distances_are_the_least_of_all_pairs(shape, spacing):
    mask = np.random.default_rng(1).random(shape) < 0.15
    mask.flat[2] = True
    spacing = spacing_of(spacing, mask.ndim)
    expected = reference.brute_distance_transform(mask, spacing)
    np.testing.assert_allclose(reference.distance_transform(mask, spacing), expected, rtol=1e-12)
    np.testing.assert_allclose(transform(mask, spacing=spacing), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)])
def test_without_a_true_pixel_distances_are_infinite(shape):
    assert (transform(np.zeros(shape, bool)) == math.inf).all()
    assert (jaxseg.signed_distance(np.zeros(shape, bool)) == math.inf).all()


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)])
def test_with_true_pixels_only_distances_are_zero(shape):
    assert (transform(np.ones(shape, bool)) == 0).all()
    assert (jaxseg.signed_distance(np.ones(shape, bool)) == -math.inf).all()


@pytest.mark.parametrize("shape", [(2, 8192), (8192, 2), (8192,)])
def test_squares_are_exact_along_8192_pixels(shape):
    # Float32 rounds the squares from 4097² on; the result is the root of the exact one.
    mask = np.zeros(shape, bool)
    mask[(0,) * len(shape)] = True
    squares = sum(np.square(axis) for axis in np.indices(shape))
    expected = np.sqrt(squares.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_max_ulp(np.asarray(transform(mask)), expected, maxulp=1)


def test_the_nearer_of_two_far_pixels_is_found():
    # In the middle the squares differ by 1 in 16.8 million: less than float32 tells apart.
    mask = np.zeros((2, 8192), bool)
    mask[0, 0] = mask[1, 8191] = True
    rows, columns = np.indices(mask.shape)
    squares = np.minimum(rows**2 + columns**2, (1 - rows) ** 2 + (8191 - columns) ** 2)
    expected = np.sqrt(squares.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_max_ulp(np.asarray(transform(mask)), expected, maxulp=1)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_signed_distance_is_positive_outside_and_negative_inside(spacing):
    mask = np.random.default_rng(2).random((7, 5, 4)) < 0.4
    got = jaxseg.signed_distance(mask, spacing=spacing)
    assert (np.sign(got) == np.where(mask, -1, 1)).all()
    np.testing.assert_allclose(got, reference.signed_distance(mask, spacing), rtol=1e-6)
    flipped = jaxseg.signed_distance(~mask, spacing=spacing)
    np.testing.assert_allclose(flipped, -got, rtol=1e-6)


def test_spacing_is_in_the_order_of_the_axes():
    mask = np.zeros((2, 3), bool)
    mask[0, 0] = True
    got = jaxseg.distance_transform(mask, spacing=(10.0, 1.0))
    np.testing.assert_allclose(got, [[0, 1, 2], [10, 101**0.5, 104**0.5]], rtol=1e-6)
    turned = jaxseg.distance_transform(mask.T, spacing=(1.0, 10.0))
    np.testing.assert_allclose(turned, got.T, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_spacing_scales_the_distances(scale):
    mask = np.random.default_rng(3).random((5, 6)) < 0.2
    expected = scale * np.asarray(jaxseg.distance_transform(mask), np.float64)
    got = jaxseg.distance_transform(mask, spacing=scale)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    got = jaxseg.distance_transform(mask, spacing=(scale, scale))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_batch_is_vmap():
    masks = np.random.default_rng(4).random((3, 5, 6)) < 0.2
    got = jax.vmap(jaxseg.distance_transform)(masks)
    for each, mask in zip(got, masks, strict=True):
        np.testing.assert_array_equal(each, transform(mask))


def test_one_image_without_a_true_pixel_leaves_the_others_alone():
    masks = np.random.default_rng(4).random((3, 5, 6)) < 0.2
    masks[1] = False
    got = jax.vmap(jaxseg.distance_transform)(masks)
    assert np.isinf(got[1]).all()
    for n in (0, 2):
        np.testing.assert_allclose(got[n], reference.distance_transform(masks[n]), rtol=1e-6)


def test_spacing_may_be_an_array_under_jit():
    mask = np.eye(4, dtype=bool)
    value = jax.jit(lambda s: jaxseg.distance_transform(mask, spacing=s))(2.5)
    np.testing.assert_allclose(value, jaxseg.distance_transform(mask, spacing=2.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("mask", "error"), [(np.ones((2, 2)), TypeError), (np.ones((), bool), ValueError)]
)
def test_a_mask_is_bool_and_has_axes(mask, error):
    with pytest.raises(error, match="mask must be"):
        jaxseg.distance_transform(mask)
