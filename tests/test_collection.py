"""Sets of images to measure: every form gives the same pixels, and what is wrong is counted and named."""

from __future__ import annotations

import io
import json
import pathlib
import re
import tarfile
import threading
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import hypothesis
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import strategies as st
from PIL import Image

from synthaug import manifest
from synthaug.data import record, resize, seen, shards
from synthaug.data.ahead import in_order
from synthaug.data.batches import FILTERS
from synthaug.data.collection import Images, batches, open_images, open_shards
from synthaug.data.sources import zips
from synthaug.data.writing import ShardWriter
from synthaug.errors import DataError, RunError
from tests import formats
from tests.formats import file_of

KEYS = ["n01440764", "n02119789"]
PICTURES = formats.pictures(KEYS, 6)
SIDE = 24
SQUARES = [np.asarray(Image.fromarray(p.pixels).resize((SIDE, SIDE))) for p in PICTURES]
PNGS = [file_of(Image.fromarray(pixels), "PNG") for pixels in SQUARES]
NAMES = [f"{p.key}/{p.name}.png" for p in PICTURES]  # sorted


def opened(path: object) -> Images:
    return open_images(str(path), what="IMAGES")


def pixels_of(images: Images, **settings: Any) -> np.ndarray:
    found = list(batches(images, 5, **settings))
    assert np.concatenate([index for index, _ in found]).tolist() == list(range(len(images)))
    return np.concatenate([pixels for _, pixels in found])


def write_files(root: pathlib.Path, files: Iterable[tuple[str, bytes]]) -> pathlib.Path:
    for name, data in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(
    path: pathlib.Path, files: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED
) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def write_set(folder: pathlib.Path, arrays: list[np.ndarray] = SQUARES, size: int = 5) -> pathlib.Path:
    """Writes images as shards of our own, classes taking turns."""
    for shard, first in enumerate(range(0, len(arrays), size)):
        part = arrays[first : first + size]
        classes = [(first + i) % 2 for i in range(len(part))]
        headers = [{"class_key": KEYS[k], "class_index": k, "prompt": f"a {k}"} for k in classes]
        shards.write_shard(
            folder, shard, first, zip(headers, part, strict=True), settings="s", weights="w", attempt=0
        )
    return folder


# ------------------------------------------------------------------------------------------- forms


def zip64(
    path: pathlib.Path, files: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 200)
    return write_zip(path, files)


