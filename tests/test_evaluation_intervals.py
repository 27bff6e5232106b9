"""Intervals of evaluations: against NumPy on the same resamples, SciPy, and samples of a truth."""

import numpy as np
import pytest
import scipy.stats
from evaluation_coverage import coverage, grouped, population

import jaxseg
from jaxseg.evaluation import _intervals
from jaxseg.evaluation._intervals import bootstrap, ends, few, intervals, pooled_intervals

RNG = np.random.default_rng(0)
GROUPS = np.array(["b", "a", "a", "c", "b", "d", "e", "e", "e", "f", "g", "g"])
STATISTICS = {"mean": np.nanmean, "median": np.nanmedian}


def made_values() -> np.ndarray:
    """Twelve cases, two metrics, three classes; some have no value, and one is infinite."""
    values = RNG.beta(8, 1.5, (12, 2, 3))
    values[RNG.random(values.shape) < 0.3] = np.nan
    values[:, 1, 2] = np.nan
    values[4, 1, 1] = np.inf
    return values


def repeated(values: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The cases of one resample: each as often as its group was drawn."""
    _, place = np.unique(groups, return_inverse=True)
    return np.repeat(values, weights[place], axis=0)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:All-NaN slice")
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["cases", "groups"])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_each_resample_is_that_of_numpy(statistic: str, groups) -> None:
    values = made_values()
    units = np.arange(12) if groups is None else groups
    number = len(set(units))
    weights = RNG.multinomial(number, np.full(number, 1 / number), 40)
    got = bootstrap(values, groups, statistic, weights)
    want = [STATISTICS[statistic](repeated(values, units, w), axis=0) for w in weights]
    np.testing.assert_allclose(got, np.stack(want), rtol=1e-6)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_ends_are_percentiles_of_resamples_with_a_value(statistic: str) -> None:
    values = RNG.normal(size=(6, 2))
    values[1:, 1] = np.nan  # a third of the resamples do not draw the only value
    drawn = bootstrap(values, None, statistic, 500, 1)
    got = intervals(values, statistic=statistic, resamples=500, seed=1, level=0.9)
    assert 0.2 < np.isnan(drawn[:, 1]).mean() < 0.5
    np.testing.assert_allclose(got, np.nanpercentile(drawn, [5, 95], axis=0), rtol=1e-6)
    np.testing.assert_array_equal(got[:, 1], values[0, 1])


def test_ends_where_some_are_infinite() -> None:
    drawn = np.array([[1.0, 2, 3, np.inf], [1, 1, 1, 1], [-np.inf, 0, 0, np.inf]]).T
    np.testing.assert_array_equal(ends(drawn, 0.5), [[1.75, 1, -np.inf], [np.inf, 1, np.inf]])


def test_infinite_distances_count() -> None:
    values = np.r_[np.arange(1.0, 20), np.inf]
    low, high = intervals(values)
    assert 8 < low < 12 and high == np.inf
    low, high = intervals(values, statistic="median")
    assert 5 < low < 10 < high < 17
    assert (intervals([np.inf, np.inf]) == np.inf).all()


@pytest.mark.parametrize("name", ["mean", "median", "pooled"])
def test_as_scipy_within_its_error(name: str) -> None:
    """Three standard errors of quantiles of 10,000 resamples, of which there are two."""
    n, resamples = 60, 10_000
    counts = RNG.integers(1, 1000, (n, 1, 4)) * np.array([9, 1, 1, 20])
    values = RNG.beta(6, 1.5, n)

    def pooled(tp, fp, fn, axis=-1):
        tp, fp, fn = (x.sum(axis) for x in (tp, fp, fn))
        return 2 * tp / (2 * tp + fp + fn)

    if name == "pooled":
        data, statistic = tuple(counts[:, 0, :3].T), pooled
        got = pooled_intervals(counts, jaxseg.dice, resamples=resamples)[:, 0]
    else:
        data, statistic = (values,), STATISTICS[name]
        got = intervals(values, statistic=name, resamples=resamples)
    theirs = scipy.stats.bootstrap(
        data, statistic, n_resamples=resamples, method="percentile", paired=True, rng=1
    )
    for mine, end, q in zip(got, theirs.confidence_interval, (0.025, 0.975), strict=True):
        step = np.sqrt(q * (1 - q) / resamples)
        near = np.quantile(theirs.bootstrap_distribution, [q - step, q + step])
        assert abs(mine - end) < 3 * np.sqrt(2) * np.ptp(near) / 2


def test_pooled_is_the_score_of_summed_counts() -> None:
    counts = RNG.integers(0, 2**27, (12, 3, 4))
    counts[:, 2, :3] = 0  # a class that is never there
    weights = RNG.multinomial(7, np.full(7, 1 / 7), 30)
    got = pooled_intervals(counts, jaxseg.iou, groups=GROUPS, resamples=weights, macro=True)
    sums = np.stack([repeated(counts, GROUPS, w).sum(0) for w in weights]).astype(float)
    iou = sums[:, :2, 0] / sums[:, :2, :3].sum(-1)
    iou = np.c_[iou, np.full(30, np.nan), iou.mean(1)]
    np.testing.assert_allclose(got, np.percentile(iou, [2.5, 97.5], axis=0), rtol=1e-6)


def test_macro_is_the_mean_over_classes_that_have_a_value() -> None:
    values = made_values()[:, 0]
    values[1:, 2] = np.nan
    drawn = bootstrap(values, resamples=50, macro=True)
    np.testing.assert_allclose(drawn[:, 3], np.nanmean(drawn[:, :3], axis=1))
    assert np.isnan(drawn[:, 2]).any()


def test_calls_share_their_resamples() -> None:
    """So that the interval of a paired difference may be made of it."""
    a, b = RNG.normal(size=(2, 30))
    difference = bootstrap(a, resamples=100) - bootstrap(b, resamples=100)
    np.testing.assert_allclose(difference, bootstrap(a - b, resamples=100), atol=1e-6)
    again, other = intervals(a, resamples=100), intervals(a, resamples=100, seed=1)
    np.testing.assert_array_equal(again, intervals(a, resamples=100))
    assert (again != other).all()


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_blocks_change_nothing(statistic: str, monkeypatch) -> None:
    values = RNG.normal(size=(9, 2))
    want = bootstrap(values, None, statistic, 101, 3)
    monkeypatch.setattr(_intervals, "CELLS", 9 * 30)
    np.testing.assert_allclose(bootstrap(values, None, statistic, 101, 3), want, atol=1e-6)


def test_memory_is_bounded() -> None:
    """Blocks have few resamples if there are many groups: what is drawn has a bounded size."""
    sizes = []

    def of(weights):
        sizes.append(weights.size)
        return weights[:1].T

    assert _intervals._drawn(of, 30_000, 1, 100, 0).shape == (100, 1)
    assert len(sizes) > 1 and max(sizes) <= _intervals.CELLS


def test_groups_are_drawn_whole() -> None:
    values = np.repeat([0.0, 1.0], 50)
    groups = np.repeat(["x", "y"], 50)
    assert set(bootstrap(values, groups, resamples=200)) == {0, 0.5, 1}
    by_case, by_group = intervals(values), intervals(values, groups=groups)
    assert np.ptp(by_case) < 0.25 and np.ptp(by_group) == 1


def test_order_of_cases_and_names_of_groups_do_not_matter() -> None:
    values = made_values()
    order = RNG.permutation(12)
    want = intervals(values, groups=GROUPS, resamples=100)
    got = intervals(values[order], groups=list(GROUPS[order]), resamples=100)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_equal_values_give_themselves() -> None:
    """0.9 is no float32, and its interval is [0.9, 0.9] nevertheless."""
    values = np.full((7, 2), [0.9, 0.7])
    for statistic in ("mean", "median"):
        got = intervals(values, statistic=statistic, resamples=20, macro=True)
        np.testing.assert_array_equal(got, np.array([[0.9, 0.7, 0.8]] * 2))
    small = 1e6 + np.array([0.25, 0.5, 0.75])  # float32 has steps of 0.06 there
    assert bootstrap(small, resamples=np.array([[3, 0, 0]])) == 1e6 + 0.25


def test_nothing_is_nan() -> None:
    assert intervals(np.zeros((0, 3)), macro=True).shape == (2, 4)
    for got in (
        intervals(np.zeros((0, 3))),
        intervals(np.full((5, 3), np.nan), statistic="median", resamples=20),
        pooled_intervals(np.zeros((0, 3, 4)), jaxseg.dice),
        pooled_intervals(np.zeros((5, 3, 4)), jaxseg.dice, resamples=20),
    ):
        assert got.shape == (2, 3) and np.isnan(got).all()
    np.testing.assert_array_equal(intervals([0.3], resamples=20), [0.3, 0.3])


def test_few() -> None:
    assert few(19) and not few(20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": 0.5}, "values must be"),
        ({"macro": True}, "with macro"),
        ({"statistic": "mode"}, "'mean' or 'median', got 'mode'"),
        ({"groups": ["a"]}, "one entry per case, 3; got 1"),
        ({"resamples": 0}, "at least 1, got 0"),
        ({"resamples": np.ones((5, 2), int)}, r"\[resamples, 3\]"),
        ({"resamples": np.ones((5, 3))}, "integers"),
        ({"level": 95}, "between 0 and 1, such as 0.95; got 95"),
    ],
)
def test_errors(change, message: str) -> None:
    arguments = {"values": np.arange(3.0), "resamples": 20} | change
    with pytest.raises(ValueError, match=message):
        intervals(arguments.pop("values"), **arguments)


def test_errors_of_pooled() -> None:
    with pytest.raises(ValueError, match=r"\[cases, C, 4\].*\(5, 4\)"):
        pooled_intervals(np.zeros((5, 4)), jaxseg.dice)


def test_coverage_of_the_median() -> None:
    """The percentile interval holds the true median; the basic one does not, nor do too few groups.

    ``evaluation_coverage.py`` has the whole table.
    """
    rng = np.random.default_rng(0)
    values = population("fair (median 0.84)", rng)[:100_000]
    percentile, basic = coverage(values, 50, "median", 500, 500, rng)
    assert 0.92 <= percentile <= 0.97
    assert basic < 0.89
    by_group, by_case = grouped(300, 500, rng)
    assert by_group > 0.9 and by_case < 0.7
