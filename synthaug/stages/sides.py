"""The two sets of a score, looked at before anything is encoded: most mistakes show here."""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
from typing import Any

import numpy as np

from synthaug.data.collection import Images, open_images
from synthaug.data.seen import ALPHA, ENLARGED, GREY, STRETCHED
from synthaug.data.sources.found import some_of
from synthaug.errors import DataError
from synthaug.experiment import fewest_images
from synthaug.metrics import reference as references
from synthaug.metrics.inception_score import num_splits
from synthaug.metrics.reference import Reference
from synthaug.metrics.rows import shuffled_order
from synthaug.rundir import RunDir
from synthaug.stages.encoders import Encoder
from synthaug.stages.encoding import View
from synthaug.stages.request import Request
from synthaug.stages.selection import read_selection

NAMED = 3
"""Names in a note."""

NOTICED = {
    "grey": (GREY, "grey repeated to 3 channels"),
    "alpha_dropped": (ALPHA, "an opaque alpha channel dropped"),
    "enlarged": (ENLARGED, "pixels made up to reach {side} px"),
    "stretched": (STRETCHED, "no square, and pulled out of shape by {filter}"),
}
"""What a result counts of a set's images: its name there, the flag, and words for a note."""

LOOKED_AT = 200
"""Images of a set that are decoded before anything is encoded, so that most mistakes show at once."""

NOT_READ = (
    ".avif", ".dng", ".exr", ".gif", ".heic", ".heif", ".hdr", ".j2k", ".jfif", ".jp2", ".jpe", ".jxl",
    ".npy", ".pbm", ".pgm", ".pnm", ".ppm", ".svg", ".tga", ".tif", ".tiff",
)  # fmt: skip
"""Endings of names of images that no source reads; files without them are not taken for images."""

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s", "protocol")
"""Arrays of an npz that make it a reference's statistics instead of a set of images."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two sets, looked at but not encoded."""

    path: str
    images: Images
    numbers: np.ndarray  # i64[n], those that count
    skipped: dict[str, str]  # name -> why it cannot be read
    side: int  # px
    view: View
    chosen: str = ""  # which of a run's images count, if not all

    @property
    def count(self) -> int:
        """Images that count."""
        return len(self.numbers)

    @property
    def codec(self) -> str:
        """How the images that count are coded."""
        return self.images.codec_of(self.numbers)

    @property
    def words(self) -> str:
        """What was done to those that were read, before any encoder; "" = nothing."""
        return self.view.words(self.images, self.numbers)

    def resize(self, encoder: Encoder) -> str:
        """Returns words for all that happens to the images until the network sees them."""
        own = encoder.resize(self.side)
        return f"{self.words}; {own}" if self.words else own

    def facts(self) -> dict[str, Any]:
        """Returns what a result says of the set, once all of it was read."""
        counts = {name: self.images.seen.count(flag, self.numbers) for name, (flag, _) in NOTICED.items()}
        return {
            "path": self.path,
            "source": self.images.source,
            "codec": self.codec,
            "n": self.count,
            "of": len(self.images),
            "chosen": self.chosen or "all",
            "resize": self.words or "none",
            "skipped": self.skipped,
            "not_images": len(self.images.others),
            "not_images_first": list(self.images.others[:NAMED]),
            **counts,
        }

    def notes(self) -> list[str]:
        """Returns what to know of the images, once all of them were read."""
        notes = [f"{self.path}: {self.chosen}"] if self.chosen else []
        left = [name for name in self.images.others if name.lower().endswith(NOT_READ)]
        if left:
            which = "1 file of a kind that is" if len(left) == 1 else f"{len(left)} files of kinds that are"
            notes.append(f"{self.path}: {which} not read, left out: {some_of(left, NAMED)}")
        for flag, what in NOTICED.values():
            if count := self.images.seen.count(flag, self.numbers):
                how = what.format(side=self.side, filter=self.view.filter)
                notes.append(f"{self.path}: {how} in {count} of {images_(self.count)}")
        return notes


