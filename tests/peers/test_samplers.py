"""Whole trajectories against diffusers' schedulers, with one denoiser and the same noise on both sides."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug import rng
from synthaug.diffusion import cascade, sampler, schedule
from synthaug.diffusion.spacing import SECTIONS, named_timesteps
from synthaug.experiment import Diffusion, Sampler

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")
torch.set_num_threads(2)

BATCH, SHAPE = 3, (6, 5, 3)
SIZE = int(np.prod(SHAPE))
KEYS = rng.for_images(rng.root(1), jnp.arange(BATCH))
DRAWS = np.random.default_rng(0)
WEIGHTS = [DRAWS.standard_normal(s) / np.sqrt(s[0]) for s in ((SIZE, 64), (64, 64), (64, 2 * SIZE))]
LEADING = tuple(range(980, -1, -20))  # diffusers' spacing of 50 steps
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
THRESHOLDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # DeepFloyd IF's, stage I
    "dynamic": ({"threshold": "dynamic", "threshold_percentile": 95, "threshold_max": 1.5},
                {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}),
    "static": ({"threshold": "static"}, {"clip_sample": True}),
    "none": ({"threshold": "none"}, {"clip_sample": False}),
}  # fmt: skip
VARIANCES: dict[str, Any] = {"fixed_small": 0.0, "fixed_large": 1.0, "learned_range": "learned"}
CLOSE = 1e-5  # of the largest value, after 50 steps

run = jax.jit(sampler.sample, static_argnums=(0, 1, 2, 8))
draw = jax.jit(sampler.draw_noise, static_argnums=2)


def denoise(z_t: jax.Array, time: jax.Array, cond: tuple[()]) -> jax.Array:
    """A random network: f32[B,H,W,2C]. Its output grows with z_t by less than one, as a trained one's."""
    first, second, third = (jnp.asarray(w, jnp.float32) for w in WEIGHTS)
    z = z_t.reshape(BATCH, -1)
    h = jnp.tanh(jnp.tanh(z @ first + jnp.sin(time / 150)[:, None]) @ second) @ third
    eps, variance = 0.7 * z + 0.5 * h[:, :SIZE], jnp.tanh(h[:, SIZE:])
    return jnp.concatenate([a.reshape(z_t.shape) for a in (eps, variance)], axis=-1)


def their_denoise(z_t: torch.Tensor, time: int) -> torch.Tensor:
    """The same network: [B,2C,H,W]."""
    first, second, third = (torch.tensor(w, dtype=z_t.dtype) for w in WEIGHTS)
    z = z_t.permute(0, 2, 3, 1).reshape(BATCH, -1)
    h = torch.tanh(torch.tanh(z @ first + float(np.sin(time / 150))) @ second) @ third
    eps, variance = 0.7 * z + 0.5 * h[:, :SIZE], torch.tanh(h[:, SIZE:])
    return torch.cat([a.reshape(BATCH, *SHAPE).permute(0, 3, 1, 2) for a in (eps, variance)], dim=1)


def ours(settings: Sampler, process: Diffusion, timesteps: tuple[int, ...]) -> np.ndarray:
    grid = schedule.step_grid(process, len(timesteps), timesteps)
    static, numbers = sampler.static_part(settings), sampler.knobs(settings)
    return np.asarray(run(denoise, static, process, grid, numbers, KEYS, (), (), SHAPE))


def theirs(scheduler: Any, step: Any, timesteps: tuple[int, ...]) -> np.ndarray:
    """Samples with a scheduler of diffusers, fed with our noise: step(output, t, z, noise) -> z."""
    assert tuple(scheduler.timesteps.tolist()) == timesteps
    numbers = (len(timesteps), *range(len(timesteps)))
    start, *noises = (torch.tensor(np.asarray(draw(KEYS, n, SHAPE))).permute(0, 3, 1, 2) for n in numbers)
    z = start
    for t, noise in zip(timesteps, noises, strict=True):
        z = step(their_denoise(z, t), t, z, noise)
    return z.permute(0, 2, 3, 1).numpy()


