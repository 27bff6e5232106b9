"""Distance transforms: exact, in one, two and three dimensions, with spacing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import jaxseg
from jaxseg import _distance
from jaxseg._kernels import distance_gpu


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


LONG = [
    ((70_000,), 1.0),
    ((70_000,), (0.3,)),
    ((40_000, 3), 1.0),
    ((40_000, 3), (0.3, 0.7)),
    ((3, 9_000), (0.3, 0.7)),  # thousands of rounds in float32
    ((32_766, 2), 0.3),  # the longest diagonal of squares in int32, and one pixel more
    ((32_767, 2), 0.3),
    pytest.param((1, 60_000), 1.0, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("shape", "spacing"), LONG, ids=str)
def test_distances_are_right_on_an_axis_of_any_length(shape, spacing):
    mask = np.zeros(shape, bool)
    mask.flat[0] = mask.flat[3 * mask.size // 5] = True
    for pixels in (mask, mask ^ (np.arange(mask.size).reshape(shape) == 0)):
        expected = ndimage.distance_transform_edt(~pixels, sampling=spacing)
        got = jaxseg.distance_transform(pixels, spacing=spacing)
        np.testing.assert_allclose(got, expected, rtol=4e-7)


def test_functions_of_distances_are_right_on_a_long_axis():
    # of 70,000 pixels the first is True
    size = 70_000
    mask, away = np.zeros(size, bool), np.arange(size, dtype=float)
    mask[0], away[0] = True, -1
    for spacing in (2.0, (2.0,)):
        got = jaxseg.signed_distance(mask, spacing=spacing)
        np.testing.assert_allclose(got, 2 * away, rtol=4e-7)
    options = {"activation": None, "spatial_axes": (1,)}
    probs, labels = np.ones((1, size, 1), np.float32), mask[None]
    got = jaxseg.boundary_loss(probs, labels, **options)
    np.testing.assert_allclose(got, [away.mean()], rtol=1e-5)
    got = jaxseg.hausdorff_dt_loss(probs, labels, alpha=1.0, **options)
    np.testing.assert_allclose(got, [away[1:].sum() / size], rtol=1e-5)
    instances = np.where(away == size - 1, 2, mask.astype(int))
    got = jaxseg.border_weights(instances, border_weight=1.0, sigma=size)
    np.testing.assert_allclose(got, np.exp(-((1 - 1 / size) ** 2) / 2), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2**30 + 1,), (2**30 + 1, 1), (1, 2**30 + 1)], ids=str)
def test_an_axis_beyond_the_limit_is_refused(shape):
    mask = jax.ShapeDtypeStruct(shape, bool)
    for function in (
        jaxseg.distance_transform,
        jaxseg.signed_distance,
        lambda mask: jaxseg.surface_distances(mask, mask),
    ):
        with pytest.raises(ValueError, match=r"up to 2\*\*30 pixels"):
            jax.eval_shape(function, mask)


@pytest.mark.parametrize("shape", [(20_000, 2), (2, 20_000)], ids=str)
def test_squares_of_pixels_are_integers_to_the_last_digit(shape):
    # Float32 has all integers up to 2^24 only, the square of 4096.
    mask = np.zeros(shape, bool)
    mask[0, 0] = mask[-1, -1] = True
    got = _distance._roots_along(jnp.asarray(mask), (0, 1), None, _distance._same)
    rows, columns = np.indices(shape)
    squares = [(rows - r) ** 2 + (columns - c) ** 2 for r, c in np.argwhere(mask)]
    assert np.max(squares) > 2**28 and np.min(squares, 0).max() > 2**26
    np.testing.assert_array_equal(got, np.min(squares, 0))


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


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
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


@pytest.mark.parametrize(
    ("spacing", "error"),
    [
        (np.float32(-1), "ValueError: spacing must be positive and finite"),
        (np.array([1.0, -1.0]), "ValueError: spacing must be positive and finite"),
        ((1, 0), "ValueError: spacing must be positive and finite"),
        (float("nan"), "ValueError: spacing must be positive and finite"),
        (np.float64("inf"), "ValueError: spacing must be positive and finite"),
        (1e300, "ValueError: spacing must be positive and finite in float32"),
        (jnp.ones(3), "ValueError: spacing must be a number or one for each of 2 axes"),
        (1j, "TypeError: spacing must be a real number"),
        (np.complex64(1), "TypeError: spacing must be a real number"),
        (jnp.array([1.0, 1j]), "TypeError: spacing must be a real number"),
        (True, "TypeError: spacing must be a real number"),
        (None, "TypeError: spacing must be a real number"),
        ("1", "TypeError: spacing must be a real number"),
    ],
    ids=repr,
)
def test_spacings_are_positive_numbers(spacing, error):
    name, rule = error.split(": ")
    error = {"ValueError": ValueError, "TypeError": TypeError}[name]
    mask, instances = np.eye(4, dtype=bool), np.eye(4, dtype=int)
    probs = np.ones((1, 4, 4, 1), np.float32)
    for call in (
        lambda: jaxseg.distance_transform(mask, spacing=spacing),
        lambda: jaxseg.signed_distance(mask, spacing=spacing),
        lambda: jaxseg.border_weights(instances, spacing=spacing),
        lambda: jaxseg.boundary_loss(probs, instances[None], activation=None, spacing=spacing),
        lambda: jaxseg.hausdorff_dt_loss(probs, instances[None], activation=None, spacing=spacing),
    ):
        for run in (call, jax.jit(call)):
            with pytest.raises(error, match=rule):
                run()


@pytest.mark.parametrize(
    "spacing",
    [np.array([1, 2], ">f4"), (np.float32(1), np.int64(2)), jnp.array([1, 2]), [1, jnp.float16(2)]],
    ids=repr,
)
def test_spacings_of_any_number_type(spacing):
    mask = np.eye(3, 4, dtype=bool)
    want = jaxseg.distance_transform(mask, spacing=(1.0, 2.0))
    np.testing.assert_array_equal(jaxseg.distance_transform(mask, spacing=spacing), want)


@pytest.mark.parametrize(
    ("axes", "error", "rule"),
    [
        (1, TypeError, r"must be a tuple of the axes .* such as \(1, 2\)"),
        ((1, 2.0), TypeError, "must be a tuple"),
        ((1, True), TypeError, "must be a tuple"),
        ("12", TypeError, "must be a tuple"),
        ((1, -2), ValueError, "names the same axis twice"),
        ((1, 3), ValueError, "out of range"),
        ((), ValueError, "Space needs an axis"),
    ],
    ids=repr,
)
def test_spatial_axes_are_a_tuple_of_different_axes(axes, error, rule):
    probs, labels = np.ones((1, 4, 4, 1), np.float32), np.ones((1, 4, 4), int)
    for call in (
        lambda: jaxseg.soft_skeleton(probs, spatial_axes=axes),
        lambda: jaxseg.nacl_loss(probs, labels, spatial_axes=axes),
        lambda: jaxseg.boundary_dou_loss(probs, labels, activation=None, spatial_axes=axes),
    ):
        with pytest.raises(error, match=rule):
            call()


KERNEL = partial(distance_gpu.least_along, interpret=True)


def some_masks(shape):
    """One pixel in a corner, a few, half of all, all pixels, and none."""
    rng = np.random.default_rng(5)
    few, far = rng.random(shape) < 0.03, np.zeros(shape, bool)
    few.flat[rng.integers(few.size)] = far.flat[0] = True
    return [far, few, rng.random(shape) < 0.5, np.ones(shape, bool), np.zeros(shape, bool)]


def expected_distances(mask, spacing=1.0):
    """SciPy's, but inf where no pixel is True."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(~mask, sampling=spacing)


