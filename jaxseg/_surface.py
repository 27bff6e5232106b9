"""Distances between the surfaces of two masks, and every score that is made of them.

Arrays whose values are known are cut to the box that holds both masks, in NumPy, so that JAX
compiles for few shapes of boxes. In a trace the whole grid is transformed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial, reduce
from types import ModuleType
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._arithmetic import Leaf
from jaxseg._distance import (
    Spacing,
    Spacings,
    axis_spacings,
    check_mask,
    check_pair,
    distances_along,
)
from jaxseg._labels import membership
from jaxseg._sharding import placed_as, uncut
from jaxseg._surface_elements import areas, elements

__all__ = [
    "edges", "SurfaceDistances", "surface_distances", "hausdorff_distance",
    "average_surface_distance", "surface_dice", "boundary_f_score", "boundary_iou",
]  # fmt: skip

Points = np.ndarray  # int32 [axes, n]: where the elements of a surface are
Box = tuple[np.ndarray, np.ndarray]  # its first corner, and the one behind its last

_BLOCK = 2**15  # places of a surface that are taken at once on CPU
_LARGE = 2**20  # pixels of a box whose transform takes far longer than a thread's start

_boxes: list[tuple[int, ...]] = []  # the shapes for which this process has compiled a transform


class SurfaceDistances(NamedTuple):
    """Distances between two surfaces in both directions: arrays ``[..., n]``.

    ``from_predictions`` are the distances of the elements of the predicted surface to the true one,
    and ``from_labels`` those of the true surface's elements to the predicted one. The weights say
    which of the n places hold an element: bools, or the areas of the elements, 0 for none. Several
    images cannot be added: take scores of each.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.array([False, True, True, True, False])
      >>> d = jaxseg.surface_distances(jnp.roll(labels, 1), labels)
      >>> d.from_predictions[d.prediction_weights].tolist()
      [1.0, 1.0]
    """

    from_predictions: Leaf
    from_labels: Leaf
    prediction_weights: Leaf
    label_weights: Leaf

    def __add__(self, other: object) -> SurfaceDistances:
        raise TypeError("SurfaceDistances cannot be added. Add the moments of their scores.")

    def __radd__(self, other: object) -> SurfaceDistances:
        return self + other

    def __mul__(self, factor: object) -> SurfaceDistances:
        raise TypeError("SurfaceDistances cannot be multiplied.")

    def __rmul__(self, factor: object) -> SurfaceDistances:
        return self * factor


SurfaceDistances.__array_ufunc__ = None  # type: ignore[attr-defined]  # as for Counts
jax.export.register_namedtuple_serialization(
    SurfaceDistances, serialized_name="jaxseg.SurfaceDistances"
)


def edges(mask: ArrayLike) -> Array:
    r"""Edge pixels of a mask: those that have a face in common with the outside.

    .. math:: E = M \setminus (M \ominus \text{cross})

    Args:
      mask: bool ``[*space]``, of one axis or more; ``jax.vmap`` for a batch.

    Returns:
      Bool ``[*space]``. Pixels outside the image are background, so an object that the image cuts
      has an edge there.

    Raises:
      TypeError, ValueError: as ``distance_transform``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> jaxseg.edges(jnp.ones((3, 4), bool)).astype(int).tolist()
      [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]

    Note:
      As in MONAI, TorchMetrics, MetricsReloaded and panoptica. The ``find_boundaries`` of
      scikit-image has no edge along the image border.
    """
    mask = check_mask(mask)
    return placed_as(_edges(uncut(mask, range(mask.ndim))), jax.typeof(mask).sharding.spec)


def surface_distances(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int | None = None,
    spacing: Spacing = 1.0,
    where: ArrayLike | None = None,
    element_areas: bool = False,
) -> SurfaceDistances:
    r"""Distances from the surface of each of two masks to that of the other.

    .. math:: d(x, G) = \min_{y \in E(G)} \lVert (x - y) \cdot spacing \rVert_2
              \text{ for } x \in E(P), \quad
              d(x, P) = \min_{y \in E(P)} \lVert (x - y) \cdot spacing \rVert_2
              \text{ for } x \in E(G)

    with the ``edges`` E of both masks. All surface scores are functions of these numbers.

    Args:
      predictions: bool ``[*space]``, or with ``num_classes`` integer or bool ids ``[*space]``;
        ``jax.vmap`` for a batch.
      labels: the truth, in the same format and shape.
      num_classes: C, static. With 1, both are masks and id 1 is the class.
      spacing: as in ``distance_transform``.
      where: bool ``[*space]``; False pixels are in no mask, and their border is no surface.
      element_areas: whether surfaces lie between pixels, for two or three axes. Their elements are
        then those of marching cubes, one in each cell of 2 by 2 (by 2) pixels that are not alike,
        with its area, or in 2-D its length. Distances are those of the cells' centres. A cell with
        a pixel where ``where`` is False has none.

    Returns:
      ``SurfaceDistances`` of float32 ``[n]``, or ``[C, n]`` for ids. In a trace, n is the number of
      pixels (of cells, n + 1 along each axis of n pixels). Of known values, n is the number of edge
      pixels or elements (of the class that has the most), and the leaves are NumPy's, so that
      scores of them take no compilation. Distances to an empty mask are inf.

    Raises:
      TypeError: masks that are not bool, ids that are not integer, ``where`` not bool, a spacing
        that is not a real number.
      ValueError: arrays of different shapes, empty, without axes, or of 2**31 pixels or more; a
        spacing as in ``distance_transform``; ``element_areas`` of another number of axes than two
        or three.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((8, 9), bool).at[2:6, 2:6].set(True)
      >>> d = jaxseg.surface_distances(jnp.roll(labels, 1, 1), labels, spacing=(1.0, 3.0))
      >>> jaxseg.hausdorff_distance(d).item()
      3.0
      >>> jaxseg.surface_dice(d, tolerance=1.0).item()
      0.6667

    References:
      W. E. Lorensen and H. E. Cline, "Marching cubes: a high resolution 3D surface construction
      algorithm", 1987: the elements.

    Note:
      Without ``element_areas`` the surfaces are MONAI's, with it those of DeepMind's
      surface-distance 0.1, whose areas are the same in each of the 16 or 256 cases.
    """
    p, g, where = _checked(predictions, labels, num_classes, where)
    element_areas = _checks.check_static_bool("element_areas", element_areas)
    if element_areas and p.ndim not in (2, 3):
        raise ValueError(f"element_areas takes two or three axes, got shape {p.shape}.")
    spacings = axis_spacings(spacing, p.ndim)
    # The zero tells whether operations on known values are traced here.
    if all(_is_known(x) for x in jax.tree.leaves((p, g, where, spacings, jnp.zeros(())))):
        return _of_known(p, g, where, spacings, num_classes, element_areas)
    return _of_grid(p, g, where, spacings, num_classes, element_areas)


def hausdorff_distance(
    distances: SurfaceDistances,
    *,
    percentile: float = 100.0,
    method: Literal["max", "pooled", "mean", "directed"] = "max",
) -> Array:
    r"""Hausdorff distance of two surfaces, or a percentile of their distances such as HD95.

    .. math:: \max\left(\operatorname{perc}_{x \in E(P)} d(x, G),
              \operatorname{perc}_{x \in E(G)} d(x, P)\right)

    Args:
      distances: ``SurfaceDistances`` with leaves ``[..., n]``.
      percentile: in [0, 100], static. 100 is the maximum. Between two distances it is interpolated
        linearly; of element areas it is the least distance within which that part of the area lies.
      method: "max": the larger of the two directed percentiles; "mean": their mean; "pooled": the
        percentile of the distances in both directions together; "directed": both, the first of
        them from the predictions to the labels.

    Returns:
      Float32 ``[...]``, for "directed" ``[..., 2]``, in the units of the spacing: inf if one mask
      is empty, NaN if both are.

    Raises:
      TypeError: anything but ``SurfaceDistances``, a percentile that is not a number.
      ValueError: a percentile outside [0, 100], another ``method``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros(20, bool).at[4:8].set(True)
      >>> d = jaxseg.surface_distances(labels.at[10].set(True), labels)
      >>> jaxseg.hausdorff_distance(d).item(), jaxseg.hausdorff_distance(d, percentile=50).item()
      (3.0, 0.0)
      >>> jaxseg.hausdorff_distance(d, method="directed").tolist()
      [3.0, 0.0]

    References:
      D. P. Huttenlocher, G. A. Klanderman and W. J. Rucklidge, "Comparing images using the
      Hausdorff distance", 1993.

    Note:
      "max" is the HD95 of MONAI, "pooled" that of MedPy and panoptica. If one mask is empty, MONAI
      1.6's HD95 is NaN, so that a miss can improve a mean.
    """
    distances = _check_distances(distances)
    _checks.check_choice("method", method, ("max", "pooled", "mean", "directed"))
    number = _checks.check_real("percentile", percentile)
    if not isinstance(number, int | float):
        raise TypeError(
            "percentile must be a number known before tracing, "
            f"got {_checks.kind(percentile)}; under jit it belongs to static_argnames."
        )
    if not 0 <= number <= 100:
        raise ValueError(f"percentile must be in [0, 100], got {number}.")
    part = Fraction(number / 100).limit_denominator(2**15 - 1)
    return _run(_hausdorff, distances, part=part, method=method)


def average_surface_distance(
    distances: SurfaceDistances, *, method: Literal["pooled", "mean", "directed"] = "pooled"
) -> Array:
    r"""Average distance of two surfaces: ASSD, or MASD.

    .. math:: \frac{\sum_{x \in E(P)} d(x, G) + \sum_{x \in E(G)} d(x, P)}{|E(P)| + |E(G)|}

    Args:
      distances: ``SurfaceDistances`` with leaves ``[..., n]``.
      method: "pooled": the mean over the elements of both surfaces, ASSD; "mean": the mean of the
        two directed means, MASD; "directed": both, the first of them from the predictions to the
        labels.

    Returns:
      Float32 ``[...]``, for "directed" ``[..., 2]``, in the units of the spacing: inf if one mask
      is empty, NaN if both are.

    Raises:
      TypeError: anything but ``SurfaceDistances``.
      ValueError: another ``method``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros(20, bool).at[4:6].set(True)
      >>> d = jaxseg.surface_distances(labels.at[9].set(True), labels)
      >>> jaxseg.average_surface_distance(d).item()
      0.8
      >>> jaxseg.average_surface_distance(d, method="mean").item()
      0.6667

    Note:
      "pooled" is MONAI's with ``symmetric=True`` and MedPy's ASSD (0.4's was "mean"); panoptica has
      "mean".
    """
    distances = _check_distances(distances)
    _checks.check_choice("method", method, ("pooled", "mean", "directed"))
    return _run(_average, distances, method=method)


def surface_dice(
    distances: SurfaceDistances,
    *,
    tolerance: ArrayLike,
    method: Literal["pooled", "mean"] = "pooled",
) -> Array:
    r"""Surface Dice (NSD): the part of both surfaces that is within a tolerance of the other.

    .. math:: \frac{|\{x \in E(P) : d(x, G) \le \tau\}| + |\{x \in E(G) : d(x, P) \le \tau\}|}
              {|E(P)| + |E(G)|}

    Args:
      distances: ``SurfaceDistances`` with leaves ``[..., n]``.
      tolerance: in the units of the spacing, 0 or more: a number, or an array that broadcasts to
        ``[...]``, such as one per class. A distance equal to it in float32 is within.
      method: "pooled": the part of both surfaces together; "mean": the mean of the two parts.

    Returns:
      Float32 ``[...]`` in [0, 1]: 0 if one mask is empty, NaN if both are.

    Raises:
      TypeError: anything but ``SurfaceDistances``, a tolerance that is not a real number.
      ValueError: a negative tolerance or one of another shape, another ``method``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros(20, bool).at[4:6].set(True)
      >>> d = jaxseg.surface_distances(labels.at[9].set(True), labels)
      >>> jaxseg.surface_dice(d, tolerance=1.0).item()
      0.8

    References:
      S. Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and
      neck anatomy for radiotherapy", 2018.
    """
    distances = _check_distances(distances)
    _checks.check_choice("method", method, ("pooled", "mean"))
    return _run(_surface_dice, distances, _tolerance(tolerance, distances), method=method)


def boundary_f_score(distances: SurfaceDistances, *, tolerance: ArrayLike) -> Array:
    r"""Boundary F score (BF): harmonic mean of the precision and the recall of a surface.

    .. math:: \frac{2 P R}{P + R}, \quad P = \frac{|\{x \in E(P) : d(x, G) \le \tau\}|}{|E(P)|},
              \quad R = \frac{|\{x \in E(G) : d(x, P) \le \tau\}|}{|E(G)|}

    Args:
      distances: ``SurfaceDistances`` with leaves ``[..., n]``.
      tolerance: as in ``surface_dice``.

    Returns:
      Float32 ``[...]`` in [0, 1]: 0 if one mask is empty, NaN if both are.

    Raises:
      TypeError, ValueError: as ``surface_dice``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros(20, bool).at[4:6].set(True)
      >>> d = jaxseg.surface_distances(labels.at[9].set(True), labels)
      >>> jaxseg.boundary_f_score(d, tolerance=1.0).item()
      0.8

    References:
      G. Csurka, D. Larlus and F. Perronnin, "What is a good evaluation measure for semantic
      segmentation?", 2013.
    """
    distances = _check_distances(distances)
    return _run(_boundary_f_score, distances, _tolerance(tolerance, distances))


def boundary_iou(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int | None = None,
    method: Literal["erosion", "distance"] = "erosion",
    width: ArrayLike | None = None,
    spacing: Spacing = 1.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Boundary IoU: the IoU of the bands of two masks along their boundaries.

    .. math:: \frac{|B(P) \cap B(G)|}{|B(P) \cup B(G)|}, \quad
              B(M) = M \setminus (M \ominus \text{square}^{width}) \quad\text{or}\quad
              B(M) = \{x \in M : d(x, E(M)) \le width\}

    Args:
      predictions: bool ``[*space]``, or with ``num_classes`` ids, as in ``surface_distances``.
      labels: the truth, in the same format and shape.
      num_classes: C, static. With 1, both are masks and id 1 is the class.
      method: "erosion": what ``width`` erosions by a square of 3 by 3 pixels remove, for two axes;
        "distance": pixels of a mask within ``width`` of its ``edges``.
      width: for "erosion", how many, static; None is 2 % of the image's diagonal, rounded, and at
        least 1. For "distance" a number, in the units of the spacing, 0 or more.
      spacing: as in ``distance_transform``, for "distance".
      where: bool ``[*space]``; False pixels are in no mask, and their border is no boundary.

    Returns:
      Float32 ``[]``, or ``[C]`` for ids, in [0, 1]: 0 if one mask is empty, NaN if both are.

    Raises:
      TypeError, ValueError: as ``surface_distances``; another ``method``; erosions of another
        number of axes than two, or with a spacing; a ``width`` that is missing for "distance", or
        negative.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((12, 12), bool).at[2:10, 2:10].set(True)
      >>> predictions = labels.at[2].set(False)
      >>> jaxseg.boundary_iou(predictions, labels).item()
      0.5882
      >>> jaxseg.boundary_iou(predictions, labels, method="distance", width=1.0).item()
      0.7692

    References:
      B. Cheng et al., "Boundary IoU: improving object-centric image segmentation evaluation", 2021.
    """
    p, g, where = _checked(predictions, labels, num_classes, where)
    _checks.check_choice("method", method, ("erosion", "distance"))
    spacings = axis_spacings(spacing, p.ndim)
    if method == "erosion":
        if p.ndim != 2:
            raise ValueError(
                f"method='erosion' takes images of two axes, got shape {p.shape}; "
                "method='distance' takes any number."
            )
        if not np.isscalar(spacing) or spacing != 1:
            raise ValueError("method='erosion' counts pixels; spacing belongs to 'distance'.")
        erosions = max(1, round(0.02 * math.hypot(*p.shape))) if width is None else width
        erosions = _checks.check_static_integer("width", erosions, least=1)  # type: ignore[arg-type]
        return _boundary_iou(p, g, where, spacings, None, num_classes, erosions)
    if width is None:
        raise ValueError("method='distance' needs a width, in the units of the spacing.")
    width = _checks.check_scalar("width", width, "0 or more", lambda x: x >= 0)
    return _boundary_iou(p, g, where, spacings, width, num_classes, None)


# ---------------------------------------------------------------------------------- arguments


def _checked(
    predictions: ArrayLike, labels: ArrayLike, num_classes: int | None, where: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Check masks ``[*space]``, or ids of classes; their bools are not cleaned here."""
    p, g = _checks.as_raw_array(predictions), _checks.as_raw_array(labels)
    if num_classes is not None:
        _checks.check_num_classes(num_classes)
        p, g, where, _ = _checks.check_hard(p, g, where, None, dense=False)
    for name, x in (("predictions", p), ("labels", g)):
        if num_classes is None and x.dtype != bool:
            raise TypeError(
                f"{name} without num_classes must be a bool mask [*space], got {x.dtype}; "
                "give num_classes= for class ids."
            )
        if x.ndim == 0 or x.size == 0:
            raise ValueError(f"{name} must be [*space] and not empty, got shape {x.shape}.")
    check_pair(p, g)
    return p, g, _checks.check_where(where, p.shape)


def _check_distances(distances: object) -> SurfaceDistances:
    if not isinstance(distances, SurfaceDistances):
        raise TypeError(
            f"This takes SurfaceDistances, got {_checks.kind(distances)}. "
            "jaxseg.surface_distances makes them of two masks."
        )
    return distances


def _tolerance(tolerance: ArrayLike, distances: SurfaceDistances) -> Array | np.ndarray:
    """A tolerance in float32 that broadcasts along the last axis of the distances."""
    shape = np.shape(distances.from_predictions)[:-1]
    x = _checks.check_broadcast("tolerance", tolerance, shape)
    if isinstance(x, int | float):
        if not x >= 0:
            raise ValueError(f"tolerance must be 0 or more, got {x}.")
        return np.full((1,) * len(shape), x, np.float32)
    return x


def _is_known(x: Array) -> bool:
    return not isinstance(x, jax.core.Tracer) and x.is_fully_addressable


# ---------------------------------------------------------------------------------- surfaces


def _edges(mask: Leaf, where: Leaf = None, xp: ModuleType = jnp) -> Leaf:
    """Pixels of a mask with a valid neighbour outside it; those of no image are outside."""
    inside = xp.pad(mask if where is None else mask | ~where, 1)
    middle = (slice(1, -1),) * mask.ndim
    neighbours = [
        inside[(*middle[:axis], side, *middle[axis + 1 :])]
        for axis in range(mask.ndim)
        for side in (slice(2, None), slice(-2))
    ]
    edge = mask & ~reduce(xp.logical_and, neighbours)
    return edge if where is None else edge & where


def _masks(ids: Array, num_classes: int | None) -> Array:
    """Bool ``[C, *space]`` of ids; one mask, cleaned, without ``num_classes``."""
    ids = uncut(ids, range(ids.ndim))
    return (
        _checks.clean_bools(ids)
        if num_classes is None
        else membership(ids, num_classes, -1 - ids.ndim)
    )


@partial(jax.jit, static_argnames=("num_classes", "element_areas"))
def _of_grid(
    p: Array,
    g: Array,
    where: Array | None,
    spacings: Spacings,
    num_classes: int | None,
    element_areas: bool,
) -> SurfaceDistances:
    """The distances in every pixel of the grid."""
    where = None if where is None else _masks(where, None)

    def of_pair(p: Array, g: Array) -> SurfaceDistances:
        found: list[Array] = []
        p, g = ((elements if element_areas else _edges)(x, where) for x in (p, g))
        for _ in range(2):  # one transform after the other, so that one needs memory at a time
            surface = g != jnp.zeros((), g.dtype)
            distances = distances_along(surface, tuple(range(p.ndim)), spacings)
            distances = jnp.where(p != jnp.zeros((), p.dtype), distances, 0)
            zero = _zero_after(distances).astype(p.dtype)
            p, g, *found = lax.optimization_barrier((g | zero, p | zero, *found, distances))
        weights = [p, g]
        if element_areas:
            area = areas(jnp.broadcast_to(jnp.asarray(spacings, jnp.float32), (p.ndim,)))
            weights = [_looked_up(area, code) for code in weights]
        return SurfaceDistances(*(x.ravel() for x in (*found, *weights)))

    of_pairs = of_pair if num_classes is None else jax.vmap(of_pair)
    return of_pairs(_masks(p, num_classes), _masks(g, num_classes))


def _zero_after(distances: Array) -> Array:
    """False, but on CPU, where XLA removes barriers, known only after the distances are."""
    zero: Array = lax.platform_dependent(
        distances.ravel(),
        cpu=lambda x: x[:64].min() < 0,  # a minimum, as comparisons are fused and keep all of x
        default=lambda x: (x[0] < 0) & False,
    )
    return zero


def _looked_up(table: Array, index: Array) -> Array:
    """``table[index]``, sharded as the index is."""
    sharding = jax.typeof(index).sharding
    return table.at[index].get(out_sharding=None if sharding.mesh.empty else sharding)


# ---------------------------------------------------------------------------------- known values


def _of_known(
    p: Array,
    g: Array,
    where: Array | None,
    spacings: Spacings,
    num_classes: int | None,
    element_areas: bool,
) -> SurfaceDistances:
    """The distances at the elements alone, each class in its own box, with leaves of NumPy."""
    maps, valid = [np.asarray(x) for x in (p, g)], None if where is None else np.asarray(where)
    steps = np.broadcast_to(np.asarray(spacings, np.float32), p.ndim)
    of_pair = partial(_of_pair, maps, valid, spacings, areas(steps, np) if element_areas else None)
    if num_classes is None:
        pairs = [of_pair(_as_bools, slice(None))]
    else:
        pairs = [
            of_pair(partial(np.equal, 1 if num_classes == 1 else c), rows)
            for c, rows in enumerate(_rows_of_classes(maps, num_classes))
        ]
    size = max(1, *(len(x) for pair in pairs for x in pair))
    leaves = [np.stack([np.pad(x, (0, size - len(x))) for x in each]) for each in zip(*pairs)]
    return SurfaceDistances(*(x[0] if num_classes is None else x for x in leaves))


def _as_bools(x: np.ndarray) -> np.ndarray:
    """Bools with bytes of 0 and 1, as ``clean_bools`` makes them."""
    return np.ascontiguousarray(x).view(np.uint8) != 0


def _rows_of_classes(maps: Sequence[np.ndarray], num_classes: int) -> list[slice]:
    """The part of the first axis in which each class occurs, in one pass over the maps."""
    if num_classes == 1:
        return [slice(None)]
    occurs = np.zeros((len(maps[0]), num_classes + 1), bool)
    for ids, row in itertools.product(maps, range(len(maps[0]))):
        index = ids[row].ravel()
        index = index.astype(np.int64) if index.dtype != bool else _as_bools(index).astype(np.int64)
        index = np.where((index >= 0) & (index < num_classes), index, num_classes)
        occurs[row] |= np.bincount(index, minlength=num_classes + 1) > 0
    found = [np.flatnonzero(occurs[:, c]) for c in range(num_classes)]
    return [slice(rows[0], rows[-1] + 1) if len(rows) else slice(0, 0) for rows in found]


def _of_pair(
    maps: Sequence[np.ndarray],
    valid: np.ndarray | None,
    spacings: Spacings,
    area: np.ndarray | None,
    mask_of: Callable[[np.ndarray], np.ndarray],
    rows: slice,
) -> list[np.ndarray]:
    """The leaves of one pair of masks, computed in the box that holds both and a margin of 1."""
    p, g = (mask_of(x[rows]) for x in maps)
    extents = _extents(p | g)
    if extents is None:
        dtypes = [np.float32] * 2 + [bool if area is None else np.float32] * 2
        return [np.zeros(0, dtype) for dtype in dtypes]
    starts = [rows.start or 0, *(0 for _ in extents[1:])]
    box = tuple(
        slice(max(start + first - 1, 0), min(start + end + 1, size))
        for start, (first, end), size in zip(starts, extents, maps[0].shape, strict=True)
    )
    where = None if valid is None else _as_bools(valid[box])
    masks = [mask_of(x[box]) for x in maps]
    of_mask = _edges if area is None else elements
    held: list[np.ndarray] = [np.asarray(of_mask(x, where, np)) for x in masks]
    surfaces = [_points(x != 0) for x in held]
    weights = [x[x != 0] if area is None else area[x[x != 0]].astype(np.float32) for x in held]
    return [*_nearest(surfaces, spacings), *weights]


def _extents(mask: np.ndarray) -> list[tuple[int, int]] | None:
    """Along each axis, the first place and the one behind the last; None of an empty mask."""
    rows = np.flatnonzero(mask.any(tuple(range(1, mask.ndim))))
    if len(rows) == 0:
        return None
    first, end = int(rows[0]), int(rows[-1]) + 1
    if mask.ndim == 1:
        return [(first, end)]
    others = _extents(np.asarray(mask[first:end].any(0)))
    assert others is not None
    return [(first, end), *others]


def _points(held: np.ndarray) -> Points:
    places = np.unravel_index(np.flatnonzero(held), held.shape)  # much faster than argwhere
    return np.stack(places).astype(np.int32)


def _nearest(surfaces: Sequence[Points], spacings: Spacings) -> list[np.ndarray]:
    """Of each point of two sets, the distance to the nearest point of the other set.

    The points in a box are transformed; the others, if there are, are compared one by one.
    """
    least = [np.full(x.shape[1], np.inf, np.float32) for x in surfaces]
    if min(len(x) for x in least) == 0:
        return least
    box = _cheapest_box(surfaces)
    inside = [np.zeros(len(x), bool) for x in least]
    if box is not None:
        inside = [_is_in(x, box) for x in surfaces]
        first, end = box
        extent = tuple((end - first).tolist())
        shape = _compiled_shape(extent)
        places = [tuple(x[:, i] - first[:, None]) for x, i in zip(surfaces, inside, strict=True)]
        masks = [np.zeros(shape, bool) for _ in surfaces]
        for mask, place in zip(masks, places, strict=True):
            mask[place] = True
        maps = _transformed(masks, extent, spacings)
        for k in range(2):
            least[k][inside[k]] = maps[1 - k][places[k]]
    p, g = inside
    for of_p, of_g in ((~p, np.ones_like(g)), (p, ~g)):
        if of_p.any() and of_g.any():
            found = _compare(surfaces[0][:, of_p], surfaces[1][:, of_g], spacings)
            for each, part, new in zip(least, (of_p, of_g), found):
                each[part] = np.minimum(each[part], new)
    return least


def _transformed(
    masks: Sequence[np.ndarray], extent: tuple[int, ...], spacings: Spacings
) -> list[np.ndarray]:
    """Distances to two masks of one shape; of large ones at once, each by a thread of its own.

    They are right in the box of this extent. A transform that has several cores wastes much of
    them.
    """
    axes, ends = tuple(range(len(extent))), jnp.asarray(extent, jnp.int32)
    arrays = [jnp.asarray(mask) for mask in masks]
    # What is compiled is compiled here.
    first = distances_along(arrays[0], axes, spacings, ends)
    if math.prod(extent) < _LARGE:
        return [np.asarray(first), np.asarray(distances_along(arrays[1], axes, spacings, ends))]
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(lambda: np.asarray(distances_along(arrays[1], axes, spacings, ends)))
        return [np.asarray(first), second.result()]


def _is_in(points: Points, box: Box) -> np.ndarray:
    inside: np.ndarray = reduce(
        np.logical_and, [(x >= a) & (x < b) for x, a, b in zip(points, *box, strict=True)]
    )
    return inside


def _cheapest_box(surfaces: Sequence[Points]) -> Box | None:
    """The box to transform, so that the transform and the comparisons cost least; None for none.

    A speck far from all else is then compared with the other surface, and does not widen the box.
    """
    own = [(x.min(1), x.max(1) + 1) for x in surfaces]
    sizes = [float(x.shape[1]) for x in surfaces]
    whole = np.minimum(own[0][0], own[1][0]), np.maximum(own[0][1], own[1][1])

    def cost(box: Box) -> float:
        sides = (box[1] - box[0]).astype(float)
        a, b = (float(_is_in(x, box).sum()) for x in surfaces)
        pairs = sizes[0] * sizes[1] - a * b
        return sides.prod() * (30 + sides.sum() / 6) + 4 * pairs  # nanoseconds

    none = 4 * sizes[0] * sizes[1]
    volumes = [float((end - first).prod(dtype=float)) for first, end in (*own, whole)]
    boxes = [whole]
    if min(volumes[:2]) < 0.5 * volumes[2]:
        boxes += [
            (np.maximum(first - margin, whole[0]), np.minimum(end + margin, whole[1]))
            for (first, end), margin in itertools.product(own, (0, 8, 32))
        ]
    costs = [cost(box) for box in boxes]
    return boxes[int(np.argmin(costs))] if min(costs) < none else None


def _compiled_shape(extent: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that holds a box: one that is compiled already, unless it is far too large.

    If no shape holds the box, a new one has room for it and for all boxes before it. Where the box
    is longer than all shapes, the new shape is longer than the box, by 15 % if it is the second and
    by 164 % if it is the eighth. Along other axes it grows by the cube root of that factor. So a
    data set of any sizes needs few shapes.

    If there are fewer than four shapes, and those that hold the box have more than eight times its
    pixels, the new shape is smaller than they are, and half again as long as the box.
    """
    shapes = [shape for shape in _boxes if len(shape) == len(extent)]
    fits = [s for s in shapes if all(a >= b for a, b in zip(s, extent, strict=True))]
    nearest = min(fits, key=math.prod, default=None)
    is_near = nearest is not None and math.prod(nearest) <= max(2**15, 8 * math.prod(extent))
    if nearest is not None and (is_near or len(shapes) >= 4):
        return nearest
    room = [max((s[axis] for s in shapes), default=0) for axis in range(len(extent))]
    growth = 2 ** (len(shapes) / 5)
    shape = tuple(
        min(math.ceil(1.5 * n / 16) * 16, r)
        if nearest is not None
        else math.ceil(n * growth / 16) * 16
        if n > r
        else round(r * growth ** (1 / 3) / 16) * 16
        for n, r in zip(extent, room, strict=True)
    )
    _boxes.append(shape)
    return shape


def _compare(p: Points, g: Points, spacings: Spacings) -> tuple[np.ndarray, np.ndarray]:
    """Distances of each point of either set to the nearest of the other, pair by pair."""
    extent = np.maximum(p.max(1), g.max(1)) - np.minimum(p.min(1), g.min(1)) + 1
    whole = not isinstance(spacings, tuple) and (extent.astype(float) ** 2).sum() < 2**30
    dtype = np.int32 if whole else np.float32
    steps = np.broadcast_to(np.asarray(spacings, np.float32), len(p))
    unit = np.ldexp(np.float32(1), np.frexp(steps.max())[1] - 1)
    factors = [None if whole else np.float32(step / unit) for step in steps]
    a, b = p.astype(dtype), g.astype(dtype)
    of_p, of_g = np.zeros(p.shape[1], dtype), np.full(g.shape[1], np.iinfo(np.int32).max, dtype)
    block = max(1, 2**16 // g.shape[1])  # which a core's cache holds
    for start in range(0, p.shape[1], block):
        part = slice(start, start + block)
        squares = np.zeros((), dtype)
        for x, y, factor in zip(a, b, factors, strict=True):
            between = x[part, None] - y
            if factor is not None:
                between *= factor
            between *= between
            squares = np.add(squares, between, out=between)
        of_p[part] = squares.min(1)
        np.minimum(of_g, squares.min(0), out=of_g)
    if whole:
        roots = [np.sqrt(x.astype(np.float64)).astype(np.float32) * steps[0] for x in (of_p, of_g)]
    else:
        roots = [np.sqrt(x) * unit for x in (of_p, of_g)]
    return roots[0], roots[1]


# ---------------------------------------------------------------------------------- scores


def _run(score: Callable[..., Leaf], d: SurfaceDistances, *args: Leaf, **static: Leaf) -> Array:
    """A score of NumPy's leaves by NumPy, which compiles nothing, and of JAX's in one program."""
    if all(isinstance(x, np.ndarray) for x in (*d, *args)):
        values = _of_known_rows(partial(score, np, **static), d, *args)
        return jnp.asarray(np.asarray(values, np.float32))
    return _run_jitted(d, *args, score=score, static=tuple(static.items()))


def _of_known_rows(score: Callable[..., Leaf], d: SurfaceDistances, *args: Leaf) -> Leaf:
    """A score of each row of NumPy's leaves, of the places alone that hold an element."""
    rows = d.from_predictions.shape[:-1]
    if 0 in rows:
        return score(d, *args)

    def of_row(row: tuple[int, ...]) -> Leaf:
        kept = [_held(w[row]) for w in (d.prediction_weights, d.label_weights)]
        kept = [k if k.any() else slice(1) for k in kept]  # a maximum needs one place
        leaves = [x[row][k] for x, k in zip(d, (*kept, *kept), strict=True)]
        return score(SurfaceDistances(*leaves), *(np.broadcast_to(x, rows)[row] for x in args))

    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.stack([of_row(row) for row in np.ndindex(rows)])
    return values.reshape((*rows, *values.shape[1:]))


@partial(jax.jit, static_argnames=("score", "static"))
def _run_jitted(
    d: SurfaceDistances, *args: Array, score: Callable[..., Leaf], static: tuple[tuple[str, Leaf]]
) -> Array:
    leaves = [jnp.asarray(x) for x in d]
    value: Array = score(jnp, SurfaceDistances(*leaves), *args, **dict(static))
    return value.astype(jnp.float32)


Side = tuple[Leaf, Leaf, Leaf]  # distances and weights of one direction, and the weights' unit
# Of distances ``[..., n]`` and their weights, which may be a block of them.
Value = Callable[[Leaf, Leaf], Leaf]


def _sides(xp: ModuleType, d: SurfaceDistances) -> list[Side]:
    """Both directions. Areas in their unit are 2 or less: sums and products stay in range."""
    weights = [d.prediction_weights, d.label_weights]
    unit = None
    if weights[0].dtype != bool:
        largest = reduce(xp.maximum, [w.max(-1, keepdims=True) for w in weights])
        largest = largest if xp is np else lax.stop_gradient(largest)
        # Dividing by a power of two rounds nothing.
        unit = xp.ldexp(xp.ones_like(largest), xp.frexp(largest)[1] - 1)
    return [(x, w, unit) for x, w in zip((d.from_predictions, d.from_labels), weights)]


def _of_sides(
    xp: ModuleType,
    d: SurfaceDistances,
    score: Callable[[list[Side]], Leaf],
    method: str,
    one: float,
) -> Leaf:
    """A score of both directions together, or of each: their mean, the larger, or both.

    NaN where both surfaces are empty, ``one`` where one of them is.
    """
    sides = _sides(xp, d)
    empty = [~_held(w).any(-1) for _, w, _ in sides]

    def or_empty(value: Leaf) -> Leaf:
        value = xp.where(empty[0] | empty[1], one, value)
        return xp.where(empty[0] & empty[1], math.nan, value)

    if method == "pooled":
        return or_empty(score(sides))
    p, g = (or_empty(score([side])) for side in sides)
    if method == "directed":
        return xp.stack([p, g], -1)
    return (p + g) / 2 if method == "mean" else xp.maximum(p, g)


def _hausdorff(xp: ModuleType, d: SurfaceDistances, part: Fraction, method: str) -> Leaf:
    return _of_sides(xp, d, lambda sides: _percentile(xp, sides, part), method, math.inf)


def _average(xp: ModuleType, d: SurfaceDistances, method: str) -> Leaf:
    def mean(sides: list[Side]) -> Leaf:
        total = sum(_sum(xp, lambda x, w: xp.where(_held(w), _times(x, w), 0), s) for s in sides)
        return total / _size(xp, sides)

    return _of_sides(xp, d, mean, method, math.inf)


def _surface_dice(xp: ModuleType, d: SurfaceDistances, tolerance: Leaf, method: str) -> Leaf:
    return _of_sides(xp, d, lambda sides: _part_within(xp, sides, tolerance), method, 0.0)


def _boundary_f_score(xp: ModuleType, d: SurfaceDistances, tolerance: Leaf) -> Leaf:
    both = _of_sides(xp, d, lambda sides: _part_within(xp, sides, tolerance), "directed", 0.0)
    p, g = both[..., 0], both[..., 1]
    return 2 * p * g / xp.where(p + g == 0, 1, p + g)


def _part_within(xp: ModuleType, sides: list[Side], tolerance: Leaf) -> Leaf:
    """The part of a surface that is within a tolerance of the other."""
    limit = tolerance[..., None]
    within = sum(_sum(xp, lambda x, w: xp.where(x <= limit, w, xp.zeros_like(w)), s) for s in sides)
    return within / _size(xp, sides)


def _size(xp: ModuleType, sides: list[Side]) -> Leaf:
    """The sum of the weights, or 1 if it is 0."""
    total = sum(_sum(xp, _weight, side) for side in sides)
    return xp.where(total == 0, xp.ones_like(total), total)


def _held(w: Leaf) -> Leaf:
    """Whether each place holds an element."""
    return w if w.dtype == bool else w > 0


def _times(x: Leaf, w: Leaf) -> Leaf:
    return x if w.dtype == bool else x * w


def _weight(_: Leaf, w: Leaf) -> Leaf:
    return w


def _count(xp: ModuleType, value: Value, side: Side) -> Leaf:
    """How many of the bools along the last axis are True, in int32."""
    x, w, _ = side
    if xp is np:
        return value(x, w).sum(-1, dtype=np.int32)
    return _by_blocks(
        lambda *x: value(*x).sum(-1, dtype=jnp.int32, keepdims=True), lambda x: x.sum(-1), x, w
    )


def _sum(xp: ModuleType, value: Value, side: Side) -> Leaf:
    """Sums along the last axis as floats: of bools exact, of floats in short chains.

    Of areas in their unit.
    """
    x, w, unit = side
    if xp is np:
        return value(x, w if unit is None else w / unit).sum(-1, dtype=np.float64)
    if jax.eval_shape(value, x, w).dtype == bool:
        return _count(jnp, value, side).astype(jnp.float32)
    width = _width(x)

    def of_rows(x: Array, w: Array) -> Array:
        found = value(x, w if unit is None else w / unit)
        found = jnp.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, -found.shape[-1] % width)])
        sums: Array = found.reshape(*found.shape[:-1], -1, width).sum(-1)
        return sums

    return _by_blocks(of_rows, lambda sums: lax.optimization_barrier(sums).sum(-1), x, w)


