"""The adapter to clu: a collection in a train loop, merged, reduced and gathered."""

import copy
import functools
import pickle
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from clu import metrics
from flax import linen as nn
from flax import serialization

import jaxseg
from jaxseg.integrations.clu import segmentation_metric

SCORES = {"dice": jaxseg.dice, "iou": jaxseg.iou}
Segmentation = segmentation_metric(SCORES, num_classes=3)
Metrics = metrics.Collection.create(
    loss=metrics.Average.from_output("loss"), segmentation=Segmentation
)


@pytest.fixture
def clu_promotes():
    """Its averages divide floats by integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def data(n: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images, and labels that can be learnt of them; the first row is void."""
    images = np.random.default_rng(0).standard_normal((n, 6, 5, 1)).astype(np.float32)
    labels = np.digitize(images[..., 0], [-0.5, 0.5]).astype(np.uint8)
    labels[:, 0] = 255
    return images, labels


def outputs(n: int) -> dict[str, jax.Array]:
    """What a network gives for n images."""
    logits = np.random.default_rng(1).standard_normal((n, 6, 5, 3)).astype(np.float32)
    labels = data(n)[1]
    losses = np.arange(n, dtype=np.float32)
    return {"logits": logits, "labels": labels, "where": labels != 255, "loss": losses}


def part(out, index):
    return {name: x[index] for name, x in out.items()}


def expected_of(out, kept=slice(None)):
    return reference.hard_counts(
        out["logits"][kept].argmax(-1), out["labels"][kept], 3, where=out["where"][kept]
    )


def assert_scores(result, expected):
    for name in SCORES:
        score = reference.per_class(getattr(reference, name), expected)
        np.testing.assert_allclose(result[name], score, rtol=1e-6)


@pytest.mark.usefixtures("clu_promotes")
def test_a_train_loop():
    """Every epoch's scores are those of all its logits, in one trace; the last batch is padded."""
    images, labels = data()
    optimizer = optax.sgd(0.5)
    network = nn.Conv(3, (3, 3))
    weights = network.init(jax.random.key(0), images[:1])
    state = optimizer.init(weights)
    traces = []

    @functools.partial(jax.jit, donate_argnums=2)
    def train_step(weights, state, metrics, images, labels, mask):
        traces.append(images.shape)
        valid = labels != 255

        def loss_fn(weights):
            logits = network.apply(weights, images)
            return jaxseg.dice_ce_loss(logits, labels, where=valid & mask[:, None, None]), logits

        (loss, logits), gradients = jax.value_and_grad(loss_fn, has_aux=True)(weights)
        updates, state = optimizer.update(gradients, state)
        losses = jnp.broadcast_to(loss, mask.shape)
        update = Metrics.single_from_model_output(
            loss=losses, logits=logits, labels=labels, where=valid, mask=mask
        )
        return optax.apply_updates(weights, updates), state, metrics.merge(update), logits

    means = []
    for _ in range(3):
        epoch, logits = Metrics.empty(), []  # donated, and empty again
        for i in range(0, 10, 4):
            batch, mask = jaxseg.pad_batch((images[i : i + 4], labels[i : i + 4]), 4)
            weights, state, epoch, x = train_step(weights, state, epoch, *batch, jnp.asarray(mask))
            logits.append(np.asarray(x)[: len(images[i : i + 4])])
        out = {"logits": np.concatenate(logits), "labels": labels, "where": labels != 255}
        expected = expected_of(out)
        np.testing.assert_array_equal(jaxseg.total(epoch.segmentation.state), expected)
        result = epoch.compute()
        assert_scores(result["segmentation"], expected)
        means.append(result["loss"])
    assert traces == [(4, 6, 5, 1)]
    assert means[2] < 0.9 * means[0]


@pytest.mark.usefixtures("clu_promotes")
def test_merged_batches_are_the_whole():
    """Unequal ones, in any order."""
    out = outputs(10)
    batches = [
        Metrics.single_from_model_output(**part(out, s))
        for s in (slice(0, 5), slice(5, 6), slice(6, 10))
    ]
    a, b, c = batches
    for merged in (
        a.merge(b).merge(c),
        c.merge(a.merge(b)),
        Metrics.empty().merge(c.merge(b)).merge(a),
    ):
        assert_scores(merged.compute()["segmentation"], expected_of(out))
        assert merged.compute()["loss"] == out["loss"].mean()


