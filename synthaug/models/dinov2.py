"""DINOv2's vision transformers (Oquab et al. 2023) without registers, as the features of FD-DINOv2.

Stein et al. 2023 (dgm-eval) compare images by the class token of ViT-L/14. Everything here follows EDM2's
`fd_dinov2`: the image goes to 224 px as f32 (torch's bicubic with antialias=True, neither rounded nor
clipped), is divided by 255 and normalised by ImageNet's colours; the network is the one of torch.hub.
dgm-eval itself resizes with Pillow, which rounds to 8 bits after each of two passes: its values differ a bit.

The learned positions are those of 37 x 37 patches (518 px). The hub's network brings them to 16 x 16 with the
scale (16 + 0.1) / 37, bicubic and without antialiasing, which `resample` repeats. transformers' Dinov2Model
uses the scale 16 / 37, and timm antialiases: their features of 224 px images are other ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from synthaug.models.attention import attend
from synthaug.models.functional import Model, functional
from synthaug.models.layers import LayerNorm, linear
from synthaug.models.vit import cut_patches

SIDE = 224  # px of the images as the network sees them
PATCH = 14
HEAD_WIDTH = 64
EPSILON = 1e-6
OFFSET = 0.1  # patches; the hub adds it against rounding, and everybody's features come from that
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class DinoConfig(NamedTuple):
    """The sizes of a network; heads have 64 channels in all published ones."""

    width: int
    num_layers: int
    grid: int = 37  # patches along a side that the learned positions are for


SIZES = {
    "dinov2-vits14": DinoConfig(384, 12),
    "dinov2-vitb14": DinoConfig(768, 12),
    "dinov2-vitl14": DinoConfig(1024, 24),
}


def name_of(config: DinoConfig) -> str:
    """Returns the name of a network, which stands in every result.

    Example:
        >>> name_of(DinoConfig(1024, 24)), name_of(DinoConfig(64, 2, 5))
        ('dinov2-vitl14', 'dinov2-64x2')
    """
    for name, published in SIZES.items():
        if config == published:
            return name
    return f"dinov2-{config.width}x{config.num_layers}"


class DinoLayer(nnx.Module):
    """A pre-norm layer with LayerScale: x + scale * attention(norm(x)), then the same of an MLP."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.num_heads = width // HEAD_WIDTH
        self.norm0 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.qkv = linear(width, 3 * width, rngs=rngs)
        self.out = linear(width, width, rngs=rngs)
        self.scale0 = nnx.Param(jnp.ones(width))
        self.norm1 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.linear0 = linear(width, 4 * width, rngs=rngs)
        self.linear1 = linear(4 * width, width, rngs=rngs)
        self.scale1 = nnx.Param(jnp.ones(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[B,L,D] of x f32[B,L,D]."""
        q, k, v = jnp.split(self.qkv(self.norm0(x)), 3, axis=-1)
        x = x + self.scale0[...][None, None] * self.out(attend(q, k, v, num_heads=self.num_heads))
        h = jax.nn.gelu(self.linear0(self.norm1(x)), approximate=False)
        return x + self.scale1[...][None, None] * self.linear1(h)


class Dino(nnx.Module):
    """Patches of 14 px with a class token and positions, layers, a norm."""

    def __init__(self, config: DinoConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.patches = linear(PATCH**2 * 3, config.width, rngs=rngs)
        self.token = nnx.Param(jnp.zeros(config.width))
        self.positions = nnx.Param(jnp.zeros((1 + config.grid**2, config.width)))
        self.layers = nnx.Dict(
            {f"layer{i}": DinoLayer(config.width, rngs=rngs) for i in range(config.num_layers)}
        )
        self.norm = LayerNorm(config.width, epsilon=EPSILON, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """Returns the class tokens behind the norm, f32[B,D], of normalised images f32[B,H,W,3].

        Args:
            images: H and W are multiples of 14 px.
            train: has no meaning: nothing is dropped.
            key: has none either.
        """
        grid = (images.shape[1] // PATCH, images.shape[2] // PATCH)
        x = self.patches(cut_patches(images, PATCH))
        first = jnp.broadcast_to(self.token[...][None, None], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + resample(self.positions[...], grid)[None]
        for i in range(self.config.num_layers):
            x = self.layers[f"layer{i}"](x)
        return self.norm(x[:, 0])


def build_dinov2(config: DinoConfig) -> Model:
    """Returns the network as pure functions: `apply(weights, images f32[B,H,W,3]) -> f32[B,D]`."""
    return functional(lambda rngs: Dino(config, rngs=rngs))


def prepare_images(images: jax.Array, side: int = SIDE) -> jax.Array:
    """Returns f32[B,side,side,3], images u8[B,H,W,3] as the network wants them.

    The resize is `torch.nn.functional.interpolate(mode="bicubic", antialias=True)` on f32, as EDM2 has it.
    """
    wide = images.astype(jnp.float32)
    if wide.shape[1:3] != (side, side):
        rows, columns = (_antialiased_weights(size, side) for size in wide.shape[1:3])
        wide = _interpolate(wide, rows, columns)
    mean, deviation = (
        jnp.array(numbers, jnp.float32)[None, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_DEVIATION)
    )
    return (wide / 255.0 - mean) / deviation


def resample(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Returns learned positions f32[1+h*w,D] for h x w patches, as torch.hub's network makes them.

    Args:
        positions: f32[1+n*n,D], that of the class token first.
        grid: (h, w).
    """
    side = math.isqrt(positions.shape[0] - 1)
    if grid == (side, side):
        return positions
    rows, columns = (_offset_weights(side, size) for size in grid)
    made = _interpolate(positions[1:].reshape(1, side, side, -1), rows, columns)
    return jnp.concatenate([positions[:1], made.reshape(grid[0] * grid[1], -1)])


def _interpolate(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Returns f32[B,H,W,C], x f32[B,h,w,C] by weights f64[H,h] and f64[W,w], in full f32 on every device."""
    tall, broad = (jnp.asarray(weights, jnp.float32) for weights in (rows, columns))
    x = jnp.einsum("Hh,bhwc->bHwc", tall, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("Ww,bHwc->bHWc", broad, x, precision=jax.lax.Precision.HIGHEST)


def _antialiased_weights(old: int, new: int) -> np.ndarray:
    """Returns f64[new,old], Pillow's and torch's bicubic filter (a = -0.5), widened where it shrinks.

    Weights beyond the border are left out and the rest sum to 1.
    """
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(old)[None] + 0.5 - centre) / max(scale, 1.0)
    weights = np.where(distance < 2, _keys(distance, -0.5), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _offset_weights(old: int, new: int) -> np.ndarray:
    """Returns f64[new,old], torch's bicubic interpolation (a = -0.75) by a scale factor of (new + 0.1) / old.

    Pixel centres lie at half integers, the border is repeated, and nothing is averaged where it shrinks.
    """
    position = (np.arange(new) + 0.5) * (old / (new + OFFSET)) - 0.5
    first = np.floor(position).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), place), _keys(np.abs(position - first - tap), -0.75))
    return weights


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns Keys' cubic kernel (1981) at distances in 0..2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)
