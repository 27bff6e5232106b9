"""Scores of one case: equal to NumPy's, for ids, regions, masks and blocks."""

import math

import numpy as np
import pytest
import reference
from scipy import ndimage

from jaxseg.evaluation import _case, evaluate_case
from jaxseg.evaluation._metrics import parse_metrics
from jaxseg.evaluation._records import CaseError, Target

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, (9, 14, 11)).astype(np.uint8)
PREDICTION = np.where(RNG.random(LABELS.shape) < 0.7, LABELS, RNG.integers(0, 4, LABELS.shape))


def values(rows):
    return {(row.target, row.metric): row.value for row in rows}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint16])
def test_overlap_is_that_of_counting_pixel_by_pixel(dtype):
    p, g = PREDICTION.astype(dtype), LABELS.astype(dtype)
    rows = evaluate_case(p, g, num_classes=4, metrics="dice,iou,precision,recall,specificity")
    for c in range(4):
        tp = int(((p == c) & (g == c)).sum())
        n_p, n_g = int((p == c).sum()), int((g == c).sum())
        found = {r.metric: r for r in rows if r.target == str(c)}
        assert found["dice"].value == 2 * tp / (n_p + n_g)
        assert found["iou"].value == tp / (n_p + n_g - tp)
        assert found["precision"].value == tp / n_p
        assert found["recall"].value == tp / n_g
        assert found["specificity"].value == (g.size - n_p - n_g + tp) / (g.size - n_g)
        assert (found["dice"].n_truth, found["dice"].n_prediction) == (n_g, n_p)


def test_a_map_of_more_ids_than_a_byte_holds():
    g = LABELS.astype(np.int32) * 100
    p = PREDICTION.astype(np.int32) * 100
    found = values(evaluate_case(p, g, classes=[100, 300], metrics="dice"))
    small = values(evaluate_case(PREDICTION, LABELS, classes=[1, 3], metrics="dice"))
    assert list(found.values()) == list(small.values())


def test_bytes_of_all_values():
    g = np.repeat(np.arange(256, dtype=np.uint8), 3)
    matrix = _case.confusion([(g, g)], 256, None)
    np.testing.assert_array_equal(matrix, np.diag([3] * 256 + [0]))
    assert _case.confusion([(g, g)], 250, 251)[-1, -1] == 5 * 3  # 250 and 252 to 255


def test_blocks_and_padding_change_nothing(monkeypatch):
    want = _case.confusion([(PREDICTION, LABELS)], 4, 2)
    monkeypatch.setattr(_case, "_BLOCK", 100)
    np.testing.assert_array_equal(_case.confusion([(PREDICTION, LABELS)], 4, 2), want)
    valid = LABELS != 2
    np.testing.assert_array_equal(
        want[:4, :4], reference.confusion_matrix(PREDICTION, LABELS, num_classes=4, where=valid)
    )


@pytest.mark.parametrize("num_ids", [3, 4, 300])
def test_runs_are_counted_as_their_pixels(num_ids):
    p, g = (np.repeat(x.ravel()[:200], 40).astype(np.int16) for x in (PREDICTION, LABELS))
    g[:30], p[500:600] = -7, 999
    found = _case.confusion([(p, g)], num_ids, 1)
    order = np.random.default_rng(0).permutation(g.size)  # no runs are left
    np.testing.assert_array_equal(found, _case.confusion([(p[order], g[order])], num_ids, 1))
    assert found.sum() == (g != 1).sum()


def test_ignored_pixels_do_not_count():
    g = np.where(LABELS == 3, 255, LABELS).astype(np.uint8)
    p = np.where(LABELS == 3, 2, PREDICTION).astype(np.uint8)
    rows = evaluate_case(p, g, classes=[0, 1, 2], ignore=255, metrics="dice,hd95")
    p[LABELS == 3] = 1  # whatever is predicted there
    again = evaluate_case(p, g, classes=[0, 1, 2], ignore=255, metrics="dice,hd95")
    assert rows == again


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_the_ignored_id_may_be_negative(dtype):
    g = np.where(LABELS == 3, -1, LABELS.astype(int)).astype(dtype)
    p = np.where(LABELS == 3, 1, PREDICTION).astype(dtype)
    found = _case.confusion([(p, g)], 3, -1)
    assert found.sum() == (g != -1).sum()
    of_255 = [np.where(x == -1, 255, x) for x in (p.astype(int), g.astype(int))]
    np.testing.assert_array_equal(found, _case.confusion([tuple(of_255)], 3, 255))


def test_an_ignored_id_is_no_class_of_all():
    rows = evaluate_case(PREDICTION, LABELS, num_classes=4, ignore=1, metrics="dice")
    assert [row.target for row in rows] == ["0", "2", "3"]


def test_a_predicted_id_of_no_class_is_a_miss_and_no_false_positive():
    g = np.array([[1, 1, 0, 0]])
    p = np.array([[1, 9, 0, 0]])
    found = values(evaluate_case(p, g, num_classes=2, metrics="precision,recall"))
    assert found == {
        ("0", "precision"): 1.0,
        ("0", "recall"): 1.0,
        ("1", "precision"): 1.0,
        ("1", "recall"): 0.5,
    }


