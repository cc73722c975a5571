"""What classifiers learn from and are tested on: pieces of image sets, none decoded before its turn."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np

from synthaug import experiment
from synthaug.data.loader import Piece
from synthaug.data.shards import ImageSet
from synthaug.data.subset import choose
from synthaug.errors import DataError
from synthaug.experiment.study import generated_sets
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.job import Job
from synthaug.stages.selection import read_selection
from synthaug.train.loop import prefetch

Images = np.ndarray | ImageSet
"""u8[N,H,W,C] in memory, or a set on disk."""

ORIGINAL = 0
"""In place of a resolution: the files as they are."""


def real_side(settings: experiment.Experiment, view: experiment.View) -> int:
    """Returns the prepared resolution that a network's real images come from, or ORIGINAL."""
    if view.original:
        return ORIGINAL
    return view.resolution or experiment.prepared_resolutions(settings)[-1]


def real_images(job: Job, split: str, side: int) -> tuple[Images, np.ndarray]:
    """Returns (images, labels i32[N]) of a split; a small set is decoded once and kept in memory."""
    return sets.images_of(job.run, split, side)


def generated_images(job: Job, name: str) -> tuple[Images, np.ndarray]:
    """Returns (images, labels i32[N]) of a generated set, by its name in `classify.sets`."""
    found = {key: (folder, side) for key, folder, side in generated_sets(job.experiment)}
    folder, side = found[name]
    if folder == "generated":
        return sets.generated_images_of(job.run, job.experiment, side)
    return sets.images_of(job.run, folder, side)


def training_pieces(job: Job, view: experiment.View) -> list[Piece]:
    """Returns the pieces of the part's training set: a subset of the real images, copies of generated ones.

    A copy has as many images as the real train split, and copies are a prefix of the generated set, whose
    every prefix is balanced over the classes; of our own set they are what the filter chose, if there is one.
    A set made elsewhere that is smaller than that is one copy.

    Raises:
        DataError: fewer copies than asked for.
    """
    args, pieces = job.args, []
    if args["mix"] != "generated":
        images, labels = real_images(job, "train", real_side(job.experiment, view))
        subset = job.experiment.classify.subsets[args["subset"]]
        index = None
        if subset != experiment.Subset():
            keys = [entry.key for entry in sets.class_table(job.run).entries]
            index = choose(labels, subset, args["seed"], keys)
        pieces.append(Piece(images, labels, index))
    if args["mix"] != "real":
        images, labels = generated_images(job, args["set"])
        copy_size = job.result("collect")["num_train"]
        wanted = args["copies"] * copy_size
        if len(labels) < wanted and args["copies"] > 1:
            raise DataError(
                f"classify: {args['set']} has {len(labels)} images; expected {wanted}, {args['copies']} "
                f"copies of {copy_size}; lower classify.copies."
            )
        run, most = _filtered_by(job, args["set"]), len(labels)
        if args["set"] in job.experiment.sets:  # of a manifest a study may use the first images alone
            most = min(most, job.experiment.sets[args["set"]].num_images)
        index = np.arange(min(wanted, most))
        if run is not None:
            index = read_selection(run).of(args["copies"])
        pieces.append(Piece(images, labels, None if len(index) == len(labels) else index, generated=True))
    return pieces


def _filtered_by(job: Job, name: str) -> RunDir | None:
    """Returns the run whose filter chose among the images of a generated set: this or the set's."""
    if name.startswith("generated-"):
        return job.run if job.experiment.filter.active else None
    made = job.experiment.sets[name]
    folder = pathlib.Path(made.path)
    if made.source != "manifest" or folder.parent.name != "generated":
        return None
    run = RunDir(folder.parents[2])
    return run if run.is_done("select", 0) else None


def in_blocks(images: Images, size: int, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yields u8[b,H,W,C], b <= size: all images in order, or `rows` i64[n]; the next are read meanwhile."""
    wanted = np.arange(len(images)) if rows is None else rows

    def block(number: int) -> np.ndarray:
        part = wanted[number * size : (number + 1) * size]
        return images[part] if isinstance(images, np.ndarray) else images.load(part.tolist())[0]

    return prefetch(block, 0, -(-len(wanted) // size))


def side_of(images: Images) -> int:
    """Returns H of images u8[N,H,W,C]."""
    return images.shape[1] if isinstance(images, np.ndarray) else images.image(0).shape[0]
