"""The report of an evaluation: what it says, that it is safe to open, and that it is small."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("jinja2")
Image = pytest.importorskip("PIL.Image")
ndimage = pytest.importorskip("scipy.ndimage")

from jaxseg.evaluation import _pictures, _report  # noqa: E402
from jaxseg.evaluation._metrics import parse_metrics  # noqa: E402
from jaxseg.evaluation._records import CaseError, File, Record, Target  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
EVIL = "<script>alert(1)</script>"
ORGANS = ("liver", "spleen", "left kidney", "right kidney", "pancreas")
RUN = {
    "command": "jaxseg evaluate predictions labels --metrics dice,iou,hd95,nsd@2 --out results",
    "predictions": "predictions",
    "labels": "labels",
    "versions": {"jaxseg": "0.1.0", "jax": "0.10.2", "numpy": "2.4.0"},
    "device": "cpu",
    "seed": 0,
    "level": 0.95,
    "resamples": 10_000,
    "missing_distance": "inf",
}


POOLED = ("pooled", "pooled_low", "pooled_high")
SUMMARY = (
    *("class", "metric", "aggregation", "policy"),
    *("mean", "median", "q25", "q75", "low", "high", "median_low", "median_high"),
    *POOLED,
    *("n", "n_missed", "n_spurious", "n_infinite", "n_undefined"),
)


class Read(NamedTuple):
    """An image as the readers give it."""

    array: np.ndarray
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    names: tuple[str, ...] | None = None


def read(path):
    if path.suffix == ".npy":
        return Read(np.load(path), (1.0, 1.0, 3.0), np.eye(4))
    return Read(np.asarray(Image.open(path)))


def ellipses(rng, shape, wrong):
    """A label map of ellipses, and a prediction that is wrong by so much."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    truth, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    places = [(0.35, 0.3), (0.3, 0.78), (0.7, 0.2), (0.72, 0.75), (0.52, 0.55)]
    for i, place in enumerate(places, 1):
        if i == 5 and rng.random() < 0.15:
            continue
        centre = (np.asarray([*place, 0.5][: len(shape)]) + rng.normal(0, 0.02)) * shape
        radius = np.asarray(shape) * rng.uniform(0.09, 0.2, len(shape)) * (0.5 if i == 5 else 1)
        truth[(((grid - centre) / radius) ** 2).sum(-1) < 1] = i
        if i == 5 and rng.random() < 0.2 + wrong:
            continue
        centre = centre + rng.normal(0, wrong * 0.3, len(shape)) * radius
        radius = radius * rng.uniform(1 - wrong, 1 + wrong / 2)
        id_ = 3 if i == 4 and rng.random() < wrong / 3 else i
        prediction[(((grid - centre) / radius) ** 2).sum(-1) < 1] = id_
    return prediction, truth


def surface(mask):
    return mask & ~ndimage.binary_erosion(mask)


def values_of(p, t, spacing):
    """Dice, IoU, HD95 and NSD at 2, and tp, fp, fn, tn, of one class."""
    tp, fp, fn, tn = (int(x.sum()) for x in (p & t, p & ~t, ~p & t, ~p & ~t))
    if not tp + fp + fn:
        return [math.nan] * 4, (tp, fp, fn, tn)
    if not p.any() or not t.any():
        return [0.0, 0.0, math.inf, 0.0], (tp, fp, fn, tn)
    ps, ts = surface(p), surface(t)
    to_t = ndimage.distance_transform_edt(~ts, spacing)[ps]
    to_p = ndimage.distance_transform_edt(~ps, spacing)[ts]
    hd95 = max(np.percentile(to_t, 95), np.percentile(to_p, 95))
    near = ((to_t <= 2).sum() + (to_p <= 2).sum()) / (to_t.size + to_p.size)
    scores = [2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn), float(hd95), float(near)]
    return scores, (tp, fp, fn, tn)


def file_of(path):
    status = path.stat()
    return File(str(path), status.st_size, status.st_mtime_ns, "0")


