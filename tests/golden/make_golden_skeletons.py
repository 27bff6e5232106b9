"""Golden skeletons of scikit-image: writes ``skeletons.npz``.

The tests read only the file; what is named here is needed to remake it and for nothing else:

    pip install scikit-image==0.26.0 scipy==1.17.1
    python tests/golden/make_golden_skeletons.py

``planes`` are masks ``[N, 21, 23]``, ``volumes`` ``[N, 9, 10, 11]`` and ``slices`` volumes of one
slice; ``planes_thinned`` and so on are the results of ``skimage.morphology.skeletonize``.
"""

import pathlib

import numpy as np
from scipy import ndimage

HERE = pathlib.Path(__file__).parent


def masks(shape: tuple[int, ...], number: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of all densities, blobs, thick lines with holes, and a few shapes."""
    made = [np.zeros(shape, bool), np.ones(shape, bool)]
    for i in range(number):
        noise = rng.random(shape)
        made += [
            noise < i / number,
            ndimage.gaussian_filter(noise, 1.2) > 0.5,
            ndimage.binary_dilation(noise < 0.03 + 0.04 / len(shape)) & (rng.random(shape) < 0.95),
        ]
    squares = ((np.indices(shape) - np.reshape(shape, (-1, *[1] * len(shape))) / 2) ** 2).sum(0)
    made += [squares < r**2 for r in (1.5, 2, 3.2, 4, 6)]
    made += [(squares < 5**2) & (squares > r**2) for r in (1, 2.5, 4)]
    for size in (2, 3, 4, 5, 6):
        block = np.zeros(shape, bool)
        block[tuple(slice(1, 1 + size + i) for i in range(len(shape)))] = True
        made += [block, block[tuple([slice(None, None, -1)] * len(shape))]]
    return np.stack(made)


def main() -> None:
    from skimage.morphology import skeletonize

    rng = np.random.default_rng(20261127)
    golden = {
        "planes": masks((21, 23), 20, rng),
        "volumes": masks((9, 10, 11), 8, rng),
        "slices": masks((1, 10, 11), 5, rng),
    }
    for name in tuple(golden):
        golden[f"{name}_thinned"] = np.stack([skeletonize(x) for x in golden[name]])
    np.savez_compressed(HERE / "skeletons.npz", **golden)
    print({name: x.shape for name, x in golden.items()})


if __name__ == "__main__":
    main()
