"""Update rules and learning-rate schedules as optax transformations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from synthaug.errors import ConfigError
from synthaug.experiment import Optimizer


def learning_rate(settings: Optimizer, num_steps: int) -> optax.Schedule:
    """Returns the function from completed updates i32[] to the learning rate f32[] of the next one.

    It rises linearly from 0 over `warmup_steps` updates, then stays or falls as a half cosine to 0 at
    `num_steps`.

    Raises:
        ConfigError: the warm-up leaves no step for the cosine.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    cosine = settings.schedule == "cosine"
    if cosine and warmup >= num_steps:
        raise ConfigError(
            f"optimizer.warmup_steps = {warmup} leaves none of the {num_steps} steps for the cosine; "
            "lower it, or use schedule = constant."
        )

    def rate(completed: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(completed, jnp.float32)
        rise = jnp.minimum(1.0, done / warmup) if warmup else jnp.float32(1.0)
        if not cosine:
            return peak * rise
        share = jnp.clip((done - warmup) / (num_steps - warmup), 0.0, 1.0)
        return peak * rise * 0.5 * (1.0 + jnp.cos(jnp.pi * share))

    return rate


def build_optimizer(settings: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """Returns the update rule: clipping by global norm, then the rule with its schedule.

    adafactor has optax's defaults, Imagen's choice for the base model; adam has b1 = 0.9, b2 = 0.999,
    eps = 1e-8, its choice for super-resolution. Decay touches kernels only (two axes or more), never
    biases and norm scales. Without steps there is nothing to keep: weights are used as they are.

    Raises:
        ConfigError: a weight decay with a rule that has none.
    """
    if not num_steps:
        return optax.identity()
    rate = learning_rate(settings, num_steps)
    if settings.weight_decay and settings.kind not in ("adamw", "sgd"):
        raise ConfigError(
            f"optimizer.weight_decay = {settings.weight_decay:g} has no meaning with kind = {settings.kind}; "
            "use kind = adamw or sgd, or set it to 0."
        )
    clip = [optax.clip_by_global_norm(settings.grad_clip)] if settings.grad_clip else []
    return _promoting(optax.chain(*clip, *_rule(settings, rate)))


def _rule(settings: Optimizer, rate: optax.Schedule) -> list[optax.GradientTransformation]:
    decay = settings.weight_decay
    if settings.kind == "adafactor":
        return [optax.adafactor(rate)]
    if settings.kind == "adam":
        return [optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)]
    if settings.kind == "adamw":
        return [optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=decay, mask=_kernels)]
    l2 = [optax.add_decayed_weights(decay, mask=_kernels)] if decay else []
    return [*l2, optax.sgd(rate, momentum=settings.momentum, nesterov=True)]


def _promoting(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` with JAX's usual promotion: optax computes b1**count, a float and an integer."""

    def update(grads: Any, opt: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(grads, opt, params)

    return optax.GradientTransformation(tx.init, update)


def _kernels(params: Any) -> Any:
    """Returns True for the leaves that decay."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
