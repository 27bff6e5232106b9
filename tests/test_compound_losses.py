"""Compound losses: values and gradients of the plain formulas, weights, masks and edges."""

import functools

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
from jaxseg._kernels import blocks


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


SHAPE = (2, 4, 5)
IDS = rng(1).integers(0, 3, SHAPE)
ONE_HOT = reference.one_hot(IDS, 3)
PROBS = reference.softmax(rng(2).standard_normal((*SHAPE, 3))).astype(np.float32)
MASKS = rng(3).random((*SHAPE, 3)) < 0.4
SOFT = rng(7).random((*SHAPE, 3)).astype(np.float32)
LOGITS = (2 * rng(4).standard_normal((*SHAPE, 3))).astype(np.float32)
WHERE = rng(5).random(SHAPE) < 0.7
OUTSIDE = np.where(rng(6).random(SHAPE) < 0.3, 255, IDS).astype(np.uint8)
IMAGE = (1, 2)

# Beside those of the table in cases.py: loss, logits, labels, arguments
CASES = {
    "bce_dice": ("bce_dice_loss", LOGITS, MASKS, {}),
    "bce_dice soft": ("bce_dice_loss", LOGITS, SOFT, {"where": WHERE}),
    "dice_ce outside": ("dice_ce_loss", LOGITS, OUTSIDE, {"label_smoothing": 0.2}),
    "dice_ce everything": (
        "dice_ce_loss",
        LOGITS,
        OUTSIDE,
        {
            "class_weights": [0.5, 1.0, 2.0],
            "ce_class_weights": [1.0, 2.0, 4.0],
            "label_smoothing": 0.3,
            "where": WHERE,
            "axis": -1,
        },
    ),
}


