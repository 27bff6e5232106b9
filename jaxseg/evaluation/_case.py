"""The scores of one case: counts of its classes, then every metric of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jax import Array

import jaxseg
from jaxseg.evaluation._metrics import Metric, parse_metrics
from jaxseg.evaluation._records import CaseError, Target
from jaxseg.evaluation._summary import overlap
from jaxseg.evaluation._targets import as_ids, checked

_MOST_IN_MEMORY = 2**29  # voxels of a map that is read block by block otherwise
_CACHED = 2**16  # pixels of which a core's cache holds a few arrays
_BLOCK = 2**21  # pixels that are counted at once; smaller images are filled up to a power of two


class Row(NamedTuple):
    """One value of one class of one case; a line of ``cases.csv``."""

    case: str
    group: str
    target: str
    metric: str
    value: float
    n_truth: int
    n_prediction: int


class LabelMap(Protocol):
    """An array of ids, or what is read from a file where it is indexed by a slice per axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def ndim(self) -> int: ...
    def __getitem__(self, where: tuple[slice | int, ...], /) -> np.ndarray: ...


class Scores(NamedTuple):
    """What ``score`` finds; the lists have one entry per target."""

    values: dict[str, list[float]]
    counts: list[tuple[int, int, int, int]]  # tp, fp, fn, tn
    matrix: np.ndarray  # pixels by true and predicted id, the last of which is any other


def score(
    prediction: LabelMap,
    labels: LabelMap,
    *,
    targets: Sequence[Target],
    num_ids: int,
    ignore: int | None,
    metrics: Sequence[Metric],
    spacing: Sequence[float] | None,
) -> Scores:
    """The scores of two maps of ids ``[*space]``, or of bool masks ``[*space, targets]``.

    Ids outside ``range(num_ids)`` are of no target; with ``num_ids`` of 0 the maps are masks.
    Pixels whose true id is ``ignore`` do not count.
    """
    if prediction.shape != labels.shape:
        raise CaseError(
            f"The prediction has shape {prediction.shape} and the truth {labels.shape}; "
            "--resample label brings the prediction onto the grid of the truth."
        )
    matrix = np.zeros((0, 0), np.int64)
    if num_ids == 0:
        p, g = _whole(prediction), _whole(labels)
        counts = [_mask_counts(p[..., k], g[..., k]) for k in range(len(targets))]
    else:
        matrix = confusion(_parts(prediction, labels), num_ids, ignore)
        counts = target_counts(matrix, targets)
    values: dict[str, list[float]] = {
        m.name: overlap(np.array(counts), m.kind).tolist() for m in metrics if m.is_overlap
    }
    others = [m for m in metrics if not m.is_overlap]
    if others:
        p, g = _whole(prediction), _whole(labels)
        where = None if ignore is None or num_ids == 0 else g != ignore
        of_target = [
            _others(others, *_masks(p, g, k, target, num_ids == 0), where, found, spacing)
            for k, (target, found) in enumerate(zip(targets, counts, strict=True))
        ]
        values |= {m.name: [each[m.name] for each in of_target] for m in others}
    return Scores({m.name: values[m.name] for m in metrics}, counts, matrix)


def _whole(labels: LabelMap) -> np.ndarray:
    """The map in memory."""
    if not isinstance(labels, np.ndarray) and math.prod(labels.shape) > _MOST_IN_MEMORY:
        raise CaseError(
            f"A map of {math.prod(labels.shape):,} voxels is counted block by block; ask for "
            "overlap metrics alone (--metrics dice,iou), since distances need it in memory."
        )
    return np.asarray(labels)


