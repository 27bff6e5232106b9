"""The form for TPUs: one kernel for any terms, on tiles laid out as XLA lays out logits there.

On a TPU, XLA lays out logits ``[..., H, W, C]`` with W in the lanes of a register, and with C or H
in its sublanes, whichever fills them. The kernel's tiles are of the same kind, so that nothing is
copied. The programs of one image run one after another: forward, each adds to the image's sums in
memory, always in the same order; backward, each computes the probabilities again, differentiates
the terms and writes the gradient. So no array as large as the logits is kept.

No TPU has run this yet: it has been compiled for one, and run in an interpreter. So it is off,
unless the environment says ``JAXSEG_TPU_KERNELS=1``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from jaxseg._activations import Names, Probs, activate, pull_back
from jaxseg._kernels import plain
from jaxseg._kernels.plain import Gradients, Inputs, Pixel, PixelSum, Sums
from jaxseg._kernels.tiles import are_served, kind_of, result, split_sums

LANES, SUBLANES = 128, 8  # of a register
ELEMENTS = 2**16  # of a tile, at most: pixels times classes
MOST_CLASSES = 256

Ref = Any  # a reference to a block in the TPU's memory


class Plan(NamedTuple):
    """How a sum is cut into programs; static. A map of one axis is one row."""

    what: PixelSum
    space: tuple[int, ...]  # the map
    classes: int
    class_axis: int  # of a tile: -2 for rows of classes, -3 for classes of rows
    rows: int  # of a tile
    columns: int
    dense: bool  # whether the labels have a class axis
    where: str  # "" for none, "pixels", or "classes" if it has a class axis
    weights: str
    maps: int
    given: tuple[bool, ...]  # which of the constants are not None

    @property
    def grid(self) -> tuple[int, ...]:
        """Programs along each axis of the map."""
        *lead, height, width = self.space
        return (*lead, pl.cdiv(height, self.rows), pl.cdiv(width, self.columns))

    @property
    def ones(self) -> tuple[int, int, int]:
        """The shape of a tile's sums: its classes, and 1 for its rows and columns."""
        return (1, self.classes, 1) if self.class_axis == -2 else (self.classes, 1, 1)

    @property
    def pixel_axes(self) -> tuple[int, int]:
        """The axes of a tile that are summed."""
        return (0, 2) if self.class_axis == -2 else (1, 2)


def is_served(what: PixelSum, names: Names, inputs: Inputs) -> bool:
    """Whether the kernel can compute this sum; the plain form computes all others."""
    *space, classes = inputs.scores.shape
    last = set(range(len(space))[-2:])
    return (
        classes <= MOST_CLASSES
        and what.activation in ("softmax", "sigmoid")
        and are_served(what, names, inputs)
        and last <= set(what.axes)
        # XLA lays out many classes of short rows with the classes in the lanes.
        and _filled(space[-1], LANES) >= _filled(classes, LANES)
    )


def forward(
    what: PixelSum, names: Names, keeps: bool, inputs: Inputs, interpret: bool = False
) -> tuple[Sums, Array | None]:
    """The sums. No residual is needed, since the backward pass starts from the inputs again."""
    if not is_served(what, names, inputs):
        return plain.forward(what, names, keeps, inputs)
    plan, shapes = plan_of(what, inputs), jax.eval_shape(partial(plain.sums, what), inputs)
    count, lead = len(jax.tree.leaves(shapes)), plan.space[:-2]
    image_sums = pl.pallas_call(
        partial(_forward_kernel, plan),
        grid=plan.grid,
        in_specs=_specs(plan),
        out_specs=_of_image(plan, count),
        out_shape=result((*lead, count, *plan.ones), jnp.float32, plain.zero_like(inputs)),
        interpret=interpret,
    )(*_arrays(plan, inputs))
    summed = tuple(a for a in range(len(lead)) if a in what.axes)
    stacked = image_sums.reshape(*lead, count, plan.classes).sum(summed)
    return split_sums(stacked, shapes), jnp.zeros_like(inputs.scores) if keeps else None


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
    if not is_served(what, names, inputs):
        return plain.backward(what, names, kept, inputs, cotangents)
    plan, scores, leaves = plan_of(what, inputs), inputs.scores, jax.tree.leaves(cotangents)
    lead = plan.space[:-2]
    kept_lead = tuple(1 if a in what.axes else n for a, n in enumerate(lead))
    stacked = jnp.stack([x.reshape(*kept_lead, *plan.ones) for x in leaves], len(lead))
    tiled = _tiled(plan, scores)
    gradient = pl.pallas_call(
        partial(_backward_kernel, plan),
        grid=plan.grid,
        in_specs=[_of_image(plan, len(leaves), what.axes), *_specs(plan)],
        out_specs=_tile(plan),
        out_shape=result(tiled.shape, scores.dtype, plain.zero_like(inputs)),
        interpret=interpret,
    )(stacked, *_arrays(plan, inputs))
    gradients = plain.gradients(what, inputs, cotangents, names)
    return gradients._replace(
        scores=jnp.moveaxis(gradient, plan.class_axis, -1).reshape(scores.shape)
    )


