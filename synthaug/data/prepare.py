"""Raw images -> committed shards at every resolution, a class table, counts and hashes."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from synthaug import commit, config, manifest
from synthaug.data import images, sources
from synthaug.data.shards import ImageSet, open_set, open_shard, write_shard
from synthaug.data.sources import Item, Source
from synthaug.errors import DataError, RunError
from synthaug.experiment import Data
from synthaug.manifest import ClassEntry, ClassTable

# settings that do not change the pixels or the order: a folder may move, a count may be corrected
_CHANGES_NOTHING = ("path", "val_path", "num_classes", "num_train", "num_val", "max_corrupt")
_FILTERS = {"area": images.shrink_area}


@dataclasses.dataclass
class _Job:
    """What every block of images needs, and what was found out so far."""

    settings: Data
    source: Source
    resolutions: tuple[int, ...]
    out: pathlib.Path
    progress: Callable[[int, int], None]
    done: int = 0
    corrupt: dict[str, str] = dataclasses.field(default_factory=dict)  # source id -> reason
    enlarged: dict[int, int] = dataclasses.field(default_factory=dict)  # resolution -> images


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """One decoded image: its size in the source, and itself at every resolution."""

    height: int
    width: int
    images: tuple[np.ndarray, ...]


def prepare(
    settings: Data,
    resolutions: Sequence[int],
    out: pathlib.Path,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Writes the sets out/train/<resolution> and out/val/<resolution>, and returns what they hold.

    Image i of a split is the same at every resolution. The order is `manifest.image_order`, so every
    prefix is balanced over the classes. The same call again goes on where a killed one stopped.

    Args:
        settings: source, split and shard size.
        resolutions: sides of the images to write, in px.
        out: folder of the sets.
        progress: called with (images done, images in all) after every shard.

    Returns:
        JSON values: the class table ("classes"), "num_train", "num_val", the shards, images and hash of
        every set ("sets") and of all ("sha256"), unreadable images and why ("corrupt"), files that are no
        images ("other_files"), and how many images were enlarged to a resolution ("enlarged").

    Raises:
        DataError: the source is not what the settings say, or more than `max_corrupt` images are unreadable.
        RunError: `out` holds images made otherwise, or cannot be written.
    """
    source = sources.scan(settings)
    is_val = sources.split(source, settings.val_every)
    job = _Job(settings, source, tuple(resolutions), out, progress, enlarged=dict.fromkeys(resolutions, 0))
    train = _write_split(job, "train", _in_order(source, ~is_val))
    val = _write_split(job, "val", _in_order(source, is_val))
    table = _class_table(job, is_val)
    num_train, num_val = (sum(getattr(entry, s) for entry in table.entries) for s in ("train", "val"))
    sources.check_counts(settings, num_train, num_val, 0)
    commit.write_new(out / "classes.json", table.to_json().encode())
    sets = {**train, **val}
    return {
        "classes": config.to_tree(table.entries),
        "num_train": num_train,
        "num_val": num_val,
        "sets": sets,
        "sha256": _hash([s["sha256"] for s in sets.values()]),
        "corrupt": dict(sorted(job.corrupt.items())),
        "other_files": {"count": len(source.others), "first": list(source.others[:10])},
        "enlarged": {str(resolution): count for resolution, count in job.enlarged.items()},
    }


def _in_order(source: Source, chosen: np.ndarray) -> list[Item]:
    """Returns the chosen items bool[N], every prefix balanced over the classes."""
    picked = np.flatnonzero(chosen)
    classes = np.array([source.items[i].class_index for i in picked], np.int64)
    counts = np.bincount(classes, minlength=len(source.classes))
    order = manifest.image_order(counts.tolist())
    by_class = picked[np.argsort(classes, kind="stable")]
    rows = (np.cumsum(counts) - counts)[order] + manifest.number_within_class(order)
    return [source.items[i] for i in by_class[rows]]


def _write_split(job: _Job, split: str, items: list[Item]) -> dict[str, Any]:
    """Writes the sets of one split and returns their descriptions."""
    folders = {resolution: job.out / split / str(resolution) for resolution in job.resolutions}
    for folder in folders.values():
        commit.remove_leftovers(folder)
    size, shard, first = job.settings.shard_size, 0, 0
    for start in range(0, len(items), size):
        block = items[start : start + size]
        count = _count_committed(job, split, folders, shard, block)
        if count is None:
            count = _write_block(job, split, folders, shard, first, block)
        _check_corrupt(job)
        shard, first = shard + (count > 0), first + count
        job.done += len(block)
        job.progress(job.done, len(job.source.items))
    if not first:
        raise DataError(f"data: no readable image in the {split} split; check the files and data.val_every.")
    return {f"{split}/{r}": _describe(open_set(f, shard, num_images=first)) for r, f in folders.items()}


