"""Values and gradients of every loss, in float64, against the plain forms of ``reference.py``.

One table for all topics: each loss sees two and three dimensions, one to five classes, ids and
dense labels, masked pixels that hold NaN and 255, absent classes, pooled and single images. The
gradient is compared with finite differences of the plain form along a random direction.
"""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jaxseg

PLANE, VOLUME = (2, 6, 7), (2, 4, 5, 3)
TWO_CLASSES = np.float64([1, 3])
FAR = {n: np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / 2.0 for n in (2, 3, 5)}

# map, classes, labels, masked, axis, whether the last class is absent
INPUTS = {
    "plane": (PLANE, 3, "ids", False, None, False),
    "masked images": (PLANE, 2, "ids", True, (1, 2), False),
    "volume, absent class": (VOLUME, 5, "ids", True, None, True),
    "volumes, masks": (VOLUME, 3, "masks", False, (1, 2, 3), False),
    "one class": (PLANE, 1, "ids", True, None, False),
}
SOFT = {"soft labels": (PLANE, 3, "soft", True, (1, 2), False)}
HARD_LABELS = ("lovasz", "boundary", "hausdorff", "skeleton_recall", "deep")  # thresholds, or ids

# loss, arguments; arguments that are functions are of the number of classes
CALLS = [
    ("dice_loss", {"squared": True}),
    ("dice_loss", {"soft_targets": True, "smooth": 0.5}),
    ("iou_loss", {"squared": True, "eps": 0.1}),
    ("iou_loss", {"soft_targets": True}),
    ("tversky_loss", {"soft_targets": True, "alpha": 0.3, "beta": 0.7}),
    ("log_dice_loss", {"gamma": 0.3}),
    ("log_cosh_dice_loss", {}),
    ("generalized_dice_loss", {}),
    ("generalized_dice_loss", {"power": 1.0, "eps": 0.1}),
    ("generalized_wasserstein_dice_loss", {"distances": FAR.get}),
    ("generalized_wasserstein_dice_loss", {"distances": FAR.get, "weighting": "volume"}),
    ("matthews_correlation_loss", {}),
    ("sensitivity_specificity_loss", {"sensitivity_weight": 0.3}),
    ("cross_entropy_loss", {"class_weights": lambda n: 1.0 + np.arange(n), "label_smoothing": 0.1}),
    ("softmax_focal_loss", {"gamma": 1.5, "alpha": lambda n: 0.5 + np.arange(n)}),
    ("nacl_loss", {"distance": "l2", "weight": 0.3}),
    ("nacl_loss", {}),
    ("top_k_loss", {"fraction": 0.3}),
    ("ohem_loss", {"threshold": 0.6, "min_kept": 5}),
    ("ohem_loss", {"threshold": 0.01, "min_kept": 5}),
    ("lovasz_hinge_loss", {}),
    ("lovasz_softmax_loss", {}),
    ("lovasz_softmax_loss", {"classes": "all"}),
    ("boundary_loss", {}),
    ("hausdorff_dt_loss", {"spacing": lambda n: (2.0, 1.0, 1.5), "alpha": 1.5}),
    ("hausdorff_dt_loss", {"log": True}),
    ("hausdorff_erosion_loss", {"erosions": 3}),
    ("boundary_dou_loss", {}),
    ("cldice_loss", {"iterations": 2}),
    ("dice_cldice_loss", {"iterations": 1, "cldice_weight": 0.3}),
    ("skeleton_recall_loss", {"iterations": 2, "radius": 1}),
    ("dice_focal_loss", {"gamma": 1.5, "focal_weight": 0.7}),
    ("dice_top_k_loss", {"fraction": 0.3, "ce_weight": 0.7}),
    ("exponential_logarithmic_loss", {"ce_class_weights": lambda n: 1.0 + np.arange(n)}),
    ("unified_focal_loss", {}),
    ("unified_focal_loss", {"asymmetric": False, "gamma": 0.3, "delta": 0.7}),
]


def case_name(call):
    name, arguments = call
    return "-".join(
        [name, *(str(v) if isinstance(v, str | bool) else k for k, v in arguments.items())]
    )


def make(shape, classes, form, masked, absent):
    rng = np.random.default_rng(7)
    x = 1.5 * rng.standard_normal((*shape, classes))
    ids = rng.integers(0, max(classes, 2) - absent, shape)
    labels = {
        "ids": ids.astype(np.uint8),
        "masks": reference.one_hot(ids, classes),
        "soft": rng.dirichlet(np.ones(classes), shape),
    }[form]
    where = rng.random(shape) < 0.7 if masked else None
    return x, labels, where


