"""Does a generated image show its class, and is it a copy of a real one? Confidence and nearest neighbours.

Diffusion models can repeat training images (Carlini et al. 2023, "Extracting training data from diffusion
models"). A repeated training image adds nothing to a training set, a repeated validation image spoils what is
measured on it. An image is suspect when it is as near to a real one as real images hardly are to each other.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from synthaug.errors import ConfigError, DataError
from synthaug.metrics.rows import check_rows

QUERIES, REFERENCES = 4096, 16384
"""Rows of a block of distances, 256 MB: they bound the memory and change no result."""

CANDIDATES = 4  # kept by the fast search; the exact one decides among them


@dataclasses.dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest reference of each of N queries."""

    index: npt.NDArray[np.int64]  # i64[N]
    distance: npt.NDArray[np.float32]  # f32[N], Euclidean


def own_probability(logits: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Returns f32[N], the probability (softmax) that logits f[N,K] give to the classes i[N].

    Raises:
        DataError: arrays that are not finite or do not belong together.

    Example:
        >>> own_probability([[0.0, 0.0], [100.0, 0.0]], [1, 0]).tolist()
        [0.5, 1.0]
    """
    rows, classes = check_rows(logits, "logits").astype(np.float64), np.asarray(labels)
    if classes.shape != (len(rows),) or (
        len(rows) and not 0 <= classes.min() <= classes.max() < rows.shape[1]
    ):
        raise DataError(
            f"labels: found {classes.shape} for logits {rows.shape}; expected one class number per image, "
            f"from 0 to {rows.shape[1] - 1}; encode and label the same images."
        )
    power = np.exp(rows - rows.max(axis=1, keepdims=True))
    return (power[np.arange(len(rows)), classes] / power.sum(axis=1)).astype(np.float32)


def nearest(
    queries: npt.ArrayLike,
    references: npt.NDArray,
    *,
    own: npt.NDArray[np.int64] | None = None,
    block: tuple[int, int] = (QUERIES, REFERENCES),
) -> Nearest:
    """Returns the nearest reference of each query; among equally near ones the lowest number.

    Every distance is looked at, in f32 on the device and block by block; of the nearest `CANDIDATES` the
    exact distances in f64 decide. So the found one is the nearest, unless more than `CANDIDATES` references
    lie within the rounding of f32 (1e-6 of the squared length of the features, less their mean) of it.

    Args:
        queries: f[N,D].
        references: f[M,D], may be mapped from a file: it is read in slices.
        own: i64[N], the number of each query among the references, which is not its neighbour; None where the
            queries are other images.
        block: (queries, references) of one block of distances.

    Raises:
        DataError: no reference, other widths, NaN or inf.
    """
    rows = check_rows(queries, "features of queries")
    if not len(references) or (own is not None and len(references) < 2):
        raise DataError(
            f"features: {len(references)} images; none has a nearest other one; is the set empty?"
        )
    if rows.shape[1] != references.shape[1]:
        raise DataError(
            f"features: {rows.shape[1]} of queries against {references.shape[1]} of references; "
            "encode both sets with the same encoder and layer."
        )
    # Less an offset that all have in common, f32 keeps more digits of the differences.
    origin = np.asarray(references[: block[1]], np.float64).mean(axis=0).astype(np.float32)
    found = [
        _nearest_block(
            rows[a : a + block[0]], references, None if own is None else own[a : a + block[0]], origin, block
        )
        for a in range(0, len(rows), block[0])
    ]
    index = np.concatenate([f.index for f in found]) if found else np.empty(0, np.int64)
    return Nearest(index, np.concatenate([f.distance for f in found]) if found else np.empty(0, np.float32))


def _nearest_block(
    queries: npt.NDArray,
    references: npt.NDArray,
    own: npt.NDArray | None,
    origin: npt.NDArray,
    block: tuple[int, int],
) -> Nearest:
    kept = min(CANDIDATES, len(references))
    height = min(block[0], 1 << max(len(queries) - 1, 0).bit_length())  # few shapes, so few programs
    shape = (height, kept)
    near, at = jnp.full(shape, jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32)
    centred = _padded(queries - origin, height)
    exclude = _padded(np.full(len(queries), -1) if own is None else own, height).astype(np.int32)
    width = min(block[1], len(references))
    for first in range(0, len(references), width):
        part = check_rows(references[first : first + width], "features of references")
        limits = np.array([first, len(part)], np.int32)
        near, at = _merge(near, at, centred, _padded(part - origin, width), exclude, limits)
    return _decide(queries, references, np.asarray(at)[: len(queries)])


def _padded(rows: npt.NDArray, count: int) -> npt.NDArray:
    """Returns [count, ...]: rows in f32 if they are floats, filled up with zeros."""
    rows = rows.astype(np.float32) if rows.dtype.kind != "i" else rows
    return np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _merge(
    near: jax.Array, at: jax.Array, queries: Any, references: Any, own: Any, limits: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns the nearest references so far, (f32[N,k] up to the length of the query, i32[N,k])."""
    # The default on accelerators multiplies in bf16 or tf32: too coarse to tell near images apart.
    product = jnp.matmul(queries, references.T, precision=jax.lax.Precision.HIGHEST)
    distance = jnp.sum(jnp.square(references), axis=1)[None, :] - 2.0 * product
    place = jnp.arange(references.shape[0], dtype=jnp.int32)
    number = place + limits[0]
    absent = (place >= limits[1])[None, :] | (number[None, :] == own[:, None])
    distance = jnp.where(absent, jnp.inf, distance)
    kept = min(near.shape[1], references.shape[0])
    best, column = jax.lax.top_k(-distance, kept)
    best = jnp.concatenate([near, -best], axis=1)
    numbers = jnp.concatenate([at, number[column]], axis=1)
    best, column = jax.lax.top_k(-best, near.shape[1])
    return -best, jnp.take_along_axis(numbers, column, axis=1)


def _decide(queries: npt.NDArray, references: npt.NDArray, candidates: npt.NDArray) -> Nearest:
    """Returns the nearest of the candidates i32[N,k]; -1 is none."""
    candidates = np.sort(candidates, axis=1)  # argmin takes the first of equal ones
    index = candidates.astype(np.int64)
    there = np.asarray(references[np.maximum(index, 0).ravel()], np.float64).reshape(*index.shape, -1)
    distance = np.sqrt(np.square(there - queries.astype(np.float64)[:, None]).sum(axis=2))
    distance[index < 0] = np.inf
    best = distance.argmin(axis=1)
    rows = np.arange(len(index))
    return Nearest(index[rows, best], distance[rows, best].astype(np.float32))


def duplicate_distance(distances: npt.NDArray, quantile: float) -> float:
    """Returns the distance up to which an image is a near duplicate.

    A share `quantile` of the real train images, rounded down, is so near to another one or nearer.

    Args:
        distances: f32[N], of real train images to the nearest other real train image.
        quantile: in (0, 1].

    Raises:
        ConfigError: another quantile.
        DataError: so few distances that the quantile falls before the first one.

    Example:
        >>> duplicate_distance(np.array([4.0, 1.0, 3.0, 2.0], np.float32), 0.5)
        2.0
    """
    if not 0 < quantile <= 1:
        raise ConfigError(f"filter.duplicate_quantile = {quantile}; expected above 0, at most 1, e.g. 0.001.")
    rank = int(np.floor(quantile * len(distances) + 1e-9))
    if not rank:
        raise DataError(
            f"filter.duplicate_quantile = {quantile} of {len(distances)} real train images is less than one; "
            f"set it to {1 / max(len(distances), 1):.2g} or more, or raise filter.num_probes."
        )
    return float(np.partition(distances, rank - 1)[rank - 1])
