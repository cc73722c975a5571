"""The errors a user can cause. Each says where, what was found, what was expected and what to do."""

from __future__ import annotations


class SynthaugError(Exception):
    """An error of the user's making: printed as one line, without a traceback."""

    exit_code = 2


class ConfigError(SynthaugError, ValueError):
    """A job file, a site file or an override that cannot be used as it is."""


class RunError(SynthaugError):
    """A run directory that belongs to something else, is held by somebody, or cannot be written."""


class CheckpointError(SynthaugError):
    """A checkpoint that is torn, altered, or of another model."""


class DataError(SynthaugError):
    """Data that are missing, unreadable, or not what the experiment says they are."""


class TrainingError(SynthaugError):
    """A training run that diverged."""


class Interrupted(SynthaugError):
    """A stop that was asked for by a signal: everything is saved, the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL: schedulers and our own launchers read it as "run me again"
