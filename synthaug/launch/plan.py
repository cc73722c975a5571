"""Experiment -> plan: every stage, its parts and their inputs, as pure data. Made without jax."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from synthaug.experiment import Experiment, cascade_order, prepared_resolutions, prepared_sets
from synthaug.experiment.study import classify_sets, generated_sets
from synthaug.manifest import num_blocks

FORMAT = 1
"""Raised when files of a run change their form, so that no version reads another's by mistake."""

# What a stage is to a scheduler: one job, an array of independent jobs, or one job on several hosts.
SINGLE, ARRAY, GANG = "single", "array", "gang"


@dataclasses.dataclass(frozen=True)
class Part:
    """One job: the settings of the stage that are its own."""

    args: dict[str, Any]

    @property
    def title(self) -> str:
        """A line for people, e.g. "guidance_weight=1.25 logvar_mix=0"."""
        return " ".join(f"{k}={_short(v)}" for k, v in self.args.items())


@dataclasses.dataclass(frozen=True)
class Stage:
    """Parts that run the same verb and wait for the same stages."""

    name: str
    verb: str
    kind: str
    after: tuple[str, ...]
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All stages of a study, each after everything it needs."""

    name: str
    experiment: str
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage | None:
        """Returns the stage called `name`, or None."""
        return next((s for s in self.stages if s.name == name), None)

    def upstream(self, name: str) -> list[str]:
        """Returns `name` and every stage that it depends on, in order."""
        hit = {name}
        for stage in reversed(self.stages):
            if stage.name in hit:
                hit.update(stage.after)
        return [s.name for s in self.stages if s.name in hit]

    def without_waiting(self, name: str, left: set[str]) -> Plan:
        """Returns the plan in which the stage `name` does not wait for the stages `left`."""
        stages = tuple(
            dataclasses.replace(s, after=tuple(a for a in s.after if a not in left)) if s.name == name else s
            for s in self.stages
        )
        return dataclasses.replace(self, stages=stages)

    def downstream(self, name: str) -> list[str]:
        """Returns `name` and every stage that depends on it, in order."""
        hit = {name}
        for stage in self.stages:
            if hit & set(stage.after):
                hit.add(stage.name)
        return [s.name for s in self.stages if s.name in hit]


def make_plan(experiment: Experiment) -> Plan:
    """Returns the plan of an experiment."""
    stages = [
        Stage("scan", "scan", SINGLE, (), (Part({}),)),
        Stage("prepare", "prepare", ARRAY, ("scan",), tuple(Part(a) for a in prepare_args(experiment))),
        Stage("collect", "collect", SINGLE, ("prepare",), (Part({}),)),
    ]
    if experiment.cascade:
        stages.append(Stage("embed", "embed", SINGLE, ("collect",), (Part({}),)))
    if needs_encoder(experiment):
        stages.append(Stage("encoder", "encoder", GANG, ("collect",), (Part({}),)))
    if experiment.cascade:
        stages += _generator_stages(experiment)
    made = ("sample",) if experiment.cascade else ("collect",)
    if "score" in experiment.stages:
        scores = tuple(Part(a) for a in score_args(experiment))
        stages.append(Stage("score", "score", ARRAY, (*made, "encoder"), scores))
    if experiment.filter.active:
        stages += _filter_stages(experiment)
        made = ("select",)
    if "classify" in experiment.stages:
        stages += _classify_stages(experiment, made)
    before = tuple(s.name for s in stages)
    stages.append(Stage("report", "report", SINGLE, before, (Part({}),)))
    return Plan(experiment.name, experiment.digest(), tuple(stages))


def needs_encoder(experiment: Experiment) -> bool:
    """Returns whether a stage of the study compares features."""
    sweeps = "sweep" in experiment.stages and bool(experiment.sweep.phases)
    return "score" in experiment.stages or sweeps or experiment.filter.active


def _generator_stages(experiment: Experiment) -> list[Stage]:
    models = tuple(Part({"model": name}) for name in cascade_order(experiment.cascade))
    stages = [Stage("finetune", "finetune", GANG, ("collect", "embed"), models)]
    if "sweep" in experiment.stages:
        stages += _sweep_stages(experiment)
    last_choice = tuple(s.name for s in stages if s.verb == "choose")[-1:]
    samples = tuple(Part(a) for a in sample_args(experiment))
    stages.append(Stage("sample", "sample", ARRAY, (*last_choice, "finetune"), samples))
    return stages


def _filter_stages(experiment: Experiment) -> list[Stage]:
    """All generated images are measured, then one job flags some and selects among the others."""
    parts = tuple(Part(a) for a in filter_args(experiment))
    return [
        Stage("filter", "filter", ARRAY, ("sample", "encoder"), parts),
        Stage("select", "select", SINGLE, ("filter",), (Part({"parts": len(parts)}),)),
    ]


def _classify_stages(experiment: Experiment, after: tuple[str, ...]) -> list[Stage]:
    """Classifiers, then those that start from another one's weights."""
    return [
        Stage(name, "classify", ARRAY, after if name == "classify" else ("classify",), parts)
        for name, parts in (
            (name, tuple(Part(a) for a in args)) for name, args in classify_stage_args(experiment).items()
        )
        if parts
    ]


