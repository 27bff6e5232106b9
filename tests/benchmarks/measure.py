"""Time, first call and compiler's memory of contenders, taken so that they can be compared."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxseg

LEAST_SECONDS = 0.02  # of a turn on a GPU or TPU

PACKAGES = (
    "jax",
    "jaxlib",
    "optax",
    "numpy",
    "torch",
    "monai",
    "torchmetrics",
    "google-metrax",
    "scipy",
    "edt",
)


class Step(NamedTuple):
    """A contender on its inputs, called once already."""

    run: Callable[..., Any]  # of how many times, once by default; returns when the last is done
    first_call: float  # seconds, with tracing and compilation
    temporaries: int | None = None  # the compiler's figure in bytes; JAX only
    compiled: Any = None  # JAX only


# A contender's name and its step, or in words why there is none.
Steps = dict[str, Step | str]


def jax_step(f: Callable[..., Any], *arrays: Any) -> Step:
    """``f(*arrays)`` jitted."""
    jax.clear_caches()  # else a contender would profit from those traced before it
    start = time.perf_counter()
    compiled = jax.jit(f).lower(*arrays).compile()
    jax.block_until_ready(compiled(*arrays))
    return compiled_step(compiled, *arrays, first_call=time.perf_counter() - start)


def compiled_step(compiled: Any, *arrays: Any, first_call: float) -> Step:
    """A compiled function on some arrays."""

    def run(times: int = 1) -> Any:
        for _ in range(times):
            result = compiled(*arrays)
        return jax.block_until_ready(result)

    return Step(run, first_call, temporaries(compiled), compiled)


def host_step(run: Callable[[], Any], finish: Callable[[Any], Any] = lambda result: result) -> Step:
    """``run``, which is not JAX; ``finish`` waits for its last result if ``run`` does not."""

    def repeated(times: int = 1) -> Any:
        for _ in range(times):
            result = run()
        return finish(result)

    start = time.perf_counter()
    repeated()
    return Step(repeated, time.perf_counter() - start)


def temporaries(compiled: Any) -> int | None:
    """Bytes that a compiled function needs beside its inputs and outputs, if the backend tells."""
    memory = compiled.memory_analysis()
    return None if memory is None else memory.temp_size_in_bytes


def take_rounds(steps: dict[Any, Step], rounds: int) -> dict[Any, np.ndarray]:
    """Seconds ``[rounds]`` of each step; in a round each has one turn.

    A machine whose speed drifts slows all alike, and nothing always follows the same neighbour. A
    turn is one run on a CPU. On a GPU or TPU it is as many as take some milliseconds together,
    waited for at the end, so that their launches are hidden.
    """
    rng = np.random.default_rng(0)
    seconds = {key: np.empty(rounds) for key in steps}
    keys = list(steps)
    least = 0.0 if jax.devices()[0].platform == "cpu" else LEAST_SECONDS
    times = {key: max(1, round(least / seconds_of(step))) for key, step in steps.items()}
    for i in range(rounds):
        for k in rng.permutation(len(keys)):
            key = keys[k]
            seconds[key][i] = seconds_of(steps[key], times[key]) / times[key]
    return seconds


def seconds_of(step: Step, times: int = 1) -> float:
    start = time.perf_counter()
    step.run(times)
    return time.perf_counter() - start


def rows_of(
    tasks: dict[str, Steps],
    *,
    baseline: Step,
    baseline_bytes: int,
    moved_bytes: int,
    input_bytes: int,
    rounds: int,
    **case: Any,
) -> list[dict[str, Any]]:
    """One row for each contender of each task, all timed in the same rounds.

    ``baseline`` moves ``baseline_bytes`` as fast as the device can; a contender must move
    ``moved_bytes``. Ratios are over the first contender of the task.
    """
    named = {(task, name): step for task, steps in tasks.items() for name, step in steps.items()}
    ready = {key: step for key, step in named.items() if isinstance(step, Step)}
    seconds = take_rounds({**ready, "baseline": baseline}, rounds)
    bandwidth = baseline_bytes / np.median(seconds["baseline"])
    rows = []
    for (task, name), step in named.items():
        row = {**case, "task": task, "contender": name}
        if isinstance(step, str):
            rows.append({**row, "skipped": step})
            continue
        own, taken = seconds[task, next(iter(tasks[task]))], seconds[task, name]
        rows.append(
            {
                **row,
                "seconds": float(np.median(taken)),
                "quartiles": np.quantile(taken, (0.25, 0.75)).tolist(),
                "ratio": float(np.median(taken / own)),
                "first_call": step.first_call,
                "temporaries": multiple(step.temporaries, input_bytes),
                "bandwidth": float(moved_bytes / np.median(taken) / bandwidth),
                "baseline_seconds": float(np.median(seconds["baseline"])),
                "rounds": rounds,
            }
        )
    return rows


def multiple(size: int | None, of: int) -> float | None:
    return None if size is None else size / of


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "device": jax.devices()[0].device_kind,
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }


def processor() -> str:
    """The processor's name, which Linux alone keeps in a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def versions() -> dict[str, str | None]:
    """Versions of everything that was timed; None for what is not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "jaxseg": jaxseg.__version__,
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
