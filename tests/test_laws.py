"""Laws that hold for many functions at once: law × function, over the table of ``cases.py``.

Each law compares a function with itself under another call, so a new function gets all of them for
its line in the table. What the numbers should be is tested elsewhere.
"""

import inspect
import itertools
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    ARRAYS,
    CLASSES,
    GRADED,
    HARD,
    LOSSES,
    MAP,
    MAPS,
    ORDERED,
    PIXEL,
    REPRESENTATIVES,
    SCORES,
    SOFT,
    SPATIAL,
    SPREAD,
    SUMS,
    Case,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxseg
from jaxseg import _pixel_sums
from jaxseg._kernels import blocks, plain

FLOATS = ("soft", "region")  # soft, without a mean over pixels or classes
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a block hold the pixels of a small map, and a third of a wide one's."""
    monkeypatch.setattr(blocks, "block_bytes", lambda: math.prod(MAP) * CLASSES * 4)


def law(*kinds: str, once: bool = False, heavy: bool = False, **only: Callable[[Case], Any]) -> Any:
    """Run the test for each function of these kinds, if ``only`` says so.

    In all its variants or ``once``. What a law says of maps (masks, axes, forms of labels, devices)
    is the work of parts that formulas share, so it runs for the representatives of these parts, and
    for all functions with the slow tests: it is ``heavy``.
    """
    chosen = [c for c in cases.cases(*kinds) if all(test(c) for test in only.values())]
    chosen = cases.one_of_each(chosen) if once else chosen

    def parameter(case: Case) -> Any:
        alone = case.kind in ("convert", "predict", "space", *SPREAD, *SUMS)
        every_time = alone or case.public in REPRESENTATIVES
        marks = pytest.mark.slow if heavy and not every_time else ()
        return pytest.param(case, id=case.name, marks=marks)

    return pytest.mark.parametrize("case", [parameter(case) for case in chosen])


def assert_same(got: Any, want: Any, **tolerance: float) -> None:
    """The same pytree of the same shapes, dtypes and values."""

    def same(a: Any, b: Any) -> None:
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, strict=True, **(tolerance or CLOSE))

    jax.tree.map(same, got, want)


def weighted_sum(result: Any) -> Any:
    """One number that tells the entries of a result apart, to differentiate."""
    return sum(
        (leaf * jnp.cos(i + jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)).sum()
        for i, leaf in enumerate(jax.tree.leaves(result))
    )


def scalar(case: Case, **options: Any) -> Callable[..., Any]:
    return lambda *args: weighted_sum(case.function(*args, **options))


def outcome(case: Case, *args: Any, **options: Any) -> Any:
    """The function's result, and the gradient where it has one."""

    def run(*args: Any) -> Any:
        result = case.function(*args, **options)
        return weighted_sum(result), result

    if case.kind not in GRADED:
        return case.function(*args, **options)
    (_, result), gradient = jax.value_and_grad(run, has_aux=True)(*args)
    return result, gradient


def wide(args: Any) -> Any:
    """The same maps, 13 wide instead of 5: three blocks, the first one smaller."""
    return tuple(jnp.concatenate([x, x, x[:, :, :3]], axis=2) for x in args)


def takes(case: Case, argument: str) -> bool:
    return argument in inspect.signature(getattr(jaxseg, case.public)).parameters


def image(args: Any, i: Any) -> Any:
    return jax.tree.map(lambda x: x[i], args)


def stack(results: list[Any]) -> Any:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *results)


def garbage(x: jax.Array) -> jax.Array:
    """What a masked pixel may hold."""
    if x.dtype == bool:
        return ~x
    return jnp.full_like(x, jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else 255)


def where_mask() -> jax.Array:
    """A mask with another share of each image, none of the second and all of the third."""
    shares = jnp.array([0.5, 0.0, 1.0, 0.2, 0.8, 0.6, 0.4, 0.9])[:, None, None]
    return jax.random.uniform(jax.random.key(0), MAP) < jnp.broadcast_to(shares, MAP)


def masked(x: jax.Array, where: jax.Array) -> jax.Array:
    """``x`` with garbage where the mask is False."""
    valid = where if x.ndim == where.ndim else where[..., None]
    return jnp.where(jnp.broadcast_to(valid, x.shape), x, garbage(x))


def one_hot(ids: jax.Array, classes: int) -> jax.Array:
    """Dense labels; of one class, id 1 is the class."""
    return jnp.stack([ids == (1 if classes == 1 else c) for c in range(classes)], axis=-1)


# ---------------------------------------------------------------------------------- transformations


@law(*ARRAYS, once=True, heavy=True)
def test_jit_is_eager_in_one_trace(case: Case) -> None:
    traces = []

    @jax.jit
    def run(*args: Any) -> Any:
        traces.append(None)
        return outcome(case, *args)

    for seed in range(3):
        assert_same(run(*case.args(seed)), outcome(case, *case.args(seed)))
    assert len(traces) == 1


@law(*ARRAYS, once=True, heavy=True)
def test_numpy_is_jax(case: Case) -> None:
    args = case.args()
    got = case.function(*jax.tree.map(np.asarray, args))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))
    # The spread of NumPy's sums is taken in float64.
    assert_same(got, case.function(*args), rtol=1e-6 if case.kind in SPREAD else 0)


