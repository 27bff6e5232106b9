"""Which files are paired, what is scored, and what is said of files before any number."""

import contextlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxseg
from jaxseg.evaluation import _pairs, _preflight
from jaxseg.evaluation._pairs import find_pairs, groups_of, looks_grouped, match, read_metadata
from jaxseg.evaluation._preflight import (
    Problem,
    header_problems,
    pair_problems,
    resample_labels,
    summarize_problems,
    value_problems,
)
from jaxseg.evaluation._records import CaseError
from jaxseg.evaluation._targets import (
    Targets,
    map_ids,
    read_map,
    read_targets,
    reduce_zero_label,
)

SUFFIXES = (".png", ".npy", ".npz", ".tif", ".nii.gz", ".nrrd", ".zarr")


def readable(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def make(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder.mkdir(exist_ok=True)
    return folder


def pair(tmp_path: Path, predictions: str, labels: str, **options) -> _pairs.Pairs:
    """Pairs of two folders of files, whose names are separated by spaces."""
    folders = make(tmp_path / "p", *predictions.split()), make(tmp_path / "l", *labels.split())
    return find_pairs(*folders, readable=readable, **options)


def cases(pairs: _pairs.Pairs) -> list[str]:
    return [p.case for p in pairs.pairs]


# -------------------------------------------------------------------------------------- find_pairs


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a.png", "a"),
        ("a.1.png", "a.1"),
        ("a.nii.gz", "a"),
        ("A.NII.GZ", "A"),
        ("b/a.ome.tif", "b/a"),
        ("a.ome.tiff", "a"),
        ("a.ome.zarr", "a"),
        ("a.seg.nrrd", "a"),
        ("a.b.nrrd", "a.b"),
        ("b.c/a", "b.c/a"),
        ("b.c/.png", "b.c/.png"),
    ],
)
def test_a_suffix_of_two_parts_is_one(path, stem):
    assert _pairs.stem(path) == stem


def test_paths_in_folders_are_the_cases(tmp_path):
    found = pair(tmp_path, "x/b.npy a.png c.png", "x/b.nii.gz a.png d.png a.txt")
    assert cases(found) == ["a", "x/b"]
    assert found.pairs[1] == ("x/b", tmp_path / "p/x/b.npy", tmp_path / "l/x/b.nii.gz")
    assert found.missing == [tmp_path / "l/d.png"] and found.missing_cases == ["d"]
    assert found.extra == [tmp_path / "p/c.png"]
    assert found.notes == []


@pytest.mark.parametrize(
    ("predictions", "labels", "names", "said"),
    [
        ("case_1_pred.png case_2_pred.png", "case_1_gt.png case_2_gt.png", "case_1 case_2", "_gt"),
        ("p_001.png p_002.png", "m_001.png m_002.png m_010.png", "001 002", "'p_' at the start"),
        ("a.png b.png", "a_mask.npy b_mask.npy", "a b", "'_mask' at the end of labels"),
        ("a_0000.nii.gz b_0000.nii.gz", "a.nii.gz b.nii.gz", "a b", "_0000"),
        ("a_0000.nii.gz b.nii.gz c_0000.nii.gz", "a.nii.gz b.nii.gz c.nii.gz", "a b c", "_0000"),
        ("x/1/pred.png x/2/pred.png", "1/seg.png 2/seg.png 13/seg.png", "1 2", "x/"),
        ("1.png 2.png", "u/1.png v/2.png", "1 2", "without their folders"),
        ("1_p.png 2_p.png", "u/1.png v/2.png", "1 2", "without their folders"),
        ("case1_v2.png", "case1.png", "case1", "'_v2'"),
        ("pred_7.png", "gt_7.png gt_8.png", "7", "'gt_'"),
        ("p5_s1.png p5_s2.png", "p5_s1_m.png p5_s2_m.png p6_s1_m.png", "p5_s1 p5_s2", "_m"),
    ],
)  # fmt: skip
def test_names_that_share_a_part_are_paired_and_it_is_said(
    tmp_path, predictions, labels, names, said
):
    found = pair(tmp_path, predictions, labels)
    assert cases(found) == names.split()
    assert len(found.notes) == 1 and said in found.notes[0]
    for one in found.pairs:
        assert one.case in str(one.prediction) and one.case in str(one.labels)


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ("a.png b.png", "c.png d.png"),
        ("p1.png p2.png", "p10.png p20.png"),  # 1 and 2 are no part of 10 and 20
        ("cat.png cot.png", "mat.png mot.png"),
        ("a.png", "b.png"),
        ("a1.png", "a12.png"),
    ],
)
def test_names_of_nothing_in_common_are_an_error_that_shows_a_pattern(
    tmp_path, predictions, labels
):
    with pytest.raises(ValueError, match=r"No prediction has the name .*--pair.*_pred\.png="):
        pair(tmp_path, predictions, labels)


def test_most_names_alike_are_paired_as_they_are(tmp_path):
    found = pair(tmp_path, "a.png b.png c_0000.png", "a.png b.png c.png")
    assert cases(found) == ["a", "b"] and found.missing_cases == ["c"]


