"""What the device does with a batch of classifier training: normalise, erase, mix; soft targets.

Pure functions of a key, so batch and key make the step. Rules and constants are those of timm (Wightman),
by which DeiT was trained, in DeiT's order: erasing sees normalised images, mixing sees erased ones.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from synthaug import rng
from synthaug.experiment import Augment

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours in [0, 1]
SWITCH = 0.5  # probability of cutmix where mixup is on as well
ERASED_AREA, ERASED_ASPECT, TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10


def normalize(images: jax.Array, kind: str) -> jax.Array:
    """Returns u8[B,H,W,C] as the f32[B,H,W,C] that a classifier takes.

    Args:
        images: pixels, C = 1 or 3.
        kind: "unit" for [-1, 1], "imagenet" for mean 0 and deviation 1 of each of ImageNet's colours (of
            grey images, their average).
    """
    if kind == "unit":
        return images.astype(jnp.float32) / 127.5 - 1.0
    mean, deviation = jnp.array(MEAN, jnp.float32), jnp.array(DEVIATION, jnp.float32)
    if images.shape[-1] == 1:
        mean, deviation = mean.mean(keepdims=True), deviation.mean(keepdims=True)
    shape = (1, 1, 1, -1)
    return (images.astype(jnp.float32) / 255.0 - mean.reshape(shape)) / deviation.reshape(shape)


def smooth_targets(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns f32[B,K]: a share `smoothing` spread over all classes, the rest on the label i32[B]."""
    return (1.0 - smoothing) * jax.nn.one_hot(labels, num_classes) + smoothing / num_classes


def augment_batch(
    images: jax.Array, targets: jax.Array, settings: Augment, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns images f32[B,H,W,C] and targets f32[B,K] of a training step, erased and mixed.

    Args:
        images: normalised, f32[B,H,W,C].
        targets: f32[B,K] from `smooth_targets`.
        settings: what is done; nothing by default.
        key: of the step.
    """
    if settings.erase:
        images = erase(images, settings.erase, rng.stream(key, "erase"))
    if settings.mixup or settings.cutmix:
        images, targets = mix(images, targets, settings, rng.stream(key, "mix"))
    return images, targets


def erase(images: jax.Array, share: float, key: jax.Array) -> jax.Array:
    """Returns images f32[B,H,W,C], in a share of them a rectangle of normal noise (Zhong et al. 2020).

    The rectangle has 2 to 33 % of the area and an aspect of 0.3 to 3.3, log-uniform; the first of ten that
    is smaller than the image on both sides is taken; timm's mode "pixel".
    """
    height, width = images.shape[1:3]

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        chosen = jax.random.bernoulli(rng.stream(key, "chosen"), share)
        inside = _rectangle(height, width, rng.stream(key, "rectangle")) & chosen
        noise = jax.random.normal(rng.stream(key, "noise"), image.shape)
        return jnp.where(inside[:, :, None], noise, image)

    return jax.vmap(one)(images, rng.for_images(key, jnp.arange(len(images))))


def _rectangle(height: int, width: int, key: jax.Array) -> jax.Array:
    """Returns bool[H,W], true inside a random rectangle; nowhere, if none of ten fits."""
    uniform = jax.random.uniform(key, (4, TRIES))
    area = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * uniform[0])
    low, high = math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])
    aspect = jnp.exp(low + (high - low) * uniform[1])  # height / width
    tall, wide = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits)
    tall, wide = tall[first], wide[first]
    top = jnp.floor(uniform[2, first] * (height - tall + 1))
    left = jnp.floor(uniform[3, first] * (width - wide + 1))
    return _box(height, width, top, top + tall, left, left + wide) & fits.any()


def mix(
    images: jax.Array, targets: jax.Array, settings: Augment, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns images f32[B,H,W,C] and targets f32[B,K], each mixed with those of row B - 1 - i.

    One draw for the whole batch, timm's mode "batch": mixup (Zhang et al. 2018) blends, cutmix (Yun et al.
    2019) pastes a rectangle; with both on, each in half of the mixed batches.
    """
    share, which, blend, box = (rng.stream(key, name) for name in ("share", "which", "mixup", "cutmix"))
    weight = jnp.float32(1.0)  # of the image itself
    kept = jnp.ones(images.shape[1:3], jnp.float32)  # the same by pixel
    if settings.mixup:
        weight = jax.random.beta(blend, settings.mixup, settings.mixup)
        kept = jnp.broadcast_to(weight, kept.shape)
    if settings.cutmix:
        cut_kept, cut_weight = _cutmix(images.shape[1], images.shape[2], settings.cutmix, box)
        cut = jax.random.bernoulli(which, SWITCH if settings.mixup else 1.0)
        kept, weight = jnp.where(cut, cut_kept, kept), jnp.where(cut, cut_weight, weight)
    mixed = jax.random.bernoulli(share, settings.mix_share)
    kept, weight = jnp.where(mixed, kept, 1.0), jnp.where(mixed, weight, 1.0)
    kept = kept[None, :, :, None]
    return (
        images * kept + images[::-1] * (1.0 - kept),
        targets * weight + targets[::-1] * (1.0 - weight),
    )


def _cutmix(height: int, width: int, alpha: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns f32[H,W], 0 in a random rectangle and else 1, and its mean, the weight of the own target.

    The rectangle's sides are sqrt(1 - lambda) of the image's, lambda from Beta(alpha, alpha); what lies over
    the border is cut off, and the weight is that of the pixels left.
    """
    ratio = jnp.sqrt(1.0 - jax.random.beta(rng.stream(key, "lambda"), alpha, alpha))
    centre = jax.random.uniform(rng.stream(key, "centre"), (2,))
    edges = []
    for size, place in zip((height, width), centre, strict=True):
        side, middle = jnp.floor(size * ratio), jnp.floor(size * place)
        edges += [middle - jnp.floor(side / 2), middle + jnp.floor((side + 1) / 2)]
    kept = 1.0 - _box(height, width, *edges).astype(jnp.float32)
    return kept, kept.mean()


def _box(
    height: int, width: int, top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array
) -> jax.Array:
    """Returns bool[H,W], true in the rows [top, bottom) and the columns [left, right)."""
    row, column = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)
    return ((row >= top) & (row < bottom))[:, None] & ((column >= left) & (column < right))[None, :]
