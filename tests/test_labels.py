"""Predicted labels at the edges, and the check of labels: what it refuses, and what passes."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxseg


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


sigmoid_masks = functools.partial(jaxseg.predict_labels, activation="sigmoid")


# -------------------------------------------------------------------------------- predict_labels


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_predicted_ids_are_the_argmax(dtype):
    logits = jnp.asarray(rng(1).standard_normal((2, 5, 4)), dtype)
    ids = jaxseg.predict_labels(logits)
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, np.argmax(np.asarray(logits, np.float64), -1))


def test_equal_logits_predict_the_lowest_class():
    assert jaxseg.predict_labels(jnp.array([[0.0, 0.0, 0.0], [-1.0, 2.0, 2.0]])).tolist() == [0, 1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_pixel_with_a_nan_logit_is_of_no_class(place):
    logits = np.zeros((2, 3), np.float32)
    logits[1, place] = np.nan
    assert jaxseg.predict_labels(logits).tolist() == [0, -1]


def test_nan_logits_do_not_score_as_perfect_background():
    labels = jnp.zeros((4,), jnp.int32)
    predictions = jaxseg.predict_labels(jnp.full((4, 3), jnp.nan))
    c = jaxseg.counts(predictions, labels, num_classes=3)
    assert jaxseg.dice(c)[0] == 0


def test_infinite_logits_are_ordered():
    assert jaxseg.predict_labels(jnp.array([[-jnp.inf, 0.0], [jnp.inf, 0.0]])).tolist() == [1, 0]


def test_sigmoid_predicts_from_the_threshold_on():
    logits = jnp.array([[0.0], [-0.01], [0.01]])
    masks = jaxseg.predict_labels(logits, activation="sigmoid")
    assert masks.dtype == jnp.bool
    assert masks.tolist() == [[True], [False], [True]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_threshold_of_each_class(dtype):
    logits = jnp.asarray([[0.0, 0.0, 0.0], [3.0, 3.0, 3.0]], dtype)  # 0.5 and 0.953
    masks = jaxseg.predict_labels(logits, activation="sigmoid", threshold=[0.25, 0.75, 0.99])
    assert masks.tolist() == [[True, False, False], [True, True, False]]


def test_nan_logits_are_in_no_mask():
    masks = jaxseg.predict_labels(jnp.array([[jnp.nan, 1.0]]), activation="sigmoid")
    assert masks.tolist() == [[False, True]]


def test_threshold_may_be_traced():
    def positives(threshold):
        masks = jaxseg.predict_labels(
            jnp.array([[-2.0], [0.0], [2.0]]), activation="sigmoid", threshold=threshold
        )
        return masks.sum()

    assert jax.vmap(positives)(jnp.array([0.0, 0.3, 0.7, 0.95])).tolist() == [3, 2, 1, 0]


BELOW_HALF = np.float32(-1.1920929e-07)  # of p = 0.49999997


@pytest.mark.parametrize("how", ["eager", "jit", "traced"])
def test_a_logit_below_that_of_the_threshold_is_not_predicted(how):
    logits = jnp.array([[BELOW_HALF], [-0.0], [0.0], [-BELOW_HALF]])
    if how == "traced":
        masks = jax.jit(lambda x, t: sigmoid_masks(x, threshold=t))(logits, jnp.float32(0.5))
    else:
        masks = (jax.jit if how == "jit" else lambda f: f)(sigmoid_masks)(logits)
    assert masks.tolist() == [[False], [True], [True], [True]]


@pytest.mark.parametrize("known", [True, False], ids=["number", "array"])
@pytest.mark.parametrize("threshold", [1e-30, 1e-3, 0.25, 0.9, 0.999, 1 - 2**-24])
def test_the_threshold_is_met_where_the_sigmoid_in_float64_meets_it(threshold, known):
    """To the rounding of the threshold's logit in float32, which is also that of an array."""
    odds = np.log(threshold) - np.log1p(-threshold)
    logits = np.float32(odds) * (1 + np.float32([[-3e-6], [3e-6]]))
    given = threshold if known else jnp.float32(threshold)
    expected = sorted([[False], [True]], reverse=bool(odds < 0))
    for function in (sigmoid_masks, jax.jit(sigmoid_masks)):
        assert function(jnp.asarray(logits), threshold=given).tolist() == expected