@law(*ARRAYS, once=True, heavy=True)
def test_vmap_is_a_loop(case: Case) -> None:
    args = image(case.args(), slice(3))
    one = jax.jit(partial(outcome, case))
    got = jax.jit(jax.vmap(partial(outcome, case)))(*args)
    assert_same(got, stack([one(*image(args, i)) for i in range(3)]))


@law(*SCORES, *SPREAD, "convert", "predict")
def test_leading_axes_are_a_batch(case: Case) -> None:
    args = case.args()
    assert_same(case.function(*args), jax.vmap(case.function)(*args))


@law(*HARD, *FLOATS, *ORDERED, *SPATIAL, once=True, heavy=True)
def test_axis_is_vmap(case: Case) -> None:
    where, args = where_mask(), case.args()

    def of_one(where: Any, *args: Any) -> Any:
        return case.function(*args, where=where)

    got = jax.jit(lambda where, *args: case.function(*args, where=where, axis=(1, 2)))(where, *args)
    assert_same(got, jax.jit(jax.vmap(of_one))(where, *args))


@law(*MAPS, once=True, heavy=True)
def test_axis_is_moveaxis(case: Case) -> None:
    args = case.args()
    moved = [jnp.moveaxis(x, 1, 0) for x in args]
    assert_same(case.function(*args, axis=(-1, 0)), case.function(*moved, axis=(1, 2)))


@law(*SOFT, once=True, heavy=True)
def test_gradient_of_vmap_is_vmap_of_gradient(case: Case) -> None:
    args = image(case.args(), slice(3))
    gradient = jax.jit(jax.grad(lambda *args: jax.vmap(scalar(case))(*args).sum()))(*args)
    assert_same(gradient, jax.jit(jax.vmap(jax.grad(scalar(case))))(*args))


@law(*MAPS, *SPREAD, *SUMS, once=True, heavy=True)
def test_scan_is_a_loop(case: Case) -> None:
    args = image(case.args(), slice(3))
    _, got = jax.lax.scan(lambda _, step: (None, outcome(case, *step)), None, args)
    one = jax.jit(partial(outcome, case))
    assert_same(got, stack([one(*image(args, i)) for i in range(3)]))


@law(*ARRAYS, once=True, heavy=True)
def test_a_second_eager_call_compiles_nothing(case: Case) -> None:
    outcome(case, *case.args(0))
    args = case.args(1)
    compiled = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        outcome(case, *args)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


# ---------------------------------------------------------------------------------- masks


@law(*MAPS, *ORDERED, once=True, heavy=True)
def test_masked_is_removed(case: Case) -> None:
    where, args = where_mask(), case.args()
    got = outcome(case, *(masked(x, where) for x in args), where=where)
    want = outcome(case, *(x[where] for x in args))
    if case.kind in GRADED:
        (got, gradient), (want, gradient_of_rest) = got, want
        assert_same(gradient[where], gradient_of_rest)
        assert not gradient[~where].any()
    assert_same(got, want)


@law(*PIXEL, *SPATIAL, heavy=True)
def test_masked_pixels_may_hold_anything(case: Case) -> None:
    where, args = where_mask(), case.args()
    got = outcome(case, *(masked(x, where) for x in args), where=where)
    assert_same(got, outcome(case, *args, where=where))
    loss, gradient = got
    assert not gradient[~where].any()
    assert not (case.kind in PIXEL and loss[~where].any())


@law(*PIXEL, alone=lambda case: case.public != "nacl_loss")
def test_pixels_do_not_see_each_other(case: Case) -> None:
    args = case.args()
    where = where_mask()
    want = jnp.where(where, case.function(*args), 0)
    assert_same(case.function(*args, where=where), want)


@law(*GRADED, *HARD, once=True, heavy=True)
def test_a_mask_of_all_pixels_changes_nothing(case: Case) -> None:
    args = case.args()
    assert_same(outcome(case, *args, where=jnp.ones(MAP, bool)), outcome(case, *args))


@law(*GRADED, *HARD, once=True, heavy=True)
def test_no_pixels_give_zero_and_zero_gradient(case: Case) -> None:
    args = [garbage(x) for x in case.args()]
    for axis in (None, (1, 2)) if takes(case, "axis") else (None,):
        options = {"axis": axis} if axis else {}
        got = outcome(case, *args, where=jnp.zeros(MAP, bool), **options)
        assert not any(leaf.any() for leaf in jax.tree.leaves(got))  # NaN is True


@law("compound", once=True, heavy=True)
@pytest.mark.parametrize("axis", [None, (1, 2)], ids=["pooled", "each"])
def test_padding_a_batch_changes_no_scalar_and_no_gradient(case: Case, axis: Any) -> None:
    args, where = image(case.args(), slice(3)), where_mask()[:3]
    padded = [jnp.concatenate([x, garbage(x)]) for x in args]
    mask = jnp.concatenate([where, jnp.zeros_like(where)])
    run = jax.jit(lambda where, *args: outcome(case, *args, where=where, axis=axis))
    loss, gradient = run(mask, *padded)
    want, wanted_gradient = run(where, *args)
    assert_same((loss, gradient[:3]), (want, wanted_gradient))
    assert not gradient[3:].any()
    # The second image has no valid pixel either.
    valid = jnp.array([0, 2])
    of_two = [x[valid] for x in args]
    assert_same(loss, run(where[valid], *of_two)[0])


