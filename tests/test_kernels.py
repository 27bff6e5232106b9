"""Each form of a sum over pixels against the derivative that JAX takes of the plain formula."""

import contextlib
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxseg._boundary_losses import _distance_of
from jaxseg._compound_losses import _bce_dice_of, _dice_ce_of, _dice_focal_of, _exponential_of
from jaxseg._kernels import blocks, cpu, gpu, plain, tiles, tpu
from jaxseg._kernels.forms import FIRST_JAX_THAT_ASKS
from jaxseg._kernels.plain import GradientsOf, Inputs, PixelSum
from jaxseg._pixel_sums import pixel_sums
from jaxseg._pixels import Pixels
from jaxseg._region_losses import _mistakes_of, _squared_errors_of
from jaxseg._soft_counts import counts_of, minimum_counts_of, squared_counts_of


def interpreted(form: Any) -> SimpleNamespace:
    """A kernel that runs here as JAX operations."""
    return SimpleNamespace(
        __name__=form.__name__,
        forward=partial(form.forward, interpret=True),
        backward=partial(form.backward, interpret=True),
    )


FORMS = [cpu, plain, interpreted(gpu), interpreted(tpu)]

SHAPES = {1: (23,), 2: (5, 7), 3: (2, 5, 7), 4: (3, 2, 4, 5)}  # maps of so many axes


class Case(NamedTuple):
    """A sum of one kind of input; the defaults are the plainest."""

    terms: Any
    classes: int = 3
    axes: tuple[int, ...] = (0, 1, 2)
    pixels: int = 8  # the most in a block
    labels: str = "ids"
    masked: bool | str = False  # "classes" if the mask has a class axis
    activation: str | None = "softmax"
    dtype: Any = jnp.float32
    ndim: int = 3  # of the map
    features: int = 0  # of a head
    constants: str = ""  # the shape of each: c for [C], s for a scalar, d for [C, C], - for None
    soft_dtype: Any = None  # of float labels, where it is not that of the scores
    weights: str = ""  # "pixels", or "classes" if they have a class axis

    @property
    def name(self) -> str:
        changed = (
            getattr(value, "__name__", str(value))
            for value, default in zip(self[1:], self._field_defaults.values(), strict=True)
            if value != default
        )
        return "-".join((self.terms.__name__.strip("_"), *changed)).replace(" ", "")

    @property
    def what(self) -> PixelSum:
        return PixelSum(self.terms, self.axes, self.activation, self.terms is _mistakes_of)

    @property
    def keeps(self) -> bool:
        """Whether the engine would keep the probabilities."""
        lean = self.activation in ("softmax", "sigmoid") and not self.features
        return lean and jnp.dtype(self.dtype).itemsize >= 4


F16, BF16, F64 = jnp.float16, jnp.bfloat16, jnp.float64

