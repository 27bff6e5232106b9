"""The hard engine: how often a function of the ids of one pixel takes each value, in int32.

With weights, it is how much the pixels of each value weigh, in floats.

The form for CPUs scatters a block's pixels into the table, which is what takes the time. With few
bins it scatters several pixels at once, into a table of all their combinations, whose marginal sums
are the histogram.

On a GPU additions to one address wait for each other, and most maps are mostly one class. So
neighbouring pixels are added to neighbouring copies of the table; with few bins every pixel is
compared with every bin. On a TPU, which scatters one pixel after the other, a block's table is a
product of two one-hot matrices, which exist only inside the product.

A float32 that counts pixels stops at 2**24, and a sum of other weights is biased much earlier. So a
sum of weights is a pair of floats, of which the second is what the first cannot hold. On CPU each
weight of a block is cut into its leading digits, which are summed exactly, and a small rest.
Elsewhere every pixel is compared with every bin, which unlike a scatter of floats gives a GPU the
same bits in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxseg._numerics import two_sum
from jaxseg._sharding import Cut, on_shards

# A block's maps and index, in bytes. XLA would compute the index of a few times more by several
# threads, and starting them takes longer than they save.
CPU_BLOCK_BYTES = 12 * 1024

# Tables of this many pixels or more are made one by one, so that each stays in the cache.
CPU_LOOP_PIXELS = 2**10

# On a GPU the time to compare is in proportion to the bins; that of a scatter is not. For 16.7
# million pixels an H200 took 0.05 ms to compare 4 bins, 1.8 ms to compare 361, and 0.09 to 0.17 ms
# for the scatter (JAX 0.11.2).
MAX_COMPARED_BINS = 17  # of the pairs of 3 classes and no class, and one for masked pixels

# The copies of all tables stay in the second-level cache: 24 MB. A cell is set to zero, read,
# written and summed. So that this moves three times the bytes of the maps at most, a cell stands
# for 16/3 bytes of them; but there are copies enough for the threads of a warp.
MAX_CELLS = 6_000_000
CELLS_PER_BYTE = 3 / 16
WARP = 32
MAX_COPIES = 2**12

TPU_BLOCK = 2**19  # pixels whose digits stay in the vector memory; float32 counts them exactly
TPU_ROWS = 32  # a block has a multiple of them, as a tile of 8-bit numbers has
TPU_ROW = 2**10  # pixels of the rows into which one long axis is cut

MAX_TOGETHER = 4  # pixels scattered at once
MAX_COMBINATIONS = 2**18  # bins of their table: 1 MB
MAX_PRODUCT_BINS = 2**20  # 1,024 rows of each one-hot matrix

WEIGHTS_BLOCK = 2**12  # pixels whose weights are added before they go into the pairs
WEIGHTS_COPIES = 4  # of a block's table: a float that is added to the last one waits for it
MAX_WEIGHTED_COMPARED_BINS = 2**14  # comparisons of more take longer than a scatter of blocks

Index = Callable[..., Array]  # elementwise, of one or more maps: unsigned, below the number of bins
Indices = tuple[Index, ...]
Maps = tuple[Array, ...]
Pair = tuple[Array, Array]  # a sum of floats, and what its first number cannot hold
T = TypeVar("T")  # one or more tables
Form = Callable[..., Array]  # of the axes to count over, and of maps


def histogram(
    index: Index,
    maps: Maps,
    where: Array | None,
    bins: int,
    axes: tuple[int, ...],
    at_once: int = 1,
) -> Array:
    """How often ``index(*maps)`` is each of ``bins`` numbers, over ``axes``: int32 ``[..., bins]``.

    Each device counts the shard that it holds. The histograms that a program takes ``at_once``
    share the memory for copies of tables.
    """
    if where is not None:
        masked = partial(_masked, index, bins)
        return histogram(masked, (*maps, where), None, bins + 1, axes, at_once)[..., :bins]
    return _with_batch_axes(partial(_on_shards, index, bins, at_once), axes)(*maps)


def weighted_histogram(
    indices: Indices,
    maps: Maps,
    weights: Array,
    where: Array | None,
    bins: int,
    axes: tuple[int, ...],
) -> Array:
    """How much the pixels weigh for which one of ``indices`` is each of ``bins`` numbers.

    The result is pairs of floats ``[..., bins, 2]``, whose sums over the last axis are the weights.
    No two indices of a pixel are equal. ``weights`` and ``where`` have the axes of the maps, but an
    axis may have length 1.
    """
    maps = (*maps, weights) if where is None else (*maps, where, weights)
    form = partial(_weights_on_shards, indices, bins, where is not None)
    return _with_batch_axes(form, axes)(*maps)


def add_pairs(a: Array, b: Array) -> Array:
    """Add pairs of floats ``[..., 2]``."""
    return jnp.stack(_add_pair((a[..., 0], a[..., 1]), (b[..., 0], b[..., 1])), -1)


def sum_pairs(pairs: Array, axis: int) -> Array:
    """Sum pairs of floats ``[..., 2]`` over one axis."""
    return _sum_pairs(pairs[..., 0], pairs[..., 1], (axis,))


def _with_batch_axes(form: Form, axes: tuple[int, ...]) -> Callable[..., Array]:
    """``form`` over ``axes``, to which ``vmap`` adds a batch axis.

    So the form knows how many tables it makes.
    """

    @jax.custom_batching.custom_vmap
    def run(*maps: Array) -> Array:
        return form(axes, *maps)

    @run.def_vmap
    def batch(size: int, batched: list[bool], *maps: Array) -> tuple[Array, bool]:
        maps = tuple(
            x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_batched in zip(maps, batched, strict=True)
        )
        return _with_batch_axes(form, tuple(a + 1 for a in axes))(*maps), True

    return run


def _on_shards(index: Index, bins: int, at_once: int, axes: tuple[int, ...], *maps: Array) -> Array:
    space = [f"a{i}" for i in range(maps[0].ndim)]
    rest = " ".join(name for i, name in enumerate(space) if i not in axes)

    def local(maps: Maps, cut: Cut | None) -> Array:
        if cut is None:
            return _by_xla(index, bins, axes, *maps)
        return _histogram(index, bins, at_once, axes, maps)

    return on_shards(local, maps, (" ".join(space),) * len(maps), f"{rest} _")


def _histogram(index: Index, bins: int, at_once: int, axes: tuple[int, ...], maps: Maps) -> Array:
    """``histogram`` of maps that are on one device."""
    by_copies = partial(_by_copies, index, bins, at_once, axes)
    by_product = partial(_by_product, index, bins, axes)
    return lax.platform_dependent(
        *maps,
        cpu=partial(_one_by_one, index, bins, axes),
        tpu=by_product if bins <= MAX_PRODUCT_BINS else by_copies,
        default=by_copies,
    )


def _one_by_one(index: Index, bins: int, axes: tuple[int, ...], *maps: Array) -> Array:
    """``_by_scatter`` for each index of the batch axes."""
    return _each_table(partial(_by_scatter, index, bins), axes, maps)


def _each_table(form: Callable[..., Array], axes: tuple[int, ...], maps: Maps) -> Array:
    """``form(tables, *maps)``, where ``vmap`` makes so many tables, for the batch axes."""
    batch_axes = _batch_axes(maps, axes)
    tables = math.prod(maps[0].shape[a] for a in batch_axes)
    one_by_one = maps[0].size // tables >= CPU_LOOP_PIXELS
    by_scatter: Callable[..., Array] = partial(form, 1 if one_by_one else tables)
    for _ in batch_axes:
        by_scatter = _loop(by_scatter) if one_by_one else jax.vmap(by_scatter)
    return by_scatter(*(x.transpose(*batch_axes, *axes) for x in maps))


def _batch_axes(maps: Maps, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a for a in range(maps[0].ndim) if a not in axes)


def _masked(index: Index, bins: int, *maps: Array) -> Array:
    """The index; ``bins`` where the last map is False."""
    numbers = index(*maps[:-1])
    return jnp.where(maps[-1], numbers, jnp.asarray(bins, numbers.dtype))


def _with_summed_axis(axes: tuple[int, ...], maps: Maps) -> tuple[tuple[int, ...], Maps]:
    """The axes and maps; if there are no axes, a last one of length 1."""
    return (axes, maps) if axes else ((maps[0].ndim,), tuple(x[..., None] for x in maps))


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

    table = _zeros(index, maps, (bins**together,))
    table, rest = _add_blocks(partial(add, together), table, maps, size // together * together)
    table = table.reshape((bins,) * together)
    marginals = ([b for b in range(together) if b != a] for a in range(together))
    table = reduce(jnp.add, (table.sum(others, dtype=jnp.int32) for others in marginals))
    return add(1, table, rest) if rest[0].size else table


def _by_copies(index: Index, bins: int, at_once: int, axes: tuple[int, ...], *maps: Array) -> Array:
    """Histogram over ``axes``, by comparisons, or by a scatter into copies of the tables."""
    if bins <= MAX_COMPARED_BINS:
        return _by_comparisons(index, bins, axes, *maps)
    axes, maps = _with_summed_axis(axes, maps)
    # The rows of all tables take turns, since those of one table may all be of one class.
    batch_axes = _batch_axes(maps, axes)
    maps = tuple(x.transpose(*axes[:-1], *batch_axes, axes[-1]) for x in maps)
    shape = maps[0].shape
    at = [lax.broadcasted_iota(jnp.uint32, shape, a) for a in range(len(axes) - 1, len(shape) - 1)]
    tables = shape[len(axes) - 1 : -1]
    copies = _copies(math.prod(tables) * bins, sum(x.nbytes for x in maps), at_once)
    copy = lax.iota(jnp.uint32, maps[0].size).reshape(shape) & (copies - 1)
    table = _zeros(index, maps, (*tables, bins, copies))
    table = table.at[(*at, index(*maps).astype(jnp.uint32), copy)].add(1, mode="drop")
    # Without the barrier XLA would sum the copies again for every use of the sums.
    return lax.optimization_barrier(table.sum(-1, dtype=jnp.int32))


def _by_comparisons(index: Index, bins: int, axes: tuple[int, ...], *maps: Array) -> Array:
    numbers = index(*maps)[None]
    each = jnp.arange(bins, dtype=numbers.dtype).reshape(bins, *(1 for _ in maps[0].shape))
    table = (numbers == each).sum([a + 1 for a in axes], dtype=jnp.int32)
    return lax.optimization_barrier(jnp.moveaxis(table, 0, -1))


def _copies(cells: int, map_bytes: int, at_once: int) -> int:
    """How many copies of so many cells to make: a power of two."""
    limit = min(MAX_CELLS, max(int(CELLS_PER_BYTE * map_bytes), WARP * cells)) // at_once
    return min(MAX_COPIES, 1 << max(0, (limit // cells).bit_length() - 1))


def _by_product(index: Index, bins: int, axes: tuple[int, ...], *maps: Array) -> Array:
    """Histogram over ``axes``, by products of one-hot matrices of the two digits of the index."""
    axes, maps = _with_summed_axis(axes, maps)
    batch_axes = _batch_axes(maps, axes)
    tables = tuple(maps[0].shape[a] for a in batch_axes)
    width = maps[0].shape[axes[-1]]
    if width > TPU_BLOCK:
        return _by_product_of_long_rows(index, bins, axes, *maps)
    # Rows are kept as they are: XLA would copy a map to make them one.
    maps = tuple(
        x.transpose(*batch_axes, *axes).reshape(math.prod(tables), -1, width) for x in maps
    )
    rows = maps[0].shape[1]
    size = min(rows, max(1, TPU_BLOCK // width // TPU_ROWS * TPU_ROWS))
    low_bits = ((bins - 1).bit_length() + 1) // 2
    lows, highs = 1 << low_bits, ((bins - 1) >> low_bits) + 1

    def one_hot(digits: Array, size: int) -> Array:
        # The pixels are last, as they are in the maps. 0 and 1 are exact in bfloat16.
        return (digits == jnp.arange(size, dtype=jnp.int32)[:, None]).astype(jnp.bfloat16)

    def add(table: Array, maps: Maps) -> tuple[Array, None]:
        numbers = index(*maps).astype(jnp.int32).reshape(1, -1)
        high, low = one_hot(numbers >> low_bits, highs), one_hot(numbers & (lows - 1), lows)
        product = jnp.einsum("hp,lp->hl", high, low, preferred_element_type=jnp.float32)
        return table + product.astype(jnp.int32), None

    def of_one_table(maps: Maps) -> Array:
        whole = rows - rows % size
        blocks = tuple(x[:whole].reshape(-1, size, width) for x in maps)
        table, _ = lax.scan(add, _zeros(index, maps, (highs, lows)), blocks)
        if whole < rows:
            table, _ = add(table, tuple(x[whole:] for x in maps))
        return table.ravel()[:bins]

    at_once = max(1, TPU_BLOCK // (rows * width))
    return lax.map(of_one_table, maps, batch_size=at_once).reshape(*tables, bins)


def _by_xla(index: Index, bins: int, axes: tuple[int, ...], *maps: Array) -> Array:
    """``_by_product`` of all pixels at once, for whole maps that XLA cuts by itself."""
    space = maps[0].shape
    if bins <= MAX_COMPARED_BINS or max(space) > 2**24:
        return _by_comparisons(index, bins, axes, *maps)
    together = axes  # the axes over which float32 counts exactly
    while math.prod(space[a] for a in together) > 2**24:
        together = together[1:]
    low_bits = ((bins - 1).bit_length() + 1) // 2
    lows, highs = 1 << low_bits, ((bins - 1) >> low_bits) + 1
    dtype = jnp.uint8 if lows <= 2**8 else jnp.uint16  # as few bytes as can be: XLA stores digits
    numbers = index(*maps).astype(jnp.uint32)

    def one_hot(digits: Array, size: int) -> Array:
        each = lax.broadcasted_iota(dtype, (*(1 for _ in space), size), len(space))
        return (digits.astype(dtype)[..., None] == each).astype(jnp.bfloat16)

    apart = tuple(a for a in range(len(space)) if a not in together)
    product = lax.dot_general(
        one_hot(numbers >> low_bits, highs),
        one_hot(numbers & (lows - 1), lows),
        ((together, together), (apart, apart)),
        preferred_element_type=jnp.float32,
    )
    summed = [i for i, a in enumerate(apart) if a in axes]
    table = product.astype(jnp.int32).sum(summed, dtype=jnp.int32)
    return table.reshape(*table.shape[:-2], -1)[..., :bins]


def _by_product_of_long_rows(index: Index, bins: int, axes: tuple[int, ...], *maps: Array) -> Array:
    """``_by_product`` where the last axis of a map is longer than a block: it is cut into rows."""
    last = axes[-1]
    length = maps[0].shape[last]
    whole = length - length % TPU_ROW
    rows = (lax.slice_in_dim(x, 0, whole, axis=last) for x in maps)
    rows = (x.reshape(*x.shape[:last], -1, TPU_ROW, *x.shape[last + 1 :]) for x in rows)
    table = _by_product(index, bins, (*axes, last + 1), *rows)
    if whole == length:
        return table
    rest = (lax.slice_in_dim(x, whole, length, axis=last) for x in maps)
    return table + _by_product(index, bins, axes, *rest)


def _add_blocks(add: Callable[[T, Maps], T], table: T, maps: Maps, size: int) -> tuple[T, Maps]:
    """The table or tables with blocks of ``size`` pixels added, and the pixels left over."""
    count = maps[0].size // size

    def add_block(_: Array, carry: tuple[T, Array]) -> tuple[T, Array]:
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


def _zeros(index: Index, maps: Maps, shape: tuple[int, ...]) -> Array:
    """An empty table, which varies over the devices of a ``shard_map`` as the maps do."""
    first = index(*(x.ravel()[:1] for x in maps))
    zero = jnp.where(False, first, 0).astype(jnp.int32)
    return jnp.broadcast_to(zero, shape)


def _together(bins: int, pixels: int) -> int:
    """How many pixels to scatter at once: their table stays small, also beside the maps."""
    limit = min(MAX_COMBINATIONS, pixels // 8)
    return max(k for k in range(1, MAX_TOGETHER + 1) if k == 1 or bins**k <= limit)


def _weights_on_shards(
    indices: Indices, bins: int, masked: bool, axes: tuple[int, ...], *maps: Array
) -> Array:
    shape = maps[0].shape
    space = [f"a{i}" for i in range(len(shape))]
    rest = " ".join(name for i, name in enumerate(space) if i not in axes)
    names = [
        " ".join(a if n == m else "_" for a, n, m in zip(space, x.shape, shape, strict=True))
        for x in maps
    ]

    def local(maps: Maps, cut: Cut | None) -> Array:
        *ids, weights = (jnp.broadcast_to(x, maps[0].shape) for x in maps)
        if masked:
            weights = jnp.where(ids.pop(), weights, jnp.zeros((), weights.dtype))
        compare = partial(_weights_by_comparisons, indices, bins, axes)
        if cut is None:
            return compare(*ids, weights)
        scatter = partial(_weights_one_by_one, indices, bins, axes)
        default = compare if bins <= MAX_WEIGHTED_COMPARED_BINS else scatter
        return lax.platform_dependent(*ids, weights, cpu=scatter, default=default)

    return on_shards(local, maps, names, f"{rest} _ _")


def _weights_one_by_one(indices: Indices, bins: int, axes: tuple[int, ...], *maps: Array) -> Array:
    """``_weights_by_scatter`` for each index of the batch axes."""
    return _each_table(partial(_weights_by_scatter, indices, bins), axes, maps)


def _weights_by_scatter(indices: Indices, bins: int, tables: int, *maps: Array) -> Array:
    """Weights of all pixels by value; the last map has the weights."""
    maps = tuple(x.ravel() for x in maps)
    size = min(maps[0].size, max(1, WEIGHTS_BLOCK // tables))
    copies = WEIGHTS_COPIES if bins * WEIGHTS_COPIES <= WEIGHTS_BLOCK else 1
    zeros = jnp.broadcast_to(jnp.where(False, maps[-1][0], 0), (bins, copies))

    def add(pair: Pair, block: Maps) -> Pair:
        *ids, weights = block
        numbers = [index(*ids).astype(jnp.uint32) for index in indices]
        copy = lax.iota(jnp.uint32, weights.size) % copies
        for part in _two_parts(weights):
            table = zeros
            for each in numbers:
                table = table.at[each, copy].add(part, mode="drop")
            pair = _add_pair(pair, (table.sum(-1), zeros[:, 0]))
        return pair

    pair, rest = _add_blocks(add, (zeros[:, 0], zeros[:, 0]), maps, size)
    return jnp.stack(add(pair, rest) if rest[0].size else pair, -1)


def _two_parts(x: Array) -> Pair:
    """Two numbers whose sum is ``x``: multiples of one step, so that they sum exactly, and a rest.

    The step is the spacing of floats near a power of two that is about 2**13 times the largest.
    """
    exponent_bits = 11 if x.dtype == jnp.float64 else 8
    large = lax.reduce_precision(x.max() * 2**13, exponent_bits, 0)
    multiple = (large + x) - large
    return multiple, x - multiple


def _weights_by_comparisons(
    indices: Indices, bins: int, axes: tuple[int, ...], *maps: Array
) -> Array:
    *ids, weights = maps
    each = jnp.arange(bins, dtype=jnp.uint32).reshape(bins, *(1 for _ in weights.shape))
    found = (index(*ids).astype(jnp.uint32)[None] == each for index in indices)
    chosen = jnp.where(reduce(jnp.logical_or, found), weights[None], jnp.zeros((), weights.dtype))
    pairs = _sum_pairs(chosen, jnp.zeros_like(chosen), tuple(a + 1 for a in axes))
    return jnp.moveaxis(pairs, 0, -2)


def _sum_pairs(high: Array, low: Array, axes: tuple[int, ...]) -> Array:
    zero = np.zeros((), high.dtype)
    return jnp.stack(lax.reduce((high, low), (zero, zero), _add_pair, axes), -1)


def _add_pair(a: Pair, b: Pair) -> Pair:
    high, error = two_sum(a[0], b[0])
    return two_sum(high, error + (a[1] + b[1]))
