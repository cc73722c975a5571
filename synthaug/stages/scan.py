"""scan: where every image of the study is, its class and its split; no image is decoded."""

from __future__ import annotations

from typing import Any

from synthaug.data import blocks
from synthaug.experiment import prepared_sets
from synthaug.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Writes the listings that the prepare jobs read."""
    with job.clock.measure("data"):
        other = {**job.experiment.sets, **prepared_sets(job.experiment)}
        return blocks.scan(job.experiment.data, other, job.run.path / "sets")
