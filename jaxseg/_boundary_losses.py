"""Boundary losses: errors weighted by their distance from the true boundary.

A label map is ``[batch, *space]`` here, unless ``spatial_axes`` says which of its axes are space;
for a map of two axes it has to. Distances are taken in each image by itself. The edge of ``where``
is no boundary.

These losses depend little on the size of a class, so use them beside a region loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._checks import Axis, AxisName
from jaxseg._counts import counts
from jaxseg._distance import (
    Spacing,
    Spacings,
    axis_spacings,
    check_spatial_axes,
    distances_along,
    shift,
)
from jaxseg._kernels.plain import Pixel
from jaxseg._labels import masked
from jaxseg._numerics import safe_divide, sum_axis_by_axis
from jaxseg._pixel_sums import pixel_sums
from jaxseg._pixels import Pixels, as_pixels
from jaxseg._sharding import placed_as, uncut
from jaxseg._soft_counts import squared_counts_of

__all__ = ["boundary_dou_loss", "boundary_loss", "hausdorff_dt_loss", "hausdorff_erosion_loss"]

T = TypeVar("T")


def boundary_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    distances: ArrayLike | None = None,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    spacing: Spacing = 1.0,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Boundary loss per class: probabilities times the signed distance to the true boundary.

    .. math:: \frac{1}{N} \sum_n p_n\, \phi_n

    with N the number of valid pixels, and the distance phi positive outside the class and negative
    inside, like that of ``signed_distance``.

    Args:
      logits: float ``[batch, *space, C]``; probabilities if ``activation`` is None.
      labels: integer or bool ids ``[batch, *space]``, or dense bool or float ``[batch, *space,
        C]``; a float of 0.5 or more is the class.
      distances: the distances phi, float ``[batch, *space, C]``; None computes them from the labels
        in every call.
      activation: "softmax" (C > 1), "sigmoid" or None.
      spacing: distance of neighbouring pixels: a number, or one per spatial axis.
      spatial_axes: a tuple of the axes of the label map that are space; None is all but the first,
        if there are three or more. One image ``[H, W]``, as in ``jax.vmap`` over images, needs
        ``(0, 1)``, and one volume ``[D, H, W]`` needs ``(0, 1, 2)``.
      where: bool ``[batch, *space]``; False pixels do not count, whatever they hold.
      weights: float ``[batch, *space]``, or 1 along shared axes, as in ``dice_loss``. The mean is
        the weighted one; distances and edges do not depend on weights above 0.
      axis: axes of the label map to average over; None averages over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]``, in the units of ``spacing``; negative where
      the prediction is right. A class that is absent from an image or fills it has no boundary: its
      distances are then the smallest spacing, so that false positives cost something.

    Raises:
      ValueError: shapes that do not fit, an unknown ``activation``, no spatial axis, a map of two
        axes without ``spatial_axes``, ``spacing`` not positive and finite or not one per axis.
      TypeError: logits that are not floating point, float ids, ``where`` not bool, ``spatial_axes``
        that are not a tuple of integers, complex ``distances``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.array([[[0, 1, 1, 0, 0]]])  # [batch, H, W]
      >>> logits = jnp.array([[[[-9.0], [9.0], [9.0], [-9.0], [-9.0]]]])
      >>> jaxseg.boundary_loss(logits, labels, activation="sigmoid").tolist()
      [-0.3998]
      >>> jaxseg.boundary_loss(-logits, labels, activation="sigmoid").tolist()
      [0.7998]

    References:
      H. Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019.

    Note:
      The distances of the authors and of MONAI are larger by 1 inside. In MONAI an empty target
      costs nothing, whatever is predicted.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    if distances is None:
        phi = _distance_maps("signed", pixels.masks(), spacing, space)
    else:
        phi = _checks.as_array(distances)
        if not _checks.is_real(phi):
            raise TypeError(f"distances must be floating point, got {phi.dtype}.")
        if phi.shape != pixels.scores.shape:
            raise ValueError(
                f"distances must have the shape of logits {pixels.scores.shape}, got {phi.shape}."
            )
    return _mean(pixels, pixel_sums(_distance_of, pixels, maps=(phi,)))


def hausdorff_dt_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 2.0,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    spacing: Spacing = 1.0,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Hausdorff loss per class by distance transforms: errors weighted by how far off they are.

    .. math:: \frac{1}{N} \sum_n (p_n - g_n)^2 \left(d_p(n)^\alpha + d_g(n)^\alpha\right)

    with the distances to the boundaries of the prediction (where p is above 0.5) and of the truth,
    which have no gradient.

    Args:
      alpha: exponent of the distances.
      logits, labels, activation, spacing, spatial_axes, where, weights, axis, axis_name: as in
        ``boundary_loss``.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]``, 0 or more, in the units of ``spacing`` to
      the power of alpha. For a target without a boundary the distances are the smallest
      spacing, so that false positives cost something; for a prediction without one they are 0.

    Raises:
      ValueError, TypeError: as ``boundary_loss``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.array([[[0, 1, 1, 0, 0]]])
      >>> logits = jnp.array([[[[-9.0], [9.0], [9.0], [-9.0], [9.0]]]])
      >>> jaxseg.hausdorff_dt_loss(logits, labels, activation="sigmoid").tolist()
      [0.9998]

    References:
      D. Karimi and S. E. Salcudean, "Reducing the Hausdorff distance in medical image segmentation
      with convolutional neural networks", 2019.

    Note:
      In MONAI the distances of a target without a boundary are 0, so false positives cost nothing
      if no probability is above 0.5.
    """
    alpha = _checks.check_scalar("alpha", alpha)
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    predicted = lax.stop_gradient(pixels.probs()) > 0.5
    far = [
        _distance_maps(kind, masks, spacing, space) ** alpha.astype(jnp.float32)
        for kind, masks in (("truth", pixels.masks()), ("prediction", predicted))
    ]
    return _mean(pixels, pixel_sums(_squared_error_of, pixels, maps=(far[0] + far[1],)))


