"""A set of synthaug's own shards as a source: of another run, or of another machine."""

from __future__ import annotations

import pathlib
import re
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from synthaug import manifest, markers
from synthaug.data import shards
from synthaug.data.sources.found import Found, Labels, list_folder
from synthaug.errors import DataError

_MARKER = re.compile(r"shard-([0-9]{5,})\.json")


def find(text: str, where: str) -> Found:
    """Returns the images of a set of shards, once its markers fit together.

    Args:
        text: the folder of the set.
        where: the knob, for errors.

    Raises:
        DataError: no set, a hole, a shard that stands there twice, or one that was altered.
    """
    folder = pathlib.Path(text).expanduser().absolute()
    if not text or not folder.is_dir():
        raise DataError(
            f"{where} = {text!r}: no such folder; expected a set of synthaug's shards; set {where}."
        )
    found, labels = Found(), Labels(where)
    plan = _plan(folder)
    for shard in _shards(folder, text, where):
        images = shards.open_shard(folder, shard.index)
        found.files.append(str(folder / shard.file))
        for row, (index, key) in enumerate(_classes(images, shard, plan) if images and shard.count else ()):
            source_id = f"{folder.name}/{index:08d}"
            label = labels.number(f"\0{key}", source_id)  # digits' keys look like numbers
            found.add(source_id, len(found.files) - 1, row, 0, label)
    found.keys = [key[1:] for key in labels.keys]
    return found


def find_images(folder: pathlib.Path, where: str) -> Found:
    """Returns the images of a set of shards without their classes: no record is read.

    Raises:
        DataError: as `find`.
    """
    found = Found()
    for shard in committed(folder, where):
        found.files.append(str(folder / shard.file))
        numbers: Iterable[int] = range(shard.first, shard.first + shard.count)
        if shard.left_out and shard.count and (images := shards.open_shard(folder, shard.index)):
            numbers = (header["index"] for header in images.headers())
        for row, number in enumerate(numbers):
            found.add(f"{folder.name}/{number:08d}", len(found.files) - 1, row, 0, -1)
    return found


def committed(folder: pathlib.Path, where: str) -> list[markers.Shard]:
    """Returns the shards of a set, all of them, once their markers fit together.

    Raises:
        DataError: no set, a hole, a shard that stands there twice, or one that a run's plan has and that is
            not made yet.
    """
    found = _shards(folder, str(folder), where)
    plan = _plan(folder)
    if plan is not None and len(found) < plan.num_shards:
        raise DataError(
            f"{folder}: has {len(found)} of {plan.num_shards} shards: the run has not made all its images; "
            "run it to its end first."
        )
    return found


def _plan(folder: pathlib.Path) -> manifest.ImagePlan | None:
    """Returns the plan that names the class of every image of a run's generated set, if this is one."""
    file = folder.parents[2] / "manifest.parquet"
    return manifest.read_plan(file) if folder.parent.name == "generated" and file.exists() else None


def _classes(
    images: shards.ImageSet, shard: markers.Shard, plan: manifest.ImagePlan | None
) -> Iterator[tuple[int, str]]:
    """Yields (number, class key) of the images of a shard.

    The plan spares reading a whole set of terabytes: headers stand in front of the pixels of each record.
    """
    if plan is None or shard.left_out:
        yield from ((header["index"], header["class_key"]) for header in images.headers())
        return
    for index in range(shard.first, shard.first + shard.count):
        yield index, plan.keys[plan.class_index[index]]


def _shards(folder: pathlib.Path, text: str, where: str) -> list[markers.Shard]:
    named = [name for name, _, kind in list_folder(folder) if kind == "file" and name.startswith("shard-")]
    found = [(name, _MARKER.fullmatch(name)) for name in named if name.endswith(".json")]
    if not found:
        raise DataError(f"{where} = {text!r}: has no markers shard-00000.json; expected a set of shards.")
    if stray := [name for name, match in found if match is None]:
        raise DataError(f"{folder / stray[0]}: is a second marker of a shard; expected one: delete the copy.")
    # the highest number tells how many there are; any that is missing below is a hole
    there = markers.read_markers(folder, 1 + max(int(match[1]) for _, match in found if match))
    first: dict[str, int] = {}
    for shard in there:
        if shard.count and first.setdefault(shard.sha256, shard.index) != shard.index:
            raise DataError(
                f"{markers.marker_path(folder, shard.index)}: holds the same images as shard "
                f"{first[shard.sha256]}: a shard stands there twice; delete the copy and write the set anew."
            )
    return there


class Shards:
    """Reads images of shards."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = [pathlib.Path(path) for path in paths]
        self._lock = threading.Lock()
        self._open: dict[int, shards.ImageSet] = {}

    def read(self, file: int, row: int, length: int = 0) -> np.ndarray:
        """Returns one image as u8[H,W,C]."""
        return self._images(file).image(row)

    def read_source(self, file: int, row: int) -> bytes | np.ndarray:
        """Returns one image as it is stored: our PNG, an untouched file, or u8[H,W,C] where pixels are."""
        stored = self._images(file).sources([row])[0]
        return stored if isinstance(stored, bytes) else stored.image()

    def _images(self, file: int) -> shards.ImageSet:
        with self._lock:
            if file not in self._open:
                path = self._paths[file]
                images = shards.open_shard(path.parent, int(path.stem.partition("-")[2]))
                if images is None:
                    raise DataError(f"{path}: its marker is gone since it was listed")
                self._open[file] = images
            return self._open[file]
