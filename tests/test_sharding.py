"""Counting of sharded maps: each device counts what it holds, and only sums cross devices."""

import os
import re
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxseg

SHAPE = (8, 16, 24)
CLASSES = 3
RNG = np.random.default_rng(0)
IDS = tuple(RNG.choice([0, 1, 2, 255], (2, *SHAPE)).astype(np.uint8))
MASKS = tuple(RNG.random((2, *SHAPE, CLASSES)) < 0.4)
WHERE = RNG.random(SHAPE) < 0.7

# How a map [B, H, W] may lie on a mesh: of one axis, or of two.
LAYOUTS = {
    "batch": P("a"),
    "rows": P(None, "a"),
    "columns": P(None, None, "a"),
    "batch and rows": P("a", "b"),
    "rows and columns": P(None, "b", "a"),
    "batch by both": P(("a", "b")),
}
FUNCTIONS = {
    "counts": (partial(jaxseg.counts, num_classes=CLASSES), IDS),
    "matrix": (partial(jaxseg.confusion_matrix, num_classes=CLASSES), IDS),
    "masks": (jaxseg.counts, MASKS),
}
REFERENCE = {
    "counts": partial(reference.hard_counts, num_classes=CLASSES),
    "matrix": partial(reference.confusion_matrix, num_classes=CLASSES),
    "masks": partial(reference.hard_counts, num_classes=None),
}
COLLECTIVE = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"

each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_mesh = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)


def mesh_of(*axis_types):
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=axis_types)


def placed(arrays, mesh, spec):
    return jax.device_put(arrays, NamedSharding(mesh, spec))


def collectives(compiled):
    """The shape and the name of each."""
    return re.findall(rf"= (\(.*?\)|\S+) ({COLLECTIVE})(?:-start)?\(", compiled.as_text())


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


@each_mesh
@each_layout
@each_function
def test_only_sums_cross_devices(name, layout, axis_type):
    function, maps = FUNCTIONS[name]
    arrays = placed((*maps, WHERE), mesh_of(axis_type, axis_type), LAYOUTS[layout])
    run = jax.jit(lambda p, g, w: function(p, g, where=w)).lower(*arrays).compile()
    assert_equal(tuple(run(*arrays)), tuple(REFERENCE[name](*maps, where=WHERE)))
    found = collectives(run)
    assert {kind for _, kind in found} == {"all-reduce"}
    assert len(found) == 1
    ((shape, _),) = found
    # Pairs of classes (and none, and masked), or four counts per class.
    assert shape.partition("{")[0] in ("s32[17]", f"s32[{CLASSES},4]")


@each_mesh
@pytest.mark.parametrize("layout", ["batch", "rows and columns"])
@pytest.mark.parametrize("shape", [SHAPE, (8, 1, 1)], ids=str)
@each_function
def test_only_weighted_sums_cross_devices(name, shape, layout, axis_type):
    function, maps = FUNCTIONS[name]
    mesh = mesh_of(axis_type, axis_type)
    weights = RNG.integers(0, 5, shape).astype(np.float32)
    arrays = placed((*maps, WHERE), mesh, LAYOUTS[layout])
    arrays = (*arrays, placed(weights, mesh, LAYOUTS[layout] if shape == SHAPE else P()))
    run = jax.jit(lambda p, g, m, w: function(p, g, where=m, weights=w)).lower(*arrays).compile()
    want = REFERENCE[name](*maps, where=WHERE, weights=weights)
    assert_equal(tuple(run(*arrays)), tuple(want))
    ((found, kind),) = collectives(run)
    assert (kind, found.partition("[")[0]) == ("all-reduce", "f32")


@each_mesh
@pytest.mark.parametrize("layout", ["batch", "rows and columns"])
@each_function
def test_counts_of_each_image_are_summed_where_an_image_is_cut(name, layout, axis_type):
    function, maps = FUNCTIONS[name]
    arrays = placed(maps, mesh_of(axis_type, axis_type), LAYOUTS[layout])
    run = jax.jit(partial(function, axis=(1, 2))).lower(*arrays).compile()
    got = run(*arrays)
    assert_equal(tuple(got), tuple(REFERENCE[name](*maps, axis=(1, 2))))
    found = {kind for _, kind in collectives(run)}
    assert found == (set() if layout == "batch" else {"all-reduce"})
    if layout == "batch":  # and stay where their images are
        assert jax.tree.leaves(got)[0].sharding.shard_shape((8, CLASSES)) == (2, CLASSES)


