"""report: gathers every result of the run and writes report.html, report.md and results.json."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from synthaug import commit, config, licences, parallel
from synthaug.attempts import stage_times
from synthaug.errors import ConfigError, DataError
from synthaug.experiment import Experiment, prepared_resolutions
from synthaug.experiment.study import generated_sets
from synthaug.launch.plan import Plan, make_plan
from synthaug.manifest import ClassTable
from synthaug.prompts import build_prompts
from synthaug.reporting.data import Choice, Report, SampleGrid, StageTime
from synthaug.reporting.write import write
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.job import Job
from synthaug.stages.so_far import classify_results, is_finished, score_rows, sweep_rows

# As many classes and images as a person looks at.
GRID_CLASSES, GRID_IMAGES = 10, 6


def run(job: Job) -> dict[str, Any]:
    """Writes the report folder."""
    settings, plan = job.experiment, make_plan(job.experiment)
    results = gather_results(job.run, settings)
    job.run.report.mkdir(exist_ok=True)
    commit.replace(job.run.report / "results.json", results_text(results).encode())
    report = Report(
        title=f"{settings.name}: what generated images are worth as training data",
        description=_description(settings, results),
        results=results,
        samples=_sample_grids(job.run, settings),
        stages=_stage_times(job.run, plan),
        choices=_choices(job.run, settings),
        notes=_notes(job.run, settings),
        settings_text=config.render(settings),
    )
    with job.clock.measure("step"):
        files = write(report, job.run.report)
    return {"files": sorted(str(f.relative_to(job.run.path)) for f in files)}


def gather_results(run: RunDir, settings: Experiment) -> dict[str, Any]:
    """Returns what results.json holds, as `reporting.data.Results` tells."""
    classified = classify_results(run, settings)
    arm = ("model", "mix", "set", "copies", "subset", "seed")
    return {
        "name": settings.name,
        "command": run.command(),
        "versions": parallel.versions(),
        "licences": _licences(run, settings),
        "data": _data(run, settings),
        "class_names": class_names(settings, sets.class_table(run)),
        "sets": _sets(settings),
        "sweep": sweep_rows(run, settings) if _swept(settings) else [],
        **score_rows(run, settings),
        "filter": run.result("select") if is_finished(run, settings, "select") else None,
        "classify": [result["row"] for result in classified],
        "per_class": [
            {**{key: result["row"][key] for key in arm}, "accuracy": result["per_class"]}
            for result in classified
            if result["per_class"] is not None
        ],
    }


def class_names(settings: Experiment, table: ClassTable) -> list[str]:
    """Returns the name of every class as the prompts have it; of equal names, each with its key."""
    bare = dataclasses.replace(settings.prompts, template="{}", templates=())
    try:
        names = [own[0] if own else "" for own in build_prompts(bare, table).prompts.values()]
    except (ConfigError, DataError):  # without a cascade no stage needs prompts, and none has checked them
        names = [entry.name for entry in table.entries]
    return [
        f"{name} ({entry.key})" if names.count(name) > 1 or not name else name
        for name, entry in zip(names, table.entries, strict=True)
    ]


def results_text(results: dict[str, Any]) -> str:
    """Returns the results as JSON with a line per row: a thousand accuracies are no thousand lines."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            parts.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _swept(settings: Experiment) -> bool:
    return bool(settings.cascade) and "sweep" in settings.stages and bool(settings.sweep.phases)


def _licences(run: RunDir, settings: Experiment) -> list[dict[str, str]]:
    """Returns what the generated images come under, as the stage that made them found it."""
    if not is_finished(run, settings, "sample"):
        return []  # without a cascade there is no such stage
    return [dataclasses.asdict(licences.LICENCES[key]) for key in run.result("sample", 0)["licences"]]


def _data(run: RunDir, settings: Experiment) -> dict[str, Any]:
    """Returns what collect found of the images; the balance of both splits."""
    found, entries = run.result("collect"), sets.class_table(run).entries
    splits = {split: found["balance"][split] for split in ("train", "val")}
    balance = {split: {**each, "below": list(each["below"])} for split, each in splits.items()}
    keys = ("num_train", "num_val", "resize", "decoder", "enlarged", "other_files", "duplicates", "corrupt")
    return {
        "num_classes": len(entries),
        "resolutions": prepared_resolutions(settings),
        **{key: found[key] for key in keys},
        "other_files": found["other_files"]["count"],
        "balance": balance,
    }


