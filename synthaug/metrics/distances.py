"""Distances between features: fast in float32, with a bound of the error, and exact for chosen pairs.

A squared distance from a matrix product is |a|^2 + |b|^2 - 2ab. In float32 its error is at most
`rounding(D) * (|a|^2 + |b|^2)`, in any order of adding. What lies nearer to a threshold than that is decided
by the sum of squared differences in float64: so the answers are those of an exact computation.

A table is never held twice in the host's memory: a block of it is centred when it is needed, which takes 1 %
of the time of a block of distances. Accelerators, whose memory is another, keep the blocks.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from synthaug.metrics.limbs import Integers
from synthaug.metrics.rows import Floats

ROWS, COLUMNS = 4096, 8192
"""A block of distances, 128 MB: it bounds the memory and changes no result."""

FLOOR = 1e-30
"""Absolute error where squares fall below the range of float32; features are scaled to at most 1."""

_SMALLEST = 64  # columns of a block
_STRIP = 64  # rows centred at once: they stay in the cache
_GROUPS = 32  # of columns, of which only the best few are searched
_PAIRS = 4096  # computed exactly at once; 64 MiB per side at 2048 features


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Features of a set as they are; on the device block by block, less a common origin, scaled, padded."""

    rows: npt.NDArray  # f[N,D]
    first: Integers  # i64[N], the first row with the same bytes
    origin: Floats  # f64[D]
    scale: float  # a power of 2
    squares: npt.NDArray[np.float32]  # f32[P], squared lengths of centred rows
    height: int  # rows of a block, a divisor of width
    width: int  # columns of a block, a divisor of P
    kept: dict[tuple[int, int], jax.Array] | None  # blocks that stay on the device

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, size: int) -> Iterator[tuple[np.int32, slice]]:
        """Returns where blocks of `size` rows begin, and which rows they are."""
        for first in range(0, len(self), size):
            yield np.int32(first), slice(first, min(first + size, len(self)))

    def block(self, start: int, size: int) -> tuple[jax.Array, jax.Array]:
        """Returns f32[size,D], centred and scaled rows, 0 behind the last one; f32[size], squared lengths."""
        squares = jax.device_put(self.squares[start : start + size])
        if self.kept is None:
            return jax.device_put(self._centred(start, size)), squares
        if (start, size) not in self.kept:
            self.kept[start, size] = jax.device_put(self._centred(start, size))
        return self.kept[start, size], squares

    def _centred(self, start: int, size: int) -> npt.NDArray[np.float32]:
        padded = np.zeros((size, self.rows.shape[1]), np.float32)
        for part, strip in _strips(self.rows[start : start + size], self.origin):
            padded[part] = strip * self.scale
        return padded


def rounding(width: int) -> float:
    """Returns the relative error of a squared distance of f32[width], twice the worst case."""
    return 2.0 * (width + 16) * 2.0**-24


def place(tables: tuple[npt.NDArray, ...]) -> tuple[Points, ...]:
    """Returns sets f[N,D] with a common origin and scale, placed on the device."""
    origin: Floats = tables[0].mean(axis=0, dtype=np.float64)
    largest = max(float(np.abs(strip).max()) for rows in tables for _, strip in _strips(rows, origin))
    scale = 2.0 ** -np.ceil(np.log2(largest)) if largest else 1.0
    return tuple(_place(rows, origin, float(scale)) for rows in tables)


