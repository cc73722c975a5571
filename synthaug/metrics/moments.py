"""Count, sum and Gram matrix of a set of features: all that FID knows of it, exact and mergeable.

Features are rounded once to multiples of 2^-30; every sum of them and of their products is then a whole
number (`limbs`). So the moments of a set are the same bits in any batches, shards and order of merging, and
so is every number made of them. Memory is O(D^2) whatever the number of images.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from synthaug.errors import DataError
from synthaug.metrics import limbs
from synthaug.metrics.fid import Gaussian
from synthaug.metrics.limbs import Integers
from synthaug.metrics.rows import Floats, check_rows

LARGEST = 2.0**28
"""Features from here on are no features; below, they have at most three digits, 2^59."""

ROWS = 4096
"""Rows of one product. Sums of two digits are at most 2^20, so 4096 products of them stay exact."""

_FOLD = 256  # products in one int64: 2^8 * 2^53 * 2 for the mixed ones
_STRIP = 64  # rows whose temporaries stay in the cache


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Exact sums over a set of feature vectors, in units of 2^-30 and of 2^-60."""

    count: int
    total: Integers  # i64[L,D], limbs of the sum of x
    gram: Integers  # i64[L,D(D+1)/2], limbs of the sum of x x^T: its upper triangle, row by row

    def __post_init__(self) -> None:
        """Checks shapes and values.

        Raises:
            DataError: a negative count, shapes that do not fit each other, limbs out of range.
        """
        if self.count < 0:
            raise DataError(f"moments: count = {self.count}; expected 0 or more; compute them again.")
        width = self.total.shape[-1]
        if self.total.ndim != 2 or self.gram.ndim != 2 or self.gram.shape[1] != width * (width + 1) // 2:
            raise DataError(
                f"moments: total {self.total.shape} and gram {self.gram.shape}; "
                "expected (L, D) and (L, D(D+1)/2); compute them again."
            )

    @property
    def width(self) -> int:
        """Number of features D."""
        return int(self.total.shape[1])

    def mean(self) -> Floats:
        """Returns f64[D], correctly rounded.

        Raises:
            DataError: no images.
        """
        self._demand(1, "mean")
        unit = self.count << limbs.SCALE
        return np.array([number / unit for number in limbs.to_integers(self.total)])

    def gaussian(self) -> Gaussian:
        """Returns count, mean and unbiased covariance.

        The mean, rounded to a whole number of units, is taken out of the Gram matrix before anything else is
        rounded; so a large mean costs no digit of a small deviation.

        Raises:
            DataError: fewer than 2 images.
        """
        self._demand(2, "covariance")
        count, totals = self.count, limbs.to_integers(self.total)
        centre = [(2 * total + count) // (2 * count) for total in totals]
        left = [total - count * middle for total, middle in zip(totals, centre, strict=True)]
        covariance = np.empty((self.width, self.width))
        digits = [limbs.digits_of(numbers) for numbers in (totals, centre, left)]
        rest = np.array(left, np.float64)
        for first in range(0, self.width, _STRIP):
            rows, columns = slice(first, min(first + _STRIP, self.width)), slice(first, None)
            centred = limbs.to_floats(self._centred(rows, columns, *digits))
            strip = (centred - np.outer(rest[rows], rest[columns]) / count) / (count - 1)
            covariance[rows, columns] = strip * 2.0 ** (-2 * limbs.SCALE)
        below = np.tril_indices(self.width, -1)
        covariance[below] = covariance.T[below]
        return Gaussian(count, self.mean(), covariance)

    def _centred(
        self, rows: slice, columns: slice, total: Integers, centre: Integers, left: Integers
    ) -> Integers:
        """Returns limbs i64[L,r,c] of the sum of (x - m)(x - m)^T = sum x x^T - m s^T - (s - n m) m^T."""
        powers: dict[int, Integers] = {}
        for a, b in ((centre, total), (left, centre)):
            for i, j in np.ndindex(len(a), len(b)):
                product = np.outer(a[i, rows], b[j, columns])
                powers[i + j] = powers[i + j] - product if i + j in powers else -product
        return limbs.add(limbs.carry(limbs.to_limbs(powers)), limbs.unpack(self.gram, self.width, rows))

    def _demand(self, least: int, what: str) -> None:
        if self.count < least:
            raise DataError(
                f"moments: {self.count} images; a {what} needs at least {least}; score a larger set."
            )


class Sums:
    """Moments in the making: takes features batch by batch, in any order."""

    def __init__(self, width: int, buffers: dict[str, Floats] | None = None) -> None:
        """Starts with no image.

        Args:
            width: number of features D.
            buffers: room for intermediate results, 300 MB at 2048 features, that several sums may share.
        """
        self._width = width
        self._waiting: list[npt.NDArray] = []
        self._buffers = {} if buffers is None else buffers
        self._done = of_none(width)
        self._reset()

    def add(self, features: npt.ArrayLike) -> None:
        """Adds rows f[N,D].

        Raises:
            DataError: NaN, inf or values beyond 2^28 (how many rows, and the first), another width.
        """
        rows = check_rows(features, "features")
        if rows.shape[1] != self._width:
            raise DataError(
                f"features: {rows.shape[1]} per image after {self._width}; expected equal numbers; "
                "use one encoder and layer."
            )
        _check_range(rows)
        waiting = sum(map(len, self._waiting)) + len(rows)
        self._waiting.append(rows if waiting >= ROWS else rows.copy())  # a view would keep its batch alive
        if waiting >= ROWS:
            self._flush()

    def moments(self) -> Moments:
        """Returns the moments of all rows so far."""
        self._flush()
        self._fold()
        return self._done

    def _reset(self) -> None:
        self._count, self._products = 0, 0
        self._total: dict[int, Integers] = {}
        self._gram: dict[int, Integers] = {}

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        rows = np.concatenate(waiting) if len(waiting) > 1 else waiting[0] if waiting else np.zeros((0, 1))
        for first in range(0, len(rows), ROWS):
            self._multiply(self._split(rows[first : first + ROWS]))

    def _split(self, rows: npt.NDArray) -> list[Floats]:
        """Returns the digits f64[N,D] of rows in units of 2^-30; strips of rows stay in the cache."""
        size = max(float(rows.max()), -float(rows.min())) * 2.0**limbs.SCALE
        digits = [self._buffer(f"digit {place}", len(rows)) for place in range(limbs.num_digits(size))]
        for first in range(0, len(rows), _STRIP):
            strip = slice(first, first + _STRIP)
            limbs.split_digits(rows[strip], [digit[strip] for digit in digits])
        return digits

    def _multiply(self, digits: list[Floats]) -> None:
        """Adds one product; with more than one digit, a b^T + b a^T is (a+b)(a+b)^T - a a^T - b b^T."""
        self._count += len(digits[0])
        squares = []
        for place, digit in enumerate(digits):
            self._add_total(place, digit.sum(axis=0))
            squares.append(np.matmul(digit.T, digit, out=self._buffer(f"square {place}", self._width)))
            self._add_gram(2 * place, squares[place])
        for high in range(1, len(digits)):
            for low in range(high):
                both = np.add(digits[low], digits[high], out=self._buffer("both", len(digits[0])))
                product = np.matmul(both.T, both, out=self._buffer("product", self._width))
                self._add_gram(low + high, product, squares[low], squares[high])
        self._products += 1
        if self._products == _FOLD:
            self._fold()

    def _buffer(self, name: str, rows: int) -> Floats:
        """Returns f64[rows,D] that is used again: fresh memory costs as much as the arithmetic."""
        size = rows * self._width
        if name not in self._buffers or len(self._buffers[name]) < size:
            self._buffers[name] = np.empty(size)
        return self._buffers[name][:size].reshape(rows, self._width)

    def _add_total(self, power: int, column_sums: Floats) -> None:
        into = self._total.setdefault(power, np.zeros(self._width, np.int64))
        into += column_sums.astype(np.int64)

    def _add_gram(self, power: int, product: Floats, *less: Floats) -> None:
        """Adds the upper triangle; the rest is symmetric."""
        into = self._gram.get(power)
        if into is None:
            into = self._gram[power] = np.zeros(product.shape, np.int64)
        for first in range(0, self._width, _STRIP):
            part = slice(first, first + _STRIP), slice(first, None)
            numbers = product[part]
            for other in less:
                numbers = numbers - other[part]
            into[part] += numbers.astype(np.int64)

    def _fold(self) -> None:
        """Moves the sums into `_done`, which has room for more."""
        if self._count:
            total = limbs.carry(limbs.to_limbs(self._total))
            packed = {power: limbs.pack(matrix) for power, matrix in self._gram.items()}
            self._done = merge(self._done, Moments(self._count, total, limbs.carry(limbs.to_limbs(packed))))
        self._reset()


def of(features: npt.ArrayLike) -> Moments:
    """Returns the moments of features f[N,D]; N may be 0.

    Raises:
        DataError: NaN, inf or values beyond 2^28, or not f[N,D].

    Example:
        >>> of([[1.0], [3.0]]).gaussian().covariance.tolist()
        [[2.0]]
    """
    rows = check_rows(features, "features")
    sums = Sums(rows.shape[1])
    sums.add(rows)
    return sums.moments()


def of_none(width: int) -> Moments:
    """Returns the moments of no image."""
    empty = np.zeros((1, width), np.int64), np.zeros((1, width * (width + 1) // 2), np.int64)
    return Moments(0, *empty)


def merge(a: Moments, b: Moments) -> Moments:
    """Returns the moments of the union of two disjoint sets: the same bits in any order and nesting.

    Raises:
        DataError: different numbers of features.
    """
    if a.width != b.width:
        raise DataError(
            f"moments: {a.width} features against {b.width}; expected equal numbers; "
            "encode both sets with the same encoder and layer."
        )
    if not a.count or not b.count:
        return a if a.count else b
    return Moments(a.count + b.count, limbs.add(a.total, b.total), limbs.add(a.gram, b.gram))


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


def to_arrays(moments: Moments) -> dict[str, npt.NDArray]:
    """Returns the arrays count i64[], total i64[L,D] and gram i64[L,D(D+1)/2], as `np.savez` takes them."""
    return {"count": np.array(moments.count, np.int64), "total": moments.total, "gram": moments.gram}


def from_arrays(arrays: Mapping[str, npt.NDArray]) -> Moments:
    """Returns the moments in the arrays of `to_arrays`, bit for bit.

    Raises:
        DataError: an array is missing, or is no exact moment.
    """
    missing = [name for name in ("count", "total", "gram") if name not in arrays]
    if missing:
        raise DataError(
            f"moments: {', '.join(missing)} missing among {', '.join(arrays) or 'no arrays'}; "
            "expected count, total and gram; compute them again."
        )
    count, total, gram = (np.asarray(arrays[name]) for name in ("count", "total", "gram"))
    if count.shape or {count.dtype, total.dtype, gram.dtype} != {np.dtype(np.int64)}:
        raise DataError(
            f"moments: count {count.dtype}{count.shape}, total {total.dtype}, gram {gram.dtype}; "
            "expected one int64 and two arrays of it; compute them again."
        )
    half = 1 << (limbs.LIMB - 1)
    if any(array.size and not -half <= array.min() <= array.max() < half for array in (total, gram)):
        raise DataError("moments: limbs beyond 40 bits; this file is damaged; compute it again.")
    return Moments(int(count), total, gram)


def _check_range(rows: npt.NDArray) -> None:
    if rows.size and max(float(rows.max()), -float(rows.min())) >= LARGEST:
        bad = (np.abs(rows.astype(np.float64)) >= LARGEST).any(axis=1)
        raise DataError(
            f"features: {bad.sum()} of {len(rows)} rows hold values beyond {LARGEST:.3g}, the first is row "
            f"{bad.argmax()}; expected features of a network; look at that image and at the encoder."
        )
