"""Running sums against Python's integers and float64, through every way that carries a state."""

import copy
import math
import operator
import pickle
import warnings
from fractions import Fraction
from functools import partial, reduce

import cases
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import reference
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxseg
from jaxseg import Counts, Running

# What XLA makes of a compensated sum is what users get, so all is compiled as theirs is.
pytestmark = pytest.mark.usefixtures("optimized")

FEW = settings(max_examples=25, deadline=None)
NARROW = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
WIDE = ["int64", "uint64"]  # NumPy's
CLASSES = 3


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def exact(r: Running):
    """The statistic in Python's integers, from the limbs alone."""

    def of_leaf(high, low):
        assert (high.dtype, low.dtype) == (np.int32, np.uint32)
        return np.asarray(high).astype(object) * 2**32 + np.asarray(low).astype(object)

    return jax.tree.map(of_leaf, r.high, r.low)


def assert_equal(a, b) -> None:
    """Two pytrees with the same bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True)


def all_counts(value, classes: int = CLASSES, dtype="int32") -> Counts:
    return Counts(*(jnp.full(classes, value, dtype) for _ in range(4)))


def maps(seed: int, *shape: int):
    return tuple(jnp.asarray(x) for x in rng(seed).integers(0, CLASSES, (2, *shape), np.uint8))


def count(predictions, labels, where=None) -> Counts:
    return jaxseg.counts(predictions, labels, num_classes=CLASSES, where=where)


def mesh(*shape: int, names=("b",)) -> jax.sharding.Mesh:
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


# ---------------------------------------------------------------------------------- integers


def integers_of(dtype: str):
    """Numbers of a dtype, its ends often; of 64 bits, eight of which stay below 2**63."""
    if dtype == "bool":
        return st.booleans()
    ends = np.iinfo(dtype)
    low, high = max(int(ends.min), -(2**59)), min(int(ends.max), 2**59)
    edges = [low, high, 0, 1, -1, 2**31, 2**32 - 1, 2**32, -(2**31), -(2**32)]
    return st.sampled_from([n for n in edges if low <= n <= high]) | st.integers(low, high)


@pytest.mark.parametrize("make", [np.array, jnp.array], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE])
@FEW
@given(data=st.data())
def test_integers_sum_exactly(dtype, make, data):
    if make is jnp.array and dtype in WIDE:
        return  # no such arrays
    pairs = st.tuples(*[integers_of(dtype)] * 2)
    steps = data.draw(st.lists(pairs, min_size=1, max_size=8))
    first, *rest = (make(step, dtype) for step in steps)
    r = sum(rest, start=jaxseg.running(first))
    want = [sum(int(n) for n in column) for column in zip(*steps, strict=True)]
    assert exact(r).tolist() == jaxseg.total(r).tolist() == want


@FEW
@given(st.lists(st.tuples(*[st.integers(-(2**60), 2**60)] * 2), min_size=3, max_size=3))
def test_running_sums_add_commute_and_associate(steps):
    a, b, c = (jaxseg.running(np.array(step)) for step in steps)
    assert exact(a + b).tolist() == [x + y for x, y, _ in zip(*steps, strict=True)]
    assert_equal(a + b, b + a)
    assert_equal((a + b) + c, a + (b + c))


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63), -1, 2**32 - 1, -(2**32) - 1])
def test_every_integer_of_64_bits_is_kept(value):
    r = jaxseg.running(np.int64(value))
    assert exact(r) == jaxseg.total(r) == value
    assert exact(jaxseg.running(jnp.int32(0)) + np.int64(value)) == value
    assert exact(jaxseg.running(jnp.int32(0)) + value) == value  # a Python int


def test_sums_pass_two_to_the_53_by_ones():
    r = jaxseg.running(np.int64(2**53))
    for _ in range(5):
        r = r + jnp.int32(1)  # float64 would stay at 2**53
    assert exact(r) == jaxseg.total(r) == 2**53 + 5


def test_integers_fall_through_zero_and_rise_again():
    r = jaxseg.running(jnp.int32(5))
    for step in (-(2**31), -7, 2**31 - 1, 2**31 - 1, -1):
        r = r + jnp.int32(step)
    assert exact(r) == jaxseg.total(r) == 2**31 - 5


def test_mixed_integer_dtypes_share_a_sum():
    numbers = [np.uint8(255), jnp.uint32(2**32 - 1), np.int64(-(2**40)), jnp.int8(-128), True]
    r = sum(numbers, start=jaxseg.running(np.bool_(True)))
    assert exact(r) == sum(map(int, numbers)) + 1


@pytest.mark.parametrize(
    "statistic",
    [
        pytest.param(np.array([1, -2]), id="numpy"),
        pytest.param(jnp.array([1, -2]), id="jax"),
        pytest.param(np.array([0.5, -2]), id="numpy floats"),
        pytest.param(np.float32(0.5), id="numpy scalar"),
        pytest.param(np.int64(7), id="numpy int scalar"),
        pytest.param(3, id="int"),
        pytest.param(0.25, id="float"),
        pytest.param(all_counts(4), id="Counts"),
        pytest.param(jaxseg.moments(jnp.array([0.5, 0.25])), id="Moments"),
        pytest.param({"a": jnp.ones(2, jnp.int32), "b": [np.uint8(3)]}, id="dict"),
        pytest.param((jnp.ones(2, jnp.int32), jnp.ones(3)), id="tuple"),
        pytest.param([jnp.ones(2, jnp.int32), np.ones(3)], id="list"),
    ],
)
def test_a_statistic_may_stand_on_either_side(statistic):
    r = jaxseg.running(statistic)
    twice = jax.tree.map(lambda x: 2 * np.asarray(x), statistic)
    for sum_ in (r + statistic, statistic + r, r + r, sum([statistic], start=r)):
        assert isinstance(sum_, Running)
        assert jax.tree.structure(sum_.high) == jax.tree.structure(statistic)
        jax.tree.map(np.testing.assert_array_equal, jaxseg.total(sum_), twice)


def test_a_list_of_running_sums_adds_up():
    parts = [jaxseg.running(count(*maps(i, 4, 4))) for i in range(5)]
    whole = sum(parts[1:], start=parts[0])
    assert_equal(whole, reduce(operator.add, reversed(parts)))
    assert sum(int(leaf.sum()) for leaf in jaxseg.total(whole)) == 5 * 16 * CLASSES


# ---------------------------------------------------------------------------------- floats


def soft(i):
    """One of 64 soft counts of 3 classes."""
    phase = (1 + i % 64).astype(jnp.float32)
    logits = 3 * jnp.sin(phase * jnp.arange(4.0 * 4 * CLASSES)).reshape(4, 4, CLASSES)
    labels = (jnp.arange(16) * (1 + i % 64) % 5).reshape(4, 4)  # two are of no class
    return jaxseg.soft_counts(logits, labels, activation="softmax")


STEPS = 10**5


@jax.jit
def soft_sums():
    """Sums over the steps, with a Running and in float32, and the 64 statistics that recur."""

    def step(carry, i):
        r, plain = carry
        c = jax.tree.map(lambda x: x[i % 64], table)
        return (r + c, plain + c), None

    table = jax.lax.map(soft, jnp.arange(64))
    zero = all_counts(0, dtype="float32")
    (r, plain), _ = jax.lax.scan(step, (jaxseg.running(zero), zero), jnp.arange(STEPS))
    return r, plain, table


def relative_error(got, want) -> float:
    leaves = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, float) - b) / np.abs(b))) for a, b in leaves)


def test_floats_keep_their_digits_over_100_000_steps():
    r, plain, table = soft_sums()
    times = np.bincount(np.arange(STEPS) % 64).astype(float)
    want = jax.tree.map(lambda x: times @ np.asarray(x, np.float64), table)
    error = relative_error(jaxseg.total(r), want)
    assert error < 1e-12
    assert relative_error(jax.jit(jaxseg.total)(r), want) < 1.2e-7
    assert relative_error(plain, want) > 1e-6  # of which float32 alone is not capable


def test_soft_counts_made_in_the_step_keep_their_digits():
    """All in one loop, where XLA may fuse the statistic with the sum."""
    steps = 2000

    @jax.jit
    def run():
        def step(r, i):
            c = soft(i)
            return r + c, c

        return jax.lax.scan(step, jaxseg.running(all_counts(0, dtype="float32")), jnp.arange(steps))

    r, each = run()
    want = jax.tree.map(lambda x: np.asarray(x, np.float64).sum(0), each)
    assert relative_error(jaxseg.total(r), want) < 1e-12
    without = jax.jit(lambda: run()[0])()
    assert relative_error(jaxseg.total(without), want) < 1e-12


def test_floats_keep_their_digits_eagerly():
    c = jax.jit(soft)(jnp.int32(3))
    r = jaxseg.running(c)
    for _ in range(999):
        r = r + c
    want = jax.tree.map(lambda x: 1000 * np.asarray(x, np.float64), c)
    assert relative_error(jaxseg.total(r), want) < 1e-13


floats = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)


@FEW
@given(st.lists(floats, min_size=1, max_size=30))
def test_any_floats_sum_to_twice_the_digits(numbers):
    first, *rest = (jnp.float32(x) for x in numbers)
    got = float(jaxseg.total(sum(rest, start=jaxseg.running(first))))
    # Of each addition, 2**-45 at most of all magnitudes; what is subnormal is flushed.
    bound = 2**-45 * len(numbers) * math.fsum(map(abs, numbers)) + 1e-37
    assert abs(got - math.fsum(numbers)) <= bound


def test_floats_merge_as_they_add():
    parts = [jaxseg.running(jnp.float32(1 / n)) for n in range(1, 1000)]
    want = math.fsum(float(np.float32(1 / n)) for n in range(1, 1000))
    for order in (parts, parts[::-1]):
        assert float(jaxseg.total(sum(order[1:], start=order[0]))) == pytest.approx(want, rel=1e-13)
    halves = sum(parts[1:500], start=parts[0]) + sum(parts[501:], start=parts[500])
    assert float(jaxseg.total(halves)) == pytest.approx(want, rel=1e-13)


def test_what_a_large_sum_takes_up_comes_back():
    r = jaxseg.running(jnp.float32(2**30))
    for _ in range(1000):
        r = r + jnp.float32(1e-3)
    r = r + jnp.float32(-(2**30))
    assert float(jaxseg.total(r)) == pytest.approx(1000 * float(np.float32(1e-3)), rel=1e-4)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_as_float32(dtype, make):
    tenth = make(jnp.full(3, 0.1, dtype))
    zero = jaxseg.running(make(jnp.zeros(3, dtype)))
    r = jax.jit(lambda r, x: jax.lax.fori_loop(0, 10**4, lambda _, r: r + x, r))(zero, tenth)
    r = r + tenth
    assert {leaf.dtype for leaf in jax.tree.leaves(r)} == {jnp.float32.dtype}
    want = (10**4 + 1) * float(np.asarray(tenth[0], np.float64))
    np.testing.assert_allclose(jaxseg.total(r), np.full(3, want), rtol=1e-13)


@pytest.mark.parametrize(
    "numbers",
    [
        (np.inf, 1),
        (1, np.inf, 1, 1),
        (-np.inf, 1, 1),
        (np.inf, -np.inf, 1),
        (np.inf, np.inf, 1),
        (np.nan, 1, 1),
        (1, np.nan, np.inf),
        (1, 2, np.nan),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_stay_what_a_float64_sum_gives(numbers, dtype):
    steps = [np.array([x, 0.5], dtype) for x in numbers]
    with np.errstate(invalid="ignore"):
        want = sum(step.astype(np.float64) for step in steps)
    parts = [jaxseg.running(step) for step in steps]
    for r in (sum(steps[1:], start=parts[0]), sum(parts[1:], start=parts[0])):
        np.testing.assert_array_equal(jaxseg.total(r), want)
        np.testing.assert_array_equal(jax.jit(jaxseg.total)(r), want.astype(np.float32))


def test_numpy_float64_keeps_its_digits():
    values = np.array([1 / 3, -2e-9, 1e9 + 0.123, 0.0])
    r = jaxseg.running(values)
    assert {leaf.dtype for leaf in jax.tree.leaves(r)} == {jnp.float32.dtype}
    np.testing.assert_allclose(jaxseg.total(r), values, rtol=2**-47)
    for _ in range(9):
        r = r + values
    np.testing.assert_allclose(jaxseg.total(r), 10 * values, rtol=1e-13)
    # Beyond the range of float32, it is infinite; and silently so, as in JAX.
    assert jaxseg.total(jaxseg.running(np.array([1e300, -1e300]))).tolist() == [np.inf, -np.inf]


def test_float64_stays_float64():
    with jax.enable_x64(True):
        r = jaxseg.running(jnp.full(2, 0.1, jnp.float64))
        r = jax.jit(lambda r: jax.lax.fori_loop(0, 999, lambda _, r: r + np.full(2, 0.1), r))(r)
        assert {leaf.dtype for leaf in jax.tree.leaves(r)} == {jnp.float64.dtype}
        whole = Fraction(0.1) * 1000
        got = Fraction(float(r.high[0])) + Fraction(float(r.low[0]))
        assert abs(got - whole) < whole / 2**90
        assert jax.jit(jaxseg.total)(r).dtype == jnp.float64


KEEPS = {  # ways to add a float64, none of which is JAX's with 64 bits disabled
    "right": lambda r, x: r + x,
    "left": lambda r, x: x + r,
    "jit": jax.jit(lambda r, x: r + x),
    "running": lambda r, x: r + jaxseg.running(x),
    "numpy": lambda r, x: r + np.asarray(x),
    "psum": lambda r, x: over_devices(
        lambda r: jaxseg.psum(r, "d"),
        jax.tree.map(lambda *xs: jnp.stack(xs), r + x, jaxseg.running(r.high * 0)),
    ),
    "scan": lambda r, x: jax.lax.scan(lambda r, x: (r + x, None), r, x[None])[0],
}


@pytest.mark.parametrize("way", KEEPS)
def test_a_float64_keeps_its_digits_in_a_pair_of_float32(way):
    with jax.enable_x64(True):
        r = jaxseg.running(jnp.zeros(5, jnp.float32))
        x = jnp.array([0.1, 1 / 3, -1e9 - 0.123, np.inf, np.nan], jnp.float64)
        got = KEEPS[way](r, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.float32.dtype}
        np.testing.assert_allclose(jaxseg.total(got), x, rtol=2**-47)
        in_trace = jax.jit(jaxseg.total)(got)
        assert in_trace.dtype == jnp.float64
        np.testing.assert_allclose(in_trace, x, rtol=2**-47)


def test_a_float64_beyond_float32_is_infinite_in_a_pair_of_float32():
    with jax.enable_x64(True):
        r = jaxseg.running(jnp.zeros(3, jnp.float32)) + jnp.array([1e300, -1e300, 1e-300])
        assert jaxseg.total(r).tolist() == [np.inf, -np.inf, 0]


def test_sums_of_float32_and_of_float64_mix():
    """The left of two sums gives the dtype, since it is the carry; digits stay on either side."""
    with jax.enable_x64(True):
        tenth, third = jnp.float64(0.1), jnp.float32(1 / 3)
        wide = jaxseg.running(tenth)
        narrow = jaxseg.running(third) + tenth
        want = 2 * 0.1 + float(third)
        for r, dtype in ((narrow + wide, jnp.float32), (wide + narrow, jnp.float64)):
            assert {leaf.dtype for leaf in r} == {jnp.dtype(dtype)}
            assert float(jaxseg.total(r)) == pytest.approx(want, rel=2**-45)
        steps = jnp.full(1000, 0.1)
        r, _ = jax.lax.scan(lambda r, x: (r + x, None), narrow, steps)
        assert float(jaxseg.total(r)) == pytest.approx(100.1 + float(third), rel=1e-12)


@pytest.mark.parametrize("start", ["int8", "uint8", "int32", "uint32", "int64", "uint64", "bool"])
def test_integers_of_64_bits_add_to_any(start):
    steps = [
        (2**40 + 1, "int64"),
        (-(2**61), "int64"),
        (2**62 + 3, "uint64"),
        (2**32 - 1, "uint32"),
    ]
    with jax.enable_x64(True):
        r = jaxseg.running(jnp.ones((), start))
        jitted = jax.jit(operator.add)
        for n, dtype in steps:
            r = jitted(r + jnp.asarray(n, dtype), jnp.asarray(n, dtype))
        assert exact(r) == 1 + 2 * sum(n for n, _ in steps)


def test_int64_of_x64_is_exact():
    with jax.enable_x64(True):
        r = jaxseg.running(jnp.array([2**40 + 1, -5])) + jnp.array([2**61, -(2**61)])
        assert exact(r).tolist() == [2**61 + 2**40 + 1, -(2**61) - 5]
        assert jax.jit(jaxseg.total)(jaxseg.running(np.int64(2**53 - 1))).item() == 2**53 - 1


# ---------------------------------------------------------------------------------- total


def test_total_on_the_host_is_numpys():
    statistic = {"n": jnp.ones((2, 3), jnp.uint8), "x": jnp.ones((), jnp.bfloat16)}
    total = jaxseg.total(jaxseg.running(statistic))
    assert {k: (type(v), v.dtype, v.shape) for k, v in total.items()} == {
        "n": (np.ndarray, np.int64, (2, 3)),
        "x": (np.ndarray, np.float64, ()),
    }


jitted_total = jax.jit(lambda r: jaxseg.total(r))


@FEW
@given(st.lists(integers_of("int64") | st.integers(-(2**26), 2**26), min_size=4, max_size=4))
def test_total_in_a_trace_is_float32_within_its_last_digit(numbers):
    got = jitted_total(jaxseg.running(np.array(numbers)))
    assert got.dtype == jnp.float32
    for a, b in zip(np.asarray(got, np.float64), numbers, strict=True):
        assert abs(a - b) <= 1.2e-7 * abs(b)


@pytest.mark.parametrize("value", [-1, -3, -(2**24), -(2**31), 2**31, 2**32 - 1, 2**32, -(2**32)])
def test_total_of_a_small_negative_number_is_no_difference_of_large_ones(value):
    r = jaxseg.running(np.int64(value))
    assert jaxseg.total(r) == value
    assert float(jitted_total(r)) == np.float32(value)


def test_total_is_traced_by_vmap_and_scan():
    r = jaxseg.running(np.array([2**40, -5, 3]))
    want = np.array([2**40, -5, 3], np.float32)
    got = jax.vmap(jaxseg.total)(r)
    _, each = jax.lax.scan(lambda carry, r: (carry, jaxseg.total(r)), None, r)
    for x in (got, each):
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, want)
    shape = jax.eval_shape(jaxseg.total, r)
    assert (shape.shape, shape.dtype) == ((3,), jnp.float32)


@pytest.mark.parametrize("case", cases.cases("counts"), ids=lambda case: case.name)
def test_scores_of_a_total(case):
    """Of counts far beyond int32, products included."""
    leaves = [[3 * 2**33 + 1, 5], [2**32, 2**40], [7, 2**31], [2**42, 2**33]]
    r = jaxseg.running(Counts(*map(np.array, leaves)))
    function = getattr(
        reference, {"jaccard": "iou", "sensitivity": "recall"}.get(case.name, case.name)
    )
    if case.name == "generalized_dice":
        want = function(*leaves)
    else:
        want = [function(*of_class) for of_class in zip(*leaves, strict=True)]
    want = np.asarray(want, np.float64)
    np.testing.assert_allclose(case.function(jaxseg.total(r)), want, rtol=1e-5)
    if case.name in cases.REPRESENTATIVES or case.name == "matthews_correlation":
        in_jit = jax.jit(lambda r: case.function(jaxseg.total(r)))(r)
        np.testing.assert_allclose(in_jit, want, rtol=1e-5)


@pytest.mark.parametrize("case", cases.cases("matrix"), ids=lambda case: case.name)
def test_scores_of_the_total_of_a_matrix(case):
    matrix = [[2**40, 2**33 + 1], [3 * 2**31, 2**38]]
    r = jaxseg.running(np.array(matrix))
    want = getattr(reference, case.name)(matrix)
    np.testing.assert_allclose(case.function(jaxseg.total(r)), want, rtol=1e-5)
    if case.name in cases.REPRESENTATIVES:
        in_jit = jax.jit(lambda r: case.function(jaxseg.total(r)))(r)
        np.testing.assert_allclose(in_jit, want, rtol=1e-5)


def test_report_and_conversion_of_a_total():
    matrix = np.array([[2**40, 2**33 + 1], [3 * 2**31, 2**38]])
    total = jaxseg.counts_from_confusion(jaxseg.total(jaxseg.running(matrix)))
    c = jaxseg.running(Counts(*(np.asarray(x, np.int64) for x in total)))
    assert f"{2**40 + 2**33 + 1}" in jaxseg.class_report(jaxseg.total(c))
    assert [int(x) for x in total.fn] == [2**33 + 1, 3 * 2**31]


# ---------------------------------------------------------------------------------- carrying


def test_shapes_and_dtypes_never_change():
    """A state of fixed size."""
    statistic = {"c": count(*maps(0, 4, 4)), "m": jaxseg.moments(jnp.array([0.5, jnp.nan]))}
    r = start = jaxseg.running(statistic)
    for _ in range(100):
        r = r + statistic
    as_shapes = partial(jax.tree.map, jax.typeof)
    assert as_shapes(r) == as_shapes(start) == as_shapes(r + r)
    assert sum(x.nbytes for x in jax.tree.leaves(r)) == 2 * sum(
        x.nbytes for x in jax.tree.leaves(statistic)
    )


@pytest.mark.parametrize("all_jax", [True, False], ids=["jax", "mixed"])
@pytest.mark.parametrize("dtype", ["int32", "uint32", "float32", "bool"])
def test_a_donated_state_leaves_the_statistic_alone(dtype, all_jax):
    shared = jnp.ones(3, dtype)
    c = Counts(shared, shared, shared, jnp.zeros(3, dtype) if all_jax else np.zeros(3, dtype))
    r = jaxseg.running(c)
    step = jax.jit(lambda r, c: r + c, donate_argnums=0)
    for _ in range(3):
        old, r = r, step(r, c)
        assert all(x.is_deleted() for x in jax.tree.leaves(old))
    assert not shared.is_deleted()
    assert jaxseg.total(r).tp.tolist() == [4] * 3


def test_a_state_that_starts_from_numpy_may_be_donated():
    c = Counts(*np.ones((4, 3)))
    r = jax.jit(lambda r: r + r, donate_argnums=0)(jaxseg.running(c))
    assert jaxseg.total(r).tp.tolist() == [2.0] * 3
    assert c.tp.tolist() == [1.0] * 3


def test_any_number_of_steps_is_one_trace():
    traces = []

    @jax.jit
    def step(r, c):
        traces.append(None)
        return r + c

    c = count(*maps(0, 4, 4))
    r = jaxseg.running(c)
    for _ in range(20):
        r = step(r, c)
    assert len(traces) == 1

    def body(r, c):
        traces.append(None)
        return r + c, None

    of_steps = jax.jit(lambda r, cs: jax.lax.scan(body, r, cs)[0])
    of_steps(r, jax.tree.map(lambda x: jnp.stack([x] * 20), c))
    assert len(traces) == 2


def compiled_by(f) -> list[str]:
    events = []

    def listen(event, seconds, **_):
        if "compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        f()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return events


@pytest.mark.parametrize(
    "statistic",
    [
        pytest.param(all_counts(1), id="jax"),
        pytest.param(Counts(*np.ones((4, CLASSES), np.int64)), id="numpy ints"),
        pytest.param(Counts(*np.ones((4, CLASSES))), id="numpy floats"),
    ],
)
def test_further_eager_sums_compile_nothing(statistic):
    def run():
        r = jaxseg.running(statistic)
        return jaxseg.total(statistic + (r + statistic) + r)

    run()
    assert not compiled_by(run)


def test_a_sum_is_one_compiled_call():
    c = all_counts(1)
    for add in (jaxseg.running, lambda c: jaxseg.running(c) + c):
        calls = jax.make_jaxpr(add)(c).eqns
        assert all("jit" in call.primitive.name for call in calls)
        assert len(calls) == 1 + (add is not jaxseg.running)


def test_loops_of_lax_carry_it():
    c = all_counts(2**31 - 1)
    zero = jaxseg.running(all_counts(0))

    def loop(r, c):
        r = jax.lax.fori_loop(0, 10, lambda _, r: r + c, r)
        r = jax.lax.scan(lambda r, _: (c + r, None), r, None, 10)[0]
        r, _ = jax.lax.while_loop(lambda s: s[1] < 10, lambda s: (s[0] + c, s[1] + 1), (r, 0))
        return jax.lax.cond(r.low.tp[0] >= 0, lambda r: r + c, lambda r: r, r)

    assert exact(jax.jit(loop)(zero, c)).tp.tolist() == [31 * (2**31 - 1)] * CLASSES


def test_a_state_of_weak_types_is_a_carry():
    zero = jaxseg.running({"n": jnp.asarray(0), "x": jnp.asarray(0.0)})
    r, _ = jax.lax.scan(lambda r, _: (r + {"n": 1, "x": 0.5}, None), zero, None, 7)
    assert jaxseg.total(r) == {"n": 7, "x": 3.5}


def test_vmap_is_a_loop():
    c = jaxseg.counts(*maps(0, 5, 4, 4), num_classes=CLASSES, axis=(1, 2))
    r = jax.vmap(jaxseg.running)(c)
    assert_equal(r, jaxseg.running(c))
    assert_equal(jax.vmap(operator.add)(r, c), r + c)


def test_a_sum_over_steps_under_shard_map():
    """Each device carries its own sum through a scan; one psum at the end."""
    steps, (predictions, labels) = 5, maps(0, 5, 8, 6, 6)

    def body(predictions, labels):
        zero = jaxseg.running(jax.tree.map(jnp.zeros_like, count(predictions[0], labels[0])))
        zero = zero + jax.tree.map(lambda x: x - x, count(predictions[0], labels[0]))
        r, _ = jax.lax.scan(lambda r, maps: (r + count(*maps), None), zero, (predictions, labels))
        return jaxseg.psum(r, "b")

    run = jax.shard_map(body, mesh=mesh(8), in_specs=P(None, "b"), out_specs=P())
    r = jax.jit(run)(predictions, labels)
    each = [count(predictions[i], labels[i]) for i in range(steps)]
    assert_equal(r, sum(each[1:], start=jaxseg.running(each[0])))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_sharded_state_adds_where_it_is(axis_type):
    c = jaxseg.counts(*maps(0, 8, 4, 4), num_classes=CLASSES, axis=(1, 2))
    devices = jax.make_mesh((8,), ("b",), axis_types=(axis_type,))
    with jax.set_mesh(devices):
        sharded = jax.device_put(c, jax.sharding.NamedSharding(devices, P("b")))
        step = jax.jit(lambda r, c: r + c)
        r = jaxseg.running(sharded)
        compiled = step.lower(r, sharded).compile()
        got = compiled(r, sharded) + sharded
    assert_equal(got, jaxseg.running(c) + c + c)
    assert "all-" not in compiled.as_text()
    assert got.low.tp.sharding.is_equivalent_to(sharded.tp.sharding, 2)


# ---------------------------------------------------------------------------------- psum


def over_devices(f, *args, axes="d"):
    """The sum that each of the first axis' devices gets, which is the same."""
    result = jax.jit(jax.vmap(f, axis_name=axes))(*args)
    jax.tree.map(
        lambda x: np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape)), result
    )
    return jax.tree.map(lambda x: x[0], result)


