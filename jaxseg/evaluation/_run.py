"""Cases are read, scored and kept one by one: in local processes, or on the workers of an executor.

Cases are independent, so nothing here schedules: whole cases are read and scored by processes, or
wherever an executor takes them. With an accelerator, processes read cases and JAX counts here.
"""

from __future__ import annotations

import gc
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import jax
import numpy as np

from jaxseg.evaluation._case import LabelMap, score
from jaxseg.evaluation._metrics import Metric
from jaxseg.evaluation._readers import Image
from jaxseg.evaluation._records import CaseError, File, Record, Target

if TYPE_CHECKING:
    from loky import ProcessPoolExecutor

R = TypeVar("R")
Source = Path | np.ndarray  # a file, or an array that a program holds
Found = tuple["Job", "Record | BaseException"]

_FEW = 8  # cases that are read here: starting processes would take longer
_OF_WORKERS = {
    "JAX_PLATFORMS": "cpu",  # no accelerator, and one core each
    "PJRT_NPROC": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**28),  # glibc: memory of one map is kept for the next,
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # since new pages take a sixth of the time
}
_IN_FLIGHT = 64  # cases that an executor is given ahead


class Job(NamedTuple):
    """A case to be scored; a prediction of None is one whose file is missing."""

    case: str
    group: str
    prediction: Source | None
    labels: Source


class Reading(NamedTuple):
    """How files become maps of ids."""

    colours: Mapping[tuple[int, int, int], int] | None
    ids: Mapping[int, int] | None
    reduce_zero_label: bool
    ignore: int | None
    resample: bool
    segments: tuple[str, ...] | None  # those that are scored, of files that have them
    masks: bool  # whether maps of 0 and 255 alone are masks
    spacing: str | tuple[float, ...]  # "header", "pixels" or numbers


class Scoring(NamedTuple):
    """What is scored, and how."""

    targets: tuple[Target, ...]
    num_ids: int
    refuses_other_ids: bool
    ignore: int | None
    metrics: tuple[Metric, ...]
    options: str  # a digest of all that the numbers depend on


class Case(NamedTuple):
    """The maps of one case, read."""

    job: Job
    prediction: LabelMap
    labels: LabelMap
    spacing: tuple[float, ...] | None
    files: tuple[File, File]
    notes: tuple[str, ...]


def read_image(source: Source, reading: Reading, what: str = "labels") -> Image:
    """Read a map of ids, or masks of the segments that are scored."""
    from jaxseg.evaluation import _readers, _targets

    if isinstance(source, np.ndarray):
        notes: list[str] = []
        found = Image(_readers.ids_of(source, notes), None, "px", None, None, notes)
    else:
        found = _readers.read(source, map_colours=reading.colours, what=what, masks=reading.masks)
    ids = found.array
    if found.names is not None:
        masks = _segments(ids, found.names, reading.segments)
        if left_out := [name for name in found.names if name not in (reading.segments or ())]:
            sentence = f"The truth of the first case lacks {', '.join(left_out)}: not scored."
            return found._replace(array=masks, notes=[*found.notes, sentence])
        return found._replace(array=masks)
    if reading.segments is not None:
        raise CaseError(f"{source} has ids, where the other files have segments with names.")
    if reading.ids is not None:
        ids = _targets.map_ids(np.asarray(ids), reading.ids)
    if reading.reduce_zero_label:
        ids = _targets.reduce_zero_label(np.asarray(ids), ignore=reading.ignore)
    return found._replace(array=ids)


def read_case(job: Job, reading: Reading) -> Case:
    """Read both maps of a case; CaseError says what is wrong with them."""
    from jaxseg.evaluation import _preflight, _readers

    truth = read_image(job.labels, reading)
    if job.prediction is None:
        notes = ["There is no file of a prediction; it counts as an empty one."]
        prediction = truth._replace(array=np.zeros_like(truth.array), notes=[])
    else:
        prediction, notes = read_image(job.prediction, reading, "prediction"), []
    if truth.names is not None:
        prediction, truth = _readers.common_grid(prediction, truth)
    for name, each in (("prediction", prediction), ("truth", truth)):
        notes += [f"{name}: {note}" for note in each.notes]
    ndim = truth.array.ndim - (truth.names is not None)
    if reading.resample and not _preflight.is_same_grid(prediction, truth):
        prediction = _on_grid_of(truth, prediction, ndim)
        notes.append(
            f"The prediction was resampled onto the grid of the truth, {truth.array.shape[:ndim]}."
        )
    spacing = _spacing(reading.spacing, truth, ndim)
    files = (file_of(job.prediction), file_of(job.labels))
    return Case(job, prediction.array, truth.array, spacing, files, tuple(notes))