def test_cityscapes(tmp_path):
    frames = ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"]
    kinds = ("labelIds.png", "instanceIds.png", "color.png", "labelTrainIds.png", "polygons.json")
    labels = " ".join(f"{f.split('_')[0]}/{f}_gtFine_{kind}" for f in frames for kind in kinds)
    for end in ("_leftImg8bit.png", ".png", "_gtFine_labelIds.png"):
        found = pair(tmp_path / end, " ".join(f + end for f in frames), labels)
        assert cases(found) == frames and not found.missing and not found.extra
        assert all(p.labels.name.endswith("_gtFine_labelIds.png") for p in found.pairs)
        assert "Cityscapes" in found.notes[0]
    pattern = "{city}_{seq}_{frame}_leftImg8bit*={city}_{seq}_{frame}_gtFine_labelIds"
    predictions = " ".join(f"{f}_leftImg8bit_x.png" for f in frames)
    assert cases(pair(tmp_path / "pattern", predictions, labels, pair=pattern)) == frames
    pattern = "{city}_{seq}_{frame}*={city}_{seq}_{frame}_gtFine_labelTrainIds.png"
    found = pair(tmp_path / "pattern", predictions, labels, pair=pattern)
    assert cases(found) == frames
    assert found.notes == ["9 files of labels do not have the pattern "
                           "'{city}_{seq}_{frame}_gtFine_labelTrainIds.png'."]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "predictions", "labels", "names"),
    [
        ("{case}_pred.png={case}_gt.png", "my_1_pred.png", "my_1_gt.png my_1.png", "my_1"),
        (("{case}=a", "{case}=b"), "x=a.png", "x=b.png", "x"),
        ("{case}.nii.gz", "a.nii.gz a.npz", "a.nii.gz", "a"),
        ("{c}/{c}-out.npy={c}/{c}-seg.png", "a/a-out.npy a/b-out.npy", "a/a-seg.png", "a"),
        ("{a}/pred={b}_{a}", "1/pred.png", "x_1.png", None),
        ("*_{n}_*=lab-{n}", "a_1_b.png a_2_c.png", "lab-1.png q/lab-2.png", "1 2"),
        ("{b}_{a}={a}_{b}", "1_2.png", "2_1.png", "1_2"),
    ],
)
def test_patterns(tmp_path, pattern, predictions, labels, names):
    if names is None:
        with pytest.raises(ValueError, match="same fields"):
            pair(tmp_path, predictions, labels, pair=pattern)
        return
    assert cases(pair(tmp_path, predictions, labels, pair=pattern)) == names.split()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{a}=b={a}", "tuple of two patterns"),
        ("*.png", "must have names of fields"),
        ("{a}_{0}", "must have names of fields"),
        ("{a}{b}", "something between"),
        ("{a}_x", r"No file of the predictions has the pattern '\{a\}_x'.* such as a.png"),
        ("{a}=c{a}", "No file of the labels"),
        ("{a}.png={a}x.png", "make no pair"),
    ],
)
def test_patterns_that_cannot_be_used(tmp_path, pattern, message):
    with pytest.raises(ValueError, match=message):
        pair(tmp_path, "a.png", "ax.png" if "x.png" not in pattern else "bx.png", pair=pattern)


def test_two_files_of_one_case_are_both_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"case 'a': a\.nii\.gz and a\.npz.*'{case}\.nii\.gz={case}"
    ):
        pair(tmp_path, "a.nii.gz a.npz", "a.nii.gz")
    with pytest.raises(
        ValueError, match=r"labels are of the case '1': u/1_gt\.png and v/1_gt\.png"
    ):
        pair(tmp_path / "x", "1.png", "u/1_gt.png v/1_gt.png", pair="{case}={case}_gt")
    with pytest.raises(ValueError, match="case 'é'"):  # as macOS and Linux write it
        pair(tmp_path / "y", "\u00e9.png e\u0301.png", "a.png")


def test_accents_written_in_two_ways_are_the_same(tmp_path):
    assert cases(pair(tmp_path, "\u00e9.png", "e\u0301.png")) == ["\u00e9"]


def test_hidden_files_are_left_out(tmp_path):
    found = pair(tmp_path, "._a.png a.png .DS_Store .git/b.png", "a.png .ipynb_checkpoints/a.png")
    assert cases(found) == ["a"] and not found.extra and not found.missing


def test_a_zarr_folder_is_one_file(tmp_path):
    found = pair(tmp_path, "a.ome.zarr/0/c/0.npy", "a.ome.zarr/0/c/0.npy")
    assert found.pairs == [("a", tmp_path / "p/a.ome.zarr", tmp_path / "l/a.ome.zarr")]
    found = find_pairs(found.pairs[0][1], found.pairs[0][2], readable=readable)
    assert cases(found) == ["a"]


def test_names_that_are_no_unicode(tmp_path):
    found = pair(tmp_path, "a\udcff.png", "a\udcff.png")
    assert cases(found) == ["a\\xff"] and found.pairs[0].labels.exists()


def test_links_stay_in_their_folder(tmp_path):
    make(tmp_path / "out", "b.png")
    folder = make(tmp_path / "p", "a.png", "x/c.png")
    labels = make(tmp_path / "l", "a.png", "b.png", "x/c.png")
    (folder / "b.png").symlink_to("a.png")
    (folder / "y").symlink_to("x")
    assert cases(find_pairs(folder, labels, readable=readable)) == ["a", "b", "x/c"]
    for target in ("../out/b.png", "../out"):
        (folder / "d.png").unlink(missing_ok=True)
        (folder / "d.png").symlink_to(target)
        with pytest.raises(ValueError, match=r"d\.png is a link that leads out.*/out.*cp -rL"):
            find_pairs(folder, labels, readable=readable)
    (folder / "d.png").unlink()
    (tmp_path / "p2").symlink_to("p")
    assert len(find_pairs(tmp_path / "p2", labels, readable=readable).pairs) == 3
    (folder / "loop").symlink_to("loop")
    assert len(find_pairs(folder, labels, readable=readable).pairs) == 3


def test_no_case_leads_upwards(tmp_path):
    with pytest.raises(ValueError, match=r"cannot have the name '\.\.'"):
        pair(tmp_path, "x...png", "x...png", pair="x{case}.png")


def test_folders_that_cannot_be_used(tmp_path):
    full = make(tmp_path / "full", "a.png", "labels/a.png")
    with pytest.raises(ValueError, match=r"folder of predictions, .*no, does not exist"):
        find_pairs(tmp_path / "no", full, readable=readable)
    with pytest.raises(ValueError, match=r"among the labels in .*empty. Check the path"):
        find_pairs(full, make(tmp_path / "e"), readable=readable)
    with pytest.raises(ValueError, match=r"1 of \.mha.* Convert"):
        find_pairs(make(tmp_path / "mha", "a.mha"), full, readable=readable)
    with pytest.raises(ValueError, match=r"same folder.*--pair"):
        find_pairs(full, full, readable=readable)
    found = find_pairs(full, full / "labels", readable=readable)  # one in the other
    assert cases(found) == ["a"] and not found.extra
    both = make(tmp_path / "both", "a_p.png", "a_g.png")
    assert cases(find_pairs(both, both, pair="{c}_p={c}_g", readable=readable)) == ["a"]


