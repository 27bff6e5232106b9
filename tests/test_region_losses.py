"""Region losses: values and gradients of the plain formulas, and the edges that break others."""

import functools
import math

import jax
import jax.numpy as jnp
import losses
import numpy as np
import optax
import pytest
import reference
from jax.test_util import check_grads
from losses import case, false_positives

import jaxseg

LOSSES = ["dice_loss", "iou_loss", "tversky_loss", "focal_tversky_loss"]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


SHAPE = (2, 4, 5)
IDS = rng(1).integers(0, 3, SHAPE)
SOFT = rng(2).random((*SHAPE, 3)).astype(np.float32)
MASKS = rng(3).random((*SHAPE, 3)) < 0.4
LOGITS = (2 * rng(4).standard_normal((*SHAPE, 3))).astype(np.float32)
WHERE = rng(5).random(SHAPE) < 0.7
OUTSIDE = np.where(rng(6).random(SHAPE) < 0.3, 255, IDS).astype(np.uint8)

# Beside those of the table in cases.py: loss, logits, labels, arguments
CASES = {
    "sigmoid": ("dice_loss", LOGITS, MASKS, {"activation": "sigmoid"}),
    "soft labels": ("iou_loss", LOGITS, SOFT, {"activation": "sigmoid"}),
    "labels outside": ("tversky_loss", LOGITS, OUTSIDE, {"alpha": 0.2, "beta": 0.8}),
    "alpha over beta": ("tversky_loss", LOGITS, IDS, {"alpha": 0.9, "beta": 0.2, "axis": -1}),
}


def jax_loss(name, labels, **kwargs):
    return functools.partial(getattr(jaxseg, name), labels=labels, **kwargs)


def sum_and_gradient(loss, x):
    """Gradient of the loss's sum, and the loss."""

    def total(x):
        value = loss(x)
        return value.sum(), value

    return jax.jit(jax.grad(total, has_aux=True))(x)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_formula(case):
    name, logits, labels, kwargs = CASES[case]
    gradient, value = sum_and_gradient(jax_loss(name, labels, **kwargs), logits)
    plain = getattr(reference, name)
    expected = plain(logits.astype(np.float64), labels, **kwargs)
    assert value.dtype == jnp.float32
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=2e-6)
    plain_gradient, _ = sum_and_gradient(lambda x: plain(x, labels, **kwargs), logits)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_second_derivatives_agree_with_finite_differences():
    with jax.enable_x64(True):
        x = jnp.asarray(LOGITS[0, :1, :3], jnp.float64)
        loss = jax.jit(jax_loss("dice_loss", IDS[0, :1, :3]))
        check_grads(loss, (x,), order=2, modes=["rev"])


def test_gradient_with_respect_to_soft_labels_is_the_plain_formulas():
    def total(function, labels):
        return function(LOGITS, labels, activation="sigmoid").sum()

    actual = jax.jit(jax.grad(functools.partial(total, jaxseg.dice_loss)))(SOFT)
    expected = jax.jit(jax.grad(functools.partial(total, reference.dice_loss)))(SOFT)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------- same labels


def test_dice_is_tversky_of_halves_with_half_the_smooth():
    halves = jaxseg.tversky_loss(LOGITS, IDS, alpha=0.5, beta=0.5, smooth=0.5)
    np.testing.assert_allclose(jaxseg.dice_loss(LOGITS, IDS, smooth=1.0), halves, rtol=1e-6)


def test_iou_is_tversky_of_ones():
    ones = jaxseg.tversky_loss(LOGITS, IDS, alpha=1.0, beta=1.0)
    np.testing.assert_allclose(jaxseg.iou_loss(LOGITS, IDS), ones, rtol=1e-6)


def test_focal_tversky_of_gamma_one_is_tversky():
    focal = jaxseg.focal_tversky_loss(LOGITS, IDS, gamma=1.0)
    plain = jaxseg.tversky_loss(LOGITS, IDS, alpha=0.3, beta=0.7)
    np.testing.assert_allclose(focal, plain, rtol=1e-6)


