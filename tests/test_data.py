"""Images, records, shards, sources, prepare, mixtures and the stream of batches."""

from __future__ import annotations

import dataclasses
import fractions
import io
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import unicodedata

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from synthaug import commit, manifest
from synthaug.data import images, mixture, record, shards, sources, stream
from synthaug.data.prepare import prepare
from synthaug.errors import ConfigError, DataError, RunError
from synthaug.experiment import Data

UNHURRIED = hypothesis.settings(deadline=None)  # the machine may be busy
U8_IMAGES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3])), fill=st.nothing()
)
DIGITS = Data(source="digits", num_classes=10, num_train=1442, num_val=355, channels=1, shard_size=500)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def files(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


def silent(done: int, total: int) -> None:
    pass


# ------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("module", [np, jnp])
def test_u8_survives_float(module):
    every = module.arange(256, dtype="uint8")
    values = images.to_float(every)
    assert str(values.dtype) == "float32" and values.min() == -1 and values.max() == 1
    assert np.array_equal(images.to_u8(values), np.arange(256))


def test_floats_beyond_the_range_are_clipped():
    assert images.to_u8(np.array([-9.0, 9.0], np.float32)).tolist() == [0, 255]


@UNHURRIED
@hypothesis.given(U8_IMAGES)
def test_png_is_lossless_and_deterministic(image):
    data = images.encode_png(image)
    assert np.array_equal(images.decode_png(data), image)
    assert images.encode_png(np.asfortranarray(image)) == data


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (0, 4, 3)])
def test_png_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="expected u8"):
        images.encode_png(np.zeros(shape, np.uint8))


def _palette() -> Image.Image:
    image = Image.new("P", (1, 1), 7)
    image.putpalette([c for i in range(256) for c in (i, 2 * i % 256, 100)])
    return image


@pytest.mark.parametrize(
    ("name", "image", "kind", "expected"),
    [
        ("grey", Image.new("L", (1, 1), 90), "PNG", (90, 90, 90)),
        ("colour", Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", (1, 2, 3)),
        ("alpha", Image.new("RGBA", (1, 1), (0, 100, 200, 51)), "PNG", (204, 224, 244)),
        ("grey alpha", Image.new("LA", (1, 1), (50, 0)), "PNG", (255, 255, 255)),
        ("one bit", Image.new("1", (1, 1), 1), "PNG", (255, 255, 255)),
        ("palette", _palette(), "PNG", (7, 14, 100)),
        ("16 bit", Image.fromarray(np.array([[0x12FF]], np.uint16)), "PNG", (0x12, 0x12, 0x12)),
        ("cmyk", Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "JPEG", (255, 255, 255)),
        ("bmp", Image.new("RGB", (1, 1), (1, 2, 3)), "BMP", (1, 2, 3)),
    ],
)
def test_unusual_files_become_colour(name, image, kind, expected):
    pixels = images.decode(encoded(image, kind), 3, "pillow")
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 1, 3)
    assert tuple(pixels[0, 0].tolist()) == expected


def test_transparent_colour_key_is_white():
    buffer = io.BytesIO()
    Image.fromarray(np.array([[[9, 9, 9], [1, 2, 3]]], np.uint8)).save(buffer, "PNG", transparency=(9, 9, 9))
    assert images.decode(buffer.getvalue(), 3, "pillow").tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_colour_becomes_the_luma_of_pillow():
    pixels = noise(16, 16, 3)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(images.decode(encoded(Image.fromarray(pixels)), 1, "pillow")[:, :, 0], expected)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"]), st.data())
def test_torn_file_is_a_data_error_or_an_image(kind, data):
    whole = bytearray(encoded(Image.fromarray(noise(9, 7, 3)), kind))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        for _ in range(3):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = images.decode(bytes(whole), 3, "pillow")
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


def test_decompression_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    bomb = encoded(Image.new("1", (9000, 9000)))
    monkeypatch.setattr(images, "MAX_PIXELS", 8000 * 8000)
    with pytest.raises(DataError, match="9000 x 9000 px"):
        images.decode(bomb, 1, "pillow")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # tensorflow's own, while it is imported
