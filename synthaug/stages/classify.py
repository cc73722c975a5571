"""classify: one classifier on one training set. On generated images alone its accuracy is the CAS."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from synthaug.data.mixture import mix
from synthaug.stages import classifiers, sets
from synthaug.stages.classifiers import Arrays
from synthaug.stages.job import Job


def run(job: Job) -> dict[str, Any]:
    """Trains the part's classifier and measures it on the real validation images."""
    settings = job.experiment.classify.models[job.args["model"]]
    resolution = max(model.resolution for model in job.experiment.cascade.values())
    train_set = _train_set(job, resolution)
    steps = classifiers.num_steps(settings, job.experiment.classify.budget, len(train_set[0]))
    trained = classifiers.train_classifier(
        job,
        settings,
        train_set,
        sets.load_real(job.run, "val", resolution),
        steps=steps,
        seed=job.args["seed"],
        role=f"classify/{job.args['model']}",
    )
    per_class = [None if math.isnan(a) else float(a) for a in trained.accuracy.per_class]
    return {
        "row": {
            **job.args,
            "top1": trained.accuracy.top1,
            "top5": trained.accuracy.top5,
            "n_train": len(train_set[0]),
            "n_val": trained.accuracy.n,
            "num_steps": trained.num_steps,
            "budget": job.experiment.classify.budget,
            "resolution": resolution,
        },
        "per_class": per_class,
    }


def _train_set(job: Job, resolution: int) -> Arrays:
    """Returns the images and labels of the part's mix."""
    uses_real = job.args["mix"] != "generated"
    uses_generated = job.args["mix"] != "real"
    return mix(
        sets.load_real(job.run, "train", resolution) if uses_real else None,
        sets.load_generated(job.run, job.experiment, resolution) if uses_generated else None,
        copies=job.args["copies"],
        copy_size=job.result("prepare")["num_train"],
        shots=job.args["shots"],
        seed=job.args["seed"],
    )


def accuracies(values: list[float | None]) -> np.ndarray:
    """Returns f64[K] with NaN for classes without validation images."""
    return np.array([math.nan if v is None else v for v in values])
