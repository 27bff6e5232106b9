"""Pictures of where a prediction and its truth differ, as PNG in a data URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.evaluation._case import LabelMap
from jaxseg.evaluation._readers import Image
from jaxseg.evaluation._records import CaseError

LARGEST = 512  # pixels of the longer side
SMALLEST = 320
MOST_VOXELS = 2**28  # a picture is not worth the time to read more

# What a pixel may be, the gravest last; its colour and that of its hatching, for any eyes (Okabe
# and Ito's colours), and for paper without colours.
BACKGROUND, UNCOUNTED, POSITIVE, CONFUSED, FALSE_POSITIVE, FALSE_NEGATIVE = range(6)
COLOURS = {
    UNCOUNTED: ("#8a8f98", "#8a8f98"),
    POSITIVE: ("#009e73", "#009e73"),
    CONFUSED: ("#cc79a7", "#7a2f5a"),
    FALSE_POSITIVE: ("#e69f00", "#8a4b00"),
    FALSE_NEGATIVE: ("#0072b2", "#9bd3f5"),
}


class Picture(NamedTuple):
    """A picture, what part of the case it shows, and what is in it."""

    uri: str
    width: int
    height: int
    part: str  # "slice 12 of 40 along axis 2"; "" of a whole image
    kinds: tuple[int, ...]


def picture(
    prediction: Image, labels: Image, *, foreground: Sequence[int], counted: Sequence[int] = ()
) -> Picture:
    """The prediction over the truth, of two images as the readers give them.

    Args:
        prediction: has ``array``, ids or a mask ``[*space]``, or masks ``[*space, segments]``.
        labels: the same of the truth, with ``spacing`` and ``affine``.
        foreground: the ids that are not background.
        counted: the true ids that were scored; those of other pixels were ignored. All, if empty.

    Returns:
        The picture; in 3-D, of the slice with the most wrong voxels.
    """
    p, t = prediction.array, labels.array
    if p.shape != t.shape:
        raise CaseError(f"The shapes differ, {tuple(p.shape)} and {tuple(t.shape)}.")
    if int(np.prod(t.shape, dtype=np.int64)) > MOST_VOXELS:
        raise CaseError(f"{tuple(t.shape)} voxels are too many for a picture.")
    segments = getattr(labels, "names", None) is not None
    space = t.shape[:-1] if segments else t.shape
    if len(space) not in (2, 3):
        raise CaseError(f"Pictures are of 2 or 3 axes, and these have {len(space)}.")
    spacing = tuple(labels.spacing or (1.0,) * len(space))

    if len(space) == 2:
        codes, part = _codes(p, t, foreground, counted, segments), ""
    else:
        axis = 2 - int(np.argmin(space[::-1]))  # the shortest, or the last of equals
        codes, part = _worst_slice(p, t, axis, foreground, counted, segments)
        spacing = spacing[:axis] + spacing[axis + 1 :]
        if axis == 2 and getattr(labels, "affine", None) is not None:
            codes, spacing = codes.T[::-1], spacing[::-1]  # from left to right, and upwards

    codes = _resize(_crop(codes), spacing)
    kinds = tuple(kind for kind in COLOURS if (codes == kind).any())
    height, width = codes.shape
    return Picture(_uri(_hatch(codes)), width, height, part, kinds)


def _worst_slice(
    p: LabelMap,
    t: LabelMap,
    axis: int,
    foreground: Sequence[int],
    counted: Sequence[int],
    segments: bool,
) -> tuple[np.ndarray, str]:
    """The slice with the most wrong pixels, read one by one, so that a huge array need not fit."""
    worst, most, at = np.zeros((0, 0), np.uint8), -1, 0
    for i in range(t.shape[axis]):
        index = (slice(None),) * axis + (i,)
        codes = _codes(p[index], t[index], foreground, counted, segments)
        wrong = int((codes >= CONFUSED).sum())
        if wrong > most:
            worst, most, at = codes, wrong, i
    return worst, f"slice {at + 1} of {t.shape[axis]} along axis {axis}"


def _codes(
    p: LabelMap, t: LabelMap, foreground: Sequence[int], counted: Sequence[int], segments: bool
) -> np.ndarray:
    p, t = np.asarray(p), np.asarray(t)
    if segments:
        predicted, true, same = p.any(-1), t.any(-1), (p == t).all(-1)
    else:
        predicted, true, same = np.isin(p, foreground), np.isin(t, foreground), p == t
    kinds = [BACKGROUND] * 2 + [FALSE_POSITIVE] * 2 + [FALSE_NEGATIVE] * 2 + [CONFUSED, POSITIVE]
    codes = np.take(np.array(kinds, np.uint8), true * np.uint8(4) + predicted * np.uint8(2) + same)
    if len(counted) and not segments:
        codes[~np.isin(t, counted)] = UNCOUNTED
    return codes


def _crop(codes: np.ndarray) -> np.ndarray:
    """What is not background, with some background around it."""
    spans = []
    for axis, size in enumerate(codes.shape):
        used = np.flatnonzero((codes != BACKGROUND).any(1 - axis))
        first, last = (used[0], used[-1] + 1) if used.size else (0, size)
        margin = max(size // 16, (size // 4 - (last - first)) // 2)  # no less than a quarter
        spans.append(slice(max(first - margin, 0), last + margin))
    return codes[tuple(spans)]


def _resize(codes: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """At its true proportions and a size for a page; a wrong pixel does not get lost."""
    lengths = [n * s for n, s in zip(codes.shape, spacing, strict=True)]
    longest = min(max(max(lengths) / min(spacing), SMALLEST), LARGEST)
    for axis, length in enumerate(lengths):
        old, new = codes.shape[axis], max(round(longest * length / max(lengths)), 1)
        index = np.arange(new) * old // new
        if new <= old:  # the gravest of the pixels that fall together
            codes = np.maximum.reduceat(codes, index, axis=axis)
        else:
            codes = codes.take(index, axis)
    return codes


def _hatch(codes: np.ndarray) -> np.ndarray:
    """Codes whose hatched pixels are 8 greater."""
    y, x = np.ogrid[: codes.shape[0], : codes.shape[1]]
    rising, falling = (x + y) % 8 < 2, (x - y) % 8 < 2
    hatched = (
        ((codes == FALSE_POSITIVE) & rising)
        | ((codes == FALSE_NEGATIVE) & falling)
        | ((codes == CONFUSED) & (rising | falling))
    )
    return codes + np.uint8(8) * hatched


def _uri(indices: np.ndarray) -> str:
    from PIL import Image

    palette = np.zeros((16, 3), np.uint8)
    for kind, (plain, hatched) in COLOURS.items():
        palette[kind] = list(bytes.fromhex(plain[1:]))
        palette[kind + 8] = list(bytes.fromhex(hatched[1:]))
    image = Image.fromarray(np.ascontiguousarray(indices, np.uint8))
    image.putpalette(palette.tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, transparency=BACKGROUND)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
