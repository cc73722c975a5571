"""The files of a run. A part is finished if and only if its done.json exists.

runs/<name>/
experiment.yaml  plan.json  lock          written once; who runs it now
<stage>-<part>/  done.json  attempts.jsonl  log.txt  metrics.jsonl  checkpoints/
sets/<set>/<resolution>/                  image shards with their markers
manifest.parquet                          every image of the generated set, before it is made
cache/  tb/  report/                      compiled programs, TensorBoard, the result
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any

import yaml

from synthaug import commit, config
from synthaug.errors import RunError
from synthaug.experiment import Experiment, parse


class RunDir:
    """The directory of one run."""

    def __init__(self, path: pathlib.Path):
        self.path = path.absolute()

    # ---------------------------------------------------------------------------- paths

    def part_dir(self, stage: str, part: int) -> pathlib.Path:
        """Returns the folder of a part."""
        return self.path / f"{stage}-{part}"

    def set_dir(self, name: str, resolution: int) -> pathlib.Path:
        """Returns the folder of an image set's shards."""
        return self.path / "sets" / name / str(resolution)

    @property
    def manifest(self) -> pathlib.Path:
        """The table of every generated image."""
        return self.path / "manifest.parquet"

    @property
    def report(self) -> pathlib.Path:
        """The folder of the report."""
        return self.path / "report"

    # ---------------------------------------------------------------------- experiment

    def create(self, experiment: Experiment, command: str = "") -> None:
        """Writes experiment.yaml once.

        Args:
            experiment: the settings.
            command: the command line that starts the run, kept as a comment for the report.

        Raises:
            RunError: the directory cannot be written, or holds another experiment.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be made ({error.strerror}); choose another --runs."
            ) from None
        file = self.path / "experiment.yaml"
        if file.exists():
            self._refuse_other(experiment, file)
            if not os.access(self.path, os.W_OK) and os.geteuid() != 0:
                raise RunError(f"{self.path}: is read-only; make it writable or choose another --runs.")
            return
        strays = sorted(p.name for p in self.path.iterdir() if p.name != "lock")
        if strays:
            raise RunError(
                f"{self.path}: is not empty ({', '.join(strays[:3])}) and no run of synthaug; "
                "choose another name or --runs."
            )
        text = yaml.safe_dump(config.to_tree(experiment), sort_keys=False, allow_unicode=True)
        commit.write_new(file, f"# {command}\n{text}".encode())

    def command(self) -> str:
        """Returns the command line that started the run."""
        return (self.path / "experiment.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")

    def write_plan(self, text: str) -> None:
        """Writes plan.json once.

        Raises:
            RunError: the run was planned otherwise, by another version of this program.
        """
        file = self.path / "plan.json"
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise RunError(
                f"{file}: was planned otherwise by another version of synthaug, so parts have other numbers; "
                f"go on with that version, choose another name, or delete {self.path}."
            )
        commit.write_new(file, text.encode())

    def _refuse_other(self, experiment: Experiment, file: pathlib.Path) -> None:
        lines = config.compare(self.experiment(), experiment)
        if lines:
            keys = "1 key" if len(lines) == 1 else f"{len(lines)} keys"
            raise RunError(
                f"{file} differs from this command in {keys}: {'; '.join(lines[:8])}"
                f"{'; ...' if len(lines) > 8 else ''}. Choose another name "
                f"(name={experiment.name}-2) or delete {self.path}."
            )

    def experiment(self) -> Experiment:
        """Returns the experiment this run was created with."""
        file = self.path / "experiment.yaml"
        if not file.exists():
            raise RunError(
                f"{self.path}: no run here (experiment.yaml is missing); check the name and --runs."
            )
        return parse(config.read_yaml(file), str(file))

    # ----------------------------------------------------------------------- done marks

    def is_done(self, stage: str, part: int) -> bool:
        """Returns whether a part is finished."""
        return (self.part_dir(stage, part) / "done.json").exists()

    def result(self, stage: str, part: int = 0) -> dict[str, Any]:
        """Returns what a finished part wrote.

        Raises:
            RunError: the part is not finished, or its done.json was altered into something unreadable.
        """
        file = self.part_dir(stage, part) / "done.json"
        try:
            return json.loads(file.read_text())["result"]
        except FileNotFoundError:
            raise RunError(f"{file}: missing; {stage} {part} is not finished, run it first.") from None
        except (ValueError, KeyError):
            raise RunError(
                f"{file}: not readable; redo it with --stage {stage} --part {part} --force."
            ) from None

    def finish(self, stage: str, part: int, record: dict[str, Any]) -> None:
        """Writes done.json, the last file of a part, by atomic create."""
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        commit.write_new(self.part_dir(stage, part) / "done.json", text.encode())

    def forget(self, stage: str, part: int) -> None:
        """Deletes everything a part wrote into its own folder, its done.json first."""
        directory = self.part_dir(stage, part)
        (directory / "done.json").unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)

    def forget_shards(self, name: str, shards: range) -> None:
        """Deletes shards of a set at every resolution, their markers first, and what lies beside them."""
        for shard in shards:
            for file in sorted((self.path / "sets" / name).rglob(f"*-{shard:05}.*"), key=_marker_first):
                file.unlink(missing_ok=True)

    # ---------------------------------------------------------------------------- locks

    @contextlib.contextmanager
    def hold(self, name: str = "lock") -> Iterator[None]:
        """Holds a lock file of the run while the block runs; the kernel frees it when the holder dies.

        Raises:
            RunError: somebody else holds it; the message says who.
        """
        file = self.path / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = open(file, "a+")  # noqa: SIM115 (held open for as long as the lock is)
        except OSError as error:
            raise RunError(f"{file}: cannot be written ({error.strerror}); make the run writable.") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise RunError(f"{self.path}: held by {holder}; wait for it, or stop it first.") from None
            handle.seek(0)
            handle.truncate()
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            handle.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
            handle.flush()
            yield


def _marker_first(file: pathlib.Path) -> tuple[bool, str]:
    return file.suffix != ".json", file.name
