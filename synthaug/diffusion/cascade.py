"""The low-resolution input of a super-resolution model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from synthaug import rng
from synthaug.diffusion import prediction, schedule
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion

AUGMENTATION = Diffusion(schedule="cosine", num_timesteps=0)


def enlarge(low_res: jax.Array, size: int) -> jax.Array:
    """Returns f32[B,size,size,C]: images f32[B,h,w,C] enlarged bilinearly, pixel centres at half integers.

    That is align_corners = False, as ADM's up-sampler has it; DeepFloyd IF aligns the corners.
    """
    batch, _, _, channels = low_res.shape
    return jax.image.resize(low_res, (batch, size, size, channels), method="bilinear")


def shrink(images: jax.Array, size: int) -> jax.Array:
    """Returns f32[B,size,size,C]: the mean over equal boxes of images f32[B,H,W,C].

    Raises:
        ConfigError: H or W is no multiple of `size`.

    Example:
        >>> shrink(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """
    batch, height, width, channels = images.shape
    if height % size or width % size:
        raise ConfigError(
            f"shrink: images of {height}x{width} px do not divide into {size}x{size} boxes; "
            "expected a multiple; change the resolution."
        )
    boxes = images.reshape(batch, size, height // size, size, width // size, channels)
    return jnp.mean(boxes, axis=(2, 4))


def augment_low_res(low_res: jax.Array, aug_level: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns the low-resolution images with noise (noise conditioning augmentation, Ho et al. 2022).

    The noise is the forward process of the continuous cosine schedule at time `aug_level` (Imagen,
    Saharia et al. 2022, sec. 2.4). Level 0 returns the images bit for bit, not the sigma = 0.01 of the
    schedule's end: that is what "no augmentation" of the paper's best setting means.

    Args:
        low_res: f32[B,H,W,C], after `enlarge`.
        aug_level: f32[B] in [0, 1]; the network is told the same numbers.
        keys: key[B], one per image; the sampler may get the same keys, its noise is another stream.
    """
    draw = jax.vmap(lambda key: jax.random.normal(rng.stream(key, "augment_low_res"), low_res.shape[1:]))
    level = aug_level[:, None, None, None]
    noised = prediction.diffuse(low_res, draw(keys), schedule.logsnr(AUGMENTATION, level))
    return jnp.where(level > 0, noised, low_res)
