"""Rows and tables of what the compiler of a GPU or TPU makes of the suite, on any machine."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxseg
from tests.benchmarks import families, peers, report, sums
from tests.benchmarks.compilers import (
    TPU_CHIPS,
    Program,
    compile_for,
    counted,
    mesh_of,
    program,
    versions,
)

Row = dict[str, Any]
Contender = Callable[..., Any] | str  # or in words why there is none
OWN, WITHOUT_KERNELS = "jaxseg", "jaxseg, kernels off"
STEPS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "value and gradient": jax.value_and_grad,
    "value": lambda f: f,
}

# Fewer than are timed: what a pixel needs varies little with the size of the map.
LOSS_CASES = [
    *(families.LossCase((4, 256, 256, c)) for c in (1, 2, 4, 11, 19, 32)),
    families.LossCase((1, 64, 64, 64, 117)),
    *(families.LossCase((4, 256, 256, c), dtype="bfloat16") for c in (4, 11, 32)),
    families.LossCase((1, 64, 64, 64, 117), dtype="bfloat16"),
    families.LossCase((4, 256, 256, 4), dense=True),
    families.LossCase((4, 256, 256, 4), where=True),
]
SHARDED_SHAPE = (8, 256, 256, 16)
QUICK_SHARDED_SHAPE = (8, 16, 16, 8)
# How logits [B, H, W, C] lie on a mesh of two axes, and the labels with them.
LAYOUTS = {
    "batch": P(("a", "b")),
    "rows": P(None, ("a", "b")),
    "batch and rows": P("a", "b"),
    "classes": P(None, None, None, ("a", "b")),
}


def loss(device: str, quick: bool) -> list[Row]:
    """Dice and cross-entropy with kinds of input; Dice alone is among every loss."""
    task = "Dice + CE"
    return [
        row
        for case in (families.QUICK_LOSS_CASES if quick else LOSS_CASES)
        for row in loss_rows(
            device,
            {**both(families.own_dice_ce), **peers.jax_losses(case.where)[task]},
            loss_specs(case),
            family="loss",
            task=task,
            **case._asdict(),
        )
    ]


def loss_specs(case: families.LossCase) -> tuple[Any, ...]:
    logits = jax.ShapeDtypeStruct(case.shape, jnp.dtype(case.dtype))
    space = case.shape[:-1]
    labels = jax.ShapeDtypeStruct(
        *((case.shape, jnp.float32) if case.dense else (space, jnp.int32))
    )
    return (logits, labels, jax.ShapeDtypeStruct(space, jnp.bool_) if case.where else None)


def both(f: Callable[..., Any]) -> dict[str, Contender]:
    return {OWN: f, WITHOUT_KERNELS: f}


def loss_rows(
    device: str,
    contenders: dict[str, Contender],
    specs: Sequence[Any],
    steps: Sequence[str] = tuple(STEPS),
    **case: Any,
) -> list[Row]:
    """Rows of value and gradient, and of the value; in multiples of what must be moved."""
    given = tuple(x for x in specs if x is not None)
    rows = []
    for step in steps:
        derive = STEPS[step]
        must = sums.must_move(given, gradient=step != "value")
        for name, f in contenders.items():
            derived = f if isinstance(f, str) else derive(f)
            made = compiled(device, derived, specs, name)
            row = {**case, "step": step, "contender": name}
            rows.append(row | figures(made, sums.bytes_of(given[0]), must))
    return rows


def compiled(device: str, f: Contender, specs: Sequence[Any], name: str) -> Program | str:
    """The program of a contender, or why there is none."""
    if isinstance(f, str):
        return f
    print(device, name, *(x for x in specs if x is not None), file=sys.stderr)  # a run is long
    try:
        with unstrict():
            return program(compile_for(device, f, *specs, kernels=name != WITHOUT_KERNELS))
    except Exception as error:  # whatever a compiler or a contender raises
        return f"does not compile: {str(error).strip().splitlines()[0]}"


@contextlib.contextmanager
def unstrict() -> Iterator[None]:
    """As users have it: contenders promote dtypes and ranks."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def figures(made: Program | str, size: int, must: int) -> Row:
    """A program's figures: temporaries by ``size``, bytes moved by what ``must`` be."""
    if isinstance(made, str):
        return {"skipped": made}
    return {
        "temporaries": made.temporaries / size,
        "moved": made.moved / must,
        "kernels": made.kernels,
        "collectives": counted(made.collectives),
    }


