"""Post-hoc EMA: a few averages stored during training, any other length put together afterwards.

    finetune-0/ema/<step>.safetensors   every profile at that step, in f16, as "<length>/<name of the weight>"

An average with the profile p(tau; t) ~ tau^gamma on [0, t] is as long at every step, measured by the training
so far, so its length is one number: sigma_rel, the standard deviation of the profile divided by t. A sum of
such profiles can match another one. Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
Diffusion Models" (EDM2), section 3 and appendix C. Needs no jax; with train/ema.py it is all of it.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from synthaug import commit
from synthaug.errors import CheckpointError, ConfigError, TrainingError

LONGEST = 1 / math.sqrt(12)  # sigma_rel of gamma = 0, the plain mean of all weights so far
MAX_MISMATCH = 0.15  # relative L2 distance of two profiles that still counts as the one asked for
ROUNDING = 2.0**-11  # relative, of a weight in f16; large coefficients would make it visible

Shard = tuple[int, str]
"""One stored average: (step, length as text)."""


# -------------------------------------------------------------------------------------------- profiles


def gamma_of(length: float) -> float:
    """Returns the exponent of the profile whose relative standard deviation is `length` (EDM2, appendix C).

    Raises:
        ConfigError: no power function has this length.

    Example:
        >>> round(gamma_of(0.1), 3), round(gamma_of(0.05), 3)
        (6.937, 16.972)
    """
    if not 0 < length < LONGEST:
        raise ConfigError(f"ema_length = {length:g}; expected more than 0 and less than {LONGEST:.3f}.")
    inverse = length**-2.0
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9 * max(1.0, abs(root.real))))


def length_of(gamma: float) -> float:
    """Returns sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))), the inverse of `gamma_of`."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def profiles(lengths: Iterable[float]) -> dict[str, float]:
    """Returns {length as text: gamma}: the names of the averages in a training state and in a snapshot."""
    return {f"{length:g}": gamma_of(length) for length in lengths}


