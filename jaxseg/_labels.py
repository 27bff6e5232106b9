"""Label maps: what an id means, ids made of logits, and a check of the values that maps hold."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks

__all__ = ["predict_labels", "check_labels"]

SHOWN = 8  # the most values that an error lists; it counts the others


def predict_labels(
    logits: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    threshold: ArrayLike = 0.5,
) -> Array:
    r"""Predicted ids (softmax) or masks (sigmoid) of logits, or masks of probabilities.

    .. math:: \operatorname{argmax}_c x_c \quad\text{or}\quad
              x_c \ge \log(threshold) - \log(1 - threshold) \quad\text{or}\quad p_c \ge threshold

    The second is the sigmoid's :math:`\sigma(x_c) \ge threshold` without its rounding. Average
    several networks, flipped images or overlapping windows as probabilities: ``activation=None``
    turns their mean into masks, and ``mean.argmax(-1)`` turns it into ids.

    Args:
      logits: float ``[..., C]``; probabilities if ``activation`` is None.
      activation: "softmax": the class of the largest logit, the lowest class of equal ones;
        "sigmoid": each class by itself; None: the same, for probabilities.
      threshold: for "sigmoid" and None, the least probability that is predicted, in [0, 1]: a
        scalar or ``[C]``. With 0 all but NaN is predicted; with 1, of logits, only inf.

    Returns:
      int32 ids ``[...]`` for "softmax", with -1, no class, where any logit is NaN; bool masks
      ``[..., C]`` for "sigmoid" and None, False where the value is NaN. Half precision is compared
      in float32.

    Raises:
      ValueError: an unknown ``activation``, a softmax over one class, a missing class axis, a
        ``threshold`` of another shape or, if it is not a JAX array, outside [0, 1], empty logits.
      TypeError: logits that are not floating point, a ``threshold`` that is not a real number.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> jaxseg.predict_labels(jnp.array([[0.1, 2.0, -1.0], [jnp.nan, 0.0, 0.0]])).tolist()
      [1, -1]
      >>> jaxseg.predict_labels(jnp.array([[0.0], [-0.1]]), activation="sigmoid").tolist()
      [[True], [False]]
      >>> flips = jnp.array([[[0.9], [0.2]], [[0.3], [0.4]]])  # probabilities, of two flips
      >>> jaxseg.predict_labels(flips.mean(0), activation=None).tolist()
      [[True], [False]]

    Note:
      A plain argmax of NaN logits is class 0, so that in TorchMetrics, metrax and Keras all-NaN
      logits can score as a perfect background. Keras and SMP also predict at equality with the
      threshold; TorchMetrics does not.
    """
    logits = _checks.check_scores("logits", logits)
    _checks.check_activation(activation, (None, "softmax", "sigmoid"), logits.shape[-1])
    if activation == "softmax":
        invalid = jnp.isnan(logits).any(-1)
        return jnp.where(invalid, -1, logits.argmax(-1).astype(jnp.int32))
    scores = _checks.at_least_float32(logits)
    least = _least_score(threshold, scores, activation == "sigmoid")
    return scores >= jnp.broadcast_to(least, scores.shape)


def _least_score(threshold: ArrayLike, scores: Array, are_logits: bool) -> Array:
    """The least score that is predicted, a scalar or ``[C]``; a logit if ``are_logits``."""
    known = not any(isinstance(x, Array) for x in jax.tree.leaves(threshold))  # under jit too
    t: Array | np.ndarray = np.asarray(threshold) if known else jnp.asarray(threshold)
    if not _checks.is_real(t):
        raise TypeError(f"threshold must be a real number, got {t.dtype}.")
    if t.shape not in ((), scores.shape[-1:]):
        raise ValueError(
            f"threshold must be a scalar or have shape {scores.shape[-1:]}, got {t.shape}."
        )
    if known:
        t = t.astype(np.float64)
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}.")
    else:
        t = t.astype(scores.dtype)
    if are_logits:  # one logarithm, which is exactly 0 at 0.5; a difference of two need not be
        with np.errstate(divide="ignore"):
            t = np.log(t / (1 - t)) if known else jnp.log(t / (1 - t))
    return jnp.asarray(t, scores.dtype)


def class_index(ids: Array, num_classes: int) -> Array:
    """Index of each id's class, unsigned; ``num_classes`` for an id of no class."""
    ids = _checks.clean_bools(ids)
    if ids.dtype not in (jnp.uint8, jnp.uint16) or num_classes > np.iinfo(ids.dtype).max:
        ids = ids.astype(jnp.uint64 if ids.dtype.itemsize == 8 else jnp.uint32)
    # Below zero, an unsigned number wraps to one above all classes.
    index = ids - 1 if num_classes == 1 else ids  # of a mask, id 1 is the class
    return jnp.minimum(index, num_classes)


