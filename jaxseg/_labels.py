"""Label maps: what an id means, ids made of logits, and a check of the values that maps hold."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks

SHOWN = 8  # values that an error names; of others it says how many there are


def predict_labels(
    logits: ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    threshold: ArrayLike = 0.5,
) -> Array:
    r"""Predicted ids (softmax) or masks (sigmoid) of logits, or masks of probabilities.

    .. math:: \operatorname{argmax}_c x_c \quad\text{or}\quad
              x_c \ge \log(threshold) - \log(1 - threshold) \quad\text{or}\quad p_c \ge threshold

    The second is the sigmoid's :math:`\sigma(x_c) \ge threshold` without its rounding. The mean of
    several networks, of flipped images or of overlapping windows is best taken of probabilities:
    then ``activation=None`` makes masks of it, and ``mean.argmax(-1)`` ids.

    Args:
      logits: float ``[..., C]``; probabilities if ``activation`` is None.
      activation: "softmax": the class of the largest logit, the lowest of equal ones; "sigmoid":
        each class by itself; None: the same of probabilities.
      threshold: probability from which a class is predicted, in [0, 1], for "sigmoid" and None: a
        scalar or ``[C]``. From 0 on all is predicted but NaN; from 1 on, of logits, only inf.

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
    least = _threshold(threshold, scores, activation == "sigmoid")
    return scores >= jnp.broadcast_to(least, scores.shape)


def _threshold(threshold: ArrayLike, scores: Array, of_logits: bool) -> Array:
    """The least score that is predicted, a scalar or ``[C]``; a logit if the scores are."""
    known = not any(isinstance(x, Array) for x in jax.tree.leaves(threshold))  # under jit too
    t: Any = np.asarray(threshold) if known else jnp.asarray(threshold)
    if not (jnp.issubdtype(t.dtype, jnp.floating) or jnp.issubdtype(t.dtype, jnp.integer)):
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
    if of_logits:  # the logarithm of the odds: exactly 0 at 0.5, as a difference need not be
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
    """Bool ``[..., C]``: which class each id of ``[...]`` is; an id outside [0, C) is none.

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
    """``x`` of ``[..., C]``, and 0 where the mask ``[...]`` is False."""
    if where is None:
        return x
    valid = jnp.expand_dims(_checks.clean_bools(where), class_axis)
    return jnp.where(valid, x, jnp.zeros((), x.dtype))


def two_classes(truth: Array, where: Array | None, class_axis: int = -1) -> Array:
    """The truth of "not it" and "it", of a mask's ``[..., 1]``; neither where masked."""
    other = ~truth if truth.dtype == bool else 1 - truth
    return jnp.concatenate([masked(other, where, class_axis), truth], class_axis)


def check_labels(
    labels: ArrayLike,
    *,
    num_classes: int,
    where: ArrayLike | None = None,
    predictions: ArrayLike | None = None,
) -> None:
    r"""Check the values of labels, and of predictions, once per data set, on the host.

    .. math:: \{g_i : where_i\} \subseteq \{0, \dots, C - 1\}

    No other function here reads values, since under ``jit`` a value cannot raise an error. Ids that
    are no class give scores and losses without a word: this says which ones there are, in how many
    pixels, and what mends it. Call it on the first batch, or on the whole data set.

    Predictions that are floats have to be logits. Probabilities are found out by values in [0, 1]
    that sum to 1 over the classes, in each pixel, or that reach from below 0.1 to above 0.9. Those
    of a sigmoid that are all near 0.5, as of a network before its training, may be logits.

    Args:
      labels: integer or bool ids ``[...]``, or dense bool or float ``[..., C]`` in [0, 1].
      num_classes: C. With 1, ids are a mask, of 0 and 1.
      where: bool ``[...]``; False pixels may hold anything.
      predictions: logits ``[..., C]``; or ids ``[...]``, of which -1, no class, is also right; or
        bool masks ``[..., C]``.

    Returns:
      None.

    Raises:
      ValueError: values of valid pixels that are no class; dense labels that are NaN or outside [0,
        1]; predictions that are probabilities, or ids of no class; shapes that do not fit, empty
        labels.
      TypeError: float ids, ``where`` not bool, arrays of a trace, which have no values yet.

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
    found, given = _on_host("labels", labels), _on_host("predictions", predictions)
    if found.size == 0:
        raise ValueError(f"labels must not be empty, got shape {found.shape}.")
    scores = given is not None and given.dtype.kind == "f"
    if scores:
        if given.shape[-1:] != (num_classes,):
            raise ValueError(
                f"predictions must have a class axis, last, of num_classes={num_classes}; "
                f"got shape {given.shape}."
            )
        found = _checks.check_label_format("predictions", given.shape, found)
    mask = _on_host("where", where)
    found, shape = _label_map(found, num_classes, mask)
    mask = None if mask is None else np.asarray(_checks.check_where(mask, shape))
    if given is not None and given.shape not in (shape, (*shape, num_classes)):
        raise ValueError(
            f"predictions must have shape {shape}, or {(*shape, num_classes)} if they are logits "
            f"or masks, to go with labels {found.shape}; got {given.shape}."
        )

    if found.dtype.kind == "f":
        _check_shares(found, mask)
    else:
        _check_ids("labels", found, mask, num_classes)
    if given is None:
        return
    if scores:
        _check_logits(given, mask)
    elif given.shape == shape:
        _check_ids("predictions", given, mask, num_classes)


def _on_host(name: str, x: ArrayLike | None) -> Any:
    """A NumPy array of bools, integers or floats."""
    if x is None:
        return None
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


def _label_map(
    labels: np.ndarray, num_classes: int, where: np.ndarray | None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The labels, and the shape of their map: what a class axis is, is said here."""
    if labels.dtype.kind == "f":
        if labels.shape[-1:] != (num_classes,):
            raise TypeError(
                f"labels of {labels.dtype} must be dense, [..., {num_classes}], got shape "
                f"{labels.shape}: cast class ids to an integer dtype; a float mask needs its class "
                "axis, labels[..., None]."
            )
        return labels, labels.shape[:-1]
    map_and_axis = where is not None and (*where.shape, num_classes) == labels.shape
    if map_and_axis and num_classes == 1:
        return labels[..., 0], labels.shape[:-1]
    if map_and_axis and labels.dtype == bool:
        return labels, labels.shape[:-1]
    return labels, labels.shape


