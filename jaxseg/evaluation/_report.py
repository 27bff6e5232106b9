"""``report.html``: the numbers of an evaluation, its plots and its worst cases, in one file."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.evaluation._case import member
from jaxseg.evaluation._metrics import Metric
from jaxseg.evaluation._pairs import row_of_case
from jaxseg.evaluation._pictures import COLOURS, MOST_VOXELS, Picture, picture
from jaxseg.evaluation._readers import Image
from jaxseg.evaluation._records import CaseError, Columns, File, Record, Target
from jaxseg.evaluation._results import write_atomically
from jaxseg.evaluation._summary import policies

Rows = dict[tuple[int, str, str], dict[str, Any]]  # of the summary, as _summary_rows says

FEW = 20  # with fewer values, an interval is not to be relied on
MOST_CLASSES = 40  # of a confusion matrix that is drawn
MOST_CASES = 1000  # in the table of cases
MOST_STRATA = 60
POOLED = ("pooled", "pooled_low", "pooled_high")
MEANS = {"all": "Mean", "detected": "Mean over detected", "penalty": "Mean with penalty"}
POLICIES = {"all": "", "detected": " over detected", "penalty": " with penalty"}
MOST_NOTES = 50
MOST_LINES = 30  # of one part of what is told of the run
WORST_CASES = 6
PLOT = (220, 26)  # width and height of a box plot

NO_VALUE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "hd": "Hausdorff distance",
    "hd95": "HD95",
    "assd": "ASSD",
    "masd": "MASD",
    "nsd": "Surface Dice",
    "boundary-f": "Boundary F",
    "boundary-iou": "Boundary IoU",
    "volume": "Volume difference",
    "relative-volume": "Relative volume difference",
    "centre-distance": "Centre distance",
}
DEFINITIONS = {
    "dice": "Dice is 2TP / (2TP + FP + FN)",
    "iou": "IoU (Jaccard index) is TP / (TP + FP + FN)",
    "precision": "Precision is TP / (TP + FP)",
    "recall": "Recall (sensitivity) is TP / (TP + FN)",
    "specificity": "Specificity is TN / (TN + FP)",
    "accuracy": "Accuracy is (TP + TN) / (TP + FP + FN + TN), per class",
    "hd": "The Hausdorff distance is the larger of the two directed largest surface distances",
    "hd95": "HD95 is the larger of the two directed 95th percentiles of surface distances",
    "assd": "ASSD is the mean of the surface distances of both directions, pooled",
    "masd": "MASD is the mean of the two directed mean surface distances",
    "nsd": "Surface Dice (NSD) at {at} is the share of both surfaces, pooled, that is within {at} "
    "of the other",
    "boundary-f": "Boundary F at {at} is the harmonic mean of the shares of each boundary that is "
    "within {at} of the other",
    "boundary-iou": "Boundary IoU is the IoU of the masks' bands along their boundaries, 2 % of "
    "the image's diagonal wide",
    "volume": "The volume difference is the predicted minus the true volume",
    "relative-volume": "The relative volume difference is the predicted minus the true volume, "
    "divided by the true volume",
    "centre-distance": "The centre distance is the distance between the centres of mass",
}


def write_report(
    folder: str | Path,
    *,
    records: Sequence[Record],
    targets: Sequence[Target],
    metrics: Sequence[Metric],
    summary: Columns,
    unit: str,
    run: Mapping[str, Any],
    errors: Iterable[Sequence[str] | Mapping[str, str]] = (),
    metadata: Mapping[str, Mapping[str, str]] | None = None,
    by: Sequence[str] = (),
    read: Callable[[Path], Image] | None = None,
) -> Path:
    """Write ``report.html``, whole or not at all.

    Args:
        folder: where to.
        records: one per case.
        targets: the classes and regions, in the order of the records' lists.
        metrics: what was computed.
        summary: the columns of ``summary.csv``.
        unit: "mm" or "px".
        run: what is told of the run; ``level``, ``resamples``, ``missing_distance`` and
            ``versions`` are used in the text, and all of it is listed.
        errors: the case and the reason of each case that failed.
        metadata: columns of each case.
        by: the columns of the metadata whose strata are compared.
        read: reads the ids that were scored from a file; ``jaxseg.evaluation._readers.read``.

    Returns:
        The path of the report.
    """
    try:
        import jinja2
    except ImportError:
        raise ImportError(
            'report.html needs jinja2 and Pillow: pip install "jaxseg[evaluate]".'
        ) from None

    table = _table(records, targets, metrics, unit)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {"digest": _digest, "value": _value, "number": _number, "key": _key}
    template = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    policy = run.get("missing_distance", "inf")
    failed = [_error(error) for error in errors]
    rows = _summary_rows(summary, table)
    notes = Counter(note for record in table.records for note in record.notes).most_common()
    worst = _worst_cases(table, read)
    page = environment.from_string(template).render(
        table=table,
        title=_title,
        few=FEW,
        plot=PLOT,
        colours=COLOURS,
        kinds={kind for *_, image, _ in worst if image for kind in image.kinds},
        groups=len(_groups(table)),
        grouped=_is_grouped(table),
        level=f"{100 * float(run.get('level', 0.95)):g} %",
        run_text={name: str(run.get(name) or "") for name in ("predictions", "labels")},
        policy=_policy(table, run),
        says=_says(rows, table, len(failed)),
        failed=failed,
        notes=notes[:MOST_NOTES],
        more_notes=len(notes[MOST_NOTES:]),
        sections=[_section(i, rows, table) for i in range(len(table.metrics))],
        pooled=_pooled(rows, table),
        confusion=_confusion(table),
        strata=[_strata(column, metadata or {}, table, str(policy)) for column in by],
        worst=worst,
        cases=_cases(table),
        missed=table.missed.sum(-1).tolist(),
        spurious=table.spurious.sum(-1).tolist(),
        data=_data(table),
        paragraph=_paragraph(table, run, len(failed)),
        columns=[m.column(unit) for m in table.metrics],
        run=_flat(run),
    )
    path = Path(folder) / "report.html"
    write_atomically(path, page.encode("utf-8", "replace"))  # a file's name may be no Unicode
    return path


class _Table(NamedTuple):
    """The records, and their numbers as arrays."""

    records: tuple[Record, ...]
    targets: tuple[Target, ...]
    metrics: tuple[Metric, ...]
    unit: str
    values: np.ndarray  # of each metric, case and target
    missed: np.ndarray  # whether a target is in the truth alone, per case and target
    spurious: np.ndarray  # whether it is in the prediction alone

    @property
    def ranked_by(self) -> int:
        """The metric that says which cases are worst: the first of overlap, else the first."""
        return next((i for i, m in enumerate(self.metrics) if m.is_overlap), 0)

    @property
    def worst_first(self) -> list[int]:
        """The cases by the mean of ``ranked_by`` over the targets; those without one are last."""
        metric = self.metrics[self.ranked_by]
        means = _mean(self.values[self.ranked_by], -1)
        badness = -means if metric.higher_is_better else np.abs(means)
        badness = np.where(np.isnan(badness), -np.inf, badness)
        return sorted(range(len(means)), key=lambda i: (-badness[i], self.records[i].case))


def _table(
    records: Sequence[Record], targets: Sequence[Target], metrics: Sequence[Metric], unit: str
) -> _Table:
    size = (len(records), len(targets))
    values = [[_floats(r.values[m.name]) for r in records] for m in metrics]
    counts = np.asarray([r.counts for r in records], np.int64).reshape(*size, 4)
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return _Table(
        tuple(records),
        tuple(targets),
        tuple(metrics),
        unit,
        np.asarray(values, np.float64).reshape(len(metrics), *size),
        missed=(tp + fn > 0) & (tp + fp == 0),
        spurious=(tp + fn == 0) & (tp + fp > 0),
    )


# Numbers


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None else float(v) for v in values]


def _mean(
    values: np.ndarray, axis: int | None = None, where: np.ndarray | bool = True
) -> np.ndarray:
    """The mean of the values that are not NaN; NaN if there are none."""
    valid = ~np.isnan(values) & where
    with np.errstate(invalid="ignore"):
        return np.where(valid, values, 0).sum(axis) / np.asarray(valid.sum(axis), np.float64)


def _value(value: float | None, metric: Metric) -> str:
    """A score with four digits after the point; any other value with about four in all."""
    if value is None or math.isnan(value):
        return NO_VALUE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    size = abs(value)
    digits = 4 if metric.higher_is_better else 3 if size < 10 else 2 if size < 1000 else 0
    return f"{value:,.{digits}f}".replace("-", MINUS)


def _number(value: float | None) -> str:
    return NO_VALUE if value is None or math.isnan(value) else f"{int(value):,}"


def _key(value: float | None) -> str:
    """What a column is sorted by; "" of no value, which comes last."""
    if value is None or math.isnan(value):
        return ""
    return "Infinity" if value == math.inf else f"{value:.10g}"


def _title(metric: Metric, unit: str) -> str:
    name = TITLES[metric.kind]
    if metric.tolerance is not None:
        return f"{name} at {metric.tolerance:g} {unit}"
    if metric.kind == "volume":
        return f"{name} ({unit if unit == 'px' else unit + '³'})"
    return f"{name} ({unit})" if metric.is_distance else name


# The sections of the page


def _groups(table: _Table) -> set[str]:
    """The groups; a case without one is a group by itself."""
    return {r.group or r.case for r in table.records}


def _is_grouped(table: _Table) -> bool:
    return len(_groups(table)) < len(table.records)


def _says(rows: Rows, table: _Table, failed: int) -> list[str]:
    """What must be known before any number is believed."""
    says = []
    if failed:
        says.append(
            f"{_count(failed, 'case')} could not be scored and {'is' if failed == 1 else 'are'} in "
            "none of these numbers: see the errors below."
        )
    if 0 < len(table.records) < FEW:
        says.append(
            f"With {_count(len(table.records), 'case')}, fewer than {FEW}, intervals are too "
            "narrow and not to be relied on."
        )
    elif few := [t.name for t in table.targets if _has_few(t.name, rows)]:
        says.append(
            f"Fewer than {FEW} values are there of {_some(few)}: intervals of so few are too "
            "narrow and not to be relied on."
        )
    missed = [table.targets[j].name for j in np.flatnonzero(table.missed.any(0))]
    if missed:
        says.append(
            f"Missed in some cases: {_some(missed)}. What these count as is a choice, and the "
            "order of two methods may depend on it."
        )
    return says


def _error(error: Sequence[str] | Mapping[str, str]) -> tuple[str, str]:
    if isinstance(error, Mapping):
        return error["case"], error["reason"]
    case, reason, *_ = error
    return case, reason


def _summary_rows(summary: Columns, table: _Table) -> Rows:
    """The rows of the summary, by metric, class and policy, or "pooled"."""
    indices = {name: i for i, m in enumerate(table.metrics) for name in (m.name, _column(m, table))}
    rows = {}
    for row in (dict(zip(summary, values)) for values in zip(*summary.values(), strict=True)):
        if row["metric"] not in indices:
            continue
        kind = row["policy"] or "all"
        if row["aggregation"] == "pooled":
            kind = "pooled"
            if "pooled" in row:  # in columns of their own
                row |= {k: row[p] for k, p in zip(("mean", "low", "high"), POOLED)}
        rows[indices[row["metric"]], str(row["class"]), kind] = row
    return rows


def _has_few(name: str, rows: Rows) -> bool:
    sizes = [row["n"] for (_, of, kind), row in rows.items() if of == name and kind != "pooled"]
    return any(0 < (size or 0) < FEW for size in sizes)


def _column(metric: Metric, table: _Table) -> str:
    return metric.column(table.unit)


def _classes(rows: Iterable[tuple[int, str, str]], table: _Table) -> list[str]:
    """The targets' names, and then those that the summary adds: means over the classes."""
    names = [t.name for t in table.targets]
    return names + list(dict.fromkeys(name for _, name, _ in rows if name not in names))


