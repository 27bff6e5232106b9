"""The command ``jaxseg``: a thin face of the functions of ``jaxseg.evaluation``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

FAILED_LIMIT, USAGE, FAILED_CASES, INTERRUPTED = 1, 2, 3, 130

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


def _numbers(text: str | None, what: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{what} must be integers such as 1,2,3; got {text!r}.") from None


def _spacing(_: click.Context, __: click.Parameter, text: str) -> Any:
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
@click.option("--reduce-zero-label", is_flag=True, help="0 becomes the ignored id, 1 becomes 0, …")
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
@click.option("--quiet", is_flag=True, help="Print errors alone.")
def evaluate(**options: Any) -> None:
    """Score the label maps in PREDICTIONS against those in LABELS.

    Files pair by their names. Exit codes: 0; 1 if --fail-under is not met; 2 for a wrong call; 3 if
    some cases could not be scored (errors.csv says why).
    """  # fmt: skip
    sys.exit(_evaluate(**options))
