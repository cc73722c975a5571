"""Training sets of classifiers: real images, generated ones, or both (Azizi et al. 2023, section 4.4)."""

from __future__ import annotations

import numpy as np

from synthaug.errors import DataError

LabelledImages = tuple[np.ndarray, np.ndarray]  # u8[N,H,W,C], i32[N]


def few_shot(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Returns the indices i64[K * shots] of a random `shots` images per class, ascending; 0 = all.

    With one seed, fewer shots are a subset of more.

    Args:
        labels: i32[N], class indices 0..K-1.
        shots: images per class.
        seed: chooses the images.

    Raises:
        DataError: a class has fewer images.

    Example:
        >>> chosen = few_shot(np.array([0, 1, 1, 0, 1]), shots=2, seed=0)
        >>> len(chosen), set(chosen.tolist()) > {0, 3}
        (4, True)
    """
    if shots == 0:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    if counts.min() < shots:
        raise DataError(
            f"few_shot: class {counts.argmin()} has {counts.min()} images; expected at least {shots}; "
            f"lower classify.shots to {counts.min()} or less."
        )
    # Philox's stream, unlike Generator.choice, is the same in every numpy
    rank = np.random.Philox(key=seed).random_raw(len(labels))
    by_class = np.lexsort((rank, labels))
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.arange(len(labels)) - first < shots])


def mix(
    real: LabelledImages | None,
    generated: LabelledImages | None,
    *,
    copies: int,
    copy_size: int,
    shots: int,
    seed: int,
) -> LabelledImages:
    """Returns images u8[N,H,W,C] and labels i32[N] of a training set: real ones first, then generated.

    Args:
        real: the real train split, or None to leave it out.
        generated: the generated set in the order of its plan, or None to leave it out.
        copies: how many generated copies to take; they are a prefix of the set.
        copy_size: images in one copy, the size of the whole real train split.
        shots: real images per class; 0 = all.
        seed: chooses the few shots.

    Raises:
        DataError: nothing to mix, images of two shapes, or fewer copies than asked for.
    """
    parts = []
    if real is not None:
        chosen = few_shot(real[1], shots, seed)
        parts.append((real[0][chosen], real[1][chosen]) if shots else real)
    if generated is not None:
        wanted = copies * copy_size
        if len(generated[1]) < wanted:
            raise DataError(
                f"mix: the generated set has {len(generated[1])} images; expected {wanted}, {copies} copies "
                f"of {copy_size}; sample more copies (sample.copies)."
            )
        parts.append((generated[0][:wanted], generated[1][:wanted]))
    shapes = sorted({images.shape[1:] for images, _ in parts})
    if len(shapes) != 1:
        found = " and ".join(map(str, shapes)) or "nothing"
        raise DataError(f"mix: got images of {found}; expected one shape (height, width, channels).")
    if len(parts) == 1:
        return parts[0]  # ImageNet at 64 px is 16 GB: do not copy it for nothing
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images, labels
