"""A wrong constant, operator or name in any loss or score is found by its row of ``cases.py``.

Each test runs a copy of the library with one mistake against ``reference.py``, without jit and on
small inputs. Where no row tells the two apart, the test fails: give the row an argument or an input
that does, or, where the mistake changes nothing, add it to ``SAME`` with the reason.
"""

import cases
import jax
import mutants
import pytest
import values
from mutants import Mutant

import jaxseg

KINDS = ("counts", "matrix", "region", "pixel", "ordered", "spatial", "compound", "wrapper")
PUBLIC = [name for name in jaxseg.__all__ if cases.KIND.get(name) in KINDS]
SAME = {
    "matthews_correlation_loss: c.fp + c.fn -> c.fp - c.fn": "of an empty margin, equal ones are 0",
    "boundary_dou_loss: overlap + c.fp -> overlap + c.fn": "of squares, fp is fn",
}


MUTANTS = [mutant for mutant in mutants.mutants_of(PUBLIC) if mutant.name not in SAME]


def check_row(name: str, library: object, *, gradient: bool) -> None:
    """A function of a library against its row, on small inputs."""
    for call in values.calls_of(name):
        if cases.KIND[name] in cases.SCORES:
            values.compare_score(name, call, library=library)
            continue
        for maps in values.inputs_of(name, values.SMALL).values():
            values.compare_loss(name, call, maps, library=library, gradient=gradient, jit=False)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_row_holds(name: str) -> None:
    with jax.disable_jit():
        check_row(name, jaxseg, gradient=False)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_found(mutant: Mutant) -> None:
    with mutants.with_mistake(mutant) as library, jax.disable_jit():
        for name in (mutant.public, *mutant.others):
            for gradient in (False, True):
                try:
                    check_row(name, library, gradient=gradient)
                except Exception:
                    return
    pytest.fail(
        f"no row of {mutant.public} in tests/cases.py tells {mutant.module}, line {mutant.line}, "
        f"from the same with a mistake:\n    {mutant.before}\n    {mutant.after}"
    )


def test_every_loss_and_score_has_mutants() -> None:
    assert {mutant.public for mutant in MUTANTS} == set(PUBLIC)
    assert len(MUTANTS) >= 60
