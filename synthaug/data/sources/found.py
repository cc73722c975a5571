"""What one path of a source holds, before its labels are matched with the classes of the study."""

from __future__ import annotations

import array
import dataclasses
import glob
import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from synthaug.errors import DataError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass(eq=False)
class Found:
    """N images of one path in its own order, as columns: a million rows are a few hundred MB.

    The label of an image is a number into `keys`. Where the source holds bare numbers, `keys` is None
    until a class list gives them a meaning.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    source_id: list[str] = dataclasses.field(default_factory=list)
    file: array.array[int] = dataclasses.field(default_factory=lambda: array.array("i"))
    offset: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))
    length: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))
    label: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))
    keys: list[str] | None = None
    numbered: bool = False  # labels are numbers, and `keys` only a table beside them
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # class key -> name, where known
    others: list[str] = dataclasses.field(default_factory=list)  # what is no image by its name

    def add(self, source_id: str, file: int, offset: int, length: int, label: int) -> None:
        """Adds one image; see `Listing` for offset and length."""
        self.source_id.append(source_id)
        self.file.append(file)
        self.offset.append(offset)
        self.length.append(length)
        self.label.append(label)

    def labels(self) -> np.ndarray:
        """Returns the label of every image, i64[N]."""
        return np.array(self.label, np.int64)


@dataclasses.dataclass
class Labels:
    """Labels as a source writes them, texts or numbers, numbered as they come."""

    where: str  # for errors
    keys: dict[str, int] = dataclasses.field(default_factory=dict)
    kind: str = ""  # of all labels: number or key

    def number(self, label: str | int, source_id: str) -> int:
        """Returns the number of a label: itself, or the place of the text in `keys`.

        Raises:
            DataError: numbers and texts are mixed.
        """
        if isinstance(label, str) and re.fullmatch(r"-?[0-9]{1,18}", label):
            label = int(label)
        plain = isinstance(label, int) and abs(label) < 2**62 and not isinstance(label, bool)
        if not plain and not (isinstance(label, str) and label.removeprefix("\0").isprintable()):
            raise DataError(
                f"{self.where}: the label of {source_id} is {str(label)[:60]!r}; expected a class number "
                "or key."
            )
        if isinstance(label, str) and not label.isascii():
            label = unicodedata.normalize("NFC", label)  # as the names of folders
        kind = "number" if isinstance(label, int) else "key"
        if self.kind not in ("", kind):
            raise DataError(
                f"{self.where}: the label of {source_id} is {label!r}, a {kind}, but others are "
                f"{self.kind}s; expected one of both: write the labels anew."
            )
        self.kind = kind
        return label if isinstance(label, int) else self.keys.setdefault(label, len(self.keys))

    def into(self, found: Found) -> Found:
        """Returns `found` with the texts as its keys, or without keys if labels were numbers."""
        if self.kind == "key":
            found.keys = list(self.keys)
        return found


def paths_of(text: str, where: str, what: str, names: str) -> list[pathlib.Path]:
    """Returns the absolute paths of the files that a knob names, sorted.

    Args:
        text: a file, a folder, a pattern with * or ?, or WebDataset's {000..146}.
        where: the knob, for errors.
        what: what is expected there, for errors.
        names: regular expression for the names of files in a folder.

    Raises:
        DataError: there is no such file.
    """
    path = pathlib.Path(text).expanduser()
    if text and path.is_file():
        return [path.absolute()]
    if text and path.is_dir():
        entries = list_folder(path.absolute())
        found = [e for name, e, kind in entries if kind == "file" and re.search(names, name)]
        if found:
            return [pathlib.Path(entry) for entry in found]
        raise DataError(f"{where} = {text!r}: has no such file; expected {what}; set {where}.")
    found = sorted({f for one in _unfolded(str(path)) for f in glob.glob(one, recursive=True) if text})
    found = [entry for entry in found if os.path.isfile(entry)]
    if not found:
        raise DataError(f"{where} = {text!r}: no such file; expected {what}; set {where}.")
    return [pathlib.Path(entry).absolute() for entry in found]


def _unfolded(pattern: str) -> list[str]:
    """Returns the patterns without braces.

    Example:
        >>> _unfolded("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    if not (braces := re.search(r"\{([0-9]+)\.\.([0-9]+)\}", pattern)):
        return [pattern]
    first, last = braces.groups()
    numbers = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    return [p for n in numbers for p in _unfolded(pattern[: braces.start()] + n + pattern[braces.end() :])]


def short_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns the names of files, from the deepest folder on that holds all of them."""
    top = os.path.commonpath([path.parent for path in paths])
    return [os.path.relpath(path, top) for path in paths]


def list_folder(folder: pathlib.Path | str) -> list[tuple[str, str, str]]:
    """Returns (name, path, "folder" | "file" | "other") of a folder's visible entries, sorted by name.

    Raises:
        DataError: the folder cannot be read, or a name is not UTF-8.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # a broken link or a pipe is "other"; opening a pipe would wait for ever
                kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
                if not entry.name.startswith("."):
                    _check_text(entry)
                    # macOS and Linux write the same accent differently
                    found.append((unicodedata.normalize("NFC", entry.name), entry.path, kind))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); make the folder readable.") from None
    return sorted(found)


def _check_text(entry: os.DirEntry[str]) -> None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{entry.path!r}: the name is not UTF-8; rename it (convmv can).") from None


def has_control(text: str) -> bool:
    """Returns whether a name holds a line break or another control character: no message could show it."""
    return _CONTROL.search(text) is not None


def some_of(names: Sequence[str], limit: int = 5) -> str:
    """Returns the first names as text, and how many more there are.

    Example:
        >>> some_of(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
