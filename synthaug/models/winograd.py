"""3x3 convolutions as matrix products of transformed squares (Winograd's F(2x2, 3x3); Lavin & Gray 2016).

Each 2x2 square of the output needs 16 products per pair of channels instead of 36, and the products are plain
matrix products, which a CPU does at twice the rate of XLA's convolution. Rounding grows by a factor of two or
three only; the next larger square, F(4x4, 3x3), saves more but loses a digit and a half.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def transform_kernel(kernel: jax.Array) -> jax.Array:
    """Returns f32[4,4,I,O] of a kernel f32[3,3,I,O]: G k G'."""
    g = jnp.asarray(KERNEL_TRANSFORM, kernel.dtype)
    rows = [sum(g[a, i] * kernel[i] for i in range(3)) for a in range(4)]
    return jnp.stack([jnp.stack([sum(g[b, j] * row[j] for j in range(3)) for b in range(4)]) for row in rows])


def convolve(x: jax.Array, transformed: jax.Array) -> jax.Array:
    """Returns the convolution f32[B,H,W,O] of x f32[B,H,W,I], padded by 1, with stride 1.

    Args:
        x: f32[B,H,W,I].
        transformed: f32[4,4,I,O] of `transform_kernel`.
    """
    b, h, w, _ = x.shape
    high, wide = -(-h // 2), -(-w // 2)  # squares
    padded = jnp.pad(x, ((0, 0), (1, 2 * high - h + 1), (1, 2 * wide - w + 1), (0, 0)))
    # What the 4x4 pixels under each square hold, one array f32[B,high,wide,I] per place.
    seen = [
        [padded[:, i : i + 2 * high - 1 : 2, j : j + 2 * wide - 1 : 2] for j in range(4)] for i in range(4)
    ]
    columns = [_transform_input([seen[i][j] for i in range(4)]) for j in range(4)]
    inputs = [_transform_input([columns[j][a] for j in range(4)]) for a in range(4)]
    products = [[inputs[a][q] @ transformed[a, q] for q in range(4)] for a in range(4)]
    columns = [_transform_output([products[a][q] for a in range(4)]) for q in range(4)]
    pixels = [_transform_output([columns[q][row] for q in range(4)]) for row in range(2)]
    square = jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2)  # f32[B,high,2,wide,2,O]
    return square.reshape(b, 2 * high, 2 * wide, -1)[:, :h, :w]


def _transform_input(v: list[jax.Array]) -> list[jax.Array]:
    return [v[0] - v[2], v[1] + v[2], v[2] - v[1], v[1] - v[3]]


def _transform_output(v: list[jax.Array]) -> list[jax.Array]:
    return [v[0] + v[1] + v[2], v[1] - v[2] - v[3]]
