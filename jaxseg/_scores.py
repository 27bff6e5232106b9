"""Scores of ``Counts`` and of a confusion matrix: pure functions, each of one formula.

Scores of ``Counts`` take leaves ``[..., C]`` and return ``[..., C]``, one score per class; averages
are reductions of that (``docs/conventions.md`` has the table). Counts become floats before anything
is multiplied, so no product of pixel counts overflows.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._counts import Counts, counts_from_confusion
from jaxseg._numerics import (
    divide_by_roots,
    fence,
    held,
    power_of_two_near_inverse,
    safe_divide,
    safe_power,
    select,
)
from jaxseg._running import Running

__all__ = [
    "dice", "iou", "jaccard", "tversky", "fbeta", "precision", "recall", "sensitivity",
    "specificity", "negative_predictive_value", "false_positive_rate", "false_negative_rate",
    "false_discovery_rate", "false_omission_rate", "accuracy", "prevalence", "balanced_accuracy",
    "informedness", "markedness", "matthews_correlation", "fowlkes_mallows",
    "volumetric_similarity", "relative_volume_difference", "generalized_dice", "pixel_accuracy",
    "mean_class_accuracy", "mean_iou", "frequency_weighted_iou", "cohen_kappa",
    "multiclass_matthews_correlation", "expected_cost", "class_report", "class_table",
    "positive_likelihood_ratio", "negative_likelihood_ratio", "prevalence_threshold", "net_benefit",
]  # fmt: skip

Costs = ArrayLike | Sequence[Sequence[float]]  # [C, C]
NUMBERS = {"smooth", "eps", "alpha", "beta", "exchange_rate", "zero_division"}  # or arrays of them
Options = ParamSpec("Options")
Result = TypeVar("Result")


def _checked(score: Callable[Options, Result]) -> Callable[Options, Result]:
    """Make ``score`` refuse label maps in place of the statistic, and check its numbers."""
    name, data = score.__name__, next(iter(inspect.signature(score).parameters))
    makers = {"counts": ("Counts", "counts"), "matrix": ("a confusion matrix", "confusion_matrix")}
    expected, maker = makers[data]

    @functools.wraps(score)
    def checked(*statistic: Options.args, **options: Options.kwargs) -> Result:
        if len(statistic) > 1:
            raise TypeError(
                f"{name} takes {expected}, got {len(statistic)} arguments; of label maps it is "
                f"jaxseg.{name}(jaxseg.{maker}(predictions, labels, num_classes=...))."
            )
        shape = _result_shape(name, *statistic, *(v for k, v in options.items() if k == data))
        for option in options.keys() & NUMBERS:
            options[option] = _checks.check_broadcast(option, options[option], shape)
        if "power" in options:
            options["power"] = _checks.check_broadcast("power", options["power"], ())
        return score(*statistic, **options)

    return checked


def _result_shape(name: str, statistic: object = None) -> tuple[int, ...]:
    """The shape of the score: that of the leaves, or that of the matrix without its last axes."""
    if name.startswith("class_"):  # a report, with one number for all classes
        return ()
    if isinstance(statistic, Counts):
        shape = jnp.shape(statistic.tp)
        return shape[:-1] if name == "generalized_dice" else shape
    return jnp.shape(statistic)[:-2] if _checks.is_real(statistic) else ()


# ---------------------------------------------------------------------------------- overlap


@_checked
def dice(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Dice score (F1) per class.

    .. math:: \frac{2\,tp + smooth}{2\,tp + fp + fn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth: added to numerator and denominator.
      eps: added to the denominator alone.
      zero_division: the score where the denominator is 0: the class is in neither map.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError: anything but ``Counts``.
      ValueError: leaves of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> c = jaxseg.counts(jnp.array([0, 1, 1, 1]), jnp.array([0, 1, 1, 0]), num_classes=3)
      >>> jaxseg.dice(c, zero_division=-1.0).tolist()
      [0.6667, 0.8, -1.]

    References:
      L. R. Dice, "Measures of the amount of ecologic association between species", Ecology 1945.

    Note:
      Optax's ``dice_loss`` adds its smooth to I and to (P + G) / 2: ours with twice the smooth. A
      class in neither map scores 0 in metrax, 1 in Segmentation Models, and NaN here and in MONAI.
    """
    tp, fp, fn, _ = _floats(counts)
    return safe_divide(2 * tp + smooth, 2 * tp + fp + fn + smooth + eps, zero_division)


