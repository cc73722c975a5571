"""Whole numbers of any length in arrays: sums that are exact, so that no order of adding changes a bit.

A feature is rounded once to a multiple of 2^-30. From there on it is a whole number, written in digits of 20
bits. Products of digits fit into float64 without rounding, so BLAS may add them in whatever order it likes;
what comes out is kept in limbs of 40 bits. Both are balanced, from -2^19 to 2^19 and from -2^39 to 2^39 - 1,
which makes the limbs of a number unique and small numbers short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from synthaug.metrics.rows import Floats

Integers = npt.NDArray[np.int64]

SCALE = 30
"""Features are multiples of 2^-30, about 1e-9."""

DIGIT, LIMB = 20, 40


def num_digits(largest: float) -> int:
    """Returns how many digits whole numbers up to `largest` have; the last one is at most 2^19.

    Example:
        >>> num_digits(2.0**19), num_digits(2.0**19 + 1), num_digits(2.0**39)
        (1, 2, 2)
    """
    count, reach = 1, 2.0 ** (DIGIT - 1)
    while largest > reach:
        count, reach = count + 1, reach * 2.0**DIGIT
    return count


def split_digits(values: npt.NDArray, digits: Sequence[Floats]) -> None:
    """Writes the digits of values f[...] in units of 2^-30 to f64[...] each, the lowest first.

    Example:
        >>> low, high = np.empty(2), np.empty(2)
        >>> split_digits(np.array([2.0**-10 - 2.0**-30, 5 * 2.0**-30]), [low, high])
        >>> low.tolist(), high.tolist()
        ([-1.0, 5.0], [1.0, 0.0])
    """
    rest = digits[-1]
    np.multiply(values, 2.0**SCALE, out=rest, dtype=np.float64, casting="unsafe")
    np.rint(rest, out=rest)
    for digit in digits[:-1]:
        higher = np.rint(rest * 2.0**-DIGIT)
        np.subtract(rest, higher * 2.0**DIGIT, out=digit)
        rest[...] = higher


def digits_of(numbers: Sequence[int]) -> Integers:
    """Returns i64[k,N], the digits of whole numbers of any length, the lowest first.

    Example:
        >>> digits_of([2**20 - 1, -(2**40)]).tolist()
        [[-1, 0], [1, 0], [0, -1]]
    """
    half, rest = 1 << (DIGIT - 1), list(numbers)
    digits: list[list[int]] = []
    while not digits or any(rest):
        higher = [(number + half) >> DIGIT for number in rest]
        digits.append([low - (high << DIGIT) for low, high in zip(rest, higher, strict=True)])
        rest = higher
    return np.array(digits, np.int64)


def to_limbs(powers: Mapping[int, Integers]) -> list[Integers]:
    """Returns limbs not yet carried of the sum of powers[p] * 2^(20 p), each up to 2^60."""
    limbs: dict[int, Integers] = {}

    def add(place: int, numbers: Integers) -> None:
        limbs[place] = limbs[place] + numbers if place in limbs else numbers

    for power, numbers in powers.items():
        if power % 2:
            high = (numbers + (1 << (DIGIT - 1))) >> DIGIT
            add(power // 2, (numbers - (high << DIGIT)) << DIGIT)
            add(power // 2 + 1, high)
        else:
            add(power // 2, numbers)
    shape = next(iter(powers.values())).shape
    return [limbs.get(place, np.zeros(shape, np.int64)) for place in range(max(limbs) + 1)]


def carry(limbs: Sequence[Integers]) -> Integers:
    """Returns i64[L,...], the one balanced form of limbs below 2^62, without zeros at its top (L >= 1).

    Example:
        >>> carry([np.array([2**39]), np.array([0])]).tolist()
        [[-549755813888], [1]]
    """
    done: list[Integers] = []
    over: Integers | None = None
    rest = list(limbs)
    while rest or (over is not None and over.any()):
        limb = rest.pop(0) if rest else np.zeros_like(limbs[0])
        limb = limb if over is None else limb + over
        over = (limb + (1 << (LIMB - 1))) >> LIMB
        done.append(limb - (over << LIMB))
    while len(done) > 1 and not done[-1].any():
        done.pop()
    return np.stack(done)


def add(a: Integers, b: Integers) -> Integers:
    """Returns the balanced limbs of the sum of two balanced ones."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return carry([limb + shorter[i] if i < len(shorter) else limb for i, limb in enumerate(longer)])


def to_integers(limbs: Integers) -> list[int]:
    """Returns the numbers of limbs i64[L,N] as Python's.

    Example:
        >>> to_integers(np.array([[-1, 3], [1, 0]]))
        [1099511627775, 3]
    """
    return [sum(int(limb) << (LIMB * place) for place, limb in enumerate(column)) for column in limbs.T]


def to_floats(limbs: Integers) -> Floats:
    """Returns the nearest f64[...] of limbs i64[L,...]; beyond two limbs, within a unit of the last place."""
    value = limbs[-1].astype(np.float64)
    for limb in limbs[-2::-1]:
        value = value * 2.0**LIMB + limb
    return value


def pack(matrix: npt.NDArray) -> npt.NDArray:
    """Returns [D(D+1)/2], the upper triangle of [D,D], row by row."""
    return np.concatenate([row[i:] for i, row in enumerate(matrix)])


def unpack(packed: Integers, width: int, rows: slice) -> Integers:
    """Returns i64[L,r,D-first], the given rows of the packed matrix from the first one's diagonal on."""
    first, last = rows.start, rows.stop
    strip = np.zeros((len(packed), last - first, width - first), np.int64)
    for i in range(first, last):
        start = i * width - i * (i - 1) // 2
        strip[:, i - first, i - first :] = packed[:, start : start + width - i]
    return strip
