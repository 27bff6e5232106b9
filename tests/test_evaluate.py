"""Folders scored for real: from files to tables, and what happens when a run goes wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import test_evaluation_readers as readers
from PIL import Image

from jaxseg.evaluation import _evaluate, _results, _run, evaluate, evaluate_case
from jaxseg.evaluation._records import CaseError

RNG = np.random.default_rng(0)
TABLES = ("cases.csv", "summary.csv", "summary.json", "errors.csv")


def write_png(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


def maps(number, shape=(24, 20), seed=0):
    rng = np.random.default_rng(seed)
    labels = [np.kron(rng.integers(0, 3, (6, 5)), np.ones((4, 4), int)) for _ in range(number)]
    labels = [x[: shape[0], : shape[1]] for x in labels]
    return [np.roll(x, rng.integers(-2, 3, 2), (0, 1)) for x in labels], labels


def folders(tmp_path, number=5):
    pairs = maps(number)
    for name, images in zip(("p", "g"), pairs, strict=True):
        for k, ids in enumerate(images):
            write_png(tmp_path / name / f"im{k:03}.png", ids)
    return tmp_path / "p", tmp_path / "g", list(zip(*pairs, strict=True))


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


def run(*words, **settings):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "jaxseg", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


def test_folders_are_scored_as_their_arrays_are(tmp_path):
    p, g, pairs = folders(tmp_path)
    metrics = "dice,iou,hd95,nsd@1"
    results = evaluate(p, g, num_classes=3, metrics=metrics, out=tmp_path / "out")
    want = [
        row
        for k, pair in enumerate(pairs)
        for row in evaluate_case(*pair, num_classes=3, metrics=metrics, case=f"im{k:03}")
    ]
    assert results.cases["value"] == [row.value for row in want]
    assert results.cases["case"] == [row.case for row in want]
    rows = read(tmp_path / "out" / "cases.csv")
    assert [float(row["value"]) for row in rows] == [row.value for row in want]
    assert {name for name in os.listdir(tmp_path / "out")} == {
        *TABLES, "records.jsonl", "run.json", "report.html",
    }  # fmt: skip
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["mean"] and summary["metric_per_case"]


def test_lists_of_arrays_and_of_files(tmp_path):
    _, _, pairs = folders(tmp_path)
    given = [list(x) for x in zip(*pairs, strict=True)]
    of_arrays = evaluate(*given, num_classes=3, group=list("aabbc"))
    paths = [[tmp_path / n / f"im{k:03}.png" for k in range(5)] for n in "pg"]
    of_files = evaluate(*paths, num_classes=3)
    assert of_arrays.cases["value"] == of_files.cases["value"]
    assert of_arrays.cases["group"][:6] == ["a"] * 6


def test_groups_are_in_the_order_of_the_list(tmp_path):
    p, g, _ = folders(tmp_path, 3)
    order = [2, 0, 1]
    paths = [[folder / f"im{k:03}.png" for k in order] for folder in (p, g)]
    groups = [f"patient{k}" for k in order]
    want = [f"patient{k}" for k in range(3)]
    options = {"classes": [1], "metrics": "dice"}
    assert evaluate(*paths, group=groups, **options).cases["group"] == want
    (p / "im001.png").unlink()
    worst = evaluate(*paths, group=groups, missing="worst", **options)
    assert worst.cases["group"] == want
    assert evaluate(p, g, group=want, missing="skip", **options).cases["group"] == want[::2]


def test_arrays_of_floats_are_ids_or_an_error():
    p, g = maps(1)
    options = {"num_classes": 3, "metrics": "dice"}
    whole = evaluate([p[0].astype(np.float32)], g, **options)
    assert whole.cases == evaluate(p, g, **options).cases
    (error,) = evaluate([p[0] * 0.7], g, **options).errors
    assert "not whole numbers" in error[1]


def test_predictions_are_resampled_wherever_their_grid_is_another(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    ids = np.zeros((10, 8, 6), np.uint8)
    ids[1:4, 2:5, 1:3] = 1
    flipped = np.diag([-1.0, 1, 2, 1])
    flipped[0, 3] = 9
    for name, array, affine in (("g", ids, np.diag([1.0, 1, 2, 1])), ("p", ids[::-1], flipped)):
        (tmp_path / name).mkdir()
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / name / "a.nii.gz")
    options = {"num_classes": 1, "metrics": "dice"}
    out = tmp_path / "out"
    found = evaluate(tmp_path / "p", tmp_path / "g", resample=True, out=out, **options)
    assert "do not hold what was scored" in (out / "report.html").read_text()
    assert found.cases["value"] == [1.0]
    assert "was resampled" in found.records[0].notes[0]
    assert evaluate(tmp_path / "p", tmp_path / "g", **options).cases["value"] == [0.0]


def test_a_segment_that_the_first_case_lacks_is_said(tmp_path):
    masks = np.zeros((2, 4, 5, 2), np.uint8)
    masks[:, 1:3, 1:3, 0] = masks[:, 3:, 3:, 1] = 1
    for name in "pg":
        (tmp_path / name).mkdir()
        readers.write_dicom(tmp_path / name / "a.dcm", None, masks[..., :1])
        readers.write_dicom(tmp_path / name / "b.dcm", None, masks)
    found = evaluate(tmp_path / "p", tmp_path / "g", metrics="dice")
    assert found.cases["class"] == ["part 1"] * 2 and found.cases["value"] == [1.0, 1.0]
    assert "lacks part 2: not scored" in " ".join(found.records[1].notes)


def test_a_map_may_name_255(tmp_path):
    mask = np.zeros((9, 9))
    mask[2:5, 2:5] = 255
    for name in "pg":
        write_png(tmp_path / name / "a.png", mask)
    found = evaluate(tmp_path / "p", tmp_path / "g", num_classes=2, ids={0: 0, 255: 1})
    assert not found.errors and found.cases["n_truth"][2] == 9


def test_a_chunk_that_changes_is_seen(tmp_path):
    (tmp_path / "a.zarr" / "0").mkdir(parents=True)
    (tmp_path / "a.zarr" / "0" / "c").write_bytes(b"1")
    before = _run.file_of(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "0" / "c").write_bytes(b"22")
    assert _run.file_of(tmp_path / "a.zarr") != before


def test_an_executor_without_workers_loses_no_case(tmp_path):
    p, g, _ = folders(tmp_path, 3)
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    results = evaluate(p, g, num_classes=3, executor=executor)
    assert [case for case, _ in results.errors] == ["im000", "im001", "im002"]


def test_an_executor_takes_whole_cases(tmp_path):
    p, g, _ = folders(tmp_path, 9)
    with ThreadPoolExecutor(2) as executor:
        one = evaluate(p, g, num_classes=3, executor=executor, out=tmp_path / "one")
    two = evaluate(p, g, num_classes=3, workers=1, out=tmp_path / "two")
    assert one.cases == two.cases
    assert tables(tmp_path / "one") == tables(tmp_path / "two")


def test_shards_merge_to_what_one_run_gives(tmp_path):
    from jaxseg.evaluation import merge

    p, g, _ = folders(tmp_path, 7)
    (g / "im003.png").write_bytes(b"no image")
    evaluate(p, g, num_classes=3, out=tmp_path / "whole")
    for k in (1, 2, 3):
        evaluate(p, g, num_classes=3, out=tmp_path / f"s{k}", shard=(k, 3))
    merge([tmp_path / f"s{k}" for k in (2, 1, 3)], tmp_path / "merged")
    assert tables(tmp_path / "merged") == tables(tmp_path / "whole")


def test_each_case_is_scored_or_listed(tmp_path):
    p, g, _ = folders(tmp_path, 6)
    (p / "im000.png").write_bytes((p / "im000.png").read_bytes()[:40])  # truncated
    write_png(p / "im001.png", np.zeros((3, 3)))  # another shape
    write_png(g / "im002.png", np.full((24, 20), 7))  # no class
    (p / "im003.png").unlink()
    (g / "im004.png").write_bytes(b"")
    told = []
    results = evaluate(p, g, num_classes=3, out=tmp_path / "out", tell=told.append)
    errors = {row["case"]: row["reason"] for row in read(tmp_path / "out" / "errors.csv")}
    assert sorted(errors) == [f"im{k:03}" for k in range(5)]
    assert {row["case"] for row in read(tmp_path / "out" / "cases.csv")} == {"im005"}
    assert "im000.png" in errors["im000"]
    assert "(3, 3)" in errors["im001"] and "(24, 20)" in errors["im001"]
    assert "7" in errors["im002"] and "--num-classes 8" in errors["im002"]
    assert "no prediction" in errors["im003"]
    assert len(results.records) == 1
    assert [event.text for event in told if event.kind == "warning" and "im003" in event.text]


def test_a_missing_file_is_not_an_empty_prediction(tmp_path):
    p, g, _ = folders(tmp_path, 3)
    (p / "im001.png").unlink()
    worst = evaluate(p, g, classes=[1, 2], missing="worst", metrics="dice,hd95")
    assert not worst.errors
    of_lost = [
        value
        for case, value in zip(worst.cases["case"], worst.cases["value"], strict=True)
        if case == "im001"
    ]
    assert of_lost == [0.0, np.inf, 0.0, np.inf]
    skipped = evaluate(p, g, classes=[1, 2], missing="skip")
    assert not skipped.errors and set(skipped.cases["case"]) == {"im000", "im002"}


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    p, g, _ = folders(tmp_path, 6)
    evaluate(p, g, num_classes=3, out=tmp_path / "whole")
    out = tmp_path / "out"
    evaluate(p, g, num_classes=3, out=out)
    lines = (out / "records.jsonl").read_bytes().splitlines(keepends=True)
    (out / "records.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:50])  # killed while writing
    with pytest.raises(ValueError, match="--resume"):
        evaluate(p, g, num_classes=3, out=out)
    told = []
    evaluate(p, g, num_classes=3, out=out, resume=True, tell=told.append)
    assert [e.number for e in told if e.kind == "start"] == [3]
    assert tables(out) == tables(tmp_path / "whole")

    write_png(p / "im001.png", np.zeros((24, 20)))  # one file changes
    told.clear()
    evaluate(p, g, num_classes=3, out=out, resume=True, tell=told.append)
    assert [e.text for e in told if e.kind == "case"] == ["im001"]
    evaluate(p, g, num_classes=3, out=tmp_path / "again")
    assert tables(out) == tables(tmp_path / "again")
    with pytest.raises(ValueError, match="other classes"):
        evaluate(p, g, num_classes=4, out=out, resume=True)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    p, g, _ = folders(tmp_path, 3)
    evaluate(p, g, num_classes=3, out=tmp_path / "out")
    records = (tmp_path / "out" / "records.jsonl").read_bytes()
    again = {"num_classes": 3, "out": tmp_path / "out", "resume": True}
    with (
        _results.open_records(tmp_path / "out"),
        pytest.raises(ValueError, match="Another run is writing to"),
    ):
        evaluate(p, g, **again)
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == records
    evaluate(p, g, **again)


def test_a_killed_command_goes_on(tmp_path):
    p, g, _ = folders(tmp_path, 40)
    out = tmp_path / "out"
    words = ["evaluate", p, g, "--num-classes", "3", "--metrics", "dice,hd95", "--workers", "1"]
    started = subprocess.Popen(
        [sys.executable, "-m", "jaxseg", *map(str, words), "--out", str(out), "--quiet"]
    )
    records = out / "records.jsonl"
    for _ in range(3000):
        if records.exists() and records.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert records.read_bytes().count(b"\n") >= 3
    gone_on = run(*words, "--out", out, "--resume")
    assert gone_on.returncode == 0, gone_on.stderr
    evaluate(p, g, num_classes=3, metrics="dice,hd95", out=tmp_path / "whole")
    for name in ("cases.csv", "summary.csv", "errors.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists processes as Linux does")
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGKILL], ids=lambda told: told.name)
def test_a_command_that_ends_leaves_no_processes(tmp_path, told):
    p, g, _ = folders(tmp_path, 60)
    words = ["evaluate", p, g, "--num-classes", "3", "--metrics", "dice,hd95", "--workers", "2"]
    started = subprocess.Popen(
        [sys.executable, "-m", "jaxseg", *map(str, words), "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    records = tmp_path / "out" / "records.jsonl"
    for _ in range(3000):
        if records.exists() and records.stat().st_size:
            break
        time.sleep(0.01)
    started.send_signal(told)
    said = started.communicate(timeout=60)[1]
    if told == signal.SIGTERM:
        assert "--resume goes on" in said
    assert started.returncode == (130 if told == signal.SIGTERM else -told)
    for _ in range(500):  # all are of one group
        try:
            os.killpg(started.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    pytest.fail("processes are left")


def deadly(job):
    """Read a case by a process that some cases kill."""
    if job.case.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    if job.case.startswith("bad"):
        raise CaseError("bad")
    return job.case


def test_a_case_that_kills_its_process_is_given_up():
    names = [*(f"good{k}" for k in range(9)), "deadly", "bad", "good9"]
    jobs = [_run.Job(name, "", None, Path(name)) for name in names]
    found = {job.case: result for job, result in _run.in_processes(deadly, jobs, 2)}
    assert sorted(found) == sorted(names)
    assert isinstance(found["deadly"], CaseError) and "killed" in str(found["deadly"])
    assert isinstance(found["bad"], CaseError) and str(found["bad"]) == "bad"
    assert all(found[name] == name for name in names if name.startswith("good"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--num-classes", "3"], 0, "mean of classes"),
        (["--num-classes", "3", "--fail-under", "dice.mean>=1.1"], 1, "not met"),
        (["--num-classes", "3", "--fail-under", "dice[1].mean>0"], 0, ""),
        (["--num-classes", "3", "--fail-under", "dice"], 2, "METRIC.mean"),
        (["--num-classes", "3", "--fail-under", "hd95.mean<3"], 2, "--metrics does not"),
        (
            ["--num-classes", "3", "--metrics", "hd", "--fail-under", "hd.pooled<3"],
            2,
            "no pooled hd",
        ),
        (["--num-classes", "3", "--fail-under", "dice[7].mean>0"], 2, "class 7, which is not"),
        (["--classes", "1", "--names", "mean of classes"], 2, "another name"),
        (["--num-classes", "3", "--metrics", "fish"], 2, "no metric"),
        (["--num-classes", "3", "--spacing", "0,1"], 2, "positive"),
        (["--num-classes", "3", "--shard", "3/2"], 2, "i/n"),
        ([], 2, "--num-classes"),
        (["--num-classes", "2"], 3, "no scores"),
        (["--num-classes", "3", "--by", "site"], 2, "no column"),
        (["--classes", "1,7", "--metrics", "precision"], 0, "1 class is in no map"),
        (
            [
                *("--classes", "1", "--metrics", "hd", "--missing-distance", "exclude"),
                *("--fail-under", "hd.mean<=99"),
            ],
            0,
            "",
        ),
    ],
    ids=str,
)
def test_exit_codes(tmp_path, words, code, said):
    from click.testing import CliRunner

    from jaxseg.evaluation._command import command

    p, g, _ = folders(tmp_path, 3)
    done = CliRunner().invoke(command, ["evaluate", str(p), str(g), *words])
    assert done.exit_code == code, done.output
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_an_interrupt_loses_nothing(tmp_path, monkeypatch):
    p, g, _ = folders(tmp_path, 4)

    def stopped(event):
        if event.kind == "case":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(p, g, num_classes=3, out=tmp_path / "out", tell=stopped)
    told = []
    evaluate(p, g, num_classes=3, out=tmp_path / "out", resume=True, tell=told.append)
    assert [e.number for e in told if e.kind == "start"] == [3]


def test_images_of_many_sizes_compile_few_programs(tmp_path):
    from jax._src import test_util

    rng = np.random.default_rng(0)
    sizes = rng.integers(30, 300, (50, 2))
    labels = [rng.integers(0, 3, size) for size in sizes]
    with test_util.count_jit_compilation_cache_miss() as count:
        evaluate(labels, labels, num_classes=3)
    assert count() <= 10


def test_a_picture_of_colours_is_mapped(tmp_path):
    from click.testing import CliRunner

    from jaxseg.evaluation._command import command

    _, g, pairs = folders(tmp_path, 2)
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    for k, (p, _) in enumerate(pairs):
        path = tmp_path / "rgb" / f"im{k:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(palette[p]).save(path)
    words = ["evaluate", str(tmp_path / "rgb"), str(g), "--num-classes", "3"]
    refused = CliRunner().invoke(command, words)
    assert refused.exit_code == 3 and "--map" in refused.output
    (tmp_path / "map.csv").write_text("#000000,0\n#ff0000,1\n#0000ff,2\n0,0\n1,1\n2,2\n")
    mapped = CliRunner().invoke(command, [*words, "--map", str(tmp_path / "map.csv")])
    assert mapped.exit_code == 0, mapped.output


def test_ids_of_arrays_are_mapped_as_those_of_files_are(tmp_path):
    p, g, pairs = folders(tmp_path)
    for options in ({"ids": {0: 7, 1: 0, 2: 1}}, {"reduce_zero_label": True}):
        options |= {"classes": [0, 1], "resamples": 0}
        of_arrays = evaluate(*map(list, zip(*pairs, strict=True)), **options)
        assert of_arrays.cases["value"] == evaluate(p, g, **options).cases["value"]
        assert min(of_arrays.cases["n_truth"]) > 0


def test_regions_alone_leave_other_ids_to_no_region(tmp_path):
    from click.testing import CliRunner

    from jaxseg.evaluation._command import command

    p, g, pairs = folders(tmp_path)
    for k, (prediction, _) in enumerate(pairs):
        write_png(p / f"im{k:03}.png", np.where(prediction == 2, 255, prediction))
    words = ["evaluate", str(p), str(g), "--regions", "all=1,2"]
    done = CliRunner().invoke(command, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    want = evaluate(p, g, classes={"all": [1, 2]}).cases["value"]
    assert [float(row["value"]) for row in read(tmp_path / "out" / "cases.csv")] == want
    strict = CliRunner().invoke(command, [*words, "--num-classes", "3"])
    assert strict.exit_code == 3 and "255" in strict.output


def test_regions_names_and_groups(tmp_path):
    p, g, _ = folders(tmp_path, 4)
    (g / "dataset.json").write_text(
        json.dumps(
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
        )
    )
    done = run("evaluate", p, g, "--group", r"im00(\d)", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "out" / "cases.csv")
    assert {row["class"] for row in rows} == {"whole", "core"}
    assert [row["group"] for row in rows if row["class"] == "core"][::2] == ["0", "1", "2", "3"]
    assert run("report", tmp_path / "out").returncode == 0


def test_maps_that_were_mapped_are_drawn_by_evaluate_alone(tmp_path):
    p, g, _ = folders(tmp_path, 2)
    out = tmp_path / "out"
    results = evaluate(p, g, classes=[0, 1], reduce_zero_label=True, out=out, resamples=0)
    assert "data:image/png" in (out / "report.html").read_text()
    _evaluate.write_report_of(results, out)
    page = (out / "report.html").read_text()
    assert "data:image/png" not in page and "do not hold what was scored" in page


def test_the_map_that_cannot_be_read_is_named(tmp_path):
    p, g, _ = folders(tmp_path, 1)
    (p / "im000.png").write_bytes(b"no picture")
    told = []
    evaluate(p, g, num_classes=3, tell=told.append)
    for kind in ("warning", "error"):
        (text,) = [event.text for event in told if event.kind == kind]
        assert f"The prediction {p / 'im000.png'}" in text


def test_help_comes_at_once():
    run("--help")  # Python compiles
    start = time.perf_counter()
    assert run("evaluate", "--help").returncode == 0
    assert run("evaluate", "nowhere", "nowhere").returncode == 2
    assert time.perf_counter() - start < 2 * 1.5 * 4  # of a machine that does other things too


@pytest.mark.parametrize(
    "write",
    [
        (".nii.gz", readers.write_nifti),
        (".nrrd", readers.write_nrrd),
        (".ome.tif", readers.write_ome_tiff),
        (".tif", readers.write_imagej),
        (".zarr", readers.write_zarr),
        (".dcm", readers.write_dicom),
    ],
    ids=lambda each: each[0],
)
def test_the_spacing_of_files(tmp_path, write):
    """A cube moved by one voxel along each axis, of 1, 2 and 5 mm."""
    suffix, writer = write
    cube = np.zeros((9, 10, 11), np.uint8)
    cube[3:6, 3:7, 3:6] = 1
    for name in ("p", "g"):
        (tmp_path / name).mkdir()
    for axis in range(3):
        writer(tmp_path / "p" / f"along{axis}{suffix}", np.roll(cube, 1, axis))
        writer(tmp_path / "g" / f"along{axis}{suffix}", cube)
    what = {} if suffix == ".dcm" else {"classes": [1]}
    results = evaluate(tmp_path / "p", tmp_path / "g", metrics="hd,dice", **what)
    assert results.errors == ()
    of_hd = [
        value
        for metric, value in zip(results.cases["metric"], results.cases["value"], strict=True)
        if metric == "hausdorff_max_mm"
    ]
    assert of_hd == list(readers.SPACING) == [1.0, 2.0, 5.0]


def test_cases_of_another_unit_are_listed(tmp_path):
    cube = np.zeros((9, 10, 11), np.uint8)
    cube[3:6, 3:7, 3:6] = 1
    p, g = tmp_path / "p", tmp_path / "g"
    for folder in (p, g):
        folder.mkdir()
        for case in ("a", "b"):
            readers.write_nifti(folder / f"{case}.nii.gz", cube)
        np.save(folder / "c.npy", cube)
    results = evaluate(p, g, classes=[1], metrics="dice,hd")
    assert [record.case for record in results.records] == ["a", "b"]
    ((case, reason),) = results.errors
    assert case == "c" and "has no spacing in mm" in reason and "--spacing" in reason
    for settings in ({"metrics": "dice"}, {"metrics": "hd", "spacing": "pixels"}):
        assert evaluate(p, g, classes=[1], **settings).errors == ()
    for case in ("d", "e"):
        for folder in (p, g):
            np.save(folder / f"{case}.npy", cube)
    results = evaluate(p, g, classes=[1], metrics="dice,hd")
    assert [case for case, _ in results.errors] == ["a", "b"]


def test_wrong_arguments():
    p, g = maps(2)
    of_metadata = {"0": {"scanner": "A"}}
    for options, words in (
        ({"missing": "skp"}, "missing must be"),
        ({"missing_distance": "diag"}, "missing_distance must be"),
        ({"shard": (0, 2)}, "shard must be"),
        ({"level": 95}, "level must be"),
        ({"by": ["site"]}, "no column of the metadata"),
        ({"by": ["site"], "metadata": of_metadata}, "metadata .--metadata.: scanner"),
    ):  # before the first case is scored
        with pytest.raises(ValueError, match=words):
            evaluate(p, g, num_classes=3, tell=pytest.fail, **options)
    with pytest.raises(ValueError, match="Give num_classes"):
        evaluate(p, g)
    with pytest.raises(ValueError, match="1 predictions and 2"):
        evaluate(p[:1], g, num_classes=3)
    with pytest.raises(ValueError, match="group has 1"):
        evaluate(p, g, num_classes=3, group=["a"])
    with pytest.raises(ValueError, match="spacing must be"):
        evaluate(p, g, num_classes=3, spacing=-1.0)
    assert _evaluate._reason(KeyError("x")) == "KeyError: 'x'"
