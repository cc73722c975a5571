"""Experiment -> plan: every stage, its parts and their inputs, as pure data. Made without jax."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from synthaug.experiment import Experiment, cascade_order
from synthaug.launch.parts import (
    classify_stage_args,
    encoder_names,
    features_args,
    filter_args,
    is_real,
    needs_encoder,
    prepare_args,
    reference_args,
    sample_args,
    score_args,
    sweep_args,
)

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
        return " ".join(f"{k}={_short(v)}" for k, v in self.args.items() if v != "")


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
        stages += _encoder_stages(experiment)
    if experiment.cascade:
        stages += _generator_stages(experiment)
    made = ("sample",) if experiment.cascade else ("collect",)
    if experiment.filter.active:
        stages += _filter_stages(experiment)
        made = ("select",)
    if "score" in experiment.stages:
        stages += _score_stages(experiment, made)
    if "classify" in experiment.stages:
        stages += _classify_stages(experiment, made)
    before = tuple(s.name for s in stages)
    stages.append(Stage("report", "report", SINGLE, before, (Part({}),)))
    return Plan(experiment.name, experiment.digest(), tuple(stages))


def _encoder_stages(experiment: Experiment) -> list[Stage]:
    """The networks behind the metrics; the real images' features, block by block; their sums, set by set."""
    encoders = tuple(Part({"encoder": name}) for name in encoder_names(experiment))
    features = tuple(Part(a) for a in features_args(experiment, reference_args(experiment)))
    references = tuple(Part(a) for a in reference_args(experiment))
    return [
        Stage("encoder", "encoder", GANG, ("collect",), encoders),
        Stage("features-real", "features", ARRAY, ("encoder",), features),
        Stage("reference", "reference", ARRAY, ("features-real",), references),
    ]


def _score_stages(experiment: Experiment, made: tuple[str, ...]) -> list[Stage]:
    """The generated images' features, block by block; then every set against its references."""
    scored = score_args(experiment)
    features = tuple(Part(a) for a in features_args(experiment, [a for a in scored if not is_real(a["set"])]))
    return [
        Stage("features", "features", ARRAY, (*made, "encoder"), features),
        Stage("score", "score", ARRAY, ("features", "reference"), tuple(Part(a) for a in scored)),
    ]


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
        Stage("filter", "filter", ARRAY, ("sample", "reference"), parts),
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


def _sweep_stages(experiment: Experiment) -> list[Stage]:
    """Per phase: an array makes the images of its points, one scores the points, a job chooses."""
    stages: list[Stage] = []
    before: tuple[str, ...] = ("finetune",)
    for name in experiment.sweep.phases:
        images, points = sweep_args(experiment, name)
        made, measured = tuple(map(Part, images)), tuple(map(Part, points))
        stages.append(Stage(f"sweep-{name}", "sweep", ARRAY, before, made))
        stages.append(Stage(f"measure-{name}", "measure", ARRAY, (f"sweep-{name}", "reference"), measured))
        chosen = (Part({"phase": name}),)
        stages.append(Stage(f"choose-{name}", "choose", SINGLE, (f"measure-{name}",), chosen))
        before = (f"choose-{name}",)
    return stages


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