def _section(index: int, rows: Rows, table: _Table) -> dict[str, Any]:
    """The table of one metric: a row per class."""
    metric, values = table.metrics[index], table.values[index]
    axis = _axis(values, metric)
    policies = [p for p in MEANS if any((i, kind) == (index, p) for i, _, kind in rows)]
    places = {t.name: j for j, t in enumerate(table.targets)}
    lines = []
    for name in _classes(rows, table):
        means = [rows.get((index, name, policy)) for policy in policies]
        if found := [row for row in means if row]:
            box = _box(values[:, places[name]], axis) if name in places else None
            lines.append(
                {
                    "name": name,
                    "means": means,
                    "row": found[-1],
                    "box": box,
                    "is_total": name not in places,
                }
            )
    return {
        "metric": metric,
        "title": _title(metric, table.unit),
        "heads": [MEANS[policy] for policy in policies],
        "lines": lines,
        "axis": axis,
    }


def _pooled(rows: Rows, table: _Table) -> tuple[list[Metric], list[tuple[str, bool, list[Any]]]]:
    """The metrics that have pooled values, and the class and its values of each row."""
    used = [
        i for i in range(len(table.metrics)) if any(k[0] == i and k[2] == "pooled" for k in rows)
    ]
    names = {t.name for t in table.targets}
    lines = []
    for name in _classes(rows, table):
        cells = [rows.get((i, name, "pooled")) for i in used]
        if any(cells):
            lines.append((name, name not in names, cells))
    return [table.metrics[i] for i in used], lines


