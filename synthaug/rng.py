"""Random keys: every one is a pure function of (seed, purpose, number). No random state is ever saved."""

from __future__ import annotations

import zlib

import jax


def root(seed: int) -> jax.Array:
    """Returns the key that all keys of an experiment are folded from."""
    return jax.random.key(seed)


def stream(key: jax.Array, purpose: str) -> jax.Array:
    """Returns an independent key for a named purpose, e.g. "finetune/base64"."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def at(key: jax.Array, number: jax.Array | int) -> jax.Array:
    """Returns the key of training step or denoising step `number`."""
    return jax.random.fold_in(key, number)


def for_images(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns key[B], one key per image index i32[B]: image i looks the same in any batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
