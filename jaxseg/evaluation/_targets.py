"""What is scored: classes, regions and the ignored id; and ids that files give to other ids."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.evaluation import _pairs
from jaxseg.evaluation._records import CaseError, Target
from jaxseg.evaluation._summary import MACRO

LARGEST_ID = 2**31 - 1
HELP = (
    "Say which classes there are: num_classes (--num-classes 19), classes (--classes 1,2,3), names "
    "(--names road,car or a file) or regions (--regions wt=1,2,3)."
)


class Targets(NamedTuple):
    """What is scored of label maps."""

    targets: tuple[Target, ...]
    ignore: int | None  # the id of pixels that do not count
    num_ids: int  # valid ids are 0 to num_ids - 1
    note: str = ""  # where it is from, if the user did not say it


class IdMap(NamedTuple):
    """Ids that stand for other ids or for colours in files."""

    ids: dict[int, int]
    colours: dict[tuple[int, int, int], int]


# ----------------------------------------------------------------------------------------- targets


def read_targets(
    *,
    num_classes: int | None = None,
    classes: str | Sequence[int] | None = None,
    names: str | os.PathLike[str] | Sequence[str] | None = None,
    regions: str | Sequence[str] | Mapping[str, Sequence[int]] = (),
    ignore: int | None = None,
    folders: Iterable[str | os.PathLike[str]] = (),
) -> Targets:
    """What is scored, out of the options, or else of nnU-Net's ``dataset.json``.

    Args:
      num_classes: C; ids are 0 to C - 1, and all are scored. With 1, ids are a mask of 0 and 1.
      classes: the ids that are scored, such as ``"1,2,3"``; other ids below the largest are valid.
      names: of the classes from 0, or of ``classes`` in their order: as a list, or separated by
        commas, or a file that has one per line, or a CSV file of ids and names.
      regions: unions of classes, each as ``"wt=1,2,3"``; they are scored after the classes.
      ignore: the id of pixels that do not count; it is no class, though ``num_classes`` and
        ``names`` may include it.
      folders: those of labels and predictions. If no classes, names or regions are given, nnU-Net's
        ``dataset.json`` is taken from the first of them that has one, or is at most two folders
        below one that has: its regions if it has them, or its classes, without the background, and
        its ignored label.

    Raises:
      ValueError: nothing says which classes there are, or two options contradict each other.
    """
    chosen = _regions(regions)
    if num_classes is None and classes is None and names is None and not chosen:
        return _of_dataset(folders, ignore)
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes (--num-classes) must be at least 1, got {num_classes}.")
    if num_classes is not None and classes is not None:
        raise ValueError(
            "num_classes scores all ids and classes some of them (--num-classes, --classes): give "
            "one of them."
        )
    scored = None if classes is None else as_ids("classes (--classes)", classes)
    first = 1 if num_classes == 1 else 0
    if scored is None and num_classes is not None:
        scored = tuple(range(first, max(num_classes, 2)))
    names_of = {} if names is None else _names(names, scored, first)
    if scored is None:
        scored = tuple(names_of)
    elif num_classes is not None and (outside := [i for i in names_of if i >= max(num_classes, 2)]):
        raise ValueError(
            f"names (--names) name {_shown(outside)}, which is not below num_classes={num_classes}."
        )
    if classes is None:  # all ids, where one of them may be ignored
        scored = tuple(i for i in scored if i != ignore)
    targets = [Target(names_of.get(i, str(i)), (i,)) for i in scored]
    return checked([*targets, *chosen], ignore, max(num_classes or 0, *[i + 1 for i in scored], 2))


def checked(targets: Sequence[Target], ignore: int | None, num_ids: int, note: str = "") -> Targets:
    """Targets of which none is ignored and no two have one name; ValueError of others."""
    if not targets:
        raise ValueError(f"No class is left to be scored. {HELP}")
    named = [t.name for t in targets]
    if twice := [name for name in named if named.count(name) > 1]:
        raise ValueError(f"Two classes or regions have the name {twice[0]!r}: rename one of them.")
    if MACRO in named:
        raise ValueError(f"{MACRO!r} is a row of the results: give that class another name.")
    if ignored := [t.name for t in targets if ignore in t.ids]:
        raise ValueError(
            f"The id {ignore} is ignored (--ignore), but {ignored[0]!r} has it: give one of them."
        )
    num_ids = max(num_ids, *(i + 1 for t in targets for i in t.ids))
    return Targets(tuple(targets), ignore, num_ids, note)


def as_ids(name: str, ids: str | Sequence[int]) -> tuple[int, ...]:
    """Ids of a text such as "1,2,3", or of a list."""
    found = []
    for part in ids.split(",") if isinstance(ids, str) else ids:
        number = _id(part)
        if number is None:
            raise ValueError(
                f"{name} must be ids from 0 on with commas between them, such as 1,2,3; got "
                f"{part!r} in {ids!r}."
            )
        if number in found:
            raise ValueError(f"{name} has the id {number} twice, in {ids!r}.")
        found.append(number)
    if not found:
        raise ValueError(f"{name} must have at least one id.")
    return tuple(found)


def _id(value: object) -> int | None:
    """An id of a text or number; None if it is no id."""
    if isinstance(value, str):
        digits = value.strip()
        value = int(digits) if re.fullmatch(r"[0-9]{1,10}", digits) else None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return None
    return int(value) if 0 <= value <= LARGEST_ID else None


def _regions(regions: str | Sequence[str] | Mapping[str, Sequence[int]]) -> list[Target]:
    """Regions of texts such as "wt=1,2,3", or of a mapping."""
    if isinstance(regions, Mapping):
        pairs: list[tuple[str, str | Sequence[int]]] = list(regions.items())
    else:
        pairs = []
        for text in [regions] if isinstance(regions, str) else regions:
            name, equals, ids = text.partition("=")
            if not (name.strip() and equals):
                raise ValueError(
                    f"A region (--regions) must be a name and its ids, such as wt=1,2,3; got "
                    f"{text!r}."
                )
            pairs.append((name.strip(), ids))
    return [Target(name, as_ids(f"The region {name}", ids)) for name, ids in pairs]


def _names(
    names: str | os.PathLike[str] | Sequence[str], scored: Sequence[int] | None, first: int
) -> dict[int, str]:
    """The name of each id; those of the ids that are scored, if all have one."""
    by_id, listed = _names_as_given(names)
    if by_id is None:
        if scored is None or len(listed) == len(scored):
            by_id = dict(zip(scored or range(first, first + len(listed)), listed, strict=True))
        elif len(listed) > max(scored):
            by_id = dict(enumerate(listed))
        else:
            raise ValueError(
                f"names (--names) must name the {len(scored)} classes that are scored, or all ids "
                f"from 0 to {max(scored)}; got {len(listed)}: {_shown(listed)}."
            )
    if not by_id:
        raise ValueError("names (--names) must have at least one name.")
    if scored is not None and (without := [i for i in scored if i not in by_id]):
        raise ValueError(f"names (--names) have no name for {_shown(without)}: add it.")
    return by_id


def _names_as_given(
    names: str | os.PathLike[str] | Sequence[str],
) -> tuple[dict[int, str] | None, list[str]]:
    """Names by id if a file has ids, or else in their order."""
    if not isinstance(names, (str, os.PathLike)):
        return None, _clean(names, "names")
    text = os.fspath(names)
    if isinstance(names, str) and not os.path.isfile(text) and not _is_table(text):
        return None, _clean(text.split(","), "names (--names)")
    rows = _pairs.read_table(text)
    if all(len(row) == 1 for _, row in rows):
        return None, _clean([row[0] for _, row in rows], text)
    if rows and _id(rows[0][1][0]) is None:
        rows = rows[1:]  # names of columns
    by_id: dict[int, str] = {}
    for line, row in rows:
        number = _id(row[0])
        if number is None or len(row) < 2 or not row[1].strip():
            raise ValueError(
                f"Line {line} of {text} must be an id and its name, such as 7,road; got "
                f"{','.join(row)!r}."
            )
        if number in by_id:
            raise ValueError(f"Line {line} of {text} names the id {number} a second time.")
        by_id[number] = row[1].strip()
    return by_id, []


def _is_table(text: str) -> bool:
    """Whether it must be the path of a file, which may be missing."""
    return "," not in text and text.lower().endswith((".csv", ".tsv", ".txt"))


def _clean(names: Iterable[str], where: str) -> list[str]:
    cleaned = [name.strip() for name in names]
    if not all(cleaned):
        raise ValueError(f"The name {cleaned.index('') + 1} of {where} is empty.")
    return cleaned


def _shown(values: Sequence[object]) -> str:
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more


# ------------------------------------------------------------------------- nnU-Net's dataset.json


def _of_dataset(folders: Iterable[str | os.PathLike[str]], ignore: int | None) -> Targets:
    """Classes or regions of the first ``dataset.json`` of nnU-Net in or above the folders."""
    for folder in folders:
        here = Path(folder).absolute()
        for place in (here, *here.parents[:2]):
            file = place / "dataset.json"
            if file.is_file():
                labels = _labels_of(file)
                if labels is not None:
                    return _of_labels(file, labels, ignore)
    raise ValueError(HELP)


def _labels_of(file: Path) -> Mapping[str, Any] | None:
    """The labels of a ``dataset.json``; None if it is another program's."""
    content = read_json(file)
    labels = content.get("labels") if isinstance(content, dict) else None
    return labels if isinstance(labels, dict) and labels else None


