"""filter: measures every generated image, flags the suspect ones, tops the classes up from the spare ones.

`run` is an array: it measures a range of shards, and real images for comparison. `choose` is one job behind
it that flags and selects. Nothing is deleted; classifiers read the images of the selection.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from synthaug.data.select import Flags, Judged, Selection, flag, join, read_judged, select, write_judged
from synthaug.data.shards import ImageSet, open_shard
from synthaug.errors import DataError
from synthaug.launch.parts import num_sample_shards
from synthaug.manifest import ClassTable
from synthaug.metrics.leakage import Nearest, duplicate_distance, nearest, own_probability
from synthaug.metrics.rows import shuffled_order
from synthaug.stages import sets
from synthaug.stages.arrays import write_arrays
from synthaug.stages.encoder import load_encoder
from synthaug.stages.features import real_rows
from synthaug.stages.job import Job
from synthaug.stages.pieces import in_blocks
from synthaug.stages.selection import selection_file

NUM_EXAMPLES = 16
"""Nearest pairs of a generated and a real image that the report may show."""

QUANTILES = (0.001, 0.01, 0.1, 0.5)


def run(job: Job) -> dict[str, Any]:
    """Measures the part's images: confidence, nearest real train image, nearest real validation image."""
    name = job.args["set"]
    judged = _judge_generated(job) if name == "generated" else _judge_real(job, name.removeprefix("real "))
    return {
        "set": name,
        "images": len(judged),
        "sha256": write_judged(job.directory / "judged.parquet", judged),
    }


def _judge_generated(job: Job) -> Judged:
    total = num_sample_shards(job.experiment, job.result("collect")["num_train"])
    first = job.args["shard"]
    mine = range(first, min(first + job.args["num_shards"], total))  # fewer if corrupt images were left out
    encoder = load_encoder(job.run, job.experiment)
    numbers, labels, features, logits = [np.empty(0, np.int64)], [np.empty(0, np.int32)], [], []
    for done, shard in enumerate(mine):
        images = _shard(job, shard)
        labels.append(images.labels)
        with job.clock.measure("step"):
            for batch in in_blocks(images, encoder.batch_size):
                encoded = encoder.encode(batch)
                features.append(encoded.features)
                if encoded.logits is not None:
                    logits.append(encoded.logits)
        numbers.append(images.shards[0].first + np.arange(len(images)))
        job.progress(done + 1, len(mine), "shards")
        job.check_stop()
    classes = np.concatenate(labels)
    confidence = np.ones(len(classes), np.float32)
    if job.experiment.filter.min_confidence and len(classes):
        confidence = own_probability(np.concatenate(logits), classes)
    table = np.concatenate(features) if features else np.empty((0, 1), np.float32)
    return _judged(job, np.concatenate(numbers), classes, confidence, table, None)


def _shard(job: Job, shard: int) -> ImageSet:
    directory = job.run.set_dir("generated", job.args["resolution"])
    images = open_shard(directory, shard)
    if images is None:
        raise DataError(
            f"{directory}: shard {shard} is not there; make it again with --stage sample --force."
        )
    return images


def _judge_real(job: Job, split: str) -> Judged:
    """Returns the same measures of real images: what is suspect about a generated one is rare among these."""
    features, sure = real_rows(job.run, job.experiment, split, job.args["resolution"])
    labels = sets.labels(job.run, split)
    order = shuffled_order(len(features), job.experiment.seed)
    probes = np.sort(order[: job.experiment.filter.num_probes])
    confidence = sure[probes] if len(sure) else np.ones(len(probes), np.float32)
    return _judged(job, probes, labels[probes], confidence, features[probes], split)


def _judged(
    job: Job,
    numbers: np.ndarray,
    classes: np.ndarray,
    confidence: np.ndarray,
    features: np.ndarray,
    own: str | None,
) -> Judged:
    """Returns the measures of images with the given features; `own` names the split they are from."""
    near = {}
    for split in ("train", "val"):
        if job.experiment.filter.duplicate_quantile and len(features):
            references, _ = real_rows(job.run, job.experiment, split, job.args["resolution"])
            with job.clock.measure("evaluate"):
                near[split] = nearest(features, references, own=numbers if own == split else None)
        else:
            near[split] = Nearest(np.full(len(numbers), -1), np.full(len(numbers), np.inf, np.float32))
        job.check_stop()
    return Judged(
        index=numbers,
        class_index=classes.astype(np.int32),
        confidence=confidence,
        train_index=near["train"].index,
        train_distance=near["train"].distance,
        val_index=near["val"].index,
        val_distance=near["val"].distance,
    )