def limbs(highs, lows) -> Running:
    return Running(jnp.asarray(highs, jnp.int32), jnp.asarray(lows, jnp.uint32))


@pytest.mark.parametrize("devices", [1, 2, 3, 4096, 65536])
def test_psum_of_limbs_at_their_maximum_is_exact(devices):
    """On each device 2**63 / devices - 1, the largest number whose sum has 63 bits."""
    high = min(2**31 // devices - 1, 2**31 - 1)
    r = limbs([[high, -1, -high - 1]] * devices, [[2**32 - 1, 2**32 - 1, 0]] * devices)
    want = [devices * n for n in (high * 2**32 + 2**32 - 1, -1, (-high - 1) * 2**32)]
    assert min(want) >= -(2**63) and max(want) < 2**63
    assert exact(over_devices(partial(jaxseg.psum, axis_name="d"), r)).tolist() == want


def test_psum_of_jax_would_lose_the_carries():
    """Why there is a psum of jaxseg: low limbs alone overflow 32 bits."""
    r = limbs([0] * 4096, [2**32 - 1] * 4096)
    wrong = over_devices(partial(jax.lax.psum, axis_name="d"), r)
    assert exact(wrong) == 2**32 - 4096
    right = over_devices(partial(jaxseg.psum, axis_name="d"), r)
    assert exact(right) == 4096 * (2**32 - 1) == exact(wrong) + 4095 * 2**32


@FEW
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**28), 2**28 - 1),
            st.sampled_from([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1),
        ),
        min_size=8,
        max_size=8,
    )
)
def test_psum_of_any_limbs_is_exact(pairs):
    r = limbs(*zip(*pairs, strict=True))
    assert exact(psum_of_eight(r))[0] == sum(high * 2**32 + low for high, low in pairs)