def check_against_scipy(shape, spacing=1.0):
    for mask in some_masks(shape):
        got = jaxseg.distance_transform(mask, spacing=spacing)
        np.testing.assert_allclose(got, expected_distances(mask, spacing), rtol=4e-7)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1,), 1.0),
        ((1, 1), 1.0),
        ((17, 16), 1.0),
        ((4, 65, 66), 1.0),
        ((3, 2, 40, 33), 1.0),
        ((3, 2, 7, 33), (0.5, 3.0, 2.0, 0.7)),
        ((4_100,), 1.0),
        ((3, 4_100), 1.0),
        ((4_100, 3), (1.0, 3.0)),
        ((1_030, 3, 5), 1.0),
        ((3, 1_030, 5), 1.0),
        ((3, 5, 1_030), (2.0, 0.5, 3.0)),
        ((1_030, 20), 1.0),
    ],
    ids=str,
)
def test_distances_of_any_mask_are_those_of_scipy(shape, spacing):
    check_against_scipy(shape, spacing)


@pytest.mark.slow
@pytest.mark.parametrize("height", range(1, 18))
def test_distances_are_those_of_scipy_whatever_the_shape(height):
    for width in range(1, 18):
        check_against_scipy((height, width))


@pytest.mark.parametrize("shape", [(13,), (7, 11), (5, 7, 6), (3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("steps", [None, (0.7, 1.0, 1.9, 0.4)], ids=["pixels", "steps"])
@pytest.mark.parametrize("least_row", [1, 10_000])
def test_small_blocks_give_what_large_ones_give(shape, steps, least_row, monkeypatch):
    # So small that an image of this size has blocks, tiles and groups that lie over each other.
    for name, value in {"_LINES": 4, "_TILE": 3, "_GROUP": 2, "_LEAST_ROW": least_row}.items():
        monkeypatch.setattr(_distance, name, value)
    axes, each = tuple(range(len(shape))), None if steps is None else jnp.array(steps[: len(shape)])
    run = jax.jit(lambda mask: _distance._sweep_blocks(axes, _distance._same, mask, each))
    for mask in some_masks(shape):
        squares = np.asarray(run(mask))
        far = np.inf if steps else _distance._FAR
        expected = expected_distances(mask, 1.0 if steps is None else steps[: len(shape)]) ** 2
        expected = np.where(mask.any(), expected, far)
        np.testing.assert_allclose(squares, expected, rtol=4e-7)


@pytest.mark.parametrize(
    ("extents", "shape"),
    [
        ([(1,), (37,), (64,)], (64,)),
        ([(5, 7), (37, 70), (48, 112)], (48, 112)),
        ([(1, 1, 1), (37, 70, 21), (9, 80, 33)], (48, 112, 64)),
    ],
    ids=str,
)
@pytest.mark.parametrize("tuple_of_spacings", [False, True])
def test_an_image_in_a_larger_mask_has_its_own_distances(extents, shape, tuple_of_spacings):
    axes = tuple(range(len(shape)))
    spacing = tuple(map(jnp.float32, (0.7, 1.1, 2.3)[: len(shape)]))
    spacing = spacing if tuple_of_spacings else jnp.float32(2.5)
    for extent in extents:
        inside = tuple(map(slice, extent))
        for image in some_masks(extent):
            mask = np.zeros(shape, bool)
            mask[inside] = image
            got = _distance.distances_along(mask, axes, spacing, jnp.array(extent))
            # Of another program, which sees all of the mask.
            whole = _distance.distances_along(mask, axes, spacing)
            np.testing.assert_array_equal(got[inside], whole[inside])
            np.testing.assert_allclose(
                whole[inside],
                expected_distances(image, tuple(map(float, spacing)) if tuple_of_spacings else 2.5),
                rtol=4e-7,
            )


@pytest.mark.parametrize("steps", [None, (0.7, 1.9, 0.4)], ids=["pixels", "steps"])
def test_nothing_beyond_the_last_group_of_an_image_is_read(steps):
    # What lies beyond is True, so that it would be the nearest pixel of many.
    steps = None if steps is None else jnp.array(steps)
    extent, inside = jnp.array([20, 5, 40]), np.s_[:20, :5, :40]
    roots_of = lambda squares: jnp.sqrt(squares.astype(jnp.float32))  # noqa: E731
    run = jax.jit(partial(_distance._sweep_extent, (0, 1, 2), roots_of))
    for image in some_masks((20, 5, 40)):
        clean, garbage = np.zeros((80, 48, 96), bool), np.ones((80, 48, 96), bool)
        garbage[:32, :16, :48] = False  # the last groups of 16 of each axis
        clean[inside] = garbage[inside] = image
        np.testing.assert_array_equal(
            run(garbage, steps, extent)[inside], run(clean, steps, extent)[inside]
        )


@pytest.mark.parametrize(
    ("most_compared", "least"),
    [(0, _distance._offer_rows), (512, _distance._offer_rows), (512, KERNEL)],
    ids=["long", "loop", "kernel"],
)
@pytest.mark.parametrize("steps", [None, (0.7, 1.9, 0.4)], ids=["pixels", "steps"])
def test_the_forms_of_other_platforms_give_that_of_cpus(steps, most_compared, least, monkeypatch):
    monkeypatch.setattr(_distance, "_MOST_COMPARED", most_compared)
    steps = None if steps is None else jnp.array(steps)
    rows, blocks = (
        jax.jit(
            jax.vmap(
                lambda mask, form=form: form((0, 1, 2), _distance._same, mask=mask, steps=steps)
            )
        )
        for form in (partial(_distance._by_rows, least=least), _distance._by_blocks)
    )
    masks = np.stack(some_masks((9, 18, 35)))
    expected = blocks(masks)
    assert expected.dtype == (jnp.int32 if steps is None else jnp.float32)
    compare = np.testing.assert_array_equal if steps is None else np.testing.assert_allclose
    compare(rows(masks), expected, **({} if steps is None else {"rtol": 4e-7}))


def test_each_image_of_a_batch_may_have_its_spacing():
    masks = np.stack(some_masks((6, 7)))
    scales = jnp.arange(1.0, 1 + len(masks))
    transform = lambda mask, a: jaxseg.distance_transform(mask, spacing=(a, 2.0))  # noqa: E731
    got = jax.vmap(transform)(masks, scales)
    for each, mask, a in zip(got, masks, scales, strict=True):
        np.testing.assert_allclose(each, expected_distances(mask, (float(a), 2.0)), rtol=4e-7)
    got = jax.vmap(transform, (None, 0))(masks[1], scales)
    for each, a in zip(got, scales, strict=True):
        np.testing.assert_allclose(each, expected_distances(masks[1], (float(a), 2.0)), rtol=4e-7)
    by_two = jax.vmap(jax.vmap(jaxseg.distance_transform, -1, -1))(masks.reshape(5, 1, 6, 7))
    assert by_two.shape == (5, 1, 6, 7)


def test_distances_in_a_shard_map_that_checks_what_varies():
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    masks = np.stack(some_masks((20, 40))[:4])
    spec = jax.sharding.PartitionSpec("batch")
    for transform in (
        jaxseg.distance_transform,
        lambda mask: jaxseg.distance_transform(mask, spacing=(1.0, 2.0)),
    ):
        each = jax.vmap(transform)
        got = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=spec))(masks)
        np.testing.assert_array_equal(got, each(masks))


def test_scalar_spacing_has_a_derivative():
    mask = some_masks((5, 8))[1]
    slope = jax.grad(lambda s: jaxseg.distance_transform(mask, spacing=s).sum())(2.0)
    np.testing.assert_allclose(slope, expected_distances(mask).sum(), rtol=1e-6)


def test_spacing_has_the_derivative_0_where_no_pixel_is_true():
    slope = jax.grad(lambda s: jaxseg.distance_transform(jnp.zeros(3, bool), spacing=s).sum())(2.0)
    assert slope == 0


@pytest.mark.parametrize("shape", [(7,), (5, 8), (3, 4, 5)], ids=str)
def test_a_spacing_per_axis_has_derivatives(shape):
    # Forward, backward and mapped; also where a pixel is True, and where none is.
    spacing = (0.7, 1.9, 0.4)[: len(shape)]
    masks = np.stack([some_masks(shape)[1], np.zeros(shape, bool)])
    for mask in masks:
        transform = lambda *spacing, mask=mask: jaxseg.distance_transform(mask, spacing=spacing)  # noqa: E731
        got = jax.jit(jax.jacfwd(transform, argnums=tuple(range(len(shape)))))(*spacing)
        slopes = jax.grad(lambda *s: transform(*s).sum(), argnums=0)  # noqa: B023
        if mask.any():
            np.testing.assert_allclose(slopes(*spacing), got[0].sum(), rtol=1e-5)
        for axis, slope in enumerate(got):
            nudge = 1e-4 * (np.arange(len(shape)) == axis)
            up, down = (expected_distances(mask, np.add(spacing, e)) for e in (nudge, -nudge))
            want = (up - down) / 2e-4 if mask.any() else 0
            np.testing.assert_allclose(slope, np.broadcast_to(want, shape), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(64, 64, 64), (600, 700), (6, 60, 60, 60)], ids=str)
