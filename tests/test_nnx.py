"""The adapter to flax.nnx: a train loop, exact sums, masks, other statistics."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

import jaxseg
from jaxseg.integrations._evaluation import hard_counts
from jaxseg.integrations.nnx import SegmentationMetric


def data(n: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images, and labels that can be learnt of them; the first row is void."""
    images = np.random.default_rng(seed).standard_normal((n, 6, 5, 1)).astype(np.float32)
    labels = np.digitize(images[..., 0], [-0.5, 0.5]).astype(np.uint8)
    labels[:, 0] = 255
    return images, labels


def noise(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def sums(metric):
    return jaxseg.total(metric._sum())


def test_a_train_loop_and_an_evaluation():
    """Every epoch's scores are those of all its logits, in one trace; the last batch is padded."""
    images, labels = data()
    network = nnx.Conv(1, 3, (3, 3), rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.sgd(0.5), wrt=nnx.Param)
    metrics = nnx.MultiMetric(
        loss=nnx.metrics.Average("loss"),
        segmentation=SegmentationMetric({"dice": jaxseg.dice, "iou": jaxseg.iou}, num_classes=3),
    )
    traces = []

    @nnx.jit
    def train_step(network, optimizer, metrics, images, labels, mask):
        traces.append(images.shape)
        valid = labels != 255

        def loss_fn(network):
            logits = network(images)
            return jaxseg.dice_ce_loss(logits, labels, where=valid & mask[:, None, None]), logits

        (loss, logits), gradients = nnx.value_and_grad(loss_fn, has_aux=True)(network)
        optimizer.update(network, gradients)
        metrics.update(loss=loss, logits=logits, labels=labels, where=valid, mask=mask)
        return loss, logits

    means = []
    for _ in range(3):
        metrics.reset()
        logits, losses = [], []
        for i in range(0, 10, 4):
            size = len(images[i : i + 4])
            batch, mask = jaxseg.pad_batch((images[i : i + 4], labels[i : i + 4]), 4)
            loss, x = train_step(network, optimizer, metrics, *batch, jnp.asarray(mask))
            logits.append(np.asarray(x)[:size])
            losses += [float(loss)] * size
        expected = reference.hard_counts(
            np.concatenate(logits).argmax(-1), labels, 3, where=labels != 255
        )
        np.testing.assert_array_equal(sums(metrics.segmentation), expected)
        with jax.numpy_dtype_promotion("standard"):  # Average divides by an integer
            result = metrics.compute()
        for name in ("dice", "iou"):
            score = reference.per_class(getattr(reference, name), expected)
            np.testing.assert_allclose(result["segmentation"][name], score, rtol=1e-6)
        np.testing.assert_allclose(result["loss"], np.mean(losses), rtol=1e-6)
        means.append(result["loss"])
    assert traces == [(4, 6, 5, 1)]
    assert means[2] < 0.9 * means[0]

    metrics.reset()
    for i in range(0, 10, 4):  # unequal batches, eagerly
        x, y = images[i : i + 4], labels[i : i + 4]
        metrics.segmentation.update(logits=network(x), labels=y, where=y != 255)
    predictions = np.asarray(network(images)).argmax(-1)
    expected = reference.hard_counts(predictions, labels, 3, where=labels != 255)
    np.testing.assert_array_equal(sums(metrics.segmentation), expected)


def test_sums_beyond_32_bits_are_exact():
    logits, labels = noise((2, 3, 4, 2)), jnp.zeros((2, 3, 4), jnp.int32)

    def many(logits, labels, *, where=None):
        c = hard_counts(logits, labels, where=where)
        return jax.tree.map(lambda x: x * (2**26 + 1), c)

    metric = SegmentationMetric(lambda c: c.tp, num_classes=2, statistic=many)
    update = nnx.jit(lambda metric: metric.update(logits=logits, labels=labels))
    for _ in range(40):
        update(metric)
    tp = 40 * (2**26 + 1) * int((logits.argmax(-1) == 0).sum())
    assert tp > 2**32
    assert metric.compute().tolist() == [tp, 0]
    assert metric.compute().dtype == np.int64
    traced = nnx.jit(lambda metric: metric.compute())(metric)
    assert traced.dtype == jnp.float32
    assert traced[0] == np.float32(tp)


def test_split_and_merge():
    logits, labels = noise((4, 6, 5, 3)), jnp.asarray(data(4)[1])
    metric = SegmentationMetric({"iou": jaxseg.iou}, num_classes=3)
    graph, state = metric.split()
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(graph, state, logits, labels):
        traces.append(logits.shape)
        metric = nnx.merge(graph, state)
        metric.update(logits=logits, labels=labels, where=labels != 255)
        return nnx.state(metric)

    for i in range(4):
        state = step(graph, state, logits[i : i + 1], labels[i : i + 1])
    assert traces == [(1, 6, 5, 3)]
    metric.update(logits=logits, labels=labels, where=labels != 255)
    np.testing.assert_array_equal(nnx.merge(graph, state).compute()["iou"], metric.compute()["iou"])


def test_reset_starts_anew():
    metric = SegmentationMetric(jaxseg.dice, num_classes=3)
    empty = nnx.state(metric)
    metric.update(logits=noise((1, 2, 2, 3)), labels=jnp.zeros((1, 2, 2), jnp.int32))
    assert sums(metric).fn.sum() + sums(metric).tp.sum() == 4
    metric.reset()
    assert jax.tree.map(jnp.shape, nnx.state(metric)) == jax.tree.map(jnp.shape, empty)
    assert not any(x.any() for x in jax.tree.leaves(sums(metric)))
    assert np.isnan(metric.compute()).all()


EXAMPLES = np.array([True, False, True, True])
PIXELS = np.random.default_rng(2).random((4, 6, 5)) < 0.5


@pytest.mark.parametrize("where", [None, PIXELS], ids=["no where", "where"])
@pytest.mark.parametrize(
    "mask",
    [EXAMPLES, EXAMPLES.astype(np.float32), EXAMPLES.astype(np.uint8), ~PIXELS, 1 - PIXELS],
    ids=["bools", "floats", "bytes", "pixels", "integer pixels"],
)
def test_a_mask_leaves_examples_or_pixels_out(mask, where):
    logits, labels = noise((4, 6, 5, 3)), jnp.asarray(data(4)[1])
    metric = SegmentationMetric(jaxseg.dice, num_classes=3)
    metric.update(logits=logits, labels=labels, where=where, mask=mask, other="ignored")
    kept = mask.astype(bool).reshape(4, *mask.shape[1:], *(1,) * (3 - mask.ndim))
    kept = np.broadcast_to(kept, labels.shape) & (True if where is None else where)
    expected = reference.hard_counts(np.asarray(logits).argmax(-1), labels, 3, where=kept)
    np.testing.assert_array_equal(sums(metric), expected)


@pytest.mark.parametrize("shape", [(4,), (4, 6, 5), (4, 1, 1), None], ids=str)
def test_weights_of_examples_or_pixels(shape):
    logits, labels = noise((4, 6, 5, 3)), jnp.asarray(data(4)[1])
    metric = SegmentationMetric(jaxseg.dice, num_classes=3, weighted=True)
    weights = None if shape is None else np.random.default_rng(5).random(shape, np.float32)
    update = nnx.jit(lambda metric, **batch: metric.update(**batch))
    for _ in range(2):
        update(metric, logits=logits, labels=labels, where=labels != 255, weights=weights)
    each = np.ones((4, 1, 1)) if shape is None else weights.reshape(4, *shape[1:] or (1, 1))
    expected = reference.hard_counts(
        np.asarray(logits).argmax(-1), labels, 3, where=labels != 255, weights=2 * each
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tuple(sums(metric)), expected
    )


def test_weights_of_soft_counts():
    logits, labels = noise((4, 6, 5, 3)), jnp.asarray(data(4)[1] % 3)
    soft = functools.partial(jaxseg.soft_counts, activation="softmax")
    metric = SegmentationMetric(jaxseg.dice, num_classes=3, statistic=soft, weighted=True)
    weights = np.random.default_rng(5).random(4, np.float32)
    metric.update(logits=logits, labels=labels, weights=weights)
    expected = soft(logits, labels, weights=weights[:, None, None])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), sums(metric), expected)


