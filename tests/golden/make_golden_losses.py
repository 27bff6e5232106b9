"""Golden numbers of others' losses: writes ``losses_inputs.npz`` and ``peers_losses.json``.

The tests read only the files; what is named here is needed to remake them and for nothing else:

    pip install torch==2.13.0 monai==1.6.1 scipy==1.17.1 setuptools tqdm
    pip install --no-deps segmentation-models-pytorch==0.6.0
    python tests/golden/make_golden_losses.py CLONES

``CLONES`` is a folder with clones of the papers' repositories in ``REPOSITORIES``, each checked out
at the commit given there. What is missing there stops the run. It takes half a minute on a CPU.

The scheme is that of ``make_golden.py``: a call is text, the text is what runs, and it stands in
the file beside its value. ``docs/from-pytorch.md`` shows many of the calls word for word.
"""

import importlib
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import make_golden
import numpy as np

HERE = pathlib.Path(__file__).parent

# peer: repository, commit, path of its code
REPOSITORIES = {
    "nnunet": ("MIC-DKFZ/nnUNet", "0e495086eb108ff79afe106291e8c15bd2f2bc3a"),
    "lovasz": ("bermanmaxim/LovaszSoftmax", "7d48792d35a04d3167de488dd00daabbccd8334b"),
    "cldice": ("jocpae/clDice", "47d31a6cc4a8101b1ffe8052994821961e57af9f"),
    "boundary": ("LIVIAETS/boundary-loss", "171c32d88a4ce59af8be46fb88b96d3637b9515b"),
    "boundary_dou": ("sunfan-bvb/BoundaryDoULoss", "9f1185c5719526f10103f54152a148389d27d5b1"),
    "hausdorff": ("PatRyg99/HausdorffLoss", "96266b5743d32222b809e5b4c31065bda013e3a6"),
    "skeleton_recall": ("MIC-DKFZ/Skeleton-Recall", "f259f63cbbb38fb397e135c292b24996c8df11b6"),
    "odyssey": ("JunMa11/SegLossOdyssey", "d562441a3bb9d0968f9dae67af705f2ca0872b02"),
}

Calls = make_golden.Calls


def make_inputs() -> dict[str, np.ndarray]:
    """The arrays of ``losses_inputs.npz``: images with shapes in them, which distances need."""
    rng = np.random.default_rng(20261123)

    def scores(one_hot):
        return (2.0 * one_hot + 1.2 * rng.normal(size=one_hot.shape) - 0.5).astype(np.float32)

    rows, columns = np.mgrid[:12, :13]
    labels = np.zeros((2, 12, 13), np.int32)
    for image, (row, column) in enumerate(((5, 6), (6, 5))):
        labels[image][(rows - row) ** 2 / 16 + (columns - column) ** 2 / 25 < 1] = 1
        labels[image][(rows - row - 1) ** 2 + (columns - column - 1) ** 2 < 5] = 2
        labels[image][(rows - 10) ** 2 + (columns - 11 + image) ** 2 < 3] = 3
    valid = rng.random(labels.shape) < 0.85
    rows, columns = np.mgrid[:16, :17]
    wave = np.abs(rows - 8 - 5 * np.sin(columns / 3)) < 2
    wheel = (np.abs(np.hypot(rows - 7, columns - 8) - 5) < 1.3) | (abs(columns - 8) < 2)
    masks = np.stack([wave, wheel]).astype(np.int32)
    valid_masks = rng.random(masks.shape) < 0.85
    # large wrong areas: some error is left after erosions
    wrong_masks = np.stack([rows < 5, columns > 2]).astype(np.int32)
    wrong = np.stack([columns - 2.5, 4.5 - rows])[..., None]
    wrong_logits = 2.0 * wrong + 0.5 * rng.normal(size=wrong.shape)
    z, y, x = np.mgrid[:7, :9, :8]
    volume = ((z - 3) ** 2 + (y - 2 - z / 2) ** 2 + (x - 4) ** 2 / 4 < 5).astype(np.int32)[None]
    wrong_volume_logits = (2.5 * (4 - y) + 0.5 * rng.normal(size=y.shape))[None, ..., None]
    multi_labels = rng.random((*labels.shape, 3)) < [0.5, 0.3, 0.1]
    return {
        "labels": labels,
        "logits": scores(np.eye(4)[labels]),
        "valid": valid,
        "labels_with_void": np.where(valid, labels, make_golden.VOID).astype(np.int32),
        "labels_without_3": np.where(labels == 3, 0, labels).astype(np.int32),
        "logits_half": scores(np.eye(4)[labels[:, 1::2, 1::2]]),
        "skeletons": np.where(rng.random(labels.shape) < 0.3, labels, 0).astype(np.int32),
        "masks": masks,
        "mask_logits": scores(masks[..., None]),
        "valid_masks": valid_masks,
        "masks_with_void": np.where(valid_masks, masks, make_golden.VOID).astype(np.int32),
        "wrong_masks": wrong_masks,
        "wrong_logits": wrong_logits.astype(np.float32),
        "multi_labels": multi_labels,
        "multi_logits": scores(multi_labels),
        "volume_labels": volume * (1 + (z > 3)).astype(np.int32),
        "volume_logits": scores(np.eye(3)[volume * (1 + (z > 3))]),
        "volume_masks": volume,
        "volume_mask_logits": scores(volume[..., None]),
        "wrong_volume_logits": wrong_volume_logits.astype(np.float32),
        "class_weights": np.array([0.5, 1.0, 2.0, 4.0], np.float32),
        "distances": np.array(
            [[0, 2, 2, 2], [2, 0, 1, 1.5], [2, 1, 0, 0.5], [2, 1.5, 0.5, 0]], np.float32
        ),
    }