# ---------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("name", LOSSES)
def test_false_positives_on_an_empty_target_are_punished(name):
    loss = jax_loss(name, np.zeros((4, 4), int), activation="sigmoid")
    values = []
    for positives in (0, 1, 4, 16):
        logits = np.where(np.arange(16) < positives, 4.0, -9.0).astype(np.float32)
        gradient, value = sum_and_gradient(loss, logits.reshape(4, 4, 1))
        assert (np.asarray(gradient) > 0).all()  # fewer positives, lower loss
        values.append(float(value[0]))
    assert values == sorted(values)
    assert values[1] > values[0] + 0.1
    assert values[-1] > 0.8


@pytest.mark.parametrize("name", ["dice_loss", "iou_loss", "tversky_loss"])
@pytest.mark.parametrize("smooth", [0.5, 1.0, 2.0])
def test_gradient_on_an_empty_target_is_bounded_by_the_smooth(name, smooth):
    probs = np.zeros((64, 64, 1), np.float32)
    loss = jax_loss(name, np.zeros((64, 64), int), activation=None, smooth=smooth)
    gradient, _ = sum_and_gradient(loss, probs)
    assert 0 < np.abs(gradient).max() <= 1 / smooth + 1e-6


@pytest.mark.parametrize("gamma", [0.5, 0.75])
def test_perfect_overlap_has_a_zero_loss_and_a_finite_gradient(gamma):
    one_hot = reference.one_hot(IDS, 3).astype(np.float32)
    for x, activation in ((one_hot, None), (2e4 * one_hot - 1e4, "softmax")):
        loss = jax_loss("focal_tversky_loss", IDS, activation=activation, gamma=gamma)
        gradient, value = sum_and_gradient(loss, x)
        np.testing.assert_allclose(value, [0, 0, 0], atol=1e-6)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_any_probability_of_an_absent_class_has_finite_derivatives(name):
    # Between 1e-20 and 1e-38 a squared denominator is 0 in float32.
    def loss(logit):
        logits = jnp.full((4, 1), logit)
        return jax_loss(name, np.zeros(4, int), activation="sigmoid", smooth=0.0)(logits).sum()

    logits = jnp.arange(-120.0, 121.0)
    for derivative in (jax.grad(loss), jax.grad(jax.grad(loss))):
        assert jnp.isfinite(jax.vmap(derivative)(logits)).all()


def test_alpha_weighs_false_positives_and_beta_misses():
    # 4 hits, 6 false positives, and no miss: only alpha matters; and the other way round
    true, more = np.arange(20) < 4, (np.arange(20) < 10)
    kwargs = {"alpha": 0.1, "beta": 0.9, "activation": None, "smooth": 0.0}
    too_much = jaxseg.tversky_loss(more[:, None].astype(np.float32), true, **kwargs)
    too_little = jaxseg.tversky_loss(true[:, None].astype(np.float32), more, **kwargs)
    np.testing.assert_allclose(too_much, [1 - 4 / (4 + 0.6)], rtol=1e-5)
    np.testing.assert_allclose(too_little, [1 - 4 / (4 + 5.4)], rtol=1e-5)


def test_probabilities_need_not_sum_to_one():
    probs = jnp.asarray(jax.nn.softmax(LOGITS), jnp.bfloat16)
    loss = jax.jit(jax_loss("dice_loss", IDS, activation=None))(probs)
    expected = reference.dice_loss(LOGITS.astype(np.float64), IDS)
    np.testing.assert_allclose(loss, expected, rtol=0.01)


