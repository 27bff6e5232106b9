"""Writes digits.npz, the handwritten digits that m2nist.py puts into its images.

    pip install scikit-learn
    python docs/examples/make_digits.py

It holds all 1,797 images of the test set of "Optical Recognition of Handwritten Digits", 8x8 pixels
of 0 to 16, in the order of the original file, which is roughly the order of the writers.

Credit: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49 (CC BY 4.0). scikit-learn ships them as
``load_digits``.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

NOTE = (
    "Optical Recognition of Handwritten Digits, test set: 1,797 images of 8x8 pixels, 0 to 16. "
    "E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C50P49, CC BY 4.0. Taken from scikit-learn's load_digits, unchanged."
)


def main() -> None:
    digits = load_digits()
    path = Path(__file__).with_name("digits.npz")
    np.savez_compressed(
        path,
        images=digits.images.astype(np.uint8),  # [1797, 8, 8]
        labels=digits.target.astype(np.uint8),  # [1797]
        note=np.array(NOTE),
    )
    print(f"{path}: {len(digits.target)} digits, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
