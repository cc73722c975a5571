"""Runs the tiny study as a person would, through the command line, for the tests that need a whole run."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import types
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
TINY = ROOT / "tests" / "tiny.yaml"

# Workers must not inherit what conftest sets for the tests' own process.
ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "JAX_PLATFORMS": "cpu"}


def command(runs: pathlib.Path, *more: str) -> list[str]:
    """Returns the command line of `synthaug run tests/tiny.yaml`."""
    return [sys.executable, "-m", "synthaug", "run", str(TINY), "--runs", str(runs), *more]


def synthaug(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and returns what it printed."""
    line = [sys.executable, "-m", "synthaug", *words]
    return subprocess.run(
        line, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=timeout, check=False
    )


def start(runs: pathlib.Path, *more: str) -> subprocess.Popen[str]:
    """Starts the study in its own session."""
    return subprocess.Popen(
        command(runs, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[str], number: int) -> int:
    """Sends a signal and returns the exit code."""
    os.kill(process.pid, number)
    process.communicate(timeout=120)
    return process.returncode


def kill(process: subprocess.Popen[str]) -> None:
    """Kills the command with SIGKILL; its workers follow by themselves."""
    stop(process, signal.SIGKILL)


def outcome(run: pathlib.Path) -> dict[str, Any]:
    """Returns what two equal studies must agree on: results, image hashes, weights and every logged loss."""
    from synthaug.attempts import read_metrics

    done = {p.parent.name: json.loads(p.read_text())["result"] for p in sorted(run.glob("*/done.json"))}
    markers = sorted(run.glob("sets/*/*/shard-*.json")) + sorted(run.glob("*/images/shard-*.json"))
    facts = ("index", "first", "count", "sha256", "images_sha256", "settings", "weights")
    shards = {}
    for marker in markers:
        record = json.loads(marker.read_text())
        shards[str(marker.relative_to(run))] = {fact: record[fact] for fact in facts}
    losses = {}
    for file in sorted(run.glob("*/metrics.jsonl")):
        steps = read_metrics(file)
        losses[file.parent.name] = {
            s: {k: v for k, v in m.items() if k != "attempt"} for s, m in steps.items()
        }
    results = json.loads((run / "report" / "results.json").read_text())
    return {"results": results, "done": done, "shards": shards, "losses": losses}


def problem(*overrides: str) -> str:
    """Returns the error of the tiny study with overrides, or nothing."""
    from synthaug import experiment
    from synthaug.errors import ConfigError

    try:
        experiment.load(TINY, overrides)
    except ConfigError as error:
        return str(error)
    return ""


class StubJob:
    """What the stages before any network need of a job."""

    def __init__(self, path: pathlib.Path, settings: Any):
        from synthaug.rundir import RunDir

        self.run, self.experiment = RunDir(path), settings
        self.clock = types.SimpleNamespace(measure=lambda _: contextlib.nullcontext())
        self.attempt, self.args, self.say = 1, {}, print

    def result(self, stage: str) -> Any:
        return self.run.result(stage)

    def check_stop(self) -> None: ...
    def progress(self, *_: Any) -> None: ...