class _Axis(NamedTuple):
    low: float
    high: float
    ticks: tuple[float, ...]

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(6 + (PLOT[0] - 12) * min(max(share, 0), 1), 1)


def _axis(values: np.ndarray, metric: Metric) -> _Axis:
    """From the least to the greatest value, or to the end of the longest whisker, rounded."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return _Axis(0, 1, (0, 1))
    if metric.higher_is_better:
        least = float(finite.min())
        low, high = (math.floor(least * 10) / 10 if least > 0.5 else 0.0), 1.0
    else:  # some cases that went wrong must not make all others too small to see
        ends = [abs(end) for column in values.T for end in _whiskers(column) or ()]
        furthest = 2 * max(ends) or math.inf
        low = max(min(float(finite.min()), 0.0), -furthest)
        high = min(max(float(finite.max()), 0.0), furthest)
    if high <= low:
        high = low + 1
    rough = (high - low) / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s * scale for s in (1, 2, 2.5, 5, 10) if s * scale >= rough * 0.999)
    low = math.floor(low / step + 1e-9) * step
    high = high if metric.higher_is_better else math.ceil(high / step - 1e-9) * step
    ticks = tuple(low + i * step for i in range(math.floor((high - low) / step + 1e-9) + 1))
    return _Axis(low, high, ticks)


def _whiskers(values: np.ndarray) -> tuple[float, float] | None:
    """The furthest values within 1.5 times the quartiles' distance from the quartiles."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, [25, 75])
    reach = 1.5 * (high - low)
    inside = finite[(finite >= low - reach) & (finite <= high + reach)]
    return float(inside.min()), float(inside.max())


