"""Readers of pictures and arrays: PNG, BMP, TIFF and OME-TIFF, NPY, NPZ."""

from __future__ import annotations

import logging
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np

from jaxseg.evaluation._readers import (
    MAX_RATIO,
    Colours,
    Header,
    Image,
    Opened,
    Options,
    Spacing,
    check_declared,
    ids_of,
    is_whole,
    mask_of,
    need,
    spacing_in,
)
from jaxseg.evaluation._records import CaseError

_TIFF_RATIO = 2**15  # some of its compressions make more of one byte than deflate does


def open_picture(path: Path, options: Options) -> Opened:
    """Open a PNG or BMP: the ids of a palette, of 1 to 16 bits of grey, or mapped colours."""
    pillow = need("PIL.Image", "evaluate")
    formats = ["PNG"] if path.name.lower().endswith(".png") else ["BMP"]

    def opened() -> Any:
        try:
            return pillow.open(path, formats=formats)
        except pillow.DecompressionBombError as error:
            raise CaseError(
                f"its header declares more pixels than Pillow decodes ({error}). If the file can "
                "be trusted, save it as TIFF or NPY, which have a higher limit."
            ) from None
        except pillow.UnidentifiedImageError:
            raise CaseError(
                f"this is no {formats[0]} file, or its header is corrupt. Write it again."
            ) from None

    with opened() as picture:
        shape, mode = (picture.height, picture.width), picture.mode
        if getattr(picture, "n_frames", 1) > 1:
            raise CaseError("it is animated. Save each label map as a file of its own.")
    dtype = np.dtype({"1": bool, "I;16": np.uint16, "I": np.int32}.get(mode, np.uint8))
    check_declared(shape, np.dtype(np.uint8), path.stat().st_size, 8 * MAX_RATIO)

    def load() -> Image:
        notes: list[str] = []
        with opened() as picture:
            if mode in ("RGB", "RGBA", "PA", "LA"):
                array = _without_alpha(picture, notes)
            else:
                array = np.asarray(picture)
            colours = _palette(picture) if mode == "P" and options.map_colours else None
        if array.ndim == 3:
            ids = ids_of_colours(array, options.map_colours, notes)
        elif colours is not None and _are_known(colours[np.unique(array)], options.map_colours):
            ids = ids_of_colours(colours[array], options.map_colours, notes)
            notes.append("The colours of its palette were mapped, not its ids kept.")
        else:
            ids = ids_of(array, notes)
            if mode == "L":
                ids = _unscaled(path, ids, notes)
            if mode != "P" and options.masks:
                ids = mask_of(ids, notes)
        return Image(ids, None, "px", None, None, notes)

    return Opened(Header(shape, None, "px", None, dtype), load)


def _without_alpha(picture: Any, notes: list[str]) -> np.ndarray:
    """The channels of a picture but for its opacity; each of several contiguous."""
    channels = [np.asarray(channel) for channel in picture.split()]
    if picture.mode != "RGB" and channels.pop().min() < 255:
        notes.append("Its transparency was left out.")
    return np.moveaxis(np.stack(channels), 0, -1) if len(channels) > 1 else channels[0]


def _palette(picture: Any) -> np.ndarray:
    """The colours [256, 3] of a palette."""
    colours = np.zeros((256, 3), np.uint8)
    flat = np.asarray(picture.getpalette("RGB")[:768], np.uint8).reshape(-1, 3)
    colours[: len(flat)] = flat
    return colours


def _unscaled(path: Path, ids: np.ndarray, notes: list[str]) -> np.ndarray:
    """The samples of a grey PNG of 2 or 4 bits, which Pillow stretches to 255."""
    with path.open("rb") as file:
        start = file.read(26)
    if start[1:4] != b"PNG" or start[24] not in (2, 4) or start[25] != 0 or _is_mask(ids):
        return ids
    notes.append(f"Samples of {start[24]} bits were read as ids.")
    return ids // np.uint8(255 // (2 ** start[24] - 1))


def _is_mask(ids: np.ndarray) -> bool:
    return ids.max() == 255 and np.count_nonzero(ids) == np.count_nonzero(ids == 255)


def _codes(colours: np.ndarray) -> np.ndarray:
    codes = colours[..., 0].astype(np.int32)
    for channel in (1, 2):
        codes <<= 8
        codes |= colours[..., channel]
    return codes


