"""Scores of a data set as a metric for ``clu``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, SupportsIndex

import flax
import jax
import jax.numpy as jnp
from clu import metrics, values
from jax.typing import ArrayLike

from jaxseg import Running, _checks
from jaxseg.integrations import _evaluation
from jaxseg.integrations._evaluation import Score, Scores, StatisticFunction, hard_counts

__all__ = ["segmentation_metric"]


def segmentation_metric(
    scores: Scores,
    *,
    num_classes: int,
    statistic: StatisticFunction = hard_counts,
    ndim: int = 3,
    dense: bool = False,
    weighted: bool = False,
) -> type[metrics.Metric]:
    """Make a metric class that computes scores from the exact sum of a statistic over all pixels.

    Args:
      scores: dict of functions of the statistic, or one function.
      num_classes: C of the logits ``[..., C]``.
      statistic: function ``(logits, labels, *, where=None)`` whose result is summed over batches
        and devices: any pytree of integers or floats. By default ``jaxseg.counts`` of the predicted
        classes: the largest logit's, or with C = 1 the sigmoid's mask.
      ndim: number of axes of the label map with its batch axis: 3 for images.
      dense: whether labels are ``[..., C]``; needed only for a statistic that takes no ids.
      weighted: whether pixels or examples have weights, which the statistic takes as ``weights``.
        The default statistic then counts in floats.

    Returns:
      A class for ``clu.metrics.Collection``. Its ``from_model_output`` takes ``logits`` and
      ``labels``, and optionally ``where``, bool ``[...]``, and ``mask``, bools or numbers ``[B]``
      or ``[...]``; examples and pixels of 0 do not count. If it is weighted, ``weights``, floats
      ``[B]`` or ``[...]``, say how much they count; these are 1 by default. ``compute`` gives a
      dict of scores, or one value; ``compute_value`` gives one scalar only, since clu's writers
      take nothing else. The same arguments give the same class. Its instances can be pickled if the
      functions are defined at the top level of a module, and so can a collection that is defined
      there.

    Raises:
      ValueError, TypeError: what the statistic raises for the labels of one pixel; later, weights
        for a metric that is not weighted.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> from clu import metrics
      >>> from jaxseg.integrations.clu import segmentation_metric
      >>> Metrics = metrics.Collection.create(dice=segmentation_metric(jaxseg.dice, num_classes=2))
      >>> logits = jnp.array([[[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]]])  # [B, H, W, C]
      >>> labels = jnp.array([[[0, 1, 0]]])
      >>> batch = Metrics.single_from_model_output(logits=logits, labels=labels)
      >>> Metrics.empty().merge(batch).compute()["dice"].tolist()
      [0.6667, 0.6667]
    """
    return _metric_class(
        tuple(scores.items()) if isinstance(scores, Mapping) else scores,
        _checks.check_num_classes(num_classes),
        statistic,
        ndim,
        dense,
        weighted,
    )


@lru_cache(maxsize=None, typed=True)  # an unpickled metric is of the class of its original
def _metric_class(
    scores_or_items: Score | tuple[tuple[str, Score], ...],
    num_classes: int,
    statistic: StatisticFunction,
    ndim: int,
    dense: bool,
    weighted: bool,
) -> type[metrics.Metric]:
    scores = scores_or_items if callable(scores_or_items) else dict(scores_or_items)
    arguments = (scores_or_items, num_classes, statistic, ndim, dense, weighted)
    zero = _evaluation.zero_sum(statistic, num_classes, ndim, dense, weighted)

    @flax.struct.dataclass
    class SegmentationMetric(metrics.Metric):
        state: Running

        @classmethod
        def empty(cls) -> SegmentationMetric:
            return cls(state=jax.tree.map(jnp.zeros_like, zero))  # a copy, which may be donated

        @classmethod
        def from_model_output(
            cls,
            *,
            logits: ArrayLike,
            labels: ArrayLike,
            where: ArrayLike | None = None,
            mask: ArrayLike | None = None,
            weights: ArrayLike | None = None,
            **_: object,
        ) -> SegmentationMetric:
            shape = jnp.shape(logits)[:-1]
            where = _evaluation.join_masks(where, mask, shape)
            given = _evaluation.weights_argument(weights, weighted, shape)
            return cls(state=zero + statistic(logits, labels, where=where, **given))

        def merge(self, other: SegmentationMetric) -> SegmentationMetric:
            return type(self)(state=self.state + other.state)

        def compute(self) -> Any:
            return _evaluation.compute_scores(scores, self.state)

        def compute_value(self) -> values.Value:
            value = self.compute()
            if isinstance(value, dict) or jnp.ndim(value) > 0:
                kind = "a dict" if isinstance(value, dict) else f"shape {jnp.shape(value)}"
                raise ValueError(
                    f"clu's writers take one scalar of a metric, and this computes {kind}. "
                    "Reduce the score, and make a segmentation_metric of each."
                )
            return values.Scalar(value)

        def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
            if type(self) is not SegmentationMetric:  # made by from_fun, which clu cannot pickle
                return super().__reduce_ex__(protocol)
            return _restore, (arguments, self.state)

    return SegmentationMetric


def _restore(arguments: tuple[Hashable, ...], state: Running) -> metrics.Metric:
    return _metric_class(*arguments)(state=state)
