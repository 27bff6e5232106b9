"""The plain form of a sum over pixels: the formula itself, which JAX differentiates.

The other forms are tested against it, and second derivatives are taken of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxseg._activations import Names, Probs, activate
from jaxseg._checks import at_least_float32, clean_bools
from jaxseg._labels import masked, membership, per_class, two_classes
from jaxseg._numerics import fence, sum_axis_by_axis

A = TypeVar("A")
Sums = Any  # a pytree of arrays, whose structure the terms choose


class Pixel(NamedTuple):
    """What ``terms`` gets: arrays of one shape, with one element per pixel and class.

    Where a logit of -inf switches a class off, ``log_p`` is ``LEAST``.
    """

    log_p: Array  # logarithm of p
    p: Array  # probability of the class
    log_q: Array  # logarithm of 1 - p
    q: Array  # 1 - p
    truth: Array  # whether the pixel belongs to the class: bool, or float for soft labels
    labels: Array  # the sum of the truth over the classes: 1 if the pixel has one class

    @property
    def g(self) -> Array:
        """The truth as floats."""
        return self.truth.astype(self.p.dtype)

    def inside(self, x: Array) -> Array:
        """``g x``."""
        return jnp.where(self.truth, x, 0) if self.truth.dtype == bool else self.truth * x

    def outside(self, x: Array) -> Array:
        """``(1 - g) x``."""
        return jnp.where(self.truth, 0, x) if self.truth.dtype == bool else (1 - self.truth) * x


Terms = Callable[..., Sums]  # terms(pixel, *maps, *constants): what one pixel adds to the sums


class PixelSum(NamedTuple):
    """What is summed, and over what; static."""

    terms: Terms
    axes: tuple[int, ...]  # the axes of the map to sum over
    activation: str | None
    mixes_classes: bool  # the terms read several classes of a pixel, so each device holds all


class InputsOf(NamedTuple, Generic[A]):
    """What a sum reads: whole arrays, or one shard or block of each."""

    scores: A  # [*map, C], or features [*map, F] with a head
    labels: A  # [*map] or [*map, C]
    where: A | None  # [*map], or [*map, C] if the classes are independent
    maps: tuple[A, ...]  # [*map, C], without a gradient
    head: tuple[A | None, ...]  # kernel [F, C] and bias [C] that turn features into logits
    constants: tuple[A | None, ...]  # scalars, or [C]
    weights: A | None = None  # like where, without a gradient


class GradientsOf(NamedTuple, Generic[A]):
    """Cotangents of the inputs that have one; labels have one if they are soft."""

    scores: A
    labels: A | None
    head: tuple[A | None, ...]
    constants: tuple[A | None, ...]


Inputs = InputsOf[Array]
Gradients = GradientsOf[Array]


def forward(what: PixelSum, names: Names, keeps: bool, inputs: Inputs) -> tuple[Sums, Array | None]:
    """The sums. No residual is needed, since the backward pass starts from the inputs again."""
    return sums(what, inputs, names), jnp.zeros_like(inputs.scores) if keeps else None


def backward(
    what: PixelSum, names: Names, kept: Array | None, inputs: Inputs, cotangents: Sums
) -> Gradients:
    """The gradients of the inputs, from the cotangents of the sums.

    Behind the fence, XLA computes the probabilities again, and does not keep those of the sums. On
    GPUs this saves the memory and a third of the bytes moved; on TPUs it moves twice as many.
    """
    scores: Array = lax.platform_dependent(inputs.scores, tpu=lambda x: x, default=fence)
    return gradients(what, inputs._replace(scores=scores), cotangents, names)


def sums(what: PixelSum, inputs: Inputs, names: Names = ()) -> Sums:
    """The sums over ``what.axes``, arrays ``[*batch_axes, C]``. The mesh axes ``names`` cut C."""
    probs = activate(logits(inputs.scores, inputs.head, inputs.where), what.activation, -1, names)
    values = contributions(what, inputs, probs, -1, names)

    def sum_each(sum_over: Callable[[Array, tuple[int, ...]], Array], values: Sums) -> Sums:
        return jax.tree.map(lambda x: sum_over(x, what.axes), values)

    # A TPU adds no long chains, and sums over several axes at once move fewer bytes there.
    at_once, by_axis = partial(sum_each, jnp.sum), partial(sum_each, sum_axis_by_axis)
    return lax.platform_dependent(values, tpu=at_once, default=by_axis)


def gradients(what: PixelSum, inputs: Inputs, cotangents: Sums, names: Names = ()) -> Gradients:
    """The gradients of the inputs, from the cotangents of the sums."""
    soft = inputs.labels if jnp.issubdtype(inputs.labels.dtype, jnp.floating) else None

    def sums_of(
        scores: Array,
        labels: Array | None,
        head: tuple[Array | None, ...],
        constants: tuple[Array | None, ...],
    ) -> Sums:
        labels = inputs.labels if labels is None else labels
        floats = inputs._replace(scores=scores, labels=labels, head=head, constants=constants)
        return sums(what, floats, names)

    _, pull = jax.vjp(sums_of, inputs.scores, soft, inputs.head, inputs.constants)
    return GradientsOf(*pull(cotangents))


def logits(scores: Array, head: tuple[Array | None, ...], where: Array | None) -> Array:
    """Scores in float32 or float64, 0 where masked; with a head, the logits of the features."""
    x = masked(at_least_float32(scores), where)
    if not head:
        return x
    kernel, bias = head
    assert kernel is not None
    x = jnp.einsum("...f,fc->...c", x, kernel.astype(x.dtype))
    return x if bias is None else x + jnp.expand_dims(bias.astype(x.dtype), range(x.ndim - 1))


def contributions(
    what: PixelSum, inputs: Inputs, probs: Probs, class_axis: int, names: Names
) -> Sums:
    """What each pixel adds to the sums, 0 where masked: arrays of the shape of ``probs.p``.

    A pixel's terms are multiplied by its weight here, and nowhere else.
    """
    p = probs.p
    truth = _truth(inputs.labels, inputs.where, p, what.activation, class_axis, names)
    pixel = Pixel(*probs, truth, _sum_of_classes(truth.astype(p.dtype), class_axis, names))

    def along_classes(constant: Array | None) -> Array | None:
        if constant is None:
            return None
        constant = constant.astype(p.dtype)
        others = tuple(a for a in range(p.ndim) if a != class_axis % p.ndim)
        has_classes = constant.ndim == 1 and not what.mixes_classes
        return jnp.expand_dims(constant, others) if has_classes else constant

    maps = (x.astype(p.dtype) for x in inputs.maps)
    values = what.terms(pixel, *maps, *(along_classes(c) for c in inputs.constants))
    if inputs.weights is not None:
        weights = per_class(inputs.weights.astype(p.dtype), p, class_axis)
        weights = masked(weights, inputs.where, class_axis)
        values = jax.tree.map(lambda x: weights * x, values)
    return jax.tree.map(lambda x: masked(x, inputs.where, class_axis), values)


def _truth(
    labels: Array,
    where: Array | None,
    p: Array,
    activation: str | None,
    class_axis: int,
    names: Names,
) -> Array:
    """The truth in the shape of ``p``, 0 where masked."""
    labels = clean_bools(labels)
    classes = 1 if activation == "two classes" else p.shape[class_axis]
    if labels.ndim < p.ndim:
        first = jax.lax.axis_index(names) * classes if names else None
        labels = membership(labels, classes, class_axis, first)
    # In the precision of p: half precision would round sums of soft labels.
    labels = labels if labels.dtype == bool else labels.astype(p.dtype)
    labels = masked(labels, where, class_axis)
    return two_classes(labels, where, class_axis) if activation == "two classes" else labels


def _sum_of_classes(g: Array, class_axis: int, names: Names) -> Array:
    total = g.sum(class_axis, keepdims=True)
    return jnp.broadcast_to(jax.lax.psum(total, names) if names else total, g.shape)


def zero_like(inputs: Inputs) -> Array:
    """A zero that varies over the devices of a ``shard_map`` as the inputs do."""
    firsts = (x.ravel()[0].astype(jnp.float32) for x in jax.tree.leaves(inputs))
    return sum((jnp.where(False, x, 0) for x in firsts), jnp.float32(0))
