"""What a stage is given: its inputs by name, its folder, and the places to report to."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import time
from collections.abc import Callable
from typing import Any

from synthaug.attempts import read_lines
from synthaug.errors import Interrupted, RunError
from synthaug.experiment import Experiment
from synthaug.rundir import RunDir
from synthaug.site import Site
from synthaug.train.clock import Clock
from synthaug.train.preemption import StopFlag

# Heartbeats bound what a killed attempt can hide from the goodput figures.
BEAT_SECONDS = 2.0

Send = Callable[[dict[str, Any]], None]


class Job:
    """One attempt at one part of one stage."""

    def __init__(
        self,
        run: RunDir,
        experiment: Experiment,
        site: Site,
        stage: str,
        part: int,
        args: dict[str, Any],
        *,
        stop: StopFlag,
        send: Send,
    ):
        self.run, self.experiment, self.site = run, experiment, site
        self.stage, self.part, self.args = stage, part, args
        self.stop, self.clock = stop, Clock()
        self.directory = run.part_dir(stage, part)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._send = send
        self._done, self._total = 0, 0
        self._log = _open_lines(self.directory / "log.txt")
        self._attempts = _open_lines(self.directory / "attempts.jsonl")
        self._metrics = _open_lines(self.directory / "metrics.jsonl")
        self.attempt = 1 + sum(e["event"] == "start" for e in read_lines(self.directory / "attempts.jsonl"))
        self._last_beat = self._last_line = time.monotonic()
        self._event("start", host=socket.gethostname(), pid=os.getpid())

    # -------------------------------------------------------------------------- inputs

    def result(self, stage: str, part: int = 0) -> dict[str, Any]:
        """Returns what a finished part of an earlier stage wrote."""
        return self.run.result(stage, part)

    def check_stop(self) -> None:
        """Raises Interrupted if a signal asked this process to stop; call it where everything is saved."""
        if name := self.stop.requested():
            raise Interrupted(
                f"{self.stage} {self.part}: stopped by {name}, all finished work is saved; "
                "run the same command again to go on."
            )

    # ------------------------------------------------------------------------- reports

    def note(self, text: str) -> None:
        """Writes a line to the part's log."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def say(self, text: str) -> None:
        """Writes a line to the part's log and to whoever watches."""
        self.note(text)
        self._send({"kind": "say", "text": f"{self.stage} {self.part}: {text}"})

    def resumed(self, done: int) -> None:
        """Notes where this attempt starts, so that replayed work can be told from progress."""
        self._done = done
        self._event("resume")

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Notes progress: to the watcher at once, to disk every few seconds."""
        self._done, self._total = done, total
        self._send({"kind": "progress", "done": done, "total": total, "unit": unit})
        now = time.monotonic()
        if now - self._last_beat > BEAT_SECONDS:
            self._last_beat = now
            self._event("beat")
        if now - self._last_line > self.site.log_interval:
            self._last_line = now
            self.note(f"{done} of {total} {unit}")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line of metrics.jsonl."""
        self._metrics.write(json.dumps({"step": step, "attempt": self.attempt, **metrics}) + "\n")

    def end(self, event: str) -> dict[str, Any]:
        """Closes the books of this attempt and returns its times."""
        record = self._event(event)
        for file in (self._log, self._attempts, self._metrics):
            file.close()
        return record

    def _event(self, event: str, **more: Any) -> dict[str, Any]:
        record = {"attempt": self.attempt, "event": event, "time": round(time.time(), 3), "done": self._done}
        record |= {"total": self._total, "buckets": {k: round(v, 3) for k, v in self.clock.buckets().items()}}
        record |= more
        self._attempts.write(json.dumps(record) + "\n")
        return record


def _open_lines(path: pathlib.Path) -> Any:
    """Opens a line file for appending; a line torn by a kill is closed first."""
    try:
        torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (lives as long as the job)
        if torn:
            file.write("\n")
        return file
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); free or unlock the disk.") from None
