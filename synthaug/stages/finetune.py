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

from synthaug import commit, experiment, parallel, rng
from synthaug.data.images import to_float
from synthaug.data.stream import Stream
from synthaug.diffusion.cascade import augment_low_res, enlarge
from synthaug.diffusion.loss import diffusion_loss
from synthaug.errors import CheckpointError
from synthaug.models.functional import Model, Weights, abstract, count_parameters, hash_weights
from synthaug.models.unet import build_unet
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.embed import PromptBank, read_bank
from synthaug.stages.job import Job
from synthaug.stages.training import show_images, train
from synthaug.train.checkpoint import load_weights
from synthaug.train.optimizer import build_optimizer, learning_rate
from synthaug.train.state import averaged, create, make_update

VAL_IMAGES = 256
"""Validation images in the loss that `best` goes by; noise and times are fixed by the seed."""


def build(model: experiment.Model, channels: int, text_width: int) -> Model:
    """Returns the U-Net of a cascade model."""
    return build_unet(
        model.unet,
        resolution=model.resolution,
        channels=channels,
        out_channels=channels * (2 if model.diffusion.learned_variance else 1),
        text_width=text_width,
        has_low_res=bool(model.low_res),
    )


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Compiled functions of one model's training."""

    init: Callable[[jax.Array], dict[str, Any]]
    adopt: Callable[[Weights], dict[str, Any]]
    update: Callable[..., Any]
    validate: Callable[..., jax.Array]
    unet: Model


@functools.cache
def trainer(model: experiment.Model, channels: int, text_width: int) -> Trainer:
    """Returns the compiled training functions; equal settings share one compilation."""
    unet = build(model, channels, text_width)
    tx = build_optimizer(model.finetune.optimizer, model.finetune.num_steps)
    loss = functools.partial(_loss, unet, model)

    def loss_fn(params: Any, stats: Any, batch: dict[str, Any], key: jax.Array) -> Any:
        value, metrics = loss({"params": params, "stats": stats}, batch, key, True)
        return value, (metrics, stats)

    def adopt(weights: Weights) -> dict[str, Any]:
        return create(weights, tx, with_ema=model.finetune.ema_decay > 0)

    return Trainer(
        init=lambda key: adopt(unet.init(key)),
        adopt=adopt,
        update=make_update(loss_fn, tx, model.finetune.ema_decay),
        validate=jax.jit(lambda weights, batch, key: loss(weights, batch, key, False)[0]),
        unet=unet,
    )


