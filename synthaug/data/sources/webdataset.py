"""WebDataset: tars of samples, the members of one sample with one name: key.jpg and key.cls or key.json."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from synthaug.data.sources.found import SUFFIXES, Found, Labels, paths_of, short_names
from synthaug.data.sources.tars import Member, members
from synthaug.errors import DataError

_IN_JSON = ("wnid", "synset", "class_key", "label", "cls")  # the first of them that is there
_MAX_LABEL = 1 << 20  # bytes


def find(text: str, where: str) -> Found:
    """Returns the images of all samples.

    Args:
        text: a tar, a folder of tars, or a pattern such as train-{000..146}.tar.
        where: the knob, for errors.

    Raises:
        DataError: no tars, broken ones, or a sample without a label or with two images.
    """
    paths = paths_of(text, where, "tars of WebDataset such as train-*.tar", r"\.tar$")
    found, labels = Found(files=[str(path) for path in paths]), Labels(where)
    for file, (path, name) in enumerate(zip(paths, short_names(paths), strict=True)):
        sample: dict[str, Member] = {}
        current = ""
        for member in members(path):
            key, kind = _parts(member.name)
            if key != current:
                _add(found, labels, file, name, current, sample, path)
                sample, current = {}, key
            if kind in sample:
                raise DataError(f"{path}: {member.name} stands twice in a row; expected one: remove one.")
            sample[kind] = member
        _add(found, labels, file, name, current, sample, path)
    return labels.into(found)


def _parts(name: str) -> tuple[str, str]:
    """Returns key and kind of a member: all up to the first dot of its file name, and the rest.

    Example:
        >>> _parts("a.b/n01.seg.PNG")
        ('a.b/n01', 'seg.png')
    """
    folder, slash, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return folder + slash + key, kind.lower()


def _add(
    found: Found,
    labels: Labels,
    file: int,
    tar: str,
    key: str,
    sample: dict[str, Member],
    path: pathlib.Path,
) -> None:
    images = [kind for kind in sample if f".{kind}" in SUFFIXES]
    if len(images) > 1:
        raise DataError(f"{path}: {key} has {' and '.join(images)}; expected one image per sample.")
    for kind, member in sample.items():
        if kind not in (*images, "cls", "json"):
            found.others.append(f"{tar}/{member.name}")
    if not images:
        found.others += [f"{tar}/{member.name}" for kind, member in sample.items() if kind in ("cls", "json")]
        return
    image = sample[images[0]]
    label = _label(sample, path)
    if label is None:
        raise DataError(
            f"{path}: {key} has no label; expected {key}.cls, or {key}.json with one of "
            f"{', '.join(_IN_JSON)}."
        )
    source_id = f"{tar}/{image.name}"
    found.add(source_id, file, image.offset, image.size, labels.number(label, source_id))


def _label(sample: dict[str, Member], path: pathlib.Path) -> str | int | None:
    if "cls" in sample:
        return _content(sample["cls"], path).strip() or None
    if "json" not in sample:
        return None
    try:
        tree: Any = json.loads(_content(sample["json"], path))
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: {sample['json'].name} is no JSON mapping; write it anew.")
    label = next((tree[name] for name in _IN_JSON if name in tree), None)
    return label if isinstance(label, (str, int)) and label != "" and not isinstance(label, bool) else None


def _content(member: Member, path: pathlib.Path) -> str:
    data = member.head
    if len(data) < member.size:
        if member.size > _MAX_LABEL:
            raise DataError(f"{path}: {member.name} has {member.size} bytes; expected a label.")
        with path.open("rb") as file:
            data = os.pread(file.fileno(), member.size, member.offset)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}: {member.name} is not UTF-8; write it anew.") from None
