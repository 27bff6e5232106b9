"""Small made label maps with the names, ids and instances of Cityscapes; needs NumPy and Pillow."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

HEIGHT, WIDTH, BLOCK = 64, 128, 8
CITIES = ("frankfurt", "lindau", "munster")
IDS, THINGS = 34, range(24, 34)  # ids of instances are 1000 times the id and a number


class Frame(NamedTuple):
    """One image; its name is that of its files up to their last parts."""

    city: str
    name: str
    prediction: np.ndarray  # uint8 ids [H, W]
    labels: np.ndarray  # uint8 ids [H, W]
    instances: np.ndarray  # uint16 [H, W]


def frames(number: int = 20, seed: int = 0) -> list[Frame]:
    """Frames in which each of the 34 ids is true and predicted, the void ones as well."""
    rng = np.random.default_rng(seed)
    return [_frame(rng, k) for k in range(number)]


def _frame(rng: np.random.Generator, number: int) -> Frame:
    labels = _blocks(rng, rng.permutation(min(THINGS)))
    instances = labels.astype(np.uint16)
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    for thing in range(rng.integers(8, 16)):
        of_class = int(rng.choice(THINGS))
        centre, radii = rng.random(2) * (HEIGHT, WIDTH), 2 + rng.random(2) * 14
        disc = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1
        is_crowd = rng.random() < 0.2  # a crowd has no instances
        labels[disc], instances[disc] = of_class, of_class if is_crowd else 1000 * of_class + thing
    prediction = np.roll(labels, rng.integers(-2, 3, 2), (0, 1))
    is_wrong = np.kron(rng.random((HEIGHT // BLOCK, WIDTH // BLOCK)), _ONES) < 0.25
    prediction = np.where(is_wrong, _blocks(rng, np.arange(IDS)), prediction)
    city = CITIES[number % len(CITIES)]
    return Frame(city, f"{city}_{number:06}_{19 + number:06}", prediction, labels, instances)


_ONES = np.ones((BLOCK, BLOCK), np.uint8)


def _blocks(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """Square blocks of random ids."""
    of_block = rng.choice(ids, (HEIGHT // BLOCK, WIDTH // BLOCK)).astype(np.uint8)
    return np.kron(of_block, _ONES)


def write(folder: Path) -> tuple[Path, Path]:
    """Write the frames as Cityscapes has them; the folders of the predictions and of the truth."""
    predictions, truth = folder / "results", folder / "gtFine" / "val"
    for frame in frames():
        for path, image in (
            (predictions / frame.city / f"{frame.name}_pred_labelIds.png", frame.prediction),
            (truth / frame.city / f"{frame.name}_gtFine_labelIds.png", frame.labels),
            (truth / frame.city / f"{frame.name}_gtFine_instanceIds.png", frame.instances),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return predictions, truth
