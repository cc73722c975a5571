"""Small files of arrays that one stage leaves to the next: written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import io
import pathlib

import numpy as np

from synthaug import commit


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> str:
    """Writes an npz file atomically and returns its SHA-256, which belongs into the stage's result."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    commit.replace(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_arrays(path: pathlib.Path, sha256: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a file that `write_arrays` wrote.

    Raises:
        DataError: the file is missing or is not what was written.
    """
    commit.check_result(path, sha256)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