psum_of_eight = jax.jit(jax.vmap(lambda r: jaxseg.psum(r, "d"), axis_name="d"))


def mapped(how: str, f, args):
    """``f`` over 8 devices by name "b", of the first axis of ``args``; a copy for each device."""
    if how == "pmap":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return jax.pmap(f, axis_name="b")(*args)
    if how == "vmap":
        return jax.jit(jax.vmap(f, axis_name="b"))(*args)

    def body(*args):
        return jax.tree.map(lambda x: x[None], f(*jax.tree.map(lambda x: x[0], args)))

    return jax.jit(jax.shard_map(body, mesh=mesh(8), in_specs=P("b"), out_specs=P("b")))(*args)


@pytest.mark.parametrize("how", ["shard_map", "pmap", "vmap"])
def test_psum_of_nested_states(how):
    """Running sums and plain statistics in one pytree, each by its own rule."""
    big = np.arange(8, dtype=np.int64) * 2**40 + 2**32 - 1
    state = {
        "exact": jaxseg.running({"n": big, "x": np.linspace(0.1, 0.8, 8)}),
        "plain": Counts(*jnp.arange(32, dtype=jnp.int32).reshape(4, 8)),
        "pair": (jaxseg.running(jnp.full(8, 2**31 - 1)), jnp.arange(8, dtype=jnp.float32)),
    }
    got = mapped(how, lambda state: jaxseg.psum(state, "b"), (state,))
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for i in range(8):
        one = jax.tree.map(lambda x: np.asarray(x)[i], got)  # noqa: B023
        total = jaxseg.total(one["exact"])
        assert total["n"] == sum(map(int, big))
        assert total["x"] == pytest.approx(3.6, rel=1e-13)
        assert [int(x) for x in one["plain"]] == [sum(range(8 * k, 8 * k + 8)) for k in range(4)]
        assert exact(one["pair"][0]) == 8 * (2**31 - 1)
        assert one["pair"][1] == 28


