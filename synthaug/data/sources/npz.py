"""ADM's sample files: an npz with arr_0, u8[N,H,W,C] pixels, and arr_1, N labels."""

from __future__ import annotations

import pathlib
import threading
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from synthaug.data.sources.found import Found, paths_of, short_names
from synthaug.errors import DataError

_MAX_UNPACKED = 4 << 30  # bytes of a deflated file, which cannot be read in parts


class _Array(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None  # of the values in the file; None if they are deflated


def find(text: str, where: str) -> Found:
    """Returns the images of npz files.

    Args:
        text: a file, a folder or a pattern.
        where: the knob, for errors.

    Raises:
        DataError: no files, no npz, no labels, or other shapes.
    """
    paths = paths_of(text, where, "npz files with arr_0 and arr_1", r"\.npz$")
    found = Found(files=[str(path) for path in paths])
    for file, (path, name) in enumerate(zip(paths, short_names(paths), strict=True)):
        pixels, labels = _pixels(path), _labels(path)
        if len(labels) != pixels.shape[0]:
            raise DataError(
                f"{path}: arr_1 has {len(labels)} labels for {pixels.shape[0]} images; expected one for each."
            )
        for row, label in enumerate(labels.tolist()):
            found.add(f"{name}/{row:06d}", file, row, 0, label)
    return found


def find_pixels(paths: Sequence[pathlib.Path]) -> Found:
    """Returns the images of npz files, labelled or not; see `Arrays` for the array that counts.

    Raises:
        DataError: no npz, no pixels, or too many to unpack.
    """
    found = Found(files=[str(path) for path in paths])
    for file, (path, name) in enumerate(zip(paths, short_names(paths), strict=True)):
        for row in range(_pixels(path).shape[0]):
            found.add(f"{name}/{row:06d}", file, row, 0, -1)
    return found


def arrays_of(path: pathlib.Path) -> list[str]:
    """Returns the names of the arrays in an npz.

    Raises:
        DataError: it is no whole npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [info.filename.removesuffix(".npy") for info in archive.infolist()]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _not_whole(path, error) from None


def _pixels_name(path: pathlib.Path) -> str:
    """Returns the name of the array of pixels: arr_0, else the only one that is u8 with 4 axes."""
    names = arrays_of(path)
    if "arr_0" in names:
        return "arr_0"
    arrays = {name: _array(path, name) for name in names}
    fit = [name for name, array in arrays.items() if array.dtype == np.uint8 and len(array.shape) == 4]
    if len(fit) == 1:
        return fit[0]
    held = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
    what = f"{len(fit)} arrays of pixels" if fit else "no pixels"
    raise DataError(
        f"{path}: has {what}: it holds {held or 'nothing'}; expected arr_0, or one array u8[N,H,W,3]."
    )


def _pixels(path: pathlib.Path) -> _Array:
    """Returns where the pixels of a file are.

    Raises:
        DataError: no pixels, or too many to unpack.
    """
    name = _pixels_name(path)
    array = _array(path, name)
    if array.dtype != np.uint8 or len(array.shape) != 4 or array.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: {name} is {array.dtype}{list(array.shape)}; expected u8[N,H,W,3] or u8[N,H,W,1]."
        )
    size = int(np.prod(array.shape, dtype=np.int64))
    if array.offset is None and size > _MAX_UNPACKED:
        raise DataError(
            f"{path}: is compressed, and {size >> 30} GB when unpacked; write it with np.savez, not "
            "np.savez_compressed, so that it can be read in parts."
        )
    return array


def _labels(path: pathlib.Path) -> np.ndarray:
    array = _array(path, "arr_1")
    if not np.issubdtype(array.dtype, np.integer) or len(array.shape) != 1:
        raise DataError(f"{path}: arr_1 is {array.dtype}{list(array.shape)}; expected N integer labels.")
    with np.load(path, allow_pickle=False) as file:
        try:
            return file["arr_1"].astype(np.int64)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: arr_1 cannot be read ({error}); fetch the file again.") from None


def _array(path: pathlib.Path, name: str) -> _Array:
    """Returns shape, kind and place of an array without reading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
            if name not in names:
                what = "no labels: it" if name == "arr_1" else "no pixels: it"
                raise DataError(
                    f"{path}: has {what} holds {', '.join(names)}; expected arr_0 with pixels and arr_1 with "
                    "labels, as ADM's sampler writes them."
                )
            info = archive.infolist()[names.index(name)]
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0
                if version != (1, 0):
                    read = np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(member)
                header = member.tell()
        if fortran and len(shape) > 1:
            raise DataError(f"{path}: {name} is in Fortran order; write it in C order.")
        offset = None
        if info.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                file.seek(info.header_offset)
                local = file.read(30)
            # lengths of name and extra field stand in the local header; the central one may differ
            lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            offset = info.header_offset + 30 + lengths + header
        return _Array(shape, dtype, offset)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _not_whole(path, error) from None


def _not_whole(path: pathlib.Path, error: Exception) -> DataError:
    return DataError(f"{path}: is no whole npz ({error}); expected one as np.savez writes it.")


class Arrays:
    """Reads images of npz files: of arr_0, else of the only array that can be pixels.

    Stored files stay on the disk, deflated ones are unpacked once.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._open: dict[int, np.ndarray] = {}

    def read(self, file: int, row: int, length: int = 0) -> np.ndarray:
        """Returns one image as u8[H,W,C]."""
        with self._lock:
            if file not in self._open:
                self._open[file] = _load(pathlib.Path(self._paths[file]))
            pixels = self._open[file]
        if row >= len(pixels):
            raise DataError(f"{self._paths[file]}: has no image {row}; it had when it was listed")
        return np.array(pixels[row])


def _load(path: pathlib.Path) -> np.ndarray:
    array = _pixels(path)
    try:
        if array.offset is not None:
            return np.memmap(path, np.uint8, "r", array.offset, array.shape)
        with np.load(path, allow_pickle=False) as file:
            return file[_pixels_name(path)]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the pixels cannot be read ({error})") from None
