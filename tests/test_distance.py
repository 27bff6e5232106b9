"""Distance transforms: exact, in one, two and three dimensions, with spacing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import jaxseg


@pytest.mark.parametrize("shape", [(7,), (8, 20), (20, 8), (5, 6, 7)], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_distances_are_those_of_scipy(shape, share):
    rng = np.random.default_rng(1)
    mask = rng.random(shape) < share
    mask.flat[rng.integers(mask.size)] = True
    for spacing in (1.0, 2.5, tuple(0.3 + rng.random(len(shape)))):
        expected = ndimage.distance_transform_edt(~mask, sampling=spacing)
        value = jaxseg.distance_transform(mask, spacing=spacing)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=35, max_size=35))
def test_any_mask_gives_the_nearest_true_pixel(bits):
    mask = np.array(bits).reshape(5, 7)
    value = np.asarray(jaxseg.distance_transform(mask))
    points = np.argwhere(mask)
    for pixel in np.ndindex(mask.shape):
        squares = ((points - pixel) ** 2).sum(1)
        assert (
            round(float(value[pixel]) ** 2) == squares.min()
            if mask.any()
            else np.isinf(value[pixel])
        )


@pytest.mark.parametrize("shape", [(2, 8192), (8192, 2)], ids=str)
def test_squared_distances_are_exact_on_a_long_axis(shape):
    # 4097^2 = 16785409 is not a float32.
    mask = np.zeros(shape, bool)
    mask[0, 0] = True
    value = np.asarray(jaxseg.distance_transform(mask), np.float64)
    rows, columns = np.indices(shape)
    squares = rows**2 + columns**2
    np.testing.assert_array_equal(
        np.rint(value**2).astype(int)[squares < 2**22], squares[squares < 2**22]
    )
    np.testing.assert_allclose(value, np.sqrt(squares), rtol=6e-8)


def test_without_a_true_pixel_all_is_infinitely_far():
    assert np.isposinf(jaxseg.distance_transform(np.zeros((3, 4), bool))).all()
    assert np.isposinf(jaxseg.distance_transform(np.zeros((3, 4), bool), spacing=(1.0, 2.0))).all()
    assert not np.asarray(jaxseg.distance_transform(np.ones((3, 4), bool))).any()


def test_signed_distances_are_positive_outside_and_negative_inside():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    signed = np.asarray(jaxseg.signed_distance(mask, spacing=(2.0, 1.0)))
    assert (signed[mask] < 0).all() and (signed[~mask] > 0).all()
    np.testing.assert_allclose(jaxseg.signed_distance(~mask, spacing=(2.0, 1.0)), -signed)
    assert np.isneginf(jaxseg.signed_distance(np.ones((2, 2), bool))).all()


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


@pytest.mark.parametrize("shape", [(7,), (4, 6), (3, 5, 2)], ids=str)
def test_distances_are_the_least_of_all_pairs(shape):
    mask = np.random.default_rng(1).random(shape) < 0.15
    mask.flat[2] = True
    spacing = (0.7, 1.0, 3.0)[: len(shape)]
    expected = reference.brute_distance_transform(mask, spacing)
    np.testing.assert_allclose(reference.distance_transform(mask, spacing), expected, rtol=1e-12)
    got = jaxseg.distance_transform(mask, spacing=spacing)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_roots_of_squares_of_8192_pixels_are_rounded_once():
    # Both pixels of a long map: in its middle the squares differ by one in 16.8 million.
    mask = np.zeros((2, 8192), bool)
    mask[0, 0] = mask[1, 8191] = True
    rows, columns = np.indices(mask.shape)
    squares = np.minimum(rows**2 + columns**2, (1 - rows) ** 2 + (8191 - columns) ** 2)
    expected = np.sqrt(squares.astype(np.float64)).astype(np.float32)
    got = np.asarray(jaxseg.distance_transform(mask))
    np.testing.assert_array_max_ulp(got, expected, maxulp=1)


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
    for spacing in (scale, (scale, scale)):
        got = jaxseg.distance_transform(mask, spacing=spacing)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_one_image_of_a_batch_without_a_true_pixel_leaves_the_others_alone():
    masks = np.random.default_rng(4).random((3, 5, 6)) < 0.2
    masks[1] = False
    got = jax.vmap(jaxseg.distance_transform)(masks)
    for each, mask in zip(got, masks, strict=True):
        np.testing.assert_allclose(each, reference.distance_transform(mask), rtol=1e-6)