def accepted(function, **arguments):
    """The arguments that a function takes."""
    parameters = inspect.signature(function).parameters
    return {k: v for k, v in arguments.items() if k in parameters}


def checks():
    for call in CALLS:
        inputs = INPUTS if call[0].startswith(HARD_LABELS) else INPUTS | SOFT
        for name, of in inputs.items():
            if not (of[1] == 1 and "wasserstein" in call[0]):
                yield pytest.param(call, of, id=f"{case_name(call)}-{name}")


# Of one class, these are losses of "not it", of logit 0, and "it".
TWO_CLASS_FORMS = (
    "cross_entropy_loss",
    "softmax_focal_loss",
    "nacl_loss",
    "top_k_loss",
    "ohem_loss",
)


def of_two_classes(plain):
    @functools.wraps(plain)
    def of_one(x, labels, **arguments):
        return plain(*reference.two_classes(x, labels), **arguments)

    return of_one


@pytest.mark.parametrize(("call", "inputs"), list(checks()))
def test_values_and_gradients_are_those_of_the_plain_formula(call, inputs):
    name, arguments = call
    shape, classes, form, masked, axis, absent = inputs
    x, labels, where = make(shape, classes, form, masked, absent)
    ours, plain = getattr(jaxseg, name), getattr(reference, name)
    if classes == 1 and name in TWO_CLASS_FORMS:
        plain = of_two_classes(plain)

    given = {k: v(max(classes, 2)) if callable(v) else v for k, v in arguments.items()}
    if "spacing" in given:
        given["spacing"] = given["spacing"][: len(shape) - 1]
    given |= {"where": where, "axis": axis}
    given |= {"activation": "sigmoid" if classes == 1 else "softmax"}
    theirs = accepted(plain, **given)
    if plain is not reference.log_cosh_dice_loss:  # passes its arguments on
        assert set(theirs) >= set(arguments)
    given = accepted(ours, **given)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(plain).parameters.values()):
        theirs = given

    truth = labels
    if where is not None:  # what is masked may hold anything
        dirty = np.where(where[..., None], x, np.nan)
        truth = np.where(where, labels, 255).astype(labels.dtype) if form == "ids" else labels
    else:
        dirty = x
    rng = np.random.default_rng(8)
    expected = np.asarray(plain(x, labels, **theirs))
    weights = rng.standard_normal(expected.shape)

    with jax.enable_x64(True):

        def total(x):
            value = ours(x, truth, **given)
            return (value * weights).sum(), value

        run = jax.jit(jax.value_and_grad(total, has_aux=True))
        (weighted, value), gradient = run(dirty)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9, strict=False)
    assert math.isclose(weighted, (expected * weights).sum(), rel_tol=1e-6, abs_tol=1e-9)

    direction = rng.standard_normal(x.shape)
    step = 1e-6 * direction
    rise = np.asarray(plain(x + step, labels, **theirs)) - np.asarray(
        plain(x - step, labels, **theirs)
    )
    slope = (rise * weights).sum() / 2e-6
    if where is not None:
        assert not np.asarray(gradient)[~where].any()
    np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=2e-5, atol=1e-7)


# ---------------------------------------------------------------------------------- edges

NEEDS = {"generalized_wasserstein_dice_loss": {"distances": FAR[2]}}
RECALL = ("skeleton_recall_loss",)  # false positives are not its business
EVERY = [name for name in jaxseg.__all__ if name.endswith("_loss")]
EVERY_TIME = ("dice_loss", "dice_ce_loss", "top_k_loss", "lovasz_softmax_loss", "boundary_loss")


def mean_loss(name, classes=2):
    """The mean of a loss as a function of logits and labels."""
    function = getattr(jaxseg, name)
    given = accepted(function, activation="sigmoid" if classes == 1 else "softmax")
    return lambda x, labels, **k: function(x, labels, **given, **NEEDS.get(name, {}), **k).mean()


@pytest.mark.parametrize("name", [name for name in EVERY if name not in RECALL])
def test_an_empty_target_still_punishes_a_false_positive(name):
    loss = jax.jit(mean_loss(name))
    labels = jnp.zeros((1, 16, 16), jnp.int32)
    values = []
    for side in (0, 5, 9, 14):
        x = np.full((1, 16, 16), -6.0, np.float32)
        x[0, 1 : 1 + side, 1 : 1 + side] = 6.0
        values.append(float(loss(jnp.stack([jnp.zeros_like(x), x], -1), labels)))
    if name == "lovasz_softmax_loss":  # class 0 is present, and only that is counted
        values = values[:3]
    assert (np.diff(values) > -1e-5).all()
    assert values[1] > values[0] + 1e-3


