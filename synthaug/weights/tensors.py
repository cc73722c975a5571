"""safetensors files: read tensor by tensor into host memory, written in shards. No pickles.

The format is eight bytes of length, a JSON table, and raw arrays. It is read here directly and not through
the safetensors package, because that maps the whole file into memory, where every page read counts beside
the parameters themselves; and because a damaged table must become one clear line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
import pathlib
import struct
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from synthaug import commit
from synthaug.errors import DataError

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
FLOATS = ("F64", "F32", "F16", "BF16")
_LONGEST_TABLE = 100_000_000  # bytes; the limit of the public readers
SHARD_BYTES = 5_000_000_000  # what diffusers and transformers split at, nearly
_OWN_PAGES = 1 << 18  # bytes from which an array has pages of its own
_BLOCK = 1 << 18  # numbers that are looked at at once
NO_LORA = "LoRA files are not supported: merge them into the model first, and name the merged model's folder"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: pathlib.Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Tensors:
    """The tensors of one model by name, over all its files; only tables are read before `read`."""

    def __init__(self, folder: pathlib.Path, stored: dict[str, Stored]) -> None:
        self.folder, self.stored = folder, stored

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor without reading it."""
        return self.stored[name].shape

    def dtype(self, name: str) -> str:
        """Returns the dtype of a tensor as the format calls it, e.g. "F16"."""
        return self.stored[name].dtype

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor as it is stored, in memory of its own.

        Raises:
            DataError: the file cannot be read to the end.
        """
        there = self.stored[name]
        array = allocate(there.shape, _DTYPES[there.dtype])
        try:
            with there.file.open("rb") as file:
                file.seek(there.offset)
                found = file.readinto(array.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise DataError(f"{there.file}: cannot be read ({error.strerror}); restore the file.") from None
        if found != there.nbytes:
            raise DataError(f"{there.file}: {name} is cut off; the file was changed while it was read.")
        return array


def is_finite(array: np.ndarray) -> bool:
    """Returns whether every number of a float array is one as f32, too: neither NaN nor infinite.

    Block by block and by the bits, because np.isfinite is slow for f16 and takes a quarter of f32's memory.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        if block.dtype == np.float64:
            with np.errstate(over="ignore"):
                block = block.astype(np.float32)
        bits = block.view(np.uint32 if block.dtype.itemsize == 4 else np.uint16)
        infinity = np.array(np.inf, block.dtype).view(bits.dtype)
        if ((bits & infinity) == infinity).any():
            return False
    return True


def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an array whose memory goes back to the system as soon as it is freed.

    malloc keeps what it got for blocks of some megabytes, and between the many arrays of a network that is a
    quarter on top. Pages are also aligned as jax wants them: on the CPU it takes such an array over as it is.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes < _OWN_PAGES:
        return np.empty(shape, dtype)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype).reshape(shape)


def open_tensors(folder: pathlib.Path, stem: str) -> Tensors:
    """Returns the tensors of `<stem>.safetensors` in a folder, of its shards, or of its fp16 variant.

    Args:
        folder: where the files are.
        stem: the name before ".safetensors", e.g. "diffusion_pytorch_model".

    Raises:
        DataError: there are none, a shard is missing, or a file is damaged.
    """
    folder = pathlib.Path(folder)
    for file in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / file).is_file():
            return Tensors(folder, _read_table(folder / file))
        for index in (f"{file}.index.json", f"{stem}.safetensors.index.fp16.json"):
            if (folder / index).is_file():
                return Tensors(folder, _read_index(folder / index))
    raise DataError(f"{folder}: has no {stem}.safetensors{_what_is_there(folder)}")


def _what_is_there(folder: pathlib.Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        return (
            f" but {pickles[0]}, a pickle, which is never loaded here; download the safetensors files of "
            "this model, or convert it where you trust it (diffusers: `from_pretrained(..., "
            "use_safetensors=False)`, then `save_pretrained`; ADM: `synthaug import adm FILE.pt CHECKPOINT`)."
        )
    safe = [name for name in names if name.endswith(".safetensors")]
    if safe and all("lora" in name.lower() for name in safe):
        return f" but {safe[0]}; {NO_LORA}."
    if safe:
        return f" but {', '.join(safe[:3])}; rename the file, or name the folder of the model."
    return "; name the folder that holds the model's config.json and safetensors files."


def _read_index(index: pathlib.Path) -> dict[str, Stored]:
    """Returns the tensors of all shards, of those the index names."""
    tree = _parse(index, _read_bytes(index, 0, None))
    places = tree.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()) or not places:
        raise DataError(f"{index}: has no weight_map of tensor names to files; restore the file.")
    tables: dict[str, dict[str, Stored]] = {}
    for shard in sorted(set(places.values())):
        if pathlib.PurePosixPath(shard).name != shard or shard in ("", ".."):
            raise DataError(f"{index}: names the shard {shard!r}, which is no file name; restore the file.")
        if not (index.parent / shard).is_file():
            wanted = len(set(places.values()))
            raise DataError(f"{index}: its shard {shard} (of {wanted}) is not there; download it.")
        tables[shard] = _read_table(index.parent / shard)
    for name, shard in places.items():
        if name not in tables[shard]:
            raise DataError(f"{index}: {name} should be in {shard} but is not; restore both files.")
    return {name: tables[shard][name] for name, shard in places.items()}


