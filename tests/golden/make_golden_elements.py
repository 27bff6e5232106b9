"""Areas and scores of DeepMind's surface-distance 0.1 for ``elements.json``.

Run in an environment of its own: ``pip install "numpy<2" scipy surface-distance==0.1``.
"""

import itertools
import json
from pathlib import Path

import numpy as np


def ellipsoids(spacing):
    """Two masks that the image cuts, of 30 pixels along the first axis and fewer along others."""
    grid = np.ogrid[tuple(slice(0, 30 - 5 * a) for a in range(len(spacing)))]
    centres, radii = [[9, 11, 8], [11, 10, 9]], [[12, 7, 6], [9, 9, 5]]
    return [
        sum(((x - c) / r) ** 2 for x, c, r in zip(grid, *of_mask)) <= 1
        for of_mask in zip(centres, radii)
    ]


def areas(ndim, spacing):
    from surface_distance import lookup_tables

    kernel, table = {
        2: (
            lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL,
            lookup_tables.create_table_neighbour_code_to_contour_length,
        ),
        3: (
            lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL,
            lookup_tables.create_table_neighbour_code_to_surface_area,
        ),
    }[ndim]
    corners, found = list(itertools.product((0, 1), repeat=ndim)), table(np.array(spacing))
    codes = range(2 ** len(corners))
    bits = [[np.array(kernel)[c] for k, c in enumerate(corners) if code >> k & 1] for code in codes]
    return [round(float(found[int(sum(each))]), 6) for each in bits]


def scores(spacing):
    import surface_distance as sd

    p, g = ellipsoids(spacing)
    d = sd.compute_surface_distances(g, p, spacing)  # the truth comes first
    of_g, of_p = sd.compute_average_surface_distance(d)
    numbers = {
        "average": [of_p, of_g],
        "hd": sd.compute_robust_hausdorff(d, 100),
        "hd95": sd.compute_robust_hausdorff(d, 95),
        "hd50": sd.compute_robust_hausdorff(d, 50),
        "dice": sd.compute_surface_dice_at_tolerance(d, 1.01),
    }
    return {name: np.asarray(x).tolist() for name, x in numbers.items()}


if __name__ == "__main__":
    spacings = [(1.3, 0.7), (1.3, 0.7, 2.1)]
    golden = [
        {"spacing": s, "areas": areas(len(s), s), "scores": scores(s)} for s in map(list, spacings)
    ]
    text = ",\n".join(json.dumps(each) for each in golden)
    Path(__file__).with_name("elements.json").write_text(f"[{text}]\n")
