"""What is wrong with the files that an experiment starts from."""

from __future__ import annotations

import pathlib

from synthaug.errors import ConfigError
from synthaug.experiment import Experiment


def check_inputs(experiment: Experiment, where: str) -> None:
    """Raises ConfigError if a file or folder that the experiment starts from is not there."""
    data = experiment.data
    if data.source == "folder" and not pathlib.Path(data.path).is_dir():
        raise ConfigError(
            f"{where}: data.path = {data.path!r} is no folder; expected one with a folder per class."
        )
    for name, model in experiment.cascade.items():
        init = model.finetune.init
        if init != "scratch" and not (pathlib.Path(init) / "digest.json").is_file():
            raise ConfigError(
                f"{where}: cascade.{name}.finetune.init = {init!r} is no checkpoint; expected scratch or the "
                "folder of a step, e.g. runs/digits/finetune-0/checkpoints/500."
            )
