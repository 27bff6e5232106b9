"""Counts, confusion matrices and predicted labels against the slow reference, and at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jaxseg
from jaxseg._kernels import blocks

AXES = [None, 0, (1, 2), -1, ()]
SHAPE = (2, 3, 5)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_ids(dtype, num_classes: int, shape=SHAPE, seed: int = 0) -> np.ndarray:
    """Ids in [0, C) mostly, and some outside, at both ends where the dtype has them."""
    if dtype is bool:
        return rng(seed).random(shape) < 0.5
    choices = [*range(num_classes), num_classes, num_classes + 2]
    choices += [255] if dtype is np.uint8 else [-1, -2]
    return rng(seed).choice(choices, shape).astype(dtype)


def assert_counts(actual, expected, **tolerance) -> None:
    for name, a, b in zip(jaxseg.Counts._fields, actual, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, err_msg=name, **({"rtol": 0} | tolerance))


# ---------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("num_classes", [1, 2, 5])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int32])
def test_counts_equal_the_reference(dtype, num_classes, axis):
    predictions, labels = (random_ids(dtype, num_classes, seed=s) for s in (1, 2))
    where = None if num_classes == 2 else rng(3).random(SHAPE) < 0.7
    c = jaxseg.counts(predictions, labels, num_classes=num_classes, where=where, axis=axis)
    assert {leaf.dtype for leaf in c} == {jnp.int32.dtype}
    assert_counts(c, reference.hard_counts(predictions, labels, num_classes, where, axis))


@pytest.mark.parametrize("num_classes", [1, 4, 300])
def test_counts_under_vmap_are_those_per_image(num_classes):
    predictions, labels = (random_ids(np.int32, num_classes, seed=s) for s in (1, 2))
    where = rng(3).random(SHAPE) < 0.7
    count = lambda p, g, w: jaxseg.counts(p, g, num_classes=num_classes, where=w)  # noqa: E731
    axis = tuple(range(1, len(SHAPE)))
    expected = reference.hard_counts(predictions, labels, num_classes, where, axis)
    assert_counts(jax.vmap(count)(predictions, labels, where), expected)
    first = reference.hard_counts(
        predictions, np.broadcast_to(labels[:1], SHAPE), num_classes, where, axis
    )
    assert_counts(jax.vmap(count, in_axes=(0, None, 0))(predictions, labels[0], where), first)


def test_the_order_of_pixels_changes_no_count():
    maps = np.stack([random_ids(np.uint8, 19, seed=s).ravel() for s in (1, 2)])
    shuffled = rng(3).permutation(maps, axis=1)
    assert_counts(jaxseg.counts(*shuffled, num_classes=19), jaxseg.counts(*maps, num_classes=19))


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_counts_of_bool_masks_equal_the_reference(num_classes, axis):
    predictions, labels = rng(1).random((2, *SHAPE, num_classes)) < 0.5
    where = rng(2).random(SHAPE) < 0.7
    c = jaxseg.counts(predictions, labels, where=where, axis=axis)
    assert_counts(c, reference.hard_counts(predictions, labels, None, where, axis))


def test_overlapping_masks_are_counted_class_by_class():
    both, none = [True, True], [False, False]
    c = jaxseg.counts(jnp.array([both, none]), jnp.array([both, both]))
    assert_counts(c, ([1, 1], [0, 0], [1, 1], [0, 0]))


# dtype, an id that is no class of two
OUTSIDE = [
    (np.uint8, 2),
    (np.uint8, 255),
    (np.int8, -1),
    (np.int8, 127),
    (np.int32, -100),
    (np.int32, 2**31 - 1),
    (np.uint16, 65535),
    (np.uint32, 2**31 - 1),
]


@pytest.mark.parametrize(("dtype", "outside"), OUTSIDE)
def test_prediction_outside_is_a_miss_and_no_false_positive(dtype, outside):
    labels = np.array([0, 1, 1], dtype)
    predictions = np.array([0, 1, outside], dtype)
    c = jaxseg.counts(predictions, labels, num_classes=2)
    assert_counts(c, ([1, 1], [0, 0], [0, 1], [2, 1]))


@pytest.mark.parametrize(("dtype", "outside"), OUTSIDE)
def test_label_outside_belongs_to_no_class(dtype, outside):
    labels = np.array([0, outside, outside], dtype)
    predictions = np.array([0, 1, outside], dtype)
    c = jaxseg.counts(predictions, labels, num_classes=2)
    assert_counts(c, ([1, 0], [0, 1], [0, 0], [2, 2]))


@pytest.mark.parametrize("value", [2, 255, 7])
def test_mask_with_another_nonzero_value_is_not_the_class(value):
    c = jaxseg.counts(np.uint8([1, value]), np.uint8([1, value]), num_classes=1)
    assert_counts(c, ([1], [0], [0], [1]))


def test_256_classes_of_uint8_ids_do_not_wrap():
    ids = np.arange(256, dtype=np.uint8)
    c = jaxseg.counts(ids, ids, num_classes=257)
    assert np.asarray(c.tp).tolist() == [1] * 256 + [0]
    matrix = jaxseg.confusion_matrix(ids, ids, num_classes=257)
    assert np.diagonal(matrix).tolist() == [1] * 256 + [0]


def test_predictions_and_labels_may_differ_in_dtype():
    predictions = np.uint8([0, 1, 255])
    labels = np.int32([0, 1, -1])
    c = jaxseg.counts(predictions, labels, num_classes=2)
    assert_counts(c, ([1, 1], [0, 0], [0, 0], [2, 2]))  # a uint8 255 is not -1


def test_ignored_pixels_do_not_count_at_any_value():
    labels = np.array([0, 1, 255, 1], np.uint8)
    predictions = np.array([0, 1, 0, 0], np.uint8)
    c = jaxseg.counts(predictions, labels, num_classes=2, where=labels != 255)
    assert_counts(c, reference.hard_counts(predictions[[0, 1, 3]], labels[[0, 1, 3]], 2))


def test_counts_are_exact_above_two_to_the_24_pixels():
    pixels = 2**24 + 3
    ones = jnp.ones(pixels, jnp.uint8)
    c = jaxseg.counts(ones, ones, num_classes=1)
    assert_counts(c, ([pixels], [0], [0], [0]))


def test_confusion_matrix_is_exact_above_two_to_the_24_pixels():
    pixels = 2**24 + 3
    ones = jnp.ones(pixels, jnp.uint8)
    assert jaxseg.confusion_matrix(ones, ones, num_classes=1).tolist() == [[pixels]]


@pytest.mark.parametrize("shape", [(2**31,), (2**11, 2**10, 2**10)])
def test_two_to_the_31_pixels_are_refused_without_allocating(shape):
    ids = jax.ShapeDtypeStruct(shape, jnp.uint8)
    masks = jax.ShapeDtypeStruct((*shape, 1), jnp.bool)
    for function, x in (
        (lambda a, b: jaxseg.counts(a, b, num_classes=2), ids),
        (lambda a, b: jaxseg.confusion_matrix(a, b, num_classes=2), ids),
        (jaxseg.counts, masks),
    ):
        with pytest.raises(ValueError, match=r"2\*\*31"):
            jax.eval_shape(function, x, x)


def test_one_pixel_below_two_to_the_31_is_accepted():
    ids = jax.ShapeDtypeStruct((2**31 - 1,), jnp.uint8)
    c = jax.eval_shape(lambda a, b: jaxseg.counts(a, b, num_classes=2), ids, ids)
    assert c.tp.shape == (2,)


def test_counts_add_leaf_by_leaf():
    a = jaxseg.Counts(*(jnp.array([i, i + 1]) for i in range(4)))
    assert isinstance(a + a, jaxseg.Counts)
    assert_counts(a + a, [[0, 2], [2, 4], [4, 6], [6, 8]])
    assert_counts(jax.jit(lambda a, b: a + b)(a, a), a + a)


@pytest.mark.parametrize("other", [1, (1, 2, 3, 4), jnp.ones(2)])
def test_counts_add_to_nothing_else(other):
    a = jaxseg.Counts(*(jnp.zeros(2) for _ in range(4)))
    with pytest.raises(TypeError):
        a + other


# ---------------------------------------------------------------------------------- matrix


MATRIX_CASES = [
    *((dtype, c, (1, 2)) for dtype in (bool, np.uint8, np.int8) for c in (1, 2, 5)),
    *((np.int32, c, axis) for c in (1, 3) for axis in AXES),
]


@pytest.mark.parametrize(("dtype", "num_classes", "axis"), MATRIX_CASES)
def test_confusion_matrix_equals_the_reference(dtype, num_classes, axis):
    predictions, labels = (random_ids(dtype, num_classes, seed=s) for s in (1, 2))
    where = None if num_classes == 2 else rng(3).random(SHAPE) < 0.7
    matrix = jaxseg.confusion_matrix(
        predictions, labels, num_classes=num_classes, where=where, axis=axis
    )
    assert matrix.dtype == jnp.int32
    expected = reference.confusion_matrix(predictions, labels, num_classes, where, axis)
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(("dtype", "outside"), OUTSIDE)
def test_confusion_matrix_drops_pairs_with_an_id_outside(dtype, outside):
    labels = np.array([0, 1, outside, outside, 1], dtype)
    predictions = np.array([0, outside, 1, outside, 0], dtype)
    matrix = jaxseg.confusion_matrix(predictions, labels, num_classes=2)
    assert matrix.tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("shape", [(7,), (1,), (2, 3), (2, 3, 4, 5)], ids=str)
def test_confusion_matrix_of_any_number_of_axes(shape):
    predictions, labels = (rng(s).integers(0, 3, shape) for s in (1, 2))
    matrix = jaxseg.confusion_matrix(predictions, labels, num_classes=3)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(predictions, labels, 3))


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_counts_from_confusion_equal_counts(num_classes, axis):
    predictions, labels = (rng(s).integers(0, num_classes, SHAPE) for s in (1, 2))
    kwargs = {"num_classes": num_classes, "axis": axis}
    matrix = jaxseg.confusion_matrix(predictions, labels, **kwargs)
    c = jaxseg.counts_from_confusion(matrix)
    assert {leaf.dtype for leaf in c} == {jnp.int32.dtype}
    assert_counts(c, jaxseg.counts(predictions, labels, **kwargs))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int32", "int32"), ("uint8", "int32"), ("float32", "float32"), ("float16", "float32")],
)
def test_counts_from_confusion_are_of_at_least_32_bits(dtype, expected):
    c = jaxseg.counts_from_confusion(np.array([[200, 100], [0, 250]], dtype))
    assert {str(leaf.dtype) for leaf in c} == {expected}
    assert_counts(c, ([200, 250], [0, 100], [100, 0], [250, 200]))


def test_counts_from_a_float_matrix_keep_small_sums_beside_large_cells():
    c = jaxseg.counts_from_confusion(np.array([[1e9, 3], [5, 2]], np.float32))
    assert_counts(c, ([1e9, 2], [5, 3], [3, 5], [2, 1e9]))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_numpy_int64_ids_that_int32_cannot_hold_are_of_no_class(dtype):
    far = np.array([2**32, 2**32 + 1, 2**40, 1], dtype)
    labels = np.array([0, 1, 1, 1], dtype)
    assert jaxseg.counts(far, labels, num_classes=2).tp.tolist() == [0, 1]
    assert jaxseg.confusion_matrix(labels, far, num_classes=2).tolist() == [[0, 0], [0, 1]]
    probs = np.full((4, 2), 0.5, np.float32)
    assert jaxseg.soft_counts(probs, far).tp.tolist() == [0, 0.5]


def test_a_prediction_of_no_class_lowers_the_mean_iou_of_counts():
    logits = jnp.array([[5.0, 0], [jnp.nan, 0], [jnp.nan, 1], [0, 5]])
    predictions = jaxseg.predict_labels(logits)
    c = jaxseg.counts(predictions, jnp.array([0, 0, 1, 1]), num_classes=2)
    assert jaxseg.iou(c).tolist() == [0.5, 0.5]


def test_numpy_int64_confusion_above_two_to_the_31_is_not_cut():
    matrix = np.array([[3 * 2**33, 2**31], [1, 2**32]])
    scores = jaxseg.iou(jaxseg.counts_from_confusion(matrix))
    union = 3 * 2**33 + 2**31 + 1, 2**32 + 2**31 + 1
    np.testing.assert_allclose(scores, [3 * 2**33 / union[0], 2**32 / union[1]], rtol=1e-6)


# ---------------------------------------------------------------------------------- weights

WEIGHT_SHAPES = [SHAPE, (2, 1, 1), (1, 3, 5), (1, 1, 1)]


def weights_of(shape, seed: int = 4) -> np.ndarray:
    return (rng(seed).gamma(2, size=shape) * (rng(seed + 1).random(shape) < 0.8)).astype(np.float32)


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize(
    ("num_classes", "shape"), [*zip([1, 2, 5, 300], WEIGHT_SHAPES, strict=True)]
)
def test_weighted_counts_equal_the_reference(num_classes, shape, axis):
    predictions, labels = (random_ids(np.int32, num_classes, seed=s) for s in (1, 2))
    where = None if num_classes == 2 else rng(3).random(SHAPE) < 0.7
    weights = weights_of(shape)
    kwargs = {"where": where, "weights": weights, "axis": axis}
    c = jaxseg.counts(predictions, labels, num_classes=num_classes, **kwargs)
    assert {leaf.dtype for leaf in c} == {jnp.float32.dtype}
    expected = reference.hard_counts(predictions, labels, num_classes, **kwargs)
    assert_counts(c, expected, rtol=2e-7)
    if num_classes <= 5:
        matrix = jaxseg.confusion_matrix(predictions, labels, num_classes=num_classes, **kwargs)
        assert matrix.dtype == jnp.float32
        expected = reference.confusion_matrix(predictions, labels, num_classes, **kwargs)
        np.testing.assert_allclose(matrix, expected, rtol=2e-7)


@pytest.mark.parametrize("axis", [None, (1, 2)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_class_that_is_not_annotated_does_not_count(weighted, axis):
    predictions, labels = rng(1).random((2, *SHAPE, 3)) < 0.5
    where = rng(2).random((*SHAPE, 3)) < 0.7
    where[0, ..., 1] = False
    kwargs = {"where": where, "axis": axis, "weights": weights_of(SHAPE) if weighted else None}
    c = jaxseg.counts(predictions, labels, **kwargs)
    assert c.tp.dtype == (jnp.float32 if weighted else jnp.int32)
    assert_counts(c, reference.hard_counts(predictions, labels, **kwargs), rtol=2e-7)


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 2), (3, 5, 3)], ids=str)
def test_a_mask_of_classes_has_the_shape_of_the_maps(shape):
    masks = np.zeros((*SHAPE, 3), bool)
    with pytest.raises(ValueError, match="where must have the label map's shape"):
        jaxseg.counts(masks, masks, where=np.ones(shape, bool))
    with pytest.raises(ValueError, match="where must have the label map's shape"):
        jaxseg.counts(masks[..., 0], masks[..., 0], where=masks, num_classes=2)


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize(
    "shape", [SHAPE, (2, 1, 1), (*SHAPE, 3), (2, 1, 1, 3), (*SHAPE, 1)], ids=str
)
def test_weighted_counts_of_masks_equal_the_reference(shape, axis):
    predictions, labels = rng(1).random((2, *SHAPE, 3)) < 0.5
    where = rng(2).random(SHAPE) < 0.7
    kwargs = {"where": where, "weights": weights_of(shape), "axis": axis}
    c = jaxseg.counts(predictions, labels, **kwargs)
    assert_counts(c, reference.hard_counts(predictions, labels, **kwargs), rtol=2e-7)


TWO_MAPS = random_ids(np.uint8, 3, seed=1), random_ids(np.uint8, 3, seed=2)
HARD = {  # of predictions, labels and further arguments
    "counts": lambda *maps, **kwargs: jaxseg.counts(*maps, num_classes=3, **kwargs),
    "masks": lambda *maps, **kwargs: jaxseg.counts(
        *(reference.one_hot(np.asarray(x), 3) for x in maps), **kwargs
    ),
    "matrix": lambda *maps, **kwargs: jaxseg.confusion_matrix(*maps, num_classes=3, **kwargs),
}
each_hard = pytest.mark.parametrize("name", HARD)


def assert_equal(actual, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@each_hard
def test_weights_that_are_integers_repeat_pixels(name):
    weights = rng(5).integers(0, 9, SHAPE)
    repeated = [np.repeat(x.ravel(), weights.ravel()) for x in TWO_MAPS]
    assert_equal(HARD[name](*TWO_MAPS, weights=weights.astype(np.float32)), HARD[name](*repeated))


@each_hard
def test_weights_of_zero_and_one_are_a_mask(name):
    where = rng(5).random(SHAPE) < 0.6
    expected = HARD[name](*TWO_MAPS, where=where, axis=(1, 2))
    assert_equal(HARD[name](*TWO_MAPS, weights=where.astype(np.float32), axis=(1, 2)), expected)
    unknown = np.where(where, 1, np.nan).astype(np.float32)  # where they do not count
    assert_equal(HARD[name](*TWO_MAPS, weights=unknown, where=where, axis=(1, 2)), expected)


@each_hard
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_other_floats(name, dtype):
    weights = weights_of(SHAPE).astype(dtype)
    result = HARD[name](*TWO_MAPS, weights=weights)
    assert_equal(result, HARD[name](*TWO_MAPS, weights=weights.astype(np.float32)))
    with jax.enable_x64(True):
        wide = HARD[name](*TWO_MAPS, weights=jnp.asarray(weights, jnp.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {np.dtype("float64")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), result, wide)


@each_hard
def test_weights_under_vmap_are_those_per_image(name):
    if name == "masks":
        maps = [reference.one_hot(x, 3) for x in TWO_MAPS]
        run = jaxseg.counts
    else:
        maps, run = TWO_MAPS, HARD[name]
    weights = weights_of(SHAPE)
    of_one = lambda p, g, w: run(p, g, weights=w)  # noqa: E731
    assert_equal(jax.vmap(of_one)(*maps, weights), run(*maps, weights=weights, axis=(1, 2)))
    shared = jax.vmap(of_one, in_axes=(0, 0, None))(*maps, weights[0])
    of_all = np.broadcast_to(weights[:1], SHAPE)
    assert_equal(shared, run(*maps, weights=of_all, axis=(1, 2)))


@pytest.mark.parametrize(("weight", "pixels"), [(1.0, 2**24 + 2**12), (0.1, 2**20)])
def test_weights_of_many_pixels_lose_none(weight, pixels):
    """A plain sum in float32 stops at 2**24, and is wrong in the third digit of the other."""
    ids = jnp.ones(pixels, jnp.uint8)
    weights = jnp.full(1, weight, jnp.float32)
    matrix = jaxseg.confusion_matrix(ids, ids, num_classes=1, weights=weights)
    np.testing.assert_allclose(matrix, [[pixels * float(np.float32(weight))]], rtol=6e-8)


@pytest.mark.parametrize("num_classes", [1, 5, 100])
def test_what_no_pixel_is_weighs_exactly_nothing(num_classes):
    """A class predicted everywhere has no negatives, whatever the weights add up to."""
    shape = (90, 100)
    weights = 10 ** weights_of(shape)
    filled = np.full(shape, num_classes // 2 or 1, np.uint8)
    labels = rng(1).integers(0, max(num_classes, 2), shape).astype(np.uint8)
    kwargs = {"num_classes": num_classes, "weights": weights}
    c = jaxseg.counts(filled, labels, **kwargs)
    class_ = num_classes // 2
    assert c.tn[class_] == c.fn[class_] == 0 < c.fp[class_]
    assert np.isnan(jaxseg.negative_predictive_value(c)[class_])
    assert jaxseg.dice(jaxseg.counts(labels, labels, **kwargs)).tolist() == [1] * num_classes


def test_running_takes_weighted_counts():
    weights = weights_of(SHAPE)
    one = HARD["counts"](*TWO_MAPS, weights=weights)
    state = sum([jaxseg.running(one)] * 3, start=0)
    assert_counts(jaxseg.total(state), [3 * np.float64(leaf) for leaf in one], rtol=1e-12)


def test_weights_have_no_derivative():
    loss = lambda w: HARD["counts"](*TWO_MAPS, weights=w).tp.sum()  # noqa: E731
    assert not jax.jit(jax.grad(loss))(jnp.ones(SHAPE)).any()


WRONG_WEIGHTS = [  # weights, whether the maps are masks, the error and what it says
    (np.ones((3, 5), np.float32), False, ValueError, r"jnp\.broadcast_to\(weights, \(2, 3, 5\)\)"),
    (np.float32(2), False, ValueError, "label map's shape"),
    (np.ones((2, 3, 4), np.float32), False, ValueError, r"got \(2, 3, 4\)"),
    (np.ones((*SHAPE, 3), np.float32), False, ValueError, "label map's shape"),
    (np.ones((*SHAPE, 2), np.float32), True, ValueError, r"label map's shape \(2, 3, 5, 3\)"),
    (np.ones(SHAPE, bool), False, TypeError, "where= takes masks"),
    (np.ones(SHAPE, int), True, TypeError, "Cast them to a float dtype"),
    (np.ones(SHAPE, complex), False, TypeError, "floating point"),
]


@pytest.mark.parametrize(("weights", "masks", "error", "message"), WRONG_WEIGHTS)
def test_wrong_weights_are_refused(weights, masks, error, message):
    for name in ("masks",) if masks else ("counts", "matrix"):
        with pytest.raises(error, match=message):
            HARD[name](*TWO_MAPS, weights=weights)
        with pytest.raises(error, match=message):
            jax.jit(lambda w, name=name: HARD[name](*TWO_MAPS, weights=w))(weights)


# ---------------------------------------------------------------------------------- soft counts


def soft_case(kind: str, shape, num_classes: int = 3, seed: int = 0):
    """Logits and labels: ids, dense bool, dense float."""
    logits = 2 * rng(seed).standard_normal((*shape, num_classes))
    ids = rng(seed + 1).integers(-1, num_classes + 1, shape)
    labels = {
        "ids": ids,
        "bool": rng(seed + 2).random((*shape, num_classes)) < 0.4,
        "soft": rng(seed + 3).random((*shape, num_classes)),
    }[kind]
    return logits, labels.astype(np.float32) if kind == "soft" else labels


ACTIVATIONS = [None, "softmax", "sigmoid"]
SOFT_CASES = [
    *((a, labels, True, None) for a in ACTIVATIONS for labels in ("ids", "bool", "soft")),
    *((a, "ids", False, axis) for a in ACTIVATIONS for axis in AXES),
    *((a, "soft", True, (1, 2)) for a in ACTIVATIONS),
]


@pytest.mark.parametrize(("activation", "labels", "masked", "axis"), SOFT_CASES, ids=str)
def test_soft_counts_equal_the_reference(activation, labels, masked, axis):
    logits, truth = soft_case(labels, SHAPE)
    x = logits if activation else reference.softmax(logits)
    where = rng(9).random(SHAPE) < 0.7 if masked else None
    kwargs = {"activation": activation, "where": where, "axis": axis}
    c = jax.jit(lambda x: jaxseg.soft_counts(x, truth, **kwargs))(x.astype(np.float32))
    assert {leaf.dtype for leaf in c} == {jnp.float32.dtype}
    expected = reference.soft_counts(reference.ACTIVATIONS[activation](x), truth, where, axis)
    assert_counts(c, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", ["mask", "mask with its class axis", "bool", "float"])
def test_soft_counts_of_one_class_take_every_form_of_mask(labels):
    logits = rng(1).standard_normal((2, 4, 1))
    mask = rng(2).integers(0, 2, (2, 4))
    truth = {
        "mask": mask,
        "mask with its class axis": mask[..., None],
        "bool": mask[..., None] == 1,
        "float": mask[..., None].astype(np.float32),
    }[labels]
    c = jaxseg.soft_counts(logits.astype(np.float32), truth, activation="sigmoid")
    expected = reference.soft_counts(reference.sigmoid(logits), mask)
    assert_counts(c, expected, rtol=1e-6)


def test_soft_counts_of_hard_probabilities_are_the_hard_counts():
    predictions, labels = (rng(s).integers(0, 3, SHAPE) for s in (1, 2))
    probs = reference.one_hot(predictions, 3).astype(np.float32)
    c = jaxseg.soft_counts(probs, labels, axis=(1, 2))
    assert_counts(c, jaxseg.counts(predictions, labels, num_classes=3, axis=(1, 2)))


def test_soft_counts_of_float64_stay_float64():
    logits, labels = soft_case("ids", SHAPE)
    with jax.enable_x64(True):
        c = jaxseg.soft_counts(jnp.asarray(logits), labels, activation="softmax")
        assert c.tp.dtype == jnp.float64
    assert_counts(c, reference.soft_counts(reference.softmax(logits), labels), rtol=1e-12)


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_sums_a_512_plane_within_a_percent(dtype, activation):
    logits = rng(1).standard_normal((512, 512, 2)) + np.array([1.0, -1.0])
    labels = rng(2).integers(0, 2, (512, 512))
    x = logits if activation else reference.softmax(logits)
    c = jaxseg.soft_counts(jnp.asarray(x, dtype), labels, activation=activation)
    assert {leaf.dtype for leaf in c} == {jnp.float32.dtype}
    probs = reference.ACTIVATIONS[activation](x)
    assert_counts(c, reference.soft_counts(probs, labels), rtol=0.01)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_three_pixels_in_four_million_keep_their_overlap(activation):
    shape = (2048, 2048)
    masks = np.zeros(shape, bool)
    masks[7, 5:8] = True
    logits = np.where(masks, 1.0, -1.0)[..., None].astype(np.float32)
    x = logits if activation else reference.sigmoid(logits)
    c = jaxseg.soft_counts(x, masks, activation=activation)
    expected = reference.soft_counts(reference.sigmoid(logits.astype(np.float64)), masks)
    assert_counts(c, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
def test_masked_pixels_may_hold_nan_and_infinity(activation, bad):
    logits, labels = soft_case("soft", (3, 4))
    logits = logits.astype(np.float32)
    where = np.ones((3, 4), bool)
    where[1, 2] = False
    logits[1, 2], labels[1, 2] = bad, np.nan

    def tp(x):
        return jaxseg.soft_counts(x, labels, activation=activation, where=where).tp.sum()

    probs = reference.ACTIVATIONS[activation](np.where(where[..., None], logits, 0.0))
    value, gradient = jax.jit(jax.value_and_grad(tp))(logits)
    clean = np.where(where[..., None], labels, 0.0)
    np.testing.assert_allclose(
        value, reference.soft_counts(probs, clean, where)[0].sum(), rtol=1e-5
    )
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[1, 2] == 0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_soft_counts_are_finite_at_extreme_logits(activation):
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]], np.float32)
    c = jaxseg.soft_counts(logits, np.array([0, 1, 1]), activation=activation)
    assert_counts(c, ([1, 1], [1, 0], [0, 1], [1, 1]))


# ---------------------------------------------------------------------------------- blocks

MAPS = [(17, 19), (2, 13, 11), (2, 5, 7, 3), (23,)]
MAP_AXES = [
    (shape, axis)
    for shape, axes in zip(
        MAPS,
        [
            [None, 0, 1],
            [None, (1, 2), -1, (0, 2), (0, 1), ()],
            [(1, 2, 3), (1, 3)],
            [None],
        ],
        strict=True,
    )
    for axis in axes
]


def whole_map(logits, labels, activation, axis):
    """The same counts without blocks: the activation taken outside."""
    probs = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[activation](logits)
    return jaxseg.soft_counts(probs, labels, axis=axis)


@pytest.fixture(scope="class")
def small_blocks():
    """Blocks of 256 bytes: a dozen or so in the maps above, and a remainder."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "block_bytes", lambda: 256)
        yield
    jax.clear_caches()