def torch_names(x: dict[str, np.ndarray], channel: bool) -> dict[str, Any]:
    """The inputs as tensors: scores channel first, ids int64 and with a channel axis or none.

    Where there is a channel axis the masks are float, as losses want what has the shape of scores.
    """
    import torch

    torch.set_num_threads(1)  # sums in one order
    names: dict[str, Any] = {"torch": torch}
    for name, array in x.items():
        if name in ("distances", "class_weights"):
            names[name] = torch.from_numpy(array)
        elif array.dtype == np.int32:
            ids = torch.from_numpy(array).long()
            names[name] = ids[:, None] if channel else ids
            if channel and "masks" in name:
                names[name] = names[name].float()
        elif array.ndim > 3:
            first = np.ascontiguousarray(np.moveaxis(array, -1, 1).astype(np.float32))
            names[name] = torch.from_numpy(first)

    def gradient(function, values, *truth):
        """The loss and the sum of absolute values of its gradient."""
        values = values.clone().requires_grad_()
        value = function(values, *truth)
        value.backward()
        return [value.item(), values.grad.abs().sum().item()]

    def raised(function, *arguments):
        """The name of the error that the call raises."""
        try:
            function(*arguments)
        except (TypeError, RuntimeError) as error:
            return type(error).__name__
        raise AssertionError("the call raises nothing")

    def one_hot(ids, num_classes):
        ids = ids[:, 0] if channel else ids
        return torch.nn.functional.one_hot(ids, num_classes).movedim(-1, 1).float()

    sure = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])[None, :, None]  # [1, 2, 1, 2]
    names |= {
        f"{name}probs": torch.sigmoid(names[f"{name}logits"])
        for name in ("mask_", "multi_", "volume_mask_", "wrong_", "wrong_volume_")
    }
    return {
        **names,
        "gradient": gradient,
        "raised": raised,
        "one_hot": one_hot,
        "probs": torch.softmax(names["logits"], 1),
        "soft_labels": torch.softmax(names["logits"].flip(0), 1),
        "soft_masks": torch.sigmoid(names["mask_logits"].flip(0)),
        "empty": torch.zeros(1, 1, 4, 4),
        "sure": sure,
        "sure_labels": torch.tensor([0, 1]).reshape((1, 1, 1, 2) if channel else (1, 1, 2)),
        "all_void": torch.full_like(names["labels"], 255),
    }


