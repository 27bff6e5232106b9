"""Values and gradients on the device at hand, against float64 on the CPU and the plain form.

    PYTHONPATH=.:tests python -m tests.device.values --out values.jsonl

Each row is a function of the table in ``tests/cases.py`` with some inputs. It is compiled for the
device as users get it, and with ``JAXSEG_KERNELS=0`` if that is another program. The right numbers
are those of the CPU in float64. They are computed on the spot, so that nothing is carried along
that could be out of date. Several processes share the device; a row that ends its process is told
by its name, and the others go on.
"""

import argparse
import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import values
from cases import TABLE
from values import Maps

import jaxseg

# By the dtype that the device returns: of each number, and of the largest one of its array. Float32
# on a CPU takes a tenth of this. A loss of two parts rounds the gradient of each to bfloat16.
TOLERANCES = {"float32": (5e-5, 5e-6), "bfloat16": (2.0**-6, 2.0**-10)}
# Where an order or the least of some neighbours decides, a rounding may let numbers change places:
# a gradient may then differ at a few pixels.
DECIDING = (*cases.ORDERED, *cases.SPATIAL, "wrapper", "space")
MAY_DIFFER = 2e-3  # of the numbers

MOST_SECONDS = 100  # of a row; then its process ends
WORKER = [sys.executable, "-m", "tests.device.values", "--work"]

OTHER_KINDS = (
    *("convert", "predict", "moments", "spread", "space", "surface", "surfaces"),
    *cases.SKELETONS,
)
PLANE, VOLUME = (2, 65, 97), (2, 14, 20, 33)  # odd, so that tiles of pixels do not divide them
IMAGE = (1, 2)


class Row(NamedTuple):
    """A function of arrays, and the arrays."""

    name: str
    kind: str
    make: Callable[[], tuple[Any, ...]]
    run: Callable[..., Any]
    bounds: tuple[float, float] = (-math.inf, math.inf)


# ---------------------------------------------------------------------------------- losses


class Input(NamedTuple):
    """What a loss is of."""

    maps: Maps
    activation: str | None = "softmax"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        maps = self.maps
        words = [self.activation or "probabilities", f"{maps.classes} classes", maps.form]
        words += ["where"] * maps.masked + ["absent class"] * maps.absent
        words += ["weights"] * maps.weighted + ["by class"] * maps.by_class
        words += [str(len(maps.shape) - 1) + "-D"] + [f"axis={maps.axis}"] * bool(maps.axis)
        return ", ".join([*words, self.dtype])

    def arrays(self) -> tuple[Any, ...]:
        """Logits or probabilities, labels and where."""
        x, labels = self.maps.dirty()
        if self.activation is None:
            rng = np.random.default_rng(1)
            shares = rng.dirichlet(np.ones(self.maps.classes), self.maps.shape)
            x = np.where(np.isnan(x), x, shares)
        labels = labels.astype(np.float32) if self.maps.form == "soft" else labels
        return x.astype(self.dtype), labels, self.maps.arrays()[2]


