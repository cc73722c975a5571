"""Sources in their real formats: what is listed, what is read, and what is refused."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
import struct
import tarfile
import unicodedata
import warnings
from collections import Counter
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from synthaug.data import images, shards, sources
from synthaug.data.listing import Listing, read_listing
from synthaug.data.sources import columns, tars, tfrecord
from synthaug.data.sources.found import paths_of
from synthaug.errors import DataError, RunError
from synthaug.experiment import Data
from synthaug.experiment.data import MadeSet
from tests import formats
from tests.formats import Picture, file_of

KEYS = ["n01440764", "n02100735", "n02105855", "n02119789"]
DIGITS = Data(source="digits", num_classes=10, num_train=1442, num_val=355, channels=1)
TRAIN, VAL = formats.pictures(KEYS, 5), formats.pictures(KEYS, 2, seed=1)
COUNTS = {"num_classes": 4, "num_train": 20, "num_val": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The same images in every format, under train/ and val/ of each."""
    root = tmp_path_factory.mktemp("formats")
    formats.write_ilsvrc(root / "ilsvrc", TRAIN, VAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow's own, while it is imported
        for split, made in (("train", TRAIN), ("val", VAL)):
            for writer in ("tpu", "numbers", "tfds"):
                formats.write_tfrecords(root / writer / split, made, 2, writer, KEYS)
    for split, made in (("train", TRAIN), ("val", VAL)):
        formats.write_folder(root / "folder" / split, made)
        for label in ("cls", "wnid", "json"):
            formats.write_webdataset(root / f"webdataset-{label}" / split, made, 2, KEYS, label)
        formats.write_parquet(root / "parquet" / split, made, 2, KEYS)
        formats.write_parquet(root / "unnamed" / split, made, 2, KEYS, named=False)
    (root / "keys.txt").write_text("\n".join(KEYS) + "\n")
    return root


def data_of(root: pathlib.Path, name: str, **changes: Any) -> Data:
    """Returns the settings for one of the formats under `root`."""
    records = dict.fromkeys(("tpu", "numbers", "tfds"), "tfrecord")
    source = {**records, "unnamed": "parquet"}.get(name, name.partition("-")[0])
    listed = name in ("webdataset-cls", "webdataset-json", "unnamed", "numbers")
    stated = {
        "path": str(root / name / "train"),
        "val_path": str(root / name / "val"),
        "class_list": str(root / "keys.txt") if listed else "",
        **COUNTS,
    }
    if name == "ilsvrc":
        stated |= {
            "path": str(root / name / "ILSVRC2012_img_train.tar"),
            "val_path": str(root / name / "ILSVRC2012_img_val.tar"),
            "val_labels": str(root / name / "devkit" / "ILSVRC2012_validation_ground_truth.txt"),
        }
    return Data(source=source, **{**stated, **changes})


def contents(listing: Listing, is_val: bool) -> Counter[tuple[str, bytes]]:
    """Returns class key and bytes of all images of a split."""
    reader = sources.Reader(listing)
    rows = np.flatnonzero(listing.is_val == is_val)
    return Counter((listing.classes[listing.class_index[row]][0], reader.read(int(row))) for row in rows)


def expected(made: list[Picture]) -> Counter[tuple[str, bytes]]:
    return Counter((image.key, image.data) for image in made)


FORMATS = [
    "folder",
    "ilsvrc",
    "tpu",
    "numbers",
    "tfds",
    "webdataset-cls",
    "webdataset-wnid",
    "webdataset-json",
    "parquet",
    "unnamed",
]

# ------------------------------------------------------------------------------------------ all formats


@pytest.mark.parametrize("name", FORMATS)
def test_every_image_is_found_with_its_class_and_read_untouched(root, name):
    listing = sources.scan(data_of(root, name))
    assert [key for key, _ in listing.classes] == KEYS
    assert len(set(listing.source_id)) == len(listing) == 28
    assert not listing.is_val[:20].any() and listing.is_val[20:].all()
    assert all(i.startswith("val/") == v for i, v in zip(listing.source_id, listing.is_val, strict=True))
    assert contents(listing, False) == expected(TRAIN)
    assert contents(listing, True) == expected(VAL)


@pytest.mark.parametrize("name", FORMATS)
def test_split_of_one_source_takes_every_nth_of_each_class(root, name):
    settings = data_of(root, name, val_path="", val_labels="", num_train=16, num_val=4, val_every=3)
    listing = sources.scan(settings)
    assert np.bincount(listing.class_index[listing.is_val]).tolist() == [1] * 4
    for k in range(4):
        assert np.flatnonzero(listing.is_val[listing.class_index == k]).tolist() == [2]


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_counts_are_refused_with_the_right_ones(root, name):
    message = r"data\.path has 20 and data\.val_path 8 images; set data\.num_train=20 data\.num_val=8"
    with pytest.raises(DataError, match=message) as error:
        sources.scan(data_of(root, name, num_train=21))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"the source has 4 classes; set data\.num_classes=4"):
        sources.scan(data_of(root, name, num_classes=5))
    with pytest.raises(DataError, match="val_every = 6 leaves no image for validation"):
        sources.scan(data_of(root, name, val_path="", val_labels="", val_every=6))


@pytest.mark.parametrize("name", FORMATS)
def test_listing_survives_the_disk_and_any_number_of_threads(root, name, tmp_path):
    listing = sources.scan(data_of(root, name))
    digest = listing.write(tmp_path / "listing.parquet")
    again = read_listing(tmp_path / "listing.parquet")
    for field in dataclasses.fields(Listing):
        assert np.array_equal(getattr(again, field.name), getattr(listing, field.name)), field.name
        assert type(getattr(again, field.name)) is type(getattr(listing, field.name))
    assert again.write(tmp_path / "again.parquet") == digest
    reader, alone = sources.Reader(again), [sources.Reader(listing).read(row) for row in range(28)]
    rows = np.random.default_rng(0).integers(28, size=400).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reader.read, rows)) == [alone[row] for row in rows]


