"""What is wrong with a study of classifiers is said before any work: subsets, warm-ups, labels, weights."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from synthaug import checks, experiment, rng
from synthaug.checks.training import epoch_problems, subset_problems
from synthaug.errors import ConfigError, SynthaugError
from synthaug.experiment import Classifier
from synthaug.launch.parts import prepare_args
from synthaug.models.classifier import build_classifier
from synthaug.stages import collect, prepare, scan
from synthaug.weights.classifiers import check_start, read_classifier, write_classifier
from tests import study

KEYS = ("n00000001", "n00000005", "n00000009")
COUNTS = (8, 5, 6)


def write_images(folder: pathlib.Path, counts: dict[str, int]) -> None:
    """Writes images of one colour, each another one."""
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((8, 8, 3), (60 * k + i, 90, 90), np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{i}.png")


def tree(folder: pathlib.Path, **more: Any) -> dict[str, Any]:
    """Returns a job of three classes, whose images lie in a folder."""
    data = {"source": "folder", "path": str(folder / "train"), "val_path": str(folder / "val")}
    data |= {"num_classes": 3, "num_train": sum(COUNTS), "num_val": 6, "resolutions": [8], "shard_size": 4}
    score = {"splits": 1, "neighbours": 1}
    return {"name": "x", "stages": ["classify"], "data": data, "score": score, **more}


def trained_on(
    subset: dict[str, Any], *, mixes: tuple[str, ...] = ("real",), **optimizer: Any
) -> dict[str, Any]:
    """Returns the classify settings of one network and one subset: 4 epochs in batches of 2."""
    model = {"kind": "resnet", "batch_size": 2, "num_epochs": 4, "optimizer": {"kind": "sgd", **optimizer}}
    return {"models": {"m": model}, "mixes": list(mixes), "subsets": {"few": subset}, "budget": "epochs"}


# ------------------------------------------------------------------------------------ subsets, warm-ups


@pytest.mark.parametrize(
    ("subset", "steps"),
    [
        ({"per_class": 2}, 12),  # 4 epochs of 3 x 2 images in batches of 2
        ({"per_class": 4, "fraction": 0.5}, 12),
        ({"per_class": 4, "exponent": 1.0}, 16),  # 4 + 2 + 2 images
    ],
)
@pytest.mark.parametrize("schedule", [{"schedule": "cosine"}, {"schedule": "step", "milestones": [0.5]}, {}])
def test_a_warm_up_longer_than_a_subsets_epochs_is_refused_at_once(tmp_path, subset, steps, schedule):
    longer = tree(tmp_path, classify=trained_on(subset, warmup_steps=steps, **schedule))
    with pytest.raises(ConfigError) as error:
        experiment.parse(longer, "x.yaml")
    text = str(error.value)
    assert text.startswith(f"x.yaml: classify.models.m.optimizer.warmup_steps = {steps}; expected fewer than")
    assert f"the {steps} steps that num_epochs = 4 of" in text and "images of subset few" in text
    assert "\n" not in text
    experiment.parse(
        tree(tmp_path, classify=trained_on(subset, warmup_steps=steps - 1, **schedule)), "x.yaml"
    )


def test_generated_images_make_a_training_longer(tmp_path):
    made = {"source": "npz", "path": "x.npz", "num_images": 19, "resolution": 8}
    both = trained_on({"per_class": 1}, mixes=("real+generated",), warmup_steps=43, schedule="cosine")
    experiment.parse(tree(tmp_path, sets={"other": made}, classify=both), "x.yaml")  # 44: 3 + 19 images
    both = trained_on({"per_class": 1}, mixes=("real+generated",), warmup_steps=44, schedule="cosine")
    with pytest.raises(ConfigError, match=r"44 steps .* 22 images of the smallest subset and other"):
        experiment.parse(tree(tmp_path, sets={"other": made}, classify=both), "x.yaml")
    alone = trained_on({}, mixes=("generated",), warmup_steps=38, schedule="cosine")
    with pytest.raises(ConfigError, match=r"38 steps .* 19 images of other"):
        experiment.parse(tree(tmp_path, sets={"other": made}, classify=alone), "x.yaml")


def test_a_warm_up_by_share_or_with_fixed_steps_has_no_such_problem(tmp_path):
    share = trained_on({"per_class": 1}, warmup_share=0.5, schedule="cosine")
    assert epoch_problems(experiment.parse(tree(tmp_path, classify=share), "x.yaml")) == []
    all_of_6 = trained_on({"per_class": 1}, warmup_share=0.95, schedule="cosine")
    named = (
        r"m\.optimizer\.warmup_share = 0\.95 is 6 steps; expected fewer than the 6 .*: use a smaller share"
    )
    with pytest.raises(ConfigError, match=named):
        experiment.parse(tree(tmp_path, classify=all_of_6), "x.yaml")
    steps = {**trained_on({"per_class": 1}, warmup_steps=9, schedule="cosine"), "budget": "steps"}
    assert epoch_problems(experiment.parse(tree(tmp_path, classify=steps), "x.yaml")) == []


def test_what_the_classes_sizes_decide_is_refused_when_they_are_known(tmp_path):
    """A tenth of 19 images is 2 to 5 of them, before classes are known; of 8, 5 and 6 it is 3."""
    tenth = trained_on({"fraction": 0.1}, warmup_steps=6, schedule="cosine")
    settings = experiment.parse(tree(tmp_path, classify=tenth), "x.yaml")
    sizes = list(zip(KEYS, COUNTS, strict=True))
    assert "6 steps that num_epochs = 4 of 3 images of subset few" in subset_problems(settings, sizes)[0]
    larger = [(key, 30 * count) for key, count in sizes]
    assert subset_problems(settings, larger) == []


def images(folder: pathlib.Path) -> pathlib.Path:
    write_images(folder / "train", dict(zip(KEYS, COUNTS, strict=True)))
    write_images(folder / "val", dict.fromkeys(KEYS, 2))
    return folder


def test_scan_refuses_a_subset_larger_than_its_class_by_the_class_key(tmp_path):
    few = tree(images(tmp_path), classify=trained_on({"per_class": 6}))
    job: Any = study.StubJob(tmp_path / "run", experiment.parse(few, "x.yaml"))
    with pytest.raises(ConfigError) as error:
        scan.run(job)
    assert str(error.value) == (
        "classify.subsets.few.per_class = 6, but class n00000005 has 5 train images; set it to 5 or less, or "
        "use fraction."
    )
    job.experiment = experiment.parse(tree(tmp_path, classify=trained_on({"per_class": 5})), "x.yaml")
    assert scan.run(job)["train_counts"] == list(COUNTS)


def test_collect_refuses_it_where_unreadable_images_made_the_class_too_small(tmp_path):
    (images(tmp_path) / "train" / KEYS[1] / "3.png").write_bytes(b"no image")
    few = tree(tmp_path, classify=trained_on({"per_class": 5}))
    few["data"]["max_corrupt"] = 1
    job: Any = study.StubJob(tmp_path / "run", experiment.parse(few, "x.yaml"))
    job.run.finish("scan", 0, {"result": scan.run(job)})
    for part, args in enumerate(prepare_args(job.experiment)):
        job.args = args
        job.run.finish("prepare", part, {"result": prepare.run(job)})
    with pytest.raises(ConfigError, match="per_class = 5, but class n00000005 has 4 train images"):
        collect.run(job)


# ------------------------------------------------------------------------------- labels of ImageNet-ReaL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[1], [0", "no JSON"),
        ("[[1], [0, 3], [], [], [], []]", "entry 1 is [0, 3]; expected labels from 0 to 2"),
        ("[[0], [1]]", "has labels of 2 images, data.num_val is 6"),
    ],
)
def test_torn_or_foreign_real_labels_are_refused_before_a_run_is_made(tmp_path, text, words):
    (images(tmp_path) / "real.json").write_text(text)
    real = {"real": {"source": "val", "real_labels": str(tmp_path / "real.json")}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree(tmp_path, val_sets=real)))
    done = study.synthaug("run", str(tmp_path / "job.yaml"), "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "val_sets.real.real_labels" in done.stderr and words in done.stderr
    assert not (tmp_path / "runs").exists()


def test_real_labels_that_fit_are_accepted(tmp_path):
    (images(tmp_path) / "real.json").write_text(json.dumps([[0]] * 6))
    real = {"real": {"source": "val", "real_labels": str(tmp_path / "real.json")}}
    checks.check_inputs(experiment.parse(tree(tmp_path, val_sets=real), "x.yaml"), "x.yaml")


# ------------------------------------------------------------------------------- weights to start from


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks of the published families, small enough for a test."""
    for kind, shape in {
        "tiny_bottleneck": experiment.Architecture("bottleneck", (1, 1), 8, 0, 32, 0),
        "tiny_vit": experiment.Architecture("vit", (2,), 16, 2, 32, 0),
    }.items():
        monkeypatch.setitem(experiment.ARCHITECTURES, kind, shape)


