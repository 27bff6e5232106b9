"""Sums of a softmax against ids and their gradient, as kernels for GPU and TPU in Pallas.

**Unmeasured, and used by nothing in the library**, as ``pallas_matrix`` is. Both have run in
interpret mode on CPU alone: JAX 0.10.2 and 0.12 lower them for TPU and CUDA, but no GPU and no TPU
has compiled or run them, and the sizes of their tiles are guesses. They are here to be measured
(docs/benchmarks.md says how); the plain forms in ``_counts`` are the ones in use.

What speaks for them is the bytes moved. Forward, each logit is read once from memory, and a tile of
pixels gives one partial sum for each class; backward, logits and labels are read once more, the
softmax is taken again in the tile, and the gradient is written once. Nothing is kept between the
two but the inputs. Partial sums are added outside of the kernels, and nothing is added atomically:
the same inputs give the same bits. ``_kernels.softmax_sums`` has the formulas.

A tile may reach over the end of an array, and a GPU's has a power of two of lanes, more than there
are classes. What lies there is undefined and is masked by comparing positions. On GPU, where
``pallas_call`` is Triton's, it is not touched either: Triton itself would read and write beyond the
tile. Mosaic GPU, which is to replace Triton, has another entry point (``mosaic_gpu.kernel``), and
copies only rows of a multiple of 16 bytes: not 11 classes. These kernels do not use it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxseg import _checks, _counts

GPU_TILE = 2**13  # elements of logits
TPU_TILE = 2**17


class Tile(NamedTuple):
    """What one program of a kernel computes."""

    pixels: int
    lanes: int  # C or more
    guarded: bool  # whether its loads and stores must be kept within the array


def softmax_sums(
    logits: Array,
    ids: Array,
    where: Array | None,
    axes: tuple[int, ...],
    *,
    interpret: bool = False,
) -> tuple[_counts.Counts, Array]:
    """``_counts.softmax_sums`` over the last axes before the classes, of arrays on one device.

    Differentiable in reverse mode, once: second derivatives and forward mode do not work.

    Raises:
      ValueError: other axes.
    """
    kept = ids.ndim - len(axes)
    if axes != tuple(range(kept, ids.ndim)):
        raise ValueError(f"axes must be the last of {ids.ndim}, got {axes}.")
    if ids.ndim == 1 and kept == 0:
        logits, ids, where = logits[None], ids[None], _batch(where)
    apart = kept or 1  # the batch stays an axis, and is summed after
    logits = logits.reshape(*logits.shape[:apart], -1, logits.shape[-1])
    ids, where = flat(ids, apart), flat(where, apart)
    sums = _sums(logits, ids, where, interpret)
    tp, fp, fn, tn, s = jnp.moveaxis(sums if kept else sums.sum(0), -2, 0)
    return _counts._counts_of((tp, fp, fn, tn, s))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _sums(logits: Array, ids: Array, where: Array | None, interpret: bool) -> Array:
    """``tp, fp, fn, tn, s`` as ``[*kept, 5, C]``, of logits ``[*kept, pixels, C]``."""
    *kept, pixels, classes = logits.shape
    dtype = jax.eval_shape(_checks.at_least_float32, logits).dtype

    def call(tile: Tile, *arrays: Array) -> Array:
        tiles = pl.cdiv(pixels, tile.pixels)
        partial_sums = pl.pallas_call(
            partial(_forward, tile=tile, pixels=pixels, classes=classes, axis=len(kept)),
            grid=(*kept, tiles),
            in_specs=_specs(arrays, tile),
            out_specs=pl.BlockSpec((*_one(kept), None, 5, tile.lanes), lambda *i: (*i, 0, 0)),
            out_shape=jax.ShapeDtypeStruct((*kept, tiles, 5, tile.lanes), dtype),
            compiler_params=compiler_params(tile),
            interpret=interpret,
        )(*arrays)
        return partial_sums[..., :classes].sum(-3)

    return _by_platform(call, classes, logits, ids, where)


def _sums_forward(logits: Array, ids: Array, where: Array | None, interpret: bool) -> Any:
    return _sums(logits, ids, where, interpret), (logits, ids, where)


def _sums_backward(interpret: bool, residuals: Any, cotangents: Array) -> Any:
    logits, ids, where = residuals
    *kept, pixels, classes = logits.shape
    tp, fp, fn, tn, s = jnp.moveaxis(cotangents, -2, 0)
    b = fp - tn

    def call(tile: Tile, *arrays: Array) -> Array:
        specs = _specs(arrays, tile)
        padding = [(0, 0)] * (b.ndim - 1) + [(0, tile.lanes - classes)]
        table = jnp.stack([jnp.pad(x, padding) for x in (b, tp - fn - b, s)], -2)
        of_table = pl.BlockSpec((*_one(kept), 3, tile.lanes), lambda *i: (*i[:-1], 0, 0))
        return pl.pallas_call(
            partial(_backward, tile=tile, pixels=pixels, classes=classes, axis=len(kept)),
            grid=(*kept, pl.cdiv(pixels, tile.pixels)),
            in_specs=[of_table, *specs],
            out_specs=specs[0],
            out_shape=jax.ShapeDtypeStruct(logits.shape, logits.dtype),
            compiler_params=compiler_params(tile),
            interpret=interpret,
        )(table, *arrays)

    return _by_platform(call, classes, logits, ids, where), None, None


_sums.defvjp(_sums_forward, _sums_backward)


def _forward(*refs: Any, **sizes: Any) -> None:
    *inputs, sums_ref = refs
    x, valid, is_own, is_other = _read(*inputs, **sizes)
    own = jnp.where(is_own, x, 0).sum(1, keepdims=True)
    top = x.max(1, keepdims=True)
    # The own class apart from the others, so that 1 - p is not the difference of nearly equals.
    exp = jnp.exp(x - top)
    own_exp = jnp.where(is_own, exp, 0).sum(1, keepdims=True)
    exp = jnp.where(is_other, exp, 0)
    other_exp = exp.sum(1, keepdims=True)
    total = own_exp + other_exp
    scale = jnp.where(valid, 1 / total, 0)
    p = exp * scale  # a NaN is in every class, through the scale
    tp = jnp.where(is_own, own_exp * scale, 0)
    fn = jnp.where(is_own, other_exp * scale, 0)
    tn = jnp.where(is_other & valid, 1 - p, 0)
    surprise = jnp.where(is_own, top - own + jnp.log(total), 0)
    for i, terms in enumerate((tp, p, fn, tn, surprise)):
        sums_ref[i, :] = terms.sum(0)


def _backward(table_ref: Any, *refs: Any, **sizes: Any) -> None:
    *inputs, gradient_ref = refs
    x, valid, is_own, _ = _read(*inputs, **sizes)
    b, difference, s = (table_ref[i, :][None, :] for i in range(3))
    exp = jnp.exp(x - x.max(1, keepdims=True))
    p = exp / exp.sum(1, keepdims=True)
    inner = (p * b).sum(1, keepdims=True)
    more = jnp.where(is_own, p * difference, 0).sum(1, keepdims=True)
    s_own = jnp.where(is_own, s, 0).sum(1, keepdims=True)
    gradient = p * (b + (s_own - inner - more)) + jnp.where(is_own, more - s_own, 0)
    gradient = jnp.where(valid, gradient, 0).astype(gradient_ref.dtype)
    if sizes["tile"].guarded:
        triton.store(gradient_ref, gradient, mask=_inside(**sizes))
    else:
        gradient_ref[...] = gradient


def _read(
    x_ref: Any, ids_ref: Any, where_ref: Any = None, **sizes: Any
) -> tuple[Array, Array, Array, Array]:
    """A tile ``[pixels, lanes]``: its logits; which pixels count, are of the class, of another."""
    inside = _inside(**sizes)
    lane = lax.broadcasted_iota(jnp.int32, inside.shape, 1)
    is_class = lane < sizes["classes"]
    pixel = _positions(sizes["tile"].pixels, sizes["axis"]) < sizes["pixels"]
    guard = sizes["tile"].guarded
    x = _checks.at_least_float32(_load(x_ref, inside, guard))
    ids = load_map(ids_ref, pixel, guard).astype(jnp.int32)
    valid = pixel if where_ref is None else pixel & load_map(where_ref, pixel, guard)
    valid = valid[:, None]
    is_own = is_class & valid & (lane == ids[:, None])
    x = jnp.where(is_class, jnp.where(valid, x, 0), -jnp.inf)
    return x, valid, is_own, is_class & ~is_own


def _inside(tile: Tile, pixels: int, classes: int, axis: int) -> Array:
    """Which elements of a tile of logits there are."""
    pixel = _positions(tile.pixels, axis)[:, None]
    lane = lax.broadcasted_iota(jnp.int32, (tile.pixels, tile.lanes), 1)
    return (pixel < pixels) & (lane < classes)


def _positions(pixels: int, axis: int) -> Array:
    return pl.program_id(axis) * pixels + lax.iota(jnp.int32, pixels)


def _load(ref: Any, mask: Array, guarded: bool) -> Array:
    if not guarded:
        return ref[...]
    return triton.load(ref, mask=mask, other=jnp.zeros((), ref.dtype))


def load_map(ref: Any, mask: Array, guarded: bool) -> Array:
    return _load(ref, mask[None, :], guarded).reshape(mask.shape)


def _by_platform(call: Any, classes: int, *arrays: Array | None) -> Array:
    """``call`` with the tile of the platform that it is compiled for."""
    wide = pl.cdiv(classes, 128) * 128  # as a TPU stores them
    tpu = Tile(max(128, TPU_TILE // wide // 128 * 128), classes, guarded=False)
    lanes = pl.next_power_of_2(classes)
    gpu = Tile(max(32, GPU_TILE // lanes), lanes, guarded=True)
    given = [x for x in arrays if x is not None]
    return lax.platform_dependent(*given, tpu=partial(call, tpu), default=partial(call, gpu))


def compiler_params(tile: Tile) -> Any:
    """Triton by name: JAX 0.10 would take Mosaic GPU, JAX 0.12 takes Triton anyway."""
    return triton.CompilerParams() if tile.guarded else None


def _specs(arrays: tuple[Array, ...], tile: Tile) -> list[pl.BlockSpec]:
    """Tiles of logits ``[*kept, pixels, C]``, and of maps ``[*kept, 1, pixels]``."""
    one = _one(arrays[0].shape[:-2])
    logits = pl.BlockSpec((*one, tile.pixels, tile.lanes), lambda *i: (*i, 0))
    of_map = pl.BlockSpec((*one, 1, tile.pixels), lambda *i: (*i[:-1], 0, i[-1]))
    return [logits, *(of_map for _ in arrays[1:])]


def _one(kept: Any) -> tuple[None, ...]:
    return (None,) * len(kept)


def _batch(x: Any) -> Any:
    return None if x is None else x[None]


def flat(x: Any, kept: int) -> Any:
    """A map as ``[*kept, 1, pixels]``; ids of 64 bits cut to 32, and those cut off of no class."""
    if x is None:
        return None
    if x.dtype.itemsize > 4:
        x = jnp.where((x >= 0) & (x < 2**30), x, -1).astype(jnp.int32)
    return x.reshape(*x.shape[:kept], 1, -1)
