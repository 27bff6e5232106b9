"""Region losses: 1 - a score of soft counts, per class and unreduced.

All of them sum over the pixels by ``pixel_sums``, which is fast and needs little memory. Their mean
is the usual loss::

    loss = jaxseg.dice_loss(logits, labels).mean()

``[..., 1:]`` before the mean leaves the background out; ``axis=(1, 2)`` scores each image by
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxseg._checks import (
    Axis,
    AxisName,
    as_array,
    at_least_float32,
    check_broadcasts,
    check_choice,
    is_real,
)
from jaxseg._counts import Counts
from jaxseg._kernels.plain import Pixel
from jaxseg._numerics import held, safe_divide, safe_power
from jaxseg._pixel_sums import pixel_sums
from jaxseg._pixels import as_pixels
from jaxseg._scores import (
    dice,
    generalized_dice,
    iou,
    matthews_correlation,
    rarity_weights,
    tversky,
)
from jaxseg._soft_counts import counts_of, minimum_counts_of, squared_counts_of

__all__ = [
    "dice_loss",
    "focal_tversky_loss",
    "generalized_dice_loss",
    "generalized_wasserstein_dice_loss",
    "iou_loss",
    "log_cosh_dice_loss",
    "log_dice_loss",
    "matthews_correlation_loss",
    "sensitivity_specificity_loss",
    "tversky_loss",
]


def dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    overlap: Literal["product", "squared", "minimum"] = "product",
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Soft Dice loss per class.

    .. math:: 1 - \frac{2\,tp + smooth}{2\,tp + fp + fn + smooth + eps}

    with the soft counts of the probabilities: ``tp`` is I = sum p g, and ``2 tp + fp + fn`` is
    P + G = sum p + sum g.

    Args:
      logits: float ``[..., C]``; probabilities if ``activation`` is None.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      overlap: static. "product" is the formula above. "squared" has sum p^2 + sum g^2 for P + G, as
        in V-Net, and is steeper where p is near 0 or 1. "minimum" has sum min(p, g) for I, so that
        the loss of float labels is least, and 0, at p = g; hard labels give the same loss as with
        "product".
      activation: "softmax" (C > 1), "sigmoid" or None.
      smooth: added to numerator and denominator. It also bounds the gradient where a class is
        absent: at most ``1 / smooth`` per pixel.
      eps: added to the denominator only.
      where: bool ``[...]``; False pixels do not count, whatever they hold. Without a softmax also
        ``[..., C]``: which classes of a pixel count.
      weights: float ``[...]``, or 1 along axes that share a weight (``[B, 1, 1]``: one per image);
        without a softmax also ``[..., C]``. They multiply what a pixel adds to the sums, are finite
        and 0 or more, and have no gradient; 0 is as ``where=False``.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch; if ``axis``
        includes the batch, the counts are summed over them too.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1]; 0 where no pixel counts, and
      where, without smooth, the class is in neither map.

    Raises:
      ValueError, TypeError: as ``soft_counts``; an unknown ``overlap``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> labels = jnp.array([[0, 0], [1, 1]])
      >>> jaxseg.dice_loss(logits, labels).mean().item()
      0.0907
      >>> jaxseg.dice_loss(logits, labels).tolist()
      [0.0929, 0.0886]
      >>> jax.grad(lambda x: jaxseg.dice_loss(x, labels).mean())(logits).shape
      (2, 2, 2)

    References:
      F. Milletari, N. Navab and S. Ahmadi, "V-Net", 2016. Z. Wang et al., "Dice semimetric losses:
      optimizing the Dice score with soft labels", 2023.

    Note:
      Optax's ``dice_loss`` cannot be jitted on probabilities, and its smooth of s is 2 s here.
      MONAI's default smooth of 1e-5 gives an absent class a gradient of 1e5 at every pixel.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(_overlap(overlap), pixels)
    return 1 - dice(c, smooth=smooth, eps=eps, zero_division=1.0)


def iou_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    overlap: Literal["product", "squared", "minimum"] = "product",
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Soft IoU (Jaccard) loss per class.

    .. math:: 1 - \frac{tp + smooth}{tp + fp + fn + smooth + eps}

    Args:
      overlap: "product", "squared" or "minimum", as in ``dice_loss``; the union is P + G - I.
      logits, labels, activation, smooth, eps, where, weights, axis, axis_name: as in
        ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      ValueError, TypeError: as ``dice_loss``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-3.0], [0.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.iou_loss(logits, masks, activation="sigmoid").mean().item()
      0.2335

    References:
      M. A. Rahman and Y. Wang, "Optimizing intersection-over-union in deep neural networks for
      image segmentation", 2016. Z. Wang et al., "Jaccard metric losses: optimizing the Jaccard
      index with soft labels", 2023.

    Note:
      MONAI's Jaccard loss is this loss with half of its ``smooth_nr`` as smooth.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(_overlap(overlap), pixels)
    return 1 - iou(c, smooth=smooth, eps=eps, zero_division=1.0)


def tversky_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    overlap: Literal["product", "minimum"] = "product",
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Tversky loss per class: false positives and false negatives have weights of their own.

    .. math:: 1 - \frac{tp + smooth}{tp + \alpha\,fp + \beta\,fn + smooth + eps}

    Args:
      alpha: weight of false positives.
      beta: weight of false negatives; a beta above alpha favours recall.
      overlap: "product", or "minimum": sum min(p, g) for tp, for float labels; static.
      logits, labels, activation, smooth, eps, where, weights, axis, axis_name: as in
        ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      ValueError, TypeError: as ``soft_counts``; an unknown ``overlap``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [3.0], [-3.0]]), jnp.array([1, 0, 0])
      >>> loss = jaxseg.tversky_loss(logits, masks, alpha=0.3, beta=0.7, activation="sigmoid")
      >>> loss.mean().item()
      0.1458

    References:
      S. S. M. Salehi, D. Erdogmus and A. Gholipour, "Tversky loss function for image segmentation
      using 3D fully convolutional deep networks", 2017.

    Note:
      Up to Keras 3.15 alpha and beta are swapped in its ``Tversky``; Keras 3.16 has them as here.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(_overlap(overlap, ("product", "minimum")), pixels)
    return 1 - tversky(c, alpha=alpha, beta=beta, smooth=smooth, eps=eps, zero_division=1.0)


def focal_tversky_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 0.3,
    beta: ArrayLike = 0.7,
    gamma: ArrayLike = 0.75,
    overlap: Literal["product", "minimum"] = "product",
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Focal Tversky loss per class: a power of the Tversky loss.

    .. math:: \left(1 - \frac{tp + smooth}{tp + \alpha\,fp + \beta\,fn + smooth + eps}\right)^\gamma

    Args:
      alpha: weight of false positives.
      beta: weight of false negatives.
      gamma: the exponent. Below 1 it stresses classes that are nearly right. The paper's gamma of
        4/3 is 3/4 here.
      overlap: "product", or "minimum": sum min(p, g) for tp, for float labels; static.
      logits, labels, activation, smooth, eps, where, weights, axis, axis_name: as in
        ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 1]. Where the loss is 0 its gradient is set to 0; for a gamma
      below 1 it would be infinite there.

    Raises:
      ValueError, TypeError: as ``soft_counts``; an unknown ``overlap``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [3.0], [-3.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.focal_tversky_loss(logits, masks, activation="sigmoid").mean().item()
      0.2359

    References:
      N. Abraham and N. M. Khan, "A novel focal Tversky loss function with improved attention U-Net
      for lesion segmentation", 2019.

    Note:
      Segmentation Models' Tversky loss with gamma below 1 has a NaN gradient at perfect overlap.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(_overlap(overlap, ("product", "minimum")), pixels)
    loss = 1 - tversky(c, alpha=alpha, beta=beta, smooth=smooth, eps=eps, zero_division=1.0)
    (gamma,) = check_broadcasts(loss.shape, gamma=gamma)
    return held(safe_power(loss, gamma), 0.0, jnp.where(gamma < 0, jnp.inf, 1.0))


def log_dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 1.0,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Logarithmic Dice loss per class: it keeps rising as Dice falls towards 0.

    .. math:: \left(-\log \frac{2\,tp + smooth}{2\,tp + fp + fn + smooth + eps}\right)^\gamma

    Args:
      gamma: the exponent. Below 1 it stresses classes that are nearly right.
      logits, labels, activation, smooth, eps, where, weights, axis, axis_name: as in
        ``dice_loss``.

    Returns:
      Float array ``[..., C]``, 0 or more. Without smooth and without any overlap it is about 87,
      not infinite.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-3.0], [0.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.log_dice_loss(logits, masks, activation="sigmoid").mean().item()
      0.1863

    References:
      K. C. L. Wong et al., "3D segmentation with exponential logarithmic loss for highly unbalanced
      object sizes", 2018, with gamma 0.3.

    Note:
      Segmentation Models' logarithmic Dice clamps the score and has no gradient below the clamp.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(counts_of, pixels)
    (gamma,) = check_broadcasts(c.tp.shape, gamma=gamma)
    return safe_power(negative_log_dice(c, smooth, eps), gamma)


def log_cosh_dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Log-cosh Dice loss per class: flatter than the Dice loss near 0.

    .. math:: \log \cosh \left(1 - \frac{2\,tp + smooth}{2\,tp + fp + fn + smooth + eps}\right)

    Args:
      logits, labels, activation, smooth, eps, where, weights, axis, axis_name: as in
        ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 0.4338].

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-3.0], [0.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.log_cosh_dice_loss(logits, masks, activation="sigmoid").mean().item()
      0.0144

    References:
      S. Jadon, "A survey of loss functions for semantic segmentation", 2020.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(counts_of, pixels)
    loss = 1 - dice(c, smooth=smooth, eps=eps, zero_division=1.0)
    return jnp.log1p(2 * jnp.sinh(loss / 2) ** 2)  # log cosh, precise for small losses


def generalized_dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    power: float = 2.0,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Generalized Dice loss: one number for all classes, in which small classes weigh more.

    .. math:: 1 - \frac{2 \sum_c w_c\,tp_c + smooth}
              {\sum_c w_c (2\,tp_c + fp_c + fn_c) + smooth + eps},
              \quad w_c = \left(\frac{\min_{k : G_k > 0} G_k}{G_c}\right)^{power},
              \quad G_c = tp_c + fn_c

    Args:
      power: 2 as in the paper, 1, or 0 for equal weights. The weights are the paper's ``1 /
        G^power``, scaled so that the largest is 1: smooth then means the same for large and small
        objects. A class that is absent from the truth has the largest weight, so that its false
        positives count.
      logits, labels, activation, smooth, eps, where, weights, axis, axis_name: as in
        ``dice_loss``.

    Returns:
      Float array ``[...]`` in [0, 1]: the class axis is summed.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> labels = jnp.array([[0, 0], [1, 1]])
      >>> jaxseg.generalized_dice_loss(logits, labels).tolist()
      0.1008

    References:
      C. H. Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly
      unbalanced segmentations", 2017.

    Note:
      MONAI adds its smooth to sums that the weights ``1 / G^2`` make tiny: to miss an object of
      1024x1024 pixels costs 0.087. In Optax an absent class has almost all the weight.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(counts_of, pixels)
    return 1 - generalized_dice(c, power=power, smooth=smooth, eps=eps, zero_division=1.0)


def generalized_wasserstein_dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    distances: ArrayLike,
    weighting: Literal["foreground", "volume"] = "foreground",
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Generalized Wasserstein Dice loss: to mistake a class for a similar one costs less.

    .. math:: 1 - \frac{2 T + smooth}{2 T + E + smooth + eps}, \quad
              T = \sum_l a_l \sum_n g_{nl} (1 - W_n), \quad
              W_n = \sum_{l, c} g_{nl} M_{lc}\,p_{nc}

    where M is ``distances`` divided by their maximum, and W is the mean distance of the predicted
    classes of a pixel from its true class. With the weighting "foreground", a is 0 for class 0 and
    1 for all others, and E is the sum of W. With "volume", a is ``min G / G_l``, and E is the sum
    of W weighted by a.

    Args:
      distances: ``[C, C]``, not negative: how far true class l and predicted class c are apart; 0
        on the diagonal.
      weighting: "foreground" as in the paper, or "volume" as in generalized Dice.
      activation: "softmax" or None; the classes are exclusive.
      logits, labels, smooth, eps, where, weights, axis, axis_name: as in ``dice_loss``, C > 1.

    Returns:
      Float array ``[...]`` in [0, 1]: the class axis is summed.

    Raises:
      ValueError, TypeError: as ``soft_counts``; one class; ``distances`` not ``[C, C]``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> far = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.2], [1.0, 0.2, 0.0]])
      >>> logits, labels = 4 * jnp.eye(3), jnp.array([0, 1, 2])
      >>> loss = jaxseg.generalized_wasserstein_dice_loss
      >>> loss(logits, labels, distances=far).tolist()
      0.0156
      >>> loss(logits[jnp.array([0, 2, 1])], labels, distances=far).tolist()  # 1 and 2 swapped
      0.0989

    References:
      L. Fidon et al., "Generalised Wasserstein Dice score for imbalanced multi-class segmentation
      using holistic convolutional networks", 2017.

    Note:
      The weights of MONAI's "GDL" are ``1 / (G_l + 1)``, so its smooth is added to smaller sums.
    """
    if activation == "sigmoid" or weighting not in ("foreground", "volume"):
        raise ValueError(
            "activation must be 'softmax' or None and weighting 'foreground' or 'volume'; "
            f"got {activation!r} and {weighting!r}."
        )
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name)
    distances = _relative_distances(distances, pixels.scores.shape)
    hits, errors, truth = pixel_sums(_mistakes_of, pixels, distances, mixes_classes=True)
    if weighting == "foreground":
        hits, error = hits[..., 1:].sum(-1), errors.sum(-1)
    else:
        weights = rarity_weights(truth, 1.0)
        hits, error = (weights * hits).sum(-1), (weights * errors).sum(-1)
    smooth, eps = check_broadcasts(hits.shape, smooth=smooth, eps=eps)
    return 1 - safe_divide(2 * hits + smooth, 2 * hits + error + smooth + eps, 1)


