"""Elements of the surface of a mask between its pixels, and their areas: marching cubes.

Two pixels along each axis are the corners of a cell. The corners that are in the mask are its code,
and the surface in the cell follows from the code: it crosses each edge of the cell that has one end
in the mask in the middle. In 2-D it is made of segments, in 3-D of triangles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

Corner = tuple[int, ...]
Edge = frozenset[Corner]  # of a cell: its two ends
Segment = tuple[Edge, Edge]


def elements(mask: Any, where: Any = None, xp: Any = jnp) -> Any:
    """Codes of the cells of a mask ``[*space]``, uint8 ``[*space + 1]``; 0 where is no surface.

    Pixels of no image are outside the mask. A cell with a pixel that is not valid has no surface.
    """

    def of_corners(x: Any, outside: bool, join: Any) -> Any:
        # The corners that lie behind along one axis are joined to those before them in turn.
        for axis in reversed(range(mask.ndim)):
            sides = [[(0, 0)] * mask.ndim for _ in range(2)]
            sides[0][axis], sides[1][axis] = (1, 0), (0, 1)
            x = join(*(xp.pad(x, each, constant_values=outside) for each in sides), axis)
        return x

    def codes(before: Any, behind: Any, axis: int) -> Any:
        return before | behind << xp.uint8(2 ** (mask.ndim - 1 - axis))

    code = of_corners(mask.astype(xp.uint8), False, codes)
    surface = code != xp.uint8(2**2**mask.ndim - 1)
    if where is not None:
        surface = surface & of_corners(where, True, lambda before, behind, _: before & behind)
    return xp.where(surface, code, xp.uint8(0))


def areas(steps: Any, xp: Any = jnp) -> Any:
    """Area (in 2-D length) of the surface in a cell of each code, for pixels of size ``steps``."""
    ndim = len(steps)
    others = [[b for b in range(ndim) if b != a] for a in range(ndim)]
    faces = xp.stack([math.prod([steps[b] for b in each]) for each in others])
    largest = faces.max()  # squares of parts of it stay in range
    normals = xp.asarray(_normals(ndim)) * (faces / largest).reshape(1, 1, ndim)
    return largest * xp.sqrt((normals**2).sum(-1)).sum(-1)


@cache
def _normals(ndim: int) -> np.ndarray:
    """Normals of the elements of each code, as long as these are large: ``[codes, n, ndim]``."""
    corners = list(itertools.product((0, 1), repeat=ndim))
    found = []
    for code in range(2 ** len(corners)):
        inside = {c for bit, c in enumerate(corners) if code >> bit & 1}
        if 2 * len(inside) > len(corners):  # of two sets that are each other's rest, the smaller
            inside = set(corners) - inside
        segments = [s for face in _faces(ndim) for s in _segments(face, inside)]
        if ndim == 2:
            found.append([np.subtract(*_middles(s))[::-1] for s in segments])
        else:
            found.append([n for loop in _loops(segments) for n in _normals_of(loop)])
    most = max(len(each) for each in found)
    zeros = [np.zeros(ndim)] * most
    return np.array([(each + zeros)[:most] for each in found], np.float32)


def _faces(ndim: int) -> Iterable[list[Corner]]:
    """The squares of a cell, each as its four corners in turn."""
    ring = [(0, 0), (0, 1), (1, 1), (1, 0)]
    if ndim == 2:
        yield [*ring]
        return
    for axis, side in itertools.product(range(3), (0, 1)):
        yield [(*c[:axis], side, *c[axis:]) for c in ring]


def _segments(face: list[Corner], inside: set[Corner]) -> list[Segment]:
    """What the surface cuts of a square; of two opposite corners, each by itself."""
    sides = [frozenset((face[i], face[(i + 1) % 4])) for i in range(4)]
    crossed = [i for i in range(4) if len(sides[i] & inside) == 1]
    if len(crossed) < 4:
        return [(sides[crossed[0]], sides[crossed[1]])] if crossed else []
    return [(sides[i - 1], sides[i]) for i in range(4) if face[i] in inside]


def _loops(segments: list[Segment]) -> Iterable[list[Edge]]:
    """The closed lines that segments form."""
    left = list(segments)
    while left:
        loop = list(left.pop())
        while loop[0] != loop[-1]:
            following = next(s for s in left if loop[-1] in s)
            left.remove(following)
            loop.append(following[1] if following[0] == loop[-1] else following[0])
        yield loop[:-1]


def _middles(edges: Iterable[Edge]) -> list[np.ndarray]:
    return [np.mean(sorted(edge), axis=0) for edge in edges]


def _normals_of(loop: list[Edge]) -> list[np.ndarray]:
    """Normals of a polygon cut into triangles from the corner that gives the fewest planes."""
    points = _middles(loop)

    def planes(first: int) -> list[np.ndarray]:
        apex, *others = points[first:] + points[:first]
        found: dict[tuple[float, ...], np.ndarray] = {}
        for b, c in itertools.pairwise(others):
            normal = np.cross(b - apex, c - apex) / 2
            direction = tuple(np.round(normal / np.linalg.norm(normal), 6).tolist())
            found[direction] = found.get(direction, np.zeros(3)) + normal
        return list(found.values())

    return min((planes(first) for first in range(len(points))), key=len)