def _of_labels(file: Path, labels: Mapping[str, Any], ignore: int | None) -> Targets:
    if all(_id(key) is not None for key in labels):  # nnU-Net 1 has ids as keys
        by_name = {str(name): int(key) for key, name in labels.items()}
        if len(by_name) < len(labels):
            raise ValueError(f"Two labels of {file} have one name: rename one of them.")
        labels = by_name
    ids: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        numbers = [_id(v) for v in (value if isinstance(value, list) else [value])]
        known = tuple(number for number in numbers if number is not None)
        if not known or len(known) < len(numbers):
            raise ValueError(
                f"The label {name!r} of {file} must be an id or a list of ids, got {value!r}: mend "
                "it, or give classes, names and regions yourself."
            )
        ids[name] = known
    of_file = ids.pop("ignore", None)
    if ignore is None and of_file is not None:
        ignore = of_file[0]
    num_ids = max((i + 1 for numbers in ids.values() for i in numbers if i != ignore), default=0)
    targets = [Target(name, numbers) for name, numbers in ids.items() if numbers != (0,)]
    targets = [t for t in targets if t.ids != (ignore,)]
    if not any(len(t.ids) > 1 for t in targets):
        targets.sort(key=lambda target: target.ids)
    note = f"Classes are those of {file}: {_shown([t.name for t in targets])}" + (
        "." if ignore is None else f"; {ignore} is ignored."
    )
    return checked(targets, ignore, num_ids, note)


