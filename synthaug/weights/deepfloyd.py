"""DeepFloyd IF, stages I and II, in diffusers' files: config.json and tensors of a UNet2DConditionModel."""

from __future__ import annotations

from typing import Any

from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Network, UNet
from synthaug.models.blocks import TEXT_NORM_GROUPS, text_channels, text_pool_heads
from synthaug.models.unet import num_res_blocks
from synthaug.weights.public_config import PublicConfig, check_expressible, in_range
from synthaug.weights.rules import Rule
from synthaug.weights.unet_rules import unet_rules

LICENCE = "deepfloyd-if"
FILE = "diffusion_pytorch_model"

TEXT_LENGTH = 77
"""Tokens of a prompt, padding included, all of which the published networks attend to."""

_FAMILY = "DeepFloyd IF"
_PLAIN = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
_ATTENDING = ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D")
_FIXED: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "addition_embed_type": "text",
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim_type": "text_proj",
    "resnet_time_scale_shift": "scale_shift",
}
"""What every network of the family says of itself; another value is another kind of network."""

_DEFAULTS: dict[str, Any] = {
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "norm_eps": 1e-5,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
"""Likewise, with diffusers' own defaults: older versions did not write all of these."""

_HARMLESS = ("downsample_padding", "transformer_layers_per_block")
"""Settings of layers that these networks do not have."""

_PARTS = {
    "res/norm0": ("norm1",),
    "res/conv0": ("conv1",),
    "res/embedding": ("time_emb_proj",),
    "res/norm1": ("norm2",),
    "res/conv1": ("conv2",),
    "res/skip": ("conv_shortcut",),
    "attention/norm": ("group_norm",),
    "attention/qkv": ("to_q", "to_k", "to_v"),
    "attention/text_norm": ("norm_cross",),
    "attention/text_key_value": ("add_k_proj", "add_v_proj"),
    "attention/out": ("to_out.0",),
}
_STEM = {
    "conv_in": ("conv_in",),
    "time/linear0": ("time_embedding.linear_1",),
    "time/linear1": ("time_embedding.linear_2",),
    "aug_level/linear0": ("class_embedding.linear_1",),
    "aug_level/linear1": ("class_embedding.linear_2",),
    "text": ("encoder_hid_proj",),
    "text_pool/norm": ("add_embedding.norm1",),
    "text_pool/position": ("add_embedding.pool.positional_embedding",),
    "text_pool/query": ("add_embedding.pool.q_proj",),
    "text_pool/key_value": ("add_embedding.pool.k_proj", "add_embedding.pool.v_proj"),
    "text_pool/out": ("add_embedding.proj",),
    "text_pool/norm_out": ("add_embedding.norm2",),
    "norm_out": ("conv_norm_out",),
    "conv_out": ("conv_out",),
}


def read_config(config: dict[str, Any], where: str) -> tuple[Network, Diffusion]:
    """Returns the network that a config describes, and the diffusion of the family's published schedulers.

    Args:
        config: the contents of config.json.
        where: the file's name in errors.

    Raises:
        ConfigError: a key is missing, or names what this network does not have.
    """
    read = PublicConfig(config, where, _FAMILY)
    read.all_fixed(_FIXED, _DEFAULTS)
    channels, out_channels, told = _channels(read)
    network = Network(
        unet=_read_unet(read),
        resolution=read.integer("sample_size"),
        channels=channels,
        out_channels=out_channels,
        text_width=read.integer("encoder_hid_dim"),
        text_length=read.integer("text_length", TEXT_LENGTH),
        low_res=told,
        enlarge="align_corners" if told else "half_pixel",
        augmentation="discrete" if told else "none",
    )
    read.nothing_else(_HARMLESS)
    return in_range(network, where), Diffusion(
        schedule="cosine", num_timesteps=1000, learned_variance=out_channels == 2 * channels
    )


def _channels(read: PublicConfig) -> tuple[int, int, bool]:
    """Returns the channels of an image and of the output, and whether the network enlarges."""
    told = read.one_of("class_embed_type", (None, "timestep")) == "timestep"
    inputs, outputs = read.integer("in_channels"), read.integer("out_channels")
    if told and inputs % 2:
        read.refuse("in_channels", "an even number, because the low-resolution image enters, too")
    channels = inputs // 2 if told else inputs
    if outputs not in (channels, 2 * channels):
        read.refuse("out_channels", f"{channels} or {2 * channels} for in_channels = {inputs}")
    return channels, outputs, told


def _read_unet(read: PublicConfig) -> UNet:
    widths = read.integers("block_out_channels")
    levels, resolution = range(len(widths)), read.integer("sample_size")
    read.divides("sample_size", 2 ** levels[-1], "2^(levels - 1)")
    groups, head_dim = read.integer("norm_num_groups"), read.integer("attention_head_dim")
    heads = read.integer("addition_embed_type_num_heads")
    read.divides("block_out_channels", groups, "norm_num_groups")
    read.divides("encoder_hid_dim", heads, "addition_embed_type_num_heads")
    text = read.integer("cross_attention_dim")
    read.divides("cross_attention_dim", TEXT_NORM_GROUPS, "the groups of its norm")
    attending = [kind == _ATTENDING[0] for kind in _read_kinds(read, len(widths))]
    if any(widths[level] % head_dim for level in levels if attending[level] or level == levels[-1]):
        read.refuse("attention_head_dim", f"a divisor of every level with attention: {list(widths)}")
    act = read.one_of("act_fn", ("gelu", "silu", "swish"))
    # The embedding's activation stands once in front of all blocks, or in each: the same function.
    read.fixed("time_embedding_act_fn", act if read.flag("resnet_skip_time_act") else None)
    factor = read.number("resnet_out_scale_factor")
    read.fixed("mid_block_scale_factor", factor)
    if factor < 1.0:
        read.refuse("resnet_out_scale_factor", "a number of at least 1")
    blocks = read.integers("layers_per_block", len(widths))
    embedding = read.value("time_embedding_dim")
    return UNet(
        channels=widths[0],
        channel_mult=tuple(width / widths[0] for width in widths),
        num_res_blocks=blocks if len(set(blocks)) > 1 else blocks[:1],
        attention_resolutions=tuple(resolution >> level for level in levels if attending[level]),
        head_dim=head_dim,
        norm_groups=groups,
        activation="gelu" if act == "gelu" else "silu",
        residual_scale=1.0 / factor,
        embedding_width=0 if embedding is None else read.integer("time_embedding_dim"),
        text_channels=text,
        text_norm="group",
        text_pool_heads=heads,
        attend_padding=True,
        null_text="empty",
        dropout=read.number("dropout", 0.0, above=-1.0),
    )


def _read_kinds(read: PublicConfig, num_levels: int) -> list[str]:
    """Returns the blocks on the way down, after checking that the way up mirrors them."""
    kinds = read.value("down_block_types")
    if not isinstance(kinds, list | tuple) or len(kinds) != num_levels:
        read.refuse("down_block_types", f"a list of {num_levels}, as block_out_channels has")
    for kind in kinds:
        if kind not in (_PLAIN[0], _ATTENDING[0]):
            read.refuse("down_block_types", f"only {_PLAIN[0]} and {_ATTENDING[0]}")
    up = dict((_PLAIN, _ATTENDING))
    read.fixed("up_block_types", [up[kind] for kind in reversed(kinds)])
    return list(kinds)


def write_config(network: Network, diffusion: Diffusion) -> dict[str, Any]:
    """Returns the config.json with which diffusers builds a network; the inverse of `read_config`.

    Raises:
        ConfigError: the network or its diffusion is none of this family.
    """
    unet = network.unet
    for key, only in (("kind", "adm"), ("conditioning", "text")):
        if getattr(unet, key) != only:
            raise ConfigError(f"unet.{key} = {getattr(unet, key)!r} cannot be written as {_FAMILY}.")
    levels = range(len(unet.channel_mult))
    kinds = [
        _ATTENDING if network.resolution >> level in unet.attention_resolutions else _PLAIN
        for level in levels
    ]
    factor = 1.0 / unet.residual_scale
    config = {
        **_FIXED,
        **_DEFAULTS,
        "sample_size": network.resolution,
        "in_channels": (1 + network.low_res) * network.channels,
        "out_channels": network.out_channels,
        "block_out_channels": [int(mult * unet.channels) for mult in unet.channel_mult],
        "layers_per_block": [num_res_blocks(unet, level) for level in levels],
        "down_block_types": [down for down, _ in kinds],
        "up_block_types": [up for _, up in reversed(kinds)],
        "attention_head_dim": unet.head_dim,
        "norm_num_groups": unet.norm_groups,
        "act_fn": unet.activation,
        "resnet_skip_time_act": False,
        "time_embedding_act_fn": None,
        "resnet_out_scale_factor": factor,
        "mid_block_scale_factor": factor,
        "time_embedding_dim": unet.embedding_width or None,
        "cross_attention_dim": text_channels(unet),
        "encoder_hid_dim": network.text_width,
        "addition_embed_type_num_heads": text_pool_heads(unet, max(1, network.text_width)),
        "class_embed_type": "timestep" if network.low_res else None,
        "dropout": unet.dropout,
    }
    if network.text_length != TEXT_LENGTH:
        config["text_length"] = network.text_length  # no setting of diffusers, which says so and goes on
    check_expressible(network, diffusion, lambda: read_config(config, "its config.json"), _FAMILY)
    return config


def rules(network: Network) -> list[Rule]:
    """Returns which tensors of diffusers' file make up which parameter."""
    last = len(network.unet.channel_mult) - 1
    return unet_rules(
        network, lambda module: _modules(module, last), lambda theirs: 4 if "shortcut" in theirs else 2
    )


def _modules(module: str, last: int) -> tuple[str, ...]:
    """Returns diffusers' names of one of our modules; `last` is the number of the deepest level."""
    if module in _STEM:
        return _STEM[module]
    *block, kind, part = module.split("/")
    return tuple(f"{_block('/'.join(block), kind, last)}.{name}" for name in _PARTS[f"{kind}/{part}"])


def _block(block: str, kind: str, last: int) -> str:
    """Returns diffusers' name of a residual block or of the attention behind it."""
    kind = "attentions" if kind == "attention" else "resnets"
    if block.startswith("middle"):
        return f"mid_block.{kind}.{block.removeprefix('middle')}"
    way, name = block.split("/")
    level, name = name.removeprefix("level").split("_")
    number = int(level) if way == "down" else last - int(level)
    if name in ("down", "up"):
        return f"{way}_blocks.{number}.{way}samplers.0"
    return f"{way}_blocks.{number}.{kind}.{name.removeprefix('block')}"
