"""Sums over the pixels of sharded maps, which each device takes of its own part.

XLA partitions what is elementwise, but not a loop over blocks of a map that is cut along another
axis: it would gather the map. Here each device runs the function on the part that it holds,
whichever axes of the map are cut, and only the sums cross devices.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

Arrays = tuple[Array, ...]
Axes = tuple[int, ...]
Spec = tuple[Any, ...]  # for each axis of the map, None or the mesh axes that cut it

# (arrays, axes) -> the sum over these axes of the map: the other ones, then one of its own.
Sum = Callable[[Arrays, Axes], Array]


def sum_in_place(function: Sum, arrays: Arrays, axes: Axes, ndim: int) -> Array:
    """``function(arrays, axes)`` of arrays ``[*map]`` or ``[*map, C]``, the map of ``ndim`` axes.

    The result is an array ``[*rest, K]``. The types of arrays tell how they are cut where the
    mesh's axes are Explicit. Where they are Auto, this is known once XLA partitions the program. In
    the body of a ``shard_map`` a device has its part already.
    """
    shardings = [jax.typeof(x).sharding for x in arrays]
    specs = [_map_spec(sharding.spec, ndim) for sharding in shardings]
    most = max(range(len(arrays)), key=lambda i: len(_names(specs[i], range(ndim))))
    if any(specs[most]):
        return _sum_explicit(function, arrays, axes, shardings[most].mesh, specs[most])
    if jax.device_count() == 1 or any(AxisType.Manual in s.mesh.axis_types for s in shardings):
        return function(arrays, axes)
    return _sum_auto(function, arrays, axes, ndim)


def _sum_explicit(function: Sum, arrays: Arrays, axes: Axes, mesh: Any, spec: Spec) -> Array:
    with jax.sharding.use_abstract_mesh(mesh):
        of_parts = jax.shard_map(
            _of_part(function, spec, axes),
            in_specs=P(*spec),
            out_specs=_spec_of_rest(spec, axes),
            axis_names=set(_names(spec, range(len(spec)))),
            check_vma=False,  # with the check, JAX 0.8.3 has no vmap of psum
        )
        return of_parts(*(jax.sharding.reshard(x, P(*spec)) for x in arrays))


def _sum_auto(function: Sum, arrays: Arrays, axes: Axes, ndim: int) -> Array:
    @custom_partitioning
    def whole(*arrays: Array) -> Array:
        return function(arrays, axes)

    def partition(mesh: Any, given: Any, _: Any) -> Any:
        spec = _even(_map_spec(given[0].sharding.spec, ndim), given[0].shape, mesh)
        cut, rest = (NamedSharding(mesh, s) for s in (P(*spec), _spec_of_rest(spec, axes)))
        return mesh, _of_part(function, spec, axes), rest, (cut,) * len(given)

    names = string.ascii_letters[:ndim]
    kept = [name for a, name in enumerate(names) if a not in axes]
    # As Shardy's rules are written: arrays that share a name are cut alike along that axis.
    inputs = (" ".join([*names, f"classes_{i}"][: x.ndim]) for i, x in enumerate(arrays))
    whole.def_partition(
        partition, sharding_rule=f"{', '.join(inputs)} -> {' '.join([*kept, 'sums'])}"
    )

    @jax.custom_batching.custom_vmap  # custom_partitioning has no rule for vmap
    def run(*arrays: Array) -> Array:
        return whole(*arrays)

    @run.def_vmap
    def batch(size: int, batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
        arrays = tuple(
            x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_batched in zip(arrays, batched, strict=True)
        )
        return _sum_auto(function, arrays, tuple(a + 1 for a in axes), ndim + 1), True

    return run(*arrays)


def psum_each(sums: Any, axis_name: Any) -> Any:
    """``lax.psum`` of each leaf by itself.

    JAX 0.8.0 cannot transpose that of several leaves if one of them has no derivative.
    """
    return jax.tree.map(lambda x: lax.psum(x, axis_name), sums)


def _map_spec(spec: Spec, ndim: int) -> Spec:
    return (*spec, *(None for _ in range(ndim)))[:ndim]


def _even(spec: Spec, shape: tuple[int, ...], mesh: Any) -> Spec:
    """The spec without the axes that it does not cut evenly: XLA would fill up the last part."""
    return tuple(
        names if size % math.prod(mesh.shape[n] for n in _tuple(names)) == 0 else None
        for size, names in zip(shape, spec)
    )


def _spec_of_rest(spec: Spec, axes: Axes) -> P:
    return P(*(names for a, names in enumerate(spec) if a not in axes), None)


def _of_part(function: Sum, spec: Spec, axes: Axes) -> Callable[..., Array]:
    """The function on a device: of its part, and summed over the devices that share ``axes``."""
    names = _names(spec, axes)

    def of_part(*parts: Array) -> Array:
        sums = function(parts, axes)
        return lax.psum(sums, names) if names else sums

    return of_part


def _names(spec: Spec, axes: Any) -> tuple[Any, ...]:
    """The mesh axes that cut these axes of the map."""
    return tuple(name for a in axes for name in _tuple(spec[a]))


def _tuple(names: Any) -> tuple[Any, ...]:
    return () if names is None else names if isinstance(names, tuple) else (names,)
