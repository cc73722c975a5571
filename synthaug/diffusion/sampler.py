"""Samplers: from noise to images in one scan, each solver a function of one step."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from synthaug import rng
from synthaug.diffusion import prediction
from synthaug.diffusion.guidance import Denoiser, guide
from synthaug.diffusion.prediction import Denoise
from synthaug.diffusion.schedule import StepGrid, signal_noise
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Sampler


class Knobs(NamedTuple):
    """The settings that are numbers to the compiled sampler, so that a sweep over them compiles once."""

    guidance_weight: jax.Array  # f32[]
    logvar_mix: jax.Array  # f32[]
    eta: jax.Array  # f32[]


class Step(NamedTuple):
    """One row of the scan."""

    number: jax.Array  # i32[], 0 for the first step, from noise
    time: jax.Array  # f32[], what the network is told
    logsnr_t: jax.Array  # f32[]
    logsnr_s: jax.Array  # f32[]
    extrapolation: jax.Array  # f32[], of DPM-Solver++


def knobs(settings: Sampler) -> Knobs:
    """Returns the numbers of a setting; a learned logvar_mix is no number and stands as 0, unread."""
    mix = 0.0 if settings.logvar_mix == "learned" else settings.logvar_mix
    return Knobs(*(jnp.float32(value) for value in (settings.guidance_weight, mix, settings.eta)))


def static_part(settings: Sampler) -> Sampler:
    """Returns the settings with every number that `Knobs` or the grid carries replaced by one fixed value.

    What is equal here shares a compilation: hand it to `sample` as the static argument, and `knobs` of the
    full settings as the traced one. Guidance or DDIM noise that is off stays off.

    Example:
        >>> one, two = Sampler(guidance_weight=1.25, logvar_mix=0.3), Sampler(guidance_weight=5.0)
        >>> static_part(one) == static_part(two) != static_part(Sampler(guidance_weight=1.0))
        True
    """
    return dataclasses.replace(
        settings,
        guidance_weight=1.0 if settings.guidance_weight == 1 else 2.0,
        logvar_mix="learned" if settings.logvar_mix == "learned" else 0.0,
        eta=1.0 if settings.eta else 0.0,
        num_sampling_steps=1,
        checkpoint=0,
        aug_level=0.0,
    )


def sample(
    denoise: Denoise,
    settings: Sampler,
    process: Diffusion,
    grid: StepGrid,
    knobs: Knobs,
    keys: jax.Array,
    cond: Any,
    null_cond: Any,
    shape: tuple[int, int, int],
) -> jax.Array:
    """Returns images f32[B,H,W,C], within [-1, 1] unless thresholding is off.

    Args:
        denoise: the network.
        settings: what is fixed at compile time: solver, thresholding, guidance on (weight != 1) or off (one
            pass per step, `null_cond` unread), learned variance or not, DDIM noise (eta > 0) or none.
        process: the forward process the network was trained with.
        grid: the steps, of `schedule.step_grid`.
        knobs: the numbers, of `knobs(settings)`.
        keys: key[B], one per image; an image depends on its own key and conditioning only.
        cond: tree of [B,...], conditioning.
        null_cond: the same tree without the text.
        shape: (H, W, C).
    """
    network = _network(denoise, settings, knobs, cond, null_cond, shape[-1])
    noisy = settings.solver == "ddpm" or (settings.solver == "ddim" and settings.eta > 0)

    def step(state: tuple[jax.Array, jax.Array], at: Step) -> tuple[tuple[jax.Array, jax.Array], None]:
        z_t, x_before = state
        output = network(z_t, jnp.broadcast_to(at.time, z_t.shape[:1]))
        x = prediction.to_x(process.prediction, z_t, at.logsnr_t, output[..., : shape[-1]])
        x = threshold(x, settings)
        learned = (output[..., shape[-1] :] + 1) / 2
        noise = draw_noise(keys, at.number, shape) if noisy else jnp.zeros_like(z_t)
        return (_advance(settings, knobs, at, z_t, x, x_before, learned, noise), x), None

    num_steps = grid.time.shape[0]
    z_1 = draw_noise(keys, num_steps, shape)
    steps = Step(jnp.arange(num_steps), *grid, extrapolation(grid))
    (images, _), _ = jax.lax.scan(step, (z_1, jnp.zeros_like(z_1)), steps)
    return images


def _network(
    denoise: Denoise, settings: Sampler, knobs: Knobs, cond: Any, null_cond: Any, channels: int
) -> Denoiser:
    """Returns the network with its conditioning bound, guided unless the guidance weight is 1."""
    if settings.guidance_weight == 1:
        return lambda z_t, time: denoise(z_t, time, cond)
    return guide(denoise, cond, null_cond, knobs.guidance_weight, channels)


def _advance(
    settings: Sampler,
    knobs: Knobs,
    at: Step,
    z_t: jax.Array,
    x: jax.Array,
    x_before: jax.Array,
    learned: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Returns z_s, f32[B,H,W,C], by the chosen solver."""
    if settings.solver == "ddpm":
        mix = learned if settings.logvar_mix == "learned" else knobs.logvar_mix
        return ddpm_step(z_t, x, at.logsnr_t, at.logsnr_s, mix, noise)
    if settings.solver == "ddim":
        return ddim_step(z_t, x, at.logsnr_t, at.logsnr_s, knobs.eta, noise)
    if settings.solver == "dpmpp_2m":
        return dpmpp_2m_step(z_t, x, x_before, at.logsnr_t, at.logsnr_s, at.extrapolation)
    raise ConfigError(f"sampler.solver = {settings.solver!r}; expected ddpm, ddim or dpmpp_2m; choose one.")


