"""Probabilities of logits, their logarithms, and the derivative of both in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Probs(NamedTuple):
    """Probabilities p and 1 - p of the classes, and the logarithms of both."""

    log_p: Array
    p: Array
    log_q: Array
    q: Array


Names = tuple[str, ...]  # of mesh axes that cut the classes

LEAST = -1e30  # the logarithm of a class that a logit of -inf switches off: finite, so that
# products with a truth of 0 are 0


def activate(x: Array, activation: str | None, class_axis: int = -1, names: Names = ()) -> Probs:
    """Probabilities of logits, or of themselves without an activation.

    "two classes" are those of one logit: "not it" and "it". (A softmax of 0 and x would lose what
    is below 6e-8.) Where ``names`` cut the classes, a softmax is over those of all devices.
    """
    if activation == "softmax":
        top = lax.stop_gradient(x.max(class_axis, keepdims=True))
        x = x - (lax.pmax(top, names) if names else top)
        total = jnp.exp(x).sum(class_axis, keepdims=True)
        log_p = x - jnp.log(lax.psum(total, names) if names else total)
        # Last, and no maximum: earlier ones keep two more arrays of the logits' size (seen on JAX
        # 0.10; tests/test_pixel_sums.py has the temporaries of losses of maps).
        log_p = jnp.where(log_p < LEAST, LEAST, log_p)
    elif activation is None:
        return Probs(jnp.log(x), x, jnp.log1p(-x), 1 - x)
    else:
        if activation == "two classes":
            x = jnp.concatenate([-x, x], class_axis)
        x = jnp.clip(x, LEAST, -LEAST)
        p = jax.nn.sigmoid(x)
        return Probs(jax.nn.log_sigmoid(x), p, jax.nn.log_sigmoid(-x), 1 - p)
    p = jnp.exp(log_p)
    return Probs(log_p, p, jnp.log1p(-p), 1 - p)


def pull_back(
    cotangents: Probs,
    probs: Probs,
    activation: str | None,
    class_axis: int,
    sum_classes: Callable[[Array], Array],
) -> Array:
    """The cotangent of the logits, from those of their ``Probs``.

    A softmax's derivative needs one sum over the classes, which ``sum_classes`` takes.
    """
    log_p, p, log_q, q = cotangents
    if activation == "sigmoid":
        return probs.q * log_p - probs.p * log_q + probs.p * probs.q * (p - q)
    change = log_p + probs.p * (p - q)
    if activation == "softmax":
        return change - probs.p * sum_classes(change)
    # The softmax of the logits 0 and x, whose second 1 - p is the first p, with all its digits.
    first, second = (jnp.split(y, 2, class_axis) for y in (probs.p, change))
    return first[0] * second[1] - first[1] * second[0]