def test_lists_are_paired_in_their_order(tmp_path):
    make(tmp_path, "z.png", "y.png", "1/seg.png", "2/seg.png", "a.png", "b.png")
    one = [tmp_path / "z.png", str(tmp_path / "y.png"), tmp_path / "none.png"]
    two = [tmp_path / "b.png", tmp_path / "a.png", tmp_path / "z.png"]
    found = find_pairs(one, two, readable=readable)
    assert [(p.case, p.prediction.name) for p in found.pairs] == [("a", "y.png"), ("b", "z.png")]
    assert found.missing_cases == ["z"]
    two = [tmp_path / "2/seg.png", tmp_path / "1/seg.png"]
    assert cases(find_pairs(one[:2], two, readable=readable)) == ["1/seg", "2/seg"]
    assert cases(find_pairs(one[0], two[0], readable=readable)) == ["seg"]
    with pytest.raises(ValueError, match="same length"):
        find_pairs(one, two, readable=readable)
    with pytest.raises(ValueError, match="Two labels are of the case 'seg'"):
        find_pairs(one[:2], [two[0], two[0]], readable=readable)
    with pytest.raises(ValueError, match="two folders or two lists"):
        find_pairs(one, tmp_path, readable=readable)
    with pytest.raises(ValueError, match="leave pair out"):
        find_pairs(one, one, pair="{case}", readable=readable)


names = st.text("ab12_-.", min_size=1, max_size=8).filter(lambda n: not n.startswith("."))
files = st.sets(names, min_size=1, max_size=8).map(lambda s: sorted(n + ".png" for n in s))


@given(files, files)
@settings(max_examples=150, deadline=None)
def test_each_file_is_in_one_pair_or_in_none(predictions, labels):
    stems = [{_pairs.stem(file) for file in side} for side in (predictions, labels)]
    try:
        found = match(predictions, labels)
    except ValueError:
        assert not stems[0] & stems[1]
        return
    assert sorted(found.predictions.values()) == predictions
    assert sorted(found.labels.values()) == labels
    if not found.notes:
        assert all(_pairs.stem(file) == case for case, file in found.predictions.items())


@given(
    st.sets(st.integers(0, 300), min_size=2, max_size=12),
    st.sets(st.integers(0, 300), max_size=5),
    st.tuples(*[st.sampled_from(["", "pred_", "gt-", "x/", "case_7_"])] * 2),
    st.tuples(*[st.sampled_from(["", "_pred", "-gt", "/seg", "_v2"])] * 2),
    st.sampled_from(["{:03}", "{}", "c{:03}", "s{}_t"]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_around_a_case_is_found(numbers, more, starts, stops, name):
    keys = sorted(name.format(n) for n in numbers)
    others = sorted(name.format(n) for n in numbers | more)
    found = match(
        [f"{starts[0]}{key}{stops[0]}.png" for key in keys],
        [f"{starts[1]}{key}{stops[1]}.nii.gz" for key in others],
    )
    both = found.predictions.keys() & found.labels.keys()
    assert len(both) == len(keys)
    for case in both:
        numbers = [re.findall(r"\d+", f[len(a) :])[0] for f, a in
                   zip((found.predictions[case], found.labels[case]), starts)]  # fmt: skip
        assert numbers[0] == numbers[1]


fields = st.text("ab1", min_size=1, max_size=4)


@given(st.tuples(fields, fields, fields), st.sampled_from("_-. ("), st.sampled_from("_-/+"))
@settings(max_examples=60, deadline=None)
def test_a_pattern_finds_the_parts_that_a_name_is_made_of(parts, one, two):
    pattern = _pairs.template(f"x{{a}}{one}{{b}}{two}{{c}}*")
    name = f"x{parts[0]}{one}{parts[1]}{two}{parts[2]}"
    for end in ("", "_left", ".png", "-8bit(1)"):
        found = pattern.fullmatch(name + end)
        assert found.group("a", "b", "c") == parts
    assert not pattern.fullmatch("y" + name[1:])


# ---------------------------------------------------------------------------- groups and metadata


@pytest.mark.parametrize(
    ("group", "groups"),
    [
        (r"Patient-\d+", ["Patient-012", "Patient-012", "Patient-7"]),
        (r"Patient-(\d+)", ["012", "012", "7"]),
        (r"(?P<x>P)atient-(?P<group>\d+)", ["012", "012", "7"]),
        ("{group}_{rest}", ["Patient-012", "Patient-012", "Patient-7"]),
        ("{word}-{group}_*", ["012", "012", "7"]),
        (r"^.{9}", ["Patient-0", "Patient-0", "Patient-7"]),
    ],
)
def test_groups_of_a_pattern(group, groups):
    given_cases = ["Patient-012_week-3", "Patient-012_week-4", "Patient-7_week-3"]
    assert list(groups_of(given_cases, group).values()) == groups


def test_groups_of_folders_and_files(tmp_path):
    assert groups_of(["a/1", "b/2"], "{group}/{x}") == {"a/1": "a", "b/2": "b"}
    file = tmp_path / "t.csv"
    file.write_text("patient,case,site\nP1,a.nii.gz,x\nP2,b,x\n")
    assert groups_of(["f/a", "b"], f"{file}:patient") == {"f/a": "P1", "b": "P2"}
    with pytest.raises(ValueError, match=r"no group of 1 of 2 cases, such as 'c'\. Add it"):
        groups_of(["a", "c"], f"{file}:patient")
    with pytest.raises(ValueError, match="no column 'sex', but patient, site"):
        groups_of(["a"], f"{file}:sex")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("(", "no regular expression"),
        ("{a}_b", r"\{group\}"),
        (r"{group}_\d{3}", "no other braces"),
        ("z", "finds no group of 1 of 1"),
    ],
)
def test_groups_that_cannot_be_used(group, message):
    with pytest.raises(ValueError, match=message):
        groups_of(["a_b"], group)