def membership(
    ids: Array, num_classes: int, class_axis: int = -1, first: ArrayLike | None = None
) -> Array:
    """One-hot bool ``[..., C]`` of ids ``[...]``; an id outside [0, C) is in no class.

    With one class the ids are a mask, and 1 is the class. A device that holds some of the classes
    says which one is its ``first``.
    """
    # uint8 would wrap 256 classes, and a uint8 255 equals -1 under JAX's promotion.
    ids = ids if ids.dtype.itemsize == 8 else ids.astype(jnp.int32)
    if first is None:
        first = 1 if num_classes == 1 else 0
    classes = jnp.arange(num_classes, dtype=ids.dtype) + jnp.asarray(first, ids.dtype)
    others = tuple(a for a in range(-ids.ndim - 1, 0) if a != class_axis)
    return jnp.expand_dims(ids, class_axis) == jnp.expand_dims(classes, others)


def as_truth(labels: Array, num_classes: int, ndim: int) -> Array:
    """Labels as the truth ``[..., C]``, of ``ndim`` axes: bool, or floats if they are."""
    labels = _checks.clean_bools(labels)
    return labels if labels.ndim == ndim else membership(labels, num_classes)


def masked(x: Array, where: Array | None, class_axis: int = -1) -> Array:
    """``x`` of ``[..., C]``, and 0 where the mask ``[...]`` or ``[..., C]`` is False."""
    if where is None:
        return x
    valid = per_class(_checks.clean_bools(where), x, class_axis)
    return jnp.where(valid, x, jnp.zeros((), x.dtype))


def per_class(x: Array, like: Array, class_axis: int = -1) -> Array:
    """``x`` with a class axis of length 1, unless it has a class axis, as ``like`` does."""
    return x if x.ndim == like.ndim else jnp.expand_dims(x, class_axis)


def two_classes(truth: Array, where: Array | None, class_axis: int = -1) -> Array:
    """The truth of "not it" and "it", of a mask's ``[..., 1]``; neither where masked."""
    other = ~truth if truth.dtype == bool else 1 - truth
    return jnp.concatenate([masked(other, where, class_axis), truth], class_axis)


def check_labels(
    labels: ArrayLike,
    *,
    num_classes: int,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    predictions: ArrayLike | None = None,
) -> None:
    r"""Check the values of labels, and of predictions, once per data set, on the host.

    .. math:: \{g_i : where_i\} \subseteq \{0, \dots, C - 1\}

    No other function here reads values, since under ``jit`` a value cannot raise an error: ids that
    are no class silently give scores and losses. This function says which ids these are, in how
    many pixels, and how to mend them. Call it on the first batch, or on the whole data set.

    Predictions that are floats must be logits. Values in [0, 1] are taken for probabilities if they
    sum to 1 over the classes in each pixel, or reach from below 0.1 to above 0.9. Probabilities of
    a sigmoid that are all near 0.5, as before the training of a network, are not found out.

    Args:
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` in [0, 1].
      num_classes: C. With 1, ids are a mask of 0 and 1.
      where: bool ``[...]``; False pixels may hold anything.
      weights: float ``[...]`` or ``[..., C]``, of length 1 along axes that share a weight; they
        must be finite and at least 0. Pixels of weight 0 may hold anything.
      predictions: logits ``[..., C]``; or ids ``[...]``, where -1 (no class) is also right; or bool
        masks ``[..., C]``.

    Returns:
      None.

    Raises:
      ValueError: values of valid pixels that are no class; dense labels that are NaN or outside [0,
        1]; predictions that are probabilities, or ids of no class; weights that are negative or not
        finite; shapes that do not fit, empty labels.
      TypeError: float ids, ``where`` not bool, ``weights`` not floating, traced arrays, which have
        no values.

    Example:
      >>> import numpy as np
      >>> import jaxseg
      >>> png = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)
      >>> jaxseg.check_labels(png, num_classes=1)
      Traceback (most recent call last):
        ...
      ValueError: labels must be 0 or 1, but hold 255 (3 of 6 pixels). For a mask: labels > 0.
      >>> jaxseg.check_labels(png > 0, num_classes=1)
    """
    num_classes = _checks.check_num_classes(num_classes)
    truth = _on_host("labels", labels)
    predicted = None if predictions is None else _on_host("predictions", predictions)
    weight = None if weights is None else _on_host("weights", weights)
    if truth.size == 0:
        raise ValueError(f"labels must not be empty, got shape {truth.shape}.")
    if predicted is not None and predicted.dtype.kind == "f":
        if predicted.shape[-1:] != (num_classes,):
            raise ValueError(
                f"predictions must have a class axis, last, of num_classes={num_classes}; "
                f"got shape {predicted.shape}."
            )
        truth = _checks.check_label_format("predictions", predicted.shape, truth)
    mask = None if where is None else _on_host("where", where)
    truth, shape = _split_class_axis(truth, num_classes, mask)
    mask = None if mask is None else np.asarray(_checks.check_where(mask, shape))
    if predicted is not None and predicted.shape not in (shape, (*shape, num_classes)):
        raise ValueError(
            f"predictions must have shape {shape}, or {(*shape, num_classes)} if they are logits "
            f"or masks, to go with labels {truth.shape}; got {predicted.shape}."
        )
    if weight is not None:
        mask = _check_weights(weight, mask, shape, num_classes)

    if truth.dtype.kind == "f":
        _check_dense(truth, mask)
    else:
        _check_ids("labels", truth, mask, num_classes)
    if predicted is not None and predicted.dtype.kind == "f":
        _check_logits(predicted, mask)
    elif predicted is not None and predicted.shape == shape:
        _check_ids("predictions", predicted, mask, num_classes)


