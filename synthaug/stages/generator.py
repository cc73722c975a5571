"""A finetuned model as a function of image numbers: image i looks the same in every batch and job."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from synthaug import config, experiment, parallel, rng
from synthaug.diffusion.sampler import knobs, static_part
from synthaug.models.functional import Weights, hash_weights
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.embed import PromptBank, read_bank
from synthaug.stages.finetune import checkpoint_dir, snapshot_dir
from synthaug.stages.job import Job
from synthaug.stages.sampling import sampler
from synthaug.train import posthoc
from synthaug.train.checkpoint import load_weights


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Images to generate; the number alone decides the noise of an image."""

    index: np.ndarray  # i64[N], image numbers
    class_index: np.ndarray  # i32[N]
    prompt_index: np.ndarray  # i64[N], into the prompts of the class, modulo their number
    low_res: np.ndarray | None = None  # u8[N,h,w,C], images to enlarge; None for the base model
    start: np.ndarray | None = None  # u8[N,H,W,C], images to edit; None to start from noise

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: np.ndarray | slice) -> Wanted:
        """Returns some of them."""
        arrays = {name: None if array is None else array[rows] for name, array in vars(self).items()}
        return Wanted(**arrays)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Generator:
    """One model of the cascade with its weights and sampling settings."""

    name: str
    network: experiment.Network
    model: experiment.Model
    settings: experiment.Sampler
    weights: Weights
    weights_sha256: str
    bank: PromptBank
    seed: int
    batch_size: int
    weaker: Weights | None = None  # the weights that autoguidance leads away from
    edit_level: float = 0.0  # time at which the images to edit start, 1 = noise; 0 = all start from noise

    @property
    def settings_sha256(self) -> str:
        """Hash of everything but the weights that decides an image."""
        text = f"{self.name}\n{self.seed}\n{config.render(self.settings)}{config.render(self.model)}"
        edit = f"edit_level: {self.edit_level}\n" if self.edit_level else ""
        return hashlib.sha256((text + edit).encode()).hexdigest()

    @property
    def num_steps(self) -> int:
        """Steps of the whole sampler; images to edit skip those before `edit_level`."""
        return len(self.settings.timesteps) or self.settings.num_sampling_steps

    def generate(self, wanted: Wanted) -> np.ndarray:
        """Returns images u8[N,H,W,C] of any number, made in batches of one fixed size."""
        return np.concatenate([self._batch(part) for part in self._parts(wanted)])

    def generate_watched(self, job: Job, wanted: Wanted, *, done: int, total: int) -> np.ndarray:
        """Returns what `generate` does; after each batch the job reports progress and may be stopped.

        `done` of `total` images were made before, as far as the job's progress is concerned.
        """
        batches = []
        for part in self._parts(wanted):
            job.check_stop()
            with job.clock.measure("step"):
                batches.append(self._batch(part))
            done += len(batches[-1])
            job.progress(done, total, "images")
        return np.concatenate(batches)

    def _parts(self, wanted: Wanted) -> Iterator[Wanted]:
        for start in range(0, len(wanted), self.batch_size):
            yield wanted.take(slice(start, start + self.batch_size))

    def _batch(self, wanted: Wanted) -> np.ndarray:
        count = len(wanted)
        # A last batch that is short is filled up: one shape, one compilation, the same sums.
        full = wanted.take(np.resize(np.arange(count), self.batch_size))
        batch, null = {"index": full.index.astype(np.uint32)}, None
        if self.network.text_width:
            rows = self.bank.rows(full.class_index, full.prompt_index)
            batch |= {"text": self.bank.text[rows], "text_mask": self.bank.mask[rows]}
            null = parallel.replicate(self.bank.null(self.network.unet))
        else:
            batch["label"] = full.class_index.astype(np.int32)
        for name, images in (("low_res", full.low_res), ("start", full.start)):
            if images is not None:
                batch[name] = images
        run = sampler(
            self.network,
            self.model.diffusion,
            self.model.compute,
            static_part(self.settings),
            self.num_steps,
            1.0 if full.start is None else self.edit_level,
        )
        level = jnp.float32(self.settings.aug_level)
        key = rng.stream(rng.root(self.seed), f"sample/{self.name}")
        numbers = knobs(self.settings)
        images = run(self.weights, self.weaker, numbers, level, key, parallel.place(batch), null)
        return np.asarray(images)[:count]


def load_generator(
    run: RunDir,
    settings: experiment.Experiment,
    name: str,
    sampling: experiment.Sampler,
    *,
    edit_level: float = 0.0,
) -> Generator:
    """Returns a cascade model ready to sample with the given settings."""
    length, snapshots = sampling.ema_length, snapshot_dir(run, settings, name)
    weights, sha256 = _load(checkpoint_dir(run, settings, name, sampling.checkpoint), snapshots, length)
    weaker = None
    if sampling.guide_checkpoint and sampling.guidance_weight != 1:
        weaker, other = _load(
            checkpoint_dir(run, settings, name, sampling.guide_checkpoint), snapshots, length
        )
        sha256 = hashlib.sha256(f"{sha256}\n{other}".encode()).hexdigest()
    return Generator(
        name=name,
        network=experiment.network_of(settings, name),
        model=settings.cascade[name],
        settings=sampling,
        weights=weights,
        weights_sha256=sha256,
        bank=read_bank(run),
        seed=settings.seed,
        batch_size=settings.sample.batch_size,
        weaker=weaker,
        edit_level=edit_level,
    )


# The points of a sweep read the same few checkpoints.
@functools.lru_cache(maxsize=2)
def _load(directory: pathlib.Path, snapshots: pathlib.Path, ema_length: float) -> tuple[Weights, str]:
    """Returns a checkpoint's averaged weights and their hash; with a length, the post-hoc average there."""
    if ema_length:
        params = posthoc.reconstruct(snapshots, int(directory.name), ema_length)
        weights: Weights = {"params": params, "stats": {}}
    else:
        weights, _ = load_weights(directory)
    return parallel.spread(weights), hash_weights(weights)


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
        network=experiment.network_of(settings, name),
        model=model,
        # neither other checkpoints nor other averages are at hand while a model is trained
        settings=_without_files(model.sampler, bool(model.unet.conditioning == "text")),
        weights=weights,
        weights_sha256="",
        bank=bank,
        seed=settings.seed,
        batch_size=settings.sample.batch_size,
    )
    low_res = None
    if model.low_res:
        images, labels = sets.load_real(job.run, "val", settings.cascade[model.low_res].resolution)
        low_res = images[[int(np.argmax(labels == k)) for k in range(count)]]
    classes = np.arange(count, dtype=np.int32)
    return generator.generate(Wanted(np.arange(count), classes, np.zeros(count, np.int64), low_res))


def _without_files(settings: experiment.Sampler, can_drop_text: bool) -> experiment.Sampler:
    """Returns the settings without autoguidance, which needs another checkpoint."""
    if not settings.guide_checkpoint:
        return settings
    weight = settings.guidance_weight if can_drop_text else 1.0
    return dataclasses.replace(settings, guide_checkpoint=0, guidance_weight=weight)