@law(*GRADED, *HARD, once=True, heavy=True)
def test_bools_of_other_bytes_are_bools(case: Case) -> None:
    """As NumPy reads a 1-bit image: True is a byte of 255."""

    def other_bytes(x: Any) -> Any:
        x = np.asarray(x)
        return (x.astype(np.uint8) * 255).view(bool) if x.dtype == bool else x

    first, labels = case.args()
    if labels.dtype != bool:
        labels = one_hot(labels, CLASSES) if case.kind in HARD else one_hot(labels, first.shape[-1])
        first = one_hot(first, CLASSES) if case.kind in HARD else first
    options = {"num_classes": None} if case.public == "counts" else {}
    if case.public == "confusion_matrix":
        first, labels, options = first[..., 0], labels[..., 0], {"num_classes": 2}
    args, where = (first, labels), where_mask()
    want = outcome(case, *args, where=where, **options)
    run = jax.jit(lambda *args: outcome(case, *args[:2], where=args[2], **options))
    for form in (np.asarray, jnp.asarray):
        strange = [form(other_bytes(x)) for x in (*args, where)]
        assert_same(outcome(case, *strange[:2], where=strange[2], **options), want)
        assert_same(run(*strange), want)


@law("region", *SCORES, *SPREAD, once=True)
def test_an_empty_statistic_gives_zero_division(case: Case) -> None:
    if case.kind == "region":  # where a score is zero_division, its loss is 0
        args, options, want = case.args(), {"smooth": 0.0, "where": jnp.zeros(MAP, bool)}, 0.0
    else:
        args = jax.tree.map(lambda x: jnp.zeros(x.shape), case.args())
        options, want = {"zero_division": 0.25}, 0.25
    result = case.function(*args, **options)
    assert_same(result, jnp.full_like(result, want))
    gradient = jax.grad(scalar(case, **options))(*args)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    if case.kind != "region":
        assert jnp.isnan(case.function(*args)).all()


# ---------------------------------------------------------------------------------- weights


def some_weights() -> jax.Array:
    """A weight of each pixel; of those that ``where_mask`` hides, NaN."""
    weights = jax.random.uniform(jax.random.key(1), MAP, minval=0.2, maxval=3)
    return jnp.where(where_mask(), weights, jnp.nan)


def unsmoothed(case: Case) -> dict[str, float]:
    return {"smooth": 0.0} if takes(case, "smooth") else {}


@law(*GRADED, once=True, heavy=True)
def test_a_weight_of_zero_is_a_mask(case: Case) -> None:
    where, args = where_mask(), case.args()
    args = [masked(x, where) for x in args]
    want = outcome(case, *args, where=where, weights=some_weights())
    got = outcome(case, *args, weights=jnp.where(where, some_weights(), 0))
    assert_same(got, want, rtol=0)
    result, gradient = got
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    assert not gradient[~where].any()  # NaN is True
    assert gradient[where].any()


@law(*GRADED, once=True, heavy=True)
def test_weights_of_one_change_no_bit(case: Case) -> None:
    args = case.args()
    ones = jnp.ones((MAP[0], 1, 1))
    for options in ({}, {"axis": (1, 2)} if takes(case, "axis") else {"where": where_mask()}):
        want, wanted_gradient = outcome(case, *args, **options)
        got, gradient = outcome(case, *args, weights=ones, **options)
        assert_same(got, want, rtol=0)
        assert_same(gradient, wanted_gradient)  # XLA may fuse products of weights with sums


@law(*GRADED, once=True, heavy=True)
def test_weights_of_any_scale_give_the_same_means(case: Case) -> None:
    args, weights = case.args(), jnp.nan_to_num(some_weights())
    want = outcome(case, *args, weights=weights, **unsmoothed(case))
    scale = 8.0 if case.kind in ("soft", *PIXEL) else 1.0  # of sums, and of each pixel
    want = jax.tree.map(lambda x: scale * x, want)
    assert_same(outcome(case, *args, weights=8 * weights, **unsmoothed(case)), want, rtol=1e-4)


NEIGHBOURS_AND_RANKS = ("top_k", "ohem")  # the hardest pixels are chosen without weights


@law(
    *SOFT,
    *ORDERED,
    once=True,
    heavy=True,
    sums=lambda case: not any(name in case.public for name in NEIGHBOURS_AND_RANKS),
)
def test_a_weight_of_three_is_three_pixels(case: Case) -> None:
    args = case.args()
    times = jax.random.randint(jax.random.key(2), MAP, 0, 4)
    pixels = np.repeat(np.arange(times.size), np.ravel(times))

    def repeated(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[len(MAP) :])[pixels]

    got, gradient = outcome(case, *args, weights=times.astype(jnp.float32))
    want, parts = outcome(case, *map(repeated, args))
    assert_same(got, want)
    total = jax.ops.segment_sum(parts, pixels, times.size)
    assert_same(gradient, total.reshape(gradient.shape), rtol=1e-5, atol=1e-5)