def _on_host(name: str, x: ArrayLike) -> np.ndarray:
    """A NumPy array of bools, integers or floats."""
    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            f"check_labels reads values, which traced {name} do not have: "
            "call it outside of jit and other transformations, once per data set."
        )
    array = np.asarray(x)
    if array.dtype.kind in "biuf":
        return array
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(np.float32)  # bfloat16 and smaller
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(np.int32)  # of four bits or less
    raise TypeError(f"{name} must be bool, integer or floating point, got {array.dtype}.")


def _split_class_axis(
    labels: np.ndarray, num_classes: int, where: np.ndarray | None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The labels, and their shape without the class axis, if they have one."""
    if labels.dtype.kind == "f":
        if labels.shape[-1:] != (num_classes,):
            raise TypeError(
                f"labels of {labels.dtype} must be dense, [..., {num_classes}], got shape "
                f"{labels.shape}: cast class ids to an integer dtype; a float mask needs its class "
                "axis, labels[..., None]."
            )
        return labels, labels.shape[:-1]
    has_class_axis = where is not None and (*where.shape, num_classes) == labels.shape
    if has_class_axis and num_classes == 1:
        return labels[..., 0], labels.shape[:-1]
    if has_class_axis and labels.dtype == bool:
        return labels, labels.shape[:-1]
    return labels, labels.shape


def _bounds(x: np.ndarray, where: np.ndarray | None) -> tuple[float, float]:
    """The minimum and the maximum of 0 and the values of valid pixels; NaN if one is NaN."""
    valid = np.asarray(True if where is None else where)
    if 0 < valid.ndim < x.ndim:
        valid = valid[..., None]
    return float(x.min(initial=0, where=valid)), float(x.max(initial=0, where=valid))


def _check_weights(
    weights: np.ndarray, where: np.ndarray | None, shape: tuple[int, ...], num_classes: int
) -> np.ndarray | None:
    """Check the weights of valid pixels; return where pixels are valid and have a weight."""
    _checks.check_weights(weights, shape, num_classes)
    full = shape if weights.ndim == len(shape) else (*shape, num_classes)
    weights = np.broadcast_to(weights, full)
    low, high = _bounds(weights, where)
    if not (low >= 0 and high < np.inf):
        valid = weights.reshape(-1) if where is None else weights[where].reshape(-1)
        values, numbers = np.unique(valid, return_counts=True)
        wrong = ~(np.isfinite(values) & (values >= 0))
        raise ValueError(
            "weights must be finite and at least 0, but hold "
            f"{_list_values(values[wrong], numbers[wrong], numbers.sum(), 'values')}."
        )
    weighted = np.asarray(weights != 0 if full == shape else weights.any(-1))
    return weighted if where is None else where & weighted


def _check_ids(name: str, ids: np.ndarray, where: np.ndarray | None, num_classes: int) -> None:
    last = max(num_classes - 1, 1)
    low, high = (False, True) if ids.dtype == bool else _bounds(ids, where)
    if low >= 0 and high <= last:
        return
    values, pixels = np.unique(ids if where is None else ids[where], return_counts=True)
    outside = (values < 0) | (values > last)
    if name == "predictions":
        outside &= values != -1  # that of NaN logits
    if not outside.any():
        return
    rule = "0 or 1" if last == 1 else f"0 to {last} with num_classes={num_classes}"
    raise ValueError(
        f"{name} must be {rule}, but hold "
        f"{_list_values(values[outside], pixels[outside], pixels.sum(), 'pixels')}. "
        f"{_ids_hint(name, values.tolist(), values[outside].tolist(), num_classes)}"
    )


def _ids_hint(name: str, values: list[int], outside: list[int], num_classes: int) -> str:
    """What the ids may be instead of classes, and how to turn them into classes."""
    if len(outside) == 1:
        value = outside[0]
        hints = []
        if num_classes <= 2 and value > 0 and set(values) <= {0, value}:
            hints.append(f"For a mask: {name} > 0.")
        if num_classes > 1 and value == num_classes and 0 not in values:
            hints.append(f"For ids that count from 1: {name} - 1.")
        if name == "labels" and (num_classes > 1 or 1 in values or value < 0):
            hints.append(f"For pixels that do not count: where=labels != {value}.")
        return " ".join(hints) or f"For one more class: num_classes={value + 1}."
    if num_classes == 1:
        return (
            f"For a mask with gray edges: {name} >= {max(outside) // 2 + 1}. "
            "Ids of several classes need their num_classes."
        )
    table = "of Cityscapes' ids 0 to 33 to its 19 trainIds" if num_classes == 19 else "of ids"
    void = " For pixels that do not count: where=." if name == "labels" else ""
    return f"For other ids than classes, a table {table}: table[{name}].{void}"


def _check_dense(labels: np.ndarray, where: np.ndarray | None) -> None:
    """Check that dense labels are not NaN, nor outside [0, 1] by more than rounding."""
    slack = 4 * float(np.finfo(labels.dtype).eps)
    low, high = _bounds(labels, where)
    if low >= -slack and high <= 1 + slack:
        return
    valid = labels.reshape(-1) if where is None else labels[where].reshape(-1)
    values, numbers = np.unique(valid, return_counts=True)
    outside = ~((values >= -slack) & (values <= 1 + slack))
    if np.isnan(values[outside]).any():
        hint = "For pixels that do not count: where=~np.isnan(labels).any(-1)."
    elif set(values.tolist()) <= {0, high}:
        hint = "For masks: labels > 0."
    elif outside.sum() == 1 and values[~outside].any():
        void = f"{values[outside][0]:g}"
        hint = f"For pixels that do not count: where=(labels != {void}).all(-1)."
    else:
        hint = f"For masks: labels > 0; soft labels need a scale of 0 to 1: labels / {high:g}."
    raise ValueError(
        "dense labels must be in [0, 1], but hold "
        f"{_list_values(values[outside], numbers[outside], numbers.sum(), 'values')}. {hint}"
    )


def _check_logits(logits: np.ndarray, where: np.ndarray | None) -> None:
    low, high = _bounds(logits, where)
    if not (low >= 0 and high <= 1):
        return
    valid = logits if where is None else logits[where]
    if logits.shape[-1] > 1 and valid.size:
        sums = valid.sum(-1, dtype=np.float32)
        if (abs(sums - 1) < 0.01).all():  # half precision's probabilities sum to 1 within 0.004
            raise ValueError(
                "predictions are in [0, 1] and sum to 1 over the classes, in every valid pixel, so "
                f"they are probabilities and not logits. {_LOGITS_HINT}"
            )
    if high > 0.9 and valid.min() < 0.1:
        raise ValueError(
            f"predictions are all in [0, 1], from {valid.min():.3g} to {high:.3g}, so they are "
            f"probabilities and not logits. {_LOGITS_HINT}"
        )


_LOGITS_HINT = (
    "The network still has its softmax or sigmoid: remove it, or give losses that take "
    "probabilities, and predict_labels, activation=None."
)


def _list_values(values: np.ndarray, numbers: np.ndarray, size: int, unit: str) -> str:
    """List the most frequent values, each with how often it occurs."""
    frequent = np.sort(np.argsort(-numbers, kind="stable")[:SHOWN])
    pairs = zip(values[frequent].tolist(), numbers[frequent].tolist(), strict=True)
    shown = [f"{v:g} ({n:,})" if isinstance(v, float) else f"{v} ({n:,})" for v, n in pairs]
    if len(values) == 1:
        return f"{shown[0][:-1]} of {size:,} {unit})"
    others = f" and {len(values) - SHOWN} other values" if len(values) > SHOWN else ""
    return f"{', '.join(shown)}{others}, in {numbers.sum():,} of {size:,} {unit}"
