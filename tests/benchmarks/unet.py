"""Measures the U-Net against diffusers with torch: forward pass, guided sampling, training step, memory.

    python -m tests.benchmarks.unet [--shape if-i-m|small] [--rounds N] [--only forward,sampling,training]

Both sides read the same folder of random weights in the shape of DeepFloyd IF stage I (M), f32, 64x64. They
are two processes with the same cores that take turns, round by round, so that the machine's other work falls
on both. Needs the extra `peers`. Prints one JSON object; `ratio` is torch's time over ours (median of the
paired rounds): above 1 we are faster.
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

from tests.benchmarks.sides import Side

SHAPES = {
    "if-i-m": {"channels": [192, 384, 576, 768], "blocks": 3, "text": 4096, "heads": 64, "size": 64},
    "small": {"channels": [64, 128], "blocks": 1, "text": 64, "heads": 4, "size": 16},
}
LENGTH = 77  # tokens of a prompt
SAMPLING_STEPS = 4  # all steps of a trajectory are alike: four are enough to time them
CASES = {
    "forward": [("forward", 2), ("forward", 8)],
    "sampling": [("sampling", 2), ("sampling", 8)],
    "training": [("training", 2)],
}


def write_weights(folder: pathlib.Path, shape: dict[str, Any]) -> None:
    """Writes a diffusers folder with random weights."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    levels = len(shape["channels"])
    attention = ["SimpleCrossAttnDownBlock2D"] * (levels - 1)
    unet = UNet2DConditionModel(
        sample_size=shape["size"],
        in_channels=3,
        out_channels=6,
        block_out_channels=shape["channels"],
        layers_per_block=shape["blocks"],
        down_block_types=["ResnetDownsampleBlock2D", *attention],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=[a.replace("Down", "Up") for a in attention] + ["ResnetUpsampleBlock2D"],
        attention_head_dim=64,
        cross_attention_dim=shape["channels"][-1],
        cross_attention_norm="group_norm",
        only_cross_attention=False,
        encoder_hid_dim=shape["text"],
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=shape["heads"],
        act_fn="gelu",
        resnet_time_scale_shift="scale_shift",
    )
    unet.save_pretrained(folder)


# --------------------------------------------------------------------------------- the two sides


def torch_side(folder: pathlib.Path, shape: dict[str, Any], batch: int) -> dict[str, Callable[[], Any]]:
    """Returns what is timed, in torch."""
    import torch
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel

    torch.set_num_threads(os.cpu_count() or 1)
    unet = UNet2DConditionModel.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    z_t = torch.randn(batch, 3, shape["size"], shape["size"], generator=generator)
    text = torch.randn(batch, LENGTH, shape["text"], generator=generator)
    t = torch.full((batch,), 500)
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )
    pipe = IFPipeline(None, None, unet, scheduler, None, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)

    def forward() -> Any:
        with torch.no_grad():
            return unet(z_t, t, text).sample

    def sampling() -> Any:
        return pipe(
            prompt_embeds=text,
            negative_prompt_embeds=torch.zeros_like(text),
            num_inference_steps=SAMPLING_STEPS,
            guidance_scale=1.25,
            output_type="pt",
        )

    optimizers: list[Any] = []

    def training() -> Any:
        if not optimizers:
            optimizers.append(torch.optim.Adam(unet.parameters(), lr=1e-4))
        optimizer = optimizers[0]
        optimizer.zero_grad(set_to_none=True)
        loss = torch.mean((unet(z_t, t, text).sample[:, :3] - z_t) ** 2)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"forward": forward, "sampling": sampling, "training": training}


