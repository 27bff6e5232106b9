"""jaxseg's surface distances beside others': the numbers recorded in ``golden/peers_surface.json``.

They stand in the last section of ``docs/from-metrics.md``, which is read here as
``test_peers_metrics.py`` reads the others. What tools return for empty masks, and their HD95 of one
pair of masks, stands in tables of ``docs/surface.md``.
"""

import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg

ROOT = pathlib.Path(__file__).parents[1]
PEERS = json.loads((ROOT / "tests/golden/peers_surface.json").read_text())
SECTION = (ROOT / "docs/from-metrics.md").read_text().partition("\n## Surface distances\n")[2]
PAGE = (ROOT / "docs/surface.md").read_text()
TITLES = {
    "monai.metrics": "monai",
    "MedPy": "medpy",
    "surface-distance": "surface_distance",
    "MetricsReloaded's surfaces": "metricsreloaded",
    "torchmetrics.segmentation": "torchmetrics",
    "panoptica's surfaces": "panoptica",
    "SimpleITK": "simpleitk",
}


def page_rows() -> list[tuple[str, str, str]]:
    """Peer, recorded call and jaxseg's expression of each row of the section's tables."""
    rows = []
    for part in SECTION.split("\n### ")[1:]:
        title = part.partition("\n")[0]
        for call, ours in re.findall(r"^\| `(.*)` \| `(.*)` \|$", part, flags=re.MULTILINE):
            rows.append((TITLES[title], call, ours))
    return rows


