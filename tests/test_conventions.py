"""docs/conventions.md: each row of its tables is what the code does, and no function lacks one."""

import inspect
import math
import re
from pathlib import Path

import cases
import jax
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


def lines(title: str) -> list[list[str]]:
    """Cells of the table whose first column has ``title``."""
    page = PAGE.read_text(encoding="utf-8")
    table = re.search(rf"^\| {re.escape(title)} .*\n\|[-|]+\n((?:\|.*\n)+)", page, re.M)
    assert table, title
    return [[c.strip() for c in line.strip("|").split("|")] for line in table[1].splitlines()]


def rows(title: str) -> list[tuple[str, tuple[str, ...]]]:
    """Names and cells of a table of empty and absent cases; a row may have two names."""
    found = []
    for first, *cells in lines(title):
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


@pytest.mark.parametrize(
    ("name", "cells"), rows("loss of an image of hard probabilities"), ids=lambda x: str(x)[:28]
)
def test_losses_of_an_image(name, cells):
    shape = (1, 3, 3)
    for cell, (p, g, valid) in zip(cells, MASKS, strict=True):
        loss = getattr(jaxseg, name)(
            jnp.full((*shape, 1), float(p)),
            jnp.full(shape, g),
            activation=None,
            where=jnp.full(shape, valid),
        )
        check(cell, loss.item())


@pytest.mark.parametrize(("name", "cells"), rows("score of an image"), ids=lambda x: str(x)[:28])
def test_scores_of_an_image(name, cells):
    mask = jnp.zeros((4, 5), bool).at[1:3, 1:4].set(True)
    for cell, (p, g, _) in zip(cells, MASKS, strict=False):
        pair = mask & bool(p), mask & bool(g)
        if name in ("centre_distance", "boundary_iou"):
            value = getattr(jaxseg, name)(*pair)
        elif cases.TABLE[name].kind == "surface":
            options = {"tolerance": 1.0} if name in ("surface_dice", "boundary_f_score") else {}
            value = getattr(jaxseg, name)(jaxseg.surface_distances(*pair), **options)
        else:
            counts = jaxseg.skeleton_counts(*pair, num_classes=1, spatial_axes=(0, 1))
            value = getattr(jaxseg, name)(counts, zero_division=Z)
        check(cell, value.item())


def assert_rows(title: str, names: set[str]) -> None:
    """The table has a row for each of these functions, and for no other."""
    listed = {name for name, _ in rows(title)}
    lacking, unknown = sorted(names - listed), sorted(listed - names)
    assert not lacking, f"add rows to the table '{title}' of docs/conventions.md for {lacking}"
    assert not unknown, f"the table '{title}' of docs/conventions.md has rows for {unknown}"


def names_of(*kinds: str) -> set[str]:
    found = {name for name, row in cases.TABLE.items() if row.kind in kinds}
    assert found
    return found


def test_every_score_has_its_row():
    assert_rows("score of Counts", names_of("counts"))
    assert_rows("score of a confusion matrix", names_of("matrix"))


def test_every_score_of_an_image_has_its_row():
    assert_rows(
        "score of an image", names_of("topology", "surface") | {"centre_distance", "boundary_iou"}
    )


def test_every_region_loss_has_its_two_rows():
    losses = names_of("region") - {"generalized_wasserstein_dice_loss"}  # it has no single class
    both = losses | {f"{name}, smooth=0" for name in losses}
    assert_rows("region loss of hard probabilities", both)


def test_every_loss_of_an_image_has_its_row():
    losses = names_of("ordered", "spatial")
    with_probs = {
        n for n in losses if "activation" in inspect.signature(getattr(jaxseg, n)).parameters
    }
    assert_rows("loss of an image of hard probabilities", with_probs)


# ---------------------------------------------------------------------------------- averages

CLASSES = 4  # the last is in neither map


def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, CLASSES - 1, (3, 5, 7)), rng.integers(0, CLASSES - 1, (3, 5, 7))


def plain_iou(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    pairs = [(predictions == c, labels == c) for c in range(CLASSES)]
    unions = [np.sum(p | g) for p, g in pairs]
    return np.array(
        [np.sum(p & g) / u if u else math.nan for (p, g), u in zip(pairs, unions, strict=True)]
    )


def plain_averages() -> dict[str, np.ndarray]:
    p, g = maps()
    each = plain_iou(p, g)
    true = [np.sum(p[g == c] == c) for c in range(CLASSES)]
    unions = [np.sum((p == c) | (g == c)) for c in range(CLASSES)]
    support = np.array([np.sum(g == c) for c in range(CLASSES)])
    of_images = np.array([plain_iou(*pair)[:-1] for pair in zip(p, g, strict=True)])
    return {
        "none": each,
        "macro": each[:-1].mean(),
        "micro": np.array(sum(true) / sum(unions)),
        "weighted": (each[:-1] * support[:-1]).sum() / support.sum(),
        "foreground only": each[1:-1].mean(),
        "per image, then mean": np.append(of_images.mean(0), math.nan),
        "data set": each[:-1].mean(),
    }


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    """What the table's expressions use; the page's own line makes ``micro``."""
    p, g = (jnp.asarray(ids, jnp.int32) for ids in maps())
    made: dict[str, object] = {
        "jax": jax,
        "jnp": jnp,
        "jaxseg": jaxseg,
        "c": jaxseg.counts(p, g, num_classes=CLASSES),
        "per_image": jaxseg.counts(p, g, num_classes=CLASSES, axis=(1, 2)),
        "total": jaxseg.counts(p[:1], g[:1], num_classes=CLASSES)
        + jaxseg.counts(p[1:], g[1:], num_classes=CLASSES),
    }
    page = PAGE.read_text(encoding="utf-8")
    for line in re.findall(r"^>>> (micro = .*)$", page, re.M):
        exec(line, made)
    return made


@pytest.mark.parametrize("row", lines("average"), ids=lambda row: row[0])
def test_averages(row, names):
    average, _, expression = row
    actual = eval(expression.strip("`"), names)
    np.testing.assert_allclose(actual, plain_averages()[average], rtol=1e-6)


def test_every_average_is_checked():
    assert [row[0] for row in lines("average")] == list(plain_averages())
