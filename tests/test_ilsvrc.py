"""ImageNet's shape end to end: tars, shards, classifiers on real and generated images, tables, figures."""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from synthaug.data.shards import write_shard
from synthaug.manifest import image_order
from tests import formats, study

JOB = study.ROOT / "tests" / "ilsvrc.yaml"
KEYS = sorted(formats.SYNSETS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with ILSVRC-shaped tars, a set of synthaug, one in ADM's format, and a V2 folder."""
    root = tmp_path_factory.mktemp("ilsvrc")
    formats.write_ilsvrc(root, formats.pictures(KEYS, 40, 0), formats.pictures(KEYS, 8, 1))
    formats.write_npz(root / "other.npz", formats.pictures(KEYS, 80, 2), KEYS, 48)
    formats.write_folder(root / "v2", formats.pictures(KEYS, 4, 3))
    write_own(root / "own")
    return root


def write_own(folder: pathlib.Path) -> None:
    """Writes two copies of a generated set at 32 px, as `sample` does."""
    order = np.tile(image_order([40] * len(KEYS)), 2)
    made = iter_pictures(order)
    for shard in range(4):
        chosen = range(shard * 200, (shard + 1) * 200)
        records = [
            ({"class_key": KEYS[order[i]], "class_index": int(order[i]), "prompt": "x"}, next(made))
            for i in chosen
        ]
        write_shard(folder, shard, chosen[0], records, settings="s", weights="w", attempt=0)


def iter_pictures(order: np.ndarray):
    pools = {k: iter(formats.pictures(KEYS, 80, 4)[k * 80 : (k + 1) * 80]) for k in range(len(KEYS))}
    for k in order:
        yield np.asarray(Image.fromarray(next(pools[int(k)]).pixels).resize((32, 32)))


def command(files: pathlib.Path, runs: pathlib.Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "synthaug", "run", str(JOB), "--runs", str(runs), *more]
    for key in ("data.path", "data.val_path", "data.val_labels", "prompts.names_file", "sets.own.path"):
        words.append(f"{key}={files / setting(key)}")
    return [*words, f"sets.other.path={files / 'other.npz'}", f"val_sets.v2.path={files / 'v2'}"]


def setting(key: str) -> str:
    """Returns the file name that the job gives for a setting."""
    import yaml

    value = yaml.safe_load(JOB.read_text())
    for name in key.split("."):
        value = value[name]
    return value


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, cwd=study.ROOT, env=study.ENVIRONMENT, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def finished(files: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    runs = tmp_path_factory.mktemp("runs")
    done = run(command(files, runs, "--quiet"))
    assert done.returncode == 0, done.stderr
    return runs / "ilsvrc"


def results(path: pathlib.Path) -> dict:
    return json.loads((path / "report" / "results.json").read_text())


def test_every_arm_was_trained_on_what_it_says(finished: pathlib.Path) -> None:
    rows = {
        (r["model"], r["mix"], r["set"], r["copies"], r["subset"]): r for r in results(finished)["classify"]
    }
    sizes = {
        ("small", "real", "", 0, "all"): 400,
        ("small", "real", "", 0, "ten"): 100,
        ("small", "generated", "own", 1, "all"): 400,
        ("small", "generated", "other", 1, "all"): 400,
        ("small", "real+generated", "own", 2, "all"): 1200,
        ("small", "real+generated", "own", 1, "ten"): 500,
        ("tuned", "real+generated", "own", 2, "all"): 1200,
    }
    for arm, size in sizes.items():
        assert rows[arm]["n_train"] == size
        assert rows[arm]["n_val"] == 80
    row = rows["small", "real+generated", "own", 2, "all"]
    assert row["num_steps"] == 90 and row["num_epochs"] == 2.4  # 90 x 32 / 1200
    assert (row["resolution"], row["set_resolution"], row["input"]) == (0, 32, 24)
    assert row["val_sets"]["v2"]["n"] == 40


def test_classifiers_learned_and_tuning_went_on_from_them(finished: pathlib.Path) -> None:
    rows = results(finished)["classify"]
    top1 = {(r["model"], r["mix"], r["set"], r["copies"], r["subset"]): r["top1"] for r in rows}
    assert top1["small", "real+generated", "own", 2, "all"] > 0.6  # ten classes: chance is 0.1
    assert top1["tuned", "real+generated", "own", 2, "all"] > 0.6  # of one epoch alone it would not be


def test_all_generators_are_scored_side_by_side(finished: pathlib.Path) -> None:
    rows = results(finished)["score"]
    assert {(r["set"], r["resolution"]) for r in rows} >= {("own", 32), ("real train", 32), ("real val", 32)}


def test_report_has_the_tables_and_figures_of_the_paper(finished: pathlib.Path) -> None:
    """Tables 1 to 4 by their numbers in the paper, our sets in each; figures, or why there is none."""
    text = (finished / "report" / "report.md").read_text()
    rows = {1: "**{}** | {}", 2: "{}, {} px", 3: "with {}, {} px", 4: "small, {}, {} px"}
    for number, row in rows.items():
        table = text[text.index(f"**Table {number}.**") :].split("Protocol:")[0]
        assert row.format("own", 32) in table, number
        assert row.format("other", 48) in table, number
    drawn = {file.stem for file in (finished / "report" / "figures").glob("*.png")}
    assert {"gains", "classes", "scaling", "samples-32", "samples-48"} <= drawn  # Figures 1, 5, 6 and 2
    assert "[Sampling settings: Figures 3 and 4](#sweep) (not run)" in text  # no cascade, no sweep
    assert "synthaug run jobs/imagenet-64.yaml" in text  # the command that makes what is not run


def test_a_report_so_far_shows_the_rest_as_not_run(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(finished, tmp_path / "ilsvrc")
    shutil.rmtree(tmp_path / "ilsvrc" / "classify-3")
    line = ("report", "ilsvrc", "--runs", str(tmp_path))
    refused = study.synthaug(*line)
    assert refused.returncode == 2 and "report --so-far" in refused.stderr
    assert study.synthaug(*line, "--so-far").returncode == 0
    text = (tmp_path / "ilsvrc" / "report" / "report.md").read_text()
    assert "not run: not finished; synthaug run" in text and "--until classify goes on (part 3)" in text
    assert not (tmp_path / "ilsvrc" / "report-0" / "done.json").exists()  # the whole one is still to come


def test_killed_at_random_it_ends_with_equal_numbers(
    files: pathlib.Path, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    chance, again = random.Random(4), tmp_path / "ilsvrc"
    for wait in (
        "scan-0/attempts.jsonl",
        "prepare-1/attempts.jsonl",
        "classify-2/checkpoints/10/digest.json",
    ):
        process = subprocess.Popen(
            command(files, tmp_path, "--quiet"), cwd=study.ROOT, env=study.ENVIRONMENT, start_new_session=True
        )
        end = time.monotonic() + 240
        while not (again / wait).exists():
            assert process.poll() is None and time.monotonic() < end, wait
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    last = run(command(files, tmp_path, "--quiet"))
    assert last.returncode == 0, last.stderr
    found, expected = study.outcome(again), study.outcome(finished)
    for kind in ("results", "shards", "losses"):
        assert found[kind] == expected[kind], kind
