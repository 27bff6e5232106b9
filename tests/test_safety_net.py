"""A wrong constant, operator or name in any loss or score is found by its row of ``cases.py``.

Each test runs a copy of the library with one mistake against ``reference.py``, without jit and on
small inputs. Where no row tells the two apart, the test fails: give the row an argument or an input
that does, or, where the mistake changes nothing, add it to ``SAME`` with the reason.
"""

from types import SimpleNamespace
from typing import Any

import cases
import jax
import mutants
import pytest
import reference
import values
from cases import SIGMOID_DENSE, loss, region
from mutants import Mutant

import jaxseg

KINDS = (*cases.SCORES, *cases.ALL_LOSSES, "wrapper")
PUBLIC = [name for name, row in cases.TABLE.items() if row.kind in KINDS]
SAME = {
    "frequency_weighted_iou: matrix * scale -> matrix * scale * 1.1": "of any scale, alike",
    "matthews_correlation_loss: c.fp + c.fn -> c.fp - c.fn": "of an empty margin, equal ones are 0",
    "bce_dice_loss: along_classes(weights, x) * x -> along_classes(weights, x) * x * 1.1": (
        "of any scale, alike"
    ),
    "boundary_dou_loss: overlap + c.fp -> overlap + c.fn": "of squares, fp is fn",
}


MUTANTS = [mutant for mutant in mutants.mutants_of(PUBLIC) if mutant.name not in SAME]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_row_holds(name: str) -> None:
    with jax.disable_jit():
        values.check_small(name)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_found(mutant: Mutant) -> None:
    with mutants.with_mistake(mutant) as library, jax.disable_jit():
        for name in (mutant.public, *mutant.others):
            for gradient in (False, True):
                try:
                    values.check_small(name, library=library, gradient=gradient)
                except Exception:
                    return
    pytest.fail(
        f"no row of {mutant.public} in tests/cases.py tells {mutant.module}, line {mutant.line}, "
        f"from the same with a mistake:\n    {mutant.before}\n    {mutant.after}"
    )


def test_every_loss_and_score_has_mutants() -> None:
    assert {mutant.public for mutant in MUTANTS} == set(PUBLIC)
    assert len(MUTANTS) >= 60


# ---------------------------------------------------------------------------------- new losses


def poly_dice_loss(x: Any, labels: Any, *, power: float = 2.0, **options: Any) -> Any:
    """A loss as one might be added: the Dice loss to a power."""
    return jaxseg.dice_loss(x, labels, **options) ** 7


def square_loss(x: Any, labels: Any, *, where: Any = None) -> Any:
    """One of each pixel."""
    return 2 * jaxseg.cross_entropy_loss(x, labels, where=where) ** 2


NEW = {
    "poly_dice_loss": (
        poly_dice_loss,
        region(SIGMOID_DENSE),
        lambda x, labels, power=2.0, **options: reference.dice_loss(x, labels, **options) ** power,
    ),
    "square_loss": (
        square_loss,
        loss("pixel", class_axes=0),
        lambda x, labels, where=None: reference.cross_entropy_loss(x, labels, where=where) ** 2,
    ),
}


@pytest.mark.parametrize("name", NEW)
def test_a_new_loss_needs_a_row_and_a_formula_and_has_to_be_right(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, row, formula = NEW[name]
    (message,) = values.missing([name], {}, reference)
    assert message.startswith(f"{name} has no row: add one to TABLE in tests/cases.py")
    (message,) = values.missing([name], {name: row}, reference)
    assert message.startswith(f"{name} has no plain formula: add def {name}(...) to tests/ref")
    monkeypatch.setitem(cases.TABLE, name, row)
    monkeypatch.setattr(reference, name, formula, raising=False)
    assert not values.missing([name], cases.TABLE, reference)
    with pytest.raises(AssertionError), jax.disable_jit():
        values.check_small(name, library=SimpleNamespace(**{name: function}))
