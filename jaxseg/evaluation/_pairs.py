"""Which prediction belongs to which labels, by the names of their files; and groups of cases."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]

# A suffix of two parts is one suffix; of another name, the part after its last dot is.
SUFFIX = re.compile(
    r"(\.nii\.gz|\.ome\.tiff?|\.ome\.zarr|\.seg\.nrrd|(?<=[^/])\.[^./]*)$", re.IGNORECASE
)
TOKEN = re.compile(r"\d+|[^\W\d_]+|[\W_]")  # a number, a word, or a separator
FIELD = re.compile(r"\{([^\W\d]\w*)\}|(\*)")
CITYSCAPES = re.compile(r"(?:.*/)?([^/_]+_\d+_\d+)(?:_[^/]*)?")
TRUTH_OF_CITYSCAPES = "_gtFine_labelIds"
CHANNEL = "_0000"  # nnU-Net's number of the first channel of an image


class Pair(NamedTuple):
    """The two files of a case."""

    case: str
    prediction: Path
    labels: Path


class Pairs(NamedTuple):
    """Files in pairs, and those that have no partner."""

    pairs: list[Pair]
    missing: list[Path]  # labels without a prediction
    extra: list[Path]  # predictions without labels
    missing_cases: list[str]  # the names of the cases that are missing
    notes: list[str]  # what the user should know of how the files were paired
    cases: Sequence[str] = ()  # of all labels: in the order of their list, or sorted


Ends = tuple[str, str]  # the start and the end of names that are no part of the case


class Rule(NamedTuple):
    """The case of a prediction's and of a label map's relative path; None of no case's."""

    prediction: Callable[[str], str | None]
    labels: Callable[[str], str | None]
    note: str = ""


# ---------------------------------------------------------------------------------- pairs of files


def find_pairs(
    predictions: Paths,
    labels: Paths,
    *,
    pair: str | tuple[str, str] | None = None,
    readable: Callable[[Path], bool],
) -> Pairs:
    """Pair the files of two folders by their names, or those of two lists in their order.

    Folders are searched with all folders inside them. A case is a file's path in its folder without
    the suffix. Where fewer than half of these are the same, what all names of a folder have in
    common at their start or end is left out, if that pairs the files one to one, and a note says
    so. Names of Cityscapes, and nnU-Net's ``_0000``, are known.

    Args:
      predictions: a folder, a file or a list of files.
      labels: the same of the truth.
      pair: how the names make a case: ``{case}_pred.png={case}_gt.png``, or one pattern for both
        folders, or a tuple of two. A field such as ``{case}`` stands for what both names share, and
        ``*`` for anything. A pattern without a slash is that of the file's name, whatever folder it
        is in, and one with a slash that of its path in the folder; the suffix may be left out.
      readable: whether a file is a label map, by its name.

    Returns:
      The pairs, sorted by case, and the files that have no partner.

    Raises:
      ValueError: no pair at all, two files of one case, a link that leads out of its folder, a
        folder without label maps, lists of different lengths, a pattern that cannot be used.
    """
    if _are_files(predictions) or _are_files(labels):
        return _pairs_of_lists(predictions, labels, pair)
    folders = _folder("predictions", predictions), _folder("labels", labels)
    roots = [os.path.realpath(folder) for folder in folders]
    if roots[0] == roots[1] and pair is None:
        raise ValueError(
            f"Predictions and labels are the same folder, {folders[1]}: say which file is which "
            "with pair (--pair), such as '{case}_pred.png={case}_gt.png'."
        )
    files = [
        find_files(folder, readable, other)
        for folder, other in zip(folders, reversed(roots), strict=True)
    ]
    for name, folder, found in zip(("predictions", "labels"), folders, files, strict=True):
        if not found:
            raise ValueError(f"No label map is among the {name} in {folder}{_suffixes(folder)}")
    cases = match(files[0], files[1], pair)
    return _pairs_of_cases(cases, folders)


def stem(path: str) -> str:
    """A path or name without its suffix, of which ``.nii.gz`` and the like are one."""
    return SUFFIX.sub("", path)


