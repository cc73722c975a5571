"""sample: a range of shards of the generated set, through the whole cascade, each committed exactly once."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from synthaug import commit, licences
from synthaug.data.shards import open_shard, write_shard
from synthaug.experiment import cascade_order
from synthaug.launch.parts import num_sample_shards
from synthaug.manifest import ImagePlan, Shard, number_within_class, plan_images, write_plan
from synthaug.stages import sets
from synthaug.stages.finetune import checkpoint_dir
from synthaug.stages.generator import Generator, Wanted, chosen_sampler, load_generator
from synthaug.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Writes the manifest if it is not there, then this part's shards at every resolution."""
    settings = job.experiment
    table = sets.class_table(job.run)
    prompts = job.result("embed")["prompts"]  # those that were embedded: a file of names may change
    spare = settings.filter.num_spare(settings.sample.copies * sum(entry.train for entry in table.entries))
    plan = plan_images(table, prompts, settings.sample.copies, settings.sample.shard_size, spare)
    held = _licences(job)
    write_plan(dataclasses.replace(plan, licences=tuple(licences.binding(held))), job.run.manifest)
    generators = []
    for name in cascade_order(settings.cascade):
        sampling = chosen_sampler(job.run, settings, name)
        # only the base model edits: the others start from what it made
        level = 0.0 if settings.cascade[name].low_res else settings.sample.edit_level
        generators.append(load_generator(job.run, settings, name, sampling, edit_level=level))
    sources = None
    if settings.sample.edit_level:
        real = sets.open_set_of(job.run, "train", generators[0].model.resolution)
        sources = edit_sources(plan.class_index, real.labels)
    total = num_sample_shards(settings, job.result("collect")["num_train"])
    first = job.args["shard"]
    mine = range(first, min(first + job.args["num_shards"], total))  # fewer if corrupt images were left out
    num_images = sum(len(plan.range_of(shard)) for shard in mine) * len(generators)
    done, shards = 0, []
    for shard in mine:
        low_res: np.ndarray | None = None
        for generator, hashes in zip(generators, _provenance(generators, held), strict=True):
            low_res, marker = _one_shard(
                job, plan, shard, generator, hashes, low_res, sources, (done, num_images)
            )
            done += len(low_res)
            facts = {"resolution": generator.model.resolution, "shard": shard, "count": marker.count}
            shards.append({**facts, "sha256": marker.sha256, "images_sha256": marker.images_sha256})
            job.check_stop()
    return {
        "shards": shards,
        "images": done,
        "settings": {g.name: g.settings_sha256 for g in generators},
        "weights": {g.name: g.weights_sha256 for g in generators},
        "licences": licences.binding(held),
    }


def _licences(job: Job) -> list[str]:
    """Returns the licence of each model's checkpoint, in the cascade's order."""
    settings, held = job.experiment, []
    for name in cascade_order(settings.cascade):
        step = chosen_sampler(job.run, settings, name).checkpoint
        held.append(licences.of_checkpoint(checkpoint_dir(job.run, settings, name, step)))
    return held


def _provenance(generators: list[Generator], held: list[str]) -> list[dict[str, Any]]:
    """Returns, per model, what everything came from that its images came from: all models up to this one."""
    hashes: list[dict[str, Any]] = []
    settings, weights = hashlib.sha256(), hashlib.sha256()
    for generator in generators:
        settings.update(generator.settings_sha256.encode())
        weights.update(generator.weights_sha256.encode())
        terms = tuple(licences.binding(held[: len(hashes) + 1]))
        hashes.append({"settings": settings.hexdigest(), "weights": weights.hexdigest(), "licences": terms})
    return hashes


def edit_sources(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the number of the real image that each generated image starts from, i64[M].

    The n-th image of a class edits the n-th real one, again from the first when all had their turn.

    Args:
        classes: i32[M], of the generated images.
        labels: i32[N], of the real ones.

    Example:
        >>> edit_sources(np.array([0, 1, 0, 0, 1]), np.array([1, 0, 0])).tolist()
        [1, 0, 2, 1, 0]
    """
    by_class = np.argsort(labels, kind="stable")
    size = np.bincount(labels, minlength=int(classes.max()) + 1)
    first = np.cumsum(size) - size
    return by_class[first[classes] + number_within_class(classes) % size[classes]]


def _one_shard(
    job: Job,
    plan: ImagePlan,
    shard: int,
    generator: Generator,
    hashes: dict[str, Any],
    low_res: np.ndarray | None,
    sources: np.ndarray | None,
    position: tuple[int, int],
) -> tuple[np.ndarray, Shard]:
    """Returns a shard's images u8[N,H,W,C] and its marker: read if committed, else made and committed.

    `position` is (images done before, images in all), for the progress.
    """
    directory = job.run.set_dir("generated", generator.model.resolution)
    commit.remove_leftovers(directory)
    done, total = position
    if there := open_shard(directory, shard, made_by=hashes):
        job.progress(done + len(there), total, "images")
        return there.load()[0], there.shards[0]
    indices = np.asarray(plan.range_of(shard))
    start = None
    if sources is not None and generator.edit_level:
        start = sets.open_set_of(job.run, "train", generator.model.resolution).load(sources[indices])[0]
    wanted = Wanted(indices, plan.class_index[indices], plan.prompt_index[indices], low_res, start)
    images = generator.generate_watched(job, wanted, done=done, total=total)
    records = [(_header(job, plan, int(i), sources), image) for i, image in zip(indices, images, strict=True)]
    with job.clock.measure("save"):
        marker = write_shard(directory, shard, int(indices[0]), records, attempt=job.attempt, **hashes)
    return images, marker


def _header(job: Job, plan: ImagePlan, index: int, sources: np.ndarray | None) -> dict[str, Any]:
    """Returns what travels with an image; its number, settings and weights are added by the shard."""
    class_index = int(plan.class_index[index])
    edited = {} if sources is None else {"edited_from": int(sources[index])}
    return edited | {
        "class_key": plan.keys[class_index],
        "class_index": class_index,
        "prompt": plan.prompt_of(index),
        "copy": int(plan.copy[index]),
        "seed": job.experiment.seed,
    }
