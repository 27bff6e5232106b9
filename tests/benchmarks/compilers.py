"""Programs made by the compilers of GPUs and TPUs, where there is no such device.

XLA compiles for a GPU that it is told the numbers of, and libtpu for a topology that it is told the
name of. Such a program cannot be run, but it can be read: its temporaries, what its kernels read
and write, how many kernels there are, and what devices send to each other.
"""

import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding


class Card(NamedTuple):
    """What XLA asks of a GPU, from its data sheet."""

    name: str
    bandwidth: int  # bytes a second
    memory: int  # bytes


CARDS = {
    "h200": Card("NVIDIA H200 141GB HBM3e", 4_800_000_000_000, 151_397_597_184),
    "h100": Card("NVIDIA H100 80GB HBM3", 3_352_320_000_000, 84_942_979_072),
}
DEVICES = (*CARDS, "tpu")

# Both cards are GPUs of the Hopper generation.
MULTIPROCESSORS = 132
HOPPER: dict[str, int] = {
    "core_count": MULTIPROCESSORS,
    "fpus_per_core": 128,
    "threads_per_warp": 32,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "registers_per_block_limit": 2**16,
    "registers_per_core_limit": 2**16,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "shared_memory_per_core": 228 * 1024,
    "l2_cache_size": 50 * 2**20,
}

# A TPU v5e. libtpu reads these in place of asking a machine that has one; several processes may
# load it.
TPU_TOPOLOGY = "v5e:2x2"
TPU_CHIPS = 4
TPU_SETTINGS = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

PLUGINS = {"cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"), "tpu": ("libtpu",)}
INSTALL = {
    "cuda": 'pip install "jax[cuda12]", or, which is enough to compile and smaller,\n'
    "  pip install --no-deps jax-cuda12-plugin=={jax} jax-cuda12-pjrt=={jax} nvidia-cuda-nvcc-cu12",
    "tpu": 'pip install "jax[tpu]"',
}
PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "optax")


class MissingCompiler(Exception):
    """The compiler for a device is not installed; the message says what to install."""


# ---------------------------------------------------------------------------------- compiling


def platform_of(device: str) -> str:
    return "cuda" if device in CARDS else "tpu"


def require(device: str) -> None:
    """Raise ``MissingCompiler`` unless a small function can be compiled for ``device``."""
    platform = platform_of(device)
    how = f"{INSTALL[platform].format(jax=jax.__version__)}\nin an environment of its own."
    if not any(map(find_spec, PLUGINS[platform])):
        raise MissingCompiler(f"There is no compiler for {device} here. It comes with\n  {how}")
    try:
        compile_for(device, jnp.negative, jax.ShapeDtypeStruct((8, 128), jnp.float32))
    except Exception as error:  # of many kinds
        reason = str(error).strip().splitlines()[0]
        message = f"The compiler for {device} does not work: {reason}. It comes with\n  {how}"
        raise MissingCompiler(message) from error


def devices(device: str, count: int = 1) -> list[Any]:
    """Devices to compile for; a TPU has one chip, or four."""
    if device == "tpu":
        for name, value in TPU_SETTINGS.items():
            os.environ.setdefault(name, value)
        topology = topologies.get_topology_desc(TPU_TOPOLOGY, "tpu")
    else:
        topology = topologies.get_topology_desc(
            device, "cuda", topology=f"1 x 1 x {count}", target_config=target(CARDS[device])
        )
    return list(topology.devices[:count])


def target(card: Card) -> str:
    """XLA's description of a card."""
    numbers = HOPPER | {
        "memory_bandwidth": card.bandwidth,
        "device_memory_size": card.memory,
    }
    lines = "\n".join(f"{name}: {number}" for name, number in numbers.items())
    return f"""
    platform_name: "CUDA"
    device_description_str: "{card.name}"
    dnn_version_info {{ major: 9 minor: 10 }}
    gpu_device_info {{
      cuda_compute_capability {{ major: 9 }}
      clock_rate_ghz: 1.98
      {lines}
    }}
    """


def mesh_of(
    device: str, shape: Sequence[int], names: Sequence[str], axis_type: jax.sharding.AxisType
) -> Mesh:
    """A mesh of several devices to compile for."""
    each = np.array(devices(device, math.prod(shape)), object).reshape(shape)
    return Mesh(each, tuple(names), axis_types=(axis_type,) * len(names))


