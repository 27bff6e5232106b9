"""docs/examples: m2nist.py trains, its files are right, its step is the same on any mesh.

many_classes.py trains with the logits and without them alike.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from PIL import Image

pytestmark = pytest.mark.usefixtures("optimized")

KINDS = (*cases.ALL_LOSSES, "wrapper")
EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


LOSSES = [name for name, row in cases.TABLE.items() if row.in_examples and row.kind in KINDS]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def m2nist() -> ModuleType:
    return load("m2nist")


def optax_promotes():
    """Adam's bias correction is ``decay**count``, float to the power of int: not strict."""
    return jax.numpy_dtype_promotion("standard")


@pytest.mark.parametrize("task", ["multiclass", pytest.param("binary", marks=pytest.mark.slow)])
def test_a_short_run(m2nist, task, tmp_path, capsys, monkeypatch):
    train = m2nist.train

    def train_with_promotion(*arguments):
        with optax_promotes():
            return train(*arguments)

    monkeypatch.setattr(m2nist, "train", train_with_promotion)
    result, losses = m2nist.main(["--task", task, "--steps", "30", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out

    assert losses.shape == (30,)
    assert losses[-5:].mean() < 0.97 * losses[:5].mean()
    assert "mean IoU" in printed and "Keras-style" in printed
    assert ("by a threshold" in printed) == (task == "binary")
    assert result.confusion.sum() == 192 * 64 * 84

    for name in ("predictions.png", "training.png", "confusion.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width > 400 and picture.height > 300
    for folder, label_maps in (("truth", result.labels), ("prediction", result.predictions)):
        files = sorted((tmp_path / "out" / folder).glob("*.png"))
        assert len(files) == 192
        for file, label_map in zip(files, label_maps, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), label_map)


@pytest.mark.parametrize("split", ["random", "sequential"])
def test_training_and_test_digits_are_disjoint(m2nist, split):
    digits, labels = m2nist.load_digits()
    assert digits.shape == (1797, 8, 8) and labels.shape == (1797,)
    train, test = m2nist.split_digits(len(digits), split, np.random.default_rng(0))
    assert sorted([*train, *test]) == list(range(1797))
    if split == "sequential":
        assert train.max() < test.min()


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_images(m2nist, task):
    digits, labels = m2nist.load_digits()
    images, truth = m2nist.make_images(digits, labels, 450, np.random.default_rng(3), task)
    assert images.shape == truth.shape == (450, 64, 84)
    assert images.dtype == truth.dtype == np.uint8
    present = np.array([len(np.setdiff1d(np.unique(t), [m2nist.BACKGROUND])) for t in truth])
    if task == "multiclass":
        assert set(np.unique(truth)) == set(range(11))
        assert present.min() == 1 and present.max() == 3
    else:
        assert set(np.unique(truth)) == {0, 1}
    again, _ = m2nist.make_images(digits, labels, 450, np.random.default_rng(3), task)
    np.testing.assert_array_equal(images, again)


def test_boxes_do_not_overlap(m2nist):
    image, side, top, left = m2nist.place_boxes(300, np.random.default_rng(0))
    covered = np.zeros((300, m2nist.HEIGHT, m2nist.WIDTH), int)
    for i, s, t, x in zip(image, side, top, left, strict=True):
        covered[i, t : t + s, x : x + s] += 1
    assert covered.max() == 1
    assert covered.sum() == (side**2).sum()  # none reaches over the edge


def test_best_threshold(m2nist):
    images = np.array([[10, 20, 30, 40, 50]], np.uint8)
    assert m2nist.best_threshold(images, np.array([[0, 0, 1, 1, 1]], np.uint8)) in range(21, 31)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--steps 0", "--steps must be 1 or more, got 0"),
        ("--seed -1", "--seed must be 0 or more, got -1"),
        ("--device-count 3", "--device-count must divide the batch of 8, got 3"),
        ("--device-count 0", "--device-count must divide the batch of 8, got 0"),
        ("--task both", "argument --task: invalid choice: 'both'"),
        ("--loss dice", "argument --loss: invalid choice: 'dice'"),
        ("--task binary --loss dice_ce_loss", "--loss dice_ce_loss needs two classes or more"),
        ("--out file", "--out must be a folder, and file is a file"),
    ],
)
def test_bad_arguments(m2nist, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as stopped:
        m2nist.main(arguments.split())
    assert stopped.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_the_example_has_every_loss(m2nist):
    lacking = set(LOSSES) - set(m2nist.LOSSES)
    assert not lacking, f"add lines to LOSSES in docs/examples/m2nist.py for {sorted(lacking)}"
    assert sorted(m2nist.LOSSES) == sorted(LOSSES)
    assert set(m2nist.LOSSES) >= m2nist.NOT_BINARY | set(m2nist.USUAL.values())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "binary"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(m2nist, task, name):
    if task == "binary" and name in m2nist.NOT_BINARY:
        pytest.skip("needs two classes or more")
    digits, labels = m2nist.load_digits()
    rng = np.random.default_rng(0)
    images, truth = m2nist.make_images(digits, labels, 240, rng, task)
    network, optimizer = m2nist.make_network(task, 0, 30)
    batches = m2nist.batches(images, truth, 30, rng)
    with optax_promotes():
        losses, _ = m2nist.train(network, optimizer, batches, 30, 1, m2nist.LOSSES[name])
    first, last = losses[:5].mean(), losses[-5:].mean()
    print(f"{task} {name}: {first:.4f} to {last:.4f}")
    assert np.isfinite(losses).all()
    assert last < first


def test_the_picture_has_every_loss():
    drawn = (EXAMPLES / "draw_losses.py").read_text(encoding="utf-8")
    lacking = [name for name in LOSSES if f'"{name}": ' not in drawn]
    lacking.remove("deep_supervision")
    assert not lacking, f"add lines to GROUPS in docs/examples/draw_losses.py for {lacking}"


@pytest.mark.slow
def test_the_losses_are_drawn(tmp_path):
    draw_losses = load("draw_losses")
    drawn = [name for losses in draw_losses.GROUPS.values() for name in losses]
    assert sorted([*drawn, "deep_supervision"]) == sorted(LOSSES)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        draw_losses.main(["--out", str(tmp_path / "losses.png")])
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.width > 1000 and picture.height > 1000


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
def test_eight_devices_give_the_loss_and_gradients_of_one(m2nist):
    digits, labels = m2nist.load_digits()
    images, truth = m2nist.make_images(digits, labels, 8, np.random.default_rng(0))

    @nnx.jit
    def loss_and_gradients(network, images, labels):
        (loss, _), gradients = nnx.value_and_grad(m2nist.loss_fn, has_aux=True)(
            network, images, labels
        )
        return loss, gradients

    def values(network, images, labels):
        loss, gradients = loss_and_gradients(network, images, labels)
        return [np.asarray(x) for x in (loss, *jax.tree.leaves(gradients))]

    network, optimizer = m2nist.make_network("multiclass", 0, 10)
    expected = values(network, jnp.asarray(images), jnp.asarray(truth))
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = m2nist.make_mesh(8, axis_type)
        m2nist.copy_to_all(network, mesh)
        m2nist.copy_to_all(optimizer, mesh)
        batch = m2nist.split_over(mesh, images, truth)
        assert len(batch[0].addressable_shards) == 8
        assert batch[0].addressable_shards[0].data.shape == (1, 64, 84)
        found = values(network, *batch)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    with optax_promotes():
        loss, logits = m2nist.train_step(network, optimizer, *batch)  # the script's own, Explicit
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    assert logits.shape[:3] == (8, 64, 84)


@pytest.fixture
def many_classes():
    jax.config.update("jax_disable_most_optimizations", True)  # three steps: quick to compile
    yield load("many_classes")
    jax.config.update("jax_disable_most_optimizations", False)


def test_many_classes_train_alike_without_logits(many_classes, capsys):
    arguments = ["--size", "10", "--classes", "12", "--steps", "3"]
    with optax_promotes():
        losses = many_classes.main(arguments)
        printed = capsys.readouterr().out
        two_step = many_classes.main([*arguments, "--two-step"])
    assert losses.shape == (3,)
    assert losses[0] > losses[1] > losses[2]
    np.testing.assert_allclose(losses, two_step, rtol=0, atol=1e-4)
    assert "one_step_loss: " in printed and "two_step_loss: " in printed
    assert "mean Dice of a new volume: 0." in printed


def test_many_classes_volumes(many_classes):
    image, labels = many_classes.make_volume(np.random.default_rng(3), 10, 12)
    assert image.shape == (1, 10, 10, 10, 4) and labels.shape == (1, 10, 10, 10)
    assert len(np.unique(labels)) > 6 and labels.min() >= 0 and labels.max() < 12
    other, _ = many_classes.make_volume(np.random.default_rng(4), 10, 12)
    np.testing.assert_array_equal(image[..., 1:], other[..., 1:])  # places
    assert (image[..., 0] != other[..., 0]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--size 9", "--size must be even and 2 or more, got 9"),
        ("--classes 1", "--classes must be 2 to 256, got 1"),
        ("--steps 0", "--steps must be 1 or more, got 0"),
    ],
)
def test_bad_arguments_of_many_classes(many_classes, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        many_classes.main(arguments.split())
    assert stopped.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err