def monai_calls(x: dict[str, np.ndarray]) -> Calls:
    import monai.losses
    from monai.losses import mcc_loss, unified_focal_loss

    names = {**vars(unified_focal_loss), **vars(mcc_loss), **vars(monai.losses)}
    names |= torch_names(x, channel=True)
    torch = names["torch"]
    names["square"] = torch.ones(1, 1, 1024, 1024)
    names["nan_at_void"] = torch.where(names["labels_with_void"] == 255, torch.nan, names["logits"])
    names["square_of_11"] = torch.zeros(1, 1, 15, 15)
    names["square_of_11"][..., 2:13, 2:13] = 1
    ids = "softmax=True, to_onehot_y=True"
    data, masks = "(logits, labels)", "(mask_logits, masks)"
    none = "smooth_nr=0, smooth_dr=0"
    asymmetric = "to_onehot_y=True"
    page = [
        f"DiceLoss({ids}){data}",
        f"DiceLoss({ids}, batch=True){data}",
        f"DiceLoss({ids}, smooth_nr=1, smooth_dr=1){data}",
        f"DiceLoss({ids}, smooth_nr=0, smooth_dr=1e-3){data}",
        f"DiceLoss({ids}, include_background=False){data}",
        f"DiceLoss({ids}, reduction='sum'){data}",
        f"DiceLoss({ids}, weight=[0.5, 1, 2, 4]){data}",
        f"DiceLoss({ids}, squared_pred=True){data}",
        f"DiceLoss({ids}, jaccard=True){data}",
        f"DiceLoss({ids}, jaccard=True, squared_pred=True){data}",
        f"DiceLoss({ids}, ignore_index=255)(logits, labels_with_void)",
        f"DiceLoss(sigmoid=True){masks}",
        "DiceLoss(sigmoid=True)(multi_logits, multi_labels)",
        "DiceLoss(soft_label=True)(probs, soft_labels)",
        "DiceLoss(jaccard=True, soft_label=True)(probs, soft_labels)",
        f"TverskyLoss({ids}, alpha=0.3, beta=0.7){data}",
        f"TverskyLoss({ids}, alpha=0.3, beta=0.7, batch=True){data}",
        "TverskyLoss(alpha=0.3, beta=0.7, soft_label=True)(probs, soft_labels)",
        f"GeneralizedDiceLoss({ids}, {none}){data}",
        f"GeneralizedDiceLoss({ids}, {none}, batch=True){data}",
        f"GeneralizedDiceLoss({ids}, {none}, w_type='simple'){data}",
        f"GeneralizedDiceLoss({ids}, {none}, w_type='uniform'){data}",
        f"GeneralizedDiceLoss({ids}, {none})(logits, labels_without_3)",
        f"GeneralizedDiceLoss({ids}){data}",
        f"GeneralizedDiceLoss({ids}, smooth_nr=0.01, smooth_dr=0.03)(logits, labels_without_3)",
        f"GeneralizedDiceLoss({ids}, {none}, include_background=False){data}",
        f"GeneralizedWassersteinDiceLoss(distances){data}",
        f"GeneralizedWassersteinDiceLoss(distances, smooth_nr=1, smooth_dr=1){data}",
        f"MCCLoss({ids}){data}",
        f"MCCLoss({ids}, batch=True){data}",
        f"MCCLoss(sigmoid=True){masks}",
        f"MCCLoss({ids})(logits, labels_without_3)",
        f"DiceCELoss({ids}){data}",
        f"DiceCELoss({ids}, lambda_dice=0.3, lambda_ce=0.7, label_smoothing=0.1){data}",
        f"DiceCELoss({ids}, include_background=False){data}",
        f"DiceCELoss({ids}, weight=class_weights){data}",
        f"DiceCELoss(sigmoid=True){masks}",
        f"FocalLoss(use_softmax=True, to_onehot_y=True){data}",
        f"FocalLoss(use_softmax=True, to_onehot_y=True, gamma=1.5, alpha=0.25){data}",
        f"FocalLoss(use_softmax=True, to_onehot_y=True, alpha=[0.1, 0.2, 0.3, 0.4]){data}",
        f"FocalLoss(use_softmax=True, to_onehot_y=True, weight=[0.5, 1, 2, 4]){data}",
        f"FocalLoss(to_onehot_y=True){data}",
        f"FocalLoss(alpha=0.25){masks}",
        f"DiceFocalLoss(sigmoid=True){masks}",
        f"DiceFocalLoss(sigmoid=True, gamma=1.5, lambda_dice=0.3, lambda_focal=0.7){masks}",
        f"DiceFocalLoss(sigmoid=True, alpha=0.25){masks}",
        "DiceFocalLoss(sigmoid=True)(multi_logits, multi_labels)",
        "DiceFocalLoss(sigmoid=True, alpha=0.25)(multi_logits, multi_labels)",
        f"DiceFocalLoss({ids}){data}",
        f"GeneralizedDiceFocalLoss({ids}, {none}){data}",
        "NACLLoss(classes=4, dim=2)(logits, labels[:, 0])",
        "NACLLoss(classes=4, dim=2, distance_type='l2', kernel_size=5, alpha=0.3)"
        "(logits, labels[:, 0])",
        "NACLLoss(classes=3, dim=3)(volume_logits, volume_labels[:, 0])",
        "NACLLoss(classes=4, dim=2, kernel_ops='gaussian')(logits, labels[:, 0])",
        "NACLLoss(classes=3, dim=3, kernel_ops='gaussian', sigma=0.5)"
        "(volume_logits, volume_labels[:, 0])",
        f"BoundaryLoss({ids}){data}",
        f"BoundaryLoss({ids}, include_background=False){data}",
        f"BoundaryLoss(sigmoid=True){masks}",
        "BoundaryLoss(sigmoid=True)(volume_mask_logits, volume_masks)",
        f"HausdorffDTLoss({ids}, include_background=True){data}",
        f"HausdorffDTLoss({ids}){data}",
        f"HausdorffDTLoss(sigmoid=True, alpha=1.0){masks}",
        "HausdorffDTLoss(sigmoid=True)(volume_mask_logits, volume_masks)",
        f"LogHausdorffDTLoss(sigmoid=True){masks}",
        f"SoftclDiceLoss(sigmoid=True, smooth=1e-12){masks}",
        f"SoftclDiceLoss(sigmoid=True, smooth=1e-12, iter_=10){masks}",
        "SoftclDiceLoss(sigmoid=True, smooth=1e-12)(volume_mask_logits, volume_masks)",
        "SoftclDiceLoss(sigmoid=True, smooth=1e-12)(multi_logits, multi_labels)",
        f"SoftclDiceLoss({ids}, smooth=1e-12){data}",
        f"SoftDiceclDiceLoss(sigmoid=True, smooth=1e-12, alpha=0.3){masks}",
        "AsymmetricUnifiedFocalLoss()(mask_probs, masks)",
        "AsymmetricUnifiedFocalLoss(weight=0.3, gamma=0.4, delta=0.6)(mask_probs, masks)",
        "DeepSupervisionLoss(DiceCELoss(softmax=True, to_onehot_y=True))"
        "([logits, logits_half], labels.float())",
    ]
    two = "torch.cat([1 - mask_probs, mask_probs], 1), masks"
    calls = {call: call for call in page}
    calls |= {
        "focal_loss_none": (
            f"FocalLoss(use_softmax=True, to_onehot_y=True, reduction='none'){data}.sum(1)"
        ),
        "asymmetric_focal_loss": f"AsymmetricFocalLoss({asymmetric}, gamma=0.5)({two})",
        "asymmetric_focal_tversky_loss": (
            f"AsymmetricFocalTverskyLoss({asymmetric}, gamma=0.5)({two})"
        ),
        "gradient_squared_dice": f"gradient(DiceLoss({ids}, squared_pred=True), logits, labels)",
        "gradient_generalized_dice": (
            f"gradient(GeneralizedDiceLoss({ids}, {none}), logits, labels)"
        ),
        "gradient_generalized_wasserstein_dice": (
            "gradient(GeneralizedWassersteinDiceLoss(distances), logits, labels)"
        ),
        "gradient_matthews": f"gradient(MCCLoss({ids}), logits, labels)",
        "gradient_focal": (
            "gradient(FocalLoss(use_softmax=True, to_onehot_y=True), logits, labels)"
        ),
        "gradient_nacl": "gradient(NACLLoss(classes=4, dim=2), logits, labels[:, 0])",
        "gradient_boundary": f"gradient(BoundaryLoss({ids}), logits, labels)",
        "gradient_hausdorff_dt": f"gradient(HausdorffDTLoss({ids}), logits, labels)",
        "gradient_cldice": (
            "gradient(SoftclDiceLoss(sigmoid=True, smooth=1e-12), mask_logits, masks)"
        ),
        "gradient_unified_focal": (
            "gradient(lambda z, y: AsymmetricUnifiedFocalLoss()(torch.sigmoid(z), y), "
            "mask_logits, masks)"
        ),
        "generalized_wasserstein_dice_volume": (
            f"GeneralizedWassersteinDiceLoss(distances, weighting_mode='GDL', {none}){data}"
        ),
        "t18_generalized_dice_smooth_1": (
            f"GeneralizedDiceLoss({ids}, smooth_nr=1, smooth_dr=1){data}"
        ),
        "focal_softmax_without_background": (
            f"FocalLoss(use_softmax=True, to_onehot_y=True, include_background=False){data}"
        ),
        "unified_focal_third_class": (
            "AsymmetricUnifiedFocalLoss(num_classes=4)(probs, one_hot(labels, 4))"
        ),
        "t3_generalized_dice_empty": f"gradient(GeneralizedDiceLoss({none}), empty, empty)",
        "t5_generalized_dice_empty_target": "gradient(GeneralizedDiceLoss(), empty + 0.9, empty)",
        "t5_matthews_empty_target": "gradient(MCCLoss(), empty + 0.9, empty)",
        "t5_boundary_empty_target": "gradient(BoundaryLoss(), empty + 0.9, empty)",
        "t5_hausdorff_dt_empty_target": "gradient(HausdorffDTLoss(), empty + 0.9, empty)",
        "t11_focal_saturated": (
            "gradient(FocalLoss(use_softmax=True, to_onehot_y=True, gamma=0.5), sure, sure_labels)"
        ),
        "t18_generalized_dice_of_a_missed_object": "GeneralizedDiceLoss()(0 * square, square)",
        "t22_focal_unused_ignore_index": (
            f"[FocalLoss(use_softmax=True, to_onehot_y=True){data}, "
            f"FocalLoss(use_softmax=True, to_onehot_y=True, ignore_index=255){data}]"
        ),
        "t25_ignored_nan": f"DiceLoss({ids}, ignore_index=255)(nan_at_void, labels_with_void)",
        "t29_cldice_of_a_perfect_mask": "SoftclDiceLoss()(masks, masks)",
        "t29_cldice_few_iterations": (
            "[SoftclDiceLoss(iter_=3)(0.9 * square_of_11, square_of_11), "
            "SoftclDiceLoss(iter_=10)(0.9 * square_of_11, square_of_11)]"
        ),
        "t31_dice_of_its_own_target": "DiceLoss()(probs, probs)",
        "t32_unified_focal_of_logits": "AsymmetricUnifiedFocalLoss()(mask_logits, masks)",
    }
    return names, calls