def counting(device: str, quick: bool) -> list[Row]:
    """Confusion matrices and counts."""
    rows = []
    for case in families.QUICK_COUNTING_CASES if quick else families.COUNTING_CASES:
        one = jax.ShapeDtypeStruct(case.shape, jnp.dtype(case.dtype))
        where = jax.ShapeDtypeStruct(case.shape, jnp.bool_) if case.where else None
        tasks: dict[str, dict[str, Contender]] = {
            "Confusion matrix": {
                OWN: counts_of(jaxseg.confusion_matrix, case.classes),
                "plain JAX": lambda p, g, w, c=case.classes: peers.jax_matrix(c, p, g, w),
            },
            "Counts": {OWN: counts_of(jaxseg.counts, case.classes)},
        }
        size = 2 * sums.bytes_of(one) + (0 if where is None else sums.bytes_of(where))
        rows += [
            {"family": "counting", "task": task, "step": "", "contender": name, **case._asdict()}
            | figures(compiled(device, f, (one, one, where), name), size, size)
            for task, contenders in tasks.items()
            for name, f in contenders.items()
        ]
    return rows


def counts_of(f: Callable[..., Any], classes: int) -> Callable[..., Any]:
    return lambda p, g, where: f(p, g, num_classes=classes, where=where)


def memory(device: str, quick: bool) -> list[Row]:
    """Every loss, with default arguments."""
    shape = families.QUICK_SHAPE if quick else families.MEMORY_SHAPE
    specs = loss_specs(families.LossCase(shape))[:2]
    return [
        row
        for name in (families.QUICK_LOSSES if quick else families.LOSSES)
        for row in loss_rows(
            device,
            {**both(families.mean_of(name, shape[-1])), **others_of(name)},
            specs,
            ["value and gradient"],
            family="memory",
            task="Every loss",
            loss=name,
            shape=shape,
        )
    ]


def others_of(name: str) -> dict[str, Contender]:
    """A loss in Optax and as its plain formula, as far as there are such."""
    found: dict[str, Contender] = {
        "Optax": OPTAX.get(name, "has no such loss"),
        "plain JAX": plain_of(name),
    }
    return found


def plain_of(name: str) -> Contender:
    """The formula of the tests, where it is one of arrays alone."""
    try:
        from tests import reference
    except ImportError as error:
        return f"not installed ({error})"
    if name not in PLAIN:
        return "its plain formula is not one of arrays alone"
    formula = getattr(reference, name)
    return lambda x, y: formula(x, jax.nn.one_hot(y, x.shape[-1], dtype=x.dtype)).mean()


PLAIN = [
    *("dice_loss", "iou_loss", "tversky_loss", "focal_tversky_loss", "log_dice_loss"),
    *("log_cosh_dice_loss", "matthews_correlation_loss", "sensitivity_specificity_loss"),
    *("cross_entropy_loss", "softmax_focal_loss", "nacl_loss", "hausdorff_erosion_loss"),
    *("cldice_loss", "dice_cldice_loss", "bce_dice_loss", "dice_ce_loss", "dice_focal_loss"),
    *("exponential_logarithmic_loss", "unified_focal_loss"),
]


OPTAX: dict[str, Contender] = {
    "dice_loss": peers.optax_dice,
    "cross_entropy_loss": lambda x, y: peers.cross_entropy(x, y, None),
    "dice_ce_loss": lambda x, y: peers.optax_dice(x, y) + peers.cross_entropy(x, y, None),
}


def sharded(device: str, quick: bool) -> list[Row]:
    """Dice and cross-entropy on a mesh of eight GPUs or four chips of a TPU, on each of them."""
    shape = QUICK_SHARDED_SHAPE if quick else SHARDED_SHAPE
    return [
        {
            "family": "sharded",
            "task": "Sharded",
            "step": step,
            "contender": axis_type.name,
            "layout": layout,
            "shape": shape,
        }
        | figures(*sharded_program(device, shape, layout, axis_type, step))
        for step in STEPS
        for layout in LAYOUTS
        for axis_type in (AxisType.Auto, AxisType.Explicit)
    ]


def sharded_program(
    device: str, shape: tuple[int, ...], layout: str, axis_type: AxisType, step: str
) -> tuple[Program | str, int, int]:
    """The program of one device, the bytes of its logits, and those that it must move."""
    mesh = mesh_of(device, mesh_shape(device), ("a", "b"), axis_type)
    f, specs = sharded_loss(shape, layout)
    print(device, layout, axis_type, step, file=sys.stderr)
    try:
        with unstrict():
            made: Program | str = program(
                compile_for(
                    device, STEPS[step](f), *specs, mesh=mesh, partitions=[LAYOUTS[layout]] * 2
                )
            )
    except Exception as error:
        made = f"does not compile: {str(error).strip().splitlines()[0]}"
    must = sums.must_move(specs, gradient=step != "value")
    return made, sums.bytes_of(specs[0]) // mesh.size, must // mesh.size


