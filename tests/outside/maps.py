"""The real label maps of these tests, each with a second one, the spacing and a tolerance."""

from pathlib import Path

import nifti
import numpy as np

DATA = Path(__file__).parents[3] / "shared/data"
Maps = tuple[np.ndarray, np.ndarray, tuple[float, ...], float]


def organs() -> Maps:
    """42 organs of one CT: those of a fast model, and as the truth those of the full model."""
    folder = DATA / "totalsegmentator/tests/reference_files"
    truth, spacing = nifti.read(folder / "example_seg.nii.gz")
    prediction, _ = nifti.read(folder / "example_seg_fast.nii.gz")
    return prediction, truth, spacing, 6.0


def brain() -> Maps:
    """158 regions of one brain, and as the truth the same map rolled by two voxels."""
    prediction, spacing = nifti.read(DATA / "torchio-data/data/fernando/t1_seg_gif.nii.gz")
    return prediction, np.roll(prediction, 2, axis=0), spacing, 1.0
