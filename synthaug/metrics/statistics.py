"""All that the metrics know of a set of images under one encoder, in parts that merge in any order.

Which image counts where is a pure function of the set's size and a seed: image i has a rank in a random
order. The rank decides its split of the Inception Score, whether its features are kept for the metrics that
compare images with images, and which of several set sizes it belongs to. Parts need not know of each other.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from synthaug.errors import DataError
from synthaug.metrics import inception_score, moments
from synthaug.metrics.inception_score import SplitSums
from synthaug.metrics.limbs import Integers
from synthaug.metrics.moments import Moments
from synthaug.metrics.rows import Floats, check_rows, shuffled_order


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which image of a set counts where."""

    n: int  # images of the whole set
    seed: int
    splits: int  # of the Inception Score
    max_images: int  # whose features are kept: those of the lowest ranks
    sizes: tuple[int, ...] = ()  # FID also of the first so many ranks

    def __post_init__(self) -> None:
        """Checks what a draw needs of the set.

        Raises:
            ConfigError: fewer than one split, a negative seed.
            DataError: fewer images than splits.
        """
        inception_score.check_splits(self.n, self.splits)

    def ranks(self) -> Integers:
        """Returns i64[n], the rank of each image."""
        ranks = np.empty(self.n, np.int64)
        ranks[shuffled_order(self.n, self.seed)] = np.arange(self.n)
        return ranks

    def edges(self) -> list[int]:
        """Returns the ranks at which the next band begins; sizes that the set does not exceed are left out.

        Example:
            >>> Draw(n=10, seed=0, splits=1, max_images=5, sizes=(8, 4, 20)).edges()
            [4, 8]
        """
        return sorted({size for size in self.sizes if size < self.n})


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of some images of a set; made by `Accumulator`, joined by `merge`."""

    draw: Draw
    seen: npt.NDArray[np.uint8]  # one bit per image of the set: is it among these?
    bands: tuple[Moments, ...]  # by rank, from edge to edge
    spatial: Moments | None
    splits: SplitSums | None
    numbers: Integers  # i64[m], images whose features are kept, by rank
    features: npt.NDArray[np.float32]  # f32[m,D]

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(band.count for band in self.bands)

    def moments(self, size: int | None = None) -> Moments:
        """Returns the moments of all images, or of those with a rank below `size`.

        Raises:
            DataError: a size that the draw does not have.
        """
        edges = [*self.draw.edges(), None]
        if size not in edges:
            raise DataError(f"statistics: no moments of {size} images; expected one of {edges[:-1]}.")
        return moments.merge_all(self.bands[: edges.index(size) + 1])

    def drawn(self, limit: int) -> npt.NDArray[np.float32]:
        """Returns f32[m,D], the kept features of the lowest ranks, by rank, at most `limit`; no copy."""
        return self.features[:limit]

    def check_complete(self) -> None:
        """Checks that every image of the set is there.

        Raises:
            DataError: some are missing.
        """
        missing = np.flatnonzero(np.unpackbits(self.seen, count=self.draw.n) == 0)
        if len(missing):
            raise DataError(
                f"statistics: {len(missing)} of {self.draw.n} images are missing, the first is image "
                f"{missing[0]}; encode all parts of the set again."
            )


class Accumulator:
    """Statistics in the making: takes images batch by batch, in any order."""

    def __init__(self, draw: Draw) -> None:
        """Starts with no image."""
        self._draw, self._ranks, self._edges = draw, draw.ranks(), draw.edges()
        self._seen = np.zeros(draw.n, bool)
        self._bands: list[moments.Sums] = []
        self._spatial: moments.Sums | None = None
        self._splits: SplitSums | None = None
        # The row of a rank is its place, so that nothing is sorted or joined in the end. What is not written
        # to takes no memory.
        self._kept = np.full(min(draw.max_images, draw.n), -1, np.int64)
        self._features = np.empty((len(self._kept), 0), np.float32)

    def add(
        self,
        index: npt.ArrayLike,
        features: npt.ArrayLike,
        logits: npt.ArrayLike | None,
        spatial: npt.ArrayLike | None,
    ) -> None:
        """Adds images i64[b] with features f32[b,D], logits f32[b,K] and spatial features f32[b,S].

        Raises:
            DataError: NaN or inf, arrays of other lengths, an image twice or outside the set; logits or
                spatial features for some images only.
        """
        numbers = np.asarray(index, np.int64)
        parts = {"features": features, "logits": logits, "spatial features": spatial}
        tables = {name: np.asarray(part) for name, part in parts.items() if part is not None}
        self._check_numbers(numbers, tables)
        tables = {name: check_rows(part, name, numbers) for name, part in tables.items()}
        table = tables["features"].astype(np.float32)
        if not self._bands:
            room: dict[str, Floats] = {}
            self._features = np.empty((len(self._kept), table.shape[1]), np.float32)
            self._bands = [moments.Sums(table.shape[1], room) for _ in range(len(self._edges) + 1)]
            if spatial is not None:
                self._spatial = moments.Sums(tables["spatial features"].shape[1], room)
        ranks = self._ranks[numbers]
        for place, band in enumerate(self._bands):
            band.add(table[np.searchsorted(self._edges, ranks, side="right") == place])
        if self._spatial is not None:
            self._spatial.add(tables["spatial features"])
        if "logits" in tables:
            split = inception_score.split_of(ranks, self._draw.n, self._draw.splits)
            sums = inception_score.of(tables["logits"], split, self._draw.splits)
            self._splits = sums if self._splits is None else inception_score.merge(self._splits, sums)
        kept = ranks < len(self._kept)
        self._kept[ranks[kept]], self._features[ranks[kept]] = numbers[kept], table[kept]
        self._seen[numbers] = True

    def statistics(self) -> Statistics:
        """Returns what was added. Of a whole set, its features are those here: nothing can be added to them.

        Raises:
            DataError: nothing was.
        """
        if not self._bands:
            raise DataError("statistics: found no image; expected one or more; is this part empty?")
        there = self._kept >= 0
        return Statistics(
            draw=self._draw,
            seen=np.packbits(self._seen),
            bands=tuple(band.moments() for band in self._bands),
            spatial=None if self._spatial is None else self._spatial.moments(),
            splits=self._splits,
            numbers=self._kept[there],
            features=self._features if there.all() else self._features[there],
        )

    def _check_numbers(self, numbers: Integers, tables: Mapping[str, npt.NDArray]) -> None:
        lengths = {name: len(table) for name, table in tables.items()}
        if numbers.ndim != 1 or set(lengths.values()) != {len(numbers)}:
            raise DataError(
                f"statistics: {numbers.size} image numbers for {lengths}; expected a row each; encode again."
            )
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self._draw.n:
            raise DataError(
                f"statistics: image numbers {numbers.min()} to {numbers.max()} in a set of {self._draw.n}; "
                "expected numbers from 0 on; count the set again."
            )
        once, counts = np.unique(numbers, return_counts=True)
        twice = once[(counts > 1) | self._seen[once]]
        if len(twice):
            raise DataError(
                f"statistics: {len(twice)} images stand twice, the first is image {twice[0]}; "
                "expected each once; look at how the set is cut into batches."
            )
        there = {"logits": self._splits is not None, "spatial features": self._spatial is not None}
        for name, before in there.items():
            if self._bands and before != (name in tables):
                raise DataError(f"statistics: {name} of some images only; expected all or none.")


def of(
    draw: Draw,
    features: npt.ArrayLike,
    logits: npt.ArrayLike | None = None,
    spatial: npt.ArrayLike | None = None,
) -> Statistics:
    """Returns the statistics of a whole set f[n,D], f[n,K], f[n,S], held in memory."""
    accumulator = Accumulator(draw)
    accumulator.add(np.arange(len(np.asarray(features))), features, logits, spatial)
    return accumulator.statistics()


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Returns the statistics of the union of two parts of one set: the same bits in any order and nesting.

    Raises:
        DataError: another draw or encoder, or an image that both hold.
    """
    kinds = [(part.draw, part.spatial is None, part.splits is None) for part in (a, b)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"statistics: (draw, no spatial features, no logits) {kinds[0]} against {kinds[1]}; "
            "expected parts of one set under one encoder; encode all parts in one way."
        )
    both = np.unpackbits(a.seen & b.seen)
    if both.any():
        raise DataError(
            f"statistics: {both.sum()} images stand in two parts, the first is image {both.argmax()}; "
            "expected each once; encode the parts again."
        )
    numbers, features = _interleaved(a, b)
    return Statistics(
        draw=a.draw,
        seen=a.seen | b.seen,
        bands=tuple(moments.merge(x, y) for x, y in zip(a.bands, b.bands, strict=True)),
        spatial=a.spatial and b.spatial and moments.merge(a.spatial, b.spatial),
        splits=a.splits and b.splits and inception_score.merge(a.splits, b.splits),
        numbers=numbers,
        features=features,
    )