def _box(values: np.ndarray, axis: _Axis) -> dict[str, Any] | None:
    """Where the parts of a box plot are, in pixels, and what it says in words."""
    finite = np.sort(values[np.isfinite(values)])
    whiskers = _whiskers(values)
    if whiskers is None:
        return None
    quartiles = [float(q) for q in np.percentile(finite, [25, 50, 75])]
    points = finite
    if finite.size >= FEW:
        points = finite[(finite < whiskers[0]) | (finite > whiskers[1])]
    shown = points[(points >= axis.low) & (points <= axis.high)]
    if shown.size > 30:  # more would lie on each other
        shown = shown[np.linspace(0, shown.size - 1, 30).round().astype(int)]
    infinite = int(np.isinf(values).sum())
    words = (
        f"{finite.size} values: median {quartiles[1]:.4g}, quartiles {quartiles[0]:.4g} and "
        f"{quartiles[2]:.4g}, from {finite[0]:.4g} to {finite[-1]:.4g}"
    )
    return {
        "whiskers": [axis.x(w) for w in whiskers],
        "quartiles": [axis.x(q) for q in quartiles],
        "points": sorted({axis.x(float(v)) for v in shown}),
        "below": int((values < axis.low).sum()),
        "above": int((values > axis.high).sum()),
        "words": words + (f"; {infinite} infinite" if infinite else ""),
    }


