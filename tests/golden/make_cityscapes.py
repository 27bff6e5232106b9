"""Scores of Cityscapes' own script on the maps of ``cityscapes_maps.py``, for ``cityscapes.json``.

Run in an environment of its own: ``pip install "numpy<2.4" cityscapesscripts==2.3.0`` (its script
calls a function that NumPy 2.4 has no more).
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCORES = ("classScores", "categoryScores", "classInstScores", "categoryInstScores")
AVERAGES = tuple(f"averageScore{of}" for of in ("Classes", "Categories", "InstClasses"))
AVERAGES += ("averageScoreInstCategories",)


def results(folder: Path) -> dict:
    """What the script writes about the maps in a folder."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    folders = {"DATASET": folder, "RESULTS": folder / "results", "EXPORT_DIR": folder}
    environment = os.environ | {f"CITYSCAPES_{key}": str(path) for key, path in folders.items()}
    command = [sys.executable, "-m", script.__name__]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "resultPixelLevelSemanticLabeling.json").read_text())


def main() -> None:
    import cityscapes_maps
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
    from cityscapesscripts.helpers.labels import labels

    with tempfile.TemporaryDirectory() as folder:
        cityscapes_maps.write(Path(folder))
        found = results(Path(folder))
    golden = {
        "package": "cityscapesScripts",
        "version": importlib.metadata.version("cityscapesscripts"),
        "command": "csEvalPixelLevelSemanticLabeling",
        # of the ids that count: id and category
        "labels": {x.name: [x.id, x.category] for x in labels if not x.ignoreInEval},
        "average_sizes": script.args.avgClassSize,
        **{key: {k: v for k, v in found[key].items() if v == v} for key in SCORES},
        **{key: found[key] for key in AVERAGES},
        "confMatrix": found["confMatrix"],
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items()]
    path = Path(__file__).with_name("cityscapes.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