def _parts(p: LabelMap, g: LabelMap) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both maps whole, or block by block where one is read so."""
    lazy = [x for x in (p, g) if not isinstance(x, np.ndarray)]
    if not lazy:
        yield np.asarray(p), np.asarray(g)
        return
    from jaxseg.evaluation import _readers

    for where in _readers.blocks(_readers.Image(lazy[0], None, "px", None, None, [])):
        yield p[where], g[where]


def _masks(
    prediction: np.ndarray, labels: np.ndarray, k: int, target: Target, is_dense: bool
) -> tuple[np.ndarray, np.ndarray]:
    if is_dense:
        return prediction[..., k], labels[..., k]
    return member(prediction, target.ids), member(labels, target.ids)


def member(ids: np.ndarray, of: Sequence[int]) -> np.ndarray:
    """Whether each id is one of some ids."""
    found: np.ndarray = ids == of[0]
    for other in of[1:]:
        found |= ids == other
    return found


def confusion(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], num_ids: int, ignore: int | None
) -> np.ndarray:
    """Pixels by true and predicted id, int64 ``[num_ids + 1, num_ids + 1]``; the last is any other.

    The pairs are of predicted and true ids: those of one image, or of its blocks.
    """
    matrix = np.zeros((num_ids + 1, num_ids + 1), np.int64)
    for p, g in itertools.chain.from_iterable(map(_blocks, pairs)):
        counted = _counted(p, g, num_ids)
        if ignore is not None and 0 <= ignore <= num_ids:
            counted[ignore] = 0
        void = 0 if ignore is None else np.count_nonzero(g == ignore)
        if counted.sum() != g.size - void:  # there are other ids
            counted = _counted(_with_others(p, num_ids), _with_others(g, num_ids, ignore), num_ids)
        matrix += counted
    return matrix


def _blocks(pair: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both maps as integers without axes, in blocks."""
    p, g = (np.ascontiguousarray(x).reshape(-1) for x in pair)
    p, g = (x.view(np.uint8) != 0 if x.dtype == bool else x for x in (p, g))
    dtype = np.uint8 if {p.dtype, g.dtype} <= {np.dtype(bool), np.dtype(np.uint8)} else np.int64
    for start in range(0, g.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        yield p[part].astype(dtype, copy=False), g[part].astype(dtype, copy=False)


def _counted(p: np.ndarray, g: np.ndarray, num_ids: int) -> np.ndarray:
    """Pixels by both ids, without those of which one is larger than ``num_ids`` or negative."""
    ends = _ends_of_runs(p, g)
    if len(ends) < g.size // 16:  # as in most label maps of objects
        return _counted_by_runs(p, g, ends, num_ids)
    if num_ids >= 255 or p.dtype != np.uint8:
        p, g = (x.clip(-1, 2**31 - 1).astype(np.int32) for x in (p, g))
    size = max(2**12, 1 << (g.size - 1).bit_length())  # images of many sizes: few programs
    if size > g.size:
        nothing = np.full(size - g.size, 255 if p.dtype == np.uint8 else -1, p.dtype)
        p, g = (np.concatenate([x, nothing]) for x in (p, g))
    return np.array(jaxseg.confusion_matrix(p, g, num_classes=num_ids + 1), np.int64)


def _ends_of_runs(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The last pixel of each run of pixels with the same ids; all of them, if there are many."""
    ends, number = [], 0
    buffers = np.empty((2, _CACHED), bool)  # new memory for each would take most of the time
    for start in range(0, g.size - 1, _CACHED):
        a, b = p[start : start + _CACHED + 1], g[start : start + _CACHED + 1]
        changes, of_g = buffers[:, : len(a) - 1]
        np.not_equal(a[1:], a[:-1], out=changes)
        np.not_equal(b[1:], b[:-1], out=of_g)
        changes |= of_g
        found = np.flatnonzero(changes)
        ends.append(found + start)
        number += len(found)
        if number > g.size // 16:
            return np.arange(g.size)
    return np.concatenate([*ends, [g.size - 1]])


def _counted_by_runs(p: np.ndarray, g: np.ndarray, ends: np.ndarray, num_ids: int) -> np.ndarray:
    """The same of runs of pixels that have the same ids."""
    lengths = np.diff(ends, prepend=-1)
    p, g = p[ends].astype(np.int64), g[ends].astype(np.int64)
    inside = (p >= 0) & (p <= num_ids) & (g >= 0) & (g <= num_ids)
    cells = (g * (num_ids + 1) + p)[inside]
    pixels = np.bincount(cells, lengths[inside], (num_ids + 1) ** 2)  # in float64, so exact
    return pixels.astype(np.int64).reshape(num_ids + 1, num_ids + 1)


def _with_others(ids: np.ndarray, num_ids: int, ignore: int | None = None) -> np.ndarray:
    """The same with ``num_ids`` for any other id, and -1 where nothing counts."""
    index = np.where((ids >= 0) & (ids < num_ids), ids.astype(np.int64), num_ids)
    return index if ignore is None else np.where(ids == ignore, -1, index)


def target_counts(matrix: np.ndarray, targets: Sequence[Target]) -> list[tuple[int, int, int, int]]:
    """``tp, fp, fn, tn`` of classes and regions, of pixels by true and predicted id."""
    truth, predicted, everything = matrix.sum(1), matrix.sum(0), int(matrix.sum())
    counts = []
    for ids in (list(target.ids) for target in targets):
        tp = int(matrix[ids[0], ids[0]] if len(ids) == 1 else matrix[np.ix_(ids, ids)].sum())
        g, p = int(truth[ids].sum()), int(predicted[ids].sum())
        counts.append((tp, p - tp, g - tp, everything - g - p + tp))
    return counts


def _mask_counts(p: np.ndarray, g: np.ndarray) -> tuple[int, int, int, int]:
    tp, predicted, truth = (int(np.count_nonzero(x)) for x in (p & g, p, g))
    return tp, predicted - tp, truth - tp, g.size - truth - predicted + tp


def _others(
    metrics: Sequence[Metric],
    p: np.ndarray,
    g: np.ndarray,
    where: np.ndarray | None,
    counts: tuple[int, int, int, int],
    spacing: Sequence[float] | None,
) -> dict[str, float]:
    """The metrics of one target that need its masks."""
    tp, fp, fn, _ = counts
    steps = tuple(spacing) if spacing is not None and len(set(spacing)) > 1 else None
    step: float | tuple[float, ...] = steps or (1.0 if spacing is None else spacing[0])
    values: dict[str, float] = {}
    distances = None
    for metric in metrics:
        if metric.kind in ("volume", "relative-volume"):
            voxel = math.prod(spacing) if spacing is not None else 1.0
            divisor = (tp + fn) or math.nan
            by = voxel if metric.kind == "volume" else 1 / divisor
            values[metric.name] = (fp - fn) * by
        elif metric.kind == "boundary-iou":
            values[metric.name] = _boundary_iou(p, g, where)
        elif metric.kind == "centre-distance":
            values[metric.name] = _centre_distance(p, g, where, step)
        else:
            if distances is None:
                distances = jaxseg.surface_distances(p, g, spacing=step, where=where)
            values[metric.name] = float(_of_distances(metric, distances))
    return values


def _of_distances(metric: Metric, distances: jaxseg.SurfaceDistances) -> Array:
    match metric.kind:
        case "hd":
            return jaxseg.hausdorff_distance(distances)
        case "hd95":
            return jaxseg.hausdorff_distance(distances, percentile=95)
        case "assd":
            return jaxseg.average_surface_distance(distances)
        case "masd":
            return jaxseg.average_surface_distance(distances, method="mean")
        case "nsd":
            return jaxseg.surface_dice(distances, tolerance=metric.tolerance or 0.0)
        case _:
            return jaxseg.boundary_f_score(distances, tolerance=metric.tolerance or 0.0)


def _boundary_iou(p: np.ndarray, g: np.ndarray, where: np.ndarray | None) -> float:
    if p.ndim != 2:
        raise CaseError(f"boundary-iou is of images of two axes; this case has shape {p.shape}.")
    width = max(1, round(0.02 * math.hypot(*p.shape)))
    p, g, valid = (_filled(x) for x in (p, g, np.ones(p.shape, bool) if where is None else where))
    return float(jaxseg.boundary_iou(p & valid, g & valid, width=width))


def _centre_distance(
    p: np.ndarray, g: np.ndarray, where: np.ndarray | None, step: float | tuple[float, ...]
) -> float:
    if where is not None:
        p, g = p & where, g & where
    return float(jaxseg.centre_distance(_filled(p), _filled(g), spacing=step))


def _filled(mask: np.ndarray) -> np.ndarray:
    """A mask with False behind it along each axis, so that few shapes are compiled."""
    sizes = [max(16, 1 << (n - 1).bit_length()) for n in mask.shape]
    return np.pad(mask, [(0, size - n) for size, n in zip(sizes, mask.shape)])


def evaluate_case(
    prediction: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int | None = None,
    classes: Mapping[str, int | Sequence[int]] | Sequence[int] | None = None,
    ignore: int | None = None,
    metrics: str | Sequence[str] = ("dice", "iou"),
    spacing: float | Sequence[float] | None = None,
    case: str = "",
    group: str = "",
) -> list[Row]:
    """Score one pair of label maps: a row for each class and metric.

    Args:
      prediction: integer or bool ids ``[*space]``, a NumPy array.
      labels: the truth, in the same format and shape.
      num_classes: C; the ids are 0 to C - 1. With 1, both are masks and id 1 is the class.
      classes: which are scored: ids, or a mapping from a name to an id, or for a region to several
        ids. By default all of ``num_classes``.
      ignore: the true id of pixels that do not count.
      metrics: names, as ``jaxseg evaluate --metrics`` takes them.
      spacing: the size of a pixel along each axis in mm, or one number; None counts in pixels.
      case: the name in the rows.
      group: the patient or site in the rows.

    Returns:
      A list of ``Row``: ``case``, ``group``, ``target`` (the class), ``metric`` (with definition
      and unit in its name), ``value``, ``n_truth`` and ``n_prediction`` (pixels).

    Raises:
      ValueError: maps of different shapes, ids that are no class, metrics that are not known.
      TypeError: maps that are not of integers or bools.

    Example:
      >>> import numpy as np
      >>> from jaxseg.evaluation import evaluate_case
      >>> labels = np.zeros((8, 8), int)
      >>> labels[2:6, 2:6] = 1
      >>> rows = evaluate_case(
      ...     np.roll(labels, 1, 0), labels, classes={"organ": 1}, metrics="dice,hd95"
      ... )
      >>> [(row.target, row.metric, row.value) for row in rows]
      [('organ', 'dice', 0.75), ('organ', 'hd95_max_px', 1.0)]
    """
    p, g = np.asarray(prediction), np.asarray(labels)
    for name, x in (("prediction", p), ("labels", g)):
        if x.dtype != bool and not np.issubdtype(x.dtype, np.integer):
            raise TypeError(f"{name} must be ids or masks of integers or bools, got {x.dtype}.")
    targets = as_targets(num_classes, classes, ignore)
    num_ids = num_ids_of(targets, num_classes)
    asked = parse_metrics(metrics)
    steps = None
    if spacing is not None:
        given = [spacing] * g.ndim if isinstance(spacing, int | float) else list(spacing)
        if len(given) != g.ndim or not all(s > 0 and math.isfinite(s) for s in given):
            raise ValueError(
                f"spacing must be a positive number, or one per axis of {g.ndim}; got {spacing}."
            )
        steps = tuple(map(float, given))
    found = score(
        p, g, targets=targets, num_ids=num_ids, ignore=ignore, metrics=asked, spacing=steps
    )
    unit = "px" if steps is None else "mm"
    return rows_of(case, group, unit, targets, asked, found.values, found.counts)


def as_targets(
    num_classes: int | None,
    classes: Mapping[str, int | Sequence[int]] | Sequence[int] | None,
    ignore: int | None = None,
) -> tuple[Target, ...]:
    """The targets that ``num_classes`` and ``classes`` say; the ignored id is none of the first."""
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    if classes is None:
        if num_classes is None:
            raise ValueError("Give num_classes, or the classes that are scored.")
        scored = range(num_classes) if num_classes > 1 else [1]
        targets = [Target(str(c), (c,)) for c in scored if c != ignore]
    elif isinstance(classes, Mapping):
        targets = [
            Target(name, as_ids(f"The class {name}", ids if isinstance(ids, Sequence) else [ids]))
            for name, ids in classes.items()
        ]
    else:
        targets = [Target(str(c), (c,)) for c in as_ids("classes", classes)]
    return checked(targets, ignore, 0).targets


def num_ids_of(targets: Sequence[Target], num_classes: int | None) -> int:
    """How many ids are counted one by one."""
    return max([max(num_classes or 0, 2), *(i + 1 for target in targets for i in target.ids)])


def rows_of(
    case: str,
    group: str,
    unit: str,
    targets: Sequence[Target],
    metrics: Sequence[Metric],
    values: Mapping[str, Sequence[float]],
    counts: Sequence[tuple[int, int, int, int]],
) -> list[Row]:
    """The lines of one case, class by class."""
    return [
        Row(case, group, target.name, m.column(unit), values[m.name][k], tp + fn, tp + fp)
        for k, (target, (tp, fp, fn, _)) in enumerate(zip(targets, counts, strict=True))
        for m in metrics
    ]
