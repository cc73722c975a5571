"""Exports: every layout is read back by its own readers, there whole or not at all, and says what it is."""

from __future__ import annotations

import collections
import fcntl
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synthaug.data import export as exporting
from synthaug.data import layouts, record, shards, sources
from synthaug.data.collection import batches, open_images, open_shards
from synthaug.data.export import LAYOUTS, Origin, card_path, export
from synthaug.data.shards import ImageSet
from synthaug.data.writing import ShardWriter
from synthaug.errors import DataError, RunError
from synthaug.experiment.data import MadeSet
from tests import formats

KEYS = ("a/b", "n02119789", "ünïcode")
ORIGIN = Origin(
    classes=tuple((key, f"the {key}") for key in KEYS),
    terms=("DeepFloyd IF Licence Agreement: research only.",),
    made_by={"run": "digits", "synthaug": "0.5"},
)
COUNT, SIDE = 23, 16


def pixels_of(index: int, side: int = SIDE, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (side, side, channels), np.uint8)


def write_set(folder: pathlib.Path, count: int = COUNT, **shape: int) -> ImageSet:
    """Writes a generated set in shards of 7."""
    for shard, first in enumerate(range(0, count, 7)):
        part = range(first, min(first + 7, count))
        headers = [
            {"class_key": KEYS[i % 3], "class_index": i % 3, "prompt": f"a “{KEYS[i % 3]}”", "seed": i}
            for i in part
        ]
        records = zip(headers, (pixels_of(i, **shape) for i in part), strict=True)
        made_by = {"settings": "s", "weights": "w", "licences": ("deepfloyd-if",)}
        shards.write_shard(folder, shard, first, records, attempt=0, **made_by)
    return open_shards(str(folder), what="SET")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def made(source: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Every layout of the set, once."""
    root = tmp_path_factory.mktemp("exports")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow's own, while it is imported
        for layout in LAYOUTS:
            assert export(source, place(root, layout), layout, ORIGIN, per_file=10)["made"]
    return {layout: place(root, layout) for layout in LAYOUTS}


def place(root: pathlib.Path, layout: str) -> pathlib.Path:
    return root / (f"{layout}.npz" if layout == "npz" else layout)


def hash_of(path: pathlib.Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# ---------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_exported_opens_again(made: dict[str, pathlib.Path], layout: str) -> None:
    images = open_images(str(made[layout]), what="IMAGES")
    order = sorted(range(COUNT), key=lambda i: (i % 3, i)) if layout == "folder" else list(range(COUNT))
    ((_, pixels),) = batches(images, COUNT)
    np.testing.assert_array_equal(pixels, np.stack([pixels_of(i) for i in order]))
    labels = [images.label(i) for i in range(COUNT)]
    keys = [images.keys[k] for k in labels] if images.keys else [KEYS[k] for k in labels]
    names = [layouts.safe_name(KEYS[i % 3]) if layout == "folder" else KEYS[i % 3] for i in order]
    assert keys == names


def test_numpy_reads_the_npz_as_adm_does(made: dict[str, pathlib.Path]) -> None:
    with zipfile.ZipFile(made["npz"]) as archive, archive.open("arr_0.npy") as member:
        # ADM's reader takes the values in parts, which works in stored arrays of this version
        assert np.lib.format.read_magic(member) == (1, 0)
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    with np.load(made["npz"]) as file:
        assert file.files == ["arr_0", "arr_1"]
        images, labels = file["arr_0"], file["arr_1"]
    assert (images.dtype, images.shape, labels.dtype) == (np.uint8, (COUNT, SIDE, SIDE, 3), np.int64)
    np.testing.assert_array_equal(images, np.stack([pixels_of(i) for i in range(COUNT)]))
    np.testing.assert_array_equal(labels, np.arange(COUNT) % 3)


def test_image_folder(made: dict[str, pathlib.Path], source: ImageSet) -> None:
    folders = [path for path in made["folder"].iterdir() if path.is_dir()]
    assert sorted(path.name for path in folders) == ["a%2Fb", "n02119789", "ünïcode"]
    assert sorted(path.name for path in (made["folder"] / "a%2Fb").iterdir()) == [
        f"{i:08d}.png" for i in range(0, COUNT, 3)
    ]
    data = (made["folder"] / "ünïcode/00000005.png").read_bytes()
    assert data == source.encoded([5])[0]  # untouched
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels_of(5))


def test_samples_of_webdataset(made: dict[str, pathlib.Path]) -> None:
    assert sorted(path.name for path in made["webdataset"].glob("*.tar")) == [
        f"{i:05d}.tar" for i in range(3)
    ]
    with tarfile.open(made["webdataset"] / "00002.tar") as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} == {(0, 0, 0, "")}
    assert list(members) == [f"0000200{i:02d}.{kind}" for i in range(3) for kind in ("png", "cls", "json")]
    about = json.loads(members["000020002.json"])
    assert members["000020002.cls"] == b"1"
    assert about == {
        "key": "000020002",
        "index": 22,
        "class_key": KEYS[1],
        "class_index": 1,
        "prompt": "a “n02119789”",
        "seed": 22,
        "settings": "s",
        "weights": "w",
        "licences": ["deepfloyd-if"],
    }


@pytest.mark.filterwarnings("ignore")
def test_tensorflow_reads_the_records(made: dict[str, pathlib.Path]) -> None:
    import tensorflow as tf

    kinds = {
        "image/encoded": tf.string,
        "image/class/label": tf.int64,
        "image/class/synset": tf.string,
        "image/filename": tf.string,
        "image/height": tf.int64,
        "image/width": tf.int64,
        "image/channels": tf.int64,
        "image/colorspace": tf.string,
        "image/format": tf.string,
        "image/json": tf.string,
    }
    features = {name: tf.io.FixedLenFeature([], kind) for name, kind in kinds.items()}
    files = sorted(str(path) for path in made["tfrecord"].glob("train-*"))
    assert [pathlib.Path(file).name for file in files] == [f"train-0000{i}-of-00003" for i in range(3)]
    records = tf.data.TFRecordDataset(files).map(lambda data: tf.io.parse_single_example(data, features))
    found = list(records.as_numpy_iterator())
    assert len(found) == COUNT
    for i, row in enumerate(found):
        np.testing.assert_array_equal(tf.io.decode_image(row["image/encoded"]).numpy(), pixels_of(i))
        assert row["image/class/label"] == i % 3 + 1
        assert row["image/class/synset"].decode() == KEYS[i % 3]
        assert row["image/filename"].decode() == f"{i:08d}.png"
        assert (row["image/height"], row["image/width"], row["image/channels"]) == (SIDE, SIDE, 3)
        assert (row["image/colorspace"], row["image/format"]) == (b"RGB", b"PNG")
        assert json.loads(row["image/json"])["seed"] == i


@pytest.mark.parametrize(
    ("name", "layout"), [("webdataset", "webdataset"), ("tfrecord", "tfrecord"), ("npz", "npz")]
)
def test_our_own_sources_take_an_export(
    made: dict[str, pathlib.Path], tmp_path: pathlib.Path, name: str, layout: str
) -> None:
    (tmp_path / "keys.txt").write_text("\n".join(KEYS) + "\n")
    one = MadeSet(
        source=name,
        path=str(made[layout]),
        num_images=COUNT,
        resolution=SIDE,
        class_list=str(tmp_path / "keys.txt"),
    )
    listing = sources.scan_made(one, tuple((key, key) for key in KEYS))
    np.testing.assert_array_equal(listing.class_index, np.arange(COUNT) % 3)


# --------------------------------------------------------------------------------- other images


def test_grey_sets(tmp_path: pathlib.Path) -> None:
    source = write_set(tmp_path / "set", 4, channels=1)
    export(source, tmp_path / "a.npz", "npz", ORIGIN)
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["arr_0"][2], np.repeat(pixels_of(2, channels=1), 3, axis=2))
    export(source, tmp_path / "a", "folder", ORIGIN)
    with Image.open(tmp_path / "a/a%2Fb/00000003.png") as image:
        assert image.mode == "L"


def test_prepared_sets_become_png(tmp_path: pathlib.Path) -> None:
    with ShardWriter(tmp_path / "set", 0, settings="s", weights="", attempt=0) as writer:
        for i in range(4):
            header = writer.header(i, {"class_key": KEYS[i % 3], "class_index": i % 3})
            writer.add(record.pack_pixels(header, pixels_of(i)), pixels_of(i).data)
        writer.commit(0)
    source = open_shards(str(tmp_path / "set"), what="SET")
    export(source, tmp_path / "out", "folder", ORIGIN)
    with Image.open(tmp_path / "out/ünïcode/00000002.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels_of(2))


def test_untouched_files_keep_their_bytes_and_suffixes(tmp_path: pathlib.Path) -> None:
    pictures = formats.pictures(["x", "y"], 2)
    with ShardWriter(tmp_path / "set", 0, settings="s", weights="", attempt=0) as writer:
        for i, picture in enumerate(pictures):
            header = {"class_key": KEYS[i % 3], "class_index": i % 3, "format": "JPEG", "channels": 3}
            writer.add(record.pack_file(writer.header(i, header), picture.data), b"")
        writer.commit(0)
    source = open_shards(str(tmp_path / "set"), what="SET")
    export(source, tmp_path / "out", "folder", ORIGIN)
    assert (tmp_path / "out/a%2Fb/00000000.jpg").read_bytes() == pictures[0].data
    assert "none: real images" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(DataError, match=r"image 1: is .* px, the first .*: export the set at one resolution"):
        export(source, tmp_path / "a.npz", "npz", ORIGIN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]  # nothing half made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_selection(tmp_path: pathlib.Path, source: ImageSet, layout: str) -> None:
    chosen = [1, 4, 7, 20]  # two classes of three
    out = place(tmp_path, layout)
    card = export(source, out, layout, ORIGIN, indices=chosen, per_file=3)
    images = open_images(str(out), what="IMAGES")
    found = sorted(images.read(i).tobytes() for i in range(len(images)))
    assert found == sorted(pixels_of(i).tobytes() for i in chosen)
    assert [entry["images"] for entry in card["classes"]] == [0, 3, 1]
    assert card["selection"]
    if layout != "npz":
        assert "**1 classes have no image here** (a/b)" in (out / "README.md").read_text()


# ------------------------------------------------------------------------------------ card and repeat


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_card_says_what_it_is(made: dict[str, pathlib.Path], source: ImageSet, layout: str) -> None:
    card = json.loads(card_path(made[layout]).read_text())
    assert card["images"] == COUNT
    assert card["licences"] == ["deepfloyd-if"]
    assert card["terms"] == list(ORIGIN.terms)
    assert card["made_by"] == {"run": "digits", "synthaug": "0.5"}
    assert card["source"]["weights"] == "w"
    assert card["classes"][2] == {"index": 2, "key": KEYS[2], "name": "the ünïcode", "images": 7}
    if layout != "npz":
        text = (made[layout] / "README.md").read_text()
        assert "DeepFloyd IF Licence Agreement: research only." in text
        assert "{00000..00002}.tar" in text or layout != "webdataset"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_command_again_changes_nothing(
    made: dict[str, pathlib.Path], source: ImageSet, layout: str, tmp_path: pathlib.Path
) -> None:
    before = hash_of(made[layout])
    card = export(source, made[layout], layout, ORIGIN, per_file=10)
    assert not card["made"]
    assert hash_of(made[layout]) == before
    again = place(tmp_path, layout)
    export(source, again, layout, ORIGIN, per_file=10)  # elsewhere: the same bytes
    assert hash_of(again) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_export_is_not_overwritten(
    made: dict[str, pathlib.Path], source: ImageSet, layout: str
) -> None:
    with pytest.raises(RunError, match="is another export, it differs in images, selection"):
        export(source, made[layout], layout, ORIGIN, indices=range(5), per_file=10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_foreign_files_are_not_overwritten(tmp_path: pathlib.Path, source: ImageSet, layout: str) -> None:
    out = place(tmp_path, layout)
    out.mkdir() if layout != "npz" else out.write_bytes(b"mine")
    with pytest.raises(RunError, match="is there and is no finished export of synthaug"):
        export(source, out, layout, ORIGIN)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("layout", "victim"), [("folder", "n02119789/00000004.png"), ("webdataset", "00001.tar"), ("npz", "")]
)
def test_an_altered_export_is_named(
    tmp_path: pathlib.Path, source: ImageSet, layout: str, victim: str
) -> None:
    out = place(tmp_path, layout)
    export(source, out, layout, ORIGIN, per_file=10)
    if victim:
        (out / victim).unlink()
    else:
        out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(RunError, match="remove"):
        export(source, out, layout, ORIGIN, per_file=10)


# --------------------------------------------------------------------------------- all or nothing


KILLED = """
import os, pathlib, signal, sys, time
from synthaug.data.collection import open_shards
from synthaug.data.export import Origin, export
source, out, layout = sys.argv[1:]
def stop(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
origin = Origin(classes=[(key, key) for key in ("a/b", "n02119789", "ünïcode")])
import synthaug.data.export as exporting
exporting._BEAT = 5
export(open_shards(source, what="SET"), pathlib.Path(out), layout, origin, per_file=10, progress=stop)
"""


@pytest.mark.parametrize("layout", ["npz", "folder", "webdataset"])
def test_killed_it_leaves_nothing_and_goes_through_the_next_time(
    tmp_path: pathlib.Path, source: ImageSet, layout: str
) -> None:
    out = place(tmp_path, layout)
    command = [sys.executable, "-c", KILLED, str(source.directory), str(out), layout]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f".{out.name}.partial"]
    assert export(source, out, layout, ORIGIN)["made"]
    assert not list(tmp_path.glob(".*"))


def test_two_at_a_time_are_refused(tmp_path: pathlib.Path, source: ImageSet) -> None:
    (tmp_path / ".out.partial").mkdir()
    handle = os.open(tmp_path / ".out.partial", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(RunError, match="another process is writing it"):
        export(source, tmp_path / "out", "folder", ORIGIN)
    os.close(handle)
    assert (tmp_path / ".out.partial").is_dir()
    export(source, tmp_path / "out", "folder", ORIGIN)


def test_a_stop_in_between_leaves_nothing(tmp_path: pathlib.Path, source: ImageSet) -> None:
    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    for layout in ("npz", "folder", "webdataset"):
        with pytest.raises(KeyboardInterrupt):
            export(source, place(tmp_path, layout), layout, ORIGIN, progress=stop)
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_counted(
    tmp_path: pathlib.Path, source: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(rows: Any, folder: pathlib.Path, count: int, per_file: int) -> None:
        layouts.write_folder(rows, folder, count, per_file)
        next(folder.rglob("*.png")).unlink()

    monkeypatch.setitem(layouts.LAYOUTS, "folder", lossy)
    with pytest.raises(RunError, match="has other images than were written, 22 of 23"):
        export(source, tmp_path / "out", "folder", ORIGIN)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before(
    tmp_path: pathlib.Path, source: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        exporting.shutil, "disk_usage", lambda path: collections.namedtuple("Usage", "free")(1000)
    )
    for layout in LAYOUTS:
        with pytest.raises(RunError, match=r"needs about 0\.0 GB, but 0\.0 GB are free there"):
            export(source, place(tmp_path, layout), layout, ORIGIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "zip"}, "layout 'zip' is unknown; expected one of npz, folder, webdataset, tfrecord"),
        ({"per_file": 0}, "0 images per file; expected 1 to 10000"),
        ({"per_file": 20_000}, "20000 images per file"),
        ({"indices": []}, "no images of .* are chosen"),
        ({"indices": range(24)}, "image 23 is wanted, but .* has 23"),
        ({"indices": [1, 1]}, "an image is chosen twice"),
        ({"layout": "npz"}, r"expected a name that ends in \.npz"),
    ],
)
def test_bad_settings(
    tmp_path: pathlib.Path, source: ImageSet, changes: dict[str, Any], message: str
) -> None:
    layout = changes.pop("layout", "folder")
    with pytest.raises(DataError, match=message):
        export(source, tmp_path / "out", layout, ORIGIN, **changes)


def test_another_set_s_classes_are_refused(tmp_path: pathlib.Path, source: ImageSet) -> None:
    for classes in ([("x", "x")] * 3, list(ORIGIN.classes[:2])):
        with pytest.raises(DataError, match=r"image \d is of class \d, .*: the two do not belong together"):
            export(source, tmp_path / "out", "folder", Origin(classes=classes))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: pathlib.Path, source: ImageSet) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        export(source, tmp_path / "file/out", "folder", ORIGIN)


def test_an_npz_is_not_held_in_memory(tmp_path: pathlib.Path) -> None:
    source = write_set(tmp_path / "set", 400, side=96)  # 11 MB of pixels
    tracemalloc.start()
    export(source, tmp_path / "a.npz", "npz", ORIGIN)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "a.npz").stat().st_size > 400 * 96 * 96 * 3
    assert peak < 6e6


@pytest.mark.parametrize("key", ["", ".", "..", ".x", "a.", "a ", "a/b", "a\\b", "a%2Fb", "C:", "a\0", "a*?"])
def test_safe_names_are_names_and_differ(key: str) -> None:
    name = layouts.safe_name(key)
    assert not set(name) & set('/\\:*?"<>|\0') and not name.startswith(".") and not name.endswith((".", " "))
    others = ["", ".", "..", ".x", "a.", "a ", "a/b", "a\\b", "a%2Fb", "C:", "a\0", "a*?"]
    assert [layouts.safe_name(other) for other in others].count(name) == 1
