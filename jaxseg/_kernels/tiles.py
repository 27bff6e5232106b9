"""What the kernels for GPUs and TPUs share: tiles of a map whose last axis is cut."""

from __future__ import annotations

import math
from itertools import groupby

import jax
from jax import Array
from jax.typing import DTypeLike

from jaxseg._activations import Names
from jaxseg._kernels.plain import Inputs, PixelSum, Sums

FEWEST_PIXELS = 16  # of a row of summed pixels; below, most of a tile would be empty


def merged(
    space: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The lengths of a map whose neighbouring axes are merged, and whether each is summed.

    Neighbours are merged if all or none of them are summed.
    """
    groups = [(bool(s), list(group)) for s, group in groupby(range(len(space)), axes.count)]
    lengths = tuple(math.prod(space[a] for a in group) for _, group in groups)
    return lengths, tuple(is_summed for is_summed, _ in groups)


def are_served(what: PixelSum, names: Names, inputs: Inputs) -> bool:
    """Whether a kernel that cuts the last axis of the merged map can compute these sums."""
    lengths, summed = merged(inputs.scores.shape[:-1], what.axes)
    return (
        not names  # no device has all classes
        and not inputs.head
        and not what.mixes_classes
        and inputs.scores.dtype.itemsize <= 4
        and all(x.ndim < 2 for x in inputs.constants if x is not None)
        and summed[-1:] == (True,)
        and lengths[-1] >= FEWEST_PIXELS
        and 0 < inputs.scores.size < 2**31  # offsets are int32
    )


def kind_of(x: Array | None, inputs: Inputs) -> str:
    """Whether where or weights are given, and of "pixels" or of "classes": "" if not given."""
    if x is None:
        return ""
    return "classes" if x.ndim == inputs.scores.ndim else "pixels"


def result(shape: tuple[int, ...], dtype: DTypeLike, like: Array) -> jax.ShapeDtypeStruct:
    """A kernel's result, which varies over the devices of a ``shard_map`` as ``like`` does."""
    kind = jax.typeof(like)
    name = "vma" if hasattr(kind, "vma") else "manual_axis_type"  # its name before JAX 0.10
    return jax.ShapeDtypeStruct(shape, dtype, **{name: getattr(kind, name)})


def split_sums(stacked: Array, shapes: Sums) -> Sums:
    """The pytree of sums of these shapes, from their stack ``[*batch_axes, count, C]``."""
    leaves, tree = jax.tree.flatten(shapes)
    sums = (stacked[..., k, :].reshape(x.shape) for k, x in enumerate(leaves))
    return jax.tree.unflatten(tree, sums)
