"""Update rules and learning-rate schedules as optax transformations."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from synthaug.errors import ConfigError
from synthaug.experiment import Optimizer


def learning_rate(settings: Optimizer, num_steps: int) -> optax.Schedule:
    """Returns the function from completed updates i32[] to the learning rate f32[] of the next one.

    It rises linearly from `warmup_rate` over the warm-up, then stays, falls as a half cosine to `final_rate`
    at `num_steps`, or falls to a tenth at each milestone, a share of all steps that counts the warm-up.

    Raises:
        ConfigError: the warm-up leaves no step for the cosine.
    """
    peak, warmup = settings.learning_rate, settings.num_warmup_steps(num_steps)
    if settings.schedule == "cosine" and warmup >= num_steps:
        raise ConfigError(
            f"optimizer.warmup_steps = {warmup} leaves none of the {num_steps} steps for the cosine; "
            "lower it, or use schedule = constant."
        )
    falls = [round(share * num_steps) for share in settings.milestones]

    def after(done: jax.Array) -> jax.Array:
        if settings.schedule == "step":
            return peak * math.prod(jnp.where(done >= fall, 0.1, 1.0) for fall in falls)
        if settings.schedule == "constant":
            return jnp.float32(peak)
        share = jnp.clip((done - warmup) / (num_steps - warmup), 0.0, 1.0)
        half = 0.5 * (1.0 + jnp.cos(jnp.pi * share))
        return settings.final_rate + (peak - settings.final_rate) * half

    def rate(completed: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(completed, jnp.float32)
        if not warmup:
            return after(done)
        start = settings.warmup_rate
        return jnp.where(done < warmup, start + (peak - start) * done / warmup, after(done))

    return rate


def build_optimizer(settings: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """Returns the update rule: clipping by global norm, then the rule with its schedule.

    adafactor has optax's defaults, Imagen's choice for the base model; adam has b1 = 0.9, b2 = 0.999,
    eps = 1e-8, its choice for super-resolution. adamw's decay is multiplied by the learning rate, as in
    torch; big_vision's is not. sgd's decay is part of the gradient, as a loss of weight_decay / 2 * |w|^2
    would have it; `kernels` and `without_norms` say what decays. Without steps there is nothing to keep:
    weights are used as they are.

    Raises:
        ConfigError: a weight decay, or a moment in bf16, with a rule that has none.
    """
    if not num_steps:
        return optax.identity()
    rate = learning_rate(settings, num_steps)
    if settings.weight_decay and settings.kind not in ("adamw", "sgd"):
        raise ConfigError(
            f"optimizer.weight_decay = {settings.weight_decay:g} has no meaning with kind = {settings.kind}; "
            "use kind = adamw or sgd, or set it to 0."
        )
    if settings.bf16_moment and settings.kind not in ("adam", "adamw"):
        raise ConfigError(
            f"optimizer.bf16_moment has no meaning with kind = {settings.kind}; use adam or adamw, or set "
            "it to false."
        )
    clip = [optax.clip_by_global_norm(settings.grad_clip)] if settings.grad_clip else []
    return _promoting(optax.chain(*clip, *_rule(settings, rate)))


def _rule(settings: Optimizer, rate: optax.Schedule) -> list[optax.GradientTransformation]:
    decay = settings.weight_decay
    adam = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "mu_dtype": jnp.bfloat16 if settings.bf16_moment else None}
    if settings.kind == "adafactor":
        return [optax.adafactor(rate)]
    if settings.kind == "adam":
        return [optax.adam(rate, **adam)]
    if settings.kind == "adamw":
        return [optax.adamw(rate, **adam, weight_decay=decay, mask=kernels)]
    l2 = [optax.add_decayed_weights(decay, mask=without_norms)] if decay else []
    return [*l2, optax.sgd(rate, momentum=settings.momentum, nesterov=settings.nesterov)]


def _promoting(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` with JAX's usual promotion: optax computes b1**count, a float and an integer."""

    def update(grads: Any, opt: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(grads, opt, params)

    return optax.GradientTransformation(tx.init, update)


def kernels(params: Any) -> Any:
    """Returns True for the leaves that adamw's decay touches: those of two axes or more, except positions.

    So do timm, DeiT and big_vision: no bias, no scale of a norm, no class token, no learned positions.
    """

    def decay(path: tuple[Any, ...], leaf: Any) -> bool:
        return leaf.ndim >= 2 and jax.tree_util.keystr(path[-1:], simple=True) != "positions"

    return jax.tree_util.tree_map_with_path(decay, params)


def without_norms(params: Any) -> Any:
    """Returns True for the leaves that sgd's decay touches: all but the scales and biases of norms.

    So does Cloud TPU's ResNet (Ravuri and Vinyals 2019): the biases of the head and of squeeze-excitation
    decay, too.
    """

    def decay(path: tuple[Any, ...], leaf: Any) -> bool:
        del leaf
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        return not any("norm" in name for name in names[:-1])

    return jax.tree_util.tree_map_with_path(decay, params)
