"""Rubbish in: one clear line, exit code 2, before or instead of work, and nothing lost."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from synthaug import experiment
from synthaug.rundir import RunDir
from tests import study

SMALL = [  # only what the folder source needs to get through prepare in a second
    "data.source=folder", "data.num_classes=2", "data.num_train=16", "data.num_val=4", "data.channels=1",
    "sweep.phases={}", "score.neighbours=2", "name=folder",
]  # fmt: skip


def refused(*words: str) -> str:
    """Returns the one line of a command that must fail with exit code 2."""
    done = study.synthaug(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("synthaug: ")
    return lines[-1]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes of ten grey images."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def run_folder(folder: pathlib.Path, *more: str) -> str:
    runs = str(folder.parent / "runs")
    words = [
        "run",
        str(study.TINY),
        "--runs",
        runs,
        *SMALL,
        f"data.path={folder}",
        *more,
        "--stage",
        "prepare",
    ]
    return refused(*words)


def test_missing_data(tmp_path: pathlib.Path) -> None:
    assert "nowhere" in run_folder(tmp_path / "nowhere")


def test_class_without_images(folder: pathlib.Path) -> None:
    (folder / "empty").mkdir()
    assert "no image in empty" in run_folder(folder, "data.num_classes=3")


def test_unreadable_image_is_named_and_counted(folder: pathlib.Path) -> None:
    (folder / "cat" / "3.png").write_bytes(b"not an image")
    text = run_folder(folder)
    assert "cat/3.png" in text
    assert "max_corrupt" in text


def test_allowed_corrupt_images_are_left_out_by_name(folder: pathlib.Path) -> None:
    (folder / "cat" / "3.png").write_bytes(b"not an image")
    runs = folder.parent / "runs"
    words = [*SMALL, f"data.path={folder}", "data.max_corrupt=1", "data.num_train=15", "--stage", "prepare"]
    done = study.synthaug("run", str(study.TINY), "--runs", str(runs), *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((runs / "folder" / "prepare-0" / "done.json").read_text())["result"]
    assert list(result["corrupt"]) == ["cat/3.png"]
    assert result["num_train"] == 15


def test_wrong_counts_give_the_right_ones(folder: pathlib.Path) -> None:
    assert "16" in run_folder(folder, "data.num_train=17")


def test_unknown_class_in_prompts(folder: pathlib.Path) -> None:
    runs = str(folder.parent / "runs")
    words = [*SMALL, f"data.path={folder}", "prompts.names={dogg: hound}"]
    text = refused("run", str(study.TINY), "--runs", runs, *words)
    assert "dogg" in text
    assert "did you mean 'dog'?" in text


def test_job_file_errors_come_before_any_directory_is_made(tmp_path: pathlib.Path) -> None:
    runs = tmp_path / "runs"
    cycle = refused("run", str(study.TINY), "--runs", str(runs), "cascade.base4.low_res=sr8")
    assert "cycle" in cycle
    stage = refused("run", str(study.TINY), "--runs", str(runs), "stages=[prepare, smaple]")
    assert "did you mean 'sample'?" in stage
    assert "no such stage" in refused("run", str(study.TINY), "--runs", str(runs), "--stage", "train")
    batch_site = tmp_path / "site.yaml"
    batch_site.write_text("devices: 3\n")
    text = refused("run", str(study.TINY), "--runs", str(runs), "--site", str(batch_site))
    assert "does not divide over 3 devices; use a multiple of 3" in text
    assert not (runs / "tiny").exists()


def test_two_processes_on_one_run(tmp_path: pathlib.Path) -> None:
    first = study.start(tmp_path)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "tiny" / "plan.json").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        text = refused("run", str(study.TINY), "--runs", str(tmp_path))
        assert f"held by process {first.pid} on " in text
    finally:
        study.kill(first)


@pytest.fixture
def open_path() -> Iterator[pathlib.Path]:
    """A folder that other users may read: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run as another user")
def test_read_only_run_directory(open_path: pathlib.Path) -> None:
    """As an ordinary user: root may write anywhere."""
    run = RunDir(open_path / "tiny")
    run.create(experiment.load(study.TINY))
    # Everything is imported as root: the interpreter's own files may be closed to others.
    code = (
        "import os, sys, synthaug.launch.local, synthaug.site, synthaug.commit, synthaug.__main__ as m; "
        "os.setgid(65534); os.setuid(65534); sys.exit(m.main(sys.argv[1:]))"
    )
    for runs, words in (
        (open_path, "is read-only"),
        (open_path / "new", "cannot be made (Permission denied)"),
    ):
        line = [sys.executable, "-c", code, "run", "tests/tiny.yaml", "--runs", str(runs)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=study.ROOT)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert words in done.stderr


def test_full_disk(tmp_path: pathlib.Path) -> None:
    """A file system of 200 kB: the stage stops with one line, and nothing half-written counts."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(mount)], check=False
    ).returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        text = refused("run", str(study.TINY), "--runs", str(mount))
        assert "No space left" in text or "full" in text
        assert not (mount / "tiny" / "finetune-0" / "done.json").exists()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_non_finite_loss_stops_with_the_interval(tmp_path: pathlib.Path) -> None:
    """A learning rate of 1e30 breaks training within steps; test_loop has one with checkpoints before."""
    runs = tmp_path
    words = [
        "name=broken",
        "score.encoder.optimizer.learning_rate=1e30",
        "score.encoder.optimizer.grad_clip=0",
    ]
    line = ["run", str(study.TINY), "--runs", str(runs), *words]
    assert study.synthaug(*line, "--stage", "prepare").returncode == 0
    done = study.synthaug(*line, "--stage", "encoder")
    assert done.returncode == 2, done.stderr
    assert not (runs / "broken" / "encoder-0" / "done.json").exists()
    text = done.stderr.splitlines()[-1]
    assert "non-finite between steps" in text
    assert "lower the learning rate" in text


def test_altered_checkpoint_is_named(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    """A flipped byte in finished weights: the stage that reads them says so and samples nothing."""
    run = tmp_path / "tiny"
    shutil.copytree(reference_run, run)
    step = run / "finetune-0" / "checkpoints" / "40" / "state"
    victim = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    shutil.rmtree(run / "sets" / "generated")
    line = ["run", str(study.TINY), "--runs", str(tmp_path), "--stage", "sample", "--force"]
    text = refused(*line)
    assert str(run / "finetune-0" / "checkpoints" / "40") in text
    assert not list((run / "sets").glob("generated/*/shard*.json"))


def test_altered_shard_is_named(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(reference_run, run)
    victim = run / "sets" / "generated" / "8" / "shard-00002.arrayrecord"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    text = refused("run", str(study.TINY), "--runs", str(tmp_path), "--stage", "score", "--force")
    assert "shard-00002" in text
    assert "altered" in text


def test_unknown_names(tmp_path: pathlib.Path) -> None:
    assert "no run here" in refused("status", "nothing", "--runs", str(tmp_path))
    assert "no run here" in refused("exec", str(tmp_path / "nothing"), "--stage", "prepare")
    assert "name the stage" in refused("run", str(study.TINY), "--runs", str(tmp_path), "--force")


def test_stop_request_before_anything_runs(tmp_path: pathlib.Path) -> None:
    process = study.start(tmp_path)
    end = time.monotonic() + 60
    while not (tmp_path / "tiny" / "prepare-0").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 75
    assert "same command again" in text.splitlines()[-1]
