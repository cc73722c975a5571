"""A finetuned model as a function of image numbers: image i looks the same in every batch and job."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthaug import config, experiment, parallel, rng
from synthaug.data.images import to_float
from synthaug.diffusion.cascade import augment_low_res, enlarge
from synthaug.diffusion.sampler import Knobs, knobs, sample, static_part
from synthaug.diffusion.schedule import step_grid
from synthaug.models.functional import Weights, hash_weights
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.embed import PromptBank, read_bank
from synthaug.stages.finetune import build, checkpoint_dir
from synthaug.stages.job import Job
from synthaug.train.checkpoint import load_weights


@dataclasses.dataclass(frozen=True)
class Generator:
    """One model of the cascade with its weights and sampling settings."""

    name: str
    model: experiment.Model
    settings: experiment.Sampler
    weights: Weights
    weights_sha256: str
    bank: PromptBank
    channels: int
    seed: int
    batch_size: int

    @property
    def settings_sha256(self) -> str:
        """Hash of everything but the weights that decides an image."""
        text = f"{self.name}\n{self.seed}\n{config.render(self.settings)}{config.render(self.model)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def generate(self, indices: np.ndarray, rows: np.ndarray, low_res: np.ndarray | None) -> np.ndarray:
        """Returns images of any number, made in batches of one fixed size.

        Args:
            indices: i64[N], image numbers; they alone decide the noise.
            rows: i32[N], rows of the prompt bank.
            low_res: u8[N,h,w,C], the images to enlarge; None for the base model.

        Returns:
            u8[N,H,W,C].
        """
        batches = []
        for start in range(0, len(indices), self.batch_size):
            part = slice(start, start + self.batch_size)
            batches.append(self._batch(indices[part], rows[part], None if low_res is None else low_res[part]))
        return np.concatenate(batches)

    def generate_watched(
        self,
        job: Job,
        indices: np.ndarray,
        rows: np.ndarray,
        low_res: np.ndarray | None,
        *,
        done: int,
        total: int,
    ) -> np.ndarray:
        """Returns what `generate` does; after each batch the job reports progress and may be stopped.

        `done` of `total` images were made before, as far as the job's progress is concerned.
        """
        batches = []
        for start in range(0, len(indices), self.batch_size):
            job.check_stop()
            part = slice(start, start + self.batch_size)
            with job.clock.measure("step"):
                batches.append(
                    self._batch(indices[part], rows[part], None if low_res is None else low_res[part])
                )
            done += len(batches[-1])
            job.progress(done, total, "images")
        return np.concatenate(batches)

    def _batch(self, indices: np.ndarray, rows: np.ndarray, low_res: np.ndarray | None) -> np.ndarray:
        count = len(indices)
        # A last batch that is short is filled up: one shape, one compilation, the same sums.
        fill = np.resize(np.arange(count), self.batch_size)
        key = rng.stream(rng.root(self.seed), f"sample/{self.name}")
        batch = {
            "index": indices[fill].astype(np.uint32),
            "text": self.bank.text[rows[fill]],
            "text_mask": self.bank.mask[rows[fill]],
        }
        if low_res is not None:
            batch["low_res"] = low_res[fill]
        steps = len(self.settings.timesteps) or self.settings.num_sampling_steps
        run = sampler(self.model, static_part(self.settings), steps, self.channels, self.bank.width)
        level = jnp.float32(self.settings.aug_level)
        images = run(self.weights, knobs(self.settings), level, key, parallel.place(batch))
        return np.asarray(images)[:count]


@functools.cache
def sampler(
    model: experiment.Model, static: experiment.Sampler, num_steps: int, channels: int, text_width: int
) -> Callable[..., jax.Array]:
    """Returns the compiled sampling loop; all points of a sweep with equal step counts share it."""
    unet = build(model, channels, text_width)
    grid = step_grid(model.diffusion, num_steps, static.timesteps or None)
    shape = (model.resolution, model.resolution, channels)

    @jax.jit
    def run(
        weights: Weights, numbers: Knobs, level: jax.Array, key: jax.Array, batch: dict[str, jax.Array]
    ) -> jax.Array:
        cond = {"text": batch["text"], "text_mask": batch["text_mask"]}
        keys = rng.for_images(key, batch["index"])
        if model.low_res:
            low_res = enlarge(to_float(batch["low_res"]), model.resolution)
            levels = jnp.full(batch["index"].shape, level)
            cond |= {"low_res": augment_low_res(low_res, levels, keys), "aug_level": levels}
        null_cond = {
            **cond,
            "text": jnp.zeros_like(cond["text"]),
            "text_mask": jnp.zeros_like(cond["text_mask"]),
        }

        def denoise(z_t: jax.Array, time: jax.Array, cond: dict[str, jax.Array]) -> jax.Array:
            return unet.apply(weights, z_t, time, cond)

        images = sample(denoise, static, model.diffusion, grid, numbers, keys, cond, null_cond, shape)
        return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)

    return run


def load_generator(
    run: RunDir, settings: experiment.Experiment, name: str, sampling: experiment.Sampler
) -> Generator:
    """Returns a cascade model ready to sample with the given settings."""
    weights, sha256 = _load(checkpoint_dir(run, settings, name, sampling.checkpoint))
    return Generator(
        name=name,
        model=settings.cascade[name],
        settings=sampling,
        weights=weights,
        weights_sha256=sha256,
        bank=read_bank(run),
        channels=settings.data.channels,
        seed=settings.seed,
        batch_size=settings.sample.batch_size,
    )


# The points of a sweep read the same few checkpoints.
@functools.lru_cache(maxsize=4)
def _load(directory: Any) -> tuple[Weights, str]:
    weights, _ = load_weights(directory)
    return parallel.replicate(weights), hash_weights(weights)


def chosen_sampler(
    run: RunDir, settings: experiment.Experiment, name: str, before: str | None = None
) -> experiment.Sampler:
    """Returns a model's sampling settings after the sweep's phases, or those before the phase `before`."""
    sampling = settings.cascade[name].sampler
    if "sweep" not in settings.stages:
        return sampling
    for phase_name, phase in settings.sweep.phases.items():
        if phase_name == before:
            break
        if phase.model == name:
            sampling = dataclasses.replace(sampling, **run.result(f"choose-{phase_name}")["settings"])
    return sampling


def generate_tiles(job: Job, name: str, weights: Weights, bank: PromptBank) -> np.ndarray:
    """Returns u8[N,H,W,C], one image of each of the first ten classes, for a look during training."""
    settings = job.experiment
    model = settings.cascade[name]
    count = min(10, len(bank.first))
    generator = Generator(
        name=name,
        model=model,
        settings=model.sampler,
        weights=weights,
        weights_sha256="",
        bank=bank,
        channels=settings.data.channels,
        seed=settings.seed,
        batch_size=settings.sample.batch_size,
    )
    low_res = None
    if model.low_res:
        images, labels = sets.load_real(job.run, "val", settings.cascade[model.low_res].resolution)
        low_res = images[[int(np.argmax(labels == k)) for k in range(count)]]
    return generator.generate(np.arange(count), bank.first[:count], low_res)