@pytest.mark.parametrize("axes", [("x", "y"), ("y", "x"), "x", "y"], ids=str)
def test_psum_over_axes_of_a_mesh(axes):
    values = np.arange(8, dtype=np.int64).reshape(2, 4) * 2**37 + 2**32 - 1
    floats = 1 / (3 + np.arange(8.0).reshape(2, 4))
    kept = tuple(name for name in ("x", "y") if name not in axes)
    run = jax.shard_map(
        lambda r: jaxseg.psum(r, axes),
        mesh=mesh(2, 4, names=("x", "y")),
        in_specs=P("x", "y"),
        out_specs=P(*(name if name in kept else None for name in ("x", "y"))),
    )
    summed = tuple(i for i, name in enumerate(("x", "y")) if name not in kept)
    total = jaxseg.total(jax.jit(run)(jaxseg.running((values, floats))))
    assert total[0].tolist() == values.sum(summed, keepdims=True).tolist()
    np.testing.assert_allclose(total[1], floats.sum(summed, keepdims=True), rtol=1e-13)


@pytest.mark.parametrize("devices", [1, 2, 8, 4096])
@pytest.mark.parametrize("spread", [1, 1e6], ids=["alike", "unlike"])
def test_psum_of_floats_keeps_their_digits(devices, spread):
    scale = spread ** rng(1).uniform(-1, 1, (devices, 200))
    values = rng(2).uniform(0.5, 1, (devices, 200)) * scale  # of float64: low limbs are not 0
    r = jaxseg.running(values)
    want = np.array([math.fsum(column) for column in values.T])
    error = np.abs(jaxseg.total(over_devices(lambda r: jaxseg.psum(r, "d"), r)) / want - 1).max()
    assert error < 1e-10
    if devices > 1:
        plain = over_devices(lambda r: jax.lax.psum(r.high, "d"), r)
        assert np.abs(np.asarray(plain, np.float64) / want - 1).max() > 1e-8


