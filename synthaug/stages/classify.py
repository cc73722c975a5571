"""classify: one classifier on one training set. On generated images alone its accuracy is the CAS."""

from __future__ import annotations

import math
from typing import Any

from synthaug.errors import RunError
from synthaug.experiment.study import generated_sets
from synthaug.launch.parts import classify_stage_args
from synthaug.models.functional import Weights
from synthaug.stages import classifiers, pieces, validation
from synthaug.stages.job import Job
from synthaug.train.checkpoint import load_weights


def run(job: Job) -> dict[str, Any]:
    """Trains the part's classifier and measures it on the real validation images."""
    settings = job.experiment.classify.models[job.args["model"]]
    train_set = pieces.training_pieces(job, settings.view)
    side = pieces.real_side(job.experiment, settings.view)
    trained = classifiers.train_classifier(
        job,
        settings,
        train_set,
        pieces.real_images(job, "val", side),
        budget=job.experiment.classify.budget,
        share=job.experiment.classify.share if len(train_set) > 1 else 0.0,
        seed=job.args["seed"],
        role=f"classify/{job.args['model']}",
        start=_start(job, settings.init),
    )
    per_class = [None if math.isnan(a) else float(a) for a in trained.accuracy.per_class]
    subset = job.experiment.classify.subsets[job.args["subset"]]
    return {
        "row": {
            **job.args,
            "top1": trained.accuracy.top1,
            "top5": trained.accuracy.top5,
            "n_train": trained.num_images,
            "n_val": trained.accuracy.n,
            "num_steps": trained.num_steps,
            "num_epochs": trained.num_steps * settings.batch_size / trained.num_images,
            "budget": job.experiment.classify.budget,
            "per_class": subset.per_class,
            "resolution": side,
            "set_resolution": _side_of(job, job.args["set"]),
            "input": trained.size,
            "parameters": trained.parameters,
            "val_sets": validation.measure(job, settings, trained.weights, side),
        },
        "per_class": per_class,
        "checkpoint": f"{job.stage}-{job.part}/checkpoints/{trained.num_steps}",
    }


def _side_of(job: Job, name: str) -> int:
    return next((side for key, _, side in generated_sets(job.experiment) if key == name), 0)


def _start(job: Job, init: str) -> Weights | str | None:
    """Returns the weights that training starts from: those of another part, a file's path, or None."""
    if init == "scratch":
        return None
    if init not in job.experiment.classify.models:
        return init
    wanted = {**job.args, "model": init}
    args = classify_stage_args(job.experiment)["classify"]
    if wanted not in args:
        raise RunError(f"{job.stage}: no part trains {init} on the same images; check classify.models.")
    result = job.result("classify", args.index(wanted))
    return load_weights(job.run.path / result["checkpoint"])[0]
