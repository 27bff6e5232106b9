"""The blocked sums behind the losses: little memory, and no pixel lost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxseg
from jaxseg import _blocks

pytestmark = pytest.mark.usefixtures("optimized")

SHAPES = ((1, 64, 64, 64, 32), (4, 256, 256, 11), (8, 256, 256, 4), (2, 32, 32, 32, 117))


def temporaries(loss, shape, dtype=jnp.float32):
    """The compiler's figure for value and gradient, in multiples of the logits' bytes."""
    logits = jax.ShapeDtypeStruct(shape, dtype)
    labels = jax.ShapeDtypeStruct(shape[:-1], jnp.int32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (logits.dtype.itemsize * np.prod(shape))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("dice_ce_loss", shape) for shape in (*SHAPES, (4, 256, 256, 2), (1, 64, 64, 11))),
        ("dice_loss", SHAPES[1]),
    ],
    ids=str,
)
def test_temporaries_are_a_fraction_of_the_logits(name, shape):
    assert temporaries(lambda x, y: getattr(jaxseg, name)(x, y).mean(), shape) <= 0.1


def test_the_logits_of_a_linear_layer_never_exist():
    features = jax.ShapeDtypeStruct((1, 64, 64, 64, 32), jnp.float32)
    kernel, bias = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32, 117), (117,)))
    labels = jax.ShapeDtypeStruct(features.shape[:-1], jnp.int32)
    step = jax.jit(jax.value_and_grad(jaxseg.linear_dice_ce_loss, (0, 1, 2)))
    compiled = step.lower(features, kernel, bias, labels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.1 * 4 * 64**3 * 117


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: jaxseg.dice_ce_loss(
            x, y, axis=tuple(range(1, y.ndim)), where=y != 3, label_smoothing=0.1
        ),
        lambda x, y: jaxseg.bce_dice_loss(x, y, where=y != 3),
    ],
    ids=["dice_ce masked, per image, smoothed", "bce_dice masked"],
)
def test_temporaries_of_other_calls(loss):
    assert temporaries(loss, (8, 256, 256, 4)) <= 0.16


def test_temporaries_of_one_class():
    assert temporaries(jaxseg.bce_dice_loss, (8, 512, 512, 1)) <= 0.15


def test_temporaries_of_half_precision():
    shape = (4, 256, 256, 11)
    assert temporaries(jaxseg.dice_ce_loss, shape, jnp.float16) <= 0.15
    # XLA on CPU copies the bits of all bfloat16 logits once.
    assert temporaries(jaxseg.dice_ce_loss, shape, jnp.bfloat16) <= 1.15


FAR = np.ones((11, 11), np.float32) - np.eye(11, dtype=np.float32)


@pytest.mark.parametrize(
    ("loss", "most"),
    [
        (lambda x, y: jaxseg.dice_loss(x, y, squared=True).mean(), 0.15),
        (lambda x, y: jaxseg.generalized_wasserstein_dice_loss(x, y, distances=FAR), 0.15),
        (lambda x, y: jaxseg.sensitivity_specificity_loss(x, y).mean(), 0.15),
        (jaxseg.unified_focal_loss, 0.15),
        (jaxseg.lovasz_softmax_loss, 4),
        (lambda x, y: jaxseg.boundary_loss(x, y).mean(), 2),
    ],
    ids=["squared", "wasserstein", "sensitivity", "unified_focal", "lovasz", "boundary"],
)
def test_temporaries_of_other_losses(loss, most):
    assert temporaries(loss, (4, 256, 256, 11)) <= most


def test_optax_takes_several_times_the_logits():
    def optax_dice_ce(logits, labels):
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        return optax.losses.dice_loss(logits, one_hot).mean() + ce.mean()

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        assert temporaries(optax_dice_ce, (2, 16, 16, 16, 117)) > 4


def test_an_unused_gradient_of_dense_labels_costs_nothing():
    shape = (4, 256, 256, 11)
    logits = labels = jax.ShapeDtypeStruct(shape, jnp.float32)
    step = jax.jit(jax.value_and_grad(jaxseg.dice_ce_loss)).lower(logits, labels).compile()
    assert step.memory_analysis().temp_size_in_bytes <= 0.15 * 4 * np.prod(shape)


@pytest.mark.parametrize(
    ("axes", "cut"),
    [
        ((0, 1, 2), (1, 2)),  # the batch axis is left whole
        ((1, 2), (1, 2)),
        ((0, 2), (2,)),
        ((0, 1), (1,)),
        ((0,), ()),  # nothing but the first axis: one block
        ((), ()),
    ],
)
def test_blocks_are_cut_from_the_last_run_of_axes(axes, cut):
    assert _blocks._axes_to_cut(jnp.zeros((2, 3, 4, 5)), axes) == cut


def test_the_only_axis_is_cut():
    assert _blocks._axes_to_cut(jnp.zeros((7, 3)), (0,)) == (0,)
    assert temporaries(lambda x, y: jaxseg.dice_loss(x, y).mean(), (2**18, 21)) <= 0.15


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(("shape", "axis"), [((64,), None), ((8, 5), 0)], ids=str)
def test_a_sharded_first_axis_gives_the_same(shape, axis, axis_type, monkeypatch):
    monkeypatch.setattr(_blocks, "CPU_BLOCK_BYTES", 48)
    logits = jax.random.normal(jax.random.key(0), (*shape, 3))
    labels = jax.random.randint(jax.random.key(1), shape, 0, 3)

    def step(logits, labels):
        return jax.value_and_grad(lambda x: jaxseg.dice_loss(x, labels, axis=axis).mean())(logits)

    mesh = jax.make_mesh((8,), ("b",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put((logits, labels), NamedSharding(mesh, PartitionSpec("b")))
        value, gradient = jax.device_get(jax.jit(step)(*sharded))
    expected = step(logits, labels)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-7)


@pytest.mark.parametrize("pixels", [1, 7, 8, 9, 64, 97])
def test_blocks_cover_every_pixel_once(pixels, monkeypatch):
    monkeypatch.setattr(
        _blocks, "CPU_BLOCK_BYTES", 2 * 3 * 4 * 8
    )  # 8 pixels of 2 images, 3 classes
    logits = jnp.arange(2 * pixels * 3, dtype=jnp.float32).reshape(2, pixels, 3)
    loop, (start, last) = _blocks._cut((logits, None), 1)
    sizes = [last[0].shape[1]]

    def write(start, block, seen):
        assert block[1] is None
        sizes.append(block[0].shape[1])
        here = jax.lax.dynamic_slice_in_dim(seen, start, block[0].shape[1], 1)
        return jax.lax.dynamic_update_slice_in_dim(seen, here + block[0], start, 1)

    seen = write(start, last, loop(write, jnp.zeros_like(logits)))
    np.testing.assert_array_equal(seen, logits)
    assert max(sizes) <= 8


def test_sums_keep_their_precision_over_many_pixels():
    # One float32 sum over 2**24 pixels of 0.1, in sequence, would be off by tens of percent.
    logits = jnp.full((1, 4096, 4096, 1), -2.1972246)  # sigmoid 0.1
    c = jaxseg.soft_counts(logits, jnp.zeros((1, 4096, 4096), bool), activation="sigmoid")
    np.testing.assert_allclose(c.fp, [0.1 * 2**24], rtol=1e-4)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda p, g: jaxseg.soft_counts(p, g).tp / 2**22, 0.3),
        (lambda p, _: jaxseg.moments(p, axis=(0, 1)).squares / 2**22, 0.09),
        (lambda p, g: 1 - jaxseg.dice_loss(p, g, activation=None, squared=True), 0.6 / 1.09),
        (lambda p, g: 1 - jaxseg.dice_loss(p, g, activation=None, soft_targets=True), 0.6 / 1.3),
        (lambda p, g: jaxseg.sensitivity_specificity_loss(p, g, activation=None), 0.49 * 0.05),
        (lambda p, g: jaxseg.top_k_loss(p, g, fraction=1.0), np.log1p(np.exp(-0.3))),
    ],
    ids=["soft_counts", "moments", "squared", "soft_targets", "sensitivity", "top_k"],
)
def test_sums_of_probabilities_keep_their_precision(function, expected, wrap):
    # XLA of JAX 0.9.2 adds a whole map in sequence.
    value = wrap(function)(jnp.full((2048, 2048, 1), 0.3), jnp.ones((2048, 2048), bool))
    np.testing.assert_allclose(value, [expected], rtol=3e-5)
