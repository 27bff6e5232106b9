"""Lovász losses: the errors of all pixels, each weighted by its place in their order."""

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
    weights: ArrayLike | None = None,
    axis: Axis = None,
) -> Array:
    r"""Lovász hinge loss per class: a convex extension of the IoU of masks.

    .. math:: \sum_i \max(m_{\pi_i}, 0)\,(\Delta_i - \Delta_{i-1}), \quad
              m = 1 - (2 g - 1)\,x

    with the errors m in descending order, and :math:`\Delta_i` the Jaccard loss if only the first i
    pixels are wrong.

    Args:
      logits: float ``[..., C]``; each class is a mask by itself.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``; a float of 0.5
        or more is the class.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``: the sizes of the
        pixels in the Jaccard loss.
      axis: axes of the label map whose pixels are sorted together; None is all axes, the batch
        included.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]``, 0 or more, without an upper bound.

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
      The order of equal errors changes the gradient, not the value. In the body of a ``shard_map``,
      each device sorts only the pixels that it holds.
    """
    pixels = as_pixels(logits, labels, "sigmoid", where, weights, axis)
    return _lovasz("hinge", pixels)[0]


def lovasz_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    classes: Literal["present", "all"] = "present",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
) -> Array:
    r"""Lovász softmax loss: a convex extension of the mean IoU, in the probabilities.

    .. math:: \frac{1}{|\mathcal C|} \sum_{c \in \mathcal C} \sum_i m^c_{\pi_i}
              (\Delta_i - \Delta_{i-1}), \quad m^c = \lvert g_c - p_c \rvert

    with the errors m of a class in descending order, and :math:`\Delta_i` the Jaccard loss if only
    the first i pixels are wrong.

    Args:
      logits: float ``[..., C]``; probabilities if ``activation`` is None.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``; a float of 0.5
        or more is the class.
      activation: "softmax" (C > 1), "sigmoid" or None.
      classes: "present" for the mean over the classes in the labels, "all" for that over all.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``: the sizes of the
        pixels in the Jaccard loss.
      axis: axes of the label map whose pixels are sorted together; None is all axes, the batch
        included, and ``(1, 2)`` sorts each image by itself.

    Returns:
      Float32 (float64 for float64 logits) ``[...]`` in [0, 1]: the class axis is averaged. If no
      class is present, it is the mean over all, so that false positives cost something.

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
      The order of equal errors changes the gradient, not the value. The authors' code compares
      ``classes`` by identity, so a string that is made at run time is not recognised, and it
      returns an empty tensor if all pixels are ignored.
    """
    if classes not in ("present", "all"):
        raise ValueError(f"classes must be 'present' or 'all', got {classes!r}.")
    pixels = as_pixels(logits, labels, activation, where, weights, axis)
    losses, present = _lovasz(activation, pixels)
    if classes == "all":
        return losses.mean(-1)
    counted = present | ~present.any(-1, keepdims=True)
    return jnp.where(counted, losses, 0).sum(-1) / counted.sum(-1).astype(losses.dtype)


def _lovasz(error_kind: str | None, pixels: Pixels) -> tuple[Array, Array]:
    arrays = pixels.scores, pixels.labels, pixels.where, pixels.weights
    return _lovasz_of_arrays(error_kind, *arrays, pixels.axes)


