"""Memory and time of the losses' value and gradient, beside plain autodiff and Optax.

    python tests/benchmarks/bench_losses.py [--rounds 15]
    python tests/benchmarks/bench_losses.py --memory  # of every loss

Temporaries are the compiler's own figure, in multiples of the logits' bytes; it does not vary.
Times are medians of rounds in which every contender runs once in turn, and ratios are medians of
the rounds' ratios, so that a machine whose speed drifts slows all alike.
"""

import argparse
import functools
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax import Array

import jaxseg

SHAPES = ((1, 64, 64, 64, 32), (4, 256, 256, 11), (8, 256, 256, 4), (2, 32, 32, 32, 117))


def plain_dice(logits: Array, labels: Array) -> Array:
    """Return softmax Dice as one writes it by hand, differentiated by JAX."""
    axes = tuple(range(labels.ndim))
    p = jax.nn.softmax(logits)
    g = jax.nn.one_hot(labels, logits.shape[-1])
    return (1 - (2 * (p * g).sum(axes) + 1) / (p.sum(axes) + g.sum(axes) + 1)).mean()


def plain_dice_ce(logits: Array, labels: Array) -> Array:
    """Return softmax Dice and cross-entropy as one writes them by hand."""
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return plain_dice(logits, labels) + ce.mean()


def optax_dice_ce(logits: Array, labels: Array) -> Array:
    """Return Optax's Dice and cross-entropy."""
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.losses.dice_loss(logits, one_hot).mean() + ce.mean()


CONTENDERS: dict[str, Callable[[Array, Array], Array]] = {
    "jaxseg dice": lambda logits, labels: jaxseg.dice_loss(logits, labels).mean(),
    "plain dice": plain_dice,
    "jaxseg dice + ce": jaxseg.dice_ce_loss,
    "plain dice + ce": plain_dice_ce,
    "optax dice + ce": optax_dice_ce,
}


def print_memory(shape: tuple[int, ...]) -> None:
    """Print every loss's temporaries, with default arguments, as multiples of the logits' bytes."""
    classes = shape[-1]
    needs = {"generalized_wasserstein_dice_loss": {"distances": 1 - np.eye(classes)}}
    logits = jax.ShapeDtypeStruct(shape, np.float32)
    labels = jax.ShapeDtypeStruct(shape[:-1], np.int32)
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {list(shape)}")
    for name in (n for n in jaxseg.__all__ if n.endswith("_loss")):
        loss = functools.partial(getattr(jaxseg, name), **needs.get(name, {}))
        step = jax.jit(jax.value_and_grad(lambda x, y, loss=loss: loss(x, y).mean()))
        memory = step.lower(logits, labels).compile().memory_analysis()
        print(f"| `{name}` | {memory.temp_size_in_bytes / (4 * np.prod(shape)):.2f} |")


def main() -> None:
    """Print a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:
        print_memory((4, 256, 256, 11))
        return
    rounds = options.rounds
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {rounds} rounds")
    for shape in SHAPES:
        logits = jax.random.normal(jax.random.key(0), shape)
        labels = jax.random.randint(jax.random.key(1), shape[:-1], 0, shape[-1])
        steps = {
            name: jax.jit(jax.value_and_grad(f)).lower(logits, labels).compile()
            for name, f in CONTENDERS.items()
        }
        seconds = {name: [] for name in steps}
        for step in steps.values():
            jax.block_until_ready(step(logits, labels))
        for _ in range(rounds):
            for name, step in steps.items():
                start = time.perf_counter()
                jax.block_until_ready(step(logits, labels))
                seconds[name].append(time.perf_counter() - start)
        print(f"\n{list(shape)}: {logits.nbytes / 2**20:.1f} MiB of logits")
        for name, step in steps.items():
            own = "jaxseg dice + ce" if name.endswith("+ ce") else "jaxseg dice"
            ratio = np.median(np.array(seconds[name]) / np.array(seconds[own]))
            temporaries = step.memory_analysis().temp_size_in_bytes / logits.nbytes
            milliseconds = 1e3 * np.median(seconds[name])
            print(
                f"  {name:18} {temporaries:6.3f} x   {milliseconds:7.1f} ms   {ratio:5.2f} x ours"
            )


if __name__ == "__main__":
    main()
