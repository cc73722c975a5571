"""Noise schedules: from time to the log signal-to-noise ratio, in training and in sampling."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion

LOGSNR_LIMIT = 20.0  # beyond it alpha or sigma is below 5e-5 and only rounding is left
COSINE_OFFSET = 0.008  # s of Nichol & Dhariwal (2021), eq. 17
TIME_SLACK = 1e-6  # times closer than this are one: 1 - 7/10 is not 0.3 in floating point
CONTINUOUS_STEPS = 1000  # continuous time, counted in steps of this size, for L_vlb and the network's input


class StepGrid(NamedTuple):
    """The denoising steps t -> s of a sampler, from noise to clean.

    The last `logsnr_s` is +inf, the clean image (alpha = 1, sigma = 0). On the discrete grid that is
    abar_{-1} = 1, as in DDPM. In continuous time the schedule's own end, t = 0, still holds noise of
    sigma = 0.01; stopping there would leave that noise in every image.
    """

    fraction: jax.Array  # f32[T], position in (0, 1]: 1 is noise
    time: jax.Array  # f32[T], what the network is told
    logsnr_t: jax.Array  # f32[T]
    logsnr_s: jax.Array  # f32[T]


class Times(NamedTuple):
    """Times of a training batch, and the step t -> s each one stands for in L_vlb."""

    fraction: jax.Array  # f32[B], position in [0, 1): 0 is clean
    time: jax.Array  # f32[B], what the network is told
    logsnr_t: jax.Array  # f32[B]
    logsnr_s: jax.Array  # f32[B], +inf where s is the clean image


def logsnr(settings: Diffusion, t: jax.Array) -> jax.Array:
    """Returns the log signal-to-noise ratio at time t, within [-20, 20].

    Continuous time: cosine is Nichol & Dhariwal (2021), eq. 17, with s = 0.008; linear is the usual
    continuous form -log(expm1(1e-4 + 10 t²)) of DDPM's betas.

    Args:
        settings: schedule, and continuous or discrete time.
        t: f32[...] in [0, 1] if `num_timesteps` is 0, else i32[...] in 0..num_timesteps-1.

    Returns:
        f32 of the shape of t, falling with t.

    Example:
        >>> logsnr(Diffusion(schedule="cosine"), jnp.array([0.0, 0.25, 1.0])).round().tolist()
        [9.0, 2.0, -20.0]
    """
    if settings.num_timesteps:
        return jnp.asarray(logsnr_table(settings))[t]
    if settings.schedule == "cosine":
        angle = (t + COSINE_OFFSET) / (1 + COSINE_OFFSET) * (np.pi / 2)
        # float32 rounds pi/2 up, so the cosine at t = 1 is below 0 and has no logarithm
        ratio = 2 * (jnp.log(jnp.maximum(jnp.cos(angle), 1e-9)) - jnp.log(jnp.sin(angle)))
    else:
        ratio = -jnp.log(jnp.expm1(1e-4 + 10 * jnp.square(t)))
    return jnp.clip(ratio, -LOGSNR_LIMIT, LOGSNR_LIMIT)


def signal_noise(logsnr: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (alpha, sigma) = (sqrt(sigmoid(logsnr)), sqrt(sigmoid(-logsnr))), (1, 0) at +inf.

    Example:
        >>> [float(a) for a in signal_noise(jnp.float32(jnp.inf))]
        [1.0, 0.0]
    """
    # by softplus: some backends compute the sigmoid from tanh, which rounds it to 0 at -20
    return jnp.exp(-0.5 * jax.nn.softplus(-logsnr)), jnp.exp(-0.5 * jax.nn.softplus(logsnr))


def network_time(settings: Diffusion, t: jax.Array) -> jax.Array:
    """Returns what the time embedding gets, f32 in 0..1000: 1000 t, or the discrete timestep itself."""
    if settings.num_timesteps:
        return t.astype(jnp.float32)
    return CONTINUOUS_STEPS * t


@functools.cache
def logsnr_table(settings: Diffusion) -> np.ndarray:
    """Returns f32[num_timesteps], the log signal-to-noise ratio of each discrete timestep.

    abar = cumprod(1 - beta), with 1 - beta rounded to float32 as diffusers does: its samplers and ours then
    agree to 1e-6. In float64, as the public weights were trained, the images differ by 1e-5.
    """
    alphas = (1 - betas(settings).astype(np.float32)).astype(np.float64)
    alpha_bar = np.cumprod(alphas).astype(np.float32).astype(np.float64)
    table = np.log(alpha_bar) - np.log1p(-alpha_bar)
    return np.clip(table, -LOGSNR_LIMIT, LOGSNR_LIMIT).astype(np.float32)


