"""Sums over sharded maps: each device sums the shards it holds, and only the sums are sent.

XLA partitions elementwise operations. It does not partition a kernel, and for a loop over blocks it
gathers the map if the mesh cuts another axis than the loop's. So the functions that sum over pixels
run here on each device by itself, whichever axes of the map the mesh cuts. (On TPUs with Auto axes,
where JAX cannot do this, they use no kernels and no loops.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import jax
from jax import Array, lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg._checks import AxisName

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
Arrays = tuple[Array, ...]
Axes = str  # "a b c": one name per axis of an array; _ for an axis that is never cut
Cut = dict[str, tuple[str, ...]]  # from the name of an axis to the mesh axes that cut it
Local = Callable[[Arrays, Cut | None], Arrays]


class ShardedShape(Protocol):
    """What XLA's partitioner tells about an array."""

    shape: tuple[int, ...]
    sharding: NamedSharding


def on_shards(
    function: Callable[[A, Cut | None], R], arrays: A, axes: object, result_axes: object
) -> R:
    """Compute ``function(arrays, {})``, on each device from the shards that it holds.

    Args:
      function: takes a pytree of shards and a ``Cut``; or whole arrays and None, and then uses
        operations alone that XLA partitions by itself.
      arrays: a pytree of arrays.
      axes: the same pytree, of ``Axes``. Axes of the same name are cut alike.
      result_axes: the pytree of the result, of ``Axes``. A result that lacks an axis that is cut is
        a sum over that axis, so it is summed over the devices too.

    On a mesh of Explicit axes, the types of the arrays tell how they are cut. On a mesh of Auto
    axes, this is known when XLA partitions the program. In the body of a ``shard_map``, each device
    has its shard already.
    """
    leaves, treedef = jax.tree.flatten(arrays)
    given, results = jax.tree.leaves(axes), jax.tree.leaves(result_axes)

    def local(leaves: Arrays, cut: Cut | None) -> Arrays:
        return tuple(jax.tree.leaves(function(jax.tree.unflatten(treedef, leaves), cut)))

    summed = _leaves_on_shards(local, tuple(leaves), given, results)
    result: R = jax.tree.unflatten(jax.tree.structure(result_axes), summed)
    return result


def _leaves_on_shards(
    local: Local, arrays: Arrays, axes: Sequence[Axes], result_axes: Sequence[Axes]
) -> Arrays:
    shardings = [jax.typeof(x).sharding for x in arrays]
    types = [t for sharding in shardings for t in sharding.mesh.axis_types]
    explicit = [s.mesh for s in shardings if any(name is not None for name in s.spec)]
    alone = jax.device_count() == 1
    if (alone and AxisType.Explicit not in types) or set(types) == {AxisType.Manual}:
        return local(arrays, {})

    @jax.custom_batching.custom_vmap  # so that a batch axis is known, which a mesh may cut
    def run(*arrays: Array) -> Arrays:
        if explicit:
            cut = _cut(axes, [sharding.spec for sharding in shardings])
            return _on_explicit_mesh(local, arrays, axes, result_axes, explicit[0], cut)
        if alone or AxisType.Manual in types or (types and AxisType.Auto not in types):
            return local(arrays, {})
        return _on_auto_mesh(local, arrays, axes, result_axes)

    @run.def_vmap
    def batch(_: int, batched: list[bool], *arrays: Array) -> tuple[Arrays, tuple[bool, ...]]:
        def batched_local(arrays: Arrays, cut: Cut | None) -> Arrays:
            in_axes = [0 if is_batched else None for is_batched in batched]
            return jax.vmap(lambda *arrays: local(arrays, cut), in_axes)(*arrays)

        names = [name for each in axes for name in each.split() if name != "_"]
        name = f"{max(names, default='')}v"  # no other axis has it
        mapped_axes = [
            f"{name} {each}" if is_batched else each
            for each, is_batched in zip(axes, batched, strict=True)
        ]
        results = [f"{name} {each}" for each in result_axes]
        sums = _leaves_on_shards(batched_local, arrays, mapped_axes, results)
        return sums, (True,) * len(results)

    return run(*arrays)


def placed_as(x: Array, spec: P) -> Array:
    """Reshard ``x`` as ``spec`` says, if it is on an Explicit mesh."""
    sharding = jax.typeof(x).sharding
    if sharding.mesh.empty or sharding.spec == spec:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))


def uncut(x: Array, axes: Sequence[int]) -> Array:
    """Gather ``x`` along these axes, if an Explicit mesh cuts them."""
    spec = jax.typeof(x).sharding.spec
    return placed_as(x, P(*(None if a in axes else names for a, names in enumerate(spec))))


