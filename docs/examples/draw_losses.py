"""Draws docs/losses.png: what each loss says of a disc that is in the wrong place or too large.

    pip install ".[examples]"
    python docs/examples/draw_losses.py

The prediction is a soft disc: its logits are the distance to its edge, in pixels, positive inside.
It is shifted against its true disc, and resized. The value of a loss and its derivative by the
shift or the radius are drawn, the derivative with the sign that says which way a step of gradient
descent goes: positive is back to the truth.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxseg

HEIGHT, WIDTH = 56, 96
CENTRE = (28.0, 30.0)
RADIUS = 10.0
LARGEST_SHIFT = 36.0  # pixels; from 2 RADIUS on the discs are apart
RADII = (2.0, 20.0)
PER_PIXEL = 4  # points of a curve

WIDE, ROW, COLUMNS, DPI = 7.8, 1.12, 4, 160  # inches
PANEL = (WIDE / COLUMNS - 0.46) / 2
HEADING, AXIS_LABEL = 0.26, 0.14
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.92"  # told apart by the colour-blind too


# --- losses: of logits [1, H, W, 1] and ids [1, H, W] ---------------------------------------------


def mask(loss: Callable[..., Array], **arguments: Any) -> Callable[..., Array]:
    """A loss of one mask."""
    return lambda x, g: loss(x, g, **arguments).mean()


def sigmoid(loss: Callable[..., Array], **arguments: Any) -> Callable[..., Array]:
    """A loss of one mask that is told so."""
    return mask(loss, activation="sigmoid", **arguments)


def two_classes(loss: Callable[..., Array], **arguments: Any) -> Callable[..., Array]:
    """A loss of disc and background, with the same probabilities."""
    return lambda x, g: loss(
        jnp.concatenate([jnp.zeros_like(x), x], axis=-1), g, **arguments
    ).mean()


GROUPS: dict[str, dict[str, Callable[[Array, Array], Array]]] = {
    "region": {
        "dice_loss": sigmoid(jaxseg.dice_loss),
        "iou_loss": sigmoid(jaxseg.iou_loss),
        "tversky_loss": sigmoid(jaxseg.tversky_loss, alpha=0.3, beta=0.7),
        "focal_tversky_loss": sigmoid(jaxseg.focal_tversky_loss),
        "log_dice_loss": sigmoid(jaxseg.log_dice_loss),
        "log_cosh_dice_loss": sigmoid(jaxseg.log_cosh_dice_loss),
        "generalized_dice_loss": two_classes(jaxseg.generalized_dice_loss),
        "generalized_wasserstein_dice_loss": two_classes(
            jaxseg.generalized_wasserstein_dice_loss, distances=1 - np.eye(2, dtype=np.float32)
        ),
        "matthews_correlation_loss": sigmoid(jaxseg.matthews_correlation_loss),
        "sensitivity_specificity_loss": sigmoid(jaxseg.sensitivity_specificity_loss),
    },
    "pixel": {
        "cross_entropy_loss": mask(jaxseg.cross_entropy_loss),
        "softmax_focal_loss": mask(jaxseg.softmax_focal_loss),
        "nacl_loss": mask(jaxseg.nacl_loss),
        "top_k_loss": mask(jaxseg.top_k_loss),
        "ohem_loss": mask(jaxseg.ohem_loss, min_kept=100),
        "lovasz_hinge_loss": mask(jaxseg.lovasz_hinge_loss),
        "lovasz_softmax_loss": sigmoid(jaxseg.lovasz_softmax_loss),
    },
    "boundary": {
        "boundary_loss": sigmoid(jaxseg.boundary_loss),
        "hausdorff_dt_loss": sigmoid(jaxseg.hausdorff_dt_loss),
        "hausdorff_erosion_loss": sigmoid(jaxseg.hausdorff_erosion_loss),
        "boundary_dou_loss": sigmoid(jaxseg.boundary_dou_loss),
    },
    "topology": {
        "cldice_loss": sigmoid(jaxseg.cldice_loss, iterations=20),
        "dice_cldice_loss": sigmoid(jaxseg.dice_cldice_loss, iterations=20),
        "skeleton_recall_loss": sigmoid(jaxseg.skeleton_recall_loss),
    },
    "compound": {
        "bce_dice_loss": mask(jaxseg.bce_dice_loss),
        "dice_ce_loss": two_classes(jaxseg.dice_ce_loss),
        "dice_focal_loss": mask(jaxseg.dice_focal_loss),
        "dice_top_k_loss": mask(jaxseg.dice_top_k_loss),
        "exponential_logarithmic_loss": mask(jaxseg.exponential_logarithmic_loss),
        "unified_focal_loss": mask(jaxseg.unified_focal_loss),
    },
}


# --- curves ---------------------------------------------------------------------------------------


def disc(shift: Array, radius: Array) -> Array:
    """Logits ``[1, H, W, 1]`` of a disc: the distance to its edge, in pixels."""
    y, x = jnp.mgrid[:HEIGHT, :WIDTH].astype(jnp.float32)
    squared = (y - CENTRE[0]) ** 2 + (x - CENTRE[1] - shift) ** 2
    distance = jnp.sqrt(squared + 1e-6)  # the root has no derivative at 0
    return (radius - distance)[None, ..., None]


@partial(jax.jit, static_argnums=0)
def curves(loss: Callable[[Array, Array], Array], shifts: Array, radii: Array) -> Any:
    """Values and derivatives along the shifts, and along the radii; all in pixels."""
    truth = (disc(jnp.zeros(()), jnp.float32(RADIUS))[..., 0] > 0).astype(jnp.int32)

    def of(shift: Array, radius: Array) -> Array:
        return loss(disc(shift, radius), truth)

    def shifted(shift: Array) -> Any:
        return jax.value_and_grad(of)(shift, jnp.float32(RADIUS))

    def resized(radius: Array) -> Any:
        return jax.value_and_grad(of, argnums=1)(jnp.zeros(()), radius)

    return jax.lax.map(shifted, shifts), jax.lax.map(resized, radii)


def points(first: float, last: float) -> np.ndarray:
    """PER_PIXEL points for each pixel, and half a pixel more on both sides."""
    step = 1 / PER_PIXEL
    return np.arange(first - 0.5 + step / 2, last + 0.5, step, np.float32)


def smooth(y: np.ndarray) -> np.ndarray:
    """The mean over a pixel around each point, so that no curve shows the grid."""
    return np.convolve(y, np.full(PER_PIXEL, 1 / PER_PIXEL), mode="valid")


def measure(loss: Callable[[Array, Array], Array]) -> list[tuple[np.ndarray, ...]]:
    """Shifts and radii, each with the values there and the pull back to the truth."""
    shifts, radii = points(0, LARGEST_SHIFT), points(*RADII)
    panels = []
    for x, true, (value, slope) in zip(
        (shifts, radii), (0.0, RADIUS), jax.device_get(curves(loss, shifts, radii)), strict=True
    ):
        pull = slope * np.sign(x - true)
        panels.append((smooth(x), smooth(value), smooth(pull)))
    return panels


# --- picture --------------------------------------------------------------------------------------


def draw(path: Path) -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    rows = sum(-(-len(losses) // COLUMNS) for losses in GROUPS.values())
    height = rows * ROW + len(GROUPS) * (HEADING + AXIS_LABEL)
    figure = Figure(figsize=(WIDE, height))
    top = height
    for group, losses in GROUPS.items():
        figure.text(0.008, (top - 0.18) / height, f"{group} losses", fontsize=10, weight="bold")
        top -= HEADING
        for i, (name, loss) in enumerate(losses.items()):
            row, column = divmod(i, COLUMNS)
            left, bottom = column * WIDE / COLUMNS, top - (row + 1) * ROW
            lowest = i + COLUMNS >= len(losses)
            draw_loss(figure, left, bottom, height, name, measure(loss), lowest)
        last_row, used = divmod(len(losses) - 1, COLUMNS)
        if group == "region":
            draw_key(figure, (used + 1) * WIDE / COLUMNS, top - (last_row + 1) * ROW, height)
        top -= (last_row + 1) * ROW + AXIS_LABEL
    figure.savefig(path, dpi=DPI, facecolor="white")
    with Image.open(path) as picture:  # a third of the size
        picture.convert("RGB").quantize(128).save(path, optimize=True)


def draw_loss(
    figure: Any,
    left: float,
    bottom: float,
    height: float,
    name: str,
    panels: Sequence[Any],
    labelled: bool,
) -> None:
    """Two panels with common scales: shifted, and resized. Places are in inches."""
    values = np.concatenate([value for _, value, _ in panels])
    least, most = values.min(), values.max()
    strongest = max(abs(pull).max() for *_, pull in panels)
    figure.text(
        (left + 0.1) / WIDE,
        (bottom + ROW - 0.17) / height,
        name.removesuffix("_loss"),
        fontsize=8.2,
    )
    for k, (x, value, pull) in enumerate(panels):
        place = (left + 0.34 + k * (PANEL + 0.07), bottom + 0.22, PANEL, ROW - 0.44)
        axis = figure.add_axes([p / s for p, s in zip(place, (WIDE, height) * 2, strict=True)])
        if k == 0:
            axis.axvspan(2 * RADIUS, LARGEST_SHIFT, color=GREY, linewidth=0)
            axis.set(xlim=(0, LARGEST_SHIFT), xticks=(0, 20))
        else:
            x = x / RADIUS
            axis.axvline(1, color="0.8", linewidth=0.8)
            axis.set(xlim=(RADII[0] / RADIUS, RADII[1] / RADIUS), xticks=(0.5, 1, 2))
            axis.set_xticklabels(("½", "1", "2"))
        axis.axhline(0, color="0.6", linewidth=0.6)
        axis.fill_between(x, pull / strongest, color=ORANGE, alpha=0.25, linewidth=0)
        axis.plot(x, pull / strongest, color=ORANGE, linewidth=1.3)
        axis.plot(x, (value - least) / (most - least), color=BLUE, linewidth=1.5)
        if labelled:
            label = "shift (pixels)" if k == 0 else "radius / true"
            axis.set_xlabel(label, fontsize=7, labelpad=1)
        axis.set(ylim=(-0.27, 1.08), yticks=(0, 1))
        axis.set_yticklabels([short(least), short(most)] if k == 0 else [])
        axis.tick_params(labelsize=7, length=2, pad=1.5, width=0.6)
        axis.tick_params(axis="y", labelcolor=BLUE)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_linewidth(0.6)


def short(x: float) -> str:
    return f"{x:.2f}" if abs(x) < 0.1 else f"{x:.2g}"


def draw_key(figure: Any, left: float, bottom: float, height: float) -> None:
    """What the lines and axes are, where the region losses leave room."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = (
        Line2D([], [], color=BLUE, linewidth=1.5),
        (Patch(facecolor=ORANGE, alpha=0.25), Line2D([], [], color=ORANGE, linewidth=1.3)),
        Patch(facecolor=GREY),
    )
    labels = (
        "value, from its least to its greatest",
        "pull back to the true disc: slope per pixel\n(below 0: push away), part of the strongest",
        "prediction and truth do not overlap",
    )
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=((left + 0.1) / WIDE, (bottom + ROW - 0.15) / height),
        fontsize=8,
        frameon=False,
        borderaxespad=0,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draws what losses say of a misplaced disc.")
    default = Path(__file__).parents[1] / "losses.png"
    parser.add_argument("--out", type=Path, default=default, help="PNG to write")
    draw(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
