"""Reads MATLAB 5 files, the format of the ILSVRC devkits' meta.mat: structs, cells, texts and numbers.

Written from the published layout (MathWorks, "MAT-File Format", level 5). Not read: sparse matrices, objects,
complex numbers, and version 7.3, which is HDF5.
"""

from __future__ import annotations

import pathlib
import struct
import zlib
from typing import Any

import numpy as np

from synthaug.errors import ConfigError

MAX_BYTES = 2**28
"""Of a variable, decompressed; the devkit's holds 3 MB."""

_MAX_DEPTH = 32  # structs and cells inside each other
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _FIRST_NUMBER, _LAST_NUMBER = 1, 2, 4, 6, 15


class _Torn(ValueError):
    """The bytes are no MATLAB file, or not all of one."""


def read_mat(path: pathlib.Path) -> dict[str, Any]:
    """Returns the variables of a file by name.

    A struct array is a list of dicts, a cell array a list, a character array a str, a numeric array a flat
    numpy array, all in MATLAB's order: the first index runs fastest. What is not read is None.

    Raises:
        ConfigError: the file cannot be read, or is not of this format.
    """
    try:
        data = path.read_bytes()
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")
        if len(data) < 128 or not order or data[124:126] not in (b"\x00\x01", b"\x01\x00"):
            raise _Torn("its head is another")
        found, at = {}, 128
        while at < len(data):
            kind, body, at = _element(data, at, order)
            if kind == _COMPRESSED:
                kind, body, _ = _element(_inflate(body), 0, order)
            if kind == _MATRIX:
                name, value = _matrix(body, order, 0)
                found[name] = value
        return found
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    except (ValueError, struct.error, zlib.error, IndexError) as error:
        raise ConfigError(
            f"{path}: is no whole MATLAB 5 file ({error}); expected one as in the ILSVRC devkit: unpack it "
            "again, or save it with -v7 (not -v7.3)."
        ) from None


def _inflate(data: bytes) -> bytes:
    engine = zlib.decompressobj()
    plain = engine.decompress(data, MAX_BYTES)
    if engine.unconsumed_tail:
        raise _Torn(f"a variable of more than {MAX_BYTES} bytes")
    return plain


def _element(data: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """Returns (type, content, where the next element begins) of the element at a byte."""
    kind, size = struct.unpack_from(order + "II", data, at)
    start = at + 8
    if kind >> 16:  # up to 4 bytes stand in the tag itself
        kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        end = at + 8
    else:
        end = start + size + (0 if kind == _COMPRESSED else -size % 8)
    if start + size > len(data) or (start == at + 4 and size > 4):
        raise _Torn("it ends too early")
    return kind, data[start : start + size], end


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Returns the name and the value of an array."""
    if depth > _MAX_DEPTH:
        raise _Torn("arrays inside arrays without end")
    if not data:
        return "", np.empty(0)
    _, flags, at = _element(data, 0, order)
    _, shape, at = _element(data, at, order)
    _, name, at = _element(data, at, order)
    kind = struct.unpack_from(order + "I", flags)[0] & 0xFF
    count = int(np.prod(np.frombuffer(shape, order + "i4"), dtype=np.int64))
    value: Any = None
    if kind == _CELL:
        value = _matrices(data, at, order, count, depth)
    elif kind == _STRUCT:
        _, width, at = _element(data, at, order)
        _, names, at = _element(data, at, order)
        step = max(struct.unpack_from(order + "i", width)[0], 1)
        fields = [names[i : i + step].split(b"\0")[0].decode() for i in range(0, len(names), step)]
        values = iter(_matrices(data, at, order, count * len(fields), depth))
        value = [dict(zip(fields, values, strict=False)) for _ in range(count)] if fields else []
    elif kind == _CHAR or _FIRST_NUMBER <= kind <= _LAST_NUMBER:
        value = _values(data, at, order, text=kind == _CHAR)
    return name.decode(), value


def _matrices(data: bytes, at: int, order: str, count: int, depth: int) -> list[Any]:
    if not 0 <= count <= len(data) // 8:  # each takes 8 bytes at least
        raise _Torn(f"{count} arrays in {len(data)} bytes")
    found = []
    for _ in range(count):
        _, body, at = _element(data, at, order)
        found.append(_matrix(body, order, depth + 1)[1])
    return found


def _values(data: bytes, at: int, order: str, text: bool) -> str | np.ndarray:
    if at >= len(data):
        return "" if text else np.empty(0)
    kind, body, _ = _element(data, at, order)
    if text:
        if kind not in _TEXTS:
            raise _Torn(f"text of type {kind}")
        wide = "" if _TEXTS[kind] == "utf-8" else "-le" if order == "<" else "-be"
        return body.decode(_TEXTS[kind] + wide)
    if kind not in _NUMBERS:
        raise _Torn(f"numbers of type {kind}")
    return np.frombuffer(body, order + _NUMBERS[kind])
