"""Training batches from pieces of image sets: batch `step` is a pure function of (seed, step).

Nothing about a loader needs saving in a checkpoint: it starts at any step. Every random number is drawn for
the row of the global batch, so neither the number of processes nor that of threads changes a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from synthaug.data import augment as changes
from synthaug.data import views
from synthaug.data.mixture import Piece, Rows
from synthaug.data.shards import ImageSet
from synthaug.errors import ConfigError, DataError
from synthaug.experiment import Augment, View

__all__ = ["Loader", "Piece", "eval_images"]

AHEAD = 3  # batches that iterate makes ahead: one is read and its boxes drawn while others are decoded


class Loader:
    """Batches without end of a mixture of image sets."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        view: View,
        augment: Augment,
        *,
        batch_size: int,
        seed: int,
        share: float = 0.0,
        process_index: int = 0,
        num_processes: int = 1,
        workers: int = 0,
        decoder: str = "pillow",
    ) -> None:
        """Prepares the order of the images; none is read yet.

        Args:
            pieces: what the training set is made of.
            view: what part of an image the network sees.
            augment: random changes.
            batch_size: images of the global batch, over all processes.
            seed: of the order and all random changes.
            share: of generated images in every batch; 0 = as many as there are.
            process_index: this process takes the rows [p * B / n, (p + 1) * B / n) of every batch.
            num_processes: n.
            workers: processes that decode for `iterate`; 0 = threads of this one.
            decoder: of image files: pillow or tensorflow.

        Raises:
            DataError: there are no images, or they do not fit together.
            ConfigError: the batch does not divide over the processes.
        """
        if batch_size < 1 or batch_size % num_processes:
            raise ConfigError(
                f"loader: batch_size = {batch_size} does not divide over {num_processes} processes; "
                f"use a multiple of {num_processes}."
            )
        self.pieces, self.view, self.augment = tuple(pieces), view, augment
        self.batch_size, self.seed, self.workers, self.decoder = batch_size, seed, workers, decoder
        part = batch_size // num_processes
        self._slice = slice(process_index * part, (process_index + 1) * part)
        sizes = [(len(piece), piece.generated) for piece in pieces]
        self.num_images = sum(size for size, _ in sizes)
        self._starts = np.cumsum([0, *(size for size, _ in sizes)])
        order = Rows(sizes, batch_size, seed, share=share, repeats=augment.repeats)
        self.channels = _channels([piece.images for piece in pieces])
        self.dataset = grain.MapDataset.source(order).map_with_index(self._gather)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns the batch of update `step` (from 0), this process's rows of it.

        It is {"image": u8[b,S,S,C], "label": i32[b], "index": i64[b]}, the index being an image's number in
        the pieces, one after the other.
        """
        return self.dataset[step]

    def iterate(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields the batches from a step on, made ahead by threads or, with workers, by processes."""
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain's worker processes ask absl's, which nobody here parses
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
            processes = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=AHEAD)
            dataset = self.dataset[start_step:].to_iter_dataset(options).mp_prefetch(processes)
        else:
            options = grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)
            dataset = self.dataset[start_step:].to_iter_dataset(options)
        yield from dataset

    def _gather(self, step: int, order: np.ndarray) -> dict[str, np.ndarray]:
        drawn = changes.draw(self.augment, self.view, self.seed, step, self.batch_size)
        drawn = {name: array[self._slice] for name, array in drawn.items()}
        index = order[self._slice]
        number = np.searchsorted(self._starts, index, side="right") - 1  # of the piece
        label, seen = np.empty(len(index), np.int32), []
        for i, piece in enumerate(self.pieces):
            rows = np.flatnonzero(number == i)
            if len(rows):
                inside = index[rows] - self._starts[i]
                chosen = inside if piece.index is None else piece.index[inside]
                label[rows] = piece.labels[chosen]
                part = {name: array[rows] for name, array in drawn.items()}
                seen.append((rows, self._see(piece, chosen, part)))
        return {"image": changes.move(_joined(seen), drawn), "label": label, "index": index}

    def _see(self, piece: Piece, chosen: np.ndarray, drawn: dict[str, np.ndarray]) -> np.ndarray:
        """Returns u8[n,S,S,C]: what the network sees of some images of a piece, not yet moved."""
        changed = self.augment.rand_augment or self.augment.color_jitter
        shrink = self.view.shrink_to if piece.generated else 0
        if isinstance(piece.images, np.ndarray) and not changed and self._is_whole(piece.images, shrink):
            seen = piece.images[chosen]
            if "flip" in drawn:
                rows = drawn["flip"][:, 0] < 0.5
                seen[rows] = seen[rows, :, ::-1]
            return seen
        try:
            return views.see_training(
                views.read(piece.images, chosen),
                self.view,
                self.augment,
                drawn,
                shrink_to=shrink,
                channels=self.channels,
                decoder=self.decoder,
            )
        except views.Unreadable as error:
            raise _unreadable(piece.images, chosen[error.row], error) from None

    def _is_whole(self, pixels: np.ndarray, shrink: int) -> bool:
        """Returns whether the network sees u8[N,H,W,C] as they are."""
        whole = not self.view.size and self.view.crop != "random_resized"
        return whole and not 0 < shrink < min(pixels.shape[1:3])


def eval_images(
    images: ImageSet | np.ndarray,
    view: View,
    *,
    batch_size: int = 256,
    generated: bool = False,
    decoder: str = "pillow",
) -> Iterator[np.ndarray]:
    """Yields all images in order as u8[b,S,S,C], as a network sees them in evaluation; the last b is less.

    Args:
        images: a set, or u8[N,H,W,C].
        view: its eval_size, size and eval_ratio decide; size 0 = the images as they are.
        batch_size: images at once.
        generated: whether they are shrunk to view.shrink_to first.
        decoder: of image files: pillow or tensorflow.
    """
    shrink, channels = view.shrink_to if generated else 0, _channels([images])
    for start in range(0, len(images), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(images)))
        sources = views.read(images, chosen)
        try:
            seen = views.see_evaluation(sources, view, shrink_to=shrink, channels=channels, decoder=decoder)
        except views.Unreadable as error:
            raise _unreadable(images, chosen[error.row], error) from None
        yield seen


def _unreadable(source: ImageSet | np.ndarray, number: int, error: DataError) -> DataError:
    where = source.directory if isinstance(source, ImageSet) else "array"
    return DataError(f"{where}: image {number} {error}; delete the shard and its marker and prepare again.")


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns u8[B,H,W,C] from (row numbers, images of these rows) of every piece."""
    if len(parts) == 1:
        return parts[0][1]
    shapes = sorted({seen.shape[1:] for _, seen in parts})
    if len(shapes) != 1:
        raise views.misfit(shapes)
    joined = np.empty((sum(len(rows) for rows, _ in parts), *shapes[0]), np.uint8)
    for rows, seen in parts:
        joined[rows] = seen
    return joined


def _channels(sources: Sequence[ImageSet | np.ndarray]) -> int:
    """Returns the channels of all images; the first of a set stands for the rest."""
    found = {s.shape[3] if isinstance(s, np.ndarray) else s.image(0).shape[2] for s in sources if len(s)}
    if len(found) != 1:
        raise DataError(
            f"loader: got images of {sorted(found)} channels; expected one number; set data.channels."
        )
    return found.pop()
