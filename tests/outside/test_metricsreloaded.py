"""Numbers that MetricsReloaded's tests state for the figures of the pitfalls paper.

The arrays stay outside the repository, in ``../shared/data``; without them these tests are skipped.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg

DATA = Path(__file__).parents[3] / "shared/data/MetricsReloaded"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the arrays of MetricsReloaded's figures are not in {DATA}"
)


def figure(*names: str) -> list[Any]:
    with np.load(DATA / "pitfalls_figures.npz") as arrays:
        return [jnp.asarray(arrays[name] > 0) for name in names]


def stated(row: str) -> dict[str, Any]:
    rows = json.loads((DATA / "expected.json").read_text())
    return next(numbers for name, numbers in rows.items() if name.startswith(row))


@pytest.mark.parametrize("prediction", ["pred214_1", "pred214_2"])
def test_cldice_of_a_figure(prediction: str) -> None:
    want = stated("214 clDice")[prediction]
    p, g = figure(prediction, "ref214")
    lines = jaxseg.skeleton_counts(p, g, num_classes=1, spatial_axes=(0, 1))
    assert jaxseg.cldice(lines).item() == pytest.approx(want["cldice"], abs=0.01)
    assert jaxseg.dice(jaxseg.counts(p, g, num_classes=1)).item() == pytest.approx(
        want["dsc"], abs=0.01
    )


@pytest.mark.parametrize("number", [1, 2])
def test_rates_of_a_figure(number: int) -> None:
    want = stated(f"29 (pred29_{number}")
    c = jaxseg.counts(*figure(f"pred29_{number}", f"ref29_{number}"), num_classes=1)
    scores = {
        "mcc": jaxseg.matthews_correlation,
        "ppv": jaxseg.precision,
        "f1": jaxseg.dice,
        "balanced_accuracy": jaxseg.balanced_accuracy,
        "plr": jaxseg.positive_likelihood_ratio,
    }
    for name, score in scores.items():
        assert score(c).item() == pytest.approx(want[name], abs=0.05 if name == "plr" else 0.01)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("star", ("p_pred", "p_ref")),
        ("210_1", ("pred210_1", "ref210")),
        ("210_2", ("pred210_2", "ref210")),
        ("5c", ("pred5c", "ref5c")),
    ],
)
def test_surface_distances_of_a_figure(row: str, names: tuple[str, str]) -> None:
    """Each to the digits that are stated."""
    p, g = figure(*names)
    distances = jaxseg.surface_distances(p, g)
    c = jaxseg.counts(p, g, num_classes=1)
    scores = {
        "dsc": lambda: jaxseg.dice(c),
        "iou": lambda: jaxseg.iou(c),
        "hd": lambda: jaxseg.hausdorff_distance(distances),
        "hd95": lambda: jaxseg.hausdorff_distance(distances, percentile=95),
        "hd95_max_of_directed": lambda: jaxseg.hausdorff_distance(distances, percentile=95),
        "assd": lambda: jaxseg.average_surface_distance(distances),
        "masd": lambda: jaxseg.average_surface_distance(distances, method="mean"),
        "nsd@1": lambda: jaxseg.surface_dice(distances, tolerance=1.0),
        "nsd@2": lambda: jaxseg.surface_dice(distances, tolerance=2.0),
    }
    want = stated(row)
    got = {name: scores[name]().item() for name in want}
    assert got == pytest.approx(want, abs=0.0051)


def test_boundary_iou_of_a_figure() -> None:
    """MetricsReloaded takes pixels nearer than the distance to an edge."""
    want = stated("212")
    for distance, width in ((1, 0.0), (2, 1.5)):
        score = jaxseg.boundary_iou(*figure("pred212", "ref212"), method="distance", width=width)
        assert score.item() == pytest.approx(want[f"boundary_iou@{distance}"], abs=want["atol"])