def test_three_pixels_in_a_million_keep_their_loss():
    masks = np.zeros((1024, 1024), bool)
    masks[5, 5:8] = True
    logits = np.where(masks, 2.0, -12.0)[..., None]
    loss = jaxseg.dice_loss(logits.astype(np.float32), masks, activation="sigmoid", smooth=0.0)
    expected = reference.dice_loss(logits, masks, "sigmoid", smooth=0.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


# ---------------------------------------------------------------------------------- Optax


@pytest.mark.parametrize("smooth", [0.5, 1.0])
def test_dice_equals_optax_with_twice_its_smooth(smooth):
    one_hot = reference.one_hot(IDS, 3).astype(np.float32)

    def optax_loss(x):
        return optax.losses.dice_loss(x, one_hot, smooth=smooth, reduction="none")

    expected_gradient, expected = sum_and_gradient(optax_loss, LOGITS)
    loss = jax_loss("dice_loss", IDS, smooth=2 * smooth, axis=(1, 2))
    gradient, value = sum_and_gradient(loss, LOGITS)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_tversky_equals_optax_dice_with_alpha_and_beta():
    one_hot = reference.one_hot(IDS, 3).astype(np.float32)
    expected = optax.losses.dice_loss(LOGITS, one_hot, alpha=0.2, beta=0.8, reduction="none")
    actual = jaxseg.tversky_loss(LOGITS, IDS, alpha=0.2, beta=0.8, axis=(1, 2))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_ours_jits_on_probabilities_where_optax_does_not():
    one_hot = reference.one_hot(IDS, 3).astype(np.float32)
    probs = jax.nn.softmax(LOGITS)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(lambda p: optax.losses.dice_loss(p, one_hot, apply_softmax=False))(probs)
    loss = jax.jit(jax_loss("dice_loss", IDS, activation=None))(probs)
    np.testing.assert_allclose(loss, jaxseg.dice_loss(LOGITS, IDS), rtol=1e-5)


def test_arithmetic_of_the_docstring_formula():
    # two pixels, probabilities 3/4 and 1/4 of the class that both have: I = 1, P = 1, G = 2
    loss = jaxseg.dice_loss(jnp.array([[0.75], [0.25]]), jnp.array([1, 1]), activation=None)
    assert math.isclose(float(loss[0]), 1 - (2 * 1 + 1) / (1 + 2 + 1), rel_tol=1e-6)


# ---------------------------------------------------------------------------------- the others

FAR = [[0.0, 1.0, 2.0], [1.0, 0.0, 0.5], [2.0, 0.5, 0.0]]
FAR_5 = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))).tolist()
WASSERSTEIN = "generalized_wasserstein_dice_loss"
OTHERS = {
    "squared dice": ("dice_loss", {"overlap": "squared"}),
    "squared iou": ("iou_loss", {"overlap": "squared"}),
    "minimum dice": ("dice_loss", {"overlap": "minimum"}),
    "minimum iou": ("iou_loss", {"overlap": "minimum"}),
    "minimum tversky": ("tversky_loss", {"overlap": "minimum"}),
    "minimum focal tversky": ("focal_tversky_loss", {"overlap": "minimum"}),
    "log": ("log_dice_loss", {}),
    "log-cosh": ("log_cosh_dice_loss", {}),
    "generalized": ("generalized_dice_loss", {}),
    "MCC": ("matthews_correlation_loss", {}),
    "sensitivity": ("sensitivity_specificity_loss", {}),
}
OTHER_CASES = [
    case("dice_loss", "plane-3-masks", overlap="squared"),
    case("iou_loss", "volume-2-soft", overlap="squared", per_image=True),
    case("dice_loss", "plane-3-probs", overlap="minimum", per_image=True),
    case("focal_tversky_loss", "volume-2-soft", overlap="minimum", gamma=1.5),
    case("log_dice_loss", "plane-3-masks", gamma=0.5, per_image=True),
    case("log_dice_loss", "plane-3-probs", eps=0.3),
    case("log_cosh_dice_loss", "plane-3-masks", smooth=0.3),
    case("log_cosh_dice_loss", "plane-5-outside", per_image=True),
    case("generalized_dice_loss", "plane-3-masks", power=1.0, per_image=True),
    case("generalized_dice_loss", "plane-5-outside", smooth=0.1),
    case("generalized_dice_loss", "volume-2-soft"),
    case("matthews_correlation_loss", "plane-3-masks", smooth=0.2),
    case("matthews_correlation_loss", "plane-5-outside", per_image=True),
    case("sensitivity_specificity_loss", "plane-3-masks", eps=0.2),
    case("sensitivity_specificity_loss", "plane-3-probs", per_image=True),
    case(WASSERSTEIN, "plane-3-probs", distances=FAR, weighting="volume", per_image=True),
    case(WASSERSTEIN, "plane-5-outside", distances=FAR_5, weighting="volume"),
    case(WASSERSTEIN, "volume-3-where", distances=FAR, eps=0.2),
]


