"""The metrics that ``--metrics`` names: what each is called in tables, and how it is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

OVERLAP = ("dice", "iou", "precision", "recall", "specificity", "accuracy")
DISTANCE = ("hd", "hd95", "assd", "masd")
AT_TOLERANCE = ("nsd", "boundary-f")
OTHER = ("volume", "relative-volume", "boundary-iou", "centre-distance")


class Metric(NamedTuple):
    """A metric as it was asked for: ``hd95``, or with a tolerance ``nsd@2``."""

    name: str
    kind: str  # the name without its tolerance
    tolerance: float | None

    @property
    def is_overlap(self) -> bool:
        """Whether it is a score of counts, which has a pooled value."""
        return self.kind in OVERLAP

    @property
    def is_distance(self) -> bool:
        """Whether it is in the unit of the spacing, and inf for a class that was missed."""
        return self.kind in (*DISTANCE, "centre-distance")

    @property
    def best(self) -> float:
        """The value of a perfect prediction."""
        return 0.0 if self.is_distance or self.kind in ("volume", "relative-volume") else 1.0

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values are better; of volumes the nearest to 0 is best."""
        return self.best == 1.0

    @property
    def worst(self) -> float:
        """The value of a class that was missed, or predicted where it is not."""
        if self.is_distance:
            return math.inf
        return math.nan if self.best == 0 else 0.0

    def column(self, unit: str) -> str:
        """Its name in tables, with its definition and unit."""
        names = {
            "hd": f"hausdorff_max_{unit}",
            "hd95": f"hd95_max_{unit}",
            "assd": f"assd_pooled_{unit}",
            "masd": f"masd_mean_{unit}",
            "volume": f"volume_difference_{unit}" + ("" if unit == "px" else "3"),
            "relative-volume": "volume_difference_relative",
            "boundary-iou": "boundary_iou_erosion_2_percent",
            "centre-distance": f"centre_distance_{unit}",
        }
        if self.kind in AT_TOLERANCE:
            kind = "surface_dice_pooled" if self.kind == "nsd" else "boundary_f_score"
            return f"{kind}_at_{self.tolerance:g}{unit}"
        return names.get(self.kind, self.kind)


def parse_metrics(names: str | Sequence[str]) -> tuple[Metric, ...]:
    """Metrics of their names, as a list or separated by commas; ValueError for another name."""
    given = names.split(",") if isinstance(names, str) else list(names)
    metrics = [_parse(name.strip()) for name in given if name.strip()]
    if not metrics:
        raise ValueError("metrics must name at least one metric, such as dice.")
    columns = [m.column("px") for m in metrics]
    twice = {m.name for m in metrics if columns.count(m.column("px")) > 1}
    if twice:
        raise ValueError(f"metrics name {', '.join(sorted(twice))} more than once.")
    return tuple(metrics)


def _parse(name: str) -> Metric:
    kind, at, number = name.partition("@")
    if kind in AT_TOLERANCE:
        if not re.fullmatch(r"\d+(\.\d+)?", number):
            raise ValueError(
                f"{kind} needs its tolerance, in the unit of the spacing: {kind}@2; got {name!r}."
            )
        return Metric(name, kind, float(number))
    if kind not in (*OVERLAP, *DISTANCE, *OTHER) or at:
        known = ", ".join([*OVERLAP, *DISTANCE, *(f"{k}@TOLERANCE" for k in AT_TOLERANCE), *OTHER])
        raise ValueError(f"{name!r} is no metric that is known here: {known}.")
    return Metric(name, kind, None)
