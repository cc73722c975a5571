"""features: what the metrics need to know of a range of images; reference: the same of a whole real set.

A range leaves sums and the features of a few drawn images, not of all: 1.2 million images of Inception would
be 10 GB. Only the filter compares every single image; for it the rows of the real sets are kept, too.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from synthaug.experiment import Experiment
from synthaug.launch.parts import features_args, is_real, reference_args, score_args
from synthaug.metrics import statistics
from synthaug.metrics.leakage import own_probability
from synthaug.metrics.statistics import Accumulator, Draw, Statistics
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.arrays import read_arrays, read_mapped, write_arrays, write_mapped
from synthaug.stages.encoder import load_encoder
from synthaug.stages.encoders import Encoded, Encoder, nothing
from synthaug.stages.job import Job
from synthaug.stages.pieces import Images, in_blocks, side_of
from synthaug.stages.selection import read_selection

FILE = "statistics.npz"
ROWS, CONFIDENCE = "features.npy", "confidence.npy"


def run(job: Job) -> dict[str, Any]:
    """Encodes the part's images and writes their statistics."""
    encoder = load_encoder(job.run, job.experiment, job.args["encoder"])
    images, labels, chosen = _images(job)
    first = job.args["first"]
    # fewer than planned if corrupt images were left out
    numbers = np.arange(len(chosen))[first : first + job.args["num_images"]]
    sums = Accumulator(draw_of(job.experiment, len(chosen)))
    none = nothing(encoder)
    sums.add(np.empty(0, np.int64), none.features, none.logits, none.spatial)  # also where no image is left
    keep, features, confidence = keeps_rows(job.experiment, job.args), [], []
    for part, encoded in _encoded(job, encoder, images, numbers, chosen):
        with job.clock.measure("evaluate"):
            sums.add(part, encoded.features, encoded.logits, encoded.spatial)
        if keep:
            features.append(encoded.features)
            if encoded.logits is not None and job.experiment.filter.min_confidence:
                confidence.append(own_probability(encoded.logits, labels[chosen[part]]))
    result: dict[str, Any] = {"images": len(numbers)}
    with job.clock.measure("save"):
        result["sha256"] = write_arrays(job.directory / FILE, statistics.to_arrays(sums.statistics()))
        if keep:
            result["rows"] = write_mapped(job.directory / ROWS, none.features, *features)
            result["confidence"] = write_mapped(job.directory / CONFIDENCE, none.features[:, 0], *confidence)
    return result


def _encoded(
    job: Job, encoder: Encoder, images: Images, numbers: np.ndarray, chosen: np.ndarray
) -> Iterator[tuple[np.ndarray, Encoded]]:
    """Yields (some of the numbers i64[b], what the encoder says of the images that they mean), in order."""
    done = 0
    for batch in in_blocks(images, encoder.batch_size, chosen[numbers]):
        with job.clock.measure("step"):
            encoded = encoder.encode(batch)
        yield numbers[done : done + len(batch)], encoded
        done += len(batch)
        job.progress(done, len(numbers), "images")
        job.check_stop()


def statistics_of(job: Job, encoder: Encoder, images: Images, sha256: str) -> Statistics:
    """Returns the statistics of a point of the sweep; a part that is restarted does not encode it again.

    Args:
        job: of the point.
        encoder: that looks at the images.
        images: of the point.
        sha256: hash of the images.
    """
    draw = dataclasses.replace(draw_of(job.experiment, len(images)), sizes=())
    made_by = np.array(f"{sha256} {encoder.sha256} {encoder.resize(side_of(images))} {draw}")
    file = job.directory / FILE
    if (found := _kept(file)) is not None and str(found["made_by"]) == str(made_by):
        return statistics.from_arrays(found)
    sums, all_of_them = Accumulator(draw), np.arange(len(images))
    for numbers, encoded in _encoded(job, encoder, images, all_of_them, all_of_them):
        sums.add(numbers, encoded.features, encoded.logits, encoded.spatial)
    measured = sums.statistics()
    with job.clock.measure("save"):
        write_arrays(file, {**statistics.to_arrays(measured), "made_by": made_by})
    return measured


