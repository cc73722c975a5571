"""Where the members of a zip lie, read without unpacking: stored and deflated ones, ZIP64 too.

The standard library's zipfile keeps an object of half a kilobyte for each member.
"""

from __future__ import annotations

import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from synthaug.data.sources.found import has_control
from synthaug.errors import DataError

_END = struct.Struct("<4s4H2LH")  # end of the central directory; behind it a comment
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_KINDS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}


class Member(NamedTuple):
    """A plain file in a zip."""

    name: str
    offset: int  # bytes, of its local header
    size: int  # bytes it takes in the file on disk


def members(path: pathlib.Path) -> Iterator[Member]:
    """Yields the plain files of a zip, in the order of its directory.

    Raises:
        DataError: no zip, a torn one, a method other than deflate, a password, or a name that points outside.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, length, shift = _directory(file.fileno(), size, path)
            directory = os.pread(file.fileno(), length, start)
            while 0 < len(directory) < length:  # one call reads at most 2 GB
                more = os.pread(file.fileno(), length - len(directory), start + len(directory))
                if not more:
                    break
                directory += more
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights.") from None
    if len(directory) < length:
        raise _torn(path, "ends inside of its directory")
    at = 0
    while at < length:
        member, at = _entry(directory, at, shift, path)
        if member is not None:
            if member.offset + _LOCAL.size + member.size > start:
                raise _torn(path, f"ends inside of {member.name!r}")
            yield member


def content(read: Callable[[int, int], bytes], offset: int, size: int, limit: int) -> bytes:
    """Returns the bytes of a member.

    Args:
        read: (offset, length) -> bytes of the file on disk.
        offset: of the member, as listed.
        size: of the member, as listed.
        limit: bytes it may have when inflated.

    Raises:
        DataError: it is damaged or too large.
    """
    signature, _, flags, method, _, _, crc, _, _, name, extra = _LOCAL.unpack(read(offset, _LOCAL.size))
    if signature != b"PK\x03\x04":
        raise DataError("has no header in the zip: the zip was damaged or altered")
    data = read(offset + _LOCAL.size + name + extra, size)
    if method == _DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(data, limit)
        except zlib.error as error:
            raise DataError(f"cannot be inflated ({error})") from None
        if not inflate.eof:
            what = f"has more than {limit} bytes" if len(data) == limit else "is truncated in the zip"
            raise DataError(what)
    known = {crc}
    if flags & 8:  # written in one pass: the checksum stands behind the data, with or without a mark
        behind = read(offset + _LOCAL.size + name + extra + size, 8)
        known = {int.from_bytes(behind[4:] if behind.startswith(b"PK\x07\x08") else behind[:4], "little")}
        known |= {crc} - {0}  # some write it in front, all the same
    if zlib.crc32(data) not in known:
        raise DataError("has another checksum than the zip says: it is damaged")
    return data


def _directory(file: int, size: int, path: pathlib.Path) -> tuple[int, int, int]:
    """Returns start and length of the directory, and what is to be added to its offsets, in bytes."""
    tail_at = max(0, size - _END.size - (1 << 16))
    tail = os.pread(file, size - tail_at, tail_at)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + _END.size > len(tail):
        raise _torn(path, "has no directory at its end")
    _, disk, _, _, _, length, offset, _ = _END.unpack_from(tail, found)
    end = tail_at + found
    if 0xFFFFFFFF in (length, offset) or disk == 0xFFFF or found >= _END64_PLACE.size:
        place = os.pread(file, _END64_PLACE.size, max(0, end - _END64_PLACE.size))
        if place.startswith(b"PK\x06\x07"):
            where = _END64_PLACE.unpack(place)[2]
            head = os.pread(file, _END64.size, where)
            if len(head) < _END64.size or not head.startswith(b"PK\x06\x06"):
                raise _torn(path, "has no directory where it says")
            _, _, _, _, disk, _, _, _, length, offset = _END64.unpack(head)
            end = where
    if disk:
        raise DataError(f"{path}: is one part of a zip of several; join them (zip -s 0).")
    start = end - length
    if start < offset:
        raise _torn(path, "has no directory where it says")
    return start, length, start - offset  # a zip may stand behind something else, an unpacking program


def _entry(directory: bytes, at: int, shift: int, path: pathlib.Path) -> tuple[Member | None, int]:
    """Returns the member of an entry, None for a folder, and where the next entry is."""
    if at + _ENTRY.size > len(directory) or directory[at : at + 4] != b"PK\x01\x02":
        raise _torn(path, "has a broken directory")
    _, _, _, flags, method, _, _, _, packed, size, n, m, k, _, _, _, offset = _ENTRY.unpack_from(
        directory, at
    )
    body = at + _ENTRY.size
    name = _text(directory[body : body + n], path)
    after = body + n + m + k
    if 0xFFFFFFFF in (packed, size, offset):
        packed, offset = _wide(directory[body + n : body + n + m], packed, size, offset, path)
    if name.endswith("/"):
        return None, after
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{path}: {name!r} points outside of its folder; pack the zip anew.")
    if flags & 1:
        raise DataError(f"{path}: {name!r} is encrypted; pack the zip without a password.")
    if method not in (_STORED, _DEFLATED):
        kind = _KINDS.get(method, f"method {method}")
        raise DataError(f"{path}: {name!r} is compressed with {kind}; expected deflate or none: pack it so.")
    return Member(name, offset + shift, packed), after


def _wide(extra: bytes, packed: int, size: int, offset: int, path: pathlib.Path) -> tuple[int, int]:
    """Returns (packed size, offset) with the values of ZIP64's extra field, which has only those needed."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            values = list(struct.unpack_from(f"<{min(length, len(extra) - 4) // 8}Q", extra, 4))
            wanted = [value == 0xFFFFFFFF for value in (size, packed, offset)]
            if len(values) >= sum(wanted):
                _, packed, offset = (
                    values.pop(0) if wide else value
                    for wide, value in zip(wanted, (size, packed, offset), strict=True)
                )
                return packed, offset
        extra = extra[4 + length :]
    raise _torn(path, "has a broken directory")


def _text(name: bytes, path: pathlib.Path) -> str:
    try:
        text = name.decode()  # many programs write UTF-8 and do not say so
    except UnicodeDecodeError:
        text = name.decode("cp437")
    if has_control(text):
        raise DataError(f"{path}: {text!r} has control characters; pack the zip with other names.")
    return text


def _torn(path: pathlib.Path, how: str) -> DataError:
    return DataError(f"{path}: {how}: the zip is truncated or damaged; fetch it again.")
