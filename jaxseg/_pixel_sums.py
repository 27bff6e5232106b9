"""The soft engine: any function of one pixel, summed over the pixels, and differentiable.

``terms`` says what one pixel adds to the sums, elementwise over the classes. The engine does the
rest for all losses: masks, kinds of labels, dtypes, blocks, shards, platforms and derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType

from jaxseg._kernels import plain
from jaxseg._kernels.forms import forms
from jaxseg._kernels.plain import (
    Gradients,
    GradientsOf,
    Inputs,
    InputsOf,
    PixelSum,
    Sums,
    Terms,
)
from jaxseg._pixels import Pixels
from jaxseg._sharding import Cut, on_shards, placed_as

Constant = Array | None


def pixel_sums(
    terms: Terms,
    pixels: Pixels,
    *constants: Constant,
    maps: Sequence[Array] = (),
    head: tuple[Constant, ...] = (),
    mixes_classes: bool = False,
) -> Sums:
    """Sum ``terms(pixel, *maps, *constants)`` over the pixels, on all devices that hold them.

    Args:
      terms: a function of a ``Pixel``, the maps and the constants that returns a pytree of arrays
        like ``pixel.p``. Define it at module level: it is part of the compilation cache's key.
      pixels: the checked arguments. A pixel's terms are multiplied by its weight.
      constants: scalars, or arrays ``[C]``, which ``terms`` sees along its class axis; or None.
      maps: arrays ``[*map, C]`` without a gradient.
      head: kernel ``[F, C]`` and bias ``[C]``. The scores are then features ``[*map, F]``, and the
        logits are made block by block.
      mixes_classes: whether ``terms`` reads several classes of a pixel: they are then all there, on
        the last axis.

    Returns:
      The pytree of ``terms``, of arrays ``[*batch_axes, C]``. It has derivatives in scores, soft
      labels, head and constants, in reverse mode and forward over reverse; without an activation,
      in any mode.
    """
    what = PixelSum(terms, pixels.axes, pixels.activation, mixes_classes)
    where, weights = pixels.where, pixels.weights
    inputs = Inputs(pixels.scores, pixels.labels, where, tuple(maps), head, constants, weights)
    return pixels.over_devices(_sums(what, inputs))


@partial(jax.jit, static_argnums=0)
def _sums(what: PixelSum, inputs: Inputs) -> Sums:
    inputs = inputs._replace(maps=lax.stop_gradient(inputs.maps))
    # XLA of JAX 0.8.0 and 0.8.1 folds constant labels wrong: tests/test_laws.py on the oldest JAX.
    labels, where = lax.optimization_barrier((inputs.labels, inputs.where))
    inputs = inputs._replace(labels=labels, where=where)
    if AxisType.Manual in jax.typeof(inputs.scores).sharding.mesh.axis_types:
        # In a shard_map, parameters that are the same on all devices are marked as varying from
        # here on, so that their gradients are summed.
        zero = plain.zero_like(inputs)
        params = (inputs.scores, inputs.head, inputs.constants)
        scores, head, constants = jax.tree.map(lambda x: x + zero.astype(x.dtype), params)
        inputs = inputs._replace(scores=scores, head=head, constants=constants)
    return plain.sums(what, inputs) if what.activation is None else _lean_sums(what, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lean_sums(what: PixelSum, inputs: Inputs) -> Sums:
    return _forward(what, False, inputs)[0]


def _lean_forward(what: PixelSum, inputs: Inputs) -> tuple[Sums, tuple[Array | None, Inputs]]:
    # Probabilities in float32 fit the memory that the gradient will take.
    keeps = inputs.scores.dtype.itemsize >= 4 and what.activation in ("softmax", "sigmoid")
    sums, kept = _forward(what, keeps and not inputs.head, inputs)
    return sums, (kept, inputs)


def _lean_backward(
    what: PixelSum, residuals: tuple[Array | None, Inputs], cotangents: Sums
) -> tuple[InputsOf[Array | None]]:
    kept, inputs = residuals
    gradients = _backward(what, kept, inputs, cotangents)
    floats = GradientsOf(inputs.scores, inputs.labels, inputs.head, inputs.constants)
    if gradients.labels is None:
        floats = floats._replace(labels=None)
    # On an Explicit mesh, each gradient is sharded like its input.
    scores, labels, head, constants = jax.tree.map(
        lambda x, like: placed_as(x, jax.typeof(like).sharding.spec), gradients, floats
    )
    maps = tuple(None for _ in inputs.maps)
    return (InputsOf(scores, labels, None, maps, head, constants, None),)


_lean_sums.defvjp(_lean_forward, _lean_backward)


# A form need not be differentiable: second derivatives are taken of the plain form.
@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _forward(what: PixelSum, keeps: bool, inputs: Inputs) -> tuple[Sums, Array | None]:
    """The sums, and the residual, an array like the scores, if it ``keeps`` one."""

    def local(inputs: Inputs, cut: Cut | None) -> tuple[Sums, Array | None]:
        if cut is None:
            return plain.forward(what, (), keeps, inputs)
        names = cut.get("class", ())
        each = {k: partial(form.forward, what, names, keeps) for k, form in forms().items()}
        return lax.platform_dependent(inputs, **each)

    axes, shapes = _axes(what, inputs), jax.eval_shape(partial(plain.sums, what), inputs)
    results = (_axes_of_sums(what, inputs, shapes), axes.scores if keeps else None)
    return on_shards(local, inputs, axes, results)


@_forward.defjvp
def _forward_jvp(
    what: PixelSum, keeps: bool, primals: tuple[Inputs], tangents: tuple[Inputs]
) -> tuple[tuple[Sums, Array | None], tuple[Sums, Array | None]]:
    sums, kept = _forward(what, keeps, *primals)
    _, changes = jax.jvp(partial(plain.sums, what), primals, tangents)
    return (sums, kept), (changes, None if kept is None else jnp.zeros_like(kept))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _backward(what: PixelSum, kept: Array | None, inputs: Inputs, cotangents: Sums) -> Gradients:
    """The gradients of the inputs, from the cotangents of the sums."""

    def local(arrays: tuple[Array | None, Inputs, Sums], cut: Cut | None) -> Gradients:
        if cut is None:
            return plain.backward(what, (), *arrays)
        names = cut.get("class", ())
        each = {k: partial(form.backward, what, names) for k, form in forms().items()}
        gradients: Gradients = lax.platform_dependent(*arrays, **each)
        return gradients

    axes, cotangent_axes = _axes(what, inputs), _axes_of_sums(what, inputs, cotangents)
    is_soft = jnp.issubdtype(inputs.labels.dtype, jnp.floating)
    return on_shards(
        local,
        (kept, inputs, cotangents),
        (None if kept is None else axes.scores, axes, cotangent_axes),
        GradientsOf(axes.scores, axes.labels if is_soft else None, axes.head, axes.constants),
    )


@_backward.defjvp
def _backward_jvp(
    what: PixelSum,
    primals: tuple[Array | None, Inputs, Sums],
    tangents: tuple[Array | None, Inputs, Sums],
) -> tuple[Gradients, Gradients]:
    """The residual is a function of the inputs, so the derivative in the inputs covers it."""
    gradients = _backward(what, *primals)
    _, changes = jax.jvp(partial(plain.gradients, what), primals[1:], tangents[1:])
    return gradients, changes


# ---------------------------------------------------------------------------------- sharding


def _axes(what: PixelSum, inputs: Inputs) -> InputsOf[str]:
    """The names of each array's axes; axes of the same name are cut alike."""
    space = " ".join(f"a{i}" for i in range(inputs.scores.ndim - 1))
    classes = _class_name(what, inputs)
    dense = f"{space} {classes}"

    def named(x: Array) -> str:
        return dense if x.ndim == inputs.scores.ndim else space

    return InputsOf(
        scores=f"{space} _" if inputs.head else dense,
        labels=named(inputs.labels),
        where=None if inputs.where is None else named(inputs.where),
        maps=tuple(dense for _ in inputs.maps),
        head=jax.tree.map(lambda x: " ".join("_" * x.ndim), inputs.head),
        constants=jax.tree.map(
            lambda x: classes if x.ndim == 1 else " ".join("_" * x.ndim), inputs.constants
        ),
        weights=None if inputs.weights is None else named(inputs.weights),
    )


def _axes_of_sums(what: PixelSum, inputs: Inputs, sums: Sums) -> Sums:
    batch_axes = (f"a{i}" for i in range(inputs.scores.ndim - 1) if i not in what.axes)
    names = " ".join((*batch_axes, _class_name(what, inputs)))
    return jax.tree.map(lambda _: names, sums)


def _class_name(what: PixelSum, inputs: Inputs) -> str:
    """The name of the class axis; ``_`` if each device needs all classes."""
    needs_all = inputs.head or what.mixes_classes or what.activation == "two classes"
    return "_" if needs_all else "class"
