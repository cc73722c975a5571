"""What a network's output says: about x and eps, and about the step from z_t to z_s.

Arguments called `logsnr` are f32[] or f32[B,1,1,1]; they broadcast against the images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from synthaug.diffusion.schedule import signal_noise
from synthaug.errors import ConfigError

Denoise = Callable[[jax.Array, jax.Array, Any], jax.Array]
"""denoise(z_t f32[B,H,W,C], time f32[B], cond) -> f32[B,H,W,C or 2C]"""


def diffuse(x: jax.Array, eps: jax.Array, logsnr: jax.Array) -> jax.Array:
    """Returns z_t = alpha_t x + sigma_t eps, a draw of the forward process."""
    alpha_t, sigma_t = signal_noise(logsnr)
    return alpha_t * x + sigma_t * eps


def target(kind: str, x: jax.Array, eps: jax.Array, logsnr: jax.Array) -> jax.Array:
    """Returns what a network of this kind should predict; v = alpha_t eps - sigma_t x.

    Args:
        kind: "eps" (Ho et al. 2020), "v" (Salimans & Ho 2022, App. D) or "x".
        x: f32[B,H,W,C], clean image.
        eps: f32[B,H,W,C], its noise.
        logsnr: log signal-to-noise ratio.
    """
    if kind == "eps":
        return eps
    if kind == "v":
        alpha_t, sigma_t = signal_noise(logsnr)
        return alpha_t * eps - sigma_t * x
    if kind == "x":
        return x
    raise _unknown(kind)


def to_x(kind: str, z_t: jax.Array, logsnr: jax.Array, output: jax.Array) -> jax.Array:
    """Returns the clean image f32[B,H,W,C] that a network's output implies."""
    alpha_t, sigma_t = signal_noise(logsnr)
    if kind == "eps":
        return (z_t - sigma_t * output) / alpha_t
    if kind == "v":
        return alpha_t * z_t - sigma_t * output
    if kind == "x":
        return output
    raise _unknown(kind)


def to_eps(kind: str, z_t: jax.Array, logsnr: jax.Array, output: jax.Array) -> jax.Array:
    """Returns the noise f32[B,H,W,C] that a network's output implies."""
    alpha_t, sigma_t = signal_noise(logsnr)
    if kind == "eps":
        return output
    if kind == "v":
        return sigma_t * z_t + alpha_t * output
    if kind == "x":
        return (z_t - alpha_t * output) / sigma_t
    raise _unknown(kind)


def posterior_mean(z_t: jax.Array, x: jax.Array, logsnr_t: jax.Array, logsnr_s: jax.Array) -> jax.Array:
    """Returns mu~ of q(z_s | z_t, x), f32[B,H,W,C] (Imagen, Saharia et al. 2022, App. A).

    mu~ = e^(logsnr_t - logsnr_s) (alpha_s / alpha_t) z_t + (1 - e^(logsnr_t - logsnr_s)) alpha_s x;
    where s is the clean image that is x.
    """
    alpha_t, _ = signal_noise(logsnr_t)
    alpha_s, _ = signal_noise(logsnr_s)
    gap = logsnr_t - logsnr_s
    return jnp.exp(gap) * (alpha_s / alpha_t) * z_t - jnp.expm1(gap) * alpha_s * x


def logvar_bounds(logsnr_t: jax.Array, logsnr_s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the logs of the smallest and the largest sensible variance of z_s given z_t.

    The lower bound is the posterior variance sigma~²_{s|t} = (1 - e^(logsnr_t - logsnr_s)) sigma_s² (beta~),
    exact if the data are one point; the upper bound sigma²_{t|s} = (1 - e^(logsnr_t - logsnr_s)) sigma_t²
    (beta) is exact if the data are white noise (Ho et al. 2020, sec. 3.2; Imagen, App. A). The lower bound
    is -inf where s is the clean image.
    """
    shared = jnp.log(-jnp.expm1(logsnr_t - logsnr_s))
    return shared - jax.nn.softplus(logsnr_s), shared - jax.nn.softplus(logsnr_t)


def _unknown(kind: str) -> ConfigError:
    return ConfigError(f"diffusion.prediction = {kind!r}; expected eps, v or x; choose one.")
