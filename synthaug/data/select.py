"""Which generated images a study uses: flags per image, and per class the first images without one.

Nothing is deleted and nothing replaced on the disk: a selection is a list of image numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib

import numpy as np

from synthaug import commit
from synthaug.errors import DataError
from synthaug.manifest import number_within_class


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What was measured about N images of a set; a row of real images has no class, confidence 1."""

    index: np.ndarray  # i64[N], number of the image in its set
    class_index: np.ndarray  # i32[N]
    confidence: np.ndarray  # f32[N], probability of its own class
    train_index: np.ndarray  # i64[N], the nearest real train image
    train_distance: np.ndarray  # f32[N]
    val_index: np.ndarray  # i64[N], the nearest real validation image
    val_distance: np.ndarray  # f32[N]

    def __len__(self) -> int:
        return len(self.index)


@dataclasses.dataclass(frozen=True, eq=False)
class Flags:
    """Why images are left out, each bool[N]."""

    low_confidence: np.ndarray
    near_train: np.ndarray
    near_val: np.ndarray

    @property
    def any(self) -> np.ndarray:
        """Whether an image has a flag, bool[N]."""
        return self.low_confidence | self.near_train | self.near_val


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Images of a generated set, copy after copy, within a copy by number."""

    index: np.ndarray  # i64[M]
    copy: np.ndarray  # i32[M], ascending
    missing: np.ndarray  # i64[K], images that each class has too few of, in all copies

    def of(self, copies: int) -> np.ndarray:
        """Returns i64[m] ascending, the images of the first copies: fewer lie inside more."""
        return np.sort(self.index[self.copy < copies])


def flag(judged: Judged, min_confidence: float, distance: float) -> Flags:
    """Returns the flags of images.

    Args:
        judged: what was measured.
        min_confidence: images with less are flagged; 0 = none.
        distance: images as near as this to a real one, or nearer, are flagged; negative = none.
    """
    return Flags(
        low_confidence=judged.confidence < min_confidence,
        near_train=judged.train_distance <= distance,
        near_val=judged.val_distance <= distance,
    )


def select(flagged: np.ndarray, classes: np.ndarray, counts: np.ndarray, copies: int) -> Selection:
    """Returns per class the first images without a flag, as many as the copies have.

    A flagged image is thus replaced by the next one of its class, in the end by a spare one. A class with too
    few is short in its last copies.

    Args:
        flagged: bool[N], by image number.
        classes: i32[N].
        counts: i64[K], images per class in one copy.
        copies: copies of the set.

    Example:
        >>> flagged, classes = np.array([True, False, False, False]), np.array([0, 1, 0, 1])
        >>> chosen = select(flagged, classes, counts=np.array([1, 1]), copies=1)
        >>> chosen.index.tolist()
        [1, 2]
    """
    free = np.flatnonzero(~flagged)
    copy = number_within_class(classes[free]) // np.maximum(counts[classes[free]], 1)
    copy = np.where(counts[classes[free]] > 0, copy, copies)
    index, copy = free[copy < copies], copy[copy < copies]
    missing = counts * copies - np.bincount(classes[index], minlength=len(counts))
    order = np.lexsort((index, copy))
    return Selection(index[order], copy[order].astype(np.int32), missing)


def write_judged(path: pathlib.Path, judged: Judged, flags: Flags | None = None) -> str:
    """Writes a row per image as parquet, for people and for `read_judged`; returns its SHA-256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {**vars(judged), **(vars(flags) if flags else {})}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", write_page_checksum=True)
    commit.replace(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_judged(path: pathlib.Path, sha256: str) -> Judged:
    """Returns what `write_judged` wrote.

    Raises:
        DataError: the file is missing or is not what was written.
    """
    import pyarrow.parquet as pq

    commit.check_result(path, sha256)
    names = [field.name for field in dataclasses.fields(Judged)]
    table = pq.read_table(path, columns=names)
    return Judged(**{name: table[name].to_numpy() for name in names})


def join(parts: list[Judged]) -> Judged:
    """Returns the images of all parts, by number.

    Raises:
        DataError: an image is missing or stands twice.
    """
    names = [field.name for field in dataclasses.fields(Judged)]
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    order = np.argsort(whole["index"], kind="stable")
    if not np.array_equal(whole["index"][order], np.arange(len(order))):
        raise DataError(
            f"filter: the parts hold {len(order)} images, but not numbers 0 to {len(order) - 1} once each; "
            "redo it with --stage filter --force."
        )
    return Judged(**{name: column[order] for name, column in whole.items()})
