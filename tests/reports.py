"""Made-up results in the form of results.json: a digits-like study, and one of ImageNet-1K's shape."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from sklearn.datasets import load_digits as read_digits

from synthaug import licences
from synthaug.reporting import paper
from synthaug.reporting.data import Choice, Report, SampleGrid, StageTime

ENCODER = {"encoder": "resnet on real digits", "encoder_hash": "9f31c04b7a55", "resize": "none"}
SEEDS = range(6)
MODELS = {"resnet": 0.967, "resnet-wide": 0.975, "vit": 0.951}
GAINS = {1: 0.006, 2: 0.008, 4: -0.003}
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SECTIONS = (
    *("headline", "samples", "sweep", "scores", "cas", "mixes"),
    *("scaling", "few-shot", "classes", "time", "provenance"),
)
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def digits() -> SampleGrid:
    data = read_digits()
    images = (data.images * 255 / 16).round().astype(np.uint8)[..., None]
    rng = np.random.default_rng(0)
    real = np.stack([images[data.target == k][:8] for k in range(10)])
    noise = rng.normal(0, 22, real.shape)
    fake = np.stack([images[data.target == k][20:28] for k in range(10)])
    made = (fake + noise).clip(0, 255).astype(np.uint8)
    return SampleGrid(8, NAMES, {"generated": made, "real": real})


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
                    fid = (
                        5
                        + 9 * abs(math.log(weight / 1.25)) ** 1.4
                        + 2.5 * mix
                        + 8 * level
                        + rng.uniform(0, 0.3)
                    )
                    row = {
                        "phase": phase, "model": model, "resolution": resolution, "checkpoint": 0,
                        "solver": "ddpm", "num_sampling_steps": 64, "guidance_weight": weight,
                        "logvar_mix": mix, "aug_level": level, "guidance_min_t": 0.0, "guidance_max_t": 1.0,
                        "guide_checkpoint": 0, "ema_length": 0.0,
                        "n": 1024, "reference": "val", "n_reference": 360, **ENCODER, "seed": 0, "fid": fid,
                        "inception_score": 6.0 + 1.5 * math.log(weight + 0.5), "inception_score_std": 0.11,
                        "cas_network": "resnet", "cas": 0.93 - 0.011 * fid + rng.uniform(0, 0.01),
                        "cas_top5": 0.99 - 0.004 * fid, "chosen": False, "pareto": False,
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
            "inception_score_std": 0.13, "precision": precision, "recall": recall, "sfid": None,
            "density": 0.98, "coverage": 0.95, "kid": 0.0021, "kid_std": 0.0004, "kid_subsets": 100,
            "kid_subset_size": 1000, "fid_sizes": {}, "fid_infinity": None, "notes": [], "backend": "flax",
            "codec": "lossless", "reference_codec": "lossless",
        }
        for (name, reference), (fid, score, precision, recall) in measured.items()
    ]  # fmt: skip


def classify_rows(gains: dict[int, float] = GAINS) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(2), []
    parameters = {"resnet": 28_954, "resnet-wide": 114_122, "vit": 62_410}

    def add(model: str, mix: str, copies: int, shots: int, seed: int, top1: float, n_train: int) -> None:
        rows.append(
            {
                "model": model, "mix": mix, "set": "" if mix == "real" else "generated-16", "copies": copies,
                "subset": f"{shots}-shot" if shots else "all", "per_class": shots, "seed": seed,
                "top1": top1, "top5": min(1.0, top1 + 0.02), "n_train": n_train, "n_val": 360,
                "num_steps": 400, "num_epochs": 400 * 128 / n_train, "budget": "steps", "resolution": 16,
                "set_resolution": 0 if mix == "real" else 16, "input": 16, "parameters": parameters[model],
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
            few = top1 + float(rng.normal(0, 0.01))
            add("resnet", "real", 0, shots, seed, few, 10 * shots)
            both = 0.9 + float(rng.normal(0, 0.01))
            add("resnet", "real+generated", 1, shots, seed, both, 1437 + 10 * shots)
    return rows


def per_class() -> list[dict[str, Any]]:
    rng, results = np.random.default_rng(3), []
    for model in MODELS:
        for mix, mean in (("real", 0.965), ("generated", 0.9)):
            for seed in SEEDS:
                accuracy = (mean + rng.normal(0, 0.03, 10)).clip(0, 1).tolist()
                results.append(class_row(model, mix, "generated-16", seed, accuracy))
    return results


def class_row(model: str, mix: str, name: str, seed: int, accuracy: list[float | None]) -> dict[str, Any]:
    name, copies = ("", 0) if mix == "real" else (name, 1)
    return {
        "model": model, "mix": mix, "set": name, "copies": copies, "subset": "all", "seed": seed,
        "accuracy": accuracy,
    }  # fmt: skip


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


def image_facts(num_classes: int, num_train: int, num_val: int) -> dict[str, Any]:
    each = {"train": num_train // num_classes, "val": num_val // num_classes}
    none = {"images": 0, "groups": 0, "other_class": 0, "first": []}
    return {
        "num_classes": num_classes, "num_train": num_train, "num_val": num_val, "resolutions": [8, 16],
        "resize": "area", "decoder": "pillow", "enlarged": {"8": 0, "16": 0}, "other_files": 0,
        "balance": {
            name: {"min": n - 4, "median": n + 0.5, "max": n + 5, "below": []} for name, n in each.items()
        },
        "duplicates": {"train": none, "val": none, "between": none},
        "corrupt": {},
    }  # fmt: skip


def report(**changes: Any) -> Report:
    choices = [
        Choice(
            "guidance", "base8", "lowest fid", {"guidance_weight": 1.25, "logvar_mix": 0.0}, 5.1, 6.84, 0.874
        ),
        Choice("augmentation", "sr16", "lowest fid", {"aug_level": 0.0, "logvar_mix": 0.1}, 5.5, 6.6, None),
    ]
    results = {
        "name": "digits",
        "command": "synthaug run jobs/digits.yaml",
        "versions": {
            "synthaug": "0.1.0",
            "jax": "0.10.2",
            "flax": "0.12.8",
            "numpy": "2.4.6",
            "python": "3.11.2",
        },
        "licences": [dataclasses.asdict(licences.LICENCES["deepfloyd-if"])],
        "data": image_facts(10, 1437, 360),
        "class_names": NAMES,
        "sets": [
            {
                "name": f"generated-{px}",
                "set": "generated",
                "resolution": px,
                "source": "own",
                "licence": "",
                "tuned": True,
            }
            for px in (8, 16)
        ],
        "sweep": sweep_rows(),
        "score": score_rows(),
        "further_scores": [],
        "classify": classify_rows(),
        "per_class": per_class(),
    }
    results.update({k: changes.pop(k) for k in list(changes) if k in results})
    made = Report(
        title="Handwritten digits: what is generated data worth?",
        description="The whole study of Azizi et al. 2023 at toy size: a two-model cascade (8 to 16 px) "
        "fine-tuned on 1,437 scans of handwritten digits.",
        results=results,
        samples=[digits()],
        stages=stages(),
        choices=choices,
        notes=["finetune: part 0 was stopped once and resumed at step 1,500."],
        settings_text='cascade.base8.resolution: 8\nname: "digits"\nseed: 0\n',
    )
    return dataclasses.replace(made, **changes)


def bare(**changes: Any) -> Report:
    """Returns a report without anything that takes time to draw."""
    empty: dict[str, Any] = {
        "sweep": [],
        "score": [],
        "classify": [],
        "samples": [],
        "per_class": [],
        "stages": [],
        "choices": [],
    }
    return report(**{**empty, **changes})


# ------------------------------------------------------------------------------------- ImageNet-1K's shape


def imagenet(**changes: Any) -> Report:
    """Returns a report with every row of the paper, each a little off the paper's own number."""
    names = [f"class number {k}" for k in range(1000)]
    results = {
        "name": "imagenet-1024",
        "command": "synthaug run jobs/imagenet-1024.yaml",
        "data": {**image_facts(1000, 1_281_167, 50_000), "resolutions": [64, 256], "resize": "adm"},
        "class_names": names,
        "sets": [
            *({"name": f"generated-{px}", "set": "generated", "resolution": px, "source": "own",
               "licence": "", "tuned": True} for px in (64, 256, 1024)),
            {"name": "biggan", "set": "biggan", "resolution": 256, "source": "npz", "licence": "MIT",
             "tuned": False},
            {"name": "edm2", "set": "edm2", "resolution": 256, "source": "webdataset", "licence": "",
             "tuned": False},
        ],
        "sweep": imagenet_sweep(),
        "score": imagenet_scores(),
        "further_scores": [],
        "classify": imagenet_classify(),
        "per_class": imagenet_classes(),
    }  # fmt: skip
    results.update({k: changes.pop(k) for k in list(changes) if k in results})
    made = report(
        samples=[], choices=[], stages=[], notes=[], description="All rows of the paper.", **results
    )
    return dataclasses.replace(made, title="ImageNet: what is generated data worth?", **changes)


