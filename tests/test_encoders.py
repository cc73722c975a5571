"""Encoders behind one interface: what they say, of images alone, on several devices; the stage's record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest

from synthaug import experiment, rng
from synthaug.errors import ConfigError, DataError
from synthaug.experiment import Classifier
from synthaug.models.functional import hash_weights
from synthaug.rundir import RunDir
from synthaug.stages import classifiers, encoder, encoders
from synthaug.stages.encoders import Encoder, of_classifier, open_encoder
from synthaug.weights.dinov2 import open_dinov2
from tests import study, tiny_dinov2
from tests.inception_graph import write_state

ROOT = pathlib.Path(__file__).parent.parent
SMALL = Classifier(kind="resnet", width=8)


def pixels(side: int, batch: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (batch, side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def settings_of(path: pathlib.Path, **more: Any) -> experiment.Encoder:
    return experiment.Encoder(kind="dinov2", path=str(path), **{"batch_size": 4, **more})


@pytest.fixture(scope="module")
def dino_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_dinov2.write_file(tmp_path_factory.mktemp("weights") / "dino.safetensors")


@pytest.fixture(scope="module")
def dino(dino_file: pathlib.Path) -> Encoder:
    return open_encoder(settings_of(dino_file))


@pytest.fixture(scope="module")
def small() -> Encoder:
    """A classifier of grey images with random weights."""
    weights = classifiers.network(SMALL, 16, 1, 10).init(rng.root(0))
    settings = experiment.Encoder(classifier=SMALL, batch_size=8)
    return of_classifier(settings, weights, hash_weights(weights), resolution=16, channels=1)


def same(found: encoders.Encoded, expected: encoders.Encoded, rows: Any = slice(None)) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b[rows])


# ---------------------------------------------------------------------------------------- the three kinds


def test_dinov2_gives_the_networks_features_and_nothing_else(dino, dino_file):
    network = open_dinov2(dino_file, batch_size=3)
    found = dino.encode(pixels(48, 5))
    np.testing.assert_allclose(found.features, network.encode(pixels(48, 5)), rtol=1e-4, atol=1e-5)
    assert found.logits is found.spatial is None
    assert (dino.name, dino.sha256, dino.backend) == ("dinov2-64x2", network.weights_sha256, "flax")
    assert (dino.num_features, dino.num_logits, dino.num_spatial) == (64, 0, 0)
    assert dino.resize(64) == "bicubic with antialiasing 64->224, f32"


def test_inception_gives_features_logits_and_spatial_features(tmp_path):
    file = write_state(tmp_path / "inception.safetensors")
    one = open_encoder(experiment.Encoder(kind="inception", path=str(file), batch_size=2))
    found = one.encode(pixels(32, 3, channels=1))
    assert found.features.shape == (3, one.num_features) == (3, 2048)
    assert found.logits is not None and found.logits.shape == (3, one.num_logits) == (3, 1008)
    assert found.spatial is not None and found.spatial.shape == (3, one.num_spatial) == (3, 2023)
    same(one.encode(pixels(32, 3, channels=1)[[2, 0]]), found, [2, 0])
    assert (one.name, one.backend, one.channels) == ("inception-2015-12-05", "flax", 3)
    assert one.resize(64) == "TF1 bilinear without antialiasing 64->299, f32" and one.resize(299) == "none"


def test_a_classifier_gives_what_its_head_sees_and_its_logits(small):
    images = pixels(16, 11, channels=1)
    found = small.encode(images)
    weights = classifiers.network(SMALL, 16, 1, 10).init(rng.root(0))
    logits, features = classifiers.predict(SMALL, weights, [images], 10)
    np.testing.assert_allclose(found.features, features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-6)
    assert found.spatial is None
    assert (small.num_features, small.num_logits, small.num_spatial) == (features.shape[1], 10, 0)
    assert small.name == "classifier (resnet trained on real images, penultimate layer)"


def test_a_classifier_sees_smaller_images_enlarged_and_refuses_larger_ones(small):
    low = pixels(8, 3, channels=1)
    same(small.encode(low), small.encode(encoders.enlarge_u8(low, 16)))
    assert small.resize(8) == "bilinear 8->16, 8 bit" and small.resize(16) == "none"
    with pytest.raises(ConfigError, match="32x32 px do not enlarge to 16x16"):
        small.encode(pixels(32, 1, channels=1))


def test_a_study_trains_its_classifier_and_no_file_holds_it(dino_file):
    with pytest.raises(ConfigError, match="kind = classifier is trained by a study; expected inception or"):
        open_encoder(experiment.Encoder(path=str(dino_file)))


# ------------------------------------------------------------------------------------- one image, alone


@pytest.mark.parametrize("kind", ["dino", "small"])
def test_what_is_said_of_an_image_hangs_on_nothing_else(kind, request):
    """Bits are equal for any order, number and neighbours, and wherever in a batch an image stands."""
    one = request.getfixturevalue(kind)
    images = pixels(16, 13, one.channels)
    found = one.encode(images)
    for shift in range(1, one.batch_size):
        same(one.encode(np.roll(images, shift, axis=0)), found, np.roll(np.arange(13), shift))
    for rows in ([12], [3, 3, 3], [9, 0, 4, 1, 2]):
        same(one.encode(images[rows]), found, rows)
    assert len({row.tobytes() for row in found.features}) == 13


def test_a_network_sees_whole_batches_only(dino):
    """Of one shape: another would be compiled anew, and might add up in another order."""
    seen = []

    def look(images: np.ndarray) -> encoders.Encoded:
        seen.append(images)
        return encoders.Encoded(images[:, 0, 0].astype(np.float32), images[:, 0, 0, :1], images[:, 1, 1])

    images = pixels(8, 10)
    found = dataclasses.replace(dino, look=look, num_features=3, num_logits=1, num_spatial=3).encode(images)
    assert [batch.shape for batch in seen] == [(4, 8, 8, 3)] * 3
    np.testing.assert_array_equal(np.concatenate(seen)[:10], images)
    np.testing.assert_array_equal(found.features, images[:, 0, 0])
    np.testing.assert_array_equal(found.logits, images[:, 0, 0, :1])
    np.testing.assert_array_equal(found.spatial, images[:, 1, 1])


@pytest.mark.parametrize("kind", ["dino", "small"])
def test_no_images_give_arrays_of_no_rows(kind, request):
    one = request.getfixturevalue(kind)
    found = one.encode(pixels(16, 0, one.channels))
    widths = (one.num_features, one.num_logits, one.num_spatial)
    assert [None if a is None else a.shape for a in found] == [(0, w) if w else None for w in widths]


def test_grey_images_are_repeated_and_others_refused(dino, small):
    grey = pixels(20, 2, channels=1)
    same(dino.encode(grey), dino.encode(np.repeat(grey, 3, axis=3)))
    for one, images, found in (
        (dino, pixels(20, 2, channels=4), r"uint8\[2,20,20,4\]; expected .* C = 1 or 3: compose an alpha"),
        (dino, grey.astype(np.float32), r"float32\[2,20,20,1\]"),
        (dino, grey[0], r"uint8\[20,20,1\]"),
        (small, pixels(16, 1), r"uint8\[1,16,16,3\]; expected u8\[B,H,W,C\] with C = 1:"),
    ):
        with pytest.raises(ConfigError, match=found):
            one.encode(images)


def test_large_images_are_shrunk_by_area_if_asked(dino, dino_file):
    images = pixels(64, 5)
    means = images.reshape(5, 16, 4, 16, 4, 3).astype(np.float64).mean(axis=(2, 4))
    shrinking = open_encoder(settings_of(dino_file, shrink_to=16))
    expected = dino.encode(np.rint(means).astype(np.uint8))
    same(shrinking.encode(images), expected)
    same(shrinking.encode(pixels(16, 2)), dino.encode(pixels(16, 2)))
    assert shrinking.resize(64) == "area 64->16, 8 bit; bicubic with antialiasing 16->224, f32"
    assert shrinking.resize(16) == dino.resize(16)
    assert dataclasses.replace(shrinking, shrink_to=224).resize(1024) == "area 1024->224, 8 bit"


SHARDED = """
import json, sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from synthaug import experiment
from synthaug.stages.encoders import open_encoder
one = open_encoder(experiment.Encoder(kind="dinov2", path=sys.argv[1], batch_size=3))
images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
print(json.dumps([len(jax.devices()), one.batch_size, one.encode(images).features.tolist()]))
"""


def test_devices_share_a_batch_that_divides_over_them(dino, dino_file):
    line = [sys.executable, "-c", SHARDED, str(dino_file)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    devices, size, features = json.loads(done.stdout.splitlines()[-1])
    assert (devices, size) == (2, 4)
    np.testing.assert_allclose(features, dino.encode(pixels(16, 5)).features, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------- the stage


class Clock:
    """A clock that nobody reads."""

    def measure(self, bucket: str) -> Any:
        return contextlib.nullcontext()


def finished(runs: pathlib.Path, file: pathlib.Path) -> tuple[RunDir, experiment.Experiment, dict[str, Any]]:
    """Returns a run whose stage `encoder` has opened a further encoder, and its record."""
    settings = experiment.load(study.TINY, [f"score.further.other={{kind: dinov2, path: {file}}}"])
    job: Any = types.SimpleNamespace(experiment=settings, args={"encoder": "other"}, clock=Clock())
    result = encoder.run(job)
    run = RunDir(runs)
    run.part_dir("encoder", 1).mkdir(parents=True)
    (run.part_dir("encoder", 1) / "done.json").write_text(json.dumps({"result": result}))
    return run, settings, result


def test_the_stage_notes_what_the_weights_are(dino_file, dino, tmp_path):
    run, settings, result = finished(tmp_path, dino_file)
    assert result == {
        "kind": "dinov2", "name": "dinov2-64x2", "backend": "flax", "weights_sha256": dino.sha256
    }  # fmt: skip
    found = encoder.load_encoder(run, settings, "other")
    np.testing.assert_allclose(found.encode(pixels(32, 2)).features, dino.encode(pixels(32, 2)).features,
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    assert encoder.load_encoder(run, settings, "other") is found  # opened once


def test_weights_that_change_under_a_run_are_refused(tmp_path):
    file = tiny_dinov2.write_file(tmp_path / "a.safetensors")
    run, settings, result = finished(tmp_path / "run", file)
    assert encoder.load_encoder(run, settings, "other").sha256 == result["weights_sha256"]
    file.unlink()
    with pytest.raises(DataError, match=r"a\.safetensors: nothing is there"):
        encoder.load_encoder(run, settings, "other")
    tiny_dinov2.write_file(file, seed=1)
    with pytest.raises(
        DataError, match=r"holds other weights .* than when the run began .*; put the file back"
    ):
        encoder.load_encoder(run, settings, "other")
