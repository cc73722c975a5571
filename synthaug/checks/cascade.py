"""What is wrong between settings of the cascade: networks, diffusion, training, text encoder."""

from __future__ import annotations

import math

from synthaug.checks import networks, sampling
from synthaug.experiment import Model, TextEncoder

MAX_SNAPSHOTS = 1000  # of post-hoc EMA: more make its equations slow and no length better


def text_problems(t: TextEncoder) -> list[str]:
    """Returns what is wrong with the text encoder's settings."""
    if t.kind == "t5":
        if not t.path:
            return [
                "text_encoder.path is empty; kind = t5 expects the folder of a T5 v1.1 encoder, with "
                "config.json, safetensors and spiece.model."
            ]
        return []  # what is in the folder is checked where files are
    if t.width % 2 or t.width % t.num_heads:
        return [
            f"text_encoder.width = {t.width}; expected an even multiple of num_heads = {t.num_heads}, "
            f"e.g. {2 * t.num_heads * max(1, t.width // (2 * t.num_heads))}."
        ]
    return []


def model_problems(name: str, m: Model, cascade: dict[str, Model], text_width: int) -> list[str]:
    """Returns what is wrong with one model of the cascade."""
    at, problems = f"cascade.{name}", []
    if m.low_res:
        low = cascade[m.low_res].resolution
        if m.resolution <= low or m.resolution % low:
            problems.append(
                f"{at}.resolution = {m.resolution}; expected a multiple of {m.low_res}'s {low} px, "
                f"e.g. {2 * low}."
            )
    problems += networks.network_problems(at, m, text_width)
    problems += _training_problems(at, m, cascade)
    problems += sampling.sampler_problems(at, m)
    if m.diffusion.schedule == "linear" and 0 < m.diffusion.num_timesteps <= 20:
        problems.append(
            f"{at}.diffusion.num_timesteps = {m.diffusion.num_timesteps}; the linear schedule needs more "
            "than 20, e.g. 1000."
        )
    if m.sampler.logvar_mix == "learned" and not m.diffusion.learned_variance:
        problems.append(f"{at}.sampler.logvar_mix = learned needs {at}.diffusion.learned_variance = true.")
    problems += sampling.step_problems(at, m, m.sampler.num_sampling_steps, m.sampler.checkpoint)
    return problems


def _training_problems(at: str, m: Model, cascade: dict[str, Model]) -> list[str]:
    """What is wrong with how a model is trained."""
    f, problems = m.finetune, []
    if not f.num_steps and f.init == "scratch":
        problems.append(
            f"{at}.finetune.num_steps = 0 uses init as it is, and init = scratch is random weights; train at "
            "least 1 step, or set init to a checkpoint, e.g. one from `synthaug import`."
        )
    if f.ema_profiles and not f.num_steps:
        problems.append(f"{at}.finetune.ema_profiles: with num_steps = 0 nothing is averaged; remove them.")
    if f.ema_profiles and f.num_steps // f.ema_every > MAX_SNAPSHOTS:
        problems.append(
            f"{at}.finetune.ema_every = {f.ema_every} stores {f.num_steps // f.ema_every} snapshots in "
            f"{f.num_steps} steps; expected at most {MAX_SNAPSHOTS}, e.g. {max(1, f.num_steps // 100)}."
        )
    if f.crop:
        problems += _crop_problems(at, m, cascade)
    return problems


def _crop_problems(at: str, m: Model, cascade: dict[str, Model]) -> list[str]:
    crop = m.finetune.crop
    if not m.low_res:
        return [
            f"{at}.finetune.crop = {crop}: a base model composes whole images, only models with low_res "
            "train on squares of them; set it to 0."
        ]
    if m.enlarge == "align_corners":
        return [
            f"{at}.finetune.crop = {crop} with enlarge = align_corners: a square would be enlarged otherwise "
            "than the whole image; set it to 0, or use half_pixel."
        ]
    factor, shrinks = m.resolution // cascade[m.low_res].resolution, networks.shrinks(m.unet)
    step = math.lcm(factor, shrinks)
    if crop % step == 0 and crop <= m.resolution:
        return []
    return [
        f"{at}.finetune.crop = {crop}; expected at most {m.resolution} px and a multiple of {factor} (one "
        f"pixel of {m.low_res}) and of {shrinks} (the network's levels), e.g. {min(m.resolution, 4 * step)}."
    ]
