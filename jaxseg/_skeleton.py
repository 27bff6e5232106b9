"""Skeletons of masks by thinning, and scores of them: how well centre lines are found.

A pixel's neighbours are the bits of an integer, so that all pixels are decided at once. Two axes of
space are thinned after Zhang and Suen, three after Lee, Kashyap and Chu, as in scikit-image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._arithmetic import Leaf, add, multiply
from jaxseg._checks import Axis
from jaxseg._distance import check_mask, check_spatial_axes, shift
from jaxseg._numerics import safe_divide, select
from jaxseg._sharding import placed_as, uncut

__all__ = [
    "SkeletonCounts", "skeleton_counts", "cldice", "topology_precision", "topology_sensitivity",
    "skeleton",
]  # fmt: skip

Axes = tuple[int, ...]


class SkeletonCounts(NamedTuple):
    """Pixels of two skeletons per class, each in and outside the other mask: arrays ``[..., C]``.

    ``right`` and ``wrong`` are pixels of the predicted skeleton in and outside the true mask, and
    ``found`` and ``missed`` are pixels of the true skeleton in and outside the predicted mask.
    Integers; ``a + b``, ``sum([a, b])`` and ``2 * a`` are those of ``Counts``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> a = jaxseg.SkeletonCounts(*jnp.array([[3], [1], [3], [2]]))
      >>> (a + a).found.tolist(), jaxseg.topology_precision(a).tolist()
      ([6], [0.75])
    """

    right: Leaf
    wrong: Leaf
    found: Leaf
    missed: Leaf

    def __add__(self, other: object) -> SkeletonCounts:
        return add(self, other)

    def __radd__(self, other: object) -> SkeletonCounts:
        return add(self, other)

    def __mul__(self, factor: object) -> SkeletonCounts:
        return multiply(self, factor)

    def __rmul__(self, factor: object) -> SkeletonCounts:
        return multiply(self, factor)


SkeletonCounts.__array_ufunc__ = None  # type: ignore[attr-defined]  # as for Counts
jax.export.register_namedtuple_serialization(
    SkeletonCounts, serialized_name="jaxseg.SkeletonCounts"
)


def skeleton(mask: ArrayLike) -> Array:
    r"""Skeleton of a mask: its centre lines, one pixel wide, that keep its pieces and its holes.

    .. math:: S = x_\infty, \quad x_{k+1} = x_k \setminus \{\text{border pixels that are no end and
              whose removal keeps the pieces and holes of their neighbourhood}\}

    Args:
      mask: bool ``[*space]``, of two or three axes; ``jax.vmap`` for a batch.

    Returns:
      Bool ``[*space]``. Pixels outside the image are background.

    Raises:
      TypeError: a mask that is not bool.
      ValueError: an empty mask, or one that has not two or three axes.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> bar = jnp.zeros((5, 9), bool).at[1:4, 1:8].set(True)
      >>> jaxseg.skeleton(bar).astype(int)
      Array([[0, 0, 0, 0, 0, 0, 0, 0, 0],
             [0, 0, 0, 0, 0, 0, 1, 0, 0],
             [0, 1, 1, 1, 1, 1, 0, 0, 0],
             [0, 0, 0, 0, 0, 0, 0, 0, 0],
             [0, 0, 0, 0, 0, 0, 0, 0, 0]], dtype=int32)

    References:
      T. Y. Zhang and C. Y. Suen, "A fast parallel algorithm for thinning digital patterns", 1984.
      T.-C. Lee, R. L. Kashyap and C.-N. Chu, "Building skeleton models via 3-D medial surface/axis
      thinning algorithms", 1994.

    Note:
      Equal to ``skeletonize`` of scikit-image 0.26, which MetricsReloaded and panoptica use, in 2-D
      (where it departs from the paper at ends and corners, and so does this) and in 3-D. There a
      cube with sides of an even length has no skeleton.
    """
    mask = check_mask(mask)
    space = tuple(range(mask.ndim))
    _check_space(space, f"a mask of shape {mask.shape}")
    return _thin(mask, space)


def skeleton_counts(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int | None = None,
    spatial_axes: Sequence[int] | None = None,
    where: ArrayLike | None = None,
    axis: Axis = None,
) -> SkeletonCounts:
    r"""Pixels of the predicted and the true skeleton, in and outside the other mask, per class.

    .. math:: right = |S(P) \cap G|, \quad wrong = |S(P) \setminus G|, \quad
              found = |S(G) \cap P|, \quad missed = |S(G) \setminus P|

    with the ``skeleton`` S, of each image by itself.

    Args:
      predictions: integer or bool ids ``[batch, *space]``, or without ``num_classes`` bool masks
        ``[batch, *space, C]``.
      labels: the truth, in the same format and shape.
      num_classes: C, static. With 1, both are masks and id 1 is the class.
      spatial_axes: axes of the label map that are space, two or three; None is all but the first.
      where: bool ``[batch, *space]``; False pixels are of no class in both maps.
      axis: axes of the label map to sum over; None sums over all axes, the batch included.

    Returns:
      ``SkeletonCounts`` of int32 ``[..., C]``. An id outside [0, C) belongs to no class.

    Raises:
      ValueError, TypeError: as ``counts``; ``spatial_axes`` as in ``boundary_loss``, or of another
        number than two or three.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.zeros((1, 7, 12), jnp.int32).at[:, 2:5, 1:11].set(1)
      >>> cut = labels.at[:, :, 5:7].set(0)
      >>> c = jaxseg.skeleton_counts(cut, labels, num_classes=1)
      >>> c.right.tolist(), c.wrong.tolist(), c.found.tolist(), c.missed.tolist()
      ([6], [0], [7], [2])
      >>> jaxseg.cldice(c).tolist()
      [0.875]

    References:
      S. Shit et al., "clDice: a novel topology-preserving loss function for tubular structure
      segmentation", 2021.
    """
    dense = num_classes is None
    predictions, labels, where, axes = _checks.check_hard(
        predictions, labels, where, axis, dense=dense
    )
    num_classes = labels.shape[-1] if num_classes is None else num_classes
    num_classes = _checks.check_num_classes(num_classes)
    shape = labels.shape[:-1] if dense else labels.shape
    space = check_spatial_axes(spatial_axes, len(shape))
    _check_space(space, f"axes {space} of a map of shape {shape}")
    return _skeleton_counts(
        predictions, labels, where, num_classes=num_classes, axes=axes, space=space, dense=dense
    )


def topology_precision(counts: SkeletonCounts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Topology precision per class: the part of the predicted skeleton that is in the true mask.

    .. math:: T_{prec} = \frac{|S(P) \cap G|}{|S(P)|} = \frac{right}{right + wrong}

    Args:
      counts: ``SkeletonCounts`` with leaves ``[..., C]``.
      zero_division: the score where the predicted skeleton is empty.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError: anything but ``SkeletonCounts``.
      ValueError: leaves of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> c = jaxseg.SkeletonCounts(*jnp.array([[3], [1], [3], [3]]))
      >>> jaxseg.topology_precision(c).tolist()
      [0.75]

    References:
      S. Shit et al., "clDice: a novel topology-preserving loss function for tubular structure
      segmentation", 2021.
    """
    right, wrong, _, _ = _floats(counts)
    zero_division = _checks.check_broadcast("zero_division", zero_division, right.shape)
    return safe_divide(right, right + wrong, zero_division)


