"""The programs of docs/ for users of other libraries run as printed, and learn."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import reference

import jaxseg

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def users_settings():
    """Adam and the averages of Flax and clu rely on the usual promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images, and labels that can be learnt of them; the first row is void."""
    images = np.random.default_rng(0).standard_normal((10, 8, 8, 1)).astype(np.float32)
    labels = np.digitize(images[..., 0], [-0.5, 0.5]).astype(np.uint8)
    labels[:, 0] = 255
    return images, labels


def run(page: str, *blocks: int, **names):
    """Execute blocks of Python of a page; the names that they leave."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for i in blocks:
        exec(code[i], names)
    return names


def counts_of(predict):
    images, labels = data()
    predictions = np.asarray(predict(images)).argmax(-1)
    return reference.hard_counts(predictions, labels, 3, where=labels != 255)


def assert_iou(iou, expected):
    np.testing.assert_allclose(iou, reference.per_class(reference.iou, expected), rtol=1e-6)


@pytest.fixture
def batches():
    images, labels = data()
    return [(images[i : i + 4], labels[i : i + 4]) for i in range(0, 10, 4)]


def test_nnx(batches, capsys):
    names = run("nnx", 0, 1, 2, 3, batches=batches)
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5 and losses[4] < 0.9 * losses[0]
    network = names["network"]
    assert_iou(names["iou"], counts_of(network))

    images, labels = data()
    logits, where = network(images), labels != 255
    names["metric"].update(logits=logits, labels=labels, where=where, mask=np.arange(10) < 9)
    each = [
        reference.per_class(
            reference.dice,
            reference.hard_counts(x.argmax(-1), y, 3, where=y != 255),
        )
        for x, y in zip(np.asarray(logits)[:9], labels, strict=False)
    ]
    result = names["metric"].compute()
    np.testing.assert_allclose(result["mean"], np.nanmean(each, 0), rtol=1e-6)
    np.testing.assert_allclose(result["std"], np.nanstd(each, 0), rtol=1e-4)

    masks = labels[..., None] <= np.arange(3)
    names["masks_metric"].update(logits=logits, labels=masks)
    dice = reference.per_class(
        reference.dice, reference.hard_counts(np.asarray(logits) >= 0, masks)
    )
    np.testing.assert_allclose(names["masks_metric"].compute(), dice, rtol=1e-6)


def test_clu(batches, capsys):
    names = run("clu", 0, 1, batches=batches)
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5 and losses[4] < 0.9 * losses[0]
    images, labels = data()
    logits = names["network"].apply(names["variables"], images)
    outputs = {"logits": logits, "labels": labels, "where": labels != 255, "loss": 0.0}
    expected = counts_of(lambda _: logits)
    result = names["Metrics"].single_from_model_output(**outputs).compute()
    assert_iou(result["segmentation"]["iou"], expected)
    values = names["Scalars"].single_from_model_output(**outputs).compute_values()
    for name in ("iou", "dice"):
        score = reference.per_class(getattr(reference, name), expected).mean()
        np.testing.assert_allclose(values[{"iou": "miou"}.get(name, name)].value, score, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras'
def test_keras(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    images, labels = data()
    names = run("keras", 0, images=images, labels=labels)
    history = names["history"]
    assert history["loss"][4] < 0.9 * history["loss"][0]
    assert history["val_miou"][4] > history["val_miou"][0]
    expected = counts_of(lambda x: names["model"].predict(x, verbose=0))
    iou = reference.per_class(reference.iou, expected)
    np.testing.assert_allclose(history["val_miou"][4], iou.mean(), rtol=1e-6)

    names = run("keras", 1, 2, **names)
    logits = names["model"].predict(images, verbose=0)
    dice = reference.per_class(
        reference.dice, reference.hard_counts(logits >= 0, labels[..., None] == 2)
    )
    result = names["model"].evaluate(images, names["masks"], verbose=0, return_dict=True)
    np.testing.assert_allclose(result["dice"], dice[0], rtol=1e-6)
    names["dice"].update_state(names["masks"], np.asarray(jax.nn.sigmoid(logits)))
    np.testing.assert_allclose(names["dice"].result(), dice[0], rtol=1e-6)

    monkeypatch.chdir(tmp_path)
    names = run("keras", 3, 4, **names)
    logits = names["model"].predict(images, verbose=0)
    result = names["model"].evaluate(images, names["masks"], verbose=0, return_dict=True)
    probs, masks = reference.sigmoid(logits), labels[..., None] == 2
    for name, counts in (
        ("soft_dice", reference.soft_counts(probs, masks.astype(float))),
        ("weighted_dice", reference.hard_counts(logits >= 0, masks)),
    ):
        expected = reference.per_class(reference.dice, counts)[0]
        np.testing.assert_allclose(result[name], expected, rtol=1e-5)


@pytest.mark.parametrize(("library", "block"), [("equinox", 0), ("flax.linen", 1)])
def test_recipes(library, block, batches, capsys):
    names = run("recipes", block, batches=batches)
    losses = np.array(names["losses"])
    assert losses.shape == (15,)
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()
    if library == "equinox":
        expected = counts_of(lambda x: names["logits_of"](names["network"], x))
    else:
        expected = counts_of(lambda x: names["state"].apply_fn(names["state"].params, x))
    np.testing.assert_array_equal(names["counts"], expected)
    assert names["counts"].tp.dtype == np.int64
    assert "road" in capsys.readouterr().out
    assert jnp.nanmean(jaxseg.iou(names["counts"])) > 0.3


def linear(params, images):
    return images @ params["kernel"] + params["bias"]


def parameters():
    kernel = jax.random.normal(jax.random.key(0), (1, 3))
    return {"kernel": kernel, "bias": jnp.zeros(3)}


def test_small_batches_step_with_the_mean_of_their_gradients():
    images, labels = (x[:8].reshape(4, 2, *x.shape[1:]) for x in data())
    params, small_batches = parameters(), list(zip(images, labels, strict=True))
    names = run("recipes", 7, network=linear, params=params, small_batches=small_batches)

    def loss_fn(params):
        losses = [
            jaxseg.dice_ce_loss(linear(params, x), y, where=y != 255) for x, y in small_batches
        ]
        return sum(losses) / 4

    adam = optax.adam(0.03)
    updates, _ = adam.update(jax.grad(loss_fn)(params), adam.init(params), params)
    expected = optax.apply_updates(params, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), names["params"], expected
    )


def test_gradient_of_sums_over_small_batches_is_the_large_batchs():
    images, labels = data()
    labels[:2] = np.where(labels[:2] == 2, 255, labels[:2])  # not the same in every small batch
    small = {"images": images.reshape(5, 2, 8, 8, 1), "labels": labels.reshape(5, 2, 8, 8)}
    names = run("recipes", 9, network=linear, params=parameters(), **small)

    def loss_fn(params):
        return jaxseg.dice_ce_loss(linear(params, images), labels, where=labels != 255)

    loss, gradient = jax.value_and_grad(loss_fn)(parameters())
    np.testing.assert_allclose(names["loss"], loss, rtol=1e-6)
    for name, g in gradient.items():
        np.testing.assert_allclose(names["gradient"][name], g, rtol=1e-5, atol=1e-7)

    void = np.full_like(small["labels"], 255)
    loss, gradient = jax.value_and_grad(names["dice_ce_loss"])(parameters(), small["images"], void)
    assert loss == 0 and not any(g.any() for g in gradient.values())
