"""Label maps from files: one ``Image`` of every format, or a ``CaseError`` that says what is wrong.

The formats are in ``_read_images.py`` (pictures and arrays) and ``_read_volumes.py`` (what knows
where it lies in space). Each has a function that looks at the file's header and returns it with a
function that decodes the pixels, so that the two agree, and nothing is decoded of which the header
says that it cannot be.
"""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.evaluation._records import CaseError

SUFFIXES = (  # the longer first, so that the first that fits is the whole suffix
    ".ome.tiff", ".ome.zarr", ".seg.nrrd", ".ome.tif", ".nii.gz",
    ".tiff", ".nrrd", ".zarr", ".png", ".bmp", ".tif", ".npy", ".npz", ".nii", ".dcm",
)  # fmt: skip

MAX_VOXELS = 2**33  # a header that declares more is not believed
MAX_RATIO = 1100  # deflate makes at most 1032 bytes of one

_MILLIMETRES = {
    "m": 1e3, "meter": 1e3, "cm": 1e1, "centimeter": 1e1, "mm": 1.0, "millimeter": 1.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "nm": 1e-6, "nanometer": 1e-6, "inch": 25.4, "in": 25.4,
}  # fmt: skip

Spacing = tuple[float, ...] | None
Colours = Mapping[tuple[int, int, int], int]


class MissingPackage(ImportError):
    """A package that a format needs is not installed; no fault of the file."""


class Header(NamedTuple):
    """What a file says of its label map before any pixel is decoded."""

    shape: tuple[int, ...]
    spacing: Spacing  # in the order of the array's axes; None if the file has none
    unit: str  # of the spacing: "mm", or "px" if the file names none
    affine: np.ndarray | None  # 4x4: from the array's indices to millimetres right, forward and up
    dtype: np.dtype


class Image(NamedTuple):
    """A label map: ids or a mask ``[*space]``, or with ``names`` bool masks ``[*space, segments]``.

    The array of an OME-Zarr is read where it is indexed; ``blocks`` has the indices.
    """

    array: Any
    spacing: Spacing
    unit: str
    affine: np.ndarray | None
    names: tuple[str, ...] | None
    notes: list[str]  # what the user has to know of how the file was read


class Options(NamedTuple):
    """How pixels become ids."""

    map_colours: Colours | None = None
    masks: bool = True


class Opened(NamedTuple):
    """A file whose header was read, and the function that reads the rest."""

    header: Header
    load: Callable[[], Image]


def read(
    path: str | Path,
    *,
    map_colours: Colours | None = None,
    what: str = "labels",
    masks: bool = True,
) -> Image:
    """Read the label map of a file.

    Args:
      path: the file, or the folder of an OME-Zarr.
      map_colours: the id of each colour (red, green, blue) of a colour map.
      what: what the file is in messages: "labels" or "prediction".
      masks: whether a picture or array of the values 0 and 255 alone is a mask. False where 255 is
        an id, or the value of pixels that do not count.

    Raises:
      CaseError: the file cannot be read, or holds no label map; says what to do.
      MissingPackage: the format needs a package that is not installed.
    """
    with guarded(path, what):
        return _open(Path(path), Options(map_colours, masks)).load()


def read_header(path: str | Path, *, what: str = "labels") -> Header:
    """Read what a file says of its label map, without decoding it; errors as ``read``'s."""
    with guarded(path, what):
        return _open(Path(path), Options()).header


def is_readable(path: str | Path) -> bool:
    """Whether the name of a file is of a format that ``read`` knows."""
    return Path(path).name.lower().endswith(SUFFIXES)


