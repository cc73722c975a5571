"""Measures a training step of ResNet-50 against torch: 224 px, f32, the same cores, in turns.

    python -m tests.benchmarks.resnet [--batch 8] [--rounds 5] [--size 224]
    python -m tests.benchmarks.resnet --device [--batch 256]   # the accelerator, ours alone

Each side is a process of its own, and they take turns, round by round, so that the machine's other work
falls on all. torch runs timm's resnet50 in both memory layouts, NCHW and channels_last; `ratio` is the time
of its faster layout over ours (medians of the paired rounds): above 1 we are faster. Needs the extra `peers`.
Prints one JSON object.

Our layout is NHWC, with XLA's own 3x3 convolutions and gradients; 1x1 convolutions are products of two
matrices, and the maximum has a gradient of our own (synthaug.models.pooling). Wall time is what counts, but
on a machine with other work compare `cpu_seconds` too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.sides import Side

SIDES = ("torch", "torch-channels-last", "synthaug")
CLASSES = 1000
# Products and sums of one image's forward pass at 224 px (4.09e9 products); backward takes twice as many.
FORWARD_FLOPS = 2 * 4.09e9
PEAK = {  # dense bf16, makers' figures
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def torch_step(batch: int, size: int, channels_last: bool) -> Callable[[], float]:
    """Returns one training step in torch: forward, backward, SGD with Nesterov's momentum."""
    import torch

    from tests.peers import torchvision_stub

    torchvision_stub.install()
    import timm

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model, images = timm.create_model("resnet50").train(), torch.randn(batch, 3, size, size)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(batch: int, size: int, compute: str) -> Callable[[], Any]:
    """Returns one training step with the functions that `classify` trains with."""
    import jax
    import jax.numpy as jnp
    import optax

    from synthaug import experiment, parallel, rng
    from synthaug.models.classifier import build_classifier
    from synthaug.train.optimizer import build_optimizer
    from synthaug.train.state import create, make_update

    settings = experiment.Classifier(kind="resnet50", compute=compute)
    model = build_classifier(settings, resolution=size, channels=3, num_classes=CLASSES)
    rule = experiment.Optimizer(kind="sgd", learning_rate=0.01, weight_decay=1e-4, grad_clip=0)
    tx = build_optimizer(rule, 100)

    def loss_fn(params: Any, stats: Any, batch: Any, key: Any) -> Any:
        weights = {"params": params, "stats": stats}
        (logits, _), stats = model.apply_train(weights, batch["image"], key=key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return loss.mean(), ({}, stats)

    weights = jax.jit(model.init)(rng.root(0))
    states = [parallel.replicate(create(weights, tx, with_ema=False))]
    update = make_update(loss_fn, tx, 0.0)
    images = jax.random.normal(rng.root(1), (batch, size, size, 3))
    fed = {"image": images, "label": jnp.arange(batch) % CLASSES}

    def step() -> Any:
        states[0], metrics = update(states[0], fed, rng.root(0))
        return metrics["loss"]

    return step


def serve(side: str, batch: int, size: int) -> None:
    """Runs a step for every line on stdin; prints its wall and CPU seconds and this process's peak memory."""
    step = our_step(batch, size, "f32") if side == "synthaug" else torch_step(batch, size, side != "torch")
    for _ in sys.stdin:
        start, before = time.perf_counter(), os.times()
        loss = float(step())
        seconds, after = time.perf_counter() - start, os.times()
        cpu = after.user + after.system - before.user - before.system
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "loss": loss}), flush=True)


def compare(batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Returns the figures: all sides warmed up twice, then measured in turns."""
    sides = {
        name: Side("tests.benchmarks.resnet", name, "--batch", str(batch), "--size", str(size))
        for name in SIDES
    }
    try:
        for side in sides.values():
            side.measure("step")
            side.measure("step")
        found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        for number in range(rounds):
            for name in sorted(sides, reverse=number % 2 == 1):
                found[name].append(sides[name].measure("step"))
    finally:
        for side in sides.values():
            side.close()
    wall = {name: [row["seconds"] for row in rows] for name, rows in found.items()}
    ratio = {
        name: statistics.median(a / b for a, b in zip(wall[name], wall["synthaug"], strict=True))
        for name in SIDES[:2]
    }
    return {
        "model": "resnet50",
        "batch": batch,
        "size": size,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "ratio": round(min(ratio.values()), 3),
        "ratios": {name: round(value, 3) for name, value in ratio.items()},
        "seconds": {name: [round(t, 3) for t in times] for name, times in wall.items()},
        "cpu_seconds": {n: round(statistics.median(r["cpu"] for r in rows), 3) for n, rows in found.items()},
        "peak_gb": {name: round(rows[-1]["peak"] / 1e9, 2) for name, rows in found.items()},
    }


def on_device(batch: int, size: int, steps: int = 20) -> dict[str, Any]:
    """Returns images per second on the first accelerator, and the share of its peak."""
    import jax

    kind, rows = jax.devices()[0].device_kind, []
    for compute in ("bf16", "f32"):
        step = our_step(batch, size, compute)
        for _ in range(3):
            jax.block_until_ready(step())
        start = time.perf_counter()
        losses = [step() for _ in range(steps)]
        jax.block_until_ready(losses)
        rate = steps * batch / (time.perf_counter() - start)
        flops = rate * 3 * FORWARD_FLOPS * (size / 224) ** 2
        share = round(flops / PEAK[kind], 3) if kind in PEAK and compute == "bf16" else None
        rows.append({"compute": compute, "images_per_s": round(rate, 1), "tflops": round(flops / 1e12, 1)})
        rows[-1]["share_of_peak"] = share
    return {"model": "resnet50", "device": kind, "batch": batch, "size": size, "rows": rows}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=0, help="images; 8, with --device 256")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", action="store_true", help="this machine's accelerator, ours alone")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    batch = args.batch or (256 if args.device else 8)
    if args.serve:
        serve(args.serve, batch, args.size)
        return
    found = on_device(batch, args.size) if args.device else compare(batch, args.size, args.rounds)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
