# ruff: noqa: E402
"""Segments handwritten digits: a small Flax network, trained and scored with jaxseg.

    pip install ".[examples]"
    python docs/examples/m2nist.py                   # eleven classes: ten digits and background
    python docs/examples/m2nist.py --task binary     # digit or background, in clutter, uneven light
    python docs/examples/m2nist.py --loss iou_loss   # another loss: LOSSES has them all

The images are like those of M2NIST: 64x84 pixels, with one to three digits that do not overlap.
They are put together from the 1,797 real 8x8 digits in ``digits.npz`` (E. Alpaydin and C. Kaynak
1998, see ``make_digits.py``). A digit is in training images or in test images, never in both.

What the script does, top to bottom: make the images, define the network, train it, score it,
write pictures and label maps. All of it takes about a minute on two CPU cores.
"""

import time

START = time.perf_counter()  # the imports below are part of the time that is reported

import argparse
import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import jaxseg

HEIGHT, WIDTH = 64, 84
SMALLEST, LARGEST = 20, 32  # side of a digit, in pixels
BACKGROUND = 10  # the digits are classes 0 to 9
TEST_IMAGES = 192
TRAINING_POOL = 9600  # at most so many training images are made; longer runs see them again
BATCH = 8
CLASS_NAMES = {"multiclass": [*"0123456789", "background"], "binary": ["background", "digit"]}


# --- data ----------------------------------------------------------------------------------------


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits: ink ``[1797, 8, 8]`` in 0 to 1, and which digit each is ``[1797]``."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        return file["images"].astype(np.float32) / 16, file["labels"]