def test_weights_need_a_weighted_metric():
    outputs = {"logits": np.zeros((4, 6, 5, 3), np.float32), "labels": np.zeros((4, 6, 5), int)}
    with pytest.raises(ValueError, match="made with weighted=True"):
        SegmentationMetric(jaxseg.dice, num_classes=3).update(**outputs, weights=np.ones(4))
    metric = SegmentationMetric(jaxseg.dice, num_classes=3, weighted=True)
    for weights in (np.ones(3, np.float32), np.ones((6, 5), np.float32)):
        with pytest.raises(ValueError, match="weights must have the label map's shape"):
            metric.update(**outputs, weights=weights)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": np.ones((4, 6))}, ValueError, r"\(4, 6, 5\) or .* \(4,\), got \(4, 6\)"),
        ({"mask": np.ones(6)}, ValueError, r"examples \(4,\), got \(6,\)"),
        ({"where": EXAMPLES}, ValueError, r"where must have the label map's shape"),
        ({"where": PIXELS * 1}, TypeError, "where must be bool"),
        ({"labels": np.zeros((4, 6), int)}, ValueError, "labels must be integer or bool ids"),
        ({"logits": np.zeros((4, 6, 5, 2), np.float32)}, ValueError, "the same shapes"),
        ({"labels": np.zeros((4, 6, 5), np.float32)}, TypeError, "cast class ids"),
    ],
)
def test_errors(arguments, error, message):
    metric = SegmentationMetric(jaxseg.dice, num_classes=3)
    outputs = {"logits": np.zeros((4, 6, 5, 3), np.float32), "labels": np.zeros((4, 6, 5), int)}
    with pytest.raises(error, match=message):
        metric.update(**outputs | arguments)


