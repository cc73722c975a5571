"""finetune: trains one model of the cascade on the labelled images, with class names as prompts."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthaug import experiment, parallel, rng
from synthaug.data.images import to_float
from synthaug.data.stream import Stream
from synthaug.diffusion.cascade import augment_low_res, cut, enlarge
from synthaug.diffusion.loss import diffusion_loss
from synthaug.models.functional import Model, Weights, count_parameters, hash_weights
from synthaug.models.unet import build_unet
from synthaug.rundir import RunDir
from synthaug.stages import initial, sets
from synthaug.stages.embed import PromptBank, read_bank
from synthaug.stages.job import Job
from synthaug.stages.training import show_images, train
from synthaug.train import posthoc
from synthaug.train.optimizer import build_optimizer, learning_rate
from synthaug.train.state import averaged, create, make_update

VAL_IMAGES = 256
"""Validation images in the loss that `best` goes by; noise and times are fixed by the seed."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Compiled functions of one model's training."""

    init: Callable[[jax.Array], dict[str, Any]]
    adopt: Callable[[Weights], dict[str, Any]]
    update: Callable[..., Any]
    validate: Callable[..., jax.Array]
    unet: Model


@functools.cache
def trainer(model: experiment.Model, network: experiment.Network) -> Trainer:
    """Returns the compiled training functions; equal settings share one compilation."""
    settings = model.finetune
    unet = build_unet(network, compute=model.compute, remat=settings.remat)
    tx = build_optimizer(settings.optimizer, settings.num_steps)
    loss = functools.partial(_loss, unet, model)
    # Weights that are used as they are need no second copy of themselves.
    ema_decay = settings.ema_decay if settings.num_steps else 0.0
    profiles = posthoc.profiles(settings.ema_profiles) if settings.num_steps else {}

    def loss_fn(params: Any, stats: Any, batch: dict[str, Any], key: jax.Array) -> Any:
        value, metrics = loss({"params": params, "stats": stats}, batch, key, True)
        return value, (metrics, stats)

    def adopt(weights: Weights) -> dict[str, Any]:
        return create(weights, tx, with_ema=ema_decay > 0, profiles=profiles)

    return Trainer(
        init=lambda key: adopt(unet.init(key)),
        adopt=adopt,
        update=make_update(loss_fn, tx, ema_decay, profiles),
        validate=jax.jit(lambda weights, batch, key: loss(weights, batch, key, False)[0]),
        unet=unet,
    )


