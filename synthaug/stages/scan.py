"""scan: where every image of the study is, its class and its split; no image is decoded.

With the classes' sizes known, subsets that ask for more than there is are refused here, before any work.
"""

from __future__ import annotations

from typing import Any

from synthaug.checks.training import subset_problems
from synthaug.data import blocks
from synthaug.errors import ConfigError
from synthaug.experiment import prepared_sets
from synthaug.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Writes the listings that the prepare jobs read."""
    with job.clock.measure("data"):
        other = {**job.experiment.sets, **prepared_sets(job.experiment)}
        found = blocks.scan(job.experiment.data, other, job.run.path / "sets")
    keys = [key for key, _ in found["classes"]]
    for problem in subset_problems(job.experiment, list(zip(keys, found["train_counts"], strict=True))):
        raise ConfigError(problem)
    return found
