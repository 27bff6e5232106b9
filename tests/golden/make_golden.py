"""Golden numbers of other libraries: runs them and writes ``inputs.npz`` and ``peers.json``.

The tests read only the two files; the libraries are needed to remake them and for nothing else:

    pip install torch==2.13.0 monai==1.6.1 torchmetrics==1.9.0 keras==3.15.1
    pip install google-metrax==0.2.4 jax==0.10.2 optax==0.2.8
    pip install --no-deps segmentation-models-pytorch==0.6.0
    python tests/golden/make_golden.py

It takes half a minute on a CPU. Inputs come from one seeded generator and sums run on one thread,
so a second run on the same machine writes the same bytes.

Each library has a function that returns the names its calls use and the calls, as text. The text is
what runs, so the call in ``peers.json`` is the one that gave the value beside it.
"""

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).parent
VOID = 255

Calls = tuple[dict[str, Any], dict[str, str]]


def make_inputs() -> dict[str, np.ndarray]:
    """The arrays of ``inputs.npz``: class axis last; ids int32, masks bool, logits float32."""
    rng = np.random.default_rng(20261122)

    def scene(shape, frequencies):
        """Labels of the given class frequencies, and logits that are right for most of them."""
        num_classes = len(frequencies)
        labels = rng.choice(num_classes, size=shape, p=frequencies).astype(np.int32)
        noise = rng.normal(size=(*shape, num_classes))
        return labels, (1.5 * noise + 2.0 * np.eye(num_classes)[labels]).astype(np.float32)

    shape = (2, 12, 13)
    labels, logits = scene(shape, [0.5, 0.25, 0.15, 0.1])
    volume_labels, volume_logits = scene((1, 5, 6, 7), [0.6, 0.3, 0.1])
    mask_labels = (rng.random(shape) < 0.3).astype(np.int32)
    mask_logits = 1.5 * rng.normal(size=(*shape, 1)) + 2.0 * mask_labels[..., None] - 1.0
    multi_labels = rng.random((*shape, 3)) < [0.5, 0.3, 0.1]
    multi_predictions = multi_labels ^ (rng.random((*shape, 3)) < 0.2)
    valid = rng.random(shape) < 0.85
    predictions = np.argmax(logits, axis=-1).astype(np.int32)
    return {
        "logits": logits,
        "labels": labels,
        "predictions": predictions,
        # class 3 is in no label; "predictions" has false positives of it, the next has none
        "labels_without_3": np.where(labels == 3, 0, labels).astype(np.int32),
        "predictions_without_3": np.where(predictions == 3, 1, predictions).astype(np.int32),
        "valid": valid,
        "labels_with_void": np.where(valid, labels, VOID).astype(np.int32),
        "mask_logits": mask_logits.astype(np.float32),
        "mask_labels": mask_labels,
        "mask_predictions": (mask_logits[..., 0] > 0).astype(np.int32),
        "multi_labels": multi_labels,
        "multi_predictions": multi_predictions,
        "volume_logits": volume_logits,
        "volume_labels": volume_labels,
        "class_weights": np.array([0.5, 1.0, 2.0, 4.0], np.float32),
        # two images of four pixels on which every order of averaging gives another number (t55)
        "order_labels": np.array([[[0, 0, 0, 0]], [[1, 1, 1, 1]]], np.int32),
        "order_predictions": np.array([[[0, 0, 0, 0]], [[0, 0, 1, 1]]], np.int32),
    }


