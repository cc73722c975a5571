"""The images of a path without asking for classes: every form that a set of images has.

| kind | what it is | order |
|---|---|---|
| shards | a set of synthaug's own shards, a folder | by number |
| folder | image files below a folder, nested as deep as one likes | by path, sorted by code point |
| files | image files of a pattern | by path |
| zip | stored or deflated | by path in the zip |
| tar | plain tars, tars inside of them, WebDataset's; a folder or a pattern of them | of the tar |
| npz | arr_0, or the only array u8[N,H,W,C] | of the array |
| arrayrecord | a whole image file in each record | of the record |
| tfrecord, parquet | as the sources of these names | of the file |

Files that are no images by their name, and hidden members of archives, are listed in `Found.others`; hidden
files of folders are not looked at. Several archives are read one after the other, sorted by name.
"""

from __future__ import annotations

import glob
import itertools
import os
import pathlib
import re
from collections.abc import Sequence

from synthaug.data import images, shards
from synthaug.data.sources import columns, npz, shardset, tars, tfrecord, webdataset, zips
from synthaug.data.sources.folder import walk
from synthaug.data.sources.found import SUFFIXES, Found, has_control, paths_of, short_names, some_of
from synthaug.errors import DataError

_EXPECTED = (
    "a folder of images, a zip, tar or npz of them, TFRecords, ArrayRecords, parquet, or a set of synthaug's "
    "shards (RUN:generated/64)"
)
_ARCHIVES = (".tar", ".npz", ".zip", ".parquet", ".array_record", ".arrayrecord")
_RECORDS = r"\.array_?record(-[0-9]+-of-[0-9]+)?$"
_LABELLED = {"tfrecord": tfrecord.find, "parquet": columns.find}


def find(text: str, where: str) -> tuple[str, Found]:
    """Returns the kind of a path and its images, whose labels mean nothing but with tfrecord and parquet.

    Args:
        text: a path, or a pattern with * or ?, or WebDataset's {000..146}.
        where: the argument, for errors.

    Raises:
        DataError: there is nothing, something else, or two kinds at once.
    """
    path = pathlib.Path(text).expanduser().absolute()
    if not text or (not path.exists() and not re.search(r"[*?\[{]", text)):
        raise DataError(f"{where} = {text!r}: no such file or folder; expected {_EXPECTED}.")
    if path.is_dir():
        return _find_folder(path, text, where)
    paths = paths_of(text, where, _EXPECTED, r".")
    kinds = [_kind(path) for path in paths]
    if len(set(kinds)) > 1:
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        first, second = (f"{paths[i].name} is {kinds[i] or 'nothing known'}" for i in (0, other))
        raise DataError(
            f"{where} = {text!r}: {first} and {second}; expected files of one kind: name a narrower pattern."
        )
    if not kinds[0]:
        raise DataError(f"{where} = {text!r}: is none of what is known; expected {_EXPECTED}.")
    return kinds[0], _checked(_find_files(kinds[0], paths, text, where), text, where)


def _find_folder(path: pathlib.Path, text: str, where: str) -> tuple[str, Found]:
    if glob.glob("shard-*.json", root_dir=path):
        return "shards", _checked(shardset.find_images(path, where), text, where)
    found = Found()
    for name, file, kind in walk(str(path), ""):
        _add_file(found, name.removeprefix("/"), file, kind)
    if found.source_id:
        return "folder", _checked(found, text, where)
    there = {os.path.splitext(name)[1].lower() for name in found.others if "/" not in name}
    archives = [suffix for suffix in _ARCHIVES if suffix in there]
    if any(re.search(tfrecord.NAMES, name) for name in found.others if "/" not in name):
        archives.append("")
    if len(archives) == 1:
        names = re.escape(archives[0]) + "$" if archives[0] else tfrecord.NAMES
        paths = paths_of(text, where, _EXPECTED, names)
        kind = _kind(paths[0])
        return kind, _checked(_find_files(kind, paths, text, where), text, where)
    if len(archives) > 1:
        kinds = " and ".join(f"*{suffix or '.tfrecord'}" for suffix in archives)
        raise DataError(f"{where} = {text!r}: has {kinds}; expected one kind: name it by a pattern.")
    return "folder", _checked(found, text, where)


def _add_file(found: Found, name: str, file: str, kind: str) -> None:
    if kind == "file" and _is_image(name) and not has_control(name):
        found.add(name, len(found.files), 0, -1, -1)
        found.files.append(file)
    else:
        found.others.append(name)


