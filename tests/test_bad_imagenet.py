"""The bad input that issue 4 lists, each through all that comes before training: one clear line."""

from __future__ import annotations

import json
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from synthaug import checks, experiment
from synthaug.data.shards import write_shard
from synthaug.errors import SynthaugError
from synthaug.launch.plan import make_plan
from synthaug.rundir import RunDir
from synthaug.site import Site
from synthaug.stages import work
from synthaug.train.preemption import StopFlag
from tests import formats

KEYS = ("n01440764", "n01443537", "n02100735")
TRAIN, VAL = formats.pictures(KEYS, 4, 0), formats.pictures(KEYS, 2, 1)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """ILSVRC's two tars with labels, and the same images in class folders."""
    formats.write_ilsvrc(tmp_path / "tars", TRAIN, VAL)
    formats.write_folder(tmp_path / "train", TRAIN)
    formats.write_folder(tmp_path / "val", VAL)
    return tmp_path


def tars(root: pathlib.Path) -> dict[str, Any]:
    here = root / "tars"
    paths = {"path": here / "ILSVRC2012_img_train.tar", "val_path": here / "ILSVRC2012_img_val.tar"}
    paths["val_labels"] = here / "LOC_val_solution.csv"
    return {"source": "ilsvrc", **{knob: str(path) for knob, path in paths.items()}}


def folders(root: pathlib.Path) -> dict[str, Any]:
    return {"source": "folder", "path": str(root / "train"), "val_path": str(root / "val")}


