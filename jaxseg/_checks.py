"""Static checks of arguments, and their conversion to arrays.

A check reads shapes, dtypes and what is known before tracing, such as Python numbers, so it raises
the same message eagerly and under ``jit``. A wrong shape or value is a ``ValueError``, a wrong
dtype or type a ``TypeError``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Axis = int | Sequence[int] | None
AxisName = str | tuple[str, ...] | None  # one or more mesh axes
Nested = ArrayLike | Sequence[object]  # an array, a number, or nested lists of numbers
Real = Array | np.ndarray | np.number | float  # what ``is_real`` accepts
Labels = TypeVar("Labels", Array, np.ndarray)
ArrayOrNone = TypeVar("ArrayOrNone", Array, Array | None)


def check_soft(
    name: str, scores: ArrayLike, labels: ArrayLike, axis: Axis
) -> tuple[Array, Array, tuple[int, ...]]:
    """Check logits or probabilities ``[..., C]`` against labels and ``axis``.

    Returns two arrays and a sorted tuple of axes; labels are ids ``[...]`` or dense ``[..., C]``.
    Bools are not cleaned here: the sums over pixels do it block by block.
    """
    scores = check_scores(name, scores)
    labels = check_label_format(name, scores.shape, as_raw_array(labels))
    return scores, labels, normalize_axis(axis, scores.ndim - 1)


def check_scores(name: str, scores: ArrayLike) -> Array:
    """Check logits or probabilities: floating point, with a class axis, not empty."""
    scores = as_array(scores)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {scores.dtype}; "
            "predicted ids or masks go to counts."
        )
    if scores.ndim == 0:
        raise ValueError(f"{name} must have a class axis, last: [..., C]; got shape ().")
    _check_not_empty(name, scores)
    return scores


def check_label_format(name: str, shape: tuple[int, ...], labels: Labels) -> Labels:
    """Check labels against scores ``[..., C]`` of ``shape``: ids ``[...]`` or dense ``[..., C]``.

    Only here are the two formats told apart: by the number of axes and the dtype alone.
    """
    rule = (
        f"labels must be integer or bool ids of shape {shape[:-1]}, "
        f"or dense bool or float of shape {shape}, to go with {name} {shape}"
    )
    integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if not (integer or labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.floating)):
        raise TypeError(f"{rule}; got dtype {labels.dtype}.")
    if labels.shape == shape:
        if integer and shape[-1] == 1:
            return labels[..., 0]  # a mask that kept its class axis: 1 is the class, as for ids
        if integer:
            raise ValueError(
                f"{rule}; got integers of the shape of {name}. "
                f"If {name} lack their class axis, add it ({name}[..., None] for one class); "
                "if labels are one-hot, cast them to bool."
            )
        return labels
    if labels.shape != shape[:-1]:
        hint = " Drop its last axis: labels[..., 0]." if labels.shape == (*shape[:-1], 1) else ""
        raise ValueError(f"{rule}; got shape {labels.shape}.{hint}")
    if jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(f"{rule}; got {labels.dtype} ids: cast class ids to an integer dtype.")
    return labels


def check_hard(
    predictions: ArrayLike, labels: ArrayLike, where: ArrayLike | None, axis: Axis, *, dense: bool
) -> tuple[Array, Array, Array | None, tuple[int, ...]]:
    """Check predictions against labels of one shape: ids ``[...]``, or bool masks ``[..., C]``."""
    predictions, labels = as_raw_array(predictions), as_raw_array(labels)
    may_be_logits = predictions.ndim == labels.ndim + 1
    named = (("predictions", predictions), ("labels", labels))
    for name, x in named:
        if dense and x.dtype != bool:
            raise (TypeError if jnp.issubdtype(x.dtype, jnp.floating) else ValueError)(
                f"{name} without num_classes must be bool masks [..., C], got {x.dtype}; "
                f"give num_classes= for integer ids. {_dtype_hint(name, x, may_be_logits, dense)}"
            )
        if not (x.dtype == bool or jnp.issubdtype(x.dtype, jnp.integer)):
            raise TypeError(
                f"{name} must be integer or bool ids, got {x.dtype}. "
                f"{_dtype_hint(name, x, may_be_logits, dense)}"
            )
    if predictions.shape != labels.shape:
        shapes = [(*x.shape, 1) for _, x in named]
        hints = [f" Drop the last axis: {name}[..., 0]." for name, x in named if x.shape in shapes]
        raise ValueError(
            "predictions and labels must have the same shape, "
            f"got {predictions.shape} and {labels.shape}.{''.join(hints)}"
        )
    if dense and predictions.ndim == 0:
        raise ValueError("masks must have a class axis, last: [..., C]; got shape ().")
    _check_not_empty("predictions", predictions)
    shape = predictions.shape[:-1] if dense else predictions.shape
    if math.prod(shape) >= 2**31:
        raise ValueError(
            f"One call counts in int32, so fewer than 2**31 pixels; got shape {shape}. "
            "Count in parts."
        )
    per_class = dense and where is not None and np.ndim(where) > len(shape)
    where = check_where(where, predictions.shape if per_class else shape)
    return predictions, labels, where, normalize_axis(axis, len(shape))


def _dtype_hint(name: str, x: Array, may_be_logits: bool, dense: bool) -> str:
    """How to turn ``predictions`` or ``labels`` of another dtype into ids or masks."""
    if name == "predictions" and may_be_logits:
        return "predict_labels makes either of logits."
    if name == "predictions" and jnp.issubdtype(x.dtype, jnp.floating):
        cast = "Cast masks to bool" if dense else "Cast ids to an integer dtype"
        return (
            f"{cast}, and compare probabilities with a threshold; "
            "predict_labels makes either of logits."
        )
    return "Cast masks to bool." if dense else "Cast the ids to an integer dtype."


def check_matrix(matrix: ArrayLike) -> Array | np.ndarray:
    """Check a confusion matrix ``[..., C, C]`` of integers or floats.

    NumPy's 64-bit integers stay in NumPy: ``jnp.asarray`` would cut them to int32.
    """
    if hasattr(matrix, "_fields"):  # a NamedTuple: four leaves could pass as rows
        name = type(matrix).__name__
        hint = {
            "Counts": " jaxseg.confusion_matrix makes one of label maps; the mean IoU of Counts is "
            "jnp.nanmean(jaxseg.iou(counts)).",
            "Running": " jaxseg.total(running) is the sum that a Running holds.",
        }.get(name, "")
        raise TypeError(f"This takes a confusion matrix [..., C, C], got {name}.{hint}")
    native = _as_native(matrix)
    wide = isinstance(native, np.ndarray) and native.dtype in (np.int64, np.uint64)
    array = np.asarray(native) if wide else jnp.asarray(native)
    if not is_real(array):
        raise TypeError(f"A confusion matrix must be integer or floating, got {array.dtype}.")
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or array.size == 0:
        raise ValueError(f"A confusion matrix must have shape [..., C, C], got {array.shape}.")
    return array


def check_where(where: ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
    """Check that ``where`` is a bool mask of the label map's ``shape``; it is not cleaned here."""
    if where is None:
        return None
    where = as_raw_array(where)
    if where.dtype != bool:
        raise TypeError(
            f"where must be bool, got {where.dtype}; for an ignore label: labels != 255."
        )
    if where.shape != shape:
        raise ValueError(f"where must have the label map's shape {shape}, got {where.shape}.")
    return where