def look_at(request: Request, path: str, what: str, num_images: int | None = None) -> Side:
    """Returns a set once it is listed and a few images of it are decoded.

    Args:
        request: what is asked for.
        path: of the set.
        what: the argument that names it.
        num_images: drawn from a larger set; None = all of them.

    Raises:
        DataError: there are no images, too few, or some that cannot be used.
    """
    images = open_images(path, what=what)
    view = View(request.side, request.resize, request.channels())
    numbers, chosen = of_study(path, images)
    skipped: dict[str, str] = {}
    if request.skip_corrupt:
        # How many there are decides which image counts where: it must be known before any is encoded.
        looked = view.batches(images, numbers, LOOKED_AT, skip_corrupt=True)
        numbers = np.concatenate([index for index, _ in looked])
        skipped = dict(looked.skipped)
    if num_images is not None:
        if num_images > len(numbers):
            raise DataError(
                f"{what} = {path!r}: has {images_(len(numbers))}{f' ({chosen})' if chosen else ''}; expected "
                f"{num_images} or more; lower --num-images."
            )
        numbers = np.sort(numbers[shuffled_order(len(numbers), request.seed)[:num_images]])
    if not request.skip_corrupt:
        some = np.unique(np.linspace(0, len(numbers) - 1, LOOKED_AT).astype(np.int64))
        looked = view.batches(images, numbers[some], LOOKED_AT)
        for _ in looked:
            pass
    return Side(path, images, numbers, skipped, looked.side, view, chosen)


def of_study(path: str, images: Images) -> tuple[np.ndarray, str]:
    """Returns the numbers i64[n] of the images that count, and words for which they are, "" = all.

    Of RUN:SET these are the ones that the run's study scores: of generated images the first copy, and what
    its filter chose where it ran; of sets made elsewhere as many as the real training set has. A folder means
    all that is in it.
    """
    numbers = np.arange(len(images))
    before, colon, name = path.rpartition(":")
    if pathlib.Path(path).name == "manifest.parquet":
        before, colon, name = str(pathlib.Path(path).parent), ":", "generated/"
    name = name.partition("/")[0]
    if images.source != "shards" or not colon or pathlib.Path(path).expanduser().is_dir():
        return numbers, ""
    run = RunDir(pathlib.Path(before).expanduser())
    rest = f"name the folder {images.path} for all"
    if name == "generated" and run.is_done("select", 0):
        numbers = read_selection(run).of(1)
        return numbers, f"{len(numbers)} of {images_(len(images))}, the filter's choice for one copy; {rest}"
    if name in ("train", "val") or not run.is_done("collect", 0):
        return numbers, ""
    size = int(run.result("collect")["num_train"])
    if size >= len(images):
        return numbers, ""
    return numbers[:size], f"the first {size} of {images_(len(images))}, one copy of the train split; {rest}"


def images_(count: int) -> str:
    """Returns a number of images in words."""
    return f"{count} image{'s' if count != 1 else ''}"


def read_statistics(path: str) -> tuple[Reference, bool] | None:
    """Returns the statistics in an npz file, and whether it has images, too; None for anything else.

    Raises:
        DataError: some of the arrays of a reference, but not those that it takes.
    """
    file = pathlib.Path(path).expanduser()
    if file.suffix != ".npz" or not file.is_file():
        return None
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            if not set(STATISTICS) & set(arrays.files):
                return None
            found = {name: arrays[name] for name in arrays.files if name in (*STATISTICS, "features")}
            images = "arr_0" in arrays.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"--reference = {path!r}: cannot be read ({error}); copy or make it again.") from None
    return references.reference_from_arrays(found, path), images


