"""What proves that a checkpoint is whole: digest.json, written last, with the SHA-256 of every file.

A flipped byte in a checkpoint restores silently as wrong numbers, and on a POSIX disk a half-copied folder
looks complete. So a checkpoint counts only when its digest agrees with its files. Knows no jax.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

from synthaug import commit

FILE = "digest.json"
CHECKSUM = "sha256"


class Unusable(Exception):
    """A checkpoint folder that is torn or altered; the text says where and what was found."""


def write(folder: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes digest.json into a finished checkpoint folder, atomically and through to the disk.

    Args:
        folder: the checkpoint; nothing in it may change afterwards.
        record: what the reader wants to know of the checkpoint; "files" is added here.

    Raises:
        RunError: it cannot be written.
    """
    commit.replace(folder / FILE, _render({**record, "files": _hash_files(folder)}).encode())


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a checkpoint folder; its files are not looked at yet.

    Raises:
        Unusable: there is no digest, or it is not what `write` wrote.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
        record = json.loads(text)
    except FileNotFoundError:
        raise Unusable(f"{folder}: has no {FILE}: the job was killed while it wrote this") from None
    except ValueError:
        raise Unusable(f"{folder}: {FILE} was altered: it is no JSON text") from None
    if not isinstance(record, dict) or not record.pop(CHECKSUM, "") or _render(record) != text:
        raise Unusable(f"{folder}: {FILE} was altered: it does not agree with its own checksum")
    return record


def check(folder: pathlib.Path, record: dict[str, Any]) -> None:
    """Reads every file of a checkpoint folder and compares it with the record.

    Raises:
        Unusable: a file is missing, was altered, or was not there when the digest was written.
    """
    found, written = _hash_files(folder), record["files"]
    for name in sorted(found.keys() | written.keys()):
        if name not in found:
            raise Unusable(f"{folder}: {name} is missing")
        if name not in written:
            raise Unusable(f"{folder}: {name} was added after the checkpoint was written")
        if found[name] != written[name]:
            raise Unusable(f"{folder}: {name} was altered: its SHA-256 is not the one in {FILE}")


def read_checked(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the record of a checkpoint folder after comparing every file with it.

    Raises:
        Unusable: see `read` and `check`.
    """
    record = read(folder)
    check(folder, record)
    return record


def _render(record: dict[str, Any]) -> str:
    checksum = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return json.dumps({**record, CHECKSUM: checksum}, indent=1, sort_keys=True) + "\n"


def _hash_files(folder: pathlib.Path) -> dict[str, str]:
    """Returns {relative path: SHA-256} of every file but the digest."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / FILE]
    return {path.relative_to(folder).as_posix(): commit.sha256_file(path) for path in files}
