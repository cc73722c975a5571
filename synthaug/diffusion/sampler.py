"""Samplers: from noise to images in one scan over evaluations of the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from synthaug import rng
from synthaug.diffusion import prediction
from synthaug.diffusion.guidance import autoguide, guide
from synthaug.diffusion.prediction import Denoise
from synthaug.diffusion.schedule import TIME_SLACK, StepGrid
from synthaug.diffusion.solvers import ddim_step, ddpm_step, exponential_step, extrapolation
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Sampler

Network = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""network(z_t f32[B,H,W,C], time f32[B], fraction f32[]) -> f32[B,H,W,C or 2C], conditioned and guided"""


class Knobs(NamedTuple):
    """The settings that are numbers to the compiled sampler, so that a sweep over them compiles once."""

    guidance_weight: jax.Array  # f32[]
    guidance_min_t: jax.Array  # f32[]
    guidance_max_t: jax.Array  # f32[]
    logvar_mix: jax.Array  # f32[]
    eta: jax.Array  # f32[]


class Evaluation(NamedTuple):
    """One row of the scan: where the network is evaluated, and the step t -> s that it belongs to."""

    number: jax.Array  # i32[], of the step, 0 for the first, from noise
    fraction: jax.Array  # f32[], position in (0, 1], 1 is noise
    time: jax.Array  # f32[], what the network is told
    logsnr: jax.Array  # f32[], at which the network is evaluated: that of t, or of s in Heun's second half
    logsnr_t: jax.Array  # f32[]
    logsnr_s: jax.Array  # f32[]
    extrapolation: jax.Array  # f32[], of DPM-Solver++
    second: jax.Array  # bool[], Heun's second half


class State(NamedTuple):
    """What the scan carries."""

    z: jax.Array  # f32[B,H,W,C], where the network is evaluated next
    z_t: jax.Array  # f32[B,H,W,C], where the step began that is not finished, of Heun
    x: jax.Array  # f32[B,H,W,C], the image predicted last


def knobs(settings: Sampler) -> Knobs:
    """Returns the numbers of a setting; a learned logvar_mix is no number and stands as 0, unread."""
    mix = 0.0 if settings.logvar_mix == "learned" else settings.logvar_mix
    numbers = (
        settings.guidance_weight,
        settings.guidance_min_t,
        settings.guidance_max_t,
        mix,
        settings.eta,
    )
    return Knobs(*(jnp.float32(value) for value in numbers))


def static_part(settings: Sampler) -> Sampler:
    """Returns the settings with every number that `Knobs` or the grid carries replaced by one fixed value.

    What is equal here shares a compilation: hand it to `sample` as the static argument, and `knobs` of the
    full settings as the traced one. Guidance, its interval or DDIM noise that is off stays off.

    Example:
        >>> one, two = Sampler(guidance_weight=1.25, logvar_mix=0.3), Sampler(guidance_weight=5.0)
        >>> static_part(one) == static_part(two) != static_part(Sampler(guidance_weight=1.0))
        True
    """
    guided = settings.guidance_weight != 1
    limited = guided and (settings.guidance_min_t > 0 or settings.guidance_max_t < 1)
    return dataclasses.replace(
        settings,
        guidance_weight=2.0 if guided else 1.0,
        guidance_min_t=0.0,
        guidance_max_t=0.5 if limited else 1.0,
        guide_checkpoint=1 if guided and settings.guide_checkpoint else 0,
        logvar_mix="learned" if settings.logvar_mix == "learned" else 0.0,
        eta=1.0 if settings.eta else 0.0,
        num_sampling_steps=1,
        checkpoint=0,
        ema_length=0.0,
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
    *,
    weaker: Denoise | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """Returns images f32[B,H,W,C], in [-1, 1] unless thresholding is off.

    Args:
        denoise: the network.
        settings: what is fixed at compile time: solver, thresholding, guidance on (weight != 1) or off (one
            pass per step, `null_cond` unread) and whether only in an interval of time (outside of it one
            pass, too), learned variance or not, DDIM noise (eta > 0) or none.
        process: the forward process the network was trained with.
        grid: the steps, of `schedule.step_grid`.
        knobs: the numbers, of `knobs(settings)`.
        keys: key[B], one per image; an image depends on its own key and conditioning only.
        cond: tree of [B,...], conditioning.
        null_cond: what guidance leads away from: the same tree without the text.
        shape: (H, W, C).
        weaker: autoguidance: the network with weaker weights, and `null_cond` its full conditioning.
        start: f32[B,H,W,C] in [-1, 1], images that are noised to the first step's time and edited from
            there; None starts from noise.
    """
    network = _network(denoise, settings, knobs, cond, null_cond, shape[-1], weaker)
    noisy = settings.solver == "ddpm" or (settings.solver == "ddim" and settings.eta > 0)

    def evaluate(state: State, at: Evaluation) -> tuple[State, None]:
        output = network(state.z, jnp.broadcast_to(at.time, state.z.shape[:1]), at.fraction)
        x = prediction.to_x(process.prediction, state.z, at.logsnr, output[..., : shape[-1]])
        x = threshold(x, settings)
        learned = (output[..., shape[-1] :] + 1) / 2
        noise = draw_noise(keys, at.number, shape) if noisy else jnp.zeros_like(state.z)
        return _advance(settings, knobs, at, state, x, learned, noise), None

    rows = evaluations(grid, settings.solver)
    z = draw_noise(keys, grid.time.shape[0], shape)
    if start is not None:
        z = prediction.diffuse(start, z, grid.logsnr_t[0])
    state, _ = jax.lax.scan(evaluate, State(z, z, jnp.zeros_like(z)), rows)
    return state.z


def evaluations(grid: StepGrid, solver: str) -> Evaluation:
    """Returns the rows of the scan: one per step, with Heun two, but for the last step.

    Heun's last step ends in the clean image, where no network can be asked (EDM, Karras et al. 2022, alg. 1).
    """
    count = grid.time.shape[0]
    first = Evaluation(
        number=jnp.arange(count),
        fraction=grid.fraction,
        time=grid.time,
        logsnr=grid.logsnr_t,
        logsnr_t=grid.logsnr_t,
        logsnr_s=grid.logsnr_s,
        extrapolation=extrapolation(grid),
        second=jnp.zeros(count, bool),
    )
    if solver != "heun":
        return first
    before_last = jax.tree.map(lambda a: a[:-1], first)
    second = before_last._replace(
        fraction=grid.fraction[1:],
        time=grid.time[1:],
        logsnr=grid.logsnr_t[1:],
        second=jnp.ones(count - 1, bool),
    )
    pairs = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1).ravel(), before_last, second)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[-1:]]), pairs, first)


