"""What is wrong between settings that are each valid alone: found before anything is submitted."""

from __future__ import annotations

import math
import pathlib

from synthaug.errors import ConfigError
from synthaug.experiment import (
    OPTIONAL_STAGES,
    STAGES,
    Classifier,
    Experiment,
    Finetune,
    Model,
    TextEncoder,
    cascade_order,
    saved_steps,
)


def problems(e: Experiment) -> list[str]:
    """Returns what is wrong between settings that are each valid alone, the first problem first."""
    found = [*_name_problems(e), *_stage_problems(e), *_list_problems(e), *_text_problems(e.text_encoder)]
    found += _optimizer_problems(e)
    try:
        order = cascade_order(e.cascade)
    except ConfigError as error:
        return [*found, str(error)]
    for name in order:
        found += _model_problems(name, e.cascade[name], e.cascade)
    return [*found, *_sweep_problems(e), *_score_problems(e), *_classify_problems(e)]


def _name_problems(e: Experiment) -> list[str]:
    plain = e.name.isascii() and all(c.isalnum() or c in "-_." for c in e.name)
    if plain and e.name and e.name[0] != "." and len(e.name) <= 64:
        return []
    return [f"name = {e.name[:80]!r}; expected up to 64 letters, digits, '-', '_' and '.', as in digits-2."]


def _list_problems(e: Experiment) -> list[str]:
    """Lists that must hold something, and lists that must not hold a value twice."""
    c, problems = e.classify, []
    lists: dict[str, tuple[object, ...]] = {
        "classify.mixes": c.mixes,
        "classify.copies": c.copies,
        "classify.shots": c.shots,
        "classify.seeds": c.seeds,
    }
    classifiers = {f"classify.models.{n}": m for n, m in c.models.items()}
    depths = {f"{n}.depths": m.depths for n, m in {**classifiers, "score.encoder": e.score.encoder}.items()}
    mults = {f"cascade.{n}.unet.channel_mult": m.unet.channel_mult for n, m in e.cascade.items()}
    for key, values in {**lists, **depths, **mults}.items():
        if not values:
            problems.append(f"{key} is empty; give at least one value.")
    for name, phase in e.sweep.phases.items():
        for knob, values in vars(phase.grid).items():
            lists[f"sweep.phases.{name}.grid.{knob}"] = values
    for key, values in lists.items():
        twice = [v for i, v in enumerate(values) if v in values[:i]]
        if twice:
            problems.append(f"{key} holds {twice[0]} twice; the same work would count as new, remove one.")
    if "{}" not in e.prompts.template:
        problems.append(f"prompts.template = {e.prompts.template!r} needs {{}} for the class name.")
    return problems


def _stage_problems(e: Experiment) -> list[str]:
    problems = []
    for stage in STAGES:
        if stage not in e.stages and stage not in OPTIONAL_STAGES:
            problems.append(f"stages: {stage} is missing; every study needs it, add it.")
    if len(set(e.stages)) != len(e.stages):
        problems.append("stages: a stage stands twice; remove one.")
    return problems


def _text_problems(t: TextEncoder) -> list[str]:
    if t.width % 2 or t.width % t.num_heads:
        return [
            f"text_encoder.width = {t.width}; expected an even multiple of num_heads = {t.num_heads}, "
            f"e.g. {2 * t.num_heads * max(1, t.width // (2 * t.num_heads))}."
        ]
    return []


def _optimizer_problems(e: Experiment) -> list[str]:
    """Optimisers that cannot do what is asked of them."""
    trainings: dict[str, tuple[Finetune | Classifier, int]] = {
        f"cascade.{n}.finetune": (m.finetune, m.finetune.num_steps) for n, m in e.cascade.items()
    }
    classifiers = {f"classify.models.{n}": m for n, m in e.classify.models.items()}
    for name, model in {**classifiers, "score.encoder": e.score.encoder}.items():
        steps = [model.num_steps] if e.classify.budget == "steps" else []
        if name == "score.encoder":
            steps += [phase.cas_steps for phase in e.sweep.phases.values() if phase.cas_steps]
        trainings[name] = (model, min(steps, default=model.optimizer.warmup_steps + 1))
    problems = []
    for at, (settings, num_steps) in trainings.items():
        o = settings.optimizer
        if o.weight_decay and o.kind in ("adam", "adafactor"):
            problems.append(f"{at}.optimizer.weight_decay: {o.kind} has none; use adamw, or set it to 0.")
        if o.schedule == "cosine" and o.warmup_steps >= num_steps:
            problems.append(
                f"{at}.optimizer.warmup_steps = {o.warmup_steps}; expected fewer than the {num_steps} steps."
            )
    return problems


