"""Tables of an evaluation and the folder that holds them: their bytes, faults, and shards."""

import csv
import errno
import importlib.util
import io
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxseg
from jaxseg.evaluation import _results, _summary
from jaxseg.evaluation._metrics import parse_metrics
from jaxseg.evaluation._records import File, Record, Target, record_of_line
from jaxseg.evaluation._results import (
    Results,
    Run,
    append_record,
    merge,
    open_records,
    read_records,
    read_results,
    stable_command,
    write_atomically,
    write_run,
)
from jaxseg.evaluation._summary import summarize, tabulate

NAN, INF = math.nan, math.inf
TARGETS = (Target("liver", (1,)), Target("tumour", (2, 3)))
METRICS = parse_metrics("dice,hd95")
RUN = Run("0f", "jaxseg evaluate P L", {"jaxseg": "0.1.0", "jax": "0.10.2"}, "cpu")
TABLES = ("cases.csv", "summary.csv", "summary.json", "errors.csv", "run.json", "records.jsonl")


def ends(values, **_):
    """The least and the greatest value, and their means over the classes."""
    none = np.isnan(values)
    both = np.stack([np.where(none, INF, values).min(0), np.where(none, -INF, values).max(0)])
    both[:, none.all(0)] = NAN
    macro = _summary.mean_of(np.moveaxis(both, -1, 0))
    return np.concatenate([both, macro[..., None]], -1)


def pooled_ends(counts, score, **_):
    """What is known of each score: it is between 0 and 1."""
    return np.stack([np.zeros(counts.shape[1] + 1), np.ones(counts.shape[1] + 1)])


@pytest.fixture
def simple_intervals(monkeypatch):
    """Intervals that a reader can check, which need no compilation."""
    simple = types.SimpleNamespace(intervals=ends, pooled_intervals=pooled_ends)
    monkeypatch.setitem(sys.modules, "jaxseg.evaluation._intervals", simple)


def record(case, dice, hd95, counts, *, group="", unit="mm", options="0f", **others):
    return Record(
        case=case,
        group=group,
        prediction=File(f"P/{case}.nii.gz", 100, 10**18, f"p{case}"),
        labels=File(f"L/{case}.nii.gz", 101, 10**18 + 1, f"l{case}"),
        shape=(3, 4),
        spacing=(1.0, 1.0),
        unit=unit,
        values={"dice": list(dice), "hd95": list(hd95)},
        counts=[tuple(c) for c in counts],
        matrix=[(0, 0, 5), (1, 1, 2), (1, 3, 1)],
        notes=[],
        options=options,
    )._replace(**others)


RECORDS = (
    record("b", (0.5, 0.0), (3.0, INF), ((1, 1, 1, 9), (0, 0, 4, 8)), group="x"),
    record("a", (1.0, NAN), (2.0, NAN), ((2, 0, 0, 10), (0, 0, 0, 12)), group="x"),
    record("c", (0.0, 1.0), (INF, 1.0), ((0, 3, 0, 9), (2, 0, 0, 10)), group="y"),
)


def results(records=RECORDS, errors=(("d", "d.png is cut off"),), metrics=METRICS, run=RUN):
    return Results(TARGETS, metrics, tuple(records), tuple(errors), run)


def rows_of(columns, **where):
    rows = [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)]
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def content(folder, names=TABLES):
    return {name: (Path(folder) / name).read_bytes() for name in names}


# The tables


