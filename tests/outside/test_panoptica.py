"""Numbers that panoptica's tutorials state for one spine MR: Dice and ASSD of matched instances.

The maps stay outside the repository, in ``../shared/data``; without them these tests are skipped.
"""

import jax.numpy as jnp
import maps
import nifti
import numpy as np
import pytest

import jaxseg

FOLDER = maps.DATA / "panoptica/examples/spine_seg"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"panoptica's spine is not in {FOLDER}")


def spine(kind: str) -> tuple[np.ndarray, np.ndarray]:
    prediction, truth = (nifti.read(FOLDER / kind / f"{x}.nii.gz")[0] for x in ("pred", "ref"))
    return prediction, truth


@pytest.mark.usefixtures("optimized")
def test_matched_instances() -> None:
    """In voxels, of instances above an IoU of 0.5; their ASSD is the mean of directed means."""
    prediction, truth = spine("matched_instance")
    classes, p = np.unique(prediction, return_inverse=True)
    _, g = np.unique(truth, return_inverse=True)
    number = len(classes)
    p, g = (jnp.asarray(x.reshape(truth.shape).astype(np.int32)) for x in (p, g))
    counts = jaxseg.counts(p, g, num_classes=number)
    iou, dice = (score(counts)[1:] for score in (jaxseg.iou, jaxseg.dice))
    found = iou > 0.5
    assert (iou.size, found.sum()) == (22, 19)
    assert iou.mean(where=found).item() == pytest.approx(0.8328184295330796, rel=1e-5)
    assert iou.std(where=found).item() == pytest.approx(0.15186064004517466, rel=1e-5)
    assert dice.mean(where=found).item() == pytest.approx(0.900292616009954, rel=1e-5)
    # Without the background: id -1 is no class.
    d = jaxseg.surface_distances(p - 1, g - 1, num_classes=number - 1)
    assd = jaxseg.average_surface_distance(d, method="mean")
    assert assd.mean(where=found).item() == pytest.approx(0.250331887879225, rel=1e-5)
    assert assd.std(where=found).item() == pytest.approx(0.07696680402317076, rel=1e-5)
    everything = jaxseg.counts(p > 0, g > 0, num_classes=1)
    assert jaxseg.dice(everything).item() == pytest.approx(0.9744370224078394, rel=1e-5)