def _are_known(colours: np.ndarray, map_colours: Colours | None) -> bool:
    known = np.array(list(map_colours or ()), np.int32).reshape(-1, 3)
    return bool(np.isin(_codes(colours), _codes(known)).all())


def ids_of_colours(array: np.ndarray, map_colours: Colours | None, notes: list[str]) -> np.ndarray:
    """The ids of the colours [*space, 3] of a map; an error names the colours that it lacks."""
    codes = _codes(array)
    if not map_colours:
        grey = bool((array == array[..., :1]).all())
        found, more = _named(codes)
        raise CaseError(
            f"it holds colours instead of ids: {found}{more}. "
            + (
                "All are grey: save one channel of the three, or give"
                if grey
                else "Save ids of one channel, or give"
            )
            + " the id of each colour (--map FILE)."
        )
    # Of the pages of the table, only those of colours that occur are in memory.
    table = np.zeros(2**24, np.uint16)
    table[_codes(np.array(list(map_colours), np.int32))] = np.arange(1, len(map_colours) + 1)
    places = np.take(table, codes)
    strange = places == 0
    if strange.any():
        found, more = _named(codes[strange])
        raise CaseError(
            f"the map of colours lacks {found}{more}. Add their ids to it, or look whether the "
            "picture was resized or compressed with new colours between those of the map."
        )
    notes.append("Colours were mapped to ids.")
    return np.take(np.array([0, *map_colours.values()], np.int32), places)


def _named(codes: np.ndarray) -> tuple[str, str]:
    """The most frequent colours and their numbers of pixels, and how many more there are."""
    values, numbers = np.unique(codes, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:20]
    names = [
        f"({v >> 16}, {v >> 8 & 255}, {v & 255}) in {n} pixels"
        for v, n in zip(values[order].tolist(), numbers[order].tolist())
    ]
    more = len(values) - len(order)
    return ", ".join(names), f" and {more} more" if more else ""


def open_tiff(path: Path, options: Options) -> Opened:
    """Open a TIFF, a stack of pages or an OME-TIFF; spacing from ImageJ's or OME's metadata."""
    tifffile = need("tifffile", "evaluate")
    notes: list[str] = []
    size = path.stat().st_size
    with _strict_tiff(tifffile, path) as tiff:
        if len(tiff.series) != 1:
            raise CaseError(
                f"it holds {len(tiff.series)} images of different shapes. Save one label map."
            )
        series = tiff.series[0]
        shape, axes, dtype = tuple(series.shape), series.axes, np.dtype(series.dtype)
        check_declared(shape, dtype, size, _TIFF_RATIO)
        if any(page is None for page in series.pages):
            raise CaseError("it lacks pages that its metadata names. Write it as one file.")
        contiguous = series.dataoffset
        pages = [page.aspage() if hasattr(page, "aspage") else page for page in series.pages]
        ends = [
            offset + count
            for page in pages
            for offset, count in zip(page.dataoffsets, page.databytecounts)
        ] + [0 if contiguous is None else contiguous + series.nbytes]
        if max(ends) > size:
            raise CaseError(
                f"its pixels go to byte {max(ends)}, and the file has {size}. It is cut off: write "
                "it again."
            )
        inverted = int(pages[0].photometric) == 0
        spacings, unit = _tiff_spacings(tiff, pages[0])
    if inverted:
        notes.append("It says that 0 is white: values were read as they are stored.")
    keep = [i for i, (axis, n) in enumerate(zip(axes, shape)) if n > 1 or axis in "YX"]
    kept = "".join(axes[i] for i in keep)
    if "C" in kept:
        raise CaseError(f"it has {shape[axes.index('C')]} channels (axes {axes}). Save one.")
    if "T" in kept:
        notes.append("Its points in time were read as an axis of space, without a spacing.")
    space = "".join(axis for axis in kept if axis != "S")
    lengths = tuple(shape[i] for i in keep if axes[i] != "S")
    # Pages that are no more than a stack are slices.
    by_axis = [spacings.get(axis if axis in "YXT" else "Z") for axis in space]
    spacing: Spacing = None
    if by_axis and all(value is not None for value in by_axis):
        spacing, unit = spacing_in(by_axis, unit, notes)
    elif any(value is not None for value in by_axis):
        notes.append("Its metadata has a spacing of some axes alone, which was not used.")
    unit = unit if spacing is not None and unit == "mm" else "px"

    def load() -> Image:
        said = list(notes)
        with _strict_tiff(tifffile, path) as tiff:
            try:
                array = tiff.series[0].asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error) or inverted:
                    raise
                array = _tiff_by_pillow(path, shape, error)
        array = array.reshape([shape[i] for i in keep])
        if "S" in kept:
            array = np.moveaxis(array, kept.index("S"), -1)
            if array.dtype != np.uint8 or array.shape[-1] not in (3, 4):
                raise CaseError(
                    f"it has {array.shape[-1]} samples of {array.dtype} per pixel. Save one."
                )
            ids = ids_of_colours(array[..., :3], options.map_colours, said)
        else:
            ids = ids_of(array, said)
            if options.masks:
                ids = mask_of(ids, said)
        return Image(ids, spacing, unit, None, None, said)

    return Opened(Header(lengths, spacing, unit, None, dtype), load)


