"""Real Slurm clusters for the tests of this folder, each started once per session and stopped after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing, missing_accounting, start


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    """Skips the folder, with the reason, where no devcluster can be."""
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of four nodes as most are: requeue on preemption, no accounting."""
    started = start(tmp_path_factory.mktemp("slurm") / "main", min_job_age=60)
    yield started
    assert started.devcluster("down").returncode == 0


@pytest.fixture(scope="session")
def strict_cluster(possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with every limit on: accounting, small arrays, no submission from jobs, preemption kills."""
    if reason := missing_accounting():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    started = start(
        folder / "strict",
        nodes=2,
        accounting=1,
        max_array_size=10,
        no_submit_nodes=1,
        preempt_mode="CANCEL",
        job_requeue=0,
        grace=0,
        gpus=2,
        local_dir=folder / "local",
    )
    yield started
    assert started.devcluster("down").returncode == 0