def smp_calls(x: dict[str, np.ndarray]) -> Calls:
    names, _ = make_golden.smp_calls(dict(np.load(HERE / "inputs.npz")))
    names |= torch_names(x, channel=False)
    names["multi_labels"] = names["multi_labels"].long()
    void = "(logits, labels_with_void)"
    data, masks = "(logits, labels)", "(mask_logits, masks)"
    multi = "(multi_logits, multi_labels)"
    page = [
        f"DiceLoss('multiclass'){data}",
        f"DiceLoss('multiclass', smooth=1){data}",
        f"DiceLoss('multiclass', classes=[1, 3]){data}",
        f"DiceLoss('multiclass', class_weights=[0.5, 1, 2, 4]){data}",
        f"DiceLoss('multiclass', ignore_index=255){void}",
        f"DiceLoss('multiclass', log_loss=True){data}",
        f"DiceLoss('binary'){masks}",
        "DiceLoss('binary', from_logits=False)(mask_probs, masks)",
        f"DiceLoss('multilabel'){multi}",
        "DiceLoss('binary')(mask_logits, soft_masks)",
        "DiceLoss('multilabel', from_logits=False)(probs, soft_labels)",
        "JaccardLoss('binary')(mask_logits, soft_masks)",
        f"JaccardLoss('multiclass'){data}",
        f"JaccardLoss('multiclass', smooth=1){data}",
        f"JaccardLoss('multiclass', log_loss=True){data}",
        f"TverskyLoss('multiclass', alpha=0.3, beta=0.7){data}",
        f"TverskyLoss('multiclass', alpha=0.3, beta=0.7, gamma=0.75){data}",
        f"LovaszLoss('binary'){masks}",
        f"LovaszLoss('binary', per_image=True){masks}",
        f"LovaszLoss('multilabel'){multi}",
        f"LovaszLoss('multiclass'){data}",
        f"LovaszLoss('multiclass', per_image=True){data}",
        f"LovaszLoss('multiclass', ignore_index=255){void}",
        "LovaszLoss('multiclass')(logits, labels_without_3)",
        f"FocalLoss('binary'){masks}",
        f"FocalLoss('binary', alpha=0.25, gamma=1.5){masks}",
        f"FocalLoss('multiclass'){data}",
        f"FocalLoss('multiclass', ignore_index=255){void}",
        f"SoftCrossEntropyLoss(smooth_factor=0.1){data}",
        f"SoftCrossEntropyLoss(smooth_factor=0.0, reduction='sum'){data}",
        "SoftBCEWithLogitsLoss()(mask_logits[:, 0], masks.float())",
        "MCCLoss()(mask_probs, masks)",
    ]
    calls = {call: call for call in page}
    one = "'binary', from_logits=False"
    calls |= {
        "gradient_lovasz_hinge": "gradient(LovaszLoss('binary'), mask_logits, masks)",
        "gradient_lovasz_softmax": "gradient(LovaszLoss('multiclass'), logits, labels)",
        "gradient_matthews": "gradient(MCCLoss(), mask_probs, masks)",
        "gradient_log_dice": "gradient(DiceLoss('multiclass', log_loss=True), logits, labels)",
        "lovasz_hinge_ignore_index": (
            "LovaszLoss('binary', ignore_index=255)(mask_logits, masks_with_void)"
        ),
        "cross_entropy_none": (
            f"SoftCrossEntropyLoss(smooth_factor=0.1, reduction='none'){data}[:, 0]"
        ),
        "t5_matthews_empty_target": "gradient(MCCLoss(eps=0), empty + 0.9, empty)",
        "t5_absent_class": "DiceLoss('multiclass')(logits, labels_without_3)",
        "t11_focal_saturated": "gradient(FocalLoss('multiclass', gamma=0.5), sure, sure_labels)",
        "t13_tversky_gamma_of_a_perfect_map": (
            "gradient(TverskyLoss('multiclass', gamma=0.75), sure, sure_labels)"
        ),
        "t14_log_dice_without_overlap": (
            f"gradient(DiceLoss({one}, log_loss=True), 1 - masks.float()[:, None], masks)"
        ),
        "t23_cross_entropy_ignore_index": (
            f"SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255){void}"
        ),
        "t24_focal_all_ignored": "FocalLoss('multiclass', ignore_index=255)(logits, all_void)",
        "t24_lovasz_all_ignored": "LovaszLoss('multiclass', ignore_index=255)(logits, all_void)",
        "t34_cross_entropy_default": "raised(SoftCrossEntropyLoss(), logits, labels)",
    }
    return names, calls


