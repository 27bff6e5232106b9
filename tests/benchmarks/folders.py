"""Time of ``jaxseg evaluate`` beside loops of other libraries, over the same folders.

    python -m tests.benchmarks.folders maps
    python -m tests.benchmarks.folders volumes

``maps`` are PNG files of 1024x2048 pixels and 19 classes: Dice and IoU of each case and class,
beside the same processes that only decode, and beside a loop of Pillow and NumPy. ``volumes`` are
the NIfTI files that docs/examples/make_volumes.py writes: Dice, HD95, ASSD and surface Dice, beside
a loop over MONAI's functions, where MONAI is installed. Each contender is a process of its own, one
at a time, and its time is the whole process's. "Cases alone" is without what a run does once: the
imports of the main process before the first case, and the tables and the report after the last.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np

CLASSES = 19
SHAPE = (1024, 2048)
ORGANS = 5


def make_maps(folder: Path, pairs: int) -> None:
    """Write pairs of label maps with regions of wavy edges, as street scenes have."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("predictions", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(pairs):
        truth = regions(rng)
        prediction = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
        for _ in range(12):  # rectangles of a wrong class
            y, x = rng.integers(0, SHAPE[0] - 60), rng.integers(0, SHAPE[1] - 120)
            prediction[y : y + 60, x : x + 120] = rng.integers(CLASSES)
        for name, ids in (("predictions", prediction), ("labels", truth)):
            Image.fromarray(ids).save(folder / name / f"{number:04}.png")


def regions(rng: np.random.Generator, number: int = 40) -> np.ndarray:
    """The class of the nearest of some random points, by distances that waves bend."""
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    bent_y = y + 9 * np.sin(x / 37 + rng.uniform(0, 6)) + 3 * np.sin(x / 5)
    bent_x = x + 9 * np.sin(y / 31 + rng.uniform(0, 6)) + 3 * np.sin(y / 7)
    nearest = np.full(SHAPE, np.inf, np.float32)
    ids = np.zeros(SHAPE, np.uint8)
    for centre_y, centre_x in zip(
        rng.uniform(0, SHAPE[0], number), rng.uniform(0, SHAPE[1], number)
    ):
        distance = ((bent_y - centre_y) ** 2 + (bent_x - centre_x) ** 2).astype(np.float32)
        nearer = distance < nearest
        nearest[nearer] = distance[nearer]
        ids[nearer] = rng.integers(CLASSES)
    return ids


def decode(pair: tuple[Path, Path]) -> None:
    from PIL import Image

    for path in pair:
        with Image.open(path) as picture:
            np.asarray(picture)


def pairs_of(folder: Path) -> list[tuple[Path, Path]]:
    return [(folder / "predictions" / p.name, p) for p in sorted((folder / "labels").iterdir())]


def decode_all(folder: Path, workers: int) -> float:
    """Decode all pairs, by the same number of processes as score them; the seconds it takes."""
    from loky import ProcessPoolExecutor

    start = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        futures: list[Future[None]] = [pool.submit(decode, pair) for pair in pairs_of(folder)]
        for future in futures:
            future.result()
        return time.perf_counter() - start


def score_all(folder: Path, workers: int) -> float:
    """Score all pairs; the seconds from when the processes start to the last case."""
    from jaxseg.evaluation import _evaluate

    times: list[float] = []

    def tell(event: _evaluate.Event) -> None:
        if event.kind in ("start", "case"):
            times.append(time.perf_counter())

    predictions, labels = folder / "predictions", folder / "labels"
    with tempfile.TemporaryDirectory() as out:
        _evaluate.evaluate(
            predictions,
            labels,
            num_classes=CLASSES,
            workers=workers,
            out=f"{out}/results",
            tell=tell,
        )
    return times[-1] - times[0]


def numpy_loop(folder: Path) -> None:
    """Dice and IoU of all pairs by one bincount each."""
    from PIL import Image

    scores = []
    for pair in pairs_of(folder):
        p, g = (np.asarray(Image.open(path)).reshape(-1) for path in pair)
        cells = np.bincount(g.astype(np.int64) * CLASSES + p, minlength=CLASSES**2)
        matrix = cells.reshape(CLASSES, CLASSES)
        tp, sizes = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
        with np.errstate(invalid="ignore"):
            scores.append((2 * tp / sizes, tp / (sizes - tp)))


