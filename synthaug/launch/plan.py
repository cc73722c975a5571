"""Experiment -> plan: every stage, its parts and their inputs, as pure data. Made without jax."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from synthaug.experiment import Classify, Experiment, cascade_order

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
        Stage("prepare", "prepare", SINGLE, (), (Part({}),)),
        Stage("embed", "embed", SINGLE, ("prepare",), (Part({}),)),
        Stage("encoder", "encoder", GANG, ("prepare",), (Part({}),)),
        Stage(
            "finetune",
            "finetune",
            GANG,
            ("prepare", "embed"),
            tuple(Part({"model": name}) for name in cascade_order(experiment.cascade)),
        ),
    ]
    if "sweep" in experiment.stages:
        stages += _sweep_stages(experiment)
    last_choice = tuple(s.name for s in stages if s.verb == "choose")[-1:]
    samples = tuple(Part(a) for a in sample_args(experiment))
    stages.append(Stage("sample", "sample", ARRAY, (*last_choice, "finetune"), samples))
    if "score" in experiment.stages:
        scores = tuple(Part(a) for a in score_args(experiment))
        stages.append(Stage("score", "score", ARRAY, ("sample", "encoder"), scores))
    if "classify" in experiment.stages and experiment.classify.models:
        arms = tuple(Part(a) for a in classify_args(experiment.classify))
        stages.append(Stage("classify", "classify", ARRAY, ("sample",), arms))
    before = tuple(s.name for s in stages)
    stages.append(Stage("report", "report", SINGLE, before, (Part({}),)))
    return Plan(experiment.name, experiment.digest(), tuple(stages))


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
    return math.ceil(experiment.sample.copies * num_train / experiment.sample.shard_size)


def sample_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one sample job per range of shards."""
    total, size = num_sample_shards(experiment, experiment.data.num_train), experiment.sample.shards_per_part
    return [{"shard": i, "num_shards": min(size, total - i)} for i in range(0, total, size)]


def score_args(experiment: Experiment) -> list[dict[str, Any]]:
    """Returns one score job per image set and resolution.

    The real sets are scored too: their values show what a perfect generator would get.
    """
    order = [experiment.cascade[name].resolution for name in cascade_order(experiment.cascade)]
    sets = ("generated", "real train", "real val")
    return [{"set": name, "resolution": r} for r in order for name in sets]


def classify_args(settings: Classify) -> list[dict[str, Any]]:
    """Returns one classifier training per (model, mix, copies, shots, seed)."""
    arms: list[dict[str, Any]] = []
    for model in settings.models:
        for shots in settings.shots:
            for mix in settings.mixes:
                if mix == "generated" and shots:
                    continue  # no real images in it: the number of shots cannot matter
                copies = {"real": (0,), "generated": (1,), "real+generated": settings.copies}[mix]
                arms += [
                    {"model": model, "mix": mix, "copies": c, "shots": shots, "seed": seed}
                    for c in copies
                    for seed in settings.seeds
                ]
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