ROWS = page_rows()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    arrays = np.load(ROOT / "tests/golden/surface_inputs.npz")
    return {name: jnp.asarray(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def names(inputs) -> dict[str, Any]:
    """The inputs, and what the section's code makes of them."""
    names = dict(inputs)
    for block in re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL):
        exec(block, names)
    return names


def recorded(peer: str, call: str) -> np.ndarray:
    return np.squeeze(np.asarray(PEERS[peer]["cases"][call]["value"], np.float64))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_page_gives_the_number_of_the_peer(row, names):
    peer, call, ours = row
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as for users
        actual = np.squeeze(eval(ours, dict(names)))
    expected = recorded(peer, call)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_every_recorded_number_is_compared():
    recorded = [
        (peer, call)
        for peer, library in PEERS.items()
        if not peer.endswith(" faults")
        for call in library["cases"]
    ]
    assert sorted(row[:2] for row in ROWS) == sorted(recorded)


@pytest.mark.parametrize("element_areas", [False, True])
@pytest.mark.parametrize("missing", ["predictions", "labels", "both"])
def test_a_missed_object_is_never_a_good_value(missing, element_areas, inputs):
    """Peers give NaN, 0, a finite value or an exception, which improve the mean or stop it."""
    pair = [
        inputs["empty" if missing in (name, "both") else name] for name in ("predictions", "labels")
    ]
    distances = jaxseg.surface_distances(*pair, element_areas=element_areas)
    worst = np.nan if missing == "both" else np.inf
    for percentile in (0, 50, 95, 100):
        for method in ("max", "pooled", "mean"):
            value = jaxseg.hausdorff_distance(distances, percentile=percentile, method=method)
            np.testing.assert_equal(value.item(), worst)
    for method in ("pooled", "mean"):
        value = jaxseg.average_surface_distance(distances, method=method)
        np.testing.assert_equal(value.item(), worst)
        value = jaxseg.surface_dice(distances, tolerance=1.0, method=method)
        np.testing.assert_equal(value.item(), np.nan if missing == "both" else 0.0)


def test_percentile_0_is_the_least_distance(inputs):
    """MONAI takes 0 for no percentile and returns the maximum."""
    distances = jaxseg.surface_distances(inputs["predictions"], inputs["labels"])
    assert jaxseg.hausdorff_distance(distances, percentile=0).item() == 0
    call = "compute_hausdorff_distance(predictions, labels, percentile=0, include_background=True)"
    largest = jaxseg.hausdorff_distance(distances).item()
    assert recorded("monai faults", call) == pytest.approx(largest)


@pytest.mark.parametrize("transposed", [False, True])
def test_maps_that_are_not_square(transposed, inputs):
    """TorchMetrics gives 7 for this pair, of 8 times 20 pixels."""
    pair = [inputs["wide_predictions"], inputs["wide_labels"]]
    if transposed:
        pair = [mask.T for mask in pair]
    distance = jaxseg.hausdorff_distance(jaxseg.surface_distances(*pair)).item()
    assert distance == pytest.approx(26**0.5)
    options = "num_classes=1, include_background=True"
    call = f"hausdorff_distance(wide_predictions, wide_labels, {options})"
    assert recorded("torchmetrics faults", call) == 7


def test_one_pixel_beside_another(inputs):
    """Two pixels apart: 2 between pixels; corners of pixels are nearer, so areas say less."""
    pair = inputs["pixel_predictions"], inputs["pixel_labels"]
    plain = jaxseg.surface_distances(*pair)
    areas = jaxseg.surface_distances(*pair, element_areas=True)
    assert jaxseg.average_surface_distance(plain).item() == 2
    call = "compute_average_surface_distance({})".format(
        "compute_surface_distances(pixel_labels, pixel_predictions, (1.0, 1.0))"
    )
    directed = jaxseg.average_surface_distance(areas, method="directed")
    np.testing.assert_allclose(directed, recorded("surface_distance faults", call), rtol=1e-6)
    assert jaxseg.surface_dice(areas, tolerance=1.0).item() == 0.5


def table(title: str) -> dict[str, list[str]]:
    """The rows of the first table under a title of ``docs/surface.md``, by their first cell."""
    part = PAGE.partition(f"# {title}\n")[2]
    block = re.search(r"(?:^\|.*\n)+", part, flags=re.MULTILINE)
    assert block
    rows = [
        [cell.strip() for cell in line.strip("| \n").split("|")] for line in block[0].splitlines()
    ]
    return {row[0]: row[1:] for row in rows[2:]}


EMPTY = {  # calls of each tool: HD95 and average distance
    "MONAI": (
        "monai",
        "compute_hausdorff_distance({}, percentile=95, include_background=True)",
        "compute_average_surface_distance({}, symmetric=True, include_background=True)",
    ),
    "MedPy": ("medpy", "hd95({})", "assd({})"),
    "surface-distance": (
        "surface_distance",
        "compute_robust_hausdorff(compute_surface_distances({r}, (1.0, 1.0)), 95)",
        "compute_average_surface_distance(compute_surface_distances({r}, (1.0, 1.0)))",
    ),
    "MetricsReloaded": (
        "metricsreloaded",
        "measures({}, hd_perc=95).measured_hausdorff_distance_perc()",
        "measures({}).measured_average_distance()",
    ),
    "panoptica": (
        "panoptica",
        "_compute_hausdorff_distance95({r})",
        "_average_symmetric_surface_distance({r})",
    ),
    "seg-metrics": (
        "seg_metrics",
        "measure('hd95', {}, (1.0, 1.0), True)",
        "measure('msd', {}, (1.0, 1.0), True)",
    ),
    "MeshMetrics": ("meshmetrics", "mesh({}).hd(95)", "mesh({}).assd()"),
}


@pytest.mark.parametrize("tool", EMPTY)
def test_table_of_empty_masks(tool):
    peer, *calls = EMPTY[tool]
    cells = table("Missed and false objects")[tool]
    said = []
    for empty in ("empty, labels", "empty, empty"):
        for call in calls:
            text = call.format(empty, r=", ".join(reversed(empty.split(", "))))
            value = np.unique(recorded_or_error(f"{peer} faults", text))[0]
            said.append(value if isinstance(value, str) else f"{value:.3g}")
    assert [cell if cell != "raises" else "Error" for cell in cells] == [
        "Error" if "Error" in value else value for value in said
    ]


def recorded_or_error(peer: str, call: str) -> Any:
    value = PEERS[peer]["cases"][call]["value"]
    return [value] if isinstance(value, str) and "Error" in value else recorded(peer, call)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)], ids=str)
def test_table_of_discs_and_balls(spacing):
    """Concentric ones with radii of 15 and 30."""
    ends = [round(33 / step) for step in spacing]
    axes = [step * np.arange(-end, end + 1) for step, end in zip(spacing, ends, strict=True)]
    radius = np.sqrt(sum(x**2 for x in np.meshgrid(*axes, indexing="ij")))
    values = []
    for element_areas in (False, True):
        distances = jaxseg.surface_distances(
            radius <= 30, radius <= 15, spacing=spacing, element_areas=element_areas
        )
        values.append(jaxseg.hausdorff_distance(distances).item())
        values.append(jaxseg.average_surface_distance(distances).item())
    shape = "disc" if len(spacing) == 2 else "ball"
    line = [shape, ", ".join(f"{step:g}" for step in spacing), *(f"{x:.2f}" for x in values)]
    assert f"| {' | '.join(line)} |" in PAGE
