"""Measures how fast images are prepared against how fast the decoder alone is, on the same files and cores.

    python -m tests.benchmarks.prepare [IMAGES] [ROUNDS] [WORDS]

It makes JPEGs of 500 x 400 px with about the size of ImageNet's (110 kB), then, round after round, each
contender in turn: the decoders alone with a thread per core (file -> u8[H,W,3]), the same with filters, and
with what packs the pixels (all in memory), and whole prepare jobs of several shards from reading to what is
committed. Every job comes right after the decoder alone and its own work in memory, so that other work on
the machine falls on all three; with WORDS only jobs that have them all in their names run.

Prints one JSON object: of every contender the images per second (median over the rounds) and the CPU time of
an image; and, as ratios within each round (median over rounds, by wall time and by CPU time), the share of
what the decoder alone reaches (`share_of_decoder`), and of what decoder, filter and codec reach in memory
(`share_of_memory`): how much reading, hashing and writing exactly once cost. Where filter and codec take more
than a ninth of the decoder's time, the first cannot be 0.9. Other work disturbs the CPU time less.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from synthaug.data import blocks, images, pixels
from synthaug.data.prepare import prepare
from synthaug.data.recipe import recipe_of
from synthaug.data.resize import FILTERS
from synthaug.experiment import Data

HEIGHT, WIDTH, QUALITY = 400, 500, 94
DIFFERENT = 48  # images that are made; files beyond repeat them
SHARDS = 4  # of a job

Contender = Callable[[], Callable[[], None]]  # clears up what it wrote before; returns what the clock sees
Times = tuple[float, float]


def photo(seed: int) -> bytes:
    """A JPEG with waves of every length, as photos have, and the grain of a sensor."""
    rng = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for cells, amplitude in ((4, 40), (12, 25), (40, 14), (120, 9), (250, 8)):
        coarse = rng.normal(size=(cells, cells * WIDTH // HEIGHT, 3)).astype(np.float32)
        for c in range(3):
            wave = Image.fromarray(coarse[:, :, c]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            pixels[:, :, c] += amplitude * np.asarray(wave)
    pixels += 7 * rng.normal(size=(HEIGHT, WIDTH, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def make_files(root: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Writes `count` train images and as few validation images as there may be."""
    made, files = [photo(seed) for seed in range(DIFFERENT)], []
    for split, number in (("train", count), ("val", 2)):
        for i in range(number):
            path = root / split / "ab"[i % 2] / f"{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made[i % DIFFERENT])
            files += [path] if split == "train" else []
    return files


def on_every_core(work: Callable[[pathlib.Path], Any], files: list[pathlib.Path]) -> Contender:
    """Returns a contender that does `work` on every file with a thread per core, and writes nothing."""

    def some(paths: list[pathlib.Path]) -> None:
        for path in paths:
            work(path)

    def run() -> None:
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for done in [pool.submit(some, files[i : i + 4]) for i in range(0, len(files), 4)]:
                done.result()

    return lambda: run


