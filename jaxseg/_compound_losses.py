"""Compound losses: a pixel loss and a region loss in one scalar.

All but ``dice_top_k_loss`` read the logits once for both. They return a scalar, since their terms
have different shapes, and so they take class weights. (A region loss has one number per class,
which the caller averages as he likes.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._activations import switched_off
from jaxseg._checks import Axis, AxisName
from jaxseg._counts import Counts
from jaxseg._kernels.plain import Pixel
from jaxseg._numerics import along_classes, safe_divide, safe_power
from jaxseg._pixel_losses import check_per_class, focal, top_k_loss
from jaxseg._pixel_sums import pixel_sums
from jaxseg._pixels import Pixels, as_pixels, as_pixels_of_classes
from jaxseg._region_losses import negative_log_dice
from jaxseg._scores import dice, tversky
from jaxseg._sharding import psum_each
from jaxseg._soft_counts import counts_of

__all__ = [
    "bce_dice_loss",
    "deep_supervision",
    "dice_ce_loss",
    "dice_focal_loss",
    "dice_top_k_loss",
    "exponential_logarithmic_loss",
    "linear_dice_ce_loss",
    "unified_focal_loss",
]


def bce_dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    bce_weight: ArrayLike = 0.5,
    dice_weight: ArrayLike = 1.0,
    class_weights: ArrayLike | Sequence[float] | None = None,
    pos_weight: ArrayLike | Sequence[float] | None = None,
    label_smoothing: ArrayLike = 0.0,
    activation: Literal["sigmoid"] | None = "sigmoid",
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Binary cross-entropy and soft Dice loss of sigmoid probabilities.

    .. math:: w_{bce} \cdot \operatorname{mean}(BCE)
              + w_{dice} \cdot \operatorname{mean}\left(1 - \frac{2\,tp + smooth}{2\,tp + fp + fn +
              smooth}\right), \quad BCE_{nc} = -u_c\, \tilde g_{nc} \log p_{nc} - (1 - \tilde
              g_{nc}) \log (1 - p_{nc}), \quad \tilde g = (1 - s)\, g + s / 2

    with the weight u of positive pixels and label smoothing s. BCE is averaged over valid pixels
    and classes, the Dice loss over classes and, if ``axis`` leaves the batch out, over images.

    Args:
      logits: float ``[..., C]``; ``[..., 1]`` for one mask. Probabilities if ``activation`` is
        None.
      labels: integer or bool ids ``[...]`` (a mask if C is 1), or dense bool or float ``[..., C]``.
        Convert masks of 0 and 255 to bool first, by ``masks > 0``.
      bce_weight: weight of the cross-entropy.
      dice_weight: weight of the Dice loss.
      class_weights: ``[C]``, for the mean of both losses over the classes, so only their ratios
        matter.
      pos_weight: u, a number or ``[C]``: the weight of pixels of the class in BCE. BCE is not
        divided by it, as in PyTorch.
      label_smoothing: s in [0, 1], in BCE alone. A class that a logit of -inf or inf decides has
        none.
      activation: "sigmoid", or None if ``logits`` are probabilities. Their logarithms are those of
        1e-7 or more, so that 0 and 1 have finite values and gradients.
      smooth: added to numerator and denominator of Dice.
      where: bool ``[...]``; False pixels do not count, whatever they hold. Or ``[..., C]``: which
        classes of a pixel count. A class that counts nowhere in an image has no part in the loss.
      weights: float, of the shapes of where, or 1 along shared axes, as in ``dice_loss``. An image
        has the mean of its weights in the mean over images.
      axis: axes of the label map to sum over for Dice; None sums over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch; the loss is
        then that of the global batch.

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
      The Keras idiom ``0.5 * BCE - dice`` is this loss minus 1, with the same gradient. PyTorch
      (2.9) clips the logarithms of given probabilities at -100, and Keras (3.12) the probabilities,
      whose gradients are then 0.
    """
    _checks.check_choice("activation", activation, ("sigmoid", None))
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name, by_class=True)
    classes = pixels.scores.shape[-1]
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    if pos_weight is not None:
        pos_weight = check_per_class("pos_weight", pos_weight, classes)
    targets = _targets(_checks.check_smoothing(label_smoothing), 2)
    counts, bce, weight = pixel_sums(_bce_dice_of, pixels, pos_weight, *targets)
    sums = (counts, *_per_class(class_weights, bce, weight))
    terms = {"dice_weight": dice_weight, "bce_weight": bce_weight}
    return _compound(pixels, sums, _dice(smooth), class_weights, **terms)


