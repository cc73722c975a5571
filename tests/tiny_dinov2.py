"""A DINOv2 small enough for a test: random weights in a safetensors file, in either family's names."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from synthaug.models.dinov2 import DinoConfig, build_dinov2
from synthaug.models.functional import abstract
from synthaug.weights.dinov2_names import TRANSFORMERS, Family, rules
from synthaug.weights.rules import flatten, nest, write_params
from synthaug.weights.tensors import write_tensors

CONFIG = DinoConfig(width=64, num_layers=2, grid=37)


def random_params(config: DinoConfig = CONFIG, seed: int = 0) -> dict[str, Any]:
    """Returns parameters none of which are zero or one, as a nested dict of f32."""
    random = np.random.default_rng(seed)
    made = {}
    for name, leaf in flatten(abstract(build_dinov2(config))["params"]).items():
        deviation = 1.2 / leaf.shape[0] ** 0.5 if name.endswith("kernel") else 0.2
        centre = float("scale" in name.rpartition("/")[2])
        made[name] = (centre + deviation * random.normal(size=leaf.shape)).astype(np.float32)
    return nest(made)


def write_file(
    path: pathlib.Path, config: DinoConfig = CONFIG, seed: int = 0, family: Family = TRANSFORMERS
) -> pathlib.Path:
    """Writes a safetensors file as one would download it, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path.parent, path.stem, write_params(rules(config, family), random_params(config, seed)))
    return path
