"""What the compilers of GPUs and TPUs make of the library, on a machine that has neither.

Those marked ``devices`` need a compiler, and fail where it is not installed; ``.ci/devices`` makes
environments that have one, and runs them.
"""

import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxseg
from jaxseg._kernels import forms
from tests.benchmarks import compiled, compilers, peers, sums
from tests.benchmarks.compiled import (
    LAYOUTS,
    SHARDED_SHAPE,
    STEPS,
    both,
    mesh_shape,
    sharded_loss,
    unstrict,
)
from tests.benchmarks.families import LossCase, own_dice, own_dice_ce

devices = pytest.mark.devices
MAPS = (16, 1024, 1024)  # 16.7 million pixels
MIB = 2**20


@pytest.fixture
def uncached(optimized):
    """Programs that are compiled anew, as for a user; those of other devices cannot be loaded."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


def made(device, f, *specs, **options):
    with unstrict():
        return compilers.program(compilers.compile_for(device, f, *specs, **options))


# ---------------------------------------------------------------------------------- H200


@devices
@pytest.mark.parametrize("case", sums.some_cases(), ids=str)
def test_sums_on_h200(case, uncached, request):
    if case.name == "generalized_wasserstein_dice":
        reason = "its terms read several classes of a pixel, which the kernel does not serve"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    over = {}
    for step, derive in STEPS.items():
        is_gradient = step != "value"
        found = sums.need(made("h200", derive(case.value), *case.specs), case.specs, is_gradient)
        limit = sums.limit_on_gpu(case.classes, case.dtype, is_gradient)
        if not found.within(limit):
            over[step] = found, limit
    assert not over


KEEPS_FLOAT32 = pytest.mark.xfail(
    reason="XLA keeps the probabilities of bfloat16 logits in float32", strict=True
)
WITHOUT = [
    LossCase((2, 64, 64, 64, 4)),
    LossCase((2, 64, 64, 64, 11)),
    LossCase((2, 64, 64, 64, 4), dense=True),
    LossCase((2, 64, 64, 64, 1), dtype="bfloat16"),
    pytest.param(LossCase((2, 64, 64, 64, 32), dtype="bfloat16"), marks=KEEPS_FLOAT32),
    LossCase((1, 64, 64, 64, 117)),
]
# Sums over one axis after another, which keep their digits, leave a few more sums in memory.
MORE_TEMPORARIES, MORE_MOVED = 0.2, 1.15


def specs_of(case):
    logits = jax.ShapeDtypeStruct(case.shape, jnp.dtype(case.dtype))
    ids = jax.ShapeDtypeStruct(case.shape[:-1], jnp.int32)
    return logits, jax.ShapeDtypeStruct(case.shape, jnp.float32) if case.dense else ids


@devices
@pytest.mark.parametrize("case", WITHOUT, ids=str)
@pytest.mark.parametrize("task", ["Dice", "Dice + CE"])
def test_without_kernels_on_h200_is_no_worse_than_others(task, case, uncached):
    specs = specs_of(case)
    own = own_dice if task == "Dice" else own_dice_ce
    contenders = {"jaxseg": lambda x, y: own(x, y, None), **peers.jax_losses(masked=False)[task]}
    found = {
        (step, name): sums.need(
            made("h200", derive(f), *specs, kernels=False), specs, step != "value"
        )
        for step, derive in STEPS.items()
        for name, f in contenders.items()
    }

    def limit(other):
        return sums.Need(other.temporaries + MORE_TEMPORARIES, other.moved * MORE_MOVED)

    over = {
        key: (found[key[0], "jaxseg"], other)
        for key, other in found.items()
        if not found[key[0], "jaxseg"].within(limit(other))
    }
    assert not over


@devices
@pytest.mark.parametrize(
    ("classes", "moved"), [(1, 1.41), (2, 1.82), (4, 1.65), (11, 1.3), (32, 1.2), (117, 1.1)]
)
@pytest.mark.parametrize("name", ["cross_entropy_loss", "softmax_focal_loss"])
def test_losses_of_a_pixel_on_h200(name, classes, moved, uncached):
    specs = specs_of(LossCase((2, 64, 64, 64, classes)))
    step = jax.value_and_grad(lambda x, y: getattr(jaxseg, name)(x, y).mean())
    found = sums.need(made("h200", step, *specs), specs, gradient=True)
    # The temporaries are two or three maps of one number per pixel, and the sums of a mean.
    assert found.within(sums.Need(0.07 + 3 / classes, moved)), found


# ---------------------------------------------------------------------------------- distances


@devices
@pytest.mark.parametrize("shape", [(2048, 2048), (256, 256, 256), (3, 16, 100, 100, 50)], ids=str)
def test_distances_on_h200(shape, uncached):
    mask = jax.ShapeDtypeStruct(shape, jnp.bool_)
    space = tuple(range(len(shape) == 5, len(shape)))  # one batch axis
    for spacing in (1.0, tuple(1.0 + a for a in space)):
        transform = partial(jaxseg.distance_transform, spacing=spacing)
        found = made("h200", jax.vmap(transform) if len(shape) == 5 else transform, mask)
        assert found.temporaries <= 24 * mask.size


@devices
def test_distances_on_h200_with_a_spacing_per_image(uncached):
    masks = jax.ShapeDtypeStruct((4, 64, 64, 64), jnp.bool_)
    steps = jax.ShapeDtypeStruct((4,), jnp.float32)
    transform = jax.vmap(lambda mask, a: jaxseg.distance_transform(mask, spacing=(a, 1.0, 2.0)))
    assert made("h200", transform, masks, steps).temporaries <= 24 * masks.size


@devices
@pytest.mark.parametrize("shape", [(2048, 2048), (256, 256, 256)], ids=str)
def test_distances_on_a_tpu(shape, uncached):
    mask = jax.ShapeDtypeStruct(shape, jnp.bool_)
    assert made("tpu", jaxseg.distance_transform, mask).temporaries <= 24 * mask.size


# ---------------------------------------------------------------------------------- counting

COUNTS = {"matrix": jaxseg.confusion_matrix, "counts": jaxseg.counts}


def check_counting(device, name, classes, masked, axis=None):
    maps = jax.ShapeDtypeStruct(MAPS, jnp.uint8 if classes <= 256 else jnp.uint16)
    where = [jax.ShapeDtypeStruct(MAPS, jnp.bool_)] * masked

    def count(p, g, w=None):
        return COUNTS[name](p, g, num_classes=classes, where=w, axis=axis)

    program = made(device, count, maps, maps, *where)
    assert program.temporaries <= 32 * MIB, program
    if classes <= 150:
        assert program.moved <= 4 * sum(map(sums.bytes_of, (maps, maps, *where))), program


@devices
@pytest.mark.parametrize("masked", [False, True], ids=["", "where"])
@pytest.mark.parametrize("classes", [2, 4, 19, 150, 300])
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("device", ["h200", "tpu"])
def test_counting(device, name, classes, masked, uncached):
    check_counting(device, name, classes, masked)


@devices
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("device", ["h200", "tpu"])
def test_counting_of_each_image(device, name, uncached):
    check_counting(device, name, 19, False, axis=(1, 2))


# ---------------------------------------------------------------------------------- TPU

ON_TPU = [
    *(LossCase((4, 256, 256, c)) for c in (4, 19, 32)),
    pytest.param(
        LossCase((4, 256, 256, 1), dtype="bfloat16"),
        marks=pytest.mark.xfail(reason="temporaries of 0.37 of these small logits", strict=True),
    ),
    LossCase((4, 256, 256, 11), dtype="bfloat16"),
    LossCase((4, 256, 256, 4), dense=True),
    *(LossCase((1, 64, 64, 64, 117), dtype=dtype) for dtype in sums.DTYPES),
]


@devices
@pytest.mark.parametrize("case", ON_TPU, ids=str)
def test_kernels_on_tpu_move_less_than_others(case, uncached):
    specs = specs_of(case)
    contenders = {
        **both(lambda x, y: own_dice_ce(x, y, None)),
        **peers.jax_losses(masked=False)["Dice + CE"],
    }
    found = {
        name: sums.need(
            made("tpu", jax.value_and_grad(f), *specs, kernels=name == "jaxseg"), specs, True
        )
        for name, f in contenders.items()
    }
    ours = found.pop("jaxseg")
    optax, plain = found.pop("Optax").moved, min(other.moved for other in found.values())
    assert ours.temporaries <= 0.05, (ours, found)
    few = case.shape[-1] <= 32
    assert ours.moved <= min(optax, plain / 2 if few else plain), (ours, optax, found)


# ---------------------------------------------------------------------------------- sharded


@devices
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda x: x.name)
@pytest.mark.parametrize("device", ["h200", "tpu"])
def test_only_sums_cross_devices(device, axis_type, layout, step, uncached, request):
    if (device, layout, step) == ("h200", "classes", "value"):
        reason = "the kernel does not serve a device that holds some of the classes"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    by_xla = device == "tpu" and axis_type is AxisType.Auto and step != "value"
    if by_xla and layout != "classes":
        reason = "without custom_partitioning, XLA sends the sums in two operations"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    mesh = compilers.mesh_of(device, mesh_shape(device), ("a", "b"), axis_type)
    f, specs = sharded_loss(SHARDED_SHAPE, layout)
    partition = LAYOUTS[layout]
    many = made(device, STEPS[step](f), *specs, mesh=mesh, partitions=[partition] * 2)
    shard = jax.sharding.NamedSharding(mesh, partition).shard_shape
    one = made(
        device, STEPS[step](f), *(jax.ShapeDtypeStruct(shard(x.shape), x.dtype) for x in specs)
    )
    assert many.collectives == ("all-reduce",)
    # The sums themselves are a few numbers.
    assert many.temporaries <= one.temporaries + sums.bytes_of(specs[0]) // mesh.size // 50


# ---------------------------------------------------------------------------------- export


def exported(platform, step):
    """The text of a program that is made here; the tests of functions before had other settings."""
    logits = jax.ShapeDtypeStruct((2, 64, 64, 4), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, 64, 64), jnp.int32)
    jax.clear_caches()
    program = export.export(jax.jit(STEPS[step](jaxseg.dice_ce_loss)), platforms=[platform])
    text = program(logits, labels).mlir_module()
    jax.clear_caches()
    return text


def check_plain(text):
    assert "triton" not in text and "tpu_custom_call" not in text
    assert "stablehlo.while" not in text  # the form for CPUs is a loop
    assert "stablehlo.exponential" in text


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_exported_program_is_the_plain_pass(platform, step, monkeypatch):
    monkeypatch.delenv("JAXSEG_KERNELS", raising=False)
    monkeypatch.delenv("JAXSEG_TPU_KERNELS", raising=False)
    if platform == "cuda" and forms.gpu_gets_kernel():  # JAX does not export a kernel
        with pytest.raises(ValueError, match="custom call"):
            exported(platform, step)
    else:
        check_plain(exported(platform, step))


def test_with_kernels_off_an_exported_program_is_the_plain_pass_everywhere(monkeypatch):
    monkeypatch.setenv("JAXSEG_KERNELS", "0")
    check_plain(exported("cuda", "value and gradient"))


# ---------------------------------------------------------------------------------- the reader

TEXT = """
HloModule jit_f, is_scheduled=true

