"""Checkpoints of a training run: written in the background, proved whole by a digest before they count.

    checkpoints/<step>/state/        what orbax wrote: a flat dict of arrays, named as in leaves.py
    checkpoints/<step>/digest.json   written last, see steps.py

The only user of orbax.
"""

from __future__ import annotations

import concurrent.futures
import errno
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from synthaug import commit
from synthaug.errors import CheckpointError, RunError
from synthaug.experiment import Saving
from synthaug.train import digest, leaves, quiet, steps
from synthaug.train.state import State, Weights

STATE = "state"


class Checkpoints:
    """The checkpoints of one training run.

    A kill at any moment leaves a directory that `latest` can use: a step counts only once its digest is
    written, that happens after everything else, and old steps go only after that.

    Args:
        directory: folder of the steps; made at the first save.
        saving: which steps stay.
        identity: hashes of what a checkpoint belongs to, by name: experiment, data, model.
        warn: called with one line for every checkpoint that is moved aside.
        about: what the weights are, for those who use them elsewhere: family, licence, network, source.
            JSON values; kept in every digest and never compared.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        saving: Saving,
        identity: dict[str, str],
        warn: Callable[[str], None],
        about: dict[str, Any] | None = None,
    ) -> None:
        quiet.silence_orbax()
        self.directory = directory.absolute()  # orbax takes no other
        self._steps = steps.Steps(self.directory, saving, identity, warn, about)
        # Directories made in the background would leave threads waiting for minutes when that fails.
        options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(), async_options=options)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint-digest")
        self._pending: concurrent.futures.Future[None] | None = None

    def latest(self) -> int | None:
        """Returns the newest step that is whole, or None; moves torn and altered ones aside.

        Raises:
            CheckpointError: the directory holds checkpoints of something else; nothing is moved then.
            RunError: the directory cannot be read, or a torn checkpoint cannot be moved.
        """
        self.wait()
        try:
            return self._steps.latest()
        except OSError as error:
            raise commit.write_error(self.directory, error) from None

    def restore(self, step: int, like: State) -> State:
        """Returns the training state of a step.

        Args:
            step: a step that `latest` returned, or another one in the directory.
            like: arrays or ShapeDtypeStructs with the expected tree, shapes, dtypes and placement.

        Raises:
            CheckpointError: no such step, torn, altered, foreign, or it does not fit `like`.
        """
        folder = self._steps.folder(step)
        record = _whole(folder, lambda: self._steps.whole(step))
        expected = {leaves.name(path): _abstract(leaf) for path, leaf in leaves.flatten(like)}
        on_disk = {leaves.name(path): described for path, described in record["leaves"]}
        wanted = {name: leaves.describe(leaf) for name, leaf in expected.items()}
        for misfit in leaves.misfits(on_disk, wanted):
            raise CheckpointError(f"{folder}: does not fit the model: {misfit}; was a model setting changed?")
        placed = ocp.checkpoint_utils.construct_restore_args(expected)
        flat = self._orbax.restore(folder / STATE, args=ocp.args.PyTreeRestore(expected, restore_args=placed))
        return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in expected])

    def save(self, step: int, state: State, metrics: dict[str, float]) -> None:
        """Starts to write a step, and returns when the state may be donated; waits for the save before it.

        Args:
            step: completed updates of `state`.
            state: the training state.
            metrics: kept in the digest; "best", lower is better, decides which steps `keep_best` keeps.

        Raises:
            RunError: it, or the save before it, cannot be written.
            CheckpointError: the step exists.
        """
        self.wait()
        folder = self._steps.folder(step)
        if folder.exists():
            raise CheckpointError(f"{folder}: exists already; resume from it, or delete it.")
        flat = leaves.flatten(state)
        arrays = ocp.args.PyTreeSave({leaves.name(path): leaf for path, leaf in flat})
        described = [[path, leaves.describe(leaf)] for path, leaf in flat]
        try:
            folder.mkdir(parents=True)
            _check_space(folder, sum(leaf.nbytes for _, leaf in flat))
            self._orbax.save(folder / STATE, args=arrays)
        except Exception as error:  # orbax has no error class of its own for a write that failed
            raise _unwritten(folder, error) from error
        self._pending = self._thread.submit(self._finish, step, dict(metrics), described)

    def poll(self) -> None:
        """Raises the error of a save that failed in the background; cheap, for every step."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save counts.

        Raises:
            RunError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits for the last save, then ends the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def _finish(self, step: int, metrics: dict[str, float], described: list[Any]) -> None:
        """Waits for orbax, writes the digest, deletes what need not stay; runs in the thread."""
        try:
            self._orbax.wait_until_finished()
            self._steps.commit(step, metrics, described)
        except Exception as error:  # see `save`
            raise _unwritten(self._steps.folder(step), error) from error
        try:
            self._steps.retain()
        except OSError as error:
            raise commit.write_error(self.directory, error) from None


