"""The form for CPUs: a loop over blocks that stay in the caches, for any terms.

The plain form and its derivative keep several arrays as large as the logits. Here a loop reads
blocks of pixels. The backward pass differentiates the terms in each block and writes the gradient
in place, so that the temporaries are a few blocks. The forward pass leaves the probabilities in the
memory that the gradient will take, so that they are not computed again.

XLA would compute an exponential, or swap the axes of a block, once for each use. Barriers stop it
(seen on JAX 0.10 and 0.11; without them the rows of Dice + CE in tests/benchmarks take up to three
times as long).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxseg._activations import LEAST, Names, Probs, pull_back, sigmoid_of
from jaxseg._checks import at_least_float32
from jaxseg._kernels.blocks import (
    At,
    Blocks,
    cores,
    empty_like,
    finish,
    read,
    read_classes,
    write,
)
from jaxseg._kernels.plain import (
    Gradients,
    GradientsOf,
    Inputs,
    PixelSum,
    Sums,
    contributions,
    logits,
    zero_like,
)
from jaxseg._labels import masked
from jaxseg._numerics import fence

Constants = tuple[Array | None, ...]

# Up to this many classes, a CPU's vectors are filled along the pixels, not along the classes.
ONE_CORE_PIXELS_LAST = 16
PIXELS_LAST = 8


def forward(what: PixelSum, names: Names, keeps: bool, inputs: Inputs) -> tuple[Sums, Array | None]:
    """The sums, and the probabilities as a residual like the scores, if it ``keeps`` one."""
    blocks, class_axis = _cut(what, inputs)
    shape, dense = inputs.scores.shape, _with_classes(inputs)
    inputs = _merged(inputs, blocks)

    def block_sums(block: Inputs) -> tuple[Sums, Probs]:
        probs = _activate(_logits(block, class_axis), what.activation, class_axis, names)
        return _sums(what, blocks, block, probs, class_axis, names), probs

    def step(at: At, carry: tuple[Sums, Array | None]) -> tuple[Sums, Array | None]:
        sums, kept = carry
        parts, probs = block_sums(_block(inputs, at, class_axis, dense))
        sums = jax.tree.map(lambda x, part: blocks.add_sums(x, part, at), sums, parts)
        if kept is not None:
            kept = write(kept, _swapped(probs.p, class_axis), at, inputs.scores.shape)
        return sums, kept

    zero = zero_like(inputs)
    first = At(tuple(0 for _ in blocks.sizes), blocks.sizes)
    shapes = jax.eval_shape(lambda x: block_sums(_block(x, first, class_axis, dense))[0], inputs)
    sums = jax.tree.map(lambda x: blocks.full_sums(zero.astype(x.dtype), x.shape[-1]), shapes)
    sums, kept = blocks.loop(step, (sums, empty_like(inputs.scores) if keeps else None))
    return jax.tree.map(blocks.unmerge_sums, sums), None if kept is None else kept.reshape(shape)


def backward(
    what: PixelSum, names: Names, kept: Array | None, inputs: Inputs, cotangents: Sums
) -> Gradients:
    """The gradients of the inputs, from the cotangents of the sums."""
    blocks, class_axis = _cut(what, inputs)
    given, dense = inputs, _with_classes(inputs)
    inputs = _merged(inputs, blocks)
    # The gradients of these are sums over the blocks, which half precision would round.
    params = (inputs.head, inputs.constants)
    head, constants = jax.tree.map(at_least_float32, params)
    inputs = inputs._replace(head=head, constants=constants)
    cotangents = jax.tree.map(blocks.merge_sums, cotangents)
    is_soft = jnp.issubdtype(given.labels.dtype, jnp.floating)

    def block_gradients(at: At, p: Array | None) -> Gradients:
        block = _block(inputs, at, class_axis, dense)
        x, pull_logits = jax.vjp(
            lambda scores, head: _logits(block._replace(scores=scores, head=head), class_axis),
            block.scores,
            block.head,
        )
        probs = _activate(x, what.activation, class_axis, names)
        if p is not None and not names:
            probs = _with_known(p, x, probs, what.activation, class_axis)

        def sums(probs: Probs, labels: Array | None, constants: Constants) -> Sums:
            labels = block.labels if labels is None else labels
            changed = block._replace(labels=labels, constants=constants)
            return _sums(what, blocks, changed, probs, class_axis, names)

        soft = block.labels if is_soft else None
        _, pull_sums = jax.vjp(sums, probs, soft, block.constants)
        parts = jax.tree.map(lambda x: blocks.read_sums(x, at), cotangents)
        d_probs, d_labels, d_constants = pull_sums(parts)
        sum_classes = lambda x: _sum_classes(x, class_axis, names)  # noqa: E731
        d_x = pull_back(d_probs, probs, what.activation, class_axis, sum_classes)
        d_scores, d_head = pull_logits(d_x)
        d_labels = None if d_labels is None else _swapped(d_labels, class_axis)
        return GradientsOf(d_scores, d_labels, d_head, d_constants)

    def step(at: At, carry: Gradients) -> Gradients:
        p = None
        if kept is not None:  # the fence copies the block, or XLA would copy the whole array
            probs = carry.scores.reshape(inputs.scores.shape)
            p = _swapped(fence(read_classes(probs, at)), class_axis)
        parts = block_gradients(at, p)
        return GradientsOf(
            write(carry.scores, parts.scores, at, inputs.scores.shape),
            None,
            *jax.tree.map(jnp.add, carry[2:], parts[2:]),
        )

    def labels_step(at: At, labels: Array) -> Array:
        part = block_gradients(at, None).labels
        assert part is not None
        return write(labels, part, at, inputs.labels.shape)

    zero = zero_like(inputs)
    start = GradientsOf(
        empty_like(inputs.scores) if kept is None else kept.ravel(),
        None,
        *jax.tree.map(
            lambda x: jnp.broadcast_to(zero.astype(x.dtype), x.shape),
            (inputs.head, inputs.constants),
        ),
    )
    gradients = blocks.loop(step, start)
    labels = None
    if is_soft:
        # XLA removes this loop if nothing reads its result. In the loop above, it would copy the
        # whole residual for every block (seen on JAX 0.10; tests/test_pixel_sums.py).
        labels = blocks.loop(labels_step, empty_like(inputs.labels))
        labels = finish(labels, given.labels.shape)
    return GradientsOf(
        finish(gradients.scores, given.scores.shape),
        labels,
        *jax.tree.map(lambda x, like: x.astype(like.dtype), gradients[2:], params),
    )


# ---------------------------------------------------------------------------------- blocks


def _cut(what: PixelSum, inputs: Inputs) -> tuple[Blocks, int]:
    """How the map is cut, and which axis of a block is the class axis."""
    *space, width = inputs.scores.shape
    kernel = inputs.head[0] if inputs.head else None
    classes = width if kernel is None else kernel.shape[-1]
    limit = ONE_CORE_PIXELS_LAST if cores() == 1 else PIXELS_LAST
    pixels_last = classes <= limit and not what.mixes_classes and bool(space)
    widest = max(width, classes)
    blocks = Blocks.of(tuple(space), what.axes, widest, pixels_last=pixels_last)
    return blocks, -2 if pixels_last else -1


def _merged(inputs: Inputs, blocks: Blocks) -> Inputs:
    """The inputs with merged axes."""
    return inputs._replace(
        scores=blocks.merge(inputs.scores),
        labels=blocks.merge(inputs.labels),
        where=None if inputs.where is None else blocks.merge(inputs.where),
        maps=tuple(blocks.merge(x) for x in inputs.maps),
        weights=None if inputs.weights is None else blocks.merge(inputs.weights),
    )


def _with_classes(inputs: Inputs) -> tuple[str, ...]:
    """Which of the arrays that may have a class axis have one."""
    named = {"labels": inputs.labels, "where": inputs.where, "weights": inputs.weights}
    ndim = inputs.scores.ndim
    return tuple(name for name, x in named.items() if x is not None and x.ndim == ndim)


def _block(inputs: Inputs, at: At, class_axis: int, dense: tuple[str, ...]) -> Inputs:
    """Read a block of each array; the class axis, but that of scores, is moved to ``class_axis``.

    ``dense`` names those of labels, where and weights that have a class axis.
    """

    def with_classes(x: Array) -> Array:
        return _swapped(read_classes(x, at), class_axis)

    def of_pixels(name: str, x: Array) -> Array:
        return with_classes(x) if name in dense else read(x, at)

    return inputs._replace(
        scores=read_classes(inputs.scores, at),
        labels=of_pixels("labels", inputs.labels),
        where=None if inputs.where is None else of_pixels("where", inputs.where),
        maps=tuple(with_classes(x) for x in inputs.maps),
        weights=None if inputs.weights is None else of_pixels("weights", inputs.weights),
    )


def _swapped(x: Array, class_axis: int) -> Array:
    """Move the class axis of a block from the end to ``class_axis``, or back."""
    return fence(jnp.swapaxes(x, -1, -2)) if class_axis == -2 else x


def _logits(block: Inputs, class_axis: int) -> Array:
    if block.where is not None and block.where.ndim == block.scores.ndim:
        x = _swapped(logits(block.scores, block.head, None), class_axis)
        return masked(x, block.where)
    return _swapped(logits(block.scores, block.head, block.where), class_axis)


def _sums(
    what: PixelSum, blocks: Blocks, block: Inputs, probs: Probs, class_axis: int, names: Names
) -> Sums:
    values = contributions(what, block, probs, class_axis, names)
    return jax.tree.map(lambda x: blocks.sum(x, class_axis), values)


# ---------------------------------------------------------------------------------- probabilities


def _activate(x: Array, activation: str | None, class_axis: int, names: Names) -> Probs:
    """``activate``, with barriers around values that are used several times."""
    if activation == "softmax":
        top = x.max(class_axis, keepdims=True)
        top = fence(lax.pmax(top, names) if names else top)
        exp = fence(jnp.exp(x - top))
        total = _sum_classes(exp, class_axis, names)
        p = exp * fence(1 / total)
        log_p = jnp.maximum(x - fence(top + jnp.log(total)), LEAST)
        return Probs(log_p, p, jnp.log1p(-p), 1 - p)
    if activation == "two classes":
        x = jnp.concatenate([-x, x], class_axis)
    return sigmoid_of(x, fence)


def _with_known(p: Array, x: Array, probs: Probs, activation: str | None, class_axis: int) -> Probs:
    """The ``probs`` of logits x, with a known p; XLA drops what is then not needed."""
    if activation == "sigmoid":
        return probs._replace(p=p, q=1 - p)
    # log p - x is the same for all classes. The largest p cannot be 0, so its log is finite.
    shift = jnp.log(p.max(class_axis, keepdims=True)) - x.max(class_axis, keepdims=True)
    return Probs(jnp.maximum(x + fence(shift), LEAST), p, jnp.log1p(-p), 1 - p)


def _sum_classes(x: Array, class_axis: int, names: Names) -> Array:
    """Sum over the classes; if they are the last axis, as a product with ones, which vectorises."""
    if class_axis == -2:
        total = x.sum(-2, keepdims=True)
    else:
        ones = jnp.ones(x.shape[-1], x.dtype)
        total = jnp.einsum("...c,c->...", x, ones, precision="highest")[..., None]
    return fence(lax.psum(total, names) if names else total)