def _sets(settings: Experiment) -> list[dict[str, Any]]:
    """Returns the generated sets: our own at each resolution, and those made elsewhere."""
    return [
        {
            "name": name,
            "set": made,
            "resolution": resolution,
            "source": settings.sets[made].source if made in settings.sets else "own",
            "licence": settings.sets[made].licence if made in settings.sets else "",
            # an un-tuned cascade is an arm of its own, not the paper's generator
            "tuned": made == "generated" and any(m.finetune.num_steps for m in settings.cascade.values()),
        }
        for name, made, resolution in generated_sets(settings)
    ]


def _description(settings: Experiment, results: dict[str, Any]) -> str:
    data = results["data"]
    train, val = data["num_train"], data["num_val"]
    text = f"{train:,} real images of {data['num_classes']:,} classes "
    if settings.cascade:
        chain = " → ".join(str(model.resolution) for model in settings.cascade.values())
        text += (
            f"train a text-to-image cascade ({chain} px), which makes {settings.sample.copies} times "
            f"{train:,} labelled images. "
        )
    else:
        text += f"stand beside sets made elsewhere ({', '.join(settings.sets) or 'none'}). "
    return text + (
        "Classifiers learn from real, generated and mixed sets and are tested on "
        f"{val:,} real images that no model was trained on."
    )


# ------------------------------------------------------------------------------------ sample images


def _sample_grids(run: RunDir, settings: Experiment) -> list[SampleGrid]:
    """Returns a grid per resolution of a generated set; only the images shown are read."""
    sampled = is_finished(run, settings, "sample")
    made = [each for each in generated_sets(settings) if sampled or each[1] != "generated"]
    names = class_names(settings, sets.class_table(run))[:GRID_CLASSES]
    grids = []
    for side in sorted({resolution for _, _, resolution in made}):
        kinds = {
            name: _first_images(run, settings, name, side, len(names)) for _, name, r in made if r == side
        }
        if side in prepared_resolutions(settings):
            kinds["real"] = _first_images(run, settings, "real", side, len(names))
        fewest = min(images.shape[1] for images in kinds.values())
        grids.append(SampleGrid(side, names, {kind: images[:, :fewest] for kind, images in kinds.items()}))
    return grids


def _first_images(run: RunDir, settings: Experiment, kind: str, side: int, num_classes: int) -> np.ndarray:
    """Returns u8[K,n,H,W,C], the first n images of each class, as many as the class with fewest has."""
    name = "train" if kind == "real" else kind
    images, labels = (
        sets.generated_images_of(run, settings, side)
        if kind == "generated"
        else sets.images_of(run, name, side)
    )
    rows = [np.flatnonzero(labels == k)[:GRID_IMAGES] for k in range(num_classes)]
    fewest = min(map(len, rows))
    wanted = np.concatenate([own[:fewest] for own in rows])
    found = images[wanted] if isinstance(images, np.ndarray) else images.load(wanted.tolist())[0]
    return found.reshape(num_classes, fewest, *found.shape[1:])


# --------------------------------------------------------------------------------- time and remarks


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
    if not _swept(settings):
        return []
    finished = [name for name in settings.sweep.phases if run.is_done(f"choose-{name}", 0)]
    chosen = [run.result(f"choose-{name}") for name in finished]
    return [
        Choice(c["phase"], c["model"], c["rule"], c["settings"], c["fid"], c["inception_score"], c["cas"])
        for c in chosen
    ]


def _notes(run: RunDir, settings: Experiment) -> list[str]:
    split = f"in each class, in source order, every {settings.data.val_every}th image goes to validation."
    if settings.data.val_path:
        split = f"validation images come from a place of their own, {settings.data.val_path}."
    notes = [f"Split: {split}"]
    if run.is_done("encoder", 0) and ("score" in settings.stages or _swept(settings)):
        notes += _encoder_notes(run.result("encoder"))
    phases = settings.sweep.phases.items() if _swept(settings) else []
    if seen := [n for n, p in phases if p.reference == "val" or p.choose == "cas"]:
        notes.append(
            f"The validation images, on which classifiers are tested, also chose sampling settings (phases "
            f"{', '.join(seen)}), as in the paper. No weights were trained on them."
        )
    if run.is_done("embed", 0):
        notes += run.result("embed")["warnings"]
    return notes


def _encoder_notes(encoder: dict[str, Any]) -> list[str]:
    if encoder["kind"] != "classifier":
        weights = encoder["weights_sha256"][:12]
        return [f"Encoder: {encoder['name']}, weights {weights}, run by {encoder['backend']}."]
    top1 = ", ".join(f"{100 * share:.1f} % at {r} px" for r, share in encoder["top1"].items())
    return [
        f"Encoder: {encoder['name']}; top-1 on the real validation images: {top1}. It was trained on the "
        "train split, so features of train images are easier for it than those of validation.",
        "FID and Inception Score in this report use that encoder: compare them with each other only.",
    ]