def choose(job: Job) -> dict[str, Any]:
    """Writes flags.parquet, a row per generated image, and selection.npz, the images that a study uses."""
    settings, copies = job.experiment.filter, job.experiment.sample.copies
    measured: dict[str, list[Judged]] = {"generated": [], "real train": [], "real val": []}
    for part in range(job.args["parts"]):
        result = job.result("filter", part)
        file = job.run.part_dir("filter", part) / "judged.parquet"
        measured[result["set"]].append(read_judged(file, result["sha256"]))
    generated = join(measured["generated"])
    distance = -1.0
    if settings.duplicate_quantile:
        probes = measured["real train"][0].train_distance
        distance = duplicate_distance(probes, settings.duplicate_quantile)
    table = sets.class_table(job.run)
    counts = np.array([entry.train for entry in table.entries], np.int64)
    flags = flag(generated, settings.min_confidence, distance)
    selection = select(flags.any, generated.class_index, counts, copies)
    if not len(selection.index):
        raise DataError("filter: every generated image is flagged; lower the thresholds of filter.")
    notes = _shortage(table, generated.class_index, flags.any, selection)
    for note in notes:
        job.say(note)
    arrays = {"index": selection.index, "copy": selection.copy, "missing": selection.missing}
    return {
        "copies": np.bincount(selection.copy, minlength=copies).tolist(),
        "missing": {e.key: int(n) for e, n in zip(table.entries, selection.missing, strict=True) if n},
        "topped_up": int((selection.index >= copies * counts.sum()).sum()),
        "notes": notes,
        "distance": distance,
        "sets": {
            name: _summary(parts[0], flag(parts[0], settings.min_confidence, distance))
            for name, parts in {**measured, "generated": [generated]}.items()
            if parts
        },
        "examples": _examples(generated),
        "flags": write_judged(job.directory / "flags.parquet", generated, flags),
        "sha256": write_arrays(selection_file(job.run), arrays),
    }


def _summary(judged: Judged, flags: Flags) -> dict[str, Any]:
    """Returns how many images of a set have which flag, and how near they are to real ones."""
    near = judged.train_distance
    return {
        "images": len(judged),
        "flagged": int(flags.any.sum()),
        **{name: int(values.sum()) for name, values in vars(flags).items()},
        "train_distance": {
            f"{q:g}": float(np.quantile(near, q)) for q in QUANTILES if len(near) and np.isfinite(near).all()
        },
    }


def _examples(judged: Judged) -> list[dict[str, Any]]:
    """Returns the images nearest to a real train image, the nearest first; ties by number."""
    order = np.lexsort((judged.index, judged.train_distance))[:NUM_EXAMPLES]
    return [
        {
            "image": int(judged.index[row]),
            "train_image": int(judged.train_index[row]),
            "distance": float(judged.train_distance[row]),
        }
        for row in order
        if judged.train_index[row] >= 0
    ]


def _shortage(table: ClassTable, classes: np.ndarray, flagged: np.ndarray, selection: Selection) -> list[str]:
    """Returns a line about the classes that the spare images could not top up."""
    short = np.flatnonzero(selection.missing)
    if not len(short):
        return []
    of_class = np.bincount(classes, minlength=len(table.entries))
    free = np.bincount(classes[~flagged], minlength=len(table.entries))
    named = ", ".join(f"{table.entries[k].key} ({selection.missing[k]})" for k in short[:8])
    more = f" and {len(short) - 8} more" if len(short) > 8 else ""
    if free[short].min():
        needed = (of_class[short] / free[short]).max() - 1
        advice = f"filter.reserve of about {needed:.2f} would do"
    else:
        advice = "every image of a class is flagged: lower the thresholds of filter"
    return [
        f"{len(short)} classes stay short of {selection.missing.sum()} images, all others being flagged: "
        f"{named}{more}; going on with fewer; {advice}."
    ]
