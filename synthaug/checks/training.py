"""What is wrong inside the settings of an optimiser or a network, and with what classifiers learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from synthaug.experiment import Classifier, Experiment, Optimizer, Subset, prepared_resolutions
from synthaug.experiment.study import classify_sets, generated_sets

Classes = Sequence[tuple[str, int]]
"""(key, train images) of every class, by class index."""


def optimizer_problems(at: str, o: Optimizer, num_steps: int) -> list[str]:
    """Returns what is wrong with an optimiser; `at` is its dotted key.

    Args:
        at: e.g. "classify.models.resnet50.optimizer".
        o: the optimiser.
        num_steps: of the shortest training that it is used in; 0 = not known before the data are.
    """
    problems = []
    if o.weight_decay and o.kind in ("adam", "adafactor"):
        problems.append(f"{at}.weight_decay: {o.kind} has none; use adamw, or set it to 0.")
    if o.bf16_moment and o.kind in ("sgd", "adafactor"):
        problems.append(f"{at}.bf16_moment: {o.kind} has no such moment; use adam or adamw, or remove it.")
    if not o.nesterov and o.kind != "sgd":
        problems.append(f"{at}.nesterov has no meaning with kind = {o.kind}; use sgd, or remove it.")
    if o.warmup_steps and o.warmup_share:
        problems.append(f"{at}.warmup_steps and .warmup_share are two names of one thing; remove one.")
    if o.warmup_rate and not (o.warmup_steps or o.warmup_share):
        problems.append(
            f"{at}.warmup_rate = {o.warmup_rate:g} without a warm-up; set warmup_steps or _share."
        )
    for knob in ("warmup_rate", "final_rate"):
        if getattr(o, knob) > o.learning_rate:
            problems.append(
                f"{at}.{knob} = {getattr(o, knob):g} exceeds learning_rate = {o.learning_rate:g}; lower it."
            )
    if o.num_warmup_steps(num_steps) >= num_steps > 0:
        problems.append(f"{at}.{_all_warmup(o, num_steps)}; expected fewer than the {num_steps} steps.")
    elif o.warmup_share == 1.0:
        problems.append(f"{at}.warmup_share = 1 leaves nothing after the warm-up; expected less, e.g. 0.05.")
    if o.final_rate and o.schedule != "cosine":
        problems.append(
            f"{at}.final_rate has no meaning with schedule = {o.schedule}; use cosine, or remove it."
        )
    if (o.schedule == "step") != bool(o.milestones):
        problems.append(
            f"{at}.milestones = {list(o.milestones)} with schedule = {o.schedule}; expected some with step, "
            "e.g. [0.3, 0.6, 0.9], and none with others."
        )
    if list(o.milestones) != sorted(set(o.milestones)):
        problems.append(f"{at}.milestones = {list(o.milestones)}; expected rising numbers; sort them.")
    return problems


def _all_warmup(o: Optimizer, num_steps: int) -> str:
    """Returns the knob of the warm-up as it was set, and the steps that it is if it is a share."""
    if o.warmup_steps:
        return f"warmup_steps = {o.warmup_steps}"
    return f"warmup_share = {o.warmup_share:g} is {o.num_warmup_steps(num_steps)} steps"


def transformer_problems(at: str, model: Classifier) -> list[str]:
    """Returns settings that belong to another kind of network; `at` is the classifier's dotted key."""
    architecture = model.architecture
    family = architecture.family if architecture else model.kind
    problems = []
    if model.activation != "relu" and family in ("vit", "resnet"):
        problems.append(f"{at}.activation has no meaning with kind = {model.kind}; remove it.")
    if family == "vit":
        return problems
    if model.pool:
        problems.append(f"{at}.pool has no meaning with kind = {model.kind}; remove it.")
    if model.positions != "learned":
        problems.append(f"{at}.positions has no meaning with kind = {model.kind}; remove it.")
    return problems


