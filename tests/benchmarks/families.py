"""What is measured: the cases of each family, and their rows."""

import functools
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxseg
from tests.benchmarks import peers
from tests.benchmarks.measure import (
    Step,
    Steps,
    host_step,
    jax_step,
    multiple,
    rows_of,
    temporaries,
)

Rows = list[dict[str, Any]]


class LossCase(NamedTuple):
    shape: tuple[int, ...]  # of the logits
    dtype: str = "float32"
    dense: bool = False  # one-hot float32 labels, in place of ids
    where: bool = False


class CountingCase(NamedTuple):
    shape: tuple[int, ...]  # of a label map
    classes: int
    dtype: str = "uint8"
    where: bool = False


class EvaluationCase(NamedTuple):
    shape: tuple[int, ...]  # of a batch of label maps
    classes: int
    batches: int = 4
    dtype: str = "uint8"
    where: bool = True


class DistanceCase(NamedTuple):
    shape: tuple[int, ...]  # of a mask
    mask: str  # a key of MASKS


class SurfaceCase(NamedTuple):
    shape: tuple[int, ...]
    size: int
    mask: str  # a key of PAIRS
    images: int = 1  # each 4 pixels smaller than the one before it


LOSS_CASES = [
    *(LossCase((4, 256, 256, c)) for c in (1, 2, 4, 11, 19, 32)),
    *(LossCase((2, 128, 128, c)) for c in (117, 150)),
    LossCase((1, 64, 64, 64, 32)),
    LossCase((2, 32, 32, 32, 117)),
    # fewer and more pixels
    *(LossCase((*batch, 11)) for batch in ((1, 64, 64), (1, 256, 256), (16, 256, 256))),
    *(LossCase((4, 256, 256, c), dtype="bfloat16") for c in (1, 4, 11, 32)),
    *(LossCase((4, 256, 256, c), dense=True) for c in (1, 4, 11, 32)),
    *(LossCase((4, 256, 256, c), where=True) for c in (1, 4, 11, 32)),
]
QUICK_LOSS_CASES = [
    LossCase((2, 16, 16, 4)),
    LossCase((2, 16, 16, 1), dtype="bfloat16", dense=True, where=True),
]

COUNTING_CASES = [
    *(CountingCase((192, 64, 84), c) for c in (2, 11, 19, 150)),
    *(CountingCase((16, 1024, 1024), c) for c in (2, 19)),
    CountingCase((192, 64, 84), 11, dtype="int32"),
    CountingCase((192, 64, 84), 11, where=True),
]
QUICK_COUNTING_CASES = [
    CountingCase((4, 32, 32), 2),
    CountingCase((4, 32, 32), 5, dtype="int32", where=True),
]

EVALUATION_CASES = [EvaluationCase((8, 1024, 2048), 19)]
QUICK_EVALUATION_CASES = [EvaluationCase((8, 16, 32), 19)]

# The edge of an object, one pixel in a corner, and a few pixels anywhere: near, far and in between.
MASKS: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "edge of a ball": lambda shape: np.abs(from_centre(shape) - 0.35 * shape[0]) < 0.5,
    "one far pixel": lambda shape: np.arange(math.prod(shape)).reshape(shape) == 1,
    "a few pixels": lambda shape: (
        np.random.default_rng(0).random(shape) < 5 / math.prod(shape) ** (2 / 3)
    ),
}
DISTANCE_CASES = [
    DistanceCase(shape, mask)
    for shape in (*((n, n, n) for n in (64, 128, 160, 256)), (512, 512), (2048, 2048))
    for mask in MASKS
]
QUICK_DISTANCE_CASES = [DistanceCase((12, 12, 12), "edge of a ball")]

