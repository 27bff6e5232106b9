"""The adapter to Keras: fit and evaluate, labels as Keras hands them out, exact sums, errors."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import reference

import jaxseg
from jaxseg.integrations.keras import SegmentationMetric, as_loss

saved = keras.saving.register_keras_serializable("tests")


@saved
def valid(labels):
    return labels != 255


def pixels(c):
    return c.tp[0] + c.fp[0] + c.fn[0] + c.tn[0]


@saved
def mean_iou(c):
    return jnp.nanmean(jaxseg.iou(c))


def data(n: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images, and labels that can be learnt of them; the first row is void."""
    images = np.random.default_rng(0).standard_normal((n, 6, 5, 1)).astype(np.float32)
    labels = np.digitize(images[..., 0], [-0.5, 0.5]).astype(np.uint8)
    labels[:, 0] = 255
    return images, labels


def logits_of(num_classes: int, n: int = 4) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 6, 5, num_classes)).astype(np.float32)


def network(num_classes: int, activation: str | None = None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6, 5, 1)), keras.layers.Conv2D(num_classes, 1, activation=activation)]
    )


def score(name, expected):
    return reference.per_class(getattr(reference, name), expected)


def test_classes():
    """Batches of 4, 4 and 2 images: every epoch starts anew, and pools all of its pixels."""
    images, labels = data()
    scores = {"miou": mean_iou, "pixels": pixels}
    model = network(3)
    model.compile(
        keras.optimizers.Adam(0.05),
        as_loss(jaxseg.dice_ce_loss, where=valid),
        metrics=[
            SegmentationMetric(scores, num_classes=3, where=valid),
            SegmentationMetric(
                lambda c: jaxseg.dice(c)[2], num_classes=3, where=valid, name="high"
            ),
        ],
    )
    history = model.fit(
        images, labels, batch_size=4, epochs=4, validation_data=(images[:5], labels[:5]), verbose=0
    ).history
    names = {"loss", "miou", "pixels", "high"}
    assert set(history) == names | {f"val_{name}" for name in names}
    assert history["loss"][3] < 0.9 * history["loss"][0]
    assert history["pixels"] == [10 * 25.0] * 4
    assert history["val_pixels"] == [5 * 25.0] * 4

    predictions = model.predict(images, verbose=0).argmax(-1)
    expected = reference.hard_counts(predictions, labels, 3, where=labels != 255)
    for y in (labels, labels[..., None].astype(np.float32)):
        result = model.evaluate(images, y, batch_size=4, verbose=0, return_dict=True)
        np.testing.assert_allclose(result["miou"], score("iou", expected).mean(), rtol=1e-6)
        np.testing.assert_allclose(result["high"], score("dice", expected)[2], rtol=1e-6)
        assert result["pixels"] == 10 * 25
    half = reference.hard_counts(predictions[:5], labels[:5], 3, where=labels[:5] != 255)
    np.testing.assert_allclose(history["val_miou"][3], score("iou", half).mean(), rtol=1e-6)


def test_one_mask():
    """Keras would squeeze the class axis of logits beside masks [B, H, W]."""
    images, labels = data()
    masks = (labels == 2).astype(np.float32)
    model = network(1)
    model.compile(
        keras.optimizers.Adam(0.05),
        as_loss(jaxseg.bce_dice_loss),
        metrics=[SegmentationMetric({"dice": lambda c: jaxseg.dice(c)[0]}, num_classes=1)],
    )
    history = model.fit(images, masks, batch_size=4, epochs=4, verbose=0).history
    assert history["loss"][3] < 0.9 * history["loss"][0]
    logits = model.predict(images, verbose=0)
    expected = reference.hard_counts(logits >= 0, masks[..., None] == 1)
    for y in (masks, masks[..., None]):
        loss, dice = model.evaluate(images, y, batch_size=10, verbose=0)
        np.testing.assert_allclose(dice, score("dice", expected)[0], rtol=1e-6)
        np.testing.assert_allclose(loss, jaxseg.bce_dice_loss(logits, masks == 1), rtol=1e-6)


