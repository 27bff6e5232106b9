"""Bad input: the error's type, the rule and what came, the same eagerly and under ``jit``."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CLASSES, HARD, MAP, MAPS, SOFT, Case

import jaxseg

X = jnp.zeros((2, 3, 4, CLASSES))  # logits
Y = jnp.zeros((2, 3, 4), jnp.int32)  # ids
M = jnp.zeros((2, 3, 4, CLASSES), bool)  # masks
C = jaxseg.Counts(*jnp.ones((4, CLASSES)))
MATRIX = jnp.ones((CLASSES, CLASSES))
W = jnp.ones(Y.shape, bool)


def assert_raises(
    error: type[Exception], fragments: tuple[str, ...], function: Callable[..., Any], **inputs: Any
) -> None:
    """The call raises ``error`` with all fragments; so it does under jit, in the same words."""
    arrays = {k: v for k, v in inputs.items() if isinstance(v, jax.Array | np.ndarray | tuple)}
    arrays = {k: v for k, v in arrays.items() if k != "axis"}
    static = {k: v for k, v in inputs.items() if k not in arrays}

    def call(arrays: Any) -> Any:
        positional = [v for k, v in arrays.items() if k.startswith("_")]
        named = {k: v for k, v in arrays.items() if not k.startswith("_")}
        return function(*positional, **named, **static)

    with pytest.raises(error, match=re.escape(fragments[0])) as eager:
        call(arrays)
    with pytest.raises(error) as traced:
        jax.jit(call)(arrays)
    assert all(fragment in str(eager.value) for fragment in fragments), str(eager.value)
    assert str(eager.value) == str(traced.value)


class Bad(NamedTuple):
    """A call that must raise, and two fragments of the message: the rule, and what came."""

    name: str
    error: type[Exception]
    fragments: tuple[str, ...]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: Mapping[str, Any] = {}


SOFT_COUNTS, COUNTS, MATRIX_OF = jaxseg.soft_counts, jaxseg.counts, jaxseg.confusion_matrix
PREDICT, DICE_CE = jaxseg.predict_labels, jaxseg.dice_ce_loss
IDS = {"num_classes": CLASSES}

BAD = [
    # activation
    Bad("unknown activation", ValueError, ("one of None, 'softmax', 'sigmoid'", "'tanh'"),
        SOFT_COUNTS, (X, Y), {"activation": "tanh"}),
    Bad("an array as activation", ValueError,
        ("one of None, 'softmax', 'sigmoid'", "got an array of shape (3,) and dtype float32"),
        SOFT_COUNTS, (X, Y), {"activation": np.ones(3, np.float32)}),
    Bad("unknown activation to predict by", ValueError, ("None, 'softmax', 'sigmoid'", "'probs'"),
        PREDICT, (X,), {"activation": "probs"}),
    Bad("softmax of one class", ValueError, ("softmax over one class", "[..., 1]"),
        jaxseg.dice_loss, (X[..., :1], Y)),
    Bad("softmax of one class, compound", ValueError,
        ("softmax over one class", "logits [..., 1] go to jaxseg.bce_dice_loss"),
        DICE_CE, (X[..., :1], Y)),
    Bad("softmax of one class, linear", ValueError,
        ("softmax over one class", "logits [..., 1] go to jaxseg.bce_dice_loss"),
        jaxseg.linear_dice_ce_loss, (X, X[0, 0, :3, :1], X[0, 0, 0, :1], Y)),
    Bad("softmax of one class, predicted", ValueError, ("softmax over one class", "[..., 1]"),
        PREDICT, (X[..., :1],)),
    # num_classes
    Bad("ids without num_classes", ValueError, ("without num_classes must be bool", "int32"),
        COUNTS, (Y, Y)),
    *(
        Bad(f"num_classes {value!r} of {f.__name__}", error, (rule, came), f, (Y, Y),
            {"num_classes": value})
        for f in (COUNTS, MATRIX_OF)
        for value, error, rule, came in [
            (0, ValueError, "num_classes must be at least 1", "got 0"),
            (-3, ValueError, "num_classes must be at least 1", "got -3"),
            (3.0, TypeError, "num_classes must be a static integer", "got 3.0"),
            (True, TypeError, "num_classes must be an integer", "got a bool"),
        ]
    ),
    # hard maps
    Bad("scores as predictions", ValueError, ("must have the same shape", "(2, 3, 4, 3)"),
        COUNTS, (Y[..., None].repeat(3, -1), Y), IDS),
    Bad("mask against ids", ValueError, ("without num_classes must be bool", "labels", "int32"),
        COUNTS, (M, Y)),
    Bad("probabilities for masks", TypeError, ("must be bool masks", "float32"), COUNTS, (X, X)),
    Bad("a mask without class axis", ValueError, ("class axis", "()"),
        COUNTS, (jnp.array(True), jnp.array(True))),
    # predict_labels
    Bad("integer logits to predict", TypeError, ("logits must be floating", "int32"),
        PREDICT, (Y,)),
    Bad("a scalar to predict", ValueError, ("class axis", "()"), PREDICT, (jnp.array(0.0),)),
    Bad("empty logits", ValueError, ("must not be empty", "(2, 0, 3)"),
        PREDICT, (jnp.zeros((2, 0, 3)),)),
    Bad("threshold", ValueError, ("scalar or have shape (3,)", "(2,)"),
        PREDICT, (X,), {"activation": "sigmoid", "threshold": jnp.zeros(2)}),
    # class weights
    *(
        Bad(f"{name} {shape}", ValueError, (f"{name} must have shape (3,)", str(shape)),
            DICE_CE, (X, Y), {name: jnp.ones(shape)})
        for name in ("class_weights", "ce_class_weights")
        for shape in [(), (2,), (1, 3)]
    ),
    Bad("complex weights", TypeError, ("class_weights must be real", "complex64"),
        DICE_CE, (X, Y), {"class_weights": jnp.ones(3, jnp.complex64)}),
    # scores of a matrix
    *(
        Bad(f"Counts to {f.__name__}", TypeError, ("takes a confusion matrix", "Counts"), f, (C,))
        for f in (jaxseg.mean_iou, jaxseg.counts_from_confusion)
    ),
    Bad("weights of kappa", ValueError, ("'linear', 'quadratic' or an array [C, C]", "'cubic'"),
        jaxseg.cohen_kappa, (MATRIX,), {"weights": "cubic"}),
    Bad("array of weights", ValueError, ("weights must have shape (3, 3)", "(3,)"),
        jaxseg.cohen_kappa, (MATRIX,), {"weights": jnp.ones(3)}),
    Bad("complex weights of kappa", TypeError, ("weights must be a real number", "complex64"),
        jaxseg.cohen_kappa, (MATRIX,), {"weights": jnp.ones((3, 3), jnp.complex64)}),
    Bad("costs", ValueError, ("costs must have shape (3, 3)", "(3,)"),
        jaxseg.expected_cost, (MATRIX,), {"costs": jnp.ones(3)}),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_input(bad: Bad) -> None:
    inputs = {f"_{i}": x for i, x in enumerate(bad.args)}
    assert_raises(bad.error, bad.fragments, bad.function, **inputs, **bad.options)


# ---------------------------------------------------------------------------------- by kind


def each(*kinds: str) -> Any:
    chosen = cases.one_of_each(cases.cases(*kinds))
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.public)


@each(*SOFT)
def test_labels_must_fit_the_logits(case: Case) -> None:
    def raises(error: type[Exception], *fragments: str, x: Any, y: Any) -> None:
        assert_raises(error, ("labels must be", *fragments), case.function, _x=x, _y=y)

    x, _ = case.args()
    shape, classes = str(x.shape), x.shape[-1]
    raises(ValueError, shape, "got shape (8, 3, 1)", x=x, y=jnp.zeros((8, 3, 1), jnp.int32))
    raises(ValueError, shape, "got shape (3, 5)", x=x, y=jnp.zeros((3, 5), jnp.int32))
    raises(ValueError, shape, "got shape (1, 3, 5)", x=x, y=jnp.zeros((1, 3, 5), bool))
    raises(ValueError, shape, "got shape (8, 3, 5, 7)", x=x, y=jnp.zeros((*MAP, 7)))
    raises(ValueError, shape, "got shape ()", x=x, y=jnp.array(1))
    raises(TypeError, "got float32 ids", "cast", x=x, y=jnp.zeros(MAP))
    raises(TypeError, "complex64", x=x, y=jnp.zeros(MAP, jnp.complex64))
    if classes > 1:  # of one class, the mask may keep its class axis
        integers = jnp.zeros(x.shape, jnp.int32)
        raises(ValueError, "got integers of the shape", "bool", x=x, y=integers)
    if case.second:  # the classes are not the features
        return
    missing = "If " + ("probs" if case.options.get("activation", 0) is None else "logits") + " lack"
    no_class_axis = jnp.zeros(MAP)
    raises(ValueError, missing, "[..., None]", x=no_class_axis, y=jnp.zeros(MAP, jnp.int32))


@each(*SOFT)
def test_logits_must_be_floats_with_pixels(case: Case) -> None:
    x, y = case.args()
    for dtype in (jnp.int32, jnp.uint8, bool):
        integers = x.astype(dtype)
        fragments = ("must be floating point", str(integers.dtype))
        assert_raises(TypeError, fragments, case.function, _x=integers, _y=y)
    for shape in [(0, 3, 5), (8, 0, 5)]:
        empty, no_labels = jnp.zeros((*shape, x.shape[-1])), jnp.zeros(shape, jnp.int32)
        fragments = ("must not be empty", str(empty.shape))
        assert_raises(ValueError, fragments, case.function, _x=empty, _y=no_labels)
    fragments = ("class axis", "()")
    assert_raises(ValueError, fragments, case.function, _x=jnp.array(1.0), _y=jnp.array(1))


@each(*HARD)
def test_hard_maps_must_be_integers_of_one_shape(case: Case) -> None:
    y = jnp.zeros(MAP, jnp.int32)

    def raises(error: type[Exception], *fragments: str, x: Any, y: Any) -> None:
        assert_raises(error, fragments, case.function, _x=x, _y=y)

    for dtype in ("float32", "complex64"):
        raises(TypeError, "predictions must be integer", dtype, x=y.astype(dtype), y=y)
        raises(TypeError, "labels must be integer", dtype, x=y, y=y.astype(dtype))
    for shape in [(3, 5), (8, 3, 1), (8, 3, 5, 1), (8, 5, 3), ()]:
        other = jnp.zeros(shape, jnp.int32)
        raises(ValueError, "must have the same shape", f"and {shape}", x=y, y=other)
    raises(
        ValueError,
        "must have the same shape",
        "(4,) and (4, 1)",
        x=y[0, 0, :4],
        y=y[0, 0, :4, None],
    )
    empty = jnp.zeros((8, 0, 5), jnp.int32)
    raises(ValueError, "must not be empty", "(8, 0, 5)", x=empty, y=empty)


def test_a_call_of_too_many_pixels() -> None:
    maps = jax.ShapeDtypeStruct((2**11, 2**10, 2**10), jnp.int8)
    for function in (jaxseg.counts, jaxseg.confusion_matrix):
        with pytest.raises(ValueError, match=r"2\*\*31.*\(2048, 1024, 1024\)"):
            jax.eval_shape(lambda x, y, f=function: f(x, y, num_classes=2), maps, maps)


@each(*MAPS)
def test_where_must_be_a_bool_map(case: Case) -> None:
    x, y = case.args()

    def raises(error: type[Exception], *fragments: str, where: Any) -> None:
        assert_raises(error, fragments, case.function, _x=x, _y=y, where=where)

    for dtype in ("int32", "float32"):
        raises(TypeError, "where must be bool", dtype, where=jnp.ones(MAP, dtype))
    shapes = [(3, 5), (1, 3, 5), (8, 3, 1), ()]
    if x.shape[-1] > 1:  # of one class that is independent, the mask may have its class axis
        shapes.append((8, 3, 5, 1))
    for shape in shapes:
        fragments = (f"label map's shape {MAP}", f"got {shape}")
        raises(ValueError, *fragments, where=jnp.ones(shape, bool))


@each(*SOFT, "pixel", "ordered", "spatial")
def test_weights_must_be_floats_of_the_label_map(case: Case) -> None:
    x, y = case.args()

    def raises(error: type[Exception], *fragments: str, weights: Any) -> None:
        assert_raises(error, fragments, case.function, _x=x, _y=y, weights=weights)

    for dtype, hint in (("int32", "Cast them"), ("bool", "where= takes masks")):
        raises(TypeError, "weights must be floating", f"{dtype}. {hint}", weights=W.astype(dtype))
    rule = f"label map's shape {MAP}"
    hint = f"jnp.broadcast_to(weights, {MAP})"
    raises(ValueError, rule, "got (3, 5).", hint, weights=jnp.ones((3, 5)))
    for shape in [(8, 5, 3), (8, 3), (8, 3, 5, 2), (8, 3, 5, 1, 1)]:
        raises(ValueError, rule, f"got {shape}.", weights=jnp.ones(shape))


@pytest.mark.parametrize("argument", ["where", "weights"])
def test_a_class_axis_of_masks_and_weights_needs_independent_classes(argument: str) -> None:
    per_class = {argument: jnp.ones(X.shape, bool if argument == "where" else jnp.float32)}
    jaxseg.dice_loss(X, M, activation="sigmoid", **per_class)
    jaxseg.dice_loss(X, Y, activation=None, **per_class)
    jaxseg.bce_dice_loss(X, M, **per_class)
    rule = f"{argument} must have the label map's shape (2, 3, 4), got (2, 3, 4, 3)."
    for loss in (jaxseg.dice_loss, DICE_CE, jaxseg.cross_entropy_loss, jaxseg.top_k_loss):
        fragments = (rule, "in a softmax", "jaxseg.marginal_logits")
        assert_raises(ValueError, fragments, loss, _x=X, _y=Y, **per_class)
    for loss in (jaxseg.boundary_loss, jaxseg.lovasz_softmax_loss, jaxseg.cldice_loss):
        call = partial(loss, activation="sigmoid")
        assert_raises(ValueError, (rule, "one by one"), call, _x=X, _y=Y, **per_class)
    one = {argument: per_class[argument][..., :1]}
    jaxseg.bce_dice_loss(X[..., :1], Y, **one)
    hint = f"Drop the last axis: {argument}[..., 0]"
    assert_raises(ValueError, (hint,), DICE_CE, _x=X, _y=Y, **one)


@each(*MAPS)
def test_axis_must_name_axes_of_the_label_map(case: Case) -> None:
    x, y = case.args()

    def raises(error: type[Exception], *fragments: str, axis: Any) -> None:
        assert_raises(error, fragments, case.function, _x=x, _y=y, axis=axis)

    for axis in (3, -4, (0, 3), (-4,)):  # 3 is the class axis of the logits
        raises(ValueError, "label map's 3 axes", f"{axis} is out of range", axis=axis)
    for axis in ((1, 1), (1, -2)):
        raises(ValueError, "same axis twice", str(axis), axis=axis)
    for axis in (1.0, (0, 1.5), "b"):
        raises(TypeError, "axis must be None, an integer", repr(axis), axis=axis)


@each("hard", "soft")
def test_axes_by_other_names_are_no_error(case: Case) -> None:
    x, y = case.args()
    want = case.function(x, y, axis=(1, 2))
    for axis in ([1, 2], (-1, -2), (np.int64(2), 1)):
        got = case.function(x, y, axis=axis)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), got, want)


@each("counts", "text")
def test_scores_take_counts(case: Case) -> None:
    function = case.function
    leaves = [jnp.ones(CLASSES)] * 4
    for other, kind in [(tuple(leaves), "tuple"), (leaves, "list"), (None, "None")]:
        with pytest.raises(TypeError, match=f"takes Counts, got {kind}.*jaxseg.soft_counts"):
            function(other)
    for shapes in [((3,), (3,), (3,), (2,)), ((3,), (1,), (3,), (3,)), ((3,), (1, 3), (3,), (3,))]:
        c = jaxseg.Counts(*(jnp.ones(shape) for shape in shapes))
        with pytest.raises(ValueError, match=re.escape(f"one shape [..., C], got {[*shapes]}")):
            function(c)


@each("counts")
def test_scores_take_counts_under_jit(case: Case) -> None:
    assert_raises(TypeError, ("takes Counts", "got tuple"), case.function, _c=tuple(C))
    c = C._replace(tn=jnp.ones(2))
    fragments = ("four leaves of one shape [..., C]", "(3,), (2,)]")
    assert_raises(ValueError, fragments, case.function, _c=c)


@each("matrix", "convert")
def test_matrices_must_be_square(case: Case) -> None:
    for shape in [(3, 2), (3,), (), (2, 3, 1), (0, 0)]:
        fragments = ("must have shape [..., C, C]", f"got {shape}")
        assert_raises(ValueError, fragments, case.function, _m=jnp.ones(shape))
    for dtype in ("bool", "complex64"):
        fragments = ("must be integer or floating", dtype)
        assert_raises(TypeError, fragments, case.function, _m=jnp.ones((3, 3), dtype))


def test_sums_over_classes_need_classes() -> None:
    micro = jaxseg.Counts(*(leaf.sum() for leaf in C))
    assert jaxseg.dice(micro).shape == ()
    for function in (jaxseg.generalized_dice, jaxseg.class_report, jaxseg.class_table):
        with pytest.raises(ValueError, match=r"shape \(\)"):
            function(micro)


@pytest.mark.parametrize("function", [jaxseg.class_report, jaxseg.class_table])
def test_report_needs_one_name_a_class(function: Any) -> None:
    for names in (["a"], ["a"] * 4, []):
        with pytest.raises(ValueError, match=f"expected 3 names, one per class; got {len(names)}"):
            function(C, names=names)
    with pytest.raises(ValueError, match=rf"{function.__name__} .* leaves \[C\].*\(2, 3\)"):
        function(jaxseg.Counts(*jnp.ones((4, 2, 3))))
    for option in ("eps", "zero_division"):
        with pytest.raises(ValueError, match=rf"{option} must be one number.*shape \(3,\)"):
            function(C, **{option: jnp.ones(3)})
        with pytest.raises(TypeError, match=f"{option} must be a real number, got None"):
            function(C, **{option: None})


@pytest.mark.parametrize("column", ["", "class", "accuracy", 0, True])
def test_report_is_sorted_by_one_of_its_columns(column: Any) -> None:
    columns = "None, 'precision', 'recall', 'dice', 'iou', 'support'"
    with pytest.raises(ValueError, match=f"sort_by must be one of {columns}; got"):
        jaxseg.class_report(C, sort_by=column)


# ---------------------------------------------------------------------------------- what leads on

SHAPES = "(2, 3, 4)", "(2, 3, 4, 1)"
RUNNING = jaxseg.running(C)
XENT = jaxseg.cross_entropy_loss

LEADS = [
    Bad("float labels", TypeError, ("labels must be", "Cast the ids to an integer dtype."),
        COUNTS, (Y, Y.astype(float)), IDS),
    Bad("float labels of a matrix", TypeError, ("labels must be", "Cast the ids to an integer"),
        MATRIX_OF, (Y, Y.astype(float)), IDS),
    Bad("logits as predictions", TypeError, ("predictions must be", "predict_labels"),
        COUNTS, (X, Y), IDS),
    Bad("float predictions", TypeError, ("predictions must be", "Cast ids to an integer dtype"),
        COUNTS, (Y.astype(float), Y), IDS),
    Bad("probabilities", TypeError, ("predictions must be", "with a threshold"),
        COUNTS, (X[..., 0], W), {"num_classes": 1}),
    Bad("float masks of the truth", TypeError, ("labels without", "Cast masks to bool."),
        COUNTS, (M, X)),
    *(
        Bad(f"ids with an axis of 1 of {f.__name__} {hint}", ValueError, (hint, *SHAPES), f, ids,
            IDS)
        for f in (COUNTS, MATRIX_OF)
        for hint, ids in [
            ("Drop the last axis: labels[..., 0].", (Y, Y[..., None])),
            ("Drop the last axis: predictions[..., 0].", (Y[..., None], Y)),
        ]
    ),
    *(
        Bad(f"labels with an axis of 1 of {f.__name__}", ValueError,
            ("labels[..., 0]", "(2, 3, 4, 1)"), f, (X, Y[..., None]))
        for f in (SOFT_COUNTS, jaxseg.dice_loss, XENT, DICE_CE)
    ),
    *(
        Bad(f"overlap {came} of {loss.__name__}", ValueError,
            (f"overlap must be one of {choices};", f"got {came}."), loss, (X, Y),
            {"overlap": value})
        for loss, choices, wrong in [
            (jaxseg.dice_loss, "'product', 'squared', 'minimum'", "sum"),
            (jaxseg.iou_loss, "'product', 'squared', 'minimum'", ""),
            (jaxseg.tversky_loss, "'product', 'minimum'", "squared"),
            (jaxseg.focal_tversky_loss, "'product', 'minimum'", "squared"),
        ]
        for value, came in [
            (wrong, repr(wrong)),
            (None, "None"),
            (True, "True"),
            (["product"], "list"),
            (jnp.ones(2), "an array of shape (2,) and dtype float32"),
        ]
    ),
    Bad("asymmetric", TypeError, ("asymmetric must be True or False", "static_argnames"),
        jaxseg.unified_focal_loss, (X, Y), {"asymmetric": jnp.array(True)}),
]  # fmt: skip


@pytest.mark.parametrize("bad", LEADS, ids=lambda bad: bad.name)
def test_errors_lead_on(bad: Bad) -> None:
    test_bad_input(bad)


def by_kind(case: Case) -> tuple[Any, str, str]:
    """A right argument of a score, what it is called, and the function that makes it of maps."""
    if case.kind == "matrix":
        return MATRIX, "a confusion matrix", "confusion_matrix"
    return C, "Counts", "counts"


@each("counts", "text", "matrix")
def test_scores_of_label_maps_name_the_statistic(case: Case) -> None:
    statistic, takes, maker = by_kind(case)
    score = getattr(jaxseg, case.public)
    for maps in ((Y, Y), (Y, Y, Y)):
        with pytest.raises(TypeError, match=f"takes {takes}, got {len(maps)} arguments") as error:
            score(*maps)
        call = f"{score.__name__}(jaxseg.{maker}(predictions, labels, num_classes"
        assert call in str(error.value)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        score()
    named = score(**{"matrix" if case.kind == "matrix" else "counts": statistic})
    np.testing.assert_array_equal(named, score(statistic))


@each("counts", "text", "matrix", "convert", "spread")
def test_scores_of_a_running_sum_name_total(case: Case) -> None:
    assert_raises(TypeError, ("got Running", "jaxseg.total"), case.function, _r=RUNNING)


@each("counts", "text")
def test_scores_of_a_matrix_name_its_conversion(case: Case) -> None:
    fragments = ("takes Counts, got an array of shape (3, 3)", "jaxseg.counts_from_confusion")
    assert_raises(TypeError, fragments, case.function, _m=MATRIX)
    with pytest.raises(TypeError, match=r"counts_from_confusion.*jaxseg\.counts"):
        case.function(np.asarray(MATRIX))


@each("matrix", "convert")
def test_scores_of_counts_that_need_a_matrix_say_so(case: Case) -> None:
    fragments = ("matrix [..., C, C], got Counts", "jaxseg.confusion_matrix", "nanmean(jaxseg.iou")
    assert_raises(TypeError, fragments, case.function, _c=C)


def test_moments_are_made_of_values() -> None:
    for function in (jaxseg.mean, jaxseg.std):
        fragments = ("takes Moments, got an array of shape (3,)", "jaxseg.moments")
        assert_raises(TypeError, fragments, function, _x=jnp.ones(3))


@each("counts", "matrix")
def test_numbers_of_scores_are_numbers(case: Case) -> None:
    """None, text, a bool or a complex number: a TypeError that names the argument."""
    statistic, _, _ = by_kind(case)
    score = getattr(jaxseg, case.public)
    numbers = [
        p.name
        for p in inspect.signature(score).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in ("weights", "costs")
    ]
    assert "zero_division" in numbers
    for name in numbers:
        for bad in (None, "1", True, 1j, [1.0], jnp.ones((), bool), jnp.ones((), jnp.complex64)):
            with pytest.raises(TypeError, match=f"{name} must be a real number, got"):
                score(statistic, **{name: bad})
        for good in (1, np.float32(0.5), jnp.float32(0.5)):
            jax.eval_shape(lambda s, n=name, x=good: score(s, **{n: x}), statistic)


def test_errors_are_plain_english() -> None:
    package = Path(jaxseg.__file__).parent
    for path in package.rglob("*.py"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        for odd in ("one each class", "a line each class", "one name a class", "one score a class"):
            assert odd not in text, path


# ---------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("form", ["ids", "class axis kept", "both 0/255"])
def test_masks_of_0_and_255_never_leave_0_to_1(form: str) -> None:
    """t43: 255 is no class, so such a mask scores as an empty one; no score is 255 or negative."""
    mask = jnp.asarray(np.random.default_rng(0).choice([0, 255], (2, 4, 4)), jnp.uint8)
    logits = jnp.ones((2, 4, 4, 1))
    if form == "both 0/255":
        c = jaxseg.counts(mask, mask, num_classes=1)
        assert int(c.tp[0]) == int(c.fp[0]) == int(c.fn[0]) == 0
        assert int(c.tn[0]) == mask.size
    else:
        labels = mask[..., None] if form == "class axis kept" else mask
        c = jaxseg.soft_counts(logits, labels, activation="sigmoid")
        assert float(c.tp[0]) == float(c.fn[0]) == 0
        for loss in (jaxseg.dice_loss, jaxseg.iou_loss, jaxseg.tversky_loss):
            assert 0 <= float(loss(logits, labels, activation="sigmoid")[0]) <= 1
        assert float(jaxseg.bce_dice_loss(logits, labels)) >= 0
    for score in cases.cases("counts"):
        value, (low, high) = score.function(c, zero_division=0.5), score.bounds
        assert ((value >= low) & (value <= high)).all(), score.public


def test_masks_of_0_and_255_with_a_class_axis_are_refused() -> None:
    mask = jnp.full((2, 4, 4, 3), 255, jnp.uint8)
    with pytest.raises(ValueError, match="cast them to bool"):
        jaxseg.dice_loss(jnp.ones(mask.shape), mask)
    with pytest.raises(ValueError, match="must be bool masks"):
        jaxseg.counts(mask, mask)


def test_probabilities_are_no_masks() -> None:
    """t44 and t45: floats are neither truncated, compared with 1, nor thresholded unasked."""
    probs = jnp.full((2, 4, 4, 1), 0.9)
    for bad in (probs, probs[..., 0]):
        with pytest.raises(TypeError, match="predict_labels"):
            jaxseg.counts(bad, bad)
        with pytest.raises(TypeError, match="predict_labels"):
            jaxseg.counts(bad, bad, num_classes=1)
        with pytest.raises(TypeError, match="predict_labels"):
            jaxseg.confusion_matrix(bad, bad, num_classes=2)
