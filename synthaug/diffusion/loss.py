"""The training loss: L_simple, and L_vlb for networks that learn their variance."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from synthaug import rng
from synthaug.diffusion import prediction, schedule
from synthaug.diffusion.prediction import Denoise
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion

HALF_BIN = 1 / 255  # images of 8 bits in [-1, 1] lie 1/127.5 apart
SMALLEST_MASS = 1e-12  # of a bin; keeps log finite in float32


def diffusion_loss(
    denoise: Denoise, settings: Diffusion, x: jax.Array, cond: Any, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (loss f32[], metrics) of one batch at random times.

    L_simple is the squared error of the prediction itself, in eps, v or x, without weights (Ho et al.
    2020, eq. 14). With `learned_variance` the loss is L_simple + vlb_weight * L_vlb (L_hybrid, Nichol &
    Dhariwal 2021, eq. 16).

    Args:
        denoise: the network.
        settings: forward process and prediction.
        x: f32[B,H,W,C] in [-1, 1].
        cond: conditioning of the network, handed through.
        key: key[], a function of the training step.

    Returns:
        The loss, and scalars: mse = L_simple; mse_q0..3 = its mean over the examples in each quarter of
        time, q0 the cleanest, 0 where the batch has none (B < 4); vlb = L_vlb in bits per dimension.
    """
    times = schedule.draw_times(settings, rng.stream(key, "times"), x.shape[0])
    eps = jax.random.normal(rng.stream(key, "noise"), x.shape)
    logsnr_t = times.logsnr_t[:, None, None, None]
    z_t = prediction.diffuse(x, eps, logsnr_t)
    output = denoise(z_t, times.time, cond)
    _check_channels(settings, output.shape[-1], x.shape[-1])
    goal = prediction.target(settings.prediction, x, eps, logsnr_t)
    errors = jnp.mean(jnp.square(output[..., : x.shape[-1]] - goal), axis=(1, 2, 3))
    loss = jnp.mean(errors)
    metrics = {"mse": loss, **_by_quarter(errors, times.fraction)}
    if settings.learned_variance:
        steps = settings.num_timesteps or schedule.CONTINUOUS_STEPS
        vlb = steps * jnp.mean(vlb_terms(settings, x, z_t, times.logsnr_t, times.logsnr_s, output))
        metrics["vlb"] = vlb
        loss = loss + settings.vlb_weight * vlb
    return loss, metrics


def vlb_terms(
    settings: Diffusion,
    x: jax.Array,
    z_t: jax.Array,
    logsnr_t: jax.Array,
    logsnr_s: jax.Array,
    output: jax.Array,
) -> jax.Array:
    """Returns f32[B], the term of the variational bound that belongs to each step t -> s.

    KL(q(z_s | z_t, x) || p(z_s | z_t)), and -log p(x | z_t) over 8-bit images where s is the clean image;
    bits per dimension. The log-variance is f log sigma²_{t|s} + (1-f) log sigma~²_{s|t}, f = (out + 1) / 2
    (Nichol & Dhariwal 2021, eq. 15). Gradients reach the variance only: the mean is L_simple's to train.

    Args:
        settings: forward process and prediction.
        x: f32[B,H,W,C], clean image.
        z_t: f32[B,H,W,C], the noised one.
        logsnr_t: f32[B].
        logsnr_s: f32[B], +inf where s is the clean image.
        output: f32[B,H,W,2C], of the network.
    """
    channels = x.shape[-1]
    logsnr_t, logsnr_s = (r[:, None, None, None] for r in (logsnr_t, logsnr_s))
    guess = prediction.to_x(settings.prediction, z_t, logsnr_t, output[..., :channels])
    mean = prediction.posterior_mean(z_t, jax.lax.stop_gradient(guess), logsnr_t, logsnr_s)
    true_mean = prediction.posterior_mean(z_t, x, logsnr_t, logsnr_s)
    lower, upper = prediction.logvar_bounds(logsnr_t, logsnr_s)
    clean = jnp.isposinf(logsnr_s)
    lower = jnp.where(clean, _first_logvar(settings), lower)
    fraction = (output[..., channels:] + 1) / 2
    logvar = fraction * upper + (1 - fraction) * lower
    nats = jnp.where(clean, discretised_nll(x, mean, logvar), gaussian_kl(true_mean, lower, mean, logvar))
    return jnp.mean(nats, axis=(1, 2, 3)) / jnp.log(2.0)


