"""Reads single images of a listing, in any order and from any thread."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable

import numpy as np

from synthaug.data.listing import Listing
from synthaug.data.shards import Records
from synthaug.data.sources import columns, digits, npz, shardset, zips
from synthaug.errors import DataError, RunError

_MAX_BYTES = 1 << 30  # of one image file
_OPEN_FILES = 128  # kept open; a source of 1024 shards would exceed the limit of a process


class Reader:
    """Images of a listing by row number; thread safe."""

    def __init__(self, listing: Listing) -> None:
        """Opens nothing yet."""
        self.listing = listing
        self._read = _reads(listing)

    def read(self, row: int) -> bytes | np.ndarray:
        """Returns the untouched file of one image, or u8[H,W,C] where the source holds pixels.

        Args:
            row: 0 to len(listing) - 1.

        Raises:
            DataError: the image cannot be read; decoding is up to the caller.
        """
        listing = self.listing
        return self._read(int(listing.file[row]), int(listing.offset[row]), int(listing.length[row]))


def _reads(listing: Listing) -> Callable[[int, int, int], bytes | np.ndarray]:
    """Returns what reads one image, given file, offset and length of its row."""
    if listing.source == "digits":
        return lambda file, offset, length: digits.read(offset)
    if listing.source == "parquet":
        return columns.Columns(listing).read
    if listing.source == "npz":
        return npz.Arrays(listing.files).read
    if listing.source == "manifest":
        return shardset.Shards(listing.files).read
    if listing.source == "arrayrecord":
        return Records(listing.files).read
    files = _Files(listing.files)
    if listing.source == "zip":
        return lambda file, offset, length: zips.content(
            lambda at, size: files.read(file, at, size), offset, length, _MAX_BYTES
        )
    return files.read


class _Files:
    """Bytes of files that are stored as they are."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}  # file -> descriptor; never closed early: another thread may read
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open)

    def read(self, file: int, offset: int, length: int) -> bytes:
        path = self._paths[file]
        if length > _MAX_BYTES:
            raise DataError(f"has {length} bytes, more than {_MAX_BYTES}: no image")
        try:
            if length < 0:
                return _read_whole(path)
            with self._lock:
                if file not in self._open and len(self._open) < _OPEN_FILES:
                    self._open[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                descriptor = self._open.get(file)
            data = (
                _read_once(path, offset, length)
                if descriptor is None
                else os.pread(descriptor, length, offset)
            )
        except (FileNotFoundError, BlockingIOError) as error:
            # the source moved or its disk is away: no image is at fault, and none may be left out for it
            raise RunError(
                f"{path}: cannot be read ({error.strerror}); bring it back and run again."
            ) from None
        except OSError as error:
            if error.errno in (errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EMFILE, errno.ENOMEM):
                raise RunError(f"{path}: cannot be read ({error.strerror}); run again when it can.") from None
            raise DataError(f"cannot be read ({error.strerror})") from None
        if len(data) < length:
            raise DataError(f"{path}: ends at byte {offset + len(data)}; it was longer when it was listed")
        return data


def _read_whole(path: str) -> bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise DataError(f"has more than {_MAX_BYTES} bytes: no image")
        return file.read()


def _read_once(path: str, offset: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