CASES = [
    # Numbers of classes, on both sides of where the classes are last, and kinds of axes.
    Case(counts_of),
    Case(counts_of, 1, activation="sigmoid"),
    Case(counts_of, 2, (1, 2), 5, masked=True),
    Case(counts_of, 16, (0,), 4),
    Case(counts_of, 17, (0, 1), 6, masked=True),
    Case(counts_of, 40, (2,), 3),
    Case(counts_of, 3, (), 6, masked=True),
    Case(counts_of, 17, (), 6),
    Case(counts_of, 3, (0,), 6, ndim=1, masked=True),
    Case(counts_of, 17, (0,), 6, ndim=1),
    Case(counts_of, 3, (1, 3), 9, ndim=4, masked=True),
    Case(counts_of, 17, (0, 2), 9, ndim=4),
    Case(counts_of, 3, (0, 1, 2, 3), 10**6, ndim=4),
    Case(counts_of, 1, (1,), 5, "bool", ndim=2, activation="sigmoid", masked=True),
    # Kinds of labels.
    Case(squared_counts_of, 3, (1, 2), 5, "soft"),
    Case(squared_counts_of, 17, (2,), 5, "bool", True),
    Case(minimum_counts_of, 3, (0, 2), 4, "soft", True),
    Case(minimum_counts_of, 17, (0, 1, 2), 11, "soft", activation="sigmoid"),
    Case(counts_of, 3, (0, 1, 2), 9, "uint8", True),
    Case(counts_of, 3, (0, 1), 4, "soft", True, soft_dtype=BF16),
    Case(counts_of, 1, (1, 2), 4, "soft", True, "sigmoid"),
    # Terms with constants, with logarithms of p and of 1 - p.
    Case(_dice_ce_of, 3, constants="css"),
    Case(_dice_ce_of, 17, (1, 2), 6, "soft", True, constants="css"),
    Case(_dice_ce_of, 16, (2,), 6, "bool", constants="c--"),
    Case(_dice_ce_of, 40, (0, 1, 2), 10**6, "soft", constants="-ss"),
    Case(_dice_focal_of, 3, (0,), 4, "ids", True, constants="cc"),
    Case(_dice_focal_of, 2, (1, 2), 6, "soft", True, "two classes", constants="s-"),
    Case(_dice_focal_of, 2, (0, 1, 2), 6, "mask", False, "two classes", constants="cc"),
    Case(_exponential_of, 2, (1,), 6, "mask", True, "two classes", constants="sc"),
    Case(_exponential_of, 17, (1, 2), 6, "ids", True, constants="sc"),
    Case(_bce_dice_of, 1, (0, 1, 2), 9, "mask", True, "sigmoid"),
    Case(_bce_dice_of, 3, (1, 2), 7, "bool", False, "sigmoid"),
    Case(_bce_dice_of, 17, (0, 2), 7, "soft", True, "sigmoid"),
    Case(_squared_errors_of, 3, (2,), 7, "bool", True, "sigmoid"),
    Case(_bce_dice_of, 3, (1, 2), 7, "ids", True),
    Case(_bce_dice_of, 2, (1, 2), 7, "soft", True, "two classes"),
    # Terms that mix the classes of a pixel, that read a map, and of a head.
    Case(_mistakes_of, 3, (1, 2), 7, "ids", True, constants="d"),
    Case(_mistakes_of, 17, (0, 1), 7, "soft", False, constants="d"),
    Case(_distance_of, 3, (1, 2), 7, "ids", True),
    Case(_distance_of, 17, (0,), 7, "bool", False, "sigmoid"),
    Case(_dice_ce_of, 3, (0, 1, 2), 7, "ids", True, features=5, constants="css"),
    Case(_dice_ce_of, 17, (1, 2), 7, "soft", True, features=4, dtype=BF16, constants="c--"),
    # Types of numbers.
    Case(counts_of, 3, (1, 2), 7, "ids", True, dtype=BF16),
    Case(_dice_ce_of, 17, (0, 1), 7, "soft", True, dtype=BF16, constants="css"),
    Case(_bce_dice_of, 1, (0, 1, 2), 7, "bool", False, "sigmoid", dtype=BF16),
    Case(counts_of, 2, (0,), 7, "bool", True, dtype=F16),
    Case(_dice_ce_of, 17, (0, 1, 2), 7, "ids", True, dtype=F16, constants="css"),
    Case(_dice_focal_of, 2, (1, 2), 7, "soft", True, "two classes", dtype=BF16, constants="cc"),
    Case(_dice_ce_of, 3, (1, 2), 7, "soft", True, dtype=F64, constants="css"),
    Case(_exponential_of, 17, (0, 1, 2), 7, "int64", True, dtype=F64, constants="sc"),
    Case(counts_of, 3, (2,), 7, "soft", False, "sigmoid", dtype=BF16, soft_dtype=jnp.float32),
    # Weights, and masks with a class axis.
    Case(_dice_ce_of, 3, (1, 2), 7, "ids", True, constants="css", weights="pixels"),
    Case(_dice_ce_of, 17, (0, 2), 7, "soft", dtype=BF16, constants="css", weights="pixels"),
    Case(
        _dice_focal_of,
        2,
        (0, 1, 2),
        6,
        "mask",
        True,
        "two classes",
        constants="s-",
        weights="pixels",
    ),
    Case(_bce_dice_of, 3, (1, 2), 7, "soft", "classes", "sigmoid", weights="classes"),
    Case(_bce_dice_of, 19, (0, 1, 2), 7, "bool", "classes", "sigmoid", weights="pixels"),
    Case(_bce_dice_of, 17, (1, 2), 7, "bool", True, "sigmoid", weights="classes"),
    Case(_mistakes_of, 3, (1, 2), 7, "ids", True, constants="d", weights="pixels"),
    Case(_dice_ce_of, 3, (1, 2), 7, "ids", True, features=5, constants="css", weights="pixels"),
]


