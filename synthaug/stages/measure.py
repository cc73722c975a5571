"""measure: FID, Inception Score and CAS at one point of the sweep; choose: the best point of a phase."""

from __future__ import annotations

import dataclasses
from typing import Any

from synthaug import experiment
from synthaug.data.loader import Piece
from synthaug.stages import classifiers
from synthaug.stages.encoder import load_encoder
from synthaug.stages.features import statistics_of
from synthaug.stages.job import Job
from synthaug.stages.pieces import Images, real_images
from synthaug.stages.score import row_of
from synthaug.stages.sweep import images_hash, labels_of, point_images, sampler_of

KNOBS = tuple(f.name for f in dataclasses.fields(experiment.Grid))


def run(job: Job) -> dict[str, Any]:
    """Scores the part's point."""
    settings, name = job.experiment, job.args["phase"]
    phase = settings.sweep.phases[name]
    model, sampling = settings.cascade[phase.model], sampler_of(job)
    images = point_images(job.run, settings, name, job.args["number"])
    encoder = load_encoder(job.run, settings)
    found = statistics_of(job, encoder, images, images_hash(job.run, settings, name, job.args["number"]))
    with job.clock.measure("evaluate"):
        row = row_of(job, encoder, phase.model, found, phase.reference, model.resolution)
    row.pop("set")
    knobs = {"checkpoint": sampling.checkpoint or model.finetune.num_steps}
    knobs |= {knob: getattr(sampling, knob) for knob in KNOBS if knob != "checkpoint"}
    network, (top1, top5) = "", (None, None)
    if phase.cas_steps:
        network, (top1, top5) = _cas(job, phase, images)
    row |= {"phase": name, "model": phase.model, **knobs, "cas": top1, "cas_top5": top5}
    return {**row, "cas_network": network}


def cas_classifier(settings: experiment.Experiment, phase: experiment.Phase) -> experiment.Classifier:
    """Returns the network whose accuracy is the CAS of a phase."""
    if not phase.cas_classifier:
        return settings.score.encoder.classifier
    return {**settings.classify.models, **settings.sweep.classifiers}[phase.cas_classifier]


def _cas(job: Job, phase: experiment.Phase, images: Images) -> tuple[str, tuple[float, float]]:
    """Returns a network, and its top-1 and top-5 on real validation images, trained on the point alone."""
    network = cas_classifier(job.experiment, phase)
    side = job.experiment.cascade[phase.model].resolution  # real images as small as the generated ones
    trained = classifiers.train_classifier(
        job,
        network,
        [Piece(images, labels_of(job.run, phase), generated=bool(phase.cas_classifier))],
        real_images(job, "val", side),
        steps=phase.cas_steps,
        seed=job.experiment.seed,
        role=f"cas {phase.model}",
    )
    return network.kind, (trained.accuracy.top1, trained.accuracy.top5)


# ------------------------------------------------------------------------------------------ choose


def choose(job: Job) -> dict[str, Any]:
    """Chooses a phase's best point by its rule; ties go to fewer steps, then to weaker guidance."""
    name = job.args["phase"]
    phase = job.experiment.sweep.phases[name]
    points = phase.grid.points()
    rows = [job.result(f"measure-{name}", part) for part in range(len(points))]
    sign = 1.0 if phase.choose == "fid" else -1.0
    best = min(
        range(len(rows)),
        key=lambda i: (
            sign * rows[i][phase.choose],
            rows[i]["num_sampling_steps"],
            rows[i]["guidance_weight"],
            i,
        ),
    )
    words = "lowest" if phase.choose == "fid" else "highest"
    return {
        "phase": name,
        "model": phase.model,
        "part": best,
        "rule": f"{words} {phase.choose}",
        "settings": points[best],
        "pareto": pareto_front(rows),
        **{metric: rows[best][metric] for metric in ("fid", "inception_score", "cas")},
    }


def pareto_front(rows: list[dict[str, Any]]) -> list[int]:
    """Returns the points that no other beats in FID and in CAS, else Inception Score, else in FID alone.

    Example:
        >>> a, b, c = ({"fid": f, "cas": s} for f, s in ((1.0, 0.5), (2.0, 0.6), (2.5, 0.4)))
        >>> pareto_front([a, b, c])
        [0, 1]
    """
    metrics = ("cas", "inception_score")
    good = next((m for m in metrics if all(row.get(m) is not None for row in rows)), "")

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        gain = a[good] - b[good] if good else 0.0
        return a["fid"] <= b["fid"] and gain >= 0 and (a["fid"] < b["fid"] or gain > 0)

    return [i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)]
