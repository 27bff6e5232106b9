"""Topology losses: overlap of skeletons, for thin and branching structures.

A label map is ``[batch, *space]`` here, unless ``spatial_axes`` says which of its axes are space;
for a map of two axes it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._boundary_losses import class_by_class
from jaxseg._checks import Axis, AxisName
from jaxseg._distance import check_spatial_axes, shift
from jaxseg._kernels.plain import Pixel
from jaxseg._numerics import safe_divide, sum_axis_by_axis
from jaxseg._pixel_sums import pixel_sums
from jaxseg._pixels import as_pixels
from jaxseg._region_losses import dice_loss

__all__ = ["cldice_loss", "dice_cldice_loss", "skeleton_recall_loss", "soft_skeleton"]

Axes = tuple[int, ...]
Sweeps = tuple[Axes, ...]
Choose = Callable[[Array, Array], Array]  # jnp.minimum or jnp.maximum


def soft_skeleton(
    probs: ArrayLike,
    *,
    iterations: int = 10,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
) -> Array:
    r"""Soft skeletons of probabilities or masks: what openings remove, over all radii.

    .. math:: S_0 = \max(x - open(x), 0), \quad x_k = erode(x_{k-1}), \quad
              S_k = S_{k-1} + (1 - S_{k-1}) \max(x_k - open(x_k), 0)

    An erosion is the minimum of a pixel and its face neighbours. An opening is an erosion and then
    the maximum of a pixel and all its neighbours, diagonal ones included.

    Args:
      probs: float in [0, 1], or bool, ``[batch, *space, C]``.
      iterations: the largest radius, in pixels, of structures that have a skeleton; static.
      spatial_axes: axes of the map, without the class axis, that are space, as in
        ``boundary_loss``.
      where: bool ``[batch, *space]``; False pixels are 0 and do not affect their neighbours.

    Returns:
      Float32 (float64 for float64 input) ``[batch, *space, C]`` in [0, 1]. Pixels outside
      the image erode nothing. Equal pixels of a neighbourhood share its gradient evenly.

    Raises:
      ValueError: no class axis, no spatial axis, a map of two axes without ``spatial_axes``,
        negative ``iterations``, ``where`` of another shape.
      TypeError: integers, ``where`` not bool, ``iterations`` that is not a static integer,
        ``spatial_axes`` that are not a tuple of integers.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> bar = jnp.zeros((1, 5, 7, 1)).at[:, 1:4, 1:6].set(1.0)
      >>> jaxseg.soft_skeleton(bar, iterations=2)[0, ..., 0].astype(int)
      Array([[0, 0, 0, 0, 0, 0, 0],
             [0, 0, 0, 0, 0, 0, 0],
             [0, 0, 1, 1, 1, 0, 0],
             [0, 0, 0, 0, 0, 0, 0],
             [0, 0, 0, 0, 0, 0, 0]], dtype=int32)

    References:
      S. Shit et al., "clDice: a novel topology-preserving loss function for tubular structure
      segmentation", 2021.
    """
    probs = _checks.as_array(probs)
    if probs.dtype == bool:
        probs = probs.astype(jnp.float32)
    probs = _checks.check_scores("probs", probs)
    space = check_spatial_axes(spatial_axes, probs.ndim - 1)
    where = _checks.clean_bools(_checks.check_where(where, probs.shape[:-1]))
    iterations = _check_times("iterations", iterations)
    return _soft_skeleton(_checks.at_least_float32(probs), where, space, iterations)


def cldice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    iterations: int = 10,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Centre-line Dice loss per class: how much of each skeleton lies in the other mask.

    .. math:: 1 - 2\,\frac{T_{prec}\,T_{sens}}{T_{prec} + T_{sens}}, \quad
              T_{prec} = \frac{\sum S(p)\,g + smooth}{\sum S(p) + smooth}, \quad
              T_{sens} = \frac{\sum S(g)\,p + smooth}{\sum S(g) + smooth}

    with the soft skeleton S.

    Args:
      logits: float ``[batch, *space, C]``; probabilities if ``activation`` is None.
      labels: integer or bool ids ``[batch, *space]``, or dense bool or float ``[batch, *space,
        C]``.
      iterations: as in ``soft_skeleton``, at least the largest radius of the structures, since
        thicker ones have no skeleton; static.
      activation: "softmax" (C > 1), "sigmoid" or None.
      smooth: added to numerators and denominators as in the formula.
      spatial_axes: axes of the label map that are space, as in ``boundary_loss``.
      where: bool ``[batch, *space]``; False pixels do not count, whatever they hold.
      weights: float ``[batch, *space]``, or 1 along shared axes, as in ``dice_loss``. They multiply
        what a pixel adds to the sums; its skeleton does not depend on them.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body that split the batch.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1]. A prediction that fills the image
      has no skeleton, so it costs nothing if the target is empty: add a region loss, or use
      ``dice_cldice_loss``.

    Raises:
      ValueError, TypeError: as ``boundary_loss``; ``iterations`` that is not a static integer of 0
        or more.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((1, 5, 7), jnp.int32).at[:, 2, 1:6].set(1)
      >>> logits = jnp.full((1, 5, 7, 1), -9.0).at[:, 2, 1:6].set(9.0)
      >>> gap = logits.at[:, 2, 3].set(-9.0)
      >>> [jaxseg.cldice_loss(x, labels, activation="sigmoid").item() for x in (logits, gap)]
      [0.0001, 0.0909]

    References:
      S. Shit et al., "clDice: a novel topology-preserving loss function for tubular structure
      segmentation", 2021.

    Note:
      The authors' code ignores its number of iterations and sums over the batch, like
      ``axis=None``. MONAI 1.6 takes each image by itself, like ``axis=(1, 2)``, and sums over its
      classes too.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    p, where = pixels.probs(), None if pixels.where is None else pixels.valid()
    g = pixels.truth().astype(p.dtype)
    iterations = _check_times("iterations", iterations)
    weights = None if pixels.weights is None else pixels.weigh(jnp.ones_like(p[..., 0]))
    sums = _cldice_sums(p, g, where, weights, pixels.axes, space, iterations)
    hits, predicted, found, true = pixels.over_devices(sums)
    (smooth,) = _checks.check_broadcasts(hits.shape, smooth=smooth)
    precision = safe_divide(hits + smooth, predicted + smooth, 1)
    sensitivity = safe_divide(found + smooth, true + smooth, 1)
    return 1 - safe_divide(2 * precision * sensitivity, precision + sensitivity, 0)


def dice_cldice_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    cldice_weight: ArrayLike = 0.5,
    iterations: int = 10,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Weighted sum of the Dice loss and the centre-line Dice loss per class.

    .. math:: (1 - \alpha)\,(1 - dice) + \alpha\,(1 - clDice)

    Args:
      cldice_weight: alpha.
      logits, labels, iterations, activation, smooth: as in ``cldice_loss``; smooth is passed to
        ``dice_loss`` too.
      spatial_axes, where, weights, axis, axis_name: as in ``cldice_loss``.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1].

    Raises:
      ValueError, TypeError: as ``cldice_loss``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((1, 5, 7), jnp.int32).at[:, 2, 1:6].set(1)
      >>> gap = jnp.full((1, 5, 7, 1), -9.0).at[:, 2, 1:6].set(9.0).at[:, 2, 3].set(-9.0)
      >>> jaxseg.dice_cldice_loss(gap, labels, activation="sigmoid").tolist()
      [0.0957]

    References:
      S. Shit et al., "clDice: a novel topology-preserving loss function for tubular structure
      segmentation", 2021.
    """
    weight = _checks.check_scalar("cldice_weight", cldice_weight)
    region = dice_loss(
        logits,
        labels,
        activation=activation,
        smooth=smooth,
        where=where,
        weights=weights,
        axis=axis,
        axis_name=axis_name,
    )
    topology = cldice_loss(
        logits,
        labels,
        iterations=iterations,
        activation=activation,
        smooth=smooth,
        spatial_axes=spatial_axes,
        where=where,
        weights=weights,
        axis=axis,
        axis_name=axis_name,
    )
    weight = weight.astype(region.dtype)
    return region * (1 - weight) + topology * weight


