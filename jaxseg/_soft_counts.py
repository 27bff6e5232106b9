"""Differentiable counts of probabilities against labels: what region losses read."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxseg._checks import Axis
from jaxseg._counts import Counts
from jaxseg._kernels.plain import Pixel
from jaxseg._pixel_sums import pixel_sums
from jaxseg._pixels import as_pixels

__all__ = ["soft_counts"]


def soft_counts(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
) -> Counts:
    r"""Differentiable counts per class of probabilities against labels: what region losses read.

    .. math:: tp_c = \sum p_c g_c, \quad fp_c = \sum p_c (1 - g_c), \quad
              fn_c = \sum (1 - p_c) g_c, \quad tn_c = \sum (1 - p_c)(1 - g_c)

    With an ``activation``, ``probs`` are logits, and the softmax or sigmoid is taken inside, block
    by block, forward and backward, in a small fraction of the logits' memory. That path has no pure
    forward mode (``jax.jvp``, ``jax.jacfwd``); ``soft_counts(jax.nn.softmax(logits), labels)`` has.

    Args:
      probs: float ``[..., C]``: probabilities, or logits if ``activation`` is given.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` (one-hot, soft,
        multi-label).
      activation: None, "softmax" (over the classes, C > 1) or "sigmoid" (of each class by itself).
      where: bool ``[...]``; False pixels do not count, whatever they hold, NaN included.
        Without a softmax also ``[..., C]``: which classes of a pixel count.
      weights: float ``[...]``, or 1 along axes that share a weight (``[B, 1, 1]``: one per image);
        without a softmax also ``[..., C]``. They multiply what a pixel adds to the sums, are finite
        and 0 or more, and have no gradient; 0 is as ``where=False``.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.

    Returns:
      ``Counts`` of float32 (float64 for float64 input) ``[..., C]``; half precision is summed in
      float32. A NaN in a valid pixel makes the counts NaN.

    Raises:
      ValueError: shapes that do not fit, an unknown ``activation``, a softmax over one class,
        ``axis`` out of range, an empty map.
      TypeError: probabilities that are not floating point, float ids, ``where`` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> probs = jnp.array([[0.75, 0.25], [0.5, 0.5]])
      >>> jaxseg.soft_counts(probs, jnp.array([0, 1])).tp.tolist()
      [0.75, 0.5]
      >>> logits = jnp.array([[2.0], [-2.0]])
      >>> c = jaxseg.soft_counts(logits, jnp.array([1, 0]), activation="sigmoid")
      >>> jaxseg.dice(c).tolist()
      [0.8808]

    Note:
      Optax's and MONAI's Dice overflow in float16; SMP can compute the intersection by subtraction,
      which loses small objects to rounding.
    """
    pixels = as_pixels(probs, labels, activation, where, weights, axis, by_class=True)
    c = pixel_sums(counts_of, pixels)
    # XLA may simplify NaN * 0 to 0, so a NaN can reach only one of tp and fp. Spread it to all.
    nan = c.tp + c.fp
    nan = jnp.where(jnp.isnan(nan), nan, 0)
    return Counts(*(x + nan for x in c))


def counts_of(x: Pixel) -> Counts:
    """What one pixel adds to the soft counts."""
    return Counts(tp=x.inside(x.p), fp=x.outside(x.p), fn=x.inside(x.q), tn=x.outside(x.q))


def squared_counts_of(x: Pixel) -> Counts:
    """Counts for which ``2 tp + fp + fn`` is sum p^2 + sum g^2."""
    half = (x.p - x.g) ** 2 / 2
    return Counts(tp=x.inside(x.p), fp=half, fn=half, tn=0 * x.p)


def minimum_counts_of(x: Pixel) -> Counts:
    """Counts for which tp is sum min(p, g)."""
    p, g = x.p, x.g
    excess, hard = p - g, (g == 0) | (g == 1)
    # At p = g the minimum has no derivative, so one is chosen. For hard labels it is that of the
    # product, as if tp were p g. For soft labels fp and fn have a derivative of 0, so that the loss
    # has one of 0 at its minimum.
    slope = lax.stop_gradient(g)
    tied = excess == 0
    fp = jnp.where(tied, jnp.where(hard, 1 - slope, 0) * excess, jnp.maximum(excess, 0))
    fn = jnp.where(tied, jnp.where(hard, -slope, 0) * excess, jnp.maximum(-excess, 0))
    tp = jnp.where(tied, slope * p + (1 - slope) * g, jnp.minimum(p, g))
    return Counts(tp=tp, fp=fp, fn=fn, tn=0 * p)
