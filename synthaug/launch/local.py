"""Runs a plan on this machine: a few worker processes, each part as soon as what it needs is finished."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

from synthaug.console import Watch
from synthaug.errors import Interrupted, RunError, SynthaugError
from synthaug.launch.plan import Plan, Stage
from synthaug.rundir import RunDir
from synthaug.site import Site

# A part whose worker was killed this often is not tried again: it would kill the next one too.
MAX_DEATHS = 3

Key = tuple[str, int]


class PartError(SynthaugError):
    """A part that ended with an error; carries its exit code."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.exit_code = code


def select(
    plan: Plan, stage: str | None, part: int | None, run: RunDir, until: str | None = None
) -> list[Key]:
    """Returns the unfinished parts of the plan, of one stage, or of a stage and all it needs, in order.

    Raises:
        RunError: no such stage or part.
    """
    stages = list(plan.stages)
    if stage is not None:
        stages = _named(plan, stage, "--stage")
    if until is not None:
        needed = {name for s in _named(plan, until, "--until") for name in plan.upstream(s.name)}
        stages = [s for s in plan.stages if s.name in needed]
    if part is not None:
        if stage is None or len(stages) != 1:
            raise RunError(f"--part {part}: name one stage with --stage as well.")
        if not 0 <= part < len(stages[0].parts):
            raise RunError(f"--part {part}: {stage} has parts 0 to {len(stages[0].parts) - 1}; choose one.")
    keys = [(s.name, i) for s in stages for i in range(len(s.parts)) if part is None or i == part]
    return [key for key in keys if not run.is_done(*key)]


def _named(plan: Plan, name: str, option: str) -> list[Stage]:
    """Returns the stage of that name, else all stages of that verb, e.g. every phase of `sweep`."""
    called = [s for s in plan.stages if s.name == name]
    found = called or [s for s in plan.stages if s.verb == name]
    if not found:
        names = ", ".join(s.name for s in plan.stages)
        raise RunError(f"{option} {name}: no such stage in this plan; expected one of {names}.")
    return found


def forget(plan: Plan, run: RunDir, stage: str, part: int | None) -> set[str]:
    """Deletes the results of a stage (or one part) and of everything that depends on them.

    Returns:
        The names of the stages that lost results.
    """
    names = [s.name for s in _named(plan, stage, "--stage")]
    stale = {name for first in names for name in plan.downstream(first)}
    for s in plan.stages:
        if s.name in stale:
            for i in range(len(s.parts)):
                if s.name not in names or part is None or i == part:
                    run.forget(s.name, i)
                    _forget_images(run, s.verb, s.parts[i].args)
    if "scan" in stale:
        shutil.rmtree(run.path / "sets", ignore_errors=True)
    if "collect" in stale:
        run.manifest.unlink(missing_ok=True)
    shutil.rmtree(run.report, ignore_errors=True)  # it is downstream of everything
    return stale


def _forget_images(run: RunDir, verb: str, args: dict[str, Any]) -> None:
    """Deletes the shards that a part wrote."""
    if verb == "sample":
        run.forget_shards("generated", range(args["shard"], args["shard"] + args["num_shards"]))
    if verb == "sweep":
        name = f"sweep-{args['phase']}-{args['number']}"
        run.forget_shards(name, range(args["shard"], args["shard"] + args["num_shards"]))
    if verb == "prepare":
        run.forget_shards(args["set"], range(args["block"], args["block"] + args["num_blocks"]))


@dataclasses.dataclass
class _Worker:
    process: subprocess.Popen[str]
    key: Key | None = None
    since: float = 0.0
    ended: bool = False


