"""What is wrong with the files that an experiment starts from."""

from __future__ import annotations

import pathlib

from synthaug.checks import initial
from synthaug.errors import ConfigError
from synthaug.experiment import Experiment


def check_inputs(experiment: Experiment, where: str) -> None:
    """Raises ConfigError if what an experiment starts from is not there or does not fit it."""
    problems = [*_data_problems(experiment), *initial.init_problems(experiment)]
    if experiment.text_encoder.kind == "t5":
        from synthaug.checks.text import t5_problems

        problems += t5_problems(experiment.text_encoder.path, experiment.text_encoder)
    for problem in problems:
        raise ConfigError(f"{where}: {problem}")


def _data_problems(experiment: Experiment) -> list[str]:
    data = experiment.data
    if data.source != "folder":
        return []
    folders = {"path": data.path, **({"val_path": data.val_path} if data.val_path else {})}
    return [
        f"data.{knob} = {path!r} is no folder; expected one with a folder per class."
        for knob, path in folders.items()
        if not pathlib.Path(path).is_dir()
    ]