def topology_sensitivity(counts: SkeletonCounts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Topology sensitivity per class: the part of the true skeleton that is in the predicted mask.

    .. math:: T_{sens} = \frac{|S(G) \cap P|}{|S(G)|} = \frac{found}{found + missed}

    Args:
      counts: ``SkeletonCounts`` with leaves ``[..., C]``.
      zero_division: the score where the true skeleton is empty.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``topology_precision``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> c = jaxseg.SkeletonCounts(*jnp.array([[3], [1], [3], [3]]))
      >>> jaxseg.topology_sensitivity(c).tolist()
      [0.5]

    References:
      S. Shit et al., "clDice: a novel topology-preserving loss function for tubular structure
      segmentation", 2021.
    """
    _, _, found, missed = _floats(counts)
    zero_division = _checks.check_broadcast("zero_division", zero_division, found.shape)
    return safe_divide(found, found + missed, zero_division)


def cldice(counts: SkeletonCounts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Centre-line Dice (clDice) per class, of hard masks: how well their skeletons are found.

    .. math:: \frac{2\,T_{prec}\,T_{sens}}{T_{prec} + T_{sens}}

    with ``topology_precision`` and ``topology_sensitivity``.

    Args:
      counts: ``SkeletonCounts`` with leaves ``[..., C]``.
      zero_division: the score where both skeletons are empty; where one of them is, it is 0.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``topology_precision``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> c = jaxseg.SkeletonCounts(*jnp.array([[3], [1], [3], [3]]))
      >>> jaxseg.cldice(c).tolist()
      [0.6]

    References:
      S. Shit et al., "clDice: a novel topology-preserving loss function for tubular structure
      segmentation", 2021.

    Note:
      ``1 - cldice_loss`` is the same of soft skeletons, with a gradient; their pixels differ. In
      MetricsReloaded it is NaN where one skeleton is empty or no pixel of either is right, so that
      such images drop out of a mean.
    """
    right, wrong, found, missed = _floats(counts)
    zero_division = _checks.check_broadcast("zero_division", zero_division, right.shape)
    precision, sensitivity = (
        safe_divide(right, right + wrong, 0),
        safe_divide(found, found + missed, 0),
    )
    score = safe_divide(2 * precision * sensitivity, precision + sensitivity, 0)
    return select(right + wrong + found + missed == 0, zero_division, score)


def _floats(counts: object) -> SkeletonCounts:
    """Check the counts and cast them to float32 or better."""
    if not isinstance(counts, SkeletonCounts):
        raise TypeError(
            f"A score of skeletons takes SkeletonCounts, got {_checks.kind(counts)}. "
            "jaxseg.skeleton_counts makes them of predicted and true label maps; "
            "jaxseg.total(running) is the sum that a Running holds."
        )
    shapes = [jnp.shape(leaf) for leaf in counts]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"SkeletonCounts must have four leaves of one shape [..., C], got {shapes}."
        )
    return SkeletonCounts(*(_checks.as_float(leaf) for leaf in counts))


