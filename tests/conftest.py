"""Strict settings for every test: no silent promotion, one CPU device, no network, colour off."""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["NO_COLOR"] = "1"

import pathlib
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def reference_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The tiny study, run once without interruption."""
    from tests import study

    runs = tmp_path_factory.mktemp("runs")
    done = study.synthaug("run", str(study.TINY), "--runs", str(runs))
    assert done.returncode == 0, done.stderr
    return runs / "tiny"


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_go_with_their_module() -> Iterator[None]:
    """Frees what a module compiled: all together would hold several GB, and modules rarely share any."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


from hypothesis import settings  # noqa: E402

# A deadline measures the machine's other work, not ours; the suite has a time limit of its own.
settings.register_profile("synthaug", deadline=None)
settings.load_profile("synthaug")
