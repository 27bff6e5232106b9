"""Confusion matrices as a kernel for GPU and TPU in Pallas.

**Unmeasured, and used by nothing in the library**, as ``_kernels.pallas`` is, which says more. Both
maps are read once, each tile of pixels gives one matrix, and these are added outside.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxseg._kernels.pallas import Tile, compiler_params, flat, load_map

TILE = 2**15  # pixels
CHUNK = 2**8  # of them at a time


@partial(jax.jit, static_argnames=("num_classes", "interpret"))
def confusion_matrix(
    predictions: Array,
    labels: Array,
    where: Array | None,
    *,
    num_classes: int,
    interpret: bool = False,
) -> Array:
    """``jaxseg.confusion_matrix`` over all axes of checked arrays on one device: int32 ``[C, C]``.

    Products of one-hot ids, chunk by chunk: exact in float32, as a tile has 2**24 pixels
    or fewer. Made for tens of classes: a program holds a whole matrix, of C a power of two.
    """
    maps = [x for x in (predictions, labels, where) if x is not None]
    maps = [flat(x if x.ndim > 1 else x[None], 1) for x in maps]
    batch, _, pixels = maps[0].shape
    lanes = max(16, pl.next_power_of_2(num_classes))
    size = min(max(TILE, 4 * lanes**2), 2**24)  # few matrices beside the pixels

    def call(tile: Tile, *arrays: Array) -> Array:
        tiles = pl.cdiv(pixels, size)
        matrices = pl.pallas_call(
            partial(_histogram, tile=tile, pixels=pixels, classes=num_classes),
            grid=(batch, tiles),
            in_specs=[pl.BlockSpec((None, 1, size), lambda b, i: (b, 0, i)) for _ in arrays],
            out_specs=pl.BlockSpec((None, None, lanes, lanes), lambda b, i: (b, i, 0, 0)),
            out_shape=jax.ShapeDtypeStruct((batch, tiles, lanes, lanes), jnp.int32),
            compiler_params=compiler_params(tile),
            interpret=interpret,
        )(*arrays)
        return matrices.sum((0, 1), dtype=jnp.int32)[:num_classes, :num_classes]

    tpu, default = (partial(call, Tile(size, lanes, guarded)) for guarded in (False, True))
    return lax.platform_dependent(*maps, tpu=tpu, default=default)


def _histogram(*refs: Any, tile: Tile, pixels: int, classes: int) -> None:
    p_ref, g_ref, *where_ref, matrix_ref = refs
    first = 1 if classes == 1 else 0  # of a mask, id 1 is the class
    first_pixel = pl.program_id(1) * tile.pixels
    chunk = lax.iota(jnp.int32, CHUNK)
    index = lax.iota(jnp.int32, tile.lanes)
    index = jnp.where(index < classes, index, -1)  # -1: of no class

    def add_chunk(i: Array, matrix: Array) -> Array:
        start = i * CHUNK
        valid = first_pixel + start + chunk < pixels

        def load(ref: Any) -> Array:
            return load_map(ref.at[:, pl.ds(start, CHUNK)], valid, tile.guarded)

        p, g = (load(ref).astype(jnp.int32) - first for ref in (p_ref, g_ref))
        for ref in where_ref:
            valid &= load(ref)
        g = jnp.where(valid & (g >= 0), g, -2)
        p = jnp.where(p >= 0, p, -2)
        rows = (index[:, None] == g[None, :]).astype(jnp.bfloat16)
        columns = (p[:, None] == index[None, :]).astype(jnp.bfloat16)
        return matrix + jnp.dot(rows, columns, preferred_element_type=jnp.float32)

    matrix = jnp.zeros((tile.lanes, tile.lanes), jnp.float32)
    matrix = lax.fori_loop(0, tile.pixels // CHUNK, add_chunk, matrix)
    matrix_ref[...] = matrix.astype(jnp.int32)