def blocks(image: Image, *, voxels: int = 2**24) -> Iterator[tuple[slice, ...]]:
    """Indices that cut an image, and any of its shape, to blocks of whole chunks.

    A block has at most ``voxels``, or is one chunk.
    """
    shape = image.array.shape[:-1] if image.names is not None else image.array.shape
    chunks = getattr(image.array, "chunks", (1,) * len(shape))
    sizes = [min(chunk, size) for chunk, size in zip(chunks, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        whole_chunks = max(1, voxels // math.prod(sizes))
        sizes[axis] = min(shape[axis], sizes[axis] * whole_chunks)
        if sizes[axis] < shape[axis]:
            break
    starts = itertools.product(*(range(0, n, size) for n, size in zip(shape, sizes)))
    for start in starts:
        yield tuple(slice(a, min(a + size, n)) for a, size, n in zip(start, sizes, shape))


def common_grid(first: Image, second: Image) -> tuple[Image, Image]:
    """Extend two DICOM segmentations to the box that holds both; other images stay as they are.

    Such files lack the slices without any segment, so two of one scan have different shapes.
    """
    if first.names is None or second.names is None:
        return first, second
    if first.affine is None or second.affine is None:
        return first, second
    between = np.linalg.solve(first.affine, second.affine)
    offset = np.round(between[:3, 3]).astype(int)
    if not np.allclose(between[:3], np.c_[np.eye(3), offset], rtol=0, atol=1e-2):
        return first, second
    sizes = [np.array(image.array.shape[:3]) for image in (first, second)]
    start = np.minimum(0, offset)
    stop = np.maximum(sizes[0], offset + sizes[1])
    if (start == 0).all() and (stop == sizes[0]).all() and (stop == sizes[1]).all():
        return first, second
    check_declared([int(n) for n in stop - start], np.dtype(bool), 0, math.inf)
    affine = first.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    extended = []
    for image, place, size in zip((first, second), (-start, offset - start), sizes):
        pads = [*zip(place, stop - start - place - size), (0, 0)]
        note = "Slices that a file lacks, as they hold no segment, were added."
        extended.append(
            image._replace(
                array=np.pad(image.array, pads), affine=affine, notes=[*image.notes, note]
            )
        )
    return extended[0], extended[1]


def _open(path: Path, options: Options) -> Opened:
    """Look at a file: which format it is of, and what its header says."""
    from jaxseg.evaluation import _read_images as images
    from jaxseg.evaluation import _read_volumes as volumes

    name = path.name.lower()
    if not path.exists():
        raise CaseError("there is no such file. Look at the path.")
    if volumes.is_zarr(path):
        return volumes.open_zarr(path)
    if path.is_dir():
        raise CaseError("this is a folder, not a file. Name the files in it, or the folder alone.")
    if not path.is_file():
        raise CaseError("this is no regular file. Copy what it holds to one.")
    if path.stat().st_size == 0:
        raise CaseError("the file is empty (0 bytes). Write it again.")
    if name.endswith((".png", ".bmp")):
        return images.open_picture(path, options)
    if name.endswith((".tif", ".tiff")):
        return images.open_tiff(path, options)
    if name.endswith(".npy"):
        return images.open_npy(path, options)
    if name.endswith(".npz"):
        return images.open_npz(path, options)
    if name.endswith((".nii", ".nii.gz")):
        return volumes.open_nifti(path)
    if name.endswith(".nrrd"):
        return volumes.open_nrrd(path)
    if name.endswith(".dcm"):
        return volumes.open_dicom(path)
    if name.endswith((".jpg", ".jpeg")):
        raise CaseError("JPEG changes the ids of pixels. Save label maps as PNG.")
    raise CaseError(
        f"no reader knows the suffix {path.suffix!r}. Known are {', '.join(sorted(SUFFIXES))}."
    )


@contextmanager
def guarded(path: str | Path, what: str) -> Iterator[None]:
    """Turn all that can go wrong with a file into a ``CaseError`` that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what matters, the notes and errors here tell
            yield
    except MissingPackage:
        raise
    except CaseError as error:
        raise CaseError(f"The {what} {path}: {error}") from error.__cause__
    except MemoryError as error:
        raise CaseError(
            f"The {what} {path}: there is not enough memory to decode it. Use fewer workers, or "
            "save large volumes as OME-Zarr, which is read in blocks."
        ) from error
    except OSError as error:
        if error.errno is None:  # decoders raise it too
            raise CaseError(f"The {what} {path}: {_undecodable(error)}") from error
        raise CaseError(
            f"The {what} {path}: the system cannot read it: {error.strerror}. Look at the path and "
            "at its permissions."
        ) from error
    except Exception as error:
        raise CaseError(f"The {what} {path}: {_undecodable(error)}") from error


def _undecodable(error: Exception) -> str:
    words = " ".join(str(error).split())
    return (
        "the file cannot be decoded. It may be corrupt, cut off, or of another format than its "
        f"suffix tells: write it again. ({type(error).__name__}: {words[:300]})"
    )


def need(module: str, extra: str) -> Any:
    """Import a module of an optional package, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f"{module.partition('.')[0]} is needed to read this format and cannot be imported: "
            f'pip install "jaxseg[{extra}]"'
        ) from error


def check_declared(shape: Sequence[int], dtype: np.dtype, stored: int, ratio: float) -> None:
    """Do not believe a header that declares no voxel, or more than the file can hold.

    Args:
      shape: of the array that the header declares.
      dtype: of its values.
      stored: the number of bytes of the file.
      ratio: how many bytes the format's compression can make of one.
    """
    number = math.prod(shape)
    if min(shape, default=1) < 0 or number == 0:
        raise CaseError(f"the header declares the shape {tuple(shape)}: no voxel. Write it again.")
    if number > MAX_VOXELS:
        raise CaseError(
            f"the header declares the shape {tuple(shape)}: {number} voxels, more than the "
            f"{MAX_VOXELS} that are read into memory. If it is right, cut the volume, or save it "
            "as OME-Zarr, which is read in blocks."
        )
    if number * dtype.itemsize > ratio * stored + 2**16:
        raise CaseError(
            f"the header declares the shape {tuple(shape)} of {dtype}, which a file of {stored} "
            "bytes cannot hold. It is cut off or corrupt: write it again."
        )


def spacing_in(values: Sequence[Any], unit: str | None, notes: list[str]) -> tuple[Spacing, str]:
    """The spacing in millimetres and "mm", or as it is and "px" if its unit is not known."""
    spacing = tuple(float(value) for value in values)
    if not all(math.isfinite(value) and value > 0 for value in spacing):
        notes.append(f"The spacing {spacing} in its header is not positive and was not used.")
        return None, "px"
    factor = _MILLIMETRES.get((unit or "").strip().lower().replace("metre", "meter"))
    if factor is None:
        if len(set(spacing)) > 1:
            notes.append(f"Its spacing {spacing} has no known unit: distances are not in mm.")
        return spacing, "px"
    return tuple(factor * value for value in spacing), "mm"


def ids_of(array: np.ndarray, notes: list[str]) -> np.ndarray:
    """Ids as jaxseg takes them: bool or integers of at most 32 bits in the machine's byte order.

    Floats are ids if they are whole.
    """
    kind = array.dtype.kind
    if kind == "b":
        return array.view(np.uint8) != 0  # a byte of a bool may hold more than 0 and 1
    if kind == "f":
        if np.isnan(array).any():
            raise CaseError("it holds NaN, which is no id. Save the ids as integers.")
        if not is_whole(array):
            raise CaseError(
                f"its values are {array.dtype} and not whole numbers, so they are no ids. Save ids "
                "as integers, or scores [..., classes] as NPY or NPZ."
            )
        notes.append(f"Whole numbers of {array.dtype} were read as ids.")
    elif kind not in "iu":
        raise CaseError(f"its values are {array.dtype}, which are no ids. Save ids as integers.")
    if kind in "iu" and (array.dtype.itemsize < 4 or array.dtype == np.int32):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    low, high = array.min(initial=0), array.max(initial=0)
    if low < -(2**31) or high >= 2**31:
        raise CaseError(f"its ids are between {low} and {high}, and ids have at most 32 bits.")
    return array.astype(np.int32)


def is_whole(array: np.ndarray) -> bool:
    """Whether all floats are finite whole numbers; ends at the first block where they are not."""
    rows = array.reshape(-1) if array.ndim == 0 else array
    step = max(1, 2**20 // max(1, math.prod(rows.shape[1:])))
    return all(
        bool((np.isfinite(part) & (part == np.floor(part))).all())
        for part in (rows[start : start + step] for start in range(0, len(rows), step))
    )


def mask_of(ids: np.ndarray, notes: list[str]) -> np.ndarray:
    """A mask for a map of the values 0 and 255 (16 bits: 65535) alone; other ids as they are."""
    if ids.dtype.kind not in "iu" or ids.size == 0:
        return ids
    top = ids.max()
    if top not in (255, 65535):
        return ids
    mask = ids == top
    if np.count_nonzero(mask) != np.count_nonzero(ids):
        return ids
    notes.append(f"A mask of the values 0 and {top} was read as 0 and 1.")
    return mask
