"""Classifiers in timm's safetensors files: opened as functions, read to train on, written for timm."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthaug import commit
from synthaug.config import did_you_mean
from synthaug.errors import ConfigError, DataError
from synthaug.experiment import ARCHITECTURES, Architecture, Classifier
from synthaug.models.classifier import build_classifier
from synthaug.models.functional import Model, Weights, abstract
from synthaug.models.vit import PATCH, resample_positions
from synthaug.weights import timm
from synthaug.weights.families import default_place
from synthaug.weights.folders import removed
from synthaug.weights.misfits import check_classifier, check_tensors
from synthaug.weights.rules import flatten, nest, read_params
from synthaug.weights.tensors import Tensors, open_tensors, write_tensors

SUFFIX = ".safetensors"
SMALLEST = 32  # px, what a ResNet needs for one pixel in front of the head


@dataclasses.dataclass(frozen=True, eq=False)
class OpenClassifier:
    """A classifier with its weights: `(images f32[B,H,W,3], normalised) -> logits f32[B,K]`.

    Attributes:
        config: the settings of its architecture.
        resolution: side that its learned positions are for, or that it was published with, px.
        num_classes: K.
        params: its weights, a nested dict of f32 arrays.
        stats: the running moments of its batch norms; {} for transformers.
    """

    config: Classifier
    resolution: int
    num_classes: int
    params: dict[str, Any]
    stats: dict[str, Any]
    _apply: Any

    def __call__(self, images: Any) -> jax.Array:
        """Returns the logits f32[B,K] of images f32[B,H,W,3] of any size.

        A transformer takes multiples of 16 px; at another size than `resolution` its positions are
        interpolated as timm does it (bicubic with antialiasing).

        Args:
            images: normalised as the weights want it: most of timm's by ImageNet's means and deviations,
                vit_small_patch16_224 and vit_large_patch16_224 to [-1, 1].

        Raises:
            ConfigError: the images have another shape, or are not of floats.
        """
        shape = tuple(np.shape(images))
        step = PATCH if self.config.architecture and self.config.architecture.family == "vit" else 1
        least = PATCH if step == PATCH else SMALLEST
        fits = len(shape) == 4 and shape[3] == 3 and min(shape[:3]) >= 1 and min(shape[1:3]) >= least
        if not fits or shape[1] % step or shape[2] % step:
            sides = f"multiples of {step}" if step > 1 else f"at least {least}"
            found = "[" + ",".join(map(str, shape)) + "]"
            raise ConfigError(f"classifier: images have shape {found}; expected [B,H,W,3], H and W {sides}.")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ConfigError(
                f"classifier: images are {images.dtype}; expected f32, normalised: divide by 255 first, then "
                "subtract the mean and divide by the deviation."
            )
        weights = {"params": self.params, "stats": self.stats}
        return self._apply(weights, jnp.asarray(images, jnp.float32))


def open_classifier(
    file: str | os.PathLike[str], model: str, *, compute: str = "f32", sharding: Any = None
) -> OpenClassifier:
    """Returns the classifier in a safetensors file with timm's tensor names, see `OpenClassifier`.

    Args:
        file: the file, or the folder that holds model.safetensors or its shards; f32, f16 or bf16.
        model: resnet50, resnet101, resnet152, resnetrs50, resnetrs101, resnetrs152, vit_s16, deit_s16,
            deit_b16 or deit_l16. Classes, positions and pooling are those of the file.
        compute: "f32", or "bf16" for the activations; the weights are f32.
        sharding: None for the first device, or one jax Sharding for all weights.

    Raises:
        ConfigError: `model` or `compute` is unknown.
        DataError: the file is missing or damaged, or its tensors are not those of the model.
    """
    if compute not in ("f32", "bf16"):
        raise ConfigError(f"open_classifier: compute = {compute!r}; expected f32 or bf16; choose one.")
    settings, network, weights = _read(pathlib.Path(file), model, compute, default_place(sharding))
    size, num_classes = _size(model, weights), int(weights["params"]["head"]["bias"].shape[0])
    apply = jax.jit(lambda weights, images: network.apply(weights, images)[0])
    return OpenClassifier(settings, size, num_classes, weights["params"], weights["stats"], apply)


def read_classifier(
    file: str | os.PathLike[str], settings: Classifier, like: Weights, *, new_head: bool = False
) -> Weights:
    """Returns the weights in a file with timm's tensor names as numpy arrays, to go on training from.

    Args:
        file: see `open_classifier`.
        settings: the classifier that is to be trained, one of the published architectures.
        like: its initial weights; see `adapt_classifier`.
        new_head: take the head of `like` where the file's has other classes.

    Raises:
        ConfigError: the classifier is none that timm's files can hold.
        DataError: the file is missing or damaged, or its tensors do not fit.
    """
    _check_kind(file, settings)
    *_, weights = _read(pathlib.Path(file), settings.kind, settings.compute, None)
    return adapt_classifier(weights, like, str(file), new_head=new_head)


def check_start(file: str | os.PathLike[str], settings: Classifier, channels: int) -> None:
    """Raises what `read_classifier` would, by the names and shapes in a file alone: no weight is read.

    Args:
        file: see `open_classifier`.
        settings: the classifier that is to be trained.
        channels: of its images.

    Raises:
        ConfigError: the classifier is none that timm's files can hold.
        DataError: the file is missing or damaged, or its tensors do not fit.
    """
    architecture = _check_kind(file, settings)
    tensors, shapes = _shapes(pathlib.Path(file), settings.kind)
    check_tensors(shapes, tensors, timm.counters(tensors.stored))  # that they are floats
    _, tokens, token = timm.describe(shapes)
    at = f"init = {file}:"
    if channels != 3:
        raise DataError(f"{at} is of a network for 3 channels, the images have {channels}; use scratch.")
    if architecture.family != "vit":
        return
    _check_grid(pathlib.Path(file), tokens, token)
    if token != (settings.pool != "mean"):
        has, pool = ("a", "token") if token else ("no", "mean")
        raise DataError(f"{at} has {has} class token; expected the pool of the network: set pool to {pool}.")
    if settings.positions != "learned":
        raise DataError(
            f"{at} holds positions, which positions = {settings.positions} does not learn; set it to learned."
        )


def _check_kind(file: str | os.PathLike[str], settings: Classifier) -> Architecture:
    if settings.architecture is None:
        raise ConfigError(
            f"init = {file}: kind = {settings.kind} is none of timm's networks; expected one of "
            f"{', '.join(ARCHITECTURES)}: use init = scratch, or change kind."
        )
    if settings.activation != "relu":
        raise ConfigError(
            f"init = {file}: activation = {settings.activation}, and timm's networks have relu; "
            "set activation to relu."
        )
    return settings.architecture


def adapt_classifier(weights: Weights, like: Weights, where: str, *, new_head: bool = False) -> Weights:
    """Returns weights with the shapes of a network that differs in input size, or in classes.

    Learned positions are interpolated for the network's grid, as timm and DeiT do for fine-tuning at a higher
    resolution.

    Args:
        weights: {"params", "stats"}.
        like: the network's own, or their shapes; numbers are needed only for a new head.
        where: names the weights in errors.
        new_head: take the head of `like` where the classes differ.

    Raises:
        DataError: names the first parameter that does not fit.
    """
    found, wanted = flatten(weights), flatten(like)
    for name, leaf in wanted.items():
        if name not in found:
            raise DataError(f"init = {where}: has no {name}; it is another network: change kind or pool.")
        if tuple(found[name].shape) == tuple(leaf.shape):
            continue
        if name == "params/positions":
            found[name] = _resampled(found[name], leaf, "params/token" in wanted)
        elif name.startswith("params/head/") and new_head:
            found[name] = leaf
        else:
            head = name.startswith("params/head/")
            why = "it has other classes; ask for a new head" if head else "it is another network"
            raise DataError(
                f"init = {where}: {name} has shape {tuple(found[name].shape)}, expected "
                f"{tuple(leaf.shape)}: {why}."
            )
    extra = sorted(found.keys() - wanted.keys())
    if extra:
        raise DataError(f"init = {where}: has {extra[0]}, which the network has not: change kind or pool.")
    return {"params": {}, "stats": {}, **nest({name: found[name] for name in wanted})}


def _resampled(positions: Any, like: Any, token: bool) -> np.ndarray:
    side = timm.side_of(int(like.shape[0]), token=token)
    return np.asarray(resample_positions(jnp.asarray(positions), (side, side), int(token)))


def write_classifier(file: str | os.PathLike[str], model: str, weights: Weights, *, size: int = 0) -> None:
    """Writes a safetensors file with timm's tensor names, which timm and `open_classifier` read.

    Batch norms' counts of batches are written as 0. Positions that are no weights (sines and cosines) are
    written as such, because timm has no others: a transformer with the mean as features loads in timm with
    class_token = False, global_pool = "avg", fc_norm = False.

    Args:
        file: a name ending in .safetensors that is not taken; the file appears whole or not at all.
        model: our name of the architecture.
        weights: {"params", "stats"} of `build_classifier`, or of an `OpenClassifier`.
        size: px of the images that such positions are made for; 0 = the published.

    Raises:
        ConfigError: `model` is unknown, or the weights are not its.
        RunError: the file is taken, or cannot be written.
    """
    path = pathlib.Path(file)
    _check_name(model, "write_classifier")
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path}: expected a name that ends in {SUFFIX}; change it.")
    try:
        aside = commit.temporary(path)
        aside.mkdir()
    except OSError as error:
        raise commit.write_error(path, error) from None
    with removed(aside):
        try:
            items = timm.file_tensors(model, weights, size or ARCHITECTURES[model].size)
            write_tensors(aside, path.stem, items, shard_bytes=1 << 62)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"write_classifier: {error}; give the weights of {model}.") from None
        try:
            os.link(aside / path.name, path)
        except OSError as error:
            raise commit.write_error(path, error) from None


def _read(path: pathlib.Path, model: str, compute: str, sharding: Any) -> tuple[Classifier, Model, Weights]:
    _check_name(model, "open_classifier")
    tensors, shapes = _shapes(path, model)
    num_classes, tokens, token = timm.describe(shapes)
    made = timm.rules(model, num_classes, tokens, token=token, learned=True)
    is_vit = ARCHITECTURES[model].family == "vit"
    side = _check_grid(path, tokens, token) if is_vit else 0
    pool = ("token" if token else "mean") if is_vit else ""
    settings = Classifier(kind=model, pool=pool, compute=compute)
    network = build_classifier(settings, resolution=PATCH * side, channels=3, num_classes=num_classes)
    ignored = timm.counters(tensors.stored)
    read = read_params(made, tensors, abstract(network), sharding, ignore=ignored)
    return settings, network, {"params": {}, "stats": {}, **read}


def _shapes(path: pathlib.Path, model: str) -> tuple[Tensors, dict[str, tuple[int, ...]]]:
    """Returns a file's tensors and their shapes, checked to be the model's; torch's counters left out."""
    tensors = _open(path)
    ignored = timm.counters(tensors.stored)
    shapes = {name: tensors.shape(name) for name in tensors.stored if name not in ignored}
    check_classifier(model, tensors, {m: timm.wanted_tensors(m, shapes) for m in ARCHITECTURES}, shapes)
    return tensors, shapes


