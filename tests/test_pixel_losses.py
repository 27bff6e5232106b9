"""Pixel losses: plain formulas where ``test_values`` does not go, forms of others, and edges."""

import functools
import math

import jax
import jax.numpy as jnp
import losses
import numpy as np
import optax
import pytest
import reference
from losses import case, false_positives, rng, with_gradient

import jaxseg

SHAPE = (2, 6, 7)
LOGITS = losses.logits(1, SHAPE, 3)
IDS = losses.ids(2, SHAPE, 3)
ONE_HOT = reference.one_hot(IDS, 3)
WHERE = rng(5).random(SHAPE) < 0.7
EACH = ["cross_entropy_loss", "softmax_focal_loss", "nacl_loss"]
HARDEST = ["top_k_loss", "ohem_loss"]
LOVASZ = ["lovasz_hinge_loss", "lovasz_softmax_loss"]

CASES = [
    case("cross_entropy_loss", "plane-5-outside", label_smoothing=0.2),
    case("cross_entropy_loss", "volume-2-soft", class_weights=[0.5, 2.0]),
    case("cross_entropy_loss", "volume-1", class_weights=[0.5, 2.0], label_smoothing=0.1),
    case("softmax_focal_loss", "plane-5-outside", alpha=0.25, gamma=0.5),
    case("softmax_focal_loss", "volume-3-where", alpha=[0.2, 1.0, 0.0]),
    case("nacl_loss", "plane-5-outside", kernel_size=5, distance="l1", weight=0.5),
    case("nacl_loss", "volume-3-where", kernel_size=3, spatial_axes=(1, 2)),
    case("nacl_loss", "plane-1-where", kernel_size=1, distance="l2"),
    case("top_k_loss", "plane-5-outside", fraction=0.25),
    case("top_k_loss", "volume-3-where", fraction=1.0, per_image=True),
    case("top_k_loss", "plane-2", fraction=0.01, per_image=True),
    case("ohem_loss", "plane-5-outside", min_kept=1),
    case("ohem_loss", "volume-3-where", min_kept=1000, per_image=True),
    case("lovasz_hinge_loss", "plane-3-masks"),
    case("lovasz_hinge_loss", "volume-1", per_image=True),
    case("lovasz_hinge_loss", "plane-5-outside", per_image=True),
    case("lovasz_softmax_loss", "plane-3-probs", per_image=True),
    case("lovasz_softmax_loss", "plane-3-masks", classes="all"),
    case("lovasz_softmax_loss", "plane-5-outside", per_image=True),
]


@pytest.mark.slow  # beyond the table of cases.py
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_values_and_gradients_are_those_of_the_plain_formula(case):
    losses.assert_as_plain_formula(case)


# ---------------------------------------------------------------------------------- of a pixel


def test_cross_entropy_is_that_of_optax():
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, IDS)
    np.testing.assert_allclose(jaxseg.cross_entropy_loss(LOGITS, IDS), expected, atol=1e-6)
    smoothed = optax.smooth_labels(ONE_HOT.astype(np.float32), 0.3)
    expected = optax.softmax_cross_entropy(LOGITS, smoothed)
    got = jaxseg.cross_entropy_loss(LOGITS, IDS, label_smoothing=0.3)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_one_class_is_that_of_the_sigmoid():
    logits, masks = LOGITS[..., :1], IDS == 1
    expected = optax.sigmoid_binary_cross_entropy(logits, masks[..., None].astype(np.float32))
    got = jaxseg.cross_entropy_loss(logits, masks)
    np.testing.assert_allclose(got, expected[..., 0], rtol=1e-5, atol=1e-6)


def test_class_weights_are_those_of_the_pixels_class():
    weights = np.float32([0.0, 1.0, 2.5])
    plain = jaxseg.cross_entropy_loss(LOGITS, IDS)
    got = jaxseg.cross_entropy_loss(LOGITS, IDS, class_weights=weights)
    np.testing.assert_allclose(got, weights[IDS] * plain, rtol=1e-6)
    focal = jaxseg.softmax_focal_loss(LOGITS, IDS)
    got = jaxseg.softmax_focal_loss(LOGITS, IDS, alpha=weights)
    np.testing.assert_allclose(got, weights[IDS] * focal, rtol=1e-6)


