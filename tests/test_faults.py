"""The smallest input of each fault that users met, with its right value.

The laws of ``test_laws`` cover the kinds; these are the cases themselves.
"""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxseg

# ---------------------------------------------------------------------------------- division


@pytest.mark.parametrize(
    ("counts", "want"),
    [
        ((0.0, 1e-20, 0.0, 1.0), 0.0),
        ((1e20, 1e20, 0.0, 1.0), 2 / 3),
        ((8e37, 8e37, 8e37, 8e37), 0.5),
    ],
)
def test_dice_of_extreme_counts_is_the_same_under_jit(optimized, counts, want):
    counts = jaxseg.Counts(*(jnp.float32(x) for x in counts))
    for function in (jaxseg.dice, jax.jit(jaxseg.dice)):
        np.testing.assert_allclose(function(counts), want, rtol=1e-6)


@pytest.mark.parametrize("margin", [46.0, 50.0, 87.0])
def test_dice_loss_of_large_margins_is_the_same_under_jit(optimized, margin):
    logits, labels = jnp.array([[0.0, -margin], [0.0, -margin]]), jnp.array([0, 0])
    loss = jax.jit(lambda x: jaxseg.dice_loss(x, labels, smooth=0.0))
    assert loss(logits).tolist() == [0.0, 1.0]
    assert jnp.isfinite(jax.jit(jax.grad(lambda x: loss(x).sum()))(logits)).all()


# ---------------------------------------------------------------------------------- bools


