"""Batch normalisation (Ioffe & Szegedy 2015), and stochastic depth (Huang et al. 2016) beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.Module):
    """Normalisation of every channel over the whole batch, then a scale and a shift.

    The moments are those of the global batch: where it is cut over devices, the compiler adds up the
    sums of all of them (cross-replica statistics). They are taken in f32 whatever the precision of x, by one
    pass over x, E[x^2] - E[x]^2, and the variance is the biased one, as on Cloud TPU.
    """

    def __init__(self, channels: int, *, momentum: float, zero: bool = False, rngs: nnx.Rngs):
        del rngs  # nothing here is random
        self.momentum = momentum
        self.scale = nnx.Param(jnp.zeros(channels) if zero else jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[B,H,W,C] of x f32[B,H,W,C], in its precision; training moves the running moments."""
        if train:
            mean, var = _moments(x)
            self.mean[...] = self.momentum * self.mean[...] + (1.0 - self.momentum) * mean
            self.var[...] = self.momentum * self.var[...] + (1.0 - self.momentum) * var
        else:
            mean, var = self.mean[...], self.var[...]
        gain = jax.lax.rsqrt(var + 1e-5) * self.scale[...]
        shift = self.bias[...] - mean * gain
        return (x.astype(jnp.float32) * gain[None, None, None] + shift[None, None, None]).astype(x.dtype)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=(0, 1, 2))
    return mean, jnp.maximum(jnp.square(wide).mean(axis=(0, 1, 2)) - jnp.square(mean), 0.0)


def drop_rates(last: float, number: int) -> list[float]:
    """Returns the share of dropped branches in each block, linear from 0 in the first to `last` in the last.

    Example:
        >>> drop_rates(0.2, 3)
        [0.0, 0.1, 0.2]
    """
    return [last * i / max(1, number - 1) for i in range(number)]


def drop_path(x: jax.Array, rate: float, *, train: bool, key: jax.Array | None) -> jax.Array:
    """Returns a residual branch that is 0 for a share `rate` of the images, the rest scaled up, in training.

    Args:
        x: f32[B,...].
        rate: the share.
        train: whether anything is dropped.
        key: decides which; needed where something is dropped.

    Raises:
        ValueError: a key is needed and absent.
    """
    if not train or rate == 0.0:
        return x
    if key is None:
        raise ValueError(f"drop_path: train = True with drop_path = {rate} needs a key; pass key=.")
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], *(1,) * (x.ndim - 1)))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