def test_a_region_is_the_union_of_its_classes():
    found = values(
        evaluate_case(PREDICTION, LABELS, classes={"whole": [1, 3]}, metrics="dice,assd")
    )
    masks = [np.isin(x, [1, 3]) for x in (PREDICTION, LABELS)]
    want = values(evaluate_case(*masks, num_classes=1, metrics="dice,assd"))
    assert list(found.values()) == list(want.values())


def test_dense_masks_may_overlap():
    p, g = (np.stack([x == 1, x >= 1], -1) for x in (PREDICTION, LABELS))
    targets = (Target("a", (0,)), Target("b", (1,)))
    metrics = parse_metrics("dice,hd95")
    found = _case.score(
        p, g, targets=targets, num_ids=0, ignore=None, metrics=metrics, spacing=None
    )
    want = evaluate_case(PREDICTION, LABELS, classes={"a": 1, "b": [1, 2, 3]}, metrics="dice,hd95")
    assert found.values["dice"] == [want[0].value, want[2].value]
    assert found.values["hd95"] == [want[1].value, want[3].value]


def test_bools_of_bytes_of_255():
    masks = [(x == 1) for x in (PREDICTION, LABELS)]
    odd = [(x.astype(np.uint8) * 255).view(bool) for x in masks]
    metrics = "dice,hd95,boundary-f@1,centre-distance"
    assert evaluate_case(*odd, num_classes=1, metrics=metrics) == evaluate_case(
        *masks, num_classes=1, metrics=metrics
    )


def test_distances_are_in_the_unit_of_the_spacing():
    g = np.zeros((12, 12, 12), np.uint8)
    g[3:7, 3:7, 3:7] = 1
    for axis, step in enumerate((1.0, 2.0, 5.0)):
        rows = evaluate_case(
            np.roll(g, 1, axis), g, classes=[1], metrics="hd,centre-distance", spacing=(1, 2, 5)
        )
        assert {r.metric: r.value for r in rows} == {
            "hausdorff_max_mm": step,
            "centre_distance_mm": step,
        }


def test_volumes():
    g = np.zeros((4, 5), bool)
    p = g.copy()
    g[:2], p[:3] = True, True
    found = values(
        evaluate_case(p, g, num_classes=1, metrics="volume,relative-volume", spacing=(2, 0.5))
    )
    assert found == {("1", "volume_difference_mm3"): 5.0, ("1", "volume_difference_relative"): 0.5}


def test_boundary_iou_of_a_padded_image():
    rng = np.random.default_rng(1)
    p, g = (ndimage.gaussian_filter(rng.standard_normal((70, 53)), 6) > 0 for _ in range(2))
    width = max(1, round(0.02 * math.hypot(70, 53)))
    bands = [x & ~ndimage.binary_erosion(x, np.ones((3, 3)), width, border_value=0) for x in (p, g)]
    want = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    (row,) = evaluate_case(p, g, num_classes=1, metrics="boundary-iou")
    np.testing.assert_allclose(row.value, want, rtol=1e-6)


def test_empty_and_missed():
    g = np.zeros((6, 6), np.uint8)
    g[2:4, 2:4] = 1
    none = np.zeros_like(g)
    metrics = "dice,iou,hd95,assd,nsd@1,volume"
    missed = values(evaluate_case(none, g, classes=[1, 2], metrics=metrics))
    assert [missed["1", m] for m in ("dice", "iou", "surface_dice_pooled_at_1px")] == [0, 0, 0]
    assert missed["1", "hd95_max_px"] == missed["1", "assd_pooled_px"] == math.inf
    assert all(math.isnan(missed["2", m]) for m in ("dice", "iou", "hd95_max_px"))
    spurious = values(evaluate_case(g, none, classes=[1], metrics=metrics))
    assert spurious["1", "dice"] == 0 and spurious["1", "hd95_max_px"] == math.inf


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"metrics": "dice,fish"}, ValueError, "'fish' is no metric"),
        ({"metrics": "nsd"}, ValueError, "nsd needs its tolerance"),
        ({"metrics": "dice,dice"}, ValueError, "more than once"),
        ({"metrics": "nsd@2,nsd@2.0"}, ValueError, "more than once"),
        ({"num_classes": None}, ValueError, "Give num_classes"),
        ({"num_classes": 0}, ValueError, "at least 1"),
        ({"classes": [-1]}, ValueError, "ids from 0 on"),
        ({"classes": [1, 1]}, ValueError, "the id 1 twice"),
        ({"classes": {"a": [2, 2]}}, ValueError, "the id 2 twice"),
        ({"classes": {"a": []}}, ValueError, "at least one id"),
        ({"classes": [1, 2], "ignore": 2}, ValueError, "2 is ignored"),
        ({"spacing": (1, 2)}, ValueError, "one per axis of 3"),
        ({"spacing": -1.0}, ValueError, "positive"),
        ({"prediction": PREDICTION[:2]}, CaseError, "has shape"),
        ({"prediction": PREDICTION * 0.5}, TypeError, "integers or bools"),
    ],
    ids=str,
)
def test_wrong_calls(change, error, words):
    given = {"prediction": PREDICTION, "labels": LABELS, "num_classes": 4} | change
    with pytest.raises(error, match=words):
        evaluate_case(given.pop("prediction"), given.pop("labels"), **given)