def test_tensorflow_decodes_as_pillow_does():
    kinds = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
    for mode, depth in kinds.items():
        data = encoded(Image.fromarray(noise(13, 9, depth).squeeze()))
        for channels in (1, 3):
            ours = images.decode(data, channels, "tensorflow")
            assert np.array_equal(ours, images.decode(data, channels, "pillow")), mode
    data = encoded(Image.fromarray(noise(13, 9, 2).view(np.uint16)[:, :, 0]))
    assert np.array_equal(images.decode(data, 1, "tensorflow"), images.decode(data, 1, "pillow"))
    with pytest.raises(DataError, match="cannot be decoded"):
        images.decode(data[:60], 3, "tensorflow")


# ---------------------------------------------------------------------------------------- shrinking


def exact_area(image: np.ndarray, size: int) -> np.ndarray:
    """The mean over each output pixel's square in rational numbers, rounded half to even."""
    square = images.crop_square(image)
    side, scale = len(square), fractions.Fraction(len(square), size)

    def overlap(o: int, i: int) -> fractions.Fraction:
        return max(fractions.Fraction(0), min((o + 1) * scale, i + 1) - max(o * scale, i))

    weight = [[overlap(o, i) for i in range(side)] for o in range(size)]
    result = np.empty((size, size, image.shape[2]), np.uint8)
    for y, x, c in np.ndindex(result.shape):
        total = sum(
            weight[y][i] * weight[x][j] * int(square[i, j, c]) for i in range(side) for j in range(side)
        )
        result[y, x, c] = round(total / scale**2)
    return result


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 8)] * 2, st.just(1))), st.integers(1, 9))
def test_shrink_is_the_exact_area_mean(image, size):
    assert np.array_equal(images.shrink_area(image, size), exact_area(image, size))


def test_shrink_rounds_half_to_even():
    assert images.shrink_area(np.array([[0, 1], [1, 0]], np.uint8)[:, :, None], 1).item() == 0
    assert images.shrink_area(np.array([[1, 2], [2, 1]], np.uint8)[:, :, None], 1).item() == 2


def test_shrink_keeps_the_central_square():
    wide = np.concatenate([np.zeros((4, 2, 3)), np.full((4, 4, 3), 200), np.zeros((4, 2, 3))], axis=1)
    for image in (wide, wide.swapaxes(0, 1)):
        assert (images.shrink_area(image.astype(np.uint8), 2) == 200).all()


@UNHURRIED
@hypothesis.given(U8_IMAGES)
def test_shrink_to_its_own_size_is_the_square(image):
    square = images.crop_square(image)
    assert np.array_equal(images.shrink_area(image, len(square)), square)


# -------------------------------------------------------------------------------------------- record


@UNHURRIED
@hypothesis.given(
    st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False)), U8_IMAGES
)
def test_record_survives_its_bytes(header, image):
    hypothesis.assume(all(abs(v) < float("inf") for v in header.values() if isinstance(v, float)))
    data = record.pack(header, image)
    there, pixels = record.unpack(data)
    assert there == header == record.unpack_header(data) and np.array_equal(pixels, image)
    assert record.pack(dict(reversed(header.items())), image) == data


@pytest.mark.parametrize("data", [b"", b"SYN1", b"PNG0" + bytes(20), b"SYN1\x05\x00\x00\x00[1,2]xxx"])
def test_other_bytes_are_no_record(data):
    with pytest.raises(DataError, match="record"):
        record.unpack(data)


def test_record_without_its_image_is_refused():
    data = record.pack({"a": 1}, noise(4, 4, 1))
    with pytest.raises(DataError, match="cannot be decoded"):
        record.unpack(data[:-30])


# -------------------------------------------------------------------------------------------- shards


def records_of(first: int, count: int, size: int = 8) -> list[tuple[dict, np.ndarray]]:
    return [
        (
            {"class_key": f"c{i % 3}", "class_index": i % 3, "prompt": f"naïve {i}"},
            noise(size, size, 1, seed=i),
        )
        for i in range(first, first + count)
    ]


def write(folder: pathlib.Path, index: int, first: int, count: int, **changes) -> manifest.Shard:
    hashes = {"settings": "s", "weights": "w", "attempt": 0, **changes}
    return shards.write_shard(folder, index, first, records_of(first, count), **hashes)