def _describe(done: ImageSet) -> dict[str, Any]:
    return {"shards": len(done.shards), "images": len(done), "sha256": manifest.digest(done.shards)}


def _count_committed(
    job: _Job, split: str, folders: dict[int, pathlib.Path], shard: int, block: list[Item]
) -> int | None:
    """Returns the number of images of a block that is committed at every resolution, or None."""
    there = [open_shard(folder, shard, _maker(job, split, r)) for r, folder in folders.items()]
    sets = [done for done in there if done is not None]
    if len(sets) < len(there):
        return None
    headers = sets[0].headers()
    ids = {item.source_id: item for item in block}
    known = [header["source"] for header in headers if header["source"] in ids]
    if not known:
        return None  # no image of this block was readable, and the shard is the next block's
    if len(known) < len(headers):
        raise RunError(f"{sets[0].directory}: the source has changed since; delete {job.out} to start anew.")
    for source_id in ids.keys() - set(known):
        found = _decode(job, ids[source_id])
        job.corrupt[source_id] = found if isinstance(found, str) else "was left out by an earlier run"
    for header in headers:
        _count_enlarged(job, header["height"], header["width"])
    return len(headers)


def _write_block(
    job: _Job, split: str, folders: dict[int, pathlib.Path], shard: int, first: int, block: list[Item]
) -> int:
    """Returns the number of readable images of a block, written as one shard per resolution."""
    workers = len(os.sched_getaffinity(0))  # Pillow and numpy let go of the interpreter
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        decoded = list(pool.map(lambda item: _decode(job, item), block))
    readable = [
        (item, found) for item, found in zip(block, decoded, strict=True) if isinstance(found, _Pixels)
    ]
    job.corrupt |= {i.source_id: why for i, why in zip(block, decoded, strict=True) if isinstance(why, str)}
    _check_corrupt(job)
    for _, found in readable:
        _count_enlarged(job, found.height, found.width)
    for k, (resolution, folder) in enumerate(folders.items()):
        if readable:
            write_shard(
                folder,
                shard,
                first,
                [(_header(job, split, item, found), found.images[k]) for item, found in readable],
                attempt=0,
                **_maker(job, split, resolution),
            )
    return len(readable)


def _decode(job: _Job, item: Item) -> _Pixels | str:
    """Returns an image at every resolution, or why it cannot be read."""
    try:
        image = item.load()
    except DataError as error:
        return str(error)
    resize = _FILTERS[job.settings.resize]
    height, width, _ = image.shape
    return _Pixels(height, width, tuple(resize(image, size) for size in job.resolutions))


def _header(job: _Job, split: str, item: Item, found: _Pixels) -> dict[str, Any]:
    return {
        "class_key": job.source.classes[item.class_index][0],
        "class_index": item.class_index,
        "source": item.source_id,
        "split": split,
        "height": found.height,
        "width": found.width,
    }


def _count_enlarged(job: _Job, height: int, width: int) -> None:
    for resolution in job.resolutions:
        job.enlarged[resolution] += min(height, width) < resolution


def _check_corrupt(job: _Job) -> None:
    limit, found = job.settings.max_corrupt, len(job.corrupt)
    if found > limit:
        named = "; ".join(f"{name}: {why}" for name, why in sorted(job.corrupt.items())[:5])
        more = f"; and {found - 5} more" if found > 5 else ""
        raise DataError(
            f"data: {found} images are unreadable, data.max_corrupt = {limit}: {named}{more}; "
            f"repair or delete them, or leave them out with data.max_corrupt={found}."
        )


def _class_table(job: _Job, is_val: np.ndarray) -> ClassTable:
    counts = np.zeros((len(job.source.classes), 2), int)
    for item, val in zip(job.source.items, is_val, strict=True):
        counts[item.class_index, int(val)] += item.source_id not in job.corrupt
    for (key, _), (train, _val) in zip(job.source.classes, counts, strict=True):
        if not train:
            raise DataError(f"data: class {key} has no readable train image; repair or remove its folder.")
    entries = zip(job.source.classes, counts.tolist(), strict=True)
    return ClassTable(tuple(ClassEntry(key, name, *count) for (key, name), count in entries))


def _maker(job: _Job, split: str, resolution: int) -> dict[str, str]:
    """Returns the hashes of what makes the images of one set; no network does."""
    tree = config.to_tree(job.settings)
    stated = {name: value for name, value in tree.items() if name not in _CHANGES_NOTHING}
    stated["own_val"] = bool(job.settings.val_path)  # whether, not where
    keys = [key for key, _ in job.source.classes]
    text = json.dumps([stated, split, resolution, keys], sort_keys=True, ensure_ascii=False)
    return {"settings": _hash([text]), "weights": ""}


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()