def _model_problems(name: str, m: Model, cascade: dict[str, Model]) -> list[str]:
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
        width = m.unet.channels * mult
        for what, size in (("norm_groups", m.unet.norm_groups), ("head_dim", m.unet.head_dim)):
            if width % size:
                problems.append(f"{at}.unet.{what} = {size} does not divide {width} channels; use a divisor.")
    problems += _timestep_problems(at, m)
    if m.diffusion.schedule == "linear" and 0 < m.diffusion.num_timesteps <= 20:
        problems.append(
            f"{at}.diffusion.num_timesteps = {m.diffusion.num_timesteps}; the linear schedule needs more "
            "than 20, e.g. 1000."
        )
    if m.sampler.logvar_mix == "learned" and not m.diffusion.learned_variance:
        problems.append(f"{at}.sampler.logvar_mix = learned needs {at}.diffusion.learned_variance = true.")
    problems += _grid_problems(at, m, m.sampler.num_sampling_steps, m.sampler.checkpoint)
    return problems


def _timestep_problems(at: str, m: Model) -> list[str]:
    steps, total = m.sampler.timesteps, m.diffusion.num_timesteps
    if steps and (len(set(steps)) != len(steps) or max(steps) >= max(total, 1)):
        found = "the schedule is continuous" if not total else f"they must differ and lie below {total}"
        return [f"{at}.sampler.timesteps: {found}; change it, or diffusion.num_timesteps."]
    return []


def _grid_problems(at: str, m: Model, steps: int, checkpoint: int) -> list[str]:
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


def _sweep_problems(e: Experiment) -> list[str]:
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
            problems += _grid_problems(at, model, 0, step)
        for steps in phase.grid.num_sampling_steps:
            problems += _grid_problems(at, model, steps, 0)
        if model.low_res and phase.num_images > images.get(model.low_res, math.inf):
            problems.append(
                f"{at}.num_images = {phase.num_images} exceeds the {images[model.low_res]} images of the "
                f"last phase of {model.low_res}, whose images it enlarges; lower it."
            )
        images[phase.model] = phase.num_images
    return problems


def _score_problems(e: Experiment) -> list[str]:
    sets = {f"sweep.phases.{name}.num_images": phase.num_images for name, phase in e.sweep.phases.items()}
    sets |= {"data.num_train": e.data.num_train, "data.num_val": e.data.num_val}
    problems = []
    for key, size in sets.items():
        if e.score.splits > size:
            problems.append(f"score.splits = {e.score.splits} exceeds {key} = {size} images; lower splits.")
        if e.score.neighbours >= min(size, e.score.max_images):
            problems.append(
                f"score.neighbours = {e.score.neighbours} needs more images than {key} = {size} and "
                f"score.max_images = {e.score.max_images} leave; lower it."
            )
    return problems


def _classify_problems(e: Experiment) -> list[str]:
    problems = []
    for copies in e.classify.copies:
        if copies > e.sample.copies:
            problems.append(
                f"classify.copies: {copies} copies exceed sample.copies = {e.sample.copies}; raise that."
            )
    for name in e.classify.models:
        if not all(c.isalnum() or c in "-_" for c in name):
            problems.append(f"classify.models.{name}: a name may hold letters, digits, '-' and '_' only.")
    classifiers = {f"classify.models.{n}": m for n, m in e.classify.models.items()}
    for key, model in {**classifiers, "score.encoder": e.score.encoder}.items():
        size = max(m.resolution for m in e.cascade.values())
        if model.kind == "vit" and len(model.depths) != 1:
            problems.append(f"{key}.depths = {list(model.depths)}; a vit has one number of layers, e.g. [3].")
        if model.kind == "vit" and size % model.patch_size:
            problems.append(f"{key}.patch_size = {model.patch_size} does not divide {size} px; change it.")
        if model.kind == "vit" and model.width % model.num_heads:
            problems.append(f"{key}.num_heads = {model.num_heads} does not divide width {model.width}.")
    return problems


def check_inputs(experiment: Experiment, where: str) -> None:
    """Raises ConfigError if a file or folder that the experiment starts from is not there."""
    data = experiment.data
    if data.source == "folder" and not pathlib.Path(data.path).is_dir():
        raise ConfigError(
            f"{where}: data.path = {data.path!r} is no folder; expected one with a folder per class."
        )
    for name, model in experiment.cascade.items():
        init = model.finetune.init
        if init != "scratch" and not (pathlib.Path(init) / "digest.json").is_file():
            raise ConfigError(
                f"{where}: cascade.{name}.finetune.init = {init!r} is no checkpoint; expected scratch or the "
                "folder of a step, e.g. runs/digits/finetune-0/checkpoints/500."
            )