def test_set_gives_back_what_was_written(tmp_path):
    for index, first, count in ((0, 0, 5), (1, 5, 5), (2, 10, 2)):
        write(tmp_path, index, first, count)
    done = shards.open_set(tmp_path, 3, num_images=12, verify=True)
    assert len(done) == 12
    expected = np.stack([image for _, image in records_of(0, 12)])
    pixels, labels = done.load()
    assert np.array_equal(pixels, expected) and labels.tolist() == done.labels.tolist() == [0, 1, 2] * 4
    assert labels.dtype == np.int32
    for i in (0, 4, 5, 11):
        assert np.array_equal(done.image(i), expected[i])
        assert done.header(i) == {
            **records_of(i, 1)[0][0],
            "index": i,
            "settings": "s",
            "weights": "w",
        }
    picked, labels = done.load([11, 3, 4, 5])
    assert np.array_equal(picked, expected[[11, 3, 4, 5]]) and labels.tolist() == [2, 0, 1, 2]
    with pytest.raises(IndexError, match="expected 0 to 11"):
        done.image(12)


def test_more_shards_than_files_may_be_open(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(1000) if number not in in_use]
    for index in range(80):
        write(tmp_path, index, index, 1)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[50], limit[1]))
        assert len(shards.open_set(tmp_path, 80).load()[0]) == 80
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_equal_records_give_equal_files(tmp_path):
    a, b = write(tmp_path / "a", 0, 0, 40), write(tmp_path / "b", 0, 0, 40, attempt=1)
    assert a == dataclasses.replace(b, attempt=0)
    assert commit.sha256_file(tmp_path / "a" / a.file) == a.sha256


def test_second_attempt_is_no_operation(tmp_path):
    shard = write(tmp_path, 0, 0, 4)
    before = {name: (tmp_path / name).stat().st_ino for name in files(tmp_path)}
    assert write(tmp_path, 0, 0, 4, attempt=3).sha256 == shard.sha256
    assert {name: (tmp_path / name).stat().st_ino for name in files(tmp_path)} == before
    assert files(tmp_path) == ["shard-00000.arrayrecord", "shard-00000.json"]


def test_second_attempt_with_other_images_is_refused(tmp_path):
    write(tmp_path, 0, 0, 4)
    with pytest.raises(RunError, match="two attempts differ"):
        shards.write_shard(tmp_path, 0, 0, records_of(1, 4), settings="s", weights="w", attempt=1)
    assert files(tmp_path) == ["shard-00000.arrayrecord", "shard-00000.json"]


def test_kill_between_data_file_and_marker_is_completed(tmp_path):
    code = """if True:
        import os, pathlib, signal, sys
        import numpy as np
        from synthaug import manifest
        from synthaug.data import shards
        manifest.write_marker = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        record = {"class_key": "a", "class_index": 0}, np.zeros((8, 8, 1), np.uint8)
        shards.write_shard(pathlib.Path(sys.argv[1]), 0, 0, [record], settings="", weights="", attempt=0)
    """
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert files(tmp_path) == ["shard-00000.arrayrecord"]
    with pytest.raises(DataError, match="shards 0"):
        shards.open_set(tmp_path, 1)  # a data file alone does not count
    image = {"class_key": "a", "class_index": 0}, np.zeros((8, 8, 1), np.uint8)
    shards.write_shard(tmp_path, 0, 0, [image], settings="", weights="", attempt=1)
    assert len(shards.open_set(tmp_path, 1, verify=True)) == 1
    assert files(tmp_path) == ["shard-00000.arrayrecord", "shard-00000.json"]