some_losses = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EVERY_TIME else pytest.mark.slow) for n in EVERY]
)


@some_losses
def test_the_right_prediction_is_better_than_the_wrong_one(name):
    rng = np.random.default_rng(3)
    labels = jnp.asarray(np.kron(rng.integers(0, 2, (2, 4, 4)), np.ones((1, 4, 4), int)))
    right = 16.0 * jax.nn.one_hot(labels, 2) - 8.0
    loss = jax.jit(mean_loss(name))
    good, bad = loss(right, labels), loss(-right, labels)
    assert bad > good + 0.1
    assert good < 0.1 or name == "nacl_loss"  # which draws logits to shares


@some_losses
def test_half_precision_of_a_512_plane_is_within_a_percent_of_float64(name):
    rng = np.random.default_rng(4)
    blobs = np.kron(rng.integers(0, 2, (1, 16, 16)), np.ones((1, 32, 32), int))
    x = rng.standard_normal((1, 512, 512, 2)) + 2.0 * reference.one_hot(blobs, 2)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jnp.asarray(x, dtype)
        with jax.enable_x64(True):
            expected = jax.jit(mean_loss(name))(np.asarray(half, np.float64), blobs)
        value, gradient = jax.jit(jax.value_and_grad(mean_loss(name)))(half, jnp.asarray(blobs))
        assert gradient.dtype == dtype
        assert jnp.isfinite(gradient.astype(jnp.float32)).all()
        np.testing.assert_allclose(value, expected, rtol=0.01, atol=1e-6)


def test_top_k_takes_one_pixel_at_least():
    x, labels = jnp.array([[2.0, 0.0], [1.0, -1.0], [0.0, 0.0]]), jnp.array([0, 1, 0])
    loss = jaxseg.top_k_loss(x, labels, fraction=0.01)
    np.testing.assert_allclose(loss, jaxseg.cross_entropy_loss(x, labels).max(), rtol=1e-6)


def test_pixels_equally_hard_share_the_last_place():
    x, labels = jnp.zeros((4, 2)), jnp.zeros(4, int)
    gradient = jax.grad(lambda x: jaxseg.top_k_loss(x, labels, fraction=0.5))(x)
    np.testing.assert_allclose(gradient, np.tile([-0.125, 0.125], (4, 1)), rtol=1e-6)


def test_ohem_keeps_the_hard_pixels_and_enough_of_them():
    x, labels = jnp.array([[4.0, 0.0], [3.0, 0.0], [0.0, 1.0]]), jnp.zeros(3, int)
    each = jaxseg.cross_entropy_loss(x, labels)
    for kept, expected in ((1, each[2:]), (2, each[1:]), (99, each)):
        loss = jaxseg.ohem_loss(x, labels, min_kept=kept)
        np.testing.assert_allclose(loss, expected.mean(), rtol=1e-6)


def test_lovasz_values_do_not_depend_on_the_order_of_ties():
    probs = jnp.array([[0.5], [0.5], [0.5], [0.2]])
    masks = jnp.array([1, 0, 1, 0])
    order = jnp.array([1, 2, 0, 3])
    loss = functools.partial(jaxseg.lovasz_softmax_loss, activation=None)
    np.testing.assert_allclose(loss(probs, masks), loss(probs[order], masks[order]), rtol=1e-6)


def test_soft_targets_are_least_at_the_target_and_the_product_is_not():
    labels = np.float32([[0.3], [0.9], [0.0]])
    for loss in (jaxseg.dice_loss, jaxseg.iou_loss, jaxseg.tversky_loss):
        at_target = loss(labels, labels, activation=None, soft_targets=True)
        assert at_target == 0
        assert loss(labels, labels, activation=None) > 0.05
        away = loss(labels + 0.05, labels, activation=None, soft_targets=True)
        assert away > 0


