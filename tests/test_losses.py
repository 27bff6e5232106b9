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
FAR = {n: np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / 2.0 for n in (2, 3, 5)}

# map, classes, labels, masked, axis, whether the last class is absent
INPUTS = {
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
    """Every loss on all inputs; with further arguments, on two of them in turn.

    Further arguments and a second volume run with the slow tests.
    """
    names = list(INPUTS)
    for number, call in enumerate(CALLS):
        inputs = INPUTS if call[0].startswith(HARD_LABELS) else INPUTS | SOFT
        further = number and CALLS[number - 1][0] == call[0]
        chosen = {names[number % 4], names[(number + 2) % 4]} if further else inputs.keys()
        for name, of in inputs.items():
            if name in chosen and not (of[1] == 1 and "wasserstein" in call[0]):
                slow = pytest.mark.slow if further or name == "volumes, masks" else ()
                yield pytest.param(call, of, id=f"{case_name(call)}-{name}", marks=slow)


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
# Of logits: linear_dice_ce_loss has features, and is dice_ce_loss.
EVERY = [n for n in jaxseg.__all__ if n.endswith("_loss") and n != "linear_dice_ce_loss"]
EVERY_TIME = ("dice_loss", "dice_ce_loss", "top_k_loss", "lovasz_softmax_loss", "boundary_loss")


def mean_loss(name, classes=2):
    """The mean of a loss as a function of logits and labels."""
    function = getattr(jaxseg, name)
    given = accepted(function, activation="sigmoid" if classes == 1 else "softmax")
    return lambda x, labels, **k: function(x, labels, **given, **NEEDS.get(name, {}), **k).mean()


some_losses = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EVERY_TIME else pytest.mark.slow) for n in EVERY]
)


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
        (lambda x, y: jaxseg.cldice_loss(x, y, iterations=-1), "at least 0"),
        (
            lambda x, y: jaxseg.generalized_wasserstein_dice_loss(x, y, distances=jnp.eye(2)),
            r"distances must be \[C, C\]",
        ),
        (lambda x, y: jaxseg.softmax_focal_loss(x, y, alpha=jnp.ones(2)), r"shape \(3,\)"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_ce_loss)([], y), "needs a weight"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_ce_loss, [-1.0]), "0 or more"),
        (lambda x, y: jaxseg.deep_supervision(jaxseg.dice_ce_loss)([x], y[0]), "cannot be resized"),
        (lambda x, y: jaxseg.distance_transform(y[0] == 0, spacing=0.0), "must be positive"),
    ],
)
def test_bad_arguments_name_the_rule(call, rule):
    x, y = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4), int)
    with pytest.raises(ValueError, match=rule):
        call(x, y)
    with pytest.raises(ValueError, match=rule):
        jax.jit(call)(x, y)