def inputs_of(case: Case, seed: int = 0) -> Inputs:
    """Random inputs: ids of no class among the ids, and NaN under the mask."""
    rng = np.random.default_rng(seed)
    space = SHAPES[case.ndim]
    given = 1 if case.activation == "two classes" else case.classes

    def floats(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), dtype)

    scores = 2 * floats(*space, case.features or given).astype(case.dtype)
    if case.labels == "soft":
        labels = jnp.asarray(rng.dirichlet(np.ones(max(given, 2)), space)[..., :given])
        labels = labels.astype(case.soft_dtype or case.dtype)
    elif case.labels == "bool":
        labels = jnp.asarray(rng.random((*space, given)) < 0.4)
    elif case.labels == "mask":
        labels = jnp.asarray(rng.random(space) < 0.4)
    else:
        dtype = "int32" if case.labels == "ids" else case.labels
        labels = rng.integers(-1, given + 1, space) if given > 1 else rng.integers(0, 3, space)
        labels = jnp.asarray(labels.astype(dtype))
    where = None
    if case.masked:
        per_class = case.masked == "classes"
        where = jnp.asarray(rng.random((*space, given) if per_class else space) < 0.7)
        valid = where if per_class else where[..., None]
        scores = jnp.where(valid, scores, jnp.asarray(jnp.nan, scores.dtype))
        if case.labels == "soft":
            labels = jnp.where(valid, labels, jnp.asarray(jnp.nan, labels.dtype))
    maps = (floats(*space, given),) if case.terms is _distance_of else ()
    head = ()
    if case.features:
        head = (floats(case.features, given, dtype=case.dtype), floats(given, dtype=case.dtype))
    shapes = {"c": (case.classes,), "s": (), "d": (case.classes,) * 2}
    constants = tuple(
        None if kind == "-" else jnp.asarray(rng.uniform(0.3, 1.5, shapes[kind]), case.dtype)
        for kind in case.constants
    )
    weights = None
    if case.weights:
        shape = (*space, given) if case.weights == "classes" else space
        weights = jnp.asarray(rng.uniform(0.2, 3, shape), case.dtype)
        if where is not None and where.shape == shape:  # nor do weights matter there
            weights = jnp.where(where, weights, jnp.asarray(jnp.nan, weights.dtype))
    return Inputs(scores, labels, where, maps, head, constants, weights)


def oracle(case: Case, inputs: Inputs, cotangents: Any) -> tuple[Any, GradientsOf]:
    """The sums, and JAX's own derivative of them."""
    is_soft = case.labels == "soft"

    def sums(scores: Any, labels: Any, head: Any, constants: Any) -> Any:
        labels = labels if is_soft else inputs.labels
        changed = inputs._replace(scores=scores, labels=labels, head=head, constants=constants)
        return plain.sums(case.what, changed)

    floats = inputs.scores, inputs.labels if is_soft else None, inputs.head, inputs.constants
    values, pull_back = jax.vjp(sums, *floats)
    return values, GradientsOf(*pull_back(cotangents))