def test_thresholds_at_the_ends():
    """From 0 on all is predicted but NaN, from 1 on only a logit of inf."""
    logits = jnp.array([[-jnp.inf], [-200.0], [0.0], [200.0], [jnp.inf], [jnp.nan]])
    for known in (int, float, np.float32, jnp.float32):
        assert sigmoid_masks(logits, threshold=known(0))[:, 0].tolist() == [True] * 5 + [False]
        assert sigmoid_masks(logits, threshold=known(1))[:, 0].nonzero()[0].tolist() == [4]


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_thresholds_of_classes_in_any_form(activation):
    x = jnp.array([[0.0, 0.3, 0.8], [0.3, 0.6, 0.9]])
    make = jax.jit(functools.partial(jaxseg.predict_labels, activation=activation))
    each = [0.5, 0.57, 0.7]
    expected = np.asarray(jax.nn.sigmoid(x) if activation else x) >= np.float32(each)
    assert expected.any() and not expected.all()
    for form in (tuple, np.array, np.float32, np.float16, jnp.array, jnp.float16):
        np.testing.assert_array_equal(make(x, threshold=form(each)), expected)
    traced = jax.jit(
        lambda x, t: jaxseg.predict_labels(x, activation=activation, threshold=[t, 0.57, 0.7])
    )
    np.testing.assert_array_equal(traced(x, jnp.float32(0.5)), expected)


def test_float64_logits_are_compared_in_float64():
    with jax.enable_x64(True):
        logits = jnp.array([[-1e-300], [0.0], [1e-300]])
        assert logits.dtype == jnp.float64
        assert sigmoid_masks(logits).tolist() == [[False], [True], [True]]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_masks_of_probabilities(dtype):
    """Half precision is compared in float32: 0.7 of bfloat16 is 0.6992."""
    probs = jnp.asarray([[0.7], [0.5], [0.4999], [0.0], [1.0], [jnp.nan]], dtype)
    for threshold in (0.5, 0.7, 0.0, 1.0):
        masks = jaxseg.predict_labels(probs, activation=None, threshold=threshold)
        assert masks.dtype == jnp.bool
        expected = np.asarray(probs, np.float32) >= np.float32(threshold)
        np.testing.assert_array_equal(masks, expected)
    masks = jaxseg.predict_labels(jnp.full((2, 3), 0.4), activation=None, threshold=[0.3, 0.4, 0.5])
    assert masks.tolist() == [[True, True, False]] * 2


def test_the_mean_of_flips_is_that_of_probabilities():
    """As logits, probabilities are all predicted."""
    logits = 3 * rng().standard_normal((2, 4, 5, 1)).astype(np.float32)
    mean = np.asarray(jax.nn.sigmoid(logits)).mean(0)
    masks = jaxseg.predict_labels(mean, activation=None)
    np.testing.assert_array_equal(masks, mean >= 0.5)
    assert not masks.all() and sigmoid_masks(mean).all()


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize(
    ("threshold", "error", "message"),
    [
        (-0.1, ValueError, r"a probability in \[0, 1\], got -0.1"),
        (np.float32(1.5), ValueError, r"\[0, 1\], got 1.5"),
        ([0.5, 255, 0.5], ValueError, r"\[0, 1\]"),
        (np.nan, ValueError, r"\[0, 1\], got nan"),
        ([0.5, 0.5], ValueError, r"scalar or have shape \(3,\), got \(2,\)"),
        (True, TypeError, "real number, got bool"),
        (0.5j, TypeError, "real number, got complex"),
        ("0.5", TypeError, "real number"),
    ],
)
def test_thresholds_are_checked(activation, threshold, error, message):
    function = functools.partial(jaxseg.predict_labels, activation=activation, threshold=threshold)
    for form in (function, jax.jit(function)):
        with pytest.raises(error, match=message):
            form(jnp.zeros((2, 3)))


# ---------------------------------------------------------------------------------- check_labels