@pytest.mark.parametrize("context", [False, True], ids=["", "set_mesh"])
@each_mesh
def test_a_mesh_need_not_be_set(axis_type, context):
    mesh = mesh_of(axis_type, axis_type)
    arrays = placed(IDS, mesh, P(None, "a"))
    run = partial(jaxseg.confusion_matrix, num_classes=CLASSES)
    want = reference.confusion_matrix(*IDS, CLASSES)
    if context:
        with jax.set_mesh(mesh):
            assert_equal((run(*arrays), jax.jit(run)(*arrays)), (want, want))
    else:
        assert_equal((run(*arrays), jax.jit(run)(*arrays)), (want, want))


@each_mesh
@pytest.mark.parametrize("layout", ["batch", "rows"])
@each_function
def test_vmap_of_sharded_maps(name, layout, axis_type):
    function, maps = FUNCTIONS[name]
    arrays = placed(maps, mesh_of(axis_type, axis_type), LAYOUTS[layout])
    run = jax.jit(jax.vmap(function)).lower(*arrays).compile()
    assert_equal(tuple(run(*arrays)), tuple(REFERENCE[name](*maps, axis=(1, 2))))
    assert {kind for _, kind in collectives(run)} <= {"all-reduce"}


@each_function
def test_vmap_of_predictions_beside_one_truth(name):
    function, (predictions, labels) = FUNCTIONS[name]
    got = jax.vmap(function, in_axes=(0, None))(predictions, labels[0])
    repeated = np.broadcast_to(labels[:1], labels.shape)
    assert_equal(tuple(got), tuple(REFERENCE[name](predictions, repeated, axis=(1, 2))))


@pytest.mark.parametrize(
    "axis_types",
    [(AxisType.Explicit, AxisType.Auto), (AxisType.Auto, AxisType.Explicit)],
    ids=["Explicit, Auto", "Auto, Explicit"],
)
@each_layout
def test_a_mesh_of_both_kinds_of_axes(layout, axis_types):
    arrays = placed(IDS, mesh_of(*axis_types), LAYOUTS["batch and rows"])
    got = jax.jit(partial(jaxseg.counts, num_classes=CLASSES))(*arrays)
    assert_equal(tuple(got), tuple(reference.hard_counts(*IDS, CLASSES)))


@each_mesh
def test_maps_that_lie_differently(axis_type):
    mesh = mesh_of(axis_type, axis_type)
    layouts = (P("a"), P(None, "a"), P())
    want = tuple(reference.hard_counts(*IDS, CLASSES, WHERE))
    run = jax.jit(lambda p, g, w: jaxseg.counts(p, g, num_classes=CLASSES, where=w))
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        maps = zip((*IDS, WHERE), (layouts[i] for i in order), strict=True)
        assert_equal(tuple(run(*(placed(x, mesh, spec) for x, spec in maps))), want)
    for i in range(3):  # one on the mesh, beside two of NumPy
        arrays = [*IDS, WHERE]
        arrays[i] = placed(arrays[i], mesh, P("a"))
        assert_equal(tuple(run(*arrays)), want)


@each_mesh
@each_layout
def test_many_classes_have_three_histograms_and_one_all_reduce(layout, axis_type):
    arrays = placed(IDS, mesh_of(axis_type, axis_type), LAYOUTS[layout])
    run = jax.jit(partial(jaxseg.counts, num_classes=600)).lower(*arrays).compile()
    assert_equal(tuple(run(*arrays)), tuple(reference.hard_counts(*IDS, 600)))
    found = collectives(run)
    assert found and {kind for _, kind in found} == {"all-reduce"}
    assert not re.search(r"u8\[", "".join(shape for shape, _ in found))


