"""What is wrong between settings of samplers and the sweep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from synthaug.experiment import Experiment, Finetune, Model, Sampler, saved_steps

Reach = dict[str, tuple[Any, ...]]
"""The values a sampler's settings may take: one each, or those of the phases of the sweep so far."""

SLACK = 1e-6


def sampler_problems(at: str, m: Model) -> list[str]:
    """Returns what is wrong with a model's sampler; `at` is its dotted key."""
    steps, total = m.sampler.timesteps, m.diffusion.num_timesteps
    if steps and (len(set(steps)) != len(steps) or max(steps) >= max(total, 1)):
        found = "the schedule is continuous" if not total else f"they must differ and lie below {total}"
        return [f"{at}.sampler.timesteps: {found}; change it, or diffusion.num_timesteps."]
    return setting_problems(f"{at}.sampler.", m, _reach(m.sampler))


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
    reach = {name: _reach(model.sampler) for name, model in e.cascade.items()}
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
        grid = {knob: values for knob, values in vars(phase.grid).items() if values}
        for step in grid.get("checkpoint", ()):
            problems += step_problems(at, model, 0, step)
        for steps in grid.get("num_sampling_steps", ()):
            problems += step_problems(at, model, steps, 0)
        reach[phase.model] |= grid
        problems += _idle_problems(f"{at}.grid", model, grid, reach[phase.model])
        problems += setting_problems(f"{at}.grid: ", model, reach[phase.model])
        if model.low_res and phase.num_images > images.get(model.low_res, math.inf):
            problems.append(
                f"{at}.num_images = {phase.num_images} exceeds the {images[model.low_res]} images of the "
                f"last phase of {model.low_res}, whose images it enlarges; lower it."
            )
        images[phase.model] = phase.num_images
    return [*problems, *_edit_problems(e, reach)]


def _reach(settings: Sampler) -> Reach:
    return {knob: (value,) for knob, value in vars(settings).items()}


# ---------------------------------------------------------------------------- settings of one model


def setting_problems(at: str, m: Model, reach: Reach) -> list[str]:
    """Returns what is wrong with the settings that a model may be sampled with.

    Args:
        at: what the names of the settings are put behind.
        m: the model.
        reach: the values of each setting; every combination must make sense.
    """
    found: list[str] = []
    for check in (_low_res, _interval, _guidance, _average):
        found += (at + problem for problem in check(m, reach))
    return list(dict.fromkeys(found))


def _low_res(m: Model, reach: Reach) -> Iterator[str]:
    level = max(reach["aug_level"])
    if level and not m.low_res:
        yield f"aug_level = {level:g}, but the model has no low-resolution input; expected 0; remove it."
    elif level and m.augmentation == "none":
        yield (
            f"aug_level = {level:g}, but the model is trained without noise on its low-resolution input "
            "(augmentation = none); expected 0; remove it."
        )


def _interval(m: Model, reach: Reach) -> Iterator[str]:
    """The interval of time in which there is guidance must hold a step of every grid."""
    for low, high in itertools.product(reach["guidance_min_t"], reach["guidance_max_t"]):
        if low >= high:
            yield (
                f"guidance_min_t = {low:g} and guidance_max_t = {high:g}; expected 0 <= min_t < max_t <= 1; "
                "use guidance_weight = 1 for no guidance."
            )
            continue
        if low <= 0 and high >= 1:
            continue
        for steps, times in _grids(m, reach):
            if not any(low - SLACK <= t <= high + SLACK for t in times):
                yield (
                    f"guidance_min_t = {low:g} and guidance_max_t = {high:g}: none of the {steps} sampling "
                    "steps lies between them; widen the interval."
                )


