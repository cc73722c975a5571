"""Where the members of a tar lie, read without unpacking: POSIX ustar and pax, GNU long names.

The standard library's tarfile takes three times as long per member, and keeps an object for each.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from synthaug.data.sources.found import has_control
from synthaug.errors import DataError

_BLOCK = 512
_HEAD = 2048  # bytes read per member: its header, and the whole content of a small one
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_LINKS = {b"1": "a hard link", b"2": "a symbolic link"}
_MAX_NAME = 1 << 20  # bytes of a long name or of pax records


class Member(NamedTuple):
    """A plain file in a tar."""

    name: str
    offset: int  # bytes, in the file on disk
    size: int
    head: bytes  # its first bytes; all of a small member


class _Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes


def members(path: pathlib.Path, start: int = 0, length: int = -1, inside: str = "") -> Iterator[Member]:
    """Yields the plain files of a tar in order.

    Args:
        path: the file on disk.
        start: where the tar begins in it.
        length: bytes of the tar; -1 = up to the end of the file.
        inside: the tar's own name, where it is a member of the file; for errors.

    Raises:
        DataError: no tar, a compressed or a torn one, a link, or a name that points outside.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its rights."
        ) from None
    try:
        end = os.fstat(descriptor).st_size if length < 0 else start + length
        yield from _members(descriptor, f"{path}: {inside}" if inside else str(path), start, end)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    finally:
        os.close(descriptor)


def _members(descriptor: int, path: str, start: int, end: int) -> Iterator[Member]:
    at, changes = start, dict[str, str]()
    while True:
        head = os.pread(descriptor, min(_HEAD, end - at), at) if at < end else b""
        if len(head) < _BLOCK:
            if head and at == start:
                raise _no_tar(path, head, 0)
            raise _torn(path, f"ends at byte {at} without the mark of its end")
        if not any(head[:_BLOCK]):
            return
        header = _header(head[:_BLOCK])
        if header is None:
            raise _no_tar(path, head, at - start)
        size = int(changes.get("size", header.size))
        body = at + _BLOCK
        name = changes.get("path") or _text(header.name, path, at)
        if body + size > end:
            raise _torn(path, f"ends inside of {name!r}")
        at = body + -(-size // _BLOCK) * _BLOCK
        if header.kind in b"LKxg":
            changes |= _changes(header.kind, os.pread(descriptor, min(size, _MAX_NAME), body), path)
            continue
        changes = {}
        _check(path, name, header.kind)
        if header.kind != b"5" and not name.endswith("/"):
            yield Member(name, body, size, head[_BLOCK : _BLOCK + size])


def _header(block: bytes) -> _Header | None:
    """Returns what a header says, or None if its checksum is wrong."""
    try:
        stated = int(block[148:156].strip(b" \0") or b"-1", 8)
        if sum(block) - sum(block[148:156]) + 8 * 32 != stated:
            return None
        size = _number(block[124:136])
    except ValueError:
        return None
    name, prefix = block[:100].rstrip(b"\0"), block[345:500].rstrip(b"\0")
    if block[257:263] == b"ustar\0" and prefix:  # GNU's own format keeps other things there
        name = prefix.split(b"\0")[0] + b"/" + name
    return _Header(name.split(b"\0")[0], size, block[156:157].replace(b"\0", b"0"))


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: binary, for 8 GB and more
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _changes(kind: bytes, data: bytes, path: str) -> dict[str, str]:
    """Returns what a long name or pax records say of the next member."""
    if kind == b"L":
        return {"path": _text(data.rstrip(b"\0"), path, 0)}
    found: dict[str, str] = {}
    while data and kind == b"x":  # global records carry no names
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise _torn(path, "has broken pax records")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value, path, 0)
        if key.startswith(b"GNU.sparse"):
            raise DataError(f"{path}: holds sparse files; expected plain ones: pack it without --sparse.")
        data = data[int(length) :]
    if not found.get("size", "0").isdigit():
        raise _torn(path, "has broken pax records")
    return found


def _check(path: str, name: str, kind: bytes) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(
            f"{path}: {name!r} points outside of its folder; expected relative names: pack the tar anew."
        )
    if has_control(name):
        raise DataError(f"{path}: {name!r} has control characters; pack the tar with other names.")
    if kind not in (b"0", b"5", b"7"):
        what = _LINKS.get(kind, f"of type {kind!r}")
        raise DataError(
            f"{path}: {name!r} is {what}; expected plain files only: pack the tar anew (tar --dereference "
            "--hard-dereference)."
        )


def _text(name: bytes, path: str, at: int) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}: the name {name!r} is not UTF-8; pack the tar anew.") from None


def _torn(path: str, how: str) -> DataError:
    return DataError(f"{path}: {how}: the tar is truncated or damaged; fetch it again.")


def _no_tar(path: str, head: bytes, at: int) -> DataError:
    if at == 0:
        for magic, kind in _COMPRESSED.items():
            if head.startswith(magic):
                return DataError(
                    f"{path}: is compressed with {kind}; images inside can only be read at random from a "
                    "plain tar: decompress it first."
                )
        return DataError(f"{path}: is no tar; expected a plain tar file.")
    return _torn(path, f"has no header at byte {at}")
