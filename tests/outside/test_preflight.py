"""A flipped or turned map of 42 organs is found out, and the map as it is passes.

The maps stay outside the repository, in ``../shared/data``; without them these tests are skipped.
"""

import maps
import numpy as np
import pytest

from jaxseg.evaluation._preflight import Problem, value_problems

FOLDER = maps.DATA / "totalsegmentator/tests/reference_files"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there are no organs in {FOLDER}")


def problems(prediction: np.ndarray, labels: np.ndarray) -> list[Problem]:
    return value_problems(prediction, labels, 118)


def test_organs_as_they_are() -> None:
    prediction, truth, *_ = maps.organs()
    assert problems(prediction, truth) == []
    assert problems(truth, prediction) == []


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (0, "flipped along axis 0: after np.flip(prediction, 0) the mean Dice of the 41 classes"),
        (1, "flipped along axis 1:"),
        (2, "flipped along axis 2:"),
        ((0, 1), "flipped along axes 0 and 1:"),  # RAS read as LPS
        ((0, 1, 2), "flipped along axes 0, 1 and 2:"),
    ],
)
def test_flipped_organs(axes: int | tuple[int, ...], message: str) -> None:
    prediction, truth, *_ = maps.organs()
    (problem,) = problems(np.flip(prediction, axes), truth)
    assert problem.kind == "orientation" and message in problem.message


def test_transposed_organs() -> None:
    prediction, truth, *_ = (x[:100, :100] for x in maps.organs()[:2])
    (problem,) = problems(np.swapaxes(prediction, 0, 1), truth)
    assert problem.kind == "orientation" and "(1, 0, 2)" in problem.message


def test_swapped_organs() -> None:
    prediction, truth, *_ = maps.organs()
    a, b = np.argsort(np.bincount(truth.reshape(-1)))[-3:-1]
    table = np.arange(118)
    table[[a, b]] = b, a
    (problem,) = problems(table[prediction], truth)
    assert problem.kind == "classes"
    assert f"classes {min(a, b)} and {max(a, b)} look swapped" in problem.message


def test_another_brain_region_map_is_of_no_other_orientation() -> None:
    prediction, truth, *_ = maps.brain()
    num_ids = int(max(prediction.max(), truth.max())) + 1
    assert value_problems(np.roll(prediction, 5, 1), truth, num_ids) == []