def torch_calls(x: dict[str, np.ndarray]) -> Calls:
    names = torch_names(x, channel=False)
    names |= vars(names["torch"].nn)
    names["tensor"] = names["torch"].tensor
    data, void = "(logits, labels)", "(logits, labels_with_void)"
    page = [
        f"CrossEntropyLoss(){data}",
        f"CrossEntropyLoss(label_smoothing=0.1){data}",
        f"CrossEntropyLoss(weight=class_weights){data}",
        f"CrossEntropyLoss(weight=class_weights, label_smoothing=0.1){data}",
        f"CrossEntropyLoss(ignore_index=255){void}",
        f"CrossEntropyLoss(reduction='sum'){data}",
        f"(CrossEntropyLoss(reduction='none'){data} * (1.0 + 2.0 * (labels == 3))).mean()",
        "BCEWithLogitsLoss()(mask_logits[:, 0], masks.float())",
        "BCEWithLogitsLoss(pos_weight=tensor(3.0))(mask_logits[:, 0], masks.float())",
    ]
    calls = {call: call for call in page}
    calls |= {
        "cross_entropy_none": (
            f"CrossEntropyLoss(weight=class_weights, label_smoothing=0.1, reduction='none'){data}"
        ),
        "cross_entropy_none_ignore_index": (
            "CrossEntropyLoss(weight=class_weights, label_smoothing=0.1, ignore_index=255, "
            f"reduction='none'){void}"
        ),
    }
    return names, calls


