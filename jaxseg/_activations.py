"""Probabilities from logits, their logarithms, and the derivative of both in closed form."""

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


Names = tuple[str, ...]  # the names of the mesh axes that cut the classes

# The log p of a class that a logit of -inf switches off: finite, so that 0 times it is 0.
LEAST = -1e30
# Logarithms of given probabilities p and 1 - p are those of this number or more.
LEAST_P = 1e-7


def activate(x: Array, activation: str | None, class_axis: int = -1, names: Names = ()) -> Probs:
    """Probabilities from logits; without an activation, ``x`` has the probabilities themselves.

    "two classes" makes "not it" and "it" from one logit x. (A softmax of 0 and x would round 1 - p
    to 0 below 6e-8.) If ``names`` cut the classes, a softmax is over those of all devices.
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
        # The values are clipped and the derivatives stay, so that an error is pushed back.
        high = x + lax.stop_gradient(jnp.maximum(x, LEAST_P) - x)
        low = x + lax.stop_gradient(jnp.minimum(x, 1 - LEAST_P) - x)
        return Probs(jnp.log(high), x, jnp.log1p(-low), 1 - x)
    else:
        if activation == "two classes":
            x = jnp.concatenate([-x, x], class_axis)
        x = jnp.clip(x, LEAST, -LEAST)
        p = jax.nn.sigmoid(x)
        return Probs(jax.nn.log_sigmoid(x), p, jax.nn.log_sigmoid(-x), 1 - p)
    p = jnp.exp(log_p)
    return Probs(log_p, p, jnp.log1p(-p), 1 - p)


def switched_off(log_p: Array) -> Array:
    """Whether the class has a logit of -inf."""
    return log_p < LEAST / 2


def sigmoid_of(x: Array, once: Callable[[Array], Array] = lambda x: x) -> Probs:
    """The sigmoid of each logit, from one exponential; ``once`` marks what has several uses."""
    x = jnp.clip(x, LEAST, -LEAST)
    exp = once(jnp.exp(-jnp.abs(x)))
    p = once(jnp.where(x >= 0, 1, exp) / (1 + exp))
    log1p = once(jnp.log1p(exp))
    return Probs(jnp.minimum(x, 0) - log1p, p, -jnp.maximum(x, 0) - log1p, 1 - p)


def log_p_cotangent(cotangents: Probs, probs: Probs) -> Array:
    """The cotangent of log p, on which the others depend."""
    log_p, p, log_q, q = cotangents
    log_q = jnp.where(log_q == 0, 0, log_q / probs.q)  # q can be 0 where no term reads its log
    return log_p + probs.p * (p - q - log_q)


def pull_back(
    cotangents: Probs,
    probs: Probs,
    activation: str | None,
    class_axis: int,
    sum_classes: Callable[[Array], Array],
) -> Array:
    """The cotangent of the logits, from the cotangents of their ``Probs``.

    The derivative of a softmax needs one sum over the classes, which ``sum_classes`` computes.
    """
    if activation == "softmax":
        d_log_p = log_p_cotangent(cotangents, probs)
        return d_log_p - probs.p * sum_classes(d_log_p)
    log_p, p, log_q, q = cotangents
    # Of two classes, the other one's p is 1 - p with all its digits.
    probs_q = probs.q if activation == "sigmoid" else jnp.flip(probs.p, class_axis)
    d_x = probs_q * log_p - probs.p * log_q + probs.p * probs_q * (p - q)
    if activation == "sigmoid":
        return d_x
    first, second = jnp.split(d_x, 2, class_axis)  # of -x and of x
    return second - first
