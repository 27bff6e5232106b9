"""The results of an evaluation: its tables, and the folder that holds them.

``records.jsonl`` has a line per finished case and ``run.json`` what was asked for; the other files
are made of these two. They hold nothing that depends on the time, so two runs write the same bytes.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import html
import json
import math
import os
import platform
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxseg.evaluation._metrics import Metric, parse_metrics
from jaxseg.evaluation._records import Columns, File, Record, Target, record_of_line
from jaxseg.evaluation._summary import (
    MissingDistance,
    check_missing_distance,
    mean_of,
    means,
    overlap,
    summarize,
    tabulate,
)

RECORDS, RUN = "records.jsonl", "run.json"
CASES_CSV, SUMMARY_CSV, ERRORS_CSV = "cases.csv", "summary.csv", "errors.csv"
SUMMARY_JSON = "summary.json"

# Options of the command that change no number, and whether they have a value: the shards of a run
# differ in them.
ELSEWHERE = {
    **{"--out": True, "--workers": True, "--dask": True, "--shard": True, "--fail-under": True},
    **{"--resume": False, "--quiet": False},
}


class Run(NamedTuple):
    """How a run was asked for, and where it ran."""

    options: str  # the digest that its records have too
    command: str  # as stable_command gives it; "" from Python
    versions: dict[str, str]  # as software gives them
    device: str  # as device gives it
    missing: str = "error"
    missing_distance: MissingDistance = "inf"
    level: float = 0.95
    resamples: int = 10_000
    seed: int = 0


class Matrix(NamedTuple):
    """A confusion matrix over all cases: rows are true ids, columns are predicted ids."""

    ids: tuple[int, ...]
    counts: np.ndarray


@dataclass(frozen=True, repr=False)
class Results:
    """The scores of all cases, as tables.

    ``cases`` and ``summary`` are plain columns, a dictionary of lists of one length, which pandas
    and polars take as they are.
    """

    targets: tuple[Target, ...]
    metrics: tuple[Metric, ...]
    records: tuple[Record, ...]
    errors: tuple[tuple[str, str], ...]  # cases that have no scores, and why
    run: Run

    def __post_init__(self) -> None:
        """Sort the cases, so that the order in which they finished is seen nowhere."""
        check_missing_distance(self.run.missing_distance)
        names = Counter(record.case for record in self.records)
        if twice := sorted(case for case, number in names.items() if number > 1):
            raise ValueError(f"Cases have more than one record: {', '.join(twice[:5])}.")
        by_case = sorted(self.records, key=lambda record: record.case)
        object.__setattr__(self, "records", tuple(by_case))
        object.__setattr__(self, "errors", tuple(sorted(self.errors)))

    @cached_property
    def cases(self) -> Columns:
        """All values, in one row per case, class and metric."""
        return tabulate(self.records, self.targets, self.metrics)

    @cached_property
    def summary(self) -> Columns:
        """Means, medians, quartiles and intervals per class and metric, by each policy."""
        return summarize(
            self.records,
            self.targets,
            self.metrics,
            missing_distance=self.run.missing_distance,
            level=self.run.level,
            resamples=self.run.resamples,
            seed=self.run.seed,
        )

    @property
    def matrix(self) -> Matrix:
        """How often each id was predicted where each id is true, over all cases."""
        cells: Counter[tuple[int, int]] = Counter()
        for record in self.records:
            for true, predicted, number in record.matrix:
                cells[true, predicted] += number
        of_targets = {id for target in self.targets for id in target.ids}
        ids = tuple(sorted({id for cell in cells for id in cell} | of_targets))
        place = {id: number for number, id in enumerate(ids)}
        counts = np.zeros((len(ids), len(ids)), np.int64)
        for (true, predicted), number in cells.items():
            counts[place[true], place[predicted]] = number
        return Matrix(ids, counts)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write the records and all tables into a folder, each file whole or not at all.

        Close the file of ``open_records`` before, since the records are written anew, sorted.
        ``summary.json`` is the last: a folder whose ``summary.json`` is of its records is finished.

        Raises:
          OSError: a file could not be written; what it was before is untouched.
        """
        folder = Path(folder)
        files = {
            RECORDS: "".join(record.to_line() + "\n" for record in self.records),
            CASES_CSV: csv_text(self.cases),
            SUMMARY_CSV: csv_text(self.summary),
            ERRORS_CSV: csv_text(
                {
                    "case": [case for case, _ in self.errors],
                    "reason": [reason for _, reason in self.errors],
                }
            ),
            SUMMARY_JSON: _json(summary_parts(self)),
        }
        write_run(folder, self.targets, self.metrics, self.run)
        for name, text in files.items():
            write_atomically(folder / name, text)

    def _means(self) -> tuple[str, list[str], list[tuple[str, list[str]]]]:
        number = f"{len(self.records)} case{'s' * (len(self.records) != 1)}"
        errors = f", {len(self.errors)} without scores" if self.errors else ""
        try:
            policy = self.run.missing_distance
            heads, rows = means(self.records, self.targets, self.metrics, policy)
        except ValueError as error:
            return f"Results of {number}{errors}: {error}", [], []
        return f"Means over {number}{errors}", heads, rows

    def __repr__(self) -> str:
        title, heads, rows = self._means()
        table = [["class", *heads], *([name, *cells] for name, cells in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in table
        ]
        return "\n".join([title, *lines] if rows else [title])

    def _repr_html_(self) -> str:
        title, heads, rows = self._means()

        def row(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(row("td", [name, *cells]) for name, cells in rows)
        caption = f"<caption>{html.escape(title)}</caption>"
        head = f"<thead>{row('th', ['class', *heads])}</thead>" if rows else ""
        return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


def summary_parts(results: Results) -> dict[str, Any]:
    """What ``summary.json`` holds: nnU-Net's keys, and what the numbers depend on.

    ``mean`` and ``metrics`` name a class by its ids, as nnU-Net does, and ``classes`` tells the
    names. The foreground is all classes but the one of id 0 whose name is "background" or "0".
    """
    targets, records, run = results.targets, results.records, results.run
    ids = [str(t.ids[0]) if len(t.ids) == 1 else str(t.ids) for t in targets]
    keys = [of if ids.count(of) == 1 else target.name for of, target in zip(ids, targets)]
    counts = np.array([record.counts for record in records], np.int64)
    per_case = _overlaps(counts.reshape(len(records), len(targets), 4))  # [cases, C, 8]
    per_class = mean_of(per_case)
    foreground = [t.ids != (0,) or t.name.lower() not in ("background", "0") for t in targets]
    rows = zip(*results.summary.values(), strict=True)
    return {
        "foreground_mean": dict(zip(OVERLAPS, mean_of(per_class[foreground]).tolist())),
        "mean": {
            key: dict(zip(OVERLAPS, of, strict=True))
            for key, of in zip(keys, per_class.tolist(), strict=True)
        },
        "metric_per_case": [
            {
                "metrics": {
                    key: dict(zip(OVERLAPS, [*of[:2], *map(int, of[2:])], strict=True))
                    for key, of in zip(keys, scores, strict=True)
                },
                "prediction_file": record.prediction.path,
                "reference_file": record.labels.path,
            }
            for record, scores in zip(records, per_case.tolist(), strict=True)
        ],
        "classes": {key: target.name for key, target in zip(keys, targets)},
        "summary": [dict(zip(results.summary, row, strict=True)) for row in rows],
        "aggregation": {
            "mean": "mean over the cases, undefined values left out",
            "foreground_mean": "mean over the classes of their means over the cases",
            "per case": "statistics over the cases of each case's value, undefined values left out",
            "pooled": "score of the counts summed over all cases",
        },
        "policies": {
            "missing": run.missing,
            "missing_distance": run.missing_distance,
            "detected": "infinite values are left out",
            "penalty": "infinite distances count as missing_distance says",
            "interval": "percentile bootstrap by group, where cases have groups",
            "level": run.level,
            "resamples": run.resamples,
        },
        "n_cases": len(records),
        "n_groups": len({record.group or record.case for record in records}),
        "n_errors": len(results.errors),
        "command": run.command,
        "options": run.options,
        "versions": run.versions,
        "device": run.device,
        "seed": run.seed,
        "inputs": inputs_digest(records),
    }


OVERLAPS = ("Dice", "IoU", "FP", "FN", "TP", "TN", "n_pred", "n_ref")


def _overlaps(counts: np.ndarray) -> np.ndarray:
    """nnU-Net's scores of counts ``[..., 4]``, in the order of ``OVERLAPS``."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    scores = [overlap(counts, "dice"), overlap(counts, "iou")]
    return np.stack([*scores, fp, fn, tp, tn, tp + fp, tp + fn], -1)


def inputs_digest(records: Iterable[Record]) -> str:
    """A digest of the files that were read, whatever they are called."""
    digest = hashlib.blake2b(digest_size=16)
    for record in sorted(records, key=lambda record: record.case):
        parts = [record.case, record.prediction.digest, record.labels.digest]
        digest.update(json.dumps(parts).encode())
    return digest.hexdigest()


def software() -> dict[str, str]:
    """The versions of what computes the numbers."""
    import jax

    import jaxseg

    return {
        "jaxseg": jaxseg.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def device() -> str:
    """What the numbers are computed on: the platform, and which device of it."""
    import jax

    first = jax.devices()[0]
    same = first.device_kind == first.platform
    return first.platform if same else f"{first.platform} ({first.device_kind})"


def stable_command(arguments: Sequence[str]) -> str:
    """The command line of its arguments, without the options that change no number."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name not in ELSEWHERE:
            kept.append(argument)
        elif ELSEWHERE[name] and not equals:
            next(rest, None)
    return shlex.join(kept)


def write_run(
    folder: str | os.PathLike[str],
    targets: Sequence[Target],
    metrics: Sequence[Metric],
    run: Run,
) -> None:
    """Write ``run.json``: what was asked for. It is written before the first record."""
    parts = {
        "targets": [target._asdict() for target in targets],
        "metrics": [metric.name for metric in metrics],
        **run._asdict(),
    }
    write_atomically(Path(folder) / RUN, _json(parts))


def read_run(
    folder: str | os.PathLike[str],
) -> tuple[tuple[Target, ...], tuple[Metric, ...], Run]:
    """What ``run.json`` of a folder tells; ValueError if it is no folder of results."""
    path = Path(folder) / RUN
    try:
        parts = json.loads(path.read_text("utf-8"))
        targets = tuple(Target(t["name"], tuple(t["ids"])) for t in parts.pop("targets"))
        return targets, parse_metrics(parts.pop("metrics")), Run(**parts)
    except FileNotFoundError:
        raise ValueError(f"{folder} is no folder of results: it has no {RUN}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not tell what was asked for: {error}") from None


def open_records(folder: str | os.PathLike[str]) -> BinaryIO:
    """Open ``records.jsonl`` to append to it; a half-written last line is removed first.

    Raises:
      ValueError: another run is writing to it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORDS
    file = path.open("ab", buffering=0)
    try:
        _lock(file)
        _, end = _whole_lines(path)
        file.truncate(end)
    except BaseException:
        file.close()
        raise
    return file


def _lock(file: BinaryIO) -> None:
    """Keep other runs out, where the system can; it forgets the lock when the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"Another run is writing to {Path(file.name).parent}. Wait for its end, or give "
            "another folder."
        ) from None
    except OSError:  # a file system without locks
        return


def append_record(file: BinaryIO, record: Record) -> None:
    """Append a record to the file of ``open_records``, to be there even if the power fails.

    Raises:
      OSError: it could not be written; the records before it are whole.
    """
    start = file.seek(0, os.SEEK_END)
    rest = memoryview((record.to_line() + "\n").encode())
    try:
        while rest:
            rest = rest[file.write(rest) :]
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise _unwritten(Path(file.name), error) from error


def read_records(folder: str | os.PathLike[str]) -> list[Record]:
    """The records of a folder, sorted by case: of each case the last, and no half-written line.

    Raises:
      ValueError: a line before the last is no record.
    """
    path = Path(folder) / RECORDS
    if not path.exists():
        return []
    lines, _ = _whole_lines(path)
    records = {}
    for number, line in enumerate(lines, 1):
        try:
            record = record_of_line(line.decode())
        except ValueError as error:
            raise ValueError(
                f"Line {number} of {path} is no record of a case ({error}): remove the line, and "
                "run again with --resume."
            ) from None
        records[record.case] = record
    return sorted(records.values(), key=lambda record: record.case)


def read_results(folder: str | os.PathLike[str]) -> Results:
    """The results of a folder, as far as its run came; records of other options are left out.

    Raises:
      ValueError: it is no folder of results.
    """
    targets, metrics, run = read_run(folder)
    records = tuple(r for r in read_records(folder) if r.options == run.options)
    path = Path(folder) / ERRORS_CSV
    errors: list[tuple[str, str]] = []
    if path.exists():
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            errors = [(row["case"], row["reason"]) for row in csv.DictReader(file)]
    return Results(targets, metrics, records, tuple(errors), run)


def merge(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Results:
    """Put the shards of a run together, and write what one run would have written.

    Args:
      folders: of finished shards, in any order.
      out: the folder of the whole.

    Returns:
      The results, which were written into ``out``.

    Raises:
      ValueError: a shard is not finished, shards were asked for different things, or a case is in
        two shards that read different files.
      OSError: a file could not be written.
    """
    if not folders:
        raise ValueError("merge needs at least one folder of results.")
    shards = {str(folder): read_results(folder) for folder in folders}
    for folder, shard in shards.items():
        if not _is_finished(folder, shard):
            raise ValueError(
                f"The run of {folder} is not finished, or was stopped while it wrote: run it again "
                "with --resume."
            )
    first_folder, first = next(iter(shards.items()))
    for folder, shard in shards.items():
        if differences := _differences(first, shard):
            raise ValueError(
                f"{first_folder} and {folder} are no shards of one run: they differ in "
                f"{'; '.join(differences)}."
            )
    records: dict[str, tuple[str, Record]] = {}
    for folder, shard in shards.items():
        for record in shard.records:
            before = records.setdefault(record.case, (folder, record))
            if _files(before[1]) != _files(record):
                raise ValueError(
                    f"The case {record.case} is in {before[0]} and in {folder}, and they read "
                    "different files of it. Score it again in one of them, and remove the other."
                )
    errors = {error for shard in shards.values() for error in shard.errors}
    runs = [shard.run for shard in shards.values()]
    run = first.run._replace(
        command=_distinct(run.command for run in runs),
        device=_distinct(run.device for run in runs),
        versions={
            name: _distinct(run.versions.get(name, "") for run in runs)
            for name in first.run.versions
        },
    )
    merged = Results(
        first.targets,
        first.metrics,
        tuple(record for _, record in records.values()),
        tuple((case, reason) for case, reason in errors if case not in records),
        run,
    )
    merged.write(out)
    return merged


def _is_finished(folder: str, results: Results) -> bool:
    """Whether ``summary.json``, which is written last, is of these records."""
    try:
        parts = json.loads((Path(folder) / SUMMARY_JSON).read_text("utf-8"))
        made_of = parts["options"], parts["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return made_of == (results.run.options, inputs_digest(results.records))


def _differences(a: Results, b: Results) -> list[str]:
    """In what two runs were asked for different things, in words."""
    asked = ("missing", "missing_distance", "level", "resamples", "seed")
    pairs = {
        "classes": ([t.name for t in a.targets], [t.name for t in b.targets]),
        "ids of the classes": ([t.ids for t in a.targets], [t.ids for t in b.targets]),
        "metrics": ([m.name for m in a.metrics], [m.name for m in b.metrics]),
        **{name: (getattr(a.run, name), getattr(b.run, name)) for name in asked},
    }
    words = [f"{name} ({x} and {y})" for name, (x, y) in pairs.items() if x != y]
    if not words and a.run.options != b.run.options:
        return [f"options (digests {a.run.options} and {b.run.options})"]
    return words


def _files(record: Record) -> tuple[Any, ...]:
    """What tells whether two records are of the same files: their bytes, where they were read."""

    def key(file: File) -> tuple[Any, ...]:
        return (file.digest,) if file.digest else (file.path, file.size, file.mtime_ns)

    return key(record.prediction), key(record.labels)


def _distinct(words: Iterable[str]) -> str:
    return "; ".join(sorted(set(words)))


def _whole_lines(path: Path) -> tuple[list[bytes], int]:
    """The lines of records that end, and where the last of them that is a record ends."""
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    if lines and not _is_json(lines[-1]):  # of a disk that lost its power
        lines.pop()
    return lines, sum(map(len, lines))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def csv_text(columns: Columns) -> str:
    """A table as CSV, whose first line has the names of its columns."""
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def _cell(value: object) -> str:
    """A cell of a CSV. Python's writer leaves a carriage return bare, which ends a line."""
    if isinstance(value, float):
        return repr(value)
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) else text


def _json(parts: Mapping[str, object]) -> str:
    """An object in JSON: one line per entry, and one per element of a list."""
    lines = []
    for key, part in _without_nan(parts).items():
        text = json.dumps(part, allow_nan=False)
        if isinstance(part, list) and part:
            elements = (json.dumps(element, allow_nan=False) for element in part)
            text = "[\n    " + ",\n    ".join(elements) + "\n  ]"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _without_nan(part: Any) -> Any:
    """The same with None for numbers that JSON has not: NaN and infinity."""
    if isinstance(part, float):
        return part if math.isfinite(part) else None
    if isinstance(part, Mapping):
        return {key: _without_nan(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_without_nan(value) for value in part]
    return part


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that at any moment the old or the new is there, whole.

    Raises:
      OSError: it could not be written; what was there before is untouched.
    """
    # A file name that is no UTF-8 is written as the bytes that it is.
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise _unwritten(path, error) from error
        raise
    if os.name == "posix":  # the folder's entry too
        with contextlib.suppress(OSError):
            entry = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(entry)
            finally:
                os.close(entry)


def _unwritten(path: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"could not be written ({error.strerror or error}) and is as it was before; free space or "
        "change the permissions, and run again (evaluate: with --resume)",
        str(path),
    )
