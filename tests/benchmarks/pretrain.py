"""Shows what a pretrained checkpoint is worth: fine-tuned against trained from scratch, on the digits.

    python -m tests.benchmarks.pretrain [RUNS_DIRECTORY]

For three seeds, through the ordinary pipeline: a model is pretrained on the images and captions of the
digits zero to four; then all ten are learnt in the same small number of steps, from that checkpoint
(`tuned`) and from random weights (`scratch`). Both see the same batches with the same noise. `longer` is
scratch with the steps of the pretraining added: what the same computer time buys without it. Prints one JSON
object: validation loss and FID (lower is better) of every arm, and how often tuned beats scratch.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PRETRAIN_STEPS, STEPS, SEEDS = 900, 150, (0, 1, 2)
JOB = """
name: pretrain
stages: [score]
data: {source: folder, path: "", num_classes: 10, num_train: 1442, num_val: 355, channels: 1}
text_encoder: {max_length: 8, width: 32, num_layers: 1}
cascade:
  base8:
    resolution: 8
    unet:
      {channels: 16, channel_mult: [1, 2], num_res_blocks: 1, attention_resolutions: [4],
       head_dim: 16, norm_groups: 4}
    finetune:
      num_steps: 1
      batch_size: 64
      optimizer: {kind: adam, learning_rate: 2e-3, warmup_steps: 20}
      ema_decay: 0.98
      saving: {every: 50, keep_latest: 1, keep_best: 0, log_every: 50}
    sampler: {num_sampling_steps: 32}
sample: {copies: 1, shard_size: 721, batch_size: 103}
score:
  encoder:
    kind: resnet
    width: 16
    depths: [1, 1]
    batch_size: 128
    num_steps: 300
    optimizer: {kind: sgd, learning_rate: 0.1, warmup_steps: 40, schedule: cosine, weight_decay: 1e-4}
    max_shift: 1
  splits: 5
"""


def write_digits(folder: pathlib.Path, classes: int) -> tuple[int, int]:
    """Writes the first digits as a folder per class; returns how many go to train and validation."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    train = val = 0
    for k in range(classes):
        (folder / str(k)).mkdir(parents=True, exist_ok=True)
        images = raw.images[raw.target == k]
        for i, pixels in enumerate(images):
            image = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8))
            image.save(folder / str(k) / f"{i:03}.png")
        val += len(images) // 5
        train += len(images) - len(images) // 5
    return train, val


def arm(
    runs: pathlib.Path, name: str, data: pathlib.Path, classes: int, seed: int, *more: str
) -> dict[str, Any]:
    """Runs one study; returns its validation loss by step and its FID."""
    num_train, num_val = write_digits(data, classes)
    job = runs / "pretrain.yaml"
    job.write_text(JOB)
    names = ", ".join(f"'{k}': {NAMES[k]}" for k in range(classes))
    words = [f"name={name}-{seed}", f"seed={seed}", f"data.path={data}", f"data.num_classes={classes}"]
    words += [f"data.num_train={num_train}", f"data.num_val={num_val}", f"prompts.names={{{names}}}", *more]
    line = [sys.executable, "-m", "synthaug", "run", str(job), "--runs", str(runs), "--quiet", *words]
    subprocess.run(line, cwd=ROOT, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    run = runs / f"{name}-{seed}"
    losses = {}
    for text in (run / "finetune-0" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(text)
        if "val_loss" in record:
            losses[record["step"]] = round(record["val_loss"], 4)
    rows = json.loads((run / "score-0" / "done.json").read_text())["result"]["rows"]
    fid = next(row["fid"] for row in rows if row["reference"] == "val")
    return {"val_loss": losses, "fid": fid}


def compare(runs: pathlib.Path, seed: int) -> dict[str, Any]:
    """Returns the arms of one seed."""
    steps = "cascade.base8.finetune.num_steps={}".format
    half, whole = runs / "half", runs / "whole"
    before = arm(runs, "before", half, 5, seed, steps(PRETRAIN_STEPS))
    init = runs / f"before-{seed}" / "finetune-0" / "checkpoints" / str(PRETRAIN_STEPS)
    return {
        "pretraining": before,
        "tuned": arm(runs, "tuned", whole, 10, seed, steps(STEPS), f"cascade.base8.finetune.init={init}"),
        "scratch": arm(runs, "scratch", whole, 10, seed, steps(STEPS)),
        "longer": arm(runs, "longer", whole, 10, seed, steps(STEPS + PRETRAIN_STEPS)),
    }


def main() -> None:
    """Runs every arm for every seed."""
    runs = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    runs.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.machine()}"}
    found |= {"pretrain_steps": PRETRAIN_STEPS, "steps": STEPS}
    found["seeds"] = {seed: compare(runs, seed) for seed in SEEDS}
    for name in ("tuned", "scratch", "longer"):
        arms = [seed[name] for seed in found["seeds"].values()]
        last = [a["val_loss"][max(a["val_loss"])] for a in arms]
        fids = [a["fid"] for a in arms]
        found[name] = {"val_loss": last, "fid": fids, "means": [float(np.mean(last)), float(np.mean(fids))]}
    for metric in ("val_loss", "fid"):
        pairs = zip(found["tuned"][metric], found["scratch"][metric], strict=True)
        found[f"tuned_beats_scratch_in_{metric}"] = f"{sum(a < b for a, b in pairs)} of {len(SEEDS)}"
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
