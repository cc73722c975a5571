"""The training loop of diffusion models and classifiers: batch, update, metrics, save, stop check.

`step` counts completed updates and is the only counter. Batch and key are pure functions of it, so a run
that was killed goes on bit for bit from any checkpoint, with no iterator or random state saved.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from synthaug import rng
from synthaug.errors import Interrupted, TrainingError
from synthaug.experiment import Saving
from synthaug.train.checkpoint import Checkpoints
from synthaug.train.clock import Clock
from synthaug.train.preemption import StopFlag
from synthaug.train.state import Metrics, State, Update

Batch = dict[str, Any]
_Block = TypeVar("_Block")
Log = Callable[[int, dict[str, float]], None]

AHEAD = 2  # batches that the thread prepares, and updates that the device may lie behind


def start(checkpoints: Checkpoints, make_state: Callable[[], State]) -> State:
    """Returns the state of the latest checkpoint, or a new one where there is none.

    Args:
        checkpoints: those of this run.
        make_state: makes the state before the first update, placed as training wants it. It is called in
            either case, because a restored array goes where the new one is.

    Raises:
        CheckpointError: the checkpoints belong to something else, or do not fit.
    """
    step = checkpoints.latest()
    if step is None:
        return make_state()
    # shapes and placement only, so that the new arrays are gone before the restored ones come
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state())
    return checkpoints.restore(step, like)


def fit(
    state: State,
    update: Update,
    batch_at: Callable[[int], dict[str, np.ndarray]],
    *,
    num_steps: int,
    key: jax.Array,
    checkpoints: Checkpoints,
    saving: Saving,
    stop: StopFlag,
    log: Log,
    progress: Callable[[int, int], None],
    clock: Clock,
    evaluate: Callable[[State], dict[str, float]] | None = None,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    snapshot: Callable[[int, State], None] | None = None,
    snapshot_every: int = 1,
) -> State:
    """Returns the state after `num_steps` updates, all saved; `state` is donated.

    Args:
        state: from `start`; its step says where to go on.
        update: from `state.make_update`; its metrics hold at least "loss" and "grad_norm", f32[].
        batch_at: the global batch of a step, a pure function of it; called in a thread, in order.
        num_steps: updates in all, those of earlier attempts included.
        key: the run's key; step s trains with rng.at(key, s).
        checkpoints: where states are saved.
        saving: when to save and to log.
        stop: asked after every step.
        log: gets the metrics of every `log_every`-th step, late but in order, and what `evaluate` returns.
        progress: gets the completed updates and `num_steps` after every update.
        clock: counts into "data", "compile" (the first update of this process), "step", "evaluate", "save".
        evaluate: called before every scheduled save; its dict is logged and saved with the state, where
            "best" (lower is better) decides which checkpoints stay.
        place: puts a batch on the devices; called in this thread.
        snapshot: called with every `snapshot_every`-th state, every one in `saving.keep_steps` and the last,
            before that is saved: a checkpoint means that every snapshot up to it is there.
        snapshot_every: steps between snapshots.

    Raises:
        TrainingError: loss or gradient became inf or nan; what was saved before is good.
        Interrupted: a stop was requested and the state is saved; raised only before the last step.
        RunError: a checkpoint cannot be written.
    """
    step = int(state["step"])
    watch = _Watch(step, checkpoints, log)
    if num_steps == 0 and checkpoints.latest() is None:  # weights that are used as they are
        with clock.measure("save"):
            checkpoints.save(0, state, {})
    with contextlib.closing(prefetch(batch_at, step, num_steps)) as batches:
        bucket = "compile"
        while step < num_steps:
            with clock.measure("data"):
                batch = place(next(batches))
            with clock.measure(bucket):
                state, metrics = update(state, batch, _key_at(key, step))
                step, bucket = step + 1, "step"
                watch.add(step, metrics, due=step % saving.log_every == 0 or step == num_steps)
            progress(step, num_steps)
            checkpoints.poll()
            if snapshot and _is_due(step, saving, num_steps, snapshot_every):
                with clock.measure("step"):
                    watch.settle(step)
                with clock.measure("save"):
                    snapshot(step, state)
            if due := _is_due(step, saving, num_steps, saving.every):
                _save(step, state, checkpoints, watch, clock, log, evaluate)
            if step < num_steps and (signal := stop.requested()):
                if not due:  # the score of a step off the schedule would not be in an uninterrupted run
                    _save(step, state, checkpoints, watch, clock, log, None)
                _leave(step, num_steps, signal, checkpoints, clock)
    with clock.measure("save"):
        checkpoints.wait()
    return state


def _is_due(step: int, saving: Saving, num_steps: int, every: int) -> bool:
    return step % every == 0 or step in saving.keep_steps or step == num_steps


def _save(
    step: int,
    state: State,
    checkpoints: Checkpoints,
    watch: _Watch,
    clock: Clock,
    log: Log,
    evaluate: Callable[[State], dict[str, float]] | None,
) -> None:
    """Saves a state that is known to be finite; scores it first."""
    with clock.measure("step"):
        watch.settle(step)
    values = {}
    if evaluate is not None:
        with clock.measure("evaluate"):
            values = evaluate(state)
        log(step, values)
    with clock.measure("save"):
        checkpoints.save(step, state, values)


def _leave(step: int, num_steps: int, signal: str, checkpoints: Checkpoints, clock: Clock) -> None:
    with clock.measure("save"):
        checkpoints.wait()
    raise Interrupted(
        f"{signal} stopped the training after step {step} of {num_steps}; it is saved in "
        f"{checkpoints.directory}: run the same command again to go on."
    )


def prefetch(batch_at: Callable[[int], _Block], start: int, end: int) -> Generator[_Block, None, None]:
    """Yields the batches of steps start, ..., end - 1; a thread prepares the next ones meanwhile."""
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        ahead = collections.deque(pool.submit(batch_at, s) for s in range(start, min(start + AHEAD, end)))
        for step in range(start, end):
            batch = ahead.popleft().result()
            if step + AHEAD < end:
                ahead.append(pool.submit(batch_at, step + AHEAD))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


class _Watch:
    """Metrics that stay on the device until they are due, and the watch for the first that is not finite."""

    def __init__(self, step: int, checkpoints: Checkpoints, log: Log) -> None:
        self._checkpoints, self._log = checkpoints, log
        self._sound = step  # up to here everything is known to be finite
        self._broken = jnp.int32(0)  # the first step with inf or nan, 0 = none so far; on the device
        self._late: tuple[int, Metrics, jax.Array] | None = None
        self._behind: collections.deque[jax.Array] = collections.deque()

    def add(self, step: int, metrics: Metrics, *, due: bool) -> None:
        """Takes the metrics of a step; when some are due, logs the ones before, which are ready by now."""
        self._broken = _first_broken(self._broken, step, metrics["loss"], metrics["grad_norm"])
        if due:
            self._log_late()
            self._late = (step, metrics, self._broken)
        # Without a bound the host would run away from the device, and a stop would take minutes.
        self._behind.append(self._broken)
        if len(self._behind) > AHEAD:
            self._behind.popleft().block_until_ready()

    def settle(self, step: int) -> None:
        """Logs everything that is due, and checks every step so far."""
        self._log_late()
        self._check(step, self._broken)

    def _log_late(self) -> None:
        if self._late is not None:
            step, metrics, broken = self._late
            self._late = None
            self._check(step, broken)
            self._log(step, {name: float(value) for name, value in jax.device_get(metrics).items()})

    def _check(self, step: int, broken: jax.Array) -> None:
        if first := int(broken):
            last = self._checkpoints.latest()
            where = f"step {last} in {self._checkpoints.directory}" if last else "none: nothing was saved yet"
            raise TrainingError(
                f"training: loss or gradient became non-finite between steps {self._sound} and {step} "
                f"(first at {first}); the last good checkpoint is {where}; lower the learning rate or clip "
                "gradients (optimizer.learning_rate, optimizer.grad_clip) under a new run name."
            )
        self._sound = max(self._sound, step)


_key_at = jax.jit(rng.at)  # 30 times faster than op by op, every step


@jax.jit
def _first_broken(broken: jax.Array, step: jax.Array, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """Returns i32[]: `broken` if it is set, else `step` if a value is inf or nan, else 0."""
    fine = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    return jnp.where((broken > 0) | fine, broken, step)