def betas(settings: Diffusion) -> np.ndarray:
    """Returns f64[num_timesteps], the variances beta of the discrete forward process.

    Cosine is `squaredcos_cap_v2` (Nichol & Dhariwal 2021, eq. 17, beta <= 0.999); linear is DDPM's
    1e-4..0.02, scaled by 1000 / num_timesteps so that any grid ends in noise.

    Raises:
        ConfigError: a linear grid so short that beta would reach 1.
    """
    steps = settings.num_timesteps
    if settings.schedule == "cosine":
        t = np.arange(steps + 1) / steps
        alpha_bar = np.cos((t + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    if steps <= 20:
        raise ConfigError(
            f"diffusion.num_timesteps = {steps} is too few for the linear schedule, whose beta would reach "
            f"{20 / steps:g}; expected beta < 1; use 21 or more, or schedule = cosine."
        )
    return np.linspace(1e-4, 0.02, steps) * (1000 / steps)


def step_grid(
    settings: Diffusion, num_sampling_steps: int, subset: Sequence[int] | None = None, start: float = 1.0
) -> StepGrid:
    """Returns the steps of a sampler, evenly spaced in time and starting at full noise.

    Continuous time runs over t = 1, 1 - 1/T, ..., 1/T. Discrete time takes every n-th timestep counted
    down from the last one, the same times; the posterior between two of them is that of a process with
    only these steps (respacing, Nichol & Dhariwal 2021, sec. 4).

    Args:
        settings: the forward process.
        num_sampling_steps: T.
        subset: discrete time only: the T timesteps to take instead, in any order.
        start: leave out the steps at times above it, of 1 = noise: the sampler then starts from a noised
            image (SDEdit, Meng et al. 2022).

    Raises:
        ConfigError: more steps than timesteps, a subset that is no set of T timesteps, or no step left.

    Example:
        >>> step_grid(Diffusion(num_timesteps=1000), 4).time.tolist()
        [999.0, 749.0, 499.0, 249.0]
        >>> step_grid(Diffusion(num_timesteps=1000), 4, start=0.5).fraction.tolist()
        [0.5, 0.25]
    """
    total = settings.num_timesteps
    if total:
        t = _timesteps(total, num_sampling_steps, subset)
        fractions = (t + 1) / total
    elif subset is not None:
        raise ConfigError("step_grid: subset given for continuous time; expected num_timesteps > 0; omit it.")
    else:
        fractions = 1 - np.arange(num_sampling_steps) / num_sampling_steps
        t = fractions.astype(np.float32)
    kept = fractions <= start + TIME_SLACK
    if not kept.any():
        raise ConfigError(
            f"start = {start:g} is before the last of {num_sampling_steps} steps, at {fractions[-1]:g}; "
            "expected at least that; raise it, or num_sampling_steps."
        )
    times = jnp.asarray(t[kept])
    ratios = jax.jit(logsnr, static_argnums=0)(settings, times)  # else a program for every operation
    clean = jnp.full(1, jnp.inf, jnp.float32)
    return StepGrid(
        jnp.asarray(fractions[kept], jnp.float32),
        network_time(settings, times),
        ratios,
        jnp.concatenate([ratios[1:], clean]),
    )


def _timesteps(num_timesteps: int, num_sampling_steps: int, subset: Sequence[int] | None) -> np.ndarray:
    """Returns i32[T], falling timesteps of the discrete grid."""
    if num_sampling_steps > num_timesteps:
        raise ConfigError(
            f"num_sampling_steps = {num_sampling_steps} exceeds num_timesteps = {num_timesteps} of the "
            "discrete schedule; lower it."
        )
    if subset is None:
        down = np.arange(num_sampling_steps) * num_timesteps // num_sampling_steps
        return (num_timesteps - 1 - down).astype(np.int32)
    steps = sorted(set(subset), reverse=True)
    if (
        not (len(subset) == len(steps) == num_sampling_steps)
        or not 0 <= steps[-1] <= steps[0] < num_timesteps
    ):
        raise ConfigError(
            f"subset = {list(subset)!r}: expected num_sampling_steps = {num_sampling_steps} different "
            f"timesteps in 0..{num_timesteps - 1}; correct it."
        )
    return np.array(steps, np.int32)


def draw_times(settings: Diffusion, key: jax.Array, batch: int) -> Times:
    """Returns the times of a training batch; each is uniform, together they cover [0, 1) evenly.

    One uniform draw is shifted by i/B for image i: the loss has the same mean and less variance
    (Kingma et al. 2021, "Variational Diffusion Models", App. I.1).

    Args:
        settings: the forward process.
        key: key[].
        batch: B.
    """
    shift = jnp.arange(batch, dtype=jnp.float32) / batch
    fraction = (jax.random.uniform(key) + shift) % 1.0
    if settings.num_timesteps:
        last = settings.num_timesteps - 1
        t = jnp.minimum((fraction * settings.num_timesteps).astype(jnp.int32), last)
        first, s = t == 0, jnp.maximum(t - 1, 0)
    else:
        t = fraction
        first, s = t < 1 / CONTINUOUS_STEPS, jnp.maximum(t - 1 / CONTINUOUS_STEPS, 0.0)
    logsnr_s = jnp.where(first, jnp.inf, logsnr(settings, s))
    return Times(fraction, network_time(settings, t), logsnr(settings, t), logsnr_s)