def classify_stage_args(experiment: Experiment) -> dict[str, list[dict[str, Any]]]:
    """Returns {stage: args of its parts}: `classify-tuned` holds what starts from a part of `classify`."""
    models = experiment.classify.models
    stages: dict[str, list[dict[str, Any]]] = {"classify": [], "classify-tuned": []}
    for arm in classify_args(experiment):
        stages["classify-tuned" if models[arm["model"]].init in models else "classify"].append(arm)
    return stages


def _sweep_stages(experiment: Experiment) -> list[Stage]:
    """Each phase is an array over its points, then one job that chooses; the next phase waits for it."""
    stages: list[Stage] = []
    before: tuple[str, ...] = ("finetune", "encoder")
    for name, phase in experiment.sweep.phases.items():
        points = tuple(Part({"phase": name, "point": point}) for point in phase.grid.points())
        stages.append(Stage(f"sweep-{name}", "sweep", ARRAY, before, points))
        stages.append(Stage(f"choose-{name}", "choose", SINGLE, (f"sweep-{name}",), (Part({"phase": name}),)))
        before = (f"choose-{name}", "encoder")
    return stages


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


def sample_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one sample job per range of shards."""
    total, size = num_sample_shards(experiment, experiment.data.num_train), experiment.sample.shards_per_part
    return [{"shard": i, "num_shards": min(size, total - i)} for i in range(0, total, size)]


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


def score_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one score job per image set and resolution.

    The real sets are scored too: their values show what a perfect generator would get.
    """
    made = [(name, resolution) for _, name, resolution in generated_sets(experiment)]
    sides = sorted({r for _, r in made} & set(prepared_resolutions(experiment)))
    rows = []
    for side in sides:
        names = [name for name, r in made if r == side] + ["real train", "real val"]
        rows += [{"set": name, "resolution": side} for name in names]
    return rows


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


def to_json(plan: Plan) -> str:
    """Returns the plan as JSON text, one part per line."""
    stages = []
    for s in plan.stages:
        parts = ",\n    ".join(json.dumps(p.args, sort_keys=True) for p in s.parts)
        head = {"name": s.name, "verb": s.verb, "kind": s.kind, "after": list(s.after)}
        stages.append(f'  {json.dumps(head)[:-1]}, "parts": [\n    {parts}\n  ]}}')
    top = json.dumps({"name": plan.name, "experiment": plan.experiment, "format": FORMAT})[:-1]
    return f'{top}, "stages": [\n' + ",\n".join(stages) + "\n]}\n"


def render(plan: Plan) -> str:
    """Returns the plan as text: a line per stage, then its parts."""
    lines = [f"{plan.name}: {sum(len(s.parts) for s in plan.stages)} jobs in {len(plan.stages)} stages"]
    for s in plan.stages:
        after = f" after {', '.join(s.after)}" if s.after else ""
        lines.append(f"{s.name}: {s.kind} of {len(s.parts)}{after}")
        lines += [f"  {i} {part.title}".rstrip() for i, part in enumerate(s.parts) if part.args]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k}={_short(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