def test_temporaries_are_24_bytes_per_pixel_or_fewer(shape):
    mask = jax.ShapeDtypeStruct(shape, bool)
    for function in (jaxseg.distance_transform, jaxseg.signed_distance):
        compiled = jax.jit(function).lower(mask).compile()
        assert compiled.memory_analysis().temp_size_in_bytes <= 24 * np.prod(shape)


# ---------------------------------------------------------------------------------- centres


@pytest.mark.parametrize("shape", [(9,), (6, 7), (4, 5, 6)], ids=str)
def test_centre_distance_is_that_of_the_mean_positions(shape):
    rng = np.random.default_rng(2)
    for share in (0.05, 0.4, 1.0):
        masks = [rng.random(shape) < share for _ in range(2)]
        for mask in masks:
            mask.flat[rng.integers(mask.size)] = True
        for spacing in (1.0, 2.5, tuple(0.3 + rng.random(len(shape)))):
            value = jaxseg.centre_distance(*masks, spacing=spacing)
            assert value.dtype == jnp.float32
            assert value.shape == ()
            expected = reference.centre_distance(*masks, spacing=spacing)
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("predicted", "true", "distance"), [(0, 0, np.nan), (1, 0, np.inf), (0, 1, np.inf), (1, 1, 0)]
)
def test_centre_distance_of_empty_masks(predicted, true, distance):
    masks = (jnp.full((3, 4), bool(x)) for x in (predicted, true))
    np.testing.assert_array_equal(jax.jit(jaxseg.centre_distance)(*masks), distance)


