"""Golden numbers of others' metrics: writes ``metrics_inputs.npz`` and ``peers_metrics.json``.

The tests read only the files; what is named here is needed to remake them and for nothing else:

    pip install torch==2.13.0 monai==1.6.1 torchmetrics==1.9.0 scikit-learn==1.9.1 keras==3.15.1
    pip install jax==0.10.2
    pip install --no-deps segmentation-models-pytorch==0.6.0 panoptica==2.1.7
    pip install scikit-image==0.26.0 nibabel pandas
    python tests/golden/make_golden_metrics.py CLONE

``CLONE`` is a clone of MetricsReloaded, which is no package, at the commit ``METRICS_RELOADED``.

The scheme is that of ``make_golden.py``: a call is text, and the text is what runs. Every call
stands in a table of ``docs/from-metrics.md``.
"""

import importlib.metadata
import json
import os
import pathlib
import runpy
import sys
import warnings
from collections.abc import Callable
from typing import Any

import make_golden
import numpy as np

HERE = pathlib.Path(__file__).parent
METRICS_RELOADED = "cb38dfc0a5ed4fa3bdc559e4960b6e2b93c3b967"

Calls = tuple[dict[str, Any], list[str]]


def make_inputs() -> dict[str, np.ndarray]:
    """The arrays of ``metrics_inputs.npz``, class axis last.

    Class 3 is in the truth of the first image, only predicted in the second, and not in the third.
    """
    rng = np.random.default_rng(20261126)
    shape = (3, 8, 9)

    def maps(frequencies):
        labels = rng.choice(len(frequencies), shape, p=frequencies)
        wrong = rng.choice(len(frequencies), shape, p=frequencies)
        return labels, np.where(rng.random(shape) < 0.4, wrong, labels)

    labels, predictions = maps([0.4, 0.3, 0.2, 0.1])
    labels[1:][labels[1:] == 3] = 0
    predictions[2][predictions[2] == 3] = 1
    masks, mask_predictions = maps([0.6, 0.4])
    multi_labels = rng.random((*shape, 3)) < [0.5, 0.3, 0.1]
    probs = rng.random((*shape, 4)) + np.eye(4)[predictions]
    return {
        "labels": labels.astype(np.int32),
        "predictions": predictions.astype(np.int32),
        "labels_with_void": np.where(rng.random(shape) < 0.85, labels, make_golden.VOID).astype(
            np.int32
        ),
        "labels_without_3": np.where(labels == 3, 0, labels).astype(np.int32),
        "predictions_without_3": np.where(predictions == 3, 1, predictions).astype(np.int32),
        "probs": (probs / probs.sum(-1, keepdims=True)).astype(np.float32),
        "masks": masks.astype(np.int32),
        "mask_predictions": mask_predictions.astype(np.int32),
        "mask_probs": (0.6 * rng.random(shape) + 0.4 * mask_predictions).astype(np.float32),
        "multi_labels": multi_labels,
        "multi_predictions": multi_labels ^ (rng.random((*shape, 3)) < 0.2),
    }


