"""One pass over a set of images: decode, encode, sum up. What is summed can be kept, and gone on with.

Memory is O(D^2) for D features, plus the features of the draw, whatever the number of images. Sums are exact
(see `metrics/moments`), so that a pass that was stopped and gone on with gives the bits of one that was not.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import time
import zipfile
from collections.abc import Generator, Iterator
from typing import Any

import jax
import numpy as np

from synthaug import commit
from synthaug.console import Watch
from synthaug.data.collection import Batches, Images, batches
from synthaug.data.seen import RESIZED
from synthaug.errors import ConfigError, DataError, Interrupted
from synthaug.metrics import statistics
from synthaug.metrics.statistics import Accumulator, Draw, Statistics
from synthaug.stages.encoders import Encoded, Encoder
from synthaug.train.preemption import StopFlag

_NO_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory|[Ff]ailed to allocate")

SAVE_SECONDS = 60.0
"""Time between two saves into the cache: what a kill can cost."""


@dataclasses.dataclass(frozen=True)
class View:
    """How the images of a set are looked at."""

    side: int | None = None  # px that every image is brought to; None: all have one size already
    filter: str | None = None  # how
    channels: int = 3

    def batches(
        self, images: Images, numbers: np.ndarray, size: int, *, skip_corrupt: bool = False
    ) -> Batches:
        """Returns batches (numbers i64[b], u8[b,S,S,C]) of the images with these numbers."""
        return batches(
            images,
            size,
            side=self.side,
            filter=self.filter,
            channels=self.channels,
            skip_corrupt=skip_corrupt,
            numbers=numbers,
        )

    def words(self, images: Images, numbers: np.ndarray) -> str:
        """Returns what was done to those of the images i64[n] that were looked at; "" = nothing."""
        return f"{self.filter} ->{self.side}, 8 bit" if images.seen.count(RESIZED, numbers) else ""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A set as the metrics see it, and how it was read."""

    statistics: Statistics
    resolution: int
    seconds: float  # of this call; next to nothing if all was in the cache
    encoded: int  # images that this call encoded


def measure(
    images: Images,
    numbers: np.ndarray,
    encoder: Encoder,
    draw: Draw,
    view: View,
    *,
    what: str,
    cache: pathlib.Path | None,
    watch: Watch,
) -> Measured:
    """Returns the statistics of some images of a set.

    Args:
        images: the set.
        numbers: i64[n], which of its images, ascending; `draw.n` of them.
        encoder: gives the features.
        draw: which image counts for what, by its place in `numbers`.
        view: how the images are brought to one size.
        what: names the set in errors and progress, e.g. its path.
        cache: folder that keeps what is summed, or None.
        watch: is told how far it is.

    Raises:
        DataError: images that cannot be read or differ in size, or features that are not finite.
        Interrupted: a signal asked for a stop; what is done is in the cache, if there is one.
    """
    started = saved = time.monotonic()
    kept = _Kept(cache, identity(images, numbers, encoder, draw, view)) if cache else None
    found, there, side = kept.load(images, numbers) if kept else (None, 0, 0)
    done, sums = there, _Sums(draw, found)
    watch.begin(what)
    # images behind a stop have to be as large as those before it
    expected = dataclasses.replace(view, side=view.side or side or None)
    blocks = _encoded(images, numbers, there, encoder, expected, what)
    with stopping() as stop, contextlib.closing(blocks), contextlib.closing(sums):
        for index, side, encoded in blocks:
            sums.add(index, encoded)
            done = int(index[-1]) + 1
            watch.progress(what, done, draw.n, "images")
            watch.tick()
            signal = stop.requested()
            if kept and (signal or done == draw.n or time.monotonic() - saved > SAVE_SECONDS):
                kept.save(sums.total(), done, side, images.seen.of(numbers[:done]))
                saved = time.monotonic()
            if signal and done < draw.n:
                raise _interrupted(signal, what, done, draw.n, cache)
        total = sums.total()
    total.check_complete()
    seconds = time.monotonic() - started
    watch.finish(what, seconds, True)
    return Measured(total, side, seconds, done - there)


def _encoded(
    images: Images, numbers: np.ndarray, first: int, encoder: Encoder, view: View, what: str
) -> Generator[tuple[np.ndarray, int, Encoded], None, None]:
    """Yields (places in `numbers`, side of the images, what the encoder says) from place `first` on."""
    if first == len(numbers):
        return
    with contextlib.closing(view.batches(images, numbers[first:], encoder.batch_size)) as blocks:
        for found, block in blocks:
            index = np.arange(first, first + len(block))
            with fitting(encoder.batch_size):
                encoded = encoder.encode(block)
            _check_finite(encoded, images, found, encoder, what)
            yield index, block.shape[1], encoded
            first += len(block)


