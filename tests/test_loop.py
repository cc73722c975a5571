"""The training loop, its clock, its stop flag, the optimisers and the average of the weights."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthaug import rng
from synthaug.errors import ConfigError, Interrupted, RunError, TrainingError
from synthaug.experiment import Optimizer, Saving
from synthaug.train import ema, loop, steps
from synthaug.train.checkpoint import Checkpoints, load_weights
from synthaug.train.clock import Clock
from synthaug.train.loop import fit, start
from synthaug.train.optimizer import build_optimizer, learning_rate
from synthaug.train.preemption import StopFlag
from synthaug.train.state import averaged, create, make_update

KEY = rng.root(3)
TX = optax.sgd(0.1)


def weights():
    return {"params": {"w": jnp.ones(4)}, "stats": {"seen": jnp.zeros((), jnp.int32)}}


def loss_fn(params, stats, batch, key):
    """A noisy quadratic: the loss depends on the weights, the batch and the key of its step."""
    noise = jax.random.normal(key, (4,))
    loss = jnp.sum((params["w"] - batch["x"] + 0.1 * noise) ** 2) * batch["scale"]
    return loss, ({"mean": jnp.mean(params["w"])}, {"seen": stats["seen"] + 1})


def batch_at(step):
    return {"x": np.full(4, np.sin(step), np.float32), "scale": np.float32(1.0)}


def poisoned(at, value):
    return lambda step: {**batch_at(step), "scale": np.float32(value if step == at else 1.0)}


class Run:
    """`fit` with everything it takes, recording what it gives."""

    def __init__(self, directory, num_steps=10, **settings):
        self.saving = Saving(**{"every": 4, "log_every": 3, "keep_latest": 9, **settings})
        self.directory, self.num_steps = directory, num_steps
        self.stop, self.clock = StopFlag(), Clock()
        self.logs, self.events, self.warnings = [], [], []

    def __call__(self, batch_at=batch_at, update=None, make=None, **kwargs):
        update = update or make_update(loss_fn, TX, ema_decay=0.9)
        with contextlib.closing(
            Checkpoints(self.directory, self.saving, {}, self.warnings.append)
        ) as checkpoints:
            return fit(
                start(checkpoints, make or (lambda: create(weights(), TX, with_ema=True))),
                update,
                batch_at,
                **{
                    "num_steps": self.num_steps,
                    "key": KEY,
                    "checkpoints": checkpoints,
                    "saving": self.saving,
                    "stop": self.stop,
                    "log": lambda step, values: self.logs.append((step, values)),
                    "progress": lambda step, total: self.events.append((step, total)),
                    "clock": self.clock,
                    **kwargs,
                },
            )


def plain_loop(num_steps):
    """Returns the state and the metrics of every step without `fit`: the truth to compare with."""
    state, trace = create(weights(), TX, with_ema=True), {}
    update = make_update(loss_fn, TX, ema_decay=0.9)
    for step in range(num_steps):
        state, metrics = update(state, batch_at(step), rng.at(KEY, step))
        trace[step + 1] = {name: float(value) for name, value in metrics.items()}
    return state, trace


def same(a, b):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# ------------------------------------------------------------------------------------------------- fit


def test_logged_metrics_are_those_of_exactly_their_step(tmp_path):
    run = Run(tmp_path)
    state = run()
    truth, trace = plain_loop(10)
    assert run.logs == [(step, trace[step]) for step in (3, 6, 9, 10)]
    assert same(state, truth)
    assert set(trace[1]) == {"loss", "grad_norm", "mean"}


def test_saves_at_multiples_at_listed_steps_and_at_the_end(tmp_path):
    Run(tmp_path, keep_steps=(7,))()
    assert steps.listed(tmp_path) == [4, 7, 8, 10]
    assert same(load_weights(tmp_path / "7")[0], averaged(plain_loop(7)[0]))


def test_finished_run_is_not_trained_further(tmp_path):
    Run(tmp_path)()
    again = Run(tmp_path)
    state = again()
    assert int(state["step"]) == 10 and again.events == [] and again.logs == []


def test_order_of_a_step_is_update_log_evaluate_save(tmp_path):
    order = []

    def evaluate(state):
        step = int(state["step"])
        order.append(f"evaluate {step}")
        assert str(step) not in os.listdir(tmp_path), "saved before it was scored"
        return {"score": 1.0}

    Run(tmp_path, num_steps=5, every=3, log_every=1)(
        evaluate=evaluate,
        progress=lambda step, total: order.append(f"update {step}"),
        log=lambda step, values: order.append(f"{'score' if 'score' in values else 'log'} {step}"),
    )
    # metrics come one logging step late, but before the score of their own step
    assert order == [
        *("update 1", "log 1", "update 2", "log 2", "update 3", "log 3", "evaluate 3", "score 3"),
        *("update 4", "log 4", "update 5", "log 5", "evaluate 5", "score 5"),
    ]


def test_score_is_saved_and_the_best_checkpoint_stays(tmp_path):
    run = Run(tmp_path, every=2, keep_latest=1, keep_best=1)
    run(evaluate=lambda state: {"best": abs(int(state["step"]) - 4.0), "other": 1.0})
    assert steps.listed(tmp_path) == [4, 10]
    assert load_weights(tmp_path / "4")[1]["metrics"] == {"best": 0.0, "other": 1.0}
    assert [step for step, values in run.logs if "best" in values] == [2, 4, 6, 8, 10]


def test_progress_counts_completed_updates(tmp_path):
    run = Run(tmp_path, num_steps=3)
    run()
    assert run.events == [(1, 3), (2, 3), (3, 3)]


def test_batches_are_prepared_ahead_in_order_in_one_thread_that_ends(tmp_path):
    asked, threads, done = [], set(), []

    def watched(step):
        asked.append(step)
        threads.add(threading.current_thread())
        assert step <= len(done) + 2, f"batch {step} was made when {len(done)} steps were done"
        return batch_at(step)

    Run(tmp_path)(watched, progress=lambda step, total: done.append(step))
    assert asked == list(range(10))
    assert len(threads) == 1 and not threads.pop().is_alive()


def test_error_in_a_batch_surfaces(tmp_path):
    def broken(step):
        if step == 5:
            raise ValueError("image 5 is missing")
        return batch_at(step)

    with pytest.raises(ValueError, match="image 5"):
        Run(tmp_path)(broken)
    assert steps.listed(tmp_path) == [4]


def test_host_runs_at_most_two_updates_ahead_of_the_device(tmp_path, monkeypatch):
    waited = []

    class Flag:
        def __init__(self, step):
            self.step = step

        def block_until_ready(self):
            waited.append(self.step)

        def __int__(self):
            return 0

    monkeypatch.setattr(loop, "_first_broken", lambda broken, step, loss, grad_norm: Flag(step))
    ahead = []
    Run(tmp_path, num_steps=8)(progress=lambda step, total: ahead.append(step - len(waited)))
    assert ahead == [1, 2, 2, 2, 2, 2, 2, 2]
    assert waited == [1, 2, 3, 4, 5, 6]


def test_place_is_applied_to_every_batch(tmp_path):
    placed = []

    def place(batch):
        placed.append(float(batch["x"][0]))
        return jax.device_put(batch)

    Run(tmp_path, num_steps=4)(place=place)
    assert placed == [float(batch_at(s)["x"][0]) for s in range(4)]


def test_failed_save_stops_the_run_with_its_reason(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(RunError, match=r"4: cannot be written \(Not a directory\)"):
        Run(blocked / "checkpoints")()


# --------------------------------------------------------------------------------------- non-finite losses


@pytest.mark.parametrize(
    ("at", "value", "between", "last"),
    [
        (6, np.nan, "between steps 6 and 8 (first at 7); the last good checkpoint is step 4 in", [4]),
        (7, np.inf, "between steps 6 and 8 (first at 8); the last good checkpoint is step 4 in", [4]),
        (0, np.nan, "between steps 0 and 3 (first at 1); the last good checkpoint is none", []),
        (9, np.nan, "between steps 9 and 10 (first at 10); the last good checkpoint is step 8 in", [4, 8]),
    ],
)
def test_non_finite_loss_is_found_before_it_is_saved(tmp_path, at, value, between, last):
    run = Run(tmp_path)
    with pytest.raises(TrainingError) as error:
        run(poisoned(at, value))
    assert between in str(error.value) and "learning rate" in str(error.value)
    assert steps.listed(tmp_path) == last
    for step in last:
        assert np.isfinite(load_weights(tmp_path / str(step))[0]["params"]["w"]).all()
    assert all(np.isfinite(values["loss"]) for _, values in run.logs)


def test_non_finite_gradient_of_a_finite_loss_is_found_too(tmp_path):
    def cusp(params, stats, batch, key):
        loss, aux = loss_fn(params, stats, {**batch, "scale": jnp.float32(1.0)}, key)
        return loss + jnp.sqrt(jnp.sum(params["w"] * 0.0) + 1.0 - batch["scale"]), aux

    with pytest.raises(TrainingError, match=r"between steps 0 and 3 \(first at 1\)"):
        Run(tmp_path)(update=make_update(cusp, TX, ema_decay=0.9))


def test_stop_after_a_non_finite_loss_saves_nothing(tmp_path):
    run = Run(tmp_path, every=100, log_every=100)
    with pytest.raises(TrainingError, match="between steps 0 and 5"):
        run(poisoned(2, np.nan), progress=lambda s, n: run.stop.request("SIGTERM") if s == 5 else None)
    assert steps.listed(tmp_path) == []


# ------------------------------------------------------------------------------------------------- stops


def test_stop_saves_at_the_step_and_the_next_call_goes_on(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(
        Interrupted, match=r"SIGUSR1 stopped the training after step 5 of 10.*run the same com"
    ):
        run(progress=lambda s, n: run.stop.request("SIGUSR1") if s == 5 else None)
    assert steps.listed(tmp_path) == [4, 5]
    assert [s for s, _ in run.logs] == [3]
    again = Run(tmp_path)
    state, (truth, trace) = again(), plain_loop(10)
    assert same(state, truth)
    assert again.events[0] == (6, 10)
    assert run.logs + again.logs == [(s, trace[s]) for s in (3, 6, 9, 10)]


def test_stop_on_a_scheduled_step_saves_it_once_with_its_score(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(Interrupted, match="step 4"):
        run(
            progress=lambda s, n: run.stop.request("SIGTERM") if s == 4 else None,
            evaluate=lambda state: {"best": 1.5},
        )
    assert load_weights(tmp_path / "4")[1]["metrics"] == {"best": 1.5}


def test_stop_on_the_last_step_finishes(tmp_path):
    run = Run(tmp_path)
    state = run(progress=lambda s, n: run.stop.request("SIGTERM") if s == 10 else None)
    assert int(state["step"]) == 10 and steps.listed(tmp_path) == [4, 8, 10]


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    flag = StopFlag()
    flag.install()
    yield flag
    flag.restore()
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_signal_sets_the_flag_and_doubled_signals_are_harmless(stop, name):
    assert stop.requested() is None
    for _ in range(2):
        signal.raise_signal(signal.Signals[name])
    assert stop.requested() == name
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested() == name, "the first signal is the cause"


def test_third_interrupt_ends_a_save_that_a_person_does_not_wait_for(stop):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_second_install_keeps_the_first_handlers_for_restore(stop):
    stop.install()  # the fixture checks what restore brings back


# ------------------------------------------------------------------------------------------------- clock


def test_buckets_sum_to_the_wall_time_whatever_is_nested_or_raised():
    clock, begin = Clock(), time.monotonic()
    with clock.measure("a"):
        time.sleep(0.02)
        with clock.measure("b"):
            time.sleep(0.03)
        with clock.measure("a"), pytest.raises(ValueError), clock.measure("c"):
            time.sleep(0.01)
            raise ValueError
    time.sleep(0.01)
    buckets, wall = clock.buckets(), time.monotonic() - begin
    assert sum(buckets.values()) == pytest.approx(wall, abs=2e-3)
    assert buckets["b"] >= 0.03 and buckets["c"] >= 0.01 and buckets["other"] >= 0.01
    assert 0.02 <= buckets["a"] < wall - 0.05 + 2e-3


def test_training_time_is_attributed(tmp_path):
    run = Run(tmp_path)

    def slow(step):
        time.sleep(0.03)
        return batch_at(step)

    def evaluate(state):
        time.sleep(0.03)
        return {}

    compiled = make_update(loss_fn, TX, ema_decay=0.9)

    def update(*args):
        time.sleep(0.01)
        return compiled(*args)

    begin = time.monotonic()
    run(slow, update, evaluate=evaluate, clock=(clock := Clock()))
    buckets, wall = clock.buckets(), time.monotonic() - begin
    assert sum(buckets.values()) == pytest.approx(wall, abs=0.05)
    assert set(buckets) == {"other", "data", "compile", "step", "evaluate", "save"}
    assert buckets["evaluate"] >= 0.09 and buckets["data"] >= 0.06
    assert buckets["step"] >= 0.09 and buckets["compile"] >= 0.05


def test_verifying_checkpoints_needs_no_jax():
    code = "import sys, synthaug.train.digest, synthaug.train.steps; print('jax' in sys.modules)"
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ------------------------------------------------------------------------------------------- optimisers


def one_update(settings, params, grads, num_steps=100, count=1):
    tx = build_optimizer(settings, num_steps)

    @jax.jit
    def step(params, opt):
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    opt = jax.jit(tx.init)(params)
    for _ in range(count):
        params, opt = step(params, opt)
    return params


PARAMS = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}
GRADS = {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.full(3, -0.25)}
ZERO = jax.tree.map(jnp.zeros_like, GRADS)


def test_adam_follows_its_formula():
    settings = Optimizer(kind="adam", learning_rate=0.01, grad_clip=0.0)
    new = one_update(settings, PARAMS, GRADS, count=3)
    m, v, w = 0.0, 0.0, 2.0
    for t in range(1, 4):
        m, v = 0.9 * m + 0.1 * 0.5, 0.999 * v + 0.001 * 0.25
        w -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(new["kernel"], w, rtol=1e-6)


def test_sgd_is_nesterov_with_l2_on_all_but_norms():
    settings = Optimizer(kind="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.01, grad_clip=0.0)
    new = one_update(settings, PARAMS, GRADS, count=2)
    for name, gradient, decay in (("kernel", 0.5, 0.01), ("bias", -0.25, 0.01)):
        w, trace = 2.0, 0.0
        for _ in range(2):
            g = gradient + decay * w
            trace = g + 0.9 * trace
            w -= 0.1 * (g + 0.9 * trace)
        np.testing.assert_allclose(new[name], w, rtol=1e-6)


def test_adamw_decays_kernels_only():
    settings = Optimizer(kind="adamw", learning_rate=0.1, weight_decay=0.5)
    new = one_update(settings, PARAMS, ZERO)
    np.testing.assert_allclose(new["kernel"], 2.0 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(new["bias"], PARAMS["bias"])


def test_adafactor_is_optax_default_without_decay():
    settings = Optimizer(kind="adafactor", learning_rate=0.01, grad_clip=0.0)
    params = {"kernel": jax.random.normal(jax.random.key(0), (130, 140))}
    grads = {"kernel": jax.random.normal(jax.random.key(1), (130, 140))}
    tx = optax.adafactor(0.01)
    updates, _ = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params)
    new = one_update(settings, params, grads)
    np.testing.assert_allclose(new["kernel"], params["kernel"] + updates["kernel"], rtol=0, atol=1e-6)
    assert float(jnp.max(jnp.abs(updates["kernel"]))) > 1e-3
    still = one_update(settings, params, jax.tree.map(jnp.zeros_like, grads))
    np.testing.assert_array_equal(still["kernel"], params["kernel"])


def test_clipping_bounds_the_global_norm_before_the_rule():
    rule = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    norm = float(optax.tree.norm(GRADS))
    for clip, factor in ((norm / 4, 0.25), (norm * 2, 1.0), (0.0, 1.0)):
        new = one_update(Optimizer(**rule, grad_clip=clip), PARAMS, GRADS)
        np.testing.assert_allclose(new["bias"], 2.0 + 0.25 * factor, rtol=1e-6)


def test_schedule_warms_up_then_stays_or_falls_to_zero():
    settings = {"learning_rate": 0.5, "warmup_steps": 10}
    flat = learning_rate(Optimizer(**settings), 110)
    cosine = learning_rate(Optimizer(**settings, schedule="cosine"), 110)
    for step, stays, falls in (
        (0, 0.0, 0.0),
        (5, 0.25, 0.25),
        (10, 0.5, 0.5),
        (60, 0.5, 0.25),
        (110, 0.5, 0.0),
    ):
        assert float(flat(step)) == pytest.approx(stays, abs=1e-7)
        assert float(cosine(step)) == pytest.approx(falls, abs=1e-7)
    assert float(learning_rate(Optimizer(learning_rate=0.5), 1)(0)) == 0.5


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="warmup_steps = 50 leaves none of the 50 steps"):
        learning_rate(Optimizer(warmup_steps=50, schedule="cosine"), 50)
    with pytest.raises(ConfigError, match=r"weight_decay = 0\.1 has no meaning with kind = adam;"):
        build_optimizer(Optimizer(kind="adam", weight_decay=0.1), 50)


@pytest.mark.parametrize("kind", ["adafactor", "adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_optimizer_trains_under_strict_promotion_and_compiles_once(kind, schedule):
    decay = 1e-3 if kind in ("adamw", "sgd") else 0.0
    settings = Optimizer(kind=kind, learning_rate=0.05, warmup_steps=3, schedule=schedule, weight_decay=decay)
    tx = build_optimizer(settings, 40)
    state = create(weights(), tx, with_ema=True)
    update = make_update(loss_fn, tx, ema_decay=0.99)
    batch = {"x": np.full(4, 0.5, np.float32), "scale": np.float32(1.0)}
    losses = []
    for step in range(40):
        state, metrics = update(state, batch, rng.at(KEY, step))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert update._cache_size() == 1


# ------------------------------------------------------------------------------------- state and average


def test_ema_ramps_up_to_its_decay():
    for step, expected in ((0, 0.1), (10, 11 / 20), (10**6, 0.999)):
        assert float(ema.rate(jnp.int32(step), 0.999)) == pytest.approx(expected, rel=1e-6)
    state = create(weights(), TX, with_ema=True)
    update, average = make_update(loss_fn, TX, ema_decay=0.3), np.ones(4)
    for step in range(5):
        state, _ = update(state, batch_at(step), rng.at(KEY, step))
        keep = min(0.3, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * np.asarray(state["params"]["w"], np.float64)
    np.testing.assert_allclose(state["ema"]["w"], average, rtol=1e-6)
    assert same(averaged(state), {"params": state["ema"], "stats": state["stats"]})


def test_without_ema_nothing_is_stored_and_readers_get_params():
    state = create(weights(), TX, with_ema=False)
    state, _ = make_update(loss_fn, TX, ema_decay=0.0)(state, batch_at(0), rng.at(KEY, 0))
    assert state["ema"] == {}
    assert same(averaged(state)["params"], state["params"])


def test_update_counts_steps_carries_stats_and_reports_the_unclipped_norm():
    tx = build_optimizer(Optimizer(kind="sgd", grad_clip=1e-3), 10)
    state = create(weights(), tx, with_ema=False)
    batch, key = batch_at(0), rng.at(KEY, 0)
    grads = jax.grad(lambda p: loss_fn(p, state["stats"], batch, key)[0])(state["params"])
    norm = float(jnp.sqrt(jnp.sum(grads["w"] ** 2)))
    state, metrics = make_update(loss_fn, tx, ema_decay=0.0)(state, batch, key)
    assert (int(state["step"]), int(state["stats"]["seen"])) == (1, 1)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-6) and norm > 1e-3


def test_create_leaves_the_callers_weights_alive():
    mine = weights()
    state = create(mine, TX, with_ema=True)
    make_update(loss_fn, TX, ema_decay=0.9)(state, batch_at(0), rng.at(KEY, 0))
    np.testing.assert_array_equal(mine["params"]["w"], np.ones(4))
