"""DINOv2 in a safetensors file, opened as a function: the encoder of FD-DINOv2.

    dino = synthaug.weights.dinov2.open_dinov2("dinov2-large/model.safetensors", batch_size=64)
    features = dino.encode(images)                    # u8[B,H,W,3] -> f32[B,1024]

Two families of names are read, and the same numbers give the same parameters and the same hash:
transformers' (huggingface.co/facebook/dinov2-large, model.safetensors, 1.2 GB) and timm's
(vit_large_patch14_dinov2.lvd142m), which are those of facebook's own .pth as well. That one is a pickle;
where it is trusted, this makes the file of it:

    import torch, safetensors.torch as s
    s.save_file(torch.load("dinov2_vitl14_pretrain.pth", weights_only=True), "dinov2_vitl14.safetensors")

The sizes are those of the file's tensors; networks with registers, and the giant with its gated MLP, are
refused. Activations are f32 and matrix products of the highest precision, on accelerators, too.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from synthaug.errors import ConfigError, DataError
from synthaug.models.dinov2 import SIDE, DinoConfig, build_dinov2, name_of, prepare_images
from synthaug.models.functional import Model, abstract, hash_weights
from synthaug.weights.batches import look_in_batches
from synthaug.weights.dinov2_names import WANTED, family_of, read_config, rules
from synthaug.weights.misfits import check_tensors
from synthaug.weights.rules import read_params
from synthaug.weights.tensors import Tensors, open_tensors

SUFFIX = ".safetensors"
IGNORED = ("embeddings.mask_token", "mask_token")
"""Of the pre-training; no image of ours is masked."""


@dataclasses.dataclass(frozen=True, eq=False)
class OpenDINOv2:
    """A DINOv2 with its weights.

    Attributes:
        name: e.g. "dinov2-vitl14".
        config: its sizes.
        weights_sha256: of its parameters, whatever the names in the file.
        batch_size: images that it sees at once.
        params: nested dict of f32 arrays.
    """

    name: str
    config: DinoConfig
    weights_sha256: str
    batch_size: int
    params: dict[str, Any]
    _look: Callable[[np.ndarray], np.ndarray]

    @property
    def num_features(self) -> int:
        """D."""
        return self.config.width

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns the features f32[B,D] of images u8[B,H,W,3] of any size and number.

        They are seen in batches of `batch_size`, the last one filled up with black images: an image's
        features do not hang on how many others there are.

        Raises:
            ConfigError: the images have another shape or type.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or min(images.shape[1:]) < 1:
            found = "[" + ",".join(map(str, images.shape)) + "]"
            raise ConfigError(f"{self.name}: images are {images.dtype}{found}; expected u8[B,H,W,3].")
        parts = look_in_batches(lambda batch: (self._look(batch),), images, self.batch_size)
        return np.concatenate([np.empty((0, self.num_features), np.float32), *(rows for (rows,) in parts)])


def open_dinov2(
    file: str | os.PathLike[str], batch_size: int, *, sharding: NamedSharding | None = None
) -> OpenDINOv2:
    """Returns the network in a safetensors file, see the head of this module.

    Args:
        file: the file, or the folder that holds model.safetensors; f32, f16 or bf16.
        batch_size: images at once, over all devices.
        sharding: how a batch lies on the devices, each of which gets all parameters; None = on the first.

    Raises:
        DataError: the file is missing or damaged, or holds another network.
    """
    tensors = _open(pathlib.Path(file))
    config = read_config(tensors)
    model = build_dinov2(config)
    made = rules(config, family_of(tensors.stored))
    params = read_params(made, tensors, abstract(model)["params"], ignore=IGNORED)
    sha256 = hash_weights(params)
    placed = jax.device_put(params, sharding and NamedSharding(sharding.mesh, PartitionSpec()))
    apply = jax.jit(lambda params, images: _encode(model, params, images))

    def look(images: np.ndarray) -> np.ndarray:
        return np.asarray(apply(placed, jax.device_put(images, sharding)))

    return OpenDINOv2(name_of(config), config, sha256, batch_size, placed, look)


def check_dinov2(file: str | os.PathLike[str]) -> None:
    """Raises DataError unless a file holds such a network, by the names and shapes of its tensors alone."""
    tensors = _open(pathlib.Path(file))
    family = family_of(tensors.stored)
    made = rules(read_config(tensors), family)
    check_tensors({n: s for r in made for n, s in zip(r.theirs, r.shapes, strict=True)}, tensors, IGNORED)


def _encode(model: Model, params: Any, images: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params, "stats": {}}, prepare_images(images))


def resize_of(resolution: int) -> str:
    """Returns what happens to images of a side before the network sees them, for the protocol.

    Example:
        >>> resize_of(64), resize_of(224)
        ('bicubic with antialiasing 64->224, f32', 'none')
    """
    return "none" if resolution == SIDE else f"bicubic with antialiasing {resolution}->{SIDE}, f32"


def _open(path: pathlib.Path) -> Tensors:
    path = path.expanduser()
    if path.is_dir():
        return open_tensors(path, "model")
    if path.suffix == SUFFIX and path.is_file():
        return open_tensors(path.parent, path.name.removesuffix(SUFFIX))
    found = "is no safetensors file" if path.is_file() else "nothing is there"
    raise DataError(
        f"{path}: {found}; {WANTED}. A .pth is a pickle, which is never loaded here: "
        "synthaug/weights/dinov2.py says how to convert it."
    )
