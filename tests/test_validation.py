"""Further validation sets: several right labels per image, and folders named by label number."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import pytest

from synthaug import experiment
from synthaug.checks import check_inputs
from synthaug.data.real_labels import align, read_real_labels
from synthaug.errors import ConfigError, DataError
from synthaug.launch.parts import prepare_args
from synthaug.metrics.accuracy import accuracy, real_accuracy
from synthaug.reporting import extras, page
from synthaug.reporting.write import build
from synthaug.stages import collect, prepare, scan, validation
from tests import reports
from tests.study import StubJob


def test_real_accuracy_is_the_plain_one_where_each_image_has_one_label():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((200, 7)), rng.integers(7, size=200)
    assert real_accuracy(logits, [[k] for k in labels]) == (accuracy(logits, labels).top1, 200)


def test_any_label_is_right_and_images_without_labels_do_not_count():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((300, 5)).astype(np.float32)
    labels = [sorted(set(rng.integers(5, size=rng.integers(4)).tolist())) for _ in range(300)]
    hits = [int(np.argmax(row)) in own for row, own in zip(logits, labels, strict=True) if own]
    top1, counted = real_accuracy(logits, labels)
    assert counted == len(hits) < 300
    assert top1 == pytest.approx(sum(hits) / len(hits))
    assert real_accuracy(np.ones((1, 3)), [[1, 2]]) == (0.0, 1)  # the lowest class wins, as in accuracy


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0]], "found 1 lists for 2 images"),
        ([[0], [3]], "found 3; expected 0 to 2"),
        ([[0], [-1]], "found -1; expected 0 to 2"),
        ([[], []], "no image has a label"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        real_accuracy(np.eye(3)[:2], labels)


def test_labels_are_found_by_number_else_by_the_order_of_names(tmp_path):
    file = tmp_path / "real.json"
    file.write_text(json.dumps([[0], [1, 2], []]))
    labels = read_real_labels(str(file), 3)
    numbered = ["val/n2/ILSVRC2012_val_00000003.JPEG", "val/n1/ILSVRC2012_val_00000001.JPEG"]
    assert align(labels, numbered, "r") == [[], [0]]
    assert align(labels, ["n1/c.png", "n2/b.png", "n3/a.png"], "r") == [[], [1, 2], [0]]
    with pytest.raises(DataError, match="has labels of 3 images, the set has 2"):
        align(labels, ["b.png", "a.png"], "r")
    with pytest.raises(DataError, match="expected some for ILSVRC2012_val_00000004"):
        align(labels, ["ILSVRC2012_val_00000004"], "r")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("{}", "expected a list with a list"),
        ("[]", "expected a list with a list"),
        ("[[1], 2]", "entry 1 is 2"),
        ('[["1"]]', "entry 0"),
        ("[[true]]", "entry 0"),
        ("[[1], [0, 10]]", r"entry 1 is \[0, 10\]; expected labels from 0 to 9"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    file = tmp_path / "real.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_real_labels(str(file), 10)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="No such file"):
        read_real_labels(str(tmp_path / "none.json"), 10)


# ---------------------------------------------------------------------------------------- in a study


def colours(folder: pathlib.Path, counts: dict[str, int], prefix: str = "") -> None:
    """Writes images of one colour per class, 8 x 8 px."""
    for k, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = np.full((8, 8, 3), (k * 60 + i, 90, 90), np.uint8)
            PIL.Image.fromarray(image).save(folder / name / f"{prefix}{k * 100 + i + 1:08d}.png")


def study(folder: pathlib.Path, **val_sets: Any) -> experiment.Experiment:
    names = ("n00000001", "n00000005", "n00000009")
    colours(folder / "train", dict.fromkeys(names, 4))
    colours(folder / "val", dict.fromkeys(names, 2), "ILSVRC2012_val_")
    colours(folder / "v2", {"0": 1, "1": 2, "2": 1})
    data = {"source": "folder", "path": str(folder / "train"), "val_path": str(folder / "val")}
    data |= {"num_classes": 3, "num_train": 12, "num_val": 6, "resolutions": [8], "shard_size": 4}
    score = {"splits": 1, "neighbours": 1}
    tree = {"name": "x", "stages": ["classify"], "data": data, "val_sets": val_sets, "score": score}
    return experiment.parse(tree, "x.yaml")


def prepared(folder: pathlib.Path, settings: experiment.Experiment) -> Any:
    """Returns a job of a study whose sets are all prepared."""
    job = StubJob(folder / "run", settings)
    for stage, verb in (("scan", scan.run), ("prepare", prepare.run), ("collect", collect.run)):
        for part, args in enumerate(prepare_args(settings) if stage == "prepare" else [{}]):
            job.args = args
            job.run.finish(stage, part, {"result": verb(job)})  # type: ignore[arg-type]
    return job


def test_further_sets_are_prepared_as_the_validation_images_and_measured(tmp_path, monkeypatch):
    real = tmp_path / "real.json"
    table = [[] for _ in range(202)]
    table[0], table[1], table[100], table[201] = [0], [1, 2], [0, 1], [2]
    real.write_text(json.dumps(table))
    v2 = {"source": "folder", "path": str(tmp_path / "v2"), "num_images": 4}
    settings = study(tmp_path, v2=v2, real={"source": "val", "real_labels": str(real)})
    job = prepared(tmp_path, settings)
    assert job.result("collect")["sets"]["v2/8"]["images"] == 4
    # a classifier that knows colours: classes lie 60 steps of red apart
    red = lambda batch: np.eye(3)[np.round(batch[:, 0, 0, 0] / 60).astype(int)]  # noqa: E731
    fake = lambda _, __, batches, ___: (np.concatenate([red(b) for b in batches]), None)  # noqa: E731
    monkeypatch.setattr(validation.classifiers, "predict", fake)
    classifier = experiment.Classifier(kind="resnet")
    found = validation.measure(job, classifier, {}, 8)
    assert found["v2"] == {"top1": 1.0, "top5": 1.0, "n": 4}
    # right: images 1, 101, 202; wrong: image 2, whose labels are 1 and 2; the others have none
    assert found["real"] == {"top1": 0.75, "n": 4}


def test_a_set_of_another_size_or_with_other_classes_is_refused(tmp_path):
    v2 = {"source": "folder", "path": str(tmp_path / "v2"), "num_images": 5}
    settings = study(tmp_path, v2=v2)
    with pytest.raises(DataError, match=r"val_sets\.v2\.num_images = 5, but .* has 4 images"):
        prepared(tmp_path, settings)
    (tmp_path / "v2" / "2").rename(tmp_path / "v2" / "3")
    with pytest.raises(DataError, match=r"val_sets\.v2\.path: the label of .* is 3; expected 0 to 2"):
        prepared(tmp_path, settings)


@pytest.mark.parametrize(
    ("val_set", "message"),
    [
        ({"source": "val"}, "real_labels is empty"),
        ({"source": "val", "real_labels": "r", "path": "p"}, "takes real_labels alone"),
        ({"source": "folder", "path": "p"}, "needs path and num_images"),
        ({"source": "folder", "path": "p", "num_images": 3, "real_labels": "r"}, "use source = val"),
        ({"source": "digits"}, "source = 'digits'"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(tmp_path, val_set, message):
    with pytest.raises(ConfigError, match=message):
        study(tmp_path, v2=val_set)


def test_names_that_are_taken_are_refused_and_missing_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"val_sets\.train: expected a name"):
        study(tmp_path / "a", train={"source": "val", "real_labels": "r"})
    settings = study(tmp_path / "b", real={"source": "val", "real_labels": str(tmp_path / "none.json")})
    with pytest.raises(ConfigError, match=r"val_sets\.real\.real_labels"):
        check_inputs(settings, "x.yaml")


def test_the_report_has_a_column_per_further_set():
    report = reports.report()
    for number, row in enumerate(report.results["classify"]):
        row["val_sets"] = {"v2": {"top1": 0.5 + number / 1000, "top5": 0.9, "n": 10000}}
    section = extras.sections(report)[0]
    table = section.blocks[0]
    arms = {
        tuple(row[k] for k in ("model", "mix", "set", "copies", "subset")) for row in report.rows("classify")
    }
    assert len(table.lines) == len(arms)  # type: ignore[union-attr]
    assert table.columns[-1].name == "v2"  # type: ignore[union-attr]
    assert "v2: 10,000 images" in table.caption  # type: ignore[union-attr]
    assert "Further validation sets" in page.render(report, build(report))
