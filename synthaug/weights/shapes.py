"""The shapes of a U-Net's parameters, which everything about weights asks for."""

from __future__ import annotations

import functools
from typing import Any

from synthaug.experiment import Network
from synthaug.models.functional import abstract
from synthaug.models.unet import build_unet


@functools.lru_cache(maxsize=8)
def unet_shapes(network: Network) -> dict[str, Any]:
    """Returns the nested dict of a network's parameters as ShapeDtypeStructs; not to be altered.

    Nothing is allocated, but building a large network takes a second: equal networks are built once.
    """
    shapes: dict[str, Any] = abstract(build_unet(network))["params"]
    return shapes