INPUTS = [  # of every loss
    Input(Maps(PLANE, 4, "ids", False, None)),
    Input(Maps(PLANE, 5, "ids", True, IMAGE), dtype="bfloat16"),
    Input(Maps(PLANE, 11, "soft", True, None)),
    Input(Maps(PLANE, 1, "ids", True, None), "sigmoid"),
    Input(Maps(PLANE, 19, "masks", True, None, absent=True)),
    Input(Maps(PLANE, 3, "masks", True, IMAGE), "sigmoid"),
    Input(Maps(PLANE, 3, "soft", False, IMAGE), dtype="bfloat16"),
    Input(Maps(PLANE, 1, "soft", False, IMAGE), "sigmoid", "bfloat16"),
    Input(Maps(PLANE, 4, "ids", False, None), "sigmoid", "bfloat16"),
    Input(Maps(VOLUME, 6, "ids", False, (1, 2, 3))),
    Input(Maps(PLANE, 3, "soft", True, None), None),
    Input(Maps(PLANE, 5, "ids", False, None, weighted=True)),
    Input(Maps(PLANE, 3, "masks", True, IMAGE, weighted=True, by_class=True), "sigmoid"),
]
# Of a loss of each kind of terms: as many classes as a kernel cuts in different ways, other axes.
FEW_LOSSES = ("dice_ce_loss", "dice_focal_loss", "iou_loss")
INPUTS_OF_FEW = [
    *(
        Input(Maps(PLANE, classes, "ids", classes in (2, 32, 150), None), dtype=dtype)
        for classes in (2, 8, 32, 117, 150)
        for dtype in ("float32", "bfloat16")
    ),
    *(
        Input(Maps(PLANE, 19, "soft", True, axis), activation)
        for axis in ((0,), (2,), (0, 2))
        for activation in ("softmax", "sigmoid")
    ),
]
INPUTS_OF_CALLS = [INPUTS[1], INPUTS[5]]  # with each set of further arguments
SOFTMAX_ALONE = ("generalized_wasserstein_dice_loss",)


def loss_rows(names: Iterable[str], inputs: Iterable[Input], calls: slice) -> Iterator[Row]:
    for given in inputs:
        for name in names:
            if takes(name, given):
                for number, call in list(enumerate(values.calls_of(name)))[calls]:
                    yield loss_row(name, call, given, number)


def takes(name: str, given: Input) -> bool:
    """Whether a loss can be asked for such an input."""
    row, usual = TABLE[name], "sigmoid" if given.maps.classes == 1 else "softmax"
    if given.activation is None:
        return any("activation" in o and o["activation"] is None for _, _, o in row.variants)
    if not values.inputs_of(name, {name: given.maps}):
        return False
    is_free = cases.accepted(values.function_of(name, jaxseg), {"activation": None})
    return given.activation == usual or bool(is_free and name not in SOFTMAX_ALONE)


def loss_row(name: str, call: dict[str, Any], given: Input, number: int) -> Row:
    """A loss, with its gradients in the logits and in soft labels."""
    function = values.function_of(name, jaxseg)
    options = values.given_to(function, call, given.maps, None) | {"where": None}
    if "activation" in options:
        options["activation"] = given.activation

    def run(x: Any, labels: Any, where: Any) -> Any:
        def total(x: Any, labels: Any) -> Any:
            result = function(x, labels, **options | {"where": where})
            return sum(map(weighted, jax.tree.leaves(result)), jnp.float32(0)), result

        soft = given.maps.form == "soft"
        return jax.grad(total, (0, 1) if soft else (0,), has_aux=True)(x, labels)

    if name.startswith("linear"):  # its matrix product is one of the model, and may be rounded
        run = jax.default_matmul_precision("highest")(run)
    words = [name, f"arguments {number}" if number else "", given.name]
    return Row(" | ".join(filter(None, words)), TABLE[name].kind, given.arrays, run)


def weighted(x: Any) -> Any:
    """A sum in which no two numbers can take each other's place; the weights are exact."""
    weights = np.random.default_rng(2).integers(8, 25, x.shape) / 16
    return (x * weights.astype(x.dtype)).sum().astype(jnp.promote_types(x.dtype, jnp.float32))


# ---------------------------------------------------------------------------------- others


def map_rows() -> Iterator[Row]:
    """Counts of two maps, which are exact."""
    for classes in (2, 3, 19, 150, 300):
        for kind in ("random", "one class"):
            masked, axis = classes in (3, 150), IMAGE if classes in (2, 150) else None
            for function in (jaxseg.confusion_matrix, jaxseg.counts):
                run = partial(count, function, num_classes=classes, axis=axis)
                make = partial(two_maps, classes, kind, masked)
                words = [f"{classes} classes", kind, *["where"] * masked, *["axis"] * bool(axis)]
                yield Row(f"{function.__name__} | {', '.join(words)}", "hard", make, run)
    yield Row("counts | masks", "hard", two_masks, partial(count, jaxseg.counts, axis=IMAGE))