PNG = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)
IDS = rng(1).integers(0, 3, (2, 4, 5)).astype(np.uint8)
VOID = np.where(rng(2).random(IDS.shape) < 0.2, 255, IDS).astype(np.uint8)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (IDS, {"num_classes": 3}),
        (IDS, {"num_classes": np.int64(300)}),
        (IDS.astype(">i4"), {"num_classes": 3}),
        (jnp.asarray(IDS), {"num_classes": 3}),
        (IDS.tolist(), {"num_classes": 3}),
        (VOID, {"num_classes": 3, "where": VOID != 255}),
        (VOID, {"num_classes": 3, "where": np.zeros(VOID.shape, bool)}),
        (PNG > 0, {"num_classes": 1}),
        (PNG.astype(bool).view(np.uint8).view(bool), {"num_classes": 1}),
        (PNG.view(bool), {"num_classes": 1}),  # with bytes of 255, as a 1-bit PNG is read
        ((PNG > 0)[..., None].astype(int), {"num_classes": 1, "where": PNG > 0}),
        (IDS[..., None] == np.arange(3), {"num_classes": 3, "where": IDS < 3}),
        (np.float32([[0, 1], [0.5, 0.5]]), {"num_classes": 2}),
        (np.float32([[1 + 2e-7]]), {"num_classes": 1}),  # the rounding of a resize
        (np.float32([[np.nan], [1.0]]), {"num_classes": 1, "where": np.array([False, True])}),
        (np.array([[1.0], [0.5]], ml_dtypes.bfloat16), {"num_classes": 1}),
    ],
)
def test_right_labels_pass(labels, options):
    assert jaxseg.check_labels(labels, **options) is None


CITYSCAPES = rng(3).integers(0, 34, (8, 64)).astype(np.uint8)
WRONG = [  # labels, options, what the message has
    (PNG, {"num_classes": 1}, r"0 or 1, but hold 255 \(3 of 6 pixels\). For a mask: labels > 0.$"),
    (PNG, {"num_classes": 2}, r"\). For a mask: labels > 0. .*where=labels != 255"),
    (PNG[..., None], {"num_classes": 1, "where": PNG < 256}, "labels > 0"),
    (jnp.asarray(PNG), {"num_classes": 1}, "labels > 0"),
    (VOID, {"num_classes": 3}, rf"0 to 2 .* 255 \({(VOID == 255).sum()} of 40 pixels\).* != 255"),
    (np.array([0, 1, -1]), {"num_classes": 2}, r"-1 \(1 of 3 pixels\).*where=labels != -1"),
    (np.array([0, 1, 255]), {"num_classes": 1}, r"255 \(1 of 3 pixels\).*where=labels != 255"),
    (np.array([0, 2**32]), {"num_classes": 5}, r"4294967296 \(1 of 2 pixels\)"),
    (np.array([0, 2**63], np.uint64), {"num_classes": 5}, r"9223372036854775808 \(1 of 2"),
    (IDS + np.uint8(1), {"num_classes": 3}, r"hold 3 .*count from 1: labels - 1"),
    (CITYSCAPES, {"num_classes": 19}, r"other values, in \d+ of .*Cityscapes.*table\[labels\]"),
    (IDS, {"num_classes": 2}, r"hold 2 \(\d+ of 40 pixels\)"),
    (np.arange(256, dtype=np.uint8), {"num_classes": 1}, "gray edges: labels >= 128"),
    (np.array([-5, 0, 3, 7]), {"num_classes": 3}, r"-5 \(1\), 3 \(1\), 7 \(1\), in 3 of 4.*table"),
    (np.float32(PNG[..., None]), {"num_classes": 1}, r"255 \(3 of 6 .*For masks: labels > 0"),
    (np.float32([[0.5], [255]]), {"num_classes": 1}, r"where=\(labels != 255\).all\(-1\)"),
    (np.float32([[127.0], [255]]), {"num_classes": 1}, r"labels / 255"),
    (np.float32([[-0.5, 1.5]]), {"num_classes": 2}, r"-0.5 \(1\), 1.5 \(1\), in 2 of 2 values"),
    (np.float32([[np.nan], [1.0]]), {"num_classes": 1}, r"nan \(1 of 2 .*~np.isnan\(labels\)"),
    (np.float16([[np.inf], [1.0]]), {"num_classes": 1}, r"inf \(1 of 2 values\)"),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "options", "message"), WRONG)
def test_values_that_are_no_class_are_named(labels, options, message):
    with pytest.raises(ValueError, match=message):
        jaxseg.check_labels(labels, **options)


