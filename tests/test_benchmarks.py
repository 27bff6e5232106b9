"""The benchmarks run, with the peers that are installed, and say which are not."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

# Modules without which a contender cannot run.
NEEDS = {
    "MONAI": ("torch", "monai"),
    "MONAI strided": ("torch", "monai"),
    "TorchMetrics": ("torch", "torchmetrics"),
    "metrax": ("metrax",),
    "edt": ("edt",),
    "MONAI's three calls": ("torch", "monai"),
    "MONAI's HD95": ("torch", "monai"),
}
NOT_JAX = (*(name for name in NEEDS if name != "metrax"), "np.bincount", "NumPy loop", "SciPy")
ALWAYS = {
    "Dice + CE": ("jaxseg", "plain JAX", "Optax"),
    "Dice": ("jaxseg", "plain JAX", "Optax"),
    "Confusion matrix": ("jaxseg", "np.bincount", "jnp.bincount"),
    "IoU of each class": ("jaxseg", "jaxseg counts", "NumPy loop"),
    "Evaluation": ("jaxseg", "np.bincount"),
    "Distance transform": ("jaxseg", "SciPy"),
    "HD95, ASSD and surface Dice": ("jaxseg",),
}


def test_a_quick_run(tmp_path):  # one test, as it is one run
    # In a process of its own: this one has settings that users have not. No time is looked at.
    settings = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    settings["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    command = ["-m", "tests.benchmarks", "--quick", "--rounds", "2", "--out"]
    printed = subprocess.check_output(
        [sys.executable, *command, str(tmp_path / "out")],
        cwd=Path(__file__).parents[1],
        env=settings,
        text=True,
    )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"loss.png", "counting.png"} if find_spec("matplotlib") else set()
    assert files == {"results.json", "results.md"} | pictures
    assert {Path(line).name for line in printed.splitlines()} == files

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert results["versions"]["jax"] and results["versions"]["optax"]
    assert (results["versions"]["torch"] is None) == (find_spec("torch") is None)
    assert results["machine"]["device"] and results["machine"]["cores"] > 0
    check_timed(results["rows"])
    check_untimed(results["rows"])
    check_peers(results["rows"], markdown)
    check_markdown(markdown)


def check_timed(rows):
    ran = [row for row in rows if "ratio" in row]
    found = {(row["task"], row["contender"]) for row in ran}
    assert found >= {(task, name) for task, names in ALWAYS.items() for name in names}
    for row in ran:
        low, high = row["quartiles"]
        assert 0 < low <= row["seconds"] <= high
        assert row["first_call"] > 0 and row["bandwidth"] > 0
        assert row["ratio"] == 1 or row["contender"] != "jaxseg"
        of_many_programs = row["family"] == "evaluation" or row["task"].startswith("HD95")
        untold = row["contender"] in NOT_JAX or of_many_programs
        assert (row["temporaries"] is None) == untold
        assert ("rate" in row) == (row["family"] == "evaluation")


def check_untimed(rows):
    startup = {row["task"]: row for row in rows if row["family"] == "startup"}
    assert startup["import jaxseg"]["seconds"] > 0
    assert startup["dice_loss"]["trace"] > 0 and startup["dice_loss"]["compile"] > 0
    memory = {row["task"]: row for row in rows if row["family"] == "memory"}
    assert memory["dice_loss"]["temporaries"] > 0


def check_peers(rows, markdown):
    for name, modules in NEEDS.items():
        of_peer = [row for row in rows if row.get("contender") == name]
        absent = [module for module in modules if find_spec(module) is None]
        if absent:
            reason = f"not installed (No module named '{absent[0]}')"
            assert {row.get("skipped") for row in of_peer} == {reason}
            assert f"- {name}: {reason}" in markdown
        else:
            assert any("seconds" in row for row in of_peer)


def check_markdown(text):
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:6] == [
        *("## Loss", "## Counting", "## Evaluation", "## Distance", "## Startup"),
        "## Memory of every loss",
    ]
    assert "4 batches of `[8, 16, 32]`, 19 classes, where" in text
    assert "plain JAX / jaxseg" in text and "`[2, 16, 16, 1]`, bfloat16, dense, where" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4 * len(ALWAYS) + 2  # and no temporaries of surface scores
    for table in tables:
        assert len({line.count("|") for line in table}) == 1  # every row has every column
