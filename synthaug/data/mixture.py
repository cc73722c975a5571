"""Training sets of classifiers: real images, generated ones, or both (Azizi et al. 2023, section 4.4)."""

from __future__ import annotations

import dataclasses
import fractions
import sys
from collections.abc import Sequence

import numpy as np

from synthaug.data.shards import ImageSet
from synthaug.data.stream import ORDER, ORDER_GENERATED, PLACE, Order, random_raw
from synthaug.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Labelled images that a training set is made of."""

    images: ImageSet | np.ndarray  # N images, or u8[N,H,W,C]
    labels: np.ndarray  # i32[N]
    index: np.ndarray | None = None  # i64[M]: only these images, in this order; one may stand twice
    generated: bool = False

    def __len__(self) -> int:
        return len(self.labels) if self.index is None else len(self.index)


class Rows:
    """A random-access source for grain: element `step` is the rows i64[B] of the mixture in a batch.

    The rows of all pieces are numbered one after the other. Without a share all are shuffled together: every
    row stands once in an epoch. With one, real and generated rows have orders and epochs of their own, and
    batch s has floor(share * B * (s + 1)) - floor(share * B * s) generated rows, in random places: never
    more than one off, and exact in the long run (always, where share * B is whole).
    """

    def __init__(
        self, sizes: Sequence[tuple[int, bool]], batch_size: int, seed: int, *, share: float, repeats: int
    ) -> None:
        """Prepares the orders.

        Args:
            sizes: (rows, generated or not) of every piece.
            batch_size: B.
            seed: of the orders.
            share: of generated rows in every batch; 0 = as many as there are.
            repeats: times a row stands in the sequence, one after the other.

        Raises:
            DataError: there is nothing to take from.
        """
        self.batch_size, self.seed = batch_size, seed
        self._share = fractions.Fraction(str(share))  # exact: the float 0.3 * 10 * 3 is below 9
        starts = np.cumsum([0, *(size for size, _ in sizes)])
        rows = [np.arange(start, start + size) for start, (size, _) in zip(starts, sizes, strict=False)]
        flags = [share > 0 and generated for _, generated in sizes]
        self._parts = []
        for number, (wanted, purpose) in enumerate(((share < 1, ORDER), (share > 0, ORDER_GENERATED))):
            part = [r for r, flag in zip(rows, flags, strict=True) if flag == number]
            table = np.concatenate(part) if part else np.empty(0, np.int64)
            if wanted and not len(table):
                kind = ("real ", "generated ")[number] if share else ""
                raise DataError(
                    f"loader: the training set has no {kind}images; expected at least one; check the mix, "
                    "its subset and classify.share."
                )
            order = Order(max(len(table), 1), batch_size, seed, repeats=repeats, purpose=purpose)
            self._parts.append((order, table))

    def __len__(self) -> int:
        return sys.maxsize  # the last epoch never comes

    def __getitem__(self, step: int) -> np.ndarray:
        made = [int(self._share * self.batch_size * s) for s in (step, step + 1)]
        real = [self.batch_size * s - m for s, m in zip((step, step + 1), made, strict=True)]
        rows = [
            table[order.rows(start, stop - start)]
            for (order, table), (start, stop) in zip(self._parts, (real, made), strict=True)
        ]
        both = np.concatenate(rows)
        if not all(map(len, rows)):
            return both
        return both[np.argsort(random_raw(self.seed, PLACE, step, self.batch_size), kind="stable")]