def _most(xp: ModuleType, value: Value, side: Side, *, least: bool = False) -> Leaf:
    """The largest along the last axis, or the least."""
    x, w, _ = side

    def most(x: Leaf) -> Leaf:
        return x.min(-1) if least else x.max(-1)

    if xp is np:
        return most(value(x, w))
    return _by_blocks(lambda *x: most(value(*x))[..., None], most, x, w)


def _width(x: Array) -> int:
    return math.isqrt(x.shape[-1]) + 1


def _by_blocks(
    of_block: Callable[..., Array], of_all: Callable[[Array], Array], *leaves: Array
) -> Array:
    """``of_all(of_block(*leaves))``: the latter reduces the last axis in part, the former wholly.

    XLA for CPU writes what is to be reduced into memory. There blocks of rows of ``_width`` places
    are taken one after another, and ``of_all`` gets what is left of each.
    """
    n, width = leaves[0].shape[-1], _width(leaves[0])
    size = width * -(-_BLOCK // width)
    blocks = n // size

    def in_turn(*leaves: Array) -> Array:
        def of_part(k: Array) -> Array:
            return of_block(*(lax.dynamic_slice_in_dim(x, k * size, size, -1) for x in leaves))

        def of_rest(_: Array) -> Array:
            return of_block(*(x[..., blocks * size :] for x in leaves))

        one, rest = (jax.eval_shape(f, jnp.int32(0)).shape[-1] for f in (of_part, of_rest))

        def part_or_rest(k: Array) -> Array:
            def padded(k: Array) -> Array:
                found = of_rest(k)
                return jnp.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, one - rest)])

            return lax.cond(k < blocks, of_part, padded, k)

        # The rest in the same loop: outside, what made the leaves would be made for it once more.
        turns = jnp.arange(blocks + (n % size > 0), dtype=jnp.int32)
        found = jnp.moveaxis(lax.map(part_or_rest if n % size else of_part, turns), 0, -2)
        found = found.reshape(*found.shape[:-2], -1)
        return of_all(found[..., : blocks * one + rest] if n % size else found)

    def at_once(*leaves: Array) -> Array:
        return of_all(of_block(*leaves))

    if blocks < 2:
        return at_once(*leaves)
    found: Array = lax.platform_dependent(*leaves, cpu=in_turn, default=at_once)
    return found