def check_weights(
    weights: ArrayLike, shape: tuple[int, ...], num_classes: int | None = None
) -> Array:
    """Check weights of pixels: floats of the label map's ``shape``; an axis may have length 1.

    With ``num_classes``, those of independent classes, they may have a class axis too. They become
    float32 or stay float64, and have no gradient.
    """
    weights = as_raw_array(weights)
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        hint = "where= takes masks." if weights.dtype == bool else "Cast them to a float dtype."
        raise TypeError(f"weights must be floating point, got {weights.dtype}. {hint}")
    full = shape
    if num_classes is not None and weights.ndim > len(shape):
        full = (*shape, num_classes)
    fits = all(n in (1, m) for n, m in zip(weights.shape[::-1], full[::-1], strict=False))
    if weights.ndim != len(full) or not fits:
        lacks_axes = weights.ndim < len(full) and fits
        hint = f" For weights of all images: jnp.broadcast_to(weights, {full})."
        raise ValueError(
            f"weights must have the label map's shape {full}, or 1 along axes that share a weight; "
            f"got {weights.shape}.{hint if lacks_axes else ''}"
        )
    return jax.lax.stop_gradient(at_least_float32(weights))


def check_where_and_weights(
    where: ArrayLike | None, weights: ArrayLike | None, shape: tuple[int, ...], classes: str
) -> tuple[Array | None, Array | None]:
    """Check the mask and the weights of a loss of scores ``[..., C]`` of ``shape``.

    ``classes`` are "independent" if mask and weights may have a class axis, "tied" if a softmax or
    one truth per pixel forbids it, and "whole" if the loss does. Where a weight is 0, the mask
    returned is False. The weights have the shape of the label map, or of the scores, and no
    gradient.
    """
    mask: Array | None = None
    if where is not None:
        given = as_raw_array(where)
        by_class = given.dtype == bool and _has_class_axis("where", given, shape, classes)
        check_where(given, shape if by_class else shape[:-1])
        mask = given[..., 0] if by_class and shape[-1] == 1 else given
    if weights is None:
        return mask, None
    weights = as_raw_array(weights)
    by_class = _has_class_axis("weights", weights, shape, classes)
    full = shape if by_class else shape[:-1]
    weights = check_weights(weights, shape[:-1], shape[-1] if by_class else None)
    weights = jnp.broadcast_to(weights, full)
    weights = weights[..., 0] if by_class and shape[-1] == 1 else weights
    counted = weights != 0
    if mask is not None:
        mask, ndim = clean_bools(mask), max(mask.ndim, counted.ndim)
        mask, counted = (x if x.ndim == ndim else x[..., None] for x in (mask, counted))
        counted = mask & counted
    return counted, weights


