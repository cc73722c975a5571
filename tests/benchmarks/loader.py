"""Measures the loader against tf.data and a torch DataLoader: JPEG 500x400 -> 224 px, random box, flipped.

    python -m tests.benchmarks.loader [--rounds N] [--batches N] [--only ours-tensorflow,tf.data,...]

The same 400 JPEGs (smooth noise, quality 90, as large as ImageNet's on average) on the same cores, batches of
64, bicubic. Every contender is a process of its own; they take turns, round by round, so that the machine's
other work falls on all of them. Ours reads them from ArrayRecord shards, the others from files, all from the
page cache. "tf.data" does a little less than ours: its batches stay floats, neither clipped nor rounded;
"tf.data-u8" makes the u8 that ours and torch's are. A round first makes batches that do not count, until what
was made ahead is used up.

Prints one JSON object: images/s (median of the rounds), per core, and CPU milliseconds per image (children
included), and as `ratio` ours over each other contender (median of the paired rounds): above 1 we are faster.
Needs the extra `peers`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent
FILES, HEIGHT, WIDTH, SIZE, BATCH = 400, 400, 500, 224, 64
AHEAD = 8  # batches before the clock starts: more than any contender keeps
CONTENDERS = ("ours-tensorflow", "ours-pillow", "tf.data", "tf.data-u8", "torch")


def photo(seed: int) -> bytes:
    """Returns a JPEG of smooth noise with some grain."""
    from PIL import Image

    draw = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 120.0)
    for side, strength in ((4, 60), (16, 35), (64, 22), (200, 12)):
        noise = draw.normal(size=(side, side, 3)) * 0.3 + draw.normal(size=(side, side, 1)) * 0.7
        planes = [Image.fromarray(noise[:, :, c].astype(np.float32)) for c in range(3)]
        large = [np.asarray(plane.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) for plane in planes]
        pixels += strength * np.stack(large, axis=-1)
    pixels += draw.normal(size=(HEIGHT, WIDTH, 1)) * 9
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write(folder: pathlib.Path) -> int:
    """Writes the files, and a set of shards that holds them; returns their bytes."""
    from synthaug.data import record
    from synthaug.data.writing import ShardWriter

    (folder / "files").mkdir()
    total, per_shard = 0, 100
    for shard in range(FILES // per_shard):
        with ShardWriter(folder / "set", shard, settings="", weights="", attempt=0) as writer:
            for i in range(shard * per_shard, (shard + 1) * per_shard):
                data = photo(i)
                total += len(data)
                (folder / "files" / f"{i:04}.jpg").write_bytes(data)
                facts = {"class_key": "a", "class_index": 0, "format": "JPEG", "channels": 3}
                writer.add(record.pack_file(writer.header(i, facts), data), data)
            writer.commit(shard * per_shard)
    return total


# ------------------------------------------------------------------------------------- the contenders


def ours(folder: pathlib.Path, decoder: str) -> Iterator[Any]:
    """Yields batches of our loader."""
    from synthaug.data.loader import Loader, Piece
    from synthaug.data.shards import open_set
    from synthaug.experiment import Augment, View

    piece = Piece(open_set(folder / "set", FILES // 100), np.zeros(FILES, np.int32))
    view = View(size=SIZE, crop="random_resized", original=True)
    return Loader([piece], view, Augment(flip=True), batch_size=BATCH, seed=0, decoder=decoder).iterate(0)


def tf_data(folder: pathlib.Path, as_u8: bool) -> Iterator[Any]:
    """Yields batches of tf.data, as in Cloud TPU's ResNet; the boxes are of our distribution."""
    import tensorflow as tf

    from synthaug.data.crops import random_box

    def load(path: Any, box: Any) -> Any:
        image = tf.image.decode_and_crop_jpeg(tf.io.read_file(path), box, channels=3)
        image = tf.image.resize(image, [SIZE, SIZE], method="bicubic")
        if as_u8:
            image = tf.saturate_cast(tf.round(image), tf.uint8)
        return tf.image.random_flip_left_right(image)

    paths = [str(path) for path in sorted((folder / "files").iterdir())] * 25
    draw = np.random.default_rng(0)
    boxes = [random_box(HEIGHT, WIDTH, 0.08, draw.random(40)) for _ in paths]
    dataset = (
        tf.data.Dataset.from_tensor_slices((paths, np.array(boxes, np.int32))).shuffle(len(paths)).repeat()
    )
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
    return dataset.as_numpy_iterator()