@pytest.mark.parametrize(
    ("labels", "mend", "options"),
    [
        (PNG, lambda x: {"labels": x > 0}, {"num_classes": 1}),
        (VOID, lambda x: {"where": x != 255}, {"num_classes": 3}),
        (IDS + np.uint8(1), lambda x: {"labels": x - 1}, {"num_classes": 3}),
        (CITYSCAPES, lambda x: {"labels": (np.arange(34) % 19)[x]}, {"num_classes": 19}),
        (np.float32([[0.5], [255]]), lambda x: {"where": (x != 255).all(-1)}, {"num_classes": 1}),
        (np.float32([[127], [255]]), lambda x: {"labels": x / 255}, {"num_classes": 1}),
        (
            np.float32([[np.nan], [1]]),
            lambda x: {"where": ~np.isnan(x).any(-1)},
            {"num_classes": 1},
        ),
    ],
)
def test_the_mends_mend(labels, mend, options):
    with pytest.raises(ValueError, match=r"For|count"):
        jaxseg.check_labels(labels, **options)
    jaxseg.check_labels(**{"labels": labels, **options, **mend(labels)})


def test_the_ids_that_it_refuses_are_those_that_count_nowhere():
    """The rule is that of the counts: a refused id is in no class's tp or fn."""
    for num_classes in (1, 2, 5):
        for value in (-1, 0, 1, 2, 4, 5, 255):
            c = jaxseg.counts(np.array([0]), np.array([value]), num_classes=num_classes)
            known = (c.tp + c.fn).any() or (num_classes == 1 and value == 0)
            try:
                jaxseg.check_labels(np.array([value]), num_classes=num_classes)
            except ValueError:
                assert not known
            else:
                assert known


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_probabilities_are_not_logits(dtype):
    logits = 2 * rng(4).standard_normal((2, 16, 16, 3)).astype(np.float32)
    labels = rng(5).integers(0, 3, logits.shape[:-1])
    softmax = np.asarray(jax.nn.softmax(logits)).astype(dtype)
    with pytest.raises(ValueError, match=r"sum to 1 .* activation=None"):
        jaxseg.check_labels(labels, num_classes=3, predictions=softmax)
    with pytest.raises(ValueError, match=r"all in \[0, 1\], from .* activation=None"):
        jaxseg.check_labels(
            labels, num_classes=3, predictions=np.asarray(jax.nn.sigmoid(logits)).astype(dtype)
        )
    with pytest.raises(ValueError, match="sum to 1"):
        jaxseg.check_labels(labels, num_classes=3, predictions=np.eye(3, dtype=dtype)[labels])
    mask_logits = logits[..., :1]
    with pytest.raises(ValueError, match=r"all in \[0, 1\], from .* activation=None"):
        jaxseg.check_labels(
            labels == 1, num_classes=1, predictions=jax.nn.sigmoid(mask_logits).astype(dtype)
        )
    jaxseg.check_labels(labels, num_classes=3, predictions=logits.astype(dtype))
    jaxseg.check_labels(labels == 1, num_classes=1, predictions=mask_logits.astype(dtype))


def test_logits_of_an_untrained_network_pass():
    """Zeros of a last layer that starts at zero, and small numbers that happen to be positive."""
    labels = np.zeros((2, 8, 8), int)
    for num_classes in (1, 2, 3):
        shape = (*labels.shape, num_classes)
        small = rng(6).uniform(0.3, 0.6, shape)
        for logits in (np.zeros(shape), np.full(shape, 0.01), small, np.full(shape, np.nan)):
            jaxseg.check_labels(labels, num_classes=num_classes, predictions=logits)


def test_only_valid_pixels_of_predictions_are_read():
    labels, where = np.zeros((4, 8), int), np.arange(8) < 4
    where = np.broadcast_to(where, labels.shape)
    logits = rng(7).standard_normal((4, 8, 2))
    probs = np.asarray(jax.nn.softmax(logits))
    mixed = np.where(where[..., None], probs, logits)
    with pytest.raises(ValueError, match="sum to 1"):
        jaxseg.check_labels(labels, num_classes=2, where=where, predictions=mixed)
    jaxseg.check_labels(labels, num_classes=2, predictions=mixed)
    jaxseg.check_labels(labels, num_classes=2, where=~where, predictions=mixed)
    nothing = np.zeros(labels.shape, bool)
    jaxseg.check_labels(labels, num_classes=2, where=nothing, predictions=probs)


