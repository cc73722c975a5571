"""Measures the figures of the README.

    python -m tests.benchmarks.digits [RUNS_DIRECTORY]

Runs jobs/digits.yaml from nothing to its report, again when finished, a second run that is killed in the
middle of finetune and started again, and the commands that must answer at once. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
JOB = "jobs/digits.yaml"


def synthaug(*words: str) -> list[str]:
    """Returns a command line."""
    return [sys.executable, "-m", "synthaug", *words]


def resident(session: set[int]) -> int:
    """Returns the bytes of memory that processes hold (proportional share), by /proc."""
    total = 0
    for pid in session:
        try:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
    return total


def descendants(pid: int) -> set[int]:
    """Returns a process and everything it started."""
    found, grew = {pid}, True
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    while grew:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return found


def run(words: list[str]) -> dict[str, float]:
    """Runs a command; returns its seconds and the largest memory of all its processes together, in GB."""
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.5):
            peak = max(peak, resident(descendants(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{words} ended with code {code}")
    return {"seconds": round(time.monotonic() - began, 2), "peak_gb": round(peak / 1e9, 2)}


def restart(runs: pathlib.Path) -> float:
    """Returns the seconds a killed finetune needs to its first new step, in seconds."""
    name = "digits-killed"
    words = synthaug("run", JOB, f"name={name}", "--runs", str(runs), "--quiet")
    part = runs / name / "finetune-0"
    first = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    while not (part / "checkpoints" / "400" / "digest.json").exists():
        if first.poll() is not None:
            raise SystemExit(f"{words} ended before it was killed")
        time.sleep(0.1)
    first.kill()
    first.wait()
    time.sleep(1)
    began = time.time()
    second = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    lines = part / "metrics.jsonl"
    size = lines.stat().st_size
    while lines.stat().st_size == size:
        time.sleep(0.02)
    # The first logged line comes after `log_every` steps, two of which the log runs late.
    seconds = time.time() - began
    events = [json.loads(line) for line in (part / "attempts.jsonl").read_text().splitlines()]
    steps = events[-1]["buckets"].get("step", 0.0)
    second.send_signal(signal.SIGTERM)
    second.wait()
    return round(seconds - steps, 2)


def main() -> None:
    """Measures everything."""
    runs = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    study = synthaug("run", JOB, "--runs", str(runs), "--quiet")
    found: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.machine()}"}
    found["study"] = run(study)
    found["again"] = run(study)
    for verb, words in {
        "help": ["--help"],
        "show": ["show", JOB],
        "plan": ["plan", JOB],
        "status": ["status", "digits", "--runs", str(runs)],
    }.items():
        found[verb] = min(run(synthaug(*words))["seconds"] for _ in range(5))
    found["restart_of_killed_finetune"] = restart(runs)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