@pytest.mark.usefixtures("simple_intervals")
def test_tables_are_these_bytes(tmp_path):
    results().write(tmp_path)
    files = content(tmp_path)
    assert files["cases.csv"].decode() == (
        "case,group,class,metric,value,n_truth,n_prediction\n"
        "a,x,liver,dice,1.0,2,2\n"
        "a,x,liver,hd95_max_mm,2.0,2,2\n"
        "a,x,tumour,dice,nan,0,0\n"
        "a,x,tumour,hd95_max_mm,nan,0,0\n"
        "b,x,liver,dice,0.5,2,2\n"
        "b,x,liver,hd95_max_mm,3.0,2,2\n"
        "b,x,tumour,dice,0.0,4,0\n"
        "b,x,tumour,hd95_max_mm,inf,4,0\n"
        "c,y,liver,dice,0.0,0,3\n"
        "c,y,liver,hd95_max_mm,inf,0,3\n"
        "c,y,tumour,dice,1.0,2,2\n"
        "c,y,tumour,hd95_max_mm,1.0,2,2\n"
    )
    assert files["summary.csv"].decode() == (
        "class,metric,aggregation,policy,mean,median,q25,q75,low,high,median_low,median_high,"
        "pooled,pooled_low,pooled_high,n,n_missed,n_spurious,n_infinite,n_undefined\n"
        "liver,dice,per case,all,0.5,0.5,0.25,0.75,0.0,1.0,0.0,1.0,,,,3,0,1,0,0\n"
        "liver,dice,pooled,all,,,,,,,,,0.5454545454545454,0.0,1.0,3,0,1,0,0\n"
        "liver,hd95_max_mm,per case,detected,2.5,2.5,2.25,2.75,2.0,3.0,2.0,3.0,,,,2,0,1,1,0\n"
        "liver,hd95_max_mm,per case,penalty,inf,3.0,2.5,inf,2.0,inf,2.0,inf,,,,3,0,1,1,0\n"
        "tumour,dice,per case,all,0.5,0.5,0.25,0.75,0.0,1.0,0.0,1.0,,,,2,1,0,0,1\n"
        "tumour,dice,pooled,all,,,,,,,,,0.5,0.0,1.0,3,1,0,0,0\n"
        "tumour,hd95_max_mm,per case,detected,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,,,,1,1,0,1,1\n"
        "tumour,hd95_max_mm,per case,penalty,inf,inf,inf,inf,1.0,inf,1.0,inf,,,,2,1,0,1,1\n"
        "mean of classes,dice,per case,all,0.5,0.5,0.25,0.75,0.0,1.0,0.0,1.0,,,,5,1,1,0,1\n"
        "mean of classes,dice,pooled,all,,,,,,,,,0.5227272727272727,0.0,1.0,6,1,1,0,0\n"
        "mean of classes,hd95_max_mm,per case,detected,"
        "1.75,1.75,1.625,1.875,1.5,2.0,1.5,2.0,,,,3,1,1,2,1\n"
        "mean of classes,hd95_max_mm,per case,penalty,"
        "inf,inf,inf,inf,1.5,inf,1.5,inf,,,,5,1,1,2,1\n"
    )
    assert files["errors.csv"] == b"case,reason\nd,d.png is cut off\n"


@pytest.mark.usefixtures("simple_intervals")
def test_summary_json_has_nnunets_keys_and_no_nan(tmp_path):
    results().write(tmp_path)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    parts = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    liver = {"Dice": 0.5, "IoU": 4 / 9, "FP": 4 / 3, "FN": 1 / 3, "TP": 1.0, "TN": 28 / 3}
    assert parts["mean"]["1"] == pytest.approx(liver | {"n_pred": 7 / 3, "n_ref": 4 / 3})
    assert parts["mean"]["(2, 3)"]["Dice"] == 0.5  # of two cases, the third has none
    assert parts["classes"] == {"1": "liver", "(2, 3)": "tumour"}
    assert parts["foreground_mean"]["Dice"] == 0.5
    assert parts["metric_per_case"][0] == {
        "metrics": {
            "1": dict(Dice=1.0, IoU=1.0, FP=0, FN=0, TP=2, TN=10, n_pred=2, n_ref=2),
            "(2, 3)": dict(Dice=None, IoU=None, FP=0, FN=0, TP=0, TN=12, n_pred=0, n_ref=0),
        },
        "prediction_file": "P/a.nii.gz",
        "reference_file": "L/a.nii.gz",
    }
    (penalty,) = rows_of(results().summary, **{"class": "liver", "policy": "penalty"})
    (written,) = (
        row for row in parts["summary"] if (row["class"], row["policy"]) == ("liver", "penalty")
    )
    assert penalty["mean"] == INF and written["mean"] is None and written["n_infinite"] == 1
    for key in ("aggregation", "policies", "command", "versions", "device", "seed", "inputs"):
        assert key in parts
    assert (parts["n_cases"], parts["n_groups"], parts["n_errors"]) == (3, 2, 1)


