"""All prepared blocks -> what a study knows of its images: classes, counts, hashes, labels, duplicates.

It reads markers and facts, never an image.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthaug import commit, config, manifest, markers
from synthaug.data.duplicates import duplicates
from synthaug.data.facts import Facts, codec, facts_path, join, read_facts
from synthaug.data.labels import write_labels
from synthaug.data.prepare import check_corrupt
from synthaug.data.recipe import ORIGINAL, Recipe
from synthaug.data.shards import open_set
from synthaug.errors import DataError
from synthaug.experiment import Data
from synthaug.manifest import ClassEntry, ClassTable
from synthaug.markers import Shard

_BELOW = 0.9
"""A class with fewer images than this share of the median is named."""


def collect(
    settings: Data, recipes: Mapping[str, Recipe], scanned: Mapping[str, Any], out: pathlib.Path
) -> dict[str, Any]:
    """Writes the class table and the labels of every set, and returns what all prepare jobs made.

    Args:
        settings: of the real images.
        recipes: of every set that was prepared, by name.
        scanned: what scan returned.
        out: folder of the sets.

    Returns:
        JSON values: "classes", the class table; "num_train" and "num_val", readable images; "sets", shards,
        readable images, slots (with those left out) and hash of each by "<set>/<view>"; "sha256" of all;
        "corrupt", {source id: reason}; "other_files"; "enlarged", real images smaller than a resolution;
        "balance" of each set over the classes; "duplicates"; "resize" and "decoder".

    Raises:
        DataError: shards or facts are missing or altered, too many images are unreadable, or a class has
            none that is readable.
        RunError: another table or other labels are there, or `out` cannot be written.
    """
    sets: dict[str, dict[str, Any]] = {}
    facts: dict[str, Facts] = {}
    corrupt: dict[str, str] = {}
    for name, recipe in recipes.items():
        shards = _shards(recipe, settings, scanned["sets"][name]["images"], out, sets)
        prefix = "" if name in ("train", "val") else f"{name}: "
        corrupt |= {prefix + source_id: why for shard in shards for source_id, why in shard.left_out.items()}
        facts[name] = _facts(out / name, shards)
    check_corrupt(corrupt, settings.max_corrupt)
    table = _class_table(scanned["classes"], facts["train"], facts["val"])
    for name, found in facts.items():
        if not len(found):
            raise DataError(f"data: no readable image in the set {name}; check its files.")
        write_labels(out / name, found.class_index)
    for name, known in scanned["sets"].items():
        if "directory" in known:
            sets[f"{name}/{known['resolution']}"] = {k: v for k, v in known.items() if k != "resolution"}
    commit.write_new(out / "classes.json", table.to_json().encode())
    return {
        "classes": config.to_tree(table.entries),
        "num_train": len(facts["train"]),
        "num_val": len(facts["val"]),
        "sets": sets,
        "sha256": _hash([s["sha256"] for s in sets.values()]),
        "corrupt": dict(sorted(corrupt.items())),
        "other_files": scanned["other_files"],
        "enlarged": _enlarged(recipes["train"], [facts["train"], facts["val"]]),
        "balance": {name: balance(table, found.class_index) for name, found in facts.items()},
        "duplicates": duplicates(facts["train"], facts["val"]),
        "codecs": {name: codec(found) for name, found in facts.items()},
        "resize": settings.resize,
        "decoder": settings.decoder,
    }


def balance(table: ClassTable, class_index: np.ndarray) -> dict[str, Any]:
    """Returns how evenly images lie over the classes: "min", "median", "max", and the small classes "below".

    Args:
        table: the classes.
        class_index: of every readable image, i32[N].
    """
    counts = np.bincount(class_index, minlength=len(table.entries)).tolist()
    median = float(np.median(counts))
    small = {e.key: n for e, n in zip(table.entries, counts, strict=True) if n < _BELOW * median}
    return {"min": min(counts), "median": median, "max": max(counts), "below": small}


def _shards(
    recipe: Recipe, settings: Data, num_images: int, out: pathlib.Path, sets: dict[str, dict[str, Any]]
) -> Sequence[Shard]:
    """Adds every view of a set to `sets` and returns the shards of one of them, all having left out the same.

    Raises:
        DataError: shards are missing or altered, or two views differ.
    """
    num_shards, first = manifest.num_blocks(num_images, settings.shard_size), tuple[Shard, ...]()
    for view in recipe.views:
        folder = out / recipe.name / view
        done = open_set(folder, num_shards, num_images=num_images)
        wanted = recipe.made_by(view)["settings"]
        if done.shards[0].settings != wanted:
            raise DataError(f"{folder}: made with settings {done.shards[0].settings}; expected {wanted}.")
        first = first or done.shards
        for shard, other in zip(done.shards, first, strict=True):
            if shard.left_out != other.left_out:
                raise DataError(
                    f"{folder}: shard {shard.index} left out other images than at {recipe.views[0]}; "
                    f"delete {out / recipe.name} and run prepare again."
                )
        sets[f"{recipe.name}/{view}"] = {
            "shards": num_shards,
            "images": len(done),
            "slots": num_images,
            "sha256": markers.digest(done.shards),
        }
    return first


def _facts(folder: pathlib.Path, shards: Sequence[Shard]) -> Facts:
    parts = []
    for shard in shards:
        path = facts_path(folder, shard.index)
        part = read_facts(path)
        if len(part) != shard.count:
            raise DataError(
                f"{path}: has {len(part)} images, the shard {shard.count}; delete it and run prepare again."
            )
        parts.append(part)
    return join(parts)


def _class_table(classes: Sequence[Sequence[str]], train: Facts, val: Facts) -> ClassTable:
    counts = [np.bincount(facts.class_index, minlength=len(classes)).tolist() for facts in (train, val)]
    for (key, _), images in zip(classes, counts[0], strict=True):
        if not images:
            raise DataError(f"data: class {key} has no readable train image; repair or remove its folder.")
    return ClassTable(tuple(ClassEntry(k, name, *n) for (k, name), *n in zip(classes, *counts, strict=True)))


def _enlarged(recipe: Recipe, parts: Sequence[Facts]) -> dict[str, int]:
    """Returns how many images are smaller than each resolution."""
    short = np.concatenate([np.minimum(facts.height, facts.width) for facts in parts])
    return {view: int((short < int(view)).sum()) for view in recipe.views if view != ORIGINAL}


def _hash(values: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
