"""The hard engine: how often a function of the ids of one pixel takes each value, in int32.

The form for CPUs scatters a block's pixels into the table, which is what takes the time. With few
bins it scatters several pixels at once, into a table of all their combinations, whose marginal sums
are the histogram. Elsewhere, where additions to one bin would wait for each other, a block's
histogram is a product of two one-hot matrices. That form has been tested on CPU, and not timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxseg._sharding import on_shards

# A block's maps and index, in bytes. XLA would compute the index of a few times more by several
# threads, and starting them takes longer than they save.
CPU_BLOCK_BYTES = 12 * 1024

# Tables of this many pixels or more are made one by one, so that each stays in the cache.
CPU_LOOP_PIXELS = 2**10

# Elements of a one-hot matrix.
ACCELERATOR_BLOCK = 2**23

MAX_TOGETHER = 4  # pixels scattered at once
MAX_COMBINATIONS = 2**18  # bins of their table: 1 MB
MAX_PRODUCT_BINS = 2**18  # 512 columns of each one-hot matrix

Index = Callable[..., Array]  # elementwise, of one or more maps: unsigned, below the number of bins
Maps = tuple[Array, ...]


def histogram(
    index: Index, maps: Maps, where: Array | None, bins: int, axes: tuple[int, ...]
) -> Array:
    """How often ``index(*maps)`` is each of ``bins`` numbers, over ``axes``: int32 ``[..., bins]``.

    Each device counts the shard that it holds.
    """
    if where is not None:
        masked = partial(_masked, index, bins)
        return histogram(masked, (*maps, where), None, bins + 1, axes)[..., :bins]
    space = [f"a{i}" for i in range(maps[0].ndim)]
    rest = " ".join(name for i, name in enumerate(space) if i not in axes)
    local = lambda maps, _: _histogram(index, bins, maps, axes)  # noqa: E731
    return on_shards(local, maps, (" ".join(space),) * len(maps), f"{rest} _")


def _histogram(index: Index, bins: int, maps: Maps, axes: tuple[int, ...]) -> Array:
    """``histogram`` of maps that are on one device."""
    batch_axes = [a for a in range(maps[0].ndim) if a not in axes]
    tables = math.prod(maps[0].shape[a] for a in batch_axes)
    pixels = maps[0].size // tables
    one_by_one = pixels >= CPU_LOOP_PIXELS

    by_scatter: Callable[..., Array] = partial(
        _by_scatter, index, bins, 1 if one_by_one else tables
    )
    by_product: Callable[..., Array] = partial(_by_product, index, bins, tables)
    for _ in batch_axes:
        by_scatter = _loop(by_scatter) if one_by_one else jax.vmap(by_scatter)
        by_product = jax.vmap(by_product)
    moved = (x.transpose(*batch_axes, *axes) for x in maps)
    return lax.platform_dependent(*moved, cpu=by_scatter, default=by_product)


def _masked(index: Index, bins: int, *maps: Array) -> Array:
    """The index; ``bins`` where the last map is False."""
    numbers = index(*maps[:-1])
    return jnp.where(maps[-1], numbers, jnp.asarray(bins, numbers.dtype))


def _loop(f: Callable[..., Array]) -> Callable[..., Array]:
    """``vmap`` as a loop."""
    return lambda *args: lax.map(lambda x: f(*x), args)


def _by_scatter(index: Index, bins: int, tables: int, *maps: Array) -> Array:
    """Histogram of all pixels of ``maps``, one of ``tables`` that ``vmap`` makes."""
    maps = tuple(x.ravel() for x in maps)
    pixels = maps[0].size
    together = _together(bins, pixels) if tables == 1 else 1
    bytes_each = sum(x.dtype.itemsize for x in maps) + 4 / together
    size = max(together, int(CPU_BLOCK_BYTES / bytes_each / tables))

    def add(together: int, table: Array, maps: Maps) -> Array:
        parts = zip(*(jnp.split(x, together) for x in maps), strict=True)
        numbers = (index(*part).astype(jnp.uint32) for part in parts)
        return table.at[reduce(lambda a, b: a * bins + b, numbers)].add(1, mode="drop")

    table = _zeros(index, maps, bins**together)
    table, rest = _add_blocks(partial(add, together), table, maps, size // together * together)
    table = table.reshape((bins,) * together)
    marginals = ([b for b in range(together) if b != a] for a in range(together))
    table = reduce(jnp.add, (table.sum(others, dtype=jnp.int32) for others in marginals))
    return add(1, table, rest) if rest[0].size else table


def _by_product(index: Index, bins: int, tables: int, *maps: Array) -> Array:
    """``_by_scatter``, by products of one-hot matrices of the two digits of the index."""
    maps = tuple(x.ravel() for x in maps)
    if bins > MAX_PRODUCT_BINS:
        table = _zeros(index, maps, bins)
        return table.at[index(*maps).astype(jnp.uint32)].add(1, mode="drop")
    base = math.isqrt(bins - 1) + 1
    size = max(1, ACCELERATOR_BLOCK // (base * tables))  # below 2**24, to which float32 is exact

    def one_hot(digits: Array) -> Array:
        return jax.nn.one_hot(digits.astype(jnp.int32), base, dtype=jnp.bfloat16)  # exact: 0 and 1

    def add(table: Array, maps: Maps) -> Array:
        numbers = index(*maps).astype(jnp.uint32)
        high, low = one_hot(numbers // base), one_hot(numbers % base)
        product = jnp.einsum("pi,pj->ij", high, low, preferred_element_type=jnp.float32)
        return table + product.ravel().astype(jnp.int32)

    table, rest = _add_blocks(add, _zeros(index, maps, base**2), maps, size)
    return (add(table, rest) if rest[0].size else table)[:bins]


def _add_blocks(
    add: Callable[[Array, Maps], Array], table: Array, maps: Maps, size: int
) -> tuple[Array, Maps]:
    """The table with blocks of ``size`` pixels added, and the pixels left over."""
    count = maps[0].size // size

    def add_block(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        table, starts = carry
        # All four are equal. With up to three loop-carried scalars LLVM passes them as arguments to
        # the per-pixel function and does not vectorise it, which takes twice the time; four are
        # kept in memory (seen on JAX 0.10; the counting rows of tests/benchmarks).
        start = starts[0] | starts[1] | starts[2] | starts[3]
        block = tuple(lax.dynamic_slice_in_dim(x, start, size) for x in maps)
        return add(table, block), starts + size

    if count == 1:
        table = add(table, tuple(x[:size] for x in maps))
    elif count > 1:
        table, _ = lax.fori_loop(0, count, add_block, (table, jnp.zeros(4, jnp.int32)))
    return table, tuple(x[count * size :] for x in maps)


def _zeros(index: Index, maps: Maps, bins: int) -> Array:
    """An empty table, which varies over the devices of a ``shard_map`` as the maps do."""
    zero = jnp.where(False, index(*(x[:1] for x in maps)), 0).astype(jnp.int32)
    return jnp.broadcast_to(zero, bins)


def _together(bins: int, pixels: int) -> int:
    """How many pixels to scatter at once: their table stays small, also beside the maps."""
    limit = min(MAX_COMBINATIONS, pixels // 8)
    return max(k for k in range(1, MAX_TOGETHER + 1) if k == 1 or bins**k <= limit)
