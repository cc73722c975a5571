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

from synthaug import checks, config, experiment
from synthaug.errors import ConfigError
from synthaug.rundir import RunDir
from synthaug.train import digest
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
        "--until",
        "collect",
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
    words = [*SMALL, f"data.path={folder}", "data.max_corrupt=1", "--until", "collect"]
    done = study.synthaug("run", str(study.TINY), "--runs", str(runs), *words)
    assert done.returncode == 0, done.stderr
    result = json.loads((runs / "folder" / "collect-0" / "done.json").read_text())["result"]
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
    stage = refused("run", str(study.TINY), "--runs", str(runs), "stages=[clasify]")
    assert "did you mean 'classify'?" in stage
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
        "import os, sys, synthaug.checks, synthaug.launch.local, synthaug.site, synthaug.__main__ as m; "
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
        "score.encoder.classifier.optimizer.learning_rate=1e30",
        "score.encoder.classifier.optimizer.grad_clip=0",
    ]
    line = ["run", str(study.TINY), "--runs", str(runs), *words]
    assert study.synthaug(*line, "--until", "collect").returncode == 0
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


# --------------------------------------------------------------- settings of networks and training

BASE, SR = "cascade.base4", "cascade.sr8"
LABEL = [f"{at}.{word}" for at in (BASE, SR) for word in ("unet.conditioning=label", "finetune.text_drop=0")]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([f"{BASE}.unet.attention=self"], "use self+text (Imagen, DeepFloyd IF) or text"),
        ([*LABEL, f"{BASE}.finetune.text_drop=0.1"], "there is no text to drop; set it to 0"),
        ([*LABEL, f"{BASE}.unet.null_text=empty"], "null_text = empty with unet.conditioning = label"),
        ([f"{BASE}.unet.norm_groups=3"], "norm_groups = 3 does not divide 8 channels"),
        (
            [f"{BASE}.unet.head_dim=16", f"{BASE}.unet.channels=12"],
            "head_dim = 16 does not divide 24 channels",
        ),
        ([f"{BASE}.unet.num_heads=3"], "num_heads = 3 does not divide 16 channels"),
        ([f"{BASE}.unet.channels=9"], "channels = 9; expected an even number"),
        ([f"{BASE}.unet.channel_mult=[1,1.3]"], "1.3 x channels = 8 gives 10.4 channels"),
        ([f"{BASE}.unet.num_res_blocks=[1,2,3]"], "has 3 numbers for the 2 levels of channel_mult"),
        ([f"{BASE}.unet.num_res_blocks=[]"], "num_res_blocks is empty"),
        ([f"{BASE}.unet.attention_resolutions=[3]"], "3 is no level; expected some of [4, 2]"),
        ([f"{BASE}.unet.text_norm=group", f"{BASE}.unet.text_channels=48"], "a multiple of 32, e.g. 64"),
        ([f"{BASE}.unet.text_pool_heads=5"], "does not divide text_encoder.width = 32"),
        (
            [f"{SR}.unet.kind=efficient", f"{SR}.unet.channel_mult=[1,1,1,1]"],
            "does not divide by 16, which 4",
        ),
        (
            [f"{SR}.unet.kind=efficient", f"{SR}.unet.attention_resolutions=[8]"],
            "8 is no level; expected some of [4, 2]",
        ),
        ([f"{BASE}.finetune.num_steps=0"], "init = scratch is random weights; train at least 1 step"),
        ([f"{BASE}.finetune.crop=2"], "a base model composes whole images"),
        ([f"{SR}.finetune.crop=3"], "at most 8 px and a multiple of 2 (one pixel of base4) and of 2"),
        ([f"{SR}.finetune.crop=16"], "expected at most 8 px"),
        ([f"{SR}.finetune.crop=4", f"{SR}.enlarge=align_corners"], "or use half_pixel"),
        ([f"{BASE}.finetune.ema_profiles=[0.1,0.1]"], "ema_profiles holds 0.1 twice"),
        ([f"{BASE}.finetune.ema_profiles=[0.3]"], "0.28"),
        (
            [f"{BASE}.finetune.ema_{word}" for word in ("profiles=[0.1]", "every=1")]
            + [f"{BASE}.finetune.num_steps=9000"],
            "ema_every = 1 stores 9000 snapshots in 9000 steps; expected at most 1000, e.g. 90",
        ),
        (["text_encoder.kind=t5"], "text_encoder.path is empty; kind = t5 expects the folder"),
        (["licences=[deepfloydif]"], "licence"),
        (["data.val_path=/tmp"], "has no meaning with data.source = digits"),
        (["data.source=folder", "data.path=/a/b", "data.val_path=/a/../a/b/"], "val_path"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_settings_that_contradict_are_refused_by_name(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        experiment.load(study.TINY, overrides)
    text = str(error.value)
    assert words in text
    assert text.startswith(f"{study.TINY}: ")
    assert text.count("\n") == 0


def test_optimiser_of_untrained_weights_is_not_looked_at(tmp_path: pathlib.Path) -> None:
    words = [f"{SR}.finetune.num_steps=0", f"{SR}.finetune.init={tmp_path}"]
    experiment.load(study.TINY, [*words, f"{SR}.finetune.optimizer.schedule=cosine"])


# ----------------------------------------------------------------- records of what training starts from


def imported(folder: pathlib.Path, name: str, licence: str = "none", **changes: object) -> pathlib.Path:
    """Writes the record of a checkpoint of a model of the tiny study; changes go into its network."""
    tiny = experiment.load(study.TINY)
    tree = config.to_tree(experiment.network_of(tiny, name))
    diffusion = config.to_tree(tiny.cascade[name].diffusion)
    for key, value in changes.items():
        part = {"unet": tree["unet"], "diffusion": diffusion, "network": tree}
        where, _, knob = key.partition("__")
        part[where][knob] = value
    about = {"family": "deepfloyd-if", "licence": licence, "network": tree, "diffusion": diffusion}
    folder.mkdir()
    digest.write(folder, {"step": 0, "about": about})
    return folder


def refused_inputs(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        checks.check_inputs(experiment.load(study.TINY, overrides), "job.yaml")
    assert str(error.value).startswith("job.yaml: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"network__text_width": 4096},
            "4096 in this checkpoint (deepfloyd-if), 32 here; set text_encoder.width",
        ),
        ({"network__low_res": True}, "use a checkpoint of a base model"),
        ({"network__channels": 3}, "set data.channels: 3"),
        ({"unet__kind": "efficient"}, "unet.kind = efficient in this checkpoint (deepfloyd-if), adm here"),
        ({"unet__channels": 16}, "unet.channels = 16 in this checkpoint"),
        ({"unet__activation": "gelu"}, "set cascade.base4.unet.activation: gelu"),
        (
            {"diffusion__schedule": "linear"},
            "was trained with diffusion.schedule = linear, here it is cosine",
        ),
        ({"diffusion__num_timesteps": 1000}, "set cascade.base4.diffusion.num_timesteps: 1000"),
        ({"diffusion__learned_variance": True}, "diffusion.learned_variance = true, here it is false"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_checkpoint_of_another_network_is_refused_before_any_work(
    tmp_path: pathlib.Path, changes: dict[str, object], words: str
) -> None:
    folder = imported(tmp_path / "init", "base4", **changes)
    text = refused_inputs(f"{BASE}.finetune.init={folder}")
    assert f"cascade.base4.finetune.init = {folder}" in text
    assert words in text


def test_checkpoint_that_differs_in_what_no_weight_depends_on(tmp_path: pathlib.Path) -> None:
    same = {"unet__dropout": 0.5, "network__text_length": 77, "unet__num_res_blocks": [1, 1]}
    folder = imported(tmp_path / "init", "base4", unet__embedding_width=32, unet__text_channels=32, **same)
    checks.check_inputs(experiment.load(study.TINY, [f"{BASE}.finetune.init={folder}"]), "job.yaml")


def test_length_of_a_prompt_counts_where_padding_is_attended_to(tmp_path: pathlib.Path) -> None:
    changes = {"network__text_length": 77, "unet__attend_padding": True}
    folder = imported(tmp_path / "init", "base4", **changes)
    text = refused_inputs(f"{BASE}.finetune.init={folder}", f"{BASE}.unet.attend_padding=true")
    assert "77 in this checkpoint (deepfloyd-if), 8 here; set text_encoder.max_length: 77" in text


def test_record_that_was_altered_is_refused(tmp_path: pathlib.Path) -> None:
    folder = imported(tmp_path / "init", "base4")
    record = (folder / "digest.json").read_text()
    (folder / "digest.json").write_text(record.replace("deepfloyd-if", "free-for-all"))
    assert "altered" in refused_inputs(f"{BASE}.finetune.init={folder}")


def test_licences_are_mixed_only_by_saying_so(tmp_path: pathlib.Path) -> None:
    base = imported(tmp_path / "base", "base4", "deepfloyd-if")
    sr = imported(tmp_path / "sr", "sr8", "adm")
    words = [f"{BASE}.finetune.init={base}", f"{SR}.finetune.init={sr}"]
    text = refused_inputs(*words)
    assert "base4: deepfloyd-if, sr8: adm" in text
    assert "licences: [adm, deepfloyd-if]" in text
    refused_inputs(*words, "licences=[adm]")
    checks.check_inputs(experiment.load(study.TINY, [*words, "licences=[deepfloyd-if,adm]"]), "job.yaml")
    # one licence needs no word, a word too many is wrong
    alone = experiment.load(study.TINY, words[:1])
    checks.check_inputs(alone, "job.yaml")
    assert "no checkpoint comes under adm, found deepfloyd-if" in refused_inputs(words[0], "licences=[adm]")


def test_refused_init_makes_no_run(tmp_path: pathlib.Path) -> None:
    folder = imported(tmp_path / "init", "base4", unet__channels=16)
    runs = tmp_path / "runs"
    text = refused("run", str(study.TINY), "--runs", str(runs), f"{BASE}.finetune.init={folder}")
    assert "unet.channels = 16 in this checkpoint" in text
    assert not runs.exists()
