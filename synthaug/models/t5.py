"""The T5 v1.1 encoder (Raffel et al. 2020, with the gated GELU of Shazeer 2020), small to XXL."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from synthaug.models.functional import Model, functional
from synthaug.models.layers import lecun_normal, standard_normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Shape of the encoder, under the names of its public config.json."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


def build_t5(config: T5Config, compute: str = "f32") -> Model:
    """Returns the encoder: (ids i32[B,L], mask bool or i32 [B,L]) -> f32[B,L,D]; `compute` is f32 or bf16."""
    return functional(lambda rngs: T5Encoder(config, compute=compute, rngs=rngs))


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Returns i32[L,L], which learned bias a query (row) adds to a key (column) at their distance.

    Keys behind and before the query have half of the buckets each; the first half of these counts single
    tokens, the others grow with the logarithm of the distance, up to `max_distance` and beyond.

    Example:
        >>> relative_buckets(4, 8, 16)[0].tolist()
        [0, 5, 6, 6]
    """
    position = np.arange(length, dtype=np.int32)
    distance = position[None, :] - position[:, None]
    half = num_buckets // 2
    exact = half // 2
    # In f32 and in this order, as published: the edges of buckets fall between the same two tokens.
    ratio = np.log(np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(exact))
    grown = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + grown.astype(np.int32), half - 1)
    near = np.abs(distance)
    return (np.where(near < exact, near, far) + np.where(distance > 0, half, 0)).astype(np.int32)


class T5Encoder(nnx.Module):
    """Token embeddings, pre-norm blocks with one relative position bias for all of them, a last norm."""

    def __init__(self, config: T5Config, *, compute: str, rngs: nnx.Rngs):
        self.config = config
        buckets = (config.relative_attention_num_buckets, config.num_heads)
        self.embedding = nnx.Param(standard_normal(rngs.params(), (config.vocab_size, config.d_model)))
        self.relative_bias = nnx.Param(standard_normal(rngs.params(), buckets))
        self.blocks = nnx.Dict(
            {f"block{i}": T5Block(config, compute=compute, rngs=rngs) for i in range(config.num_layers)}
        )
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def __call__(
        self, ids: jax.Array, mask: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns f32[B,L,D] of tokens i32[B,L].

        `mask` (bool or integer [B,L]) says which tokens are attended to; padding gets an embedding as well,
        which DeepFloyd IF reads. The encoder is frozen: `train` and `key` change nothing.
        """
        c = self.config
        distance = relative_buckets(
            ids.shape[1], c.relative_attention_num_buckets, c.relative_attention_max_distance
        )
        bias = self.relative_bias[...][distance].transpose(2, 0, 1)[None]  # f32[1,heads,L,L]
        seen = mask.astype(bool)[:, None, None, :]
        x = self.embedding[...][ids]
        for i in range(c.num_layers):
            x = self.blocks[f"block{i}"](x, bias, seen)
        return self.norm(x)


class T5Block(nnx.Module):
    """x + attention(norm(x)), then x + gated feed-forward(norm(x)); no biases anywhere.

    The sum x stays in f32 even if `compute` is bf16: it grows by orders of magnitude through the XXL encoder.
    """

    def __init__(self, config: T5Config, *, compute: str, rngs: nnx.Rngs):
        self.heads, self.head_dim, self.compute = config.num_heads, config.d_kv, compute
        width, inner = config.d_model, config.num_heads * config.d_kv
        self.norm0 = RMSNorm(width, config.layer_norm_epsilon)
        self.qkv = Matrix(width, 3 * inner, rngs=rngs)
        self.out = Matrix(inner, width, rngs=rngs)
        self.norm1 = RMSNorm(width, config.layer_norm_epsilon)
        self.gate = Matrix(width, 2 * config.d_ff, rngs=rngs)
        self.down = Matrix(config.d_ff, width, rngs=rngs)

    def __call__(self, x: jax.Array, bias: jax.Array, seen: jax.Array) -> jax.Array:
        """Returns f32[B,L,D] of x f32[B,L,D], bias f32[1,heads,L,L] and seen bool[B,1,1,L]."""
        dtype = jnp.bfloat16 if self.compute == "bf16" else jnp.float32
        x = x + self.out(self._attend(self.qkv(self.norm0(x).astype(dtype)), bias, seen)).astype(jnp.float32)
        gate, value = jnp.split(self.gate(self.norm1(x).astype(dtype)), 2, axis=-1)
        return x + self.down(jax.nn.gelu(gate, approximate=True) * value).astype(jnp.float32)

    def _attend(self, qkv: jax.Array, bias: jax.Array, seen: jax.Array) -> jax.Array:
        b, length, _ = qkv.shape
        query, key, value = (
            part.reshape(b, length, self.heads, self.head_dim) for part in jnp.split(qkv, 3, axis=-1)
        )
        # T5 does not scale its scores: its initialisation does.
        score = bias + _product("bqhd,bkhd->bhqk", query, key, jnp.float32)
        # The lowest number, not -inf: a row of padding alone stays finite.
        weight = jax.nn.softmax(jnp.where(seen, score, jnp.finfo(jnp.float32).min), axis=-1)
        mixed = _product("bhqk,bkhd->bqhd", weight.astype(value.dtype), value, value.dtype)
        return mixed.reshape(b, length, -1)


class Matrix(nnx.Module):
    """A linear layer without bias that computes in the precision of its input."""

    def __init__(self, width: int, out: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(lecun_normal(rngs.params(), (width, out)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B,L,out] of x [B,L,width] in x's dtype."""
        return _product("blc,cd->bld", x, self.kernel[...].astype(x.dtype), x.dtype)


class RMSNorm(nnx.Module):
    """x / root mean square of x, times a learned scale: no mean is taken away (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[B,L,D] of x f32[B,L,D]."""
        power = jnp.square(x).mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(power + self.epsilon) * self.scale[...][None, None, :]


def _product(equation: str, a: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
    # Accelerators round f32 operands by default. A prompt is encoded once and must not depend on the device.
    return jnp.einsum(equation, a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)
