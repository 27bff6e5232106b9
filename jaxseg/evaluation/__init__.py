"""Scores of folders of label maps, from Python; ``jaxseg evaluate`` is the same from a shell."""

from jaxseg.evaluation._case import Row, evaluate_case

__all__ = ["Row", "evaluate_case"]