def torch_names(x: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inputs as torch tensors: ids int64; what has a class axis is channel first and float."""
    import torch

    torch.set_num_threads(1)  # sums in one order
    dense = ("logits", "mask_logits", "volume_logits", "multi_labels", "multi_predictions")
    names = {name: torch.from_numpy(x[name]).long() for name in x if x[name].dtype == np.int32}
    for name in dense:
        first = np.ascontiguousarray(np.moveaxis(x[name], -1, 1).astype(np.float32))
        names[name] = torch.from_numpy(first)

    def one_hot(ids):
        return torch.nn.functional.one_hot(ids, 4).movedim(-1, 1).float()

    def value_and_gradient(function, values, truth):
        """The loss and its gradient at the first element of ``values``."""
        values = values.clone().requires_grad_()
        value = function(values, truth)
        value.backward()
        return [value.item(), values.grad.flatten()[0].item()]

    return {"torch": torch, "one_hot": one_hot, "value_and_gradient": value_and_gradient, **names}


def monai_calls(x: dict[str, np.ndarray]) -> Calls:
    import monai.losses
    import monai.metrics

    names = {**vars(monai.losses), **vars(monai.metrics), **torch_names(x)}
    for name in ("labels", "labels_with_void", "labels_without_3", "mask_labels", "volume_labels"):
        names[f"{name}_1"] = names[name][:, None]
    names["empty"] = names["torch"].zeros(1, 1, 4, 4)
    names["half"] = names["torch"].ones(1, 1, 300, 300, dtype=names["torch"].float16)
    names["mask"] = names["mask_labels_1"].float()

    multi = "softmax=True, to_onehot_y=True"
    one = "smooth_nr=1, smooth_dr=1"
    small = "smooth_nr=1e-5, smooth_dr=1e-5"
    data, masks = "(logits, labels_1)", "(mask_logits, mask_labels_1)"
    calls = {
        "dice_loss_smooth_1": f"DiceLoss({multi}, {one}){data}",
        "dice_loss_smooth_1e-05": f"DiceLoss({multi}, {small}){data}",
        "dice_loss_smooth_nr_0": f"DiceLoss({multi}, smooth_nr=0, smooth_dr=1e-3){data}",
        "dice_loss_none": f"DiceLoss({multi}, {one}, reduction='none'){data}[:, :, 0, 0]",
        "dice_loss_batch": f"DiceLoss({multi}, {one}, batch=True){data}",
        "dice_loss_foreground": f"DiceLoss({multi}, {one}, include_background=False){data}",
        "dice_loss_jaccard": f"DiceLoss({multi}, {one}, jaccard=True){data}",
        "dice_loss_ignore_index": (
            f"DiceLoss({multi}, {one}, ignore_index=255)(logits, labels_with_void_1)"
        ),
        "dice_loss_absent_class": f"DiceLoss({multi}, {one})(logits, labels_without_3_1)",
        "dice_loss_volume": f"DiceLoss({multi}, {one})(volume_logits, volume_labels_1)",
        "dice_loss_sigmoid": f"DiceLoss(sigmoid=True, {one}){masks}",
        "tversky_loss_0.3_0.7": f"TverskyLoss({multi}, {one}, alpha=0.3, beta=0.7){data}",
        "tversky_loss_0.7_0.3": f"TverskyLoss({multi}, {one}, alpha=0.7, beta=0.3){data}",
        "dice_ce_loss": f"DiceCELoss({multi}, {one}){data}",
        "dice_ce_loss_lambda": (
            f"DiceCELoss({multi}, {one}, batch=True, lambda_dice=0.3, lambda_ce=0.7, "
            f"label_smoothing=0.1){data}"
        ),
        "dice_ce_loss_foreground": f"DiceCELoss({multi}, {one}, include_background=False){data}",
        "dice_ce_loss_sigmoid": f"DiceCELoss(sigmoid=True, {one})(mask_logits, mask)",
    }
    for name in ("dice", "iou"):
        no_3 = "one_hot(labels_without_3)"
        calls |= {
            name: f"compute_{name}(one_hot(predictions), one_hot(labels))",
            f"{name}_multi_label": f"compute_{name}(multi_predictions, multi_labels)",
            f"{name}_absent_class": f"compute_{name}(one_hot(predictions_without_3), {no_3})",
            f"{name}_false_positives_only": f"compute_{name}(one_hot(predictions), {no_3})",
            f"{name}_false_positives_only_ignore_empty_false": (
                f"compute_{name}(one_hot(predictions), {no_3}, ignore_empty=False)"
            ),
        }
    for weight in ("square", "simple", "uniform"):
        for suffix, labels in (("", "labels"), ("_absent_class", "labels_without_3")):
            calls[f"generalized_dice_{weight}{suffix}"] = (
                f"compute_generalized_dice(one_hot(predictions), one_hot({labels}), "
                f"weight_type='{weight}', sum_over_classes=True)[:, 0]"
            )
    matrix = "get_confusion_matrix(one_hot(predictions), one_hot(labels))"
    calls["confusion_matrix"] = matrix  # tp, fp, tn, fn
    for metric in (
        "sensitivity",
        "specificity",
        "precision",
        "negative predictive value",
        "false positive rate",
        "false negative rate",
        "false discovery rate",
        "false omission rate",
        "accuracy",
        "balanced accuracy",
        "matthews correlation coefficient",
        "fowlkes mallows index",
        "informedness",
        "markedness",
        "f1 score",
        "threat score",
    ):
        calls[metric.replace(" ", "_")] = f"compute_confusion_matrix_metric('{metric}', {matrix})"
    calls |= {
        "t3_empty_smooth_0": (
            "value_and_gradient(DiceLoss(smooth_nr=0, smooth_dr=0), empty, empty)"
        ),
        "t4_gradient_of_empty": "value_and_gradient(DiceLoss(), empty, empty)[1]",
        "t6_float16_dice_loss": "DiceLoss()(half, half)",
        "t6_float16_iou": "compute_iou(half, half)[0, 0]",
        "t43_masks_of_255_dice_loss": "DiceLoss()(mask, 255 * mask)",
        "t43_masks_of_255_dice": "compute_dice(255 * mask, 255 * mask)",
        "t43_masks_of_255_iou": "compute_iou(255 * mask, 255 * mask)",
        "t44_probabilities_dice": "compute_dice(0.6 * mask, mask)",
    }
    return names, calls


def smp_calls(x: dict[str, np.ndarray]) -> Calls:
    # SMP's __init__ imports every encoder and with them timm and torchvision, which its losses and
    # metrics do not use. An empty module with the package's path stands in for it, so that only the
    # two subpackages are loaded.
    package = "segmentation_models_pytorch"
    module = types.ModuleType(package)
    module.__spec__ = importlib.machinery.ModuleSpec(package, None, is_package=True)
    module.__path__ = list(importlib.util.find_spec(package).submodule_search_locations)
    sys.modules[package] = module
    losses = importlib.import_module(f"{package}.losses")
    metrics = importlib.import_module(f"{package}.metrics")

    names = {**vars(losses), **vars(metrics), **torch_names(x), "MULTI": "multiclass"}
    torch = names["torch"]
    names["multi_labels"], names["multi_predictions"] = (
        names[name].long() for name in ("multi_labels", "multi_predictions")
    )
    names["mask_labels_1"] = names["mask_labels"][:, None]
    names["empty"] = torch.zeros(1, 1, 4, 4)
    names["small_object"] = torch.zeros(1, 1, 2048, 2048)
    names["small_object"][0, 0, 0, :3] = 1
    names["stack"] = torch.stack
    names["ids"] = torch.tensor

    data, masks, void = (
        "(logits, labels)",
        "(mask_logits, mask_labels)",
        "(logits, labels_with_void)",
    )
    calls = {}
    for short, name in (("dice", "DiceLoss"), ("jaccard", "JaccardLoss")):
        for smooth in (0, 1):
            arguments = f"smooth={smooth}, eps=1e-7"
            calls[f"{short}_loss_smooth_{smooth}"] = f"{name}('multiclass', {arguments}){data}"
            calls[f"{short}_loss_binary_smooth_{smooth}"] = f"{name}('binary', {arguments}){masks}"
        calls[f"{short}_loss_ignore_index"] = (
            f"{name}('multiclass', smooth=1, ignore_index=255){void}"
        )
    stats = "get_stats(predictions, labels, mode='multiclass', num_classes=4)"
    calls |= {
        "dice_loss_class_weights": (
            f"DiceLoss('multiclass', smooth=1, class_weights=[0.5, 1, 2, 4]){data}"
        ),
        "tversky_loss_0.3_0.7": f"TverskyLoss('multiclass', smooth=1, alpha=0.3, beta=0.7){data}",
        "tversky_loss_0.7_0.3": f"TverskyLoss('multiclass', smooth=1, alpha=0.7, beta=0.3){data}",
        "tversky_loss_gamma": (
            f"TverskyLoss('multiclass', smooth=1, alpha=0.3, beta=0.7, gamma=0.75){data}"
        ),
        "get_stats": f"stack({stats})",  # tp, fp, fn, tn
        "get_stats_ignore_index": (
            "stack(get_stats(predictions, labels_with_void, mode='multiclass', num_classes=4, "
            "ignore_index=255))"
        ),
        "get_stats_multi_label": (
            "stack(get_stats(multi_predictions, multi_labels, mode='multilabel'))"
        ),
    }
    for metric in (
        "iou_score",
        "f1_score",
        "accuracy",
        "precision",
        "recall",
        "specificity",
        "balanced_accuracy",
        "negative_predictive_value",
        "false_negative_rate",
        "false_positive_rate",
        "false_discovery_rate",
        "false_omission_rate",
    ):
        calls[metric] = f"{metric}(*{stats}, reduction='none')"
    calls["fbeta_score_2"] = f"fbeta_score(*{stats}, beta=2.0, reduction='none')"
    for reduction in ("micro", "macro", "micro-imagewise", "macro-imagewise"):
        calls[f"iou_score_{reduction}"] = f"iou_score(*{stats}, reduction='{reduction}')"
    perfect = "ids([[0, 0, 1, 1]]), ids([[0, 0, 1, 1]]), mode='multiclass', num_classes=3"
    calls |= {
        "t5_empty_target": (
            "value_and_gradient(DiceLoss('binary', from_logits=False), 1 - empty, empty)"
        ),
        "t9_small_object": (
            "1 - DiceLoss('binary', from_logits=False)(0 * small_object + 0.3, small_object)"
        ),
        "t21_weights_of_a_perfect_map": (
            "iou_score(*get_stats(labels, labels, mode='multiclass', num_classes=4), "
            "reduction='macro', class_weights=[1.0, 1.0, 1.0, 1.0])"
        ),
        "t41_masks_of_255": ("stack(get_stats(255 * mask_labels_1, mask_labels_1, mode='binary'))"),
        "t48_label_outside": (
            "stack(get_stats(ids([[0, 0, 9, 1]]), ids([[0, 0, 1, 1]]), mode='multiclass', "
            "num_classes=2))"
        ),
        "t51_absent_class": f"iou_score(*get_stats({perfect}), reduction='none')",
    }
    return names, calls


def torch_calls(x: dict[str, np.ndarray]) -> Calls:
    names = torch_names(x)
    names |= vars(names["torch"].nn)
    names["weight"] = names["torch"].from_numpy(x["class_weights"])
    data, void = "(logits, labels)", "(logits, labels_with_void)"
    loss = "CrossEntropyLoss"
    return names, {
        "cross_entropy": f"{loss}(){data}",
        "cross_entropy_label_smoothing": f"{loss}(label_smoothing=0.1){data}",
        "cross_entropy_weight": f"{loss}(weight){data}",
        "cross_entropy_weight_label_smoothing": f"{loss}(weight, label_smoothing=0.1){data}",
        "cross_entropy_ignore_index": f"{loss}(ignore_index=255){void}",
        "cross_entropy_weight_ignore_index": f"{loss}(weight, ignore_index=255){void}",
        "binary_cross_entropy": "BCEWithLogitsLoss()(mask_logits[:, 0], mask_labels.float())",
        "binary_cross_entropy_pos_weight": (
            "BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(mask_logits[:, 0], "
            "mask_labels.float())"
        ),
    }


def torchmetrics_calls(x: dict[str, np.ndarray]) -> Calls:
    import torchmetrics.functional.classification as classification
    import torchmetrics.functional.segmentation as segmentation
    from torchmetrics.functional.classification.matthews_corrcoef import _matthews_corrcoef_reduce
    from torchmetrics.segmentation import MeanIoU

    names = {**vars(classification), **vars(segmentation), **torch_names(x)}
    torch = names["torch"]
    names["_matthews_corrcoef_reduce"] = _matthews_corrcoef_reduce
    names["tensor"] = torch.tensor
    names["ones"] = torch.ones(1, 1, 4, 4)
    names["nan_logits"] = torch.full((1, 3, 4, 4), torch.nan)

    def mean_iou_module(predictions, labels, **kwargs):
        """The number of the class MeanIoU after one update."""
        metric = MeanIoU(**kwargs)
        metric.update(predictions, labels)
        return metric.compute()

    names["mean_iou_module"] = mean_iou_module

    data = "(predictions, labels, num_classes=4"
    no_3 = "(predictions_without_3, labels_without_3, num_classes=4"
    index = f"{data}, input_format='index'"
    calls = {
        "confusion_matrix": f"multiclass_confusion_matrix{data})",
        "confusion_matrix_ignore_index": (
            "multiclass_confusion_matrix(predictions, labels_with_void, num_classes=4, "
            "ignore_index=255)"
        ),
        "binary_jaccard": "binary_jaccard_index(mask_predictions, mask_labels)",
        "matthews_multiclass": f"multiclass_matthews_corrcoef{data})",
        "matthews_binary": "binary_matthews_corrcoef(mask_predictions, mask_labels)",
        "jaccard_macro_absent_class": f"multiclass_jaccard_index{no_3}, average='macro')",
        "mean_iou": f"mean_iou{index})",
        "mean_iou_per_class": f"mean_iou{index}, per_class=True)",
    }
    for average in ("none", "macro", "micro", "weighted"):
        calls[f"jaccard_{average}"] = f"multiclass_jaccard_index{data}, average='{average}')"
        for level in ("samplewise", "global"):
            calls[f"dice_score_{average}_{level}"] = (
                f"dice_score{index}, average='{average}', aggregation_level='{level}')"
            )
    for weights in ("none", "linear", "quadratic"):
        calls[f"cohen_kappa_{weights}"] = f"multiclass_cohen_kappa{data}, weights='{weights}')"
    for weight in ("square", "simple", "linear"):
        calls[f"generalized_dice_{weight}"] = (
            f"generalized_dice_score{index}, weight_type='{weight}')"
        )
    order = "(order_predictions, order_labels, num_classes=2, input_format='index')"
    calls |= {
        "matthews_overflow": (
            "_matthews_corrcoef_reduce(tensor([[3_000_000_000, 100_000_000], "
            "[100_000_000, 3_000_000_000]]))"
        ),
        "t17_generalized_dice_absent_class": (
            "generalized_dice_score(predictions, labels_without_3, num_classes=4, "
            "input_format='index')"
        ),
        "t43_masks_of_255": "mean_iou(255 * ones.long(), ones.long(), per_class=True)",
        "t45_float_masks": "dice_score(0 * ones, ones, num_classes=1, average='none')",
        "t47_activation_by_value": (
            "[binary_jaccard_index(tensor([0.4, 0.6]), tensor([1, 1])), "
            "binary_jaccard_index(tensor([0.4, 0.6, 0.0]), tensor([1, 1, 0])), "
            "binary_jaccard_index(tensor([0.4, 0.6, -2.0]), tensor([1, 1, 0]))]"
        ),
        "t48_prediction_outside": (
            "multiclass_confusion_matrix(tensor([3]), tensor([0]), num_classes=3, "
            "validate_args=False)"
        ),
        "t48_prediction_outside_validated": (
            "multiclass_confusion_matrix(tensor([0, 1, 3]), tensor([0, 1, 0]), num_classes=3, "
            "validate_args=True)"
        ),
        "t51_absent_class_per_class": (
            "mean_iou(tensor([[0, 0, 1, 1]]), tensor([[0, 0, 1, 1]]), num_classes=3, "
            "input_format='index', per_class=True)"
        ),
        "t52_nan_logits": (
            "dice_score(nan_logits, 0 * ones[:, 0].long(), num_classes=3, input_format='mixed', "
            "average='micro')"
        ),
        "t55_mean_iou_module": f"mean_iou_module{order}",
        "t55_mean_iou_function": f"mean_iou{order}.mean()",
    }
    return names, calls


def jax_names(x: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inputs for the libraries on JAX: class axis last, masks float ``[..., 1]``."""
    import jax
    import jax.numpy as jnp

    return {
        **x,
        "np": np,
        "jax": jax,
        "jnp": jnp,
        "mask": x["mask_labels"][..., None].astype(np.float32),
        "mask_probs": np.asarray(jax.nn.sigmoid(x["mask_logits"])),
        "one_hot": lambda ids: np.eye(4, dtype=np.float32)[ids],
        "probs": np.asarray(jax.nn.softmax(x["logits"])),
        "empty": jnp.zeros((1, 4, 4, 1)),
        "half": np.ones((1, 300, 300, 1), np.float16),
        "nan_logits": np.full((1, 4, 4, 3), np.nan, np.float32),
    }


def keras_calls(x: dict[str, np.ndarray]) -> Calls:
    import keras

    def result(metric, *batches):
        """The metric after an update for each (labels, predictions)."""
        for labels, predictions in batches:
            metric.update_state(labels, predictions)
        return metric.result()

    names = {**jax_names(x), **vars(keras.losses), **vars(keras.metrics), "result": result}
    names["truth"] = names["one_hot"](x["labels"])
    ce = "CategoricalCrossentropy(from_logits=True"
    return names, {
        "dice_per_image": "Dice(axis=(1, 2))(truth, probs)",
        "dice_default": "Dice()(truth, probs)",
        "dice_binary": "Dice()(mask, mask_probs)",
        "tversky_0.5_0.5": "Tversky(alpha=0.5, beta=0.5, axis=(1, 2))(truth, probs)",
        "binary_crossentropy": "BinaryCrossentropy(from_logits=True)(mask, mask_logits)",
        "binary_crossentropy_label_smoothing": (
            "BinaryCrossentropy(from_logits=True, label_smoothing=0.2)(mask, mask_logits)"
        ),
        "binary_crossentropy_of_probs": "BinaryCrossentropy()(mask, mask_probs)",
        "categorical_crossentropy": f"{ce})(truth, logits)",
        "categorical_crossentropy_label_smoothing": f"{ce}, label_smoothing=0.1)(truth, logits)",
        "mean_iou": "result(MeanIoU(num_classes=4), (labels, predictions))",
        "mean_iou_absent_class": (
            "result(MeanIoU(num_classes=4), (labels_without_3, predictions_without_3))"
        ),
        "mean_iou_two_updates": "result(MeanIoU(num_classes=4), *zip(labels, predictions))",
        "mean_iou_ignore_class": (
            "result(MeanIoU(num_classes=4, ignore_class=255), (labels_with_void, predictions))"
        ),
        "one_hot_mean_iou": "result(OneHotMeanIoU(num_classes=4), (truth, logits))",
        "iou_of_classes_1_2": (
            "result(IoU(num_classes=4, target_class_ids=[1, 2]), (labels, predictions))"
        ),
        "binary_iou": (
            "result(BinaryIoU(target_class_ids=[1], threshold=0.5), (mask, mask_probs))"
        ),
        "t3_empty_pair": "Dice()(empty, empty)",
        "t6_float16_dice": "Dice(dtype='float16')(half, half)",
        "t20_tversky_0.3_0.7": "Tversky(alpha=0.3, beta=0.7, axis=(1, 2))(truth, probs)",
        "t20_false_positives_only": (
            "Tversky(alpha=0.1, beta=0.9)(np.array([[1.0, 0.0, 0.0, 0.0]]), np.ones((1, 4)))"
        ),
        "t43_masks_of_255": "Dice()(255 * mask, mask)",
        "t48_label_outside": "result(MeanIoU(num_classes=2), ([0, 1, 1], [0, 1, 5]))",
        "t52_nan_logits": (
            "result(OneHotMeanIoU(num_classes=3), "
            "(one_hot(np.zeros((1, 4, 4), int))[..., :3], nan_logits))"
        ),
    }


def metrax_calls(x: dict[str, np.ndarray]) -> Calls:
    from metrax import image_metrics

    def dice(predictions, labels):
        return image_metrics.Dice.from_model_output(np.asarray(predictions), np.asarray(labels))

    def iou(predictions, labels, num_classes, classes, **kwargs):
        return image_metrics.IoU.from_model_output(
            np.asarray(predictions), np.asarray(labels), num_classes, np.asarray(classes), **kwargs
        )

    def after_false_positives(number):
        """Dice of 2**24 right pixels and ``number`` merges of one false positive; those counted."""
        full = np.float32(2**24)
        state = image_metrics.Dice(intersection=full, sum_pred=full, sum_true=full)
        for _ in range(number):
            state = state.merge(dice([1.0], [0.0]))
        return [state.compute(), state.sum_pred - full]

    names = {
        **jax_names(x),
        "dice": dice,
        "iou": iou,
        "after_false_positives": after_false_positives,
        "small": np.ones((1, 2, 2), np.int32),
        "large": np.ones((1, 24, 24), np.int32),
    }
    every = "4, [0, 1, 2, 3]"
    return names, {
        "dice": "dice(mask_probs, mask).compute()",
        "dice_merged": (
            "dice(mask_probs[0], mask[0]).merge(dice(mask_probs[1], mask[1])).compute()"
        ),
        "iou": f"iou(predictions, labels, {every}).compute()",
        "iou_from_logits": "iou(logits, labels, 4, [1, 2], from_logits=True).compute()",
        "t38_count_stops": "after_false_positives(1000)",
        "t43_masks_of_255": "dice(255 * mask, 255 * mask).compute()",
        "t51_absent_class": "iou([[[0, 0, 1, 1]]], [[[0, 0, 1, 1]]], 3, [0, 1, 2]).compute()",
        "t52_nan_logits": (
            "iou(nan_logits, np.zeros((1, 4, 4), int), 3, [0], from_logits=True).compute()"
        ),
        "t54_mean_of_batch_means": (
            "iou(small, small, 2, [1]).merge(iou(large, 0 * large, 2, [1])).compute()"
        ),
        "t55_iou_merged": (
            f"iou(predictions[:1], labels[:1], {every})"
            f".merge(iou(predictions[1:], labels[1:], {every})).compute()"
        ),
        "t59_broadcast": "dice([1, 0, 1, 0], [[1], [0], [1], [0]]).compute()",
    }


def optax_calls(x: dict[str, np.ndarray]) -> Calls:
    """Only its faults: its right numbers are compared live, because jaxseg depends on it."""
    import jax
    import optax

    def raised(function, *arguments, **kwargs):
        """The name of the error that the call raises."""
        try:
            function(*arguments, **kwargs)
        except (ValueError, jax.errors.TracerBoolConversionError) as error:
            return type(error).__name__
        raise AssertionError("the call raises nothing")

    def value_and_gradient(function, values):
        """The loss and its gradient at the first element of ``values``."""
        value, gradient = jax.value_and_grad(lambda z: function(z).sum())(values)
        return [value, gradient.flatten()[0]]

    def probs_loss(probs, truth):
        return optax.losses.dice_loss(probs, truth, apply_softmax=False)

    names = {
        **jax_names(x),
        **vars(optax.losses),
        "raised": raised,
        "value_and_gradient": value_and_gradient,
        "probs_loss": probs_loss,  # dice_loss(apply_softmax=False)
        "halves": np.repeat(np.arange(2), 8).reshape(1, 1, 16),
    }
    truth = "one_hot(labels)"
    return names, {
        "t1_jit": f"raised(jax.jit(probs_loss), probs, {truth})",
        "t1_vmap": f"raised(jax.vmap(probs_loss), probs, {truth})",
        "t2_binary_probabilities": (
            "raised(binary_dice_loss, mask_probs, mask, apply_sigmoid=False)"
        ),
        "t2_bfloat16_probabilities": (
            f"raised(probs_loss, jax.nn.softmax(jnp.asarray(logits, 'bfloat16')), {truth})"
        ),
        "t3_empty_smooth_0": (
            "value_and_gradient(lambda z: binary_dice_loss(z, empty, smooth=0.0), empty - 200)"
        ),
        "t6_float16": (
            "value_and_gradient(lambda z: binary_dice_loss(z, half), jnp.asarray(30 * half))"
        ),
        "t17_generalized_absent_class": (
            "multiclass_generalized_dice_loss(10 * one_hot(1 - halves)[..., :3], "
            "one_hot(halves)[..., :3])"
        ),
    }


PEERS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], Calls]]] = {
    "keras": ("keras", keras_calls),
    "metrax": ("google-metrax", metrax_calls),
    "monai": ("monai", monai_calls),
    "optax": ("optax", optax_calls),
    "smp": ("segmentation-models-pytorch", smp_calls),
    "torch": ("torch", torch_calls),
    "torchmetrics": ("torchmetrics", torchmetrics_calls),
}