@pytest.mark.slow  # beyond the table of cases.py
@pytest.mark.parametrize("case", OTHER_CASES, ids=repr)
def test_other_losses_are_those_of_the_plain_formulas(case):
    losses.assert_as_plain_formula(case)


def other(kind, **more):
    name, options = OTHERS[kind]
    return functools.partial(getattr(jaxseg, name), **(options | more))


@pytest.mark.parametrize("kind", OTHERS)
def test_false_positives_on_an_empty_target_are_punished_by_others(kind):
    values = false_positives(other(kind, activation="sigmoid"))
    assert values == sorted(values)
    assert values[1] > values[0] + 0.01
    assert values[-1] > (0.4 if kind == "log-cosh" else 0.8)


@pytest.mark.parametrize("weighting", ["foreground", "volume"])
def test_false_positives_on_an_image_of_background_are_punished(weighting):
    loss = functools.partial(
        jaxseg.generalized_wasserstein_dice_loss, distances=FAR, weighting=weighting
    )
    values = false_positives(loss, classes=3)
    assert values == sorted(values)
    assert values[1] > values[0] + 0.005


@pytest.mark.parametrize("kind", OTHERS)
def test_right_probabilities_have_no_loss_and_wrong_ones_the_most(kind):
    one_hot = reference.one_hot(IDS, 3).astype(np.float32)
    loss = other(kind, labels=IDS, activation=None)
    for smooth in (0.0, 1.0):
        gradient, value = sum_and_gradient(functools.partial(loss, smooth=smooth), one_hot)
        np.testing.assert_allclose(value, np.zeros_like(value), atol=1e-6)
        assert np.isfinite(gradient).all()
    gradient, value = sum_and_gradient(loss, 1 - one_hot)
    assert (np.asarray(value) > (0.35 if kind == "log-cosh" else 0.85)).all()
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient) != 0).any()  # no plateau


@pytest.mark.parametrize("name", LOSSES)
def test_soft_labels_are_met_by_themselves_and_hard_ones_as_ever(name):
    loss = functools.partial(getattr(jaxseg, name), activation=None, overlap="minimum")
    gradient, value = sum_and_gradient(functools.partial(loss, labels=SOFT), SOFT)
    np.testing.assert_allclose(value, [0, 0, 0], atol=1e-6)
    assert np.isfinite(gradient).all()
    assert (getattr(jaxseg, name)(SOFT, SOFT, activation=None) > 0.1).all()
    for smooth in (0.0, 1.0):
        expected = getattr(jaxseg, name)(LOGITS, IDS, smooth=smooth)
        got = getattr(jaxseg, name)(LOGITS, IDS, smooth=smooth, overlap="minimum")
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_three_pixels_in_a_million_keep_their_least_overlap():
    masks = np.zeros((1024, 1024), bool)
    masks[5, 5:8] = True
    probs = np.where(masks, 0.6, 1e-6).astype(np.float32)[..., None]
    options = {"activation": None, "overlap": "minimum", "smooth": 0.0}
    expected = reference.dice_loss(probs.astype(np.float64), masks, **options)
    np.testing.assert_allclose(jaxseg.dice_loss(probs, masks, **options), expected, rtol=1e-5)


def test_generalized_dice_of_a_large_missed_object_is_not_smoothed_away():
    # smooth is beside sums in pixels of the smallest class
    logits = np.zeros((512, 512, 2), np.float32)
    logits[..., 0] = 20
    value = jaxseg.generalized_dice_loss(logits, np.ones((512, 512), int))
    np.testing.assert_allclose(value, 1, atol=1e-4)


