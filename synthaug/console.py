"""What a person sees while a study runs: bars on a terminal, a line every 30 s anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


class Watch:
    """Progress of a whole run. Colour is off with NO_COLOR, bars are off without a terminal."""

    def __init__(
        self, total: int, finished: int, *, quiet: bool, interval: float, stream: TextIO | None = None
    ):
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._quiet, self._interval = quiet, interval
        self._total, self._finished = total, finished
        self._started = self._last_line = time.monotonic()
        self._running: dict[str, dict[str, Any]] = {}
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if self._console.is_terminal and not quiet:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
            self._all = self._bars.add_task("all jobs", total=total, completed=finished, rate="")

    def say(self, text: str) -> None:
        """Prints one line above the bars."""
        if not self._quiet:
            self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        """Notes that a part started."""
        self._running[name] = {"done": 0, "total": 0, "unit": "", "since": time.monotonic(), "first": None}
        if self._bars:
            self._tasks[name] = self._bars.add_task(name, total=None, rate="")

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """Shows how far a running part is."""
        state = self._running[name]
        now = time.monotonic()
        if state["first"] is None or state["unit"] != unit:  # a job may do one thing after another
            state["first"] = (now, done)
        since, base = state["first"]
        rate = (done - base) / (now - since) if now > since else 0.0
        state |= {"done": done, "total": total, "unit": unit, "rate": rate}
        if self._bars:
            words = f"{rate:.1f} {unit}/s, {(total - done) / rate:.0f} s left" if rate else unit
            self._bars.update(self._tasks[name], completed=done, total=total, rate=words)

    def finish(self, name: str, seconds: float, finished: bool) -> None:
        """Notes that a part ended, finished or not."""
        self._running.pop(name)
        self._finished += finished
        if self._bars:
            self._bars.remove_task(self._tasks.pop(name))
            self._bars.update(self._all, completed=self._finished)
        elif finished and not self._quiet:
            self._console.print(f"[{self._finished}/{self._total}] {name} {seconds:.1f} s", markup=False)

    def tick(self) -> None:
        """Prints the 30-second line where there are no bars."""
        now = time.monotonic()
        if self._bars or self._quiet or now - self._last_line < self._interval:
            return
        self._last_line = now
        parts = [_line(name, s) for name, s in self._running.items()]
        # No estimate for the whole: jobs of different stages differ a hundredfold in length.
        self._console.print(
            f"[{self._finished}/{self._total}] {now - self._started:.0f} s: {'; '.join(parts)}",
            markup=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Takes the bars down."""
        if self._bars:
            self._bars.stop()


def _line(name: str, state: dict[str, Any]) -> str:
    if not state["total"]:
        return f"{name} starting"
    share = f"{name} {100 * state['done'] / state['total']:.0f}% ({state['done']}/{state['total']}"
    if not (rate := state.get("rate")):
        return f"{share})"
    left = (state["total"] - state["done"]) / rate
    return f"{share}, {rate:.1f} {state['unit']}/s, {left:.0f} s left)"
