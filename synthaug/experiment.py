"""Every knob that decides a result. Two equal experiments give the same numbers wherever they run."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from synthaug import config
from synthaug.config import knob
from synthaug.errors import ConfigError

STAGES = ("prepare", "embed", "encoder", "finetune", "sweep", "sample", "score", "classify", "report")
OPTIONAL_STAGES = ("sweep", "score", "classify")
MIXES = ("real", "generated", "real+generated")
MAX_SEED = 2**31 - 1


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
    seed: int = knob(0, "seed of the frozen random weights", at_least=0, at_most=MAX_SEED)


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
    mixes: tuple[str, ...] = knob(MIXES, "training sets; generated alone is CAS", choices=MIXES)
    copies: tuple[int, ...] = knob((1,), "generated copies in real+generated", at_least=1)
    shots: tuple[int, ...] = knob((0,), "real images per class; 0 = all", at_least=0)
    seeds: tuple[int, ...] = knob((0,), "training seeds", at_least=0, at_most=MAX_SEED)
    budget: str = knob("steps", "what stays fixed when the set grows", choices=("steps", "epochs"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A study: one YAML file in jobs/."""

    name: str = knob(doc="name of the run; its directory under runs/")
    seed: int = knob(0, "seed of everything but classifier training", at_least=0, at_most=MAX_SEED)
    stages: tuple[str, ...] = knob(
        STAGES, f"stages to run; only {', '.join(OPTIONAL_STAGES)} may be absent", choices=STAGES
    )
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
    from synthaug import checks  # it reads the classes above

    for problem in checks.problems(experiment):
        raise ConfigError(f"{where}: {problem}")
    return experiment


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """Returns the experiment with every path absolute: a scheduler's job starts in another folder."""
    data = experiment.data
    if data.path:
        data = dataclasses.replace(data, path=str(pathlib.Path(data.path).absolute()))
    cascade = {}
    for name, model in experiment.cascade.items():
        init = model.finetune.init
        if init != "scratch":
            init = str(pathlib.Path(init).absolute())
        cascade[name] = dataclasses.replace(model, finetune=dataclasses.replace(model.finetune, init=init))
    return dataclasses.replace(experiment, data=data, cascade=cascade)


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


def saved_steps(finetune: Finetune) -> set[int]:
    """Returns the training steps whose checkpoints stay for certain."""
    return {s for s in finetune.saving.keep_steps if s <= finetune.num_steps} | {finetune.num_steps}