def _is_image(name: str) -> bool:
    """Returns whether a name is that of a visible image file; macOS packs "._a.png" beside each a.png."""
    visible = not any(part.startswith(".") and part != "." for part in name.split("/"))
    return visible and name.lower().endswith(SUFFIXES) and "__MACOSX/" not in name


def _kind(path: pathlib.Path) -> str:
    """Returns the kind of a file by its content; "" if it is none that we know."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights.") from None
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        arrays = any(member.name.endswith(".npy") for member in itertools.islice(zips.members(path), 8))
        return "npz" if arrays else "zip"
    if head.startswith(b"PAR1"):
        return "parquet"
    if images.format_of(head):
        return "files"
    if head[257:262] == b"ustar" or re.search(r"\.(tar|tgz|tar\.[a-z0-9]+)$", path.name.lower()):
        return "tar"
    if re.search(_RECORDS, path.name):
        return "arrayrecord"
    by_suffix = path.suffix.lower().lstrip(".")
    if by_suffix in ("npz", "zip"):
        return by_suffix  # torn ones are refused by name where they are read
    return "tfrecord" if re.search(tfrecord.NAMES, path.name) else ""


def _find_files(kind: str, paths: Sequence[pathlib.Path], text: str, where: str) -> Found:
    if kind in _LABELLED:
        return _LABELLED[kind](text, where)
    if kind == "npz":
        return npz.find_pixels(paths)
    found = Found()
    if kind == "files":
        for path, name in zip(paths, short_names(paths), strict=True):
            _add_file(found, name, str(path), "file")
        return found
    found.files = [str(path) for path in paths]
    records = shards.Records(found.files)
    for file, (path, name) in enumerate(zip(paths, short_names(paths), strict=True)):
        if kind == "zip":
            for member in sorted(zips.members(path)):
                _add_member(found, name, file, member)
        elif kind == "arrayrecord":
            for row in range(records.count(file)):
                found.add(f"{name}/{row:08d}", file, row, 0, -1)
        else:
            _add_tar(found, name, file, path, 0, -1)
    return found


def _add_tar(found: Found, name: str, file: int, path: pathlib.Path, start: int, length: int) -> None:
    for member in tars.members(path, start, length):
        if member.name.lower().endswith(".tar"):  # ILSVRC2012_img_train.tar has one for each class
            _add_tar(found, f"{name}/{member.name}", file, path, member.offset, member.size)
        else:
            _add_member(found, name, file, member)


def _add_member(found: Found, archive: str, file: int, member: tars.Member | zips.Member) -> None:
    name = f"{archive}/{member.name}"
    if _is_image(member.name):
        found.add(name, file, member.offset, member.size, -1)
    else:
        found.others.append(name)


def _checked(found: Found, text: str, where: str) -> Found:
    """Returns `found`, once it has images and each has a name of its own."""
    if not found.source_id:
        others = f" but {len(found.others)} other files ({some_of(found.others, 3)})" if found.others else ""
        raise DataError(
            f"{where} = {text!r}: has no images{',' if others else ''}{others}; expected files ending in "
            f"{', '.join(SUFFIXES)}."
        )
    if len(set(found.source_id)) < len(found.source_id):
        seen: set[str] = set()
        double = next(name for name in found.source_id if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"{where} = {text!r}: {double} stands twice; expected every image once: remove one.")
    return found


def labels_of(kind: str, text: str, where: str, found: Found) -> tuple[list[int | None], tuple[str, ...]]:
    """Returns the label of every image, None where there is none, and the class keys where labels have them.

    Classes of a folder are the folders directly in it, sorted, if no image lies beside them; a WebDataset,
    a set of shards and an npz with arr_1 are read as the sources of these names read them.

    Raises:
        DataError: there are labels, and they cannot be read.
    """
    names = found.source_id
    if kind == "folder" and all("/" in name for name in names):
        keys = sorted({name.partition("/")[0] for name in names})
        place = {key: k for k, key in enumerate(keys)}
        return [place[name.partition("/")[0]] for name in names], tuple(keys)
    labelled: Found | None = found if kind in _LABELLED else None
    if kind == "shards":
        labelled = shardset.find(text, where)
    if kind == "npz" and all("arr_1" in npz.arrays_of(pathlib.Path(file)) for file in found.files):
        labelled = npz.find(text, where)
    if kind == "tar" and any(name.endswith((".cls", ".json")) for name in found.others):
        labelled = webdataset.find(text, where)
    if labelled is None:
        return [None] * len(names), ()
    by_name = dict(zip(labelled.source_id, labelled.labels().tolist(), strict=True))
    return [by_name.get(name) for name in names], tuple(labelled.keys or ())
