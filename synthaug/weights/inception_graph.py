"""The frozen graph classify_image_graph_def.pb: its constants, and run by tensorflow as the gold backend."""

from __future__ import annotations

import functools
import mmap
import os
import pathlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from synthaug.errors import DataError
from synthaug.models.inception import EPSILON, NUM_SPATIAL, SPATIAL, SPATIAL_CHANNELS, Unit, units
from synthaug.weights.rules import Rule, copy
from synthaug.weights.tensors import Stored, Tensors

SOFTMAX = "softmax/weights"
FETCHES = ("pool_3:0", f"{SPATIAL}/conv:0")
FED = "ExpandDims:0"
LAST_POOL = "mixed_10/tower_2/pool"

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""u8[B,H,W,3] to features f32[B,2048], spatial f32[B,2023], logits f32[B,1008]."""


@functools.cache
def load_tensorflow() -> ModuleType:
    """Returns tensorflow, which sees no GPU: jax needs all of its memory."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


class GraphConstants(Tensors):
    """The weights in a frozen graph by their nodes' names."""

    def __init__(self, path: pathlib.Path, nodes: dict[str, Any]) -> None:
        stored = {name: _stored(path, node) for name, node in nodes.items()}
        super().__init__(path, stored)
        self._nodes = nodes

    def read(self, name: str) -> np.ndarray:
        """Returns a constant in memory of its own, f32."""
        array: np.ndarray = load_tensorflow().make_ndarray(self._nodes[name].attr["value"].tensor)
        return array.astype(np.float32)


def _stored(path: pathlib.Path, node: Any) -> Stored:
    tensor = node.attr["value"].tensor
    dtype = load_tensorflow().as_dtype(tensor.dtype)
    shape = tuple(int(axis.size) for axis in tensor.tensor_shape.dim)
    names = {"float32": "F32", "float16": "F16", "float64": "F64"}
    return Stored(path, names.get(dtype.name, dtype.name), shape, 0, 0)


def read_graph(path: pathlib.Path) -> Any:
    """Returns the GraphDef in a file, without running anything of it.

    Raises:
        DataError: the file cannot be read, or is no frozen graph.
    """
    graph = load_tensorflow().compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    except Exception:  # protobuf's DecodeError lives in another module in each of its implementations
        raise _no_graph(path) from None
    return graph


def _no_graph(path: pathlib.Path) -> DataError:
    return DataError(
        f"{path}: is no TensorFlow graph, or was cut off; expected classify_image_graph_def.pb of "
        "inception-2015-12-05: fetch it again."
    )


# ---------------------------------------------------------------- a look without tensorflow, for checks


