"""Topology losses: overlap of skeletons, for thin and branching structures.

A label map is ``[batch, *space]`` here, unless ``spatial_axes`` says which of its axes are space; a
map of two axes must say.
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
    r"""Soft skeletons of probabilities or masks: what openings remove, at all radii.

    .. math:: S_0 = \max(x - open(x), 0), \quad x_k = erode(x_{k-1}), \quad
              S_k = S_{k-1} + (1 - S_{k-1}) \max(x_k - open(x_k), 0)

    with the erosion the least of a pixel and its face neighbours, and the opening an erosion and
    then the greatest of a pixel and all its neighbours.

    Args:
      probs: float, in [0, 1], or bool ``[batch, *space, C]``.
      iterations: the largest radius, in pixels, of what still has a skeleton; static.
      spatial_axes: axes of the map, without the class axis, that are space, as in
        ``boundary_loss``.
      where: bool ``[batch, *space]``; False pixels neither erode nor grow into others, and are 0.

    Returns:
      Float32 (float64 for float64 input) ``[batch, *space, C]`` in [0, 1]. Outside the image there
      is nothing that erodes. Equal pixels of a neighbourhood share its gradient evenly.

    Raises:
      ValueError: no class axis, no spatial axis, a map of two axes without ``spatial_axes``,
        negative ``iterations``, ``where`` of another shape.
      TypeError: integers, ``where`` not bool, ``iterations`` that are no static integer,
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
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Centre-line Dice loss per class: how far each skeleton lies in the other mask.

    .. math:: 1 - 2\,\frac{T_{prec}\,T_{sens}}{T_{prec} + T_{sens}}, \quad
              T_{prec} = \frac{\sum S(p)\,g + smooth}{\sum S(p) + smooth}, \quad
              T_{sens} = \frac{\sum S(g)\,p + smooth}{\sum S(g) + smooth}

    with the soft skeleton S.

    Args:
      logits: float ``[batch, *space, C]``; probabilities if ``activation`` is None.
      labels: integer or bool ids ``[batch, *space]``, or dense bool or float ``[batch, *space,
        C]``.
      iterations: of ``soft_skeleton``: at least the largest radius of the structures, or thick
        ones have no skeleton; static.
      activation: "softmax" (C > 1), "sigmoid" or None.
      smooth: added to the numerators and denominators as printed.
      spatial_axes: axes of the label map that are space, as in ``boundary_loss``.
      where: bool ``[batch, *space]``; False pixels do not count, whatever they hold.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.
      axis_name: mesh axes of a ``shard_map`` or ``pmap`` body over which the batch is split.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1]. A prediction that fills the image
      has no skeleton, and costs nothing where the target is empty: use a region loss beside it, or
      ``dice_cldice_loss``.

    Raises:
      ValueError, TypeError: as ``boundary_loss``; ``iterations`` that are no static integer of 0 or
        more.

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
      The authors' code ignores its number of iterations and sums over the batch, ``axis=None``.
      MONAI 1.6 takes each image by itself, ``axis=(1, 2)``, and sums over its classes too.
    """
    pixels = as_pixels(logits, labels, activation, where, axis, axis_name)
    space = check_spatial_axes(spatial_axes, pixels.scores.ndim - 1)
    p, where = pixels.probs(), None if pixels.where is None else pixels.valid()
    g = pixels.truth().astype(p.dtype)
    iterations = _check_times("iterations", iterations)
    sums = _cldice_sums(p, g, where, pixels.axes, space, iterations)
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
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Dice and centre-line Dice loss per class.

    .. math:: (1 - \alpha)\,(1 - dice) + \alpha\,(1 - clDice)

    Args:
      cldice_weight: alpha.
      logits, labels, iterations, activation, smooth, spatial_axes, where, axis, axis_name: as in
        ``cldice_loss``; smooth is also that of ``dice_loss``.

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
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Skeleton recall loss per class: how much of the true skeleton is missed.

    .. math:: 1 - \frac{\sum p\,t + smooth}{\sum t + smooth}

    with the tube t: the true class's skeleton, dilated, within the class.

    Args:
      skeletons: the tubes t, if made before: ids ``[batch, *space]``, or dense ``[batch, *space,
        C]``, as labels are; taken as they are. Else made of the labels by ``soft_skeleton``, once a
        call.
      iterations: of ``soft_skeleton``.
      radius: how many times the skeleton is dilated by its face neighbours; static.
      logits, labels, activation, smooth, spatial_axes, where, axis, axis_name: as in
        ``cldice_loss``.

    Returns:
      Float32 (float64 for float64 logits) ``[..., C]`` in [0, 1]. It is a recall: false positives
      cost nothing, so use it beside a region loss.

    Raises:
      ValueError, TypeError: as ``cldice_loss``; a ``radius`` that is no static integer of 0 or
        more.

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
      The authors thin the labels with scikit-image and dilate them twice while loading them: pass
      such tubes as ``skeletons``.
    """
    pixels = as_pixels(logits, labels, activation, where, axis, axis_name)
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
    """What the prediction finds of a tube, and the tube."""
    return x.p * tube, tube


