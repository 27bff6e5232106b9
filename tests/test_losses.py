"""Losses at the edges: half precision of large maps, and arguments that break a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import ALL_LOSSES, TABLE, accepted

import jaxseg

NEEDS = {"generalized_wasserstein_dice_loss": {"distances": 1.0 - np.eye(2)}}
# Of logits, not of features.
EVERY = [name for name, row in TABLE.items() if row.kind in ALL_LOSSES and not row.data]
EVERY_TIME = ("dice_loss", "dice_ce_loss", "top_k_loss", "lovasz_softmax_loss", "boundary_loss")


def mean_loss(name, classes=2):
    """The mean of a loss as a function of logits and labels."""
    function = getattr(jaxseg, name)
    given = accepted(function, {"activation": "sigmoid" if classes == 1 else "softmax"})
    return lambda x, labels, **k: function(x, labels, **given, **NEEDS.get(name, {}), **k).mean()


some_losses = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EVERY_TIME else pytest.mark.slow) for n in EVERY]
)


@some_losses
def test_half_precision_of_a_512_plane_is_within_a_percent_of_float64(name):
    rng = np.random.default_rng(4)
    blobs = np.kron(rng.integers(0, 2, (1, 16, 16)), np.ones((1, 32, 32), int))
    x = rng.standard_normal((1, 512, 512, 2)) + 2.0 * reference.one_hot(blobs, 2)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jnp.asarray(x, dtype)
        with jax.enable_x64(True):
            expected = jax.jit(mean_loss(name))(np.asarray(half, np.float64), blobs)
        value, gradient = jax.jit(jax.value_and_grad(mean_loss(name)))(half, jnp.asarray(blobs))
        assert gradient.dtype == dtype
        assert jnp.isfinite(gradient.astype(jnp.float32)).all()
        np.testing.assert_allclose(value, expected, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda x, y: jaxseg.dice_loss(x, y, overlap="max"), "'product', 'squared', 'minimum'"),
        (lambda x, y: jaxseg.top_k_loss(x, y, fraction=0.0), "fraction must be in"),
        (lambda x, y: jaxseg.ohem_loss(x, y, min_kept=0), "at least 1"),
        (lambda x, y: jaxseg.nacl_loss(x, y, kernel_size=2), "kernel_size odd"),
        (lambda x, y: jaxseg.nacl_loss(x, y, kernel="mean"), "kernel must be one of 'uniform'"),
        (lambda x, y: jaxseg.nacl_loss(x, y, sigma=0.0), "sigma must be above 0"),
        (lambda x, y: jaxseg.lovasz_softmax_loss(x, y, classes="some"), "'present' or 'all'"),
        (lambda x, y: jaxseg.boundary_loss(x, y, spacing=(1.0, 2.0, 3.0)), "one for each of 2"),
        (lambda x, y: jaxseg.boundary_loss(x, y, spacing=-1.0), "must be positive"),
        (lambda x, y: jaxseg.boundary_loss(x, y, distances=x[..., 0]), "shape of logits"),
        (lambda x, y: jaxseg.boundary_loss(x, y, spatial_axes=(5,)), "out of range"),
        (lambda x, y: jaxseg.boundary_loss(x[0, 0], y[0, 0]), "Space needs an axis"),
        (lambda x, y: jaxseg.hausdorff_erosion_loss(x, y, erosions=0), "at least 1"),
        (lambda x, y: jaxseg.cldice_loss(x, y, iterations=-1), "at least 0"),
        (
            lambda x, y: jaxseg.generalized_wasserstein_dice_loss(x, y, distances=jnp.eye(2)),
            r"distances must be \[C, C\]",
        ),
        (lambda x, y: jaxseg.softmax_focal_loss(x, y, alpha=jnp.ones(2)), r"shape \(3,\)"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_ce_loss)([], y), "needs a weight"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_ce_loss, [-1.0]), "0 or more"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_ce_loss)([x], y[0]), "cannot be resized"),
        (lambda x, y: jaxseg.distance_transform(y[0] == 0, spacing=0.0), "must be positive"),
    ],
)
def test_bad_arguments_name_the_rule(call, rule):
    x, y = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4), int)
    with pytest.raises(ValueError, match=rule):
        call(x, y)
    with pytest.raises(ValueError, match=rule):
        jax.jit(call)(x, y)
