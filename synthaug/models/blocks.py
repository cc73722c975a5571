"""The blocks of the U-Nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment, rng
from synthaug.models.attention import attend
from synthaug.models.layers import (
    Conv3x3,
    GroupNorm,
    LayerNorm,
    double,
    dropout,
    halve,
    linear,
)

Resample = Literal["none", "down", "up"]

TEXT_NORM_GROUPS = 32
"""Groups of `text_norm: group`, whatever the image's have (DeepFloyd IF)."""


class TextKeyValue(NamedTuple):
    """What one block's attention sees of the text: keys and values, f32[B,L,C] each."""

    key: jax.Array
    value: jax.Array


class Context(NamedTuple):
    """What every block is told.

    Attributes:
        embedding: f32[B,E] of the time and of what the images show, behind its activation.
        text: the keys and values of every block that attends to text, by the block's name.
        text_mask: bool[B,L], the tokens that may be attended to; None = all.
    """

    embedding: jax.Array
    text: dict[str, TextKeyValue]
    text_mask: jax.Array | None


class TextPool(nnx.Module):
    """Attention pooling of text: the mean token asks, it and all tokens answer (DeepFloyd IF)."""

    def __init__(self, width: int, out: int, *, num_heads: int, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.norm = LayerNorm(width, rngs=rngs)
        self.position = nnx.Param(jnp.zeros((1, width)))
        self.query = linear(width, width, rngs=rngs)
        self.key_value = linear(width, 2 * width, rngs=rngs)
        self.out = linear(width, out, rngs=rngs)
        self.norm_out = LayerNorm(out, rngs=rngs)

    def __call__(self, text: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns f32[B,out] of text f32[B,L,D]; finite where mask bool[B,L] is all False; None sees all."""
        tokens = self.norm(text)
        seen = jnp.ones(text.shape[:2], bool) if mask is None else mask
        kept = seen[:, :, None].astype(tokens.dtype)
        mean = (tokens * kept).sum(axis=1, keepdims=True) / jnp.maximum(kept.sum(axis=1, keepdims=True), 1.0)
        first = mean + self.position[...].astype(tokens.dtype)[None]
        key, value = jnp.split(self.key_value(jnp.concatenate([first, tokens], axis=1)), 2, axis=-1)
        seen = None if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        pooled = attend(self.query(first), key, value, num_heads=self.num_heads, mask=seen)
        return self.norm_out(self.out(pooled[:, 0]))


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
        self.settings, self.resample = settings, resample
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
        activate = activation(self.settings)
        h = self._resampled(activate(self.norm0(x)))
        scale, shift = jnp.split(self.embedding(embedding), 2, axis=-1)
        h = activate(self.norm1(self.conv0(h), (scale, shift)))
        h = self.conv1(dropout(h, self.settings.dropout, train=train, key=key))
        x = self._resampled(x)
        h = h + (x if self.skip is None else self.skip(x))
        return h if self.settings.residual_scale == 1.0 else h * self.settings.residual_scale

    def _resampled(self, x: jax.Array) -> jax.Array:
        if self.resample == "none":
            return x
        return halve(x) if self.resample == "down" else double(x)


class Attention(nnx.Module):
    """Attention of the image to itself, to the text, or to both at once.

    With `self+text` the text's keys and values stand in front of the image's (Imagen, base and 64->256).
    """

    def __init__(self, channels: int, settings: experiment.UNet, *, rngs: nnx.Rngs):
        self.mode = attention_mode(settings)
        self.num_heads = settings.num_heads or channels // settings.head_dim
        self.norm = GroupNorm(channels, settings.norm_groups, rngs=rngs)
        if self.mode == "text":
            self.query = linear(channels, channels, rngs=rngs)
        else:
            self.qkv = linear(channels, 3 * channels, rngs=rngs)
        if self.mode != "self":
            width = text_channels(settings)
            self.text_norm = (
                LayerNorm(width, rngs=rngs)
                if settings.text_norm == "layer"
                else GroupNorm(width, TEXT_NORM_GROUPS, rngs=rngs)
            )
            self.text_key_value = linear(width, 2 * channels, rngs=rngs)
        self.out = linear(channels, channels, zero=True, rngs=rngs)

    def read_text(self, text: jax.Array, mask: jax.Array | None) -> TextKeyValue:
        """Returns the keys and values of text f32[B,L,E], of which mask bool[B,L] is seen; None = all."""
        if isinstance(self.text_norm, LayerNorm):
            text = self.text_norm(text)
        else:
            column = text[:, :, None, :]  # the tokens as the pixels of an image of one column
            text = self.text_norm(column, kept=None if mask is None else mask[:, :, None])[:, :, 0]
        return TextKeyValue(*jnp.split(self.text_key_value(text), 2, axis=-1))

    def __call__(self, x: jax.Array, text: TextKeyValue | None, mask: jax.Array | None) -> jax.Array:
        """Returns f32[B,H,W,C] of x f32[B,H,W,C], the text's keys and values and its mask bool[B,L]."""
        b, h, w, c = x.shape
        normed = self.norm(x).reshape(b, h * w, c)
        if text is None:
            query, key, value = jnp.split(self.qkv(normed), 3, axis=-1)
            mask = None
        elif self.mode == "text":
            query, key, value = self.query(normed), text.key, text.value
        else:
            query, key, value = jnp.split(self.qkv(normed), 3, axis=-1)
            key = jnp.concatenate([text.key, key], axis=1)
            value = jnp.concatenate([text.value, value], axis=1)
            # The image's own keys are always seen, so that text that is masked out entirely gives no NaN.
            mask = None if mask is None else jnp.pad(mask, ((0, 0), (0, h * w)), constant_values=True)
        update = attend(query, key, value, num_heads=self.num_heads, mask=mask)
        if self.mode == "text" and mask is not None:
            # Softmax over nothing is a mean over everything; what is masked must not show.
            update = jnp.where(mask.any(axis=1)[:, None, None], update, 0.0)
        return x + self.out(update).reshape(b, h, w, c)


class Block(nnx.Module):
    """A residual block and, where the level has it, attention."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        settings: experiment.UNet,
        *,
        name: str,
        number: int,
        attention: bool = False,
        resample: Resample = "none",
        rngs: nnx.Rngs,
    ):
        self.name = name  # of this block in its U-Net, e.g. down/level0_block1
        self.number = number  # makes its dropout differ from the others'
        self.res = ResBlock(channels, out_channels, settings, resample=resample, rngs=rngs)
        self.attention = Attention(out_channels, settings, rngs=rngs) if attention else None

    def __call__(self, x: jax.Array, context: Context, *, train: bool, key: jax.Array | None) -> jax.Array:
        """Returns f32[B,H',W',C'] of x f32[B,H,W,C]; `key` is the whole U-Net's."""
        own_key = None if key is None else rng.at(key, self.number)
        x = self.res(x, context.embedding, train=train, key=own_key)
        if self.attention is None:
            return x
        return self.attention(x, context.text.get(self.name), context.text_mask)


def activation(settings: experiment.UNet) -> Callable[[jax.Array], jax.Array]:
    """Returns the U-Net's activation."""
    return nnx.silu if settings.activation == "silu" else exact_gelu


def exact_gelu(x: jax.Array) -> jax.Array:
    """Returns x Phi(x), with the error function and not the tanh that approximates it (DeepFloyd IF)."""
    return jax.nn.gelu(x, approximate=False)


def attention_mode(settings: experiment.UNet) -> str:
    """Returns what attention sees: "self+text", "self" or "text"; a network without text has only itself."""
    return settings.attention if settings.conditioning == "text" else "self"


def embedding_width(settings: experiment.UNet) -> int:
    """Returns E, the width of the time embedding (by default as in ADM and DeepFloyd IF I)."""
    return settings.embedding_width or 4 * settings.channels


def text_channels(settings: experiment.UNet) -> int:
    """Returns the width of the text inside the U-Net."""
    return settings.text_channels or embedding_width(settings)


def text_pool_heads(settings: experiment.UNet, text_width: int) -> int:
    """Returns the heads of the attention pooling, by default of head_dim or the next width that divides."""
    wanted = settings.text_pool_heads or max(1, text_width // settings.head_dim)
    return next(heads for heads in range(wanted, 0, -1) if text_width % heads == 0)