%slices (param_0.1: u8[100,8], param_1: s32[]) -> u8[10,8] {
  %param_0.1 = u8[100,8]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = u8[10,8]{1,0} dynamic-slice(%param_0.1, %param_1, %zero), dynamic_slice_sizes={10,8}
}

%updates (param_0: f32[100,8], param_1: f32[10,8], param_2: s32[]) -> f32[100,8] {
  %param_0 = f32[100,8]{1,0} parameter(0)
  %param_1 = f32[10,8]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = f32[100,8]{1,0} dynamic-update-slice(%param_0, %param_1, %param_2, %zero)
}

%body (carry: (s32[], u8[100,8])) -> (s32[], u8[100,8]) {
  %carry = (s32[], u8[100,8]{1,0:T(8,128)(4,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = u8[100,8]{1,0:T(8,128)(4,1)S(1)} get-tuple-element(%carry), index=1
  %taken = u8[10,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%slices, metadata={op_name="f(x), y"}
  ROOT %both = (s32[], u8[100,8]{1,0}) tuple(%i, %x)
}

%condition (carry.1: (s32[], u8[100,8])) -> pred[] {
  %carry.1 = (s32[], u8[100,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: u8[100,8], b: f32[100,8], c: f32[10,8]) -> f32[100,8] {
  %a = u8[100,8]{1,0} parameter(0), sharding={replicated}
  %b = f32[100,8]{1,0} parameter(1)
  %c = f32[10,8]{1,0} parameter(2)
  %start = s32[] constant(3)
  %first = (s32[], u8[100,8]{1,0}) tuple(%start, %a)
  %loop = (s32[], u8[100,8]{1,0}) while(%first), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"10"}}
  %pair = (bf16[7]{0:T(256)S(1)}, pred[3]{0}) custom-call(%c), custom_call_target="triton"
  %sum-start = (f32[10,8]{1,0}, f32[10,8]{1,0}) all-reduce-start(%c), to_apply=%add
  %sum = f32[10,8]{1,0} all-reduce-done(%sum-start)
  ROOT %done = f32[100,8]{1,0} fusion(%b, %sum, %start), kind=kLoop, calls=%updates
}
"""


def test_bytes_kernels_and_collectives_are_read_from_the_text():
    work = compilers.work_of(TEXT)
    loop = 10 * (80 + 4 + 80)  # a slice, its index and the copy of the slice
    call, reduced = 320 + 14 + 3, 2 * 320
    update = 320 + 4 + 320  # in place
    assert work.moved == loop + call + reduced + update
    assert work.kernels == 10 + 1 + 1 + 1
    assert work.collectives == ("all-reduce",)


def test_a_program_of_a_cpu_can_be_read(uncached):
    x = jnp.ones((1024, 256))
    compiled = jax.jit(lambda x: (x + 1).sum()).lower(x).compile()
    program = compilers.program(compiled)
    assert x.nbytes <= program.moved <= 1.1 * x.nbytes
    assert program.temporaries < x.nbytes and program.kernels >= 1
    assert program.collectives == ()


def test_collectives_of_a_sharded_program(uncached):
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    x = jax.device_put(jnp.ones((64, 8)), jax.NamedSharding(mesh, P("a")))
    compiled = jax.jit(jnp.sum).lower(x).compile()
    assert compilers.program(compiled).collectives == ("all-reduce",)


def test_the_selection_has_every_kind():
    cases = sums.some_cases()
    assert all(case.has_classes for case in cases)
    assert {(case.classes, case.dtype) for case in cases} >= {
        (c, dtype) for c in sums.CLASSES for dtype in sums.DTYPES
    }
    assert {(case.labels, case.where) for case in cases} == {
        (labels, where) for labels in sums.LABELS for where in (False, True)
    }
    assert {case.name for case in cases} == set(sums.SUMS)
    assert set(cases) <= set(sums.every_case())


# ---------------------------------------------------------------------------------- the command


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("device", compilers.DEVICES)
def test_a_compiler_that_is_missing(device, monkeypatch):
    monkeypatch.setattr(compilers, "find_spec", lambda _: None)
    package = "libtpu|jax.tpu" if device == "tpu" else "jax-cuda12-plugin"
    with pytest.raises(compilers.MissingCompiler, match=package):
        compilers.require(device)


def test_the_command_ends_with_2_where_a_compiler_is_missing():
    """The compilers exclude each other, so one is."""
    missing = next(
        device
        for device in ("h200", "tpu")
        if not any(map(find_spec, compilers.PLUGINS[compilers.platform_of(device)]))
    )
    done = run("--compile-for", missing)
    assert done.returncode == 2
    assert f"There is no compiler for {missing} here" in done.stderr and "pip" in done.stderr


def test_the_command_refuses_a_family_that_is_not_compiled():
    done = run("--compile-for", "h200", "--only", "startup")
    assert done.returncode == 2 and "--only must be one of loss, counting" in done.stderr


@pytest.mark.parametrize("name", compiled.OPTAX)
def test_contenders_are_the_same_loss(name):
    logits = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))  # Optax's mean is of images
    labels = jax.random.randint(jax.random.key(1), (1, 32, 32), 0, 3)
    want = getattr(jaxseg, name)(logits, labels).mean()
    np.testing.assert_allclose(compiled.plain_of(name)(logits, labels), want, rtol=1e-5)
    np.testing.assert_allclose(compiled.OPTAX[name](logits, labels), want, rtol=0.02)  # smooth


def test_tables_have_a_column_for_each_contender():
    program = compilers.Program(temporaries=50, moved=120, kernels=3, collectives=("all-reduce",))
    case = {"step": "value", "shape": (2, 4), "dtype": "float32", "classes": 4}
    rows = [
        {"family": family, "task": family, "contender": name, **case, **more}
        | compiled.figures(made, 100, 80)
        for family, more in (
            ("loss", {}),
            ("counting", {"dtype": "uint8"}),
            ("memory", {"loss": "dice_loss"}),
            ("sharded", {"layout": "rows"}),
            ("sums", {"loss": "dice", "labels": "ids", "where": False}),
        )
        for name, made in (("jaxseg", program), ("Optax", program), ("other", "does not compile"))
    ]
    text = compiled.markdown({"device": "h200", "versions": {"jax": "1"}, "rows": rows})
    lines = text.splitlines()
    assert lines.count("|  | jaxseg | Optax |") == 4
    for label in ("`[2, 4]`", "`[2, 4]`, 4 classes", "`dice_loss`"):
        assert f"| {label} | 0.50 / 1.50 / 3 | 0.50 / 1.50 / 3 |" in lines
    assert "| `[2, 4]`, rows | 0.50 / 1.50 / 3 / 1 all-reduce |" in text
    assert "| dice | C < 117 | float32 | 0.50 | 1.50 | 2 |" in lines
    assert "Beyond the limits for a GPU: 2." in lines  # 0.25 of the logits, for a value
    assert "- other, `dice_loss`: does not compile" in lines


@devices
@pytest.mark.parametrize("device", ["h200", "tpu"])
def test_a_quick_run(device, tmp_path):
    done = run("--compile-for", device, "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / f"compiled-{device}.md").read_text()
    for heading in ("Dice + CE, value and gradient", "Confusion matrix", "Sharded, value"):
        assert f"## {heading}" in text
    assert "jaxseg, kernels off" in text and "Optax" in text and "plain JAX" in text
