"""Shared by the adapters: the default statistic, the empty sum, masks, and the scores of a sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._counts import Counts, counts
from jaxseg._labels import membership, predict_labels
from jaxseg._running import Running, running, total

# (logits, labels, *, where=None) -> pytree of sums; with weights=None too, if it is weighted
StatisticFunction = Callable[..., object]
Score = Callable[..., object]  # (statistic) -> array, or pytree of arrays
Scores = Score | Mapping[str, Score]


def hard_counts(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Counts:
    """``Counts`` of predicted classes, pooled over the batch: the adapters' default statistic.

    The predicted class is that of the largest logit; with C = 1 it is the sigmoid's mask. Labels
    are ids ``[...]``, or dense ``[..., C]``, in which 0.5 or more is the class.
    """
    logits = jnp.asarray(logits)
    labels = _checks.check_label_format("logits", logits.shape, _checks.as_array(labels))
    num_classes = logits.shape[-1]
    predictions = predict_labels(logits, activation="softmax" if num_classes > 1 else "sigmoid")
    if labels.ndim == logits.ndim:
        if num_classes > 1:
            predictions = membership(predictions, num_classes)
        masks = labels if labels.dtype == bool else labels >= 0.5
        return counts(predictions, masks, where=where, weights=weights)
    if num_classes == 1:
        predictions = predictions[..., 0]
    return counts(predictions, labels, num_classes=num_classes, where=where, weights=weights)


def zero_sum(
    statistic: StatisticFunction, num_classes: int, ndim: int, dense: bool, weighted: bool
) -> Running:
    """The empty sum of a statistic, with the shapes that it has for one pixel."""
    pixels = (1,) * ndim
    shape = (*pixels, _checks.check_num_classes(num_classes))
    sums = jax.eval_shape(
        statistic,
        jax.ShapeDtypeStruct(shape, jnp.float32),
        jax.ShapeDtypeStruct(shape, bool) if dense else jax.ShapeDtypeStruct(pixels, jnp.int32),
        where=jax.ShapeDtypeStruct(pixels, bool),
        **({"weights": jax.ShapeDtypeStruct(pixels, jnp.float32)} if weighted else {}),
    )
    return running(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums))


def join_masks(
    where: ArrayLike | None, mask: ArrayLike | None, shape: tuple[int, ...]
) -> Array | None:
    """``where`` and ``mask`` as one ``where``; ``mask`` may also have one entry per example."""
    where = _checks.clean_bools(_checks.check_where(where, shape))
    if mask is None:
        return where
    mask = _checks.as_array(mask).astype(bool)
    if mask.shape not in (shape, shape[:1]):
        raise ValueError(
            f"mask must have the label map's shape {shape} or that of its examples {shape[:1]}, "
            f"got {mask.shape}."
        )
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)
    return mask if where is None else where & mask


def weights_argument(
    weights: ArrayLike | None, weighted: bool, shape: tuple[int, ...]
) -> dict[str, Array]:
    """The keyword ``weights`` of a statistic: of pixels or of examples ``[B]``; 1 by default."""
    if not weighted:
        if weights is None:
            return {}
        raise ValueError("A metric that takes weights is made with weighted=True: it sums floats.")
    if weights is None:
        return {"weights": jnp.ones((1,) * len(shape), jnp.float32)}
    weights = jnp.asarray(weights)
    if weights.shape == shape[:1]:
        weights = weights.reshape(*weights.shape, *(1 for _ in shape[1:]))
    return {"weights": _checks.check_weights(weights, shape)}


def compute_scores(scores: Scores, state: Running) -> Any:
    """Apply the scores to a sum: a dict gives a dict, one function gives its value."""
    statistic = total(state)
    if isinstance(scores, Mapping):
        return {name: score(statistic) for name, score in scores.items()}
    return scores(statistic)