def _loss(
    unet: Model, model: experiment.Model, weights: Weights, batch: dict[str, Any], key: jax.Array, train: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the diffusion loss of a batch and its parts.

    The text is dropped for a share of the examples, so that the same network also learns the
    unconditional prediction that guidance needs (null text: zeros, all masked; Imagen sec. 2.1).
    """
    keys = {name: rng.stream(key, name) for name in ("drop", "level", "augment", "diffusion", "dropout")}
    x = to_float(batch["image"])
    count = x.shape[0]
    drop = model.finetune.text_drop if train else 0.0
    keep = jax.random.bernoulli(keys["drop"], 1.0 - drop, (count,))  # bool[B]
    cond = {
        "text": jnp.where(keep[:, None, None], batch["bank"]["text"][batch["row"]], 0.0),
        "text_mask": batch["bank"]["mask"][batch["row"]] & keep[:, None],
    }
    if model.low_res:
        low_res = enlarge(to_float(batch["low_res"]), model.resolution)
        level = jax.random.uniform(keys["level"], (count,))
        noise_keys = rng.for_images(keys["augment"], jnp.arange(count))
        cond |= {"low_res": augment_low_res(low_res, level, noise_keys), "aug_level": level}

    def denoise(z_t: jax.Array, time: jax.Array, cond: dict[str, jax.Array]) -> jax.Array:
        return unet.apply(weights, z_t, time, cond, train=train, key=keys["dropout"] if train else None)

    return diffusion_loss(denoise, model.diffusion, x, cond, keys["diffusion"])


def run(job: Job) -> dict[str, Any]:
    """Trains the model named by the part."""
    name = job.args["model"]
    settings = job.experiment.cascade[name]
    bank = read_bank(job.run)
    channels = job.experiment.data.channels
    functions = trainer(settings, channels, bank.width)
    key = rng.stream(rng.root(job.experiment.seed), f"finetune/{name}")
    bank_arrays = parallel.replicate({"text": jnp.asarray(bank.text), "mask": jnp.asarray(bank.mask)})
    batch_at, val_batch = _batches(job, settings, bank, bank_arrays)

    def make_state() -> dict[str, Any]:
        if settings.finetune.init == "scratch":
            return parallel.replicate(functions.init(rng.stream(key, "init")))
        weights = _initial_weights(settings.finetune.init, functions.unet, name)
        return parallel.replicate(functions.adopt(weights))

    def evaluate(state: dict[str, Any]) -> dict[str, float]:
        loss = float(functions.validate(averaged(state), val_batch, rng.stream(key, "validate")))
        return {"val_loss": loss, "best": loss}

    state, checkpoint = train(
        job,
        make_state=make_state,
        update=functions.update,
        batch_at=batch_at,
        num_steps=settings.finetune.num_steps,
        saving=settings.finetune.saving,
        key=key,
        identity={**identity(job, f"finetune/{name}"), "init": _init_digest(settings.finetune.init)},
        evaluate=evaluate,
        learning_rate=learning_rate(settings.finetune.optimizer, settings.finetune.num_steps),
    )
    weights = averaged(state)
    _show_samples(job, name, weights, bank)
    return {
        "model": name,
        "steps": int(state["step"]),
        "parameters": count_parameters(weights["params"]),
        "weights_sha256": hash_weights(weights),
        "checkpoint": str(checkpoint.relative_to(job.run.path)),
        "val_loss": evaluate(state)["val_loss"],
    }


def _batches(
    job: Job, settings: experiment.Model, bank: PromptBank, bank_arrays: dict[str, jax.Array]
) -> tuple[Callable[[int], dict[str, Any]], dict[str, Any]]:
    """Returns the batch of a step, as a function of the step, and the fixed validation batch."""
    arrays = {split: _split_arrays(job, settings, split) for split in ("train", "val")}
    stream = Stream(arrays["train"], batch_size=settings.finetune.batch_size, seed=job.experiment.seed)

    def with_text(batch: dict[str, np.ndarray], numbers: np.ndarray) -> dict[str, Any]:
        row = bank.rows(batch["label"], numbers.astype(np.int32)).astype(np.int32)
        kept = {k: v for k, v in batch.items() if k in ("image", "low_res")}
        return {**kept, "row": row, "bank": bank_arrays}

    def batch_at(step: int) -> dict[str, Any]:
        batch = stream.batch(step)
        return with_text(batch, batch["index"])

    val = {k: v[:VAL_IMAGES] for k, v in arrays["val"].items()}
    return batch_at, with_text(val, np.arange(len(val["label"])))


def _split_arrays(job: Job, settings: experiment.Model, split: str) -> dict[str, np.ndarray]:
    images, labels = sets.load_real(job.run, split, settings.resolution)
    arrays = {"image": images, "label": labels}
    if settings.low_res:
        low = job.experiment.cascade[settings.low_res].resolution
        arrays["low_res"] = sets.load_real(job.run, split, low)[0]
    return arrays


def identity(job: Job, role: str) -> dict[str, str]:
    """Returns what a checkpoint of this run must agree with: experiment, data and its role."""
    return {"experiment": job.experiment.digest(), "data": sets.data_hash(job.run), "role": role}


def _init_digest(init: str) -> str:
    """Returns the hash of the record of the checkpoint that training starts from."""
    return init if init == "scratch" else commit.sha256_file(pathlib.Path(init) / "digest.json")


def _initial_weights(folder: str, unet: Model, name: str) -> Weights:
    """Returns the weights of another run's checkpoint, checked leaf by leaf against this model."""
    weights, _ = load_weights(pathlib.Path(folder))
    where = f"cascade.{name}.finetune.init = {folder}"
    expected = dict(jax.tree_util.tree_leaves_with_path(abstract(unet)["params"]))
    found = dict(jax.tree_util.tree_leaves_with_path(weights["params"]))
    for path in [*expected, *found]:
        leaf = jax.tree_util.keystr(path)
        if path not in found:
            raise CheckpointError(f"{where}: {leaf} is missing there; is it another model?")
        if path not in expected:
            raise CheckpointError(f"{where}: {leaf} is not in this model; is it another model?")
        if expected[path].shape != found[path].shape:
            raise CheckpointError(
                f"{where}: {leaf} is {found[path].shape} there, {expected[path].shape} expected; "
                "use a checkpoint of the same unet settings."
            )
    return weights


def checkpoint_dir(run: RunDir, settings: experiment.Experiment, name: str, step: int) -> pathlib.Path:
    """Returns the folder of a model's checkpoint; step 0 means the last."""
    part = experiment.cascade_order(settings.cascade).index(name)
    step = step or settings.cascade[name].finetune.num_steps
    return run.part_dir("finetune", part) / "checkpoints" / str(step)


def _show_samples(job: Job, name: str, weights: Weights, bank: PromptBank) -> None:
    """Writes one sample per class, as many as ten, to TensorBoard."""
    from synthaug.stages.generator import generate_tiles  # it imports this module

    images = generate_tiles(job, name, weights, bank)
    show_images(job, f"samples/{name}", images, job.experiment.cascade[name].finetune.num_steps)
