"""Losses and scores for ``compile`` and ``fit`` of Keras 3 on its JAX backend.

Keras passes the labels first, with ids as floats, often with a last axis of 1, and has no argument
for ``where``. Here ids become integers again, and ``where`` is a function of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import Array
from jax.typing import ArrayLike

import jaxseg
from jaxseg import Running, check_labels
from jaxseg._checks import Nested, as_array, at_least_float32
from jaxseg.integrations import _evaluation
from jaxseg.integrations._evaluation import Scores, StatisticFunction, hard_counts

__all__ = ["as_loss", "SegmentationMetric"]

LossFunction = Callable[..., Array]  # (logits, labels, *, where, **options)
Where = Callable[[Array], Array] | None
FUNCTIONS = ("scores", "statistic", "where")  # of a metric


def as_loss(loss: LossFunction, *, where: Where = None, **options: object) -> keras.losses.Loss:
    """Make a loss for ``compile`` from one of jaxseg's, or from any function ``(logits, labels)``.

    Args:
      loss: function such as ``jaxseg.dice_ce_loss``, which also gives the name.
      where: function of the labels that says which pixels count, such as ``lambda labels: labels !=
        255``.
      **options: keyword arguments for ``loss``.

    Returns:
      ``keras.losses.Loss``. ``y_true`` are ids ``[...]`` or ``[..., 1]``, integers in any dtype, or
      dense ``[..., C]``; ``y_pred`` are logits ``[..., C]``. Keras takes the mean of a loss that is
      not a scalar, over classes or pixels. ``sample_weight`` is ``[B]``, or has the label map's
      shape, and is the loss's ``weights``; a pixel loss without that argument is multiplied by it.
      A saved model is loaded with the loss if the functions are jaxseg's, or are registered with
      ``keras.saving.register_keras_serializable``.

    Raises:
      RuntimeError: Keras runs on another backend.
      ValueError: in a call, a ``sample_weight`` of another shape, or for a loss that takes none; in
        the first call that is not traced, for jaxseg's losses, what ``jaxseg.check_labels`` finds.

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


class _Weighted(NamedTuple):
    """Labels with their weights, as Keras passes them on to ``call``."""

    labels: Array
    weights: Array


