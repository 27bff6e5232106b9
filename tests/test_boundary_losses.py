"""Boundary losses: plain formulas where ``test_values`` does not go, identities, and edges."""

import functools

import jax
import losses
import numpy as np
import pytest
import reference
from losses import case, false_positives, rng, with_gradient

import jaxseg

SHAPE = (2, 6, 7)
LOGITS = losses.logits(1, SHAPE, 3)
IDS = losses.ids(2, SHAPE, 3)
ONE_HOT = reference.one_hot(IDS, 3)
LOSSES = ["boundary_loss", "hausdorff_dt_loss", "hausdorff_erosion_loss", "boundary_dou_loss"]
DISTANCES = losses.blobs(3, *SHAPE, 1).astype(np.float32)

CASES = [
    case("boundary_loss", "plane-3-masks", spacing=(2.0, 0.5)),
    case("boundary_loss", "plane-5-outside", per_image=True),
    case("boundary_loss", "plane-1-where", distances=DISTANCES),
    case("boundary_loss", "volume-3-where", spacing=(1.0, 0.5, 3.0), per_image=True),
    case("boundary_loss", "volume-1", spatial_axes=(1, 2)),
    case("hausdorff_dt_loss", "plane-3-probs", spacing=0.5, alpha=1.0),
    case("hausdorff_dt_loss", "plane-5-outside", spacing=(0.5, 2.0), per_image=True),
    case("hausdorff_dt_loss", "volume-1", spatial_axes=(2, 3)),
    case("hausdorff_erosion_loss", "plane-3-masks", erosions=2, alpha=1.0),
    case("hausdorff_erosion_loss", "volume-1", erosions=1, spatial_axes=(1, 2), per_image=True),
    case("boundary_dou_loss", "plane-3-masks", smooth=0.2),
    case("boundary_dou_loss", "plane-5-outside", per_image=True),
    case("boundary_dou_loss", "volume-3-where"),
    case("boundary_dou_loss", "volume-1", spatial_axes=(1, 2)),
]


@pytest.mark.slow  # beyond the table of cases.py
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_values_and_gradients_are_those_of_the_plain_formula(case):
    losses.assert_as_plain_formula(case)


# ---------------------------------------------------------------------------------- boundary loss


def test_boundary_loss_of_a_hand_computed_row():
    probs = np.float32([[0.5, 1.0, 0.25, 0.0]])[..., None]
    options = {"activation": None, "spacing": 2.0, "spatial_axes": (1,)}
    got = jaxseg.boundary_loss(probs, np.array([[0, 1, 1, 0]]), **options)
    np.testing.assert_allclose(got, [2 * (0.5 - 1 - 0.25) / 4], rtol=1e-6)


def test_a_map_made_before_gives_the_same_loss():
    each = jax.vmap(jax.vmap(jaxseg.signed_distance), in_axes=-1, out_axes=-1)
    got = jaxseg.boundary_loss(LOGITS, IDS, distances=each(ONE_HOT))
    np.testing.assert_allclose(got, jaxseg.boundary_loss(LOGITS, IDS), rtol=1e-5)


@pytest.mark.parametrize("spacing", [1.0, (3.0, 0.5)])
def test_a_class_without_a_boundary_has_the_least_spacing_as_distance(spacing):
    smallest = float(np.min(spacing))
    labels = np.zeros((2, 4, 5), int)
    labels[1] = 1  # one image without the class, one of the class alone
    probs = rng(6).random((2, 4, 5, 1)).astype(np.float32)
    options = {"activation": None, "spacing": spacing, "axis": (1, 2)}
    means = probs.mean((1, 2))
    got = jaxseg.boundary_loss(probs, labels, **options)
    np.testing.assert_allclose(got, [smallest * means[0], -smallest * means[1]], rtol=1e-5)


# ---------------------------------------------------------------------------------- Hausdorff


def test_hausdorff_of_a_hand_computed_row():
    # truth at 1 (distances 1 1 1 2 3), prediction at 3 (3 2 1 1 1)
    labels, probs = np.array([[[0, 1, 0, 0, 0]]]), np.float32([[[0, 0, 0, 1, 0]]])[..., None]
    for alpha in (1.0, 2.0):
        got = jaxseg.hausdorff_dt_loss(probs, labels, activation=None, alpha=alpha)
        expected = ((1 + 2**alpha) + (2**alpha + 1)) / 5
        np.testing.assert_allclose(got, [expected], rtol=1e-5)


def test_hausdorff_of_predictions_below_one_half_has_the_target_distances_only():
    labels, probs = np.array([[[0, 1, 0, 0, 0]]]), np.full((1, 1, 5, 1), 0.4, np.float32)
    got = jaxseg.hausdorff_dt_loss(probs, labels, activation=None, alpha=1.0)
    np.testing.assert_allclose(got, [(0.36 + 0.16 * (1 + 1 + 2 + 3)) / 5], rtol=1e-5)


