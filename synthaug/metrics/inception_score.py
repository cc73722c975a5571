"""Inception Score (Salimans et al. 2016): are images recognisable, and together diverse?

exp(E_x KL(p(y|x) || p(y))) needs of a split only its number of images, the sum of p and the sum of p log p.
These are kept as whole numbers of 2^-52, so the score is the same bits in any order of adding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from synthaug.errors import ConfigError, DataError
from synthaug.metrics.limbs import Integers
from synthaug.metrics.rows import Floats, check_rows, shuffled_order

HALF = 26  # bits: a sum is high * 2^26 + low, which fits into int64
BITS = 52  # behind the point; p log p of an image is above -64, so a sum of 2^30 images fits

_ROWS_AT_ONCE = 4096  # bounds the float64 copy; 32 MiB at 1000 classes


@dataclasses.dataclass(frozen=True, eq=False)
class SplitSums:
    """Exact sums over the images of each of S splits; K classes."""

    counts: Integers  # i64[S]
    probability: Integers  # i64[2,S,K], high and low half of the sum of p, in 2^-52
    entropy: Integers  # i64[2,S], of the sum of p log p, in 2^-52

    def score(self) -> tuple[float, float]:
        """Returns mean and standard deviation over splits, as `inception_score` does.

        Raises:
            DataError: a split without images.
        """
        if not self.counts.all():
            raise DataError(
                f"Inception Score: split {self.counts.argmin()} of {len(self.counts)} has no images; "
                "expected one or more in each; lower splits or score a larger set."
            )
        counts = self.counts.astype(np.float64)
        p = _joined(self.probability) / counts[:, None]
        log_p = np.log(np.where(p > 0, p, 1.0))  # 0 log 0 = 0
        values = np.exp(_joined(self.entropy) / counts - (p * log_p).sum(axis=1))
        return float(values.mean()), float(values.std())


def inception_score(logits: npt.ArrayLike, splits: int, *, seed: int | None) -> tuple[float, float]:
    """Returns mean and standard deviation over splits of exp(E_x KL(p(y|x) || p(y))), between 1 and K.

    Every image is used; split sizes differ by at most one. The deviation is over all splits (no n - 1), as in
    Salimans' code; it measures the splits, not repeated sampling.

    Args:
        logits: f[N,K], before the softmax (ADM's evaluator leaves out the last layer's bias).
        splits: number of equal splits; published values use 10 of 5000 images.
        seed: shuffles the images before they are split. None keeps their order, as ADM's evaluator does:
            only right if classes come in random order, since a split of one class scores 1.

    Raises:
        ConfigError: fewer than one split, or a negative seed.
        DataError: fewer images than splits, NaN or inf.
    """
    rows = check_rows(logits, "logits")
    check_splits(len(rows), splits)
    ranks = np.arange(len(rows)) if seed is None else np.argsort(shuffled_order(len(rows), seed))
    return of(rows, split_of(ranks, len(rows), splits), splits).score()


def check_splits(count: int, splits: int) -> None:
    """Checks that images fill splits.

    Raises:
        ConfigError: fewer than one split.
        DataError: fewer images than splits.
    """
    if splits < 1:
        raise ConfigError(f"score: splits = {splits}; expected 1 or more, e.g. 10.")
    if count < splits:
        raise DataError(
            f"Inception Score: {count} images do not fill {splits} splits; "
            "expected at least one image each; lower splits or score a larger set."
        )


def num_splits(count: int, size: int) -> int:
    """Returns how many equal splits of about `size` images (ADM's evaluator: 5000) a set has, at least 1.

    Raises:
        ConfigError: a size below 1.

    Example:
        >>> num_splits(50_000, 5000), num_splits(1_281_167, 5000), num_splits(100, 5000)
        (10, 256, 1)
    """
    if size < 1:
        raise ConfigError(f"score: splits of {size} images; expected 1 or more, e.g. 5000.")
    return max(1, round(count / size))


def split_of(ranks: Integers, count: int, splits: int) -> Integers:
    """Returns i64[N], the split of the images of these ranks among `count`: split s ends at (s+1) n // S.

    Example:
        >>> split_of(np.arange(7), 7, 3).tolist()
        [0, 0, 1, 1, 2, 2, 2]
    """
    ends = np.arange(1, splits + 1) * count // splits
    return np.searchsorted(ends, ranks, side="right")


def of(logits: npt.ArrayLike, split: npt.NDArray, splits: int) -> SplitSums:
    """Returns the sums over logits f[N,K] of images that belong to splits i[N].

    Raises:
        DataError: NaN or inf.
    """
    rows = check_rows(logits, "logits")
    probability = np.zeros((2, splits, rows.shape[1]), np.int64)
    entropy = np.zeros((2, splits), np.int64)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(first, first + _ROWS_AT_ONCE)
        log_p = _log_softmax(np.ascontiguousarray(rows[block], np.float64))
        p = np.exp(log_p)
        for of_image, sums in ((p, probability), ((p * log_p).sum(1), entropy)):
            units = np.rint(of_image * 2.0**BITS).astype(np.int64)
            np.add.at(sums[0], split[block], units >> HALF)
            np.add.at(sums[1], split[block], units & ((1 << HALF) - 1))
    return SplitSums(np.bincount(split, minlength=splits), _carried(probability), _carried(entropy))


def merge(a: SplitSums, b: SplitSums) -> SplitSums:
    """Returns the sums over both sets: the same bits in any order and nesting.

    Raises:
        DataError: other splits or other classes.
    """
    if a.probability.shape != b.probability.shape:
        raise DataError(
            f"Inception Score: {a.probability.shape[1:]} splits and classes against "
            f"{b.probability.shape[1:]}; expected equal ones; encode all parts in one way."
        )
    return SplitSums(
        a.counts + b.counts, _carried(a.probability + b.probability), _carried(a.entropy + b.entropy)
    )


def to_arrays(sums: SplitSums) -> dict[str, npt.NDArray]:
    """Returns the arrays counts, probability and entropy, as `np.savez` takes them."""
    return {"counts": sums.counts, "probability": sums.probability, "entropy": sums.entropy}


def from_arrays(arrays: Mapping[str, npt.NDArray]) -> SplitSums:
    """Returns the sums in the arrays of `to_arrays`, bit for bit.

    Raises:
        DataError: an array is missing or of another kind.
    """
    found = [np.asarray(arrays[name]) for name in ("counts", "probability", "entropy") if name in arrays]
    if [array.ndim for array in found] != [1, 3, 2] or {array.dtype for array in found} != {np.dtype("i8")}:
        raise DataError(
            f"Inception Score: found {[f'{a.dtype}{list(a.shape)}' for a in found]}; expected counts i64[S], "
            "probability i64[2,S,K] and entropy i64[2,S]; compute them again."
        )
    return SplitSums(*found)


def _carried(sums: Integers) -> Integers:
    return np.stack([sums[0] + (sums[1] >> HALF), sums[1] & ((1 << HALF) - 1)])


def _joined(sums: Integers) -> Floats:
    return (sums[0] * 2.0**HALF + sums[1]) * 2.0**-BITS


def _log_softmax(logits: Floats) -> Floats:
    """Returns f64[N,K], log-probabilities that stay finite where the probability underflows."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
