"""The vision transformer (Dosovitskiy et al. 2021) with global average pooling."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment, rng
from synthaug.models.layers import TransformerBlock, linear, standard_normal


class ViT(nnx.Module):
    """Patches with learned positions, pre-norm transformer layers, average pooling, a head."""

    def __init__(
        self,
        settings: experiment.Classifier,
        *,
        resolution: int,
        channels: int,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        self.settings, width = settings, settings.width
        self.num_layers = sum(settings.depths)
        tokens = (resolution // settings.patch_size) ** 2
        self.patches = linear(settings.patch_size**2 * channels, width, rngs=rngs)
        self.positions = nnx.Param(standard_normal(rngs.params(), (tokens, width)) / math.sqrt(width))
        self.blocks = nnx.Dict(
            {
                f"block{i}": TransformerBlock(width, settings.num_heads, dropout=settings.dropout, rngs=rngs)
                for i in range(self.num_layers)
            }
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = linear(width, num_classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits f32[B,K] and the features f32[B,D] in front of the head.

        Args:
            images: f32[B,H,W,C] in [-1, 1].
            train: whether dropout is on.
            key: of the dropout inside the layers.
        """
        x = self.patches(cut_patches(images, self.settings.patch_size)) + self.positions[...][None]
        for i in range(self.num_layers):
            own_key = None if key is None else rng.at(key, i)
            x = self.blocks[f"block{i}"](x, train=train, key=own_key)
        features = jnp.mean(self.norm(x), axis=1)
        return self.head(features), features


def cut_patches(images: jax.Array, side: int) -> jax.Array:
    """Returns f32[B,HW/side^2,side*side*C], the squares of f32[B,H,W,C] row by row.

    Example:
        >>> cut_patches(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, 1].tolist()
        [2.0, 3.0, 6.0, 7.0]
    """
    b, h, w, c = images.shape
    squares = images.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, h * w // side**2, side * side * c)
