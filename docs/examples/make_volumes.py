"""Make a folder of NIfTI label maps to try ``jaxseg evaluate`` with: five organs, and predictions.

    pip install ".[evaluate]"
    python docs/examples/make_volumes.py volumes --cases 4
    jaxseg evaluate volumes/predictions volumes/labels --classes 1,2,3,4,5 \\
        --names liver,spleen,kidney,aorta,tumour --metrics dice,hd95,assd,nsd@2 --out results

The organs are ellipsoids of about natural size. Predictions are moved and smoothed a little, a
tumour is missed now and then, and one in ten has a speck far away.
"""

import argparse
from pathlib import Path

import nibabel
import numpy as np

ORGANS = {1: (60, 45, 30), 2: (30, 22, 22), 3: (22, 16, 26), 4: (9, 9, 50), 5: (7, 7, 6)}  # radii
SPACING = (0.9, 0.9, 2.0)  # mm


def ellipsoid(shape, centre, radii):
    """The voxels of an ellipsoid, in a box around it."""
    first = [max(0, int(c - r - 1)) for c, r in zip(centre, radii, strict=True)]
    end = [min(n, int(c + r + 2)) for n, c, r in zip(shape, centre, radii, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
    index = np.ogrid[box]
    return box, sum(((x - c) / r) ** 2 for x, c, r in zip(index, centre, radii, strict=True)) <= 1


def draw(shape, organs):
    ids = np.zeros(shape, np.uint8)
    for organ, (centre, radii) in organs.items():
        box, inside = ellipsoid(shape, centre, radii)
        ids[box][inside] = organ
    return ids


def make_case(rng, shape):
    """A true map, and one that is predicted."""
    truth, predicted = {}, {}
    for organ, radii in ORGANS.items():
        scale = np.array(shape) / (256, 256, 120) * rng.uniform(0.8, 1.1)
        centre = np.array(shape) * rng.uniform(0.3, 0.7, 3)
        truth[organ] = centre, np.array(radii) * scale
        moved = centre + rng.normal(0, 1.5, 3) * scale
        if organ < 5 or rng.random() < 0.7:
            predicted[organ] = moved, np.array(radii) * scale * rng.uniform(0.93, 1.07, 3)
    prediction = draw(shape, predicted)
    if rng.random() < 0.1:
        prediction[2:4, 2:4, 2:4] = 1
    return prediction, draw(shape, truth)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 120))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    for case in range(options.cases):
        shape = tuple(int(n * rng.uniform(0.95, 1.05)) for n in options.shape)
        for name, ids in zip(("predictions", "labels"), make_case(rng, shape), strict=True):
            path = options.folder / name / f"case{case:03}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(ids, np.diag([*SPACING, 1.0])), path)
    print(f"{options.cases} pairs are in {options.folder}/predictions and {options.folder}/labels")


if __name__ == "__main__":
    main()