def whole_job(
    root: pathlib.Path, count: int, out: pathlib.Path, sides: list[int], **changes: Any
) -> Contender:
    """Returns a contender that runs one prepare job; scan is done before."""
    settings = Data(
        source="folder",
        path=str(root / "train"),
        val_path=str(root / "val"),
        num_classes=2,
        num_train=count,
        num_val=2,
        shard_size=-(-count // SHARDS),
        shards_per_part=SHARDS,
        **changes,
    )
    scanned = blocks.scan(settings, {}, out)
    recipe = recipe_of("train", settings, {}, sides, scanned)

    def clear() -> Callable[[], None]:
        for view in (*recipe.views, "facts"):
            shutil.rmtree(out / "train" / view, ignore_errors=True)
        return run

    def run() -> None:
        result = prepare(settings, recipe, out, range(-(-count // settings.shard_size)))
        if result != {"images": count, "left_out": {}}:
            raise RuntimeError(f"prepared {result}")

    return clear


class Job(NamedTuple):
    """A prepare job, and what it is compared with."""

    decoder: str
    resize: str
    sides: list[int]
    original: bool

    @property
    def name(self) -> str:
        """How the report names it."""
        views = [f"{side} px" for side in self.sides] + ["original"] * self.original
        return f"prepare {', '.join(views)} ({self.decoder}, {self.resize if self.sides else 'no filter'})"


def jobs() -> list[Job]:
    """Returns all jobs that are measured."""
    area = [([], True), ([64], False), ([64], True), ([64, 256], False), ([64, 256], True)]
    found = [Job(decoder, "area", *views) for decoder in ("pillow", "tensorflow") for views in area]
    others = [name for name in FILTERS if name != "area"]
    return found + [Job("pillow", name, sides, False) for name in others for sides in ([64], [64, 256])]


def in_memory(job: Job) -> Callable[[pathlib.Path], Any]:
    """Returns what is done with a file: decoder, filter and codec."""

    def work(path: pathlib.Path) -> list[bytes]:
        image = images.decode(path.read_bytes(), 3, job.decoder)
        return [pixels.pack(FILTERS[job.resize](image, side)) for side in job.sides]

    return work


def contenders(
    root: pathlib.Path, files: list[pathlib.Path], wanted: list[str]
) -> tuple[dict[str, Contender], dict[str, tuple[str, str]]]:
    """Returns what runs, by name, and by job the names of its decoder alone and of its work in memory."""
    runs: dict[str, Contender] = {}
    compared: dict[str, tuple[str, str]] = {}
    for job in jobs():
        if not all(word in job.name for word in wanted):
            continue
        alone = f"{job.decoder} alone"
        memory = f"{job.decoder}, {job.resize} and codec {job.sides}" if job.sides else alone
        bare = Job(job.decoder, job.resize, [], False)
        runs[alone] = on_every_core(in_memory(bare), files)
        runs[memory] = on_every_core(in_memory(job), files)
        changes = {"decoder": job.decoder, "resize": job.resize, "keep_original": job.original}
        out = root / "out" / str(len(compared))
        runs[job.name] = whole_job(root, len(files), out, job.sides, **changes)
        compared[job.name] = alone, memory
    return runs, compared


def measure(
    runs: dict[str, Contender], compared: dict[str, tuple[str, str]], rounds: int
) -> tuple[dict[str, list[Times]], dict[str, list[tuple[Times, Times, Times]]]]:
    """Returns (wall, CPU) seconds of all that ran, and (job, alone, memory) of every job and round."""
    times: dict[str, list[Times]] = {name: [] for name in runs}
    rows: dict[str, list[tuple[Times, Times, Times]]] = {name: [] for name in compared}
    for turn in range(rounds + 1):  # the first, which imports and fills caches, does not count
        for name, (alone, memory) in compared.items():
            found = {}
            for one in dict.fromkeys((alone, memory, name)):
                run = runs[one]()
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                found[one] = time.perf_counter() - wall, time.process_time() - cpu
                times[one] += [found[one]] if turn else []
            rows[name] += [(found[name], found[alone], found[memory])] if turn else []
    return times, rows


def main() -> None:
    """Prints the JSON object."""
    count, rounds = (int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 512), (2, 5)))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        files = make_files(root, count)
        times, rows = measure(*contenders(root, files, sys.argv[3:]), rounds)
        size = statistics.mean(path.stat().st_size for path in files)
    report: dict[str, Any] = {
        "files": f"{count} JPEGs of {WIDTH} x {HEIGHT} px, {size / 1000:.0f} kB each",
        "cores": len(os.sched_getaffinity(0)),
        "rounds": rounds,
        "machine": platform.processor() or platform.machine(),
        "contenders": {},
    }
    for name, spent in times.items():
        report["contenders"][name] = {
            "images_per_second": round(count / statistics.median(wall for wall, _ in spent), 1),
            "cpu_ms_per_image": round(1000 * statistics.median(cpu for _, cpu in spent) / count, 3),
        }
    for name, found in rows.items():
        for key, other in (("share_of_decoder", 1), ("share_of_memory", 2)):
            for clock, k in (("wall", 0), ("cpu", 1)):
                share = statistics.median(row[other][k] / row[0][k] for row in found)
                report["contenders"][name][f"{key}_{clock}"] = round(share, 3)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