def count(function: Callable[..., Any], p: Any, g: Any, where: Any, **options: Any) -> Any:
    return function(p, g, where=where, **options)


def two_maps(classes: int, kind: str, masked: bool) -> tuple[Any, ...]:
    rng, dtype = np.random.default_rng(4), np.uint8 if classes < 256 else np.int32
    p, g = rng.integers(classes, size=(2, 2, 257, 509)).astype(dtype)
    if kind == "one class":
        p, g = np.full_like(p, classes - 1), np.full_like(g, classes - 1)
    return p, g, rng.random(g.shape) < 0.7 if masked else None


def two_masks() -> tuple[Any, ...]:
    p, g = np.random.default_rng(5).random((2, *PLANE, 3)) < 0.4
    return p, g, None


def score_rows() -> Iterator[Row]:
    """Scores, of empty and of perfect classes too, which keep their bounds."""
    rng = np.random.default_rng(6)
    some = rng.integers(1, 2**16, (4, 2000, 2))
    perfect, wrong = (some * np.array(keep)[:, None, None] for keep in ([1, 0, 0, 1], [0, 1, 1, 0]))
    counts = np.concatenate([values.COUNTS, some, perfect, wrong], 1).astype(np.float32)
    cells = rng.integers(1, 2**12, (2000, 3, 3))
    matrices = np.concatenate(
        [values.MATRICES, cells, cells * np.eye(3, dtype=int), cells * (1 - np.eye(3, dtype=int))]
    ).astype(np.float32)
    for name, row in TABLE.items():
        if row.kind in cases.SCORES:
            statistic = (matrices,) if row.kind == "matrix" else tuple(counts)
            for number, call in enumerate(row.calls):
                run = partial(score, name, {"zero_division": 0.0} | dict(call))
                words = f"{name} | arguments {number}" if number else name
                yield Row(words, "score", partial(tuple, statistic), run, row.bounds)


def score(name: str, options: dict[str, Any], *statistic: Any) -> Any:
    of = statistic[0] if TABLE[name].kind == "matrix" else jaxseg.Counts(*statistic)
    return getattr(jaxseg, name)(of, **options)


def other_rows() -> Iterator[Row]:
    """What else can be jitted: on the inputs of the laws, and of larger maps."""
    for case in cases.cases(*OTHER_KINDS):
        make = partial(case.make, np.random.default_rng(0))
        yield Row(case.name, case.kind, make, case.function)
    mask = lambda: (np.random.default_rng(7).random((65, 97)) < 0.01,)  # noqa: E731
    for function in (jaxseg.distance_transform, jaxseg.signed_distance):
        for spacing in (1.0, (2.0, 0.7)):
            run = partial(function, spacing=spacing)
            yield Row(f"{function.__name__} | spacing {spacing}", "space", mask, run)
    for areas in (False, True):
        for spacing in (1.0, (2.0, 0.7, 1.1)):
            run = partial(surface_scores, spacing=spacing, element_areas=areas)
            words = ["surface scores", f"spacing {spacing}", *["areas"] * areas]
            yield Row(" | ".join(words), "surfaces", two_objects, run)


def two_objects() -> tuple[Any, ...]:
    x, y, z = np.indices((33, 41, 37))
    first = (x - 15) ** 2 + (y - 20) ** 2 + 2 * (z - 17) ** 2 < 150
    return np.roll(first, (2, -3), (0, 1)), first


def surface_scores(p: Any, g: Any, **options: Any) -> Any:
    """All scores, which the compiler may make in one program."""
    d = jaxseg.surface_distances(p, g, **options)
    return (
        jaxseg.hausdorff_distance(d, percentile=95, method="directed"),
        jaxseg.average_surface_distance(d, method="directed"),
        jaxseg.surface_dice(d, tolerance=2.0),
        jaxseg.boundary_f_score(d, tolerance=1.0),
    )