def check_graph(path: pathlib.Path) -> None:
    """Raises DataError unless a file is such a graph to its last byte, by the names of its nodes.

    Only names, operations and lengths are read, so that it takes milliseconds and no tensorflow; shapes and
    numbers are looked at when the file is opened.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            nodes = dict(_nodes(data))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    except (ValueError, IndexError):  # of no bytes, or with a length that leads past the end
        raise _no_graph(path) from None
    _check_last_pool(path, nodes.get(LAST_POOL))
    parts = ("beta", "gamma", "moving_mean", "moving_variance")
    wanted = [SOFTMAX, *(name.partition(":")[0] for name in (FED, *FETCHES))]
    wanted += [f"{unit.name}/conv2d_params" for unit in units()]
    wanted += [f"{unit.name}/batchnorm/{part}" for unit in units() for part in parts]
    missing = [name for name in wanted if name not in nodes]
    if missing:
        raise DataError(
            f"{path}: {missing[0]} is missing ({len(missing)} of {len(wanted)} nodes are); the file is none "
            "of Inception-v3 of 2015-12-05: take classify_image_graph_def.pb."
        )


def _nodes(data: mmap.mmap) -> Iterator[tuple[str, str]]:
    """Yields name and operation of every node of a GraphDef, protobuf's fields 1 and 2 of its fields 1."""
    for number, start, end in _fields(data, 0, len(data)):
        if number == 1:
            text = {n: data[a:b].decode() for n, a, b in _fields(data, start, end) if n in (1, 2)}
            yield text.get(1, ""), text.get(2, "")


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (number, start, end) of the fields of a message; ValueError if they do not end where it does."""
    while at < end:
        tag, at = _varint(data, at)
        kind, after = tag & 7, at
        if kind == 0:
            _, after = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            after = at + length
        else:
            after += {1: 8, 5: 4}.get(kind, end)  # of other kinds there are none in a graph
        if after > end or tag < 8:  # fields are counted from 1
            raise ValueError("no message, or cut off")
        yield tag >> 3, at, after
        at = after


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Returns a number in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("no number of 64 bits")


# ----------------------------------------------------------------------------------------- constants


def graph_constants(path: pathlib.Path, graph: Any) -> tuple[GraphConstants, list[Rule]]:
    """Returns the weights of a frozen graph, and the rules that make our parameters of them.

    Raises:
        DataError: the graph computes something else than the one of 2015-12-05.
    """
    nodes = {node.name: node for node in graph.node}
    scaled = [_check_norm(path, nodes, unit) for unit in units()]
    _check_last_pool(path, nodes[LAST_POOL].op if LAST_POOL in nodes else None)
    rules = [Rule("params/softmax", (SOFTMAX,), ((2048, 1008),), lambda a: a[0], lambda a: [a])]
    for unit, has_gain in zip(units(), scaled, strict=True):
        rules += _unit_rules(unit, has_gain)
    constants = {name: nodes[name] for rule in rules for name in rule.theirs if name in nodes}
    return GraphConstants(path, {n: v for n, v in constants.items() if v.op == "Const"}), rules


def _check_last_pool(path: pathlib.Path, operation: str | None) -> None:
    if operation not in (None, "MaxPool"):
        raise DataError(
            f"{path}: {LAST_POOL} is {operation}, expected MaxPool as in the graph of 2015-12-05; it is a "
            "later Inception-v3, whose FID nobody reports: take inception-2015-12-05."
        )


def _check_norm(path: pathlib.Path, nodes: dict[str, Any], unit: Unit) -> bool:
    """Returns whether a unit's batch norm multiplies by gamma, after a look at its epsilon."""
    norm = nodes.get(f"{unit.name}/batchnorm")
    if norm is None:
        return True  # another file: the missing constants are named next
    epsilon = norm.attr["variance_epsilon"].f
    if not np.isclose(epsilon, EPSILON, rtol=1e-4):
        raise DataError(
            f"{path}: {unit.name}/batchnorm has epsilon {epsilon:g}, expected {EPSILON:g} as in the graph of "
            "2015-12-05; take that graph."
        )
    return bool(norm.attr["scale_after_normalization"].b)


def _unit_rules(unit: Unit, has_gain: bool) -> list[Rule]:
    wide, at = (unit.outputs,), f"{unit.name}/batchnorm"
    shape = (unit.height, unit.width, unit.inputs, unit.outputs)
    gamma = copy(f"params/units/{unit.name}/scale", f"{at}/gamma", wide)
    if not has_gain:  # the graph holds a gamma and does not use it
        gamma = Rule(gamma.ours, gamma.theirs, gamma.shapes, lambda a: np.ones_like(a[0]), lambda a: [a])
    return [
        copy(f"params/units/{unit.name}/kernel", f"{unit.name}/conv2d_params", shape),
        gamma,
        copy(f"params/units/{unit.name}/bias", f"{at}/beta", wide),
        copy(f"stats/units/{unit.name}/mean", f"{at}/moving_mean", wide),
        copy(f"stats/units/{unit.name}/var", f"{at}/moving_variance", wide),
    ]


def run_graph(path: pathlib.Path, graph: Any, softmax: np.ndarray) -> Encode:
    """Returns the frozen graph as a function, run by tensorflow on the CPU as ADM's evaluator runs it.

    Args:
        path: names the file in errors.
        graph: its GraphDef.
        softmax: the weights of its last matrix, f32[2048,1008]; the graph's own product has a batch of one.

    Raises:
        DataError: tensorflow cannot run the graph.
    """
    tf = load_tensorflow()
    whole = tf.Graph()
    with whole.as_default():
        images = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        try:
            pool, spatial = tf.import_graph_def(
                graph, input_map={FED: images}, return_elements=list(FETCHES), name=""
            )
        except Exception as error:  # of as many kinds as there are ways to be no such graph
            raise DataError(
                f"{path}: tensorflow refuses it ({_first_line(error)}); fetch it again."
            ) from None
        features = tf.reshape(pool, (-1, softmax.shape[0]))
        logits = tf.matmul(features, tf.constant(softmax))
        spatial = tf.reshape(spatial[..., :SPATIAL_CHANNELS], (-1, NUM_SPATIAL))
    threads = len(os.sched_getaffinity(0))
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1, device_count={"GPU": 0}
    )
    session = tf.compat.v1.Session(graph=whole, config=config)

    def encode(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fed = {images: batch.astype(np.float32)}
        found: tuple[np.ndarray, np.ndarray, np.ndarray] = tuple(
            session.run([features, spatial, logits], fed)
        )
        return found

    return encode


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
