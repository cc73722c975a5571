"""Further validation sets: what a trained classifier gets right on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from synthaug import experiment
from synthaug.data.facts import facts_path, read_facts
from synthaug.data.loader import eval_images
from synthaug.data.real_labels import align, read_real_labels
from synthaug.metrics.accuracy import accuracy, real_accuracy
from synthaug.models.functional import Weights
from synthaug.rundir import RunDir
from synthaug.stages import classifiers, sets
from synthaug.stages.job import Job
from synthaug.stages.pieces import Images


def measure(job: Job, settings: experiment.Classifier, weights: Weights, side: int) -> dict[str, Any]:
    """Returns {name: {"top1", "n", and "top5" where every image has one label}} of all further sets.

    Args:
        job: of a study that has prepared its sets.
        settings: the classifier.
        weights: its trained weights.
        side: resolution of the real images that it is tested on, px; 0 = the files as they are.
    """
    found = {}
    for name, one in job.experiment.val_sets.items():
        own = one.source == "val"
        images, labels = sets.images_of(job.run, "val" if own else name, side)
        logits = _logits(job, settings, weights, images)
        if own:
            several = _real_labels(job.run, one.real_labels, job.experiment.data.num_classes)
            top1, n = real_accuracy(logits, several)
            found[name] = {"top1": top1, "n": n}
        else:
            result = accuracy(logits, labels)
            found[name] = {"top1": result.top1, "top5": result.top5, "n": result.n}
        job.check_stop()
    return found


def _logits(job: Job, settings: experiment.Classifier, weights: Weights, images: Images) -> np.ndarray:
    data = job.experiment.data
    batches = eval_images(images, settings.view, batch_size=classifiers.EVAL_BATCH, decoder=data.decoder)
    return classifiers.predict(settings, weights, batches, data.num_classes)[0]


def _real_labels(run: RunDir, path: str, num_classes: int) -> list[list[int]]:
    """Returns the right labels of every readable validation image, in the order of the set."""
    collected = run.result("collect")["sets"]
    shards = next(facts["shards"] for key, facts in collected.items() if key.rpartition("/")[0] == "val")
    folder = run.path / "sets" / "val"
    ids = [name for block in range(shards) for name in read_facts(facts_path(folder, block)).source]
    return align(read_real_labels(path, num_classes), ids, path)
