"""ResNets of bottleneck blocks: He et al. 2016 and ResNet-RS (Bello et al. 2021).

The stride is in the 3x3 convolution, as in Cloud TPU's ResNet and timm. ResNet-RS has ResNet-D's stem of
three 3x3 convolutions and its shortcut, which averages before it projects (He et al. 2019), a fourth
convolution in place of the max-pooling, and squeeze-and-excitation in every block (Hu et al. 2018).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment, rng
from synthaug.models.batch_norm import BatchNorm, drop_path, drop_rates
from synthaug.models.layers import DTYPES, Conv3x3, dropout, halve, lecun_normal, linear, standard_normal
from synthaug.models.pooling import max_pool

EXPANSION = 4
SQUEEZE = 4  # 1 / the share of channels inside squeeze-and-excitation
ACTIVATIONS = {"relu": nnx.relu, "silu": nnx.silu}


class Squeeze(nnx.Module):
    """Squeeze-and-excitation: a factor per image and channel, from the channels' means."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.down = linear(channels, channels // SQUEEZE, rngs=rngs)
        self.up = linear(channels // SQUEEZE, channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[B,H,W,C] of x f32[B,H,W,C]."""
        gate = nnx.sigmoid(self.up(nnx.relu(self.down(x.mean(axis=(1, 2))))))
        return x * gate[:, None, None, :]


class Shortcut(nnx.Module):
    """A normalised 1x1 convolution, where a block changes the shape."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        stride: int,
        average: bool,
        momentum: float,
        rngs: nnx.Rngs,
    ):
        self.stride, self.average = stride, average
        self.conv = linear(channels, out_channels, bias=False, rngs=rngs)
        self.norm = BatchNorm(out_channels, momentum=momentum, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[B,H/s,W/s,C'] of x f32[B,H,W,C]."""
        if self.stride == 2:
            x = halve(_even(x)) if self.average else x[:, ::2, ::2]
        return self.norm(_pointwise(self.conv, x), train=train)


def _pointwise(conv: Any, x: jax.Array) -> jax.Array:
    """Returns a 1x1 convolution as a product of two matrices.

    With all axes left in place the gradient of the kernel takes up to 2.6 times as long on a CPU.
    """
    return conv(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def make_shortcut(
    channels: int, out_channels: int, *, stride: int, average: bool, momentum: float, rngs: nnx.Rngs
) -> Shortcut | None:
    """Returns the shortcut of a block, None where the block keeps the shape."""
    if stride == 1 and channels == out_channels:
        return None
    return Shortcut(channels, out_channels, stride=stride, average=average, momentum=momentum, rngs=rngs)


def end_block(
    block: Any, x: jax.Array, h: jax.Array, *, train: bool, key: jax.Array | None, activation: str = "relu"
) -> jax.Array:
    """Returns f32[B,H,W,C]: the branch h of a block, maybe dropped, beside the shortcut of its input x."""
    h = drop_path(h, block.drop_rate, train=train, key=key)
    return ACTIVATIONS[activation](h + (x if block.shortcut is None else block.shortcut(x, train=train)))


def _even(x: jax.Array) -> jax.Array:
    """Returns x with its last row and column doubled where a side is odd: a mean over what is there."""
    pads = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    return jnp.pad(x, pads, mode="edge") if x.shape[1] % 2 or x.shape[2] % 2 else x


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the last scale starts at 0 (Goyal et al. 2017)."""

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        stride: int,
        is_rs: bool,
        activation: str,
        momentum: float,
        drop_rate: float,
        rngs: nnx.Rngs,
    ):
        self.drop_rate, self.activation, out = drop_rate, activation, EXPANSION * width
        # No bias in front of a batch norm, which would take it out again.
        self.conv0 = linear(channels, width, bias=False, rngs=rngs)
        self.norm0 = BatchNorm(width, momentum=momentum, rngs=rngs)
        self.conv1 = Conv3x3(width, width, stride=stride, bias=False, rngs=rngs)
        self.norm1 = BatchNorm(width, momentum=momentum, rngs=rngs)
        self.conv2 = linear(width, out, bias=False, rngs=rngs)
        self.norm2 = BatchNorm(out, momentum=momentum, zero=True, rngs=rngs)
        self.squeeze = Squeeze(out, rngs=rngs) if is_rs else None
        self.shortcut = make_shortcut(
            channels, out, stride=stride, average=is_rs, momentum=momentum, rngs=rngs
        )

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """Returns f32[B,H/s,W/s,C'] of x f32[B,H,W,C]."""
        activate = ACTIVATIONS[self.activation]
        h = activate(self.norm0(_pointwise(self.conv0, x), train=train))
        h = activate(self.norm1(self.conv1(h), train=train))
        h = self.norm2(_pointwise(self.conv2, h), train=train)
        if self.squeeze is not None:
            h = self.squeeze(h)
        return end_block(self, x, h, train=train, key=key, activation=self.activation)


class PlainStem(nnx.Module):
    """A 7x7 convolution of stride 2 and the maximum over 3x3 squares of stride 2."""

    def __init__(self, channels: int, width: int, *, activation: str, momentum: float, rngs: nnx.Rngs):
        self.activation = activation
        self.kernel = nnx.Param(lecun_normal(rngs.params(), (7, 7, channels, width)))
        self.norm = BatchNorm(width, momentum=momentum, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[B,H/4,W/4,C'] of x f32[B,H,W,C]."""
        pads, axes = ((3, 3), (3, 3)), ("NHWC", "HWIO", "NHWC")
        kernel = self.kernel[...].astype(x.dtype)
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=axes)
        x = ACTIVATIONS[self.activation](self.norm(x, train=train))
        return max_pool(x)


class DeepStem(nnx.Module):
    """Four normalised 3x3 convolutions, the first and the last of stride 2."""

    def __init__(self, channels: int, width: int, *, activation: str, momentum: float, rngs: nnx.Rngs):
        self.activation = activation
        widths = (channels, width // 2, width // 2, width, width)
        for i, stride in enumerate((2, 1, 1, 2)):
            conv = Conv3x3(widths[i], widths[i + 1], stride=stride, bias=False, rngs=rngs)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"norm{i}", BatchNorm(widths[i + 1], momentum=momentum, rngs=rngs))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[B,H/4,W/4,C'] of x f32[B,H,W,C]."""
        activate = ACTIVATIONS[self.activation]
        for i in range(4):
            x = activate(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x), train=train))
        return x


class BottleneckResNet(nnx.Module):
    """A stem that divides the side by 4, four stages of blocks, average pooling, a head."""

    def __init__(self, settings: experiment.Classifier, *, channels: int, num_classes: int, rngs: nnx.Rngs):
        architecture = settings.architecture
        if architecture is None:
            raise ValueError(f"BottleneckResNet: {settings.kind} is no published network.")
        self.settings, is_rs = settings, architecture.family == "resnet_rs"
        width, momentum, activation = architecture.width, settings.norm_momentum, settings.activation
        stem = DeepStem if is_rs else PlainStem
        self.stem = stem(channels, width, activation=activation, momentum=momentum, rngs=rngs)
        self.names = block_names(architecture.depths)
        rates = drop_rates(settings.drop_path, len(self.names))
        self.blocks, inputs = nnx.Dict(), width
        for (name, stage, first), rate in zip(self.names, rates, strict=True):
            self.blocks[name] = Bottleneck(
                inputs,
                width << stage,
                stride=2 if first and stage else 1,
                is_rs=is_rs,
                activation=activation,
                momentum=momentum,
                drop_rate=rate,
                rngs=rngs,
            )
            inputs = EXPANSION * (width << stage)
        self.head = linear(inputs, num_classes, rngs=rngs)
        kernel = standard_normal(rngs.params(), (inputs, num_classes))
        self.head.kernel[...] = 0.01 * kernel  # Cloud TPU's ResNet

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
        x = self.stem(images.astype(DTYPES[self.settings.compute]), train=train)
        x = run_blocks(self, x, train=train, key=key)
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return self.head(dropout(features, self.settings.dropout, train=train, key=key)), features


def run_blocks(network: Any, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
    """Returns what the blocks of a ResNet make of x f32[B,H,W,C], one after the other."""
    for i, (name, _, _) in enumerate(network.names):
        own_key = None if key is None else rng.at(key, i)
        if train and network.settings.remat:
            # nnx.remat and not jax.checkpoint, because the running moments move inside
            x = nnx.remat(_train)(network.blocks[name], x, own_key)
        else:
            x = network.blocks[name](x, train=train, key=own_key)
    return x


def _train(block: Any, x: jax.Array, key: jax.Array | None) -> jax.Array:
    return block(x, train=True, key=key)


def block_names(depths: tuple[int, ...]) -> tuple[tuple[str, int, bool], ...]:
    """Returns (name, stage, whether it is the first of its stage) of every block, in order."""
    return tuple(
        (f"stage{stage}_block{i}", stage, i == 0) for stage, depth in enumerate(depths) for i in range(depth)
    )
