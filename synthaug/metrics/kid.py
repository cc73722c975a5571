"""Kernel distance KID (Binkowski et al. 2018): the squared maximum mean discrepancy under a cubic kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from synthaug.errors import DataError
from synthaug.metrics.rows import Floats, check_rows, random_draw

_BLOCK = 4096  # rows per side of a kernel block; 128 MiB


def kid(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Returns the unbiased estimate of MMD^2 between f[N,D] and f[M,D]; it may be a little below 0.

    The kernel is (x y / D + 1)^3; pairs of an image with itself are left out.

    Raises:
        DataError: fewer than 2 images, other widths, NaN or inf.

    Example:
        >>> kid([[0.0], [0.0]], [[1.0], [1.0]])
        7.0
    """
    return _mmd2(*_pair(a, b))


def kid_of_subsets(
    a: npt.ArrayLike, b: npt.ArrayLike, *, subsets: int, size: int, seed: int
) -> tuple[float, float | None]:
    """Returns mean and standard deviation (no n - 1) of KID over draws, as torch-fidelity defines them.

    Where every draw is both sets as a whole, that is the one KID of them, without a deviation.

    Args:
        a: f[N,D].
        b: f[M,D].
        subsets: number of draws.
        size: images drawn from each set, without repetition; at most the smaller set.
        seed: of the draws.

    Raises:
        DataError: sets smaller than a draw, draws of less than 2, other widths, NaN or inf.
    """
    first, second = _pair(a, b)
    if not 2 <= size <= min(len(first), len(second)):
        raise DataError(
            f"KID: draws of {size} from {len(first)} and {len(second)} images; "
            "expected 2 or more, at most the smaller set; lower kid_subset_size."
        )
    if size == len(first) == len(second):
        return _mmd2(first, second), None
    values = [
        _mmd2(
            first[random_draw(len(first), size, (seed, draw, 0))],
            second[random_draw(len(second), size, (seed, draw, 1))],
        )
        for draw in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[npt.NDArray, npt.NDArray]:
    first, second = check_rows(a, "features"), check_rows(b, "features of the reference")
    if first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise DataError(
            f"KID: features {list(first.shape)} against {list(second.shape)}; expected 2 or more images each "
            "with equal widths; encode both sets with the same encoder and layer."
        )
    return first, second


def _mmd2(a: npt.NDArray, b: npt.NDArray) -> float:
    within = [_kernel_sum(x, x) / (len(x) * (len(x) - 1.0)) for x in (a, b)]
    return sum(within) - 2.0 * _kernel_sum(a, b) / (float(len(a)) * len(b))


def _kernel_sum(a: npt.NDArray, b: npt.NDArray) -> float:
    """Returns the sum of the kernel over all pairs; of a set with itself, over pairs of different images."""
    total = 0.0
    for i in range(0, len(a), _BLOCK):
        left = a[i : i + _BLOCK].astype(np.float64)
        for j in range(i if a is b else 0, len(b), _BLOCK):
            right = left if a is b and j == i else b[j : j + _BLOCK].astype(np.float64)
            block = _kernel(left, right)
            if a is not b:
                total += float(block.sum())
            elif i == j:
                total += float(block.sum() - np.trace(block))
            else:
                total += 2.0 * float(block.sum())
    return total


def _kernel(a: Floats, b: Floats) -> Floats:
    base = a @ b.T  # of a block with itself, BLAS computes one half
    base /= a.shape[1]
    base += 1.0
    return base * base * base