IDS = np.random.default_rng(2).integers(0, 3, (4, 6, 5)).astype(np.uint8)
IDS[:, 1] = 255
FORMS = {
    "ids": IDS,
    "floats": IDS.astype(np.float32),
    "ids [..., 1]": IDS[..., None].astype(np.int64),
    "floats [..., 1]": IDS[..., None].astype(np.float32),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (jaxseg.dice_ce_loss, {"dice_weight": 2.0}),
        (jaxseg.dice_loss, {"smooth": 0.0}),
        (jaxseg.cross_entropy_loss, {}),
    ],
    ids=["scalar", "of classes", "of pixels"],
)
def test_a_loss_is_the_mean_of_jaxsegs(loss, options, form):
    logits = logits_of(3)
    ours = as_loss(loss, where=valid, **options)
    assert ours.name == loss.__name__
    expected = loss(logits, IDS, where=IDS != 255, **options).mean()
    np.testing.assert_allclose(ours(FORMS[form], logits), expected, rtol=1e-6)


def test_dense_labels():
    """One-hot, of Keras' categorical losses; all zero is no class."""
    logits, masks = logits_of(3), IDS[..., None] == np.arange(3)
    expected = jaxseg.dice_loss(logits, masks).mean()
    counts = reference.hard_counts(logits.argmax(-1), IDS, 3)
    known = reference.hard_counts(logits.argmax(-1), IDS, 3, where=IDS != 255)
    for y in (masks, masks.astype(np.float32), masks.astype(np.int32)):
        np.testing.assert_allclose(as_loss(jaxseg.dice_loss)(y, logits), expected, rtol=1e-6)
        for where, of in ((None, counts), (lambda labels: labels.any(-1), known)):
            metric = SegmentationMetric(lambda c: c, num_classes=3, where=where)
            metric.update_state(y, logits)
            np.testing.assert_array_equal(metric_counts(metric), of)


def metric_counts(metric):
    return jaxseg.total(metric._state())


@pytest.mark.parametrize("squeezed", [False, True])
def test_a_soft_mask(squeezed):
    """The loss keeps its values, and the metric has 0.5 or more as the class."""
    logits, soft = logits_of(1), np.random.default_rng(3).random((4, 6, 5, 1)).astype(np.float32)
    soft[:, 0] = 255
    y = soft[..., 0] if squeezed else soft
    where = soft[..., 0] != 255
    ours = as_loss(jaxseg.bce_dice_loss, where=valid)(y, logits)
    np.testing.assert_allclose(ours, jaxseg.bce_dice_loss(logits, soft, where=where), rtol=1e-6)
    metric = SegmentationMetric(jaxseg.dice, num_classes=1, where=valid)
    metric.update_state(y, logits)
    np.testing.assert_array_equal(
        metric_counts(metric), reference.hard_counts(logits >= 0, soft >= 0.5, where=where)
    )


def test_a_network_that_ends_in_probabilities():
    """Of a softmax nothing changes; of a sigmoid the statistic is one's own."""
    logits, masks = logits_of(1), IDS == 1
    softmax = np.asarray(jax.nn.softmax(logits_of(3)))
    metric = SegmentationMetric(jaxseg.dice, num_classes=3, where=valid)
    metric.update_state(IDS, softmax)
    np.testing.assert_array_equal(
        metric_counts(metric), reference.hard_counts(softmax.argmax(-1), IDS, 3, where=IDS != 255)
    )

    def counts_of_probs(probs, labels, *, where=None):
        return jaxseg.counts(probs[..., 0] >= 0.5, labels, num_classes=1, where=where)

    metric = SegmentationMetric(jaxseg.dice, num_classes=1, statistic=counts_of_probs)
    metric.update_state(masks.astype(np.float32), np.asarray(jax.nn.sigmoid(logits)))
    np.testing.assert_array_equal(
        metric_counts(metric), reference.hard_counts(logits >= 0, masks[..., None])
    )


