"""ILSVRC2012 as it is handed out: a tar of one tar per class, a tar of validation images, the devkit."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

from synthaug.data.sources import folder, ground_truth
from synthaug.data.sources.found import SUFFIXES, Found, list_folder
from synthaug.data.sources.tars import Member, members
from synthaug.errors import DataError


def find_train(text: str, where: str) -> Found:
    """Returns the train images.

    Args:
        text: ILSVRC2012_img_train.tar, or a folder with it, with its inner tars, or with class folders.
        where: the knob, for errors.

    Raises:
        DataError: none of them, or a broken one.
    """
    path = _place(text, where, "ILSVRC2012_img_train.tar, or a folder with it or with the tars in it")
    if path.is_file():
        return _tar_of_tars(path)
    if (whole := path / "ILSVRC2012_img_train.tar").is_file():
        return _tar_of_tars(whole)
    tars = [(name, pathlib.Path(entry)) for name, entry, kind in list_folder(path) if _is_tar(name, kind)]
    if not tars:
        return folder.find(text, where)
    found = Found(keys=[])
    for name, tar in tars:
        _add_class(found, name, tar, members(tar))
    return found


def find_val(text: str, where: str, labels: ground_truth.Settings, train_keys: Iterable[str]) -> Found:
    """Returns the validation images.

    Args:
        text: ILSVRC2012_img_val.tar, a folder with it or with its images, or with class folders.
        where: the knob, for errors.
        labels: where their labels are.
        train_keys: the WNIDs of the train images.

    Raises:
        DataError: none of them, or labels that do not fit.
    """
    path = _place(text, where, "ILSVRC2012_img_val.tar, or a folder with it or with the images")
    if path.is_dir() and (whole := path / "ILSVRC2012_img_val.tar").is_file():
        path = whole
    found = Found()
    if path.is_file():
        for member in sorted(members(path), key=lambda m: m.name.rpartition("/")[2]):
            _add_plain(found, member, path)
    else:
        entries = list_folder(path)
        if not any(kind == "file" and name.lower().endswith(SUFFIXES) for name, _, kind in entries):
            return _in_class_folders(text, where, labels)
        for name, entry, kind in entries:
            if kind == "file" and name.lower().endswith(SUFFIXES):
                found.add(name, len(found.files), 0, -1, 0)
                found.files.append(entry)
            else:
                found.others.append(name)
    if not found.source_id:
        raise DataError(
            f"{where} = {text!r}: has no images; expected ILSVRC2012_val_00000001.JPEG and so on."
        )
    keys = ground_truth.read(labels, found.source_id, sorted(train_keys))
    found.keys = sorted(set(keys))
    place = {key: k for k, key in enumerate(found.keys)}
    found.label[:] = type(found.label)("q", [place[key] for key in keys])
    return found


def _in_class_folders(text: str, where: str, labels: ground_truth.Settings) -> Found:
    if labels.path:
        raise DataError(
            f"{where} = {text!r}: has no images but folders, which say the class; remove {labels.where}."
        )
    return folder.find(text, where)


def _place(text: str, where: str, expected: str) -> pathlib.Path:
    path = pathlib.Path(text).expanduser().absolute()
    if not text or not path.exists():
        raise DataError(f"{where} = {text!r}: no such file or folder; expected {expected}; set {where}.")
    return path


def _is_tar(name: str, kind: str) -> bool:
    return kind == "file" and name.endswith(".tar") and "_img_val" not in name


def _tar_of_tars(path: pathlib.Path) -> Found:
    found = Found(keys=[])
    for member in members(path):
        if member.name.endswith(".tar"):
            inner = members(path, member.offset, member.size, member.name)
            _add_class(found, member.name, path, inner)
        else:
            found.others.append(member.name)
    if not found.keys:
        raise DataError(f"{path}: holds no tars; expected one per class, such as n01440764.tar.")
    return found


def _add_class(found: Found, name: str, path: pathlib.Path, images: Iterable[Member]) -> None:
    """Adds the images of one class; the name of its tar is the class."""
    key = name.rpartition("/")[2].removesuffix(".tar")
    keys = found.keys = found.keys if found.keys is not None else []
    if key in keys:
        raise DataError(f"{path}: class {key} has two tars; expected one: remove the other.")
    keys.append(key)
    if not found.files or found.files[-1] != str(path):
        found.files.append(str(path))
    for member in images:
        source_id = f"{key}/{member.name.removeprefix('./').removeprefix(f'{key}/')}"
        if member.name.lower().endswith(SUFFIXES):
            found.add(source_id, len(found.files) - 1, member.offset, member.size, len(keys) - 1)
        else:
            found.others.append(source_id)


def _add_plain(found: Found, member: Member, path: pathlib.Path) -> None:
    found.files = [str(path)]
    if member.name.lower().endswith(SUFFIXES):
        found.add(member.name.rpartition("/")[2], 0, member.offset, member.size, 0)
    else:
        found.others.append(member.name)