def monai_loop(folder: Path) -> None:
    """Dice, HD95, ASSD and surface Dice of all pairs of volumes by MONAI's functions."""
    import nibabel
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    for pair in pairs_of(folder):
        volumes = [nibabel.load(path) for path in pair]
        spacing = [float(step) for step in volumes[1].header.get_zooms()]
        masks = [
            torch.from_numpy(np.asarray(v.dataobj) == np.arange(ORGANS + 1).reshape(-1, 1, 1, 1))
            for v in volumes
        ]
        p, g = (mask[None] for mask in masks)
        compute_dice(p, g, include_background=False)
        compute_hausdorff_distance(p, g, percentile=95, spacing=spacing)
        compute_average_surface_distance(p, g, symmetric=True, spacing=spacing)
        compute_surface_dice(p, g, [2.0] * ORGANS, spacing=spacing)


def run(*command: str, environment: dict[str, str] | None = None) -> tuple[float, str]:
    """The time of a process, from its start to its end, and the last line that it printed."""
    start = time.perf_counter()
    ended = subprocess.run(
        command, check=True, env=os.environ | (environment or {}), stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - start, ended.stdout.strip().rpartition("\n")[2]


def contender(name: str, *arguments: object) -> tuple[float, str]:
    return run(sys.executable, "-m", "tests.benchmarks.folders", name, *map(str, arguments))


def evaluated(folder: Path, workers: int, cache: Path, *options: str) -> float:
    """The time of ``jaxseg evaluate`` with a folder of results."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "jaxseg", "evaluate"]
        paths = [str(folder / "predictions"), str(folder / "labels"), "--out", f"{out}/results"]
        work = ["--workers", str(workers), "--quiet"]
        kept = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        return run(*command, *paths, *work, *options, environment=kept)[0]


def maps(folder: Path, pairs: int, rounds: int) -> dict[str, list[float]]:
    """Pairs per second of each contender, turn by turn."""
    if not (folder / "labels").exists():
        make_maps(folder, pairs)
    options = ("--num-classes", str(CLASSES), "--metrics", "dice,iou")
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        taken = {}
        for n in sorted({1, os.cpu_count() or 1}):
            taken[f"jaxseg evaluate, {n}"] = evaluated(folder, n, folder / "cache", *options)
            taken[f"decoding, {n}"], alone = contender("decode", folder, n)
            taken[f"decoding, cases alone, {n}"] = float(alone)
            taken[f"scoring, cases alone, {n}"] = float(contender("score", folder, n)[1])
        taken["Pillow and NumPy"], _ = contender("numpy", folder)
        for name, time_taken in taken.items():
            found.setdefault(name, []).append(round(len(pairs_of(folder)) / time_taken, 1))
    return found


def volumes(folder: Path, cases: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender, turn by turn."""
    if not (folder / "labels").exists():
        run(sys.executable, "docs/examples/make_volumes.py", str(folder), "--cases", str(cases))
    names = ",".join(map(str, range(1, ORGANS + 1)))
    options = ("--classes", names, "--metrics", "dice,hd95,assd,nsd@2")
    workers = os.cpu_count() or 1
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name in ("jaxseg, first time", "jaxseg, again"):
                taken = evaluated(folder, workers, Path(cache), *options)
                found.setdefault(name, []).append(round(taken, 2))
        try:
            found.setdefault("MONAI", []).append(round(contender("monai", folder)[0], 2))
        except subprocess.CalledProcessError:
            print("MONAI's loop failed; is it installed?", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.folders", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=("maps", "volumes", "decode", "score", "numpy", "monai"))
    parser.add_argument("folder", type=Path, nargs="?", help="kept, with what is made in it")
    parser.add_argument("workers", type=int, nargs="?", default=os.cpu_count() or 1)
    parser.add_argument("--pairs", type=int, help="default: 500 maps, 20 volumes")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "pairs"
        match options.what:
            case "maps":
                print(json.dumps(maps(folder, options.pairs or 500, options.rounds), indent=1))
            case "volumes":
                print(json.dumps(volumes(folder, options.pairs or 20, options.rounds), indent=1))
            case "decode":
                print(decode_all(folder, options.workers))
            case "score":
                print(score_all(folder, options.workers))
            case "numpy":
                numpy_loop(folder)
            case "monai":
                monai_loop(folder)


if __name__ == "__main__":
    main()