def _check_space(space: Axes, got: str) -> None:
    if len(space) not in (2, 3):
        raise ValueError(f"A skeleton needs two or three axes of space, got {got}.")


@partial(jax.jit, static_argnames=("num_classes", "axes", "space", "dense"))
def _skeleton_counts(
    predictions: Array,
    labels: Array,
    where: Array | None,
    *,
    num_classes: int,
    axes: Axes,
    space: Axes,
    dense: bool,
) -> SkeletonCounts:
    maps = [_checks.clean_bools(x) for x in (predictions, labels)]
    if dense:
        maps = [jnp.moveaxis(uncut(x, (x.ndim - 1,)), -1, 0) for x in maps]

    def of_class(c: Array) -> SkeletonCounts:
        p, g = (
            lax.dynamic_index_in_dim(x, c, keepdims=False) if dense else _is_class(x, c)
            for x in maps
        )
        if where is not None:
            valid = _checks.clean_bools(where)
            p, g = p & valid, g & valid
        s_p, s_g = (_thin(x, space) for x in (p, g))
        parts = s_p & g, s_p & ~g, s_g & p, s_g & ~p
        return SkeletonCounts(*(x.sum(axes, dtype=jnp.int32) for x in parts))

    first = 1 if num_classes == 1 and not dense else 0  # of a mask, id 1 is the class
    counts = lax.map(of_class, jnp.arange(first, first + num_classes))
    return SkeletonCounts(*(jnp.moveaxis(x, 0, -1) for x in counts))


