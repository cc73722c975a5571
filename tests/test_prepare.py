"""scan, prepare and collect: blocks of images, each committed exactly once; facts, duplicates, labels."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

from synthaug import commit, manifest
from synthaug.data import blocks, images, labels, resize, shards, sources, writing
from synthaug.data.collect import balance, collect
from synthaug.data.duplicates import duplicates
from synthaug.data.facts import Facts, facts_path, join, read_facts, write_facts
from synthaug.data.prepare import prepare
from synthaug.data.recipe import recipe_of
from synthaug.errors import DataError, RunError
from synthaug.experiment import Data, MadeSet, parse
from synthaug.launch.plan import make_plan
from synthaug.manifest import ClassEntry, ClassTable, num_blocks
from synthaug.rundir import RunDir
from synthaug.stages import collect as collect_stage
from synthaug.stages import prepare as prepare_stage
from synthaug.stages import scan as scan_stage
from synthaug.stages import sets
from synthaug.train.clock import Clock
from tests import formats

DIGITS = Data(source="digits", num_classes=10, num_train=1442, num_val=355, channels=1, shard_size=500)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def save(path: pathlib.Path, pixels: np.ndarray, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(Image.fromarray(pixels), kind))


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Three classes of 7, 6 and 5 images, every size different."""
    root = tmp_path / "raw"
    for k, key in enumerate(["b", "a", "größe"]):
        for i in range(7 - k):
            kind = ("PNG", "JPEG", "BMP")[i % 3]
            save(root / key / f"{i}.{kind.lower()}", noise(12 + i, 10 + k, 3, seed=10 * k + i), kind)
    (root / "a" / "notes.txt").write_text("no image")
    return root


def settings_of(root: pathlib.Path, **changes) -> Data:
    stated = {"num_classes": 3, "num_train": 15, "num_val": 3, "shard_size": 4, "channels": 3, **changes}
    return Data(source="folder", path=str(root), **stated)


def parts_of(settings: Data, scanned: dict) -> list[tuple[str, range]]:
    """The parts of the plan: ranges of blocks of every set."""
    parts = []
    for name, found in scanned["sets"].items():
        total = num_blocks(found["images"], settings.shard_size)
        for first in range(0, 0 if "directory" in found else total, settings.shards_per_part):
            parts.append((name, range(first, min(first + settings.shards_per_part, total))))
    return parts


def run_all(settings: Data, sides: list[int], out: pathlib.Path, made: dict[str, MadeSet] | None = None):
    made = made or {}
    scanned = blocks.scan(settings, made, out)
    recipes = {}
    for name, part in parts_of(settings, scanned):
        recipes[name] = recipe_of(name, settings, made, sides, scanned)
        prepare(settings, recipes[name], out, part)
    return collect(settings, recipes, scanned, out)


def content(out: pathlib.Path) -> dict[str, str]:
    return {str(p.relative_to(out)): commit.sha256_file(p) for p in sorted(out.rglob("*.*"))}


def opened(out: pathlib.Path, result: dict, view: str) -> shards.ImageSet:
    facts = result["sets"][view]
    return shards.open_set(out / view, facts["shards"], num_images=facts["slots"], verify=True)


# ------------------------------------------------------------------------------------- what is written


def test_prepared_digits_are_the_source(tmp_path):
    result = run_all(DIGITS, [8, 4], tmp_path)
    assert result["num_train"] == 1442 and result["num_val"] == 355 and result["corrupt"] == {}
    assert result["sets"]["train/8"]["shards"] == 3 and result["sets"]["val/4"]["images"] == 355
    json.dumps(result)
    listing = sources.scan(DIGITS)
    reader = sources.Reader(listing)
    row_of = {name: row for row, name in enumerate(listing.source_id)}
    train = {side: opened(tmp_path, result, f"train/{side}") for side in (8, 4)}
    for i in (0, 700, 1441):
        header = train[8].header(i)
        assert np.array_equal(train[8].image(i), reader.read(row_of[header["source"]])[:, :, :1])
        assert np.array_equal(train[4].image(i), resize.shrink_area(train[8].image(i), 4))
        assert train[4].header(i)["source"] == header["source"] and header["index"] == i
    ids = [h["source"] for s in ("train", "val") for h in opened(tmp_path, result, f"{s}/8").headers()]
    assert sorted(ids) == sorted(listing.source_id)


