"""Each public function against its plain formula in ``reference.py``, as its row of the table says.

Losses in float64, value and gradient, on the inputs of ``values.py``: all of them with a loss's
first arguments, a few with the further ones.
"""

from collections.abc import Iterator
from typing import Any

import cases
import pytest
import reference
import values
from values import Maps

import jaxseg

SMOOTHED = ("smooth", "eps")  # left out of the names
FUNCTIONS = [name for name in cases.TABLE if not cases.TABLE[name].tested]


def losses() -> Iterator[Any]:
    """A second volume and further arguments run with the slow tests."""
    for name in FUNCTIONS:
        if values.kind_of_check(name) != "loss":
            continue
        for number, call in enumerate(values.calls_of(name)):
            for key, maps in values.inputs_of(name).items():
                if not number or key in values.FEW:
                    slow = pytest.mark.slow if number or key == "volumes, masks" else ()
                    label = "-".join([name, *(k for k in call if k not in SMOOTHED), key])
                    yield pytest.param(name, call, maps, id=label, marks=slow)


@pytest.mark.parametrize(("name", "call", "maps"), list(losses()))
def test_losses(name: str, call: dict[str, Any], maps: Maps) -> None:
    values.compare_loss(name, call, maps)


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if values.kind_of_check(name) != "loss"]
)
def test_scores_and_others(name: str) -> None:
    values.check_small(name)


def test_every_function_is_compared_with_a_formula() -> None:
    functions = [name for name in jaxseg.__all__ if name[0].islower()]
    lacking = values.missing(functions, cases.TABLE, reference)
    assert not lacking, "\n".join(lacking)