def gaussian_kl(mean_q: jax.Array, logvar_q: jax.Array, mean_p: jax.Array, logvar_p: jax.Array) -> jax.Array:
    """Returns KL(q || p) of two normal distributions, element by element, in nats."""
    gap = logvar_q - logvar_p
    return 0.5 * (jnp.expm1(gap) - gap + jnp.square(mean_q - mean_p) * jnp.exp(-logvar_p))


def discretised_nll(x: jax.Array, mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """Returns -log of the mass a normal distribution gives to x's 8-bit bin, in nats.

    The bins of -1 and 1 reach to infinity, so that the masses of all 256 sum to 1 (Ho et al. 2020, eq. 13).
    """
    inv_std = jnp.exp(-0.5 * logvar)
    # by symmetry both ends of a bin are taken in the lower tail: there float32 keeps small masses
    away = jnp.abs(x - mean)
    inner, outer = _cdf((HALF_BIN - away) * inv_std), _cdf((-HALF_BIN - away) * inv_std)
    lowest, highest = x < -0.999, x > 0.999
    beyond = (lowest & (mean < x)) | (highest & (mean > x))  # the mean itself lies in the infinite bin
    mass = jnp.where(beyond, 1 - outer, jnp.where(lowest | highest, inner, inner - outer))
    return -jnp.log(jnp.maximum(mass, SMALLEST_MASS))


def _cdf(value: jax.Array) -> jax.Array:
    """Returns the standard normal distribution function, precise in the lower tail."""
    return 0.5 * jax.lax.erfc(-value / jnp.sqrt(2.0))


def _first_logvar(settings: Diffusion) -> jax.Array:
    """Returns f32[], the log posterior variance of the second step.

    It stands in for that of the first step, which is log 0, as in the code of ADM and DeepFloyd IF.
    """
    if settings.num_timesteps == 1:  # no second step: beta, the upper bound, is all there is
        return prediction.logvar_bounds(schedule.logsnr(settings, jnp.array(0)), jnp.float32(jnp.inf))[1]
    t = jnp.array([0, 1]) if settings.num_timesteps else jnp.array([1.0, 2.0]) / schedule.CONTINUOUS_STEPS
    logsnr_s, logsnr_t = schedule.logsnr(settings, t)
    return prediction.logvar_bounds(logsnr_t, logsnr_s)[0]


def _by_quarter(errors: jax.Array, fraction: jax.Array) -> dict[str, jax.Array]:
    """Returns mse_q0..mse_q3, the mean of f32[B] errors over the examples in each quarter of time."""
    means = {}
    for quarter in range(4):
        inside = (fraction >= quarter / 4) & (fraction < (quarter + 1) / 4)
        total = jnp.sum(jnp.where(inside, errors, 0.0))
        means[f"mse_q{quarter}"] = total / jnp.maximum(jnp.sum(inside.astype(jnp.float32)), 1.0)
    return means


def _check_channels(settings: Diffusion, found: int, channels: int) -> None:
    """Raises ConfigError if the network has no channels for a variance that it should learn."""
    if found not in ((2 * channels,) if settings.learned_variance else (channels, 2 * channels)):
        raise ConfigError(
            f"diffusion_loss: the network gave {found} channels for images of {channels}; "
            f"learned_variance = {settings.learned_variance} expects "
            f"{2 * channels if settings.learned_variance else channels}; change the network or the setting."
        )