def forms(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], object]]:
    files = list(zip(NAMES, PNGS, strict=True))
    samples = [
        member
        for i, (p, data) in enumerate(zip(PICTURES, PNGS, strict=True))
        for member in ((f"{i:09d}.png", data), (f"{i:09d}.cls", p.key.encode()))
    ]
    inner = [(f"{key}.tar", formats.tar_bytes((f, d) for f, d in files if f.startswith(key))) for key in KEYS]

    def packed(name: str, members: list[tuple[str, bytes]], kind: int = tarfile.GNU_FORMAT) -> pathlib.Path:
        formats.write_tar(root / name, members, kind)
        return root / name

    def braces() -> str:
        packed("w-00.tar", samples[:10])
        packed("w-01.tar", samples[10:])
        return f"{root}/w-{{00..01}}.tar"

    def npz(**arrays: np.ndarray) -> pathlib.Path:
        np.savez(root / "a.npz", **arrays)
        return root / "a.npz"

    def compressed() -> pathlib.Path:
        np.savez_compressed(root / "c.npz", np.stack(SQUARES))
        return root / "c.npz"

    def parquet() -> pathlib.Path:
        made = [formats.Picture(p.key, p.name, d, x) for p, d, x in zip(PICTURES, PNGS, SQUARES, strict=True)]
        return formats.write_parquet(root / "parquet", made, 1, KEYS)

    def tfrecord() -> pathlib.Path:
        made = [formats.Picture(p.key, p.name, d, x) for p, d, x in zip(PICTURES, PNGS, SQUARES, strict=True)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorflow's own, while it is imported
            return formats.write_tfrecords(root / "tfrecord", made, 1, "tpu", KEYS)

    stack = np.stack(SQUARES)
    return {
        "folder": lambda: write_files(root / "folder", files),
        "pattern": lambda: f"{write_files(root / 'pattern', files)}/*/*.png",
        "zip": lambda: write_zip(root / "a.zip", files),
        "deflated": lambda: write_zip(root / "d.zip", files, zipfile.ZIP_DEFLATED),
        "zip64": lambda: zip64(root / "z.zip", files, monkeypatch),
        "tar": lambda: packed("t.tar", files),
        "pax": lambda: packed("p.tar", files, tarfile.PAX_FORMAT),
        "dotted": lambda: packed("dot.tar", [(f"./{name}", data) for name, data in files]),
        "tar of tars": lambda: packed("train.tar", inner),
        "webdataset": braces,
        "npz": lambda: npz(arr_0=stack),
        "labelled npz": lambda: npz(arr_0=stack, arr_1=np.repeat([0, 1], 6)),
        "ADM reference": lambda: npz(arr_0=stack, mu=np.zeros(3), sigma=np.eye(3)),
        "another name": lambda: npz(samples=stack, labels=np.repeat([0, 1], 6)),
        "compressed npz": compressed,
        "parquet": parquet,
        "tfrecord": tfrecord,
        "shards": lambda: write_set(root / "shards"),
    }


FORMS = list(forms(pathlib.Path(), pytest.MonkeyPatch()))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(
    form: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = opened(forms(tmp_path, monkeypatch)[form]())
    assert len(images) == len(images.names) == 12
    np.testing.assert_array_equal(pixels_of(images), np.stack(SQUARES))
    np.testing.assert_array_equal(images.read(7), SQUARES[7])
    assert images.codec == ("raw" if images.source == "npz" else "png")


@pytest.mark.parametrize(
    ("form", "labels"),
    [
        ("folder", np.repeat(KEYS, 6)),
        ("webdataset", np.repeat(KEYS, 6)),
        ("parquet", np.repeat(KEYS, 6)),
        ("tfrecord", np.repeat(KEYS, 6)),
        ("labelled npz", np.repeat([0, 1], 6)),
        ("shards", np.tile(KEYS, 6)),
        ("zip", [None] * 12),
        ("tar", [None] * 12),
        ("npz", [None] * 12),
    ],
)
def test_labels_where_there_are_some(
    form: str, labels: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = opened(forms(tmp_path, monkeypatch)[form]())
    found = [images.label(i) for i in range(12)]
    assert [images.keys[k] for k in found] if images.keys else found == list(labels)
    if images.keys:
        assert [images.keys[k] for k in found] == list(labels)


def test_order_of_a_folder_is_that_of_the_paths(tmp_path: pathlib.Path) -> None:
    accent = unicodedata.normalize("NFD", "é.png")
    names = ["b/2.PNG", "b/10.jpeg", "a.png", "ö/x.png", "b/c/d/1.JPEG", "Z.png", accent, "日本/一.webp"]
    images = opened(write_files(tmp_path, [(name, PNGS[0]) for name in names]))
    assert images.names == sorted(unicodedata.normalize("NFC", name) for name in names)
    assert images.names[:3] == ["Z.png", "a.png", "b/10.jpeg"]


def test_what_is_no_image_is_listed(tmp_path: pathlib.Path) -> None:
    files = [("a/1.png", PNGS[0]), ("a/notes.txt", b"x"), ("a/2.tiff", b"II*"), ("__MACOSX/a/._1.png", b"x")]
    assert opened(write_files(tmp_path / "f", files)).others == ["a/2.tiff", "a/notes.txt"]
    images = opened(write_zip(tmp_path / "a.zip", [*files, ("b/", b""), (".hidden/2.png", PNGS[1])]))
    assert images.names == ["a.zip/a/1.png"]
    assert len(images.others) == 4


@pytest.mark.parametrize("size", [1, 5, 12, 100])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_size_and_threads(tmp_path: pathlib.Path, size: int, workers: int) -> None:
    images = opened(write_zip(tmp_path / "a.zip", zip(NAMES, PNGS, strict=True)))
    numbers = np.array([0, 3, 4, 5, 7, 11])
    made = batches(images, size, workers=workers, numbers=numbers)
    found = list(made)
    assert len(found) == len(made) == -(-6 // size)
    assert all(len(index) == size for index, _ in found[:-1])
    np.testing.assert_array_equal(np.concatenate([index for index, _ in found]), numbers)
    np.testing.assert_array_equal(np.concatenate([p for _, p in found]), np.stack(SQUARES)[numbers])


def test_threads_stay_a_bounded_number_of_images_ahead() -> None:
    taken, done = 0, threading.Event()

    def items() -> Iterable[int]:
        nonlocal taken
        for i in range(100):
            taken = i + 1
            yield i

    results = in_order(lambda i: i * i, items(), workers=4, ahead=7)
    assert next(results) == 0
    assert taken == 7
    assert list(results) == [i * i for i in range(1, 100)]
    slow = in_order(lambda i: done.wait(60) if i else i, range(9), workers=2, ahead=3)
    assert next(slow) == 0
    done.set()
    slow.close()  # returns: what is under way ends, the rest is not begun


def test_a_pass_can_be_ended(tmp_path: pathlib.Path) -> None:
    before = threading.active_count()
    made = batches(opened(write_set(tmp_path)), 2, workers=2)
    next(iter(made))
    made.close()
    assert threading.active_count() == before


def test_fingerprint_follows_the_files(tmp_path: pathlib.Path) -> None:
    write_files(tmp_path, zip(NAMES, PNGS, strict=True))
    first = opened(tmp_path).fingerprint()
    assert opened(tmp_path).fingerprint() == first
    (tmp_path / NAMES[3]).write_bytes(PNGS[3] + b" ")
    assert opened(tmp_path).fingerprint() != first
    images = opened(tmp_path)
    (tmp_path / NAMES[0]).unlink()
    with pytest.raises(DataError, match=r"_1\.png: cannot be read"):
        images.fingerprint()


# ------------------------------------------------------------------------------------------- a run


def make_run(root: pathlib.Path, made: int = 12) -> pathlib.Path:
    """Writes what a run has: two sets, one of them planned with 12 images in 3 shards."""
    entries = tuple(manifest.ClassEntry(key, key, 6, 0) for key in KEYS)
    plan = manifest.plan_images(manifest.ClassTable(entries), {key: [f"a {key}"] for key in KEYS}, 1, 5)
    manifest.write_plan(plan, root / "manifest.parquet")
    (root / "experiment.yaml").write_text("name: x\n")
    write_set(root / "sets/generated/24", SQUARES[:made])
    write_set(root / "sets/val/24", SQUARES[:3])
    (root / "collect-0").mkdir()
    elsewhere = {
        "val/24": {},
        "theirs/24": {"directory": str(write_set(root.parent / "theirs", SQUARES[:4]))},
    }
    (root / "collect-0/done.json").write_text(json.dumps({"result": {"sets": elsewhere}}))
    return root


def test_sets_of_a_run(tmp_path: pathlib.Path) -> None:
    run = make_run(tmp_path / "run")
    for path in (f"{run}:generated/24", run / "manifest.parquet", run / "sets/generated/24"):
        images = opened(path)
        assert (images.source, len(images)) == ("shards", 12)
        assert [images.keys[images.label(i) or 0] for i in range(4)] == [*KEYS, *KEYS]
    assert len(opened(f"{run}:val/24")) == 3
    assert len(opened(f"{run}:theirs/24")) == 4
    found = open_shards(f"{run}:generated/24", what="SET")
    assert len(found) == 12
    assert found.header(4)["class_key"] == KEYS[0]


def test_prepared_images_are_pixels(tmp_path: pathlib.Path) -> None:
    with ShardWriter(tmp_path, 0, settings="s", weights="", attempt=0) as writer:
        for i, pixels in enumerate(SQUARES):
            header = writer.header(i, {"class_key": KEYS[0], "class_index": 0})
            writer.add(record.pack_pixels(header, pixels), pixels.data)
        writer.commit(0)
    images = opened(tmp_path)
    np.testing.assert_array_equal(pixels_of(images), np.stack(SQUARES))
    assert images.codec == "raw"
    for _, data in open_shards(str(tmp_path), what="SET").stored([3]):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), SQUARES[3])


def test_other_names_of_sets_are_refused(tmp_path: pathlib.Path) -> None:
    run = make_run(tmp_path / "run")
    for path in (run, f"{run}:generated/64", f"{run}:", f"{run}:.."):
        with pytest.raises(DataError, match=r"one of .*run:generated/24, .*run:val/24"):
            opened(path)
    write_set(run / "sets/generated/48")
    with pytest.raises(DataError, match="at 2 resolutions; expected one of"):
        opened(run / "manifest.parquet")
    with pytest.raises(DataError, match="is no set of synthaug's shards"):
        open_shards(str(run / "manifest.json"), what="SET")


def test_an_unfinished_set_is_refused(tmp_path: pathlib.Path) -> None:
    run = make_run(tmp_path / "run", made=10)
    with pytest.raises(DataError, match="has 2 of 3 shards: the run has not made all its images"):
        opened(f"{run}:generated/24")


# --------------------------------------------------------------------------------------- odd images

GREY = SQUARES[0][:, :, 0]
RGBA = np.dstack([SQUARES[0], np.full((SIDE, SIDE), 255, np.uint8)])
PALETTE = Image.fromarray(SQUARES[0]).quantize(16)


def one(tmp_path: pathlib.Path, data: bytes, name: str = "a.png") -> Images:
    return opened(write_files(tmp_path / "one", [(name, data)]))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY[:, :, None]),
        (Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA"), GREY[:, :, None]),
        (Image.fromarray(RGBA), SQUARES[0]),
        (PALETTE, np.asarray(PALETTE.convert("RGB"))),
        (Image.fromarray(GREY > 99), ((GREY > 99) * 255).astype(np.uint8)[:, :, None]),
    ],
    ids=["grey", "grey with opaque alpha", "opaque alpha", "palette", "1 bit"],
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_unusual_images_are_exact(tmp_path: pathlib.Path, image: Image.Image, expected: np.ndarray) -> None:
    images = one(tmp_path, file_of(image, "PNG"))
    np.testing.assert_array_equal(images.read(0), expected)
    ((_, pixels),) = batches(images, 4)
    np.testing.assert_array_equal(pixels[0], np.broadcast_to(expected, (SIDE, SIDE, 3)))


def test_cmyk_and_exif_are_as_in_prepare(tmp_path: pathlib.Path) -> None:
    wide = PICTURES[0].pixels
    cmyk = formats.jpeg(wide, mode="CMYK")
    expected = np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB"))
    np.testing.assert_array_equal(one(tmp_path, cmyk).read(0), expected)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    turned = file_of(Image.fromarray(wide), "JPEG", exif=exif)
    assert one(tmp_path, turned).read(0).shape == wide.shape


def sixteen_bits(colour: bool) -> bytes:
    if not colour:
        return file_of(Image.fromarray(GREY.astype(np.uint16) * 200), "PNG")
    import tensorflow as tf

    return tf.io.encode_png(SQUARES[0].astype(np.uint16) * 200).numpy()


def transparent() -> np.ndarray:
    made = RGBA.copy()
    made[3, 4, 3] = 254
    return made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: file_of(Image.fromarray(transparent()), "PNG"), "has transparent pixels; expected none"),
        (lambda: file_of(PALETTE, "PNG", transparency=0), "has transparent pixels; expected none"),
        (lambda: sixteen_bits(False), "has 16 bits per channel; expected 8"),
        (lambda: sixteen_bits(True), "has 16 bits per channel; expected 8"),
    ],
    ids=["alpha", "palette", "grey 16", "colour 16"],
)
@pytest.mark.parametrize("skip", [False, True])
def test_what_can_be_read_in_two_ways_is_refused_by_name(
    tmp_path: pathlib.Path, make: Callable[[], bytes], message: str, skip: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow's own, while it is imported
        odd = make()
    images = opened(write_files(tmp_path, [("0.png", PNGS[0]), ("odd.png", odd), ("z.png", odd)]))
    text = rf"IMAGES = .*: 2 of 3 images can be read in more than one way: odd\.png {message}; z\.png has"
    with pytest.raises(DataError, match=text):
        list(batches(images, 1, skip_corrupt=skip))


def test_grey_batches(tmp_path: pathlib.Path) -> None:
    same = np.dstack([GREY] * 3)
    files = [
        ("a.png", file_of(Image.fromarray(GREY), "PNG")),
        ("b.png", file_of(Image.fromarray(same), "PNG")),
    ]
    images = opened(write_files(tmp_path, files))
    np.testing.assert_array_equal(pixels_of(images, channels=1), np.stack([GREY, GREY])[..., None])
    write_files(tmp_path, [("c.png", PNGS[0])])
    with pytest.raises(DataError, match=r"1 of 3 images .*: c\.png has colours; expected grey"):
        list(batches(opened(tmp_path), 2, channels=1))


# ------------------------------------------------------------------------------------------ corrupt


def bomb() -> bytes:
    return file_of(Image.new("1", (30_000, 3_000)), "PNG")


CORRUPT = {
    "b.jpg": lambda: PICTURES[0].data[:900],
    "c.png": lambda: PNGS[1][:-30],
    "d.png": lambda: b"",
    "e.png": lambda: b"GARBAGE" * 9,
    "f.png": lambda: PNGS[2][:60] + bytes([PNGS[2][60] ^ 1]) + PNGS[2][61:],
    "g.png": bomb,
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_corrupt_files_are_counted_and_named(tmp_path: pathlib.Path) -> None:
    files = [(name, make()) for name, make in CORRUPT.items()]
    write_files(tmp_path, [("a.png", PNGS[0]), *files, ("h.png", PNGS[3])])
    images = opened(tmp_path)
    with pytest.raises(DataError) as refused:
        list(batches(images, 4))
    text = str(refused.value)
    assert "6 of 8 images cannot be read: b.jpg cannot be decoded" in text
    assert "d.png is empty (0 bytes)" in text and "e.png cannot be decoded (no known image format)" in text
    assert text.endswith("and 1 more; repair or delete them, or leave them out with --skip-corrupt.")
    assert "\n" not in text
    made = batches(images, 4, skip_corrupt=True)
    ((index, pixels),) = made
    assert index.tolist() == [0, 7]
    np.testing.assert_array_equal(pixels, np.stack([SQUARES[0], SQUARES[3]]))
    assert list(made.skipped) == list(CORRUPT)
    assert "90000000" in made.skipped["g.png"] or "pixels" in made.skipped["g.png"]
    assert images.codec == "png 83.3 %, jpeg 16.7 %"  # by their first bytes


def test_nothing_readable_is_an_error(tmp_path: pathlib.Path) -> None:
    images = opened(write_files(tmp_path, [("a.png", b"x"), ("b.png", b"y")]))
    with pytest.raises(DataError, match=r"none of 2 images can be read; a\.png cannot be decoded"):
        list(batches(images, 4, skip_corrupt=True))


def test_a_source_that_goes_away_is_no_corrupt_image(tmp_path: pathlib.Path) -> None:
    images = opened(write_files(tmp_path, zip(NAMES, PNGS, strict=True)))
    (tmp_path / NAMES[5]).unlink()
    with pytest.raises(RunError, match="cannot be read"):
        list(batches(images, 4, skip_corrupt=True))


# -------------------------------------------------------------------------------------------- sizes


def test_mixed_sizes_are_refused_with_those_found(tmp_path: pathlib.Path) -> None:
    made = [Image.new("RGB", (SIDE, SIDE))] * 5 + [Image.new("RGB", (30, 20))] * 2
    images = opened(
        write_files(tmp_path, [(f"{i}.png", file_of(image, "PNG")) for i, image in enumerate(made)])
    )
    text = (
        r"mixed sizes: 5\.png is 30 x 20 px, expected 24 x 24 px; among 7 images looked at: 24 x 24 \(5\), "
        r"30 x 20 \(2\); name --size and --resize \(area, adm, cas, pillow-box"
    )
    with pytest.raises(DataError, match=text):
        list(batches(images, 2))
    with pytest.raises(DataError, match=r"mixed sizes: 0\.png is 24 x 24 px, expected 32 x 32 px"):
        list(batches(images, 2, side=32))
    assert pixels_of(images, side=16, filter="area").shape == (7, 16, 16, 3)


def test_images_that_are_no_squares_are_refused(tmp_path: pathlib.Path) -> None:
    images = one(tmp_path, file_of(Image.new("RGB", (30, 20)), "PNG"))
    with pytest.raises(DataError, match=r"no squares: a\.png is 30 x 20 px, expected squares of one size"):
        list(batches(images, 2))


@pytest.mark.parametrize("name", FILTERS)
def test_filters(tmp_path: pathlib.Path, name: str) -> None:
    images = opened(write_files(tmp_path, [(f"{p.key}/{p.name}.jpg", p.data) for p in PICTURES]))
    made = batches(images, 7, side=16, filter=name)
    found = np.concatenate([pixels for _, pixels in made])
    if name in resize.FILTERS:
        expected = [resize.FILTERS[name](p.pixels, 16) for p in PICTURES]
    else:
        kind = Image.Resampling[name.removeprefix("pillow-").upper()]
        expected = [np.asarray(Image.fromarray(p.pixels).resize((16, 16), kind)) for p in PICTURES]
    np.testing.assert_array_equal(found, np.stack(expected))
    assert (made.side, made.filter, images.codec) == (16, name, "jpeg")


def test_settings_that_make_no_sense(tmp_path: pathlib.Path) -> None:
    images = one(tmp_path, PNGS[0])
    with pytest.raises(DataError, match=r"'bicubic' is unknown.*pillow-bicubic"):
        batches(images, 2, side=16, filter="bicubic")
    with pytest.raises(DataError, match="Name the side in px, too"):
        batches(images, 2, filter="area")


def test_codec_before_and_after_a_pass(tmp_path: pathlib.Path) -> None:
    for i in range(1500):
        (tmp_path / f"{i:04d}.png").write_bytes(formats.jpeg(SQUARES[0]) if i % 10 == 0 else PNGS[0])
    images = opened(tmp_path)
    assert re.fullmatch(r"png \d\d(\.\d)? %, jpeg \d\d?(\.\d+)? %", images.codec)
    assert images.codec_coverage == pytest.approx(2 / 3)
    for _ in batches(images, 64):
        pass
    assert (images.codec, images.codec_coverage) == ("png 90 %, jpeg 10 %", 1.0)
    assert images.codec_of(np.arange(0, 1500, 10)) == "jpeg"  # of those alone


def test_what_becomes_of_images_is_counted(tmp_path: pathlib.Path) -> None:
    made = [GREY, RGBA, SQUARES[0], np.dstack([SQUARES[0]] * 1)[:12], np.ones((40, 40, 3), np.uint8)]
    files = [(f"{i}.png", file_of(Image.fromarray(pixels), "PNG")) for i, pixels in enumerate(made)]
    images, everything = opened(write_files(tmp_path, files)), np.arange(5)
    for name, expected in (("area", [1, 1, 2, 1, 0]), ("pillow-box", [1, 1, 2, 1, 1])):
        for _ in batches(images, 2, side=SIDE, filter=name):
            pass
        flags = (seen.GREY, seen.ALPHA, seen.RESIZED, seen.ENLARGED, seen.STRETCHED)
        assert [images.seen.count(flag, everything) for flag in flags] == expected
    assert images.seen.count(seen.GREY, np.array([1, 2])) == 0
    again = opened(tmp_path)
    again.seen.recall(np.array([0, 1]), images.seen.of(np.array([0, 1])))
    assert [again.seen.count(flag, everything) for flag in flags[:2]] == [1, 1]
    with pytest.raises(ValueError, match="noticed"):
        again.seen.recall(np.array([0, 1]), images.seen.of(everything))


@pytest.mark.parametrize("name", ["a.array_record", "b.arrayrecord", "c.array_record-00000-of-00001"])
def test_images_in_array_records(tmp_path: pathlib.Path, name: str) -> None:
    writer = ArrayRecordWriter(str(tmp_path / name), "group_size:1")
    for data in [*PNGS, b"rubbish"]:
        writer.write(data)
    writer.close()
    images = opened(tmp_path / name)
    assert (images.source, images.names[3], len(images)) == ("arrayrecord", f"{name}/00000003", 13)
    made = batches(images, 5, skip_corrupt=True)
    np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in made]), np.stack(SQUARES))
    assert list(made.skipped) == [f"{name}/00000012"]
    assert images.codec == "png" and images.label(0) is None
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"no such thing", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match="is no whole ArrayRecord"):
            opened(tmp_path / name)