def products(t: np.ndarray, gamma: np.ndarray, s: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """The inner products f64[M,N] of the profiles (t, gamma) f64[M] with (s, delta) f64[N].

    Each profile is (gamma + 1) tau^gamma / t^(gamma+1) on [0, t]; their product is integrated up to the
    earlier end (EDM2, appendix C, written so that no large power appears).
    """
    t, gamma, s, delta = t[:, None], gamma[:, None], s[None], delta[None]
    ratio = np.minimum(t / s, s / t)
    later = np.where(t < s, delta, gamma)  # the exponent of the profile that goes on longer
    return (gamma + 1) * (delta + 1) / (gamma + delta + 1) * ratio**later / np.maximum(t, s)


def coefficients(t: np.ndarray, gamma: np.ndarray, at: float, wanted: float) -> tuple[np.ndarray, float]:
    """The best sum of stored averages in place of the average with exponent `wanted` at step `at`.

    It has the least squared distance between the profiles plus what rounding to f16 adds. The coefficients
    sum to 1, which EDM2 does not ask for: weights that do not change keep their value.

    Args:
        t: f64[N], steps of the stored averages, none after `at`.
        gamma: f64[N], their exponents.
        at: step of the average in question.
        wanted: its exponent.

    Returns:
        f64[N] coefficients, and the relative L2 distance of their profile from the one in question.
    """
    same = np.flatnonzero((t == at) & np.isclose(gamma, wanted, rtol=1e-6))
    if len(same):
        return np.eye(len(t))[same[0]], 0.0
    t, one, target = t / at, np.ones(1), np.full(1, wanted)
    norm = products(one, target, one, target)[0, 0]
    gram = products(t, gamma, t, gamma) / norm
    rhs = products(t, gamma, one, target)[:, 0] / norm
    size = len(t)
    system = np.ones((size + 1, size + 1))
    system[:size, :size] = gram + ROUNDING**2 * np.eye(size)
    system[size, size] = 0.0
    x = np.linalg.solve(system, np.append(rhs, 1.0))[:size]
    return x, math.sqrt(max(0.0, 1.0 - 2.0 * x @ rhs + x @ gram @ x))


def reachable(t: np.ndarray, gamma: np.ndarray, at: float) -> tuple[float, float]:
    """Returns the shortest and the longest length around the stored ones that `coefficients` can match."""
    grid = np.geomspace(0.005, 0.28, 200)
    fine = np.array([coefficients(t, gamma, at, gamma_of(s))[1] <= MAX_MISMATCH for s in grid])
    stored = int(np.argmin(np.abs(np.log(grid / length_of(gamma[int(np.argmax(t))])))))
    low = high = stored
    while low > 0 and fine[low - 1]:
        low -= 1
    while high < len(grid) - 1 and fine[high + 1]:
        high += 1
    return float(grid[low]), float(grid[high])


# ----------------------------------------------------------------------------------------------- files


def write_snapshot(directory: pathlib.Path, step: int, averages: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the averages of one step, rounded to f16; equal averages give equal bytes.

    An attempt that repeats a step replaces the file, so that the snapshots are those of the attempt whose
    checkpoints are there.

    Args:
        directory: folder of the snapshots; made if it is not there.
        step: completed updates.
        averages: {length as text: nested dict of arrays}, as in the training state.

    Raises:
        TrainingError: a weight does not fit into f16.
        RunError: it cannot be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for length, tree in averages.items():
        for name, leaf in _flat(tree, length):
            with np.errstate(over="ignore"):
                tensors[name] = np.ascontiguousarray(np.asarray(leaf).astype(np.float16))
            if not np.isfinite(tensors[name]).all():
                raise TrainingError(
                    f"{directory}: step {step}: {name} exceeds 65504, the largest number of f16; train "
                    "without finetune.ema_profiles."
                )
    sums = {name: zlib.crc32(tensor.data) for name, tensor in tensors.items()}
    record = {"step": step, "lengths": list(averages), "crc32": sums}
    path = directory / f"{step}.safetensors"
    temporary = commit.temporary(path)
    try:
        # one entry: safetensors writes several in any order, and equal averages shall give equal bytes
        save_file(tensors, temporary, {"snapshot": json.dumps(record, sort_keys=True)})
        os.chmod(temporary, 0o644)  # safetensors lets nobody else read what it writes
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise commit.write_error(path, error) from None
    commit.adopt(temporary, path)


def steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps that have a snapshot, in ascending order."""
    if not directory.is_dir():
        return []
    return sorted(int(file.stem) for file in directory.glob("*.safetensors") if file.stem.isdecimal())


def reconstruct(directory: pathlib.Path, step: int, ema_length: float) -> dict[str, Any]:
    """Returns the average of length `ema_length` at a step, nested f32 arrays named as the weights are.

    One weight is in memory at a time beside the result, whatever the number of snapshots.

    Args:
        directory: the folder of the snapshots, <part>/ema.
        step: one that has a snapshot.
        ema_length: sigma_rel.

    Raises:
        CheckpointError: no snapshots, none of this step, or one that was altered.
        ConfigError: a length that the snapshots cannot give.
    """
    there = steps(directory)
    if not there:
        raise CheckpointError(
            f"{directory}: no snapshots of averages; train with finetune.ema_profiles, e.g. [0.05, 0.1]."
        )
    if step not in there:
        raise CheckpointError(
            f"{directory}: no snapshot of step {step}; expected one of {', '.join(map(str, there))}."
        )
    files = {s: _Snapshot(directory / f"{s}.safetensors", s) for s in there if s <= step}
    stored: list[Shard] = [(s, length) for s, file in files.items() for length in file.lengths]
    t = np.array([s for s, _ in stored], np.float64)
    gamma = np.array([gamma_of(float(length)) for _, length in stored])
    x, mismatch = coefficients(t, gamma, step, gamma_of(ema_length))
    if mismatch > MAX_MISMATCH:
        low, high = reachable(t, gamma, step)
        raise ConfigError(
            f"ema_length = {ema_length:g}: the {len(stored)} averages in {directory} up to step {step} give "
            f"lengths from {low:.3f} to {high:.3f}; use one of these, or train with other "
            "finetune.ema_profiles or a smaller ema_every."
        )
    used = [(share, files[s], length) for share, (s, length) in zip(x, stored, strict=True) if share]
    tree: dict[str, Any] = {}
    for name in files[step].names:
        total = sum(share * file.read(f"{length}/{name}").astype(np.float64) for share, file, length in used)
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = np.asarray(total, np.float32)
    return tree


class _Snapshot:
    """One file of averages, read weight by weight and compared with its checksums."""

    def __init__(self, path: pathlib.Path, step: int) -> None:
        self._path = path
        try:
            self._file = safe_open(path, framework="numpy")
            record = json.loads(self._file.metadata()["snapshot"])
            self.lengths, self._sums = list(record["lengths"]), dict(record["crc32"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            raise self._altered("it is no snapshot of averages") from None
        if record["step"] != step:
            raise self._altered(f"it holds step {record['step']}")
        first = f"{self.lengths[0]}/"
        self.names = [name.removeprefix(first) for name in sorted(self._sums) if name.startswith(first)]

    def read(self, name: str) -> np.ndarray:
        """Returns one weight, f16."""
        try:
            tensor: np.ndarray = self._file.get_tensor(name)
        except SafetensorError:
            raise self._altered(f"{name} is missing") from None
        if zlib.crc32(np.ascontiguousarray(tensor).data) != self._sums.get(name):
            raise self._altered(f"{name} does not agree with its checksum")
        return tensor

    def _altered(self, found: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: was altered: {found}; restore the file, or train again.")


def _flat(tree: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}/{key}")
        else:
            yield f"{name}/{key}", value
