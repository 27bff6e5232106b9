"""Scores of a data set as a metric for ``flax.nnx``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxseg import Running
from jaxseg.integrations import _evaluation
from jaxseg.integrations._evaluation import Scores, StatisticFunction, hard_counts

__all__ = ["SegmentationMetric"]

GET_VALUE = hasattr(nnx.Variable, "get_value")  # Flax 0.12.0 has only ``value``


class SegmentationMetric(nnx.Metric):
    """Scores of all pixels seen since the last reset, from the exact sum of a statistic.

    It takes what ``nnx.MultiMetric`` passes to all its metrics, and its state goes through
    ``nnx.jit`` and ``nnx.split``.

    Args:
      scores: dict of functions of the statistic, or one function.
      num_classes: C of the logits ``[..., C]``.
      statistic: function ``(logits, labels, *, where=None)`` whose result is summed over batches:
        any pytree of integers or floats. By default ``jaxseg.counts`` of the predicted classes: the
        largest logit's, or with C = 1 the sigmoid's mask.
      ndim: number of axes of the label map with its batch axis: 3 for images.
      dense: whether labels are ``[..., C]``; needed only for a statistic that takes no ids.
      weighted: whether pixels or examples have weights, which the statistic takes as ``weights``.
        The default statistic then counts in floats.

    Raises:
      ValueError, TypeError: what the statistic raises for the labels of one pixel; in ``update``,
        weights for a metric that is not weighted.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> from jaxseg.integrations.nnx import SegmentationMetric
      >>> metric = SegmentationMetric({"dice": jaxseg.dice, "iou": jaxseg.iou}, num_classes=2)
      >>> logits = jnp.array([[[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]]])  # [B, H, W, C]
      >>> metric.update(logits=logits, labels=jnp.array([[[0, 1, 0]]]))
      >>> metric.compute()["dice"].tolist()
      [0.6667, 0.6667]
    """

    def __init__(  # noqa: D107  # the class says it
        self,
        scores: Scores,
        *,
        num_classes: int,
        statistic: StatisticFunction = hard_counts,
        ndim: int = 3,
        dense: bool = False,
        weighted: bool = False,
    ) -> None:
        self.scores = scores if callable(scores) else tuple(scores.items())  # to be hashed
        self.statistic, self.weighted = statistic, weighted
        zero = _evaluation.zero_sum(statistic, num_classes, ndim, dense, weighted)
        self.state = nnx.metrics.MetricState(zero)

    def reset(self) -> None:
        """Set the sum to zero."""
        self._set_sum(jax.tree.map(jnp.zeros_like, self._sum()))

    def update(
        self,
        *,
        logits: ArrayLike,
        labels: ArrayLike,
        where: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        **_: object,
    ) -> None:
        """Add a batch; other keywords, which are for other metrics, are ignored.

        Args:
          logits: float ``[..., C]``.
          labels: ids ``[...]``, or dense ``[..., C]``.
          where: bool ``[...]``; False pixels do not count.
          mask: bools or numbers, ``[B]`` or ``[...]``; examples or pixels of 0 do not count.
          weights: floats, ``[B]`` or ``[...]``, if the metric is weighted; 1 by default.
        """
        shape = jnp.shape(logits)[:-1]
        where = _evaluation.join_masks(where, mask, shape)
        given = _evaluation.weights_argument(weights, self.weighted, shape)
        batch = self.statistic(logits, labels, where=where, **given)
        self._set_sum(self._sum() + batch)

    def compute(self) -> Any:
        """The scores of the sum: a dict, or one value. On the host they get NumPy's exact sums."""
        scores = self.scores if callable(self.scores) else dict(self.scores)
        return _evaluation.compute_scores(scores, self._sum())

    def _sum(self) -> Running:
        return self.state.get_value() if GET_VALUE else self.state.value

    def _set_sum(self, state: Running) -> None:
        if GET_VALUE:
            self.state.set_value(state)
        else:
            self.state.value = state
