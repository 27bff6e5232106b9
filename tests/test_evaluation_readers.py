"""Label maps of every format are read as they were meant, and files that are wrong are refused."""

import gzip
import io
import json
import os
import pickle
import random
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import jaxseg
from jaxseg.evaluation import _read_volumes, _readers
from jaxseg.evaluation._readers import blocks, common_grid, is_readable, read, read_header
from jaxseg.evaluation._records import CaseError

PIL = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
nibabel = pytest.importorskip("nibabel")

SPACING = (1.0, 2.0, 5.0)
IDS = np.array([[0, 1, 2, 7], [3, 3, 0, 1], [9, 0, 0, 254]], np.uint8)
VOLUME = np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 7


def write_npy(path, array):
    np.save(path, array)


def write_npz(path, array):
    np.savez_compressed(path, labels=array)


def write_tiff(path, array):
    tifffile.imwrite(path, array, photometric="minisblack", compression="zlib")


def write_imagej(path, array):
    tifffile.imwrite(
        path, array, imagej=True, resolution=(1 / 5, 1 / 2),
        metadata={"axes": "ZYX", "spacing": 1.0, "unit": "mm"},
    )  # fmt: skip


def write_ome_tiff(path, array):
    sizes = {f"PhysicalSize{a}": 1e3 * s for a, s in zip("ZYX", SPACING)}
    units = {f"PhysicalSize{a}Unit": "µm" for a in "ZYX"}
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "ZYX", **sizes, **units})


