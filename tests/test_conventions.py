"""docs/conventions.md: each row of its tables of empty and absent cases is what the code does."""

import math
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg

PAGE = Path(__file__).parents[1] / "docs" / "conventions.md"
Z = 0.625  # a zero_division that no formula gives

# tp, fp, fn, tn of one class, for the columns of the table of scores of Counts.
COUNTS = ((0, 0, 0, 9), (0, 3, 0, 6), (0, 0, 3, 6), (9, 0, 0, 0), (0, 0, 0, 0))
MATRICES = (((0, 0), (0, 0)), ((9, 0), (0, 0)), ((5, 4), (0, 0)), ((5, 0), (4, 0)))
# Prediction, truth and whether pixels count, for the columns of the table of region losses.
MASKS = ((0, 0, True), (1, 0, True), (0, 1, True), (1, 1, True), (1, 0, False))


def rows(title: str) -> list[tuple[str, tuple[str, ...]]]:
    """Names and cells of the table whose first column has ``title``; a row may have two names."""
    table = re.search(rf"^\| {re.escape(title)} .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text(), re.M)
    assert table, title
    found = []
    for line in table[1].splitlines():
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        smooth = ", smooth=0" if first.endswith("smooth=0") else ""
        found += [(name + smooth, tuple(cells)) for name in re.findall(r"`(\w+)`", first)]
    return found


def check(cell: str, value: float) -> None:
    expected = {"z": Z, "inf": math.inf}.get(cell)
    if cell == "·":
        assert math.isfinite(value)
        assert value != Z
    else:
        np.testing.assert_allclose(value, float(cell) if expected is None else expected, atol=1e-6)


@pytest.mark.parametrize(("name", "cells"), rows("score of Counts"), ids=lambda x: str(x)[:28])
def test_scores_of_counts(name, cells):
    for cell, leaves in zip(cells, COUNTS, strict=True):
        counts = jaxseg.Counts(*(jnp.array([leaf], jnp.int32) for leaf in leaves))
        check(cell, getattr(jaxseg, name)(counts, zero_division=Z).item())


@pytest.mark.parametrize(
    ("name", "cells"), rows("score of a confusion matrix"), ids=lambda x: str(x)[:28]
)
def test_scores_of_a_matrix(name, cells):
    for cell, matrix in zip(cells, MATRICES, strict=True):
        check(cell, getattr(jaxseg, name)(jnp.array(matrix), zero_division=Z).item())


@pytest.mark.parametrize(
    ("name", "cells"), rows("region loss of hard probabilities"), ids=lambda x: str(x)[:28]
)
def test_region_losses(name, cells):
    name, *option = name.split(", ")
    for cell, (p, g, valid) in zip(cells, MASKS, strict=True):
        loss = getattr(jaxseg, name)(
            jnp.full((4, 1), float(p)),
            jnp.full(4, g),
            activation=None,
            smooth=0.0 if option else 1.0,
            where=jnp.full(4, valid),
        )
        check(cell, loss.item())


def test_every_score_has_its_row():
    listed = {name for name, _ in rows("score of Counts") + rows("score of a confusion matrix")}
    makers = ("counts", "soft_counts", "counts_from_confusion", "confusion_matrix", "class_report")
    public = {n for n in jaxseg.__all__ if not n.endswith("_loss") and n[0].islower()}
    assert listed == public - {*makers, "predict_labels"}
