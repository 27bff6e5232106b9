"""Golden numbers of others' surface distances: ``surface_inputs.npz`` and ``peers_surface.json``.

The tests read only the files; what is named here is needed to remake them and for nothing else:

    pip install torch==2.13.0 monai==1.6.1 torchmetrics==1.9.0 scipy==1.17.1 vtk==9.7.2
    pip install --no-deps medpy==0.5.2 surface-distance==0.1 SimpleITK==2.5.7 panoptica==2.1.7
    pip install --no-deps seg-metrics==1.2.8 pymeshmetrics==1.4.1
    pip install scikit-image nibabel pandas matplotlib medutils plotly "rich<14" ruamel.yaml
    python tests/golden/make_golden_surface.py CLONE

``CLONE`` is a clone of MetricsReloaded, which is no package, at the commit ``METRICS_RELOADED``.

The scheme is that of ``make_golden.py``: a call is text, and the text is what runs. The cases of a
library stand in the tables of ``docs/from-metrics.md``; those under "faults" are what jaxseg does
otherwise, for the table of empty masks in ``docs/surface.md`` and for the tests.
"""

import importlib.metadata
import json
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import make_golden
import numpy as np

HERE = pathlib.Path(__file__).parent
METRICS_RELOADED = "cb38dfc0a5ed4fa3bdc559e4960b6e2b93c3b967"
FLAT, DEEP = (2.0, 0.5), (3.0, 1.0, 0.5)  # spacings

# x is in both masks, g in the truth alone, p in the prediction alone.
FIGURE = """
    ....................
    .........xgpggg.....
    ......pgxxxxxxx.....
    ....gxxxxxxxxxx.....
    ....gxxxxxxxxxxx....
    ...gxxxxxxxxxxxx....
    ...xxxxxxxxxxxxxg...
    ..ppxxxxxxxxxxxxx...
    ..ppxxxxxxxxxxxxxp..
    ...pxxxxxxxxxxxxpp..
    ....xxxxxxxxxxxxxp..
    ....gxxxxxxxxxxxp...
    .....gxxxxxxxxxp....
    .....ppxxxxxxxx.....
    ......pxxxxxxp......
    ........xpppppp.....
    .........pppppp.....
    ...........ppp......
    ....................
    ....................
"""

Names = dict[str, Any]
Calls = tuple[Names, list[str], list[str]]  # names, cases, faults


def make_inputs() -> dict[str, np.ndarray]:
    """The arrays of ``surface_inputs.npz``: pairs of masks, in 2-D and in 3-D."""
    figure = np.array([list(row) for row in FIGURE.split()])
    z, y, x = np.mgrid[:9, :14, :12]
    volume = (1.5 * (z - 3)) ** 2 + (y - 6) ** 2 + (x - 5) ** 2 <= 30  # cut by the border
    moved = (1.5 * (z - 4)) ** 2 + (y - 7) ** 2 + 1.3 * (x - 5) ** 2 <= 24
    wide = np.zeros((2, 8, 20), bool)
    wide[0, 2:6, 3:9] = wide[1, 3:7, 6:14] = True
    pixel = np.zeros((2, 7, 7), bool)
    pixel[0, 3, 2] = pixel[1, 3, 4] = True
    return {
        "labels": (figure == "x") | (figure == "g"),
        "predictions": (figure == "x") | (figure == "p"),
        "volume_labels": volume,
        "volume_predictions": moved | ((z == 7) & (abs(y - 12) < 1) & (x > 8)),
        "empty": np.zeros(figure.shape, bool),
        "wide_labels": wide[0],
        "wide_predictions": wide[1],
        "pixel_labels": pixel[0],
        "pixel_predictions": pixel[1],
    }


def monai_calls(x: Names) -> Calls:
    import monai.metrics
    import torch

    names = {**vars(monai.metrics), "torch": torch}
    for name, mask in x.items():
        names[name] = torch.from_numpy(mask)[None, None].float()
    flat, empty, none = "predictions, labels", "empty, labels", "empty, empty"
    volume = "volume_predictions, volume_labels"
    kinds = [(flat, ""), (flat, ", spacing=[2.0, 0.5]"), (volume, ", spacing=[3.0, 1.0, 0.5]")]
    on = ", include_background=True"
    hausdorff, average = "compute_hausdorff_distance", "compute_average_surface_distance"
    return (
        names,
        [
            call
            for data, spacing in kinds
            for call in (
                f"{hausdorff}({data}{on}{spacing})",
                f"{hausdorff}({data}, percentile=95{on}{spacing})",
                f"{hausdorff}({data}, percentile=95, directed=True{on}{spacing})",
                f"{average}({data}{on}{spacing})",
                f"{average}({data}, symmetric=True{on}{spacing})",
                f"compute_surface_dice({data}, [1.0]{on}{spacing})",
                f"compute_surface_dice({data}, [1.0], use_subvoxels=True{on}{spacing})",
            )
        ],
        [
            call
            for data in (empty, none)
            for call in (
                f"{hausdorff}({data}{on})",
                f"{hausdorff}({data}, percentile=95{on})",
                f"{average}({data}, symmetric=True{on})",
                f"compute_surface_dice({data}, [1.0]{on})",
            )
        ]
        + [
            f"{hausdorff}({flat}, percentile=0{on})",
            f"{hausdorff}({flat}, distance_metric='chessboard', spacing=[2.0, 0.5]{on})",
            f"{hausdorff}({flat}, distance_metric='chessboard'{on})",
            f"{average}(pixel_predictions, pixel_labels{on})",
        ],
    )


