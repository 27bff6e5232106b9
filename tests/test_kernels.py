"""Kernels against their plain forms, in each form that a platform could take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxseg import _blocks, _counts

MAP = (2, 5, 7)


def on_cpu(monkeypatch, classes):
    monkeypatch.setattr(_blocks, "CPU_BLOCK_BYTES", 2 * 8 * 4 * classes)  # 8 pixels of 2 images


def elsewhere(monkeypatch, classes):
    """The form of an accelerator, computed here."""
    monkeypatch.setattr(_blocks, "ACCELERATOR_BLOCK_BYTES", 2 * 8 * 4 * classes)
    monkeypatch.setattr(_blocks, "on_cpu", lambda: False)
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, default, **_: default(*args))


def sums_and_gradient(function, logits, *cotangents):
    sums, pull_back = jax.vjp(function, logits)
    return sums, pull_back(tuple(cotangents))[0]


@pytest.mark.parametrize("platform", [on_cpu, elsewhere], ids=["cpu", "elsewhere"])
@pytest.mark.parametrize(
    ("classes", "axes", "masked"),
    [
        (2, (0, 1, 2), True),
        (3, (1, 2), False),
        (3, (0, 1), True),  # the plain form: the last axis is kept
        (17, (2,), True),
        (17, (0, 1, 2), False),
    ],
    ids=str,
)
def test_softmax_sums_are_the_plain_ones(platform, classes, axes, masked, monkeypatch):
    platform(monkeypatch, classes)
    jax.clear_caches()  # the platform is no part of the key
    rng = np.random.default_rng(classes)
    logits = jnp.asarray(3 * rng.standard_normal((*MAP, classes)), jnp.float32)
    ids = jnp.asarray(rng.integers(-1, classes + 1, MAP), jnp.int32)  # some of no class
    where = jnp.asarray(rng.random(MAP) < 0.7) if masked else None
    if masked:
        logits = jnp.where(where[..., None], logits, jnp.nan)

    def fused(logits):
        counts, surprise = _counts.softmax_sums(logits, ids, where, axes)
        return *counts, surprise

    def plain(logits):
        return _counts._softmax_sums((logits, ids, where), None, axes, -1)

    shape = jax.eval_shape(plain, logits)
    cotangents = [jnp.asarray(rng.standard_normal(s.shape), jnp.float32) for s in shape]
    got = sums_and_gradient(fused, logits, *cotangents)
    want = sums_and_gradient(plain, logits, *cotangents)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, want)
    jax.clear_caches()


def test_what_is_kept_is_no_more_than_the_gradient():
    """One array like the logits between the passes, and it is float32 logits' alone."""
    ids = jnp.zeros(MAP, jnp.int32)

    def kept(dtype):
        logits = jnp.zeros((*MAP, 3), dtype)
        _, pull_back = jax.vjp(lambda x: _counts.softmax_sums(x, ids, None, (0, 1, 2))[0], logits)
        return [x for x in jax.tree.leaves(pull_back) if x.size == logits.size]

    assert len(kept(jnp.float32)) == 2  # the logits, which were there, and the probabilities
    assert len(kept(jnp.bfloat16)) == 1


def test_a_logit_of_minus_infinity_is_a_class_ruled_out():
    logits = jnp.array([[0.5, -jnp.inf, 1.0], [2.0, -jnp.inf, 0.0]])
    counts, surprise = _counts.softmax_sums(logits, jnp.array([0, 2]), None, (0,))
    want, both = _counts.softmax_sums(logits[:, ::2], jnp.array([0, 1]), None, (0,))
    np.testing.assert_allclose(counts.tp[::2], want.tp, rtol=1e-6)
    np.testing.assert_allclose(surprise[::2], both, rtol=1e-6)
    assert counts.fp[1] == 0 and surprise[1] == 0
