"""Classification accuracy, and whether two arms of a study differ by more than their seeds do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from synthaug.errors import DataError
from synthaug.metrics.rows import Floats, check_rows

_EXACT_PAIRS = 12  # 4096 sign patterns


@dataclasses.dataclass(frozen=True, eq=False)
class Accuracy:
    """Shares of right answers, from 0 to 1."""

    top1: float
    top5: float  # the label is among the min(5, K) largest logits
    per_class: Floats  # f64[K], top-1 within each class; nan for a class without images
    n: int


def accuracy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Accuracy:
    """Returns top-1, top-5 and per-class accuracy; among equal logits the lowest class wins, as in argmax.

    Args:
        logits: f[N,K] with N > 0.
        labels: i[N] in 0..K-1.

    Raises:
        DataError: no images, NaN or inf, labels that are no class numbers or not one per image.

    Example:
        >>> accuracy([[2.0, 1.0], [0.0, 3.0]], [0, 0]).top1
        0.5
    """
    rows, classes = check_rows(logits, "logits"), np.asarray(labels)
    _check_labels(classes, rows)
    n, num_classes = rows.shape
    own = rows[np.arange(n), classes][:, None]
    tied_before = (rows == own) & (np.arange(num_classes) < classes[:, None])
    rank = ((rows > own) | tied_before).sum(axis=1)  # 0 = first
    counts = np.bincount(classes, minlength=num_classes)
    hits = np.bincount(classes[rank == 0], minlength=num_classes)
    per_class = np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)
    top5 = float((rank < min(5, num_classes)).mean())
    return Accuracy(float((rank == 0).mean()), top5, per_class, n)


def real_accuracy(logits: npt.ArrayLike, labels: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Returns (top-1, images counted) where an image may have several right labels (Beyer et al. 2020).

    A prediction is right if it is among the labels of its image; images without labels are not counted.

    Args:
        logits: f[N,K]; among equal ones the lowest class is the prediction.
        labels: the right classes of each image.

    Raises:
        DataError: NaN or inf, other numbers of images, a label that is no class, or no image with labels.

    Example:
        >>> real_accuracy([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], [[0, 1], [0], []])
        (0.5, 2)
    """
    rows = check_rows(logits, "logits")
    if len(labels) != len(rows):
        raise DataError(f"labels: found {len(labels)} lists for {len(rows)} images; give one list per image.")
    flat = np.array([label for own in labels for label in own], np.int64)
    wrong = flat[(flat < 0) | (flat >= rows.shape[1])]
    if len(wrong):
        raise DataError(
            f"labels: found {wrong[0]}; expected 0 to {rows.shape[1] - 1}; check the class order."
        )
    right = np.zeros(rows.shape, bool)
    right[np.repeat(np.arange(len(rows)), [len(own) for own in labels]), flat] = True
    counted = right.any(axis=1)
    if not counted.any():
        raise DataError("labels: no image has a label; accuracy needs at least 1; is it the right file?")
    hits = right[np.arange(len(rows)), rows.argmax(axis=1)]
    return float(hits[counted].mean()), int(counted.sum())


def _check_labels(labels: npt.NDArray, logits: npt.NDArray) -> None:
    n, num_classes = logits.shape
    if not n:
        raise DataError("logits: 0 images; accuracy needs at least 1; is the set empty?")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels: found {labels.dtype}{list(labels.shape)} for {n} images; "
            f"expected class numbers, int32[{n}]; give one label per image."
        )
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        raise DataError(
            f"labels: {bad.sum()} of {n} are no class, the first is {labels[bad.argmax()]} of image "
            f"{bad.argmax()}; expected 0 to {num_classes - 1}; use the class table of the classifier."
        )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation (n - 1), the latter 0 for one value.

    Raises:
        DataError: no values, NaN or inf.

    Example:
        >>> mean_and_deviation([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    array = check_rows(np.asarray(values, np.float64).reshape(-1, 1), "values")
    if not len(array):
        raise DataError("values: found none; a mean needs at least 1; has any seed finished?")
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def paired_test(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns the two-sided p-value that paired values differ by chance alone; None below 2 pairs.

    Fisher's sign-flip test (The Design of Experiments, 1935, sec. 21): were the arms equal, each difference
    could as well have the other sign. Up to 12 pairs all 2^n patterns are counted, so p is at least 2 / 2^n
    and 3 seeds cannot show less than 0.25. Above, the sum of differences is taken as normal.

    Args:
        a: one value per seed.
        b: one value per seed, in the same order.

    Raises:
        DataError: different lengths, NaN or inf.

    Example:
        >>> paired_test([0.8, 0.9, 0.7], [0.7, 0.6, 0.5])
        0.25
    """
    if len(a) != len(b):
        raise DataError(
            f"paired test: {len(a)} values against {len(b)}; expected one pair per seed; compare equal seeds."
        )
    pairs = check_rows(np.stack([a, b], axis=1).astype(np.float64), "paired values")
    difference = pairs[:, 0] - pairs[:, 1]
    if len(difference) < 2:
        return None
    # Patterns with the observed sum count, though rounding may place them a little below it.
    observed = abs(difference.sum()) - 1e-12 * abs(difference).sum()
    if len(difference) <= _EXACT_PAIRS:
        patterns = np.arange(2 ** len(difference))[:, None] >> np.arange(len(difference)) & 1
        return float((abs((1 - 2 * patterns) @ difference) >= observed).mean())
    spread = math.sqrt(2.0 * float(difference @ difference))
    return math.erfc(max(float(observed), 0.0) / spread) if spread else 1.0