class Cases(NamedTuple):
    """The file of each case, relative to its folder."""

    predictions: dict[str, str]
    labels: dict[str, str]
    notes: list[str]


def match(
    predictions: Sequence[str], labels: Sequence[str], pair: str | tuple[str, str] | None = None
) -> Cases:
    """Give relative paths of files the names of their cases, by a pattern or by what they share."""
    if pair is not None:
        return _by_pattern(predictions, labels, pair)
    cases = _apply(_cityscapes(predictions, labels), predictions, labels)
    if cases is not None and _number(cases):
        return cases
    exact = Rule(stem, stem)
    cases = Cases(
        _cases("predictions", predictions, exact.prediction, labels),
        _cases("labels", labels, exact.labels, predictions),
        [],
    )
    if 2 * _number(cases) >= min(len(predictions), len(labels)):
        return cases
    best = cases
    for rule in _rules(predictions, labels):
        other = _apply(rule, predictions, labels)
        if other is not None and _number(other) > _number(best):
            best = other
        if _number(best) == min(len(predictions), len(labels)):
            break
    if 2 * _number(best) >= min(len(predictions), len(labels)):
        return best
    if not _number(cases):
        raise ValueError(
            f"No prediction has the name of labels: predictions are such as {predictions[0]}, and "
            f"labels such as {labels[0]}. Say what their names share with pair (--pair), such as "
            f"'{{case}}_pred{_suffix(predictions[0])}={{case}}_gt{_suffix(labels[0])}'."
        )
    return cases


def find_files(
    folder: Path, readable: Callable[[Path], bool], other: str | None = None
) -> list[str]:
    """Relative paths of the label maps in a folder and the folders in it, sorted, with slashes.

    Hidden files are left out, and so is what lies in the ``other`` folder, if that is in this one.
    A link to a folder that is in this one is not followed: what it leads to is found anyway.
    """
    root = os.path.realpath(folder)
    other = None if other == root else other
    found = []

    def fail(error: OSError) -> None:
        raise ValueError(f"The folder {error.filename} cannot be read: {error.strerror}.")

    for place, folders, files in os.walk(folder, onerror=fail):
        here = Path(place)
        stores = [name for name in folders if name.lower().endswith(".zarr")]
        for name in [*folders, *files]:
            path = here / name
            is_map = (name in stores or name in files) and readable(path)
            if name.startswith(".") or not (is_map or name in folders):
                continue
            if path.is_symlink():
                _check_inside(path, root)
            if is_map:
                found.append(path.relative_to(folder).as_posix())
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in stores
            and os.path.realpath(here / name) != other
        ]
    return sorted(found)


def _check_inside(path: Path, root: str) -> None:
    target = os.path.realpath(path)
    if os.path.commonpath([root, target]) != root:
        raise ValueError(
            f"{path} is a link that leads out of its folder, to {target}. Give the folder that the "
            "files are in, or copy them (cp -rL)."
        )


def _are_files(paths: Paths) -> bool:
    """Whether it is a list of files, or a single one; a folder of OME-Zarr is a file."""
    if not isinstance(paths, (str, os.PathLike)):
        return True
    path = Path(paths)
    return path.is_file() or (path.is_dir() and path.suffix.lower() == ".zarr")


def _folder(name: str, path: Paths) -> Path:
    assert isinstance(path, (str, os.PathLike))
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"The folder of {name}, {folder}, does not exist.")
    return folder


def _suffixes(folder: Path) -> str:
    """What other files a folder has, as the end of a sentence."""
    names = [n for _, _, files in os.walk(folder) for n in files if not n.startswith(".")]
    others = Counter(_suffix(name) or name for name in names)
    if not others:
        return ", which is empty. Check the path."
    shown = ", ".join(f"{number} of {suffix}" for suffix, number in others.most_common(5))
    return f": it holds {shown}. Convert them to a format that is read, or check the path."


def _suffix(path: str) -> str:
    found = SUFFIX.search(path)
    return found.group() if found else ""