def test_psum_of_floats_that_cancel():
    values = np.array([1e8, 1.0, -1e8, 1 / 3, 2.0**-30, -1.0, 0.0, 1e-3])
    got = jaxseg.total(over_devices(lambda r: jaxseg.psum(r, "d"), jaxseg.running(values)))
    assert got == pytest.approx(math.fsum(values), abs=1e8 * 2**-46)


@pytest.mark.parametrize(
    "values",
    [
        (np.inf, 1, 2, 3),
        (1e30, -np.inf, 2, 3),
        (np.inf, -np.inf, 2, 3),
        (np.nan, 1, 2, 3),
        (np.nan, np.inf, 2, 3),
        (3e38, -3e38, 2, 3),
        (0, 0, 0, 0),
        (1e-30, 1e-30, -1e-30, 3e-30),
    ],
    ids=str,
)
def test_psum_of_floats_at_the_ends(values):
    with np.errstate(invalid="ignore"):
        want = np.float32(values).astype(np.float64).sum()
    r = jaxseg.running(np.float32(values))
    got = jaxseg.total(over_devices(lambda r: jaxseg.psum(r, "d"), r))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_psum_of_an_axis_that_is_none():
    with pytest.raises(NameError):
        jaxseg.psum(jaxseg.running(all_counts(1)), "nowhere")