@_checked
def iou(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Intersection over union (Jaccard index) per class; ``jaccard`` is another name for it.

    Forecasters call it the threat score, or the critical success index.

    .. math:: \frac{tp + smooth}{tp + fp + fn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is in neither map.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.iou(c).tolist()
      [0.6667, 0.5]

    References:
      P. Jaccard, "The distribution of the flora in the alpine zone", New Phytologist 1912.

    Note:
      MONAI's and Segmentation Models' Jaccard losses place their smooth differently from each
      other: MONAI's is ours with half its ``smooth_nr``.
    """
    tp, fp, fn, _ = _floats(counts)
    return safe_divide(tp + smooth, tp + fp + fn + smooth + eps, zero_division)


jaccard = iou


@_checked
def tversky(
    counts: Counts,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Tversky index per class: overlap, with separate weights for false positives and misses.

    .. math:: \frac{tp + smooth}{tp + \alpha\,fp + \beta\,fn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      alpha: weight of false positives. With beta: 0.5 and 0.5 is Dice, 1 and 1 is IoU.
      beta: weight of false negatives.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is in neither map.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.tversky(c, alpha=0.3, beta=0.7).tolist()
      [0.7792, 0.6977]

    References:
      A. Tversky, "Features of similarity", Psychological Review 1977.

    Note:
      Up to Keras 3.15 alpha and beta were the other way round there; Keras 3.16 corrects it. Dice
      is ``alpha = beta = 0.5`` with half the smooth.
    """
    tp, fp, fn, _ = _floats(counts)
    return safe_divide(tp + smooth, tp + alpha * fp + beta * fn + smooth + eps, zero_division)


@_checked
def fbeta(
    counts: Counts,
    *,
    beta: float = 1.0,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""F-beta score per class: recall counts ``beta`` times as much as precision.

    .. math:: \frac{(1 + \beta^2)\,tp + smooth}{(1 + \beta^2)\,tp + \beta^2\,fn + fp + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      beta: weight of recall; 1 is Dice.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is in neither map.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.fbeta(c, beta=2.0).tolist()
      [0.7692, 0.7143]

    References:
      C. J. van Rijsbergen, "Information Retrieval", 1979.
    """
    tp, fp, fn, _ = _floats(counts)
    right = (1 + beta**2) * tp + smooth
    return safe_divide(right, right + beta**2 * fn + fp + eps, zero_division)


# ---------------------------------------------------------------------------------- rates


@_checked
def precision(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Precision (positive predictive value) per class: predicted pixels that are right.

    .. math:: \frac{tp + smooth}{tp + fp + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is not predicted.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.precision(c).tolist()
      [0.8571, 0.6]
    """
    tp, fp, _, _ = _floats(counts)
    return safe_divide(tp + smooth, tp + fp + smooth + eps, zero_division)


@_checked
def recall(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Recall (sensitivity) per class: true pixels that are found; ``sensitivity`` is another name.

    .. math:: \frac{tp + smooth}{tp + fn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is not in the truth.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.recall(c).tolist()
      [0.75, 0.75]
    """
    tp, _, fn, _ = _floats(counts)
    return safe_divide(tp + smooth, tp + fn + smooth + eps, zero_division)


sensitivity = recall


@_checked
def specificity(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Specificity per class: pixels outside the class that are left out of it.

    .. math:: \frac{tn + smooth}{tn + fp + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class fills the truth.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.specificity(c).tolist()
      [0.75, 0.75]
    """
    _, fp, _, tn = _floats(counts)
    return safe_divide(tn + smooth, tn + fp + smooth + eps, zero_division)


@_checked
def negative_predictive_value(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Negative predictive value per class: pixels not predicted that are indeed not the class.

    .. math:: \frac{tn + smooth}{tn + fn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class fills the prediction.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.negative_predictive_value(c).tolist()
      [0.6, 0.8571]
    """
    _, _, fn, tn = _floats(counts)
    return safe_divide(tn + smooth, tn + fn + smooth + eps, zero_division)


@_checked
def false_positive_rate(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""False positive rate per class: 1 - specificity.

    .. math:: \frac{fp + smooth}{fp + tn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class fills the truth.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.false_positive_rate(c).tolist()
      [0.25, 0.25]
    """
    _, fp, _, tn = _floats(counts)
    return safe_divide(fp + smooth, fp + tn + smooth + eps, zero_division)


@_checked
def false_negative_rate(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""False negative rate (miss rate) per class: 1 - recall.

    .. math:: \frac{fn + smooth}{fn + tp + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is not in the truth.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.false_negative_rate(c).tolist()
      [0.25, 0.25]
    """
    tp, _, fn, _ = _floats(counts)
    return safe_divide(fn + smooth, fn + tp + smooth + eps, zero_division)


@_checked
def false_discovery_rate(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""False discovery rate per class: 1 - precision.

    .. math:: \frac{fp + smooth}{fp + tp + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is not predicted.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.false_discovery_rate(c).tolist()
      [0.1429, 0.4]
    """
    tp, fp, _, _ = _floats(counts)
    return safe_divide(fp + smooth, fp + tp + smooth + eps, zero_division)


@_checked
def false_omission_rate(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""False omission rate per class: 1 - negative predictive value.

    .. math:: \frac{fn + smooth}{fn + tn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class fills the prediction.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.false_omission_rate(c).tolist()
      [0.4, 0.1429]
    """
    _, _, fn, tn = _floats(counts)
    return safe_divide(fn + smooth, fn + tn + smooth + eps, zero_division)


@_checked
def accuracy(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Accuracy per class: the share of pixels rightly in or out of the class.

    .. math:: \frac{tp + tn + smooth}{tp + fp + fn + tn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where no pixel counts.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.accuracy(c).tolist()
      [0.75, 0.75]

    Note:
      Not the share of pixels labelled right: that is ``pixel_accuracy`` of a confusion matrix.
    """
    tp, fp, fn, tn = _floats(counts)
    return safe_divide(tp + tn + smooth, tp + fp + fn + tn + smooth + eps, zero_division)


@_checked
def prevalence(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Prevalence per class: the share of pixels that are truly of the class.

    .. math:: \frac{tp + fn + smooth}{tp + fp + fn + tn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where no pixel counts.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.prevalence(c).tolist()
      [0.6667, 0.3333]
    """
    tp, fp, fn, tn = _floats(counts)
    return safe_divide(tp + fn + smooth, tp + fp + fn + tn + smooth + eps, zero_division)


# ---------------------------------------------------------------------------------- two rates


@_checked
def balanced_accuracy(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Balanced accuracy per class: the mean of recall and specificity.

    .. math:: \frac{1}{2}\left(\frac{tp}{tp + fn} + \frac{tn}{tn + fp}\right)

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the score where either is 0/0: the class fills the truth or is not in it.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.balanced_accuracy(c).tolist()
      [0.75, 0.75]
    """
    tp, fp, fn, tn = _floats(counts)
    score = 0.5 * (safe_divide(tp, tp + fn, 0) + safe_divide(tn, tn + fp, 0))
    return _unless_zero(score, (tp + fn, tn + fp), zero_division)


@_checked
def informedness(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Informedness (Youden's J) per class: recall + specificity - 1.

    .. math:: \frac{tp}{tp + fn} + \frac{tn}{tn + fp} - 1

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the score where either is 0/0: the class fills the truth or is not in it.

    Returns:
      Float array ``[..., C]`` in [-1, 1]; 0 is chance.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.informedness(c).tolist()
      [0.5, 0.5]

    References:
      W. J. Youden, "Index for rating diagnostic tests", Cancer 1950.
    """
    tp, fp, fn, tn = _floats(counts)
    score = safe_divide(tp, tp + fn, 0) - safe_divide(fp, tn + fp, 0)  # specificity is 1 - fp rate
    return _unless_zero(score, (tp + fn, tn + fp), zero_division)


@_checked
def markedness(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Markedness per class: precision + negative predictive value - 1.

    .. math:: \frac{tp}{tp + fp} + \frac{tn}{tn + fn} - 1

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the score where either is 0/0: the class fills the prediction or is not in it.

    Returns:
      Float array ``[..., C]`` in [-1, 1]; 0 is chance.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.markedness(c).tolist()
      [0.4571, 0.4571]

    References:
      D. M. W. Powers, "Evaluation: from precision, recall and F-measure to ROC, informedness,
      markedness and correlation", 2011.
    """
    tp, fp, fn, tn = _floats(counts)
    score = safe_divide(tp, tp + fp, 0) - safe_divide(fn, tn + fn, 0)  # NPV is 1 - omission rate
    return _unless_zero(score, (tp + fp, tn + fn), zero_division)


@_checked
def matthews_correlation(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Matthews correlation coefficient per class, one class against the rest.

    .. math:: \frac{tp\,tn - fp\,fn}{\sqrt{(tp + fp)(tp + fn)(tn + fp)(tn + fn)}}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the score where a factor is 0: prediction or truth is all of one kind.

    Returns:
      Float array ``[..., C]`` in [-1, 1]; 0 is chance.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[3e9, 1e8], [1e8, 3e9]])
      >>> jaxseg.matthews_correlation(c).tolist()
      [0.9355, 0.9355]

    References:
      B. W. Matthews, "Comparison of the predicted and observed secondary structure of T4 phage
      lysozyme", Biochimica et Biophysica Acta 1975.

    Note:
      TorchMetrics 1.9 returns 0 for the counts of the example: its product overflows float32. Here
      every quotient of a count and two roots is at most 1.
    """
    tp, fp, fn, tn = _floats(counts)
    margins = a, b, c, d = tp + fp, tp + fn, tn + fp, tn + fn
    right = divide_by_roots(tp, a, b) * divide_by_roots(tn, c, d)
    wrong = divide_by_roots(fp, a, c) * divide_by_roots(fn, b, d)
    return _unless_zero(right - wrong, margins, zero_division)


@_checked
def fowlkes_mallows(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Fowlkes-Mallows index per class: the geometric mean of precision and recall.

    .. math:: \frac{tp}{\sqrt{(tp + fp)(tp + fn)}}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the score where the class is in neither map; in one of them only, it is 0.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.fowlkes_mallows(c).tolist()
      [0.8018, 0.6708]

    References:
      E. B. Fowlkes and C. L. Mallows, "A method for comparing two hierarchical
      clusterings", JASA 1983.
    """
    tp, fp, fn, _ = _floats(counts)
    score = divide_by_roots(tp, tp + fp, tp + fn)
    return _unless_zero(score, (tp + fp + fn,), zero_division)


@_checked
def positive_likelihood_ratio(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Positive likelihood ratio per class: recall over the false positive rate.

    .. math:: LR^+ = \frac{tp / (tp + fn)}{fp / (fp + tn)}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the value where either rate is 0/0 (the class fills the truth or is not in it),
        and where both are 0: the class is not predicted.

    Returns:
      Float array ``[..., C]`` in [0, inf]; 1 is chance. Without false positives it is inf.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.positive_likelihood_ratio(c).tolist()
      [3., 3.]

    References:
      J. Attia, "Moving beyond sensitivity and specificity: using likelihood ratios to help
      interpret diagnostic tests", Australian Prescriber 2003.

    Note:
      In MetricsReloaded 0.1 it is NaN without false positives, so that in a mean over images those
      without any do not count.
    """
    return _ratio_of_rates(*_floats(counts), zero_division)


@_checked
def negative_likelihood_ratio(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Negative likelihood ratio per class: the false negative rate over specificity.

    .. math:: LR^- = \frac{fn / (tp + fn)}{tn / (fp + tn)}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the value where either rate is 0/0 (the class fills the truth or is not in it),
        and where both are 0: the class fills the prediction.

    Returns:
      Float array ``[..., C]`` in [0, inf]; 0 is best, 1 is chance. Without true negatives it is
      inf.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.negative_likelihood_ratio(c).tolist()
      [0.3333, 0.3333]

    References:
      J. Attia, "Moving beyond sensitivity and specificity: using likelihood ratios to help
      interpret diagnostic tests", Australian Prescriber 2003.
    """
    tp, fp, fn, tn = _floats(counts)
    return _ratio_of_rates(fn, tn, tp, fp, zero_division)


@_checked
def prevalence_threshold(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Prevalence threshold per class: below this prevalence, precision falls steeply.

    .. math:: \frac{\sqrt{F}}{\sqrt{R} + \sqrt{F}}, \quad
              R = \frac{tp}{tp + fn}, \quad F = \frac{fp}{fp + tn}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the value where either rate is 0/0 (the class fills the truth or is not in it),
        and where both are 0: the class is not predicted.

    Returns:
      Float array ``[..., C]`` in [0, 1]; 0 is best, 0.5 is chance.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.prevalence_threshold(c).tolist()
      [0.366, 0.366]

    References:
      J. Balayla, "Prevalence threshold and the geometry of screening curves", PLoS One 2020.
    """
    tp, fp, fn, tn = _floats(counts)
    inside, outside = tp + fn, fp + tn
    found = safe_power(safe_divide(tp, inside, 0), 0.5)
    false = safe_power(safe_divide(fp, outside, 0), 0.5)
    score = safe_divide(false, found + false, 0)
    return _unless_zero(score, (inside, outside, tp + fp), zero_division)


@_checked
def net_benefit(
    counts: Counts, *, exchange_rate: ArrayLike = 1.0, zero_division: ArrayLike = jnp.nan
) -> Array:
    r"""Net benefit per class: true positives less the harm of false ones, as shares of all pixels.

    .. math:: \frac{tp - w\,fp}{tp + fp + fn + tn}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      exchange_rate: w, the harm of a false positive in units of the benefit of a true one. If masks
        are ``probs >= t`` with a threshold t, it is ``t / (1 - t)``; finding one in ten is 1/9.
      zero_division: the value where no pixel counts.

    Returns:
      Float array ``[..., C]``, from -w to the prevalence.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.net_benefit(c).tolist()
      [0.4167, 0.0833]
      >>> jaxseg.net_benefit(c, exchange_rate=1 / 9).tolist()
      [0.4907, 0.2315]

    References:
      A. J. Vickers, B. Van Calster and E. W. Steyerberg, "Net benefit approaches to the evaluation
      of prediction models, molecular markers, and diagnostic tests", BMJ 2016.
    """
    tp, fp, fn, tn = _floats(counts)
    return safe_divide(tp - exchange_rate * fp, tp + fp + fn + tn, zero_division)


# ---------------------------------------------------------------------------------- volumes


@_checked
def volumetric_similarity(
    counts: Counts,
    *,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Volumetric similarity per class: how alike the two volumes are, wherever they lie.

    .. math:: 1 - \frac{|fn - fp|}{2\,tp + fp + fn}
              = \frac{2\,tp + 2\min(fp, fn) + smooth}{2\,tp + fp + fn + smooth + eps}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where the class is in neither map.

    Returns:
      Float array ``[..., C]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.volumetric_similarity(c).tolist()
      [0.9333, 0.8889]

    References:
      A. A. Taha and A. Hanbury, "Metrics for evaluating 3D medical image segmentation", 2015.
    """
    tp, fp, fn, _ = _floats(counts)
    less, more = jnp.minimum(fp, fn), jnp.maximum(fp, fn)
    similar = 2 * tp + 2 * less + smooth
    return safe_divide(similar, similar + (more - less) + eps, zero_division)


@_checked
def relative_volume_difference(counts: Counts, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Relative volume difference per class: positive where too much is predicted.

    .. math:: \frac{P - G}{G} = \frac{fp - fn}{tp + fn}

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      zero_division: the value where the class is in neither map; if only predicted, it is inf.

    Returns:
      Float array ``[..., C]`` in [-1, inf]; 0 is best.

    Raises:
      TypeError, ValueError: as ``dice``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.relative_volume_difference(c).tolist()
      [-0.125, 0.25]
    """
    tp, fp, fn, _ = _floats(counts)
    value = safe_divide(fp - fn, tp + fn, jnp.inf)
    return _unless_zero(value, (tp + fp + fn,), zero_division)


@_checked
def generalized_dice(
    counts: Counts,
    *,
    power: float = 2.0,
    smooth: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Generalized Dice score: one number over all classes, small classes weighing more.

    .. math:: \frac{2 \sum_c w_c\,tp_c + smooth}{\sum_c w_c (2\,tp_c + fp_c + fn_c) + smooth + eps},
              \quad w_c = \left(\frac{\min_{k : G_k > 0} G_k}{G_c}\right)^{power},
              \quad G_c = tp_c + fn_c

    Args:
      counts: ``Counts`` with leaves ``[..., C]``.
      power: 2 as in the paper, 1, or 0 for equal weights. The weights are the paper's
        ``1 / G^power``, scaled so that the largest is 1. A class absent from the truth takes
        that largest weight, so that its false positives count.
      smooth, eps, zero_division: as in ``dice``; 0/0 is where no class is in either map.

    Returns:
      Float array ``[...]`` in [0, 1]: the class axis is summed.

    Raises:
      TypeError, ValueError: as ``dice``; Counts without a class axis.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> jaxseg.generalized_dice(c).tolist()
      0.7059

    References:
      C. H. Sudre et al., "Generalised Dice overlap as a deep learning loss function", 2017.

    Note:
      In Optax's generalized Dice an absent class takes almost all the weight.
    """
    tp, fp, fn, _ = _floats(counts)
    if tp.ndim == 0:
        raise ValueError("generalized_dice sums over the class axis; Counts have none, shape ().")
    weights = rarity_weights(tp + fn, power)
    right, wrong = 2 * (weights * tp).sum(-1) + smooth, (weights * (fp + fn)).sum(-1)
    return safe_divide(right, right + wrong + eps, zero_division)


# ---------------------------------------------------------------------------------- matrix


@_checked
def pixel_accuracy(matrix: ArrayLike, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Pixel accuracy: the share of pixels labelled right.

    .. math:: \frac{\sum_c M_{cc}}{\sum_{ij} M_{ij}}

    Args:
      matrix: confusion matrix ``[..., C, C]``, rows truth.
      zero_division: the score of an empty matrix.

    Returns:
      Float array ``[...]`` in [0, 1].

    Raises:
      TypeError: a bool or complex matrix.
      ValueError: a matrix that is not square.

    Example:
      >>> import jaxseg
      >>> jaxseg.pixel_accuracy([[6, 2], [1, 3]]).tolist()
      0.75
    """
    matrix = _float_matrix(matrix)
    right = jnp.trace(matrix, axis1=-2, axis2=-1)
    wrong = _cost(matrix, 1 - jnp.eye(matrix.shape[-1], dtype=matrix.dtype))
    return safe_divide(right, right + wrong, zero_division)


@_checked
def mean_class_accuracy(matrix: ArrayLike, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Mean class accuracy: recall, averaged over the classes that are in the truth.

    .. math:: \frac{1}{|\{c : G_c > 0\}|} \sum_{c : G_c > 0} \frac{M_{cc}}{G_c},
              \quad G_c = \sum_j M_{cj}

    Args:
      matrix: confusion matrix ``[..., C, C]``, rows truth.
      zero_division: the score of an empty matrix.

    Returns:
      Float array ``[...]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``pixel_accuracy``.

    Example:
      >>> import jaxseg
      >>> jaxseg.mean_class_accuracy([[6, 2], [1, 3]]).tolist()
      0.75
    """
    c = counts_from_confusion(_float_matrix(matrix))
    return _mean_of_present(recall(c, zero_division=0), c.tp + c.fn > 0, zero_division)


@_checked
def mean_iou(matrix: ArrayLike, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Mean IoU, averaged over the classes that are in either map: the mIoU of a data set.

    .. math:: \frac{1}{|S|} \sum_{c \in S} \frac{M_{cc}}{G_c + P_c - M_{cc}},
              \quad S = \{c : G_c + P_c > 0\}

    Args:
      matrix: confusion matrix ``[..., C, C]``, rows truth, pooled over the data set.
      zero_division: the score of an empty matrix.

    Returns:
      Float array ``[...]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``pixel_accuracy``.

    Example:
      >>> import jaxseg
      >>> jaxseg.mean_iou([[6, 2, 0], [1, 3, 0], [0, 0, 0]]).tolist()
      0.5833

    References:
      M. Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010.

    Note:
      A prediction of no class (NaN logits) has no cell, so it is not missed here:
      ``jnp.nanmean(jaxseg.iou(counts))`` of ``counts`` is the same mean and misses it.
      TorchMetrics' segmentation ``MeanIoU`` and metrax's ``IoU`` average ratios of parts of the
      data, which gives another number, and one that depends on how the data was batched.
    """
    c = counts_from_confusion(_float_matrix(matrix))
    return _mean_of_present(iou(c, zero_division=0), c.tp + c.fp + c.fn > 0, zero_division)


@_checked
def frequency_weighted_iou(matrix: ArrayLike, *, zero_division: ArrayLike = jnp.nan) -> Array:
    r"""Frequency-weighted IoU: IoU of the classes, weighted by their share of the truth.

    .. math:: \sum_c \frac{G_c}{\sum_k G_k} \cdot \frac{M_{cc}}{G_c + P_c - M_{cc}}

    Args:
      matrix: confusion matrix ``[..., C, C]``, rows truth.
      zero_division: the score of an empty matrix.

    Returns:
      Float array ``[...]`` in [0, 1].

    Raises:
      TypeError, ValueError: as ``pixel_accuracy``.

    Example:
      >>> import jaxseg
      >>> jaxseg.frequency_weighted_iou([[6, 2], [1, 3]]).tolist()
      0.6111

    References:
      J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for semantic
      segmentation", 2015.
    """
    c = counts_from_confusion(_scaled(matrix))
    truth, score = c.tp + c.fn, iou(c, zero_division=0)
    right, wrong = (truth * score).sum(-1), (truth * (1 - score)).sum(-1)
    return safe_divide(right, right + wrong, zero_division)


@_checked
def cohen_kappa(
    matrix: ArrayLike,
    *,
    weights: str | ArrayLike | Sequence[Sequence[float]] | None = None,
    zero_division: ArrayLike = jnp.nan,
) -> Array:
    r"""Cohen's kappa: agreement beyond what the two maps' class frequencies give by chance.

    .. math:: 1 - \frac{\sum_{ij} w_{ij} M_{ij} / N}{\sum_{ij} w_{ij} G_i P_j / N^2}

    Args:
      matrix: confusion matrix ``[..., C, C]``, rows truth.
      weights: the cost w of predicting j where i is true. None is 1 for every error; for ordered
        classes "linear" is ``|i - j|`` and "quadratic" is ``(i - j)^2``; others are an array ``[C,
        C]`` of numbers that are 0 or more, as a rule with 0 on the diagonal.
      zero_division: the score where chance costs nothing: both maps hold the same one class.

    Returns:
      Float array ``[...]`` up to 1; 0 is chance. It is at least -1 but with an array of weights.

    Raises:
      ValueError: unknown ``weights``, or an array of another shape; else TypeError, ValueError as
        ``pixel_accuracy``.

    Example:
      >>> import jaxseg
      >>> jaxseg.cohen_kappa([[6, 2], [1, 3]]).tolist()
      0.4706
      >>> jaxseg.cohen_kappa([[6, 2], [1, 3]], weights=[[0, 1], [5, 0]]).tolist()
      0.5333

    References:
      J. Cohen, "A coefficient of agreement for nominal scales", 1960; "Weighted kappa: nominal
      scale agreement with provision for scaled disagreement or partial credit", 1968.
    """
    m = _scaled(matrix)
    costs = _kappa_costs(weights, m)
    observed = _cost(m, costs) * m.sum((-2, -1))
    expected = _cost(m.sum(-1)[..., :, None] * m.sum(-2)[..., None, :], costs)
    most = 1.0 if weights is None or isinstance(weights, str) else jnp.inf
    score = held(safe_divide(expected - observed, expected, 0), 0.0, most)
    return select(expected == 0, zero_division, score)


@_checked
def multiclass_matthews_correlation(
    matrix: ArrayLike, *, zero_division: ArrayLike = jnp.nan
) -> Array:
    r"""Matthews correlation of all classes together (Gorodkin's R_K).

    .. math:: \frac{N \sum_c M_{cc} - \sum_c G_c P_c}
              {\sqrt{(N^2 - \sum_c P_c^2)(N^2 - \sum_c G_c^2)}}

    Args:
      matrix: confusion matrix ``[..., C, C]``, rows truth.
      zero_division: the score where a map is all of one class.

    Returns:
      Float array ``[...]`` in [-1, 1]; 0 is chance.

    Raises:
      TypeError, ValueError: as ``pixel_accuracy``.

    Example:
      >>> import jaxseg
      >>> jaxseg.multiclass_matthews_correlation([[6, 2], [1, 3]]).tolist()
      0.4781

    References:
      J. Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient",
      2004.

    Note:
      Computed as sums of ``tp tn - fp fn``, ``(tp + fn)(tn + fp)`` and ``(tp + fp)(tn + fn)`` over
      the classes: for a map of almost one class, N^2 minus a sum of squares would cancel.
    """
    tp, fp, fn, tn = counts_from_confusion(_scaled(matrix))
    products = tp * tn - fp * fn, (tp + fn) * (tn + fp), (tp + fp) * (tn + fn)
    covariance, *variances = (fence(x).sum(-1) for x in products)
    return _unless_zero(divide_by_roots(covariance, *variances), variances, zero_division)


@_checked
def expected_cost(
    matrix: ArrayLike, *, costs: ArrayLike | None = None, zero_division: ArrayLike = jnp.nan
) -> Array:
    r"""Expected cost of the errors, over that of the best decision that ignores the image.

    .. math:: \frac{\sum_{ij} K_{ij} M_{ij}}{\min_j \sum_i K_{ij} G_i}

    Args:
      matrix: confusion matrix ``[..., C, C]``, rows truth.
      costs: ``[C, C]``, the cost K of predicting j where i is true; None is 1 for every error.
      zero_division: the value where deciding blindly costs nothing: the truth is all of one class.

    Returns:
      Float array ``[...]``, 0 is best; 1 is no better than always predicting one class.

    Raises:
      ValueError: ``costs`` of another shape; else TypeError, ValueError as ``pixel_accuracy``.

    Example:
      >>> import jaxseg
      >>> jaxseg.expected_cost([[6, 2], [1, 3]]).tolist()
      0.75
      >>> jaxseg.expected_cost([[6, 2], [1, 3]], costs=[[0, 1], [5, 0]]).tolist()
      0.875

    References:
      L. Ferrer, "Analysis and comparison of classification metrics", 2022.
    """
    m = _scaled(matrix)
    given = 1 - jnp.eye(m.shape[-1]) if costs is None else costs
    k = _check_costs("costs", given, m)
    rows = jnp.expand_dims(k, tuple(range(m.ndim - 2)))
    naive = (m.sum(-1, keepdims=True) * rows).sum(-2).min(-1)
    return safe_divide(_cost(m, k), naive, zero_division)


# ---------------------------------------------------------------------------------- report


@_checked
def class_report(
    counts: Counts,
    *,
    names: Sequence[str] | None = None,
    sort_by: str | None = None,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> str:
    """A plain text table: precision, recall, Dice, IoU and support of each class, and their means.

    ``mean`` averages over the classes that have the score (not NaN); ``pooled`` is the score of the
    counts summed over classes; support is the class's number of true pixels. One mask has neither.

    Args:
      counts: ``Counts`` with leaves ``[C]``, not traced: the table is made on the host.
      names: one name per class; None numbers them from 0, and one mask 1, the id of its pixels.
      sort_by: "precision", "recall", "dice", "iou" or "support" puts the class with the largest
        value first, and classes without the score last; None keeps the order of the classes.
      eps: one number, added to the denominators, as in ``dice``.
      zero_division: one number, the score where the denominator is 0. Such a score counts in the
        mean, unless it is NaN.

    Returns:
      The table, one line per class, with no trailing newline; "-" stands for NaN.

    Raises:
      TypeError: anything but ``Counts``.
      ValueError: leaves not of shape ``[C]``, another number of names, an unknown column.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> print(jaxseg.class_report(c, names=["background", "cell"]))
                  precision  recall    dice     iou  support
      background     0.8571  0.7500  0.8000  0.6667        8
      cell           0.6000  0.7500  0.6667  0.5000        4
      <BLANKLINE>
      mean           0.7286  0.7500  0.7333  0.5833       12
      pooled         0.7500  0.7500  0.7500  0.6000       12
    """
    _checks.check_choice("sort_by", sort_by, (None, *COLUMNS, "support"))
    leaves, is_soft = _of_classes("class_report", counts)
    table = _table(leaves, names, eps, zero_division)
    rows = list(zip(*table.values()))
    if sort_by is not None:
        values = np.asarray(table[sort_by], float)
        rows = [rows[i] for i in np.argsort(-values, kind="stable")]  # NaN is last

    def texts(name: str, *values: float) -> list[str]:
        *scores, pixels = values
        shown = ["-" if np.isnan(v) else f"{v:.4f}" for v in scores]
        return [name, *shown, f"{pixels:.{1 if is_soft else 0}f}"]

    cells = [["", *COLUMNS, "support"], *(texts(*row) for row in rows)]
    averages = []
    if len(rows) > 1:
        pixels = sum(table["support"])
        means = [_mean_of_defined(np.asarray(table[column], float)) for column in COLUMNS]
        summed = Counts(*(leaf.sum(keepdims=True) for leaf in leaves))
        pooled = _table(summed, None, eps, zero_division)
        averages = [
            texts("mean", *means, pixels),
            texts("pooled", *(pooled[column][0] for column in COLUMNS), pixels),
        ]
    width, *widths = (max(map(len, column)) for column in zip(*cells, *averages))
    lines = [
        f"{name:<{width}}" + "".join(f"  {t:>{max(w, 6)}}" for t, w in zip(texts, widths))
        for name, *texts in (*cells, *averages)
    ]
    if averages:
        lines.insert(len(cells), "")
    return "\n".join(lines)


@_checked
def class_table(
    counts: Counts,
    *,
    names: Sequence[str] | None = None,
    eps: ArrayLike = 0.0,
    zero_division: ArrayLike = jnp.nan,
) -> dict[str, list[Any]]:
    r"""The columns of ``class_report`` as plain lists, for pandas or a CSV file.

    Args:
      counts, names, eps, zero_division: as in ``class_report``.

    Returns:
      A dict of "class", "precision", "recall", "dice", "iou" and "support", each a list with one
      value per class, in the order of the classes: Python's strings, floats and, for support of
      hard counts, integers. It has no means: they are those of the columns.

    Raises:
      TypeError, ValueError: as ``class_report``.

    Example:
      >>> import jaxseg
      >>> c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
      >>> table = jaxseg.class_table(c, names=["background", "cell"])
      >>> table["class"], table["iou"], table["support"]
      (['background', 'cell'], [0.6667, 0.5], [8, 4])
      >>> import csv, sys
      >>> csv.writer(sys.stdout, lineterminator="\n").writerows([table, *zip(*table.values())])
      class,precision,recall,dice,iou,support
      background,0.8571,0.75,0.8,0.6667,8
      cell,0.6,0.75,0.6667,0.5,4
    """
    leaves, _ = _of_classes("class_table", counts)
    return _table(leaves, names, eps, zero_division)


COLUMNS = {"precision": precision, "recall": recall, "dice": dice, "iou": iou}


def _of_classes(name: str, counts: Counts) -> tuple[Counts, bool]:
    """Counts ``[C]`` as NumPy's, whose sums over classes cannot wrap, and whether they are soft."""
    _floats(counts)  # checks them
    is_soft = any(np.issubdtype(np.asarray(leaf).dtype, np.floating) for leaf in counts)
    dtype = np.dtype(np.float64 if is_soft else np.int64)
    leaves = Counts(*(np.asarray(leaf).astype(dtype) for leaf in counts))
    if leaves.tp.ndim != 1:
        raise ValueError(f"{name} takes Counts with leaves [C], got shape {leaves.tp.shape}.")
    return leaves, is_soft


def _table(
    leaves: Counts, names: Sequence[str] | None, eps: ArrayLike, zero_division: ArrayLike
) -> dict[str, list[Any]]:
    num_classes = len(leaves.tp)
    if names is None:
        names = ["1"] if num_classes == 1 else [str(c) for c in range(num_classes)]
    names = [str(name) for name in names]
    if len(names) != num_classes:
        raise ValueError(f"expected {num_classes} names, one per class; got {len(names)}.")
    scores = {
        column: np.asarray(score(leaves, eps=eps, zero_division=zero_division)).tolist()
        for column, score in COLUMNS.items()
    }
    return {"class": names, **scores, "support": np.asarray(leaves.tp + leaves.fn).tolist()}


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return defined.mean() if defined.size else np.nan


# ---------------------------------------------------------------------------------- shared


def rarity_weights(sizes: Array, power: float) -> Array:
    """``(smallest / G)^power`` for class sizes G ``[..., C]``; 1 for an absent class.

    These have the ratios of ``1 / G^power``, and nothing under- or overflows.
    """
    present = sizes > 0
    smallest = jnp.min(sizes, axis=-1, where=present, initial=jnp.inf, keepdims=True)
    smallest = jnp.where(present.any(-1, keepdims=True), smallest, 1)
    return jnp.where(present, smallest / jnp.where(present, sizes, 1), 1) ** power


def _floats(counts: object) -> Counts:
    """Check the counts and cast them to float32 or better, so that no product overflows."""
    if not isinstance(counts, Counts):
        if isinstance(counts, Running):
            hint = "jaxseg.total(running) is the sum that a Running holds."
        elif isinstance(counts, Array | np.ndarray | list):
            hint = (
                "jaxseg.counts_from_confusion makes them of a confusion matrix, jaxseg.counts of "
                "predicted and true label maps, jaxseg.soft_counts of probabilities and labels."
            )
        else:
            hint = "jaxseg.counts and jaxseg.soft_counts make them of maps."
        raise TypeError(f"A score takes Counts, got {_checks.kind(counts)}. {hint}")
    shapes = [jnp.shape(leaf) for leaf in counts]
    if len(set(shapes)) > 1:
        raise ValueError(f"Counts must have four leaves of one shape [..., C], got {shapes}.")
    return Counts(*(_checks.as_float(leaf) for leaf in counts))


def _float_matrix(matrix: ArrayLike) -> Array:
    return _checks.as_float(_checks.check_matrix(matrix))


def _scaled(matrix: ArrayLike) -> Array:
    """The matrix times a power of two, exact, whose sum is near 1: no product overflows."""
    matrix = _float_matrix(matrix)
    pixels = matrix.sum((-2, -1), keepdims=True)
    scale = power_of_two_near_inverse(jnp.where(pixels == 0, 1, pixels))
    return matrix * scale


def _cost(matrix: Array, costs: Array) -> Array:
    return (matrix * jnp.expand_dims(costs, tuple(range(matrix.ndim - 2)))).sum((-2, -1))


def _kappa_costs(weights: str | Costs | None, matrix: Array) -> Array:
    """The costs ``[C, C]`` that ``weights`` of ``cohen_kappa`` stand for."""
    classes = jnp.arange(matrix.shape[-1], dtype=matrix.dtype)
    steps = jnp.abs(classes[:, None] - classes[None, :])
    if weights is None:
        return (steps > 0).astype(matrix.dtype)
    if isinstance(weights, str):
        if weights not in ("linear", "quadratic"):
            raise ValueError(
                f"weights must be None, 'linear', 'quadratic' or an array [C, C]; got {weights!r}."
            )
        return steps if weights == "linear" else steps**2
    return _check_costs("weights", weights, matrix)


def _check_costs(name: str, costs: Costs, matrix: Array) -> Array:
    """Check costs ``[C, C]`` and cast them to the dtype of the matrix."""
    array = jnp.asarray(costs)
    if array.dtype != bool:
        _checks.check_real(name, array)
    if array.shape != matrix.shape[-2:]:
        shape = matrix.shape[-2:]
        raise ValueError(f"{name} must have shape {shape}, rows truth; got {array.shape}.")
    return array.astype(matrix.dtype)


def _unless_zero(score: Array, denominators: Sequence[Array], zero_division: ArrayLike) -> Array:
    """The score, or ``zero_division`` where one of its denominators is 0."""
    for denominator in denominators:
        score = select(denominator == 0, zero_division, score)
    return score


def _ratio_of_rates(tp: Array, fp: Array, fn: Array, tn: Array, zero_division: ArrayLike) -> Array:
    """The share of the class that is in ``tp``, over the share of the others that is in ``fp``."""
    inside, outside = tp + fn, fp + tn
    ratio = safe_divide(safe_divide(tp, inside, 0), safe_divide(fp, outside, 0), jnp.inf)
    return _unless_zero(ratio, (inside, outside, tp + fp), zero_division)


def _mean_of_present(scores: Array, present: Array, zero_division: ArrayLike) -> Array:
    score_sum = jnp.where(present, scores, 0).sum(-1)
    return safe_divide(score_sum, present.sum(-1).astype(scores.dtype), zero_division)