def test_soft_counts_of_volumes():
    logits = logits_of(3).reshape(2, 2, 6, 5, 3)
    labels = IDS.reshape(2, 2, 6, 5)

    def soft(logits, labels, *, where=None):
        return jaxseg.soft_counts(logits, labels, activation="softmax", where=where)

    metric = SegmentationMetric(
        {"dice": lambda c: jaxseg.dice(c).mean()},
        num_classes=3,
        statistic=soft,
        where=valid,
        ndim=4,
    )
    assert {v.dtype for v in metric.variables} == {"float32"}
    for i in range(2):
        metric.update_state(labels[i : i + 1], logits[i : i + 1])
    whole = jaxseg.dice(soft(logits, labels, where=labels != 255)).mean()
    np.testing.assert_allclose(metric.result()["dice"], whole, rtol=1e-6)


def test_sums_beyond_32_bits_are_exact():
    """On the host and in a jitted step, and 0 after a reset."""

    def many(logits, labels, *, where=None):
        return jaxseg.Counts(*jnp.full((4, 3), 2**30 + 1, jnp.int32))

    metric = SegmentationMetric(lambda c: c.tp[0], num_classes=3, statistic=many)
    assert [v.dtype for v in metric.variables] == ["int32"] * 4 + ["uint32"] * 4
    logits, labels = logits_of(3), IDS
    for _ in range(5):
        metric.update_state(labels, logits)
    assert metric.result() == 5 * (2**30 + 1)

    update = jax.jit(metric.stateless_update_state)
    state = [v.value for v in metric.variables]
    for _ in range(6):
        state = update(state, labels, logits)
    assert metric.stateless_result(state) == 11 * (2**30 + 1)
    for variable, value in zip(metric.variables, state, strict=True):
        variable.assign(value)
    assert metric.result() == 11 * (2**30 + 1)

    metric.reset_state()
    assert metric.result() == 0
    assert [v.dtype for v in metric.variables] == ["int32"] * 4 + ["uint32"] * 4


@saved
def pixel_loss(logits, labels, *, where=None):
    return jaxseg.cross_entropy_loss(logits, labels, where=where)


def weighted_mean_loss(logits, labels, *, where=None, weights=None):
    losses = jaxseg.cross_entropy_loss(logits, labels, where=where)
    weights = jnp.broadcast_to(jnp.ones((1, 1, 1)) if weights is None else weights, losses.shape)
    return jnp.average(losses, weights=weights)


def weights_of(shape) -> np.ndarray:
    return np.random.default_rng(4).random(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1), (4,)], ids=str)
def test_a_sample_weight_of_a_loss(shape):
    """Of pixels or of images: a loss takes it as weights, or is multiplied by it."""
    logits, weights = logits_of(3), weights_of(shape)
    of_pixels = np.broadcast_to(weights.reshape(4, *shape[1:3] or (1, 1)), IDS.shape)
    losses = np.asarray(jaxseg.cross_entropy_loss(logits, IDS, where=IDS != 255))
    got = as_loss(pixel_loss, where=valid)(IDS, logits, weights)
    np.testing.assert_allclose(got, (losses * of_pixels).mean(), rtol=1e-6)
    got = as_loss(weighted_mean_loss, where=valid)(IDS, logits, weights)
    np.testing.assert_allclose(got, np.average(losses, weights=of_pixels), rtol=1e-5)


@pytest.mark.parametrize("loss", [jaxseg.dice_ce_loss, jaxseg.dice_loss], ids=lambda f: f.__name__)
def test_a_sample_weight_goes_into_the_sums(loss):
    logits, weights = logits_of(3), weights_of(4)
    expected = loss(logits, IDS, where=IDS != 255, weights=weights[:, None, None]).mean()
    got = as_loss(loss, where=valid)(IDS, logits, weights)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    zero_at_void = (IDS != 255).astype(np.float32)
    np.testing.assert_allclose(
        as_loss(loss)(IDS, logits, zero_at_void), as_loss(loss, where=valid)(IDS, logits), rtol=1e-6
    )