def test_foreground_is_all_but_the_background():
    def foreground(name):
        targets = (Target(name, (0,)), Target("car", (1,)))
        of = Results(targets, METRICS[:1], RECORDS[:1], (), RUN._replace(resamples=0))
        return _results.summary_parts(of)["foreground_mean"]["Dice"]

    assert foreground("background") == foreground("0") == 0.0
    assert foreground("road") == 0.25


def test_a_miss_never_improves_a_mean():
    distances = [(2.0,), (3.0,), (INF,)]
    counts = [[(1, 0, 0, 9)], [(1, 0, 0, 9)], [(0, 0, 1, 9)]]
    cases = [record(c, (NAN,), d, n) for c, d, n in zip("abc", distances, counts)]

    def rows(policy):
        table = summarize(cases, TARGETS[:1], METRICS[1:], missing_distance=policy, resamples=0)
        return {row["policy"]: row for row in rows_of(table, **{"class": "liver"})}

    for policy, mean in {"inf": INF, "diagonal": 10 / 3, 374: 379 / 3, 4.5: 9.5 / 3}.items():
        found = rows(policy)
        assert list(found) == ["detected", "penalty"]
        assert found["penalty"]["mean"] == pytest.approx(mean)
        assert (found["penalty"]["n"], found["penalty"]["n_infinite"]) == (3, 1)
    alone = rows("exclude")["detected"]
    assert (alone["mean"], alone["n"], alone["n_infinite"], alone["n_missed"]) == (2.5, 2, 1, 1)
    for policy in ("inf", "diagonal", "exclude"):
        of = Results(
            TARGETS[:1], METRICS[1:], tuple(cases), (), RUN._replace(missing_distance=policy)
        )
        assert "2.500 (1 left out)" in repr(of) and "2.500 (1 left out)" in of._repr_html_()
        assert (f"penalty {policy}" in repr(of)) == (policy != "exclude")


def test_the_diagonal_is_of_each_cases_image_in_its_unit():
    cases = [
        record("a", (0.0,), (INF,), [(0, 0, 1, 9)], shape=(3, 4, 12), spacing=(1.0, 1.0, 1.0)),
        record("b", (0.0,), (INF,), [(0, 0, 1, 9)], shape=(3, 8, 6), spacing=(2.0, 1.0, 4.0)),
    ]
    (row, _) = rows_of(
        summarize(cases, TARGETS[:1], METRICS[1:], missing_distance="diagonal", resamples=0),
        policy="penalty",
    )
    assert (row["q25"], row["q75"]) == (13 + 0.25 * 13, 26 - 0.25 * 13)


def test_the_mean_of_no_values_is_undefined_and_not_0():
    of_tumour = rows_of(
        summarize(RECORDS[1:2], TARGETS, METRICS, resamples=0), **{"class": "tumour"}
    )
    for row in of_tumour:
        pooled = row["aggregation"] == "pooled"
        names = ("pooled",) if pooled else ("mean", "median", "q25", "q75")
        assert all(math.isnan(row[name]) for name in names)
        assert (row["n"], row["n_undefined"]) == ((1, 0) if pooled else (0, 1))


