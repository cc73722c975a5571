"""The public T5 v1.1 encoder: transformers' config.json and tensor names, both directions."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from synthaug import commit
from synthaug.errors import ConfigError, DataError
from synthaug.models import functional
from synthaug.models.t5 import T5Config, build_t5
from synthaug.weights import rules as maps
from synthaug.weights.families import CONFIG, find_config
from synthaug.weights.folders import written_aside
from synthaug.weights.rules import Rule
from synthaug.weights.tensors import open_tensors, write_tensors

LICENCE = "t5"
FILE = "model"
IGNORED = ("decoder.", "lm_head.")
"""Beginnings of the names of what a whole T5 has beside its encoder."""

_TABLES = ("shared.weight", "encoder.embed_tokens.weight")
# What the encoder below cannot be otherwise, with transformers' defaults for absent keys.
_FIXED = {"model_type": ("t5", None), "feed_forward_proj": ("gated-gelu", "relu")}


@dataclasses.dataclass(frozen=True, eq=False)
class OpenT5:
    """A T5 encoder with its weights: `(ids i32[B,L], mask i32[B,L]) -> f32[B,L,D]`.

    Attributes:
        config: its shape.
        params: nested dict of arrays f32.
    """

    config: T5Config
    params: dict[str, Any]
    _apply: Any

    def __call__(self, ids: Any, mask: Any) -> jax.Array:
        """Returns f32[B,L,D], the last hidden state of tokens i32[B,L]; mask 0 marks padding.

        Raises:
            ConfigError: nothing to read, or tokens that are no integers.
            DataError: the two are not [B,L], or a token is not in the vocabulary.
        """
        if np.ndim(ids) != 2 or np.shape(ids) != np.shape(mask):
            raise DataError(
                f"open_t5: ids have shape {np.shape(ids)}, mask {np.shape(mask)}; expected the same [B,L]."
            )
        if 0 in np.shape(ids):
            raise ConfigError(
                f"open_t5: ids have shape {np.shape(ids)}; expected at least one prompt of one token."
            )
        if not isinstance(ids, jax.core.Tracer):
            ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise ConfigError(f"open_t5: ids are {ids.dtype}; expected integers, i32[B,L]; convert them.")
        if not isinstance(ids, jax.core.Tracer):
            if not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
                raise DataError(
                    f"open_t5: tokens {ids.min()}..{ids.max()}; expected 0..{self.config.vocab_size - 1}: "
                    "the tokenizer belongs to another model."
                )
            ids = ids.astype(np.int32)
        return self._apply({"params": self.params, "stats": {}}, ids, mask)


def open_t5(folder: str | pathlib.Path, *, compute: str = "f32", sharding: Any = None) -> OpenT5:
    """Returns the encoder in a transformers folder, jitted: `(ids i32[B,L], mask i32[B,L]) -> f32[B,L,D]`.

    Args:
        folder: has config.json and model.safetensors (or its shards), or has them under text_encoder/. A
            decoder in the same file is ignored.
        compute: f32 or bf16; the parameters are f32 either way.
        sharding: where the parameters go, as in `rules.read_params`, or a function of their shapes that
            says so; None: the default device.

    Raises:
        ConfigError: config.json describes something else than a T5 v1.1 encoder, or `compute` is neither.
        DataError: a file is missing or damaged.
    """
    if compute not in ("f32", "bf16"):
        raise ConfigError(f"open_t5: compute = {compute!r}; expected f32 or bf16; choose one.")
    folder, found = find_config(pathlib.Path(folder), "text_encoder")
    config = read_config(found, str(folder / "config.json"))
    tensors = open_tensors(folder, FILE)
    model = build_t5(config, compute)
    shapes = functional.abstract(model)["params"]
    places = sharding(shapes) if callable(sharding) else sharding
    places = places or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = maps.read_params(rules(config, tensors.stored), tensors, shapes, places, ignore=IGNORED)
    return OpenT5(config, params, jax.jit(model.apply))


def write_t5(folder: str | os.PathLike[str], encoder: OpenT5) -> None:
    """Writes config.json and model.safetensors f32, which `open_t5` and transformers' T5EncoderModel read.

    Args:
        folder: one that is not there yet, or is empty; it appears whole or not at all.
        encoder: what `open_t5` returned; with other weights, `dataclasses.replace(encoder, params=...)`.

    Raises:
        ConfigError: the parameters are not those of the encoder's config.
        RunError: the folder is taken, or cannot be written.
    """
    text = json.dumps(write_config(encoder.config), indent=2) + "\n"
    try:
        with written_aside(pathlib.Path(folder)) as aside:
            commit.write_new(aside / CONFIG, text.encode())
            write_tensors(aside, FILE, maps.write_params(rules(encoder.config), encoder.params))
    except ValueError as error:
        raise ConfigError(f"write_t5: {error} Give the parameters of an encoder of this config.") from None


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the safetensors files that `open_t5` reads, in order of their names."""
    folder, _ = find_config(folder, "text_encoder")
    return sorted({there.file for there in open_tensors(folder, FILE).stored.values()})


