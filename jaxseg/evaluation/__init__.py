"""Scores of folders of label maps, from Python; ``jaxseg evaluate`` is the same from a shell."""

from jaxseg.evaluation._case import Row, evaluate_case
from jaxseg.evaluation._compare import Comparison, compare, read_cases
from jaxseg.evaluation._evaluate import Event, evaluate
from jaxseg.evaluation._results import Results, merge, read_results

__all__ = [
    "Comparison",
    "Event",
    "Results",
    "Row",
    "compare",
    "evaluate",
    "evaluate_case",
    "merge",
    "read_cases",
    "read_results",
]