def draw_noise(keys: jax.Array, number: jax.Array | int, shape: tuple[int, int, int]) -> jax.Array:
    """Returns f32[B,H,W,C] standard normal noise, each image's from its own key and the step's number."""
    return jax.vmap(lambda key: jax.random.normal(rng.at(key, number), shape))(keys)


def ddpm_step(
    z_t: jax.Array,
    x: jax.Array,
    logsnr_t: jax.Array,
    logsnr_s: jax.Array,
    mix: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Returns z_s of the ancestral sampler (Ho et al. 2020; Imagen, Saharia et al. 2022, eq. 6).

    z_s = mu~ + sqrt(sigma~²_{s|t}^(1-mix) sigma²_{t|s}^mix) noise; no noise where s is the clean image.

    Args:
        z_t: f32[B,H,W,C].
        x: f32[B,H,W,C], predicted clean image.
        logsnr_t: f32[].
        logsnr_s: f32[].
        mix: f32[] or f32[B,H,W,C], log-variance coefficient: 0 = posterior variance, 1 = beta.
        noise: f32[B,H,W,C].
    """
    lower, upper = prediction.logvar_bounds(logsnr_t, logsnr_s)
    clean = jnp.isneginf(lower)
    # mixed with -inf the log variance would be NaN at mix = 1
    logvar = (1 - mix) * jnp.where(clean, upper, lower) + mix * upper
    std = jnp.where(clean, 0.0, jnp.exp(0.5 * logvar))
    return prediction.posterior_mean(z_t, x, logsnr_t, logsnr_s) + std * noise


def ddim_step(
    z_t: jax.Array,
    x: jax.Array,
    logsnr_t: jax.Array,
    logsnr_s: jax.Array,
    eta: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Returns z_s of DDIM (Song et al. 2021, eq. 12 and 16).

    z_s = alpha_s x + sqrt(sigma_s² - eta² sigma~²_{s|t}) eps + eta sigma~_{s|t} noise; eta = 0 is
    deterministic, eta = 1 the ancestral sampler with mix = 0. eps is that of the thresholded x.
    """
    alpha_s, sigma_s = signal_noise(logsnr_s)
    eps = prediction.to_eps("x", z_t, logsnr_t, x)
    share = -jnp.expm1(logsnr_t - logsnr_s)  # sigma~²_{s|t} / sigma_s²
    kept, new = jnp.sqrt(1 - jnp.square(eta) * share), eta * jnp.sqrt(share)
    return alpha_s * x + sigma_s * (kept * eps + new * noise)


def dpmpp_2m_step(
    z_t: jax.Array,
    x: jax.Array,
    x_before: jax.Array,
    logsnr_t: jax.Array,
    logsnr_s: jax.Array,
    extrapolation: jax.Array,
) -> jax.Array:
    """Returns z_s of DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, Algorithm 2).

    z_s = (sigma_s / sigma_t) z_t - alpha_s (e^-h - 1) D with D = x + extrapolation (x - x_before) and h the
    step in lambda = log(alpha / sigma) = logsnr / 2.
    """
    _, sigma_t = signal_noise(logsnr_t)
    alpha_s, sigma_s = signal_noise(logsnr_s)
    slope = x + extrapolation * (x - x_before)
    return (sigma_s / sigma_t) * z_t - alpha_s * jnp.expm1((logsnr_t - logsnr_s) / 2) * slope


def extrapolation(grid: StepGrid) -> jax.Array:
    """Returns f32[T], 1/(2r) of DPM-Solver++ 2M with r = (step before) / (this step), both in log-SNR.

    0, that is first order, in the first step, which has no step before, and in the last, which is
    infinitely long.
    """
    length = grid.logsnr_s - grid.logsnr_t
    weights = length[1:] / (2 * length[:-1])
    return jnp.concatenate([jnp.zeros(1), jnp.where(jnp.isinf(weights), 0.0, weights)])


def threshold(x: jax.Array, settings: Sampler) -> jax.Array:
    """Returns the predicted image brought back into [-1, 1] (Imagen, Saharia et al. 2022, sec. 2.3).

    static: clip. dynamic: clip to [-s, s] and divide by s, with s the percentile of |x| in each image,
    at least 1 and at most `threshold_max`; beyond that the quotient is clipped.
    """
    if settings.threshold == "none":
        return x
    if settings.threshold == "dynamic":
        size = jnp.abs(x).reshape(x.shape[0], -1)  # f32[B,HWC]
        s = jnp.percentile(size, settings.threshold_percentile, axis=1)
        s = jnp.clip(s, 1.0, settings.threshold_max)[:, None, None, None]
        x = x / s
    return jnp.clip(x, -1.0, 1.0)
