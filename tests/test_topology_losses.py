"""Topology losses: plain formulas where ``test_values`` does not go, skeletons, and edges."""

import functools

import jax
import losses
import numpy as np
import pytest
import reference
from losses import INPUTS, case, rng, with_gradient

import jaxseg

TUBES = losses.ids(3, losses.PLANE, 3)

CASES = [
    case("cldice_loss", "plane-3-masks", iterations=1, smooth=0.2),
    case("cldice_loss", "volume-1", iterations=1, spatial_axes=(1, 2), per_image=True),
    case("dice_cldice_loss", "plane-3-probs", iterations=1, cldice_weight=0.8),
    case("skeleton_recall_loss", "plane-5-outside", iterations=2, radius=0, per_image=True),
    case("skeleton_recall_loss", "volume-1", iterations=1, radius=2, smooth=0.2),
    case("skeleton_recall_loss", "plane-3-masks", skeletons=TUBES.astype(np.uint8)),
    case(
        "skeleton_recall_loss",
        "plane-3-where",
        skeletons=reference.one_hot(TUBES, 3),
        per_image=True,
    ),
]


@pytest.mark.slow  # beyond the table of cases.py
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_values_and_gradients_are_those_of_the_plain_formula(case):
    losses.assert_as_plain_formula(case)


# ---------------------------------------------------------------------------------- skeletons


def test_the_skeletons_of_slices_are_those_of_the_plain_formula():
    probs = rng(5).random((1, 6, 5, 4, 2)).astype(np.float32)
    weights = rng(6).uniform(0.5, 1.5, probs.shape).astype(np.float32)
    exact = probs.astype(np.float64)
    options = {"iterations": 1, "spatial_axes": (1, 3)}
    plain = functools.partial(reference.soft_skeleton, **options)
    value, gradient = with_gradient(lambda x: jaxseg.soft_skeleton(x, **options) * weights)(probs)
    np.testing.assert_allclose(value, weights * plain(exact), rtol=1e-5, atol=1e-6)
    for direction in rng(7).standard_normal((3, *probs.shape)):
        step = 1e-7 * direction
        slope = (weights * (plain(exact + step) - plain(exact - step))).sum() / 2e-7
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-3)


def bar(*thick):
    """A True box of this size in the middle of a map with two pixels around."""
    mask = np.zeros([1, *(n + 4 for n in thick), 1], bool)
    mask[(0, *(slice(2, 2 + n) for n in thick), 0)] = True
    return mask


def test_the_skeleton_of_a_bar_is_its_middle():
    expected = np.zeros((1, 7, 11, 1), bool)
    expected[:, 3, 3:8] = True
    got = jaxseg.soft_skeleton(bar(3, 7), iterations=1)
    np.testing.assert_array_equal(got, expected)
    expected = np.zeros((1, 7, 7, 9, 1), bool)
    expected[:, 3, 3, 3:6] = True
    got = jaxseg.soft_skeleton(bar(3, 3, 5), iterations=1)
    np.testing.assert_array_equal(got, expected)


def test_a_line_is_its_own_skeleton():
    for line in (bar(7, 1), bar(1, 1, 4)):
        np.testing.assert_array_equal(jaxseg.soft_skeleton(line, iterations=3), line)


def test_iterations_must_reach_the_middle():
    # with fewer of them a thick bar has no skeleton
    none, some, more = (jaxseg.soft_skeleton(bar(5, 12), iterations=n) for n in (1, 2, 3))
    assert not none.any()
    assert some.any()
    np.testing.assert_array_equal(some, more)


def test_outside_the_image_nothing_erodes():
    assert not jaxseg.soft_skeleton(np.ones((1, 5, 6, 1), bool), iterations=10).any()


