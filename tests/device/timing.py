"""Times on the device at hand, as shares of the bandwidth of a large copy, beside other libraries.

    PYTHONPATH=.:tests python -m tests.device.timing --out timing.jsonl

The contenders and the way of timing are those of ``tests/benchmarks``; the inputs are those that a
GPU is trained with. A time is the best of several turns. Each case is written when it is done, so a
run may be stopped at any time; what takes longest to compile is last.
"""

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # a first call compiles
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory too

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxseg
from tests.benchmarks import families, measure, peers
from tests.benchmarks.families import CountingCase, LossCase
from tests.benchmarks.measure import Step, Steps, host_step, jax_step

Rows = list[dict[str, Any]]

ROUNDS = 7
ROUNDS_BESIDE_HOSTS = 3  # of those that a host takes seconds for
COPIED = 2**28  # float32 numbers, 1 GiB

LOSS_CASES = [
    LossCase((32, 512, 512, 4)),
    LossCase((32, 512, 512, 4), "bfloat16"),
    LossCase((8, 512, 1024, 19)),
    LossCase((8, 512, 1024, 19), "bfloat16"),
    LossCase((2, 128, 128, 128, 32)),
    LossCase((2, 128, 128, 128, 32), "bfloat16"),
    LossCase((1, 128, 128, 128, 117)),
    LossCase((64, 512, 512, 2)),
    LossCase((16, 512, 512, 11)),
    LossCase((4, 512, 512, 150)),
    LossCase((4, 256, 256, 4)),
]
COMPILED_CASES = [LOSS_CASES[0], LOSS_CASES[2]]  # by torch.compile, a minute each
COUNTING_CASES = [CountingCase((16, 1024, 1024), classes) for classes in (2, 19, 150)]
DISTANCE_SHAPES = [(8, 512, 512), (1, 128, 128, 128), (1, 256, 256, 256), (16, 256, 256, 256)]
SURFACE_SHAPES = [(1, 128, 128, 128), (1, 256, 256, 256), (16, 256, 256, 256)]
EVERY_LOSS_SHAPE = (8, 512, 512, 4)
# Before the others, which may find no time.
FIRST_LOSSES = [
    *("dice_focal_loss", "cross_entropy_loss", "softmax_focal_loss", "hausdorff_dt_loss"),
    *("boundary_loss", "lovasz_softmax_loss", "top_k_loss", "cldice_loss"),
]

QUICK_LOSS_CASES = [LossCase((2, 64, 64, 4)), LossCase((2, 64, 64, 4), "bfloat16")]
QUICK_COUNTING_CASES = [CountingCase((2, 64, 64), 3)]
QUICK_DISTANCE_SHAPES = [(2, 32, 32)]
QUICK_SURFACE_SHAPES = [(1, 12, 14, 16)]


def rows_of(
    tasks: dict[str, Steps],
    moved: int,
    inputs: int,
    copy: float,
    rounds: int = ROUNDS,
    **case: Any,
) -> Rows:
    """A row for each contender: best time, and what must be moved over what a copy would."""
    named = {(task, name): step for task, steps in tasks.items() for name, step in steps.items()}
    ready = {key: step for key, step in named.items() if isinstance(step, Step)}
    best = {key: float(taken.min()) for key, taken in measure.take_rounds(ready, rounds).items()}
    rows = []
    for (task, name), step in named.items():
        row = {**case, "task": task, "contender": name}
        if isinstance(step, str):
            rows.append({**row, "skipped": step})
            continue
        rows.append(
            {
                **row,
                "seconds": best[task, name],
                "floor": moved / copy,
                "share": moved / copy / best[task, name],
                "first_call": step.first_call,
                "temporaries": measure.multiple(step.temporaries, inputs),
            }
        )
    return rows


def copy_bandwidth(numbers: int) -> float:
    """Bytes a second, read and written, of a copy of a large array."""
    x = jnp.ones(numbers, jnp.float32)
    (seconds,) = measure.take_rounds({"copy": jax_step(jnp.copy, x)}, ROUNDS).values()
    return 2 * x.nbytes / float(seconds.min())


# ---------------------------------------------------------------------------------- the cases


