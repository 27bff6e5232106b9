"""The check of a device runs on a CPU, and finds wrong numbers, failed cases and failed tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    settings |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=settings, text=True, capture_output=True
    )


# ---------------------------------------------------------------------------------- wrong numbers

NAMES = ["dice", "confusion_matrix | 2 classes, random, axis", "iou", "no such row"]
# A process that works on two rows and ends at the third.
ENDS = """
import json, sys
print("ready")
for name in json.load(sys.stdin):
    if name == "c":
        sys.exit(3)
    print(json.dumps({"row": name, "wrong": []}))
"""
# Of the functions, in float32 alone, a score is too large by 1e-4 and a matrix by one. Then, of
# processes, one ends at a row and one does not start.
FAULTY = f"""
import io, json, sys
import jax, jaxseg

dice, matrix = jaxseg.dice, jaxseg.confusion_matrix

def one_more(*maps, **options):
    return matrix(*maps, **options) + (not jax.config.jax_enable_x64)

one_more.__name__ = matrix.__name__
jaxseg.dice = lambda c, **options: dice(c, **options) * (1 + 1e-4 * (c.tp.dtype == "float32"))
jaxseg.confusion_matrix = one_more

from tests.device import values

sys.stdin = io.StringIO(json.dumps({NAMES}))
values.work()
for worker in ({ENDS!r}, "1 / 0"):
    values.WORKER = [sys.executable, "-c", worker]
    values.supervise(list("abcd"), lambda row: print(json.dumps(row)), [])
"""


def test_wrong_numbers_and_processes_that_end_are_told():
    ready, *lines = run("-c", FAULTY).stdout.splitlines()
    assert ready == "ready"
    told = [(row["row"], row["wrong"]) for row in map(json.loads, lines)]
    names, (of_score, of_matrix, *others) = zip(*told)
    assert names == (*NAMES, *"abcd", "a")
    assert len(of_score) == 3 and of_score[0].startswith("not the number of float64")
    assert "outside" in of_score[1] and "not exactly" in of_score[2]
    assert of_matrix == ["not the number of float64: 8 of 8 numbers"]
    assert others == [
        *([], ["KeyError: 'no such row'"]),
        *([], [], ["its process ended with status 3"], []),
        ["no process could be started on the device"],
    ]


# ---------------------------------------------------------------------------------- files


ROW = "fbeta | arguments 1"


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pytest_xml(failure: str) -> str:
    cases = f'<testcase classname="tests.test_a" name="b">{failure}</testcase><testcase/>'
    return f'<testsuites><testsuite time="2.5">{cases}</testsuite></testsuites>'


def test_a_check_writes_its_files(tmp_path):
    values, timing = tmp_path / "values.jsonl", tmp_path / "timing.jsonl"
    quickly = ["--quick", "--only", "(2, 32, 32)"]
    assert not run("-m", "tests.device.values", "--only", ROW, "--out", str(values)).returncode
    assert not run("-m", "tests.device.timing", *quickly, "--out", str(timing)).returncode
    report = ["-m", "tests.device.report", str(tmp_path)]
    assert run(*report).returncode == 1  # no test has run
    (tmp_path / "pytest.xml").write_text(pytest_xml(""))
    parts = ("values", 124, 7), ("tests", 0, 3)
    lines = ("\t".join(map(str, part)) for part in parts)
    (tmp_path / "parts.tsv").write_text("".join(f"{line}\n" for line in lines))
    assert run(*report).returncode == 0

    results = json.loads((tmp_path / "results.json").read_text())
    assert results["faults"] == []
    asked, *rows = results["values"]
    assert asked == {"rows": 1} and [row["row"] for row in rows] == [ROW]
    assert rows[0]["error"] < 1 and rows[0]["wrong"] == []
    copy, *rows = results["timing"]
    assert copy["copy"] > 0 and {row["family"] for row in rows} == {"distance"}
    assert all(row["share"] > 0 for row in rows if row["contender"] == "jaxseg")
    text = (tmp_path / "results.md").read_text()
    assert "## Faults\n\nNone.\n" in text and "| score | 1 | 0 | 0 |" in text
    assert "| `[2, 32, 32]` |" in text and "2 passed, 0 failed, 0 skipped, in 2 s." in text
    assert "values: stopped when its time was over, 7 s; tests: done, 3 s." in text


def test_each_fault_is_reported(tmp_path):
    wrong = {"row": "dice", "wrong": ["it is 2"]}
    (tmp_path / "values.jsonl").write_text(lines({"rows": 2}, wrong) + '{"row": "cut')
    (tmp_path / "timing.jsonl").write_text(lines({"copy": 1e12}, {"case": "a", "error": "b"}))
    (tmp_path / "pytest.xml").write_text(pytest_xml("<failure/>"))
    machine = {"device": "a GPU", "processor": "b", "cores": 16, "platform": "Linux"}
    found = {"platform": "gpu", "driver": "1.2", "machine": machine, "versions": {"jax": "0.11.2"}}
    (tmp_path / "machine.json").write_text(json.dumps(found))
    assert run("-m", "tests.device.report", str(tmp_path)).returncode == 1
    faults = ["dice: it is 2", "a: b", "tests/test_a.py::b failed"]
    faults.append("no row has a kernel, which is the default on a GPU")
    assert json.loads((tmp_path / "results.json").read_text())["faults"] == faults
    text = (tmp_path / "results.md").read_text()
    assert all(f"- {fault}\n" in text for fault in faults)
    assert "a GPU; driver 1.2; b; 16 cores; Linux.\n\njax 0.11.2.\n" in text
    assert "1 of 2 rows" in text and "1 passed, 1 failed" in text
