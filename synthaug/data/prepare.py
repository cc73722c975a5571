"""Blocks of images -> committed shards at every resolution, each exactly once, whatever the others do.

An image is read, hashed and decoded once, whatever it is needed for. Threads do that: decoders, filters,
zlib and SHA-256 let go of the interpreter. They stay a few images ahead of the files, so that memory
does not grow with a block.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from synthaug import commit
from synthaug.data import images, record
from synthaug.data.blocks import read_part
from synthaug.data.facts import Facts, facts_path, write_facts
from synthaug.data.resize import FILTERS, check_shape
from synthaug.data.shards import open_shard
from synthaug.data.sources import Reader
from synthaug.data.writing import ShardWriter
from synthaug.errors import DataError
from synthaug.experiment import Data, MadeSet, ValSet

ORIGINAL = "original"
"""The view of a set that holds the source's files untouched; the others are named by their side in px."""

_TASK = 4  # images a thread takes at once, if they are small:
_TASK_BYTES = 1 << 20  # of pixels to write; a node may have a hundred threads
_AHEAD = 3  # tasks per thread that are under way or wait to be written
_BEAT = 32  # images between two reports


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


def prepare(
    settings: Data,
    recipe: Recipe,
    out: pathlib.Path,
    blocks: range,
    *,
    attempt: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes some blocks of a set, at every view out/<set>/<view>, and returns what they hold.

    A block that is there is not read again, so the same call goes on where a killed one stopped.

    Args:
        settings: shard size and the number of images that may be unreadable.
        recipe: of the set.
        out: folder of the sets; scan has written there.
        blocks: numbers of the blocks, those of one prepare job.
        attempt: which attempt of the job this is.
        progress: called with (images done, images in all) every few images; what it raises is passed on.

    Returns:
        JSON values: "images" and "left_out", {source id: reason}.

    Raises:
        DataError: more than `max_corrupt` images are unreadable, or one has another size than stated.
        RunError: `out` holds images made otherwise, or cannot be written.
    """
    listing = read_part(settings, out, recipe.name, blocks.start)
    job = _Job(recipe, Reader(listing), out / recipe.name, settings.max_corrupt, attempt, progress)
    for folder in (*recipe.views, "facts"):
        commit.remove_leftovers(job.folder / folder)
    at = blocks.start * settings.shard_size  # number of the listing's first image
    for block in blocks:
        first = block * settings.shard_size
        rows = range(first - at, min(first - at + settings.shard_size, len(listing)))
        lost = _left_out(job, block)
        if lost is None:
            _write_block(job, block, first, rows)
        else:
            job.left_out |= lost
        progress(rows.stop, len(listing))
    return {"images": len(listing) - len(job.left_out), "left_out": dict(sorted(job.left_out.items()))}


def check_corrupt(left_out: Mapping[str, str], limit: int) -> None:
    """Checks how many images could not be read.

    Args:
        left_out: source id -> reason.
        limit: data.max_corrupt.

    Raises:
        DataError: there are more; the message names the first.
    """
    found = len(left_out)
    if found > limit:
        named = "; ".join(f"{name}: {why}" for name, why in sorted(left_out.items())[:5])
        more = f"; and {found - 5} more" if found > 5 else ""
        raise DataError(
            f"data: {found} images are unreadable, data.max_corrupt = {limit}: {named}{more}; "
            f"repair or delete them, or leave them out with data.max_corrupt={found}."
        )


@dataclasses.dataclass
class _Job:
    """What every block needs, and what was left out so far."""

    recipe: Recipe
    reader: Reader
    folder: pathlib.Path
    max_corrupt: int
    attempt: int
    progress: Callable[[int, int], None]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Image:
    """One readable image, ready to be written."""

    row: int
    sha256: bytes  # of the source
    height: int
    width: int
    records: tuple[tuple[bytes, bytes | memoryview], ...]  # by view: the record, and what its hash is of


def _left_out(job: _Job, block: int) -> dict[str, str] | None:
    """Returns the images that a committed block left out, or None if anything of the block is missing."""
    there = [open_shard(job.folder / view, block, job.recipe.made_by(view)) for view in job.recipe.views]
    if not facts_path(job.folder, block).exists():
        return None
    shards = [done.shards[0] for done in there if done is not None]
    return shards[0].left_out if len(shards) == len(there) else None


def _write_block(job: _Job, block: int, first: int, rows: range) -> None:
    """Writes one block: a shard of every view, then its facts."""
    done, left_out = list[_Image](), dict[str, str]()
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(job.folder / view, block, attempt=job.attempt, **job.recipe.made_by(view))
            )
            for view in job.recipe.views
        ]
        for row, found in zip(rows, _made(job, writers, first - rows.start, rows), strict=True):
            if isinstance(found, str):
                left_out[job.reader.listing.source_id[row]] = found
            else:
                for writer, (data, content) in zip(writers, found.records, strict=True):
                    writer.add(data, content)
                done.append(dataclasses.replace(found, records=()))
            if row % _BEAT == 0:
                job.progress(row, len(job.reader.listing))
        job.left_out |= left_out
        check_corrupt(job.left_out, job.max_corrupt)  # before anything is committed
        for writer in writers:
            writer.commit(first, left_out)
    _write_facts(job, block, done)


def _write_facts(job: _Job, block: int, done: Sequence[_Image]) -> None:
    listing, rows = job.reader.listing, [image.row for image in done]
    hashes = np.frombuffer(b"".join(image.sha256 for image in done), np.uint8)
    facts = Facts(
        source=tuple(listing.source_id[row] for row in rows),
        class_index=listing.class_index[rows],
        sha256=hashes.reshape(-1, 32),
        height=np.array([image.height for image in done], np.int32),
        width=np.array([image.width for image in done], np.int32),
    )
    write_facts(facts, facts_path(job.folder, block))


def _made(job: _Job, writers: Sequence[ShardWriter], shift: int, rows: range) -> Iterator[_Image | str]:
    """Yields every image of `rows` in order, or why it cannot be read; row r has number r + shift."""
    workers, size = len(os.sched_getaffinity(0)), _images_per_task(job.recipe)

    def task(some: range) -> list[_Image | str]:
        return [_make(job, writers, row, row + shift) for row in some]

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque[concurrent.futures.Future[list[_Image | str]]]()
        try:
            for start in range(rows.start, rows.stop, size):
                waiting.append(pool.submit(task, range(start, min(start + size, rows.stop))))
                if len(waiting) == workers * _AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _images_per_task(recipe: Recipe) -> int:
    values = sum(int(view) ** 2 * recipe.channels for view in recipe.views if view != ORIGINAL)
    return max(1, min(_TASK, _TASK_BYTES // max(values, 1)))


def _make(job: _Job, writers: Sequence[ShardWriter], row: int, number: int) -> _Image | str:
    """Returns the records of an image, or why it cannot be read."""
    recipe, listing = job.recipe, job.reader.listing
    try:
        source = job.reader.read(row)
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
    for view, writer in zip(recipe.views, writers, strict=True):
        whole = writer.header(number, header)
        if view == ORIGINAL:
            kept = {"format": images.format_of(data), "channels": recipe.channels}
            records.append((record.pack_file({**whole, **kept}, data), sha256))
        else:
            image = _resized(recipe, int(view), pixels, whole["source"])
            records.append((record.pack(whole, image), image.data))
    return _Image(row, sha256, height, width, tuple(records))


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
