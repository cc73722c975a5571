"""Writes files of Inception-v3 with random weights: the frozen graph as it was published, and pytorch-fid's.

The graph has the nodes, names and operations of classify_image_graph_def.pb, down to the batch norm that
TensorFlow has long removed and still runs for graphs of an old version, the checks for NaN in front of every
ReLU, and the batch of one that the reshape in front of the softmax is made for.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np

from synthaug.models import inception

VERSION = 8
"""Of the format, the last one with BatchNormWithGlobalNormalization."""

BATCHNORM = ("beta", "gamma", "moving_mean", "moving_variance")

TORCH_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


@functools.lru_cache(maxsize=1)
def constants(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random weights by the graph's names, scaled so that activations stay of the order of 1."""
    random = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for unit in inception.units():
        shape = (unit.height, unit.width, unit.inputs, unit.outputs)
        deviation = np.sqrt(2.0 / np.prod(shape[:3]))
        made[f"{unit.name}/conv2d_params"] = _f32(random.standard_normal(shape) * deviation)
        made[f"{unit.name}/batchnorm/beta"] = _f32(random.normal(0.0, 0.1, unit.outputs))
        made[f"{unit.name}/batchnorm/gamma"] = _f32(random.uniform(0.8, 1.2, unit.outputs))
        made[f"{unit.name}/batchnorm/moving_mean"] = _f32(random.normal(0.0, 0.1, unit.outputs))
        made[f"{unit.name}/batchnorm/moving_variance"] = _f32(random.uniform(0.5, 1.5, unit.outputs))
    made["softmax/weights"] = _f32(random.normal(0.0, 0.05, (2048, 1008)))
    made["softmax/biases"] = _f32(random.normal(0.0, 1.0, 1008))
    return made


def _f32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


# --------------------------------------------------------------------------------- the frozen graph