def test_prepared_order_is_the_order_of_the_generated_set(tmp_path):
    result = run_all(DIGITS, [8], tmp_path)
    table = ClassTable.from_json((tmp_path / "classes.json").read_text())
    assert [dataclasses.asdict(entry) for entry in table.entries] == result["classes"]
    plan = manifest.plan_images(table, {str(k): [str(k)] for k in range(10)}, 2, 100)
    written = labels.read_labels(tmp_path / "train")
    assert written.dtype == np.int32 and np.array_equal(written, plan.class_index[:1442])
    assert np.array_equal(opened(tmp_path, result, "train/8").labels, written)


@pytest.mark.parametrize("name", list(resize.FILTERS))
def test_every_view_is_made_from_the_source_file(folder, tmp_path, name):
    settings = settings_of(folder, keep_original=True, resize=name)
    result = run_all(settings, [8, 5], tmp_path / "out")
    assert result["resize"] == name and result["decoder"] == "pillow"
    original = opened(tmp_path / "out", result, "train/original")
    stored = original.encoded(range(len(original)))
    for i, header in enumerate(original.headers()):
        data = (folder / header["source"]).read_bytes()
        assert stored[i] == data and header["format"] == pathlib.Path(header["source"]).suffix[1:].upper()
        pixels = images.decode(data, 3, "pillow")
        assert (header["height"], header["width"]) == pixels.shape[:2]
        assert np.array_equal(original.image(i), pixels)
        for side in (8, 5):
            small = opened(tmp_path / "out", result, f"train/{side}")
            assert np.array_equal(small.image(i), resize.FILTERS[name](pixels, side))
    assert result["enlarged"] == {"8": 0, "5": 0}


def test_another_filter_is_another_set(folder, tmp_path):
    one = run_all(settings_of(folder), [8], tmp_path / "out")
    other = run_all(settings_of(folder, resize="adm"), [8], tmp_path / "other")
    made_by = [opened(tmp_path / d, r, "train/8").shards[0].settings for d, r in
               (("out", one), ("other", other))]  # fmt: skip
    assert made_by[0] != made_by[1]
    with pytest.raises(RunError, match="made with settings"):
        run_all(settings_of(folder, resize="adm"), [8], tmp_path / "out")


def test_enlarged_images_and_other_files_are_counted(folder, tmp_path):
    result = run_all(settings_of(folder), [8, 11, 16], tmp_path / "out")
    assert result["enlarged"] == {"8": 0, "11": 7, "16": 18}
    assert result["other_files"] == {"count": 1, "first": ["a/notes.txt"]}


# ------------------------------------------------------------------------------------- exactly once


def test_preparing_again_changes_nothing(folder, tmp_path):
    out = tmp_path / "out"
    first = run_all(settings_of(folder), [8, 16], out)
    before = {p: p.stat().st_ino for p in out.rglob("*") if "listing" not in p.parts}
    assert run_all(settings_of(folder), [8, 16], out) == first
    assert {p: p.stat().st_ino for p in out.rglob("*") if "listing" not in p.parts} == before


def test_committed_blocks_are_not_read_again(folder, tmp_path):
    out, settings = tmp_path / "out", settings_of(folder, shards_per_part=2)
    whole = run_all(settings, [8], out)
    for path in folder.rglob("*.*"):
        path.unlink()  # nothing could be read now
    scanned = {"sets": {n: {"images": k, "sha256": ""} for n, k in (("train", 15), ("val", 3))}}
    scanned["sets"]["train"]["sha256"] = blocks_digest(out, settings, whole)
    recipe = recipe_of("train", settings, {}, [8], scanned)
    assert prepare(settings, recipe, out, range(2)) == {"images": 8, "left_out": {}}
    (out / "train" / "8" / "shard-00001.json").unlink()
    with pytest.raises(RunError, match="bring it back"):
        prepare(settings, recipe, out, range(2))


