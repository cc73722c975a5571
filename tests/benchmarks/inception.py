"""Measures FID end to end against torch: a folder of 256 px PNGs to features to FID, same cores, in turns.

    python -m tests.benchmarks.inception [--images 128] [--batch 32] [--rounds 3]

Every side has the same random weights, is a process of its own, and they take turns, pass by pass, so that
the machine's other work falls on all. A pass reads the folder, encodes it, and has its mean and covariance.
`torch` is pytorch-fid's loop: a DataLoader with a worker for each core, images divided by 255 on the way, its
network in the default memory layout, features kept, numpy's mean and covariance; `torch-channels-last` is the
same in the memory layout that suits a CPU better, which neither package uses. At the end `torch` and `flax`
take the Frechet distance of two halves of the folder once: torch's with scipy's sqrtm.

`ratio` is torch's time of a pass over that of the faster of our two backends, medians of paired rounds: above
1 we are faster. Needs the extra `peers`. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.sides import Side

TORCH = ("torch", "torch-channels-last")
OURS = ("flax", "tensorflow")
SIDES = (*TORCH, *OURS)
SIZE = 256  # px

Pass = Callable[[], tuple[Any, Any]]
"""Encodes the folder; returns what is known of its first and of its second half."""


def write_inputs(folder: pathlib.Path, images: int) -> None:
    """Writes smooth random images as PNG, and the weights for every side."""
    import torch
    from PIL import Image

    from tests import inception_graph

    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(images):
        coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"images/{i:05d}.png")
    inception_graph.write_graph(folder / "graph.pb")
    state = {name: torch.from_numpy(array.copy()) for name, array in inception_graph.torch_state().items()}
    torch.save(state, folder / "state.pth")


# --------------------------------------------------------------------------------------- torch's side


def torch_pass(folder: pathlib.Path, batch: int, channels_last: bool) -> Pass:
    """Returns pytorch-fid's loop over a folder."""
    import torch
    from PIL import Image

    from tests.peers import torchvision_stub

    torchvision_stub.install()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    network = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(folder / "state.pth")
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)

    class Folder(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.paths = sorted((folder / "images").glob("*.png"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> Any:
            pixels = np.array(Image.open(self.paths[i]).convert("RGB"))
            return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255

    def encode() -> tuple[Any, Any]:
        loader = torch.utils.data.DataLoader(Folder(), batch, num_workers=min(cores, 8))
        found = []
        with torch.no_grad():
            for images in loader:
                pixels = (images * 255).round().to(torch.uint8).contiguous(memory_format=layout)
                found.append(network(pixels)[0].numpy())
        features = np.concatenate(found)
        halves = features[: len(features) // 2], features[len(features) // 2 :]
        first, second = ((half.mean(axis=0), np.cov(half, rowvar=False)) for half in halves)
        return first, second

    return encode


def torch_distance(first: Any, second: Any) -> float:
    """The Frechet distance as pytorch-fid computes it."""
    import scipy.linalg

    (mean0, covariance0), (mean1, covariance1) = first, second
    offset = 1e-6 * np.eye(len(mean0))
    root = scipy.linalg.sqrtm(covariance0 @ covariance1)
    if not np.isfinite(root).all():
        root = scipy.linalg.sqrtm((covariance0 + offset) @ (covariance1 + offset))
    spread = np.trace(covariance0) + np.trace(covariance1) - 2 * np.trace(root.real)
    return float(np.square(mean0 - mean1).sum() + spread)


# ----------------------------------------------------------------------------------------- our side


def our_pass(folder: pathlib.Path, batch: int, backend: str) -> Pass:
    """Returns the functions that `score` uses, over a folder."""
    from synthaug import experiment
    from synthaug.data.batches import batches
    from synthaug.data.collection import open_images
    from synthaug.metrics import moments
    from synthaug.stages.encoders import open_encoder

    settings = experiment.Encoder(
        kind="inception", path=str(folder / "graph.pb"), backend=backend, batch_size=batch
    )
    encoder = open_encoder(settings)

    def encode() -> tuple[Any, Any]:
        images = open_images(str(folder / "images"), what="the benchmark")
        halves = moments.Sums(encoder.num_features), moments.Sums(encoder.num_features)
        for index, pixels in batches(images, batch):
            features = encoder.encode(pixels).features
            second = index >= len(images) // 2
            halves[0].add(features[~second])
            halves[1].add(features[second])
        return halves[0].moments().gaussian(), halves[1].moments().gaussian()

    return encode


def our_distance(first: Any, second: Any) -> float:
    """The Frechet distance as `score` computes it."""
    from synthaug.metrics.fid import frechet_distance

    return frechet_distance(first, second)


# -------------------------------------------------------------------------------------- the contest


def serve(side: str, folder: pathlib.Path, batch: int) -> None:
    """Does what stdin says, "pass" or "distance"; prints its wall and CPU seconds and the peak memory."""
    ours = side in OURS
    encode = our_pass(folder, batch, side) if ours else torch_pass(folder, batch, side == TORCH[1])
    distance = our_distance if ours else torch_distance
    known: tuple[Any, Any] | None = None
    for line in sys.stdin:
        start, before, fid = time.perf_counter(), os.times(), None
        if line.strip() == "pass" or known is None:
            known = encode()
        else:
            fid = distance(*known)
        seconds, after = time.perf_counter() - start, os.times()
        cpu = sum(after[:4]) - sum(before[:4])  # the loader's processes included
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "fid": fid}), flush=True)


def compare(images: int, batch: int, rounds: int) -> dict[str, Any]:
    """Returns the figures: all sides warmed up, then measured in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_inputs(folder, images)
        sides = {
            name: Side(
                "tests.benchmarks.inception", name, "--folder", str(folder), "--batch", str(batch), quiet=True
            )
            for name in SIDES
        }
        try:
            for side in sides.values():
                side.measure("pass")
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
            for number in range(rounds):
                for name in sorted(sides, reverse=number % 2 == 1):
                    found[name].append(sides[name].measure("pass"))
            distances = {name: sides[name].measure("distance") for name in ("torch", "flax")}
        finally:
            for side in sides.values():
                side.close()
    return _summary(images, batch, found, distances)


def _summary(
    images: int, batch: int, found: dict[str, list[dict[str, Any]]], distances: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    wall = {name: [row["seconds"] for row in rows] for name, rows in found.items()}
    cpu = {name: statistics.median(row["cpu"] for row in rows) for name, rows in found.items()}
    ratios = {
        f"{peer}/{ours}": statistics.median(a / b for a, b in zip(wall[peer], wall[ours], strict=True))
        for peer in TORCH
        for ours in OURS
    }
    return {
        "images": images,
        "batch": batch,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "ratio": round(max(value for name, value in ratios.items() if name.startswith("torch/")), 3),
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "images_per_s": {n: [round(images / t, 2) for t in times] for n, times in wall.items()},
        "cpu_s_per_image": {name: round(value / images, 4) for name, value in cpu.items()},
        "distance_s": {name: round(row["seconds"], 2) for name, row in distances.items()},
        "fid": {name: row["fid"] for name, row in distances.items()},
        "peak_gb": {name: round(rows[-1]["peak"] / 1e9, 2) for name, rows in found.items()},
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.folder, args.batch)
        return
    print(json.dumps(compare(args.images, args.batch, args.rounds), indent=1))


if __name__ == "__main__":
    main()
