"""Score label maps of Cityscapes' size over several devices: exact counts, a last batch that is not
full, and a run that goes on where it was stopped.

    python docs/examples/evaluate_sharded.py --images 500
    python docs/examples/evaluate_sharded.py --images 500 --checkpoint out/evaluation

The maps are made on the fly: 19 classes, and 255 where nothing is to be scored. On CPU eight
devices are simulated. docs/distributed.md explains it.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Before JAX is imported; of no effect where there are GPUs or TPUs.
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.progress import track

import jaxseg

CLASSES = [
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
]
VOID = 255
CELL = 16  # pixels: maps are squares of one class

Maps = tuple[np.ndarray, np.ndarray]


def label_maps(index: int, height: int, width: int) -> Maps:
    """Predictions and labels ``[H, W]`` of an image: edges are off, a tenth of squares wrong."""
    rng = np.random.default_rng(index)
    cells = -(-height // CELL), -(-width // CELL)
    true = rng.integers(len(CLASSES), size=cells, dtype=np.uint8)
    noise = rng.integers(len(CLASSES), size=cells, dtype=np.uint8)
    predicted = np.where(rng.random(cells) < 0.1, noise, true)
    void = np.where(rng.random(cells) < 0.05, VOID, true).astype(np.uint8)
    predictions, labels = (
        x.repeat(CELL, 0).repeat(CELL, 1)[:height, :width] for x in (predicted, void)
    )
    return np.roll(predictions, 2, axis=1), labels


def batches(images: Sequence[int], size: int, shape: tuple[int, int]) -> Iterator[tuple]:
    """Predictions and labels ``[size, H, W]``, and which images are real."""
    for i in range(0, len(images), size):
        maps = zip(*(label_maps(index, *shape) for index in images[i : i + size]), strict=True)
        batch, where = jaxseg.pad_batch(tuple(np.stack(x) for x in maps), size)
        yield *batch, where


@partial(jax.jit, donate_argnums=0)
def count(state: jaxseg.Running, predictions: Array, labels: Array, where: Array) -> jaxseg.Running:
    """The sum with a batch added. Each device counts its own images."""
    where = where[:, None, None] & (labels != VOID)
    return state + jaxseg.counts(predictions, labels, num_classes=len(CLASSES), where=where)


def evaluate(
    images: Sequence[int],
    mesh: Mesh,
    *,
    batch: int,
    shape: tuple[int, int],
    checkpoint: Path | None = None,
    every: int = 10,
    show: bool = True,
) -> tuple[jaxseg.Running, int, float]:
    """The sum of all images' counts; how many were counted now, and in how many seconds."""
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    state = jaxseg.running(jaxseg.Counts(*np.zeros((4, len(CLASSES)), np.int64)))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    compiled = compile_count(state, sharded, (batch, *shape))
    done = 0
    saved = None
    if checkpoint is not None:
        saved = ocp.CheckpointManager(
            checkpoint.resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )
        if saved.latest_step() is not None:
            done = saved.latest_step()  # images
            state = saved.restore(done, args=ocp.args.StandardRestore(state))
            print(f"Going on after image {done}", flush=True)

    left = images[done:]
    steps = enumerate(batches(left, batch, shape), start=1)
    number = -(-len(left) // batch)
    seconds = 0.0
    for i, maps in track(steps, "Counting", total=number, disable=not show):
        if i == 1:
            check_maps(*maps)
        start = time.perf_counter()
        state = jax.block_until_ready(compiled(state, *jax.device_put(maps, sharded)))
        seconds += time.perf_counter() - start
        if saved is not None and (i % every == 0 or i == number):
            counted = done + min(i * batch, len(left))
            # Written while the next are counted.
            saved.save(counted, args=ocp.args.StandardSave(state))
    if saved is not None:
        saved.close()
    return state, len(left), seconds


def check_maps(predictions: np.ndarray, labels: np.ndarray, where: np.ndarray) -> None:
    """Once, before the maps are on devices: no compiled function can refuse a value."""
    where = where[:, None, None] & (labels != VOID)
    jaxseg.check_labels(labels, num_classes=len(CLASSES), where=where, predictions=predictions)


def compile_count(state: jaxseg.Running, sharded: NamedSharding, shape: tuple[int, ...]) -> Any:
    """Compiled before the clock runs; every batch has the same shape."""
    maps = jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharded)
    where = jax.ShapeDtypeStruct(shape[:1], bool, sharding=sharded)
    return count.lower(state, maps, maps, where).compile()


def report(counts: jaxseg.Counts) -> None:
    print(jaxseg.class_report(counts, names=CLASSES))
    print(f"\nmean IoU {jnp.nanmean(jaxseg.iou(counts)):.6f}")


def parser() -> argparse.ArgumentParser:
    """Options of this script and of evaluate_processes.py."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, help="images; default: %(default)s")
    parser.add_argument("--height", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=2048, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="file for the counts: .npy, int64 [4, classes]")
    return parser


def check(options: argparse.ArgumentParser, args: argparse.Namespace, mesh: Mesh) -> None:
    if min(args.images, args.height, args.width) < 1:
        options.error("--images, --height and --width must be 1 or more")
    if args.batch < 1 or args.batch % mesh.size:
        options.error(f"--batch must be a multiple of the {mesh.size} devices, got {args.batch}")


def main(arguments: list[str] | None = None) -> jaxseg.Counts:
    options = parser()
    options.description = __doc__
    options.add_argument("--checkpoint", type=Path, help="folder: keep the sum, and go on from it")
    options.add_argument("--every", type=int, default=10, help="batches between two checkpoints")
    args = options.parse_args(arguments)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    if args.every < 1:
        options.error("--every must be 1 or more")
    check(options, args, mesh)

    start = time.perf_counter()
    state, images, seconds = evaluate(
        range(args.images),
        mesh,
        batch=args.batch,
        shape=(args.height, args.width),
        checkpoint=args.checkpoint,
        every=args.every,
    )
    elapsed = time.perf_counter() - start
    counts = jaxseg.total(state)
    report(counts)
    if args.out is not None:
        np.save(args.out, np.stack(counts))
    if images:
        pixels = images * args.height * args.width
        print(
            f"{pixels:,} pixels on {mesh.size} devices ({jax.devices()[0].device_kind}): "
            f"{pixels / seconds / 1e6:,.0f} million a second, "
            f"{pixels / elapsed / 1e6:,.0f} with the making of the maps"
        )
    return counts


if __name__ == "__main__":
    main()