def test_masked_pixels_are_as_if_outside_the_image():
    probs = rng(8).random((1, 6, 9, 1)).astype(np.float32)
    where = np.zeros((1, 6, 9), bool)
    where[:, 1:5, 2:8] = True
    dirty = np.where(where[..., None], probs, np.nan).astype(np.float32)
    got = jaxseg.soft_skeleton(dirty, iterations=2, where=where)
    expected = np.zeros_like(probs)
    expected[:, 1:5, 2:8] = jaxseg.soft_skeleton(probs[:, 1:5, 2:8], iterations=2)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_masked_pixels_have_no_share_in_the_gradient():
    # of ones and zeros, to which a masked pixel could be equal
    probs = rng(8).integers(0, 2, (1, 6, 9, 1)).astype(np.float32)
    where = np.zeros((1, 6, 9), bool)
    where[:, 1:5, 2:8] = True
    gradient = jax.grad(lambda x, **options: (jaxseg.soft_skeleton(x, **options) ** 2).sum())
    expected = np.zeros_like(probs)
    expected[:, 1:5, 2:8] = gradient(probs[:, 1:5, 2:8], iterations=2)
    np.testing.assert_allclose(gradient(probs, iterations=2, where=where), expected, atol=1e-6)


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_equal_pixels_share_the_gradient(iterations):
    probs = np.float32([[0.1, 0.3, 0.1]])[..., None]
    options = {"iterations": iterations, "spatial_axes": (1,)}
    gradient = jax.grad(lambda x: jaxseg.soft_skeleton(x, **options).sum())(probs)
    np.testing.assert_allclose(gradient.ravel(), [-0.5, 1, -0.5], rtol=1e-6)


def test_a_volume_turned_over_has_its_gradient_turned_over():
    probs = rng(9).integers(0, 3, (5, 5, 5, 1)).astype(np.float32) / 2
    options = {"iterations": 1, "spatial_axes": (0, 1, 2)}
    run = jax.jit(jax.grad(lambda x: (jaxseg.soft_skeleton(x, **options) ** 2).sum()))
    want = run(probs)
    for axes in ((1, 0, 2, 3), (0, 2, 1, 3), (2, 1, 0, 3), (1, 2, 0, 3)):
        got = run(probs.transpose(axes))
        np.testing.assert_allclose(got, want.transpose(axes), rtol=1e-5, atol=1e-6)


def test_forward_mode_from_probabilities():
    # of equal pixels, whose derivatives go another way than JAX's own
    probs, direction = rng(10).integers(0, 3, (1, 5, 6, 2)) / 2, rng(11).random((1, 5, 6, 2))
    probs, direction = probs.astype(np.float32), direction.astype(np.float32)
    options = {"labels": rng(12).integers(0, 2, (1, 5, 6)), "activation": None, "iterations": 2}

    @jax.jit
    def total(x):
        return jaxseg.cldice_loss(x, **options).sum()

    _, forward = jax.jvp(total, (probs,), (direction,))
    np.testing.assert_allclose(forward, (jax.grad(total)(probs) * direction).sum(), rtol=1e-5)


def test_more_neighbours_than_a_byte_counts_share_the_gradient():
    # 3^6 in a cube of six axes: a flat map keeps the sum of its gradient
    probs = np.full((3, 3, 3, 3, 3, 4, 1), 0.5, np.float32)
    options = {"iterations": 0, "spatial_axes": tuple(range(6))}
    gradient = jax.grad(lambda x: jaxseg.soft_skeleton(x, **options).sum())(probs)
    np.testing.assert_allclose(gradient.sum(), 0, atol=1e-3)
    np.testing.assert_allclose(gradient, gradient[::-1], atol=1e-6)


STATIC = [
    ("iterations", lambda x, y, n: jaxseg.soft_skeleton(x, iterations=n)),
    ("iterations", lambda x, y, n: jaxseg.cldice_loss(x, y, activation=None, iterations=n)),
    ("iterations", lambda x, y, n: jaxseg.dice_cldice_loss(x, y, activation=None, iterations=n)),
    ("radius", lambda x, y, n: jaxseg.skeleton_recall_loss(x, y, activation=None, radius=n)),
    ("erosions", lambda x, y, n: jaxseg.hausdorff_erosion_loss(x, y, activation=None, erosions=n)),
    ("kernel_size", lambda x, y, n: jaxseg.nacl_loss(x, y, kernel_size=n)),
]


@pytest.mark.parametrize(("name", "call"), STATIC)
def test_numbers_of_times_are_static_integers(name, call):
    x, y = np.ones((1, 4, 4, 1), np.float32), np.ones((1, 4, 4), int)
    for n in (2.0, True, np.float32(3), None, "2"):
        with pytest.raises(TypeError, match=f"{name} must be a.* integer, got"):
            call(x, y, n)
    for n in (-1, np.int64(-1), 2**31):
        with pytest.raises(ValueError, match=f"{name} must be at least . and below 2147483648"):
            call(x, y, n)
    with pytest.raises(TypeError, match=f"{name} must be a static integer, .*static_argnames"):
        jax.jit(lambda n: call(x, y, n))(3)
    jax.eval_shape(lambda: call(x, y, np.uint8(3)))