# ----------------------------------------------------------------------------------------- nothing


def empty(root: pathlib.Path, what: str) -> object:
    (root / "folder").mkdir()
    if what == "other files":
        write_files(root / "folder", [("a.txt", b""), ("b.tiff", b"")])
    if what == "two kinds":
        np.savez(root / "folder/a.npz", np.stack(SQUARES))
        formats.write_tar(root / "folder/a.tar", [("a.png", PNGS[0])])
    if what == "mixed pattern":
        write_files(root / "folder", [("a.png", PNGS[0]), ("b.txt", b"hello")])
        return root / "folder/*"
    made = {
        "missing": root / "nothing",
        "no text": "",
        "no match": f"{root}/*.png",
        "text file": write_files(root, [("a.txt", b"hello")]) / "a.txt",
        "empty zip": write_zip(root / "e.zip", []),
        "empty npz": root / "e.npz",
        "torn npz": write_files(root, [("t.npz", b"PK\x03\x04 and no more")]) / "t.npz",
        "tar.gz": write_files(root, [("a.tar.gz", b"\x1f\x8b\x08" + bytes(600))]) / "a.tar.gz",
        "floats": root / "f.npz",
        "no pixels": root / "n.npz",
        "two arrays": root / "two.npz",
        "first axis": root / "nchw.npz",
    }
    np.savez(root / "e.npz", np.zeros((0, 8, 8, 3), np.uint8))
    np.savez(root / "f.npz", np.zeros((4, 8, 8, 3), np.float32))
    np.savez(root / "n.npz", mu=np.zeros(4))
    np.savez(root / "two.npz", a=np.stack(SQUARES), b=np.stack(SQUARES))
    np.savez(root / "nchw.npz", np.zeros((4, 3, 8, 8), np.uint8))
    return made.get(what, root / "folder")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "no such file or folder; expected a folder of images, a zip"),
        ("no text", "no such file or folder"),
        ("no match", "no such file"),
        ("empty folder", "has no images; expected files ending in .bmp"),
        ("other files", r"has no images, but 2 other files \(a.txt, b.tiff\)"),
        ("two kinds", r"has \*.tar and \*.npz; expected one kind"),
        ("mixed pattern", "a.png is files and b.txt is nothing known; expected files of one kind"),
        ("text file", "is none of what is known"),
        ("empty zip", "has no images; expected"),
        ("empty npz", "has no images; expected"),
        ("torn npz", "truncated or damaged"),
        ("tar.gz", "is compressed with gzip; .* decompress it first"),
        ("floats", r"arr_0 is float32\[4, 8, 8, 3\]; expected u8"),
        ("no pixels", r"has no pixels: it holds mu float64\[4\]; expected arr_0, or one array"),
        ("two arrays", "has 2 arrays of pixels"),
        ("first axis", r"arr_0 is uint8\[4, 3, 8, 8\]; expected u8\[N,H,W,3\]"),
    ],
)
def test_no_images_in_one_line(tmp_path: pathlib.Path, what: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        opened(empty(tmp_path, what))
    assert "\n" not in str(refused.value)


# --------------------------------------------------------------------------------------------- zips


def test_zips_of_others(tmp_path: pathlib.Path) -> None:
    made = write_zip(tmp_path / "a.zip", zip(NAMES, PNGS, strict=True), zipfile.ZIP_DEFLATED).read_bytes()
    (tmp_path / "behind.zip").write_bytes(b"#!/bin/sh\n" * 9 + made)  # as self-extracting ones are
    members = list(zips.members(tmp_path / "behind.zip"))
    assert [member.name for member in members] == NAMES
    with zipfile.ZipFile(tmp_path / "streamed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.fp.seekable = lambda: False  # type: ignore[union-attr,method-assign]
        archive._seekable = False  # type: ignore[attr-defined]
        archive.comment = b"PK\x05\x06 and more"[4:] * 99
        for name, data in zip(NAMES, PNGS, strict=True):
            archive.writestr(name, data)
    np.testing.assert_array_equal(pixels_of(opened(tmp_path / "streamed.zip")), np.stack(SQUARES))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_in_a_streamed_zip_is_seen(tmp_path: pathlib.Path, method: int) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("a pipe")

    pipe, pixels = Pipe(), np.stack(SQUARES[:2])
    with zipfile.ZipFile(pipe, "w", method) as archive:
        for name, image in (("a.bmp", pixels[0]), ("b.bmp", pixels[1])):
            archive.writestr(name, file_of(Image.fromarray(image), "BMP"))
    data = bytearray(pipe.getvalue())
    assert data[6] & 8  # the checksum stands behind the data
    (tmp_path / "a.zip").write_bytes(data)
    np.testing.assert_array_equal(pixels_of(opened(tmp_path / "a.zip")), pixels)
    bare = bytes(data).replace(b"PK\x07\x08", b"", 1)  # the mark is optional; places behind it move by 4
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first = archive.infolist()[0]
    start = 30 + len("a.bmp")
    content = zips.content(lambda at, n: bare[at : at + n], 0, first.compress_size, 1 << 20)
    assert content == file_of(Image.fromarray(pixels[0]), "BMP")
    at = start + first.compress_size + 4 if method == zipfile.ZIP_DEFLATED else start + 500
    data[at] ^= 1  # a pixel, or the checksum of pixels
    (tmp_path / "a.zip").write_bytes(data)
    made = batches(opened(tmp_path / "a.zip"), 4, skip_corrupt=True)
    assert sum(len(index) for index, _ in made) == 1
    assert "another checksum" in made.skipped["a.zip/a.bmp"]


def test_zips_that_are_refused(tmp_path: pathlib.Path) -> None:
    path = write_zip(tmp_path / "l.zip", [("a.png", PNGS[0])], zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match=r"'a\.png' is compressed with lzma; expected deflate or none"):
        opened(path)
    for name in ("../a.png", "/a.png", "b/../../a.png"):
        with pytest.raises(DataError, match="points outside of its folder"):
            opened(write_zip(tmp_path / "o.zip", [(name, PNGS[0])]))
    with pytest.raises(DataError, match="has control characters"):
        opened(write_zip(tmp_path / "c.zip", [("a\n.png", PNGS[0])]))
    data = bytearray(write_zip(tmp_path / "e.zip", [("a.png", PNGS[0])]).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"'a\.png' is encrypted"):
        opened(tmp_path / "e.zip")
    with pytest.warns(UserWarning, match="Duplicate"):
        double = write_zip(tmp_path / "d.zip", [("a.png", PNGS[0]), ("a.png", PNGS[1])])
    with pytest.raises(DataError, match=r"d\.zip/a\.png stands twice"):
        opened(double)


def test_a_damaged_member_is_one_corrupt_image(tmp_path: pathlib.Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = write_zip(tmp_path / f"{method}.zip", zip(NAMES, PNGS, strict=True), method)
        data = bytearray(path.read_bytes())
        data[data.index(PNGS[4][60:90] if method == zipfile.ZIP_STORED else NAMES[4].encode()) + 70] ^= 1
        path.write_bytes(data)
        made = batches(opened(path), 4, skip_corrupt=True)
        assert sum(len(index) for index, _ in made) == 11
        assert list(made.skipped) == [f"{method}.zip/{NAMES[4]}"]


SMALL = [("a.png", PNGS[0]), ("b/c.png", PNGS[1])]


@hypothesis.settings(max_examples=150)
@hypothesis.given(cut=st.integers(0, 10_000), deflated=st.booleans(), flip=st.booleans())
def test_broken_zips_give_one_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, deflated: bool, flip: bool
) -> None:
    root = tmp_path_factory.mktemp("zip")
    path = write_zip(root / "a.zip", SMALL, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    data = path.read_bytes()
    cut %= len(data)
    path.write_bytes(data[:cut] + bytes([data[cut] ^ 0x55]) + data[cut + 1 :] if flip else data[:cut])
    try:
        images = opened(path)
        for i in range(len(images)):
            pixels = images.read(i)
            assert pixels.dtype == np.uint8 and pixels.shape == (SIDE, SIDE, 3)
    except DataError as error:
        assert "\n" not in str(error)
