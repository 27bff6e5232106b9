"""The histograms behind the hard counts: exact at every border, in little memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jaxseg
from jaxseg import _counts, _histogram

SHAPE = (3, 17, 19)

FORMS = {  # of the index, the bins, the axes and the maps
    "scatter": _histogram._one_by_one,
    "copies": lambda index, bins, *rest: _histogram._by_copies(index, bins, 1, *rest),
    "product": _histogram._by_product,
    "xla": _histogram._by_xla,
}
each_form = pytest.mark.parametrize("form", FORMS)
each_new_form = pytest.mark.parametrize("form", ["copies", "product", "xla"])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ids(dtype, num_classes: int, shape=SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels, some of no class."""
    outside = 255 if dtype == np.uint8 else -1
    choices = [*range(num_classes), num_classes, outside]
    predictions, labels = rng(1).choice(choices, (2, *shape)).astype(dtype)
    return predictions, labels


@pytest.fixture(scope="class")
def small_blocks():
    """Blocks of a dozen pixels or so."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_histogram, "CPU_BLOCK_BYTES", 96)
        patch.setattr(_histogram, "CPU_LOOP_PIXELS", 200)
        patch.setattr(_histogram, "MAX_COMPARED_BINS", 3)
        patch.setattr(_histogram, "TPU_BLOCK", 64)
        patch.setattr(_histogram, "TPU_ROWS", 2)
        patch.setattr(_histogram, "TPU_ROW", 8)
        yield
    jax.clear_caches()


@pytest.mark.usefixtures("small_blocks")
class TestBlocks:
    @each_form
    @pytest.mark.parametrize("pixels", [1, 13, 8 * 4**4 + 5])
    @pytest.mark.parametrize("bins", [1, 4, 145])
    def test_every_pixel_is_counted_once(self, bins, pixels, form):
        numbers = rng(pixels).integers(0, bins, pixels).astype(np.uint8)
        table = FORMS[form](lambda x: x, bins, (0,), jnp.asarray(numbers))
        assert table.dtype == jnp.int32
        np.testing.assert_array_equal(table, np.bincount(numbers, minlength=bins))

    @each_form
    @pytest.mark.parametrize(
        ("shape", "axes"),
        [
            ((5, 3, 7), (0, 1, 2)),
            ((2, 9, 11), (1, 2)),
            ((2, 9, 11), (0, 2)),
            ((2, 3, 150), (2,)),
            ((11, 3, 7), (0,)),
            ((2, 3), ()),
        ],
        ids=str,
    )
    def test_tables_of_every_cut(self, axes, shape, form):
        numbers = rng(1).integers(0, 9, shape).astype(np.uint8)
        table = FORMS[form](lambda x: x, 9, axes, jnp.asarray(numbers))
        np.testing.assert_array_equal(table, bincounts(numbers, 9, axes))

    @pytest.mark.parametrize("axis", [None, (1, 2), (0, 2)], ids=str)
    @pytest.mark.parametrize(
        ("dtype", "num_classes", "masked"),
        [(np.uint8, 2, False), (np.uint8, 19, True), (np.int32, 5, False), (np.int32, 1, True)],
        ids=str,
    )
    def test_counts_and_matrices_equal_the_reference(self, dtype, num_classes, masked, axis):
        predictions, labels = ids(dtype, num_classes)
        where = rng(2).random(SHAPE) < 0.7 if masked else None
        kwargs = {"num_classes": num_classes, "where": where, "axis": axis}
        matrix = jaxseg.confusion_matrix(predictions, labels, **kwargs)
        expected = reference.confusion_matrix(predictions, labels, num_classes, where, axis)
        np.testing.assert_array_equal(matrix, expected)
        counts = jaxseg.counts(predictions, labels, **kwargs)
        expected = reference.hard_counts(predictions, labels, num_classes, where, axis)
        np.testing.assert_array_equal(counts, expected)


def bincounts(numbers: np.ndarray, bins: int, axes: tuple[int, ...]) -> np.ndarray:
    """Histograms over ``axes`` by NumPy."""
    batch_axes = [a for a in range(numbers.ndim) if a not in axes]
    rows = numbers.transpose(*batch_axes, *axes)
    batch = rows.shape[: len(batch_axes)]
    tables = [
        np.bincount(x[x < bins], minlength=bins)
        for x in rows.reshape(np.prod(batch, dtype=int), -1)
    ]
    return np.reshape(tables, (*batch, bins))


def pair_index(num_classes: int):
    return lambda p, g: g.astype(jnp.uint32) * num_classes + p.astype(jnp.uint32)


def maps_of(num_classes: int, one_class: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, labels and a mask."""
    if one_class:
        maps = np.full((2, *SHAPE), num_classes - 1, np.uint16)
    else:
        maps = rng(1).integers(0, num_classes, (2, *SHAPE)).astype(np.uint16)
    return maps[0], maps[1], rng(2).random(SHAPE) < 0.7


