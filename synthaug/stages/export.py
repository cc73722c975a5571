"""export: a finished set of a run in a layout that others read, with its classes, licences and origin."""

from __future__ import annotations

import pathlib
import time

import numpy as np

from synthaug import __version__, licences
from synthaug.console import Watch
from synthaug.data.collection import open_shards
from synthaug.data.export import Origin, export
from synthaug.data.shards import ImageSet
from synthaug.errors import DataError, Interrupted
from synthaug.manifest import ClassTable
from synthaug.rundir import RunDir
from synthaug.site import Site
from synthaug.stages.encoding import stopping
from synthaug.stages.selection import read_selection


def export_images(path: str, out: pathlib.Path, layout: str, num_images: int | None, *, quiet: bool) -> str:
    """Writes images of a set at `out` and returns a sentence about it; a finished export is only checked.

    Where the run's filter chose among its generated images, these are exported, the first copy first.

    Args:
        path: RUN:SET/RESOLUTION, or a folder of shards.
        out: a file for npz, else a folder.
        layout: one of `synthaug.data.export.LAYOUTS`.
        num_images: the first so many; None = all.
        quiet: print no progress.

    Raises:
        SynthaugError: there is no such set, too few images, or `out` is taken or cannot be written.
    """
    source = open_shards(path, what="SET")
    chosen, filtered = _chosen(source, path, num_images)
    watch = Watch(1, 0, quiet=quiet, interval=Site().log_interval)
    started = time.monotonic()
    with stopping() as stop:

        def progress(done: int, total: int) -> None:
            watch.progress(path, done, total, "images")
            watch.tick()
            if (signal := stop.requested()) and done < total:
                raise Interrupted(
                    f"{out}: stopped by {signal} after {done} of {total} images; nothing is there yet: run "
                    "the same command again."
                )

        watch.begin(path)
        try:
            card = export(source, out, layout, _origin(source, path), indices=chosen, progress=progress)
            watch.finish(path, time.monotonic() - started, True)
        finally:
            watch.close()
    what = f"{card['images']} images" + (" that the filter chose" if filtered else "")
    return f"{out}: {what} as {layout}" + ("\n" if card["made"] else ", already there; nothing left to do\n")


def _run_of(source: ImageSet) -> RunDir | None:
    """Returns the run that a set lies in."""
    folder = source.directory.parents
    is_run = len(folder) > 2 and (folder[2] / "experiment.yaml").is_file()
    return RunDir(folder[2]) if is_run else None


def _chosen(source: ImageSet, path: str, num_images: int | None) -> tuple[np.ndarray, bool]:
    """Returns the places of the images that are exported, and whether a filter chose them."""
    run, chosen = _run_of(source), np.arange(len(source))
    filtered = bool(run and source.directory.parent.name == "generated" and run.is_done("select", 0))
    wanted = len(chosen) if num_images is None else num_images
    if run and filtered:
        selection = read_selection(run)
        copies = int(selection.copy.max(initial=0)) + 1
        enough = (c for c in range(1, copies) if len(selection.of(c)) >= wanted)
        chosen = selection.of(next(enough, copies))
        wanted = len(chosen) if num_images is None else num_images
    if not 1 <= wanted <= len(chosen):
        raise DataError(
            f"SET = {path!r}: has {len(chosen)} images; expected 1 or more and --num-images no larger."
        )
    return chosen[:wanted], filtered


def _origin(source: ImageSet, path: str) -> Origin:
    """Returns what the card says of a set."""
    run = _run_of(source)
    file = source.directory.parents[1] / "classes.json"
    if run and file.is_file():
        entries = ClassTable.from_json(file.read_text(encoding="utf-8"), str(file)).entries
        classes = [(entry.key, entry.name) for entry in entries]
    else:
        keys = {header["class_index"]: header["class_key"] for header in source.headers()}
        classes = [(keys.get(k, f"class {k}"), keys.get(k, "")) for k in range(max(keys, default=-1) + 1)]
    keys_of_terms = licences.binding(key for shard in source.shards for key in shard.licences)
    terms = [licences.sentence(key) for key in keys_of_terms]
    made_by = {"set": path, "synthaug": __version__}
    return Origin(classes=classes, terms=terms, made_by=made_by)
