"""Few-shot and long-tailed subsets of the real train images, by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synthaug.errors import DataError
from synthaug.experiment.data import Subset

_TAIL = 1 << 64  # added to the seed: the order of the classes is another stream than that of the images


def choose(labels: np.ndarray, subset: Subset, seed: int, keys: Sequence[str] = ()) -> np.ndarray:
    """Returns the indices of the chosen images, i64[M], ascending.

    Of class k with n images, ceil(m * fraction * (r + 1) ** -exponent) are chosen, where m is `per_class`,
    or n if that is 0, and r the place of class k in a random order of the classes. In each class the choice
    is the head of one random order that depends on the seed alone, so with one seed every smaller subset
    lies inside the larger ones.

    Args:
        labels: i32[N], class indices 0..K-1.
        subset: how many.
        seed: chooses the images, and which classes are rare.
        keys: of the classes, for errors; else their indices stand there.

    Raises:
        DataError: a class has fewer than `per_class` images.

    Example:
        >>> chosen = choose(np.array([0, 1, 1, 0, 1]), Subset(per_class=2), seed=0)
        >>> len(chosen), set(chosen.tolist()) > {0, 3}
        (4, True)
    """
    counts = np.bincount(labels)
    if subset.per_class and counts.min() < subset.per_class:
        smallest = int(counts.argmin())
        key = keys[smallest] if keys else smallest
        raise DataError(
            f"subset: class {key} has {counts.min()} train images, per_class = {subset.per_class}; "
            f"set per_class to {counts.min()} or less, or use fraction."
        )
    sizes = class_sizes(counts, subset, seed)
    # Philox's stream, unlike Generator.choice, is the same in every numpy
    rank = np.random.Philox(key=seed).random_raw(len(labels))
    by_class = np.lexsort((rank, labels))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[place < np.repeat(sizes, counts)])


def class_sizes(counts: np.ndarray, subset: Subset, seed: int) -> np.ndarray:
    """Returns how many images of each class `choose` takes, i64[K].

    Example:
        >>> class_sizes(np.array([30, 7]), Subset(fraction=0.1), seed=0).tolist()
        [3, 1]
    """
    order = np.argsort(np.random.Philox(key=seed + _TAIL).random_raw(len(counts)), kind="stable")
    tail = np.empty(len(counts))
    tail[order] = (1.0 + np.arange(len(counts))) ** -subset.exponent
    wanted = np.minimum(subset.per_class or counts.max(initial=0), counts) * subset.fraction * tail
    # 0.1 * 30 is a little more than 3 in floating point, but means 3
    return np.ceil(np.round(wanted, 6)).astype(np.int64).clip((counts > 0).astype(np.int64), counts)