def test_num_classes_is_checked():
    with pytest.raises(ValueError, match="at least 1"):
        SegmentationMetric(jaxseg.dice, num_classes=0)


def soft(logits, labels, *, where=None):
    return jaxseg.soft_counts(logits, labels, activation="softmax", where=where)


def matrix(logits, labels, *, where=None):
    predictions = jaxseg.predict_labels(logits)
    return jaxseg.confusion_matrix(predictions, labels, num_classes=3, where=where)


def image_dice(logits, labels, *, where=None):
    axes = tuple(range(1, labels.ndim))
    predictions = jaxseg.predict_labels(logits)
    c = jaxseg.counts(predictions, labels, num_classes=3, where=where, axis=axes)
    return jaxseg.moments(jaxseg.dice(c))


@pytest.mark.parametrize(
    ("statistic", "score", "shape"),
    [
        (soft, jaxseg.dice, (6, 5)),
        (matrix, jaxseg.mean_iou, (6, 5)),
        (image_dice, jaxseg.mean, (6, 5)),
        (image_dice, jaxseg.mean, (3, 2, 4)),
    ],
    ids=["soft", "matrix", "per image", "per volume"],
)
def test_other_statistics(statistic, score, shape):
    """The score of unequal batches is that of the whole, from one call of the statistic."""
    logits = noise((5, *shape, 3))
    labels = jnp.asarray(np.random.default_rng(3).integers(0, 3, (5, *shape)))
    ndim = 1 + len(shape)
    metric = SegmentationMetric(score, num_classes=3, statistic=statistic, ndim=ndim)
    for part in (slice(0, 1), slice(1, 5)):
        metric.update(logits=logits[part], labels=labels[part], where=labels[part] != 1)
    whole = score(statistic(logits, labels, where=labels != 1))
    np.testing.assert_allclose(metric.compute(), whole, rtol=1e-6)


def test_many_labels_of_a_pixel():
    """A statistic of dense masks, which takes no ids."""

    def masks_counts(logits, labels, *, where=None):
        predictions = jaxseg.predict_labels(logits, activation="sigmoid")
        return jaxseg.counts(predictions, labels, where=where)

    make = functools.partial(SegmentationMetric, jaxseg.iou, num_classes=3, statistic=masks_counts)
    logits, masks = noise((4, 6, 5, 3)), noise((4, 6, 5, 3), seed=4) > 0
    metric = make(dense=True)
    metric.update(logits=logits, labels=masks, mask=EXAMPLES)
    expected = reference.hard_counts(logits[EXAMPLES] >= 0, masks[EXAMPLES])
    np.testing.assert_array_equal(sums(metric), expected)
    with pytest.raises(ValueError, match="bool masks"):
        make()


@pytest.mark.parametrize("form", ["ids", "bool ids", "bools", "integers", "floats"])
def test_one_class_is_a_mask(form):
    logits, masks = noise((4, 6, 5, 1)), PIXELS
    labels = {
        "ids": masks.astype(np.uint8),
        "bool ids": masks,
        "bools": masks[..., None],
        "integers": masks[..., None].astype(np.int32),
        "floats": masks[..., None].astype(np.float32),
    }[form]
    metric = SegmentationMetric(jaxseg.dice, num_classes=1)
    metric.update(logits=logits, labels=labels, mask=EXAMPLES)
    predictions = np.asarray(logits)[..., 0] >= 0
    expected = reference.hard_counts(predictions[EXAMPLES][..., None], masks[EXAMPLES][..., None])
    np.testing.assert_array_equal(sums(metric), expected)


def test_dense_labels_are_the_ids():
    logits, labels = noise((4, 6, 5, 3)), data(4)[1]
    ids = hard_counts(logits, labels)
    masks = labels[..., None] == np.arange(3)  # void pixels have no class
    for dense in (masks, masks * np.float32(0.75)):
        np.testing.assert_array_equal(hard_counts(logits, dense), ids)


def test_logits_of_nan_are_misses():
    logits, labels = jnp.full((1, 2, 2, 3), jnp.nan), jnp.zeros((1, 2, 2), jnp.int32)
    metric = SegmentationMetric(jaxseg.recall, num_classes=3)
    metric.update(logits=logits, labels=labels)
    assert metric.compute()[0] == 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_metric_is_pickled_with_its_sums(again):
    logits, labels = noise((4, 6, 5, 3)), data(4)[1]
    metric = SegmentationMetric({"dice": jaxseg.dice}, num_classes=3, statistic=soft)
    metric.update(logits=logits, labels=labels, where=labels != 255)
    restored = again(metric)
    restored.update(logits=logits, labels=labels, where=labels != 255)
    np.testing.assert_array_equal(sums(restored), jax.tree.map(lambda x: 2 * x, sums(metric)))
    restored.reset()
    assert sums(metric).tp.any() and not sums(restored).tp.any()
