"""The low-resolution input of a super-resolution model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from synthaug import rng
from synthaug.diffusion import prediction, schedule
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion

CONTINUOUS = Diffusion(schedule="cosine", num_timesteps=0)  # Imagen's noise on the low-resolution image
DISCRETE = Diffusion(schedule="cosine", num_timesteps=1000)  # DeepFloyd IF's


def enlarge(low_res: jax.Array, size: int | tuple[int, int], how: str = "half_pixel") -> jax.Array:
    """Returns f32[B,H,W,C]: images f32[B,h,w,C] enlarged bilinearly.

    Args:
        low_res: the images.
        size: (H, W), or one side for squares.
        how: "half_pixel": pixel centres lie at half integers and the border is repeated (Imagen, ADM;
            torch's align_corners=False); "align_corners": the centres of the corner pixels coincide
            (DeepFloyd IF).

    Raises:
        ConfigError: an unknown `how`, or a size below that of the images.

    Example:
        >>> enlarge(jnp.array([0.0, 3.0]).reshape(1, 1, 2, 1), (1, 4), "align_corners").ravel().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    height, width = (size, size) if isinstance(size, int) else size
    batch, low_height, low_width, channels = low_res.shape
    if height < low_height or width < low_width:
        raise ConfigError(
            f"enlarge: images of {low_height}x{low_width} px do not enlarge to {height}x{width}; "
            "expected a size at least as large; change it."
        )
    if how == "half_pixel":
        return jax.image.resize(low_res, (batch, height, width, channels), method="bilinear")
    if how == "align_corners":
        rows, columns = (_corner_weights(*n) for n in ((low_height, height), (low_width, width)))
        precise = jax.lax.Precision.HIGHEST  # an accelerator would round the pixels to bf16
        tall = jnp.einsum("bhwc,Hh->bHwc", low_res, rows, precision=precise)
        return jnp.einsum("bHwc,Ww->bHWc", tall, columns, precision=precise)
    raise ConfigError(f"enlarge: how = {how!r}; expected half_pixel or align_corners; choose one.")


def _corner_weights(small: int, large: int) -> np.ndarray:
    """Returns f32[large,small], the weights that interpolate linearly between aligned end points."""
    position = np.arange(large) * ((small - 1) / max(large - 1, 1))
    return np.maximum(1 - np.abs(position[:, None] - np.arange(small)), 0).astype(np.float32)


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


def cut(
    images: jax.Array, low_res: jax.Array, side: int, key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns a square of every image, [B,side,side,C], and the same square of its low-resolution image.

    Imagen trains 256 -> 1024 so, on 64 -> 256 squares: the network is fully convolutional and runs on the
    whole image afterwards. The corners lie on the low-resolution grid.

    Args:
        images: [B,H,W,C] of any type.
        low_res: [B,h,w,C], with H and W the same multiple of h and w.
        side: of the square, px; a multiple of H / h and at most H and W.
        key: draws the corners, independently for every image; None cuts the centre.

    Raises:
        ConfigError: a side that does not fit.

    Example:
        >>> images, low_res = jnp.arange(16).reshape(1, 4, 4, 1), jnp.arange(4).reshape(1, 2, 2, 1)
        >>> [x.ravel().tolist() for x in cut(images, low_res, 2, None)]
        [[0, 1, 4, 5], [0]]
    """
    batch, height, width, channels = images.shape
    factor = height // low_res.shape[1]
    if side % factor or side > min(height, width):
        raise ConfigError(
            f"cut: squares of {side} px from images of {height}x{width}, {factor} times the low-resolution "
            f"ones; expected a multiple of {factor}, at most {min(height, width)}; change it."
        )
    small = side // factor
    room = jnp.array([low_res.shape[1] - small, low_res.shape[2] - small], jnp.int32)
    corner = jnp.broadcast_to(room // 2, (batch, 2))
    if key is not None:
        corner = jax.random.randint(key, (batch, 2), 0, room[None] + 1)

    def squares(x: jax.Array, at: jax.Array, size: int) -> jax.Array:
        return jax.vmap(lambda one, c: jax.lax.dynamic_slice(one, (c[0], c[1], 0), (size, size, channels)))(
            x, at
        )

    return squares(images, factor * corner, side), squares(low_res, corner, small)


def augment_low_res(
    low_res: jax.Array, level: jax.Array, kind: str, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (noised f32[B,H,W,C], aug_time f32[B] in 0..1000), noise conditioning augmentation.

    The noise is that of a cosine forward process (Ho et al. 2022, "Cascaded Diffusion Models"); the network
    is told `aug_time`, how far along it the image is.

    Args:
        low_res: f32[B,H,W,C], after `enlarge`.
        level: f32[B] in [0, 1].
        kind: "continuous": the process at time `level`, and at 0 the images bit for bit, not the
            sigma = 0.01 of the schedule's end: that is what "no augmentation" of the paper's best setting
            means (Imagen, Saharia et al. 2022, sec. 2.4). "discrete": step floor(1000 level), at most 999,
            of 1000; at 0 the first step's noise of sigma = 0.006 is added (DeepFloyd IF). "none": the
            network was trained without, the level is not looked at (ADM).
        keys: key[B], one per image; the sampler may get the same keys, its noise is another stream.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind == "none":
        return low_res, jnp.zeros_like(level)
    if kind not in ("continuous", "discrete"):
        raise ConfigError(f"augmentation = {kind!r}; expected continuous, discrete or none; choose one.")
    draw = jax.vmap(lambda key: jax.random.normal(rng.stream(key, "augment_low_res"), low_res.shape[1:]))
    if kind == "discrete":
        # float32 puts a multiple of 1/1000 as much as 3e-5 below itself
        step = jnp.clip(jnp.floor(1000 * level + 1e-3), 0, DISCRETE.num_timesteps - 1).astype(jnp.int32)
        ratio = schedule.logsnr(DISCRETE, step)[:, None, None, None]
        return prediction.diffuse(low_res, draw(keys), ratio), schedule.network_time(DISCRETE, step)
    ratio = schedule.logsnr(CONTINUOUS, level)[:, None, None, None]
    noised = prediction.diffuse(low_res, draw(keys), ratio)
    shown = jnp.where(level[:, None, None, None] > 0, noised, low_res)
    return shown, schedule.network_time(CONTINUOUS, level)
