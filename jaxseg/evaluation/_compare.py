"""Methods compared on the same cases: paired differences, tests and rankings with their stability.

Everything is computed from tables of cases. All metrics, classes and pairs share their resamples,
so that what the methods have in common, such as a hard case, is in both of what is compared.
"""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxseg.evaluation._metrics import DISTANCE, OTHER, Metric
from jaxseg.evaluation._records import Columns
from jaxseg.evaluation._results import csv_text, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MACRO = "macro"  # the class that is the mean over the classes
_BLUE = "#1f5fa8"
RANKINGS = ("mean-then-rank", "rank-then-mean", "test-then-rank")

# The metrics of which larger values are not better, by their columns.
_OTHERWISE = {
    metric.column(unit): metric
    for metric in (Metric(kind, kind, None) for kind in (*DISTANCE, *OTHER))
    for unit in ("mm", "px")
    if not metric.higher_is_better
}


class Comparison(NamedTuple):
    """What ``compare`` returns: three tables, and what is to be said with them.

    - ``means``: per metric, class and method the mean with its interval; of distances also the mean
      over detected objects, and how many were missed.
    - ``rankings``: per metric, class, ranking and method the rank, and how stable it is.
    - ``differences``: per metric, class and pair of methods the mean paired difference with its
      interval, and the p-value of Wilcoxon's test before and after Holm's correction.

    Its ``repr`` is a text with the most important of them.
    """

    means: Columns
    rankings: Columns
    differences: Columns
    notes: list[str]
    level: float

    def __repr__(self) -> str:
        return self.text()

    def text(self, *, all_classes: bool = False) -> str:
        """The tables as text, of the mean over the classes or of all classes."""
        blocks = []
        for metric in dict.fromkeys(self.means["metric"]):
            classes = list(dict.fromkeys(_rows(self.means, metric=metric)["class"]))
            for label in classes if all_classes else classes[-1:]:
                blocks.append(self._block(metric, label))
        notes = "\n".join(f"Note: {note}" for note in self.notes)
        return "\n\n".join([*blocks, notes] if notes else blocks) + "\n"

    def _block(self, metric: str, label: str) -> str:
        means = _rows(self.means, **{"metric": metric, "class": label})
        ranks = {
            name: _rows(self.rankings, **{"metric": metric, "class": label, "ranking": name})
            for name in RANKINGS
        }
        by_mean, by_rank, by_test = (ranks[name] for name in RANKINGS)
        percent = f"{100 * self.level:g} %"
        is_distance = any(x != "" for x in means["n_missed"])
        table = {
            "method": means["method"],
            "n": means["n"],
            "mean": means["mean"],
            percent: _ranges(means),
            **({"missed": means["n_missed"]} if is_distance else {}),
            **({"mean of detected": means["mean_detected"]} if is_distance else {}),
            "rank": by_mean["rank"],
            "P(rank 1)": by_mean["p_rank_1"],
            "rank by ranks": by_rank["rank"],
            "rank by tests": by_test["rank"],
        }
        order = np.argsort([math.inf if r == "" else r for r in table["rank"]], kind="stable")
        table = {name: [column[i] for i in order] for name, column in table.items()}
        pairs = _rows(self.differences, **{"metric": metric, "class": label})
        tests = {
            "difference": [f"{a} - {b}" for a, b in zip(pairs["a"], pairs["b"], strict=True)],
            "n": pairs["n"],
            "mean": pairs["difference"],
            percent: _ranges(pairs),
            "p": pairs["p"],
            "p (Holm)": pairs["p_holm"],
        }
        better = "lower is better" if metric in _OTHERWISE else "higher is better"
        taus = ", ".join(f"{_text(x['kendall_tau'][0])} ({n})" for n, x in list(ranks.items())[:2])
        title = f"{metric}, {label} ({better})"
        return "\n".join(
            [title, "=" * len(title), _grid(table), f"Kendall's tau: {taus}", "", _grid(tests)]
        )

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write ``means.csv``, ``rankings.csv``, ``differences.csv``, ``compare.txt`` and its plot.

        Each file is written whole or not at all.
        """
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        for name in ("means", "rankings", "differences"):
            write_atomically(out / f"{name}.csv", csv_text(getattr(self, name)))
        write_atomically(out / "compare.txt", self.text(all_classes=True))
        self.plot(out / "compare.png")

    def plot(self, path: str | os.PathLike[str], *, label: str | None = None) -> None:
        """Draw differences and stability of ranks of one class: by default, of their mean.

        Args:
          path: a file whose name ends in ``.png``, ``.svg`` or ``.pdf``.
          label: the name of the class.
        """
        file = Path(path)
        picture = io.BytesIO()
        _figure(self, label).savefig(picture, format=file.suffix[1:], dpi=150)
        write_atomically(file, picture.getvalue())


def read_cases(path: str | os.PathLike[str]) -> Columns:
    """The table of a ``cases.csv``: its values are floats, and its numbers of pixels integers.

    Raises:
      ValueError: the file is no such table.
    """
    file = Path(path)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            rows = list(reader)
            names = list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no table of cases: {error}.") from None
    missing = [name for name in ("case", "class", "metric", "value") if name not in names]
    if missing:
        raise ValueError(
            f"{file} is no table of cases: it has no column {', '.join(missing)}. Give the"
            f" cases.csv that jaxseg evaluate wrote."
        )
    table: Columns = {name: [row[name] for row in rows] for name in names}
    for index, row in enumerate(rows):
        try:
            if None in row or None in row.values():
                raise ValueError(f"it has not {len(names)} fields")
            table["value"][index] = float(row["value"] or "nan")
            for name in {"n_truth", "n_prediction"} & set(names):
                table[name][index] = int(row[name]) if row[name] else None
        except ValueError as error:
            raise ValueError(f"{file}: row {index + 2} is no row of a table: {error}.") from None
    return table


def compare(
    tables: Mapping[str, Columns],
    metrics: Sequence[str] | None = None,
    *,
    penalty: float | None = None,
    resamples: int | np.ndarray = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare methods on the cases that all of them have.

    Args:
      tables: the cases of each method, by its name, as ``read_cases`` returns them.
      metrics: names in the column ``metric``; ``None`` for those that are in all tables.
      penalty: the distance that a missed object counts as: one of two masks is empty. ``None`` for
        what the table has, and where that is not finite, the largest finite distance of that class
        in all tables.
      resamples: how many, or how often each draws each group, as in ``intervals``.
      level: of confidence; tests are significant at ``1 - level``.
      seed: of the random numbers.

    Returns:
      A ``Comparison``.

    Raises:
      ValueError: fewer than two tables, no case or metric in common, or tables that contradict
        each other.
    """
    from jaxseg.evaluation._intervals import check_level

    check_level(level)
    if penalty is not None and not penalty >= 0:
        raise ValueError(f"penalty must be a distance, 0 or more; got {penalty}.")
    if len(tables) < 2:
        raise ValueError(f"compare takes at least two tables, got {len(tables)}.")
    methods = list(tables)
    notes: list[str] = []
    names = _metric_names(tables, metrics, notes)
    groups = _groups(tables, notes)
    result = Comparison(_columns(MEANS), _columns(RANKS), _columns(DIFFERENCES), notes, level)
    for name in names:
        one = _gather(tables, name, groups, penalty)
        _compare_one(result, methods, one, list(groups.values()), resamples, seed)
    _say_few(result, len(set(groups.values())))
    return result