@contextmanager
def _strict_tiff(tifffile: Any, path: Path) -> Iterator[Any]:
    """A TIFF file; what its package logs of a corrupt structure is an error."""

    def listen(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if record.levelno >= logging.ERROR or "corrupt" in said:
            raise CaseError(f"its structure is corrupt: {said[:200]}. Write it again.")
        return False  # nothing of it reaches the terminal

    logger = logging.getLogger("tifffile")
    logger.addFilter(listen)
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            yield tiff
    finally:
        logger.removeFilter(listen)


def _tiff_by_pillow(path: Path, shape: tuple[int, ...], error: Exception) -> np.ndarray:
    """The pages of a TIFF in a compression that tifffile alone does not know."""
    pillow = need("PIL.Image", "evaluate")
    with pillow.open(path, formats=["TIFF"]) as picture:
        pages = []
        for number in range(picture.n_frames):
            picture.seek(number)
            if picture.mode not in ("1", "L", "P", "I;16", "I;16B", "RGB"):
                raise CaseError(f"its compression needs imagecodecs: pip install it. ({error})")
            pages.append(np.asarray(picture))
    array = np.stack(pages)
    if array.size != math.prod(shape):
        raise CaseError("its pages cannot be put together. Save it without compression.")
    return array.reshape(shape)


def _tiff_spacings(tiff: Any, page: Any) -> tuple[dict[str, float | None], str | None]:
    """The spacing of each axis of which the metadata of OME or ImageJ tells, and their unit."""
    if tiff.is_ome:
        pixels = ElementTree.fromstring(tiff.ome_metadata).find(".//{*}Pixels")
        parts = {} if pixels is None else pixels.attrib
        spacings: dict[str, float | None] = {}
        for axis in "ZYX":
            size = parts.get(f"PhysicalSize{axis}")
            if size is not None:
                found = spacing_in([size], parts.get(f"PhysicalSize{axis}Unit", "µm"), [])
                spacings[axis] = found[0][0] if found[0] and found[1] == "mm" else None
        return spacings, "mm"
    if tiff.is_imagej:
        metadata = tiff.imagej_metadata or {}
        unit = str(metadata.get("unit", "")).encode().decode("unicode_escape", "replace")
        spacings = {"Z": metadata.get("spacing")}
        for axis, name in (("Y", "YResolution"), ("X", "XResolution")):
            if name in page.tags:
                number, per = page.tags[name].value
                spacings[axis] = per / number if number else None
        unit = "um" if unit == "\u00c2\u00b5m" else unit
        return spacings, unit
    return {}, None


def open_npy(path: Path, options: Options) -> Opened:
    """Open an NPY of ids, a mask, or floats: scores [..., classes] or whole numbers."""
    with path.open("rb") as file:
        shape, dtype = _array_header(file)
        stored = path.stat().st_size - file.tell()
    check_declared(shape, dtype, stored, 1)
    if math.prod(shape) * dtype.itemsize > stored:
        raise CaseError(
            f"its array {shape} of {dtype} has {math.prod(shape) * dtype.itemsize} bytes, and the "
            f"file {stored}. It is cut off: write it again."
        )
    return _opened_array(
        shape, dtype, lambda: np.load(path, mmap_mode="r", allow_pickle=False), options
    )


def open_npz(path: Path, options: Options) -> Opened:
    """Open an NPZ that holds one array, as ``open_npy`` opens that array alone."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        if len(names) != 1:
            found = ", ".join(name.removesuffix(".npy") for name in names[:20])
            raise CaseError(
                f"it holds {len(names)} arrays ({found}), and one is needed. Save the label map in "
                "a file of its own."
            )
        member = archive.getinfo(names[0])
        with archive.open(member) as file:
            shape, dtype = _array_header(file)
    check_declared(shape, dtype, path.stat().st_size, MAX_RATIO)

    def array() -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):  # at the end, the sum of its bytes is checked
                raise CaseError("its array is longer than its header says. Write it again.")
        return found

    return _opened_array(shape, dtype, array, options)


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of an array in NPY's form, whose header starts here."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise CaseError(
            "this is no NPY array. Pickles are not read, as they can run any program: save the "
            "array by np.save(file, array, allow_pickle=False)."
        ) from None
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise CaseError(
            "its array holds Python objects, a pickle, which can run any program and is not read. "
            "Save an array of integers by np.save(file, array, allow_pickle=False)."
        )
    if dtype.kind not in "biuf":
        raise CaseError(f"its values are {dtype}, which are no ids. Save ids as integers.")
    return shape, dtype


def _opened_array(
    shape: tuple[int, ...], dtype: np.dtype, array: Callable[[], np.ndarray], options: Options
) -> Opened:
    if not shape:
        raise CaseError("its array has no axis. Save a label map.")
    floats = array() if dtype.kind == "f" else None  # only values tell what they are
    of_scores = floats is not None and _are_scores(floats)
    if of_scores:
        shape = shape[:-1]

    def load() -> Image:
        notes: list[str] = []
        found = array() if floats is None else floats
        if of_scores:
            ids = ids_of_scores(found, notes)
        else:
            ids = ids_of(found, notes)
            if options.masks:
                ids = mask_of(ids, notes)
        return Image(np.array(ids), None, "px", None, None, notes)

    return Opened(Header(shape, None, "px", None, dtype), load)


def _are_scores(array: np.ndarray) -> bool:
    """Whether floats are scores [..., classes]: not whole numbers, or one 1 among 0s per pixel."""
    if not is_whole(array):
        if np.isnan(array).any():
            raise CaseError("it holds NaN. Look at the model that made its scores.")
        if array.ndim < 3:
            raise CaseError(
                f"it holds floats of shape {array.shape} that are not whole numbers. Scores need "
                "the axis of the classes last, also for one class: scores[..., None]."
            )
        return True
    if array.ndim < 3 or not ((array == 0) | (array == 1)).all():
        return False
    return array.shape[-1] == 1 or bool((array.sum(axis=-1) == 1).all())


def ids_of_scores(scores: np.ndarray, notes: list[str]) -> np.ndarray:
    """The ids of the largest scores [..., classes]; of one class, the mask of its pixels.

    The pixels of a single class have a probability of at least 0.5, or a logit of at least 0 if
    any value is outside [0, 1].
    """
    classes = scores.shape[-1]
    are_probabilities = bool(((scores >= 0) & (scores <= 1)).all())
    if classes == 1:
        least, kind = (0.5, "Probabilities") if are_probabilities else (0.0, "Logits")
        notes.append(f"{kind} of one class were read as the mask of those of at least {least}.")
        return scores[..., 0] >= least
    if are_probabilities and not _sum_to_one(scores, -1):
        if _sum_to_one(scores, 0):
            raise CaseError(
                f"its probabilities {scores.shape} have the classes first, and the last axis is "
                "that of the classes: save np.moveaxis(scores, 0, -1)."
            )
        notes.append(
            "Its probabilities do not sum to 1 over the classes. If classes may overlap, save one "
            "bool mask per class."
        )
    dtype = np.uint8 if classes <= 256 else np.int32
    ids = np.empty(scores.shape[:-1], dtype)
    for row, part in zip(ids, scores):
        row[...] = part.argmax(axis=-1)
    kind = "Probabilities" if are_probabilities else "Logits"
    notes.append(f"{kind} of {classes} classes were read by argmax over the last axis.")
    return ids


def _sum_to_one(scores: np.ndarray, axis: int) -> bool:
    sums = scores.sum(axis=axis, dtype=np.float32)
    return bool((np.abs(sums - 1) < 0.02).all())
