"""What each job of a stage is given: a study cut into parts, as plain data."""

from __future__ import annotations

from typing import Any

from synthaug.experiment import Experiment, prepared_resolutions, prepared_sets
from synthaug.experiment.study import classify_sets, generated_sets
from synthaug.manifest import num_blocks


def prepare_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one prepare job per range of blocks, over the train and validation splits and other sets."""
    data = experiment.data
    sizes = {"train": data.num_train, "val": data.num_val}
    sizes |= {name: made.num_images for name, made in prepared_sets(experiment).items()}
    parts = []
    for name, num_images in sizes.items():
        total = num_blocks(num_images, data.shard_size)
        for first in range(0, total, data.shards_per_part):
            count = min(data.shards_per_part, total - first)
            parts.append({"set": name, "block": first, "num_blocks": count})
    return parts


def needs_encoder(experiment: Experiment) -> bool:
    """Returns whether a stage of the study compares features."""
    sweeps = "sweep" in experiment.stages and bool(experiment.sweep.phases)
    return "score" in experiment.stages or sweeps or experiment.filter.active


def encoder_names(experiment: Experiment) -> list[str]:
    """Returns the encoders by their names in `score.further`; the empty name is `score.encoder`."""
    return ["", *(experiment.score.further if "score" in experiment.stages else ())]


def is_real(name: str) -> bool:
    """Returns whether a scored set is a split of the real images: "real train" or "real val"."""
    return name.startswith("real ")


def reference_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns the real sets that something is compared with, one per encoder, resolution and split."""
    sides = {model.resolution for model in experiment.cascade.values()} | set(_scored_sides(experiment))
    return [
        {"set": f"real {split}", "resolution": side, "encoder": encoder}
        for encoder in encoder_names(experiment)
        for side in (_scored_sides(experiment) if encoder else sorted(sides))
        for split in ("train", "val")
    ]


def _scored_sides(experiment: Experiment) -> list[int]:
    made = {resolution for _, _, resolution in generated_sets(experiment)}
    return sorted(made & set(prepared_resolutions(experiment)))


def score_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one score job per encoder, resolution and image set.

    The real sets are scored too: their values show what a perfect generator would get.
    """
    made = [(name, resolution) for _, name, resolution in generated_sets(experiment)]
    rows = []
    for encoder in encoder_names(experiment):
        for side in _scored_sides(experiment):
            names = [name for name, r in made if r == side] + ["real train", "real val"]
            rows += [{"set": name, "resolution": side, "encoder": encoder} for name in names]
    return rows


def features_args(experiment: Experiment, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the jobs that encode sets, each a range of images of one set.

    Args:
        experiment: says how large the sets are, and the ranges.
        wanted: set, resolution and encoder of each set.
    """
    size = experiment.score.images_per_part
    return [
        {**one, "first": first, "num_images": min(size, total - first)}
        for one in wanted
        for total in [num_scored(experiment, one["set"])]
        for first in range(0, total, size)
    ]


def num_scored(experiment: Experiment, name: str) -> int:
    """Returns how many images of a set are scored: all real ones, of generated ones as many as train has."""
    if name == "real val":
        return experiment.data.num_val
    made = experiment.sets.get(name)
    most = made.num_images if made else experiment.data.num_train
    return min(most, experiment.data.num_train)


def sweep_args(experiment: Experiment, phase: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns (jobs that make images, jobs that measure): per point a range of shards, and one."""
    settings = experiment.sweep.phases[phase]
    points = [{"phase": phase, "number": i, "point": p} for i, p in enumerate(settings.grid.points())]
    shards = num_blocks(settings.num_images, experiment.sample.shard_size)
    ranges = _shard_ranges(shards, experiment.sample.shards_per_part)
    return [{**point, **part} for point in points for part in ranges], points


def _shard_ranges(total: int, per_part: int) -> list[dict[str, Any]]:
    return [{"shard": i, "num_shards": min(per_part, total - i)} for i in range(0, total, per_part)]


def sample_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one sample job per range of shards."""
    total = num_sample_shards(experiment, experiment.data.num_train)
    return _shard_ranges(total, experiment.sample.shards_per_part)


def num_sample_shards(experiment: Experiment, num_train: int) -> int:
    """Returns the shards of the generated set for a train split of `num_train` images."""
    return num_blocks(num_generated(experiment, num_train), experiment.sample.shard_size)


def num_generated(experiment: Experiment, num_train: int) -> int:
    """Returns the images of the generated set: its copies, and the spare ones of the filter."""
    wanted = experiment.sample.copies * num_train
    return wanted + experiment.filter.num_spare(wanted)


def filter_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one filter job per real split and per range of shards, at the highest resolution."""
    side = max(model.resolution for model in experiment.cascade.values())
    real: list[dict[str, Any]] = [{"set": f"real {split}", "resolution": side} for split in ("train", "val")]
    return real + [{"set": "generated", "resolution": side, **args} for args in sample_args(experiment)]


def classify_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one classifier training per (model, mix, set, copies, subset, seed)."""
    settings, arms = experiment.classify, []
    for model in settings.models:
        for subset in settings.subsets:
            for mix in settings.mixes:
                if mix == "generated" and subset != next(iter(settings.subsets)):
                    continue  # no real images in it: the subset cannot matter
                copies = {"real": (0,), "generated": (1,), "real+generated": settings.copies}[mix]
                for name in [""] if mix == "real" else classify_sets(experiment):
                    arm = {"model": model, "mix": mix, "set": name, "subset": subset}
                    arms += [{**arm, "copies": c, "seed": seed} for c in copies for seed in settings.seeds]
    return arms


def classify_stage_args(experiment: Experiment) -> dict[str, list[dict[str, Any]]]:
    """Returns {stage: args of its parts}: `classify-tuned` holds what starts from a part of `classify`."""
    models = experiment.classify.models
    stages: dict[str, list[dict[str, Any]]] = {"classify": [], "classify-tuned": []}
    for arm in classify_args(experiment):
        stages["classify-tuned" if models[arm["model"]].init in models else "classify"].append(arm)
    return stages