def jax_loss(name, labels, **kwargs):
    """The loss of logits, with weights as arrays."""
    arrays = {k: np.float32(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    return functools.partial(getattr(jaxseg, name), labels=labels, **arrays)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, x):
    return jax.value_and_grad(loss)(x)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_formula(case):
    name, logits, labels, kwargs = CASES[case]
    value, gradient = value_and_gradient(jax_loss(name, labels, **kwargs), logits)
    plain = getattr(reference, name)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    expected = plain(logits.astype(np.float64), labels, **kwargs)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    _, plain_gradient = value_and_gradient(lambda x: plain(x, labels, **kwargs), logits)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bce_dice_loss", "dice_ce_loss"])
def test_second_derivatives_agree_with_finite_differences(name):
    with jax.enable_x64(True):
        x = jnp.asarray(LOGITS[0, :1, :3], jnp.float64)
        loss = jax.jit(jax_loss(name, IDS[0, :1, :3]))
        check_grads(loss, (x,), order=2, modes=["rev"])


# ---------------------------------------------------------------------------------- its terms


def test_dice_ce_is_optax_cross_entropy_plus_dice():
    ce = optax.softmax_cross_entropy_with_integer_labels(LOGITS, IDS).mean()
    dice = jaxseg.dice_loss(LOGITS, IDS, axis=IMAGE).mean()
    actual = jaxseg.dice_ce_loss(LOGITS, IDS, axis=IMAGE)
    np.testing.assert_allclose(actual, ce + dice, rtol=1e-6)


def test_dice_ce_smoothing_is_optax_label_smoothing():
    smoothed = optax.smooth_labels(ONE_HOT.astype(np.float32), 0.1)
    ce = optax.softmax_cross_entropy(LOGITS, smoothed).mean()
    actual = jaxseg.dice_ce_loss(LOGITS, IDS, label_smoothing=0.1, dice_weight=0.0)
    np.testing.assert_allclose(actual, ce, rtol=1e-6)


def test_bce_dice_is_optax_cross_entropy_and_dice():
    bce = optax.sigmoid_binary_cross_entropy(LOGITS, MASKS.astype(np.float32)).mean()
    dice = jaxseg.dice_loss(LOGITS, MASKS, activation="sigmoid").mean()
    np.testing.assert_allclose(jaxseg.bce_dice_loss(LOGITS, MASKS), 0.5 * bce + dice, rtol=1e-6)


def test_bce_dice_is_the_keras_idiom_plus_one():
    masks = MASKS[..., :1]
    logits = LOGITS[..., :1]
    value, gradient = value_and_gradient(jax_loss("bce_dice_loss", masks), logits)
    idiom = functools.partial(reference.keras_bce_dice_loss, masks.astype(np.float32))
    expected, plain_gradient = value_and_gradient(idiom, logits)
    np.testing.assert_allclose(value, expected + 1, rtol=1e-6)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("argument", ["class_weights", "ce_class_weights"])
def test_equal_class_weights_of_any_scale_change_nothing(argument):
    expected = jaxseg.dice_ce_loss(LOGITS, IDS)
    actual = jaxseg.dice_ce_loss(LOGITS, IDS, **{argument: [10, 10, 10]})
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_class_weights_of_zero_and_one_leave_the_background_out():
    actual = jaxseg.dice_ce_loss(LOGITS, IDS, class_weights=[0, 1, 1], ce_weight=0.0)
    np.testing.assert_allclose(actual, jaxseg.dice_loss(LOGITS, IDS)[1:].mean(), rtol=1e-6)


def test_ce_class_weight_of_zero_ignores_the_pixels_of_a_class():
    weighted = jaxseg.dice_ce_loss(LOGITS, IDS, ce_class_weights=[0, 1, 1], dice_weight=0.0)
    ignored = jaxseg.dice_ce_loss(LOGITS, IDS, where=IDS != 0, dice_weight=0.0)
    np.testing.assert_allclose(weighted, ignored, rtol=1e-6)


BLOBS = np.zeros((2, 7, 8), np.int32)  # two instances in the first image, and one
BLOBS[0, 1:4, 1:3], BLOBS[0, 2:6, 4:7], BLOBS[1, :3, :4] = 1, 2, 1


@pytest.mark.parametrize("axis", [None, IMAGE])
def test_dice_and_cross_entropy_with_border_weights_are_the_sums_by_hand(axis):
    """In float64 and pixel by pixel: the weighting of U-Net, for both terms."""
    weights = 1 + np.asarray(jax.vmap(jaxseg.border_weights)(BLOBS), np.float64)
    assert weights[0].max() > 5 and (weights[1] == 1).all()
    labels, x = (BLOBS > 0).astype(int), rng(11).standard_normal((*BLOBS.shape, 2))
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    groups = [(0, 1)] if axis is None else [(0,), (1,)]  # images whose pixels are summed
    cross_entropy = total = 0.0
    dice, share = np.zeros((len(groups), 2)), np.zeros(len(groups))
    for k, images in enumerate(groups):
        places = [pixel for pixel in np.ndindex(BLOBS.shape) if pixel[0] in images]
        share[k] = np.mean([weights[place] for place in places])
        for c in range(2):
            overlap = sum(weights[n] * p[n][c] for n in places if labels[n] == c)
            size = sum(weights[n] * (p[n][c] + (labels[n] == c)) for n in places)
            dice[k, c] = 1 - (2 * overlap + 1) / (size + 1)
        cross_entropy += sum(-weights[n] * np.log(p[n][labels[n]]) for n in places)
        total += sum(weights[n] for n in places)
    expected = (share * dice.mean(-1)).sum() / share.sum() + cross_entropy / total
    given = {"weights": weights.astype(np.float32), "axis": axis}
    got = jaxseg.dice_ce_loss(x.astype(np.float32), labels, **given)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [None, IMAGE])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_class_that_is_not_annotated_has_no_part_in_bce_dice(axis, weighted):
    """The first image has no annotation of class 1, the second none of classes 0 and 2."""
    where = np.broadcast_to(WHERE[..., None], LOGITS.shape).copy()
    where[0, ..., 1] = where[1, ..., 0] = where[1, ..., 2] = False
    options = {"where": where, "axis": axis}
    if weighted:
        options["weights"] = rng(12).uniform(0.2, 3, LOGITS.shape).astype(np.float32)
    expected = reference.bce_dice_loss(LOGITS.astype(np.float64), MASKS, **options)
    dirty = np.where(where, LOGITS, np.float32(np.nan))
    loss = lambda x: jaxseg.bce_dice_loss(x, MASKS, **options)  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(dirty)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert not gradient[~where].any()
    assert gradient[where].all()
    if axis and not weighted:  # by hand: the mean over the three pairs of an image and a class
        dice = [
            jaxseg.dice_loss(
                LOGITS[[b]][..., [c]], MASKS[[b]][..., [c]], activation="sigmoid", where=WHERE[[b]]
            )
            for b, c in ((0, 0), (0, 2), (1, 1))
        ]
        bce = optax.sigmoid_binary_cross_entropy(LOGITS, MASKS.astype(np.float32))[where].mean()
        np.testing.assert_allclose(value, np.mean(dice) + 0.5 * bce, rtol=1e-6)