def test_metadata(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes("\ufeffCase;site;age\na.1.png; Ä ;3\n\nv1.5;x;4\n".encode())
    row = {"site": "Ä", "age": "3"}
    table = read_metadata(file)
    assert table == {"a.1.png": row, "a.1": row, "v1.5": {"site": "x", "age": "4"}}
    assert _pairs.row_of_case(table, "f/a.1") == row and _pairs.row_of_case(table, "b") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have a row of names"),
        (b"case\na\n", "at least two columns"),
        (b"case,x,x\na,1,2\n", "column 'x' twice"),
        (b"case,x\na,1\na,2\n", "case 'a' twice"),
        (b"case,x\na,1\nb\n", "Line 3 .* must have 2 values, got 1"),
        (b"case,x\n\xff\xfe,1\n", "UTF-8"),
        (b"case,x\na,\x00\n", None),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path, content, message):
    file = tmp_path / "t.csv"
    file.write_bytes(content)
    if message is None:
        assert read_metadata(file)["a"]["x"] in ("\x00", "")
        return
    with pytest.raises(ValueError, match=message):
        read_metadata(file)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_metadata(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("pattern", "numbers", "number_of_groups"),
    [
        ("Patient-{:03}_week-{}", [(i, j) for i in range(30) for j in range(i % 4 + 1)], 30),
        ("BraTS-GLI-{:05}-10{}", [(i, j) for i in range(50) for j in range(1 + (i % 3 == 0))], 50),
        ("sub-{:02}/ses-{:02}_seg", [(i, j) for i in range(5) for j in range(3)], 5),
        ("p{:02}v{}", [(i, j) for i in range(9) for j in range(2)], 9),
        ("pat{}_slice{:03}", [(i, j) for i in range(4) for j in range(60)], 4),
    ],
)
def test_names_that_look_grouped(pattern, numbers, number_of_groups):
    given_cases = [pattern.format(*n) for n in numbers]
    said = looks_grouped(given_cases)
    assert f"{number_of_groups} groups of {len(numbers)} cases" in said
    group = re.search(r"such as '(.*)'\.$", said).group(1)
    found = groups_of(given_cases, group)
    assert {(n[0], found[c]) for n, c in zip(numbers, given_cases, strict=True)} == {
        (n[0], found[c]) for n, c in {n[0]: (n, pattern.format(*n)) for n in numbers}.values()
    }
    assert len(set(found.values())) == number_of_groups


@pytest.mark.parametrize(
    "given_cases",
    [
        [],
        ["a"],
        [f"case_{i:03}" for i in range(100)],
        [f"liver_{i}" for i in range(100)],
        [f"ADE_val_{i:08}" for i in range(100)],
        [f"{2007 + i % 5}_{7919 * i % 10000:06}" for i in range(300)],  # VOC's year and number
        [f"{7919 * i * i % 2**32:08x}" for i in range(1, 300)],
        [f"{i}_seg" for i in range(50)],
        ["cat", "dog", "house"],
        [f"Patient-{i:03}_week-3" for i in range(50)],
    ],
)
def test_names_that_do_not_look_grouped(given_cases):
    assert looks_grouped(given_cases) is None


def test_names_of_kinds_of_visits_look_grouped():
    given_cases = [f"P-{i:02}_{visit}" for i in range(9) for visit in ("baseline", "follow-up")]
    said = looks_grouped(given_cases)
    assert "9 groups of 18 cases" in said
    assert len(set(groups_of(given_cases, re.search(r"'(.*)'\.$", said).group(1)).values())) == 9


# ----------------------------------------------------------------------------------------- targets


def shown(targets: Targets) -> str:
    return " ".join(f"{t.name}={'+'.join(map(str, t.ids))}" for t in targets.targets)


@pytest.mark.parametrize(
    ("options", "expected", "num_ids"),
    [
        ({"num_classes": 3}, "0=0 1=1 2=2", 3),
        ({"num_classes": 1}, "1=1", 2),
        ({"num_classes": 3, "ignore": 0}, "1=1 2=2", 3),
        ({"num_classes": 1, "names": "lesion", "ignore": 255}, "lesion=1", 2),
        ({"num_classes": 2, "names": "a, b"}, "a=0 b=1", 2),
        ({"classes": "1,3"}, "1=1 3=3", 4),
        ({"classes": [2], "names": ["z"]}, "z=2", 3),
        ({"classes": "2,1", "names": "b,a"}, "b=2 a=1", 3),
        ({"classes": "2,1", "names": "x,y,z"}, "z=2 y=1", 3),
        ({"names": "a,b,c"}, "a=0 b=1 c=2", 3),
        ({"names": "a,b,c", "ignore": 2}, "a=0 b=1", 2),
        ({"regions": ["wt=1,2,3", "et = 3"]}, "wt=1+2+3 et=3", 4),
        ({"regions": "wt=1,2", "classes": "1"}, "1=1 wt=1+2", 3),
        ({"regions": {"a": [1, 9]}, "ignore": 5}, "a=1+9", 10),
    ],
)
def test_targets_of_options(options, expected, num_ids):
    targets = read_targets(**options)
    assert shown(targets) == expected
    assert (targets.num_ids, targets.ignore) == (num_ids, options.get("ignore"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Say which classes there are: .*--num-classes 19"),
        ({"num_classes": 0}, "at least 1"),
        ({"num_classes": 2, "classes": "1"}, "one of them"),
        ({"classes": "1,x"}, "'x' in '1,x'"),
        ({"classes": "1,-2"}, "'-2'"),
        ({"classes": "1,1"}, "id 1 twice"),
        ({"classes": ""}, "must be ids"),
        ({"classes": []}, "at least one id"),
        ({"classes": "1,2", "ignore": 2}, r"id 2 is ignored .* '2' has it"),
        ({"regions": ["a=1,2"], "ignore": 2}, "'a' has it"),
        ({"regions": ["a"]}, r"such as wt=1,2,3; got 'a'"),
        ({"regions": ["a=1", "a=2"]}, "name 'a'"),
        ({"num_classes": 3, "names": "a,b"}, r"the 3 classes .* got 2: a, b"),
        ({"classes": "5,6", "names": "a,b,c"}, "all ids from 0 to 6"),
        ({"names": "a,,b"}, r"name 2 of names \(--names\) is empty"),
        ({"names": "no.txt"}, "no.txt cannot be read"),
        ({"names": "a,b", "num_classes": 2, "ignore": 1, "regions": ["a=0"]}, "name 'a'"),
        ({"num_classes": 1, "ignore": 1}, "No class is left"),
    ],
)
def test_targets_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        read_targets(**options)


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("road\ncar\n\n", {}, "road=0 car=1"),
        ("road\ncar, big\n", {}, None),
        ("id,name\n7,road\n26,car\n255,void\n", {"ignore": 255}, "road=7 car=26"),
        ("7;road\n26;car\n", {"classes": "26"}, "car=26"),
        ("7,road\n7,car\n", {}, None),
        ("7,road\n", {"classes": "8"}, None),
        ("7,road\n", {"num_classes": 3}, None),
        ("", {}, None),
    ],
)
def test_names_of_files(tmp_path, content, options, expected):
    file = tmp_path / "names.txt"
    file.write_text(content)
    if expected is None:
        with pytest.raises(ValueError, match="names"):
            read_targets(names=file, **options)
        return
    assert shown(read_targets(names=str(file), **options)) == expected