def torch_names(x: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inputs as tensors: ids int64, and what has a class axis channel first."""
    import torch

    torch.set_num_threads(1)  # sums in one order
    names: dict[str, Any] = {"torch": torch}
    for name, array in x.items():
        first = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
        tensor = torch.from_numpy(np.ascontiguousarray(first))
        names[name] = tensor if tensor.is_floating_point() else tensor.long()

    def one_hot(ids):
        return torch.nn.functional.one_hot(ids, 4).movedim(-1, 1)

    return {**names, "one_hot": one_hot}


def monai_calls(x: dict[str, np.ndarray]) -> Calls:
    import monai.metrics

    def aggregate(metric, y_pred, y):
        """The metric of one batch; of a list of one metric, that one."""
        metric(y_pred, y)
        value = metric.aggregate()
        return value[0] if isinstance(value, list) else value

    names = {**vars(monai.metrics), **torch_names(x), "aggregate": aggregate}
    one_hot = names["one_hot"]
    names["y_pred"], names["y"] = one_hot(names["predictions"]), one_hot(names["labels"])
    names["ids_pred"], names["ids"] = names["predictions"][:, None], names["labels"][:, None]
    names["ids_with_void"] = names["labels_with_void"][:, None]
    data = "y_pred, y)"
    rates = [
        f"aggregate(ConfusionMatrixMetric(metric_name='{name}'{options}), {data}"
        for name, options in (
            ("sensitivity", ", reduction='sum_batch'"),
            ("precision", ", reduction='sum_batch'"),
            ("sensitivity", ", reduction='sum'"),
            ("specificity", ", compute_sample=True"),
            ("balanced accuracy", ", compute_sample=True, reduction='mean_batch'"),
        )
    ]
    return names, [
        f"aggregate(DiceMetric(), {data}",
        f"aggregate(DiceMetric(reduction='mean_batch'), {data}",
        f"aggregate(DiceMetric(reduction='mean_channel'), {data}",
        f"aggregate(DiceMetric(reduction='none'), {data}",
        f"aggregate(DiceMetric(ignore_empty=False), {data}",
        f"aggregate(DiceMetric(include_background=False), {data}",
        f"aggregate(DiceMetric(ignore_index=0), {data}",
        "aggregate(DiceMetric(num_classes=4, ignore_index=255), ids_pred, ids_with_void)",
        f"aggregate(MeanIoU(), {data}",
        f"aggregate(MeanIoU(ignore_empty=False, reduction='mean_batch'), {data}",
        f"aggregate(MeanIoU(include_background=False), {data}",
        f"aggregate(MeanIoU(ignore_index=0), {data}",
        "aggregate(DiceMetric(reduction='mean_batch'), multi_predictions, multi_labels)",
        f"aggregate(GeneralizedDiceScore(), {data}",
        f"aggregate(GeneralizedDiceScore(weight_type='simple'), {data}",
        f"aggregate(GeneralizedDiceScore(include_background=False), {data}",
        f"aggregate(FBetaScore(beta=2.0, reduction='sum_batch'), {data}",
        *rates,
    ]


def torchmetrics_calls(x: dict[str, np.ndarray]) -> Calls:
    import torchmetrics.functional.classification as classification
    import torchmetrics.segmentation as segmentation

    def compute(metric, preds, target):
        """The metric of one batch."""
        metric.update(preds, target)
        return metric.compute()

    names = {**vars(classification), **vars(segmentation), **torch_names(x), "compute": compute}
    index = "num_classes=4, input_format='index'"
    data, no_3 = "predictions, labels", "predictions_without_3, labels_without_3"
    averages = ("none", "macro", "micro", "weighted")
    three = "num_classes=3, input_format='index'"
    return names, [
        *(
            f"compute(DiceScore({index}, average='{average}', aggregation_level='{level}'), {data})"
            for level in ("samplewise", "global")
            for average in averages
        ),
        f"compute(DiceScore({index}, include_background=False), {data})",
        f"compute(MeanIoU({index}), {data})",
        f"compute(MeanIoU({index}, per_class=True), {data})",
        f"compute(MeanIoU({index}, per_class=True), {no_3})",
        f"compute(MeanIoU({index}, include_background=False), {data})",
        f"compute(GeneralizedDiceScore({three}), {no_3})",
        f"compute(GeneralizedDiceScore({three}, weight_type='simple'), {no_3})",
        f"compute(GeneralizedDiceScore({three}, include_background=False), {no_3})",
        *(
            f"multiclass_jaccard_index({data}, num_classes=4, average='{average}')"
            for average in averages
        ),
        f"multiclass_jaccard_index({no_3}, num_classes=4)",
        f"multiclass_jaccard_index({no_3}, num_classes=4, average='none')",
        f"multiclass_jaccard_index({no_3}, num_classes=4, average='none', zero_division=1.0)",
        f"multiclass_jaccard_index({data}, num_classes=4, average='none', ignore_index=0)",
        f"multiclass_jaccard_index({data}, num_classes=4, ignore_index=0)",
        "multiclass_jaccard_index(predictions, labels_with_void, num_classes=4, ignore_index=255)",
        f"multiclass_f1_score({data}, num_classes=4)",
        f"multiclass_f1_score({data}, num_classes=4, average='micro')",
        f"multiclass_f1_score({data}, num_classes=4, average='weighted')",
        f"multiclass_f1_score({data}, num_classes=4, multidim_average='samplewise')",
        f"multiclass_f1_score({data}, num_classes=4, average='none', ignore_index=0)",
        f"multiclass_f1_score({data}, num_classes=4, ignore_index=0)",
        f"multiclass_f1_score({no_3}, num_classes=4)",
        "multiclass_precision(predictions_without_3, labels, num_classes=4)",
        f"multiclass_recall({data}, num_classes=4)",
        f"multiclass_specificity({data}, num_classes=4)",
        f"multiclass_accuracy({data}, num_classes=4)",
        f"multiclass_accuracy({data}, num_classes=4, average='micro')",
        *(
            f"multiclass_confusion_matrix({data}, num_classes=4, normalize='{over}')"
            for over in ("true", "pred", "all")
        ),
        f"multiclass_confusion_matrix({no_3}, num_classes=4, normalize='true')",
        f"multiclass_cohen_kappa({data}, num_classes=4)",
        f"multiclass_cohen_kappa({data}, num_classes=4, weights='quadratic')",
        f"multiclass_matthews_corrcoef({data}, num_classes=4)",
        "binary_jaccard_index(mask_predictions, masks)",
        "binary_f1_score(mask_predictions, masks)",
        "binary_matthews_corrcoef(mask_predictions, masks)",
        "multilabel_jaccard_index(multi_predictions, multi_labels, num_labels=3)",
        "multilabel_f1_score(multi_predictions, multi_labels, num_labels=3, average='micro')",
    ]


def sklearn_calls(x: dict[str, np.ndarray]) -> Calls:
    import sklearn.metrics

    names = {**vars(sklearn.metrics), "np": np}
    names |= {name: np.reshape(array, -1) for name, array in x.items() if array.ndim == 3}
    names |= {name: np.reshape(x[name], (-1, 3)) for name in ("multi_labels", "multi_predictions")}
    data, no_3 = "labels, predictions", "labels_without_3, predictions_without_3"
    every = "labels=[0, 1, 2, 3], average='macro'"
    return names, [
        f"f1_score({data}, average=None)",
        f"f1_score({data}, average='macro')",
        f"f1_score({data}, average='micro')",
        f"f1_score({data}, average='weighted')",
        f"f1_score({data}, labels=[1, 2, 3], average='macro')",
        f"f1_score({data}, labels=[1, 2, 3], average='micro')",
        f"f1_score({no_3}, average='macro')",
        f"f1_score({no_3}, {every}, zero_division=0.0)",
        f"f1_score({no_3}, {every}, zero_division=1.0)",
        f"f1_score({no_3}, {every}, zero_division=np.nan)",
        "f1_score(labels[labels != 0], predictions[labels != 0], average=None)",
        f"fbeta_score({data}, beta=2.0, average=None)",
        f"jaccard_score({data}, average=None)",
        f"jaccard_score({data}, average='macro')",
        f"jaccard_score({data}, average='micro')",
        f"jaccard_score({data}, average='weighted')",
        f"precision_score({data}, average=None)",
        "precision_score(labels, predictions_without_3, average='macro', zero_division=0.0)",
        "precision_score(labels, predictions_without_3, average='macro', zero_division=np.nan)",
        f"recall_score({data}, average='macro')",
        f"recall_score({data}, average='weighted')",
        f"accuracy_score({data})",
        f"balanced_accuracy_score({data})",
        f"balanced_accuracy_score({data}, adjusted=True)",
        f"cohen_kappa_score({data})",
        f"cohen_kappa_score({data}, weights='linear')",
        f"matthews_corrcoef({data})",
        f"confusion_matrix({data})",
        f"confusion_matrix({data}, sample_weight=1.0 + 2.0 * (labels == 3))",
        f"f1_score({data}, average=None, sample_weight=1.0 + 2.0 * (labels == 3))",
        f"confusion_matrix({data}, normalize='true')",
        f"confusion_matrix({data}, normalize='pred')",
        f"confusion_matrix({data}, normalize='all')",
        f"multilabel_confusion_matrix({data})",
        "f1_score(masks, mask_predictions)",
        "jaccard_score(masks, mask_predictions)",
        "balanced_accuracy_score(masks, mask_predictions)",
        "matthews_corrcoef(masks, mask_predictions)",
        "class_likelihood_ratios(masks, mask_predictions)",
        "f1_score(multi_labels, multi_predictions, average=None)",
        "jaccard_score(multi_labels, multi_predictions, average='micro')",
        "hamming_loss(multi_labels, multi_predictions)",
    ]


def keras_calls(x: dict[str, np.ndarray]) -> Calls:
    import keras

    def result(metric, y_true, y_pred):
        """The metric of one batch."""
        metric.update_state(y_true, y_pred)
        return metric.result()

    names = {**x, **vars(keras.metrics), "np": np, "result": result}
    names["one_hot_labels"] = np.eye(4, dtype=np.float32)[x["labels"]]
    data, no_3 = "labels, predictions)", "labels_without_3, predictions_without_3)"
    probs = "one_hot_labels, probs)"
    pixels = "one_hot_labels.reshape(-1, 4), probs.reshape(-1, 4))"
    masks = "masks, mask_probs)"
    return names, [
        f"result(MeanIoU(num_classes=4), {data}",
        f"result(MeanIoU(num_classes=4), {no_3}",
        f"result(MeanIoU(num_classes=4, ignore_class=0), {data}",
        "result(MeanIoU(num_classes=4, ignore_class=255), labels_with_void, predictions)",
        f"result(IoU(num_classes=4, target_class_ids=[1, 2]), {data}",
        f"result(OneHotMeanIoU(num_classes=4), {probs}",
        f"result(OneHotIoU(num_classes=4, target_class_ids=[3]), {probs}",
        f"result(BinaryIoU(target_class_ids=[1]), {masks}",
        f"result(BinaryIoU(target_class_ids=[0, 1], threshold=0.3), {masks}",
        *(
            f"result(F1Score(average={average!r}), {pixels}"
            for average in (None, "macro", "micro", "weighted")
        ),
        f"result(FBetaScore(beta=2.0, average='macro'), {pixels}",
        f"result(Precision(thresholds=0.3), {masks}",
        f"result(Recall(), {masks}",
        f"result(BinaryAccuracy(), {masks}",
        "result(SparseCategoricalAccuracy(), labels, probs)",
        f"result(CategoricalAccuracy(), {probs}",
    ]


def smp_calls(x: dict[str, np.ndarray]) -> Calls:
    names, _ = make_golden.smp_calls(dict(np.load(HERE / "inputs.npz")))
    names |= torch_names(x)
    get_stats, ids = names["get_stats"], {"mode": "multiclass", "num_classes": 4}
    names |= {
        "stats": get_stats(names["predictions"], names["labels"], **ids),
        "stats_without_3": get_stats(
            names["predictions_without_3"], names["labels_without_3"], **ids
        ),
        "stats_with_void": get_stats(
            names["predictions"], names["labels_with_void"], **ids, ignore_index=255
        ),
        "stats_multi": get_stats(
            names["multi_predictions"], names["multi_labels"], mode="multilabel"
        ),
    }
    return names, [
        "iou_score(*stats, reduction='micro')",
        "iou_score(*stats, reduction='macro')",
        "iou_score(*stats, reduction='weighted', class_weights=[0.1, 0.2, 0.3, 0.4])",
        "iou_score(*stats, reduction='micro-imagewise')",
        "iou_score(*stats, reduction='macro-imagewise', zero_division=1.0)",
        "iou_score(*stats_without_3, reduction='macro', zero_division=0.0)",
        "iou_score(*stats_with_void, reduction='macro')",
        "f1_score(*stats_multi, reduction='macro')",
        "fbeta_score(*stats, beta=2.0, reduction='macro')",
        "recall(*stats, reduction='macro')",
        "balanced_accuracy(*stats, reduction='macro')",
        "accuracy(*stats, reduction='micro')",
    ]


def metricsreloaded_calls(x: dict[str, np.ndarray]) -> Calls:
    sys.path.insert(0, sys.argv[1])
    from MetricsReloaded.metrics.pairwise_measures import BinaryPairwiseMeasures

    pair = (x["mask_predictions"][0], x["masks"][0])
    names = {
        "measures": BinaryPairwiseMeasures(*pair),
        "one_in_ten": BinaryPairwiseMeasures(*pair, dict_args={"exchange_rate": 1 / 9}),
        "spaced": BinaryPairwiseMeasures(*pair, pixdim=[2.0, 0.5]),
    }
    return names, [
        "measures.dsc()",
        "measures.youden_index()",
        "measures.positive_likelihood_ratio()",
        "measures.net_benefit_treated()",
        "one_in_ten.net_benefit_treated()",
        "measures.absolute_volume_difference_ratio()",
        "measures.topology_precision()",
        "measures.topology_sensitivity()",
        "measures.centreline_dsc()",
        "measures.com_dist()",
        "spaced.com_dist()",
    ]


def panoptica_calls(x: dict[str, np.ndarray]) -> Calls:
    """Its formulas, out of their files: the package needs many others."""
    names: dict[str, Any] = {
        "reference": x["masks"][0] == 1,
        "prediction": x["mask_predictions"][0] == 1,
    }
    for file in importlib.metadata.files("panoptica") or []:
        if file.name in ("cldice.py", "center_distance.py"):
            names |= runpy.run_path(str(file.locate()))
    return names, [
        "_compute_centerline_dice_coefficient(reference, prediction)",
        "_compute_center_distance(reference, prediction)",
        "_compute_center_distance(reference, prediction, (2.0, 0.5))",
    ]


PEERS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], Calls]]] = {
    "monai": ("monai", monai_calls),
    "torchmetrics": ("torchmetrics", torchmetrics_calls),
    "sklearn": ("scikit-learn", sklearn_calls),
    "keras": ("keras", keras_calls),
    "smp": ("segmentation-models-pytorch", smp_calls),
    "metricsreloaded": ("MetricsReloaded", metricsreloaded_calls),
    "panoptica": ("panoptica", panoptica_calls),
}


def main() -> None:
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.filterwarnings("ignore")
    inputs = make_inputs()
    np.savez_compressed(HERE / "metrics_inputs.npz", **inputs)
    golden = {}
    for peer, (package, calls_of) in PEERS.items():
        names, calls = calls_of(inputs)
        cases = {call: {"value": make_golden.plain(eval(call, dict(names)))} for call in calls}
        version = METRICS_RELOADED
        if peer != "metricsreloaded":
            version = importlib.metadata.version(package).partition("+")[0]
        golden[peer] = {"package": package, "version": version, "cases": cases}
    (HERE / "peers_metrics.json").write_text(make_golden.dump(golden))
    print(json.dumps({peer: len(library["cases"]) for peer, library in golden.items()}))


if __name__ == "__main__":
    main()
