"""The whole study, cut down to a minute: every stage, the report, and what a second command says."""

from __future__ import annotations

import json
import os
import pathlib
import time

import pytest

from tests import study

SCORE = {
    "set", "resolution", "reference", "n", "encoder", "fid", "inception_score", "inception_score_std",
    "precision", "recall", "density", "coverage", "kid", "kid_std", "sfid", "fid_sizes", "fid_infinity",
    "notes", "n_reference", "encoder_hash", "backend", "resize", "splits", "neighbours", "max_images",
    "kid_subsets", "kid_subset_size", "seed", "codec", "reference_codec",
}  # fmt: skip
CLASSIFY = {"model", "mix", "set", "copies", "subset", "per_class", "seed", "top1", "top5", "num_epochs"}


@pytest.fixture(scope="module")
def finished(reference_run: pathlib.Path) -> pathlib.Path:
    return reference_run


def results(run: pathlib.Path) -> dict:
    return json.loads((run / "report" / "results.json").read_text())


def test_results_have_the_documented_form(finished: pathlib.Path) -> None:
    found = results(finished)
    parts = [
        "name",
        "command",
        "versions",
        "licences",
        "data",
        "class_names",
        "sets",
        "sweep",
        "score",
        "further_scores",
        "filter",
    ]
    assert list(found) == [*parts, "classify", "per_class"]
    assert len(found["sweep"]) == 6
    assert sum(row["chosen"] for row in found["sweep"]) == 2
    for row in found["score"]:
        assert set(row) >= SCORE
        assert row["encoder"].startswith("classifier")
        assert row["fid"] >= 0
        assert row["reference"] in ("train", "val")
    sets = {(row["set"], row["resolution"], row["reference"]) for row in found["score"]}
    assert {("generated", 4, "train"), ("generated", 8, "val"), ("real train", 8, "val")} <= sets
    for row in found["classify"]:
        assert set(row) >= CLASSIFY
        assert 0 <= row["top1"] <= row["top5"] <= 1
        assert not row["val_sets"]
    arms = {(r["model"], r["mix"], r["set"], r["copies"], r["subset"]) for r in found["classify"]}
    assert ("vit", "real+generated", "generated-8", 2, "five") in arms
    assert ("resnet", "generated", "generated-8", 1, "all") in arms


def test_encoder_has_learnt_the_digits(finished: pathlib.Path) -> None:
    """200 steps of a small ResNet are enough to read most digits: data, labels and training fit together."""
    done = json.loads((finished / "encoder-0" / "done.json").read_text())
    assert done["result"]["top1"]["8"] > 0.8
    assert done["result"]["top1"]["4"] > 0.4  # blurred, but no longer two classes for all


def test_sets_have_as_many_images_per_class_as_the_train_split(finished: pathlib.Path) -> None:
    from synthaug.data.shards import open_set

    classes = json.loads((finished / "collect-0" / "done.json").read_text())["result"]["classes"]
    for resolution in (4, 8):
        images, labels = open_set(finished / "sets" / "generated" / str(resolution), 6, verify=True).load()
        assert images.shape == (2884, resolution, resolution, 1)
        counts = [int((labels == k).sum()) for k in range(10)]
        assert counts == [2 * entry["train"] for entry in classes]


def test_every_image_carries_its_origin(finished: pathlib.Path) -> None:
    import pyarrow.parquet as pq

    from synthaug.data.shards import open_set

    manifest = pq.read_table(finished / "manifest.parquet").to_pydict()
    images = open_set(finished / "sets" / "generated" / "8", 6)
    for i in (0, 777, 2883):
        header = images.header(i)
        assert header["index"] == i
        for column in ("class_key", "class_index", "prompt", "copy"):
            assert header[column] == manifest[column][i], column
        assert header["seed"] == 0
        assert len(header["settings"]) == len(header["weights"]) == 64


def test_generated_images_are_not_all_alike(finished: pathlib.Path) -> None:
    from synthaug.data.shards import open_set

    images, _ = open_set(finished / "sets" / "generated" / "8", 6).load()
    assert len({image.tobytes() for image in images}) > 2800


def test_report_is_there_and_self_contained(finished: pathlib.Path) -> None:
    html = (finished / "report" / "report.html").read_text()
    assert "zero" in html
    assert "data:image/png;base64" in html
    assert (finished / "report" / "report.md").read_text().startswith("#")


def test_tensorboard_and_logs(finished: pathlib.Path) -> None:
    assert list((finished / "tb" / "finetune-0").glob("events*"))
    assert (finished / "finetune-0" / "log.txt").exists()
    steps = study.outcome(finished)["losses"]["finetune-0"]
    assert sorted(steps) == list(range(1, 41))
    assert {"loss", "learning_rate", "grad_norm", "val_loss"} <= set(steps[40])


def test_a_finished_run_answers_at_once(finished: pathlib.Path) -> None:
    began = time.monotonic()
    done = study.synthaug("run", str(study.TINY), "--runs", str(finished.parent))
    assert time.monotonic() - began < 3
    assert done.returncode == 0
    assert "nothing left to do" in done.stdout
    assert "report.html" in done.stdout


def test_status(finished: pathlib.Path) -> None:
    done = study.synthaug("status", "tiny", "--runs", str(finished.parent), "--json")
    status = json.loads(done.stdout)
    assert status["finished"]
    assert status["done"] == status["parts"] == 73
    for stage in status["stages"]:
        assert stage["goodput"] is None or 0 <= stage["goodput"] <= 1
    text = study.synthaug("status", str(finished)).stdout
    assert "73 of 73 jobs finished" in text


def test_attempt_books_sum_to_the_wall_time(finished: pathlib.Path) -> None:
    from synthaug.attempts import read_lines

    for part in ("finetune-0", "sample-1", "classify-3"):
        events = read_lines(finished / part / "attempts.jsonl")
        wall = events[-1]["time"] - events[0]["time"]
        assert abs(sum(events[-1]["buckets"].values()) - wall) < 0.1 + 0.02 * wall


def test_a_differing_rerun_is_refused(finished: pathlib.Path) -> None:
    done = study.synthaug("run", str(study.TINY), "seed=1", "--runs", str(finished.parent))
    assert done.returncode == 2
    assert "differs from this command in 1 key: seed: 0 on disk, 1 now" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_one_part_can_be_redone_with_the_same_result(finished: pathlib.Path) -> None:
    before = study.outcome(finished)
    runs = str(finished.parent)
    done = study.synthaug(
        "run", str(study.TINY), "--runs", runs, "--stage", "score", "--part", "3", "--force"
    )
    assert done.returncode == 0, done.stderr
    assert "2 jobs finished" in done.stdout  # the part and the report, which depends on it
    done = study.synthaug("run", str(study.TINY), "--runs", runs, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert study.outcome(finished) == before


def test_report_can_be_written_again(finished: pathlib.Path) -> None:
    old = (finished / "report" / "results.json").read_bytes()
    os.unlink(finished / "report" / "report.html")
    done = study.synthaug("report", "tiny", "--runs", str(finished.parent))
    assert done.returncode == 0, done.stderr
    assert (finished / "report" / "report.html").exists()
    assert (finished / "report" / "results.json").read_bytes() == old
