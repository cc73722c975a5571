"""Measures how fast images are prepared against how fast the decoder alone is, on the same files and cores.

    python -m tests.benchmarks.prepare [IMAGES] [ROUNDS]

It makes JPEGs of 500 x 400 px with about the size of ImageNet's (110 kB), then, round after round, each
contender in turn: the decoders alone with a thread per core (file -> u8[H,W,3]), filters on top, and whole
prepare jobs from reading to committed shards. Prints one JSON object: of every contender the images per
second (median over the rounds), the CPU time of an image, and the share of what its decoder alone reaches:
the ratio within each round, median over rounds, by wall time and by CPU time. Other work on the machine
disturbs the CPU time less.
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
from typing import Any

import numpy as np
from PIL import Image

from synthaug.data import blocks, images
from synthaug.data.prepare import prepare, recipe_of
from synthaug.data.resize import FILTERS
from synthaug.experiment import Data

HEIGHT, WIDTH, QUALITY = 400, 500, 94
DIFFERENT = 48  # images that are made; files beyond repeat them

Contender = Callable[[], None]


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
    """Returns a contender that does `work` on every file with a thread per core."""

    def some(paths: list[pathlib.Path]) -> None:
        for path in paths:
            work(path)

    def run() -> None:
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for done in [pool.submit(some, files[i : i + 4]) for i in range(0, len(files), 4)]:
                done.result()

    return run


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
        shard_size=1 << 20,
        **changes,
    )
    scanned = blocks.scan(settings, {}, out)
    recipe = recipe_of("train", settings, {}, sides, scanned)

    def run() -> None:
        for view in (*recipe.views, "facts"):
            shutil.rmtree(out / "train" / view, ignore_errors=True)
        result = prepare(settings, recipe, out, range(1))
        if result != {"images": count, "left_out": {}}:
            raise RuntimeError(f"prepared {result}")

    return run


def contenders(root: pathlib.Path, files: list[pathlib.Path]) -> dict[str, tuple[str, Contender]]:
    """Returns {name: (the decoder alone it is compared with, what it does)}."""

    def decode(decoder: str) -> Callable[[pathlib.Path], Any]:
        return lambda path: images.decode(path.read_bytes(), 3, decoder)

    def filtered(name: str, side: int) -> Callable[[pathlib.Path], Any]:
        return lambda path: FILTERS[name](images.decode(path.read_bytes(), 3, "pillow"), side)

    found: dict[str, tuple[str, Contender]] = {}
    for decoder in ("pillow", "tensorflow"):
        found[f"{decoder} alone"] = (f"{decoder} alone", on_every_core(decode(decoder), files))
    for name in FILTERS:
        for side in (64, 256):
            work = on_every_core(filtered(name, side), files)
            found[f"pillow + {name} {side}"] = ("pillow alone", work)
    count = len(files)
    for decoder in ("pillow", "tensorflow"):
        for name in FILTERS if decoder == "pillow" else ["area"]:
            for label, sides, original in (
                ("original", [], True),
                ("64", [64], False),
                ("64 and original", [64], True),
                ("64 and 256", [64, 256], False),
                ("64, 256 and original", [64, 256], True),
            ):
                if name != "area" and label not in ("64", "64 and 256"):
                    continue  # the other views do not depend on the filter
                changes = {"decoder": decoder, "resize": name, "keep_original": original}
                key = f"prepare {label} ({decoder}, {name if sides else 'no filter'})"
                out = root / "out" / key.replace(" ", "-")
                found[key] = (f"{decoder} alone", whole_job(root, count, out, sides, **changes))
    return found


def main() -> None:
    """Prints the JSON object."""
    count, rounds = (int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 512), (2, 5)))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        files = make_files(root, count)
        runs = contenders(root, files)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for turn in range(rounds + 1):  # the first, which imports and fills caches, does not count
            for name, (_, run) in runs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                spent = time.perf_counter() - wall, time.process_time() - cpu
                times[name] += [spent] if turn else []
        size = statistics.mean(path.stat().st_size for path in files)
    report: dict[str, Any] = {
        "files": f"{count} JPEGs of {WIDTH} x {HEIGHT} px, {size / 1000:.0f} kB each",
        "cores": len(os.sched_getaffinity(0)),
        "rounds": rounds,
        "machine": platform.processor() or platform.machine(),
        "contenders": {},
    }
    for name, (alone, _) in runs.items():
        pairs = list(zip(times[alone], times[name], strict=True))
        report["contenders"][name] = {
            "images_per_second": round(count / statistics.median(wall for wall, _ in times[name]), 1),
            "cpu_ms_per_image": round(1000 * statistics.median(cpu for _, cpu in times[name]) / count, 3),
            "share_of_decoder_wall": round(statistics.median(a[0] / b[0] for a, b in pairs), 3),
            "share_of_decoder_cpu": round(statistics.median(a[1] / b[1] for a, b in pairs), 3),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
