"""The card of an exported set: what it was made of, its classes, and what its licences allow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthaug import markers
from synthaug.data.shards import ImageSet

_VERSION = 1  # of the layouts; stands in the identity
_LOADING = {
    "npz": "`numpy.load(FILE)`: arr_0 are the images, arr_1 the class numbers from 0.",
    "folder": "`torchvision.datasets.ImageFolder(FOLDER)`: folders are class keys.",
    "webdataset": '`webdataset.WebDataset("FOLDER/{00000..%05d}.tar")`: .cls is the class number from 0.',
    "tfrecord": "`tf.data.TFRecordDataset`: image/encoded; image/class/label is the class number from 1.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What the caller knows of a set, for its card."""

    classes: Sequence[tuple[str, str]]  # (key, name) by class index
    terms: Sequence[str] = ()  # a sentence on each licence, see synthaug.licences
    made_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # JSON values: run, version


def card_path(out: pathlib.Path) -> pathlib.Path:
    """Returns where the card of an export is: in its folder, beside an npz."""
    return out / "synthaug.json" if out.is_dir() else out.with_name(f"{out.name}.json")


def card_of(
    source: ImageSet, layout: str, origin: Origin, chosen: np.ndarray, per_file: int
) -> dict[str, Any]:
    """Returns what is known of an export before it is made; `identity` is what makes two of them the same."""
    whole = len(chosen) == len(source) and bool((chosen == np.arange(len(source))).all())
    about = {
        "layout": layout,
        "version": _VERSION,
        "images": len(chosen),
        "per_file": per_file if layout in ("webdataset", "tfrecord") else None,
        "selection": None if whole else hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest(),
        "source": {
            "sha256": markers.digest(source.shards),
            "settings": source.shards[0].settings,
            "weights": source.shards[0].weights,
            "images": len(source),
        },
        "licences": sorted({key for shard in source.shards for key in shard.licences}),
    }
    identity = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    more = {"folder": str(source.directory), "made_by": dict(origin.made_by), "terms": list(origin.terms)}
    return {**about, **more, "identity": identity}


def readme(card: Mapping[str, Any]) -> str:
    """Returns the card as Markdown."""
    source, layout = card["source"], card["layout"]
    loading = _LOADING[layout]
    if layout == "webdataset":
        loading %= len(card["files"]) - 1
    empty = [entry["key"] for entry in card["classes"] if not entry["images"]]
    lines = [
        f"# {card['images']:,} images of {len(card['classes'])} classes, exported by synthaug",
        "",
        f"Loading: {loading}",
        "",
        "## Licence",
        "",
        *(card["terms"] or ["No licence of other weights applies."]),
        "",
        "## Origin",
        "",
        f"- {'all' if card['selection'] is None else 'a selection of'} {source['images']:,} images of a set "
        f"with SHA-256 `{source['sha256']}`",
        f"- settings `{source['settings']}`, weights `{source['weights'] or 'none: real images'}`",
        *(f"- {name}: {value}" for name, value in sorted(card["made_by"].items())),
        "- every class with its number and its images, and the licences by key, are in `synthaug.json`",
    ]
    if empty:
        some = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        lines += [
            "",
            f"**{len(empty)} classes have no image here** ({some}): a reader that numbers the folders it "
            "finds gives other numbers than `synthaug.json`.",
        ]
    return "\n".join(lines) + "\n"
