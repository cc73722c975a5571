"""What a set of images consists of: its classes, their order, and the plan of every image to make."""

from __future__ import annotations

import dataclasses
import heapq
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from synthaug import commit, config
from synthaug.errors import DataError, RunError
from synthaug.markers import (
    Shard,
    digest,
    from_json,
    marker_path,
    ranges,
    read_marker,
    read_markers,
    to_json,
    write_marker,
)

__all__ = [
    "ClassEntry",
    "ClassTable",
    "ImagePlan",
    "Shard",
    "digest",
    "image_order",
    "marker_path",
    "num_blocks",
    "number_within_class",
    "plan_images",
    "ranges",
    "read_marker",
    "read_markers",
    "read_plan",
    "write_marker",
    "write_plan",
]

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
        return to_json(self)

    @classmethod
    def from_json(cls, text: str, where: str = "class table") -> ClassTable:
        """Returns the table in a JSON text; `where` names it in errors.

        Raises:
            DataError: the text is torn, or holds something else.
        """
        return from_json(cls, text, where)


# ------------------------------------------------------------------------------------ order of images


def num_blocks(num_images: int, shard_size: int) -> int:
    """Returns the number of blocks, each a shard at every resolution, that hold `num_images`."""
    return -(-num_images // shard_size)


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
    """Class, prompt, copy and shard of every image to generate; image i is row i of copies * N + spare."""

    keys: tuple[str, ...]  # class keys, by class index
    prompts: tuple[tuple[str, ...], ...]  # prompts of each class
    copies: int
    shard_size: int
    class_index: np.ndarray  # i32[M]
    prompt_index: np.ndarray  # i32[M], into prompts[class_index]
    copy: np.ndarray  # i32[M]
    shard: np.ndarray  # i32[M]
    licences: tuple[str, ...] = ()  # keys of what the images come under, see synthaug.licences
    spare: int = 0  # the last images, which no copy needs: they replace images that the filter flags

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


def plan_images(
    table: ClassTable, prompts: dict[str, list[str]], copies: int, shard_size: int, spare: int = 0
) -> ImagePlan:
    """Returns the plan of a synthetic set with `copies` images per train image, class by class.

    Image i of copy c has number c * N + i, so fewer copies are a prefix of more. Several prompts of a
    class take turns by the image's number within its class, counted on over the copies.

    Args:
        table: the classes with their numbers of train images.
        prompts: {class key: prompts}, for every class.
        copies: generated images per train image.
        shard_size: images per shard, the unit of commit.
        spare: images beyond the copies, class by class as in these; they do not change the others.

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
        "spare": spare,
    }
    order = image_order([entry.train for entry in table.entries])
    return _plan(header, np.concatenate([np.tile(order, copies), np.resize(order, spare)]))


def _plan(header: dict[str, Any], classes: np.ndarray) -> ImagePlan:
    index = np.arange(len(classes))
    num_prompts = np.array([len(texts) for texts in header["prompts"]])
    spare = header.get("spare", 0)
    return ImagePlan(
        keys=tuple(header["keys"]),
        prompts=tuple(map(tuple, header["prompts"])),
        copies=header["copies"],
        shard_size=header["shard_size"],
        class_index=classes.astype(np.int32),
        prompt_index=(number_within_class(classes) % num_prompts[classes]).astype(np.int32),
        copy=(index // max((len(classes) - spare) // header["copies"], 1)).astype(np.int32),
        shard=(index // header["shard_size"]).astype(np.int32),
        licences=tuple(header.get("licences", ())),
        spare=spare,
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
    more = [name for name in ("licences", "spare") if getattr(plan, name)]
    fields = ("keys", "prompts", "copies", "shard_size", *more)
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