def test_a_relative_volume_has_no_penalty_but_infinity():
    metrics = parse_metrics("relative-volume")
    cases = [
        RECORDS[0]._replace(case=case, values={"relative-volume": [value, 0.0]})
        for case, value in [("a", INF), ("b", -0.5)]
    ]
    table = summarize(cases, TARGETS, metrics, missing_distance=3.0, resamples=0)
    means = {row["policy"]: row["mean"] for row in rows_of(table, **{"class": "liver"})}
    assert means == {"detected": -0.5, "penalty": INF}


@pytest.mark.parametrize("values", [(NAN,), (INF,), (2.0,), (1.0, 2.0, INF, INF, NAN), (0.0, INF)])
def test_quartiles_are_numpys_wherever_those_are_defined(values):
    column = np.array(values)[:, None]
    for quantile in (0.25, 0.5, 0.75):
        (ours,) = _summary._quantile(column, quantile)
        valid = column[~np.isnan(column)]
        finite = np.where(np.isinf(valid), 1e9, valid)
        theirs = np.quantile(finite, quantile) if len(valid) else NAN
        expected = INF if theirs > 1e6 else theirs
        np.testing.assert_equal(ours, expected)


@pytest.mark.parametrize("kind", sorted(_summary.POOLED))
def test_scores_of_summed_counts_are_jaxsegs(kind):
    counts = np.random.default_rng(0).integers(0, 9, (20, 4)) * np.array([1, 1, 0, 1])
    ours = _summary.overlap(counts, kind)
    score = getattr(jaxseg, kind)(jaxseg.Counts(*np.asarray(counts, np.int32).T))
    np.testing.assert_allclose(ours, np.asarray(score), rtol=1e-6)


def test_pooled_and_per_case_numbers_share_no_column():
    rows = rows_of(summarize(RECORDS, TARGETS, METRICS, resamples=0))
    statistics = ("mean", "median", "q25", "q75")
    for row in rows:
        pooled = row["aggregation"] == "pooled"
        assert all((row[name] is None) == pooled for name in statistics)
        assert (row["pooled"] is None) != pooled
    assert len(rows) == 3 * (2 + 2)


def test_pooled_counts_do_not_wrap():
    many = [
        record(str(i), (1.0,), (0.0,), [(2**31 - 1, 1, 0, 0)], matrix=[(1, 1, 2**31 - 1)])
        for i in range(4)
    ]
    (row, _) = rows_of(
        summarize(many, TARGETS[:1], parse_metrics("precision,dice")[1:], resamples=0),
        aggregation="pooled",
    )
    assert row["pooled"] == (2**34 - 8) / (2**34 - 8 + 4)
    matrix = Results(TARGETS[:1], METRICS, tuple(many), (), RUN).matrix
    assert matrix.counts.tolist() == [[4 * (2**31 - 1)]]