class Executor:
    """Feeds workers with parts until all are finished, one fails, or a signal asks to stop."""

    def __init__(self, run: RunDir, plan: Plan, site: Site, todo: list[Key], *, quiet: bool, only: bool):
        self.run, self.plan, self.site = run, plan, site
        self.todo: collections.deque[Key] = collections.deque(todo)
        self._only = only
        self._remaining = {s.name: self._unfinished(s) for s in plan.stages}
        self._deaths: collections.Counter[Key] = collections.Counter()
        self._inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._signal = ""
        self._problem: SynthaugError | None = None
        total = sum(len(s.parts) for s in plan.stages)
        done = total - sum(self._remaining.values())
        self.watch = Watch(total, done, quiet=quiet, interval=site.log_interval)

    def _unfinished(self, stage: Stage) -> int:
        return sum(not self.run.is_done(stage.name, i) for i in range(len(stage.parts)))

    def execute(self) -> None:
        """Runs everything; raises what stopped it."""
        old = {s: signal.signal(s, self._on_signal) for s in _SIGNALS}
        try:
            while self.todo or any(w.key for w in self._workers):
                self._feed()
                if not any(w.key for w in self._workers):
                    break
                self._receive()
                self.watch.tick()
        finally:
            self._shut_down()
            self.watch.close()
            for number, handler in old.items():
                signal.signal(number, handler)
        if self._problem:
            raise self._problem
        if self._signal:
            raise Interrupted(f"stopped by {self._signal}; all finished work is saved. {self._again()}")

    def _again(self) -> str:
        return "Run the same command again to go on."

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        for worker in self._workers:
            if worker.key:
                worker.process.send_signal(signal.SIGTERM)

    # ------------------------------------------------------------------------- workers

    def _feed(self) -> None:
        """Gives every idle worker a part whose inputs are finished; starts workers as needed."""
        while not self._signal and not self._problem:
            key = next((k for k in self.todo if self._is_ready(k)), None)
            if key is None:
                return
            idle = next((w for w in self._workers if w.key is None and not w.ended), None)
            if idle is None:
                if len([w for w in self._workers if not w.ended]) >= self.site.num_workers():
                    return
                idle = self._start()
            self.todo.remove(key)
            self._order(idle, key)

    def _is_ready(self, key: Key) -> bool:
        stage = self.plan.stage(key[0])
        if stage is None:
            return False
        missing = [name for name in stage.after if self._remaining[name]]
        if missing and self._only and not any(k[0] in missing for k in [*self.todo, *self._busy()]):
            raise RunError(f"{key[0]} needs {missing[0]}, which is not finished; run that stage first.")
        return not missing

    def _busy(self) -> list[Key]:
        return [w.key for w in self._workers if w.key]

    def _start(self) -> _Worker:
        command = [sys.executable, "-m", "synthaug", "exec", str(self.run.path), "--serve"]
        command += ["--site-json", json.dumps(dataclasses.asdict(self.site))]
        with open(self.run.path / "workers.log", "a") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Its own session: Ctrl-C reaches this process alone, which passes it on once.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        worker = _Worker(process)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        for line in worker.process.stdout or ():
            try:
                self._inbox.put((worker, json.loads(line)))
            except ValueError:
                continue  # a library printed to stdout
        self._inbox.put((worker, None))

    def _order(self, worker: _Worker, key: Key) -> None:
        worker.key, worker.since = key, time.monotonic()
        self.watch.begin(_name(key))
        order = json.dumps({"stage": key[0], "part": key[1]}) + "\n"
        try:
            (worker.process.stdin or sys.stdout).write(order)
            (worker.process.stdin or sys.stdout).flush()
        except BrokenPipeError:
            pass  # it died; its listener says so next

    # ------------------------------------------------------------------------ messages

    def _receive(self) -> None:
        try:
            worker, message = self._inbox.get(timeout=1.0)
        except queue.Empty:
            return
        if message is None:
            self._on_death(worker)
        elif worker.key is None:
            return
        elif message["kind"] == "progress":
            self.watch.progress(_name(worker.key), message["done"], message["total"], message["unit"])
        elif message["kind"] == "say":
            self.watch.say(message["text"])
        elif message["kind"] == "end":
            self._on_end(worker, message["code"], message["error"])

    def _on_end(self, worker: _Worker, code: int, error: str) -> None:
        key, worker.key = worker.key, None
        if key is None:
            return
        finished = code == 0 and self.run.is_done(*key)
        self.watch.finish(_name(key), time.monotonic() - worker.since, finished)
        if finished:
            self._remaining[key[0]] -= 1
        elif not (self._signal and code == Interrupted.exit_code):
            self._fail(PartError(error, code or 1))

    def _on_death(self, worker: _Worker) -> None:
        worker.ended = True
        code = worker.process.wait()
        if worker.key is None:
            if code and not self._signal:
                self._fail(
                    PartError(f"a worker ended with code {code}; see {self.run.path / 'workers.log'}.", 1)
                )
            return
        key, worker.key = worker.key, None
        self._deaths[key] += 1
        self.watch.finish(_name(key), 0.0, False)
        why = f"signal {-code}" if code < 0 else f"code {code}"
        if self._signal:
            return
        log = self.run.path / "workers.log"
        if self._deaths[key] >= MAX_DEATHS:
            text = f"{_name(key)}: its worker died {MAX_DEATHS} times (last: {why}); see {log}, free memory"
            self._fail(PartError(f"{text} and run the same command again.", 2))
            return
        self.watch.say(f"{_name(key)}: its worker died ({why}); it goes on in a new one.")
        self.todo.appendleft(key)

    def _fail(self, problem: SynthaugError) -> None:
        """Keeps the first problem and asks the other workers to save and stop."""
        if self._problem is None:
            self._problem = problem
            for worker in self._workers:
                if worker.key:
                    worker.process.send_signal(signal.SIGTERM)

    def _shut_down(self) -> None:
        for worker in self._workers:
            if worker.process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    worker.process.stdin.close()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def _name(key: Key) -> str:
    return f"{key[0]} {key[1]}"
