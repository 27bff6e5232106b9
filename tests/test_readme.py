"""The README's train step and evaluation run as they stand, and are as short as it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxseg

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_train_step_and_evaluation_run_as_printed(blocks, capsys):
    train, evaluate = blocks
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    labels = jnp.where(images[..., 0] > 0.5, 2, (images[..., 0] > -0.5).astype(jnp.int32))
    labels = labels.at[0, 0].set(255)
    batches = [(images, labels), (images[:1], labels[:1])]
    names = {"images": images, "labels": labels, "batches": batches}
    # Optax's Adam and an example's reader rely on the usual promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(train, names)
        step = [
            names["train_step"](*(names[n] for n in ("network", "optimizer", "images", "labels")))
            for _ in range(60)
        ]
        exec(evaluate, names)
    assert step[-1] < 0.8 * step[0]
    assert names["total"].tp.sum() + names["total"].fn.sum() == (4 + 1) * 64 - 2 * 8
    printed = capsys.readouterr().out
    assert "road" in printed and "mean IoU" in printed


def test_a_class_that_is_in_neither_map_leaves_the_means_numbers(blocks, capsys):
    labels = jnp.zeros((2, 4, 4), jnp.int32).at[:, :2].set(2)  # no class 1
    batches = [(jax.nn.one_hot(labels, 3), labels)]
    names = {"jaxseg": jaxseg, "network": lambda x: x, "batches": batches}
    exec(blocks[1], names)
    assert jnp.isnan(names["iou"]).tolist() == [False, True, False]
    lines = capsys.readouterr().out.splitlines()
    means = [line for line in lines if line.startswith("mean")]
    assert len(means) == 2  # the report's, and that of the mean IoU
    assert not any("nan" in line for line in means)
    assert means[1] == "mean IoU 1.0 without the sky 1.0"


@pytest.mark.parametrize(("number", "lines"), [(0, 15), (1, 13)], ids=["train step", "evaluation"])
def test_they_are_short(blocks, number, lines):
    assert len([line for line in blocks[number].splitlines() if line]) <= lines


def test_the_commands_are_marked():
    for name in ("example", "test"):
        assert re.search(rf"<!-- {name} command -->\n```sh\n.+\n```", README)
