"""Skeletons against those of scikit-image, counts of them, and their scores."""

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxseg
from jaxseg import SkeletonCounts

nan = math.nan
GOLDEN = np.load(Path(__file__).parent / "golden/skeletons.npz")
EACH = jax.jit(jax.vmap(jaxseg.skeleton))


def tubes(seed: int = 0, batch: int = 2) -> np.ndarray:
    """Ids of three classes with thick lines and a few wrong pixels, ``[batch, 12, 14]``."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((batch, 12, 14), np.int32)
    for image, row, column in zip(ids, rng.integers(1, 9, batch), rng.integers(1, 10, batch)):
        image[row : row + 3] = 1
        image[:, column : column + 3] = 2
    return np.where(rng.random(ids.shape) < 0.1, rng.integers(0, 3, ids.shape), ids)


# ---------------------------------------------------------------------------------- skeletons


@pytest.mark.parametrize("name", ["planes", "volumes", "slices"])
def test_skeletons_are_those_of_scikit_image(name):
    thinned = EACH(GOLDEN[name])
    assert thinned.dtype == bool
    np.testing.assert_array_equal(thinned, GOLDEN[f"{name}_thinned"])


@pytest.mark.parametrize("name", ["planes", "volumes"])
def test_the_plain_forms_are_scikit_images_too(name):
    for mask, thinned in zip(GOLDEN[name][3::20], GOLDEN[f"{name}_thinned"][3::20], strict=True):
        np.testing.assert_array_equal(reference.skeleton(mask), thinned)


@pytest.mark.parametrize("name", ["planes", "volumes"])
def test_a_skeleton_is_its_own_skeleton(name):
    masks = GOLDEN[f"{name}_thinned"]
    np.testing.assert_array_equal(EACH(masks), masks)


def test_every_neighbourhood_is_thinned_as_by_the_plain_form():
    masks = np.array(list(itertools.product([False, True], repeat=9))).reshape(-1, 3, 3)[::3]
    np.testing.assert_array_equal(EACH(masks), [reference.skeleton(mask) for mask in masks])


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((3, 3), int), TypeError, "mask must be bool, got int"),
        (np.ones((3, 0), bool), ValueError, r"not empty, got shape \(3, 0\)"),
        (np.ones(3, bool), ValueError, r"two or three axes of space, got a mask of shape \(3,\)"),
        (np.ones((2, 2, 2, 2), bool), ValueError, "two or three axes of space"),
    ],
)
def test_masks_of_other_kinds_are_refused(mask, error, message):
    for call in (jaxseg.skeleton, jax.jit(jaxseg.skeleton)):
        with pytest.raises(error, match=message):
            call(mask)


# ---------------------------------------------------------------------------------- counts


def test_counts_of_volumes_are_those_of_each_image_and_class():
    blobs = GOLDEN["volumes"][3:26:3, :5, :6, :7]
    p, g = (np.moveaxis(x.reshape(2, 2, 5, 6, 7), 1, -1) for x in (blobs[:4], blobs[4:]))
    got = jaxseg.skeleton_counts(p, g, axis=(1, 2, 3))
    expected = reference.skeleton_counts(p, g, axis=(1, 2, 3))
    for leaf, want in zip(got, expected, strict=True):
        assert leaf.dtype == jnp.int32
        np.testing.assert_array_equal(leaf, want)


def test_space_may_be_any_axes():
    p, g = tubes(0), tubes(1)
    want = jaxseg.skeleton_counts(p, g, num_classes=3, axis=(1, 2))
    moved = [np.moveaxis(x, 0, 1) for x in (p, g)]
    got = jaxseg.skeleton_counts(*moved, num_classes=3, spatial_axes=(0, 2), axis=(0, 2))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    one = jaxseg.skeleton_counts(p[0], g[0], num_classes=3, spatial_axes=(0, 1))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), one, want)


def test_space_may_come_before_the_batch():
    volumes = GOLDEN["volumes"][:20:3]
    thinned = GOLDEN["volumes_thinned"][:20:3]
    last = np.moveaxis(volumes, 0, -1)  # [D, H, W, batch]
    run = partial(jaxseg.skeleton_counts, num_classes=1, spatial_axes=(0, 1, 2), axis=(0, 1, 2))
    got = run(last, np.moveaxis(thinned, 0, -1))
    np.testing.assert_array_equal(got.right[:, 0], thinned.sum((1, 2, 3)))
    np.testing.assert_array_equal(got.found[:, 0], thinned.sum((1, 2, 3)))


def test_masked_pixels_are_of_no_class_whatever_they_hold():
    rng = np.random.default_rng(0)
    p, g, where = tubes(0), tubes(1), rng.random((2, 12, 14)) < 0.8
    want = reference.skeleton_counts(p, g, num_classes=3, where=where)
    for filled in (0, 1, 2, 255, -1):
        given = (np.where(where, x, filled) for x in (p, g))
        got = jaxseg.skeleton_counts(*given, num_classes=3, where=where)
        jax.tree.map(np.testing.assert_array_equal, tuple(got), want)


def test_ids_outside_the_classes_are_of_no_class():
    p, g = tubes(0).astype(np.uint8), tubes(1).astype(np.uint8)
    got = jaxseg.skeleton_counts(np.where(p == 2, 255, p), np.where(g == 2, 255, g), num_classes=2)
    want = jaxseg.skeleton_counts(p, g, num_classes=3)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), got, want)
    many = jaxseg.skeleton_counts(p, g, num_classes=257)  # 256 would wrap to 0 in uint8
    assert not np.asarray(many.right)[3:].any()


def test_one_mask_is_id_1():
    p, g = tubes(0) == 1, tubes(1) == 1
    want = jaxseg.skeleton_counts(p[..., None], g[..., None])
    for dtype in (bool, np.uint8, np.int32):
        got = jaxseg.skeleton_counts(p.astype(dtype), g.astype(dtype), num_classes=1)
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_bytes_of_255_are_true():
    p, g = tubes(0) == 1, tubes(1) == 1
    strange = [(x.astype(np.uint8) * 255).view(bool) for x in (p, g)]
    got = jaxseg.skeleton_counts(*(x[..., None] for x in strange))
    jax.tree.map(
        np.testing.assert_array_equal, got, jaxseg.skeleton_counts(p[..., None], g[..., None])
    )
    np.testing.assert_array_equal(EACH(strange[0]), EACH(p))


@pytest.mark.parametrize("volumes", [False, True])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_sharded_batch_gives_the_same(axis_type, volumes):
    p, g = (tubes(seed, batch=8) for seed in (0, 1))
    if volumes:
        p, g = (x[:, :, None] == 1 for x in (p[:, :6], g[:, :6]))
        p, g = (np.repeat(x, 2, axis=2) for x in (p, g))
    run = partial(jaxseg.skeleton_counts, num_classes=1 if volumes else 3)
    mesh = jax.make_mesh((8,), ("b",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put((p, g), NamedSharding(mesh, P("b")))
        got = jax.jit(run)(*sharded)
    jax.tree.map(np.testing.assert_array_equal, got, run(p, g))


def test_counts_in_a_shard_map_are_summed_by_psum():
    p, g = (tubes(seed, batch=8) for seed in (0, 1))
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=P("b"), out_specs=P())
    def count(p, g):
        return jaxseg.psum(jaxseg.skeleton_counts(p, g, num_classes=3), "b")

    want = jaxseg.skeleton_counts(p, g, num_classes=3)
    jax.tree.map(np.testing.assert_array_equal, count(p, g), want)


def test_counts_add_up_and_run():
    first, second = (jaxseg.skeleton_counts(tubes(i), tubes(i + 9), num_classes=3) for i in (0, 1))
    both = first + second
    jax.tree.map(lambda s, a, b: np.testing.assert_array_equal(s, a + b), both, first, second)
    jax.tree.map(np.testing.assert_array_equal, sum([first, second]), both)
    total = jaxseg.total(jaxseg.running(first) + second)
    assert isinstance(total, SkeletonCounts)
    np.testing.assert_array_equal(jaxseg.cldice(total), jaxseg.cldice(both))
    wide = SkeletonCounts(*np.array([[3 * 2**33], [2**33], [2**34], [2**34]]))
    np.testing.assert_allclose(jaxseg.cldice(wide), [2 * 0.75 * 0.5 / 1.25], rtol=1e-6)
    with pytest.raises(TypeError, match="SkeletonCounts can be added to SkeletonCounts"):
        first + jaxseg.Counts(0, 0, 0, 0)


def test_shapes_and_dtypes_are_checked():
    p = tubes()
    cases: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (TypeError, "predictions must be integer or bool ids", p * 0.5, {"num_classes": 3}),
        (ValueError, "give num_classes= for integer ids", p, {}),
        (ValueError, r"same shape, got \(1, 12, 14\)", p[:1], {"num_classes": 3}),
        (ValueError, "where must have", p, {"num_classes": 3, "where": np.ones(14, bool)}),
        (
            ValueError,
            "two or three axes of space, got axes",
            p,
            {"num_classes": 3, "spatial_axes": (1,)},
        ),
        (ValueError, "out of range", p, {"num_classes": 3, "spatial_axes": (1, 3)}),
        (TypeError, "static integer", p, {"num_classes": 2.5}),
    ]
    for error, message, predictions, options in cases:
        for call in (jaxseg.skeleton_counts, jax.jit(partial(jaxseg.skeleton_counts, **options))):
            given = options if call is jaxseg.skeleton_counts else {}
            with pytest.raises(error, match=message):
                call(predictions, p, **given)
    with pytest.raises(ValueError, match=r"give spatial_axes=\(0, 1\)"):
        jaxseg.skeleton_counts(p[0], p[0], num_classes=3)


# ---------------------------------------------------------------------------------- scores

SCORES = (jaxseg.cldice, jaxseg.topology_precision, jaxseg.topology_sensitivity)


def test_a_gap_costs_and_a_width_does_not():
    true = jnp.zeros((1, 9, 30), bool).at[:, 2:7, 1:29].set(True)
    thin, cut = true.at[:, jnp.array([2, 6])].set(False), true.at[:, :, 14:16].set(False)
    scores = [
        jaxseg.cldice(jaxseg.skeleton_counts(x, true, num_classes=1)).item() for x in (thin, cut)
    ]
    assert scores[0] == 1
    assert 0.8 < scores[1] < 1


@pytest.mark.parametrize(
    ("predicted", "true", "scores"),
    [
        (0, 0, (nan, nan, nan)),
        (1, 0, (0, 0, nan)),
        (0, 1, (0, nan, 0)),
        (1, 1, (1, 1, 1)),
    ],
)
def test_scores_of_empty_masks(predicted, true, scores):
    line = jnp.zeros((1, 5, 7), bool).at[:, 2, 1:6].set(True)
    counts = jaxseg.skeleton_counts(line & bool(predicted), line & bool(true), num_classes=1)
    for score, want in zip(SCORES, scores, strict=True):
        np.testing.assert_array_equal(score(counts), [want])
        np.testing.assert_array_equal(
            score(counts, zero_division=0.25), [0.25 if math.isnan(want) else want]
        )


def test_scores_of_every_kind_of_counts_are_those_of_the_formula():
    counts = np.array(list(itertools.product([0, 1, 3, 10**9], repeat=4)), np.int32).T
    for score in SCORES:
        want = getattr(reference, score.__name__)(counts.astype(float), zero_division=-1.0)
        got = score(SkeletonCounts(*counts), zero_division=-1.0)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=1e-6)
        assert ((got == -1) | ((got >= 0) & (got <= 1))).all()


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)
def test_other_statistics_are_refused(score):
    counts = jaxseg.counts(tubes(), tubes(), num_classes=3)
    for given in (counts, jnp.ones((4, 3)), None):
        with pytest.raises(TypeError, match=r"takes SkeletonCounts, got .*jaxseg\.skeleton_counts"):
            score(given)
    with pytest.raises(TypeError, match=r"got Running.*jaxseg\.total"):
        score(jaxseg.running(SkeletonCounts(*jnp.ones((4, 2), int))))
    with pytest.raises(ValueError, match=r"four leaves of one shape \[\.\.\., C\]"):
        score(SkeletonCounts(jnp.ones(2), jnp.ones(3), jnp.ones(2), jnp.ones(2)))
    with pytest.raises(ValueError, match="zero_division must be one number, or an array"):
        score(SkeletonCounts(*jnp.ones((4, 2))), zero_division=jnp.ones(3))
    with pytest.raises(TypeError, match=r"SkeletonCounts"):
        jaxseg.dice(SkeletonCounts(*jnp.ones((4, 2))))