@law("compound", once=True, heavy=True, sums=lambda case: "top_k" not in case.public)
def test_the_weight_of_an_image_is_a_number_of_images(case: Case) -> None:
    args = image(case.args(), slice(3))
    times = np.array([1, 3, 0])
    images = np.repeat(np.arange(3), times)
    weights = jnp.asarray(times, jnp.float32)[:, None, None]
    options = {"axis": (1, 2), **unsmoothed(case)}
    got = case.function(*args, weights=weights, **options)
    assert_same(got, case.function(*(x[images] for x in args), **options))


@law(*GRADED, once=True, heavy=True)
def test_weights_have_no_gradient_and_are_mapped(case: Case) -> None:
    args, weights = image(case.args(), slice(3)), jnp.nan_to_num(some_weights())[:3]

    def run(weights: Any, *args: Any) -> Any:
        result = case.function(*args, weights=weights)
        return weighted_sum(result), result

    one = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))
    got = jax.jit(jax.vmap(jax.value_and_grad(run, (0, 1), has_aux=True)))(weights, *args)
    assert_same(got, stack([one(weights[i], *image(args, i)) for i in range(3)]))
    assert not got[1][0].any()


ONE_BY_ONE = {
    "alone": lambda case: case.class_axes == 1,
    "classes": lambda case: case.public != "generalized_wasserstein_dice_loss",
}


@law(*FLOATS, once=True, heavy=True, **ONE_BY_ONE)
def test_a_mask_of_each_class_masks_the_class(case: Case) -> None:
    """And weights of each class weigh it; what is masked may hold anything."""
    rng = np.random.default_rng(3)
    shape = (*MAP, CLASSES)
    where = rng.random(shape) < 0.6
    where[0, ..., 1] = False  # a class that is annotated in no pixel of an image
    weights = np.where(where, rng.uniform(0.2, 3, shape), np.nan).astype(np.float32)
    x, labels = cases.logits(rng), cases.masks(rng)
    x = np.where(where, x, np.float32(np.nan))

    def run(classes: Any, *args: Any) -> Any:
        def total(x: Any, labels: Any, where: Any, weights: Any) -> Any:
            options = {"activation": "sigmoid", "axis": (1, 2), "weights": weights}
            result = case.function(x, labels, where=where, **options)
            factors = jnp.asarray([[1.0, 2.0, 3.0]])[:, classes]
            return sum((factors * leaf).sum() for leaf in jax.tree.leaves(result)), result

        (_, result), gradient = jax.value_and_grad(total, has_aux=True)(*args)
        return result, gradient

    args = jax.tree.map(jnp.asarray, (x, labels, where, weights))
    result, gradient = run(np.arange(3), *args)
    assert not gradient[~where].any()  # NaN is True
    for c in range(CLASSES):
        of_class, gradient_of_class = run([c], *(a[..., [c]] for a in args))
        assert_same(jax.tree.map(lambda leaf, c=c: leaf[..., [c]], result), of_class)
        assert_same(gradient[..., [c]], gradient_of_class)
    if case.kind == "region":
        assert result[0, 1] == 0


# ---------------------------------------------------------------------------------- pixels


@law("hard", "soft", "moments")
def test_parts_sum_to_the_whole(case: Case) -> None:
    args = case.args()
    parts = [case.function(*image(args, part)) for part in (slice(3), slice(3, None))]
    assert_same(parts[0] + parts[1], case.function(*args))


@law("convert")
def test_counts_of_summed_matrices_are_summed(case: Case) -> None:
    (matrices,) = case.args()
    whole = case.function(matrices.sum(0))
    assert_same(jax.tree.map(lambda x: x.sum(0), case.function(matrices)), whole, rtol=0)


@law(*MAPS, *ORDERED, *SPATIAL, "moments", once=True, heavy=True)
def test_order_of_images_does_not_matter(case: Case) -> None:
    args = case.args()
    assert_same(case.function(*image(args, slice(None, None, -1))), case.function(*args))


SEES_NEIGHBOURS = {"sees": lambda case: takes(case, "spatial_axes")}


@law(*SPATIAL, "pixel", "space", once=True, heavy=True, **SEES_NEIGHBOURS)
def test_a_map_of_two_axes_says_whether_it_is_an_image(case: Case) -> None:
    args = case.args()
    options = {k: v for k, v in case.options.items() if k != "spatial_axes"}
    of_batch = partial(getattr(jaxseg, case.public), **options)
    of_image = partial(of_batch, spatial_axes=(0, 1))
    want = of_batch(*args, axis=(1, 2)) if takes(case, "axis") else of_batch(*args)
    assert_same(jax.vmap(of_image)(*args), want)
    assert_same(of_image(*image(args, 0)), want[0])
    for call in (of_batch, jax.jit(of_batch)):
        with pytest.raises(ValueError, match=r"=\(0, 1\) for one image .*=\(1,\) for signals"):
            call(*image(args, 0))
    with pytest.raises(ValueError, match=r"inside jax\.vmap"):
        jax.vmap(of_batch)(*args)


@law(*SPATIAL, "pixel", "space", once=True, **SEES_NEIGHBOURS)
def test_an_image_turned_over_has_its_gradient_turned_over(case: Case) -> None:
    """Also where pixels are equal, so that it is a choice who gets the gradient."""
    first, *labels = (x[:, :, : x.shape[1]] for x in case.args())  # a square
    args = [jnp.round(2 * jax.nn.sigmoid(first)) / 2, *labels]  # 0, 1/2 or 1
    options = {"activation": None} if takes(case, "activation") else {}

    @jax.jit
    def run(*args: Any) -> Any:
        return jax.grad(lambda *args: (case.function(*args, **options) ** 2).sum())(*args)

    want = run(*args)
    for turn in (jnp.fliplr, partial(jnp.flip, axis=2), partial(jnp.swapaxes, axis1=1, axis2=2)):
        assert_same(run(*map(turn, args)), turn(want))


