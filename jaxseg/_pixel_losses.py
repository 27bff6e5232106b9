"""Pixel losses: per pixel, or over the hardest pixels, or on all errors in their order.

A loss of each pixel is not reduced and 0 where masked. Its mean over the valid pixels, which is 0
if there are none, is ``loss.sum() / jnp.maximum(where.sum(dtype=loss.dtype), 1)``.

Optax has the plain cross-entropies, and the focal loss of a sigmoid.

With one class, ``[..., 1]``, the two classes of a pixel are "not it" and "it".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._checks import Axis, AxisName
from jaxseg._counts import activate, masks_of, truth_of, valid_logits
from jaxseg._distance import (
    Spacing,
    distances_to,
    shift,
    spacing_of_axes,
    spatial_axes_of,
)
from jaxseg._numerics import along_classes, safe_divide, safe_power, sum_in_turn
from jaxseg._region_losses import pools_batch


def cross_entropy_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_weights: ArrayLike | Sequence[float] | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of each pixel, with class weights and label smoothing.

    .. math:: -\sum_c u_c\, \tilde g_c \log p_c, \quad \tilde g = (1 - s)\, g + s / C

    Args:
      logits: float ``[..., C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      class_weights: u, ``[C]``; ``[2]`` if C is 1.
      label_smoothing: s in [0, 1], the share of each label that is spread over all classes. A class
        that is switched off, by a logit of -inf, has no part in the loss unless it is the truth.
      where: bool ``[...]``; False pixels do not count, whatever they hold.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``, 0 where masked and where the id is outside [0,
      C). PyTorch's weighted mean divides by the sum of ``u[labels]``.

    Raises:
      ValueError: shapes that do not fit, weights of another shape, an empty map.
      TypeError: logits that are not floating point, float ids, ``where`` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, labels = jnp.array([[2.0, 0.0], [1.0, -1.0], [0.0, 0.0]]), jnp.array([0, 1, 255])
      >>> where = labels != 255
      >>> loss = jaxseg.cross_entropy_loss(logits, labels, where=where)
      >>> loss.tolist()
      [0.1269, 2.1269, 0.]
      >>> (loss.sum() / jnp.maximum(where.sum(dtype=loss.dtype), 1)).tolist()
      1.1269

    Note:
      For a label of 255 Optax's loss of integer labels is NaN, and for -1 that of the last class.
    """
    x, truth, _ = _two_or_more(logits, labels, where)
    weights = _checks.check_class_weights("class_weights", class_weights, truth.shape[-1])
    return _cross_entropy(x, truth, weights, _checks.check_smoothing(label_smoothing))


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    alpha: ArrayLike | Sequence[float] | None = None,
    where: ArrayLike | None = None,
) -> Array:
    r"""Focal loss of each pixel: cross-entropy, less of it where the pixel is right already.

    .. math:: -\sum_c \alpha_c\, g_c\, (1 - p_c)^\gamma \log p_c

    Args:
      logits: float ``[..., C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      gamma: 0 is the cross-entropy; 2 in the paper. One number for all classes.
      alpha: weight of all classes, or of each: ``[C]``; ``[2]`` if C is 1, where the paper's alpha
        is ``[1 - alpha, alpha]``.
      where: bool ``[...]``; False pixels do not count, whatever they hold.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``, 0 where masked and where the id is outside [0,
      C). Finite for logits of 1e4, with gradients.

    Raises:
      ValueError, TypeError: as ``cross_entropy_loss``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, labels = jnp.array([[2.0, 0.0], [1.0, -1.0], [0.0, 0.0]]), jnp.array([0, 1, 0])
      >>> jaxseg.softmax_focal_loss(logits, labels).mean().item()
      0.6084
      >>> jaxseg.softmax_focal_loss(logits, labels).tolist()
      [0.0018, 1.65, 0.1733]

    References:
      T.-Y. Lin et al., "Focal loss for dense object detection", 2017.

    Note:
      With gamma below 1, MONAI's and Segmentation Models' gradients are NaN for confident pixels.
      MONAI multiplies the loss by the number of classes when ``ignore_index`` is given.
    """
    x, truth, _ = _two_or_more(logits, labels, where)
    alpha = None if alpha is None else weights_of_classes("alpha", alpha, truth.shape[-1])
    return _focal(x, truth, alpha, _checks.check_scalar("gamma", gamma))