def _on_grid_of(truth: Image, prediction: Image, ndim: int) -> Image:
    """The prediction on the grid of the truth, by the nearest voxel."""
    from jaxseg.evaluation import _preflight

    for grids in ((prediction.affine, truth.affine), (prediction.spacing, truth.spacing)):
        if grids[0] is not None and grids[1] is not None:
            array = _preflight.resample_labels(
                np.asarray(prediction.array), grids[0], truth.array.shape[:ndim], grids[1]
            )
            return prediction._replace(array=array)
    raise CaseError(
        "The prediction cannot be resampled, since a file has no affine and no spacing."
    )


def _segments(
    masks: np.ndarray, names: tuple[str, ...], wanted: tuple[str, ...] | None
) -> np.ndarray:
    """The masks of the wanted segments in their order; one that a file lacks is empty."""
    if wanted is None:
        raise CaseError("A file has segments with names, where the other files have ids.")
    found = [
        masks[..., names.index(n)] if n in names else np.zeros_like(masks[..., 0]) for n in wanted
    ]
    return np.stack(found, -1)


def _spacing(asked: str | tuple[float, ...], truth: Image, ndim: int) -> tuple[float, ...] | None:
    """The spacing in mm, or None to count in pixels."""
    if asked == "pixels" or (asked == "header" and truth.unit != "mm"):
        return None
    spacing = truth.spacing if isinstance(asked, str) else asked
    if spacing is None:
        return None
    spacing = spacing * ndim if len(spacing) == 1 else spacing
    if len(spacing) != ndim:
        raise CaseError(f"The spacing has {len(spacing)} numbers and the image {ndim} axes.")
    return tuple(map(float, spacing))


def file_of(source: Source | None) -> File:
    """The file's size, time and digest, which tell whether it has changed."""
    if not isinstance(source, Path):
        return File("", 0, 0, "")
    size, mtime_ns = _size_and_time(source)
    if source.is_dir():
        return File(str(source), size, mtime_ns, "")
    with source.open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return File(str(source), size, mtime_ns, digest)


def _size_and_time(source: Path) -> tuple[int, int]:
    """The size of a file and the time of its last change; of a folder, those of all its files."""
    if not source.is_dir():
        stats = [source.stat()]
    else:
        stats = [path.stat() for path in source.rglob("*") if path.is_file()]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


def is_unchanged(record: Record, job: Job) -> bool:
    """Whether a record is of files that are as they were, by their size and time."""
    for before, source in ((record.prediction, job.prediction), (record.labels, job.labels)):
        if not isinstance(source, Path):
            if source is not None or before.path:
                return False
            continue
        try:
            now = _size_and_time(source)
        except OSError:
            return False
        if (before.path, before.size, before.mtime_ns) != (str(source), *now):
            return False
    return True


def score_case(case: Case, scoring: Scoring) -> Record:
    """The record of a case that was read."""
    from jaxseg.evaluation import _preflight

    p, g = case.prediction, case.labels
    found = score(
        p,
        g,
        targets=scoring.targets,
        num_ids=scoring.num_ids,
        ignore=scoring.ignore,
        metrics=scoring.metrics,
        spacing=case.spacing,
    )
    notes = list(case.notes)
    if scoring.num_ids and isinstance(p, np.ndarray) and isinstance(g, np.ndarray):
        limit = scoring.num_ids + (not scoring.refuses_other_ids)  # the other ids are one more then
        matrix = found.matrix[:limit, :limit]
        for problem in _preflight.value_problems(p, g, limit, scoring.ignore, matrix=matrix):
            if problem.is_error:
                raise CaseError(problem.message)
            notes.append(problem.message)
    elif scoring.refuses_other_ids and (found.matrix[-1].any() or found.matrix[:, -1].any()):
        raise CaseError(f"There are ids that are not from 0 to {scoring.num_ids - 1}.")
    cells = np.argwhere(found.matrix).tolist()
    return Record(
        case=case.job.case,
        group=case.job.group,
        prediction=case.files[0],
        labels=case.files[1],
        shape=g.shape[: g.ndim - (scoring.num_ids == 0)],
        spacing=case.spacing or (1.0,) * g.ndim,
        unit="px" if case.spacing is None else "mm",
        values=found.values,
        counts=found.counts,
        matrix=[(a, b, int(found.matrix[a, b])) for a, b in cells],
        notes=notes,
        options=scoring.options,
    )


