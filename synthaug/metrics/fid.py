"""Frechet distance between two Gaussians: FID, given Inception features (Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

import numpy as np

from synthaug.metrics.moments import Moments, check_same_width
from synthaug.metrics.rows import Floats


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), never negative.

    With S_a = A A^T and S_b = B B^T from symmetric eigen-decompositions, the last trace is the sum of the
    singular values of A^T B. Everything stays real, singular covariances (fewer images than features) need no
    epsilon on the diagonal, and rounding is about 1e-16 of the traces. The square roots of the eigenvalues of
    S_a^1/2 S_b S_a^1/2 are the same numbers but would amplify rounding to 1e-8.

    Args:
        a: moments of at least 2 images.
        b: moments of at least 2 images, with as many features.

    Raises:
        DataError: different numbers of features, or fewer than 2 images.
    """
    check_same_width(a, b)
    cov_a, cov_b = a.covariance(), b.covariance()
    product = _root(cov_a).T @ _root(cov_b)
    overlap = np.linalg.svd(product, compute_uv=False).sum() if product.size else 0.0
    shift = a.mean - b.mean
    return max(0.0, float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2.0 * overlap))


def _root(covariance: Floats) -> Floats:
    """Returns f64[D,R] whose product with its transpose is the covariance, which has numerical rank R."""
    values, vectors = np.linalg.eigh(covariance)
    # Below this an eigenvalue is rounding of zero, and its square root would no longer be small.
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
