"""sweep: images, FID, IS and a CAS proxy at one point of the grid; choose: the best point of a phase."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from synthaug import experiment, licences
from synthaug.data.loader import Piece
from synthaug.data.shards import open_set, open_shard, write_shard
from synthaug.manifest import image_order
from synthaug.metrics.score import score_features
from synthaug.rundir import RunDir
from synthaug.stages import classifiers, sets
from synthaug.stages.encoder import load_encoder, real_features
from synthaug.stages.finetune import checkpoint_dir
from synthaug.stages.generator import Generator, Wanted, chosen_sampler, load_generator
from synthaug.stages.job import Job
from synthaug.stages.pieces import real_images

KNOBS = tuple(f.name for f in dataclasses.fields(experiment.Grid))


def run(job: Job) -> dict[str, Any]:
    """Samples and scores one point."""
    phase = job.experiment.sweep.phases[job.args["phase"]]
    base = chosen_sampler(job.run, job.experiment, phase.model, before=job.args["phase"])
    sampling = dataclasses.replace(base, **job.args["point"])
    generator = load_generator(job.run, job.experiment, phase.model, sampling)
    images, labels = _images(job, phase, generator)
    encoder = load_encoder(job.run, job.experiment)
    with job.clock.measure("evaluate"):
        features, logits = encoder.encode(images)
        reference, _ = real_features(job.run, phase.reference, generator.model.resolution)
        row = score_features(
            phase.model,
            features,
            logits,
            reference,
            encoder=encoder.name,
            encoder_hash=encoder.sha256,
            resize=encoder.resize(generator.model.resolution),
            resolution=generator.model.resolution,
            reference=phase.reference,
            splits=job.experiment.score.splits,
            neighbours=job.experiment.score.neighbours,
            max_images=job.experiment.score.max_images,
            seed=job.experiment.seed,
        )
    row.pop("set")
    settings = {"checkpoint": sampling.checkpoint or generator.model.finetune.num_steps}
    settings |= {name: getattr(sampling, name) for name in KNOBS if name != "checkpoint"}
    row |= {"phase": job.args["phase"], "model": phase.model, **settings}
    cas = _cas_proxy(job, phase, images, labels) if phase.cas_steps else (None, None)
    row["cas"], row["cas_top5"] = cas
    row["cas_network"] = job.experiment.score.encoder.kind
    return row


def _images(job: Job, phase: experiment.Phase, generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns (u8[N,H,W,C], i32[N]), made now or read from an earlier attempt."""
    directory = job.directory / "images"
    hashes = {"settings": generator.settings_sha256, "weights": generator.weights_sha256}
    if there := open_shard(directory, 0, made_by=hashes):
        return there.load()
    table = sets.class_table(job.run)
    order = image_order([entry.train for entry in table.entries])
    labels = np.resize(order, phase.num_images)
    indices = np.arange(phase.num_images)
    low_res = _low_res(job, phase, generator, indices, labels)
    wanted = Wanted(indices, labels, indices, low_res)
    images = generator.generate_watched(job, wanted, done=0, total=phase.num_images)
    records = [
        ({"class_key": table.entries[k].key, "class_index": int(k)}, image)
        for k, image in zip(labels, images, strict=True)
    ]
    with job.clock.measure("save"):
        write_shard(
            directory, 0, 0, records, attempt=job.attempt, licences=_licences(job, phase.model), **hashes
        )
    return images, labels.astype(np.int32)


def _licences(job: Job, model: str) -> list[str]:
    """Returns the licences of what the images came from: the models of the cascade up to this one."""
    order = experiment.cascade_order(job.experiment.cascade)
    steps = [checkpoint_dir(job.run, job.experiment, name, 0) for name in order[: order.index(model) + 1]]
    return licences.binding(licences.of_checkpoint(step) for step in steps)


def _low_res(
    job: Job, phase: experiment.Phase, generator: Generator, indices: np.ndarray, labels: np.ndarray
) -> np.ndarray | None:
    """Returns the images to enlarge: those of the chosen point of the base's last phase, else new ones."""
    low = generator.model.low_res
    if not low:
        return None
    earlier = [n for n, p in _phases_before(job).items() if p.model == low]
    if earlier:
        choice = job.result(f"choose-{earlier[-1]}")
        directory = job.run.part_dir(f"sweep-{earlier[-1]}", choice["part"]) / "images"
        return open_set(directory, 1).load()[0][: len(indices)]
    sampling = chosen_sampler(job.run, job.experiment, low, before=job.args["phase"])
    base = load_generator(job.run, job.experiment, low, sampling)
    inner = _low_res(job, phase, base, indices, labels)
    return base.generate(Wanted(indices, labels, indices, inner))


def _phases_before(job: Job) -> dict[str, experiment.Phase]:
    names = list(job.experiment.sweep.phases)
    earlier = names[: names.index(job.args["phase"])]
    return {name: job.experiment.sweep.phases[name] for name in earlier}


def _cas_proxy(
    job: Job, phase: experiment.Phase, images: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Returns top-1 and top-5 on real validation images of a classifier trained on the point alone."""
    resolution = job.experiment.cascade[phase.model].resolution
    trained = classifiers.train_classifier(
        job,
        job.experiment.score.encoder,
        [Piece(images, labels)],
        real_images(job, "val", resolution),
        steps=phase.cas_steps,
        seed=job.experiment.seed,
        role=f"cas proxy {phase.model}",
    )
    return trained.accuracy.top1, trained.accuracy.top5


# ------------------------------------------------------------------------------------------ choose


def choose(job: Job) -> dict[str, Any]:
    """Chooses a phase's best point by its rule; ties go to fewer steps, then to weaker guidance."""
    name = job.args["phase"]
    phase = job.experiment.sweep.phases[name]
    points = phase.grid.points()
    rows = [job.result(f"sweep-{name}", part) for part in range(len(points))]
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
    """Returns the points that no other beats in FID and in CAS (Inception Score where there is no CAS).

    Example:
        >>> a, b, c = ({"fid": f, "cas": s} for f, s in ((1.0, 0.5), (2.0, 0.6), (2.5, 0.4)))
        >>> pareto_front([a, b, c])
        [0, 1]
    """
    good = "cas" if all(row["cas"] is not None for row in rows) else "inception_score"

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        at_least = a["fid"] <= b["fid"] and a[good] >= b[good]
        return at_least and (a["fid"] < b["fid"] or a[good] > b[good])

    return [i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)]


def sweep_rows(run: RunDir, settings: experiment.Experiment) -> list[dict[str, Any]]:
    """Returns the rows of all phases, with the chosen point and the Pareto front marked."""
    rows = []
    for name, phase in settings.sweep.phases.items():
        choice = run.result(f"choose-{name}")
        for part in range(len(phase.grid.points())):
            row = dict(run.result(f"sweep-{name}", part))
            rows.append({**row, "chosen": part == choice["part"], "pareto": part in choice["pareto"]})
    return rows