@pytest.mark.parametrize(
    ("labels", "expected", "ignore", "num_ids"),
    [
        ({"background": 0, "b": 2, "a": 1}, "a=1 b=2", None, 3),
        ({"background": 0, "a": 1, "ignore": 2}, "a=1", 2, 2),
        ({"0": "background", "1": "liver"}, "liver=1", None, 2),
        ({"background": 0, "a": 1, "b": [2]}, "a=1 b=2", None, 3),
        (
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "et": 3, "ignore": 4},
            "whole=1+2+3 core=2+3 et=3",
            4,
            4,
        ),
    ],
)
def test_targets_of_nnunet(tmp_path, labels, expected, ignore, num_ids):
    folder = make(tmp_path / "Dataset1/labelsTr", "a.png")
    file = tmp_path / "Dataset1/dataset.json"
    file.write_text(json.dumps({"labels": labels}))
    for place in (folder, folder.parent, make(folder / "fold", "b.png")):
        targets = read_targets(folders=[place])
        assert (shown(targets), targets.ignore, targets.num_ids) == (expected, ignore, num_ids)
        assert str(file) in targets.note
    assert shown(read_targets(classes="1", folders=[folder])) == "1=1"
    (folder / "dataset.json").write_text('{"labels": "other"}')  # another program's
    assert shown(read_targets(folders=[folder])) == expected
    for content, message in (("{", "no JSON"), ('{"labels": {"a": "x"}}', "label 'a' of")):
        (folder / "dataset.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_targets(folders=[folder])


@pytest.mark.parametrize(
    ("name", "content", "ids", "colours"),
    [
        ("m.csv", "id,trainId\n7,0\n8,1\n", {7: 0, 8: 1}, {}),
        ("m.csv", "r,g,b,id\n128,64,128,0\n#ff0000, 3\n", {}, {(128, 64, 128): 0, (255, 0, 0): 3}),
        ("m.csv", '"128,64,128",0\n7,1\n', {7: 1}, {(128, 64, 128): 0}),
        ("m.tsv", "7\x090\n", {7: 0}, {}),
        ("m.json", '{"7": 0, "#804080": 1, "(0, 9, 9)": 2}', {7: 0},
         {(128, 64, 128): 1, (0, 9, 9): 2}),
        ("m.json", "[[7, 0], [[128, 64, 128], 0]]", {7: 0}, {(128, 64, 128): 0}),
        ("m.csv", "7,0\n7,1\n", "a second id", None),
        ("m.json", '{"7": 0, "7": 1}', "'7' is there twice", None),
        ("m.csv", "7,-1\n", "Line 1 .* got '7' and '-1'", None),
        ("m.csv", "1,2,300,4\n", "Line 1", None),
        ("m.csv", "7,0,1\n", "Line 1", None),
        ("m.json", '{"7": true}', "The entry '7'", None),
        ("m.json", "[" * 100_000, "no JSON", None),
        ("m.json", "7", "must be an object", None),
        ("m.csv", "a,b\n", "has no row", None),
    ],
)  # fmt: skip
def test_maps_of_ids_and_colours(tmp_path, name, content, ids, colours):
    file = tmp_path / name
    file.write_text(content)
    if isinstance(ids, str):
        with pytest.raises(ValueError, match=ids):
            read_map(file)
        return
    assert read_map(file) == (ids, colours)


@given(
    st.one_of(st.binary(max_size=40), st.text('0,9#a;\t\n"[]{}:-', max_size=40).map(str.encode)),
    st.sampled_from(["x.csv", "x.json", "x.txt"]),
)
@settings(max_examples=200, deadline=None)
def test_files_of_any_bytes_are_read_or_refused(tmp_path_factory, content, name):
    file = tmp_path_factory.mktemp("bytes") / name
    file.write_bytes(content)
    for read in (read_map, read_metadata, lambda f: read_targets(names=f)):
        with contextlib.suppress(ValueError):
            assert read(file)
    with contextlib.suppress(ValueError):
        _of_dataset_of(file, content)


def _of_dataset_of(file: Path, content: bytes) -> None:
    (file.parent / "dataset.json").write_bytes(b'{"labels": ' + content + b"}")
    read_targets(folders=[file.parent])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.int64])