# ---------------------------------------------------------------------------------- storage


def a_state():
    """Sums beyond 32 bits, floats with digits in their low limb, and a NaN."""
    r = jaxseg.running(all_counts(2**31 - 1)) + all_counts(2**31 - 1)
    m = jaxseg.running(jaxseg.moments(jnp.array([[0.1, jnp.nan], [0.7, 1 / 3]])))
    m = m + m + jaxseg.moments(jnp.array([[1e-5, 1e5], [0.7, 1 / 3]]))
    return {"counts": r, "moments": m, "soft": jaxseg.running(np.array([1 / 3, np.nan])), "step": 3}


def assert_restored(got, state) -> None:
    """The same bits, and a state that goes on."""
    assert isinstance(got["counts"], Running) and isinstance(got["counts"].low, Counts)
    assert isinstance(got["moments"].high, jaxseg.Moments)
    assert_equal(jax.tree.map(jnp.asarray, got), jax.tree.map(jnp.asarray, state))
    assert_equal(got["counts"] + all_counts(5), state["counts"] + all_counts(5))
    assert_equal(got["moments"] + state["moments"], state["moments"] + state["moments"])
    assert jaxseg.total(got["counts"]).tp.tolist() == [2**32 - 2] * CLASSES
    np.testing.assert_array_equal(jaxseg.total(got["soft"]), jaxseg.total(state["soft"]))


def test_orbax_restores_a_state(tmp_path):
    state = a_state()
    state["step"] = jnp.int32(3)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        assert_restored(checkpointer.restore(tmp_path / "state", target), state)


def test_flax_restores_a_state():
    state = a_state()
    target = {name: jax.tree.map(jnp.zeros_like, part) for name, part in state.items()}
    assert_restored(serialization.from_bytes(target, serialization.to_bytes(state)), state)
    as_dict = serialization.to_state_dict(state)
    assert set(as_dict["counts"]) == {"high", "low"}
    assert set(as_dict["counts"]["low"]) == set(Counts._fields)
    assert_restored(serialization.from_state_dict(target, as_dict), state)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda x: pickle.loads(pickle.dumps(x)), id="pickle"),
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda x: jax.tree.unflatten(*jax.tree.flatten(x)[::-1]), id="tree"),
        pytest.param(jax.device_get, id="device_get"),
    ],
)
def test_copies_are_the_state(again):
    state = a_state()
    assert_restored(again(state), state)


def test_leaves_have_paths_with_names():
    r = jaxseg.running(all_counts(1))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(r)]
    assert paths[:2] == [".high.tp", ".high.fp"] and paths[-1] == ".low.tn"


def test_an_exported_step_goes_on():
    maps_ = maps(0, 4, 4)
    r = jaxseg.running(all_counts(2**31 - 1)) + all_counts(2**31 - 1)
    step = jax.jit(lambda r, *maps: r + count(*maps))
    exported = jax.export.deserialize(jax.export.export(step)(r, *maps_).serialize())
    got = exported.call(r, *maps_)
    assert isinstance(got, Running) and isinstance(got.low, Counts)
    assert_equal(exported.call(got, *maps_), step(step(r, *maps_), *maps_))


