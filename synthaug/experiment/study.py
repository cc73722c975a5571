"""A study: what is swept, sampled, scored and classified, and the file it is read from."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

from synthaug import config
from synthaug.config import knob
from synthaug.errors import ConfigError
from synthaug.experiment.classifier import Classifier
from synthaug.experiment.data import MAX_SEED, Data, MadeSet, Prompts, Subset, TextEncoder, ValSet
from synthaug.experiment.filtering import Filter
from synthaug.experiment.generator import Model, Network
from synthaug.experiment.scoring import Score
from synthaug.experiment.training import Finetune

OPTIONAL_STAGES = ("sweep", "score", "classify")
MIXES = ("real", "generated", "real+generated")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Values of one sweep phase; an empty list keeps the setting chosen so far."""

    checkpoint: tuple[int, ...] = knob((), "training steps", at_least=0)
    guidance_weight: tuple[float, ...] = knob((), "classifier-free guidance", at_least=0)
    logvar_mix: tuple[float, ...] = knob((), "log-variance mixing coefficients", at_least=0, at_most=1)
    num_sampling_steps: tuple[int, ...] = knob((), "denoising steps", at_least=1)
    aug_level: tuple[float, ...] = knob((), "noise on the low-resolution image", at_least=0, at_most=1)
    solver: tuple[str, ...] = knob((), "solvers", choices=("ddpm", "ddim", "dpmpp_2m", "heun"))
    guidance_min_t: tuple[float, ...] = knob((), "start of the guidance interval", at_least=0, at_most=1)
    guidance_max_t: tuple[float, ...] = knob((), "end of the guidance interval", at_least=0, at_most=1)
    guide_checkpoint: tuple[int, ...] = knob(
        (), "training steps of autoguidance's weaker weights", at_least=0
    )
    ema_length: tuple[float, ...] = knob((), "lengths of the post-hoc EMA", at_least=0, at_most=0.28)

    def points(self) -> list[dict[str, Any]]:
        """Returns every combination, the first knob varying slowest."""
        points: list[dict[str, Any]] = [{}]
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            points = [{**p, field.name: v} for p in points for v in values] if values else points
        return points


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of the sweep: a grid over one model, and the rule that chooses from it."""

    model: str = knob(doc="the model of the cascade whose sampler is varied")
    grid: Grid = knob(doc="values to try")
    num_images: int = knob(doc="images per point, classes as in the train split", unit="images", at_least=2)
    reference: str = knob("val", "split that FID compares with", choices=("train", "val"))
    cas_steps: int = knob(0, "training steps of the CAS classifier; 0 = no CAS", unit="steps", at_least=0)
    cas_classifier: str = knob(
        "",
        "a name in sweep.classifiers or classify.models, trained on the point's images alone; empty: "
        "score.encoder.classifier, a proxy",
    )
    choose: str = knob(
        "fid", "lowest fid, or highest cas or inception_score", choices=("fid", "cas", "inception_score")
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """The paper's search, phase after phase; each starts from what the one before chose."""

    phases: dict[str, Phase] = knob({}, "phases by name; the names appear in the report")
    order: tuple[str, ...] = knob((), "the phases' names in the order they run; empty = as written")
    classifiers: dict[str, Classifier] = knob({}, "name -> classifier that gives CAS in a phase")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """The synthetic data set."""

    copies: int = knob(1, "generated images per real train image, class by class", at_least=1)
    shard_size: int = knob(512, "images per shard, the unit of commit", unit="images", at_least=1)
    shards_per_part: int = knob(1, "shards one job makes", at_least=1)
    batch_size: int = knob(128, "images sampled at once", unit="images", at_least=1)
    edit_level: float = knob(
        0.0,
        "start from a real train image of the class, noised to this time; 0 = from noise",
        at_least=0,
        at_most=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify:
    """What the generated data are worth: classifiers on real, generated and mixed sets."""

    models: dict[str, Classifier] = knob({}, "name -> classifier")
    mixes: tuple[str, ...] = knob(MIXES, "training sets; generated alone is CAS", choices=MIXES)
    sets: tuple[str, ...] = knob(
        (),
        "generated sets to learn from: generated-<px>, or a name in sets; empty: our own of the highest "
        "resolution, or all in sets where there is no cascade",
    )
    copies: tuple[int, ...] = knob((1,), "generated copies in real+generated", at_least=1)
    share: float = knob(
        0.0,
        "real+generated: exact share of generated images in every batch; 0 = concatenate the sets",
        at_least=0,
        at_most=1,
    )
    subsets: dict[str, Subset] = knob({"all": Subset()}, "subsets of the real train images, by name")
    seeds: tuple[int, ...] = knob((0,), "training seeds", at_least=0, at_most=MAX_SEED)
    budget: str = knob("steps", "what stays fixed when the set grows", choices=("steps", "epochs"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A study: one YAML file in jobs/."""

    name: str = knob(doc="name of the run; its directory under runs/")
    seed: int = knob(0, "seed of everything but classifier training", at_least=0, at_most=MAX_SEED)
    stages: tuple[str, ...] = knob(
        OPTIONAL_STAGES, "which of the stages that a study can do without are run", choices=OPTIONAL_STAGES
    )
    data: Data = knob(doc="labelled images")
    prompts: Prompts = knob(Prompts(), "text for each class")
    text_encoder: TextEncoder = knob(TextEncoder(), "frozen text encoder")
    cascade: dict[str, Model] = knob({}, "models by name, the base first; none: only sets made elsewhere")
    sets: dict[str, MadeSet] = knob(
        {}, "generated sets made elsewhere, by name; what no stage uses is left out"
    )
    val_sets: dict[str, ValSet] = knob({}, "further validation sets, by name")
    licences: tuple[str, ...] = knob(
        (), "the licences of the checkpoints that training starts from, if they differ"
    )
    sweep: Sweep = knob(Sweep(), "search for sampling settings")
    sample: Sample = knob(Sample(), "synthetic data set")
    filter: Filter = knob(Filter(), "suspect generated images, and what takes their place; off by default")
    score: Score = knob(Score(), "metrics")
    classify: Classify = knob(Classify(), "classifier study")

    def digest(self) -> str:
        """Returns the SHA-256 of the resolved settings."""
        return hashlib.sha256(config.render(self).encode()).hexdigest()


def load(path: pathlib.Path, overrides: Sequence[str] = ()) -> Experiment:
    """Returns the experiment in a job file.

    Args:
        path: a YAML file.
        overrides: dotted `key=value` texts that win over the file.

    Raises:
        ConfigError: anything in the file or the overrides that is not as expected.
    """
    where = str(path)
    tree = config.read_yaml(path)
    try:
        tree = config.apply_overrides(tree, overrides)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return parse(tree, where)


def parse(tree: dict[str, Any], where: str) -> Experiment:
    """Returns the checked experiment in a mapping; `where` names it in errors."""
    experiment = config.build(Experiment, tree, where)
    sweep = experiment.sweep
    if not sweep.order:
        # Settings are compared and hashed as sorted text, so the order must be a setting of its own.
        sweep = dataclasses.replace(sweep, order=tuple(sweep.phases))
    if sorted(sweep.order) != sorted(sweep.phases):
        names = ", ".join(sweep.phases) or "none"
        raise ConfigError(
            f"{where}: sweep.order = {', '.join(sweep.order)}; expected each phase once: {names}."
        )
    sweep = dataclasses.replace(sweep, phases={name: sweep.phases[name] for name in sweep.order})
    experiment = dataclasses.replace(experiment, sweep=sweep)
    experiment = dataclasses.replace(experiment, sets=_used_sets(experiment))
    from synthaug import checks  # it reads the classes above

    for problem in checks.problems(experiment):
        raise ConfigError(f"{where}: {problem}")
    return experiment


def _used_sets(experiment: Experiment) -> dict[str, MadeSet]:
    """Returns the sets made elsewhere that a stage reads: the others need not be there."""
    settings = experiment.classify
    named = {name for name in settings.sets if not name.startswith("generated-")}
    if "score" in experiment.stages or not named <= experiment.sets.keys():
        return experiment.sets  # what is unknown the checks refuse, and say what there is
    if "classify" not in experiment.stages or set(settings.mixes) == {"real"}:
        return {}
    return {n: s for n, s in experiment.sets.items() if not settings.sets or n in settings.sets}


def network_of(experiment: Experiment, name: str) -> Network:
    """Returns what the network of a model of the cascade is, apart from its weights."""
    model, channels = experiment.cascade[name], experiment.data.channels
    by_text = model.unet.conditioning == "text"
    return Network(
        unet=model.unet,
        resolution=model.resolution,
        channels=channels,
        out_channels=channels * (2 if model.diffusion.learned_variance else 1),
        text_width=experiment.text_encoder.width if by_text else 0,
        text_length=experiment.text_encoder.max_length if by_text else 0,
        num_classes=0 if by_text else experiment.data.num_classes,
        low_res=bool(model.low_res),
        enlarge=model.enlarge,
        augmentation=model.augmentation if model.low_res else "none",
    )


def cascade_order(cascade: dict[str, Model]) -> list[str]:
    """Returns the model names from base to highest resolution, following `low_res`.

    Raises:
        ConfigError: an unknown `low_res`, a cycle, no or several base models, or a fork.
    """
    if not cascade:
        raise ConfigError("cascade is empty; name at least a base model.")
    bases = [name for name, model in cascade.items() if not model.low_res]
    for name, model in cascade.items():
        if model.low_res and model.low_res not in cascade:
            raise ConfigError(
                f"cascade.{name}.low_res = {model.low_res!r}: unknown model; "
                f"expected one of {', '.join(cascade)}."
            )
    if len(bases) != 1:
        found = ", ".join(bases) or "none: the low_res settings form a cycle"
        raise ConfigError(f"cascade: expected exactly one model without low_res, the base; found {found}.")
    order = bases
    while True:
        above = [name for name, model in cascade.items() if model.low_res == order[-1]]
        if len(above) > 1:
            raise ConfigError(f"cascade: {' and '.join(above)} both enlarge {order[-1]}; keep one.")
        if not above:
            break
        order = [*order, above[0]]
    stray = sorted(set(cascade) - set(order))
    if stray:
        raise ConfigError(f"cascade: the low_res settings of {', '.join(stray)} form a cycle; break it.")
    return order


def prepared_resolutions(experiment: Experiment) -> list[int]:
    """Returns the sides that real images are prepared at, ascending, px."""
    return sorted({*(m.resolution for m in experiment.cascade.values()), *experiment.data.resolutions})


def prepared_sets(experiment: Experiment) -> dict[str, MadeSet | ValSet]:
    """Returns the sets besides train and val that are prepared; a manifest is used as it is."""
    made = {name: one for name, one in experiment.sets.items() if one.source != "manifest"}
    return {**made, **{name: one for name, one in experiment.val_sets.items() if one.source != "val"}}


def generated_sets(experiment: Experiment) -> list[tuple[str, str, int]]:
    """Returns (name in classify.sets, name of the set, resolution) of every generated set of a study."""
    order = cascade_order(experiment.cascade) if experiment.cascade else []
    own = [experiment.cascade[name].resolution for name in order]
    elsewhere = [(name, name, made.resolution) for name, made in experiment.sets.items()]
    return [(f"generated-{side}", "generated", side) for side in own] + elsewhere


def classify_sets(experiment: Experiment) -> list[str]:
    """Returns the generated sets that classifiers learn from, by their names in classify.sets."""
    if experiment.classify.sets:
        return list(experiment.classify.sets)
    own = [name for name, made, _ in generated_sets(experiment) if made == "generated"]
    return own[-1:] or list(experiment.sets)


def saved_steps(finetune: Finetune) -> set[int]:
    """Returns the training steps whose checkpoints stay for certain."""
    return {s for s in finetune.saving.keep_steps if s <= finetune.num_steps} | {finetune.num_steps}