def cotangents_of(case: Case, inputs: Inputs) -> Any:
    """One that no two sums share, so that none can take another's place."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(partial(plain.sums, case.what), inputs)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), shapes)


def assert_close(got: Any, want: Any) -> None:
    """Equal to a few roundings of the largest number; in half precision, to one of each."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        each, largest = (1e-9, 1e-12) if a.dtype == F64 else (2e-5, 1e-6)
        if a.dtype.itemsize == 2:
            each = float(jnp.finfo(a.dtype).eps)
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=each, atol=largest * max(1, np.abs(b).max()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_form_gives_the_plain_sums_and_gradients(case, monkeypatch):
    width = max(case.classes, case.features)
    monkeypatch.setattr(blocks, "block_bytes", lambda: case.pixels * 4 * width)
    monkeypatch.setattr(tiles, "FEWEST_PIXELS", 1)
    monkeypatch.setattr(gpu, "ELEMENTS", 64)  # several tiles
    with jax.enable_x64(case.dtype == F64):
        inputs = inputs_of(case)
        is_last_summed = case.ndim - 1 in case.axes
        is_plain = case.features or case.what.mixes_classes or case.dtype == F64
        assert tiles.are_served(case.what, (), inputs) == (is_last_summed and not is_plain)
        cotangents = cotangents_of(case, inputs)
        want = jax.jit(partial(oracle, case))(inputs, cotangents)
        for form in FORMS:

            def of_form(inputs, cotangents, form=form):
                sums, kept = form.forward(case.what, (), case.keeps, inputs)
                assert (kept is not None) == case.keeps
                return sums, form.backward(case.what, (), kept, inputs, cotangents)

            got = jax.jit(of_form)(inputs, cotangents)
            assert_close(got, want)


@pytest.mark.parametrize(("form", "platform"), [(gpu, "cuda"), (tpu, "tpu")], ids=["gpu", "tpu"])
def test_the_compilers_front_ends_accept_each_kernel(form, platform, monkeypatch):
    monkeypatch.setattr(tiles, "FEWEST_PIXELS", 1)
    described = contextlib.nullcontext()
    if form is gpu and jax.__version_info__ >= FIRST_JAX_THAT_ASKS:
        device = jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu")
        mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
        described = jax.sharding.use_abstract_mesh(mesh)
    is_served = tpu.is_served if form is tpu else tiles.are_served
    for case in CASES:
        if case.dtype == F64:
            continue
        inputs = inputs_of(case)
        if not is_served(case.what, (), inputs):
            continue

        def passes(inputs, cotangents, case=case):
            sums, _ = form.forward(case.what, (), False, inputs)
            return sums, form.backward(case.what, (), None, inputs, cotangents).scores

        with described:
            traced = jax.jit(passes).trace(inputs, cotangents_of(case, inputs))
            module = traced.lower(lowering_platforms=(platform,)).as_text()
        assert module.count({"cuda": "xla.gpu.triton", "tpu": "tpu_custom_call"}[platform]) == 2


def test_the_kernel_for_tpus_serves_sums_over_rows_and_columns():
    cases = [case for case in CASES if case.dtype != F64]
    served = [c for c in cases if tpu.is_served(c.what, (), jax.eval_shape(partial(inputs_of, c)))]
    assert all(set(range(c.ndim)[-2:]) <= set(c.axes) for c in served)
    assert len(served) > 10


@pytest.mark.parametrize(
    "case",
    [
        Case(_dice_ce_of, 3, (1, 2), constants="css", masked=True),
        Case(counts_of, 4, (0, 1, 2), labels="soft", masked=True, activation="sigmoid"),
    ],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("form", [interpreted(gpu), interpreted(tpu)], ids=lambda f: f.__name__)
def test_kernels_cut_a_map_that_their_tiles_do_not_divide(case, form, monkeypatch):
    monkeypatch.setitem(SHAPES, 3, (2, 20, 300))
    monkeypatch.setattr(gpu, "ELEMENTS", 512)
    monkeypatch.setattr(tpu, "ELEMENTS", 1)
    inputs = inputs_of(case)
    assert tpu.plan_of(case.what, inputs).grid == (2, 3, 3)
    cotangents = cotangents_of(case, inputs)
    sums, _ = jax.jit(partial(form.forward, case.what, (), False))(inputs)
    gradients = jax.jit(partial(form.backward, case.what, (), None))(inputs, cotangents)
    assert_close((sums, gradients), jax.jit(partial(oracle, case))(inputs, cotangents))


@pytest.mark.parametrize("case", [Case(_dice_ce_of, 8, (1, 2), 7, "soft", True, constants="css")])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_each_form_takes_some_of_the_classes(case, form, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: case.pixels * 4 * case.classes)
    inputs = inputs_of(case)
    cotangents = cotangents_of(case, inputs)
    mesh = jax.make_mesh((4,), ("c",), axis_types=(AxisType.Auto,))
    spec = Inputs(
        P(None, None, None, "c"), P(None, None, None, "c"), P(), (), (), (P("c"), P(), P())
    )

    def on_device(inputs, cotangents):
        sums, kept = form.forward(case.what, ("c",), case.keeps, inputs)
        gradients = form.backward(case.what, ("c",), kept, inputs, cotangents)
        weights, *scalars = gradients.constants
        return sums, gradients._replace(constants=(weights, *jax.lax.psum(scalars, "c")))

    gradients = GradientsOf(spec.scores, spec.labels, (), spec.constants)
    of_form = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(spec, P(None, "c")),
        out_specs=(P(None, "c"), gradients),
        check_vma=False,
    )
    assert_close(jax.jit(of_form)(inputs, cotangents), oracle(case, inputs, cotangents))


@pytest.mark.parametrize(
    ("space", "axes"),
    [
        ((1,), (0,)),
        ((97,), (0,)),
        ((97,), ()),
        ((2, 97), (1,)),
        ((97, 2), (1,)),
        ((97, 2), (0,)),
        ((3, 5, 7, 11), (0, 1, 2, 3)),
        ((3, 5, 7, 11), (1, 2)),
        ((3, 5, 7, 11), (0, 3)),
        ((13, 1, 7), (0, 2)),
        ((), ()),
    ],
    ids=str,
)
@pytest.mark.parametrize("pixels", [1, 8, 10**6])
def test_blocks_cover_every_pixel_once(space, axes, pixels, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: pixels * 4 * 3)
    cut = blocks.Blocks.of(space, axes, 3, pixels_last=False)
    sizes = []

    def step(at, seen):
        sizes.append(int(np.prod(at.sizes)))
        here = blocks.read(seen, at) + blocks.read(numbers, at)
        return jax.lax.dynamic_update_slice(seen, here, at.starts)

    numbers = cut.merge(1 + jnp.arange(np.prod(space, dtype=int)).reshape(space))
    seen = jax.jit(lambda: cut.loop(step, jnp.zeros_like(numbers)))()
    np.testing.assert_array_equal(seen, numbers)
    assert max(sizes) <= pixels
    assert max(sizes) > min(pixels, numbers.size) / 4  # not many more blocks than are needed


def test_blocks_are_larger_where_several_cores_share_them(monkeypatch):
    cores = {1: blocks.ONE_CORE_BYTES, 2: blocks.BYTES, 16: blocks.BYTES}
    for count, size in cores.items():
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=count: set(range(n)), raising=False)
        assert blocks.block_bytes() == size


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("terms", [_dice_ce_of, _dice_focal_of], ids=lambda terms: terms.__name__)
@pytest.mark.parametrize("classes", [3, 17])
def test_a_logit_of_minus_infinity_rules_a_class_out(form, terms, classes, monkeypatch):
    monkeypatch.setattr(tiles, "FEWEST_PIXELS", 1)
    others = tuple(c for c in range(classes) if c != 1)
    smoothing = (None, jnp.float32(0.9), jnp.float32(0.05))
    constants = smoothing if terms is _dice_ce_of else (jnp.float32(2), None)
    case = Case(terms, classes)
    given = inputs_of(case)
    scores = given.scores.at[..., 1].set(-jnp.inf)
    labels = jnp.where(given.labels == 1, 0, given.labels)
    fewer = jnp.where(labels > 1, labels - 1, labels)

    def gradients(scores, labels):
        inputs = Inputs(scores, labels, None, (), (), constants)
        sums, kept = form.forward(case.what, (), True, inputs)
        cotangents = jax.tree.map(jnp.ones_like, sums)
        return sums, form.backward(case.what, (), kept, inputs, cotangents).scores

    (counts, loss, weight), slopes = jax.jit(gradients)(scores, labels)
    want = jax.jit(gradients)(scores[..., others], fewer)
    select = lambda x: x[..., others]  # noqa: E731
    assert_close(jax.tree.map(select, ((counts, loss, weight), slopes)), want)
    assert counts.tp[1] == counts.fp[1] == counts.fn[1] == loss[1] == weight[1] == 0
    assert (slopes[..., 1] == 0).all()


