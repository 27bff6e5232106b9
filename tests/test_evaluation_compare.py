"""Comparisons of methods: against NumPy, SciPy, and tables that are made for one thing each."""

import csv
import os
import sys

import numpy as np
import pytest
import scipy.stats

from jaxseg.evaluation import _compare
from jaxseg.evaluation._compare import compare, read_cases
from jaxseg.evaluation._intervals import intervals

NAMES = ("case", "group", "class", "metric", "value", "n_truth", "n_prediction")
QUICK = 200  # resamples


def table(values, *, metric="dice", classes=("a",), cases=None, groups=None, missed=None):
    """A table of ``values`` ``[cases, classes]``; ``missed`` says where the prediction is empty."""
    array = np.asarray(values, float).reshape(len(values), -1)
    cases = cases or [f"case{i:02}" for i in range(len(array))]
    groups = groups or [""] * len(array)
    missed = np.zeros(array.shape, bool) if missed is None else np.reshape(missed, array.shape)
    rows = [
        (case, group, label, metric, value.item(), 50, 0 if gone else 40)
        for case, group, *row in zip(cases, groups, array, missed, strict=True)
        for label, value, gone in zip(classes, *row, strict=True)
    ]
    return dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))


def together(*tables):
    return {name: [x for t in tables for x in t[name]] for name in NAMES}


def rows(columns, **wanted):
    """Rows as dicts; ``label`` is the class."""
    wanted = {"class" if name == "label" else name: value for name, value in wanted.items()}
    every = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [row for row in every if all(row[name] == value for name, value in wanted.items())]


def ranks(result, ranking, label="a", column="rank"):
    found = rows(result.rankings, ranking=ranking, label=label)
    return {row["method"]: row[column] for row in found}


def made(number=25, seed=0):
    """Three methods on the same cases, of two classes."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.15, (number, 1))
    return {
        name: table(np.clip(mean + hard + rng.normal(0, 0.05, (number, 2)), 0, 1), classes="ab")
        for name, mean in (("A", 0.7), ("B", 0.72), ("C", 0.6))
    }


def values_of(columns, label="a"):
    return np.array([row["value"] for row in rows(columns, label=label)])


# -------------------------------------------------------------------------- differences and tests


def test_differences_are_paired() -> None:
    """By NumPy, SciPy and ``intervals``: much narrower than those of the methods themselves."""
    tables = made()
    result = compare(tables, resamples=QUICK)
    for a, b in ("AB", "AC", "BC"):
        each = [values_of(tables[a], x) - values_of(tables[b], x) for x in "ab"]
        for label, difference in zip("ab", each, strict=True):
            (row,) = rows(result.differences, a=a, b=b, label=label)
            assert row["difference"] == pytest.approx(difference.mean(), rel=1e-12)
            want = intervals(difference, resamples=QUICK)
            np.testing.assert_allclose([row["low"], row["high"]], want, atol=1e-7)
            assert row["p"] == pytest.approx(scipy.stats.wilcoxon(difference).pvalue)
            assert row["n"] == row["n_groups"] == 25
        (row,) = rows(result.differences, a=a, b=b, label="macro")
        want = intervals(np.stack(each, 1), resamples=QUICK, macro=True)[:, 2]
        np.testing.assert_allclose([row["low"], row["high"]], want, atol=1e-7)
        assert row["p"] == pytest.approx(scipy.stats.wilcoxon(np.mean(each, 0)).pvalue)
    (mean,) = rows(result.means, method="A", label="a")
    (pair,) = rows(result.differences, a="A", b="B", label="a")
    assert pair["high"] - pair["low"] < 0.7 * (mean["high"] - mean["low"])


def test_holm() -> None:
    """The example of three p-values; a test that was not made does not count."""
    got = _compare._holm(np.array([0.01, 0.04, np.nan, 0.03, 0.9]))
    np.testing.assert_allclose(got, [0.04, 0.09, np.nan, 0.09, 0.9])
    result = compare(made(), resamples=QUICK)
    found = rows(result.differences, label="a")
    p, corrected = (np.array([row[k] for row in found]) for k in ("p", "p_holm"))
    np.testing.assert_allclose(np.sort(corrected)[0], 3 * p.min())
    np.testing.assert_array_equal(corrected, _compare._holm(p))


def test_order_of_the_tables_does_not_matter() -> None:
    tables = made()
    here = compare(tables, resamples=QUICK)
    there = compare(dict(reversed(tables.items())), resamples=QUICK)
    (x,) = rows(here.differences, a="A", b="B", label="macro")
    (y,) = rows(there.differences, a="B", b="A", label="macro")
    assert (x["low"], x["p_holm"]) == pytest.approx((-y["high"], y["p_holm"]))
    for ranking in _compare.RANKINGS:
        assert ranks(here, ranking, "macro") == ranks(there, ranking, "macro")


def test_visits_that_cancel_are_no_difference() -> None:
    """0.1 + 0.2 - 0.3 is 6e-17 in floats, which is no evidence."""
    a, b = [0.1, 0.2, 0.3] * 8, [0.0, 0.0, 0.6] * 8
    groups = [f"p{i // 3}" for i in range(24)]
    result = compare({"A": table(a, groups=groups), "B": table(b, groups=groups)}, resamples=QUICK)
    (row,) = rows(result.differences)
    assert row["p"] == 1 and abs(row["difference"]) < 1e-15
    assert ranks(result, "test-then-rank") == {"A": 1, "B": 1}
    nearly = compare({"A": table([0.3] * 20), "B": table([0.1 + 0.2] * 20)}, resamples=QUICK)
    assert rows(nearly.differences)[0]["p"] == 1


def test_groups_are_the_units_of_tests_and_resamples() -> None:
    """The same visit four times is no more evidence than one."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.8, 0.1, (2, 22))
    once = compare({"A": table(x), "B": table(y)}, resamples=QUICK)
    cases = [f"case{i:02}-{visit}" for i in range(22) for visit in range(4)]
    groups = [case[:6] for case in cases]
    four = {n: table(np.repeat(v, 4), cases=cases, groups=groups) for n, v in zip("AB", (x, y))}
    often = compare(four, resamples=QUICK)
    (a,), (b,) = rows(once.differences), rows(often.differences)
    assert (b["n"], b["n_groups"]) == (88, 22)
    assert [b[k] for k in ("low", "high", "p")] == pytest.approx(
        [a[k] for k in ("low", "high", "p")]
    )