def _read_table(file: pathlib.Path) -> dict[str, Stored]:
    """Returns where each tensor of a file lies, after checking the table against the file's size."""
    size = file.stat().st_size
    if size < 8:
        raise DataError(f"{file}: has {size} bytes and no table; the download was cut off: fetch it again.")
    (length,) = struct.unpack("<Q", _read_bytes(file, 0, 8))
    if length > min(_LONGEST_TABLE, size - 8):
        raise DataError(
            f"{file}: its table should have {length:,} bytes and the file has {size:,}; it was cut off or is "
            "no safetensors file: fetch it again."
        )
    table = _parse(file, _read_bytes(file, 8, length))
    table.pop("__metadata__", None)
    stored = {name: _entry(file, name, entry, 8 + length) for name, entry in table.items()}
    at = 8 + length
    for name, there in sorted(stored.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if there.offset != at:
            raise DataError(
                f"{file}: {name} begins at byte {there.offset:,}, expected {at:,}; fetch it again."
            )
        at += there.nbytes
    if size > at:
        raise DataError(
            f"{file}: has {size:,} bytes, longer than the {at:,} of its table; something was appended: fetch "
            "it again."
        )
    if at != size:
        raise DataError(
            f"{file}: has {size:,} bytes, expected {at:,} by its table; it was cut off: fetch it again."
        )
    return stored


def _entry(file: pathlib.Path, name: str, entry: Any, start: int) -> Stored:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        known = dtype in _DTYPES
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        raise DataError(
            f"{file}: the entry of {name[:80]!r} in its table is damaged; fetch it again."
        ) from None
    if not known:
        raise DataError(
            f"{file}: {name} has dtype {str(dtype)[:20]!r}; expected one of {', '.join(_DTYPES)}."
        )
    if not whole or end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise DataError(
            f"{file}: {name[:80]} ({dtype}, shape {str(list(shape))[:80]}) does not fill the bytes it is "
            "given in the table; the file was altered: fetch it again."
        )
    return Stored(file, dtype, shape, start + begin, end - begin)


def _parse(file: pathlib.Path, data: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError(f"{file}: its table is no JSON text; the file is damaged: fetch it again.") from None
    if not isinstance(tree, dict):
        raise DataError(f"{file}: its table is no mapping; the file is damaged: fetch it again.")
    return tree


def _read_bytes(file: pathlib.Path, offset: int, length: int | None) -> bytes:
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(-1 if length is None else length)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); restore the file.") from None


# ------------------------------------------------------------------------------------------ writing


def write_tensors(
    folder: pathlib.Path,
    stem: str,
    items: Iterable[tuple[str, np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors as `<stem>.safetensors`, or in shards with an index as diffusers and transformers do.

    Args:
        folder: an existing folder without these files.
        stem: the name before ".safetensors".
        items: (name, array); arrays may be views, they are made contiguous one at a time.
        shard_bytes: a new shard begins where one would grow larger.

    Raises:
        RunError: a file cannot be written.
    """
    shards: list[list[tuple[str, np.ndarray]]] = [[]]
    filled = 0
    for name, array in items:
        if shards[-1] and filled + array.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, array))
        filled += array.nbytes
    if len(shards) == 1:
        _write_file(folder / f"{stem}.safetensors", shards[0])
        return
    places, total = {}, 0
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard)
        places.update(dict.fromkeys([name for name, _ in shard], file))
        total += sum(array.nbytes for _, array in shard)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    commit.write_new(folder / f"{stem}.safetensors.index.json", (json.dumps(index, indent=2) + "\n").encode())


def _write_file(path: pathlib.Path, items: list[tuple[str, np.ndarray]]) -> None:
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    # transformers refuses files that do not say which framework's layout they hold
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in items:
        table[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    try:
        with path.open("xb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, array in items:
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise commit.write_error(path, error) from None