def blocks_digest(out: pathlib.Path, settings: Data, result: dict) -> str:
    """The hash that scan gave the order of the train images, from what it left."""
    ids, classes = [], []
    for path in sorted((out / "train" / "listing").iterdir()):
        part = blocks.read_listing(path)
        ids += part.source_id
        classes += part.class_index.tolist()
    keys = "\0".join(entry["key"] for entry in result["classes"])
    text = f"{keys}\n{chr(0).join(ids)}\n".encode() + np.array(classes, "<i4").tobytes()
    return hashlib.sha256(text).hexdigest()


def test_every_order_of_the_parts_gives_the_same(folder, tmp_path):
    settings = settings_of(folder)
    whole = run_all(settings, [8, 4], tmp_path / "whole")
    out = tmp_path / "out"
    scanned = blocks.scan(settings, {}, out)
    recipes = {name: recipe_of(name, settings, {}, [8, 4], scanned) for name in ("train", "val")}
    for name, part in reversed(parts_of(settings, scanned)):
        prepare(settings, recipes[name], out, part, attempt=3)
    assert collect(settings, recipes, scanned, out) == whole


CHILD = """if True:
    import os, pathlib, sys
    from synthaug.data import blocks
    from synthaug.data.prepare import prepare
    from synthaug.data.recipe import recipe_of
    from synthaug.experiment import Data
    folder, out = sys.argv[1:3]
    settings = Data(source="folder", path=folder, num_classes=3, num_train=15, num_val=3, shard_size=8,
                    channels=3, max_corrupt=1, shards_per_part=2)
    scanned = blocks.scan(settings, {}, pathlib.Path(out))
    print("ready", flush=True)
    for name, part in (("train", range(0, 2)), ("val", range(0, 1))):
        prepare(settings, recipe_of(name, settings, {}, [8, 64], scanned), pathlib.Path(out), part)
"""


def test_kill_at_any_moment_and_two_at_once_give_the_same(folder, tmp_path):
    (folder / "a" / "0.png").write_bytes(b"torn")
    settings = settings_of(folder, shard_size=8, max_corrupt=1, shards_per_part=2)
    whole = run_all(settings, [8, 64], tmp_path / "whole")
    out, random = tmp_path / "out", np.random.default_rng(0)
    command = [sys.executable, "-c", CHILD, str(folder), str(out)]
    killed = 0
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            child.stdout.read(6)
            time.sleep(random.uniform(0, 0.06))
            child.kill()
        killed += child.returncode == -signal.SIGKILL
    assert killed
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [child.wait() for child in both] == [0, 0]
    assert run_all(settings, [8, 64], out) == whole
    made = {k: v for k, v in content(out).items() if not k.endswith(".tmp")}
    assert made == content(tmp_path / "whole")


def test_stop_in_a_block_leaves_nothing_of_it(folder, tmp_path):
    out, settings = tmp_path / "out", settings_of(folder)
    scanned = blocks.scan(settings, {}, out)
    recipe = recipe_of("train", settings, {}, [8], scanned)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(settings, recipe, out, range(1), progress=stop)
    assert not list((out / "train" / "8").iterdir()) and not (out / "train" / "facts").exists()
    assert prepare(settings, recipe, out, range(1))["images"] == 4


def test_block_is_committed_while_the_next_is_made(folder, tmp_path, monkeypatch):
    settings, begun = settings_of(folder, shards_per_part=4), threading.Event()
    add, finish = writing.ShardWriter.add, writing.ShardWriter.commit

    def added(writer, *args):
        if writer.index == 1:
            begun.set()
        add(writer, *args)

    def committed(writer, *args):
        assert writer.index or begun.wait(timeout=60)
        return finish(writer, *args)

    whole = run_all(settings, [8], tmp_path / "whole")
    monkeypatch.setattr(writing.ShardWriter, "add", added)
    monkeypatch.setattr(writing.ShardWriter, "commit", committed)
    assert run_all(settings, [8], tmp_path / "out") == whole and begun.is_set()
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_commit_that_fails_stops_the_job_and_leaves_only_whole_blocks(folder, tmp_path, monkeypatch, failing):
    settings, out, finish = (
        settings_of(folder, shards_per_part=4),
        tmp_path / "out",
        writing.ShardWriter.commit,
    )

    def committed(writer, *args):
        if writer.index == failing:
            raise RunError("disk full")
        return finish(writer, *args)

    scanned = blocks.scan(settings, {}, out)
    recipe = recipe_of("train", settings, {}, [8], scanned)
    monkeypatch.setattr(writing.ShardWriter, "commit", committed)
    with pytest.raises(RunError, match="disk full"):
        prepare(settings, recipe, out, range(4))
    names = {path.name for path in (out / "train").rglob("*") if path.is_file() and path.suffix != ".parquet"}
    there = [f"shard-{i:05}{end}" for i in range(failing) for end in (".arrayrecord", ".json", ".npz")]
    assert names == set(there)
    monkeypatch.undo()
    assert prepare(settings, recipe, out, range(4)) == {"images": 15, "left_out": {}}


