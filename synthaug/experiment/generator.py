"""The models of the cascade: their networks, their diffusion, their sampling."""

from __future__ import annotations

import dataclasses
from typing import Literal

from synthaug.config import knob
from synthaug.experiment.training import Finetune


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNet:
    """Shape of a U-Net: ADM's, with Imagen's base and DeepFloyd IF as cases, or Imagen's Efficient U-Net."""

    kind: str = knob(
        "adm", "adm: also Imagen's base and DeepFloyd IF; efficient", choices=("adm", "efficient")
    )
    channels: int = knob(doc="channels at full resolution", unit="channels", at_least=4)
    channel_mult: tuple[float, ...] = knob((1.0, 2.0), "channels of each level, as a multiple", above=0)
    num_res_blocks: tuple[int, ...] = knob((2,), "residual blocks per level; one number for all", at_least=1)
    attention_resolutions: tuple[int, ...] = knob((), "levels with attention", unit="px", at_least=1)
    conditioning: str = knob("text", "what the images show is said by", choices=("text", "label"))
    attention: str = knob(
        "self+text",
        "self+text: the text's keys and values before the image's own; self: no text; text: only that",
        choices=("self+text", "self", "text"),
    )
    head_dim: int = knob(64, "channels per attention head", unit="channels", at_least=1)
    num_heads: int = knob(0, "attention heads of every level; 0 = by head_dim", at_least=0)
    norm_groups: int = knob(32, "groups of group normalisation", at_least=1)
    activation: str = knob("silu", "gelu is the exact one (DeepFloyd IF)", choices=("silu", "gelu"))
    residual_scale: float = knob(1.0, "residual blocks multiply their sum by it", above=0, at_most=1)
    embedding_width: int = knob(
        0, "width of the time embedding; 0 = 4 x channels", unit="channels", at_least=0
    )
    text_channels: int = knob(
        0, "width of the text inside the U-Net; 0 = that of the embedding", unit="channels", at_least=0
    )
    text_norm: str = knob("layer", "norm of the text in attention", choices=("layer", "group"))
    text_pool_heads: int = knob(0, "heads of the attention pooling; 0 = text width / head_dim", at_least=0)
    attend_padding: bool = knob(False, "attend to the padding behind the prompt, too (DeepFloyd IF)")
    null_text: str = knob(
        "zeros",
        "no text is: zeros (Imagen), or the encoded empty prompt (DeepFloyd IF)",
        choices=("zeros", "empty"),
    )
    dropout: float = knob(0.0, "dropout inside residual blocks", at_least=0, at_most=0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What a network is apart from its weights: enough to build it. Stored with every checkpoint."""

    unet: UNet = knob(doc="shape")
    resolution: int = knob(doc="side of the images it was made for", unit="px", at_least=1)
    channels: int = knob(3, "of an image", at_least=1)
    out_channels: int = knob(3, "channels, or twice as many with a learned variance", at_least=1)
    text_width: int = knob(0, "width of a text embedding; 0 without text", unit="channels", at_least=0)
    text_length: int = knob(0, "tokens of a prompt it was trained with; 0 = any", unit="tokens", at_least=0)
    num_classes: int = knob(0, "labels; 0 without labels", unit="classes", at_least=0)
    low_res: bool = knob(False, "whether it enlarges images")
    enlarge: str = knob("half_pixel", "how the low-resolution image is enlarged")
    augmentation: str = knob("none", "noise on the low-resolution image")
    qkv_order: str = knob(
        "by_part",
        "order in the public file: by_part, all queries first, or by_head (ADM's legacy); changes no output",
        choices=("by_part", "by_head"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The forward process and what the network predicts."""

    schedule: str = knob("cosine", "noise schedule", choices=("cosine", "linear"))
    num_timesteps: int = knob(0, "0 = continuous time, else the discrete grid, e.g. 1000", at_least=0)
    prediction: str = knob("eps", "what the network's first C channels are", choices=("eps", "v", "x"))
    learned_variance: bool = knob(False, "C more channels interpolate the log-variance (IDDPM eq. 15)")
    vlb_weight: float = knob(0.001, "weight of L_vlb beside L_simple, with learned_variance", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Settings of one model's sampler; the sweep overrides them point by point."""

    checkpoint: int = knob(0, "training step to sample from; 0 = the last", unit="steps", at_least=0)
    ema_length: float = knob(
        0.0,
        "post-hoc EMA of this relative length sigma_rel; 0 = the trained average",
        at_least=0,
        at_most=0.28,
    )
    solver: str = knob(
        "ddpm",
        "ancestral, DDIM(eta), DPM-Solver++ 2M, or Heun (two evaluations per step)",
        choices=("ddpm", "ddim", "dpmpp_2m", "heun"),
    )
    num_sampling_steps: int = knob(64, "denoising steps", unit="steps", at_least=1)
    guidance_weight: float = knob(1.0, "guidance; 1 = off", at_least=0)
    guidance_min_t: float = knob(0.0, "guide at times from here, 0 = clean", at_least=0, at_most=1)
    guidance_max_t: float = knob(1.0, "guide at times up to here, 1 = noise", at_least=0, at_most=1)
    guide_checkpoint: int = knob(
        0, "autoguidance: training step of the weaker weights; 0 = guide by no text", unit="steps", at_least=0
    )
    logvar_mix: float | Literal["learned"] = knob(
        0.0, "ddpm: 0 = posterior variance, 1 = beta", at_least=0, at_most=1
    )
    eta: float = knob(0.0, "ddim: 0 = deterministic, 1 = ancestral", at_least=0, at_most=1)
    timesteps: tuple[int, ...] = knob(
        (), "discrete schedules: sample at exactly these; empty = evenly spaced", at_least=0
    )
    threshold: str = knob("static", "clipping of the predicted image", choices=("none", "static", "dynamic"))
    threshold_percentile: float = knob(99.5, "dynamic: percentile of |x|", above=0, at_most=100)
    threshold_max: float = knob(1e9, "dynamic: largest divisor (DeepFloyd IF: 1.5)", at_least=1)
    aug_level: float = knob(0.0, "noise added to the low-resolution image", at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the cascade."""

    resolution: int = knob(doc="side of the images it makes", unit="px", at_least=2)
    low_res: str = knob("", "the model whose images it enlarges; empty for the base model")
    enlarge: str = knob(
        "half_pixel",
        "bilinear: half_pixel (ADM, Imagen), or align_corners (DeepFloyd IF)",
        choices=("half_pixel", "align_corners"),
    )
    augmentation: str = knob(
        "continuous",
        "noise on the low-resolution image: continuous time, 0 is none (Imagen); discrete steps, 0 is the "
        "first (DeepFloyd IF); none (ADM)",
        choices=("continuous", "discrete", "none"),
    )
    unet: UNet = knob(doc="network shape")
    compute: str = knob("f32", "precision of the activations; weights are f32", choices=("f32", "bf16"))
    diffusion: Diffusion = knob(Diffusion(), "forward process and prediction")
    finetune: Finetune = knob(doc="training")
    sampler: Sampler = knob(Sampler(), "sampling settings before the sweep")