def test_matrix_is_the_sum_over_cases():
    matrix = results().matrix
    assert matrix.ids == (0, 1, 2, 3)
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.tolist() == [[15, 0, 0, 0], [0, 6, 0, 3], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_intervals_come_from_the_bootstrap_by_group(monkeypatch):
    if importlib.util.find_spec("jaxseg.evaluation._intervals"):
        from jaxseg.evaluation import _intervals as module
    else:
        module = types.SimpleNamespace(intervals=ends, pooled_intervals=pooled_ends)
        monkeypatch.setitem(sys.modules, "jaxseg.evaluation._intervals", module)
    asked = {}

    def spy(name, of):
        def spied(*args, **options):
            asked.setdefault(name, []).append(options)
            return of(*args, **options)

        monkeypatch.setattr(module, name, spied)

    for name in ("intervals", "pooled_intervals"):
        spy(name, getattr(module, name))
    table = summarize(RECORDS, TARGETS, METRICS, resamples=200, level=0.9, seed=3)
    for options in itertools.chain(*asked.values()):
        assert options["groups"] == ["x", "x", "y"]  # of a, b and c
        assert (options["resamples"], options["level"], options["seed"]) == (200, 0.9, 3)
    assert [o["statistic"] for o in asked["intervals"]] == ["mean", "median"]
    for row in rows_of(table):
        if row["aggregation"] == "pooled":
            assert row["pooled_low"] <= row["pooled"] <= row["pooled_high"]
        else:
            assert row["low"] <= row["mean"] <= row["high"]
            assert row["median_low"] <= row["median"] <= row["median_high"]
    asked.clear()
    ungrouped = [r._replace(group="") for r in RECORDS]
    summarize(ungrouped, TARGETS, METRICS, resamples=200)
    assert asked["intervals"][0]["groups"] is None
    assert summarize([], TARGETS, METRICS)["n"] == [0] * 12  # and needs no intervals


def test_units_must_agree_where_a_metric_has_one():
    mixed = [RECORDS[0], *(r._replace(unit="px") for r in RECORDS[1:])]
    for table in (tabulate, summarize):
        with pytest.raises(ValueError, match=r"different units.*mm: b; px: a, c\."):
            table(mixed, TARGETS, METRICS)
    assert "different units" in repr(results(mixed))
    assert tabulate(mixed, TARGETS, METRICS[:1])["metric"] == ["dice"] * 6
    assert set(tabulate(mixed[1:], TARGETS, METRICS)["metric"]) == {"dice", "hd95_max_px"}


def test_records_of_another_evaluation_are_refused():
    with pytest.raises(ValueError, match="record of b has 0 values of iou"):
        tabulate(RECORDS[:1], TARGETS, parse_metrics("iou"))
    with pytest.raises(ValueError, match="2 values of dice and 2 counts for 1 classes"):
        summarize(RECORDS[1:], TARGETS[:1], METRICS, resamples=0)
    with pytest.raises(ValueError, match="more than one record: a"):
        results([RECORDS[1], RECORDS[1]])


@pytest.mark.parametrize("policy", ["infinite", -1.0, INF, NAN, "3"])
def test_other_policies_are_refused(policy):
    with pytest.raises(ValueError, match=r"missing_distance must be .* got"):
        results(run=RUN._replace(missing_distance=policy))


def test_repr_is_a_table_of_means():
    assert repr(results()).splitlines() == [
        "Means over 3 cases, 1 without scores",
        "class             dice  dice, pooled  hd95_max_mm, detected  hd95_max_mm, penalty inf",
        "liver            0.500         0.545     2.500 (1 left out)                       inf",
        "tumour           0.500         0.500     1.000 (1 left out)                       inf",
        "mean of classes  0.500         0.523     1.750 (2 left out)                       inf",
    ]
    bad = Results((Target("<script>", (1,)), TARGETS[1]), METRICS, RECORDS, (), RUN)
    assert "<script>" in repr(bad)
    assert "&lt;script&gt;" in bad._repr_html_() and "<script>" not in bad._repr_html_()
    assert repr(results((), ())).startswith("Means over 0 cases\n")


def test_results_do_not_change():
    of = results()
    with pytest.raises(AttributeError):
        of.records = ()
    assert [r.case for r in of.records] == ["a", "b", "c"]
    assert of == results(RECORDS[::-1])


# Records


ids = st.integers(-(2**31), 2**40)
texts = st.text(max_size=5)
numbers = st.floats(width=64) | st.sampled_from([NAN, INF, -INF, -0.0])
files = st.builds(File, texts, ids, ids, texts)
records = st.builds(
    Record,
    case=texts,
    group=texts,
    prediction=files,
    labels=files,
    shape=st.lists(ids, max_size=3).map(tuple),
    spacing=st.lists(numbers, max_size=3).map(tuple),
    unit=st.sampled_from(["mm", "px"]),
    values=st.dictionaries(texts, st.lists(numbers, max_size=3), max_size=3),
    counts=st.lists(st.tuples(ids, ids, ids, ids), max_size=3),
    matrix=st.lists(st.tuples(ids, ids, ids), max_size=3),
    notes=st.lists(texts, max_size=2),
    options=texts,
)


@settings(max_examples=40)
@given(st.lists(records, max_size=4))
def test_records_come_back_as_they_were(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("records")
    with open_records(folder) as file:
        for of in written:
            assert "\n" not in of.to_line()
            assert repr(record_of_line(of.to_line())) == repr(of)  # NaN is not equal to itself
            append_record(file, of)
    last = {of.case: of for of in written}
    assert repr(read_records(folder)) == repr([last[case] for case in sorted(last)])


def test_a_half_written_line_is_dropped_and_written_over(tmp_path):
    one, two = (RECORDS[1].to_line() + "\n").encode(), (RECORDS[0].to_line() + "\n").encode()
    path = tmp_path / "records.jsonl"
    assert read_records(tmp_path) == []
    for cut in [*range(0, len(two), 7), len(two) - 1]:
        path.write_bytes(one + two[:cut])
        assert [r.case for r in read_records(tmp_path)] == ["a"], cut
        with open_records(tmp_path) as file:
            append_record(file, RECORDS[2])
        assert [r.case for r in read_records(tmp_path)] == ["a", "c"], cut
    path.write_bytes(one + bytes(100) + b"\n")  # what a disk may hold after its power failed
    assert [r.case for r in read_records(tmp_path)] == ["a"]
    open_records(tmp_path).close()
    assert path.read_bytes() == one
    path.write_bytes(two[:50] + b"\n" + one)
    with pytest.raises(ValueError, match=r"Line 1 of .*records.jsonl is no record"):
        read_records(tmp_path)


def test_the_last_record_of_a_case_wins(tmp_path):
    with open_records(tmp_path) as file:
        for of in (RECORDS[0], RECORDS[1], RECORDS[0]._replace(notes=["again"])):
            append_record(file, of)
    assert [(r.case, r.notes) for r in read_records(tmp_path)] == [("a", []), ("b", ["again"])]


APPENDING = """
import itertools, sys
from jaxseg.evaluation._records import record_of_line
from jaxseg.evaluation._results import append_record, open_records
record = record_of_line(sys.argv[2])
with open_records(sys.argv[1]) as file:
    for number in itertools.count():
        append_record(file, record._replace(case=f"{number:06}"))
        print(number, flush=True)
"""


def test_records_that_were_appended_survive_a_kill(tmp_path):
    line = RECORDS[0]._replace(notes=["long" * 5000]).to_line()
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDING, tmp_path, line],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        text=True,
    )
    for _ in range(5):
        process.stdout.readline()
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0].split()
    found = [int(r.case) for r in read_records(tmp_path)]
    assert found == list(range(len(found)))
    assert len(found) > max([4, *map(int, said)])
    with open_records(tmp_path) as file:
        append_record(file, RECORDS[0])
    assert len(read_records(tmp_path)) == len(found) + 1