def _check_times(name: str, times: int) -> int:
    return _checks.check_static_integer(name, times, 0, 2**31)


@partial(jax.jit, static_argnums=(2, 3))
def _soft_skeleton(
    probs: Array, where: Array | None, space: tuple[int, ...], iterations: int
) -> Array:
    return class_by_class(lambda x: _skeleton(x, where, space, iterations), probs)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _cldice_sums(
    p: Array,
    g: Array,
    where: Array | None,
    axes: tuple[int, ...],
    space: tuple[int, ...],
    iterations: int,
) -> tuple[Array, ...]:
    """Sums of S(p) g, of S(p), of S(g) p and of S(g)."""

    def of_class(p: Array, g: Array) -> Any:
        of_p, of_g = (_skeleton(x, where, space, iterations) for x in (p, g))
        return tuple(sum_axis_by_axis(x, axes) for x in (of_p * g, of_p, of_g * p, of_g))

    return class_by_class(of_class, p, g)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _tubes(
    truth: Array, where: Array | None, space: tuple[int, ...], iterations: int, radius: int
) -> Array:
    """Skeletons of the truth, dilated within it."""

    def of_class(truth: Array) -> Array:
        tube = _skeleton(truth, where, space, iterations)
        for _ in range(radius):
            tube = _extreme(jnp.maximum, (space,), tube)
        return tube * truth

    return class_by_class(of_class, truth)


def _skeleton(x: Array, where: Array | None, space: tuple[int, ...], iterations: int) -> Array:
    """Soft skeleton of ``[*map]``; the backward pass keeps two arrays of each iteration."""

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
    nothing = jnp.where(False, x, 0)  # sharded as x is
    return lax.scan(step, (x, nothing), length=iterations + 1)[0][1]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _extreme(choose: Choose, sweeps: Sweeps, x: Array) -> Array:
    """The least or greatest of each pixel's neighbourhood.

    A sweep takes that of a pixel and its neighbours along some axes; the next goes on from there.
    The derivative is shared evenly by the pixels of the neighbourhood that are equal to it, as is
    needed for an image turned over to have its gradient turned over.
    """
    outside = jnp.inf if choose is jnp.minimum else -jnp.inf
    for axes in sweeps:
        x = reduce(choose, _around(x, axes, outside))
    return x


@_extreme.defjvp
def _extreme_jvp(choose: Choose, sweeps: Sweeps, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    result, x = _extreme(choose, sweeps, x), lax.stop_gradient(x)
    most = 3 ** sum(len(axes) for axes in sweeps)
    pixels = jnp.ones_like(x, jnp.uint8 if most < 256 else jnp.int32)  # those equal to x
    for axes in sweeps:
        best = _extreme(choose, (axes,), x)
        equal = [value == best for value in _around(x, axes, jnp.nan)]

        def of_equal(y: Array, axes: Axes = axes, equal: list[Array] = equal) -> Array:
            beside = _around(y, axes, 0)
            terms = [jnp.where(e, value, 0) for e, value in zip(equal, beside, strict=True)]
            return sum(terms[1:], terms[0])

        x, pixels, tangent = best, of_equal(pixels), of_equal(tangent)
    return result, tangent / jnp.maximum(pixels, 1).astype(tangent.dtype)


def _around(x: Array, axes: Axes, outside: float) -> list[Array]:
    """Each pixel, and its neighbours along each of ``axes``."""
    return [x, *(shift(x, step, axis, outside) for axis in axes for step in (1, -1))]
