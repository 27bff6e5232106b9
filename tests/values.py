"""A public function against its plain formula in ``reference.py``: the one comparison of values.

What is compared, with which arguments, is the row of the function in ``cases.py``. The library is
an argument, so that ``test_safety_net`` can compare one with a mistake in it.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cases
import jax
import numpy as np
import reference
from cases import accepted

import jaxseg

TESTS = Path(__file__).parent
PLANE, VOLUME = (2, 6, 7), (2, 4, 5, 3)


class Maps(NamedTuple):
    """Logits and labels of a loss, and the pixels and axes that count."""

    shape: tuple[int, ...]
    classes: int
    form: str  # "ids", "masks" or "soft"
    masked: bool
    axis: tuple[int, ...] | None
    absent: bool = False  # whether the last class is in no label
    weighted: bool = False  # whether the pixels have weights, some of them 0
    by_class: bool = False  # whether the weights have a class axis, and the classes a sigmoid

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        rng = np.random.default_rng(7)
        x = 1.5 * rng.standard_normal((*self.shape, self.classes))
        ids = rng.integers(0, max(self.classes, 2) - self.absent, self.shape)
        labels = {
            "ids": ids.astype(np.uint8),
            "masks": reference.one_hot(ids, self.classes),
            "soft": rng.dirichlet(np.ones(max(self.classes, 2)), self.shape)[..., : self.classes],
        }[self.form]
        return x, labels, rng.random(self.shape) < 0.7 if self.masked else None

    def weights(self) -> np.ndarray | None:
        if not self.weighted:
            return None
        rng = np.random.default_rng(9)
        shape = (*self.shape, self.classes) if self.by_class else self.shape
        return rng.choice([0.0, 1.0], shape, p=[0.2, 0.8]) * rng.uniform(0.2, 3, shape)

    def counted(self, where: np.ndarray | None) -> np.ndarray | None:
        """The mask: a weight of 0 is as a mask of False."""
        weights = self.weights()
        if weights is None:
            return where
        if where is not None and self.by_class:
            where = where[..., None]
        return weights > 0 if where is None else where & (weights > 0)

    def dirty(self) -> tuple[np.ndarray, np.ndarray]:
        """The same logits and labels; what is masked holds anything."""
        x, labels, where = self.arrays()
        where = self.counted(where)
        if where is not None:
            x = np.where(where if self.by_class else where[..., None], x, np.nan)
            if self.form == "ids" and not self.by_class:
                labels = np.where(where, labels, 255).astype(labels.dtype)
        return x, labels


# Every loss sees these: two and three dimensions, one to five classes, ids and dense labels, masked
# pixels, an absent class, pooled and single images, and pixels with weights.
INPUTS = {
    "masked images": Maps(PLANE, 2, "ids", True, (1, 2)),
    "volume, absent class": Maps(VOLUME, 5, "ids", True, None, True, True),
    "volumes, masks": Maps(VOLUME, 3, "masks", False, (1, 2, 3)),
    "one class": Maps(PLANE, 1, "ids", True, None),
    "soft labels": Maps(PLANE, 3, "soft", True, (1, 2), weighted=True),
}
FEW = ("masked images", "soft labels")  # of further arguments
# Small enough to be run without jit, a hundred times; of few shapes, as each operation is compiled
# for each of them.
SMALL = {
    "images": Maps((2, 4, 3), 3, "ids", True, (1, 2), weighted=True),
    "soft labels": Maps((2, 4, 3), 3, "soft", False, (1, 2)),
    "one class": Maps((2, 4, 3), 1, "ids", False, None),
    "one class, soft labels": Maps((2, 4, 3), 1, "soft", False, None),
    "weights of classes": Maps((2, 4, 3), 3, "masks", False, (1, 2), weighted=True, by_class=True),
}
BY_CLASS = ("dice_loss", "bce_dice_loss")  # the ones of a region and of a compound loss


def function_of(name: str, library: Any) -> Callable[..., Any]:
    """The function of a library, or of ``reference``."""
    row = cases.TABLE[name]
    if library is not reference:
        return row.call(library, name)
    return row.formula if callable(row.formula) else row.call(library, row.formula or name)


def inputs_of(name: str, inputs: Mapping[str, Maps] = INPUTS) -> dict[str, Maps]:
    """Those that the function takes."""
    row = cases.TABLE[name]
    return {
        key: maps
        for key, maps in inputs.items()
        if not (maps.classes == 1 and not row.one_class)
        and not (maps.form == "soft" and row.hard_labels)
        and not (maps.by_class and name not in BY_CLASS)
    }


def calls_of(name: str, library: Any = jaxseg) -> Iterator[dict[str, Any]]:
    """Further arguments, one set after the other; in the last one, ``smooth`` and ``eps`` too."""
    *others, last = cases.TABLE[name].calls
    yield from others
    yield accepted(getattr(library, name), {"smooth": 0.75, "eps": 0.125} | last)


# Of one class, these are losses of "not it", of logit 0, and "it".
TWO_CLASS_FORMS = (
    "cross_entropy_loss",
    "softmax_focal_loss",
    "nacl_loss",
    "top_k_loss",
    "ohem_loss",
)


def of_two_classes(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def of_one(x: Any, labels: Any, **arguments: Any) -> Any:
        return plain(*reference.two_classes(x, labels), **arguments)

    return of_one


def given_to(
    function: Callable[..., Any], arguments: Mapping[str, Any], maps: Maps, where: Any
) -> dict[str, Any]:
    """The further arguments for these maps, and all others but logits and labels."""
    given = {k: v(maps.classes) if callable(v) else v for k, v in arguments.items()}
    if "spacing" in given:
        given["spacing"] = given["spacing"][: len(maps.shape) - 1]
    given |= {"where": where, "weights": maps.weights(), "axis": maps.axis}
    given |= {"activation": "sigmoid" if maps.classes == 1 or maps.by_class else "softmax"}
    return accepted(function, given)


def compare_loss(
    name: str,
    arguments: Mapping[str, Any],
    maps: Maps,
    *,
    library: Any = jaxseg,
    gradient: bool = True,
    jit: bool = True,
) -> None:
    """Value in float64; gradient by differences of the plain form along a random direction."""
    ours, plain = function_of(name, library), function_of(name, reference)
    x, labels, where = maps.arrays()
    if maps.classes == 1 and name in TWO_CLASS_FORMS:
        plain = of_two_classes(plain)
    given = given_to(ours, arguments, maps, where)
    unknown = set(given) - set(accepted(plain, given)) - {"activation"}
    assert not unknown, f"reference.{name} lacks {unknown}"
    where = maps.counted(where)
    theirs = accepted(plain, given | {"where": where})

    dirty, truth = maps.dirty()
    rng = np.random.default_rng(8)
    expected = np.asarray(plain(x, labels, **theirs))
    weights = rng.standard_normal(expected.shape)

    def total(x: Any) -> Any:
        result = ours(x, truth, **given)
        return (result * weights).sum(), result

    run = jax.value_and_grad(total, has_aux=True) if gradient else total
    with jax.enable_x64(True):
        result = (jax.jit(run) if jit else run)(dirty)
    (weighted, got), slopes = result if gradient else (result, None)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9, strict=False)
    assert math.isclose(weighted, (expected * weights).sum(), rel_tol=1e-6, abs_tol=1e-9)
    if not gradient:
        return
    direction = rng.standard_normal(x.shape)
    step = 1e-6 * direction
    ahead, behind = (np.asarray(plain(x + h, labels, **theirs)) for h in (step, -step))
    slope = ((ahead - behind) * weights).sum() / 2e-6
    if where is not None:
        assert not np.asarray(slopes)[~where].any()
    np.testing.assert_allclose(np.vdot(slopes, direction), slope, rtol=2e-5, atol=1e-7)


# Every combination of tp, fp, fn and tn that is or is not zero, and some more, in two classes.
EMPTY_OR_NOT = np.array(list(np.ndindex(2, 2, 2, 2))).T * np.array([[5.0], [3.0], [2.0], [7.0]])
COUNTS = np.concatenate(
    [EMPTY_OR_NOT.reshape(4, 8, 2), np.random.default_rng(0).integers(0, 50, (4, 4, 2))], axis=1
)
MATRICES = np.stack(
    [
        np.random.default_rng(1).integers(0, 40, (3, 3)),
        np.diag([5, 2, 9]),
        np.array([[5, 1, 0], [2, 4, 0], [0, 0, 0]]),
        np.array([[5, 1, 3], [2, 4, 1], [0, 0, 0]]),
        np.array([[0, 5, 1], [7, 0, 0], [3, 1, 0]]),
        np.zeros((3, 3), int),
    ]
).astype(np.float64)


def compare_score(name: str, arguments: Mapping[str, Any], *, library: Any = jaxseg) -> None:
    """A score of Counts or of a confusion matrix, also where its denominator is 0."""
    ours, plain = function_of(name, library), function_of(name, reference)
    arguments = {"zero_division": -2.0, **arguments}
    if cases.TABLE[name].kind == "matrix":
        expected = [plain(matrix, **arguments) for matrix in MATRICES]
        statistic: Any = MATRICES
    elif name == "generalized_dice":
        expected = [plain(*leaves, **arguments) for leaves in COUNTS.swapaxes(0, 1).tolist()]
        statistic = library.Counts(*COUNTS)
    else:
        expected = reference.per_class(plain, COUNTS, **arguments)
        statistic = library.Counts(*COUNTS)
    with jax.enable_x64(True):
        got = ours(statistic, **arguments)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def compare_plainly(name: str, arguments: Mapping[str, Any], *, library: Any = jaxseg) -> None:
    """A function of arrays, on the inputs of the laws."""
    ours, plain = function_of(name, library), function_of(name, reference)
    for case in cases.CASES:
        if case.public == name:
            args = (*case.make(np.random.default_rng(0)), *case.second)
            got, expected = (f(*args, **case.options, **arguments) for f in (ours, plain))
            got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
            assert got
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def kind_of_check(name: str) -> str:
    """Which of the three comparisons is the function's."""
    kind = cases.TABLE[name].kind
    if kind in cases.ALL_LOSSES or kind == "wrapper":
        return "loss"
    return "score" if kind in cases.SCORES else "plain"