def all_rows() -> dict[str, Row]:
    """The rows by name. Time may run out: those that a kernel serves come first."""
    losses = [name for name in TABLE if values.kind_of_check(name) == "loss"]
    served = [name for name in losses if TABLE[name].kind in cases.SOFT] + ["soft_counts"]
    others = [name for name in losses if name not in served]
    first, further = slice(1), slice(1, None)
    rows = [
        *loss_rows(served, INPUTS[:5], first),
        *map_rows(),
        *score_rows(),
        *loss_rows(FEW_LOSSES, INPUTS_OF_FEW, first),
        *loss_rows(served, INPUTS[5:], first),
        *loss_rows(others, INPUTS[:5], first),
        *other_rows(),
        *loss_rows(losses, INPUTS_OF_CALLS, further),
        *loss_rows(others, INPUTS[5:], first),
    ]
    found = {row.name: row for row in rows}
    assert len(found) == len(rows)
    return found


# ---------------------------------------------------------------------------------- one row


def result_of(row: Row) -> dict[str, Any]:
    """What there is to tell of a row; ``wrong`` says what is wrong, if anything is."""
    start = time.perf_counter()
    args = row.make()
    of_device, text = compiled(row, args, kernels=True)
    has_kernel = any(word in text for word in ("triton", "mosaic", "tpu_custom_call"))
    got = on_host(of_device(*args))
    wrong = []
    if has_kernel and not same_bits(got, on_host(of_device(*args))):
        wrong.append("two runs differ")
    right = in_float64(row, args)
    error, message = difference(got, right, row.kind)
    wrong += [f"not the number of float64: {message}"] if message else []
    result = {"row": row.name, "kind": row.kind, "kernel": has_kernel, "error": error}
    of_plain, plain_text = compiled(row, args, kernels=False)
    if plain_text != text:
        plain = on_host(of_plain(*args))
        result["plain_error"], message = difference(plain, right, row.kind)
        wrong += [f"the plain form is not the number of float64: {message}"] if message else []
        result["kernel_to_plain"], message = difference(got, plain, row.kind)
        wrong += [f"the kernel is not the plain form: {message}"] if message else []
    if row.kind == "score":
        wrong += out_of_bounds(row, got, right)
    return result | {"wrong": wrong, "seconds": time.perf_counter() - start}


def compiled(row: Row, args: tuple[Any, ...], *, kernels: bool) -> tuple[Callable[..., Any], str]:
    """The row's function, compiled for the default device, and its text."""
    for variable in ("JAXSEG_KERNELS", "JAXSEG_TPU_KERNELS"):
        os.environ[variable] = "1" if kernels else "0"
    jax.clear_caches()  # they are read when a function is traced
    lowered = jax.jit(row.run).lower(*args)
    text = lowered.as_text()
    return lowered.compile(), text


def in_float64(row: Row, args: tuple[Any, ...]) -> Any:
    """The row's numbers, from the CPU; compiled quickly, not to be fast."""
    wide = jax.tree.map(lambda x: x.astype(np.float64) if is_float(x) else x, args)
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            return on_host(jax.jit(row.run)(*wide))
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def on_host(results: Any) -> Any:
    return jax.tree.map(np.asarray, results)


def is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


