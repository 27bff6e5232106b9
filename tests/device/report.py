"""What the parts of a check have written so far, as ``results.json`` and ``results.md``.

    PYTHONPATH=.:tests python -m tests.device.report FOLDER

The exit status is 1 if a number is wrong, a test failed or a part gave nothing.
"""

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from tests.benchmarks.report import NONE, case_label, milliseconds, percent, seconds, table, unique

Row = dict[str, Any]
MOST_SHOWN = 40  # faults of a part


def results_of(folder: Path) -> dict[str, Any]:
    """All that is in the folder."""
    machine, parts = folder / "machine.json", folder / "parts.tsv"
    found: dict[str, Any] = {
        "machine": json.loads(machine.read_text() or "null") if machine.exists() else None,
        "parts": [line.split("\t") for line in parts.read_text().splitlines()]
        if parts.exists()
        else [],
        "values": lines_of(folder / "values.jsonl"),
        "timing": lines_of(folder / "timing.jsonl"),
        "tests": tests_of(folder / "pytest.xml"),
    }
    return found | {"faults": faults_of(found)}


def lines_of(path: Path) -> list[Row]:
    """The complete lines of a file; the last one may be cut."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]


def tests_of(path: Path) -> dict[str, Any] | None:
    """How many tests passed, which did not, and how long they took together."""
    try:
        suite = ElementTree.parse(path).getroot().find("testsuite")
    except (OSError, ElementTree.ParseError):
        return None
    if suite is None:
        return None
    cases = list(suite.iter("testcase"))
    kinds = {kind: [c for c in cases if c.find(kind) is not None] for kind in ("failure", "error")}
    failed = unique(name_of(case) for some in kinds.values() for case in some)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failed) - skipped,
        "skipped": skipped,
        "failed": failed,
        "seconds": float(suite.get("time", "nan")),
    }


def name_of(case: Any) -> str:
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"


def faults_of(found: dict[str, Any]) -> list[str]:
    rows, timing, tests = found["values"], found["timing"], found["tests"]
    platform = (found["machine"] or {}).get("platform")
    faults = [f"{row['row']}: {'; '.join(row['wrong'])}" for row in rows if row.get("wrong")]
    faults += [f"{row['case']}: {row['error']}" for row in timing if "error" in row]
    faults += [f"{name} failed" for name in (tests["failed"] if tests else [])]
    if platform == "gpu" and not any(row.get("kernel") for row in rows):
        faults.append("no row has a kernel, which is the default on a GPU")
    for part, given in (("values", rows[1:]), ("timing", timing[1:]), ("tests", tests)):
        if not given:
            faults.append(f"{part}: nothing came back")
    return faults


# ---------------------------------------------------------------------------------- Markdown


def markdown(found: dict[str, Any]) -> str:
    parts = ["# Device check", *on(found), "## Faults"]
    faults = found["faults"]
    parts.append("\n".join(f"- {fault}" for fault in faults[:MOST_SHOWN]) or "None.")
    if len(faults) > MOST_SHOWN:
        parts.append(f"And {len(faults) - MOST_SHOWN} more, in results.json.")
    parts += ["## Values", *values(found["values"]), "## Times", *times(found["timing"])]
    parts += ["## Tests", tests(found["tests"])]
    return "\n\n".join(parts) + "\n"


def on(found: dict[str, Any]) -> list[str]:
    """What it ran on, and what became of each part."""
    words = []
    if found["machine"]:
        machine, versions = found["machine"]["machine"], found["machine"]["versions"]
        given = [machine["device"], machine["processor"], f"{machine['cores']} cores"]
        if found["machine"]["driver"]:
            given.insert(1, f"driver {found['machine']['driver']}")
        have = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        words += [f"{'; '.join(given)}; {machine['platform']}.", f"{have}."]
    told = {"0": "done", "124": "stopped when its time was over", "137": "killed"}
    each = [
        f"{n}: {told.get(status, f'status {status}')}, {s} s" for n, status, s in found["parts"]
    ]
    return [*words, f"{'; '.join(each)}."] if each else words


def values(rows: list[Row]) -> list[str]:
    if not rows:
        return ["None."]
    asked, rows = rows[0]["rows"], rows[1:]
    body = []
    for kind in unique(row.get("kind", "no result") for row in rows):
        of_kind = [row for row in rows if row.get("kind", "no result") == kind]
        errors = (
            most(row.get(key) for row in of_kind)
            for key in ("error", "plain_error", "kernel_to_plain")
        )
        kernels = sum(row.get("kernel", False) for row in of_kind)
        wrong = sum(bool(row["wrong"]) for row in of_kind)
        body.append([kind, *map(str, (len(of_kind), kernels, wrong)), *errors])
    header = ["kind", "rows", "with a kernel", "wrong", "error", "error of the plain form"]
    header.append("kernel to plain form")
    return [
        f"{len(rows)} of {asked} rows. Errors are the largest ones, in tolerances, of values and "
        "gradients against float64 on the CPU.",
        table(header, body),
    ]


def most(errors: Any) -> str:
    given = [error for error in errors if error is not None]
    return f"{max(given):.2g}" if given else NONE


def times(rows: list[Row]) -> list[str]:
    if not rows:
        return ["None."]
    copy, rows = rows[0]["copy"], [row for row in rows[1:] if "error" not in row]
    parts = [
        f"Copy of a large array: {copy / 1e12:.3g} TB/s, read and written. The floor is what must "
        "be moved at that speed, the share is the floor over the time. Times are the best of "
        "several turns."
    ]
    timed = [row for row in rows if "seconds" in row]
    for task in unique(row["task"] for row in timed if row["family"] != "every loss"):
        parts += [f"### {task}", comparison([row for row in timed if row["task"] == task])]
    each = [row for row in timed if row["family"] == "every loss"]
    if each:
        parts += [f"### Value and gradient of each loss, {label(each[0])}", every_loss(each)]
    left_out = unique(f"- {r['contender']}: {r['skipped']}" for r in rows if "skipped" in r)
    return [*parts, "Not timed:", "\n".join(left_out)] if left_out else parts


def comparison(rows: list[Row]) -> str:
    names = unique(row["contender"] for row in rows)
    own, *others = names
    body = []
    for case in unique(map(label, rows)):
        found = {row["contender"]: row for row in rows if label(row) == case}
        if own not in found:
            continue
        ours = found[own]
        ratios = (
            f"{found[name]['seconds'] / ours['seconds']:.2f}" if name in found else NONE
            for name in others
        )
        body.append([case, *time_cells(ours), *ratios])
    header = ["", "floor", own, "share", "temporaries", *(f"{name} / {own}" for name in others)]
    return table(header, body)


def time_cells(row: Row) -> list[str]:
    temporaries = row["temporaries"]
    return [
        milliseconds(row["floor"]),
        milliseconds(row["seconds"]),
        percent(row["share"]),
        NONE if temporaries is None else f"{temporaries:.2f}",
    ]


def every_loss(rows: list[Row]) -> str:
    body = [[f"`{r['task']}`", *time_cells(r), seconds(r["first_call"])] for r in rows]
    return table(["", "floor", "jaxseg", "share", "temporaries", "trace and compile"], body)


def label(row: Row) -> str:
    words = [case_label(row) if "dtype" in row else f"`{list(row['shape'])}`"]
    return ", ".join([*words, *([row["maps"]] if "maps" in row else [])])


def tests(found: dict[str, Any] | None) -> str:
    if found is None:
        return "None."
    counts = f"{found['passed']} passed, {len(found['failed'])} failed, {found['skipped']} skipped"
    return f"{counts}, in {found['seconds']:.0f} s."


def main() -> int:
    folder = Path(sys.argv[1])
    found = results_of(folder)
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(found))
    return bool(found["faults"])


if __name__ == "__main__":
    sys.exit(main())