def test_centre_distance_keeps_its_digits_far_from_the_origin():
    masks = np.zeros((2, 3, 1_000_003), bool)
    masks[0, 1, 999_990:] = masks[1, :2, 999_991:] = True
    value = jaxseg.centre_distance(*masks)
    np.testing.assert_allclose(value, np.hypot(0.5, 0.5), rtol=1e-6)
    same = jaxseg.centre_distance(masks[0], masks[0])
    assert same == 0


@pytest.mark.parametrize("spacing", [1e-30, 1e30])
def test_centre_distance_takes_any_unit(spacing):
    masks = np.zeros((2, 5, 6), bool)
    masks[0, 0, 0] = masks[1, 3, 4] = True
    np.testing.assert_allclose(
        jaxseg.centre_distance(*masks, spacing=spacing), 5 * spacing, rtol=1e-6
    )


def test_centre_distance_names_what_is_wrong():
    mask = jnp.ones((3, 4), bool)
    for error, message, p, g, options in (
        (TypeError, "predictions must be bool, got int32", mask.astype(int), mask, {}),
        (TypeError, "labels must be bool, got float32", mask, mask.astype(float), {}),
        (ValueError, r"same shape, got \(3, 4\) and \(3,\)", mask, mask[:, 0], {}),
        (ValueError, "one for each of 2 axes", mask, mask, {"spacing": (1.0, 2.0, 3.0)}),
        (ValueError, "must be positive", mask, mask, {"spacing": 0.0}),
    ):
        with pytest.raises(error, match=message):
            jaxseg.centre_distance(p, g, **options)
