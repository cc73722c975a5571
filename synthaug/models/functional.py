"""Turns flax modules into pure functions over nested dicts; the only file that splits and merges modules."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from synthaug import rng

Weights = dict[str, Any]
"""{"params": nested dict of arrays, "stats": nested dict of batch statistics, {} if the model has none}."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A network as pure functions of its weights; they may stand inside jit, grad, vmap and scan.

    Attributes:
        init: `init(key) -> Weights`. Without jit it is fast; large models jit it with out_shardings.
        apply: `apply(weights, *args, train=False, key=None, method="__call__") -> output`. `key` feeds
            dropout. It refuses `train=True` for a model with batch statistics, because their update would be
            lost. Another method of the module than its call is given neither `train` nor `key`.
        apply_train: `apply_train(weights, *args, key=None) -> (output, stats)` in training mode; `stats`
            replace `weights["stats"]`. It serves every model: without batch statistics they are {}.
        prepare: `prepare(weights) -> weights` for `apply`, in the form that is fastest where the network is
            evaluated many times with the same weights, e.g. by a sampler; on accelerators the same weights.
    """

    init: Callable[[jax.Array], Weights]
    apply: Callable[..., Any]
    apply_train: Callable[..., tuple[Any, dict[str, Any]]]
    prepare: Callable[[Weights], Weights]


def functional(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """Returns the pure functions of the module that `make` builds.

    Args:
        make: builds the module from the random numbers of its initialisers. The module's call takes
            `train: bool` and `key: jax.Array | None` by name and keeps no random state of its own.

    Returns:
        The model; nothing is allocated before its `init` is called.
    """
    # The structure must be known before any weights are, e.g. when they come from a checkpoint.
    structure, _, _ = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(rng.root(0)))), nnx.Param, nnx.BatchStat)

    def init(key: jax.Array) -> Weights:
        _, params, stats = nnx.split(make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        return {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}

    def apply(
        weights: Weights,
        *args: Any,
        train: bool = False,
        key: jax.Array | None = None,
        method: str = "__call__",
    ) -> Any:
        if train and weights["stats"]:
            raise ValueError("Model.apply: train = True would lose the batch statistics; use apply_train.")
        module = nnx.merge(structure, weights["params"], weights["stats"])
        if method != "__call__":
            return getattr(module, method)(*args)
        return module(*args, train=train, key=key)

    def apply_train(weights: Weights, *args: Any, key: jax.Array | None = None) -> tuple[Any, dict[str, Any]]:
        # Merging plain arrays makes new variables at the present trace level, so that batch statistics may
        # change under grad; merged nnx states would raise TraceContextError there.
        module = nnx.merge(structure, weights["params"], weights["stats"])
        output = module(*args, train=True, key=key)
        return output, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def prepare(weights: Weights) -> Weights:
        if jax.default_backend() != "cpu":
            return weights
        module = nnx.merge(structure, weights["params"], weights["stats"])
        for _, part in nnx.iter_modules(module):
            if hasattr(part, "prepare"):
                part.prepare()
        return {**weights, "params": nnx.to_pure_dict(nnx.state(module, nnx.Param))}

    return Model(init, apply, apply_train, prepare)


def abstract(model: Model) -> Weights:
    """Returns the weights' shapes and dtypes as ShapeDtypeStruct leaves, allocating nothing."""
    return jax.eval_shape(model.init, rng.root(0))


def count_parameters(tree: Any) -> int:
    """Returns the number of elements in a tree of arrays or their shapes, e.g. of `weights["params"]`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def hash_weights(tree: Any) -> str:
    """Returns the SHA-256 of a nested dict of arrays, over each leaf's path, dtype, shape and bytes.

    Example:
        >>> hash_weights({"a": np.zeros(2)}) == hash_weights({"a": np.zeros((2, 1))})
        False
    """
    digest = hashlib.sha256()
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for path in sorted(leaves):
        array = np.ascontiguousarray(leaves[path])
        digest.update(f"{path} {array.dtype} {leaves[path].shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