# ---------------------------------------------------------------------------------- traps


def test_counts_go_on_after_two_to_the_24():
    """t38: 1,000 false positives after 2**24 pixels are counted; float32 alone would not."""
    one = all_counts(0)._replace(fp=jnp.ones(CLASSES, jnp.int32))
    r = jaxseg.running(all_counts(2**24))
    r = jax.jit(lambda r: jax.lax.fori_loop(0, 1000, lambda _, r: r + one, r))(r)
    assert np.float32(2**24) + np.float32(1) == 2**24
    assert jaxseg.total(r).fp.tolist() == [2**24 + 1000] * CLASSES
    dice = Fraction(2 * 2**24, 4 * 2**24 + 1000)
    np.testing.assert_allclose(jaxseg.dice(jaxseg.total(r)), float(dice), rtol=1e-7)


def test_one_call_above_two_to_the_24_pixels_is_kept():
    """What one call counts in int32 comes out of the sum, pixel by pixel."""
    pixels = 2**24 + 3
    ones = jnp.ones(pixels, jnp.uint8)
    r = jaxseg.running(jaxseg.counts(ones, ones, num_classes=1))
    assert jaxseg.total(r + r).tp.tolist() == [2 * pixels]


def test_counts_go_on_after_two_to_the_31():
    """Int32 would be negative after two steps; scores stay in [0, 1], in jit too."""
    c = Counts(*(jnp.full(CLASSES, n, jnp.int32) for n in (2**31 - 1, 2**30, 7, 2**31 - 1)))
    assert (c + c).tp[0] < 0
    r = jaxseg.running(c)
    for _ in range(9):
        r = c + r
    tp, fp, fn, _ = (10 * int(leaf[0]) for leaf in c)
    assert [int(leaf[0]) for leaf in jaxseg.total(r)] == [tp, fp, fn, tp]
    want = float(Fraction(tp, tp + fp + fn))
    np.testing.assert_allclose(jaxseg.iou(jaxseg.total(r)), want, rtol=1e-7)
    in_jit = jax.jit(lambda r: jaxseg.iou(jaxseg.total(r)))(r)
    np.testing.assert_allclose(in_jit, want, rtol=3e-7)


IMAGES = maps(7, 12, 5, 5)


