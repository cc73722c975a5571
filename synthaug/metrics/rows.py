"""Tables with one row per image: what every metric demands of them, and an order that never changes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from synthaug.errors import ConfigError, DataError

_ROWS = 4096  # looked at at once, so that a table of many costs no memory

Floats = npt.NDArray[np.float64]


def check_rows(table: npt.ArrayLike, what: str, numbers: npt.NDArray[np.int64] | None = None) -> npt.NDArray:
    """Returns the table as an array of its own dtype, once it is known to be numeric, f[N,D] and finite.

    Args:
        table: f[N,D] of any real dtype, bfloat16 included; a jax array is fetched.
        what: names the table in errors, e.g. "features".
        numbers: i64[N], the image of each row, for errors; None where rows are images.

    Raises:
        DataError: another rank, no columns, a dtype that is not a real number, NaN or inf.
    """
    array = np.asarray(table)
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(
            f"{what}: found shape {array.shape}; expected one row per image, [N, D] with D > 0; reshape it."
        )
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise DataError(f"{what}: found dtype {array.dtype}; expected real numbers; convert it to float32.")
    bad = np.zeros(len(array), bool)
    for start in range(0, len(array), _ROWS):
        part = slice(start, start + _ROWS)
        bad[part] = ~np.isfinite(array[part]).all(axis=1)
    if bad.any():
        first = f"row {bad.argmax()}" if numbers is None else f"image {numbers[bad.argmax()]}"
        raise DataError(
            f"{what}: {bad.sum()} of {len(array)} rows hold NaN or inf, the first is {first}; "
            "expected finite values; look at that image, or encode in float32."
        )
    return array


def shuffled_order(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns i64[count], a permutation that depends on `count` and `seed` alone, in every numpy version.

    numpy promises the raw stream of a bit generator for ever, but not `Generator.permutation` (NEP 19).

    Raises:
        ConfigError: a negative seed.

    Example:
        >>> sorted(shuffled_order(4, seed=0).tolist())
        [0, 1, 2, 3]
    """
    if seed < 0:
        raise ConfigError(f"score: seed = {seed}; expected 0 or more; change it.")
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def random_draw(count: int, size: int, seed: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Returns i64[size], different numbers below `count`, by the same promise of numpy as `shuffled_order`.

    Example:
        >>> len(set(random_draw(10, 10, (0, 1)).tolist()))
        10
    """
    keys = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(keys, kind="stable")[:size]
