"""The licence of the weights that a study starts from stands on everything that the study makes."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from synthaug import licences, manifest
from synthaug.data.shards import open_set
from synthaug.errors import CheckpointError, ConfigError
from synthaug.rundir import RunDir
from synthaug.train import digest
from tests import study

KEY = "deepfloyd-if"


def under_licence(step_dir: pathlib.Path, key: str) -> None:
    """Makes a checkpoint one that was trained from licensed weights."""
    record = digest.read(step_dir)
    record["about"]["licence"] = key
    digest.write(step_dir, record)


def test_licence_is_in_manifest_markers_images_and_report(reference_run, tmp_path) -> None:
    run = RunDir(tmp_path / "tiny")
    shutil.copytree(reference_run, run.path)
    assert json.loads((run.report / "results.json").read_text())["licences"] == []
    assert "trained from random weights" in (run.report / "report.md").read_text()
    enlarger = run.part_dir("finetune", 1) / "checkpoints"
    for step_dir in enlarger.glob("[0-9]*"):
        under_licence(step_dir, KEY)
    shutil.rmtree(run.set_dir("generated", 8).parent)
    run.manifest.unlink()
    parts = len(list(run.path.glob("sample-*")))
    swept = run.set_dir("sweep-enlarge-0", 8)
    shutil.rmtree(swept)
    for stage, numbers in (("sweep-enlarge", range(1)), ("sample", range(parts)), ("report", range(1))):
        for part in numbers:
            (run.part_dir(stage, part) / "done.json").unlink()
            done = study.synthaug("exec", str(run.path), "--stage", stage, "--part", str(part))
            assert done.returncode == 0, done.stderr
    held = licences.LICENCES[KEY]
    assert manifest.read_plan(run.manifest).licences == (KEY,)
    assert run.result("sample", 0)["licences"] == [KEY]
    for resolution, expected in ((4, ()), (8, (KEY,))):  # the base model's images owe nothing to the enlarger
        directory = run.set_dir("generated", resolution)
        images = open_set(directory, len(list(directory.glob("shard-*.json"))))
        assert all(shard.licences == expected for shard in images.shards)
        assert images.header(0).get("licences", []) == list(expected)
    assert open_set(swept, 1).shards[0].licences == (KEY,)
    results = json.loads((run.report / "results.json").read_text())
    assert [(row["key"], row["terms"]) for row in results["licences"]] == [(KEY, held.terms)]
    for file in ("report.md", "report.html"):
        assert held.name in (run.report / file).read_text()
        assert "Non-commercial research use only" in (run.report / file).read_text()


def test_licence_of_a_checkpoint(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        licences.of_checkpoint(tmp_path)
    for text, message in (
        ("{", "altered"),
        ("[]", "altered"),
        ('{"about": {"licence": 3}}', "'3' is unknown"),
    ):
        (tmp_path / "digest.json").write_text(text)
        with pytest.raises((CheckpointError, ConfigError), match=message):
            licences.of_checkpoint(tmp_path)
    for text, key in (("{}", "none"), ('{"about": {"licence": "adm"}}', "adm")):
        (tmp_path / "digest.json").write_text(text)
        assert licences.of_checkpoint(tmp_path) == key
    assert licences.binding(["adm", "none", KEY, "adm"]) == ["adm", KEY]
