"""The paper-scale jobs resolve, plan and shape-check; their headers tell the truth about size and time."""

from __future__ import annotations

import functools
import math
import pathlib
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from synthaug import config, experiment
from synthaug.checks.initial import init_problems
from synthaug.launch.plan import make_plan
from synthaug.models import attention
from synthaug.models.functional import abstract, count_parameters
from synthaug.models.unet import build_unet
from synthaug.train import digest
from synthaug.weights import deepfloyd
from tests import study

JOBS = [
    study.ROOT / "jobs" / f"{name}.yaml"
    for name in ("imagenet-64", "imagenet-256", "imagenet-1024", "vanilla")
]
FIELDS = ("makes", "command", "hardware", "hours", "sizes", "expect")
PEAK = 256 * 275e12 * 0.4
"""FLOP/s of the hardware in the headers: 256 TPU v4 at 40 % of their peak in bf16."""


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU takes the heads of attention one by one, in a loop that shape evaluation does not look into."""
    monkeypatch.setattr(attention, "ONE_HEAD_FROM", math.inf)


def header(path: pathlib.Path) -> dict[str, str]:
    """Returns the fields of a job's header, each as one line."""
    lines = [line[1:] for line in path.read_text().split("\nname:")[0].splitlines()]
    fields: dict[str, str] = {}
    name = "title"
    for line in lines:
        if found := re.match(r"   (\w+) +(.*)", line):
            name = found[1]
        fields[name] = f"{fields.get(name, '')} {found[2] if found else line.strip()}".strip()
    return fields


@functools.cache
def measure(network: experiment.Network, batch: int) -> tuple[int, float, tuple[int, ...]]:
    """Returns a network's parameters, FLOP of a forward pass per image, and the shape of its output."""
    model, shape, side = build_unet(network, compute="bf16"), jax.ShapeDtypeStruct, network.resolution
    weights = abstract(model)
    cond = {
        "text": shape((batch, network.text_length, network.text_width), jnp.float32),
        "text_mask": shape((batch, network.text_length), bool),
        "low_res": shape((batch, side, side, network.channels), jnp.float32),
        "aug_time": shape((batch,), jnp.float32),
    }
    image = shape((batch, side, side, network.channels), jnp.float32)
    program = jax.jit(model.apply).lower(weights, image, shape((batch,), jnp.float32), cond)
    return (
        count_parameters(weights["params"]),
        program.cost_analysis()["flops"] / batch,
        program.out_info.shape,
    )


def networks(job: experiment.Experiment) -> dict[str, experiment.Network]:
    return {name: experiment.network_of(job, name) for name in experiment.cascade_order(job.cascade)}


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_every_network_runs_at_full_size_and_is_as_large_as_the_header_says(path: pathlib.Path) -> None:
    job, said = experiment.load(path), header(path)
    assert set(FIELDS) <= set(said)
    for name, network in networks(job).items():
        parameters, flops, shape = measure(network, job.sample.batch_size)
        side = network.resolution
        assert shape == (job.sample.batch_size, side, side, network.out_channels)
        stated = re.search(rf"{name} ([\d,]+) parameters, ([\d.]+) TFLOP", said["sizes"])
        assert stated, f"{path.name}: sizes says nothing of {name}: {parameters:,} parameters"
        assert stated[1] == f"{parameters:,}", f"{path.name}: {name} has {parameters:,} parameters"
        assert float(stated[2]) == pytest.approx(flops / 1e12, rel=0.01), f"{name}: {flops:.3e} FLOP"


def evaluations(sampler: experiment.Sampler) -> int:
    """Returns how often the network runs for one image."""
    return sampler.num_sampling_steps * (1 if sampler.guidance_weight == 1 else 2)


def hours(job: experiment.Experiment) -> dict[str, float]:
    """Returns the hours of the diffusion models' work on the hardware of the headers."""
    flops = {name: measure(net, job.sample.batch_size)[1] for name, net in networks(job).items()}
    # Forward and backward pass are three forward passes, remat makes it four.
    tuned = {n: m.finetune.num_steps * m.finetune.batch_size * 4 for n, m in job.cascade.items()}
    swept, sampled = 0.0, {n: evaluations(m.sampler) for n, m in job.cascade.items()}
    for phase in job.sweep.phases.values():
        for point in phase.grid.points():
            settings = vars(job.cascade[phase.model].sampler) | point
            passes = evaluations(experiment.Sampler(**settings))
            swept += phase.num_images * passes * flops[phase.model]
    images = job.sample.copies * job.data.num_train
    return {
        "training": sum(n * flops[name] for name, n in tuned.items()) / PEAK / 3600,
        "sweep": swept / PEAK / 3600,
        "sampling": images * sum(n * flops[name] for name, n in sampled.items()) / PEAK / 3600,
    }


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_hours_in_the_header_follow_from_its_formula(path: pathlib.Path) -> None:
    said = header(path)["hours"]
    for what, expected in hours(experiment.load(path)).items():
        stated = re.search(rf"{what} ([\d.]+)", said)
        assert float(stated[1] if stated else 0) == pytest.approx(expected, rel=0.05, abs=0.1), (
            what,
            expected,
        )


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_plan_makes_all_images_in_parts_of_a_few_hours(path: pathlib.Path) -> None:
    job = experiment.load(path)
    sample = make_plan(job).stage("sample")
    assert sample is not None
    shards = sum(part.args["num_shards"] for part in sample.parts)
    assert shards == math.ceil(job.sample.copies * job.data.num_train / job.sample.shard_size)
    assert len(sample.parts) <= 300


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_header_says_how_to_run_it(path: pathlib.Path) -> None:
    said = header(path)
    assert f"synthaug run jobs/{path.name}" in said["command"]
    inits = {m.finetune.init for m in experiment.load(path).cascade.values()}
    for init in inits - {"scratch"}:
        assert re.search(rf"\b{init}\b|{init.split('/')[1]}", " ".join(said.values())), init