def test_focal_loss_of_gamma_zero_is_the_cross_entropy():
    got = jaxseg.softmax_focal_loss(LOGITS, IDS, gamma=0.0)
    np.testing.assert_allclose(got, jaxseg.cross_entropy_loss(LOGITS, IDS), rtol=1e-6)


def test_focal_loss_of_one_class_is_that_of_optax():
    logits, masks = LOGITS[..., :1], (IDS == 1)[..., None]
    expected = optax.sigmoid_focal_loss(logits, masks.astype(np.float32), alpha=0.25, gamma=2.0)
    alpha = np.float32([0.75, 0.25])
    got = jaxseg.softmax_focal_loss(logits, masks, alpha=alpha, gamma=2.0)
    np.testing.assert_allclose(got, expected[..., 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_saturated_logits_has_finite_gradients(gamma):
    logits = np.float32([[[-1e4, 1e4], [1e4, -1e4], [100, -100], [-20, 20], [0, 0]]])
    labels = np.zeros((1, 5), int)
    run = with_gradient(lambda x: jaxseg.softmax_focal_loss(x, labels, gamma=gamma))
    value, gradient = run(logits)
    np.testing.assert_allclose(value[0, :4], [2e4, 0, 0, 40], atol=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0, 0], [-1, 1], atol=1e-5)  # an error is pushed back


@pytest.mark.parametrize("name", EACH)
def test_a_pixel_of_no_class_has_no_cross_entropy(name):
    inside = rng(8).random(SHAPE) < 0.7
    labels = np.where(inside, IDS, rng(9).choice([3, 255, -1, -100], SHAPE))
    options = {"weight": 0.0} if name == "nacl_loss" else {}
    loss = functools.partial(getattr(jaxseg, name), **options)
    value, gradient = with_gradient(lambda x: loss(x, labels))(LOGITS)
    np.testing.assert_allclose(value, np.where(inside, loss(LOGITS, IDS), 0), rtol=1e-6)
    assert (gradient[~inside] == 0).all()


@pytest.mark.parametrize("classes", [3, 40])  # which are read one by one, and all at once
def test_gradients_of_labels_that_cannot_move_are_zero(classes):
    logits = np.full((1, 3, classes), -1e4, np.float32)
    logits[..., 1] = 1e4  # the probabilities without their maximum would overflow
    logits[..., 2] = -np.inf
    labels = np.array([[255, 2, 1]])  # of no class, of a class that is switched off, and right
    value, gradient = with_gradient(lambda x: jaxseg.cross_entropy_loss(x, labels))(logits)
    np.testing.assert_array_equal(value, np.float32([[0, 1e30, 0]]))
    assert (gradient == 0).all()


@pytest.mark.parametrize("classes", [3, 40])
def test_cross_entropy_has_every_derivative(classes):
    logits = rng(11).normal(size=(2, 5, classes)).astype(np.float32)
    labels = rng(12).integers(0, classes, (2, 5))
    own, other = (
        lambda x: jaxseg.cross_entropy_loss(x, labels).sum(),
        lambda x: optax.softmax_cross_entropy_with_integer_labels(x, labels).sum(),
    )
    change = rng(13).normal(size=logits.shape).astype(np.float32)
    for derive in (
        lambda f: jax.jvp(f, (logits,), (change,))[1],
        lambda f: jax.grad(f)(logits),
        lambda f: jax.jvp(jax.grad(f), (logits,), (change,))[1],
        lambda f: jax.grad(lambda x: (jax.grad(f)(x) * change).sum())(logits),
    ):
        np.testing.assert_allclose(derive(own), derive(other), rtol=1e-4, atol=1e-6)


def test_neighbours_shares_of_a_hand_computed_row():
    # one row 0 0 1 under a kernel of 3: shares of class 0 are 2/3 (one is outside), 2/3, 1/3
    logits = np.zeros((1, 3, 2), np.float32)
    loss = functools.partial(jaxseg.nacl_loss, labels=np.array([[0, 0, 1]]), spatial_axes=(1,))
    got = loss(logits, weight=6.0) - math.log(2)
    np.testing.assert_allclose(got, [[2, 3, 2]], rtol=1e-6)
    squared = loss(logits, weight=18.0, distance="l2")
    np.testing.assert_allclose(squared - math.log(2), [[4, 5, 2]], rtol=1e-6)


def test_a_masked_neighbour_is_of_no_class():
    logits, labels = np.zeros((1, 3, 2), np.float32), np.array([[0, 0, 1]])
    where = np.array([[True, True, False]])
    got = jaxseg.nacl_loss(logits, labels, weight=6.0, spatial_axes=(1,), where=where)
    np.testing.assert_allclose(got, [[2 + math.log(2), 2 + math.log(2), 0]], rtol=1e-6)


# ---------------------------------------------------------------------------------- the hardest


def sorted_losses():
    return -np.sort(-np.asarray(jaxseg.cross_entropy_loss(LOGITS, IDS)), axis=None)


@pytest.mark.parametrize(("fraction", "kept"), [(1e-6, 1), (2.9 / 84, 2), (1.0, 84)])
def test_top_k_takes_the_floor_of_its_share_and_at_least_one_pixel(fraction, kept):
    got = jaxseg.top_k_loss(LOGITS, IDS, fraction=fraction)
    np.testing.assert_allclose(got, sorted_losses()[:kept].mean(), rtol=1e-6)


def test_top_k_takes_its_share_of_the_valid_pixels():
    few = np.zeros(SHAPE, bool)
    few[0, 0, :5] = True
    got = jaxseg.top_k_loss(LOGITS, IDS, fraction=0.5, where=few)
    expected = np.sort(jaxseg.cross_entropy_loss(LOGITS, IDS)[0, 0, :5])[-2:].mean()
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("kept", [1, 10, 1000])
def test_ohem_keeps_at_least_so_many_pixels(kept):
    # of a threshold that no pixel is below
    got = jaxseg.ohem_loss(LOGITS, IDS, threshold=0.0, min_kept=kept)
    np.testing.assert_allclose(got, sorted_losses()[:kept].mean(), rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.3, 1.0])
