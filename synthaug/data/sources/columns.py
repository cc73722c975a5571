"""Parquet in Hugging Face's layout: column `image` with the files' bytes, column `label`."""

from __future__ import annotations

import collections
import json
import pathlib
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthaug.data.listing import Listing
from synthaug.data.sources.found import Found, Labels, paths_of, short_names
from synthaug.errors import DataError

_CACHE = 512 << 20  # bytes of images kept that were read with another


def find(text: str, where: str) -> Found:
    """Returns the images of parquet files; their bytes are not read.

    Args:
        text: a file, a folder or a pattern.
        where: the knob, for errors.

    Raises:
        DataError: no files, no parquet, or other columns.
    """
    paths = paths_of(text, where, "parquet files such as train-*.parquet", r"\.parquet$")
    found, labels = Found(files=[str(path) for path in paths]), Labels(where)
    names: list[str] | None = None
    for file, (path, short) in enumerate(zip(paths, short_names(paths), strict=True)):
        column, images, names_here = _read_columns(path)
        if file and names_here != names:
            raise DataError(f"{path}: its class names differ from those of {paths[0].name}; write it anew.")
        names = names_here
        for row, (label, image) in enumerate(zip(column, images, strict=True)):
            source_id = f"{short}/{row:06d}" + (f"/{image.rpartition('/')[2]}" if image else "")
            if label is None or isinstance(label, float):
                raise DataError(f"{path}: row {row} has label {label}; expected a number or a class key.")
            found.add(source_id, file, row, 0, labels.number(label, source_id))
    labels.into(found)
    if found.keys is None and names:
        if len(set(names)) < len(names):
            double = sorted({name for name in names if names.count(name) > 1})
            raise DataError(f"{paths[0]}: two classes are called {double[0]!r}; set the class list instead.")
        found.keys, found.numbered = names, True
    return found


def _read_columns(path: pathlib.Path) -> tuple[list[Any], list[str | None], list[str] | None]:
    """Returns labels, file names and class names of one file."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            image = schema.field("image").type if "image" in schema.names else pa.null()
            fields = {field.name for field in image} if pa.types.is_struct(image) else set()
            binary = pa.types.is_binary(image) or pa.types.is_large_binary(image)
            if "label" not in schema.names or not (binary or "bytes" in fields):
                raise DataError(
                    f"{path}: has the columns {', '.join(schema.names)}; expected image (struct with bytes, "
                    "or binary) and label, as Hugging Face writes them."
                )
            table = file.read(["label", *(["image.path"] if "path" in fields else [])])
        rows: list[str | None] = [None] * table.num_rows
        if "path" in fields:
            rows = [row and row["path"] for row in table["image"].to_pylist()]
        return table["label"].to_pylist(), rows, _class_names(schema.metadata or {})
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(f"{path}: is no whole parquet file ({reason}); fetch it again.") from None


def _class_names(metadata: dict[bytes, bytes]) -> list[str] | None:
    """Returns the names of Hugging Face's ClassLabel, if the file has them."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(len(names))]
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if valid else None


class Columns:
    """Reads images of parquet files.

    A row costs its whole row group, about 100 images, and those of a listing lie far apart if it was
    shuffled or balanced. So of each group that is read, the other images of the listing are kept until
    they are asked for: a listing of one prepare job reads every group once.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._lock = threading.Lock()
        self._facts: dict[int, tuple[Any, np.ndarray]] = {}  # file -> its footer, first rows of its groups
        self._kept = collections.OrderedDict[tuple[int, int], bytes]()
        self._size = 0  # bytes in it

    def read(self, file: int, row: int, length: int = 0) -> bytes:
        """Returns the bytes in one row of a file."""
        with self._lock:
            data = self._take(file, row)
        if data is None:
            try:
                found = self._read_group(file, row)
            except (OSError, pa.ArrowException, IndexError) as error:
                reason = str(error).splitlines()[0][:200]
                raise DataError(f"{self._listing.files[file]}: row {row}: {reason}") from None
            data = found.pop(row, b"")
            self._keep(file, found)
        if not data:
            raise DataError("has no bytes, only the name of a file elsewhere")
        return data

    def _take(self, file: int, row: int) -> bytes | None:
        data = self._kept.pop((file, row), None)
        self._size -= len(data or b"")
        return data

    def _keep(self, file: int, found: dict[int, bytes]) -> None:
        with self._lock:
            for row, data in found.items():
                self._take(file, row)
                self._kept[file, row] = data
                self._size += len(data)
            while self._size > _CACHE:
                self._size -= len(self._kept.popitem(last=False)[1])

    def _read_group(self, file: int, row: int) -> dict[int, bytes]:
        """Returns {row: bytes} of the images of the listing that share a row group with one."""
        path, listing = self._listing.files[file], self._listing
        footer, firsts = self._footer(file)
        group = int(np.searchsorted(firsts, row, side="right")) - 1
        first, end = firsts[group : group + 2].tolist()
        wanted = listing.offset[(listing.file == file) & (listing.offset >= first) & (listing.offset < end)]
        with pq.ParquetFile(path, metadata=footer) as source:
            # this is one of many threads
            column = source.read_row_group(group, ["image"], use_threads=False)["image"]
        values = {other: column[other - first].as_py() for other in wanted.tolist()}
        return {n: (v.get("bytes") if isinstance(v, dict) else v) or b"" for n, v in values.items()}

    def _footer(self, file: int) -> tuple[Any, np.ndarray]:
        if file not in self._facts:
            footer = pq.read_metadata(self._listing.files[file])
            rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
            self._facts[file] = footer, np.cumsum([0, *rows])
        return self._facts[file]