def dice_ce_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    dice_weight: ArrayLike = 1.0,
    ce_weight: ArrayLike = 1.0,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ce_class_weights: ArrayLike | Sequence[float] | None = None,
    label_smoothing: ArrayLike = 0.0,
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
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
      class_weights: ``[C]``, for the mean of the Dice loss over the classes; ``[0, 1, 1]`` leaves
        class 0 out.
      ce_class_weights: ``[C]``, for the mean of the cross-entropy over the pixels, so only their
        ratios matter.
      label_smoothing: share of each label that is spread over all classes in the cross-entropy.
      smooth: added to numerator and denominator of Dice.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``, for both terms: the
        cross-entropy is the weighted mean over the pixels, and an image has the mean of its weights
        in the mean over images.
      axis: axes of the label map to sum over for Dice; None sums over all axes, the batch included,
        and ``(1, 2)`` of ``[B, H, W]`` averages the Dice losses of the images.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch; the loss is
        then that of the global batch.

    Returns:
      Scalar, float32 (float64 for float64 logits); 0 if no pixel counts. A pixel whose id is
      outside [0, C) has no cross-entropy, and belongs to no class in Dice.

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
      nnU-Net's value is this loss minus 1, since it adds -Dice. The weighted cross-entropy is
      PyTorch's for ids; for dense labels PyTorch divides by the number of pixels.
    """
    pixels = as_pixels_of_classes(logits, labels, where, weights, axis, axis_name)
    classes = pixels.scores.shape[-1]
    _checks.check_several_classes(classes)
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    ce_weights = _checks.check_class_weights("ce_class_weights", ce_class_weights, classes)
    smoothing = _checks.check_smoothing(label_smoothing)
    sums = pixel_sums(_dice_ce_of, pixels, ce_weights, *_targets(smoothing, classes))
    terms = {"dice_weight": dice_weight, "ce_weight": ce_weight}
    return _compound(pixels, sums, _dice(smooth), class_weights, **terms)


def linear_dice_ce_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    labels: ArrayLike,
    *,
    dice_weight: ArrayLike = 1.0,
    ce_weight: ArrayLike = 1.0,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ce_class_weights: ArrayLike | Sequence[float] | None = None,
    label_smoothing: ArrayLike = 0.0,
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""``dice_ce_loss`` with the network's last 1x1 convolution inside, which stores no logits.

    .. math:: \operatorname{dice\_ce\_loss}(features \cdot kernel + bias,\ labels)

    The convolution runs inside, block by block, forward and backward, so that neither the logits
    nor their gradient is ever held whole. With 117 classes and 32 features they would take most of
    the memory of a training step. In return the convolution runs once more, in the backward pass.

    Args:
      features: float ``[..., F]``, the input of the last layer.
      kernel: float ``[F, C]``, C > 1, or a 1x1 convolution's ``[1, ..., 1, F, C]``.
      bias: float ``[C]`` or None.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` that sum to 1.
      dice_weight, ce_weight, class_weights, ce_class_weights: as in ``dice_ce_loss``.
      label_smoothing, smooth, where, weights, axis, axis_name: as in ``dice_ce_loss``.

    Returns:
      Scalar, float32 (float64 for float64 features). Half precision is computed in float32; the
      gradients of features, kernel and bias come back in their own dtypes.

    Raises:
      ValueError, TypeError: as ``dice_ce_loss``; a kernel that is not ``[F, C]`` or a bias that is
        not ``[C]``, or either not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> features = jnp.array([[[1.0, 0.0], [0.5, 0.0]], [[0.0, 0.5], [0.0, 1.5]]])
      >>> kernel, bias = jnp.array([[2.0, -2.0], [-1.0, 2.0]]), jnp.array([0.0, 0.1])
      >>> labels = jnp.array([[0, 0], [1, 1]])
      >>> jaxseg.linear_dice_ce_loss(features, kernel, bias, labels).tolist()
      0.1539
      >>> jaxseg.dice_ce_loss(features @ kernel + bias[None, None], labels).tolist()
      0.1539

    References:
      E. Wijmans et al., "Cut your losses in large-vocabulary language models", 2025, does this for
      the cross-entropy of tokens.
    """
    features = _checks.check_scores("features", features)
    kernel, bias = _checks.check_linear(features, kernel, bias)
    classes = kernel.shape[-1]
    _checks.check_several_classes(classes)
    shape = (*features.shape[:-1], classes)
    labels = _checks.check_label_format("logits", shape, _checks.as_array(labels))
    where, weights = _checks.check_where_and_weights(where, weights, shape, "tied")
    axes = _checks.normalize_axis(axis, len(shape) - 1)
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    ce_weights = _checks.check_class_weights("ce_class_weights", ce_class_weights, classes)
    smoothing = _checks.check_smoothing(label_smoothing)
    pixels = Pixels(features, labels, where, axes, "softmax", axis_name, weights)
    targets = _targets(smoothing, classes)
    sums = pixel_sums(_dice_ce_of, pixels, ce_weights, *targets, head=(kernel, bias))
    terms = {"dice_weight": dice_weight, "ce_weight": ce_weight}
    return _compound(pixels, sums, _dice(smooth), class_weights, **terms)