def test_deep_supervision_passes_weights_of_pixels_and_of_images():
    labels = np.kron(IDS[:, :, :4], np.ones((1, 2, 2), int))
    fine = np.repeat(np.repeat(LOGITS[:, :, :4], 2, 1), 2, 2)
    supervised = jaxseg.deep_supervision(jaxseg.dice_ce_loss, [1.0, 0.0])
    coarse_only = jaxseg.deep_supervision(jaxseg.dice_ce_loss, [0.0, 1.0])
    weights = np.array([1.0, 3.0], np.float32)[:, None, None]
    each = np.broadcast_to(weights, labels.shape)
    outputs = [fine, LOGITS[:, :, :4]]
    for given in (weights, each, [each, each[:, ::2, ::2]]):
        got = supervised(outputs, labels, weights=given)
        np.testing.assert_array_equal(got, jaxseg.dice_ce_loss(fine, labels, weights=weights))
        got = coarse_only(outputs, labels, weights=given)
        want = jaxseg.dice_ce_loss(outputs[1], labels[:, ::2, ::2], weights=weights)
        np.testing.assert_array_equal(got, want)


# ---------------------------------------------------------------------------------- masks

LABELS = {"bce_dice_loss": MASKS, "dice_ce_loss": IDS}


@pytest.mark.parametrize("name", LABELS)
def test_masked_pixels_may_hold_infinity(name):
    logits = np.where(WHERE[..., None], LOGITS, np.inf)
    dense = np.where(WHERE[..., None], reference.one_hot(IDS, 3), np.nan).astype(np.float32)
    value, gradient = value_and_gradient(jax_loss(name, dense, where=WHERE), logits)
    expected = getattr(reference, name)(LOGITS.astype(np.float64), IDS, where=WHERE)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    assert (np.asarray(gradient)[~WHERE] == 0).all()
    assert np.isfinite(gradient).all()


def test_one_image_without_valid_pixels_leaves_the_other_alone():
    where = np.ones(SHAPE, bool)
    where[1] = False
    loss = jax_loss("dice_ce_loss", IDS, where=where, axis=IMAGE)
    value, gradient = value_and_gradient(loss, LOGITS)
    pixel = reference.cross_entropy(LOGITS[:1].astype(np.float64), IDS[:1])
    region = reference.dice_loss(LOGITS[:1].astype(np.float64), IDS[:1]).mean()
    np.testing.assert_allclose(value, pixel + region, rtol=1e-6)
    assert (np.asarray(gradient)[1] == 0).all()


# ---------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("name", LABELS)
def test_logits_of_ten_thousand_stay_finite(name):
    logits = np.where(LOGITS > 0, 1e4, -1e4).astype(np.float32)
    value, gradient = value_and_gradient(jax_loss(name, LABELS[name]), logits)
    expected = getattr(reference, name)(logits.astype(np.float64), LABELS[name])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0  # a confident error is still pushed back


