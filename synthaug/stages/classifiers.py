"""Classifier training and prediction, shared by encoder, sweep (CAS proxy) and classify."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthaug import experiment, parallel, rng
from synthaug.data.images import to_float
from synthaug.data.stream import Stream
from synthaug.metrics.accuracy import Accuracy, accuracy
from synthaug.models.classifier import build_classifier
from synthaug.models.functional import Model, Weights
from synthaug.stages.finetune import identity
from synthaug.stages.job import Job
from synthaug.stages.training import train
from synthaug.train.optimizer import build_optimizer, learning_rate
from synthaug.train.state import averaged, create, make_update

Arrays = tuple[np.ndarray, np.ndarray]
"""(u8[N,H,W,C], i32[N]), images and labels."""

EVAL_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained classifier and how well it does on the validation images."""

    weights: Weights
    accuracy: Accuracy
    num_steps: int


@functools.cache
def network(settings: experiment.Classifier, resolution: int, channels: int, num_classes: int) -> Model:
    """Returns the classifier's functions."""
    return build_classifier(settings, resolution=resolution, channels=channels, num_classes=num_classes)


@functools.cache
def _update(
    settings: experiment.Classifier, resolution: int, channels: int, num_classes: int, num_steps: int
) -> Callable[..., Any]:
    """Returns the compiled training step; seeds and mixes of equal length share it."""
    model = network(settings, resolution, channels, num_classes)

    def loss_fn(params: Any, stats: Any, batch: dict[str, jax.Array], key: jax.Array) -> Any:
        weights = {"params": params, "stats": stats}
        (logits, _), stats = model.apply_train(
            weights, to_float(batch["image"]), key=rng.stream(key, "dropout")
        )
        target = optax.smooth_labels(jax.nn.one_hot(batch["label"], num_classes), settings.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, target).mean()
        top1 = (jnp.argmax(logits, axis=-1) == batch["label"]).mean()
        return loss, ({"train_top1": top1}, stats)

    tx = build_optimizer(settings.optimizer, num_steps)
    return make_update(loss_fn, tx, settings.ema_decay)


@functools.cache
def _predict(
    settings: experiment.Classifier, resolution: int, channels: int, num_classes: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    model = network(settings, resolution, channels, num_classes)
    return jax.jit(lambda weights, images: model.apply(weights, to_float(images)))


def predict(
    settings: experiment.Classifier, weights: Weights, images: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits f32[N,K], features f32[N,D]) of u8[N,H,W,C]."""
    run = _predict(settings, images.shape[1], images.shape[-1], num_classes)
    logits, features = [], []
    for start in range(0, len(images), EVAL_BATCH):
        batch = images[start : start + EVAL_BATCH]
        fill = np.resize(np.arange(len(batch)), EVAL_BATCH)  # one shape, one compilation
        a, b = run(weights, batch[fill])
        logits.append(np.asarray(a)[: len(batch)])
        features.append(np.asarray(b)[: len(batch)])
    return np.concatenate(logits), np.concatenate(features)


def num_steps(settings: experiment.Classifier, budget: str, num_images: int) -> int:
    """Returns the training updates for a set of `num_images`."""
    if budget == "steps":
        return settings.num_steps
    return math.ceil(settings.num_epochs * num_images / settings.batch_size)


def train_classifier(
    job: Job,
    settings: experiment.Classifier,
    train_set: Arrays,
    val_set: Arrays,
    *,
    steps: int,
    seed: int,
    role: str,
) -> Trained:
    """Trains a classifier on one set and measures it on another.

    Args:
        job: the part this belongs to; it is resumed from the part's checkpoints.
        settings: architecture and recipe.
        train_set: images and labels to learn from.
        val_set: images and labels to measure on.
        steps: training updates.
        seed: decides initial weights, order and augmentation.
        role: names the use; part of the checkpoints' identity.
    """
    images, labels = train_set
    shape = (images.shape[1], images.shape[-1], job.experiment.data.num_classes)
    model = network(settings, *shape)
    tx = build_optimizer(settings.optimizer, steps)
    key = rng.stream(rng.root(seed), role)
    stream = Stream(
        {"image": images, "label": labels},
        batch_size=settings.batch_size,
        seed=seed,
        max_shift=settings.max_shift,
    )

    def make_state() -> dict[str, Any]:
        return parallel.replicate(create(model.init(rng.stream(key, "init")), tx, settings.ema_decay > 0))

    def batch_at(step: int) -> dict[str, Any]:
        batch = stream.batch(step)
        return {"image": batch["image"], "label": batch["label"]}

    state, _ = train(
        job,
        make_state=make_state,
        update=_update(settings, *shape, steps),
        batch_at=batch_at,
        num_steps=steps,
        saving=settings.saving,
        key=key,
        identity=identity(job, role),
        learning_rate=learning_rate(settings.optimizer, steps),
    )
    weights = averaged(state)
    with job.clock.measure("evaluate"):
        logits, _ = predict(settings, weights, val_set[0], shape[-1])
    return Trained(weights, accuracy(logits, val_set[1]), steps)
