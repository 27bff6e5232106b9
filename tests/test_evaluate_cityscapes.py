"""Cityscapes' scores of 20 made frames are those of its own script, by the commands of the page."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from golden import cityscapes_maps

from jaxseg.evaluation import evaluate
from jaxseg.evaluation._command import command

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/cityscapes.json").read_text())
SECTION = (ROOT / "docs/evaluate.md").read_text().split("\n## Cityscapes\n")[1].split("\n## ")[0]
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL))
ID_MAP = {int(old): new for old, new in json.loads(BLOCKS["json"]).items()}
IDS = {name: id for name, (id, _) in GOLDEN["labels"].items()}
CATEGORIES = {
    category: [id for id, of in GOLDEN["labels"].values() if of == category]
    for category in GOLDEN["categoryScores"]
}
KINDS = {
    "classes": (IDS, GOLDEN["classScores"], GOLDEN["averageScoreClasses"]),
    "categories": (CATEGORIES, GOLDEN["categoryScores"], GOLDEN["averageScoreCategories"]),
}


@pytest.fixture(scope="module")
def frames():
    return cityscapes_maps.frames()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cityscapes")
    cityscapes_maps.write(path)
    return path


def assert_same(found, want):
    assert found.keys() == want.keys()
    for name, score in want.items():
        assert abs(found[name] - score) <= 1e-12, name


def pooled(rows):
    return {
        row["class"]: float(row["pooled"])
        for row in rows
        if (row["metric"], row["aggregation"]) == ("iou", "pooled")
    }


def rows_of(columns):
    return [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)]


def test_the_frames_are_those_that_the_script_has_read(frames):
    matrix = np.zeros((34, 34), int)
    for frame in frames:
        np.add.at(matrix, (frame.labels, frame.prediction), 1)
    assert matrix.tolist() == GOLDEN["confMatrix"]
    assert matrix.sum(0).all() and matrix.sum(1).all()  # void ids are true and predicted as well


def test_the_page_maps_the_ids_that_do_not_count():
    assert {id: id if id in IDS.values() else 255 for id in range(34)} == ID_MAP


@pytest.mark.parametrize("source", ["folders", "arrays"])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluate(kind, source, folder, frames):
    classes, want, average = KINDS[kind]
    maps = folder / "results", folder / "gtFine" / "val"
    if source == "arrays":
        maps = [frame.prediction for frame in frames], [frame.labels for frame in frames]
    results = evaluate(
        *maps, classes=classes, ids=ID_MAP, ignore=255, metrics="iou", resamples=0, workers=1
    )
    assert not results.errors and len(results.records) == len(frames)
    assert_same(pooled(rows_of(results.summary)), want | {"mean of classes": average})


def test_the_commands_of_the_page(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path("cityscapes.json").write_text(BLOCKS["json"])
    for line in BLOCKS["sh"].replace("\\\n", "").splitlines():
        name, *words = shlex.split(line)
        done = CliRunner().invoke(command, [*words, "--workers", "1"])
        assert name == "jaxseg" and done.exit_code == 0, done.output
    for kind, (_, want, average) in KINDS.items():
        with open(f"{kind}/summary.csv", newline="", encoding="utf-8") as file:
            assert_same(pooled(csv.DictReader(file)), want | {"mean of classes": average})


def test_instances(frames):
    """The iIoU of classes and categories, by the functions of the page."""
    page: dict = {}
    exec(BLOCKS["python"], page)
    mean_sizes = np.zeros(34)
    for name in GOLDEN["classInstScores"]:
        mean_sizes[IDS[name]] = GOLDEN["average_sizes"][name]
    weights = np.stack([page["pixel_weights"](frame.instances, mean_sizes) for frame in frames])
    predictions = np.stack([frame.prediction for frame in frames])
    labels = np.stack([frame.labels for frame in frames])
    valid = np.isin(labels, list(IDS.values()))
    of_category = np.zeros(34, np.int32)  # 0: without instances
    of_category[CATEGORIES["human"]] = 1
    of_category[[*CATEGORIES["vehicle"], 29, 30]] = 2

    scores = page["instance_iou"](predictions, labels, weights, valid, 34)
    found = {name: scores[IDS[name]] for name in GOLDEN["classInstScores"]}
    assert_same(found, GOLDEN["classInstScores"])
    assert abs(np.mean(list(found.values())) - GOLDEN["averageScoreInstClasses"]) <= 1e-12

    scores = page["instance_iou"](of_category[predictions], of_category[labels], weights, valid, 3)
    found = {"human": scores[1], "vehicle": scores[2]}
    assert_same(found, GOLDEN["categoryInstScores"])
    assert abs(np.mean(list(found.values())) - GOLDEN["averageScoreInstCategories"]) <= 1e-12