def check_counts(request: Request, scored: Side, real: int = 0, kept: int = 0) -> None:
    """Checks the numbers of images against what the metrics need, before anything is encoded.

    Args:
        request: what is asked for.
        scored: the set.
        real: images of the reference; 0 = not known.
        kept: images whose features a reference's file has, if they are fewer; 0 = none or not known.

    Raises:
        DataError: too few.
    """
    settings, most = request.settings, max(request.settings.sizes, default=0)
    if most > scored.count:
        raise DataError(
            f"sizes = {most}: IMAGES has {images_(scored.count)}; expected as many; lower --sizes."
        )
    if settings.max_images <= settings.neighbours:
        raise DataError(
            f"max_images = {settings.max_images}: expected more than {settings.neighbours}, the "
            "neighbours of precision and recall; raise --max-images or lower --neighbours."
        )
    for what, count in (("IMAGES", scored.count), ("--reference", real), ("features of --reference", kept)):
        if count and count <= settings.neighbours:
            raise DataError(
                f"{what}: {images_(count)}; expected more than {settings.neighbours}, the neighbours of "
                "precision and recall; name more images or lower --neighbours."
            )
    if settings.allow_small_n:
        return
    fewest = fewest_images(request.kind)
    smallest = {"IMAGES": scored.count, "--reference": real, "--sizes": min(settings.sizes, default=0)}
    for what, count in smallest.items():
        if count and count < fewest:
            raise DataError(
                f"{what}: {images_(count)}, for which a FID of Inception is mostly bias; expected "
                f"{fewest} or more, published values use 50000; name more, or --allow-small-n."
            )


def splits_of(request: Request, n: int) -> int:
    """Returns the number of splits for the Inception Score of n images; without logits there is no score.

    Raises:
        DataError: fewer images than splits.
    """
    splits = request.settings.splits
    if request.kind == "dinov2":
        return min(splits, n)
    if request.split_size is not None:
        return num_splits(n, request.split_size)
    if n < splits:
        raise DataError(
            f"IMAGES: {images_(n)} for {splits} splits of the Inception Score; expected one or more in each; "
            "name more images or lower --splits."
        )
    return splits


def check_fits(known: Reference, encoder: Encoder, scored: Side, path: str) -> None:
    """Checks that a reference's statistics are of the encoder, resize and image size in use.

    Images that were brought to a size fit others that had it from the start, not those of another filter.

    Raises:
        DataError: they are not.
    """
    features = known.gaussian.mean.size if known.features is None else known.features.shape[1]
    spatial = known.spatial.mean.size if known.spatial and encoder.num_spatial else 0
    pairs = {
        "encoder": (known.encoder, encoder.name),
        "weights": (known.encoder_hash, encoder.sha256),
        "features": (known.gaussian.mean.size, encoder.num_features),
        "features of single images": (features, encoder.num_features),
        "spatial features": (spatial, encoder.num_spatial),
    }
    if known.resize and not _alike(_view_of(known.resize, encoder, scored.side), scored.words):
        pairs["resizes"] = (known.resize, scored.resize(encoder))
    for name, (found, expected) in pairs.items():
        if found and found != expected:
            raise DataError(
                f"--reference = {path!r}: its {name} are {found}, those of this command {expected}; expected "
                "the same; make it anew with `synthaug reference` and these options, or change them."
            )


def as_scored(known: Reference, encoder: Encoder, scored: Side) -> tuple[Reference, list[str]]:
    """Returns a reference that fits as one of the set's own resize, and a note where they differ."""
    view = _view_of(known.resize, encoder, scored.side) if known.resize else scored.words
    if view == scored.words:
        return known, []
    mine, theirs = scored.words or "not at all", view or "not at all"
    note = f"resized before the encoder: IMAGES {mine}, the reference {theirs}"
    return dataclasses.replace(known, resize=scored.resize(encoder)), [note]


def _view_of(words: str, encoder: Encoder, side: int) -> str | None:
    """Returns the words for what was done before the encoder's resize; None: the encoder's own differs."""
    own = encoder.resize(side)
    if words == own:
        return ""
    return words.removesuffix(f"; {own}") if words.endswith(f"; {own}") else None


def _alike(one: str | None, other: str) -> bool:
    return one is not None and (one == other or not (one and other))