def test_progress_counts_up_to_all_images(folder, tmp_path):
    settings, out, told = settings_of(folder, shards_per_part=4), tmp_path / "out", []
    scanned = blocks.scan(settings, {}, out)
    recipe = recipe_of("train", settings, {}, [8], scanned)
    for _ in range(2):  # made, and found there
        prepare(settings, recipe, out, range(4), progress=lambda *counts: told.append(counts))
        assert told[-1] == (15, 15) and told == sorted(told)
        told.clear()


# ------------------------------------------------------------------------------------- unreadable images


def test_unreadable_images_are_named_or_left_out(folder, tmp_path):
    whole = (folder / "b" / "4.jpeg").read_bytes()
    (folder / "b" / "4.jpeg").write_bytes(whole[: len(whole) // 2])  # of the validation split
    (folder / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"max_corrupt = 0: .*0\.png: cannot be decoded .*max_corrupt=1") as e:
        run_all(settings_of(folder), [8], tmp_path / "a")
    assert "\n" not in str(e.value) and not list((tmp_path / "a").rglob("*.arrayrecord"))
    # each job is within the limit, all together are not
    with pytest.raises(DataError, match=r"2 images are unreadable, .* = 1: a/0\.png.*; b/4\.jpeg"):
        run_all(settings_of(folder, max_corrupt=1), [8], tmp_path / "b")
    result = run_all(settings_of(folder, max_corrupt=2), [8], tmp_path / "c")
    assert sorted(result["corrupt"]) == ["a/0.png", "b/4.jpeg"]
    counts = {c["key"]: (c["train"], c["val"]) for c in result["classes"]}
    assert counts == {"a": (4, 1), "b": (6, 0), "größe": (4, 1)}
    assert result["num_train"] == 14 and result["sets"]["train/8"]["slots"] == 15
    assert result["balance"]["train"] == {"min": 4, "median": 4.0, "max": 6, "below": {}}
    done = opened(tmp_path / "c", result, "train/8")
    # numbers are places in the order over all files: the lost one is a hole, named in its marker
    lost = [s for s in done.shards if s.left_out]
    assert [list(s.left_out) for s in lost] == [["a/0.png"]] and lost[0].count == 3
    numbers = [header["index"] for header in done.headers()]
    assert len(numbers) == len(done) == 14 and set(range(15)) - set(numbers) < set(
        range(lost[0].first, lost[0].end)
    )
    assert [done.header(i)["index"] for i in range(14)] == numbers


def test_block_of_unreadable_images_alone_is_an_empty_shard(folder, tmp_path):
    (folder / "a" / "0.png").write_bytes(b"no image")
    settings = settings_of(folder, max_corrupt=1, shard_size=1)
    first = run_all(settings, [8], tmp_path / "out")
    assert first["sets"]["train/8"] | {"sha256": ""} == {
        "shards": 15, "images": 14, "slots": 15, "sha256": ""}  # fmt: skip
    done = opened(tmp_path / "out", first, "train/8")
    assert sorted(s.count for s in done.shards) == [0] + [1] * 14
    assert [h["class_index"] for h in done.headers()] == done.load()[1].tolist()
    assert run_all(settings, [8], tmp_path / "out") == first


def test_decompression_bomb_is_named_and_left_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 500 * 500)
    Image.new("1", (600, 600)).save(folder / "a" / "0.png")
    for view in ({}, {"keep_original": True}):
        settings = settings_of(folder, max_corrupt=1, **view)
        result = run_all(settings, [] if view else [8], tmp_path / f"out{len(view)}")
        assert result["corrupt"] == {"a/0.png": "is 600 x 600 px; expected at most 250000 pixels in all"}


def test_class_without_readable_train_images_is_refused(folder, tmp_path):
    for path in (folder / "größe").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="class größe has no readable train image"):
        run_all(settings_of(folder, max_corrupt=5), [8], tmp_path / "out")