def test_soft_targets_change_nothing_for_hard_labels():
    x = 2 * np.random.default_rng(5).standard_normal((3, 4, 3)).astype(np.float32)
    labels = np.random.default_rng(6).integers(0, 3, (3, 4))
    plain, soft = (
        jax.value_and_grad(lambda x, s=s: jaxseg.dice_loss(x, labels, soft_targets=s).sum())(x)
        for s in (False, True)
    )
    np.testing.assert_allclose(soft[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(soft[1], plain[1], atol=1e-7)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda x, y: jaxseg.dice_loss(x, y, squared=True, soft_targets=True), "choose one"),
        (lambda x, y: jaxseg.top_k_loss(x, y, fraction=0.0), "fraction must be in"),
        (lambda x, y: jaxseg.ohem_loss(x, y, min_kept=0), "at least 1"),
        (lambda x, y: jaxseg.nacl_loss(x, y, kernel_size=2), "kernel_size odd"),
        (lambda x, y: jaxseg.lovasz_softmax_loss(x, y, classes="some"), "'present' or 'all'"),
        (lambda x, y: jaxseg.boundary_loss(x, y, spacing=(1.0, 2.0, 3.0)), "one for each of 2"),
        (lambda x, y: jaxseg.boundary_loss(x, y, spacing=-1.0), "must be positive"),
        (lambda x, y: jaxseg.boundary_loss(x, y, distances=x[..., 0]), "shape of logits"),
        (lambda x, y: jaxseg.boundary_loss(x, y, spatial_axes=(5,)), "out of range"),
        (lambda x, y: jaxseg.boundary_loss(x[0, 0], y[0, 0]), "Space needs an axis"),
        (lambda x, y: jaxseg.hausdorff_erosion_loss(x, y, erosions=0), "at least 1"),
        (lambda x, y: jaxseg.cldice_loss(x, y, iterations=-1), "0 or more"),
        (
            lambda x, y: jaxseg.generalized_wasserstein_dice_loss(x, y, distances=jnp.eye(2)),
            r"distances must be \[C, C\]",
        ),
        (lambda x, y: jaxseg.softmax_focal_loss(x, y, alpha=jnp.ones(2)), r"shape \(3,\)"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_loss)([], y), "needs a weight"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_loss, [-1.0]), "0 or more"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_loss)([x], y[0]), "cannot be resized"),
        (lambda x, y: jaxseg.distance_transform(y[0] == 0, spacing=0.0), "must be positive"),
    ],
)
def test_bad_arguments_name_the_rule(call, rule):
    x, y = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4), int)
    with pytest.raises(ValueError, match=rule):
        call(x, y)
    with pytest.raises(ValueError, match=rule):
        jax.jit(call)(x, y)


@pytest.mark.parametrize("axis", [None, (1, 2)])
def test_deep_supervision_is_the_weighted_sum_of_the_outputs(axis):
    rng = np.random.default_rng(9)
    labels, where = rng.integers(0, 3, (2, 8, 6)), rng.random((2, 8, 6)) < 0.8
    outputs = [rng.standard_normal((2, 8 // k, 6 // k, 3)) for k in (1, 2)]
    loss = jaxseg.deep_supervision(jaxseg.dice_ce_loss)
    value = jax.jit(functools.partial(loss, axis=axis))(outputs, labels, where=where)
    plain = reference.deep_supervision(reference.dice_ce_loss)
    np.testing.assert_allclose(value, plain(outputs, labels, where=where, axis=axis), rtol=1e-5)
    uneven = jaxseg.deep_supervision(jaxseg.dice_ce_loss, [3.0, 0.0])(outputs, labels)
    only_first = jaxseg.dice_ce_loss(outputs[0].astype(np.float32), labels)
    np.testing.assert_allclose(uneven, only_first, rtol=1e-5)


def test_soft_skeleton_is_the_plain_form():
    probs = np.random.default_rng(10).random((2, 7, 6, 2)).astype(np.float32)
    where = np.random.default_rng(11).random((2, 7, 6)) < 0.8
    for mask in (None, where):
        value = jaxseg.soft_skeleton(probs, iterations=3, where=mask)
        expected = reference.soft_skeleton(probs.astype(float), 3, where=mask)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_border_weights_are_the_plain_form():
    instances = np.zeros((9, 12), np.uint8)
    instances[1:4, 1:5], instances[1:6, 6:9], instances[6:8, 1:4] = 1, 255, 7
    for spacing in (1.0, (2.0, 0.5)):
        value = jaxseg.border_weights(instances, spacing=spacing, sigma=3.0)
        expected = reference.border_weights(instances, sigma=3.0, spacing=spacing)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert not jaxseg.border_weights(np.minimum(instances, 1)).any()
