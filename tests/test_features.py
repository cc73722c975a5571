"""Features by ranges of images: what is merged does not depend on the ranges; what the filter keeps."""

from __future__ import annotations

import pathlib
import types
from typing import Any

import numpy as np
import pytest

from synthaug import experiment
from synthaug.errors import DataError
from synthaug.experiment import Experiment
from synthaug.launch.parts import features_args, reference_args
from synthaug.metrics import statistics
from synthaug.rundir import RunDir
from synthaug.stages import features
from synthaug.stages.arrays import read_mapped, write_mapped
from synthaug.stages.encoders import Encoded
from synthaug.train.clock import Clock

DIGITS = pathlib.Path(__file__).parent.parent / "jobs" / "digits.yaml"
SETTINGS = ["data.num_train=700", "data.num_val=90"]
SETTINGS += ["score.splits=3", "score.max_images=60", "score.kid_subset_size=20"]


class FakeEncoder:
    """Says of an image what its own pixels are, in batches of 32."""

    batch_size, num_features, num_logits, num_spatial = 32, 5, 3, 0

    def encode(self, images: np.ndarray) -> Encoded:
        flat = images.reshape(len(images), -1).astype(np.float32)
        return Encoded(flat[:, :5], flat[:, 5:8] / 64)


class FakeJob:
    """What the stages ask of a job."""

    def __init__(self, run: RunDir, settings: Experiment, stage: str, part: int, args: dict[str, Any]):
        self.run, self.experiment, self.args, self.clock = run, settings, args, Clock()
        self.directory = run.part_dir(stage, part)
        self.directory.mkdir(parents=True, exist_ok=True)

    def progress(self, done: int, total: int, unit: str) -> None:
        assert done <= total and unit == "images"

    def check_stop(self) -> None: ...

    def result(self, stage: str) -> dict[str, int]:
        return {"num_train": 700}


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Train and val, 4 and 8 px; the train split lost 3 corrupt images since it was planned."""
    rng = np.random.default_rng(0)
    made = {
        f"{split}/{side}": rng.integers(0, 255, (count, side, side, 1), np.uint8)
        for split, count in (("train", 697), ("val", 90))
        for side in (4, 8)
    }
    labels = {split: np.arange(count, dtype=np.int32) % 3 for split, count in (("train", 697), ("val", 90))}
    monkeypatch.setattr(features, "load_encoder", lambda *_: FakeEncoder())
    monkeypatch.setattr(
        features.sets, "images_of", lambda _, split, side: (made[f"{split}/{side}"], labels[split])
    )
    return made


def encode_real(folder: pathlib.Path, *overrides: str) -> tuple[RunDir, Experiment]:
    """Runs the stages features-real and reference."""
    settings = experiment.load(DIGITS, [*SETTINGS, *overrides])
    run = RunDir(folder)
    wanted = reference_args(settings)
    for stage, parts, verb in (
        ("features-real", features_args(settings, wanted), features.run),
        ("reference", wanted, features.reduce),
    ):
        for part, args in enumerate(parts):
            job: Any = FakeJob(run, settings, stage, part, args)
            run.finish(stage, part, {"result": verb(job)})
    return run, settings


def test_ranges_change_no_bit(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    one = encode_real(tmp_path / "one")
    many = encode_real(tmp_path / "many", "score.images_per_part=71")
    last = encode_real(tmp_path / "last", "score.images_per_part=699")  # of train, one image that is lost
    assert len(list((tmp_path / "many").glob("features-real-*"))) == 2 * (10 + 2)
    for split in ("train", "val"):
        for side in (4, 8):
            a, *others = (
                statistics.to_arrays(features.load_reference(*run, split, side)) for run in (one, many, last)
            )
            for b in others:
                assert a.keys() == b.keys()
                assert all(np.array_equal(a[name], b[name]) for name in a)
    found = features.load_reference(*many, "train", 8)
    assert found.count == 697  # the images that are left, not those that were planned
    rows = images["train/8"].reshape(697, -1)[:, :5].astype(np.float64)
    np.testing.assert_allclose(found.moments().gaussian().covariance, np.cov(rows.T), rtol=1e-12)
    assert len(found.numbers) == 60


def test_a_lost_range_is_an_error(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    run, settings = encode_real(tmp_path / "run", "score.images_per_part=71")
    (run.part_dir("features-real", 3) / features.FILE).write_bytes(b"torn")
    args = {"set": "real train", "resolution": 4, "encoder": ""}
    with pytest.raises(DataError, match=r"statistics.npz: missing or altered.*--stage features-real --force"):
        features.merged_statistics(run, settings, args)


def test_the_filter_finds_every_row_on_disk(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    filtering = ["filter.min_confidence=0.1", "filter.duplicate_quantile=0.01"]
    run, settings = encode_real(tmp_path / "run", "score.images_per_part=71", *filtering)
    for split in ("train", "val"):
        rows, confidence = features.real_rows(run, settings, split, 8)
        pixels = images[f"{split}/8"].reshape(len(rows), -1).astype(np.float32)
        assert isinstance(rows, np.memmap)
        np.testing.assert_array_equal(rows, pixels[:, :5])
        power = np.exp(pixels[:, 5:8] / 64)
        own = power[np.arange(len(rows)), np.arange(len(rows)) % 3] / power.sum(axis=1)
        np.testing.assert_allclose(confidence, own, rtol=1e-5)
    assert not (run.part_dir("reference", 0) / features.ROWS).exists()  # at 4 px nothing is filtered


def test_mapped_arrays_are_whole_or_refused(tmp_path: pathlib.Path) -> None:
    blocks = [np.empty((0, 3), np.float32), np.ones((2, 3), np.float32), np.zeros((5, 3), np.float32)]
    file = tmp_path / "features-real-0" / "rows.npy"
    sha256 = write_mapped(file, *blocks)
    np.testing.assert_array_equal(read_mapped(file, sha256), np.concatenate(blocks))
    np.testing.assert_array_equal(np.load(file), np.concatenate(blocks))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="missing or altered"):
        read_mapped(file, sha256)
    assert [f.name for f in file.parent.iterdir()] == ["rows.npy"]


def test_stopped_range_leaves_no_result(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    settings = experiment.load(DIGITS, SETTINGS)
    args = features_args(settings, reference_args(settings))[0]
    job: Any = FakeJob(RunDir(tmp_path), settings, "features-real", 0, args)
    job.check_stop = types.MethodType(lambda self: (_ for _ in ()).throw(KeyboardInterrupt), job)
    with pytest.raises(KeyboardInterrupt):
        features.run(job)
    assert not list(job.directory.iterdir())


def test_of_a_filtered_set_the_chosen_images_are_encoded(
    tmp_path: pathlib.Path, images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = experiment.load(DIGITS, [*SETTINGS, "filter.min_confidence=0.1", "score.images_per_part=40"])
    made, labels = images["train/8"], np.arange(697, dtype=np.int32) % 3
    chosen = np.sort(np.random.default_rng(1).choice(697, 90, replace=False))
    monkeypatch.setattr(features.sets, "generated_images_of", lambda *_: (made, labels))
    monkeypatch.setattr(features, "read_selection", lambda _: types.SimpleNamespace(of=lambda copies: chosen))
    found = []
    for part, first in enumerate(range(0, 700, 40)):
        args = {"set": "generated", "resolution": 8, "encoder": "", "first": first, "num_images": 40}
        job: Any = FakeJob(RunDir(tmp_path), settings, "features", part, args)
        result = features.run(job)
        arrays = features.read_arrays(job.directory / features.FILE, result["sha256"])
        found.append(statistics.from_arrays(arrays))
    merged = statistics.merge_all(found)
    merged.check_complete()
    rows = made[chosen].reshape(90, -1)[:, :5].astype(np.float64)
    np.testing.assert_allclose(merged.moments().gaussian().mean, rows.mean(axis=0), rtol=1e-12)


def test_a_point_is_encoded_once(tmp_path: pathlib.Path, images: dict[str, np.ndarray]) -> None:
    """A part that is stopped in its CAS training does not encode its images again; other images are."""

    class Counting(FakeEncoder):
        sha256, seen = "weights", 0

        def resize(self, side: int) -> str:
            return f"from {side}"

        def encode(self, batch: np.ndarray) -> Encoded:
            self.seen += len(batch)
            return super().encode(batch)

    settings = experiment.load(DIGITS, SETTINGS)
    job: Any = FakeJob(RunDir(tmp_path), settings, "measure-base", 0, {})
    encoder: Any = Counting()
    first = features.statistics_of(job, encoder, images["val/8"], "a")
    again = features.statistics_of(job, encoder, images["val/8"], "a")
    assert encoder.seen == 90
    a, b = statistics.to_arrays(first), statistics.to_arrays(again)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    features.statistics_of(job, encoder, images["val/8"], "b")
    assert encoder.seen == 180
    file = job.directory / features.FILE
    file.write_bytes(file.read_bytes()[:-100])  # torn
    features.statistics_of(job, encoder, images["val/8"], "b")
    assert encoder.seen == 270
