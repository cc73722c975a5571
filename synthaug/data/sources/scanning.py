"""Lists a source: its images, their classes, which are validation; all of it checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from synthaug.data.listing import Listing
from synthaug.data.sources import (
    classes,
    columns,
    digits,
    folder,
    ground_truth,
    ilsvrc,
    npz,
    shardset,
    tfrecord,
    webdataset,
)
from synthaug.data.sources.classes import read_list
from synthaug.data.sources.found import SUFFIXES, Found, has_control, some_of
from synthaug.errors import DataError
from synthaug.experiment import Data
from synthaug.experiment.data import MadeSet, ValSet

Classes = tuple[tuple[str, str], ...]  # (key, name), by class index

_FORMATS: dict[str, Callable[[str, str], Found]] = {
    "folder": folder.find,
    "tfrecord": tfrecord.find,
    "webdataset": webdataset.find,
    "parquet": columns.find,
    "npz": npz.find,
    "manifest": shardset.find,
}


def scan(settings: Data) -> Listing:
    """Returns where every train and validation image is, train first; no image is decoded.

    Classes are sorted by key. Images of `val_path` have "val/" in front of their source ids.

    Raises:
        DataError: the source is missing, unreadable, empty, or not what the settings say it is.
    """
    if settings.val_labels and (settings.source != "ilsvrc" or not settings.val_path):
        raise DataError(
            "data.val_labels labels the images in data.val_path of source = ilsvrc; "
            f"source = {settings.source}, val_path = {settings.val_path!r}: remove it."
        )
    table = _class_list(settings, "data.class_list")
    train = classes.explained(
        _find(settings.source, settings.path, "data.path"), table, "data.path", "data.class_list"
    )
    val = None
    if settings.val_path:
        val = classes.explained(_find_val(settings, train), table, "data.val_path", "data.class_list")
        if doubled := sorted(set(train.files) & set(val.files)):
            raise DataError(
                f"data: {doubled[0]} is in data.path and in data.val_path: its images would be trained and "
                "validated on; name patterns that tell them apart, e.g. train-* and validation-*."
            )
        _check_same_classes(settings, train, val)
    known = classes.of_source(train, table, "data.path")
    if len(known) != settings.num_classes:
        raise DataError(
            f"data.num_classes = {settings.num_classes}, but the source has {len(known)} classes; "
            f"set data.num_classes={len(known)}."
        )
    parts = [train] if val is None else [train, val]
    listing = _listing(settings.source, known, parts, val is not None)
    if val is None:
        listing.is_val[:] = split(listing.class_index, settings.val_every)
    _check_train_classes(settings, listing)
    check_counts(settings, int((~listing.is_val).sum()), int(listing.is_val.sum()))
    return listing


def label_order(settings: Data, known: Classes) -> dict[str, str]:
    """Returns {class key: name} by the number that a label has in the study's own source.

    It is the class list's order, else that of the keys: WNIDs as text, plain numbers as numbers. Where a
    parquet file's own table says what numbers mean, sets made elsewhere need not follow it: none.
    """
    if settings.class_list and not settings.class_list.endswith(".mat"):
        return {key: dict(known)[key] for key in read_list(settings.class_list, "data.class_list")}
    if all(key.isdecimal() for key, _ in known):
        return dict(sorted(known, key=lambda pair: int(pair[0])))
    return {} if settings.source == "parquet" else dict(known)


def scan_made(
    settings: MadeSet | ValSet, known: Classes, where: str = "sets", order: dict[str, str] | None = None
) -> Listing:
    """Returns where the images of a set besides the study's own are: made elsewhere, or for validation.

    Args:
        settings: format, path and number of images.
        known: (key, name) of the classes of the study, by class index.
        where: the knob of the set, e.g. "sets.biggan", for errors.
        order: {class key: name} by label number where the settings name no class list, see `label_order`;
            {} if numbers mean nothing then, None for the order of `known`.

    Raises:
        DataError: the set is missing, unreadable, or not what the settings say it is.
    """
    table = _class_list(settings, f"{where}.class_list")
    found = _find(settings.source, settings.path, f"{where}.path")
    if table is not None:
        classes.explained(found, table, f"{where}.path", f"{where}.class_list")
    if order == {}:
        classes.explained(found, None, f"{where}.path", f"{where}.class_list")
    classes.explained(found, order or dict(known), f"{where}.path", "the study")
    listing = _listing(settings.source, known, [found], False)
    # copies are a prefix of a set of our own, and every prefix is balanced: a study may use a part of it
    enough = settings.source == "manifest" and len(listing) > settings.num_images
    if len(listing) != settings.num_images and not enough:
        raise DataError(
            f"{where}.num_images = {settings.num_images}, but {settings.path!r} has {len(listing)} images; "
            f"set {where}.num_images={len(listing)}."
        )
    return listing


def split(class_index: np.ndarray, val_every: int) -> np.ndarray:
    """Returns bool[N], true for the images of the validation split.

    Of each class, in source order, every `val_every`-th image is validation. The rule sees every file,
    readable or not, so a repaired file changes no other image's split.

    Args:
        class_index: i32[N].
        val_every: n of "every n-th".

    Example:
        >>> split(np.array([0, 1, 0, 0, 1]), 2).tolist()
        [False, False, True, False, True]
    """
    by_class = np.argsort(class_index, kind="stable")
    ordered = class_index[by_class]
    number = np.empty(len(class_index), np.int64)
    number[by_class] = np.arange(len(ordered)) - np.searchsorted(ordered, ordered, side="left")
    return number % val_every == val_every - 1


def check_counts(settings: Data, num_train: int, num_val: int) -> None:
    """Checks the numbers of listed files, readable or not, against the settings.

    Raises:
        DataError: they differ; the message has the right ones.
    """
    if not num_val:
        raise DataError(
            f"data.val_every = {settings.val_every} leaves no image for validation: no class has as many; "
            "lower it, or name validation images in data.val_path."
            if not settings.val_path
            else f"data.val_path = {settings.val_path!r}: has no images; name a place that has."
        )
    if (num_train, num_val) != (settings.num_train, settings.num_val):
        found = f"val_every = {settings.val_every} splits the source into {num_train} and {num_val} images"
        if settings.val_path:
            found = f"data.path has {num_train} and data.val_path {num_val} images"
        raise DataError(
            f"data: num_train = {settings.num_train}, num_val = {settings.num_val}, but {found}; "
            f"set data.num_train={num_train} data.num_val={num_val}."
        )


def _find(source: str, path: str, where: str) -> Found:
    if source == "digits":
        return digits.find()
    if source == "ilsvrc":
        return ilsvrc.find_train(path, where)
    return _FORMATS[source](path, where)


def _find_val(settings: Data, train: Found) -> Found:
    if settings.source == "ilsvrc":
        labels = ground_truth.Settings(settings.val_labels, settings.class_list)
        return ilsvrc.find_val(settings.val_path, "data.val_path", labels, train.keys or ())
    return _find(settings.source, settings.val_path, "data.val_path")


def _class_list(settings: Data | MadeSet | ValSet, where: str) -> dict[str, str] | None:
    if settings.class_list.endswith(".mat") and settings.source != "ilsvrc":
        raise DataError(
            f"{where} = {settings.class_list!r}: meta.mat is in the order of ILSVRC2012_ID, which labels of "
            f"source = {settings.source} do not follow; expected a list in their own order."
        )
    if settings.class_list and settings.source != "ilsvrc" and classes.is_map_clsloc(settings.class_list):
        raise DataError(
            f"{where} = {settings.class_list!r}: map_clsloc.txt is in the order of ILSVRC2012_ID, which "
            f"labels of source = {settings.source} do not follow; expected a list in their own order."
        )
    return read_list(settings.class_list, where) if settings.class_list else None


def _check_same_classes(settings: Data, train: Found, val: Found) -> None:
    keys, val_keys = set(train.keys or ()), set(val.keys or ())
    for path, lacking in ((settings.val_path, keys - val_keys), (settings.path, val_keys - keys)):
        if lacking:
            raise DataError(
                f"data: no class {some_of(sorted(lacking))} in {path!r}, but in the other of data.path and "
                "data.val_path; expected the same classes in both."
            )


def _check_train_classes(settings: Data, listing: Listing) -> None:
    images_in = np.bincount(listing.class_index[~listing.is_val], minlength=len(listing.classes))
    empty = [listing.classes[k][0] for k in np.flatnonzero(images_in == 0)]
    if empty:
        raise DataError(
            f"data.path = {settings.path!r}: no image in {some_of(empty)}; expected files ending in "
            f"{', '.join(SUFFIXES)}; add images or remove the class."
        )


def _listing(source: str, known: Classes, parts: Sequence[Found], with_val: bool) -> Listing:
    """Returns train images and, if `with_val`, validation images as one table."""
    place = {key: k for k, (key, _) in enumerate(known)}
    columns: dict[str, list[np.ndarray]] = {"class_index": [], "file": [], "offset": [], "length": []}
    files, ids, others = list[str](), list[str](), list[str]()
    for number, found in enumerate(parts):
        prefix = "val/" if with_val and number else ""
        of_label = np.array([place[key] for key in found.keys or ()], np.int32)
        columns["class_index"].append(of_label[found.labels()] if found.source_id else np.zeros(0, np.int32))
        columns["file"].append(np.array(found.file, np.int32) + np.int32(len(files)))
        columns["offset"].append(np.array(found.offset, np.int64))
        columns["length"].append(np.array(found.length, np.int64))
        files += found.files
        ids += [prefix + name for name in found.source_id] if prefix else found.source_id
        others += [prefix + name for name in found.others]
    joined = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    _check_ids(known, ids)
    is_val = np.zeros(len(ids), bool)
    if with_val:
        is_val[len(parts[0].source_id) :] = True
    return Listing(
        source=source,
        classes=known,
        files=tuple(files),
        source_id=tuple(ids),
        is_val=is_val,
        others=tuple(others),
        **joined,
    )


def _check_ids(known: Classes, ids: Sequence[str]) -> None:
    for name in (*(key for key, _ in known), *ids):
        if not name or has_control(name):
            what = "has control characters" if name else "is empty"
            raise DataError(f"data: the name {name!r} of a class or an image {what}; expected plain text.")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        double = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"data: {double} stands twice in the source; expected every image once: remove one.")
