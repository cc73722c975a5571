"""ImageNet as TFRecords: those of the Cloud TPU converter, and those of TFDS imagenet2012.

| | image | label | name |
|---|---|---|---|
| TPU | image/encoded | image/class/synset, else image/class/label from 1 | image/filename |
| TFDS | image | label from 0; keys in label.labels.txt beside | file_name |

The checksum of each record's length is verified; that of its data is not, because listing would have to
read every byte of the source: the decoder notices a torn image.
"""

from __future__ import annotations

import contextlib
import mmap
import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

from synthaug.data.sources.classes import read_list
from synthaug.data.sources.found import Found, Labels, paths_of, short_names
from synthaug.errors import DataError

NAMES = r"\.tfrecords?(-|\.|$)|-[0-9]{5}-of-[0-9]{5}$"
_WANTED = {
    *(b"image/encoded", b"image/filename", b"image/class/synset", b"image/class/label"),
    *(b"image", b"file_name", b"label"),
}


class _Span(NamedTuple):
    """A value in the file: the bytes from `start` to `end`, or a number."""

    start: int
    end: int
    number: int | None = None


class _NoExample(ValueError):
    """The bytes are no tf.train.Example."""


def find(text: str, where: str) -> Found:
    """Returns the images in TFRecord files.

    Args:
        text: a file, a folder or a pattern.
        where: the knob, for errors.

    Raises:
        DataError: no files, broken framing, or records of another layout.
    """
    paths = paths_of(text, where, "TFRecord files such as train-00000-of-01024", NAMES)
    found, labels = Found(files=[str(path) for path in paths]), Labels(where)
    by_tfds = False
    for file, (path, name) in enumerate(zip(paths, short_names(paths), strict=True)):
        with _mapped(path) as data:
            for number, (start, end) in enumerate(_records(data, path)):
                try:
                    values = dict(_features(data, start, end))
                    image, image_name, label, tfds = _meaning(data, values)
                except _NoExample as error:
                    raise DataError(
                        f"{path}: record {number} {error}; expected ImageNet as written by the TPU converter "
                        "or by TFDS."
                    ) from None
                by_tfds |= tfds
                source_id = f"{name}/{number:05d}/{image_name}"
                label = labels.number(label, source_id)
                found.add(source_id, file, image.start, image.end - image.start, label)
    labels.into(found)
    names = paths[0].parent / "label.labels.txt"
    if by_tfds and found.keys is None and names.is_file():
        found.names = read_list(str(names), where)
        found.keys, found.numbered = list(found.names), True
    return found


def _meaning(data: mmap.mmap, values: dict[bytes, _Span]) -> tuple[_Span, str, str | int, bool]:
    """Returns image, its name, its label, and whether the label is one of TFDS."""
    images = [values[key] for key in (b"image/encoded", b"image") if key in values]
    if not images or images[0].number is not None:
        raise _NoExample("has no image/encoded and no image")
    name = _text(data, values, b"image/filename") or _text(data, values, b"file_name")
    synset = _text(data, values, b"image/class/synset")
    if synset:
        return images[0], name, synset, False
    for key, first in ((b"image/class/label", 1), (b"label", 0)):
        if key in values and (number := values[key].number) is not None:
            return images[0], name, number - first, first == 0
    raise _NoExample("has no image/class/synset, image/class/label or label")


def _text(data: mmap.mmap, values: dict[bytes, _Span], key: bytes) -> str:
    span = values.get(key)
    return "" if span is None else data[span.start : span.end].decode(errors="replace")


# ------------------------------------------------------------------------------------------ framing


@contextlib.contextmanager
def _mapped(path: pathlib.Path) -> Iterator[mmap.mmap]:
    """Yields a file as memory: records are short texts around images that need not be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            data.madvise(mmap.MADV_RANDOM)
            yield data
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights.") from None
    except ValueError as error:  # of mmap, on an empty file
        raise DataError(f"{path}: is empty; expected TFRecords: fetch the file again.") from error


def _records(data: mmap.mmap, path: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of each record: u64 length, u32 its checksum, the data, u32 their checksum."""
    at, size = 0, len(data)
    while at < size:
        head = data[at : at + 12]
        if len(head) == 12 and struct.unpack_from("<I", head, 8)[0] != _masked_crc(head[:8]):
            if head.startswith(b"\x1f\x8b"):
                raise DataError(
                    f"{path}: is compressed; images inside can only be read at random from plain TFRecords: "
                    "decompress it first."
                )
            raise DataError(
                f"{path}: byte {at}: the checksum of the record's length is wrong; the file is damaged or no "
                "TFRecord file: fetch it again."
            )
        end = at + 12 + struct.unpack_from("<Q", head)[0] if len(head) == 12 else size
        if end + 4 > size:
            raise DataError(
                f"{path}: ends inside of the record at byte {at}; it is truncated: fetch it again."
            )
        yield at + 12, end
        at = end + 4


def _masked_crc(data: bytes) -> int:
    """Returns CRC-32C, rotated and shifted as TFRecords store it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli's polynomial, reflected
    return byte


_TABLE = tuple(map(_crc_of, range(256)))

# ---------------------------------------------------------------------------- tf.train.Example, on the wire


def _features(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[bytes, _Span]]:
    """Yields (key, first value) of every feature that is looked at here."""
    for _, features in _fields(data, start, end, 1):
        for _, entry in _fields(data, features.start, features.end, 1):
            parts = dict(_fields(data, entry.start, entry.end))
            if 1 not in parts or 2 not in parts:
                continue
            key = data[parts[1].start : parts[1].end]
            if key in _WANTED and (value := _first_value(data, parts[2])) is not None:
                yield key, value


def _first_value(data: mmap.mmap, feature: _Span) -> _Span | None:
    for kind, values in _fields(data, feature.start, feature.end):
        for _, value in _fields(data, values.start, values.end, 1):
            if kind == 1:  # bytes
                return value
            if kind == 3:  # integers, one by one or packed
                number = value.number
                if number is None:
                    number, _ = _varint(data, value.start, value.end)
                return value._replace(number=number - (1 << 64) if number >> 63 else number)
    return None


def _fields(data: mmap.mmap, at: int, end: int, only: int = 0) -> Iterator[tuple[int, _Span]]:
    """Yields (field number, value) of a protocol buffer message; `only` one of them if it is not 0."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, at = _varint(data, at, end)
            span = _Span(at, at + length)
        elif wire == 0:
            start = at
            value, at = _varint(data, at, end)
            span = _Span(start, at, value)
        elif wire in (1, 5):
            span = _Span(at, at + (8 if wire == 1 else 4))
        else:
            raise _NoExample("is no tf.train.Example")
        at = span.end
        if at > end:
            raise _NoExample("is no tf.train.Example")
        if only in (0, number):
            yield number, span


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _NoExample("is no tf.train.Example")
