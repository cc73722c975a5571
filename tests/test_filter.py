"""Planted copies and planted doubtful images are flagged, classes are topped up, nothing is deleted."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import pathlib
import types
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from synthaug import config
from synthaug.data.select import Judged, flag, join, read_judged, select, write_judged
from synthaug.data.shards import write_shard
from synthaug.errors import ConfigError, DataError
from synthaug.experiment import Filter, parse
from synthaug.launch.parts import filter_args, num_generated
from synthaug.manifest import ClassEntry, ClassTable, image_order, plan_images, read_plan, write_plan
from synthaug.metrics.leakage import duplicate_distance, nearest, own_probability
from synthaug.reporting import extras, page
from synthaug.reporting.markdown import render
from synthaug.reporting.write import build
from synthaug.rundir import RunDir
from synthaug.stages import filter as filtering
from synthaug.stages.arrays import read_arrays
from synthaug.stages.encoders import Encoded
from synthaug.stages.selection import read_selection, selection_file
from tests import reports

RNG = np.random.default_rng(0)


def gaussian(*shape: int, seed: int | None = None) -> np.ndarray:
    return (RNG if seed is None else np.random.default_rng(seed)).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------------- nearest neighbours


def brute_force(queries: np.ndarray, references: np.ndarray, own: np.ndarray | None) -> tuple[Any, Any]:
    distance = np.sqrt(((queries[:, None].astype(np.float64) - references) ** 2).sum(axis=2))
    if own is not None:
        distance[np.arange(len(queries)), own] = np.inf
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.mark.parametrize("block", [(1, 1), (3, 5), (64, 2), (7, 64), (4096, 16384)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_is_brute_force_in_any_block(block, offset):
    queries, references = gaussian(37, 6) + np.float32(offset), gaussian(53, 6) + np.float32(offset)
    found = nearest(queries, references, block=block)
    index, distance = brute_force(queries, references, None)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)


def test_an_image_is_not_its_own_neighbour_but_its_copy_is():
    references = gaussian(20, 4)
    references[13] = references[5]
    own = np.array([5, 13, 2])
    found = nearest(references[own], references, own=own, block=(2, 6))
    index, distance = brute_force(references[own], references, own)
    assert found.index.tolist() == index.tolist()
    assert found.index[:2].tolist() == [13, 5]
    assert found.distance[:2].tolist() == [0.0, 0.0]
    assert found.distance[2] == pytest.approx(distance[2])


def test_among_equal_references_the_lowest_number_wins():
    references = np.zeros((9, 3), np.float32)
    references[[4, 7]] = 1.0
    found = nearest(np.ones((2, 3), np.float32), references, block=(2, 2))
    assert found.index.tolist() == [4, 4]


def test_references_may_lie_in_a_file(tmp_path):
    references, queries = gaussian(50, 4), gaussian(9, 4)
    np.save(tmp_path / "features.npy", references)
    found = nearest(queries, np.load(tmp_path / "features.npy", mmap_mode="r"), block=(4, 16))
    np.testing.assert_array_equal(found.index, brute_force(queries, references, None)[0])


def test_a_copy_is_told_from_a_near_image_that_f32_distances_cannot_tell_from_it():
    """|a|^2 + |b|^2 - 2ab of rows of length 1000 is off by about 0.1; these are 0.01 apart."""
    query = gaussian(1, 64) * 125
    references = np.concatenate([gaussian(50, 64) * 125, query + 0.01 / 8, query, query - 0.01 / 8])
    found = nearest(query, references)
    assert found.index.tolist() == [51]
    assert found.distance.tolist() == [0.0]


def test_bad_features_are_refused():
    with pytest.raises(DataError, match="0 images; none has a nearest"):
        nearest(gaussian(2, 3), gaussian(0, 3))
    with pytest.raises(DataError, match="1 images; none has a nearest other"):
        nearest(gaussian(1, 3), gaussian(1, 3), own=np.array([0]))
    with pytest.raises(DataError, match="3 of queries against 4"):
        nearest(gaussian(2, 3), gaussian(2, 4))
    bad = gaussian(4, 3)
    bad[2, 1] = np.nan
    with pytest.raises(DataError, match="features of references: 1 of 4 rows"):
        nearest(gaussian(2, 3), bad)
    assert len(nearest(np.empty((0, 3), np.float32), gaussian(2, 3)).index) == 0


def test_the_quantile_counts_images():
    distances = RNG.permutation(np.arange(1.0, 1001.0)).astype(np.float32)
    for quantile, expected in ((0.001, 1), (0.1, 100), (0.0999, 99), (1.0, 1000)):
        limit = duplicate_distance(distances, quantile)
        assert (distances <= limit).sum() == expected
    with pytest.raises(DataError, match=r"set it to 0\.001 or more"):
        duplicate_distance(distances, 0.0009)
    with pytest.raises(ConfigError, match="expected above 0"):
        duplicate_distance(distances, 0.0)


def test_probability_of_the_own_class_is_the_softmax():
    logits = gaussian(50, 7) * 5
    labels = RNG.integers(7, size=50)
    expected = np.exp(logits.astype(np.float64))
    expected = (expected / expected.sum(axis=1, keepdims=True))[np.arange(50), labels]
    np.testing.assert_allclose(own_probability(logits, labels), expected, rtol=1e-5)
    for wrong in (labels[:3], labels + 1, labels - 7):
        with pytest.raises(DataError, match="expected one class number per image"):
            own_probability(logits, wrong)


# --------------------------------------------------------------------------------------------- selection


@hypothesis.given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    copies=st.integers(1, 4),
    spare=st.integers(0, 12),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_selection_tops_up_by_class_in_order_and_never_takes_a_flagged_image(
    counts, copies, spare, share, seed
):
    order = image_order(counts)
    classes = np.concatenate([np.tile(order, copies), np.resize(order, spare)])
    flagged = np.random.default_rng(seed).random(len(classes)) < share
    chosen = select(flagged, classes, np.array(counts), copies)
    assert not flagged[chosen.index].any()
    assert len(set(chosen.index.tolist())) == len(chosen.index)
    for k, count in enumerate(counts):
        free = np.flatnonzero(~flagged & (classes == k))
        mine = np.sort(chosen.index[classes[chosen.index] == k])
        assert mine.tolist() == free[: count * copies].tolist()  # the first ones, by number
        assert chosen.missing[k] == max(0, count * copies - len(free))
        for copy in range(1, copies + 1):
            within = chosen.of(copy)
            assert (classes[within] == k).sum() == min(count * copy, len(free))
    nested = [set(chosen.of(c).tolist()) for c in range(copies + 1)]
    assert all(a <= b for a, b in itertools.pairwise(nested))


def test_without_flags_the_copies_are_those_of_the_plan():
    counts = [5, 3, 4]
    classes = np.tile(image_order(counts), 3)
    chosen = select(np.zeros(36, bool), classes, np.array(counts), 2)
    assert chosen.index.tolist() == list(range(24))
    assert chosen.of(1).tolist() == list(range(12))


def test_flags_name_the_reason():
    some = Judged(
        index=np.arange(4),
        class_index=np.zeros(4, np.int32),
        confidence=np.array([0.1, 0.9, 0.5, 0.9], np.float32),
        train_index=np.arange(4),
        train_distance=np.array([2.0, 1.0, 2.0, 2.0], np.float32),
        val_index=np.arange(4),
        val_distance=np.array([2.0, 0.0, 2.0, 1.5], np.float32),
    )
    flags = flag(some, 0.5, 1.0)
    assert flags.low_confidence.tolist() == [True, False, False, False]
    assert flags.near_train.tolist() == [False, True, False, False]
    assert flags.near_val.tolist() == [False, True, False, False]
    assert flags.any.tolist() == [True, True, False, False]
    assert not flag(some, 0.0, -1.0).any.any()  # both off


def test_measures_survive_the_file_and_an_altered_file_is_refused(tmp_path):
    some = Judged(*(np.arange(5).astype(t) for t in ("i8", "i4", "f4", "i8", "f4", "i8", "f4")))
    sha256 = write_judged(tmp_path / "filter-3" / "judged.parquet", some)
    again = read_judged(tmp_path / "filter-3" / "judged.parquet", sha256)
    for name, column in vars(some).items():
        np.testing.assert_array_equal(getattr(again, name), column)
        assert getattr(again, name).dtype == column.dtype
    with pytest.raises(DataError, match="--stage filter --force"):
        read_judged(tmp_path / "filter-3" / "judged.parquet", "0" * 64)
    with pytest.raises(DataError, match="10 images, but not numbers 0 to 9 once each"):
        join([some, some])


def test_spare_images_are_rounded_up():
    assert [Filter(reserve=r).num_spare(30) for r in (0.0, 0.1, 0.11, 1.0)] == [0, 3, 4, 30]
    assert not Filter(reserve=0.5).active
    assert Filter(min_confidence=0.1).active


def test_spare_images_come_last_and_change_no_other_image(tmp_path):
    table = ClassTable(tuple(ClassEntry(f"c{k}", "x", n, 2) for k, n in enumerate((3, 1, 2))))
    prompts = {f"c{k}": ["one", "two"] for k in range(3)}
    without, plan = plan_images(table, prompts, 2, 5), plan_images(table, prompts, 2, 5, spare=8)
    assert len(plan) == 20
    for name in ("class_index", "prompt_index", "copy", "shard"):
        np.testing.assert_array_equal(getattr(plan, name)[:12], getattr(without, name))
    assert plan.copy.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 2
    write_plan(plan, tmp_path / "plan.parquet")
    again = read_plan(tmp_path / "plan.parquet")
    assert again.spare == 8
    np.testing.assert_array_equal(again.copy, plan.copy)


def test_the_filter_is_planned_over_the_spare_images_too():
    tree = config.read_yaml(pathlib.Path(__file__).parent / "tiny.yaml")
    settings = parse({**tree, "filter": {"reserve": 0.1, "min_confidence": 0.5}}, "tiny")
    assert num_generated(settings, 1442) == 2884 + 289
    args = filter_args(settings)
    assert [a["set"] for a in args[:3]] == ["real train", "real val", "generated"]
    assert sum(a.get("num_shards", 0) for a in args) == 7  # of 500
    assert {a["resolution"] for a in args} == {8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reserve": 0.1}, r"filter\.reserve = 0\.1 makes images that nothing uses"),
        (
            {"duplicate_quantile": 1e-4},
            r"of 1442 real train images is less than one; expected at least 0\.00069",
        ),
        ({"duplicate_quantile": 0.01, "num_probes": 50}, "of 50 real train images is less than one"),
        ({"min_confidence": 1.5}, r"filter\.min_confidence = 1\.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    tree = config.read_yaml(pathlib.Path(__file__).parent / "tiny.yaml")
    with pytest.raises(ConfigError, match=message):
        parse({**tree, "filter": settings}, "tiny")


# ------------------------------------------------------------------------------------------- the stage

COUNTS = (6, 4, 5)
NUM_TRAIN, COPIES, WIDTH = sum(COUNTS), 2, 8
SPARE = 6  # 20 % of two copies
SHARD = 7


class FakeEncoder:
    """Takes the features of an image from a table: its first pixel is the image's number."""

    batch_size = 3  # less than a shard

    def __init__(self, features: np.ndarray, logits: np.ndarray):
        self.features, self.logits = features, logits

    def encode(self, images: np.ndarray) -> Encoded:
        numbers = images[:, 0, 0, 0].astype(int)
        return Encoded(self.features[numbers], self.logits[numbers])