def _place(rows: npt.NDArray, origin: Floats, scale: float) -> Points:
    width = min(COLUMNS, max(_SMALLEST, 1 << max(len(rows) - 1, 0).bit_length()))  # few shapes, few programs
    squares = np.zeros(-(-len(rows) // width) * width, np.float32)
    for part, strip in _strips(rows, origin):
        squares[part] = np.square((strip * scale).astype(np.float32), dtype=np.float64).sum(axis=1)
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
    first = np.array([seen.setdefault(digest, number) for number, digest in enumerate(digests)], np.int64)
    kept: dict[tuple[int, int], jax.Array] | None = None if jax.default_backend() == "cpu" else {}
    return Points(rows, first, origin, scale, squares, min(ROWS, width), width, kept)


def _strips(rows: npt.NDArray, origin: Floats) -> Iterator[tuple[slice, Floats]]:
    for start in range(0, len(rows), _STRIP):
        part = slice(start, min(start + _STRIP, len(rows)))
        yield part, rows[part].astype(np.float64) - origin


def exact(a: Points, b: Points, i: Integers, j: Integers) -> Floats:
    """Returns f64[n], the squared distances of rows i[n] of a to rows j[n] of b; equal pairs count once."""
    keys, back = np.unique(a.first[i] * len(b) + b.first[j], return_inverse=True)
    found = np.empty(len(keys))
    for start in range(0, len(keys), _PAIRS):
        part = slice(start, start + _PAIRS)
        difference = a.rows[keys[part] // len(b)].astype(np.float64)
        difference -= b.rows[keys[part] % len(b)]
        found[part] = np.square(difference, out=difference).sum(axis=1)
    return found[back]


@functools.partial(jax.jit, donate_argnums=(0, 1))
def nearest(
    near: jax.Array,
    at: jax.Array,
    a: jax.Array,
    squares_a: jax.Array,
    b: jax.Array,
    squares_b: jax.Array,
    corner: Any,
    count: Any,
) -> tuple[jax.Array, jax.Array]:
    """Returns the nearest other points so far of a block of rows: (f32[h,k] squared distances, i32[h,k])."""
    distance, row, column = _block(a, squares_a, b, squares_b, corner)
    distance = jnp.where((column >= count) | (column == row), jnp.inf, distance)
    best, place = _smallest(distance, near.shape[1])
    best = jnp.concatenate([near, best], axis=1)
    numbers = jnp.concatenate([at, place + corner[1]], axis=1)
    best, order = jax.lax.top_k(-best, near.shape[1])
    return -best, jnp.take_along_axis(numbers, order, axis=1)


def _smallest(distance: jax.Array, kept: int) -> tuple[jax.Array, jax.Array]:
    """Returns the smallest of each row and their columns: they lie in the groups with the smallest minima."""
    height, width = distance.shape
    size = width // _GROUPS
    if size < 2 * kept:
        best, column = jax.lax.top_k(-distance, kept)
        return -best, column
    grouped = distance.reshape(height, _GROUPS, size)
    _, group = jax.lax.top_k(-grouped.min(axis=1), kept)
    members = jnp.take_along_axis(grouped, group[:, None, :], axis=2).reshape(height, -1)
    best, member = jax.lax.top_k(-members, kept)
    return -best, member // kept * size + jnp.take_along_axis(group, member % kept, axis=1)


def _block(
    a: jax.Array,
    squares_a: jax.Array,
    b: jax.Array,
    squares_b: jax.Array,
    corner: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns f32[h,w], squared distances of a block; i32[h,1], its rows; i32[1,w], its columns."""
    # The default on accelerators multiplies in bf16 or tf32, beyond the bound of the error.
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    row = jnp.arange(len(a), dtype=jnp.int32)[:, None] + corner[0]
    column = jnp.arange(len(b), dtype=jnp.int32)[None, :] + corner[1]
    return squares_a[:, None] + squares_b[None, :] - 2.0 * product, row, column


@jax.jit
def members(
    a: jax.Array,
    squares_a: jax.Array,
    radii_a: jax.Array,
    b: jax.Array,
    squares_b: jax.Array,
    radii_b: jax.Array,
    corner: Any,
    counts: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns what a block tells of points b[w] in balls around a[h], and of points a in balls around b.

    Returns:
        i32[w] balls of a that surely hold each b; bool[h] balls of a that surely hold a b; bool[h] points of
        a that are surely in a ball of b; u8[h,w/8] twice, bits of the pairs that float32 cannot decide.
    """
    distance, row, column = _block(a, squares_a, b, squares_b, corner)
    valid = (row < counts[0]) & (column < counts[1])
    error = rounding(a.shape[1]) * (squares_a[:, None] + squares_b[None, :]) + FLOOR

    def decide(radii: jax.Array) -> tuple[jax.Array, jax.Array]:
        over, doubt = distance - radii, error + 2.0**-22 * radii
        return valid & (over < -doubt), jnp.packbits(valid & (jnp.abs(over) <= doubt), axis=1)

    in_a, maybe_a = decide(radii_a[:, None])
    in_b, maybe_b = decide(radii_b[None, :])
    return in_a.sum(axis=0, dtype=jnp.int32), in_a.any(axis=1), in_b.any(axis=1), maybe_a, maybe_b