def test_ohem_keeps_all_pixels_below_the_threshold(threshold):
    hard = sorted_losses() > -math.log(threshold)
    got = jaxseg.ohem_loss(LOGITS, IDS, threshold=threshold, min_kept=1)
    np.testing.assert_allclose(got, sorted_losses()[hard].mean(), rtol=1e-6)


@pytest.mark.parametrize("name", HARDEST)
def test_only_the_hardest_pixels_have_a_gradient(name):
    options = {"fraction": 0.1} if name == "top_k_loss" else {"threshold": 0.0, "min_kept": 8}
    loss = functools.partial(getattr(jaxseg, name), labels=IDS, **options)
    _, gradient = with_gradient(loss)(LOGITS)
    hardest = np.asarray(jaxseg.cross_entropy_loss(LOGITS, IDS)) >= sorted_losses()[7]
    np.testing.assert_array_equal(gradient.any(-1), hardest)


@pytest.mark.parametrize("name", HARDEST)
def test_pixels_that_are_equally_hard_give_their_common_loss(name):
    options = {"fraction": 0.3} if name == "top_k_loss" else {"threshold": 0.1, "min_kept": 3}
    loss = functools.partial(getattr(jaxseg, name), labels=np.ones((1, 4, 4), int), **options)
    value, gradient = with_gradient(loss)(np.zeros((1, 4, 4, 2), np.float32))
    np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient.sum((0, 1, 2)), [0.5, -0.5], rtol=1e-5)


# ---------------------------------------------------------------------------------- Lovász