def medpy_calls(x: Names) -> Calls:
    from medpy.metric import binary

    names = {**x, **{name: getattr(binary, name) for name in ("hd", "hd95", "asd", "assd")}}
    kinds = [
        ("predictions, labels", ""),
        ("predictions, labels", ", voxelspacing=(2.0, 0.5)"),
        ("volume_predictions, volume_labels", ", voxelspacing=(3.0, 1.0, 0.5)"),
    ]
    functions = ("hd", "hd95", "asd", "assd")
    return (
        names,
        [f"{f}({data}{spacing})" for data, spacing in kinds for f in functions],
        [f"{f}({data})" for data in ("empty, labels", "empty, empty") for f in ("hd95", "assd")],
    )


def surface_distance_calls(x: Names) -> Calls:
    import surface_distance

    names = {n: v for n, v in vars(surface_distance).items() if n.startswith("compute")}
    names |= {**x, "np": np}
    kinds = [
        ("labels, predictions", (1.0, 1.0)),
        ("labels, predictions", FLAT),
        ("volume_labels, volume_predictions", DEEP),
    ]
    measures = (
        "compute_robust_hausdorff({}, 100)",
        "compute_robust_hausdorff({}, 95)",
        "compute_average_surface_distance({})",
        "np.mean(compute_surface_overlap_at_tolerance({}, 1.0))",
        "compute_surface_dice_at_tolerance({}, 1.0)",
    )
    return (
        names,
        [
            measure.format(f"compute_surface_distances({data}, {spacing})")
            for data, spacing in kinds
            for measure in measures
        ],
        [
            measure.format(f"compute_surface_distances({data}, (1.0, 1.0))")
            for data in ("labels, empty", "empty, empty", "pixel_labels, pixel_predictions")
            for measure in measures
        ],
    )


def metricsreloaded_calls(x: Names) -> Calls:
    sys.path.insert(0, sys.argv[1])
    from MetricsReloaded.metrics.pairwise_measures import BinaryPairwiseMeasures

    def measures(prediction, reference, pixdim=None, **dict_args):
        """The measures of one pair of masks."""
        pair = (prediction.astype(int), reference.astype(int))
        return BinaryPairwiseMeasures(*pair, pixdim=pixdim, dict_args=dict_args)

    kinds = [
        ("predictions, labels", ""),
        ("predictions, labels", ", [2.0, 0.5]"),
        ("volume_predictions, volume_labels", ", [3.0, 1.0, 0.5]"),
    ]
    functions = (
        "measures({}).measured_hausdorff_distance()",
        "measures({}, hd_perc=95).measured_hausdorff_distance_perc()",
        "measures({}).measured_average_distance()",
        "measures({}).measured_masd()",
        "measures({}, nsd=1).normalised_surface_distance()",
    )
    return (
        {**x, "measures": measures},
        [f.format(data + spacing) for data, spacing in kinds for f in functions]
        + [
            "measures(predictions, labels).boundary_iou()",
            "measures(predictions, labels, boundary_dist=2).boundary_iou()",
        ],
        [f.format(data) for data in ("empty, labels", "empty, empty") for f in functions],
    )


def torchmetrics_calls(x: Names) -> Calls:
    import torch
    from torchmetrics.functional.segmentation import hausdorff_distance

    names = {name: torch.from_numpy(mask)[None, None].int() for name, mask in x.items()}
    names |= {"hausdorff_distance": hausdorff_distance}
    options = "num_classes=1, include_background=True"
    return (
        names,
        [
            f"hausdorff_distance(predictions, labels, {options})",
            f"hausdorff_distance(predictions, labels, {options}, directed=True)",
            f"hausdorff_distance(predictions, labels, {options}, spacing=[2.0, 0.5])",
        ],
        [
            f"hausdorff_distance({data}, {options})"
            for data in (
                "empty, labels",
                "empty, empty",
                "wide_predictions, wide_labels",
                "volume_predictions, volume_labels",
            )
        ],
    )


