"""The checked arguments of a loss, which its public function makes once."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxseg import _checks
from jaxseg._activations import activate
from jaxseg._checks import Axis, AxisName
from jaxseg._labels import as_truth, masked, per_class, two_classes
from jaxseg._numerics import safe_divide, sum_axis_by_axis
from jaxseg._sharding import placed_as, psum_each

T = TypeVar("T")
Activation = Literal["softmax", "sigmoid"] | None


class Pixels(NamedTuple):
    """Scores and labels of pixels, and which axes and devices to sum over."""

    scores: Array  # [*map, C]: logits, or probabilities if activation is None
    labels: Array  # ids [*map], or dense [*map, C]
    where: Array | None  # bool [*map], or [*map, C] if the classes are independent
    axes: tuple[int, ...]  # the axes of the map to sum over, sorted
    activation: str | None  # "two classes": one logit scores "it" against "not it"
    axis_name: AxisName  # mesh axes that split the batch
    weights: Array | None = None  # like where, which is False where they are 0

    def over_devices(self, sums: T) -> T:
        """Sum over the devices too, if the batch is summed: they hold its other images."""
        spans_devices = self.axis_name is not None and 0 in self.axes
        return psum_each(sums, self.axis_name) if spans_devices else sums

    def valid(self) -> Array:
        """True for the pixels that count, bool ``[*map]``; or ``[*map, C]``, as ``where`` is."""
        if self.where is None:
            return jnp.ones(self.scores.shape[:-1], bool)
        return _checks.clean_bools(self.where)

    def pixel_count(self) -> Array:
        """How many pixels count, on all devices: int32, one per index of the batch axes."""
        return self.over_devices(self.valid().sum(self.axes, dtype=jnp.int32))

    def weigh(self, x: Array) -> Array:
        """Numbers ``[*map]`` or ``[*map, C]`` times the weights."""
        if self.weights is None:
            return x
        return x * per_class(self._weights(x.dtype), x)

    def total_weight(self, dtype: DTypeLike) -> Array:
        """The sum of the weights of the pixels that count, on all devices, like ``pixel_count``."""
        if self.weights is None:
            return self.pixel_count().astype(dtype)
        return self.over_devices(sum_axis_by_axis(self._weights(dtype), self.axes))

    def mean_weight(self, dtype: DTypeLike) -> Array:
        """The mean weight of the pixels that count, on all devices; 0 if there are none."""
        count = self.pixel_count().astype(dtype)
        return safe_divide(self.total_weight(dtype), count, 0)

    def _weights(self, dtype: DTypeLike) -> Array:
        assert self.weights is not None
        weights = self.weights.astype(dtype)
        return weights if self.where is None else jnp.where(self.valid(), weights, 0)

    def logits(self) -> Array:
        """The scores in float32 or float64; 0 where masked, so that gradients are 0 there."""
        return masked(_checks.at_least_float32(self.scores), self.where)

    def probs(self) -> Array:
        """Probabilities ``[*map, C]``, 0 where masked."""
        return masked(activate(self.logits(), self.activation).p, self.where)

    def truth(self) -> Array:
        """Labels ``[*map, C]``, 0 where masked: bool, or floats if the labels are floats."""
        truth = as_truth(self.labels, self.scores.shape[-1], self.scores.ndim)
        truth = masked(truth, self.where)
        if self.activation == "two classes":
            return two_classes(truth, self.where)
        return placed_as(truth, jax.typeof(self.scores).sharding.spec)

    def masks(self) -> Array:
        """``truth`` as bool; a float label of 0.5 or more is the class."""
        truth = self.truth()
        return truth if truth.dtype == bool else truth >= 0.5


def as_pixels(
    scores: ArrayLike,
    labels: ArrayLike,
    activation: Activation,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    axis: Axis,
    axis_name: AxisName = None,
    *,
    by_class: bool = False,
) -> Pixels:
    """Check the arguments of a loss; a softmax needs two classes or more.

    If the classes are scored one by one, ``by_class``, where and weights may have a class axis,
    unless a softmax ties the classes to each other.
    """
    name = "probs" if activation is None else "logits"
    scores, labels, axes = _checks.check_soft(name, scores, labels, axis)
    _checks.check_activation(activation, (None, "softmax", "sigmoid"), scores.shape[-1])
    kind = "tied" if activation == "softmax" else "independent" if by_class else "whole"
    where, weights = _checks.check_where_and_weights(where, weights, scores.shape, kind)
    return Pixels(scores, labels, where, axes, activation, axis_name, weights)


def as_pixels_of_classes(
    logits: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Pixels:
    """Check the arguments of a loss of exclusive classes; one logit makes "not it" and "it"."""
    logits, labels, axes = _checks.check_soft("logits", logits, labels, axis)
    activation = "softmax" if logits.shape[-1] > 1 else "two classes"
    where, weights = _checks.check_where_and_weights(where, weights, logits.shape, "tied")
    return Pixels(logits, labels, where, axes, activation, axis_name, weights)
