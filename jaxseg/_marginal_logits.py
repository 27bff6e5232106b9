"""Logits of sets of classes, for data sets in which a label stands for several classes."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxseg import _checks

__all__ = ["marginal_logits"]


def marginal_logits(logits: ArrayLike, *, sets: ArrayLike | Sequence[Sequence[bool]]) -> Array:
    r"""Logits of sets of classes, whose softmax is the sum of the probabilities of each set.

    .. math:: y_k = \log \sum_{c \in S_k} e^{x_c}, \qquad
              \operatorname{softmax}(y)_k = \sum_{c \in S_k} \operatorname{softmax}(x)_c

    Where a data set annotates some of the classes of a network, its labels stand for sets: its
    background is all classes that it does not annotate. Any loss of a softmax takes these logits
    with such labels. So its cross-entropy is that of the summed probability (the marginal loss),
    and its Dice that of the merged class.

    Args:
      logits: float ``[..., C]``.
      sets: bool ``[K, C]``, which classes belong to each of the K sets: each class to exactly one.
        Sets that differ among images or pixels have the axes of the label map too, of length 1
        where they are the same: ``[B, 1, 1, K, C]``. A set may be empty, so that all have one K.

    Returns:
      Float32 (float64 for float64 logits) ``[..., K]``. The logit of an empty set, or of one whose
      logits are all -inf, is -inf, with a gradient of 0.

    Raises:
      ValueError: one class or one set alone, sets of another shape; if their values are known, a
        class that is in no set or in several.
      TypeError: logits that are not floating point, ``sets`` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> # Background, liver, spleen; the labels are 1 for liver, and 0 for anything else.
      >>> liver_or_not = jnp.array([[True, False, True], [False, True, False]])
      >>> logits = jnp.log(jnp.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]))
      >>> merged = jaxseg.marginal_logits(logits, sets=liver_or_not)
      >>> jnp.exp(merged).tolist()
      [[0.8, 0.2], [0.4, 0.6]]
      >>> jaxseg.dice_ce_loss(merged, jnp.array([0, 1])).item()
      0.5679

    References:
      G. Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ
      segmentation", Medical Image Analysis 2021; L. Fidon et al., "Label-set loss functions for
      partial supervision", MICCAI 2021.
    """
    logits = _checks.at_least_float32(_checks.check_scores("logits", logits))
    _checks.check_several_classes(logits.shape[-1])
    members = jnp.where(_check_sets(sets, logits.shape), logits[..., None, :], -jnp.inf)
    largest = lax.stop_gradient(members.max(-1))
    finite = jnp.isfinite(largest)
    # What is not finite has no gradient, so that masked pixels may hold anything.
    members = jnp.where(finite[..., None], members, 0)
    shift = jnp.where(finite, largest, 0)
    sums = jnp.exp(members - shift[..., None]).sum(-1)
    return jnp.where(finite, shift + jnp.log(sums), largest)


def _check_sets(sets: ArrayLike | Sequence[Sequence[bool]], shape: tuple[int, ...]) -> Array:
    """Check the sets of logits of ``shape``; return them with the axes of the label map."""
    known = isinstance(sets, np.ndarray | list | tuple)  # under jit too
    array = _checks.as_array(sets)
    if array.dtype != bool:
        raise TypeError(
            f"sets must be bool, got {array.dtype}; of the set of each class: "
            "jnp.asarray(set_of_class) == jnp.arange(K)[:, None]."
        )
    *space, classes = shape
    rule = f"sets must have shape (K, {classes}), or that of the label map {tuple(space)} before it"
    if array.ndim == 2:
        array = array.reshape(*(1 for _ in space), *array.shape)
    lengths = zip(array.shape, space, strict=False)
    if (
        array.ndim != len(shape) + 1
        or array.shape[-1] != classes
        or not all(n in (1, m) for n, m in lengths)
    ):
        hint = ""
        if array.ndim == 3 < len(shape) + 1 and array.shape[0] == shape[0]:
            ones = ", None" * (len(shape) - 2)
            hint = f" For sets of each image: sets[:{ones}]."
        raise ValueError(f"{rule}, with 1 for axes that share sets; got {array.shape}.{hint}")
    if array.shape[-2] < 2:
        raise ValueError("sets must be two or more: one set of all classes has a probability of 1.")
    if known:
        times = np.asarray(sets).sum(-2)
        if (times != 1).any():
            c = np.argwhere(times != 1)[0][-1]
            number = times[times != 1].ravel()[0]
            raise ValueError(
                f"Each class must be in exactly one of the sets, but class {c} is in {number}."
            )
    return array
