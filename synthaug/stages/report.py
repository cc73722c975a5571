"""report: gathers every result of the run and writes report.html, report.md and results.json."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from synthaug import commit, config, licences, parallel
from synthaug.attempts import stage_times
from synthaug.experiment import Experiment
from synthaug.launch.plan import Plan, classify_args, make_plan, score_args
from synthaug.reporting.data import Choice, PerClass, Report, SampleGrid, StageTime
from synthaug.reporting.write import write
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.classify import accuracies
from synthaug.stages.job import Job
from synthaug.stages.sweep import sweep_rows

# As many classes and images as a person looks at.
GRID_CLASSES, GRID_IMAGES = 10, 6


def run(job: Job) -> dict[str, Any]:
    """Writes the report folder."""
    settings, plan = job.experiment, make_plan(job.experiment)
    results = gather_results(job.run, settings)
    table = sets.class_table(job.run)
    job.run.report.mkdir(exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    commit.replace(job.run.report / "results.json", text.encode())
    report = Report(
        name=settings.name,
        title=f"{settings.name}: what generated images are worth as training data",
        description=_description(settings, job.run),
        results=results,
        samples=_sample_grids(job.run, settings),
        per_class=_per_class(job.run, settings),
        stages=_stage_times(job.run, plan),
        choices=_choices(job.run, settings),
        class_names=[entry.name for entry in table.entries],
        notes=_notes(job.run, settings),
        settings_text=config.render(settings),
        command=job.run.command(),
    )
    with job.clock.measure("step"):
        files = write(report, job.run.report)
    return {"files": sorted(str(f.relative_to(job.run.path)) for f in files)}


def gather_results(run: RunDir, settings: Experiment) -> dict[str, Any]:
    """Returns what results.json holds: flat rows of sweep, score and classify."""
    sweep = sweep_rows(run, settings) if "sweep" in settings.stages else []
    score = []
    if "score" in settings.stages:
        parts = len(score_args(settings))
        score = [row for part in range(parts) for row in run.result("score", part)["rows"]]
    classify = []
    if "classify" in settings.stages:
        parts = len(classify_args(settings.classify))
        classify = [run.result("classify", part)["row"] for part in range(parts)]
    return {
        "name": settings.name,
        "versions": parallel.versions(),
        "licences": _licences(run, settings),
        "sweep": sweep,
        "score": score,
        "classify": classify,
    }


def _licences(run: RunDir, settings: Experiment) -> list[dict[str, str]]:
    """Returns what the generated images come under, as the stage that made them found it."""
    return [dataclasses.asdict(licences.LICENCES[key]) for key in run.result("sample", 0)["licences"]]


def _description(settings: Experiment, run: RunDir) -> str:
    prepared, table = run.result("prepare"), sets.class_table(run)
    chain = " → ".join(str(model.resolution) for model in settings.cascade.values())
    train, val = prepared["num_train"], prepared["num_val"]
    return (
        f"{train} real images of {len(table.entries)} classes train a text-to-image cascade ({chain} px), "
        f"which makes {settings.sample.copies} times {train} labelled images. Classifiers learn from real, "
        f"generated and mixed sets and are tested on {val} real images that no model was trained on."
    )


def _sample_grids(run: RunDir, settings: Experiment) -> list[SampleGrid]:
    table = sets.class_table(run)
    names = [entry.name for entry in table.entries][:GRID_CLASSES]
    grids = []
    for model in settings.cascade.values():
        generated = sets.load_generated(run, settings, model.resolution)
        real = sets.load_real(run, "train", model.resolution)
        count = min(
            GRID_IMAGES, *(int(np.sum(s[1] == k)) for s in (real, generated) for k in range(len(names)))
        )
        pick = [np.stack([s[0][s[1] == k][:count] for k in range(len(names))]) for s in (real, generated)]
        grids.append(SampleGrid(model.resolution, names, real=pick[0], generated=pick[1]))
    return grids


def _per_class(run: RunDir, settings: Experiment) -> list[PerClass]:
    if "classify" not in settings.stages:
        return []
    found = []
    for part, arm in enumerate(classify_args(settings.classify)):
        values = accuracies(run.result("classify", part)["per_class"])
        found.append(PerClass(arm["model"], arm["mix"], arm["copies"], arm["shots"], arm["seed"], values))
    return found


def _stage_times(run: RunDir, plan: Plan) -> list[StageTime]:
    times = []
    for stage in plan.stages:
        if stage.verb == "report":
            continue  # it is being written
        t = stage_times(run, stage)
        parts = len(stage.parts)
        times.append(
            StageTime(stage.name, parts, t.attempts, t.wall_seconds, t.busy_seconds, t.goodput, t.buckets)
        )
    return times


def _choices(run: RunDir, settings: Experiment) -> list[Choice]:
    if "sweep" not in settings.stages:
        return []
    chosen = [run.result(f"choose-{name}") for name in settings.sweep.phases]
    return [
        Choice(c["phase"], c["model"], c["rule"], c["settings"], c["fid"], c["inception_score"], c["cas"])
        for c in chosen
    ]


def _notes(run: RunDir, settings: Experiment) -> list[str]:
    prepare, encoder = run.result("prepare"), run.result("encoder")
    top1 = ", ".join(f"{100 * share:.1f} % at {r} px" for r, share in encoder["top1"].items())
    split = f"in each class, in source order, every {settings.data.val_every}th image goes to validation."
    if settings.data.val_path:
        split = f"validation images come from a folder of their own, {settings.data.val_path}."
    notes = [
        f"Split: {split}",
        f"Encoder: {encoder['name']}; top-1 on the real validation images: {top1}. It was trained on the "
        "train split, so features of train images are easier for it than those of validation.",
        "FID and Inception Score in this report use that encoder: compare them with each other only.",
        f"Left-out images: {len(prepare['corrupt'])}"
        + (f" ({', '.join(list(prepare['corrupt'])[:5])})." if prepare["corrupt"] else "."),
    ]
    if seen := [n for n, p in settings.sweep.phases.items() if p.reference == "val" or p.choose == "cas"]:
        notes.append(
            f"The validation images, on which classifiers are tested, also chose sampling settings (phases "
            f"{', '.join(seen)}), as in the paper. No weights were trained on them."
        )
    notes += run.result("embed")["warnings"]
    return notes