def test_a_loss_that_takes_no_weights():
    def mean_loss(logits, labels, *, where=None):
        return pixel_loss(logits, labels).mean()

    with pytest.raises(ValueError, match=r"mean_loss takes no weights, .* shape \(\)"):
        as_loss(mean_loss)(IDS, logits_of(3), weights_of(4))
    for shape in ((3,), (6, 5), (4, 6, 5, 3)):
        with pytest.raises(ValueError, match=r"sample_weight must have .* \(4, 6, 5\)"):
            as_loss(pixel_loss)(IDS, logits_of(3), weights_of(shape))


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1), (4,), None], ids=str)
def test_a_sample_weight_of_a_metric(shape):
    logits = logits_of(3)
    metric = SegmentationMetric({"miou": mean_iou}, num_classes=3, where=valid, weighted=True)
    assert {v.dtype for v in metric.variables} == {"float32"}
    weights = None if shape is None else weights_of(shape)
    for i in range(0, 4, 2):
        part = None if weights is None else weights[i : i + 2]
        metric.update_state(IDS[i : i + 2], logits[i : i + 2], part)
    of_pixels = np.ones((4, 1, 1)) if shape is None else weights.reshape(4, *shape[1:3] or (1, 1))
    expected = reference.hard_counts(logits.argmax(-1), IDS, 3, where=IDS != 255, weights=of_pixels)
    np.testing.assert_allclose(metric_counts(metric), expected, rtol=1e-6)
    np.testing.assert_allclose(metric.result()["miou"], score("iou", expected).mean(), rtol=1e-6)


def test_weights_of_zero_leave_void_pixels_out():
    """As Keras marks them, where no where= is given."""
    logits, weights = logits_of(3), (IDS != 255).astype(np.float32)
    metric = SegmentationMetric(mean_iou, num_classes=3, weighted=True)
    metric.update_state(IDS, logits, weights)
    expected = reference.hard_counts(logits.argmax(-1), IDS, 3, where=IDS != 255)
    np.testing.assert_allclose(metric_counts(metric), expected, rtol=1e-6)
    assert metric.result() > 0
    with pytest.raises(ValueError, match="hold 255"):
        SegmentationMetric(mean_iou, num_classes=3, weighted=True).update_state(IDS, logits)


def test_fit_with_weights():
    """Images, then pixels; logs are those of the weighted pixels of an epoch."""
    images, labels = data()
    model = network(3)
    model.compile(
        keras.optimizers.SGD(0.0),
        as_loss(weighted_mean_loss, where=valid),
        weighted_metrics=[
            SegmentationMetric({"miou": mean_iou}, num_classes=3, where=valid, weighted=True)
        ],
    )
    predictions = model.predict(images, verbose=0).argmax(-1)
    for weights in (weights_of(10), weights_of((10, 6, 5))):
        logs = model.fit(images, labels, sample_weight=weights, batch_size=5, verbose=0).history
        expected = reference.hard_counts(
            predictions,
            labels,
            3,
            where=labels != 255,
            weights=weights.reshape(10, *weights.shape[1:] or (1, 1)),
        )
        np.testing.assert_allclose(logs["miou"][0], score("iou", expected).mean(), rtol=1e-5)
    logs = model.fit(images, labels, batch_size=5, verbose=0).history
    expected = reference.hard_counts(predictions, labels, 3, where=labels != 255)
    np.testing.assert_allclose(logs["miou"][0], score("iou", expected).mean(), rtol=1e-5)


def test_any_function_is_a_loss():
    logits, masks = logits_of(1), (IDS == 1)[..., None].astype(np.float32)

    def hinge(logits, labels, *, where=None):
        return optax.losses.hinge_loss(logits, 2 * labels - 1)

    loss = as_loss(hinge)
    assert loss.name == "hinge"
    expected = np.maximum(0, 1 - logits * (2 * masks - 1)).mean()
    np.testing.assert_allclose(loss(masks, logits), expected, rtol=1e-6)


def test_errors(monkeypatch):
    metric = SegmentationMetric({"dice": jaxseg.dice}, num_classes=3)
    with pytest.raises(ValueError, match="made with weighted=True"):
        metric.update_state(IDS, logits_of(3), np.ones(4))
    with pytest.raises(ValueError, match=r"the score 'dice' has shape \(3,\): reduce it"):
        metric.result()
    with pytest.raises(ValueError, match=r"the score 'mine' has shape \(3,\)"):
        SegmentationMetric(jaxseg.dice, num_classes=3, name="mine").result()
    with pytest.raises(ValueError, match="labels must be integer or bool ids"):
        metric.update_state(IDS[:, :-1], logits_of(3))
    with pytest.raises(ValueError, match="the same shapes"):
        metric.update_state(IDS, logits_of(4))
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    for make in (lambda: as_loss(jaxseg.dice_loss), lambda: SegmentationMetric({}, num_classes=3)):
        with pytest.raises(RuntimeError, match=r"set KERAS_BACKEND=jax .* the backend is torch"):
            make()


