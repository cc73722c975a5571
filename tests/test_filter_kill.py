"""The filter killed in the middle of a part, and of its choice, flags and selects the same images."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import time

import pytest

from synthaug.data.select import read_judged
from tests import study

FILTERED = [
    "stages=[]", "sweep.phases={}", "score.encoder.classifier.num_steps=40", "sample.shard_size=200",
    "cascade.base4.finetune.num_steps=10", "cascade.base4.finetune.saving.keep_steps=[]",
    "cascade.sr8.finetune.num_steps=10",
    "filter={min_confidence: 0.05, duplicate_quantile: 0.2, num_probes: 300, reserve: 0.5}",
]  # fmt: skip


def run(runs: pathlib.Path, *words: str) -> None:
    done = study.synthaug("run", str(study.TINY), "--runs", str(runs), *FILTERED, *words)
    assert done.returncode == 0, done.stderr


def verdict(path: pathlib.Path) -> dict[str, object]:
    """Returns all that the filter says: of every part, and of the choice."""
    found: dict[str, object] = {}
    for file in sorted([*path.glob("filter-*/done.json"), path / "select-0" / "done.json"]):
        found[file.parent.name] = json.loads(file.read_text())["result"]
    return found


def kill_when(path: pathlib.Path, runs: pathlib.Path, site: pathlib.Path) -> None:
    """Starts the filter and kills it, command and workers, as soon as a file is there."""
    assert not path.exists()
    process = study.start(runs, *FILTERED, "--until", "select", "--site", str(site))
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.005)
    study.kill(process)
    pattern = f"--serve.*{runs}|{runs}.*--serve"
    while subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_filter_killed_in_its_parts_gives_the_flags_of_one_left_alone(tmp_path: pathlib.Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, "--until", "select")
    shutil.copytree(whole, killed)
    for folder in [*(killed / "tiny").glob("filter-*"), killed / "tiny" / "select-0"]:
        shutil.rmtree(folder)
    expected = verdict(whole / "tiny")
    parts = len(expected) - 1
    assert parts >= 5
    site = tmp_path / "site.yaml"
    site.write_text("workers: 1\n")  # so that the parts come one after the other
    kill_when(killed / "tiny" / "filter-3" / "attempts.jsonl", killed, site)
    assert (killed / "tiny" / "filter-2" / "done.json").exists()
    assert not (killed / "tiny" / "filter-3" / "done.json").exists()
    kill_when(killed / "tiny" / "select-0" / "attempts.jsonl", killed, site)
    run(killed, "--until", "select")
    assert verdict(killed / "tiny") == expected
    flags = [runs / "tiny" / "select-0" / "flags.parquet" for runs in (whole, killed)]
    assert flags[0].read_bytes() == flags[1].read_bytes()
    for part in range(parts):
        result = expected[f"filter-{part}"]
        read_judged(killed / "tiny" / f"filter-{part}" / "judged.parquet", result["sha256"])  # type: ignore[index]
    choice = expected["select-0"]
    assert choice["sets"]["generated"]["flagged"] > 0 and choice["topped_up"] > 0  # type: ignore[index]
