"""Surface distances of every class of two pairs of real label maps: ``maps_surface.json``.

The maps stay outside the repository, in ``../shared/data``; ``tests/outside`` reads them with these
numbers. To remake them:

    pip install torch==2.13.0 monai==1.6.1 scipy==1.17.1 numpy==2.4.6
    pip install --no-deps medpy==0.5.2 SimpleITK==2.5.7 surface-distance==0.1
    python tests/golden/make_golden_maps.py

``organs`` are TotalSegmentator's reference outputs of one CT by its full model (the truth) and by
its fast model. ``brain`` is a parcellation of torchio's (the prediction) against itself, rolled by
two voxels along the first axis. The tolerance is two voxels of the organs, and one millimetre of
the brain. A class that one map lacks has no row.
"""

import importlib.metadata
import json
import pathlib
import sys
import warnings

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "outside"))
COLUMNS = [
    "monai hd",
    "monai hd95",
    "monai asd",
    "monai assd",
    "monai nsd",
    "medpy hd95",
    "medpy assd",
    "surface-distance hd95",
    "surface-distance asd of the truth",
    "surface-distance asd of the prediction",
    "surface-distance nsd",
]


def row(prediction, truth, spacing, tolerance):
    """The numbers of ``COLUMNS`` for two masks."""
    import monai.metrics
    import surface_distance
    import torch
    from medpy.metric import binary

    pair = prediction, truth
    options = {"include_background": True, "spacing": list(spacing)}
    p, g = (torch.from_numpy(x)[None, None].float() for x in pair)
    hausdorff = monai.metrics.compute_hausdorff_distance
    average = monai.metrics.compute_average_surface_distance
    distances = surface_distance.compute_surface_distances(truth, prediction, spacing)
    numbers = [
        hausdorff(p, g, **options).item(),
        hausdorff(p, g, percentile=95, **options).item(),
        average(p, g, **options).item(),
        average(p, g, symmetric=True, **options).item(),
        monai.metrics.compute_surface_dice(p, g, [tolerance], **options).item(),
        binary.hd95(*pair, voxelspacing=spacing),
        binary.assd(*pair, voxelspacing=spacing),
        surface_distance.compute_robust_hausdorff(distances, 95),
        *surface_distance.compute_average_surface_distance(distances),
        surface_distance.compute_surface_dice_at_tolerance(distances, tolerance),
    ]
    return [float(f"{x:.7g}") for x in numbers]


def rows(prediction, truth, spacing, tolerance):
    """A row for each class that both maps have."""
    result = {}
    for label in np.intersect1d(prediction, truth)[1:].tolist():
        p, g = prediction == label, truth == label
        places = np.argwhere(p | g)
        box = tuple(map(slice, places.min(0), places.max(0) + 1))
        p, g = (np.pad(x[box], 1) for x in (p, g))
        result[label] = row(p, g, spacing, tolerance)
    return result


def main() -> None:
    import maps  # beside the tests that read them

    warnings.filterwarnings("ignore")
    versions = {x: importlib.metadata.version(x) for x in ("monai", "medpy", "surface-distance")}
    parts = [f'"versions": {json.dumps(versions)}', f'"columns": {json.dumps(COLUMNS)}']
    for name, pair in (("organs", maps.organs()), ("brain", maps.brain())):
        lines = ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in rows(*pair).items())
        parts.append(f'"{name}": {{\n{lines}\n}}')
    (HERE / "maps_surface.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