def test_predicted_ids_are_checked_too():
    labels = np.array([0, 1, 2])
    jaxseg.check_labels(labels, num_classes=3, predictions=np.array([0, -1, 2]))  # NaN logits
    jaxseg.check_labels(labels == 1, num_classes=1, predictions=labels == 2)
    jaxseg.check_labels(labels, num_classes=3, predictions=np.eye(3, dtype=bool))
    with pytest.raises(ValueError, match=r"predictions must be 0 or 1, .*: predictions > 0"):
        jaxseg.check_labels(labels == 1, num_classes=1, predictions=np.array([0, 255, 0]))


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (np.float32([0, 1]), {"num_classes": 3}, TypeError, "cast class ids to an integer dtype"),
        (np.float32([0, 1]), {"num_classes": 1}, TypeError, r"labels\[..., None\]"),
        (np.array([1j]), {"num_classes": 1}, TypeError, "bool, integer or floating point"),
        (np.array(["a"]), {"num_classes": 1}, TypeError, "bool, integer or floating point"),
        (IDS, {"num_classes": 0}, ValueError, "at least 1"),
        (IDS, {"num_classes": 3.0}, TypeError, "static integer"),
        (IDS[:0], {"num_classes": 3}, ValueError, "must not be empty"),
        (IDS, {"num_classes": 3, "where": IDS}, TypeError, "where must be bool"),
        (IDS, {"num_classes": 3, "where": IDS[0] == 0}, ValueError, "where must have the label"),
        (IDS, {"num_classes": 3, "predictions": IDS[0]}, ValueError, "predictions must have shape"),
        (
            IDS,
            {"num_classes": 3, "predictions": np.zeros((2, 4, 5, 4), np.float32)},
            ValueError,
            "class axis, last, of num_classes=3",
        ),
        (
            IDS[0],
            {"num_classes": 3, "predictions": np.zeros((2, 4, 5, 3), np.float32)},
            ValueError,
            "labels must be integer or bool ids of shape",
        ),
    ],
)
def test_errors_of_shape_and_type(labels, options, error, message):
    with pytest.raises(error, match=message):
        jaxseg.check_labels(labels, **options)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.where(IDS == 1, np.nan, 1).astype(np.float32), r"but hold nan \("),
        (np.where(IDS == 1, -0.5, 1).astype(np.float32), r"but hold -0.5 \("),
        (np.float32([1, np.inf])[:, None, None], r"but hold inf \(20 of 40 values\)"),
        (np.ones((4, 5), np.float32), r"jnp\.broadcast_to\(weights, \(2, 4, 5\)\)"),
    ],
)
def test_weights_are_finite_and_at_least_zero(weights, message):
    with pytest.raises(ValueError, match=message):
        jaxseg.check_labels(IDS, num_classes=3, weights=weights)
    if weights.shape == IDS.shape:
        jaxseg.check_labels(IDS, num_classes=3, weights=weights, where=IDS != 1)
    with pytest.raises(TypeError, match="weights must be floating"):
        jaxseg.check_labels(IDS, num_classes=3, weights=IDS)


def test_pixels_of_weight_zero_may_hold_anything():
    weights = (VOID != 255).astype(np.float32)
    jaxseg.check_labels(VOID, num_classes=3, weights=weights)
    with pytest.raises(ValueError, match="hold 255"):
        jaxseg.check_labels(VOID, num_classes=3, weights=weights + 1)
    masks = np.float32([[0.0, 7.0], [1.0, 0.5]])
    with pytest.raises(ValueError, match="dense labels must be in"):  # of some weight
        jaxseg.check_labels(masks, num_classes=2, weights=np.float32([[0, 1], [1, 1]]))
    jaxseg.check_labels(masks, num_classes=2, weights=np.float32([[0, 0], [1, 1]]))


@pytest.mark.parametrize("name", ["labels", "where", "weights", "predictions"])
def test_traced_arrays_have_no_values(name):
    weights = np.ones(IDS.shape, np.float32)
    given = {"labels": IDS, "where": IDS < 3, "weights": weights, "predictions": IDS}

    @jax.jit
    def step(x):
        jaxseg.check_labels(**given | {name: x}, num_classes=3)

    with pytest.raises(TypeError, match=f"traced {name} do not have: .* once per data set"):
        step(given[name])


def test_it_takes_no_memory_of_its_own(monkeypatch):
    """Right labels are read in place: values are counted only for an error."""

    def refused(*_, **__):
        raise AssertionError("counted")

    monkeypatch.setattr(np, "unique", refused)
    jaxseg.check_labels(IDS, num_classes=3)
    jaxseg.check_labels(VOID, num_classes=3, where=VOID != 255)
    jaxseg.check_labels(IDS, num_classes=3, weights=np.ones(IDS.shape, np.float32))
    with pytest.raises(AssertionError, match="counted"):
        jaxseg.check_labels(VOID, num_classes=3)