def test_altered_and_missing_facts_are_named(folder, tmp_path):
    settings, out = settings_of(folder), tmp_path / "out"
    run_all(settings, [8], out)
    path = facts_path(out / "train", 2)
    whole = path.read_bytes()
    for broken in (whole[:-50], whole.replace(b"\0", b"\1"), b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"facts/shard-00002\.npz: was altered") as error:
            run_all(settings, [8], out)
        assert "\n" not in str(error.value)
    path.unlink()
    run_all(settings, [8], out)  # prepare writes it again
    assert path.read_bytes() == whole


def test_missing_shards_are_named_by_collect(folder, tmp_path):
    settings, out = settings_of(folder), tmp_path / "out"
    scanned = blocks.scan(settings, {}, out)
    recipes = {name: recipe_of(name, settings, {}, [8], scanned) for name in ("train", "val")}
    for block in (0, 1, 3):
        prepare(settings, recipes["train"], out, range(block, block + 1))
    with pytest.raises(DataError, match="1 of 4 shards are missing: shards 2; images 8-11"):
        collect(settings, recipes, scanned, out)


# ------------------------------------------------------------------------------------- what is found


def test_duplicates_are_reported_by_hash(folder, tmp_path):
    copy = (folder / "b" / "0.png").read_bytes()
    (folder / "b" / "1.jpeg").write_bytes(copy)
    (folder / "größe" / "2.bmp").write_bytes(copy)  # another class
    (folder / "a" / "4.jpeg").write_bytes((folder / "a" / "3.png").read_bytes())  # one of them is validation
    found = run_all(settings_of(folder), [8], tmp_path / "out")["duplicates"]
    assert found["train"]["images"] == 2 and found["train"]["groups"] == 1
    assert found["train"]["other_class"] == 1
    assert sorted(found["train"]["first"][0]) == ["b/0.png", "b/1.jpeg", "größe/2.bmp"]
    assert found["val"] == {"images": 0, "groups": 0, "other_class": 0, "first": []}
    assert found["between"] == {
        "images": 1, "groups": 1, "other_class": 0, "first": [["a/3.png", "a/4.jpeg"]]}  # fmt: skip


def facts_of(values: list[int], prefix: str) -> Facts:
    sha256 = np.stack([np.frombuffer(hashlib.sha256(bytes([v])).digest(), np.uint8) for v in values])
    zeros = np.zeros(len(values), np.int32)
    return Facts(tuple(f"{prefix}{i}" for i in range(len(values))), zeros, sha256, zeros, zeros, zeros)


def test_numbers_of_duplicates_are_those_of_a_plain_count():
    rng = np.random.default_rng(0)
    train, val = rng.integers(0, 200, 300).tolist(), rng.integers(0, 200, 80).tolist()
    found = duplicates(facts_of(train, "t"), facts_of(val, "v"))
    assert found["train"]["images"] == 300 - len(set(train))
    assert found["val"]["images"] == 80 - len(set(val))
    assert found["between"]["images"] == sum(v in train for v in val)
    assert found["between"]["groups"] == len(set(train) & set(val))
    assert len(found["train"]["first"]) == 20
    for group in found["between"]["first"]:
        assert len({(train if n[0] == "t" else val)[int(n[1:])] for n in group}) == 1


def test_facts_survive_their_file(tmp_path):
    facts = facts_of([1, 2, 3], "ü\n ")
    assert write_facts(facts, tmp_path / "a.npz") is True and write_facts(facts, tmp_path / "a.npz") is False
    there = join([read_facts(tmp_path / "a.npz")] * 2)
    assert there.source == facts.source * 2 and np.array_equal(there.sha256[3:], facts.sha256)
    names = ("class_index", "sha256", "height", "width", "format")
    empty = Facts((), *(getattr(facts, n)[:0] for n in names))
    write_facts(empty, tmp_path / "b.npz")
    assert len(join([read_facts(tmp_path / "b.npz"), there])) == 6


