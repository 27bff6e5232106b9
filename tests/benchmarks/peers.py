"""The contenders beside jaxseg: JAX by hand, Optax, MONAI, NumPy, TorchMetrics and metrax.

Each function returns steps by name. A library that is not installed, or that cannot do the task, is
there with the reason in place of a step.
"""

import importlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from tests.benchmarks.measure import Step, Steps, host_step, jax_step

VOID = 255  # in the place of masked labels, where a library takes no mask


def load(name: str) -> Any:
    """The module, or why there is none."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return f"not installed ({error})"


def on_host(name: str) -> str:
    """The name of a contender that runs on the CPU, whatever the others run on."""
    return name if jax.devices()[0].platform == "cpu" else f"{name} (CPU)"


# Losses in JAX


def dense_labels(logits: Array, labels: Array) -> Array:
    if labels.ndim == logits.ndim:
        return labels
    classes = logits.shape[-1]
    return labels[..., None] if classes == 1 else jax.nn.one_hot(labels, classes)


def plain_dice(logits: Array, labels: Array, where: Array | None) -> Array:
    """Dice as one writes it by hand, differentiated by JAX."""
    axes = tuple(range(logits.ndim - 1))
    p = jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)
    g = dense_labels(logits, labels)
    if where is not None:
        p, g = (jnp.where(where[..., None], x, 0) for x in (p, g))
    return (1 - (2 * (p * g).sum(axes) + 1) / (p.sum(axes) + g.sum(axes) + 1)).mean()


def optax_dice(logits: Array, labels: Array) -> Array:
    return optax.losses.dice_loss(logits, dense_labels(logits, labels)).mean()


def cross_entropy(logits: Array, labels: Array, where: Array | None) -> Array:
    """Optax's mean cross-entropy; a loss written by hand uses it too."""
    if logits.shape[-1] == 1:
        entropy = optax.sigmoid_binary_cross_entropy(logits, dense_labels(logits, labels))[..., 0]
    elif labels.ndim == logits.ndim:
        entropy = optax.softmax_cross_entropy(logits, labels)
    else:
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return entropy.mean(where=where)


LOSS_TASKS = {"Dice + CE": True, "Dice": False}  # whether with cross-entropy


def jax_losses(masked: bool) -> dict[str, dict[str, Callable[..., Array] | str]]:
    """Losses by hand and Optax's, of logits, labels and where: functions by task and name."""

    def loss(dice: Callable[..., Array], with_ce: bool) -> Callable[..., Array]:
        def value(logits: Array, labels: Array, where: Array | None = None) -> Array:
            value = dice(logits, labels, where)
            return value + cross_entropy(logits, labels, where) if with_ce else value

        return value

    def optax_loss(with_ce: bool) -> Callable[..., Array] | str:
        if masked:
            return "its Dice takes no mask"
        return loss(lambda x, y, _: optax_dice(x, y), with_ce)

    return {
        task: {"plain JAX": loss(plain_dice, with_ce), "Optax": optax_loss(with_ce)}
        for task, with_ce in LOSS_TASKS.items()
    }


def jax_loss_steps(
    logits: Array, labels: Array, where: Array | None, tasks: Iterable[str] = LOSS_TASKS
) -> dict[str, Steps]:
    """Value and gradient of ``jax_losses``."""
    losses = jax_losses(where is not None)
    return {
        task: {
            name: f
            if isinstance(f, str)
            else jax_step(jax.value_and_grad(f), logits, labels, where)
            for name, f in losses[task].items()
        }
        for task in tasks
    }


# Losses in torch