def test_a_mesh_of_one_device():
    """As ``make_mesh`` makes it where there is one GPU."""
    program = """
import jax, numpy as np, jaxseg
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
ids = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((1,), ("a",), axis_types=(axis_type,))
    for spec in (P("a"), P(None, "a"), P(None, None, "a")):
        maps = jax.device_put((ids, ids), NamedSharding(mesh, spec))
        for p, g in (maps, (ids, maps[1]), (maps[0], ids)):
            assert jaxseg.counts(p, g, num_classes=3).tp.tolist() == [8, 8, 8]
            assert jaxseg.counts(p == 1, g == 1).tp.sum() == 8
            jax.jit(lambda p, g: jaxseg.confusion_matrix(p, g, num_classes=3, axis=1))(p, g)
            with jax.set_mesh(mesh):
                jax.jit(jax.vmap(jaxseg.distance_transform))(p == 1)
"""
    settings = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    subprocess.run([sys.executable, "-c", program], env=settings, check=True)


def test_rows_that_devices_cannot_share_evenly_are_counted_once():
    """XLA shards 19 rows over 8 devices as 3 each, and fills up: nothing of that counts."""
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

    def run(*maps):
        return jaxseg.counts(*(jnp.concatenate([x, x[:, :3]], 1) for x in maps), num_classes=2)

    maps = tuple(np.zeros(SHAPE, np.uint8) for _ in range(2))
    got = jax.jit(run)(*placed(maps, mesh, P(None, "a")))
    assert got.tp.tolist() == [8 * 19 * 24, 0]


@pytest.mark.parametrize("names", [("a",), ("a", "b")], ids=["partly", "wholly"])
def test_in_the_body_of_a_shard_map(names):
    mesh = mesh_of(AxisType.Auto, AxisType.Auto)
    spec = P(names)

    def body(predictions, labels):
        c = jaxseg.counts(predictions, labels, num_classes=CLASSES)
        return jax.lax.psum(c, names)

    run = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=P(), axis_names=set(names))
    arrays = placed(IDS, mesh, P("a", "b") if len(names) == 1 else spec)
    want = reference.hard_counts(*IDS, CLASSES)
    assert_equal(tuple(jax.jit(run)(*arrays)), tuple(want))


@each_mesh
def test_steps_of_a_scan(axis_type):
    function = partial(jaxseg.counts, num_classes=CLASSES)
    steps = placed([np.stack([x, x, x]) for x in IDS], mesh_of(axis_type, axis_type), P(None, "a"))

    def run(*steps):
        zero = jaxseg.running(jaxseg.Counts(*jnp.zeros((4, CLASSES), jnp.int32)))
        return jax.lax.scan(lambda r, maps: (r + function(*maps), None), zero, steps)[0]

    compiled = jax.jit(run).lower(*steps).compile()
    want = [3 * np.asarray(x) for x in reference.hard_counts(*IDS, CLASSES)]
    assert_equal(tuple(jaxseg.total(compiled(*steps))), tuple(want))
    assert {kind for _, kind in collectives(compiled)} == {"all-reduce"}


def test_counting_beside_a_gradient():
    logits = jnp.asarray(RNG.standard_normal((*SHAPE, CLASSES)), jnp.float32)
    labels = jnp.asarray(IDS[1])

    def loss(logits):
        c = jaxseg.counts(jaxseg.predict_labels(logits), labels, num_classes=CLASSES)
        return jaxseg.dice_loss(logits, labels).mean(), c

    gradient, c = jax.jit(jax.grad(loss, has_aux=True))(logits)
    want = jax.grad(lambda x: jaxseg.dice_loss(x, labels).mean())(logits)
    np.testing.assert_allclose(gradient, want, rtol=1e-5)
    assert_equal(tuple(c), tuple(reference.hard_counts(np.argmax(logits, -1), IDS[1], CLASSES)))


@pytest.mark.usefixtures("optimized")
@each_mesh
@pytest.mark.parametrize("layout", ["batch", "rows and columns"])
def test_large_maps_are_counted_in_blocks(layout, axis_type):
    sharding = NamedSharding(mesh_of(axis_type, axis_type), LAYOUTS[layout])
    maps = [jax.ShapeDtypeStruct((16, 1024, 1024), np.uint8, sharding=sharding)] * 2
    run = partial(jaxseg.confusion_matrix, num_classes=CLASSES)
    compiled = jax.jit(run).lower(*maps).compile()
    devices = 4 if layout == "batch" else 8
    temporaries = compiled.memory_analysis().temp_size_in_bytes  # of one device
    assert temporaries < 0.1 * 2 * maps[0].size / devices
    text = compiled.as_text()
    assert "while(" in text
    assert re.search(rf"({COLLECTIVE})(?:-start)?\(", text[text.index("\nENTRY") :])  # after them