# Files that cannot be written


@pytest.fixture
def full_disk():
    """No file may be longer than 8,000 bytes: the system itself stops the writing half-way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "cases.csv"
    write_atomically(path, "old")
    with pytest.raises(OSError, match=r"could not be written .*as it was before.*cases\.csv"):
        write_atomically(path, "new" * 5000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["cases.csv"]
    with open_records(tmp_path) as file:
        append_record(file, RECORDS[0])
        with pytest.raises(OSError, match=r"could not be written .*records\.jsonl"):
            append_record(file, RECORDS[1]._replace(notes=["long" * 5000]))
        append_record(file, RECORDS[2])
    assert [r.case for r in read_records(tmp_path)] == ["b", "c"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr
)
@pytest.mark.usefixtures("simple_intervals")
def test_an_interrupted_write_leaves_the_old_files(tmp_path, monkeypatch, failing, fault):
    results().write(tmp_path)
    before = content(tmp_path)

    def fail(*_):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(type(fault), match="No space left" if fault.args else None):
            results(RECORDS[:1]).write(tmp_path)
    assert content(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == sorted(TABLES)
    assert len(read_results(tmp_path).records) == 3


def test_files_are_as_readable_as_others(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "new" / "cases.csv", "text")
    modes = {p.stat().st_mode for p in (tmp_path / "plain", tmp_path / "new" / "cases.csv")}
    assert len(modes) == 1


@pytest.mark.usefixtures("simple_intervals")
def test_odd_names_come_back(tmp_path):
    odd = ['a,"b"', "line\nline", "cr\rcr", "\udcff", "ü<b>", " a "]
    errors = [(name, f"{name} is odd\r\n") for name in odd]
    cases = [RECORDS[0]._replace(case=name, group=name) for name in odd]
    results(cases, errors).write(tmp_path)
    again = read_results(tmp_path)
    assert again.errors == tuple(sorted(errors))
    assert [r.case for r in again.records] == sorted(odd)
    text = (tmp_path / "cases.csv").read_bytes().decode("utf-8", "surrogateescape")
    table = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["case"] for row in table[:: 2 * 2]] == sorted(odd)


# Folders and shards


@pytest.mark.usefixtures("simple_intervals")
def test_a_folder_comes_back_and_is_written_the_same(tmp_path):
    of = results()
    of.write(tmp_path / "one")
    again = read_results(tmp_path / "one")
    assert (again.targets, again.metrics, again.errors, again.run) == (
        *(of.targets, of.metrics, of.errors, of.run),
    )
    again.write(tmp_path / "two")
    results(RECORDS[::-1]).write(tmp_path / "three")
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "three")
    with pytest.raises(ValueError, match=r"is no folder of results: it has no run\.json"):
        read_results(tmp_path)
    (tmp_path / "run.json").write_text('{"targets": 3}')
    with pytest.raises(ValueError, match=r"run\.json does not tell what was asked for"):
        read_results(tmp_path)


@pytest.mark.usefixtures("simple_intervals")
def test_records_of_other_options_are_left_out(tmp_path):
    results([*RECORDS[:2], RECORDS[2]._replace(options="ff")]).write(tmp_path)
    assert [r.case for r in read_results(tmp_path).records] == ["a", "b"]
    with pytest.raises(ValueError, match="is not finished"):
        merge([tmp_path], tmp_path / "all")


def shards(folder, cuts, records=RECORDS, errors=(("d", "d.png is cut off"),)):
    """The records shared out to as many folders as there are cuts."""
    for number, cases in enumerate(cuts):
        mine = [r for r in records if r.case in cases]
        results(mine, [e for e in errors if e[0] in cases]).write(folder / str(number))
    return [folder / str(number) for number in range(len(cuts))]


@pytest.mark.parametrize(
    "cuts", [["abcd"], ["ac", "bd"], ["d", "", "cb", "a"], ["ab", "bcd"]], ids="-".join
)
@pytest.mark.usefixtures("simple_intervals")
def test_merged_shards_are_one_run(tmp_path, cuts):
    results().write(tmp_path / "one")
    folders = shards(tmp_path, cuts)
    merge(folders, tmp_path / "all")
    merge(folders[::-1], tmp_path / "reversed")
    assert content(tmp_path / "one") == content(tmp_path / "all") == content(tmp_path / "reversed")
    assert sorted(os.listdir(tmp_path / "all")) == sorted(TABLES)
    merge([tmp_path / "all"], tmp_path / "all")
    assert content(tmp_path / "one") == content(tmp_path / "all")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": "0e"}, r"options \(digests 0f and 0e\)"),
        ({"missing_distance": "diagonal"}, r"missing_distance \(inf and diagonal\)"),
        ({"level": 0.9, "seed": 1}, r"level \(0\.95 and 0\.9\); seed \(0 and 1\)"),
        ({"metrics": METRICS[:1]}, r"metrics \(\['dice', 'hd95'\] and \['dice'\]\)"),
    ],
)
@pytest.mark.usefixtures("simple_intervals")
def test_shards_of_different_runs_are_refused(tmp_path, change, words):
    metrics = change.pop("metrics", METRICS)
    run = RUN._replace(**change)
    results(RECORDS[:1]).write(tmp_path / "0")
    cases = [r._replace(options=run.options) for r in RECORDS[1:]]
    results(cases, metrics=metrics, run=run).write(tmp_path / "1")
    with pytest.raises(ValueError, match=f"no shards of one run: they differ in {words}"):
        merge([tmp_path / "0", tmp_path / "1"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


@pytest.mark.usefixtures("simple_intervals")
def test_a_case_in_two_shards_must_be_of_the_same_files(tmp_path):
    results(RECORDS).write(tmp_path / "0")
    elsewhere = File("Q/b.nii.gz", 100, 7, "pb")
    results([RECORDS[0]._replace(prediction=elsewhere)]).write(tmp_path / "1")
    assert len(merge([tmp_path / "0", tmp_path / "1"], tmp_path / "all").records) == 3
    for other in (elsewhere._replace(digest="other"), elsewhere._replace(digest="")):
        results([RECORDS[0]._replace(prediction=other)]).write(tmp_path / "1")
        with pytest.raises(
            ValueError, match=r"case b is in .*0 and in .*1, and they read different"
        ):
            merge([tmp_path / "0", tmp_path / "1"], tmp_path / "all")


@pytest.mark.usefixtures("simple_intervals")
def test_a_shard_that_was_killed_is_refused(tmp_path):
    folders = shards(tmp_path, ["ab", "cd"])
    write_run(tmp_path / "killed", TARGETS, METRICS, RUN)
    with open_records(folders[1]) as file:  # a run that went on and did not come to its end
        append_record(file, RECORDS[0]._replace(case="e"))
    for bad in (tmp_path / "killed", folders[1]):
        with pytest.raises(ValueError, match=rf"The run of {bad} is not finished"):
            merge([folders[0], bad], tmp_path / "all")
    with pytest.raises(ValueError, match="at least one"):
        merge([], tmp_path / "all")


@pytest.mark.usefixtures("simple_intervals")
def test_a_case_that_failed_in_one_shard_and_not_in_another_has_scores(tmp_path):
    results(RECORDS[1:]).write(tmp_path / "0")
    results(RECORDS[:1], [("a", "the worker was killed")]).write(tmp_path / "1")
    merged = merge([tmp_path / "0", tmp_path / "1"], tmp_path / "all")
    assert [r.case for r in merged.records] == ["a", "b", "c"]
    assert merged.errors == (("d", "d.png is cut off"),)


@pytest.mark.usefixtures("simple_intervals")
def test_where_shards_ran_is_told(tmp_path):
    results(RECORDS[:1]).write(tmp_path / "0")
    results(RECORDS[1:], run=RUN._replace(device="gpu (H200)")).write(tmp_path / "1")
    assert merge([tmp_path / "1", tmp_path / "0"], tmp_path / "all").run.device == "cpu; gpu (H200)"


def test_the_command_of_a_shard_is_that_of_the_whole():
    whole = stable_command(["jaxseg", "evaluate", "P", "L", "--metrics", "dice"])
    shard = stable_command(
        [
            *("jaxseg", "evaluate", "--shard", "2/3", "P", "--out=A", "L", "--workers", "4"),
            *("--resume", "--quiet", "--metrics", "dice"),
        ]
    )
    assert whole == shard == "jaxseg evaluate P L --metrics dice"
    assert stable_command(["jaxseg", "a b"]) == "jaxseg 'a b'"


def test_software_and_device_are_named():
    assert _results.software().keys() == {"jaxseg", "jax", "numpy", "python"}
    assert _results.device() == "cpu"