@saved
def mean_soft_dice(c):
    return jaxseg.dice(c).mean()


KERAS_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@KERAS_WARNS
def test_a_saved_model_is_compiled_when_it_is_loaded(tmp_path):
    """With a soft Dice, a partial function, arrays among the arguments, and scores of all kinds."""
    images, labels = data()
    soft_counts = functools.partial(jaxseg.soft_counts, activation="softmax")
    weights = np.array([0.5, 1, 2], np.float32)
    model = network(3)
    model.compile(
        keras.optimizers.SGD(0.1),
        as_loss(jaxseg.dice_ce_loss, where=valid, ce_class_weights=weights, smooth=0.5),
        metrics=[
            SegmentationMetric({"miou": mean_iou}, num_classes=3, where=valid, name="mine"),
            SegmentationMetric(
                mean_soft_dice, num_classes=3, where=valid, statistic=soft_counts, name="soft_dice"
            ),
        ],
    )
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    result = again.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(result) == {"loss", "miou", "soft_dice"}
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert result == pytest.approx(expected, rel=1e-6)
    again.fit(images, labels, verbose=0)


@KERAS_WARNS
@pytest.mark.parametrize(
    "make",
    [
        lambda: as_loss(jaxseg.dice_loss, where=valid, axis=(1, 2)),
        lambda: as_loss(functools.partial(jaxseg.dice_loss, smooth=0.5), where=valid),
        lambda: as_loss(pixel_loss),
        lambda: SegmentationMetric(mean_iou, num_classes=3, where=valid, ndim=3, name="mine"),
        lambda: SegmentationMetric(
            {"soft": mean_soft_dice},
            num_classes=3,
            where=valid,
            statistic=functools.partial(jaxseg.soft_counts, activation="softmax"),
        ),
    ],
)
def test_a_loss_and_a_metric_are_made_again_of_their_configuration(make):
    thing = make()
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(thing))
    assert type(restored) is type(thing)
    logits = logits_of(3)
    if isinstance(thing, keras.losses.Loss):
        assert restored(IDS, logits) == thing(IDS, logits)
        return
    assert restored.name == thing.name
    for metric in (thing, restored):
        metric.update_state(IDS, logits)
    assert restored.result() == thing.result()


@KERAS_WARNS
def test_a_saved_model_is_compiled_anew(tmp_path):
    """Functions that are not registered are saved by name, and are not found again."""
    images, labels = data()

    def local_iou(c):
        return mean_iou(c)

    options = {
        "loss": as_loss(jaxseg.dice_ce_loss, where=valid),
        "metrics": [SegmentationMetric({"miou": local_iou}, num_classes=3, where=valid)],
    }
    model = network(3)
    model.compile(keras.optimizers.SGD(0.1), **options)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    again.compile(**options)
    result = again.evaluate(images, labels, verbose=0)
    np.testing.assert_allclose(result, model.evaluate(images, labels, verbose=0), rtol=1e-6)


# ---------------------------------------------------------------------------------- wrong labels

