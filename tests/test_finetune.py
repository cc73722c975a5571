"""Training a model of the cascade: starting from another run's weights, and one part at a time."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from synthaug.attempts import read_metrics
from tests import study


def tune(runs: pathlib.Path, init: pathlib.Path, *more: str) -> tuple[int, str]:
    """Runs prepare, embed and the base model's finetune with a given start."""
    words = ["run", str(study.TINY), "name=tuned", f"cascade.base4.finetune.init={init}", *more]
    words += ["--runs", str(runs), "--quiet"]
    for stage in (["--stage", "prepare"], ["--stage", "embed"], ["--stage", "finetune", "--part", "0"]):
        done = study.synthaug(*words, *stage)
        if done.returncode:
            return done.returncode, done.stderr.splitlines()[-1]
    return 0, ""


def test_finetune_starts_from_the_weights_it_is_given(
    tmp_path: pathlib.Path, reference_run: pathlib.Path
) -> None:
    init = reference_run / "finetune-0" / "checkpoints" / "40"
    code, text = tune(tmp_path, init)
    assert code == 0, text
    scratch = read_metrics(reference_run / "finetune-0" / "metrics.jsonl")
    tuned = read_metrics(tmp_path / "tuned" / "finetune-0" / "metrics.jsonl")
    # The same batch and the same noise, so the only difference is where the weights start.
    assert tuned[1]["loss"] != scratch[1]["loss"]
    assert tuned[10]["val_loss"] < scratch[10]["val_loss"]
    assert tuned[40]["val_loss"] < scratch[40]["val_loss"]


def test_init_of_another_model_names_the_leaf(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    code, text = tune(tmp_path, reference_run / "finetune-1" / "checkpoints" / "40")
    assert code == 2
    assert "cascade.base4.finetune.init" in text
    assert "another model" in text or "expected" in text


def test_init_that_is_not_there_is_refused_before_any_work(tmp_path: pathlib.Path) -> None:
    code, text = tune(tmp_path, tmp_path / "nothing")
    assert code == 2
    assert "cascade.base4.finetune.init" in text
    assert not (tmp_path / "tuned").exists()


def test_exec_runs_one_part_in_its_own_process(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(reference_run, run)
    old = json.loads((run / "score-3" / "done.json").read_text())["result"]
    shutil.rmtree(run / "score-3")
    done = study.synthaug("exec", str(run), "--stage", "score", "--part", "3")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "score-3" / "done.json").read_text())["result"] == old
    assert study.synthaug("exec", str(run), "--stage", "score", "--part", "3").returncode == 0
    assert study.synthaug("exec", str(run), "--stage", "score", "--part", "99").returncode == 2


def test_two_devices_train_as_one(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    """A batch split over two devices gives the same losses up to rounding: the site changes no result."""
    site = tmp_path / "site.yaml"
    site.write_text("devices: 2\nworkers: 1\n")
    line = ["run", str(study.TINY), "--runs", str(tmp_path), "--site", str(site), "--quiet", "--stage"]
    for stage in ("prepare", "encoder"):
        done = study.synthaug(*line, stage)
        assert done.returncode == 0, done.stderr
    split = read_metrics(tmp_path / "tiny" / "encoder-0" / "metrics.jsonl")
    whole = read_metrics(reference_run / "encoder-0" / "metrics.jsonl")
    for step in range(1, 11):  # later on, rounding grows with training
        assert split[step]["loss"] == pytest.approx(whole[step]["loss"], rel=1e-3)
