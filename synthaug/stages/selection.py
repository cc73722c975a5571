"""The selection that the filter leaves to the classifiers."""

from __future__ import annotations

import pathlib

from synthaug.data.select import Selection
from synthaug.rundir import RunDir
from synthaug.stages.arrays import read_arrays


def selection_file(run: RunDir) -> pathlib.Path:
    """Returns where the selection is."""
    return run.part_dir("select", 0) / "selection.npz"


def read_selection(run: RunDir) -> Selection:
    """Returns the images of the generated set that the filter chose, checked against their hash."""
    return Selection(**read_arrays(selection_file(run), run.result("select")["sha256"]))
