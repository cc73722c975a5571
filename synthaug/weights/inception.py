"""Inception-v3 of 2015-12-05 from the files that users have: the frozen graph, or pytorch-fid's weights.

    inception = open_inception("classify_image_graph_def.pb", "flax", batch_size=64)
    features, spatial, logits = inception.encode(images)          # u8[B,H,W,3]

Both files hold the same numbers, and both give the same weights here, with the same `weights_sha256`:

* classify_image_graph_def.pb, 95,673,916 bytes, SHA-256
  009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6, from
  https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/classify_image_graph_def.pb (what
  ADM's evaluator fetches) or inside
  http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz (88,931,400 bytes).
* pt_inception-2015-12-05-6726825d.pth, 95,628,359 bytes, SHA-256
  6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2, from
  https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth;
  torch-fidelity's weights-inception-2015-12-05-6726825d.pth is the same file. It is a pickle, which is never
  loaded here: `CONVERSION` makes a safetensors file of it. It carries the last layer with its 1008 biases,
  fc.weight and fc.bias; the Inception Score's logits are the product with the matrix alone.

Either is checked by `sha256sum FILE`. Where the graph's batch norms do not multiply by their gamma, ones
stand for it.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from synthaug.errors import ConfigError, DataError
from synthaug.models import inception as network
from synthaug.models.functional import Weights, abstract, hash_weights
from synthaug.weights.batches import look_in_batches
from synthaug.weights.inception_graph import Encode, check_graph, graph_constants, read_graph, run_graph
from synthaug.weights.misfits import check_tensors
from synthaug.weights.rules import Rule, conv, copy, linear, read_params
from synthaug.weights.tensors import Tensors, open_tensors

NAME = "inception-2015-12-05"
BACKENDS = ("flax", "tensorflow")

CONVERSION = (
    'python -c "import torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in torch.load('
    "'FILE.pth', weights_only=True).items()}, 'FILE.safetensors')\""
)
"""Makes a safetensors file of pytorch-fid's pickle, where torch and safetensors are installed."""

_PICKLES = (".pth", ".pt")
_COUNTER = ".num_batches_tracked"  # torch's count of batches, which means nothing here

