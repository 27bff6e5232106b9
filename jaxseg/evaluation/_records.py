"""What is kept of one case, and its line in ``records.jsonl``.

A folder of results has one line per finished case there, and all its other files are made of these
lines: so a run may stop at any time and go on later, and the parts of a run that was cut into
shards are put together by putting their lines together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

Columns = dict[str, list[Any]]  # a table: the values of each column


class CaseError(ValueError):
    """What is wrong with the files of one case, and what to do."""


class Target(NamedTuple):
    """A class that is scored, or a region: the union of several classes."""

    name: str
    ids: tuple[int, ...]


class File(NamedTuple):
    """A file that was read, and what tells whether it has changed since."""

    path: str
    size: int
    mtime_ns: int
    digest: str  # of its bytes, by BLAKE2b; "" of a folder


class Record(NamedTuple):
    """All that is kept of one case; the lists have one entry per target."""

    case: str
    group: str
    prediction: File
    labels: File
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str  # "mm" or "px"
    values: dict[str, list[float]]  # by the metric's name as it was asked for: "dice", "nsd@2"
    counts: list[tuple[int, int, int, int]]  # tp, fp, fn, tn
    matrix: list[tuple[int, int, int]]  # true id, predicted id and their number, where it is not 0
    notes: list[str]
    options: str  # a digest of the options that its numbers depend on

    def to_line(self) -> str:
        """The record as a line of JSON, without the newline."""
        parts = self._asdict() | {k: getattr(self, k)._asdict() for k in ("prediction", "labels")}
        return json.dumps(parts, separators=(",", ":"))


def record_of_line(line: str) -> Record:
    """The record of a line that ``Record.to_line`` wrote; ValueError if the line is not whole."""
    parts: Mapping[str, Any] = json.loads(line)
    try:
        return Record(
            **{
                **parts,
                "prediction": File(**parts["prediction"]),
                "labels": File(**parts["labels"]),
                "shape": tuple(parts["shape"]),
                "spacing": tuple(parts["spacing"]),
                "counts": [tuple(counts) for counts in parts["counts"]],
                "matrix": [tuple(cell) for cell in parts["matrix"]],
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"This line is no record of a case: {error}") from None
