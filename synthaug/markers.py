"""The shards of a set of images and their markers.

A shard counts when its marker is there. Readers go by the markers and never look which data files exist.
An image that could not be read keeps its number: no file holds it, and its shard's marker names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

from synthaug import commit, config
from synthaug.errors import ConfigError, DataError, RunError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One committed file of images."""

    index: int
    first: int  # number of its first image, or of the place of one that was left out
    count: int  # images in the file
    file: str  # name, beside the marker
    bytes: int
    sha256: str  # of the file
    images_sha256: str  # of all u8 pixels in order; of untouched files, of their SHA-256s
    settings: str  # hash of what made the images
    weights: str  # hash of the network; empty for real images
    attempt: int
    licences: tuple[str, ...] = ()  # keys of what the images come under, see synthaug.licences
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)  # unreadable: source id -> reason

    @property
    def end(self) -> int:
        """Returns the number after its last image: left-out images keep their numbers."""
        return self.first + self.count + len(self.left_out)


def marker_path(directory: pathlib.Path, index: int) -> pathlib.Path:
    """Returns the path of a shard's marker; its data file has the suffix .arrayrecord."""
    return directory / f"shard-{index:05d}.json"


def write_marker(directory: pathlib.Path, shard: Shard) -> bool:
    """Writes the marker that makes a shard count; True if it is new.

    A marker of another attempt at the same bytes is left as it is.

    Raises:
        RunError: the shard is there with other content, or the marker cannot be written.
    """
    path = marker_path(directory, shard.index)
    if not path.exists():
        try:
            return commit.write_new(path, to_json(shard).encode())
        except RunError:
            if not path.exists():  # otherwise another attempt was faster: compare with it
                raise
    there = read_marker(path)
    if dataclasses.replace(there, attempt=shard.attempt) != shard:
        pixels = "equal" if there.images_sha256 == shard.images_sha256 else "different"
        raise RunError(
            f"{path}: two attempts differ ({pixels} pixels): sha256 {there.sha256} is there, {shard.sha256} "
            f"was made now; {'; '.join(config.compare(there, shard))}; delete the wrong shard."
        )
    return False


def read_marker(path: pathlib.Path) -> Shard:
    """Returns the shard that a marker stands for.

    Raises:
        DataError: the marker is missing, torn or altered.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the stage again.") from None
    return from_json(Shard, text, str(path))


def read_markers(directory: pathlib.Path, num_shards: int, num_images: int | None = None) -> list[Shard]:
    """Returns the shards of a set in order, once all of them are there and fit together.

    Args:
        directory: folder of the markers.
        num_shards: shards of the whole set; files of others are not looked at.
        num_images: images of the whole set, those left out included, if known.

    Raises:
        DataError: shards are missing, overlap, leave a hole, or come from different settings or weights.
    """
    paths = [marker_path(directory, i) for i in range(num_shards)]
    there = [read_marker(path) if path.exists() else None for path in paths]
    shards = [shard for shard in there if shard]
    if len(shards) < num_shards:
        missing = [i for i, shard in enumerate(there) if shard is None]
        raise DataError(
            f"{directory}: {len(missing)} of {num_shards} shards are missing: shards {ranges(missing)}; "
            f"images {_missing_images(there, num_images)}; run the stage again."
        )
    at = 0
    for i, shard in enumerate(shards):
        _check_place(paths[i], shard, i, at)
        for name in ("settings", "weights"):
            if getattr(shard, name) != getattr(shards[0], name):
                raise DataError(
                    f"{paths[i]}: {name} {getattr(shard, name)!r} differ from {getattr(shards[0], name)!r} "
                    "of shard 0; one set has one maker: delete the shards that are wrong."
                )
        at = shard.end
    if num_images is not None and at != num_images:
        raise DataError(f"{directory}: the shards hold {at} images; expected {num_images}; run it again.")
    return shards


def _check_place(path: pathlib.Path, shard: Shard, index: int, first: int) -> None:
    name = path.with_suffix(".arrayrecord").name
    if shard.index != index or shard.file != name or shard.end <= shard.first:
        raise DataError(
            f"{path}: is the marker of {shard.file!r}, shard {shard.index} with {shard.count} images; "
            f"expected {name!r}, shard {index}; the file was altered or renamed."
        )
    if shard.first != first:
        what = "overlaps the shard before it" if shard.first < first else "leaves a hole"
        lost = f": images {ranges(range(first, shard.first))} are missing" if shard.first > first else ""
        raise DataError(
            f"{path}: starts at image {shard.first}; expected {first}: it {what}{lost}; "
            "the set was written with two shard sizes: delete it and run the stage again."
        )


def _missing_images(there: list[Shard | None], num_images: int | None) -> str:
    """Returns the image numbers that no marker covers, as far as the neighbours tell."""
    holes, at = [], 0
    for shard in there:
        if shard is not None:
            if shard.first > at:
                holes.append(f"{at}-{shard.first - 1}")
            at = shard.end
    if there[-1] is None and num_images is None:
        holes.append(f"{at} and later")
    elif num_images is not None and at < num_images:
        holes.append(f"{at}-{num_images - 1}")
    return ", ".join(holes)


def ranges(numbers: Sequence[int]) -> str:
    """Returns ascending numbers as text, runs joined.

    Example:
        >>> ranges([0, 3, 4, 5, 9])
        '0, 3-5, 9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def digest(shards: Sequence[Shard]) -> str:
    """Returns the SHA-256 of a set: of the files of its shards, in order."""
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


# --------------------------------------------------------------------------------------------- JSON


def to_json(value: Any) -> str:
    """Returns a dataclass as JSON text; equal values give equal text."""
    return json.dumps(config.to_tree(value), indent=1, ensure_ascii=False) + "\n"


def from_json(cls: type[T], text: str, where: str) -> T:
    """Returns the dataclass in a JSON text; `where` names it in errors.

    Raises:
        DataError: the text is torn, or holds something else.
    """
    try:
        return config.build(cls, json.loads(text), where)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is torn or altered ({error}); delete it and run again.") from None
    except ConfigError as error:
        raise DataError(f"{error} The file was altered: delete it and run again.") from None
