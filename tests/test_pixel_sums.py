"""The engine of the losses: little memory, precise sums, the right form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import LOSSES, TABLE
from jax import export

import jaxseg
from jaxseg._kernels import blocks, cpu, forms
from jaxseg._pixel_sums import pixel_sums
from jaxseg._pixels import Pixels
from jaxseg._soft_counts import counts_of

PLANE = (4, 256, 256, 11)
MOST_BLOCKS = 8  # that the temporaries may hold: 2 MiB on one core, 16 MiB on several


def temporaries(loss, shape, dtype=jnp.float32, labels="ids", masked=False, argnums=0):
    """The compiler's figure for value and gradient, in bytes, and the bytes of the logits."""
    logits = jax.ShapeDtypeStruct(shape, dtype)
    types = {"ids": jnp.int32, "bool": jnp.bool_, "soft": dtype}
    given = shape[:-1] if labels == "ids" else shape
    arrays = [logits, jax.ShapeDtypeStruct(given, types[labels])]
    if masked:
        arrays.append(jax.ShapeDtypeStruct(shape[:-1], jnp.bool_))

    def total(logits, labels, where=None):
        options = {} if where is None else {"where": where}
        return loss(logits, labels, **options).sum()

    compiled = jax.jit(jax.value_and_grad(total, argnums)).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes, logits.dtype.itemsize * np.prod(shape)


def assert_lean(loss, shape, *args, copies=0, most_blocks=MOST_BLOCKS, **options):
    """Temporaries of a few blocks or of a tenth of the logits, and so many copies of these."""
    taken, size = temporaries(loss, shape, *args, **options)
    most = max(0.1 * size, most_blocks * blocks.block_bytes())
    assert taken <= most + copies * size, (
        f"{taken / 2**20:.1f} MiB, {taken / size:.2f} x the logits"
    )


dice, dice_ce, bce_dice = jaxseg.dice_loss, jaxseg.dice_ce_loss, jaxseg.bce_dice_loss


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (dice_ce, (1, 64, 64, 64, 32)),
        (dice_ce, (8, 256, 256, 4)),
        (dice_ce, (2, 32, 32, 32, 117)),
        (dice_ce, (4, 256, 256, 2)),
        (dice_ce, (1, 64, 64, 11)),
        (dice_ce, (2000000, 1, 8)),  # an axis of 1 between others costs no copy
        (dice_ce, (2000, 1, 1000, 17)),
        (dice_ce, (1000000, 2, 8)),
        (dice, (2**18, 21)),
        (partial(dice, axis=(0,)), (128, 128, 128, 21)),
        (bce_dice, (20000000, 1)),
        (bce_dice, (8, 512, 512, 1)),
    ],
    ids=lambda x: str(x) if isinstance(x, tuple) else "",
)
def test_temporaries_of_each_shape(loss, shape):
    assert_lean(loss, shape)


def test_temporaries_are_those_of_optimized_programs(request):
    """XLA places the arrays before it generates code, and only that is done faster in tests."""
    quickly = temporaries(dice_ce, PLANE)
    request.getfixturevalue("optimized")
    jax.clear_caches()
    assert temporaries(dice_ce, PLANE) == quickly


@pytest.mark.parametrize("size", [blocks.ONE_CORE_BYTES, blocks.BYTES], ids=["one core", "several"])
@pytest.mark.parametrize("shape", [PLANE, (1, 64, 64, 64, 32)], ids=str)
def test_temporaries_follow_the_size_of_a_block(shape, size, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: size)
    jax.clear_caches()  # the size is no part of the key
    assert_lean(dice_ce, shape)
    jax.clear_caches()
    assert MOST_BLOCKS * size <= 32 * 2**20


F32, F16, BF16 = jnp.float32, jnp.float16, jnp.bfloat16


