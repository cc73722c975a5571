"""The books of a run: what each attempt at a part did, and how much of its time was kept."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from synthaug.launch.plan import Stage
from synthaug.rundir import RunDir

EVENT_KEYS = {"attempt", "event", "time", "done", "buckets"}

# Time that moves a result forward; the rest (compile, restore, save, waiting) is overhead.
PRODUCTIVE = ("step", "data", "evaluate")


@dataclasses.dataclass(frozen=True)
class Times:
    """Where the time of one stage went."""

    attempts: int
    wall_seconds: float
    busy_seconds: float
    goodput: float | None
    buckets: dict[str, float]


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of a JSON-lines file, leaving out lines torn by a kill."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def read_metrics(path: pathlib.Path) -> dict[int, dict[str, Any]]:
    """Returns {step: metrics}; of a replayed step the last attempt's lines count."""
    steps: dict[int, dict[str, Any]] = {}
    for record in read_lines(path):
        if "step" in record:
            before = steps.get(record["step"], {})
            same = before.get("attempt") == record["attempt"]
            steps[record["step"]] = {**before, **record} if same else record
    return steps


def stage_times(run: RunDir, stage: Stage) -> Times:
    """Returns the times of all attempts at all parts of a stage."""
    spans: list[tuple[float, float]] = []
    kept, busy, buckets = 0.0, 0.0, dict[str, float]()
    for part in range(len(stage.parts)):
        attempts = _by_attempt(read_lines(run.part_dir(stage.name, part) / "attempts.jsonl"))
        for i, events in enumerate(attempts):
            spans.append((events[0]["time"], events[-1]["time"]))
            last = events[-1]["buckets"]
            busy += sum(last.values())
            for name, seconds in last.items():
                buckets[name] = buckets.get(name, 0.0) + seconds
            productive = sum(last.get(name, 0.0) for name in PRODUCTIVE)
            kept += productive * _kept_share(events, attempts[i + 1] if i + 1 < len(attempts) else None)
    wall = max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0.0
    return Times(len(spans), wall, busy, kept / busy if busy > 0 else None, buckets)


def _by_attempt(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    attempts: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        if not event.keys() >= EVENT_KEYS:
            continue  # not ours
        attempts.setdefault(event["attempt"], []).append(event)
    return list(attempts.values())


def _kept_share(events: list[dict[str, Any]], following: list[dict[str, Any]] | None) -> float:
    """Returns which share of an attempt's progress the next one did not have to do again."""
    if following is None:
        return 1.0
    start = next((e["done"] for e in events if e["event"] == "resume"), 0)
    made = events[-1]["done"] - start
    restarted_at = next((e["done"] for e in following if e["event"] == "resume"), following[-1]["done"])
    return min(1.0, max(0.0, (restarted_at - start) / made)) if made > 0 else 0.0