def test_full_disk_leaves_nothing(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # the C++ writer meets it, not ours
    try:
        with pytest.raises(RunError, match=r"shard-00000\.arrayrecord: cannot be written .*ulimit") as error:
            write(tmp_path, 0, 0, 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(error.value) and files(tmp_path) == []
    write(tmp_path, 0, 0, 200)
    assert len(shards.open_set(tmp_path, 1)) == 200


def test_error_of_the_images_maker_passes_and_leaves_nothing(tmp_path):
    def broken():
        yield records_of(0, 1)[0]
        raise RuntimeError("out of device memory")

    with pytest.raises(RuntimeError, match="out of device memory"):
        shards.write_shard(tmp_path, 0, 0, broken(), settings="", weights="", attempt=0)
    assert files(tmp_path) == []


def test_records_that_do_not_fit_are_refused(tmp_path):
    small, large = records_of(0, 1), records_of(0, 1, size=9)
    for bad in ([*small, *large], [({"class_key": "a"}, small[0][1])], []):
        with pytest.raises(ValueError, match="write_shard"):
            shards.write_shard(tmp_path, 0, 0, bad, settings="", weights="", attempt=0)
    assert files(tmp_path) == []


@pytest.mark.parametrize("where", [40_000, -1])
def test_altered_shard_is_named(tmp_path, where):
    write(tmp_path, 0, 0, 4)
    path = tmp_path / write(tmp_path, 1, 4, 400).file
    whole = bytearray(path.read_bytes())
    whole[where] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"shard-00001\.arrayrecord: was altered"):
        shards.open_set(tmp_path, 2, verify=True)
    if where == 40_000:  # inside an image; the padding at the end is not read
        with pytest.raises(DataError, match=r"shard-00001\.arrayrecord: was altered"):
            shards.open_set(tmp_path, 2).load()


def test_shortened_and_missing_shards_are_named(tmp_path):
    path = tmp_path / write(tmp_path, 0, 0, 4).file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-00000\.arrayrecord: was altered: has .* bytes"):
        shards.open_set(tmp_path, 1)
    path.unlink()
    with pytest.raises(DataError, match=r"shard-00000\.arrayrecord: is missing"):
        shards.open_set(tmp_path, 1)


def test_one_shard_is_opened_by_its_maker_only(tmp_path):
    assert shards.open_shard(tmp_path, 7) is None
    write(tmp_path, 7, 70, 4)
    done = shards.open_shard(tmp_path, 7, {"settings": "s", "weights": "w"})
    assert [header["index"] for header in done.headers()] == [70, 71, 72, 73]
    with pytest.raises(RunError, match="made with weights 'w'; expected 'new'"):
        shards.open_shard(tmp_path, 7, {"settings": "s", "weights": "new"})


# ------------------------------------------------------------------------------------------- sources


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Three classes of 7, 6 and 5 images, in odd places and formats."""
    root = tmp_path / "raw"
    for k, key in enumerate(["b", "a", "größe"]):
        (root / key / "deep").mkdir(parents=True)
        for i in range(7 - k):
            suffix = (".png", ".JPEG", ".webp", ".bmp", ".jpg")[i % 5]
            kind = {"jpg": "JPEG"}.get(suffix[1:].lower(), suffix[1:].upper())
            image = Image.fromarray(noise(12, 10, 3, seed=10 * k + i))
            (root / key / ("deep" if i % 2 else "") / f"{i}{suffix}").write_bytes(encoded(image, kind))
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "gone.png").symlink_to(root / "nowhere")
    (root / "a" / ".hidden.png").write_text("no image")
    (root / "b" / "deep" / "round").symlink_to(root / "b")
    return root


def settings_of(root: pathlib.Path, **changes) -> Data:
    stated = {"num_classes": 3, "num_train": 15, "num_val": 3, "shard_size": 4, "channels": 3, **changes}
    return Data(source="folder", path=str(root), **stated)


def test_digits_are_the_bundled_ones():
    source = sources.scan(DIGITS)
    assert source.classes[0] == ("0", "zero") and len(source.classes) == 10
    assert len(source.items) == 1797 and len({item.source_id for item in source.items}) == 1797
    assert [item.class_index for item in source.items] == sorted(item.class_index for item in source.items)
    first = next(item for item in source.items if item.source_id == "digits/0000")
    assert first.class_index == 0 and first.load().shape == (8, 8, 1)
    assert first.load()[0, :4, 0].tolist() == [0, 0, 80, 207]  # 0, 0, 5, 13 sixteenths
    colour = sources.scan(dataclasses.replace(DIGITS, channels=3)).items[0].load()
    assert colour.shape == (8, 8, 3) and (colour == colour[:, :, :1]).all()


def test_folder_is_read_in_sorted_order(folder):
    source = sources.scan(settings_of(folder))
    assert source.classes == (("a", "a"), ("b", "b"), ("größe", "größe"))
    assert [i.source_id for i in source.items if i.class_index == 0] == [
        "a/0.png",
        "a/2.webp",
        "a/4.jpg",
        "a/deep/1.JPEG",
        "a/deep/3.bmp",
        "a/deep/5.png",
    ]
    assert sorted(source.others) == ["a/gone.png", "a/notes.txt"]
    assert all(item.load().shape == (12, 10, 3) for item in source.items)


def test_class_key_does_not_depend_on_how_accents_are_stored(folder):
    (folder / "größe").rename(folder / unicodedata.normalize("NFD", "größe"))
    assert sources.scan(settings_of(folder)).classes[2][0] == "größe"
    (folder / "größe").mkdir()
    with pytest.raises(DataError, match="two folders are both called größe"):
        sources.scan(settings_of(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": ""}, r"data\.path = '': no such folder; .* set data\.path"),
        ({"path": "/nowhere/at/all"}, "no such folder"),
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


def test_split_takes_every_nth_image_of_each_class(folder):
    source = sources.scan(settings_of(folder))
    val = [item.source_id for item, v in zip(source.items, sources.split(source, 5), strict=True) if v]
    assert val == ["a/deep/3.bmp", "b/deep/1.JPEG", "größe/deep/3.bmp"]


# ------------------------------------------------------------------------------------------- prepare


def content(out: pathlib.Path) -> dict[str, str]:
    return {str(p.relative_to(out)): commit.sha256_file(p) for p in sorted(out.rglob("*.*"))}


def test_prepared_digits_are_the_source(tmp_path):
    calls: list[tuple[int, int]] = []
    result = prepare(DIGITS, [8, 4], tmp_path, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (1797, 1797) and len(calls) == 4
    assert result["num_train"] == 1442 and result["num_val"] == 355 and result["corrupt"] == {}
    assert result["sets"]["train/8"]["shards"] == 3 and result["sets"]["val/4"]["images"] == 355
    json.dumps(result)
    source = {item.source_id: item for item in sources.scan(DIGITS).items}
    train = {r: shards.open_set(tmp_path / "train" / str(r), 3, verify=True) for r in (8, 4)}
    for i in (0, 700, 1441):
        header = train[8].header(i)
        assert np.array_equal(train[8].image(i), source[header["source"]].load())
        assert np.array_equal(train[4].image(i), images.shrink_area(train[8].image(i), 4))
        assert train[4].header(i)["source"] == header["source"]
    ids = [h["source"] for split in ("train", "val") for h in _headers(tmp_path, split, result)]
    assert sorted(ids) == sorted(source)


def _headers(out: pathlib.Path, split: str, result: dict) -> list[dict]:
    return shards.open_set(out / split / "8", result["sets"][f"{split}/8"]["shards"]).headers()


def test_prepared_order_is_the_order_of_the_generated_set(tmp_path):
    result = prepare(DIGITS, [8], tmp_path, silent)
    table = manifest.ClassTable.from_json((tmp_path / "classes.json").read_text())
    assert [dataclasses.asdict(entry) for entry in table.entries] == result["classes"]
    plan = manifest.plan_images(table, {str(k): [str(k)] for k in range(10)}, 2, 100)
    labels = shards.open_set(tmp_path / "train" / "8", 3).labels
    assert np.array_equal(labels, plan.class_index[:1442])


def test_preparing_again_changes_nothing(folder, tmp_path):
    out = tmp_path / "out"
    first = prepare(settings_of(folder), [8, 16], out, silent)
    before = {path: path.stat().st_ino for path in out.rglob("*")}
    assert prepare(settings_of(folder), [8, 16], out, silent) == first
    assert {path: path.stat().st_ino for path in out.rglob("*")} == before
    assert first["enlarged"] == {"8": 0, "16": 18} and first["other_files"]["count"] == 2


def test_killed_prepare_goes_on_and_gives_the_same(folder, tmp_path):
    (folder / "a" / "0.png").write_bytes(b"torn")
    settings = settings_of(folder, num_train=14, max_corrupt=1)
    whole = prepare(settings, [8, 4], tmp_path / "whole", silent)
    code = """if True:
        import os, pathlib, signal, sys
        from synthaug.data.prepare import prepare
        from synthaug.experiment import Data
        def progress(done, total):
            if done >= 8:
                os.kill(os.getpid(), signal.SIGKILL)
        settings = Data(source="folder", path=sys.argv[1], num_classes=3, num_train=14, num_val=3,
                        shard_size=4, channels=3, max_corrupt=1)
        prepare(settings, [8, 4], pathlib.Path(sys.argv[2]), progress)
    """
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, str(folder), str(out)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(out.rglob("*.json"))) == 4  # two shards, two resolutions
    (out / "train" / "4" / "shard-00001.json").unlink()  # and one killed before its marker
    assert prepare(settings, [8, 4], out, silent) == whole
    assert content(out) == content(tmp_path / "whole")


def test_unreadable_images_are_named_or_left_out(folder, tmp_path):
    whole = (folder / "b" / "deep" / "1.JPEG").read_bytes()
    (folder / "b" / "deep" / "1.JPEG").write_bytes(whole[: len(whole) // 2])  # of the validation split
    (folder / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"max_corrupt = 0: .*a/0\.png: cannot be decoded .*max_corrupt="
    ) as e:
        prepare(settings_of(folder), [8], tmp_path / "a", silent)
    assert "\n" not in str(e.value)
    with pytest.raises(DataError, match=r"set data\.num_train=14 data\.num_val=2"):
        prepare(settings_of(folder, max_corrupt=2), [8], tmp_path / "b", silent)
    settings = settings_of(folder, max_corrupt=2, num_train=14, num_val=2)
    result = prepare(settings, [8], tmp_path / "b", silent)
    assert sorted(result["corrupt"]) == ["a/0.png", "b/deep/1.JPEG"]
    counts = {c["key"]: (c["train"], c["val"]) for c in result["classes"]}
    assert counts == {"a": (4, 1), "b": (6, 0), "größe": (4, 1)}
    done = shards.open_set(tmp_path / "b" / "train" / "8", result["sets"]["train/8"]["shards"], num_images=14)
    assert [header["index"] for header in done.headers()] == list(range(14))


def test_shard_of_unreadable_images_alone_is_no_shard(folder, tmp_path):
    (folder / "a" / "0.png").write_bytes(b"no image")
    settings = settings_of(folder, max_corrupt=1, num_train=14, shard_size=1)
    first = prepare(settings, [8], tmp_path / "out", silent)
    assert first["sets"]["train/8"]["shards"] == 14
    assert prepare(settings, [8], tmp_path / "out", silent) == first


def test_other_settings_in_the_same_place_are_refused(folder, tmp_path):
    prepare(settings_of(folder), [8], tmp_path / "out", silent)
    with pytest.raises(RunError, match="made with settings"):
        prepare(settings_of(folder, channels=1), [8], tmp_path / "out", silent)
    (folder / "a" / "0.png").rename(folder / "a" / "0-new.png")
    with pytest.raises(RunError, match="the source has changed"):
        prepare(settings_of(folder), [8], tmp_path / "out", silent)


@pytest.fixture
def val_folder(folder) -> pathlib.Path:
    """Two images of each class in a folder of their own, one with the name of a train image."""
    root = folder.parent / "val"
    for key in ("b", "a", "größe"):
        (root / key).mkdir(parents=True)
        for i in range(2):
            (root / key / f"{i}.png").write_bytes(encoded(Image.fromarray(noise(12, 10, 3, seed=90 + i))))
    return root


def test_validation_images_from_their_own_folder(folder, val_folder, tmp_path):
    settings = settings_of(folder, val_path=str(val_folder), num_train=18, num_val=6)
    result = prepare(settings, [8], tmp_path / "out", silent)
    assert (result["num_train"], result["num_val"]) == (18, 6)
    headers = {
        split: open_headers(tmp_path / "out" / split / "8", result["sets"][f"{split}/8"])
        for split in ("train", "val")
    }
    assert all(h["source"].startswith("val/") for h in headers["val"])
    assert {h["source"] for h in headers["train"]} == {
        i.source_id for i in sources.scan(settings_of(folder)).items
    }
    # both folders may move
    moved = folder.rename(folder.parent / "raw2"), val_folder.rename(folder.parent / "val2")
    again = dataclasses.replace(settings, path=str(moved[0]), val_path=str(moved[1]))
    assert prepare(again, [8], tmp_path / "out", silent)["sets"] == result["sets"]


def open_headers(directory: pathlib.Path, facts: dict) -> list[dict]:
    return shards.open_set(directory, facts["shards"], num_images=facts["images"]).headers()


def test_folders_of_train_and_validation_must_agree(folder, val_folder):
    stated = {"val_path": str(val_folder), "num_train": 18, "num_val": 6}
    with pytest.raises(DataError, match=r"has 18 and data\.val_path 6 images; set data.num_train=18"):
        sources.scan(settings_of(folder, **{**stated, "num_val": 7}))
    (val_folder / "b").rename(val_folder / "c")
    with pytest.raises(DataError, match=r"no folder b in .*val.*; expected the same classes in both"):
        sources.scan(settings_of(folder, **stated))
    with pytest.raises(DataError, match=r"data\.val_path = .*nowhere.*: no such folder"):
        sources.scan(settings_of(folder, **{**stated, "val_path": "nowhere"}))


def test_class_without_readable_train_images_is_refused(folder, tmp_path):
    for path in folder.glob("größe/**/*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="class größe has no readable train image"):
        prepare(settings_of(folder, max_corrupt=5), [8], tmp_path / "out", silent)


# ------------------------------------------------------------------------------------------- mixture


@UNHURRIED
@hypothesis.given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 99))
def test_few_shot_takes_the_same_number_of_each_class(more, shots, seed):
    labels = np.array(more + [k for k in range(5) for _ in range(6)], np.int32)
    chosen = mixture.few_shot(labels, shots, seed)
    assert np.bincount(labels[chosen]).tolist() == [shots] * 5
    assert (np.diff(chosen) > 0).all()
    assert set(chosen) < set(mixture.few_shot(labels, shots + 1, seed))


def test_few_shot_depends_on_the_seed_and_refuses_small_classes():
    labels = np.repeat(np.arange(3), 50)
    assert not np.array_equal(mixture.few_shot(labels, 5, 0), mixture.few_shot(labels, 5, 1))
    assert np.array_equal(mixture.few_shot(labels, 0, 0), np.arange(150))
    with pytest.raises(DataError, match="class 1 has 2 images; expected at least 3"):
        mixture.few_shot(np.array([0, 0, 0, 1, 1]), 3, 0)


def test_mixture_is_real_images_then_whole_copies():
    real = noise(6, 4, 4, 1, seed=1), np.array([0, 0, 0, 1, 1, 1], np.int32)
    generated = noise(18, 4, 4, 1, seed=2), np.arange(18, dtype=np.int32) % 2
    pixels, labels = mixture.mix(real, generated, copies=2, copy_size=6, shots=2, seed=0)
    assert pixels.shape == (4 + 12, 4, 4, 1) and pixels.dtype == np.uint8 and labels.dtype == np.int32
    chosen = mixture.few_shot(real[1], 2, 0)
    assert np.array_equal(pixels, np.concatenate([real[0][chosen], generated[0][:12]]))
    assert np.array_equal(labels, np.concatenate([real[1][chosen], generated[1][:12]]))
    alone, _ = mixture.mix(None, generated, copies=1, copy_size=6, shots=0, seed=0)
    assert np.array_equal(alone, generated[0][:6])


def test_mixture_that_cannot_be_made_is_refused():
    small, large = (noise(6, 4, 4, 1), np.zeros(6, np.int32)), (noise(6, 5, 5, 1), np.zeros(6, np.int32))
    for parts, copies, message in (
        ((None, small), 2, "has 6 images; expected 12"),
        ((small, large), 1, "expected one shape"),
        ((None, None), 1, "nothing"),
    ):
        with pytest.raises(DataError, match=message):
            mixture.mix(*parts, copies=copies, copy_size=6, shots=0, seed=0)


# -------------------------------------------------------------------------------------------- stream


def stream_of(num_images: int, batch_size: int, seed: int = 0, **changes) -> stream.Stream:
    arrays = {"image": noise(num_images, 6, 5, 1), "label": np.arange(num_images, dtype=np.int32)}
    return stream.Stream(arrays, batch_size, seed, **changes)


@UNHURRIED
@hypothesis.given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**70))
def test_epoch_covers_every_image_once(num_images, batch_size, seed):
    batches = stream_of(num_images, batch_size, seed)
    steps = -(-3 * num_images // batch_size)
    seen = np.concatenate([batches.batch(step)["index"] for step in range(steps)])
    assert len(seen) == steps * batch_size
    for epoch in range(3):
        one = seen[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(one) == list(range(num_images))


def test_batch_is_a_function_of_seed_and_step():
    running = stream_of(50, 8, seed=3, max_shift=2)
    expected = [running.batch(step) for step in range(20)]
    started = stream_of(50, 8, seed=3, max_shift=2)
    for step in (19, 4, 5, 0):
        for name, array in started.batch(step).items():
            assert np.array_equal(array, expected[step][name]), name


def test_order_is_new_in_every_epoch_and_for_every_seed():
    orders = [
        stream_of(50, 50, seed).batch(epoch)["index"].tolist() for seed in (0, 1, 2) for epoch in (0, 1, 2)
    ]
    assert len({tuple(order) for order in orders}) == 9


def test_order_is_the_same_in_every_version():
    # update by hand, and only with a note in the change log: it changes every trained model
    assert stream_of(10, 10, seed=0).batch(0)["index"].tolist() == [8, 7, 4, 2, 6, 5, 9, 0, 1, 3]


def test_rows_belong_together():
    batches = stream_of(50, 16)
    batch = batches.batch(3)
    assert batch["index"].dtype == np.int64
    assert np.array_equal(batch["label"], batch["index"])
    assert np.array_equal(batch["image"], noise(50, 6, 5, 1)[batch["index"]])


@pytest.mark.parametrize("num_processes", [1, 2, 3, 6])
def test_slices_of_all_processes_make_up_the_global_batch(num_processes):
    whole = stream_of(20, 6, max_shift=2)
    parts = [whole.slice(p, num_processes) for p in range(num_processes)]
    for step in (0, 3, 7):
        for name, expected in whole.batch(step).items():
            got = np.concatenate([part.batch(step)[name] for part in parts])
            assert np.array_equal(got, expected), name


def test_translation_moves_within_bounds_and_repeats_the_border():
    column = np.arange(5, dtype=np.uint8)[None, None, :, None]
    arrays = {"image": np.repeat(np.repeat(column, 6, axis=1), 400, axis=0)}
    batch = stream.Stream(arrays, 400, 0, max_shift=2).batch(0)["image"]
    moved = {tuple(image[0, :, 0].tolist()) for image in batch}
    assert moved == {(2, 3, 4, 4, 4), (1, 2, 3, 4, 4), (0, 1, 2, 3, 4), (0, 0, 1, 2, 3), (0, 0, 0, 1, 2)}


def test_stream_without_images_or_with_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(DataError, match="the set has no images"):
        stream_of(0, 4)
    with pytest.raises(ConfigError, match="batch_size = 4 does not divide over 3 processes"):
        stream_of(8, 4).slice(0, 3)
    with pytest.raises(ValueError, match="arrays of one length"):
        stream.Stream({"image": noise(3, 2, 2, 1), "label": np.zeros(4)}, 2, 0)


def test_stream_keeps_a_training_step_waiting_for_less_than_a_millisecond():
    batches = stream.Stream(
        {"image": noise(1437, 8, 8, 1), "label": np.zeros(1437, np.int32)}, 128, 0, max_shift=1
    )
    batches.batch(0)
    start = time.process_time()  # of this process alone: the machine may be busy
    for step in range(1000):
        batches.batch(step)
    assert time.process_time() - start < 1.0