def matthews_correlation_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Matthews correlation loss per class, in which true negatives count too.

    .. math:: 1 - \frac{tp'\,tn' - fp\,fn}{\sqrt{(tp' + fp)(tp' + fn)(tn' + fp)(tn' + fn)}},
              \quad tp' = tp + smooth, \quad tn' = tn + smooth

    Args:
      smooth: added to tp and tn, as pixels that are right. Without it, the correlation is undefined
        for a class that is absent from the labels or the prediction, or that fills either. The loss
        is then 0 if nothing is wrong, and otherwise 1, as for chance, with a gradient of 0.
      logits, labels, activation, where, weights, axis, axis_name: as in ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 2]; a random prediction has 1.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-3.0], [0.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.matthews_correlation_loss(logits, masks, activation="sigmoid").mean().item()
      0.2222

    References:
      K. Abhishek and G. Hamarneh, "Matthews correlation coefficient loss for deep convolutional
      networks: application to skin lesion segmentation", 2021.

    Note:
      Segmentation Models adds its smooth to all four counts, MONAI to numerator and denominator.
      With either, false positives of an absent class can cost nothing.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    c = pixel_sums(counts_of, pixels)
    (smooth,) = check_broadcasts(c.tp.shape, smooth=smooth)
    c = c._replace(tp=c.tp + smooth, tn=c.tn + smooth)
    undefined = jnp.where(c.fp + c.fn == 0, 1, 0)  # chance, unless nothing is wrong
    return 1 - matthews_correlation(c, zero_division=undefined)


def sensitivity_specificity_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    sensitivity_weight: ArrayLike = 0.05,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Sensitivity-specificity loss per class: mean squared errors inside and outside the class.

    .. math:: 1 - w \frac{G - A + smooth}{G + smooth + eps}
              - (1 - w) \frac{N - G - B + smooth}{N - G + smooth + eps}, \quad
              A = \sum g (p - g)^2, \quad B = \sum (1 - g) (p - g)^2

    with G the sum of g and N the number of valid pixels. Without smooth this is
    ``w A / G + (1 - w) B / (N - G)``.

    Args:
      sensitivity_weight: w, the weight of the errors inside the class.
      logits, labels, activation, smooth, eps, where, weights, axis, axis_name: as in
        ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-3.0], [0.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.sensitivity_specificity_loss(logits, masks, activation="sigmoid").mean().item()
      0.0799

    References:
      T. Brosch et al., "Deep convolutional encoder networks for multiple sclerosis lesion
      segmentation", 2015.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    inside, outside, positives, negatives = pixel_sums(_squared_errors_of, pixels)
    smooth, eps, weight = check_broadcasts(
        positives.shape, smooth=smooth, eps=eps, sensitivity_weight=sensitivity_weight
    )
    misses = 1 - safe_divide(positives - inside + smooth, positives + smooth + eps, 1)
    false_alarms = 1 - safe_divide(negatives - outside + smooth, negatives + smooth + eps, 1)
    return misses * weight + false_alarms * (1 - weight)


def negative_log_dice(c: Counts, smooth: ArrayLike, eps: ArrayLike) -> Array:
    """``-log(dice)``; 0 where, without smooth and eps, the class is in neither map."""
    smooth, eps = check_broadcasts(c.tp.shape, smooth=smooth, eps=eps)
    numerator, denominator = 2 * c.tp + smooth, 2 * c.tp + c.fp + c.fn + smooth + eps
    score = safe_divide(numerator, denominator, 1)
    loss = safe_divide(c.fp + c.fn + eps, denominator, 0)  # 1 - score, accurate where it is small
    near = loss < 0.5
    floor = float(np.finfo(score.dtype).tiny)
    log_score = jnp.log(jnp.where(score < floor, floor, score))
    return jnp.where(near, -jnp.log1p(-jnp.where(near, loss, 0)), -log_score)


_OVERLAPS: dict[str, Callable[[Pixel], Counts]] = {
    "product": counts_of,
    "squared": squared_counts_of,
    "minimum": minimum_counts_of,
}


def _overlap(name: str, choices: Sequence[str] = tuple(_OVERLAPS)) -> Callable[[Pixel], Counts]:
    """The terms that make up the overlap and the sizes."""
    check_choice("overlap", name, choices)
    return _OVERLAPS[name]


def _squared_errors_of(x: Pixel) -> tuple[Array, Array, Array, Array]:
    """Squared errors inside and outside the class, and whether the pixel is inside and outside."""
    error = (x.p - x.g) ** 2
    return x.inside(error), x.outside(error), x.g, 1 - x.g


def _mistakes_of(x: Pixel, distances: Array) -> tuple[Array, Array, Array]:
    """What a pixel adds: g (1 - W), g W and g, where W is its mean distance from the true class."""
    per_class = jnp.einsum("...c,lc->...l", x.p, distances, precision="highest")
    distance = x.inside(per_class).sum(-1, keepdims=True)
    return x.inside(1 - distance), x.inside(distance), x.g


def _relative_distances(distances: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Check the distances of classes ``[C, C]``, and divide them by their maximum."""
    array, classes = as_array(distances), shape[-1]
    if not is_real(array):
        raise TypeError(f"distances must be real, got {array.dtype}.")
    if classes == 1 or array.shape != (classes, classes):
        raise ValueError(
            f"distances must be [C, C] of C > 1 classes, got {array.shape} for scores {shape}."
        )
    array = at_least_float32(array)
    return safe_divide(array, array.max(), 0)
