"""The Pallas kernels in interpret mode against the plain forms: no GPU or TPU has run them."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

import jaxseg
from jaxseg import _counts
from jaxseg._kernels import pallas, pallas_matrix

MAP = (2, 16, 24)  # of 384 pixels
ALL = (0, 1, 2)


def as_tpu(monkeypatch):
    """The tiles of a TPU, with as many lanes as classes and no guards."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, tpu, **_: tpu(*args))


def as_gpu(monkeypatch):
    """The tiles of a GPU, with a power of two of lanes, guarded; the form that CPU takes too."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, default, **_: default(*args))


def case(classes, shape=MAP, dtype=jnp.float32, masked=True):
    rng = np.random.default_rng(classes)
    ids = jnp.asarray(rng.integers(-1, classes + 2, shape), jnp.int32)  # some of no class
    where = jnp.asarray(rng.random(shape) < 0.7) if masked else None
    logits = jnp.asarray(3 * rng.standard_normal((*shape, classes)), dtype)
    if masked:
        logits = jnp.where(where[..., None], logits, jnp.nan)
    return logits, ids, where


def check_sums(logits, ids, where, axes, rtol=2e-5):
    """Values and gradient of the jitted kernels are the plain form's."""

    def kernel(logits):
        counts, surprise = pallas.softmax_sums(logits, ids, where, axes, interpret=True)
        return jnp.stack([*counts, surprise])

    def plain(logits):
        return jnp.stack(_counts._softmax_sums((logits, ids, where), None, axes, -1))

    def both(function):
        def sums_and_gradient(logits, cotangent):
            sums, pull_back = jax.vjp(function, logits)
            return sums, pull_back(cotangent)[0]

        return jax.jit(sums_and_gradient)

    shape = jax.eval_shape(plain, logits)
    cotangent = jnp.asarray(np.random.default_rng(0).standard_normal(shape.shape), shape.dtype)
    got, want = both(kernel)(logits, cotangent), both(plain)(logits, cotangent)
    assert got[1].dtype == logits.dtype
    np.testing.assert_allclose(got[0], want[0], rtol=2e-5, atol=2e-6)
    got, want = (x[1].astype(jnp.float32) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=2e-6)


@pytest.mark.parametrize(
    ("platform", "classes", "shape", "axes"),
    [
        (as_gpu, 3, (2, 11, 13), ALL),  # a whole tile of 128 pixels and a part of one
        (as_tpu, 3, (2, 11, 13), (2,)),
        (as_tpu, 17, MAP, ALL),  # whole ones
        (as_gpu, 17, (2, 11, 13), (1, 2)),
        (as_tpu, 2, (300,), (0,)),
    ],
)
def test_sums_are_the_plain_ones(platform, classes, shape, axes, monkeypatch):
    platform(monkeypatch)
    monkeypatch.setattr(pallas, "GPU_TILE", 128 * (32 if classes == 17 else 4))  # 128 pixels
    monkeypatch.setattr(pallas, "TPU_TILE", 128 * 128)
    check_sums(*case(classes, shape), axes)


@pytest.mark.parametrize(("platform", "dtype"), [(as_gpu, "bfloat16"), (as_tpu, "float16")])
def test_half_precision_is_summed_in_float32(platform, dtype, monkeypatch):
    platform(monkeypatch)
    check_sums(*case(3, (2, 7, 9), jnp.dtype(dtype), masked=False), (1, 2), rtol=1e-2)


def test_small_ids_and_the_tiles_as_they_are():
    logits, ids, _ = case(3, masked=False)
    check_sums(logits, ids.astype(jnp.uint8), None, ALL)  # -1 is 255, still of no class


def test_all_masked_is_zero():
    logits, ids, where = case(3, (1, 8))
    nothing = jnp.zeros_like(where)

    def total(logits):
        counts, surprise = pallas.softmax_sums(logits, ids, nothing, (0, 1), interpret=True)
        return sum(x.sum() for x in (*counts, surprise))

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.full_like(logits, jnp.nan))
    assert value == 0
    np.testing.assert_array_equal(gradient, jnp.zeros_like(logits))


def test_nan_spreads_as_in_the_form_in_use():
    logits, ids, _ = case(3, (2, 5), masked=False)
    logits = logits.at[0, 0, 1].set(jnp.nan)
    got = jax.jit(lambda x: pallas.softmax_sums(x, ids, None, (1,), interpret=True))(logits)
    want = jax.jit(lambda x: _counts.softmax_sums(x, ids, None, (1,)))(logits)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    assert np.isnan(got[0].fp[0]).all() and np.isfinite(got[0].fp[1]).all()


def test_a_logit_of_minus_infinity_is_a_class_ruled_out():
    logits = jnp.array([[0.5, -jnp.inf, 1.0], [2.0, -jnp.inf, 0.0]])
    check_sums(logits, jnp.array([0, 2]), None, (0,))


def test_nothing_is_kept_but_the_inputs():
    logits, ids, where = case(3)
    _, pull_back = jax.vjp(
        lambda x: pallas.softmax_sums(x, ids, where, ALL, interpret=True)[0], logits
    )
    assert [x.shape[-1] for x in jax.tree.leaves(pull_back) if x.size == logits.size] == [3]


def test_other_axes_are_refused():
    logits, ids, where = case(3)
    with pytest.raises(ValueError, match=r"axes must be the last of 3, got \(0, 1\)"):
        pallas.softmax_sums(logits, ids, where, (0, 1), interpret=True)


@pytest.mark.parametrize(
    ("platform", "classes", "shape", "masked"),
    [
        (as_gpu, 1, (300,), False),
        (as_gpu, 3, (2, 35, 37), True),  # a whole tile of 1024 pixels and a part of one
        (as_tpu, 3, (2, 35, 37), True),
        (as_tpu, 17, MAP, False),
    ],
)
def test_confusion_matrix_is_exact(platform, classes, shape, masked, monkeypatch):
    rng = np.random.default_rng(classes)
    p, g = (jnp.asarray(rng.integers(-2, classes + 2, shape), jnp.int8) for _ in range(2))
    where = jnp.asarray(rng.random(shape) < 0.7) if masked else None
    want = jaxseg.confusion_matrix(p, g, where=where, num_classes=classes)
    platform(monkeypatch)
    monkeypatch.setattr(pallas_matrix, "TILE", 512)
    # Not the jitted function itself, whose cache knows neither the platform nor the tile.
    plain = partial(pallas_matrix.confusion_matrix.__wrapped__, interpret=True)
    got = jax.jit(plain, static_argnames="num_classes")(p, g, where, num_classes=classes)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_kernels_lower(platform):
    """For a device that is not here; its own compiler comes after."""
    logits, ids, where = case(11)

    def both(logits, ids, where):
        loss = jax.value_and_grad(lambda x: pallas.softmax_sums(x, ids, where, ALL)[1].sum())
        return loss(logits), pallas_matrix.confusion_matrix(ids, ids, where, num_classes=11)

    device = AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    with use_abstract_mesh(mesh), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Triton, on JAX 0.12
        traced = jax.jit(both).trace(logits, ids, where)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("custom_call") >= 3