def nacl_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike = 0.1,
    kernel_size: int = 3,
    distance: Literal["l1", "l2"] = "l1",
    spatial_axes: tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
) -> Array:
    r"""Neighbour-aware calibration loss: cross-entropy, and logits drawn to the neighbours' shares.

    .. math:: -\log p_{n, g_n} + \frac{w}{C} \sum_c \lvert \tau_{nc} - x_{nc} \rvert, \quad
              \tau_{nc} = \frac{1}{K} \sum_{m \in \mathcal{N}(n)} g_{mc}

    with x the logits and N the K pixels of a cube around pixel n; pixels outside the image and
    masked ones have no class.

    Args:
      logits: float ``[batch, *space, C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[batch, *space]``, or dense bool or float ``[batch, *space,
        C]``.
      weight: w, of the penalty.
      kernel_size: side of the cube, odd; static.
      distance: "l1" as printed, or "l2" for the square.
      spatial_axes: axes of the label map that are space, a tuple; None: all but the first, of three
        axes or more. One image ``[H, W]``, as in ``jax.vmap`` over images, needs ``(0, 1)``, and
        one volume ``[D, H, W]`` needs ``(0, 1, 2)``.
      where: bool ``[...]``; False pixels do not count, whatever they hold.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``, 0 where masked.

    Raises:
      ValueError, TypeError: as ``cross_entropy_loss``; another ``distance``, a kernel of an even
        size or none, a map of two axes without ``spatial_axes``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[[2.0, 0.0], [1.0, -1.0], [0.0, 0.0]]]])  # [1, 1, 3, C]
      >>> labels = jnp.array([[[0, 0, 1]]])
      >>> jaxseg.nacl_loss(logits, labels).mean().item()
      0.3805
      >>> jaxseg.nacl_loss(logits, labels).tolist()
      [[[0.2158, 0.2214, 0.7043]]]

    References:
      B. Murugesan et al., "Trust your neighbours: penalty-based constraints for model
      calibration", 2023.
    """
    kernel_size = _checks.check_static_integer("kernel_size", kernel_size, 1, 2**31)
    if distance not in ("l1", "l2") or kernel_size % 2 == 0:
        raise ValueError(
            f"distance must be 'l1' or 'l2' and kernel_size odd; got {distance!r}, {kernel_size}."
        )
    x, truth, mask = _two_or_more(logits, labels, where)
    axes = spatial_axes_of(spatial_axes, mask.ndim)
    shares = _neighbour_shares(truth, axes, kernel_size)

    weight = _checks.check_scalar("weight", weight).astype(x.dtype)
    penalty = _penalty(x, shares.astype(x.dtype), mask, distance)
    return _cross_entropy(x, truth, None, None) + penalty * weight


