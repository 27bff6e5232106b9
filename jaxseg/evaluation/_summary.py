"""The tables of an evaluation: one row per case, class and metric, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.evaluation._metrics import Metric
from jaxseg.evaluation._records import Columns, Record, Target

CASES = ("case", "group", "class", "metric", "value", "n_truth", "n_prediction")
SUMMARY = (
    *("class", "metric", "aggregation", "policy"),
    *("mean", "median", "q25", "q75", "low", "high", "median_low", "median_high"),
    *("pooled", "pooled_low", "pooled_high"),
    *("n", "n_missed", "n_spurious", "n_infinite", "n_undefined"),
)
MACRO = "mean of classes"
SummaryRow = tuple[object, ...]  # in the order of SUMMARY
MissingDistance = str | float  # "inf", "diagonal", "exclude" or a distance

# In float64: a pooled count may be above 2**24, where float32 has no longer every integer.
POOLED: dict[str, Callable[..., np.ndarray]] = {
    "dice": lambda tp, fp, fn, tn: _divide(2 * tp, 2 * tp + fp + fn),
    "iou": lambda tp, fp, fn, tn: _divide(tp, tp + fp + fn),
    "precision": lambda tp, fp, fn, tn: _divide(tp, tp + fp),
    "recall": lambda tp, fp, fn, tn: _divide(tp, tp + fn),
    "specificity": lambda tp, fp, fn, tn: _divide(tn, tn + fp),
    "accuracy": lambda tp, fp, fn, tn: _divide(tp + tn, tp + fp + fn + tn),
}


def tabulate(
    records: Sequence[Record], targets: Sequence[Target], metrics: Sequence[Metric]
) -> Columns:
    """All values, one per row: sorted by case, then in the order of the targets and metrics.

    Args:
      records: of the cases, in any order.
      targets: the classes and regions, in the order of the records' lists.
      metrics: that the records have values of.

    Returns:
      The columns ``CASES``.

    Raises:
      ValueError: cases have different units and a metric has a unit, or a record lacks a value.
    """
    unit = _unit(records, metrics)
    rows = [
        (
            record.case,
            record.group,
            target.name,
            metric.column(unit),
            float(value),
            tp + fn,
            tp + fp,
        )
        for record in sorted(records, key=lambda record: record.case)
        for place, (target, (tp, fp, fn, _)) in enumerate(zip(targets, record.counts, strict=True))
        for metric in metrics
        for value in [_values(record, targets, metric)[place]]
    ]
    return _columns(CASES, rows)


def summarize(
    records: Sequence[Record],
    targets: Sequence[Target],
    metrics: Sequence[Metric],
    *,
    missing_distance: MissingDistance = "inf",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Columns:
    """What the values come to, per class and as the mean of the classes.

    Rows with the aggregation ``"per case"`` have the statistics of the values of the cases, without
    those that are undefined (NaN). A metric that may be infinite, because a class was missed, has
    two such rows side by side: with the policy ``"detected"`` infinite values are left out, and
    with the policy ``"penalty"`` they count as ``missing_distance`` says. Other metrics have one,
    with the policy ``"all"``. Rows with the aggregation ``"pooled"`` have the score of the counts
    summed over the cases, in columns of their own. A cell that has no meaning in its row is None.

    The row of the mean of the classes has in each column of statistics the mean over the classes
    that have a value there, and in each column of numbers of cases the sum.

    Args:
      records: of the cases, in any order.
      targets: the classes and regions, in the order of the records' lists.
      metrics: that the records have values of.
      missing_distance: what an infinite distance counts as: ``"inf"``, ``"diagonal"`` (of the
        case's image, in the unit of its spacing), a number, or ``"exclude"``, which leaves the
        rows with the penalty out.
      level: of the intervals, ``low`` to ``high`` of the mean and ``median_low`` to
        ``median_high`` of the median.
      resamples: of the bootstrap, by groups where the records have groups; 0: no intervals.
      seed: of the bootstrap.

    Returns:
      The columns ``SUMMARY``.

    Raises:
      ValueError: as ``tabulate``, and another ``missing_distance``.
    """
    check_missing_distance(missing_distance)
    records = sorted(records, key=lambda record: record.case)
    unit = _unit(records, metrics)
    tables = [(metric, _table(records, targets, metric)) for metric in metrics]
    series = [
        (metric, policy, table, values)
        for metric, table in tables
        for policy, values in policies(table, records, metric, missing_distance)
    ]
    counts = np.array([record.counts for record in records], np.int64)
    counts = counts.reshape(len(records), len(targets), 4)
    pooled = [metric for metric in metrics if metric.is_overlap]
    intervals = _Intervals(_groups(records), level, resamples if counts.size else 0, seed)
    ends = intervals.of_cases([values for *_, values in series])
    pooled_ends = intervals.of_pooled(pooled, counts)
    missed = _missed(counts)

    blocks: list[list[SummaryRow]] = []  # of one row per class, the mean of the classes last
    for metric in metrics:
        for (of, policy, values, counted), low_high in zip(series, ends, strict=True):
            if of == metric:
                head = (metric.column(unit), "per case", policy)
                blocks.append(_case_rows(head, values, counted, low_high, missed))
        if metric.is_overlap:
            head = (metric.column(unit), "pooled", "all")
            blocks.append(_pooled_rows(head, metric, counts, pooled_ends[metric], missed))
    names = [*(target.name for target in targets), MACRO]
    return _columns(
        SUMMARY, [(name, *block[place]) for place, name in enumerate(names) for block in blocks]
    )


def means(
    records: Sequence[Record],
    targets: Sequence[Target],
    metrics: Sequence[Metric],
    missing_distance: MissingDistance = "inf",
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Means over the cases, and pooled scores, as text: the columns' heads, and each class's cells.

    Arguments are those of ``summarize``. Where infinite values are left out, the cell says how
    many.
    """
    summary = summarize(records, targets, metrics, missing_distance=missing_distance, resamples=0)
    rows = [dict(zip(SUMMARY, row)) for row in zip(*summary.values(), strict=True)]
    heads: dict[str, None] = {}
    cells: dict[str, list[str]] = {name: [] for name in [*(t.name for t in targets), MACRO]}
    for row in rows:
        pooled, policy = row["aggregation"] == "pooled", row["policy"]
        words = {"all": "", "penalty": f", penalty {missing_distance}"}.get(policy, f", {policy}")
        heads[row["metric"] + (", pooled" if pooled else words)] = None
        text = f"{row['pooled' if pooled else 'mean']:.3f}"
        if policy == "detected" and row["n_infinite"]:
            text += f" ({row['n_infinite']} left out)"
        cells[row["class"]].append(text)
    return list(heads), list(cells.items())


def check_missing_distance(missing_distance: MissingDistance) -> None:
    """Check what an infinite distance shall count as; ValueError if it is no such policy."""
    if missing_distance in ("inf", "diagonal", "exclude"):
        return
    if isinstance(missing_distance, str) or not 0 <= missing_distance < math.inf:
        raise ValueError(
            "missing_distance must be 'inf', 'diagonal', 'exclude' or a finite number that is "
            f"not negative; got {missing_distance!r}."
        )


def overlap(counts: np.ndarray, kind: str) -> np.ndarray:
    """A score of counts ``[..., 4]`` (tp, fp, fn, tn) in float64; NaN where it is 0/0."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return POOLED[kind](tp, fp, fn, tn)


def mean_of(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis without NaN; NaN where all are."""
    number = (~np.isnan(values)).sum(0)
    return _divide(np.where(np.isnan(values), 0, values).sum(0), number.astype(np.float64))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    quotient = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)


