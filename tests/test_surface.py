"""Surface distances and their scores: as SciPy has them, of empty masks, masked, and in boxes."""

import json
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import ndimage

import jaxseg
from jaxseg import _surface, _surface_elements

SHAPES = [(17,), (8, 20), (20, 8), (7, 8, 9), (4, 5, 6, 3)]
METHODS = ("max", "pooled", "mean", "directed")


def blobs(shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [ndimage.gaussian_filter(rng.normal(size=shape), 1) > 0.1 for _ in "pg"]


def lists(d: jaxseg.SurfaceDistances) -> list[np.ndarray]:
    """The distances in both directions, without the places that hold none."""
    p, g, held_p, held_g = (np.asarray(x) for x in d)
    return [p[held_p > 0], g[held_g > 0]]


def scores(d: jaxseg.SurfaceDistances) -> dict[str, np.ndarray]:
    calls = {
        **{f"hd-{m}": (jaxseg.hausdorff_distance, {"method": m}) for m in METHODS},
        **{
            f"95-{m}": (jaxseg.hausdorff_distance, {"percentile": 95, "method": m}) for m in METHODS
        },
        **{m: (jaxseg.average_surface_distance, {"method": m}) for m in METHODS[1:]},
        **{
            f"nsd-{m}": (jaxseg.surface_dice, {"tolerance": 1.0, "method": m}) for m in METHODS[1:3]
        },
        "bf": (jaxseg.boundary_f_score, {"tolerance": 1.0}),
    }
    return {name: np.asarray(f(d, **options)) for name, (f, options) in calls.items()}


def on_grid(p, g, **options) -> jaxseg.SurfaceDistances:
    return jax.jit(lambda p, g: jaxseg.surface_distances(p, g, **options))(p, g)


def assert_equal_scores(a, b, rtol=1e-6):
    for (name, x), y in zip(scores(a).items(), scores(b).values(), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, err_msg=name)


# ---------------------------------------------------------------------------------- values


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distances_are_those_of_scipy(shape, masked):
    """Eagerly in a box, and in a trace on the whole grid."""
    p, g = blobs(shape)
    rng = np.random.default_rng(1)
    where = rng.random(shape) < 0.8 if masked else None
    for spacing in (2.5, tuple(0.3 + rng.random(len(shape)))):
        want = reference.surface_distances(p, g, spacing, where)
        boxed = jaxseg.surface_distances(p, g, spacing=spacing, where=where)
        grid = on_grid(p, g, spacing=spacing, where=where)
        for d in (boxed, grid):
            assert [x.dtype for x in d] == [np.float32, np.float32, bool, bool]
            for found, expected in zip(lists(d), want, strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-6)
        # XLA may fuse a product and a sum, which rounds once, in one program and not in the other.
        ulps = 0 if isinstance(spacing, float) else 2
        for found, expected in zip(lists(boxed), lists(grid), strict=True):
            np.testing.assert_array_max_ulp(found, expected, ulps)


@pytest.mark.parametrize("percentile", [0, 33.3, 50.0, 95, 99.9, 100])
def test_percentiles_are_numpys(percentile):
    """Of a small and a long list, 0 as well, eagerly and in a trace."""
    for size in (1, 2, 7, 3001):
        rng = np.random.default_rng(size)
        d = jaxseg.SurfaceDistances(
            *rng.gamma(2.0, size=(2, size)).astype(np.float32), *(rng.random((2, size)) < 0.9)
        )
        d.prediction_weights[0] = d.label_weights[0] = True
        p, g = (np.percentile(x, percentile) for x in lists(d))
        pooled = np.percentile(np.concatenate(lists(d)), percentile)
        for leaves in (d, jax.tree.map(jnp.asarray, d)):
            for method, want in zip(METHODS, (max(p, g), pooled, (p + g) / 2, [p, g]), strict=True):
                got = jaxseg.hausdorff_distance(leaves, percentile=percentile, method=method)
                assert got.dtype == jnp.float32
                np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_a_shift_by_one_voxel_is_the_spacing_of_its_axis(axis):
    cube = np.zeros((9, 8, 7), bool)
    cube[2:6, 2:6, 2:5] = True
    d = jaxseg.surface_distances(np.roll(cube, 1, axis), cube, spacing=(1.0, 2.0, 5.0))
    assert jaxseg.hausdorff_distance(d).item() == (1.0, 2.0, 5.0)[axis]


@pytest.mark.parametrize("where", [None, "most"])
@pytest.mark.parametrize("method", ["erosion", "distance"])
def test_boundary_iou_is_that_of_the_bands(method, where):
    p, g = blobs((23, 40), seed=2)
    p[:, 30:] = g[:9] = True
    valid = None if where is None else np.random.default_rng(0).random(p.shape) < 0.9
    widths = (None, 1, 3) if method == "erosion" else (0.0, 1.0, 2.5)
    for width in widths:
        options = {"method": method, "width": width, "where": valid}
        np.testing.assert_allclose(
            jaxseg.boundary_iou(p, g, **options), reference.boundary_iou(p, g, **options), rtol=1e-6
        )
    if method == "distance":
        volume = blobs((6, 7, 8))
        options = {"width": 1.5, "spacing": (1.0, 0.7, 2.0)}
        got = jaxseg.boundary_iou(*volume, method=method, **options)
        np.testing.assert_allclose(got, reference.boundary_iou(*volume, **options), rtol=1e-6)


@pytest.mark.parametrize("steps", [3, 6, 7])
def test_a_tolerance_includes_distances_that_equal_it_in_float32(steps):
    """Three steps of 0.1 are more than 0.3 in float64 and equal to it in float32; seven as well."""
    bar = np.zeros(30, bool)
    bar[5:15] = True
    limit = np.float32(steps) * np.float32(0.1)
    for make in (jaxseg.surface_distances, on_grid):
        d = make(np.roll(bar, steps), bar, spacing=0.1)
        for score in (jaxseg.surface_dice, jaxseg.boundary_f_score):
            assert score(d, tolerance=limit) == 1
            assert score(d, tolerance=np.nextafter(limit, np.float32(0))) < 1
            if steps == 3:
                assert score(d, tolerance=0.3) == 1


@pytest.mark.parametrize("shape", [(9, 11), (7, 8, 9)], ids=str)
def test_a_solid_and_its_own_outline_have_one_surface(shape):
    """Pixels inside a mask are no part of its surface."""
    solid = np.zeros(shape, bool)
    solid[tuple(slice(1, n - 2) for n in shape)] = True
    outline = np.asarray(jaxseg.edges(solid))
    assert outline.sum() < solid.sum()
    for make in (jaxseg.surface_distances, on_grid):
        found = scores(make(solid, outline, spacing=0.7))
        for name, value in found.items():
            assert (value == (1 if name.startswith(("nsd", "bf")) else 0)).all(), name


@pytest.mark.parametrize("spacing", [1.0, 0.3, (0.3, 0.7)], ids=str)
def test_distances_do_not_depend_on_where_the_masks_are(spacing):
    """Squares of positions, from which others are subtracted, would leave no digit here."""
    p, g = np.zeros((2, 3, 6000), bool)
    p[1, 5990:5998] = g[1, 5991:5999] = True
    near = [np.roll(x, -5989, 1) for x in (p, g)]
    specks = [np.zeros_like(p) for _ in "pg"]
    specks[0][0, 5998] = specks[1][1, 1901] = True  # 1 and 4097 pixels apart
    for make in (jaxseg.surface_distances, on_grid):
        assert not jaxseg.hausdorff_distance(make(p, p, spacing=spacing))
        for x, want in zip(
            lists(make(p, g, spacing=spacing)), lists(make(*near, spacing=spacing)), strict=True
        ):
            np.testing.assert_array_equal(x, want)
        rows, columns = np.broadcast_to(np.asarray(spacing, np.float32), 2).astype(float)
        got = jaxseg.hausdorff_distance(make(*specks, spacing=spacing))
        np.testing.assert_allclose(got, np.hypot(rows, 4097 * columns), rtol=1.2e-7)


@pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("element_areas", [False, True], ids=["pixels", "elements"])
@pytest.mark.parametrize("spacing", [1e-18, 1e18, (1e-18, 2e-18), (1e18, 3e17)], ids=str)
def test_scores_of_tiny_and_huge_spacings_are_the_same_in_a_program(spacing, element_areas, shape):
    """One program of all, in which the compiler may move factors, and NumPy; also in pixels."""
    masks = blobs(shape)
    if isinstance(spacing, tuple):
        spacing = (*spacing, spacing[0])[: len(shape)]
    unit = np.max(spacing)
    steps = np.asarray(spacing) / unit

    def run(p, g, spacing, tolerance):
        d = jaxseg.surface_distances(p, g, spacing=spacing, element_areas=element_areas)
        return {
            "hd": jaxseg.hausdorff_distance(d),
            "hd95": jaxseg.hausdorff_distance(d, percentile=95),
            "average": jaxseg.average_surface_distance(d),
            "nsd": jaxseg.surface_dice(d, tolerance=tolerance),
            "bf": jaxseg.boundary_f_score(d, tolerance=tolerance),
        }

    eager = run(*masks, spacing, 1.1 * unit)
    traced = jax.jit(lambda p, g: run(p, g, spacing, 1.1 * unit))(*masks)
    pixels = run(*masks, tuple(steps) if steps.ndim else 1.0, 1.1)
    for name, value in eager.items():
        factor = 1 if name in ("nsd", "bf") else unit
        np.testing.assert_allclose(traced[name], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(value, factor * float(pixels[name]), rtol=1e-5, err_msg=name)


# ---------------------------------------------------------------------------------- edge cases


def test_the_image_border_is_a_surface():
    """Pixels that touch at a corner alone are no neighbours."""
    full = np.ones((6, 6), bool)
    assert np.asarray(jaxseg.edges(full)).sum() == 20
    assert np.asarray(jaxseg.edges(np.ones((5, 4, 3), bool))).sum() == 60 - 3 * 2 * 1
    dented = full.copy()
    dented[0, 0] = False
    assert not np.asarray(jaxseg.edges(dented))[1, 1]


KINDS = ["empty", "one", "border", "full"]


def mask_of(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(n // 2 for n in shape)] = kind == "one"
    mask[0] = kind in ("border", "full")
    mask[...] |= kind == "full"
    return mask


@pytest.mark.parametrize("true", KINDS)
@pytest.mark.parametrize("predicted", KINDS)
def test_masks_that_are_empty_one_voxel_at_the_border_or_full(predicted, true):
    """Both empty NaN, one empty inf or 0, HD95 as well."""
    shape = (4, 5, 3)
    p, g = mask_of(predicted, shape), mask_of(true, shape)
    for d in (jaxseg.surface_distances(p, g), on_grid(p, g)):
        found = scores(d)
        if p.any() and g.any():
            sides = reference.surface_distances(p, g)
            assert found["hd-max"] == max(x.max() for x in sides).astype(np.float32)
            np.testing.assert_allclose(found["95-directed"], [np.percentile(x, 95) for x in sides])
            np.testing.assert_allclose(found["pooled"], np.concatenate(sides).mean(), rtol=1e-6)
            continue
        both = not p.any() and not g.any()
        for name, value in found.items():
            good = 0.0 if name.startswith(("nsd", "bf")) else math.inf
            np.testing.assert_array_equal(value, np.full_like(value, math.nan if both else good))
    for method in ("erosion", "distance"):
        width = None if method == "erosion" else 1.0
        iou = jaxseg.boundary_iou(p[0] | p[-1], g[0] | g[-1], method=method, width=width)
        if not (p.any() and g.any()):
            value = math.nan if not (p.any() or g.any()) else 0.0
            value = iou if predicted == "one" or true == "one" else value
            np.testing.assert_array_equal(iou, value)


def test_what_masked_pixels_hold_does_not_matter():
    """And the border of ``where`` is no surface."""
    p, g = blobs((9, 11))
    where = np.ones_like(p)
    where[3:5, 2:7] = False
    for noise in (False, True):
        q, h = (np.where(where, x, noise) for x in (p, g))
        assert_equal_scores(
            jaxseg.surface_distances(q, h, where=where), jaxseg.surface_distances(p, g, where=where)
        )
    bar = np.zeros((5, 9), bool)
    bar[1:4, 2:] = True
    where = np.ones_like(bar)
    where[:, 6:] = False
    (found, _) = lists(jaxseg.surface_distances(bar, bar, where=where))
    assert len(found) == 9  # three at the left, three above and three below
    assert len(found) == reference.edges(bar, where).sum()


# -------------------------------------------------------------------------------- classes, batches


def test_classes_are_one_call():
    """An absent class, a class in one map and ids of no class; one class is a mask."""
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 4, (6, 7, 5)).astype(np.uint8) for _ in "pg"]
    maps[0][maps[0] == 3] = 255
    boxed = jaxseg.surface_distances(*maps, num_classes=5, spacing=2.0)
    grid = on_grid(*maps, num_classes=5, spacing=2.0)
    assert_equal_scores(boxed, grid)
    hd = jaxseg.hausdorff_distance(boxed)
    assert np.isinf(hd[3]) and np.isnan(hd[4])
    for c in range(3):
        alone = jaxseg.surface_distances(*(m == c for m in maps), spacing=2.0)
        assert jaxseg.hausdorff_distance(alone) == hd[c]
        bands = {"method": "distance", "width": 1.0}
        of_class = jaxseg.boundary_iou(*(m == c for m in maps), **bands)
        assert jaxseg.boundary_iou(*maps, num_classes=3, **bands)[c] == of_class
    one = jaxseg.surface_distances(*(m == 1 for m in maps), num_classes=1, spacing=2.0)
    assert jaxseg.hausdorff_distance(one)[0] == hd[1]
    tolerances = np.array([0.0, 2.0, 4.0, 2.0, 2.0], np.float32)
    nsd = jaxseg.surface_dice(boxed, tolerance=tolerances)
    for c in range(3):
        assert nsd[c] == jaxseg.surface_dice(boxed, tolerance=tolerances[c])[c]


def test_a_batch_is_a_loop():
    pairs = [blobs((8, 9), seed) for seed in range(3)]
    batch = [np.stack(x) for x in zip(*pairs, strict=True)]
    d = jax.vmap(jaxseg.surface_distances)(*batch)
    hd95 = jaxseg.hausdorff_distance(d, percentile=95)
    for i, pair in enumerate(pairs):
        alone = jaxseg.surface_distances(*pair)
        np.testing.assert_allclose(
            hd95[i], jaxseg.hausdorff_distance(alone, percentile=95), rtol=1e-6
        )
        np.testing.assert_array_equal(jax.vmap(jaxseg.edges)(batch[0])[i], reference.edges(pair[0]))


# ---------------------------------------------------------------------------------- boxes


def far_specks(kind: str) -> list[np.ndarray]:
    p, g = np.zeros((2, 70, 60, 50), bool)
    p[10:30, 12:30, 5:25] = g[12:33, 12:29, 4:25] = True
    p[69, 59, 49] = kind != "one voxel"
    g[69, 0, 45] = kind == "both"
    if kind == "one voxel":
        p[:], g[:], g[3, 50, 7] = True, False, True
    return [p, g]


@pytest.mark.parametrize("spacing", [1.0, (0.7, 1.1, 2.3)], ids=str)
@pytest.mark.parametrize("kind", ["speck", "both", "one voxel"])
def test_a_far_speck_is_compared_and_widens_no_box(kind, spacing, monkeypatch):
    p, g = far_specks(kind)
    shapes = []
    monkeypatch.setattr(_surface, "_compiled_shape", lambda extent: shapes.append(extent) or extent)
    found = lists(jaxseg.surface_distances(p, g, spacing=spacing))
    for x, want in zip(found, reference.surface_distances(p, g, spacing), strict=True):
        np.testing.assert_allclose(x, want, rtol=1e-6)
    assert math.prod(shapes[0]) < 40**3 if kind == "speck" else len(shapes) < 2


BOXES = [
    ([5, 5, 5], [40, 40, 40]),
    ([20, 20, 20], [160, 160, 160]),
    ([60, 60, 20], [300, 300, 150]),
    ([3, 3, 3], [400, 400, 400]),
    ([10, 10, 2], [600, 600, 300]),
    ([200, 200, 8], [512, 512, 40]),  # slabs, as of computed tomography
    ([30, 30], [1000, 1000]),
]


@pytest.mark.parametrize(("low", "high"), BOXES, ids=str)
def test_volumes_of_a_hundred_sizes_need_eight_shapes(low, high, monkeypatch):
    """In any order; what they hold is as in ``test_distances_are_those_of_scipy``."""
    rng = np.random.default_rng(7)
    ratios = []
    for _ in range(5):
        sizes = rng.integers(low, high, (100, len(low)), endpoint=True)
        order = np.argsort(sizes.prod(1))
        for ordered in (sizes, sizes[order], sizes[order[::-1]]):
            monkeypatch.setattr(_surface, "_boxes", [])
            shapes = np.array([_surface._compiled_shape(tuple(x)) for x in ordered.tolist()])
            assert (shapes >= ordered).all()
            assert len(_surface._boxes) <= 8
            if ordered is sizes:
                ratios.append(shapes.prod(1).sum() / sizes.prod(1).sum())
    assert np.mean(ratios) < 10


@pytest.mark.parametrize("spacing", [1.0, (0.7, 1.1, 2.3)], ids=str)
def test_distances_in_a_box_are_those_of_the_grid(spacing):
    # To the last bit in integers; XLA may round sums of floats differently in another program.
    p, g = (np.pad(x, 3) for x in blobs((37, 30, 21)))
    for x, y in zip(
        lists(jaxseg.surface_distances(p, g, spacing=spacing)),
        lists(on_grid(p, g, spacing=spacing)),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=0 if spacing == 1 else 2.4e-7)


def test_scores_of_known_arrays_compile_nothing_but_the_transform(monkeypatch):
    transforms = []
    monkeypatch.setattr(_surface, "_boxes", [])
    monkeypatch.setattr(_surface, "_run_jitted", None)
    monkeypatch.setattr(_surface, "_of_grid", None)
    of_box = _surface.distances_along
    monkeypatch.setattr(
        _surface, "distances_along", lambda x, *a: transforms.append(x.shape) or of_box(x, *a)
    )
    rng = np.random.default_rng(0)
    for _ in range(12):
        p, g = np.zeros((2, 40, 40), bool)
        a, b = rng.integers(5, 20, 2)
        p[:a, :b] = g[1:a, : b + 3] = True
        assert all(np.isfinite(x).all() for x in scores(jaxseg.surface_distances(p, g)).values())
    assert len(set(transforms)) <= 2


# ---------------------------------------------------------------------------------- arguments


def test_mistakes_are_named():
    mask = np.ones((3, 4), bool)
    d = jaxseg.surface_distances(mask, mask)
    for error, message, call in (
        (TypeError, "must be a bool mask", lambda: jaxseg.surface_distances(mask * 1, mask)),
        (ValueError, "same shape", lambda: jaxseg.surface_distances(mask, mask[1:])),
        (ValueError, "not empty", lambda: jaxseg.surface_distances(mask[:0], mask[:0])),
        (ValueError, "where must", lambda: jaxseg.surface_distances(mask, mask, where=mask[0])),
        (ValueError, "2 axes", lambda: jaxseg.surface_distances(mask, mask, spacing=(1.0,))),
        (TypeError, "SurfaceDistances", lambda: jaxseg.hausdorff_distance(mask)),
        (TypeError, "cannot be added", lambda: d + d),
        (TypeError, "cannot be multiplied", lambda: 2 * d),
        (ValueError, "method must", lambda: jaxseg.hausdorff_distance(d, method="sum")),
        (ValueError, r"in \[0, 100\]", lambda: jaxseg.hausdorff_distance(d, percentile=101)),
        (ValueError, "0 or more", lambda: jaxseg.surface_dice(d, tolerance=-1.0)),
        (ValueError, "needs a width", lambda: jaxseg.boundary_iou(mask, mask, method="distance")),
        (ValueError, "two axes", lambda: jaxseg.boundary_iou(mask[0], mask[0])),
        (ValueError, "counts pixels", lambda: jaxseg.boundary_iou(mask, mask, spacing=2.0)),
    ):
        for run in (call, jax.jit(call)):
            with pytest.raises(error, match=message):
                run()
    with pytest.raises(TypeError, match="static_argnames"):
        jax.jit(lambda q: jaxseg.hausdorff_distance(d, percentile=q))(95.0)


def test_bools_of_bytes_of_255():
    p, g = blobs((9, 8))
    odd = [np.where(x, np.uint8(255), np.uint8(0)).view(bool) for x in (p, g)]
    assert_equal_scores(jaxseg.surface_distances(*odd), jaxseg.surface_distances(p, g))
    assert_equal_scores(on_grid(*odd), jaxseg.surface_distances(p, g))


# ---------------------------------------------------------------------------------- elements

PEER = json.loads((Path(__file__).parent / "golden" / "elements.json").read_text())


def ellipsoids(ndim: int) -> list[np.ndarray]:
    """Those of ``golden/make_golden_elements.py``."""
    grid = np.ogrid[tuple(slice(0, 30 - 5 * a) for a in range(ndim))]
    return [
        sum(((x - c) / r) ** 2 for x, c, r in zip(grid, centre, radii, strict=False)) <= 1
        for centre, radii in (((9, 11, 8), (12, 7, 6)), ((11, 10, 9), (9, 9, 5)))
    ]


@pytest.mark.parametrize("peer", PEER, ids=["2-D", "3-D"])
def test_areas_are_those_of_surface_distance(peer):
    """The area of each code, and all scores, in a box and on the grid."""
    found = _surface_elements.areas(np.array(peer["spacing"], np.float32), np)
    np.testing.assert_allclose(found, peer["areas"], atol=2e-6)
    options = {"spacing": tuple(peer["spacing"]), "element_areas": True}
    masks, want = ellipsoids(len(peer["spacing"])), peer["scores"]
    for d in (jaxseg.surface_distances(*masks, **options), on_grid(*masks, **options)):
        for percentile in (50, 95, 100):
            name = "hd" if percentile == 100 else f"hd{percentile}"
            hd = jaxseg.hausdorff_distance(d, percentile=percentile)
            np.testing.assert_allclose(hd, want[name], rtol=1e-5)
        mean = jaxseg.average_surface_distance(d, method="directed")
        np.testing.assert_allclose(mean, want["average"], rtol=1e-5)
        np.testing.assert_allclose(jaxseg.surface_dice(d, tolerance=1.01), want["dice"], rtol=1e-5)


def test_one_voxel_has_eight_corners():
    """As surface-distance's own test, 1.5 for a shift by 2; empty masks as without areas."""
    p, g = np.zeros((2, 9, 8, 7), bool)
    p[5, 6, 4] = g[5, 6, 2] = True
    for make in (jaxseg.surface_distances, on_grid):
        d = make(p, g, spacing=(3.0, 2.0, 1.0), element_areas=True)
        assert [len(x) for x in lists(d)] == [8, 8]
        np.testing.assert_allclose(jaxseg.average_surface_distance(d), 1.5)
        assert jaxseg.hausdorff_distance(d) == 2.0
        assert jaxseg.surface_dice(d, tolerance=1.0) == 0.5
        for empty, value in ((p, math.inf), (~p & p, math.nan)):
            d = make(empty, p & ~p, element_areas=True)
            np.testing.assert_array_equal(jaxseg.hausdorff_distance(d, percentile=95), value)
    with pytest.raises(ValueError, match="two or three axes"):
        jaxseg.surface_distances(p[0, 0], g[0, 0], element_areas=True)


def test_elements_at_the_border_of_where_are_none():
    bar = np.zeros((5, 9), bool)
    bar[1:4, 2:] = True
    where = np.ones_like(bar)
    where[:, 6:] = False
    for make in (jaxseg.surface_distances, on_grid):
        d = make(bar, bar, where=where, element_areas=True)
        np.testing.assert_allclose(
            np.asarray(d.prediction_weights).sum(), 3 + 3 + 2 + 2**0.5, rtol=1e-6
        )


# ---------------------------------------------------------------------------------- memory


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("spacing", [1.0, (1.0, 2.0, 3.0)], ids=["pixels", "steps"])
@pytest.mark.parametrize(
    ("shape", "element_areas"),
    [((48, 48, 48), False), ((48, 48, 48), True), ((512, 512), False)],
    ids=str,
)
def test_temporaries_of_scores_in_one_program_are_24_bytes_per_pixel_or_fewer(
    shape, element_areas, spacing
):
    spacing = spacing[: len(shape)] if isinstance(spacing, tuple) else spacing

    def scores(p, g):
        d = jaxseg.surface_distances(p, g, element_areas=element_areas, spacing=spacing)
        return (
            jaxseg.hausdorff_distance(d, percentile=95),
            jaxseg.average_surface_distance(d),
            jaxseg.surface_dice(d, tolerance=2.0),
        )

    mask = jax.ShapeDtypeStruct(shape, bool)
    compiled = jax.jit(scores).lower(mask, mask).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 24 * np.prod(mask.shape)


@pytest.mark.parametrize("rest", [0, 1, 700])
def test_scores_by_blocks_are_those_of_numpy(monkeypatch, rest):
    monkeypatch.setattr("jaxseg._surface._BLOCK", 1000)
    n = 10_000 + rest  # rows of 101 to 104 places: blocks of 1010 to 1040
    rng = np.random.default_rng(rest)
    x = rng.gamma(2, 3, (2, 3, n)).astype(np.float32)
    weights = [rng.random((2, 3, n)) < 0.3, rng.gamma(1, 1, (2, 3, n)).astype(np.float32)]
    for w in weights:
        leaves = (*x, *w)
        for score in (
            jaxseg.hausdorff_distance,
            partial(jaxseg.hausdorff_distance, percentile=95),
            partial(jaxseg.hausdorff_distance, percentile=31, method="pooled"),
            jaxseg.average_surface_distance,
            partial(jaxseg.surface_dice, tolerance=2.0),
        ):
            want = score(jaxseg.SurfaceDistances(*leaves))
            # Jitted anew, or a program of other blocks would be found.
            got = jax.jit(lambda *leaves, s=score: s(jaxseg.SurfaceDistances(*leaves)))(*leaves)
            np.testing.assert_allclose(got, want, rtol=2e-6)