def write_nifti(path, array, spacing=SPACING):
    image = nibabel.Nifti1Image(array, np.diag([*spacing, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_nifti_in_microns(path, array):
    image = nibabel.Nifti2Image(array, np.diag([1e3, 2e3, 5e3, 1.0]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)


def write_nrrd(path, array):
    nrrd = pytest.importorskip("nrrd")
    turned = [[0, 1.0, 0], [-2.0, 0, 0], [0, 0, 5.0]]  # each row has the length of its axis
    header = {"space": "left-posterior-superior", "space directions": turned,
              "space origin": [1, 2, 3], "kinds": ["domain"] * 3}  # fmt: skip
    nrrd.write(str(path), array, header)


def write_dicom(path, array, masks=None, kind="BINARY", omit_empty_frames=False):
    """Slices along the first axis; ``array`` is one segment, ``masks`` are several."""
    highdicom = pytest.importorskip("highdicom")
    import pydicom
    from pydicom.sr.codedict import codes

    study, series, frame = (pydicom.uid.generate_uid() for _ in range(3))
    masks = array[..., None].astype(np.uint8) if masks is None else masks
    source = []
    for z in range(masks.shape[0]):
        s = pydicom.Dataset()
        s.file_meta = pydicom.dataset.FileMetaDataset()
        s.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        s.SOPClassUID, s.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
        s.StudyInstanceUID, s.SeriesInstanceUID, s.FrameOfReferenceUID = study, series, frame
        s.Modality, s.Rows, s.Columns = "CT", *masks.shape[1:3]
        s.PixelSpacing, s.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
        s.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        s.ImagePositionPatient = [10, 20, 30 + z * SPACING[0]]
        s.InstanceNumber, s.SeriesNumber, s.StudyID = z + 1, 1, "1"
        s.PatientID = s.PatientName = s.AccessionNumber = s.StudyDate = s.StudyTime = ""
        s.PatientBirthDate = s.PatientSex = s.ReferringPhysicianName = ""
        source.append(s)
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=i + 1,
            segment_label=f"part {i + 1}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for i in range(masks.shape[-1])
    ]
    highdicom.seg.Segmentation(
        source_images=source, pixel_array=masks, segmentation_type=kind,
        segment_descriptions=segments, series_instance_uid=pydicom.uid.generate_uid(),
        series_number=2, sop_instance_uid=pydicom.uid.generate_uid(), instance_number=1,
        manufacturer="m", manufacturer_model_name="m", software_versions="1",
        device_serial_number="1", omit_empty_frames=omit_empty_frames,
    ).save_as(path)  # fmt: skip


def write_zarr(path, array, version=3, axes="zyx", labels=False):
    zarr = pytest.importorskip("zarr")
    root = group = zarr.open_group(str(path), mode="w", zarr_format=version)
    if labels:
        root.create_group("labels").attrs["labels"] = ["cells"]
        group = root.create_group("labels/cells")
    lead = (1,) * (len(axes) - 3)
    data = group.create_array(
        "0", shape=lead + array.shape, chunks=lead + (4,) * 3, dtype=array.dtype
    )
    data[...] = array.reshape(data.shape)
    types = {"t": "time", "c": "channel"}
    described = [
        {"name": a, "type": types.get(a, "space")} | ({"unit": "micrometer"} if a in "zyx" else {})
        for a in axes
    ]
    scale = [1.0] * len(lead) + [1e3 * s for s in SPACING]
    image = {
        "axes": described,
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [image]}}
        if version == 3
        else {"multiscales": [image]}
    )


WRITERS = {
    "a.npy": write_npy,
    "a.npz": write_npz,
    "a.tif": write_tiff,
    "j.tif": write_imagej,
    "a.ome.tif": write_ome_tiff,
    "a.nii.gz": write_nifti,
    "a.nii": write_nifti_in_microns,
    "a.nrrd": write_nrrd,
    "a.dcm": write_dicom,
    "a.ome.zarr": write_zarr,
    "2.zarr": lambda path, array: write_zarr(path, array, version=2, axes="tczyx", labels=True),
}
WITHOUT_SPACING = ("a.npy", "a.npz", "a.tif")


def said(path, *words, **options):
    """What a reader says of a file that it refuses."""
    with pytest.raises(CaseError) as found:
        read(path, **options)
    message = str(found.value)
    assert str(path) in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("name", WRITERS)
def test_spacing_is_that_of_the_axis_in_millimetres(name, tmp_path):
    cube = np.zeros((8, 9, 10), np.uint8)
    cube[2:5, 2:5, 2:5] = 1
    shifted = [cube, *(np.roll(cube, 1, axis) for axis in range(3))]
    images = []
    for number, array in enumerate(shifted):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / name
        WRITERS[name](path, array)
        images.append(read(path))
        header = read_header(path)
        assert header.shape == cube.shape
        assert (header.spacing, header.unit) == (images[-1].spacing, images[-1].unit)
    masks = [np.asarray(image.array).reshape(cube.shape) != 0 for image in images]
    assert all((mask == (array != 0)).all() for mask, array in zip(masks, shifted))
    for image in images:
        assert image.unit == ("px" if name in WITHOUT_SPACING else "mm")
        assert (image.spacing is None) == (name in WITHOUT_SPACING)
    spacing = images[0].spacing or SPACING
    assert np.allclose(spacing, SPACING, rtol=1e-6)
    distances = [
        jaxseg.hausdorff_distance(jaxseg.surface_distances(mask, masks[0], spacing=spacing))
        for mask in masks[1:]
    ]
    assert np.allclose(distances, SPACING, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in WRITERS if n != "a.dcm"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_ids_are_untouched(name, dtype, tmp_path):
    array = VOLUME.astype(dtype) * (1 if dtype == "uint8" else 300)
    WRITERS[name](tmp_path / name, array)
    image, header = read(tmp_path / name), read_header(tmp_path / name)
    assert image.notes == [] or name == "2.zarr"
    assert image.array.dtype == header.dtype == dtype
    assert np.array_equal(np.asarray(image.array), array)


def test_affines_are_of_one_world(tmp_path):
    write_nrrd(tmp_path / "a.nrrd", VOLUME)
    write_nifti(tmp_path / "a.nii.gz", VOLUME)
    write_dicom(tmp_path / "a.dcm", VOLUME != 0)
    nrrd, nifti, dicom = (read(tmp_path / n) for n in ("a.nrrd", "a.nii.gz", "a.dcm"))
    # Right and forward are the opposite of the axes of DICOM, left and back.
    assert np.allclose(nrrd.affine, [[0, 2, 0, -1], [-1, 0, 0, -2], [0, 0, 5, 3], [0, 0, 0, 1]])
    assert np.allclose(nifti.affine, np.diag([1, 2, 5, 1]))
    columns = np.abs(dicom.affine[:3, :3])
    assert np.allclose(columns, [[0, 0, 5], [0, 2, 0], [1, 0, 0]])
    assert np.allclose(np.abs(dicom.affine[:2, 3]), [10, 20])


# Pictures


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_ids_of_a_palette_are_kept(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    picture = PIL.frombytes("P", (4, 3), (IDS % 8).tobytes())
    picture.putpalette([n * 37 % 256 for n in range(768)])
    picture.save(path)
    assert np.array_equal(read(path).array, IDS % 8)
    assert read(path).notes == []


def test_a_palette_of_0_and_255_is_no_mask(tmp_path):
    array = np.array([[0, 255], [255, 0]], np.uint8)
    picture = PIL.frombytes("P", (2, 2), array.tobytes())
    picture.putpalette([n for i in range(256) for n in (i, 0, 0)])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png").array, array)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    array = IDS.astype(np.uint16) * 250
    PIL.fromarray(array).save(path)
    assert np.array_equal(read(path).array, array)
    assert read_header(path).shape == array.shape


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_1_bit(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    PIL.fromarray(IDS > 1).save(path)
    found = read(path).array
    assert found.dtype == bool and set(found.view(np.uint8).ravel().tolist()) == {0, 1}
    assert np.array_equal(found, IDS > 1)


def test_1_bit_as_tifffile_writes_it(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IDS > 1)
    assert np.array_equal(read(tmp_path / "a.tif").array, IDS > 1)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.npy", "a.npz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_of_0_and_255(name, dtype, tmp_path):
    if name == "a.bmp" and dtype == np.uint16:
        return
    path, top = tmp_path / name, np.iinfo(dtype).max
    array = (IDS > 1).astype(dtype) * top
    if name in ("a.npy", "a.npz"):
        WRITERS[name](path, array)
    else:
        PIL.fromarray(array).save(path)
    image = read(path)
    assert image.array.dtype == bool and np.array_equal(image.array, IDS > 1)
    assert str(top) in image.notes[0]
    kept = read(path, masks=False)  # 255 is the value of pixels that do not count
    assert np.array_equal(kept.array, array) and kept.notes == []


def grey_png(path, samples, bits):
    """A grey PNG of 2 or 4 bits, which Pillow does not write."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    height, width = samples.shape
    strings = np.unpackbits(samples.reshape(height, width, 1), axis=-1)[..., 8 - bits :]
    rows = np.packbits(strings.reshape(height, -1), axis=-1)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + bytes([bits, 0, 0, 0, 0]))
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [2, 4])
def test_samples_of_few_bits_are_ids(bits, tmp_path):
    samples = IDS % 2**bits
    grey_png(tmp_path / "a.png", samples, bits)
    assert np.array_equal(read(tmp_path / "a.png").array, samples)
    assert "ids" in read(tmp_path / "a.png").notes[0]


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "alpha.png"])
def test_colours(name, tmp_path):
    path = tmp_path / name
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 64, 255]], np.uint8)
    ids = IDS % 3
    array = colours[ids]
    if name == "alpha.png":
        array = np.concatenate([array, np.full((3, 4, 1), 255, np.uint8)], axis=-1)
    PIL.fromarray(array).save(path)
    said(path, "(0, 0, 0) in", "(128, 0, 0) in", "(0, 64, 255) in", "--map")
    known = {(0, 64, 255): 5, (0, 0, 0): 0, (128, 0, 0): 300}
    image = read(path, map_colours=known)
    assert np.array_equal(image.array, np.array([0, 300, 5])[ids])
    assert image.notes == ["Colours were mapped to ids."]
    del known[(128, 0, 0)]
    assert "(0, 64, 255)" not in said(path, "(128, 0, 0)", map_colours=known)


def test_the_palette_of_a_photograph_is_cut_short(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    PIL.fromarray(array).save(tmp_path / "a.png")
    message = said(tmp_path / "a.png", "more")
    assert len(message) < 1000


def test_grey_colours_say_so(tmp_path):
    PIL.fromarray(np.repeat(IDS[..., None], 3, axis=-1)).save(tmp_path / "a.png")
    said(tmp_path / "a.png", "grey", "one channel")


def test_colours_of_a_palette_are_mapped_where_all_are_known(tmp_path):
    picture = PIL.frombytes("P", (4, 3), (IDS % 2).tobytes())
    picture.putpalette([9, 9, 9, 200, 0, 0])
    picture.save(tmp_path / "a.png")
    known = {(9, 9, 9): 4, (200, 0, 0): 6}
    assert np.array_equal(read(tmp_path / "a.png", map_colours=known).array, 4 + 2 * (IDS % 2))
    assert np.array_equal(read(tmp_path / "a.png", map_colours={(1, 1, 1): 2}).array, IDS % 2)


def test_pillow_reads_the_compression_that_tifffile_does_not(tmp_path):
    path = tmp_path / "a.tif"
    pages = [PIL.fromarray(part) for part in VOLUME]
    pages[0].save(path, compression="tiff_lzw", save_all=True, append_images=pages[1:])
    assert np.array_equal(read(path).array, VOLUME)


def test_channels_and_times_of_stacks(tmp_path):
    tifffile.imwrite(tmp_path / "c.tif", VOLUME, imagej=True, metadata={"axes": "CYX"})
    said(tmp_path / "c.tif", "3 channels")
    tifffile.imwrite(tmp_path / "t.tif", VOLUME, imagej=True, metadata={"axes": "TYX"})
    image = read(tmp_path / "t.tif")
    assert image.array.shape == VOLUME.shape and "time" in image.notes[0]
    with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
        tiff.write(VOLUME[0], photometric="minisblack")
        tiff.write(IDS, photometric="minisblack")
    said(tmp_path / "s.tif", "2 images")


@pytest.mark.parametrize("unit", ["um", "micron", r"\u00B5m", "pixel", "furlong"])
def test_units_of_imagej(unit, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, VOLUME, imagej=True, resolution=(1 / 5, 1 / 2),
        metadata={"axes": "ZYX", "spacing": 1.0, "unit": unit},
    )  # fmt: skip
    image = read(path)
    factor = 1.0 if unit in ("pixel", "furlong") else 1e-3
    assert np.allclose(image.spacing, factor * np.array(SPACING), rtol=1e-6)
    assert image.unit == ("px" if factor == 1 else "mm")
    assert bool(image.notes) == (factor == 1)


def test_spacing_of_some_axes_of_ome_alone(tmp_path):
    path = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeY": 2.0, "PhysicalSizeX": 5.0}  # in micrometres, where no unit is named
    tifffile.imwrite(path, VOLUME, ome=True, metadata={"axes": "ZYX", **sizes})
    assert read(path).spacing is None and "some axes" in read(path).notes[0]
    tifffile.imwrite(path, IDS, ome=True, metadata={"axes": "YX", **sizes})
    assert np.allclose(read(path).spacing, (2e-3, 5e-3)) and read(path).unit == "mm"


# Arrays


def softmax(logits):
    parts = np.exp(logits)
    return parts / parts.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_are_read_by_argmax(name, dtype, tmp_path):
    path = tmp_path / name
    logits = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(dtype)
    for scores, kind in ((logits, "Logits"), (softmax(logits), "Probabilities")):
        WRITERS[name](path, scores)
        image = read(path)
        assert np.array_equal(image.array, scores.argmax(-1))
        assert len(image.notes) == 1 and kind in image.notes[0] and "argmax" in image.notes[0]
        assert read_header(path).shape == (4, 5)


def test_scores_of_one_class_are_cut(tmp_path):
    path = tmp_path / "a.npy"
    for scores, least in (([0.2, 0.5, 0.9], 0.5), ([-1.5, 0.0, 0.3], 0.0)):
        write_npy(path, np.tile(np.array(scores, np.float32), (2, 1))[..., None])
        image = read(path)
        assert image.array.tolist() == [[False, True, True]] * 2
        assert str(least) in image.notes[0]


def test_one_hot_floats_and_whole_floats(tmp_path):
    path = tmp_path / "a.npy"
    write_npy(path, np.eye(3)[IDS % 3])
    assert np.array_equal(read(path).array, IDS % 3)
    for array in (IDS, VOLUME):
        write_npy(path, array.astype(float))
        image = read(path)
        assert np.array_equal(image.array, array) and image.array.dtype.kind == "i"
        assert "Whole" in image.notes[0] and read_header(path).shape == array.shape


def test_scores_that_need_a_word(tmp_path):
    path = tmp_path / "a.npy"
    probs = softmax(np.random.default_rng(0).normal(size=(4, 5, 3)))
    write_npy(path, np.moveaxis(probs, -1, 0))
    said(path, "classes first", "np.moveaxis")
    write_npy(path, probs * [0.2, 1, 0.7])
    assert "overlap" in read(path).notes[0]
    write_npy(path, probs[0])
    said(path, "classes last")
    write_npy(path, np.where(probs > 0.9, np.nan, probs) * [[[np.nan, 1, 1]]])
    said(path, "NaN")


def test_ids_of_other_types(tmp_path):
    path = tmp_path / "a.npy"
    for dtype in (">i2", ">u4", "int64", "uint64", "int8"):
        write_npy(path, (IDS % 100).astype(dtype))
        found = read(path).array
        assert np.array_equal(found, IDS % 100)
        assert found.dtype.isnative and found.dtype.itemsize <= 4
    write_npy(path, IDS.astype(np.int64) << 40)
    said(path, "32 bits")
    raw = np.array([[0, 1], [255, 2]], np.uint8).view(bool)
    write_npy(path, raw)
    assert read(path).array.view(np.uint8).tolist() == [[0, 1], [1, 1]]
    for array, word in ((IDS.astype(complex), "complex"), (np.array([["a"]]), "<U1")):
        write_npy(path, array)
        said(path, word)
    write_npy(path, np.zeros((0, 3), np.uint8))
    said(path, "no voxel")


class Trap:
    """What a pickle runs when it is read."""

    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def test_pickles_are_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    np.save(path, np.array([Trap()], object), allow_pickle=True)
    said(path, "pickle", "allow_pickle=False")
    path.write_bytes(pickle.dumps(Trap()))
    said(path, "ickle")
    np.savez(tmp_path / "a.npz", labels=np.array([Trap()], object))
    said(tmp_path / "a.npz", "pickle")
    write_zarr(tmp_path / "a.zarr", VOLUME, version=2)
    file = tmp_path / "a.zarr/0/.zarray"
    described = json.loads(file.read_text()) | {"filters": [{"id": "pickle"}], "compressor": None}
    file.write_text(json.dumps(described))
    for chunk in (tmp_path / "a.zarr/0").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Trap()))
    said(tmp_path / "a.zarr", "pickle")
    assert not Path("sprung").exists()


def test_an_npz_of_several_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", one=IDS, two=IDS)
    said(tmp_path / "a.npz", "2 arrays", "one, two")


# Volumes


def test_scale_of_nifti(tmp_path):
    path = tmp_path / "a.nii.gz"
    for slope, intercept, is_whole in ((2.0, 1.0, True), (0.5, 0.0, False)):
        image = nibabel.Nifti1Image(VOLUME.astype(np.int16), np.eye(4))
        data = bytearray(image.to_bytes())
        data[112:120] = np.array([slope, intercept], "<f4").tobytes()
        path.write_bytes(gzip.compress(bytes(data)))
        if is_whole:
            assert np.array_equal(read(path).array, VOLUME * 2 + 1)
            assert "slope 2.0" in read(path).notes[0]
        else:
            said(path, "fractions", "slope 1")


def test_floats_of_nifti(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, VOLUME.astype(np.float32))
    image = read(path)
    assert np.array_equal(image.array, VOLUME) and image.array.dtype == np.int32
    write_nifti(path, VOLUME.astype(np.float32) / 2)
    said(path, "whole")
    write_nifti(path, np.where(VOLUME == 1, np.nan, VOLUME).astype(np.float32))
    said(path, "NaN")


def test_axes_and_spacings_of_nifti(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, VOLUME[..., None])
    assert read(path).array.shape == read_header(path).shape == VOLUME.shape
    write_nifti(path, np.stack([VOLUME, VOLUME], axis=-1))
    said(path, "at most 3 axes")
    write_nifti(path, IDS)
    assert len(read(path).spacing) == 2
    image = nibabel.Nifti1Image(VOLUME, np.diag([3.0, 3.0, 3.0, 1.0]))
    image.header.set_zooms(SPACING)  # and the affine stays
    data = bytearray(image.to_bytes())
    data[80:92] = np.array(SPACING, "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))
    assert read(path).spacing == SPACING and "differ" in read(path).notes[0]
    for bad in (np.nan, np.inf, 0):
        data[84:88] = np.array(bad, "<f4").tobytes()
        path.write_bytes(gzip.compress(bytes(data)))
        assert read(path).spacing is None and "not positive" in read(path).notes[0]


def test_big_endian_nifti(tmp_path):
    image = nibabel.Nifti1Image(VOLUME.astype(np.int16), np.eye(4))
    image = nibabel.Nifti1Image(VOLUME.astype(np.int16), np.eye(4), image.header.as_byteswapped())
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    assert np.array_equal(read(tmp_path / "a.nii").array, VOLUME)


def test_overlapping_segments_of_dicom(tmp_path):
    masks = np.stack([VOLUME > 2, VOLUME % 2 == 0], axis=-1)
    write_dicom(tmp_path / "a.dcm", None, masks.astype(np.uint8))
    image = read(tmp_path / "a.dcm")
    assert image.array.dtype == bool and np.array_equal(image.array, masks)
    assert image.names == ("part 1", "part 2")
    assert read_header(tmp_path / "a.dcm").shape == VOLUME.shape
    assert all(image.array[where].ndim == 4 for where in blocks(image))


def test_fractions_of_dicom(tmp_path):
    shares = (VOLUME[..., None] / 8).astype(np.float32)
    write_dicom(tmp_path / "a.dcm", None, shares, kind="FRACTIONAL")
    image = read(tmp_path / "a.dcm")
    assert np.array_equal(image.array, np.round(shares * 255) / 255 >= 0.5)
    assert "0.5" in image.notes[0]


def test_slices_that_dicom_omits_are_put_back(tmp_path):
    masks = np.zeros((2, 6, 4, 5), bool)
    masks[0, [1, 3]] = masks[1, [3, 4], 1] = True
    for number, mask in enumerate(masks):
        write_dicom(tmp_path / f"{number}.dcm", mask, omit_empty_frames=True)
    first, second = (read(tmp_path / f"{number}.dcm") for number in range(2))
    assert first.array.shape == (3, 4, 5, 1) and second.array.shape == (2, 4, 5, 1)
    both = common_grid(first, second)
    for image, mask in zip(both, masks):
        assert np.array_equal(image.array[..., 0], mask[1:5])
        assert np.array_equal(image.affine, first.affine) and "added" in image.notes[0]
    assert np.array_equal(common_grid(second, first)[1].array, both[0].array)
    assert common_grid(first, first) == (first, first)
    turned = second._replace(affine=second.affine[[1, 0, 2, 3]])
    assert common_grid(first, turned)[0] is first  # of another scan


def test_other_dicom(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    picture = pydicom.Dataset()
    picture.SOPClassUID, picture.SOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    picture.file_meta = pydicom.dataset.FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    picture.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    said(tmp_path / "a.dcm", "CT Image Storage")
    (tmp_path / "a.dcm").write_bytes(b"no DICOM" * 100)
    said(tmp_path / "a.dcm", "no DICOM file")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
def test_encodings_of_nrrd(encoding, tmp_path):
    nrrd = pytest.importorskip("nrrd")
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), VOLUME.astype(np.int16), {"encoding": encoding, "spacings": SPACING})
    image = read(path)
    assert np.array_equal(image.array, VOLUME)
    assert (image.spacing, image.unit) == (SPACING, "mm")


def test_layers_of_segments(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    path = tmp_path / "a.seg.nrrd"
    layers = np.stack([VOLUME % 3, VOLUME % 2])
    header = {
        "kinds": ["list", *["domain"] * 3],
        "space": "left-posterior-superior",
        "space directions": np.array([[np.nan] * 3, [1.0, 0, 0], [0, 2.0, 0], [0, 0, 5.0]]),
    }
    segments = (("a", 0, 1), ("b", 0, 2), ("c", 1, 1))
    for i, (name, layer, value) in enumerate(segments):
        header |= {f"Segment{i}_Name": name, f"Segment{i}_Layer": str(layer)}
        header[f"Segment{i}_LabelValue"] = str(value)
    nrrd.write(str(path), layers, header)
    image = read(path)
    assert image.names == ("a", "b", "c") and image.spacing == SPACING
    for i, (_, layer, value) in enumerate(segments):
        assert np.array_equal(image.array[..., i], layers[layer] == value)
    assert read_header(path).shape == VOLUME.shape
    nrrd.write(str(path), layers, {k: v for k, v in header.items() if "Segment" not in k})
    said(path, "not of space")


def test_nrrd_whose_voxels_are_elsewhere(tmp_path):
    pytest.importorskip("nrrd")
    write_nrrd(tmp_path / "a.nrrd", VOLUME)
    start, _, rest = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "a.nrrd").write_bytes(start + b"\ndata file: /etc/passwd\n\n" + rest)
    said(tmp_path / "a.nrrd", "another file")


def test_groups_of_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "a.zarr"
    write_zarr(path, VOLUME)
    assert np.array_equal(np.asarray(read(path / "0").array), VOLUME)  # an array alone
    assert read(path / "0").spacing is None
    write_zarr(path, VOLUME, labels=True)
    assert "cells" in read(path).notes[0]
    assert read(path / "labels" / "cells").notes == []
    zarr.open_group(str(path))["labels"].attrs["labels"] = ["cells", "nuclei"]
    said(path, "2 label maps (cells, nuclei)")
    zarr.open_group(str(path), mode="w")
    said(path, "multiscales")
    for bad in ("../a", "/etc", 3):
        write_zarr(path, VOLUME, version=2)
        attributes = json.loads((path / ".zattrs").read_text())
        attributes["multiscales"][0]["datasets"][0]["path"] = bad
        (path / ".zattrs").write_text(json.dumps(attributes))
        said(path, "outside")


def test_a_corrupt_chunk_of_zarr(tmp_path):
    path = tmp_path / "a.zarr"
    write_zarr(path, VOLUME)
    chunk = next(file for file in (path / "0/c").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-5])
    image = read(path)
    with pytest.raises(CaseError, match=r"a\.zarr"):
        np.asarray(image.array)


def test_a_large_zarr_is_read_block_by_block(tmp_path):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(1000,) * 3, chunks=(125, 250, 250), dtype="uint8"
    )
    array[:125, :250, :250] = 3
    array[-1, -1, -1] = 7
    image = read(tmp_path / "a.zarr")
    voxels, total = 0, 0
    tracemalloc.start()
    for where in blocks(image):
        block = image.array[where]
        voxels += block.size
        total += int(np.count_nonzero(block))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert voxels == 1000**3 and total == 125 * 250 * 250 + 1
    assert peak < 200 * 2**20


@pytest.mark.parametrize("voxels", [1, 7, 20, 60, 1000])
def test_blocks_cover_an_image_once(voxels, tmp_path):
    write_npy(tmp_path / "a.npy", VOLUME)
    write_zarr(tmp_path / "a.zarr", VOLUME)
    for name in ("a.npy", "a.zarr"):
        image = read(tmp_path / name)
        seen = np.zeros(VOLUME.shape, int)
        for where in blocks(image, voxels=voxels):
            seen[where] += 1
            assert np.array_equal(image.array[where], VOLUME[where])
            assert VOLUME[where].size <= max(voxels, 64)
        assert (seen == 1).all()


# Faults


def test_files_that_are_none(tmp_path):
    said(tmp_path / "none.png", "no such file")
    (tmp_path / "folder.png").mkdir()
    said(tmp_path / "folder.png", "folder")
    (tmp_path / "empty.nii.gz").touch()
    said(tmp_path / "empty.nii.gz", "0 bytes")
    (tmp_path / "a.jpg").write_bytes(b"x")
    said(tmp_path / "a.jpg", "PNG")
    (tmp_path / "a.xyz").write_bytes(b"x")
    said(tmp_path / "a.xyz", ".nii.gz", ".png")
    (tmp_path / "a.zarr").mkdir()
    said(tmp_path / "a.zarr", "folder")
    os.mkfifo(tmp_path / "pipe.png")
    said(tmp_path / "pipe.png", "regular")
    with pytest.raises(CaseError, match="no such file"):
        read("a\0.png")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    write_npy(path, IDS)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    said(path, "Permission denied", "permissions")


def test_what_the_file_is_for_is_said(tmp_path):
    message = said(tmp_path / "none.png", what="prediction")
    assert message.startswith("The prediction ")
    with pytest.raises(CaseError, match="The labels "):
        read_header(tmp_path / "none.png")


def test_missing_packages_name_their_extra(tmp_path, monkeypatch):
    for name, module, extra in (
        ("a.png", "PIL.Image", "evaluate"),
        ("a.tif", "tifffile", "evaluate"),
        ("a.nii.gz", "nibabel", "evaluate"),
        ("a.nrrd", "nrrd", "nrrd"),
        ("a.dcm", "highdicom", "dicom"),
        ("a.zarr/.zgroup", "zarr", "zarr"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ImportError, match=rf'pip install "jaxseg\[{extra}\]"'):
            read(tmp_path / name.partition("/")[0])


def test_a_chain_of_pages_that_has_no_end(tmp_path):
    """Garbage that is read as pages, of which there would be thousands."""
    path = tmp_path / "a.tif"
    write_tiff(path, VOLUME[0])
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    following = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    for target in (first, 2, 9, len(data) + 5):
        data[following : following + 4] = target.to_bytes(4, "little")
        path.write_bytes(data)
        said(path, "Write it again")


def test_a_whole_zarr_is_not_read_where_it_is_too_large(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(2**15,) * 3, chunks=(64,) * 3, dtype="u1")
    image = read(tmp_path / "a.zarr")
    with pytest.raises(CaseError, match="more than"):
        np.asarray(image.array)


def test_bombs_are_not_decoded(tmp_path, monkeypatch):
    """A header that declares more than is sane, or than the file can hold, is not believed."""
    huge = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.uint8)) | {
        "shape": (2**12, 2**12, 2**12)
    }
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, huge)
    (tmp_path / "a.npy").write_bytes(start.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", start.getvalue() + bytes(1000))
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    data = bytearray(image.to_bytes())
    data[42:48] = np.array([2000, 3000, 4000], "<i2").tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(data)))
    tifffile.imwrite(tmp_path / "a.tif", IDS, compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(2**20)
    for name in ("a.npy", "a.npz", "a.nii.gz", "a.tif"):
        said(tmp_path / name, str(_readers.MAX_VOXELS) if "tif" not in name else "declares")
    PIL.new("1", (14_000, 14_000)).save(tmp_path / "a.png")
    said(tmp_path / "a.png", "more pixels", "TIFF")
    # Bytes behind the voxels that are declared are not kept either.
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(image.to_bytes() + bytes(2**22)))
    said(tmp_path / "b.nii.gz", "more than")
    monkeypatch.setattr(_readers, "MAX_VOXELS", 50)
    for name in ("a.npy", "a.npz", "a.tif", "a.nii.gz", "a.nrrd", "a.dcm"):
        WRITERS[name](tmp_path / name, VOLUME != 0 if name == "a.dcm" else VOLUME)
        said(tmp_path / name, "50")


def test_members_and_sums_of_gzip():
    data = gzip.compress(b"abc") + gzip.compress(b"def")
    assert _read_volumes.gunzip(data + bytes(10), 6) == b"abcdef"
    with pytest.raises(CaseError, match="more than the 5"):
        _read_volumes.gunzip(data, 5)
    with pytest.raises(CaseError, match="cut off"):
        _read_volumes.gunzip(data[:-1], 6)
    wrong = bytearray(gzip.compress(b"abc"))
    wrong[-8] ^= 1
    with pytest.raises(zlib.error):
        _read_volumes.gunzip(bytes(wrong), 6)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", *WRITERS])
def test_truncated_files_are_refused(name, tmp_path):
    """None is read as less than it was, however it is cut."""
    if name.endswith("zarr"):
        return
    path = tmp_path / name
    whole = written(name, path)
    read(path)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        said(path)


def written(name, path):
    """The bytes of a small valid file of a format."""
    if name in WRITERS:
        volume = np.random.default_rng(0).integers(0, 5, (4, 6, 7), np.uint8)
        WRITERS[name](path, volume != 0 if name == "a.dcm" else volume)
    else:
        PIL.fromarray(np.random.default_rng(0).integers(0, 5, (20, 30), np.uint8)).save(path)
    return path.read_bytes() if path.is_file() else b""


TRIES = 60  # of each format


@pytest.mark.parametrize("name", ["a.png", "a.bmp", *WRITERS])
def test_mutated_files_give_an_image_or_a_case_error(name, tmp_path):
    dice = random.Random(name)
    path = tmp_path / name
    whole = written(name, path)
    target = path
    faults = []
    for number in range(TRIES):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            target = dice.choice(files)
            whole = target.read_bytes()
        data = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 8))):
            # Most of what can go wrong is in the header.
            place = dice.randrange(min(len(data), dice.choice((64, 400, len(data)))))
            change = dice.randrange(4)
            if change == 0:
                data[place] = dice.choice((0, 1, 127, 128, 255))
            elif change == 1:
                data[place] ^= 1 << dice.randrange(8)
            elif change == 2:
                del data[place : place + dice.randrange(1, 9)]
            else:
                data[place:place] = dice.randbytes(dice.randrange(1, 9))
            if not data:
                break
        target.write_bytes(data)
        try:
            header = read_header(path)
            image = read(path)
            array = np.asarray(image.array)
        except CaseError as error:
            faults.append(str(error))
        else:
            space = array.shape[: len(header.shape)]
            assert space == header.shape and array.dtype.kind in "biu", number
            assert image.spacing is None or len(image.spacing) == len(header.shape)
            assert image.spacing is None or all(0 < s < np.inf for s in image.spacing)
            assert (image.names is None) == (array.ndim == len(space))
        finally:
            target.write_bytes(whole)
    assert faults and all(str(path) in fault and len(fault) < 1500 for fault in faults)


def test_names_of_readable_files():
    for name in ("a.png", "a.PNG", "b.nii.gz", "c.ome.tiff", "d.seg.nrrd", "e.zarr", Path("f.npz")):
        assert is_readable(name)
    for name in ("a.jpg", "a.gz", "png", "a.txt", "a.json"):
        assert not is_readable(name)
    suffixes = _readers.SUFFIXES
    assert not any(b.endswith(a) for i, a in enumerate(suffixes) for b in suffixes[i + 1 :])
