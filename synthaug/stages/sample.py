"""sample: a range of shards of the generated set, through the whole cascade, each committed exactly once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from synthaug import commit
from synthaug.data.shards import open_shard, write_shard
from synthaug.experiment import cascade_order
from synthaug.launch.plan import num_sample_shards
from synthaug.manifest import ImagePlan, Shard, plan_images, write_plan
from synthaug.prompts import build_prompts
from synthaug.stages import sets
from synthaug.stages.generator import Generator, chosen_sampler, load_generator
from synthaug.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Writes the manifest if it is not there, then this part's shards at every resolution."""
    settings = job.experiment
    table = sets.class_table(job.run)
    prompts = build_prompts(settings.prompts, table)
    plan = plan_images(table, prompts, settings.sample.copies, settings.sample.shard_size)
    write_plan(plan, job.run.manifest)
    generators = []
    for name in cascade_order(settings.cascade):
        sampling = chosen_sampler(job.run, settings, name)
        generators.append(load_generator(job.run, settings, name, sampling))
    total = num_sample_shards(settings, job.result("prepare")["num_train"])
    first = job.args["shard"]
    mine = range(first, min(first + job.args["num_shards"], total))  # fewer if corrupt images were left out
    num_images = sum(len(plan.range_of(shard)) for shard in mine) * len(generators)
    done, shards = 0, []
    for shard in mine:
        low_res: np.ndarray | None = None
        for generator, hashes in zip(generators, _provenance(generators), strict=True):
            low_res, marker = _one_shard(job, plan, shard, generator, hashes, low_res, (done, num_images))
            done += len(low_res)
            facts = {"resolution": generator.model.resolution, "shard": shard, "count": marker.count}
            shards.append({**facts, "sha256": marker.sha256, "images_sha256": marker.images_sha256})
            job.check_stop()
    return {
        "shards": shards,
        "images": done,
        "settings": {g.name: g.settings_sha256 for g in generators},
        "weights": {g.name: g.weights_sha256 for g in generators},
    }


def _provenance(generators: list[Generator]) -> list[dict[str, str]]:
    """Returns, per model, the hashes of everything an image of it came from: all models up to this one."""
    hashes, settings, weights = [], hashlib.sha256(), hashlib.sha256()
    for generator in generators:
        settings.update(generator.settings_sha256.encode())
        weights.update(generator.weights_sha256.encode())
        hashes.append({"settings": settings.hexdigest(), "weights": weights.hexdigest()})
    return hashes


def _one_shard(
    job: Job,
    plan: ImagePlan,
    shard: int,
    generator: Generator,
    hashes: dict[str, str],
    low_res: np.ndarray | None,
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
    rows = generator.bank.rows(plan.class_index[indices], plan.prompt_index[indices])
    images = generator.generate_watched(job, indices, rows, low_res, done=done, total=total)
    records = [(_header(job, plan, int(i)), image) for i, image in zip(indices, images, strict=True)]
    with job.clock.measure("save"):
        marker = write_shard(directory, shard, int(indices[0]), records, attempt=job.attempt, **hashes)
    return images, marker


def _header(job: Job, plan: ImagePlan, index: int) -> dict[str, Any]:
    """Returns what travels with an image; its number, settings and weights are added by the shard."""
    class_index = int(plan.class_index[index])
    return {
        "class_key": plan.keys[class_index],
        "class_index": class_index,
        "prompt": plan.prompt_of(index),
        "copy": int(plan.copy[index]),
        "seed": job.experiment.seed,
    }
