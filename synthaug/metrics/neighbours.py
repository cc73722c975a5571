"""Improved precision and recall (Kynkaanniemi et al. 2019): quality and coverage, told apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from synthaug.errors import ConfigError, DataError
from synthaug.metrics.rows import Floats, check_rows


def precision_recall(
    real: npt.ArrayLike, generated: npt.ArrayLike, k: int = 3, chunk: int = 4096
) -> tuple[float, float]:
    """Returns the share of generated images in the real manifold, and of real in the generated one.

    A manifold is the union of balls around its images, each reaching its k-th nearest neighbour (eq. 1 to 3);
    the boundary belongs to the ball, and an image is not its own neighbour.

    Args:
        real: f[N,D], features of real images.
        generated: f[M,D], features of generated images.
        k: neighbour that sets the radius; published values use 3.
        chunk: images per side of a distance block; it bounds memory and changes no result.

    Raises:
        ConfigError: k below 1.
        DataError: k or fewer images in a set, different numbers of features, NaN or inf.
    """
    real, generated = check_rows(real, "real features"), check_rows(generated, "generated features")
    if real.shape[1] != generated.shape[1]:
        raise DataError(
            f"features: {real.shape[1]} of real images against {generated.shape[1]} of generated ones; "
            "expected equal numbers; encode both sets with the same encoder and layer."
        )
    radii_real, radii_generated = squared_radii(real, k, chunk), squared_radii(generated, k, chunk)
    precision = inside(generated, real, radii_real, chunk).mean()
    recall = inside(real, generated, radii_generated, chunk).mean()
    return float(precision), float(recall)


def squared_radii(features: npt.NDArray, k: int, chunk: int) -> Floats:
    """Returns f64[N], the squared distance of each row of f[N,D] to its k-th nearest other row.

    Raises:
        ConfigError: k below 1.
        DataError: k or fewer rows.
    """
    if k < 1:
        raise ConfigError(f"score: neighbours = {k}; expected 1 or more, e.g. 3.")
    if len(features) <= k:
        raise DataError(
            f"features: {len(features)} images have no neighbour number {k}; expected more than {k}; "
            "score a larger set or lower neighbours."
        )
    nearest = np.full((len(features), k), np.inf)
    for rows, columns, distances in _blocks(features, features, chunk):
        if rows == columns:
            np.fill_diagonal(distances, np.inf)  # an image is not its own neighbour
        candidates = np.concatenate([nearest[rows], distances], axis=1)
        nearest[rows] = np.partition(candidates, k - 1, axis=1)[:, :k]
    return nearest.max(axis=1)


def inside(points: npt.NDArray, centres: npt.NDArray, radii: Floats, chunk: int) -> npt.NDArray[np.bool_]:
    """Returns bool[N], whether each of points f[N,D] lies in a ball around centres f[M,D].

    Args:
        points: f[N,D].
        centres: f[M,D].
        radii: f64[M], squared.
        chunk: rows per side of a distance block.
    """
    found = np.zeros(len(points), bool)
    for rows, columns, distances in _blocks(points, centres, chunk):
        found[rows] |= (distances <= radii[columns]).any(axis=1)
    return found


def _blocks(a: npt.NDArray, b: npt.NDArray, chunk: int) -> Iterator[tuple[slice, slice, Floats]]:
    """Returns the blocks of the squared distance matrix f64[N,M], each with its rows and columns."""
    if chunk < 1:
        raise ValueError(f"precision_recall: chunk = {chunk}; expected 1 or more.")
    # A common offset would cost digits. Against one of the rows it goes away without rounding f32 features.
    origin = b[0].astype(np.float64)
    for i in range(0, len(a), chunk):
        rows = slice(i, min(i + chunk, len(a)))
        left = a[rows].astype(np.float64) - origin
        for j in range(0, len(b), chunk):
            columns = slice(j, min(j + chunk, len(b)))
            yield rows, columns, _squared_distances(left, b[columns].astype(np.float64) - origin)


def _squared_distances(a: Floats, b: Floats) -> Floats:
    """Returns f64[N,M] as |a|^2 + |b|^2 - 2ab, with what rounding leaves of a duplicate's 0 set to 0."""
    scale = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("nd,nd->n", b, b)
    distances = scale - 2.0 * (a @ b.T)
    distances[distances <= 4 * a.shape[1] * np.finfo(np.float64).eps * scale] = 0.0
    return distances
