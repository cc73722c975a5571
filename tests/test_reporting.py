"""The report: what it says, in which words, and that both files say the same."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from synthaug.metrics.accuracy import mean_and_deviation, paired_test
from synthaug.reporting import headline, numbers, paper
from synthaug.reporting.data import Choice, PerClass, Report, SampleGrid, StageTime
from synthaug.reporting.document import Figure, Table
from synthaug.reporting.write import build, write

ENCODER = {"encoder": "resnet on real digits", "encoder_hash": "9f31c04b7a55", "resize": "none"}
SEEDS = range(6)
MODELS = {"resnet": 0.967, "resnet-wide": 0.975, "vit": 0.951}
GAINS = {1: 0.006, 2: 0.008, 4: -0.003}
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SECTIONS = (
    "headline", "samples", "sweep", "scores", "cas", "mixes", "scaling", "few-shot", "classes", "time", "provenance",
)  # fmt: skip


def digits() -> SampleGrid:
    data = load_digits()
    images = (data.images * 255 / 16).round().astype(np.uint8)[..., None]
    rng = np.random.default_rng(0)
    real = np.stack([images[data.target == k][:8] for k in range(10)])
    noise = rng.normal(0, 22, real.shape)
    fake = np.stack([images[data.target == k][20:28] for k in range(10)])
    return SampleGrid(8, NAMES, real, (fake + noise).clip(0, 255).astype(np.uint8))


def sweep_rows() -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(1), []
    grids = {
        "guidance": ("base8", 8, [1.0, 1.25, 1.5, 2.0, 5.0], [0.0], [0.0, 0.3, 1.0]),
        "augmentation": ("sr16", 16, [1.0], [0.0, 0.1, 0.2, 0.3, 0.4], [0.1, 0.3]),
    }
    for phase, (model, resolution, weights, levels, mixes) in grids.items():
        for weight in weights:
            for level in levels:
                for mix in mixes:
                    fid = 5 + 9 * abs(math.log(weight / 1.25)) ** 1.4 + 2.5 * mix + 8 * level + rng.uniform(0, 0.3)
                    row = {
                        "phase": phase, "model": model, "resolution": resolution, "checkpoint": 0, "solver": "ddpm",
                        "num_sampling_steps": 64, "guidance_weight": weight, "logvar_mix": mix, "aug_level": level,
                        "n": 1024, "reference": "val", "encoder": ENCODER["encoder"],
                        "encoder_hash": ENCODER["encoder_hash"], "seed": 0, "fid": fid,
                        "inception_score": 6.0 + 1.5 * math.log(weight + 0.5), "inception_score_std": 0.11,
                        "cas": 0.93 - 0.011 * fid + rng.uniform(0, 0.01), "chosen": False, "pareto": False,
                    }  # fmt: skip
                    rows.append(row)
        own = [r for r in rows if r["phase"] == phase]
        min(own, key=lambda r: r["fid"])["chosen"] = True
        for row in own:
            row["pareto"] = not any(r["fid"] < row["fid"] and r["cas"] > row["cas"] for r in own)
    return rows


def score_rows() -> list[dict[str, Any]]:
    measured = {
        ("generated", "train"): (5.213, 8.01, 0.921, 0.874),
        ("generated", "val"): (6.482, 8.01, 0.913, 0.866),
        ("real train", "val"): (1.337, 9.12, 0.962, 0.958),
        ("real val", "train"): (1.402, 9.03, 0.957, 0.949),
    }
    return [
        {
            "set": name, "resolution": 16, "reference": reference, "n": 360 if name == "real val" else 1437,
            "n_reference": 1437 if reference == "train" else 360, **ENCODER, "splits": 10,
            "neighbours": 3, "max_images": 10000, "seed": 0, "fid": fid, "inception_score": score,
            "inception_score_std": 0.13, "precision": precision, "recall": recall,
        }
        for (name, reference), (fid, score, precision, recall) in measured.items()
    ]  # fmt: skip


def classify_rows(gains: dict[int, float] = GAINS) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(2), []

    def add(model: str, mix: str, copies: int, shots: int, seed: int, top1: float, n_train: int) -> None:
        rows.append(
            {
                "model": model, "resolution": 16, "mix": mix, "copies": copies, "shots": shots, "seed": seed,
                "top1": top1, "top5": min(1.0, top1 + 0.02), "n_train": n_train, "num_steps": 400,
            }
        )  # fmt: skip

    for model, accuracy in MODELS.items():
        for seed in SEEDS:
            luck = float(rng.normal(0, 0.003))
            add(model, "real", 0, 0, seed, accuracy + luck, 1437)
            add(model, "generated", 1, 0, seed, accuracy - 0.061 + luck + float(rng.normal(0, 0.002)), 1437)
            for copies, gain in gains.items():
                own = gain + float(rng.normal(0, 0.0015))
                add(model, "real+generated", copies, 0, seed, accuracy + luck + own, 1437 * (1 + copies))
    for shots, top1 in ((1, 0.52), (5, 0.81)):
        for seed in SEEDS:
            add("resnet", "real", 0, shots, seed, top1 + float(rng.normal(0, 0.01)), 10 * shots)
            add("resnet", "real+generated", 1, shots, seed, 0.9 + float(rng.normal(0, 0.01)), 1437 + 10 * shots)
    return rows


def per_class() -> list[PerClass]:
    rng, results = np.random.default_rng(3), []
    for model in MODELS:
        for mix, mean in (("real", 0.965), ("generated", 0.9)):
            for seed in SEEDS:
                accuracy = (mean + rng.normal(0, 0.03, 10)).clip(0, 1)
                results.append(PerClass(model, mix, 1 if mix == "generated" else 0, 0, seed, accuracy))
    return results


def stages() -> list[StageTime]:
    names = ("prepare", "embed", "encoder", "finetune", "sweep", "sample", "score", "classify")
    found = []
    for i, stage in enumerate(names):
        busy = (2.1, 0.8, 22.0, 190.0, 140.0, 95.0, 12.0, 170.0)[i]
        buckets = {"work": 0.78 * busy, "compile": 0.12 * busy, "input": 0.04 * busy, "save": 0.06 * busy}
        if stage == "finetune":
            buckets["lost"] = 9.0
        found.append(StageTime(stage, 1 + i, 1 + i + (stage == "finetune"), busy / 2, busy, 0.78, buckets))
    return found


def report() -> Report:
    choices = [
        Choice("guidance", "base8", "lowest fid", {"guidance_weight": 1.25, "logvar_mix": 0.0}, 5.1, 6.84, 0.874),
        Choice("augmentation", "sr16", "lowest fid", {"aug_level": 0.0, "logvar_mix": 0.1}, 5.5, 6.6, None),
    ]
    results = {
        "name": "digits",
        "versions": {"synthaug": "0.1.0", "jax": "0.10.2", "flax": "0.12.8", "numpy": "2.4.6", "python": "3.11.2"},
        "sweep": sweep_rows(),
        "score": score_rows(),
        "classify": classify_rows(),
    }
    return Report(
        name="digits",
        title="Handwritten digits: what is generated data worth?",
        description="The whole study of Azizi et al. 2023 at toy size: a two-model cascade (8 to 16 px) fine-tuned on "
        "1,437 scans of handwritten digits.",
        results=results,
        samples=[digits()],
        per_class=per_class(),
        stages=stages(),
        choices=choices,
        class_names=NAMES,
        notes=["finetune: part 0 was stopped once and resumed at step 1,500."],
        settings_text="cascade.base8.resolution: 8\nname: \"digits\"\nseed: 0\n",
        command="synthaug run jobs/digits.yaml",
    )
