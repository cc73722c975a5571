"""What is wrong between settings of the cascade: networks, diffusion, text encoder."""

from __future__ import annotations

from synthaug.checks import sampling
from synthaug.experiment import Model, TextEncoder


def text_problems(t: TextEncoder) -> list[str]:
    """Returns what is wrong with the text encoder's settings."""
    if t.width % 2 or t.width % t.num_heads:
        return [
            f"text_encoder.width = {t.width}; expected an even multiple of num_heads = {t.num_heads}, "
            f"e.g. {2 * t.num_heads * max(1, t.width // (2 * t.num_heads))}."
        ]
    return []


def model_problems(name: str, m: Model, cascade: dict[str, Model]) -> list[str]:
    """Returns what is wrong with one model of the cascade."""
    at, problems = f"cascade.{name}", []
    if m.low_res:
        low = cascade[m.low_res].resolution
        if m.resolution <= low or m.resolution % low:
            problems.append(
                f"{at}.resolution = {m.resolution}; expected a multiple of {m.low_res}'s {low} px, "
                f"e.g. {2 * low}."
            )
    shrink = 2 ** (len(m.unet.channel_mult) - 1)
    if m.resolution % shrink:
        problems.append(
            f"{at}.resolution = {m.resolution} does not divide by {shrink}, which {len(m.unet.channel_mult)} "
            "levels need; change unet.channel_mult."
        )
    levels = [m.resolution // 2**i for i in range(len(m.unet.channel_mult))]
    for r in m.unet.attention_resolutions:
        if r not in levels:
            problems.append(f"{at}.unet.attention_resolutions: {r} is no level; expected some of {levels}.")
    if m.unet.channels % 2:
        problems.append(f"{at}.unet.channels = {m.unet.channels}; expected an even number.")
    for mult in m.unet.channel_mult:
        width = int(m.unet.channels * mult)
        for what, size in (("norm_groups", m.unet.norm_groups), ("head_dim", m.unet.head_dim)):
            if width % size:
                problems.append(f"{at}.unet.{what} = {size} does not divide {width} channels; use a divisor.")
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