def torch_device(torch: Any) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def monai_steps(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    dtype: str,
    masked: bool,
    compiled: bool,
    strided: bool = True,
) -> Steps:
    """Value and gradient of MONAI's Dice and cross-entropy, eager and compiled.

    The logits are stored channel first, or ("strided") channel last and only viewed channel first.
    """
    names = ["MONAI", "MONAI strided", "MONAI compiled", "MONAI compiled strided"]
    if not strided:
        names = names[::2]
    torch, losses = load("torch"), load("monai.losses")
    for missing in (torch, losses):
        if isinstance(missing, str):
            return dict.fromkeys(names, missing)
    if torch_device(torch) == "cpu":
        names = [on_host(name) for name in names]
    if masked:
        return dict.fromkeys(names, "DiceCELoss takes no mask")

    classes = logits.shape[-1]
    ids = labels.ndim < logits.ndim
    loss = losses.DiceCELoss(
        to_onehot_y=ids and classes > 1,
        softmax=classes > 1,
        sigmoid=classes == 1,
        batch=True,
        smooth_nr=1.0,
        smooth_dr=1.0,
    )
    last = torch.from_numpy(logits).to(torch_device(torch), getattr(torch, dtype)).movedim(-1, 1)
    first = last.contiguous()
    # Ids as torch wants them, 64 bits wide, so that no conversion is timed.
    truth = torch.from_numpy(
        labels[:, None].astype(np.int64) if ids else np.moveaxis(labels, -1, 1)
    )
    truth = truth.to(torch_device(torch)).contiguous()
    if ids and classes == 1:
        truth = truth.to(first.dtype)

    def step(loss: Callable[..., Any], x: Any) -> Step:
        x = x.detach().requires_grad_()

        def run() -> Any:
            value = loss(x, truth)
            (gradient,) = torch.autograd.grad(value, x)
            return value.detach(), gradient

        def finish(result: Any) -> Any:
            if x.is_cuda:
                torch.cuda.synchronize()
            return result

        return host_step(run, finish)

    def compiled_step(x: Any) -> Step | str:
        if not compiled:
            return "torch.compile: only ids, float32 and 4, 11 or 32 classes; not with --quick"
        torch.compiler.reset()
        try:
            return step(torch.compile(loss, dynamic=False), x)
        except Exception as error:  # of many kinds: no compiler, one that fails, an old Python
            return f"torch.compile failed: {str(error).strip().splitlines()[0]}"

    layouts = [first, last] if strided else [first]
    steps = [*(step(loss, x) for x in layouts), *(compiled_step(x) for x in layouts)]
    return dict(zip(names, steps))


# Counting


def jax_matrix(classes: int, p: Array, g: Array, where: Array | None = None) -> Array:
    """A confusion matrix as one writes it by hand in JAX."""
    cells = classes * g.astype(jnp.int32) + p
    if where is not None:
        cells = jnp.where(where, cells, classes**2)  # beyond the length: dropped
    return jnp.bincount(cells.ravel(), length=classes**2).reshape(classes, classes)


def matrix_steps(
    predictions: np.ndarray, labels: np.ndarray, where: np.ndarray | None, classes: int
) -> Steps:
    """Confusion matrices."""

    def numpy_matrix() -> np.ndarray:
        p, g = (predictions, labels) if where is None else (predictions[where], labels[where])
        cells = classes * g.astype(np.intp) + p
        return np.bincount(cells.ravel(), minlength=classes**2).reshape(classes, classes)

    arrays = jax.device_put((predictions, labels, where), jax.devices()[0])
    return {
        on_host("np.bincount"): host_step(numpy_matrix),
        "jnp.bincount": jax_step(partial(jax_matrix, classes), *arrays),
        **torchmetrics_steps(predictions, labels, where, classes),
    }


def torchmetrics_steps(
    predictions: np.ndarray, labels: np.ndarray, where: np.ndarray | None, classes: int
) -> Steps:
    torch, metrics = load("torch"), load("torchmetrics.functional.classification")
    for missing in (torch, metrics):
        if isinstance(missing, str):
            return {"TorchMetrics": missing}
    labels = labels if where is None else np.where(where, labels, VOID).astype(labels.dtype)
    device = torch_device(torch)
    p, g = (torch.from_numpy(x).to(device) for x in (predictions, labels))

    def run() -> Any:
        return metrics.multiclass_confusion_matrix(
            p,
            g,
            num_classes=classes,
            ignore_index=None if where is None else VOID,
            validate_args=False,
        )

    name = on_host("TorchMetrics") if device == "cpu" else "TorchMetrics"
    return {name: host_step(run, lambda matrix: matrix.cpu())}


