"""Residual networks for small images (He et al. 2016, the CIFAR stem)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment
from synthaug.models.batch_norm import BatchNorm, drop_rates
from synthaug.models.bottleneck import block_names, end_block, make_shortcut, run_blocks
from synthaug.models.layers import DTYPES, Conv3x3, dropout, linear


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut; the last scale starts at 0 (Goyal et al. 2017)."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        stride: int,
        momentum: float,
        drop_rate: float,
        rngs: nnx.Rngs,
    ):
        self.drop_rate = drop_rate
        # No bias in front of a batch norm, which would take it out again.
        self.conv0 = Conv3x3(channels, out_channels, stride=stride, bias=False, rngs=rngs)
        self.norm0 = BatchNorm(out_channels, momentum=momentum, rngs=rngs)
        self.conv1 = Conv3x3(out_channels, out_channels, bias=False, rngs=rngs)
        self.norm1 = BatchNorm(out_channels, momentum=momentum, zero=True, rngs=rngs)
        self.shortcut = make_shortcut(
            channels, out_channels, stride=stride, average=False, momentum=momentum, rngs=rngs
        )

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """Returns f32[B,H/s,W/s,C'] of x f32[B,H,W,C]."""
        h = nnx.relu(self.norm0(self.conv0(x), train=train))
        h = self.norm1(self.conv1(h), train=train)
        return end_block(self, x, h, train=train, key=key)


class ResNet(nnx.Module):
    """A 3x3 stem, stages that double the channels and halve the side, average pooling, a head."""

    def __init__(self, settings: experiment.Classifier, *, channels: int, num_classes: int, rngs: nnx.Rngs):
        self.settings, self.names = settings, block_names(settings.depths)
        width, momentum = settings.width, settings.norm_momentum
        self.stem = Conv3x3(channels, width, bias=False, rngs=rngs)
        self.stem_norm = BatchNorm(width, momentum=momentum, rngs=rngs)
        self.blocks = nnx.Dict()
        rates = drop_rates(settings.drop_path, len(self.names))
        for (name, stage, first), rate in zip(self.names, rates, strict=True):
            self.blocks[name] = BasicBlock(
                width,
                settings.width << stage,
                stride=2 if first and stage else 1,
                momentum=momentum,
                drop_rate=rate,
                rngs=rngs,
            )
            width = settings.width << stage
        self.head = linear(width, num_classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits f32[B,K] and the features f32[B,D] in front of the head.

        Args:
            images: f32[B,H,W,C], normalised.
            train: whether batch statistics are the batch's own (and move), and branches and features are
                dropped.
            key: of what is dropped.
        """
        x = self.stem(images.astype(DTYPES[self.settings.compute]))
        x = nnx.relu(self.stem_norm(x, train=train))
        x = run_blocks(self, x, train=train, key=key)
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return self.head(dropout(features, self.settings.dropout, train=train, key=key)), features