def compile_for(
    device: str,
    function: Callable[..., Any],
    *specs: Any,
    mesh: Mesh | None = None,
    partitions: Sequence[PartitionSpec] = (),
    kernels: bool = True,
) -> Any:
    """``function`` compiled for one device, or for a mesh with a partition of each argument.

    ``specs`` are pytrees of ``jax.ShapeDtypeStruct``. Without ``kernels`` jaxseg's are turned off,
    and with them also those that are not on by default.
    """
    if mesh is None:
        placements: Sequence[Any] = [SingleDeviceSharding(devices(device)[0])] * len(specs)
    else:
        placements = [NamedSharding(mesh, partition) for partition in partitions]
    placed = [
        jax.tree.map(lambda x, to=to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), spec)
        for spec, to in zip(specs, placements, strict=True)
    ]
    settings = (
        {"JAXSEG_KERNELS": "1", "JAXSEG_TPU_KERNELS": "1"} if kernels else {"JAXSEG_KERNELS": "0"}
    )
    count = mesh.size if mesh else 1
    # jaxseg asks how many devices there are.
    with environment(**settings), described(device, mesh), patch("jax.device_count", lambda: count):
        jax.clear_caches()  # of functions that were traced with other settings
        traced = jax.jit(function).trace(*placed)
        compiled = traced.lower(lowering_platforms=(platform_of(device),)).compile()
    jax.clear_caches()
    return compiled


@contextlib.contextmanager
def environment(**settings: str) -> Iterator[None]:
    """Environment variables that are set for a while."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def described(device: str, mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """The context that tells a kernel which card it is lowered for; JAX asks from 0.11 on."""
    if device not in CARDS or jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    card = jax.sharding.AbstractDevice(CARDS[device].name, MULTIPROCESSORS, "gpu")
    shape, names = (mesh.devices.shape, mesh.axis_names) if mesh else ((1,), ("device",))
    types = mesh.axis_types if mesh else None
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh(shape, names, axis_types=types, abstract_device=card)
    )


def versions() -> dict[str, str]:
    """Versions of what compiles, as far as it is installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


# ---------------------------------------------------------------------------------- reading


class Program(NamedTuple):
    """What a compiled program needs, on one of its devices."""

    temporaries: int  # bytes, beside arguments and results
    moved: int  # bytes that its kernels read and write
    kernels: int  # how many are started
    collectives: tuple[str, ...]  # their kinds, one entry for each


def program(compiled: Any) -> Program:
    """The figures of a compiled function."""
    work = work_of(compiled.as_text())
    return Program(compiled.memory_analysis().temp_size_in_bytes, *work)


class Work(NamedTuple):
    """What a computation does."""

    moved: int = 0
    kernels: int = 0
    collectives: tuple[str, ...] = ()

    def plus(self, other: "Work") -> "Work":
        return Work(
            self.moved + other.moved,
            self.kernels + other.kernels,
            self.collectives + other.collectives,
        )

    def times(self, count: int) -> "Work":
        return Work(count * self.moved, count * self.kernels, count * self.collectives)


class Instruction(NamedTuple):
    """A line of XLA's text of a program."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    text: str
    is_root: bool


Computation = dict[str, Instruction]

HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
LINE = re.compile(r"(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z\d\-]*)\((.*)")
ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")

# Names for what is already there.
NO_WORK = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "iota", "partition-id", "replica-id", "add-dependency"),
}
NO_WORK_CALLS = ("ConcatBitcast", "AllocateBuffer")  # custom calls of TPUs
COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"),
    *("collective-broadcast", "ragged-all-to-all"),
)
SLICES = ("slice", "dynamic-slice", "gather")


def work_of(text: str) -> Work:
    """The work of a program, from its text.

    A kernel reads its operands and writes its results, each once. Of an operand that it slices it
    reads the slices, and where it updates a slice in place it writes that. The body of a loop
    counts as often as it runs, once if that is unknown.
    """
    computations, entry = parse(text)
    return computation_work(computations, computations[entry])


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a program by name, and the name of the one that it starts with."""
    computations: dict[str, Computation] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = head[2]
            computations[current] = {}
            entry = current if head[1] else entry
        elif current and (found := LINE.match(line.strip())):
            root, name, shape, opcode, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))
            row = Instruction(name, shape, opcode, operands, rest, bool(root))
            computations[current][name] = row
    return computations, entry


