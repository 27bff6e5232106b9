"""Numbers that surface-distance's tests state.

They stay outside the repository, in ``../shared/data``; without them these tests are skipped.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg

FILE = Path(__file__).parents[3] / "shared/data/surface-distance/expected.json"
CASES = json.loads(FILE.read_text()) if FILE.exists() else []
NOT_NUMBERS = ("shape", "gt", "pred", "gt_slices", "pred_slices", "spacing", "overlap@1")
pytestmark = pytest.mark.skipif(not CASES, reason=f"surface-distance's numbers are not in {FILE}")


def mask(case: dict[str, Any], name: str) -> jnp.ndarray:
    array = np.zeros(case["shape"], bool)
    for pixel in case.get(name, []):
        array[tuple(pixel)] = True
    if slices := case.get(f"{name}_slices"):
        array[tuple(slice(*(int(x) if x else None for x in s.split(":"))) for s in slices)] = True
    return jnp.asarray(array)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("index", range(5))
def test_stated_numbers(index: int) -> None:
    """Each to the digits that are stated."""
    case = CASES[index]
    p, g = mask(case, "pred"), mask(case, "gt")
    d = jaxseg.surface_distances(p, g, spacing=case["spacing"], element_areas=True)
    c = jaxseg.counts(p, g, num_classes=1)
    want = {name: np.asarray(case[name], float) for name in case if name not in NOT_NUMBERS}
    got = {
        "asd": jaxseg.average_surface_distance(d, method="directed")[::-1],  # the truth first
        "hd": jaxseg.hausdorff_distance(d),
        "hd95": jaxseg.hausdorff_distance(d, percentile=95),
        "surface_dice@1": jaxseg.surface_dice(d, tolerance=1.0),
        "dice": jaxseg.dice(c)[0],
    }
    one_empty, both_empty = p.any() != g.any(), not (p.any() or g.any())
    if one_empty:  # theirs: NaN from the mask that is empty
        want["asd"] = np.full(2, np.inf)
    if both_empty:  # theirs: inf, of nothing against nothing
        want["hd"] = want["hd95"] = np.array(np.nan)
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], atol=0.00051, err_msg=name)