def top_k_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    fraction: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Top-k cross-entropy: the mean over the hardest pixels.

    .. math:: \frac{1}{k} \sum_{n \in \text{k largest}} CE_n, \quad
              k = \max(1, \lfloor fraction \cdot N \rfloor)

    with N the number of valid pixels.

    Args:
      logits: float ``[..., C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      fraction: share of the valid pixels, in (0, 1].
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to choose among; None chooses among all, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body over which the batch is split; the
        hardest pixels are those of the global batch.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``: a scalar if ``axis`` is None. Of pixels that
      are equally hard at the limit, each has an equal part.

    Raises:
      ValueError, TypeError: as ``cross_entropy_loss``; a ``fraction`` that is not in (0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, labels = jnp.array([[2.0, 0.0], [1.0, -1.0], [0.0, 0.0]]), jnp.array([0, 1, 0])
      >>> jaxseg.top_k_loss(logits, labels, fraction=0.7).tolist()  # two of three
      1.41

    References:
      Z. Wu, C. Shen and A. van den Hengel, "Bridging category-level and instance-level semantic
      image segmentation", 2016.
    """
    fraction = _checks.check_scalar("fraction", fraction, "in (0, 1]", lambda x: 0 < x <= 1)
    axes, losses, valid, axis_name = _losses_of_pixels(logits, labels, where, axis, axis_name)
    pixels = _global_sum(valid.astype(jnp.int32), axes, axis_name)
    count = jnp.floor(pixels.astype(losses.dtype) * fraction.astype(losses.dtype)).astype(jnp.int32)
    return _mean_of_largest(losses, valid, jnp.maximum(count, 1), axes, axis_name)


def ohem_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: ArrayLike = 0.7,
    min_kept: int = 100_000,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Online hard example mining: mean cross-entropy over the pixels not yet predicted well.

    .. math:: \frac{1}{k} \sum_{n \in \text{k largest}} CE_n, \quad
              k = \max\left(\lvert \{n : p_{n, g_n} < threshold\} \rvert, \min(min\_kept, N)\right)

    Args:
      logits: float ``[..., C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      threshold: probability of the true class below which a pixel is hard.
      min_kept: at least so many pixels are kept, where there are so many.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to choose among; None chooses among all, the batch included.
      axis_name: as in ``top_k_loss``.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``: a scalar if ``axis`` is None.

    Raises:
      ValueError, TypeError: as ``cross_entropy_loss``; ``min_kept`` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, labels = jnp.array([[2.0, 0.0], [1.0, -1.0], [0.0, 0.0]]), jnp.array([0, 1, 0])
      >>> jaxseg.ohem_loss(logits, labels, min_kept=1).tolist()  # the last two
      1.41

    References:
      A. Shrivastava, A. Gupta and R. Girshick, "Training region-based object detectors with online
      hard example mining", 2016; per pixel as in semantic segmentation code since.
    """
    min_kept = min(_checks.check_static_integer("min_kept", min_kept, 1), 2**31 - 1)
    threshold = _checks.check_scalar("threshold", threshold, "in [0, 1]", lambda x: 0 <= x <= 1)
    axes, losses, valid, axis_name = _losses_of_pixels(logits, labels, where, axis, axis_name)
    hard = valid & (losses > -jnp.log(threshold.astype(losses.dtype)))
    pixels = _global_sum(valid.astype(jnp.int32), axes, axis_name)
    count = jnp.maximum(
        _global_sum(hard.astype(jnp.int32), axes, axis_name), jnp.minimum(pixels, min_kept)
    )
    return _mean_of_largest(losses, valid, jnp.maximum(count, 1), axes, axis_name)


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
    logits, labels, where, axes = _checks.check_soft("logits", logits, labels, where, axis)
    return _lovasz("hinge", logits, labels, where, axes)[0]


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
    logits, labels, where, axes = _checks.check_soft("logits", logits, labels, where, axis)
    _checks.check_activation(activation, (None, "softmax", "sigmoid"), logits.shape[-1])

    losses, present = _lovasz(activation, logits, labels, where, axes)
    if classes == "all":
        return losses.mean(-1)
    counted = present | ~present.any(-1, keepdims=True)
    return jnp.where(counted, losses, 0).sum(-1) / counted.sum(-1).astype(losses.dtype)


def border_weights(
    instances: ArrayLike,
    *,
    border_weight: ArrayLike = 10.0,
    sigma: ArrayLike = 5.0,
    spacing: Spacing = 1.0,
) -> Array:
    r"""Weights that rise between neighbouring instances: the border weights of U-Net.

    .. math:: w_0 \exp\left(-\frac{(d_1 + d_2)^2}{2 \sigma^2}\right)

    with the distances of a pixel to the nearest and to the second nearest instance.

    Args:
      instances: integer ``[*space]``: an id above 0 for each instance, 0 or less elsewhere;
        ``jax.vmap`` for a batch. Every id up to the largest costs a distance transform.
      border_weight: w_0.
      sigma: how fast the weights fall, in the units of ``spacing``.
      spacing: distance of neighbouring pixels: a number, or one for each axis.

    Returns:
      Float32 ``[*space]``, 0 if there are less than two instances. The paper adds a weight of each
      class: ``weights = 1 + border_weights(instances)``, and then the mean of ``weights *
      cross_entropy_loss(...)``.

    Raises:
      TypeError: ids that are not integers.
      ValueError: an empty map or one without axes, a wrong ``spacing``, a ``sigma`` that is not
        above 0, a negative ``border_weight``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> jaxseg.border_weights(jnp.array([1, 1, 0, 2, 0, 0])).tolist()
      [8.3527, 9.2312, 9.2312, 9.2312, 7.2615, 4.8675]

    References:
      O. Ronneberger, P. Fischer and T. Brox, "U-Net: convolutional networks for biomedical image
      segmentation", 2015.
    """
    instances = _checks.as_array(instances)
    if not jnp.issubdtype(instances.dtype, jnp.integer):
        raise TypeError(f"instances must be integer ids, got {instances.dtype}.")
    if instances.ndim == 0 or instances.size == 0:
        raise ValueError(f"instances must be [*space] and not empty, got {instances.shape}.")
    ids = instances.astype(jnp.int32)
    sigma = _checks.check_scalar("sigma", sigma, "above 0", lambda x: x > 0)
    highest = _checks.check_scalar("border_weight", border_weight, "0 or more", lambda x: x >= 0)
    first, second = _two_nearest(ids, spacing_of_axes(spacing, instances.ndim))
    gap = (first + second) / sigma.astype(jnp.float32)
    return jnp.exp(-(gap**2) / 2) * highest.astype(jnp.float32)


# ---------------------------------------------------------------------------------- per pixel


def two_classes(truth: Array, where: Array | None, class_axis: int = -1) -> Array:
    """The truth of "not it" and "it", from that of one class; masked pixels are neither."""
    other = ~truth if truth.dtype == bool else 1 - truth
    if where is not None:
        other = jnp.where(jnp.expand_dims(where, class_axis), other, jnp.zeros((), other.dtype))
    return jnp.concatenate([other, truth], class_axis)


def log_probs(x: Array, truth: Array, class_axis: int = -1) -> Array:
    """``log p`` of each class, of two for one logit: "not it" and "it".

    A class that is switched off, by a logit of -inf, has 0 wherever it is not the truth, so that
    products with the truth, and their gradients, are finite.
    """
    if x.shape[class_axis] == 1:  # a softmax of (0, x) would lose what is below 6e-8
        log_p = jax.nn.log_sigmoid(jnp.concatenate([-x, x], class_axis))
    else:
        log_p = jax.nn.log_softmax(x, class_axis)
    return jnp.where(jnp.isneginf(log_p) & jnp.logical_not(truth), 0, log_p)


def focal_terms(log_p: Array, truth: Array, gamma: ArrayLike) -> Array:
    """``-g (1 - p)^gamma log p`` of each class."""
    terms = -log_p * safe_power(-jnp.expm1(log_p), gamma)  # 1 - p without cancellation
    return truth * terms


def weights_of_classes(name: str, weights: ArrayLike | Sequence[float], num_classes: int) -> Array:
    """Checked weights ``[C]``; a scalar is that of every class."""
    known: Any = weights
    if np.ndim(known) == 0:
        weights = jnp.broadcast_to(_checks.check_scalar(name, known), (num_classes,))
    checked = _checks.check_class_weights(name, weights, num_classes)
    assert checked is not None
    return checked


def _two_or_more(
    logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Checked logits, the truth of two classes or more, and which pixels are valid."""
    logits, labels, mask, _ = _checks.check_soft("logits", logits, labels, where, None)
    labels, mask = _checks.clean_bools(labels), _checks.clean_bools(mask)
    x = valid_logits(logits, mask, -1)
    truth = truth_of(labels, mask, x, -1)
    if x.shape[-1] == 1:
        truth = two_classes(truth, mask)
    return x, truth, jnp.ones(labels.shape[: x.ndim - 1], bool) if mask is None else mask


# Checkpointed: what the backward pass needs is computed again from the logits, in fused loops.
@jax.jit
@jax.checkpoint
def _cross_entropy(x: Array, truth: Array, weights: Array | None, smoothing: Array | None) -> Array:
    surprise = -log_probs(x, truth)
    if weights is not None:
        surprise = along_classes(weights, x) * surprise
    dense = truth.dtype != bool
    loss = (truth * surprise if dense else jnp.where(truth, surprise, 0)).sum(-1)
    if smoothing is None:
        return loss
    labelled = truth.sum(-1) if dense else truth.any(-1)
    spread = surprise.mean(-1)
    spread = labelled * spread if dense else jnp.where(labelled, spread, 0)
    return (1 - smoothing) * loss + smoothing * spread


@jax.jit
@jax.checkpoint
def _focal(x: Array, truth: Array, alpha: Array | None, gamma: Array) -> Array:
    gamma = gamma.astype(x.dtype)
    if truth.dtype == bool:  # of the true class alone, as of the cross-entropy
        surprise = _cross_entropy(x, truth, None, None)
        loss = surprise * safe_power(-jnp.expm1(-surprise), gamma)
        if alpha is None:
            return loss
        return jnp.where(truth, along_classes(alpha, x), 0).sum(-1) * loss
    terms = focal_terms(log_probs(x, truth), truth, gamma)
    if alpha is not None:
        terms = terms * along_classes(alpha, x)
    return terms.sum(-1)


@partial(jax.jit, static_argnums=3)
@partial(jax.checkpoint, static_argnums=3)
def _penalty(x: Array, shares: Array, valid: Array, distance: str) -> Array:
    if x.shape[-1] == 1:
        x = jnp.concatenate([jnp.zeros_like(x), x], -1)
    x = jnp.where(jnp.isneginf(x), shares, x)  # a class that is switched off is not drawn anywhere
    away = jnp.abs(shares - x) if distance == "l1" else (shares - x) ** 2
    return jnp.where(valid, away.mean(-1), 0)


def _neighbour_shares(truth: Array, axes: tuple[int, ...], size: int) -> Array:
    """Share of each class in the cube of ``size`` around each pixel, as sums along the axes.

    Counts of bool truth fit bytes up to a cube of 255 pixels, and wider integers above.
    """
    pixels = size ** len(axes)
    shares = truth
    if truth.dtype == bool:
        shares = truth.astype(jnp.uint8 if pixels < 256 else jnp.int32)
    for axis in axes:
        steps = range(-(size // 2), size // 2 + 1)
        shares = sum((shift(shares, k, axis, 0) for k in steps if k), shares)
    return shares.astype(jnp.float32 if truth.dtype == bool else truth.dtype) / pixels


@jax.jit
def _two_nearest(instances: Array, spacings: Any) -> tuple[Array, Array]:
    """Distances to the nearest and to the second nearest instance."""
    axes = tuple(range(instances.ndim))

    def nearer(i: Array, nearest: tuple[Array, Array]) -> tuple[Array, Array]:
        first, second = nearest
        d = distances_to(instances == i, axes, spacings)
        return jnp.minimum(first, d), jnp.minimum(second, jnp.maximum(first, d))

    nowhere = jnp.where(instances == instances, jnp.float32(jnp.inf), 0)
    return lax.fori_loop(1, instances.max() + 1, nearer, (nowhere, nowhere))


# ---------------------------------------------------------------------------------- hardest


def _losses_of_pixels(
    logits: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    axis: Axis,
    axis_name: AxisName,
) -> tuple[tuple[int, ...], Array, Array, AxisName]:
    """Cross-entropies, which pixels are valid, and the axes and devices to choose among."""
    x, truth, mask = _two_or_more(logits, labels, where)
    axes = _checks.normalize_axis(axis, mask.ndim)
    shared = axis_name if pools_batch(axes, mask.ndim) else None
    return axes, _cross_entropy(x, truth, None, None), mask, shared


def _global_sum(x: Array, axes: tuple[int, ...], axis_name: AxisName) -> Array:
    integer = jnp.issubdtype(x.dtype, jnp.integer)
    total = x.sum(axes, dtype=x.dtype) if integer else sum_in_turn(x, axes)
    return total if axis_name is None else lax.psum(total, axis_name)


@partial(jax.jit, static_argnums=(3, 4))
def _mean_of_largest(
    values: Array, valid: Array, count: Array, axes: tuple[int, ...], axis_name: AxisName
) -> Array:
    """Mean of the ``count`` largest of the valid values, which are not negative.

    The least of them is found bit by bit: the bits of floats are in the order of the floats. That
    takes only sums, which need no sorting and no gathering of what other devices hold.
    """
    integer = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    bits = lax.bitcast_convert_type(jnp.abs(lax.stop_gradient(values)), integer)
    bits = jnp.where(valid, bits, -1)

    def total(x: Array) -> Array:
        return _global_sum(x, axes, axis_name)

    def keep(x: Array) -> Array:
        return jnp.expand_dims(x, axes)

    def try_bit(i: ArrayLike, least: Array) -> Array:
        candidate = least | (jnp.ones((), integer) << jnp.asarray(highest - i, integer))
        enough = total((bits >= keep(candidate)).astype(jnp.int32)) >= count
        return jnp.where(enough, candidate, least)

    highest = np.iinfo(integer).bits - 2
    least = lax.fori_loop(0, highest + 1, try_bit, jnp.zeros_like(count, dtype=integer))
    above, at = bits > keep(least), bits == keep(least)
    # Of pixels as hard as the last one, each counts in part.
    room = (count - total(above.astype(jnp.int32))).astype(values.dtype)
    share = safe_divide(room, total(at.astype(jnp.int32)).astype(values.dtype), 0)
    summed = total(jnp.where(above, values, 0)) + share * total(jnp.where(at, values, 0))
    return summed / count.astype(values.dtype)


# ---------------------------------------------------------------------------------- Lovász


@partial(jax.jit, static_argnums=(0, 4))
def _lovasz(
    form: str | None,
    logits: Array,
    labels: Array,
    where: Array | None,
    axes: tuple[int, ...],
) -> tuple[Array, Array]:
    """Lovász extension of the Jaccard loss of each class, and whether the class is present.

    The weight of an error depends on the order alone, so it has no gradient.
    """
    labels, where = _checks.clean_bools(labels), _checks.clean_bools(where)

    def truth() -> Array:  # anew wherever it is needed: a comparison is cheaper than an array
        return masks_of(labels, where, logits)

    def errors(logits: Array) -> Array:
        x = valid_logits(logits, where, -1)
        if form == "hinge":
            values = jnp.maximum(1 - jnp.where(truth(), x, -x), 0)
        else:
            p = activate(x, form)
            values = jnp.where(truth(), 1 - p, p)
        return values if where is None else jnp.where(where[..., None], values, 0)

    now = lax.stop_gradient(errors(logits))

    def sort_class(c: Array, weights: Array) -> Array:
        e = lax.dynamic_index_in_dim(now, c, -1, keepdims=False)
        w = _sharded_like(_order_weights(e, truth()[..., c], where, axes), e)
        return lax.dynamic_update_index_in_dim(weights, w, c, -1)

    # One class at a time, in place; from a select of zeros, which is sharded as the errors are.
    weights = lax.fori_loop(0, logits.shape[-1], sort_class, jnp.where(False, now, 0))
    total = jax.checkpoint(lambda logits: sum_in_turn(weights * errors(logits), axes))
    return total(logits), truth().any(axes)


def _order_weights(
    errors: Array, truth: Array, where: Array | None, axes: tuple[int, ...]
) -> Array:
    """The rise of the Jaccard loss with each error of one class, in falling order."""
    kept = tuple(a for a in range(errors.ndim) if a not in axes)
    order = (*kept, *axes)
    shape = tuple(errors.shape[a] for a in order)

    def rows(x: Array) -> Array:
        return _replicated(x, axes).transpose(order).reshape(*shape[: len(kept)], -1)

    function = _row_weights
    for _ in kept:
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


def _replicated(x: Array, axes: tuple[int, ...]) -> Array:
    """``x`` with the axes that are ordered together on every device, if a mesh splits them."""
    spec = jax.typeof(x).sharding.spec  # names an axis only where the mesh's axes are Explicit
    if all(spec[a] is None for a in axes):
        return x
    spread = PartitionSpec(*(None if a in axes else s for a, s in enumerate(spec)))
    return jax.sharding.reshard(x, NamedSharding(jax.typeof(x).sharding.mesh, spread))


def _sharded_like(x: Array, other: Array) -> Array:
    sharding = jax.typeof(other).sharding
    explicit = any(name is not None for name in sharding.spec)
    return jax.sharding.reshard(x, sharding) if explicit else x
