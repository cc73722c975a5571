"""What both kinds of U-Net are told of the images, from their own layers: time, text or label, noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from synthaug.models.blocks import Attention, Context, TextKeyValue, activation, attention_mode
from synthaug.models.layers import DTYPES, sinusoid


def read_text(
    network: nnx.Module, attending: Mapping[str, Attention], text: jax.Array, mask: jax.Array
) -> dict[str, Any]:
    """Returns all that a network needs of a text: computed once per image, not at every step.

    Args:
        network: a U-Net with `text_pool` and `text`.
        attending: its attention layers that may attend to text, by the block's name.
        text: f32[B,L,D].
        mask: bool[B,L]; ignored where the padding is attended to.

    Returns:
        A tree of arrays [B,...]: "pooled" f32[B,E], "blocks" with the keys and values of every block that
        attends to text, and "mask" where there is one.
    """
    settings = network.settings
    seen = None if settings.attend_padding else mask
    state: dict[str, Any] = {"pooled": network.text_pool(text, seen), "blocks": {}}
    if seen is not None:
        state["mask"] = seen
    if attention_mode(settings) != "self":
        tokens = network.text(text.astype(DTYPES[network.compute]))
        state["blocks"] = {name: layer.read_text(tokens, seen) for name, layer in attending.items()}
    return state


def build_context(network: nnx.Module, time: jax.Array, cond: dict[str, Any]) -> Context:
    """Returns what every block is told; computed once per call, the embedding in f32.

    Args:
        network: a U-Net with `time`, `aug_level`, `read_text` and, told by labels, `label`.
        time: f32[B] in 0..1000.
        cond: see `unet.UNet.__call__`.
    """
    settings, text = network.settings, dict[str, TextKeyValue]()
    mask, width = None, settings.channels
    embedding = network.time(sinusoid(time, width))
    if settings.conditioning == "label":
        embedding = embedding + network.label[...][cond["label"]]
    else:
        state = cond.get("text_state") or network.read_text(cond["text"], cond["text_mask"])
        embedding, text, mask = embedding + state["pooled"], state["blocks"], state.get("mask")
    if network.aug_level is not None:
        embedding = embedding + network.aug_level(sinusoid(cond["aug_time"], width))
    return Context(activation(settings)(embedding).astype(DTYPES[network.compute]), text, mask)
