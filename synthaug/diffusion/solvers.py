"""The solvers of a step from z_t to the cleaner z_s, given the predicted image x."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from synthaug.diffusion import prediction
from synthaug.diffusion.schedule import StepGrid, signal_noise


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


def exponential_step(z_t: jax.Array, x: jax.Array, logsnr_t: jax.Array, logsnr_s: jax.Array) -> jax.Array:
    """Returns z_s of the probability-flow equation if the prediction stays x all the way.

    z_s = (sigma_s / sigma_t) z_t - alpha_s (e^-h - 1) x, with h the step in lambda = log(alpha / sigma) =
    logsnr / 2 (DPM-Solver++, Lu et al. 2022, arXiv 2211.01095, eq. 9). With the x of z_t it is DDIM with
    eta = 0; the second-order solvers put a better guess of the mean x on the way in its place.
    """
    _, sigma_t = signal_noise(logsnr_t)
    alpha_s, sigma_s = signal_noise(logsnr_s)
    return (sigma_s / sigma_t) * z_t - alpha_s * jnp.expm1((logsnr_t - logsnr_s) / 2) * x


def extrapolation(grid: StepGrid) -> jax.Array:
    """Returns f32[T], 1/(2r) of DPM-Solver++ 2M with r = (step before) / (this step), both in log-SNR.

    The step then goes by x + extrapolation (x - x_before) (Algorithm 2 there). It is 0, that is first order,
    in the first step, which has no step before, and in the last, which is infinitely long.
    """
    length = grid.logsnr_s - grid.logsnr_t
    weights = length[1:] / (2 * length[:-1])
    return jnp.concatenate([jnp.zeros(1), jnp.where(jnp.isinf(weights), 0.0, weights)])
