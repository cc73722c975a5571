"""The published classifiers in timm's tensor names, both directions: ResNets, ResNet-RS, ViT and DeiT.

    classifier = synthaug.weights.open_classifier("resnet50.a1_in1k/model.safetensors", "resnet50")
    logits = classifier(images)                       # f32[B,H,W,3], normalised -> f32[B,K]
    synthaug.weights.write_classifier("mine.safetensors", "resnet50", weights)

This file says which tensor is which parameter; classifiers.py opens and writes.
Batch statistics are read and written with the weights. The count of batches that torch keeps beside them has
no meaning here: it is left out, and written as 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from synthaug.experiment import ARCHITECTURES, Architecture
from synthaug.models.bottleneck import EXPANSION, SQUEEZE, block_names
from synthaug.models.vit import PATCH, sincos_positions
from synthaug.weights.rules import Rule, conv, copy, linear, patches, reshaped, write_params

NAMES = {
    **{name: name for name in ARCHITECTURES if name.startswith("resnet")},
    "vit_s16": "vit_small_patch16_224",
    "deit_s16": "deit_small_patch16_224",
    "deit_b16": "deit_base_patch16_224",
    "deit_l16": "vit_large_patch16_224",
}
"""Our names and timm's; timm calls networks of other input sizes otherwise, e.g. deit_base_patch16_384."""

COUNTER = ".num_batches_tracked"
POSITIONS = "pos_embed"

_MOMENTS = (
    (("params", "scale", "weight"), ("params", "bias", "bias")),
    (
        ("stats", "mean", "running_mean"),
        ("stats", "var", "running_var"),
    ),
)


def rules(model: str, num_classes: int, tokens: int, *, token: bool, learned: bool) -> list[Rule]:
    """Returns which tensors of timm's file make up which of {"params", "stats"}.

    Args:
        model: our name.
        num_classes: K.
        tokens: learned positions, that of the class token included; ResNets have none.
        token: whether a transformer has a class token; else its features are the mean over the patches.
        learned: whether its positions are weights.
    """
    architecture = ARCHITECTURES[model]
    if architecture.family == "vit":
        return _vit(architecture, num_classes, tokens if learned else 0, token)
    return _resnet(architecture, num_classes)


# ------------------------------------------------------------------------------------------ ResNets


