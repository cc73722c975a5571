"""What is wrong inside the settings of one optimiser, and of one classifier's network."""

from __future__ import annotations

from synthaug.experiment import Classifier, Optimizer


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
    if o.schedule == "cosine" and (o.warmup_steps >= num_steps > 0 or o.warmup_share == 1.0):
        problems.append(f"{at}.warmup_steps = {o.warmup_steps}; expected fewer than the {num_steps} steps.")
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


def transformer_problems(at: str, model: Classifier) -> list[str]:
    """Returns settings of transformers that a residual network has; `at` is the classifier's dotted key."""
    architecture = model.architecture
    if (architecture.family if architecture else model.kind) == "vit":
        return []
    problems = []
    if model.pool:
        problems.append(f"{at}.pool has no meaning with kind = {model.kind}; remove it.")
    if model.positions != "learned":
        problems.append(f"{at}.positions has no meaning with kind = {model.kind}; remove it.")
    return problems
