"""One pass over a set of images, in batches of one size: decoded by threads ahead, in bounded memory."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from synthaug.config import did_you_mean
from synthaug.data import resize
from synthaug.data.ahead import in_order
from synthaug.data.images import Unclear
from synthaug.data.seen import ENLARGED, GREY, RESIZED, STRETCHED
from synthaug.errors import DataError

if TYPE_CHECKING:
    from synthaug.data.collection import Images

FILTERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {**resize.FILTERS, **resize.PILLOW}
"""The filters that images of other sizes may be resized by."""

_TASK = 4  # images that a thread takes at once
_AHEAD = 512  # images that wait or are under way
_BUDGET = 256 << 20  # bytes of them
_UNKNOWN = 16 << 20  # bytes of an image before one was read
_NAMED = 5  # images or sizes that a message names


def batches(
    images: Images,
    size: int,
    *,
    side: int | None = None,
    filter: str | None = None,
    channels: int = 3,
    workers: int = 0,
    skip_corrupt: bool = False,
    numbers: Sequence[int] | np.ndarray | None = None,
) -> Batches:
    """Returns one pass over images; iterate over it, then see what was skipped.

    Args:
        images: what.
        size: images of a batch; the last one may have fewer.
        side: px; images of another size are resized by `filter`, or refused if there is none. None: all must
            be squares of one size, that of the first.
        filter: one of FILTERS. area, adm and cas cut out a square, the pillow ones stretch the whole image.
        channels: of the batches. Into 3, grey is repeated; into 1, colour goes if its channels are equal.
        workers: threads; 0 = one per core.
        skip_corrupt: leave out images that cannot be decoded, instead of refusing them all together.
        numbers: which images, ascending is fastest; None = all.

    Raises:
        DataError: a filter without a side, or one that is unknown; in the pass: images that cannot be read or
            decoded, have transparent pixels or 16 bits, or have another size; counted, and the first named.
    """
    if filter and filter not in FILTERS:
        raise DataError(f"{images.what}: resize {filter!r} is unknown{did_you_mean(filter, FILTERS)}")
    if filter and not side:
        raise DataError(f"{images.what}: resize by {filter} to which size? Name the side in px, too.")
    chosen = range(len(images)) if numbers is None else numbers
    return Batches(images, size, side or 0, filter or "", channels, workers, skip_corrupt, chosen)


@dataclasses.dataclass(eq=False)
class Batches:
    """An iterable of (index i64[b], pixels u8[b,S,S,C]); the numbers are those of the images in their set."""

    images: Images
    size: int
    side: int  # px; 0 before the first image, if it was not given
    filter: str
    channels: int
    workers: int
    skip_corrupt: bool
    numbers: Sequence[int] | np.ndarray
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> reason, in order
    _passes: list[Generator[tuple[np.ndarray, np.ndarray], None, None]] = dataclasses.field(
        default_factory=list
    )

    def __len__(self) -> int:
        """Returns the number of batches if none is skipped."""
        return -(-len(self.numbers) // self.size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Returns the batches; see `batches` for what is refused."""
        self._passes.append(self._batches())
        return self._passes[-1]

    def close(self) -> None:
        """Ends a pass that was not taken to its end: its threads stop after the images under way."""
        for one in self._passes:
            one.close()

    def _batches(self) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        """Yields the batches.

        Raises:
            DataError: images cannot be read or decoded, have transparent pixels or 16 bits, or have another
                size; the message counts them and names the first.
        """
        index, pixels, yielded = list[int](), list[np.ndarray](), False
        bad, unclear = dict[str, str](), dict[str, str]()
        self.skipped.clear()
        for row, found in self._decoded():
            if isinstance(found, DataError):
                (unclear if isinstance(found, Unclear) else bad)[self.images.names[row]] = str(found)
                continue
            self._check_size(row, found)
            if unclear or (bad and not self.skip_corrupt):
                continue  # to the end, so that all of them are counted
            index.append(row)
            pixels.append(found)
            if len(index) == self.size:
                yield np.array(index), np.stack(pixels)
                yielded, index, pixels = True, [], []
        self._check_readable(bad, unclear)
        self.skipped.update(bad)
        if index:
            yield np.array(index), np.stack(pixels)
        elif not yielded:
            raise self._error(f"none of {len(self.numbers)} images can be read; {_first(bad)}")

    def _decoded(self) -> Iterator[tuple[int, np.ndarray | DataError]]:
        """Yields every image in order, or why there is none."""
        first = next(
            (i.nbytes for _, i in self._task(self.numbers[:_TASK]) if not isinstance(i, DataError)), 0
        )
        ahead = max(2, min(_AHEAD, _BUDGET // (first or _UNKNOWN)))  # images
        task = max(1, min(_TASK, ahead // 16))
        parts = (self.numbers[at : at + task] for at in range(0, len(self.numbers), task))
        for some in in_order(self._task, parts, workers=self.workers, ahead=ahead // task):
            yield from some

    def _task(self, rows: Sequence[int] | np.ndarray) -> list[tuple[int, np.ndarray | DataError]]:
        return [(int(row), self._opened(int(row))) for row in rows]

    def _opened(self, row: int) -> np.ndarray | DataError:
        try:
            read = self.images.read(row)
            image = with_channels(read, self.channels)
            self.images.seen.add(row, self._flags(read))
            if not self.filter:
                return image
            resize.check_shape(image.shape[0], image.shape[1], self.side)
            return FILTERS[self.filter](image, self.side)
        except DataError as error:
            return error

    def _flags(self, image: np.ndarray) -> int:
        """Returns what becomes of an image u8[H,W,C] in a batch."""
        height, width, channels = image.shape
        flags = GREY if channels < self.channels else 0
        if self.filter and (height, width) != (self.side, self.side):
            flags |= RESIZED
            flags |= ENLARGED if min(height, width) < self.side else 0
            flags |= STRETCHED if height != width and self.filter in resize.PILLOW else 0
        return flags

    def _check_size(self, row: int, image: np.ndarray) -> None:
        height, width, _ = image.shape
        if not self.side and height == width:
            self.side = height
        if (height, width) == (self.side, self.side):
            return
        sizes = self._sizes()
        named = ", ".join(f"{w} x {h} ({n})" for (w, h), n in sizes.most_common(_NAMED))
        more = f" and {len(sizes) - _NAMED} others" if len(sizes) > _NAMED else ""
        what = "mixed sizes" if len(sizes) > 1 else "another size" if self.side else "no squares"
        wanted = f"{self.side} x {self.side} px" if self.side else "squares of one size"
        raise self._error(
            f"{what}: {self.images.names[row]} is {width} x {height} px, expected {wanted}; among "
            f"{sizes.total()} images looked at: {named}{more}; name --size and --resize "
            f"({', '.join(FILTERS)})"
        )

    def _sizes(self) -> collections.Counter[tuple[int, int]]:
        """Returns how many images have each (width, height), of up to 200 evenly spread ones."""
        spread = np.unique(np.linspace(0, len(self.numbers) - 1, 200).astype(np.int64)).tolist()
        sizes = collections.Counter[tuple[int, int]]()
        for i in spread:
            if not isinstance(image := self._opened(int(self.numbers[i])), DataError):
                sizes[image.shape[1], image.shape[0]] += 1
        return sizes

    def _check_readable(self, bad: dict[str, str], unclear: dict[str, str]) -> None:
        if unclear:
            raise self._error(
                f"{len(unclear)} of {len(self.numbers)} images can be read in more than one way: "
                f"{_first(unclear)}; write them anew, as 8 bits and composed over the background you mean"
            )
        if bad and not self.skip_corrupt:
            raise self._error(
                f"{len(bad)} of {len(self.numbers)} images cannot be read: {_first(bad)}; repair or delete "
                "them, or leave them out with --skip-corrupt"
            )

    def _error(self, text: str) -> DataError:
        return DataError(f"{self.images.what} = {self.images.path!r}: {text}.")


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Returns u8[H,W,channels]; nothing is mixed.

    Raises:
        Unclear: colour is to become grey.
    """
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    if not (image == image[:, :, :1]).all():
        raise Unclear("has colours; expected grey")
    return np.ascontiguousarray(image[:, :, :1])


def _first(bad: dict[str, str]) -> str:
    named = "; ".join(f"{name} {why}" for name, why in list(bad.items())[:_NAMED])
    return named + (f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")