def test_classes_far_below_the_median_are_named():
    table = ClassTable(tuple(ClassEntry(k, k, 1, 1) for k in "abcd"))
    even, uneven = (np.repeat(np.arange(4), counts) for counts in ([100, 90, 89, 110], [100, 90, 80, 110]))
    assert balance(table, even) == {"min": 89, "median": 95.0, "max": 110, "below": {}}
    assert balance(table, uneven)["below"] == {"c": 80}
    assert balance(table, np.array([0, 0, 1, 2]))["below"] == {"d": 0}


# ------------------------------------------------------------------------------------- sets made elsewhere


@pytest.fixture
def made(folder, tmp_path) -> pathlib.Path:
    root = tmp_path / "made"
    for k, key in enumerate(["a", "b", "größe"]):
        for i in range(4):
            save(root / key / f"{i}.png", noise(8, 8, 3, seed=100 + 10 * k + i))
    return root


def made_of(path: pathlib.Path, **changes) -> dict[str, MadeSet]:
    return {"biggan": MadeSet(**{"source": "folder", "path": str(path), "num_images": 12, "resolution": 8,
                                 **changes})}  # fmt: skip


def test_set_made_elsewhere_becomes_shards(folder, made, tmp_path):
    result = run_all(settings_of(folder), [8], tmp_path / "out", made_of(made))
    done = opened(tmp_path / "out", result, "biggan/8")
    assert result["sets"]["biggan/8"]["images"] == 12 and result["num_train"] == 15
    assert labels.read_labels(tmp_path / "out" / "biggan").tolist() == [0, 1, 2] * 4 == done.labels.tolist()
    for i, header in enumerate(done.headers()):
        assert {"class_key", "class_index", "source"} < header.keys() and "split" not in header
        assert header["class_key"] == header["source"].split("/")[0]
        assert np.array_equal(done.image(i), np.asarray(Image.open(made / header["source"])))


def test_set_of_another_size_is_refused_or_resized(folder, made, tmp_path):
    with pytest.raises(DataError, match=r"sets\.biggan: .*png is 8 x 8 px; expected 4 x 4; set .*resize"):
        run_all(settings_of(folder), [8], tmp_path / "out", made_of(made, resolution=4))
    result = run_all(settings_of(folder), [8], tmp_path / "b", made_of(made, resolution=4, resize="adm"))
    assert opened(tmp_path / "b", result, "biggan/4").image(0).shape == (4, 4, 3)