class FakeJob:
    """What a stage sees of a job, without processes and plans."""

    def __init__(self, run: RunDir, stage: str, part: int, args: dict[str, Any], settings: Filter):
        self.run, self.args = run, args
        self.directory = run.part_dir(stage, part)
        self.directory.mkdir(parents=True, exist_ok=True)
        sample = types.SimpleNamespace(copies=COPIES, shard_size=SHARD)
        self.experiment = types.SimpleNamespace(filter=settings, sample=sample, seed=0)
        self.clock = types.SimpleNamespace(measure=lambda _: contextlib.nullcontext())
        self.said: list[str] = []
        self.say = self.said.append

    def result(self, stage: str, part: int = 0) -> dict[str, Any]:
        return {"num_train": NUM_TRAIN} if stage == "collect" else self.run.result(stage, part)

    def progress(self, *_: Any) -> None: ...
    def check_stop(self) -> None: ...


@pytest.fixture
def world(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A run with a generated set on disk; features and logits come from tables that a test may change."""
    table = ClassTable(tuple(ClassEntry(f"n0000000{k}", "x", n, 2) for k, n in enumerate(COUNTS)))
    order = image_order(COUNTS)
    labels = np.concatenate([np.tile(order, COPIES), order[:SPARE]]).astype(np.int32)
    run = RunDir(tmp_path)
    for shard in range(-(-len(labels) // SHARD)):
        numbers = range(shard * SHARD, min((shard + 1) * SHARD, len(labels)))
        records = [
            (
                {"class_key": f"n0000000{labels[i]}", "class_index": int(labels[i])},
                np.full((2, 2, 1), i, np.uint8),
            )
            for i in numbers
        ]
        write_shard(
            run.set_dir("generated", 2), shard, numbers[0], records, settings="s", weights="w", attempt=1
        )
    real = {"train": gaussian(40, WIDTH, seed=1), "val": gaussian(12, WIDTH, seed=2)}
    features, logits = gaussian(len(labels), WIDTH, seed=3), np.zeros((len(labels), 3), np.float32)
    logits[np.arange(len(labels)), labels] = 5.0
    encoder = FakeEncoder(features, logits)
    sure = np.full(40, 0.99, np.float32)
    monkeypatch.setattr(filtering, "load_encoder", lambda *_: encoder)
    monkeypatch.setattr(filtering, "real_rows", lambda _, __, s, ___: (real[s], sure[: len(real[s])]))
    monkeypatch.setattr(filtering, "num_sample_shards", lambda *_: -(-len(labels) // SHARD))
    monkeypatch.setattr(filtering.sets, "class_table", lambda _: table)
    monkeypatch.setattr(filtering.sets, "labels", lambda _, split: np.zeros(len(real[split]), np.int32))
    return types.SimpleNamespace(run=run, labels=labels, real=real, encoder=encoder)


def run_filter(world: types.SimpleNamespace, settings: Filter) -> tuple[dict[str, Any], FakeJob]:
    """Runs all parts and the choice behind them."""
    parts: list[dict[str, Any]] = [{"set": s, "resolution": 2} for s in ("real train", "real val")]
    shards = -(-len(world.labels) // SHARD)
    parts += [{"set": "generated", "resolution": 2, "shard": s, "num_shards": 2} for s in range(0, shards, 2)]
    for part, args in enumerate(parts):
        job = FakeJob(world.run, "filter", part, args, settings)
        world.run.forget("filter", part)
        job.directory.mkdir()
        world.run.finish("filter", part, {"result": filtering.run(job)})  # type: ignore[arg-type]
    job = FakeJob(world.run, "select", 0, {"parts": len(parts)}, settings)
    return filtering.choose(job), job  # type: ignore[arg-type]


def chosen(world: types.SimpleNamespace, result: dict[str, Any]) -> np.ndarray:
    return read_arrays(selection_file(world.run), result["sha256"])["index"]


def test_planted_copies_and_doubtful_images_are_flagged_and_replaced_by_spare_ones(world):
    world.real["train"][8] = world.real["train"][30] + 0.01  # what is near among real images, 0.028
    world.encoder.features[3] = world.real["train"][17]
    world.encoder.features[20] = world.real["val"][2] + 1e-3
    world.encoder.logits[8] = [0.0, 0.0, 0.0]
    before = sorted(p.name for p in world.run.set_dir("generated", 2).iterdir())
    result, job = run_filter(world, Filter(reserve=0.2, min_confidence=0.5, duplicate_quantile=0.05))
    generated = result["sets"]["generated"]
    assert generated["images"] == 36
    assert (generated["low_confidence"], generated["near_val"], generated["flagged"]) == (1, 1, 3)
    assert generated["near_train"] == 1
    assert result["examples"][0] == {"image": 3, "train_image": 17, "distance": 0.0}
    index = chosen(world, result)
    assert not {3, 8, 20} & set(index.tolist())
    assert np.bincount(world.labels[index]).tolist() == [COPIES * n for n in COUNTS]
    assert result["topped_up"] == 3
    assert result["copies"] == [NUM_TRAIN, NUM_TRAIN]
    assert result["missing"] == {}
    assert job.said == []
    assert sorted(p.name for p in world.run.set_dir("generated", 2).iterdir()) == before
    import pyarrow.parquet as pq

    rows = pq.read_table(job.directory / "flags.parquet").to_pydict()
    assert rows["index"] == list(range(36))
    assert [i for i in range(36) if rows["near_train"][i]] == [3]
    assert rows["val_index"][20] == 2
    world.run.finish("select", 0, {"result": result})
    assert read_selection(world.run).of(1).tolist() == sorted(index[:NUM_TRAIN].tolist())


def test_real_images_show_what_is_usual(world):
    world.real["train"][5] = world.real["train"][6]
    result, _ = run_filter(world, Filter(min_confidence=0.5, duplicate_quantile=0.05))
    train = result["sets"]["real train"]
    assert (train["images"], train["low_confidence"], train["near_train"]) == (40, 0, 2)
    assert result["distance"] == 0.0
    assert result["sets"]["real val"]["images"] == 12


def test_probes_bound_the_work(world):
    result, _ = run_filter(world, Filter(duplicate_quantile=0.1, num_probes=10))
    assert result["sets"]["real train"]["images"] == 10
    assert result["sets"]["real val"]["images"] == 10


def test_a_class_without_enough_spare_images_is_short_and_named(world):
    doubtful = np.flatnonzero(world.labels == 1)[:6]
    world.encoder.logits[doubtful] = 0.0
    result, job = run_filter(world, Filter(reserve=0.2, min_confidence=0.5))
    left = (world.labels == 1).sum() - 6
    assert result["missing"] == {"n00000001": 2 * COUNTS[1] - left}
    assert "n00000001" in job.said[0]
    assert "filter.reserve of about" in job.said[0]
    assert sum(result["copies"]) == len(chosen(world, result)) == 2 * NUM_TRAIN - (8 - left)
    world.encoder.logits[world.labels == 1] = 0.0
    _, job = run_filter(world, Filter(reserve=0.2, min_confidence=0.5))
    assert "lower the thresholds" in job.said[0]
    with pytest.raises(DataError, match="every generated image is flagged"):
        run_filter(world, Filter(min_confidence=1.0))


def test_only_confidence_needs_no_search(world, monkeypatch):
    monkeypatch.setattr(filtering, "nearest", lambda *_, **__: pytest.fail("searched"))
    result, _ = run_filter(world, Filter(min_confidence=0.5))
    assert result["distance"] == -1.0
    assert result["examples"] == []
    assert result["sets"]["generated"]["train_distance"] == {}


def test_the_same_set_gives_the_same_selection(world):
    settings = Filter(reserve=0.2, min_confidence=0.2, duplicate_quantile=0.2)
    assert run_filter(world, settings)[0] == run_filter(world, settings)[0]


def test_a_missing_shard_is_named(world):
    (world.run.set_dir("generated", 2) / "shard-00001.json").unlink()
    with pytest.raises(DataError, match="shard 1 is not there"):
        run_filter(world, Filter(min_confidence=0.5))


# ------------------------------------------------------------------------------------------- the report


def test_the_report_shows_the_filter_beside_real_images(world):
    world.encoder.logits[world.labels == 1] = 0.0
    found, _ = run_filter(world, Filter(reserve=0.2, min_confidence=0.5, duplicate_quantile=0.05))
    report = reports.report()
    assert extras.sections(report) == []  # off: no empty chapter
    report = dataclasses.replace(report, results={**report.results, "filter": found})
    html, markdown = page.render(report, build(report)), render(report, build(report))
    for text in (html, markdown):
        assert "Filter: doubtful and copied images" in text
        assert "n00000001: 8" in text  # the class that stays short
        assert "real val" in text
    json.dumps(found, allow_nan=False)


def test_without_a_search_the_report_says_so(world):
    found, _ = run_filter(world, Filter(min_confidence=0.5))
    report = reports.report()
    section = extras.sections(dataclasses.replace(report, results={**report.results, "filter": found}))[0]
    assert "not looked for" in section.blocks[0].caption  # type: ignore[union-attr]
