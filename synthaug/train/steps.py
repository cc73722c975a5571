"""The folders of a run's checkpoints, one for each step: which count, which are moved aside, which stay.

    checkpoints/<step>/digest.json   written last: step, identity, about, metrics, leaves, hashes of all files
    checkpoints/rejected/<step>      torn or altered checkpoints, moved aside and never loaded

Knows no jax.
"""

from __future__ import annotations

import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from synthaug.errors import CheckpointError
from synthaug.experiment import Saving
from synthaug.train import digest

REJECTED = "rejected"
DELETING = ".deleting-"


class Steps:
    """The step folders of one training run. Arguments as for `checkpoint.Checkpoints`."""

    def __init__(
        self,
        directory: pathlib.Path,
        saving: Saving,
        identity: dict[str, str],
        warn: Callable[[str], None],
        about: dict[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self._saving, self._identity, self._warn, self._about = saving, identity, warn, about
        self._checked: set[int] = set()  # steps whose files this process has hashed

    def folder(self, step: int) -> pathlib.Path:
        """Returns the folder of a step."""
        return self.directory / str(step)

    def latest(self) -> int | None:
        """Returns the newest whole step, or None; moves torn and altered ones aside.

        Raises:
            CheckpointError: the directory holds checkpoints of something else; nothing is moved then.
        """
        self._empty_bin()
        candidates, problems = [], {}
        for step in listed(self.directory):
            try:
                self._read(step)
                candidates.append(step)
            except digest.Unusable as problem:
                problems[step] = problem
        for step, torn in problems.items():
            self._reject(step, torn)
        for step in reversed(candidates):
            try:
                self.whole(step)
                self.retain()  # a kill may have come between the last digest and this
                return step
            except digest.Unusable as problem:
                self._reject(step, problem)
        return None

    def whole(self, step: int) -> dict[str, Any]:
        """Returns the record of a step after comparing its files with it, once per process.

        Raises:
            digest.Unusable: the step is missing, torn or altered.
            CheckpointError: it belongs to something else.
        """
        record = self._read(step)
        if step not in self._checked:
            digest.check(self.folder(step), record)
            self._checked.add(step)
        return record

    def commit(self, step: int, metrics: dict[str, float], leaves: list[Any]) -> None:
        """Writes the digest of a finished step: from here on it counts."""
        record = {"step": step, "identity": self._identity, "metrics": metrics, "leaves": leaves}
        if self._about is not None:
            record["about"] = self._about
        digest.write(self.folder(step), record)
        self._checked.add(step)

    def retain(self) -> None:
        """Deletes the steps that need not stay, by a rename first: half a step never counts."""
        metrics = {}
        for step in listed(self.directory):
            try:
                metrics[step] = self._read(step)["metrics"]
            except digest.Unusable:
                continue  # left for `latest` to name
        for step in metrics.keys() - kept(self._saving, metrics):
            self.folder(step).rename(self.directory / f"{DELETING}{step}")
        self._empty_bin()

    def _read(self, step: int) -> dict[str, Any]:
        folder = self.folder(step)
        record = digest.read(folder)
        if record["step"] != step:
            raise digest.Unusable(f"{folder}: holds step {record['step']}: the folder was renamed")
        was, now = record["identity"], self._identity
        differing = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
        if differing:
            keys = " and another ".join(differing)
            hashes = (f"{k} {_short(was.get(k))} on disk, {_short(now.get(k))} now" for k in differing)
            raise CheckpointError(
                f"{folder}: belongs to another {keys} ({'; '.join(hashes)}); choose another run name, "
                f"or delete {self.directory}."
            )
        return record

    def _reject(self, step: int, problem: digest.Unusable) -> None:
        aside = self.directory / REJECTED
        aside.mkdir(exist_ok=True)
        # One torn checkpoint is evidence, one for every preemption fills the disk.
        for old in aside.iterdir():
            if not (old / digest.FILE).exists():
                shutil.rmtree(old, ignore_errors=True)
        target, copies = aside / str(step), 1
        while target.exists():
            copies += 1
            target = aside / f"{step}-{copies}"
        self.folder(step).rename(target)
        self._warn(f"{problem}; moved to {target}, the checkpoint before it is used.")

    def _empty_bin(self) -> None:
        for folder in self.directory.glob(f"{DELETING}*"):
            shutil.rmtree(folder, ignore_errors=True)  # what stays is tried again at the next save


def listed(directory: pathlib.Path) -> list[int]:
    """Returns the steps that have a folder, whole or not, in ascending order."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def kept(saving: Saving, metrics: dict[int, dict[str, float]]) -> set[int]:
    """Returns the steps that stay: the newest, those with the lowest metric "best", and `keep_steps`.

    Args:
        saving: how many of each.
        metrics: those of every whole checkpoint, by step.

    Example:
        >>> saving = Saving(keep_latest=1, keep_best=1, keep_steps=(10,))
        >>> sorted(kept(saving, {10: {}, 20: {"best": 0.1}, 30: {"best": 0.5}, 40: {}}))
        [10, 20, 40]
    """
    scores = {step: m["best"] for step, m in metrics.items() if "best" in m and math.isfinite(m["best"])}
    best = sorted(scores, key=lambda step: (scores[step], -step))[: saving.keep_best]
    newest = sorted(metrics)[-saving.keep_latest :]
    return {*newest, *best, *(step for step in saving.keep_steps if step in metrics)}


def _short(value: str | None) -> str:
    return "nothing" if value is None else value[:12]
