"""Layers that several networks share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug.models import winograd
from synthaug.models.attention import attend

DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
"""Of activations, by the setting `compute`."""

WINOGRAD_CHANNELS = 64
"""Channels from which a convolution by Winograd's products is faster on a CPU, measured."""


def sinusoid(position: jax.Array, width: int) -> jax.Array:
    """Returns the sinusoidal embedding of positions: all cosines, then all sines.

    The frequencies are exp(-ln(10000) i / half), half = width / 2 (Vaswani et al. 2017; order as in ADM).

    Args:
        position: f32[N], e.g. times in 0..1000.
        width: even number of channels.

    Returns:
        f32[N,width].

    Example:
        >>> sinusoid(jnp.array([0.0]), 4).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    half = width // 2
    frequency = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = position[:, None] * frequency[None, :]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def dropout(x: jax.Array, rate: float, *, train: bool, key: jax.Array | None) -> jax.Array:
    """Returns x with a share `rate` of its elements zeroed and the rest scaled up, in training only.

    Raises:
        ValueError: a key is needed and absent.
    """
    if not train or rate == 0.0:
        return x
    if key is None:
        raise ValueError(f"dropout: train = True with dropout = {rate} needs a key; pass key=.")
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def standard_normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Returns normal numbers to start parameters from.

    Small arrays are cut from draws of three sizes: compiling one draw takes a third of a second on a CPU, and
    a small U-Net has parameters of thirty shapes.
    """
    size = math.prod(shape)
    drawn = min((n for n in (2**12, 2**16, 2**20) if n >= size), default=size)
    return _cut(_draw(key, drawn), tuple(shape)).astype(dtype)


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Returns a kernel, outputs on its last axis, of standard deviation 1/sqrt(inputs)."""
    return standard_normal(key, shape, dtype) / math.sqrt(math.prod(shape[:-1]))


@functools.partial(jax.jit, static_argnums=1)
def _draw(key: jax.Array, size: int) -> jax.Array:
    return jax.random.normal(key, (size,))


@functools.partial(jax.jit, static_argnums=1)
def _cut(draw: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return draw[: math.prod(shape)].reshape(shape)


class Linear(nnx.Module):
    """x @ kernel + bias, in the precision of x whatever that of the weights."""

    def __init__(self, channels: int, out_channels: int, *, bias: bool, zero: bool, rngs: nnx.Rngs):
        # The bias takes a key, too, as nnx.Linear's does: the frozen text encoder hangs on their order.
        key, _ = rngs.params(), rngs.params() if bias else None
        shape = (channels, out_channels)
        self.kernel = nnx.Param(jnp.zeros(shape) if zero else lecun_normal(key, shape))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[...,out] of f32[...,in]."""
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + _along_last(self.bias[...].astype(x.dtype), x.ndim)


def linear(
    channels: int, out_channels: int, *, bias: bool = True, zero: bool = False, rngs: nnx.Rngs
) -> Linear:
    """Returns a linear layer; `zero` starts its kernel at 0, so that a residual branch starts silent."""
    return Linear(channels, out_channels, bias=bias, zero=zero, rngs=rngs)


def _along_last(x: jax.Array, ndim: int) -> jax.Array:
    return x.reshape((1,) * (ndim - 1) + x.shape)


def halve(x: jax.Array) -> jax.Array:
    """Returns f32[B,H/2,W/2,C], the mean of each 2x2 square of f32[B,H,W,C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def double(x: jax.Array) -> jax.Array:
    """Returns f32[B,2H,2W,C], each pixel of f32[B,H,W,C] repeated 2x2 (nearest neighbour)."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


class Conv3x3(nnx.Module):
    """A 3x3 convolution that pads by 1; `zero` starts its kernel at 0."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        bias: bool = True,
        zero: bool = False,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        shape = (3, 3, channels, out_channels)
        self.kernel = nnx.Param(jnp.zeros(shape) if zero else lecun_normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[B,H/stride,W/stride,C'] of x f32[B,H,W,C]."""
        y = self._convolve(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + _along_last(self.bias[...].astype(x.dtype), 4)

    def prepare(self) -> None:
        """Replaces the kernel by its Winograd transform where that is faster; see `Model.prepare`."""
        if self.stride == 1 and min(self.kernel.shape[2:]) >= WINOGRAD_CHANNELS:
            self.kernel = nnx.Param(winograd.transform_kernel(self.kernel[...]))

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        if kernel.shape[0] == 4:
            return winograd.convolve(x, kernel)
        # XLA's CPU convolution takes ten times as long as a matrix product where the output has 2 px or less.
        tiny = min(x.shape[1:3]) <= 2 * self.stride
        return (_convolve_patches if tiny else _convolve)(x, kernel, self.stride)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=axes)


