"""Devices: the one place that starts jax, makes the mesh and places batches on it."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import pathlib
import platform
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from synthaug.errors import ConfigError
from synthaug.site import Site

SHARD_FROM = 2**20
"""Elements from which an array is cut over the devices; of smaller ones each device has a copy."""

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def start(site: Site, cache: pathlib.Path | None) -> None:
    """Starts jax for this process: devices, and the compilation cache inside a folder, if there is one."""
    if "cpu" in os.environ.get("JAX_PLATFORMS", "cpu"):
        jax.config.update("jax_num_cpu_devices", site.devices)
    if cache:
        # Restarted runs compile nothing again; a local directory, because URL caches disable the autotuner's.
        jax.config.update("jax_compilation_cache_dir", str(cache / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    found = jax.local_device_count()
    if found < site.devices:
        raise ConfigError(f"site.devices = {site.devices}, but this process sees {found}; lower it.")


@functools.cache
def mesh() -> Mesh:
    """Returns the mesh over this process's devices with one axis, "data"."""
    # Auto, not Explicit: sharded convolutions have no explicit sharding rule yet.
    return jax.make_mesh((jax.local_device_count(),), ("data",), axis_types=(AxisType.Auto,))


def place(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns the batch with every numpy array split over the mesh along its first axis."""
    return {k: jax.device_put(v, split()) if isinstance(v, np.ndarray) else v for k, v in batch.items()}


def split() -> NamedSharding:
    """Returns how a batch lies on the mesh: cut along its first axis."""
    return NamedSharding(mesh(), PartitionSpec("data"))


def replicate(tree: Any) -> Any:
    """Returns the tree with every array on all devices of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def spread(tree: Any, shard_from: int = SHARD_FROM) -> Any:
    """Returns the tree on the devices of the mesh: large arrays cut, small ones on every device.

    With the batch cut along the same axis this is fully sharded data parallelism (ZeRO stage 3): a device
    holds its share of the weights and of what the optimiser keeps, and sees the rest layer by layer.

    Args:
        tree: of arrays.
        shard_from: elements from which an array is cut.
    """
    return jax.device_put(tree, shardings(tree, shard_from))


def shardings(tree: Any, shard_from: int = SHARD_FROM) -> Any:
    """Returns where each leaf of a tree of arrays or ShapeDtypeStructs goes, see `spread`.

    A large array is cut along its longest axis that divides over the devices, the last of equals.
    """
    devices = mesh().devices.size

    def place_leaf(leaf: Any) -> NamedSharding:
        axes = [i for i, size in enumerate(leaf.shape) if size % devices == 0]
        if math.prod(leaf.shape) < shard_from or not axes:
            return NamedSharding(mesh(), PartitionSpec())
        longest = max(axes, key=lambda i: (leaf.shape[i], i))
        return NamedSharding(mesh(), PartitionSpec(*(None,) * longest, "data"))

    return jax.tree.map(place_leaf, tree)


@functools.cache
def versions() -> dict[str, str]:
    """Returns what a result depends on besides its experiment: library versions and the kind of device."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "synthaug": importlib.metadata.version("synthaug"),
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        **found,
    }