def test_generalized_dice_of_equal_classes_is_dice_of_all():
    labels = np.arange(30).reshape(5, 6) % 3
    logits = LOGITS.reshape(-1, 3)[:30].reshape(5, 6, 3)
    probs = np.asarray(jax.nn.softmax(logits), np.float64)
    hits = probs[reference.one_hot(labels, 3)].sum()
    got = jaxseg.generalized_dice_loss(logits, labels, smooth=0.0)
    np.testing.assert_allclose(got, 1 - hits / 30, rtol=1e-5)


def test_wasserstein_of_equal_distances_and_two_classes_is_dice_of_the_foreground():
    logits, labels = LOGITS[..., :2], IDS % 2
    got = jaxseg.generalized_wasserstein_dice_loss(logits, labels, distances=1 - np.eye(2))
    np.testing.assert_allclose(got, jaxseg.dice_loss(logits, labels)[1], rtol=1e-5)


def test_wasserstein_costs_do_not_depend_on_the_scale_of_distances():
    loss = functools.partial(jaxseg.generalized_wasserstein_dice_loss, LOGITS, IDS)
    got = loss(distances=100 * np.float32(FAR))
    np.testing.assert_allclose(got, loss(distances=np.float32(FAR)), rtol=1e-6)


def test_correlation_of_hard_predictions_is_that_of_their_counts():
    predicted = reference.one_hot(rng(8).integers(0, 3, SHAPE), 3)
    expected = jaxseg.matthews_correlation(jaxseg.counts(predicted, MASKS))
    loss = functools.partial(jaxseg.matthews_correlation_loss, activation=None, smooth=0.0)
    got = loss(predicted.astype(np.float32), MASKS)
    np.testing.assert_allclose(got, 1 - expected, rtol=1e-5)
    wrong = loss((~MASKS).astype(np.float32), MASKS)
    np.testing.assert_allclose(wrong, [2, 2, 2], rtol=1e-6)


def test_correlation_with_a_zero_factor_has_no_loss_without_smooth():
    loss = functools.partial(jaxseg.matthews_correlation_loss, activation=None, smooth=0.0)
    gradient, value = sum_and_gradient(
        functools.partial(loss, labels=np.zeros((4, 5), int)), np.zeros((4, 5, 1), np.float32)
    )
    assert value.tolist() == [0]
    assert np.isfinite(gradient).all()


def test_sensitivity_weight_is_of_misses_and_the_rest_of_false_positives():
    true, more = np.arange(20) < 4, np.arange(20) < 10
    loss = functools.partial(
        jaxseg.sensitivity_specificity_loss,
        activation=None,
        smooth=0.0,
        sensitivity_weight=0.25,
    )
    too_much = loss(more[:, None].astype(np.float32), true)
    too_little = loss(true[:, None].astype(np.float32), more)
    np.testing.assert_allclose(too_much, [0.75 * 6 / 16], rtol=1e-5)
    np.testing.assert_allclose(too_little, [0.25 * 6 / 10], rtol=1e-5)


# ---------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_masks_and_weights_of_pixels_and_of_classes_go_together(activation):
    """A mask or weights of pixels are those of each class; an axis of length 1 is shared."""
    rng = np.random.default_rng(0)
    shape = (2, 4, 5, 3)
    x, masks = rng.random(shape, np.float32), rng.random(shape) < 0.4
    of_pixels, of_classes = rng.random(shape[:-1]) < 0.7, rng.random(shape) < 0.7
    weights = rng.uniform(0.2, 3, shape).astype(np.float32)
    everywhere = lambda x: np.broadcast_to(x, shape)  # noqa: E731
    pairs = [
        (of_pixels, weights, of_pixels[..., None], weights),
        (of_classes, weights[..., 0], of_classes, weights[..., :1]),
        (of_classes, weights[:, :1, :1, 0], of_classes, weights[:, :1, :1, :1]),
        (None, weights[:1, :1, :1], True, weights[:1, :1, :1]),
    ]
    for where, given, full_where, full_weights in pairs:
        loss = functools.partial(jaxseg.dice_loss, labels=masks, activation=activation, axis=(1, 2))
        got = loss(x, where=where, weights=given)
        want = loss(x, where=everywhere(full_where), weights=everywhere(full_weights))
        np.testing.assert_array_equal(got, want)
        assert not np.array_equal(got, loss(x, where=where))