def dice_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    dice_weight: ArrayLike = 1.0,
    focal_weight: ArrayLike = 1.0,
    gamma: ArrayLike = 2.0,
    alpha: ArrayLike | Sequence[float] | None = None,
    class_weights: ArrayLike | Sequence[float] | None = None,
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Soft Dice loss and focal loss, in one pass over the logits.

    .. math:: w_{dice} \cdot \frac{\sum_c v_c (1 - dice_c)}{\sum_c v_c}
              + w_{focal} \cdot \operatorname{mean}_n \left(-\alpha_{g_n} (1 - p_{n, g_n})^\gamma
              \log p_{n, g_n}\right)

    Args:
      logits: float ``[..., C]``; one logit, C = 1, goes through a sigmoid and makes two classes,
        "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` that sum to 1.
      dice_weight: weight of the Dice loss.
      focal_weight: weight of the focal loss.
      gamma, alpha: as in ``softmax_focal_loss``.
      class_weights: ``[C]``, for the mean of the Dice loss over the classes.
      smooth: added to numerator and denominator of Dice.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``, for both terms.
      axis: axes of the label map to sum over for Dice; None sums over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch.

    Returns:
      Scalar, float32 (float64 for float64 logits); 0 if no pixel counts.

    Raises:
      ValueError, TypeError: as ``soft_counts``; weights of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> jaxseg.dice_focal_loss(logits, jnp.array([[0, 0], [1, 1]])).tolist()
      0.0969

    References:
      W. Zhu et al., "AnatomyNet: deep learning for fast and fully automated whole-volume
      segmentation of head and neck anatomy", 2019.

    Note:
      For several classes, the focal term of MONAI 1.6 is that of a sigmoid per class, averaged over
      pixels and classes, even with ``softmax=True``, which only changes its Dice term.
    """
    pixels = as_pixels_of_classes(logits, labels, where, weights, axis, axis_name)
    classes = pixels.scores.shape[-1]
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    alpha = None if alpha is None else check_per_class("alpha", alpha, max(classes, 2))
    gamma = _checks.check_scalar("gamma", gamma)
    counts, *others = pixel_sums(_dice_focal_of, pixels, gamma, alpha)
    sums = (_given_classes(pixels, counts), *others)
    terms = {"dice_weight": dice_weight, "focal_weight": focal_weight}
    return _compound(pixels, sums, _dice(smooth), class_weights, **terms)


def dice_top_k_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    dice_weight: ArrayLike = 1.0,
    ce_weight: ArrayLike = 1.0,
    fraction: ArrayLike = 0.1,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ce_class_weights: ArrayLike | Sequence[float] | None = None,
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Soft Dice loss and the cross-entropy of the hardest pixels.

    .. math:: w_{dice} \cdot \frac{\sum_c v_c (1 - dice_c)}{\sum_c v_c}
              + w_{ce} \cdot \frac{1}{k} \sum_{n \in \text{k largest}} CE_n

    Args:
      logits: float ``[..., C]``; one logit, C = 1, goes through a sigmoid and makes two classes,
        "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` that sum to 1.
      dice_weight: weight of the Dice loss.
      ce_weight: weight of the cross-entropy.
      fraction: share of the valid pixels of the batch that count, as in ``top_k_loss``.
      class_weights: ``[C]``, for the mean of the Dice loss over the classes.
      ce_class_weights: the ``class_weights`` of ``top_k_loss``.
      smooth: added to numerator and denominator of Dice.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``, for both terms.
      axis: axes of the label map to sum over for Dice; None sums over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch.

    Returns:
      Scalar, float32 (float64 for float64 logits); 0 if no pixel counts.

    Raises:
      ValueError, TypeError: as ``soft_counts``; weights of another shape, a ``fraction`` that is
        not in (0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> jaxseg.dice_top_k_loss(logits, jnp.array([[0, 0], [1, 1]]), fraction=0.5).tolist()
      0.3109

    References:
      F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical
      image segmentation", Nature Methods 2021.
    """
    pixels = as_pixels_of_classes(logits, labels, where, weights, axis, axis_name)
    classes = pixels.scores.shape[-1]
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    counts = _given_classes(pixels, pixel_sums(counts_of, pixels))
    regions = _region_mean(pixels, counts, _dice(smooth), class_weights)
    top = top_k_loss(
        logits,
        labels,
        fraction=fraction,
        class_weights=ce_class_weights,
        where=where,
        weights=weights,
        axis_name=axis_name,
    )
    return _weighted_sum((regions, top), {"dice_weight": dice_weight, "ce_weight": ce_weight})


