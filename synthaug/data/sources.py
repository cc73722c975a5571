"""Where labelled images come from: the bundled digits, or a folder with one folder per class."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from synthaug.data import images
from synthaug.errors import DataError
from synthaug.experiment import Data

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of a source."""

    source_id: str  # where it comes from, e.g. "digits/0001" or "n01440764/a.JPEG"
    class_index: int
    load: Callable[[], np.ndarray]  # -> u8[H,W,C]; raises DataError if it cannot be decoded


@dataclasses.dataclass(frozen=True)
class Source:
    """All images of a source, class by class."""

    classes: tuple[tuple[str, str], ...]  # (key, name), by class index
    items: tuple[Item, ...]
    others: tuple[str, ...] = ()  # files that are no images by their name
    first_val: int | None = None  # items from here on are validation; None: every n-th of a class is


def scan(settings: Data) -> Source:
    """Returns the classes and images of a source; no image is decoded yet.

    Raises:
        DataError: the source is missing, unreadable, empty, or not what the settings say it is.
    """
    if settings.source == "digits":
        source = _scan_digits(settings)
    else:
        source = _scan_folder(settings, "path")
        if settings.val_path:
            source = _joined(settings, source, _scan_folder(settings, "val_path"))
    _check_classes(settings, source)
    is_val = split(source, settings.val_every)
    check_counts(settings, int((~is_val).sum()), int(is_val.sum()), settings.max_corrupt)
    return source


def split(source: Source, val_every: int) -> np.ndarray:
    """Returns bool[N], true for the images of the validation split.

    Of each class, in source order, every `val_every`-th image is validation. The rule sees every file,
    readable or not, so a repaired file changes no other image's split. Where validation images come from a
    folder of their own (`data.val_path`), it is those.
    """
    if source.first_val is not None:
        return np.arange(len(source.items)) >= source.first_val
    seen = [0] * len(source.classes)
    is_val = np.zeros(len(source.items), bool)
    for i, item in enumerate(source.items):
        seen[item.class_index] += 1
        is_val[i] = seen[item.class_index] % val_every == 0
    return is_val


def check_counts(settings: Data, num_train: int, num_val: int, spare: int) -> None:
    """Checks the settings against what was found.

    Args:
        settings: they say num_train and num_val.
        num_train: images found in the train split.
        num_val: images found in the validation split.
        spare: how many of them may still turn out to be unreadable.

    Raises:
        DataError: the numbers cannot be right; the message has the right ones.
    """
    lost = (num_train - settings.num_train, num_val - settings.num_val)
    if min(lost) < 0 or sum(lost) > spare:
        found = f"val_every = {settings.val_every} splits the source into {num_train} and {num_val} images"
        if settings.val_path:
            found = f"data.path has {num_train} and data.val_path {num_val} images"
        raise DataError(
            f"data: num_train = {settings.num_train}, num_val = {settings.num_val}, but {found}; "
            f"set data.num_train={num_train} data.num_val={num_val}."
        )


def _check_classes(settings: Data, source: Source) -> None:
    found = len(source.classes)
    if found != settings.num_classes:
        raise DataError(
            f"data.num_classes = {settings.num_classes}, but the source has {found} classes; "
            f"set data.num_classes={found}."
        )
    images_in = np.bincount([item.class_index for item in source.items], minlength=found)
    empty = [source.classes[k][0] for k in np.flatnonzero(images_in == 0)]
    if empty:
        raise DataError(
            f"data.path = {settings.path!r}: no image in {_listed(empty)}; expected files ending in "
            f"{', '.join(_SUFFIXES)}; add images or remove the folder."
        )