def _check_grid(path: pathlib.Path, tokens: int, token: bool) -> int:
    """Returns the side of the square grid of a transformer's positions."""
    side = timm.side_of(tokens, token=token)
    if not side:
        raise DataError(
            f"{path}: {timm.POSITIONS} holds {tokens} positions; expected a square grid and one for the "
            "class token: the file is of another network."
        )
    return side


def _open(path: pathlib.Path) -> Tensors:
    if path.is_dir() or path.suffix == SUFFIX:
        folder, stem = (path, "model") if path.is_dir() else (path.parent, path.name.removesuffix(SUFFIX))
        return open_tensors(folder, stem)
    kind = "is no safetensors file" if path.is_file() else "no such file"
    raise DataError(
        f"{path}: {kind}; expected {SUFFIX} with timm's tensor names: pickles are never loaded here; timm's "
        "models are published as model.safetensors."
    )


def _check_name(model: str, where: str) -> None:
    if model not in ARCHITECTURES:
        raise ConfigError(f"{where}: model = {model!r} is unknown{did_you_mean(model, ARCHITECTURES)}")


def _size(model: str, weights: Weights) -> int:
    params = weights["params"]
    if "positions" not in params:
        return ARCHITECTURES[model].size
    return PATCH * timm.side_of(int(params["positions"].shape[0]), token="token" in params)