PNG = np.where(IDS == 1, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("of", [np.asarray, np.float32, jnp.asarray])
def test_a_loss_checks_its_first_labels(of):
    logits = of(logits_of(1))
    with pytest.raises(ValueError, match=r"hold 255 .*For masks: labels > 0"):
        as_loss(jaxseg.bce_dice_loss)(of(PNG), logits)
    with pytest.raises(ValueError, match=r"hold 255 .*where=labels != 255"):
        as_loss(functools.partial(jaxseg.dice_ce_loss))(of(IDS), of(logits_of(3)))
    loss = as_loss(jaxseg.bce_dice_loss)
    right = loss(of(PNG > 0), logits)
    assert loss(of(PNG), logits) != right  # once per data set


def test_a_loss_checks_its_first_predictions():
    """Unless it is told that they are probabilities, or is not jaxseg's."""
    probs = np.asarray(jax.nn.softmax(logits_of(3)))
    for loss in (as_loss(jaxseg.dice_loss, where=valid), as_loss(jaxseg.dice_ce_loss, where=valid)):
        with pytest.raises(ValueError, match=r"remove it, .* activation=None"):
            loss(IDS, probs)
    expected = jaxseg.dice_loss(probs, IDS, where=IDS != 255, activation=None).mean()
    for loss in (
        as_loss(jaxseg.dice_loss, where=valid, activation=None),
        as_loss(functools.partial(jaxseg.dice_loss, activation=None), where=valid),
        as_loss(
            lambda p, y, where: jaxseg.dice_loss(p, y, where=where, activation=None), where=valid
        ),
    ):
        np.testing.assert_allclose(loss(IDS, probs), expected, rtol=1e-6)


def test_a_metric_checks_its_first_labels():
    metric = SegmentationMetric(jaxseg.dice, num_classes=3)
    with pytest.raises(ValueError, match=r"hold 255 .*where=labels != 255"):
        metric.update_state(IDS, logits_of(3))
    assert not any(v.value.any() for v in metric.variables)
    soft = np.float32(PNG[..., None])
    with pytest.raises(ValueError, match=r"must be 0 or 1, but hold 255 .*labels > 0"):
        SegmentationMetric(jaxseg.dice, num_classes=1).update_state(soft, logits_of(1))
    own = SegmentationMetric(jaxseg.dice, num_classes=3, statistic=lambda x, y, where: sums(x, y))
    own.update_state(IDS, logits_of(3))  # what its labels mean is not known


def sums(logits, labels):
    return jaxseg.counts(jaxseg.predict_labels(logits), labels, num_classes=3)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ((data()[1] == 2).astype(np.uint8) * 255, 1, "outside of their 1 classes, from 0 to 255"),
        (data()[1], 3, r"outside of their 3 classes, from 0 to 255\. jaxseg\.check_labels"),
        (data()[1].astype(np.float32) - 1, 3, "from -1 to 254"),
        (np.float32(data()[1][..., None] == range(3)) * 255, 3, "from 0 to 255"),
    ],
    ids=["masks of 0 and 255", "void", "from -1", "one-hot of 255"],
)
def test_fit_and_evaluate_end_at_wrong_labels(labels, num_classes, message):
    """All is traced there: a metric finds them at the end of the epoch, and works again after."""
    images = data()[0]
    model = network(num_classes)
    score = SegmentationMetric({"dice": lambda c: jaxseg.dice(c)[0]}, num_classes=num_classes)
    model.compile(
        keras.optimizers.SGD(0.1), as_loss(lambda x, y, where: (x**2).mean()), metrics=[score]
    )
    with pytest.raises(ValueError, match=message):
        model.fit(images, labels, batch_size=5, verbose=0)
    with pytest.raises(ValueError, match=message):
        model.evaluate(images, labels, batch_size=5, verbose=0)
    right = np.clip(labels, 0, 1 if num_classes == 1 or labels.ndim == 4 else 2)
    history = model.fit(images, right, batch_size=5, verbose=0).history
    assert 0 <= history["dice"][0] <= 1


def test_a_step_that_is_not_traced_ends_at_once():
    images, labels = data()
    model = network(3)
    model.compile(keras.optimizers.SGD(0.1), as_loss(jaxseg.dice_ce_loss), run_eagerly=True)
    with pytest.raises(ValueError, match=r"hold 255 .*where=labels != 255"):
        model.fit(images, labels, batch_size=5, verbose=0)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_loss_and_a_metric_are_pickled_with_their_sums(again):
    logits = logits_of(3)
    loss = as_loss(jaxseg.dice_loss, where=valid, smooth=0.5)
    restored = again(loss)
    assert restored.name == loss.name
    assert restored(IDS, logits) == loss(IDS, logits)
    metric = SegmentationMetric({"miou": mean_iou}, num_classes=3, where=valid, name="mine")
    metric.update_state(IDS, logits)
    restored = again(metric)
    assert restored.name == "mine"
    assert restored.result() == metric.result()
    restored.update_state(IDS[:2], logits[:2])
    metric.update_state(IDS[:2], logits[:2])
    np.testing.assert_array_equal(metric_counts(restored), metric_counts(metric))
