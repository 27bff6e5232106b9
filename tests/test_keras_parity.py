"""The five functions a Keras segmentation project writes for itself, and what replaces each.

``reference.keras_*`` are those functions in NumPy, truth first. Values agree to 1e-6, gradients
with those of the plain formula to 1e-5.
"""

import functools
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import reference
from flax import nnx

import jaxseg

PAGE = Path(__file__).parents[1] / "docs" / "from-keras.md"
SHAPE = (3, 8, 6, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_pixel() -> np.ndarray:
    masks = np.zeros(SHAPE)
    masks[1, 2, 3] = 1
    return masks


MASKS = {
    "random": (rng(1).random(SHAPE) < 0.4).astype(float),
    "empty": np.zeros(SHAPE),
    "full": np.ones(SHAPE),
    "one pixel": one_pixel(),
    "one empty image": np.stack([np.zeros(SHAPE[1:]), np.ones(SHAPE[1:]), one_pixel()[1]]),
}
LOGITS = {
    "random": 2 * rng(2).standard_normal(SHAPE),
    "sure of nothing": np.full(SHAPE, -20.0),
    "sure of everything": np.full(SHAPE, 20.0),
}
every_pair = pytest.mark.parametrize(
    ("masks", "logits"),
    [(m, x) for m in MASKS.values() for x in LOGITS.values()],
    ids=[f"{m}-{x}" for m in MASKS for x in LOGITS],
)


# Ours, in the Keras order, as a Keras user would write them.


def dice(masks, probs):
    return jaxseg.dice(jaxseg.soft_counts(probs, masks), smooth=1.0)[0]


def iou(masks, probs):
    return jaxseg.iou(jaxseg.soft_counts(probs, masks, axis=(1, 2)), smooth=1.0).mean()


def bce_dice_loss(masks, logits):
    return jaxseg.bce_dice_loss(logits, masks) - 1


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(function, masks, x):
    return jax.value_and_grad(function, argnums=1)(masks, x)


def assert_same(ours, theirs, masks, x) -> None:
    """Value against the formula in float64, gradient against the formula's own."""
    masks32, x32 = masks.astype(np.float32), x.astype(np.float32)
    value, gradient = value_and_gradient(ours, masks32, x32)
    expected = theirs(masks, x32.astype(np.float64))
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    _, plain_gradient = value_and_gradient(theirs, masks32, x32)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-5, atol=1e-5)


@every_pair
def test_soft_dice_of_the_flattened_batch(masks, logits):
    assert_same(dice, reference.keras_dice, masks, reference.sigmoid(logits))


@every_pair
def test_soft_iou_of_each_image_averaged_over_the_batch(masks, logits):
    assert_same(iou, reference.keras_iou, masks, reference.sigmoid(logits))


@every_pair
def test_bce_dice_loss(masks, logits):
    assert_same(bce_dice_loss, reference.keras_bce_dice_loss, masks, logits)


@every_pair
def test_bce_dice_loss_is_never_negative(masks, logits):
    assert float(jaxseg.bce_dice_loss(logits.astype(np.float32), masks != 0)) >= 0


def test_iou_over_several_classes_pools_them_within_each_image():
    masks = (rng(3).random((3, 4, 5, 2)) < 0.5).astype(float)
    probs = rng(4).random((3, 4, 5, 2))
    c = jaxseg.soft_counts(probs.astype(np.float32), masks.astype(np.float32), axis=(1, 2))
    pooled = jax.tree.map(lambda leaf: leaf.sum(-1, keepdims=True), c)
    actual = jaxseg.iou(pooled, smooth=1.0).mean()
    np.testing.assert_allclose(actual, reference.keras_iou(masks, probs), rtol=1e-6)


# ---------------------------------------------------------------------------------- label maps

CLASSES = 11


@pytest.fixture(scope="module")
def label_maps() -> tuple[np.ndarray, np.ndarray]:
    """True and predicted maps; two classes are in neither, one in the truth only."""
    true = rng(5).integers(0, CLASSES - 2, (192, 64, 84))
    predicted = np.where(rng(6).random(true.shape) < 0.7, true, (true + 1) % 8)
    return true, predicted


