"""Classifiers: the sizes of all architectures, what they see, how they are trained."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from synthaug.config import knob
from synthaug.experiment.training import Optimizer, Saving


class Architecture(NamedTuple):
    """A published network; `size` is the side it was published with, `parameters` those at that side."""

    family: str  # bottleneck, resnet_rs or vit
    depths: tuple[int, ...]  # residual blocks per stage; (layers,) of a vit
    width: int  # channels of the first stage in front of the expansion by 4; of the tokens
    num_heads: int
    size: int  # px
    parameters: int


ARCHITECTURES = {
    # He et al. 2016; stride in the 3x3 convolution, as in Cloud TPU's ResNet and timm
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3), 64, 0, 224, 25_557_032),
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3), 64, 0, 224, 44_549_160),
    "resnet152": Architecture("bottleneck", (3, 8, 36, 3), 64, 0, 224, 60_192_808),
    # Bello et al. 2021
    "resnetrs50": Architecture("resnet_rs", (3, 4, 6, 3), 64, 0, 160, 35_691_912),
    "resnetrs101": Architecture("resnet_rs", (3, 4, 23, 3), 64, 0, 192, 63_618_696),
    "resnetrs152": Architecture("resnet_rs", (3, 8, 36, 3), 64, 0, 224, 86_621_576),
    # Dosovitskiy et al. 2021, Touvron et al. 2021; patches of 16 px
    "vit_s16": Architecture("vit", (12,), 384, 6, 224, 22_050_664),
    "deit_s16": Architecture("vit", (12,), 384, 6, 224, 22_050_664),
    "deit_b16": Architecture("vit", (12,), 768, 12, 224, 86_567_656),
    "deit_l16": Architecture("vit", (24,), 1024, 16, 224, 304_326_632),
}
KINDS = ("resnet", "vit", *ARCHITECTURES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What part of an image a network sees, at what size."""

    size: int = knob(0, "side in training; 0 = the prepared images', uncut", unit="px", at_least=0)
    eval_size: int = knob(0, "side in evaluation; 0 = size", unit="px", at_least=0)
    original: bool = knob(False, "cut real images from the untouched files (data.keep_original)")
    resolution: int = knob(
        0, "prepared resolution of the real images; 0 = the highest", unit="px", at_least=0
    )
    shrink_to: int = knob(
        256, "generated images of more px are shrunk to this side first; 0 = never", unit="px", at_least=0
    )
    crop: str = knob(
        "none",
        "training: whole image, centre, or random place, area and aspect",
        choices=("none", "center", "random_resized"),
    )
    min_area: float = knob(0.08, "smallest share of the area in random_resized", above=0, at_most=1)
    eval_ratio: float = knob(
        0.875, "evaluation with size > 0: side of the centre crop / short side", above=0, at_most=1
    )
    interpolation: str = knob("bicubic", "filter of every resize", choices=("bilinear", "bicubic"))
    normalize: str = knob(
        "unit",
        "unit: [-1, 1]; imagenet: mean and deviation of ImageNet's colours",
        choices=("unit", "imagenet"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of training images, each a function of (seed, step, row) alone."""

    max_shift: int = knob(0, "translation, border repeated", unit="px", at_least=0)
    flip: bool = knob(False, "mirror half of the images left to right")
    color_jitter: float = knob(0.0, "brightness, contrast, saturation by up to this share", at_least=0)
    rand_augment: int = knob(0, "RandAugment: operations per image; 0 = off", at_least=0)
    magnitude: float = knob(10.0, "RandAugment: strength, 0 to 30 (tpu) or 10 (timm)", at_least=0, at_most=30)
    magnitude_std: float = knob(0.0, "RandAugment: deviation of the strength", at_least=0)
    dialect: str = knob(
        "tpu",
        "RandAugment's operations and strengths: Cloud TPU's or timm's (increasing)",
        choices=("tpu", "timm"),
    )
    erase: float = knob(0.0, "share of images in which a rectangle becomes noise", at_least=0, at_most=1)
    mixup: float = knob(0.0, "alpha of mixup; 0 = off", at_least=0)
    cutmix: float = knob(0.0, "alpha of cutmix; 0 = off", at_least=0)
    mix_share: float = knob(1.0, "share of batches that are mixed", at_least=0, at_most=1)
    repeats: int = knob(1, "times an image stands in a batch, augmented differently", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A classifier and its training recipe."""

    kind: str = knob(doc="architecture; resnet and vit are small ones of any size", choices=KINDS)
    width: int = knob(16, "resnet, vit: channels of the first stage or of the tokens", at_least=4)
    depths: tuple[int, ...] = knob((1, 1), "resnet: blocks per stage; vit: (layers,)", at_least=1)
    num_heads: int = knob(4, "vit: attention heads", at_least=1)
    patch_size: int = knob(2, "vit: side of a patch", unit="px", at_least=1)
    pool: str = knob(
        "",
        "features of a transformer: class token or mean; empty: token, of vit mean",
        choices=("", "token", "mean"),
    )
    positions: str = knob("learned", "positions of a transformer", choices=("learned", "sincos"))
    activation: str = knob("relu", "of the published ResNets; timm's have relu", choices=("relu", "silu"))
    dropout: float = knob(0.0, "in front of the head (resnets) or in blocks", at_least=0, at_most=0.9)
    drop_path: float = knob(
        0.0,
        "stochastic depth: share of dropped branches in the last block, rising linearly",
        at_least=0,
        at_most=0.9,
    )
    compute: str = knob("f32", "precision of activations", choices=("f32", "bf16"))
    remat: bool = knob(False, "recompute activations in the backward pass: less memory, more time")
    init: str = knob(
        "scratch", "scratch, a safetensors file with timm's names, or another model of the study"
    )
    view: View = knob(View(), "what it sees")
    augment: Augment = knob(Augment(), "random changes in training")
    batch_size: int = knob(128, "global batch", unit="images", at_least=1)
    num_steps: int = knob(400, "training updates, with budget = steps", unit="steps", at_least=1)
    num_epochs: int = knob(30, "passes over the set, with budget = epochs", unit="epochs", at_least=1)
    optimizer: Optimizer = knob(Optimizer(kind="adamw", learning_rate=1e-3), "update rule")
    ema_decay: float = knob(
        0.0, "decay of the averaged weights and statistics; 0 = evaluate the last", at_least=0, at_most=1
    )
    norm_momentum: float = knob(0.9, "batch norm: decay of its running moments", at_least=0, at_most=1)
    label_smoothing: float = knob(0.0, "share of the label spread over all classes", at_least=0, at_most=1)
    saving: Saving = knob(Saving(every=1000, keep_latest=1, keep_best=0), "checkpoints and logs")

    @property
    def architecture(self) -> Architecture | None:
        """The published network, or None for resnet and vit."""
        return ARCHITECTURES.get(self.kind)