# --------------------------------------------------------------------------------------- rankings


def test_three_rankings_may_differ() -> None:
    """A is best in most cases and fails in one, so that B has the better mean."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.6, 0.7, 24)
    a = base + 0.05
    a[0] = -3.0  # far below
    tables = {"A": table(a), "B": table(base), "C": table(base - 0.02), "D": table(base)}
    result = compare(tables, resamples=QUICK)
    assert ranks(result, "mean-then-rank") == {"A": 4, "B": 1, "C": 3, "D": 1}
    assert ranks(result, "rank-then-mean") == {"A": 1, "B": 2, "C": 4, "D": 2}
    assert ranks(result, "test-then-rank") == {"A": 1, "B": 2, "C": 4, "D": 2}
    wins = ranks(result, "test-then-rank", column="score")
    assert wins == {"A": 3, "B": 1, "C": 0, "D": 1}
    mean_ranks = ranks(result, "rank-then-mean", column="score")
    assert mean_ranks["A"] == pytest.approx((23 + 4) / 24)
    (row,) = rows(result.differences, a="B", b="D")
    assert (row["difference"], row["p"], row["p_holm"]) == (0, 1, 1)


def test_lower_distances_are_better() -> None:
    x = np.linspace(1, 9, 20)
    tables = {n: table(x + k, metric="hd95_max_mm") for n, k in (("A", 1), ("B", 0))}
    result = compare(tables, resamples=QUICK)
    for ranking in _compare.RANKINGS:
        assert ranks(result, ranking) == {"A": 2, "B": 1}
    assert "lower is better" in str(result)


def test_volumes_are_better_near_zero() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=20)
    signed = {"A": 3 * noise, "B": noise - 0.001}
    metric = "volume_difference_mm3"
    result = compare({n: table(v, metric=metric) for n, v in signed.items()}, resamples=QUICK)
    assert ranks(result, "mean-then-rank") == {"A": 2, "B": 1}
    assert result.means["mean"][0] == pytest.approx(np.abs(3 * noise).mean())


def test_stability_of_given_resamples() -> None:
    """Ranks and Kendall's tau-b of each resample, by SciPy."""
    rng = np.random.default_rng(3)
    values = {n: rng.normal(size=10).round(1) for n in "ABCD"}
    weights = rng.multinomial(10, np.full(10, 0.1), 30)
    result = compare({n: table(v) for n, v in values.items()}, resamples=weights)
    array = np.stack(list(values.values()))
    each = np.stack([scipy.stats.rankdata(-(array @ w).round(9), "min") for w in weights])
    observed = scipy.stats.rankdata(-array.sum(1).round(9), "min")
    taus = [scipy.stats.kendalltau(observed, x).statistic for x in each]
    for index, name in enumerate("ABCD"):
        (row,) = rows(result.rankings, ranking="mean-then-rank", method=name)
        assert row["rank"] == observed[index]
        assert row["p_rank_1"] == pytest.approx((each[:, index] == 1).mean())
        assert row["mean_rank"] == pytest.approx(each[:, index].mean())
        assert row["rank_low"] == pytest.approx(np.percentile(each[:, index], 2.5))
        assert row["kendall_tau"] == pytest.approx(np.mean(taus))
    (row,) = rows(result.rankings, ranking="test-then-rank", method="A")
    assert row["p_rank_1"] == row["kendall_tau"] == ""  # tests are not resampled


