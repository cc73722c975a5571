"""Post-hoc EMA: profiles against integrals, reconstruction against averages that were tracked directly."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from synthaug import rng
from synthaug.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from synthaug.experiment import Saving
from synthaug.train import ema, posthoc
from synthaug.train.checkpoint import Checkpoints, load_weights
from synthaug.train.clock import Clock
from synthaug.train.loop import fit, start
from synthaug.train.preemption import StopFlag
from synthaug.train.state import create, make_update

STEPS, EVERY, STORED = 2000, 50, (0.05, 0.1)


@hypothesis.given(st.floats(0.003, 0.285))
def test_length_and_exponent_are_inverse(length):
    assert posthoc.length_of(posthoc.gamma_of(length)) == pytest.approx(length, rel=1e-6)


def test_length_is_the_relative_standard_deviation_of_the_profile():
    tau = (np.arange(200_000) + 0.5) / 200_000
    for length in (0.02, 0.1, 0.25):
        gamma = posthoc.gamma_of(length)
        density = (gamma + 1) * tau**gamma
        mean = np.mean(density * tau)
        assert np.sqrt(np.mean(density * (tau - mean) ** 2)) == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.2887, 1.0])
def test_length_that_no_power_function_has(length):
    with pytest.raises(ConfigError, match="ema_length"):
        posthoc.gamma_of(length)


@hypothesis.given(*[st.floats(0.2, 1.0)] * 2, *[st.floats(0.0, 30.0)] * 2)
def test_products_are_integrals(t, s, gamma, delta):
    end = min(t, s)
    tau = (np.arange(20_000) + 0.5) / 20_000 * end
    brute = end * np.mean((gamma + 1) * (tau / t) ** gamma / t * (delta + 1) * (tau / s) ** delta / s)
    (closed,) = posthoc.products(*(np.array([value]) for value in (t, gamma, s, delta))).ravel()
    assert closed == pytest.approx(brute, rel=1e-4, abs=1e-9)


def trajectory() -> np.ndarray:
    """Returns f32[STEPS,8]: weights that drift, swing and jitter, as large as half of 1."""
    random = np.random.default_rng(0)
    drift = np.cumsum(random.normal(size=(STEPS, 8)), axis=0) * 0.02
    swing = 0.2 * np.sin(np.arange(STEPS)[:, None] / np.geomspace(20, 900, 8))
    return np.asarray(0.2 * (drift + swing + 0.1 * random.normal(size=(STEPS, 8))), np.float32)


@pytest.fixture(scope="module")
def tracked() -> dict[float, np.ndarray]:
    """The average of each length after every step, f32[STEPS,8], by the update of the training step."""
    lengths = (0.04, *STORED, 0.07, 0.15, 0.2)

    def update(averages, at):
        step, weights = at
        new = {
            s: ema.power_average(a, weights, step, posthoc.gamma_of(float(s))) for s, a in averages.items()
        }
        return new, new

    first = {f"{s:g}": jnp.full(8, 7.0) for s in lengths}
    _, found = jax.lax.scan(update, first, (jnp.arange(STEPS), trajectory()))
    return {float(s): np.asarray(a) for s, a in found.items()}


@pytest.fixture(scope="module")
def snapshots(tracked: dict[float, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("ema")
    for step in range(EVERY, STEPS + 1, EVERY):
        tree = {f"{s:g}": {"block": {"w": tracked[s][step - 1]}} for s in STORED}
        posthoc.write_snapshot(folder, step, tree)
    return folder


def test_tracked_average_is_the_sum_it_stands_for(tracked):
    """Unrolled, the share of step k is ((k)^(g+1) - (k-1)^(g+1)) / t^(g+1)."""
    for length, found in tracked.items():
        power = np.arange(STEPS + 1, dtype=np.float64) ** (posthoc.gamma_of(length) + 1)
        truth = (np.diff(power)[:, None] * trajectory()).sum(0) / power[-1]
        np.testing.assert_allclose(found[-1], truth, atol=2e-6)


@pytest.mark.parametrize("length", [0.04, 0.07, 0.15, 0.2])
@pytest.mark.parametrize("step", [1500, STEPS])
def test_reconstruction_equals_the_average_tracked_directly(snapshots, tracked, length, step):
    found = posthoc.reconstruct(snapshots, step, length)["block"]["w"]
    truth = tracked[length][step - 1]
    assert found.dtype == np.float32
    near, other = np.abs(found - truth).max(), np.abs(tracked[0.1][step - 1] - truth).max()
    assert near < 1e-3
    assert near < 0.1 * other  # so that the test can fail: a neighbouring length is far away


@pytest.mark.parametrize("length", STORED)
def test_stored_profile_comes_back_as_it_was_stored(snapshots, tracked, length):
    found = posthoc.reconstruct(snapshots, STEPS, length)["block"]["w"]
    assert np.array_equal(found, tracked[length][-1].astype(np.float16).astype(np.float32))


def test_coefficients_leave_constant_weights_alone():
    t = np.repeat([10.0, 20.0, 30.0], 2)
    gamma = np.tile([posthoc.gamma_of(s) for s in STORED], 3)
    for length in (0.04, 0.12, 0.2):
        x, _ = posthoc.coefficients(t, gamma, 30.0, posthoc.gamma_of(length))
        assert x.sum() == pytest.approx(1.0, abs=1e-9)


def test_storage_is_f16_and_equal_averages_give_equal_bytes(snapshots, tracked, tmp_path):
    file = snapshots / f"{STEPS}.safetensors"
    tensors = safetensors.numpy.load_file(file)
    assert {name: t.dtype for name, t in tensors.items()} == {
        "0.05/block/w": np.float16,
        "0.1/block/w": np.float16,
    }
    tree = {f"{s:g}": {"block": {"w": tracked[s][-1]}} for s in STORED}
    posthoc.write_snapshot(tmp_path, STEPS, tree)
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    assert posthoc.steps(tmp_path) == [STEPS]
    assert list(tmp_path.iterdir()) == [tmp_path / file.name]  # nothing temporary stays


def test_errors_name_what_is_there(snapshots, tmp_path):
    with pytest.raises(CheckpointError, match=r"no snapshots of averages; train with finetune\.ema_profiles"):
        posthoc.reconstruct(tmp_path, 10, 0.1)
    with pytest.raises(CheckpointError, match="no snapshot of step 130; expected one of 50, 100"):
        posthoc.reconstruct(snapshots, 130, 0.1)
    with pytest.raises(ConfigError, match=r"ema_length = 0\.006: .* give lengths from 0\.0\d+ to 0\.2\d+"):
        posthoc.reconstruct(snapshots, STEPS, 0.006)
    low, high = (float(word) for word in reached(snapshots).split(" to "))
    for length in (low + 0.001, high - 0.001):
        posthoc.reconstruct(snapshots, STEPS, length)


def reached(folder: pathlib.Path) -> str:
    with pytest.raises(ConfigError) as error:
        posthoc.reconstruct(folder, STEPS, 0.006)
    return str(error.value).partition("lengths from ")[2].partition(";")[0]


@pytest.mark.parametrize("kind", ["short", "flipped", "renamed", "text", "other"])
def test_altered_snapshot_is_named(tmp_path, kind):
    for step in (1, 2):
        posthoc.write_snapshot(tmp_path, step, {"0.1": {"w": np.arange(64, dtype=np.float32)}})
    victim = tmp_path / "2.safetensors"
    data = victim.read_bytes()
    if kind == "renamed":
        (tmp_path / "1.safetensors").replace(victim)
    elif kind == "other":
        safetensors.numpy.save_file({"w": np.zeros(3)}, victim)
    else:
        altered = {"short": data[:-7], "flipped": data[:-9] + b"\xff" + data[-8:], "text": b"no tensors"}
        victim.write_bytes(altered[kind])
    with pytest.raises(CheckpointError, match=r"2\.safetensors: was altered"):
        posthoc.reconstruct(tmp_path, 2, 0.1)


def test_weight_beyond_f16_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"0\.1/block/w exceeds 65504"):
        posthoc.write_snapshot(tmp_path, 5, {"0.1": {"block": {"w": np.array([1e5], np.float32)}}})
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ in the loop

PROFILES = posthoc.profiles(STORED)
TX = optax.sgd(0.1)


def loss_fn(params, stats, batch, key):
    noise = jax.random.normal(key, (4,))
    return jnp.sum((params["w"] - batch["x"] + noise) ** 2), ({}, stats)


class Killed(Exception):
    """What SIGKILL is to a test: nothing more is saved."""


def train(
    directory: pathlib.Path, stop_at: int = 0, kill: bool = False, profiles: dict[str, float] = PROFILES
) -> list[dict[str, object]]:
    """Trains 12 steps with snapshots every 3, stopped or killed and started again after `stop_at`."""
    saving = Saving(every=5, keep_latest=9, keep_steps=(7,), log_every=4)
    update, seen = make_update(loss_fn, TX, 0.9, profiles), []
    for attempt in range(2 if stop_at else 1):
        flag = StopFlag()

        def progress(step, total, flag=flag, attempt=attempt):
            if attempt == 0 and step == stop_at:
                if kill:
                    raise Killed
                flag.request("SIGTERM")

        def snapshot(step, state):
            seen.append({"step": step})
            posthoc.write_snapshot(directory / "ema", step, state["profiles"])

        weights = {"params": {"w": jnp.ones(4)}, "stats": {}}
        with contextlib.closing(Checkpoints(directory / "steps", saving, {}, seen.append)) as checkpoints:
            state = start(checkpoints, lambda: create(weights, TX, True, profiles))  # noqa: B023
            with contextlib.suppress(Interrupted, Killed):
                fit(
                    state,
                    update,
                    lambda step: {"x": np.full(4, np.sin(step), np.float32)},
                    num_steps=12,
                    key=rng.root(1),
                    checkpoints=checkpoints,
                    saving=saving,
                    stop=flag,
                    log=lambda step, values: None,
                    progress=progress,
                    clock=Clock(),
                    snapshot=snapshot if profiles else None,
                    snapshot_every=3,
                )
    return seen


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_snapshots_are_the_same_after_a_restart(tmp_path, kill):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert [s["step"] for s in train(whole)] == [3, 6, 7, 9, 12]  # every third, those that stay, the last
    seen = [s["step"] for s in train(stopped, stop_at=8, kill=kill)]
    assert seen == [3, 6, 7, 9, 12]  # killed after step 8, it goes on from the checkpoint of step 7
    assert posthoc.steps(stopped / "ema") == posthoc.steps(whole / "ema") == [3, 6, 7, 9, 12]
    for file in (whole / "ema").iterdir():
        there = (stopped / "ema" / file.name).read_bytes()
        assert hashlib.sha256(there).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_checkpoints_without_profiles_hold_none(tmp_path):
    train(tmp_path, profiles={})
    weights, record = load_weights(tmp_path / "steps" / "12")
    assert {path[0] for path, _ in record["leaves"]} == {"step", "params", "ema"}
    assert weights["params"]["w"].shape == (4,)
    assert not (tmp_path / "ema").exists()
