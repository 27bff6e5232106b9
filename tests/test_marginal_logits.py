"""Losses of labels that stand for sets of classes, against sums of probabilities in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jaxseg

SHAPE = (2, 5, 7)
CLASSES = 4
RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.standard_normal((*SHAPE, CLASSES))).astype(np.float32)
GROUPS = np.array([[0, 1, 0, 0], [0, 0, 1, 2]])  # the set of each class, in each image
SETS = GROUPS[:, None] == np.arange(3)[:, None]  # [B, K, C]; the first image has an empty set
LABELS = np.stack([RNG.integers(0, k, SHAPE[1:]) for k in (2, 3)])
WHERE = RNG.random(SHAPE) < 0.8


def merged_probs(sets=SETS) -> np.ndarray:
    """Probabilities of the sets, in float64."""
    return np.einsum("bhwc,bkc->bhwk", reference.softmax(LOGITS), sets.astype(float))


def of_images(logits, sets=SETS):
    return jaxseg.marginal_logits(logits, sets=sets[:, None, None])


def test_probabilities_are_summed():
    for image in range(2):
        merged = jaxseg.marginal_logits(LOGITS[image], sets=SETS[image])
        np.testing.assert_allclose(jax.nn.softmax(merged), merged_probs()[image], rtol=2e-5)
    np.testing.assert_allclose(jax.nn.softmax(of_images(LOGITS)), merged_probs(), rtol=2e-5)


def test_the_cross_entropy_is_that_of_the_summed_probability():
    expected = -np.log(np.take_along_axis(merged_probs(), LABELS[..., None], -1)[..., 0])
    loss = jaxseg.cross_entropy_loss(of_images(LOGITS), LABELS, where=WHERE)
    np.testing.assert_allclose(loss, np.where(WHERE, expected, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["dice_loss", "dice_ce_loss", "lovasz_softmax_loss"])
def test_a_loss_of_merged_classes(name):
    """Of the set that is never empty: a class that is always so has its own rule."""
    sets = SETS[1]
    labels = RNG.integers(0, 3, SHAPE)
    merged = jaxseg.marginal_logits(LOGITS, sets=sets)
    plain = np.log(merged_probs(SETS[[1, 1]]))
    expected = getattr(reference, name)(plain, labels, where=WHERE)
    got = getattr(jaxseg, name)(merged, labels, where=WHERE)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_sets_of_one_class_change_nothing():
    merged = jaxseg.marginal_logits(LOGITS, sets=np.eye(CLASSES, dtype=bool))
    np.testing.assert_array_equal(merged, LOGITS)
    one_hot = reference.one_hot(RNG.integers(0, CLASSES, SHAPE), CLASSES)
    allowed_or_not = np.stack([one_hot, ~one_hot], -2)  # of each pixel
    loss = jaxseg.cross_entropy_loss(
        jaxseg.marginal_logits(LOGITS, sets=allowed_or_not), np.zeros(SHAPE, int)
    )
    np.testing.assert_allclose(
        loss, jaxseg.cross_entropy_loss(LOGITS, one_hot), rtol=1e-5, atol=1e-6
    )


def test_labels_that_allow_a_set_of_classes_in_each_pixel():
    allowed = RNG.random((*SHAPE, CLASSES)) < 0.5
    allowed[..., 0] |= ~allowed.any(-1)
    allowed[0, 0] = True  # nothing is known

    def loss(logits):
        merged = jaxseg.marginal_logits(logits, sets=np.stack([allowed, ~allowed], -2))
        return jaxseg.cross_entropy_loss(merged, np.zeros(SHAPE, int))

    probs = reference.softmax(LOGITS)
    expected = -np.log((probs * allowed).sum(-1))
    np.testing.assert_allclose(loss(LOGITS), expected, rtol=1e-4, atol=1e-6)
    slopes = jax.grad(lambda x: loss(x).sum())(jnp.asarray(LOGITS))
    inside = allowed * probs / (probs * allowed).sum(-1, keepdims=True)
    np.testing.assert_allclose(slopes, probs - inside, rtol=1e-4, atol=1e-5)
    assert not slopes[0, 0].any()


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [-np.inf, 1e4, -1e4])
def test_gradients_are_finite(value, dtype):
    logits = LOGITS.copy()
    logits[:, 1:3, :, 1] = value  # alone in its set in the first image
    labels = np.where(np.isfinite(value), LABELS, 0)
    x = jnp.asarray(logits, dtype)
    loss = lambda x: jaxseg.dice_ce_loss(of_images(x), labels)  # noqa: E731
    value, slopes = jax.jit(jax.value_and_grad(loss))(x)
    assert np.isfinite(value)
    assert np.isfinite(slopes.astype(np.float32)).all()
    assert slopes.dtype == dtype


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_masked_pixels_may_hold_anything(garbage):
    dirty = np.where(WHERE[..., None], LOGITS, garbage).astype(np.float32)
    run = jax.value_and_grad(lambda x: jaxseg.dice_ce_loss(of_images(x), LABELS, where=WHERE))
    value, slopes = run(dirty)
    expected, wanted = run(LOGITS)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-5, atol=1e-8)
    assert np.isnan(jaxseg.marginal_logits(np.float32([np.nan, 0, 1, 2]), sets=SETS[1])[0])


def test_two_data_sets_in_one_batch_are_each_by_itself():
    def each(logits, sets, labels):
        return jaxseg.cross_entropy_loss(jaxseg.marginal_logits(logits, sets=sets), labels)

    together = jaxseg.cross_entropy_loss(of_images(LOGITS), LABELS)
    mapped = jax.jit(jax.vmap(each))(LOGITS, SETS, LABELS)
    np.testing.assert_allclose(together, mapped, rtol=1e-6, atol=1e-7)
    first = each(LOGITS[0], SETS[0, :2], LABELS[0])  # without the empty set
    np.testing.assert_allclose(together[0], first, rtol=1e-6, atol=1e-7)


TWO = [[True, False, True, True], [False, True, False, False]]


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        ([[1, 0, 1, 1], [0, 1, 0, 0]], TypeError, r"sets must be bool, got int.*== jnp\.arange"),
        (np.array(TWO)[:, :3], ValueError, r"sets must have shape \(K, 4\)"),
        (SETS, ValueError, r"For sets of each image: sets\[:, None, None\]"),
        (SETS[:, None], ValueError, "label map"),
        (np.ones((3, 1, 1, 2, 4), bool), ValueError, "1 for axes that share sets"),
        ([[True] * 4], ValueError, "two or more"),
        ([*TWO, [False, False, False, True]], ValueError, "class 3 is in 2"),
        ([TWO[1], [True, False, True, False]], ValueError, "class 3 is in 0"),
    ],
)
def test_wrong_sets_are_refused(sets, error, message):
    with pytest.raises(error, match=message):
        jaxseg.marginal_logits(LOGITS, sets=sets)
    with pytest.raises(error, match=message):
        jax.jit(lambda x: jaxseg.marginal_logits(x, sets=sets))(LOGITS)


def test_one_class_has_no_sets():
    with pytest.raises(ValueError, match="softmax over one class"):
        jaxseg.marginal_logits(LOGITS[..., :1], sets=[[True], [False]])