def _cases(
    kind: str, files: Iterable[str], case_of: Callable[[str], str | None], others: Sequence[str]
) -> dict[str, str]:
    """The file of each case; an error if two files are of the same case."""
    cases: dict[str, str] = {}
    for file in files:
        case = case_of(file)
        if case is None:
            continue
        case = _printable(case)
        if case in cases:
            own, partner = f"{{case}}{_suffix(cases[case])}", f"{{case}}{_suffix(others[0])}"
            example = "=".join((own, partner) if kind == "predictions" else (partner, own))
            raise ValueError(
                f"Two files of {kind} are of the case {case!r}: {cases[case]} and {file}. Move one "
                f"of them away, or say which one counts with pair (--pair), such as '{example}'."
            )
        cases[case] = file
    return cases


def _printable(case: str) -> str:
    """A case's name as text that can be written: names of files need not be Unicode."""
    if not case.isascii():
        case = unicodedata.normalize("NFC", case)
        case = case.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if not case or {".", ".."} & set(case.split("/")):
        raise ValueError(f"A case cannot have the name {case!r}: change the pattern of pair.")
    return case


def _apply(rule: Rule | None, predictions: Sequence[str], labels: Sequence[str]) -> Cases | None:
    """The cases by a rule; None if two files would be of one case, or one of none."""
    if rule is None:
        return None
    try:
        one = _cases("predictions", predictions, rule.prediction, labels)
        two = _cases("labels", labels, rule.labels, predictions)
    except ValueError:
        return None
    named = all(any(map(str.isalnum, case)) for case in [*one, *two])
    return Cases(one, two, [rule.note]) if named else None


def _number(cases: Cases) -> int:
    """The number of pairs."""
    return len(cases.predictions.keys() & cases.labels.keys())


def _pairs_of_cases(cases: Cases, folders: Sequence[Path]) -> Pairs:
    predictions, labels = (
        {case: folder / file for case, file in side.items()}
        for folder, side in zip(folders, cases[:2], strict=True)
    )
    missing = sorted(labels.keys() - predictions.keys())
    return Pairs(
        [Pair(c, predictions[c], labels[c]) for c in sorted(labels.keys() & predictions.keys())],
        [labels[case] for case in missing],
        [predictions[case] for case in sorted(predictions.keys() - labels.keys())],
        missing,
        cases.notes,
        sorted(labels),
    )


def _pairs_of_lists(predictions: Paths, labels: Paths, pair: str | tuple[str, str] | None) -> Pairs:
    """Files in their order; a prediction that does not exist is missing."""
    if pair is not None:
        raise ValueError("Lists of files are paired in their order: leave pair out.")
    if _are_files(predictions) != _are_files(labels):
        file, other = (predictions, labels) if _are_files(predictions) else (labels, predictions)
        if isinstance(other, (str, os.PathLike)) and not os.path.exists(other):
            raise ValueError(f"{other} does not exist.")
        shown = file if isinstance(file, (str, os.PathLike)) else "a list of files"
        raise ValueError(
            "Predictions and labels must be two folders or two lists of files, not "
            f"{shown} and the folder {other}."
        )
    one, two = (
        [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(p) for p in paths]
        for paths in (predictions, labels)
    )
    if len(one) != len(two) or not one:
        raise ValueError(
            "Lists of files are paired in their order, so that they must have the same length, at "
            f"least 1; got {len(one)} predictions and {len(two)} labels."
        )
    for path in two:
        if not path.exists():
            raise ValueError(f"The labels {path} do not exist.")
    cases = _names_of_list(two)
    pairs = [Pair(*files) for files in sorted(zip(cases, one, two, strict=True))]
    missing = [p for p in pairs if not p.prediction.exists()]
    return Pairs(
        [p for p in pairs if p.prediction.exists()],
        [p.labels for p in missing],
        [],
        [p.case for p in missing],
        [],
        cases,
    )


def _names_of_list(paths: Sequence[Path]) -> list[str]:
    """Names of files without folders and suffixes, or with those folders that tell them apart."""
    names = [stem(path.name) for path in paths]
    if len(set(names)) < len(names):
        full = [os.path.abspath(path) for path in paths]
        folder = os.path.commonpath([os.path.dirname(path) for path in full])
        names = [stem(Path(os.path.relpath(path, folder)).as_posix()) for path in full]
    names = [_printable(name) for name in names]
    for name, number in Counter(names).items():
        if number > 1:
            first, second = [str(p) for p, n in zip(paths, names, strict=True) if n == name][:2]
            raise ValueError(f"Two labels are of the case {name!r}: {first} and {second}.")
    return names


