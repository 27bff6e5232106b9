"""The distance transform's form for GPUs: a line's minima in registers, in one pass over the line.

XLA's own loop writes all minima to memory every few rows. A program of this kernel keeps a tile of
rows and lines in registers and runs over the rows of its lines once.
"""

from __future__ import annotations

import math
import warnings
from functools import partial, reduce
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxseg._kernels.gpu import DEPRECATION
from jaxseg._kernels.tiles import result

# Fastest on an H200 with JAX 0.11, for all of 128 and 256 pixels cubed.
ROWS, LINES = 32, 64  # of a program's tile
WARPS = 2
OFFERS = 4  # rows that are offered to the tile in each turn of the loop
LEAST_LINES = 32  # side by side, for which an array is read as it lies

Ref = Any  # a reference to a block in the GPU's memory


def least_along(squares: Array, axis: int, step: Array | None, interpret: bool = False) -> Array:
    """The minimum of ``squares[j] + ((i - j) step)^2`` over j along ``axis``."""
    n, after = squares.shape[axis], math.prod(squares.shape[axis + 1 :])
    if after < LEAST_LINES:
        first = jnp.moveaxis(squares, axis, 0)
        lines = first.reshape(1, n, -1)
        return jnp.moveaxis(_least(lines, step, interpret).reshape(first.shape), 0, axis)
    return _least(squares.reshape(-1, n, after), step, interpret).reshape(squares.shape)


def _least(squares: Array, step: Array | None, interpret: bool) -> Array:
    # Here, since filters that are set later, as tests do, go before those set at import.
    warnings.filterwarnings("ignore", DEPRECATION, DeprecationWarning)
    before, n, after = squares.shape
    rows, lines = min(ROWS, pl.next_power_of_2(n)), min(LINES, pl.next_power_of_2(after))
    steps = [] if step is None else [step.reshape(1)]
    minima: Array = pl.pallas_call(
        partial(_kernel, n, after),
        grid=(pl.cdiv(after, lines), pl.cdiv(n, rows), before),
        in_specs=[
            pl.BlockSpec((None, n, lines), lambda column, _, k: (k, 0, column)),
            *(pl.BlockSpec((1,), lambda *_: (0,)) for _ in steps),
        ],
        out_specs=pl.BlockSpec((None, rows, lines), lambda column, row, k: (k, row, column)),
        out_shape=result(squares.shape, squares.dtype, squares),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
    )(squares, *steps)
    return minima


def _kernel(n: int, after: int, squares_ref: Ref, *refs: Ref) -> None:
    *step_refs, minima_ref = refs
    rows, lines = minima_ref.shape
    dtype = minima_ref.dtype
    far = jnp.asarray(2**30 if dtype == jnp.int32 else jnp.inf, dtype)
    step = step_refs[0][0] if step_refs else None
    i = pl.program_id(1) * rows + lax.iota(jnp.int32, rows)
    inside = pl.program_id(0) * lines + lax.iota(jnp.int32, lines) < after

    def offer(j: Array, minima: Array) -> Array:
        row = triton.load(squares_ref.at[j, pl.ds(0, lines)], mask=inside, other=far)
        away = i - j
        square = away * away if step is None else (away.astype(dtype) * step) ** 2
        return jnp.minimum(minima, row[None] + square[:, None])

    def offer_some(k: Array, minima: Array) -> Array:
        return reduce(lambda m, j: offer(k * OFFERS + j, m), range(OFFERS), minima)

    minima = jnp.full((rows, lines), far, dtype)
    minima = lax.fori_loop(0, n // OFFERS, offer_some, minima)
    minima = reduce(lambda m, j: offer(jnp.int32(j), m), range(n - n % OFFERS, n), minima)
    triton.store(minima_ref, minima, mask=(i < n)[:, None] & inside[None])