def plan_of(what: PixelSum, inputs: Inputs) -> Plan:
    """How the sum is cut into programs."""
    *space, classes = inputs.scores.shape
    height, width = space[-2:] if len(space) > 1 else (1, *space)
    is_full = classes % SUBLANES == 0 or classes in (2, 4)
    is_full |= classes == 1 and inputs.scores.dtype.itemsize == 4
    columns = min(width, max(LANES, ELEMENTS // classes // LANES * LANES))
    rows = max(SUBLANES, ELEMENTS // classes // columns // SUBLANES * SUBLANES)
    return Plan(
        what,
        (*space[:-2], height, width),
        classes,
        class_axis=-2 if is_full else -3,
        rows=min(height, rows),
        columns=columns,
        dense=inputs.labels.ndim == inputs.scores.ndim,
        where=kind_of(inputs.where, inputs),
        weights=kind_of(inputs.weights, inputs),
        maps=len(inputs.maps),
        given=tuple(x is not None for x in inputs.constants),
    )


def _filled(length: int, size: int) -> float:
    """The share of whole groups of ``size`` that ``length`` fills."""
    return length / (math.ceil(length / size) * size)


# ---------------------------------------------------------------------------------- the call


def _tile(plan: Plan) -> pl.BlockSpec:
    """Each program's tile of an array of ``_tiled``."""
    lead = tuple(None for _ in plan.space[:-2])
    if plan.class_axis == -2:
        shape = (*lead, plan.rows, plan.classes, plan.columns)
        return pl.BlockSpec(shape, lambda *i: (*i[:-1], 0, i[-1]))
    shape = (*lead, plan.classes, plan.rows, plan.columns)
    return pl.BlockSpec(shape, lambda *i: (*i[:-2], 0, *i[-2:]))


def _of_image(plan: Plan, count: int, shared: tuple[int, ...] = ()) -> pl.BlockSpec:
    """The numbers ``[*lead, count, *ones]`` of an image; one for all along the ``shared`` axes."""
    lead = len(plan.space) - 2

    def index(*i: Any) -> tuple[Any, ...]:
        return (*(0 if a in shared else i[a] for a in range(lead)), 0, 0, 0, 0)

    return pl.BlockSpec((*(None for _ in range(lead)), count, *plan.ones), index)


def _specs(plan: Plan) -> list[pl.BlockSpec]:
    """The blocks of ``_arrays``."""
    lead = tuple(None for _ in plan.space[:-2])
    row, tile = pl.BlockSpec((*lead, plan.rows, plan.columns), lambda *i: i), _tile(plan)
    each = {"": [], "pixels": [row], "classes": [tile]}
    count = sum(plan.given)
    constants = pl.BlockSpec((count, *plan.ones), lambda *_: (0, 0, 0, 0))
    return [
        tile,
        tile if plan.dense else row,
        *each[plan.where],
        *each[plan.weights],
        *(tile for _ in range(plan.maps)),
        *([constants] if count else []),
    ]


def _tiled(plan: Plan, x: Array) -> Array:
    """An array ``[*map, C]`` with the class axis where the tiles have it."""
    return jnp.moveaxis(x.reshape(*plan.space, plan.classes), -1, plan.class_axis)


def _arrays(plan: Plan, inputs: Inputs) -> list[Array]:
    """What the kernel reads. A TPU's memory holds no bools and few types of integers."""

    def numbers(x: Array) -> Array:
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.int32)

    labels = numbers(inputs.labels)
    labels = _tiled(plan, labels) if plan.dense else labels.reshape(plan.space)
    arrays = [_tiled(plan, inputs.scores), labels]
    for kind, x in ((plan.where, inputs.where), (plan.weights, inputs.weights)):
        if x is not None:
            x = numbers(x)
            arrays.append(_tiled(plan, x) if kind == "classes" else x.reshape(plan.space))
    arrays += [_tiled(plan, x) for x in inputs.maps]
    given = [x.astype(jnp.float32) for x in inputs.constants if x is not None]
    if given:
        rows = [jnp.broadcast_to(x, plan.classes).reshape(plan.ones) for x in given]
        arrays.append(jnp.stack(rows))
    return arrays


# ---------------------------------------------------------------------------------- the kernels


class Tile(NamedTuple):
    """A program's numbers; three axes, of which one is the classes."""

    scores: Array
    truth: Array
    counted: Array  # False for masked pixels, and outside the map; of one class, or of each
    weights: Array | None
    others: tuple[Array | None, ...]  # maps, then constants


def _forward_kernel(plan: Plan, *refs: Ref) -> None:
    *inputs, sums_ref = refs
    tile = _load(plan, *inputs)
    last = len(plan.grid) - 1

    @pl.when((pl.program_id(last - 1) == 0) & (pl.program_id(last) == 0))
    def _() -> None:
        sums_ref[...] = jnp.zeros_like(sums_ref)

    values = _values(plan, tile, activate(tile.scores, plan.what.activation, plan.class_axis))
    for k, value in enumerate(jax.tree.leaves(values)):
        sums_ref[k] += value.sum(plan.pixel_axes, keepdims=True)


def _backward_kernel(plan: Plan, cotangents_ref: Ref, *refs: Ref) -> None:
    *inputs, gradient_ref = refs
    tile = _load(plan, *inputs)
    probs = activate(tile.scores, plan.what.activation, plan.class_axis)
    values, pull = jax.vjp(partial(_values, plan, tile), probs)
    leaves, tree = jax.tree.flatten(values)
    parts = [jnp.broadcast_to(cotangents_ref[k], x.shape) for k, x in enumerate(leaves)]
    (change,) = pull(jax.tree.unflatten(tree, parts))
    sum_classes = partial(jnp.sum, axis=plan.class_axis, keepdims=True)
    gradient = pull_back(change, probs, plan.what.activation, plan.class_axis, sum_classes)
    gradient_ref[...] = jnp.where(tile.counted, gradient, 0).astype(gradient_ref.dtype)


def _load(plan: Plan, scores_ref: Ref, labels_ref: Ref, *refs: Ref) -> Tile:
    """The tile that this program sums; its masked pixels are 0."""
    where_refs, refs = refs[: bool(plan.where)], refs[bool(plan.where) :]
    weights_refs, refs = refs[: bool(plan.weights)], refs[bool(plan.weights) :]
    map_refs, constants_refs = refs[: plan.maps], refs[plan.maps :]

    def of_pixels(x: Array) -> Array:
        return jnp.expand_dims(x, plan.class_axis)

    def inside(axis: int, size: int) -> Array:
        first = pl.program_id(len(plan.grid) + axis) * size
        numbers = lax.broadcasted_iota(jnp.int32, (plan.rows, plan.columns), 2 + axis)
        return first + numbers < plan.space[axis]

    is_counted = inside(-2, plan.rows) & inside(-1, plan.columns)
    if plan.where == "pixels":
        is_counted &= where_refs[0][...] != 0
    counted = of_pixels(is_counted.astype(jnp.int32))
    if plan.where == "classes":
        counted = counted * where_refs[0][...]
    counted = counted != 0

    def load(ref: Ref, kind: str = "classes") -> Array:
        x = ref[...].astype(jnp.float32)
        return jnp.where(counted, x if kind == "classes" else of_pixels(x), 0)

    scores = load(scores_ref)
    if jnp.issubdtype(labels_ref.dtype, jnp.floating):
        truth = load(labels_ref)
    elif plan.dense:
        truth = (labels_ref[...] != 0) & counted
    else:
        classes = lax.broadcasted_iota(jnp.int32, scores.shape, 3 + plan.class_axis)
        first = 1 if plan.classes == 1 else 0  # of a mask, id 1 is the class
        truth = (first + classes == of_pixels(labels_ref[...])) & counted
    numbers = iter(range(sum(plan.given)))
    constants = (constants_refs[0][next(numbers)] if given else None for given in plan.given)
    maps = (load(ref) for ref in map_refs)
    weights = load(weights_refs[0], plan.weights) if plan.weights else None
    return Tile(scores, truth, counted, weights, (*maps, *constants))


def _values(plan: Plan, tile: Tile, probs: Probs) -> Sums:
    """What each pixel adds to the sums, 0 where masked."""
    labels = tile.truth.astype(jnp.float32).sum(plan.class_axis, keepdims=True)
    pixel = Pixel(*probs, tile.truth, jnp.broadcast_to(labels, tile.truth.shape))
    values = plan.what.terms(pixel, *tile.others)
    if tile.weights is not None:
        values = jax.tree.map(lambda x: tile.weights * x, values)
    return jax.tree.map(lambda x: jnp.where(tile.counted, x, 0), values)
