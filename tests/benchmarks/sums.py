"""Every loss that is a sum over pixels, with every kind of input, and what a program may need."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxseg
from tests.benchmarks.compilers import Program

CLASSES = (1, 2, 4, 11, 19, 32, 117, 150)
DTYPES = ("float32", "bfloat16")
LABELS = ("ids", "bool", "float")

Loss = Callable[..., Array]


class Sum(NamedTuple):
    """A loss with its arguments."""

    loss: Loss
    activates: bool = False  # takes an activation, which is a sigmoid if there is one class
    least_classes: int = 1
    per_class: tuple[str, ...] = ()  # arguments ``[C]``
    distances: str | None = None  # "maps" like the logits, or a "matrix" of pairs of classes
    activation: str | None = None
    axis: tuple[int, ...] | None = None  # the map's axes to sum over, if it is not all of them


REGION = {
    name: Sum(getattr(jaxseg, f"{name}_loss"), activates=True)
    for name in (
        *("dice", "iou", "tversky", "focal_tversky", "log_dice", "log_cosh_dice"),
        *("generalized_dice", "matthews_correlation", "sensitivity_specificity"),
    )
}
SUMS: dict[str, Sum] = {
    **REGION,
    "dice of squares": Sum(partial(jaxseg.dice_loss, overlap="squared"), activates=True),
    "iou of minima": Sum(partial(jaxseg.iou_loss, overlap="minimum"), activates=True),
    "dice of masks": Sum(jaxseg.dice_loss, activation="sigmoid"),
    "dice of each image": Sum(jaxseg.dice_loss, activates=True, axis=(1, 2, 3)),
    "generalized_wasserstein_dice": Sum(
        jaxseg.generalized_wasserstein_dice_loss, least_classes=2, distances="matrix"
    ),
    "boundary": Sum(jaxseg.boundary_loss, activates=True, distances="maps"),
    "bce_dice": Sum(jaxseg.bce_dice_loss),
    "dice_ce": Sum(jaxseg.dice_ce_loss, least_classes=2),
    "dice_ce, weighted and smoothed": Sum(
        partial(jaxseg.dice_ce_loss, label_smoothing=0.1),
        least_classes=2,
        per_class=("class_weights", "ce_class_weights"),
    ),
    "dice_focal": Sum(jaxseg.dice_focal_loss),
    "exponential_logarithmic": Sum(jaxseg.exponential_logarithmic_loss),
    "unified_focal": Sum(jaxseg.unified_focal_loss),
    "unified_focal, symmetric": Sum(partial(jaxseg.unified_focal_loss, asymmetric=False)),
}


class Case(NamedTuple):
    """A loss and its input."""

    name: str
    classes: int
    dtype: str
    labels: str
    where: bool

    @property
    def sum(self) -> Sum:
        return SUMS[self.name]

    @property
    def logits(self) -> Any:
        images = 2 if self.classes < 100 else 1
        return jax.ShapeDtypeStruct((images, 64, 64, 64, self.classes), jnp.dtype(self.dtype))

    @property
    def specs(self) -> tuple[Any, ...]:
        """Logits, labels, then where and maps of distances if there are any."""
        x = self.logits
        dense = jax.ShapeDtypeStruct(x.shape, jnp.bool_ if self.labels == "bool" else jnp.float32)
        ids = jax.ShapeDtypeStruct(x.shape[:-1], jnp.int32)
        where = [jax.ShapeDtypeStruct(x.shape[:-1], jnp.bool_)] if self.where else []
        maps = [jax.ShapeDtypeStruct(x.shape, jnp.float32)] if self.sum.distances == "maps" else []
        return (x, ids if self.labels == "ids" else dense, *where, *maps)

    @property
    def has_classes(self) -> bool:
        """Whether the loss takes so few classes."""
        return self.classes >= self.sum.least_classes

    def __str__(self) -> str:
        where = ", where" if self.where else ""
        return f"{self.name}: C = {self.classes}, {self.dtype}, {self.labels}{where}"

    def value(self, *arrays: Array) -> Array:
        """The mean of the loss."""
        logits, labels, *others = arrays
        given: dict[str, Any] = {
            name: np.arange(1.0, self.classes + 1) for name in self.sum.per_class
        }
        if self.where:
            given["where"] = others.pop(0)
        if self.sum.distances == "maps":
            given["distances"] = others.pop(0)
        if self.sum.distances == "matrix":
            given["distances"] = 1 - np.eye(self.classes)
        if self.sum.activation or (self.sum.activates and self.classes == 1):
            given["activation"] = "sigmoid"
        if self.sum.axis:
            given["axis"] = self.sum.axis
        return self.sum.loss(logits, labels, **given).mean()


class Need(NamedTuple):
    """What a program needs beside what it must: the temporaries by the bytes of the logits."""

    temporaries: float
    moved: float  # bytes by those that must be moved

    def __repr__(self) -> str:
        return f"temporaries {self.temporaries:.3f}, moved {self.moved:.3f}"

    def within(self, limit: "Need") -> bool:
        return all(a <= b for a, b in zip(self, limit, strict=True))


def must_move(specs: tuple[Any, ...], gradient: bool) -> int:
    """Bytes of the inputs, read once for a value; read twice, and a gradient written."""
    read = sum(bytes_of(x) for x in specs)
    return 2 * read + bytes_of(specs[0]) if gradient else read


def bytes_of(x: Any) -> int:
    return math.prod(x.shape) * x.dtype.itemsize


def need(program: Program, specs: tuple[Any, ...], gradient: bool) -> Need:
    temporaries = program.temporaries / bytes_of(specs[0])
    return Need(temporaries, program.moved / must_move(specs, gradient))


def limit_on_gpu(classes: int, dtype: str, gradient: bool) -> Need:
    """What the program of a GPU may need.

    Small tiles forward, each with its sums, are fastest: of 117 classes, tiles of 16 pixels took
    half the time of those of 64 on an H200, though their sums are a part of the logits.
    """
    is_half = dtype == "bfloat16"
    if not gradient:
        return Need(0.85, 2.65) if classes >= 117 else Need(0.45 if is_half else 0.25, 1.5)
    if classes < 117:
        return Need(0.07, 1.2)
    return Need(0.12, 1.55 if is_half else 1.26)


def every_case() -> list[Case]:
    """All losses with all kinds of input."""
    product = itertools.product(SUMS, CLASSES, DTYPES, LABELS, (False, True))
    return [case for each in product if (case := Case(*each)).has_classes]


def some_cases(each: int = 2) -> list[Case]:
    """A few cases of each loss that cover each number of classes with each dtype, and so on."""
    cases = []
    for i, name in enumerate(name for name in SUMS for _ in range(each)):
        classes = max(CLASSES[i % 8], SUMS[name].least_classes)
        cases.append(Case(name, classes, DTYPES[i // 8 % 2], LABELS[i % 3], i // 3 % 2 == 1))
    return cases
