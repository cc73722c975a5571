"""The blocks of the U-Net."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment, rng
from synthaug.models.layers import Conv3x3, GroupNorm, attend, double, dropout, halve, linear

Resample = Literal["none", "down", "up"]


class Context(NamedTuple):
    """What every block is told: activated embedding f32[B,E], text f32[B,L,E], its mask bool[B,L]."""

    embedding: jax.Array
    text: jax.Array
    text_mask: jax.Array


class TextPool(nnx.Module):
    """Attention pooling of text: the mean token asks, it and all tokens answer (DeepFloyd IF)."""

    def __init__(self, width: int, out: int, *, head_dim: int, rngs: nnx.Rngs):
        self.num_heads = max(1, width // head_dim)
        inner = self.num_heads * head_dim
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        # Without bias: one added to all keys alike cancels in the softmax and could never be learned.
        self.query = linear(width, inner, bias=False, rngs=rngs)
        self.key_value = linear(width, 2 * inner, bias=False, rngs=rngs)
        self.out = linear(inner, out, rngs=rngs)

    def __call__(self, text: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns f32[B,out] of text f32[B,L,D] and mask bool[B,L]; finite for a mask that is all False."""
        tokens = self.norm(text)
        kept = mask[:, :, None].astype(tokens.dtype)
        mean = (tokens * kept).sum(axis=1, keepdims=True) / jnp.maximum(kept.sum(axis=1, keepdims=True), 1.0)
        key, value = jnp.split(self.key_value(jnp.concatenate([mean, tokens], axis=1)), 2, axis=-1)
        seen = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        pooled = attend(self.query(mean), key, value, num_heads=self.num_heads, mask=seen)
        return self.out(pooled[:, 0])


class ResBlock(nnx.Module):
    """A BigGAN-type residual block: re-sampling sits inside, on both branches (ADM; Imagen App. F)."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        settings: experiment.UNet,
        *,
        resample: Resample = "none",
        rngs: nnx.Rngs,
    ):
        self.dropout, self.resample = settings.dropout, resample
        self.norm0 = GroupNorm(channels, settings.norm_groups, rngs=rngs)
        self.conv0 = Conv3x3(channels, out_channels, rngs=rngs)
        self.embedding = linear(embedding_width(settings), 2 * out_channels, rngs=rngs)
        self.norm1 = GroupNorm(out_channels, settings.norm_groups, rngs=rngs)
        self.conv1 = Conv3x3(out_channels, out_channels, zero=True, rngs=rngs)
        # A 1x1 convolution, written as the matrix product it is.
        self.skip = None if channels == out_channels else linear(channels, out_channels, rngs=rngs)

    def __call__(
        self, x: jax.Array, embedding: jax.Array, *, train: bool, key: jax.Array | None
    ) -> jax.Array:
        """Returns f32[B,H',W',C'] of x f32[B,H,W,C] and the activated embedding f32[B,E]."""
        h = self._resampled(nnx.silu(self.norm0(x)))
        scale, shift = jnp.split(self.embedding(embedding), 2, axis=-1)
        h = nnx.silu(self.norm1(self.conv0(h), (scale, shift)))
        h = self.conv1(dropout(h, self.dropout, train=train, key=key))
        x = self._resampled(x)
        return h + (x if self.skip is None else self.skip(x))

    def _resampled(self, x: jax.Array) -> jax.Array:
        if self.resample == "none":
            return x
        return halve(x) if self.resample == "down" else double(x)


class Attention(nnx.Module):
    """Self-attention with the text's keys and values in front of the image's (Imagen, base and 64->256)."""

    def __init__(self, channels: int, settings: experiment.UNet, *, rngs: nnx.Rngs):
        width = embedding_width(settings)
        self.num_heads = channels // settings.head_dim
        self.norm = GroupNorm(channels, settings.norm_groups, rngs=rngs)
        self.qkv = linear(channels, 3 * channels, rngs=rngs)
        self.text_norm = nnx.LayerNorm(width, rngs=rngs)
        self.text_key_value = linear(width, 2 * channels, rngs=rngs)
        self.out = linear(channels, channels, zero=True, rngs=rngs)

    def __call__(self, x: jax.Array, text: jax.Array, text_mask: jax.Array) -> jax.Array:
        """Returns f32[B,H,W,C] of x f32[B,H,W,C], text f32[B,L,E] and text_mask bool[B,L]."""
        b, h, w, c = x.shape
        query, key, value = jnp.split(self.qkv(self.norm(x)).reshape(b, h * w, 3 * c), 3, axis=-1)
        text_key, text_value = jnp.split(self.text_key_value(self.text_norm(text)), 2, axis=-1)
        update = attend(
            query,
            jnp.concatenate([text_key, key], axis=1),
            jnp.concatenate([text_value, value], axis=1),
            num_heads=self.num_heads,
            # The image's own keys are always seen, so that text that is masked out entirely gives no NaN.
            mask=jnp.pad(text_mask, ((0, 0), (0, h * w)), constant_values=True),
        )
        return x + self.out(update).reshape(b, h, w, c)


class Block(nnx.Module):
    """A residual block and, where the level has it, attention."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        settings: experiment.UNet,
        *,
        number: int,
        attention: bool = False,
        resample: Resample = "none",
        rngs: nnx.Rngs,
    ):
        self.number = number  # of this block in its U-Net; makes its dropout differ from the others'
        self.res = ResBlock(channels, out_channels, settings, resample=resample, rngs=rngs)
        self.attention = Attention(out_channels, settings, rngs=rngs) if attention else None

    def __call__(self, x: jax.Array, context: Context, *, train: bool, key: jax.Array | None) -> jax.Array:
        """Returns f32[B,H',W',C'] of x f32[B,H,W,C]; `key` is the whole U-Net's."""
        own_key = None if key is None else rng.at(key, self.number)
        x = self.res(x, context.embedding, train=train, key=own_key)
        return x if self.attention is None else self.attention(x, context.text, context.text_mask)


def embedding_width(settings: experiment.UNet) -> int:
    """Returns E, the width of the time embedding and of the text inside the U-Net (ADM, DeepFloyd IF)."""
    return 4 * settings.channels
