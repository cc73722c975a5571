"""How a network is trained, a diffusion model or a classifier."""

from __future__ import annotations

import dataclasses

from synthaug.config import knob


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Gradient descent and its learning-rate schedule."""

    kind: str = knob("adam", "update rule", choices=("adafactor", "adam", "adamw", "sgd"))
    learning_rate: float = knob(1e-4, "peak learning rate", above=0)
    warmup_steps: int = knob(0, "linear warm-up", unit="steps", at_least=0)
    warmup_share: float = knob(0.0, "the same as a share of all steps, instead", at_least=0, at_most=1)
    warmup_rate: float = knob(0.0, "learning rate where the warm-up begins", at_least=0)
    schedule: str = knob("constant", "after warm-up", choices=("constant", "cosine", "step"))
    milestones: tuple[float, ...] = knob(
        (), "step: shares of all steps after which the rate falls to a tenth", above=0, at_most=1
    )
    final_rate: float = knob(0.0, "cosine: learning rate at the end", at_least=0)
    weight_decay: float = knob(0.0, "decoupled, of kernels (adamw); L2 of all but norms (sgd)", at_least=0)
    momentum: float = knob(0.9, "momentum (sgd)", at_least=0, at_most=1)
    nesterov: bool = knob(True, "sgd: Nesterov's momentum; false: the plain one")
    bf16_moment: bool = knob(False, "first moment in bf16 (adam, adamw): less memory")
    grad_clip: float = knob(1.0, "global gradient norm; 0 = off", at_least=0)

    def num_warmup_steps(self, num_steps: int) -> int:
        """Returns the length of the warm-up in a training of `num_steps` updates."""
        return self.warmup_steps or round(self.warmup_share * num_steps)


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

    init: str = knob("scratch", "scratch, or the folder of a synthaug checkpoint step, e.g. an imported one")
    num_steps: int = knob(doc="training updates; 0 = use init as it is", unit="steps", at_least=0)
    batch_size: int = knob(doc="global batch", unit="images", at_least=1)
    optimizer: Optimizer = knob(Optimizer(), "update rule and learning rate")
    ema_decay: float = knob(0.9999, "decay of the averaged weights", at_least=0, at_most=1)
    ema_profiles: tuple[float, ...] = knob(
        (),
        "power-function EMAs kept for post-hoc EMA, by relative length, e.g. [0.05, 0.1]",
        above=0,
        at_most=0.28,
    )
    ema_every: int = knob(1000, "steps between snapshots of ema_profiles", unit="steps", at_least=1)
    text_drop: float = knob(0.1, "share of examples trained without text", at_least=0, at_most=1)
    crop: int = knob(0, "train on squares of this side, cut from the image; 0 = whole", unit="px", at_least=0)
    remat: bool = knob(False, "recompute activations in the backward pass: less memory, more time")
    saving: Saving = knob(Saving(), "checkpoints and logs")