@each_new_form
@pytest.mark.parametrize("num_classes", [1, 2, 4, 19, 150, 300])
def test_pairs_are_those_of_numpy(num_classes, form):
    bins = num_classes**2
    index = pair_index(num_classes)
    masked = partial(_histogram._masked, index, bins)
    run = jax.jit(partial(FORMS[form], index, bins, (0, 1, 2)))
    run_masked = jax.jit(partial(FORMS[form], masked, bins + 1, (1, 2)))
    for one_class in (False, True):
        predictions, labels, where = maps_of(num_classes, one_class)
        pairs = labels.astype(np.int64) * num_classes + predictions
        np.testing.assert_array_equal(run(predictions, labels), bincounts(pairs, bins, (0, 1, 2)))
        expected = bincounts(np.where(where, pairs, bins), bins + 1, (1, 2))
        np.testing.assert_array_equal(run_masked(predictions, labels, where), expected)


@each_new_form
@pytest.mark.parametrize("num_classes", [2, 19])
def test_vmap_adds_an_axis_of_tables(num_classes, form):
    predictions, labels, _ = maps_of(num_classes, one_class=False)
    bins = num_classes**2
    run = _histogram._with_batch_axes(partial(FORMS[form], pair_index(num_classes), bins), (0,))
    once = jax.jit(jax.vmap(jax.vmap(run, in_axes=1), in_axes=(0, None)))(predictions, labels[0])
    pairs = labels[0].astype(np.int64) * num_classes + predictions
    np.testing.assert_array_equal(once, bincounts(pairs, bins, (1,)))


@each_new_form
def test_the_order_of_pixels_does_not_matter(form):
    numbers = rng(3).integers(0, 20, 5000).astype(np.uint8)
    run = jax.jit(partial(FORMS[form], lambda x: x, 20, (0,)))
    np.testing.assert_array_equal(run(numbers), run(rng(4).permutation(numbers)))


@each_new_form
@pytest.mark.parametrize("bins", [4, 40])
def test_exact_above_two_to_the_24_pixels(bins, form):
    pixels = 2**24 + 3
    ones = jnp.ones(pixels, jnp.uint8)
    table = jax.jit(partial(FORMS[form], lambda x: x, bins, (0,)))(ones)
    assert table.tolist() == [0, pixels, *[0] * (bins - 2)]


@each_new_form
@pytest.mark.parametrize(
    ("dtype", "num_classes", "masked"),
    [(np.uint8, 2, False), (np.uint8, 17, True), (np.int32, 300, True)],
    ids=str,
)
def test_the_forms_agree(dtype, num_classes, masked, form, monkeypatch):
    predictions, labels = ids(dtype, num_classes)
    where = rng(2).random(SHAPE) < 0.7 if masked else None

    def results():
        jax.clear_caches()
        kwargs = {"num_classes": num_classes, "where": where}
        matrix = jaxseg.confusion_matrix(predictions, labels, axis=(1, 2), **kwargs)
        of_one_map = jax.vmap(partial(jaxseg.counts, num_classes=num_classes))
        return matrix, jaxseg.counts(predictions, labels, **kwargs), of_one_map(predictions, labels)

    expected = results()
    monkeypatch.setattr(_histogram, "_one_by_one", FORMS[form])
    jax.tree.map(np.testing.assert_array_equal, results(), expected)
    jax.clear_caches()