# ------------------------------------------------------------------------------------------- tables

MEANS = ["metric", "class", "method", "n", "n_groups", "n_missed", "mean", "low", "high"]
MEANS += ["mean_detected", "low_detected", "high_detected"]
RANKS = ["metric", "class", "ranking", "method", "score", "rank", "p_rank_1", "mean_rank"]
RANKS += ["rank_low", "rank_high", "kendall_tau"]
DIFFERENCES = ["metric", "class", "a", "b", "n", "n_groups", "difference", "low", "high"]
DIFFERENCES += ["p", "p_holm"]


def _columns(names: list[str]) -> Columns:
    return {name: [] for name in names}


def _append(table: Columns, *row: object) -> None:
    for column, value in zip(table.values(), row, strict=True):
        value = value.item() if isinstance(value, np.generic) else value
        column.append("" if isinstance(value, float) and math.isnan(value) else value)


def _rows(table: Columns, **wanted: str) -> Columns:
    """The rows that have these values."""
    keep = [
        i
        for i in range(len(table["metric"]))
        if all(table[name][i] == value for name, value in wanted.items())
    ]
    return {name: [column[i] for i in keep] for name, column in table.items()}


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ranges(table: Columns) -> list[str]:
    return [f"{_text(a)} to {_text(b)}" for a, b in zip(table["low"], table["high"], strict=True)]