def evaluation_steps(predictions: np.ndarray, labels: np.ndarray, classes: int) -> Steps:
    """Confusion matrices of batches, whose void labels do not count."""

    def numpy_matrix() -> np.ndarray:
        matrix = np.zeros(classes**2, np.int64)
        for p, g in zip(predictions, labels, strict=True):
            valid = g != VOID
            cells = classes * g[valid].astype(np.intp) + p[valid]
            matrix += np.bincount(cells, minlength=classes**2)
        return matrix.reshape(classes, classes)

    steps: Steps = {on_host("np.bincount"): host_step(numpy_matrix)}
    torch, torchmetrics = load("torch"), load("torchmetrics.classification")
    for missing in (torch, torchmetrics):
        if isinstance(missing, str):
            return steps | {"TorchMetrics": missing}
    device = torch_device(torch)
    batches = [
        tuple(torch.from_numpy(x).to(device) for x in batch)
        for batch in zip(predictions, labels, strict=True)
    ]
    metric = torchmetrics.MulticlassConfusionMatrix(
        classes, ignore_index=VOID, validate_args=False
    ).to(device)

    def torch_matrix() -> Any:
        metric.reset()
        for batch in batches:
            metric.update(*batch)
        return metric.compute().cpu()

    name = on_host("TorchMetrics") if device == "cpu" else "TorchMetrics"
    return steps | {name: host_step(torch_matrix)}


def iou_steps(
    predictions: np.ndarray, labels: np.ndarray, where: np.ndarray | None, classes: int
) -> Steps:
    """IoU of each class, or of metrax their mean, which is all it has."""

    def numpy_iou() -> np.ndarray:
        iou = np.empty(classes)
        for c in range(classes):
            p, g = predictions == c, labels == c
            if where is not None:
                p, g = p & where, g & where
            iou[c] = np.logical_and(p, g).sum() / np.logical_or(p, g).sum()
        return iou

    return {
        on_host("NumPy loop"): host_step(numpy_iou),
        "metrax": metrax_step(predictions, labels, where, classes),
    }


def distance_steps(mask: np.ndarray) -> Steps:
    """SciPy's transform, and that of the package edt on one thread; both measure to a zero."""
    outside = ~mask
    scipy, edt = load("scipy.ndimage"), load("edt")
    return {
        on_host("SciPy"): scipy
        if isinstance(scipy, str)
        else host_step(lambda: scipy.distance_transform_edt(outside)),
        on_host("edt"): edt
        if isinstance(edt, str)
        else host_step(lambda: edt.edt(outside, parallel=1)),
    }


def surface_steps(p: np.ndarray, g: np.ndarray) -> Steps:
    """MONAI's three functions of masks ``[images, *space]``, and its HD95 alone."""
    names = ["MONAI's three calls", "MONAI's HD95"]
    torch, monai = load("torch"), load("monai.metrics")
    missing = next((x for x in (torch, monai) if isinstance(x, str)), None)
    if missing is not None:
        return {on_host(name): missing for name in names}
    pair = [torch.from_numpy(x)[:, None].float() for x in (p, g)]

    def hd95() -> list[list[float]]:
        return [monai.compute_hausdorff_distance(*pair, True, percentile=95)[:, 0].tolist()]

    def all_three() -> list[list[float]]:
        assd = monai.compute_average_surface_distance(*pair, True, symmetric=True)
        dice = monai.compute_surface_dice(*pair, [2.0], True)
        return [*hd95(), assd[:, 0].tolist(), dice[:, 0].tolist()]

    return dict(zip(map(on_host, names), map(host_step, (all_three, hd95)), strict=True))


def metrax_step(
    predictions: np.ndarray, labels: np.ndarray, where: np.ndarray | None, classes: int
) -> Step | str:
    metrax = load("metrax")
    if isinstance(metrax, str):
        return metrax
    if where is not None:
        return "its IoU takes no mask"

    def mean_iou(p: Array, g: Array) -> Any:
        metric = metrax.IoU.from_model_output(
            p, g, num_classes=classes, target_class_ids=jnp.arange(classes)
        )
        return metric.compute()

    return jax_step(mean_iou, *jax.device_put((predictions, labels), jax.devices()[0]))