def job(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    sizes = {"num_classes": 3, "num_train": 12, "num_val": 6, "resolutions": [8], "shard_size": 5}
    model = {"kind": "resnet", "view": {"size": 8}}
    classify = {"models": {"m": model}, "mixes": ["real"], **more.pop("classify", {})}
    score = {"splits": 1, "neighbours": 1}
    return {"name": "x", "stages": ["classify"], "data": {**sizes, **data}, "score": score, **more,
            "classify": classify}  # fmt: skip


def collect(tree: dict[str, Any], runs: pathlib.Path) -> RunDir:
    """Does what a command does up to the first training."""
    settings = experiment.parse(tree, "x.yaml")
    checks.check_inputs(settings, "x.yaml")
    run, plan = RunDir(runs / "x"), make_plan(settings)
    run.create(settings, "synthaug run x.yaml")
    for name in ("scan", "prepare", "collect"):
        stage = plan.stage(name)
        for part in range(len(stage.parts) if stage else 0):
            work.run_part(run, settings, plan, Site(), name, part, StopFlag(), lambda _: None)
    return run


def bomb(side: int) -> bytes:
    """Returns a PNG of some hundred bytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# What is done to the files of `root`; which job it is.
Case = Callable[[pathlib.Path], dict[str, Any]]


def not_an_image(root: pathlib.Path) -> dict[str, Any]:
    (root / "train" / KEYS[0] / f"{KEYS[0]}_1.JPEG").write_bytes(b"<html>404</html>")
    return job(folders(root))


def not_an_image_in_a_tar(root: pathlib.Path) -> dict[str, Any]:
    inner = [(f"{image.name}.JPEG", image.data) for image in TRAIN[1:4]] + [("x.JPEG", b"GIF?")]
    rest = [(key, [(f"{i.name}.JPEG", i.data) for i in TRAIN if i.key == key]) for key in KEYS[1:]]
    outer = [(f"{key}.tar", formats.tar_bytes(files)) for key, files in [(KEYS[0], inner), *rest]]
    formats.write_tar(root / "tars" / "ILSVRC2012_img_train.tar", outer)
    return job(tars(root))


def truncated_tar(root: pathlib.Path) -> dict[str, Any]:
    file = root / "tars" / "ILSVRC2012_img_train.tar"
    file.write_bytes(file.read_bytes()[:9000])
    return job(tars(root))


def member_outside(root: pathlib.Path) -> dict[str, Any]:
    inner = formats.tar_bytes([("../../x.JPEG", TRAIN[0].data)])
    formats.write_tar(root / "tars" / "ILSVRC2012_img_train.tar", [(f"{KEYS[0]}.tar", inner)])
    return job(tars(root))


def decompression_bomb(root: pathlib.Path) -> dict[str, Any]:
    (root / "train" / KEYS[1] / f"{KEYS[1]}_2.JPEG").write_bytes(bomb(50_000))
    return job(folders(root))


def other_class_folders(root: pathlib.Path) -> dict[str, Any]:
    (root / "list.txt").write_text("\n".join((*KEYS[:2], "n09999999")) + "\n")
    return job({**folders(root), "class_list": str(root / "list.txt")})


def other_val_folders(root: pathlib.Path) -> dict[str, Any]:
    (root / "val" / KEYS[2]).rename(root / "val" / "n09999999")
    return job(folders(root))


def label_out_of_range(root: pathlib.Path) -> dict[str, Any]:
    labels = np.array([0, 1, 2, 3] * 3)
    np.savez(root / "x.npz", np.zeros((12, 8, 8, 3), np.uint8), labels)
    mixes = {"mixes": ["generated"]}
    return job(folders(root), sets={"other": made("npz", root / "x.npz")}, classify=mixes)


def ground_truth_of_the_wrong_length(root: pathlib.Path) -> dict[str, Any]:
    lines = (root / "tars" / "LOC_val_solution.csv").read_text().splitlines()
    (root / "tars" / "LOC_val_solution.csv").write_text("\n".join(lines[:-1]) + "\n")
    return job(tars(root))


def made(source: str, path: pathlib.Path) -> dict[str, Any]:
    return {"source": source, "path": str(path), "num_images": 12, "resolution": 8}


def write_manifest(folder: pathlib.Path) -> pathlib.Path:
    for shard in range(3):
        numbers = range(4 * shard, 4 * shard + 4)
        records = [
            ({"class_key": KEYS[i % 3], "class_index": i % 3, "prompt": "x"}, np.full((8, 8, 3), i, np.uint8))
            for i in numbers
        ]
        write_shard(folder, shard, numbers[0], records, settings="s", weights="w", attempt=0)
    return folder


def manifest_with_a_hole(root: pathlib.Path) -> dict[str, Any]:
    (write_manifest(root / "set") / "shard-00001.json").unlink()
    return both(root)


def manifest_with_a_doubled_shard(root: pathlib.Path) -> dict[str, Any]:
    folder = write_manifest(root / "set")
    marker = (folder / "shard-00001.json").read_text()
    (folder / "shard-00002.json").write_text(
        marker.replace("00001", "00002").replace('"index": 1', '"index": 2')
    )
    return both(root)


def both(root: pathlib.Path, **classify: Any) -> dict[str, Any]:
    mixes = {"mixes": ["real", "real+generated"], **classify}
    return job(folders(root), sets={"mine": made("manifest", root / "set")}, classify=mixes)


def mix_of_a_missing_set(root: pathlib.Path) -> dict[str, Any]:
    write_manifest(root / "set")
    return both(root, sets=["nime"])


def mix_without_any_set(root: pathlib.Path) -> dict[str, Any]:
    return job(folders(root), classify={"mixes": ["real+generated"]})


def no_validation_images(root: pathlib.Path) -> dict[str, Any]:
    for image in VAL:
        (root / "val" / image.key / f"{image.name}.JPEG").rename(root / f"{image.name}.txt")
    return job(folders(root))


def no_image_in_a_class(root: pathlib.Path) -> dict[str, Any]:
    for image in TRAIN[:4]:
        (root / "train" / image.key / f"{image.name}.JPEG").unlink()
    return job(folders(root))


def stated_as_nothing(root: pathlib.Path) -> dict[str, Any]:
    return job({**folders(root), "num_val": 0})


def all_validation_images_unreadable(root: pathlib.Path) -> dict[str, Any]:
    for image in VAL:
        (root / "val" / image.key / f"{image.name}.JPEG").write_bytes(b"x")
    return job({**folders(root), "max_corrupt": 6})


LIST: list[tuple[Case, str]] = [
    (not_an_image, "n01440764/n01440764_1.JPEG: cannot be decoded (no known image format)"),
    (not_an_image_in_a_tar, "n01440764/x.JPEG: cannot be decoded (no known image format)"),
    (truncated_tar, "ILSVRC2012_img_train.tar: ends inside of 'n01440764.tar'"),
    (member_outside, "ILSVRC2012_img_train.tar: n01440764.tar: '../../x.JPEG' points outside of its folder"),
    (
        decompression_bomb,
        "n01443537/n01443537_2.JPEG: has far too many pixels; expected at most 89478485 in all",
    ),
    (other_class_folders, "class n02100735 is not among the 3 classes of data.class_list"),
    (other_val_folders, "no class n02100735 in"),
    (label_out_of_range, "the label of x.npz/000003 is 3, and 2 more; expected 0 to 2"),
    (ground_truth_of_the_wrong_length, "has 5 labels for 6 images"),
    (manifest_with_a_hole, "1 of 3 shards are missing: shards 1; images 4-7"),
    (manifest_with_a_doubled_shard, "shard-00002.json: "),
    (mix_of_a_missing_set, "classify.sets: 'nime' is unknown; expected one of mine."),
    (mix_without_any_set, "classify.mixes: there are no generated images"),
    (no_validation_images, "no image"),
    (no_image_in_a_class, "no image in n01440764"),
    (stated_as_nothing, "data.num_val = 0"),
    (all_validation_images_unreadable, "no readable image in the set val"),
]


@pytest.mark.parametrize(("case", "words"), LIST, ids=[case.__name__ for case, _ in LIST])
def test_bad_input_is_one_clear_line_before_any_training(root: pathlib.Path, case: Case, words: str) -> None:
    with pytest.raises(SynthaugError) as error:
        collect(case(root), root / "runs")
    text = str(error.value)
    assert words in text
    assert "\n" not in text and error.value.exit_code == 2


def test_the_good_ones_go_through(root: pathlib.Path) -> None:
    """So that what is refused above is refused for the change alone."""
    write_manifest(root / "set")
    for number, tree in enumerate((job(tars(root)), job(folders(root)), both(root))):
        run = collect(tree, root / f"runs{number}")
        assert run.result("collect")["num_train"] == 12 and run.result("collect")["num_val"] == 6


def test_class_names_of_path_and_markup_characters_stay_text(root: pathlib.Path) -> None:
    """Through scan, prepare, collect and the whole report: never a file's name, escaped in the page."""
    names = ["../../escape", '<img src=x onerror="alert(1)">', "a/b|c*"]
    (root / "keys.json").write_text(json.dumps(names))
    samples = [
        (f"{i:03}.{kind}", data)
        for i, image in enumerate(TRAIN)
        for kind, data in (("jpg", image.data), ("cls", b"%d" % (i % 3)))
    ]
    formats.write_tar(root / "x.tar", samples)
    data = {"source": "webdataset", "path": str(root / "x.tar"), "class_list": str(root / "keys.json")}
    np.savez(root / "x.npz", np.zeros((12, 8, 8, 3), np.uint8), np.arange(12) % 3)
    sets, mixes = {"other": made("npz", root / "x.npz")}, {"mixes": ["generated"]}
    tree = job({**data, "num_train": 9, "num_val": 3, "val_every": 4}, sets=sets, classify=mixes)
    before = {path.relative_to(root) for path in root.rglob("*")}
    run = collect(tree, root / "runs")
    settings = experiment.parse(tree, "x.yaml")
    work.run_part(run, settings, make_plan(settings), Site(), "report", 0, StopFlag(), lambda _: None)
    new = {path.relative_to(root) for path in root.rglob("*")} - before
    assert new and all(path.parts[0] == "runs" for path in new)
    assert not any("escape" in str(path) or "img" in str(path) for path in new)
    page = (run.report / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page and "../../escape" in page
