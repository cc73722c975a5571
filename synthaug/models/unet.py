"""The U-Net of ADM, of Imagen's base and of DeepFloyd IF; with a low-resolution image, of their enlargers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment
from synthaug.models.blocks import (
    Block,
    Context,
    TextPool,
    activation,
    attention_mode,
    embedding_width,
    text_channels,
    text_pool_heads,
)
from synthaug.models.conditioning import build_context, read_text
from synthaug.models.functional import Model, functional
from synthaug.models.layers import DTYPES, MLP, Conv3x3, GroupNorm, linear, standard_normal


class UNet(nnx.Module):
    """The U-Net: levels from high to low resolution, a middle, and the levels again with skip connections.

    Every block's output on the way down is concatenated to a block's input on the way up (ADM). The names of
    the parameters are `down/level0_block0/res/conv0/kernel` and so on, level 0 having the full resolution.
    """

    def __init__(self, network: experiment.Network, *, compute: str, remat: bool, rngs: nnx.Rngs):
        settings = network.unet
        self.settings, self.compute, self.remat = settings, compute, remat
        self.has_low_res = network.low_res
        width, activate = embedding_width(settings), activation(settings)
        self.time = MLP(settings.channels, width, width, activation=activate, rngs=rngs)
        told = network.low_res and network.augmentation != "none"
        self.aug_level = (
            MLP(settings.channels, width, width, activation=activate, rngs=rngs) if told else None
        )
        if settings.conditioning == "label":
            self.label = nnx.Param(standard_normal(rngs.params(), (network.num_classes, width)))
        else:
            heads = text_pool_heads(settings, network.text_width)
            self.text_pool = TextPool(network.text_width, width, num_heads=heads, rngs=rngs)
            if attention_mode(settings) != "self":
                self.text = linear(network.text_width, text_channels(settings), rngs=rngs)
        top = int(settings.channels * settings.channel_mult[0])
        deepest = int(settings.channels * settings.channel_mult[-1])
        self.conv_in = Conv3x3((1 + network.low_res) * network.channels, top, rngs=rngs)
        self.down, skips = _down_blocks(settings, network.resolution, rngs)
        block = functools.partial(Block, deepest, deepest, settings, rngs=rngs)
        self.middle0 = block(name="middle0", number=len(self.down), attention=True)
        self.middle1 = block(name="middle1", number=len(self.down) + 1)
        self.up = _up_blocks(settings, network.resolution, skips, len(self.down) + 2, rngs)
        self.norm_out = GroupNorm(top, settings.norm_groups, rngs=rngs)
        self.conv_out = Conv3x3(top, network.out_channels, zero=True, rngs=rngs)

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
            z_t: f32[B,H,W,C], the noised image; H and W are multiples of 2^(levels - 1).
            time: f32[B] in 0..1000.
            cond: what the images show: "label" i32[B]; or "text" f32[B,L,D] and "text_mask" bool[B,L], zeros
                and False for no text; or "text_state", what `read_text` returned of these two. To enlarge
                images also "low_res" f32[B,H,W,C], enlarged and noised, and, where the network is told of
                the noise, "aug_time" f32[B] in 0..1000.
            train: whether dropout is on.
            key: of the dropout; may be None where dropout is 0 or train is False.
        """
        run = functools.partial(self._run, context=build_context(self, time, cond), train=train, key=key)
        x = jnp.concatenate([z_t, cond["low_res"]], axis=-1) if self.has_low_res else z_t
        h = self.conv_in(x.astype(DTYPES[self.compute]))
        skips = [h]
        for name in block_names(self.settings, "down"):
            h = run(self.down[name], h)
            skips.append(h)
        h = run(self.middle1, run(self.middle0, h))
        for name in block_names(self.settings, "up"):
            h = run(self.up[name], h if name.endswith("up") else jnp.concatenate([h, skips.pop()], axis=-1))
        return self.conv_out(activation(self.settings)(self.norm_out(h))).astype(jnp.float32)

    def read_text(self, text: jax.Array, mask: jax.Array) -> dict[str, Any]:
        """Returns what the network needs of text f32[B,L,D] and its mask bool[B,L], see `conditioning`."""
        blocks = [*self.down.values(), self.middle0, *self.up.values()]
        attending = {block.name: block.attention for block in blocks if block.attention is not None}
        return read_text(self, attending, text, mask)

    def _run(
        self, block: Block, x: jax.Array, *, context: Context, train: bool, key: jax.Array | None
    ) -> jax.Array:
        """Returns the block's output; with `remat` its activations are computed again for the gradient."""
        run = functools.partial(block, train=train, key=key)
        return (jax.checkpoint(run) if self.remat and train else run)(x, context)


