"""prepare: some blocks of one set -> shards at every resolution, and what is known of each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthaug import experiment
from synthaug.data.prepare import prepare
from synthaug.data.recipe import Recipe, recipe_of
from synthaug.experiment import Experiment
from synthaug.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Writes the blocks of this part; those that are there stay as they are."""

    def progress(done: int, total: int) -> None:
        job.progress(done, total, "images")
        job.check_stop()  # a block that is half done is done again; it has left nothing

    args = job.args
    with job.clock.measure("step"):
        return prepare(
            job.experiment.data,
            recipes(job.experiment, job.result("scan"))[args["set"]],
            job.run.path / "sets",
            range(args["block"], args["block"] + args["num_blocks"]),
            attempt=job.attempt,
            progress=progress,
        )


def recipes(settings: Experiment, scanned: Mapping[str, Any]) -> dict[str, Recipe]:
    """Returns how each set that is prepared here is made; a manifest stays where it is."""
    other, sides = experiment.prepared_sets(settings), experiment.prepared_resolutions(settings)
    return {name: recipe_of(name, settings.data, other, sides, scanned) for name in ("train", "val", *other)}