def _scan_digits(settings: Data) -> Source:
    from sklearn.datasets import load_digits  # a second to import, and only here

    raw = load_digits()
    pixels = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]  # 0..16 -> 0..255
    pixels = np.repeat(pixels, settings.channels, axis=3)
    items = [
        Item(f"digits/{i:04d}", int(label), functools.partial(np.copy, pixels[i]))
        for i, label in enumerate(raw.target)
    ]
    items.sort(key=lambda item: item.class_index)  # stable: in each class the data set's order
    return Source(tuple((str(k), name) for k, name in enumerate(_DIGIT_NAMES)), tuple(items))


def _joined(settings: Data, train: Source, val: Source) -> Source:
    """Returns one source of two folders with the same classes."""
    keys, val_keys = ({key for key, _ in source.classes} for source in (train, val))
    for path, lacking in ((settings.val_path, keys - val_keys), (settings.path, val_keys - keys)):
        if lacking:
            raise DataError(
                f"data: no folder {_listed(sorted(lacking))} in {path!r}, but in the other of data.path and "
                "data.val_path; expected the same classes in both."
            )
    # an image may have the same name in both folders
    items = tuple(dataclasses.replace(item, source_id=f"val/{item.source_id}") for item in val.items)
    others = tuple(f"val/{name}" for name in val.others)
    return Source(train.classes, train.items + items, train.others + others, len(train.items))


def _scan_folder(settings: Data, knob: str) -> Source:
    path = getattr(settings, knob)
    root = pathlib.Path(path).expanduser()
    if not path or not root.is_dir():
        found = "is a file" if path and root.is_file() else "no such folder"
        raise DataError(
            f"data.{knob} = {path!r}: {found}; expected a folder with one folder of images per class; "
            f"set data.{knob}."
        )
    top = _list(root)
    folders = [(name, entry) for name, entry, kind in top if kind == "folder"]
    keys = [name for name, _ in folders]
    if not keys:
        raise DataError(f"data.{knob} = {path!r}: has no folders; expected one folder of images per class.")
    if len(set(keys)) < len(keys):
        double = sorted({key for key in keys if keys.count(key) > 1})
        raise DataError(
            f"data.{knob} = {path!r}: two folders are both called {_listed(double)}, with accents "
            "encoded differently; join them."
        )
    items: list[Item] = []
    others = [name for name, _, kind in top if kind != "folder"]
    for k, (key, folder) in enumerate(folders):
        for name, file, kind in _walk(folder, key):
            if kind == "file" and file.suffix.lower() in _SUFFIXES:
                load = functools.partial(_load_file, file, settings.channels, settings.decoder)
                items.append(Item(name, k, load))
            else:
                others.append(name)
    return Source(tuple((key, key) for key in keys), tuple(items), tuple(others))


def _walk(folder: pathlib.Path, name: str) -> list[tuple[str, pathlib.Path, str]]:
    """Returns (name below the root, path, kind) of what lies in a folder and its sub-folders, sorted."""
    found, waiting, seen = [], [(name, folder)], set()
    while waiting:
        parent, folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue  # a symbolic link that leads back
        seen.add(real)
        for name, path, kind in _list(folder):
            if kind == "folder":
                waiting.append((f"{parent}/{name}", path))
            else:
                found.append((f"{parent}/{name}", path, kind))
    return sorted(found)


def _list(folder: pathlib.Path) -> list[tuple[str, pathlib.Path, str]]:
    """Returns (name, path, "folder" | "file" | "other") of a folder's visible entries, sorted by name."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # a broken link or a pipe is "other"; opening a pipe would wait for ever
                kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
                if not entry.name.startswith("."):
                    found.append((_text(entry), pathlib.Path(entry.path), kind))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); make the folder readable.") from None
    return sorted(found)


def _text(entry: os.DirEntry[str]) -> str:
    """Returns an entry's name in one Unicode form: macOS and Linux write the same accent differently."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{entry.path!r}: the name is not UTF-8; rename it (convmv can).") from None
    return unicodedata.normalize("NFC", entry.name)


def _load_file(path: pathlib.Path, channels: int, decoder: str) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from None
    return images.decode(data, channels, decoder)


def _listed(names: Sequence[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