def skeleton_recall_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    skeletons: ArrayLike | None = None,
    iterations: int = 10,
    radius: int = 2,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    smooth: ArrayLike = 1.0,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Skeleton recall loss per class: how much of the true skeleton is missed.

    .. math:: 1 - \frac{\sum p\,t + smooth}{\sum t + smooth}

    with the tube t: the skeleton of the true class, dilated within the class.

    Args:
      skeletons: the tubes t, used as they are: ids ``[batch, *space]``, or dense ``[batch, *space,
        C]``, like labels. None makes them from the labels by ``soft_skeleton`` in every call.
      iterations: as in ``soft_skeleton``.
      radius: how often the skeleton is dilated by its face neighbours; static.
      logits, labels, activation, smooth, spatial_axes, where, weights, axis, axis_name: as in
        ``cldice_loss``.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1]. As it is a recall, false
      positives cost nothing, so use it beside a region loss.

    Raises:
      ValueError, TypeError: as ``cldice_loss``; a ``radius`` that is not a static integer of 0
        or more.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((1, 5, 7), jnp.int32).at[:, 2, 1:6].set(1)
      >>> gap = jnp.full((1, 5, 7, 1), -9.0).at[:, 2, 1:6].set(9.0).at[:, 2, 3].set(-9.0)
      >>> jaxseg.skeleton_recall_loss(gap, labels, activation="sigmoid").tolist()
      [0.1667]

    References:
      Y. Kirchhoff et al., "Skeleton recall loss for connectivity conserving and resource efficient
      segmentation of thin tubular structures", 2024.

    Note:
      The authors thin the labels with scikit-image and dilate the result twice when they load data.
      Such tubes can be passed as ``skeletons``.
    """
    pixels = as_pixels(logits, labels, activation, where, weights, axis, axis_name)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    iterations, radius = _check_times("iterations", iterations), _check_times("radius", radius)
    if skeletons is None:
        where = None if pixels.where is None else pixels.valid()
        truth = pixels.truth().astype(_checks.at_least_float32(pixels.scores).dtype)
        tube = _tubes(truth, where, space, iterations, radius)
    else:
        tubes = _checks.as_array(skeletons)
        tubes = _checks.check_label_format("logits", pixels.scores.shape, tubes)
        tube = pixels._replace(labels=tubes).truth()
    found, true = pixel_sums(_found_of, pixels, maps=(tube,))
    (smooth,) = _checks.check_broadcasts(found.shape, smooth=smooth)
    return 1 - safe_divide(found + smooth, true + smooth, 1)


def _found_of(x: Pixel, tube: Array) -> tuple[Array, Array]:
    """The part of a tube that the prediction finds, and the tube."""
    return x.p * tube, tube


def _check_times(name: str, times: int) -> int:
    return _checks.check_static_integer(name, times, 0, 2**31)


@partial(jax.jit, static_argnums=(2, 3))
def _soft_skeleton(
    probs: Array, where: Array | None, space: tuple[int, ...], iterations: int
) -> Array:
    return class_by_class(lambda x: _skeleton(x, where, space, iterations), probs)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _cldice_sums(
    p: Array,
    g: Array,
    where: Array | None,
    weights: Array | None,
    axes: tuple[int, ...],
    space: tuple[int, ...],
    iterations: int,
) -> tuple[Array, ...]:
    """The weighted sums of S(p) g, S(p), S(g) p and S(g)."""

    def class_sums(p: Array, g: Array) -> Any:
        s_p, s_g = (_skeleton(x, where, space, iterations) for x in (p, g))
        values = [s_p * g, s_p, s_g * p, s_g]
        if weights is not None:
            values = [weights * x for x in values]
        return tuple(sum_axis_by_axis(x, axes) for x in values)

    return class_by_class(class_sums, p, g)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _tubes(
    truth: Array, where: Array | None, space: tuple[int, ...], iterations: int, radius: int
) -> Array:
    """Skeletons of the truth, dilated within it."""

    def class_tube(truth: Array) -> Array:
        tube = _skeleton(truth, where, space, iterations)
        for _ in range(radius):
            tube = _extreme(jnp.maximum, (space,), tube)
        return tube * truth

    return class_by_class(class_tube, truth)


def _skeleton(x: Array, where: Array | None, space: tuple[int, ...], iterations: int) -> Array:
    """The soft skeleton of one class, ``[*map]``; the residuals are two arrays per iteration."""

    def only_valid(x: Array, other: float) -> Array:
        return x if where is None else jnp.where(where, x, other)

    def erode(x: Array) -> Array:
        return only_valid(_extreme(jnp.minimum, (space,), only_valid(x, jnp.inf)), 0)

    def dilate(x: Array) -> Array:
        sweeps = tuple((axis,) for axis in space)
        return only_valid(_extreme(jnp.maximum, sweeps, only_valid(x, -jnp.inf)), 0)

    @jax.checkpoint
    def step(state: tuple[Array, Array], _: None) -> Any:
        x, skeleton = state
        eroded = erode(x)
        ridge = jnp.maximum(x - dilate(eroded), 0)  # what an opening takes away
        return (eroded, skeleton + (1 - skeleton) * ridge), None

    x = only_valid(x, 0)
    empty = jnp.where(False, x, 0)  # sharded like x
    return lax.scan(step, (x, empty), length=iterations + 1)[0][1]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _extreme(choose: Choose, sweeps: Sweeps, x: Array) -> Array:
    """The minimum or maximum of the neighbourhood of each pixel.

    A sweep takes the minimum or maximum of each pixel and its neighbours along some axes, and the
    next sweep takes it of the result. The pixels that are equal to the result share its derivative
    evenly, so that the gradient of a flipped image is the flipped gradient.
    """
    outside = jnp.inf if choose is jnp.minimum else -jnp.inf
    for axes in sweeps:
        x = reduce(choose, _around(x, axes, outside))
    return x


@_extreme.defjvp
def _extreme_jvp(choose: Choose, sweeps: Sweeps, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    result, x = _extreme(choose, sweeps, x), lax.stop_gradient(x)
    max_equal = 3 ** sum(len(axes) for axes in sweeps)
    num_equal = jnp.ones_like(x, jnp.uint8 if max_equal < 256 else jnp.int32)
    for axes in sweeps:
        best = _extreme(choose, (axes,), x)
        equal = [value == best for value in _around(x, axes, jnp.nan)]

        def sum_equal(y: Array, axes: Axes = axes, equal: list[Array] = equal) -> Array:
            beside = _around(y, axes, 0)
            terms = [jnp.where(e, value, 0) for e, value in zip(equal, beside, strict=True)]
            return sum(terms[1:], terms[0])

        x, num_equal, tangent = best, sum_equal(num_equal), sum_equal(tangent)
    return result, tangent / jnp.maximum(num_equal, 1).astype(tangent.dtype)


def _around(x: Array, axes: Axes, outside: float) -> list[Array]:
    """Each pixel, and its neighbours along each of ``axes``."""
    return [x, *(shift(x, step, axis, outside) for axis in axes for step in (1, -1))]
