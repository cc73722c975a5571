"""Which tensors of a public file make up which of our parameters, as data that works in both directions.

A family is a list of rules and nothing else. Layouts differ in the order of axes only (torch: OIHW kernels,
(out, in) matrices; ours: HWIO, (in, out)) and in what is fused, so that every rule is exactly invertible.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from synthaug.errors import DataError
from synthaug.weights.misfits import check_tensors
from synthaug.weights.tensors import Tensors, allocate, is_finite

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of our parameters and the file tensors it comes from.

    Attributes:
        ours: path of the parameter, e.g. "down/level0_block0/res/conv0/kernel".
        theirs: names of the tensors in the file.
        shapes: the tensors' shapes in the file.
        load: our array from theirs, of any dtype; views where possible, because it stands in the way of
            streaming otherwise.
        store: the inverse of `load`, bit for bit; views where possible.
    """

    ours: str
    theirs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    load: Callable[[list[np.ndarray]], np.ndarray]
    store: Callable[[np.ndarray], list[np.ndarray]]


def copy(ours: str, theirs: str, shape: Shape) -> Rule:
    """Returns the rule of a parameter that is the same in both: a bias, a norm, an embedding table."""
    return Rule(ours, (theirs,), (shape,), lambda arrays: arrays[0], lambda array: [array])


def conv(ours: str, theirs: str, shape: Shape) -> Rule:
    """Returns the rule of a convolution's kernel, OIHW `shape` in the file and HWIO here."""
    if len(shape) != 4:
        raise ValueError(f"conv: {theirs} has shape {shape}; expected OIHW.")
    return Rule(
        ours,
        (theirs,),
        (shape,),
        lambda arrays: arrays[0].transpose(2, 3, 1, 0),
        lambda array: [array.transpose(3, 2, 0, 1)],
    )


def linear(ours: str, theirs: str, shape: Shape) -> Rule:
    """Returns the rule of a matrix: (out, in), or (out, in, 1) and (out, in, 1, 1), there; (in, out) here."""
    return joined(ours, (theirs,), (shape,))


