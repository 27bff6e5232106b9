"""jaxseg's scores beside others' metrics: the numbers recorded in ``golden/peers_metrics.json``.

They stand in the tables of ``docs/from-metrics.md``, which are read here: the left cell is a
recorded call, and the expression in the right cell must give its value.
"""

import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PEERS = json.loads((ROOT / "tests/golden/peers_metrics.json").read_text())
PAGE = (ROOT / "docs/from-metrics.md").read_text()
SECTIONS = {
    "MONAI": "monai",
    "TorchMetrics": "torchmetrics",
    "scikit-learn": "sklearn",
    "Keras": "keras",
    "segmentation_models.pytorch": "smp",
    "MetricsReloaded": "metricsreloaded",
    "panoptica": "panoptica",
}


def page_rows() -> list[tuple[str, str, str]]:
    """Peer, recorded call and jaxseg's expression of each row of code in the page's tables."""
    rows = []
    for section in PAGE.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        for call, ours in re.findall(r"^\| `(.*)` \| `(.*)` \|$", section, flags=re.MULTILINE):
            if title in SECTIONS:  # the other table has rules
                rows.append((SECTIONS[title], call, ours))
    return rows


ROWS = page_rows()


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The inputs, and what the page's code makes of them."""
    inputs = np.load(ROOT / "tests/golden/metrics_inputs.npz")
    names = {name: jnp.asarray(array) for name, array in inputs.items()}
    page = PAGE.partition("\n## Surface distances\n")[0]  # those have their own arrays
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    return names


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_page_gives_the_number_of_the_peer(row, names):
    peer, call, ours = row
    expected = np.squeeze(np.asarray(PEERS[peer]["cases"][call]["value"], np.float64))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as for users
        actual = np.squeeze(eval(ours, dict(names)))
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-7)


def test_every_recorded_number_is_compared():
    recorded = [(peer, call) for peer, library in PEERS.items() for call in library["cases"]]
    assert sorted(row[:2] for row in ROWS) == sorted(recorded)
