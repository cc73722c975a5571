"""The README tells the truth: its commands parse, its tree is the disk's, its links exist."""

from __future__ import annotations

import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from synthaug.__main__ import parse
from tests import study

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Returns every synthaug command of the README's indented blocks, continued lines joined."""
    joined = TEXT.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    ")]
    found = []
    for line in lines:
        for piece in line.split("&&"):
            words = piece.split("#")[0].strip()
            if words.startswith(("synthaug ", ".venv/bin/synthaug ")):
                found.append(words)
    return found


def test_there_are_commands() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    args = parse(words)
    if job := getattr(args, "job", None):
        assert (ROOT / job).exists(), job
        from synthaug import experiment

        experiment.load(ROOT / job, args.overrides)


def test_own_images_example_reaches_the_prompt_bank(tmp_path: pathlib.Path) -> None:
    """The README's command for a folder of one's own, on a small one, through the stages that read it."""
    line = next(c for c in commands() if "data.source=folder" in c)
    chance = np.random.default_rng(0)
    for name in ("daisy", "dandelion", "roses", "sunflowers", "tulips"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for i in range(10):
            pixels = chance.integers(0, 256, (12, 9, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "flowers" / name / f"{i}.jpg")
    words = shlex.split(line.replace("/data/flowers", str(tmp_path / "flowers")))[1:]
    words += ["data.num_train=40", "data.num_val=10", "--runs", str(tmp_path / "runs")]
    done = study.synthaug(*words, "--until", "embed")
    assert done.returncode == 0, done.stderr


def test_tree_equals_the_disk() -> None:
    block = TEXT.split("## Where things are")[1].split("\n\n")[1]
    package = set(re.findall(r"^      (\S+)", block, re.M))
    on_disk = {
        p.name + ("/" if p.is_dir() else "")
        for p in (ROOT / "synthaug").iterdir()
        if p.name not in ("__pycache__", "__init__.py")
    }
    assert package == on_disk
    top = set(re.findall(r"^    (\w+/)", block, re.M))
    assert top == {"jobs/", "synthaug/", "containers/", "slurm/", "tpu/", "tests/"}
    for name in block.splitlines()[0].split():
        assert (ROOT / name).exists(), name


def test_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_test_command_is_what_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert ".venv/bin/pip install" in script
    assert "'.[test,peers]'" in script and "'.[test,peers]' && .venv/bin/pytest" in TEXT
    assert "\n.venv/bin/pytest" in script
