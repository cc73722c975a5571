"""Images of any number in front of a network that sees batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


def look_in_batches(
    look: Callable[[np.ndarray], Sequence[np.ndarray | None]], images: np.ndarray, size: int
) -> Iterator[list[Any]]:
    """Yields what a network says of each batch of images u8[B,H,W,C]; of no images, nothing.

    The last batch is filled up with black images, so that what is said of an image depends neither on how
    many there are nor on the others, and one size alone is compiled.

    Args:
        look: arrays with a row per image of a whole batch, or None in place of one.
        images: any number of them.
        size: images of a batch.
    """
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        missing = size - len(batch)
        filled = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else batch
        yield [None if array is None else array[: len(batch)] for array in look(filled)]