def test_unreadable_images_of_made_sets_count_too(folder, made, tmp_path):
    (made / "a" / "0.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"1 images are unreadable"):
        run_all(settings_of(folder), [8], tmp_path / "out", made_of(made))
    result = run_all(settings_of(folder, max_corrupt=1), [8], tmp_path / "b", made_of(made))
    assert list(result["corrupt"]) == ["biggan: a/0.png"] and result["sets"]["biggan/8"]["images"] == 11


def write_own(directory: pathlib.Path, order: str = "abg", side: int = 8) -> None:
    """A generated set as synthaug writes it."""
    keys = {"a": "a", "b": "b", "g": "größe"}
    for shard in range(3):
        records = [
            ({"class_key": keys[order[i]], "class_index": i, "prompt": "x"}, noise(side, side, 3, seed=i))
            for i in range(3)
        ]
        shards.write_shard(directory, shard, 3 * shard, records, settings="s", weights="w", attempt=0)


def test_manifest_is_used_where_it_is(folder, tmp_path):
    write_own(tmp_path / "own")
    stated = made_of(tmp_path / "own", source="manifest", num_images=9)
    result = run_all(settings_of(folder), [8], tmp_path / "out", stated)
    facts = result["sets"]["biggan/8"]
    assert facts["directory"] == str(tmp_path / "own") and (facts["shards"], facts["images"]) == (3, 9)
    assert not list((tmp_path / "out" / "biggan").rglob("*.arrayrecord"))
    assert labels.read_labels(tmp_path / "out" / "biggan").tolist() == [0, 1, 2] * 3


def test_manifest_that_does_not_fit_is_refused(folder, tmp_path):
    write_own(tmp_path / "own", order="bag")
    stated = made_of(tmp_path / "own", source="manifest", num_images=9)
    with pytest.raises(DataError, match=r"sets\.biggan: image 0 .* has class 0 for b, 1 in this study"):
        run_all(settings_of(folder), [8], tmp_path / "out", stated)
    write_own(tmp_path / "large", side=16)
    stated = made_of(tmp_path / "large", source="manifest", num_images=9)
    with pytest.raises(DataError, match=r"resolution = 8, but .* holds images of 16 x 16 px; set .*=16"):
        run_all(settings_of(folder), [8], tmp_path / "out", stated)


# ------------------------------------------------------------------------------------- memory


def _peak(folder: str, out: str, count: int, queue) -> None:
    import resource

    settings = Data(source="folder", path=folder, num_classes=2, num_train=count, num_val=count // 4,
                    shard_size=count, channels=3)  # fmt: skip
    scanned = blocks.scan(settings, {}, pathlib.Path(out))
    prepare(settings, recipe_of("train", settings, {}, [512], scanned), pathlib.Path(out), range(1))
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def test_memory_does_not_grow_with_the_block(tmp_path):
    """A block of 160 images is 120 MB of pixels at this size; one of 1,600 would be 1.2 GB."""
    for i in range(200):
        save(tmp_path / "raw" / "ab"[i % 2] / f"{i:04}.jpeg", noise(600, 600, 3, seed=i % 7), "JPEG")
    context, peaks = multiprocessing.get_context("spawn"), []
    for count in (16, 160):
        root = tmp_path / f"raw{count}"
        for key in "ab":
            (root / key).mkdir(parents=True)
            for path in sorted((tmp_path / "raw" / key).iterdir())[: count * 5 // 8]:
                os.link(path, root / key / path.name)
        queue = context.Queue()
        child = context.Process(target=_peak, args=(str(root), str(tmp_path / f"out{count}"), count, queue))
        child.start()
        peaks.append(queue.get(timeout=100))
        child.join()
    assert peaks[1] - peaks[0] < 40_000, peaks  # kB


# ------------------------------------------------------------------------------------- the stages


def stages_of(root: pathlib.Path, tree: dict) -> tuple:
    """Runs scan, all prepare parts and collect as `synthaug run` does; returns (run, experiment)."""
    settings = parse({"name": "r", **tree}, "test")
    run = RunDir(root / "r")
    for stage in make_plan(settings).stages[:3]:
        for part, one in enumerate(stage.parts):
            job = types.SimpleNamespace(
                experiment=settings,
                run=run,
                args=one.args,
                attempt=1,
                progress=lambda done, total, unit: None,
                check_stop=lambda: None,
                say=lambda text: None,
                result=run.result,
                clock=Clock(),
            )
            run.finish(stage.name, part, {"result": VERBS[stage.verb](job)})
    return run, settings


VERBS = {"scan": scan_stage.run, "prepare": prepare_stage.run, "collect": collect_stage.run}


def data_tree(folder: pathlib.Path, **changes) -> dict:
    stated = dataclasses.asdict(settings_of(folder, **changes))
    return {
        "data": {k: v for k, v in stated.items() if v not in ("", ())} | {"resolutions": [8]},
        "score": {"splits": 2, "neighbours": 1, "kid_subset_size": 2},
        "classify": {"mixes": ["real"]},
    }


def test_stages_read_what_the_plan_s_parts_made(folder, made, tmp_path, monkeypatch):
    """Over the parts of launch.plan, a set made elsewhere and a manifest among them."""
    write_own(tmp_path / "own")
    made_sets = {
        "biggan": {"source": "folder", "path": str(made), "num_images": 12, "resolution": 8},
        "own": {"source": "manifest", "path": str(tmp_path / "own"), "num_images": 9, "resolution": 8},
    }
    run, _ = stages_of(
        tmp_path, {**data_tree(folder, keep_original=True, shards_per_part=2), "sets": made_sets}
    )
    assert [e.train for e in sets.class_table(run).entries] == [5, 6, 4]
    for name, count in (("train", 15), ("val", 3), ("biggan", 12), ("own", 9)):
        pixels, classes = sets.images_of(run, name, 8)
        assert pixels.shape == (count, 8, 8, 3) and np.array_equal(classes, sets.labels(run, name))
        assert np.array_equal(classes, sets.open_set_of(run, name, 8).labels)
    files, classes = sets.images_of(run, "train", 0)
    assert isinstance(files, shards.ImageSet) and len(files) == len(classes) == 15
    assert np.array_equal(sets.load_real(run, "train", 8)[1], classes)
    numbers = np.array([7, 0, 7, 3])
    kept = sets.take_real(run, "train", 8, numbers)
    monkeypatch.setattr(sets, "KEEP_BYTES", 1)
    read = sets.take_real(run, "train", 8, numbers)
    assert np.array_equal(kept[0], read[0]) and np.array_equal(kept[1], read[1])
    assert isinstance(sets.images_of(run, "biggan", 8)[0], shards.ImageSet)
    with pytest.raises(DataError, match=r"no set train at 64; expected one of biggan/8, own/8, train/8"):
        sets.open_set_of(run, "train", 64)


def test_original_files_alone_are_still_decoded_to_check_them(folder, tmp_path):
    settings = settings_of(folder, keep_original=True, max_corrupt=1)
    whole = (folder / "b" / "1.jpeg").read_bytes()
    (folder / "b" / "1.jpeg").write_bytes(whole[: len(whole) // 2])
    result = run_all(settings, [], tmp_path / "out")
    assert list(result["corrupt"]) == ["b/1.jpeg"] and list(result["sets"]) == [
        "train/original",
        "val/original",
    ]
    header = opened(tmp_path / "out", result, "train/original").header(0)
    with Image.open(folder / header["source"]) as image:
        assert (header["width"], header["height"]) == image.size


# ------------------------------------------------------------------------------------- the real formats

KEYS = ["n01440764", "n02100735", "n02105855"]


def test_prepared_images_do_not_depend_on_the_format(tmp_path):
    """The same files as ILSVRC's tars, WebDataset, parquet and folders; an npz as a set made elsewhere."""
    train, val = formats.pictures(KEYS, 5), formats.pictures(KEYS, 2, seed=1)
    formats.write_ilsvrc(tmp_path / "ilsvrc", train, val)
    for split, pictures in (("train", train), ("val", val)):
        formats.write_folder(tmp_path / "folder" / split, pictures)
        formats.write_webdataset(tmp_path / "webdataset" / split, pictures, 2, KEYS, "wnid")
        formats.write_parquet(tmp_path / "parquet" / split, pictures, 2, KEYS)
    pixels = formats.write_npz(tmp_path / "made.npz", train, KEYS, side=16)
    (tmp_path / "keys").write_text("\n".join(KEYS))
    meaning = str(tmp_path / "keys")  # parquet's own table need not be that of the npz
    made = {
        "other": MadeSet(source="npz", path=str(pixels), class_list=meaning, num_images=15, resolution=16)
    }
    found = {}
    for name in ("folder", "ilsvrc", "webdataset", "parquet"):
        places = {"path": str(tmp_path / name / "train"), "val_path": str(tmp_path / name / "val")}
        if name == "ilsvrc":
            places = {k: str(tmp_path / name / f"ILSVRC2012_img_{s}.tar") for k, s in
                      (("path", "train"), ("val_path", "val"))}  # fmt: skip
            places["val_labels"] = str(tmp_path / name / "devkit" / "ILSVRC2012_validation_ground_truth.txt")
        settings = Data(source=name, num_classes=3, num_train=15, num_val=6, shard_size=4, keep_original=True,
                        **places)  # fmt: skip
        result = run_all(settings, [16], tmp_path / "out" / name, made)
        for view in ("train/16", "val/16", "train/original"):
            done = opened(tmp_path / "out" / name, result, view)
            content_of = done.encoded(range(len(done)))
            keys = [header["class_key"] for header in done.headers()]
            found.setdefault(view, []).append(sorted(zip(keys, content_of, strict=True)))
        assert result["sets"]["other/16"]["images"] == 15
    for view, each in found.items():
        assert each.count(each[0]) == 4, view
