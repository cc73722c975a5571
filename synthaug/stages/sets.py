"""The image sets of a run, as the stages read them."""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from synthaug.data.shards import ImageSet, open_set
from synthaug.errors import DataError
from synthaug.experiment import Experiment
from synthaug.launch.plan import num_sample_shards
from synthaug.manifest import ClassTable
from synthaug.rundir import RunDir

KEEP_BYTES = 2**31
"""Images of a split that training keeps decoded in memory; a larger split is read batch by batch."""


def class_table(run: RunDir) -> ClassTable:
    """Returns the classes that prepare found."""
    run.result("prepare")  # refuses a run whose prepare stage is not finished
    file = run.path / "sets" / "classes.json"
    if not file.exists():
        raise DataError(f"{file}: is missing; make the sets again with --stage prepare --force.")
    return ClassTable.from_json(file.read_text(), str(file))


# A worker trains many classifiers on the same few sets: decode each once.
@functools.lru_cache(maxsize=6)
def _load(directory: pathlib.Path, num_shards: int, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    return _open(directory, num_shards, num_images).load()


@functools.lru_cache(maxsize=6)
def _open(directory: pathlib.Path, num_shards: int, num_images: int) -> ImageSet:
    return open_set(directory, num_shards, num_images=num_images, verify=True)


def open_real(run: RunDir, split: str, resolution: int) -> ImageSet:
    """Returns a split, to read some of its images without the rest."""
    facts = run.result("prepare")["sets"][f"{split}/{resolution}"]
    return _open(run.set_dir(split, resolution), facts["shards"], facts["images"])


def load_real(run: RunDir, split: str, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[N,H,W,C], i32[N]) of a split."""
    facts = run.result("prepare")["sets"][f"{split}/{resolution}"]
    return _load(run.set_dir(split, resolution), facts["shards"], facts["images"])


def take_real(run: RunDir, split: str, resolution: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[B,H,W,C], i32[B]), the images of a split with the numbers index i64[B].

    A small split is decoded once and kept; of a large one only these images are read from the disk.
    """
    images = open_real(run, split, resolution)
    if len(images) * resolution**2 * 3 <= KEEP_BYTES:
        kept, labels = load_real(run, split, resolution)
        return kept[index], labels[index]
    order = np.argsort(index, kind="stable")  # ascending is fastest
    back = np.argsort(order, kind="stable")
    found, labels = images.load(index[order].tolist())
    return found[back], labels[back]


def load_generated(run: RunDir, experiment: Experiment, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[N,H,W,C], i32[N]) of all generated copies."""
    num_train = run.result("prepare")["num_train"]
    num_images = experiment.sample.copies * num_train
    shards = num_sample_shards(experiment, num_train)
    return _load(run.set_dir("generated", resolution), shards, num_images)


def data_hash(run: RunDir) -> str:
    """Returns the hash of every prepared image."""
    return run.result("prepare")["sha256"]
