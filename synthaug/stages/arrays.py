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


def write_mapped(path: pathlib.Path, *blocks: np.ndarray) -> str:
    """Writes blocks [n_i, ...] of equal kind as one npy file, atomically, and returns its SHA-256."""
    shape = (sum(map(len, blocks)), *blocks[0].shape[1:])
    tmp, sha256 = commit.temporary(path), hashlib.sha256()
    header = io.BytesIO()
    kind = np.lib.format.dtype_to_descr(blocks[0].dtype)
    description = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    pieces: list[bytes | memoryview] = [header.getvalue(), *map(_bytes, blocks)]
    try:
        with open(tmp, "wb") as file:
            for data in pieces:
                file.write(data)
                sha256.update(data)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise commit.write_error(path, error) from None
    commit.adopt(tmp, path)
    return sha256.hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_mapped(path: pathlib.Path, sha256: str) -> np.ndarray:
    """Returns the array of a file that `write_mapped` wrote; its rows stay on the disk.

    Raises:
        DataError: the file is missing or is not what was written.
    """
    commit.check_result(path, sha256)
    return np.load(path, mmap_mode="r", allow_pickle=False)