def test_equal_methods() -> None:
    result = compare({"A": table(np.full(20, 0.9)), "B": table(np.full(20, 0.9))}, resamples=QUICK)
    for ranking in _compare.RANKINGS:
        assert ranks(result, ranking) == {"A": 1, "B": 1}
    assert ranks(result, "mean-then-rank", column="p_rank_1") == {"A": 1, "B": 1}
    assert rows(result.differences)[0]["p"] == 1
    assert ranks(result, "mean-then-rank", column="kendall_tau") == {"A": "", "B": ""}


# ---------------------------------------------------------------------------------- missed objects


def distances(values):
    return table(values, metric="hd95_max_mm")


def test_a_miss_does_not_improve_the_mean() -> None:
    """The mean over detected objects of A is better for its miss; with the penalty it is not."""
    a, b = np.full(20, 3.0), np.full(20, 3.2)
    a[:2] = np.inf
    b[:2] = 4.0
    result = compare({"A": distances(a), "B": distances(b)}, resamples=QUICK)
    row_a, row_b = rows(result.means)
    assert (row_a["n_missed"], row_b["n_missed"]) == (2, 0)
    assert row_a["mean"] == pytest.approx((18 * 3 + 2 * 4) / 20)  # the largest that was seen
    assert row_a["mean_detected"] == 3
    assert ranks(result, "mean-then-rank") == {"A": 1, "B": 2}
    (note,) = (x for x in result.notes if "depends on" in x)
    assert "A is better without missed objects (3 and 3.28)" in note
    assert "B is better with an infinite distance (inf and 3.28)" in note

    strict = compare({"A": distances(a), "B": distances(b)}, resamples=QUICK, penalty=50)
    assert rows(strict.means)[0]["mean"] == pytest.approx((18 * 3 + 2 * 50) / 20)
    assert ranks(strict, "mean-then-rank") == {"A": 2, "B": 1}
    assert any("B is better with their penalty" in x for x in strict.notes)

    endless = compare({"A": distances(a), "B": distances(b)}, resamples=QUICK, penalty=np.inf)
    assert rows(endless.means)[0]["mean"] == rows(endless.means)[0]["high"] == np.inf
    assert rows(endless.differences)[0]["difference"] == np.inf


