"""collect: what all prepare jobs made -> class table, counts, hashes, labels, balance, duplicates."""

from __future__ import annotations

from typing import Any

from synthaug.checks.training import subset_problems
from synthaug.data.collect import collect
from synthaug.errors import ConfigError
from synthaug.stages.job import Job
from synthaug.stages.prepare import recipes


def run(job: Job) -> dict[str, Any]:
    """Writes the class table and the labels, and checks that every shard is there."""
    scanned = job.result("scan")
    with job.clock.measure("data"):
        found = collect(job.experiment.data, recipes(job.experiment, scanned), scanned, job.run.path / "sets")
    for problem in subset_problems(job.experiment, [(c["key"], c["train"]) for c in found["classes"]]):
        raise ConfigError(problem)  # unreadable images may have made a class too small
    if found["corrupt"]:
        job.say(f"{len(found['corrupt'])} unreadable images are left out; done.json names them.")
    copies = {split: found["duplicates"][split]["images"] for split in ("train", "val", "between")}
    if any(copies.values()):
        job.say(
            f"the same image twice: {copies['train']} in train, {copies['val']} in val; {copies['between']} "
            "validation images stand in train too; done.json names some."
        )
    return found
