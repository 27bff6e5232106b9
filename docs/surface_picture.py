"""Draw ``surface.png``: two masks, and the edges of each coloured by their distance to the other.

python docs/surface_picture.py
"""

from pathlib import Path

import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import jaxseg

HERE = Path(__file__).parent
COLOURS = "viridis"


def masks() -> tuple[np.ndarray, np.ndarray]:
    """The masks that ``surface.md`` draws with letters."""
    rows = [x[4:] for x in (HERE / "surface.md").read_text().splitlines() if x[:4] == "... "]
    figure = np.array([list(row) for row in rows if set(row) <= set(".xgp")])
    return np.isin(figure, ["x", "p"]), np.isin(figure, ["x", "g"])


def distances(here, there) -> np.ndarray:
    """The distance of each edge pixel of one mask to the edges of the other, NaN elsewhere."""
    edge = jaxseg.edges(jnp.asarray(here))
    distance = jaxseg.distance_transform(jaxseg.edges(jnp.asarray(there)))
    return np.where(edge, distance, np.nan)


def outline(axes, mask, colour, label) -> None:
    """The border of a mask, along the sides of its pixels."""
    fine = np.kron(np.pad(mask, 1), np.ones((16, 16)))
    places = (np.arange(fine.shape[0]) + 0.5) / 16 - 1.5
    axes.contour(places, places, fine, [0.5], colors=colour, linewidths=1.6)
    axes.plot([], [], color=colour, label=label)


def flat(axes, here, there, title):
    """One mask's edge pixels by distance, and the other mask's outline."""
    image = axes.imshow(distances(here, there), cmap=COLOURS, vmin=0, vmax=3.2)
    outline(axes, there, "#d62728", "outline of the other")
    axes.set(title=title, xticks=[], yticks=[])
    axes.set(xlim=(0, 19), ylim=(18.5, -0.5))
    axes.legend(loc="center", fontsize=7, frameon=False, handlelength=1)
    return image


def balls() -> tuple[np.ndarray, np.ndarray]:
    """A ball with a bump, and a ball."""
    x = np.stack(np.mgrid[:34, :34, :34]) - 15.5
    radius = np.linalg.norm(x, axis=0)
    towards = np.tensordot(np.array([0.5, -0.7, 0.5]), x, 1) / np.maximum(radius, 1)
    return radius <= 10 + 6 * np.exp(8 * (towards - 0.995)), radius <= 11


def main() -> None:
    predictions, labels = masks()
    figure = plt.figure(figsize=(10, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    flat(left, predictions, labels, "from the prediction's edge")
    image = flat(middle, labels, predictions, "from the truth's edge")
    figure.colorbar(image, ax=[left, middle], label="distance (pixels)", shrink=0.85)

    place = right.get_subplotspec()
    right.remove()
    solid = figure.add_subplot(place, projection="3d")
    values = distances(*balls())
    colours = plt.cm.ScalarMappable(plt.Normalize(0, np.nanmax(values)), COLOURS)
    solid.voxels(~np.isnan(values), facecolors=colours.cmap(colours.norm(values)))
    solid.set(title="in 3-D: a predicted ball with a bump")
    solid.set_box_aspect((1, 1, 1), zoom=1.4)
    solid.view_init(25, -65)
    solid.set_axis_off()
    figure.colorbar(colours, ax=solid, label="distance (voxels)", shrink=0.85)
    figure.savefig(HERE / "surface.png", dpi=100)


if __name__ == "__main__":
    main()
