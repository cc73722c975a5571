"""Sets of images on disk: ArrayRecord shards, each committed exactly once, its marker last."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from synthaug import commit, manifest
from synthaug.data import record
from synthaug.errors import DataError, RunError
from synthaug.manifest import Shard

# one record per group: grain reads at random; records are compressed already (PNG)
_WRITER_OPTIONS = "group_size:1,uncompressed"
_OPEN_SHARDS = 32  # a set may have more shards than a process may open files
_BLOCK = 256  # records read at once

T = TypeVar("T")


def write_shard(
    directory: pathlib.Path,
    shard_index: int,
    first: int,
    records: Iterable[tuple[Mapping[str, Any], np.ndarray]],
    *,
    settings: str,
    weights: str,
    attempt: int,
    licences: Sequence[str] = (),
) -> Shard:
    """Writes one shard and its marker exactly once, and returns it.

    The order is: temporary, fsync, hash, create-if-absent of the data file, then of the marker. Killed in
    between, the next attempt completes it; done already with the same bytes, nothing changes.

    Args:
        directory: folder of the set.
        shard_index: number of the shard.
        first: number of its first image in the set.
        records: (header, image u8[H,W,C]) pairs. Headers have at least `class_key` and `class_index`;
            `index`, `settings` and `weights` are added here.
        settings: hash of what makes the images.
        weights: hash of the network; empty for real images.
        attempt: which attempt of the job this is; stands in the marker only.
        licences: keys of the licences that the images come under; they stand in every header, too.

    Raises:
        RunError: another attempt wrote other bytes, or the folder cannot be written.
    """
    path = manifest.marker_path(directory, shard_index).with_suffix(".arrayrecord")
    tmp = commit.temporary(path)
    made_by: dict[str, Any] = {"settings": settings, "weights": weights}
    if licences:
        made_by["licences"] = list(licences)
    try:
        count, pixels = _write_records(tmp, path, _numbered(records, first, made_by))
        sha256, size = commit.sha256_file(tmp), tmp.stat().st_size
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    commit.adopt_new(tmp, path, sha256)
    shard = Shard(
        index=shard_index,
        first=first,
        count=count,
        file=path.name,
        bytes=size,
        sha256=sha256,
        images_sha256=pixels,
        settings=settings,
        weights=weights,
        attempt=attempt,
        licences=tuple(licences),
    )
    manifest.write_marker(directory, shard)
    return shard


def _numbered(
    records: Iterable[tuple[Mapping[str, Any], np.ndarray]], first: int, made_by: Mapping[str, Any]
) -> Iterable[tuple[dict[str, Any], np.ndarray]]:
    shape = None
    for i, (header, image) in enumerate(records):
        shape = shape or image.shape
        if image.shape != shape or not {"class_key", "class_index"} <= header.keys():
            raise ValueError(
                f"write_shard: record {i} is {image.dtype}{list(image.shape)} with header keys "
                f"{sorted(header)}; expected u8{list(shape)} with class_key and class_index."
            )
        yield {**header, "index": first + i, **made_by}, image


def _write_records(
    tmp: pathlib.Path, path: pathlib.Path, records: Iterable[tuple[dict[str, Any], np.ndarray]]
) -> tuple[int, str]:
    """Returns the number of records written to `tmp` and the hash of their pixels."""
    pixels, count = hashlib.sha256(), 0
    with _writer(tmp, path) as write:
        for header, image in records:
            pixels.update(image.tobytes())
            write(record.pack(header, image))
            count += 1
    if not count:
        raise ValueError("write_shard: no records; a shard holds at least one image.")
    return count, pixels.hexdigest()


@contextlib.contextmanager
def _writer(tmp: pathlib.Path, path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends a record; the C++ writer's errors name `path`, others pass."""
    try:
        writer = ArrayRecordWriter(str(tmp), _WRITER_OPTIONS)
    except RuntimeError as error:
        raise commit.write_error(path, error) from None

    def write(data: bytes) -> None:
        try:
            writer.write(data)
        except RuntimeError as error:
            raise commit.write_error(path, error) from None

    try:
        yield write
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    try:
        writer.close()  # here a full disk shows
    except RuntimeError as error:
        raise commit.write_error(path, error) from None