def a_record(folder, case, prediction, truth, *, group=None, unit="px"):
    spacing = (1.0, 1.0, 3.0)[: truth.ndim] if unit == "mm" else (1.0,) * truth.ndim
    paths = []
    for part, array in (("predictions", prediction), ("labels", truth)):
        (folder / part).mkdir(exist_ok=True)
        stem = re.sub(r"\W", "_", case)
        paths.append(folder / part / (stem + (".npy" if array.ndim == 3 else ".png")))
        if array.ndim == 3:
            np.save(paths[-1], array)
        else:
            Image.fromarray(array).save(paths[-1])
    parts = [values_of(prediction == i, truth == i, spacing) for i in range(1, 6)]
    pairs, numbers = np.unique(6 * truth.astype(int) + prediction, return_counts=True)
    return Record(
        case,
        group or case,
        *map(file_of, paths),
        truth.shape,
        spacing,
        unit,
        {m: [v[k] for v, _ in parts] for k, m in enumerate(("dice", "iou", "hd95", "nsd@2"))},
        [c for _, c in parts],
        [(int(c) // 6, int(c) % 6, int(n)) for c, n in zip(pairs, numbers, strict=True)],
        ["A mask of 0 and 255 was read as 0 and 1."] if case.endswith("3") else [],
        "0",
    )


def summary_of(records, targets, metrics, unit):
    """Rows as a summary has them, with intervals of few resamples."""
    rng = np.random.default_rng(0)
    table = _report._table(records, targets, metrics, unit)
    off = np.stack([table.missed.sum(0), table.spurious.sum(0)], -1)
    rows = []

    def statistics(values):
        valid = values[~np.isnan(values)]
        drawn = valid[rng.integers(0, valid.size, (100, valid.size))]
        ends = [
            np.percentile(f, [2.5, 97.5], method="lower").tolist()
            for f in (drawn.mean(1), np.quantile(drawn, 0.5, axis=1, method="lower"))
        ]
        q25, median, q75 = np.percentile(valid, [25, 50, 75], method="lower").tolist()
        return [float(valid.mean()), median, q25, q75, *ends[0], *ends[1]]

    for i, metric in enumerate(metrics):
        for policy in ("detected", "penalty") if metric.is_distance else ("all",):
            block = []
            for j, target in enumerate(targets):
                values = table.values[i, :, j]
                infinite = np.isinf(values)
                kept = np.where(infinite & (policy == "detected"), np.nan, values)
                numbers = [(~np.isnan(kept)).sum(), *off[j], infinite.sum(), np.isnan(values).sum()]
                block.append([*statistics(kept), *[None] * 3, *map(int, numbers)])
                rows.append([target.name, metric.column(unit), "per case", policy, *block[-1]])
            means = np.asarray([b[:8] for b in block]).mean(0).tolist()
            sums = [sum(numbers) for numbers in zip(*(b[11:] for b in block), strict=True)]
            rows.append(["mean of classes", *rows[-1][1:4], *means, *[None] * 3, *sums])
        if metric.is_overlap:
            counts = np.asarray([r.counts for r in records]).sum(0)
            for (tp, fp, fn, _), target in zip(counts.tolist(), targets, strict=True):
                value = tp / (tp + fp + fn) if metric.name == "iou" else 2 * tp / (2 * tp + fp + fn)
                head = [target.name, metric.column(unit), "pooled", "all"]
                rows.append([*head, *[None] * 8, value, value - 0.01, value + 0.01, *[None] * 5])
    return dict(zip(SUMMARY, map(list, zip(*rows, strict=True)), strict=True))


def example(folder, *, cases=40, shape=(96, 128), unit="px", write=True, **kwargs):
    """A report of made cases: its arguments, and its path if it is to be written."""
    rng = np.random.default_rng(0)
    targets = [Target(name, (i,)) for i, name in enumerate(ORGANS, 1)]
    metrics = parse_metrics("dice,iou,hd95,nsd@2")
    records = []
    for i in range(cases):
        name = EVIL if i == 7 else f"patient-{i // 2:03}_week-{i % 2}{i % 10}"
        pair = ellipses(rng, shape, rng.uniform(0.05, 0.6))
        records.append(a_record(folder, name, *pair, group=f"patient-{i // 2:03}", unit=unit))
    given = {
        "records": records,
        "targets": targets,
        "metrics": metrics,
        "summary": summary_of(records, targets, metrics, unit),
        "unit": unit,
        "run": RUN,
        "errors": [("patient-099_week-00", "labels/x.png is truncated: copy it again. " + EVIL)],
        "metadata": {
            r.case: {"scanner": ("A & B", "C", EVIL)[i % 3]} for i, r in enumerate(records)
        },
        "by": ["scanner"],
        "read": read,
        **kwargs,
    }
    return given, _report.write_report(folder, **given) if write else None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    given, path = example(tmp_path_factory.mktemp("report"))
    return given, path, path.read_text("utf-8")


class Page(HTMLParser):
    """A page of which all tags must be balanced; its attributes, texts and scripts."""

    VOID = frozenset(("meta", "link", "img", "br", "input"))

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.blocks = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "style"):
            self.blocks.append((tag, dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            tag, attrs, text = self.blocks[-1]
            self.blocks[-1] = tag, attrs, text + data
        elif data.strip():
            self.texts.append(data.strip())

    @property
    def text(self):
        return " ".join(self.texts)


def test_the_page_is_whole_and_needs_nothing_else(made):
    page = Page(made[2])
    assert [t for t, _ in page.tags if t in ("html", "head", "body", "main", "h1")] == [
        "html",
        "head",
        "body",
        "h1",
        "main",
    ]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert "style" not in attributes and not any(a.startswith("on") for a in attributes)
        for name in ("src", "href"):
            link = attributes.get(name, "#")
            assert link.startswith(("#", "data:")), (tag, link)
            assert link[:1] != "#" or link == "#" or link[1:] in ids
        if tag == "img":
            assert attributes["alt"]
    text = re.sub(r"base64,[\w+/=]+", "", made[2])
    assert not re.search(r"https?://|//\w|@import|url\((?!#)", text)


def test_the_policy_allows_its_own_style_and_script_alone(made):
    page = Page(made[2])
    policy = next(a["content"] for t, a in page.tags if "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        texts = [t for g, a, t in page.blocks if g == tag and a.get("type") != "application/json"]
        (text,) = texts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_names_are_text_wherever_they_come_from(tmp_path):
    given, path = example(
        tmp_path,
        cases=2,
        run=RUN | {"command": EVIL, EVIL: EVIL, "predictions": EVIL},
        by=[EVIL],
    )
    records = [r._replace(case=EVIL, group=EVIL, notes=[EVIL]) for r in given["records"]]
    targets = [t._replace(name=EVIL + str(t.ids[0])) for t in given["targets"]]
    summary = given["summary"] | {"class": [EVIL] * len(given["summary"]["class"])}
    given |= {"records": records, "targets": targets, "summary": summary}
    given["metadata"] = {EVIL: {EVIL: EVIL}}
    _report.write_report(tmp_path, **given)
    text = path.read_text("utf-8")
    assert "<script>alert" not in text
    page = Page(text)
    assert EVIL in page.text and len(page.blocks) == 3


def rows_of(summary):
    return [dict(zip(summary, row)) for row in zip(*summary.values(), strict=True)]


def line_of(text, table, name):
    """The row of a table, by the table's label and the row's first cell."""
    body = text[text.index(f'aria-label="{table}"') :]
    return re.search(rf'<tr><th class="text" scope="row">{name}</th>.*?</tr>', body, re.S)[0]


def test_numbers_are_those_of_the_summary(made):
    given, _, text = made
    for row in rows_of(given["summary"]):
        metric = next(m for m in given["metrics"] if m.column("px") == row["metric"])
        title = _report._title(metric, "px")
        pooled = row["aggregation"] == "pooled"
        line = line_of(text, "Pooled scores" if pooled else f"{title} per class", row["class"])
        numbers = POOLED if pooled else ("mean", "low", "high")
        if not pooled and row["policy"] != "detected":
            numbers += ("median", "median_low", "median_high", "q25", "q75")
            for number in ("n", "n_missed", "n_spurious"):
                assert f'data-v="{row[number]}"' in line or f">{row[number]}<" in line
        for number in numbers:
            assert _report._value(row[number], metric) in line, (row, number)


def test_means_over_detected_and_with_penalty_are_side_by_side(made):
    rows = rows_of(made[0]["summary"])
    detected, penalty = (
        r["mean"] for r in rows if (r["class"], r["metric"]) == ("pancreas", "hd95_max_px")
    )
    assert detected < penalty == math.inf
    line = line_of(made[2], "HD95 (px) per class", "pancreas")
    assert re.search(rf">{detected:.3f}<.*?</td><td data-v=\"Infinity\">∞", line)
    heads = re.findall(r"<thead>.*?</thead>", made[2], re.S)
    assert "Mean over detected</th>" in heads[2] and "Mean with penalty</th>" in heads[2]
    assert "Mean</th>" in heads[0] and "detected" not in heads[0]


def test_pooled_numbers_have_a_table_of_their_own(made):
    text = made[2]
    pooled = text[text.index('<h2 id="pooled">') : text.index('<h2 id="confusion">')]
    assert "Dice, pooled" in pooled and "HD95" not in pooled
    assert "pooled" not in text[text.index('<h2 id="classes">') : text.index('<h2 id="pooled">')]


def test_a_summary_may_have_no_policy_and_no_columns_of_pooled_values(made, tmp_path):
    summary = {k: v for k, v in made[0]["summary"].items() if not k.startswith("pooled")}
    summary["policy"] = ["" if p == "all" else p for p in summary["policy"]]
    pooled = [a == "pooled" for a in summary["aggregation"]]
    summary["mean"] = [0.4321 if p else m for p, m in zip(pooled, summary["mean"], strict=True)]
    text = _report.write_report(tmp_path, **(made[0] | {"summary": summary})).read_text("utf-8")
    assert "0.4321" in line_of(text, "Pooled scores", "liver")
    assert line_of(text, "Dice per class", "liver") == line_of(made[2], "Dice per class", "liver")


def test_few_values_are_flagged(made, tmp_path):
    per_class, strata = made[2].split('<h2 id="strata">')
    assert "†" not in per_class and "fewer than 20, intervals" not in per_class
    assert "13<abbr" in strata
    _, path = example(tmp_path, cases=5, shape=(24, 32))
    text = path.read_text("utf-8")
    assert "†" in text and "With 5 cases, fewer than 20, intervals" in text


def test_the_confusion_matrix_is_of_rows(made):
    given, _, text = made
    cells = np.zeros((6, 6), np.int64)
    for record in given["records"]:
        for true, predicted, number in record.matrix:
            cells[true, predicted] += number
    share = f"{100 * cells[1, 1] / cells[1].sum():.3g}"
    assert f"liver predicted as liver: {cells[1, 1]:,} pixels, {share} %" in text
    assert "background predicted as liver" in text


def test_many_classes_have_their_worst_confusions(made, tmp_path):
    given = made[0]
    matrix = [(i, (i + 1) % 50, i + 1) for i in range(50)] + [(i, i, 100) for i in range(50)]
    records = [given["records"][0]._replace(matrix=matrix)]
    path = _report.write_report(tmp_path, **(given | {"records": records}))
    text = path.read_text("utf-8")
    assert "50 classes are too many to draw" in text and 'class="matrix"' not in text
    assert "The 40 greatest confusions" in text and "id 49" in text


def test_strata_have_their_means_and_numbers(made):
    given, _, text = made
    cases = [i for i, r in enumerate(given["records"]) if i % 3 == 1]
    dice = np.asarray([given["records"][i].values["dice"] for i in cases])
    mean = np.nanmean(np.nanmean(dice, 0))
    line = line_of(text, "Means by scanner", "C")
    assert f">{mean:.4f}<" in line and f">{len(cases)}<" in line and "∞" in line
    assert "A &amp; B" in text


@pytest.mark.parametrize(
    ("policy", "worst"), [("inf", math.inf), ("diagonal", 160.0), ("7.5", 7.5), ("exclude", None)]
)
def test_strata_take_the_penalty_of_the_run(made, policy, worst):
    table = _table(made[0])
    policies = _report._policies(table.values[2], table.records, table.metrics[2], policy)
    (_, detected), *penalty = policies
    assert np.isfinite(detected[~np.isnan(detected)]).all()
    assert [name for name, _ in policies] == ["detected", "penalty"][: len(policies)]
    if worst is None:
        assert not penalty
    else:
        assert (penalty[0][1][np.isinf(table.values[2])] == worst).all()
    first = _report._policies(table.values[0], table.records, table.metrics[0], policy)
    assert [name for name, _ in first] == ["all"]


def test_the_worst_cases_are_shown(made):
    given, _, text = made
    means = {r.case: np.nanmean(r.values["dice"]) for r in given["records"]}
    worst = sorted(means, key=means.get)[:6]
    shown = re.findall(r"<figcaption><b>(.*?)</b>", text)
    assert shown == [w.replace("<", "&lt;").replace(">", "&gt;") for w in worst]
    assert text.count("data:image/png;base64,") == 6


def test_the_background_is_not_drawn_as_a_class(made):
    given = made[0]
    background = Target("Background", (0,))
    for name in ("Background", "road"):
        targets = [background._replace(name=name), *given["targets"]]
        records = [
            r._replace(
                values={m: [1.0, *v] for m, v in r.values.items()}, counts=[(9, 0, 0, 0), *r.counts]
            )
            for r in given["records"][:1]
        ]
        table = _report._table(records, targets, given["metrics"], "px")
        ((_, lowest, _, shown, _),) = _report._worst_cases(table, read)
        assert len(lowest) == 3
        drawn = {_pictures.FALSE_POSITIVE, _pictures.FALSE_NEGATIVE} & set(shown.kinds)
        assert bool(drawn) == (
            name == "Background"
        )  # of a class everywhere, wrong is another class


def test_files_that_are_gone_leave_a_note(tmp_path):
    given, path = example(tmp_path, cases=3, shape=(24, 32))
    first, second, third = given["records"]
    Path(first.labels.path).unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(second.labels.path)
    third = third._replace(labels=third.labels._replace(path=""))
    _report.write_report(tmp_path, **(given | {"records": [first, second, third]}))
    text = path.read_text("utf-8")
    assert "data:image/png" not in text
    for words in ("is no longer there", "has changed since it was scored", "from an array"):
        assert words in text

    def broken(path):
        raise CaseError(f"{path.name} is truncated.")

    _report.write_report(
        tmp_path, **(given | {"records": [third._replace(labels=first.prediction)], "read": broken})
    )
    assert "is truncated." in path.read_text("utf-8")


def test_no_case_makes_a_page_too(made, tmp_path):
    summary = {name: [] for name in made[0]["summary"]}
    given = made[0] | {"records": [], "summary": summary, "by": []}
    Page(_report.write_report(tmp_path, **given).read_text("utf-8"))


def test_values_that_are_not_there(made, tmp_path):
    """``summary.json`` has null for NaN, and a case may have no class at all."""
    given = made[0]
    nothing = {k: [math.nan] * 5 for k in ("dice", "iou", "hd95", "nsd@2")}
    records = [given["records"][0]._replace(values=nothing, counts=[(0, 0, 0, 99)] * 5, matrix=[])]
    empty = {"mean", "median", "q25", "q75", "low", "high", "median_low", "median_high"}
    summary = {k: [None] * len(v) if k in empty else v for k, v in given["summary"].items()}
    path = _report.write_report(tmp_path, **(given | {"records": records, "summary": summary}))
    text = path.read_text("utf-8")
    Page(text)
    assert "nan" not in re.sub(r"<s(cript|tyle).*?</s\1>", "", text, flags=re.S).lower()


def test_a_report_is_written_whole_or_not_at_all(made, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old one")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_report.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        _report.write_report(tmp_path, **made[0])
    assert path.read_text() == "the old one" and list(tmp_path.iterdir()) == [path]


def test_the_paragraph_says_what_was_done(made):
    text = " ".join(_report._paragraph(_table(made[0]), RUN, 1))
    for words in (
        "40 cases of 20 groups were scored for 5 classes",
        "with jaxseg 0.1.0; 1 could not be scored and is left out.",
        "Dice is 2TP / (2TP + FP + FN).",
        "HD95 is the larger of the two directed 95th percentiles",
        "Surface Dice (NSD) at 2 px is the share",
        "means over detected leave infinite values out, and means with penalty count them as inf",
        "95 % percentile bootstrap intervals of 10,000 resamples of groups",
        "jax 0.10.2",
    ):
        assert words in text, words


def test_every_metric_has_its_words():
    names = (
        "dice,iou,precision,recall,specificity,accuracy,hd,hd95,assd,masd,nsd@1,boundary-f@1,"
        "volume,relative-volume,boundary-iou,centre-distance"
    )
    for metric in parse_metrics(names):
        assert metric.kind in _report.DEFINITIONS
        assert _report._title(metric, "mm")


def _table(given):
    names = ("records", "targets", "metrics", "unit")
    return _report._table(*(given[name] for name in names))


@pytest.mark.parametrize(
    ("values", "low", "high", "beyond"),
    [
        ([0.1, 0.2, 0.9], 0.0, 1.0, None),
        ([0.81, 0.9, 0.97], 0.8, 1.0, None),
    ],
)
def test_axes_of_scores_end_at_one(values, low, high, beyond):
    axis = _report._axis(np.asarray(values)[:, None], parse_metrics("dice")[0])
    assert (axis.low, axis.high) == pytest.approx((low, high))


def test_axes_of_distances_are_not_spoilt_by_one_case():
    values = np.asarray([1.0, 2, 3, 2, 1, 2, 3, 400, math.inf])[:, None]
    axis = _report._axis(values, parse_metrics("hd95")[0])
    assert axis.low == 0 and axis.high <= 10
    box = _report._box(values[:, 0], axis)
    assert (
        box["above"] == 2
        and not box["below"]
        and "1 infinite" in box["words"]
        and "8 values" in box["words"]
    )


def test_axes_of_signed_and_of_equal_values():
    volume = parse_metrics("volume")[0]
    axis = _report._axis(np.asarray([[-30.0], [10.0], [0.0], [5.0]]), volume)
    assert axis.low <= -20 and axis.high >= 10
    for values in ([[0.0]], [[7.0]], [[math.nan]], [[1.0], [1.0]]):
        for metric in parse_metrics("volume,hd95,dice"):
            axis = _report._axis(np.asarray(values), metric)
            assert axis.low < axis.high and all(map(math.isfinite, axis.ticks))


# Pictures


def codes_of(made):
    """The colours of a picture, by kind."""
    data = base64.b64decode(made.uri.split(",")[1])
    from io import BytesIO

    return np.asarray(Image.open(BytesIO(data))) % 8


def test_a_picture_has_each_kind_of_pixel():
    truth, prediction = np.zeros((2, 20, 20), np.uint8)
    truth[2:10, 2:10], prediction[2:10, 5:13] = 1, 1
    truth[14:18, 2:6], prediction[14:18, 2:6] = 2, 1
    truth[14:18, 12:16], prediction[14:18, 12:16] = 255, 2
    made = _pictures.picture(Read(prediction), Read(truth), foreground=[1, 2], counted=[0, 1, 2])
    codes = codes_of(made)
    assert (made.width, made.height) == codes.shape[::-1] and max(codes.shape) >= 200
    expected = {
        _pictures.POSITIVE: 40,
        _pictures.FALSE_POSITIVE: 24,
        _pictures.FALSE_NEGATIVE: 24,
        _pictures.CONFUSED: 16,
        _pictures.UNCOUNTED: 16,
    }
    assert set(made.kinds) == set(expected)
    areas = {k: (codes == k).sum() / (codes == _pictures.CONFUSED).sum() * 16 for k in expected}
    assert areas == pytest.approx(expected, rel=0.1)
    all_counted = _pictures.picture(Read(prediction), Read(truth), foreground=[1, 2])
    assert _pictures.UNCOUNTED not in all_counted.kinds


def test_a_picture_of_a_volume_is_its_worst_slice():
    truth = np.zeros((24, 30, 8), np.uint8)
    truth[4:20, 4:20] = 1
    prediction = truth.copy()
    prediction[4:10, 4:20, 5] = 0
    prediction[4:6, 4:6, 2] = 0
    made = _pictures.picture(
        Read(prediction), Read(truth, (1.0, 2.0, 5.0), np.eye(4)), foreground=[1]
    )
    assert made.part == "slice 6 of 8 along axis 2"
    codes = codes_of(made)  # the first axis to the right, the second, twice as long, upwards
    assert made.height > 1.5 * made.width
    columns = np.flatnonzero((codes == _pictures.FALSE_NEGATIVE).any(0))
    assert columns.max() < np.flatnonzero((codes == _pictures.POSITIVE).any(0)).min()


def test_a_wrong_pixel_of_a_large_image_stays_visible():
    truth = np.ones((1500, 3000), np.uint8)
    prediction = truth.copy()
    prediction[701, 1303] = 0
    made = _pictures.picture(Read(prediction), Read(truth), foreground=[1])
    assert (made.width, made.height) == (512, 256)
    assert (codes_of(made) == _pictures.FALSE_NEGATIVE).sum() == 1


def test_pictures_of_masks_and_of_segments():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    made = _pictures.picture(Read(mask), Read(mask), foreground=[1])
    assert made.kinds == (_pictures.POSITIVE,)
    segments = np.stack([mask, mask & False], -1)
    other = np.stack([mask, mask], -1)
    names = ("whole", "core")
    made = _pictures.picture(Read(other, names=names), Read(segments, names=names), foreground=[])
    assert made.kinds == (_pictures.CONFUSED,)


@pytest.mark.parametrize(
    ("p", "t", "words"),
    [
        ((4, 4), (4, 5), "shapes differ"),
        ((4,), (4,), "2 or 3 axes"),
        ((4,) * 4, (4,) * 4, "have 4"),
    ],
)
def test_what_cannot_be_a_picture(p, t, words):
    with pytest.raises(CaseError, match=words):
        _pictures.picture(Read(np.zeros(p, int)), Read(np.zeros(t, int)), foreground=[1])


# How large it is, and that a browser takes it


def a_large_evaluation(cases=1000, classes=19):
    rng = np.random.default_rng(0)
    metrics = parse_metrics("dice,iou,precision,recall,hd95,assd,nsd@2,boundary-iou")
    targets = [Target(f"class {i}", (i,)) for i in range(classes)]
    scores = rng.beta(8, 2, (len(metrics), cases, classes))
    scores[4:6] *= 20
    missed = rng.random((cases, classes)) < 0.05
    scores[:4, missed], scores[4:6, missed] = 0, math.inf
    file = File("/gone/x.png", 1, 1, "0")
    matrix = [(i, j, 100 + i * j) for i in range(classes) for j in range(classes)]
    records = [
        Record(
            f"a-rather-long-name-of-a-case_{i:06}_leftImg8bit",
            f"patient-{i // 3}",
            file,
            file,
            (1024, 2048),
            (1.0, 1.0),
            "px",
            {m.name: scores[k, i].tolist() for k, m in enumerate(metrics)},
            [(0, 0, 9, 0) if gone else (9, 1, 1, 9) for gone in missed[i]],
            matrix,
            [],
            "0",
        )
        for i in range(cases)
    ]
    return {
        "records": records,
        "targets": targets,
        "metrics": metrics,
        "summary": summary_of(records, targets, metrics, "px"),
        "unit": "px",
        "run": RUN,
    }


def test_a_large_report_is_small(tmp_path):
    """With pictures of nothing but noise, the largest that there can be."""
    noise = np.random.default_rng(0).integers(0, 20, (2, 1024, 2048), np.uint8)
    pair = iter(list(noise) * _report.WORST_CASES)
    given = a_large_evaluation() | {"read": lambda path: Read(next(pair))}
    (tmp_path / "x.png").touch()
    file = File(str(tmp_path / "x.png"), 0, 0, "")
    records = [r._replace(prediction=file, labels=file) for r in given["records"]]
    given["records"] = records
    start = time.perf_counter()
    path = _report.write_report(tmp_path, **given)
    print(f"{path.stat().st_size:,} bytes in {time.perf_counter() - start:.2f} s")
    assert path.stat().st_size < 10e6
    page = Page(path.read_text("utf-8"))
    assert sum(tag == "img" for tag, _ in page.tags) == _report.WORST_CASES
    data = next(t for _, a, t in page.blocks if a.get("type") == "application/json")
    values = json.loads(data)["values"]
    assert (len(values), len(values[0]), len(values[0][0])) == (8, 1000, 19)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_has_nothing_to_complain_about(made, tmp_path):
    """The script runs under its policy, and no error is on the console."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--dump-dom",
        made[1].as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    assert done.stdout.count('<button type="button">') > 20  # only the script makes them
