"""The image sets of a run, as the stages read them."""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from synthaug.data.shards import open_set
from synthaug.errors import DataError
from synthaug.experiment import Experiment
from synthaug.launch.plan import num_sample_shards
from synthaug.manifest import ClassTable
from synthaug.rundir import RunDir


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
    return open_set(directory, num_shards, num_images=num_images, verify=True).load()


def load_real(run: RunDir, split: str, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[N,H,W,C], i32[N]) of a split."""
    facts = run.result("prepare")["sets"][f"{split}/{resolution}"]
    return _load(run.set_dir(split, resolution), facts["shards"], facts["images"])


def load_generated(run: RunDir, experiment: Experiment, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[N,H,W,C], i32[N]) of all generated copies."""
    num_train = run.result("prepare")["num_train"]
    num_images = experiment.sample.copies * num_train
    shards = num_sample_shards(experiment, num_train)
    return _load(run.set_dir("generated", resolution), shards, num_images)


def data_hash(run: RunDir) -> str:
    """Returns the hash of every prepared image."""
    return run.result("prepare")["sha256"]