# The papers' code, out of clones.


def load(folder: pathlib.Path, name: str, *unused: str) -> types.ModuleType:
    """Module ``name`` below ``folder``; mocks stand in for what it imports and does not need.

    ``sys.modules`` is as before afterwards: another clone has modules of the same names.
    """
    sys.path.insert(0, str(folder))
    try:
        with mock.patch.dict(sys.modules, {module: mock.MagicMock() for module in unused}):
            return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def nnunet_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    compound = load(clone, "nnunetv2.training.loss.compound_losses")
    supervision = load(clone, "nnunetv2.training.loss.deep_supervision")
    names = {**vars(compound), **vars(supervision), **torch_names(x, channel=True)}
    names["labels_half"] = names["labels"][:, :, 1::2, 1::2]
    data, void = "(logits, labels)", "(logits, labels_with_void)"
    pooled = "{'batch_dice': True, 'do_bg': False, 'smooth': 1e-5, 'ddp': False}"
    page = [
        f"DC_and_CE_loss({{}}, {{}}){data}",
        f"DC_and_CE_loss({pooled}, {{}}){data}",
        f"DC_and_CE_loss({pooled}, {{}}, dice_class=MemoryEfficientSoftDiceLoss){data}",
        f"DC_and_CE_loss({{}}, {{}}, ignore_label=255){void}",
        f"DC_and_CE_loss({{}}, {{}}, weight_ce=0.7, weight_dice=0.3){data}",
        "DC_and_BCE_loss({}, {})(mask_logits, masks)",
        "DC_and_BCE_loss({}, {})(multi_logits, multi_labels)",
        f"TopKLoss(k=10){data}",
        f"TopKLoss(k=25){data}",
        f"DC_and_topk_loss({{}}, {{'k': 10}}){data}",
        f"DC_and_topk_loss({pooled}, {{'k': 25}}){data}",
        "DeepSupervisionWrapper(DC_and_CE_loss({}, {}), [2 / 3, 1 / 3])"
        "([logits, logits_half], [labels, labels_half])",
    ]
    calls = {call: call for call in page}
    calls |= {
        "top_k_counts_ignored_pixels": f"TopKLoss(k=10, ignore_index=255){void}",
        "top_k_of_few_pixels": "TopKLoss(k=10)(logits[:1, :, :2, :4], labels[:1, :, :2, :4])",
        "gradient_top_k": "gradient(TopKLoss(k=10), logits, labels)",
    }
    return names, calls