@pytest.mark.parametrize("name", ["folder", "ilsvrc", "tpu", "webdataset-wnid", "parquet"])
def test_missing_sources_are_refused(root, name):
    for path in ("", "/nowhere/at/all"):
        with pytest.raises(DataError, match=r"data\.path = .*: no such .*; set data\.path") as error:
            sources.scan(data_of(root, name, path=path))
        assert "\n" not in str(error.value)


def test_image_twice_in_a_source_is_refused(tmp_path):
    members = [
        ("a.jpg", TRAIN[0].data),
        ("a.cls", b"0"),
        ("b.cls", b"1"),
        ("a.jpg", TRAIN[0].data),
        ("a.cls", b"0"),
    ]
    formats.write_tar(tmp_path / "x.tar", members)
    (tmp_path / "keys").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"x\.tar/a\.jpg stands twice"):
        sources.scan(
            Data(
                source="webdataset",
                path=str(tmp_path / "x.tar"),
                class_list=str(tmp_path / "keys"),
                num_classes=2,
                num_train=1,
                num_val=1,
            )
        )


def test_torn_listing_is_refused(root, tmp_path):
    path = tmp_path / "listing.parquet"
    with pytest.raises(DataError, match="no such listing; run the stage scan"):
        read_listing(path)
    sources.scan(data_of(root, "tpu")).write(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is no listing"):
        read_listing(path)


def test_source_that_changed_since_it_was_listed_is_a_data_error(root, tmp_path):
    shutil.copytree(root / "ilsvrc", tmp_path / "ilsvrc")
    listing = sources.scan(data_of(tmp_path, "ilsvrc"))
    with open(tmp_path / "ilsvrc" / "ILSVRC2012_img_train.tar", "r+b") as file:
        file.truncate(9000)
    with pytest.raises(DataError, match="it was longer when it was listed"):
        sources.Reader(listing).read(19)
    (tmp_path / "ilsvrc" / "ILSVRC2012_img_train.tar").unlink()
    # a source that moved is no corrupt image, which prepare may leave out
    with pytest.raises(RunError, match=r"cannot be read .* bring it back"):
        sources.Reader(listing).read(0)


def test_reader_of_many_files_keeps_few_open(tmp_path):
    for i in range(300):
        formats.write_tar(tmp_path / f"{i:03d}.tar", [("a.png", b"x" * i), ("a.cls", b"%d" % (i % 2))])
    (tmp_path / "keys").write_text("a\nb\n")
    settings = MadeSet(
        source="webdataset", path=str(tmp_path / "{000..299}.tar"), num_images=300, resolution=8
    )
    reader = sources.Reader(sources.scan_made(settings, (("a", "a"), ("b", "b"))))
    before = len(os.listdir("/proc/self/fd"))
    assert [len(reader.read(row)) for row in range(300)] == list(range(300))
    assert len(os.listdir("/proc/self/fd")) - before <= 128
    del reader
    assert len(os.listdir("/proc/self/fd")) <= before


# ------------------------------------------------------------------------------------------------ digits


def test_digits_are_the_bundled_ones():
    listing = sources.scan(DIGITS)
    assert listing.classes[0] == ("0", "zero") and len(listing.classes) == 10
    assert len(listing) == 1797 == len(set(listing.source_id)) and listing.is_val.sum() == 355
    assert (np.diff(listing.class_index) >= 0).all()
    row = listing.source_id.index("digits/0000")
    first = sources.Reader(listing).read(row)
    assert listing.class_index[row] == 0 and first.shape == (8, 8, 1) and first.dtype == np.uint8
    assert first[0, :4, 0].tolist() == [0, 0, 80, 207]  # 0, 0, 5, 13 sixteenths


# ------------------------------------------------------------------------------------------------ folder


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Three classes of 7, 6 and 5 images, in odd places and formats."""
    root = tmp_path / "raw"
    for k, key in enumerate(["b", "a", "größe"]):
        (root / key / "deep").mkdir(parents=True)
        for i in range(7 - k):
            suffix = (".png", ".JPEG", ".webp", ".bmp", ".jpg")[i % 5]
            kind = {"jpg": "JPEG"}.get(suffix[1:].lower(), suffix[1:].upper())
            pixels = np.random.default_rng(10 * k + i).integers(0, 256, (12, 10, 3), dtype=np.uint8)
            path = root / key / ("deep" if i % 2 else "") / f"{i}{suffix}"
            path.write_bytes(file_of(Image.fromarray(pixels), kind))
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "gone.png").symlink_to(root / "nowhere")
    (root / "a" / ".hidden.png").write_text("no image")
    (root / "b" / "deep" / "round").symlink_to(root / "b")
    return root


def settings_of(root: pathlib.Path, **changes: Any) -> Data:
    stated = {"num_classes": 3, "num_train": 15, "num_val": 3, **changes}
    return Data(source="folder", path=str(root), **stated)


def test_folder_is_read_in_sorted_order(folder):
    listing = sources.scan(settings_of(folder))
    assert listing.classes == (("a", "a"), ("b", "b"), ("größe", "größe"))
    ids = np.array(listing.source_id)
    assert ids[listing.class_index == 0].tolist() == [
        *("a/0.png", "a/2.webp", "a/4.jpg", "a/deep/1.JPEG", "a/deep/3.bmp", "a/deep/5.png")
    ]
    assert ids[listing.is_val].tolist() == ["a/deep/3.bmp", "b/deep/1.JPEG", "größe/deep/3.bmp"]
    assert sorted(listing.others) == ["a/gone.png", "a/notes.txt"]
    reader = sources.Reader(listing)
    assert all(images.decode(reader.read(row), 3, "pillow").shape == (12, 10, 3) for row in range(18))


def test_class_key_does_not_depend_on_how_accents_are_stored(folder):
    (folder / "größe").rename(folder / unicodedata.normalize("NFD", "größe"))
    assert sources.scan(settings_of(folder)).classes[2][0] == "größe"
    (folder / "größe").mkdir()
    with pytest.raises(DataError, match="two folders are both called größe"):
        sources.scan(settings_of(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": __file__}, "is a file"),
        ({"num_classes": 4}, r"set data\.num_classes=3"),
        ({"num_train": 14}, r"set data\.num_train=15 data\.num_val=3"),
        ({"num_val": 4, "max_corrupt": 3}, r"set data\.num_train=15 data\.num_val=3"),
    ],
)
def test_source_that_is_not_as_stated_is_refused(folder, changes, message):
    with pytest.raises(DataError, match=message) as error:
        sources.scan(dataclasses.replace(settings_of(folder), **changes))
    assert "\n" not in str(error.value)


def test_empty_folders_are_named(folder, tmp_path):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no image in empty"):
        sources.scan(settings_of(folder, num_classes=4))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="has no folders"):
        sources.scan(settings_of(tmp_path / "bare"))


def test_name_that_is_no_utf8_is_refused(folder):
    os.mkdir(os.fsencode(folder) + b"/caf\xe9")
    with pytest.raises(DataError, match="is not UTF-8; rename"):
        sources.scan(settings_of(folder, num_classes=4))


def test_folders_of_train_and_validation_must_agree(root, tmp_path):
    shutil.copytree(root / "folder", tmp_path / "folder")
    (tmp_path / "folder" / "val" / KEYS[1]).rename(tmp_path / "folder" / "val" / "other")
    with pytest.raises(DataError, match=rf"no class {KEYS[1]} in .*val.*; expected the same classes in both"):
        sources.scan(data_of(tmp_path, "folder"))
    shutil.rmtree(tmp_path / "folder" / "val" / "other")
    with pytest.raises(DataError, match=rf"no class {KEYS[1]} in .*val"):
        sources.scan(data_of(tmp_path, "folder"))


@pytest.mark.parametrize("name", ["webdataset-cls", "unnamed", "numbers"])
def test_bare_numbers_need_a_class_list(root, name):
    message = (
        r"data\.path: labels are numbers; expected a file .* one class key per line: set data\.class_list"
    )
    with pytest.raises(DataError, match=message) as error:
        sources.scan(data_of(root, name, class_list=""))
    assert "\n" not in str(error.value)


def test_class_list_must_match_the_folders_and_gives_the_names(root, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{key} {formats.SYNSETS[key]}\n" for key in KEYS))
    classes = sources.scan(data_of(root, "folder", class_list=str(listed))).classes
    assert classes == tuple((key, formats.SYNSETS[key].split(",")[0]) for key in KEYS)
    listed.write_text("\n".join([*KEYS[:3], "n00000000"]))
    with pytest.raises(DataError, match=r"class n02119789 is not among the 4 classes of data\.class_list"):
        sources.scan(data_of(root, "folder", class_list=str(listed)))
    listed.write_text("\n".join([*KEYS, "n00000000"]))
    with pytest.raises(DataError, match=r"data\.path: no class n00000000, but it is in data.class_list"):
        sources.scan(data_of(root, "folder", class_list=str(listed)))


def test_class_folders_called_by_label_numbers(tmp_path):
    """As ImageNet-V2 has them."""
    for number in (0, 2, 10):
        formats.write_folder(tmp_path / "v2", [dataclasses.replace(TRAIN[0], key=str(number))])
    settings = MadeSet(source="folder", path=str(tmp_path / "v2"), num_images=3, resolution=8)
    known = tuple((f"n{k:08d}", "") for k in range(11))
    assert sources.scan_made(settings, known).class_index.tolist() == [0, 10, 2]
    with pytest.raises(DataError, match=r"the label of 10/n01440764_1\.JPEG is 10; expected 0 to 9"):
        sources.scan_made(settings, known[:10])
    digits = tuple((key, "") for key in ("0", "10", "2"))  # keys of the study, not numbers
    assert sources.scan_made(settings, digits).class_index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nb\nc\n", "line 2 is empty"),
        ("", "is empty"),
        ("a\nb\nc\na\n", "a stands twice"),
        ("{", "is no class list"),
        ('{"0": ["n1", "x"], "2": ["n3", "y"]}', "with every number"),
    ],
)
def test_broken_class_lists_are_refused(root, tmp_path, text, message):
    path = tmp_path / ("list.json" if text.startswith("{") else "list.txt")
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        sources.scan(data_of(root, "unnamed", class_list=str(path)))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        sources.scan(data_of(root, "unnamed", class_list=str(tmp_path / "gone")))


# ------------------------------------------------------------------------------------------------ ilsvrc


@pytest.mark.parametrize("labels", ["devkit", "LOC_val_solution.csv", "val.txt", "wnids.txt", "named.txt"])
def test_ground_truth_of_every_kind_says_the_same(root, labels):
    path = root / "ilsvrc" / (labels if "." in labels else "devkit/ILSVRC2012_validation_ground_truth.txt")
    listing = sources.scan(data_of(root, "ilsvrc", val_labels=str(path)))
    assert contents(listing, True) == expected(VAL)
    assert listing.source_id[20] == "val/ILSVRC2012_val_00000001.JPEG"
    assert listing.source_id[0] == "n01440764/n01440764_1.JPEG"


def test_ilsvrc_in_folders(root, tmp_path):
    """The tars in one folder, the inner tars unpacked, the images of both unpacked, class folders of both."""
    tarball, out = root / "ilsvrc", tmp_path / "out"
    with tarfile.open(tarball / "ILSVRC2012_img_train.tar") as tar:
        tar.extractall(out / "inner", filter="data")
    with tarfile.open(tarball / "ILSVRC2012_img_val.tar") as tar:
        tar.extractall(out / "flat", filter="data")
    for path, val_path in ((tarball, tarball), (out / "inner", out / "flat")):
        listing = sources.scan(data_of(root, "ilsvrc", path=str(path), val_path=str(val_path)))
        assert contents(listing, False) == expected(TRAIN) and contents(listing, True) == expected(VAL)
    classes = {"path": str(root / "folder" / "train"), "val_path": str(root / "folder" / "val")}
    listing = sources.scan(data_of(root, "ilsvrc", val_labels="", **classes))
    assert contents(listing, False) == expected(TRAIN) and contents(listing, True) == expected(VAL)
    with pytest.raises(DataError, match=r"folders, which say the class; remove data\.val_labels"):
        sources.scan(data_of(root, "ilsvrc", **classes))


def test_class_list_of_the_devkit_is_in_the_order_of_its_ids(root, tmp_path):
    moved = tmp_path / "truth.txt"
    shutil.copy(root / "ilsvrc" / "devkit" / "ILSVRC2012_validation_ground_truth.txt", moved)
    meta = str(root / "ilsvrc" / "devkit" / "meta.mat")
    with pytest.raises(DataError, match=r"labels are ILSVRC2012_IDs; expected the devkit's meta.mat"):
        sources.scan(data_of(root, "ilsvrc", val_labels=str(moved)))
    listing = sources.scan(data_of(root, "ilsvrc", val_labels=str(moved), class_list=meta))
    assert contents(listing, True) == expected(VAL)
    assert listing.classes[3] == ("n02119789", "kit fox")
    # the sorted list would mislabel nearly every image
    with pytest.raises(DataError, match=r"is sorted, but the labels .* name that file"):
        sources.scan(data_of(root, "ilsvrc", val_labels=str(moved), class_list=str(root / "keys.txt")))
    with pytest.raises(
        DataError, match=r"meta.mat is in the order of ILSVRC2012_ID, which labels of source = p"
    ):
        sources.scan(data_of(root, "unnamed", class_list=meta))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("wnids.txt", lambda lines: lines[:-1], "has 7 labels for 8 images; expected one per image"),
        ("wnids.txt", lambda lines: [*lines[1:], "n99999999"], "class n99999999 has no train images"),
        ("truth.txt", lambda lines: [*lines, "1"], "has 9 labels for 8 images"),
        ("truth.txt", lambda lines: ["0", *lines[1:]], "line 1: label 0 is out of range; .* from 1 to 4"),
        ("truth.txt", lambda lines: [*lines[:-1], "5"], "line 8: label 5 is out of range"),
        ("truth.txt", lambda lines: ["", *lines[1:]], "line 1 is empty"),
        ("val.txt", lambda lines: [*lines[:-1], "ILSVRC2012_val_00000008.JPEG 4"], "is 4; expected 0 to 3"),
        ("val.txt", lambda lines: lines[1:], "has 7 labels for 8 images"),
        ("val.txt", lambda lines: [*lines[1:], "other.JPEG 1"], "no label of ILSVRC2012_val_00000001"),
        ("named.txt", lambda lines: [*lines[1:], "what?"], "line 8: 'what[?]' is no label"),
    ],
)
def test_ground_truth_that_does_not_fit_is_refused(root, tmp_path, name, change, message):
    devkit = root / "ilsvrc" / "devkit"
    real = (
        devkit / "ILSVRC2012_validation_ground_truth.txt" if name == "truth.txt" else root / "ilsvrc" / name
    )
    shutil.copy(devkit / "meta.mat", tmp_path)
    (tmp_path / name).write_text("\n".join(change(real.read_text().splitlines())) + "\n")
    with pytest.raises(DataError, match=message) as error:
        sources.scan(data_of(root, "ilsvrc", val_labels=str(tmp_path / name)))
    assert "\n" not in str(error.value)


def test_ilsvrc_without_labels_tars_or_images_is_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"data\.val_labels is empty, and the validation images say no class"):
        sources.scan(data_of(root, "ilsvrc", val_labels=""))
    with pytest.raises(DataError, match="holds no tars; expected one per class"):
        sources.scan(data_of(root, "ilsvrc", path=str(root / "ilsvrc" / "ILSVRC2012_img_val.tar")))
    formats.write_tar(tmp_path / "none.tar", [("README", b"")])
    with pytest.raises(DataError, match="has no images"):
        sources.scan(data_of(root, "ilsvrc", val_path=str(tmp_path / "none.tar")))


# -------------------------------------------------------------------------------------------------- tars


def webdataset_of(path: pathlib.Path) -> MadeSet:
    return MadeSet(source="webdataset", path=str(path), num_images=2, resolution=8)


def scan_tar(path: pathlib.Path) -> Listing:
    return sources.scan_made(webdataset_of(path), (("a", "a"), ("b", "b")), "sets.made")


SAMPLES = [("a.jpg", b"A" * 700), ("a.cls", b"0"), ("b.jpg", b"B" * 10), ("b.cls", b"1")]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_all_lengths_and_alphabets(tmp_path, kind):
    long = "d" * 90 + "/" + "e" * 60
    names = [
        "plain.jpg",
        long + ".jpg",
        "f" * (99 if kind == tarfile.USTAR_FORMAT else 300) + ".jpg",
        "größe.jpg",
    ]
    names = [name[-100:] if kind == tarfile.USTAR_FORMAT and "/" not in name else name for name in names]
    formats.write_tar(tmp_path / "x.tar", [(name, name.encode()) for name in names], kind)
    found = list(tars.members(tmp_path / "x.tar"))
    assert [member.name for member in found] == names
    data = (tmp_path / "x.tar").read_bytes()
    assert [data[m.offset : m.offset + m.size].decode() for m in found] == names
    assert [m.head.decode() for m in found] == names


@hypothesis.given(st.lists(st.tuples(st.text("aé/b.", min_size=1, max_size=130), st.binary(max_size=1500))))
def test_tars_of_the_standard_library_are_read_alike(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    members = [(name, data) for name, data in members if ".." not in name.split("/") and name[-1] != "/"]
    formats.write_tar(path, members, tarfile.PAX_FORMAT)
    with tarfile.open(path) as tar:
        known = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers() if m.isfile()]
    if any(name.startswith("/") for name, _ in known):
        with pytest.raises(DataError, match="points outside"):
            list(tars.members(path))
        return
    data = path.read_bytes()
    found = [(m.name, data[m.offset : m.offset + m.size]) for m in tars.members(path)]
    assert found == known


@hypothesis.settings(max_examples=200)
@hypothesis.given(st.data())
def test_damaged_tar_is_a_data_error_or_a_listing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    formats.write_tar(path, [*SAMPLES, ("x" * 200, b"long")], data.draw(st.sampled_from([1, 2])))
    whole = bytearray(path.read_bytes()[:6000])
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        assert all(member.offset + member.size <= len(whole) for member in tars.members(path))
    except DataError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("size", [300, 512, 1000, 1536, 2048, 3000, 4096])
def test_truncated_tar_is_refused(tmp_path, size):
    path = tmp_path / "x.tar"
    formats.write_tar(path, SAMPLES)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"x\.tar: (ends .*truncated or damaged; fetch it again|is no tar)"):
        scan_tar(path)


def test_truncated_tar_inside_a_tar_is_refused(root, tmp_path):
    inner = formats.tar_bytes((f"{i.name}.JPEG", i.data) for i in TRAIN[:5])
    formats.write_tar(tmp_path / "x.tar", [("n01440764.tar", inner[:4000]), ("n02100735.tar", inner)])
    with pytest.raises(DataError, match=r"x\.tar: n01440764\.tar: ends inside of 'n01440764_\d.JPEG'"):
        sources.scan(data_of(root, "ilsvrc", path=str(tmp_path / "x.tar")))


def test_member_of_a_tar_inside_a_tar_that_points_outside_is_refused_by_both_names(root, tmp_path):
    inner = formats.tar_bytes([("../a.JPEG", TRAIN[0].data)])
    formats.write_tar(tmp_path / "x.tar", [("n01440764.tar", inner)])
    with pytest.raises(DataError, match=r"x\.tar: n01440764\.tar: '\.\./a\.JPEG' points outside"):
        sources.scan(data_of(root, "ilsvrc", path=str(tmp_path / "x.tar")))


@pytest.mark.parametrize("name", ["/etc/passwd.jpg", "../a.jpg", "a/../../b.jpg", ".."])
def test_member_that_points_outside_is_refused(tmp_path, name):
    formats.write_tar(tmp_path / "x.tar", [*SAMPLES, (name, b"")])
    with pytest.raises(DataError, match="points outside of its folder; expected relative names"):
        scan_tar(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "is a symbolic link"),
        (tarfile.LNKTYPE, "is a hard link"),
        (tarfile.CHRTYPE, "is of type"),
        (tarfile.FIFOTYPE, "is of type"),
    ],
)
def test_links_and_devices_in_tars_are_refused(tmp_path, kind, what):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("c.jpg")
        info.type, info.linkname = kind, "a.jpg"
        tar.addfile(info)
    with pytest.raises(DataError, match=f"'c.jpg' {what}.*; expected plain files only"):
        scan_tar(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_tars_are_refused_with_advice(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", f"w:{kind}") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(DataError, match=r"is compressed with .*: decompress it first"):
        scan_tar(tmp_path / "x.tar")


@pytest.mark.parametrize("content", [b"", b"no tar", bytes(range(256)) * 4])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar: (is no tar|ends at byte 0)"):
        scan_tar(tmp_path / "x.tar")


# -------------------------------------------------------------------------------------------- webdataset


def labelled(name: str, label: bytes, kind: str = "cls") -> list[tuple[str, bytes]]:
    return [(f"{name}.jpg", b""), (f"{name}.{kind}", label)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"")], "a has no label; expected a.cls"),
        ([*labelled("a", b"0"), ("a.png", b"")], "a has jpg and png; expected one image"),
        ([("a.jpg", b""), ("a.jpg", b"")], "a.jpg stands twice in a row"),
        ([*labelled("a", b"2"), *labelled("b", b"0")], r"label of x\.tar/a\.jpg is 2; expected 0 to 1"),
        ([*labelled("a", b"-1"), *labelled("b", b"0")], "is -1; expected 0 to 1"),
        ([*labelled("a", b"c"), *labelled("b", b"a")], "class c is not among the 2 classes of the study"),
        ([*labelled("a", b"a"), *labelled("b", b"1")], "is 1, a number, but others are keys"),
        ([*labelled("a", b"[", "json")], "a.json is no JSON mapping"),
        ([*labelled("a", b'{"label": 1.5}', "json")], "a has no label"),
        ([*labelled("a", b"\xff")], "a.cls is not UTF-8"),
        ([("a.txt", b"")], r"sets\.made\.num_images = 2, but .* has 0 images; set sets\.made\.num_images=0"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(tmp_path, members, message):
    formats.write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=message) as error:
        scan_tar(tmp_path / "x.tar")
    assert "\n" not in str(error.value)


def test_names_that_no_message_could_show_are_refused(root, tmp_path):
    formats.write_tar(tmp_path / "x.tar", [("a\nb.jpg", b"")])
    with pytest.raises(DataError, match=r"'a\\nb\.jpg' has control characters"):
        scan_tar(tmp_path / "x.tar")
    (tmp_path / "keys.json").write_text('["a\\nb", "c", "d", "e"]')
    with pytest.raises(DataError, match=r"the name 'a\\nb' of a class or an image has control characters"):
        sources.scan(data_of(root, "unnamed", class_list=str(tmp_path / "keys.json")))


def test_labels_of_validation_images_need_ilsvrc(root):
    truth = str(root / "ilsvrc" / "wnids.txt")
    for name, changes in (("folder", {}), ("ilsvrc", {"val_path": ""})):
        with pytest.raises(DataError, match=r"data\.val_labels labels the images in data\.val_path"):
            sources.scan(data_of(root, name, val_labels=truth, **changes))


def test_class_keys_with_path_and_html_characters_come_from_tables(tmp_path):
    keys = ["../x", "<b>", "a/b"]
    (tmp_path / "keys.json").write_text('["../x", "<b>", "a/b"]')
    made = [(f"{i}.{kind}", b"%d" % (i % 3)) for i in range(9) for kind in ("jpg", "cls")]
    formats.write_tar(tmp_path / "x.tar", made)
    settings = Data(
        source="webdataset",
        path=str(tmp_path / "x.tar"),
        class_list=str(tmp_path / "keys.json"),
        num_classes=3,
        num_train=6,
        num_val=3,
        val_every=3,
    )
    listing = sources.scan(settings)
    assert [key for key, _ in listing.classes] == keys
    assert not any(key in file for key in keys for file in listing.files)


def test_patterns_name_files(tmp_path):
    for i in (8, 9, 10, 11):
        (tmp_path / f"a-{i:02d}.tar").touch()
    found = paths_of(str(tmp_path / "a-{08..10}.tar"), "data.path", "tars", r"\.tar$")
    assert [path.name for path in found] == ["a-08.tar", "a-09.tar", "a-10.tar"]
    found = paths_of(str(tmp_path / "a-1*.tar"), "data.path", "tars", r"\.tar$")
    assert [path.name for path in found] == ["a-10.tar", "a-11.tar"]
    with pytest.raises(DataError, match="has no such file; expected parquet"):
        paths_of(str(tmp_path), "data.path", "parquet", r"\.parquet$")


# ---------------------------------------------------------------------------------------------- tfrecord


def test_checksum_is_that_of_the_specification():
    # RFC 3720, appendix B.4: CRC-32C of 32 zeros is 8a9136aa; masked as TFRecords do
    crc = 0x8A9136AA
    assert tfrecord._masked_crc(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", tfrecord._masked_crc(length)) + data + bytes(4)


def damaged(root: pathlib.Path, tmp_path: pathlib.Path, change: Any) -> MadeSet:
    data = bytearray((root / "tpu" / "train" / "train-00000-of-00002").read_bytes())
    (tmp_path / "x.tfrecord").write_bytes(change(data))
    return MadeSet(source="tfrecord", path=str(tmp_path / "x.tfrecord"), num_images=10, resolution=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:5], "ends inside of the record at byte 0"),
        (lambda data: data[:-3], "ends inside of the record at byte"),
        (lambda data: b"", "is empty"),
        (lambda data: b"\x00" + data[1:], "byte 0: the checksum of the record's length is wrong"),
        (lambda data: b"\x1f\x8b" + data[2:], "is compressed; .* decompress it first"),
        (lambda data: framed(b"abc"), "record 0 is no tf.train.Example"),
        (lambda data: framed(b""), "record 0 has no image/encoded and no image"),
    ],
)
def test_damaged_tfrecords_are_refused(root, tmp_path, change, message):
    settings = damaged(root, tmp_path, change)
    with pytest.raises(DataError, match=message) as error:
        sources.scan_made(settings, tuple((key, key) for key in KEYS))
    assert "\n" not in str(error.value)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.data())
def test_altered_tfrecord_is_a_data_error_or_a_listing(root, tmp_path, data):
    def change(whole: bytearray) -> bytearray:
        for _ in range(3):
            whole[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
        return whole

    settings = damaged(root, tmp_path, change)
    try:
        listing = sources.scan_made(settings, tuple((key, key) for key in KEYS))
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert len(listing) == 10


# ----------------------------------------------------------------------------------------------- parquet


def test_parquet_that_cannot_be_used_is_refused(root, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, known = tmp_path / "x.parquet", (("a", "a"), ("b", "b"))
    settings = MadeSet(source="parquet", path=str(path), num_images=2, resolution=8)

    def refused(columns: dict[str, Any], message: str) -> None:
        pq.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match=message) as error:
            sources.scan_made(settings, known)
        assert "\n" not in str(error.value)

    refused({"img": [b"x", b"y"], "label": [0, 1]}, "has the columns img, label; expected image")
    refused({"image": [b"x", b"y"], "cls": [0, 1]}, "has the columns image, cls; expected image")
    refused({"image": ["x", "y"], "label": [0, 1]}, "expected image")
    refused({"image": [{"path": "x"}, {"path": "y"}], "label": [0, 1]}, "expected image")
    refused({"image": [b"x", b"y"], "label": [0, None]}, "row 1 has label None")
    refused(
        {"image": [b"x", b"y"], "label": [0, -1]}, r"the label of x\.parquet/000001 is -1; expected 0 to 1"
    )
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is no whole parquet file"):
        sources.scan_made(settings, known)
    pq.write_table(pa.table({"image": [b"x", None], "label": ["a", "b"]}), path)
    reader = sources.Reader(sources.scan_made(settings, known))
    assert reader.read(0) == b"x"
    with pytest.raises(DataError, match="has no bytes"):
        reader.read(1)


def test_class_list_replaces_names_that_say_nothing(root, tmp_path):
    """Hugging Face's ImageNet has "tench, Tinca tinca" where all others have a WNID."""
    names = [formats.SYNSETS[key] for key in KEYS]
    made = [dataclasses.replace(image, key=formats.SYNSETS[image.key]) for image in TRAIN]
    formats.write_parquet(tmp_path / "hf", made, 1, names)
    settings = data_of(root, "unnamed", path=str(tmp_path / "hf"), val_path="", num_train=16, num_val=4)
    listing = sources.scan(settings)
    assert contents(listing, False) + contents(listing, True) == expected(TRAIN)
    listing = sources.scan(dataclasses.replace(settings, class_list=""))
    assert [key for key, _ in listing.classes] == sorted(names)
    made_set = MadeSet(source="parquet", path=settings.path, num_images=20, resolution=8)
    study = tuple((key, key) for key in KEYS)
    assert sources.scan_made(made_set, study).class_index.tolist() == [k for k in range(4) for _ in range(5)]
    (tmp_path / "keys.txt").write_text(
        "w\nx\ny\nz\n"
    )  # numbers have a meaning, which the study does not know
    with pytest.raises(DataError, match="class w, x, y, z is not among the 4 classes of the study"):
        sources.scan_made(dataclasses.replace(made_set, class_list=str(tmp_path / "keys.txt")), study)
    (tmp_path / "keys.txt").write_text("\n".join([names[0], *KEYS[1:]]))
    with pytest.raises(DataError, match="is not among the 4 classes"):  # one name fits: which is meant?
        sources.scan(dataclasses.replace(settings, class_list=str(tmp_path / "keys.txt")))


def test_parquet_reads_every_row_group_once(root, monkeypatch):
    listing = sources.scan(data_of(root, "parquet"))
    read = []
    whole = columns.Columns._read_group
    monkeypatch.setattr(columns.Columns, "_read_group", lambda *a: read.append(a[1:]) or whole(*a))
    reader = sources.Reader(listing)
    rows = np.random.default_rng(0).permutation(28).tolist()
    assert [reader.read(row) for row in rows] == [sources.Reader(listing).read(row) for row in rows]
    assert len(read) - 28 == 2 * 4 + 2 * 2  # of 10 rows by 3, and of 4 rows by 3
    monkeypatch.setattr(columns, "_CACHE", 1000)  # less than one image
    small = sources.Reader(listing)
    assert Counter(small.read(row) for row in rows) == Counter(i.data for i in (*TRAIN, *VAL))


# --------------------------------------------------------------------------------------------------- npz


@pytest.mark.parametrize("packed", [False, True])
def test_npz_is_read_in_place_or_unpacked(root, tmp_path, packed):
    path = formats.write_npz(tmp_path / "x.npz", TRAIN, KEYS, side=16, packed=packed)
    settings = MadeSet(source="npz", path=str(path), num_images=20, resolution=16)
    listing = sources.scan_made(settings, tuple((key, key) for key in KEYS))
    assert not listing.is_val.any() and listing.source_id[3] == "x.npz/000003"
    reader, pixels = sources.Reader(listing), np.load(path)["arr_0"]
    for row in (19, 0, 7):
        assert np.array_equal(reader.read(row), pixels[row])
        assert KEYS[listing.class_index[row]] == TRAIN[row].key


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((2, 4, 4, 3), np.uint8)], "has no labels: it holds arr_0; expected arr_0 .* and arr_1"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, int)], "arr_1 has 3 labels for 2 images"),
        ([np.zeros((2, 4, 4, 3)), np.zeros(2, int)], r"arr_0 is float64\[2, 4, 4, 3\]; expected u8"),
        ([np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, int)], "expected u8"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 1), int)], "expected N integer labels"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2)], "expected N integer labels"),
        ([np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 7])], "is 7; expected 0 to 1"),
        ([np.asfortranarray(np.zeros((2, 4, 4, 3), np.uint8)), np.zeros(2, int)], "Fortran order"),
    ],
)
def test_npz_that_cannot_be_used_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", *arrays)
    settings = MadeSet(source="npz", path=str(tmp_path / "x.npz"), num_images=2, resolution=4)
    with pytest.raises(DataError, match=message) as error:
        sources.scan_made(settings, (("a", "a"), ("b", "b")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 torn"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    settings = MadeSet(source="npz", path=str(tmp_path / "x.npz"), num_images=2, resolution=4)
    with pytest.raises(DataError, match="is no whole npz"):
        sources.scan_made(settings, (("a", "a"), ("b", "b")))


# ---------------------------------------------------------------------------------------------- manifest


def write_set(folder: pathlib.Path, sizes: list[int], keys: list[str], first: int = 0) -> None:
    """Writes shards of images of one value each, classes in turn."""
    for shard, size in enumerate(sizes):
        start = first + sum(sizes[:shard])
        records = [
            (
                {"class_key": keys[i % len(keys)], "class_index": i % len(keys)},
                np.full((4, 4, 3), i, np.uint8),
            )
            for i in range(start, start + size)
        ]
        shards.write_shard(folder, shard, start, records, settings="s", weights="w", attempt=0)


KNOWN = (("0", "zero"), ("1", "one"), ("2", "two"))


def set_of(folder: pathlib.Path, num_images: int = 10) -> MadeSet:
    return MadeSet(source="manifest", path=str(folder), num_images=num_images, resolution=4)


def test_set_of_shards_is_a_source(tmp_path):
    write_set(tmp_path / "64", [4, 4, 2], ["2", "0", "1"])  # by key: another order than the study's
    listing = sources.scan_made(set_of(tmp_path / "64"), KNOWN)
    assert listing.class_index.tolist() == [2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    reader = sources.Reader(listing)
    assert [int(reader.read(row)[0, 0, 0]) for row in range(10)] == list(range(10))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = [int(pixels[0, 0, 0]) for pixels in pool.map(reader.read, [*range(10)] * 20)]
    assert values == [*range(10)] * 20
    data = Data(
        source="manifest", path=str(tmp_path / "64"), num_classes=3, num_train=7, num_val=3, val_every=3
    )
    assert sources.scan(data).classes == (("0", "0"), ("1", "1"), ("2", "2"))


def test_set_with_a_hole_or_a_doubled_shard_is_refused(tmp_path):
    whole = tmp_path / "whole"
    write_set(whole, [4, 4, 2], ["0", "1", "2"])

    def refused(change: Any, message: str) -> None:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        change(folder)
        with pytest.raises(DataError, match=message) as error:
            sources.scan_made(set_of(folder), KNOWN)
        assert "\n" not in str(error.value)

    def copy_as(folder: pathlib.Path, name: str, text: Any) -> None:
        (folder / name).write_text(text((folder / "shard-00001.json").read_text()))

    def doubled(text: str) -> str:
        return (
            text.replace('"index": 1', '"index": 3')
            .replace('"first": 4', '"first": 10')
            .replace("00001", "00003")
        )

    def double_whole_shard(folder: pathlib.Path) -> None:
        copy_as(folder, "shard-00003.json", doubled)
        shutil.copy(folder / "shard-00001.arrayrecord", folder / "shard-00003.arrayrecord")

    refused(lambda f: (f / "shard-00001.json").unlink(), "1 of 3 shards are missing: shards 1; images 4-7")
    refused(lambda f: (f / "shard-00001.arrayrecord").unlink(), "is missing though its marker is there")
    refused(lambda f: copy_as(f, "shard-00001 (1).json", str), "is a second marker of a shard")
    refused(lambda f: copy_as(f, "shard-00003.json", str), "is the marker of 'shard-00001")
    refused(double_whole_shard, "holds the same images as shard 1: a shard stands there twice")
    refused(lambda f: [p.unlink() for p in f.glob("*.json")], "has no markers")
    refused(lambda f: (f / "shard-00002.json").unlink(), "num_images = 10, but .* has 8 images")


def test_class_of_a_set_that_the_study_does_not_know_is_refused(tmp_path):
    write_set(tmp_path / "64", [3], ["0", "1", "other"])
    with pytest.raises(
        DataError, match=r"sets\.x\.path: class other is not among the 3 classes of the study"
    ):
        sources.scan_made(set_of(tmp_path / "64", 3), KNOWN, "sets.x")


# ------------------------------------------------------------------------------------ odd images of ImageNet


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # tensorflow's own, while it is imported
@pytest.mark.parametrize("decoder", ["pillow", "tensorflow"])
def test_cmyk_and_png_in_disguise_become_the_right_colours(decoder):
    """ImageNet has 22 CMYK JPEGs and n02105855_2933.JPEG, a PNG."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:16], pixels[:, 16:] = (200, 30, 60), (10, 180, 90), (250, 250, 240)
    inks = formats.jpeg(pixels, 100, "CMYK")
    mark = inks.index(b"\xff\xee")  # Adobe's segment of 14 bytes
    unmarked = inks[:mark] + inks[mark + 16 :]
    luminance = inks[: mark + 15] + b"\x02" + inks[mark + 16 :]  # YCCK, the same bytes: other colours
    for data in (inks, unmarked):
        assert np.abs(images.decode(data, 3, decoder).astype(int) - pixels).max() <= 6
    assert np.array_equal(images.decode(luminance, 3, decoder), images.decode(luminance, 3, "pillow"))
    disguised = file_of(Image.fromarray(pixels), "PNG")
    assert np.array_equal(images.decode(disguised, 3, decoder), pixels)
    with pytest.raises(DataError, match="cannot be decoded"):
        images.decode(b"<html>404 Not Found</html>", 3, decoder)


# ------------------------------------------------------------------------------- what bare numbers mean


def numbered(folder: pathlib.Path, labels: list[int]) -> MadeSet:
    """Returns a WebDataset whose labels are numbers."""
    members = [m for i, k in enumerate(labels) for m in ((f"{i}.png", b"x"), (f"{i}.cls", b"%d" % k))]
    formats.write_tar(folder / "x.tar", members)
    return MadeSet(source="webdataset", path=str(folder / "x.tar"), num_images=len(labels), resolution=8)


def test_numbers_of_a_made_set_follow_the_numbers_of_the_study(tmp_path: pathlib.Path) -> None:
    """Class folders 0 to 11 sort as 0, 1, 10, 11, 2 ...; label 2 is class 2 and not class 10."""
    known = tuple((str(k), str(k)) for k in sorted(map(str, range(12))))
    settings = Data(source="folder", path="x", num_classes=12, num_train=1, num_val=1)
    order = sources.label_order(settings, known)
    found = sources.scan_made(numbered(tmp_path, [0, 2, 11]), known, "sets.x", order)
    assert [known[k][0] for k in found.class_index] == ["0", "2", "11"]


def test_numbers_of_a_made_set_follow_the_class_list_of_the_study(tmp_path: pathlib.Path) -> None:
    (tmp_path / "list.txt").write_text("zebra\napple\nmango\n")
    known = (("apple", "apple"), ("mango", "mango"), ("zebra", "zebra"))
    listed = str(tmp_path / "list.txt")
    settings = Data(source="webdataset", path="x", class_list=listed, num_classes=3, num_train=1, num_val=1)
    order = sources.label_order(settings, known)
    found = sources.scan_made(numbered(tmp_path, [0, 1, 2]), known, "sets.x", order)
    assert [known[k][0] for k in found.class_index] == ["zebra", "apple", "mango"]


def test_numbers_beside_parquet_s_own_table_need_a_class_list(tmp_path: pathlib.Path) -> None:
    known = (("English springer", "English springer"), ("tench", "tench"))
    settings = Data(source="parquet", path="x", num_classes=2, num_train=1, num_val=1)
    assert sources.label_order(settings, known) == {}
    with pytest.raises(DataError, match=r"labels are numbers; .* set sets\.x\.class_list"):
        sources.scan_made(numbered(tmp_path, [0, 1]), known, "sets.x", {})


def test_map_clsloc_is_no_class_list_of_other_sources(tmp_path: pathlib.Path) -> None:
    (tmp_path / "map_clsloc.txt").write_text("n02119789 1 kit_fox\nn02100735 2 English_setter\n")
    settings = dataclasses.replace(numbered(tmp_path, [0, 1]), class_list=str(tmp_path / "map_clsloc.txt"))
    with pytest.raises(DataError, match=r"map_clsloc\.txt is in the order of ILSVRC2012_ID"):
        sources.scan_made(settings, (("n02100735", "a"), ("n02119789", "b")))


def test_files_that_are_train_and_validation_are_refused(tmp_path: pathlib.Path) -> None:
    pictures = formats.pictures(["a", "b"], 4)
    formats.write_webdataset(tmp_path, pictures, 2, ["a", "b"])
    tars = sorted(str(path) for path in tmp_path.glob("*.tar"))
    settings = Data(
        source="webdataset",
        path=str(tmp_path),
        val_path=tars[0],
        class_list="",
        num_classes=2,
        num_train=8,
        num_val=4,
    )
    (tmp_path / "list").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"is in data\.path and in data\.val_path"):
        sources.scan(dataclasses.replace(settings, class_list=str(tmp_path / "list")))


@pytest.mark.parametrize("label", [10**30, "\ud800", "a\nb", [1]])
def test_labels_that_are_neither_numbers_nor_keys(label: Any) -> None:
    from synthaug.data.sources.found import Labels

    with pytest.raises(DataError, match="expected a class number or key"):
        Labels("x").number(label, "y")
