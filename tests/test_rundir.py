"""The run directory: written once, held by one, finished by a marker."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from synthaug import experiment
from synthaug.errors import RunError
from synthaug.rundir import RunDir

DIGITS = pathlib.Path(__file__).parent.parent / "jobs" / "digits.yaml"


def test_experiment_is_written_once_and_a_differing_one_refused(tmp_path: pathlib.Path) -> None:
    run = RunDir(tmp_path / "digits")
    first = experiment.load(DIGITS)
    run.create(first, "synthaug run jobs/digits.yaml")
    run.create(first, "synthaug run elsewhere/digits.yaml")
    assert run.command() == "synthaug run jobs/digits.yaml"
    assert run.experiment() == first
    with pytest.raises(RunError) as error:
        run.create(experiment.load(DIGITS, ["seed=7"]))
    text = str(error.value)
    assert "differs from this command in 1 key: seed: 0 on disk, 7 now" in text
    assert "name=digits-2" in text
    assert run.experiment() == first


def test_an_older_plan_is_not_mixed_with_a_new_one(tmp_path: pathlib.Path) -> None:
    run = RunDir(tmp_path)
    run.write_plan("old")
    run.write_plan("old")
    with pytest.raises(RunError, match="another version of synthaug"):
        run.write_plan("new")


def test_a_phase_order_of_its_own_is_a_difference(tmp_path: pathlib.Path) -> None:
    run = RunDir(tmp_path / "digits")
    small = "sweep.phases.enlarge.num_images=300"
    run.create(experiment.load(DIGITS, [small]))
    with pytest.raises(RunError, match=r"sweep\.order"):
        run.create(experiment.load(DIGITS, [small, "sweep.order=[base, checkpoint, guidance, enlarge]"]))


def test_a_foreign_directory_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty \(notes.txt\)"):
        RunDir(tmp_path).create(experiment.load(DIGITS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


def test_no_run_here(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        RunDir(tmp_path / "none").experiment()


def test_second_holder_is_told_who_the_first_is(tmp_path: pathlib.Path) -> None:
    run = RunDir(tmp_path)
    code = (
        "import pathlib; from synthaug.rundir import RunDir\n"
        f"with RunDir(pathlib.Path({str(tmp_path)!r})).hold(): pass"
    )
    with run.hold():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"held by process {os.getpid()} on " in done.stderr
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert again.returncode == 0


def test_a_killed_holder_frees_the_run(tmp_path: pathlib.Path) -> None:
    code = (
        "import os, pathlib, signal; from synthaug.rundir import RunDir\n"
        f"with RunDir(pathlib.Path({str(tmp_path)!r})).hold(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    with RunDir(tmp_path).hold():
        pass


def test_done_marker(tmp_path: pathlib.Path) -> None:
    run = RunDir(tmp_path)
    run.part_dir("score", 3).mkdir()
    assert not run.is_done("score", 3)
    with pytest.raises(RunError, match="score 3 is not finished"):
        run.result("score", 3)
    run.finish("score", 3, {"result": {"fid": 1.5}})
    assert run.is_done("score", 3)
    assert run.result("score", 3) == {"fid": 1.5}
    (run.part_dir("score", 3) / "done.json").write_text("{")
    with pytest.raises(RunError, match="--stage score --part 3 --force"):
        run.result("score", 3)
    run.forget("score", 3)
    assert not run.part_dir("score", 3).exists()


def test_unwritable_place(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        RunDir(tmp_path / "file" / "digits").create(experiment.load(DIGITS))
