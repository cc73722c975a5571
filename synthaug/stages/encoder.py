"""encoder: the networks whose features every metric compares, trained here or opened from files.

A study of images that no published network knows trains a classifier on its real train split; the
penultimate layer gives the features. It learns from the images at every resolution that is scored, enlarged
as they are for scoring: a classifier that knew sharp images only would see two or three classes in all
enlarged ones. It has seen the train images: FID against train and against val differ also for that reason.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np

from synthaug import experiment
from synthaug.data.loader import Piece
from synthaug.errors import DataError
from synthaug.experiment import prepared_resolutions
from synthaug.launch.parts import encoder_names
from synthaug.metrics.accuracy import accuracy
from synthaug.models.functional import hash_weights
from synthaug.rundir import RunDir
from synthaug.stages import classifiers
from synthaug.stages.encoders import Encoder, enlarge_u8, of_classifier, open_encoder
from synthaug.stages.job import Job
from synthaug.stages.pieces import in_blocks, real_images
from synthaug.train.checkpoint import load_weights


def run(job: Job) -> dict[str, Any]:
    """Trains the part's encoder, or opens the file of its weights and notes what they are."""
    settings = _settings(job.experiment, job.args["encoder"])
    if settings.kind == "classifier":
        return _train(job, settings)
    with job.clock.measure("restore"):
        encoder = open_encoder(settings)
    return _describe(settings, encoder)


def _settings(study: experiment.Experiment, name: str) -> experiment.Encoder:
    return study.score.further[name] if name else study.score.encoder


def _describe(settings: experiment.Encoder, encoder: Encoder) -> dict[str, Any]:
    return {
        "kind": settings.kind,
        "name": encoder.name,
        "backend": encoder.backend,
        "weights_sha256": encoder.sha256,
    }


def _train(job: Job, settings: experiment.Encoder) -> dict[str, Any]:
    resolutions = prepared_resolutions(job.experiment)
    top, name = resolutions[-1], job.args["encoder"]
    trained = classifiers.train_classifier(
        job,
        settings.classifier,
        _train_set(job, resolutions),
        real_images(job, "val", top),
        budget=job.experiment.classify.budget,
        seed=job.experiment.seed,
        role=f"encoder {name}" if name else "encoder",
    )
    encoder = of_classifier(
        settings,
        trained.weights,
        hash_weights(trained.weights),
        resolution=top,
        channels=job.experiment.data.channels,
    )
    return {
        **_describe(settings, encoder),
        "resolution": top,
        "steps": trained.num_steps,
        "checkpoint": f"{job.stage}-{job.part}/checkpoints/{trained.num_steps}",
        "top1": {str(side): _top1(job, encoder, side) for side in resolutions},
    }


def _train_set(job: Job, resolutions: list[int]) -> list[Piece]:
    """Returns the train split at every resolution, enlarged to the highest."""
    pieces = []
    for side in reversed(resolutions):
        images, labels = real_images(job, "train", side)
        if isinstance(images, np.ndarray):
            pieces.append(Piece(enlarge_u8(images, resolutions[-1]), labels))
        elif side == resolutions[-1]:
            job.say(f"the train split is read from the disk: the encoder learns from its {side} px alone.")
            return [Piece(images, labels)]
    return pieces[::-1]


def _top1(job: Job, encoder: Encoder, side: int) -> float:
    """Returns the share of real validation images of a side whose class the encoder tells."""
    images, labels = real_images(job, "val", side)
    with job.clock.measure("evaluate"):
        found = [encoder.encode(batch).logits for batch in in_blocks(images, encoder.batch_size)]
    job.check_stop()
    return accuracy(np.concatenate([logits for logits in found if logits is not None]), labels).top1


def load_encoder(run: RunDir, study: experiment.Experiment, name: str = "") -> Encoder:
    """Returns an encoder of the run.

    Args:
        run: its stage `encoder` is finished.
        study: settings of the run.
        name: in `score.further`; empty: `score.encoder`.

    Raises:
        DataError: the file of its weights is gone, or holds others than when the run began.
    """
    result = run.result("encoder", encoder_names(study).index(name))
    settings = _settings(study, name)
    if settings.kind == "classifier":
        weights, _ = load_weights(run.path / result["checkpoint"])
        return of_classifier(
            settings,
            weights,
            result["weights_sha256"],
            resolution=result["resolution"],
            channels=study.data.channels,
        )
    encoder = _opened(settings, _stamp(settings.path))
    if encoder.sha256 != result["weights_sha256"]:
        raise DataError(
            f"{settings.path}: holds other weights ({encoder.sha256[:12]}) than when the run began "
            f"({result['weights_sha256'][:12]}); put the file back, or start with --stage encoder --force."
        )
    return encoder


# A worker encodes many sets: the weights are read, and the network is compiled, once.
@functools.lru_cache(maxsize=2)
def _opened(settings: experiment.Encoder, stamp: tuple[float, int]) -> Encoder:
    return open_encoder(settings)


def _stamp(path: str) -> tuple[float, int]:
    """Returns what changes when a file is written anew; of no file, zeros."""
    try:
        found = pathlib.Path(path).stat()
    except OSError:
        return 0.0, 0
    return found.st_mtime, found.st_size