# ---------------------------------------------------------------------------------- classes

PERMUTATION = np.array([2, 0, 1])


def permuted(x: jax.Array, axes: int) -> jax.Array:
    """``x`` with its last axes in the order of the permutation."""
    for axis in range(-axes, 0):
        x = jnp.take(x, PERMUTATION, axis)
    return x


def permuted_input(x: jax.Array) -> jax.Array:
    dense = x.shape == (*MAP, CLASSES)
    return permuted(x, 1) if dense else jnp.asarray(np.argsort(PERMUTATION))[x]


ONE_CLASS = ("generalized_wasserstein_dice_loss", "unified_focal_loss")  # one is the background


@law(
    *GRADED,
    *HARD,
    once=True,
    heavy=True,
    several=lambda case: case.variant != "sigmoid-ids",
    alike=lambda case: case.public not in ONE_CLASS,
)
def test_permuted_classes_permute_the_result(case: Case) -> None:
    args = [permuted_input(x) for x in case.args()]
    options = {k: v[PERMUTATION] for k, v in case.options.items() if isinstance(v, np.ndarray)}
    want = case.function(*case.args())
    want = jax.tree.map(lambda x: permuted(x, case.class_axes), want)
    assert_same(case.function(*args, **options), want)


@law(*SCORES, *SPREAD, *SUMS, "convert")
def test_permuted_classes_permute_the_score(case: Case) -> None:
    args = jax.tree.map(lambda x: permuted(x, x.ndim - 1), case.args())
    want = jax.tree.map(lambda x: permuted(x, case.class_axes), case.function(*case.args()))
    assert_same(case.function(*args), want)


@law(*GRADED, *HARD, once=True, heavy=True, ids=lambda case: "ids" in case.variant)
def test_ids_are_one_hot_labels(case: Case) -> None:
    first, labels = case.args()
    labels = labels.at[:, 0, 0].set(255).at[:, 0, 1].set(200)  # of no class
    dense = one_hot(labels, first.shape[-1] if case.kind in GRADED else CLASSES)
    if case.kind in HARD:
        want = jaxseg.counts(one_hot(first, CLASSES), dense)
    else:
        want = case.function(first, dense)
        assert_same(case.function(first, dense.astype(jnp.float32)), want)
    assert_same(case.function(first, labels), want)
    if case.kind not in (*HARD, "soft"):
        return
    for dtype in ("int8", "uint32"):  # 255 is -1 in int8
        first = first.astype(dtype) if case.kind in HARD else first
        assert_same(case.function(first, labels.astype(dtype)), want)


# ---------------------------------------------------------------------------------- values


def assert_within(value: jax.Array, bounds: tuple[float, float]) -> None:
    low, high = bounds
    outside = ~(jnp.isnan(value) | ((value >= low) & (value <= high)))
    assert not outside.any(), f"{value[outside]} outside [{low}, {high}]"


@law(*LOSSES, once=True)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_losses_keep_their_bounds(case: Case, scale: float) -> None:
    first, labels = case.args()
    first = first if case.variant.startswith("probs") else first * scale
    for smooth in (1.0, 0.0):
        result = case.function(first, labels, smooth=smooth, axis=(1, 2))
        assert not jnp.isnan(result).any()
        assert_within(result, case.bounds)


@law(*PIXEL, *ORDERED, *SPATIAL)
def test_other_losses_keep_their_bounds(case: Case) -> None:
    first, labels = case.args()
    for scale in (1.0, 1e4):
        result = case.function(first * scale, labels)
        assert jnp.isfinite(result).all()
        assert_within(result, case.bounds)


@law("counts")
def test_scores_of_counts_keep_their_bounds(case: Case) -> None:
    grid = np.array(list(itertools.product([0, 1, 5, 10**9], repeat=4)), np.int32)
    c = jaxseg.Counts(*grid.reshape(-1, 4, 4).transpose(2, 0, 1))  # [64, 4] of all combinations
    assert_within(case.function(c), case.bounds)
    floats = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), c)
    gradient = jax.jit(jax.grad(scalar(case, zero_division=0.0)))(floats)
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)


@law("matrix")
def test_scores_of_matrices_keep_their_bounds(case: Case) -> None:
    rng = np.random.default_rng(0)
    m = rng.choice(np.array([0, 0, 1, 7, 10**9], np.int32), (300, CLASSES, CLASSES))
    assert_within(case.function(m), case.bounds)
    gradient = jax.jit(jax.grad(scalar(case, zero_division=0.0)))(jnp.asarray(m, jnp.float32))
    assert jnp.isfinite(gradient).all()


SCALES = (3e-38, 1e-30, 1e-20, 1.0, 1e20, 1e30, 2e37)


