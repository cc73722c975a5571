"""Public weights as functions: what `synthaug.weights.open_unet` returns."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthaug.diffusion.cascade import DISCRETE, enlarge
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Network
from synthaug.models.unet import build_unet
from synthaug.weights.families import default_place, read_unet

_NUM_STEPS = 1000  # that the times of a network with a continuous diffusion are counted in


class OpenUNet:
    """A network with its weights: `unet(z_t, t, text, labels=..., low_res=..., aug_step=...)`.

    Attributes:
        config: what the network is, `synthaug.experiment.Network`.
        diffusion: the forward process it was trained for, and what it predicts.
        params: its weights, a nested dict of f32 arrays.
        family: key of the family its files are of: deepfloyd-if, adm or synthaug.
        licence: key of the licence of these weights, see `synthaug.licences`.
    """

    def __init__(self, folder: str | os.PathLike[str], *, compute: str, sharding: Any) -> None:
        if compute not in ("f32", "bf16"):
            raise ConfigError(f"open_unet: compute = {compute!r}; expected f32 or bf16; choose one.")
        opened = read_unet(pathlib.Path(folder), sharding=default_place(sharding))
        self.config: Network = opened.network
        self.diffusion: Diffusion = opened.diffusion
        self.params: dict[str, Any] = opened.params
        self.family, self.licence = opened.family.key, opened.licence
        self._model = build_unet(opened.network, compute=compute)
        self._apply = jax.jit(functools.partial(_apply, self._model, opened.network))

    def __call__(
        self,
        z_t: jax.Array,
        t: jax.Array,
        text: jax.Array | None = None,
        *,
        labels: jax.Array | None = None,
        low_res: jax.Array | None = None,
        aug_step: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the raw output f32[B,H,W,C]: C = 3, or 6 with a learned variance.

        Args:
            z_t: f32[B,H,W,3], the noised image.
            t: i32[B], the step of the diffusion: 0..999, or less than `.diffusion.num_timesteps`.
            text: f32[B,L,D] of the text encoder; every position of it is read. None is the null text of
                networks whose null text is zeros; others need the encoded empty prompt.
            labels: i32[B], for networks with classes.
            low_res: f32[B,h,w,3], for enlargers. Smaller than `z_t`, it is enlarged as the family does it;
                of the same size, it is used as it is (enlarged and noised by the sampler).
            aug_step: i32[B], the step of the noise on `low_res`, for enlargers that are told it.

        Raises:
            ConfigError: an input is missing, not of this network, or of another shape or range.
        """
        inputs = {"text": text, "labels": labels, "low_res": low_res, "aug_step": aug_step}
        given = {name: value for name, value in inputs.items() if value is not None}
        _check_presence(self.config, given)
        _check_shapes(self.config, z_t, t, given)
        numbers = {
            "t": self.diffusion.num_timesteps or _NUM_STEPS,
            "labels": self.config.num_classes,
            "aug_step": DISCRETE.num_timesteps,
        }
        _check_values(numbers, t, given)
        dtypes = {"text": jnp.float32, "low_res": jnp.float32, "labels": jnp.int32, "aug_step": jnp.float32}
        cond = {name: jnp.asarray(value, dtypes[name]) for name, value in given.items()}
        return self._apply(self.params, jnp.asarray(z_t, jnp.float32), jnp.asarray(t, jnp.float32), cond)


def open_unet(folder: str | os.PathLike[str], *, compute: str = "f32", sharding: Any = None) -> OpenUNet:
    """Returns the U-Net in a folder as a compiled function, see `OpenUNet`.

    Args:
        folder: config.json and safetensors, in shards or not, of f32, f16 or bf16: the folder `unet/` of
            DeepFloyd IF or the pipeline's folder around it, ADM's, or what `synthaug export-weights` wrote.
        compute: "f32", or "bf16" for the activations; the weights are f32.
        sharding: None for the first device; or one jax Sharding for all weights, a nested dict of them
            like `.params`, or a function from the weights' shapes to one of these, such as
            `synthaug.parallel.shardings`. Weights are read tensor by tensor, straight into it.

    Raises:
        ConfigError: config.json is of another kind of model, or states what is not supported.
        DataError: files are missing or damaged, or the tensors are not those of config.json.
    """
    return OpenUNet(folder, compute=compute, sharding=sharding)