def _interleaved(a: Statistics, b: Statistics) -> tuple[Integers, npt.NDArray[np.float32]]:
    """Returns the kept numbers and features of both by rank, which are written once."""
    both = np.concatenate([a.numbers, b.numbers])
    order = np.argsort(a.draw.ranks()[both])
    features = np.empty((len(both), a.features.shape[1]), np.float32)
    of_a = order < len(a.numbers)
    features[of_a], features[~of_a] = a.features, b.features
    return both[order], features


def merge_all(parts: Iterable[Statistics]) -> Statistics:
    """Returns the statistics of the union of all parts, holding one more than the current at a time.

    Raises:
        DataError: no part at all, or parts that do not belong together.
    """
    rest = iter(parts)
    first = next(rest, None)
    if first is None:
        raise DataError("statistics: found no part to merge; expected at least one; is the set empty?")
    return functools.reduce(merge, rest, first)


def to_arrays(statistics: Statistics) -> dict[str, npt.NDArray]:
    """Returns arrays as `np.savez` takes them; nothing in them is pickled."""
    arrays = {
        "draw": np.array(json.dumps(dataclasses.asdict(statistics.draw))),
        "seen": statistics.seen,
        "numbers": statistics.numbers,
        "features": statistics.features,
    }
    groups = {f"band{i}": moments.to_arrays(band) for i, band in enumerate(statistics.bands)}
    if statistics.spatial is not None:
        groups["spatial"] = moments.to_arrays(statistics.spatial)
    if statistics.splits is not None:
        groups["splits"] = inception_score.to_arrays(statistics.splits)
    return arrays | {f"{group}.{name}": a for group, named in groups.items() for name, a in named.items()}


