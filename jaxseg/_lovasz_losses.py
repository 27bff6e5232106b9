"""Lovász losses: the errors of all pixels, weighted by their order."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg._checks import Axis
from jaxseg._labels import masked
from jaxseg._numerics import sum_axis_by_axis
from jaxseg._pixels import Pixels, as_pixels
from jaxseg._sharding import placed_as, uncut

__all__ = ["lovasz_hinge_loss", "lovasz_softmax_loss"]


def lovasz_hinge_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis: Axis = None,
) -> Array:
    r"""Lovász hinge loss per class: a convex extension of the IoU of masks.

    .. math:: \sum_i \max(m_{\pi_i}, 0)\,(\Delta_i - \Delta_{i-1}), \quad
              m = 1 - (2 g - 1)\,x

    with the errors m in falling order, and :math:`\Delta_i` the Jaccard loss when the first i
    pixels are wrong.

    Args:
      logits: float ``[..., C]``; each class is a mask by itself.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``, of which 0.5 or
        more is the class.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map of which the pixels are ordered together; None is all axes, the
        batch included.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]``, 0 or more, not bounded.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-0.5], [0.5]]), jnp.array([1, 0, 1])
      >>> jaxseg.lovasz_hinge_loss(logits, masks).mean().item()
      0.3333

    References:
      M. Berman, A. R. Triki and M. B. Blaschko, "The Lovász-softmax loss", 2018.

    Note:
      The gradient depends on the order of equal errors, the value does not. Pixels of other devices
      cannot be ordered in a ``shard_map`` body: each device orders its own.
    """
    pixels = as_pixels(logits, labels, "sigmoid", where, axis)
    return _lovasz("hinge", pixels.scores, pixels.labels, pixels.where, pixels.axes)[0]


def lovasz_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    classes: Literal["present", "all"] = "present",
    where: ArrayLike | None = None,
    axis: Axis = None,
) -> Array:
    r"""Lovász softmax loss: a convex extension of the mean IoU, in the probabilities.

    .. math:: \frac{1}{|\mathcal C|} \sum_{c \in \mathcal C} \sum_i m^c_{\pi_i}
              (\Delta_i - \Delta_{i-1}), \quad m^c = \lvert g_c - p_c \rvert

    with the errors m of a class in falling order, and :math:`\Delta_i` the Jaccard loss when the
    first i pixels are wrong.

    Args:
      logits: float ``[..., C]``; probabilities if ``activation`` is None.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``, of which 0.5 or
        more is the class.
      activation: "softmax" (C > 1), "sigmoid" or None.
      classes: "present": the mean over the classes that are in the labels; "all": over all.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map of which the pixels are ordered together; None is all axes, the
        batch included, ``(1, 2)`` is each image by itself.

    Returns:
      Float32 (float64 for float64 logits) ``[...]`` in [0, 1]: the class axis is averaged. If no
      class is present, the mean over all: false positives cost something.

    Raises:
      ValueError, TypeError: as ``soft_counts``; other ``classes``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> probs = jnp.array([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.5, 0.5, 0.0]])
      >>> labels = jnp.array([0, 1, 0])
      >>> jaxseg.lovasz_softmax_loss(probs, labels, activation=None).tolist()
      0.4167

    References:
      M. Berman, A. R. Triki and M. B. Blaschko, "The Lovász-softmax loss", 2018.

    Note:
      The gradient depends on the order of equal errors, the value does not. The authors' code takes
      a name of ``classes`` made at run time for another, and returns an empty tensor when all
      pixels are ignored.
    """
    if classes not in ("present", "all"):
        raise ValueError(f"classes must be 'present' or 'all', got {classes!r}.")
    pixels = as_pixels(logits, labels, activation, where, axis)
    losses, present = _lovasz(activation, pixels.scores, pixels.labels, pixels.where, pixels.axes)
    if classes == "all":
        return losses.mean(-1)
    counted = present | ~present.any(-1, keepdims=True)
    return jnp.where(counted, losses, 0).sum(-1) / counted.sum(-1).astype(losses.dtype)


@partial(jax.jit, static_argnums=(0, 4))
def _lovasz(
    error: str | None,
    scores: Array,
    labels: Array,
    where: Array | None,
    axes: tuple[int, ...],
) -> tuple[Array, Array]:
    """Lovász extension of the Jaccard loss of each class, and whether the class is present.

    ``error`` is that of a pixel: "hinge", or the distance of its probability from the truth, by the
    name of the activation. The weight of an error depends on the order alone, so it has no
    gradient.
    """
    scores = uncut(scores, (scores.ndim - 1,))  # the classes are taken one by one
    pixels = Pixels(scores, labels, where, axes, None if error == "hinge" else error, None)

    def errors(scores: Array) -> Array:
        given = pixels._replace(scores=scores)
        if error == "hinge":
            x = given.logits()
            values = jnp.maximum(1 - jnp.where(pixels.masks(), x, -x), 0)
        else:
            p = given.probs()
            values = jnp.where(pixels.masks(), 1 - p, p)
        return masked(values, where)

    truth = pixels.masks  # anew wherever it is needed: a comparison is cheaper than an array
    now = lax.stop_gradient(errors(scores))

    def sort_class(c: Array, weights: Array) -> Array:
        e = lax.dynamic_index_in_dim(now, c, -1, keepdims=False)
        w = _order_weights(e, truth()[..., c], where, axes)
        w = placed_as(w, jax.typeof(e).sharding.spec)
        return lax.dynamic_update_index_in_dim(weights, w, c, -1)

    # One class at a time, in place; from a select of zeros, which is sharded as the errors are.
    weights = lax.fori_loop(0, scores.shape[-1], sort_class, jnp.where(False, now, 0))
    total = jax.checkpoint(lambda scores: sum_axis_by_axis(weights * errors(scores), axes))
    return total(scores), truth().any(axes)


def _order_weights(
    errors: Array, truth: Array, where: Array | None, axes: tuple[int, ...]
) -> Array:
    """The rise of the Jaccard loss with each error of one class, in falling order."""
    batch_axes = tuple(a for a in range(errors.ndim) if a not in axes)
    order = (*batch_axes, *axes)
    shape = tuple(errors.shape[a] for a in order)

    def rows(x: Array) -> Array:
        return uncut(x, axes).transpose(order).reshape(*shape[: len(batch_axes)], -1)

    function = _row_weights
    for _ in batch_axes:
        function = jax.vmap(function)
    valid = jnp.ones_like(truth) if where is None else where
    weights = function(rows(errors), rows(truth), rows(valid))
    return weights.reshape(shape).transpose([order.index(a) for a in range(len(order))])


def _row_weights(errors: Array, truth: Array, valid: Array) -> Array:
    """Weights ``[n]`` of the errors ``[n]`` of one class in one set of pixels; 0 if not valid."""
    key = jnp.where(valid, -errors, jnp.inf)  # the masked ones last
    n = errors.shape[0]
    _, order, hit, counted = lax.sort((key, jnp.arange(n), truth, valid), num_keys=1)
    size = truth.sum(dtype=jnp.int32)
    false = jnp.cumsum((counted & ~hit).astype(jnp.int32))
    left = size - jnp.cumsum((counted & hit).astype(jnp.int32))
    union, left = (size + false).astype(errors.dtype), left.astype(errors.dtype)
    # A difference of two Jaccard losses would lose its digits; these are the differences written
    # out: a missed pixel leaves the union as it is, a false one makes it larger.
    first = union == 1  # the union was empty before
    rise = jnp.where(first, 1, left / jnp.where(first, 1, union * (union - 1)))
    weights = jnp.where(hit, 1 / jnp.maximum(union, 1), rise)
    weights = jnp.where(counted, weights, 0)
    return jnp.zeros_like(errors).at[order].set(weights, unique_indices=True)
