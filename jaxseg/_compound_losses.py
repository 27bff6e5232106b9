"""Compound losses: a pixel loss and a region loss in one scalar, from one read of the logits.

They return a scalar because their terms have different shapes, and they alone take class weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._blocks import blocked_sum
from jaxseg._checks import Axis, safe_divide
from jaxseg._counts import Counts, prob_counts, truth_of, valid_logits
from jaxseg._region_losses import pools_batch
from jaxseg._scores import dice


def bce_dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    bce_weight: ArrayLike = 0.5,
    dice_weight: ArrayLike = 1.0,
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Binary cross-entropy and soft Dice loss of sigmoid probabilities.

    .. math:: w_{bce} \cdot \operatorname{mean}(BCE)
              + w_{dice} \cdot \operatorname{mean}\left(1 - \frac{2\,tp + smooth}{2\,tp + fp + fn +
              smooth}\right)

    BCE is averaged over valid pixels and classes, the Dice loss over classes and, if ``axis`` keeps
    any, over images.

    Args:
      logits: float ``[..., C]``; ``[..., 1]`` for one mask.
      labels: integer or bool ids ``[...]`` (with C = 1 a mask), or dense bool or float ``[...,
        C]``. Masks of 0 and 255 must become bool, as by ``masks > 0``.
      bce_weight: weight of the cross-entropy.
      dice_weight: weight of the Dice loss.
      smooth: added to numerator and denominator of Dice.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to sum over for Dice; None pools the batch.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body over which the batch is split; the
        loss is that of the global batch.

    Returns:
      Scalar, float32 (float64 for float64 logits), never negative; 0 if no pixel counts.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-3.0], [0.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.bce_dice_loss(logits, masks).tolist()
      0.3017

    References:
      The pairing is widespread; Dice as in ``dice_loss``.

    Note:
      The Keras idiom ``0.5 * BCE - dice`` is this minus 1, with the same gradient.
    """
    logits, labels, where, axes = _checks.check_soft("logits", logits, labels, where, axis)
    counts, bce, valid = blocked_sum(_bce_dice_sums, (logits, labels, where), axes=axes)
    pixels = _global_mean(bce, valid, axis_name)
    regions = _mean_dice_loss(counts, smooth, None, pools_batch(axes, labels.ndim), axis_name)
    return pixels * bce_weight + regions * dice_weight


