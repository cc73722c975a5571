"""The rules of an ADM-family U-Net, from a family's names of its modules."""

from __future__ import annotations

from collections.abc import Callable

from synthaug.experiment import Network
from synthaug.weights.rules import Rule, conv, copy, flatten, joined
from synthaug.weights.shapes import unet_shapes

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def unet_rules(
    network: Network, modules: Callable[[str], tuple[str, ...]], axes: Callable[[str], int]
) -> list[Rule]:
    """Returns one rule for each parameter.

    Args:
        network: the shapes are worked out from it, nothing is allocated.
        modules: from our module, e.g. "down/level0_block0/attention/qkv", to theirs; several are joined.
        axes: from their module to the axes of its matrix: 2, or 3 and 4 for convolutions of one pixel.
    """
    return [_rule(path, leaf.shape, modules, axes) for path, leaf in flatten(unet_shapes(network)).items()]


def _rule(
    path: str,
    shape: tuple[int, ...],
    modules: Callable[[str], tuple[str, ...]],
    axes: Callable[[str], int],
) -> Rule:
    module, _, leaf = path.rpartition("/")
    if leaf not in _LEAVES:  # an array that stands in no module
        return copy(path, modules(path)[0], shape)
    names = modules(module)
    theirs = [f"{name}.{_LEAVES[leaf]}" for name in names]
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return conv(path, theirs[0], (outputs, inputs, height, width))
    outputs = shape[-1] // len(names)
    if len(shape) == 2:
        ones = (1,) * (axes(names[0]) - 2)
        return joined(path, theirs, [(outputs, shape[0], *ones)] * len(names))
    return (
        copy(path, theirs[0], shape) if len(names) == 1 else joined(path, theirs, [(outputs,)] * len(names))
    )