def _on_explicit_mesh(
    local: Local,
    arrays: Arrays,
    axes: Sequence[Axes],
    result_axes: Sequence[Axes],
    mesh: AbstractMesh,
    cut: Cut,
) -> Arrays:
    specs = tuple(_spec(each, cut) for each in axes)
    with jax.sharding.use_abstract_mesh(mesh):
        placed = tuple(jax.sharding.reshard(x, s) for x, s in zip(arrays, specs, strict=True))
        if not cut:
            return local(placed, {})
        sharded = jax.shard_map(
            _summed_over_devices(local, result_axes, cut),
            in_specs=specs,
            out_specs=tuple(_spec(each, cut) for each in result_axes),
            axis_names={name for names in cut.values() for name in names},
            check_vma=False,  # JAX 0.8.3 cannot vmap a psum with this check
        )
        return sharded(*placed)


def _on_auto_mesh(
    local: Local, arrays: Arrays, axes: Sequence[Axes], result_axes: Sequence[Axes]
) -> Arrays:
    partitioned = custom_partitioning(lambda *arrays: local(arrays, {}))

    def partition(
        mesh: Mesh, shapes: Sequence[ShardedShape], _: object
    ) -> tuple[Mesh, object, object, object]:
        cut = _cut(axes, [x.sharding.spec for x in shapes])
        sizes = {a: n for x, each in zip(shapes, axes) for a, n in zip(each.split(), x.shape)}
        # XLA pads the last shard of an axis that does not divide evenly, so leave such axes whole.
        cut = {a: m for a, m in cut.items() if sizes[a] % math.prod(mesh.shape[n] for n in m) == 0}
        given, results = (
            tuple(NamedSharding(mesh, _spec(names, cut)) for names in each)
            for each in (axes, result_axes)
        )
        return mesh, _summed_over_devices(local, result_axes, cut), results, given

    partitioned.def_partition(partition, sharding_rule=_rule(axes, result_axes))

    # JAX has no custom_partitioning on TPUs (0.10.2, https://github.com/jax-ml/jax/issues/38196;
    # tests/test_device_compilers.py).
    by_xla = lambda *arrays: local(arrays, None)  # noqa: E731
    results: Arrays = lax.platform_dependent(*arrays, tpu=by_xla, default=partitioned)
    return results


def _summed_over_devices(
    local: Local, result_axes: Sequence[Axes], cut: Cut
) -> Callable[..., Arrays]:
    """Apply ``local`` to one device's shards, then psum each result over the axes that it lacks."""

    def on_device(*shards: Array) -> Arrays:
        results = []
        for x, each in zip(local(shards, cut), result_axes, strict=True):
            over = tuple(name for a, m in cut.items() if a not in each.split() for name in m)
            results.append(lax.psum(x, over) if over else x)
        return tuple(results)

    return on_device


def psum_each(sums: T, axis_name: AxisName) -> T:
    """Apply ``lax.psum`` to each leaf separately.

    JAX 0.8.0 cannot transpose a psum of several leaves if one of them has no derivative: the laws
    of a data-parallel step in tests/test_laws.py fail.
    """
    return jax.tree.map(lambda x: lax.psum(x, axis_name), sums)


def _cut(axes: Sequence[Axes], specs: Sequence[P]) -> Cut:
    """How to cut each axis: the array that is cut along the most axes decides first."""
    cut: Cut = {}
    named = [
        {a: m if isinstance(m, tuple) else (m,) for a, m in zip(each.split(), spec) if m}
        for each, spec in zip(axes, specs, strict=True)
    ]
    for each in sorted(named, key=len, reverse=True):
        for a, mesh_axes in each.items():
            taken = {name for other in cut.values() for name in other}
            if a != "_" and a not in cut and not taken & set(mesh_axes):
                cut[a] = mesh_axes
    return cut


def _spec(names: Axes, cut: Cut) -> P:
    return P(*(cut.get(a) for a in names.split()))


def _rule(axes: Sequence[Axes], result_axes: Sequence[Axes]) -> str:
    """The axes as a Shardy rule, in which each axis that is never cut has a name of its own."""

    def words(side: str, each: Sequence[Axes]) -> str:
        return ", ".join(
            " ".join(f"{side}{i}_{j}" if a == "_" else a for j, a in enumerate(names.split()))
            for i, names in enumerate(each)
        )

    return f"{words('given', axes)} -> {words('result', result_axes)}"
