"""Blocks of pixels of a map: how it is cut, and how blocks are read and written in a loop."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

Carry = TypeVar("Carry")

# Bytes of a block's logits. XLA computes an operation on all cores only if it is large, so several
# cores want larger blocks than one core, for which its own cache is best.
ONE_CORE_BYTES = 256 * 1024
BYTES = 2 * 1024 * 1024


class At(NamedTuple):
    """Where a block is: its first index, and its size, along each axis of the merged map."""

    starts: tuple[ArrayLike, ...]
    sizes: tuple[int, ...]


class Blocks(NamedTuple):
    """How a map is cut; static. Neighbouring axes that are all summed, or all not, are merged."""

    space: tuple[int, ...]  # the map
    axes: tuple[int, ...]  # of it that are summed
    lengths: tuple[int, ...]  # of the merged map
    summed: tuple[bool, ...]  # whether each of these is summed
    sizes: tuple[int, ...]  # of a block

    @classmethod
    def of(cls, space: tuple[int, ...], axes: tuple[int, ...], classes: int) -> Blocks:
        runs = [(is_summed, list(run)) for is_summed, run in groupby(range(len(space)), axes.count)]
        lengths = tuple(math.prod(space[a] for a in run) for _, run in runs)
        pixels = max(1, block_bytes() // (4 * classes))
        sizes: tuple[int, ...] = ()
        for length in reversed(lengths):
            sizes = (_even_size(length, pixels), *sizes)
            pixels = max(1, pixels // length)
        return cls(space, axes, lengths, tuple(bool(s) for s, _ in runs), sizes)

    def merge(self, x: Array) -> Array:
        """An array ``[*map, ...]`` with merged axes."""
        return x.reshape(*self.lengths, *x.shape[len(self.space) :])

    def merge_sums(self, x: Array) -> Array:
        """Sums ``[*rest, C]`` with merged axes."""
        return x.reshape(*self._of_rest(self.lengths), x.shape[-1])

    def unmerge_sums(self, x: Array) -> Array:
        rest = (n for a, n in enumerate(self.space) if a not in self.axes)
        return x.reshape(*rest, x.shape[-1])

    def loop(self, step: Callable[[At, Carry], Carry], carry: Carry) -> Carry:
        """``step`` of all blocks: those of one size in a loop, and those of the remainder."""
        for firsts, lengths in self._parts():
            sizes = tuple(min(a, b) for a, b in zip(self.sizes, lengths, strict=True))
            counts = [n // size for n, size in zip(lengths, sizes, strict=True)]

            def body(i: ArrayLike, carry: Carry) -> Carry:
                starts = []
                for first, size, count in reversed(list(zip(firsts, sizes, counts))):
                    starts.append(first + i % count * size)
                    i = i // count
                return step(At(tuple(reversed(starts)), sizes), carry)

            count = math.prod(counts)
            carry = body(0, carry) if count == 1 else lax.fori_loop(0, count, body, carry)
        return carry

    def sum(self, x: Array, class_axis: int) -> Array:
        """A block's sums ``[*rest, C]`` of ``[..., C]``, or of ``[..., C, pixels]``."""
        last = len(self.lengths) - 1
        pixels_last = class_axis == -2
        summed = (a for a, is_summed in enumerate(self.summed) if is_summed)
        x = x.sum(tuple(a + (pixels_last and a == last) for a in summed), dtype=x.dtype)
        return jnp.swapaxes(x, -1, -2) if pixels_last and not self.summed[last] else x

    def full_sums(self, value: Array, classes: int) -> Array:
        """Sums that are all ``value``."""
        return jnp.broadcast_to(value, (*self._of_rest(self.lengths), classes))

    def add_sums(self, sums: Array, part: Array, at: At) -> Array:
        """The sums, with a block's added where they belong."""
        if all(self.summed):
            return sums + part
        at = self._at_rest(at, sums)
        return lax.dynamic_update_slice(sums, read(sums, at) + part, at.starts)

    def read_sums(self, sums: Array, at: At) -> Array:
        """A block's part of the sums, or of their cotangents."""
        return read(sums, self._at_rest(at, sums))

    def _at_rest(self, at: At, sums: Array) -> At:
        starts, sizes = self._of_rest(at.starts), self._of_rest(at.sizes)
        return At((*starts, 0), (*sizes, sums.shape[-1]))

    def _of_rest(self, values: tuple[ArrayLike, ...]) -> tuple[ArrayLike, ...]:
        return tuple(v for v, is_summed in zip(values, self.summed, strict=True) if not is_summed)

    def _parts(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """First indices and lengths of the part that blocks of one size fill, and of the rest."""
        whole = tuple(n - n % size for n, size in zip(self.lengths, self.sizes, strict=True))
        parts = [(tuple(0 for _ in whole), whole)]
        for a, (n, length) in enumerate(zip(self.lengths, whole, strict=True)):
            if length < n:  # of one axis alone: a block has the others whole, or one index of them
                firsts = tuple(length if b == a else 0 for b in range(len(whole)))
                parts.append((firsts, (*whole[:a], n - length, *whole[a + 1 :])))
        return parts


def block_bytes() -> int:
    """The bytes of a block, for the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ONE_CORE_BYTES if cores == 1 else BYTES


def _even_size(length: int, limit: int) -> int:
    """The size of blocks along an axis: one that divides its length, unless that is below half."""
    fewest = -(-length // limit)
    even = (length // n for n in range(fewest, 2 * fewest) if length % n == 0)
    return next(even, min(length, limit))


def read(x: Array, at: At) -> Array:
    """A block of ``[*map, ...]``; of bfloat16 in float32.

    XLA's CPU slices bfloat16 in float32, and so converts the whole array for every block (seen on
    JAX 0.10 and 0.11; the rows of bfloat16 in tests/benchmarks). As integers the bits stay.
    """
    trailing = x.ndim - len(at.starts)
    starts = (*at.starts, *(0 for _ in range(trailing)))
    sizes = (*at.sizes, *x.shape[x.ndim - trailing :])
    if x.dtype != jnp.bfloat16:
        return lax.dynamic_slice(x, starts, sizes)
    bits = lax.dynamic_slice(lax.bitcast_convert_type(x, jnp.uint16), starts, sizes)
    return lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)


def write(x: Array, part: Array, at: At) -> Array:
    """``x`` with a block of it overwritten."""
    part = part.astype(x.dtype)
    starts = (*at.starts, *(0 for _ in range(x.ndim - len(at.starts))))
    if x.dtype != jnp.bfloat16:
        return lax.dynamic_update_slice(x, part, starts)
    bits, part_bits = (lax.bitcast_convert_type(a, jnp.uint16) for a in (x, part))
    whole = lax.dynamic_update_slice(bits, part_bits, starts)
    return lax.bitcast_convert_type(whole, x.dtype)