WHOLE_SPLITS = {"train": 1_281_167, "val": 50_000}
PUBLIC = {"encoder": "inception-2015-12-05", "resize": "TF1 bilinear without antialiasing 256->299, f32"}


def imagenet_sweep() -> list[dict[str, Any]]:
    blank = {**sweep_rows()[0], **PUBLIC, "n_reference": 50_000, "cas": None, "num_sampling_steps": 1000}
    del blank["cas_top5"]
    rows = []
    base = {**blank, "model": "base64", "resolution": 64}
    for mix, curve in paper.DIGITISED_FIGURE_3_FID_50K.items():
        for weight, fid in zip(paper.GUIDANCE, curve, strict=True):
            own = {"phase": "base", "guidance_weight": weight, "logvar_mix": mix, "fid": fid * 1.1}
            rows.append({**base, **own, "n": 50_000, "chosen": (mix, weight) == (0.0, 1.25)})
    for i, weight in enumerate(paper.GUIDANCE):
        rows.append({
            **base, "phase": "guidance", "guidance_weight": weight, "reference": "train", "n": 1_281_167,
            "n_reference": 1_281_167, "fid": paper.DIGITISED_FIGURE_3_FID_1200K[i] * 1.2,
            "chosen": weight == 1.25, "logvar_mix": 0.0,
            "inception_score": paper.DIGITISED_FIGURE_3_INCEPTION_SCORE[i] * 0.9,
            "cas_network": "resnet50",
            "cas": paper.DIGITISED_FIGURE_3_TOP1[i] / 105, "cas_top5": paper.DIGITISED_FIGURE_3_TOP5[i] / 105,
        })  # fmt: skip
    for mix, (fids, scores) in paper.DIGITISED_FIGURE_4.items():
        for level, fid, cas in zip(paper.AUG_LEVELS, fids, scores, strict=True):
            rows.append({
                **blank, "phase": "enlarge", "model": "sr256", "resolution": 256, "guidance_weight": 1.0,
                "logvar_mix": mix, "aug_level": level, "fid": fid + 0.2, "cas": cas / 101,
                "cas_network": "resnet50", "n": 1_281_167,
                "reference": "train", "n_reference": 1_281_167, "chosen": (mix, level) == (0.1, 0.0),
            })  # fmt: skip
    return rows


