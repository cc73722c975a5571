"""The compiled sampling loop of a model: conditioning, guidance and steps in one program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from synthaug import experiment, rng
from synthaug.data.images import to_float
from synthaug.diffusion.cascade import augment_low_res, enlarge
from synthaug.diffusion.sampler import Knobs, sample
from synthaug.diffusion.schedule import step_grid
from synthaug.errors import ConfigError
from synthaug.models.functional import Model, Weights
from synthaug.models.unet import build_unet


@functools.cache
def sampler(
    network: experiment.Network,
    process: experiment.Diffusion,
    compute: str,
    static: experiment.Sampler,
    num_steps: int,
    start: float,
) -> Callable[..., jax.Array]:
    """Returns the compiled sampling loop; all points of a sweep with equal step counts share it.

    Args:
        network: what the network is apart from its weights.
        process: its forward process.
        compute: precision of its activations.
        static: of `diffusion.sampler.static_part`.
        num_steps: steps of the whole sampler.
        start: time of the first step, 1 = noise; below it the batch holds the images to start from.

    Returns:
        run(weights, weaker weights or None, knobs, aug_level f32[], key, batch, null text or None) ->
        u8[B,H,W,C]. The batch holds "index" u32[B], "text" and "text_mask" or "label" i32[B], and what there
        is of "low_res" u8[B,h,w,C] and "start" u8[B,H,W,C].
    """
    unet = build_unet(network, compute=compute)
    grid = step_grid(process, num_steps, static.timesteps or None, start)
    shape = (network.resolution, network.resolution, network.channels)

    @jax.jit
    def run(
        weights: Weights,
        weaker: Weights | None,
        numbers: Knobs,
        level: jax.Array,
        key: jax.Array,
        batch: dict[str, jax.Array],
        null: tuple[jax.Array, jax.Array] | None,
    ) -> jax.Array:
        keys = rng.for_images(key, batch["index"])
        if compute == "f32":  # once for all steps
            weights = unet.prepare(weights)
            weaker = None if weaker is None else unet.prepare(weaker)
        shared = _low_res(network, batch, level, keys)

        def conditioning(weights: Weights) -> dict[str, Any]:
            return shared | _content(unet, weights, batch)

        def bound(weights: Weights) -> Callable[..., jax.Array]:
            return lambda z_t, time, cond: unet.apply(weights, z_t, time, cond)

        cond = conditioning(weights)
        null_cond = None
        if weaker is not None:
            null_cond = conditioning(weaker)
        elif static.guidance_weight != 1:
            null_cond = cond | _null(unet, weights, null, len(batch["index"]))
        images = sample(
            bound(weights),
            static,
            process,
            grid,
            numbers,
            keys,
            cond,
            null_cond,
            shape,
            weaker=None if weaker is None else bound(weaker),
            start=to_float(batch["start"]) if "start" in batch else None,
        )
        return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)

    return run


def _low_res(
    network: experiment.Network, batch: dict[str, jax.Array], level: jax.Array, keys: jax.Array
) -> dict[str, jax.Array]:
    """Returns what a network that enlarges is told of the smaller image; nothing for the base model."""
    if not network.low_res:
        return {}
    size = (network.resolution, network.resolution)
    large = enlarge(to_float(batch["low_res"]), size, network.enlarge)
    levels = jnp.full(batch["index"].shape, level)
    noised, aug_time = augment_low_res(large, levels, network.augmentation, keys)
    return {"low_res": noised} | ({} if network.augmentation == "none" else {"aug_time": aug_time})


def _content(unet: Model, weights: Weights, batch: dict[str, jax.Array]) -> dict[str, Any]:
    """Returns what the images show, as the network reads it once for all steps: their text or their label."""
    if "label" in batch:
        return {"label": batch["label"]}
    return {"text_state": unet.apply(weights, batch["text"], batch["text_mask"], method="read_text")}


def _null(
    unet: Model, weights: Weights, null: tuple[jax.Array, jax.Array] | None, count: int
) -> dict[str, Any]:
    """Returns the conditioning on no text, read once and shared by the batch."""
    if null is None:
        raise ConfigError(
            "sampler.guidance_weight: a network with labels has no unconditional mode; use 1, or set "
            "guide_checkpoint."
        )
    one = unet.apply(weights, null[0][None], null[1][None], method="read_text")
    return {"text_state": jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape[1:])), one)}