# --------------------------------------------------------------------------------------- patterns


def _by_pattern(
    predictions: Sequence[str], labels: Sequence[str], pair: str | tuple[str, str]
) -> Cases:
    one, two = _patterns(pair)
    fields = [_fields(pattern) for pattern in (one, two)]
    if set(fields[0]) != set(fields[1]):
        raise ValueError(
            f"The two patterns of pair must have the same fields, got {one!r} and {two!r}."
        )
    rule = Rule(_case_of(one, fields[0]), _case_of(two, fields[0]))
    notes, sides = [], []
    for kind, pattern, case_of, files, others in (
        ("predictions", one, rule.prediction, predictions, labels),
        ("labels", two, rule.labels, labels, predictions),
    ):
        cases = _cases(kind, files, case_of, others)
        if not cases:
            raise ValueError(
                f"No file of the {kind} has the pattern {pattern!r}: they are such as {files[0]}."
            )
        left = len(files) - len(cases)
        if left:
            notes.append(f"{left} files of {kind} do not have the pattern {pattern!r}.")
        sides.append(cases)
    cases_of_both = Cases(sides[0], sides[1], notes)
    if not _number(cases_of_both):
        raise ValueError(
            f"The patterns {one!r} and {two!r} make no pair: predictions are of cases such as "
            f"{next(iter(sides[0]))!r}, and labels of cases such as {next(iter(sides[1]))!r}."
        )
    return cases_of_both


def _patterns(pair: str | tuple[str, str]) -> tuple[str, str]:
    parts = tuple(pair.split("=")) if isinstance(pair, str) else tuple(pair)
    if len(parts) == 1:
        return parts[0], parts[0]
    if len(parts) != 2:
        raise ValueError(
            "pair must be a pattern, or two with one = between them, such as "
            f"'{{case}}_pred.png={{case}}_gt.png'; got {pair!r}. For names with = in them, give a "
            "tuple of two patterns, or write * for it."
        )
    return parts[0], parts[1]


def _fields(pattern: str) -> list[str]:
    """The names of a pattern's fields, in their order."""
    fields = [name for name, _ in FIELD.findall(pattern) if name]
    if not fields or re.search(r"[{}]", FIELD.sub("", pattern)):
        raise ValueError(
            "A pattern must have names of fields in braces, such as '{case}_gt.png', and no other "
            f"braces; got {pattern!r}."
        )
    if "}{" in pattern:
        raise ValueError(
            f"Two fields of a pattern must have something between them, got {pattern!r}."
        )
    return list(dict.fromkeys(fields))


