"""Sets of images to measure: opened from any form that people have them in, read at random, never changed.

What becomes of unusual files: grey ones are C = 1, and repeated to three channels in batches of colour;
alpha is dropped if it is opaque, and refused else; 16 bits per channel are refused; palettes, CMYK and a
first frame become RGB by Pillow; an EXIF orientation is not applied, as when images are prepared.
JPEGs are decoded by Pillow with libjpeg's defaults, as by pytorch-fid, clean-fid and guided-diffusion.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from synthaug.data import images
from synthaug.data.batches import Batches, batches
from synthaug.data.listing import Listing
from synthaug.data.seen import ALPHA, Seen
from synthaug.data.shards import ImageSet
from synthaug.data.sources import shardset, unlabelled
from synthaug.data.sources.found import Found, some_of
from synthaug.data.sources.reader import Reader
from synthaug.errors import DataError

__all__ = ["Batches", "Images", "batches", "open_images", "open_shards"]

_LOOKED_AT = 1000  # images of a set whose first bytes tell its codec before all are read


class Images:
    """Images by number, unlabelled or not; thread safe. Nothing is decoded before it is asked for."""

    def __init__(self, kind: str, text: str, what: str, found: Found) -> None:
        self.source = kind  # shards, folder, files, zip, tar, npz, arrayrecord, ...
        self.path, self.what = text, what  # as the user wrote them, for errors
        self.names: Sequence[str] = found.source_id
        self.others: Sequence[str] = found.others  # files that are no images by their name
        self._found = found
        self._reader = Reader(_listing(kind, found))
        self._shards = shardset.Shards(tuple(found.files)) if kind == "shards" else None
        self.seen = Seen(len(found.source_id))

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> bytes | np.ndarray:
        """Returns the untouched file of image `index`, or u8[H,W,C] where the source holds pixels.

        Raises:
            DataError: it cannot be read.
        """
        if self._shards is not None:
            data = self._shards.read_source(self._found.file[index], self._found.offset[index])
        else:
            data = self._reader.read(index)
        self.seen.note_codec(index, data)
        return data

    def read(self, index: int) -> np.ndarray:
        """Returns image `index` as u8[H,W,C], C = 1 grey or 3 colour.

        Raises:
            images.Unclear: its pixels are not 8 opaque bits.
            DataError: it cannot be read or decoded.
        """
        data = self.encoded(index)
        pixels, alpha = (data, False) if isinstance(data, np.ndarray) else images.decode_opaque(data)
        self.seen.note(index, ALPHA if alpha else 0)
        return pixels

    def label(self, index: int) -> int | None:
        """Returns the class number of image `index`, None if it has none.

        Raises:
            DataError: there are labels that cannot be read.
        """
        return self._labels[0][index]

    @property
    def keys(self) -> tuple[str, ...]:
        """The class keys by label, none if the source has no labels or bare numbers."""
        return self._labels[1]

    @functools.cached_property
    def _labels(self) -> tuple[list[int | None], tuple[str, ...]]:
        return unlabelled.labels_of(self.source, self.path, self.what, self._found)

    def fingerprint(self) -> str:
        """Returns a hash of the names and places of the images, and of sizes and times of the files.

        No file is read: one whose size and time are as before is taken to be as before.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256("\n".join((self.source, *self.names)).encode())
        for column in (self._found.file, self._found.offset, self._found.length):
            digest.update(column)
        for file in self._found.files:
            try:
                about = os.stat(file)
            except OSError as error:
                raise DataError(f"{file}: cannot be read ({error.strerror}); restore it.") from None
            digest.update(f"{about.st_size} {about.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    @property
    def codec(self) -> str:
        """How the images are coded, by their first bytes, e.g. "png 90 %, jpeg 10 %"; "raw" are pixels.

        They are the shares of all images once `codec_coverage` is 1.
        """
        return self.codec_of(np.arange(len(self)))

    @property
    def codec_coverage(self) -> float:
        """Share of the images whose first bytes were looked at; `codec` looks at up to 1000."""
        return 1.0 - len(self.seen.not_looked_at(np.arange(len(self)))) / max(1, len(self))

    def codec_of(self, numbers: np.ndarray) -> str:
        """Returns the `codec` of the images i64[n] alone, of up to 1000 of them if not all were read."""
        if len(self.seen.not_looked_at(numbers)):
            spread = np.unique(np.linspace(0, len(numbers) - 1, _LOOKED_AT).astype(np.int64))
            for index in self.seen.not_looked_at(numbers[spread]).tolist():
                self._look_at(index)
        return self.seen.codec(numbers)

    def _look_at(self, index: int) -> None:
        try:
            self.encoded(index)
        except DataError:
            self.seen.note_codec(index, None)  # named by whoever reads the images


def open_images(path: str, *, what: str) -> Images:
    """Returns the images of a file, folder, pattern, archive, run or manifest.

    Args:
        path: see `synthaug.data.sources.unlabelled` for files; a set of a run is RUN:SET/RESOLUTION, e.g.
            runs/digits:generated/32, and RUN/manifest.parquet the generated set.
        what: the argument that names it, for errors.

    Raises:
        DataError: there are no images, or they cannot be listed.
    """
    text = _resolved(path, what)
    kind, found = unlabelled.find(text, what)
    return Images(kind, text, what, found)


def open_shards(path: str, *, what: str) -> ImageSet:
    """Returns a finished set of synthaug's own shards with its headers.

    Args:
        path: RUN:SET/RESOLUTION, RUN/manifest.parquet or the folder of the shards.
        what: the argument that names it, for errors.

    Raises:
        DataError: there is no such set, or it is not whole.
    """
    folder = pathlib.Path(_resolved(path, what)).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"{what} = {path!r}: is no set of synthaug's shards; expected RUN:generated/64.")
    return ImageSet(folder, shardset.committed(folder, what))