def write_weights(path: pathlib.Path, kind: str, change: Any = None, **more: Any) -> pathlib.Path:
    settings = Classifier(kind=kind, **more)
    model = build_classifier(settings, resolution=32, channels=3, num_classes=5)
    write_classifier(path / f"{kind}.safetensors", kind, model.init(rng.root(0)))
    if change:
        tensors = load_file(path / f"{kind}.safetensors")
        change(tensors)
        save_file(tensors, path / f"{kind}.safetensors")
    return path / f"{kind}.safetensors"


def remove(name: str) -> Any:
    return lambda tensors: tensors.pop(name)


def replace(name: str, *shape: int, dtype: Any = np.float32) -> Any:
    return lambda tensors: tensors.update({name: np.zeros(shape, dtype)})


BOTTLENECK, VIT = "tiny_bottleneck", "tiny_vit"
# (kind in the file, change of the file, settings of the network, channels, what is said: nothing if it fits)
STARTS = [
    (BOTTLENECK, None, {"kind": BOTTLENECK}, 3, ""),
    (VIT, None, {"kind": VIT}, 3, ""),
    (VIT, None, {"kind": BOTTLENECK}, 3, "the file holds tiny_vit"),
    (BOTTLENECK, None, {"kind": "resnet"}, 3, "kind = resnet is none of timm's networks"),
    (BOTTLENECK, None, {"kind": BOTTLENECK}, 1, "for 3 channels, the images have 1"),
    (BOTTLENECK, None, {"kind": BOTTLENECK, "activation": "silu"}, 3, "set activation to relu"),
    (BOTTLENECK, remove("fc.bias"), {"kind": BOTTLENECK}, 3, "fc.bias is missing"),
    (BOTTLENECK, replace("x", 2), {"kind": BOTTLENECK}, 3, "x of shape [2] is left over"),
    (BOTTLENECK, replace("conv1.weight", 8, 3, 5, 5), {"kind": BOTTLENECK}, 3, "expected [8, 3, 7, 7]"),
    (BOTTLENECK, replace("fc.bias", 5, dtype=np.int8), {"kind": BOTTLENECK}, 3, "fc.bias has dtype I8"),
    (VIT, None, {"kind": VIT, "pool": "mean"}, 3, "set pool to token"),
    (VIT, None, {"kind": VIT, "positions": "sincos"}, 3, "set it to learned"),
    (VIT, replace("pos_embed", 1, 4, 16), {"kind": VIT}, 3, "4 positions; expected a square"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "network", "channels", "words"), STARTS, ids=[s[-1] for s in STARTS]
)
def test_the_table_of_a_file_says_what_reading_it_would(tmp_path, kind, change, network, channels, words):
    """Whatever training would refuse after hours of other work is refused from names and shapes alone."""
    file, settings = write_weights(tmp_path, kind, change), Classifier(**network)
    like = build_classifier(settings, resolution=32, channels=channels, num_classes=7).init(rng.root(1))
    if not words:
        check_start(file, settings, channels)
        read_classifier(file, settings, like, new_head=True)
        return
    with pytest.raises(SynthaugError) as early:
        check_start(file, settings, channels)
    assert words in str(early.value) and "\n" not in str(early.value)
    with pytest.raises(SynthaugError):
        read_classifier(file, settings, like, new_head=True)


