"""A finished set in the layouts that others read: whole or not at all, with its licences and its origin.

An export is made in a hidden folder beside its place, counted with the readers of `sources`, and then gets
its name. Its card, synthaug.json, says what it was made of; by it the same command again finds it finished.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from synthaug import commit
from synthaug.data import layouts
from synthaug.data.card import Origin, card_of, card_path, readme
from synthaug.data.collection import open_images
from synthaug.data.shards import ImageSet
from synthaug.errors import DataError, RunError

__all__ = ["LAYOUTS", "Origin", "card_path", "export"]

LAYOUTS = tuple(layouts.LAYOUTS)

_MOST_PER_FILE = 10_000  # WebDataset's keys have four digits within a tar
_BEAT = 256  # images between two reports
_PER_IMAGE = 2048  # bytes that a tar and a file system add to an image


def export(
    source: ImageSet,
    out: pathlib.Path,
    layout: str,
    origin: Origin,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    per_file: int = _MOST_PER_FILE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes images of a set at `out` and returns the card; an export that is there already is only checked.

    Args:
        source: the set.
        out: a file for npz, else a folder; neither must be there, but as the same export.
        layout: one of LAYOUTS.
        origin: what the card says about the set.
        indices: places of the images in the set, in the order wanted; None = all. Ascending is fastest.
        per_file: images of a tar or TFRecord file.
        progress: called with (images done, images in all) every few images; what it raises is passed on.

    Returns:
        The card as JSON values; "made" says whether this call made it.

    Raises:
        DataError: there are no such images, or they do not fit the layout.
        RunError: something else is at `out`, it is being written, or it cannot be.
    """
    out = pathlib.Path(out).expanduser().absolute()
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    _check(source, out, layout, chosen, per_file)
    card = card_of(source, layout, origin, chosen, per_file)
    if out.exists() or out.is_symlink():
        return {**_finished(out, card), "made": False}
    _check_space(source, out, layout, chosen)
    with _partial(out) as folder:
        keys = [key for key, _ in origin.classes]
        counts = _write(source, keys, folder, layout, chosen, per_file, progress)
        made = folder / "images.npz" if layout == "npz" else folder
        _verify(made, layout, origin, counts)
        of_class = [counts.get(k, 0) for k in range(len(origin.classes))]
        card["classes"] = [
            {"index": k, "key": key, "name": name, "images": of_class[k]}
            for k, (key, name) in enumerate(origin.classes)
        ]
        _finish(folder, out, layout, card)
    return {**card, "made": True}


def _check(source: ImageSet, out: pathlib.Path, layout: str, chosen: np.ndarray, per_file: int) -> None:
    if layout not in layouts.LAYOUTS:
        raise DataError(f"export: layout {layout!r} is unknown; expected one of {', '.join(LAYOUTS)}.")
    if not 1 <= per_file <= _MOST_PER_FILE:
        raise DataError(f"export: {per_file} images per file; expected 1 to {_MOST_PER_FILE}.")
    if not len(chosen):
        raise DataError(f"export: no images of {source.directory} are chosen; expected at least one.")
    if chosen.min() < 0 or chosen.max() >= len(source):
        raise DataError(
            f"export: image {int(chosen.max())} is wanted, but {source.directory} has {len(source)}; "
            "expected numbers from 0 on below that: name fewer."
        )
    if len(np.unique(chosen)) < len(chosen):
        raise DataError("export: an image is chosen twice; expected every image once.")
    if layout == "npz" and out.suffix != ".npz":
        raise DataError(f"export: {out} for the layout npz; expected a name that ends in .npz.")


