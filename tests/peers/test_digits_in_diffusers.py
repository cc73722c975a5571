"""A cascade fine-tuned on digits here, exported, and sampled by diffusers' IF pipelines: the same images."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from synthaug import experiment, rng
from synthaug.data.shards import open_set
from synthaug.diffusion.sampler import draw_noise
from synthaug.rundir import RunDir
from synthaug.stages.embed import read_bank
from tests import study

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

JOB = study.ROOT / "tests" / "deepfloyd.yaml"
COUNT = 12  # images that diffusers makes again


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    runs = tmp_path_factory.mktemp("runs")
    done = study.synthaug("run", str(JOB), "--runs", str(runs))
    assert done.returncode == 0, done.stderr
    return RunDir(runs / "deepfloyd")


@pytest.fixture(scope="module")
def settings() -> experiment.Experiment:
    return experiment.load(JOB)


@pytest.fixture(scope="module")
def bank(run: RunDir):
    return read_bank(run)


def exported(run: RunDir, part: int, folder: pathlib.Path) -> diffusers.UNet2DConditionModel:
    """Exports a model's last checkpoint by the command line and loads it in diffusers."""
    done = study.synthaug(
        "export-weights", str(run.part_dir("finetune", part) / "checkpoints" / "60"), str(folder)
    )
    assert done.returncode == 0, done.stderr
    return diffusers.UNet2DConditionModel.from_pretrained(folder).eval()


def scheduler(model: experiment.Model) -> diffusers.DDPMScheduler:
    """DeepFloyd IF's own scheduler with the settings of a model's sampler."""
    return diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=model.sampler.threshold_percentile / 100,
        sample_max_value=model.sampler.threshold_max,
    )


def our_noise(
    settings: experiment.Experiment, name: str, indices: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the noise on the low-resolution images, and that of the start and of every step."""
    import jax

    model = settings.cascade[name]
    keys = rng.for_images(rng.stream(rng.root(settings.seed), f"sample/{name}"), indices.astype(np.uint32))
    shape = (model.resolution, model.resolution, 3)
    steps = len(model.sampler.timesteps)
    augment = jax.vmap(lambda key: jax.random.normal(rng.stream(key, "augment_low_res"), shape))(keys)
    drawn = [np.asarray(draw_noise(keys, number, shape)) for number in (steps, *range(steps))]
    return np.asarray(augment), drawn


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(np.moveaxis(images, -1, 1), np.float32))


def feed(monkeypatch: pytest.MonkeyPatch, noise: list[np.ndarray]) -> None:
    """Makes diffusers draw the given noise, in its order, instead of its own."""
    from diffusers.pipelines.deepfloyd_if import pipeline_if, pipeline_if_superresolution
    from diffusers.schedulers import scheduling_ddpm

    left: Iterator[np.ndarray] = iter(noise)
    for module in (pipeline_if, pipeline_if_superresolution, scheduling_ddpm):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: nchw(next(left)))


def assert_same_images(ours: np.ndarray, theirs: torch.Tensor) -> None:
    """Compares u8 images; a rounding error may tip a value over to the next level."""
    pixels = np.clip(np.round((np.moveaxis(theirs.numpy(), 1, -1) + 1) * 127.5), 0, 255)
    apart = np.abs(pixels - ours.astype(np.float32))
    assert ours.std() > 10  # not a blank image
    assert apart.max() <= 1, apart.max()
    assert (apart > 0).mean() < 0.01


def test_base_model_gives_the_same_images_in_diffusers(run, settings, bank, tmp_path, monkeypatch) -> None:
    images, labels = open_set(run.set_dir("generated", 4), 1).load()
    indices = np.arange(COUNT)
    rows = bank.rows(labels[:COUNT], indices)
    unet, steps = exported(run, 0, tmp_path / "base"), scheduler(settings.cascade["base4"])
    pipe = diffusers.IFPipeline(None, None, unet, steps, None, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    feed(monkeypatch, our_noise(settings, "base4", indices)[1])
    null, _ = bank.null(settings.cascade["base4"].unet)
    theirs = pipe(
        prompt_embeds=torch.from_numpy(bank.text[rows]),
        negative_prompt_embeds=torch.from_numpy(np.array(np.broadcast_to(null, bank.text[rows].shape))),
        timesteps=list(settings.cascade["base4"].sampler.timesteps),
        guidance_scale=1.5,
        output_type="pt",
    ).images
    assert_same_images(images[:COUNT], theirs)


def test_enlarger_gives_the_same_images_in_diffusers(run, settings, bank, tmp_path, monkeypatch) -> None:
    low_res, _ = open_set(run.set_dir("generated", 4), 1).load()
    images, labels = open_set(run.set_dir("generated", 8), 1).load()
    indices = np.arange(COUNT)
    rows = bank.rows(labels[:COUNT], indices)
    model = settings.cascade["sr8"]
    noising = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    unet = exported(run, 1, tmp_path / "sr")
    pipe = diffusers.IFSuperResolutionPipeline(
        None, None, unet, scheduler(model), noising, None, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    augment, (start, *steps) = our_noise(settings, "sr8", indices)
    feed(monkeypatch, [start, augment, *steps])
    null, _ = bank.null(model.unet)
    theirs = pipe(
        image=nchw(low_res[:COUNT].astype(np.float32) / 127.5 - 1),
        noise_level=250,
        prompt_embeds=torch.from_numpy(bank.text[rows]),
        negative_prompt_embeds=torch.from_numpy(np.array(np.broadcast_to(null, bank.text[rows].shape))),
        timesteps=list(model.sampler.timesteps),
        guidance_scale=1.5,
        output_type="pt",
    ).images
    assert_same_images(images[:COUNT], theirs)


def test_exported_folder_can_be_imported_again_bit_for_bit(run, tmp_path) -> None:
    exported(run, 1, tmp_path / "sr")
    again = study.synthaug("import", "deepfloyd-if", str(tmp_path / "sr"), str(tmp_path / "checkpoint"))
    assert again.returncode == 0, again.stderr
    done = study.synthaug("export-weights", str(tmp_path / "checkpoint"), str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "sr" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    config = json.loads((tmp_path / "sr" / "config.json").read_text())
    assert config == json.loads((tmp_path / "back" / "config.json").read_text())