@pytest.mark.parametrize("name", LABELS)
def test_perfect_logits_have_a_loss_of_zero(name):
    logits = np.where(ONE_HOT, 1e3, -1e3).astype(np.float32)
    value, gradient = value_and_gradient(jax_loss(name, ONE_HOT), logits)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_empty_target_punishes_false_positives():
    loss = jax_loss("bce_dice_loss", np.zeros((4, 4), int), bce_weight=0.0)
    values = []
    for positives in (0, 1, 16):
        logits = np.where(np.arange(16) < positives, 4.0, -9.0).astype(np.float32)
        values.append(float(loss(logits.reshape(4, 4, 1))))
    assert values[0] < values[1] < values[2]
    assert values[2] > 0.8


@pytest.mark.parametrize("smoothing", [0, 1])
def test_label_smoothing_may_be_an_integer(smoothing, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: 64)  # several blocks add their gradients
    got, expected = (
        value_and_gradient(jax_loss("dice_ce_loss", IDS, label_smoothing=s), LOGITS)
        for s in (smoothing, float(smoothing))
    )
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("label", [3, 255, -1, -100])
def test_label_outside_has_no_part_in_the_cross_entropy(label):
    labels = IDS.astype(np.int32)
    inside = rng(8).random(SHAPE) < 0.7
    marked = np.where(inside, labels, label)
    loss = jax_loss("dice_ce_loss", marked, dice_weight=0.0)
    value, gradient = value_and_gradient(loss, LOGITS)
    expected = jaxseg.dice_ce_loss(LOGITS, labels, where=inside, dice_weight=0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert (np.asarray(gradient)[~inside] == 0).all()


# ---------------------------------------------------------------------------------- linear layer

FEATURES = rng(10).standard_normal((*SHAPE, 4)).astype(np.float32)
KERNEL = rng(11).standard_normal((4, 3)).astype(np.float32)
BIAS = rng(12).standard_normal(3).astype(np.float32)


@pytest.mark.parametrize(
    ("labels", "bias", "arguments"),
    [
        (IDS, BIAS, {}),
        (OUTSIDE, BIAS, {"where": OUTSIDE != 255, "axis": IMAGE}),
        (ONE_HOT.astype(np.float32), None, {"label_smoothing": 0.1, "smooth": 2.0}),
        (IDS, None, {"class_weights": [0.0, 1.0, 3.0], "ce_class_weights": [0.2, 0.5, 2.0]}),
        (IDS, BIAS, {"axis": 1, "dice_weight": 0.3, "ce_weight": 2.0}),
    ],
    ids=["ids", "masked", "dense", "weights", "axis"],
)
def test_a_linear_layer_and_its_loss_in_one(labels, bias, arguments, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: 64)  # several blocks add their gradients
    arrays = FEATURES, KERNEL, bias

    def one(features, kernel, bias):
        return jaxseg.linear_dice_ce_loss(features, kernel, bias, labels, **arguments)

    def two(features, kernel, bias):
        logits = jnp.einsum("...f,fc->...c", features, kernel)
        logits = logits if bias is None else logits + bias.reshape(1, 1, 1, 3)
        return jaxseg.dice_ce_loss(logits, labels, **arguments)

    which = (0, 1) if bias is None else (0, 1, 2)
    arrays = jax.tree.map(jnp.asarray, arrays)
    got = jax.jit(jax.value_and_grad(one, which))(*arrays)
    want = jax.jit(jax.value_and_grad(two, which))(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, want)


def test_a_linear_layer_takes_a_convolutions_kernel_and_half_precision():
    want = jaxseg.linear_dice_ce_loss(FEATURES, KERNEL, BIAS, IDS)
    convolution = KERNEL.reshape(1, 1, 4, 3)
    assert jaxseg.linear_dice_ce_loss(FEATURES, convolution, BIAS, IDS) == want

    def half(features, kernel):
        return jaxseg.linear_dice_ce_loss(features, kernel, BIAS, IDS)

    features = jnp.asarray(FEATURES, jnp.bfloat16)
    value, gradients = jax.value_and_grad(half, (0, 1))(features, convolution)
    assert value.dtype == jnp.float32
    assert [(g.dtype, g.shape) for g in gradients] == [
        (jnp.bfloat16, FEATURES.shape),
        (jnp.float32, convolution.shape),
    ]
    exact = jaxseg.linear_dice_ce_loss(features.astype(jnp.float32), KERNEL, BIAS, IDS)
    np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_masked_features_may_hold_nan():
    def loss(features, kernel, bias):
        return jaxseg.linear_dice_ce_loss(features, kernel, bias, IDS, where=WHERE)

    step = jax.value_and_grad(loss, (0, 1, 2))
    masked = jnp.where(WHERE[..., None], FEATURES, jnp.nan)
    jax.tree.map(
        np.testing.assert_array_equal, step(masked, KERNEL, BIAS), step(FEATURES, KERNEL, BIAS)
    )


@pytest.mark.parametrize(
    ("features", "kernel", "bias", "error", "message"),
    [
        (FEATURES, KERNEL.T, BIAS, ValueError, r"kernel must have shape \(4, C\)"),
        (FEATURES, KERNEL[0], BIAS, ValueError, r"kernel must have shape \(4, C\)"),
        (FEATURES, np.stack([KERNEL, KERNEL]), BIAS, ValueError, "kernel must have shape"),
        (FEATURES, KERNEL, BIAS[:2], ValueError, r"bias must have shape \(3,\)"),
        (FEATURES, KERNEL.astype(int), BIAS, TypeError, "kernel must be floating point"),
        (FEATURES, KERNEL, BIAS.astype(int), TypeError, "bias must be floating point"),
        (FEATURES.astype(int), KERNEL, BIAS, TypeError, "features must be floating point"),
        (FEATURES, KERNEL[:, :1], None, ValueError, "softmax over one class"),
    ],
)
def test_a_linear_layer_must_fit(features, kernel, bias, error, message):
    with pytest.raises(error, match=message):
        jax.jit(jaxseg.linear_dice_ce_loss)(features, kernel, bias, IDS)


# ---------------------------------------------------------------------------------- the others

OTHERS = [
    "dice_focal_loss",
    "dice_top_k_loss",
    "exponential_logarithmic_loss",
    "unified_focal_loss",
]
OTHER_CASES = [
    case("dice_focal_loss", "plane-5-outside", alpha=[0.1, 0.2, 1.0, 0.5, 0.3]),
    case("dice_focal_loss", "volume-1", alpha=[0.75, 0.25], dice_weight=0.5, per_image=True),
    case("dice_focal_loss", "volume-3-where", class_weights=[0.0, 1.0, 3.0], smooth=0.2),
    case("dice_top_k_loss", "plane-2", class_weights=[1.0, 3.0], per_image=True),
    case("dice_top_k_loss", "plane-1-where", dice_weight=0.5),
    case("dice_top_k_loss", "plane-5-outside", fraction=0.97),
    case("exponential_logarithmic_loss", "plane-5-outside", dice_gamma=1.5, ce_gamma=2.0),
    case("exponential_logarithmic_loss", "volume-1", ce_class_weights=[0.5, 2.0]),
    case("exponential_logarithmic_loss", "volume-3-where", ce_weight=1.0, dice_weight=0.3),
    case("unified_focal_loss", "plane-5-outside", weight=0.3, per_image=True),
    case("unified_focal_loss", "volume-1", asymmetric=False, smooth=0.1),
    case("unified_focal_loss", "volume-3-where", delta=0.9, gamma=0.2),
]


@pytest.mark.slow  # beyond the table of cases.py
@pytest.mark.parametrize("case", OTHER_CASES, ids=repr)
def test_other_losses_are_those_of_the_plain_formulas(case):
    losses.assert_as_plain_formula(case)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("classes", [1, 2])
def test_false_positives_on_an_empty_target_are_punished(name, classes):
    values = false_positives(getattr(jaxseg, name), classes)
    assert values == sorted(values)
    assert values[1] > values[0] + 0.01


@pytest.mark.parametrize("name", OTHERS)
def test_right_and_confident_logits_have_no_loss_and_wrong_ones_a_finite_one(name):
    loss = jax_loss(name, IDS)
    right, gradient = value_and_gradient(loss, np.where(ONE_HOT, 1e4, -1e4).astype(np.float32))
    np.testing.assert_allclose(right, 0, atol=1e-5)
    assert np.isfinite(gradient).all()
    wrong, gradient = value_and_gradient(loss, np.where(ONE_HOT, -1e4, 1e4).astype(np.float32))
    assert np.isfinite(wrong) and wrong > 1
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_dice_focal_and_top_k_are_the_sums_of_their_terms():
    dice = jaxseg.dice_loss(LOGITS, IDS, where=WHERE).mean()
    focal = jaxseg.softmax_focal_loss(LOGITS, IDS, gamma=1.5)[WHERE].mean()
    got = jaxseg.dice_focal_loss(LOGITS, IDS, gamma=1.5, where=WHERE)
    np.testing.assert_allclose(got, dice + focal, rtol=1e-6)
    hardest = jaxseg.top_k_loss(LOGITS, IDS, fraction=0.3, where=WHERE)
    got = jaxseg.dice_top_k_loss(LOGITS, IDS, fraction=0.3, ce_weight=0.5, where=WHERE)
    np.testing.assert_allclose(got, dice + hardest / 2, rtol=1e-6)


def test_dice_top_k_of_all_pixels_is_dice_ce():
    got = jaxseg.dice_top_k_loss(LOGITS, IDS, fraction=1.0)
    np.testing.assert_allclose(got, jaxseg.dice_ce_loss(LOGITS, IDS), rtol=1e-6)


def test_exponential_logarithmic_of_gamma_one_is_log_dice_and_cross_entropy():
    weights = {"dice_weight": 1.0, "ce_weight": 1.0, "dice_gamma": 1.0, "ce_gamma": 1.0}
    got = jaxseg.exponential_logarithmic_loss(LOGITS, IDS, **weights)
    ce = jaxseg.cross_entropy_loss(LOGITS, IDS).mean()
    np.testing.assert_allclose(got, ce + jaxseg.log_dice_loss(LOGITS, IDS).mean(), rtol=1e-6)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_unified_focal_of_one_class_is_that_of_the_class_and_its_background(asymmetric):
    logits, masks = LOGITS[..., :1], IDS == 1
    pair = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    got = jaxseg.unified_focal_loss(logits, masks, asymmetric=asymmetric)
    expected = jaxseg.unified_focal_loss(pair, masks.astype(int), asymmetric=asymmetric)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# ---------------------------------------------------------------------------------- resolutions


def pyramid(shapes, classes=3):
    return [losses.logits(n, shape, classes) for n, shape in enumerate(shapes)]


PLANES = [(2, 9, 12), (2, 3, 6), (2, 2, 3)]
VOLUMES = [(1, 8, 6, 4), (1, 4, 3, 2)]


@pytest.mark.parametrize("weights", [None, [3.0, 0.0, 1.0]])
@pytest.mark.parametrize("kind", ["ids", "dense", "where"])
def test_deep_supervision_is_that_of_the_plain_formula(kind, weights):
    outputs, labels = pyramid(PLANES), losses.ids(5, PLANES[0], 3)
    options = {"where": rng(6).random(PLANES[0]) < 0.8} if kind == "where" else {}
    labels = reference.one_hot(labels, 3) if kind == "dense" else labels
    loss = jaxseg.deep_supervision(jaxseg.dice_ce_loss, weights)
    got = jax.jit(loss)(outputs, labels, **options)
    plain = reference.deep_supervision(reference.dice_ce_loss, weights)
    expected = plain([x.astype(np.float64) for x in outputs], labels, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def mean_dice_loss(*args, **options):
    return jaxseg.dice_loss(*args, **options).mean()


def test_deep_supervision_of_volumes_passes_arguments_on():
    outputs, labels = pyramid(VOLUMES), losses.ids(5, VOLUMES[0], 3)
    loss = jaxseg.deep_supervision(mean_dice_loss)
    got = loss(outputs, labels, axis=(1, 2, 3), smooth=0.5)
    plain = reference.deep_supervision(reference.dice_loss)
    expected = plain([x.astype(np.float64) for x in outputs], labels, axis=(1, 2, 3), smooth=0.5)
    assert got.shape == ()
    np.testing.assert_allclose(got, expected.mean(), rtol=1e-5)


def test_deep_supervision_of_one_output_is_the_loss():
    got = jaxseg.deep_supervision(jaxseg.dice_ce_loss)([LOGITS], IDS)
    np.testing.assert_allclose(got, jaxseg.dice_ce_loss(LOGITS, IDS), rtol=1e-6)


def test_deep_supervision_weighs_an_output_half_as_much_as_the_finer_one():
    loss = jaxseg.deep_supervision(lambda x, labels, where=None: x.mean())
    outputs = [jnp.full((*shape, 3), float(n)) for n, shape in enumerate(PLANES)]
    got = loss(outputs, jnp.zeros(PLANES[0], jnp.int32))
    np.testing.assert_allclose(got, (1 / 2 + 2 / 4) / (1 + 1 / 2 + 1 / 4), rtol=1e-6)


@pytest.mark.parametrize("kind", ["ids", "dense", "where"])
def test_deep_supervision_takes_a_label_map_for_each_output(kind):
    """As nnU-Net's loader makes them; those that it would resize itself give the same."""
    outputs, labels = pyramid(PLANES), losses.ids(5, PLANES[0], 3)
    where = rng(6).random(PLANES[0]) < 0.8 if kind == "where" else None
    labels = reference.one_hot(labels, 3) if kind == "dense" else labels
    own = [reference.nearest(labels, shape) for shape in PLANES]
    masks = None if where is None else [reference.nearest(where, shape) for shape in PLANES]
    loss = jax.jit(jaxseg.deep_supervision(jaxseg.dice_ce_loss))
    expected = loss(outputs, labels, where=where)
    np.testing.assert_allclose(loss(outputs, own, where=masks), expected, rtol=1e-6)
    np.testing.assert_allclose(loss(outputs, tuple(own), where=where), expected, rtol=1e-6)
    own[1] = np.roll(own[1], 1, axis=1)
    assert abs(loss(outputs, own, where=masks) - expected) > 1e-3


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("weights", [None, [3, 1], np.array([3.0, 1.0], np.float32)])
def test_deep_supervision_keeps_the_dtype_of_the_loss(dtype, weights):
    with jax.enable_x64(True):
        outputs = [x.astype(dtype) for x in pyramid(PLANES[:2])]
        labels = losses.ids(5, PLANES[0], 3)
        got = jaxseg.deep_supervision(jaxseg.dice_ce_loss, weights)(outputs, labels)
        assert got.dtype == jaxseg.dice_ce_loss(outputs[0], labels).dtype


@pytest.mark.parametrize("form", [jnp.asarray, list], ids=["array", "list"])
def test_deep_supervision_takes_traced_weights(form):
    outputs, labels = pyramid(PLANES), losses.ids(5, PLANES[0], 3)

    def loss(weights):
        return jaxseg.deep_supervision(jaxseg.dice_ce_loss, form(weights))(outputs, labels)

    weights = jnp.array([3.0, 0.0, 1.0])
    expected = jaxseg.deep_supervision(jaxseg.dice_ce_loss, [3, 0, 1])(outputs, labels)
    np.testing.assert_allclose(loss(weights), expected, rtol=1e-6)
    value, gradient = jax.jit(jax.value_and_grad(loss))(weights)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all() and gradient.any()


@pytest.mark.parametrize(
    "loss", [jaxseg.cross_entropy_loss, jaxseg.dice_loss], ids=["of pixels", "of classes"]
)
def test_the_loss_of_an_output_has_to_be_a_scalar(loss):
    """A map of 1x1 would broadcast against the others."""
    outputs, labels = pyramid([(1, 4, 4), (1, 1, 1)]), losses.ids(5, (1, 4, 4), 3)
    with pytest.raises(ValueError, match=r"loss has to be a scalar.*\.mean\(\)"):
        jaxseg.deep_supervision(loss)(outputs, labels)
    with pytest.raises(ValueError, match="loss has to be a scalar"):
        jax.jit(jaxseg.deep_supervision(loss))(outputs, labels)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0, np.nan], ValueError, "finite, 0 or more"),
        ([np.inf, 1.0], ValueError, "finite, 0 or more"),
        (np.array([1.0, -1.0]), ValueError, "finite, 0 or more"),
        ([0, 0], ValueError, "not all 0"),
        (2.0, ValueError, r"one number per output, got shape \(\)"),
        (["a", "b"], TypeError, "real numbers"),
        ([True, False], TypeError, "real numbers, got bool"),
    ],
)
def test_weights_of_outputs_are_checked(weights, error, message):
    with pytest.raises(error, match=message):
        jaxseg.deep_supervision(jaxseg.dice_ce_loss, weights)