def _resnet(architecture: Architecture, num_classes: int) -> list[Rule]:
    is_rs, width = architecture.family == "resnet_rs", architecture.width
    made, inputs = _deep_stem(width) if is_rs else _plain_stem(width), width
    for name, stage, first in block_names(architecture.depths):
        inner, out = width << stage, EXPANSION * (width << stage)
        ours, theirs = f"blocks/{name}", f"layer{stage + 1}.{name.rpartition('block')[2]}"
        made += [
            linear(f"params/{ours}/conv0/kernel", f"{theirs}.conv1.weight", (inner, inputs, 1, 1)),
            *_norm(f"{ours}/norm0", f"{theirs}.bn1", inner),
            conv(f"params/{ours}/conv1/kernel", f"{theirs}.conv2.weight", (inner, inner, 3, 3)),
            *_norm(f"{ours}/norm1", f"{theirs}.bn2", inner),
            linear(f"params/{ours}/conv2/kernel", f"{theirs}.conv3.weight", (out, inner, 1, 1)),
            *_norm(f"{ours}/norm2", f"{theirs}.bn3", out),
        ]
        if is_rs:
            made += _dense(f"{ours}/squeeze/down", f"{theirs}.se.fc1", (out // SQUEEZE, out, 1, 1))
            made += _dense(f"{ours}/squeeze/up", f"{theirs}.se.fc2", (out, out // SQUEEZE, 1, 1))
        if first:
            at = f"{theirs}.downsample"  # ResNet-RS has the averaging in place 0
            kernel = (f"params/{ours}/shortcut/conv/kernel", f"{at}.{int(is_rs)}.weight")
            made += [
                linear(*kernel, (out, inputs, 1, 1)),
                *_norm(f"{ours}/shortcut/norm", f"{at}.{is_rs + 1}", out),
            ]
        inputs = out
    return made + _dense("head", "fc", (num_classes, inputs))


def _plain_stem(width: int) -> list[Rule]:
    return [
        conv("params/stem/kernel", "conv1.weight", (width, 3, 7, 7)),
        *_norm("stem/norm", "bn1", width),
    ]


def _deep_stem(width: int) -> list[Rule]:
    widths, made = (3, width // 2, width // 2, width, width), []
    places = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"), ("maxpool.0", "maxpool.1"))
    for i, (there, norm) in enumerate(places):
        shape = (widths[i + 1], widths[i], 3, 3)
        made += [
            conv(f"params/stem/conv{i}/kernel", f"{there}.weight", shape),
            *_norm(f"stem/norm{i}", norm, widths[i + 1]),
        ]
    return made


def _norm(ours: str, theirs: str, channels: int) -> list[Rule]:
    return [
        copy(f"{group}/{ours}/{mine}", f"{theirs}.{name}", (channels,))
        for pair in _MOMENTS
        for group, mine, name in pair
    ]


def _dense(ours: str, theirs: str, shape: tuple[int, ...]) -> list[Rule]:
    return [
        linear(f"params/{ours}/kernel", f"{theirs}.weight", shape),
        copy(f"params/{ours}/bias", f"{theirs}.bias", shape[:1]),
    ]


# ------------------------------------------------------------------------------------- transformers


def _vit(architecture: Architecture, num_classes: int, positions: int, token: bool) -> list[Rule]:
    width = architecture.width
    made = [
        patches("params/patches/kernel", "patch_embed.proj.weight", width, PATCH),
        copy("params/patches/bias", "patch_embed.proj.bias", (width,)),
    ]
    if token:
        made.append(reshaped("params/token", "cls_token", (1, 1, width), (width,)))
    if positions:
        made.append(reshaped("params/positions", POSITIONS, (1, positions, width), (positions, width)))
    for i in range(sum(architecture.depths)):
        ours, theirs = f"layers/layer{i}", f"blocks.{i}"
        made += [
            *_layer_norm(f"{ours}/norm0", f"{theirs}.norm1", width),
            *_dense(f"{ours}/qkv", f"{theirs}.attn.qkv", (3 * width, width)),
            *_dense(f"{ours}/out", f"{theirs}.attn.proj", (width, width)),
            *_layer_norm(f"{ours}/norm1", f"{theirs}.norm2", width),
            *_dense(f"{ours}/linear0", f"{theirs}.mlp.fc1", (4 * width, width)),
            *_dense(f"{ours}/linear1", f"{theirs}.mlp.fc2", (width, 4 * width)),
        ]
    # Without a class token this is timm's global_pool = avg, fc_norm = False: normalised, then averaged.
    return made + _layer_norm("norm", "norm", width) + _dense("head", "head", (num_classes, width))


def _layer_norm(ours: str, theirs: str, width: int) -> list[Rule]:
    return [
        copy(f"params/{ours}/scale", f"{theirs}.weight", (width,)),
        copy(f"params/{ours}/bias", f"{theirs}.bias", (width,)),
    ]


# ------------------------------------------------------------------------------------- whole networks


def weight_rules(model: str, weights: dict[str, Any]) -> list[Rule]:
    """Returns the rules of a network with these weights, or their shapes: {"params", "stats"}."""
    params = weights["params"]
    return rules(
        model,
        int(params["head"]["bias"].shape[0]),
        int(params["positions"].shape[0]) if "positions" in params else 0,
        token="token" in params,
        learned="positions" in params,
    )


def file_tensors(model: str, weights: dict[str, Any], size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) of all tensors of timm's file, views of `weights` where possible.

    Args:
        model: our name.
        weights: {"params", "stats"}.
        size: px of the images that positions which are no weights are made for; timm has them as weights.

    Raises:
        ValueError: the weights are not those of the model.
    """
    made = weight_rules(model, weights)
    yield from write_params(made, weights)
    for rule in made:
        if rule.theirs[0].endswith(".running_mean"):
            yield rule.theirs[0].replace(".running_mean", COUNTER), np.zeros((), np.int64)
    if ARCHITECTURES[model].family == "vit" and "positions" not in weights["params"]:
        grid = np.asarray(sincos_positions((size // PATCH, size // PATCH), ARCHITECTURES[model].width))
        token = int("token" in weights["params"])
        yield POSITIONS, np.pad(grid, ((token, 0), (0, 0)))[None]


def describe(shapes: dict[str, tuple[int, ...]]) -> tuple[int, int, bool]:
    """Returns (classes, positions, whether there is a class token) of a file's tensors; 0 = absent."""
    head = shapes.get("head.weight") or shapes.get("fc.weight") or (0,)
    tokens = (shapes.get(POSITIONS) or (1, 0))[1]
    return head[0], tokens, "cls_token" in shapes or not side_of(tokens, token=False)


def wanted_tensors(model: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns {name: shape} of what a file of `model` must hold, classes and positions as in `shapes`."""
    num_classes, tokens, token = describe(shapes)
    tokens = tokens or (ARCHITECTURES[model].size // PATCH) ** 2 + 1
    made = rules(model, num_classes or 1000, tokens, token=token, learned=True)
    return {name: shape for rule in made for name, shape in zip(rule.theirs, rule.shapes, strict=True)}


def counters(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of torch's counts of batches, which are ignored."""
    return tuple(name for name in names if name.endswith(COUNTER))


def side_of(tokens: int, *, token: bool) -> int:
    """Returns the side of the square grid of patches that learned positions are for; 0 if it is no square."""
    side = math.isqrt(max(0, tokens - token))
    return side if side * side == tokens - token else 0