def ddpm(monkeypatch: pytest.MonkeyPatch, timesteps: tuple[int, ...], **settings: Any) -> np.ndarray:
    scheduler = diffusers.DDPMScheduler(1000, **settings)
    if timesteps == LEADING:
        scheduler.set_timesteps(50)
    else:
        scheduler.set_timesteps(timesteps=list(timesteps))
        # In float32 its 1 - abar_t / abar_s of a step by one is wrong by 1e-3; these are its own tables.
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.one = scheduler.one.double()
    learned = settings["variance_type"] == "learned_range"

    def step(output: torch.Tensor, t: int, z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(diffusers.schedulers.scheduling_ddpm, "randn_tensor", lambda *_, **__: noise)
        return scheduler.step(output if learned else output[:, :3], t, z).prev_sample

    return theirs(scheduler, step, timesteps)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert expected.std() > 0.2  # a trajectory that went somewhere
    assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("variance", "threshold"),
    [*((v, "dynamic") for v in VARIANCES), ("learned_range", "static"), ("fixed_small", "none")],
)
def test_ddpm(variance: str, threshold: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = THRESHOLDS[threshold]
    settings = Sampler(logvar_mix=VARIANCES[variance], **mine)
    process = Diffusion(schedule=name, num_timesteps=1000, learned_variance=True)
    expected = ddpm(monkeypatch, LEADING, beta_schedule=SCHEDULES[name], variance_type=variance, **other)
    assert_close(ours(settings, process, LEADING), expected)


@pytest.mark.parametrize("kind", ["v", "x"])
def test_ddpm_of_other_predictions(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Diffusion(num_timesteps=1000, prediction=kind)
    expected = ddpm(
        monkeypatch,
        LEADING,
        beta_schedule="squaredcos_cap_v2",
        variance_type="fixed_small",
        prediction_type=PREDICTIONS[kind],
    )
    assert_close(ours(Sampler(logvar_mix=0.0), process, LEADING), expected)


def test_ddpm_at_named_timesteps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The uneven grid that DeepFloyd IF samples with."""
    timesteps = named_timesteps("smart50")
    mine, other = THRESHOLDS["dynamic"]
    process = Diffusion(num_timesteps=1000, learned_variance=True)
    expected = ddpm(
        monkeypatch, timesteps, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", **other
    )
    assert_close(ours(Sampler(logvar_mix="learned", **mine), process, timesteps), expected)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("eta", "threshold"), [(0.0, "dynamic"), (1.0, "dynamic"), (0.5, "static"), (0.0, "none"), (1.0, "none")]
)
def test_ddim(eta: float, threshold: str, name: str) -> None:
    """Ours steps along the eps of the thresholded image; diffusers does where it is told to."""
    mine, other = THRESHOLDS[threshold]
    process = Diffusion(schedule=name, num_timesteps=1000, learned_variance=True)
    scheduler = diffusers.DDIMScheduler(1000, beta_schedule=SCHEDULES[name], **other)
    scheduler.set_timesteps(50)

    def step(output: torch.Tensor, t: int, z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        clipped, drawn = threshold != "none", noise if eta else None
        return scheduler.step(
            output[:, :3], t, z, eta=eta, use_clipped_model_output=clipped, variance_noise=drawn
        ).prev_sample

    settings = Sampler(solver="ddim", eta=eta, **mine)
    assert_close(ours(settings, process, LEADING), theirs(scheduler, step, LEADING))


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "fast27"])
def test_named_timesteps_are_those_of_diffusers(name: str) -> None:
    from diffusers.pipelines.deepfloyd_if import timesteps

    assert list(named_timesteps(name)) == list(getattr(timesteps, f"{name}_timesteps"))


@pytest.mark.parametrize(("how", "aligned"), [("half_pixel", False), ("align_corners", True)])
@pytest.mark.parametrize("size", [(20, 28), (13, 9), (5, 7)])
def test_enlarging(how: str, aligned: bool, size: tuple[int, int]) -> None:
    images = np.random.default_rng(2).uniform(-1, 1, (2, 5, 7, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2), size, mode="bilinear", align_corners=aligned
    )
    found = cascade.enlarge(jnp.asarray(images), size, how)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=1e-6)


def test_noise_on_the_low_resolution_image_is_that_of_deepfloyd_if() -> None:
    """Its second pipeline noises the enlarged image with a scheduler of its own at an integer level."""
    images = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (BATCH, *SHAPE)), jnp.float32)
    levels = jnp.array([0.0, 0.25, 0.999])
    augment = jax.jit(cascade.augment_low_res, static_argnums=2)
    noised, aug_time = augment(images, levels, "discrete", KEYS)
    draws = jax.vmap(lambda key: jax.random.normal(rng.stream(key, "augment_low_res"), SHAPE))(KEYS)
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    expected = scheduler.add_noise(
        torch.tensor(np.asarray(images)), torch.tensor(np.asarray(draws)), torch.tensor([0, 250, 999])
    )
    assert aug_time.tolist() == [0, 250, 999]
    np.testing.assert_allclose(noised, expected, atol=1e-5)
