"""Where a study runs. Nothing here changes a result, but for rounding where `devices` differs."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from synthaug import config
from synthaug.config import knob
from synthaug.errors import ConfigError
from synthaug.experiment import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """This machine; cluster and TPU sites come with their launchers."""

    workers: int = knob(0, "processes that run parts side by side; 0 = one per core, at most 2", at_least=0)
    devices: int = knob(1, "devices a batch is split over, in each process", at_least=1)
    loader_workers: int = knob(
        0, "processes that decode and augment for one training; 0 = threads of its own process", at_least=0
    )
    log_interval: float = knob(30.0, "time between progress lines when no terminal is attached", above=0)

    def num_workers(self) -> int:
        """Returns the number of worker processes."""
        # Two at most by default: a worker holds up to 2 GB and uses more than one core by itself.
        return self.workers or min(2, os.cpu_count() or 1)


def load(path: pathlib.Path | None) -> Site:
    """Returns the site in a YAML file, or this machine with its defaults."""
    if path is None:
        return Site()
    return config.build(Site, config.read_yaml(path), str(path))


def check(experiment: Experiment, site: Site, where: str) -> None:
    """Raises ConfigError if a batch of the experiment does not divide over the site's devices."""
    batches = {
        f"cascade.{n}.finetune.batch_size": m.finetune.batch_size for n, m in experiment.cascade.items()
    }
    batches |= {
        f"classify.models.{n}.batch_size": m.batch_size for n, m in experiment.classify.models.items()
    }
    batches["sample.batch_size"] = experiment.sample.batch_size
    batches |= {f"{knob}.batch_size": one.batch_size for knob, one in experiment.score.encoders().items()}
    batches |= {f"{knob}.batch_size": one.batch_size for knob, one in experiment.score.trained().items()}
    for key, size in batches.items():
        if size % site.devices:
            near = max(site.devices, size - size % site.devices)
            raise ConfigError(
                f"{where}: {key} = {size} does not divide over {site.devices} devices; "
                f"use a multiple of {site.devices}, e.g. {near}."
            )