@pytest.mark.usefixtures("clu_promotes")
def test_reduce_is_merge():
    out = outputs(8)
    batches = [Metrics.single_from_model_output(**part(out, slice(i, i + 2))) for i in (0, 2, 4, 6)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    reduced = stacked.reduce()
    np.testing.assert_array_equal(jaxseg.total(reduced.segmentation.state), expected_of(out))
    assert_scores(reduced.compute()["segmentation"], expected_of(out))
    one = jax.tree.map(lambda x: x[None], batches[0]).reduce()
    assert_scores(one.compute()["segmentation"], expected_of(out, slice(0, 2)))


@pytest.mark.usefixtures("clu_promotes")
def test_gather_over_devices():
    """An evaluation as clu's documentation has it; the last image is padding."""
    out = outputs(16)
    out["mask"] = np.arange(16) < 15
    step = jax.pmap(
        lambda m, out: m.merge(Metrics.gather_from_model_output(**out)), axis_name="batch"
    )
    state = jax.tree.map(lambda x: jnp.stack([x] * 4), Metrics.empty())
    for batch in (slice(0, 8), slice(8, 16)):
        state = step(state, {k: x[batch].reshape(4, 2, *x.shape[1:]) for k, x in out.items()})
    whole = state.unreplicate()
    np.testing.assert_array_equal(
        jaxseg.total(whole.segmentation.state), expected_of(out, slice(0, 15))
    )
    assert_scores(whole.compute()["segmentation"], expected_of(out, slice(0, 15)))
    assert whole.compute()["loss"] == out["loss"][:15].mean()


def test_sums_beyond_32_bits_are_exact():
    """Merged, and reduced over the first axis, in 64 bits."""

    def many(logits, labels, *, where=None):
        return jaxseg.Counts(*jnp.full((4, 3), 2**30 + 1, jnp.int32))

    many_metric = segmentation_metric(lambda c: c.tp, num_classes=3, statistic=many)
    each = many_metric.from_model_output(**part(outputs(1), slice(None)))
    merge = jax.jit(lambda a, b: a.merge(b))
    state = many_metric.empty()
    for _ in range(5):
        state = merge(state, each)
    assert state.compute().tolist() == [5 * (2**30 + 1)] * 3
    reduced = jax.tree.map(lambda x: jnp.stack([x] * 7), state).reduce()
    assert reduced.compute().tolist() == [35 * (2**30 + 1)] * 3
    traced = jax.jit(lambda m: m.compute())(reduced)
    assert traced.tolist() == [float(np.float32(35 * (2**30 + 1)))] * 3


def test_one_scalar_for_a_writer():
    mean = segmentation_metric(lambda c: jnp.nanmean(jaxseg.iou(c)), num_classes=3)
    both = metrics.Collection.create(
        miou=mean, dice=segmentation_metric(jaxseg.dice, num_classes=3)
    )
    out = outputs(4)
    value = mean.from_model_output(**out).compute_value()
    expected = np.nanmean(reference.per_class(reference.iou, expected_of(out)))
    np.testing.assert_allclose(value.value, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"one scalar of a metric, .* shape \(3,\)"):
        both.single_from_model_output(**out).compute_values()
    with pytest.raises(ValueError, match=r"one scalar of a metric, .* a dict"):
        Segmentation.from_model_output(**out).compute_value()


def test_from_fun_renames_outputs():
    out = outputs(4)
    renamed = Segmentation.from_fun(
        lambda *, x, y, **_: {"logits": x, "labels": y, "where": y != 255}
    )
    made = renamed.from_model_output(x=out["logits"], y=out["labels"], mask=np.arange(4) < 3)
    np.testing.assert_array_equal(jaxseg.total(made.state), expected_of(out, slice(0, 3)))


def test_a_state_passes_through_serialization():
    state = Metrics.single_from_model_output(**outputs(4))
    restored = serialization.from_bytes(Metrics.empty(), serialization.to_bytes(state))
    for x, y in zip(*map(jax.tree.leaves, (restored, state)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_num_classes_is_checked():
    with pytest.raises(ValueError, match="the same shapes"):
        segmentation_metric(SCORES, num_classes=2).from_model_output(**outputs(2))


@flax.struct.dataclass
class Pickled(metrics.Collection):
    """clu's own ``Collection.create`` makes a class that cannot be pickled."""

    segmentation: Segmentation
    dice: segmentation_metric(jaxseg.dice, num_classes=3)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_metric_is_pickled_with_its_sums(again):
    """Alone and in a collection; what comes back is of the same class, and is merged."""
    out = outputs(4)
    metric = Segmentation.from_model_output(**part(out, slice(0, 3)))
    restored = again(metric)
    assert type(restored) is Segmentation
    assert jax.tree.structure(restored) == jax.tree.structure(metric)
    assert_scores(restored.compute(), expected_of(out, slice(0, 3)))
    last = Segmentation.from_model_output(**part(out, slice(3, 4)))
    assert_scores(restored.merge(last).compute(), expected_of(out))

    both = again(Pickled.single_from_model_output(**out))
    assert type(both) is Pickled
    assert_scores(both.compute()["segmentation"], expected_of(out))
    np.testing.assert_array_equal(both.compute()["dice"], both.compute()["segmentation"]["dice"])


def test_a_pickled_metric_is_read_by_another_process():
    metric = segmentation_metric(SCORES, num_classes=3).from_model_output(**outputs(2))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).compute()['dice'].tolist())"
    run = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(metric), capture_output=True, check=True
    )
    np.testing.assert_allclose(eval(run.stdout), metric.compute()["dice"], rtol=1e-6)


def test_the_same_arguments_give_the_same_class():
    assert segmentation_metric(dict(SCORES), num_classes=np.int64(3)) is Segmentation
    assert segmentation_metric(SCORES, num_classes=2) is not Segmentation
    assert segmentation_metric(SCORES, num_classes=3, dense=True) is not Segmentation
    with pytest.raises(TypeError, match="static integer"):
        segmentation_metric(SCORES, num_classes=3.0)


def test_what_clu_cannot_pickle_is_refused_and_not_changed():
    renamed = Segmentation.from_fun(lambda *, x, **_: {"logits": x})
    with pytest.raises((pickle.PicklingError, AttributeError), match=r"FromFun"):
        pickle.dumps(renamed.empty())
    assert type(copy.deepcopy(renamed.empty())) is renamed
