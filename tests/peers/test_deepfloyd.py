"""DeepFloyd IF against diffusers: random weights, saved by diffusers, read here, the same output."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Network
from synthaug.models.functional import abstract
from synthaug.models.unet import build_unet
from synthaug.weights import deepfloyd
from synthaug.weights.rules import read_params, write_params
from synthaug.weights.tensors import open_tensors

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

PLAIN = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
ATTENDING = ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D")


def config(widths: tuple[int, ...], attending: tuple[bool, ...], **changes: Any) -> dict[str, Any]:
    """Returns the keys of the published unet/config.json, with these widths; stage I unless changed."""
    kinds = [ATTENDING if attends else PLAIN for attends in attending]
    return {
        "act_fn": "gelu",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "attention_head_dim": 16,
        "block_out_channels": list(widths),
        "class_embed_type": None,
        "cross_attention_dim": 32,
        "cross_attention_norm": "group_norm",
        "down_block_types": [down for down, _ in kinds],
        "encoder_hid_dim": 24,
        "encoder_hid_dim_type": "text_proj",
        "in_channels": 3,
        "layers_per_block": 1,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "norm_num_groups": 8,
        "only_cross_attention": False,
        "out_channels": 6,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "scale_shift",
        "sample_size": 16,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "up_block_types": [up for _, up in reversed(kinds)],
        **changes,
    }


STAGE_TWO = {
    "class_embed_type": "timestep",
    "in_channels": 6,
    "mid_block_scale_factor": 1.4142271248762552,
    "resnet_out_scale_factor": 1.4142271248762552,
    "resnet_skip_time_act": True,
    "time_embedding_act_fn": "gelu",
    "time_embedding_dim": 48,
}
CASES = {
    "one_of_everything": config((32, 64), (False, True)),
    "four_levels_like_xl": config((32, 48, 64, 96), (False, True, True, True), layers_per_block=2),
    "wide_heads_and_text": config(
        (32, 64, 64), (False, True, True), attention_head_dim=32, cross_attention_dim=96, encoder_hid_dim=40,
        addition_embed_type_num_heads=5, norm_num_groups=32,
    ),
    "stage_two_like_l": config(
        (16, 32, 64, 96), (False, False, True, True), layers_per_block=[2, 1, 2, 3], sample_size=32,
        **STAGE_TWO,
    ),
    "stage_two_no_learned_variance": config((16, 32), (False, True), **STAGE_TWO | {"out_channels": 3}),
}  # fmt: skip
# Batch, height, width and tokens; all but the first are no images of `sample_size`.
INPUTS = {
    "one_of_everything": (3, 16, 16, 7),
    "four_levels_like_xl": (2, 24, 40, 77),
    "wide_heads_and_text": (1, 20, 12, 5),
    "stage_two_like_l": (2, 40, 24, 13),
    "stage_two_no_learned_variance": (4, 6, 10, 1),
}


@functools.cache
def peer(name: str) -> Any:
    """Returns diffusers' network with random weights, none of which are zero or one."""
    torch.set_num_threads(2)
    torch.manual_seed(len(name))
    model = diffusers.UNet2DConditionModel(**CASES[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@functools.cache
def saved(name: str, folder: pathlib.Path) -> pathlib.Path:
    peer(name).save_pretrained(folder / name, safe_serialization=True)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("deepfloyd")


def read(there: pathlib.Path) -> tuple[Network, Diffusion, dict[str, Any]]:
    network, diffusion = deepfloyd.read_config(json.loads((there / "config.json").read_text()), str(there))
    shapes = abstract(build_unet(network))["params"]
    return (
        network,
        diffusion,
        read_params(deepfloyd.rules(network), open_tensors(there, deepfloyd.FILE), shapes),
    )


def inputs(name: str) -> dict[str, np.ndarray]:
    batch, height, width, tokens = INPUTS[name]
    numbers = np.random.default_rng(0)
    made = {
        "z_t": numbers.normal(size=(batch, height, width, 3)),
        "time": np.linspace(0, 999, batch).round(),
        "text": numbers.normal(size=(batch, tokens, CASES[name]["encoder_hid_dim"])),
        "low_res": numbers.normal(size=(batch, height, width, 3)),
        "aug_time": np.linspace(250, 0, batch).round(),
    }
    return {key: value.astype(np.float32) for key, value in made.items()}


def of_peer(name: str) -> np.ndarray:
    x = {key: torch.from_numpy(value) for key, value in inputs(name).items()}
    enlarges = CASES[name]["class_embed_type"] == "timestep"
    sample = torch.cat([x["z_t"], x["low_res"]], dim=-1) if enlarges else x["z_t"]
    with torch.no_grad():
        out = peer(name)(
            sample.permute(0, 3, 1, 2), x["time"], x["text"], class_labels=x["aug_time"] if enlarges else None
        )
    return out.sample.permute(0, 2, 3, 1).numpy()


def of_ours(network: Network, params: dict[str, Any], name: str, compute: str = "f32") -> np.ndarray:
    """Returns our output by way of what is computed of the text once per image."""
    model, weights, x = build_unet(network, compute=compute), {"params": params, "stats": {}}, inputs(name)
    mask = jnp.zeros(x["text"].shape[:2], bool)  # all of it is attended to, whatever the mask says

    def run(weights: Any, x: dict[str, jax.Array]) -> jax.Array:
        cond = {"text_state": model.apply(weights, x["text"], mask, method="read_text")}
        if network.low_res:
            cond |= {"low_res": x["low_res"], "aug_time": x["aug_time"]}
        return model.apply(weights, x["z_t"], x["time"], cond)

    # Most of this file's time is compilation; this halves it.
    quick = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(quick(weights, x))


@pytest.mark.parametrize("name", CASES)
def test_output_is_that_of_diffusers(name, folder):
    network, _, params = read(saved(name, folder))
    expected = of_peer(name)
    assert np.abs(of_ours(network, params, name) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["one_of_everything", "stage_two_like_l"])
def test_bfloat16_is_near(name, folder):
    network, _, params = read(saved(name, folder))
    expected, found = of_peer(name).ravel(), of_ours(network, params, name, compute="bf16").ravel()
    assert found.dtype == np.float32 and found @ expected > 0.999 * np.sqrt(
        found @ found * (expected @ expected)
    )


@pytest.mark.parametrize("name", CASES)
def test_tensors_and_config_survive_the_round_trip(name, folder, tmp_path):
    network, diffusion, params = read(saved(name, folder))
    written = dict(write_params(deepfloyd.rules(network), params))
    there = {key: value.numpy() for key, value in peer(name).state_dict().items()}
    assert written.keys() == there.keys()
    assert all(written[key].dtype == there[key].dtype for key in there)
    assert all(np.array_equal(written[key], there[key]) for key in there)
    config = deepfloyd.write_config(network, diffusion)
    assert deepfloyd.read_config(json.loads(json.dumps(config)), "x") == (network, diffusion)


def test_diffusers_makes_the_same_images_of_what_is_written_here(folder, tmp_path):
    from safetensors.numpy import save_file

    name = "stage_two_like_l"
    network, diffusion, params = read(saved(name, folder))
    (tmp_path / "config.json").write_text(json.dumps(deepfloyd.write_config(network, diffusion)))
    tensors = {n: np.ascontiguousarray(a) for n, a in write_params(deepfloyd.rules(network), params)}
    save_file(tensors, tmp_path / f"{deepfloyd.FILE}.safetensors")
    model = diffusers.UNet2DConditionModel.from_pretrained(tmp_path).eval()
    x = {key: torch.from_numpy(value) for key, value in inputs(name).items()}
    sample = torch.cat([x["z_t"], x["low_res"]], dim=-1).permute(0, 3, 1, 2)
    with torch.no_grad():
        out = model(sample, x["time"], x["text"], class_labels=x["aug_time"]).sample.permute(0, 2, 3, 1)
    np.testing.assert_allclose(out.numpy(), of_peer(name), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name = 'AutoencoderKL' is not supported for DeepFloyd IF"),
        (
            {"mid_block_type": "UNetMidBlock2DCrossAttn"},
            "mid_block_type = .* expected 'UNetMidBlock2DSimpleCrossAttn'",
        ),
        ({"resnet_time_scale_shift": "default"}, "resnet_time_scale_shift = 'default' .* 'scale_shift'"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "down_block_types = .* expected only ResnetDownsample"),
        ({"up_block_types": ["ResnetUpsampleBlock2D"] * 2}, r"up_block_types = .* expected \['SimpleCross"),
        ({"act_fn": "mish"}, "act_fn = 'mish' .* 'gelu' or 'silu'"),
        ({"only_cross_attention": True}, "only_cross_attention = True .* expected False"),
        ({"resnet_skip_time_act": True}, "time_embedding_act_fn = None .* expected 'gelu'"),
        ({"mid_block_scale_factor": 2.0}, "mid_block_scale_factor = 2.0 .* expected 1.0"),
        ({"attention_head_dim": [8, 16]}, r"attention_head_dim = \[8, 16\] .* one whole number"),
        ({"attention_head_dim": 48}, r"attention_head_dim = 48 .* a divisor of .* \[32, 64\]"),
        ({"layers_per_block": [1, 2, 3]}, "layers_per_block = .* a list of 2 whole numbers"),
        ({"cross_attention_dim": 40}, "cross_attention_dim = 40 .* multiples of the groups of its norm = 32"),
        ({"sample_size": 15}, r"sample_size = 15 .* multiples of 2\^\(levels - 1\) = 2"),
        ({"in_channels": 4}, "out_channels = 6 .* expected 4 or 8 for in_channels = 4"),
        ({"norm_eps": 1e-6}, "norm_eps = 1e-06 .* expected 1e-05"),
        ({"upcast_attention": True}, "upcast_attention = True .* expected no such setting, or null"),
        ({"dropout": "high"}, "dropout = 'high' .* expected a number"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    tree = {"_class_name": "UNet2DConditionModel", **CASES["one_of_everything"], **changes}
    with pytest.raises(ConfigError, match=f"^x/config.json: {message}"):
        deepfloyd.read_config(tree, "x/config.json")


def test_every_key_that_decides_the_network_must_be_there():
    tree = {"_class_name": "UNet2DConditionModel", **CASES["one_of_everything"]}
    deepfloyd.read_config(tree, "x")
    for key in set(tree) - {"only_cross_attention"}:  # whose absence means the value that is supported
        with pytest.raises(ConfigError, match=f"^x: has no {key}, which every config of DeepFloyd IF has"):
            deepfloyd.read_config({k: v for k, v in tree.items() if k != key}, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_norm": "layer"}, "unet.text_norm = 'layer' cannot be written as DeepFloyd IF"),
        ({"attend_padding": False}, "unet.attend_padding = False"),
        ({"conditioning": "label", "attention": "self"}, "unet.conditioning = 'label'"),
        ({"num_heads": 2}, "unet.num_heads = 2"),
        ({"text_channels": 40}, "cross_attention_dim = 40"),
    ],
)
def test_a_network_that_is_none_of_the_family_cannot_be_written(changes, message):
    tree = {"_class_name": "UNet2DConditionModel", **CASES["one_of_everything"]}
    network, diffusion = deepfloyd.read_config(tree, "x")
    other = dataclasses.replace(network, unet=dataclasses.replace(network.unet, **changes))
    with pytest.raises(ConfigError, match=message):
        deepfloyd.write_config(other, diffusion)
    with pytest.raises(ConfigError, match=r"diffusion.prediction = 'v'"):
        deepfloyd.write_config(network, dataclasses.replace(diffusion, prediction="v"))
