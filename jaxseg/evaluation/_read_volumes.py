"""Readers of volumes that know where they lie in space: NIfTI, NRRD, DICOM-SEG, OME-Zarr."""

from __future__ import annotations

import bz2
import io
import json
import logging
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.evaluation._readers import (
    MAX_RATIO,
    MAX_VOXELS,
    Header,
    Image,
    Opened,
    Spacing,
    check_declared,
    guarded,
    ids_of,
    need,
    spacing_in,
)
from jaxseg.evaluation._records import CaseError

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from the axes of DICOM to those of NIfTI
_GZIP = b"\x1f\x8b"


def inflate(data: bytes, new: Callable[[], Any], limit: int, magic: bytes) -> bytes:
    """Decompress all members of a stream, whose sums are checked; at most ``limit`` bytes."""
    parts: list[bytes] = []
    length = 0
    while data[: len(magic)] == magic:
        engine = new()
        part = engine.decompress(data, limit - length + 1)
        length += len(part)
        if length > limit:
            raise CaseError(
                f"it holds more than the {limit} bytes that its header declares. It is corrupt, or "
                "made to fill the memory: write it again."
            )
        if not engine.eof:
            raise CaseError("its compressed data ends too early. It is cut off: write it again.")
        parts.append(part)
        data = engine.unused_data
    return b"".join(parts)


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress gzip; at most ``limit`` bytes."""
    return inflate(data, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), limit, _GZIP)


def _from_bytes(
    data: bytes, shape: tuple[int, ...], dtype: np.dtype, offset: int = 0
) -> np.ndarray:
    """An array of which the first axis varies fastest."""
    number = math.prod(shape)
    if offset + number * dtype.itemsize > len(data):
        raise CaseError(
            f"its header declares {number * dtype.itemsize} bytes of voxels, and it holds "
            f"{max(0, len(data) - offset)}. It is cut off: write it again."
        )
    return np.frombuffer(data, dtype, number, offset).reshape(shape, order="F")


def open_nifti(path: Path) -> Opened:
    """Open a NIfTI, whose integers are kept, and floats if they are whole."""
    nibabel = need("nibabel", "evaluate")
    notes: list[str] = []
    stored = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(2**16)
    compressed = start[:2] == _GZIP
    if compressed:
        start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, 1024)
    if len(start) < 348:
        raise CaseError("its header is cut off. Write it again.")
    is_second = 540 in (int.from_bytes(start[:4], order) for order in ("little", "big"))
    kind, length = (nibabel.Nifti2Header, 540) if is_second else (nibabel.Nifti1Header, 348)
    header = kind.from_fileobj(io.BytesIO(start[:length]), check=False)
    zooms = np.abs(header["pixdim"][1:4].astype(float))  # as stored: the check makes 1 of 0
    quiet = logging.Logger("header")
    quiet.addHandler(logging.NullHandler())
    header.check_fix(quiet)
    if header["magic"].item()[:2] not in (b"n+", b"ni"):
        raise CaseError("this is no NIfTI file. Write it again, or mend its suffix.")
    if header["magic"].item()[:2] == b"ni":
        raise CaseError("its voxels are in another file (.img). Save one file .nii or .nii.gz.")
    dtype, offset = header.get_data_dtype(), int(header.get_data_offset())
    shape = tuple(int(n) for n in header.get_data_shape())
    check_declared(shape, dtype, stored, MAX_RATIO if compressed else 1)
    if max(shape[3:], default=1) > 1:
        raise CaseError(
            f"its shape is {shape}, and a label map has at most 3 axes. Save one volume of ids."
        )
    shape = shape[:3]
    if dtype.kind not in "iuf":
        raise CaseError(f"its voxels are {dtype}, which are no ids. Save ids as integers.")
    unit = header.get_xyzt_units()[0]
    zooms = zooms[: len(shape)]
    spacing, unit = spacing_in(zooms, "mm" if unit == "unknown" else unit, notes)
    affine = np.asarray(header.get_best_affine(), float)
    sizes = np.linalg.norm(affine[:3, : len(shape)], axis=0)
    if spacing is not None and not np.allclose(sizes, zooms, rtol=1e-3):
        notes.append(
            f"The sizes of its voxels {_short(zooms)} and those of its affine {_short(sizes)} "
            "differ; the first were used."
        )
    if spacing is not None and unit == "mm":
        affine[:3] *= spacing[0] / zooms[0]
    slope, intercept = header.get_slope_inter()

    def load() -> Image:
        said = list(notes)
        data = path.read_bytes()
        if compressed:
            size = offset + math.prod(shape) * dtype.itemsize
            data = gunzip(data, size + 2**20)
        array = _from_bytes(data, shape, dtype, offset)
        if (slope, intercept) in ((None, None), (1.0, 0.0)):
            return Image(ids_of(array, said), spacing, unit, affine, None, said)
        scaled = array * np.float64(slope) + np.float64(intercept)
        nearest = np.round(scaled)
        if not np.allclose(scaled, nearest, rtol=0, atol=1e-4):
            raise CaseError(
                f"its scale (slope {slope}, intercept {intercept}) makes fractions of its ids. "
                "Save the ids as integers with slope 1 and intercept 0."
            )
        said.append(f"Its scale (slope {slope}, intercept {intercept}) was applied to its ids.")
        return Image(ids_of(nearest, []), spacing, unit, affine, None, said)

    return Opened(Header(shape, spacing, unit, affine, dtype), load)


def _short(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


_NRRD_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,int64,int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
_SPACES = {  # to the axes of NIfTI
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-posterior-superior": _LPS_TO_RAS, "lps": _LPS_TO_RAS,
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
}  # fmt: skip


def open_nrrd(path: Path) -> Opened:
    """Open an NRRD, or the layers of segments that 3D Slicer writes."""
    nrrd = need("nrrd", "nrrd")
    notes: list[str] = []
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        start = file.tell()
    if {"data file", "datafile"} & set(header):
        raise CaseError("its voxels are in another file. Save one file .nrrd with its data.")
    if any(header.get(f"{kind}{sep}skip", 0) for kind in ("line", "byte") for sep in ("", " ")):
        raise CaseError("it skips lines or bytes before its voxels. Save it without.")
    encoding = str(header["encoding"]).lower()
    if str(header["type"]) not in _NRRD_TYPES:
        raise CaseError(f"its voxels are {header['type']!r}, which are no ids. Save integers.")
    order = {"big": ">", "little": "<"}.get(header.get("endian", ""), "=")
    dtype = np.dtype(order + _NRRD_TYPES[str(header["type"])])
    sizes = tuple(int(n) for n in header["sizes"])
    ratio = {"raw": 1, "gzip": MAX_RATIO, "gz": MAX_RATIO}.get(encoding, 2**16)
    check_declared(sizes, dtype, path.stat().st_size, ratio)
    directions = header.get("space directions")
    kinds = list(header.get("kinds", ()))
    axes = [i for i in range(len(sizes)) if not _is_list(i, directions, kinds)]
    layers = [i for i in range(len(sizes)) if i not in axes]
    segments = _segments(header)
    if any(sizes[i] > 1 for i in layers) and (len(layers) > 1 or not segments):
        raise CaseError(f"its shape {sizes} has an axis that is not of space. Save ids alone.")
    if not 0 < len(axes) <= 3:
        raise CaseError(
            f"its shape {sizes} has {len(axes)} axes of space, not 1 to 3. Save one volume."
        )
    shape = tuple(sizes[i] for i in axes)
    spacing, unit, affine = _nrrd_space(header, axes, notes)
    names = tuple(name for name, _, _ in segments) if any(sizes[i] > 1 for i in layers) else None

    def load() -> Image:
        said = list(notes)
        data = path.read_bytes()[start:]
        limit = math.prod(sizes) * dtype.itemsize + 2**20
        if encoding in ("gzip", "gz"):
            data = gunzip(data, limit)
        elif encoding in ("bzip2", "bz2"):
            data = inflate(data, bz2.BZ2Decompressor, limit, b"BZh")
        elif encoding in ("ascii", "text", "txt"):
            data = np.array(data.split()).astype(dtype).tobytes()
        elif encoding != "raw":
            raise CaseError(f"its encoding {encoding!r} is not known. Save it as gzip or raw.")
        array = np.moveaxis(_from_bytes(data, sizes, dtype), layers, range(-len(layers), 0))
        if names is None:
            ids = ids_of(array.reshape(shape, order="F"), said)
        else:
            ids = np.stack([array[..., layer] == value for _, layer, value in segments], axis=-1)
        return Image(ids, spacing, unit, affine, names, said)

    return Opened(Header(shape, spacing, unit, affine, dtype), load)


def _is_list(axis: int, directions: Any, kinds: list[Any]) -> bool:
    """Whether an axis of an NRRD is none of space."""
    if directions is not None:
        return directions[axis] is None or not np.isfinite(directions[axis]).all()
    return axis < len(kinds) and str(kinds[axis]) not in ("domain", "space", "???", "none")


def _segments(header: Any) -> list[tuple[str, int, int]]:
    """The name, layer and id of each segment that 3D Slicer names in a header."""
    found: list[tuple[str, int, int]] = []
    while (key := f"Segment{len(found)}_LabelValue") in header:
        number = len(found)
        name = str(header.get(f"Segment{number}_Name", f"segment {number + 1}"))
        found.append((name, int(header.get(f"Segment{number}_Layer", 0)), int(header[key])))
    return found


def _nrrd_space(
    header: Any, axes: list[int], notes: list[str]
) -> tuple[Spacing, str, np.ndarray | None]:
    """The spacing of the axes of space, its unit, and the affine."""
    units = [str(unit) for unit in header.get("space units", header.get("units", ()))]
    unit = units[0] if units and len(set(units)) == 1 else "mm" if not units else None
    directions = header.get("space directions")
    if directions is None:
        spacings = header.get("spacings")
        if spacings is None:
            return None, "px", None
        return *spacing_in([spacings[i] for i in axes], unit, notes), None
    columns = np.array([directions[i] for i in axes], float).T
    norms = np.linalg.norm(columns, axis=0)
    spacing, unit = spacing_in(norms, unit, notes)
    to_nifti = _SPACES.get(str(header.get("space", "")).lower())
    if to_nifti is None or columns.shape != (3, 3) or spacing is None or unit != "mm":
        return spacing, unit, None
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    affine[:3] *= spacing[0] / norms[0]
    return spacing, unit, to_nifti @ affine


def open_dicom(path: Path) -> Opened:
    """Open a DICOM segmentation: a bool mask of each segment, which may overlap."""
    highdicom = need("highdicom", "dicom")
    pydicom = need("pydicom", "dicom")
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        raise CaseError(
            "this is no DICOM file, or its header is corrupt. Write it again."
        ) from None
    kind = str(head.get("SOPClassUID", ""))
    if kind not in ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"):
        name = pydicom.uid.UID(kind).name
        raise CaseError(f"this is no DICOM segmentation but {name or 'nameless'!r}. Name those.")
    frames, rows, columns = (
        int(head.get(name, 1)) for name in ("NumberOfFrames", "Rows", "Columns")
    )
    check_declared((frames, rows, columns), np.dtype(bool), path.stat().st_size, 8 * MAX_RATIO)
    segmentation = highdicom.seg.segread(path)
    numbers = list(segmentation.segment_numbers)
    geometry = segmentation.get_volume_geometry()
    if geometry is None:
        raise CaseError(
            "its frames are no volume of parallel slices at equal distances. Save the segmentation "
            "of one volume, or convert it to NIfTI."
        )
    shape = tuple(int(n) for n in geometry.spatial_shape)
    if shape[0] > 100 * frames or math.prod(shape) * len(numbers) > MAX_VOXELS:
        raise CaseError(f"its frames are places in a volume {shape}, more than it can hold.")
    spacing, unit = spacing_in(geometry.spacing, "mm", [])
    # The package has the slices from the last to the first along their normal.
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[0, 3] = shape[0] - 1
    affine = _LPS_TO_RAS @ np.asarray(geometry.affine, float) @ turned
    names = tuple(
        str(segmentation.get_segment_description(number).segment_label) for number in numbers
    )

    def load() -> Image:
        notes: list[str] = []
        is_fractional = segmentation.segmentation_type.value == "FRACTIONAL"
        array = segmentation.get_volume(
            segment_numbers=numbers, combine_segments=False, rescale_fractional=True
        ).array[::-1]
        if is_fractional:
            notes.append("Fractions of its segments were read as masks of those of at least 0.5.")
        masks = array >= 0.5 if is_fractional else array != 0
        return Image(masks, spacing, unit, affine, names, notes)

    return Opened(Header(shape, spacing, unit, affine, np.dtype(bool)), load)


def is_zarr(path: Path) -> bool:
    """Whether a folder holds a Zarr array or group."""
    return path.is_dir() and any(
        (path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")
    )


class ZarrLabels:
    """Ids of a Zarr array, read where they are indexed by one slice per axis of space."""

    def __init__(self, path: Path, array: Any, keep: list[int]) -> None:
        """Wrap an array of which all axes but those in ``keep`` have the length 1."""
        self._path, self._array, self._keep = path, array, keep
        self.shape = tuple(int(array.shape[i]) for i in keep)
        self.chunks = tuple(int(array.chunks[i]) for i in keep)
        self.dtype = np.dtype(array.dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, where: tuple[slice | int, ...]) -> np.ndarray:
        index: list[slice | int] = [0] * len(self._array.shape)
        for axis, part in zip(self._keep, where, strict=True):
            index[axis] = part
        with guarded(self._path, "voxels of"):
            return ids_of(np.asarray(self._array[tuple(index)]), [])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with guarded(self._path, "voxels of"):
            check_declared(self.shape, self.dtype, 0, math.inf)
        whole = self[(slice(None),) * self.ndim]
        return whole if dtype is None else whole.astype(dtype)


def open_zarr(path: Path) -> Opened:
    """Open a Zarr array, or the finest level of an OME-Zarr or of its one label map."""
    zarr = need("zarr", "zarr")
    notes: list[str] = []
    node = zarr.open(str(path), mode="r")
    if not hasattr(node, "shape"):
        group, image = _labels_group(node, notes)
        level = image["datasets"][0]
        node = group[_inside(level["path"])]
        names = [str(axis["name"]) for axis in image.get("axes", ())]
        kinds = [str(axis.get("type", "space")) for axis in image.get("axes", ())]
        units = [axis.get("unit") for axis in image.get("axes", ())]
        scales = [
            step["scale"]
            for part in (level, image)
            for step in part.get("coordinateTransformations", ())
            if step.get("type") == "scale"
        ]
    else:
        names, kinds, units, scales = [], [], [], []
    _check_codecs(path, node)
    shape = tuple(int(n) for n in node.shape)
    if not shape or 0 in shape:
        raise CaseError(f"its array has the shape {shape}: no voxel. Write it again.")
    if np.dtype(node.dtype).kind not in "biuf":
        raise CaseError(f"its values are {node.dtype}, which are no ids. Save ids as integers.")
    kinds = kinds if len(kinds) == len(shape) else ["space"] * len(shape)
    keep = [i for i, kind in enumerate(kinds) if kind == "space"]
    if any(n > 1 for i, n in enumerate(shape) if i not in keep):
        raise CaseError(f"its array {shape} has axes {names} with channels or time. Save ids.")
    if math.prod(node.chunks) > MAX_VOXELS:
        raise CaseError(f"its chunks {node.chunks} do not fit into memory. Save smaller ones.")
    spacing: Spacing = None
    unit = "px"
    if scales and len(scales[0]) == len(shape):
        values = [math.prod(float(scale[i]) for scale in scales) for i in keep]
        named = {units[i] for i in keep}
        spacing, unit = spacing_in(values, named.pop() if len(named) == 1 else None, notes)
    array = ZarrLabels(path, node, keep)

    def load() -> Image:
        return Image(array, spacing, unit, None, None, notes)

    return Opened(Header(array.shape, spacing, unit, None, array.dtype), load)


def _labels_group(group: Any, notes: list[str]) -> tuple[Any, dict[str, Any]]:
    """The group of levels in an OME-Zarr and what it says of its image: labels if it has any."""
    if "labels" in group:
        group = group["labels"]
    attributes = dict(group.attrs)
    attributes = attributes.get("ome", attributes)
    if "labels" in attributes:
        names = [str(name) for name in attributes["labels"]]
        if len(names) != 1:
            raise CaseError(f"it has {len(names)} label maps ({', '.join(names)}). Name a folder.")
        notes.append(f"Its label map {names[0]!r} was read.")
        group = group[_inside(names[0])]
        attributes = dict(group.attrs)
        attributes = attributes.get("ome", attributes)
    images = attributes.get("multiscales")
    if not images:
        raise CaseError("it holds no image of OME-Zarr (multiscales). Name the folder of one.")
    return group, images[0]


def _inside(name: Any) -> str:
    """A path in a group, which may not lead out of it."""
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
        raise CaseError(f"it names the path {name!r} outside of itself. Write it again.")
    return name


def _check_codecs(path: Path, array: Any) -> None:
    """Refuse an array whose chunks are pickles, which run programs."""
    file = path / str(array.path) / ".zarray"
    if not file.is_file():
        return
    described = json.loads(file.read_text())
    codecs = [*(described.get("filters") or ()), described.get("compressor") or {}]
    if any(codec.get("id") == "pickle" for codec in codecs):
        raise CaseError("its chunks are pickles, which can run any program. Save integers.")