def _convolve_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns `_convolve` as one matrix product over the 9 C values that each output pixel sees."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + h : stride, j : j + w : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class GroupNorm(nnx.Module):
    """Group normalisation in f32 (Wu & He 2018), with an optional scale and shift per image.

    Moments are reduced per channel first, and scale and shift join the affine part as f32[B,C]: forward and
    backward take less than half the time of nnx.GroupNorm followed by a modulation, on a CPU.
    """

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs):
        self.groups = groups
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(
        self,
        x: jax.Array,
        modulation: tuple[jax.Array, jax.Array] | None = None,
        *,
        kept: jax.Array | None = None,
    ) -> jax.Array:
        """Returns norm(x) * (1 + scale) + shift, in the precision of x.

        Args:
            x: f32[B,H,W,C].
            modulation: scale and shift, f32[B,C] each.
            kept: bool[B,H,W], the pixels that the moments are taken over; None = all.
        """
        wide = x.astype(jnp.float32)
        centred = wide - self._by_group(_mean(wide, kept))[:, None, None, :]
        variance = self._by_group(_mean(jnp.square(centred), kept))
        gain = jax.lax.rsqrt(variance + 1e-5) * self.scale[...][None, :]  # f32[B,C]
        bias = self.bias[...][None, :]
        if modulation is not None:
            scale, shift = (m.astype(jnp.float32) for m in modulation)
            gain, bias = gain * (1.0 + scale), bias * (1.0 + scale) + shift
        return (centred * gain[:, None, None, :] + bias[:, None, None, :]).astype(x.dtype)

    def _by_group(self, x: jax.Array) -> jax.Array:
        """Returns f32[B,C], each channel of f32[B,C] replaced by the mean over its group."""
        b, c = x.shape
        mean = x.reshape(b, self.groups, c // self.groups).mean(axis=2, keepdims=True)
        return jnp.broadcast_to(mean, (b, self.groups, c // self.groups)).reshape(b, c)


def _mean(x: jax.Array, kept: jax.Array | None) -> jax.Array:
    """Returns f32[B,C], the mean of f32[B,H,W,C] over the pixels that are kept; 0 where none is."""
    if kept is None:
        return x.mean(axis=(1, 2))
    weight = kept.astype(x.dtype)[..., None]
    return (x * weight).sum(axis=(1, 2)) / jnp.maximum(weight.sum(axis=(1, 2)), 1.0)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis in f32 (Ba et al. 2016), epsilon 1e-5 as in torch."""

    def __init__(self, width: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[...,D] of f32[...,D], in the precision of x."""
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        gain = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + self.epsilon)
        scale, bias = (_along_last(p[...], x.ndim) for p in (self.scale, self.bias))
        return (centred * gain * scale + bias).astype(x.dtype)


class MLP(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int,
        *,
        activation: Callable[[jax.Array], jax.Array],
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.linear0 = linear(width, hidden, rngs=rngs)
        self.linear1 = linear(hidden, out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[...,out] of f32[...,width]."""
        return self.linear1(self.activation(self.linear0(x)))


class TransformerBlock(nnx.Module):
    """A pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, num_heads: int, *, dropout: float, rngs: nnx.Rngs):
        self.num_heads, self.dropout = num_heads, dropout
        self.norm0 = nnx.LayerNorm(width, rngs=rngs)
        self.qkv = linear(width, 3 * width, bias=False, rngs=rngs)
        self.out = linear(width, width, rngs=rngs)
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = MLP(width, 4 * width, width, activation=nnx.gelu, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns f32[B,L,D] of x f32[B,L,D]; `mask` bool[B,L] says which tokens may be attended to."""
        keys = (None, None) if key is None else jax.random.split(key)
        q, k, v = jnp.split(self.qkv(self.norm0(x)), 3, axis=-1)
        update = self.out(attend(q, k, v, num_heads=self.num_heads, mask=mask))
        x = x + dropout(update, self.dropout, train=train, key=keys[0])
        return x + dropout(self.mlp(self.norm1(x)), self.dropout, train=train, key=keys[1])