class ImageSet:
    """A committed set of images with random access; image i is the same whatever the shard size."""

    def __init__(self, directory: pathlib.Path, shards: Sequence[Shard]) -> None:
        self.directory = directory
        self.shards = tuple(shards)
        self._ends = np.cumsum([shard.count for shard in shards]).tolist()
        self._open_cached = functools.lru_cache(maxsize=_OPEN_SHARDS)(self._open)

    def __len__(self) -> int:
        return self._ends[-1]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Returns the class index of every image, i32[N]."""
        return np.array([header["class_index"] for header in self.headers()], np.int32)

    def headers(self) -> list[dict[str, Any]]:
        """Returns the header of every image, without decoding them."""
        return list(self._read(range(len(self)), record.unpack_header))

    def header(self, index: int) -> dict[str, Any]:
        """Returns what is known about image `index`: class, origin or prompt, settings."""
        return next(iter(self._read([index], record.unpack_header)))

    def image(self, index: int) -> np.ndarray:
        """Returns image `index` as u8[H,W,C]."""
        return next(iter(self._read([index], record.unpack)))[1]

    def load(self, indices: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns images u8[n,H,W,C] and labels i32[n], each decoded once; all of the set by default.

        Args:
            indices: which images, in which order; ascending is fastest.
        """
        wanted = range(len(self)) if indices is None else indices
        images = np.empty((len(wanted), *self.image(0).shape), np.uint8)
        labels = np.empty(len(wanted), np.int32)
        for row, (header, image) in enumerate(self._read(wanted, record.unpack)):
            images[row], labels[row] = image, header["class_index"]
        return images, labels

    def _read(self, indices: Sequence[int], unpack: Callable[[bytes], T]) -> Iterable[T]:
        for block, shard in self._blocks(indices):
            try:
                source = self._open_cached(shard)
                first = self._ends[shard] - self.shards[shard].count
                for data in source.__getitems__([index - first for index in block]):
                    yield unpack(data)
            except (RuntimeError, DataError) as error:
                raise self._altered(self.shards[shard], str(error).splitlines()[0]) from None

    def _blocks(self, indices: Sequence[int]) -> Iterable[tuple[list[int], int]]:
        """Yields runs of indices that lie in one shard."""
        block, current = list[int](), -1
        for index in map(int, indices):
            if not 0 <= index < len(self):
                raise IndexError(f"{self.directory}: image {index}; expected 0 to {len(self) - 1}.")
            shard = bisect.bisect_right(self._ends, index)
            if block and (shard != current or len(block) == _BLOCK):
                yield block, current
                block = []
            block.append(index)
            current = shard
        if block:
            yield block, current

    def _open(self, number: int) -> ArrayRecordDataSource:
        shard = self.shards[number]
        # one source per shard: given all paths, it would open every file to count its records
        source = ArrayRecordDataSource([str(self.directory / shard.file)])
        if len(source) != shard.count:
            raise self._altered(shard, f"it holds {len(source)} images, the marker says {shard.count}")
        return source

    def _altered(self, shard: Shard, why: str) -> DataError:
        path = self.directory / shard.file
        return DataError(f"{path}: was altered ({why}); delete it with its marker and run the stage again.")


def open_set(
    directory: pathlib.Path, num_shards: int, *, num_images: int | None = None, verify: bool = False
) -> ImageSet:
    """Returns a set of images, once all its shards are there and each file has the size of its marker.

    Args:
        directory: folder of the set.
        num_shards: shards of the whole set.
        num_images: images of the whole set, if known.
        verify: also read every file and compare its hash.

    Raises:
        DataError: shards are missing or altered; the message names them.
    """
    shards = manifest.read_markers(directory, num_shards, num_images)
    for shard in shards:
        _check_file(directory, shard, verify)
    return ImageSet(directory, shards)


def open_shard(
    directory: pathlib.Path, shard_index: int, made_by: Mapping[str, Any] | None = None
) -> ImageSet | None:
    """Returns the images of one committed shard, numbered from 0, or None if its marker is not there.

    Args:
        directory: folder of the set.
        shard_index: number of the shard.
        made_by: "settings", "weights" and "licences" that the shard must come from; None to take any.

    Raises:
        DataError: the marker or the file was altered.
        RunError: something else made the shard.
    """
    path = manifest.marker_path(directory, shard_index)
    if not path.exists():
        return None
    shard = manifest.read_marker(path)
    for name, expected in (made_by or {}).items():
        if (found := getattr(shard, name)) != expected:
            raise RunError(
                f"{path}: made with {name} {found!r}; expected {expected!r}; choose another run name, or "
                f"delete {directory}."
            )
    _check_file(directory, shard, verify=False)
    return ImageSet(directory, [shard])


def _check_file(directory: pathlib.Path, shard: Shard, verify: bool) -> None:
    path = directory / shard.file
    if not path.is_file():
        raise DataError(
            f"{path}: is missing though its marker is there; delete the marker and run the stage again."
        )
    if (size := path.stat().st_size) != shard.bytes:
        raise _differs(path, f"{size} bytes", f"{shard.bytes}")
    if verify and (found := commit.sha256_file(path)) != shard.sha256:
        raise _differs(path, f"sha256 {found}", shard.sha256)


def _differs(path: pathlib.Path, found: str, expected: str) -> DataError:
    return DataError(
        f"{path}: was altered: has {found}; its marker says {expected}; delete both and run the stage again."
    )