def our_side(folder: pathlib.Path, shape: dict[str, Any], batch: int) -> dict[str, Callable[[], Any]]:
    """Returns what is timed, in synthaug: the functions that its stages call."""
    import jax
    import jax.numpy as jnp

    from synthaug import experiment, parallel, rng
    from synthaug.diffusion.sampler import knobs, static_part
    from synthaug.site import Site
    from synthaug.stages.sampling import sampler
    from synthaug.weights import open_unet

    parallel.start(Site(), folder / "cache")
    unet = open_unet(folder)
    keys = jax.random.split(rng.root(0), 2)
    z_t = jax.random.normal(keys[0], (batch, shape["size"], shape["size"], 3))
    text = jax.random.normal(keys[1], (batch, LENGTH, shape["text"]))
    t = jnp.full(batch, 500)
    settings = experiment.Sampler(
        guidance_weight=1.25,
        logvar_mix="learned",
        threshold="dynamic",
        threshold_percentile=95,
        threshold_max=1.5,
        num_sampling_steps=SAMPLING_STEPS,
    )
    run = sampler(unet.config, unet.diffusion, "f32", static_part(settings), SAMPLING_STEPS, 1.0)
    inputs = {
        "index": jnp.arange(batch, dtype=jnp.uint32),
        "text": text,
        "text_mask": jnp.ones(text.shape[:2], bool),
    }
    null = (jnp.zeros(text.shape[1:]), jnp.ones(LENGTH, bool))

    def sampling() -> Any:
        weights = {"params": unet.params, "stats": {}}
        return run(
            weights, None, knobs(settings), jnp.float32(0), rng.root(1), inputs, null
        ).block_until_ready()

    return {
        "forward": lambda: unet(z_t, t, text).block_until_ready(),
        "sampling": sampling,
        "training": _our_training(unet, z_t, t, text),
    }


def _our_training(unet: Any, z_t: Any, t: Any, text: Any) -> Callable[[], Any]:
    import jax.numpy as jnp

    from synthaug import experiment, parallel, rng
    from synthaug.models.unet import build_unet
    from synthaug.train.optimizer import build_optimizer
    from synthaug.train.state import create, make_update

    model = build_unet(unet.config)
    tx = build_optimizer(experiment.Optimizer(kind="adam", learning_rate=1e-4, grad_clip=0), 1)
    cond = {"text": text, "text_mask": jnp.ones(text.shape[:2], bool)}
    states: list[Any] = []

    def loss_fn(params: Any, stats: Any, batch: Any, key: Any) -> Any:
        output = model.apply({"params": params, "stats": stats}, z_t, t.astype(jnp.float32), cond, train=True)
        return jnp.mean(jnp.square(output[..., :3] - z_t)), ({}, stats)

    update = make_update(loss_fn, tx, 0.0)

    def training() -> Any:
        if not states:
            weights = parallel.replicate({"params": unet.params, "stats": {}})
            states.append(parallel.replicate(create(weights, tx, with_ema=False)))
            unet.params = {}  # torch, too, holds its weights once
        states[0], metrics = update(states[0], {}, rng.root(0))
        return float(metrics["loss"])

    return training


def serve(side: str, folder: pathlib.Path, shape: dict[str, Any]) -> None:
    """Runs a case for every line `case batch` on stdin; prints its seconds and this process's peak memory."""
    sides: dict[int, dict[str, Callable[[], Any]]] = {}
    for line in sys.stdin:
        case, batch = line.split()
        if int(batch) not in sides:
            sides.clear()
            sides[int(batch)] = (torch_side if side == "torch" else our_side)(folder, shape, int(batch))
        start = time.perf_counter()
        sides[int(batch)][case]()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


# ------------------------------------------------------------------------------------- the rounds


def compare(case: str, batch: int, folder: pathlib.Path, shape: str, rounds: int) -> dict[str, Any]:
    """Returns the figures of one case: both sides warmed up, then measured in turns."""
    sides = {
        name: Side("tests.benchmarks.unet", name, "--folder", str(folder), "--shape", shape)
        for name in ("torch", "synthaug")
    }
    try:
        for side in sides.values():
            side.measure(f"{case} {batch}")
        times: dict[str, list[float]] = {name: [] for name in sides}
        peaks: dict[str, float] = {}
        for number in range(rounds):
            for name in sorted(sides, reverse=number % 2 == 1):
                found = sides[name].measure(f"{case} {batch}")
                times[name].append(found["seconds"])
                peaks[name] = found["peak"]
    finally:
        for side in sides.values():
            side.close()
    pairs = zip(times["torch"], times["synthaug"], strict=True)
    return {
        "case": case,
        "batch": batch,
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        **{f"{name}_s": [round(t, 3) for t in found] for name, found in times.items()},
        **{f"{name}_peak_gb": round(peak / 1e9, 2) for name, peak in peaks.items()},
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="if-i-m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--serve", choices=("torch", "synthaug"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.folder, SHAPES[args.shape])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_weights(folder, SHAPES[args.shape])
        cases = [case for group in args.only.split(",") for case in CASES[group]]
        rows = [compare(case, batch, folder, args.shape, args.rounds) for case, batch in cases]
    print(json.dumps({"shape": args.shape, "cores": os.cpu_count(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