def _is_class(ids: Array, c: Array) -> Array:
    """Where the ids are c; uint8 would wrap 256 classes."""
    ids = ids if ids.dtype.itemsize == 8 else ids.astype(jnp.int32)
    return ids == c.astype(ids.dtype)


# ---------------------------------------------------------------------------------- thinning


@partial(jax.jit, static_argnames="space")
def _thin(mask: Array, space: Axes) -> Array:
    """The skeleton along the axes of ``space``; the others are batch axes."""
    thin_once = _thin_plane_once if len(space) == 2 else _thin_volume_once

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        _, x = state
        thinner = thin_once(x, space)
        return (thinner != x).any(), thinner

    x = uncut(mask, space)
    # Always True, but computed from the mask: in a shard_map it varies over the same mesh axes.
    start = (x | ~x).any(), x
    _, thinned = lax.while_loop(lambda state: state[0], again, start)
    return placed_as(thinned, jax.typeof(mask).sharding.spec)


# The neighbours in a plane, clockwise from the north: bit i of an integer is that of OFFSETS[i].
OFFSETS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
NAMES = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")


def _bits(*neighbourhoods: str) -> list[int]:
    """Neighbourhoods, each as the names of its pixels, as integers."""
    return [sum(1 << NAMES.index(name) for name in names.split()) for names in neighbourhoods]


class _Pass(NamedTuple):
    """One of the two passes over a plane: which neighbourhoods let a pixel go.

    ``full`` is the paper's: a pixel that has all neighbours of one of these stays. The others are
    where scikit-image's results depart from the paper: neighbourhoods of ends, which stay, and of
    corners, which go.
    """

    full: Sequence[int]
    ends: Sequence[int]
    corners: Sequence[int]


PASSES = (
    _Pass(
        full=_bits("N E S", "E S W"),
        ends=_bits("E SE", "SE S", "E SE S", "S SW", "SW W", "S SW W", "W NW"),
        corners=_bits(
            "N E", "E S", "S W", "N W",
            "N E NW", "S W NW", "N NE W", "N SW W", "N NE SW W",
        ),
    ),
    _Pass(
        full=_bits("N E W", "N S W"),
        ends=_bits("N NE", "NE E", "N NE E", "SE S", "W NW", "N NW", "N W NW"),
        corners=_bits(
            "N E", "E S", "S W", "N W",
            "N E SE", "SE S W", "E S SW", "NE E S SW",
        ),
    ),
)  # fmt: skip


def _thin_plane_once(x: Array, space: Axes) -> Array:
    for each in PASSES:
        around = _plane_neighbours(x, space)
        x = x & ~_may_go(around, each)
    return x


def _plane_neighbours(x: Array, space: Axes) -> Array:
    """The eight neighbours of each pixel, as the bits of a uint8."""
    bits = jnp.zeros((), jnp.uint8)
    for i, offset in enumerate(OFFSETS):
        neighbour = x
        for axis, step in zip(space, offset, strict=True):
            neighbour = shift(neighbour, -step, axis, False) if step else neighbour
        bits = bits | jnp.where(neighbour, jnp.uint8(1 << i), jnp.uint8(0))
    return bits


def _may_go(around: Array, each: _Pass) -> Array:
    """Whether the pass removes a pixel with these neighbours."""
    number = lax.population_count(around)
    next_one = (around >> jnp.uint8(1)) | (around << jnp.uint8(7))
    pieces = lax.population_count(~around & next_one)  # how often the ring turns from 0 to 1
    paper = (number >= 2) & (number <= 6) & (pieces == 1)
    for full in each.full:
        paper &= (around & jnp.uint8(full)) != full
    return (paper & ~_is_one_of(around, each.ends)) | _is_one_of(around, each.corners)


def _is_one_of(around: Array, values: Sequence[int]) -> Array:
    return reduce(jnp.logical_or, (around == value for value in values))


# The 27 voxels of a neighbourhood, in the order in which they lie in memory: bit i of an integer.
CUBE = tuple(itertools.product((-1, 0, 1), repeat=3))
CENTRE = 1 << CUBE.index((0, 0, 0))
# The borders from which voxels go, one after the other: the neighbour that is background.
BORDERS = tuple(
    1 << CUBE.index(offset)
    for offset in ((0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0))
)