def read_json(file: Path) -> Any:
    """The content of a JSON file; an error that names the file if it has none, or a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])]:
            raise ValueError(f"{twice[0]!r} is there twice")
        return dict(pairs)

    try:
        return json.loads(file.read_text("utf-8-sig"), object_pairs_hook=once)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON that can be used: {error}. Mend it.") from None


# ------------------------------------------------------------------------------------- maps of ids


def read_map(file: str | os.PathLike[str]) -> IdMap:
    """The ids that a CSV or JSON file gives to other ids, or to colours.

    A row of a CSV file is ``7,0``, or ``128,64,128,0``, or ``#804080,0``; a first row of names is
    skipped. A JSON file is ``{"7": 0, "#804080": 0, "128,64,128": 0}``, or a list of pairs such as
    ``[[7, 0], [[128, 64, 128], 0]]``.

    Raises:
      ValueError: a row that is none of these, or two rows of one id or colour.
    """
    path = Path(file)
    rows: list[tuple[str, Any, Any]]
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, dict):
            rows = [(f"The entry {key!r}", key, value) for key, value in content.items()]
        elif isinstance(content, list) and all(
            isinstance(row, list) and len(row) == 2 for row in content
        ):
            rows = [(f"The entry {key!r}", key, value) for key, value in content]
        else:
            raise ValueError(f"{file} must be an object, or a list of pairs, of ids.")
    else:
        table = _pairs.read_table(path)
        if table and not re.match(r"\s*(#|\d)", table[0][1][0]):
            table = table[1:]
        rows = [
            (f"Line {line}", row[0] if len(row) == 2 else row[:-1], row[-1]) for line, row in table
        ]
    found = IdMap({}, {})
    for where, key, value in rows:
        colour, old, new = _colour(key), _id(key), _id(value)
        if new is None or (colour is None and old is None):
            raise ValueError(
                f"{where} of {file} must be an id or a colour, and the id that it stands for, such "
                f"as 7,0 or #804080,0 or 128,64,128,0; got {key!r} and {value!r}."
            )
        table_of: dict[Any, int] = found.ids if colour is None else found.colours
        if table_of.setdefault(old if colour is None else colour, new) != new:
            raise ValueError(f"{where} of {file} gives {key!r} a second id, {new}: keep one.")
    if not any(found):
        raise ValueError(f"{file} has no row: write one per id, such as 7,0.")
    return found


def _colour(key: object) -> tuple[int, int, int] | None:
    """Red, green and blue of ``#rrggbb``, ``r,g,b`` or a list; None if it is no colour."""
    if isinstance(key, str):
        text = key.strip()
        if re.fullmatch("#[0-9a-fA-F]{6}", text):
            return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
        key = re.split(r"[\s,]+", text.strip("()[]"))
    parts = [_id(part) for part in key] if isinstance(key, (list, tuple)) else []
    known = [part for part in parts if part is not None and part <= 255]
    return (known[0], known[1], known[2]) if len(known) == len(parts) == 3 else None


