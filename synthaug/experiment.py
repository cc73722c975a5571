"""Every knob that decides a result. Two equal experiments give the same numbers wherever they run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from synthaug import config
from synthaug.config import knob
from synthaug.errors import ConfigError

STAGES = ("prepare", "embed", "encoder", "finetune", "sweep", "sample", "score", "classify", "report")
OPTIONAL_STAGES = ("sweep", "score", "classify")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The labelled images and their split."""

    source: str = knob(doc="where images come from", choices=("digits", "folder"))
    path: str = knob("", "folder with one folder of images per class, for source = folder")
    num_classes: int = knob(doc="classes in the source; checked by prepare", unit="classes", at_least=2)
    num_train: int = knob(doc="images in the train split; checked by prepare", unit="images", at_least=1)
    num_val: int = knob(doc="images in the validation split", unit="images", at_least=1)
    val_every: int = knob(
        5, "of each class, in source order, every n-th image goes to validation", unit="images", at_least=2
    )
    channels: int = knob(3, "1 for grey images, 3 for colour", choices=(1, 3))
    resize: str = knob("area", "filter that makes each resolution from the source image", choices=("area",))
    decoder: str = knob("pillow", "library that decodes image files", choices=("pillow", "tensorflow"))
    shard_size: int = knob(1024, "images per prepared shard", unit="images", at_least=1)
    max_corrupt: int = knob(0, "unreadable images that prepare may leave out", unit="images", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """The text for each class."""

    names: dict[str, str] = knob({}, "class key -> class name; an absent class keeps the source's name")
    template: str = knob("{}", "prompt with {} for the class name; the paper uses the bare name")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """The frozen text encoder behind the prompt bank."""

    kind: str = knob("byte", "byte: embedded byte-level transformer, no download", choices=("byte",))
    max_length: int = knob(16, "tokens per prompt; longer prompts are refused", unit="tokens", at_least=1)
    width: int = knob(64, "width of an embedding", unit="channels", at_least=8)
    num_layers: int = knob(2, "transformer layers", at_least=1)
    num_heads: int = knob(4, "attention heads", at_least=1)
    seed: int = knob(0, "seed of the frozen random weights", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNet:
    """Shape of a U-Net."""

    channels: int = knob(doc="channels at full resolution", unit="channels", at_least=4)
    channel_mult: tuple[int, ...] = knob((1, 2), "channels of each level, as a multiple", at_least=1)
    num_res_blocks: int = knob(2, "residual blocks per level", at_least=1)
    attention_resolutions: tuple[int, ...] = knob(
        (), "levels with self- and text cross-attention", unit="px", at_least=1
    )
    head_dim: int = knob(64, "channels per attention head", unit="channels", at_least=1)
    norm_groups: int = knob(32, "groups of group normalisation", at_least=1)
    dropout: float = knob(0.0, "dropout inside residual blocks", at_least=0, at_most=0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The forward process and what the network predicts."""

    schedule: str = knob("cosine", "noise schedule", choices=("cosine", "linear"))
    num_timesteps: int = knob(0, "0 = continuous time, else the discrete grid, e.g. 1000", at_least=0)
    prediction: str = knob("eps", "what the network's first C channels are", choices=("eps", "v", "x"))
    learned_variance: bool = knob(False, "C more channels interpolate the log-variance (IDDPM eq. 15)")
    vlb_weight: float = knob(0.001, "weight of L_vlb beside L_simple, with learned_variance", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Gradient descent and its learning-rate schedule."""

    kind: str = knob("adam", "update rule", choices=("adafactor", "adam", "adamw", "sgd"))
    learning_rate: float = knob(1e-4, "peak learning rate", above=0)
    warmup_steps: int = knob(0, "linear warm-up from 0", unit="steps", at_least=0)
    schedule: str = knob("constant", "after warm-up", choices=("constant", "cosine"))
    weight_decay: float = knob(0.0, "decoupled decay (adamw); L2 on kernels (sgd)", at_least=0)
    momentum: float = knob(0.9, "Nesterov momentum (sgd)", at_least=0, at_most=1)
    grad_clip: float = knob(1.0, "global gradient norm; 0 = off", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
    """When a training run writes checkpoints and which ones stay."""

    every: int = knob(500, "steps between checkpoints", unit="steps", at_least=1)
    keep_latest: int = knob(2, "newest checkpoints that stay", at_least=1)
    keep_best: int = knob(1, "checkpoints with the best validation metric that stay", at_least=0)
    keep_steps: tuple[int, ...] = knob((), "steps that always stay, e.g. for the sweep", at_least=1)
    log_every: int = knob(50, "steps between logged metrics", unit="steps", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """Training of one model of the cascade."""

    init: str = knob("scratch", "scratch, or the folder of a synthaug checkpoint step")
    num_steps: int = knob(doc="training updates", unit="steps", at_least=1)
    batch_size: int = knob(doc="global batch", unit="images", at_least=1)
    optimizer: Optimizer = knob(Optimizer(), "update rule and learning rate")
    ema_decay: float = knob(0.9999, "decay of the averaged weights", at_least=0, at_most=1)
    text_drop: float = knob(0.1, "share of examples trained without text", at_least=0, at_most=1)
    saving: Saving = knob(Saving(), "checkpoints and logs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Settings of one model's sampler; the sweep overrides them point by point."""

    checkpoint: int = knob(0, "training step to sample from; 0 = the last", unit="steps", at_least=0)
    solver: str = knob(
        "ddpm", "ancestral, DDIM(eta), or DPM-Solver++ 2M", choices=("ddpm", "ddim", "dpmpp_2m")
    )
    num_sampling_steps: int = knob(64, "denoising steps", unit="steps", at_least=1)
    guidance_weight: float = knob(1.0, "classifier-free guidance; 1 = off", at_least=0)
    logvar_mix: float | Literal["learned"] = knob(
        0.0, "ddpm: 0 = posterior variance, 1 = beta", at_least=0, at_most=1
    )
    eta: float = knob(0.0, "ddim: 0 = deterministic, 1 = ancestral", at_least=0, at_most=1)
    threshold: str = knob("static", "clipping of the predicted image", choices=("none", "static", "dynamic"))
    threshold_percentile: float = knob(99.5, "dynamic: percentile of |x|", above=0, at_most=100)
    threshold_max: float = knob(1e9, "dynamic: largest divisor (DeepFloyd IF: 1.5)", at_least=1)
    aug_level: float = knob(0.0, "noise added to the low-resolution image", at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the cascade."""

    resolution: int = knob(doc="side of the images it makes", unit="px", at_least=2)
    low_res: str = knob("", "the model whose images it enlarges; empty for the base model")
    unet: UNet = knob(doc="network shape")
    diffusion: Diffusion = knob(Diffusion(), "forward process and prediction")
    finetune: Finetune = knob(doc="training")
    sampler: Sampler = knob(Sampler(), "sampling settings before the sweep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Values of one sweep phase; an empty list keeps the setting chosen so far."""

    checkpoint: tuple[int, ...] = knob((), "training steps", at_least=0)
    guidance_weight: tuple[float, ...] = knob((), "classifier-free guidance", at_least=0)
    logvar_mix: tuple[float, ...] = knob((), "log-variance mixing coefficients", at_least=0, at_most=1)
    num_sampling_steps: tuple[int, ...] = knob((), "denoising steps", at_least=1)
    aug_level: tuple[float, ...] = knob((), "noise on the low-resolution image", at_least=0, at_most=1)

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
    cas_steps: int = knob(0, "training steps of the CAS proxy; 0 = no proxy", unit="steps", at_least=0)
    choose: str = knob(
        "fid", "lowest fid, or highest cas or inception_score", choices=("fid", "cas", "inception_score")
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """The paper's search, phase after phase; each starts from what the one before chose."""

    phases: dict[str, Phase] = knob({}, "phases by name; the names appear in the report")
    order: tuple[str, ...] = knob((), "the phases' names in the order they run; empty = as written")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """The synthetic data set."""

    copies: int = knob(1, "generated images per real train image, class by class", at_least=1)
    shard_size: int = knob(512, "images per shard, the unit of commit", unit="images", at_least=1)
    shards_per_part: int = knob(1, "shards one job makes", at_least=1)
    batch_size: int = knob(128, "images sampled at once", unit="images", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A classifier and its training recipe."""

    kind: str = knob(doc="architecture", choices=("resnet", "vit"))
    width: int = knob(16, "channels of the first stage (resnet) or tokens (vit)", at_least=4)
    depths: tuple[int, ...] = knob((1, 1), "residual blocks per stage, or (layers,) for vit", at_least=1)
    num_heads: int = knob(4, "attention heads (vit)", at_least=1)
    patch_size: int = knob(2, "side of a patch (vit)", unit="px", at_least=1)
    dropout: float = knob(0.0, "dropout before the head (resnet) or in blocks (vit)", at_least=0, at_most=0.9)
    batch_size: int = knob(128, "global batch", unit="images", at_least=1)
    num_steps: int = knob(400, "training updates, with budget = steps", unit="steps", at_least=1)
    num_epochs: int = knob(30, "passes over the set, with budget = epochs", unit="epochs", at_least=1)
    optimizer: Optimizer = knob(Optimizer(kind="adamw", learning_rate=1e-3), "update rule")
    ema_decay: float = knob(
        0.0, "decay of the averaged weights; 0 = evaluate the last", at_least=0, at_most=1
    )
    label_smoothing: float = knob(0.0, "share of the label spread over all classes", at_least=0, at_most=1)
    max_shift: int = knob(0, "augmentation: random translation", unit="px", at_least=0)
    saving: Saving = knob(Saving(every=1000, keep_latest=1, keep_best=0), "checkpoints and logs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics of image sets. At toy size the encoder is a classifier trained on the real images."""

    encoder: Classifier = knob(doc="the encoder; its penultimate layer gives the features")
    splits: int = knob(10, "equal splits of the Inception Score", at_least=1)
    neighbours: int = knob(3, "k of improved precision and recall", at_least=1)
    max_images: int = knob(10000, "images per set in precision and recall", unit="images", at_least=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify:
    """What the generated data are worth: classifiers on real, generated and mixed sets."""

    models: dict[str, Classifier] = knob({}, "name -> classifier")
    mixes: tuple[str, ...] = knob(
        ("real", "generated", "real+generated"),
        "training sets; generated alone is CAS",
        choices=(),
    )
    copies: tuple[int, ...] = knob((1,), "generated copies in real+generated", at_least=1)
    shots: tuple[int, ...] = knob((0,), "real images per class; 0 = all", at_least=0)
    seeds: tuple[int, ...] = knob((0,), "training seeds", at_least=0)
    budget: str = knob("steps", "what stays fixed when the set grows", choices=("steps", "epochs"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A study: one YAML file in jobs/."""

    name: str = knob(doc="name of the run; its directory under runs/")
    seed: int = knob(0, "seed of everything but classifier training", at_least=0)
    stages: tuple[str, ...] = knob(STAGES, f"stages to run; only {', '.join(OPTIONAL_STAGES)} may be absent")
    data: Data = knob(doc="labelled images")
    prompts: Prompts = knob(Prompts(), "text for each class")
    text_encoder: TextEncoder = knob(TextEncoder(), "frozen text encoder")
    cascade: dict[str, Model] = knob(doc="models by name, the base first")
    sweep: Sweep = knob(Sweep(), "search for sampling settings")
    sample: Sample = knob(Sample(), "synthetic data set")
    score: Score = knob(doc="metrics")
    classify: Classify = knob(Classify(), "classifier study")

    def digest(self) -> str:
        """Returns the SHA-256 of the resolved settings."""
        return hashlib.sha256(config.render(self).encode()).hexdigest()


MIXES = ("real", "generated", "real+generated")


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
    for problem in _problems(experiment):
        raise ConfigError(f"{where}: {problem}")
    return experiment


def cascade_order(cascade: dict[str, Model]) -> list[str]:
    """Returns the model names from base to highest resolution, following `low_res`.

    Raises:
        ConfigError: an unknown `low_res`, a cycle, no or several base models, or a fork.
    """
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


def _problems(e: Experiment) -> list[str]:
    """Returns what is wrong between settings that are each valid alone, the first problem first."""
    problems: list[str] = []
    if not e.name or not all(c.isalnum() or c in "-_." for c in e.name) or e.name[0] == ".":
        problems.append(f"name = {e.name!r}; expected letters, digits, '-', '_' and '.', as in digits-2.")
    problems += _stage_problems(e)
    problems += _text_problems(e.text_encoder)
    problems += _optimizer_problems(e)
    try:
        order = cascade_order(e.cascade)
    except ConfigError as error:
        return [*problems, str(error)]
    for name in order:
        problems += _model_problems(name, e.cascade[name], e.cascade)
    problems += _sweep_problems(e)
    problems += _score_problems(e)
    problems += _classify_problems(e)
    return problems


def _stage_problems(e: Experiment) -> list[str]:
    problems = []
    for stage in e.stages:
        if stage not in STAGES:
            problems.append(f"stages: {stage!r} is no stage{config.did_you_mean(stage, STAGES)}")
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
    if m.diffusion.schedule == "linear" and 0 < m.diffusion.num_timesteps <= 20:
        problems.append(
            f"{at}.diffusion.num_timesteps = {m.diffusion.num_timesteps}; the linear schedule needs more "
            "than 20, e.g. 1000."
        )
    if m.sampler.logvar_mix == "learned" and not m.diffusion.learned_variance:
        problems.append(f"{at}.sampler.logvar_mix = learned needs {at}.diffusion.learned_variance = true.")
    problems += _grid_problems(at, m, m.sampler.num_sampling_steps, m.sampler.checkpoint)
    return problems


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
            "(finetune.saving.keep_steps, in steps of saving.every)."
        )
    return problems


def saved_steps(finetune: Finetune) -> set[int]:
    """Returns the training steps whose checkpoints stay for certain."""
    return {s for s in finetune.saving.keep_steps if s <= finetune.num_steps} | {finetune.num_steps}


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
    for mix in e.classify.mixes:
        if mix not in MIXES:
            problems.append(f"classify.mixes: {mix!r} is no mix; expected some of {', '.join(MIXES)}.")
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