SECOND = [
    Case(_dice_ce_of, 3, (1, 2), 7, "soft", True, constants="css"),
    Case(_dice_focal_of, 2, (0,), 7, "mask", True, "two classes", constants="sc"),
    Case(_bce_dice_of, 17, (0, 1, 2), 7, "bool", True, "sigmoid"),
    Case(_dice_ce_of, 3, (0, 1, 2), 7, "ids", True, features=5, constants="c--"),
    Case(_bce_dice_of, 3, (1, 2), 7, "bool", True, "sigmoid", weights="classes"),
]


def engine(case: Case, inputs: Inputs) -> Any:
    """``pixel_sums`` of the inputs."""
    arrays = inputs.scores, inputs.labels, inputs.where
    pixels = Pixels(*arrays, case.axes, case.activation, None, inputs.weights)
    mixes = case.what.mixes_classes
    return pixel_sums(
        case.terms,
        pixels,
        *inputs.constants,
        maps=inputs.maps,
        head=inputs.head,
        mixes_classes=mixes,
    )


def scalar_of(sums: Any, case: Case, inputs: Inputs) -> jax.Array:
    """Something curved of sums, which has all their derivatives."""
    weighted = jax.tree.map(lambda x, w: (w * x**2).sum(), sums, cotangents_of(case, inputs))
    return sum(jax.tree.leaves(weighted), jnp.float32(0))


