"""Imagen's Efficient U-Net (Saharia et al. 2022, App. F.1, Fig. A.27 to A.30), for 64->256 and 256->1024."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment, rng
from synthaug.models.blocks import (
    Attention,
    Context,
    TextPool,
    activation,
    attention_mode,
    embedding_width,
    text_channels,
    text_pool_heads,
)
from synthaug.models.conditioning import build_context, read_text
from synthaug.models.layers import (
    DTYPES,
    MLP,
    Conv3x3,
    GroupNorm,
    double,
    dropout,
    linear,
    standard_normal,
)
from synthaug.models.unet import num_res_blocks

SKIP_SCALE = 1 / math.sqrt(2)
"""Of what a level on the way down adds to its twin on the way up; Imagen found that it trains much faster."""


class ResNetBlock(nnx.Module):
    """Norm, activation, convolution, twice, beside a 1x1 convolution (Fig. A.27); widths do not change."""

    def __init__(self, channels: int, settings: experiment.UNet, *, number: int, rngs: nnx.Rngs):
        self.settings = settings
        self.number = number  # of this block in its U-Net; makes its dropout differ from the others'
        self.norm0 = GroupNorm(channels, settings.norm_groups, rngs=rngs)
        self.conv0 = Conv3x3(channels, channels, rngs=rngs)
        self.embedding = linear(embedding_width(settings), 2 * channels, rngs=rngs)
        self.norm1 = GroupNorm(channels, settings.norm_groups, rngs=rngs)
        self.conv1 = Conv3x3(channels, channels, zero=True, rngs=rngs)
        self.skip = linear(channels, channels, rngs=rngs)

    def __call__(self, x: jax.Array, context: Context, *, train: bool, key: jax.Array | None) -> jax.Array:
        """Returns f32[B,H,W,C] of x f32[B,H,W,C]; `key` is the whole U-Net's."""
        activate, own_key = activation(self.settings), None if key is None else rng.at(key, self.number)
        scale, shift = jnp.split(self.embedding(context.embedding), 2, axis=-1)
        h = self.conv0(activate(self.norm0(x)))
        h = activate(self.norm1(h, (scale, shift)))
        h = self.conv1(dropout(h, self.settings.dropout, train=train, key=own_key)) + self.skip(x)
        return h if self.settings.residual_scale == 1.0 else h * self.settings.residual_scale