@contextlib.contextmanager
def fitting(batch_size: int) -> Iterator[None]:
    """Turns a lack of memory in the block into one line.

    Raises:
        ConfigError: memory does not suffice.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not _NO_MEMORY.search(str(error)):
            raise
        raise ConfigError(
            f"batch_size = {batch_size}: too little memory to encode so many images at once; lower it."
        ) from None


class _Sums:
    """Statistics that a thread adds to, one batch behind, while the next is decoded and encoded."""

    def __init__(self, draw: Draw, found: Statistics | None) -> None:
        self._draw, self._found = draw, found
        self._sums: Accumulator | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._adding: concurrent.futures.Future[None] | None = None

    def add(self, index: np.ndarray, encoded: Encoded) -> None:
        """Adds a batch, once the one before is added."""
        self._wait()
        self._sums = self._sums or Accumulator(self._draw)
        self._adding = self._thread.submit(
            self._sums.add, index, encoded.features, encoded.logits, encoded.spatial
        )

    def total(self) -> Statistics:
        """Returns the statistics of all that was added and of what was there before.

        Raises:
            DataError: there is nothing.
        """
        self._wait()
        if self._sums is not None or self._found is None:
            new = (self._sums or Accumulator(self._draw)).statistics()
            self._found = new if self._found is None else statistics.merge(self._found, new)
            self._sums = None
        return self._found

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()

    def _wait(self) -> None:
        if self._adding is not None:
            self._adding.result()


def _check_finite(encoded: Encoded, images: Images, numbers: np.ndarray, encoder: Encoder, what: str) -> None:
    for name in ("features", "logits", "spatial"):
        rows = getattr(encoded, name)
        bad = np.zeros(0, bool) if rows is None else ~np.isfinite(rows).all(axis=1)
        if bad.any():
            whose = "all" if bad.all() else str(bad.sum())
            raise DataError(
                f"{what}: {encoder.name} gives {name} with NaN or inf for {whose} of {len(bad)} images, "
                f"first for {images.names[int(numbers[bad.argmax()])]}; expected finite numbers; check its "
                f"weights (sha256 {encoder.sha256[:16]}) and that image."
            )


def _interrupted(signal: str, what: str, done: int, total: int, cache: pathlib.Path | None) -> Interrupted:
    kept = (
        f"these are kept in {cache}; run the same command again to go on"
        if cache
        else "nothing was kept; name a folder with --cache to go on from there the next time"
    )
    return Interrupted(f"{what}: stopped by {signal} after {done} of {total} images; {kept}.")


@contextlib.contextmanager
def stopping() -> Iterator[StopFlag]:
    """Turns signals into a flag while the block runs: a sum that was half added could not be kept."""
    stop = StopFlag()
    stop.install()
    try:
        yield stop
    finally:
        stop.restore()


# ------------------------------------------------------------------------------------------- cache


def identity(images: Images, numbers: np.ndarray, encoder: Encoder, draw: Draw, view: View) -> dict[str, Any]:
    """Returns everything that the statistics depend on, ready for JSON."""
    return {
        "images": images.fingerprint(),
        "numbers": hashlib.sha256(np.ascontiguousarray(numbers, "<i8").tobytes()).hexdigest(),
        "encoder": [encoder.name, encoder.sha256, encoder.backend, encoder.batch_size],
        "draw": dataclasses.asdict(draw),
        "view": dataclasses.asdict(view),
    }


class _Kept:
    """What is known of one set, in one file of a cache, replaced as the pass goes on."""

    def __init__(self, folder: pathlib.Path, about: dict[str, Any]) -> None:
        self._about = json.dumps(about, sort_keys=True)
        self._file = folder / f"{hashlib.sha256(self._about.encode()).hexdigest()[:24]}.npz"
        commit.check_writable(self._file)
        commit.remove_leftovers(folder)

    def load(self, images: Images, numbers: np.ndarray) -> tuple[Statistics | None, int, int]:
        """Returns (statistics, number of images in them, their side); nothing where there is no file.

        What was noticed of these images, the first ones of `numbers`, goes into `images.seen`.

        Raises:
            DataError: the file is damaged.
        """
        if not self._file.exists():
            return None, 0, 0
        try:
            with open(self._file, "rb") as file, np.load(file, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            first, side = arrays.pop("state").tolist()
            images.seen.recall(numbers[:first], arrays.pop("seen_images"))
            return statistics.from_arrays(arrays), first, side
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, DataError) as error:
            raise DataError(
                f"{self._file}: is no whole file of a cache ({error}); delete it and run again."
            ) from None

    def save(self, found: Statistics, first: int, side: int, seen: np.ndarray) -> None:
        """Writes the file anew, whole or not at all."""
        tmp = commit.temporary(self._file)
        state = np.array([first, side], np.int64)
        arrays = {**statistics.to_arrays(found), "state": state, "seen_images": seen}
        try:
            with open(tmp, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        except OSError as error:
            tmp.unlink(missing_ok=True)
            raise commit.write_error(self._file, error) from None
        commit.adopt(tmp, self._file)