def _unit(records: Sequence[Record], metrics: Sequence[Metric]) -> str:
    """The unit of all cases; no matter which, if no metric has a unit."""
    cases: dict[str, list[str]] = {}
    for record in records:
        cases.setdefault(record.unit, []).append(record.case)
    if len(cases) > 1 and any(len({m.column(unit) for unit in cases}) > 1 for m in metrics):
        which = "; ".join(
            f"{unit}: {_some(sorted(names))}" for unit, names in sorted(cases.items())
        )
        raise ValueError(
            "The cases have different units, so that their distances and volumes cannot stand in "
            f"one table. Give the spacing of all, or score them apart: {which}."
        )
    return min(cases, default="px")


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _values(record: Record, targets: Sequence[Target], metric: Metric) -> list[float]:
    values = record.values.get(metric.name, [])
    if len(values) != len(targets) or len(record.counts) != len(targets):
        raise ValueError(
            f"The record of {record.case} has {len(values)} values of {metric.name} and "
            f"{len(record.counts)} counts for {len(targets)} classes: it is of another evaluation."
        )
    return values


def _table(
    records: Sequence[Record], targets: Sequence[Target], metric: Metric
) -> np.ndarray:  # [cases, C]
    table = [_values(record, targets, metric) for record in records]
    return np.array(table, np.float64).reshape(len(records), len(targets))


def policies(
    values: np.ndarray,
    records: Sequence[Record],
    metric: Metric,
    missing_distance: MissingDistance,
) -> list[tuple[str, np.ndarray]]:
    """Each policy, and ``values [cases, classes]`` as they count under it; NaN does not count."""
    if not (metric.is_distance or metric.kind == "relative-volume"):
        return [("all", values)]
    infinite = np.isinf(values)
    detected = ("detected", np.where(infinite, np.nan, values))
    if missing_distance == "exclude":
        return [detected]
    penalty: float | np.ndarray = math.inf
    if metric.is_distance and missing_distance == "diagonal":
        diagonals = [math.hypot(*(n * s for n, s in zip(r.shape, r.spacing))) for r in records]
        penalty = np.array(diagonals, np.float64).reshape(-1, 1)
    elif metric.is_distance:
        penalty = float(missing_distance)
    return [detected, ("penalty", np.where(infinite, penalty, values))]