def _names_of_ids(table: _Table) -> dict[int, str]:
    return {0: "background"} | {t.ids[0]: t.name for t in table.targets if len(t.ids) == 1}


def _confusion(table: _Table) -> dict[str, Any] | None:
    """The confusion matrix over all cases, each row divided by its sum."""
    cells: Counter[tuple[int, int]] = Counter()
    for record in table.records:
        for true, predicted, number in record.matrix:
            cells[true, predicted] += number
    if not cells:
        return None
    ids = sorted({i for pair in cells for i in pair})
    names = _names_of_ids(table)
    labels = [names.get(i, f"id {i}") for i in ids]
    at = {i: k for k, i in enumerate(ids)}
    sums: Counter[int] = Counter()
    for (true, _), number in cells.items():
        sums[true] += number
    entries: list[dict[str, Any]] = [
        {
            "row": at[true],
            "column": at[predicted],
            "true": labels[at[true]],
            "predicted": labels[at[predicted]],
            "number": number,
            "share": number / sums[true],
        }
        for (true, predicted), number in sorted(cells.items())
        if number
    ]
    wrong = sorted(
        (e for e in entries if e["row"] != e["column"]), key=lambda e: (-e["share"], -e["number"])
    )
    size = max(min(600 // len(ids), 46), 14)
    return {
        "labels": labels,
        "drawn": len(ids) <= MOST_CLASSES,
        "entries": entries,
        "size": size,
        "text": size >= 36,
        "left": max(130, 20 + 7 * min(max(map(len, labels)), 20)),
        "top": 30 + 5 * min(max(map(len, labels)), 18),
        "worst": wrong[: 12 if len(ids) <= MOST_CLASSES else 40],
    }


def _strata(
    column: str, metadata: Mapping[str, Mapping[str, str]], table: _Table, penalty: str
) -> dict[str, Any]:
    """The means of the cases of each value of a column."""
    of_case = [row_of_case(metadata, r.case).get(column) or "not given" for r in table.records]
    sizes = Counter(of_case)
    shown = sorted(sizes, key=lambda s: (-sizes[s], s))[:MOST_STRATA]
    missed, spurious = table.missed, table.spurious
    columns = [
        (f"{_title(metric, table.unit)}{POLICIES[policy]}", metric, counted)
        for metric, values in zip(table.metrics, table.values, strict=True)
        for policy, counted in _policies(values, table.records, metric, penalty)
    ]
    lines = []
    for stratum in sorted(shown):
        cases = np.asarray([s == stratum for s in of_case])
        lines.append(
            {
                "name": stratum,
                "cases": sizes[stratum],
                "missed": int(missed[cases].sum()),
                "spurious": int(spurious[cases].sum()),
                "means": [float(_mean(_mean(v[cases], 0))) for *_, v in columns],
                "classes": [float(m) for m in _mean(table.values[table.ranked_by][cases], 0)],
            }
        )
    return {
        "column": column,
        "heads": [(head, metric) for head, metric, _ in columns],
        "lines": lines,
        "left_out": len(sizes) - len(shown),
    }


def _policies(
    values: np.ndarray, records: Sequence[Record], metric: Metric, penalty: str
) -> list[tuple[str, np.ndarray]]:
    """Those of the summary, and one where no value is infinite, since then all are the same."""
    if not np.isinf(values).any():
        return [("all", values)]
    return policies(values, records, metric, penalty)


def _worst_cases(
    table: _Table, read: Callable[[Path], Image] | None
) -> list[tuple[Record, list[tuple[str, float]], float, Picture | None, str]]:
    """Each of the worst cases: its lowest classes, its mean, and its picture or why it has none."""
    values, metric = table.values[table.ranked_by], table.metrics[table.ranked_by]
    ids = sorted({i for t in table.targets if not _is_background(t) for i in t.ids})
    worst = []
    for case in table.worst_first[:WORST_CASES]:
        record, means = table.records[case], values[case]
        order = np.argsort(means if metric.higher_is_better else -np.abs(means))  # NaN is last
        order = order[~np.isnan(means[order])]
        lowest = [(table.targets[j].name, float(means[j])) for j in order[:3]]
        shown, reason = _picture(record, table.targets, ids, read)
        worst.append((record, lowest, float(_mean(means)), shown, reason))
    return worst


def _is_background(target: Target) -> bool:
    return target.ids == (0,) and target.name.lower() in ("background", "0")


def _picture(
    record: Record,
    targets: Sequence[Target],
    ids: Sequence[int],
    read: Callable[[Path], Image] | None,
) -> tuple[Picture | None, str]:
    for file in (record.prediction, record.labels):
        if reason := _changed(file):
            return None, reason
    try:
        from jaxseg.evaluation import _readers

        paths = (Path(record.prediction.path), Path(record.labels.path))
        prediction, labels = map(read or _readers.read, paths)
        if read is None and not _is_as_scored(prediction, labels, record, targets):
            return None, "Its files do not hold what was scored: that was mapped, or resampled."
        counted = sorted({true for true, _, _ in record.matrix})
        return picture(prediction, labels, foreground=ids, counted=counted), ""
    except (CaseError, OSError, ValueError, ImportError, MemoryError) as error:
        return None, str(error)


def _is_as_scored(
    prediction: Image, labels: Image, record: Record, targets: Sequence[Target]
) -> bool:
    """Whether maps as they were read have the true pixels of each class that were counted."""
    p, g = prediction.array, labels.array
    if labels.names is not None or p.shape != g.shape or math.prod(g.shape) > MOST_VOXELS:
        return True  # or they are not drawn
    for target, (tp, _, fn, _) in zip(targets, record.counts, strict=True):
        true = member(g, target.ids)
        if np.count_nonzero(true) != tp + fn:
            return False
        if np.count_nonzero(member(p, target.ids) & true) != tp:
            return False
    return True


def _changed(file: File) -> str:
    """Why a file is not the one that was scored; "" if it is."""
    if not file.path:
        return "It was scored from an array, not from a file."
    try:
        status = os.stat(file.path)
    except OSError:
        return f"{file.path} is no longer there."
    if file.digest and (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        return f"{file.path} has changed since it was scored."
    return ""


def _cases(table: _Table) -> list[tuple[int, Record, list[float]]]:
    """The index, the record and the mean of each metric, of the worst cases first."""
    means = _mean(table.values, -1)
    return [(i, table.records[i], means[:, i].tolist()) for i in table.worst_first[:MOST_CASES]]


def _data(table: _Table) -> dict[str, Any]:
    """The values of the cases of ``_cases``, by metric, case and class, for the page's script."""
    values = table.values[:, table.worst_first[:MOST_CASES]]

    def cell(value: float) -> float | str | None:
        if math.isnan(value):
            return None
        return "Infinity" if math.isinf(value) else float(f"{value:.4g}")

    return {
        "digits": [4 if m.higher_is_better else None for m in table.metrics],
        "values": [[[cell(v) for v in row] for row in rows] for rows in values.tolist()],
    }


def _paragraph(table: _Table, run: Mapping[str, Any], failed: int) -> list[str]:
    """What was done, in sentences for a paper."""
    records, metrics, unit = table.records, table.metrics, table.unit
    groups = _groups(table)
    versions = run.get("versions") or {}
    version = versions.get("jaxseg", "") if isinstance(versions, Mapping) else ""
    of_groups = f" of {len(groups):,} groups" if len(groups) < len(records) else ""
    were = "was" if len(records) == 1 else "were"
    lost = f"; {failed:,} could not be scored and {'is' if failed == 1 else 'are'} left out"
    missed, spurious = int(table.missed.sum()), int(table.spurious.sum())
    distances = [m for m in metrics if m.is_distance]
    level = float(run.get("level", 0.95))
    resamples = run.get("resamples")
    by = "groups, so that all cases of a group are drawn together" if of_groups else "cases"

    classes = _count(len(table.targets), "class")
    if len(table.targets) <= MOST_CLASSES:
        classes += f" ({', '.join(t.name for t in table.targets)})"
    sentences = [
        f"{_count(len(records), 'case')}{of_groups} {were} scored for {classes} with jaxseg "
        f"{version}".rstrip()
        + (lost if failed else "")
        + "."
    ]
    for metric in metrics:
        at = "" if metric.tolerance is None else f"{metric.tolerance:g} {unit}"
        sentences.append(DEFINITIONS[metric.kind].format(at=at) + ".")
    if distances:
        where = "mm, by the voxel spacing of the files" if unit == "mm" else "pixels"
        sentences.append(f"Distances are in {where}.")
    sentences.append(
        "Each metric was computed per case and class and then averaged over the cases; pooled "
        "values are of counts that were summed over all cases first, and are given apart."
        if any(m.is_overlap for m in metrics)
        else "Each metric was computed per case and class and then averaged over the cases."
    )
    sentences.append(
        "A class that is in neither the truth nor the prediction of a case has no value there and "
        f"is not in n. A class was missed (in the truth alone) {_count(missed, 'time')} and "
        f"spurious (in the prediction alone) {_count(spurious, 'time')}."
    )
    sentences.append(_policy(table, run))
    if resamples != 0:
        number = f"of {int(resamples):,} resamples of {by}" if resamples else f"over {by}"
        sentences.append(
            f"Intervals are {100 * level:g} % percentile bootstrap intervals {number}."
        )
    if isinstance(versions, Mapping) and versions:
        listed = ", ".join(f"{k} {v}" for k, v in versions.items())
        sentences.append(f"Versions: {listed}.")
    return sentences


def _policy(table: _Table, run: Mapping[str, Any]) -> str:
    """What counts where a class was missed or is spurious."""
    policy = str(run.get("missing_distance", "inf"))
    values = {"inf": "infinite", "diagonal": "the diagonal of the image"}
    text = "Where a class was missed or is spurious, scores are 0, or undefined if they divide by 0"
    if not any(m.is_distance for m in table.metrics):
        return text + "."
    text += ", and distances are infinite: means over detected leave infinite values out"
    if policy == "exclude":
        return text + "."
    return text + f", and means with penalty count them as {values.get(policy, policy)}."


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def _flat(run: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values, of mappings in mappings too."""
    lines: list[tuple[str, str]] = []
    for name, value in run.items():
        if isinstance(value, Mapping):
            if len(value) > MOST_LINES:
                lines.append((f"{prefix}{name}", f"{len(value):,}, which summary.json lists"))
            else:
                lines += _flat(value, f"{prefix}{name}: ")
        elif isinstance(value, (list, tuple)):
            lines.append((f"{prefix}{name}", " ".join(str(v) for v in value)))
        elif value is not None:
            lines.append((f"{prefix}{name}", str(value)))
    return lines


def _digest(text: str) -> str:
    """The name of a script or a style in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