def test_ids_are_mapped(dtype):
    ids = np.array([[7, 7], [0, 8]], dtype)
    new = {7: 0, 8: 1, 0: 255, 10**6: 3}
    mapped = map_ids(ids, new)
    assert mapped.tolist() == [[0, 0], [255, 1]] and mapped.dtype == np.uint8
    if dtype != np.uint8:
        assert map_ids(np.where(ids == 8, dtype(10**6), ids), new).tolist() == [[0, 0], [255, 3]]
    with pytest.raises(CaseError, match=r"m.csv has no row for 8, which 1 of 4 pixels .*8,255"):
        map_ids(ids, {7: 0, 0: 255}, file="m.csv")
    assert map_ids(ids, {}) is ids
    assert map_ids(np.array([255, 0], np.uint8).view(bool), {0: 5, 1: 6}).tolist() == [6, 5]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.int8])
def test_ade20k(dtype):
    ids = np.array([0, 1, 100], dtype)
    assert reduce_zero_label(ids).tolist() == [255, 0, 99]
    assert reduce_zero_label(ids, ignore=100).tolist() == [100, 0, 100]
    if dtype != np.int8:
        assert reduce_zero_label(np.array([255], dtype)).tolist() == [255]
    assert reduce_zero_label(ids > 0).tolist() == [255, 0, 0]


# ----------------------------------------------------------------------------------------- headers


class Header(NamedTuple):
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    dtype: np.dtype = np.dtype(np.uint8)


def problems_of(prediction: Header, labels: Header, **options) -> list[Problem]:
    headers = {"p": prediction, "l": labels}
    pairs = [_pairs.Pair("a", Path("p"), Path("l"))]
    return header_problems(pairs, lambda path: headers[path.name], **options)


def moved(*shift: float, turn: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    affine = np.diag([*turn, 1.0])
    affine[: len(shift), 3] = shift
    return affine


@pytest.mark.parametrize(
    ("prediction", "labels", "kind", "message"),
    [
        (Header((4, 5)), Header((4, 5)), None, ""),
        (Header((4, 5)), Header((5, 4)), "shape", r"transpose\(prediction, \(1, 0\)\)"),
        (Header((3, 4, 5)), Header((5, 4, 3)), "shape", r"\(2, 1, 0\)\).*SimpleITK"),
        (Header((3, 4, 5)), Header((3, 5, 4)), "shape", r"\(0, 2, 1\)"),
        (Header((4, 5, 1)), Header((4, 5)), "shape", "np.squeeze"),
        (Header((4, 5)), Header((8, 10)), "shape", "Resize the prediction"),
        (Header((4, 5), (2, 2)), Header((8, 10), (1, 1)), "shape", "--resample label"),
        (Header((4, 5, 3), dtype=np.dtype("f4")), Header((4, 5)), None, ""),
        (Header((4, 5, 3)), Header((4, 5)), "shape", "Resize"),
        (Header((4, 5), (1, 2)), Header((4, 5), (1, 2.0001)), None, ""),
        (Header((4, 5), (1, 2)), Header((4, 5), (1, 2.1)), "spacing", r"\(1, 2\).*\(1, 2.1\);"),
        (Header((4, 5), (1, 2)), Header((4, 5), (2, 1)), "spacing", "the same in another order"),
        (Header((4, 5)), Header((4, 5), (2, 1)), "spacing", "prediction has none"),
        (Header((4, 5), (2, 1)), Header((4, 5)), "spacing", "labels have none.*--spacing"),
    ],
)  # fmt: skip
def test_headers_that_differ(prediction, labels, kind, message):
    found = problems_of(prediction, labels)
    if kind is None:
        assert not found
        return
    (problem,) = found
    assert problem.kind == kind and problem.is_error == (kind == "shape")
    assert re.search(message, problem.message)


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (moved(500.00002), moved(500), None),
        (moved(0, 0.0009), moved(), None),
        (moved(0, 0.002), moved(), r"up to 0.002 mm, in row 1 and column 3, .* is 1 mm"),
        (moved(0.002, turn=(5, 5, 5)), moved(turn=(5, 5, 5)), None),
        (moved(turn=(-1, 1, 1)), moved(), "LAS in the prediction and RAS in the labels"),
        (moved()[[1, 0, 2, 3]], moved(), "ARS"),
        (moved() * 0, moved(), r"\?\?\?"),
    ],
)
def test_affines_that_differ(one, two, message):
    found = problems_of(Header((4, 5, 6), None, one), Header((4, 5, 6), None, two))
    assert len(found) == (message is not None)
    for problem in found:
        assert problem.kind == "affine" and not problem.is_error
        assert re.search(message, problem.message) and "--resample label" in problem.message


def test_headers_to_resample():
    small, large = Header((4, 5), (2, 2)), Header((8, 10), (1, 1))
    assert not problems_of(small, large, resample=True)
    for other in (Header((8, 10)), Header((8, 10), None, moved())):
        (problem,) = problems_of(small, other, resample=True)
        assert problem.kind == "resample" and problem.is_error and "--resample" in problem.message
    (problem,) = problems_of(small, Header((8, 10, 2), (1, 1, 1)), resample=True)
    assert problem.kind == "shape" and problem.is_error


def test_headers_that_cannot_be_read():
    def fail(path: Path) -> Header:
        raise CaseError(f"{path} is cut off: copy it again.")

    found = header_problems([_pairs.Pair("a", Path("p"), Path("l"))], fail)
    assert found == [Problem("a", "unreadable", "p is cut off: copy it again.", True)]


def test_files_without_a_partner(tmp_path):
    found = pair_problems(pair(tmp_path, "a.png x/b.png", "a.png c.png d.png"))
    assert [(p.case, p.kind, p.is_error) for p in found] == [
        ("c", "missing", True), ("d", "missing", True), ("b.png", "extra", False)
    ]  # fmt: skip
    assert all("--missing worst" in p.message and "--pair" in p.message for p in found[:2])