@each_new_form
def test_ids_that_come_from_floats_have_no_derivative(form):
    def loss(x):
        numbers = (x > 0).astype(jnp.uint8)
        run = _histogram._with_batch_axes(partial(FORMS[form], lambda n: n, 30), (0,))
        return jnp.sum(x**2 * run(numbers)[1].astype(jnp.float32))

    x = jnp.array([-1.0, 2.0, 3.0])
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), 2 * x * 2)
    np.testing.assert_array_equal(jax.jvp(loss, (x,), (x,))[1], 2 * jnp.sum(x**2) * 2)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("pixels", [1, 2**18, 2**24, 2**30])
@pytest.mark.parametrize("cells", [18, 400, 151**2, 301**2 + 1, 16 * 301**2, 2**30])
def test_copies_stay_in_the_cache(cells, pixels, at_once):
    copies = _histogram._copies(cells, 2 * pixels, at_once)
    assert copies == 1 or 4 * at_once * cells * copies <= 24e6
    assert copies in [2**n for n in range(13)]
    assert copies <= 32 or 16 * at_once * cells * copies <= 3 * 2 * pixels


def test_copies_by_the_number_of_classes():
    copies = [_histogram._copies((c + 1) ** 2, 2 * 2**24, 1) for c in (4, 19, 150, 300)]
    assert copies == [4096, 4096, 256, 64]
    assert _histogram._copies(20**2, 2 * 64**2, 1) == 32  # a small map


@pytest.mark.parametrize(
    ("platform", "num_classes", "expected"),
    [
        ("cpu", 2, {"scatter"}),
        ("cuda", 2, set()),
        ("cuda", 19, {"scatter"}),
        ("rocm", 19, {"scatter"}),
        ("tpu", 2, {"dot_general"}),
        ("tpu", 19, {"dot_general"}),
    ],
)
def test_the_platform_of_the_program_decides(platform, num_classes, expected):
    def run(*maps):
        return _histogram._histogram(pair_index(num_classes), num_classes**2, 1, (0, 1, 2), maps)

    maps = [jax.ShapeDtypeStruct((4, 32, 32), np.uint8)] * 2
    text = jax.jit(run).trace(*maps).lower(lowering_platforms=(platform,)).as_text()
    found = {name for name in ("scatter", "dot_general") if f"stablehlo.{name}" in text}
    assert found == expected


@pytest.mark.parametrize("num_classes", [1, 5])
def test_counts_of_many_classes_equal_those_of_pairs(num_classes, monkeypatch):
    predictions, labels = ids(np.int32, num_classes)
    where = rng(2).random(SHAPE) < 0.7
    kwargs = {"num_classes": num_classes, "where": where, "axis": 0}
    expected = jaxseg.counts(predictions, labels, **kwargs)
    monkeypatch.setattr(_counts, "LARGE_TABLE", 0)
    jax.clear_caches()
    c = jaxseg.counts(predictions, labels, **kwargs)
    jax.tree.map(np.testing.assert_array_equal, c, expected)
    jax.clear_caches()


def test_few_bins_take_several_pixels_at_once():
    pixels = 192 * 64 * 84
    assert [_histogram._together((c + 1) ** 2, pixels) for c in (2, 11, 19)] == [4, 2, 1]
    assert _histogram._together(20**2, 2**24) == 2
    assert _histogram._together(9, 100) == 1  # a table of 81 is a lot beside 100 pixels


# ------------------------------------------------------------------------------ weights

WEIGHTS_FORMS = {
    "scatter": _histogram._weights_one_by_one,
    "comparisons": _histogram._weights_by_comparisons,
}