def test_lovasz_of_hard_predictions_is_one_less_the_iou():
    # all errors are 0 or 1: the value does not depend on how ties are ordered
    predicted = reference.one_hot(losses.ids(3, SHAPE, 3), 3)
    iou = (predicted & ONE_HOT).sum((0, 1, 2)) / (predicted | ONE_HOT).sum((0, 1, 2))
    got = jaxseg.lovasz_softmax_loss(predicted.astype(np.float32), IDS, activation=None)
    np.testing.assert_allclose(got, (1 - iou).mean(), rtol=1e-6)
    # a hinge error of 2 is twice that of 1, and one of 0 none
    got = jaxseg.lovasz_hinge_loss(np.where(predicted, np.float32(1), np.float32(-1)), ONE_HOT)
    np.testing.assert_allclose(got, 2 * (1 - iou), rtol=1e-6)


def test_lovasz_of_a_hand_computed_pair():
    # errors .4 (of the mask) and .1 (not): Jaccard losses 1 and 1 after one pixel and two
    probs = np.float32([[0.6], [0.1]])
    got = jaxseg.lovasz_softmax_loss(probs, np.array([1, 0]), activation=None)
    np.testing.assert_allclose(got, 0.4, rtol=1e-6)
    # the other order: errors .4 (not of the mask) and .1 (of it): losses 1/2 and 1
    probs = np.float32([[0.9], [0.4]])
    got = jaxseg.lovasz_softmax_loss(probs, np.array([1, 0]), activation=None)
    np.testing.assert_allclose(got, 0.4 / 2 + 0.1 / 2, rtol=1e-6)
    # hinge errors 1 - 0.5 of the mask, 1 + 0.25 of the other
    got = jaxseg.lovasz_hinge_loss(np.float32([[0.5], [0.25]]), np.array([1, 0]))
    np.testing.assert_allclose(got, [1.25 / 2 + 0.5 / 2], rtol=1e-6)


@pytest.mark.parametrize("name", LOVASZ)
def test_the_value_at_ties_does_not_depend_on_the_order_of_pixels(name):
    logits = np.round(LOGITS)  # many equal errors
    loss = getattr(jaxseg, name)
    expected = getattr(reference, name)(logits.astype(np.float64), IDS)
    np.testing.assert_allclose(loss(logits, IDS), expected, rtol=1e-5, atol=1e-6)
    order = rng(9).permutation(IDS.size)
    shuffled = logits.reshape(-1, 3)[order], IDS.reshape(-1)[order]
    np.testing.assert_allclose(loss(*shuffled), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOVASZ)
def test_a_pooled_batch_is_not_the_mean_of_its_images(name):
    loss = getattr(jaxseg, name)
    each = loss(LOGITS, IDS, axis=(1, 2))
    for n in range(2):
        np.testing.assert_allclose(each[n], loss(LOGITS[n], IDS[n]), rtol=1e-5)
    assert (np.abs(each.mean(0) - loss(LOGITS, IDS)) > 1e-3).all()


def test_classes_are_all_or_those_present():
    labels = np.where(IDS == 2, 0, IDS)
    each = [
        reference.lovasz_softmax_loss(p.astype(np.float64), labels == c, None)
        for c, p in enumerate(np.moveaxis(np.asarray(jax.nn.softmax(LOGITS)), -1, 0)[..., None])
    ]
    present = jaxseg.lovasz_softmax_loss(LOGITS, labels)
    np.testing.assert_allclose(present, np.mean(each[:2]), rtol=1e-5)
    everyone = jaxseg.lovasz_softmax_loss(LOGITS, labels, classes="all")
    np.testing.assert_allclose(everyone, np.mean(each), rtol=1e-5)
    name = "".join(["pre", "sent"])  # not the same object
    assert jaxseg.lovasz_softmax_loss(LOGITS, labels, classes=name) == present


