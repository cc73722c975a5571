"""OpenAI's ADM (guided-diffusion): class-conditional U-Nets and upsamplers, by the names its code publishes.

config.json holds the arguments of `UNetModel`, and `super_resolution` true for `SuperResModel`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Network, UNet
from synthaug.models.unet import block_names
from synthaug.weights.public_config import PublicConfig, check_expressible, in_range
from synthaug.weights.rules import Rule
from synthaug.weights.unet_rules import unet_rules

LICENCE = "adm"
FILE = "model"

_FAMILY = "ADM"
_NORM_GROUPS = 32
_FIXED = {"use_scale_shift_norm": True, "resblock_updown": True}
_DEFAULTS: dict[str, Any] = {"dims": 2, "num_heads_upsample": -1}
_HARMLESS = (
    *("conv_resample", "use_checkpoint", "use_fp16"),  # of layers these networks do not have, and of torch
    *("large_size", "small_size", "class_cond", "learn_sigma", "timestep_respacing"),  # of OpenAI's scripts
)
"""Settings that change nothing beside those that are read."""

_PARTS = {
    "res/norm0": "in_layers.0",
    "res/conv0": "in_layers.2",
    "res/embedding": "emb_layers.1",
    "res/norm1": "out_layers.0",
    "res/conv1": "out_layers.3",
    "res/skip": "skip_connection",
    "attention/norm": "norm",
    "attention/qkv": "qkv",
    "attention/out": "proj_out",
}
_STEM = {
    "conv_in": "input_blocks.0.0",
    "time/linear0": "time_embed.0",
    "time/linear1": "time_embed.2",
    "label": "label_emb.weight",
    "norm_out": "out.0",
    "conv_out": "out.2",
}
_AXES = {"qkv": 3, "proj_out": 3, "skip_connection": 4}


def read_config(config: dict[str, Any], where: str) -> tuple[Network, Diffusion]:
    """Returns the network that a config describes, and its diffusion.

    The constructor does not know the noise schedule: `noise_schedule` in the same file says it; without, it
    is that of the published models, cosine for 64x64 and below, linear for larger ones and upsamplers.

    Args:
        config: the contents of config.json.
        where: the file's name in errors.

    Raises:
        ConfigError: a key is missing, or names what this network does not have.
    """
    read = PublicConfig(config, where, _FAMILY)
    read.all_fixed(_FIXED, _DEFAULTS)
    enlarges = read.flag("super_resolution", False)
    resolution, channels = read.integer("image_size"), read.integer("in_channels")
    outputs = read.integer("out_channels")
    if outputs not in (channels, 2 * channels):
        read.refuse("out_channels", f"{channels} or {2 * channels} for in_channels = {channels}")
    if read.value("num_classes") is None:
        read.refuse("num_classes", "the number of classes: only class-conditional networks are supported")
    network = Network(
        unet=_read_unet(read, resolution),
        resolution=resolution,
        channels=channels,
        out_channels=outputs,
        num_classes=read.integer("num_classes"),
        low_res=enlarges,
        enlarge="half_pixel",
        augmentation="none",
        qkv_order="by_part" if read.flag("use_new_attention_order", False) else "by_head",
    )
    usual = _usual_schedule(resolution, enlarges)
    diffusion = Diffusion(
        schedule=read.one_of("noise_schedule", ("cosine", "linear"), usual),
        num_timesteps=read.integer("diffusion_steps", 1000),
        learned_variance=outputs == 2 * channels,
    )
    read.nothing_else(_HARMLESS)
    return in_range(network, where), diffusion


def _usual_schedule(resolution: int, enlarges: bool) -> str:
    return "linear" if enlarges or resolution > 64 else "cosine"


def _read_unet(read: PublicConfig, resolution: int) -> UNet:
    channels, mult = read.integer("model_channels"), read.value("channel_mult")
    numbers = isinstance(mult, list | tuple) and all(type(m) in (int, float) and m > 0 for m in mult)
    if not numbers or not mult or any((m * channels) % _NORM_GROUPS for m in mult):
        read.refuse("channel_mult", f"a list; times model_channels = {channels}, multiples of {_NORM_GROUPS}")
    read.divides("image_size", 2 ** (len(mult) - 1), "2^(levels - 1)")
    factors = read.integers("attention_resolutions")
    levels = [level for level in range(len(mult)) if 2**level in factors]
    attending = [int(mult[level] * channels) for level in [*levels, -1]]
    head_dim = read.value("num_head_channels", -1)
    heads = read.integer("num_heads", 1) if head_dim == -1 else 0
    if head_dim == -1 and any(width % heads for width in attending):
        read.refuse("num_heads", f"a divisor of every level with attention: {attending}")
    if head_dim != -1 and any(width % read.integer("num_head_channels") for width in attending):
        read.refuse("num_head_channels", f"a divisor of every level with attention: {attending}")
    return UNet(
        channels=channels,
        channel_mult=tuple(float(m) for m in mult),
        num_res_blocks=(read.integer("num_res_blocks"),),
        attention_resolutions=tuple(resolution >> level for level in levels),
        conditioning="label",
        attention="self",
        head_dim=64 if head_dim == -1 else head_dim,
        num_heads=heads,
        norm_groups=_NORM_GROUPS,
        dropout=read.number("dropout", 0.0, above=-1.0),
    )


def write_config(network: Network, diffusion: Diffusion) -> dict[str, Any]:
    """Returns the config.json of a network; the inverse of `read_config`.

    Raises:
        ConfigError: the network or its diffusion is none of this family.
    """
    unet, resolution = network.unet, network.resolution
    for key, only in (("kind", "adm"), ("conditioning", "label")):
        if getattr(unet, key) != only:
            raise ConfigError(f"unet.{key} = {getattr(unet, key)!r} cannot be written as {_FAMILY}.")
    levels = range(len(unet.channel_mult))
    config: dict[str, Any] = {
        **_FIXED,
        "image_size": resolution,
        "in_channels": network.channels,
        "out_channels": network.out_channels,
        "model_channels": unet.channels,
        "num_res_blocks": unet.num_res_blocks[0],
        "channel_mult": [int(m) if m == int(m) else m for m in unet.channel_mult],
        "attention_resolutions": [
            2**level for level in levels if resolution >> level in unet.attention_resolutions
        ],
        "use_new_attention_order": network.qkv_order == "by_part",
        "dropout": unet.dropout,
        "num_classes": network.num_classes or None,
        "use_checkpoint": False,
        "super_resolution": network.low_res,
    }
    config |= {"num_heads": unet.num_heads} if unet.num_heads else {"num_head_channels": unet.head_dim}
    if diffusion.schedule != _usual_schedule(resolution, network.low_res):
        config["noise_schedule"] = diffusion.schedule
    if diffusion.num_timesteps not in (0, 1000):
        config["diffusion_steps"] = diffusion.num_timesteps
    check_expressible(network, diffusion, lambda: read_config(config, "its config.json"), _FAMILY)
    return config


def rules(network: Network) -> list[Rule]:
    """Returns which tensors of ADM's file make up which parameter."""
    blocks = _blocks(network)

    def modules(module: str) -> tuple[str, ...]:
        if module in _STEM:
            return (_STEM[module],)
        *block, kind, part = module.split("/")
        return (f"{blocks['/'.join(block), kind]}.{_PARTS[f'{kind}/{part}']}",)

    made = unet_rules(network, modules, lambda theirs: _AXES.get(theirs.rpartition(".")[2], 2))
    if network.qkv_order == "by_part":
        return made
    return [_by_head(rule, network.unet) if "/qkv/" in rule.ours else rule for rule in made]


