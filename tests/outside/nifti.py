"""Label maps out of NIfTI-1 files: as much of the format as the files of the tests use."""

import gzip
from pathlib import Path

import numpy as np

TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """The ids ``[*space]`` in the order of the file's axes, and the distance of voxels per axis."""
    content = gzip.decompress(path.read_bytes())
    header = content[:348]
    order = "<" if np.frombuffer(header[:4], "<i4")[0] == 348 else ">"

    def field(start: int, dtype: str, count: int) -> list[float]:
        return np.frombuffer(header, order + dtype, count, start).tolist()

    rank, *sides = field(40, "i2", 8)
    sides = [int(n) for n in sides[: int(rank)]]
    dtype = order + TYPES[int(field(70, "i2", 1)[0])]
    start = int(field(108, "f4", 1)[0])
    slope, intercept = field(112, "f4", 2)
    values = np.frombuffer(content, dtype, int(np.prod(sides)), start).reshape(sides, order="F")
    if slope not in (0.0, 1.0) or intercept:
        values = values * slope + intercept
    ids = values.astype(np.int32)
    assert (ids == values).all()
    return ids, tuple(round(x, 5) for x in field(80, "f4", int(rank)))
