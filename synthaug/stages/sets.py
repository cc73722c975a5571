"""The image sets of a run, as the stages read them."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np

from synthaug.data.labels import read_labels
from synthaug.data.recipe import ORIGINAL
from synthaug.data.shards import ImageSet, open_set
from synthaug.errors import DataError
from synthaug.experiment import Experiment
from synthaug.launch.parts import num_generated, num_sample_shards
from synthaug.manifest import ClassTable
from synthaug.rundir import RunDir

KEEP_BYTES = 2**31
"""Images of a set that are kept decoded in memory; a larger set is read batch by batch."""

Images = np.ndarray | ImageSet
"""u8[N,H,W,C] in memory, or a set on disk."""


def class_table(run: RunDir) -> ClassTable:
    """Returns the classes that collect found."""
    run.result("collect")  # refuses a run whose images are not prepared
    file = run.path / "sets" / "classes.json"
    if not file.exists():
        raise DataError(f"{file}: is missing; make the sets again with --stage scan --force.")
    return ClassTable.from_json(file.read_text(), str(file))


# A worker trains many classifiers on the same few sets: decode each once.
@functools.lru_cache(maxsize=6)
def _load(directory: pathlib.Path, num_shards: int, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    return _open(directory, num_shards, num_images).load()


@functools.lru_cache(maxsize=6)
def _open(directory: pathlib.Path, num_shards: int, num_images: int) -> ImageSet:
    done = open_set(directory, num_shards, num_images=num_images)
    if sum(shard.bytes for shard in done.shards) > KEEP_BYTES:
        return done  # hashing hundreds of GB takes an hour; each record has a checksum that reading it checks
    return open_set(directory, num_shards, num_images=num_images, verify=True)


@functools.lru_cache(maxsize=6)
def _labels(folder: pathlib.Path, num_images: int) -> np.ndarray:
    labels = read_labels(folder)
    if len(labels) != num_images:
        raise DataError(
            f"{folder / 'labels.npy'}: has {len(labels)} labels, the set {num_images} images; "
            "it was altered: make it again with --stage collect --force."
        )
    return labels


def labels(run: RunDir, name: str) -> np.ndarray:
    """Returns the class index of every image of a set, i32[N], without reading an image.

    Args:
        run: it has collected its sets.
        name: "train", "val" or the name of a set made elsewhere.
    """
    collected = run.result("collect")["sets"]
    facts = next(facts for key, facts in collected.items() if key.rpartition("/")[0] == name)
    return _labels(run.path / "sets" / name, facts["images"])


def open_set_of(run: RunDir, name: str, side: int) -> ImageSet:
    """Returns a set that is not our own making, to read some of its images without the rest.

    Args:
        run: it has collected its sets.
        name: "train", "val" or the name of a set made elsewhere.
        side: resolution in px; 0 = the files as they are.
    """
    return _open(*_place(run, name, side))


def images_of(run: RunDir, name: str, side: int) -> tuple[Images, np.ndarray]:
    """Returns (images, labels i32[N]) of a set; a small one is decoded once and kept, a large one not read.

    Args:
        run: it has collected its sets.
        name: "train", "val" or the name of a set made elsewhere.
        side: resolution in px; 0 = the files as they are.
    """
    place = _place(run, name, side)
    return _kept(place, side), labels(run, name)


def generated_images_of(run: RunDir, experiment: Experiment, side: int) -> tuple[Images, np.ndarray]:
    """Returns (images, labels i32[N]) of all generated copies; the large ones are not read.

    The labels are those of the manifest, which names the class of every image before it is made.
    """
    place = _generated_place(run, experiment, side)
    return _kept(place, side), _planned_labels(run.manifest, place[2])


def load_real(run: RunDir, split: str, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[N,H,W,C], i32[N]) of a split."""
    return _load(*_place(run, split, resolution))


def take_real(run: RunDir, split: str, resolution: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[B,H,W,C], i32[B]), the images of a split with the numbers index i64[B].

    A small split is decoded once and kept; of a large one only these images are read from the disk.
    """
    place = _place(run, split, resolution)
    if isinstance(images := _kept(place, resolution), np.ndarray):
        return images[index], _load(*place)[1][index]
    order = np.argsort(index, kind="stable")  # ascending is fastest
    back = np.argsort(order, kind="stable")
    found, found_labels = images.load(index[order].tolist())
    return found[back], found_labels[back]


def data_hash(run: RunDir) -> str:
    """Returns the hash of every prepared image."""
    return run.result("collect")["sha256"]


def _place(run: RunDir, name: str, side: int) -> tuple[pathlib.Path, int, int]:
    """Returns the folder of a set, its number of shards, and of images with those left out."""
    view = str(side) if side else ORIGINAL
    collected: dict[str, Any] = run.result("collect")["sets"]
    if (facts := collected.get(f"{name}/{view}")) is None:
        raise DataError(
            f"{run.path}: no set {name} at {view}; expected one of {', '.join(collected)}; "
            "name the resolution in data.resolutions, or set data.keep_original."
        )
    directory = facts.get("directory", run.path / "sets" / name / view)
    return pathlib.Path(directory), facts["shards"], facts["slots"]


def _generated_place(run: RunDir, experiment: Experiment, side: int) -> tuple[pathlib.Path, int, int]:
    num_train = run.result("collect")["num_train"]
    shards = num_sample_shards(experiment, num_train)
    return run.set_dir("generated", side), shards, num_generated(experiment, num_train)


def _kept(place: tuple[pathlib.Path, int, int], side: int) -> Images:
    """Returns a set in memory if it has one size and is small, else on disk."""
    small = side and place[2] * side**2 * 3 <= KEEP_BYTES
    return _load(*place)[0] if small else _open(*place)


@functools.lru_cache(maxsize=2)
def _planned_labels(manifest: pathlib.Path, num_images: int) -> np.ndarray:
    from synthaug.manifest import read_plan

    return read_plan(manifest).class_index[:num_images]