def torch_loader(folder: pathlib.Path) -> Iterator[Any]:
    """Yields batches of a DataLoader whose workers, one per core, decode with Pillow."""
    import torch
    from PIL import Image

    from synthaug.data.crops import random_box

    class Folder(torch.utils.data.Dataset):
        paths = sorted((folder / "files").iterdir())

        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, index: int) -> torch.Tensor:
            draw = np.random.default_rng(index)
            with Image.open(self.paths[draw.integers(FILES)]) as image:
                box = random_box(image.height, image.width, 0.08, draw.random(40))
                corners = (box.left, box.top, box.left + box.width, box.top + box.height)
                part = image.convert("RGB").crop(corners).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            if draw.random() < 0.5:
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(part))

    workers = len(os.sched_getaffinity(0))
    return iter(torch.utils.data.DataLoader(Folder(), BATCH, num_workers=workers, persistent_workers=True))


def cpu_seconds() -> float:
    """Returns the CPU time of this process and its living children."""
    own = os.times()
    total, tick = own.user + own.system, os.sysconf("SC_CLK_TCK")
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / tick if int(fields[1]) == os.getpid() else 0
    return total


def serve(name: str, folder: pathlib.Path, batches: int) -> None:
    """Answers every line on standard input with the seconds that a round took."""
    makers: dict[str, Callable[[], Iterator[Any]]] = {
        "ours-tensorflow": lambda: ours(folder, "tensorflow"),
        "ours-pillow": lambda: ours(folder, "pillow"),
        "tf.data": lambda: tf_data(folder, False),
        "tf.data-u8": lambda: tf_data(folder, True),
        "torch": lambda: torch_loader(folder),
    }
    stream = makers[name]()
    next(stream)
    for _ in sys.stdin:
        for _ in range(AHEAD):
            next(stream)
        wall, cpu = time.perf_counter(), cpu_seconds()
        for _ in range(batches):
            next(stream)
        print(json.dumps([time.perf_counter() - wall, cpu_seconds() - cpu]), flush=True)
    os._exit(0)  # no waiting for threads that make batches ahead


def measure(names: list[str], rounds: int, batches: int) -> dict[str, Any]:
    """Returns the result of all contenders."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        size = write(pathlib.Path(name))
        processes = {}
        for contender in names:
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.loader",
                "--serve",
                contender,
                "--folder",
                name,
            ]
            command += ["--batches", str(batches)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )  # fmt: skip
            processes[contender] = stack.enter_context(process)
        times = {contender: list[list[float]]() for contender in names}
        for turn in range(rounds + 1):
            for contender, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                if turn:  # the first round compiles and starts workers
                    times[contender].append(answer)
        for process in processes.values():
            process.stdin.close()
    return summary(times, batches * BATCH, size)


def summary(times: dict[str, list[list[float]]], images: int, size: int) -> dict[str, Any]:
    """Returns medians and ratios of (seconds, CPU seconds) by contender and round."""
    cores = len(os.sched_getaffinity(0))
    speed = {name: statistics.median(images / wall for wall, _ in rounds) for name, rounds in times.items()}
    result: dict[str, Any] = {"cores": cores, "rounds": len(next(iter(times.values()))), "images": images}
    result["mean_file_kB"] = round(size / FILES / 1000, 1)
    result["images_per_s"] = {name: round(value) for name, value in speed.items()}
    result["images_per_s_per_core"] = {name: round(value / cores) for name, value in speed.items()}
    result["cpu_ms_per_image"] = {
        name: round(statistics.median(cpu / images * 1e3 for _, cpu in rounds), 3)
        for name, rounds in times.items()
    }
    result["ratio"] = {
        f"{mine} / {other}": round(
            statistics.median(b[0] / a[0] for a, b in zip(times[mine], times[other], strict=True)), 3
        )
        for mine in times
        if mine.startswith("ours")
        for other in times
        if not other.startswith("ours")
    }
    return result


def main() -> None:
    """Measures, or serves as a contender."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--serve", choices=CONTENDERS)
    parser.add_argument("--folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.folder, args.batches)
    else:
        print(json.dumps(measure(args.only.split(","), args.rounds, args.batches), indent=2))


if __name__ == "__main__":
    main()