def test_farther_errors_cost_more():
    labels = np.zeros((1, 5, 12), int)
    labels[:, 1:4, 1:4] = 1
    values = []
    for column in (5, 7, 9, 11):
        probs = labels[..., None].astype(np.float32)
        probs[:, 2, column] = 1
        values.append(float(jaxseg.hausdorff_dt_loss(probs, labels, activation=None)[0]))
    assert values == sorted(values)
    assert values[-1] > 5 * values[0]


def test_erosion_of_a_hand_computed_square():
    # an error of 3 x 3: after one erosion 0.5 in the middle, 0.3 at its sides, 0.1 in the corners;
    # after rescaling 1, 0.6, 0.2, of which the middle alone has a mean above 0.5: 3.4 / 5
    probs = np.zeros((1, 7, 7, 1), np.float32)
    probs[:, 2:5, 2:5] = 1
    labels = np.zeros((1, 7, 7), int)
    once = 1 + 4 * 0.6 + 4 * 0.2
    for erosions, expected in ((1, once), (2, once + 4), (3, once + 4)):
        loss = functools.partial(jaxseg.hausdorff_erosion_loss, activation=None, erosions=erosions)
        np.testing.assert_allclose(loss(probs, labels), [expected / 49], rtol=1e-5)


def test_thicker_errors_cost_more_by_erosion():
    labels = np.zeros((1, 13, 13), int)
    values = []
    for side in (1, 3, 5, 7):  # those of an even side do not erode away
        probs = np.zeros((1, 13, 13, 1), np.float32)
        probs[:, 3 : 3 + side, 3 : 3 + side] = 1
        loss = jaxseg.hausdorff_erosion_loss(probs, labels, activation=None, erosions=5)
        values.append(float(loss[0]))
    assert values[0] == 0  # a pixel does not outlast one erosion
    assert values == sorted(values)


# ---------------------------------------------------------------------------------- boundary DoU


def test_boundary_dou_weighs_by_the_share_of_the_edge():
    # 7 x 7 of 49 pixels, 24 of them edge, of which a row is missed
    labels = np.zeros((1, 9, 9), int)
    labels[:, 1:8, 1:8] = 1
    probs = labels[..., None].astype(np.float32)
    probs[:, 7] = 0
    a = 1 - 2 * 25 / 50
    expected = 1 - ((1 - a) * 42 + 1) / (42 + 49 - (1 + a) * 42 + 1)
    got = jaxseg.boundary_dou_loss(probs, labels, activation=None)
    np.testing.assert_allclose(got, [expected], rtol=1e-5)
    # an object that fills the image: its border is edge
    got = jaxseg.boundary_dou_loss(probs[:, 1:8, 1:8], labels[:, 1:8, 1:8], activation=None)
    np.testing.assert_allclose(got, [expected], rtol=1e-5)


def test_boundary_dou_of_a_large_object_is_capped():
    labels = np.ones((1, 40, 40), int)  # 156 of 1600 pixels are edge: 1 - 2 * 0.098 is over 0.8
    probs = np.ones((1, 40, 40, 1), np.float32)
    probs[:, 0] = 0
    expected = 1 - (0.2 * 1560 + 1) / (1560 + 1600 - 1.8 * 1560 + 1)
    got = jaxseg.boundary_dou_loss(probs, labels, activation=None)
    np.testing.assert_allclose(got, [expected], rtol=1e-5)


# ---------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("name", LOSSES)
def test_false_positives_on_an_empty_target_are_punished(name):
    options = {"erosions": 3} if "erosion" in name else {}
    loss = functools.partial(getattr(jaxseg, name), activation="sigmoid", **options)
    values = false_positives(loss)
    if "erosion" in name:  # one pixel does not outlast it, and four of a square do not erode
        assert values[0] == values[1] == 0
        values = values[2:]
        assert min(values) > 0.1
    else:
        assert values == sorted(values)
        assert values[1] > values[0] + 0.01


@pytest.mark.parametrize("name", LOSSES)
def test_right_and_confident_logits_have_the_least_loss(name):
    options = {"erosions": 2} if "erosion" in name else {}
    loss = functools.partial(getattr(jaxseg, name), labels=IDS, **options)
    run = with_gradient(loss)
    right, gradient = run(np.where(ONE_HOT, 1e4, -1e4).astype(np.float32))
    assert np.isfinite(gradient).all()
    if name == "boundary_loss":  # all of the distances inside
        phi = reference.each_map(reference.signed_distance, ONE_HOT)
        np.testing.assert_allclose(right, np.minimum(phi, 0).mean((0, 1, 2)), rtol=1e-5)
    else:
        np.testing.assert_allclose(right, [0, 0, 0], atol=1e-6)
    wrong, gradient = run(np.where(ONE_HOT, -1e4, 1e4).astype(np.float32))
    assert np.isfinite(gradient).all()
    others, _ = run(LOGITS)
    assert (wrong > others).all()
    assert (others >= right).all()


def test_distances_are_real():
    for wrong in (DISTANCES * np.complex64(1j), DISTANCES > 0):
        with pytest.raises(TypeError, match="distances must be floating point, got"):
            jaxseg.boundary_loss(LOGITS[..., :1], IDS == 1, activation="sigmoid", distances=wrong)
