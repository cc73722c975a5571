"""What is wrong between settings that are each valid alone: found before anything is submitted."""

from __future__ import annotations

import pathlib

from synthaug.checks import cascade, sampling
from synthaug.checks.inputs import check_inputs
from synthaug.config import did_you_mean
from synthaug.errors import ConfigError
from synthaug.experiment import OPTIONAL_STAGES, STAGES, Classifier, Experiment, Finetune, cascade_order
from synthaug.licences import LICENCES

__all__ = ["check_inputs", "problems"]


def problems(e: Experiment) -> list[str]:
    """Returns what is wrong between settings that are each valid alone, the first problem first."""
    found = [
        *_name_problems(e),
        *_stage_problems(e),
        *_list_problems(e),
        *_data_problems(e),
        *_licence_problems(e),
        *cascade.text_problems(e.text_encoder),
    ]
    found += _optimizer_problems(e)
    try:
        order = cascade_order(e.cascade)
    except ConfigError as error:
        return [*found, str(error)]
    for name in order:
        found += cascade.model_problems(name, e.cascade[name], e.cascade, e.text_encoder.width)
    return [*found, *sampling.sweep_problems(e), *_score_problems(e), *_classify_problems(e)]


def _name_problems(e: Experiment) -> list[str]:
    plain = e.name.isascii() and all(c.isalnum() or c in "-_." for c in e.name)
    if plain and e.name and e.name[0] != "." and len(e.name) <= 64:
        return []
    return [f"name = {e.name[:80]!r}; expected up to 64 letters, digits, '-', '_' and '.', as in digits-2."]


def _data_problems(e: Experiment) -> list[str]:
    if not e.data.val_path:
        return []
    if e.data.source != "folder":
        return [f"data.val_path has no meaning with data.source = {e.data.source}; remove it."]
    if pathlib.Path(e.data.val_path).resolve() == pathlib.Path(e.data.path).resolve():
        return ["data.val_path is data.path: every validation image would be trained on; change one."]
    return []


def _licence_problems(e: Experiment) -> list[str]:
    return [
        f"licences: {key!r} is unknown{did_you_mean(key, LICENCES)}"
        for key in e.licences
        if key not in LICENCES
    ]


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
    blocks = {f"cascade.{n}.unet.num_res_blocks": m.unet.num_res_blocks for n, m in e.cascade.items()}
    for key, values in {**lists, **depths, **mults, **blocks}.items():
        if not values:
            problems.append(f"{key} is empty; give at least one value.")
    for name, phase in e.sweep.phases.items():
        for knob, values in vars(phase.grid).items():
            lists[f"sweep.phases.{name}.grid.{knob}"] = values
    for name, model in e.cascade.items():
        lists[f"cascade.{name}.finetune.ema_profiles"] = model.finetune.ema_profiles
    lists["licences"] = e.licences
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


def _optimizer_problems(e: Experiment) -> list[str]:
    """Optimisers that cannot do what is asked of them."""
    trainings: dict[str, tuple[Finetune | Classifier, int]] = {
        f"cascade.{n}.finetune": (m.finetune, m.finetune.num_steps)
        for n, m in e.cascade.items()
        if m.finetune.num_steps  # without steps no optimiser is made
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
