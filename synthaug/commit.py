"""Files that appear exactly once: whole or not at all, and never with two different contents (POSIX)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import secrets
import time

from synthaug.errors import DataError, RunError

_LEFTOVER_AGE = 86_400.0  # seconds; an attempt that still writes touches its temporary far more often
_BLOCK = 1 << 20  # bytes

_AGAIN = "then run the same command again."
_ADVICE = {
    errno.ENOSPC: f"free some space there, {_AGAIN}",
    errno.EDQUOT: f"free some of your quota, {_AGAIN}",
    errno.EFBIG: f"raise the file size limit (ulimit -f), {_AGAIN}",
    errno.EROFS: "choose a run directory that can be written.",
    errno.EACCES: "choose a run directory that you may write.",
    errno.EPERM: "choose a run directory on a file system with hard links that you may write.",
    errno.EOPNOTSUPP: "choose a run directory on a file system with hard links.",
    errno.ENAMETOOLONG: "choose a shorter run directory.",
}


def write_new(path: pathlib.Path, data: bytes) -> bool:
    """Writes a file that must not change once it is there; True if this call made it.

    Killed at any moment, it leaves either no file or the whole file.

    Args:
        path: the file; its folder is made if it is not there.
        data: the whole content.

    Returns:
        False if the file was already there with the same bytes.

    Raises:
        RunError: the file is there with other bytes, or cannot be written.
    """
    return adopt_new(_write_temporary(path, data), path, hashlib.sha256(data).hexdigest())


def adopt_new(tmp: pathlib.Path, path: pathlib.Path, sha256: str) -> bool:
    """Writes `path` by giving the finished file `tmp` its name; True if this call made it.

    Args:
        tmp: a complete file in the folder of `path`, from `temporary`; it is gone afterwards.
        path: the name to commit it under.
        sha256: hexadecimal hash of `tmp`.

    Returns:
        False if the file was already there with the same hash.

    Raises:
        RunError: the file is there with another hash, or cannot be written.
    """
    try:
        _sync(tmp)
        # link, not rename: it fails if the name is taken, so that two attempts cannot both win
        os.link(tmp, path)
        _sync(path.parent)
        return True
    except FileExistsError:
        _require_equal(path, sha256)
        return False
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        _remove(tmp)


def replace(path: pathlib.Path, data: bytes) -> None:
    """Writes a file that may change: readers see the old content or the new one, never a mixture.

    Raises:
        RunError: the file cannot be written.
    """
    adopt(_write_temporary(path, data), path)


def adopt(tmp: pathlib.Path, path: pathlib.Path) -> None:
    """Writes `path`, which may be there, by giving the finished file `tmp` from `temporary` its name.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        _sync(tmp)
        os.replace(tmp, path)
        _sync(path.parent)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        _remove(tmp)


def temporary(path: pathlib.Path) -> pathlib.Path:
    """Returns a name beside `path` that no other attempt uses, and makes their folder.

    Raises:
        RunError: the folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from None
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def check_writable(path: pathlib.Path) -> None:
    """Checks that a file can be written, before hours of work end in it.

    Raises:
        RunError: it cannot.
    """
    if path.is_dir():
        raise RunError(f"{path}: is a folder; expected a file to write; name one.")
    tmp = temporary(path)
    try:
        tmp.touch()
        tmp.unlink()
    except OSError as error:
        raise write_error(path, error) from None


def remove_leftovers(folder: pathlib.Path, older_than: float = _LEFTOVER_AGE) -> int:
    """Returns how many temporaries of dead attempts it removed from a folder.

    Args:
        folder: where `write_new` and `adopt_new` write; it need not be there.
        older_than: seconds since the last write; a younger one may belong to a living attempt.
    """
    removed = 0
    for tmp in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - tmp.stat().st_mtime >= older_than:
                tmp.unlink()
                removed += 1
    return removed


def check_result(path: pathlib.Path, sha256: str) -> None:
    """Checks a file in the folder of a part, `<stage>-<part>`, against the hash in the part's result.

    Raises:
        DataError: the file is missing or is not what was written.
    """
    if not path.exists() or sha256_file(path) != sha256:
        stage = path.parent.name.rpartition("-")[0]
        raise DataError(
            f"{path}: missing or altered since it was written; redo it with --stage {stage} --force."
        )


def sha256_file(path: pathlib.Path) -> str:
    """Returns the hexadecimal SHA-256 of a file.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    return digest.hexdigest()


def write_error(path: pathlib.Path, error: Exception) -> RunError:
    """Returns the one-line error for a file that could not be written.

    Args:
        path: the file, under its final name.
        error: an OSError, or the exception of a C++ writer, whose text holds the system's message.
    """
    text, code = str(error), None
    if isinstance(error, OSError):
        text, code = error.strerror or text, error.errno
    for known in _ADVICE:
        if code is None and os.strerror(known) in text:
            text, code = os.strerror(known), known
    advice = "check the disk and the path, " + _AGAIN
    if code is not None and code in _ADVICE:
        advice = _ADVICE[code]
    return RunError(f"{path}: cannot be written ({text}); nothing was committed; {advice}")


def _write_temporary(path: pathlib.Path, data: bytes) -> pathlib.Path:
    tmp = temporary(path)
    try:
        tmp.write_bytes(data)
    except OSError as error:
        _remove(tmp)
        raise write_error(path, error) from None
    return tmp


def _require_equal(path: pathlib.Path, sha256: str) -> None:
    there = sha256_file(path)
    if there != sha256:
        raise RunError(
            f"{path}: two attempts differ: sha256 {there} is there, {sha256} was made now; equal attempts "
            "give equal bytes on the same image and device kind: find out which is right, delete the other."
        )


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems cannot sync a folder; their rename and link are already durable
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


def _remove(tmp: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        tmp.unlink(missing_ok=True)
