"""The checked arguments of a loss, which its public function makes once."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._activations import activate
from jaxseg._checks import Axis, AxisName
from jaxseg._labels import as_truth, masked, two_classes
from jaxseg._sharding import placed_as, psum_each

T = TypeVar("T")
Activation = Literal["softmax", "sigmoid"] | None


class Pixels(NamedTuple):
    """Scores and labels of pixels, and which axes and devices to sum over."""

    scores: Array  # [*map, C]: logits, or probabilities if activation is None
    labels: Array  # ids [*map], or dense [*map, C]
    where: Array | None  # bool [*map]
    axes: tuple[int, ...]  # the axes of the map to sum over, sorted
    activation: str | None  # "two classes": one logit scores "it" against "not it"
    axis_name: AxisName  # mesh axes that split the batch

    def over_devices(self, sums: T) -> T:
        """Sum over the devices too, if the batch is summed: they hold its other images."""
        spans_devices = self.axis_name is not None and 0 in self.axes
        return psum_each(sums, self.axis_name) if spans_devices else sums

    def valid(self) -> Array:
        """True for the pixels that count, bool ``[*map]``."""
        if self.where is None:
            return jnp.ones(self.scores.shape[:-1], bool)
        return _checks.clean_bools(self.where)

    def pixel_count(self) -> Array:
        """How many pixels count, on all devices: int32, one per index of the batch axes."""
        return self.over_devices(self.valid().sum(self.axes, dtype=jnp.int32))

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
    axis: Axis,
    axis_name: AxisName = None,
) -> Pixels:
    """Check the arguments of a loss; a softmax needs two classes or more."""
    name = "probs" if activation is None else "logits"
    scores, labels, where, axes = _checks.check_soft(name, scores, labels, where, axis)
    _checks.check_activation(activation, (None, "softmax", "sigmoid"), scores.shape[-1])
    return Pixels(scores, labels, where, axes, activation, axis_name)


def as_pixels_of_classes(
    logits: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Pixels:
    """Check the arguments of a loss of exclusive classes; one logit makes "not it" and "it"."""
    logits, labels, where, axes = _checks.check_soft("logits", logits, labels, where, axis)
    activation = "softmax" if logits.shape[-1] > 1 else "two classes"
    return Pixels(logits, labels, where, axes, activation, axis_name)