@pytest.mark.usefixtures("optimized")
@each_mesh
def test_a_map_of_one_axis_stays_where_it_is(axis_type):
    maps = [x.ravel() for x in IDS]
    arrays = placed(maps, mesh_of(axis_type, axis_type), P("a"))
    run = jax.jit(partial(jaxseg.confusion_matrix, num_classes=CLASSES)).lower(*arrays).compile()
    assert_equal(run(*arrays), reference.confusion_matrix(*maps, CLASSES))
    assert {kind for _, kind in collectives(run)} == {"all-reduce"}


# ---------------------------------------------------------------------------------- losses

LOGITS = RNG.standard_normal((*SHAPE, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, SHAPE).astype(np.int32)
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]
WEIGHTS = jnp.array([1.0, 2.0, 3.0, 4.0])
FAR = 1 - np.eye(4, dtype=np.float32)
LOSSES = {
    "softmax": (jaxseg.dice_ce_loss, LABELS),
    "dense": (partial(jaxseg.dice_ce_loss, axis=(1, 2)), ONE_HOT),
    "constants": (
        partial(jaxseg.dice_ce_loss, ce_class_weights=WEIGHTS, label_smoothing=0.1),
        LABELS,
    ),
    "sigmoid": (partial(jaxseg.dice_loss, activation="sigmoid"), ONE_HOT > 0),
    "image by image": (partial(jaxseg.iou_loss, axis=(1, 2)), LABELS),
}
MOVING = {  # losses that need more of a pixel, or of its neighbours, than a device may hold
    "classes mixed": (partial(jaxseg.generalized_wasserstein_dice_loss, distances=FAR), LABELS),
    "distances": (jaxseg.boundary_loss, LABELS),
    "distances of predictions": (jaxseg.hausdorff_dt_loss, ONE_HOT),
    "erosions": (partial(jaxseg.hausdorff_erosion_loss, erosions=2), LABELS),
    "edges": (jaxseg.boundary_dou_loss, LABELS),
    "skeletons": (partial(jaxseg.cldice_loss, iterations=1), LABELS),
    "order": (jaxseg.lovasz_softmax_loss, LABELS),
    "hardest": (jaxseg.top_k_loss, LABELS),
    "neighbours": (jaxseg.nacl_loss, LABELS),
}


def loss_and_gradient(loss, x, labels, where):
    def total(x):
        value = loss(x, labels, where=where)
        return value.sum(), value

    gradient, value = jax.grad(total, has_aux=True)(x)
    return value, gradient


@cache
def on_one_device(name):
    loss, labels = (LOSSES | MOVING)[name]
    return jax.jit(partial(loss_and_gradient, loss))(LOGITS, labels, WHERE)


def sharded_loss(name, spec, axis_type):
    """The compiled program of a loss and its gradient, its arguments, and what it gives."""
    loss, labels = (LOSSES | MOVING)[name]
    run = partial(loss_and_gradient, loss)
    mesh = mesh_of(axis_type, axis_type)
    arrays = [
        placed(x, mesh, P(*spec[: x.ndim]))
        for x in (LOGITS, jnp.asarray(labels), jnp.asarray(WHERE))
    ]
    with jax.set_mesh(mesh):
        compiled = jax.jit(run).lower(*arrays).compile()
        got = compiled(*arrays)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, got, on_one_device(name))
    return compiled, arrays, got


