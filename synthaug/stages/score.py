"""score: FID, sFID, Inception Score, KID, precision, recall, density and coverage of one set."""

from __future__ import annotations

from typing import Any

from synthaug.launch.parts import is_real
from synthaug.metrics.protocol import Protocol
from synthaug.metrics.score import score
from synthaug.metrics.statistics import Statistics
from synthaug.stages.encoder import load_encoder
from synthaug.stages.encoders import Encoder
from synthaug.stages.features import load_reference, merged_statistics
from synthaug.stages.job import Job

RAW = "raw"
"""Codec of pixels that a filter or a sampler made, whatever files they came from."""


def run(job: Job) -> dict[str, Any]:
    """Scores the part's set against both real splits; of a generated set its first copy."""
    name, resolution = job.args["set"], job.args["resolution"]
    encoder = load_encoder(job.run, job.experiment, job.args["encoder"])
    split = name.removeprefix("real ") if is_real(name) else None
    with job.clock.measure("step"):
        if split:
            scored = load_reference(job.run, job.experiment, split, resolution, job.args["encoder"])
        else:
            scored = merged_statistics(job.run, job.experiment, job.args)
    rows = []
    for reference in ("train", "val"):
        job.check_stop()
        if reference == split:
            continue  # a set against itself has FID 0 by definition
        with job.clock.measure("evaluate"):
            rows.append(row_of(job, encoder, name, scored, reference, resolution, job.args["encoder"]))
    return {"rows": rows}


def row_of(
    job: Job,
    encoder: Encoder,
    name: str,
    scored: Statistics,
    reference: str,
    resolution: int,
    encoder_name: str = "",
) -> dict[str, Any]:
    """Returns the row of a set against a real split.

    Args:
        job: of a run whose references are made.
        encoder: that gave the statistics.
        name: of the set.
        scored: of the set.
        reference: "train" or "val".
        resolution: of the set, px.
        encoder_name: in `score.further`; empty: `score.encoder`.
    """
    settings = job.experiment
    protocol = Protocol(
        encoder=encoder.name,
        encoder_hash=encoder.sha256,
        backend=encoder.backend,
        resize=encoder.resize(resolution),
        resolution=resolution,
        reference=reference,
        splits=settings.score.splits,
        neighbours=settings.score.neighbours,
        max_images=settings.score.max_images,
        kid_subsets=settings.score.kid_subsets,
        kid_subset_size=settings.score.kid_subset_size,
        seed=settings.seed,
        codec=_codec(job, name),
        reference_codec=RAW,
        fewest_images=encoder.fewest_images,
        allow_small_n=settings.score.allow_small_n,
    )
    real = load_reference(job.run, settings, reference, resolution, encoder_name)
    row = score(name, scored, real, protocol)
    row["notes"] += _notes(job, name)
    return row


def _codec(job: Job, name: str) -> str:
    """Returns how the pixels of a set are coded: of a set made elsewhere maybe as they came."""
    made = job.experiment.sets.get(name)
    if made is None or made.resize or made.source == "manifest":
        return RAW
    return str(job.result("collect")["codecs"][name])


def _notes(job: Job, name: str) -> list[str]:
    """Returns what sets a set apart from the real images, besides its generator."""
    settings, made = job.experiment, job.experiment.sets.get(name)
    if made and made.resize and made.resize != settings.data.resize:
        return [f"{name} was made smaller by {made.resize}, the real images by {settings.data.resize}"]
    if name == "generated" and settings.filter.active:
        return ["generated are the images that the filter chose"]
    return []
