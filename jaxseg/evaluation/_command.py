"""The command ``jaxseg``: a thin face of the functions of ``jaxseg.evaluation``."""

from __future__ import annotations

import contextlib
import operator
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import rich_click as click

if TYPE_CHECKING:
    from dask.distributed import Client
    from rich.console import Console
    from rich.progress import Progress

    from jaxseg.evaluation._evaluate import Event
    from jaxseg.evaluation._results import Results

BELOW_LIMIT, USAGE, FAILED_CASES, INTERRUPTED = 1, 2, 3, 130

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.OPTION_GROUPS = {
    "jaxseg evaluate": [
        {
            "name": "What is scored",
            "options": [
                "--num-classes", "--classes", "--names", "--regions", "--map", "--ignore",
                "--reduce-zero-label", "--metrics",
            ],
        },
        {
            "name": "Files and cases",
            "options": [
                "--pair", "--missing", "--resample", "--spacing", "--group", "--metadata", "--by",
            ],
        },
        {
            "name": "Results",
            "options": [
                "--out", "--missing-distance", "--ci", "--seed", "--fail-under", "--quiet",
            ],
        },
        {"name": "Work", "options": ["--workers", "--dask", "--shard", "--resume"]},
    ]
}  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jaxseg")
def command() -> None:
    """Score folders of label maps, and compare and report the results."""


