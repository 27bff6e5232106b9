"""Scores of counts and of a confusion matrix against the slow reference, and at the edges."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxseg
from jaxseg import Counts

nan, inf = math.nan, math.inf

SMOOTHED = [
    "dice",
    "iou",
    "tversky",
    "fbeta",
    "precision",
    "recall",
    "specificity",
    "negative_predictive_value",
    "false_positive_rate",
    "false_negative_rate",
    "false_discovery_rate",
    "false_omission_rate",
    "accuracy",
    "prevalence",
    "volumetric_similarity",
]
UNSMOOTHED = [
    "balanced_accuracy",
    "informedness",
    "markedness",
    "matthews_correlation",
    "fowlkes_mallows",
    "positive_likelihood_ratio",
    "negative_likelihood_ratio",
    "prevalence_threshold",
    "net_benefit",
    "relative_volume_difference",
]
SCORES = SMOOTHED + UNSMOOTHED
MATRIX_SCORES = [
    "pixel_accuracy",
    "mean_class_accuracy",
    "mean_iou",
    "frequency_weighted_iou",
    "cohen_kappa",
    "multiclass_matthews_correlation",
    "expected_cost",
]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_counts(shape=(4, 3), high: int = 50, seed: int = 0) -> Counts:
    return Counts(*rng(seed).integers(0, high, (4, *shape)).astype(np.int32))


def counts_of(tp, fp, fn, tn, dtype=np.int32) -> Counts:
    return Counts(*(np.array([x], dtype) for x in (tp, fp, fn, tn)))


@functools.cache
def jitted(name: str):
    return jax.jit(getattr(jaxseg, name))


def assert_score(name: str, counts, rtol: float = 1e-6, atol: float = 1e-6, **kwargs) -> None:
    actual = jitted(name)(counts, **kwargs)
    expected = reference.per_class(getattr(reference, name), counts, **kwargs)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=name)


# ---------------------------------------------------------------------------------- of counts


@pytest.mark.parametrize("alpha", [0.1, 0.9])
def test_tversky_weighs_false_positives_with_alpha(alpha):
    assert_score("tversky", random_counts(), alpha=alpha, beta=1 - alpha)
    score = jaxseg.tversky(counts_of(4, 6, 0, 0), alpha=alpha, beta=1 - alpha)
    np.testing.assert_allclose(score, [4 / (4 + alpha * 6)], rtol=1e-6)


def test_alias_is_the_same_function():
    assert jaxseg.jaccard is jaxseg.iou
    assert jaxseg.sensitivity is jaxseg.recall


@pytest.mark.parametrize("score", ["dice", "iou", "tversky", "precision", "recall"])
def test_smooth_of_one_makes_an_empty_pair_perfect(score):
    assert getattr(jaxseg, score)(counts_of(0, 0, 0, 9), smooth=1.0).tolist() == [1]


# ---------------------------------------------------------------------------------- big counts


def test_matthews_correlation_of_billions_does_not_overflow():
    c = jaxseg.counts_from_confusion([[3e9, 1e8], [1e8, 3e9]])
    np.testing.assert_allclose(jaxseg.matthews_correlation(c), [0.935484] * 2, rtol=1e-5)


BIG = 2**31 - 1


@pytest.mark.parametrize("name", SCORES)
def test_int32_counts_near_their_limit_do_not_overflow(name):
    assert_score(name, counts_of(BIG, BIG - 5, BIG // 2, BIG // 3), rtol=1e-5)
    assert_score(name, counts_of(BIG - 9, 3, 5, BIG - 2), rtol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_numpy_int64_counts_above_two_to_the_31_are_not_cut(name):
    assert not jax.config.jax_enable_x64
    counts = counts_of(3 * 2**33, 2**34, 2**33 + 5, 2**36, np.int64)
    actual = getattr(jaxseg, name)(counts)
    expected = reference.per_class(getattr(reference, name), counts)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("number", [np.int64, int])
def test_scalar_counts_above_two_to_the_31_are_not_cut(number):
    counts = Counts(*(number(x) for x in (5 * 10**9, 10**9, 10**9, 0)))
    np.testing.assert_allclose(jaxseg.iou(counts), 5 / 7, rtol=1e-6)


@pytest.mark.parametrize("name", MATRIX_SCORES)
def test_numpy_int64_matrix_above_two_to_the_31_is_not_cut(name):
    matrix = np.array([[3 * 2**33, 2**31, 5], [2**32, 2**34, 7], [1, 2, 2**33]])
    actual = getattr(jaxseg, name)(matrix)
    np.testing.assert_allclose(actual, getattr(reference, name)(matrix), rtol=1e-5)


@pytest.mark.parametrize("name", MATRIX_SCORES)
def test_int32_matrix_near_its_limit_does_not_overflow(name):
    matrix = np.array([[BIG, 60000, 5], [60000, BIG // 2, 7], [9, 2, BIG - 4]], np.int32)
    actual = getattr(jaxseg, name)(matrix)
    np.testing.assert_allclose(actual, getattr(reference, name)(matrix), rtol=1e-5)


# ---------------------------------------------------------------------------------- every pair


def popcounts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def ones(x):
        return np.array([bin(v).count("1") for v in range(512)])[x]

    return ones(a & b), ones(a), ones(b)


def test_dice_and_iou_of_every_pair_of_3x3_masks_are_exact():
    codes = np.arange(512)
    masks = (codes[:, None, None] >> np.arange(9).reshape(3, 3) & 1).astype(np.uint8)

    def scores(prediction, label):
        c = jaxseg.counts(prediction, label, num_classes=1)
        return jaxseg.dice(c)[0], jaxseg.iou(c)[0]

    pairs = jax.vmap(jax.vmap(scores, (None, 0)), (0, None))
    dice, iou = jax.jit(pairs)(masks, masks)
    overlap, predicted, true = (
        x.astype(np.float32) for x in popcounts(codes[:, None], codes[None, :])
    )
    rtol = 0 if jax.default_backend() == "cpu" else 3e-7  # others round divisions otherwise
    with np.errstate(invalid="ignore"):
        for got, size in ((dice, (predicted + true) / 2), (iou, predicted + true - overlap)):
            np.testing.assert_allclose(got, overlap / size, rtol=rtol)
            np.testing.assert_array_equal(got == 1, (overlap == size) & (size > 0))


# ---------------------------------------------------------------------------------- laws

COUNT = st.integers(0, 2**31 - 1) | st.integers(0, 9)
FEW = settings(max_examples=60, deadline=None)
SIGNED = {"informedness", "markedness", "matthews_correlation", "net_benefit"}
UNBOUNDED = {
    "relative_volume_difference",
    "positive_likelihood_ratio",
    "negative_likelihood_ratio",
}


@FEW
@given(st.tuples(COUNT, COUNT, COUNT, COUNT))
def test_scores_stay_in_their_bounds_and_agree_with_the_reference(leaves):
    counts = counts_of(*leaves)
    for name in SCORES:
        score = float(jitted(name)(counts)[0])
        expected = getattr(reference, name)(*leaves)
        assert math.isnan(score) == math.isnan(expected), name
        if math.isnan(score):
            continue
        if name in UNBOUNDED:
            assert score == pytest.approx(expected, rel=2e-5, abs=2e-6), name
            continue
        assert (-1 if name in SIGNED else 0) <= score <= 1, name
        assert score == pytest.approx(expected, rel=2e-5, abs=2e-6), name


@FEW
@given(st.tuples(COUNT, COUNT, COUNT))
def test_dice_and_iou_determine_each_other(leaves):
    counts = counts_of(*leaves, 0)
    dice, iou = float(jitted("dice")(counts)[0]), float(jitted("iou")(counts)[0])
    if sum(leaves) == 0:
        assert math.isnan(dice)
        assert math.isnan(iou)
    else:
        assert iou == pytest.approx(dice / (2 - dice), rel=1e-5)


# ---------------------------------------------------------------------------------- generalized


@pytest.mark.parametrize("kwargs", [{}, {"power": 1}, {"power": 0}, {"smooth": 1.0, "eps": 0.5}])
def test_generalized_dice_equals_the_reference(kwargs):
    counts = random_counts((5, 4), high=30)
    counts.tp[1, 0] = counts.fn[1, 0] = 0  # absent from the truth, and predicted
    counts.tp[2, 1] = counts.fn[2, 1] = counts.fp[2, 1] = 0  # in neither map
    actual = jaxseg.generalized_dice(counts, **kwargs)
    rows = zip(*(leaf.tolist() for leaf in counts), strict=True)
    expected = [reference.generalized_dice(*row, **kwargs) for row in rows]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_generalized_dice_is_the_papers_where_every_class_is_present():
    c = random_counts((4,), high=30, seed=3)
    weights = 1.0 / (c.tp + c.fn) ** 2
    expected = 2 * (weights * c.tp).sum() / (weights * (2 * c.tp + c.fp + c.fn)).sum()
    np.testing.assert_allclose(jaxseg.generalized_dice(c), expected, rtol=1e-5)


def test_generalized_dice_is_one_with_a_class_that_is_in_neither_map():
    c = Counts(*np.array([[50, 10, 0], [0, 0, 0], [0, 0, 0], [10, 50, 60]]))
    assert float(jaxseg.generalized_dice(c)) == 1


def test_generalized_dice_falls_with_false_positives_of_an_absent_class():
    scores = []
    for false in (0, 1, 5):
        c = Counts(*np.array([[50, 10, 0], [0, 0, false], [false, 0, 0], [10, 50, 60]]))
        scores.append(float(jaxseg.generalized_dice(c)))
    assert scores[0] > scores[1] > scores[2] > 0


def test_generalized_dice_of_nothing_is_zero_division():
    empty = Counts(*np.array([[0, 0], [0, 0], [0, 0], [9, 9]]))
    assert math.isnan(jaxseg.generalized_dice(empty))
    assert float(jaxseg.generalized_dice(empty, zero_division=1.0)) == 1


def test_generalized_dice_of_a_missed_large_object_is_near_zero():
    c = Counts(*np.array([[1000, 0], [2**20, 0], [0, 2**20], [0, 1000]]))
    assert float(jaxseg.generalized_dice(c)) < 0.01


@pytest.mark.parametrize("truth", [1, 10**9])
def test_generalized_dice_weights_neither_overflow_nor_vanish(truth):
    c = Counts(*np.array([[truth, truth], [truth, truth], [0, 0], [0, 0]]))
    np.testing.assert_allclose(jaxseg.generalized_dice(c), 2 / 3, rtol=1e-6)


# ---------------------------------------------------------------------------------- of a matrix

MATRICES = {
    "random": rng(1).integers(0, 40, (3, 3)),
    "two classes": np.array([[6, 2], [1, 3]]),
    "one class": np.array([[6]]),
    "diagonal": np.diag([5, 2, 9]),
    "nothing right": np.array([[0, 5], [7, 0]]),
    "class in neither map": np.array([[5, 1, 0], [2, 4, 0], [0, 0, 0]]),
    "class only predicted": np.array([[5, 1, 3], [2, 4, 1], [0, 0, 0]]),
    "class only true": np.array([[5, 1, 0], [2, 4, 0], [3, 1, 0]]),
    "one true class": np.array([[5, 1], [0, 0]]),
    "one predicted class": np.array([[5, 0], [2, 0]]),
    "one class in both maps": np.array([[5, 0], [0, 0]]),
    "empty": np.zeros((2, 2), int),
}


@pytest.mark.parametrize("name", MATRIX_SCORES)
def test_matrix_score_equals_the_reference(name):
    for case, matrix in MATRICES.items():
        for zero_division in (nan, -2.0):
            actual = jitted(name)(matrix.astype(np.int32), zero_division=zero_division)
            expected = getattr(reference, name)(matrix, zero_division=zero_division)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=case)


@pytest.mark.parametrize("weights", ["linear", "quadratic"])
def test_weighted_kappa_equals_the_reference(weights):
    for case, matrix in MATRICES.items():
        actual = jaxseg.cohen_kappa(matrix, weights=weights)
        expected = reference.cohen_kappa(matrix, weights=weights)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=case)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", MATRICES)
def test_kappa_with_costs_equals_the_reference(case, dtype):
    matrix = MATRICES[case]
    costs = rng(4).integers(1, 9, matrix.shape) * (1 - np.eye(len(matrix), dtype=int))
    actual = jaxseg.cohen_kappa(matrix, weights=costs.astype(dtype), zero_division=-2.0)
    expected = reference.cohen_kappa(matrix, weights=costs.tolist(), zero_division=-2.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_kappa_takes_the_named_weights_as_arrays():
    matrices = rng(2).integers(0, 40, (2, 3, 3))
    steps = np.abs(np.arange(3)[:, None] - np.arange(3))
    for name, costs in {None: steps > 0, "linear": steps, "quadratic": steps**2}.items():
        want = jaxseg.cohen_kappa(matrices, weights=name)
        for weights in (costs, costs.tolist(), 7.0 * costs):  # whatever their scale
            got = jaxseg.cohen_kappa(matrices, weights=weights)
            np.testing.assert_allclose(got, want, rtol=1e-5)
    traced = jax.jit(lambda w: jaxseg.cohen_kappa(matrices, weights=w))(jnp.asarray(steps))
    np.testing.assert_allclose(traced, jaxseg.cohen_kappa(matrices, weights="linear"), rtol=1e-5)


def test_costs_of_rows_and_columns_are_not_exchanged():
    """Predicting 1 where 0 is true costs 5, the other way 1; by hand."""
    matrix, costs = np.array([[6, 2], [1, 3]]), np.array([[0, 5], [1, 0]])
    observed, expected = 5 * 2 + 1, (5 * 8 * 5 + 1 * 4 * 7) / 12
    np.testing.assert_allclose(
        jaxseg.cohen_kappa(matrix, weights=costs), 1 - observed / expected, rtol=1e-6
    )


def test_kappa_weights_change_nothing_for_two_classes():
    scores = [
        jaxseg.cohen_kappa([[6, 2], [1, 3]], weights=w) for w in (None, "linear", "quadratic")
    ]
    np.testing.assert_allclose(scores, [scores[0]] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    "matrix",
    [
        [[99_999_000, 300], [200, 500]],
        [[10**8, 3, 5], [2, 7, 0], [1, 1, 4]],
        [[2_000_000_000, 0], [0, 3]],
    ],
)
@pytest.mark.parametrize("name", ["multiclass_matthews_correlation", "cohen_kappa"])
def test_score_beyond_chance_is_precise_on_almost_pure_background(name, matrix):
    matrix = np.array(matrix)
    expected = getattr(reference, name)(matrix)
    np.testing.assert_allclose(getattr(jaxseg, name)(matrix), expected, rtol=1e-5)


@pytest.mark.parametrize("case", MATRICES)
def test_expected_cost_with_costs_equals_the_reference(case):
    matrix = MATRICES[case]
    costs = rng(4).integers(1, 9, matrix.shape) * (1 - np.eye(len(matrix), dtype=int))
    actual = jaxseg.expected_cost(matrix, costs=costs)
    expected = reference.expected_cost(matrix, costs=costs.tolist())
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_expected_cost_of_the_best_blind_decision_is_one():
    matrix = np.array([[70, 0, 0], [20, 0, 0], [10, 0, 0]])
    assert float(jaxseg.expected_cost(matrix)) == pytest.approx(1, rel=1e-6)


# ---------------------------------------------------------------------------------- averages


@pytest.fixture(scope="module")
def images() -> Counts:
    predictions, labels = (rng(s).integers(0, 3, (4, 6, 5)) for s in (1, 2))
    return jaxseg.counts(predictions, labels, num_classes=3, axis=(1, 2))


def pooled(images: Counts) -> Counts:
    return jax.tree.map(lambda leaf: leaf.sum(0), images)


def numbers(counts: Counts) -> list[tuple[int, ...]]:
    return list(zip(*(np.asarray(leaf).tolist() for leaf in counts), strict=True))


def test_macro_average_is_the_mean_over_classes(images):
    expected = np.mean([reference.dice(*c) for c in numbers(pooled(images))])
    np.testing.assert_allclose(jaxseg.dice(pooled(images)).mean(-1), expected, rtol=1e-6)


def test_micro_average_is_the_score_of_summed_counts(images):
    micro = jax.tree.map(lambda x: x.sum(-1, dtype=float, keepdims=True), pooled(images))
    expected = reference.dice(*np.sum(numbers(pooled(images)), 0).tolist())
    np.testing.assert_allclose(jaxseg.dice(micro), [expected], rtol=1e-6)


def test_micro_average_of_many_classes_does_not_wrap():
    c = Counts(*(jnp.full(150, x) for x in (0, 10**5, 10**5, 15 * 10**6)))  # tn: 2.25e9 in all
    micro = jax.tree.map(lambda x: x.sum(dtype=float, keepdims=True), c)
    np.testing.assert_allclose(jaxseg.specificity(micro), [150 / 151], rtol=1e-6)


def test_weighted_average_weighs_by_prevalence(images):
    c = pooled(images)
    actual = jnp.average(jaxseg.dice(c), weights=jaxseg.prevalence(c), axis=-1)
    support = [tp + fn for tp, _, fn, _ in numbers(c)]
    expected = np.average([reference.dice(*x) for x in numbers(c)], weights=support)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_mean_of_images_and_foreground_only(images):
    expected = reference.per_class(reference.dice, images)
    np.testing.assert_allclose(jaxseg.dice(images).mean(0), expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(jaxseg.dice(images)[..., 1:].mean(), expected[:, 1:].mean(), 1e-6)


def test_absent_classes_are_left_out_of_a_nanmean():
    c = jaxseg.counts(jnp.array([0, 1]), jnp.array([0, 1]), num_classes=3)
    assert float(jnp.nanmean(jaxseg.dice(c))) == 1


def test_mean_iou_pools_the_set_where_a_mean_of_ratios_does_not():
    right, wrong = jnp.zeros(4, jnp.int32), jnp.zeros(576, jnp.int32)
    a = jaxseg.confusion_matrix(right, right, num_classes=2)
    b = jaxseg.confusion_matrix(wrong, wrong + 1, num_classes=2)
    class_zero = jaxseg.iou(jaxseg.counts_from_confusion(a + b))[0]
    assert float(class_zero) == pytest.approx(4 / 580, rel=1e-6)
    batches = [float(jaxseg.iou(jaxseg.counts_from_confusion(m))[0]) for m in (a, b)]
    assert np.mean(batches) == 0.5


def test_order_of_means_gives_three_numbers():
    predictions, labels = (rng(s).integers(0, 2, (3, 8)) for s in (5, 6))
    labels[0, :7] = 0
    per_image = jaxseg.counts(predictions, labels, num_classes=2, axis=1)
    matrix = jaxseg.confusion_matrix(predictions, labels, num_classes=2)
    set_score = reference.mean_iou(reference.confusion_matrix(predictions, labels, 2))
    mean_score = reference.per_class(reference.iou, per_image).mean()
    np.testing.assert_allclose(jaxseg.mean_iou(matrix), set_score, rtol=1e-6)
    np.testing.assert_allclose(jaxseg.iou(per_image).mean(), mean_score, rtol=1e-6)
    assert abs(set_score - mean_score) > 0.005


# ---------------------------------------------------------------------------------- report


def lines(*rows: str) -> str:
    return "\n".join(rows)


def test_class_report_text():
    c = jaxseg.counts_from_confusion([[6, 2], [1, 3]])
    assert jaxseg.class_report(c, names=["background", "cell"]) == lines(
        "            precision  recall    dice     iou  support",
        "background     0.8571  0.7500  0.8000  0.6667        8",
        "cell           0.6000  0.7500  0.6667  0.5000        4",
        "",
        "mean           0.7286  0.7500  0.7333  0.5833       12",
        "pooled         0.7500  0.7500  0.7500  0.6000       12",
    )


def test_class_report_marks_undefined_scores_and_leaves_them_out_of_the_mean():
    c = jaxseg.counts(jnp.array([0, 0, 1]), jnp.array([0, 1, 1]), num_classes=3)
    assert jaxseg.class_report(c) == lines(
        "        precision  recall    dice     iou  support",
        "0          0.5000  1.0000  0.6667  0.5000        1",
        "1          1.0000  0.5000  0.6667  0.5000        2",
        "2               -       -       -       -        0",
        "",
        "mean       0.7500  0.7500  0.6667  0.5000        3",
        "pooled     0.6667  0.6667  0.6667  0.5000        3",
    )


def test_class_report_of_billions_keeps_its_columns():
    c = Counts(*(np.full(2, 3 * 10**10) for _ in range(4)))
    assert jaxseg.class_report(c) == lines(
        "        precision  recall    dice     iou       support",
        "0          0.5000  0.5000  0.5000  0.3333   60000000000",
        "1          0.5000  0.5000  0.5000  0.3333   60000000000",
        "",
        "mean       0.5000  0.5000  0.5000  0.3333  120000000000",
        "pooled     0.5000  0.5000  0.5000  0.3333  120000000000",
    )


def test_class_report_of_int32_counts_does_not_wrap_their_sum():
    c = Counts(*(jnp.full(3, 2**31 - 1) for _ in range(4)))
    report = jaxseg.class_report(c).splitlines()
    assert report[-1].split() == ["pooled", "0.5000", "0.5000", "0.5000", "0.3333", "12884901882"]


def test_class_report_of_soft_counts_shows_a_decimal():
    c = Counts(*(jnp.array([x, x]) for x in (1.5, 0.5, 0.5, 2.0)))
    assert jaxseg.class_report(c).splitlines()[1] == (
        "0          0.7500  0.7500  0.7500  0.6000      2.0"
    )


def test_class_report_of_one_mask_is_its_class_alone():
    masks = jnp.array([[True, True, False, False]]), jnp.array([[True, False, True, False]])
    c = jaxseg.counts(*masks, num_classes=1)
    report = lines(
        "   precision  recall    dice     iou  support",
        "1     0.5000  0.5000  0.5000  0.3333        2",
    )
    assert jaxseg.class_report(c) == report
    assert jaxseg.class_report(c, names=["cell"]) == report.replace("\n1", "\ncell").replace(
        "   prec", "      prec"
    )
    assert jaxseg.class_table(c)["class"] == ["1"]


def unlike_classes() -> Counts:
    """The first is found late, the second is well predicted, and the third is in neither map."""
    return Counts(*np.array([[1, 8, 0], [0, 2, 0], [3, 2, 0], [20, 12, 24]]))


def test_class_report_counts_zero_division_in_its_means():
    c = unlike_classes()
    with_zero = jaxseg.class_report(c, zero_division=0.0).splitlines()
    assert with_zero[3].split() == ["2", *["0.0000"] * 4, "0"]
    means = (np.array([1.0, 0.8, 0.0]).mean(), np.array([0.25, 0.8, 0.0]).mean())
    assert with_zero[-2].split()[1:3] == [f"{mean:.4f}" for mean in means]
    assert jaxseg.class_report(c).splitlines()[3].split() == ["2", *["-"] * 4, "0"]
    assert "-" not in jaxseg.class_report(c, zero_division=1.0)


def test_class_report_adds_eps_to_the_denominators():
    c = unlike_classes()
    _, *rows = (line.split() for line in jaxseg.class_report(c, eps=2.0).splitlines())
    for row, leaves in zip(rows, numbers(c), strict=False):
        for cell, name in zip(row[1:], ("precision", "recall", "dice", "iou"), strict=False):
            assert float(cell) == pytest.approx(getattr(reference, name)(*leaves, eps=2), abs=5e-5)
    assert rows[-1][4] == f"{9 / (9 + 2 + 5 + 2):.4f}"  # iou of the pooled counts


def test_class_report_is_sorted_by_a_column():
    def order(**options):
        report = jaxseg.class_report(c, names="abcd", **options).splitlines()
        return "".join(line[0] for line in report[1:5])

    c = Counts(*np.array([[1, 0, 8, 8], [0, 0, 2, 2], [3, 0, 2, 2], [20, 24, 12, 12]]))
    assert order() == "abcd"
    assert order(sort_by="precision") == "acdb"  # undefined is last, equal ones stay in order
    assert order(sort_by="recall") == order(sort_by="support") == "cdab"
    assert order(sort_by="iou", zero_division=1.0) == "bcda"
    sorted_last = jaxseg.class_report(c, sort_by="dice").splitlines()[-3:]
    assert sorted_last == jaxseg.class_report(c).splitlines()[-3:]  # the means stay where they are


def test_class_table_is_columns_of_plain_values():
    c = unlike_classes()
    table = jaxseg.class_table(c, names=["a", "b", "c"])
    assert list(table) == ["class", "precision", "recall", "dice", "iou", "support"]
    assert table["class"] == ["a", "b", "c"]
    assert table["support"] == [4, 10, 0]
    for name in ("precision", "recall", "dice", "iou"):
        expected = [getattr(reference, name)(*leaves) for leaves in numbers(c)]
        np.testing.assert_allclose(table[name], expected, rtol=1e-6)
    types = [{type(value) for value in column} for column in table.values()]
    assert types == [{str}, *[{float}] * 4, {int}]
    assert jaxseg.class_table(c, zero_division=-1.0)["iou"][2] == -1
    assert jaxseg.class_table(c, eps=1.0)["recall"][0] == pytest.approx(1 / 5)
    soft = jaxseg.class_table(Counts(*(jnp.array([0.5, x]) for x in (1.5, 0.5, 0.5, 2.0))))
    assert soft["class"] == ["0", "1"]
    assert soft["support"] == [1.0, 2.0]


def test_class_table_of_int32_counts_does_not_wrap_its_support():
    table = jaxseg.class_table(Counts(*(jnp.full(2, 2**31 - 1) for _ in range(4))))
    assert table["support"] == [2**32 - 2] * 2
