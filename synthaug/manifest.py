"""What a set of images consists of: its classes, the plan of every image, and the markers of its shards.

A shard counts when its marker is there. Readers go by the markers and never look which data files exist.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from synthaug import commit, config
from synthaug.errors import ConfigError, DataError, RunError

T = TypeVar("T")

# ------------------------------------------------------------------------------------------ classes


@dataclasses.dataclass(frozen=True)
class ClassEntry:
    """One class. Its identity is the key (folder name or WNID): two classes may share a name."""

    key: str
    name: str
    train: int  # images in the train split
    val: int  # images in the validation split


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """All classes; the place in `entries` is the class index."""

    entries: tuple[ClassEntry, ...]

    def __post_init__(self) -> None:
        keys = [entry.key for entry in self.entries]
        double = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
        if double:
            raise DataError(f"class table: {', '.join(double)} stands twice; keys must be unique.")

    def index_of(self, key: str) -> int:
        """Returns the class index of a key.

        Raises:
            DataError: no class has this key.
        """
        keys = [entry.key for entry in self.entries]
        if key not in keys:
            raise DataError(f"class table: no class {key!r}{config.did_you_mean(key, keys)}")
        return keys.index(key)

    def to_json(self) -> str:
        """Returns the table as JSON text; equal tables give equal text."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str, where: str = "class table") -> ClassTable:
        """Returns the table in a JSON text; `where` names it in errors.

        Raises:
            DataError: the text is torn, or holds something else.
        """
        return _from_json(cls, text, where)


# ------------------------------------------------------------------------------------ order of images


def image_order(counts: Sequence[int]) -> np.ndarray:
    """Returns the class of each image of one copy, i64[N], such that every prefix is balanced.

    Of the first m images, class k has between m counts[k] / N - 1 and m counts[k] / N + 1, both excluded,
    for every m and any counts. The j-th image of class k must lie in the window of places
    (floor(j N / counts[k]), ceil((j + 1) N / counts[k])]; the earliest deadline goes first, ties by class
    (Baruah et al. 1996, "Proportionate progress", for one resource). Sorting by (j + 0.5) / counts[k] is
    simpler but lets a long tail of rare classes meet in one place.

    Args:
        counts: images per class.

    Example:
        >>> image_order([2, 2, 2]).tolist(), image_order([4, 1, 1]).tolist()
        ([0, 1, 2, 0, 1, 2], [0, 0, 1, 0, 0, 2])
    """
    count = np.asarray(counts, np.int64)
    total, num_classes = int(count.sum()), len(count)
    classes = np.repeat(np.arange(num_classes), count)
    number = np.arange(total) - np.repeat(np.cumsum(count) - count, count)  # j, within the class
    release = number * total // count[classes]
    deadline = -(-(number + 1) * total // count[classes])
    by_release = np.lexsort((classes, release))
    urgency = (deadline * num_classes + classes)[by_release].tolist()  # one integer: deadline, then class
    released = np.searchsorted(release[by_release], np.arange(total), side="right").tolist()
    order, ready, pushed = np.empty(total, np.int64), list[int](), 0
    for place in range(total):
        for job in urgency[pushed : released[place]]:
            heapq.heappush(ready, job)
        pushed = released[place]
        order[place] = heapq.heappop(ready) % num_classes
    return order


def number_within_class(classes: np.ndarray) -> np.ndarray:
    """Returns how many images of the same class come before each image, i64[N].

    Example:
        >>> number_within_class(np.array([1, 0, 1, 1])).tolist()
        [0, 0, 1, 2]
    """
    by_class = np.argsort(classes, kind="stable")
    ordered = classes[by_class]
    number = np.empty(len(classes), np.int64)
    number[by_class] = np.arange(len(classes)) - np.searchsorted(ordered, ordered, side="left")
    return number


# --------------------------------------------------------------------------------- plan of all images


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePlan:
    """Class, prompt, copy and shard of every image to generate; image i is row i of M = copies * N."""

    keys: tuple[str, ...]  # class keys, by class index
    prompts: tuple[tuple[str, ...], ...]  # prompts of each class
    copies: int
    shard_size: int
    class_index: np.ndarray  # i32[M]
    prompt_index: np.ndarray  # i32[M], into prompts[class_index]
    copy: np.ndarray  # i32[M]
    shard: np.ndarray  # i32[M]
    licences: tuple[str, ...] = ()  # keys of what the images come under, see synthaug.licences

    def __len__(self) -> int:
        return len(self.class_index)

    @property
    def num_shards(self) -> int:
        """Returns the number of shards."""
        return -(-len(self) // self.shard_size)

    def range_of(self, shard: int) -> range:
        """Returns the image numbers of a shard; the last shard may be shorter."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, len(self)))

    def prompt_of(self, index: int) -> str:
        """Returns the prompt of an image."""
        return self.prompts[self.class_index[index]][self.prompt_index[index]]


def plan_images(table: ClassTable, prompts: dict[str, list[str]], copies: int, shard_size: int) -> ImagePlan:
    """Returns the plan of a synthetic set with `copies` images per train image, class by class.

    Image i of copy c has number c * N + i, so fewer copies are a prefix of more. Several prompts of a
    class take turns by the image's number within its class, counted on over the copies.

    Args:
        table: the classes with their numbers of train images.
        prompts: {class key: prompts}, for every class.
        copies: generated images per train image.
        shard_size: images per shard, the unit of commit.

    Raises:
        DataError: a class has no prompt.
    """
    for entry in table.entries:
        if not prompts.get(entry.key):
            raise DataError(f"image plan: class {entry.key} has no prompt; name it in prompts.names.")
    header = {
        "keys": [entry.key for entry in table.entries],
        "prompts": [prompts[entry.key] for entry in table.entries],
        "copies": copies,
        "shard_size": shard_size,
    }
    return _plan(header, np.tile(image_order([entry.train for entry in table.entries]), copies))


def _plan(header: dict[str, Any], classes: np.ndarray) -> ImagePlan:
    index = np.arange(len(classes))
    num_prompts = np.array([len(texts) for texts in header["prompts"]])
    return ImagePlan(
        keys=tuple(header["keys"]),
        prompts=tuple(map(tuple, header["prompts"])),
        copies=header["copies"],
        shard_size=header["shard_size"],
        class_index=classes.astype(np.int32),
        prompt_index=(number_within_class(classes) % num_prompts[classes]).astype(np.int32),
        copy=(index // max(len(classes) // header["copies"], 1)).astype(np.int32),
        shard=(index // header["shard_size"]).astype(np.int32),
        licences=tuple(header.get("licences", ())),
    )


def write_plan(plan: ImagePlan, path: pathlib.Path) -> bool:
    """Writes the plan as parquet: index, class_key, class_index, prompt, copy, shard; True if it is new.

    Equal plans give equal bytes with the same pyarrow; with another one the rows are compared.

    Raises:
        RunError: another plan is there, or the file cannot be written.
    """
    if path.exists():
        if not _same_plan(read_plan(path), plan):
            raise RunError(f"{path}: holds another plan; choose another run name or delete the run.")
        return False
    return commit.write_new(path, _to_parquet(plan))


def _to_parquet(plan: ImagePlan) -> bytes:
    import pyarrow as pa  # slow to import, and a login node mostly does without
    import pyarrow.parquet as pq

    texts = [text for by_class in plan.prompts for text in by_class]
    offset = np.cumsum([0, *(len(by_class) for by_class in plan.prompts)])[plan.class_index]
    columns = {
        "index": pa.array(np.arange(len(plan))),
        "class_key": pa.DictionaryArray.from_arrays(plan.class_index, pa.array(plan.keys, pa.string())),
        "class_index": pa.array(plan.class_index),
        "prompt": pa.DictionaryArray.from_arrays(offset + plan.prompt_index, pa.array(texts, pa.string())),
        "copy": pa.array(plan.copy),
        "shard": pa.array(plan.shard),
    }
    fields = ("keys", "prompts", "copies", "shard_size", *(("licences",) if plan.licences else ()))
    header = json.dumps({name: getattr(plan, name) for name in fields}, sort_keys=True)
    table = pa.table(columns, metadata={"synthaug": header})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_plan(path: pathlib.Path) -> ImagePlan:
    """Returns the plan in a file.

    Raises:
        DataError: the file is missing, torn, altered, or no plan.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        with file:
            header = json.loads((file.schema_arrow.metadata or {})[b"synthaug"])
            classes = file.read(["class_index"])["class_index"].to_numpy()
        return _plan(header, classes)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image plan; run the stage that writes it.") from None
    except (OSError, pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: is no image plan ({reason}); delete it and run again.") from None


def _same_plan(a: ImagePlan, b: ImagePlan) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name))
        if isinstance(getattr(a, f.name), np.ndarray)
        else getattr(a, f.name) == getattr(b, f.name)
        for f in dataclasses.fields(ImagePlan)
    )