def _spacing(_: click.Context, __: click.Parameter, text: str) -> str | tuple[float, ...]:
    if text in ("header", "pixels"):
        return text
    try:
        steps = tuple(float(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or not all(0 < step < float("inf") for step in steps):
        raise click.BadParameter(
            f"give positive numbers, one per axis of the array, or header or pixels; got {text!r}."
        )
    return steps


def _shard(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"give i/n with i from 1 to n, such as 2/8; got {text!r}.")
    return int(index), int(count)


@command.command()
@click.argument("predictions", type=FOLDER)
@click.argument("labels", type=FOLDER)
@click.option("--num-classes", type=click.IntRange(1), help="The ids are 0 to N - 1.")
@click.option("--classes", metavar="1,2,3", help="The ids that are scored; others are not.")
@click.option("--names", metavar="a,b,c|FILE", help="Names of the classes, in their order.")
@click.option("--regions", multiple=True, metavar="wt=1,2,3", help="A union of classes.")
@click.option(
    "--map",
    "map_",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV or JSON: from an id or a colour to an id.",
)
@click.option("--ignore", type=int, help="The true id of pixels that do not count.")
@click.option(
    "--reduce-zero-label",
    is_flag=True,
    help="In both maps, 0 becomes the ignored id, 1 becomes 0, …",
)
@click.option(
    "--metrics",
    default="dice,iou",
    show_default=True,
    help="dice, iou, precision, recall, specificity, accuracy, volume, relative-volume, hd, "
    "hd95, assd, masd, nsd@MM, boundary-f@MM, boundary-iou, centre-distance.",
)
@click.option(
    "--spacing",
    default="header",
    show_default=True,
    metavar="z,y,x|header|pixels",
    callback=_spacing,
    help="The size of a pixel along each axis of the array, in mm.",
)
@click.option(
    "--group",
    metavar="PATTERN|FILE:COLUMN",
    help="The patient of a case; intervals resample patients.",
)
@click.option(
    "--metadata",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV with a column `case`.",
)
@click.option("--by", metavar="scanner,site", help="Columns of --metadata to split the report by.")
@click.option(
    "--missing",
    type=click.Choice(["error", "worst", "skip"]),
    default="error",
    show_default=True,
    help="What a missing file of a prediction means.",
)
@click.option(
    "--missing-distance",
    default="inf",
    show_default=True,
    metavar="inf|diagonal|NUMBER|exclude",
    help="The distance of a class that was missed, in the mean with penalty.",
)
@click.option(
    "--resample",
    type=click.Choice(["label"]),
    help="Bring predictions onto the grid of the truth, by the nearest voxel.",
)
@click.option("--pair", metavar="PATTERN", help="How names pair: {case}_pred.png={case}_gt.png.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the results; without it they are printed alone.",
)
@click.option(
    "--ci",
    "level",
    type=click.FloatRange(0.5, 0.999),
    default=0.95,
    show_default=True,
    help="The level of the intervals.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the intervals' resamples.")
@click.option("--workers", type=click.IntRange(1), help="Processes that read files.")
@click.option("--dask", metavar="ADDRESS", help="The address of a running Dask scheduler.")
@click.option("--shard", metavar="i/n", callback=_shard, help="Score the i-th of n parts.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--fail-under", metavar="'dice.mean>=0.8'", help="Exit with 1 if this is not so.")
@click.option("--quiet", is_flag=True, help="Print warnings and errors alone.")
def evaluate(**options: Any) -> None:
    """Score the label maps in PREDICTIONS against those in LABELS.

    Files pair by their names. Exit codes: 0; 1 if --fail-under is not met; 2 for a wrong call; 3 if
    some cases could not be scored (errors.csv says why).
    """  # fmt: skip
    with _clear_errors():
        sys.exit(_evaluate(**options))


def _evaluate(
    predictions: Path,
    labels: Path,
    num_classes: int | None,
    classes: str | None,
    names: str | None,
    regions: tuple[str, ...],
    map_: Path | None,
    ignore: int | None,
    missing_distance: str,
    resample: str | None,
    dask: str | None,
    fail_under: str | None,
    metadata: Path | None,
    by: str | None,
    quiet: bool,
    out: Path | None,
    **options: Any,
) -> int:
    limit = None if fail_under is None else _limit(fail_under)
    _keep_compiled_programs()
    from jaxseg.evaluation import _pairs, _targets
    from jaxseg.evaluation._evaluate import SEGMENTED, evaluate
    from jaxseg.evaluation._results import stable_command

    console = _console(stderr=True)
    has_segments = any(path.name.lower().endswith(SEGMENTED) for path in labels.rglob("*"))
    if has_segments and not regions and (num_classes, classes, names) == (None,) * 3:
        wanted = _targets.Targets((), ignore, 0)  # those that the files name
    else:
        wanted = _targets.read_targets(
            num_classes=num_classes, classes=classes, names=names, regions=regions,
            ignore=ignore, folders=[labels, predictions],
        )  # fmt: skip
    if limit is not None:
        _check_limit(limit, options["metrics"], [target.name for target in wanted.targets])
    if wanted.note and not quiet:
        console.print(wanted.note, style="dim", markup=False)
    strata = None if metadata is None else _pairs.read_metadata(metadata)
    maps = _targets.IdMap({}, {}) if map_ is None else _targets.read_map(map_)
    some_ids = classes is not None or (regions and num_classes is None and names is None)
    with contextlib.ExitStack() as stack:
        if dask is not None:
            options["executor"] = stack.enter_context(_dask(dask))
        progress = None if quiet else stack.enter_context(_progress(console))
        results = evaluate(
            predictions,
            labels,
            num_classes=wanted.num_ids if wanted.targets and not some_ids else None,
            classes={target.name: target.ids for target in wanted.targets} or None,
            ignore=wanted.ignore,
            ids=maps.ids or None,
            colours=maps.colours or None,
            missing_distance=_number_or_word(missing_distance),
            resample=resample is not None,
            out=out,
            metadata=strata,
            by=_columns(by),
            command=stable_command(["jaxseg", *sys.argv[1:]]),
            tell=partial(_tell, console, progress, quiet),
            **options,
        )
    if not quiet:
        _print_results(results, out)
    if limit is not None and not _is_met(limit, results):
        console.print(f"[red]--fail-under {fail_under} is not met.")
        return BELOW_LIMIT
    return FAILED_CASES if results.errors else 0


def _columns(by: str | None) -> list[str]:
    return [] if by is None else [name.strip() for name in by.split(",")]


def _number_or_word(text: str) -> str | float:
    try:
        return float(text) if text != "inf" else text
    except ValueError:
        return text


def _keep_compiled_programs() -> None:
    """Let JAX keep compiled programs in the user's cache folder, unless it is told otherwise."""
    import jax
    import platformdirs

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder, seconds = platformdirs.user_cache_dir("jaxseg"), 0.05
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # of the processes that it starts
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(seconds)


def _dask(address: str) -> contextlib.AbstractContextManager[Executor]:
    try:
        from dask.distributed import Client
    except ImportError:
        raise click.UsageError(
            '--dask needs another package: pip install "jaxseg[dask]".'
        ) from None
    return closing_executor(Client(address, timeout="10s"))


@contextlib.contextmanager
def closing_executor(client: Client) -> Iterator[Executor]:
    """The executor of a Dask client, which is closed at the end."""
    with client:
        yield client.get_executor()


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=True, highlight=False)


def _progress(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _tell(console: Console, progress: Progress | None, quiet: bool, event: Event) -> None:
    """Show what ``evaluate`` tells: messages, and how far it is."""
    if event.kind in ("warning", "error") or (event.kind == "note" and not quiet):
        from rich.text import Text

        style = {"warning": "yellow", "error": "red", "note": "dim"}[event.kind]
        console.print(Text(f"{event.kind}: {event.text}", style))
    if progress is None:
        return
    if event.kind == "start":
        progress.add_task("", total=event.number, rate="")
    elif event.kind == "case":
        (task,) = progress.tasks[-1:]
        progress.advance(task.id)
        rate = f"{task.completed / max(task.elapsed or 0, 1e-9):.1f} cases/s"
        progress.update(task.id, rate=rate)


def _print_results(results: Results, out: Path | None) -> None:
    console = _console()
    lines = repr(results).splitlines()
    counts = zip(*(record.counts for record in results.records))  # by class
    nowhere = [2 + k for k, of in enumerate(counts) if not any(any(each[:3]) for each in of)]
    console.print("\n".join(line for k, line in enumerate(lines) if k not in nowhere), markup=False)
    if nowhere:
        classes = "1 class is" if len(nowhere) == 1 else f"{len(nowhere)} classes are"
        console.print(f"{classes} in no map.")
    if results.errors:
        where = f"{out / 'errors.csv'} says why" if out else "the errors above say why"
        number = len(results.errors)
        cases = "1 case has" if number == 1 else f"{number} cases have"
        console.print(f"{cases} no scores: {where}.", style="red", markup=False)
    if out is not None:
        console.print(f"Tables and report.html are in {out}.", markup=False)


class Limit(NamedTuple):
    """A bound on one number of the summary."""

    metric: str
    target: str
    statistic: str
    compare: Callable[[float, float], bool]
    bound: float


LIMIT = re.compile(r"([\w@.-]+?)(?:\[(.+)\])?\.(mean|median|pooled)\s*(>=|<=|>|<)\s*([\d.eE+-]+)")


def _limit(text: str) -> Limit:
    found = LIMIT.fullmatch(text.strip())
    comparisons = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
    try:
        assert found is not None
        metric, target, statistic, compare, bound = found.groups()
        return Limit(metric, target or "", statistic, comparisons[compare], float(bound))
    except (AssertionError, ValueError):
        raise click.BadParameter(
            "--fail-under takes METRIC.mean, METRIC.median or METRIC.pooled, or of one class "
            f"METRIC[CLASS].mean, a comparison and a number: dice.mean>=0.8; got {text!r}."
        ) from None


def _check_limit(limit: Limit, asked: str, classes: Sequence[str]) -> None:
    """Refuse a limit of what will not be computed, before the first case."""
    from jaxseg.evaluation._metrics import parse_metrics

    metrics = {metric.name: metric for metric in parse_metrics(asked)}
    if limit.metric not in metrics:
        raise click.BadParameter(
            f"--fail-under names {limit.metric}, which --metrics does not: {', '.join(metrics)}."
        )
    if limit.statistic == "pooled" and not metrics[limit.metric].is_overlap:
        raise click.BadParameter(f"--fail-under: there is no pooled {limit.metric}.")
    if limit.target and classes and limit.target not in classes:
        raise click.BadParameter(
            f"--fail-under names the class {limit.target}, which is not scored: "
            f"{', '.join(classes)}."
        )


def _is_met(limit: Limit, results: Results) -> bool:
    """Whether the number is within its bound; a number that there is not is not."""
    from jaxseg.evaluation._summary import MACRO

    metrics = {metric.name: metric for metric in results.metrics}
    columns = results.summary
    pooled = limit.statistic == "pooled"
    counted = "detected" if results.run.missing_distance == "exclude" else "penalty"
    names = {metrics[limit.metric].column(unit) for unit in ("mm", "px")}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    values = [
        row[limit.statistic]
        for row in rows
        if row["metric"] in names
        and row["class"] == (limit.target or MACRO)
        and (row["aggregation"] == "pooled") == pooled
        and row["policy"] in ("all", counted)
    ]
    if not values:
        of = f"{limit.metric} of {limit.target or MACRO}"
        raise click.BadParameter(f"--fail-under: there is no {limit.statistic} of {of}.")
    return all(value is not None and limit.compare(value, limit.bound) for value in values)


@command.command()
@click.argument("tables", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--metrics", metavar="a,b", help="Columns `metric` of the tables; all by default.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="For CSV and plot.")
@click.option("--ci", "level", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def compare(
    tables: tuple[Path, ...], metrics: str | None, out: Path | None, level: float, seed: int
) -> None:
    """Compare methods by their cases.csv: paired differences, tests and ranks.

    TABLES are files, or the folders that hold them; a method is called as its folder.
    """
    with _clear_errors():
        _keep_compiled_programs()
        from jaxseg.evaluation import _compare

        paths = [path / "cases.csv" if path.is_dir() else path for path in tables]
        named = {path.resolve().parent.name: _compare.read_cases(path) for path in paths}
        if len(named) < len(paths):
            named = {str(path): _compare.read_cases(path) for path in paths}
        found = _compare.compare(
            named, metrics=None if metrics is None else metrics.split(","), level=level, seed=seed
        )
        _console().print(str(found), markup=False)
        if out is not None:
            found.write(out)


@command.command()
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
def merge(folders: tuple[Path, ...], out: Path) -> None:
    """Put the results of shards together: the same tables as those of one run."""
    with _clear_errors():
        from jaxseg.evaluation import _evaluate, _results

        results = _results.merge(folders, out)
        _evaluate.write_report_of(results, out)
        _print_results(results, out)
        sys.exit(FAILED_CASES if results.errors else 0)


@command.command()
@click.argument("folder", type=FOLDER)
@click.option("--metadata", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--by", metavar="scanner,site")
def report(folder: Path, metadata: Path | None, by: str | None) -> None:
    """Write the report.html of a folder of results anew."""
    with _clear_errors():
        from jaxseg.evaluation import _evaluate, _pairs, _results

        strata = None if metadata is None else _pairs.read_metadata(metadata)
        results = _results.read_results(folder)
        _evaluate.write_report_of(results, folder, strata, _columns(by))
        _console().print(f"{folder / 'report.html'} is written.", markup=False)


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn what a user can mend into a message and an exit code, without a traceback."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that workers are ended too
    try:
        yield
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept; --resume goes on with it.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, ImportError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(USAGE)


if __name__ == "__main__":
    command(prog_name="jaxseg")