def test_without_any_class_lovasz_softmax_is_the_mean_over_all():
    probs = np.asarray(jax.nn.softmax(LOGITS))
    got = jaxseg.lovasz_softmax_loss(LOGITS, np.full(SHAPE, 255))
    np.testing.assert_allclose(got, probs.max((0, 1, 2)).mean(), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", LOVASZ)
def test_sums_of_many_half_precision_errors_lose_no_steps(name, dtype):
    logits = jnp.asarray(rng(10).standard_normal((5001, 1)), dtype)
    labels = rng(11).random(5001) < 0.5
    options = {"activation": "sigmoid"} if name == "lovasz_softmax_loss" else {}
    loss = functools.partial(getattr(jaxseg, name), labels=labels, **options)
    value, gradient = with_gradient(loss)(logits)
    exact = np.asarray(logits, np.float64)
    expected = getattr(reference, name)(exact, labels, **options)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert gradient.dtype == dtype
    assert (gradient != 0).mean() > 0.5


def test_confident_logits_of_a_mask_have_no_hinge_loss():
    logits = np.where(ONE_HOT, 5.0, -5.0).astype(np.float32)
    value, gradient = with_gradient(lambda x: jaxseg.lovasz_hinge_loss(x, ONE_HOT))(logits)
    assert (value == 0).all()
    assert (gradient == 0).all()


# ---------------------------------------------------------------------------------- edges

BATCH = [*HARDEST, *LOVASZ]


@pytest.mark.parametrize("name", BATCH)
def test_false_positives_on_an_empty_target_are_punished(name):
    options = {"ohem_loss": {"min_kept": 4}, "lovasz_softmax_loss": {"classes": "all"}}
    loss = functools.partial(getattr(jaxseg, name), **options.get(name, {}))
    values = false_positives(loss, classes=1 if name == "lovasz_hinge_loss" else 2)
    assert values == sorted(values)
    assert values[1] > values[0] + 0.1


@pytest.mark.parametrize("name", [*EACH, *BATCH])
def test_right_and_confident_logits_have_the_least_loss(name):
    options = {"nacl_loss": {"weight": 0.0}, "ohem_loss": {"min_kept": 4}}.get(name, {})
    loss = functools.partial(getattr(jaxseg, name), labels=IDS, **options)
    run = with_gradient(loss)
    right, gradient = run(np.where(ONE_HOT, 1e4, -1e4).astype(np.float32))
    np.testing.assert_allclose(right, 0, atol=1e-6)
    assert np.isfinite(gradient).all()
    wrong, gradient = run(np.where(ONE_HOT, -1e4, 1e4).astype(np.float32))
    assert (wrong >= (0.5 if name == "lovasz_softmax_loss" else 1e4)).all()
    assert np.isfinite(gradient).all()


# ---------------------------------------------------------------------------------- U-Net's weights


def test_border_weights_between_two_pixels():
    got = jaxseg.border_weights(np.array([1, 0, 0, 2]), border_weight=10.0, sigma=1.0)
    np.testing.assert_allclose(got, [10 * math.exp(-4.5)] * 4, rtol=1e-5)


@pytest.mark.parametrize("ids", [0, 1])
def test_fewer_than_two_instances_have_no_border(ids):
    instances = np.zeros((4, 5), int)
    instances[1:3, 1:3] = ids
    assert (jaxseg.border_weights(instances) == 0).all()


def test_border_weights_of_a_volume():
    instances = np.zeros((4, 5, 3), int)
    instances[0, 0], instances[3, 4] = 1, 2
    got = jaxseg.border_weights(instances)
    np.testing.assert_allclose(got, reference.border_weights(instances), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "rule"),
    [
        ({"sigma": 0.0}, ValueError, "sigma must be above 0"),
        ({"sigma": np.float32(-1)}, ValueError, "sigma must be above 0"),
        ({"sigma": 1j}, TypeError, "sigma must be a real number"),
        ({"border_weight": -1}, ValueError, "border_weight must be 0 or more"),
        ({"border_weight": np.ones(2)}, ValueError, "border_weight must be one number"),
        ({"border_weight": True}, TypeError, "border_weight must be a real number"),
    ],
    ids=repr,
)
def test_arguments_of_border_weights(options, error, rule):
    with pytest.raises(error, match=rule):
        jaxseg.border_weights(np.eye(3, dtype=int), **options)
