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

Results = Mapping[str, Any]
"""What results.json holds. Tables and figures are drawn from it alone, images apart.

name, command   of the run
versions        software -> version
licences        of the generated images: {name, terms, url}
data            {num_classes, num_train, num_val, ...}: what scan, prepare and collect found
class_names     by class index
sets            the generated sets: {name (in classify rows), set (in score rows), resolution, source (own:
                made by this run; else the format it was read from), licence}
sweep, score, classify   rows
further_scores  rows as in score, by other encoders: their numbers are on other scales
filter          what the select stage found, or None
per_class       {model, mix, set, copies, subset, seed, accuracy: by class index, None without images}
"""


MOST_REASONS = 3
"""As many as one sentence bears; the last section has a line for each row that was not run."""


@dataclasses.dataclass(frozen=True, eq=False)
class SampleGrid:
    """A few images of each class at one resolution, by kind: generated first, real last."""

    resolution: int
    class_names: list[str]
    kinds: dict[str, np.ndarray]  # u8[K,n,H,W,C]


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
    """Everything a report shows."""

    title: str
    description: str
    results: dict[str, Any]
    samples: list[SampleGrid]
    stages: list[StageTime]
    choices: list[Choice]
    notes: list[str]
    settings_text: str  # the resolved experiment, one `key: value` per line

    @property
    def name(self) -> str:
        """The run."""
        return str(self.results["name"])

    @property
    def class_names(self) -> list[str]:
        """Names by class index."""
        return list(self.results["class_names"])

    def rows(self, kind: str) -> list[Row]:
        """Returns the lines of one kind ("sweep", "score", "classify") that were run."""
        return run_rows(self.results, kind)

    def why_not(self, kind: str, mix: str, otherwise: str) -> str:
        """Returns the reasons of the lines that were not run, or `otherwise` if none was even planned.

        Args:
            kind: sweep, score or classify.
            mix: only lines of this training set count; empty for any.
            otherwise: the reason if there is no such line.
        """
        lost = [row for row in self.results[kind] if "not_run" in row and (not mix or row["mix"] == mix)]
        reasons = list(dict.fromkeys(str(row["not_run"]) for row in lost))
        more = [f"and {len(reasons) - MOST_REASONS} more reasons"] if len(reasons) > MOST_REASONS else []
        return "; ".join([*reasons[:MOST_REASONS], *more]) or otherwise


def run_rows(results: Results, kind: str) -> list[Row]:
    """Returns the lines of one kind ("sweep", "score", "classify") that were run."""
    return [row for row in results[kind] if "not_run" not in row]