def lovasz_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    module = load(clone / "pytorch", "lovasz_losses")
    names = {**vars(module), **torch_names(x, channel=False)}
    page = [
        "lovasz_softmax(probs, labels)",
        "lovasz_softmax(probs, labels, per_image=True)",
        "lovasz_softmax(probs, labels, classes='all')",
        "lovasz_softmax(probs, labels_with_void, ignore=255)",
        "lovasz_hinge(mask_logits[:, 0], masks)",
        "lovasz_hinge(mask_logits[:, 0], masks, per_image=False)",
    ]
    calls = {call: call for call in page}
    calls |= {
        "lovasz_softmax_absent_class": "lovasz_softmax(probs, labels_without_3)",
        "t24_all_ignored": "lovasz_softmax(probs, all_void, ignore=255)",
        "t26_present_in_another_string": (
            "lovasz_softmax(probs, labels_without_3, classes=''.join(['pre', 'sent']))"
        ),
        "t28_transposed": (
            "raised(lambda z, y: lovasz_hinge(z, y, per_image=False), mask_logits[:, 0].mT, "
            "masks.mT)"
        ),
    }
    return names, calls


def cldice_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    names = {
        **vars(load(clone / "cldice_loss", "pytorch.cldice")),
        **torch_names(x, channel=True),
    }
    page = [
        "soft_cldice()(masks, mask_probs)",
        "soft_cldice(smooth=0.5)(masks, mask_probs)",
        "soft_dice_cldice(alpha=0.3)(masks, mask_probs)",
    ]
    calls = {call: call for call in page}
    calls |= {
        "gradient_cldice": "gradient(lambda p, g: soft_cldice()(g, p), mask_probs, masks)",
        "t29_iterations_not_used": (
            "[soft_cldice(iter_=0)(masks, mask_probs), soft_cldice(iter_=10)(masks, mask_probs)]"
        ),
    }
    return names, calls


def boundary_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    unused = ("tqdm", "skimage", "skimage.io", "PIL", "medpy", "medpy.metric")
    unused = (*unused, "medpy.metric.binary")
    losses, utils = (load(clone, name, *unused) for name in ("losses", "utils"))
    names = {**vars(utils), **vars(losses), **torch_names(x, channel=True)}
    torch = names["torch"]

    def maps(labels, num_classes, **kwargs):
        truth = names["one_hot"](labels, num_classes).numpy().astype(np.int64)
        found = [utils.one_hot2dist(image, dtype=np.float32, **kwargs) for image in truth]
        return torch.from_numpy(np.stack(found))

    names["maps"] = maps
    page = [
        "SurfaceLoss(idc=[0, 1, 2, 3])(probs, maps(labels, 4))",
        "SurfaceLoss(idc=[1, 2])(probs, maps(labels, 4))",
    ]
    calls = {call: call for call in page}
    calls["t5_absent_class"] = "SurfaceLoss(idc=[3])(probs, maps(labels_without_3, 4))"
    return names, calls


def boundary_dou_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    unused = ("cv2", "medpy", "SimpleITK", "skimage")
    names = {
        **vars(load(clone / "TransUNet", "utils", *unused)),
        **torch_names(x, channel=False),
    }
    torch = names["torch"]
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self: self  # it asks for a GPU
    call = "BoundaryDoULoss(4)(logits, labels)"
    return names, {
        call: call,
        "gradient_boundary_dou": "gradient(BoundaryDoULoss(4), logits, labels)",
        "boundary_dou_of_a_perfect_map": (
            "BoundaryDoULoss(4)(100 * one_hot(labels_without_3, 4), labels_without_3)"
        ),
    }


