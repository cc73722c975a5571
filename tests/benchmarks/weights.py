"""Measures reading public weights: a 1 GB folder in the shape of DeepFloyd IF stage I, random numbers.

    python -m tests.benchmarks.weights [--gigabytes 1] [--rounds 3] [--dtype f32|f16]

Every reading is a process of its own, so that its peak memory is its own, and the readers take turns: ours
(`open_unet`'s way, onto one device), safetensors' `load_file` for torch, and diffusers' `from_pretrained`,
where they are installed. Memory is what the process grows by while it reads, over the size of the f32
parameters. The page cache is warm, because the folder was just written. Prints one JSON object.
"""

from __future__ import annotations

import argparse
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

STEM = "diffusion_pytorch_model"
READERS = ("synthaug", "safetensors", "diffusers")


def write_folder(folder: pathlib.Path, gigabytes: float, dtype: str) -> int:
    """Writes the folder, in shards of at most 400 MB, and returns the number of parameters."""
    from synthaug.experiment import Diffusion, Network, UNet
    from synthaug.weights import deepfloyd
    from synthaug.weights.tensors import write_tensors

    def network(channels: int) -> Network:
        unet = UNet(
            channels=channels,
            channel_mult=(1.0, 2.0, 3.0, 4.0),
            num_res_blocks=(3,),
            attention_resolutions=(32, 16, 8),
            head_dim=32,
            activation="gelu",
            text_channels=4 * channels,
            text_norm="group",
            text_pool_heads=64,
            attend_padding=True,
            null_text="empty",
        )
        return Network(unet=unet, resolution=64, out_channels=6, text_width=4096, text_length=77)

    sizes = [network(channels) for channels in range(64, 513, 32)]
    counts = [sum(sum(map(int, map(np.prod, r.shapes))) for r in deepfloyd.rules(n)) for n in sizes]
    best = min(range(len(sizes)), key=lambda i: abs(4 * counts[i] - gigabytes * 1e9))
    noise = np.random.default_rng(0).normal(size=max(np.prod(s) for r in deepfloyd.rules(sizes[best])
                                                     for s in r.shapes)).astype(np.float32)  # fmt: skip
    noise = noise.astype(np.float16 if dtype == "f16" else np.float32)

    def items() -> Iterator[tuple[str, np.ndarray]]:
        for rule in deepfloyd.rules(sizes[best]):
            for name, shape in zip(rule.theirs, rule.shapes, strict=True):
                yield name, noise[: int(np.prod(shape))].reshape(shape)

    diffusion = Diffusion(num_timesteps=1000, learned_variance=True)
    (folder / "config.json").write_text(json.dumps(deepfloyd.write_config(sizes[best], diffusion)))
    write_tensors(folder, STEM, items(), shard_bytes=400_000_000)
    return counts[best]


def _status(key: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _reader(name: str, folder: pathlib.Path) -> Callable[[], Any]:
    if name == "synthaug":
        import jax

        from synthaug.weights import families

        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return lambda: families.read_unet(folder, sharding=place)
    if name == "safetensors":
        from safetensors.torch import load_file

        shards = sorted(folder.glob("*.safetensors"))
        # clone, because a mapped file is not read before it is used
        return lambda: [{k: v.float().clone() for k, v in load_file(shard).items()} for shard in shards]
    from diffusers import UNet2DConditionModel

    def whole() -> Any:
        model = UNet2DConditionModel.from_pretrained(folder, low_cpu_mem_usage=True).float()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # likewise
        return model

    return whole


def read(name: str, folder: pathlib.Path, parameters: int) -> dict[str, float]:
    """Returns seconds and peak memory of one reading in this process."""
    run = _reader(name, folder)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = _status("VmRSS"), time.perf_counter()
    kept = run()
    seconds = time.perf_counter() - started
    peak = (_status("VmHWM") - before) / (4 * parameters)
    del kept
    return {"seconds": seconds, "peak_over_parameters": peak}


def main() -> None:
    """Writes the folder, runs the readers in turn and prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("f32", "f16"), default="f32")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--parameters", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        print(json.dumps(read(args.reader, args.folder, args.parameters)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        parameters = write_folder(folder, args.gigabytes, args.dtype)
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for name in READERS:
                words = ["--reader", name, "--folder", temporary, "--parameters", str(parameters)]
                command = [sys.executable, "-m", "tests.benchmarks.weights", *words]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    found.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
                elif name == "synthaug":
                    sys.exit(done.stderr)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    result: dict[str, Any] = {
        "gigabytes_on_disk": round(size / 1e9, 3),
        "parameters": parameters,
        "dtype": args.dtype,
        "cores": len(os.sched_getaffinity(0)),
    }
    for name, rows in found.items():
        result[name] = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
        result[name]["rounds"] = [round(row["seconds"], 2) for row in rows]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
