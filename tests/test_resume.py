"""A run that was killed, again and again, equals one that was not: bit for bit.

This file is also the program that is killed: `python tests/test_resume.py FOLDER`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug import rng
from synthaug.errors import Interrupted
from synthaug.experiment import Optimizer, Saving
from synthaug.train import steps
from synthaug.train.checkpoint import Checkpoints, load_weights
from synthaug.train.clock import Clock
from synthaug.train.loop import fit, start
from synthaug.train.optimizer import build_optimizer
from synthaug.train.preemption import StopFlag
from synthaug.train.state import averaged, create, make_update

NUM_STEPS = 60
SAVING = Saving(every=5, log_every=1, keep_latest=2, keep_best=1, keep_steps=(23,))
WIDTH = 32


def loss_fn(params, stats, batch, key):
    """Two layers with dropout and a running mean, so that key, batch and statistics all matter."""
    hidden = jax.nn.relu(batch["x"] @ params["first"] - stats["mean"][None, :])
    keep = jax.random.bernoulli(key, 0.8, hidden.shape)
    output = jnp.where(keep, hidden / 0.8, 0.0) @ params["second"]
    loss = jnp.mean((output - batch["y"]) ** 2)
    mean = 0.9 * stats["mean"] + 0.1 * jnp.mean(hidden, axis=0)
    return loss, ({"activity": jnp.mean(hidden)}, {"mean": mean})


def batch_at(step):
    generator = np.random.default_rng(step)
    x = generator.normal(size=(8, 16)).astype(np.float32)
    return {"x": x, "y": np.sin(x[:, :2])}


def train(folder: pathlib.Path, stop: StopFlag, pause: float) -> str:
    """Trains in `folder`, appends the logged values in hex to losses.txt; returns the final state's hash."""
    settings = Optimizer(kind="adam", learning_rate=3e-3, warmup_steps=10, schedule="cosine")
    tx = build_optimizer(settings, NUM_STEPS)

    def make_state():
        first, second = jax.random.split(rng.stream(rng.root(0), "init"))
        params = {
            "first": jax.random.normal(first, (16, WIDTH)) * 0.3,
            "second": jax.random.normal(second, (WIDTH, 2)) * 0.3,
        }
        return create({"params": params, "stats": {"mean": jnp.zeros(WIDTH)}}, tx, with_ema=True)

    def log(step, values):
        text = " ".join(f"{name}={value.hex()}" for name, value in sorted(values.items()))
        with (folder / "losses.txt").open("a") as file:
            file.write(f"{step} {text}\n")

    def evaluate(state):
        norm = float(jnp.sum(jnp.abs(averaged(state)["params"]["second"])))
        return {"best": abs(float(state["step"]) - 31.0), "norm": norm}

    def warn(text):
        with (folder / "warnings.txt").open("a") as file:
            file.write(text + "\n")

    checkpoints = Checkpoints(folder / "checkpoints", SAVING, {"model": "two"}, warn)
    with contextlib.closing(checkpoints):
        state = fit(
            start(checkpoints, make_state),
            make_update(loss_fn, tx, ema_decay=0.99),
            batch_at,
            num_steps=NUM_STEPS,
            key=rng.stream(rng.root(0), "train"),
            checkpoints=checkpoints,
            saving=SAVING,
            stop=stop,
            log=log,
            progress=lambda step, total: time.sleep(pause),
            clock=Clock(),
            evaluate=evaluate,
        )
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(state))).hexdigest()


def main() -> int:
    stop = StopFlag()
    stop.install()
    folder = pathlib.Path(sys.argv[1])
    try:
        (folder / "state.sha256").write_text(train(folder, stop, pause=0.01))
    except Interrupted as error:
        print(error)
        return error.exit_code
    return 0


# ----------------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    """A function that starts an attempt, and returns it once it has trained a step of its own."""
    # compiled programs are shared, or most of the time of these tests would go to compiling again
    settings = {
        "PYTHONPATH": str(pathlib.Path(__file__).parent.parent),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }

    def start_attempt(folder):
        trace = folder / "losses.txt"
        before = trace.stat().st_size if trace.exists() else 0
        process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and not (trace.exists() and trace.stat().st_size > before):
            time.sleep(0.002)
        return process

    return start_attempt


@pytest.fixture(scope="module")
def uninterrupted(attempt, tmp_path_factory):
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(attempt(folder))
    return folder


def finish(process):
    assert process.communicate(timeout=120) == ("", "")
    assert process.returncode == 0


def expect_equal(folder, uninterrupted):
    """Every logged line, replayed ones included, the final state, and the checkpoints that stay are equal."""
    lines = (folder / "losses.txt").read_text().splitlines()
    truth = (uninterrupted / "losses.txt").read_text().splitlines()
    assert len(truth) == NUM_STEPS + NUM_STEPS // SAVING.every + 1  # metrics; scores, step 23 among them
    assert set(lines) == set(truth)
    assert (folder / "state.sha256").read_text() == (uninterrupted / "state.sha256").read_text()
    kept = steps.listed(folder / "checkpoints")
    assert kept == steps.listed(uninterrupted / "checkpoints") == [23, 30, 55, 60]
    for step in kept:
        ours, theirs = (load_weights(root / "checkpoints" / str(step))[0] for root in (folder, uninterrupted))
        assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


def test_run_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path, attempt, uninterrupted):
    moments = random.Random(2)
    kills = 0
    for _ in range(4):
        process = attempt(tmp_path)
        time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        _, errors = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), errors
        kills += process.returncode != 0
    finish(attempt(tmp_path))
    assert kills >= 2, "the kills came too late to prove anything"
    expect_equal(tmp_path, uninterrupted)
    replayed = len((tmp_path / "losses.txt").read_text().splitlines()) - (NUM_STEPS + 13)
    assert replayed >= 1, "no attempt lost a step, so no step was replayed"


def test_run_stopped_by_each_signal_equals_an_uninterrupted_one(tmp_path, attempt, uninterrupted):
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"):
        process = attempt(tmp_path)
        for _ in range(2):  # schedulers send TERM twice, and a terminal sends INT to the whole group
            process.send_signal(signal.Signals[name])
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 75, errors
        assert output.startswith(f"{name} stopped the training after step ") and errors == ""
        step = int(output.split("after step ")[1].split()[0])
        assert steps.listed(tmp_path / "checkpoints")[-1] == step, "it was saved at that step"
    finish(attempt(tmp_path))
    expect_equal(tmp_path, uninterrupted)
    assert not (tmp_path / "warnings.txt").exists(), "a stop by signal leaves nothing torn"
    lines = (tmp_path / "losses.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)), "a stop by signal loses no step"


if __name__ == "__main__":
    raise SystemExit(main())
