"""The form for GPUs: one kernel for any terms, which reads every input once and keeps nothing.

A program of the kernel takes a tile of pixels. Forward it writes the tile's sums, which XLA adds;
backward it computes the probabilities again, differentiates the terms and writes the gradient. So
no array as large as the logits is kept, and the order of the additions never changes.

Small tiles are fastest, each of one warp and about 32 numbers per thread (seen on an H200 with JAX
0.11; for 117 classes, forward tiles of 64 pixels and 8 warps took twice as long). A row of lanes
must be a power of two, so the classes are cut into pieces that waste few lanes: 19 classes take
16 + 4 lanes.

The kernel is written for Pallas's Triton backend, which JAX deprecates from 0.11 on. All that is
Triton's is in this file. Where the backend is missing, the plain form takes the kernel's place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxseg._activations import LEAST, Names, Probs, log_p_cotangent, pull_back, sigmoid_of
from jaxseg._kernels import plain
from jaxseg._kernels.plain import Gradients, Inputs, Pixel, PixelSum, Sums
from jaxseg._kernels.tiles import are_served, kind_of, merged, result, split_sums

ELEMENTS = 2**10  # of a tile: pixels times lanes
LEAST_FORWARD, LEAST_BACKWARD = 16, 8  # pixels of a tile; forward, each tile writes its sums
DEPRECATION = "The Pallas Triton backend is deprecated"

Ref = Any  # a reference to a block in the GPU's memory


class Piece(NamedTuple):
    """Some classes, side by side in a power of two of lanes."""

    first: int
    lanes: int
    classes: int


class Loaded(NamedTuple):
    """A tile's numbers of one piece, ``[pixels, lanes]``."""

    probs: Probs
    counted: Array  # False for masked pixels and in empty lanes
    terms: Callable[[Probs], Sums]


