"""Which tensor of a DINOv2 file is which parameter, in the names of transformers and in those of timm."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

from synthaug.errors import DataError
from synthaug.models.dinov2 import HEAD_WIDTH, PATCH, DinoConfig
from synthaug.weights.rules import Rule, copy, joined, patches, reshaped
from synthaug.weights.tensors import Tensors

WANTED = "expected DINOv2 without registers, e.g. model.safetensors of huggingface.co/facebook/dinov2-large"
REGISTERS = ("embeddings.register_tokens", "register_tokens", "reg_token")
GATED = (".mlp.w12.", ".mlp.weights_in.", ".mlp.gate_proj.")


@dataclasses.dataclass(frozen=True)
class Family:
    """What files call the parts of the network; the parts of a layer stand behind "<layer>.<number>."."""

    token: str
    positions: str
    patches: str
    norm: str
    layer: str
    qkv: tuple[str, ...]
    out: str
    scales: tuple[str, str]


TRANSFORMERS = Family(
    token="embeddings.cls_token",
    positions="embeddings.position_embeddings",
    patches="embeddings.patch_embeddings.projection",
    norm="layernorm",
    layer="encoder.layer",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    out="attention.output.dense",
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
TIMM = Family(
    token="cls_token",
    positions="pos_embed",
    patches="patch_embed.proj",
    norm="norm",
    layer="blocks",
    qkv=("attn.qkv",),
    out="attn.proj",
    scales=("ls1.gamma", "ls2.gamma"),
)


def family_of(names: Iterable[str]) -> Family:
    """Returns the family of a file by the names of its tensors."""
    return TRANSFORMERS if any(name.startswith(("embeddings.", "encoder.")) for name in names) else TIMM


def rules(config: DinoConfig, family: Family) -> list[Rule]:
    """Returns which tensors of a family's file make up which parameter."""
    width, positions = config.width, 1 + config.grid**2
    made = [
        patches("patches/kernel", f"{family.patches}.weight", width, PATCH),
        copy("patches/bias", f"{family.patches}.bias", (width,)),
        reshaped("token", family.token, (1, 1, width), (width,)),
        reshaped("positions", family.positions, (1, positions, width), (positions, width)),
        *_norm("norm", family.norm, width),
    ]
    for i in range(config.num_layers):
        ours, theirs = f"layers/layer{i}", f"{family.layer}.{i}"
        qkv = tuple(f"{theirs}.{part}" for part in family.qkv)
        made += [
            *_norm(f"{ours}/norm0", f"{theirs}.norm1", width),
            *_dense(f"{ours}/qkv", qkv, 3 * width, width),
            *_dense(f"{ours}/out", (f"{theirs}.{family.out}",), width, width),
            *_norm(f"{ours}/norm1", f"{theirs}.norm2", width),
            *_dense(f"{ours}/linear0", (f"{theirs}.mlp.fc1",), 4 * width, width),
            *_dense(f"{ours}/linear1", (f"{theirs}.mlp.fc2",), width, 4 * width),
        ]
        made += [
            copy(f"{ours}/scale{k}", f"{theirs}.{scale}", (width,)) for k, scale in enumerate(family.scales)
        ]
    return made


def _dense(ours: str, theirs: tuple[str, ...], outputs: int, inputs: int) -> list[Rule]:
    each = outputs // len(theirs)
    weights, biases = ([f"{name}.{part}" for name in theirs] for part in ("weight", "bias"))
    return [
        joined(f"{ours}/kernel", weights, [(each, inputs)] * len(theirs)),
        joined(f"{ours}/bias", biases, [(each,)] * len(theirs)),
    ]


def _norm(ours: str, theirs: str, width: int) -> list[Rule]:
    return [
        copy(f"{ours}/scale", f"{theirs}.weight", (width,)),
        copy(f"{ours}/bias", f"{theirs}.bias", (width,)),
    ]


def read_config(tensors: Tensors) -> DinoConfig:
    """Returns the sizes of the network in a file, by the shapes of its tensors.

    Raises:
        DataError: the file holds something else than DINOv2 without registers.
    """
    if problem := _problem(tensors):
        raise DataError(f"{tensors.folder}: {problem}; {WANTED}: take that file.")
    family = family_of(tensors.stored)
    _, positions, width = tensors.shape(family.positions)
    layers = (re.match(rf"{re.escape(family.layer)}\.(\d+)\.", name) for name in tensors.stored)
    return DinoConfig(width, 1 + max(int(layer[1]) for layer in layers if layer), math.isqrt(positions - 1))


def _problem(tensors: Tensors) -> str:
    """Returns why a file is none that `rules` can be made for; empty if it is one."""
    family, names = family_of(tensors.stored), tensors.stored
    if any(name in names for name in REGISTERS):
        return "holds a DINOv2 with registers, whose features are other ones"
    if any(mark in name for name in names for mark in GATED):
        return "holds a DINOv2 with gated MLPs, as the giant has, which is not supported"
    for name in (family.token, family.positions, f"{family.patches}.weight"):
        if name not in names:
            return f"has no {name}; its first tensor is {next(iter(names), 'none')[:80]}"
    if f"{family.layer}.0.{family.scales[0]}" not in names:
        return f"has no {family.layer}.0.{family.scales[0]}: it is another vision transformer"
    kernel, positions = tensors.shape(f"{family.patches}.weight"), tensors.shape(family.positions)
    if kernel[2:] != (PATCH, PATCH):
        return f"{family.patches}.weight has shape {list(kernel)}; patches have {PATCH} x {PATCH} px"
    square = (
        len(positions) == 3 and positions[1] > 1 and math.isqrt(positions[1] - 1) ** 2 == positions[1] - 1
    )
    if not square or positions[2] % HEAD_WIDTH:
        return (
            f"{family.positions} has shape {list(positions)}, which is no class token and a square of patches"
        )
    return ""