def difference(got: Any, right: Any, kind: str) -> tuple[float, str]:
    """The largest error, where 1 is the tolerance, and a message if it is larger than that."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(right), strict=True)
    each = [difference_of(a, b, kind) for a, b in pairs]
    return max(error for error, _ in each), "; ".join(filter(None, (m for _, m in each)))


def difference_of(got: np.ndarray, right: np.ndarray, kind: str) -> tuple[float, str]:
    if got.shape != right.shape:
        return math.inf, f"shape {got.shape} instead of {right.shape}"
    if not is_float(got):
        count = int((got != right).sum())
        return (math.inf, f"{count} of {got.size} numbers") if count else (0.0, "")
    a, b = got.astype(np.float64), right.astype(np.float64)
    each, largest = TOLERANCES[got.dtype.name]
    finite = np.isfinite(b)
    scale = np.abs(b[finite]).max(initial=0)
    allowed = each * np.abs(b) + largest * scale + 1e-30
    with np.errstate(invalid="ignore"):
        errors = np.where(finite, np.abs(a - b) / allowed, np.where(same(a, b), 0, np.inf))
    errors = np.where(np.isnan(errors), np.inf, errors)
    few = int(MAY_DIFFER * got.size) if kind in DECIDING else 0
    ordered = np.sort(errors, axis=None)
    error = float(ordered[-1 - few]) if got.size else 0.0
    if error <= 1:
        return error, ""
    at = np.unravel_index(errors.argmax(), errors.shape)
    where = f" at {[int(i) for i in at]}" if at else ""
    return error, f"{a[at]:.9g} instead of {b[at]:.9g}{where}, {error:.3g} tolerances"


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def out_of_bounds(row: Row, got: np.ndarray, right: np.ndarray) -> list[str]:
    """Bounds hold exactly, and a score of exactly 0, 1 or -1 is that on the device too."""
    low, high = row.bounds
    outside = int(((got < low) | (got > high)).sum())
    exact = int((np.isin(right, (-1, 0, 1)) & (got != right)).sum())
    return [
        *([f"{outside} scores are outside [{low}, {high}]"] if outside else []),
        *([f"{exact} scores are not exactly -1, 0 or 1"] if exact else []),
    ]


# ---------------------------------------------------------------------------------- processes


def work() -> None:
    """Read names, a JSON list, and print a JSON line for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    rows = all_rows()
    jax.devices()
    print("ready", flush=True)
    for name in json.load(sys.stdin):
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        try:
            result = result_of(rows[name])
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            result = {"row": name, "wrong": [f"{type(error).__name__}: {lines[0][:300]}"]}
        print(json.dumps(result), flush=True)


def supervise(
    names: list[str],
    tell: Callable[[dict[str, Any]], None],
    running: list[subprocess.Popen[str]],
) -> None:
    """Have processes work on rows, one after the other until there is a result of each row."""
    while names:
        process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(names))
        process.stdin.close()
        is_ready = process.stdout.readline() == "ready\n"
        for line in process.stdout:
            tell(json.loads(line))
            names = names[1:]
        status = process.wait()
        if not is_ready:
            tell({"row": names[0], "wrong": ["no process could be started on the device"]})
            return
        if names:
            tell({"row": names[0], "wrong": [f"its process ended with status {status}"]})
            names = names[1:]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.device.values", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, help="file of a JSON line per row; default: print")
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--quick", action="store_true", help="one row in fifty")
    parser.add_argument("--workers", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work()
        return
    names = [name for name in all_rows() if options.only in name][:: 50 if options.quick else 1]
    running: list[subprocess.Popen[str]] = []
    lock = threading.Lock()
    with open(options.out or os.devnull, "w") as file:

        def tell(result: dict[str, Any]) -> None:
            with lock:
                print(json.dumps(result), file=file, flush=True)
                if result["wrong"] or not options.out:
                    print(result["row"], *(result["wrong"] or ["right"]), sep="\n    ", flush=True)

        print(json.dumps({"rows": len(names)}), file=file, flush=True)
        shares = [names[i :: options.workers] for i in range(options.workers)]
        threads = [
            threading.Thread(target=supervise, args=(share, tell, running), daemon=True)
            for share in shares
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            lock.acquire()  # nothing more is told
            for process in running:
                process.kill()
            os._exit(1)


if __name__ == "__main__":
    main()
