"""OpenAI's ADM: the outputs of its public implementation, from its own tensors and config."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug.diffusion.cascade import enlarge
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Network
from synthaug.models.functional import abstract
from synthaug.models.unet import build_unet
from synthaug.weights import adm, open_unet
from synthaug.weights.rules import flatten, read_params, write_params
from synthaug.weights.tensors import Tensors, open_tensors

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
NAMES = ["adm64", "adm_upsampler"]


@functools.cache
def config(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / name / "config.json").read_text())


@functools.cache
def read(name: str) -> tuple[Network, Diffusion, dict[str, Any], Tensors]:
    network, diffusion = adm.read_config(config(name), name)
    tensors = open_tensors(FIXTURES / name, adm.FILE)
    shapes = abstract(build_unet(network))["params"]
    return network, diffusion, read_params(adm.rules(network), tensors, shapes), tensors


@pytest.mark.parametrize("name", NAMES)
def test_output_is_that_of_the_public_implementation(name):
    network, _, params, _ = read(name)
    known = np.load(FIXTURES / name / "io.npz")
    cond = {"label": known["labels"].astype(np.int32)}
    if network.low_res:
        cond["low_res"] = enlarge(jnp.asarray(known["low_res"]), network.resolution, network.enlarge)
    model, time = build_unet(network), known["t"].astype(np.float32)
    found = jax.jit(model.apply)({"params": params, "stats": {}}, known["x"], time, cond)
    assert found.shape == known["y"].shape
    assert np.abs(found - known["y"]).max() <= 1e-4 * np.abs(known["y"]).max()


@pytest.mark.parametrize("name", NAMES)
def test_tensors_and_config_survive_the_round_trip(name):
    network, diffusion, params, tensors = read(name)
    written = dict(write_params(adm.rules(network), params))
    assert written.keys() == tensors.stored.keys()
    assert all(np.array_equal(written[key], tensors.read(key)) for key in written)
    config = adm.write_config(network, diffusion)
    assert adm.read_config(json.loads(json.dumps(config)), "x") == (network, diffusion)


def test_the_order_of_queries_keys_and_values_is_the_files_affair():
    legacy, _, params, _ = read("adm_upsampler")
    new = dataclasses.replace(legacy, qkv_order="by_part")
    written = dict(write_params(adm.rules(new), params))
    moved = [
        key
        for key, array in write_params(adm.rules(legacy), params)
        if not np.array_equal(array, written[key])
    ]
    assert moved and all(".qkv." in key for key in moved)
    again = {rule.ours: rule.load([written[key] for key in rule.theirs]) for rule in adm.rules(new)}
    assert all(np.array_equal(again[path], leaf) for path, leaf in flatten(params).items())


def test_as_many_steps_as_the_config_says_may_be_asked_for(tmp_path):
    shutil.copytree(FIXTURES / "adm64", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({**config("adm64"), "diffusion_steps": 4000}))
    unet = open_unet(tmp_path)
    z_t, labels = np.zeros((1, 16, 16, 3), np.float32), np.zeros(1, np.int32)
    given = jax.ShapeDtypeStruct(z_t.shape, z_t.dtype)
    shape = jax.eval_shape(lambda z: unet(z, np.array([3999]), labels=labels), given).shape
    assert shape == (1, 16, 16, 6)
    with pytest.raises(ConfigError, match="t holds 4000; expected 0 to 3999"):
        unet(z_t, np.array([4000]), labels=labels)


def test_what_the_configs_say():
    network, diffusion, _, _ = read("adm_upsampler")
    assert (network.low_res, network.augmentation, network.enlarge) == (True, "none", "half_pixel")
    assert (network.unet.num_heads, network.unet.attention_resolutions) == (4, (8,))
    assert diffusion == Diffusion(schedule="linear", num_timesteps=1000, learned_variance=True)
    network, diffusion, _, _ = read("adm64")
    assert (network.low_res, network.num_classes, network.unet.head_dim) == (False, 7, 16)
    assert network.unet.attention_resolutions == (8, 4) and diffusion.schedule == "cosine"
    said = adm.read_config({**config("adm64"), "noise_schedule": "linear"}, "x")
    assert said[1].schedule == "linear" and adm.write_config(*said)["noise_schedule"] == "linear"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"use_scale_shift_norm": False},
            "use_scale_shift_norm = False is not supported for ADM; expected True",
        ),
        ({"resblock_updown": False}, "resblock_updown = False .* expected True"),
        ({"num_classes": None}, "num_classes = None .* only class-conditional"),
        ({"dims": 3}, "dims = 3 .* expected 2"),
        ({"num_heads_upsample": 2}, "num_heads_upsample = 2 .* expected -1"),
        ({"num_head_channels": 48}, r"num_head_channels = 48 .* a divisor of .* \[64, 64, 64\]"),
        ({"channel_mult": "1,2"}, "channel_mult = '1,2' .* expected a list"),
        ({"channel_mult": [1, 1.25]}, "channel_mult = .* multiples of 32"),
        ({"out_channels": 4}, "out_channels = 4 .* expected 3 or 6"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule = 'sigmoid' .* 'cosine' or 'linear'"),
        ({"image_size": 18}, "image_size = 18 .* multiples of"),
        ({"predict_xstart": True}, "predict_xstart = True .* expected no such setting, or null"),
        ({"dropout": 0.95}, r"unet\.dropout = 0\.95 is out of range; expected a number >= 0 and <= 0\.9"),
        ({"dropout": -0.5}, r"unet\.dropout = -0\.5 is out of range"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=f"^x/config.json: {message}"):
        adm.read_config({**config("adm64"), **changes}, "x/config.json")


def test_every_key_that_decides_the_network_must_be_there():
    may_lack = {
        "dropout",
        "use_checkpoint",
        "super_resolution",
        "num_head_channels",
        "use_new_attention_order",
    }
    for key in set(config("adm64")) - may_lack:
        with pytest.raises(ConfigError, match=f"^x: has no {key}, which every config of ADM has"):
            adm.read_config({k: v for k, v in config("adm64").items() if k != key}, "x")


def test_a_network_that_is_none_of_the_family_cannot_be_written():
    network, diffusion, _, _ = read("adm64")
    for changes, message in [
        ({"activation": "gelu"}, "unet.activation = 'gelu' cannot be written as ADM, where it is 'silu'"),
        ({"conditioning": "text"}, "unet.conditioning = 'text'"),
        ({"num_res_blocks": (1, 2, 1)}, "unet.num_res_blocks"),
        ({"norm_groups": 8}, "unet.norm_groups = 8"),
    ]:
        other = dataclasses.replace(network, unet=dataclasses.replace(network.unet, **changes))
        with pytest.raises(ConfigError, match=message):
            adm.write_config(other, diffusion)
