"""What is known of every prepared image without looking at it: one small file beside each block of shards."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from synthaug import commit
from synthaug.data.images import FORMATS, shares
from synthaug.errors import DataError

_ARRAYS = {
    "class_index": np.int32,
    "sha256": np.uint8,
    "height": np.int32,
    "width": np.int32,
    "format": np.uint8,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """N readable images in the order of their set."""

    source: tuple[str, ...]  # N source ids
    class_index: np.ndarray  # i32[N]
    sha256: np.ndarray  # u8[N,32] of the source's bytes, or of its pixels where it holds no files
    height: np.ndarray  # i32[N], of the source, px
    width: np.ndarray  # i32[N]
    format: np.ndarray  # u8[N], 0 where the source holds pixels, else 1 + number in images.FORMATS

    def __len__(self) -> int:
        return len(self.class_index)


def codec(facts: Facts) -> str:
    """Returns how the source's files code their pixels: "raw", "png", "jpeg 90 %, png 10 %"."""
    counts = np.bincount(facts.format, minlength=len(FORMATS) + 1).tolist()
    return shares(dict(zip(["raw", *(name.lower() for name in FORMATS)], counts, strict=True)))


def facts_path(folder: pathlib.Path, block: int) -> pathlib.Path:
    """Returns the file of a block; `folder` is that of the set, with one folder per resolution."""
    return folder / "facts" / f"shard-{block:05d}.npz"


def write_facts(facts: Facts, path: pathlib.Path) -> bool:
    """Writes the facts of a block exactly once; True if they are new.

    Raises:
        RunError: other facts are there, or the file cannot be written.
    """
    arrays = {name: getattr(facts, name).astype(dtype) for name, dtype in _ARRAYS.items()}
    names = np.frombuffer("\0".join(facts.source).encode(), np.uint8)  # no file name holds a zero byte
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, source=names, **arrays)
    return commit.write_new(path, buffer.getvalue())


def read_facts(path: pathlib.Path) -> Facts:
    """Returns the facts in a file.

    Raises:
        DataError: the file is missing, torn, altered, or something else.
    """
    try:
        data = io.BytesIO(path.read_bytes())  # numpy leaves a torn file open
        with np.load(data, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            names = file["source"].tobytes().decode()
    except FileNotFoundError:
        raise DataError(f"{path}: is missing; run prepare again.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: was altered ({error}); delete it and run prepare again.") from None
    facts = Facts(tuple(names.split("\0")) if len(arrays["class_index"]) else (), **arrays)
    if len(facts.source) != len(facts):
        raise DataError(f"{path}: was altered (its columns differ in length); delete it and run again.")
    return facts


def join(parts: Sequence[Facts]) -> Facts:
    """Returns the facts of several blocks as one table."""
    source = tuple(name for part in parts for name in part.source)
    return Facts(source, **{n: np.concatenate([getattr(p, n) for p in parts]) for n in _ARRAYS})