def _loss(
    unet: Model, model: experiment.Model, weights: Weights, batch: dict[str, Any], key: jax.Array, train: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the diffusion loss of a batch and its parts."""
    names = ("drop", "level", "augment", "diffusion", "dropout", "crop")
    keys = {name: rng.stream(key, name) for name in names}
    cond = _told(model, batch, keys["drop"] if train else None)
    images, count = batch["image"], batch["image"].shape[0]
    if model.low_res:
        low_res = batch["low_res"]
        if model.finetune.crop:
            images, low_res = cut(images, low_res, model.finetune.crop, keys["crop"] if train else None)
        low_res = enlarge(to_float(low_res), images.shape[1:3], model.enlarge)
        level = jax.random.uniform(keys["level"], (count,))
        noise_keys = rng.for_images(keys["augment"], jnp.arange(count))
        cond["low_res"], aug_time = augment_low_res(low_res, level, model.augmentation, noise_keys)
        if model.augmentation != "none":
            cond["aug_time"] = aug_time

    def denoise(z_t: jax.Array, time: jax.Array, cond: dict[str, jax.Array]) -> jax.Array:
        return unet.apply(weights, z_t, time, cond, train=train, key=keys["dropout"] if train else None)

    return diffusion_loss(denoise, model.diffusion, to_float(images), cond, keys["diffusion"])


def _told(model: experiment.Model, batch: dict[str, Any], key: jax.Array | None) -> dict[str, jax.Array]:
    """Returns what the network is told of the images: their labels, or their texts.

    With a key the text is dropped for a share of the examples, so that the same network also learns the
    unconditional prediction that guidance needs (Imagen sec. 2.1).
    """
    if model.unet.conditioning == "label":
        return {"label": batch["label"]}
    bank, row = batch["bank"], batch["row"]
    text, mask = bank["text"][row], bank["mask"][row]
    if key is not None:
        keep = jax.random.bernoulli(key, 1.0 - model.finetune.text_drop, row.shape)  # bool[B]
        text = jnp.where(keep[:, None, None], text, bank["null_text"][None])
        mask = jnp.where(keep[:, None], mask, bank["null_mask"][None])
    return {"text": text, "text_mask": mask}


def run(job: Job) -> dict[str, Any]:
    """Trains the model named by the part."""
    name = job.args["model"]
    settings = job.experiment.cascade[name]
    bank = read_bank(job.run)
    functions = trainer(settings, experiment.network_of(job.experiment, name))
    key = rng.stream(rng.root(job.experiment.seed), f"finetune/{name}")
    num_steps, init = settings.finetune.num_steps, settings.finetune.init
    # Nothing is learnt from images when weights are used as they are.
    batches = _Batches(job, settings, bank) if num_steps else None

    def make_state() -> dict[str, Any]:
        if init == initial.SCRATCH:
            return parallel.spread(functions.init(rng.stream(key, "init")))
        weights = initial.weights_of(init, functions.unet, name)
        return parallel.spread(functions.adopt(parallel.spread(weights)))

    def evaluate(state: dict[str, Any]) -> dict[str, float]:
        if batches is None:
            return {}
        loss = float(functions.validate(averaged(state), batches.val, rng.stream(key, "validate")))
        return {"val_loss": loss, "best": loss}

    def snapshot(step: int, state: dict[str, Any]) -> None:
        posthoc.write_snapshot(job.directory / "ema", step, state["profiles"])

    about = initial.about(job.experiment, name)
    rate = learning_rate(settings.finetune.optimizer, num_steps) if num_steps else None
    state, checkpoint = train(
        job,
        make_state=make_state,
        update=functions.update,
        batch_at=batches.at if batches else lambda step: {},
        num_steps=num_steps,
        saving=settings.finetune.saving,
        key=key,
        identity={**identity(job, f"finetune/{name}"), "init": initial.fingerprint(init)},
        evaluate=evaluate,
        learning_rate=rate,
        about=about,
        snapshot=snapshot if settings.finetune.ema_profiles else None,
        snapshot_every=settings.finetune.ema_every,
    )
    weights = averaged(state)
    _show_samples(job, name, weights, bank)
    return {
        "model": name,
        "steps": int(state["step"]),
        "parameters": count_parameters(weights["params"]),
        "weights_sha256": hash_weights(weights),
        "checkpoint": str(checkpoint.relative_to(job.run.path)),
        "licence": about["licence"],
        "val_loss": evaluate(state).get("val_loss"),
    }


class _Batches:
    """The batch of every step, and the validation batch."""

    def __init__(self, job: Job, settings: experiment.Model, bank: PromptBank) -> None:
        self._job, self._settings = job, settings
        self._bank, self._by_label = bank, settings.unet.conditioning == "label"
        null_text, null_mask = bank.null(settings.unet)
        texts = {"text": bank.text, "mask": bank.mask, "null_text": null_text, "null_mask": null_mask}
        self._arrays = parallel.replicate({k: jnp.asarray(v) for k, v in texts.items()})
        numbers = {"number": np.arange(len(sets.open_set_of(job.run, "train", settings.resolution)))}
        size, seed = settings.finetune.batch_size, job.experiment.seed
        self._stream = Stream(numbers, batch_size=size, seed=seed)
        val = np.arange(min(VAL_IMAGES, len(sets.open_set_of(job.run, "val", settings.resolution))))
        self.val = self._batch("val", val)

    def at(self, step: int) -> dict[str, Any]:
        """Returns the batch of a step, a pure function of it."""
        return self._batch("train", self._stream.batch(step)["number"])

    def _batch(self, split: str, numbers: np.ndarray) -> dict[str, Any]:
        run, settings = self._job.run, self._settings
        images, labels = sets.take_real(run, split, settings.resolution, numbers)
        batch: dict[str, Any] = {"image": images}
        if settings.low_res:
            low = self._job.experiment.cascade[settings.low_res].resolution
            batch["low_res"] = sets.take_real(run, split, low, numbers)[0]
        if self._by_label:
            return {**batch, "label": labels.astype(np.int32)}
        row = self._bank.rows(labels, numbers.astype(np.int32)).astype(np.int32)
        return {**batch, "row": row, "bank": self._arrays}


def identity(job: Job, role: str) -> dict[str, str]:
    """Returns what a checkpoint of this run must agree with: experiment, data and its role."""
    return {"experiment": job.experiment.digest(), "data": sets.data_hash(job.run), "role": role}


def checkpoint_dir(run: RunDir, settings: experiment.Experiment, name: str, step: int) -> pathlib.Path:
    """Returns the folder of a model's checkpoint; step 0 means the last."""
    part = experiment.cascade_order(settings.cascade).index(name)
    step = step or settings.cascade[name].finetune.num_steps
    return run.part_dir("finetune", part) / "checkpoints" / str(step)


def snapshot_dir(run: RunDir, settings: experiment.Experiment, name: str) -> pathlib.Path:
    """Returns the folder of a model's snapshots for post-hoc EMA."""
    return run.part_dir("finetune", experiment.cascade_order(settings.cascade).index(name)) / "ema"


def _show_samples(job: Job, name: str, weights: Weights, bank: PromptBank) -> None:
    """Writes one sample per class, as many as ten, to TensorBoard."""
    from synthaug.stages.generator import generate_tiles  # it imports this module

    images = generate_tiles(job, name, weights, bank)
    show_images(job, f"samples/{name}", images, job.experiment.cascade[name].finetune.num_steps)
