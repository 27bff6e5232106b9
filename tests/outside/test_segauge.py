"""Intervals, ranks and differences of a published leaderboard, segauge-benchmark's.

Its numbers stay outside the repository, in ``../shared/data``; without them these tests are
skipped. They are of 2,000 resamples, which this file draws as segauge does.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxseg.evaluation._compare import Comparison, compare
from jaxseg.evaluation._intervals import intervals
from jaxseg.evaluation._records import Columns

FOLDER = Path(__file__).parents[3] / "shared/data/segauge-benchmark/results"
FILE = FOLDER / "kits23_modal.json"
BOARD: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"models": []}
COLUMNS = {
    "dice": "dice",
    "hd95": "hd95_max_mm",
    "nsd": "surface_dice_pooled_at_2mm",
    "assd": "assd_pooled_mm",
}
pytestmark = pytest.mark.skipif(not BOARD["models"], reason=f"no leaderboard in {FILE}")


def resamples(n: int = 20) -> np.ndarray:
    """How often each case is drawn, as segauge 0.1.0 draws: one call per resample."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(2000)])


def table(model: dict[str, Any]) -> Columns:
    rows = [
        (case["case_id"], "", "kidney", column, case[name])
        for case in model["per_organ"]["kidney"]["per_case"]
        for name, column in COLUMNS.items()
    ]
    columns = zip(*rows, strict=True)
    return dict(zip(("case", "group", "class", "metric", "value"), map(list, columns), strict=True))


@cache
def compared(level: float) -> Comparison:
    tables = {model["name"]: table(model) for model in BOARD["models"]}
    return compare(tables, resamples=resamples(), level=level)


@pytest.mark.parametrize("metric", COLUMNS)
@pytest.mark.parametrize("index", range(3))
def test_intervals(index: int, metric: str) -> None:
    """All of its digits on its resamples, and on our own within the error of two bootstraps."""
    organ = BOARD["models"][index]["per_organ"]["kidney"]
    values = [case[metric] for case in organ["per_case"]]
    want = [organ["summary"][metric][end] for end in ("ci_low", "ci_high")]
    np.testing.assert_allclose(intervals(values, resamples=resamples()), want, rtol=1e-6)

    many = intervals(values)
    drawn = np.random.default_rng(1).choice(values, (10_000, 20)).mean(1)
    step = np.sqrt(0.025 * 0.975 * (1 / 2000 + 1 / 10_000))
    near = [np.quantile(drawn, [q - step, q + step]) for q in (0.025, 0.975)]
    errors = np.ptp(near, axis=1) / 2
    assert (np.abs(many - want) < 3 * errors).all()
    if metric == "dice":
        np.testing.assert_allclose(many, want, atol=0.002)


@pytest.mark.parametrize("metric", COLUMNS)
def test_ranks(metric: str) -> None:
    result = compared(0.95).rankings
    rows = {
        method: index
        for index, method in enumerate(result["method"])
        if result["metric"][index] == COLUMNS[metric]
        and result["ranking"][index] == "mean-then-rank"
    }
    stats = BOARD["analysis"]["kidney"][metric]["ranking"]["stats"]
    for place, want in enumerate(stats, 1):
        row = rows[want["name"]]
        assert result["rank"][row] == place
        assert result["score"][row] == pytest.approx(want["score"], rel=1e-12)
        assert result["p_rank_1"][row] == want["p_best"]
        assert result["mean_rank"][row] == pytest.approx(want["mean_rank"], abs=1e-12)
        assert result["rank_low"][row] == want["rank_ci_low"]
        assert result["rank_high"][row] == want["rank_ci_high"]


@pytest.mark.parametrize("metric", COLUMNS)
def test_differences(metric: str) -> None:
    analysis = BOARD["analysis"]["kidney"][metric]
    result = compared(analysis["adjusted_confidence"]).differences
    columns = zip(*(result[x] for x in ("a", "b", "metric", "low", "high")), strict=True)
    got = {(a, b): (low, high) for a, b, name, low, high in columns if name == COLUMNS[metric]}
    for pair in analysis["pairwise"]:
        a, b, low, high = (pair[x] for x in ("a", "b", "ci_low", "ci_high"))
        want = (low, high) if (a, b) in got else (-high, -low)
        key = (a, b) if (a, b) in got else (b, a)
        np.testing.assert_allclose(got[key], want, rtol=1e-5)


def test_basic_is_another() -> None:
    """The intervals are no basic ones, which these numbers tell apart."""
    organ = BOARD["models"][0]["per_organ"]["kidney"]
    values = np.array([case["hd95"] for case in organ["per_case"]])
    low, high = intervals(values, resamples=resamples())
    assert abs((2 * values.mean() - high) - low) > 0.3