class Plan(NamedTuple):
    """How a sum is cut into programs; static."""

    what: PixelSum
    lengths: tuple[int, ...]  # the merged map: neighbouring axes that are summed alike are one
    summed: tuple[bool, ...]  # whether each merged axis is summed; the last one is
    width: int  # scores per pixel
    classes: int  # two for one score of two classes
    tile: int  # pixels of a program
    dense: bool  # whether the labels have a class axis
    where: str  # "" for none, "pixels", or "classes" if it has a class axis
    weights: str
    maps: int
    given: tuple[bool, ...]  # which of the constants are not None

    @property
    def activation(self) -> str | None:
        return self.what.activation

    @property
    def grid(self) -> tuple[int, ...]:
        """Programs along each merged axis."""
        return (*self.lengths[:-1], pl.cdiv(self.lengths[-1], self.tile))

    @property
    def pieces(self) -> list[Piece]:
        """The pieces of the classes. One score of two classes is read into two lanes."""
        return pieces_of(self.classes)

    def kept(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The ``values`` of the merged axes that are not summed."""
        return tuple(v for v, is_summed in zip(values, self.summed, strict=True) if not is_summed)


def forward(
    what: PixelSum, names: Names, keeps: bool, inputs: Inputs, interpret: bool = False
) -> tuple[Sums, Array | None]:
    """The sums. No residual is needed, since the backward pass starts from the inputs again."""
    if not are_served(what, names, inputs):
        return plain.forward(what, names, keeps, inputs)
    plan = plan_of(what, inputs, is_forward=True)
    shapes = jax.eval_shape(partial(plain.sums, what), inputs)
    count, vary = len(jax.tree.leaves(shapes)), plain.zero_like(inputs)
    tile_sums = pl.pallas_call(
        partial(_forward_kernel, plan),
        grid=plan.grid,
        in_specs=_specs(plan),
        out_specs=[
            pl.BlockSpec((*(None for _ in plan.grid), count, lanes), lambda *i: (*i, 0, 0))
            for _, lanes, _ in plan.pieces
        ],
        out_shape=[
            result((*plan.grid, count, lanes), jnp.float32, vary) for _, lanes, _ in plan.pieces
        ],
        **_options(plan, interpret),
    )(*_arrays(plan, inputs))
    axes = tuple(a for a, is_summed in enumerate(plan.summed) if is_summed)
    sums = [x.sum(axes)[..., : p.classes] for x, p in zip(tile_sums, plan.pieces, strict=True)]
    values = split_sums(jnp.concatenate(sums, -1), shapes)
    return values, jnp.zeros_like(inputs.scores) if keeps else None


def backward(
    what: PixelSum,
    names: Names,
    kept: Array | None,
    inputs: Inputs,
    cotangents: Sums,
    interpret: bool = False,
) -> Gradients:
    """The gradients of the inputs, from the cotangents of the sums.

    The kernel writes that of the scores. Those of soft labels and constants are the plain form's,
    which XLA leaves out of a program that does not read them.
    """
    if not are_served(what, names, inputs):
        return plain.backward(what, names, kept, inputs, cotangents)
    plan, scores = plan_of(what, inputs, is_forward=False), inputs.scores
    leaves = jax.tree.leaves(cotangents)
    batch_shape = plan.kept(plan.lengths)
    stacked = jnp.stack([x.reshape(*batch_shape, plan.classes) for x in leaves], -2)
    of_batch = pl.BlockSpec(
        (*(None for _ in batch_shape), len(leaves), pl.next_power_of_2(plan.classes)),
        lambda *i: (*plan.kept(i), 0, 0),
    )
    gradient = pl.pallas_call(
        partial(_backward_kernel, plan),
        grid=plan.grid,
        in_specs=[of_batch, *_specs(plan)],
        out_specs=_tiles(plan, plan.width),
        out_shape=result((*plan.lengths, plan.width), scores.dtype, plain.zero_like(inputs)),
        **_options(plan, interpret),
    )(stacked, *_arrays(plan, inputs))
    gradients = plain.gradients(what, inputs, cotangents, names)
    return gradients._replace(scores=gradient.reshape(scores.shape))


def plan_of(what: PixelSum, inputs: Inputs, *, is_forward: bool) -> Plan:
    """How the sum is cut into programs."""
    lengths, summed = merged(inputs.scores.shape[:-1], what.axes)
    width = inputs.scores.shape[-1]
    if is_forward:
        lanes = sum(piece.lanes for piece in pieces_of(width))
        pixels = max(LEAST_FORWARD, 2 ** round(math.log2(ELEMENTS / lanes)))
    else:
        pixels = max(LEAST_BACKWARD, ELEMENTS // pl.next_power_of_2(width))
    return Plan(
        what,
        lengths,
        summed,
        width,
        classes=2 if what.activation == "two classes" else width,
        tile=min(pixels, pl.next_power_of_2(lengths[-1])),
        dense=inputs.labels.ndim == inputs.scores.ndim,
        where=kind_of(inputs.where, inputs),
        weights=kind_of(inputs.weights, inputs),
        maps=len(inputs.maps),
        given=tuple(x is not None for x in inputs.constants),
    )


def pieces_of(classes: int) -> list[Piece]:
    """Powers of two of lanes that cover the classes and waste at most an eighth of a long one."""
    pieces, first = [], 0
    while first < classes:
        left = classes - first
        lanes = pl.next_power_of_2(left)
        if lanes > 4 and lanes - left > max(1, lanes // 8):
            lanes //= 2
        pieces.append(Piece(first, lanes, min(lanes, left)))
        first += lanes
    return pieces


def neg_log_p_of_class(logits: Array, ids: Array, interpret: bool = False) -> tuple[Array, Array]:
    """``-log p`` of one class of each pixel under a softmax, and the logit of this class.

    Both are ``[*map]``, and 0 where the id is that of no class.
    """
    pixels, classes = ids.size, logits.shape[-1]
    what = PixelSum(_nothing, (0,), "softmax", False)
    inputs = Inputs(logits.reshape(pixels, classes), ids.reshape(pixels), None, (), (), ())
    plan = plan_of(what, inputs, is_forward=False)
    shape = result((pixels,), jnp.float32, plain.zero_like(inputs))
    loss, own = pl.pallas_call(
        partial(_class_kernel, plan),
        grid=plan.grid,
        in_specs=_specs(plan),
        out_specs=[_tiles(plan)] * 2,
        out_shape=[shape] * 2,
        **_options(plan, interpret),
    )(*_arrays(plan, inputs))
    return loss.reshape(ids.shape), own.reshape(ids.shape)


# ---------------------------------------------------------------------------------- the call


def _options(plan: Plan, interpret: bool) -> dict[str, Any]:
    # Here, since filters that are set later, as tests do, go before those set at import.
    warnings.filterwarnings("ignore", DEPRECATION, DeprecationWarning)
    params = triton.CompilerParams(num_warps=1, num_stages=1)
    return {"interpret": interpret, "compiler_params": params}


def _tiles(plan: Plan, width: int | None = None) -> pl.BlockSpec:
    """Each program's tile of an array ``[*lengths]``, or of ``[*lengths, width]``."""
    lead = tuple(None for _ in plan.grid[:-1])
    if width is None:
        return pl.BlockSpec((*lead, plan.tile), lambda *i: i)
    return pl.BlockSpec((*lead, plan.tile, pl.next_power_of_2(width)), lambda *i: (*i, 0))


def _specs(plan: Plan) -> list[pl.BlockSpec]:
    """The blocks of ``_arrays``."""
    rows = _tiles(plan, plan.width)
    labels = rows if plan.dense else _tiles(plan)
    each = {"": [], "pixels": [_tiles(plan)], "classes": [rows]}
    count = sum(plan.given)
    whole = pl.BlockSpec((count, pl.next_power_of_2(plan.classes)), lambda *_: (0, 0))
    maps = (rows for _ in range(plan.maps))
    constants = [whole] if count else []
    return [rows, labels, *each[plan.where], *each[plan.weights], *maps, *constants]


def _arrays(plan: Plan, inputs: Inputs) -> list[Array]:
    """What the kernel reads: scores, labels, where, weights, maps, and constants ``[count, C]``."""
    given = [x for x in (inputs.where, inputs.weights) if x is not None]
    maps = [inputs.scores, inputs.labels, *given, *inputs.maps]
    ndim = inputs.scores.ndim - 1
    arrays = [x.reshape(*plan.lengths, *x.shape[ndim:]) for x in maps]
    given = [x.astype(jnp.float32) for x in inputs.constants if x is not None]
    if given:
        arrays.append(jnp.stack([jnp.broadcast_to(x, plan.classes) for x in given]))
    return arrays


# ---------------------------------------------------------------------------------- the kernels


def _forward_kernel(plan: Plan, *refs: Ref) -> None:
    inputs, sums_refs = refs[: -len(plan.pieces)], refs[-len(plan.pieces) :]
    for sums_ref, x in zip(sums_refs, _load(plan, *inputs), strict=True):
        for k, value in enumerate(jax.tree.leaves(x.terms(x.probs))):
            sums_ref[k, :] = jnp.where(x.counted, value, 0).sum(0)


def _backward_kernel(plan: Plan, cotangents_ref: Ref, *refs: Ref) -> None:
    *inputs, gradient_ref = refs
    tile, changes = _load(plan, *inputs), []
    for piece, x in zip(plan.pieces, tile, strict=True):
        values, pull = jax.vjp(x.terms, x.probs)
        leaves, tree = jax.tree.flatten(values)
        rows = (_row(cotangents_ref, k, piece) for k in range(len(leaves)))
        parts = [jnp.broadcast_to(row, leaf.shape) for row, leaf in zip(rows, leaves, strict=True)]
        (change,) = pull(jax.tree.unflatten(tree, parts))
        changes.append(Probs(*(jnp.where(x.counted, y, 0) for y in change)))
    gradients = _pull_back(plan, changes, [x.probs for x in tile])
    for piece, gradient in zip(plan.pieces, gradients, strict=True):
        columns, mask = _columns(plan, piece)
        gradient = gradient.astype(gradient_ref.dtype)
        triton.store(gradient_ref.at[:, columns], gradient, mask=mask & _inside(plan)[:, None])


def _class_kernel(plan: Plan, scores_ref: Ref, ids_ref: Ref, *results: Ref) -> None:
    inside = _inside(plan)
    ids = triton.load(ids_ref, mask=inside, other=jnp.zeros((), ids_ref.dtype))
    scores, is_own = [], []
    for piece in plan.pieces:
        columns, mask = _columns(plan, piece)
        mask &= inside[:, None]
        x = triton.load(scores_ref.at[:, columns], mask=mask, other=jnp.zeros((), scores_ref.dtype))
        scores.append(x.astype(jnp.float32))
        is_own.append(mask & (_lane(plan, piece) == ids.astype(jnp.int32)[:, None]))
    log_p = [probs.log_p for probs in _activate(plan, scores)]
    for result_ref, sign, values in zip(results, (-1, 1), (log_p, scores), strict=True):
        own = zip(is_own, values, strict=True)
        total = reduce(jnp.add, [jnp.where(is_it, x, 0).sum(1) for is_it, x in own])
        triton.store(result_ref.at[:], sign * total, mask=inside)


def _nothing(_: Pixel) -> tuple[()]:
    """The terms of no sum."""
    return ()


def _load(plan: Plan, scores_ref: Ref, labels_ref: Ref, *refs: Ref) -> list[Loaded]:
    """The tile that this program sums, piece by piece."""
    where_refs, refs = refs[: bool(plan.where)], refs[bool(plan.where) :]
    weights_refs, refs = refs[: bool(plan.weights)], refs[bool(plan.weights) :]
    map_refs, constants_refs = refs[: plan.maps], refs[plan.maps :]
    counted = _inside(plan)
    if plan.where == "pixels":
        counted &= triton.load(where_refs[0], mask=counted, other=False)
    pieces = plan.pieces

    def load(ref: Ref, piece: Piece) -> Array:
        columns, mask = _columns(plan, piece)
        mask &= counted[:, None]
        x = triton.load(ref.at[:, columns], mask=mask, other=jnp.zeros((), ref.dtype))
        return x if x.dtype == bool else x.astype(jnp.float32)

    def load_ids(piece: Piece) -> Array:
        ids = triton.load(labels_ref, mask=counted, other=jnp.zeros((), labels_ref.dtype))
        ids = ids[:, None] if ids.dtype.itemsize == 8 else ids.astype(jnp.int32)[:, None]
        return ids == (1 if plan.width == 1 else _lane(plan, piece).astype(ids.dtype))

    masks = [_is_class(plan, piece) & counted[:, None] for piece in pieces]
    scores = [load(scores_ref, piece) for piece in pieces]
    if plan.where == "classes":
        masks = [
            mask & load(where_refs[0], piece) for mask, piece in zip(masks, pieces, strict=True)
        ]
        scores = [jnp.where(mask, x, 0) for mask, x in zip(masks, scores, strict=True)]
    probs = _activate(plan, scores)
    truth = [load(labels_ref, p) if plan.dense else load_ids(p) for p in pieces]
    if plan.activation == "two classes":
        (it,) = truth
        other = ~it if it.dtype == bool else 1 - it
        truth = [jnp.where(_lane(plan, pieces[0]) == 1, it, other)]
    truth = [
        mask & g if g.dtype == bool else jnp.where(mask, g, 0) for mask, g in zip(masks, truth)
    ]
    labels = _over_pieces(jnp.add, [g.astype(jnp.float32).sum(1) for g in truth])
    tile = []
    for piece, p, g, mask in zip(pieces, probs, truth, masks, strict=True):
        pixel = partial(Pixel, truth=g, labels=jnp.broadcast_to(labels, g.shape))
        numbers = iter(range(sum(plan.given)))
        maps = [load(ref, piece) for ref in map_refs]
        constants = [
            _row(constants_refs[0], next(numbers), piece) if is_given else None
            for is_given in plan.given
        ]
        weights = None
        if plan.weights == "pixels":
            (ref,) = weights_refs
            weights = triton.load(ref, mask=counted, other=jnp.zeros((), ref.dtype))
            weights = weights.astype(jnp.float32)[:, None]
        elif plan.weights == "classes":
            weights = jnp.where(mask, load(weights_refs[0], piece), 0)
        terms = partial(_terms, plan, pixel, (*maps, *constants), weights)
        tile.append(Loaded(p, mask, terms))
    return tile


def _terms(
    plan: Plan,
    pixel: Callable[..., Pixel],
    others: tuple[Array | None, ...],
    weights: Array | None,
    probs: Probs,
) -> Sums:
    values = plan.what.terms(pixel(**probs._asdict()), *others)
    return values if weights is None else jax.tree.map(lambda x: weights * x, values)


def _activate(plan: Plan, scores: list[Array]) -> list[Probs]:
    """The probabilities of each piece; a softmax is over all of them."""
    pieces = plan.pieces
    if plan.activation == "softmax":
        x = [
            jnp.where(_is_class(plan, p), x, -jnp.inf) for p, x in zip(pieces, scores, strict=True)
        ]
        top = _over_pieces(jnp.maximum, [each.max(1) for each in x])
        exps = [jnp.exp(each - top) for each in x]
        total = _over_pieces(jnp.add, [exp.sum(1) for exp in exps])
        log_total = top + jnp.log(total)
        log_p = [jnp.maximum(each - log_total, LEAST) for each in x]
        p = [exp / total for exp in exps]
        return [Probs(a, b, jnp.log1p(-b), 1 - b) for a, b in zip(log_p, p, strict=True)]
    if plan.activation == "two classes":
        (score,) = scores
        scores = [jnp.where(_lane(plan, pieces[0]) == 1, score, -score)]
    return [sigmoid_of(x) for x in scores]


def _pull_back(plan: Plan, changes: list[Probs], probs: list[Probs]) -> list[Array]:
    """The gradient of the scores of each piece."""
    each = zip(changes, probs, strict=True)
    if plan.activation == "two classes":
        ((change, p),) = each
        p = p._replace(q=jnp.exp(p.log_q))  # all digits of a small one
        gradient = pull_back(change, p, "sigmoid", 1, _no_sum)
        sign = jnp.where(_lane(plan, plan.pieces[0]) == 1, 1, -1)
        return [(sign * gradient).sum(1)[:, None]]
    if plan.activation == "sigmoid":
        return [pull_back(change, p, "sigmoid", 1, _no_sum) for change, p in each]
    pairs = list(each)
    total = _over_pieces(jnp.add, [log_p_cotangent(*pair).sum(1) for pair in pairs])
    return [pull_back(change, p, "softmax", 1, lambda _: total) for change, p in pairs]


def _over_pieces(f: Callable[[Array, Array], Array], parts: list[Array]) -> Array:
    """Combine a number per pixel of each piece: ``[pixels, 1]``."""
    return reduce(f, parts)[:, None]


def _no_sum(x: Array) -> Array:
    """What a sigmoid does with a sum over the classes: nothing, since it has none."""
    return x


def _inside(plan: Plan) -> Array:
    """Which pixels of this program's tile are in the map."""
    first = pl.program_id(len(plan.grid) - 1) * plan.tile
    return first + lax.iota(jnp.int32, plan.tile) < plan.lengths[-1]


def _lane(plan: Plan, piece: Piece) -> Array:
    """The class of each lane."""
    return piece.first + lax.broadcasted_iota(jnp.int32, (plan.tile, piece.lanes), 1)


def _is_class(plan: Plan, piece: Piece) -> Array:
    return _lane(plan, piece) < piece.first + piece.classes


def _columns(plan: Plan, piece: Piece) -> tuple[Any, Array]:
    """Where the scores of a piece are in a row, and which of them there are."""
    read = Piece(0, 1, 1) if plan.width == 1 else piece
    return pl.ds(read.first, read.lanes), _is_class(plan, read)


def _row(ref: Ref, k: int, piece: Piece) -> Array:
    """The numbers ``[1, lanes]`` of a piece in row ``k``; 0 in empty lanes."""
    mask = lax.broadcasted_iota(jnp.int32, (1, piece.lanes), 1) < piece.classes
    index = (pl.ds(k, 1), pl.ds(piece.first, piece.lanes))
    return triton.load(ref.at[index], mask=mask, other=jnp.float32(0))