def _bounds(x: np.ndarray, where: np.ndarray | None) -> tuple[Any, Any]:
    """The least and the largest value of valid pixels and 0; NaN if there is one."""
    valid: Any = True if where is None else where
    if where is not None and where.ndim < x.ndim:
        valid = where[..., None]
    return x.min(initial=0, where=valid), x.max(initial=0, where=valid)


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
        f"{_listed(values[outside], pixels[outside], pixels.sum(), 'pixels')}. "
        f"{_mend_of_ids(name, values.tolist(), values[outside].tolist(), num_classes)}"
    )


def _mend_of_ids(name: str, values: list[int], outside: list[int], num_classes: int) -> str:
    if len(outside) == 1:
        value = outside[0]
        mends = []
        if num_classes <= 2 and value > 0 and set(values) <= {0, value}:
            mends.append(f"For a mask: {name} > 0.")
        if num_classes > 1 and value == num_classes and 0 not in values:
            mends.append(f"For ids that count from 1: {name} - 1.")
        if name == "labels" and (num_classes > 1 or 1 in values or value < 0):
            mends.append(f"For pixels that do not count: where=labels != {value}.")
        return " ".join(mends) or f"For one more class: num_classes={value + 1}."
    if num_classes == 1:
        return (
            f"For a mask with gray edges: {name} >= {max(outside) // 2 + 1}. "
            "Ids of several classes need their num_classes."
        )
    table = "of Cityscapes' ids 0 to 33 to its 19 trainIds" if num_classes == 19 else "of ids"
    void = " For pixels that do not count: where=." if name == "labels" else ""
    return f"For other ids than classes, a table {table}: table[{name}].{void}"


def _check_shares(labels: np.ndarray, where: np.ndarray | None) -> None:
    """Dense labels: NaN, and values outside [0, 1] by more than rounding."""
    slack = 4 * float(np.finfo(labels.dtype).eps)
    low, high = _bounds(labels, where)
    if low >= -slack and high <= 1 + slack:
        return
    valid = labels.reshape(-1) if where is None else labels[where].reshape(-1)
    values, number = np.unique(valid, return_counts=True)
    outside = ~((values >= -slack) & (values <= 1 + slack))
    if np.isnan(values[outside]).any():
        mend = "For pixels that do not count: where=~np.isnan(labels).any(-1)."
    elif set(values.tolist()) <= {0, high}:
        mend = "For masks: labels > 0."
    elif outside.sum() == 1 and values[~outside].any():
        void = f"{values[outside][0]:g}"
        mend = f"For pixels that do not count: where=(labels != {void}).all(-1)."
    else:
        mend = f"For masks: labels > 0; soft labels need a scale of 0 to 1: labels / {high:g}."
    raise ValueError(
        "dense labels must be in [0, 1], but hold "
        f"{_listed(values[outside], number[outside], number.sum(), 'values')}. {mend}"
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
                f"they are probabilities and not logits. {_MEND_OF_PROBABILITIES}"
            )
    if high > 0.9 and valid.min() < 0.1:
        raise ValueError(
            f"predictions are all in [0, 1], from {valid.min():.3g} to {high:.3g}, so they are "
            f"probabilities and not logits. {_MEND_OF_PROBABILITIES}"
        )


_MEND_OF_PROBABILITIES = (
    "The network still has its softmax or sigmoid: remove it, or give losses that take "
    "probabilities, and predict_labels, activation=None."
)


def _listed(values: np.ndarray, numbers: np.ndarray, total: int, what: str) -> str:
    """The most frequent values, and in how many pixels each is."""
    most = np.sort(np.argsort(-numbers, kind="stable")[:SHOWN])
    pairs = zip(values[most].tolist(), numbers[most].tolist(), strict=True)
    shown = [f"{v:g} ({n:,})" if isinstance(v, float) else f"{v} ({n:,})" for v, n in pairs]
    if len(values) == 1:
        return f"{shown[0][:-1]} of {total:,} {what})"
    more = f" and {len(values) - SHOWN} other values" if len(values) > SHOWN else ""
    return f"{', '.join(shown)}{more}, in {numbers.sum():,} of {total:,} {what}"
