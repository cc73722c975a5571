"""The files of exported sets: each layout as its own readers expect it, written in one pass.

| layout | files | label |
|---|---|---|
| npz | arr_0 u8[N,H,W,3], arr_1 i64[N], stored: the samples file of ADM's evaluator | arr_1, from 0 |
| folder | <class key>/<number>.png: ImageFolder | the folder |
| webdataset | 00000.tar of 000000000.png, .cls and .json | .cls, from 0 |
| tfrecord | train-00000-of-00005 with the features of Cloud TPU's ImageNet | image/class/label, from 1 |

Images keep their bytes but in npz. Equal sets give equal files with the same libraries.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import pathlib
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from synthaug import commit
from synthaug.data import images
from synthaug.data.ahead import in_order
from synthaug.data.batches import with_channels
from synthaug.errors import DataError

_UNSAFE = '/\\:*?"<>|%'
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
_BLOCK = 64  # images that are decoded ahead


class Row(NamedTuple):
    """One image of a set, with its place among those exported."""

    place: int
    header: dict[str, Any]
    data: bytes  # an image file

    @property
    def suffix(self) -> str:
        """Returns the suffix of the image file, by its content.

        Raises:
            DataError: it is none that we know.
        """
        kind = images.format_of(self.data)
        if kind not in _SUFFIXES:
            raise DataError(f"image {self.header['index']}: is no image file; the set was altered.")
        return _SUFFIXES[kind]


def safe_name(key: str) -> str:
    """Returns a class key as the name of a folder on any system; different keys give different names.

    Example:
        >>> safe_name("n01440764"), safe_name("a/b"), safe_name("..")
        ('n01440764', 'a%2Fb', '%2E%2E')
    """
    text = "".join(f"%{ord(c):02X}" if c in _UNSAFE or ord(c) < 32 or ord(c) == 127 else c for c in key)
    if text.startswith("."):
        text = "%2E" + text[1:]
    return text[:-1] + f"%{ord(text[-1]):02X}" if text.endswith((".", " ")) else text


def write_npz(rows: Iterable[Row], folder: pathlib.Path, count: int, per_file: int) -> None:
    """Writes folder/images.npz without holding the set in memory.

    Raises:
        DataError: the images differ in size.
    """
    decoded = in_order(_pixels, rows, ahead=_BLOCK)
    first = next(decoded)
    shape, labels = (count, *first[1].shape), np.empty(count, np.int64)
    with zipfile.ZipFile(folder / "images.npz", "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with _array(archive, "arr_0", shape, np.dtype(np.uint8)) as member:
            for place, (row, pixels) in enumerate(itertools.chain([first], decoded)):
                if pixels.shape != shape[1:]:
                    height, width, _ = pixels.shape
                    raise DataError(
                        f"image {row.header['index']}: is {width} x {height} px, the first {shape[2]} x "
                        f"{shape[1]}; an npz holds images of one size: export the set at one resolution."
                    )
                member.write(np.ascontiguousarray(pixels).data)
                labels[place] = row.header["class_index"]
        with _array(archive, "arr_1", labels.shape, labels.dtype) as member:
            member.write(labels.data)


def _pixels(row: Row) -> tuple[Row, np.ndarray]:
    return row._replace(data=b""), with_channels(images.decode_exact(row.data), 3)


@contextlib.contextmanager
def _array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[Any]:
    """Yields what the values of an array are written to, in C order."""
    # without a date of its own, so that equal sets give equal files
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def write_folder(rows: Iterable[Row], folder: pathlib.Path, count: int, per_file: int) -> None:
    """Writes folder/<class key>/<number>.png."""
    made = set[str]()
    for row in rows:
        name = safe_name(row.header["class_key"])
        if name not in made:
            (folder / name).mkdir()
            made.add(name)
        (folder / name / f"{row.header['index']:08d}.{row.suffix}").write_bytes(row.data)


def write_webdataset(rows: Iterable[Row], folder: pathlib.Path, count: int, per_file: int) -> None:
    """Writes folder/00000.tar and so on; the keys are five digits of the tar and four of the place in it."""
    for number, part in _parts(rows, per_file):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in part:
                key = f"{number:05d}{row.place % per_file:04d}"
                about = json.dumps({"key": key, **row.header}, sort_keys=True, ensure_ascii=False)
                members = ((row.suffix, row.data), ("cls", f"{row.header['class_index']}".encode()))
                for suffix, data in (*members, ("json", about.encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def write_tfrecord(rows: Iterable[Row], folder: pathlib.Path, count: int, per_file: int) -> None:
    """Writes folder/train-00000-of-00005 and so on."""
    tf = images.load_tensorflow()
    num_files = -(-count // per_file)
    for number, part in _parts(rows, per_file):
        path = folder / f"train-{number:05d}-of-{num_files:05d}"
        try:
            with tf.io.TFRecordWriter(str(path)) as writer:
                for row in part:
                    writer.write(_example(tf, row).SerializeToString(deterministic=True))
        except tf.errors.OpError as error:
            raise commit.write_error(path, error) from None


def _example(tf: Any, row: Row) -> Any:
    with Image.open(io.BytesIO(row.data)) as image:  # reads the header alone
        width, height, grey, kind = *image.size, image.mode in ("1", "L"), image.format
    values: dict[str, str | bytes | int] = {
        "image/height": height,
        "image/width": width,
        "image/colorspace": "Grayscale" if grey else "RGB",
        "image/channels": 1 if grey else 3,
        "image/class/label": row.header["class_index"] + 1,
        "image/class/synset": row.header["class_key"],
        "image/format": str(kind),
        "image/filename": f"{row.header['index']:08d}.{row.suffix}",
        "image/encoded": row.data,
        "image/json": json.dumps(row.header, sort_keys=True, ensure_ascii=False),
    }
    return tf.train.Example(
        features=tf.train.Features(feature={name: _feature(tf, value) for name, value in values.items()})
    )


def _feature(tf: Any, value: str | bytes | int) -> Any:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    data = value.encode() if isinstance(value, str) else value
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))


def _parts(rows: Iterable[Row], per_file: int) -> Iterator[tuple[int, Iterable[Row]]]:
    """Yields the number of a file and its rows, which are taken before the next file is asked for."""
    return itertools.groupby(rows, lambda row: row.place // per_file)


LAYOUTS: dict[str, Callable[[Iterable[Row], pathlib.Path, int, int], None]] = {
    "npz": write_npz,
    "folder": write_folder,
    "webdataset": write_webdataset,
    "tfrecord": write_tfrecord,
}
"""What writes each layout: (rows, folder, number of images, images per file)."""


def rows_of(stored: Iterable[tuple[dict[str, Any], bytes]]) -> Iterator[Row]:
    """Yields the rows of what `ImageSet.stored` returns."""
    for place, (header, data) in enumerate(stored):
        yield Row(place, header, data)
