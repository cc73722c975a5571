"""Training batches: batch `step` is a pure function of (seed, step), on any number of processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from synthaug.errors import ConfigError, DataError

# purposes of random numbers: parts of Philox's counter, so that no two streams overlap
ORDER, SHIFT, ORDER_GENERATED, PLACE, FLIP, CROP, COLOUR, RAND_AUGMENT = range(1, 9)


class Order:
    """A random-access source for grain: element `step` is the image numbers i64[B] of a batch.

    Every epoch is a new permutation, and batches run on over the end of an epoch, so that every image is
    seen once per epoch whatever the batch size. grain's own `shuffle` gives the same guarantees but
    costs 20 us per image (a batch of 128: 3 ms), and its epoch e with seed s equals epoch e + 1 with s - 1.

    With repeated augmentation (Hoffer et al. 2020; DeiT) an epoch still has N rows, but they are the first
    ceil(N / repeats) images of the permutation, each `repeats` times in a row (the last one maybe fewer).
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, *, repeats: int = 1, purpose: int = ORDER
    ) -> None:
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.repeats, self.purpose = repeats, purpose
        self._epochs: dict[int, np.ndarray] = {}  # not lru_cache: worker processes get a pickled copy

    def __len__(self) -> int:
        return sys.maxsize  # the last epoch never comes

    def __getitem__(self, step: int) -> np.ndarray:
        return self.rows(step * self.batch_size, self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": {}}

    def rows(self, start: int, count: int) -> np.ndarray:
        """Returns the image numbers i64[count] of the rows from `start` on, counted over all epochs."""
        epoch, offset = divmod(start, self.num_images)
        parts, missing = [np.empty(0, np.int64)], count
        while missing:
            last = min(offset + missing, self.num_images)
            permutation = self._permutation(epoch)
            if self.repeats == 1:
                parts.append(permutation[offset:last])
            else:
                parts.append(permutation[np.arange(offset, last) // self.repeats])
            missing -= last - offset
            epoch, offset = epoch + 1, 0
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            # sorting Philox's raw numbers, unlike Generator.permutation, is the same in every numpy
            raw = random_raw(self.seed, self.purpose, epoch, self.num_images)
            order = np.argsort(raw, kind="stable")
            # a batch may lie in two epochs; replaced as a whole: threads may be reading
            self._epochs = {**dict(list(self._epochs.items())[-1:]), epoch: order}
            return order
        return self._epochs[epoch]


class Stream:
    """Batches without end from arrays in memory; nothing about it needs saving in a checkpoint."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        batch_size: int,
        seed: int,
        *,
        max_shift: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Prepares the stream.

        Args:
            arrays: arrays of N rows each, e.g. {"image": u8[N,H,W,C], "label": i32[N]}; memory maps are fine.
            batch_size: images of the global batch, over all processes.
            seed: of the order and the translations.
            max_shift: largest random translation of "image" in px, each axis; the border is repeated.
            process_index: this process takes the rows [p * B / n, (p + 1) * B / n) of every batch.
            num_processes: n.

        Raises:
            DataError: there are no images.
            ConfigError: the batch does not divide over the processes.
        """
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1 or "index" in arrays or (max_shift and "image" not in arrays):
            raise ValueError(
                f"Stream: got rows {lengths}; expected arrays of one length, none called 'index', and with "
                "max_shift one called 'image'."
            )
        self.num_images = next(iter(lengths.values()))
        if not self.num_images:
            raise DataError(
                "stream: the set has no images; expected at least one; check the mix and its shots."
            )
        if batch_size < 1 or batch_size % num_processes:
            raise ConfigError(
                f"stream: batch_size = {batch_size} does not divide over {num_processes} processes; "
                f"use a multiple of {num_processes}."
            )
        self.arrays, self.batch_size, self.seed, self.max_shift = dict(arrays), batch_size, seed, max_shift
        part = batch_size // num_processes
        self._rows = slice(process_index * part, (process_index + 1) * part)
        order = Order(self.num_images, batch_size, seed)
        self.dataset = grain.MapDataset.source(order).map_with_index(self._gather)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of update `step` (from 0): rows of the arrays, and their "index" i64[B]."""
        return self.dataset[step]

    def slice(self, process_index: int, num_processes: int) -> Stream:
        """Returns the stream of one process; over all processes, in order, they make up the global batch."""
        return Stream(
            self.arrays,
            self.batch_size,
            self.seed,
            max_shift=self.max_shift,
            process_index=process_index,
            num_processes=num_processes,
        )

    def _gather(self, step: int, order: np.ndarray) -> dict[str, np.ndarray]:
        index = order[self._rows]
        batch = {name: array[index] for name, array in self.arrays.items()}
        if self.max_shift:
            # drawn for the global batch: an image's shift does not depend on the number of processes
            raw = random_raw(self.seed, SHIFT, step, 2 * self.batch_size).reshape(-1, 2)[self._rows]
            shifts = (raw % (2 * self.max_shift + 1)).astype(np.int64) - self.max_shift
            batch["image"] = translate(batch["image"], shifts)
        return {**batch, "index": index}


def translate(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Returns images u8[B,H,W,C] moved by shifts i64[B,2] (down, right) px, border pixels repeated.

    Example:
        >>> translate(np.arange(3).reshape(1, 1, 3, 1), np.array([[0, 1]])).ravel().tolist()
        [0, 0, 1]
    """
    height, width = images.shape[1:3]
    rows = (np.arange(height) - shifts[:, :1]).clip(0, height - 1)  # i64[B,H]
    columns = (np.arange(width) - shifts[:, 1:]).clip(0, width - 1)  # i64[B,W]
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_raw(seed: int, purpose: int, number: int, count: int) -> np.ndarray:
    """Returns u64[count], a function of its arguments alone; `purpose` separates streams of one seed."""
    return np.random.Philox(key=seed, counter=[0, 0, number, purpose]).random_raw(count)


def random_uniform(seed: int, purpose: int, number: int, rows: int, count: int) -> np.ndarray:
    """Returns f64[rows,count] in [0, 1), a function of its arguments alone."""
    raw = random_raw(seed, purpose, number, rows * count).reshape(rows, count)
    return (raw >> np.uint64(11)) * 2.0**-53