@pytest.mark.parametrize(
    ("loss", "dtype", "labels", "masked"),
    [
        *(
            (partial(dice_ce, axis=(1, 2), label_smoothing=0.1), dtype, labels, True)
            for dtype in (F32, F16, BF16)
            for labels in ("ids", "bool", "soft")
        ),
        (bce_dice, F32, "soft", False),
        (bce_dice, F16, "bool", False),
        (bce_dice, BF16, "ids", True),
    ],
    ids=lambda x: getattr(x, "__name__", str(x) if isinstance(x, str | bool) else "per image"),
)
def test_temporaries_of_each_kind_of_input(loss, dtype, labels, masked):
    # XLA's CPU writes blocks of bfloat16 in place only as integers, and to cast these in the end
    # is one copy of the gradient: blocks.empty_like tells why.
    assert_lean(loss, PLANE, dtype, labels, masked, copies=int(dtype == BF16))


@pytest.mark.parametrize("classes", [8, 17])
def test_temporaries_of_the_gradients_of_soft_labels(classes):
    assert_lean(dice_ce, (16, 256, 256, classes), labels="soft", argnums=(0, 1))


def test_an_unused_gradient_of_dense_labels_costs_nothing():
    with_ids, _ = temporaries(dice_ce, PLANE)
    with_soft, _ = temporaries(dice_ce, PLANE, labels="soft")
    assert with_soft <= 1.2 * with_ids


def test_the_logits_of_a_linear_layer_never_exist():
    features = jax.ShapeDtypeStruct((1, 64, 64, 64, 32), jnp.float32)
    kernel, bias = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32, 117), (117,)))
    labels = jax.ShapeDtypeStruct(features.shape[:-1], jnp.int32)
    step = jax.jit(jax.value_and_grad(jaxseg.linear_dice_ce_loss, (0, 1, 2)))
    compiled = step.lower(features, kernel, bias, labels).compile()
    most = max(0.1 * 4 * 64**3 * 117, MOST_BLOCKS * blocks.block_bytes())
    assert compiled.memory_analysis().temp_size_in_bytes <= most


FAR = np.ones((11, 11), np.float32) - np.eye(11, dtype=np.float32)
OPTIONS = {"generalized_wasserstein_dice_loss": {"distances": FAR}}
ELSEWHERE = ("linear_dice_ce_loss", "dice_ce_loss", "bce_dice_loss")  # above
SORTED = ("dice_top_k_loss",)  # its losses of pixels are ordered


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, row in TABLE.items()
        if row.kind in LOSSES and name not in (*ELSEWHERE, *SORTED)
    ],
)
def test_temporaries_of_each_loss(name):
    assert_lean(partial(getattr(jaxseg, name), **OPTIONS.get(name, {})), PLANE)


def test_temporaries_of_other_overlaps():
    assert_lean(partial(dice, overlap="squared"), PLANE)
    assert_lean(partial(dice, overlap="minimum"), PLANE, most_blocks=10)


@pytest.mark.parametrize(
    ("loss", "most"),
    [
        (jaxseg.lovasz_softmax_loss, 4),
        (jaxseg.boundary_loss, 2),
        (jaxseg.cross_entropy_loss, 0.12),
        (jaxseg.softmax_focal_loss, 0.3),
        (jaxseg.top_k_loss, 0.4),
    ],
    ids=["lovasz", "boundary", "cross_entropy", "focal", "top_k"],
)
def test_temporaries_of_losses_of_maps(loss, most):
    taken, size = temporaries(loss, PLANE)
    assert taken <= 1.01 * most * size


def test_optax_takes_several_times_the_logits():
    def optax_dice_ce(logits, labels):
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        return optax.losses.dice_loss(logits, one_hot).mean() + ce.mean()

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        taken, size = temporaries(optax_dice_ce, (2, 16, 16, 16, 117))
    assert taken > 4 * size


