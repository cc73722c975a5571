"""synthaug's own format: for networks that no public family expresses, such as Imagen's Efficient U-Net.

config.json holds `Network` and `Diffusion` as they are, the tensors have our names and layouts.
"""

from __future__ import annotations

from typing import Any

from synthaug import config as settings
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Network
from synthaug.weights.rules import Rule, copy, flatten
from synthaug.weights.shapes import unet_shapes

LICENCE = "none"
FILE = "model"
KIND = "synthaug"


def read_config(config: dict[str, Any], where: str) -> tuple[Network, Diffusion]:
    """Returns network and diffusion of a config.json; `where` names it in errors.

    Raises:
        ConfigError: a key is missing, unknown or out of range.
    """
    for key in ("network", "diffusion"):
        if key not in config:
            raise ConfigError(f"{where}: {key} is missing; the file was not written by synthaug, or altered.")
    network = settings.build(Network, config["network"], where, "network")
    return network, settings.build(Diffusion, config["diffusion"], where, "diffusion")


def write_config(network: Network, diffusion: Diffusion) -> dict[str, Any]:
    """Returns the config.json: the inverse of `read_config`."""
    trees = {"network": settings.to_tree(network), "diffusion": settings.to_tree(diffusion)}
    return {"synthaug": KIND, **trees}


def rules(network: Network) -> list[Rule]:
    """Returns one rule per parameter: everything stays as it is."""
    shapes = flatten(unet_shapes(network))
    return [copy(name, name, tuple(leaf.shape)) for name, leaf in shapes.items()]
