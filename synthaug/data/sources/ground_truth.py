"""The labels of ILSVRC2012's validation images, from any of the files that go round.

| file | a line | meaning |
|---|---|---|
| devkit: ILSVRC2012_validation_ground_truth.txt | 490 | ILSVRC2012_ID of the n-th image, as in meta.mat |
| Kaggle: LOC_val_solution.csv | ILSVRC2012_val_00048981,n03995372 85 1 499 272 | first WNID |
| Caffe: val.txt | ILSVRC2012_val_00000001.JPEG 65 | place among the sorted WNIDs, from 0 |
| | ILSVRC2012_val_00000001.JPEG n01751748 | WNID |
| imagenet_2012_validation_synset_labels.txt | n01751748 | WNID of the n-th image |
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from synthaug.data.sources.classes import read_list
from synthaug.data.sources.found import some_of
from synthaug.errors import DataError

_NUMBER = re.compile(r"[0-9]+")
_KEY = re.compile(r"[^\s,]+")
_NAMED = re.compile(r"([^\s,]+)[\s,]+([^\s,]+)(?:[\s,].*)?")


class Settings(NamedTuple):
    """Which file has the labels, and which knobs say so."""

    path: str
    class_list: str
    where: str = "data.val_labels"
    list_where: str = "data.class_list"


def read(settings: Settings, names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Returns the class key of every validation image.

    Args:
        settings: the file, and the class list in the order of ILSVRC2012_ID, if there is one.
        names: file names of the images, sorted.
        keys: WNIDs of the train images, sorted.

    Raises:
        DataError: no such file, another number of labels than images, or a label that is no class.
    """
    lines = _lines(settings)
    if all(_NUMBER.fullmatch(line) for line in lines):
        _check_length(settings, len(lines), len(names))
        found = _of_ids(settings, lines)
    elif all(_KEY.fullmatch(line) for line in lines):
        _check_length(settings, len(lines), len(names))
        found = lines
    else:
        found = _of_named(settings, lines, names, keys)
    if stray := sorted(set(found) - set(keys)):
        raise DataError(
            f"{settings.where} = {settings.path!r}: class {some_of(stray)} has no train images; expected one "
            f"of the {len(keys)} classes of data.path: it is the ground truth of another set."
        )
    return found


def _lines(settings: Settings) -> list[str]:
    if not settings.path:
        raise DataError(
            f"{settings.where} is empty, and the validation images say no class; expected the devkit's "
            f"ILSVRC2012_validation_ground_truth.txt or LOC_val_solution.csv: set {settings.where}."
        )
    try:
        text = pathlib.Path(settings.path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise DataError(f"{settings.where} = {settings.path!r}: cannot be read ({reason}).") from None
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if lines[0].casefold().startswith("imageid"):
        lines = lines[1:]
    if not lines or "" in lines:
        found = f"line {lines.index('') + 1} is empty" if lines else "has no labels"
        raise DataError(f"{settings.where} = {settings.path!r}: {found}; expected one label per line.")
    return lines


def _check_length(settings: Settings, num_labels: int, num_images: int) -> None:
    if num_labels != num_images:
        raise DataError(
            f"{settings.where} = {settings.path!r}: has {num_labels} labels for {num_images} images; "
            "expected one per image, in the order of their names: fetch the file or the images again."
        )


def _of_ids(settings: Settings, lines: Sequence[str]) -> list[str]:
    table = _id_table(settings)
    for number, line in enumerate(lines, 1):
        if not 1 <= int(line) <= len(table):
            raise DataError(
                f"{settings.where} = {settings.path!r} line {number}: label {line} is out of range; expected "
                f"an ILSVRC2012_ID from 1 to {len(table)}."
            )
    return [table[int(line) - 1] for line in lines]


def _id_table(settings: Settings) -> list[str]:
    """Returns the WNIDs in the order of ILSVRC2012_ID, which is not the sorted one."""
    beside = pathlib.Path(settings.path).expanduser().parent / "meta.mat"
    path = settings.class_list or (str(beside) if beside.is_file() else "")
    if not path:
        raise DataError(
            f"{settings.where} = {settings.path!r}: labels are ILSVRC2012_IDs; expected the devkit's "
            f"meta.mat beside it, or named in {settings.list_where}."
        )
    table = list(read_list(path, settings.list_where))
    if table == sorted(table) and len(table) > 2:
        raise DataError(
            f"{settings.list_where} = {path!r}: is sorted, but the labels in {settings.where} are "
            "ILSVRC2012_IDs, whose order is that of the devkit's meta.mat (n02119789 is 1): name that file."
        )
    return table


def _of_named(
    settings: Settings, lines: Sequence[str], names: Sequence[str], keys: Sequence[str]
) -> list[str]:
    """Returns the class key of every image from lines that name the image first."""
    by_name: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _NAMED.fullmatch(line)
        if match is None:
            raise DataError(
                f"{settings.where} = {settings.path!r} line {number}: {line[:60]!r} is no label; expected "
                "`name wnid`, `name number`, or a number alone."
            )
        if _stem(match[1]) in by_name:
            raise DataError(
                f"{settings.where} = {settings.path!r} line {number}: {match[1]} stands there twice; "
                "expected one label of every image."
            )
        by_name[_stem(match[1])] = match[2]
    _check_length(settings, len(by_name), len(names))
    if lacking := [name for name in names if _stem(name) not in by_name]:
        raise DataError(f"{settings.where} = {settings.path!r}: no label of {some_of(lacking)}; add it.")
    labels = [by_name[_stem(name)] for name in names]
    if not all(_NUMBER.fullmatch(label) for label in labels):
        return labels
    if wrong := [(n, k) for n, k in zip(names, labels, strict=True) if int(k) >= len(keys)]:
        raise DataError(
            f"{settings.where} = {settings.path!r}: the label of {wrong[0][0]} is {wrong[0][1]}; expected 0 "
            f"to {len(keys) - 1}, the place among the sorted WNIDs."
        )
    return [keys[int(label)] for label in labels]


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]
