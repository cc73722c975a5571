"""sweep: the images of one point of the grid, shard by shard, each committed exactly once."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from synthaug import commit, experiment, licences, markers
from synthaug.data.shards import ImageSet, open_set, open_shard, write_shard
from synthaug.manifest import image_order, num_blocks
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.finetune import checkpoint_dir
from synthaug.stages.generator import Generator, Wanted, chosen_sampler, load_generator
from synthaug.stages.job import Job

POINT_BYTES = 2**27
"""Images of a point that are decoded at once; those of a larger one are read batch by batch."""


def run(job: Job) -> dict[str, Any]:
    """Writes the part's shards of its point."""
    phase = job.experiment.sweep.phases[job.args["phase"]]
    generator = load_generator(job.run, job.experiment, phase.model, sampler_of(job))
    hashes = {"settings": generator.settings_sha256, "weights": generator.weights_sha256}
    held = _licences(job, phase.model)
    labels, size = labels_of(job.run, phase), job.experiment.sample.shard_size
    directory = point_dir(job.run, job.experiment, job.args["phase"], job.args["number"])
    commit.remove_leftovers(directory)
    first = job.args["shard"]
    mine = [np.arange(s * size, min((s + 1) * size, len(labels))) for s in _shards(job)]
    done, total = 0, sum(map(len, mine))
    for shard, indices in enumerate(mine, first):
        if open_shard(directory, shard, made_by=hashes) is None:
            low_res = _low_res(job, phase, generator, indices, labels[indices])
            wanted = Wanted(indices, labels[indices], indices, low_res)
            images = generator.generate_watched(job, wanted, done=done, total=total)
            records = _records(job, labels[indices], images)
            with job.clock.measure("save"):
                write_shard(
                    directory, shard, int(indices[0]), records, attempt=job.attempt, licences=held, **hashes
                )
        done += len(indices)
        job.progress(done, total, "images")
        job.check_stop()
    return {"images": total, **hashes}


def _shards(job: Job) -> range:
    return range(job.args["shard"], job.args["shard"] + job.args["num_shards"])


def sampler_of(job: Job) -> experiment.Sampler:
    """Returns the sampler's settings at the part's point: what was chosen so far, then the point's own."""
    phase = job.experiment.sweep.phases[job.args["phase"]]
    base = chosen_sampler(job.run, job.experiment, phase.model, before=job.args["phase"])
    return dataclasses.replace(base, **job.args["point"])


def labels_of(run: RunDir, phase: experiment.Phase) -> np.ndarray:
    """Returns the classes of a point's images, i32[N], in the proportions of train in every first part."""
    order = image_order([entry.train for entry in sets.class_table(run).entries])
    return np.resize(order, phase.num_images).astype(np.int32)


def point_dir(run: RunDir, settings: experiment.Experiment, phase: str, number: int) -> pathlib.Path:
    """Returns the folder of the images of point `number` of a phase."""
    model = settings.cascade[settings.sweep.phases[phase].model]
    return run.set_dir(f"sweep-{phase}-{number}", model.resolution)


def point_images(run: RunDir, settings: experiment.Experiment, phase: str, number: int) -> sets.Images:
    """Returns the images of a finished point, in memory if they are few: a worker measures many points."""
    images = _point_set(run, settings, phase, number)
    side = settings.cascade[settings.sweep.phases[phase].model].resolution
    return images.load()[0] if len(images) * side**2 * 3 <= POINT_BYTES else images


def images_hash(run: RunDir, settings: experiment.Experiment, phase: str, number: int) -> str:
    """Returns the hash of every image of a finished point."""
    return markers.digest(_point_set(run, settings, phase, number).shards)


def _point_set(run: RunDir, settings: experiment.Experiment, phase: str, number: int) -> ImageSet:
    count = settings.sweep.phases[phase].num_images
    directory = point_dir(run, settings, phase, number)
    return open_set(directory, num_blocks(count, settings.sample.shard_size), num_images=count)


def _records(job: Job, labels: np.ndarray, images: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    entries = sets.class_table(job.run).entries
    return [
        ({"class_key": entries[k].key, "class_index": int(k)}, image)
        for k, image in zip(labels, images, strict=True)
    ]


def _licences(job: Job, model: str) -> list[str]:
    """Returns the licences of what the images came from: the models of the cascade up to this one."""
    order = experiment.cascade_order(job.experiment.cascade)
    steps = [checkpoint_dir(job.run, job.experiment, name, 0) for name in order[: order.index(model) + 1]]
    return licences.binding(licences.of_checkpoint(step) for step in steps)


def _low_res(
    job: Job, phase: experiment.Phase, generator: Generator, indices: np.ndarray, labels: np.ndarray
) -> np.ndarray | None:
    """Returns the images to enlarge: those of the chosen point of the base's last phase, else new ones."""
    low = generator.model.low_res
    if not low:
        return None
    earlier = [n for n, p in _phases_before(job).items() if p.model == low]
    if earlier:
        choice = job.result(f"choose-{earlier[-1]}")
        images = point_images(job.run, job.experiment, earlier[-1], choice["part"])
        return images[indices] if isinstance(images, np.ndarray) else images.load(indices.tolist())[0]
    sampling = chosen_sampler(job.run, job.experiment, low, before=job.args["phase"])
    base = load_generator(job.run, job.experiment, low, sampling)
    inner = _low_res(job, phase, base, indices, labels)
    return base.generate(Wanted(indices, labels, indices, inner))


def _phases_before(job: Job) -> dict[str, experiment.Phase]:
    names = list(job.experiment.sweep.phases)
    earlier = names[: names.index(job.args["phase"])]
    return {name: job.experiment.sweep.phases[name] for name in earlier}