def build_unet(network: experiment.Network, *, compute: str = "f32", remat: bool = False) -> Model:
    """Returns the U-Net as pure functions: `apply(weights, z_t, time, cond)`, see `UNet.__call__`.

    `apply(weights, text, text_mask, method="read_text")` is `UNet.read_text`.

    Args:
        network: what it is apart from its weights; its resolution decides which levels have attention, not
            the size of the images it runs on.
        compute: "bf16" runs convolutions, matrix products and what is between them in bfloat16; weights,
            moments of norms, softmax, the embedding of the time and the output are f32 in either case.
        remat: whether training keeps only the blocks' inputs and computes what is inside them again.
    """
    if network.unet.kind == "efficient":
        from synthaug.models.efficient_unet import EfficientUNet

        return functional(lambda rngs: EfficientUNet(network, compute=compute, remat=remat, rngs=rngs))
    return functional(lambda rngs: UNet(network, compute=compute, remat=remat, rngs=rngs))


def num_res_blocks(settings: experiment.UNet, level: int) -> int:
    """Returns the residual blocks of a level on the way down; on the way up there is one more."""
    blocks = settings.num_res_blocks
    return blocks[0] if len(blocks) == 1 else blocks[level]


def block_names(settings: experiment.UNet, way: str, levels: Sequence[int] | None = None) -> list[str]:
    """Returns the names of the blocks in the order in which they run.

    Args:
        settings: the U-Net's.
        way: "down" or "up".
        levels: only these; None = all.
    """
    last = len(settings.channel_mult) - 1
    every = range(last + 1) if way == "down" else range(last, -1, -1)
    names = []
    for level in every if levels is None else levels:
        count = num_res_blocks(settings, level) + (way == "up")
        names += [f"level{level}_block{i}" for i in range(count)]
        if level != (last if way == "down" else 0):
            names.append(f"level{level}_{way}")
    return names


def _down_blocks(settings: experiment.UNet, resolution: int, rngs: nnx.Rngs) -> tuple[nnx.Dict, list[int]]:
    """Returns the blocks on the way down and the channels of every skip connection, the input's first."""
    blocks, skips = nnx.Dict(), [int(settings.channels * settings.channel_mult[0])]
    for level, mult in enumerate(settings.channel_mult):
        attention = resolution >> level in settings.attention_resolutions
        for name in block_names(settings, "down", [level]):
            halves = name.endswith("down")
            blocks[name] = Block(
                skips[-1],
                int(mult * settings.channels),
                settings,
                name=f"down/{name}",
                number=len(blocks),
                attention=attention and not halves,
                resample="down" if halves else "none",
                rngs=rngs,
            )
            skips.append(int(mult * settings.channels))
    return blocks, skips


def _up_blocks(
    settings: experiment.UNet, resolution: int, skips: list[int], number: int, rngs: nnx.Rngs
) -> nnx.Dict:
    """Returns the blocks on the way up; `skips` are the channels that join them, the last first."""
    blocks, skips, channels = nnx.Dict(), list(skips), skips[-1]
    for level, mult in reversed(list(enumerate(settings.channel_mult))):
        attention = resolution >> level in settings.attention_resolutions
        for name in block_names(settings, "up", [level]):
            doubles = name.endswith("up")
            blocks[name] = Block(
                channels if doubles else channels + skips.pop(),
                int(mult * settings.channels),
                settings,
                name=f"up/{name}",
                number=number + len(blocks),
                attention=attention and not doubles,
                resample="up" if doubles else "none",
                rngs=rngs,
            )
            channels = int(mult * settings.channels)
    return blocks
