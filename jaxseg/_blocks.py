"""Sums over the pixels of a map, taken block by block, in little memory.

A region loss needs a few sums over all pixels of functions of the logits (softmax, products with
the truth). Written plainly, differentiation keeps several arrays as large as the logits. Here a
loop cuts the pixels into blocks that fit the cache, and the backward pass computes each block anew
from the logits and writes its gradient in place: temporaries are a few blocks, whatever the map's
size.

The map's first axis is left whole (unless it is the only one), so that an input sharded over its
batch stays where it is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

# A block of logits, in bytes. On CPU it should stay in the second-level cache together with its
# half dozen temporaries; an accelerator wants enough work for one kernel launch.
CPU_BLOCK_BYTES = 96 * 1024
ACCELERATOR_BLOCK_BYTES = 64 * 1024 * 1024

# With few classes, a CPU's vectors are filled along the pixels, not along the classes.
CPU_CLASS_MAJOR_LIMIT = 16

# (arrays, constants, axes, class_axis) -> sums over ``axes``: a pytree of arrays that keep the
# map's other axes, and then have an axis of classes, or of 1.
Statistic = Callable[..., Any]
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
    run = _axes_to_cut(arrays[0], axes)
    if not run:  # one block, which the backward pass still computes anew
        return _sum_blocks(statistic, axes, None, arrays, constants)
    classes = arrays[0].shape[-1]
    few = classes <= CPU_CLASS_MAJOR_LIMIT and jax.default_backend() == "cpu"
    if few and run[-1] == arrays[0].ndim - 2:
        statistic = partial(_of_turned, statistic)
    if classes == 1:  # merged in each block: XLA would copy the whole gradient to unmerge it
        sums = _sum_blocks(partial(_of_merged, statistic), run, run[0], arrays, constants)
    else:
        merged = tuple(_merge(x, run) for x in arrays)
        sums = _sum_blocks(statistic, run[:1], run[0], merged, constants)
    return jax.tree.map(lambda x: x.sum(axes[: -len(run)]), sums)


def _loop(statistic: Statistic, axes: Axes, cut: int | None, arrays: Arrays, constants: Any) -> Any:
    """``statistic`` summed over ``axes``, in blocks along the axis ``cut`` or in one."""
    first, block_at, count = _cut(arrays, cut)

    def add_block(i: Array, sums: Any) -> Any:
        return jax.tree.map(jnp.add, sums, statistic(block_at(i)[1], constants, axes, -1))

    sums = statistic(first, constants, axes, -1)
    return lax.fori_loop(0, count, add_block, sums) if count else sums


def _loop_forward(
    statistic: Statistic, axes: Axes, cut: int | None, arrays: Arrays, constants: Any
) -> Any:
    return _loop(statistic, axes, cut, arrays, constants), (arrays, constants)


def _loop_backward(
    statistic: Statistic, axes: Axes, cut: int | None, residuals: Any, cotangents: Any
) -> Any:
    """Gradients of the blocks, each computed from its pixels alone and written into its place."""
    arrays, constants = residuals
    first, block_at, count = _cut(arrays, cut)

    def pull_back(block: Arrays) -> Any:
        _, pullback = jax.vjp(lambda *args: statistic(*args, axes, -1), block, constants)
        return pullback(cotangents)

    in_place, summed = pull_back(first)
    if count == 0 or cut is None:
        return in_place, summed

    def write(start: ArrayLike, block: Arrays, gradients: Arrays) -> Arrays:
        return tuple(
            None if whole is None else _write_at(whole, part, start, cut)
            for whole, part in zip(gradients, block, strict=True)
        )

    def add_block(i: Array, carry: Any) -> Any:
        start, block = block_at(i)
        gradients, more = pull_back(block)
        return write(start, gradients, carry[0]), jax.tree.map(jnp.add, carry[1], more)

    # Zeros that the blocks overwrite. As a select they are sharded as the array is, which
    # zeros_like is not on JAX 0.12, and cost no copy, which the array itself would.
    buffers = tuple(jnp.where(False, x, 0) if _is_floating(x) else None for x in arrays)
    return lax.fori_loop(0, count, add_block, (write(0, in_place, buffers), summed))


# The forward rule runs the plain loop, which has a jvp of its own: so forward over reverse works.
_sum_blocks = jax.custom_vjp(_loop, nondiff_argnums=(0, 1, 2))
_sum_blocks.defvjp(_loop_forward, _loop_backward)


def _of_turned(statistic: Statistic, block: Arrays, constants: Any, axes: Axes, _: int) -> Any:
    """``statistic`` of a block turned to ``[..., C, pixels]``."""
    ndim = block[0].ndim
    turned = (x if x is None or x.ndim < ndim else jnp.swapaxes(x, -1, -2) for x in block)
    return statistic(tuple(turned), constants, (ndim - 1,), -2)


def _of_merged(statistic: Statistic, block: Arrays, constants: Any, axes: Axes, _: int) -> Any:
    """``statistic`` of a block, the axes to sum made one."""
    return statistic(tuple(_merge(x, axes) for x in block), constants, axes[:1], -1)


def _cut(arrays: Arrays, axis: int | None) -> tuple[Arrays, Callable[[ArrayLike], Any], int]:
    """The first block, a function of i to a further block and its start, and their number.

    The first block is the remainder, so that the others are all of one size.
    """
    logits = arrays[0]
    if axis is None:
        return arrays, lambda i: (i, arrays), 0
    pixels = logits.shape[axis]
    limit = CPU_BLOCK_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_BLOCK_BYTES
    # Half precision is computed with in float32.
    bytes_per_pixel = logits.size // pixels * max(logits.dtype.itemsize, 4)
    size = min(pixels, max(1, limit // bytes_per_pixel))
    count = (pixels - 1) // size
    first_size = pixels - count * size

    def slices(start: ArrayLike, size: int) -> Arrays:
        return tuple(None if x is None else _read_at(x, start, size, axis) for x in arrays)

    def block_at(i: ArrayLike) -> Any:
        start = first_size + i * size
        return start, slices(start, size)

    return slices(0, first_size), block_at, count


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
    return dtype == jnp.bfloat16 and jax.default_backend() == "cpu"


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


def _is_floating(x: Array | None) -> bool:
    return x is not None and jnp.issubdtype(x.dtype, jnp.floating)