class _Graph:
    """Collects the nodes of a graph."""

    def __init__(self) -> None:
        import tensorflow as tf
        from tensorflow.core.framework import graph_pb2

        self.tf, self.proto = tf, graph_pb2.GraphDef()
        self.proto.versions.producer = VERSION

    def node(self, name: str, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns its name; lists become ints, text becomes bytes, str dtypes stay names."""
        node = self.proto.node.add(name=name, op=operation, input=inputs)
        for key, value in attributes.items():
            if isinstance(value, bool):
                node.attr[key].b = value
            elif isinstance(value, float):
                node.attr[key].f = value
            elif isinstance(value, int):
                node.attr[key].i = value
            elif isinstance(value, list):
                node.attr[key].list.i.extend(value)
            elif isinstance(value, str):
                node.attr[key].s = value.encode()
            else:
                node.attr[key].type = value.as_datatype_enum
        return name

    def constant(self, name: str, value: Any) -> str:
        """Adds a constant."""
        array = np.asarray(value)
        node = self.proto.node.add(name=name, op="Const")
        dtype = self.tf.string if array.dtype.kind == "S" else self.tf.as_dtype(array.dtype)
        node.attr["dtype"].type = dtype.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(self.tf.make_tensor_proto(value, dtype=dtype))
        return name


def write_graph(
    path: pathlib.Path, weights: dict[str, np.ndarray] | None = None, *, scaled: bool = False
) -> pathlib.Path:
    """Writes the frozen graph with these weights, and returns its path.

    Args:
        path: of the file.
        weights: by the graph's names; None = `constants()`.
        scaled: whether batch norms multiply by gamma, which the published graph does not.
    """
    weights = constants() if weights is None else weights
    graph = _Graph()
    f32 = graph.tf.float32
    x = _resized(graph)
    for unit in inception.STEM:
        x = _unit(graph, unit, x, weights, scaled)
        if unit.name in ("conv_2", "conv_4"):
            x = _pool(graph, "pool" if unit.name == "conv_2" else "pool_1", "MaxPool", x, 2)
    for block in inception.BLOCKS:
        x = _block(graph, block, x, weights, scaled)
    x = graph.node("pool_3", "AvgPool", x, T=f32, ksize=[1, 8, 8, 1], strides=[1, 1, 1, 1], padding="VALID")
    shape = graph.constant("pool_3/_reshape/shape", np.array([1, 2048], np.int32))
    x = graph.node("pool_3/_reshape", "Reshape", x, shape, T=f32)
    kernel = graph.constant("softmax/weights", weights["softmax/weights"])
    bias = graph.constant("softmax/biases", weights["softmax/biases"])
    x = graph.node("softmax/logits/MatMul", "MatMul", x, kernel, T=f32, transpose_a=False, transpose_b=False)
    x = graph.node("softmax/logits", "BiasAdd", x, bias, T=f32)
    graph.node("softmax", "Softmax", x, T=f32)
    path.write_bytes(graph.proto.SerializeToString())
    return path


def _resized(graph: _Graph) -> str:
    f32 = graph.tf.float32
    content = graph.constant("DecodeJpeg/contents", b"")
    pixels = graph.node(
        "DecodeJpeg", "DecodeJpeg", content, channels=3, ratio=1, fancy_upscaling=True,
        try_recover_truncated=False, acceptable_fraction=1.0,
    )  # fmt: skip
    cast = graph.node("Cast", "Cast", pixels, SrcT=graph.tf.uint8, DstT=f32)
    x = graph.node("ExpandDims", "ExpandDims", cast, graph.constant("ExpandDims/dim", np.int32(0)), T=f32)
    size = graph.constant("ResizeBilinear/size", np.array([299, 299], np.int32))
    x = graph.node("ResizeBilinear", "ResizeBilinear", x, size, T=f32, align_corners=False)
    x = graph.node("Sub", "Sub", x, graph.constant("Sub/y", np.float32(128)), T=f32)
    return graph.node("Mul", "Mul", x, graph.constant("Mul/y", np.float32(0.0078125)), T=f32)


def _unit(graph: _Graph, unit: inception.Unit, x: str, weights: dict[str, np.ndarray], scaled: bool) -> str:
    f32, name = graph.tf.float32, unit.name
    kernel = graph.constant(f"{name}/conv2d_params", weights[f"{name}/conv2d_params"])
    stride = [1, unit.stride, unit.stride, 1]
    x = graph.node(f"{name}/Conv2D", "Conv2D", x, kernel, T=f32, strides=stride, padding=unit.padding)
    parts = {p: graph.constant(f"{name}/batchnorm/{p}", weights[f"{name}/batchnorm/{p}"]) for p in BATCHNORM}
    x = graph.node(
        f"{name}/batchnorm", "BatchNormWithGlobalNormalization", x,
        parts["moving_mean"], parts["moving_variance"], parts["beta"], parts["gamma"],
        T=f32, variance_epsilon=0.001, scale_after_normalization=scaled,
    )  # fmt: skip
    return graph.node(name, "Relu", _checked(graph, name, x), T=f32)


def _checked(graph: _Graph, name: str, x: str) -> str:
    check = graph.node(f"{name}/CheckNumerics", "CheckNumerics", x, T=graph.tf.float32, message=name)
    return graph.node(f"{name}/control_dependency", "Identity", x, f"^{check}", T=graph.tf.float32)


def _pool(graph: _Graph, name: str, operation: str, x: str, stride: int) -> str:
    padding = "VALID" if stride == 2 else "SAME"
    sizes = {"ksize": [1, 3, 3, 1], "strides": [1, stride, stride, 1], "padding": padding}
    return graph.node(name, operation, _checked(graph, name, x), T=graph.tf.float32, **sizes)


def _block(
    graph: _Graph, block: inception.Block, x: str, weights: dict[str, np.ndarray], scaled: bool
) -> str:
    parts = []
    for branch in block.branches:
        y = x
        if branch.pool:
            operation = {"average": "AvgPool", "max": "MaxPool"}[branch.pool]
            y = _pool(graph, f"{block.name}/tower_2/pool", operation, y, 1)
        for unit in branch.units:
            y = _unit(graph, unit, y, weights, scaled)
        parts += [_unit(graph, unit, y, weights, scaled) for unit in branch.split] or [y]
    if block.shrinks:
        parts.append(_pool(graph, f"{block.name}/pool", "MaxPool", x, 2))
    axis = graph.constant(f"{block.name}/join/concat_dim", np.int32(3))
    return graph.node(f"{block.name}/join", "Concat", axis, *parts, T=graph.tf.float32, N=len(parts))


# ----------------------------------------------------------------------------- pytorch-fid's names


def torch_name(unit: inception.Unit) -> str:
    """Returns what pytorch-fid calls a unit, e.g. Mixed_6b.branch7x7dbl_2; written out here once more."""
    stem = dict(zip(("conv", "conv_1", "conv_2", "conv_3", "conv_4"),
                    ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"), strict=True))  # fmt: skip
    if unit.name in stem:
        return f"Conv2d_{stem[unit.name]}"
    block, *path = unit.name.split("/")
    index = int(block.partition("_")[2] or 0)
    tower = path[0] if path[0].startswith("tower") else ""
    position = int(path[-1].partition("_")[2] or 0) + 1
    number = {"3": {"": "branch3x3", "tower": "branch3x3dbl"},
              "8": {"tower": "branch3x3", "tower_1": "branch7x7x3"}}.get(str(index))  # fmt: skip
    if number is None:
        second, third = (
            ("branch5x5", "branch3x3dbl") if index < 3 else
            ("branch7x7", "branch7x7dbl") if index < 8 else ("branch3x3", "branch3x3dbl")
        )  # fmt: skip
        number = {"": "branch1x1", "tower": second, "tower_1": third, "tower_2": "branch_pool"}
    last = f"_{position}" if tower not in ("", "tower_2") else ""
    if "mixed" in path:
        last = f"_{2 if tower == 'tower' else 3}{'ab'[position - 1]}"
    return f"Mixed_{TORCH_BLOCKS[index]}.{number[tower]}{last}"


def torch_state(
    weights: dict[str, np.ndarray] | None = None, *, scaled: bool = False
) -> dict[str, np.ndarray]:
    """Returns the same weights as pytorch-fid's state dict holds them; see `write_graph`."""
    weights = constants() if weights is None else weights
    state = {"fc.weight": weights["softmax/weights"].T.copy(), "fc.bias": weights["softmax/biases"]}
    names = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    for unit in inception.units():
        there = torch_name(unit)
        kernel = weights[f"{unit.name}/conv2d_params"]
        state[f"{there}.conv.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        for part, name in names.items():
            there_too = weights[f"{unit.name}/batchnorm/{part}"]
            state[f"{there}.bn.{name}"] = there_too if scaled or part != "gamma" else np.ones_like(there_too)
    return state


def write_state(path: pathlib.Path, weights: dict[str, np.ndarray] | None = None) -> pathlib.Path:
    """Writes the same weights as a safetensors file with pytorch-fid's names, and returns its path."""
    from synthaug.weights.tensors import write_tensors

    write_tensors(path.parent, path.stem, sorted(torch_state(weights).items()), shard_bytes=1 << 62)
    return path
