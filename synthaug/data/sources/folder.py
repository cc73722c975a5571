"""A folder with one folder of images per class, nested as deep as one likes (ImageFolder)."""

from __future__ import annotations

import os
import pathlib

from synthaug.data.sources.found import SUFFIXES, Found, list_folder, some_of
from synthaug.errors import DataError


def find(text: str, where: str) -> Found:
    """Returns the images below a folder; the folders directly in it are the classes.

    Args:
        text: the folder.
        where: the knob, for errors.

    Raises:
        DataError: no such folder, no folders in it, or names that cannot be told apart.
    """
    root = pathlib.Path(text).expanduser().absolute()
    if not text or not root.is_dir():
        found = "is a file" if text and root.is_file() else "no such folder"
        raise DataError(
            f"{where} = {text!r}: {found}; expected a folder with one folder of images per class; "
            f"set {where}."
        )
    top = list_folder(root)
    folders = [(name, path) for name, path, kind in top if kind == "folder"]
    keys = [name for name, _ in folders]
    if not keys:
        raise DataError(f"{where} = {text!r}: has no folders; expected one folder of images per class.")
    if len(set(keys)) < len(keys):
        double = sorted({key for key in keys if keys.count(key) > 1})
        raise DataError(
            f"{where} = {text!r}: two folders are both called {some_of(double)}, with accents encoded "
            "differently; join them."
        )
    images = Found(keys=keys, others=[name for name, _, kind in top if kind != "folder"])
    for k, (key, folder) in enumerate(folders):
        _add_folder(images, k, key, folder)
    return images


def _add_folder(images: Found, label: int, key: str, folder: str) -> None:
    for name, path, kind in walk(folder, key):
        if kind == "file" and name.lower().endswith(SUFFIXES):
            images.add(name, len(images.files), 0, -1, label)
            images.files.append(path)
        else:
            images.others.append(name)


def walk(folder: str, name: str) -> list[tuple[str, str, str]]:
    """Returns (name below the root, path, kind) of what lies in a folder and its sub-folders, sorted."""
    found, waiting, seen = [], [(name, folder)], set()
    while waiting:
        parent, folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue  # a symbolic link that leads back
        seen.add(real)
        for name, path, kind in list_folder(folder):
            if kind == "folder":
                waiting.append((f"{parent}/{name}", path))
            else:
                found.append((f"{parent}/{name}", path, kind))
    return sorted(found)