def one_bit_png(mask: np.ndarray) -> np.ndarray:
    """The mask as NumPy reads it from a 1-bit PNG: its True is a byte of 255."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(file, "PNG")
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("form", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_a_one_bit_png_is_a_mask(form):
    mask = np.zeros((8, 16), bool)
    mask[2:6, 3:11] = True
    png = form(one_bit_png(mask))
    assert np.asarray(png).view(np.uint8).max() == 255
    logits = np.where(mask, 2.0, -1.0).astype(np.float32)[..., None]
    assert jaxseg.iou(jaxseg.counts(mask, png, num_classes=1)).tolist() == [1.0]
    assert jaxseg.counts(png, png, num_classes=1).tp.tolist() == [32]
    assert jaxseg.counts(png[..., None], png[..., None]).tn.tolist() == [96]
    assert jaxseg.confusion_matrix(mask, png, num_classes=2).tolist() == [[96, 0], [0, 32]]
    for loss in (
        lambda x, y: jaxseg.bce_dice_loss(x, y),
        lambda x, y: jaxseg.dice_loss(x, y, activation="sigmoid"),
        lambda x, y: jaxseg.boundary_loss(x[None, None], y[None, None], activation="sigmoid"),
        lambda x, y: jaxseg.dice_loss(x, y, activation="sigmoid", where=y),
        lambda x, y: jaxseg.cross_entropy_loss(x, y, where=y),
        jaxseg.lovasz_hinge_loss,
    ):
        want = loss(logits, mask)
        np.testing.assert_allclose(loss(logits, png), want, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(loss)(logits, png), want, rtol=1e-6)
    np.testing.assert_array_equal(jaxseg.signed_distance(png), jaxseg.signed_distance(mask))
    with jax.debug_nans(True):
        assert jaxseg.mean(jaxseg.moments(jnp.ones((8, 16)), where=png, axis=None)) == 1.0


# ---------------------------------------------------------------------------------- masked images


def test_a_masked_image_has_no_part_in_a_mean():
    logits, labels = jnp.zeros((2, 1, 1, 2)), jnp.zeros((2, 1, 1), int)
    where = jnp.array([[[True]], [[False]]])
    loss = jaxseg.dice_ce_loss(logits, labels, where=where, axis=(1, 2), ce_weight=0.0)
    alone = jaxseg.dice_ce_loss(logits[:1], labels[:1], axis=(1, 2), ce_weight=0.0)
    np.testing.assert_allclose(loss, alone, rtol=1e-6)
    np.testing.assert_allclose(loss, 0.26666667, rtol=1e-6)


# ---------------------------------------------------------------------------------- logits


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("cross_entropy_loss", 1.3132617),
        ("dice_ce_loss", 1.5614355),
        ("softmax_focal_loss", 0.7018683),
        ("dice_focal_loss", 0.950042),
        ("exponential_logarithmic_loss", 0.6406404),
        ("unified_focal_loss", 0.3466635),
        ("top_k_loss", 1.3132617),
    ],
)
def test_a_logit_of_minus_infinity_is_a_class_switched_off(name, want):
    logits, ids = jnp.array([[[1.0, 2.0, -jnp.inf]]]), jnp.array([[0]])
    run = jax.jit(jax.value_and_grad(lambda x, y: getattr(jaxseg, name)(x, y).sum()))
    for labels in (ids, jax.nn.one_hot(ids, 3) > 0, jax.nn.one_hot(ids, 3)):
        loss, gradient = run(logits, labels)
        np.testing.assert_allclose(loss, want, rtol=1e-5)
        assert jnp.isfinite(gradient).all()


def test_a_bias_of_minus_infinity_is_a_class_switched_off():
    features, labels = jnp.array([[1.0, 2.0], [0.5, 0.0]]), jnp.array([0, 1])
    kernel = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])

    def loss(kernel, labels, off):
        bias = jnp.array([0.1, 0.0, off])
        return jaxseg.linear_dice_ce_loss(features, kernel, bias, labels)

    for truth in (labels, jax.nn.one_hot(labels, 3)):
        got = jax.value_and_grad(loss)(kernel, truth, -jnp.inf)
        want = jax.value_and_grad(loss)(kernel, truth, -200.0)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, want)


def test_one_confident_logit_keeps_its_digits():
    logits, labels = jnp.array([[20.0]]), jnp.array([1])
    for loss, want in (
        (jaxseg.cross_entropy_loss, 2.0611536e-9),
        (lambda x, y: jaxseg.softmax_focal_loss(x, y, gamma=0.0), 2.0611536e-9),
        (lambda x, y: jaxseg.dice_focal_loss(x, y, gamma=0.0, dice_weight=0.0), 2.0611536e-9),
    ):
        value, gradient = jax.value_and_grad(lambda x, loss=loss: loss(x, labels).sum())(logits)
        np.testing.assert_allclose(value, want, rtol=1e-6)
        np.testing.assert_allclose(gradient, [[-want]], rtol=1e-6)


def test_float_labels_are_not_rounded_to_half_precision():
    logits = jnp.array([[5.0], [5.0], [-5.0]])
    labels = jnp.array([[0.4995], [0.9], [0.1]])
    losses = [
        jaxseg.lovasz_hinge_loss,
        lambda x, y: jaxseg.boundary_loss(x[None, None], y[None, None], activation="sigmoid"),
        lambda x, y: jaxseg.hausdorff_dt_loss(x[None, None], y[None, None], activation="sigmoid"),
        lambda x, y: jaxseg.hausdorff_erosion_loss(
            x[None, None], y[None, None], activation="sigmoid"
        ),
        lambda x, y: jaxseg.cldice_loss(x[None, None], y[None, None], activation="sigmoid"),
        jaxseg.bce_dice_loss,
    ]
    for loss in losses:
        want = loss(logits, labels)
        np.testing.assert_allclose(loss(logits.astype(jnp.bfloat16), labels), want, rtol=1e-6)
    np.testing.assert_allclose(losses[0](logits.astype(jnp.bfloat16), labels), [3.0])


# ---------------------------------------------------------------------------------- minima


@pytest.mark.parametrize("name", ["dice_loss", "iou_loss", "tversky_loss", "focal_tversky_loss"])
def test_minima_have_no_gradient_at_their_minimum(name):
    options = {"alpha": 0.3, "beta": 0.7} if "tversky" in name else {}

    def slope(p, g, **forms):
        loss = getattr(jaxseg, name)
        return jax.grad(lambda p: loss(p, g, activation=None, **options, **forms).sum())(p)

    soft = jnp.array([[0.3], [0.6]])
    np.testing.assert_allclose(slope(soft, soft, overlap="minimum"), 0.0, atol=1e-7)
    hard = jnp.array([[0.0], [1.0]])
    np.testing.assert_allclose(slope(hard, hard, overlap="minimum"), slope(hard, hard), rtol=1e-6)


def test_an_undefined_correlation_is_chance():
    def loss(x, y):
        return jaxseg.matthews_correlation_loss(x, y, activation=None, smooth=0.0)[0]

    nothing, everything = jnp.zeros(2, int), jnp.ones(2, int)
    some = jnp.array([[0.3], [0.8]])
    assert loss(some, nothing) == loss(some, everything) == 1.0
    assert loss(jnp.zeros((2, 1)), nothing) == loss(jnp.ones((2, 1)), everything) == 0.0
    assert loss(jnp.ones((2, 1)), nothing) == loss(jnp.zeros((2, 1)), everything) == 1.0


# ---------------------------------------------------------------------------------- strict modes


def test_hardest_pixels_without_jit():
    logits, labels = jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 2, 2), int)
    with jax.disable_jit():
        for loss in (jaxseg.top_k_loss, jaxseg.ohem_loss):
            np.testing.assert_allclose(loss(logits, labels), np.log(2), rtol=1e-6)
        assert jnp.isfinite(jaxseg.dice_top_k_loss(logits, labels))


def test_nan_free_scores_pass_debug_nans():
    counts = jaxseg.Counts(*jnp.ones((4, 2), jnp.int32))
    logits, labels = jnp.zeros((4, 2)), jnp.zeros(4, int)
    with jax.debug_nans(True):
        assert jaxseg.dice(counts).tolist() == [0.5, 0.5]
        gradient = jax.grad(
            lambda x: jaxseg.generalized_dice_loss(x, labels, smooth=0.0, where=labels == 1)
        )(logits)
        assert not gradient.any()
        with pytest.raises(FloatingPointError):  # a NaN of its own is still found
            jaxseg.dice(jaxseg.Counts(*jnp.zeros((4, 2), jnp.int32)))


# ---------------------------------------------------------------------------------- arguments

LOGITS, IDS = jnp.zeros((1, 2, 3, 3)), jnp.zeros((1, 2, 3), int)


@pytest.mark.parametrize(
    ("call", "error", "rule"),
    [
        (lambda: jaxseg.softmax_focal_loss(LOGITS, IDS, gamma=jnp.ones(3)), ValueError, "gamma"),
        (lambda: jaxseg.dice_focal_loss(LOGITS, IDS, gamma=jnp.ones(3)), ValueError, "gamma"),
        (
            lambda: jaxseg.cross_entropy_loss(LOGITS, IDS, label_smoothing=jnp.ones(3) / 9),
            ValueError,
            "label_smoothing must be one number",
        ),
        (
            lambda: jaxseg.dice_ce_loss(LOGITS, IDS, label_smoothing=1.5),
            ValueError,
            r"label_smoothing must be in \[0, 1\], got 1.5",
        ),
        (
            lambda: jaxseg.dice_ce_loss(LOGITS, IDS, dice_weight=jnp.ones(3)),
            ValueError,
            "dice_weight must be one number",
        ),
        (lambda: jaxseg.dice_ce_loss(LOGITS, IDS, ce_weight=None), TypeError, "ce_weight"),
        (lambda: jaxseg.nacl_loss(LOGITS, IDS, weight=[0.1, 0.2]), TypeError, "weight"),
        (
            lambda: jaxseg.top_k_loss(LOGITS, IDS, fraction=np.float32(1.5)),
            ValueError,
            r"fraction must be in \(0, 1\], got 1.5",
        ),
        (lambda: jaxseg.ohem_loss(LOGITS, IDS, min_kept=np.int64(0)), ValueError, "at least 1"),
        (lambda: jaxseg.ohem_loss(LOGITS, IDS, min_kept=2.0), TypeError, "static integer"),
        (lambda: jaxseg.dice_loss(LOGITS, IDS, axis=True), TypeError, "axis must be None"),
        (
            lambda: jaxseg.dice_ce_loss(LOGITS, IDS, class_weights=[np.inf, 1, 1]),
            ValueError,
            "class_weights must be finite",
        ),
        (
            lambda: jaxseg.cross_entropy_loss(LOGITS, IDS, class_weights=np.array([1, -1, 1.0])),
            ValueError,
            "class_weights must be finite and 0 or more",
        ),
        (lambda: jaxseg.counts(IDS, IDS, num_classes=2**31), ValueError, "num_classes"),
        (
            lambda: jaxseg.confusion_matrix(IDS, IDS, num_classes=65535),
            ValueError,
            "at most 46,339 classes; got 65535",
        ),
    ],
)
def test_bad_arguments_are_refused(call, error, rule):
    with pytest.raises(error, match=rule):
        call()
    with pytest.raises(error, match=rule):
        jax.jit(call)()


def test_numbers_of_numpy_and_traced_ones_are_numbers():
    want = jaxseg.dice_focal_loss(LOGITS, IDS, gamma=1.5, dice_weight=0.5)
    for number in (np.float32, np.float64, np.asarray, jnp.float32):
        got = jaxseg.dice_focal_loss(LOGITS, IDS, gamma=number(1.5), dice_weight=number(0.5))
        np.testing.assert_allclose(got, want, rtol=1e-6)
    held = jnp.float32(0.1)  # an array that a jitted function holds is not traced, nor a number
    for share in (np.float32(0.1), held):
        got = jax.jit(lambda x, s=share: jaxseg.dice_ce_loss(x, IDS, label_smoothing=s))(LOGITS)
        want_smooth = jaxseg.dice_ce_loss(LOGITS, IDS, label_smoothing=0.1)
        np.testing.assert_allclose(got, want_smooth, rtol=1e-6)
    weights = jax.jit(lambda w: jaxseg.dice_ce_loss(LOGITS, IDS, class_weights=[w, 1.0, 1.0]))
    np.testing.assert_allclose(weights(1.0), jaxseg.dice_ce_loss(LOGITS, IDS), rtol=1e-6)
    run = jax.jit(lambda a, b: jaxseg.dice_focal_loss(LOGITS, IDS, gamma=a, dice_weight=b))
    np.testing.assert_allclose(run(1.5, 0.5), want, rtol=1e-6)


def test_ids_beyond_int32_are_of_no_class():
    for predictions in ([2**32, 0], np.array([2**32, 0]), np.array([2**32, 0], np.uint64)):
        assert jaxseg.counts(predictions, [0, 0], num_classes=2).tp.tolist() == [1, 0]
    assert jaxseg.counts(np.int64(2**32), np.int64(0), num_classes=2).tp.tolist() == [0, 0]


def test_min_kept_may_be_any_number():
    want = jaxseg.cross_entropy_loss(LOGITS, IDS).mean()
    np.testing.assert_allclose(jaxseg.ohem_loss(LOGITS, IDS, min_kept=2**40), want, rtol=1e-6)


def test_big_endian_arrays_are_turned():
    logits = np.arange(6, dtype=">f4").reshape(3, 2)
    labels = np.array([0, 1, 1], ">i2")
    want = jaxseg.dice_ce_loss(logits.astype(np.float32), labels.astype(np.int16))
    np.testing.assert_allclose(jaxseg.dice_ce_loss(logits, labels), want, rtol=1e-6)
    assert jaxseg.counts(labels, labels, num_classes=2).tp.tolist() == [1, 2]
    assert jaxseg.confusion_matrix(labels, labels, num_classes=2).tolist() == [[1, 0], [0, 2]]
    weights = np.array([1, 3], ">f8")
    loss = jaxseg.cross_entropy_loss(logits, labels, class_weights=weights)
    assert jnp.isfinite(loss).all()
    matrix = np.array([[1, 0], [0, 2]], ">i8")
    assert jaxseg.counts_from_confusion(matrix).tp.tolist() == [1, 2]
    assert jaxseg.mean_iou(matrix) == 1.0
    assert jaxseg.moments(np.array([0.5, 1.0], ">f4")).total == 1.5
    assert jaxseg.predict_labels(logits).tolist() == [1, 1, 1]