@pytest.mark.parametrize("form", WEIGHTS_FORMS)
@pytest.mark.parametrize("bins", [1, 4, 145])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 3, 7), (0, 1, 2)), ((2, 90, 11), (1, 2)), ((2, 9, 11), (0, 2)), ((2, 3), ())],
    ids=str,
)
def test_weights_are_summed_by_value(axes, shape, bins, form, monkeypatch):
    monkeypatch.setattr(_histogram, "WEIGHTS_BLOCK", 64)
    jax.clear_caches()
    numbers = rng(1).integers(0, bins, shape).astype(np.uint8)
    weights = rng(2).gamma(2, size=shape).astype(np.float32)
    indices = (lambda x: x, lambda x: x.astype(jnp.uint16) + bins)
    pairs = jax.jit(partial(WEIGHTS_FORMS[form], indices, 2 * bins, axes))(numbers, weights)
    each = np.where(numbers[..., None] == np.arange(bins), weights[..., None], np.float64(0))
    expected = np.concatenate([each.sum(axes)] * 2, -1)
    np.testing.assert_allclose(np.asarray(pairs, np.float64).sum(-1), expected, rtol=1e-13)
    jax.clear_caches()


@pytest.mark.parametrize("form", WEIGHTS_FORMS)
def test_weights_of_all_sizes_are_summed_within_a_block(form):
    weights = (10 ** rng(1).uniform(-5, 5, 4000)).astype(np.float32)
    numbers = rng(2).integers(0, 3, 4000).astype(np.uint8)
    run = jax.jit(partial(WEIGHTS_FORMS[form], (lambda x: x,), 3, (0,)))
    got = np.asarray(run(numbers, weights), np.float64).sum(-1)
    np.testing.assert_allclose(got, np.bincount(numbers, weights.astype(np.float64)), rtol=1e-9)


def test_a_pair_holds_what_one_float_cannot():
    numbers = np.zeros(2 * _histogram.WEIGHTS_BLOCK, np.uint8)
    weights = np.repeat(np.float32([2**12, 2**-12]), _histogram.WEIGHTS_BLOCK)
    for form in WEIGHTS_FORMS.values():
        pairs = form((lambda x: x,), 1, (0,), jnp.asarray(numbers), jnp.asarray(weights))
        assert np.asarray(pairs, np.float64).sum(-1).tolist() == [2**24 + 1]


@pytest.mark.parametrize("bins", [4, 2**14 + 1])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_platform_of_the_program_decides_the_sum_of_weights(platform, bins):
    maps = [jax.ShapeDtypeStruct((4, 32, 32), d) for d in (np.uint16, np.float32)]
    run = lambda x, w: _histogram.weighted_histogram(  # noqa: E731
        (lambda x: x,), (x,), w, None, bins, (0, 1, 2)
    )
    text = jax.jit(run).trace(*maps).lower(lowering_platforms=(platform,)).as_text()
    # There are several devices, and for TPUs XLA cuts the maps of an Auto mesh by itself.
    assert ("stablehlo.scatter" in text) == (platform == "cpu" or (platform == "cuda" and bins > 4))


# ------------------------------------------------------------------------------ compiled


def compiled(function, shape, dtype, num_classes, **kwargs):
    maps = [jax.ShapeDtypeStruct(shape, dtype)] * 2
    run = partial(function, num_classes=num_classes, **kwargs)
    return jax.jit(run).lower(*maps).compile()


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("function", [jaxseg.counts, jaxseg.confusion_matrix])
@pytest.mark.parametrize(
    ("shape", "num_classes", "axis"),
    [
        ((192, 64, 84), 2, None),
        ((192, 64, 84), 11, None),
        ((16, 1024, 1024), 19, None),
        ((16, 1024, 1024), 19, (1, 2)),
    ],
    ids=str,
)
def test_temporaries_are_a_fraction_of_the_maps(shape, num_classes, axis, function):
    run = compiled(function, shape, np.uint8, num_classes, axis=axis)
    assert run.memory_analysis().temp_size_in_bytes <= 0.1 * 2 * np.prod(shape)
