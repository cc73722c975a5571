"""What a report is made from: plain data, gathered by the report stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]
"""One flat line of results: `{"fid": 4.2, "seed": 0, ...}`.

A line of work that was planned and not done carries one key more, `not_run`, the reason as text; its
metrics are then None.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class SampleGrid:
    """A few real and generated images of each class at one resolution."""

    resolution: int
    class_names: list[str]
    real: np.ndarray  # u8[K,n,H,W,C]
    generated: np.ndarray  # u8[K,m,H,W,C]


@dataclasses.dataclass(frozen=True, eq=False)
class PerClass:
    """Validation accuracy of one trained classifier, class by class."""

    model: str
    mix: str  # real, generated, real+generated
    copies: int
    shots: int  # real images per class; 0 = all
    seed: int
    accuracy: np.ndarray  # f64[K], fractions; NaN for a class without validation images


@dataclasses.dataclass(frozen=True)
class StageTime:
    """Where the time of one stage went."""

    stage: str
    parts: int
    attempts: int  # of all parts together; more than `parts` if some were restarted
    wall_seconds: float  # first start to last end
    busy_seconds: float  # of all parts together
    goodput: float | None  # share of busy time spent on work that was kept
    buckets: dict[str, float]  # seconds of all parts together, by kind of work


@dataclasses.dataclass(frozen=True)
class Choice:
    """The settings that one phase of the sweep chose."""

    phase: str
    model: str
    rule: str  # e.g. "lowest fid"
    settings: dict[str, float | int | str]
    fid: float | None = None
    inception_score: float | None = None
    cas: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """Everything a report shows. `results` is what results.json holds."""

    name: str
    title: str
    description: str
    results: dict[str, Any]
    samples: list[SampleGrid]
    per_class: list[PerClass]
    stages: list[StageTime]
    choices: list[Choice]
    class_names: list[str]
    notes: list[str]
    settings_text: str  # the resolved experiment, one `key: value` per line
    command: str

    def rows(self, kind: str) -> list[Row]:
        """Returns the lines of one kind ("sweep", "score", "classify") that were run."""
        return [row for row in self.results[kind] if "not_run" not in row]

    def why_not(self, kind: str, mix: str, otherwise: str) -> str:
        """Returns the reasons of the lines that were not run, or `otherwise` if none was even planned.

        Args:
            kind: sweep, score or classify.
            mix: only lines of this training set count; empty for any.
            otherwise: the reason if there is no such line.
        """
        lost = [row for row in self.results[kind] if "not_run" in row and (not mix or row["mix"] == mix)]
        return "; ".join(dict.fromkeys(str(row["not_run"]) for row in lost)) or otherwise
