"""Residual networks for small images (He et al. 2016, the CIFAR stem)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment
from synthaug.models.layers import Conv3x3, dropout, lecun_normal, linear


def batch_norm(channels: int, *, zero: bool = False, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Returns batch normalisation with the moments of Cloud TPU's ResNet; `zero` starts its scale at 0."""
    start = nnx.initializers.zeros if zero else nnx.initializers.ones
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, scale_init=start, rngs=rngs)


class Shortcut(nnx.Module):
    """A normalised 1x1 convolution, where a block changes the shape."""

    def __init__(self, channels: int, out_channels: int, *, stride: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels, out_channels, (1, 1), stride, use_bias=False, kernel_init=lecun_normal, rngs=rngs
        )
        self.norm = batch_norm(out_channels, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[B,H/s,W/s,C'] of x f32[B,H,W,C]."""
        return self.norm(self.conv(x), use_running_average=not train)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut; the last scale starts at 0 (Goyal et al. 2017)."""

    def __init__(self, channels: int, out_channels: int, *, stride: int, rngs: nnx.Rngs):
        # No bias in front of a batch norm, which would take it out again.
        self.conv0 = Conv3x3(channels, out_channels, stride=stride, bias=False, rngs=rngs)
        self.norm0 = batch_norm(out_channels, rngs=rngs)
        self.conv1 = Conv3x3(out_channels, out_channels, bias=False, rngs=rngs)
        self.norm1 = batch_norm(out_channels, zero=True, rngs=rngs)
        direct = stride == 1 and channels == out_channels
        self.shortcut = None if direct else Shortcut(channels, out_channels, stride=stride, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[B,H/s,W/s,C'] of x f32[B,H,W,C]."""
        h = nnx.relu(self.norm0(self.conv0(x), use_running_average=not train))
        h = self.norm1(self.conv1(h), use_running_average=not train)
        return nnx.relu(h + (x if self.shortcut is None else self.shortcut(x, train=train)))


class ResNet(nnx.Module):
    """A 3x3 stem, stages that double the channels and halve the side, average pooling, a head."""

    def __init__(self, settings: experiment.Classifier, *, channels: int, num_classes: int, rngs: nnx.Rngs):
        self.settings = settings
        self.stem = Conv3x3(channels, settings.width, bias=False, rngs=rngs)
        self.stem_norm = batch_norm(settings.width, rngs=rngs)
        self.blocks, width = nnx.Dict(), settings.width
        for stage, depth in enumerate(settings.depths):
            for i in range(depth):
                out, stride = settings.width * 2**stage, 2 if stage > 0 and i == 0 else 1
                self.blocks[f"stage{stage}_block{i}"] = BasicBlock(width, out, stride=stride, rngs=rngs)
                width = out
        self.head = linear(width, num_classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits f32[B,K] and the features f32[B,D] in front of the head.

        Args:
            images: f32[B,H,W,C] in [-1, 1].
            train: whether batch statistics are the batch's own (and move), and dropout is on.
            key: of the dropout in front of the head.
        """
        x = nnx.relu(self.stem_norm(self.stem(images), use_running_average=not train))
        for stage, depth in enumerate(self.settings.depths):
            for i in range(depth):
                x = self.blocks[f"stage{stage}_block{i}"](x, train=train)
        features = jnp.mean(x, axis=(1, 2))
        return self.head(dropout(features, self.settings.dropout, train=train, key=key)), features