class FeedForward(nnx.Module):
    """Two matrix products per pixel, the inner width twice the outer ("hidden 2 x channels")."""

    def __init__(self, channels: int, settings: experiment.UNet, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, settings.norm_groups, rngs=rngs)
        self.mlp = MLP(channels, 2 * channels, channels, activation=activation(settings), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[B,H,W,C] of x f32[B,H,W,C]."""
        return x + self.mlp(self.norm(x))


class Transformer(nnx.Module):
    """Attention and, where the image attends to itself, a feed-forward network."""

    def __init__(self, channels: int, settings: experiment.UNet, *, name: str, rngs: nnx.Rngs):
        self.name = name  # of this block in its U-Net, e.g. down/level3_attention
        self.attention = Attention(channels, settings, rngs=rngs)
        only_text = attention_mode(settings) == "text"
        self.feed = None if only_text else FeedForward(channels, settings, rngs=rngs)

    def __call__(self, x: jax.Array, context: Context, *, train: bool, key: jax.Array | None) -> jax.Array:
        """Returns f32[B,H,W,C] of x f32[B,H,W,C]; nothing in it differs in training."""
        del train, key
        x = self.attention(x, context.text.get(self.name), context.text_mask)
        return x if self.feed is None else self.feed(x)


class EfficientUNet(nnx.Module):
    """Few blocks at high resolution, many at low: every level begins by halving and ends by doubling.

    Level i works at 2^-(i+1) of the images' resolution. Parameters are called `down/level0_in/kernel` (the
    convolution that halves), `down/level0_block0/conv0/kernel`, `down/level3_attention/attention/qkv/kernel`,
    `up/level0_out/kernel` (the convolution behind the doubling) and so on.

    What the paper leaves open is done as here: the skip connection of a level is added, not concatenated (the
    deepest has none, it is the next thing anyway); a level's embedding is the scale and shift of its blocks'
    second norm; doubling repeats pixels; the way up has the widths of the way down.
    """

    def __init__(self, network: experiment.Network, *, compute: str, remat: bool, rngs: nnx.Rngs):
        settings = network.unet
        self.settings, self.compute, self.remat = settings, compute, remat
        self.has_low_res = network.low_res
        width, activate = embedding_width(settings), activation(settings)
        mlp = functools.partial(MLP, settings.channels, width, width, activation=activate, rngs=rngs)
        self.time = mlp()
        self.aug_level = mlp() if network.low_res and network.augmentation != "none" else None
        if settings.conditioning == "label":
            self.label = nnx.Param(standard_normal(rngs.params(), (network.num_classes, width)))
        else:
            heads = text_pool_heads(settings, network.text_width)
            self.text_pool = TextPool(network.text_width, width, num_heads=heads, rngs=rngs)
            if attention_mode(settings) != "self":
                self.text = linear(network.text_width, text_channels(settings), rngs=rngs)
        widths = [int(mult * settings.channels) for mult in settings.channel_mult]
        self.conv_in = Conv3x3((1 + network.low_res) * network.channels, widths[0], rngs=rngs)
        self.down, self.up = nnx.Dict(), nnx.Dict()
        for level, channels in enumerate(widths):
            before = widths[max(0, level - 1)]
            self.down[f"level{level}_in"] = Conv3x3(before, channels, stride=2, rngs=rngs)
            self._add_blocks("down", level, channels, network, rngs)
        for level, channels in reversed(list(enumerate(widths))):
            self._add_blocks("up", level, channels, network, rngs)
            self.up[f"level{level}_out"] = Conv3x3(channels, widths[max(0, level - 1)], rngs=rngs)
        self.out = linear(widths[0], network.out_channels, zero=True, rngs=rngs)

    def _add_blocks(
        self, side: str, level: int, channels: int, network: experiment.Network, rngs: nnx.Rngs
    ) -> None:
        blocks, settings = getattr(self, side), network.unet
        for name in _blocks(settings, level):
            number = len(self.down) + len(self.up)
            blocks[name] = ResNetBlock(channels, settings, number=number, rngs=rngs)
        if network.resolution >> (level + 1) in settings.attention_resolutions:
            name = f"level{level}_attention"
            blocks[name] = Transformer(channels, settings, name=f"{side}/{name}", rngs=rngs)

    def __call__(
        self,
        z_t: jax.Array,
        time: jax.Array,
        cond: dict[str, Any],
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the prediction f32[B,H,W,out_channels].

        Args:
            z_t: f32[B,H,W,C], the noised image; H and W are multiples of 2^levels.
            time: f32[B] in 0..1000.
            cond: as of `unet.UNet`.
            train: whether dropout is on.
            key: of the dropout; may be None where dropout is 0 or train is False.
        """
        levels, context = range(len(self.settings.channel_mult)), build_context(self, time, cond)
        run = functools.partial(self._level, context=context, train=train, key=key)
        x = jnp.concatenate([z_t, cond["low_res"]], axis=-1) if self.has_low_res else z_t
        h = self.conv_in(x.astype(DTYPES[self.compute]))
        skips = []
        for level in levels:
            h = run("down", level, self.down[f"level{level}_in"](h))
            skips.append(h * SKIP_SCALE)
        for level in reversed(levels):
            h = run("up", level, h if level == levels[-1] else h + skips[level])
            h = self.up[f"level{level}_out"](double(h))
        return self.out(h).astype(jnp.float32)

    def read_text(self, text: jax.Array, mask: jax.Array) -> dict[str, Any]:
        """Returns what the network needs of text f32[B,L,D] and its mask bool[B,L], see `conditioning`."""
        blocks = [*self.down.values(), *self.up.values()]
        attending = {b.name: b.attention for b in blocks if isinstance(b, Transformer)}
        return read_text(self, attending, text, mask)

    def _level(
        self,
        side: str,
        level: int,
        x: jax.Array,
        *,
        context: Context,
        train: bool,
        key: jax.Array | None,
    ) -> jax.Array:
        """Returns the output of a level's blocks; with `remat` they are computed again for the gradient."""
        blocks = getattr(self, side)
        for name in [*_blocks(self.settings, level), f"level{level}_attention"]:
            if name in blocks:
                run = functools.partial(blocks[name], train=train, key=key)
                x = (jax.checkpoint(run) if self.remat and train else run)(x, context)
        return x


def _blocks(settings: experiment.UNet, level: int) -> list[str]:
    """Returns the names of a level's residual blocks; it has as many on the way down as on the way up."""
    return [f"level{level}_block{i}" for i in range(num_res_blocks(settings, level))]
