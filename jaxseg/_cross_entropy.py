"""The cross-entropy of each pixel under a softmax, whose labels are ids.

Its derivative stands in closed form, so that JAX differentiates it in every mode, and a gradient
needs the logits and two numbers per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from jaxseg._activations import LEAST, Names
from jaxseg._checks import at_least_float32
from jaxseg._kernels.forms import class_kernel
from jaxseg._labels import membership
from jaxseg._sharding import Cut, on_shards, placed_as

Forms = dict[str, Callable[..., tuple[Array, Array]]]

# Up to here a loop over the pixels reads each class once, as an array of its own.
FEW_CLASSES = 32


@jax.custom_jvp
def neg_log_p_of_class(logits: Array, ids: Array) -> tuple[Array, Array]:
    """``-log p`` of one class of each pixel, and the logit of this class.

    Args:
      logits: ``[*map, C]``.
      ids: which class, integers of at most 32 bits ``[*map]``. Where an id is outside [0, C), both
        results are 0, whatever the pixel holds.
    """
    classes = logits.shape[-1]
    space = " ".join(f"a{i}" for i in range(ids.ndim))

    def local(arrays: tuple[Array, Array], cut: Cut | None) -> tuple[Array, Array]:
        at_once = partial(_of_class, classes, arrays[0].shape[-1])
        if cut is None:
            return at_once(*arrays)
        names = cut.get("class", ())
        if names or classes > FEW_CLASSES:
            forms: Forms = {"default": partial(at_once, names=names)}
        else:  # a TPU reduces faster over an axis
            forms = {"tpu": at_once, "default": partial(_of_class, classes, 1)}
        kernel = class_kernel()
        is_served = logits.dtype.itemsize <= 4 and arrays[0].size < 2**31  # offsets are int32
        if kernel is not None and not names and is_served:
            forms["cuda"] = kernel
        result: tuple[Array, Array] = lax.platform_dependent(*arrays, **forms)
        return result

    return on_shards(local, (logits, ids), (f"{space} class", space), (space, space))


def _of_class(
    classes: int, width: int, logits: Array, ids: Array, names: Names = ()
) -> tuple[Array, Array]:
    """``neg_log_p_of_class``, from ``width`` of the ``classes`` at a time.

    The mesh axes ``names`` cut the classes.
    """
    x = at_least_float32(logits)
    firsts = range(0, x.shape[-1], width)
    parts = [x[..., first : first + width] for first in firsts]
    top = reduce(jnp.maximum, (part.max(-1) for part in parts))
    top = lax.pmax(top, names) if names else top
    total = reduce(jnp.add, (jnp.exp(part - top[..., None]).sum(-1) for part in parts))
    shift = lax.axis_index(names) * x.shape[-1] if names else 0
    own = reduce(
        jnp.add,
        (
            jnp.where(_is_class(ids, part, first + shift), part, 0).sum(-1)
            for first, part in zip(firsts, parts, strict=True)
        ),
    )
    total, own = (lax.psum(x, names) if names else x for x in (total, own))
    loss = jnp.minimum((top - own) + jnp.log(total), -LEAST)
    loss = jnp.where(_has_class(ids, classes), loss, 0)
    if names:  # ``on_shards`` adds what the devices have, so only one of them has it
        loss, own = (jnp.where(lax.axis_index(names) == 0, x, 0) for x in (loss, own))
    return loss, own


@neg_log_p_of_class.defjvp
def _neg_log_p_of_class_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    loss, own = neg_log_p_of_class(*primals)
    return (loss, own), _change(*primals, loss, own, tangents[0])


# Checkpointed: the probabilities are computed where the gradient is written, and are not kept.
@partial(jax.checkpoint, prevent_cse=False)
def _change(
    logits: Array, ids: Array, loss: Array, own: Array, change: Array
) -> tuple[Array, Array]:
    """The derivative of ``neg_log_p_of_class`` along a ``change`` of the logits."""
    x, change = logits.astype(loss.dtype), change.astype(loss.dtype)
    truth = _is_class(ids, x, 0)
    # A class that a logit of -inf switches off has a constant loss. Nothing is selected by pixel
    # for each class here: on CPU that takes three times as long.
    moves = _has_class(ids, x.shape[-1]) & (loss != -LEAST)
    own, loss = jnp.where(moves, own, 0), jnp.where(moves, loss, jnp.inf)
    x = jnp.where(x < jnp.inf, x, 0)  # a masked pixel may hold anything
    p = jnp.exp((x - own[..., None]) - loss[..., None])
    slope = p - (truth & moves[..., None]).astype(p.dtype)
    return (slope * change).sum(-1), jnp.where(truth, change, 0).sum(-1)


def _has_class(ids: Array, classes: int) -> Array:
    ids = ids.astype(jnp.int32)
    return (ids >= 0) & (ids < classes)


def _is_class(ids: Array, like: Array, first: int | Array) -> Array:
    """Whether the pixel's class is each of those of ``like``, whose first one is given."""
    spec = jax.typeof(like).sharding.spec
    truth = membership(placed_as(ids, P(*spec[:-1])), like.shape[-1], first=first)
    return placed_as(truth, spec)