@pytest.mark.parametrize("policy", [4.0, np.nan, np.inf], ids=["number", "excluded", "inf"])
def test_missed_objects_are_known_by_their_sizes(policy: float) -> None:
    """Whatever distance ``jaxseg evaluate`` was told to give them."""
    a, b = np.full(20, 3.0), np.full(20, 5.0)
    a[0] = policy
    missed = np.arange(20) == 0
    tables = {"A": table(a, metric="hd95_max_mm", missed=missed), "B": distances(b)}
    result = compare(tables, resamples=QUICK, penalty=80)
    row, _ = rows(result.means)
    assert (row["n"], row["n_missed"]) == (20, 1)
    assert row["mean_detected"] == 3 and row["mean"] == pytest.approx((19 * 3 + 80) / 20)
    lenient = compare(tables, resamples=QUICK, penalty=1)  # in its case it is last nevertheless
    assert ranks(lenient, "rank-then-mean", column="score")["A"] == pytest.approx(21 / 20)
    kept = rows(compare(tables, resamples=QUICK).means)[0]["mean"]
    assert kept == pytest.approx((19 * 3 + (4 if policy == 4 else 5)) / 20)


def test_no_policy_is_named_where_none_matters() -> None:
    a, b = np.full(20, 3.0), np.full(20, 5.0)
    b[0] = np.inf
    result = compare({"A": distances(a), "B": distances(b)}, resamples=QUICK)
    assert result.notes == []
    nothing = distances(np.full(20, np.inf))
    result = compare({"A": nothing, "B": nothing}, resamples=QUICK)  # all were missed
    assert rows(result.means)[0]["mean"] == np.inf and result.notes == []


# -------------------------------------------------------------------------------- what is compared


def test_only_common_cases_count() -> None:
    """Cases that a table lacks, and those in which one has no value, are left out and named."""
    a = np.linspace(0.5, 0.9, 25)
    b = a + 0.01
    b[3] = np.nan  # the class is in neither map
    cases = [f"case{i:02}" for i in range(25)]
    tables = {"A": table(a), "B": table(b[:24], cases=cases[:24])}
    result = compare(tables, resamples=QUICK)
    kept = np.delete(a[:24], 3)
    assert [row["n"] for row in rows(result.means)] == [23, 23]
    assert rows(result.means)[0]["mean"] == pytest.approx(kept.mean())
    assert rows(result.differences)[0]["difference"] == pytest.approx(-0.01)
    lacks, undefined = result.notes
    assert lacks == "The table of B lacks 1 of 25 cases, which are left out: case24."
    assert undefined.endswith("in which not all methods have a value: 1.")


