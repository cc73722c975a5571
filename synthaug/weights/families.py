"""The public families of U-Nets, which one a folder or a network belongs to, and reading and writing them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from synthaug import commit
from synthaug.errors import ConfigError, DataError, SynthaugError
from synthaug.experiment import Diffusion, Network
from synthaug.licences import licence_of
from synthaug.weights import adm, deepfloyd, own
from synthaug.weights.pickled import SUFFIXES, open_pickled
from synthaug.weights.rules import Rule, read_params, write_params
from synthaug.weights.shapes import unet_shapes
from synthaug.weights.tensors import SHARD_BYTES, open_tensors, write_tensors

CONFIG = "config.json"
ABOUT = "synthaug.json"
"""The record of a checkpoint that was exported."""


@dataclasses.dataclass(frozen=True)
class Family:
    """One public family of U-Nets; the functions are those of its module."""

    key: str
    title: str
    licence: str
    stem: str
    read_config: Callable[[dict[str, Any], str], tuple[Network, Diffusion]]
    write_config: Callable[[Network, Diffusion], dict[str, Any]]
    rules: Callable[[Network], list[Rule]]


def _family(key: str, title: str, module: Any) -> Family:
    functions = (module.read_config, module.write_config, module.rules)
    return Family(key, title, module.LICENCE, module.FILE, *functions)


FAMILIES = {
    family.key: family
    for family in (
        _family("deepfloyd-if", "DeepFloyd IF (a diffusers UNet2DConditionModel)", deepfloyd),
        _family("adm", "OpenAI ADM (guided-diffusion)", adm),
        _family("synthaug", "synthaug's own", own),
    )
}
PUBLIC = tuple(key for key in FAMILIES if key != "synthaug")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A U-Net read from a folder."""

    family: Family
    licence: str  # the family's, or what synthaug.json says of weights that were trained here
    files: tuple[pathlib.Path, ...]  # that hold tensors
    folder: pathlib.Path
    network: Network
    diffusion: Diffusion
    params: dict[str, Any]


# ------------------------------------------------------------------------------------------ reading


def read_unet(folder: pathlib.Path, *, family: str = "", sharding: Any = None) -> Opened:
    """Returns the U-Net in a folder.

    Args:
        folder: one that holds config.json and the safetensors, or a pipeline's, which has it in unet/; or a
            `.pt` file with config.json beside it.
        family: the key of the family it must be; empty for any.
        sharding: see `rules.read_params`; or a function of the abstract parameters that returns one.

    Raises:
        ConfigError: config.json is of another family, lacks a key, or states what is not supported.
        DataError: files are missing or damaged, or the tensors are not those of config.json.
    """
    given = pathlib.Path(folder)
    pickled = given.is_file() and given.suffix in SUFFIXES
    folder, config = find_config(given.parent if pickled else given, "unet")
    where = str(folder / CONFIG)
    found = _family_of(config, where)
    if family and found.key != family:
        raise ConfigError(f"{where}: describes {found.title}; expected {family}; name {found.key} instead.")
    network, diffusion = found.read_config(config, where)
    shapes = unet_shapes(network)
    if callable(sharding):
        sharding = sharding(shapes)
    tensors = open_pickled(given) if pickled else open_tensors(folder, found.stem)
    params = read_params(found.rules(network), tensors, shapes, sharding)
    files = tuple(sorted({there.file for there in tensors.stored.values()}))
    return Opened(found, _licence(folder, found), files, folder, network, diffusion, params)


def _licence(folder: pathlib.Path, family: Family) -> str:
    """Returns the key of a folder's licence: weights that were trained here state their own."""
    path = folder / ABOUT
    if not path.is_file():
        return family.licence
    about = _read_json(path).get("about")
    key = about.get("licence") if isinstance(about, dict) else None
    return licence_of(str(key), str(path)).key


def find_config(folder: pathlib.Path, part: str) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns the folder of a model and its config.json.

    Args:
        folder: the model's folder, or that of the pipeline it is a part of.
        part: name of the folder inside a pipeline: unet or text_encoder.

    Raises:
        DataError: there is no config.json, or it cannot be read.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {kind}; name a folder with {CONFIG} and safetensors files.")
    inside = folder if (folder / CONFIG).is_file() else folder / part
    if not (inside / CONFIG).is_file():
        raise DataError(f"{folder}: has neither {CONFIG} nor {part}/{CONFIG}; name the folder of the model.")
    return inside, _read_json(inside / CONFIG)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: is no JSON text; it was altered or cut off: fetch it again.") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: is no mapping of settings; it was altered: fetch it again.")
    return tree


def is_t5(config: dict[str, Any]) -> bool:
    """Returns whether a config.json describes a T5 model."""
    return config.get("model_type") in ("t5", "umt5", "mt5")


def _family_of(config: dict[str, Any], where: str) -> Family:
    if config.get("synthaug") == own.KIND:
        return FAMILIES["synthaug"]
    if config.get("_class_name") == "UNet2DConditionModel":
        return FAMILIES["deepfloyd-if"]
    if "model_channels" in config:
        return FAMILIES["adm"]
    if is_t5(config):
        raise ConfigError(f"{where}: describes a T5 text encoder; expected a U-Net: name its folder (unet/).")
    found = str(config.get("_class_name") or config.get("model_type") or "no known model")[:80]
    known = "_class_name UNet2DConditionModel (DeepFloyd IF), model_channels (ADM), or a folder of synthaug's"
    raise ConfigError(f"{where}: describes {found}; expected {known}; name the U-Net's folder.")


# ------------------------------------------------------------------------------------------ writing


def write_unet(
    folder: pathlib.Path,
    family: Family,
    network: Network,
    diffusion: Diffusion,
    params: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors into an existing folder; `read_unet` gives the same bits again.

    Raises:
        ConfigError: the family cannot express the network.
        RunError: a file cannot be written.
    """
    text = json.dumps(family.write_config(network, diffusion), indent=2) + "\n"
    commit.write_new(folder / CONFIG, text.encode())
    write_tensors(folder, family.stem, write_params(family.rules(network), params), shard_bytes)


def fitting_family(network: Network, diffusion: Diffusion) -> Family:
    """Returns the public family that expresses a network exactly, else synthaug's own."""
    for key in PUBLIC:
        family = FAMILIES[key]
        try:
            family.write_config(network, diffusion)
        except SynthaugError:
            continue
        return family
    return FAMILIES["synthaug"]


def default_place(sharding: Any) -> Any:
    """Returns where parameters go: as asked, else on the first device."""
    return jax.sharding.SingleDeviceSharding(jax.devices()[0]) if sharding is None else sharding
