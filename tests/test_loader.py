"""The loader: pure function of (seed, step), mixing by concatenation and by share, repeats, hosts."""

from __future__ import annotations

import io
import math
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from synthaug.data import record, shards
from synthaug.data.loader import Loader, Piece, eval_images
from synthaug.data.mixture import Rows
from synthaug.data.resize import shrink_area
from synthaug.data.stream import Stream
from synthaug.data.writing import ShardWriter
from synthaug.errors import ConfigError, DataError
from synthaug.experiment import Augment, View

HURRIED = hypothesis.settings(max_examples=60, deadline=None)
FULL = View(size=24, crop="random_resized")
RECIPE = Augment(flip=True, color_jitter=0.3, rand_augment=2, magnitude=9, magnitude_std=0.5, dialect="timm")


def noise(count: int, height: int = 8, width: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def piece(count: int, *, generated: bool = False, seed: int = 0, **changes) -> Piece:
    return Piece(noise(count, seed=seed, **changes), np.arange(count, dtype=np.int32) % 7, None, generated)


def loader(*pieces: Piece, view: View = View(), augment: Augment = Augment(), **changes) -> Loader:  # noqa: B008
    return Loader(pieces, view, augment, **{"batch_size": 6, "seed": 3, **changes})


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> shards.ImageSet:
    """12 files as in ImageNet: JPEGs of several sizes, one grey, one CMYK, a PNG in disguise."""
    folder = tmp_path_factory.mktemp("original")
    for shard in range(2):
        with ShardWriter(folder, shard, settings="", weights="", attempt=0) as writer:
            for i in range(6 * shard, 6 * shard + 6):
                small = Image.fromarray(noise(1, 6, 8, 3, seed=i)[0])
                image = small.resize((60 + 7 * i, 90 - 5 * i), Image.Resampling.BICUBIC)
                kind = {3: "L", 4: "CMYK"}.get(i, "RGB")
                file = io.BytesIO()
                image.convert(kind).save(file, "PNG" if i == 5 else "JPEG")
                facts = {"class_key": "a", "class_index": i % 3, "format": "JPEG", "channels": 3}
                data = file.getvalue()
                writer.add(record.pack_file(writer.header(i, facts), data), data)
            writer.commit(6 * shard)
    return shards.open_set(folder, 2, num_images=12)


# -------------------------------------------------------------------------------------------- order


@HURRIED
@hypothesis.given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 50), st.integers(0, 99)
)
def test_every_image_of_every_piece_stands_once_in_an_epoch(sizes, batch_size, seed):
    rows = Rows([(n, i % 2 == 1) for i, n in enumerate(sizes)], batch_size, seed, share=0, repeats=1)
    total = sum(sizes)
    seen = np.concatenate([rows[step] for step in range(-(-2 * total // batch_size))])
    for epoch in range(2):
        assert sorted(seen[epoch * total : (epoch + 1) * total]) == list(range(total))


@HURRIED
@hypothesis.given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 40),
    st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.7, 1.0]),
)
def test_share_of_generated_images_is_exact(real, made, batch_size, share):
    rows = Rows([(real, False), (made, True)], batch_size, 5, share=share, repeats=1)
    steps = 20
    batches = [rows[step] for step in range(steps)]
    counts = [int((batch >= real).sum()) for batch in batches]
    assert all(len(batch) == batch_size for batch in batches)
    assert set(counts) <= {math.floor(share * batch_size + 1e-9), math.ceil(share * batch_size - 1e-9)}
    assert abs(sum(counts) - share * batch_size * steps) < 1
    if abs(share * batch_size - round(share * batch_size)) < 1e-9:
        assert set(counts) == {round(share * batch_size)}
    seen = np.concatenate(batches)
    for part in (
        np.bincount(seen, minlength=real + made)[:real],
        np.bincount(seen, minlength=real + made)[real:],
    ):
        assert part.max() - part.min() <= 1  # both parts in whole epochs of their own


def test_shares_stand_in_random_places():
    rows = Rows([(40, False), (40, True)], 20, 0, share=0.5, repeats=1)
    places = np.mean([rows[step] >= 40 for step in range(400)], axis=0)
    assert abs(places - 0.5).max() < 0.12


def test_repeated_augmentation_shows_each_image_several_times_differently():
    batches = loader(piece(30), augment=Augment(repeats=3, max_shift=3), batch_size=15)
    index = np.concatenate([batches.batch(step)["index"] for step in range(2)])
    assert np.array_equal(index, np.repeat(index[::3], 3)) and len(set(index)) == 10
    first = batches.batch(0)["image"]
    assert any(not np.array_equal(first[i], first[i + 1]) for i in (0, 3, 6))
    later = np.concatenate([batches.batch(step)["index"] for step in range(2, 4)])
    assert set(later) != set(index)  # a new third in the next epoch
    uneven = Rows([(10, False)], 10, 0, share=0, repeats=3)[0]
    assert np.unique(uneven, return_counts=True)[1].tolist() in (
        [3, 3, 3, 1],
        [3, 3, 1, 3],
        [3, 1, 3, 3],
        [1, 3, 3, 3],
    )


