"""Nothing is lost: a study killed again and again ends with the numbers and images of one left alone."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests import study


def wait_for(path: pathlib.Path, process: subprocess.Popen[str], timeout: float = 240) -> None:
    end = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def workers_of(run: pathlib.Path) -> list[int]:
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--serve" in line and str(run).encode() in line:
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(1200)  # 16 starts; on a busy machine more than ten minutes
def test_killed_study_equals_the_one_left_alone(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    """SIGKILL to the command, to a worker, and each kind of stop request, at seeded random moments."""
    chance = random.Random(20261121)
    run = tmp_path / "tiny"
    # One worker, so that the order is the plan's and every stage is hit:
    # a file that appears in the stage, and how the study is stopped then.
    site = tmp_path / "site.yaml"
    site.write_text("workers: 1\n")
    moments = [
        ("prepare-0/attempts.jsonl", "kill"),
        ("embed-0/attempts.jsonl", "kill"),
        ("encoder-0/checkpoints/20/digest.json", "worker"),
        ("features-real-1/attempts.jsonl", "kill"),
        ("reference-2/attempts.jsonl", "kill"),
        ("finetune-0/checkpoints/30", "SIGTERM"),
        ("finetune-1/checkpoints/20", "kill"),
        ("sweep-base-1/attempts.jsonl", "kill"),
        ("choose-base-0/attempts.jsonl", "kill"),
        ("measure-enlarge-0/checkpoints", "SIGINT"),
        ("sets/generated/4/shard-00001.json", "kill"),
        ("features-1/attempts.jsonl", "kill"),
        ("score-2/attempts.jsonl", "kill"),
        ("classify-9/checkpoints/20", "SIGUSR1"),
        ("classify-20/attempts.jsonl", "SIGUSR2"),
        ("report-0/attempts.jsonl", "kill"),
    ]
    for file, how in moments:
        assert not (run / file).exists(), f"{file} was there before its turn"
        process = study.start(tmp_path, "--site", str(site))
        wait_for(run / file, process)
        time.sleep(chance.uniform(0, 0.2))
        if how == "worker":
            os.kill(chance.choice(workers_of(run)), signal.SIGKILL)
            time.sleep(0.5)
            study.kill(process)
        elif how == "kill":
            study.kill(process)
        else:
            os.kill(process.pid, getattr(signal, how))
            text = process.communicate(timeout=120)[0]
            assert process.returncode == 75, text
            assert "same command again" in text.splitlines()[-1]
        deadline = time.monotonic() + 10
        while workers_of(run) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not workers_of(run), "workers outlived the command"
    last = study.synthaug("run", str(study.TINY), "--runs", str(tmp_path))
    assert last.returncode == 0, last.stderr
    found, expected = study.outcome(run), study.outcome(reference_run)
    for kind in ("results", "shards", "losses", "done"):
        assert found[kind] == expected[kind], kind
    shutil.rmtree(run)


def test_restart_of_a_killed_training_is_quick(tmp_path: pathlib.Path) -> None:
    """From the command to the next training step at most 15 s: start-up, restore, the compile cache.

    The time is that of the first step after the restart. The pictures at the end of the part are not in it:
    the first attempt was killed before it compiled their sampler, so no cache could hold that.
    """
    from synthaug.attempts import read_lines

    run = tmp_path / "tiny"
    process = study.start(tmp_path)
    wait_for(run / "finetune-0/checkpoints/20/digest.json", process)
    study.kill(process)
    time.sleep(0.2)
    began = time.time()
    process = study.start(tmp_path)
    wait_for(run / "finetune-0/done.json", process)
    study.kill(process)
    events = read_lines(run / "finetune-0" / "attempts.jsonl")
    assert [e["done"] for e in events if e["event"] == "resume"][-1] >= 20
    stepping = next(e for e in events if e["attempt"] == 2 and e["event"] == "beat" and e["done"] > 20)
    assert stepping["time"] - began < 15, stepping
