"""The images of every set cut into blocks: what scan writes, once, for the prepare jobs to read.

A set is "train", "val", or one made elsewhere. Its images stand in the balanced order of
`manifest.image_order`; the place of an image there is its number in the set for good, readable or not.
Block b is the images b * shard_size ... (b + 1) * shard_size - 1, and shard b at every resolution.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from synthaug import manifest, markers
from synthaug.data import sources
from synthaug.data.labels import write_labels
from synthaug.data.listing import Listing, read_listing
from synthaug.data.shards import ImageSet
from synthaug.errors import DataError
from synthaug.experiment import Data, MadeSet, ValSet


def scan(settings: Data, made: Mapping[str, MadeSet | ValSet], out: pathlib.Path) -> dict[str, Any]:
    """Writes where the images of each prepare job are, and returns what was found.

    Args:
        settings: the source of the real images.
        made: sets made elsewhere and further validation sets, by name.
        out: folder of the sets.

    Returns:
        JSON values: "classes" as (key, name) pairs; "train_counts", the train images of each; "sets" as
        {name: {"images", "sha256" of the source ids and classes in order}}, of a manifest also "directory",
        "shards" and "slots"; and "other_files", those that are no images by their names.

    Raises:
        DataError: a source is not what the settings say.
        RunError: `out` cannot be written.
    """
    listing = sources.scan(settings)
    found = {
        "train": _write(settings, listing, ~listing.is_val, out / "train"),
        "val": _write(settings, listing, listing.is_val, out / "val"),
    }
    for name, one in made.items():
        where = f"{'sets' if isinstance(one, MadeSet) else 'val_sets'}.{name}"
        part = sources.scan_made(one, listing.classes, where, sources.label_order(settings, listing.classes))
        if isinstance(one, MadeSet) and one.source == "manifest":
            found[name] = _refer(name, one, part, out / name)
        else:
            found[name] = _write(settings, part, np.ones(len(part), bool), out / name)
    return {
        "classes": [list(pair) for pair in listing.classes],
        "train_counts": np.bincount(
            listing.class_index[~listing.is_val], minlength=len(listing.classes)
        ).tolist(),
        "sets": found,
        "other_files": {"count": len(listing.others), "first": list(listing.others[:10])},
    }


def read_part(settings: Data, out: pathlib.Path, name: str, block: int) -> Listing:
    """Returns the images of a prepare job in order; its first block is `block`.

    Raises:
        DataError: scan did not finish, or its file was altered.
    """
    return read_listing(_part_path(settings, out / name, block))


def _write(settings: Data, listing: Listing, chosen: np.ndarray, folder: pathlib.Path) -> dict[str, Any]:
    """Writes the chosen images bool[N] in order, a file per job."""
    rows = balanced(listing.class_index, np.flatnonzero(chosen), len(listing.classes))
    per_part = settings.shard_size * settings.shards_per_part
    for start in range(0, len(rows), per_part):
        part = take(listing, rows[start : start + per_part])
        part.write(_part_path(settings, folder, start // settings.shard_size))
    return {"images": len(rows), "sha256": _digest(listing, rows)}


def _part_path(settings: Data, folder: pathlib.Path, block: int) -> pathlib.Path:
    return folder / "listing" / f"{block // settings.shards_per_part:05d}.parquet"


def balanced(class_index: np.ndarray, rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns `rows` i64[M] of a source in the order of its set, every prefix balanced over the classes.

    Example:
        >>> balanced(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 3, 4]), 2).tolist()
        [0, 3, 1, 4]
    """
    classes = class_index[rows]
    counts = np.bincount(classes, minlength=num_classes)
    order = manifest.image_order(counts.tolist())
    by_class = rows[np.argsort(classes, kind="stable")]
    return by_class[(np.cumsum(counts) - counts)[order] + manifest.number_within_class(order)]


def take(listing: Listing, rows: np.ndarray) -> Listing:
    """Returns some images of a listing, with the files that these are in."""
    used, file = np.unique(listing.file[rows], return_inverse=True)
    columns = {n: getattr(listing, n)[rows] for n in ("class_index", "offset", "length", "is_val")}
    return dataclasses.replace(
        listing,
        files=tuple(listing.files[i] for i in used.tolist()),
        source_id=tuple(listing.source_id[i] for i in rows.tolist()),
        file=file.astype(np.int32),
        others=(),
        **columns,
    )


def _digest(listing: Listing, rows: np.ndarray) -> str:
    keys = "\0".join(key for key, _ in listing.classes)
    ids = "\0".join(listing.source_id[i] for i in rows.tolist())
    return hashlib.sha256(
        f"{keys}\n{ids}\n".encode() + listing.class_index[rows].astype("<i4").tobytes()
    ).hexdigest()


def _refer(name: str, made: MadeSet, listing: Listing, folder: pathlib.Path) -> dict[str, Any]:
    """Returns a manifest's own shards, which are used where they are; only its labels are written.

    Raises:
        DataError: its shards do not fit together, or its classes or its size are not those of the study.
    """
    directory = pathlib.Path(made.path).expanduser().absolute()
    there = ImageSet(directory, markers.read_markers(directory, len(listing.files)))
    if len(there) != len(listing):
        raise DataError(f"sets.{name}: the markers of {directory} count {len(there)} images, "
                        f"the shards hold {len(listing)}; make the set again.")  # fmt: skip
    at = 0
    for shard in there.shards:
        if not shard.count:
            continue
        header, label = there.header(at), int(listing.class_index[at])
        if header["class_index"] != label:
            raise DataError(
                f"sets.{name}: image {at} of {directory} has class {header['class_index']} for "
                f"{header['class_key']}, {label} in this study; a manifest is used as it is: export it, "
                "and name what was exported."
            )
        at += shard.count
    side = there.image(0).shape[:2]
    if side != (made.resolution, made.resolution):
        raise DataError(
            f"sets.{name}.resolution = {made.resolution}, but {directory} holds images of {side[1]} x "
            f"{side[0]} px; set sets.{name}.resolution={side[0]}."
        )
    write_labels(folder, listing.class_index)
    return {
        "images": len(listing),
        "shards": len(there.shards),
        "slots": there.shards[-1].end,
        "resolution": made.resolution,
        "sha256": markers.digest(there.shards),
        "directory": str(directory),
    }
