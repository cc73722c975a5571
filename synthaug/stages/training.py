"""One way from a loss to finished weights, for diffusion models and classifiers alike."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from synthaug import parallel
from synthaug.experiment import Saving
from synthaug.stages.job import Job
from synthaug.train.checkpoint import Checkpoints
from synthaug.train.loop import fit, start

State = dict[str, Any]


def train(
    job: Job,
    *,
    make_state: Callable[[], State],
    update: Callable[..., tuple[State, dict[str, jax.Array]]],
    batch_at: Callable[[int], dict[str, Any]],
    num_steps: int,
    saving: Saving,
    key: jax.Array,
    identity: dict[str, str],
    evaluate: Callable[[State], dict[str, float]] | None = None,
    learning_rate: Callable[[int], Any] | None = None,
    name: str = "checkpoints",
    about: dict[str, Any] | None = None,
    snapshot: Callable[[int, State], None] | None = None,
    snapshot_every: int = 1,
) -> tuple[State, pathlib.Path]:
    """Trains to `num_steps`, from the last good checkpoint if there is one.

    Args:
        job: where progress, metrics and stop requests go.
        make_state: the state before the first step.
        update: the compiled training step.
        batch_at: batch of a step, a pure function.
        num_steps: completed updates at the end.
        saving: when to save and log.
        key: root of the steps' keys.
        identity: what a checkpoint must agree with to be loaded.
        evaluate: metrics of a state, computed before each save.
        learning_rate: rate of a step, for the log.
        name: folder of the checkpoints inside the part.
        about: what the weights are, kept with every checkpoint.
        snapshot: writes what post-hoc EMA needs of a state.
        snapshot_every: steps between snapshots.

    Returns:
        The final state and the folder of its checkpoint.
    """
    checkpoints = Checkpoints(job.directory / name, saving, identity, warn=job.say, about=about)
    board = SummaryWriter(str(job.run.path / "tb" / f"{job.stage}-{job.part}"), flush_secs=10)

    def log(step: int, metrics: dict[str, float]) -> None:
        if learning_rate is not None:
            metrics = {**metrics, "learning_rate": float(learning_rate(step))}
        job.log(step, metrics)
        for tag, value in metrics.items():
            if np.isfinite(value):
                board.add_scalar(tag, value, step)

    try:
        with job.clock.measure("restore"):
            state = start(checkpoints, make_state)
        job.resumed(int(state["step"]))
        job.progress(int(state["step"]), num_steps)  # shows the total while the first step compiles
        state = fit(
            state,
            update,
            batch_at,
            num_steps=num_steps,
            key=key,
            checkpoints=checkpoints,
            saving=saving,
            stop=job.stop,
            log=log,
            progress=job.progress,
            clock=job.clock,
            evaluate=evaluate,
            place=parallel.place,
            snapshot=snapshot,
            snapshot_every=snapshot_every,
        )
    finally:
        board.close()
        checkpoints.close()
    return state, job.directory / name / str(num_steps)


def show_images(job: Job, tag: str, images: np.ndarray, step: int) -> None:
    """Writes u8[N,H,W,C] as one row of tiles to TensorBoard."""
    row = np.concatenate(list(images), axis=1)  # u8[H,N*W,C]
    row = np.repeat(np.repeat(row, 8, axis=0), 8, axis=1) if row.shape[0] < 64 else row
    with SummaryWriter(str(job.run.path / "tb" / f"{job.stage}-{job.part}")) as board:
        board.add_image(tag, row, step, dataformats="HWC")