def _has_class_axis(name: str, x: Array, shape: tuple[int, ...], classes: str) -> bool:
    """Whether a mask or weights for scores of ``shape`` have a class axis; it may be forbidden."""
    if x.ndim != len(shape):
        return False
    rule = f"{name} must have the label map's shape {shape[:-1]}, got {x.shape}."
    if x.shape[-1] == 1 and classes != "independent":
        raise ValueError(f"{rule} Drop the last axis: {name}[..., 0].")
    if x.shape[-1] != shape[-1]:
        raise ValueError(rule)
    if classes == "tied":
        raise ValueError(
            f"{rule} A class axis needs independent classes, as those of a sigmoid are: in a "
            "softmax the probability of a class depends on all others, so none can be left out. "
            "For labels that stand for several classes, as where some classes are not annotated, "
            "jaxseg.marginal_logits makes the logits."
        )
    if classes == "whole":
        raise ValueError(f"{rule} This loss does not take the classes one by one.")
    return True


def check_activation(
    activation: str | None, allowed: Sequence[str | None], num_classes: int
) -> None:
    """Check that ``activation`` is one of ``allowed``, and not a softmax over one class."""
    check_choice("activation", activation, allowed)
    if activation == "softmax" and num_classes == 1:
        raise ValueError(
            "A softmax over one class is constant: logits [..., 1] need activation='sigmoid'."
        )


def check_several_classes(num_classes: int) -> None:
    """Check that a loss that always takes a softmax has two classes or more."""
    if num_classes == 1:
        raise ValueError(
            "A softmax over one class is constant: logits [..., 1] go to jaxseg.bce_dice_loss."
        )


def check_linear(
    features: Array, kernel: ArrayLike, bias: ArrayLike | None
) -> tuple[Array, Array | None]:
    """Check a 1x1 convolution of features ``[..., F]``; return its kernel as ``[F, C]``."""
    kernel = as_array(kernel)
    bias = None if bias is None else as_array(bias)
    for name, x in (("kernel", kernel), ("bias", bias)):
        if x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got {x.dtype}.")
    width = features.shape[-1]
    if kernel.ndim < 2 or kernel.shape[-2] != width or math.prod(kernel.shape[:-2]) != 1:
        raise ValueError(
            f"kernel must have shape ({width}, C) or (1, ..., 1, {width}, C), to go with features "
            f"{features.shape}; got {kernel.shape}."
        )
    kernel = kernel.reshape(kernel.shape[-2:])
    if bias is not None and bias.shape != kernel.shape[1:]:
        raise ValueError(
            f"bias must have shape {kernel.shape[1:]}, one per class; got {bias.shape}."
        )
    return kernel, bias


def check_num_classes(num_classes: int) -> int:
    """Check that ``num_classes`` is a static positive integer."""
    if isinstance(num_classes, bool):
        raise TypeError("num_classes must be an integer, got a bool.")
    try:
        num_classes = operator.index(num_classes)
    except TypeError:
        raise TypeError(f"num_classes must be a static integer, got {num_classes!r}.") from None
    if not 1 <= num_classes < 2**31 - 1:
        raise ValueError(f"num_classes must be at least 1 and below 2**31 - 1, got {num_classes}.")
    return num_classes


def check_static_integer(name: str, value: int, least: int, below: float = math.inf) -> int:
    """Check an integer that shapes or loops depend on, so that it cannot be traced."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value}.")
    try:
        value = operator.index(value)
    except (TypeError, jax.errors.JAXTypeError):
        raise TypeError(
            f"{name} must be a static integer, got {kind(value)}; under jit it belongs to "
            "static_argnames."
        ) from None
    if not least <= value < below:
        limit = "" if below == math.inf else f" and below {below}"
        raise ValueError(f"{name} must be at least {least}{limit}, got {value}.")
    return value


def check_static_bool(name: str, value: bool) -> bool:
    """Check a switch that changes the program, so that it cannot be traced."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{name} must be True or False, got {kind(value)}; "
            "it is static, so under jit it belongs to static_argnames."
        )
    return bool(value)


def check_choice(name: str, value: object, choices: Sequence[str | None]) -> None:
    """Check a text, or None, that chooses a program, so that it cannot be traced."""
    if not isinstance(value, str | None) or value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {names}; got {kind(value)}.")


def check_scalar(
    name: str, x: object, rule: str = "", obeys: Callable[[float], bool] | None = None
) -> Array:
    """Check a real number, or an array of shape (); a value known before tracing obeys the rule."""
    number = check_real(name, x)
    if isinstance(number, int | float) and obeys is not None and not obeys(number):
        raise ValueError(f"{name} must be {rule}, got {number}.")
    # An integer may be beyond int32.
    array = jnp.asarray(float(number) if isinstance(number, int) else number)
    if array.ndim > 0:
        raise ValueError(f"{name} must be one number, got an array of shape {array.shape}.")
    return at_least_float32(array)


def check_broadcast(name: str, x: object, shape: tuple[int, ...]) -> Array | float:
    """Check a real number, or an array of them that broadcasts to ``shape``.

    An array is returned with as many axes as ``shape``, a number as it is.
    """
    number = check_real(name, x)
    if isinstance(number, int | float):
        return number
    array = as_array(number)
    fits = [n in (1, m) for n, m in zip(array.shape[::-1], shape[::-1])]
    if array.ndim > len(shape) or not all(fits):
        raise ValueError(
            f"{name} must be one number, or an array that broadcasts to shape {shape}; "
            f"got shape {array.shape}."
        )
    return at_least_float32(array.reshape((1,) * (len(shape) - array.ndim) + array.shape))


def check_broadcasts(shape: tuple[int, ...], **numbers: ArrayLike) -> list[Array | float]:
    """``check_broadcast`` for several arguments, each given by its name."""
    return [check_broadcast(name, x, shape) for name, x in numbers.items()]


def check_smoothing(label_smoothing: ArrayLike) -> Array | None:
    """Check the part of a label that is spread over the classes; None for a plain 0."""
    smoothing = check_scalar("label_smoothing", label_smoothing, "in [0, 1]", lambda x: 0 <= x <= 1)
    return smoothing if isinstance(label_smoothing, Array) or label_smoothing != 0 else None


def check_class_weights(
    name: str, weights: ArrayLike | Sequence[float] | None, num_classes: int
) -> Array | None:
    """Check weights ``[C]``, one per class; integers and bools become float32."""
    if weights is None:
        return None
    known = _as_native(weights)  # a NumPy array if the values are known, eagerly and under jit
    if (
        isinstance(known, np.ndarray)
        and known.dtype.kind in "iuf"
        and not (np.isfinite(known) & (known >= 0)).all()
    ):
        raise ValueError(f"{name} must be finite and 0 or more, got {known}.")
    array = as_array(weights)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got {array.dtype}.")
    if array.shape != (num_classes,):
        raise ValueError(
            f"{name} must have shape ({num_classes},), one per class; got {array.shape}."
        )
    return at_least_float32(array)