_TOWERS = {  # pytorch-fid's names of a block's units, in the order of `block_units`
    35: ("branch1x1", "branch5x5_1", "branch5x5_2", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3",
         "branch_pool"),
    17: ("branch1x1", "branch7x7_1", "branch7x7_2", "branch7x7_3", "branch7x7dbl_1", "branch7x7dbl_2",
         "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5", "branch_pool"),
    8: ("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_1", "branch3x3dbl_2",
        "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
}  # fmt: skip
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_BLOCKS = {
    "Mixed_5b": _TOWERS[35],
    "Mixed_5c": _TOWERS[35],
    "Mixed_5d": _TOWERS[35],
    "Mixed_6a": ("branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    "Mixed_6b": _TOWERS[17],
    "Mixed_6c": _TOWERS[17],
    "Mixed_6d": _TOWERS[17],
    "Mixed_6e": _TOWERS[17],
    "Mixed_7a": ("branch3x3_1", "branch3x3_2", "branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3",
                 "branch7x7x3_4"),
    "Mixed_7b": _TOWERS[8],
    "Mixed_7c": _TOWERS[8],
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Inception:
    """The network with its weights.

    Attributes:
        weights_sha256: `hash_weights` of {"params", "stats"}: the same for both kinds of file.
        backend: "flax" or "tensorflow".
        batch_size: images that are encoded at once; fewer are filled up, so that an image's features do not
            depend on how many are beside it.
    """

    weights_sha256: str
    backend: str
    batch_size: int
    _encode: Encode

    def encode(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (features f32[B,2048], spatial f32[B,2023], logits f32[B,1008]) of images u8[B,H,W,3].

        See `synthaug.models.inception.Inception.encode`. Any B and any size: the network resizes to 299 px.

        Raises:
            ConfigError: the images have another shape or dtype.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise ConfigError(
                f"inception: images are {images.dtype}{list(images.shape)}; expected u8[B,H,W,3]."
            )
        parts = look_in_batches(self._encode, images, self.batch_size)
        features, spatial, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return features, spatial, logits


def open_inception(
    path: str, backend: str, batch_size: int, *, sharding: NamedSharding | None = None
) -> Inception:
    """Returns the network with the weights in a file.

    Args:
        path: classify_image_graph_def.pb, or a safetensors file with pytorch-fid's names.
        backend: "flax", on any device; "tensorflow", the frozen graph itself on the CPU.
        batch_size: images that are encoded at once, over all devices.
        sharding: flax: how a batch lies on the devices; None = on the first.

    Raises:
        ConfigError: the backend is unknown, or needs the frozen graph.
        DataError: the file is missing, damaged, a pickle, or of another network.
    """
    file = pathlib.Path(path).expanduser()
    if backend not in BACKENDS:
        raise ConfigError(
            f"inception: backend = {backend!r}; expected one of {', '.join(BACKENDS)}; choose one."
        )
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; expected classify_image_graph_def.pb or safetensors: fetch it."
        )
    graph = read_graph(file) if file.suffix == ".pb" else None
    weights = read_inception(file) if graph is None else _read(*graph_constants(file, graph))
    if backend == "flax":
        encode = _compile(weights, sharding)
    elif graph is None:
        raise ConfigError(
            f"{file}: backend = tensorflow runs the frozen graph; name classify_image_graph_def.pb, or set "
            "backend = flax."
        )
    else:
        encode = run_graph(file, graph, weights["params"]["softmax"])
    return Inception(hash_weights(weights), backend, batch_size, encode)


def check_inception(path: str) -> None:
    """Raises DataError unless a file holds the network, by the names in it; reads no numbers.

    Of a frozen graph that are the nodes' names and that the file ends where it says, of a safetensors file
    also the shapes.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: is no file; expected classify_image_graph_def.pb or safetensors.")
    if file.suffix == ".pb":
        check_graph(file)
        return
    tensors, rules = _open_safetensors(file), torch_rules()
    ignored = _check_shapes(tensors, rules)
    check_tensors({n: s for r in rules for n, s in zip(r.theirs, r.shapes, strict=True)}, tensors, ignored)


def read_inception(path: pathlib.Path) -> Weights:
    """Returns the weights in a safetensors file as numpy arrays.

    Raises:
        DataError: see `open_inception`.
    """
    return _read(_open_safetensors(path), torch_rules())


def _open_safetensors(path: pathlib.Path) -> Tensors:
    if path.suffix in _PICKLES:
        command = CONVERSION.replace("FILE.pth", path.name).replace("FILE", path.stem)
        raise DataError(f"{path}: is a pickle, which is never loaded here; convert it: {command}")
    if path.suffix != ".safetensors":
        raise DataError(f"{path}: expected classify_image_graph_def.pb or safetensors; name one of them.")
    return open_tensors(path.parent, path.stem)


def torch_rules() -> list[Rule]:
    """Returns which of pytorch-fid's tensors make up which of {"params", "stats"}."""
    rules = [linear("params/softmax", "fc.weight", (network.NUM_LOGITS, network.NUM_FEATURES))]
    for there, unit in zip(_torch_names(), network.units(), strict=True):
        ours, wide = f"units/{unit.name}", (unit.outputs,)
        shape = (unit.outputs, unit.inputs, unit.height, unit.width)
        rules += [
            conv(f"params/{ours}/kernel", f"{there}.conv.weight", shape),
            copy(f"params/{ours}/scale", f"{there}.bn.weight", wide),
            copy(f"params/{ours}/bias", f"{there}.bn.bias", wide),
            copy(f"stats/{ours}/mean", f"{there}.bn.running_mean", wide),
            copy(f"stats/{ours}/var", f"{there}.bn.running_var", wide),
        ]
    return rules


def _torch_names() -> Iterable[str]:
    yield from _STEM
    for block, names in _BLOCKS.items():
        yield from (f"{block}.{name}" for name in names)


def _read(tensors: Tensors, rules: list[Rule]) -> Weights:
    ignored = _check_shapes(tensors, rules)
    return read_params(rules, tensors, abstract(network.build_inception()), ignore=ignored)


def _check_shapes(tensors: Tensors, rules: list[Rule]) -> tuple[str, ...]:
    """Returns the names that mean nothing here, after a look at the shapes of the others."""
    for rule in rules:
        for name, shape in zip(rule.theirs, rule.shapes, strict=True):
            found = tensors.shape(name) if name in tensors.stored else None
            if found != shape:
                what = "is missing" if found is None else f"has shape {list(found)}"
                raise DataError(
                    f"{_file(tensors)}: {name} {what}, expected shape {list(shape)}; the file is none of "
                    "Inception-v3 of 2015-12-05: take classify_image_graph_def.pb, or pytorch-fid's weights "
                    "as safetensors."
                )
    return tuple(name for name in tensors.stored if name.endswith(_COUNTER) or name == "fc.bias")


def _file(tensors: Tensors) -> pathlib.Path:
    return next((stored.file for stored in tensors.stored.values()), tensors.folder)


def _compile(weights: Weights, sharding: NamedSharding | None) -> Encode:
    """Returns the network as a function of batches; the resize alone is compiled for each size of image."""
    model = network.build_inception()
    whole = sharding and NamedSharding(sharding.mesh, PartitionSpec())
    placed = jax.device_put(weights, whole)

    @jax.jit
    def forward(weights: Weights, pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        # Accelerators would multiply in bf16 or TF32, whose three digits are too few to compare tools by.
        with jax.default_matmul_precision("highest"):
            found: tuple[jax.Array, jax.Array, jax.Array] = model.apply(weights, pixels, method="encode")
        return found

    resize = jax.jit(network.resize)

    def encode(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found: Any = jax.device_get(forward(placed, resize(jax.device_put(images, sharding))))
        features, spatial, logits = found
        return features, spatial, logits

    return encode