def load_weights(step_dir: pathlib.Path, *, average: bool = True) -> tuple[Weights, dict[str, Any]]:
    """Returns the weights {"params", "stats"} of a checkpoint, averaged if they were, and its digest.

    Args:
        step_dir: the folder of one step, e.g. runs/digits/finetune-base/checkpoints/500.
        average: False for the weights that training goes on with, even if there are averaged ones.

    Returns:
        Nested dicts of numpy arrays, and the record in digest.json: "step", "identity", "metrics", ...

    Raises:
        CheckpointError: the folder is missing, torn or altered.
    """
    quiet.silence_orbax()
    record = _whole(step_dir, lambda: digest.read_checked(step_dir))
    paths = [path for path, _ in record["leaves"]]
    source = "ema" if average and any(path[0] == "ema" for path in paths) else "params"
    stats = "ema_stats" if average and any(path[0] == "ema_stats" for path in paths) else "stats"
    wanted = {leaves.name(path): path for path in paths if path[0] in (source, stats)}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        args = ocp.args.PyTreeRestore(dict.fromkeys(wanted, 0), restore_args=as_numpy, partial_restore=True)
        flat = reader.restore(step_dir.absolute() / STATE, args=args)
    tree = leaves.nest([(path, flat[name]) for name, path in wanted.items()])
    return {"params": tree.get(source, {}), "stats": tree.get(stats, {})}, record


def _whole(folder: pathlib.Path, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what `read` returns; an unusable checkpoint becomes an error that says what to do."""
    try:
        if not folder.is_dir():
            raise digest.Unusable(f"{folder}: no such checkpoint")
        _check_kind(folder)
        return read()
    except digest.Unusable as problem:
        others = [str(step) for step in steps.listed(folder.parent) if str(step) != folder.name]
        advice = f"use another step of {folder.parent}: {', '.join(others)}" if others else "train again"
        raise CheckpointError(f"{problem}; {advice}.") from None
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror}); restore the file.") from None


def _check_kind(folder: pathlib.Path) -> None:
    """Raises for a folder that no attempt to write a checkpoint can have left, e.g. that of all steps."""
    names = [path.name for path in folder.iterdir()]
    if not names or any(name == digest.FILE or name.startswith(STATE) for name in names):
        return
    inside = [str(step) for step in steps.listed(folder)]
    advice = f"one of its steps: {', '.join(inside)}" if inside else "the folder of a step"
    raise CheckpointError(f"{folder}: is no checkpoint of synthaug (no {digest.FILE}); name {advice}.")


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and placement of an array; the first device if it states none."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _check_space(folder: pathlib.Path, needed: int) -> None:
    """Raises before a write that would only fill the disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"it needs {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB left"
        )


def _unwritten(folder: pathlib.Path, error: Exception) -> RunError:
    """Returns the error to raise, after deleting what was written so far: it may fill the disk."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.1)  # after one write failed, tensorstore's threads go on for a moment with the others
    return error if isinstance(error, RunError) else commit.write_error(folder, error)
