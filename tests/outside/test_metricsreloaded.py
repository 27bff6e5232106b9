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
