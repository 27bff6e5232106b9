"""What is wrong with the files of a case before it is scored, and what to do about it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from jaxseg.evaluation._pairs import Pair, Pairs
from jaxseg.evaluation._readers import Image
from jaxseg.evaluation._records import CaseError

CLOSE = 1e-3  # of a voxel: the largest difference of affines and spacings that is none
GAIN = 0.3  # of the mean Dice, above which another order of pixels or classes is likelier
GOOD = 0.7  # a mean Dice above which no other order is tried
SCREENED = 2**16  # the most pixels that are looked at to try an order
FEW = 256  # the most ids that are all listed, whether they occur or not
BLOCK = 2**20  # pixels that are counted or resampled at once
SHOWN = 8  # the most ids that a message lists


class Problem(NamedTuple):
    """What is wrong with a case."""

    case: str
    kind: str  # "shape", "affine", "spacing", "ids", "orientation", ...
    message: str  # with what to do
    is_error: bool  # the case cannot be scored; otherwise its scores may be wrong


class Header(Protocol):
    """What a file says of its array."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def spacing(self) -> tuple[float, ...] | None: ...
    @property
    def affine(self) -> np.ndarray | None: ...
    @property
    def dtype(self) -> object: ...


def summarize_problems(problems: Sequence[Problem]) -> list[str]:
    """One message for each kind of problem, errors first: the first case, and how many more."""
    kinds: dict[tuple[bool, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((not problem.is_error, problem.kind), []).append(problem)
    sentences = []
    for _, alike in sorted(kinds.items(), key=lambda item: item[0]):
        others = list(dict.fromkeys(p.case for p in alike if p.case != alike[0].case))
        names = ", ".join(others[:3]) + (" and others" if len(others) > 3 else "")
        more = f" So {len(others)} more: {names}." if others else ""
        sentences.append(f"{alike[0].case}: {alike[0].message}{more}")
    return sentences


# ----------------------------------------------------------------------------- files and headers


def pair_problems(pairs: Pairs) -> list[Problem]:
    """Labels without a prediction, which are errors, and predictions without labels."""
    missing = zip(pairs.missing_cases, pairs.missing, strict=True)
    return [
        Problem(
            case,
            "missing",
            f"the labels {path} have no prediction. Make it, or say how such a case counts: at its "
            "worst (--missing worst) or not at all (--missing skip); where only the names differ, "
            "give their pattern (--pair).",
            True,
        )
        for case, path in missing
    ] + [
        Problem(
            path.name,
            "extra",
            "the prediction has no labels and is not scored. Where only the names differ, give "
            "their pattern (--pair).",
            False,
        )
        for path in pairs.extra
    ]


def header_problems(
    pairs: Iterable[Pair], read_header: Callable[[Path], Header], *, resample: bool = False
) -> list[Problem]:
    """Compare the headers of the two files of each case.

    With ``resample``, predictions are resampled to the grid of the labels, so that it is enough
    that both have an affine, or both a spacing.
    """
    problems = []
    for pair in pairs:
        try:
            headers = read_header(pair.prediction), read_header(pair.labels)
        except CaseError as error:
            problems.append(Problem(pair.case, "unreadable", str(error), True))
            continue
        found = _grids_to_resample(*headers) if resample else _grids(*headers)
        problems += [Problem(pair.case, *problem) for problem in found]
    return problems


Found = tuple[str, str, bool]  # a problem without its case


def _grids(prediction: Header, labels: Header) -> Iterator[Found]:
    """Problems of two grids whose voxels are compared one by one."""
    shapes = space_of(prediction, labels), space_of(labels, prediction)
    if shapes[0] != shapes[1]:
        yield "shape", _shape_message(prediction, labels, *shapes), True
        return
    found = []
    if prediction.spacing is not None and labels.spacing is not None:
        found = _spacings(prediction.spacing, labels.spacing)
    if not found and prediction.affine is not None and labels.affine is not None:
        found = _affines(np.asarray(prediction.affine, float), np.asarray(labels.affine, float))
    if found:
        yield from found
    elif (prediction.spacing is None) != (labels.spacing is None):
        yield "spacing", _one_spacing(prediction, labels), False


def _one_spacing(prediction: Header, labels: Header) -> str:
    if labels.spacing is not None:
        return (
            f"the labels have a spacing of {_numbers(labels.spacing)} and the prediction has none; "
            "that of the labels is used. Check that they are of the same image."
        )
    return (
        f"the prediction has a spacing of {_numbers(prediction.spacing or ())} and the labels have "
        "none. Give it (--spacing), or distances are in pixels."
    )


def space_of(header: Header, other: Header) -> tuple[int, ...]:
    """The shape without the axis of classes that an array of floats or bools may have, last."""
    kind = np.dtype(header.dtype).kind  # type: ignore[call-overload]
    if kind in "fb" and len(header.shape) == len(other.shape) + 1:
        return header.shape[:-1]
    return header.shape


def _shape_message(
    prediction: Header, labels: Header, p: tuple[int, ...], g: tuple[int, ...]
) -> str:
    said = f"the prediction has shape {p} and the labels have {g}"
    if sorted(p) == sorted(g) and len(p) <= 5:
        orders = itertools.permutations(reversed(range(len(p))))  # the reverse is the likeliest
        axes = next(axes for axes in orders if tuple(p[a] for a in axes) == g)
        return (
            f"{said}: the axes look to be in another order. Write the prediction with its axes as "
            f"those of the labels, np.transpose(prediction, {axes}); arrays of SimpleITK are "
            "[z, y, x], and of nibabel [x, y, z]."
        )
    without = [tuple(n for n in shape if n != 1) for shape in (p, g)]
    if len(p) != len(g) and without[0] == without[1]:
        return f"{said}: take the axes of length 1 out of one of them, as np.squeeze does."
    if _resamples(prediction, labels):
        return (
            f"{said}. Write the prediction on the grid of the labels, or let it be resampled there "
            "(--resample label)."
        )
    return (
        f"{said}. Resize the prediction to the size of the labels, by nearest neighbours; scores "
        "are computed at the size of the labels."
    )


def _resamples(prediction: Header, labels: Header) -> bool:
    """Whether the two headers tell where their voxels lie in each other's grid."""
    both = prediction, labels
    return all(h.affine is not None for h in both) or all(h.spacing is not None for h in both)


def is_same_grid(prediction: Image, labels: Image) -> bool:
    """Whether the voxels of both are at the same places, as far as the files tell."""
    if prediction.array.shape != labels.array.shape:
        return False
    if prediction.affine is not None and labels.affine is not None:
        return not _affines(prediction.affine, labels.affine)
    if prediction.spacing is not None and labels.spacing is not None:
        return not _spacings(prediction.spacing, labels.spacing)
    return True


def _grids_to_resample(prediction: Header, labels: Header) -> Iterator[Found]:
    if not _resamples(prediction, labels):
        without = [
            name
            for name, header in (("the prediction", prediction), ("the labels", labels))
            if header.affine is None and header.spacing is None
        ]
        missing = " and ".join(without) or "one of the files"
        yield (
            "resample",
            f"the prediction cannot be resampled, since {missing} has no affine and no spacing. "
            "Leave --resample out, or write the files in a format that has them.",
            True,
        )
    elif len(space_of(prediction, labels)) != len(space_of(labels, prediction)):
        yield (
            "shape",
            f"the prediction has shape {prediction.shape} and the labels have {labels.shape}, "
            "which are not of the same number of axes. Write them with the same axes.",
            True,
        )


def _affines(p: np.ndarray, g: np.ndarray) -> list[Found]:
    """Compare positions; of a voxel's sides, the shortest is what a difference is relative to."""
    sides = np.linalg.norm(g[:3, :3], axis=0)
    side = float(sides.min(initial=math.inf, where=sides > 0))
    slack = 4 * float(np.finfo(np.float32).eps) * float(np.abs(g).max())  # of a header's numbers
    difference = np.abs(p - g)
    row, column = (int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))
    if difference[row, column] <= CLOSE * min(side, 1e9) + slack:
        return []
    towards = _directions(p), _directions(g)
    if towards[0] != towards[1]:
        said = (
            f"say that axes point to {towards[0]} in the prediction and {towards[1]} in the labels"
        )
    else:
        said = (
            f"differ by up to {difference[row, column]:.3g} mm, in row {row} and column {column}, "
            f"where the shortest side of a voxel is {side:.3g} mm"
        )
    return [
        (
            "affine",
            f"the affines {said}; voxels are compared as they are stored. If the affines are "
            "right, resample (--resample label); if not, write that of the labels into the "
            "prediction.",
            False,
        )
    ]


def _directions(affine: np.ndarray) -> str:
    """The direction of each axis in the world: RAS is right, anterior, superior."""
    letters = []
    for column in affine[:3, :3].T:
        axis = int(np.argmax(np.abs(column)))
        letters.append("?" if not column[axis] else ("RAS" if column[axis] > 0 else "LPI")[axis])
    return "".join(letters)


def _spacings(p: tuple[float, ...], g: tuple[float, ...]) -> list[Found]:
    if len(p) == len(g) and np.allclose(p, g, rtol=CLOSE, atol=0):
        return []
    turned = len(p) == len(g) and np.allclose(sorted(p), sorted(g), rtol=CLOSE, atol=0)
    return [
        (
            "spacing",
            f"the prediction has a spacing of {_numbers(p)} and the labels of {_numbers(g)}"
            f"{', the same in another order' if turned else ''}; that of the labels is used. Write "
            "the right one into the file that is wrong, or give it (--spacing).",
            False,
        )
    ]


def _numbers(values: Iterable[float]) -> str:
    return f"({', '.join(f'{v:.4g}' for v in values)})"


# ------------------------------------------------------------------------------------------ values


def value_problems(
    prediction: np.ndarray,
    labels: np.ndarray,
    num_ids: int,
    ignore: int | None = None,
    *,
    case: str = "",
    matrix: np.ndarray | None = None,
) -> list[Problem]:
    """Look whether the ids of a case are classes, and in the right place.

    Args:
      prediction: ids ``[*space]``; -1 is no class.
      labels: ids of the same shape.
      num_ids: valid ids are 0 to num_ids - 1.
      ignore: the id of labels whose pixels do not count, whatever the prediction holds there.
      case: its name.
      matrix: ``[num_ids, num_ids]``, the pixels of each true id (row) and predicted id, of pixels
        that count, if it is known.

    Returns:
      Problems, which are errors where ids are no classes.
    """
    if prediction.shape != labels.shape:
        said = f"the prediction has shape {prediction.shape} and the labels have {labels.shape}"
        return [Problem(case, "shape", f"{said}: write them with the same shape.", True)]
    valid = None if ignore is None else labels != ignore
    number = labels.size if valid is None else int(np.count_nonzero(valid))
    if number == 0:
        what = "" if ignore is None else f": all have the ignored id {ignore}"
        said = f"the labels have no pixel that counts{what}. Check the file, or leave it out."
        return [Problem(case, "nothing", said, False)]
    if matrix is None or int(np.sum(matrix)) < number:
        ids, counts = _confusion(prediction, labels, num_ids, valid)
    else:
        ids, counts = np.arange(num_ids), np.pad(np.asarray(matrix, np.int64), ((0, 0), (0, 1)))
    found: list[Found] = []
    if counts[:, :-1].sum() < number:  # some pixel is of no class in one of the two
        for name, array in (("labels", labels), ("prediction", prediction)):
            found += _unknown_ids(name, array, valid, num_ids, number)
    if not found:
        found += _constants(ids, counts, number) or _orders(prediction, labels, valid, ids, counts)
    return [Problem(case, *problem) for problem in found]


def _confusion(
    prediction: np.ndarray, labels: np.ndarray, num_ids: int, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and the pixels of each true and predicted id; the last column is of no class.

    Of many ids, only those that occur are listed.
    """
    ids = np.arange(num_ids)
    if num_ids > FEW:
        occurs = np.zeros(num_ids + 1, bool)
        for p, g, _ in _blocks(prediction, labels, None):
            for x in (p, g):
                occurs[_index(x, num_ids)] = True
        ids = np.flatnonzero(occurs[:-1])
    place = np.full(num_ids + 1, len(ids))
    place[ids] = np.arange(len(ids))
    width = len(ids) + 1
    matrix = np.zeros(width * width, np.int64)
    for p, g, where in _blocks(prediction, labels, valid):
        p, g = (_index(x, num_ids) for x in (p, g))
        if num_ids > FEW:
            p, g = place[p], place[g]
        cells = g * width + p
        matrix += np.bincount(cells if where is None else cells[where], minlength=matrix.size)
    return ids, matrix.reshape(width, width)[:-1]


def _index(ids: np.ndarray, num_ids: int) -> np.ndarray:
    """Ids as int64, where all that are no class are num_ids."""
    index = _wide(ids)
    index[(index < 0) | (index > num_ids)] = num_ids
    return index


def _wide(ids: np.ndarray) -> np.ndarray:
    """Ids as int64; bools that are stored as other bytes than 0 and 1 are 1."""
    if ids.dtype == bool:
        return (ids.view(np.uint8) != 0).astype(np.int64)
    if ids.dtype == np.uint64:
        return np.minimum(ids, np.uint64(2**62)).astype(np.int64)
    return ids.astype(np.int64)


def _blocks(
    prediction: np.ndarray, labels: np.ndarray, valid: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Flat parts of all arrays, of whole slices of the first axis."""
    rows = max(1, BLOCK // max(1, math.prod(labels.shape[1:]))) if labels.ndim else 1
    arrays = [x.reshape(1) if not x.ndim else x for x in (prediction, labels)]
    for start in range(0, len(arrays[1]), rows):
        part = slice(start, start + rows)
        p, g = (x[part].reshape(-1) for x in arrays)
        yield p, g, None if valid is None else valid.reshape(arrays[1].shape)[part].reshape(-1)


def _unknown_ids(
    name: str, ids: np.ndarray, valid: np.ndarray | None, num_ids: int, number: int
) -> list[Found]:
    """Ids that are no class, how many pixels have each, and what they may be."""
    values, pixels = _values(ids if valid is None else ids[valid])
    last = num_ids - 1
    outside = (values < 0) | (values > last)
    if name == "prediction":
        outside &= values != -1
    if not outside.any():
        return []
    wrong, often = values[outside].tolist(), pixels[outside]
    most = np.sort(np.argsort(-often, kind="stable")[:SHOWN])
    shown = ", ".join(f"{wrong[i]} ({often[i]:,})" for i in most)
    more = f" and {len(wrong) - SHOWN} other ids" if len(wrong) > SHOWN else ""
    said = (
        f"the {name} must hold ids from 0 to {last}, but {'have' if name == 'labels' else 'has'} "
        f"{shown}{more}, in {int(often.sum()):,} of {number:,} pixels. "
    )
    return [("ids", said + _what_ids_are(name, values.tolist(), wrong, num_ids), True)]


def _values(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values, and how often each is there."""
    if ids.dtype not in (np.uint8, np.uint16):
        return np.unique(_wide(ids), return_counts=True)
    pixels = np.bincount(ids.reshape(-1))
    values = np.flatnonzero(pixels)
    return values, pixels[values]


def _what_ids_are(name: str, values: list[int], wrong: list[int], num_ids: int) -> str:
    hints = []
    if num_ids == 2 and len(wrong) == 1 and wrong[0] > 0 and set(values) <= {0, wrong[0]}:
        hints.append(f"If {wrong[0]} is the mask, write it as 1, or map it (--map).")
    elif wrong == [num_ids] and 0 not in values:
        hints.append(
            "If ids count from 1, subtract 1; of labels whose 0 is void, --reduce-zero-label does."
        )
    if name == "labels" and len(wrong) == 1 and wrong[0] >= 0:
        hints.append(f"If such pixels do not count, ignore them (--ignore {wrong[0]}).")
    if min(wrong) >= 0 and max(wrong) < 1000 and len(wrong) > 1 - bool(hints):
        hints.append(
            f"If they are classes, there are more of them (--num-classes {max(wrong) + 1})."
        )
    hints.append("If they stand for other ids, map them (--map FILE).")
    return " ".join(hints)


def _constants(ids: np.ndarray, matrix: np.ndarray, number: int) -> list[Found]:
    """A prediction of one id alone, where the labels have others."""
    predicted = np.flatnonzero(matrix.sum(0))  # the last is no class
    others = ids[np.setdiff1d(np.flatnonzero(matrix.sum(1)), predicted)]
    if len(predicted) > 1 or not len(others):
        return []
    classes = f"{len(others)} other ids, such as {others[0]}" if len(others) > 1 else str(others[0])
    value = "no class" if predicted[0] == len(ids) else str(ids[predicted[0]])
    return [
        (
            "empty" if value in ("no class", "0") else "constant",
            f"the prediction is {value} in all {number:,} pixels, where the labels have {classes}. "
            "The case is scored with these classes missed; a prediction that was not made is "
            "a file to leave out (--missing).",
            False,
        )
    ]


def _orders(
    prediction: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray | None,
    ids: np.ndarray,
    matrix: np.ndarray,
) -> list[Found]:
    """Another order of pixels, or of classes, that the prediction seems to be in."""
    true = matrix.sum(1)
    dice = 2 * np.diag(matrix) / np.maximum(true + matrix.sum(0)[:-1], 1)
    present = (true > 0) & (ids > 0)  # 0 is often the background; if it is all there is, it counts
    present = present if present.any() else true > 0
    now = float(dice[present].mean())
    flipped = _flipped(prediction, labels, valid, ids[present], now) if now < GOOD else []
    return flipped or _swapped(ids, matrix)


def _flipped(
    prediction: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray | None,
    present: np.ndarray,
    now: float,
) -> list[Found]:
    """A flip or transpose of the prediction that raises the mean Dice by much.

    All are tried on a grid of few pixels, and the best of these on all pixels.
    """
    step = max(1, math.ceil((labels.size / SCREENED) ** (1 / max(labels.ndim, 1))))
    grid = (slice(None, None, step),) * labels.ndim
    few = labels[grid], None if valid is None else valid[grid]
    best, best_gain = None, GAIN / 2
    was = _mean_dice(prediction[grid], *few, present)
    for order in _all_orders(labels.shape):
        gain = _mean_dice(_reorder(prediction, order)[grid], *few, present) - was
        if gain > best_gain + 1e-9:
            best, best_gain = order, gain
    if best is None:
        return []
    then = _mean_dice(_reorder(prediction, best), labels, valid, present)
    if then - now < GAIN:
        return []
    axes, flips = best
    done = []
    if axes != tuple(range(labels.ndim)):
        done.append(f"np.transpose(prediction, {axes})")
    if flips:
        done.append(f"np.flip(prediction, {flips[0] if len(flips) == 1 else flips})")
    what = (
        f"flipped along {_axes(flips)}" if len(done) == 1 and flips else "with its axes swapped"
    ) + (f" and flipped along {_axes(flips)}" if len(done) == 2 else "")
    return [
        (
            "orientation",
            f"the prediction looks {what}: after {', then '.join(done)} the mean Dice of the "
            f"{len(present)} classes of the labels is {then:.3f} and not {now:.3f}. Write it in "
            "their orientation; where both have right affines, --resample label does that.",
            False,
        )
    ]


def _axes(flips: tuple[int, ...]) -> str:
    if len(flips) == 1:
        return f"axis {flips[0]}"
    return f"axes {', '.join(map(str, flips[:-1]))} and {flips[-1]}"


Order = tuple[tuple[int, ...], tuple[int, ...]]  # the axes, and those that are then flipped


def _all_orders(shape: tuple[int, ...]) -> Iterator[Order]:
    """Other orders of pixels, the simplest first; of more than three axes, single flips."""
    axes = tuple(range(len(shape)))
    if len(shape) > 3:
        yield from ((axes, (a,)) for a in axes)
        return
    flips = [f for n in range(len(shape) + 1) for f in itertools.combinations(axes, n)]
    for order in itertools.permutations(axes):
        if tuple(shape[a] for a in order) == shape:
            yield from ((order, f) for f in flips if f or order != axes)


def _reorder(ids: np.ndarray, order: Order) -> np.ndarray:
    """A view of the array with its axes in another order."""
    axes, flips = order
    return np.flip(np.transpose(ids, axes), flips)


def _mean_dice(
    prediction: np.ndarray, labels: np.ndarray, valid: np.ndarray | None, present: np.ndarray
) -> float:
    """The mean Dice of the classes that are present, of those that these pixels have."""
    number = int(present[-1]) + 1
    both, sizes, true = np.zeros((3, number + 1), np.int64)
    for p, g, where in _blocks(prediction, labels, valid):
        p, g = (_index(x, number) for x in ((p, g) if where is None else (p[where], g[where])))
        sizes += np.bincount(p, minlength=number + 1)
        true += np.bincount(g, minlength=number + 1)
        both += np.bincount(g[p == g], minlength=number + 1)
    here = present[true[present] > 0]
    return float((2 * both[here] / (sizes[here] + true[here])).mean()) if len(here) else 0.0


def _swapped(ids: np.ndarray, matrix: np.ndarray) -> list[Found]:
    """Two classes each of which is predicted where the other one is."""
    sizes = np.maximum(matrix.sum(1)[:, None] + matrix.sum(0)[None, :-1], 1)
    overlap = 2 * matrix[:, :-1] / sizes  # the Dice of each true and each predicted class
    own = np.diag(overlap)
    likely = np.argwhere(np.triu((overlap >= 0.5) & (overlap.T >= 0.5), 1))
    found: list[Found] = []
    for a, b in likely:
        now, then = (own[a] + own[b]) / 2, (overlap[a, b] + overlap[b, a]) / 2
        if then - now >= GAIN:
            found.append(
                (
                    "classes",
                    f"classes {ids[a]} and {ids[b]} look swapped: if they are, their mean Dice is "
                    f"{then:.3f} and not {now:.3f}. Check the order of classes, or map the ids "
                    "(--map) of the prediction.",
                    False,
                )
            )
    return found


# ---------------------------------------------------------------------------------------- resample


def resample_labels(
    array: np.ndarray,
    grid: np.ndarray | Sequence[float],
    reference_shape: Sequence[int],
    reference_grid: np.ndarray | Sequence[float],
    *,
    fill: int = 0,
) -> np.ndarray:
    """Ids on another grid, each that of the nearest voxel.

    Args:
      array: ids ``[*space]`` of one to three axes; further axes, as of masks, are kept.
      grid: its affine ``[4, 4]``, or the spacing of its axes.
      reference_shape: the shape of the result, without further axes.
      reference_grid: its affine or spacing, as ``grid``. With spacings, the outer edges of the two
        grids' first voxels are at the same place, as they are of one image at two resolutions.
      fill: what is outside of the array.

    Returns:
      An array of the same dtype. A point half-way between two voxels is of the one before it.

    Raises:
      CaseError: grids that are not of the same kind or number of axes, or that have no inverse.
    """
    shape = tuple(reference_shape)
    rank = len(shape)
    if not 1 <= rank <= 3 or array.ndim < rank:
        raise CaseError(
            f"An array {array.shape} cannot be resampled to the shape {shape}: both must have the "
            "same one to three axes."
        )
    space, further = array.shape[:rank], array.shape[rank:]
    if rank < 3 and np.shape(grid) == np.shape(reference_grid) == (4, 4):  # slices in space
        flat = (1,) * (3 - rank)
        found = array.reshape(*space, *flat, *further)
        found = resample_labels(found, grid, (*shape, *flat), reference_grid, fill=fill)
        return found.reshape(*shape, *further)
    matrix, shift = _to_voxels(np.asarray(grid, float), np.asarray(reference_grid, float), rank)
    result = np.full((*shape, *further), fill, array.dtype)
    if not (matrix - np.diag(np.diag(matrix))).any():
        indices = [_nearest(matrix[a, a] * np.arange(n) + shift[a]) for a, n in enumerate(shape)]
        inside = [(i >= 0) & (i < n) for i, n in zip(indices, space, strict=True)]
        rows = [np.flatnonzero(x) for x in inside]
        if all(map(len, rows)):
            result[np.ix_(*rows)] = array[
                np.ix_(*(i[x] for i, x in zip(indices, inside, strict=True)))
            ]
        return result
    others = np.indices(shape[1:], float).reshape(rank - 1, -1)
    step = max(1, BLOCK // max(1, others.shape[1]))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        first = np.arange(start, stop, dtype=float)
        indices, inside_all = [], np.ones((stop - start, others.shape[1]), bool)
        for a in range(rank):
            along = matrix[a, 1:] @ others + shift[a]
            index = _nearest(matrix[a, 0] * first[:, None] + along)
            inside_all &= (index >= 0) & (index < space[a])
            indices.append(index)
        part = np.full((*inside_all.shape, *further), fill, array.dtype)
        part[inside_all] = array[tuple(index[inside_all] for index in indices)]
        result[start:stop] = part.reshape(stop - start, *shape[1:], *further)
    return result


def _nearest(position: np.ndarray) -> np.ndarray:
    """The nearest index; of two, the lower one, also if rounding moved it a little."""
    return np.ceil(position - 0.5 - 1e-6).astype(np.int64)


def _to_voxels(grid: np.ndarray, reference: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix and shift of an index of the reference to a position in the array."""
    if grid.shape == reference.shape == (rank,):
        if not (np.isfinite(grid).all() and (grid > 0).all()):
            raise CaseError(f"The spacing must be positive, got {_numbers(grid)}: mend the file.")
        ratio = reference / grid
        return np.diag(ratio), (ratio - 1) / 2
    if grid.shape != (4, 4) or reference.shape != (4, 4):
        raise CaseError(
            f"Resampling needs two affines [4, 4] or two spacings ({rank},), got shapes "
            f"{grid.shape} and {reference.shape}: write both files in a format that has them."
        )
    try:
        both = np.linalg.solve(grid, reference)
    except np.linalg.LinAlgError:
        both = np.full((4, 4), np.nan)
    if not np.isfinite(both).all() or np.linalg.cond(grid[:3, :3]) > 1e9:
        raise CaseError("The affine of the prediction has no inverse: mend the file's header.")
    # What is a rounding error of two equal directions is none.
    scale = np.abs(both[:3, :3]).max()
    both[:3, :3][np.abs(both[:3, :3]) < 1e-7 * scale] = 0
    return both[:3, :3], both[:3, 3]
