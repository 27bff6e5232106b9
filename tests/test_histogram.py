"""The histograms behind the hard counts: exact at every border, in little memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jaxseg
from jaxseg import _counts, _histogram

FORMS = {"scatter": _histogram._by_scatter, "product": _histogram._by_product}
SHAPE = (3, 17, 19)


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
        patch.setattr(_histogram, "ACCELERATOR_BLOCK", 64)
        yield
    jax.clear_caches()


@pytest.mark.usefixtures("small_blocks")
class TestBlocks:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("pixels", [1, 13, 8 * 4**4 + 5])
    @pytest.mark.parametrize("bins", [1, 4, 145])
    def test_every_pixel_is_counted_once(self, bins, pixels, form):
        numbers = rng(pixels).integers(0, bins, pixels).astype(np.uint8)
        table = FORMS[form](lambda x: x, bins, 1, jnp.asarray(numbers))
        assert table.dtype == jnp.int32
        np.testing.assert_array_equal(table, np.bincount(numbers, minlength=bins))

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


def test_the_product_is_exact_above_two_to_the_24_pixels():
    pixels = 2**24 + 3
    ones = jnp.ones(pixels, jnp.uint8)
    table = jax.jit(partial(_histogram._by_product, lambda x: x, 4, 1))(ones)
    assert table.tolist() == [0, pixels, 0, 0]


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize(("dtype", "num_classes"), [(np.uint8, 2), (np.uint8, 17), (np.int32, 300)])
def test_the_forms_agree(dtype, num_classes, masked, monkeypatch):
    predictions, labels = ids(dtype, num_classes)
    where = rng(2).random(SHAPE) < 0.7 if masked else None

    def both():
        jax.clear_caches()
        kwargs = {"num_classes": num_classes, "where": where, "axis": (1, 2)}
        matrix = jaxseg.confusion_matrix(predictions, labels, **kwargs)
        return matrix, jaxseg.counts(predictions, labels, **kwargs)

    expected = both()
    monkeypatch.setattr(_histogram, "_by_scatter", _histogram._by_product)
    jax.tree.map(np.testing.assert_array_equal, both(), expected)
    jax.clear_caches()


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
