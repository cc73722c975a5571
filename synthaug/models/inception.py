"""Inception-v3 of 2015-12-05, the network behind FID, sFID and the Inception Score (Szegedy et al. 2016).

It computes what the frozen graph classify_image_graph_def.pb computes, and differs from later Inception-v3 in
this: the graph resizes its images itself, batch norms have no gain and an epsilon of 0.001, average pools do
not count the padding, the last block pools by maximum, and there are 1008 outputs. Parts have the graph's
names. Weights are always read from a file, see synthaug.weights.inception.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from synthaug.models.functional import Model, functional

SIDE = 299  # px, what the graph resizes to
NUM_FEATURES = 2048
NUM_LOGITS = 1008
SPATIAL_CHANNELS = 7
NUM_SPATIAL = 17 * 17 * SPATIAL_CHANNELS
EPSILON = 0.001

SPATIAL = "mixed_6"
"""The block whose first branch is sFID's map, mixed_6/conv:0 in ADM's evaluator, 17 x 17 x 192."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """A convolution without bias, a batch norm, a ReLU; `name` as in the graph, mixed_4/tower_1/conv_2."""

    name: str
    inputs: int
    outputs: int
    height: int = 1
    width: int = 1
    stride: int = 1
    padding: str = "SAME"


@dataclasses.dataclass(frozen=True)
class Branch:
    """A chain of units behind a pool ("average", "max" or ""); the units in `split` end it side by side."""

    units: tuple[Unit, ...]
    pool: str = ""
    split: tuple[Unit, ...] = ()


@dataclasses.dataclass(frozen=True)
class Block:
    """Branches whose outputs are joined; `shrinks` adds a max pool of stride 2 as the last."""

    name: str
    branches: tuple[Branch, ...]
    shrinks: bool = False


_SQUARE3, _SQUARE5, _ROW3, _COLUMN3, _ROW7, _COLUMN7 = (3, 3), (5, 5), (1, 3), (3, 1), (1, 7), (7, 1)


def _chain(path: str, inputs: int, *sizes: tuple[int, ...], shrinks: bool = False) -> tuple[Unit, ...]:
    """Returns units of (outputs, height, width), 1x1 where only the outputs are given, one behind another."""
    units: list[Unit] = []
    for i, (outputs, *size) in enumerate(sizes):
        height, width = size or (1, 1)
        stride, padding = (2, "VALID") if shrinks and i + 1 == len(sizes) else (1, "SAME")
        name = f"{path}/conv_{i}" if i else f"{path}/conv"
        units.append(Unit(name, inputs, outputs, height, width, stride, padding))
        inputs = outputs
    return tuple(units)


def _block35(name: str, inputs: int, pooled: int) -> Block:
    return Block(
        name,
        (
            Branch(_chain(name, inputs, (64,))),
            Branch(_chain(f"{name}/tower", inputs, (48,), (64, *_SQUARE5))),
            Branch(_chain(f"{name}/tower_1", inputs, (64,), (96, *_SQUARE3), (96, *_SQUARE3))),
            Branch(_chain(f"{name}/tower_2", inputs, (pooled,)), pool="average"),
        ),
    )


def _block17(name: str, inner: int) -> Block:
    row, column = (inner, *_ROW7), (inner, *_COLUMN7)
    return Block(
        name,
        (
            Branch(_chain(name, 768, (192,))),
            Branch(_chain(f"{name}/tower", 768, (inner,), row, (192, *_COLUMN7))),
            Branch(_chain(f"{name}/tower_1", 768, (inner,), column, row, column, (192, *_ROW7))),
            Branch(_chain(f"{name}/tower_2", 768, (192,)), pool="average"),
        ),
    )


def _block8(name: str, inputs: int, pool: str) -> Block:
    def split(tower: str) -> tuple[Unit, ...]:
        path = f"{name}/{tower}/mixed"
        return (*_chain(path, 384, (384, *_ROW3)), Unit(f"{path}/conv_1", 384, 384, *_COLUMN3))

    return Block(
        name,
        (
            Branch(_chain(name, inputs, (320,))),
            Branch(_chain(f"{name}/tower", inputs, (384,)), split=split("tower")),
            Branch(_chain(f"{name}/tower_1", inputs, (448,), (384, *_SQUARE3)), split=split("tower_1")),
            Branch(_chain(f"{name}/tower_2", inputs, (192,)), pool=pool),
        ),
    )


def _shrinking(name: str, *chains: tuple[Unit, ...]) -> Block:
    return Block(name, tuple(map(Branch, chains)), shrinks=True)


STEM = (
    Unit("conv", 3, 32, 3, 3, 2, "VALID"),
    Unit("conv_1", 32, 32, 3, 3, 1, "VALID"),
    Unit("conv_2", 32, 64, 3, 3),
    Unit("conv_3", 64, 80, 1, 1, 1, "VALID"),
    Unit("conv_4", 80, 192, 3, 3, 1, "VALID"),
)
"""In front of the blocks; a max pool follows conv_2 and conv_4."""

BLOCKS = (
    _block35("mixed", 192, 32),
    _block35("mixed_1", 256, 64),
    _block35("mixed_2", 288, 64),
    _shrinking(
        "mixed_3",
        _chain("mixed_3", 288, (384, *_SQUARE3), shrinks=True),
        _chain("mixed_3/tower", 288, (64,), (96, *_SQUARE3), (96, *_SQUARE3), shrinks=True),
    ),
    _block17("mixed_4", 128),
    _block17("mixed_5", 160),
    _block17("mixed_6", 160),
    _block17("mixed_7", 192),
    _shrinking(
        "mixed_8",
        _chain("mixed_8/tower", 768, (192,), (320, *_SQUARE3), shrinks=True),
        _chain(
            "mixed_8/tower_1", 768, (192,), (192, *_ROW7), (192, *_COLUMN7), (192, *_SQUARE3), shrinks=True
        ),
    ),
    _block8("mixed_9", 1280, "average"),
    _block8("mixed_10", 2048, "max"),
)


def block_units(block: Block) -> list[Unit]:
    """Returns the units of a block in the order of its branches."""
    return [unit for branch in block.branches for unit in (*branch.units, *branch.split)]


def units() -> list[Unit]:
    """Returns all 94 units in the order of the graph."""
    return [*STEM, *(unit for block in BLOCKS for unit in block_units(block))]


class ConvNorm(nnx.Module):
    """A convolution, the batch norm of its running moments, and a ReLU."""

    def __init__(self, unit: Unit):
        self.unit = unit
        self.kernel = nnx.Param(jnp.zeros((unit.height, unit.width, unit.inputs, unit.outputs)))
        self.scale = nnx.Param(jnp.ones(unit.outputs))
        self.bias = nnx.Param(jnp.zeros(unit.outputs))
        self.mean = nnx.BatchStat(jnp.zeros(unit.outputs))
        self.var = nnx.BatchStat(jnp.ones(unit.outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns f32[B,H',W',C'] of x f32[B,H,W,C]."""
        gain = jax.lax.rsqrt(self.var[...] + EPSILON) * self.scale[...]
        shift = self.bias[...] - self.mean[...] * gain
        y = self._convolve(x, self.kernel[...])
        return nnx.relu(y * gain[None, None, None] + shift[None, None, None])

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        if kernel.shape[:2] == (1, 1):
            return x @ kernel[0, 0]
        # What needs no padding gets some at the end, which is cut off again: with padding XLA's convolution
        # takes a third of the time on a CPU, and a hundredth more of arithmetic anywhere.
        padding = "SAME" if self.unit.padding == "SAME" else ((0, 1), (0, 1))
        axes, stride = ("NHWC", "HWIO", "NHWC"), (self.unit.stride, self.unit.stride)
        y = jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=axes)
        if self.unit.padding == "SAME":
            return y
        rows, columns = (x.shape[1] - kernel.shape[0], x.shape[2] - kernel.shape[1])
        return y[:, : rows // self.unit.stride + 1, : columns // self.unit.stride + 1]


class Inception(nnx.Module):
    """The network behind the resize: f32[B,299,299,3] of 0..255 to features, map and logits."""

    def __init__(self) -> None:
        tree: dict[str, Any] = {}
        for unit in units():
            *parents, last = unit.name.split("/")
            place = tree
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = ConvNorm(unit)
        self.units = _modules(tree)
        self.softmax = nnx.Param(jnp.zeros((NUM_FEATURES, NUM_LOGITS)))

    def encode(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns features f32[B,2048], spatial f32[B,2023], logits f32[B,1008] of f32[B,299,299,3], 0..255.

        Features are pool_3. `spatial` are the first 7 channels of mixed_6/conv behind its ReLU, flattened by
        row, column, channel, as ADM's evaluator has them. Logits have no bias, as its Inception Score.
        """
        x = (pixels - 128.0) * 0.0078125
        for unit in STEM:
            x = self._run(unit, x)
            if unit.name in ("conv_2", "conv_4"):
                x = _max_pool(x, 2)
        spatial = x
        for block in BLOCKS:
            parts = [part for branch in block.branches for part in self._run_branch(branch, x)]
            if block.name == SPATIAL:
                spatial = parts[0][..., :SPATIAL_CHANNELS]
            x = jnp.concatenate([*parts, _max_pool(x, 2)] if block.shrinks else parts, axis=-1)
        features = x.mean(axis=(1, 2))
        return features, spatial.reshape(spatial.shape[0], -1), features @ self.softmax[...]

    def _run(self, unit: Unit, x: jax.Array) -> jax.Array:
        part: Any = self.units
        for name in unit.name.split("/"):
            part = part[name]
        return part(x)

    def _run_branch(self, branch: Branch, x: jax.Array) -> list[jax.Array]:
        if branch.pool:
            x = _average_pool(x) if branch.pool == "average" else _max_pool(x, 1)
        for unit in branch.units:
            x = self._run(unit, x)
        return [self._run(unit, x) for unit in branch.split] or [x]


def _modules(tree: dict[str, Any]) -> nnx.Dict:
    return nnx.Dict({k: _modules(v) if isinstance(v, dict) else v for k, v in tree.items()})


def build_inception() -> Model:
    """Returns the network as functions: `apply(weights, pixels, method="encode")`, see `Inception.encode`."""
    return functional(lambda _: Inception())


def _max_pool(x: jax.Array, stride: int) -> jax.Array:
    """Returns the maximum over 3x3 px: with stride 1 the size stays, with stride 2 there is no padding."""
    if stride == 1:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return functools.reduce(jnp.maximum, _shifted(x, stride))


def _average_pool(x: jax.Array) -> jax.Array:
    """Returns the mean over 3x3 px of those inside the image: the padding is not counted."""
    rows, columns = (np.convolve(np.ones(n), np.ones(3), "same") for n in x.shape[1:3])
    number = (rows[:, None] * columns[None, :]).astype(np.float32)[None, :, :, None]
    return functools.reduce(jnp.add, _shifted(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 1)) / number


def _shifted(x: jax.Array, stride: int) -> list[jax.Array]:
    """Returns the nine pixels of each 3x3 window; XLA's reduce_window takes eight times as long on a CPU."""
    rows, columns = ((n - 3) // stride * stride + 1 for n in x.shape[1:3])
    return [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(3) for j in range(3)]


def resize(images: jax.Array) -> jax.Array:
    """Returns f32[B,299,299,3] of images u8[B,H,W,3]: the graph's own bilinear resize, bit for bit.

    This is TensorFlow 1's ResizeBilinear with align_corners = False and without half-pixel centres: output
    pixel i looks at i H / 299, and nothing is smoothed beforehand, however large the image is.
    """
    height, width = images.shape[1:3]
    x = images.astype(jnp.float32)
    x = _interpolate(x, *_places(width), axis=2)
    return _interpolate(x, *_places(height), axis=1)


def _places(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two pixels of a side that each output pixel lies between, and the weight of the second."""
    scale = np.float32(size) / np.float32(SIDE)
    where = np.arange(SIDE, dtype=np.float32) * scale
    low = np.floor(where)
    return low.astype(np.int32), np.minimum(low.astype(np.int32) + 1, size - 1), where - low


def _interpolate(
    x: jax.Array, low: np.ndarray, high: np.ndarray, weight: np.ndarray, *, axis: int
) -> jax.Array:
    first, second = (jnp.take(x, place, axis=axis, mode="clip") for place in (low, high))
    shape = [1] * x.ndim
    shape[axis] = SIDE
    # No step is larger than 255. XLA does not know, so that the clip keeps it from making one multiply-add of
    # product and sum, which would round once where the graph rounds twice.
    return first + jnp.clip((second - first) * weight.reshape(shape), -255.0, 255.0)
