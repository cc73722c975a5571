"""A devcluster for a test: where it is, how to talk to it, how to wait for it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEVCLUSTER = pathlib.Path(__file__).parents[2] / "slurm" / "devcluster"


def missing() -> str:
    """Why there can be no devcluster here; empty if there can."""
    if sys.platform != "linux":
        return "a devcluster needs Linux"
    if os.geteuid() != 0:
        return "a devcluster needs root"
    path = os.environ["PATH"] + ":/usr/sbin"
    if shutil.which("slurmctld", path=path) is None:  # a test must not install packages behind one's back
        return "Slurm is not installed; `slurm/devcluster up` once installs it"
    return ""


def missing_accounting() -> str:
    """Why there can be no devcluster with accounting here; empty if there can."""
    path = os.environ["PATH"] + ":/usr/sbin"
    absent = [tool for tool in ("slurmdbd", "mariadbd") if shutil.which(tool, path=path) is None]
    return f"accounting needs {' and '.join(absent)}, not installed" if absent else ""


def free_port() -> int:
    """First of 30 TCP ports in a row that nobody listens on, below those that the kernel gives away."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000, 40)
        if all(is_free(first + offset) for offset in range(30)):
            return first
    raise RuntimeError("no 30 free ports in a row between 20000 and 32000")


def is_free(port: int) -> bool:
    """True if a port of 127.0.0.1 can be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A devcluster that is up."""

    folder: pathlib.Path
    env: dict[str, str]

    def devcluster(self, *args: str) -> subprocess.CompletedProcess[str]:
        """What the script says to a command."""
        return devcluster(*args, "--dir", str(self.folder))

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """What a program says that talks to this cluster."""
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=120)

    def read(self, *argv: str) -> str:
        """The output of a program that must succeed."""
        done = self.call(*argv)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """The id of a new batch job whose output nobody wants."""
        return self.read("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")

    def state(self, job: str) -> str:
        """The state of a job that the controller remembers, such as RUNNING."""
        return self.read("squeue", "--noheader", "--states=all", "--array", f"--jobs={job}", "--format=%T")

    def wait(self, job: str, *states: str, seconds: float = 60) -> str:
        """The state of a job as soon as it is one of these."""
        return wait_for(
            lambda: state if (state := self.state(job)) in states else None, f"{job}: {states}", seconds
        )


def devcluster(*args: str) -> subprocess.CompletedProcess[str]:
    """What the script says to a command; at a first start it may install packages."""
    return subprocess.run([str(DEVCLUSTER), *args], capture_output=True, text=True, timeout=400)


def start(folder: pathlib.Path, **options: object) -> Cluster:
    """A new cluster; options are those of the script with underscores, as in max_array_size=10."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    up = devcluster("up", "--dir", str(folder), "--port", str(free_port()), *flags)
    assert up.returncode == 0, up.stderr
    conf = up.stdout.strip().removeprefix("export SLURM_CONF=")
    return Cluster(folder, {**os.environ, "SLURM_CONF": conf})


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """What a function finds as soon as it finds anything."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")
