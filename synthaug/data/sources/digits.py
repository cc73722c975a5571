"""The handwritten digits that scikit-learn bundles: 1797 images of 8x8 grey pixels."""

from __future__ import annotations

import functools

import numpy as np

from synthaug.data.sources.found import Found

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def find() -> Found:
    """Returns the digits, class by class, in each class in the order of the data set."""
    labels = _load()[1]
    found = Found(files=["digits"], keys=[str(k) for k in range(10)])
    found.names = {str(k): name for k, name in enumerate(NAMES)}
    for row in np.argsort(labels, kind="stable").tolist():
        found.add(f"digits/{row:04d}", 0, row, 0, int(labels[row]))
    return found


def read(row: int) -> np.ndarray:
    """Returns one digit as u8[8,8,1]."""
    return _load()[0][row].copy()


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # a second to import, and only here

    raw = load_digits()
    return np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None], raw.target  # 0..16 -> 0..255