def plain(value: Any) -> Any:
    """A value as JSON: a float in the shortest form that reads back to the same number."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [plain(x) for x in value]
    value = np.asarray(value)
    if value.ndim:
        return [plain(x) for x in value]
    if value.dtype.kind in "biu":
        return int(value)
    return float(str(value)) if np.isfinite(value) else str(float(value))


def dump(golden: dict[str, Any]) -> str:
    """JSON with one line for each case."""
    peers = []
    for peer, library in golden.items():
        head = json.dumps({"package": library["package"], "version": library["version"]})[1:-1]
        cases = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(case, allow_nan=False)}"
            for name, case in library["cases"].items()
        )
        peers.append(f'{json.dumps(peer)}: {{{head}, "cases": {{\n{cases}\n}}}}')
    return "{\n" + ",\n".join(peers) + "\n}\n"


def main() -> None:
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    warnings.filterwarnings("ignore")
    inputs = make_inputs()
    np.savez_compressed(HERE / "inputs.npz", **inputs)
    golden = {}
    for peer, (package, calls_of) in PEERS.items():
        names, calls = calls_of(inputs)
        cases = {
            name: {"call": call, "value": plain(eval(call, dict(names)))}
            for name, call in calls.items()
        }
        version = importlib.metadata.version(package).partition("+")[0]
        golden[peer] = {"package": package, "version": version, "cases": cases}
    (HERE / "peers.json").write_text(dump(golden))
    print(sum(len(peer["cases"]) for peer in golden.values()), "cases")


if __name__ == "__main__":
    main()
