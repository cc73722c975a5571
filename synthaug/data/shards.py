"""Sets of images on disk: ArrayRecord shards, each committed exactly once, its marker last."""

from __future__ import annotations

import bisect
import functools
import pathlib
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from synthaug import commit, markers
from synthaug.data import record
from synthaug.data.ahead import in_order
from synthaug.data.writing import ShardWriter
from synthaug.errors import DataError, RunError
from synthaug.markers import Shard

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
    """Writes a shard of images of one shape and its marker exactly once, and returns it; see `ShardWriter`.

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
    with ShardWriter(
        directory, shard_index, settings=settings, weights=weights, attempt=attempt, licences=licences
    ) as writer:
        shape = None
        for i, (header, image) in enumerate(records):
            shape = shape or image.shape
            if image.shape != shape:
                raise ValueError(f"write_shard: image {i} is {list(image.shape)}; expected {list(shape)}.")
            image = np.ascontiguousarray(image)
            writer.add(record.pack(writer.header(first + i, header), image), image.data)
        return writer.commit(first)


_WORTH_A_THREAD = 64 * 64 * 3  # values of an image


class ImageSet:
    """A committed set of images with random access; image i is the same whatever the shard size."""

    def __init__(self, directory: pathlib.Path, shards: Sequence[Shard]) -> None:
        self.directory = directory
        self.shards = tuple(shards)
        self._ends = np.cumsum([shard.count for shard in shards]).tolist()
        self._open_cached = functools.lru_cache(maxsize=_open_limit())(self._open)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageSet, (self.directory, self.shards)  # worker processes open the files themselves

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

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        """Returns images as files: untouched ones as they are, pixels as PNG.

        Args:
            indices: which images, in which order; ascending is fastest.
        """
        return list(self._read(indices, record.unpack_encoded))

    def sources(self, indices: Sequence[int]) -> list[bytes | record.Pixels]:
        """Returns images as they are stored, without decoding them.

        Args:
            indices: which images, in which order; ascending is fastest.
        """
        return [stored for _, stored in self._read(indices, record.unpack_source)]

    def stored(self, indices: Sequence[int]) -> Iterable[tuple[dict[str, Any], bytes]]:
        """Returns an iterable of (header, image as a file as of `encoded`), which reads one at a time.

        Args:
            indices: which images, in which order; ascending is fastest.
        """
        return self._read(indices, record.unpack_stored)

    def load(self, indices: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns images u8[n,H,W,C] and labels i32[n], each decoded once; all of the set by default.

        Args:
            indices: which images, in which order; ascending is fastest.
        """
        wanted = range(len(self)) if indices is None else indices
        images = np.empty((len(wanted), *self.image(0).shape), np.uint8)
        labels = np.empty(len(wanted), np.int32)
        found = self._read(wanted, record.unpack)
        if images[:1].size >= _WORTH_A_THREAD:  # to decode takes longer than to read
            found = in_order(lambda one: self._unpacked(record.unpack, *one), self._records(wanted))
        for row, (header, image) in enumerate(found):
            images[row], labels[row] = image, header["class_index"]
        return images, labels

    def _read(self, indices: Sequence[int], unpack: Callable[[bytes], T]) -> Iterable[T]:
        for number, data in self._records(indices):
            yield self._unpacked(unpack, number, data)

    def _records(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yields (number of its shard, record) of each image."""
        for index in map(int, indices):
            if not 0 <= index < len(self):
                raise IndexError(f"{self.directory}: image {index}; expected 0 to {len(self) - 1}.")
            number = bisect.bisect_right(self._ends, index)
            first = self._ends[number] - self.shards[number].count
            try:
                # one by one: the reader's own threads take up to twice the CPU time for a few records
                data = self._open_cached(number).read([index - first])[0]
            except RuntimeError as error:
                raise self._altered(self.shards[number], str(error).splitlines()[0]) from None
            yield number, data

    def _unpacked(self, unpack: Callable[[bytes], T], number: int, data: bytes) -> T:
        try:
            return unpack(data)
        except (RuntimeError, DataError) as error:
            raise self._altered(self.shards[number], str(error).splitlines()[0]) from None

    def _open(self, number: int) -> ArrayRecordReader:
        shard = self.shards[number]
        # grain's source of the same file takes 0.9 ms to open, this 0.05: a shuffled batch of a large set
        # lies in as many shards as it has images
        path = str(self.directory / shard.file)
        source = ArrayRecordReader(path, options="readahead_buffer_size:0", file_reader_buffer_size=2**15)
        if source.num_records() != shard.count:
            found = source.num_records()
            raise self._altered(shard, f"it holds {found} images, the marker says {shard.count}")
        return source

    def _altered(self, shard: Shard, why: str) -> DataError:
        path = self.directory / shard.file
        return DataError(f"{path}: was altered ({why}); delete it with its marker and run the stage again.")


def _open_limit() -> int:
    """Returns how many shards a set keeps open: a part of what the process may, for it has several sets.

    To open one again costs 0.1 ms; a set may have more shards than a process may open files.
    """
    return max(8, min(2048, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


def open_set(
    directory: pathlib.Path, num_shards: int, *, num_images: int | None = None, verify: bool = False
) -> ImageSet:
    """Returns a set of images, once all its shards are there and each file has the size of its marker.

    Args:
        directory: folder of the set.
        num_shards: shards of the whole set.
        num_images: images of the whole set, those left out included, if known.
        verify: also read every file and compare its hash.

    Raises:
        DataError: shards are missing or altered; the message names them.
    """
    shards = markers.read_markers(directory, num_shards, num_images)
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
    path = markers.marker_path(directory, shard_index)
    if not path.exists():
        return None
    shard = markers.read_marker(path)
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


class Records:
    """Records of other people's ArrayRecord files, an image file in each, by file and row; thread safe."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._open = functools.lru_cache(maxsize=_open_limit())(self._reader)

    def count(self, file: int) -> int:
        """Returns the number of records in a file.

        Raises:
            DataError: it is no whole ArrayRecord file.
        """
        return int(self._open(file).num_records())

    def read(self, file: int, row: int, length: int = 0) -> bytes:
        """Returns one record.

        Raises:
            DataError: it is damaged.
        """
        try:
            return bytes(self._open(file).read([row])[0])
        except (RuntimeError, IndexError, ValueError) as error:
            raise DataError(f"cannot be read from its ArrayRecord ({str(error).splitlines()[0]})") from None

    def _reader(self, file: int) -> ArrayRecordReader:
        try:
            reader = ArrayRecordReader(
                self._paths[file], options="readahead_buffer_size:0", file_reader_buffer_size=2**15
            )
            if reader.num_records():
                return reader
            why = "it has no records"  # what the reader says of torn files, too: the count stands at the end
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
        raise DataError(
            f"{self._paths[file]}: is no whole ArrayRecord ({why}); copy it again or leave it out."
        )