def imagenet_scores() -> list[dict[str, Any]]:
    sets = {("generated", 64): (1.4, 2.7, 83.1), ("generated", 256): (1.9, 3.0, 231.0),
            ("biggan", 256): (7.1, 8.0, 168.0), ("edm2", 256): (1.8, 2.6, 250.0)}  # fmt: skip
    blank = {**score_rows()[0], **PUBLIC, "n": 1_281_167}
    return [
        {
            **blank, "set": name, "resolution": px, "reference": reference, "fid": fid,
            "n_reference": WHOLE_SPLITS[reference], "inception_score": score,
        }
        for (name, px), (train, val, score) in sets.items()
        for reference, fid in (("train", train), ("val", val))
    ]  # fmt: skip


def imagenet_classify() -> list[dict[str, Any]]:
    """Returns Table 2 with the CAS network, Table 3 without its last row, and Table 4 without 1024 px."""
    rng, rows = np.random.default_rng(5), []
    parameters = {row.name: int(row.parameters * 1e6) for row in paper.TABLE_3} | {"resnet50": 25_557_032}

    def add(model: str, px: int, mix: str, name: str, set_px: int, copies: int, percent: float) -> None:
        for seed in range(3):
            top1 = percent / 100 + float(rng.normal(0, 0.0008))
            n_train = 1_281_167 * (copies + (mix != "generated"))
            rows.append({
                "model": model, "mix": mix, "set": name, "copies": copies, "subset": "all", "per_class": 0,
                "seed": seed, "top1": top1, "top5": min(1.0, top1 + 0.17), "n_train": n_train,
                "n_val": 50_000, "num_steps": 112_590, "num_epochs": 90.0 / (1 + copies), "budget": "steps",
                "resolution": 256 if model == "resnet50-cas" else 0, "set_resolution": set_px, "input": px,
                "parameters": parameters.get(model, 25_557_032),
            })  # fmt: skip

    add("resnet50-cas", 224, "real", "", 0, 0, 73.2)
    for name, px, percent in (("generated-256", 256, 64.1), ("biggan", 256, 43.0), ("edm2", 256, 66.6)):
        add("resnet50-cas", 224, "generated", name, px, 1, percent)
    for row in paper.TABLE_3[:-1]:
        add(row.name, row.input, "real", "", 0, 0, row.real - 0.2)
        add(row.name, row.input, "generated", "generated-1024", 1024, 1, row.generated - 1.1)
        add(row.name, row.input, "real+generated", "generated-1024", 1024, 1, row.mixed - 0.4)
    for size in paper.TABLE_4[1:]:
        add("resnet50", 224, "real+generated", "generated-256", 256, size.copies, size.top1_256.mean - 0.1)
    return rows


def imagenet_classes() -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(6), []
    real = rng.beta(5, 1.8, 1000)
    for seed in range(2):
        noisy = np.round((real + rng.normal(0, 0.03, 1000)).clip(0, 1) * 50) / 50
        rows.append(class_row("resnet50-cas", "real", "", seed, noisy.tolist()))
        for name, drop in (("generated-256", 0.09), ("biggan", 0.3), ("edm2", 0.06)):
            fake = np.round((real - drop + rng.normal(0, 0.12, 1000)).clip(0, 1) * 50) / 50
            rows.append(class_row("resnet50-cas", "generated", name, seed, fake.tolist()))
    return rows