def _grids(m: Model, reach: Reach) -> Iterator[tuple[int, list[float]]]:
    """Yields (number of steps, their times, 1 = noise) of every grid; see diffusion.schedule.step_grid."""
    total = m.diffusion.num_timesteps
    for steps in reach["timesteps"]:
        if steps:
            yield len(steps), [(t + 1) / max(total, 1) for t in sorted(steps, reverse=True)]
            return
    for count in reach["num_sampling_steps"]:
        if total:
            yield count, [(total - i * total // count) / total for i in range(count)]
        else:
            yield count, [1 - i / count for i in range(count)]


def _guidance(m: Model, reach: Reach) -> Iterator[str]:
    guides, weights = reach["guide_checkpoint"], reach["guidance_weight"]
    kept = saved_steps(m.finetune)
    for guide in guides:
        if guide and guide not in kept:
            yield (
                f"guide_checkpoint = {guide} is not kept; expected one of {sorted(kept)} (those of "
                "finetune.saving.keep_steps and the last)."
            )
        if guide and all((step or m.finetune.num_steps) == guide for step in reach["checkpoint"]):
            yield f"guide_checkpoint = {guide} is the checkpoint that is sampled; use an earlier one."
    if any(guides) and all(weight == 1 for weight in weights):
        yield "guide_checkpoint guides by nothing at guidance_weight = 1; use another weight, e.g. 2."
    guided = [weight for weight in weights if weight != 1]
    if m.unet.conditioning == "label" and guided and 0 in guides:
        yield (
            f"guidance_weight = {guided[0]:g}: a network with labels has no unconditional mode to guide by; "
            "use 1, or guide_checkpoint for autoguidance."
        )


def _average(m: Model, reach: Reach) -> Iterator[str]:
    """A post-hoc average must be one that the snapshots of the training can give."""
    lengths = [length for length in reach["ema_length"] if length]
    tuning, last = m.finetune, m.finetune.num_steps
    if lengths and not (tuning.ema_profiles and last):
        yield (
            f"ema_length = {lengths[0]:g} needs finetune.ema_profiles, averages stored while training, e.g. "
            "[0.05, 0.1]; set them, or use 0, the trained average."
        )
        return
    # without guidance the guide is not read
    steps = {*reach["checkpoint"], *(guide for guide in reach["guide_checkpoint"] if guide)}
    for step, length in itertools.product(sorted(steps), lengths):
        # every checkpoint that stays has a snapshot; one that does not is refused elsewhere
        if problem := _length_problem(tuning, step or last, length):
            yield problem


def _length_problem(tuning: Finetune, step: int, length: float) -> str:
    """Returns why the averages stored up to a step give none of this length, or nothing."""
    import numpy as np

    from synthaug.train import posthoc  # slow to import, and few studies need it

    kept = (s for s in tuning.saving.keep_steps if s <= step)
    stored = sorted({*range(tuning.ema_every, step + 1, tuning.ema_every), *kept, step})
    gammas = posthoc.profiles(tuning.ema_profiles).values()
    pairs = np.array([(s, gamma) for s in stored for gamma in gammas], np.float64)
    t, gamma = pairs[:, 0], pairs[:, 1]
    if posthoc.coefficients(t, gamma, step, posthoc.gamma_of(length))[1] <= posthoc.MAX_MISMATCH:
        return ""
    low, high = posthoc.reachable(t, gamma, step)
    return (
        f"ema_length = {length:g}: the averages stored up to step {step} give lengths from {low:.3f} to "
        f"{high:.3f}; use one of these, or change finetune.ema_profiles."
    )


# ------------------------------------------------------------------------------------------- the sweep


def _idle_problems(at: str, m: Model, grid: Reach, reach: Reach) -> list[str]:
    """Knobs of a phase that change nothing: their points would be the same images."""
    guided = any(weight != 1 for weight in reach["guidance_weight"])
    needs: dict[str, tuple[bool, str]] = {
        "logvar_mix": ("ddpm" in reach["solver"], "only the solver ddpm draws by it"),
        "num_sampling_steps": (not m.sampler.timesteps, "sampler.timesteps states the steps"),
        "guidance_min_t": (guided, "guidance_weight is 1"),
        "guidance_max_t": (guided, "guidance_weight is 1"),
    }
    return [
        f"{at}.{knob} changes nothing: {why}; remove it." for knob, (works, why) in needs.items()
        if knob in grid and not works
    ]  # fmt: skip


def _edit_problems(e: Experiment, reach: dict[str, Reach]) -> list[str]:
    """Images cannot be edited from a time before the sampler's last step."""
    level, problems = e.sample.edit_level, []
    for name, model in e.cascade.items():
        if model.low_res or not level:
            continue
        for steps, times in _grids(model, reach[name]):
            if level < times[-1] - SLACK:
                problems.append(
                    f"sample.edit_level = {level:g} lies below the last of {name}'s {steps} sampling steps; "
                    f"expected 0 (off), or {times[-1]:g} to 1; raise it, or the number of steps."
                )
    return problems
