"""Sums over pixels of any function of a pixel: the engine of the losses.

``terms`` say what one pixel adds to the sums, elementwise over the classes. Masks, kinds of labels,
number types, blocks, shards, platforms and derivatives are the engine's, written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxseg._kernels import cpu, plain
from jaxseg._kernels.plain import Gradients, Inputs, Pixel, PixelSum, Sums, Terms
from jaxseg._pixels import Pixels
from jaxseg._sharding import Arrays, Cut, on_shards

__all__ = ["Pixel", "pixel_sums"]
Constant = Array | None


def pixel_sums(
    terms: Terms,
    pixels: Pixels,
    *constants: Constant,
    maps: Sequence[Array] = (),
    head: tuple[Constant, ...] = (),
    mixes_classes: bool = False,
) -> Sums:
    """``terms(pixel, *maps, *constants)`` summed over the pixels, on all devices that share them.

    Args:
      terms: a function defined at module level, which is part of the compilation cache's key: of a
        ``Pixel``, maps and constants to a pytree of arrays like ``pixel.p``.
      pixels: checked arguments.
      constants: scalars, or ``[C]``, which terms see along the classes; None stays None.
      maps: arrays ``[*map, C]`` without a gradient.
      head: kernel ``[F, C]`` and bias ``[C]``; then the scores are features ``[*map, F]``, of which
        each block's logits are made.
      mixes_classes: the terms read several classes of a pixel: these are last, and all are there.

    Returns:
      The terms' pytree, of arrays ``[*rest, C]``. Differentiable in scores, soft labels, head and
      constants in reverse mode, and forward over reverse; without an activation in any mode.
    """
    what = PixelSum(terms, pixels.axes, pixels.activation, mixes_classes)
    inputs = Inputs(pixels.scores, pixels.labels, pixels.where, tuple(maps), head, constants)
    return pixels.over_devices(_sums(what, inputs))


@partial(jax.jit, static_argnums=0)
def _sums(what: PixelSum, inputs: Inputs) -> Sums:
    inputs = inputs._replace(maps=lax.stop_gradient(inputs.maps))
    # XLA of JAX 0.8.0 and 0.8.1 folds constant labels wrong: tests/test_laws.py on the oldest JAX.
    labels, where = lax.optimization_barrier((inputs.labels, inputs.where))
    inputs = inputs._replace(labels=labels, where=where)
    return plain.sums(what, inputs) if what.activation is None else _lean_sums(what, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lean_sums(what: PixelSum, inputs: Inputs) -> Sums:
    return _forward(what, False, inputs)[0]


def _lean_forward(what: PixelSum, inputs: Inputs) -> tuple[Sums, tuple[Array | None, Inputs]]:
    # A copy of float32 probabilities fits the memory of the gradient to be.
    keeps = inputs.scores.dtype.itemsize >= 4 and what.activation in ("softmax", "sigmoid")
    sums, kept = _forward(what, keeps and not inputs.head, inputs)
    return sums, (kept, inputs)


def _lean_backward(
    what: PixelSum, residuals: tuple[Array | None, Inputs], cotangents: Sums
) -> tuple[Inputs]:
    kept, inputs = residuals
    scores, labels, head, constants = _backward(what, kept, inputs, cotangents)
    maps = tuple(None for _ in inputs.maps)
    return (Inputs(scores, labels, None, maps, head, constants),)


_lean_sums.defvjp(_lean_forward, _lean_backward)


# A form need not be differentiable: second derivatives are those of the plain form.
@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _forward(what: PixelSum, keeps: bool, inputs: Inputs) -> tuple[Sums, Array | None]:
    """The sums, and with ``keeps`` what the backward pass of the form wants, like the scores."""
    given, treedef = jax.tree.flatten(inputs)
    shapes = jax.eval_shape(partial(plain.sums, what), inputs)

    def local(arrays: Arrays, cut: Cut) -> Arrays:
        names = cut.get("class", ())

        def on_cpu(*arrays: Array) -> list[Array]:
            return jax.tree.leaves(cpu.forward(what, treedef.unflatten(arrays), names, keeps))

        def elsewhere(*arrays: Array) -> list[Array]:
            inputs = treedef.unflatten(arrays)
            kept = jnp.zeros_like(inputs.scores) if keeps else None
            return jax.tree.leaves((plain.sums(what, inputs, names), kept))

        return tuple(lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere))

    axes = _axes(what, inputs)
    sums = jax.tree.map(lambda _: _axes_of_sums(what, inputs), shapes)
    results = [*jax.tree.leaves(sums), *([axes.scores] if keeps else [])]
    leaves = on_shards(local, tuple(given), jax.tree.leaves(axes), results)
    kept = leaves[-1] if keeps else None
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves[: len(leaves) - keeps]), kept


@_forward.defjvp
def _forward_jvp(what: PixelSum, keeps: bool, primals: Any, tangents: Any) -> Any:
    sums, kept = _forward(what, keeps, *primals)
    _, changes = jax.jvp(partial(plain.sums, what), primals, tangents)
    return (sums, kept), (changes, None if kept is None else jnp.zeros_like(kept))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _backward(what: PixelSum, kept: Array | None, inputs: Inputs, cotangents: Sums) -> Gradients:
    given, treedef = jax.tree.flatten((kept, inputs, cotangents))

    def local(arrays: Arrays, cut: Cut) -> Arrays:
        names = cut.get("class", ())

        def on_cpu(*arrays: Array) -> list[Array]:
            kept, inputs, cotangents = treedef.unflatten(arrays)
            return jax.tree.leaves(cpu.backward(what, kept, inputs, cotangents, names))

        def elsewhere(*arrays: Array) -> list[Array]:
            _, inputs, cotangents = treedef.unflatten(arrays)
            return jax.tree.leaves(plain.gradients(what, inputs, cotangents, names))

        return tuple(lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere))

    axes = _axes(what, inputs)
    sums = jax.tree.map(lambda _: _axes_of_sums(what, inputs), cotangents)
    is_soft = jnp.issubdtype(inputs.labels.dtype, jnp.floating)
    results = Gradients(axes.scores, axes.labels if is_soft else None, axes.head, axes.constants)
    leaves = on_shards(
        local,
        tuple(given),
        jax.tree.leaves((None if kept is None else axes.scores, axes, sums)),
        jax.tree.leaves(results),
    )
    return jax.tree.unflatten(jax.tree.structure(results), leaves)


@_backward.defjvp
def _backward_jvp(what: PixelSum, primals: Any, tangents: Any) -> Any:
    """What was kept is a function of the inputs, through which its derivative is taken."""
    gradients = _backward(what, *primals)
    _, changes = jax.jvp(partial(plain.gradients, what), primals[1:], tangents[1:])
    return gradients, changes


# ---------------------------------------------------------------------------------- sharding


def _axes(what: PixelSum, inputs: Inputs) -> Any:
    """The names of each array's axes: those of one name are cut alike."""
    space = " ".join(f"a{i}" for i in range(inputs.scores.ndim - 1))
    classes = _class_name(what, inputs)
    dense = f"{space} {classes}"
    return Inputs(
        scores=f"{space} _" if inputs.head else dense,
        labels=dense if inputs.labels.ndim == inputs.scores.ndim else space,
        where=None if inputs.where is None else space,
        maps=tuple(dense for _ in inputs.maps),
        head=jax.tree.map(lambda x: " ".join("_" * x.ndim), inputs.head),
        constants=jax.tree.map(
            lambda x: classes if x.ndim == 1 else " ".join("_" * x.ndim), inputs.constants
        ),
    )


def _axes_of_sums(what: PixelSum, inputs: Inputs) -> str:
    rest = (f"a{i}" for i in range(inputs.scores.ndim - 1) if i not in what.axes)
    return " ".join((*rest, _class_name(what, inputs)))


def _class_name(what: PixelSum, inputs: Inputs) -> str:
    """The classes' name, if a device can do with some of them."""
    whole = inputs.head or what.mixes_classes or what.activation == "two classes"
    return "_" if whole else "class"