def _percentile(xp: ModuleType, sides: list[Side], part: Fraction) -> Leaf:
    """NumPy's percentile of the distances; with areas, the least that holds that part of them."""
    if part == 1:
        return reduce(
            xp.maximum, [_most(xp, lambda x, w: xp.where(_held(w), x, 0), s) for s in sides]
        )
    if sides[0][1].dtype != bool:
        return _least(xp, sides, float(part) * sum(_sum(xp, _weight, side) for side in sides))
    last = reduce(xp.add, [_count(xp, _weight, side) for side in sides]) - 1
    whole, rest = last // part.denominator, last % part.denominator
    below = whole * part.numerator + rest * part.numerator // part.denominator
    between = (rest * part.numerator % part.denominator).astype(xp.float32) / part.denominator
    low = _least(xp, sides, below + 1)
    limit = low[..., None]
    as_low = reduce(xp.add, [_count(xp, lambda x, w: w & (x <= limit), s) for s in sides])

    def above_low(x: Leaf, w: Leaf) -> Leaf:
        return xp.where(w & (x > limit), x, math.inf)

    above = reduce(xp.minimum, [_most(xp, above_low, side, least=True) for side in sides])
    high = xp.where(as_low >= xp.minimum(below + 2, last + 1), low, above)
    return xp.where(high == low, low, low + (high - low) * between)