@pytest.mark.usefixtures("small_blocks")
class TestBlocks:
    @pytest.mark.slow  # the law of derivatives sees some of these
    @pytest.mark.parametrize(("shape", "axis"), MAP_AXES, ids=str)
    @pytest.mark.parametrize("labels", ["ids", "soft"])
    def test_values_and_gradients_equal_those_of_the_whole(self, labels, shape, axis):
        logits, truth = soft_case(labels, shape)
        x, truth = jnp.asarray(logits, jnp.float32), jnp.asarray(truth)
        activation = "softmax" if labels == "ids" else "sigmoid"
        probs = reference.ACTIVATIONS[activation](logits)
        expected = reference.soft_counts(probs, np.asarray(truth), None, axis)
        weights = [
            rng(i).standard_normal(e.shape).astype(np.float32) for i, e in enumerate(expected)
        ]

        def blocked(x, truth):
            c = jaxseg.soft_counts(x, truth, activation=activation, axis=axis)
            return sum((w * leaf).sum() for w, leaf in zip(weights, c, strict=True)), c

        def plain(x, truth):
            c = whole_map(x, truth, activation, axis)
            return sum((w * leaf).sum() for w, leaf in zip(weights, c, strict=True)), c

        wanted = (0, 1) if labels == "soft" else 0
        actual, c = jax.jit(jax.grad(blocked, wanted, has_aux=True))(x, truth)
        assert_counts(c, expected, rtol=1e-5, atol=1e-6)
        expected, _ = jax.jit(jax.grad(plain, wanted, has_aux=True))(x, truth)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected
        )

    @pytest.mark.parametrize("axis", [None, 2], ids=str)
    def test_masked_blocks_equal_the_reference(self, axis):
        logits, truth = soft_case("ids", (2, 13, 11))
        where = rng(5).random((2, 13, 11)) < 0.5
        where[:, 3:9] = False  # whole blocks
        x = np.where(where[..., None], logits, np.nan).astype(np.float32)
        kwargs = {"activation": "softmax", "where": where, "axis": axis}

        def tp(x):
            c = jaxseg.soft_counts(x, truth, **kwargs)
            return c.tp.sum(), c

        gradient, c = jax.jit(jax.grad(tp, has_aux=True))(x)
        expected = reference.soft_counts(reference.softmax(logits), truth, where, axis)
        assert_counts(c, expected, rtol=1e-5, atol=1e-6)
        assert (np.asarray(gradient)[~where] == 0).all()
        assert np.isfinite(gradient).all()

    @pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
    def test_second_derivatives_equal_those_of_the_whole(self, outer):
        logits, truth = soft_case("ids", (1, 7, 5))
        x = jnp.asarray(logits, jnp.float32)

        def loss(counts):
            return (counts.tp / (1 + counts.fp + counts.fn)).sum()

        def blocked(x):
            return loss(jaxseg.soft_counts(x, truth, activation="softmax"))

        def plain(x):
            return loss(whole_map(x, truth, "softmax", None))

        actual = jax.jit(outer(jax.grad(blocked)))(x)
        expected = jax.jit(outer(jax.grad(plain)))(x)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)

    def test_half_precision_blocks_are_summed_in_float32(self):
        logits, truth = soft_case("ids", (2, 31, 37))
        c = jaxseg.soft_counts(jnp.asarray(logits, jnp.bfloat16), truth, activation="softmax")
        assert c.tp.dtype == jnp.float32
        assert_counts(c, reference.soft_counts(reference.softmax(logits), truth), rtol=0.01)