def _finished(out: pathlib.Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the card of the export that is there, if it is the one wanted and whole.

    Raises:
        RunError: something else is there.
    """
    path = card_path(out)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        files = dict(there["files"])
        identity = there["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{out}: is there and is no finished export of synthaug; name another place or remove it."
        ) from None
    if identity != card["identity"]:
        differing = [name for name in card if name not in ("identity", "folder", "made_by", "terms")]
        differing = [name for name in differing if there.get(name) != card[name]]
        raise RunError(
            f"{out}: is another export, it differs in {', '.join(differing)}; name another place or remove "
            "it."
        )
    folder = out if out.is_dir() else out.parent
    for name, size in files.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise RunError(f"{folder / name}: is missing or was altered; remove {out} and export again.")
    if len(open_images(str(out), what="OUT")) != card["images"]:
        raise RunError(f"{out}: does not have {card['images']} images; remove it and export again.")
    return there


def _check_space(source: ImageSet, out: pathlib.Path, layout: str, chosen: np.ndarray) -> None:
    needed = len(chosen) * (sum(shard.bytes for shard in source.shards) // len(source) + _PER_IMAGE)
    if layout == "npz":
        height, width, _ = source.image(int(chosen[0])).shape
        needed = len(chosen) * (height * width * 3 + 8)
    there = next(folder for folder in out.parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise RunError(
            f"{out}: needs about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there; free some "
            "space or name another place."
        )


@contextlib.contextmanager
def _partial(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty hidden folder beside `out`, locked while the block runs; it is removed if it is left.

    Raises:
        RunError: another process holds it, or it cannot be made.
    """
    folder = out.parent / f".{out.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise commit.write_error(out, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.stat(folder), os.fstat(handle)):
            raise FileNotFoundError  # its holder gave it its name between the two calls
    except OSError:
        os.close(handle)
        raise RunError(f"{out}: another process is writing it; wait for it, or stop it first.") from None
    try:
        for entry in folder.iterdir():  # of an attempt that was killed
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield folder
    except OSError as error:
        raise commit.write_error(out, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _write(
    source: ImageSet,
    keys: Sequence[str],
    folder: pathlib.Path,
    layout: str,
    chosen: np.ndarray,
    per_file: int,
    progress: Callable[[int, int], None],
) -> collections.Counter[int]:
    """Writes the files and returns the number of images by class index."""
    counts = collections.Counter[int]()

    def counted() -> Iterator[layouts.Row]:
        for row in layouts.rows_of(source.stored(chosen.tolist())):
            if row.place % _BEAT == 0:
                progress(row.place, len(chosen))
            _check_class(source, row.header, keys)
            counts[row.header["class_index"]] += 1
            yield row

    layouts.LAYOUTS[layout](counted(), folder, len(chosen), per_file)
    progress(len(chosen), len(chosen))
    return counts


def _check_class(source: ImageSet, header: Mapping[str, Any], keys: Sequence[str]) -> None:
    found, key = header["class_index"], header["class_key"]
    expected = keys[found] if 0 <= found < len(keys) else None
    if expected != key:
        raise DataError(
            f"{source.directory}: image {header['index']} is of class {found}, {key!r}; the class table has "
            f"{expected!r} there: the two do not belong together."
        )


def _verify(made: pathlib.Path, layout: str, origin: Origin, counts: Mapping[int, int]) -> None:
    """Counts the images of each class in what was written, as a reader sees them."""
    images = open_images(str(made), what="OUT")
    found = collections.Counter(images.label(i) for i in range(len(images)))
    if images.keys:
        name = layouts.safe_name if layout == "folder" else str
        place = {name(key): k for k, (key, _) in enumerate(origin.classes)}
        found = collections.Counter({place.get(images.keys[k or 0]): n for k, n in found.items()})
    if found != counts:
        raise RunError(
            f"{made}: has other images than were written, {found.total()} of {sum(counts.values())}; the "
            "disk or its file system is at fault (does it tell A from a?): name another place."
        )


def _finish(folder: pathlib.Path, out: pathlib.Path, layout: str, card: dict[str, Any]) -> None:
    """Gives the export its name, its card with it."""
    parts = [folder / "images.npz"] if layout == "npz" else sorted(folder.glob("*.tar"))
    parts = sorted(folder.glob("train-*")) if layout == "tfrecord" else parts
    card["files"] = {out.name if layout == "npz" else part.name: part.stat().st_size for part in parts}
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    if layout == "npz":
        commit.replace(card_path(out), text.encode())
        commit.adopt_new(parts[0], out, commit.sha256_file(parts[0]))
        return
    (folder / "synthaug.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
    os.sync()  # a name must not be there before what it names
    if out.exists():
        raise RunError(f"{out}: was made by another process meanwhile; remove one of the two.")
    os.rename(folder, out)
