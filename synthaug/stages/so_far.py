"""The rows of a run that need not be finished: what is not there yet is a row that says so."""

from __future__ import annotations

from typing import Any

from synthaug.experiment import Experiment
from synthaug.launch.parts import classify_stage_args, encoder_names, score_args
from synthaug.launch.plan import make_plan
from synthaug.rundir import RunDir

Row = dict[str, Any]


def is_finished(run: RunDir, settings: Experiment, stage: str) -> bool:
    """Returns whether every part of a stage of the plan is finished; False for a stage that is not in it."""
    planned = make_plan(settings).stage(stage)
    return planned is not None and all(run.is_done(stage, part) for part in range(len(planned.parts)))


def classify_results(run: RunDir, settings: Experiment) -> list[Row]:
    """Returns what every part of the classifier study wrote: {"row", "per_class"}."""
    if "classify" not in settings.stages:
        return []
    return [
        run.result(stage, part)
        if run.is_done(stage, part)
        else {"row": {**arm, "not_run": f"{_reason(run, stage)} (part {part})"}, "per_class": None}
        for stage, arms in classify_stage_args(settings).items()
        for part, arm in enumerate(arms)
    ]


def score_rows(run: RunDir, settings: Experiment) -> dict[str, list[Row]]:
    """Returns the rows of the study's encoder, and those of further ones: they have other scales."""
    rows: dict[str, list[Row]] = {"score": [], "further_scores": []}
    for part, args in enumerate(score_args(settings) if "score" in settings.stages else []):
        found = [
            {**args, "encoder": _encoder(run, settings, args["encoder"]), "not_run": _reason(run, "score")}
        ]
        if run.is_done("score", part):
            found = run.result("score", part)["rows"]
        rows["further_scores" if args["encoder"] else "score"] += found
    return rows


def _encoder(run: RunDir, settings: Experiment, name: str) -> str:
    """Returns what rows call an encoder, or what the settings do until it is there; "" is `score.encoder`."""
    part = encoder_names(settings).index(name)
    if run.is_done("encoder", part):
        return str(run.result("encoder", part)["name"])
    return name or settings.score.encoder.kind


def sweep_rows(run: RunDir, settings: Experiment) -> list[Row]:
    """Returns the rows of all phases, with the chosen point and the Pareto front marked."""
    rows: list[Row] = []
    for name, phase in settings.sweep.phases.items():
        chosen = run.is_done(f"choose-{name}", 0)
        choice: Row = run.result(f"choose-{name}") if chosen else {"part": -1, "pareto": []}
        for part, point in enumerate(phase.grid.points()):
            row = {"phase": name, "model": phase.model, **point}
            if run.is_done(f"measure-{name}", part):
                row = {**run.result(f"measure-{name}", part), "chosen": part == choice["part"]}
                row["pareto"] = part in choice["pareto"]
            else:
                row["not_run"] = _reason(run, f"measure-{name}")
            rows.append(row)
    return rows


def _reason(run: RunDir, stage: str) -> str:
    return f"not finished; {run.command()} --until {stage} goes on"