@each_mesh
@pytest.mark.parametrize("layout", ["rows and columns", "classes"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_sends_sums_alone(name, layout, axis_type):
    """Forward and backward; of cut classes, also each pixel's sums over its classes."""
    spec = P("b", None, None, "a") if layout == "classes" else LAYOUTS[layout]
    compiled, arrays, (_, gradient) = sharded_loss(name, spec, axis_type)
    assert {kind for _, kind in collectives(compiled)} <= {"all-reduce"}
    assert gradient.sharding.is_equivalent_to(arrays[0].sharding, gradient.ndim)
    if layout != "classes" and name != "dense":  # whose images without a pixel are found too
        assert len(collectives(compiled)) == 1


# Unoptimized programs round a neighbourhood's values otherwise, and so break ties otherwise.
@pytest.mark.usefixtures("optimized")
@each_mesh
@pytest.mark.parametrize("name", MOVING)
def test_other_losses_of_maps_cut_by_rows_and_classes_give_the_same(name, axis_type):
    sharded_loss(name, P(None, "b", None, "a"), axis_type)


@each_mesh
def test_second_derivatives_of_sharded_maps(axis_type):
    def hessian_product(x, labels, direction):
        gradient = jax.grad(lambda x: jaxseg.dice_ce_loss(x, labels))
        return jax.jvp(gradient, (x,), (direction,))[1]

    mesh = mesh_of(axis_type, axis_type)
    arguments = (LOGITS, LABELS, LOGITS[::-1])
    with jax.set_mesh(mesh):
        arrays = [placed(x, mesh, P("a", "b")) for x in arguments]
        got = jax.jit(hessian_product)(*arrays)
    np.testing.assert_allclose(got, hessian_product(*arguments), rtol=1e-3, atol=1e-7)


@each_mesh
@pytest.mark.parametrize("function", [jaxseg.distance_transform, jaxseg.signed_distance])
def test_distances_of_sharded_masks(function, axis_type):
    mask = WHERE & (RNG.random(SHAPE) < 0.1)
    mesh = mesh_of(axis_type, axis_type)
    with jax.set_mesh(mesh):
        got = jax.jit(function)(placed(jnp.asarray(mask), mesh, P(None, "a", "b")))
    np.testing.assert_array_equal(got, function(mask))


OF_IMAGES = {  # functions of the ids of one image
    "distances": lambda x: jaxseg.distance_transform(x == 1),
    "distances in steps": lambda x: jaxseg.distance_transform(x == 1, spacing=(1.0, 2.0)),
    "signed": lambda x: jaxseg.signed_distance(x == 1),
    "centres": lambda x: jaxseg.centre_distance(x == 1, x == 2),
    "edges": lambda x: jaxseg.edges(x == 1),
    "surfaces": lambda x: jaxseg.surface_distances(x == 1, x == 2, where=x != 255),
    "surfaces of classes": lambda x: jaxseg.surface_distances(x, x[::-1], num_classes=3),
    "elements": lambda x: jaxseg.surface_distances(x == 1, x == 2, element_areas=True),
    "bands": lambda x: jaxseg.boundary_iou(x == 1, x == 2, method="distance", width=1.0),
    "borders": lambda x: jaxseg.border_weights(x % 4),
    "skeleton": lambda x: jaxseg.skeleton(x == 1),
    "boundary loss": lambda x: jaxseg.boundary_loss(
        jax.nn.one_hot(x % 4, 4, dtype=jnp.float32)[None], (x % 4)[None], activation=None
    ),
}


@each_mesh
@pytest.mark.parametrize("name", OF_IMAGES)
def test_vmap_leaves_images_on_their_devices(name, axis_type):
    mesh = mesh_of(axis_type, axis_type)
    run = jax.vmap(OF_IMAGES[name])
    ids = IDS[0].astype(np.int32)
    cut = placed(ids, mesh, P("a"))
    with jax.set_mesh(mesh):
        compiled = jax.jit(run).lower(cut).compile()
        got = compiled(cut)
    want = jax.jit(run)(ids)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), got, want)
    assert {kind for _, kind in collectives(compiled)} <= {"all-reduce"}  # of when loops end
    for x in jax.tree.leaves(got):
        assert x.sharding.shard_shape(x.shape)[0] == len(x) // 4


@each_mesh
@pytest.mark.parametrize("layout", ["batch", "rows"])
def test_derivatives_of_distances_by_the_spacing(layout, axis_type):
    masks = IDS[0] == 1

    def run(masks):
        of_one = lambda mask, step: jaxseg.distance_transform(mask, spacing=(step, 2.0))  # noqa: E731
        return jax.vmap(lambda mask: jax.jacfwd(partial(of_one, mask))(1.5))(masks)

    mesh = mesh_of(axis_type, axis_type)
    with jax.set_mesh(mesh):
        got = jax.jit(run)(placed(masks, mesh, LAYOUTS[layout]))
    want = jax.jit(run)(masks)
    assert np.isfinite(want).all() and np.any(want)
    np.testing.assert_allclose(got, want, rtol=1e-5)