def test_problems_are_summarized():
    problems = [Problem(c, "spacing", f"of {c}.", False) for c in "abcdef"]
    problems.append(Problem("z", "shape", "differs.", True))
    assert summarize_problems(problems) == [
        "z: differs.", "a: of a. So 5 more: b, c, d and others."
    ]  # fmt: skip
    assert summarize_problems([]) == []


# ------------------------------------------------------------------------------------------ values


def ids(*shape: int, num_ids: int = 4, seed: int = 0) -> np.ndarray:
    """Blocks of ids, of four pixels along each axis."""
    blocks = np.random.default_rng(seed).integers(0, num_ids, [n // 4 for n in shape])
    return np.kron(blocks, np.ones([4] * len(shape), int)).astype(np.uint8)


def kinds(prediction: np.ndarray, labels: np.ndarray, num_ids: int = 4, **options) -> list[str]:
    return [problem.kind for problem in value_problems(prediction, labels, num_ids, **options)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_right_ids_have_no_problem(dtype):
    g = ids(16, 32).astype(dtype)
    p = np.roll(g, 1, 0)
    assert kinds(p, g) == []
    g[0, :5] = 77
    assert kinds(p, g, ignore=77) == []
    if dtype in (np.int16, np.int64):
        p[3] = -1
        assert kinds(p, g, ignore=77) == []


@pytest.mark.parametrize(
    ("p", "g", "num_ids", "message"),
    [
        ([0, 1, 1], [0, 255, 255], 2,
         r"labels must hold ids from 0 to 1, but have 255 \(2\), in 2 of 3 pixels. If 255 is the"),
        ([0, 255, 0], [0, 1, 0], 2, r"prediction must .* has 255 \(1\).*write it as 1"),
        ([0, 1, 2], [0, 1, 255], 3, "--ignore 255"),
        ([0, 1, 2], [1, 2, 3], 3, r"subtract 1; .*--reduce-zero-label"),
        ([0, 5, 7], [0, 1, 2], 3, r"5 \(1\), 7 \(1\), in 2 .*--num-classes 8.*--map"),
        ([0, -2, 2], [0, 1, 2], 3, r"-2 \(1\)"),
        ([0, 1, 2], [-1, 1, 2], 3, r"labels .*-1 \(1\), in 1 of 3"),
        (list(range(20)), [0] * 20, 3, "and 9 other ids, in 17 of 20"),
        ([2**40, 0], [0, 0], 3, r"1099511627776 \(1\)"),
    ],
)  # fmt: skip
def test_ids_that_are_no_classes(p, g, num_ids, message):
    (problem,) = value_problems(np.array(p), np.array(g), num_ids, case="x")
    assert problem.case == "x" and problem.kind == "ids" and problem.is_error
    assert re.search(message, problem.message), problem.message


def test_ids_of_ignored_pixels_are_free():
    assert kinds(np.array([9, 1, 0]), np.array([255, 1, 0]), ignore=255) == []
    assert kinds(np.array([255, 1, 0]), np.array([255, 255, 0]), ignore=255) == []
    assert kinds(np.array([0, 9]), np.array([255, 255]), ignore=255) == ["nothing"]
    assert kinds(np.zeros((0, 3), int), np.zeros((0, 3), int)) == ["nothing"]
    assert kinds(np.zeros(3, int), np.zeros(4, int)) == ["shape"]


def test_bools_of_any_bytes_are_masks():
    mask = np.array([0, 255, 255, 0], np.uint8).view(bool)
    assert kinds(mask, mask, 2) == []


@pytest.mark.parametrize(
    ("p", "g", "kind"),
    [
        ([0, 0, 0], [0, 1, 1], "empty"),
        ([-1, -1, -1], [0, 1, 1], "empty"),
        ([1, 1, 1], [0, 1, 1], "constant"),
        ([0, 0, 0], [0, 0, 0], None),
        ([1, 1, 1], [1, 1, 1], None),
    ],
)
def test_predictions_of_one_id(p, g, kind):
    found = value_problems(np.array(p), np.array(g), 2)
    assert [x.kind for x in found] == ([kind] if kind else [])
    assert all("--missing" in x.message and not x.is_error for x in found)


@pytest.mark.parametrize("with_matrix", [False, True])
@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((16, 32), lambda x: np.flip(x, 0), r"flipped along axis 0: .* np.flip\(prediction, 0\)"),
        ((16, 32), lambda x: np.flip(x), r"along axes 0 and 1: .*flip\(prediction, \(0, 1\)"),
        ((32, 32), lambda x: x.T, r"its axes swapped: .*pose\(prediction, \(1, 0\)\)"),
        ((32, 32), np.rot90, "its axes swapped and flipped along axis"),
        ((16, 12, 20), lambda x: np.flip(x, 2), "flipped along axis 2"),
        ((12, 12, 20), lambda x: np.swapaxes(x, 0, 1), r"\(1, 0, 2\)"),
        ((8, 8, 8, 12), lambda x: np.flip(x, 3), "flipped along axis 3"),
        ((900, 1200), lambda x: np.flip(x, 1), "flipped along axis 1"),
    ],
)  # fmt: skip
def test_predictions_in_another_orientation(shape, change, message, with_matrix):
    g = ids(*shape)
    p = change(np.where(ids(*shape, seed=1) == 0, 0, g))
    matrix = None
    if with_matrix:
        matrix = np.zeros((4, 4), int)
        np.add.at(matrix, (g, p), 1)
    (problem,) = value_problems(p, g, 4, matrix=matrix)
    assert problem.kind == "orientation" and not problem.is_error
    assert re.search(message, problem.message), problem.message
    made = re.search("after (.*) the mean Dice", problem.message).group(1).split(", then ")
    for call in made:
        p = eval(call, {"np": np, "prediction": p})
    assert kinds(p, g) == []


def test_poor_predictions_are_in_no_other_orientation():
    assert kinds(ids(32, 32, seed=5), ids(32, 32)) == []
    g = np.where(ids(32, 32) == 0, 255, ids(32, 32))
    assert kinds(np.flip(ids(32, 32), 0), g, ignore=255) == ["orientation"]


@pytest.mark.parametrize("swap", [(0, 1), (1, 3), (2, 3)])
def test_classes_that_look_swapped(swap):
    a, b = swap
    table = np.arange(4)
    table[[a, b]] = b, a
    p = table[ids(32, 32)]
    (problem,) = value_problems(p, ids(32, 32), 4)
    assert problem.kind == "classes" and f"classes {a} and {b} look swapped" in problem.message
    g = np.repeat([1, 2, 3], 4)
    assert kinds(np.where(np.arange(12) % 3 == 0, 1, g), g) == []


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_matrix_is_that_of_the_library(seed):
    rng = np.random.default_rng(seed)
    p, g = rng.integers(-1, 4, (2, 3, 5))
    g = np.maximum(g, 0)
    valid = rng.random((3, 5)) > 0.3
    listed, matrix = _preflight._confusion(p, g, 4, valid)
    assert listed.tolist() == [0, 1, 2, 3]
    expected = jaxseg.confusion_matrix(p, g, num_classes=4, where=valid)
    assert matrix[:, :4].tolist() == expected.tolist()
    assert matrix.sum() == valid.sum()
    far = np.array([0, 500, 7000, 12_000])  # of many ids, those that occur are counted
    far_p, far_g = np.where(p < 0, -1, far[p]), far[g]
    listed, sparse = _preflight._confusion(far_p, far_g, 14_000, valid)
    keep = np.searchsorted(far, listed)
    assert set(listed) == set(far_p[far_p >= 0]) | set(far_g.flat)
    assert sparse.tolist() == matrix[np.ix_(keep, [*keep, 4])].tolist()


# ---------------------------------------------------------------------------------------- resample


def test_resampling_onto_the_own_grid_changes_nothing():
    x = ids(8, 12, 16)
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    affine = moved(3, 4, 5)
    affine[:3, :3] = turned * [1, 2, 5]
    for grid in (affine, (1.0, 2.0, 5.0)):
        np.testing.assert_array_equal(resample_labels(x, grid, x.shape, grid), x)


def test_resampling_by_spacing_keeps_the_field_of_view():
    x = np.array([[1, 2], [3, 4]], np.uint8)
    large = resample_labels(x, (2, 2), (4, 4), (1, 1))
    np.testing.assert_array_equal(large, np.kron(x, np.ones((2, 2), int)))
    assert large.dtype == np.uint8
    np.testing.assert_array_equal(resample_labels(large, (1, 1), (2, 2), (2, 2)), x)
    assert resample_labels(x, (1, 1), (3, 2), (1, 1), fill=9).tolist() == [[1, 2], [3, 4], [9, 9]]
    masks = np.stack([x > 1, x > 3], -1)
    assert resample_labels(masks, (2, 2), (4, 4), (1, 1)).shape == (4, 4, 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_affine_flips_back(axis):
    x = ids(8, 12, 16)
    affine = moved(turn=(-1, -2, 5))
    flipped = affine.copy()
    flipped[:, 3] += affine[:, axis] * (x.shape[axis] - 1)
    flipped[:, axis] *= -1
    np.testing.assert_array_equal(resample_labels(np.flip(x, axis), flipped, x.shape, affine), x)
    order = [1, 2, 0]
    turned = affine[:, [*order, 3]]
    np.testing.assert_array_equal(
        resample_labels(np.transpose(x, order), turned, x.shape, affine), x
    )


def test_resampling_by_affines_is_that_of_nibabel():
    nibabel = pytest.importorskip("nibabel")
    processing = pytest.importorskip("nibabel.processing")
    x = ids(24, 20, 28, num_ids=200).astype(np.int16)
    rng = np.random.default_rng(3)
    for _ in range(3):
        one, two = np.eye(4), np.eye(4)
        one[:3] = np.c_[np.diag([1, 1.3, 2.1]) + 0.2 * rng.random((3, 3)), rng.random(3)]
        two[:3] = np.c_[np.diag([1.1, 1, 1.7]) + 0.1 * rng.random((3, 3)), 3 + rng.random(3)]
        image = nibabel.Nifti1Image(x, one)
        expected = processing.resample_from_to(image, ((15, 16, 17), two), order=0, mode="nearest")
        mine = resample_labels(x, one, (15, 16, 17), two, fill=-1)
        inside = mine >= 0
        assert inside.mean() > 0.5
        np.testing.assert_array_equal(mine[inside], np.asarray(expected.dataobj)[inside])


def test_slices_lie_in_space():
    x = ids(8, 12)
    affine = np.array([[0, 0, 1, 7], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]], float)
    fine = affine.copy()
    fine[:, :2] /= 2
    found = resample_labels(x, affine, (16, 24), fine)
    assert found.shape == (16, 24)
    np.testing.assert_array_equal(found[::2, ::2], x)
    other = fine.copy()
    other[0, 3] = 9  # two slices further
    assert not resample_labels(x + 1, affine, (16, 24), other).any()


@pytest.mark.parametrize(
    ("grid", "reference", "message"),
    [
        ((1, 1), np.eye(4), "two affines"),
        ((1, 0), (1, 1), "must be positive"),
        (np.zeros((4, 4)), np.eye(4), "no inverse"),
        (np.full((4, 4), np.nan), np.eye(4), "no inverse"),
        ((1, 1, 1), (1, 1, 1), "two affines"),
    ],
)
def test_grids_that_cannot_be_resampled(grid, reference, message):
    with pytest.raises(CaseError, match=message):
        resample_labels(np.zeros((4, 4), int), grid, (4, 4), reference)


def test_arrays_of_other_axes_cannot_be_resampled():
    with pytest.raises(CaseError, match="one to three axes"):
        resample_labels(np.zeros(4, int), (1, 1), (4, 4), (1, 1))