def _kept(file: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Returns what an earlier attempt wrote whole; its checksums are those of the zip file."""
    try:
        data = io.BytesIO(file.read_bytes())  # numpy leaves a torn file open
        with np.load(data, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # there is none, or not a whole one: it is made again


def draw_of(settings: Experiment, n: int) -> Draw:
    """Returns which images of a set of n count for what."""
    score = settings.score
    return Draw(n=n, seed=settings.seed, splits=score.splits, max_images=score.max_images, sizes=score.sizes)


def _images(job: Job) -> tuple[Images, np.ndarray, np.ndarray]:
    """Returns the images of the part's set, their labels, and the numbers of those that are scored.

    Of a generated set they are its first copy, what classifiers learn from: the filter's choice if it is on.
    """
    name, side = job.args["set"], job.args["resolution"]
    if is_real(name):
        images, labels = sets.images_of(job.run, name.removeprefix("real "), side)
        return images, labels, np.arange(len(labels))
    if name == "generated":
        images, labels = sets.generated_images_of(job.run, job.experiment, side)
        if job.experiment.filter.active:
            return images, labels, read_selection(job.run).of(1)
    else:
        images, labels = sets.images_of(job.run, name, side)
    return images, labels, np.arange(min(len(labels), job.result("collect")["num_train"]))


def keeps_rows(settings: Experiment, args: dict[str, Any]) -> bool:
    """Returns whether the filter compares with the images of a part."""
    top = max((model.resolution for model in settings.cascade.values()), default=0)
    return (
        settings.filter.active and is_real(args["set"]) and args["resolution"] == top and not args["encoder"]
    )


# --------------------------------------------------------------------------------------- reference


def reduce(job: Job) -> dict[str, Any]:
    """Merges the statistics of a real set's parts into one file."""
    parts = _parts(job.experiment, job.args)
    with job.clock.measure("step"):
        merged = merged_statistics(job.run, job.experiment, job.args)
    result = {
        "images": merged.count,
        "sha256": write_arrays(job.directory / FILE, statistics.to_arrays(merged)),
    }
    if keeps_rows(job.experiment, job.args):
        for name, key in ((ROWS, "rows"), (CONFIDENCE, "confidence")):
            files = [job.run.part_dir("features-real", i) / name for i in parts]
            hashes = [job.run.result("features-real", i)[key] for i in parts]
            result[key] = write_mapped(job.directory / name, *map(read_mapped, files, hashes))
    return result


def merged_statistics(run: RunDir, settings: Experiment, args: dict[str, Any]) -> Statistics:
    """Returns the statistics of a set from those of its parts, one part in memory at a time.

    Args:
        run: it has encoded the set.
        settings: of the run.
        args: set, resolution, encoder.
    """
    stage = "features-real" if is_real(args["set"]) else "features"
    found = (
        statistics.from_arrays(read_arrays(run.part_dir(stage, i) / FILE, run.result(stage, i)["sha256"]))
        for i in _parts(settings, args)
    )
    merged = statistics.merge_all(found)
    merged.check_complete()
    return merged


def _parts(settings: Experiment, args: dict[str, Any]) -> list[int]:
    """Returns the numbers of the parts that encode a set."""
    real = is_real(args["set"])
    wanted = reference_args(settings) if real else [a for a in score_args(settings) if not is_real(a["set"])]
    keys = ("set", "resolution", "encoder")
    return [
        i
        for i, part in enumerate(features_args(settings, wanted))
        if all(part[key] == args[key] for key in keys)
    ]


def _reference_part(settings: Experiment, split: str, resolution: int, encoder: str) -> int:
    wanted = {"set": f"real {split}", "resolution": resolution, "encoder": encoder}
    return reference_args(settings).index(wanted)


def load_reference(
    run: RunDir, settings: Experiment, split: str, resolution: int, encoder: str = ""
) -> Statistics:
    """Returns the statistics of a real set.

    Args:
        run: its stage `reference` is finished.
        settings: of the run.
        split: "train" or "val".
        resolution: px.
        encoder: name in `score.further`; empty: `score.encoder`.
    """
    part = _reference_part(settings, split, resolution, encoder)
    file = run.part_dir("reference", part) / FILE
    return statistics.from_arrays(read_arrays(file, run.result("reference", part)["sha256"]))


def real_rows(
    run: RunDir, settings: Experiment, split: str, resolution: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (features f32[N,D] on the disk, probability of the own class f32[N] or [0]) for the filter."""
    part = _reference_part(settings, split, resolution, "")
    folder: pathlib.Path = run.part_dir("reference", part)
    result = run.result("reference", part)
    return _mapped(folder / ROWS, result["rows"]), _mapped(folder / CONFIDENCE, result["confidence"])


# Rows of ImageNet are 10 GB: a worker checks their hash once, not for every part of the filter.
_mapped = functools.lru_cache(maxsize=8)(read_mapped)
