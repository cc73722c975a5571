"""The maximum over 3x3 squares of stride 2, with a gradient that a CPU computes at the speed of its memory.

XLA's own gradient is one thread's loop on a CPU: for 8 images of 112 x 112 x 64 it takes 178 ms of CPU time,
this one 32 ms on all cores, the same numbers bit for bit. Elsewhere XLA's own is used.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

SIDE = 3


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Returns f[B,ceil(H/2),ceil(W/2),C] of x f[B,H,W,C]; squares reach one pixel over the border."""
    return _pooled(x)


def _pooled(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (SIDE, SIDE), (2, 2), ((1, 1), (1, 1)))


def _forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _pooled(x)
    return y, (x, y)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.platform_dependent(*saved, g, cpu=_by_place, default=_by_scattering),)


def _by_scattering(x: jax.Array, y: jax.Array, g: jax.Array) -> jax.Array:
    del y
    return jax.vjp(_pooled, x)[1](g)[0]


def _by_place(x: jax.Array, y: jax.Array, g: jax.Array) -> jax.Array:
    """Returns the gradient of x: each of y goes to the first pixel of its square that is the maximum."""
    height, width, (rows, columns) = x.shape[1], x.shape[2], y.shape[1:3]
    ends = ((0, 0), (1, height % 2), (1, width % 2), (0, 0))
    padded = jnp.pad(x, ends, constant_values=-jnp.inf)
    taken, parts = jnp.zeros(y.shape, bool), {}
    for i in range(SIDE):
        for j in range(SIDE):
            own = padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
            first = (own == y) & ~taken
            taken, parts[i, j] = taken | first, jnp.where(first, g, jnp.zeros((), g.dtype))
    # Pixels of even rows lie in the middle of one square, those of odd rows at the end of one and the
    # start of the next. The sums are in XLA's order.
    even = [parts[1, 1], parts[1, 2] + _next(parts[1, 0], 2)]
    odd = [
        parts[2, 1] + _next(parts[0, 1], 1),
        parts[2, 2] + _next(parts[2, 0], 2) + _next(parts[0, 2], 1) + _next(_next(parts[0, 0], 1), 2),
    ]
    pairs = jnp.stack([jnp.stack(even, 3), jnp.stack(odd, 3)], 2)  # [B,rows,2,columns,2,C]
    return pairs.reshape(x.shape[0], 2 * rows, 2 * columns, x.shape[3])[:, :height, :width]


def _next(x: jax.Array, axis: int) -> jax.Array:
    """Returns what belongs to the square behind along an axis; nothing behind the last."""
    ends = [(0, 0)] * x.ndim
    ends[axis] = (0, 1)
    return jax.lax.slice_in_dim(jnp.pad(x, ends), 1, x.shape[axis] + 1, axis=axis)


max_pool.defvjp(_forward, _backward)
