"""score: FID against train and against validation, Inception Score, precision and recall of one set."""

from __future__ import annotations

from typing import Any

from synthaug.metrics.score import score_features
from synthaug.stages import sets
from synthaug.stages.encoder import load_encoder, real_features
from synthaug.stages.job import Job
from synthaug.stages.pieces import generated_images


def run(job: Job) -> dict[str, Any]:
    """Scores the part's set; of a generated set its first copy, as many images as the train split."""
    settings = job.experiment
    name, resolution = job.args["set"], job.args["resolution"]
    encoder = load_encoder(job.run, settings)
    split = name.removeprefix("real ") if name.startswith("real ") else None
    with job.clock.measure("step"):
        if split:
            features, logits = real_features(job.run, split, resolution)
        else:
            images, _ = generated_images(job, name if name != "generated" else f"generated-{resolution}")
            count = sum(entry.train for entry in sets.class_table(job.run).entries)
            features, logits = encoder.encode(images, count)
    rows = []
    for reference in ("train", "val"):
        job.check_stop()
        if reference == split:
            continue  # a set against itself has FID 0 by definition
        with job.clock.measure("evaluate"):
            row = score_features(
                name,
                features,
                logits,
                real_features(job.run, reference, resolution)[0],
                encoder=encoder.name,
                encoder_hash=encoder.sha256,
                resize=encoder.resize(resolution),
                resolution=resolution,
                reference=reference,
                splits=settings.score.splits,
                neighbours=settings.score.neighbours,
                max_images=settings.score.max_images,
                seed=settings.seed,
            )
        rows.append(row)
    return {"rows": rows}
