"""The class of every image of a set as one small file, so that nobody reads all images for it."""

from __future__ import annotations

import io
import pathlib

import numpy as np

from synthaug import commit
from synthaug.errors import DataError


def write_labels(folder: pathlib.Path, labels: np.ndarray) -> None:
    """Writes folder/labels.npy, i32[N] in the order of the set's images, exactly once.

    Raises:
        RunError: other labels are there, or the file cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, labels.astype(np.int32), allow_pickle=False)
    commit.write_new(folder / "labels.npy", buffer.getvalue())


def read_labels(folder: pathlib.Path) -> np.ndarray:
    """Returns the class of every image of a set, i32[N].

    Raises:
        DataError: the file is missing or was altered.
    """
    path = folder / "labels.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); make it again: --stage scan --force.") from None