def split_digits(count: int, split: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training digits (three quarters) and of the test digits.

    The file is roughly in the order of its writers: a sequential split tests on other hands.
    """
    order = rng.permutation(count) if split == "random" else np.arange(count)
    return np.split(order, [count * 3 // 4])


def place_boxes(n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One to three square boxes in each of ``n`` images, none of which overlap.

    Returns four arrays with an entry for each box: its image, side, top and left.
    """
    wanted = rng.integers(1, 4, n)
    size, top, left = (np.zeros((n, 3), int) for _ in range(3))
    redo = np.arange(n)
    while (
        redo.size
    ):  # draw all boxes of an image again until they fit; three of them take some forty draws
        shape = (redo.size, 3)
        size[redo] = rng.integers(SMALLEST, LARGEST + 1, shape)
        top[redo] = rng.integers(0, HEIGHT - size[redo] + 1)
        left[redo] = rng.integers(0, WIDTH - size[redo] + 1)
        s, t, x = size[redo], top[redo], left[redo]
        clash = np.zeros(redo.size, bool)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            apart = (
                (t[:, a] + s[:, a] <= t[:, b])
                | (t[:, b] + s[:, b] <= t[:, a])
                | (x[:, a] + s[:, a] <= x[:, b])
                | (x[:, b] + s[:, b] <= x[:, a])
            )
            clash |= ~apart & (b < wanted[redo])
        redo = redo[clash]
    used = np.arange(3) < wanted[:, None]
    return np.nonzero(used)[0], size[used], top[used], left[used]


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Square images ``[k, s, s]`` to ``[k, size, size]``, bilinear: one matrix for each axis."""
    source = images.shape[-1]
    at = (np.arange(size) + 0.5) * source / size - 0.5
    weights = np.stack(
        [np.interp(at, np.arange(source), row) for row in np.eye(source)], axis=1
    ).astype(np.float32)
    return weights @ images @ weights.T


def smooth_field(n: int, rng: np.random.Generator) -> np.ndarray:
    """Random fields ``[n, 64, 84]`` in 0 to 1 that change slowly: 3x3 numbers, enlarged."""
    return enlarge(rng.random((n, 3, 3), np.float32), WIDTH)[:, :HEIGHT]


def make_images(
    digits: np.ndarray,
    labels: np.ndarray,
    n: int,
    rng: np.random.Generator,
    task: str = "multiclass",
) -> tuple[np.ndarray, np.ndarray]:
    """Composes ``n`` images from 8x8 ``digits`` and their ``labels``.

    Returns images ``[n, 64, 84]`` uint8, and label maps ``[n, 64, 84]`` uint8: the digit, or 10 for
    the background; with the task "binary", 1 where there is a digit, or 0.
    """
    images = np.empty((n, HEIGHT, WIDTH), np.uint8)
    truth = np.empty((n, HEIGHT, WIDTH), np.uint8)
    for start in range(0, n, 400):  # temporary arrays that stay small are several times as fast
        part = slice(start, min(start + 400, n))
        count = part.stop - part.start
        ink, truth[part] = draw_digits(digits, labels, count, rng)
        if task == "binary":
            truth[part] = truth[part] != BACKGROUND
            add_clutter(ink, truth[part], digits, rng)
            ink *= 0.7
            ink += 0.3
            ink *= 0.25 + 0.75 * smooth_field(count, rng)  # light
        ink *= 0.8
        ink += 0.1
        ink += 0.05 * rng.standard_normal(ink.shape, np.float32)
        images[part] = 255 * ink.clip(0, 1)
    return images, truth


def draw_digits(
    digits: np.ndarray, labels: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random digits at random places: ink ``[n, 64, 84]`` in 0 to 1, and label maps."""
    ink = np.zeros((n, HEIGHT, WIDTH), np.float32)
    truth = np.full((n, HEIGHT, WIDTH), BACKGROUND, np.uint8)
    image, side, top, left = place_boxes(n, rng)
    chosen = rng.integers(0, len(digits), len(image))
    for size in range(SMALLEST, LARGEST + 1):  # all digits of one size at once
        k = np.flatnonzero(side == size)
        box = pixels_of(image[k], top[k], left[k], size)
        ink[box] = drawn = enlarge(digits[chosen[k]], size)
        truth[box] = np.where(drawn > 0.4, labels[chosen[k], None, None], np.uint8(BACKGROUND))
    return ink, truth


def add_clutter(
    ink: np.ndarray, masks: np.ndarray, digits: np.ndarray, rng: np.random.Generator
) -> None:
    """Draws eight 3x3 pieces of other digits into each image, behind its digits.

    Without this, and the uneven light, a threshold finds the digits. The idea is that of the
    "cluttered MNIST" images of Mnih et al. (2014).
    """
    n, size = len(ink), 10
    every = np.arange(n)
    for _ in range(8):
        source, row, column = rng.integers(0, (len(digits), 6, 6), (n, 3)).T
        piece = enlarge(digits[pixels_of(source, row, column, 3)], size)
        top, left = rng.integers(0, (HEIGHT - size + 1, WIDTH - size + 1), (n, 2)).T
        box = pixels_of(every, top, left, size)
        ink[box] = np.where(masks[box], ink[box], np.maximum(ink[box], piece))


def pixels_of(
    image: np.ndarray, top: np.ndarray, left: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The index of square boxes in a stack of images: ``stack[index]`` is ``[k, size, size]``."""
    side = np.arange(size)
    return image[:, None, None], top[:, None, None] + side[:, None], left[:, None, None] + side


def batches(
    images: np.ndarray, labels: np.ndarray, steps: int, rng: np.random.Generator
) -> Iterator[Any]:
    """``steps`` batches, in a new random order each time all images have been seen."""
    order = np.empty(0, int)
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(images))
        now, order = order[:BATCH], order[BATCH:]
        yield images[now], labels[now]


# --- network -------------------------------------------------------------------------------------


# One dimension a reshape: so JAX can tell that a batch split over devices stays split.
def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """``[b, h, w, c]`` to ``[b, h / block, w / block, block * block * c]``."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w, c)
    x = x.reshape(b, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """The inverse of ``space_to_depth``."""
    b, h, w, c = x.shape
    c //= block * block
    x = x.reshape(b, h, w, block, block, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, h * block, w, block, c)
    return x.reshape(b, h * block, w * block, c)


class Network(nnx.Module):
    """Images ``[b, 64, 84]`` uint8 to logits ``[b, 64, 84, classes]``, with 0.3 million parameters.

    Nearly all work is done at 8x11 cells, where XLA's convolutions are fastest on CPU. There is no
    normalization layer: in a training this short, batch normalization trailed in a trial. Linear
    layers are 1x1 convolutions, and faster on CPU.
    """

    def __init__(self, classes: int, *, rngs: nnx.Rngs):
        he = nnx.initializers.he_normal()  # learnt faster here than Flax's default
        conv = functools.partial(nnx.Conv, kernel_init=he, rngs=rngs)
        linear = functools.partial(nnx.Linear, kernel_init=he, rngs=rngs)
        self.stem1 = conv(1, 16, (5, 5), strides=2)  # to 32x42
        self.stem2 = conv(16, 32, (3, 3), strides=2)  # to 16x21
        self.stem3 = conv(32, 96, (3, 3), strides=2)  # to 8x11
        self.block1 = conv(96, 96, (3, 3))
        self.block2 = conv(96, 96, (3, 3))
        self.block3 = conv(96, 96, (3, 3))
        self.up = linear(96, 4 * 32)  # back to 16x21
        self.mix = linear(32 + 32 + 16, 80)
        self.head = nnx.Linear(80 + 16, 16 * classes, rngs=rngs)  # logits of 4x4 pixels in a cell
        # At first all is background, as most pixels are: that shortens the start of the training.
        prior = [-2.0] if classes == 1 else [0.0] * BACKGROUND + [3.0]
        self.head.bias[...] = jnp.tile(jnp.array(prior), 16)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32)
        x = x - x.mean(axis=(1, 2), keepdims=True)
        x = x / (x.std(axis=(1, 2), keepdims=True) + 1.0)
        x = x[..., None]
        pixels = space_to_depth(x, 4)
        x = nnx.silu(self.stem1(x))
        skip = nnx.silu(self.stem2(x))
        x = nnx.silu(self.stem3(skip))
        for block in (self.block1, self.block2, self.block3):
            x = x + nnx.silu(block(x))
        x = nnx.silu(depth_to_space(self.up(x), 2))[
            :, :, : WIDTH // 4
        ]  # 11 cells are 22: one too many
        x = nnx.silu(self.mix(jnp.concatenate([x, skip, pixels], axis=-1)))
        return depth_to_space(self.head(jnp.concatenate([x, pixels], axis=-1)), 4)


def make_network(task: str, seed: int, steps: int) -> tuple[Network, nnx.Optimizer]:
    """A network with random parameters, and AdamW: its rate rises for 5 % of the steps, then falls.

    Under jit, since one compilation is faster than many small operations. The "rbg" generator is
    here because it compiles three times as fast as the default.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, max(steps // 20, 1), max(steps, 2))

    @nnx.jit
    def make() -> tuple[Network, nnx.Optimizer]:
        rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
        network = Network(1 if task == "binary" else len(CLASS_NAMES[task]), rngs=rngs)
        rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
        return network, nnx.Optimizer(network, rule, wrt=nnx.Param)

    return make()


# --- several devices -----------------------------------------------------------------------------


def make_mesh(devices: int, axis_type: AxisType = AxisType.Explicit) -> jax.sharding.Mesh:
    """A mesh with one axis, over which batches are split. ``AxisType.Auto`` works as well."""
    return jax.make_mesh((devices,), ("batch",), axis_types=(axis_type,))


def copy_to_all(module: nnx.Module, mesh: jax.sharding.Mesh) -> None:
    """Puts the module's arrays on all devices of ``mesh``."""
    nnx.update(module, jax.device_put(nnx.state(module), NamedSharding(mesh, PartitionSpec())))


def split_over(mesh: jax.sharding.Mesh, *batch: np.ndarray) -> list[jax.Array]:
    """Puts an equal part of the batch on each device of ``mesh``."""
    return [jax.device_put(array, NamedSharding(mesh, PartitionSpec("batch"))) for array in batch]


# --- losses --------------------------------------------------------------------------------------

Loss = Callable[[jax.Array, jax.Array], jax.Array]  # of logits and labels, a scalar


def segmentation_loss(
    logits: jax.Array, labels: jax.Array, where: jax.Array | None = None
) -> jax.Array:
    """The usual loss. One logit for each pixel means binary."""
    loss = jaxseg.bce_dice_loss if logits.shape[-1] == 1 else jaxseg.dice_ce_loss
    return loss(logits, labels, where=where)


def mean(loss: Callable[..., jax.Array], **arguments: Any) -> Loss:
    """The mean of a loss of each pixel, or of each class."""
    return lambda logits, labels: loss(logits, labels, **arguments).mean()


def activated(loss: Callable[..., jax.Array], **arguments: Any) -> Loss:
    """The same of a loss that must be told what makes probabilities of the logits."""

    def of(logits: jax.Array, labels: jax.Array) -> jax.Array:
        activation = "sigmoid" if logits.shape[-1] == 1 else "softmax"
        return loss(logits, labels, activation=activation, **arguments).mean()

    return of


def background_first(loss: Loss) -> Loss:
    """A loss to which class 0 is the background; here it is the last of the eleven."""

    def of(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if logits.shape[-1] > 1:
            logits, labels = jnp.roll(logits, 1, -1), (labels + 1) % logits.shape[-1]
        return loss(logits, labels)

    return of


def beside(loss: Loss, weight: float) -> Loss:
    """The usual loss, and ``weight`` times one that is not meant to be used alone."""
    return lambda logits, labels: segmentation_loss(logits, labels) + weight * loss(logits, labels)


def at_two_scales(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """A network with deep supervision has a head for each scale; here the logits are pooled."""
    half = nnx.avg_pool(logits, (2, 2), strides=(2, 2))
    return jaxseg.deep_supervision(segmentation_loss)([logits, half], labels)


# Background first. To take one digit for another is half as bad as to miss it.
CLASS_DISTANCES = np.pad(np.full((10, 10), 0.5, np.float32), ((1, 0), (1, 0)), constant_values=1)
np.fill_diagonal(CLASS_DISTANCES, 0)

LOSSES: dict[str, Loss] = {
    "dice_loss": activated(jaxseg.dice_loss),
    "iou_loss": activated(jaxseg.iou_loss),
    "tversky_loss": activated(jaxseg.tversky_loss, alpha=0.3, beta=0.7),
    "focal_tversky_loss": activated(jaxseg.focal_tversky_loss),
    "log_dice_loss": activated(jaxseg.log_dice_loss),
    "log_cosh_dice_loss": activated(jaxseg.log_cosh_dice_loss),
    "generalized_dice_loss": activated(jaxseg.generalized_dice_loss),
    "generalized_wasserstein_dice_loss": background_first(
        functools.partial(jaxseg.generalized_wasserstein_dice_loss, distances=CLASS_DISTANCES)
    ),
    "matthews_correlation_loss": activated(jaxseg.matthews_correlation_loss),
    "sensitivity_specificity_loss": activated(jaxseg.sensitivity_specificity_loss),
    "cross_entropy_loss": mean(jaxseg.cross_entropy_loss),
    "softmax_focal_loss": mean(jaxseg.softmax_focal_loss),
    "nacl_loss": mean(jaxseg.nacl_loss),
    "top_k_loss": jaxseg.top_k_loss,
    # The network starts with a background of 0.67: above the threshold, so that digits are hard.
    "ohem_loss": functools.partial(jaxseg.ohem_loss, threshold=0.5, min_kept=2000),
    "lovasz_hinge_loss": mean(jaxseg.lovasz_hinge_loss),
    "lovasz_softmax_loss": activated(jaxseg.lovasz_softmax_loss),
    "boundary_loss": beside(activated(jaxseg.boundary_loss), 0.1),
    "hausdorff_dt_loss": beside(activated(jaxseg.hausdorff_dt_loss), 0.1),
    "hausdorff_erosion_loss": beside(activated(jaxseg.hausdorff_erosion_loss), 0.1),
    "boundary_dou_loss": activated(jaxseg.boundary_dou_loss),
    "cldice_loss": beside(activated(jaxseg.cldice_loss, iterations=5), 1.0),
    "dice_cldice_loss": activated(jaxseg.dice_cldice_loss, iterations=5),
    "skeleton_recall_loss": beside(activated(jaxseg.skeleton_recall_loss, iterations=5), 1.0),
    "bce_dice_loss": jaxseg.bce_dice_loss,
    "dice_ce_loss": jaxseg.dice_ce_loss,
    "dice_focal_loss": jaxseg.dice_focal_loss,
    "dice_top_k_loss": jaxseg.dice_top_k_loss,
    "exponential_logarithmic_loss": jaxseg.exponential_logarithmic_loss,
    "unified_focal_loss": background_first(jaxseg.unified_focal_loss),
    "deep_supervision": at_two_scales,
}
USUAL = {"multiclass": "dice_ce_loss", "binary": "bce_dice_loss"}
NOT_BINARY = {"dice_ce_loss", "generalized_wasserstein_dice_loss"}  # they need two logits or more


# --- training ------------------------------------------------------------------------------------


def loss_fn(
    network: Network, images: jax.Array, labels: jax.Array, loss: Loss = segmentation_loss
) -> tuple[jax.Array, jax.Array]:
    """The loss, and the logits that it was computed from."""
    logits = network(images)
    return loss(logits, labels), logits


@jax.jit
def foreground_dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Soft Dice of the batch, mean over the digits: something to watch a training by."""
    activation = "sigmoid" if logits.shape[-1] == 1 else "softmax"
    scores = jaxseg.dice(jaxseg.soft_counts(logits, labels, activation=activation), smooth=1.0)
    return scores[:BACKGROUND].mean()


@functools.partial(nnx.jit, donate_argnums=(0, 1), static_argnames="loss")
def train_step(
    network: Network,
    optimizer: nnx.Optimizer,
    images: jax.Array,
    labels: jax.Array,
    loss: Loss = segmentation_loss,
) -> tuple[jax.Array, jax.Array]:
    """One step of the optimizer, in place; returns the loss and the logits from before it."""
    differentiated = nnx.value_and_grad(functools.partial(loss_fn, loss=loss), has_aux=True)
    (value, logits), gradients = differentiated(network, images, labels)
    optimizer.update(network, gradients)
    return value, logits


def train(
    network: Network,
    optimizer: nnx.Optimizer,
    data: Iterator[tuple[np.ndarray, np.ndarray]],
    steps: int,
    devices: int = 1,
    loss: Loss = segmentation_loss,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains on ``data``, ``steps`` batches.

    Returns every step's loss ``[steps]``, and rows of (step, Dice) for every tenth batch.

    With several devices only the place of the arrays changes, not the train step: sums over the
    batch become sums over all devices by themselves.
    """
    mesh = make_mesh(devices) if devices > 1 else None
    if mesh is not None:
        copy_to_all(network, mesh)
        copy_to_all(optimizer, mesh)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  Dice {task.fields[dice]:.3f}"),
        TimeElapsedColumn(),
    )
    losses, dices = [], []
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=steps, loss=float("nan"), dice=float("nan"))
        for step, (images, labels) in enumerate(data):
            if mesh is not None:
                images, labels = split_over(mesh, images, labels)
            value, logits = train_step(network, optimizer, images, labels, loss=loss)
            losses.append(value)
            if step % 10 == 0 or step == steps - 1:  # only here the host waits for the device
                dices.append((step, float(foreground_dice(logits, labels))))
                progress.update(bar, completed=step + 1, loss=float(value), dice=dices[-1][1])
    return np.array(jax.device_get(losses)), np.array(dices)


# --- evaluation ----------------------------------------------------------------------------------


class KerasStyle(NamedTuple):
    """Scores that Keras notebooks define by hand: all of them are read from ``Counts``."""

    soft_dice: jax.Array  # of all pixels of all images and classes, smooth 1
    soft_iou: jax.Array  # the same of each image, then the mean
    loss: jax.Array
    mean_class_iou: jax.Array  # of label maps, eps 1e-5
    mean_class_dice: jax.Array


class Evaluation(NamedTuple):
    labels: np.ndarray  # label maps [n, 64, 84]
    predictions: np.ndarray  # alike
    confusion: np.ndarray  # [classes, classes], rows truth
    counts: jaxseg.Counts  # per class, pooled over all images
    image_counts: jaxseg.Counts  # per image and class
    keras_style: KerasStyle


@nnx.jit
def predict(network: Network, images: jax.Array) -> jax.Array:
    return network(images)


def to_label_maps(logits: jax.Array) -> jax.Array:
    """Label maps ``[n, 64, 84]``: the class of the largest logit; of one logit, its sign."""
    if logits.shape[-1] == 1:
        return jaxseg.predict_labels(logits, activation="sigmoid")[..., 0].astype(jnp.uint8)
    return jaxseg.predict_labels(logits).astype(jnp.uint8)


@jax.jit
def keras_style_scores(logits: jax.Array, labels: jax.Array) -> KerasStyle:
    activation = "sigmoid" if logits.shape[-1] == 1 else "softmax"
    soft = jaxseg.soft_counts(logits, labels, activation=activation, axis=(1, 2))  # [n, classes]
    per_image = jax.tree.map(lambda leaf: leaf.sum(-1), soft)
    in_all = jax.tree.map(lambda leaf: leaf.sum(), per_image)
    hard = jaxseg.counts(to_label_maps(logits), labels, num_classes=max(logits.shape[-1], 2))
    return KerasStyle(
        soft_dice=jaxseg.dice(in_all, smooth=1.0),
        soft_iou=jaxseg.iou(per_image, smooth=1.0).mean(),
        loss=segmentation_loss(logits, labels),
        mean_class_iou=jaxseg.iou(hard, eps=1e-5).mean(),
        mean_class_dice=jaxseg.dice(hard, eps=1e-5).mean(),
    )


@functools.partial(jax.jit, static_argnames="classes")
def score_label_maps(
    predictions: jax.Array, labels: jax.Array, classes: int
) -> tuple[jax.Array, jaxseg.Counts, jaxseg.Counts]:
    """The confusion matrix, the counts that it holds, and the counts of each image."""
    confusion = jaxseg.confusion_matrix(predictions, labels, num_classes=classes)
    image_counts = jaxseg.counts(predictions, labels, num_classes=classes, axis=(1, 2))
    return confusion, jaxseg.counts_from_confusion(confusion), image_counts


def evaluate(network: Network, images: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Logits, label maps from them, and the scores of both."""
    logits = predict(network, images)  # [n, 64, 84, classes]
    predictions = to_label_maps(logits)
    jaxseg.check_labels(labels, num_classes=logits.shape[-1], predictions=logits)
    scores = score_label_maps(predictions, labels, max(logits.shape[-1], 2))
    keras_style = keras_style_scores(logits, labels)
    return Evaluation(*jax.device_get((labels, predictions, *scores, keras_style)))


def best_threshold(images: np.ndarray, masks: np.ndarray) -> int:
    """The gray value from which "it is a digit" has the highest Dice: the score to beat."""
    digit = np.bincount(images[masks == 1], minlength=256)
    every = np.bincount(images.ravel(), minlength=256)
    found, marked = (
        h[::-1].cumsum()[::-1] for h in (digit, every)
    )  # pixels of at least this gray value
    return int((2 * found / (marked + digit.sum())).argmax())


# --- files ---------------------------------------------------------------------------------------


def write_label_maps(folder: Path, label_maps: np.ndarray) -> None:
    """One gray PNG for each label map. Gray values are class numbers, so all look nearly black."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, label_map in enumerate(label_maps):
        Image.fromarray(label_map.astype(np.uint8)).save(folder / f"{i:03}.png")


def draw_predictions(
    path: Path, images: np.ndarray, labels: np.ndarray, result: Evaluation, names: list[str]
) -> None:
    """Six test images from the worst to the best: image, truth, and prediction with its errors."""
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    background = names.index("background")
    digits = [k for k in range(len(names)) if k != background]
    image_dice = np.nanmean(np.asarray(jaxseg.dice(result.image_counts))[:, digits], axis=1)
    order = np.argsort(image_dice)
    shown = order[np.linspace(0, len(order) - 1, 6).astype(int)]

    colours = list(matplotlib.colormaps["tab10"].colors)[: len(digits)]
    colours.insert(background, (0.93, 0.93, 0.93))
    options: dict[str, Any] = {
        "cmap": ListedColormap(colours),
        "vmin": -0.5,
        "vmax": len(names) - 0.5,
    }

    figure = Figure(figsize=(14, 6.4), layout="constrained")
    axes = figure.subplots(3, len(shown))
    for column, i in enumerate(shown):
        top, middle, bottom = axes[:, column]
        top.imshow(images[i], cmap="gray", vmin=0, vmax=255)
        middle.imshow(labels[i], interpolation="nearest", **options)
        bottom.imshow(result.predictions[i], interpolation="nearest", **options)
        wrong_y, wrong_x = np.nonzero(result.predictions[i] != labels[i])
        bottom.plot(wrong_x, wrong_y, "k.", markersize=1.2)
        top.set_title(f"test image {i}\nDice {image_dice[i]:.3f}")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, label in zip(
        axes[:, 0], ("image", "truth", "prediction\n(dots: wrong pixels)"), strict=True
    ):
        axis.set_ylabel(label)
    patches = [
        Patch(facecolor=c, edgecolor="0.6", label=n) for c, n in zip(colours, names, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(
        "Test images, from the worst to the best mean Dice of the digits in truth or prediction"
    )
    figure.savefig(path, dpi=110)


def draw_training(path: Path, losses: np.ndarray, dices: np.ndarray) -> None:
    """Loss and Dice over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses, color="tab:blue", alpha=0.35, linewidth=0.8, label="each step")
    window = max(1, len(losses) // 30)
    average = np.convolve(losses, np.ones(window) / window, mode="valid")
    left.plot(steps[window - 1 :], average, color="tab:blue", label=f"mean of {window} steps")
    left.set(title="Training loss", xlabel="step", ylabel="loss", ylim=(min(0, losses.min()), None))
    left.legend(frameon=False)
    right.plot(dices[:, 0] + 1, dices[:, 1], color="tab:green")
    right.set(
        title="Soft Dice of the digits in a training batch",
        xlabel="step",
        ylabel="Dice",
        ylim=(0, 1),
    )
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def draw_confusion(path: Path, confusion: np.ndarray, names: list[str]) -> None:
    """The confusion matrix in parts of each true class."""
    from matplotlib.figure import Figure

    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 3.6 + 0.45 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(share >= 0.005):
        colour = "white" if share[row, column] > 0.5 else "black"
        axis.text(
            column,
            row,
            f"{share[row, column]:.2f}",
            ha="center",
            va="center",
            color=colour,
            fontsize=9,
        )
    ticks = np.arange(len(names))
    axis.set_xticks(ticks, names)
    axis.set_yticks(ticks, names)
    axis.set(
        title="Confusion matrix of the test pixels", xlabel="predicted class", ylabel="true class"
    )
    figure.colorbar(picture, ax=axis, label="part of the true class", shrink=0.8)
    figure.savefig(path, dpi=110)


# --- the whole -----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains and scores a digit segmentation network with jaxseg."
    )
    parser.add_argument("--task", choices=("multiclass", "binary"), default="multiclass")
    parser.add_argument(
        "--loss",
        choices=LOSSES,
        metavar="NAME",
        help=f"to train with (default: {USUAL['multiclass']}, or {USUAL['binary']} if binary), "
        f"one of {', '.join(LOSSES)}",
    )
    parser.add_argument("--steps", type=int, default=800, help="training steps (default: 800)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the images, the network and the split (default: 0)"
    )
    parser.add_argument(
        "--split", choices=("random", "sequential"), default="random", help="of the digits"
    )
    parser.add_argument("--out", type=Path, default=Path("m2nist_out"), help="folder to write to")
    parser.add_argument(
        "--device-count", type=int, default=1, help="devices to split each batch over"
    )
    options = parser.parse_args(argv)
    options.loss = options.loss or USUAL[options.task]
    if options.task == "binary" and options.loss in NOT_BINARY:
        parser.error(f"--loss {options.loss} needs two classes or more, and --task binary has one")
    if options.steps < 1:
        parser.error(f"--steps must be 1 or more, got {options.steps}")
    if options.seed < 0:
        parser.error(f"--seed must be 0 or more, got {options.seed}")
    if options.device_count < 1 or BATCH % options.device_count:
        parser.error(f"--device-count must divide the batch of {BATCH}, got {options.device_count}")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out must be a folder, and {options.out} is a file")
    return options


def use_devices(count: int) -> None:
    """Makes the CPU ``count`` devices, if JAX has not started; checks that there are as many."""
    if count > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # too late: JAX has started
            jax.config.update("jax_num_cpu_devices", count)
    if count > jax.device_count():
        raise SystemExit(f"--device-count {count}: there are only {jax.device_count()} devices")


def main(
    argv: Sequence[str] | None = None, started: float | None = None
) -> tuple[Evaluation, np.ndarray]:
    """Returns the evaluation, and the loss of each training step."""
    started = time.perf_counter() if started is None else started
    options = parse(argv)
    use_devices(options.device_count)
    console = Console(highlight=False)

    # A generator for each purpose: the test images do not depend on the number of steps.
    split_rng, train_rng, test_rng, batch_rng = np.random.default_rng(options.seed).spawn(4)
    digits, labels = load_digits()
    train_part, test_part = split_digits(len(digits), options.split, split_rng)
    pool = min(options.steps * BATCH, TRAINING_POOL)
    train_images, train_labels = make_images(
        digits[train_part], labels[train_part], pool, train_rng, options.task
    )
    test_images, test_labels = make_images(
        digits[test_part], labels[test_part], TEST_IMAGES, test_rng, options.task
    )
    console.print(
        f"{pool} training images from {len(train_part)} digits, "
        f"{TEST_IMAGES} test images from {len(test_part)} others"
    )

    classes = 1 if options.task == "binary" else len(CLASS_NAMES[options.task])
    jaxseg.check_labels(train_labels, num_classes=classes)  # once: no train step can see values
    network, optimizer = make_network(options.task, options.seed, options.steps)
    data = batches(train_images, train_labels, options.steps, batch_rng)
    training = time.perf_counter()
    losses, dices = train(
        network, optimizer, data, options.steps, options.device_count, LOSSES[options.loss]
    )
    evaluating = time.perf_counter()
    nnx.update(network, jax.device_get(nnx.state(network)))  # leaves the mesh, if there was one
    result = evaluate(network, test_images, test_labels)
    finished = time.perf_counter()

    names = CLASS_NAMES[options.task]
    console.print(f"\n{TEST_IMAGES} test images, class by class")
    console.print(jaxseg.class_report(result.counts, names=names) + "\n")
    dice = np.asarray(jaxseg.dice(result.counts))
    foreground = [k for k, name in enumerate(names) if name != "background"]
    console.print(f"mean IoU of all classes      {float(jaxseg.mean_iou(result.confusion)):.4f}")
    console.print(f"mean Dice of the foreground  {np.nanmean(dice[foreground]):.4f}")
    if options.task == "binary":
        threshold = best_threshold(train_images, train_labels)
        simple = jaxseg.dice(jaxseg.counts(test_images >= threshold, test_labels, num_classes=1))
        console.print(f"the same by a threshold      {simple[0]:.4f}  (gray >= {threshold})")
    console.print("\nKeras-style scores")
    loss_name = "BCE-Dice loss" if options.task == "binary" else "Dice-CE loss"
    for name, score in zip(
        (
            "soft Dice of all images, smooth 1",
            "soft IoU of each image, smooth 1, mean",
            loss_name,
            "class-wise IoU, eps 1e-5, mean",
            "class-wise Dice, eps 1e-5, mean",
        ),
        result.keras_style,
        strict=True,
    ):
        console.print(f"  {name:<40}{score:.4f}")

    options.out.mkdir(parents=True, exist_ok=True)
    write_label_maps(options.out / "truth", test_labels)
    write_label_maps(options.out / "prediction", result.predictions)
    draw_predictions(options.out / "predictions.png", test_images, test_labels, result, names)
    draw_training(options.out / "training.png", losses, dices)
    draw_confusion(options.out / "confusion.png", result.confusion, names)
    console.print(
        f"\ntime {finished - started:.1f} s: "
        f"{training - started:.1f} s to import, make images and network, "
        f"{evaluating - training:.1f} s to train, {finished - evaluating:.1f} s to evaluate; "
        f"then {time.perf_counter() - finished:.1f} s for files"
        f"\nwritten to {options.out}: predictions.png, training.png, confusion.png, "
        f"and {TEST_IMAGES} label maps each in truth/ and prediction/",
        soft_wrap=True,
    )
    return result, losses


if __name__ == "__main__":
    main(started=START)