def run_case(job: Job, reading: Reading, scoring: Scoring) -> Record:
    """Read and score one case, as a worker of an executor does."""
    return score_case(read_case(job, reading), scoring)


def records(
    jobs: Sequence[Job],
    reading: Reading,
    scoring: Scoring,
    *,
    workers: int,
    executor: Executor | None = None,
) -> Iterator[Found]:
    """Each case with its record or with the error that it gave, in the order in which they end."""
    if executor is not None:
        run = partial(run_case, reading=reading, scoring=scoring)
        yield from _submitted(executor, run, jobs)
        return
    read: Iterable[tuple[Job, Case | BaseException]]
    if workers < 2 or len(jobs) < _FEW or isinstance(jobs[0].labels, np.ndarray):
        read = ((job, _or_error(read_case, job, reading)) for job in jobs)
    elif jax.default_backend() == "cpu":  # where it is nearer to count than to send maps
        yield from in_processes(partial(run_case, reading=reading, scoring=scoring), jobs, workers)
        return
    else:
        read = in_processes(partial(read_case, reading=reading), jobs, workers)
    for job, case in read:
        yield job, case if isinstance(case, BaseException) else _or_error(score_case, case, scoring)


def _or_error(function: Callable[..., R], *args: object) -> R | Exception:
    try:
        return function(*args)
    except Exception as error:
        return error


def _submitted(
    executor: Executor, run: Callable[[Job], Record], jobs: Sequence[Job]
) -> Iterator[Found]:
    """What an executor makes of each case; few of them are in its hands at any time."""
    waiting, pending = deque(jobs), dict[Future, Job]()
    while waiting or pending:
        while waiting and len(pending) < _IN_FLIGHT:
            job = waiting.popleft()
            future = _or_error(executor.submit, run, job)
            if isinstance(future, Exception):  # its workers are gone
                yield job, future
            else:
                pending[future] = job
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            yield pending.pop(future), error if error is not None else future.result()


def _processes(number: int) -> ProcessPoolExecutor:
    # They are no forks, which may hang where JAX runs, nor do they import the program.
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(number, env=_OF_WORKERS, initializer=_start, initargs=(os.getpid(),))


def _start(parent: int) -> None:
    """Let this process end soon after its parent, which may be killed and then ends no other."""
    gc.freeze()  # loky looks for garbage every second: not among all that was imported

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.name == "posix":  # elsewhere a process keeps the number of its parent
        threading.Thread(target=watch, daemon=True).start()


def in_processes(
    read: Callable[[Job], R], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, R | BaseException]]:
    """Each case as processes of their own read it, or the error that it gave.

    If one of these is killed, all cases that were in their hands are read again at the end, each by
    a process alone: so a case that kills its process is found, and given up.
    """
    waiting, suspects = deque(jobs), list[Job]()
    while waiting:
        pool = _processes(workers)
        pending: dict[Future, Job] = {}
        try:
            while waiting or pending:
                while waiting and len(pending) < 2 * workers:
                    pending[pool.submit(read, waiting[0])] = waiting[0]
                    waiting.popleft()
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    job = pending.pop(future)
                    yield job, error if error is not None else future.result()
        except BrokenProcessPool:
            suspects += pending.values()
        finally:
            pool.shutdown(wait=False, kill_workers=True)
    for job in suspects:
        with _processes(1) as pool:
            try:
                yield job, pool.submit(read, job).result()
            except BrokenProcessPool:
                yield job, CaseError("The process that read it was killed, twice.")
            except Exception as error:
                yield job, error