def test_notes() -> None:
    few = compare({"A": table([0.5, 0.6]), "B": table([0.7, 0.8])}, resamples=QUICK)
    assert few.notes == [
        "Intervals cover less than they say where fewer than 20 groups (cases, if there are no"
        " groups) have a value: everywhere."
    ]
    rare = table(np.full((20, 2), 0.5), classes="ab")
    rare["value"][1] = np.nan
    some = compare({"A": rare, "B": rare}, resamples=QUICK).notes
    assert some[0].endswith("have a value: dice of b.")
    both = together(table(np.full(20, 0.5)), table(np.full(20, 0.4), metric="iou"))
    more = compare({"A": both, "B": table(np.full(20, 0.6))}, resamples=QUICK)
    assert more.notes == ["Metrics that are left out, since not all tables have them: iou."]
    less = table(np.full((20, 2), 0.5), classes="ab")
    part = compare({"A": less, "B": table(np.full(20, 0.6))}, resamples=QUICK)
    assert "dice: rows are missing for b of B." in part.notes
    assert rows(part.means, label="b")[0]["n"] == 0 and rows(part.means, label="b")[0]["mean"] == ""
    str(part)


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        ({"A": table([1])}, {}, "at least two tables, got 1"),
        ({"A": table([1]), "B": table([1], metric="iou")}, {}, "no metric in common"),
        (
            {"A": table([1]), "B": table([1])},
            {"metrics": ["iou"]},
            "not in all tables: iou.*share: dice",
        ),
        ({"A": table([1]), "B": table([1], cases=["x"])}, {}, "No case is in all"),
        ({"A": table([1], groups="x"), "B": table([1], groups="y")}, {}, "'x' in one.*'y'"),
        ({"A": table([1]), "B": together(table([1]), table([1]))}, {}, "class a.*case00 twice"),
        ({"A": table([1]), "B": table([1])}, {"level": 95}, "between 0 and 1"),
        ({"A": table([1]), "B": table([1])}, {"penalty": -1}, "0 or more; got -1"),
    ],
)
def test_errors(tables, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(tables, **options)


# --------------------------------------------------------------------------------------- the files


def write_cases(path, columns) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def test_read_cases(tmp_path) -> None:
    columns = table([0.1 + 0.2, np.inf, np.nan])
    columns["value"][2] = ""
    columns["n_truth"][2] = ""
    write_cases(tmp_path / "cases.csv", columns)
    got = read_cases(tmp_path / "cases.csv")
    assert got["value"][:2] == [0.1 + 0.2, np.inf] and np.isnan(got["value"][2])
    assert got["n_truth"] == [50, 50, None] and got["case"] == columns["case"]
    text = (tmp_path / "cases.csv").read_text()
    (tmp_path / "excel.csv").write_text(text, encoding="utf-8-sig")
    assert list(read_cases(tmp_path / "excel.csv")) == list(NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column case, class, metric, value"),
        (b"case,class,value\n", "no column metric.*jaxseg evaluate"),
        (b"case,class,metric,value\nx,a,dice,good\n", "row 2 .*'good'"),
        (b"case,class,metric,value\nx,a,dice,0.5\nx,a\n", "row 3 .* 4 fields"),
        (b"case,class,metric,value\nx,a,dice,1,2\n", "row 2 .* 4 fields"),
        (b"case,class,metric,value,n_truth\nx,a,dice,1,2.5\n", "row 2"),
        (b"\xff\xfe\x00case", "no table of cases"),
    ],
)
def test_errors_of_files(content, message: str, tmp_path) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_cases(path)
    assert str(path) in str(error.value)


def test_write(tmp_path) -> None:
    tables = {}
    for name, columns in made().items():
        write_cases(tmp_path / f"{name}.csv", columns)
        tables[name] = read_cases(tmp_path / f"{name}.csv")
    result = compare(tables, resamples=QUICK)
    out = tmp_path / "new" / "out"
    result.write(out)
    files = ["compare.png", "compare.txt", "differences.csv", "means.csv", "rankings.csv"]
    assert sorted(os.listdir(out)) == files
    with (out / "means.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["mean"] == repr(result.means["mean"][0]) and first["n_missed"] == ""
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    once = {name: (out / name).read_bytes() for name in files}
    compare(tables, resamples=QUICK).write(out)
    assert once == {name: (out / name).read_bytes() for name in files}


def test_text() -> None:
    text = str(compare(made(), resamples=QUICK))
    assert text.startswith("dice, macro (higher is better)\n==")
    for words in ("P(rank 1)", "p (Holm)", "Kendall's tau", "A - B", "95 %"):
        assert words in text
    lines = text.splitlines()
    assert [line[0] for line in lines[3:6]] == ["B", "A", "C"]  # by rank
    every = compare(made(), resamples=QUICK).text(all_classes=True)
    assert "dice, a (" in every and "dice, b (" in every


def test_plot(tmp_path) -> None:
    result = compare(made(), resamples=QUICK)
    result.plot(tmp_path / "b.svg", label="b")
    picture = (tmp_path / "b.svg").read_text()
    assert "<svg" in picture and picture.count("<path") > 20
    with pytest.raises(ValueError, match="no class 'z', only a, b, macro"):
        result.plot(tmp_path / "z.png", label="z")
    empty = compare({n: distances(np.full(3, np.inf)) for n in "AB"}, resamples=QUICK, penalty=9)
    empty.plot(tmp_path / "empty.png")


@pytest.mark.parametrize("module", ["scipy.stats", "matplotlib.figure"])
def test_a_missing_package_is_named(module: str, tmp_path, monkeypatch) -> None:
    result = compare(made(), resamples=QUICK)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "jaxseg\[evaluate\]"'):
        compare(made(), resamples=QUICK).plot(tmp_path / "x.png")
    assert str(result)
