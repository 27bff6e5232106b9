"""How often a 95 % interval of the mean and of the median holds the true one: a table to print.

Cases are drawn from a large population of values like Dice scores: skewed to the left, with a heavy
tail and some missed objects at 0. Of each sample the percentile and the basic bootstrap's intervals
are made; the basic one, of the same resamples, is twice the sample's statistic minus the ends. Last
comes the time of 10,000 resamples.

python tests/evaluation_coverage.py [--samples 4000] [--resamples 2000]
"""

import argparse
import time

import numpy as np

import jaxseg
from jaxseg.evaluation._intervals import bootstrap, ends, intervals, pooled_intervals

POPULATIONS = {
    "good (median 0.93)": (12.0, 1.0, 0.02),
    "fair (median 0.84)": (4.0, 0.9, 0.05),
    "hard (median 0.68)": (1.6, 0.9, 0.12),
}


def population(name: str, rng: np.random.Generator) -> np.ndarray:
    """A million values: a beta distribution with a tail of bad cases, and missed objects."""
    a, b, missed = POPULATIONS[name]
    values = rng.beta(a, b, 1_000_000)
    bad = rng.random(len(values)) < 0.1
    values = np.where(bad, values * rng.uniform(0.2, 1, len(values)), values)
    return np.where(rng.random(len(values)) < missed, 0, values)


def coverage(
    values: np.ndarray, n: int, statistic: str, samples: int, resamples: int, rng
) -> tuple[float, float]:
    """The shares of samples of ``n`` whose percentile and basic interval hold the true value."""
    truth = {"mean": np.mean, "median": np.median}[statistic](values)
    sample = rng.choice(values, (n, samples))
    weights = rng.multinomial(n, np.full(n, 1 / n), resamples)  # shared: each column is a sample
    low, high = ends(bootstrap(sample, None, statistic, weights), 0.95)
    centre = {"mean": np.mean, "median": np.median}[statistic](sample, axis=0)
    percentile = np.mean((low <= truth) & (truth <= high))
    basic = np.mean((2 * centre - high <= truth) & (truth <= 2 * centre - low))
    return float(percentile), float(basic)


def grouped(samples: int, resamples: int, rng) -> tuple[float, float]:
    """Of 40 patients with 6 visits each that are alike: intervals by patient and by visit."""
    patient = rng.normal(0.8, 0.08, (40, samples))
    values = patient[:, None] + rng.normal(0, 0.03, (40, 6, samples))
    shares = []
    for units in (values.mean(1), values.reshape(240, samples)):
        weights = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), resamples)
        low, high = ends(bootstrap(units, None, "mean", weights), 0.95)
        shares.append(float(np.mean((low <= 0.8) & (high >= 0.8))))
    return shares[0], shares[1]


def seconds(rng) -> float:
    """Of 200 cases of 11 classes the means, the pooled scores and both macro means; compiled."""
    dice, counts = rng.beta(8, 1.5, (200, 11)), rng.integers(0, 100_000, (200, 11, 4))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        intervals(dice, macro=True)
        pooled_intervals(counts, jaxseg.dice, macro=True)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    error = 100 * np.sqrt(0.95 * 0.05 / args.samples)
    print(f"{args.samples} samples, {args.resamples} resamples; coverage ± {error:.1f} (one SE)\n")
    print(f"{'population':20} {'statistic':9} {'n':>4} {'percentile':>11} {'basic':>7}")
    for name in POPULATIONS:
        values = population(name, rng)
        for statistic in ("mean", "median"):
            for n in (20, 50, 200):
                shares = coverage(values, n, statistic, args.samples, args.resamples, rng)
                percentile, basic = (f"{100 * x:.1f} %" for x in shares)
                print(f"{name:20} {statistic:9} {n:4} {percentile:>11} {basic:>7}", flush=True)
    by_group, by_case = (f"{100 * x:.1f} %" for x in grouped(args.samples, args.resamples, rng))
    print(f"\n40 patients with 6 visits each, mean: by patient {by_group}, by visit {by_case}")
    print(f"10,000 resamples of 200 cases, 11 classes, macro and pooled: {seconds(rng):.2f} s")


if __name__ == "__main__":
    main()