def _grid(table: Columns) -> str:
    """Columns side by side: words to the left, numbers to the right."""
    cells = [[name, *(_text(x) for x in column)] for name, column in table.items()]
    widths = [max(map(len, column)) for column in cells]
    lines = []
    for row in zip(*cells, strict=True):
        first = row[0].ljust(widths[0])
        rest = (x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def _import(module: str, need: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f'{need}: pip install "jaxseg[evaluate]"') from None


# ------------------------------------------------------------------- what the tables have in common


def _metric_names(
    tables: Mapping[str, Columns], metrics: Sequence[str] | None, notes: list[str]
) -> list[str]:
    each = [list(dict.fromkeys(table["metric"])) for table in tables.values()]
    known = list(dict.fromkeys(itertools.chain(*each)))
    common = [name for name in known if all(name in names for names in each)]
    if metrics is None:
        if left := [name for name in known if name not in common]:
            notes.append(
                f"Metrics that are left out, since not all tables have them: {', '.join(left)}."
            )
        if not common:
            raise ValueError(f"The tables have no metric in common: they have {', '.join(known)}.")
        return common
    if absent := [name for name in metrics if name not in common]:
        raise ValueError(
            f"Metrics that are not in all tables: {', '.join(absent)}. They share:"
            f" {', '.join(common) or 'none'}."
        )
    return list(dict.fromkeys(metrics))


def _groups(tables: Mapping[str, Columns], notes: list[str]) -> dict[str, str]:
    """The group of each case that all tables have, in the order of their names."""
    of: dict[str, str] = {}
    each = []
    for method, table in tables.items():
        groups = table.get("group") or [""] * len(table["case"])
        for case, group in dict.fromkeys(zip(table["case"], groups, strict=True)):
            if of.setdefault(case, group) != group:
                raise ValueError(
                    f"The case {case} is of the group {of[case]!r} in one table, and of {group!r}"
                    f" in that of {method}: evaluate both with the same --group."
                )
        each.append(set(table["case"]))
    common = set.intersection(*each)
    if not common:
        raise ValueError(f"No case is in all of the tables of {', '.join(tables)}.")
    for method, cases in zip(tables, each, strict=True):
        if missing := sorted(set(of) - cases):
            first = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            notes.append(
                f"The table of {method} lacks {len(missing)} of {len(of)} cases, which are left"
                f" out: {first}."
            )
    return {case: of[case] or case for case in sorted(common)}


class _Values(NamedTuple):
    """One metric of the common cases; arrays are ``[cases, methods, classes]``."""

    metric: str
    classes: list[str]
    values: np.ndarray  # with the penalty for missed objects
    raw: np.ndarray  # inf for them
    missed: np.ndarray
    present: np.ndarray  # the table has the row

    @property
    def is_distance(self) -> bool:
        return self.metric in _OTHERWISE and _OTHERWISE[self.metric].is_distance

    @property
    def sign(self) -> int:
        """1 if larger values are better, or -1."""
        return -1 if self.metric in _OTHERWISE else 1


def _gather(
    tables: Mapping[str, Columns], metric: str, groups: Mapping[str, str], penalty: float | None
) -> _Values:
    case_index = {case: i for i, case in enumerate(groups)}
    rows = [
        (case_index[case], method, label, value, truth, prediction)
        for method, table in enumerate(tables.values())
        for case, label, name, value, truth, prediction in zip(
            table["case"],
            table["class"],
            table["metric"],
            table["value"],
            table.get("n_truth") or [None] * len(table["case"]),
            table.get("n_prediction") or [None] * len(table["case"]),
            strict=True,
        )
        if name == metric and case in case_index
    ]
    classes = list(dict.fromkeys(row[2] for row in rows))
    class_index = {label: i for i, label in enumerate(classes)}
    raw = np.full((len(groups), len(tables), len(classes)), np.nan)
    missed = np.zeros(raw.shape, bool)
    present = np.zeros(raw.shape, bool)
    for case, method, label, value, truth, prediction in rows:
        place = case, method, class_index[label]
        if present[place]:
            raise ValueError(
                f"The table of {list(tables)[method]} has {metric} of the class {label} in the case"
                f" {list(groups)[case]} twice."
            )
        present[place] = True
        raw[place] = float("nan" if value in ("", None) else value)
        if truth is not None and prediction is not None:
            missed[place] = (truth > 0) != (prediction > 0)
    one = _Values(metric, classes, raw, raw, missed, present)
    if one.is_distance:
        return _penalized(one, penalty)
    raw = np.abs(raw) if one.sign < 0 else raw  # of volumes the nearest to 0 is best
    return one._replace(values=raw, raw=raw, missed=np.zeros(raw.shape, bool))


def _penalized(one: _Values, penalty: float | None) -> _Values:
    missed = one.missed | np.isinf(one.raw)
    detected = np.where(missed | np.isnan(one.raw), -np.inf, one.raw)
    if penalty is None:
        largest = detected.max((0, 1))
        largest = np.where(np.isinf(largest), np.inf, largest)  # all were missed
        values = np.where(missed & ~np.isfinite(one.raw), largest, one.raw)
    else:
        values = np.where(missed, penalty, one.raw)
    return one._replace(values=values, raw=np.where(missed, np.inf, one.raw), missed=missed)


# --------------------------------------------------------------------------------------- statistics


def _compare_one(
    result: Comparison,
    methods: list[str],
    one: _Values,
    groups: list[str],
    resamples: int | np.ndarray,
    seed: int,
) -> None:
    """Append the rows of one metric to the tables of ``result``."""
    from jaxseg.evaluation._intervals import bootstrap, ends

    pairs = list(itertools.combinations(range(len(methods)), 2))
    all_have = ~np.isnan(one.values).any(1, keepdims=True)
    _say_left_out(result.notes, methods, one)

    means = np.where(all_have, one.values, np.nan)
    detected = np.where(all_have & ~one.missed, one.values, np.nan)
    ranks = np.where(all_have, _rank(one.sign * one.raw, axis=1), np.nan)
    with np.errstate(invalid="ignore"):  # inf - inf
        differences = np.stack([one.values[:, a] - one.values[:, b] for a, b in pairs], 1)
    columns = np.concatenate([means, detected, ranks, differences], 1)
    macro = len(one.classes) > 1 and MACRO not in one.classes
    labels = [*one.classes, MACRO] if macro else one.classes

    observed = _group_means(columns, [""] * len(groups), macro)[0]
    drawn = bootstrap(columns, groups, "mean", resamples, seed, macro)
    interval = ends(drawn, result.level)
    parts = np.split(np.arange(columns.shape[1]), np.arange(1, 4) * len(methods))
    at_mean, at_detected, at_rank, at_difference = parts
    number, number_of_groups = _numbers(columns, groups, macro)
    size = np.abs(one.values[np.isfinite(one.values)]).max(initial=0)
    p, better = _tests(differences, groups, macro, size)
    missed = _summed((one.missed & all_have).sum(0), macro)

    for k, label in enumerate(labels):
        for i, method in enumerate(methods):
            a, b = at_mean[i], at_detected[i]
            more = [observed[b, k], *interval[:, b, k]] if one.is_distance else [""] * 3
            count = missed[i, k] if one.is_distance else ""
            numbers = number[a, k], number_of_groups[a, k], count
            row = [*numbers, observed[a, k], *interval[:, a, k], *more]
            _append(result.means, one.metric, label, method, *row)

        adjusted = _holm(p[:, k])
        for i, (a, b) in enumerate(pairs):
            j = at_difference[i]
            row = [number[j, k], number_of_groups[j, k], observed[j, k], *interval[:, j, k]]
            names = methods[a], methods[b]
            _append(result.differences, one.metric, label, *names, *row, p[i, k], adjusted[i])

        wins = np.zeros(len(methods))
        for (a, b), value, sign in zip(pairs, adjusted, one.sign * better[:, k], strict=True):
            if value < 1 - result.level and sign:
                wins[a if sign > 0 else b] += 1
        if not number[at_mean[0], k]:
            wins[:] = np.nan
        schemes = [
            (observed[at_mean, k], one.sign, drawn[:, at_mean, k]),
            (observed[at_rank, k], -1, drawn[:, at_rank, k]),
            (wins, 1, np.full((1, len(methods)), np.nan)),  # tests are not resampled
        ]
        for name, (score, sign, resampled) in zip(RANKINGS, schemes, strict=True):
            rank = _rank(sign * score, axis=0)
            stable = _stability(rank, _rank(sign * resampled, axis=1), result.level)
            for i, method in enumerate(methods):
                place = rank[i] if np.isnan(rank[i]) else int(rank[i])
                row = [score[i], place, *(x[i] for x in stable)]
                _append(result.rankings, one.metric, label, name, method, *row)

        if one.is_distance:
            scores = observed[at_mean, k], observed[at_detected, k], missed[:, k]
            _say_policies(result.notes, methods, one.metric, label, *scores)


def _rank(scores: np.ndarray, axis: int) -> np.ndarray:
    """Ranks along an axis: 1 is the largest score, and ties have the smallest of their ranks.

    Scores are equal that differ by what may be rounding in float32. NaN has the last rank; if all
    are NaN, all ranks are NaN.
    """
    x = np.moveaxis(np.asarray(scores, float), axis, -1)
    none = np.isnan(x).all(-1, keepdims=True)
    size = np.abs(np.where(np.isfinite(x), x, 0)).max(-1, keepdims=True)
    x = np.where(np.isnan(x), -np.inf, x)
    margin = (x + 3e-7 * size)[..., :, None]
    rank = 1.0 + (x[..., None, :] > margin).sum(-1)
    return np.moveaxis(np.where(none, np.nan, rank), -1, axis)


def _stability(rank: np.ndarray, drawn: np.ndarray, level: float) -> list[np.ndarray]:
    """P(rank 1), mean rank, its range, and Kendall's tau-b with ``rank``, of ranks of resamples."""
    from jaxseg.evaluation._intervals import ends

    drawn = drawn[~np.isnan(drawn).any(1)]
    if not len(drawn) or np.isnan(rank).any():
        return [np.full(len(rank), np.nan)] * 5
    a, b = np.triu_indices(len(rank), 1)
    here = np.sign(rank[a] - rank[b])
    there = np.sign(drawn[:, a] - drawn[:, b])
    root = np.sqrt((here**2).sum() * (there**2).sum(1))
    tau = (there @ here)[root > 0] / root[root > 0]
    mean = np.full(len(rank), tau.mean() if len(tau) else np.nan)
    return [(drawn == 1).mean(0), drawn.mean(0), *ends(drawn, level), mean]


def _summed(counts: np.ndarray, macro: bool) -> np.ndarray:
    """With the sum over the classes as the last, if ``macro``."""
    return np.concatenate([counts, counts.sum(-1, keepdims=True)], -1) if macro else counts


def _numbers(columns: np.ndarray, groups: list[str], macro: bool) -> tuple[np.ndarray, np.ndarray]:
    """How many cases, and how many groups, have a value; with ``macro``, in any class."""
    valid = ~np.isnan(columns)
    if macro:
        valid = np.concatenate([valid, valid.any(-1, keepdims=True)], -1)
    _, place = np.unique(groups, return_inverse=True)
    by_group = np.zeros((place.max() + 1, *valid.shape[1:]), bool)
    np.logical_or.at(by_group, place, valid)
    return valid.sum(0), by_group.sum(0)


def _group_means(values: np.ndarray, groups: list[str], macro: bool) -> np.ndarray:
    """Means over the cases of each group, ``[groups, ...]``; NaN without a value.

    With ``macro`` the mean over the classes is the last of them.
    """
    _, place = np.unique(groups, return_inverse=True)
    valid = ~np.isnan(values)
    total = np.zeros((place.max() + 1, *values.shape[1:]))
    number = total.copy()
    np.add.at(total, place, np.where(valid, values, 0))
    np.add.at(number, place, valid)
    means = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    if not macro:
        return means
    valid = ~np.isnan(means)
    mean = np.where(valid, means, 0).sum(-1) / np.maximum(valid.sum(-1), 1)
    return np.concatenate([means, np.where(valid.any(-1), mean, np.nan)[..., None]], -1)


def _tests(
    differences: np.ndarray, groups: list[str], macro: bool, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Wilcoxon's signed-rank test of the groups' mean differences, of values up to ``size``.

    Differences are ``[cases, pairs, classes]``. Returns p-values, and 1 where the positive
    differences have the larger sum of ranks, or -1.
    """
    stats = _import("scipy.stats", "Wilcoxon's test needs SciPy")
    means = _group_means(differences, groups, macro)
    p = np.full(means.shape[1:], np.nan)
    better = np.zeros(means.shape[1:])
    for place in np.ndindex(*p.shape):
        values = means[(slice(None), *place)]
        values = values[~np.isnan(values)]
        values = np.round(values / (size or 1), 12)  # equal but for rounding is equal
        moved = values[values != 0]
        if len(moved):
            p[place] = stats.wilcoxon(moved).pvalue
            better[place] = np.sign((stats.rankdata(np.abs(moved)) * np.sign(moved)).sum())
        elif len(values):
            p[place] = 1.0
    return p, better


def _holm(p: np.ndarray) -> np.ndarray:
    """P-values corrected by Holm's method; NaN is no test."""
    valid = np.flatnonzero(~np.isnan(p))
    order = valid[np.argsort(p[valid], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return corrected


# -------------------------------------------------------------------------------------------- notes


def _say_left_out(notes: list[str], methods: list[str], one: _Values) -> None:
    if not one.present.all():
        where = np.argwhere(~one.present.all(0))
        names = sorted({f"{one.classes[c]} of {methods[m]}" for m, c in where})
        notes.append(f"{one.metric}: rows are missing for {', '.join(names)}.")
    has = ~np.isnan(one.values)
    some = (has.any(1) & ~has.all(1) & one.present.all(1)).sum(0)
    for label, number in zip(one.classes, some, strict=True):
        if number:
            notes.append(
                f"{one.metric} of {label}: cases that are left out, in which not all methods have"
                f" a value: {number}."
            )


def _say_few(result: Comparison, number: int) -> None:
    from jaxseg.evaluation._intervals import FEW, few

    columns = zip(*(result.means[x] for x in ("metric", "class", "n_groups")), strict=True)
    where = list(dict.fromkeys(f"{name} of {label}" for name, label, n in columns if few(n)))
    if few(number):
        where = ["everywhere"]
    if where:
        some = ", ".join(where[:5]) + (", …" if len(where) > 5 else "")
        result.notes.append(
            f"Intervals cover less than they say where fewer than {FEW} groups (cases, if there are"
            f" no groups) have a value: {some}."
        )


def _say_policies(
    notes: list[str],
    methods: list[str],
    metric: str,
    label: str,
    means: np.ndarray,
    detected: np.ndarray,
    missed: np.ndarray,
) -> None:
    """Say so where the order of two methods depends on what a missed object counts."""
    for a, b in itertools.combinations(range(len(methods)), 2):
        infinite = np.where(missed > 0, np.inf, means)
        policies = {
            "without missed objects": detected,
            "with their penalty": means,
            "with an infinite distance": infinite,
        }
        said = {-1: "", 1: ""}
        for words, values in policies.items():
            x, y = values[[a, b]]
            order = 0 if np.isnan(x) or np.isnan(y) or x == y else (-1 if x < y else 1)
            if order and not said[order]:
                said[order] = f"{words} ({_text(float(x))} and {_text(float(y))})"
        if said[-1] and said[1]:
            x, y = methods[a], methods[b]
            notes.append(
                f"{metric} of {label}: the order of {x} and {y} depends on what missed objects"
                f" ({missed[a]} and {missed[b]}) count: {x} is better {said[-1]}, and {y} is better"
                f" {said[1]}. Report both."
            )


# ------------------------------------------------------------------------------------------ picture


def _figure(comparison: Comparison, label: str | None) -> Figure:
    figures = _import("matplotlib.figure", "The plot needs matplotlib")
    metrics = list(dict.fromkeys(comparison.means["metric"]))
    methods = list(dict.fromkeys(comparison.means["method"]))
    pairs = len(methods) * (len(methods) - 1) // 2
    height = 1.45 + 0.25 * max(pairs, len(methods), 2)
    figure = figures.Figure(figsize=(10, height * len(metrics) + 0.3), layout="constrained")
    for row, metric in zip(figure.subplots(len(metrics), 2, squeeze=False), metrics, strict=True):
        classes = list(dict.fromkeys(_rows(comparison.means, metric=metric)["class"]))
        chosen = label if label is not None else classes[-1]
        if chosen not in classes:
            raise ValueError(f"{metric} has no class {chosen!r}, only {', '.join(classes)}.")
        wanted = {"metric": metric, "class": chosen}
        name = metric if len(classes) == 1 else f"{metric}, {chosen}"
        _draw_differences(row[0], name, _rows(comparison.differences, **wanted), comparison.level)
        ranking = {"ranking": RANKINGS[0]}
        _draw_ranks(row[1], name, _rows(comparison.rankings, **wanted, **ranking), comparison.level)
    return figure


def _draw_differences(axes: Axes, name: str, table: Columns, level: float) -> None:
    columns = ("difference", "low", "high")
    for i, (mean, low, high) in enumerate(zip(*(table[x] for x in columns), strict=True)):
        if all(x != "" and math.isfinite(x) for x in (mean, low, high)):
            colour = _BLUE if low > 0 or high < 0 else "0.55"
            axes.plot([low, high], [i, i], color=colour, linewidth=2)
            axes.plot([mean], [i], "o", color=colour, markersize=5)
    names = [f"{a} - {b}" for a, b in zip(table["a"], table["b"], strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    better = "below" if table["metric"][0] in _OTHERWISE else "above"
    axes.set_xlabel(f"{better} 0 the first is better", fontsize=8)
    _style(axes, f"{name}\ndifferences, {100 * level:g} % intervals")


def _draw_ranks(axes: Axes, name: str, table: Columns, level: float) -> None:
    columns = ("method", "rank", "p_rank_1", "rank_low", "rank_high")
    rows = [row for row in zip(*(table[x] for x in columns), strict=True) if "" not in row]
    rows.sort(key=lambda row: row[1])
    for i, (_, rank, chance, low, high) in enumerate(rows):
        axes.barh(i, chance, height=0.6, color=_BLUE)
        words = f"{100 * chance:.0f} %; rank {rank} ({low:g} to {high:g})"
        axes.text(chance + 0.015, i, words, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.set(xlim=(0, 1.6), ylim=(max(len(rows), 1) - 0.4, -0.6))
    axes.set_xlabel(f"of the resamples; {100 * level:g} % of its ranks in parentheses", fontsize=8)
    _style(axes, f"{name}\nhow often a method is first")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
