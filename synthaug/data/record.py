"""One image with its provenance as bytes: a record of an ArrayRecord shard.

    offset 0     4 bytes   b"SYN1", of an image file; b"SYN2", of pixels
    offset 4     4 bytes   n, length of the header, little-endian
    offset 8     n bytes   header, JSON in UTF-8 with sorted keys
    offset 8+n   the rest  SYN1: the image as PNG, grey or RGB, or an untouched image file
                           SYN2: its pixels, see synthaug.data.pixels

The header of every image has `class_key`, `class_index` and `index` (its number in the set); real images
add `source`, their origin, generated ones `prompt` and `seed`. The header of an untouched file has `format`,
"JPEG" for example, and `channels`, which the study sees in it; a file without `format` is our PNG.

Generated images are PNG, which every tool reads when they are handed on; prepared ones are read again and
again, and only here: pixels.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from synthaug.data import images, pixels
from synthaug.errors import DataError

_FILE, _PIXELS = b"SYN1", b"SYN2"
_START = struct.Struct("<4sI")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """An image as it is stored where its record holds no file."""

    data: bytes  # of pixels.pack

    def image(self) -> np.ndarray:
        """Returns u8[H,W,C].

        Raises:
            DataError: the bytes are torn or altered.
        """
        return pixels.unpack(self.data)


def pack(header: Mapping[str, Any], image: np.ndarray) -> bytes:
    """Returns a record that holds a PNG; equal headers and pixels give equal bytes.

    Args:
        header: JSON values; NaN is refused.
        image: u8[H,W,C], C = 1 or 3.
    """
    return _start(_FILE, header) + images.encode_png(image)


def pack_pixels(header: Mapping[str, Any], image: np.ndarray) -> bytes:
    """Returns a record that holds pixels; otherwise as `pack`."""
    return _start(_PIXELS, header) + pixels.pack(image)


def pack_file(header: Mapping[str, Any], data: bytes) -> bytes:
    """Returns a record that holds an image file as it is, byte for byte.

    Args:
        header: JSON values, `format` and `channels` among them; NaN is refused.
        data: content of the file.
    """
    if not {"format", "channels"} <= header.keys():
        raise ValueError(f"pack_file: header keys {sorted(header)}; expected format and channels too.")
    return _start(_FILE, header) + data


def _start(kind: bytes, header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    encoded = text.encode()
    return _START.pack(kind, len(encoded)) + encoded


def unpack(record: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the header and the image u8[H,W,C] of a record; Pillow decodes an untouched file.

    Raises:
        DataError: the bytes are torn, altered, or no record.
    """
    header, stored = unpack_source(record)
    if isinstance(stored, Pixels):
        return header, stored.image()
    if "format" in header:
        return header, images.decode(stored, header["channels"], "pillow")
    return header, images.decode_png(stored)


def unpack_source(record: bytes) -> tuple[dict[str, Any], bytes | Pixels]:
    """Returns the header of a record, and its image as it is stored: a file, or pixels.

    Raises:
        DataError: the bytes are torn, altered, or no record.
    """
    header, start = _read_header(record)
    stored = record[start:]
    return header, Pixels(stored) if record[:4] == _PIXELS else stored


def unpack_stored(record: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the header of a record, and its image as a file: the untouched one, or our PNG.

    Raises:
        DataError: the bytes are torn, altered, or no record.
    """
    header, stored = unpack_source(record)
    return header, images.encode_png(stored.image()) if isinstance(stored, Pixels) else stored


def unpack_encoded(record: bytes) -> bytes:
    """Returns the image of a record as a file; see `unpack_stored`."""
    return unpack_stored(record)[1]


def unpack_header(record: bytes) -> dict[str, Any]:
    """Returns the header of a record without decoding its image.

    Raises:
        DataError: the bytes are torn, altered, or no record.
    """
    return _read_header(record)[0]


def _read_header(record: bytes) -> tuple[dict[str, Any], int]:
    if len(record) < _START.size or record[:4] not in (_FILE, _PIXELS):
        raise DataError(
            f"record: starts with {record[:4]!r}; expected {_FILE!r} or {_PIXELS!r}: not written by synthaug."
        )
    _, length = _START.unpack_from(record)
    start = _START.size + length
    try:
        header = json.loads(record[_START.size : start].decode())
    except ValueError as error:  # of JSON or of UTF-8
        raise DataError(f"record: header cannot be read ({error}); the shard was altered.") from None
    if not isinstance(header, dict):
        raise DataError("record: header is no mapping; the shard was altered.")
    return header, start