def joined(ours: str, theirs: Sequence[str], shapes: Sequence[Shape]) -> Rule:
    """Returns the rule of matrices or biases that are concatenated on our last axis, e.g. q, k and v.

    Args:
        ours: path of our parameter.
        theirs: the file's tensors in the order in which they are concatenated.
        shapes: theirs: (out, in), (out, in, 1) or (out, in, 1, 1) for matrices, (out,) for biases.
    """
    for name, shape in zip(theirs, shapes, strict=True):
        if len(shape) not in (1, 2, 3, 4) or any(size != 1 for size in shape[2:]):
            raise ValueError(f"joined: {name} has shape {shape}; expected a matrix, a 1x1 kernel or a bias.")
    ends = np.cumsum([shape[0] for shape in shapes])[:-1].tolist()

    def load(arrays: list[np.ndarray]) -> np.ndarray:
        ours = [array.reshape(array.shape[:2]).T for array in arrays]
        if len(ours) == 1:
            return ours[0]
        widths = [array.shape[array.ndim - 1] for array in ours]
        shape = (*ours[0].shape[: ours[0].ndim - 1], sum(widths))
        return np.concatenate(ours, axis=-1, out=allocate(shape, np.result_type(*ours)))

    def store(array: np.ndarray) -> list[np.ndarray]:
        parts = [array] if len(shapes) == 1 else np.split(array, ends, axis=-1)
        return [part.T.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    return Rule(ours, tuple(theirs), tuple(map(tuple, shapes)), load, store)


def patches(ours: str, theirs: str, width: int, side: int) -> Rule:
    """Returns the rule of what embeds squares of RGB pixels: a convolution there, a matrix here."""
    return Rule(
        ours,
        (theirs,),
        ((width, 3, side, side),),
        lambda arrays: arrays[0].transpose(2, 3, 1, 0).reshape(-1, width),
        lambda array: [array.reshape(side, side, 3, width).transpose(3, 2, 0, 1)],
    )


def reshaped(ours: str, theirs: str, shape: Shape, here: Shape) -> Rule:
    """Returns the rule of a parameter that has `shape` in the file, e.g. with axes of 1, and `here` here."""
    return Rule(
        ours,
        (theirs,),
        (shape,),
        lambda arrays: arrays[0].reshape(here),
        lambda array: [array.reshape(shape)],
    )


def read_params(
    rules: Sequence[Rule],
    tensors: Tensors,
    abstract: dict[str, Any],
    sharding: Any = None,
    *,
    ignore: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Returns our parameters f32, read tensor by tensor: beside the result only one tensor is in memory.

    Args:
        rules: the family's, one for each leaf of `abstract`.
        tensors: the file.
        abstract: nested dict of our parameters' shapes, e.g. functional.abstract(model)["params"].
        sharding: None for numpy arrays on the host; or one jax Sharding for all, or a nested dict of
            them like `abstract`: then each leaf goes into its shards as soon as it is read.
        ignore: beginnings of names in the file that belong to nothing here, e.g. "decoder.".

    Raises:
        DataError: a tensor is missing, left over, of another shape, not of finite floats, or the file is
            damaged.
    """
    wanted = {rule.ours: rule for rule in rules}
    shapes = flatten(abstract)
    if wanted.keys() != shapes.keys() or len(wanted) != len(rules):
        odd = sorted(wanted.keys() ^ shapes.keys())
        raise ValueError(f"read_params: rules and network differ in {odd[:5]}: mend the family's rules.")
    check_tensors({n: s for r in rules for n, s in zip(r.theirs, r.shapes, strict=True)}, tensors, ignore)
    places = flatten(sharding) if isinstance(sharding, dict) else dict.fromkeys(shapes, sharding)
    read: dict[str, Any] = {}
    # The largest first: what a tensor needs while it is turned around is on top of all that came before it.
    for name in sorted(wanted, key=lambda name: -int(np.prod(shapes[name].shape, dtype=np.int64))):
        rule = wanted[name]
        array = rule.load([_read(tensors, there) for there in rule.theirs])
        if array.shape != tuple(shapes[name].shape):
            raise ValueError(f"read_params: {name} is {array.shape} by its rule, {shapes[name].shape} here.")
        read[name] = _place(array, places[name])
    return nest({name: read[name] for name in shapes})


def _read(tensors: Tensors, name: str) -> np.ndarray:
    array = tensors.read(name)
    if not is_finite(array):
        raise DataError(
            f"{tensors.stored[name].file}: {name} holds numbers that are not finite; expected weights: the "
            "file was damaged, or its training diverged: fetch it again, or take another checkpoint."
        )
    return array


def _place(array: np.ndarray, sharding: Any) -> Any:
    if sharding is None:
        return _plain(array)
    placed = jax.make_array_from_callback(array.shape, sharding, lambda index: _plain(array[index]))
    return jax.block_until_ready(placed)  # otherwise copies of many tensors wait in host memory at once


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns an array as f32 in C order, itself if it is that already."""
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    plain = allocate(array.shape, np.float32)
    np.copyto(plain, array, casting="unsafe")
    return plain


def write_params(rules: Sequence[Rule], params: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) of the file's tensors, views of `params` where the rules allow it.

    Raises:
        ValueError: `params` are not those of the rules.
    """
    ours = flatten(params)
    if ours.keys() != {rule.ours for rule in rules}:
        odd = sorted(ours.keys() ^ {rule.ours for rule in rules})
        raise ValueError(f"write_params: rules and parameters differ in {odd[:5]}.")
    for rule in rules:
        arrays = rule.store(np.asarray(ours[rule.ours]))
        for name, shape, array in zip(rule.theirs, rule.shapes, arrays, strict=True):
            if array.shape != tuple(shape):
                raise ValueError(f"write_params: {name} is {array.shape} by its rule, {shape} in the file.")
            yield name, array


def flatten(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Returns {"a/b": leaf} of nested dicts, in their order.

    Example:
        >>> flatten({"a": {"b": 1}})
        {'a/b': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}/{key}" if path else str(key)
        flat.update(flatten(value, name) if isinstance(value, dict) else {name: value})
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dicts: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree
