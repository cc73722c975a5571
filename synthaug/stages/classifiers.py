"""Classifier training and prediction, shared by encoder, sweep (CAS proxy) and classify."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthaug import commit, experiment, parallel, rng
from synthaug.data.loader import Loader, Piece, eval_images
from synthaug.metrics.accuracy import Accuracy, accuracy
from synthaug.models.classifier import build_classifier
from synthaug.models.functional import Model, Weights, count_parameters, hash_weights
from synthaug.stages.finetune import identity
from synthaug.stages.job import Job
from synthaug.stages.pieces import Images, side_of
from synthaug.stages.training import train
from synthaug.train import mixing
from synthaug.train.optimizer import build_optimizer, learning_rate
from synthaug.train.state import averaged, create, make_update
from synthaug.weights.classifiers import adapt_classifier, read_classifier

EVAL_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained classifier and how well it does on the validation images."""

    weights: Weights
    accuracy: Accuracy
    num_steps: int
    num_images: int  # of its training set
    size: int  # side of what it saw, px
    parameters: int


@functools.cache
def network(settings: experiment.Classifier, size: int, channels: int, num_classes: int) -> Model:
    """Returns the classifier's functions for images of a side."""
    return build_classifier(settings, resolution=size, channels=channels, num_classes=num_classes)


@functools.cache
def _update(
    settings: experiment.Classifier, size: int, channels: int, num_classes: int, num_steps: int
) -> Callable[..., Any]:
    """Returns the compiled training step; seeds and mixes of equal length share it."""
    model = network(settings, size, channels, num_classes)

    def loss_fn(params: Any, stats: Any, batch: dict[str, jax.Array], key: jax.Array) -> Any:
        images = mixing.normalize(batch["image"], settings.view.normalize)
        targets = mixing.smooth_targets(batch["label"], num_classes, settings.label_smoothing)
        images, targets = mixing.augment_batch(images, targets, settings.augment, rng.stream(key, "augment"))
        weights = {"params": params, "stats": stats}
        (logits, _), stats = model.apply_train(weights, images, key=rng.stream(key, "dropout"))
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        top1 = (jnp.argmax(logits, axis=-1) == batch["label"]).mean()
        return loss, ({"train_top1": top1}, stats)

    tx = build_optimizer(settings.optimizer, num_steps)
    return make_update(loss_fn, tx, settings.ema_decay)


@functools.cache
def _predict(
    settings: experiment.Classifier, size: int, channels: int, num_classes: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    model = network(settings, size, channels, num_classes)
    kind = settings.view.normalize
    return jax.jit(lambda weights, images: model.apply(weights, mixing.normalize(images, kind)))


def predict(
    settings: experiment.Classifier,
    weights: Weights,
    batches: Iterable[np.ndarray],
    num_classes: int,
    batch_size: int = EVAL_BATCH,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits f32[N,K], features f32[N,D]) of batches u8[b,H,W,C] of one size, b <= batch_size."""
    logits, features = [], []
    for batch in batches:
        run = _predict(settings, batch.shape[1], batch.shape[-1], num_classes)
        fill = np.resize(np.arange(len(batch)), batch_size)  # one shape, one compilation
        a, b = run(weights, parallel.place({"image": batch[fill]})["image"])
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
    train_set: Sequence[Piece],
    val_set: tuple[Images, np.ndarray],
    *,
    seed: int,
    role: str,
    budget: str = "steps",
    steps: int = 0,
    share: float = 0.0,
    start: Weights | str | None = None,
) -> Trained:
    """Trains a classifier on one set and measures it on another.

    Args:
        job: the part this belongs to; it is resumed from the part's checkpoints.
        settings: architecture and recipe.
        train_set: pieces of image sets to learn from.
        val_set: images and labels i32[N] to measure on.
        seed: decides initial weights, order and augmentation.
        role: names the use; part of the checkpoints' identity.
        budget: "steps" or "epochs", what of the settings decides the number of updates.
        steps: updates, whatever the budget says; 0 = as it says.
        share: exact share of generated images in every batch; 0 = as many as the set has.
        start: weights, or the path of a safetensors file of them; None = random.
    """
    loader = Loader(
        train_set,
        settings.view,
        settings.augment,
        batch_size=settings.batch_size,
        seed=seed,
        share=share,
        workers=job.site.loader_workers,
        decoder=job.experiment.data.decoder,
    )
    steps = steps or num_steps(settings, budget, loader.num_images)
    size = settings.view.size or side_of(train_set[0].images)
    shape = (size, job.experiment.data.channels, job.experiment.data.num_classes)
    model = network(settings, *shape)
    tx = build_optimizer(settings.optimizer, steps)
    key = rng.stream(rng.root(seed), role)

    def make_state() -> dict[str, Any]:
        weights = _first_weights(job, settings, model.init(rng.stream(key, "init")), start)
        return parallel.spread(create(weights, tx, settings.ema_decay > 0))

    state, _ = train(
        job,
        make_state=make_state,
        update=_update(settings, *shape, steps),
        batch_at=_in_order(loader),
        num_steps=steps,
        saving=settings.saving,
        key=key,
        identity={**identity(job, role), "init": _fingerprint(start)},
        learning_rate=learning_rate(settings.optimizer, steps),
    )
    weights = averaged(state)
    with job.clock.measure("evaluate"):
        decoder = job.experiment.data.decoder
        batches = eval_images(val_set[0], settings.view, batch_size=EVAL_BATCH, decoder=decoder)
        logits, _ = predict(settings, weights, batches, shape[-1])
    found = accuracy(logits, val_set[1])
    return Trained(weights, found, steps, loader.num_images, size, count_parameters(weights["params"]))


def _first_weights(
    job: Job, settings: experiment.Classifier, like: Weights, start: Weights | str | None
) -> Weights:
    """Returns the weights that training starts from, in the shapes of `like`, the network's random ones."""
    if start is None:
        return like
    if not isinstance(start, str):
        return adapt_classifier(start, like, settings.init)
    found = read_classifier(start, settings, like, new_head=True)
    if found["params"]["head"]["kernel"] is like["params"]["head"]["kernel"]:
        job.say(f"{start} has other classes: its head is replaced by a random one.")
    return found


def _in_order(loader: Loader) -> Callable[[int], dict[str, np.ndarray]]:
    """Returns the function from a step to its batch; worker processes make batches ahead, in order."""
    if not loader.workers:
        return loader.batch
    batches: Iterator[dict[str, np.ndarray]] = iter(())
    following = -1

    def batch_at(step: int) -> dict[str, np.ndarray]:
        nonlocal batches, following
        if step != following:  # the first one asked for
            batches = loader.iterate(step)
        following = step + 1
        return next(batches)

    return batch_at


def _fingerprint(start: Weights | str | None) -> str:
    """Returns what training starts from, as part of its checkpoints' identity."""
    if start is None:
        return "scratch"
    if not isinstance(start, str):
        return hash_weights(start)
    path = pathlib.Path(start)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return " ".join(commit.sha256_file(file) for file in files)