def check_small(name: str, *, library: Any = jaxseg, gradient: bool = False) -> None:
    """A function of a library against its whole row, on small inputs and without jit."""
    for call in calls_of(name, library):
        match kind_of_check(name):
            case "score":
                compare_score(name, call, library=library)
            case "plain":
                compare_plainly(name, call, library=library)
            case "loss":
                for maps in inputs_of(name, SMALL).values():
                    compare_loss(name, call, maps, library=library, gradient=gradient, jit=False)


def missing(names: Sequence[str], table: Mapping[str, cases.Row], formulas: Any) -> list[str]:
    """What to add for the functions whose values are compared with nothing."""
    messages = []
    for name in names:
        row = table.get(name)
        if row is None:
            messages.append(
                f"{name} has no row: add one to TABLE in tests/cases.py, as "
                f'"{name}": region(SOFTMAX_IDS), with its kind and inputs.'
            )
        elif row.tested:
            file, test = row.tested.split("::")
            if f"\ndef {test}(" not in (TESTS / file).read_text(encoding="utf-8"):
                messages.append(f"{name}: TABLE in tests/cases.py names {row.tested}: no such test")
        else:
            formula = row.formula or name
            try:
                _ = formula if callable(formula) else row.call(formulas, formula)
            except AttributeError:
                messages.append(
                    f"{name} has no plain formula: add def {formula}(...) to tests/reference.py, "
                    "in NumPy and without jaxseg."
                )
    return messages