def template(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern with fields in braces and ``*``.

    A field is as short as it can be; one that ``*`` follows is a whole word or number.
    """
    made, seen, end = "", set(), 0
    for found in FIELD.finditer(pattern):
        made += re.escape(pattern[end : found.start()])
        name, end = found.group(1), found.end()
        if name is None:
            made += "[^/]*"
        elif name in seen:
            made += f"(?P={name})"
        elif pattern[end : end + 1] == "*":
            made += rf"(?P<{name}>[^\W_]+)(?![^\W_])"
        else:
            made += f"(?P<{name}>[^/]+?)"
        seen.add(name)
    return re.compile(made + re.escape(pattern[end:]), re.DOTALL)


def _case_of(pattern: str, fields: Sequence[str]) -> Callable[[str], str | None]:
    expression = template(pattern)

    def case_of(file: str) -> str | None:
        path = file if "/" in pattern else file.rsplit("/", 1)[-1]
        found = expression.fullmatch(stem(path)) or expression.fullmatch(path)
        return "_".join(found[name] for name in fields) if found else None

    return case_of


# ------------------------------------------------------------------------ what names have in common


def _cityscapes(predictions: Sequence[str], labels: Sequence[str]) -> Rule | None:
    """Frames of Cityscapes, whose truth lies beside files of other kinds."""
    if not any(stem(file).endswith(TRUTH_OF_CITYSCAPES) for file in labels):
        return None
    of_truth = any(stem(file).endswith(TRUTH_OF_CITYSCAPES) for file in predictions)

    def frame(file: str) -> str | None:
        found = CITYSCAPES.fullmatch(stem(file))
        return found.group(1) if found else None

    def frame_of_truth(file: str) -> str | None:
        return frame(file) if stem(file).endswith(TRUTH_OF_CITYSCAPES) else None

    return Rule(
        frame_of_truth if of_truth else frame,
        frame_of_truth,
        "Files are paired by Cityscapes' city, sequence and frame, and labels are those of "
        f"*{TRUTH_OF_CITYSCAPES}. For others, give pair (--pair).",
    )


def _rules(predictions: Sequence[str], labels: Sequence[str]) -> Iterator[Rule]:
    """Ways to name cases where paths are not the same, the likeliest first."""
    for name_of, what in ((stem, ""), (_name_alone, "without their folders")):
        names = {file: name_of(file) for file in [*predictions, *labels]}
        if what:
            yield Rule(names.get, names.get, f"Files are paired by their names {what}.")
        case_of = _without(names, ("", CHANNEL))
        yield Rule(case_of, case_of, _note([("predictions and labels", "", CHANNEL)], what))
        both = ([names[file] for file in files] for files in (predictions, labels))
        for one, two in _shared_ends(*both):
            sides = [(k, *end) for k, end in (("predictions", one), ("labels", two)) if any(end)]
            if sides:
                yield Rule(_without(names, one), _without(names, two), _note(sides, what))


def _without(names: Mapping[str, str], ends: Ends) -> Callable[[str], str]:
    return lambda file: names[file].removeprefix(ends[0]).removesuffix(ends[1])


def _name(file: str) -> str:
    return file.rsplit("/", 1)[-1]


def _name_alone(file: str) -> str:
    return stem(_name(file))


def _note(sides: Sequence[tuple[str, str, str]], what: str) -> str:
    ends = [
        f"{' and '.join(w for w in (a and f'{a!r} at the start', b and f'{b!r} at the end') if w)} "
        f"of {kind}"
        for kind, a, b in sides
    ]
    return (
        f"Files are paired by their names{f' {what},' if what else ''} without "
        f"{', and without '.join(ends)}. If this is wrong, give pair (--pair)."
    )


def _shared_ends(one: Sequence[str], two: Sequence[str]) -> Iterator[tuple[Ends, Ends]]:
    """Starts and ends that all names of a side share, so that the rest may be the case.

    Where names of cases themselves start alike, those of the side with more of them share no more
    than those of the other. So one of the sides is always without all that its names share.
    """
    if len(one) == len(two) == 1:
        yield from _ends_around(one[0], two[0])
        return
    tokens = [[TOKEN.findall(name) for name in names] for names in (one, two)]
    starts = [_shared_start(side) for side in tokens]
    stops = [_shared_start([name[::-1] for name in side]) for side in tokens]
    for a, c in _choices(*starts):
        for b, d in _choices(*stops):
            ends = (a, b[::-1]), (c, d[::-1])
            if all(
                len("".join(start)) + len("".join(stop)) < min(map(len, names))
                for (start, stop), names in zip(ends, (one, two), strict=True)
            ):
                yield _least(ends[0], ends[1])


def _shared_start(names: Sequence[list[str]]) -> list[str]:
    """The tokens that all start with."""
    low, high = min(names), max(names)
    number = next(
        (i for i, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high))
    )
    return low[:number]


def _choices(one: list[str], two: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Each of two starts whole, with each part of the other, the longest first."""
    yield one, two
    for number in reversed(range(len(one))):
        yield one[:number], two
    for number in reversed(range(len(two))):
        yield one, two[:number]


def _least(one: tuple[list[str], list[str]], two: tuple[list[str], list[str]]) -> tuple[Ends, Ends]:
    """The ends without what both sides have next to the case, which is a part of its name."""
    (a, b), (c, d) = one, two
    before = _inner(_shared_start([a[::-1], c[::-1]]))
    after = _inner(_shared_start([b, d]))
    return (
        ("".join(a[: len(a) - before]), "".join(b[after:])),
        ("".join(c[: len(c) - before]), "".join(d[after:])),
    )


def _inner(tokens: Sequence[str]) -> int:
    """The number of tokens up to the last that is no separator."""
    return max((i + 1 for i, token in enumerate(tokens) if token.isalnum()), default=0)


def _ends_around(one: str, two: str) -> Iterator[tuple[Ends, Ends]]:
    """Of two single names, what is around the one in the other, between words and numbers."""
    swapped = len(one) > len(two)
    short, long = (two, one) if swapped else (one, two)
    for found in re.finditer(rf"(?=({re.escape(short)}))", long):
        start, stop = found.start(), found.start() + len(short)
        edges = {0, len(long)} | {t.end() for t in TOKEN.finditer(long)}
        if {start, stop} <= edges:
            around, nothing = (long[:start], long[stop:]), ("", "")
            yield (around, nothing) if swapped else (nothing, around)


# ------------------------------------------------------------------------------ groups and metadata


def groups_of(cases: Sequence[str], group: str) -> dict[str, str]:
    r"""The group of each case, such as its patient.

    Args:
      cases: names of cases.
      group: ``FILE.csv:COLUMN``; or a pattern with ``{group}`` in it, such as ``{group}_{rest}``;
        or a regular expression, of which the part named "group", else the first part in
        parentheses, else all that it finds is the group: ``^Patient-\d+``.

    Returns:
      The group by case.

    Raises:
      ValueError: a case that has no group, an expression that is none, a file that cannot be read.
    """
    file, _, column = group.rpartition(":")
    if Path(file).suffix.lower() in (".csv", ".tsv"):
        groups = _column(read_metadata(file), cases, column, file)
        where, what = f"The column {column!r} of {file} has", "Add it there."
    else:
        found = _finder(group)
        groups = {case: found(case) for case in cases}
        where, what = f"The pattern {group!r} finds", "Change group (--group)."
    without = [case for case in cases if not groups[case]]
    if without:
        raise ValueError(
            f"{where} no group of {len(without)} of {len(cases)} cases, such as "
            f"{', '.join(map(repr, without[:3]))}. {what}"
        )
    return groups


def _finder(group: str) -> Callable[[str], str]:
    if any(name for name, _ in FIELD.findall(group)):
        if "group" not in _fields(group):
            raise ValueError(f"The pattern of group must have {{group}} in it, got {group!r}.")
        expression = template(group)

        def of_template(case: str) -> str:
            found = expression.fullmatch(case if "/" in group else _name(case))
            return found["group"] if found else ""

        return of_template
    try:
        expression = re.compile(group)
    except re.error as error:
        raise ValueError(f"group is no regular expression: {group!r}: {error}.") from None
    part: str | int = "group" if "group" in expression.groupindex else min(expression.groups, 1)

    def of_expression(case: str) -> str:
        found = expression.search(case)
        return (found[part] or "") if found else ""

    return of_expression


def _column(
    table: Mapping[str, Mapping[str, str]], cases: Sequence[str], column: str, file: PathLike
) -> dict[str, str]:
    columns = list(next(iter(table.values())))
    if column not in columns:
        raise ValueError(f"{file} has no column {column!r}, but {', '.join(columns)}.")
    return {case: row_of_case(table, case).get(column, "") for case in cases}


def row_of_case(table: Mapping[str, Mapping[str, str]], case: str) -> Mapping[str, str]:
    """The row of a case, which may be under its name without folders; {} if there is none."""
    return table.get(case) or table.get(_name(case)) or {}


def read_metadata(file: PathLike) -> dict[str, dict[str, str]]:
    """The rows of a CSV or TSV file by case: column → value.

    The case is in the column "case", or else in the first one, and may be a file's name with its
    suffix.

    Raises:
      ValueError: a file that is missing, empty or no table in UTF-8; a case or column twice.
    """
    rows = read_table(file)
    if len(rows) < 2 or len(rows[0][1]) < 2:
        raise ValueError(
            f"{file} must have a row of names, rows of cases and at least two columns."
        )
    names = [name.strip() for name in rows[0][1]]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise ValueError(f"{file} has the column {twice[0]!r} twice.")
    key = next((i for i, name in enumerate(names) if name.lower() == "case"), 0)
    table: dict[str, dict[str, str]] = {}
    for line, row in rows[1:]:
        if len(row) != len(names):
            raise ValueError(
                f"Line {line} of {file} must have {len(names)} values, got {len(row)}."
            )
        values = {name: value.strip() for name, value in zip(names, row, strict=True)}
        case = unicodedata.normalize("NFC", values.pop(names[key]))
        if table.setdefault(case, values) != values:
            raise ValueError(f"{file} has the case {case!r} twice, with different values.")
    for case in list(table):
        if is_file_name(case):
            table.setdefault(stem(case), table[case])
    return table


def is_file_name(name: str) -> bool:
    """Whether a name ends in a suffix, which has a letter: not "1.5"."""
    return bool(re.search(r"[^\W\d_]", _suffix(name)))


def read_table(file: PathLike) -> list[tuple[int, list[str]]]:
    """The rows of a CSV or TSV file that are not empty, each with the number of its line."""
    try:
        text = Path(file).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text in UTF-8: save it as CSV in UTF-8.") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from None
    first = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(keepends=True), delimiter=max(",;\t", key=first.count))
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"Line {reader.line_num} of {file} is no CSV: {error}.") from None


