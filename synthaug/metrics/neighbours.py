"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

A manifold is the union of balls around a set's images, each reaching the image's k-th nearest neighbour. The
boundary belongs to the ball, and an image is not its own neighbour. Distances are looked at block by block on
the device; the shares equal those of an exact computation (`distances`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from synthaug.errors import ConfigError, DataError
from synthaug.metrics import distances
from synthaug.metrics.distances import FLOOR, Points, exact, rounding
from synthaug.metrics.limbs import Integers
from synthaug.metrics.rows import Floats, check_rows

_SPARE = 4  # candidates beyond k that float32 keeps; exact distances decide among them
_EXACT_ROWS = 128  # searched in float64 at once, against all others
_BIT_ROWS = 256  # rows of a mask looked at at once, so that a set of equal images costs no memory


@dataclasses.dataclass(frozen=True)
class Shares:
    """How two sets lie in each other's manifolds."""

    precision: float  # generated images in a real ball
    recall: float  # real images in a generated ball
    density: float  # real balls that hold a generated image, in units of k
    coverage: float  # real balls that hold a generated image at all


def compare(real: npt.ArrayLike, generated: npt.ArrayLike, k: int) -> Shares:
    """Returns the four shares of f[M,D] generated images against f[N,D] real ones.

    Memory beside that of the features is less than 1 GB, whatever N and M.

    Args:
        real: f[N,D].
        generated: f[M,D].
        k: neighbour that sets the radius; published values use 3.

    Raises:
        ConfigError: k below 1.
        DataError: k or fewer images in a set, different numbers of features, NaN or inf.
    """
    tables = check_rows(real, "real features"), check_rows(generated, "generated features")
    if tables[0].shape[1] != tables[1].shape[1]:
        raise DataError(
            f"features: {tables[0].shape[1]} of real images against {tables[1].shape[1]} of generated ones; "
            "expected equal numbers; encode both sets with the same encoder and layer."
        )
    for table in tables:
        _check_neighbours(len(table), k)
    a, b = distances.place(tables)
    radii_a, radii_b = squared_radii(a, k), squared_radii(b, k)
    holds, covered, recalled = _memberships(a, radii_a, b, radii_b)
    return Shares(
        precision=float((holds > 0).mean()),
        recall=float(recalled.mean()),
        density=float(holds.sum() / (k * len(b))),
        coverage=float(covered.mean()),
    )


def _check_neighbours(count: int, k: int) -> None:
    if k < 1:
        raise ConfigError(f"score: neighbours = {k}; expected 1 or more, e.g. 3.")
    if count <= k:
        raise DataError(
            f"features: {count} images have no neighbour number {k}; expected more than {k}; "
            "score a larger set or lower neighbours."
        )


def squared_radii(points: Points, k: int) -> Floats:
    """Returns f64[N], the squared distance of each point to its k-th nearest other one."""
    radii = np.empty(len(points))
    for start, rows in points.blocks(points.height):
        candidates, reach = _candidates(points, start, rows, k)
        numbers = np.arange(rows.start, rows.stop)
        found = np.full(candidates.shape, np.inf)
        there = candidates >= 0
        found[there] = exact(
            points, points, np.broadcast_to(numbers[:, None], there.shape)[there], candidates[there]
        )
        radii[rows] = np.partition(found, k - 1, axis=1)[:, k - 1]
        doubtful = numbers[~_is_sure(points, radii[rows], rows, reach)]
        for first in range(0, len(doubtful), _EXACT_ROWS):
            part = doubtful[first : first + _EXACT_ROWS]
            radii[part] = _radii_in_float64(points, part, k)
    return radii


def _candidates(points: Points, start: np.int32, rows: slice, k: int) -> tuple[Integers, Floats]:
    """Returns the likely nearest of each row i64[r,c], -1 for none, and what float32 says of all others.

    The latter is f64[r], the least squared distance, as float32 rounds it.
    """
    kept = min(k + _SPARE, points.width)
    near = jnp.full((points.height, kept), jnp.inf, jnp.float32)
    at = jnp.full((points.height, kept), -1, jnp.int32)
    own = points.block(int(start), points.height)
    for column, _ in points.blocks(points.width):
        others = points.block(int(column), points.width)
        near.block_until_ready()  # or all blocks would be made before the first is looked at
        near, at = distances.nearest(
            near, at, *own, *others, np.array([start, column]), np.int32(len(points))
        )
    count = rows.stop - rows.start
    reach = np.asarray(near)[:count].astype(np.float64)
    numbers = np.where(np.isfinite(reach), np.asarray(at)[:count], -1).astype(np.int64)
    return numbers, reach[:, -1]


def _is_sure(points: Points, radii: Floats, rows: slice, reach: Floats) -> npt.NDArray[np.bool_]:
    """Returns bool[r], whether no image beyond the candidates can be nearer than the radius.

    With e the relative error, an image at d that float32 saw at `reach` or farther has
    d + e (|a|^2 + |b|^2) >= reach, and |b|^2 <= 2 |a|^2 + 2 d.
    """
    error = rounding(points.rows.shape[1])
    squares = points.squares[rows].astype(np.float64)
    scaled = radii * points.scale**2
    return (radii == 0) | (scaled * (1 + 2 * error) + 3 * error * squares + FLOOR <= reach)


def _radii_in_float64(points: Points, numbers: Integers, k: int) -> Floats:
    """Returns f64[r], squared radii of rows whose near ones float32 cannot tell apart."""
    own = points.rows[numbers].astype(np.float64) - points.origin
    low, high = np.empty((len(own), len(points))), np.empty((len(own), len(points)))
    error = 2.0 * (own.shape[1] + 16) * np.finfo(np.float64).eps
    for start in range(0, len(points), distances.ROWS):
        part = slice(start, start + distances.ROWS)
        others = points.rows[part].astype(np.float64) - points.origin
        scale = np.square(own).sum(axis=1)[:, None] + np.square(others).sum(axis=1)
        distance = scale - 2.0 * (own @ others.T)
        low[:, part], high[:, part] = distance - error * scale, distance + error * scale
    for bound in (low, high):
        bound[np.arange(len(own)), numbers] = np.inf
    reach = np.partition(high, k - 1, axis=1)[:, k - 1 : k]
    row, column = np.nonzero(low <= reach)
    found = exact(points, points, numbers[row], column)
    order = np.lexsort((found, row))
    return found[order][np.searchsorted(row, np.arange(len(own))) + k - 1]


def _memberships(
    a: Points, radii_a: Floats, b: Points, radii_b: Floats
) -> tuple[Integers, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Returns i64[M], how many balls of a hold each b; bool[N], which hold one; bool[N], a in balls of b."""
    holds = np.zeros(len(b), np.int64)
    covered, recalled = np.zeros(len(a), bool), np.zeros(len(a), bool)
    reach_a, reach_b = _scaled(a, radii_a), _scaled(b, radii_b)
    counts = np.array([len(a), len(b)], np.int32)
    for start, rows in a.blocks(a.height):
        left = *a.block(int(start), a.height), reach_a[start : start + a.height]
        for column, columns in b.blocks(b.width):
            corner = np.array([start, column])
            right = *b.block(int(column), b.width), reach_b[column : column + b.width]
            block = distances.members(*left, *right, corner, counts)
            sure, covers, recalls, maybe_a, maybe_b = map(np.asarray, block)
            holds[columns] += sure[: columns.stop - columns.start]
            covered[rows] |= covers[: rows.stop - rows.start]
            recalled[rows] |= recalls[: rows.stop - rows.start]
            for i, j in _pairs(maybe_a, corner):
                inside = exact(a, b, i, j) <= radii_a[i]
                np.add.at(holds, j[inside], 1)
                covered[i[inside]] = True
            for i, j in _pairs(maybe_b, corner):
                open_ = ~recalled[i]
                i, j = i[open_], j[open_]
                recalled[i[exact(a, b, i, j) <= radii_b[j]]] = True
    return holds, covered, recalled


def _scaled(points: Points, radii: Floats) -> npt.NDArray[np.float32]:
    """Returns f32[P], squared radii in the scale of the device."""
    scaled = np.zeros(len(points.squares), np.float32)
    scaled[: len(points)] = radii * points.scale**2
    return scaled


def _pairs(bits: npt.NDArray[np.uint8], corner: npt.NDArray) -> Iterator[tuple[Integers, Integers]]:
    """Returns the rows and columns of the pairs whose bits are set, some rows at a time."""
    for first in range(0, len(bits), _BIT_ROWS):
        part = bits[first : first + _BIT_ROWS]
        if not part.any():
            continue
        row, byte = np.nonzero(part)
        which, bit = np.nonzero(np.unpackbits(part[row, byte][:, None], axis=1))
        yield (row[which] + first + corner[0]).astype(np.int64), byte[which] * 8 + bit + int(corner[1])