def from_arrays(arrays: Mapping[str, npt.NDArray]) -> Statistics:
    """Returns the statistics in the arrays of `to_arrays`, bit for bit.

    Raises:
        DataError: an array is missing or of another kind.
    """
    missing = {"draw", "seen", "numbers", "features"} - set(arrays)
    if missing:
        raise DataError(f"statistics: {sorted(missing)} missing; expected a file of ours; compute it again.")
    groups: dict[str, dict[str, npt.NDArray]] = {}
    for name in arrays:
        if "." in name:
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = arrays[name]
    try:
        fields = json.loads(str(np.asarray(arrays["draw"])))
        draw = Draw(**{**fields, "sizes": tuple(fields["sizes"])})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"statistics: the draw cannot be read ({error!r}); compute them again.") from error
    numbers, features = np.asarray(arrays["numbers"]), np.asarray(arrays["features"])
    if features.ndim != 2 or numbers.shape != features.shape[:1] or len(arrays["seen"]) != -(-draw.n // 8):
        raise DataError(
            f"statistics: {numbers.shape} numbers, features {features.shape} and {len(arrays['seen'])} bytes "
            f"of bits for a set of {draw.n}; expected arrays that belong together; compute them again."
        )
    inside = numbers.dtype.kind == "i" and (not numbers.size or 0 <= numbers.min() <= numbers.max() < draw.n)
    if not inside or not (np.diff(draw.ranks()[numbers]) > 0).all():
        raise DataError("statistics: features do not stand by rank; compute them again.")
    return Statistics(
        draw=draw,
        seen=np.asarray(arrays["seen"]),
        bands=tuple(moments.from_arrays(groups.get(f"band{i}", {})) for i in range(len(draw.edges()) + 1)),
        spatial=moments.from_arrays(groups["spatial"]) if "spatial" in groups else None,
        splits=inception_score.from_arrays(groups["splits"]) if "splits" in groups else None,
        numbers=numbers,
        features=features,
    )
