"""The exponential moving average of the weights, which is what is sampled from and evaluated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def rate(step: jax.Array, decay: float) -> jax.Array:
    """Returns the decay f32[] of one update, min(decay, (1 + step) / (10 + step)).

    The ramp lets an average that starts at random weights forget them: at step 0 it keeps one tenth.

    Args:
        step: i32[], updates completed before this one.
        decay: the decay that the ramp ends at.
    """
    completed = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1.0 + completed) / (10.0 + completed))


def average(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """Returns the average after one more update, rate * ema + (1 - rate) * params, leaf by leaf.

    Integers are counters: they are taken as they are.
    """
    share = 1.0 - rate(step, decay)

    def mean(e: jax.Array, p: jax.Array) -> jax.Array:
        return e + share.astype(e.dtype) * (p - e) if jnp.issubdtype(e.dtype, jnp.floating) else p

    return jax.tree.map(mean, ema, params)


def power_average(profile: Any, params: Any, step: jax.Array, gamma: float) -> Any:
    """Returns an average with weights ~ (step of the update)^gamma after one more update, leaf by leaf.

    beta = (1 - 1/t)^(gamma + 1) with t = step + 1 (Karras et al. 2024, EDM2, section 3). After the first
    update it is the weights: where training starts from is forgotten at once.

    Args:
        profile: the average before.
        params: the weights after this update.
        step: i32[], updates completed before this one.
        gamma: exponent of the profile, see posthoc.py.
    """
    t = jnp.asarray(step, jnp.float32) + 1.0
    share = -jnp.expm1((gamma + 1.0) * jnp.log1p(-1.0 / t))  # 1 - beta; by subtraction it would lose digits
    return jax.tree.map(lambda e, p: e + share.astype(e.dtype) * (p - e), profile, params)
