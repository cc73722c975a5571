"""Mean and scatter of a set of features: all that FID knows of it. Shards are summed apart and merged."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from synthaug.errors import DataError
from synthaug.metrics.rows import Floats, check_rows

_ROWS_AT_ONCE = 8192  # bounds the float64 copy; 128 MiB at 2048 features


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of a set of feature vectors.

    The scatter, not the covariance, is kept: it is additive and exists for 0 and 1 images.
    """

    count: int
    mean: Floats  # f64[D]
    scatter: Floats  # f64[D,D], sum of (x - mean)(x - mean)^T

    def __post_init__(self) -> None:
        """Checks shapes and values.

        Raises:
            DataError: a negative count, shapes that do not fit each other, NaN or inf.
        """
        if self.count < 0:
            raise DataError(f"moments: count = {self.count}; expected 0 or more; compute them again.")
        if self.mean.ndim != 1 or self.scatter.shape != 2 * self.mean.shape:
            raise DataError(
                f"moments: mean {self.mean.shape} and scatter {self.scatter.shape}; "
                "expected (D,) and (D, D); compute them again."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scatter).all()):
            raise DataError("moments: found NaN or inf; expected finite values; compute them again.")

    def covariance(self) -> Floats:
        """Returns f64[D,D], the unbiased covariance.

        Raises:
            DataError: fewer than 2 images.
        """
        if self.count < 2:
            raise DataError(
                f"moments: {self.count} images; a covariance needs at least 2; score a larger set."
            )
        return self.scatter / (self.count - 1)


def of(features: npt.ArrayLike) -> Moments:
    """Returns the moments of features f[N,D], in two passes of bounded memory; N may be 0.

    Raises:
        DataError: NaN or inf (how many rows, and the first), or not f[N,D].

    Example:
        >>> of([[1.0], [3.0]]).covariance().tolist()
        [[2.0]]
    """
    rows = check_rows(features, "features")
    count, width = rows.shape
    total, scatter = np.zeros(width), np.zeros((width, width))
    blocks = [rows[i : i + _ROWS_AT_ONCE] for i in range(0, count, _ROWS_AT_ONCE)]
    for block in blocks:
        total += block.astype(np.float64).sum(axis=0)
    mean = total / max(count, 1)
    for block in blocks:
        centred = block.astype(np.float64) - mean
        scatter += centred.T @ centred
    return Moments(count, mean, scatter)


def merge(a: Moments, b: Moments) -> Moments:
    """Returns the moments of the union of two disjoint sets (Chan, Golub and LeVeque 1979, eq. 2.1).

    Bit-identical under exchange of `a` and `b`; associative up to rounding. An empty set changes nothing.

    Raises:
        DataError: different numbers of features.
    """
    check_same_width(a, b)
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    difference = b.mean - a.mean
    between = np.outer(difference, difference) * (a.count * b.count / count)
    mean = (a.count * a.mean + b.count * b.mean) / count
    return Moments(count, mean, a.scatter + b.scatter + between)


def merge_all(shards: Iterable[Moments]) -> Moments:
    """Returns the moments of the union of all shards, holding one more than the current at a time.

    Raises:
        DataError: no shard at all, or different numbers of features.
    """
    rest = iter(shards)
    first = next(rest, None)
    if first is None:
        raise DataError("moments: found no shard to merge; expected at least one; is the set empty?")
    return functools.reduce(merge, rest, first)


def check_same_width(a: Moments, b: Moments) -> None:
    """Checks that two sets have the same number of features.

    Raises:
        DataError: they have not.
    """
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"moments: {a.mean.size} features against {b.mean.size}; expected equal numbers; "
            "encode both sets with the same encoder and layer."
        )


def to_arrays(moments: Moments) -> dict[str, npt.NDArray]:
    """Returns the arrays count i64[], mean f64[D] and scatter f64[D,D], as `np.savez` takes them."""
    return {"count": np.array(moments.count, np.int64), "mean": moments.mean, "scatter": moments.scatter}


def from_arrays(arrays: Mapping[str, npt.NDArray]) -> Moments:
    """Returns the moments in the arrays of `to_arrays`, bit for bit.

    Raises:
        DataError: an array is missing, or is no float64 moment.
    """
    missing = [name for name in ("count", "mean", "scatter") if name not in arrays]
    if missing:
        raise DataError(
            f"moments: {', '.join(missing)} missing among {', '.join(arrays) or 'no arrays'}; "
            "expected count, mean and scatter; compute them again."
        )
    count, mean, scatter = (np.asarray(arrays[name]) for name in ("count", "mean", "scatter"))
    if count.shape or count.dtype.kind not in "iu" or {mean.dtype, scatter.dtype} != {np.dtype(np.float64)}:
        raise DataError(
            f"moments: count {count.dtype}{count.shape}, mean {mean.dtype}, scatter {scatter.dtype}; "
            "expected one integer and float64; compute them again."
        )
    return Moments(int(count), mean, scatter)