def test_deep_supervision_names_what_does_not_fit():
    outputs, labels = pyramid(PLANES), losses.ids(5, PLANES[0], 3)
    loss = jaxseg.deep_supervision(jaxseg.dice_ce_loss)
    for where in (np.ones(PLANES[0][1:], bool), np.ones(PLANES[1], bool)):
        with pytest.raises(ValueError, match=r"where must have the label map's shape \(2, 9, 12\)"):
            loss(outputs, labels, where=where)
    with pytest.raises(ValueError, match=r"^where of shape \(3, 9, 12\) cannot be resized"):
        loss(outputs, [labels] * 3, where=np.ones((3, 9, 12), bool))
    with pytest.raises(ValueError, match=r"^labels of shape \(9, 12\) cannot be resized"):
        loss(outputs, labels[0])
    with pytest.raises(ValueError, match="A list of labels needs one per output: 3 outputs, 2"):
        loss(outputs, [labels, labels])
    with pytest.raises(ValueError, match="A list of where needs one per output: 3 outputs, 1"):
        loss(outputs, labels, where=[labels < 2])
    with pytest.raises(TypeError, match="where must be bool"):
        loss(outputs, labels, where=labels)


def test_labels_are_those_under_the_centre_of_each_coarser_pixel():
    labels = np.arange(9 * 6).reshape(1, 9, 6)
    seen = []

    def loss(x, labels, where=None):
        seen.append(np.asarray(labels))
        return x.mean()

    jaxseg.deep_supervision(loss)([np.zeros((1, 3, 2, 1), np.float32)], labels)
    np.testing.assert_array_equal(seen[0], labels[:, 1::3, 1::3])
    # torch.nn.functional.interpolate(mode="nearest-exact"), PyTorch 2.13.0; "nearest" differs.
    for size, new, exact in (
        (9, 4, [1, 3, 5, 7]),
        (7, 3, [1, 3, 5]),
        (12, 5, [1, 3, 6, 8, 10]),
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),
    ):
        outputs = [np.zeros((1, new, 1), np.float32)]
        jaxseg.deep_supervision(loss)(outputs, np.arange(size)[None])
        assert seen[-1].tolist() == [exact]
