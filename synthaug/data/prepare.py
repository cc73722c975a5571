"""Blocks of images -> committed shards at every resolution, each exactly once, whatever the others do.

An image is read, hashed and decoded once, whatever it is needed for. Threads do that: decoders, filters,
zstd and SHA-256 let go of the interpreter. They stay a few images ahead of the files, so that memory
does not grow with a block, and go on with the next block while one is hashed, brought to the disk and named.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from synthaug import commit
from synthaug.data.ahead import in_order
from synthaug.data.blocks import read_part
from synthaug.data.facts import Facts, facts_path, write_facts
from synthaug.data.recipe import ORIGINAL, Prepared, Recipe, make
from synthaug.data.shards import open_shard
from synthaug.data.sources import Reader
from synthaug.data.writing import ShardWriter
from synthaug.errors import DataError
from synthaug.experiment import Data

_TASK = 4  # images a thread takes at once, if they are small:
_TASK_BYTES = 1 << 20  # of pixels to write; a node may have a hundred threads
_BEAT = 32  # images between two reports


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
    first, size = blocks.start * settings.shard_size, settings.shard_size
    job = _Job(recipe, Reader(listing), out / recipe.name, settings.max_corrupt, attempt, progress, first)
    for folder in (*recipe.views, "facts"):
        commit.remove_leftovers(job.folder / folder)
    missing = dict[int, range]()  # by block: rows of the listing
    for block in blocks:
        start = block * size - first
        lost = _left_out(job, block)
        if lost is None:
            missing[block] = range(start, min(start + size, len(listing)))
        else:
            job.left_out |= lost
    _write_blocks(job, missing)
    progress(len(listing), len(listing))
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
    first: int  # number of the listing's first image in the set
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)


def _left_out(job: _Job, block: int) -> dict[str, str] | None:
    """Returns the images that a committed block left out, or None if anything of the block is missing."""
    there = [open_shard(job.folder / view, block, job.recipe.made_by(view)) for view in job.recipe.views]
    if not facts_path(job.folder, block).exists():
        return None
    shards = [done.shards[0] for done in there if done is not None]
    return shards[0].left_out if len(shards) == len(there) else None


def _write_blocks(job: _Job, missing: Mapping[int, range]) -> None:
    """Writes blocks, given their rows: one is committed while the images of the next are made."""
    with (
        contextlib.closing(_made(job, list(missing.values()))) as made,
        concurrent.futures.ThreadPoolExecutor(1, "commit") as pool,
    ):
        last: concurrent.futures.Future[None] | None = None
        for block, rows in missing.items():
            with contextlib.ExitStack() as stack:
                writers = [stack.enter_context(_writer(job, view, block)) for view in job.recipe.views]
                done, left_out = _fill(job, writers, zip(rows, made, strict=False))
                job.left_out |= left_out
                if last is not None:
                    last.result()
                check_corrupt(job.left_out, job.max_corrupt)  # before anything of the block is committed
                last = pool.submit(
                    _commit, job, block, job.first + rows.start, done, left_out, writers, stack.pop_all()
                )
        if last is not None:
            last.result()


def _writer(job: _Job, view: str, block: int) -> ShardWriter:
    return ShardWriter(job.folder / view, block, attempt=job.attempt, **job.recipe.made_by(view))


def _fill(
    job: _Job, writers: Sequence[ShardWriter], made: Iterable[tuple[int, Prepared | str]]
) -> tuple[list[Prepared], dict[str, str]]:
    """Returns the images of a block, written at every view, and why the others could not be read."""
    done, left_out = list[Prepared](), dict[str, str]()
    for row, found in made:
        if isinstance(found, str):
            left_out[job.reader.listing.source_id[row]] = found
        else:
            for writer, (data, content) in zip(writers, found.records, strict=True):
                writer.add(data, content)
            done.append(dataclasses.replace(found, records=()))
        if row % _BEAT == 0:
            job.progress(row, len(job.reader.listing))
    return done, left_out


def _commit(
    job: _Job,
    block: int,
    first: int,
    done: Sequence[Prepared],
    left_out: Mapping[str, str],
    writers: Sequence[ShardWriter],
    open_writers: contextlib.ExitStack,
) -> None:
    """Commits a block: a shard of every view, then its facts."""
    with open_writers:
        for writer in writers:
            writer.commit(first, left_out)
    _write_facts(job, block, done)


def _write_facts(job: _Job, block: int, done: Sequence[Prepared]) -> None:
    listing, rows = job.reader.listing, [image.row for image in done]
    hashes = np.frombuffer(b"".join(image.sha256 for image in done), np.uint8)
    facts = Facts(
        source=tuple(listing.source_id[row] for row in rows),
        class_index=listing.class_index[rows],
        sha256=hashes.reshape(-1, 32),
        height=np.array([image.height for image in done], np.int32),
        width=np.array([image.width for image in done], np.int32),
        format=np.array([image.format for image in done], np.uint8),
    )
    write_facts(facts, facts_path(job.folder, block))


def _made(job: _Job, blocks: Sequence[range]) -> Generator[Prepared | str, None, None]:
    """Yields the images of blocks of rows in order, or why one cannot be read."""
    size = _images_per_task(job.recipe)
    made_by = {view: job.recipe.made_by(view) for view in job.recipe.views}

    def task(some: range) -> list[Prepared | str]:
        return [make(job.recipe, job.reader, made_by, row, job.first + row) for row in some]

    for made in in_order(task, (rows[at : at + size] for rows in blocks for at in range(0, len(rows), size))):
        yield from made


def _images_per_task(recipe: Recipe) -> int:
    values = sum(int(view) ** 2 * recipe.channels for view in recipe.views if view != ORIGINAL)
    return max(1, min(_TASK, _TASK_BYTES // max(values, 1)))
