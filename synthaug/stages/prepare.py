"""prepare: raw images -> shards at every resolution of the cascade, class table, counts, hashes."""

from __future__ import annotations

from typing import Any

from synthaug.data.prepare import prepare
from synthaug.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Writes the train and val sets."""
    resolutions = sorted({model.resolution for model in job.experiment.cascade.values()})

    def progress(done: int, total: int) -> None:
        job.progress(done, total, "images")
        job.check_stop()

    with job.clock.measure("step"):
        return prepare(job.experiment.data, resolutions, job.run.path / "sets", progress)
