"""Region losses: 1 - score of soft counts, per class and unreduced.

All read the logits through ``soft_counts``, which is fast and lean. Their mean is the usual loss::

    loss = jaxseg.dice_loss(logits, labels).mean()

``[..., 1:]`` before the mean leaves the background out, ``axis=(1, 2)`` scores each image by
itself.
"""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg._checks import Axis, normalize_axis
from jaxseg._counts import Counts, soft_counts
from jaxseg._scores import dice, iou, tversky


def dice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    activation: str | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Soft Dice loss per class.

    .. math:: 1 - \frac{2\,tp + smooth}{2\,tp + fp + fn + smooth + eps}

    with the soft counts of the probabilities, ``2 tp + fp + fn`` being their sum and the labels'.

    Args:
      logits: float ``[..., C]``; probabilities if ``activation`` is None.
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]``.
      activation: "softmax" (C > 1), "sigmoid" or None.
      smooth: added to numerator and denominator. It also bounds the gradient where a class is
        absent: at most ``1 / smooth`` for a pixel.
      eps: added to the denominator alone.
      where: bool ``[...]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to sum over; None is all, pooled over the batch.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body over which the batch is split; pooled
        counts are summed over them.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1]. 0 where, without smooth, the
      class is in neither map and where no pixel counts.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits = jnp.array([[[2.0, -2.0], [1.0, 0.0]], [[-1.0, 1.0], [0.0, 3.0]]])
      >>> labels = jnp.array([[0, 0], [1, 1]])
      >>> jaxseg.dice_loss(logits, labels).tolist()
      [0.0929, 0.0886]
      >>> jax.grad(lambda x: jaxseg.dice_loss(x, labels).mean())(logits).shape
      (2, 2, 2)

    References:
      F. Milletari, N. Navab and S. Ahmadi, "V-Net", 2016, with sums in place of squared ones.

    Note:
      Optax's ``dice_loss`` cannot be jitted on probabilities, and its smooth of s is 2 s here;
      MONAI's default smooth of 1e-5 gives an absent class a gradient of 1e5 at every pixel.
    """
    c = _region_counts(logits, labels, activation, where, axis, axis_name)
    return 1 - dice(c, smooth=smooth, eps=eps, zero_division=1.0)


def iou_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    activation: str | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Soft IoU (Jaccard) loss per class.

    .. math:: 1 - \frac{tp + smooth}{tp + fp + fn + smooth + eps}

    Args:
      logits, labels, activation, smooth, eps, where, axis, axis_name: as in ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [-3.0], [0.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.iou_loss(logits, masks, activation="sigmoid").tolist()
      [0.2335]

    References:
      M. A. Rahman and Y. Wang, "Optimizing intersection-over-union in deep neural networks for
      image segmentation", 2016.

    Note:
      MONAI's Jaccard loss is this with half of its ``smooth_nr`` as smooth.
    """
    c = _region_counts(logits, labels, activation, where, axis, axis_name)
    return 1 - iou(c, smooth=smooth, eps=eps, zero_division=1.0)


def tversky_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    activation: str | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Tversky loss per class: false positives and misses weighed apart.

    .. math:: 1 - \frac{tp + smooth}{tp + \alpha\,fp + \beta\,fn + smooth + eps}

    Args:
      alpha: weight of false positives.
      beta: weight of false negatives; above alpha, it favours recall.
      logits, labels, activation, smooth, eps, where, axis, axis_name: as in ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [3.0], [-3.0]]), jnp.array([1, 0, 0])
      >>> loss = jaxseg.tversky_loss(logits, masks, alpha=0.3, beta=0.7, activation="sigmoid")
      >>> loss.tolist()
      [0.1458]

    References:
      S. S. M. Salehi, D. Erdogmus and A. Gholipour, "Tversky loss function for image segmentation
      using 3D fully convolutional deep networks", 2017.

    Note:
      Keras 3.15 has alpha and beta the other way round.
    """
    c = _region_counts(logits, labels, activation, where, axis, axis_name)
    return 1 - tversky(c, alpha=alpha, beta=beta, smooth=smooth, eps=eps, zero_division=1.0)


def focal_tversky_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 0.3,
    beta: ArrayLike = 0.7,
    gamma: ArrayLike = 0.75,
    activation: str | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Array:
    r"""Focal Tversky loss per class: a power of the Tversky loss.

    .. math:: \left(1 - \frac{tp + smooth}{tp + \alpha\,fp + \beta\,fn + smooth + eps}\right)^\gamma

    Args:
      alpha: weight of false positives.
      beta: weight of false negatives.
      gamma: below 1 it stresses classes that are nearly right; the paper's gamma of 4/3 is 3/4
        here.
      logits, labels, activation, smooth, eps, where, axis, axis_name: as in ``dice_loss``.

    Returns:
      Float array ``[..., C]`` in [0, 1]. The gradient at 0 is taken as 0, where it is infinite for
      gamma below 1.

    Raises:
      ValueError, TypeError: as ``soft_counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> logits, masks = jnp.array([[3.0], [3.0], [-3.0]]), jnp.array([1, 0, 0])
      >>> jaxseg.focal_tversky_loss(logits, masks, activation="sigmoid").tolist()
      [0.2359]

    References:
      N. Abraham and N. M. Khan, "A novel focal Tversky loss function with improved attention U-Net
      for lesion segmentation", 2019.

    Note:
      Segmentation Models' Tversky loss with gamma below 1 has a NaN gradient at perfect overlap.
    """
    c = _region_counts(logits, labels, activation, where, axis, axis_name)
    loss = 1 - tversky(c, alpha=alpha, beta=beta, smooth=smooth, eps=eps, zero_division=1.0)
    zero = loss <= 0  # rounding can leave it below; NaN stays NaN
    return jnp.where(zero, 0, jnp.where(zero, 1, loss) ** gamma)


def _region_counts(
    logits: ArrayLike,
    labels: ArrayLike,
    activation: str | None,
    where: ArrayLike | None,
    axis: Axis,
    axis_name: str | tuple[str, ...] | None,
) -> Counts:
    c = soft_counts(logits, labels, activation=activation, where=where, axis=axis)
    return (
        c
        if axis_name is None or not pools_batch(axis, jnp.ndim(logits) - 1)
        else lax.psum(c, axis_name)
    )


def pools_batch(axis: Axis, ndim: int) -> bool:
    """Whether the label map's first axis is summed: then images on other devices belong to it."""
    return 0 in normalize_axis(axis, ndim)
