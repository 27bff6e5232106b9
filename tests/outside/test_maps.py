"""Every class of two pairs of real label maps, beside MONAI, MedPy and surface-distance.

Their numbers are in ``golden/maps_surface.json``. The maps stay outside the repository, in
``../shared/data``; without them these tests are skipped.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import maps
import numpy as np
import pytest

import jaxseg

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/maps_surface.json").read_text())
pytestmark = pytest.mark.skipif(
    not maps.DATA.is_dir(), reason=f"the label maps are not in {maps.DATA}"
)


def scores(pair: maps.Maps) -> dict[int, list[float]]:
    """The columns of the kept numbers, for each class that both maps have."""
    prediction, truth, spacing, tolerance = pair
    classes = np.union1d(prediction, truth)
    p, g = (jnp.asarray(np.searchsorted(classes, x).astype(np.int32)) for x in (prediction, truth))
    edges = jaxseg.surface_distances(p, g, num_classes=len(classes), spacing=spacing)
    areas = jaxseg.surface_distances(
        p, g, num_classes=len(classes), spacing=spacing, element_areas=True
    )
    columns = [
        jaxseg.hausdorff_distance(edges),
        jaxseg.hausdorff_distance(edges, percentile=95),
        jaxseg.average_surface_distance(edges, method="directed")[..., 0],
        jaxseg.average_surface_distance(edges),
        jaxseg.surface_dice(edges, tolerance=tolerance),
        jaxseg.hausdorff_distance(edges, percentile=95, method="pooled"),
        jaxseg.average_surface_distance(edges),
        jaxseg.hausdorff_distance(areas, percentile=95),
        jaxseg.average_surface_distance(areas, method="directed")[..., 1],
        jaxseg.average_surface_distance(areas, method="directed")[..., 0],
        jaxseg.surface_dice(areas, tolerance=tolerance),
    ]
    table = np.stack([np.asarray(x) for x in columns], axis=-1)
    both = np.isin(classes, np.intersect1d(prediction, truth))
    missing = table[~both]  # one of the maps lacks the class
    assert (missing[:, [0, 1, 2, 3, 5, 6, 7, 8, 9]] == np.inf).all()
    assert (missing[:, [4, 10]] == 0).all()
    return {int(label): table[i].tolist() for i, label in enumerate(classes) if both[i] and label}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("name", "pair"),
    [("organs", maps.organs), pytest.param("brain", maps.brain, marks=pytest.mark.slow)],
)
def test_every_class(name: str, pair: Callable[[], maps.Maps]) -> None:
    want = {int(label): row for label, row in GOLDEN[name].items()}
    got = scores(pair())
    assert list(got) == list(want)
    for i, column in enumerate(GOLDEN["columns"]):
        ours, theirs = ({label: row[i] for label, row in x.items()} for x in (got, want))
        assert ours == pytest.approx(theirs, abs=1e-4, rel=1e-5), column


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cube_moved_by_one_voxel(axis: int) -> None:
    """Moved along each axis with spacing (1, 2, 5): 1, 2 and 5."""
    cube = jnp.zeros((10, 11, 12), bool).at[3:6, 3:6, 3:6].set(True)
    d = jaxseg.surface_distances(jnp.roll(cube, 1, axis), cube, spacing=(1.0, 2.0, 5.0))
    assert jaxseg.hausdorff_distance(d).item() == (1, 2, 5)[axis]


def test_the_maps_are_read_as_they_are() -> None:
    prediction, truth, spacing, _ = maps.organs()
    assert prediction.shape == truth.shape == (122, 101, 30)
    assert spacing == (3.0, 3.0, 3.0)
    assert int(truth.max()) == 117