def _blocks(network: Network) -> dict[tuple[str, str], str]:
    """Returns ADM's name of every residual block and attention: a list of short sequences on either way.

    What re-samples has a sequence of its own on the way down and ends the one before it on the way up.
    """
    unet = network.unet
    names = {("middle0", "res"): "middle_block.0", ("middle0", "attention"): "middle_block.1"}
    names["middle1", "res"] = "middle_block.2"
    for number, name in enumerate(block_names(unet, "down"), 1):
        names[f"down/{name}", "res"] = f"input_blocks.{number}.0"
        names[f"down/{name}", "attention"] = f"input_blocks.{number}.1"
    number = -1
    for name in block_names(unet, "up"):
        level, last = name.removeprefix("level").split("_")
        if last == "up":
            attends = network.resolution >> int(level) in unet.attention_resolutions
            names[f"up/{name}", "res"] = f"output_blocks.{number}.{2 if attends else 1}"
            continue
        number += 1
        names[f"up/{name}", "res"] = f"output_blocks.{number}.0"
        names[f"up/{name}", "attention"] = f"output_blocks.{number}.1"
    return names


def _by_head(rule: Rule, unet: UNet) -> Rule:
    """Returns the rule of queries, keys and values that the file keeps head by head."""
    channels = rule.shapes[0][0] // 3
    heads = unet.num_heads or channels // unet.head_dim

    def swap(array: np.ndarray, first: int, second: int) -> np.ndarray:
        parts = array.reshape(first, second, channels // heads, *array.shape[1:])
        return parts.swapaxes(0, 1).reshape(array.shape)

    return Rule(
        rule.ours,
        rule.theirs,
        rule.shapes,
        lambda arrays: rule.load([swap(arrays[0], heads, 3)]),
        lambda array: [swap(rule.store(array)[0], 3, heads)],
    )