def map_ids(ids: np.ndarray, new: Mapping[int, int], *, file: str = "the map") -> np.ndarray:
    """Ids replaced by others, in the smallest dtype that holds these.

    Raises:
      CaseError: ids that the map does not have; which, and in how many pixels.
    """
    if not new:
        return ids
    dtype = np.min_scalar_type(max(new.values()))
    if ids.dtype == bool:
        ids = ids.view(np.uint8) != 0
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    if low >= 0 and high < 2**16:
        table = np.zeros(max(high, max(new)) + 1 if max(new) < 2**16 else 2**16, np.int64)
        known = np.zeros(len(table), bool)
        inside = [(old, value) for old, value in new.items() if old < len(table)]
        table[[old for old, _ in inside]] = [value for _, value in inside]
        known[[old for old, _ in inside]] = True
        index = ids.astype(np.uint8) if ids.dtype == bool else ids
        if known[: high + 1].all() or known[index].all():
            return table.astype(dtype)[index]
    values, inverse, pixels = np.unique(ids, return_inverse=True, return_counts=True)
    missing = [int(v) for v in values if int(v) not in new]
    if missing:
        number = sum(int(n) for v, n in zip(values, pixels) if int(v) not in new)
        raise CaseError(
            f"{file} has no row for {_shown(missing)}, which {number:,} of {ids.size:,} pixels "
            f"have: add one (such as {missing[0]},255 with --ignore 255)."
        )
    table = np.array([new[int(v)] for v in values], dtype)
    return table[inverse.reshape(ids.shape)]


def reduce_zero_label(ids: np.ndarray, *, ignore: int | None = None) -> np.ndarray:
    """Ids of ADE20K as classes: 0 becomes the ignored id, 255 if there is none, others are 1 less.

    What is the ignored id already stays so.
    """
    void = 255 if ignore is None else ignore
    wide = np.result_type(ids.dtype, np.min_scalar_type(void)) if ids.dtype != bool else np.uint8
    wide_ids = ids.astype(wide)
    return np.where((wide_ids == 0) | (wide_ids == void), void, wide_ids - 1).astype(wide)