# ------------------------------------------------------------------------------------ shards and markers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One committed file of images."""

    index: int
    first: int  # number of its first image
    count: int
    file: str  # name, beside the marker
    bytes: int
    sha256: str  # of the file
    images_sha256: str  # of all u8 pixels in order
    settings: str  # hash of what made the images
    weights: str  # hash of the network; empty for real images
    attempt: int
    licences: tuple[str, ...] = ()  # keys of what the images come under, see synthaug.licences


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
            return commit.write_new(path, _to_json(shard).encode())
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
    return _from_json(Shard, text, str(path))


def read_markers(directory: pathlib.Path, num_shards: int, num_images: int | None = None) -> list[Shard]:
    """Returns the shards of a set in order, once all of them are there and fit together.

    Args:
        directory: folder of the markers.
        num_shards: shards of the whole set; files of others are not looked at.
        num_images: images of the whole set, if known.

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
        at += shard.count
    if num_images is not None and at != num_images:
        raise DataError(f"{directory}: the shards hold {at} images; expected {num_images}; run it again.")
    return shards


def _check_place(path: pathlib.Path, shard: Shard, index: int, first: int) -> None:
    name = path.with_suffix(".arrayrecord").name
    if shard.index != index or shard.file != name or shard.count < 1:
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
            at = shard.first + shard.count
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


def _to_json(value: Any) -> str:
    return json.dumps(config.to_tree(value), indent=1, ensure_ascii=False) + "\n"


def _from_json(cls: type[T], text: str, where: str) -> T:
    try:
        return config.build(cls, json.loads(text), where)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is torn or altered ({error}); delete it and run again.") from None
    except ConfigError as error:
        raise DataError(f"{error} The file was altered: delete it and run again.") from None