@law(*SCORES)
@pytest.mark.usefixtures("optimized")
def test_scores_do_not_depend_on_the_scale_of_counts(case: Case) -> None:
    """Jitted and eagerly: XLA may reorder divisions, whose products then under- or overflow."""
    grid = np.array(list(itertools.product([0, 1, 3], repeat=4)), np.float32)  # [81, 4]
    scaled = jnp.asarray(np.stack([scale * grid for scale in SCALES]), jnp.float32)
    if case.kind == "counts":
        args = jaxseg.Counts(*jnp.moveaxis(scaled, -1, 0)[..., None])  # [scales, 81, 1]
    else:
        args = scaled.reshape(len(SCALES), -1, 2, 2)
    eager, jitted = case.function(args), jax.jit(case.function)(args)
    assert_same(jitted, eager)
    want = jnp.broadcast_to(eager[SCALES.index(1.0)], eager.shape)
    assert_same(jitted, want)


MARGINS = (0.0, 20.0, 46.0, 60.0, 87.0, 89.0, 104.0, 120.0)  # exp(-104) is 0 in float32


@law(*GRADED, once=True, heavy=True, logits=lambda case: case.options.get("activation", 1))
def test_jit_is_eager_at_all_margins(case: Case, request: pytest.FixtureRequest) -> None:
    """Also where classes are absent from the truth and hardly predicted, without smoothing."""
    first, labels = case.args()
    options: dict[str, Any] = {"smooth": 0.0} if takes(case, "smooth") else {}
    options |= {"axis": (1, 2)} if takes(case, "axis") else {}
    margin = jnp.asarray(MARGINS)[:, None, None, None]  # one for each image
    random = jnp.where(first > 0, margin, -margin)
    absent = jnp.broadcast_to(-margin, first.shape)
    if first.shape[-1] > 1 and case.options.get("activation") != "sigmoid":
        absent = absent.at[..., 0].set(0.0)
    inputs = ((random, labels), (absent, jnp.zeros_like(labels)))
    eager = [outcome(case, *args, **options) for args in inputs]
    request.getfixturevalue("optimized")  # as users compile: XLA reorders arithmetic
    run = jax.jit(lambda *args: outcome(case, *args, **options))
    for args, want in zip(inputs, eager):
        got = run(*args)
        assert_same(got, want, rtol=1e-4, atol=1e-6)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


@law(
    *GRADED,
    once=True,
    logits=lambda case: case.options.get("activation", 1) and not case.second,  # nor features
)
def test_a_class_that_is_switched_off_does_no_harm(case: Case) -> None:
    """By a logit of -inf, where it is not the truth: it is as -200, with ids and dense labels."""
    first, ids = case.args()
    truth = ids if ids.dtype == bool else one_hot(ids, first.shape[-1])
    off = (~truth).at[:, :, ::2].set(False)
    if first.shape[-1] > 1 and case.options.get("activation") != "sigmoid":
        off &= jnp.roll(truth, 1, -1)  # one class of each pixel
    run, dense = jax.jit(partial(outcome, case)), truth.astype(jnp.float32)
    want = run(jnp.where(off, -200.0, first), dense)
    for labels in (ids, dense):
        got = run(jnp.where(off, -jnp.inf, first), labels)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
        # A penalty of the logits themselves, and a share of each label, are of the others alone.
        if case.public != "nacl_loss" and "label_smoothing" not in case.options:
            assert_same(got, want)


@law(*GRADED, once=True, heavy=True)
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(jnp.bfloat16, id="bfloat16"),
        pytest.param(jnp.float16, id="float16", marks=pytest.mark.slow),
    ],
)
def test_half_precision_is_summed_in_float32(case: Case, dtype: Any) -> None:
    first, labels = case.args()
    half = first.astype(dtype)
    result, gradient = outcome(case, half, labels)
    assert gradient.dtype == dtype
    want, wanted_gradient = outcome(case, half.astype(jnp.float32), labels)
    assert_same(result, want)
    assert_same(gradient.astype(jnp.float32), wanted_gradient, rtol=1e-2, atol=1e-3)
    assert_same(result, case.function(first, labels), rtol=1e-2, atol=1e-2)


@law(*SCORES, *SPREAD)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "bfloat16", "float32"])
def test_scores_are_float32(case: Case, dtype: str) -> None:
    args = case.args()
    got = case.function(*jax.tree.map(lambda x: x.astype(dtype), args))
    assert_same(got, case.function(*jax.tree.map(lambda x: x.astype(jnp.float32), args)))
    assert got.dtype == jnp.float32


@law(*GRADED, once=True, heavy=True)
def test_nan_is_not_hidden(case: Case) -> None:
    first, labels = case.args()
    result = case.function(first.at[0, 0, 0, 0].set(jnp.nan), labels)
    of_the_class = [leaf.ravel()[0] for leaf in jax.tree.leaves(result)]
    assert any(jnp.isnan(leaf) for leaf in of_the_class)  # of Counts, some are sums of others


# ---------------------------------------------------------------------------------- derivatives


