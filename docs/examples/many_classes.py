"""Segments volumes into 117 classes without the logits, as whole-body CT needs it.

    pip install ".[examples]"
    python docs/examples/many_classes.py              # 117 classes, a volume of 64^3 voxels a step
    python docs/examples/many_classes.py --two-step   # trained on the logits, to compare

``linear_dice_ce_loss`` takes the network's last layer itself, block by block, so that the logits
``[..., 117]`` never exist, in the forward or the backward pass. The script compiles the train step
both ways and prints the memory that each needs, trains one of them, and scores a new volume.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console

import jaxseg

FEATURES = 32  # of a voxel, from which the last layer makes its logits


def make_volume(rng: np.random.Generator, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A random body: its image ``[1, size, size, size, 4]`` and labels ``[1, size, size, size]``.

    A voxel is of the class whose centre is nearest. Every body has its centres near the same
    places. The image is a noisy intensity for each class, and where in the body the voxel is.
    """
    everybody = np.random.default_rng(0)
    centres = everybody.uniform(-1, 1, (classes, 3)) + 0.05 * rng.standard_normal((classes, 3))
    intensities = everybody.uniform(-1, 1, classes)
    places = np.stack(np.meshgrid(*3 * [np.linspace(-1, 1, size)], indexing="ij"), axis=-1)
    # Slice by slice, since how near each centre is takes as much memory as the logits would.
    nearness = (2 * part @ centres.T - np.square(centres).sum(-1) for part in places)
    labels = np.stack([part.argmax(-1) for part in nearness])
    seen = intensities[labels] + 0.05 * rng.standard_normal(labels.shape)
    image = np.concatenate([seen[..., None], places], axis=-1)
    return image[None].astype(np.float32), labels[None].astype(np.uint8)


class Network(nnx.Module):
    """Images ``[b, d, h, w, 4]`` to features ``[b, d, h, w, 32]``; the loss takes the head."""

    def __init__(self, classes: int, *, rngs: nnx.Rngs):
        self.down = nnx.Conv(4, FEATURES, (3, 3, 3), strides=2, rngs=rngs)
        self.mix = nnx.Conv(FEATURES, FEATURES, (3, 3, 3), rngs=rngs)
        self.skip = nnx.Linear(4, FEATURES, rngs=rngs)
        self.head = nnx.Linear(FEATURES, classes, rngs=rngs)  # a 1x1x1 convolution

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.mix(nnx.silu(self.down(images)))  # at half the resolution
        x = x.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
        return nnx.silu(x + self.skip(images))


@functools.partial(nnx.jit, static_argnames="classes")
def make_network(classes: int) -> tuple[Network, nnx.Optimizer]:
    """A network with random parameters, and Adam, from one compilation instead of many."""
    network = Network(classes, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))  # quick to compile
    return network, nnx.Optimizer(network, optax.adam(1e-2), wrt=nnx.Param)


def one_step_loss(network: Network, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of the features and the head's parameters: there are no logits."""
    kernel, bias = network.head.kernel[...], network.head.bias[...]
    return jaxseg.linear_dice_ce_loss(network(images), kernel, bias, labels)


def two_step_loss(network: Network, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The same loss, of logits ``[b, d, h, w, classes]``."""
    return jaxseg.dice_ce_loss(network.head(network(images)), labels)


@functools.partial(nnx.jit, donate_argnums=(0, 1), static_argnames="loss")
def train_step(
    network: Network,
    optimizer: nnx.Optimizer,
    images: jax.Array,
    labels: jax.Array,
    loss: Callable[..., jax.Array],
) -> jax.Array:
    """One step of the optimizer, in place; returns the loss from before it."""
    value, gradients = nnx.value_and_grad(loss)(network, images, labels)
    optimizer.update(network, gradients)
    return value


@nnx.jit
def predict(network: Network, images: jax.Array) -> jax.Array:
    """Label maps ``[b, d, h, w]``, slice by slice: only one slice's logits exist at a time."""
    features = network(images)
    slices = features.reshape(-1, *features.shape[2:])
    labels = jax.lax.map(lambda part: jaxseg.predict_labels(network.head(part)), slices)
    return labels.reshape(images.shape[:-1])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains on volumes of many classes with jaxseg.")
    parser.add_argument("--size", type=int, default=64, help="of a volume's side (default: 64)")
    parser.add_argument("--classes", type=int, default=117, help="default: 117")
    parser.add_argument("--steps", type=int, default=20, help="training steps (default: 20)")
    parser.add_argument("--two-step", action="store_true", help="train on logits, to compare")
    options = parser.parse_args(argv)
    if options.size < 2 or options.size % 2:
        parser.error(f"--size must be even and 2 or more, got {options.size}")
    if not 2 <= options.classes <= 256:
        parser.error(f"--classes must be 2 to 256, got {options.classes}")
    if options.steps < 1:
        parser.error(f"--steps must be 1 or more, got {options.steps}")
    return options


def main(argv: Sequence[str] | None = None) -> np.ndarray:
    """Returns the loss of each training step."""
    options = parse(argv)
    console = Console(highlight=False)
    test_rng, *rngs = np.random.default_rng(1).spawn(1 + options.steps)
    volume = functools.partial(make_volume, size=options.size, classes=options.classes)

    network, optimizer = make_network(options.classes)
    images, labels = volume(test_rng)
    jaxseg.check_labels(labels, num_classes=options.classes)  # once: no train step can see values
    logits = 4 * labels.size * options.classes
    console.print(f"logits of {options.classes} classes would take {logits / 1e6:.1f} MB")
    steps = {}
    for loss in (one_step_loss, two_step_loss):
        steps[loss] = train_step.lower(network, optimizer, images, labels, loss=loss).compile()
        needed = steps[loss].memory_analysis().temp_size_in_bytes
        console.print(f"temporaries of a train step with {loss.__name__}: {needed / 1e6:.1f} MB")
    console.print()

    step = steps[two_step_loss if options.two_step else one_step_loss]
    losses, seconds = [], []
    for i, rng in enumerate(rngs):
        batch = jax.device_put(volume(rng))
        started = time.perf_counter()
        losses.append(float(step(network, optimizer, *batch)))
        seconds.append(time.perf_counter() - started)
        if i % max(options.steps // 10, 1) == 0 or i == options.steps - 1:
            console.print(f"step {i + 1:>4}  loss {losses[-1]:.4f}")
    console.print(f"{np.median(seconds):.3f} s a step")

    counts = jaxseg.counts(predict(network, images), labels, num_classes=options.classes)
    console.print(f"mean Dice of a new volume: {np.nanmean(jaxseg.dice(counts)):.4f}")
    return np.array(losses)


if __name__ == "__main__":
    main()