def exponential_logarithmic_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    dice_weight: ArrayLike = 0.8,
    ce_weight: ArrayLike = 0.2,
    dice_gamma: ArrayLike = 0.3,
    ce_gamma: ArrayLike = 0.3,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ce_class_weights: ArrayLike | Sequence[float] | None = None,
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Exponential logarithmic loss: powers of the logarithms of Dice and of probabilities.

    .. math:: w_{dice} \cdot \frac{\sum_c v_c (-\log dice_c)^{\gamma_d}}{\sum_c v_c}
              + w_{ce} \cdot \operatorname{mean}_n \left(u_{g_n}
              (-\log p_{n, g_n})^{\gamma_c}\right)

    Args:
      logits: float ``[..., C]``; one logit, C = 1, goes through a sigmoid and makes two classes,
        "not it" and "it".
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` that sum to 1.
      dice_weight: weight of the Dice term.
      ce_weight: weight of the pixel term.
      dice_gamma, ce_gamma: exponents of the two terms; below 1 they stress what is nearly right.
      class_weights: v, ``[C]``, for the mean of the Dice term over the classes.
      ce_class_weights: u, ``[C]`` (``[2]`` if C is 1), factors of the pixel term; the paper has the
        square root of the number of all labels divided by the number of the class's labels.
      smooth: added to numerator and denominator of Dice.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``, for both terms.
      axis: axes of the label map to sum over for Dice; None sums over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch.

    Returns:
      Scalar, float32 (float64 for float64 logits); 0 if no pixel counts.

    Raises:
      ValueError, TypeError: as ``soft_counts``; weights of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> jaxseg.exponential_logarithmic_loss(logits, jnp.array([[0, 0], [1, 1]])).tolist()
      0.4924

    References:
      K. C. L. Wong et al., "3D segmentation with exponential logarithmic loss for highly unbalanced
      object sizes", 2018.
    """
    pixels = as_pixels_of_classes(logits, labels, where, weights, axis, axis_name)
    classes = pixels.scores.shape[-1]
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    ce_weights = None
    if ce_class_weights is not None:
        ce_weights = check_per_class("ce_class_weights", ce_class_weights, max(classes, 2))
    ce_gamma = _checks.check_scalar("ce_gamma", ce_gamma)
    dice_gamma = _checks.check_scalar("dice_gamma", dice_gamma)

    def region(counts: Counts) -> Array:
        loss = negative_log_dice(counts, smooth, 0.0)
        return safe_power(loss, dice_gamma.astype(loss.dtype))

    counts, *others = pixel_sums(_exponential_of, pixels, ce_gamma, ce_weights)
    sums = (_given_classes(pixels, counts), *others)
    terms = {"dice_weight": dice_weight, "ce_weight": ce_weight}
    return _compound(pixels, sums, region, class_weights, **terms)


def unified_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    asymmetric: bool = True,
    weight: ArrayLike = 0.5,
    delta: ArrayLike = 0.6,
    gamma: ArrayLike = 0.5,
    class_weights: ArrayLike | Sequence[float] | None = None,
    activation: Literal["softmax"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Unified focal loss: a focal loss and a focal Tversky loss with common parameters.

    .. math:: \lambda \operatorname{mean}_n \sum_c d_c\, g_{nc} (1 - p_{nc})^{\gamma_c}
              (-\log p_{nc}) + (1 - \lambda) \operatorname{mean}_c (1 - TI_c)^{1 - \gamma'_c},
              \quad TI = \frac{tp + smooth}{tp + \delta\,fn + (1 - \delta)\,fp + smooth}

    with :math:`d_0 = 1 - \delta` for class 0, the background, and :math:`\delta` for all others.
    The symmetric form has gamma for all classes in both terms. In the asymmetric form, the
    focal term has gamma for the background and 0 for the others, and the Tversky term 0 for the
    background and gamma for the others, so that rare classes are never damped.

    Args:
      logits: float ``[..., C]`` with any number of classes; C = 1 is one class and its background.
        Probabilities if ``activation`` is None.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` that sum to 1.
      asymmetric: whether to take the asymmetric form.
      weight: lambda, the weight of the focal loss.
      delta: weight of other classes against the background, and of misses against false positives.
      gamma: in [0, 1); it damps pixels that are right and stresses classes that are nearly right.
      class_weights: ``[C]``, or ``[2]`` if C is 1, for the means over the classes and over the
        pixels in both terms, so only their ratios matter.
      activation: "softmax", which for C = 1 is a sigmoid, or None if ``logits`` are probabilities.
        Their logarithms are those of 1e-7 or more.
      smooth: added to numerator and denominator of the Tversky index.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      weights: float ``[...]``, or 1 along shared axes, as in ``dice_loss``, for both terms.
      axis: axes of the label map to sum over for Tversky; None sums over all axes, the batch
        included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch.

    Returns:
      Scalar, float32 (float64 for float64 logits); 0 if no pixel counts.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> jaxseg.unified_focal_loss(logits, jnp.array([[0, 0], [1, 1]])).tolist()
      0.108

    References:
      M. Yeung et al., "Unified focal loss: generalising Dice and cross entropy-based losses to
      handle class imbalanced medical image segmentation", 2022.

    Note:
      MONAI takes two classes, adds 1e-7 where this adds smooth, and averages the focal term over
      the classes too.
    """
    pixels = as_pixels_of_classes(logits, labels, where, weights, axis, axis_name, activation)
    classes = max(pixels.scores.shape[-1], 2)
    class_weights = _checks.check_class_weights("class_weights", class_weights, classes)
    weight = _checks.check_scalar("weight", weight)
    delta = _checks.check_scalar("delta", delta)
    gamma = _checks.check_scalar("gamma", gamma)
    symmetric = float(not _checks.check_static_bool("asymmetric", asymmetric))
    background = jnp.arange(classes) == 0
    deltas = jnp.where(background, 1 - delta, delta)
    damping = jnp.where(background, gamma, gamma * symmetric)
    stress = jnp.where(background, gamma * symmetric, gamma)

    def region(counts: Counts) -> Array:
        beta = delta.astype(counts.tp.dtype)
        index = tversky(counts, alpha=1 - beta, beta=beta, smooth=smooth, zero_division=1.0)
        return safe_power(1 - index, along_classes(1 - stress, index))

    counts, loss, count = pixel_sums(_dice_focal_of, pixels, damping, deltas)
    sums = (counts, *_per_class(class_weights, loss, count))
    terms = {"weight": 1 - weight, "focal_weight": weight}
    return _compound(pixels, sums, region, class_weights, **terms)


def deep_supervision(
    loss: Callable[..., Array], weights: Sequence[float] | ArrayLike | None = None
) -> Callable[..., Array]:
    r"""Turn a loss of one output into a loss of a list of outputs at several resolutions.

    .. math:: \sum_i \frac{w_i}{\sum_j w_j}\, loss(logits_i, labels_i)

    The labels are one map, which is resized to each output by nearest neighbour, or a list of one
    map per output. A resized pixel has the label under its centre, as in PyTorch's "nearest-exact".

    Args:
      loss: a function ``loss(logits, labels, *, where=None, ...)`` that returns a scalar, such as a
        compound loss. Reduce any other: ``lambda *args, **options: jaxseg.dice_loss(*args,
        **options).mean()``.
      weights: ``[outputs]``, divided by their sum; None is ``1/2^i``, for outputs with the finest
        first. JAX arrays may be traced, so they are not checked; if all are 0, the loss is NaN.

    Returns:
      A function ``(outputs, labels, *, where=None, weights=None, **arguments)``, a scalar of the
      loss's dtype. ``outputs`` is a list of logits ``[B, *space_i, C]``. ``labels`` is ids ``[B,
      *space]`` or dense ``[B, *space, C]``, or a list of one such map per output, in its
      resolution. ``where`` is likewise bool ``[B, *space]``, and so are the pixels' ``weights``, if
      given, float ``[B, *space]``. ``arguments`` are passed to ``loss``.

    Raises:
      ValueError: a loss that is not a scalar, no outputs, not one weight or one label map per
        output, weights that are negative, not finite or all 0, labels that do not have the axes of
        the outputs.
      TypeError: weights that are not real numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((1, 8, 8), jnp.int32).at[:, 2:6, 2:6].set(1)
      >>> outputs = [jnp.zeros((1, 8, 8, 2)), jnp.zeros((1, 4, 4, 2))]
      >>> jaxseg.deep_supervision(jaxseg.dice_ce_loss)(outputs, labels).tolist()
      1.2086
      >>> def mean_dice_loss(logits, labels, *, where=None):
      ...     return jaxseg.dice_loss(logits, labels, where=where).mean()
      >>> jaxseg.deep_supervision(mean_dice_loss)(outputs, labels).tolist()
      0.5154

    References:
      C.-Y. Lee et al., "Deeply-supervised nets", 2015; the weights are those of F. Isensee et al.,
      "nnU-Net", 2021, which gives the coarsest output a weight of 0.
    """
    output_weights = None if weights is None else _output_weights(weights)

    def supervised(
        outputs: Sequence[ArrayLike],
        labels: ArrayLike | Sequence[ArrayLike],
        *,
        where: ArrayLike | Sequence[ArrayLike] | None = None,
        weights: ArrayLike | Sequence[ArrayLike] | None = None,
        **arguments: Any,
    ) -> Array:
        count = len(outputs)
        shares: Any = np.exp2(-np.arange(count)) if output_weights is None else output_weights
        if count == 0 or len(shares) != count:
            raise ValueError(f"Each output needs a weight: {count} outputs, {len(shares)} weights.")
        shares = shares / shares.sum()
        shapes = [jnp.shape(logits) for logits in outputs]
        maps = _maps_per_output(labels, where, weights, shapes)
        values = []
        for logits, (own_labels, options) in zip(outputs, maps, strict=True):
            value = jnp.asarray(loss(logits, own_labels, **options, **arguments))
            if value.shape != ():
                raise ValueError(
                    f"The loss has to be a scalar, but for an output it has shape {value.shape}: "
                    "reduce it, as lambda *args, **options: loss(*args, **options).mean() does."
                )
            values.append(value)
        losses = jnp.stack(values)
        return (losses * jnp.asarray(shares).astype(losses.dtype)).sum()

    return supervised


def _bce_dice_of(
    x: Pixel,
    pos_weight: Array | None = None,
    true_share: Array | None = None,
    spread: Array | None = None,
) -> tuple[Counts, Array, Array]:
    """Soft counts, the binary cross-entropy of smoothed labels, and its weight."""
    log_p = x.log_p if pos_weight is None else pos_weight * x.log_p
    bce = -x.inside(log_p) - x.outside(x.log_q)
    if true_share is not None and spread is not None:
        decided = switched_off(x.log_p) | switched_off(x.log_q)
        bce = true_share * bce - spread * jnp.where(decided, 0, log_p + x.log_q)
    return counts_of(x), bce, jnp.ones_like(x.p)


def _dice_ce_of(
    x: Pixel, weights: Array | None, true_share: Array | None, spread: Array | None
) -> tuple[Counts, Array, Array]:
    """Soft counts, the cross-entropy of smoothed labels, and its weight."""
    ce, weight = -x.inside(x.log_p), x.g
    if true_share is not None and spread is not None:  # none goes to a class that is switched off
        ce = true_share * ce - spread * x.labels * jnp.where(switched_off(x.log_p), 0, x.log_p)
    if weights is not None:
        ce, weight = weights * ce, weights * weight
    return counts_of(x), ce, weight


def _dice_focal_of(x: Pixel, gamma: Array, alpha: Array | None) -> tuple[Counts, Array, Array]:
    """Soft counts, the focal loss, and its weight."""
    loss = x.inside(focal(x.log_p, gamma))
    return counts_of(x), loss if alpha is None else alpha * loss, x.g


def _exponential_of(x: Pixel, gamma: Array, weights: Array | None) -> tuple[Counts, Array, Array]:
    """Soft counts, ``u (-log p)^gamma``, and its weight."""
    loss = x.inside(safe_power(-x.log_p, gamma))
    return counts_of(x), loss if weights is None else weights * loss, x.g


def _targets(smoothing: Array | None, classes: int) -> tuple[Array | None, Array | None]:
    """The share of a label that stays with its class, and the share that is added to each class."""
    return (None, None) if smoothing is None else (1 - smoothing, smoothing / classes)


def _per_class(weights: Array | None, *sums: Array) -> tuple[Array, ...]:
    """Sums ``[..., C]`` times the weights of the classes."""
    if weights is None:
        return sums
    return tuple(along_classes(weights, x) * x for x in sums)


def _given_classes(pixels: Pixels, counts: Counts) -> Counts:
    """The counts of the classes that have a logit: of one logit, only those of "it"."""
    return Counts(*(x[..., -pixels.scores.shape[-1] :] for x in counts))


def _dice(smooth: ArrayLike) -> Callable[[Counts], Array]:
    return lambda counts: 1 - dice(counts, smooth=smooth, zero_division=1.0)


def _compound(
    pixels: Pixels,
    sums: tuple[Counts, Array, Array],
    region: Callable[[Counts], Array],
    class_weights: Array | None = None,
    **weights: ArrayLike,
) -> Array:
    """The weighted sum of a region loss and a pixel loss; the weights are in this order."""
    counts, loss, weight = sums
    regions = _region_mean(pixels, counts, region, class_weights)
    return _weighted_sum((regions, _global_mean(pixels, loss, weight)), weights)


def _region_mean(
    pixels: Pixels,
    counts: Counts,
    region: Callable[[Counts], Array],
    class_weights: Array | None,
) -> Array:
    """Mean of a region loss over the classes, and over the images that have a valid pixel.

    An image has the mean of its pixels' weights. With a mask or weights per class, the mean is over
    the pairs of an image and a class that have a valid pixel.
    """
    loss = region(counts)
    if pixels.where is not None and pixels.where.ndim == pixels.scores.ndim:
        # The counts of a class sum to the weights of its pixels.
        total = jax.lax.stop_gradient(counts.tp + counts.fp + counts.fn + counts.tn)
        share = safe_divide(total, pixels.pixel_count().astype(loss.dtype), 0)
        if class_weights is not None:
            share *= along_classes(class_weights, loss)
        return _global_mean(pixels, (share * loss).sum(-1), share.sum(-1))
    valid = pixels.over_devices(pixels.valid().any(pixels.axes).astype(jnp.int32)) > 0
    if pixels.where is None or valid.ndim == 0:  # without valid pixels the loss is 0 already
        valid = jnp.ones_like(valid)
    if class_weights is None:
        loss = loss.mean(-1)
    else:
        weights = along_classes(class_weights, loss)
        loss = safe_divide((weights * loss).sum(-1), weights.sum(), 0)
    if pixels.weights is not None and valid.ndim > 0:
        share = pixels.mean_weight(loss.dtype)
        return _global_mean(pixels, share * loss, share)
    return _global_mean(pixels, jnp.where(valid, loss, 0), valid.astype(loss.dtype))


def _global_mean(pixels: Pixels, total: Array, weight: Array) -> Array:
    """``total / weight``, summed over images and devices; 0 if the weights are 0."""
    total, weight = total.sum(), weight.sum()
    if pixels.axis_name is not None and 0 not in pixels.axes:  # otherwise they are summed already
        total, weight = psum_each((total, weight), pixels.axis_name)
    return safe_divide(total, weight, 0)


def _weighted_sum(values: tuple[Array, Array], weights: dict[str, ArrayLike]) -> Array:
    first, second = (
        value * _checks.check_scalar(name, weight).astype(value.dtype)
        for value, (name, weight) in zip(values, weights.items(), strict=True)
    )
    return first + second


def _output_weights(weights: Sequence[float] | ArrayLike) -> Any:
    """Weights ``[outputs]``; values are checked unless they are JAX arrays, which may be traced."""
    known = not any(isinstance(leaf, Array) for leaf in jax.tree.leaves(weights))
    array: Any = np.asarray(weights) if known else jnp.asarray(weights)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"weights must be real numbers, got {array.dtype}.")
    if array.ndim != 1:
        raise ValueError(f"weights must be one number per output, got shape {array.shape}.")
    if not known:
        return _checks.at_least_float32(array)
    if not (np.isfinite(array) & (array >= 0)).all() or not array.any():
        raise ValueError(f"weights must be finite, 0 or more and not all 0, got {weights}.")
    return array.astype(np.float64)


def _maps_per_output(
    labels: Any, where: Any, weights: Any, shapes: Sequence[tuple[int, ...]]
) -> list[tuple[Array, dict[str, Array | None]]]:
    """Labels, and where and weights, for each output: from a list, or from a map that is resized.

    Weights are passed only if they are given, since not every loss takes them.
    """
    own_labels = _per_output("labels", labels, shapes)
    shape = () if _is_list_of_maps(labels) else jnp.shape(labels)[: len(shapes[0]) - 1]
    if where is not None and not (_is_list_of_maps(labels) or _is_list_of_maps(where)):
        where = _checks.check_where(where, shape)
    if weights is not None and not (_is_list_of_maps(labels) or _is_list_of_maps(weights)):
        _, weights = _checks.check_where_and_weights(None, weights, (*shape, 1), "whole")
    options: list[dict[str, Array | None]] = [{"where": None} for _ in shapes]
    for name, given in (("where", where), ("weights", weights)):
        if given is not None:
            for own, x in zip(options, _per_output(name, given, shapes), strict=True):
                own[name] = x
    return list(zip(own_labels, options, strict=True))


def _per_output(name: str, maps: Any, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    if not _is_list_of_maps(maps):
        maps = _checks.as_array(maps)
        return [_nearest(name, maps, shape) for shape in shapes]
    if len(maps) != len(shapes):
        raise ValueError(
            f"A list of {name} needs one per output: {len(shapes)} outputs, {len(maps)} {name}."
        )
    return [_checks.as_array(x) for x in maps]


def _is_list_of_maps(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(isinstance(leaf, np.ndarray | Array) for leaf in x)


def _nearest(name: str, x: Array, shape: tuple[int, ...]) -> Array:
    """Resize a map ``[B, *space]``, or dense labels ``[B, *space, C]``, to an output's shape."""
    dense = name == "labels" and x.ndim == len(shape)
    shape = shape if dense else shape[:-1]
    fixed = (0, x.ndim - 1) if dense else (0,)
    if x.ndim != len(shape) or any(x.shape[a] != shape[a] for a in fixed):
        raise ValueError(f"{name} of shape {x.shape} cannot be resized to an output's {shape}.")
    for axis in set(range(x.ndim)) - set(fixed):
        if x.shape[axis] != shape[axis]:
            centres = (np.arange(shape[axis]) * 2 + 1) * x.shape[axis] // (2 * shape[axis])
            x = jnp.take(x, centres, axis)
    return x
