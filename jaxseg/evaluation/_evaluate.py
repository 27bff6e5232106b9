"""``evaluate``: from two folders, or two lists, to the scores of every case."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

import numpy as np

from jaxseg.evaluation import _pairs, _preflight, _readers
from jaxseg.evaluation._case import as_targets, num_ids_of
from jaxseg.evaluation._metrics import parse_metrics
from jaxseg.evaluation._records import CaseError, Record, Target
from jaxseg.evaluation._results import (
    Results,
    Run,
    append_record,
    device,
    open_records,
    read_records,
    read_run,
    software,
    write_run,
)
from jaxseg.evaluation._run import (
    Job,
    Reading,
    Scoring,
    Source,
    is_unchanged,
    read_image,
    records,
)
from jaxseg.evaluation._summary import check_missing_distance

PathLike = str | os.PathLike[str]
Maps = PathLike | Sequence[PathLike] | Sequence[np.ndarray]
Classes = Mapping[str, int | Sequence[int]] | Sequence[int]

MISSING = {"error": "are errors", "worst": "count as empty", "skip": "are left out"}
SEGMENTED = (".dcm", ".seg.nrrd")  # files whose segments have names


class Event(NamedTuple):
    """What ``evaluate`` tells while it runs."""

    kind: Literal["note", "warning", "error", "start", "case"]
    text: str
    number: int = 0  # of cases: of the whole run at the start


Tell = Callable[[Event], None]


def evaluate(
    predictions: Maps,
    labels: Maps,
    *,
    num_classes: int | None = None,
    classes: Classes | None = None,
    ignore: int | None = None,
    ids: Mapping[int, int] | None = None,
    colours: Mapping[tuple[int, int, int], int] | None = None,
    reduce_zero_label: bool = False,
    metrics: str | Sequence[str] = ("dice", "iou"),
    spacing: Literal["header", "pixels"] | float | Sequence[float] = "header",
    pair: str | tuple[str, str] | None = None,
    group: str | Sequence[str] | None = None,
    missing: Literal["error", "worst", "skip"] = "error",
    missing_distance: str | float = "inf",
    resample: bool = False,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    out: PathLike | None = None,
    resume: bool = False,
    shard: tuple[int, int] | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    metadata: Mapping[str, Mapping[str, str]] | None = None,
    by: Sequence[str] = (),
    command: str = "",
    tell: Tell | None = None,
) -> Results:
    """Score predicted label maps against true ones: folders, or lists of files or arrays.

    Args:
      predictions: a folder, which is searched with all folders inside it, or a list of files or of
        arrays of ids ``[*space]``.
      labels: the truth, in the same form. Files of folders pair by their names, lists by their
        order.
      num_classes: C; the ids are 0 to C - 1, and another id is an error of its case.
      classes: which are scored: ids, or a mapping from a name to an id, or for a region to several
        ids. By default all of ``num_classes``.
      ignore: the true id of pixels that do not count.
      ids: a map from ids in the files or arrays to ids.
      colours: the id of each colour (red, green, blue) of colour maps.
      reduce_zero_label: in both maps, 0 becomes the ignored id and every other id one less.
      metrics: names, as ``jaxseg evaluate --metrics`` takes them.
      spacing: "header": that of the files, in mm; "pixels": none; or numbers along the axes.
      pair: how the names of files make a case, such as ``{case}_pred.png={case}_gt.png``.
      group: the patient or site of each case, of which intervals resample whole groups: one name
        per case, in the order of the list of labels (of a folder, in that of its cases' names), or
        as ``--group`` takes it.
      missing: what a missing file of a prediction is: "error", "worst" (it counts as an empty one)
        or "skip".
      missing_distance: the distance of a class that was missed, in the mean with penalty: "inf",
        "diagonal", a number, or "exclude".
      resample: whether predictions are brought onto the grid of the truth by the nearest voxel.
      level: of the intervals.
      resamples: of the bootstrap.
      seed: of the bootstrap.
      out: a folder for the results. Each case is kept there as soon as it is scored.
      resume: whether cases that are kept in ``out`` already, and whose files have not changed, are
        taken from there.
      shard: ``(i, n)`` scores the i-th of n parts of the cases, from 1.
      workers: how many processes read files; by default one per core.
      executor: a ``concurrent.futures.Executor`` whose workers read and score whole cases.
      metadata: columns of each case, for the report.
      by: the columns of the metadata whose strata the report compares.
      command: how the run was asked for, for the results.
      tell: called with each ``Event``: what was found before the first case, and each case.

    Returns:
      ``Results``: ``cases`` and ``summary`` are plain columns, ``write(folder)`` writes tables.

    Raises:
      ValueError: files that do not pair at all, a folder of another run, wrong arguments.

    Example:
      >>> import numpy as np
      >>> from jaxseg.evaluation import evaluate
      >>> labels = [np.eye(4, dtype=int), np.ones((4, 4), int)]
      >>> predictions = [labels[0], 1 - labels[0]]
      >>> results = evaluate(predictions, labels, classes={"organ": 1}, metrics="dice")
      >>> results.cases["value"]
      [1.0, 0.8571]
    """
    say = tell or (lambda event: None)
    if reduce_zero_label and ignore is None:
        ignore = 255
    asked = parse_metrics(metrics)
    check_missing_distance(missing_distance)
    _check_strata(metadata, by)
    if missing not in MISSING:
        raise ValueError(f"missing must be {', '.join(MISSING)}; got {missing!r}.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95; got {level}.")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be (i, n) with i from 1 to n; got {shard}.")
    has_unit = spacing == "header" and any(m.column("mm") != m.column("px") for m in asked)
    cases = _cases(predictions, labels, pair, missing, resample, has_unit, say)
    segments = None
    if num_classes is None and classes is None and cases.sources:
        segments = _segments(cases.sources[0].labels)
    if segments is not None:
        targets, num_ids = tuple(Target(name, ()) for name in segments), 0
    else:
        targets = as_targets(num_classes, classes, ignore)
        num_ids = num_ids_of(targets, num_classes)
    reading = Reading(
        colours=None if colours is None else dict(colours),
        ids=None if ids is None else dict(ids),
        reduce_zero_label=reduce_zero_label,
        ignore=ignore,
        resample=resample,
        segments=segments,
        masks=ignore != 255 and num_ids <= 2 and not ids,
        spacing=spacing if isinstance(spacing, str) else _steps(spacing),
    )
    options = _digest(targets, num_ids, num_classes, ignore, [m.name for m in asked], reading)
    scoring = Scoring(targets, num_ids, num_classes is not None, ignore, asked, options)
    groups = _groups([source.case for source in cases.sources], cases.names, group, say)
    jobs = [source._replace(group=who) for source, who in zip(cases.sources, groups, strict=True)]
    jobs.sort(key=lambda job: job.case)
    errors = sorted(cases.errors)
    if shard is not None:
        jobs, errors = jobs[shard[0] - 1 :: shard[1]], errors[shard[0] - 1 :: shard[1]]
    policies = (missing, missing_distance, level, resamples, seed)
    run = Run(options, command, software(), device(), *policies)
    kept: dict[str, Record] = {}
    if out is not None:
        kept = _kept(Path(out), run, jobs, resume)
        Path(out).mkdir(parents=True, exist_ok=True)
        write_run(out, targets, asked, run)
    rest = [job for job in jobs if job.case not in kept]
    say(Event("start", f"{len(jobs)} cases, {len(kept)} of them kept from before", len(rest)))
    found = list(kept.values())
    number = workers or os.cpu_count() or 1
    with _opened(out) as file:
        for job, result in records(rest, reading, scoring, workers=number, executor=executor):
            if isinstance(result, Record):
                found.append(result)
                if file is not None:
                    append_record(file, result)
                for note in result.notes:
                    say(Event("note", f"{job.case}: {note}"))
            else:
                reason = _reason(result)
                errors.append((job.case, reason))
                say(Event("error", f"{job.case}: {reason}"))
            say(Event("case", job.case, 1))
    results = Results(targets, asked, tuple(found), tuple(errors), run)
    if out is not None:
        results.write(out)
        read = None if resample else partial(read_image, reading=reading)
        write_report_of(results, out, metadata, by, read)
    return results


def write_report_of(
    results: Results,
    folder: PathLike,
    metadata: Mapping[str, Mapping[str, str]] | None = None,
    by: Sequence[str] = (),
    read: Callable[[Path], _readers.Image] | None = None,
) -> Path:
    """Write ``report.html`` of results into a folder."""
    _check_strata(metadata, by)
    from jaxseg.evaluation._report import write_report

    return write_report(
        Path(folder),
        records=results.records,
        targets=results.targets,
        metrics=results.metrics,
        summary=results.summary,
        unit=results.records[0].unit if results.records else "px",
        run=results.run._asdict(),
        errors=results.errors,
        metadata=metadata,
        by=by,
        read=read,
    )


def _check_strata(metadata: Mapping[str, Mapping[str, str]] | None, by: Sequence[str]) -> None:
    """Check that the metadata have the columns whose strata are compared."""
    known = list(dict.fromkeys(name for row in (metadata or {}).values() for name in row))
    if unknown := [name for name in by if name not in known]:
        raise ValueError(
            f"by (--by) names {unknown[0]!r}, which is no column of the metadata (--metadata)"
            f"{': ' if known else ''}{', '.join(known)}."
        )


def _steps(spacing: float | Sequence[float]) -> tuple[float, ...]:
    steps = (spacing,) if isinstance(spacing, int | float) else tuple(spacing)
    if not steps or not all(0 < step < float("inf") for step in steps):
        raise ValueError(
            f"spacing must be 'header', 'pixels' or positive numbers; got {spacing!r}."
        )
    return tuple(map(float, steps))


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _reason(error: BaseException) -> str:
    """Why a case has no scores, in one line."""
    text = " ".join(str(error).split())
    known = isinstance(error, ValueError | ImportError)
    return text if known and text else f"{type(error).__name__}: {text}"


@contextmanager
def _opened(out: PathLike | None) -> Iterator[BinaryIO | None]:
    if out is None:
        yield None
        return
    with open_records(out) as file:
        yield file


def _kept(out: Path, run: Run, jobs: Sequence[Job], resume: bool) -> dict[str, Record]:
    """The records of an earlier run that are of the same options and of unchanged files."""
    if not (out / "run.json").exists():
        return {}
    if not resume:
        raise ValueError(
            f"{out} holds the results of an earlier run. Go on with it (--resume, resume=True), or "
            "give another folder."
        )
    before = read_run(out)[2]
    if before.options != run.options:
        raise ValueError(
            f"The run in {out} was asked for other classes, metrics or ways to read files, so it "
            "cannot go on with these. Give another folder."
        )
    records = {record.case: record for record in read_records(out)}
    return {
        job.case: records[job.case]
        for job in jobs
        if job.case in records
        and records[job.case].options == run.options
        and records[job.case].group == job.group
        and is_unchanged(records[job.case], job)
    }


class _Cases(NamedTuple):
    """The cases that are there, and those that are not, with the reasons."""

    sources: list[Job]
    errors: list[tuple[str, str]]
    names: Sequence[str]  # of all cases, in the order of their list


def _cases(
    predictions: Maps,
    labels: Maps,
    pair: str | tuple[str, str] | None,
    missing: str,
    resample: bool,
    has_unit: bool,
    say: Tell,
) -> _Cases:
    if _are_arrays(predictions) or _are_arrays(labels):
        maps = [[np.asarray(x) for x in cast("Sequence", given)] for given in (predictions, labels)]
        if len(maps[0]) != len(maps[1]):
            raise ValueError(f"There are {len(maps[0])} predictions and {len(maps[1])} label maps.")
        width = len(str(len(maps[0])))
        names = [f"{number:0{width}}" for number in range(len(maps[0]))]
        jobs = [Job(name, "", p, g) for name, p, g in zip(names, *maps, strict=True)]
        return _Cases(jobs, [], names)
    files = _pairs.find_pairs(
        cast("_pairs.Paths", predictions),
        cast("_pairs.Paths", labels),
        pair=pair,
        readable=_readers.is_readable,
    )
    for note in files.notes:
        say(Event("note", note))
    if files.extra:
        say(Event("warning", f"Predictions without truth are left out: {_some(files.extra)}."))
    jobs = [Job(each.case, "", each.prediction, each.labels) for each in files.pairs]
    errors = []
    if files.missing:
        some = _some(files.missing_cases)
        say(Event("warning", f"Cases without a prediction {MISSING[missing]}: {some}."))
        lost = zip(files.missing_cases, files.missing, strict=True)
        if missing == "worst":
            jobs += [Job(case, "", None, path) for case, path in lost]
        elif missing == "error":
            errors = [(case, f"There is no prediction for {path}.") for case, path in lost]
    of_grids = [each for each in files.pairs if not each.labels.name.lower().endswith(".dcm")]
    predicted = {each.prediction for each in of_grids}

    @cache
    def read_header(path: Path) -> _readers.Header:
        return _readers.read_header(path, what="prediction" if path in predicted else "labels")

    problems = _preflight.header_problems(of_grids, read_header, resample=resample)
    for sentence in _preflight.summarize_problems(problems):
        say(Event("warning", sentence))
    if has_unit:
        other = _of_other_unit(jobs, read_header)
        jobs = [job for job in jobs if job.case not in other]
        errors += other.items()
    return _Cases(jobs, errors, files.cases)


def _of_other_unit(
    jobs: Sequence[Job], read_header: Callable[[Path], _readers.Header]
) -> dict[str, str]:
    """Cases whose distances would be in another unit than those of most, and what to do."""
    units: dict[str, str] = {}
    for job in jobs:
        if isinstance(job.labels, Path) and not job.labels.name.lower().endswith(".dcm"):
            with suppress(CaseError):  # it is told when the case is scored
                units[job.case] = read_header(job.labels).unit
    found = Counter(units.values())
    common = "mm" if found["mm"] >= found["px"] else "px"
    has = {"mm": "has a spacing in mm", "px": "has no spacing in mm"}
    return {
        case: f"The truth {has[unit]}, and that of most cases {has[common]}, so that their "
        "distances and volumes have no mean. Write the spacing into the file, or give one for all "
        "(--spacing)."
        for case, unit in units.items()
        if unit != common
    }


def _segments(labels: Source) -> tuple[str, ...] | None:
    """The names of the segments of a file that has them."""
    if isinstance(labels, np.ndarray) or not labels.name.lower().endswith(SEGMENTED):
        return None
    return _readers.read(labels).names


def _are_arrays(maps: Maps) -> bool:
    if isinstance(maps, str | os.PathLike):
        return False
    return any(hasattr(x, "dtype") for x in cast("Sequence", maps))


def _groups(
    cases: Sequence[str], names: Sequence[str], group: str | Sequence[str] | None, say: Tell
) -> list[str]:
    """The group of each case; a list of groups is in the order of the names of all cases."""
    if group is None:
        if sentence := _pairs.looks_grouped(cases):
            say(Event("warning", sentence))
        return [""] * len(cases)
    if isinstance(group, str):
        of_case = _pairs.groups_of(cases, group)
        return [of_case[case] for case in cases]
    if len(group) != len(names):
        raise ValueError(f"group has {len(group)} names for {len(names)} cases.")
    of_case = dict(zip(names, group, strict=True))
    return [of_case[case] for case in cases]


def _some(names: Sequence[object], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
