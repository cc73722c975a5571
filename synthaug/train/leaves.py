"""Trees of arrays as flat {"params/conv/kernel": array}: the form in which checkpoints name their leaves.

Checkpoints hold flat dicts, so that a file never depends on the classes of an optax or orbax release.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

Path = list[str | int]


def flatten(tree: Any) -> list[tuple[Path, Any]]:
    """Returns [(path, leaf)] in jax's order.

    Example:
        >>> flatten({"blocks": {0: {"bias": 1.5}}})
        [(['blocks', 0, 'bias'], 1.5)]
    """
    return [([_key(k) for k in keys], leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def name(path: Path) -> str:
    """Returns the path as text, e.g. "params/blocks/0/bias"."""
    return "/".join(str(key) for key in path)


def nest(leaves: list[tuple[Path, Any]]) -> dict[Any, Any]:
    """Returns nested dicts: the inverse of `flatten` for trees of dicts.

    Example:
        >>> nest([(["blocks", 0, "bias"], 1.5)])
        {'blocks': {0: {'bias': 1.5}}}
    """
    tree: dict[Any, Any] = {}
    for path, leaf in leaves:
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def describe(leaf: Any) -> str:
    """Returns dtype and shape of an array or ShapeDtypeStruct.

    Example:
        >>> describe(np.zeros((3, 64), np.float32))
        'f32[3,64]'
    """
    dtype = np.dtype(leaf.dtype).name
    for long, short in (("float", "f"), ("uint", "u"), ("int", "i")):
        dtype = dtype.replace(long, short)
    return f"{dtype}[{','.join(map(str, leaf.shape))}]"


def misfits(on_disk: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Returns one text for each leaf that differs between two {name: description}, weights first.

    Example:
        >>> misfits({"a": "f32[3]", "b": "i32[]"}, {"a": "f32[4]", "b": "i32[]"})
        ['a is f32[3] on disk, f32[4] expected']
    """
    absent = "absent"
    return [
        f"{name} is {on_disk.get(name, absent)} on disk, {expected.get(name, absent)} expected"
        for name in sorted(on_disk.keys() | expected.keys(), key=lambda n: (not n.startswith("params/"), n))
        if on_disk.get(name) != expected.get(name)
    ]


def _key(entry: Any) -> str | int:
    tree_util = jax.tree_util
    if isinstance(entry, tree_util.SequenceKey):
        return entry.idx
    return entry.name if isinstance(entry, tree_util.GetAttrKey) else entry.key
