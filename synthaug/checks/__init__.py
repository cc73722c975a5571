"""What is wrong between settings that are each valid alone: found before anything is submitted."""

from __future__ import annotations

import math
import pathlib

from synthaug.checks import cascade, sampling, training
from synthaug.checks.filtering import filter_problems
from synthaug.checks.inputs import check_inputs
from synthaug.checks.scoring import score_problems
from synthaug.checks.validation import val_set_problems
from synthaug.config import did_you_mean
from synthaug.errors import ConfigError
from synthaug.experiment import (
    Classifier,
    Experiment,
    Finetune,
    cascade_order,
    prepared_resolutions,
)
from synthaug.experiment.study import classify_sets, generated_sets
from synthaug.licences import LICENCES
from synthaug.prompts import template_problems

__all__ = ["check_inputs", "problems"]


def problems(e: Experiment) -> list[str]:
    """Returns what is wrong between settings that are each valid alone, the first problem first."""
    found = [
        *_name_problems(e),
        *_stage_problems(e),
        *_list_problems(e),
        *_data_problems(e),
        *_idle_problems(e),
        *_licence_problems(e),
        *cascade.text_problems(e.text_encoder),
    ]
    found += [*_optimizer_problems(e), *filter_problems(e), *val_set_problems(e)]
    try:
        order = cascade_order(e.cascade) if e.cascade else []
    except ConfigError as error:
        return [*found, str(error)]
    for name in order:
        found += cascade.model_problems(name, e.cascade[name], e.cascade, e.text_encoder.width)
    found += [*sampling.sweep_problems(e), *score_problems(e), *_classify_problems(e)]
    return [*found, *training.epoch_problems(e)]


def _name_problems(e: Experiment) -> list[str]:
    plain = e.name.isascii() and all(c.isalnum() or c in "-_." for c in e.name)
    if plain and e.name and e.name[0] != "." and len(e.name) <= 64:
        return []
    return [f"name = {e.name[:80]!r}; expected up to 64 letters, digits, '-', '_' and '.', as in digits-2."]


def _data_problems(e: Experiment) -> list[str]:
    d = e.data
    problems = []
    for knob in ("path", "val_path", "val_labels", "class_list"):
        if getattr(d, knob) and d.source == "digits":
            problems.append(f"data.{knob} has no meaning with data.source = digits; remove it.")
    if d.val_path and pathlib.Path(d.val_path).resolve() == pathlib.Path(d.path).resolve():
        problems.append("data.val_path is data.path: every validation image would be trained on; change one.")
    if d.keep_original and d.source in ("digits", "npz", "manifest"):
        problems.append(f"data.keep_original: source = {d.source} holds pixels, no files; set it to false.")
    if not e.cascade and not d.resolutions:
        problems.append("data.resolutions is empty and there is no cascade: name the sides to prepare.")
    for name, made in e.sets.items():
        plain = name.isascii() and name and all(c.isalnum() or c in "-_" for c in name)
        taken = name in ("train", "val", "generated") or name.startswith("generated-")
        if not plain or taken:
            problems.append(
                f"sets.{name}: expected a name of letters, digits, '-' and '_', other than train, val and "
                "generated, which are taken."
            )
        if "score" in e.stages and made.resolution not in prepared_resolutions(e):
            problems.append(
                f"sets.{name}.resolution = {made.resolution}: real images are not prepared at this side, so "
                "it cannot be scored; add it to data.resolutions, or leave score out of stages."
            )
        if made.source == "manifest" and made.resize:
            problems.append(f"sets.{name}.resize: a manifest is used as it is; remove it.")
    return problems


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
        "classify.seeds": c.seeds,
    }
    if not c.subsets:
        problems.append("classify.subsets is empty; give at least one, e.g. {all: {}}.")
    depths = {f"{name}.depths": model.depths for name, model in _classifiers(e).items()}
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
    lists |= {"classify.sets": c.sets, "data.resolutions": e.data.resolutions}
    lists["prompts.templates"] = e.prompts.templates
    for key, values in lists.items():
        twice = [v for i, v in enumerate(values) if v in values[:i]]
        if twice:
            problems.append(f"{key} holds {twice[0]} twice; the same work would count as new, remove one.")
    return [*problems, *template_problems(e.prompts)]


def _stage_problems(e: Experiment) -> list[str]:
    if len(set(e.stages)) != len(e.stages):
        return ["stages: a stage stands twice; remove one."]
    return []


def _idle_problems(e: Experiment) -> list[str]:
    """Stages that have nothing to work on."""
    problems = []
    if "score" in e.stages and not (e.cascade or e.sets):
        problems.append(
            "stages: score has no generated images; name some in sets, or a cascade, or leave score out: "
            "stages: [classify]."
        )
    if "sweep" in e.stages and not e.cascade and (e.sweep.phases or e.stages == ("sweep",)):
        problems.append(
            "stages: sweep varies the sampling of a cascade, and there is none; name one, or leave sweep out."
        )
    return problems


def _optimizer_problems(e: Experiment) -> list[str]:
    """Optimisers that cannot do what is asked of them."""
    trainings: dict[str, tuple[Finetune | Classifier, int]] = {
        f"cascade.{n}.finetune": (m.finetune, m.finetune.num_steps)
        for n, m in e.cascade.items()
        if m.finetune.num_steps  # without steps no optimiser is made
    }
    for name, model in _classifiers(e).items():
        place, _, short = name.rpartition(".")
        fixed = e.classify.budget == "steps" and place != "sweep.classifiers"
        wanted = short if place in ("sweep.classifiers", "classify.models") else ""
        steps = [model.num_steps] if fixed else []
        steps += [p.cas_steps for p in e.sweep.phases.values() if p.cas_steps and p.cas_classifier == wanted]
        trainings[name] = (model, min(steps, default=0))
    return [
        problem
        for at, (settings, num_steps) in trainings.items()
        for problem in training.optimizer_problems(f"{at}.optimizer", settings.optimizer, num_steps)
    ]


def _classify_problems(e: Experiment) -> list[str]:
    problems = []
    known = [name for name, _, _ in generated_sets(e)]
    for name in e.classify.sets:
        if name not in known:
            problems.append(f"classify.sets: {name!r} is unknown{did_you_mean(name, known)}")
    if "classify" in e.stages and e.classify.models and e.classify.mixes != ("real",) and not known:
        problems.append("classify.mixes: there are no generated images; name some in sets, or a cascade.")
    sizes = {f"generated-{m.resolution}": e.sample.copies * e.data.num_train for m in e.cascade.values()}
    sizes |= {name: made.num_images for name, made in e.sets.items()}
    for name in classify_sets(e) if "real+generated" in e.classify.mixes else []:
        for copies in e.classify.copies:
            if copies > 1 and copies * e.data.num_train > sizes.get(name, math.inf):
                more = "raise sample.copies" if name.startswith("generated-") else "lower classify.copies"
                problems.append(
                    f"classify.copies: {copies} copies of {e.data.num_train} exceed the {sizes[name]} images "
                    f"of {name}; {more}."
                )
    for name, model in e.classify.models.items():
        if not all(c.isalnum() or c in "-_" for c in name):
            problems.append(f"classify.models.{name}: a name may hold letters, digits, '-' and '_' only.")
        start = e.classify.models.get(model.init)
        shape = ("kind", "pool", "positions", "width", "depths", "num_heads", "patch_size")
        other = [knob for knob in shape if start is not None and getattr(start, knob) != getattr(model, knob)]
        if start is not None and other:
            problems.append(
                f"classify.models.{name}.{other[0]}: {model.init}, which it starts from, has another; "
                f"expected {getattr(start, other[0])}."
            )
        elif start is not None and start.init in e.classify.models:
            problems.append(
                f"classify.models.{name}.init = {model.init}: expected a model that does not itself start "
                "from another."
            )
    for key, model in _classifiers(e).items():
        problems += _network_problems(key, model, e)
    return problems


def _classifiers(e: Experiment) -> dict[str, Classifier]:
    """Returns every classifier of a study, by its dotted key."""
    named = {"classify.models": e.classify.models, "sweep.classifiers": e.sweep.classifiers}
    models = {f"{place}.{name}": model for place, some in named.items() for name, model in some.items()}
    return {**models, **e.score.trained()}


def _network_problems(key: str, model: Classifier, e: Experiment) -> list[str]:
    """What is wrong with one classifier."""
    problems, sides = training.transformer_problems(key, model), prepared_resolutions(e)
    view = model.view
    if view.resolution and view.resolution not in sides:
        problems.append(
            f"{key}.view.resolution = {view.resolution}; expected a prepared one, "
            f"{', '.join(map(str, sides))}."
        )
    if view.original and not e.data.keep_original:
        problems.append(f"{key}.view.original needs data.keep_original = true.")
    if view.size == 0 and (view.original or view.crop != "none"):
        problems.append(f"{key}.view.size = 0 cuts nothing; with original or crop give a size, e.g. 224.")
    size = view.size or view.resolution or max(sides, default=0)
    patch = 16 if model.architecture else model.patch_size
    is_vit = model.kind == "vit" or (model.architecture and model.architecture.family == "vit")
    if model.kind == "vit" and len(model.depths) != 1:
        problems.append(f"{key}.depths = {list(model.depths)}; a vit has one number of layers, e.g. [3].")
    if is_vit and size % patch:
        problems.append(f"{key}.patch_size = {patch} does not divide {size} px; change it.")
    if is_vit and view.eval_size not in (0, size):
        problems.append(
            f"{key}.view.eval_size = {view.eval_size}: a transformer's positions are those of {size} px; "
            "set it to 0."
        )
    if view.size == 0 and key.startswith("classify.") and e.classify.mixes != ("real",):
        made = {name: side for name, _, side in generated_sets(e)}
        problems += [
            f"{key}.view.size = 0 takes images as they are, and {name} has {made[name]} px beside real ones "
            f"of {size}; set view.size, view.resolution or classify.sets."
            for name in classify_sets(e)
            if name in made and made[name] != size
        ]
    if model.kind == "vit" and model.width % model.num_heads:
        problems.append(f"{key}.num_heads = {model.num_heads} does not divide width {model.width}.")
    return problems