def test_a_subset_and_its_labels():
    images_, labels = noise(20), np.arange(20, dtype=np.int32)
    chosen = np.array([3, 5, 5, 19])
    batch = loader(Piece(images_, labels, chosen), batch_size=8).batch(4)
    assert sorted(batch["index"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(batch["label"], chosen[batch["index"]])
    assert np.array_equal(batch["image"], images_[batch["label"]])
    assert batch["label"].dtype == np.int32 and batch["index"].dtype == np.int64


# ------------------------------------------------------------------------------- function of (seed, step)


def test_batches_are_those_of_the_stream():
    """The digits of jobs/digits.yaml were trained by it."""
    one = piece(50)
    old = Stream({"image": one.images, "label": one.labels}, 8, 4, max_shift=2)
    new = loader(one, augment=Augment(max_shift=2), batch_size=8, seed=4)
    for step in (0, 6, 20):
        assert equal(new.batch(step), old.batch(step))


@pytest.mark.parametrize("decoder", ["pillow", "tensorflow"])
def test_batch_is_a_function_of_seed_and_step_on_any_number_of_hosts(stored, decoder):
    pieces = Piece(stored, stored.labels), piece(9, generated=True, height=40, width=40, channels=3)
    settings = {"view": FULL, "augment": RECIPE, "share": 0.5, "decoder": decoder}
    whole = loader(*pieces, **settings)
    expected = {step: whole.batch(step) for step in (0, 5)}
    assert expected[0]["image"].shape == (6, 24, 24, 3) and expected[0]["image"].dtype == np.uint8
    again = loader(*pieces, **settings)
    for step in (5, 0):
        assert equal(again.batch(step), expected[step])
        for hosts in (2, 3):
            parts = [loader(*pieces, **settings, process_index=p, num_processes=hosts) for p in range(hosts)]
            batches = [part.batch(step) for part in parts]
            assert equal({k: np.concatenate([b[k] for b in batches]) for k in batches[0]}, expected[step])
    assert not equal(whole.batch(6), expected[5])
    assert not np.array_equal(loader(*pieces, **settings, seed=4).batch(0)["image"], expected[0]["image"])


def test_iterate_starts_anywhere(stored):
    batches = loader(Piece(stored, stored.labels), view=FULL)
    made = batches.iterate(7)
    for step in (7, 8, 9):
        assert equal(next(made), batches.batch(step))


def test_worker_processes_make_the_same_batches(stored):
    settings = {"view": FULL, "augment": Augment(flip=True)}
    pieces = Piece(stored, stored.labels), piece(5, height=30, width=30, channels=3)
    alone, made = loader(*pieces, **settings), loader(*pieces, **settings, workers=2).iterate(3)
    for step in (3, 4, 5, 6):
        assert equal(next(made), alone.batch(step))


# -------------------------------------------------------------------------------------------- pixels


def test_half_of_the_images_are_mirrored():
    one = piece(200)
    batch = loader(one, augment=Augment(flip=True), batch_size=200).batch(1)
    original = one.images[batch["index"]]
    kept = (batch["image"] == original).all((1, 2, 3))
    turned = (batch["image"] == original[:, :, ::-1]).all((1, 2, 3))
    assert (kept ^ turned).all() and 70 < turned.sum() < 130
    assert np.array_equal(one.images, noise(200))  # the set itself is as it was


def test_every_odd_file_is_seen(stored):
    for decoder in ("pillow", "tensorflow"):
        batch = loader(Piece(stored, stored.labels), view=FULL, batch_size=12, decoder=decoder).batch(0)
        assert sorted(batch["index"]) == list(range(12))
        for i, image in zip(batch["index"], batch["image"], strict=True):
            whole = stored.image(i)
            assert abs(image.mean((0, 1)) - whole.mean((0, 1))).max() < 45, i  # a part of the same picture
        grey = batch["image"][list(batch["index"]).index(3)].astype(int)
        assert abs(grey - grey[:, :, :1]).max() <= 1


def test_decoders_see_nearly_the_same(stored):
    seen = [
        loader(
            Piece(stored, stored.labels), view=FULL, augment=Augment(flip=True), batch_size=12, decoder=d
        ).batch(0)
        for d in ("pillow", "tensorflow")
    ]
    assert np.array_equal(seen[0]["index"], seen[1]["index"])
    difference = abs(seen[0]["image"].astype(int) - seen[1]["image"])
    # That the same boxes are seen, and turned alike, not by which filter: test_augment says that exactly.
    turned = abs(seen[0]["image"].astype(int) - seen[1]["image"][:, :, ::-1])
    assert difference.mean() < turned.mean() / 5 and difference.mean() < 4


def test_generated_images_are_shrunk_and_real_ones_are_not():
    made, real = piece(4, generated=True, height=16, width=16), piece(4, height=8, width=8)
    view = View(shrink_to=8)
    batch = loader(real, made, view=view, batch_size=8).batch(0)
    for i, image in zip(batch["index"], batch["image"], strict=True):
        expected = real.images[i] if i < 4 else shrink_area(made.images[i - 4], 8)
        assert np.array_equal(image, expected)
    with pytest.raises(DataError, match=r"images of \(8, 8, 1\) and \(16, 16, 1\).*set view.size"):
        loader(real, made, view=View(shrink_to=0), batch_size=8).batch(0)


def test_evaluation_sees_every_image_in_order(stored):
    view = View(size=24, eval_size=32)
    seen = list(eval_images(stored, view, batch_size=5))
    assert [len(part) for part in seen] == [5, 5, 2]
    assert all(part.shape[1:] == (32, 32, 3) and part.dtype == np.uint8 for part in seen)
    pixels = noise(7)
    assert np.array_equal(np.concatenate(list(eval_images(pixels, View(), batch_size=3))), pixels)
    large = noise(2, 16, 16)
    shrunk = np.concatenate(list(eval_images(large, View(shrink_to=8), generated=True)))
    assert np.array_equal(shrunk[1], shrink_area(large[1], 8))
    assert np.array_equal(np.concatenate(list(eval_images(large, View(shrink_to=8)))), large)


def test_small_images_keep_a_training_step_waiting_for_less_than_a_millisecond():
    batches = loader(piece(1437), augment=Augment(max_shift=1, flip=True), batch_size=128)
    batches.batch(0)
    start = time.process_time()  # of this process alone: the machine may be busy
    for step in range(500):
        batches.batch(step)
    assert time.process_time() - start < 0.5


# -------------------------------------------------------------------------------------------- misuse


def test_what_cannot_be_loaded_is_refused(stored):
    empty = Piece(noise(0), np.zeros(0, np.int32))
    cases = (
        (DataError, "no images", lambda: loader(empty)),
        (DataError, "no images", lambda: loader()),
        (DataError, "no generated images", lambda: loader(piece(3), share=0.5)),
        (DataError, "no real images", lambda: loader(piece(3, generated=True), share=0.5)),
        (DataError, r"images of \[1, 3\] channels", lambda: loader(piece(3), Piece(stored, stored.labels))),
        (ConfigError, "batch_size = 6 does not divide over 4", lambda: loader(piece(3), num_processes=4)),
        (DataError, "set view.size", lambda: loader(Piece(stored, stored.labels), batch_size=12).batch(0)),
    )
    for kind, message, make in cases:
        with pytest.raises(kind, match=message):
            make()


@pytest.mark.parametrize("decoder", ["pillow", "tensorflow"])
def test_packed_pixels_are_seen_as_png_and_arrays_are(tmp_path, decoder):
    """Prepared images stand as packed pixels, generated ones as PNG."""
    raw, labels = noise(9, 30, 30, 3), np.arange(9, dtype=np.int32) % 3
    for name, pack in (("png", record.pack), ("pixels", record.pack_pixels)):
        with ShardWriter(tmp_path / name, 0, settings="", weights="", attempt=0) as writer:
            for i, image in enumerate(raw):
                writer.add(pack(writer.header(i, {"class_key": "a", "class_index": 0}), image), image.data)
            writer.commit(0)
    sets = [raw, *(shards.open_set(tmp_path / name, 1) for name in ("png", "pixels"))]
    for view, augment in (
        (FULL, RECIPE),
        (View(), Augment(flip=True)),
        (View(size=12, shrink_to=16), RECIPE),
    ):
        first, *others = (
            loader(Piece(one, labels, None, True), view=view, augment=augment, decoder=decoder).batch(1)
            for one in sets
        )
        assert all(equal(first, other) for other in others)
    evaluated = [np.concatenate(list(eval_images(one, FULL, decoder=decoder))) for one in sets]
    assert all(np.array_equal(evaluated[0], other) for other in evaluated[1:])


def test_torn_file_is_named(tmp_path):
    file = io.BytesIO()
    Image.fromarray(noise(1, 60, 60, 3)[0]).save(file, "JPEG")
    good = file.getvalue()
    with ShardWriter(tmp_path, 0, settings="", weights="", attempt=0) as writer:
        for i, data in enumerate((good, good[: len(good) // 2])):
            facts = {"class_key": "a", "class_index": 0, "format": "JPEG", "channels": 3}
            writer.add(record.pack_file(writer.header(i, facts), data), data)
        writer.commit(0)
    torn = Piece(shards.open_set(tmp_path, 1), np.zeros(2, np.int32))
    for decoder in ("pillow", "tensorflow"):
        with pytest.raises(DataError, match=r"image 1.*decode"):
            loader(torn, view=FULL, batch_size=2, decoder=decoder).batch(0)