def hausdorff_erosion_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 2.0,
    erosions: int = 10,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Hausdorff loss per class by erosion: errors weighted by how many erosions they survive.

    .. math:: \frac{1}{N} \sum_n \sum_{k=1}^{K} k^\alpha\, b_k(n), \quad b_0 = (p - g)^2, \quad
              b_k = \operatorname{rescale}(\max(b_{k-1} * B - 0.5,\ 0))

    with B the mean over a pixel and its face neighbours, with 0 outside the image. The values of
    each image and class are rescaled to [0, 1], unless all of them are equal.

    Args:
      alpha: exponent of the number of erosions.
      erosions: K, about half the thickness of the thickest errors, in pixels; static.
      logits, labels, activation, spatial_axes, where, weights, axis, axis_name: as in
        ``boundary_loss``.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]``, 0 or more. Errors that are one pixel thin
      vanish in the first erosion and cost nothing. Because of the rescaling, squares with an even
      side never vanish, so the loss grows only roughly with the thickness of errors.

    Raises:
      ValueError, TypeError: as ``boundary_loss``; ``erosions`` that is not a static integer of 1
        or more.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((1, 7, 7), jnp.int32)
      >>> logits = jnp.full((1, 7, 7, 1), -9.0).at[:, 1:6, 1:6].set(9.0)
      >>> jaxseg.hausdorff_erosion_loss(logits, labels, activation="sigmoid").tolist()
      [1.798]

    References:
      D. Karimi and S. E. Salcudean, "Reducing the Hausdorff distance in medical image segmentation
      with convolutional neural networks", 2019.
    """
    alpha = _checks.check_scalar("alpha", alpha)
    erosions = _checks.check_static_integer("erosions", erosions, 1, 2**31)
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    arrays = pixels.scores, pixels.labels, pixels.where, pixels.weights
    sums = _erosion_sums(*arrays, alpha, pixels.axes, activation, space, erosions)
    return _mean(pixels, pixels.over_devices(sums))


def boundary_dou_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Boundary difference-over-union loss per class: less credit for the inside of large objects.

    .. math:: 1 - \frac{(1 - a)\,I + smooth}{\sum p^2 + \sum g^2 - (1 + a)\,I + smooth + eps},
              \quad a = \min\left(1 - 2\,\frac{E + smooth}{G + smooth},\ 0.8\right)

    with I = sum p g, G the number of pixels of the class, and E the number of those with a face
    neighbour outside the class. Pixels outside the image are outside every class.

    Args:
      smooth, eps: as in ``dice_loss``, where the formula has them.
      logits, labels, activation, spatial_axes, where, weights, axis, axis_name: as in
        ``boundary_loss``.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1]. For an object that is all edge it
      is the Dice loss with squares, up to 9 times as steep as for an object with little edge.

    Raises:
      ValueError, TypeError: as ``boundary_loss``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((1, 9, 9), jnp.int32).at[:, 1:8, 1:8].set(1)
      >>> logits = jnp.full((1, 9, 9, 1), -9.0).at[:, 1:7, 1:8].set(9.0)
      >>> jaxseg.boundary_dou_loss(logits, labels, activation="sigmoid").tolist()
      [0.14]

    References:
      F. Sun, Z. Luo and S. Li, "Boundary difference over union loss for medical image
      segmentation", 2023.

    Note:
      The authors add smooth to numerator and denominator of the difference over union instead. Then
      a perfect prediction costs something, and false positives of an absent class cost nothing.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    edges, sizes = pixels.over_devices(_edges_and_sizes(pixels, space))
    c = pixel_sums(squared_counts_of, pixels)
    smooth, eps = _checks.check_broadcasts(c.tp.shape, smooth=smooth, eps=eps)
    edge_share = safe_divide(
        edges.astype(c.tp.dtype) + smooth, sizes.astype(c.tp.dtype) + smooth, 1
    )
    overlap = (1 - jnp.minimum(1 - 2 * edge_share, 0.8)) * c.tp
    return 1 - safe_divide(overlap + smooth, overlap + c.fp + c.fn + smooth + eps, 1)


# ---------------------------------------------------------------------------------- sums


def class_by_class(function: Callable[..., T], *arrays: Array) -> T:
    """Apply ``function`` to one class at a time, so that its temporaries are those of one class.

    The only residuals are the arrays. If the mesh cuts the classes, every device computes all.
    """
    class_cut = jax.typeof(arrays[0]).sharding.spec[-1]
    classes_first = tuple(jnp.moveaxis(uncut(x, (x.ndim - 1,)), -1, 0) for x in arrays)
    results = lax.map(jax.checkpoint(lambda one_class: function(*one_class)), classes_first)
    return jax.tree.map(
        lambda x: placed_as(jnp.moveaxis(x, 0, -1), P(*jax.typeof(x).sharding.spec[1:], class_cut)),
        results,
    )


def _mean(pixels: Pixels, sums: Array) -> Array:
    """Weighted mean over the valid pixels, per class."""
    return safe_divide(sums, pixels.total_weight(sums.dtype)[..., None], 0)


def _distance_of(x: Pixel, distances: Array) -> Array:
    return x.p * distances


def _squared_error_of(x: Pixel, far: Array) -> Array:
    return (x.p - x.g) ** 2 * far


def _edges_and_sizes(pixels: Pixels, space: tuple[int, ...]) -> tuple[Array, Array]:
    """How many pixels of each class are at its edge, and how many pixels it has."""
    labels, valid = _checks.clean_bools(pixels.labels), pixels.valid()
    if labels.ndim < pixels.scores.ndim:
        classes = pixels.scores.shape[-1]
        ids = labels == 1 if classes == 1 else labels
        edge = valid & _edges(ids, valid, space)
        count = partial(counts, ids, ids, num_classes=classes, axis=pixels.axes)
        return count(where=edge).tp, count(where=valid).tp
    masks = pixels.masks()
    edge = masks & _edges(masks, valid[..., None], space)
    edges, sizes = (x.sum(pixels.axes, dtype=jnp.int32) for x in (edge, masks))
    return edges, sizes


# ---------------------------------------------------------------------------------- erosions


def _extreme(x: Array, value: Array, axes: tuple[int, ...]) -> Array:
    """``value``, the minimum or maximum of ``x``; the pixels that have it share its gradient.

    JAX's own derivative compares exactly. If XLA computes ``x`` again for it and rounds otherwise,
    no pixel is equal, and the gradient is NaN. So this one compares with a tolerance.
    """
    value = lax.stop_gradient(value)
    has_it = jnp.abs(x - value) < 1e-6
    pixels = jnp.maximum(has_it.sum(axes, keepdims=True), 1).astype(x.dtype)
    mean = jnp.where(has_it, x, 0).sum(axes, keepdims=True) / pixels
    return value + (mean - lax.stop_gradient(mean))


def _erode(bound: Array, where: Array | None, space: tuple[int, ...]) -> Array:
    """A soft erosion of errors, rescaled to [0, 1]."""
    beside = [shift(bound, step, axis, 0) for axis in space for step in (1, -1)]
    soft = jnp.maximum(sum(beside, bound) / (2 * len(space) + 1) - 0.5, 0)
    low, high = (_extreme(soft, m(soft, space, keepdims=True), space) for m in (jnp.min, jnp.max))
    flat = high - low < 1e-6  # equal up to rounding errors, which rescaling would magnify
    rescaled = jnp.where(flat, soft, (soft - low) / jnp.where(flat, 1, high - low))
    return rescaled if where is None else jnp.where(where, rescaled, 0)


@partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _erosion_sums(
    scores: Array,
    labels: Array,
    where: Array | None,
    weights: Array | None,
    alpha: Array,
    axes: tuple[int, ...],
    activation: str | None,
    space: tuple[int, ...],
    erosions: int,
) -> Array:
    """Sums of the squared errors after each erosion, weighted by the erosion's number to alpha."""
    pixels = Pixels(scores, labels, where, axes, activation, None, weights)
    where = None if where is None else pixels.valid()

    def class_errors(p: Array, g: Array) -> Array:
        @jax.checkpoint  # keeps one array per erosion as residual
        def step(state: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
            bound = _erode(state[0], where, space)
            return (bound, state[1] + k ** alpha.astype(k.dtype) * bound), None

        start = ((p - g) ** 2, jnp.zeros_like(p * g))
        return lax.scan(step, start, jnp.arange(1, erosions + 1, dtype=p.dtype))[0][1]

    @jax.checkpoint  # the backward pass starts from the logits again
    def error_sums(scores: Array) -> Array:
        p = pixels._replace(scores=scores).probs()
        values = masked(class_by_class(class_errors, p, pixels.truth().astype(p.dtype)), where)
        return sum_axis_by_axis(pixels.weigh(values), axes)

    return error_sums(scores)


# ---------------------------------------------------------------------------------- distances


def _distance_maps(kind: str, masks: Array, spacing: Spacing, space: tuple[int, ...]) -> Array:
    """Distances ``[..., C]`` to the boundary of each class, in each image by itself.

    Without a boundary, the distances are the smallest spacing, or 0 for a prediction.
    """
    spacings = axis_spacings(spacing, len(space))
    smallest = jnp.asarray(spacings, jnp.float32).min()
    return _class_distances(masks, spacings, smallest, kind=kind, space=space)


@partial(jax.jit, static_argnames=("kind", "space"))
def _class_distances(
    masks: Array, spacings: Spacings, smallest: Array, *, kind: str, space: tuple[int, ...]
) -> Array:
    def distances(mask: Array) -> Array:
        to_mask, to_outside = (distances_along(m, space, spacings) for m in (mask, ~mask))
        if kind == "signed":
            d = to_mask - to_outside
            return jnp.where(jnp.isinf(d), jnp.sign(d) * smallest, d)
        d = to_mask + to_outside
        return jnp.where(jnp.isinf(d), smallest if kind == "truth" else 0, d)

    return class_by_class(distances, masks)


def _edges(classes: Array, valid: Array, space: tuple[int, ...]) -> Array:
    """Pixels at the image border, or with a valid face neighbour of another class."""
    edge = jnp.zeros_like(valid & (classes == classes))
    for axis in space:
        for step in (1, -1):
            differs = shift(classes, step, axis, 0) != classes
            outside = ~shift(jnp.ones_like(edge), step, axis, False)
            edge |= outside | (differs & shift(valid, step, axis, False))
    return edge
