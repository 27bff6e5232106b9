"""Scores where divisions and roots are not correctly rounded, as on a GPU, simulated on CPU.

``rounded`` runs a function with the results of its divisions, roots and powers moved to the next
float: all up, all down, or each at random. What the scores promise must hold all the same.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CLASSES, TABLE, Case
from jax.extend import core

import jaxseg

INEXACT = ("div", "sqrt", "rsqrt", "pow")
DIRECTIONS = ("up", "down", "at random", "exactly")


def rounded(function: Callable[..., Any], direction: str) -> Callable[..., Any]:
    """The function, with the results of inexact operations moved by a unit in the last place."""
    rng = np.random.default_rng(0)

    def moved(x: Any) -> Any:
        x = np.asarray(x)
        if not np.issubdtype(x.dtype, np.floating):
            return x
        up = rng.random(x.shape) < 0.5 if direction == "at random" else direction == "up"
        next_to_it = np.nextafter(x, np.where(up, np.inf, -np.inf).astype(x.dtype))
        # 0 is exact anywhere; and no step leads from the largest number to infinity.
        return np.where((x == 0) | ~np.isfinite(next_to_it), x, next_to_it)

    def run(jaxpr: core.Jaxpr, consts: Any, *args: Any) -> list[Any]:
        values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args)))

        def read(var: Any) -> Any:
            return var.val if isinstance(var, core.Literal) else values[var]

        for eqn in jaxpr.eqns:
            inputs = list(map(read, eqn.invars))
            name, body = eqn.primitive.name, inner(eqn)
            if name == "cond":
                index, *inputs = inputs
                body = eqn.params["branches"][int(index)]
            if body is not None:
                results = run(getattr(body, "jaxpr", body), getattr(body, "consts", ()), *inputs)
            else:
                results = eqn.primitive.bind(*map(jnp.asarray, inputs), **eqn.params)
                results = results if eqn.primitive.multiple_results else [results]
                if name in INEXACT and direction != "exactly":
                    results = [moved(x) for x in results]
            values.update(zip(eqn.outvars, results))
        return list(map(read, jaxpr.outvars))

    def call(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = run(traced.jaxpr, traced.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), map(np.asarray, results))

    return call


def inner(eqn: Any) -> Any:
    """The traced function that an operation calls once, such as that of a ``jit``."""
    bodies = [
        eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call") if key in eqn.params
    ]
    return bodies[0] if bodies and eqn.primitive.name not in ("scan", "while") else None


def assert_within(value: Any, bounds: tuple[float, float]) -> None:
    outside = ~(np.isnan(value) | ((value >= bounds[0]) & (value <= bounds[1])))
    assert not outside.any(), f"{value[outside]} outside {list(bounds)}"


def assert_exactly(value: Any, expected: float) -> None:
    """Where the score is defined, which it is somewhere."""
    defined = value[~np.isnan(value)]
    assert defined.size
    np.testing.assert_array_equal(defined, np.float32(expected))


each_score = pytest.mark.parametrize("case", cases.cases(*cases.SCORES), ids=lambda case: case.name)

NUMBERS = np.array(
    [0, 1e-20, 0.1, 1 / 3, 1, 3, 7, 12345.678, 2**24 + 2, 2**30, 2**31, 1e20], np.float32
)


def all_statistics(case: Case) -> Any:
    """Counts of all combinations of the numbers, or matrices of random ones, many of them 0."""
    if case.kind == "counts":
        grid = np.array(list(itertools.product(NUMBERS, repeat=4)))
        return jaxseg.Counts(*grid.T[..., None])
    weights = np.where(NUMBERS == 0, len(NUMBERS), 1)
    shape = (4000, CLASSES, CLASSES)
    return np.random.default_rng(0).choice(NUMBERS, shape, p=weights / weights.sum())


def predictions(case: Case, right: bool) -> Any:
    """Counts or matrices of two classes whose pixels are all right, or all wrong."""
    a, b = np.array(list(itertools.product(NUMBERS, repeat=2))).T
    if case.public == "cohen_kappa" and not right:
        a = b  # else chance is worse
    none = np.zeros_like(a)
    if case.kind == "counts":
        leaves = (a, none, none, b) if right else (none, a, b, none)
        return jaxseg.Counts(*(x[:, None] for x in leaves))
    rows = [[a, none], [none, b]] if right else [[none, a], [b, none]]
    return jnp.moveaxis(jnp.array(rows), -1, 0)


# ---------------------------------------------------------------------------------- the simulation


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("form", ["plain", "jit", "cond", "custom_jvp", "custom_vjp", "vmap"])
def test_the_simulation_breaks_a_plain_formula(direction: str, form: str) -> None:
    def plain(x: Any) -> Any:
        return x / jnp.sqrt(x) / jnp.sqrt(x), x / x

    custom_jvp, custom_vjp = jax.custom_jvp(plain), jax.custom_vjp(plain)
    custom_jvp.defjvp(lambda x, dx: (plain(*x), plain(*dx)))
    custom_vjp.defvjp(lambda x: (plain(x), x), lambda x, _: (x,))
    function = {
        "plain": plain,
        "jit": jax.jit(plain),
        "cond": lambda x: jax.lax.cond(x.sum() > 0, plain, lambda x: (x, x), x),
        "custom_jvp": custom_jvp,
        "custom_vjp": custom_vjp,
        "vmap": jax.vmap(plain),
    }[form]
    x = jnp.arange(1.0, 50.0)
    by_roots, ratio = rounded(function, direction)(x)
    np.testing.assert_allclose(by_roots, 1, rtol=1e-6)
    if direction == "exactly":
        assert (ratio == 1).all()
    else:
        assert (ratio > 1).any() == (direction != "down")
        assert (ratio < 1).any() == (direction != "up")
        assert (by_roots != 1).any()


# ---------------------------------------------------------------------------------- scores


@each_score
def test_scores_keep_their_bounds(case: Case) -> None:
    statistic = all_statistics(case)
    for direction, function in itertools.product(DIRECTIONS, variants(case)):
        assert_within(rounded(function, direction)(statistic), case.bounds)


def variants(case: Case) -> list[Callable[..., Any]]:
    """The score with the arguments that leave its bounds and its best value as they are."""
    options: list[dict[str, Any]] = [{}]
    if "smooth" in inspect.signature(getattr(jaxseg, case.public)).parameters:
        options += [{"smooth": 0.3}]
    if case.public == "cohen_kappa":
        options += [{"weights": "linear"}, {"weights": "quadratic"}]
    return [partial(case.function, **each) for each in options]


BEST = {name: 0.0 if name.startswith("false_") else 1.0 for name in TABLE}
BEST |= {"relative_volume_difference": 0.0, "expected_cost": 0.0}
BEST |= {"positive_likelihood_ratio": math.inf, "negative_likelihood_ratio": 0.0}
BEST |= {"prevalence_threshold": 0.0}
NO_BEST = ("prevalence", "net_benefit")
NO_WORST = (*NO_BEST, "volumetric_similarity", "relative_volume_difference", "expected_cost")


@each_score
def test_the_best_and_the_worst_are_exact(case: Case) -> None:
    best, (low, high) = BEST[case.public], case.bounds
    for direction in DIRECTIONS:
        if case.public not in NO_BEST:
            for function in variants(case) if best else [case.function]:
                assert_exactly(rounded(function, direction)(predictions(case, right=True)), best)
        if case.public not in NO_WORST:
            wrong = rounded(case.function, direction)(predictions(case, right=False))
            assert_exactly(wrong, low if best else high)


def test_nothing_of_the_truth_is_a_volume_difference_of_minus_1() -> None:
    for direction in DIRECTIONS:
        c = jaxseg.Counts(*(np.array([x], np.float32) for x in (0, 0, 1 / 3, 5)))
        assert_exactly(rounded(jaxseg.relative_volume_difference, direction)(c), -1)


PLAIN = {
    "dice": lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn),
    "volumetric_similarity": lambda tp, fp, fn, tn: (
        (2 * tp + 2 * jnp.minimum(fp, fn)) / (2 * tp + fp + fn)
    ),
    "fowlkes_mallows": lambda tp, fp, fn, tn: tp / jnp.sqrt((tp + fp) * (tp + fn)),
    "matthews_correlation": lambda tp, fp, fn, tn: (
        (tp * tn - fp * fn) / jnp.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    ),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("leaves", [(5, 0, 0, 7), (0, 3, 4, 0), (5, 1, 2, 7)], ids=str)
def test_the_derivative_at_a_bound_is_that_of_the_formula(
    name: str, leaves: tuple[float, ...]
) -> None:
    c = jaxseg.Counts(*(jnp.array([x], jnp.float32) for x in leaves))
    score = getattr(jaxseg, name)
    got = jax.grad(lambda c: score(c).sum())(c)
    want = jax.grad(lambda c: PLAIN[name](*c).sum())(c)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert any(leaf.any() for leaf in got)


def test_the_derivative_of_a_matrix_score_at_a_bound_is_that_of_the_formula() -> None:
    def plain(m: Any) -> Any:
        tp, truth, predicted, n = jnp.trace(m), m.sum(-1), m.sum(-2), m.sum()
        variances = (n**2 - (truth**2).sum()) * (n**2 - (predicted**2).sum())
        return (n * tp - (truth * predicted).sum()) / jnp.sqrt(variances)

    for m in ([[5.0, 0], [0, 7]], [[0.0, 3], [4, 0]], [[5.0, 1], [2, 7]]):
        got, want = (
            jax.grad(f)(jnp.array(m)) for f in (jaxseg.multiclass_matthews_correlation, plain)
        )
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
        assert got.any()


# ---------------------------------------------------------------------------------- losses

BOUNDED = [
    case
    for case in cases.one_of_each(cases.cases("region", "spatial"))
    if case.kind == "region" or math.isfinite(case.bounds[1])
]


@pytest.mark.parametrize("case", BOUNDED, ids=lambda case: case.public)
def test_losses_keep_their_bounds_and_are_0_where_all_is_right(case: Case) -> None:
    first, labels = map(np.asarray, case.args())
    classes = np.arange(first.shape[-1]) if first.shape[-1] > 1 else np.array([1])
    dense = labels if labels.ndim == first.ndim else labels[..., None] == classes
    right = np.asarray(dense, np.float32)
    wrong = np.roll(right, 1, -1) if case.options.get("activation") == "softmax" else 1 - right
    loss = partial(case.function, activation=None)
    smooths: list[dict[str, float]] = [{}]
    if "smooth" in inspect.signature(getattr(jaxseg, case.public)).parameters:
        smooths += [{"smooth": 0.0}]
    for direction, options in itertools.product(DIRECTIONS, smooths):
        run = rounded(partial(loss, **options), direction)
        for probs in (right, wrong, np.full_like(right, 1 / right.shape[-1])):
            value = run(probs, labels)
            assert not np.isnan(value).any()
            assert_within(value, case.bounds)
            assert probs is not right or not value.any()


# ---------------------------------------------------------------------------------- products


def operations(jaxpr: Any) -> Iterator[Any]:
    """Those of a traced function, and of all that it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for param in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(param, "eqns"):
                yield from operations(param)


EXACT = (jax.lax.Precision.HIGHEST,) * 2
OF_THE_USER = {"linear_dice_ce_loss": {EXACT, None}}  # its head is the user's own layer
ARRAYS = cases.one_of_each(cases.cases(*cases.ARRAYS))


@pytest.mark.parametrize("case", ARRAYS, ids=lambda case: case.public)
def test_products_of_floats_name_their_precision(case: Case) -> None:
    """They stand for sums, which TensorFloat32 or bfloat16 would round to 11 or 8 bits."""
    function = case.function
    if case.kind in cases.GRADED:
        function = jax.value_and_grad(lambda *args: jax.tree.leaves(case.function(*args))[0].sum())
    precisions = {
        eqn.params["precision"]
        for eqn in operations(jax.make_jaxpr(function)(*case.args()))
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
        and eqn.invars[0].aval.dtype != jnp.bfloat16  # of 0 and 1, exact in any precision
    }
    assert precisions <= OF_THE_USER.get(case.public, {EXACT})
    assert (None in precisions) == (case.public in OF_THE_USER)
