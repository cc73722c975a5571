"""The text-conditional U-Net of Imagen's base model and, with a low-resolution image, of its enlargers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment
from synthaug.models.blocks import Block, Context, TextPool, embedding_width
from synthaug.models.functional import Model, functional
from synthaug.models.layers import MLP, Conv3x3, GroupNorm, linear, sinusoid


class UNet(nnx.Module):
    """The U-Net: levels from high to low resolution, a middle, and the levels again with skip connections.

    Every block's output on the way down is concatenated to a block's input on the way up (ADM). The names of
    the parameters are `down/level0_block0/res/conv0/kernel` and so on, level 0 having the full resolution.
    """

    def __init__(
        self,
        settings: experiment.UNet,
        *,
        resolution: int,
        channels: int,
        out_channels: int,
        text_width: int,
        has_low_res: bool,
        rngs: nnx.Rngs,
    ):
        self.settings, self.has_low_res = settings, has_low_res
        width = embedding_width(settings)
        self.time = MLP(settings.channels, width, width, activation=nnx.silu, rngs=rngs)
        self.aug_level = (
            MLP(settings.channels, width, width, activation=nnx.silu, rngs=rngs) if has_low_res else None
        )
        self.text_pool = TextPool(text_width, width, head_dim=settings.head_dim, rngs=rngs)
        self.text = linear(text_width, width, rngs=rngs)
        self.conv_in = Conv3x3((1 + has_low_res) * channels, settings.channels, rngs=rngs)
        self.down, skips = _down_blocks(settings, resolution, rngs)
        deepest = int(settings.channels * settings.channel_mult[-1])
        number = len(self.down)
        self.middle0 = Block(deepest, deepest, settings, number=number, attention=True, rngs=rngs)
        self.middle1 = Block(deepest, deepest, settings, number=number + 1, rngs=rngs)
        self.up = _up_blocks(settings, resolution, skips, number + 2, rngs)
        top = int(settings.channels * settings.channel_mult[0])
        self.norm_out = GroupNorm(top, settings.norm_groups, rngs=rngs)
        self.conv_out = Conv3x3(top, out_channels, zero=True, rngs=rngs)

    def __call__(
        self,
        z_t: jax.Array,
        time: jax.Array,
        cond: dict[str, jax.Array],
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the prediction f32[B,H,W,out_channels].

        Args:
            z_t: f32[B,H,W,C], the noised image.
            time: f32[B] in 0..1000.
            cond: "text" f32[B,L,D] and "text_mask" bool[B,L], zeros and False for the null text; to enlarge
                images also "low_res" f32[B,H,W,C], enlarged and noised, and "aug_level" f32[B] in 0..1.
            train: whether dropout is on.
            key: of the dropout; may be None where dropout is 0 or train is False.
        """
        levels = range(len(self.settings.channel_mult))
        context = self._context(time, cond)
        h = self.conv_in(jnp.concatenate([z_t, cond["low_res"]], axis=-1) if self.has_low_res else z_t)
        skips = [h]
        for level in levels:
            for name in _names(
                level, self.settings.num_res_blocks[-1], "down" if level < levels[-1] else None
            ):
                h = self.down[name](h, context, train=train, key=key)
                skips.append(h)
        h = self.middle0(h, context, train=train, key=key)
        h = self.middle1(h, context, train=train, key=key)
        for level in reversed(levels):
            for name in _names(level, self.settings.num_res_blocks[-1] + 1, None):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.up[name](h, context, train=train, key=key)
            if level > 0:
                h = self.up[f"level{level}_up"](h, context, train=train, key=key)
        return self.conv_out(nnx.silu(self.norm_out(h)))

    def _context(self, time: jax.Array, cond: dict[str, jax.Array]) -> Context:
        """Returns what every block is told; computed once per call."""
        width, text, mask = self.settings.channels, cond["text"], cond["text_mask"]
        embedding = self.time(sinusoid(time, width)) + self.text_pool(text, mask)
        if self.aug_level is not None:
            embedding = embedding + self.aug_level(sinusoid(1000.0 * cond["aug_level"], width))
        return Context(nnx.silu(embedding), self.text(text), mask)


def build_unet(
    settings: experiment.UNet,
    *,
    resolution: int,
    channels: int,
    out_channels: int,
    text_width: int,
    has_low_res: bool,
) -> Model:
    """Returns the U-Net as pure functions: `apply(weights, z_t, time, cond)`, see `UNet.__call__`.

    Args:
        settings: its shape.
        resolution: H = W of the images it makes, px; decides which levels have attention.
        channels: C of the images.
        out_channels: C, or 2 C with a learned variance.
        text_width: D of the text embeddings.
        has_low_res: whether it enlarges images.
    """
    return functional(
        lambda rngs: UNet(
            settings,
            resolution=resolution,
            channels=channels,
            out_channels=out_channels,
            text_width=text_width,
            has_low_res=has_low_res,
            rngs=rngs,
        )
    )


def _names(level: int, num_blocks: int, last: str | None) -> list[str]:
    """Returns the names of a level's blocks in the order in which they run."""
    names = [f"level{level}_block{i}" for i in range(num_blocks)]
    return names if last is None else [*names, f"level{level}_{last}"]


def _down_blocks(settings: experiment.UNet, resolution: int, rngs: nnx.Rngs) -> tuple[nnx.Dict, list[int]]:
    """Returns the blocks on the way down and the channels of every skip connection, the input's first."""
    blocks, skips = nnx.Dict(), [settings.channels]
    for level, mult in enumerate(settings.channel_mult):
        attention = resolution >> level in settings.attention_resolutions
        for name in _names(level, settings.num_res_blocks[-1], None):
            blocks[name] = Block(
                skips[-1],
                int(mult * settings.channels),
                settings,
                number=len(blocks),
                attention=attention,
                rngs=rngs,
            )
            skips.append(int(mult * settings.channels))
        if level < len(settings.channel_mult) - 1:
            blocks[f"level{level}_down"] = Block(
                skips[-1], skips[-1], settings, number=len(blocks), resample="down", rngs=rngs
            )
            skips.append(skips[-1])
    return blocks, skips


def _up_blocks(
    settings: experiment.UNet, resolution: int, skips: list[int], number: int, rngs: nnx.Rngs
) -> nnx.Dict:
    """Returns the blocks on the way up; `skips` are the channels that join them, the last first."""
    blocks, skips, channels = nnx.Dict(), list(skips), skips[-1]
    for level, mult in reversed(list(enumerate(settings.channel_mult))):
        attention = resolution >> level in settings.attention_resolutions
        for name in _names(level, settings.num_res_blocks[-1] + 1, None):
            blocks[name] = Block(
                channels + skips.pop(),
                int(mult * settings.channels),
                settings,
                number=number + len(blocks),
                attention=attention,
                rngs=rngs,
            )
            channels = int(mult * settings.channels)
        if level > 0:
            blocks[f"level{level}_up"] = Block(
                channels, channels, settings, number=number + len(blocks), resample="up", rngs=rngs
            )
    return blocks