def read_config(config: dict[str, Any], where: str) -> T5Config:
    """Returns the shape that a transformers config.json describes.

    Raises:
        ConfigError: a key is missing, or the model is none that this encoder can be: T5 v1.0, UMT5, ...
    """
    for key, (expected, absent) in _FIXED.items():
        found = config.get(key, absent)
        if found != expected:
            raise ConfigError(
                f"{where}: {key} = {found!r}; expected {expected!r}: a T5 v1.1 encoder, e.g. "
                "google/t5-v1_1-xxl or the text_encoder of DeepFloyd IF."
            )
    values: dict[str, Any] = {}
    for field in dataclasses.fields(T5Config):
        number = config.get(field.name, field.default)
        if number is dataclasses.MISSING:
            raise ConfigError(f"{where}: has no {field.name}; restore the config.json of the model.")
        whole = field.name != "layer_norm_epsilon"
        if isinstance(number, bool) or not isinstance(number, int if whole else (int, float)) or number <= 0:
            raise ConfigError(f"{where}: {field.name} = {number!r}; expected a positive number.")
        values[field.name] = number
    buckets, far = values["relative_attention_num_buckets"], values["relative_attention_max_distance"]
    if buckets < 4 or buckets % 2 or 4 * far <= buckets:
        raise ConfigError(
            f"{where}: relative_attention_num_buckets = {buckets}, relative_attention_max_distance = {far}; "
            "expected an even number of at least 4 and a distance beyond a quarter of it, e.g. 32 and 128."
        )
    return T5Config(**values)


def write_config(config: T5Config) -> dict[str, Any]:
    """Returns the config.json of an encoder without its decoder, as transformers' T5EncoderModel reads it."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "is_encoder_decoder": False,
        "use_cache": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **dataclasses.asdict(config),
    }


def rules(config: T5Config, names: Collection[str] = ()) -> list[Rule]:
    """Returns which tensors make up which parameter.

    Args:
        config: the shape.
        names: the tensors in the file, because files have the embedding table under one of two names or
            both; without them, "shared.weight".
    """
    width, inner = config.d_model, config.num_heads * config.d_kv
    biases = (config.relative_attention_num_buckets, config.num_heads)
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tables = [name for name in _TABLES if name in names] or ["shared.weight"]
    found = [
        _table("embedding", tables, (config.vocab_size, width)),
        maps.copy("relative_bias", first, biases),
        maps.copy("norm/scale", "encoder.final_layer_norm.weight", (width,)),
    ]
    for i in range(config.num_layers):
        ours, theirs = f"blocks/block{i}", f"encoder.block.{i}.layer"
        attention, mlp = f"{theirs}.0.SelfAttention", f"{theirs}.1.DenseReluDense"
        qkv = [f"{attention}.{part}.weight" for part in "qkv"]
        gate = [f"{mlp}.wi_0.weight", f"{mlp}.wi_1.weight"]
        found += [
            maps.copy(f"{ours}/norm0/scale", f"{theirs}.0.layer_norm.weight", (width,)),
            maps.joined(f"{ours}/qkv/kernel", qkv, [(inner, width)] * 3),
            maps.linear(f"{ours}/out/kernel", f"{attention}.o.weight", (width, inner)),
            maps.copy(f"{ours}/norm1/scale", f"{theirs}.1.layer_norm.weight", (width,)),
            maps.joined(f"{ours}/gate/kernel", gate, [(config.d_ff, width)] * 2),
            maps.linear(f"{ours}/down/kernel", f"{mlp}.wo.weight", (width, config.d_ff)),
        ]
    return found


def _table(ours: str, theirs: list[str], shape: tuple[int, int]) -> Rule:
    """Returns the rule of the embedding table, which a file may hold twice: then both must be the same."""

    def load(arrays: list[np.ndarray]) -> np.ndarray:
        for name, array in zip(theirs[1:], arrays[1:], strict=True):
            if not np.array_equal(array, arrays[0]):
                raise DataError(
                    f"{name} differs from {theirs[0]}; expected one table under two names: the file was "
                    "altered, fetch it again."
                )
        return arrays[0]

    return Rule(ours, tuple(theirs), (shape,) * len(theirs), load, lambda array: [array] * len(theirs))