def _apply(
    model: Any,
    network: Network,
    params: dict[str, Any],
    z_t: jax.Array,
    time: jax.Array,
    inputs: dict[str, jax.Array],
) -> jax.Array:
    batch, height, width, _ = z_t.shape
    cond: dict[str, jax.Array] = {}
    if network.num_classes:
        cond["label"] = inputs["labels"]
    elif "text" in inputs:
        cond["text"] = inputs["text"]
        cond["text_mask"] = jnp.ones(inputs["text"].shape[:2], bool)
    else:
        cond["text"] = jnp.zeros((batch, network.text_length or 1, network.text_width), jnp.float32)
        cond["text_mask"] = jnp.zeros(cond["text"].shape[:2], bool)
    if network.low_res:
        low_res = inputs["low_res"]
        if low_res.shape[1:3] != (height, width):
            low_res = enlarge(low_res, (height, width), network.enlarge)
        cond["low_res"] = low_res
    if "aug_step" in inputs:
        cond["aug_time"] = inputs["aug_step"]
    return model.apply({"params": params, "stats": {}}, z_t, time, cond)


# ------------------------------------------------------------------------------------------- checks


def _check_presence(network: Network, given: dict[str, Any]) -> None:
    by_text = network.unet.conditioning == "text"
    told = network.low_res and network.augmentation != "none"
    needs_text = by_text and (network.unet.null_text == "empty" or network.unet.attend_padding)
    wanted = {
        "text": (by_text, needs_text, "is conditioned on text", "encode the empty prompt for no text"),
        "labels": (bool(network.num_classes), True, "is conditioned on labels", "give i32[B]"),
        "low_res": (network.low_res, True, "enlarges images", "give f32[B,h,w,3]"),
        "aug_step": (told, True, "is told the noise on low_res", "give i32[B], 0 for the least"),
    }
    for name, (takes, must, why, advice) in wanted.items():
        if name in given and not takes:
            takers = [other for other, (used, *_) in wanted.items() if used] or ["z_t and t only"]
            raise ConfigError(
                f"unet: {name} was given; this network takes {', '.join(takers)}: leave it out."
            )
        if takes and must and name not in given:
            raise ConfigError(f"unet: {name} is missing; this network {why}: {advice}.")


def _check_shapes(network: Network, z_t: Any, t: Any, given: dict[str, Any]) -> None:
    shape = tuple(jnp.shape(z_t))
    if len(shape) != 4 or shape[3] != network.channels:
        raise _unfit("z_t", shape, f"[B,H,W,{network.channels}]")
    batch, height, width, _ = shape
    if not batch:
        raise _unfit("z_t", shape, "at least one image")
    step = 2 ** (len(network.unet.channel_mult) - (network.unet.kind == "adm"))
    if height % step or width % step or not height or not width:
        raise _unfit("z_t", shape, f"H and W multiples of {step}")
    for name, value in {"t": t, **given}.items():
        found = tuple(jnp.shape(value))
        if name in ("t", "labels", "aug_step") and found != (batch,):
            raise _unfit(name, found, f"[{batch}]")
        if name == "text" and (len(found) != 3 or found[0] != batch or found[2] != network.text_width):
            raise _unfit(name, found, f"[{batch},L,{network.text_width}]")
        if name == "text" and not found[1]:
            raise _unfit(name, found, "at least one token")
        if name == "low_res":
            if len(found) != 4 or found[0] != batch or found[3] != network.channels or 0 in found:
                raise _unfit(name, found, f"[{batch},h,w,{network.channels}]")
            if height % found[1] or width % found[2] or height // found[1] != width // found[2]:
                raise _unfit(
                    name, found, f"h and w that divide z_t's {height} and {width} by the same number"
                )


def _unfit(name: str, found: tuple[int, ...], expected: str) -> ConfigError:
    text = "[" + ",".join(map(str, found)) + "]"
    return ConfigError(f"unet: {name} has shape {text}; expected {expected}; change it.")


def _check_values(numbers: dict[str, int], t: Any, given: dict[str, Any]) -> None:
    values = {"t": t, **given}
    for name, number in numbers.items():
        value, highest = values.get(name), number - 1
        if value is None or isinstance(value, jax.core.Tracer):
            continue  # inside a compiled function there are no values to look at
        array = np.asarray(value)
        if array.dtype.kind not in "iu":
            raise ConfigError(f"unet: {name} is {array.dtype}; expected integers, i32[B]; convert it.")
        if array.size and (array.min() < 0 or array.max() > highest):
            odd = array[(array < 0) | (array > highest)][0]
            raise ConfigError(f"unet: {name} holds {odd}; expected 0 to {highest}.")