def check_real(name: str, x: object) -> Real:
    """Check a real number, or an array of them; NumPy's scalars become Python's numbers."""
    if not is_real(x):
        raise TypeError(f"{name} must be a real number, got {kind(x)}.")
    return x.item() if isinstance(x, np.ndarray | np.generic) and x.ndim == 0 else x


def is_real(x: object) -> TypeGuard[Real]:
    """Whether ``x`` is a real number or an array of them; a bool is not a number."""
    if isinstance(x, Array | np.ndarray | np.generic):
        return bool(jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating))
    return isinstance(x, int | float) and not isinstance(x, bool)


def kind(x: object) -> str:
    """What ``x`` is, for a message: the same for an array and for its tracer."""
    if isinstance(x, Array | np.ndarray | np.generic):
        return f"an array of shape {x.shape} and dtype {x.dtype}"
    if x is None or isinstance(x, bool | str | int | float | complex):
        return repr(x)
    return type(x).__name__


def normalize_axis(axis: Axis, ndim: int, of: str | None = None) -> tuple[int, ...]:
    """The axes as a sorted tuple of non-negative integers; None is all ``ndim`` of them."""
    if axis is None:
        return tuple(range(ndim))
    try:
        axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
        if any(isinstance(a, bool | np.bool_) for a in axes):
            raise TypeError
        axes = tuple(operator.index(a) for a in axes)
    except TypeError:
        raise TypeError(
            f"axis must be None, an integer or a tuple of integers; got {axis!r}."
        ) from None
    if not all(-ndim <= a < ndim for a in axes):
        of = of or f"the label map's {ndim} axes, without the class axis"
        raise ValueError(f"axis counts {of}; {axis} is out of range.")
    axes = tuple(sorted(a % ndim for a in axes))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis names the same axis twice: {axis}.")
    return axes


def as_array(x: Nested) -> Array:
    """``jnp.asarray`` for what users give: native byte order, clean bools, no id that wraps."""
    return clean_bools(as_raw_array(x))


def as_raw_array(x: Nested) -> Array:
    """``as_array`` without the cleaning of JAX's bools, which the sums do block by block.

    NumPy's 64-bit ids that int32 cannot hold stay outside [0, C), where ``jnp.asarray`` alone would
    wrap 2**32 to class 0.
    """
    native = _as_native(x)
    if isinstance(native, np.ndarray) and native.dtype in (np.int64, np.uint64):
        dtype = jax.dtypes.canonicalize_dtype(native.dtype)  # the same if 64 bits are enabled
        if dtype != native.dtype:
            native = np.clip(native, max(-1, np.iinfo(native.dtype).min), 2**31 - 1).astype(dtype)
    return jnp.asarray(native)


def _as_native(x: object) -> object:
    """Turn lists and numbers into NumPy arrays, and give those native bytes and clean bools."""
    if not isinstance(x, np.ndarray | np.generic | list | tuple | bool | int | float | complex):
        return x
    if any(isinstance(leaf, Array) for leaf in jax.tree.leaves(x)):
        return x
    array = np.asarray(x)
    if array.dtype == bool:
        return array.view(np.uint8) != 0
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def clean_bools(x: ArrayOrNone) -> ArrayOrNone:
    """Make the bytes of bools 0 or 1; return any other array, or None, as it is.

    NumPy reads a 1-bit image file as bools with bytes of 255. XLA takes these for True in some
    operations and for -1 in others, also once they are in a JAX array. A selection reads them
    right, and the comparison keeps XLA from undoing it.
    """
    if x is None or x.dtype != bool:
        return x
    return jnp.where(x, jnp.uint8(1), jnp.uint8(0)) > 0


def at_least_float32(x: ArrayLike) -> Array:
    """Cast to float32, in which half precision is summed; float64 stays."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def as_float(x: ArrayLike) -> Array:
    """Cast counts to float32 or better.

    NumPy's integers directly become floats: ``jnp.asarray`` alone would cut int64 sums to int32.
    """
    x = np.asarray(x) if isinstance(x, np.ndarray | np.generic | int) else jnp.asarray(x)
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    return at_least_float32(x) if is_float else jnp.asarray(x, dtype=float)


def _check_not_empty(name: str, x: Array) -> None:
    if x.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {x.shape}.")
