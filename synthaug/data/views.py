"""From stored images to what a network sees of them, for many images at once.

Threads share the work: decoders, Pillow and numpy let each other run.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from synthaug.data import crops, images, jpeg, randaugment
from synthaug.data.crops import Box
from synthaug.data.record import Pixels
from synthaug.data.shards import ImageSet
from synthaug.errors import DataError
from synthaug.experiment import Augment, View

T = TypeVar("T")
Source = bytes | Pixels | np.ndarray
"""Content of an image file, packed pixels, or u8[H,W,C]."""


class Unreadable(DataError):
    """One of several images that cannot be decoded; `row` is its place among them."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row = row


def read(source: ImageSet | np.ndarray, chosen: np.ndarray) -> Sequence[Source]:
    """Returns the images with the numbers i64[n], still encoded if they are stored so."""
    if isinstance(source, np.ndarray):
        return source[chosen]
    order = np.argsort(chosen, kind="stable")  # ascending is fastest
    found = source.sources(chosen[order].tolist())
    return [found[i] for i in np.argsort(order, kind="stable")]


def see_training(
    sources: Sequence[Source],
    view: View,
    augment: Augment,
    drawn: Mapping[str, np.ndarray],
    *,
    shrink_to: int,
    channels: int,
    decoder: str,
) -> np.ndarray:
    """Returns u8[n,S,S,C]: boxes of the images, mirrored and with changed colours.

    Args:
        sources: n images.
        view: what is seen of them.
        augment: which changes.
        drawn: their random numbers, by rows: see `synthaug.data.augment.draw`.
        shrink_to: side that larger images are averaged to first; 0 = none.
        channels: C.
        decoder: pillow or tensorflow.

    Raises:
        DataError: a file cannot be decoded, or the images' shapes differ and the view leaves them so.
    """
    crop, flip = drawn.get("crop"), drawn.get("flip")
    mirrored = flip[:, 0] < 0.5 if flip is not None else np.zeros(len(sources), bool)
    boxes, files = dict[int, Box](), dict[int, bytes]()  # of images that need not be decoded as a whole
    for i, source in enumerate(sources):
        if isinstance(source, bytes) and view.size and not shrink_to and (shape := jpeg.jpeg_shape(source)):
            box = _box(*shape, view, None if crop is None else crop[i], decoder)
            if box:
                boxes[i], files[i] = box, source

    def colours(i: int, pixels: np.ndarray) -> np.ndarray:
        return change_colours(pixels, augment, view.interpolation, {k: v[i] for k, v in drawn.items()})

    def see(i: int) -> np.ndarray:
        if i in boxes:
            pixels = _named(crops.cut_file, i, files[i], boxes[i], view.size, channels, view.interpolation)
        else:
            image = crops.shrunk(_named(_decoded, i, sources[i], channels, decoder), shrink_to)
            pixels = crops.train_pixels(image, view, None if crop is None else crop[i], decoder)
        return colours(i, pixels[:, ::-1] if mirrored[i] else pixels)

    if decoder == "pillow" or not boxes:
        return stack(in_threads(see, range(len(sources))))
    cut = list(boxes)
    seen = _cut_jpegs(files, boxes, mirrored[cut], view, channels)
    if len(cut) == len(sources) and not augment.rand_augment and not augment.color_jitter:
        return seen
    places = {i: k for k, i in enumerate(cut)}
    return stack(
        in_threads(lambda i: colours(i, seen[places[i]]) if i in places else see(i), range(len(sources)))
    )


def see_evaluation(
    sources: Sequence[Source], view: View, *, shrink_to: int, channels: int, decoder: str
) -> np.ndarray:
    """Returns u8[n,S,S,C], the centres of the images; arguments and errors as of `see_training`."""

    def see(i: int) -> np.ndarray:
        image = _named(_decoded, i, sources[i], channels, decoder)
        return crops.eval_pixels(crops.shrunk(image, shrink_to), view, decoder)

    return stack(in_threads(see, range(len(sources))))


def change_colours(
    image: np.ndarray, settings: Augment, interpolation: str, drawn: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Returns u8[H,W,C] after colour jitter and RandAugment, in this order; both off = as it was."""
    if not settings.color_jitter and not settings.rand_augment:
        return image
    pillow = crops.to_pillow(image)
    if settings.color_jitter:
        pillow = randaugment.color_jitter(pillow, settings.color_jitter, drawn["colour"])
    if settings.rand_augment:
        uniform = drawn["rand_augment"].reshape(settings.rand_augment, -1)
        pillow = randaugment.rand_augment(pillow, settings, interpolation, uniform)
    return crops.from_pillow(pillow)


def stack(seen: Sequence[np.ndarray]) -> np.ndarray:
    """Returns u8[n,H,W,C] from n images of one shape."""
    shapes = sorted({image.shape for image in seen})
    if len(shapes) != 1:
        raise misfit(shapes)
    return np.stack(seen)


def misfit(shapes: Sequence[tuple[int, ...]]) -> DataError:
    """Returns the error for images of several shapes, sorted."""
    return DataError(
        f"loader: got images of {shapes[0]} and {shapes[-1]} (height, width, channels); expected one shape; "
        "set view.size, or take sets of one resolution."
    )


def in_threads(work: Callable[[Any], T], items: Any) -> list[T]:
    """Returns work(item) of every item, in order."""
    return list(_pool().map(work, items))


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)), "decode")


def _box(height: int, width: int, view: View, uniform: np.ndarray | None, decoder: str) -> Box | None:
    """Returns the box that is seen of an image, if it is a whole number of pixels."""
    if uniform is not None:
        return crops.random_box(height, width, view.min_area, uniform)
    if decoder == "pillow":
        return None
    return crops.central_square(height, width, view.eval_ratio if view.crop == "center" else 1.0)


def _cut_jpegs(
    files: Mapping[int, bytes], boxes: Mapping[int, Box], mirrored: np.ndarray, view: View, channels: int
) -> np.ndarray:
    """Returns u8[n,S,S,C] of `jpeg.cut_jpegs`; if one is torn, the error says which."""
    places = np.array(list(boxes.values()), np.int32)

    def cut(rows: slice) -> np.ndarray:
        return jpeg.cut_jpegs(
            list(files.values())[rows],
            places[rows],
            mirrored[rows],
            size=view.size,
            channels=channels,
            interpolation=view.interpolation,
        )

    try:
        return cut(slice(None))
    except DataError:
        for k, i in enumerate(files):
            _named(cut, i, slice(k, k + 1))
        raise


def _named(decode: Callable[..., T], row: int, *args: Any) -> T:
    """Returns decode(*args); an error of the data knows the row."""
    try:
        return decode(*args)
    except DataError as error:
        raise Unreadable(row, str(error)) from None


def _decoded(source: Source, channels: int, decoder: str) -> np.ndarray:
    if isinstance(source, Pixels):
        return images.with_channels(source.image(), channels)
    return images.decode(source, channels, decoder) if isinstance(source, bytes) else source