def looks_grouped(cases: Sequence[str]) -> str | None:
    """A sentence if names look as if several cases were of one patient or the like, else None.

    That is so if names that start alike, up to a number and not by chance, are followed by what
    tells them apart, and these groups are small or have the same followers.
    """
    cases = list(dict.fromkeys(cases))
    for split in (_parts, _numbers):
        parts = split(cases)
        for depth in range(1, max(map(len, parts), default=0)):
            starts = ["".join(p[:depth]) for p in parts]
            if not any(char.isdigit() for char in "".join(starts)):
                continue
            sizes = Counter(starts)
            shared = [start for start, p in zip(starts, parts) if sizes[start] > 1]
            follow = {"".join(p[depth:]).lower() for p in parts}
            if not (1 < len(sizes) < len(cases)) or 10 * len(shared) < len(cases):
                continue
            if len(cases) > 10 * len(sizes) and 2 * len(follow) > len(cases):
                continue
            one, two = [c for c, start in zip(cases, starts) if start == shared[0]][:2]
            return (
                f"The names of cases look grouped: {one} and {two} are both of "
                f"{shared[0].rstrip(SEPARATORS)}, and there would be {len(sizes)} groups of "
                f"{len(cases)} cases. If these are patients or the like, intervals that do not "
                f"know of them are too narrow: give group (--group), such as "
                f"'{_expression(starts)}'."
            )
    return None


SEPARATORS = "_./ -"


def _parts(cases: Sequence[str]) -> list[list[str]]:
    """Names cut after separators."""
    return [re.findall(rf"[^{SEPARATORS}]*[{SEPARATORS}]+|[^{SEPARATORS}]+", c) for c in cases]


def _numbers(cases: Sequence[str]) -> list[list[str]]:
    """Names cut after numbers, if all are made in the same way; else whole."""
    if len({re.sub(r"\d+", "0", case) for case in cases}) > 1:
        return [[case] for case in cases]
    return [re.findall(r"\D*\d+|\D+", case) for case in cases]


def _expression(starts: Sequence[str]) -> str:
    """A regular expression that finds these starts of names."""
    made = [re.sub(r"\d+", "0", start.rstrip(SEPARATORS)) for start in starts]
    if len(set(made)) == 1:
        return "^" + r"\d+".join(re.escape(part).replace(r"\-", "-") for part in made[0].split("0"))
    sep = f"[{SEPARATORS}]"
    depth = len(re.findall(rf"{sep}+", starts[0].rstrip(SEPARATORS)))
    return f"^[^{SEPARATORS}]*" + f"{sep}+[^{SEPARATORS}]*" * depth