def hausdorff_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    class Array(np.ndarray):
        def ptp(self):  # NumPy 2 has no such method
            return np.ptp(self)

    module = load(clone, "hausdorff_loss", "cv2")
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    module.cv.getStructuringElement.return_value = cross
    convolve = module.convolve
    module.convolve = lambda *args, **kwargs: convolve(*args, **kwargs).view(Array)
    names = {**vars(module), **torch_names(x, channel=True)}
    page = [
        "HausdorffDTLoss()(mask_probs, masks)",
        "HausdorffERLoss()(wrong_probs, wrong_masks)",
        "HausdorffERLoss(alpha=1.0, erosions=2)(wrong_probs, wrong_masks)",
    ]
    calls = {call: call for call in page}
    calls["erosion_in_two_of_three_dimensions"] = (
        "HausdorffERLoss()(wrong_volume_probs, volume_masks)"
    )
    return names, calls


def skeleton_recall_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    module = load(clone, "nnunetv2.training.loss.dice")
    names = {**vars(module), **torch_names(x, channel=True)}
    names["softmax"] = lambda z: z.softmax(1)
    loss, data = "SoftSkeletonRecallLoss(softmax, do_bg=False", "(logits, skeletons)"
    page = [
        f"{loss}){data}",
        f"{loss}, smooth=1e-5){data}",
        f"{loss}, batch_dice=True, ddp=False){data}",
    ]
    return names, {call: call for call in page}


def odyssey_calls(x: dict[str, np.ndarray], clone: pathlib.Path) -> Calls:
    module = load(clone / "losses_pytorch", "dice_loss")
    names = {**vars(module), **torch_names(x, channel=True)}
    data = "(logits, labels)"
    page = [
        f"SSLoss(softmax_helper){data}",
        f"SSLoss(softmax_helper, batch_dice=True, do_bg=False, smooth=0.5){data}",
    ]
    calls = {call: call for call in page}
    calls["exponential_logarithmic"] = f"ExpLog_loss({{}}, {{'weight': class_weights}}){data}"
    return names, calls


LIBRARIES: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], Calls]]] = {
    "monai": ("monai", monai_calls),
    "smp": ("segmentation-models-pytorch", smp_calls),
    "torch": ("torch", torch_calls),
}
PAPERS: dict[str, Callable[[dict[str, np.ndarray], pathlib.Path], Calls]] = {
    "nnunet": nnunet_calls,
    "lovasz": lovasz_calls,
    "cldice": cldice_calls,
    "boundary": boundary_calls,
    "boundary_dou": boundary_dou_calls,
    "hausdorff": hausdorff_calls,
    "skeleton_recall": skeleton_recall_calls,
    "odyssey": odyssey_calls,
}


def run(names: dict[str, Any], calls: dict[str, str]) -> dict[str, Any]:
    """Each call and its value."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(x) for x in value]
        return make_golden.plain(value.detach() if hasattr(value, "detach") else value)

    values = {name: plain(eval(call, dict(names))) for name, call in calls.items()}
    return {  # a case that is named by its call has it once
        name: ({} if name == calls[name] else {"call": calls[name]}) | {"value": value}
        for name, value in values.items()
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    clones = pathlib.Path(sys.argv[1]).resolve()
    inputs = make_inputs()
    np.savez_compressed(HERE / "losses_inputs.npz", **inputs)
    golden = {}
    for peer, (package, calls_of) in LIBRARIES.items():
        version = importlib.metadata.version(package).partition("+")[0]
        cases = run(*calls_of(inputs))
        golden[peer] = {"package": package, "version": version, "cases": cases}
    for peer, (repository, commit) in REPOSITORIES.items():
        clone = clones / repository.partition("/")[2]
        head = ["git", "-C", str(clone), "rev-parse", "HEAD"]
        found = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
        if found != commit:
            sys.exit(f"{clone} is at {found}, not at {commit}")
        cases = run(*PAPERS[peer](inputs, clone))
        golden[peer] = {"package": repository, "version": commit, "cases": cases}
    (HERE / "peers_losses.json").write_text(make_golden.dump(golden))
    print(json.dumps({peer: len(library["cases"]) for peer, library in golden.items()}))


if __name__ == "__main__":
    main()