def mesh_shape(device: str) -> tuple[int, int]:
    return (TPU_CHIPS // 2, 2) if device == "tpu" else (4, 2)


def sharded_loss(
    shape: tuple[int, ...], layout: str
) -> tuple[Callable[..., Array], tuple[Any, Any]]:
    """The loss and its arguments; where the classes are cut, masks and a sigmoid."""
    logits = jax.ShapeDtypeStruct(shape, jnp.float32)
    if layout == "classes":
        masks = jax.ShapeDtypeStruct(shape, jnp.bool_)
        return lambda x, y: jaxseg.dice_loss(x, y, activation="sigmoid").mean(), (logits, masks)
    return jaxseg.dice_ce_loss, (logits, jax.ShapeDtypeStruct(shape[:-1], jnp.int32))


def every_sum(device: str, quick: bool) -> list[Row]:
    """Every loss that is a sum over pixels, with every kind of input."""
    rows = []
    for case in sums.some_cases(1)[:2] if quick else sums.every_case():
        names: dict[str, Any] = {"loss": case.name, "classes": case.classes, "dtype": case.dtype}
        names |= {"labels": case.labels, "where": case.where}
        rows += loss_rows(
            device, {OWN: case.value}, case.specs, family="sums", task="Every sum", **names
        )
    return rows


FAMILIES = {
    "loss": loss,
    "counting": counting,
    "memory": memory,
    "sharded": sharded,
    "sums": every_sum,
}
LONG = ("sums",)  # thousands of programs: only if it is asked for


def results(device: str, only: str | None, quick: bool) -> Iterator[dict[str, Any]]:
    """All that is known after each family."""
    rows: list[Row] = []
    for name in [only] if only else [name for name in FAMILIES if name not in LONG]:
        rows += FAMILIES[name](device, quick)
        yield {"device": device, "versions": versions(), "rows": rows}


# ---------------------------------------------------------------------------------- tables


def markdown(results: dict[str, Any]) -> str:
    """Tables with a column for each contender."""
    have = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        f"# Programs for {results['device']}",
        f"Compiled by {have}; not run.",
        "Each cell has temporaries, bytes moved and kernels. Temporaries are in multiples of the "
        "logits (for counting, of the maps), bytes moved in multiples of what must be moved.",
    ]
    rows = results["rows"]
    for task, step in dict.fromkeys((row["task"], row["step"]) for row in rows):
        of_task = [row for row in rows if (row["task"], row["step"]) == (task, step)]
        parts += [f"## {task}{', ' * bool(step)}{step}", *tables(of_task)]
    left_out = [row for row in rows if "skipped" in row and "compile" in row["skipped"]]
    if left_out:
        lines = (f"- {row['contender']}, {label(row)}: {row['skipped']}" for row in left_out)
        parts += ["## Not compiled", "\n".join(dict.fromkeys(lines))]
    return "\n\n".join(parts) + "\n"


def tables(rows: list[Row]) -> list[str]:
    if rows[0]["family"] == "sums":
        over = [f"- {label(row)}: {cell(row)}" for row in exceeded(rows)]
        return [every_sum_table(rows), f"Beyond the limits for a GPU: {len(over)}.", *over]
    names = report.unique(row["contender"] for row in rows if "skipped" not in row)
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(label(row), {})[row["contender"]] = row
    body = [[name, *(cell(case.get(each, {})) for each in names)] for name, case in cases.items()]
    return [report.table(["", *names], body)]


def label(row: Row) -> str:
    if row["family"] == "memory":
        return f"`{row['loss']}`"
    if row["family"] == "sharded":
        return f"`{list(row['shape'])}`, {row['layout']}"
    if row["family"] == "sums":
        return f"{row['loss']}, {row['classes']}, {row['dtype']}, {row['labels']}, {row['where']}"
    return report.case_label(row)


def cell(row: Row) -> str:
    if "moved" not in row:
        return report.NONE
    sent = f" / {row['collectives']}" if row["family"] == "sharded" else ""
    return f"{row['temporaries']:.2f} / {row['moved']:.2f} / {row['kernels']}{sent}"


def every_sum_table(rows: list[Row]) -> str:
    """The most that a loss needs with any labels and with or without where."""
    body = []
    for name in report.unique(row["loss"] for row in rows):
        of_loss = [row for row in rows if row["loss"] == name and "moved" in row]
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in of_loss:
            few = "C < 117" if row["classes"] < 117 else "C ≥ 117"
            groups.setdefault((few, row["dtype"]), []).append(row)
        for (few, dtype), group in groups.items():
            most = [max(row[key] for row in group) for key in ("temporaries", "moved")]
            body.append([name, few, dtype, *(f"{x:.2f}" for x in most), str(len(group))])
    header = ["loss", "classes", "dtype", "most temporaries", "most moved", "programs"]
    return report.table(header, body)


def exceeded(rows: list[Row]) -> list[Row]:
    """Rows of every sum that need more than the limits for a GPU."""
    return [
        row
        for row in rows
        if "moved" in row
        and not sums.Need(row["temporaries"], row["moved"]).within(
            sums.limit_on_gpu(row["classes"], row["dtype"], row["step"] != "value")
        )
    ]
