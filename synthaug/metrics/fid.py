"""Frechet distance between two Gaussians: FID, given Inception features (Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from synthaug.errors import DataError
from synthaug.metrics.rows import Floats


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """What a Frechet distance knows of a set of images."""

    count: int  # images it was fitted to, 0 = not known
    mean: Floats  # f64[D]
    covariance: Floats  # f64[D,D], unbiased

    def __post_init__(self) -> None:
        """Checks shapes and values.

        Raises:
            DataError: shapes that do not fit each other, NaN or inf.
        """
        if self.mean.ndim != 1 or self.covariance.shape != 2 * self.mean.shape:
            raise DataError(
                f"statistics: mean {self.mean.shape} and covariance {self.covariance.shape}; "
                "expected (D,) and (D, D); make the reference again."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise DataError("statistics: found NaN or inf; expected finite values; make the reference again.")


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Returns |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), never negative.

    With S_a = A A^T and S_b = B B^T, the last trace is the sum of the singular values of A^T B. A and B are
    Cholesky's factors, or come from a symmetric eigen-decomposition where a covariance is singular (fewer
    images than features). Everything stays real, no epsilon is added to a diagonal, and rounding is about
    1e-16 of the traces. The roots of the eigenvalues of A^T S_b A are the same numbers in half the time, but
    a root turns rounding of 1e-16 into 1e-8.

    Args:
        a: Gaussian of one set.
        b: Gaussian of the other, with as many features.

    Raises:
        DataError: different numbers of features.
    """
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"statistics: {a.mean.size} features against {b.mean.size}; expected equal numbers; "
            "encode both sets with the same encoder and layer."
        )
    product = _factor(a.covariance).T @ _factor(b.covariance)
    overlap = np.linalg.svd(product, compute_uv=False).sum() if product.size else 0.0
    shift = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return max(0.0, float(shift @ shift + traces - 2.0 * overlap))


def _factor(covariance: Floats) -> Floats:
    """Returns f64[D,R] whose product with its transpose is the covariance, which has numerical rank R."""
    rounding = len(covariance) * np.finfo(np.float64).eps
    try:
        factor = np.linalg.cholesky(covariance).astype(np.float64, copy=False)
        pivots = np.square(np.diag(factor))
        if pivots.min() > rounding * pivots.max():
            return factor
    except np.linalg.LinAlgError:
        pass  # singular, to rounding: the eigenvalues tell which directions are there
    values, vectors = np.linalg.eigh(covariance)
    # Below this an eigenvalue is rounding of zero, and its square root would no longer be small.
    kept = values > max(values[-1], 0.0) * rounding
    return vectors[:, kept] * np.sqrt(values[kept])


def fid_infinity(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Returns (FID of infinitely many images, slope): the line through values over 1 / sizes.

    The bias of FID falls as 1 / n (Chong and Forsyth 2020, "Effectively unbiased FID and Inception Score");
    an ordinary least-squares line takes it away. It may fall below 0 where the two sets hardly differ.

    Args:
        sizes: images of each value, at least two different ones.
        values: FID of so many images.

    Raises:
        DataError: not one value per size, or fewer than two different sizes.

    Example:
        >>> [round(number, 6) for number in fid_infinity([100, 200, 400], [3.0, 2.0, 1.5])]
        [1.0, 200.0]
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2 or min(sizes) < 1:
        raise DataError(
            f"FID-infinity: {len(values)} values for sizes {list(sizes)}; expected one each, at two or more "
            "different sizes; name more sizes."
        )
    inverse, fids = 1.0 / np.asarray(sizes, np.float64), np.asarray(values, np.float64)
    across = inverse - inverse.mean()
    slope = float(across @ (fids - fids.mean()) / (across @ across))
    return float(fids.mean() - slope * inverse.mean()), slope