@pytest.mark.parametrize("case", SECOND, ids=lambda case: case.name)
def test_second_derivatives_are_those_of_the_plain_form(case, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: case.pixels * 4 * case.classes)
    inputs, direction = inputs_of(case), inputs_of(case, 1)
    soft = case.labels == "soft"
    pick = lambda x: (x.scores, x.labels if soft else None, x.head, x.constants)  # noqa: E731
    # What a mask hides has no derivative, and a tangent of NaN would not be one.
    tangents = jax.tree.map(jnp.nan_to_num, pick(direction))

    def second(sums):
        def loss(floats):
            scores, labels, head, constants = floats
            labels = labels if soft else inputs.labels
            given = inputs._replace(scores=scores, labels=labels, head=head, constants=constants)
            return scalar_of(sums(given), case, inputs)

        return jax.jvp(jax.grad(loss), (pick(inputs),), (tangents,))

    got = jax.jit(lambda: second(partial(engine, case)))()
    want = jax.jit(lambda: second(partial(plain.sums, case.what)))()
    assert_close(got, want)


@pytest.mark.parametrize("case", SECOND, ids=lambda case: case.name)
def test_vmap_is_a_loop(case, monkeypatch):
    monkeypatch.setattr(blocks, "block_bytes", lambda: case.pixels * 4 * case.classes)
    both = [inputs_of(case, seed) for seed in (0, 1)]
    one = both[0]

    def run(scores, where):  # labels and constants are not mapped
        def loss(scores):
            return scalar_of(engine(case, one._replace(scores=scores, where=where)), case, one)

        return jax.value_and_grad(loss)(jnp.where(where[..., None], scores, 0))

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *((x.scores, x.where) for x in both))
    if case.labels == "soft":  # a NaN of a label is not hidden by the mask of another map
        one = one._replace(labels=jnp.nan_to_num(one.labels))
    got = jax.jit(jax.vmap(run))(*stacked)
    run = jax.jit(run)
    want = jax.tree.map(lambda *x: jnp.stack(x), *(run(x.scores, x.where) for x in both))
    assert_close(got, want)


@pytest.mark.parametrize("dtype", [jnp.float32, F64, BF16, F16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "two classes"])
def test_one_array_like_the_logits_is_kept_at_most(dtype, activation):
    with jax.enable_x64(dtype == F64):
        case = Case(counts_of, 2, activation=activation, dtype=dtype)
        inputs = inputs_of(case)

        def residuals(scores):
            return jax.vjp(lambda x: engine(case, inputs._replace(scores=x)), scores)[1]

        shapes = jax.tree.leaves(jax.eval_shape(residuals, inputs.scores))
        like = [x for x in shapes if x.shape == inputs.scores.shape]
        assert all(x.dtype == dtype for x in like)
        # The logits, which were there, and the probabilities, which fit the gradient's memory.
        assert len(like) == 1 + case.keeps
        others = sum(x.size for x in shapes) - len(like) * inputs.scores.size
        assert others <= inputs.labels.size