@law(*GRADED, once=True)
def test_gradients_are_finite(case: Case) -> None:
    """Where all is right, all is wrong, and no class is in the truth, at each confidence."""
    first, labels = case.args()
    dense = labels if labels.ndim == first.ndim else one_hot(labels, first.shape[-1])
    right, absent = 2 * dense.astype(jnp.float32) - 1, jnp.zeros_like(labels)
    for options in [{"smooth": 1.0}, {"smooth": 0.0}] if case.kind in LOSSES else [{}]:
        run = jax.jit(partial(outcome, case, **options))
        for scale in (0.0, 1.0, 1e4):
            for x, truth in ((right, labels), (-right, labels), (right, absent)):
                x = jnp.clip(scale * x, 0, 1) if case.variant.startswith("probs") else scale * x
                for leaf in jax.tree.leaves(run(x, truth)):
                    assert jnp.isfinite(leaf).all(), (scale, options)


def derivatives(f: Callable[..., Any], x: Any, v: Any) -> tuple[Any, Any, Any]:
    """The gradient, and its own derivative along ``v`` in two ways."""
    gradient, forward = jax.jvp(jax.grad(f), (x,), (v,))
    reverse = jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))(x)
    return gradient, forward, reverse


@law(*SOFT, once=True, heavy=True)
def test_derivatives_are_those_of_the_plain_formula(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, labels = wide(case.args())
    direction = jnp.asarray(np.random.default_rng(1).normal(size=first.shape), jnp.float32)

    def run() -> Any:
        f = scalar(case)
        return jax.jit(lambda x: derivatives(lambda x: f(x, labels), x, direction))(first)

    got = run()

    # The same sums without blocks or a rule by hand.
    monkeypatch.setattr(_pixel_sums, "_sums", plain.sums)
    gradient, forward, _ = run()
    assert_same(got, (gradient, forward, forward), rtol=1e-4, atol=1e-5)
    assert all(jnp.isfinite(x).all() for x in got)


@law(*PIXEL, *ORDERED, *SPATIAL, heavy=True)
def test_second_derivatives_are_finite_and_alike(case: Case) -> None:
    first, labels = case.args()
    direction = jnp.asarray(np.random.default_rng(1).normal(size=first.shape), jnp.float32)
    f = scalar(case)
    run = jax.jit(lambda x: derivatives(lambda x: f(x, labels), x, direction))
    _, forward, reverse = run(first)
    assert jnp.isfinite(forward).all()
    assert_same(reverse, forward, rtol=1e-4, atol=1e-5)


@law(*FLOATS, logits=lambda case: case.options["activation"], heavy=True)
def test_activation_is_taken_inside(case: Case) -> None:
    first, labels = case.args()
    activation = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[case.options["activation"]]
    of_probs = scalar(case, activation=None)
    got = jax.value_and_grad(scalar(case))(first, labels)
    assert_same(got, jax.value_and_grad(lambda x: of_probs(activation(x), labels))(first))


@law(
    *FLOATS, *SCORES, *SPREAD, probs=lambda case: case.options.get("activation") is None, heavy=True
)
def test_pure_forward_mode(case: Case) -> None:
    first, *labels = jax.tree.map(lambda x: x.astype(jnp.float32), case.args())
    f = scalar(case)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), first)
    _, got = jax.jvp(lambda x: f(x, *labels), (first,), (direction,))
    gradient = jax.grad(f)(first, *labels)
    products = jax.tree.map(jnp.vdot, gradient, direction)
    assert_same(got, sum(jax.tree.leaves(products)), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------- strict modes


STRICT = {
    "disable_jit": jax.disable_jit,
    "debug_nans": partial(jax.debug_nans, True),
    "check_tracer_leaks": jax.checking_leaks,
    "enable_x64": partial(jax.enable_x64, True),
}


@law(*ARRAYS, once=True, heavy=True)
@pytest.mark.parametrize("mode", STRICT)
def test_strict_modes_change_nothing(case: Case, mode: str) -> None:
    """Beside strict dtype promotion and rank promotion, in which all tests run."""
    args = case.args()
    if case.kind in SCORES:  # of integers, scores are of the default float dtype
        args = jax.tree.map(lambda x: x.astype(jnp.float32), args)
    want = outcome(case, *args)
    with STRICT[mode]():
        assert_same(outcome(case, *args), want, rtol=1e-4, atol=1e-5)
        if mode == "debug_nans" and case.kind in GRADED:  # nothing valid, nothing added
            options = {"smooth": 0.0} if takes(case, "smooth") else {}
            outcome(case, *args, where=jnp.zeros(MAP, bool), **options)


# ---------------------------------------------------------------------------------- devices


def devices(axis_type: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((8,), ("b",), axis_types=(axis_type,))


AXIS_TYPES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)


@law(*GRADED, *HARD, *SPREAD, *SUMS, once=True, heavy=True)
@AXIS_TYPES
def test_a_sharded_batch_stays_where_it_is(case: Case, axis_type: AxisType) -> None:
    args = wide(case.args()) if case.kind in MAPS else case.args()
    mesh = devices(axis_type)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(args, NamedSharding(mesh, P("b")))
        compiled = jax.jit(partial(outcome, case)).lower(*sharded).compile()
        got = compiled(*sharded)
    assert_same(got, outcome(case, *args))
    if "lovasz" in case.public:  # pixels of all images are sorted together
        return
    assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())
    if case.kind in GRADED:
        assert got[1].sharding.is_equivalent_to(sharded[0].sharding, got[1].ndim)