# ------------------------------------------------------------------------- how long the trainings are


def subset_problems(e: Experiment, classes: Classes) -> list[str]:
    """Returns what is wrong with the subsets of the real train images, and with trainings on them.

    Args:
        e: the experiment.
        classes: as scan, or collect, found them.
    """
    problems = []
    for name, subset in e.classify.subsets.items() if "classify" in e.stages else ():
        key, count = min(classes, key=lambda each: each[1])
        if subset.per_class > count:
            problems.append(
                f"classify.subsets.{name}.per_class = {subset.per_class}, but class {key} has {count} train "
                f"images; set it to {count} or less, or use fraction."
            )
    return problems or epoch_problems(e, classes)


def epoch_problems(e: Experiment, classes: Classes | None = None) -> list[str]:
    """Returns the classifiers whose warm-up takes all the steps that their epochs on a small set are.

    Args:
        e: the experiment.
        classes: as scan found them; None before that: then the most images that a set can have count.
    """
    sizes = [(size, f"{size} images of {what}") for what, size in _set_sizes(e, classes)]
    trainings = [(f"classify.models.{n}", m, *each) for n, m in e.classify.models.items() for each in sizes]
    real = e.data.num_train * len(prepared_resolutions(e))  # an encoder learns from every resolution
    trainings += [(key, m, real, f"{real} real images") for key, m in e.score.trained().items()]
    problems = []
    for at, settings, size, images in trainings if e.classify.budget == "epochs" else ():
        steps = math.ceil(settings.num_epochs * size / settings.batch_size)
        warmup = settings.optimizer.num_warmup_steps(steps)
        if 0 < steps <= warmup:
            instead = "warmup_share" if settings.optimizer.warmup_steps else "a smaller share"
            problems.append(
                f"{at}.optimizer.{_all_warmup(settings.optimizer, steps)}; expected fewer than the {steps} "
                f"steps that num_epochs = {settings.num_epochs} of {images} are: use {instead}, more epochs, "
                "or classify.budget = steps."
            )
    return problems


def _set_sizes(e: Experiment, classes: Classes | None) -> Iterator[tuple[str, int]]:
    """Yields (what it is, images) of every training set, of those of one kind the smallest."""
    if "classify" not in e.stages:
        return
    for name, subset in e.classify.subsets.items() if "real" in e.classify.mixes else ():
        yield f"subset {name}", _subset_size(e, subset, classes)
    real = [_subset_size(e, subset, classes) for subset in e.classify.subsets.values()]
    sizes = {f"generated-{model.resolution}": e.data.num_train for model in e.cascade.values()}
    sizes |= {name: min(made.num_images, e.data.num_train) for name, made in e.sets.items()}
    known = {name for name, _, _ in generated_sets(e)}
    for name in (name for name in classify_sets(e) if name in known):
        if "generated" in e.classify.mixes:
            yield name, sizes[name]
        if "real+generated" in e.classify.mixes and real:
            made = min(e.classify.copies, default=0) * sizes[name]
            yield f"the smallest subset and {name}", min(real) + made


def _subset_size(e: Experiment, subset: Subset, classes: Classes | None) -> int:
    """Returns the images of a subset, of all seeds the fewest; a bound above while classes are not known."""
    total = e.data.num_train
    if classes is not None:
        import numpy as np

        from synthaug.data.subset import class_sizes  # numpy is slow to import for a command line

        counts = np.array([count for _, count in classes], np.int64)
        return min(int(class_sizes(counts, subset, seed).sum()) for seed in e.classify.seeds)
    if not subset.per_class:
        return min(total, math.ceil(subset.fraction * total) + e.data.num_classes)  # each class is rounded up
    tail = ((place + 1) ** -subset.exponent for place in range(e.data.num_classes))
    most = subset.per_class * subset.fraction
    return min(total, sum(math.ceil(round(most * share, 6)) for share in tail))