def _network(
    denoise: Denoise,
    settings: Sampler,
    knobs: Knobs,
    cond: Any,
    null_cond: Any,
    channels: int,
    weaker: Denoise | None,
) -> Network:
    """Returns the network with its conditioning bound, guided where the settings say so."""

    def plain(z_t: jax.Array, time: jax.Array) -> jax.Array:
        return denoise(z_t, time, cond)

    if settings.guidance_weight == 1:
        return lambda z_t, time, _: plain(z_t, time)
    if weaker is None:
        guided = guide(denoise, cond, null_cond, knobs.guidance_weight, channels)
    else:
        guided = autoguide(denoise, weaker, cond, null_cond, knobs.guidance_weight, channels)
    if settings.guidance_min_t <= 0 and settings.guidance_max_t >= 1:
        return lambda z_t, time, _: guided(z_t, time)

    def within_interval(z_t: jax.Array, time: jax.Array, fraction: jax.Array) -> jax.Array:
        low, high = knobs.guidance_min_t - TIME_SLACK, knobs.guidance_max_t + TIME_SLACK
        inside = (fraction >= low) & (fraction <= high)
        # inside a scan only the branch that is taken runs
        return jax.lax.cond(inside, guided, plain, z_t, time)

    return within_interval


def _advance(
    settings: Sampler,
    knobs: Knobs,
    at: Evaluation,
    state: State,
    x: jax.Array,
    learned: jax.Array,
    noise: jax.Array,
) -> State:
    """Returns the state after an evaluation that predicted x, by the chosen solver."""
    z, ends = state.z, (at.logsnr_t, at.logsnr_s)
    if settings.solver == "ddpm":
        mix = learned if settings.logvar_mix == "learned" else knobs.logvar_mix
        return State(ddpm_step(z, x, *ends, mix, noise), z, x)
    if settings.solver == "ddim":
        return State(ddim_step(z, x, *ends, knobs.eta, noise), z, x)
    if settings.solver == "dpmpp_2m":
        return State(exponential_step(z, x + at.extrapolation * (x - state.x), *ends), z, x)
    if settings.solver == "heun":
        # Trapezoid in x, not in sigma as EDM has it: our grids begin at sigma / alpha = 22,000, where a step
        # in sigma multiplies the smallest error of eps by 10,000.
        z_t = jnp.where(at.second, state.z_t, z)
        mean = jnp.where(at.second, (state.x + x) / 2, x)
        return State(exponential_step(z_t, mean, *ends), z_t, x)
    raise ConfigError(
        f"sampler.solver = {settings.solver!r}; expected ddpm, ddim, dpmpp_2m or heun; choose one."
    )


def draw_noise(keys: jax.Array, number: jax.Array | int, shape: tuple[int, int, int]) -> jax.Array:
    """Returns f32[B,H,W,C] standard normal noise, each image's from its own key and the step's number."""
    return jax.vmap(lambda key: jax.random.normal(rng.at(key, number), shape))(keys)


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
