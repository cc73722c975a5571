"""Where each image of a source is: the table that scan writes once and every prepare job reads.

Reading an image needs nothing but a row of it: a file, and the place inside the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib

import numpy as np

from synthaug import commit
from synthaug.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """N images of one source in source order; nothing is decoded yet.

    Where an image is depends on the format: `offset` and `length` are bytes of a file that is stored as it
    is (a tar's member, a tar inside a tar, a TFRecord), else the number of the row or record (parquet, npz,
    digits, an ArrayRecord shard), with length 0; a whole file has offset 0 and length -1.
    """

    source: str  # one of experiment.SOURCES
    classes: tuple[tuple[str, str], ...]  # (key, name), by class index
    files: tuple[str, ...]  # absolute paths
    source_id: tuple[str, ...]  # N names without the folder's path, e.g. "n01440764/a.JPEG"; all different
    class_index: np.ndarray  # i32[N]
    file: np.ndarray  # i32[N], into `files`
    offset: np.ndarray  # i64[N]
    length: np.ndarray  # i64[N]
    is_val: np.ndarray  # bool[N]
    others: tuple[str, ...] = ()  # files that are no images by their name

    def __len__(self) -> int:
        return len(self.class_index)

    def write(self, path: pathlib.Path) -> str:
        """Writes the listing as parquet, whole or not at all, and returns the SHA-256 of the file.

        Equal listings give equal bytes with the same pyarrow. An older listing there is replaced.

        Raises:
            RunError: the file cannot be written.
        """
        data = _to_parquet(self)
        commit.replace(path, data)
        return hashlib.sha256(data).hexdigest()


def read_listing(path: pathlib.Path) -> Listing:
    """Returns the listing in a file.

    Raises:
        DataError: the file is missing, torn, altered, or no listing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(
            path, read_dictionary=["path"], page_checksum_verification=True, use_threads=False
        )
        header = json.loads((table.schema.metadata or {})[b"synthaug"])
        paths = table["path"].unify_dictionaries().combine_chunks()
        paths = paths.chunk(0) if isinstance(paths, pa.ChunkedArray) else paths
        files, file = _by_first_use(paths.dictionary.to_pylist(), paths.indices.to_numpy())
        return Listing(
            source=header["source"],
            classes=tuple((key, name) for key, name in header["classes"]),
            files=files,
            source_id=tuple(table["source_id"].to_pylist()),
            file=file,
            **{name: table[name].to_numpy() for name in ("class_index", "offset", "length", "is_val")},
            others=tuple(header["others"]),
        )
    except FileNotFoundError:
        raise DataError(f"{path}: no such listing; run the stage scan.") from None
    except (OSError, pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: is no listing ({reason}); delete it and run scan again.") from None


def _to_parquet(listing: Listing) -> bytes:
    import pyarrow as pa  # slow to import
    import pyarrow.parquet as pq

    columns = {
        "source_id": pa.array(listing.source_id, pa.string()),
        "path": pa.DictionaryArray.from_arrays(listing.file, pa.array(listing.files, pa.string())),
        "class_index": pa.array(listing.class_index, pa.int32()),
        "offset": pa.array(listing.offset, pa.int64()),
        "length": pa.array(listing.length, pa.int64()),
        "is_val": pa.array(listing.is_val, pa.bool_()),
    }
    header = {"source": listing.source, "classes": listing.classes, "others": listing.others}
    table = pa.table(columns, metadata={"synthaug": json.dumps(header, ensure_ascii=False)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _by_first_use(files: list[str], index: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the files in the order of their first row, and the index into them, i32[N]."""
    used, first = np.unique(index, return_index=True)
    used = used[np.argsort(first)]
    place = np.zeros(len(files), np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    return tuple(files[i] for i in used), place[index]