# Temporaries, and bytes moved, in sizes of the logits, on one core: the larger of what XLA of JAX
# 0.10.2 said before there were weights, and that of JAX 0.12.0 since. Without weights a program
# takes no more.
WITHOUT_WEIGHTS = {
    "dice_ce_loss": (dice_ce, 0.048, 8.30),
    "bce_dice_loss": (bce_dice, 0.055, 8.28),
    "dice_loss": (partial(dice, activation="sigmoid"), 0.040, 8.20),
    "soft_counts": (
        lambda x, y, **k: sum(jaxseg.soft_counts(x, y, activation="softmax", **k)),
        0.040,
        8.28,
    ),
}


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="XLA copies the gradient once more")
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_programs_without_weights_are_as_lean_as_before_there_were_any(name, monkeypatch):
    monkeypatch.setattr(blocks, "cores", lambda: 1)
    monkeypatch.setattr(cpu, "cores", lambda: 1)
    jax.clear_caches()  # the number of cores is no part of the key
    loss, most_temporaries, most_moved = WITHOUT_WEIGHTS[name]
    x, y = (jax.ShapeDtypeStruct(s, t) for s, t in ((PLANE, F32), (PLANE[:-1], jnp.int32)))
    size = 4 * np.prod(PLANE)

    def figures(*weights):
        def total(x, y, *weights):
            return loss(x, y, **({"weights": weights[0]} if weights else {})).sum()

        compiled = jax.jit(jax.value_and_grad(total)).lower(x, y, *weights).compile()
        moved = compiled.cost_analysis()["bytes accessed"] / size
        return compiled.memory_analysis().temp_size_in_bytes / size, moved

    temporaries, moved = figures()
    assert temporaries <= most_temporaries
    assert moved <= most_moved
    # The mask of the weights above 0 is an array of a byte per pixel.
    with_weights, moved_with_weights = figures(jax.ShapeDtypeStruct(PLANE[:-1], F32))
    assert with_weights <= temporaries + 0.03
    assert moved_with_weights <= moved + 0.15
    jax.clear_caches()


# ---------------------------------------------------------------------------------- platforms


@pytest.mark.parametrize("shape", [PLANE, (8, 256, 256, 3)], ids=str)
@pytest.mark.parametrize("step", [lambda f: f, jax.value_and_grad], ids=["value", "gradient"])
def test_the_form_is_that_of_the_platform_compiled_for(step, shape):
    """A program for a GPU can be made here, beside eight CPU devices."""
    logits = jax.ShapeDtypeStruct(shape, jnp.float32)
    labels = jax.ShapeDtypeStruct(shape[:-1], jnp.int32)
    program = jax.jit(step(dice_ce))
    loops = {
        platform: export.export(program, platforms=[platform])(logits, labels)
        .mlir_module()
        .count("stablehlo.while")
        for platform in ("cpu", "cuda")
    }
    assert loops["cuda"] == 0
    assert loops["cpu"] >= 1


# ---------------------------------------------------------------------------------- precision


@pytest.fixture
def described_gpu(monkeypatch):
    """Programs for "cuda" can hold kernels; what was traced before is forgotten."""
    jax.clear_caches()
    if jax.__version_info__ < forms.FIRST_JAX_THAT_ASKS:
        real = forms.find_spec
        monkeypatch.setattr(
            forms, "find_spec", lambda name: name.startswith("jax_cuda") or real(name)
        )
        yield
    else:
        device = jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu")
        mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            yield
    jax.clear_caches()


def kernels_of(platform):
    """How many kernels a program for the platform holds: a loss, its gradient and its value."""
    logits = jax.ShapeDtypeStruct((2, 32, 128, 5), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, 32, 128), jnp.uint8)
    step = jax.jit(jax.vmap(jax.value_and_grad(jaxseg.dice_ce_loss)))
    module = step.trace(logits, labels).lower(lowering_platforms=(platform,)).as_text()
    return module.count({"cuda": "xla.gpu.triton", "tpu": "tpu_custom_call"}[platform])


