"""Classifier-free guidance, and guidance by a weaker version of the network itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from synthaug.diffusion.prediction import Denoise

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
"""denoiser(z_t f32[B,H,W,C], time f32[B]) -> f32[B,H,W,C or 2C], a network with its conditioning bound"""


def guide(denoise: Denoise, cond: Any, null_cond: Any, guidance_weight: jax.Array, channels: int) -> Denoiser:
    """Returns the guided network: w f(z_t, c) + (1 - w) f(z_t) (Imagen, Saharia et al. 2022, eq. 2).

    Imagen mixes eps; at fixed z_t and t, v and x are affine in eps and the weights sum to 1, so mixing
    any of the three is the same. Variance channels beyond the first C come from the conditional pass.

    Args:
        denoise: the network.
        cond: tree of [B,...], conditioning.
        null_cond: the same tree without the text; what is no text (the low-resolution image) is kept.
        guidance_weight: f32[], w: 1 is the conditional network, more is stronger.
        channels: C, of the image.
    """
    both = jax.tree.map(_interleave, cond, null_cond)

    def denoiser(z_t: jax.Array, time: jax.Array) -> jax.Array:
        output = denoise(_interleave(z_t, z_t), _interleave(time, time), both)
        pairs = output.reshape(z_t.shape[0], 2, *output.shape[1:])
        conditional, unconditional = pairs[:, 0], pairs[:, 1, ..., :channels]
        mixed = guidance_weight * conditional[..., :channels] + (1 - guidance_weight) * unconditional
        return jnp.concatenate([mixed, conditional[..., channels:]], axis=-1)

    return denoiser


def autoguide(
    denoise: Denoise, weaker: Denoise, cond: Any, weaker_cond: Any, guidance_weight: jax.Array, channels: int
) -> Denoiser:
    """Returns the network led away from a weaker one: w f(z_t, c) + (1 - w) g(z_t, c).

    Autoguidance (Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", eq. 5): both
    see the same conditioning, so a class-conditional network without an unconditional mode can be guided.

    Args:
        denoise: the network.
        weaker: the same network with other weights.
        cond: tree of [B,...], conditioning.
        weaker_cond: the same as the weaker network reads it.
        guidance_weight: f32[], w.
        channels: C, of the image; channels beyond are those of `denoise`.
    """

    def denoiser(z_t: jax.Array, time: jax.Array) -> jax.Array:
        strong, weak = denoise(z_t, time, cond), weaker(z_t, time, weaker_cond)
        mixed = guidance_weight * strong[..., :channels] + (1 - guidance_weight) * weak[..., :channels]
        return jnp.concatenate([mixed, strong[..., channels:]], axis=-1)

    return denoiser


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns [2B,...]: a_0, b_0, a_1, b_1, ...

    Not a after b: with the batch sharded over devices both passes of an image then stay on its device.
    """
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])