def _least(xp: ModuleType, sides: list[Side], enough: Leaf) -> Leaf:
    """The least distance within which the weights sum to enough."""
    if xp is np:
        x, w = (np.concatenate(leaves, -1) for leaves in list(zip(*sides))[:2])
        if w.dtype == bool:
            place = min(int(enough), x.size) - 1
            return np.partition(x, place)[place]
        order = np.argsort(x)
        sums = np.cumsum(np.concatenate([w / unit for _, w, unit in sides])[order])
        return x[order[min(int(np.searchsorted(sums, enough)), x.size - 1)]]

    # A GPU takes all sums of a pass at once, which a CPU would take one by one.
    by_platform = {"cpu": partial(_least_of_bits, 1), "default": partial(_least_of_bits, 3)}
    least: Array = lax.platform_dependent(sides, enough, **by_platform)
    return least


def _least_of_bits(digit_bits: int, sides: list[Side], enough: Array) -> Array:
    """Floats that are not negative are ordered as the integers of their 31 bits are.

    The digits of the least one are found in turn.
    """

    def next_digit(k: Array, least: Array) -> Array:
        size = 1 << jnp.maximum(31 - digit_bits * (k + 1), 0)

        def is_larger(digit: int) -> Array:
            limit = (least + digit * size)[..., None]

            def inside(x: Array, w: Array) -> Array:
                bits = lax.bitcast_convert_type(x, jnp.int32)
                return jnp.where(bits < limit, w, jnp.zeros_like(w))

            sum_of = _count if sides[0][1].dtype == bool else _sum
            return reduce(jnp.add, [sum_of(jnp, inside, side) for side in sides]) < enough

        digits = range(1, 2**digit_bits)
        return least + size * reduce(jnp.add, [is_larger(d).astype(jnp.int32) for d in digits])

    start = jnp.zeros(sides[0][0].shape[:-1], jnp.int32)
    least = lax.fori_loop(0, -(-31 // digit_bits), next_digit, start)
    return lax.bitcast_convert_type(least, jnp.float32)


# ---------------------------------------------------------------------------------- boundary IoU


@partial(jax.jit, static_argnames=("num_classes", "erosions"))
def _boundary_iou(
    p: Array,
    g: Array,
    where: Array | None,
    spacings: Spacings,
    width: Array | None,
    num_classes: int | None,
    erosions: int | None,
) -> Array:
    where = None if where is None else _masks(where, None)

    def band(mask: Array) -> Array:
        if width is not None:
            distances = distances_along(_edges(mask, where), tuple(range(mask.ndim)), spacings)
            inside = mask & (distances <= width)
        else:
            filled = mask if where is None else mask | ~where
            inside = mask & ~_eroded(filled, erosions)
        return inside if where is None else inside & where

    def of_pair(p: Array, g: Array) -> Array:
        p, g = band(p), band(g)
        both, either = ((x).sum(dtype=jnp.int32) for x in (p & g, p | g))
        return jnp.where(either == 0, jnp.nan, both / jnp.maximum(either, 1))

    of_pairs = of_pair if num_classes is None else jax.vmap(of_pair)
    return of_pairs(_masks(p, num_classes), _masks(g, num_classes)).astype(jnp.float32)


def _eroded(mask: Array, erosions: int | None) -> Array:
    """A mask after erosions by a square of 3 by 3, which are one by a larger square."""
    assert erosions is not None
    for axis in range(mask.ndim):
        window = [1] * mask.ndim
        window[axis] = 2 * erosions + 1
        pads = [(erosions, erosions) if a == axis else (0, 0) for a in range(mask.ndim)]
        outside = jnp.pad(mask, pads)
        mask = lax.reduce_window(outside, True, lax.bitwise_and, window, (1,) * mask.ndim, "valid")
    return mask