@law("soft", "region", "compound", "pixel", once=True, heavy=True)
@pytest.mark.parametrize(
    ("axis_type", "shared"),
    [(AxisType.Auto, False), (AxisType.Explicit, True)],
    ids=["pixels", "images"],
)
def test_weights_of_a_sharded_batch_stay_where_they_are(
    case: Case, axis_type: AxisType, shared: bool
) -> None:
    args, weights = case.args(), jnp.nan_to_num(some_weights())
    args = (*args, weights.mean((1, 2), keepdims=True) if shared else weights)

    def run(*args: Any) -> Any:
        return outcome(case, *args[:-1], weights=args[-1])

    mesh = devices(axis_type)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(args, NamedSharding(mesh, P("b")))
        compiled = jax.jit(run).lower(*sharded).compile()
        got = compiled(*sharded)
    assert_same(got, run(*args))
    assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())


@law("hard", "soft", once=True, heavy=True)
@AXIS_TYPES
def test_scores_of_each_image_stay_where_it_is(case: Case, axis_type: AxisType) -> None:
    args = case.args()
    run = partial(case.function, axis=(1, 2))
    mesh = devices(axis_type)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(args, NamedSharding(mesh, P("b")))
        compiled = jax.jit(run).lower(*sharded).compile()
        got = compiled(*sharded)
    assert_same(got, run(*args))
    assert not re.search("all-gather|all-to-all|collective-permute|all-reduce", compiled.as_text())


@law(
    *LOSSES, *ORDERED, *SPATIAL, once=True, shared=lambda case: takes(case, "axis_name"), heavy=True
)
@pytest.mark.parametrize("axis", [None, (1, 2)], ids=["pooled", "each"])
def test_axis_name_makes_the_loss_that_of_the_global_batch(case: Case, axis: Any) -> None:
    args = (*case.args(), where_mask(), some_weights())

    def loss(x: Any, labels: Any, where: Any, weights: Any, **options: Any) -> Any:
        return case.function(x, labels, where=where, weights=weights, axis=axis, **options)

    def total(*args: Any, **options: Any) -> Any:
        result = loss(*args, **options)
        return result.sum(), result

    def in_the_body(*args: Any) -> Any:  # as a train step differentiates
        (_, result), gradient = jax.value_and_grad(partial(total, axis_name="b"), has_aux=True)(
            *args
        )
        return result, gradient

    out = P("b") if case.kind != "compound" and axis else P()
    split = partial(jax.shard_map, mesh=devices(AxisType.Auto), in_specs=P("b"))
    (_, want), gradient = jax.value_and_grad(total, has_aux=True)(*args)
    assert_same(jax.jit(split(in_the_body, out_specs=(out, P("b"))))(*args), (want, gradient))
    of_the_whole = split(partial(loss, axis_name="b"), out_specs=out)
    assert_same(jax.jit(jax.grad(lambda *args: of_the_whole(*args).sum()))(*args), gradient)


@law(
    *LOSSES, *ORDERED, *SPATIAL, once=True, shared=lambda case: takes(case, "axis_name"), heavy=True
)
@pytest.mark.parametrize("form", ["pmap", "shard_map"])
def test_axis_name_in_a_data_parallel_step(case: Case, form: str) -> None:
    """Parameters are on every device, and their gradients are averaged, as such steps do.

    In a ``pmap``, and a ``shard_map`` that does not check what varies.
    """
    args = (*case.args(), where_mask())

    def loss(scale: Any, x: Any, labels: Any, where: Any, **options: Any) -> Any:
        return case.function(scale * x, labels, where=where, **options).sum()

    def step(scale: Any, *args: Any) -> Any:
        value, gradient = jax.value_and_grad(partial(loss, axis_name="b"))(scale, *args)
        return value, jax.lax.pmean(gradient, "b")

    scale = jnp.full((1, 1, 1, args[0].shape[-1]), 0.7)  # a parameter of each class
    if form == "pmap":
        parts = jax.tree.map(lambda x: x[:, None], args)
        results = jax.pmap(step, axis_name="b", in_axes=(None, 0, 0, 0))(scale, *parts)
        got = jax.tree.map(lambda x: x[0], results)
        assert_same(results, jax.tree.map(lambda x: jnp.stack([x] * 8), got), rtol=0)
    else:
        split = partial(jax.shard_map, mesh=devices(AxisType.Auto), check_vma=False)
        specs = (P(), *(P("b") for _ in args))
        got = jax.jit(split(step, in_specs=specs, out_specs=P()))(scale, *args)
    assert_same(got, jax.value_and_grad(loss)(scale, *args))


@law("hard", "soft", "moments")
@pytest.mark.parametrize("exact", [False, True], ids=["plain", "running"])
def test_statistics_are_summed_by_psum(case: Case, exact: bool) -> None:
    where = where_mask() if case.kind in MAPS else where_mask()[:, 0, 0]

    def body(where: Any, *args: Any) -> Any:
        statistic = case.function(*args, where=where)
        if exact:
            return jaxseg.total(jaxseg.psum(jaxseg.running(statistic), "b"))
        return jaxseg.psum(statistic, "b")

    total = jax.shard_map(body, mesh=devices(AxisType.Auto), in_specs=P("b"), out_specs=P())
    want = case.function(*case.args(), where=where)
    if exact:  # a total in a trace is float32
        want = jax.tree.map(lambda x: x.astype(jnp.float32), want)
    assert_same(jax.jit(total)(where, *case.args()), want)
