"""The training state, a plain dict, and the update that maps it to the next one.

    {"step": i32[], "params": ..., "ema": ..., "ema_stats": ..., "profiles": ..., "opt": ..., "stats": ...}

`step` counts completed updates. `params`, `ema` and `stats` are nested dicts of arrays, `opt` is optax's.
`ema_stats` are the averaged running moments of batch norms, as in the recipe of ResNet-RS: the last moments
are not those of averaged weights. Without averaging both are {}. `profiles` are the averages of post-hoc EMA,
{length: like params}, often {}.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from synthaug.train import ema

State = dict[str, Any]
Weights = dict[str, Any]
Metrics = dict[str, jax.Array]
LossFn = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Metrics, Any]]]
Update = Callable[[State, Any, jax.Array], tuple[State, Metrics]]


def create(
    weights: Weights, tx: optax.GradientTransformation, with_ema: bool, profiles: Iterable[str] = ()
) -> State:
    """Returns the training state before the first update.

    The arrays are copies: the update donates its state, and must not destroy the caller's weights.

    Args:
        weights: {"params", "stats"}, nested dicts of arrays.
        tx: the update rule.
        with_ema: whether weights and statistics are averaged; the same as `ema_decay > 0` in `make_update`.
        profiles: names of the averages for post-hoc EMA, the same as in `make_update`.
    """
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": _copy(weights["params"]),
        "ema": _copy(weights["params"]) if with_ema else {},
        "ema_stats": _copy(weights["stats"]) if with_ema else {},
        "profiles": {name: _copy(weights["params"]) for name in profiles},
        "opt": tx.init(weights["params"]),
        "stats": _copy(weights["stats"]),
    }


def make_update(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float,
    profiles: Mapping[str, float] = types.MappingProxyType({}),
) -> Update:
    """Returns the compiled update (state, batch, key) -> (state, metrics); it donates the state.

    Args:
        loss_fn: (params, stats, batch, key) -> (loss f32[], (metrics, new stats)).
        tx: the update rule.
        ema_decay: decay of the averaged weights; 0 = no average.
        profiles: {name: gamma} of the averages for post-hoc EMA, see posthoc.py.

    Returns:
        The update. Its metrics are those of `loss_fn`, the "loss" and, before clipping, the "grad_norm".
    """

    def update(state: State, batch: Any, key: jax.Array) -> tuple[State, Metrics]:
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (metrics, stats)), grads = gradient(state["params"], state["stats"], batch, key)
        updates, opt = tx.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        averages, moments = state["ema"], state["ema_stats"]
        if ema_decay:
            averages = ema.average(averages, params, state["step"], ema_decay)
            moments = ema.average(moments, stats, state["step"], ema_decay)
        powers = {
            name: ema.power_average(state["profiles"][name], params, state["step"], gamma)
            for name, gamma in profiles.items()
        }
        following = {
            "step": state["step"] + 1,
            "params": params,
            "ema": averages,
            "ema_stats": moments,
            "profiles": powers,
            "opt": opt,
            "stats": stats,
        }
        return following, {**metrics, "loss": loss, "grad_norm": optax.tree.norm(grads)}

    return jax.jit(update, donate_argnums=0)


def averaged(state: State) -> Weights:
    """Returns {"params", "stats"} to sample or evaluate with: the averaged weights where there are any."""
    return {"params": state["ema"] or state["params"], "stats": state["ema_stats"] or state["stats"]}


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.array, tree)
