"""How the images of a set become shards, and what that makes of one of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthaug.data import images, record
from synthaug.data.resize import FILTERS, check_shape
from synthaug.data.sources import Reader
from synthaug.data.writing import whole_header
from synthaug.errors import DataError
from synthaug.experiment import Data, MadeSet, ValSet

ORIGINAL = "original"
"""The view of a set that holds the source's files untouched; the others are named by their side in px."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the images of one set become shards."""

    name: str  # "train", "val" or that of a set made elsewhere
    views: tuple[str, ...]  # sides in px, or ORIGINAL
    resize: str  # one of FILTERS; empty: images have their size already
    decoder: str
    channels: int
    source_sha256: str  # of the source ids and classes in order, from scan

    def made_by(self, view: str) -> dict[str, str]:
        """Returns the hashes of what makes the images of one view; no network does."""
        stated = dataclasses.asdict(self) | {"views": view}
        if view == ORIGINAL:
            stated |= {"resize": "", "decoder": ""}  # bytes are bytes
        text = json.dumps(stated, sort_keys=True)
        return {"settings": hashlib.sha256(text.encode()).hexdigest(), "weights": ""}


def recipe_of(
    name: str,
    settings: Data,
    made: Mapping[str, MadeSet | ValSet],
    sides: Sequence[int],
    scanned: Mapping[str, Any],
) -> Recipe:
    """Returns the recipe of a set.

    Args:
        name: "train", "val" or a name in `made`.
        settings: of the real images.
        made: sets made elsewhere, and further validation sets, which are prepared as "val".
        sides: resolutions of the real images, px.
        scanned: what scan returned.
    """
    views = [str(side) for side in sides] + ([ORIGINAL] if settings.keep_original else [])
    resize = settings.resize
    if isinstance(one := made.get(name), MadeSet):
        views, resize = [str(one.resolution)], one.resize
    return Recipe(
        name=name,
        views=tuple(views),
        resize=resize,
        decoder=settings.decoder,
        channels=settings.channels,
        source_sha256=scanned["sets"][name]["sha256"],
    )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One readable image, ready to be written."""

    row: int
    sha256: bytes  # of the source
    height: int
    width: int
    format: int  # as in Facts
    records: tuple[tuple[bytes, bytes | memoryview], ...]  # by view: the record, and what its hash is of


def make(
    recipe: Recipe, reader: Reader, made_by: Mapping[str, Mapping[str, str]], row: int, number: int
) -> Prepared | str:
    """Returns an image at every view, or why it cannot be read.

    Args:
        recipe: of the set.
        reader: of a part of the source.
        made_by: `Recipe.made_by` of every view.
        row: of the image in that part.
        number: of the image in the set.
    """
    listing = reader.listing
    try:
        source = reader.read(row)
        height, width, pixels = _opened(recipe, source)
    except DataError as error:
        return str(error)
    data = source if isinstance(source, bytes) else f"{source.shape}".encode() + source.tobytes()
    sha256, class_index = hashlib.sha256(data).digest(), int(listing.class_index[row])
    header = {
        "class_key": listing.classes[class_index][0],
        "class_index": class_index,
        "source": listing.source_id[row],
        "height": height,
        "width": width,
    }
    if recipe.name in ("train", "val"):
        header["split"] = recipe.name
    records: list[tuple[bytes, bytes | memoryview]] = []
    for view in recipe.views:
        whole = whole_header(number, header, **made_by[view])
        if view == ORIGINAL:
            kept = {"format": images.format_of(data), "channels": recipe.channels}
            records.append((record.pack_file({**whole, **kept}, data), sha256))
        else:
            image = _resized(recipe, int(view), pixels, whole["source"])
            records.append((record.pack_pixels(whole, image), image.data))
    kind = 1 + images.FORMATS.index(images.format_of(data)) if isinstance(source, bytes) else 0
    return Prepared(row, sha256, height, width, kind, tuple(records))


def _opened(recipe: Recipe, source: bytes | np.ndarray) -> tuple[int, int, np.ndarray]:
    """Returns the height, the width and the pixels of an image; none where no view needs them.

    Raises:
        DataError: it cannot be decoded.
    """
    if isinstance(source, bytes) and recipe.views == (ORIGINAL,):
        return *images.size_of(source, recipe.decoder), np.empty((0, 0, recipe.channels), np.uint8)
    if isinstance(source, bytes):
        pixels = images.decode(source, recipe.channels, recipe.decoder)
    else:
        pixels = images.with_channels(source, recipe.channels)
    height, width, _ = pixels.shape
    for view in recipe.views:
        if view != ORIGINAL:
            check_shape(height, width, int(view))
    return height, width, pixels


def _resized(recipe: Recipe, side: int, pixels: np.ndarray, source_id: str) -> np.ndarray:
    if recipe.resize:
        return FILTERS[recipe.resize](pixels, side)
    if pixels.shape[:2] != (side, side):
        raise DataError(
            f"sets.{recipe.name}: {source_id} is {pixels.shape[1]} x {pixels.shape[0]} px; expected "
            f"{side} x {side}; set sets.{recipe.name}.resolution, or a filter with sets.{recipe.name}.resize."
        )
    return np.ascontiguousarray(pixels)