def _groups(records: Sequence[Record]) -> list[str] | None:
    """The group of each case, which is the case itself where it has none."""
    if not any(record.group for record in records):
        return None
    return [record.group or record.case for record in records]


class _Intervals(NamedTuple):
    """The intervals of many columns at once; None everywhere if there are no resamples."""

    groups: list[str] | None
    level: float
    resamples: int
    seed: int

    def of_cases(self, series: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each ``[cases, C]``: ``[C + 1, 4]``, the ends of the mean's and of the median's."""
        if not self.resamples or not series:
            return [_none(values.shape[1] + 1, 4) for values in series]
        from jaxseg.evaluation._intervals import intervals

        stacked = np.stack(series, 1)  # [cases, series, C]
        mean, median = (
            intervals(stacked, statistic=statistic, macro=True, **self._asdict())
            for statistic in ("mean", "median")
        )
        return list(np.moveaxis(np.concatenate([mean, median]), 0, -1))

    def of_pooled(self, metrics: Sequence[Metric], counts: np.ndarray) -> dict[Metric, np.ndarray]:
        """Of each metric: ``[C + 1, 2]``, the ends of the pooled score's interval."""
        if not self.resamples:
            return {metric: _none(counts.shape[1] + 1, 2) for metric in metrics}
        import jaxseg
        from jaxseg.evaluation._intervals import pooled_intervals

        return {
            metric: pooled_intervals(
                counts, getattr(jaxseg, metric.kind), macro=True, **self._asdict()
            ).T
            for metric in metrics
        }


def _none(*shape: int) -> np.ndarray:
    return np.full(shape, None, object)


def _missed(counts: np.ndarray) -> np.ndarray:
    """``[C + 1, 2]``: in how many cases a class is true and not predicted, and the reverse."""
    truth, prediction = counts[..., 0] + counts[..., 2], counts[..., 0] + counts[..., 1]
    missed = ((truth > 0) & (prediction == 0)).sum(0)
    spurious = ((truth == 0) & (prediction > 0)).sum(0)
    return _with_sum(np.stack([missed, spurious], -1))


def _case_rows(
    head: tuple[str, ...],
    values: np.ndarray,
    counted: np.ndarray,
    ends: np.ndarray,
    missed: np.ndarray,
) -> list[SummaryRow]:
    quartiles = [_quantile(counted, q) for q in (0.5, 0.25, 0.75)]
    statistics = np.stack([mean_of(counted), *quartiles], -1)  # [C, 4]
    statistics = np.concatenate([statistics, mean_of(statistics)[None]])
    numbers = _with_sum(
        np.stack(
            [(~np.isnan(counted)).sum(0), np.isinf(values).sum(0), np.isnan(values).sum(0)], -1
        )
    )
    return [
        (
            *head,
            *of.tolist(),
            *end.tolist(),
            None,
            None,
            None,
            n,
            *miss.tolist(),
            infinite,
            undefined,
        )
        for of, end, (n, infinite, undefined), miss in zip(
            statistics, ends, numbers.tolist(), missed, strict=True
        )
    ]


def _pooled_rows(
    head: tuple[str, ...],
    metric: Metric,
    counts: np.ndarray,
    ends: np.ndarray,
    missed: np.ndarray,
) -> list[SummaryRow]:
    scores = overlap(counts.sum(0), metric.kind)  # [C]
    scores = np.append(scores, mean_of(scores))
    number = _with_sum(np.full((counts.shape[1], 1), len(counts)))
    return [
        (*head, *[None] * 8, score, *end.tolist(), *n.tolist(), *miss.tolist(), 0, 0)
        for score, end, n, miss in zip(scores.tolist(), ends, number, missed, strict=True)
    ]


def _with_sum(numbers: np.ndarray) -> np.ndarray:
    """Numbers ``[C, ...]``, and their sum over the classes last."""
    return np.concatenate([numbers, numbers.sum(0, keepdims=True)])


def _quantile(values: np.ndarray, quantile: float) -> np.ndarray:
    """Of each column, between its two nearest values, as NumPy's; without NaN, but with inf."""
    result = np.full(values.shape[1], np.nan)
    for column, of in enumerate(values.T):
        ordered = np.sort(of[~np.isnan(of)])
        if len(ordered):
            place = quantile * (len(ordered) - 1)
            low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
            part = place - math.floor(place)
            result[column] = low if low == high or part == 0 else low + (high - low) * part
    return result


def _columns(names: Sequence[str], rows: Sequence[SummaryRow]) -> Columns:
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