@FEW
@given(st.lists(st.integers(1, 4), min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_any_batches_give_the_same_totals(sizes, random):
    """t54: a ratio of sums, whatever the batches, their order and their padding."""
    order = list(range(12))
    random.shuffle(order)
    batches, start = [], 0
    for size in sizes:
        batches.append(order[start : start + size])
        start += size
    r = padded = jaxseg.running(all_counts(0))
    for batch in filter(None, batches):
        images = tuple(np.asarray(x)[batch] for x in IMAGES)
        r = r + count(*images)
        images, valid = jaxseg.pad_batch(images, 4)
        padded = padded + count(*images, where=np.broadcast_to(valid[:, None, None], (4, 5, 5)))
    assert_equal(r, jaxseg.running(count(*IMAGES)))
    assert_equal(padded, r)


def test_the_mean_of_batches_would_differ():
    """t54: 4 perfect pixels and 576 wrong ones are no 0.5."""
    right = count(jnp.zeros(4, jnp.uint8), jnp.zeros(4, jnp.uint8))
    wrong = count(jnp.ones(576, jnp.uint8), jnp.zeros(576, jnp.uint8))
    r = jaxseg.running(right) + wrong
    assert jaxseg.iou(jaxseg.total(r))[0] == pytest.approx(4 / 580)
    assert float(jaxseg.iou(right)[0] + jaxseg.iou(wrong)[0]) / 2 == 0.5


def test_a_nan_stays_in_its_class():
    """A NaN statistic is not hidden, nor does it reach the sums beside it."""
    bad = all_counts(0.5, dtype="float32")
    bad = bad._replace(tp=bad.tp.at[1].set(jnp.nan))
    r = jaxseg.running(bad) + all_counts(0.25, dtype="float32")
    assert np.isnan(jaxseg.total(r).tp).tolist() == [False, True, False]
    assert jaxseg.total(r).fp.tolist() == [0.75] * 3


def test_float_weights_are_not_cut_to_the_integers_of_a_state():
    """Counts weighted by 0.5 neither become 0 in an int state nor round silently."""
    c = count(*maps(0, 4, 4))
    weighted = jax.tree.map(lambda x: 0.5 * x.astype(jnp.float32), c)
    for a, b in ((c, weighted), (weighted, c)):
        with pytest.raises(TypeError, match="integers or floats"):
            jaxseg.running(a) + b
    r = jaxseg.running(weighted) + weighted
    assert_equal(jaxseg.total(r), jax.tree.map(lambda x: np.asarray(x, np.float64), c))


# ---------------------------------------------------------------------------------- scale


def test_sums_of_100_000_steps_pass_two_to_the_40():
    c = Counts(*(jnp.array([2**31 - 1, n, 0], jnp.int32) for n in (1, 2, -3, 2**24 + 1)))

    @jax.jit
    def run(c):
        zero = jaxseg.running(jax.tree.map(jnp.zeros_like, c))
        return jax.lax.scan(lambda r, _: (r + c, None), zero, None, STEPS)[0]

    total = jaxseg.total(run(c))
    for leaf, summed in zip(c, total, strict=True):
        assert summed.tolist() == [STEPS * int(n) for n in leaf]
    assert total.tp[0] > 2**47


@pytest.mark.slow
def test_ten_billion_pixels_are_counted_exactly_in_one_scan():
    """2,400 predictions, all unlike: the labels rolled by the step, and their total is known.

    Over all rolls, a column's ``a`` pixels of class c meet each of its pixels: ``a * a`` times c.
    """
    height, width, classes = 2400, 1750, 4
    labels = rng().integers(0, classes, (height, width), np.uint8)

    @jax.jit
    def run(labels):
        def step(r, i):
            predictions = jax.lax.dynamic_slice(twice, (i, 0), labels.shape)
            return r + jaxseg.counts(predictions, labels, num_classes=classes), None

        twice = jnp.concatenate([labels, labels])
        zero = jaxseg.running(all_counts(0, classes))
        return jax.lax.scan(step, zero, jnp.arange(height))[0]

    total = jaxseg.total(run(labels))
    pixels = height * height * width
    assert pixels > 10**10
    for c in range(classes):
        columns = [int(n) for n in (labels == c).sum(0)]
        tp, size = sum(n * n for n in columns), height * sum(columns)
        got = tuple(int(leaf[c]) for leaf in total)
        assert got == (tp, size - tp, size - tp, pixels - 2 * size + tp)


# ---------------------------------------------------------------------------------- errors

STATE = jaxseg.running(all_counts(1))
C = all_counts(1)

MISFITS = [
    pytest.param(STATE, {"tp": C.tp}, TypeError, "same structure", id="structure"),
    pytest.param(STATE, tuple(C), TypeError, "same structure", id="tuple for Counts"),
    pytest.param(STATE, C.tp, TypeError, "same structure", id="an array"),
    pytest.param(STATE, 1, TypeError, "same structure", id="a number"),
    pytest.param(STATE, None, TypeError, "same structure", id="None"),
    pytest.param(STATE, all_counts(1, 2), ValueError, "same shapes", id="shape"),
    pytest.param(STATE, all_counts(1, 1), ValueError, "same shapes", id="would broadcast"),
    pytest.param(STATE, Counts(1, 1, 1, 1), ValueError, "same shapes", id="scalars"),
    pytest.param(STATE, all_counts(1, dtype="float32"), TypeError, "integers or", id="kind"),
    pytest.param(STATE, all_counts(1, dtype="complex64"), TypeError, "must hold", id="complex"),
    pytest.param(STATE, jaxseg.running(C.tp), TypeError, "same structure", id="another sum"),
    pytest.param(STATE, Counts(*"abcd"), TypeError, "must hold", id="strings"),
    pytest.param(STATE, Counts(*[2**64] * 4), TypeError, "must hold", id="beyond 64 bits"),
]


@pytest.mark.parametrize(("r", "other", "error", "message"), MISFITS)
def test_misfits_do_not_add(r, other, error, message):
    for add in (operator.add, lambda a, b: b + a):
        with pytest.raises(error, match=message):
            add(r, other)
        with pytest.raises(error, match=message):  # the same under jit
            jax.jit(lambda r: add(r, other))(r)  # noqa: B023


@pytest.mark.parametrize(
    ("statistic", "message"),
    [
        (STATE, "already"),
        ({"a": STATE, "b": C}, "already"),
        ([(STATE,)], "already"),
        (jnp.ones(2, jnp.complex64), "must hold"),
        (1j, "must hold"),
        ("text", "must hold"),
        (np.array(["text"]), "must hold"),
        (object(), "must hold"),
        (np.datetime64("2020"), "must hold"),
        (jax.random.key(0), "must hold"),
    ],
)
def test_what_no_sum_can_start_from(statistic, message):
    with pytest.raises(TypeError, match=message):
        jaxseg.running(statistic)
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda: jaxseg.running(statistic))()


@pytest.mark.parametrize("other", [C, (1, 2), None, 3.0, {"a": STATE}])
def test_total_takes_a_running_sum(other):
    with pytest.raises(TypeError, match="total takes a Running"):
        jaxseg.total(other)


def test_a_sum_is_not_subtracted():
    with pytest.raises(TypeError):
        STATE - STATE


# ---------------------------------------------------------------------------------- pad_batch


@pytest.mark.parametrize(
    ("make", "kind"), [(np.asarray, np.ndarray), (jnp.asarray, jax.Array)], ids=["numpy", "jax"]
)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "float32", "bfloat16"])
@pytest.mark.parametrize("size", [3, 4, 8])
def test_pad_batch_adds_zeros(size, dtype, make, kind):
    batch = make(rng().integers(0, 2, (3, 2, 5)).astype(jnp.dtype(dtype)))
    padded, where = jaxseg.pad_batch(batch, size)
    assert isinstance(padded, kind)
    assert (padded.shape, padded.dtype) == ((size, 2, 5), batch.dtype)
    np.testing.assert_array_equal(padded[:3], batch)
    assert not np.asarray(padded[3:]).astype(bool).any()
    assert where.dtype == bool
    assert where.tolist() == [True] * 3 + [False] * (size - 3)


def test_pad_batch_of_a_pytree():
    batch = {"image": jnp.ones((2, 3, 3, 1)), "labels": (np.ones((2, 3, 3), np.uint8), np.ones(2))}
    padded, where = jaxseg.pad_batch(batch, 5)
    assert jax.tree.structure(padded) == jax.tree.structure(batch)
    assert isinstance(padded["image"], jax.Array)
    assert isinstance(padded["labels"][0], np.ndarray)
    assert [x.shape for x in jax.tree.leaves(padded)] == [(5, 3, 3, 1), (5, 3, 3), (5,)]
    assert where.tolist() == [True, True, False, False, False]


def test_pad_batch_under_jit():
    padded, where = jax.jit(lambda x: jaxseg.pad_batch(x, 4))(jnp.ones((3, 2)))
    assert padded.tolist() == [[1, 1]] * 3 + [[0, 0]]
    assert where.tolist() == [True] * 3 + [False]


def test_pad_batch_of_nothing_is_all_padding():
    padded, where = jaxseg.pad_batch(np.ones((0, 2), np.uint8), 2)
    assert padded.tolist() == [[0, 0]] * 2
    assert not where.any()


@pytest.mark.parametrize(
    ("batch", "size", "message"),
    [
        (np.ones((3, 2)), 2, "at least the batch's 3"),
        (np.ones((3, 2)), -1, "at least the batch's 3"),
        ((np.ones(3), np.ones(2)), 4, "one n"),
        ((np.ones(3), jnp.ones((2, 3))), 4, "one n"),
        (np.float32(1), 4, "one n"),
        ((np.ones(3), 1.0), 4, "one n"),
        ({}, 4, "one n"),
    ],
)
def test_pad_batch_refuses(batch, size, message):
    with pytest.raises(ValueError, match=message):
        jaxseg.pad_batch(batch, size)


@pytest.mark.parametrize("value", [2**63 - 1, 2**63 - 2**31, -(2**63), 2**62 + 1])
def test_total_in_a_trace_keeps_the_sign_at_the_ends(value):
    got = jax.jit(jaxseg.total)(jaxseg.running(np.int64(value)))
    assert float(got) == pytest.approx(value, rel=1.2e-7)