@partial(jax.jit, static_argnums=(0, 1))
def loss_arrays(shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    """Logits and ids, made on the device."""
    keys = jax.random.split(jax.random.key(0))
    labels = jax.random.randint(keys[1], shape[:-1], 0, shape[-1], jnp.int32)
    return jax.random.normal(keys[0], shape, jnp.dtype(dtype)), labels


def loss_rows(case: LossCase, copy: float) -> Rows:
    """Value and gradient of Dice + CE."""
    logits, labels = loss_arrays(case.shape, case.dtype)
    task = "Dice + CE"
    steps: Steps = {
        "jaxseg": families.own_loss(families.own_dice_ce, logits, labels, None),
        **peers.jax_loss_steps(logits, labels, None, [task])[task],
        **monai_steps(case, logits, labels, compiled=False),
    }
    return checked_rows(case, steps, logits, labels, copy)


def compiled_rows(case: LossCase, copy: float) -> Rows:
    """The same, of MONAI under torch.compile; jaxseg is there to check the value."""
    logits, labels = loss_arrays(case.shape, case.dtype)
    steps = monai_steps(case, logits, labels, compiled=True)
    if any(isinstance(step, Step) for step in steps.values()):
        own = families.own_loss(families.own_dice_ce, logits, labels, None)
        steps = {"jaxseg": own, **steps}
    rows = checked_rows(case, steps, logits, labels, copy)
    return [row for row in rows if row["contender"] != "jaxseg"]


def monai_steps(case: LossCase, logits: Array, labels: Array, *, compiled: bool) -> Steps:
    if isinstance(peers.load("monai.losses"), str):
        logits, labels = logits[:1, :1], labels[:1, :1]  # nothing to copy to the host
    steps = peers.monai_steps(
        np.array(logits.astype(jnp.float32)),  # copies, which torch may write to
        np.array(labels),
        dtype=case.dtype,
        masked=False,
        compiled=compiled,
        strided=False,
    )
    return {name: step for name, step in steps.items() if ("compiled" in name) == compiled}


def checked_rows(case: LossCase, steps: Steps, logits: Array, labels: Array, copy: float) -> Rows:
    tasks = {"Dice + CE": steps}
    # MONAI adds in bfloat16.
    rtol = 0.05 if case.dtype == "bfloat16" else 0.02
    families.check(case, tasks, lambda result: float(result[0]), rtol=rtol)
    moved = 3 * logits.nbytes + 2 * labels.nbytes
    return rows_of(tasks, moved, logits.nbytes, copy, family="loss", **case._asdict())


def counting_rows(case: CountingCase, copy: float) -> Rows:
    """Matrices and counts of maps in runs, of random ones and of one class alone."""
    predictions, labels, _ = families.label_maps(case)
    rng = np.random.default_rng(1)
    random = rng.integers(case.classes, size=(2, *case.shape), dtype=labels.dtype)
    maps = {"runs": (predictions, labels), "random": random, "one class": 0 * random}
    others = peers.matrix_steps(predictions, labels, None, case.classes)
    others = {name: step for name, step in others.items() if not name.startswith("np.")}
    first = {
        task: jax_step(partial(f, num_classes=case.classes), predictions, labels)
        for task, f in (("Confusion matrix", jaxseg.confusion_matrix), ("Counts", jaxseg.counts))
    }
    moved, rows = predictions.nbytes + labels.nbytes, []
    for kind, pair in maps.items():
        arrays = jax.device_put(tuple(pair))
        tasks: dict[str, Steps] = {
            task: {
                "jaxseg": measure.compiled_step(step.compiled, *arrays, first_call=step.first_call)
            }
            for task, step in first.items()
        }
        if kind == "runs":
            tasks["Confusion matrix"] |= others
            families.check(case, {"matrix": tasks["Confusion matrix"]}, np.asarray, 0)
        given = case._asdict() | {"family": "counting", "maps": kind}
        rows += rows_of(tasks, moved, moved, copy, **given)
    return rows


def distance_rows(shape: tuple[int, ...], copy: float) -> Rows:
    """Distances to sparse masks, image by image."""
    mask = np.random.default_rng(0).random(shape) < 0.001
    mask[(slice(None), *(0 for _ in shape[1:]))] = True
    on_device = jax.device_put(mask)
    tasks: dict[str, Steps] = {
        "Distance transform": {
            "jaxseg": jax_step(jax.vmap(jaxseg.distance_transform), on_device),
            **by_image(peers.distance_steps, mask),
        },
        "Signed distance": {"jaxseg": jax_step(jax.vmap(jaxseg.signed_distance), on_device)},
    }
    if shape[0] == 1:
        families.check(shape, tasks, lambda x: float(np.asarray(x, np.float64).sum()), rtol=1e-5)
    given: dict[str, Any] = {"family": "distance", "shape": shape, "rounds": ROUNDS_BESIDE_HOSTS}
    return rows_of(tasks, mask.nbytes + 4 * mask.size, mask.nbytes, copy, **given)


def by_image(steps: Callable[..., Steps], *arrays: np.ndarray) -> Steps:
    """A library's steps on an image; of a batch it would take as many times as long."""
    if len(arrays[0]) == 1:
        return steps(*(x[0] for x in arrays))
    return {}


def surface_rows(shape: tuple[int, ...], copy: float) -> Rows:
    """HD95, ASSD and surface Dice of two organs, in a trace and of known masks."""
    pair = families.PAIRS["two organs"](shape[1:], 5 * shape[1] // 8)
    p, g = (np.broadcast_to(x, shape).copy() for x in pair)
    arrays = jax.device_put((p, g))

    def beside(p: np.ndarray, g: np.ndarray) -> Steps:
        known = host_step(partial(surface_scores, p, g))
        return {"jaxseg, known masks": known, **peers.surface_steps(p[None], g[None])}

    tasks: dict[str, Steps] = {
        "HD95, ASSD and surface Dice": {
            "jaxseg": jax_step(jax.vmap(surface_scores), *arrays),
            **by_image(beside, p, g),
        }
    }
    families.check(shape, tasks, lambda x: np.ravel(x[0])[0], rtol=1e-4)
    given: dict[str, Any] = {"family": "distance", "shape": shape, "rounds": ROUNDS_BESIDE_HOSTS}
    return rows_of(tasks, p.nbytes + g.nbytes, p.nbytes + g.nbytes, copy, **given)


def surface_scores(p: Any, g: Any) -> tuple[Array, Array, Array]:
    d = jaxseg.surface_distances(p, g)
    return (
        jaxseg.hausdorff_distance(d, percentile=95),
        jaxseg.average_surface_distance(d),
        jaxseg.surface_dice(d, tolerance=2.0),
    )


def every_loss_rows(shape: tuple[int, ...], name: str, copy: float) -> Rows:
    """Value and gradient of one loss with its default arguments."""
    logits, labels = loss_arrays(shape, "float32")
    jax.clear_caches()
    start = time.perf_counter()
    compiled = families.lower(name, shape).compile()
    taken = time.perf_counter() - start
    step = measure.compiled_step(compiled, logits, labels, first_call=taken)
    moved = 3 * logits.nbytes + 2 * labels.nbytes
    tasks: dict[str, Steps] = {name: {"jaxseg": step}}
    return rows_of(tasks, moved, logits.nbytes, copy, family="every loss", shape=shape)


def all_cases(quick: bool, copy: float) -> Iterator[tuple[str, Callable[[], Rows]]]:
    """What is measured: a name, and what gives its rows."""
    losses = QUICK_LOSS_CASES if quick else LOSS_CASES
    counting = QUICK_COUNTING_CASES if quick else COUNTING_CASES
    shapes = QUICK_DISTANCE_SHAPES if quick else DISTANCE_SHAPES
    pairs = QUICK_SURFACE_SHAPES if quick else SURFACE_SHAPES
    shape = QUICK_LOSS_CASES[0].shape if quick else EVERY_LOSS_SHAPE
    names = families.QUICK_LOSSES if quick else FIRST_LOSSES
    others = [] if quick else [name for name in families.LOSSES if name not in names]
    each: list[tuple[Callable[..., Rows], list[Any]]] = [
        (loss_rows, losses[:3]),
        (counting_rows, counting),
        (distance_rows, shapes),
        (surface_rows, pairs),
        (loss_rows, losses[3:]),
        (compiled_rows, [] if quick else COMPILED_CASES[:1]),
        (partial(every_loss_rows, shape), names),
        (compiled_rows, [] if quick else COMPILED_CASES[1:]),
        (partial(every_loss_rows, shape), others),
    ]
    for f, cases in each:
        for case in cases:
            yield str(case), partial(f, case, copy)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.device.timing", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="file of a JSON line per row")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--quick", action="store_true", help="a few small inputs, to try it")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
    copy = copy_bandwidth(2**20 if options.quick else COPIED)
    with open(options.out, "w") as file:

        def write(row: dict[str, Any]) -> None:
            print(json.dumps(row), file=file, flush=True)

        write({"copy": copy})
        for name, rows in all_cases(options.quick, copy):
            if options.only not in name:
                continue
            print(name, file=sys.stderr, flush=True)
            try:
                for row in rows():
                    write(row)
            except Exception as error:
                traceback.print_exc()
                lines = str(error).strip().splitlines() or [""]
                write({"case": name, "error": f"{type(error).__name__}: {lines[0][:300]}"})


if __name__ == "__main__":
    main()