# Pairs of masks, of which the first is the prediction; a size is a diameter.
PAIRS: dict[str, Callable[[tuple[int, ...], int], tuple[np.ndarray, np.ndarray]]] = {
    "two organs": lambda shape, size: (organ(shape, 0.97 * size, 3), organ(shape, size, 0)),
    "and a far speck": lambda shape, size: (
        organ(shape, 0.97 * size, 3) | (np.arange(math.prod(shape)).reshape(shape) == 1),
        organ(shape, size, 0),
    ),
    "half of it missed": lambda shape, size: (
        organ(shape, size, 0) & (np.indices(shape)[0] < shape[0] // 2),
        organ(shape, size, 0),
    ),
    "all against one pixel": lambda shape, _: (
        np.ones(shape, bool),
        np.arange(math.prod(shape)).reshape(shape) == math.prod(shape) // 2,
    ),
}
SURFACE_CASES = [
    *(SurfaceCase((224, 224, 224), size, "two organs") for size in (64, 100, 160)),
    *(SurfaceCase((224, 224, 224), 160, pair) for pair in list(PAIRS)[1:]),
    SurfaceCase((256, 256), 190, "two organs", images=32),
]
QUICK_SURFACE_CASES = [SurfaceCase((12, 12, 12), 10, "two organs", images=2)]

STARTUP_SHAPE = (2, 64, 64, 4)
MEMORY_SHAPE = (4, 256, 256, 11)
QUICK_SHAPE = (1, 16, 16, 4)
LOSSES = [name for name in jaxseg.__all__ if name.endswith("_loss")]
QUICK_LOSSES = ["dice_loss", "cross_entropy_loss"]


def loss(rounds: int, quick: bool) -> Rows:
    """Value and gradient of Dice, and of Dice and cross-entropy."""
    return [
        row
        for case in (QUICK_LOSS_CASES if quick else LOSS_CASES)
        for row in loss_rows(case, rounds, compiled=not quick)
    ]


def loss_rows(case: LossCase, rounds: int, compiled: bool) -> Rows:
    print(case, file=sys.stderr)  # a full run is long
    rng = np.random.default_rng(0)
    classes, dtype = case.shape[-1], jnp.dtype(case.dtype)
    logits = rng.standard_normal(case.shape, np.float32)
    labels = rng.integers(max(classes, 2), size=case.shape[:-1], dtype=np.int32)
    if case.dense:
        one_hot = labels[..., None] == (np.arange(classes) if classes > 1 else 1)
        labels = one_hot.astype(np.float32)
    where = rng.random(case.shape[:-1]) < 0.9 if case.where else None

    arrays = jax.device_put((logits.astype(dtype), labels, where), jax.devices()[0])
    jax_tasks = peers.jax_loss_steps(*arrays)
    monai = peers.monai_steps(
        logits,
        labels,
        dtype=case.dtype,
        masked=case.where,
        # It takes tens of seconds each time.
        compiled=compiled and case == LossCase(case.shape) and classes in (4, 11, 32),
    )
    dice_ce, dice = own_loss(own_dice_ce, *arrays), own_loss(own_dice, *arrays)
    tasks: dict[str, Steps] = {
        "Dice + CE": {
            "jaxseg": dice_ce,
            **jax_tasks["Dice + CE"],
            **monai,
        },
        "Dice": {
            "jaxseg": dice,
            **jax_tasks["Dice"],
        },
    }
    check(case, tasks, lambda result: float(result[0]), rtol=0.02)  # Optax's mean is of images
    size = arrays[0].nbytes
    return rows_of(
        tasks,
        baseline=jax_step(jnp.copy, arrays[0]),
        baseline_bytes=2 * size,
        moved_bytes=3 * size,  # the logits are read for the sums and for the gradient
        input_bytes=size,
        rounds=rounds,
        family="loss",
        **case._asdict(),
        classes=classes,
        pixels=math.prod(case.shape[:-1]),
    )


def own_loss(f: Callable[..., Array], *arrays: Array) -> Step:
    return jax_step(jax.value_and_grad(f), *arrays)


def own_dice_ce(logits: Array, labels: Array, where: Array | None) -> Array:
    if logits.shape[-1] == 1:
        return jaxseg.bce_dice_loss(logits, labels, bce_weight=1.0, where=where)
    return jaxseg.dice_ce_loss(logits, labels, where=where)


def own_dice(logits: Array, labels: Array, where: Array | None) -> Array:
    activation = "sigmoid" if logits.shape[-1] == 1 else "softmax"
    return jaxseg.dice_loss(logits, labels, activation=activation, where=where).mean()


def counting(rounds: int, quick: bool) -> Rows:
    """Confusion matrices and the IoU of each class."""
    return [
        row
        for case in (QUICK_COUNTING_CASES if quick else COUNTING_CASES)
        for row in counting_rows(case, rounds)
    ]


def counting_rows(case: CountingCase, rounds: int) -> Rows:
    print(case, file=sys.stderr)
    predictions, labels, where = label_maps(case)
    arrays = jax.device_put((predictions, labels, where), jax.devices()[0])

    def own(f: Callable[..., Any]) -> Step:
        return jax_step(lambda p, g, w: f(p, g, num_classes=case.classes, where=w), *arrays)

    maps = (predictions, labels, where, case.classes)
    matrix = own(jaxseg.confusion_matrix)
    tasks: dict[str, Steps] = {
        "Confusion matrix": {
            "jaxseg": matrix,
            **peers.matrix_steps(*maps),
        },
        "IoU of each class": {
            "jaxseg": own(lambda *a, **k: jaxseg.iou(jaxseg.counts(*a, **k))),
            "jaxseg counts": own(jaxseg.counts),
            **peers.iou_steps(*maps),
        },
    }
    matrices, (own_iou, _, *iou) = (list(steps.items()) for steps in tasks.values())
    check(case, {"matrix": dict(matrices)}, np.asarray, rtol=0)
    check(case, {"mean IoU": dict([own_iou, *iou])}, np.mean, rtol=1e-5)
    return rows_of_maps(tasks, case, predictions, labels, rounds, family="counting")


def rows_of_maps(
    tasks: dict[str, Steps],
    case: CountingCase | EvaluationCase,
    predictions: np.ndarray,
    labels: np.ndarray,
    rounds: int,
    *,
    family: str,
) -> Rows:
    """Rows of contenders that read both maps once."""
    size = predictions.nbytes + labels.nbytes
    return rows_of(
        tasks,
        # As many bytes of floats: integers of 8 bits are summed by arithmetic, not by bandwidth.
        baseline=jax_step(lambda x: x.sum(1), jnp.ones((size // 4096, 1024), jnp.float32)),
        baseline_bytes=size,
        moved_bytes=size,
        input_bytes=size,
        rounds=rounds,
        family=family,
        **case._asdict(),
        pixels=labels.size,
    )


def evaluation(rounds: int, quick: bool) -> Rows:
    """The confusion matrix of a data set, batch by batch, with an ignore label."""
    return [
        row
        for case in (QUICK_EVALUATION_CASES if quick else EVALUATION_CASES)
        for row in evaluation_rows(case, rounds)
    ]


def evaluation_rows(case: EvaluationCase, rounds: int) -> Rows:
    print(case, file=sys.stderr)
    count, *shape = case.shape
    predictions, labels, where = label_maps(case._replace(shape=(count * case.batches, *shape)))
    assert where is not None
    labels = np.where(where, labels, peers.VOID).astype(labels.dtype)
    maps = [x.reshape(case.batches, *case.shape) for x in (predictions, labels)]
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    steps: Steps = {"jaxseg": own_evaluation(case, *maps, one)}
    if jax.device_count() > 1:
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        steps[f"jaxseg on {mesh.size} devices"] = own_evaluation(case, *maps, batch)
    steps |= peers.evaluation_steps(*maps, case.classes)
    tasks = {"Evaluation": steps}
    check(case, tasks, np.asarray, rtol=0)
    rows = rows_of_maps(tasks, case, predictions, labels, rounds, family="evaluation")
    return [
        row | ({"rate": labels.size / row["seconds"]} if "seconds" in row else {}) for row in rows
    ]


def own_evaluation(
    case: EvaluationCase, predictions: np.ndarray, labels: np.ndarray, sharding: Any
) -> Step:
    """A step for each batch, whose maps lie on the devices, and the exact matrix at the end."""
    batches = [jax.device_put(batch, sharding) for batch in zip(predictions, labels, strict=True)]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: jaxseg.Running, p: Array, g: Array) -> jaxseg.Running:
        where = g != peers.VOID
        return state + jaxseg.confusion_matrix(p, g, num_classes=case.classes, where=where)

    def run() -> np.ndarray:
        state = jaxseg.running(np.zeros((case.classes, case.classes), np.int64))
        for batch in batches:
            state = step(state, *batch)
        return jaxseg.total(state)

    return host_step(run)


def label_maps(
    case: CountingCase | EvaluationCase,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Predictions, labels and where.

    Labels are tiles of 8x8 pixels of a class, half of them of class 0; a tenth of the predicted
    pixels are of any class.
    """
    rng = np.random.default_rng(0)
    batch, height, width = case.shape
    tiles = (batch, -(-height // 8), -(-width // 8))
    tile_labels = rng.integers(case.classes, size=tiles) * (rng.random(tiles) < 0.5)
    labels = tile_labels.repeat(8, 1).repeat(8, 2)[:, :height, :width].astype(case.dtype)
    noise = rng.integers(case.classes, size=case.shape, dtype=case.dtype)
    predictions = np.where(rng.random(case.shape) < 0.1, noise, labels)
    return predictions, labels, rng.random(case.shape) < 0.9 if case.where else None


def check(case: Any, tasks: dict[str, Steps], value: Callable[[Any], Any], rtol: float) -> None:
    """Stop if contenders do not compute the same thing."""
    for task, steps in tasks.items():
        values = {n: value(step.run()) for n, step in steps.items() if isinstance(step, Step)}
        for name, found in values.items():
            message = f"{task} of {name}, {case}"
            np.testing.assert_allclose(found, values["jaxseg"], rtol=rtol, err_msg=message)


def distance(rounds: int, quick: bool) -> Rows:
    """The distance transform of a mask, and the surface scores of two."""
    masks = QUICK_DISTANCE_CASES if quick else DISTANCE_CASES
    pairs = QUICK_SURFACE_CASES if quick else SURFACE_CASES
    return [
        *(row for case in masks for row in distance_rows(case, rounds)),
        *(row for case in pairs for row in surface_rows(case, rounds)),
    ]


def distance_rows(case: DistanceCase, rounds: int) -> Rows:
    print(case, file=sys.stderr)
    mask = MASKS[case.mask](case.shape)
    tasks: dict[str, Steps] = {
        "Distance transform": {
            "jaxseg": jax_step(jaxseg.distance_transform, jax.device_put(mask, jax.devices()[0])),
            **peers.distance_steps(mask),
        }
    }
    check(case, tasks, np.asarray, rtol=1e-6)
    size = 4 * mask.size
    return rows_of(
        tasks,
        baseline=jax_step(jnp.copy, jnp.ones(case.shape, jnp.float32)),
        baseline_bytes=2 * size,
        moved_bytes=mask.nbytes + size,
        input_bytes=mask.nbytes,
        rounds=rounds,
        family="distance",
        **case._asdict(),
        pixels=mask.size,
    )


def surface_rows(case: SurfaceCase, rounds: int) -> Rows:
    print(case, file=sys.stderr)
    pairs = [PAIRS[case.mask](case.shape, case.size - 4 * image) for image in range(case.images)]
    p, g = map(np.stack, zip(*pairs, strict=True))

    def scores() -> list[list[float]]:
        of_pairs = [jaxseg.surface_distances(*pair) for pair in pairs]
        return [
            [jaxseg.hausdorff_distance(d, percentile=95).item() for d in of_pairs],
            [jaxseg.average_surface_distance(d).item() for d in of_pairs],
            [jaxseg.surface_dice(d, tolerance=2.0).item() for d in of_pairs],
        ]

    tasks: dict[str, Steps] = {
        "HD95, ASSD and surface Dice": {"jaxseg": host_step(scores), **peers.surface_steps(p, g)}
    }
    check(case, tasks, lambda x: x[0], rtol=1e-4)  # one peer computes HD95 alone
    return rows_of(
        tasks,
        baseline=jax_step(jnp.copy, jnp.ones(p.shape, jnp.float32)),
        baseline_bytes=8 * p.size,
        moved_bytes=2 * p.nbytes,
        input_bytes=2 * p.nbytes,
        rounds=rounds,
        family="distance",
        **case._asdict(),
        pixels=p.size,
    )


def organ(shape: tuple[int, ...], size: float, shift: int) -> np.ndarray:
    """An ellipsoid whose axes are a little shorter, one after the other."""
    index = np.indices(shape, np.float32)
    radii = [size / 2 * (1 - 0.1 * axis) for axis in range(len(shape))]
    steps = [(x - n // 2 - shift) / r for x, n, r in zip(index, shape, radii, strict=True)]
    inside: np.ndarray = sum(step**2 for step in steps) <= 1
    return inside


def from_centre(shape: tuple[int, ...]) -> np.ndarray:
    """Distance of each pixel from the centre of the image."""
    index = np.indices(shape, np.float32)
    return np.sqrt(sum((x - (n - 1) / 2) ** 2 for x, n in zip(index, shape, strict=True)))


def startup(rounds: int, quick: bool) -> Rows:
    """Import, and the first call of every loss."""
    program = (
        "import time; a = time.perf_counter(); import jax, optax; b = time.perf_counter(); "
        "import jaxseg; print(b - a, time.perf_counter() - b)"
    )
    seconds = [
        [float(x) for x in subprocess.check_output([sys.executable, "-c", program]).split()]
        for _ in range(1 if quick else rounds)
    ]
    below, own = np.median(seconds, axis=0).tolist()
    imports = [
        {"family": "startup", "task": "import jax, optax", "seconds": below},
        {"family": "startup", "task": "import jaxseg", "seconds": own},
    ]
    shape = QUICK_SHAPE if quick else STARTUP_SHAPE
    calls = []
    for name in QUICK_LOSSES if quick else LOSSES:
        jax.clear_caches()
        start = time.perf_counter()
        lowered = lower(name, shape)
        traced = time.perf_counter()
        lowered.compile()
        calls.append(
            {
                "family": "startup",
                "task": name,
                "shape": shape,
                "trace": traced - start,
                "compile": time.perf_counter() - traced,
            }
        )
    return imports + calls


def memory(_: int, quick: bool) -> Rows:
    """Temporaries of every loss, as multiples of the logits' bytes."""
    shape = QUICK_SHAPE if quick else MEMORY_SHAPE
    return [
        {
            "family": "memory",
            "task": name,
            "shape": shape,
            "temporaries": multiple(
                temporaries(lower(name, shape).compile()), 4 * math.prod(shape)
            ),
        }
        for name in (QUICK_LOSSES if quick else LOSSES)
    ]


def lower(name: str, shape: tuple[int, ...]) -> Any:
    """Value and gradient of a loss's mean with default arguments, float32 and ids, lowered."""
    logits = jax.ShapeDtypeStruct(shape, np.float32)
    labels = jax.ShapeDtypeStruct(shape[:-1], np.int32)
    return jax.jit(jax.value_and_grad(mean_of(name, shape[-1]))).lower(logits, labels)


def mean_of(name: str, classes: int) -> Callable[[Array, Array], Array]:
    """The mean of a loss with default arguments."""
    needs = {"generalized_wasserstein_dice_loss": {"distances": 1 - np.eye(classes)}}
    loss = functools.partial(getattr(jaxseg, name), **needs.get(name, {}))
    # Of as many features as classes.
    linear = (np.eye(classes, dtype=np.float32), None) if "linear" in name else ()
    return lambda x, y: loss(x, *linear, y).mean()


FAMILIES = {
    "loss": loss,
    "counting": counting,
    "evaluation": evaluation,
    "distance": distance,
    "startup": startup,
    "memory": memory,
}