def _resolved(text: str, what: str) -> str:
    """Returns the path that a run's set stands for; any other text as it is."""
    path = pathlib.Path(text).expanduser()
    run, colon, name = text.rpartition(":")
    if text and path.is_dir() and (path / "experiment.yaml").is_file():
        raise DataError(f"{what} = {text!r}: is a run; expected one of its sets: {_sets_of(text, path)}.")
    if text and path.is_file() and path.name == "manifest.parquet" and (path.parent / "sets").is_dir():
        made = [name for name in _set_names(path.parent) if name.startswith("generated/")]
        if len(made) != 1:
            raise DataError(
                f"{what} = {text!r}: the run has its images at {len(made)} resolutions; expected one of "
                f"{_sets_of(str(path.parent), path.parent)}."
            )
        return str(path.parent / "sets" / made[0])
    if not colon or path.exists() or not (root := pathlib.Path(run).expanduser()).is_dir():
        return text
    folder = root / "sets" / name
    if not name.strip("/.") or not folder.is_dir():
        folder = _elsewhere(root, name)
    if not folder.is_dir():
        raise DataError(f"{what} = {text!r}: no such set; expected one of {_sets_of(run, root)}.")
    return str(folder)


def _elsewhere(run: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the folder of a set that the run uses where it is: made by another run."""
    file = run / "collect-0" / "done.json"
    try:
        return pathlib.Path(json.loads(file.read_text())["result"]["sets"][name]["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return run / "sets" / name / "missing"


def _set_names(run: pathlib.Path) -> list[str]:
    """Returns "set/resolution" of the sets in a run that have shards."""
    folders = sorted({marker.parent for marker in run.glob("sets/*/*/shard-00000.json")})
    return [f"{folder.parent.name}/{folder.name}" for folder in folders]


def _sets_of(text: str, run: pathlib.Path) -> str:
    return some_of([f"{text}:{name}" for name in _set_names(run)], 12) or "none: it has made no set yet"


def _listing(kind: str, found: Found) -> Listing:
    """Returns what the reader of sources needs; there are no classes."""
    rows = len(found.source_id)
    return Listing(
        source=kind,
        classes=(),
        files=tuple(found.files),
        source_id=(),
        class_index=np.full(rows, -1, np.int32),
        file=np.frombuffer(found.file, np.int32),
        offset=np.frombuffer(found.offset, np.int64),
        length=np.frombuffer(found.length, np.int64),
        is_val=np.zeros(rows, bool),
    )