def computation_work(computations: dict[str, Computation], body: Computation) -> Work:
    total = Work()
    for x in body.values():
        called = [computations[name] for name in called_by(x)]
        if x.opcode == "while":
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', x.text)
            inner = computation_work(computations, called[0])
            total = total.plus(inner.times(int(trips[1]) if trips else 1))
        elif x.opcode == "call":
            total = total.plus(computation_work(computations, called[0]))
        elif x.opcode == "conditional":
            branches = (computation_work(computations, branch) for branch in called)
            total = total.plus(max(branches, key=lambda work: work.moved))
        elif x.opcode not in NO_WORK and not any(call in x.text for call in NO_WORK_CALLS):
            total = total.plus(instruction_work(body, x, called))
    return total


def called_by(x: Instruction) -> list[str]:
    """Names of the computations that an instruction runs."""
    key = {"while": "body", "call": "to_apply", "fusion": "calls"}.get(x.opcode)
    if x.opcode == "conditional":
        listed = re.search(r"branch_computations=\{([^}]*)\}", x.text)
        names = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", x.text)
        return re.findall(r"%?([\w.\-]+)", listed[1]) if listed else names
    return re.findall(rf"\b{key}=%?([\w.\-]+)", x.text) if key else []


def instruction_work(body: Computation, x: Instruction, called: list[Computation]) -> Work:
    """The work of one kernel, or of one half of an instruction that has a start and an end."""
    whole = [size_of(body[name].shape) if name in body else 0 for name in x.operands]
    if x.opcode.endswith("-done"):
        return Work(size_of(x.shape))
    kind = x.opcode.removesuffix("-start")
    collectives = (kind,) if kind in COLLECTIVES else ()
    if x.opcode.endswith("-start"):  # its shape also has the operands
        return Work(sum(whole), 1, collectives)
    if x.opcode == "fusion":
        (inside,) = called
        return Work(sum(map(min, reads(inside), whole)) + written(inside, x.shape), 1)
    if x.opcode in SLICES:
        return Work(2 * size_of(x.shape) + sum(whole[1:]), 1)
    if x.opcode == "dynamic-update-slice":
        return Work(2 * whole[1] + sum(whole[2:]), 1)
    return Work(sum(whole) + size_of(x.shape), 1, collectives)


def reads(inside: Computation) -> list[int]:
    """Bytes of each operand that a fused computation reads."""
    parameters = [x for x in inside.values() if x.opcode == "parameter"]
    parameters.sort(key=lambda x: int(x.text.split(")")[0]))
    return [read_of(inside, x) for x in parameters]


def read_of(inside: Computation, array: Instruction) -> int:
    """Bytes that are read of an array: all of it, unless each of its users takes a part."""
    total = 0
    for user in inside.values():
        if array.name not in user.operands:
            continue
        is_first = user.operands.index(array.name) == 0 and user.operands.count(array.name) == 1
        if user.opcode in SLICES and is_first:
            total += size_of(user.shape)
        elif user.opcode == "bitcast":
            total += read_of(inside, user)
        elif not (user.opcode == "dynamic-update-slice" and is_first):
            return size_of(array.shape)
    return total


def written(inside: Computation, shape: str) -> int:
    """Bytes that a fused computation writes: its results, or the slices that it updates."""
    (root,) = (x for x in inside.values() if x.is_root)
    results = root.operands if root.opcode == "tuple" else (root.name,)
    if not any(updated(inside, name) for name in results):
        return size_of(shape)
    return sum(
        size_of(inside[updated(inside, name) or name].shape) for name in results if name in inside
    )


def updated(inside: Computation, name: str) -> str | None:
    """The update whose slice a result is all that is written of, if it is one."""
    x = inside[name]
    while x.opcode == "bitcast":
        x = inside[x.operands[0]]
    return x.operands[1] if x.opcode == "dynamic-update-slice" else None


def size_of(shape: str) -> int:
    """Bytes of an array, or of a tuple of arrays."""
    total = 0
    for dtype, lengths in ARRAY.findall(shape):
        bits = re.search(r"\d+", dtype)
        size = math.prod(int(n) for n in lengths.split(",") if n)
        total += -(-size * (int(bits[0]) if bits else 8) // 8)
    return total


def counted(collectives: Sequence[str]) -> str:
    """In words: ``2 all-reduce``."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(collectives).items()) or "none"
