"""Markdown tables and plots of the rows."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
NONE = "-"


def markdown(results: dict[str, Any]) -> str:
    """All tables, each under a heading, below what they were taken on."""
    machine, versions, rows = results["machine"], results["versions"], results["rows"]
    on = "; ".join([machine["device"], machine["processor"], f"{machine['cores']} cores"])
    have = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    parts = ["# Benchmark results", f"{on}; {machine['platform']}.", f"{have}.", *results["notes"]]
    for family, title, tables in (
        ("loss", "Loss", timed),
        ("counting", "Counting", timed),
        ("evaluation", "Evaluation", timed),
        ("distance", "Distance", timed),
        ("startup", "Startup", startup),
        ("memory", "Memory of every loss", memory),
    ):
        of_family = [row for row in rows if row["family"] == family]
        if of_family:
            parts += [f"## {title}", *tables(of_family)]
    left_out = skipped(rows)
    if left_out:
        parts += ["## Skipped", "\n".join(f"- {line}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


def table(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def timed(rows: list[Row]) -> list[str]:
    """Four tables for each task: a row for each case, a column for each contender."""
    parts = []
    baseline = "copy" if rows[0]["family"] in ("loss", "distance") else "sum"
    for task in unique(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        rounds = max(row.get("rounds", 0) for row in of_task)
        own, *others = names(of_task)
        parts += [f"### {task}: time", f"Median of {rounds} rounds, and times that of {own}."]
        parts.append(
            table(
                ["", own, *(f"{name} / {own}" for name in others), baseline],
                [
                    [
                        label,
                        milliseconds(case[own]["seconds"]),
                        *(cell(case, name, "ratio", "{:.2f}".format) for name in others),
                        milliseconds(case[own]["baseline_seconds"]),
                    ]
                    for label, case in cases(of_task).items()
                ],
            )
        )
        for key, title, form in (
            ("rate", "million pixels a second", millions),
            ("bandwidth", "share of bandwidth", percent),
            ("temporaries", "temporaries / inputs", "{:.2f}".format),
            ("first_call", "first call", seconds),
        ):
            columns = [n for n in names(of_task) if any(has(r, n, key) for r in of_task)]
            if not columns:
                continue
            body = [
                [label, *(cell(case, name, key, form) for name in columns)]
                for label, case in cases(of_task).items()
            ]
            parts += [f"### {task}: {title}", table(["", *columns], body)]
    return parts


def names(rows: list[Row]) -> list[str]:
    """Contenders that ran at least once."""
    return unique(row["contender"] for row in rows if "skipped" not in row)


def has(row: Row, name: str, key: str) -> bool:
    return row["contender"] == name and row.get(key) is not None


def cases(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """Rows by case, then by contender."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(case_label(row), {})[row["contender"]] = row
    return found


def case_label(row: Row) -> str:
    shape = f"`{list(row['shape'])}`"
    if row["family"] == "distance":
        size = f", {row['size']} long" if "size" in row else ""
        images = f"{row['images']} pairs of " if row.get("images", 1) > 1 else ""
        return f"{images}{shape}, {row['mask']}{size}"
    if row["family"] != "loss":
        shape += f", {row['classes']} classes"
    if row["family"] == "evaluation":
        shape = f"{row['batches']} batches of {shape}"
    usual = "float32" if row["family"] == "loss" else "uint8"
    extra = [row["dtype"]] if row["dtype"] != usual else []
    extra += [name for name in ("dense", "where") if row.get(name)]
    return ", ".join([shape, *extra])


def cell(case: dict[str, Row], name: str, key: str, form: Callable[[Any], str]) -> str:
    value = case.get(name, {}).get(key)
    return NONE if value is None else form(value)


def milliseconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def millions(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def seconds(value: float) -> str:
    return f"{value:.2g} s"


def percent(value: float) -> str:
    return f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


def startup(rows: list[Row]) -> list[str]:
    imports = [row for row in rows if "seconds" in row]
    calls = [row for row in rows if "trace" in row]
    body = [
        [f"`{r['task']}`", *map(seconds, (r["trace"], r["compile"], r["trace"] + r["compile"]))]
        for r in calls
    ]
    return [
        table(["import", "time"], [[f"`{r['task']}`", seconds(r["seconds"])] for r in imports]),
        f"First call at `{list(calls[0]['shape'])}`, value and gradient:",
        table(["loss", "trace", "compile", "both"], body),
    ]


def memory(rows: list[Row]) -> list[str]:
    body = [[f"`{r['task']}`", cell({"": r}, "", "temporaries", "{:.2f}".format)] for r in rows]
    return [
        f"Value and gradient at `{list(rows[0]['shape'])}`:",
        table(["loss", "temporaries / logits"], body),
    ]


def skipped(rows: list[Row]) -> list[str]:
    """Who did not run, why, and where if it ran elsewhere."""
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "skipped" in row:
            lines.setdefault((row["contender"], row["skipped"]), []).append(row)
    ran = {row.get("contender") for row in rows if "skipped" not in row}
    return [
        f"{name}: {reason}"
        + (f" ({', '.join(unique(case_label(row) for row in left))})" if name in ran else "")
        for (name, reason), left in lines.items()
    ]


def unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


# The colours mean the same in both panels of a picture, or the same library.
COLOURS = {
    "jaxseg": "#d62728",
    "jaxseg counts": "#ff9896",
    "plain JAX": "#1f77b4",
    "jnp.bincount": "#1f77b4",
    "Optax": "#2ca02c",
    "metrax": "#2ca02c",
    "MONAI": "#9467bd",
    "TorchMetrics": "#9467bd",
    "MONAI compiled": "#8c564b",
    "np.bincount": "#ff7f0e",
    "NumPy loop": "#ff7f0e",
}


def plots(rows: list[Row], folder: Path) -> list[Path]:
    """``loss.png`` and ``counting.png``, of the families that were run."""
    drawn = []
    for family, draw in (("loss", draw_loss), ("counting", draw_counting)):
        usual = [
            row
            for row in rows
            if row["family"] == family
            and "seconds" in row
            and row["dtype"] in ("float32", "uint8")
            and not (row.get("dense") or row.get("where"))
        ]
        if usual:
            drawn.append(folder / f"{family}.png")
            draw(usual).savefig(drawn[-1], dpi=130)
    return drawn


def draw_loss(rows: list[Row]) -> Any:
    """Dice and cross-entropy against classes, and against pixels."""
    rows = [row for row in rows if row["task"] == "Dice + CE" and "strided" not in row["contender"]]
    of_map = most([tuple(row["shape"][:-1]) for row in rows])
    classes = most([row["classes"] for row in rows if len(row["shape"]) == 4])
    by_classes = [row for row in rows if tuple(row["shape"][:-1]) == of_map]
    by_pixels = [row for row in rows if row["classes"] == classes and len(row["shape"]) == 4]
    figure, (left, right) = panels()
    draw_lines(left, by_classes, "classes", baseline="copy of the logits")
    draw_lines(right, by_pixels, "pixels", baseline="copy of the logits")
    name_classes(left, by_classes)
    left.set_title(f"logits [{', '.join(map(str, of_map))}, classes]", loc="left")
    right.set_title(f"classes: {classes}", loc="left")
    figure.suptitle("Dice + cross-entropy, value and gradient, float32, ids")
    legend(left)
    legend(right)
    return figure


def draw_counting(rows: list[Row]) -> Any:
    """Both tasks against classes, at each number of pixels."""
    figure, axes = panels()
    sizes = sorted({row["pixels"] for row in rows})
    for ax, task in zip(axes, unique(row["task"] for row in rows)):
        of_task = [row for row in rows if row["task"] == task]
        for pixels, style in zip(sizes, ("-", "--")):
            same = [row for row in of_task if row["pixels"] == pixels]
            draw_lines(ax, same, "classes", style=style, baseline="sum of both maps")
        name_classes(ax, of_task)
        ax.set_title(task, loc="left")
        legend(ax)
    of = "; ".join(f"{style}: {size:,} pixels" for style, size in zip(("solid", "dashed"), sizes))
    figure.suptitle(f"Counting uint8 maps ({of})")
    return figure


def panels() -> Any:
    from matplotlib.figure import Figure  # needed for the pictures alone

    figure = Figure(figsize=(10, 5.4), layout="constrained")
    return figure, figure.subplots(1, 2, sharey=True)


def draw_lines(ax: Any, rows: list[Row], x: str, *, baseline: str, style: str = "-") -> None:
    """A line for each contender, and a grey one of the baseline; the solid ones have a name."""
    hidden = "" if style == "-" else "_"  # from the legend
    for name in names(rows):
        own = sorted((row for row in rows if row["contender"] == name), key=lambda row: row[x])
        at = [row[x] for row in own]
        line = {
            "color": COLOURS.get(name.removesuffix(" (CPU)"), "black"),
            "linewidth": 2.6 if name == "jaxseg" else 1.4,
            "linestyle": style,
        }
        label = hidden + name
        ax.plot(at, [row["seconds"] for row in own], marker="o", ms=4, label=label, **line)
        if name == "jaxseg":
            floor = at, [row["baseline_seconds"] for row in own]
    ax.plot(*floor, style, color="0.6", marker=".", label=hidden + baseline)
    ax.set(xscale="log", yscale="log", xlabel=x, ylabel="seconds")
    ax.grid(alpha=0.3)
    ax.label_outer()


def name_classes(ax: Any, rows: list[Row]) -> None:
    """Ticks at the numbers of classes that were measured."""
    classes = sorted({row["classes"] for row in rows})
    ax.set_xticks(classes, [str(c) for c in classes])
    ax.set_xticks([], minor=True)


def legend(ax: Any) -> None:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)


def most(values: list[Any]) -> Any:
    """The one that occurs most often."""
    return max(dict.fromkeys(values), key=values.count)