class _Loss(keras.losses.Loss):
    """A class, since Keras would squeeze the class axis of what it passes to a function."""

    def __init__(self, loss: LossFunction, where: Where, options: dict[str, object]) -> None:
        super().__init__(name=getattr(loss, "__name__", type(loss).__name__))
        self._loss, self._where, self._options = loss, where, options
        self._takes_weights = "weights" in inspect.signature(loss).parameters
        self._checked = False

    def __reduce__(self) -> tuple[object, ...]:
        return _Loss, (self._loss, self._where, self._options)

    def get_config(self) -> dict[str, object]:
        """What a saved model holds."""
        functions = {"loss": _to_config(self._loss), "where": _to_config(self._where)}
        return {**functions, "options": keras.saving.serialize_keras_object(self._options)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Loss:
        """Read what ``get_config`` gave."""
        options = keras.saving.deserialize_keras_object(config["options"])
        return cls(_from_config(config["loss"]), _from_config(config["where"]), options)

    def __call__(
        self, y_true: Nested, y_pred: Nested, sample_weight: ArrayLike | None = None
    ) -> Array:
        if sample_weight is None:
            return super().__call__(y_true, y_pred)
        logits, labels = jnp.asarray(y_pred), jnp.asarray(y_true)
        pixels = logits.shape[:-1]
        weights = _as_weights(sample_weight, pixels)
        if self._takes_weights:
            return super().__call__(_Weighted(labels, weights), logits)
        losses = jax.eval_shape(self.call, labels, logits).shape
        if losses != pixels:
            raise ValueError(
                f"{self.name} takes no weights, and a loss of shape {losses} cannot be multiplied "
                f"by those of pixels {pixels}; where= leaves pixels out."
            )
        return super().__call__(labels, logits, jnp.broadcast_to(weights, pixels))

    def call(self, y_true: Nested | _Weighted, y_pred: Nested) -> Array:
        logits, options = jnp.asarray(y_pred), self._options
        weights = None
        if isinstance(y_true, _Weighted):
            y_true, weights = y_true
            options = {**options, "weights": weights}
        labels = _as_labels(y_true, logits.shape)
        where = None if self._where is None else self._where(labels)
        if logits.shape[-1] == 1 and labels.ndim < logits.ndim:  # a mask may be soft
            labels = at_least_float32(as_array(y_true)).reshape(*labels.shape, 1)
        loss = self._loss(logits, labels, where=where, **options)
        if not self._checked and self._is_from_jaxseg():
            self._checked = _check_known(labels, where, weights, logits, self._takes_logits())
        return loss

    def _is_from_jaxseg(self) -> bool:
        """Whether the loss is jaxseg's, so that the meaning of labels and predictions is known."""
        function = self._loss.func if isinstance(self._loss, partial) else self._loss
        return getattr(function, "__module__", "").startswith("jaxseg.")

    def _takes_logits(self) -> bool:
        given = self._loss.keywords if isinstance(self._loss, partial) else {}
        return (given | self._options).get("activation", "") is not None


class SegmentationMetric(keras.metrics.Metric):
    """Scores of all pixels of an epoch, from the exact sum of a statistic.

    Args:
      scores: dict of functions from the statistic to scalars, whose names appear in ``fit``'s logs,
        or one function, whose value appears under the metric's name.
      num_classes: C of ``y_pred [..., C]``.
      statistic: function ``(logits, labels, *, where=None)`` whose result is summed over batches:
        any pytree of integers or floats. Labels are int32 or bool ids ``[...]``, or dense ``[...,
        C]`` if ``y_true`` is and C > 1. By default ``jaxseg.counts`` of the predicted classes: the
        largest logit's, or with C = 1 the sigmoid's mask.
      where: function of the labels that says which pixels count, such as ``lambda labels: labels !=
        255``.
      ndim: number of axes of the label map with its batch axis: 3 for images.
      dense: whether ``y_true`` is dense; needed only for a statistic that takes no ids.
      weighted: whether ``update_state`` takes a ``sample_weight``, ``[B]`` or of the label map's
        shape, as those of ``weighted_metrics`` do: it is the statistic's ``weights``. The default
        statistic then counts in floats.
      name: the metric's name.

    Raises:
      RuntimeError: Keras runs on another backend.
      ValueError: in ``update_state``, a ``sample_weight`` for a metric that is not weighted, or of
        another shape; in ``result``, a score that is not a scalar. With the default statistic also
        labels of valid pixels that are no class: in the first ``update_state`` that is not traced,
        else in ``result``, which ``fit`` and ``evaluate`` call when an epoch ends.

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
        statistic: StatisticFunction = hard_counts,
        where: Where = None,
        ndim: int = 3,
        dense: bool = False,
        weighted: bool = False,
        name: str | None = None,
    ) -> None:
        _check_backend()
        super().__init__(name=name)
        self._constructor = partial(
            SegmentationMetric,
            scores=scores,
            num_classes=num_classes,
            statistic=statistic,
            where=where,
            ndim=ndim,
            dense=dense,
            weighted=weighted,
            name=self.name,
        )
        self._scores, self._statistic, self._where = scores, statistic, where
        self._weighted = weighted
        zero = _evaluation.zero_sum(statistic, num_classes, ndim, dense, weighted)
        limbs, self._structure = jax.tree.flatten(zero)
        self._limbs = [self.add_variable(x.shape, "zeros", dtype=x.dtype.name) for x in limbs]
        self._num_classes, self._checked, self._outside = num_classes, False, None
        if statistic is hard_counts:  # for another, labels may mean something else
            self._outside = self.add_variable((2,), "zeros", dtype="float32", name="outside")

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self._constructor, [np.asarray(v.value) for v in self.variables])

    def get_config(self) -> dict[str, object]:
        """What a saved model holds."""
        arguments = self._constructor.keywords
        functions = {name: _to_config(arguments[name]) for name in FUNCTIONS}
        return arguments | functions

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SegmentationMetric:
        """Read what ``get_config`` gave."""
        functions = {name: _from_config(config[name]) for name in FUNCTIONS}
        return cls(**config | functions)

    def update_state(
        self, y_true: Nested, y_pred: Nested, sample_weight: ArrayLike | None = None
    ) -> None:
        """Add a batch."""
        logits = jnp.asarray(y_pred)
        labels = _as_labels(y_true, logits.shape)
        where = None if self._where is None else self._where(labels)
        pixels = logits.shape[:-1]
        weights = None if sample_weight is None else _as_weights(sample_weight, pixels)
        given = _evaluation.weights_argument(weights, self._weighted, pixels)
        state = self._state() + self._statistic(logits, labels, where=where, **given)
        if self._outside is not None:
            self._checked = self._checked or _check_known(labels, where, weights, logits, False)
            valid = where
            if weights is not None:
                weighs = jnp.broadcast_to(weights != 0, pixels)
                valid = weighs if where is None else where & weighs
            self._outside.assign(_widen(self._outside.value, labels, valid, logits.shape))
        for limb, value in zip(self._limbs, jax.tree.leaves(state), strict=True):
            limb.assign(value)

    def result(self) -> Any:
        """The scores of the sum: a dict of scalars, or one scalar."""
        if self._outside is not None and not isinstance(self._outside.value, jax.core.Tracer):
            low, high = np.asarray(self._outside.value).tolist()
            if low != 0 or high != 0:
                raise ValueError(
                    f"Labels of valid pixels were outside of their {self._num_classes} classes, "
                    f"from {low:g} to {high:g}. jaxseg.check_labels says how to mend them."
                )
        result = _evaluation.compute_scores(self._scores, self._state())
        for name, value in (result if isinstance(result, dict) else {self.name: result}).items():
            if jnp.ndim(value) > 0:
                raise ValueError(
                    f"Keras logs scalars, and the score {name!r} has shape {jnp.shape(value)}: "
                    "reduce it, as by jnp.nanmean."
                )
        return result

    def _state(self) -> Running:
        return jax.tree.unflatten(self._structure, [limb.value for limb in self._limbs])


# So that ``load_model`` finds them. (As decorators they would hide the classes from Sphinx.)
keras.saving.register_keras_serializable("jaxseg", "Loss")(_Loss)
keras.saving.register_keras_serializable("jaxseg")(SegmentationMetric)


def _restore(make: partial[SegmentationMetric], values: list[np.ndarray]) -> SegmentationMetric:
    metric = make()
    for variable, value in zip(metric.variables, values, strict=True):
        variable.assign(value)
    return metric


def _check_known(
    labels: Array, where: Array | None, weights: Array | None, logits: Array, are_logits: bool
) -> bool:
    """Check labels, and logits if ``are_logits``, unless traced; return whether labels were."""
    if any(isinstance(x, jax.core.Tracer) for x in (labels, where, weights)):
        return False
    predictions = None if isinstance(logits, jax.core.Tracer) or not are_logits else logits
    check_labels(
        labels,
        num_classes=logits.shape[-1],
        where=where,
        weights=weights,
        predictions=predictions,
    )
    return True


def _to_config(function: object) -> Any:
    """What a saved model holds of a function, of a dict of them, or of None."""
    if function is None:
        return None
    if isinstance(function, Mapping):
        return {"functions": {name: _to_config(each) for name, each in function.items()}}
    if isinstance(function, partial) and not function.args:
        options = keras.saving.serialize_keras_object(function.keywords)
        return {"partial": _to_config(function.func), "options": options}
    name = getattr(function, "__name__", "")
    if function is hard_counts or getattr(jaxseg, name, None) is function:
        return {"jaxseg": name}
    return keras.saving.serialize_keras_object(function)


def _from_config(config: Any) -> Any:
    """The function of which ``_to_config`` made this."""
    if config is None:
        return None
    if "functions" in config:
        return {name: _from_config(each) for name, each in config["functions"].items()}
    if "partial" in config:
        options = keras.saving.deserialize_keras_object(config["options"])
        return partial(_from_config(config["partial"]), **options)
    if "jaxseg" in config:
        name = config["jaxseg"]
        return hard_counts if name == hard_counts.__name__ else getattr(jaxseg, name)
    return keras.saving.deserialize_keras_object(config)


def _as_weights(sample_weight: ArrayLike, pixels: tuple[int, ...]) -> Array:
    """Weights of pixels, or of images ``[B, 1, 1]``: float32."""
    weights = as_array(sample_weight).astype(jnp.float32)
    if weights.shape == (*pixels, 1):
        weights = weights[..., 0]
    if weights.shape == pixels[:1]:
        weights = weights.reshape(*weights.shape, *(1 for _ in pixels[1:]))
    if weights.ndim != len(pixels) or any(n not in (1, m) for n, m in zip(weights.shape, pixels)):
        raise ValueError(
            f"sample_weight must have the label map's shape {pixels}, or that of its images "
            f"{pixels[:1]}; got {jnp.shape(sample_weight)}."
        )
    return weights


def _widen(limits: Array, labels: Array, where: Array | None, shape: tuple[int, ...]) -> Array:
    """Widen ``[min, max]``, at first [0, 0], by the labels of valid pixels that are no class."""
    dense = labels.ndim == len(shape)
    x = labels.astype(jnp.float32)
    last = 1 + 1e-6 if dense else max(shape[-1] - 1, 1)
    outside = ~((x >= 0) & (x <= last))
    if where is not None:
        outside &= where[..., None] if dense else where
    x = jnp.where(outside, x, 0)
    return jnp.stack([jnp.minimum(limits[0], x.min()), jnp.maximum(limits[1], x.max())])


def _as_labels(y_true: Nested, shape: tuple[int, ...]) -> Array:
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