def test_a_mean_over_patches_does_not_start_from_a_class_token_and_the_other_way_round(tmp_path):
    file = write_weights(tmp_path, VIT, pool="mean")
    check_start(file, Classifier(kind=VIT, pool="mean"), 3)
    with pytest.raises(SynthaugError, match=r"has no class token; expected .* set pool to mean"):
        check_start(file, Classifier(kind=VIT), 3)


def test_weights_that_do_not_fit_are_refused_before_a_run_is_made(tmp_path):
    """Through the command line, for a published network. No device is opened: a worker needs all of it."""
    save_file({"fc.bias": np.zeros(3, np.float32)}, tmp_path / "r50.safetensors")
    model = {"kind": "resnet50", "init": str(tmp_path / "r50.safetensors"), "view": {"size": 32}}
    job = tree(images(tmp_path), classify={"models": {"m": model}, "mixes": ["real"]})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = study.synthaug("run", str(tmp_path / "job.yaml"), "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "job.yaml: classify.models.m: " in done.stderr and "is missing" in done.stderr
    assert not (tmp_path / "runs").exists()
    code = (
        "import pathlib, sys; from synthaug import checks, experiment; from jax._src import xla_bridge\n"
        "try: checks.check_inputs(experiment.load(pathlib.Path(sys.argv[1])), 'x')\n"
        "except Exception as error: print(error)\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    line = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "job.yaml")]
    found = subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=study.ROOT, env=study.ENVIRONMENT
    )
    assert found.returncode == 0, found.stderr
    assert "is missing" in found.stdout


def test_settings_of_the_checks_are_those_of_the_study(tmp_path):
    """A study without the classify stage reads none of these files."""
    model = {"kind": "resnet50", "init": str(tmp_path / "none.safetensors")}
    job = tree(images(tmp_path), classify={"models": {"m": model}, "mixes": ["real"]})
    settings = experiment.parse(job, "x.yaml")
    with pytest.raises(ConfigError, match=r"classify\.models\.m\.init"):
        checks.check_inputs(settings, "x.yaml")
    (tmp_path / "none.safetensors").write_bytes(b"no table")
    with pytest.raises(ConfigError, match=r"none\.safetensors"):
        checks.check_inputs(settings, "x.yaml")
    checks.check_inputs(dataclasses.replace(settings, stages=()), "x.yaml")


# ------------------------------------------------------------------------------- classifiers of the sweep


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["sweep.classifiers={net: {kind: resnet50, positions: sincos}}"],
            "sweep.classifiers.net.positions has",
        ),
        (
            ["sweep.classifiers={net: {kind: resnet, optimizer: {warmup_steps: 10}}}", "CAS=net"],
            "sweep.classifiers.net.optimizer.warmup_steps = 10; expected fewer than the 10 steps",
        ),
        (
            ["classify.models.resnet.optimizer.warmup_steps=10", "CAS=resnet"],
            "classify.models.resnet.optimizer.warmup_steps = 10; expected fewer than the 10 steps",
        ),
    ],
    ids=["network", "of the sweep", "of the study"],
)
def test_classifiers_of_the_sweep_are_checked_like_the_others(overrides, words):
    """The second phase of the tiny study trains its CAS for 10 steps."""
    overrides = [text.replace("CAS", "sweep.phases.enlarge.cas_classifier") for text in overrides]
    with pytest.raises(ConfigError) as error:
        experiment.load(study.TINY, overrides)
    assert words in str(error.value)