def test_a_program_for_gpus_holds_a_kernel_for_each_pass(described_gpu):
    assert kernels_of("cuda") == 2  # and JAX's warning of its backend is not seen


def test_the_environment_turns_the_kernels_off(described_gpu, monkeypatch):
    monkeypatch.setenv("JAXSEG_KERNELS", "0")
    monkeypatch.setenv("JAXSEG_TPU_KERNELS", "1")
    assert kernels_of("cuda") == kernels_of("tpu") == 0


def test_a_jax_without_the_backend_of_the_kernel_gets_the_plain_form(described_gpu, monkeypatch):
    monkeypatch.setattr(forms, "TRITON", "jax.experimental.pallas.removed")
    assert kernels_of("cuda") == 0


def test_a_program_for_gpus_made_elsewhere_holds_no_kernel():
    jax.clear_caches()
    assert kernels_of("cuda") == 0


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_environment_turns_the_kernel_for_tpus_on(value, monkeypatch):
    jax.clear_caches()
    monkeypatch.setenv("JAXSEG_TPU_KERNELS", value)
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # XLA cannot cut this kernel
    assert kernels_of("tpu") == 2 * int(value)


@pytest.mark.usefixtures("optimized")
def test_sums_keep_their_precision_over_many_pixels():
    # One float32 sum over 2**24 pixels of 0.1, in sequence, would be off by tens of percent.
    logits = jnp.full((1, 4096, 4096, 1), -2.1972246)  # sigmoid 0.1
    c = jaxseg.soft_counts(logits, jnp.zeros((1, 4096, 4096), bool), activation="sigmoid")
    np.testing.assert_allclose(c.fp, [0.1 * 2**24], rtol=1e-4)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("classes", [3, 17])
def test_gradients_of_a_head_keep_their_precision_over_many_blocks(classes, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: 4 * 64 * classes)
    jax.clear_caches()  # the size is no part of the key
    features = jnp.ones((1, 256, 256, 2), jnp.bfloat16)  # 1024 blocks
    kernel, labels = jnp.zeros((2, classes), jnp.bfloat16), jnp.zeros((1, 256, 256), jnp.int32)

    def counts(kernel):
        pixels = Pixels(features, labels, None, (0, 1, 2), "softmax", None)
        return pixel_sums(counts_of, pixels, head=(kernel, None)).tp[0]

    p, pixels = 1 / classes, 256 * 256
    slopes = jax.jit(jax.grad(counts))(kernel)
    np.testing.assert_allclose(slopes[:, 0].astype(jnp.float32), pixels * p * (1 - p), rtol=0.01)
    jax.clear_caches()


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda p, g: jaxseg.soft_counts(p, g).tp / 2**22, 0.3),
        (lambda p, _: jaxseg.moments(p, axis=(0, 1)).squares / 2**22, 0.09),
        (lambda p, g: 1 - jaxseg.dice_loss(p, g, activation=None, overlap="squared"), 0.6 / 1.09),
        (lambda p, g: 1 - jaxseg.dice_loss(p, g, activation=None, overlap="minimum"), 0.6 / 1.3),
        (lambda p, g: jaxseg.sensitivity_specificity_loss(p, g, activation=None), 0.49 * 0.05),
        (lambda p, g: jaxseg.top_k_loss(p, g, fraction=1.0), np.log1p(np.exp(-0.3))),
    ],
    ids=["soft_counts", "moments", "squared", "soft_targets", "sensitivity", "top_k"],
)
def test_sums_of_probabilities_keep_their_precision(function, expected, wrap):
    # XLA of JAX 0.9.2 adds a whole map in sequence.
    value = wrap(function)(jnp.full((2048, 2048, 1), 0.3), jnp.ones((2048, 2048), bool))
    np.testing.assert_allclose(value, [expected], rtol=3e-5)
