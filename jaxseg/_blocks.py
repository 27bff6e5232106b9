"""Sums over the pixels of a map, taken block by block, in little memory.

A region loss needs a few sums over all pixels of functions of the logits (softmax, products with
the truth). Written plainly, differentiation keeps several arrays as large as the logits. Here a
loop cuts the pixels into blocks that fit the cache, and the backward pass computes each block anew
from the logits and writes its gradient in place: temporaries are a few blocks, whatever the map's
size. ``fused_sum`` is the same for a statistic whose derivative is written by hand.

The map's first axis is left whole (unless it is the only one), so that an input sharded over its
batch stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg._checks import clean_bools

# A block of logits, in bytes. On CPU it should stay in the second-level cache together with its
# half dozen temporaries; an accelerator wants enough work for one kernel launch.
CPU_BLOCK_BYTES = 96 * 1024
ACCELERATOR_BLOCK_BYTES = 64 * 1024 * 1024

# A smaller map has smaller blocks, down to these, so that temporaries are a small share of it too.
CPU_LEAST_BLOCKS = 128
CPU_LEAST_BLOCK_BYTES = 8 * 1024

# With few classes, a CPU's vectors are filled along the pixels, not along the classes.
CPU_CLASS_MAJOR_LIMIT = 16

# (arrays, constants, axes, class_axis) -> sums over ``axes``: a pytree of arrays that keep the
# map's other axes, and then have an axis of classes, or of 1.
Statistic = Callable[..., Any]
Forward = Callable[..., Any]
Backward = Callable[..., Array]
Arrays = tuple[Any, ...]  # of Array or None
Axes = tuple[int, ...]


@partial(jax.jit, static_argnames=("statistic", "axes"))
def blocked_sum(statistic: Statistic, arrays: Arrays, constants: Any = None, *, axes: Axes) -> Any:
    """``statistic(arrays, constants, axes, -1)``, for a statistic that is a sum over pixels.

    Args:
      statistic: a function defined at module level (it is part of the compilation cache's key).
      arrays: the logits ``[*map, C]`` first, then arrays ``[*map]`` or ``[*map, C]``, or None.
      constants: pytree of arrays that every block needs whole, such as class weights.
      axes: the map's axes to sum, sorted.

    Returns:
      What ``statistic`` returns. Differentiable in ``arrays`` and ``constants`` in reverse mode,
      and forward over reverse; not in pure forward mode.
    """
    # XLA of JAX 0.8.0 and 0.8.1 folds parts of labels that are constants, and folds them wrong.
    arrays = (arrays[0], *lax.optimization_barrier(arrays[1:]))
    run = _axes_to_cut(arrays[0], axes)
    if not run:  # one block, which the backward pass still computes anew
        arrays = tuple(clean_bools(x) for x in arrays)
        return _sum_blocks(statistic, axes, None, arrays, constants)
    classes = arrays[0].shape[-1]
    if run[-1] == arrays[0].ndim - 2 and turns(classes):
        statistic = partial(_of_turned, statistic)
    if classes == 1:  # merged in each block: XLA would copy the whole gradient to unmerge it
        sums = _sum_blocks(partial(_of_merged, statistic), run, run[0], arrays, constants)
    else:
        merged = tuple(_merge(x, run) for x in arrays)
        sums = _sum_blocks(statistic, run[:1], run[0], merged, constants)
    return jax.tree.map(lambda x: x.sum(axes[: -len(run)]), sums)


def _loop(statistic: Statistic, axes: Axes, cut: int | None, arrays: Arrays, constants: Any) -> Any:
    """``statistic`` summed over ``axes``, in blocks along the axis ``cut`` or in one."""
    if cut is None:
        return statistic(arrays, constants, axes, -1)

    def add_block(_: ArrayLike, block: Arrays, sums: Any) -> Any:
        return _add(sums, statistic(block, constants, axes, -1))

    blocks, last = _cut(arrays, cut)
    return blocks(add_block, statistic(last[1], constants, axes, -1))


def _loop_forward(
    statistic: Statistic, axes: Axes, cut: int | None, arrays: Arrays, constants: Any
) -> Any:
    return _loop(statistic, axes, cut, arrays, constants), (arrays, constants)


def _loop_backward(
    statistic: Statistic, axes: Axes, cut: int | None, residuals: Any, cotangents: Any
) -> Any:
    """Gradients of the blocks, each computed from its pixels alone and written into its place."""
    arrays, constants = residuals

    def pull_back(block: Arrays) -> Any:
        _, pullback = jax.vjp(lambda *args: statistic(*args, axes, -1), block, constants)
        return pullback(cotangents)

    if cut is None:
        return pull_back(arrays)

    def write(start: ArrayLike, parts: Arrays, gradients: Arrays) -> Arrays:
        return tuple(
            None if whole is None else _write_at(whole, part, start, cut)
            for whole, part in zip(gradients, parts, strict=True)
        )

    def add_block(start: ArrayLike, block: Arrays, carry: Any) -> Any:
        parts, more = pull_back(block)
        return write(start, parts, carry[0]), _add(carry[1], more)

    blocks, (start, last) = _cut(arrays, cut)
    parts, summed = pull_back(last)
    buffers = tuple(_empty_like(x) if _is_floating(x) else None for x in arrays)
    return blocks(add_block, (write(start, parts, buffers), summed))


# The forward rule runs the plain loop, which has a jvp of its own: so forward over reverse works.
_sum_blocks = jax.custom_vjp(_loop, nondiff_argnums=(0, 1, 2))
_sum_blocks.defvjp(_loop_forward, _loop_backward)


@partial(jax.jit, static_argnames=("plain", "forward", "backward", "axes"))
def fused_sum(
    plain: Statistic, forward: Forward, backward: Backward, arrays: Arrays, *, axes: Axes
) -> Any:
    """``blocked_sum(plain, arrays, axes=axes)``, by a derivative written by hand.

    Args:
      plain: the same statistic as ``blocked_sum`` takes it, where the pixels to sum are not the
        axes before the classes.
      forward: ``(arrays, turned) -> sums, kept`` of a block ``[*others, pixels, C]``; ``kept``, for
        the backward pass, is an array like the block's logits.
      backward: ``(kept, arrays, cotangents, turned) -> gradient`` of the block's logits.
      arrays: the logits ``[*map, C]`` first, then arrays ``[*map]`` without a gradient, or None.
      axes: the map's axes to sum, sorted.
    """
    run = _axes_to_cut(arrays[0], axes)
    if not run or run[-1] != arrays[0].ndim - 2:
        return blocked_sum(plain, arrays, axes=axes)
    merged = tuple(_merge(x, run) for x in arrays)
    turned = turns(arrays[0].shape[-1])
    sums = _sum_fused(partial(forward, turned=turned), partial(backward, turned=turned), merged)
    return jax.tree.map(lambda x: x.sum(axes[: -len(run)]), sums)


def _fused_loop(forward: Forward, backward: Backward, arrays: Arrays) -> Any:
    def add_block(_: ArrayLike, block: Arrays, sums: Any) -> Any:
        return _add(sums, forward(block)[0])

    blocks, (_, last) = _cut(arrays, arrays[0].ndim - 2)
    return blocks(add_block, forward(last)[0])


def _fused_forward(forward: Forward, backward: Backward, arrays: Arrays) -> Any:
    """The sums; on CPU also what the backward pass needs, in the memory of the gradient to be.

    So the gradient costs no second exponential, and no memory but its own: block by block it is
    written over what was kept. Elsewhere one more read of the logits is cheaper than a write.
    """
    logits = arrays[0]
    if not on_cpu() or logits.dtype.itemsize < 4:
        return _fused_loop(forward, backward, arrays), (None, arrays)
    axis = logits.ndim - 2

    def add_block(start: ArrayLike, block: Arrays, carry: Any) -> Any:
        sums, kept = forward(block)
        return _add(carry[0], sums), _write_at(carry[1], kept, start, axis)

    blocks, (start, last) = _cut(arrays, axis)
    sums, kept = forward(last)
    whole = _write_at(_empty_like(logits), kept, start, axis)
    sums, whole = blocks(add_block, (sums, whole))
    return sums, (whole, arrays)


def _fused_backward(forward: Forward, backward: Backward, residuals: Any, cotangents: Any) -> Any:
    whole, arrays = residuals
    logits = arrays[0]
    axis = logits.ndim - 2

    def write_gradient(start: ArrayLike, block: Arrays, gradient: Array) -> Array:
        if whole is None:
            kept = forward(block)[1]
        else:  # a copy, without which XLA would copy all to overwrite a part
            kept = lax.optimization_barrier(_read_at(gradient, start, block[0].shape[axis], axis))
        part = backward(kept, block, cotangents).astype(logits.dtype)
        return _write_at(gradient, part, start, axis)

    blocks, (start, last) = _cut(arrays, axis)
    gradient = _empty_like(logits) if whole is None else whole
    gradient = blocks(write_gradient, write_gradient(start, last, gradient))
    return ((gradient, *(None for _ in arrays[1:])),)


_sum_fused = jax.custom_vjp(_fused_loop, nondiff_argnums=(0, 1))
_sum_fused.defvjp(_fused_forward, _fused_backward)


def _of_turned(statistic: Statistic, block: Arrays, constants: Any, axes: Axes, _: int) -> Any:
    """``statistic`` of a block turned to ``[..., C, pixels]``."""
    ndim = block[0].ndim
    turned = (x if x is None or x.ndim < ndim else jnp.swapaxes(x, -1, -2) for x in block)
    return statistic(tuple(turned), constants, (ndim - 1,), -2)


def _of_merged(statistic: Statistic, block: Arrays, constants: Any, axes: Axes, _: int) -> Any:
    """``statistic`` of a block, the axes to sum made one."""
    return statistic(tuple(_merge(x, axes) for x in block), constants, axes[:1], -1)


def _cut(arrays: Arrays, axis: int) -> Any:
    """A loop over all blocks along ``axis`` but the last, and that one's start and arrays.

    The last block is the remainder, so that the others are all of one size.
    """
    logits = arrays[0]
    pixels = logits.shape[axis]
    # Half precision is computed with in float32.
    bytes_per_pixel = logits.size // pixels * max(logits.dtype.itemsize, 4)
    limit = ACCELERATOR_BLOCK_BYTES
    if on_cpu():
        share = max(CPU_LEAST_BLOCK_BYTES, pixels * bytes_per_pixel // CPU_LEAST_BLOCKS)
        limit = min(CPU_BLOCK_BYTES, share)
    most = max(1, limit // bytes_per_pixel)
    size = min(pixels, 1 << most.bit_length() - 1)  # a power of two: quick to index
    count = (pixels - 1) // size

    def block_at(start: ArrayLike, size: int) -> Arrays:
        return tuple(
            None if x is None else clean_bools(_read_at(x, start, size, axis)) for x in arrays
        )

    def loop(step: Callable[[ArrayLike, Arrays, Any], Any], carry: Any) -> Any:
        def body(i: Array, carry: Any) -> Any:
            return step(i * size, block_at(i * size, size), carry)

        return lax.fori_loop(0, count, body, carry) if count else carry

    start = count * size
    return loop, (start, block_at(start, pixels - start))


def _read_at(x: Array, start: ArrayLike, size: int, axis: int) -> Array:
    read = _read_bits if _slow_to_slice(x.dtype) else lax.dynamic_slice_in_dim
    return read(x, start, size, axis)


def _write_at(x: Array, part: Array, start: ArrayLike, axis: int) -> Array:
    write = _write_bits if _slow_to_slice(x.dtype) else lax.dynamic_update_slice_in_dim
    return write(x, part, start, axis)


def _slow_to_slice(dtype: Any) -> bool:
    """On CPU, XLA slices bfloat16 in float32, and converts the whole array for every block.

    As integers the bits stay as they are. Derivatives are those of plain slices.
    """
    return dtype == jnp.bfloat16 and on_cpu()


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _read_bits(x: Array, start: ArrayLike, size: int, axis: int) -> Array:
    bits = lax.bitcast_convert_type(x, jnp.uint16)
    return lax.bitcast_convert_type(lax.dynamic_slice_in_dim(bits, start, size, axis), x.dtype)


@_read_bits.defjvp
def _read_bits_jvp(size: int, axis: int, primals: Any, tangents: Any) -> Any:
    x, start = primals
    part = lax.dynamic_slice_in_dim(tangents[0], start, size, axis)
    return _read_bits(x, start, size, axis), part


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _write_bits(x: Array, part: Array, start: ArrayLike, axis: int) -> Array:
    bits, part_bits = (lax.bitcast_convert_type(a, jnp.uint16) for a in (x, part))
    whole = lax.dynamic_update_slice_in_dim(bits, part_bits, start, axis)
    return lax.bitcast_convert_type(whole, x.dtype)


@_write_bits.defjvp
def _write_bits_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    x, part, start = primals
    whole = lax.dynamic_update_slice_in_dim(tangents[0], tangents[1], start, axis)
    return _write_bits(x, part, start, axis), whole


def on_cpu() -> bool:
    """Whether to cut for a CPU. Shapes depend on it, so it is asked when a function is traced."""
    return jax.default_backend() == "cpu"


def turns(classes: int) -> bool:
    """Whether a block is computed with its pixels last."""
    return classes <= CPU_CLASS_MAJOR_LIMIT and on_cpu()


def _axes_to_cut(logits: Array, axes: Axes) -> Axes:
    """The last run of neighbouring axes to sum, without the map's first; none if it is sharded."""
    run: Axes = ()
    for axis in reversed(axes):
        if (axis == 0 and logits.ndim > 2) or (run and axis != run[0] - 1):
            break
        run = (axis, *run)
    spec = jax.typeof(logits).sharding.spec  # names an axis only where the mesh's axes are Explicit
    return () if any(spec[axis] is not None for axis in run) else run


def _merge(x: Array | None, run: Axes) -> Array | None:
    return None if x is None else x.reshape(*x.shape[: run[0]], -1, *x.shape[run[-1] + 1 :])


def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _empty_like(x: Array) -> Array:
    """Zeros to be overwritten, block by block.

    As a select they are sharded as the array is, which zeros_like is not on JAX 0.12, and cost no
    copy, which the array itself would. Behind a barrier, lest XLA take the first block and the
    zeros for a padded array, and compute that pixel by pixel.
    """
    return lax.optimization_barrier(jnp.where(False, x, 0))


def _is_floating(x: Array | None) -> bool:
    return x is not None and jnp.issubdtype(x.dtype, jnp.floating)
