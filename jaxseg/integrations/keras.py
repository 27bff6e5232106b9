"""Losses and scores for ``compile`` and ``fit`` of Keras 3 on its JAX backend.

Keras hands out the truth first, its ids as floats, often with a last axis of 1, and has no place
for ``where``. Here ids are integers again, and ``where`` is a function of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax import Array
from jax.typing import ArrayLike

from jaxseg import Running
from jaxseg._checks import as_array
from jaxseg.integrations._evaluation import Scores, Statistic, hard_counts, scored, zero

Where = Callable[[Array], Array] | None


def as_loss(loss: Callable[..., Array], *, where: Where = None, **options: Any) -> Any:
    """Loss for ``compile`` from one of jaxseg's, or any function ``(logits, labels)``.

    Args:
      loss: function such as ``jaxseg.dice_ce_loss``; its name is the loss's.
      where: function of the labels that says which pixels count, as ``lambda labels: labels !=
        255``.
      **options: keyword arguments of ``loss``.

    Returns:
      ``keras.losses.Loss``. ``y_true`` are ids ``[...]`` or ``[..., 1]``, integers in any dtype, or
      dense ``[..., C]``; ``y_pred`` are logits ``[..., C]``. Keras takes the mean of a loss that is
      not a scalar, over classes or pixels.

    Raises:
      RuntimeError: Keras on another backend.
      ValueError: in a call, ``sample_weight`` that is not of each pixel of a pixel loss.

    Example:
      >>> import jaxseg
      >>> from jaxseg.integrations.keras import as_loss
      >>> loss = as_loss(jaxseg.dice_ce_loss, where=lambda labels: labels != 255)
      >>> loss.name
      'dice_ce_loss'
      >>> float(loss([[[0.0], [1.0], [255.0]]], [[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]]))
      0.3498
    """
    _check_backend()
    return _Loss(loss, where, options)


class _Loss(keras.losses.Loss):
    """A class, since Keras would squeeze the class axis of the arguments of a function."""

    def __init__(self, loss: Callable[..., Array], where: Where, options: dict[str, Any]) -> None:
        super().__init__(name=getattr(loss, "__name__", type(loss).__name__))
        self._loss, self._where, self._options = loss, where, options

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if sample_weight is not None:
            pixels = jnp.shape(y_pred)[:-1]
            losses = jax.eval_shape(self.call, jnp.asarray(y_true), jnp.asarray(y_pred)).shape
            if not jnp.shape(sample_weight) == losses == pixels:
                raise ValueError(
                    f"sample_weight must have the label map's shape {pixels}, and so must the "
                    f"loss, got {jnp.shape(sample_weight)} and {losses}; where= leaves pixels out."
                )
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Array:
        logits = jnp.asarray(y_pred)
        labels = _labels(y_true, logits.shape)
        where = None if self._where is None else self._where(labels)
        if logits.shape[-1] == 1 and labels.ndim < logits.ndim:  # a mask may be soft
            labels = jnp.asarray(y_true).astype(logits.dtype).reshape(*labels.shape, 1)
        return self._loss(logits, labels, where=where, **self._options)


class SegmentationMetric(keras.metrics.Metric):
    """Scores of all pixels of an epoch, from the exact sum of a statistic.

    Args:
      scores: dict of functions of the statistic to scalars, whose names go into ``fit``'s logs, or
        one function, whose value has the metric's name there.
      num_classes: C of ``y_pred [..., C]``.
      statistic: function ``(logits, labels, *, where=None)`` whose result is summed over batches:
        any pytree of integers or floats. Labels are int32 or bool ids ``[...]``, or dense ``[...,
        C]`` if ``y_true`` is and C > 1. By default ``jaxseg.counts`` of the predicted classes: the
        largest logit's, or with C = 1 the sigmoid's mask.
      where: function of the labels that says which pixels count, as ``lambda labels: labels !=
        255``.
      ndim: number of axes of the label map, the batch's included: 3 of images.
      dense: whether ``y_true`` is dense; needed only for a statistic that takes no ids.
      name: the metric's name.

    Raises:
      RuntimeError: Keras on another backend.
      ValueError: ``sample_weight`` in ``update_state``, a score that is not a scalar in ``result``.

    Example:
      >>> import jaxseg
      >>> from jaxseg.integrations.keras import SegmentationMetric
      >>> metric = SegmentationMetric(
      ...     {"dice": lambda c: jaxseg.dice(c).mean()}, num_classes=2, ndim=2
      ... )
      >>> metric.update_state([[0.0, 1.0, 0.0]], [[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
      >>> metric.result()["dice"].item()
      0.6667
    """

    def __init__(  # noqa: D107  # the class says it
        self,
        scores: Scores,
        *,
        num_classes: int,
        statistic: Statistic = hard_counts,
        where: Where = None,
        ndim: int = 3,
        dense: bool = False,
        name: str | None = None,
    ) -> None:
        _check_backend()
        super().__init__(name=name)
        self._scores, self._statistic, self._where = scores, statistic, where
        limbs, self._structure = jax.tree.flatten(zero(statistic, num_classes, ndim, dense))
        self._limbs = [self.add_variable(x.shape, "zeros", dtype=x.dtype.name) for x in limbs]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch."""
        if sample_weight is not None:
            raise ValueError(
                "Counts are of whole pixels, so there is no sample_weight; "
                "where= says which labels count."
            )
        logits = jnp.asarray(y_pred)
        labels = _labels(y_true, logits.shape)
        where = None if self._where is None else self._where(labels)
        state = self._state() + self._statistic(logits, labels, where=where)
        for limb, value in zip(self._limbs, jax.tree.leaves(state), strict=True):
            limb.assign(value)

    def result(self) -> Any:
        """Scores of the sum: a dict of scalars, or one."""
        result = scored(self._scores, self._state())
        for name, value in (result if isinstance(result, dict) else {self.name: result}).items():
            if jnp.ndim(value) > 0:
                raise ValueError(
                    f"Keras logs scalars, and the score {name!r} has shape {jnp.shape(value)}: "
                    "reduce it, as by jnp.nanmean."
                )
        return result

    def _state(self) -> Running:
        return jax.tree.unflatten(self._structure, [limb.value for limb in self._limbs])


def _labels(y_true: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Ids ``[...]``, bool or rounded to int32, or dense ``[..., C]`` if C > 1."""
    labels = as_array(y_true)
    if labels.shape == shape and shape[-1] > 1:
        return labels != 0 if jnp.issubdtype(labels.dtype, jnp.integer) else labels
    if labels.ndim == len(shape) and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if jnp.issubdtype(labels.dtype, jnp.floating):
        labels = jnp.floor(labels + 0.5)
    return labels if labels.dtype == bool else labels.astype(jnp.int32)


def _check_backend() -> None:
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "jaxseg needs Keras on JAX: set KERAS_BACKEND=jax before keras is imported; "
            f"the backend is {keras.backend.backend()}."
        )