# ---------------------------------------------------------------------------------- losses


def lines():
    """A map with a line of 9 pixels along its third row."""
    labels = np.zeros((1, 7, 13), int)
    labels[:, 3, 2:11] = 1
    return labels


def test_cldice_of_hand_computed_lines():
    # predicted: 6 of its 9 pixels, and 3 of another line
    labels, probs = lines(), np.zeros((1, 7, 13, 1), np.float32)
    probs[:, 3, 2:8] = 1
    probs[:, 5, 0:3] = 1
    precision, sensitivity = (6 + 1) / (9 + 1), (6 + 1) / (9 + 1)
    expected = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    got = jaxseg.cldice_loss(probs, labels, activation=None, iterations=2)
    np.testing.assert_allclose(got, [expected], rtol=1e-5)
    dice = jaxseg.dice_loss(probs, labels, activation=None)
    both = jaxseg.dice_cldice_loss(probs, labels, activation=None, iterations=2, cldice_weight=0.25)
    np.testing.assert_allclose(both, 0.75 * dice + 0.25 * got, rtol=1e-6)


def test_a_break_costs_more_than_as_many_pixels_at_the_side():
    labels = np.zeros((1, 9, 15), int)
    labels[:, 3:6, 1:14] = 1
    broken, thinner = labels[..., None].astype(np.float32), labels[..., None].astype(np.float32)
    broken[:, 3:6, 7] = 0
    thinner[:, 3, 3:6] = 0
    loss = functools.partial(jaxseg.cldice_loss, labels=labels, activation=None, iterations=3)
    assert loss(broken)[0] > loss(thinner)[0] + 0.01


@pytest.mark.parametrize(("radius", "missed"), [(0, 7), (1, 9), (2, 9)])
def test_skeleton_recall_of_a_hand_computed_bar(radius, missed):
    # 3 x 9, its skeleton the middle 7; all but the skeleton's row is found
    labels = bar(3, 9)[..., 0].astype(int)
    probs = labels[..., None].astype(np.float32)
    probs[:, 3] = 0
    tube = {0: 7, 1: 7 * 3 + 2, 2: 7 * 3 + 6}[radius]
    options = {"activation": None, "iterations": 2, "radius": radius}
    got = jaxseg.skeleton_recall_loss(probs, labels, **options)
    np.testing.assert_allclose(got, [1 - (tube - missed + 1) / (tube + 1)], rtol=1e-5)


def test_false_positives_cost_skeleton_recall_nothing():
    labels, probs = lines(), np.ones((1, 7, 13, 1), np.float32)
    got = jaxseg.skeleton_recall_loss(probs, labels, activation=None, iterations=1)
    np.testing.assert_allclose(got, [0], atol=1e-6)


def test_false_positives_on_an_empty_target_are_punished():
    empty = np.zeros((1, 7, 13), int)
    run = with_gradient(lambda x: jaxseg.cldice_loss(x, empty, activation="sigmoid", iterations=1))
    values = []
    for length in (0, 1, 4, 13):
        logits = np.full((1, 7, 13, 1), -9, np.float32)
        logits[:, 3, :length] = 4
        value, gradient = run(logits)
        assert np.isfinite(gradient).all()
        values.append(float(value[0]))
    assert values == sorted(values)
    assert values[1] > values[0] + 0.1


@pytest.mark.parametrize("name", ["dice_cldice_loss", "skeleton_recall_loss"])
def test_right_and_confident_logits_have_no_loss(name):
    labels = INPUTS["plane-2"].labels
    one_hot = reference.one_hot(labels, 2)
    run = with_gradient(lambda x: getattr(jaxseg, name)(x, labels, iterations=1))
    right, gradient = run(np.where(one_hot, 1e4, -1e4).astype(np.float32))
    np.testing.assert_allclose(right, [0, 0], atol=1e-6)
    assert np.isfinite(gradient).all()
    wrong, gradient = run(np.where(one_hot, -1e4, 1e4).astype(np.float32))
    assert (wrong > 0.7).all()
    assert np.isfinite(gradient).all()
