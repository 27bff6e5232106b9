"""Blocks of pixels: how a map is cut into blocks, and how a loop reads and writes them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from jax import Array, lax

from jaxseg._kernels.tiles import merged

Carry = TypeVar("Carry")
Index = Array | int
T = TypeVar("T")

# Bytes of a block's logits. XLA shares an operation among several cores only if it is large, so
# several cores need larger blocks. That pays where the classes are last. With its pixels last a
# block is made of more operations, each of which waits for all cores: there small blocks win, and
# the classes are few. Measured on one and two cores, see docs/benchmarks.md.
ONE_CORE_BYTES = 256 * 1024
BYTES = 2 * 1024 * 1024
PIXELS_LAST_BYTES = 128 * 1024


class At(NamedTuple):
    """Where a block is: its first index and its size along each axis of the merged map."""

    starts: tuple[Index, ...]
    sizes: tuple[int, ...]


class Blocks(NamedTuple):
    """How a map is cut; static. Neighbouring axes are merged if all or none of them are summed."""

    space: tuple[int, ...]  # the shape of the map
    axes: tuple[int, ...]  # the axes of the map to sum over
    lengths: tuple[int, ...]  # the shape of the merged map
    summed: tuple[bool, ...]  # whether each merged axis is summed
    sizes: tuple[int, ...]  # the shape of a block

    @classmethod
    def of(
        cls, space: tuple[int, ...], axes: tuple[int, ...], classes: int, *, pixels_last: bool
    ) -> Blocks:
        lengths, summed = merged(space, axes)
        limit = min(block_bytes(), PIXELS_LAST_BYTES) if pixels_last else block_bytes()
        pixels = max(1, limit // (4 * classes))
        sizes: tuple[int, ...] = ()
        for length in reversed(lengths):
            sizes = (_even_size(length, pixels), *sizes)
            pixels = max(1, pixels // length)
        return cls(space, axes, lengths, summed, sizes)

    def merge(self, x: Array) -> Array:
        """Merge the axes of an array ``[*map]`` or ``[*map, C]``; drop a class axis of length 1.

        XLA's layout of an axis of length 1 makes it copy the array to merge the others (seen on JAX
        0.10; tests/test_pixel_sums.py checks the temporaries).
        """
        classes = x.shape[len(self.space) :]
        return x.reshape(*self.lengths, *(() if classes == (1,) else classes))

    def merge_sums(self, x: Array) -> Array:
        """Merge the batch axes of sums ``[*batch_axes, C]``."""
        return x.reshape(*self._unsummed(self.lengths), x.shape[-1])

    def unmerge_sums(self, x: Array) -> Array:
        batch_shape = (n for a, n in enumerate(self.space) if a not in self.axes)
        return x.reshape(*batch_shape, x.shape[-1])

    def loop(self, step: Callable[[At, Carry], Carry], carry: Carry) -> Carry:
        """Apply ``step`` to all blocks: the full ones in a loop, then those of the remainders."""
        for firsts, lengths in self._parts():
            sizes = tuple(min(a, b) for a, b in zip(self.sizes, lengths, strict=True))
            counts = tuple(n // size for n, size in zip(lengths, sizes, strict=True))
            at = partial(_nth, firsts, sizes, counts)
            if math.prod(counts) == 1:
                carry = step(at(0), carry)
            else:
                body = partial(_step_at, step, at)
                carry = lax.fori_loop(0, math.prod(counts), body, carry)
        return carry

    def sum(self, x: Array, class_axis: int) -> Array:
        """Sum a block ``[..., C]``, or ``[..., C, pixels]``, to ``[*batch_axes, C]``."""
        last = len(self.lengths) - 1
        pixels_last = class_axis == -2
        summed = (a for a, is_summed in enumerate(self.summed) if is_summed)
        x = x.sum(tuple(a + (pixels_last and a == last) for a in summed), dtype=x.dtype)
        return jnp.swapaxes(x, -1, -2) if pixels_last and not self.summed[last] else x

    def full_sums(self, value: Array, classes: int) -> Array:
        """Sums that all are ``value``."""
        return jnp.broadcast_to(value, (*self._unsummed(self.lengths), classes))

    def add_sums(self, sums: Array, part: Array, at: At) -> Array:
        """Add the sums of one block where they belong."""
        if all(self.summed):
            return sums + part
        at = self._at_sums(at, sums)
        return lax.dynamic_update_slice(sums, read(sums, at) + part, at.starts)

    def read_sums(self, sums: Array, at: At) -> Array:
        """A block's part of the sums, or of their cotangents."""
        return read(sums, self._at_sums(at, sums))

    def _at_sums(self, at: At, sums: Array) -> At:
        starts, sizes = self._unsummed(at.starts), self._unsummed(at.sizes)
        return At((*starts, 0), (*sizes, sums.shape[-1]))

    def _unsummed(self, values: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(v for v, is_summed in zip(values, self.summed, strict=True) if not is_summed)

    def _parts(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """First indices and lengths of the part that full blocks fill, then of the remainders."""
        whole = tuple(n - n % size for n, size in zip(self.lengths, self.sizes, strict=True))
        parts = [(tuple(0 for _ in whole), whole)]
        for a, (n, length) in enumerate(zip(self.lengths, whole, strict=True)):
            if length < n:  # for one axis alone: along the others a block is whole or one index
                firsts = tuple(length if b == a else 0 for b in range(len(whole)))
                parts.append((firsts, (*whole[:a], n - length, *whole[a + 1 :])))
        return parts


def _nth(firsts: tuple[int, ...], sizes: tuple[int, ...], counts: tuple[int, ...], i: Index) -> At:
    """Where block number ``i`` is."""
    starts: tuple[Index, ...] = ()
    for first, size, count in zip(firsts[::-1], sizes[::-1], counts[::-1], strict=True):
        starts = (first + i % count * size, *starts)
        i = i // count
    return At(starts, sizes)


def _step_at(
    step: Callable[[At, Carry], Carry], at: Callable[[Index], At], i: Index, carry: Carry
) -> Carry:
    return step(at(i), carry)


def block_bytes() -> int:
    """The bytes of logits per block whose classes are last."""
    return ONE_CORE_BYTES if cores() == 1 else BYTES


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _even_size(length: int, limit: int) -> int:
    """The block size along an axis: a divisor of ``length`` near ``limit``, else ``limit``."""
    fewest = -(-length // limit)
    even = (length // n for n in range(fewest, 2 * fewest) if length % n == 0)
    return next(even, min(length, limit))


def read(x: Array, at: At) -> Array:
    """Read a block of ``[*map, ...]``; bfloat16 comes out as float32.

    XLA slices bfloat16 in float32 on CPU, so it would convert the whole array for every block (seen
    on JAX 0.10 and 0.11; tests/test_pixel_sums.py checks the temporaries). So the slice is taken of
    the bits, which are integers. The barrier keeps the bitcast in the loop, where it is not a copy.
    """
    trailing = x.shape[len(at.sizes) :]
    sizes = (*at.sizes, *trailing)
    if x.dtype != jnp.bfloat16:
        return lax.dynamic_slice(x, _starts(x, at), sizes)
    x, starts = lax.optimization_barrier((x, _starts(x, at)))
    bits = lax.dynamic_slice(lax.bitcast_convert_type(x, jnp.uint16), starts, sizes)
    return lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)


def read_classes(x: Array, at: At) -> Array:
    """Read a block ``[..., C]`` of an array that was ``[*map, C]`` before it was merged."""
    block = read(x, at)
    return block if block.ndim > len(at.sizes) else block[..., None]


def empty_like(x: Array) -> Array:
    """A flat float array as large as ``x``, for ``write`` to fill; the bits in place of bfloat16.

    On CPU, XLA would rewrite all of a bfloat16 array for every block (seen on JAX 0.10: 1.4 s
    instead of 15 ms for 2**23 numbers). The last cast, in ``finish``, costs one copy of the array.
    The barrier stops XLA from fusing the zeros with the first write into a pad, which is slow. The
    array is flat, since XLA copies any other to give it an axis of length 1 (seen on JAX 0.10).
    """
    zeros = jnp.where(False, x.ravel(), jnp.zeros((), x.dtype))
    return lax.optimization_barrier(_bits(zeros))


def write(x: Array, part: Array, at: At, shape: tuple[int, ...]) -> Array:
    """Write a block into an array of ``empty_like``, which stands for one of shape ``shape``."""
    part = part.reshape(*at.sizes, *shape[len(at.sizes) :])
    part = _bits(part.astype(jnp.bfloat16 if x.dtype == jnp.uint16 else x.dtype))
    x = x.reshape(shape)
    return lax.dynamic_update_slice(x, part, _starts(x, at)).ravel()


def finish(x: Array, shape: tuple[int, ...]) -> Array:
    """The float array that ``write`` has filled, in the shape that it had before merging."""
    x = lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x
    return x.reshape(shape)


def _bits(x: Array) -> Array:
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _starts(x: Array, at: At) -> tuple[Index, ...]:
    return (*at.starts, *(0 for _ in range(x.ndim - len(at.starts))))