def panoptica_calls(x: Names) -> Calls:
    from panoptica.metrics.assd import _average_symmetric_surface_distance
    from panoptica.metrics.hausdorff_distance import (
        _compute_hausdorff_distance,
        _compute_hausdorff_distance95,
    )
    from panoptica.metrics.normalized_surface_dice import _compute_normalized_surface_dice

    names = dict(x)
    for function in (
        _average_symmetric_surface_distance,
        _compute_hausdorff_distance,
        _compute_hausdorff_distance95,
        _compute_normalized_surface_dice,
    ):
        names[function.__name__] = function
    kinds = [
        ("labels, predictions", "", ", threshold=1.0"),
        (
            "volume_labels, volume_predictions",
            ", voxelspacing=(3.0, 1.0, 0.5)",
            ", voxelspacing=(3.0, 1.0, 0.5), threshold=1.0",
        ),
    ]
    return (
        names,
        [
            call
            for data, spacing, tolerance in kinds
            for call in (
                f"_compute_hausdorff_distance({data}{spacing})",
                f"_compute_hausdorff_distance95({data}{spacing})",
                f"_average_symmetric_surface_distance({data}{spacing})",
                f"_compute_normalized_surface_dice({data}{tolerance})",
            )
        ],
        [
            call
            for data in ("labels, empty", "empty, empty")
            for call in (
                f"_compute_hausdorff_distance95({data})",
                f"_average_symmetric_surface_distance({data})",
            )
        ],
    )


def simpleitk_calls(x: Names) -> Calls:
    import SimpleITK as sitk

    def hausdorff(predictions, labels, spacing=(1.0, 1.0)):
        """The filter after it ran; spacing in the order of its axes, the last of NumPy's first."""
        images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (predictions, labels)]
        for image in images:
            image.SetSpacing(spacing)
        result = sitk.HausdorffDistanceImageFilter()
        result.Execute(*images)
        return result

    return (
        {**x, "hausdorff": hausdorff},
        [
            "hausdorff(predictions, labels).GetHausdorffDistance()",
            "hausdorff(predictions, labels).GetAverageHausdorffDistance()",
            "hausdorff(predictions, labels, (0.5, 2.0)).GetHausdorffDistance()",
            "hausdorff(volume_predictions, volume_labels, (0.5, 1.0, 3.0)).GetHausdorffDistance()",
        ],
        [
            "hausdorff(empty, labels).GetHausdorffDistance()",
            "hausdorff(empty, empty).GetHausdorffDistance()",
        ],
    )


def seg_metrics_calls(x: Names) -> Calls:
    from seg_metrics.seg_metrics import computeQualityMeasures

    def measure(name, predictions, labels, spacing, fully_connected):
        """One measure; its surfaces have the pixels that a corner, or a face, joins to others."""
        pair = (predictions.astype(np.uint8), labels.astype(np.uint8))
        return computeQualityMeasures(
            *pair, spacing, metrics_names=[name], fullyConnected=fully_connected
        )[name]

    return (
        {**x, "measure": measure},
        [],
        [
            f"measure({m!r}, {d}, (1.0, 1.0), {full})"
            for d in ("predictions, labels", "empty, labels", "empty, empty")
            for full in (True, False)
            for m in ("hd", "hd95", "msd")
        ],
    )


def meshmetrics_calls(x: Names) -> Calls:
    from meshmetrics import DistanceMetrics

    def mesh(predictions, labels, spacing=(1.0, 1.0)):
        """The distances of the triangulated surfaces."""
        result = DistanceMetrics(verbose=False)
        result.set_input(labels, predictions, spacing=spacing)
        return result

    functions = ("hd()", "hd(95)", "masd()", "assd()", "nsd(1.0)")
    data = ("predictions, labels", "empty, labels", "empty, empty")
    return {**x, "mesh": mesh}, [], [f"mesh({d}).{f}" for d in data for f in functions]


PEERS: dict[str, tuple[str, Callable[[Names], Calls]]] = {
    "monai": ("monai", monai_calls),
    "medpy": ("medpy", medpy_calls),
    "surface_distance": ("surface-distance", surface_distance_calls),
    "metricsreloaded": ("MetricsReloaded", metricsreloaded_calls),
    "torchmetrics": ("torchmetrics", torchmetrics_calls),
    "panoptica": ("panoptica", panoptica_calls),
    "simpleitk": ("SimpleITK", simpleitk_calls),
    "seg_metrics": ("seg-metrics", seg_metrics_calls),
    "meshmetrics": ("pymeshmetrics", meshmetrics_calls),
}


def outcome(call: str, names: Names) -> Any:
    """What the call gives, or the name of the exception that it raises."""
    try:
        return make_golden.plain(eval(call, dict(names)))
    except Exception as error:
        return type(error).__name__


def main() -> None:
    warnings.filterwarnings("ignore")
    inputs = make_inputs()
    np.savez_compressed(HERE / "surface_inputs.npz", **inputs)
    golden = {}
    for peer, (package, calls_of) in PEERS.items():
        names, *calls = calls_of(inputs)
        version = METRICS_RELOADED
        if peer != "metricsreloaded":
            version = importlib.metadata.version(package).partition("+")[0]
        for key, texts in zip((peer, f"{peer} faults"), calls, strict=True):
            cases = {call: {"value": outcome(call, names)} for call in texts}
            golden[key] = {"package": package, "version": version, "cases": cases}
    (HERE / "peers_surface.json").write_text(make_golden.dump(golden))
    print(json.dumps({peer: len(library["cases"]) for peer, library in golden.items()}))


if __name__ == "__main__":
    main()
