"""Pixel losses: unreduced, or reduced over the hardest pixels.

An unreduced loss has one number per pixel, 0 where masked. Its mean over the valid pixels is
``loss.sum() / jnp.maximum(where.sum(dtype=loss.dtype), 1)``, which is 0 if there are none.

One logit per pixel, ``[..., 1]``, stands for two classes, "not it" and "it".

Optax has the plain cross-entropies, and the focal loss of a sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._activations import LEAST, activate, switched_off
from jaxseg._checks import Axis, AxisName
from jaxseg._cross_entropy import neg_log_p_of_class
from jaxseg._distance import (
    Spacing,
    Spacings,
    axis_spacings,
    check_spatial_axes,
    distances_along,
    shift,
)
from jaxseg._labels import class_index, masked
from jaxseg._numerics import along_classes, safe_divide, safe_power, sum_axis_by_axis
from jaxseg._pixels import Pixels, as_pixels_of_classes

__all__ = [
    "border_weights",
    "cross_entropy_loss",
    "nacl_loss",
    "ohem_loss",
    "softmax_focal_loss",
    "top_k_loss",
]


def cross_entropy_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_weights: ArrayLike | Sequence[float] | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of each pixel, with class weights and label smoothing.

    .. math:: -\sum_c u_c\, \tilde g_c \log p_c, \quad \tilde g = (1 - s)\, g + s / C

    Args:
      logits: float ``[..., C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      class_weights: u, ``[C]``; ``[2]`` if C is 1.
      label_smoothing: s in [0, 1], the share of each label that is spread over all classes. A class
        that a logit of -inf switches off does not add to the loss, unless it is the true class.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``: factors of the loss.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``, 0 where masked and where the id is outside [0,
      C). (PyTorch's mean with class weights divides the sum by the sum of ``u[labels]``.)

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
      Optax's loss for integer labels is NaN for a label of 255, and for -1 takes the last class.
    """
    pixels = as_pixels_of_classes(logits, labels, where, weights)
    classes = max(pixels.scores.shape[-1], 2)
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    smoothing = _checks.check_smoothing(label_smoothing)
    return pixels.weigh(_cross_entropy(pixels, class_weights, smoothing))


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    alpha: ArrayLike | Sequence[float] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    r"""Focal loss of each pixel: the cross-entropy, damped where the pixel is already right.

    .. math:: -\sum_c \alpha_c\, g_c\, (1 - p_c)^\gamma \log p_c

    Args:
      logits: float ``[..., C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      gamma: one number for all classes; 0 gives the cross-entropy, and the paper has 2.
      alpha: a weight for all classes, or one per class: ``[C]``; ``[2]`` if C is 1, where the
        paper's alpha is ``[1 - alpha, alpha]``.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``: factors of the loss.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``, 0 where masked and where the id is outside [0,
      C). Values and gradients are finite for logits of 1e4.

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
    pixels = as_pixels_of_classes(logits, labels, where, weights)
    classes = max(pixels.scores.shape[-1], 2)
    alpha = None if alpha is None else check_per_class("alpha", alpha, classes)
    gamma = _checks.check_scalar("gamma", gamma)
    return pixels.weigh(_focal(pixels, alpha, gamma))


def nacl_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike = 0.1,
    kernel_size: int = 3,
    kernel: Literal["uniform", "gaussian"] = "uniform",
    sigma: ArrayLike = 1.0,
    distance: Literal["l1", "l2"] = "l1",
    spatial_axes: tuple[int, ...] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    r"""Neighbour-aware calibration loss: cross-entropy, and a pull on logits by the labels around.

    .. math:: -\log p_{n, g_n} + \frac{w}{C} \sum_c \lvert \tau_{nc} - x_{nc} \rvert, \quad
              \tau_{nc} = \sum_{m \in \mathcal{N}(n)} k_{m - n}\, g_{mc}

    with x the logits, and N(n) the pixels of a cube around pixel n, with weights k whose sum is 1.
    So tau is the share of each class among them. Pixels outside the image and masked pixels have no
    class.

    Args:
      logits: float ``[batch, *space, C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[batch, *space]``, or dense bool or float ``[batch, *space,
        C]``.
      weight: w, the weight of the penalty.
      kernel_size: side of the cube, odd; static.
      kernel: "uniform" for equal weights, or "gaussian" for a Gaussian function around the pixel,
        which each pixel's weight is the integral of; static.
      sigma: of the Gaussian function, in pixels, above 0. A cube of a side of 8 sigma holds it all.
      distance: "l1" as in the formula, or "l2" for the square of the difference.
      spatial_axes: a tuple of the axes of the label map that are space; None is all but the first,
        if there are three or more. One image ``[H, W]``, as in ``jax.vmap`` over images, needs
        ``(0, 1)``, and one volume ``[D, H, W]`` needs ``(0, 1, 2)``.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``: factors of the loss.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``, 0 where masked.

    Raises:
      ValueError, TypeError: as ``cross_entropy_loss``; another ``distance`` or ``kernel``, a
        ``kernel_size`` that is even or below 1, a ``sigma`` that is not above 0, a map of two axes
        without ``spatial_axes``.

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

    Note:
      MONAI's Gaussian filter is 8 sigma + 1 pixels wide, whatever its ``kernel_size``. The authors'
      repository takes samples of a Gaussian with a sigma of 1, and the pixel itself weighs as much
      as all around it.
    """
    kernel_size = _checks.check_static_integer("kernel_size", kernel_size, 1, 2**31)
    if distance not in ("l1", "l2") or kernel_size % 2 == 0:
        raise ValueError(
            f"distance must be 'l1' or 'l2' and kernel_size odd; got {distance!r}, {kernel_size}."
        )
    _checks.check_choice("kernel", kernel, ("uniform", "gaussian"))
    sigma = _checks.check_scalar("sigma", sigma, "above 0", lambda x: x > 0)
    pixels = as_pixels_of_classes(logits, labels, where, weights)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    shares = _neighbour_shares(
        pixels.truth(), space, kernel_size, sigma if kernel == "gaussian" else None
    )

    loss = _cross_entropy(pixels, None, None)
    weight = _checks.check_scalar("weight", weight).astype(loss.dtype)
    penalty = _penalty(pixels.logits(), shares.astype(loss.dtype), pixels.valid(), distance)
    return pixels.weigh(loss + penalty * weight)


def top_k_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    fraction: ArrayLike = 0.1,
    class_weights: ArrayLike | Sequence[float] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
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
      class_weights: u, ``[C]``; ``[2]`` if C is 1. The hardest pixels are chosen by their
        unweighted losses; their mean is that of ``u[labels] CE`` over that of ``u[labels]``.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``. The hardest pixels are
        chosen by their losses alone, and the mean over them is the weighted one.
      axis: axes of the label map whose pixels compete; None is all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch; the hardest
        pixels are those of the global batch.

    Returns:
      Float32 (float64 for float64 logits) ``[...]``: a scalar if ``axis`` is None. Where equally
      hard pixels compete for the last places, they share them evenly.

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
    pixels = as_pixels_of_classes(logits, labels, where, weights, axis, axis_name)
    classes = max(pixels.scores.shape[-1], 2)
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    losses = _cross_entropy(pixels, None, None)
    count = pixels.pixel_count().astype(losses.dtype) * fraction.astype(losses.dtype)
    count = jnp.floor(count).astype(jnp.int32)
    return _mean_of_largest(pixels, losses, count, class_weights)


def ohem_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: ArrayLike = 0.7,
    min_kept: int = 100_000,
    class_weights: ArrayLike | Sequence[float] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Online hard example mining: mean cross-entropy of the pixels not yet predicted well.

    .. math:: \frac{1}{k} \sum_{n \in \text{k largest}} CE_n, \quad
              k = \max\left(\lvert \{n : p_{n, g_n} < threshold\} \rvert, \min(min\_kept, N)\right)

    Args:
      logits: float ``[..., C]``; with C = 1 the two classes are "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      threshold: probability of the true class below which a pixel is hard.
      min_kept: minimum number of pixels to keep (all of them, if there are fewer).
      class_weights: as in ``top_k_loss``: the threshold is of unweighted probabilities.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``. The hardest pixels are
        chosen by their losses alone, and the mean over them is the weighted one.
      axis: axes of the label map whose pixels compete; None is all axes, the batch included.
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
    pixels = as_pixels_of_classes(logits, labels, where, weights, axis, axis_name)
    classes = max(pixels.scores.shape[-1], 2)
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    losses = _cross_entropy(pixels, None, None)
    hard = pixels.valid() & (losses > -jnp.log(threshold.astype(losses.dtype)))
    count = pixels.over_devices(hard.sum(pixels.axes, dtype=jnp.int32))
    count = jnp.maximum(count, jnp.minimum(pixels.pixel_count(), min_kept))
    return _mean_of_largest(pixels, losses, count, class_weights)


def border_weights(
    instances: ArrayLike,
    *,
    border_weight: ArrayLike = 10.0,
    sigma: ArrayLike = 5.0,
    spacing: Spacing = 1.0,
) -> Array:
    r"""Weights that rise between neighbouring instances: the border weights of U-Net.

    .. math:: w_0 \exp\left(-\frac{(d_1 + d_2)^2}{2 \sigma^2}\right)

    with :math:`d_1` and :math:`d_2` the distances of a pixel to the two nearest instances.

    Args:
      instances: integer ``[*space]``: an id above 0 per instance, 0 or less elsewhere; ``jax.vmap``
        for a batch. Every id up to the largest costs a distance transform.
      border_weight: w_0.
      sigma: how fast the weights fall, in the units of ``spacing``.
      spacing: distance of neighbouring pixels: a number, or one per axis.

    Returns:
      Float32 ``[*space]``, 0 if there are fewer than two instances. The paper adds a weight per
      class, here 1: ``weights = 1 + border_weights(instances)``. A loss takes them as ``weights``.

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
    first, second = _two_nearest(ids, axis_spacings(spacing, instances.ndim))
    gap = (first + second) / sigma.astype(jnp.float32)
    return jnp.exp(-(gap**2) / 2) * highest.astype(jnp.float32)


# ---------------------------------------------------------------------------------- per pixel


def focal(log_p: Array, gamma: ArrayLike) -> Array:
    """``-(1 - p)^gamma log p``."""
    return -log_p * safe_power(-jnp.expm1(log_p), gamma)  # 1 - p without cancellation


def check_per_class(name: str, weights: ArrayLike | Sequence[float], num_classes: int) -> Array:
    """Check weights ``[C]``; a scalar is the weight of every class."""
    if np.ndim(weights) == 0:
        weights = jnp.broadcast_to(_checks.check_scalar(name, weights), (num_classes,))
    checked = _checks.check_class_weights(name, weights, num_classes)
    assert checked is not None
    return checked


def _neg_log_p(x: Array, truth: Array, activation: str | None) -> Array:
    """``-log p`` per class; 0 for a class that is switched off and is not the true one."""
    log_p = activate(x, activation).log_p
    return jnp.where(switched_off(log_p) & jnp.logical_not(truth), 0, -log_p)


def _cross_entropy(pixels: Pixels, weights: Array | None, smoothing: Array | None) -> Array:
    """The cross-entropy of each pixel."""
    is_dense = pixels.labels.ndim == pixels.scores.ndim
    if is_dense or smoothing is not None:
        x, truth = pixels.logits(), pixels.truth()
        return _cross_entropy_of_truth(x, truth, weights, smoothing, pixels.activation)
    loss = _cross_entropy_of_ids(pixels.scores, pixels.labels, pixels.where, pixels.activation)
    return loss if weights is None else _times_weight(loss, pixels.truth(), weights)


@partial(jax.jit, static_argnums=3)
def _cross_entropy_of_ids(
    logits: Array, ids: Array, where: Array | None, activation: str | None
) -> Array:
    where = _checks.clean_bools(where)
    index = class_index(ids, logits.shape[-1])
    if activation == "two classes":  # an id other than 1 is "not it"
        x = masked(_checks.at_least_float32(logits), where)[..., 0]
        x = jnp.clip(x, LEAST, -LEAST)
        loss = -jax.nn.log_sigmoid(jnp.where(index == 0, x, -x))
        return loss if where is None else jnp.where(where, loss, 0)
    if where is not None:
        ids = jnp.where(where, index.astype(jnp.int32), -1)
    elif ids.dtype == bool or ids.dtype.itemsize > 4:
        ids = index
    loss, _ = neg_log_p_of_class(logits, ids)
    return loss


# Checkpointed: the backward pass computes what it needs again from the logits, in fused loops.
@partial(jax.jit, static_argnums=4)
@partial(jax.checkpoint, static_argnums=4)
def _cross_entropy_of_truth(
    x: Array,
    truth: Array,
    weights: Array | None,
    smoothing: Array | None,
    activation: str | None,
) -> Array:
    neg_log_p = _neg_log_p(x, truth, activation)
    if weights is not None:
        neg_log_p = along_classes(weights, x) * neg_log_p
    dense = truth.dtype != bool
    loss = (truth * neg_log_p if dense else jnp.where(truth, neg_log_p, 0)).sum(-1)
    if smoothing is None:
        return loss
    labelled = truth.sum(-1) if dense else truth.any(-1)
    spread = neg_log_p.mean(-1)
    spread = labelled * spread if dense else jnp.where(labelled, spread, 0)
    return (1 - smoothing) * loss + smoothing * spread


@jax.jit
def _times_weight(loss: Array, truth: Array, weights: Array) -> Array:
    """The loss of each pixel times the weight of its class, or the mean weight of a soft label."""
    each = truth.astype(loss.dtype) * along_classes(weights, loss[..., None])
    return each.sum(-1) * loss


def _focal(pixels: Pixels, alpha: Array | None, gamma: Array) -> Array:
    """The focal loss of each pixel."""
    if jnp.issubdtype(pixels.labels.dtype, jnp.floating):
        x, truth = pixels.logits(), pixels.truth()
        return _focal_of_truth(x, truth, alpha, gamma.astype(x.dtype), pixels.activation)
    # Only the true class counts, and its -log p is the cross-entropy.
    log_p = -_cross_entropy(pixels, None, None)
    loss = jax.jit(focal)(log_p, gamma.astype(log_p.dtype))
    return loss if alpha is None else _times_weight(loss, pixels.truth(), alpha)


@partial(jax.jit, static_argnums=4)
@partial(jax.checkpoint, static_argnums=4)
def _focal_of_truth(
    x: Array, truth: Array, alpha: Array | None, gamma: Array, activation: str | None
) -> Array:
    terms = truth * focal(-_neg_log_p(x, truth, activation), gamma)
    return (terms if alpha is None else terms * along_classes(alpha, x)).sum(-1)


@partial(jax.jit, static_argnums=3)
@partial(jax.checkpoint, static_argnums=3)
def _penalty(x: Array, shares: Array, valid: Array, distance: str) -> Array:
    if x.shape[-1] == 1:
        x = jnp.concatenate([jnp.zeros_like(x), x], -1)
    x = jnp.where(jnp.isneginf(x), shares, x)  # no pull on a class that is switched off
    gap = jnp.abs(shares - x) if distance == "l1" else (shares - x) ** 2
    return jnp.where(valid, gap.mean(-1), 0)


def _neighbour_shares(truth: Array, axes: tuple[int, ...], size: int, sigma: Array | None) -> Array:
    """The share of each class in the cube around each pixel, by sums along one axis after another.

    The counts of a bool truth fit in bytes if the cube has fewer than 256 pixels. With ``sigma``
    the pixels have the weights of a Gaussian function.
    """
    steps = range(-(size // 2), size // 2 + 1)
    if sigma is not None:
        shares = truth.astype(jnp.float32) if truth.dtype == bool else truth
        borders = jnp.arange(size + 1, dtype=sigma.dtype) - size / 2
        weights = jnp.diff(lax.erf(borders / (sigma * math.sqrt(2)))).astype(shares.dtype)
        weights = weights / weights.sum()
        for axis in axes:
            terms = (w * shift(shares, k, axis, 0) for k, w in zip(steps, weights, strict=True))
            shares = reduce(jnp.add, terms)
        return shares
    pixels = size ** len(axes)
    shares = truth
    if truth.dtype == bool:
        shares = truth.astype(jnp.uint8 if pixels < 256 else jnp.int32)
    for axis in axes:
        shares = sum((shift(shares, k, axis, 0) for k in steps if k), shares)
    return shares.astype(jnp.float32 if truth.dtype == bool else truth.dtype) / pixels


@jax.jit
def _two_nearest(instances: Array, spacings: Spacings) -> tuple[Array, Array]:
    """Distances to the nearest and to the second nearest instance."""
    axes = tuple(range(instances.ndim))

    def nearer(i: Array, nearest: tuple[Array, Array]) -> tuple[Array, Array]:
        first, second = nearest
        d = distances_along(instances == i, axes, spacings)
        return jnp.minimum(first, d), jnp.minimum(second, jnp.maximum(first, d))

    far = jnp.where(instances == instances, jnp.float32(jnp.inf), 0)  # sharded like the instances
    end = instances.max() + 1
    return lax.fori_loop(jnp.ones_like(end), end, nearer, (far, far))


# ---------------------------------------------------------------------------------- hardest


def _mean_of_largest(
    pixels: Pixels, losses: Array, count: Array, class_weights: Array | None
) -> Array:
    """Mean of the ``count`` largest losses of valid pixels; of the largest one if ``count`` is 0.

    With weights, the weighted mean of these losses.

    The smallest of them is found bit by bit, since floats of 0 or more are ordered like their bits.
    This needs only sums: nothing is sorted, and nothing but sums comes from other devices.
    """
    axis_name = pixels.axis_name if 0 in pixels.axes else None
    count = jnp.maximum(count, 1)
    weights = None if pixels.weights is None else pixels.weigh(jnp.ones_like(losses))
    if class_weights is not None:
        ones = jnp.ones_like(losses) if weights is None else weights
        weights = _times_weight(ones, pixels.truth(), class_weights)
    return _mean_of_largest_values(losses, pixels.valid(), weights, count, pixels.axes, axis_name)


@partial(jax.jit, static_argnums=(4, 5))
def _mean_of_largest_values(
    values: Array,
    valid: Array,
    weights: Array | None,
    count: Array,
    axes: tuple[int, ...],
    axis_name: AxisName,
) -> Array:
    integer = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    bits = lax.bitcast_convert_type(jnp.abs(lax.stop_gradient(values)), integer)
    bits = jnp.where(valid, bits, -1)

    def sum_pixels(x: Array) -> Array:
        sums = x.sum(axes, dtype=x.dtype) if x.dtype == jnp.int32 else sum_axis_by_axis(x, axes)
        return sums if axis_name is None else lax.psum(sums, axis_name)

    def along_pixels(x: Array) -> Array:
        return jnp.expand_dims(x, axes)

    def try_bit(i: ArrayLike, least: Array) -> Array:
        candidate = least | (jnp.ones((), integer) << jnp.asarray(highest - i, integer))
        enough = sum_pixels((bits >= along_pixels(candidate)).astype(jnp.int32)) >= count
        return jnp.where(enough, candidate, least)

    highest = np.iinfo(integer).bits - 2
    least = lax.fori_loop(0, highest + 1, try_bit, jnp.zeros_like(count, dtype=integer))
    above, tied = bits > along_pixels(least), bits == along_pixels(least)
    # The pixels that are as hard as the last one share the places that are left.
    slots_left = (count - sum_pixels(above.astype(jnp.int32))).astype(values.dtype)
    num_tied = sum_pixels(tied.astype(jnp.int32)).astype(values.dtype)
    tie_weight = safe_divide(slots_left, num_tied, 0)

    def sum_hardest(x: Array) -> Array:
        sum_above, sum_tied = (sum_pixels(jnp.where(these, x, 0)) for these in (above, tied))
        return sum_above + tie_weight * sum_tied

    if weights is None:
        return sum_hardest(values) / count.astype(values.dtype)
    return safe_divide(sum_hardest(weights * values), sum_hardest(weights), 0)