@pytest.mark.parametrize("verb", ["show", "plan"])
def test_answers_at_once(verb: str) -> None:
    began = time.monotonic()
    done = study.synthaug(verb, str(JOBS[1]))
    assert done.returncode == 0, done.stderr
    # 0.2 s on a quiet machine; the limit only tells reading settings from importing jax (seconds).
    assert time.monotonic() - began < 1.5


def test_imagen_is_tuned_as_the_paper_says() -> None:
    job = experiment.load(JOBS[1])
    base, sr = job.cascade["base64"], job.cascade["sr256"]
    assert (base.finetune.num_steps, base.finetune.optimizer.kind) == (210_000, "adafactor")
    assert (sr.finetune.num_steps, sr.finetune.optimizer.kind) == (490_000, "adam")
    for model in (base, sr):
        assert model.finetune.batch_size == 2048
        assert model.finetune.text_drop == 0.1
        assert model.finetune.optimizer.learning_rate == 1e-4
        assert model.finetune.optimizer.warmup_steps == 10_000
        assert model.sampler.num_sampling_steps == 1000
        assert model.sampler.aug_level == 0
    assert (base.sampler.guidance_weight, base.sampler.logvar_mix) == (1.25, 0.0)
    assert (sr.sampler.guidance_weight, sr.sampler.logvar_mix) == (1.0, 0.1)
    last = experiment.load(JOBS[2]).cascade["sr1024"].sampler
    assert (last.solver, last.num_sampling_steps, last.eta, last.guidance_weight) == ("ddim", 32, 0.0, 1.0)
    assert [len(p.grid.points()) for p in job.sweep.phases.values()] == [3, 90, 6, 4, 150, 12]


def published(stage: int) -> dict[str, Any]:
    """Returns what unet/config.json of IF-I-XL (stage 1) or IF-II-L (stage 2) says."""
    plain = {1: 1, 2: 3}[stage]
    widths = {1: [704, 1408, 2112, 2816], 2: [160, 320, 640, 960, 1280]}[stage]
    attending = len(widths) - plain
    down = ["ResnetDownsampleBlock2D"] * plain + ["SimpleCrossAttnDownBlock2D"] * attending
    up = ["SimpleCrossAttnUpBlock2D"] * attending + ["ResnetUpsampleBlock2D"] * plain
    said = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "gelu",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 64,
        "attention_head_dim": 64,
        "block_out_channels": widths,
        "class_embed_type": None,
        "cross_attention_dim": 2816,
        "cross_attention_norm": "group_norm",
        "down_block_types": down,
        "encoder_hid_dim": 4096,
        "encoder_hid_dim_type": "text_proj",
        "in_channels": 3,
        "layers_per_block": 3,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "norm_num_groups": 32,
        "out_channels": 6,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "scale_shift",
        "sample_size": 64,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "up_block_types": up,
    }
    if stage == 2:
        said |= {"class_embed_type": "timestep", "cross_attention_dim": 1280, "in_channels": 6}
        said |= {"layers_per_block": [2, 2, 3, 5, 5], "sample_size": 256, "time_embedding_dim": 1280}
        said |= {"mid_block_scale_factor": 1.4142271248762552, "resnet_skip_time_act": True}
        said |= {"resnet_out_scale_factor": 1.4142271248762552, "time_embedding_act_fn": "gelu"}
    return said


@pytest.mark.parametrize("path", JOBS[1:], ids=lambda p: p.stem)
def test_the_checkpoints_that_a_job_starts_from_fit_it(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    overrides = []
    for stage, name in ((1, "base64"), (2, "sr256")):
        network, diffusion = deepfloyd.read_config(published(stage), "config.json")
        trees = {"network": config.to_tree(network), "diffusion": config.to_tree(diffusion)}
        (tmp_path / name).mkdir()
        digest.write(tmp_path / name, {"about": {"family": "if", "licence": deepfloyd.LICENCE, **trees}})
        overrides.append(f"cascade.{name}.finetune.init={tmp_path / name}")
    if "sr1024" in experiment.load(path).cascade:
        overrides += ["cascade.sr1024.finetune.init=scratch", "cascade.sr1024.finetune.num_steps=500000"]
    assert init_problems(experiment.load(path, overrides)) == []


def test_vanilla_is_not_tuned_and_starts_from_the_settings_of_its_release() -> None:
    models = experiment.load(JOBS[3]).cascade
    assert {m.finetune.num_steps for m in models.values()} == {0}
    assert [len(m.sampler.timesteps) for m in models.values()] == [100, 50]
    assert [m.sampler.guidance_weight for m in models.values()] == [7.0, 4.0]
    for m in models.values():
        assert list(m.sampler.timesteps) == sorted(set(m.sampler.timesteps), reverse=True)
        assert len(m.sampler.timesteps) == m.sampler.num_sampling_steps