FARTHEST = 8  # steps between two voxels that are connected around the centre, at most


def _thin_volume_once(x: Array, space: Axes) -> Array:
    order = (*(a for a in range(x.ndim) if a not in space), *space)
    thin = _peel
    for _ in range(x.ndim - 3):
        thin = jax.vmap(thin)
    return jnp.moveaxis(thin(jnp.moveaxis(x, order, range(x.ndim))), range(x.ndim), order)


def _peel(x: Array) -> Array:
    """Take voxels from all six borders of one volume."""

    def from_border(x: Array, border: Array) -> tuple[Array, None]:
        cube = _cubes(x)
        others = cube & ~CENTRE
        at_border = (cube & border) == 0
        is_end = lax.population_count(others) == 1
        may_go = x & at_border & ~is_end & _keeps_euler_number(others) & _is_one_piece(others)
        return _remove_in_order(x, may_go), None

    borders = BORDERS[:4] if len(x) == 1 else BORDERS  # a slice alone, within its plane
    return lax.scan(from_border, x, jnp.array(borders, jnp.int32))[0]


def _remove_in_order(x: Array, may_go: Array) -> Array:
    """Remove voxels one after the other, in the order of memory, if their others are one piece."""
    places = jnp.stack(jnp.nonzero(may_go, size=x.size, fill_value=0))
    weights = jnp.array([1 << i for i in range(27)], jnp.int32).reshape(3, 3, 3)

    def decide(state: tuple[Array, Array]) -> tuple[Array, Array]:
        i, padded = state
        place = tuple(lax.dynamic_index_in_dim(places, i, 1, keepdims=False))
        cube = jnp.where(lax.dynamic_slice(padded, place, (3, 3, 3)), weights, 0).sum()
        stays = ~_is_one_piece(cube & ~CENTRE)
        centre = tuple(index + 1 for index in place)
        return i + 1, lax.dynamic_update_slice(padded, stays[None, None, None], centre)

    count = may_go.sum(dtype=jnp.int32)
    start = 0 * count, jnp.pad(x, 1)
    _, padded = lax.while_loop(lambda state: state[0] < count, decide, start)
    return padded[1:-1, 1:-1, 1:-1]


def _cubes(x: Array) -> Array:
    """The neighbourhood of each voxel, as the bits of an int32."""
    bits = x.astype(jnp.int32)
    for axis, width in ((2, 1), (1, 3), (0, 9)):
        before, after = shift(bits, 1, axis, 0), shift(bits, -1, axis, 0)
        bits = before | (bits << width) | (after << 2 * width)
    return bits


def _keeps_euler_number(others: Array) -> Array:
    """Whether the number of pieces, less tunnels, plus cavities, is the same without the centre.

    The centre shares with its neighbours some of its faces, edges and corners; those together must
    have the Euler number 1.
    """
    euler_number = jnp.zeros((), jnp.int32)
    for corner in CUBE:
        if any(corner):
            # The neighbours that touch this face, edge or corner of the centre.
            touching = sum(
                1 << i
                for i, offset in enumerate(CUBE)
                if any(offset) and all(o in (0, c) for o, c in zip(offset, corner))
            )
            sign = 1 if sum(map(abs, corner)) % 2 else -1
            euler_number += jnp.where((others & touching) != 0, sign, 0)
    return euler_number == 1


def _is_one_piece(others: Array) -> Array:
    """Whether the neighbours are connected without the centre, or there are none."""
    piece = others & -others  # the first of them
    for _ in range(FARTHEST):
        for i, width in enumerate((9, 3, 1)):
            # A shift by one voxel brings none to the first place; nor are there more than 27 bits.
            not_first = sum(1 << j for j, offset in enumerate(CUBE) if offset[i] != -1)
            piece = piece | ((piece << width) & not_first) | ((piece & not_first) >> width)
        piece &= others
    return piece == others
