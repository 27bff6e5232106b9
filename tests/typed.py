"""The public API as a user's typed program has it, for mypy and pyright; ``test_typed`` runs it."""

from __future__ import annotations

from typing import Any, assert_type

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jaxseg

Params = dict[str, Array]


def network(params: Params, images: Array) -> Array:
    return images @ params["kernel"]


def loss_fn(params: Params, images: Array, labels: Array) -> Array:
    logits = network(params, images)
    region = jaxseg.dice_loss(logits, labels, overlap="squared", axis=(1, 2)).mean()
    pixels = jaxseg.cross_entropy_loss(logits, labels, where=labels != 255).mean()
    both = jaxseg.dice_ce_loss(logits, labels, class_weights=[0.0, 1.0])
    return assert_type(region + pixels + both, Array)


def train_step(params: Params, images: Array, labels: Array) -> tuple[Params, Array]:
    optimizer = optax.sgd(0.1)
    loss, gradients = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, _ = optimizer.update(gradients, optimizer.init(params))
    changed: Any = optax.apply_updates(params, updates)
    return changed, loss


def evaluate(logits: Array, labels: Array) -> None:
    predictions = assert_type(jaxseg.predict_labels(logits), Array)
    counts = assert_type(jaxseg.counts(predictions, labels, num_classes=2), jaxseg.Counts)
    iou = assert_type(jaxseg.iou(counts), Array)
    assert iou.shape == (2,)
    zero = jaxseg.Counts(0, 0, 0, 0)
    assert_type(zero + counts, jaxseg.Counts)
    assert_type(2 * counts, jaxseg.Counts)
    assert_type(jaxseg.soft_counts(logits, labels, activation="softmax"), jaxseg.Counts)
    state = assert_type(jaxseg.running(counts), jaxseg.Running[jaxseg.Counts])
    total = assert_type(jaxseg.total(state + counts), jaxseg.Counts)
    assert_type(jaxseg.dice(total, zero_division=0.0), Array)
    print(jaxseg.class_report(total, names=["sky", "tree"]))
    matrix = assert_type(jaxseg.confusion_matrix(predictions, labels, num_classes=2), Array)
    assert_type(jaxseg.mean_iou(matrix), Array)
    assert_type(jaxseg.cohen_kappa(matrix, weights="linear"), Array)
    assert_type(jaxseg.counts_from_confusion(matrix), jaxseg.Counts)
    moments = assert_type(jaxseg.moments(jaxseg.dice(counts)), jaxseg.Moments)
    assert_type(jaxseg.mean(moments), Array)
    jaxseg.check_labels(labels, num_classes=2)
    deep = jaxseg.deep_supervision(jaxseg.dice_ce_loss)
    assert_type(deep([logits], labels), Array)
    mask = labels == 1
    assert_type(jaxseg.bce_dice_loss(logits[..., :1], mask), Array)
    assert_type(jaxseg.distance_transform(mask[0], spacing=(1.0, 2.0)), Array)


def refused(logits: Array, labels: Array) -> None:
    """What a type checker finds before anything is run."""
    jaxseg.dice_loss(logits, labels, activation="sofmax")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    jaxseg.tversky_loss(logits, labels, overlap="squared")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    jaxseg.iou(logits)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def main() -> None:
    images, labels = jnp.ones((1, 3, 4, 2)), jnp.zeros((1, 3, 4), int).at[0, 0].set(1)
    params = {"kernel": jnp.eye(2)}
    params, loss = train_step(params, images, labels)
    assert loss.shape == ()
    evaluate(network(params, images), labels)


if __name__ == "__main__":
    main()
