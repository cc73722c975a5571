"""Writing of one shard, record by record: the one place that knows ArrayRecord's writer."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from synthaug import commit, markers
from synthaug.markers import Shard

# one record per group: grain reads at random; records are compressed already
_WRITER_OPTIONS = "group_size:1,uncompressed"


def whole_header(
    number: int, header: Mapping[str, Any], *, settings: str, weights: str, licences: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the whole header of image `number` of a set, from at least `class_key` and `class_index`.

    The other arguments are those of `ShardWriter`.
    """
    if not {"class_key", "class_index"} <= header.keys():
        raise ValueError(f"write_shard: header keys {sorted(header)}; expected class_key and class_index.")
    made_by: dict[str, Any] = {"settings": settings, "weights": weights}
    if licences:
        made_by["licences"] = list(licences)
    return {**header, "index": number, **made_by}


class ShardWriter:
    """One attempt at writing one shard and its marker exactly once; a context that cleans up after an error.

    The order is: temporary, fsync, hash, create-if-absent of the data file, then of the marker. Killed in
    between, the next attempt completes it; done already with the same bytes, nothing changes.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        shard_index: int,
        *,
        settings: str,
        weights: str,
        attempt: int,
        licences: Sequence[str] = (),
    ) -> None:
        """Opens the temporary file.

        Args:
            directory: folder of the set.
            shard_index: number of the shard.
            settings: hash of what makes the images.
            weights: hash of the network; empty for real images.
            attempt: which attempt of the job this is; stands in the marker only.
            licences: keys of the licences that the images come under; they stand in every header, too.

        Raises:
            RunError: the folder cannot be written.
        """
        self.path = markers.marker_path(directory, shard_index).with_suffix(".arrayrecord")
        self.index, self.attempt, self.count = shard_index, attempt, 0
        self.settings, self.weights, self.licences = settings, weights, tuple(licences)
        self._pixels = hashlib.sha256()
        self._tmp = commit.temporary(self.path)
        with self._disk():
            self._writer = ArrayRecordWriter(str(self._tmp), _WRITER_OPTIONS)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(RuntimeError):  # closed already, if it was committed
            self._writer.close()
        self._tmp.unlink(missing_ok=True)

    def header(self, number: int, header: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the whole header of image `number` of the set.

        Args:
            number: place in the set.
            header: at least `class_key` and `class_index`.
        """
        return whole_header(
            number, header, settings=self.settings, weights=self.weights, licences=self.licences
        )

    def add(self, data: bytes, content: bytes | memoryview) -> None:
        """Writes the next record.

        Args:
            data: from `record.pack`, `pack_pixels` or `pack_file`.
            content: what the hash of the images is of: the pixels in order, or an untouched file's SHA-256.
        """
        self._pixels.update(content)
        with self._disk():
            self._writer.write(data)
        self.count += 1

    def commit(self, first: int, left_out: Mapping[str, str] | None = None) -> Shard:
        """Writes the shard under its name, then the marker, and returns it.

        Args:
            first: number of its first image in the set.
            left_out: source id -> reason of the images among its numbers that could not be read.

        Raises:
            RunError: another attempt wrote other bytes, or the disk is full.
        """
        if not self.count and not left_out:
            raise ValueError("write_shard: no records; a shard holds at least one image.")
        with self._disk():
            self._writer.close()  # here a full disk shows
        sha256, size = commit.sha256_file(self._tmp), self._tmp.stat().st_size
        commit.adopt_new(self._tmp, self.path, sha256)
        shard = Shard(
            index=self.index,
            first=first,
            count=self.count,
            file=self.path.name,
            bytes=size,
            sha256=sha256,
            images_sha256=self._pixels.hexdigest(),
            attempt=self.attempt,
            left_out=dict(left_out or {}),
            settings=self.settings,
            weights=self.weights,
            licences=self.licences,
        )
        markers.write_marker(self.path.parent, shard)
        return shard

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Gives the C++ writer's errors the name of the file."""
        try:
            yield
        except RuntimeError as error:
            raise commit.write_error(self.path, error) from None