@partial(jax.jit, static_argnums=(0, 5))
def _lovasz_of_arrays(
    error_kind: str | None,
    scores: Array,
    labels: Array,
    where: Array | None,
    weights: Array | None,
    axes: tuple[int, ...],
) -> tuple[Array, Array]:
    """The Lovász extension of the Jaccard loss per class, and whether the class is present.

    ``error_kind`` is "hinge", or the activation whose probabilities are compared with the truth.
    The slope of an error depends only on the order of the errors, so it has no gradient.
    """
    scores = uncut(scores, (scores.ndim - 1,))  # the classes are taken one by one
    activation = None if error_kind == "hinge" else error_kind
    pixels = Pixels(scores, labels, where, axes, activation, None, weights)
    sizes = None if weights is None else pixels.weigh(jnp.ones(scores.shape[:-1], jnp.float32))

    def errors(scores: Array) -> Array:
        given = pixels._replace(scores=scores)
        if error_kind == "hinge":
            x = given.logits()
            values = jnp.maximum(1 - jnp.where(pixels.masks(), x, -x), 0)
        else:
            p = given.probs()
            values = jnp.where(pixels.masks(), 1 - p, p)
        return masked(values, where)

    truth = pixels.masks  # computed wherever it is needed: comparing is cheaper than an array
    fixed_errors = lax.stop_gradient(errors(scores))

    def sort_class(c: Array, slopes: Array) -> Array:
        e = lax.dynamic_index_in_dim(fixed_errors, c, -1, keepdims=False)
        s = _slopes(e, truth()[..., c], where, sizes, axes)
        s = placed_as(s, jax.typeof(e).sharding.spec)
        return lax.dynamic_update_index_in_dim(slopes, s, c, -1)

    # One class at a time, written in place into zeros that are sharded like the errors.
    zeros = jnp.where(False, fixed_errors, 0)
    slopes = lax.fori_loop(0, scores.shape[-1], sort_class, zeros)
    weighted_sum = jax.checkpoint(lambda scores: sum_axis_by_axis(slopes * errors(scores), axes))
    return weighted_sum(scores), truth().any(axes)


def _slopes(
    errors: Array,
    truth: Array,
    where: Array | None,
    sizes: Array | None,
    axes: tuple[int, ...],
) -> Array:
    """How much each error of one class adds to the Jaccard loss, in descending order."""
    batch_axes = tuple(a for a in range(errors.ndim) if a not in axes)
    order = (*batch_axes, *axes)
    shape = tuple(errors.shape[a] for a in order)

    def rows(x: Array) -> Array:
        return uncut(x, axes).transpose(order).reshape(*shape[: len(batch_axes)], -1)

    function = _row_slopes
    for _ in batch_axes:
        function = jax.vmap(function)
    valid = jnp.ones_like(truth) if where is None else where
    sizes = None if sizes is None else rows(sizes.astype(errors.dtype))
    slopes = function(rows(errors), rows(truth), rows(valid), sizes)
    return slopes.reshape(shape).transpose([order.index(a) for a in range(len(order))])


def _row_slopes(errors: Array, truth: Array, valid: Array, sizes: Array | None) -> Array:
    """Slopes ``[n]`` for errors ``[n]`` that are sorted together; 0 where not valid.

    The ``sizes`` of the pixels are their weights, 0 where not valid; None is 1 for all.
    """
    key = jnp.where(valid, -errors, jnp.inf)  # masked pixels last
    n, given = errors.shape[0], () if sizes is None else (sizes,)
    operands = (key, jnp.arange(n), truth, valid, *given)
    _, order, hit, counted, *sorted_sizes = lax.sort(operands, num_keys=1)
    # The differences of Jaccard losses in closed form, since a subtraction loses digits. A miss
    # leaves the union as it is, and a false positive adds its pixel to it.
    if sizes is None:
        size = truth.sum(dtype=jnp.int32)
        false_positives = jnp.cumsum((counted & ~hit).astype(jnp.int32))
        overlap = size - jnp.cumsum((counted & hit).astype(jnp.int32))
        union = (size + false_positives).astype(errors.dtype)
        first = union == 1  # the union was empty before
        overlap = overlap.astype(errors.dtype)
        false_positive = jnp.where(first, 1, overlap / jnp.where(first, 1, union * (union - 1)))
        slopes = jnp.where(hit, 1 / jnp.maximum(union, 1), false_positive)
    else:
        (w,) = sorted_sizes
        size = jnp.where(truth, sizes, 0).sum()
        overlap = jnp.maximum(size - jnp.cumsum(jnp.where(hit, w, 0)), 0)
        union = size + jnp.cumsum(jnp.where(hit, 0, w))
        before = union - w
        first = before <= 0
        false_positive = jnp.where(first, 1, w * overlap / jnp.where(first, 1, union * before))
        slopes = jnp.where(hit, w / jnp.where(union > 0, union, 1), false_positive)
    slopes = jnp.where(counted, slopes, 0)
    return jnp.zeros_like(errors).at[order].set(slopes, unique_indices=True)