def dice_ce_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    dice_weight: ArrayLike = 1.0,
    ce_weight: ArrayLike = 1.0,
    class_weights: ArrayLike | None = None,
    ce_class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Soft Dice loss and cross-entropy of softmax probabilities, from one softmax.

    .. math:: w_{dice} \cdot \frac{\sum_c v_c (1 - dice_c)}{\sum_c v_c}
              + w_{ce} \cdot \frac{-\sum_{n, c} u_c\, \tilde g_{nc} \log p_{nc}}{\sum_{n, c} u_c\,
              g_{nc}}, \quad \tilde g = (1 - s)\, g + s / C

    with class weights v and u, and label smoothing s.

    Args:
      logits: float ``[..., C]``, C > 1.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` that sum to 1.
      dice_weight: weight of the Dice loss.
      ce_weight: weight of the cross-entropy.
      class_weights: ``[C]``, of the Dice loss's mean over classes; ``[0, 1, 1]`` leaves class 0
        out.
      ce_class_weights: ``[C]``, of the cross-entropy's mean over pixels: only their ratios matter.
      label_smoothing: share of each label that is spread over all classes, for the cross-entropy.
      smooth: added to numerator and denominator of Dice.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to sum over for Dice; None pools the batch, ``(1, 2)`` of
        ``[B, H, W]`` is the mean of each image's.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body over which the batch is split; the
        loss is that of the global batch.

    Returns:
      Scalar, float32 (float64 for float64 logits); 0 if no pixel counts. An id outside [0, C) has
      no part in the cross-entropy; to Dice it is a pixel of no class.

    Raises:
      ValueError, TypeError: as ``soft_counts``; class weights not of shape ``[C]``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> labels = jnp.array([[0, 0], [1, 1]])
      >>> jaxseg.dice_ce_loss(logits, labels).tolist()
      0.2175
      >>> where = jnp.array([[True, True], [True, False]])
      >>> jaxseg.dice_ce_loss(logits, labels, class_weights=[0, 1], where=where).tolist()
      0.281

    References:
      F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical
      image segmentation", Nature Methods 2021.

    Note:
      nnU-Net's value is this minus 1, its Dice being negative. The weighted cross-entropy is
      PyTorch's for ids; for dense labels PyTorch divides by the number of pixels.
    """
    logits, labels, where, axes = _checks.check_soft("logits", logits, labels, where, axis)
    num_classes = logits.shape[-1]
    _checks.check_activation("softmax", ("softmax",), num_classes)
    class_weights = _checks.check_class_weights("class_weights", class_weights, num_classes)
    ce_class_weights = _checks.check_class_weights(
        "ce_class_weights", ce_class_weights, num_classes
    )
    static_zero = isinstance(label_smoothing, int | float) and label_smoothing == 0
    smoothing = None if static_zero else _checks.at_least_float32(jnp.asarray(label_smoothing))
    counts, ce, valid = blocked_sum(
        _dice_ce_sums, (logits, labels, where), (ce_class_weights, smoothing), axes=axes
    )
    pixels = _global_mean(ce, valid, axis_name)
    regions = _mean_dice_loss(
        counts, smooth, class_weights, pools_batch(axes, labels.ndim), axis_name
    )
    return regions * dice_weight + pixels * ce_weight


def _bce_dice_sums(
    arrays: Any, _: None, axes: tuple[int, ...], class_axis: int
) -> tuple[Counts, Array, Array]:
    """Soft counts, the sum of BCE, and how many pixels times classes it is of."""
    logits, labels, where = arrays
    x = valid_logits(logits, where, class_axis)
    truth = truth_of(labels, where, x, class_axis).astype(x.dtype)
    bce = optax.sigmoid_binary_cross_entropy(x, truth)
    valid = (
        jnp.ones_like(x) if where is None else jnp.expand_dims(where, class_axis).astype(x.dtype)
    )
    counts = prob_counts(jax.nn.sigmoid(x), labels, where, axes, class_axis)
    return counts, (valid * bce).sum(axes), jnp.broadcast_to(valid, x.shape).sum(axes)


def _dice_ce_sums(
    arrays: Any, constants: Any, axes: tuple[int, ...], class_axis: int
) -> tuple[Counts, Array, Array]:
    """Soft counts, the weighted sum of the cross-entropy, and the sum of its weights."""
    logits, labels, where = arrays
    class_weights, label_smoothing = constants
    x = valid_logits(logits, where, class_axis)
    truth = truth_of(labels, where, x, class_axis).astype(x.dtype)
    smoothed = truth
    if label_smoothing is not None:
        spread = truth.mean(class_axis, keepdims=True)  # no label, nothing to spread
        smoothed = (1 - label_smoothing) * truth + label_smoothing * spread
    if class_weights is not None:
        others = tuple(a for a in range(-x.ndim, 0) if a != class_axis)
        weights = jnp.expand_dims(class_weights, others).astype(x.dtype)
        smoothed, truth = weights * smoothed, weights * truth
    ce = jnp.expand_dims(optax.softmax_cross_entropy(x, smoothed, class_axis), class_axis)
    counts = prob_counts(jax.nn.softmax(x, class_axis), labels, where, axes, class_axis)
    return counts, ce.sum(axes), truth.sum(axes)


def _global_mean(total: Array, weight: Array, axis_name: str | tuple[str, ...] | None) -> Array:
    """``total / weight`` over images and devices; 0 if nothing weighs."""
    total, weight = total.sum(), weight.sum()
    if axis_name is not None:
        total, weight = lax.psum((total, weight), axis_name)
    return safe_divide(total, weight, 0)


def _mean_dice_loss(
    counts: Counts,
    smooth: ArrayLike,
    class_weights: Array | None,
    pooled: bool,
    axis_name: str | tuple[str, ...] | None,
) -> Array:
    """The Dice loss's mean over classes and images, those on other devices included."""
    if axis_name is not None and pooled:
        counts = lax.psum(counts, axis_name)
    loss = 1 - dice(counts, smooth=smooth, zero_division=1.0)
    if class_weights is not None:
        weights = jnp.expand_dims(class_weights, tuple(range(loss.ndim - 1))).astype(loss.dtype)
        loss = safe_divide((weights * loss).sum(-1), weights.sum(), 0)
    loss = loss.mean()
    return loss if axis_name is None or pooled else lax.pmean(loss, axis_name)
