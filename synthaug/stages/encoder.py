"""encoder: the network whose features every metric compares, and the features of the real sets.

At toy size it is a classifier trained on the real train split; its penultimate layer gives the
features. It learns from the images at every resolution that is scored, enlarged as they are for scoring:
a classifier that knew sharp images only would see two or three classes in all enlarged ones.
It has seen the train images: FID against train and against val differ also for that reason.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from synthaug import experiment, parallel
from synthaug.data.images import to_float, to_u8
from synthaug.data.loader import Piece
from synthaug.diffusion.cascade import enlarge
from synthaug.experiment import prepared_resolutions
from synthaug.metrics.accuracy import accuracy
from synthaug.models.functional import Weights, hash_weights
from synthaug.rundir import RunDir
from synthaug.stages import classifiers
from synthaug.stages.arrays import read_arrays, write_arrays
from synthaug.stages.job import Job
from synthaug.stages.pieces import Images, in_blocks, real_images
from synthaug.train.checkpoint import load_weights


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Features and logits of images of any resolution up to its own."""

    settings: experiment.Classifier
    weights: Weights
    name: str
    sha256: str
    resolution: int
    num_classes: int

    def encode(self, images: Images, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns (features f32[N,D], logits f32[N,K]) of u8[N,h,w,C], enlarged as `resize` says.

        Of a set larger than `count` only the first images are looked at.
        """
        blocks = in_blocks(images, classifiers.EVAL_BATCH, count)
        batches = (enlarge_u8(block, self.resolution) for block in blocks)
        logits, features = classifiers.predict(self.settings, self.weights, batches, self.num_classes)
        return features, logits

    def resize(self, resolution: int) -> str:
        """Returns the name of what happens to images of a resolution before they are encoded."""
        return "none" if resolution == self.resolution else f"bilinear {resolution}->{self.resolution}, 8 bit"


def run(job: Job) -> dict[str, Any]:
    """Trains the encoder and writes the features of the real sets."""
    settings = job.experiment.score.encoder
    resolutions = prepared_resolutions(job.experiment)
    top = resolutions[-1]
    trained = classifiers.train_classifier(
        job,
        settings,
        _train_set(job, resolutions),
        real_images(job, "val", top),
        budget=job.experiment.classify.budget,
        seed=job.experiment.seed,
        role="encoder",
    )
    sha256 = hash_weights(trained.weights)
    encoder = _encoder(job.experiment, trained.weights, sha256, top)
    hashes, top1 = {}, {}
    for split in ("train", "val"):
        for resolution in resolutions:
            images, labels = real_images(job, split, resolution)
            features, logits = encoder.encode(images)
            if split == "val":
                top1[str(resolution)] = accuracy(logits, labels).top1
            file = _features_file(job.run, split, resolution)
            hashes[file.name] = write_arrays(file, {"features": features, "logits": logits})
    return {
        "name": encoder.name,
        "weights_sha256": sha256,
        "resolution": top,
        "steps": trained.num_steps,
        "checkpoint": f"encoder-0/checkpoints/{trained.num_steps}",
        "top1": top1,
        "features": hashes,
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


def enlarge_u8(images: np.ndarray, resolution: int) -> np.ndarray:
    """Returns u8[N,H,W,C]: images u8[N,h,w,C] enlarged bilinearly, or as they are."""
    if images.shape[1] == resolution:
        return images
    return np.asarray(to_u8(jax.device_get(enlarge(to_float(images), resolution))))


def _encoder(settings: experiment.Experiment, weights: Weights, sha256: str, resolution: int) -> Encoder:
    return Encoder(
        settings=settings.score.encoder,
        weights=parallel.replicate(weights),
        name=f"classifier ({settings.score.encoder.kind} trained on real images, penultimate layer)",
        sha256=sha256,
        resolution=resolution,
        num_classes=settings.data.num_classes,
    )


def load_encoder(run: RunDir, settings: experiment.Experiment) -> Encoder:
    """Returns the run's encoder."""
    result = run.result("encoder")
    weights, _ = load_weights(run.path / result["checkpoint"])
    return _encoder(settings, weights, result["weights_sha256"], result["resolution"])


def real_features(run: RunDir, split: str, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (features f32[N,D], logits f32[N,K]) of a real set."""
    file = _features_file(run, split, resolution)
    arrays = read_arrays(file, run.result("encoder")["features"][file.name])
    return arrays["features"], arrays["logits"]


def _features_file(run: RunDir, split: str, resolution: int) -> pathlib.Path:
    return run.part_dir("encoder", 0) / f"features-{split}-{resolution}.npz"