def test_class_scores_of_192_maps_of_64_by_84_and_11_classes(label_maps):
    true, predicted = label_maps
    c = jaxseg.counts(predicted, true, num_classes=CLASSES)
    ious, dices = reference.keras_class_scores(true, predicted, CLASSES)
    np.testing.assert_allclose(jaxseg.iou(c, eps=1e-5), ious, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(jaxseg.dice(c, eps=1e-5), dices, rtol=1e-6, atol=1e-9)
    assert ious[-2:].tolist() == [0, 0]


def test_class_scores_of_each_image_at_once(label_maps):
    true, predicted = label_maps
    c = jaxseg.counts(predicted, true, num_classes=CLASSES, axis=(1, 2))
    ious, dices = jaxseg.iou(c, eps=1e-5), jaxseg.dice(c, eps=1e-5)
    assert ious.shape == (192, CLASSES)
    for image in (0, 7, 191):
        expected = reference.keras_class_scores(true[image], predicted[image], CLASSES)
        np.testing.assert_allclose((ious[image], dices[image]), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("present", [0, 1, 12])
def test_class_scores_where_a_class_has_few_pixels_or_none(present):
    true = np.zeros((1, 4, 5), int)
    true.flat[:present] = 3
    predicted = np.roll(true, 1, axis=-1)
    c = jaxseg.counts(predicted, true, num_classes=CLASSES)
    ious, dices = reference.keras_class_scores(true, predicted, CLASSES)
    np.testing.assert_allclose(jaxseg.iou(c, eps=1e-5), ious, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(jaxseg.dice(c, eps=1e-5), dices, rtol=1e-6, atol=1e-9)


def test_label_map_of_the_network_output():
    logits = rng(7).standard_normal((4, 64, 84, CLASSES)).astype(np.float32)
    expected = reference.keras_label_map(reference.softmax(logits.astype(np.float64)))
    np.testing.assert_array_equal(jnp.argmax(logits, -1), expected)
    np.testing.assert_array_equal(jaxseg.predict_labels(logits), expected)


# ---------------------------------------------------------------------------------- training


def pixel_model(parameters, images):
    """One linear layer on each pixel."""
    weights, bias = parameters
    return images @ weights + jnp.broadcast_to(bias, (*images.shape[:-1], bias.shape[-1]))


def test_train_step_lowers_the_loss_and_raises_dice():
    images = rng(8).standard_normal((4, 8, 8, 3)).astype(np.float32)
    masks = (images[..., :1] > 0.3).astype(np.float32)
    parameters = (jnp.zeros((3, 1)), jnp.zeros(1))
    optimizer = optax.adam(1e-4)

    @jax.jit
    def train_step(parameters, state):
        def loss(parameters):
            logits = pixel_model(parameters, images)
            return jaxseg.bce_dice_loss(logits, masks), logits

        (value, logits), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes weak types
            updates, state = optimizer.update(gradients, state)
        bce = optax.sigmoid_binary_cross_entropy(logits, masks).mean()
        metrics = {"bce": bce, "dice": dice(masks, jax.nn.sigmoid(logits))}
        return optax.apply_updates(parameters, updates), state, value, metrics

    state, losses, metrics = optimizer.init(parameters), [], []
    for _ in range(50):
        parameters, state, value, seen = train_step(parameters, state)
        losses.append(float(value))
        metrics.append({name: float(x) for name, x in seen.items()})
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert metrics[-1]["dice"] > metrics[0]["dice"]
    assert metrics[-1]["bce"] < metrics[0]["bce"]
    recomputed = 0.5 * metrics[-1]["bce"] + 1 - metrics[-1]["dice"]
    assert losses[-1] == pytest.approx(recomputed, rel=1e-5)


# ---------------------------------------------------------------------------------- the page


def blocks_of_the_page() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def page() -> dict:
    """What the code of docs/from-keras.md defines, but for the blocks that need Keras."""
    names = {"jax": jax, "jnp": jnp, "np": np, "jaxseg": jaxseg}
    for block in blocks_of_the_page():
        if not re.search(r"\b(ops|losses)\.|keras", block):
            exec(block, names)
    return names


def test_the_page_scores_of_masks(page):
    masks, logits = MASKS["random"].astype(np.float32), LOGITS["random"].astype(np.float32)
    probs = reference.sigmoid(logits)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    same(page["dice_score"](probs, masks), reference.keras_dice(masks, probs))
    same(page["iou_score"](probs, masks), reference.keras_iou(masks, probs))
    same(page["loss"](logits, masks), reference.keras_bce_dice_loss(masks, logits) + 1)


def test_the_page_scores_of_classes(page, label_maps):
    true, predicted = label_maps
    expected = reference.keras_class_scores(true, predicted, CLASSES)
    for scores in (page["class_wise"](true, predicted), page["class_scores"](predicted, true)):
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-9)


def test_the_page_scores_of_images(page, label_maps):
    true, _ = (ids[:5] for ids in label_maps)
    logits = rng(9).standard_normal((*true.shape, CLASSES)).astype(np.float32)
    theirs = page["image_scores"](np.eye(CLASSES)[true], logits)
    ious, dices = page["scores_of_images"](logits, true)
    assert ious.shape == (5, CLASSES)
    expected = np.swapaxes(theirs, 0, 1)
    np.testing.assert_allclose((ious, dices), expected, rtol=1e-6, atol=1e-9)


def test_the_page_train_step(page):
    images = rng(8).standard_normal((4, 8, 8, 3)).astype(np.float32)
    masks = (images[..., :1] > 0.3).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
        steps = [page["train_step"](model, optimizer, images, masks) for _ in range(20)]
    assert steps[-1]["loss"] < steps[0]["loss"]
    for step in steps:
        recomputed = 0.5 * step["bce"] + 1 - step["dice"]
        np.testing.assert_allclose(step["loss"], recomputed, rtol=1e-5)


def test_the_page_stays_with_fit():
    """Keras's loss and metric of logits, and the soft Dice, are what the formulas give."""
    images = rng(8).standard_normal((4, 8, 8, 1)).astype(np.float32)
    masks = (images > 0.3).astype(np.float32)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 1)])
    [block] = [block for block in blocks_of_the_page() if "compile(" in block]
    exec(block, {"model": model, "jaxseg": jaxseg})
    logs = model.evaluate(images, masks, return_dict=True, verbose=0)
    logits = model.predict(images, verbose=0)
    probs = reference.sigmoid(logits.astype(np.float64))
    bce = -np.mean(masks * np.log(probs) + (1 - masks) * np.log1p(-probs))
    assert logs["loss"] == pytest.approx(bce, rel=1e-5)
    assert logs["binary_crossentropy"] == pytest.approx(bce, rel=1e-5)
    assert logs["dice_coef"] == pytest.approx(reference.keras_dice(masks, probs), rel=1e-5)
