"""What is wrong between settings of samplers and the sweep."""

from __future__ import annotations

import math

from synthaug.experiment import Experiment, Model, saved_steps


def sampler_problems(at: str, m: Model) -> list[str]:
    """Returns what is wrong with a model's sampler; `at` is its dotted key."""
    steps, total = m.sampler.timesteps, m.diffusion.num_timesteps
    if steps and (len(set(steps)) != len(steps) or max(steps) >= max(total, 1)):
        found = "the schedule is continuous" if not total else f"they must differ and lie below {total}"
        return [f"{at}.sampler.timesteps: {found}; change it, or diffusion.num_timesteps."]
    return []


def step_problems(at: str, m: Model, steps: int, checkpoint: int) -> list[str]:
    """Returns what is wrong with a number of sampling steps and a checkpoint; 0 stands for unstated."""
    problems = []
    if m.diffusion.num_timesteps and steps > m.diffusion.num_timesteps:
        problems.append(
            f"{at}: num_sampling_steps = {steps} exceeds the {m.diffusion.num_timesteps} timesteps of the "
            "discrete schedule; lower it."
        )
    kept = saved_steps(m.finetune)
    if checkpoint and checkpoint not in kept:
        problems.append(
            f"{at}: checkpoint {checkpoint} is not kept; expected one of {sorted(kept)} "
            "(those of finetune.saving.keep_steps and the last)."
        )
    return problems


def sweep_problems(e: Experiment) -> list[str]:
    """Returns what is wrong with the phases of the sweep."""
    problems: list[str] = []
    images: dict[str, int] = {}
    for name, phase in e.sweep.phases.items():
        at = f"sweep.phases.{name}"
        if not all(c.isalnum() or c == "-" for c in name):
            problems.append(f"{at}: a phase's name may hold letters, digits and '-' only.")
        if phase.model not in e.cascade:
            problems.append(f"{at}.model = {phase.model!r}; expected one of {', '.join(e.cascade)}.")
            continue
        model = e.cascade[phase.model]
        if phase.choose == "cas" and not phase.cas_steps:
            problems.append(f"{at}.choose = cas needs cas_steps > 0.")
        if phase.grid.aug_level and not model.low_res:
            problems.append(f"{at}.grid.aug_level: {phase.model} has no low-resolution input; remove it.")
        for step in phase.grid.checkpoint:
            problems += step_problems(at, model, 0, step)
        for steps in phase.grid.num_sampling_steps:
            problems += step_problems(at, model, steps, 0)
        if model.low_res and phase.num_images > images.get(model.low_res, math.inf):
            problems.append(
                f"{at}.num_images = {phase.num_images} exceeds the {images[model.low_res]} images of the "
                f"last phase of {model.low_res}, whose images it enlarges; lower it."
            )
        images[phase.model] = phase.num_images
    return problems
