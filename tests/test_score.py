"""The row of a scored set: its numbers are those of the single metrics, and its protocol is whole."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from synthaug.errors import ConfigError, DataError
from synthaug.metrics import moments, statistics
from synthaug.metrics import score as scoring
from synthaug.metrics.fid import Gaussian, fid_infinity, frechet_distance
from synthaug.metrics.inception_score import inception_score
from synthaug.metrics.kid import kid, kid_of_subsets
from synthaug.metrics.neighbours import compare
from synthaug.metrics.protocol import Protocol
from synthaug.metrics.reference import (
    Reference,
    of_statistics,
    reference_from_arrays,
    reference_to_arrays,
)
from synthaug.metrics.score import score
from synthaug.metrics.statistics import Draw

NAN, INF = float("nan"), float("inf")
FACTS = {
    "encoder": "resnet", "encoder_hash": "ab12", "backend": "flax", "resize": "area", "resolution": 8,
    "codec": "png",
}  # fmt: skip
PROTOCOL = Protocol(
    **FACTS, reference="train", splits=2, neighbours=3, max_images=40, kid_subsets=5, kid_subset_size=20,
    seed=7, reference_codec="png",
)  # fmt: skip
KEYS = [
    "set", "resolution", "reference", "n", "encoder", "fid", "sfid", "inception_score", "inception_score_std",
    "precision", "recall", "density", "coverage", "kid", "kid_std", "fid_sizes", "fid_infinity", "notes",
    "n_reference", "encoder_hash", "backend", "resize", "splits", "neighbours", "max_images", "kid_subsets",
    "kid_subset_size", "seed", "codec", "reference_codec",
]  # fmt: skip


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


FEATURES, LOGITS, SPATIAL = normal(50, 5), normal(50, 4, seed=1), normal(50, 3, seed=2)
REAL, REAL_SPATIAL = normal(60, 5, seed=3) + np.float32(0.3), normal(60, 3, seed=4)
DRAW = Draw(n=50, seed=7, splits=2, max_images=40, sizes=(20, 30))
SCORED = statistics.of(DRAW, FEATURES, LOGITS, SPATIAL)
REFERENCE = statistics.of(Draw(n=60, seed=7, splits=1, max_images=40), REAL, None, REAL_SPATIAL)
FROM_FILE = of_statistics(REFERENCE, **FACTS)


def fid(a, b):
    return frechet_distance(moments.of(a).gaussian(), moments.of(b).gaussian())


def test_a_row_has_the_numbers_of_the_single_metrics():
    row = score("generated", SCORED, REFERENCE, PROTOCOL)
    assert list(row) == KEYS
    assert json.loads(json.dumps(row)) == row
    assert (row["n"], row["n_reference"], row["notes"]) == (50, 60, [])
    assert row["fid"] == fid(FEATURES, REAL)
    assert row["sfid"] == fid(SPATIAL, REAL_SPATIAL)
    assert (row["inception_score"], row["inception_score_std"]) == inception_score(LOGITS, 2, seed=7)
    drawn = SCORED.drawn(40), REFERENCE.drawn(40)
    shares = dataclasses.asdict(compare(drawn[1], drawn[0], 3))
    assert {name: row[name] for name in shares} == shares
    assert (row["kid"], row["kid_std"]) == kid_of_subsets(*drawn, subsets=5, size=20, seed=7)
    values = [fid(FEATURES[np.argsort(DRAW.ranks())[:n]], REAL) for n in (20, 30, 50)]
    assert row["fid_sizes"] == dict(zip(["20", "30", "50"], values, strict=True))
    assert row["fid_infinity"] == fid_infinity([20, 30, 50], values)[0]


def test_a_row_carries_every_field_of_its_protocol():
    row = score("generated", SCORED, REFERENCE, PROTOCOL)
    for name, value in dataclasses.asdict(PROTOCOL).items():
        assert name in ("allow_small_n", "fewest_images") or row[name] == value
    for field in dataclasses.fields(PROTOCOL):
        if field.default is dataclasses.MISSING:
            given = {k: v for k, v in dataclasses.asdict(PROTOCOL).items() if k != field.name}
            with pytest.raises(TypeError, match=field.name):
                Protocol(**given)


def test_a_reference_in_a_file_gives_the_same_row(tmp_path):
    np.savez(tmp_path / "r.npz", **reference_to_arrays(FROM_FILE))
    with np.load(tmp_path / "r.npz", allow_pickle=False) as arrays:
        back = reference_from_arrays(arrays, "r.npz")
        assert set(arrays) == {"mu", "sigma", "mu_s", "sigma_s", "features", "protocol"}
        np.testing.assert_array_equal(arrays["sigma"], moments.of(REAL).gaussian().covariance)
    assert score("generated", SCORED, back, PROTOCOL) == score("generated", SCORED, REFERENCE, PROTOCOL)


def test_an_adm_reference_tells_less_and_the_row_says_what_is_missing():
    file = {"mu": FROM_FILE.gaussian.mean, "sigma": FROM_FILE.gaussian.covariance, "arr_0": np.zeros(3)}
    row = score("generated", SCORED, reference_from_arrays(file, "adm.npz"), PROTOCOL)
    assert row["fid"] == fid(FEATURES, REAL)
    for name in ("sfid", "precision", "recall", "density", "coverage", "kid", "kid_std", "n_reference"):
        assert row[name] is None
    for words in ("no sFID", "no precision, recall, density, coverage and KID", "encoder_hash", "resize",
                  "does not tell its number of images"):  # fmt: skip
        assert sum(words in note for note in row["notes"]) == 1, words
    assert reference_from_arrays({**file, "mu_s": np.zeros(3), "sigma_s": np.eye(3)}, "x").spatial is not None


def test_encoders_without_logits_have_no_inception_score():
    alone = statistics.of(dataclasses.replace(DRAW, sizes=()), FEATURES)
    row = score("generated", alone, REFERENCE, PROTOCOL)
    assert (row["inception_score"], row["inception_score_std"], row["sfid"]) == (None, None, None)
    assert (row["fid_sizes"], row["fid_infinity"]) == ({}, None)
    assert row["notes"] == ["no Inception Score: the encoder has no logits"]


def test_a_set_scored_against_itself_is_perfect():
    row = score("val", SCORED, SCORED, PROTOCOL)
    assert row["fid"] < 1e-9
    assert row["sfid"] < 1e-9
    assert (row["precision"], row["recall"], row["coverage"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["encoder", "encoder_hash", "resize"])
def test_a_reference_of_another_encoder_or_resize_is_refused(name):
    other = dataclasses.replace(FROM_FILE, **{name: "other"})
    expected = FACTS[name]
    with pytest.raises(DataError, match=f"reference train has {name} 'other'; expected '{expected}'"):
        score("generated", SCORED, other, PROTOCOL)


@pytest.mark.parametrize(
    ("change", "codec", "note"),
    [
        ({"codec": "jpeg"}, "png", "codec png against jpeg of the reference"),
        ({}, "jpeg", "codec jpeg against png"),
        ({"codec": "jpeg"}, "jpeg", "codec jpeg, which loses detail, on both sides"),
        ({"codec": "png"}, "png 90 %, jpeg 10 %", "codec png 90 %, jpeg 10 % against png"),
        ({"codec": "raw"}, "png", None),
        ({"codec": ""}, "png", "codec of the reference's images is not known"),
        ({"backend": "tensorflow"}, "png", "backend flax against tensorflow"),
        ({"resolution": 16}, "png", "8 px against 16 px"),
        ({"resize": ""}, "png", "does not tell its resize"),
        ({"features": None}, "png", "the reference has no images"),
        ({"features": FROM_FILE.features[:30]}, "png", "compare with 30 images of the reference"),
        ({"gaussian": dataclasses.replace(FROM_FILE.gaussian, count=5)}, "png", "covariance is singular"),
    ],
)
def test_differences_that_change_a_fid_are_noted(change, codec, note):
    protocol = dataclasses.replace(PROTOCOL, codec=codec, reference_codec="")
    notes = score("generated", SCORED, dataclasses.replace(FROM_FILE, **change), protocol)["notes"]
    assert len(notes) == (note is not None)
    assert all(note in found for found in notes)


def test_inception_refuses_small_sets_and_warns_where_they_are_allowed():
    protocol = dataclasses.replace(PROTOCOL, encoder="inception-2015-12-05", fewest_images=2048)
    with pytest.raises(DataError, match=r"50 images in the set: below 2048 .*--allow-small-n"):
        score("generated", SCORED, REFERENCE, protocol)
    notes = score("generated", SCORED, REFERENCE, dataclasses.replace(protocol, allow_small_n=True))["notes"]
    assert [note.split(":")[0] for note in notes] == [
        "50 images in the set",
        "60 images in the reference",
        "20 images in the smallest of sizes",
    ]
    assert all("mostly bias" in note for note in notes)


def test_inception_takes_large_sets():
    protocol = dataclasses.replace(PROTOCOL, encoder="inception-2015-12-05", fewest_images=20)
    assert score("generated", SCORED, REFERENCE, protocol)["notes"] == []


def test_what_the_sizes_of_the_sets_do_not_allow_is_said():
    draw = dataclasses.replace(DRAW, sizes=(20, 50, 80))
    protocol = dataclasses.replace(PROTOCOL, kid_subset_size=1000)
    row = score("generated", statistics.of(draw, FEATURES, LOGITS, SPATIAL), REFERENCE, protocol)
    assert list(row["fid_sizes"]) == ["20", "50"]
    assert (row["fid_infinity"], row["kid_subset_size"]) == (None, 40)
    assert [note.split(":")[0] for note in row["notes"]] == [
        "KID draws 40 images, the smaller set, and not 1000",
        "one KID of all 40 images of both sets",
        "no FID of 80 images",
        "no FID-infinity",
    ]


def test_features_too_small_for_their_rounding_are_noted():
    """The distance of float64 and ours part by more than a millionth there, and not where no note stands."""
    parted = []
    for power in (-6, -22):
        scale = np.float32(2.0**power)
        mine = statistics.of(dataclasses.replace(DRAW, sizes=()), FEATURES * scale, LOGITS, SPATIAL)
        real = statistics.of(REFERENCE.draw, REAL * scale, None, REAL_SPATIAL)
        plain = [Gaussian(len(x), x.mean(axis=0, dtype=float), np.cov(x.T.astype(float))) for x in
                 (FEATURES * scale, REAL * scale)]  # fmt: skip
        row, expected = score("generated", mine, real, PROTOCOL), frechet_distance(*plain)
        parted.append((abs(row["fid"] / expected - 1) > 1e-6, row["notes"]))
    assert parted[0] == (False, [])
    assert parted[1][0]
    assert [note.split(":")[0] for note in parted[1][1]] == ["features spread by 2.4e-07 only"]
    tiny = statistics.of(dataclasses.replace(DRAW, sizes=()), FEATURES, LOGITS, SPATIAL * np.float32(2e-7))
    assert "spatial features spread by" in score("x", tiny, REFERENCE, PROTOCOL)["notes"][0]


def test_sets_that_kid_takes_whole_have_one_kid():
    protocol = dataclasses.replace(PROTOCOL, kid_subset_size=40)
    row = score("generated", SCORED, REFERENCE, protocol)
    drawn = SCORED.drawn(40), REFERENCE.drawn(40)
    assert (row["kid"], row["kid_std"]) == (kid(*drawn), None)
    assert [note.split(":")[0] for note in row["notes"]] == ["one KID of all 40 images of both sets"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": ""}, "encoder = ''"),
        ({"encoder_hash": " "}, "encoder_hash = ' '"),
        ({"resize": None}, "resize = None"),
        ({"reference": ""}, "reference = ''"),
        ({"codec": ""}, "codec = ''"),
        ({"resolution": 0}, "resolution = 0"),
        ({"splits": True}, "splits = True"),
        ({"neighbours": 0}, "neighbours = 0"),
        ({"max_images": 1}, "max_images = 1"),
        ({"kid_subsets": 0}, "kid_subsets = 0"),
        ({"kid_subset_size": 1.5}, "kid_subset_size = 1.5"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_a_protocol_that_no_measurement_can_have_is_refused(change, message):
    with pytest.raises(ConfigError, match=f"protocol: {message}"):
        dataclasses.replace(PROTOCOL, **change)


def test_scoring_names_the_set_that_cannot_be_scored():
    with pytest.raises(DataError, match="set name ' '"):
        score(" ", SCORED, REFERENCE, PROTOCOL)
    with pytest.raises(ConfigError, match="neighbours = 40 needs more than the 40 images"):
        score("x", SCORED, REFERENCE, dataclasses.replace(PROTOCOL, neighbours=40))
    wider = Reference(gaussian=Gaussian(60, np.zeros(6), np.eye(6)))
    with pytest.raises(DataError, match="5 features against 6"):
        score("x", SCORED, wider, PROTOCOL)


@pytest.mark.parametrize(("name", "value"), [("fid", NAN), ("recall", 1.1), ("kid", INF), ("sfid", -1.0)])
def test_numbers_that_a_metric_cannot_have_are_not_written(name, value):
    numbers = dict.fromkeys(scoring.NUMBERS) | {name: value}
    with pytest.raises(DataError, match=f"generated: {name} = "):
        scoring._check_numbers("generated", numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": None}, "r.npz: sigma missing among mu"),
        ({"mu": None, "sigma": None}, "r.npz: mu and sigma missing"),
        ({"sigma_s": None}, "r.npz: mu_s without sigma_s"),
        ({"mu": np.zeros(4)}, r"r.npz: statistics: mean \(4,\) and covariance \(5, 5\)"),
        ({"mu": np.full(5, NAN)}, "r.npz: statistics: found NaN"),
        ({"sigma": -np.eye(5)}, "r.npz: sigma is no covariance: its lowest eigenvalue is -1; expected none"),
        ({"sigma": np.triu(np.ones((5, 5)))}, "r.npz: sigma is no covariance: entries differ by up to 1 "),
        ({"sigma_s": np.diag([1.0, 1.0, -1e-3])}, "r.npz: sigma_s is no covariance: its lowest .* is -0.001"),
        ({"mu": np.zeros(5, int)}, "r.npz: mu is int64"),
        ({"features": np.full((3, 5), NAN)}, "r.npz: features: 3 of 3 rows"),
        ({"protocol": np.array("{")}, "r.npz: its protocol cannot be read"),
        ({"protocol": np.array("{}")}, "r.npz: its protocol cannot be read"),
    ],
)
def test_a_damaged_reference_is_refused(change, message):
    arrays = {k: v for k, v in {**reference_to_arrays(FROM_FILE), **change}.items() if v is not None}
    with pytest.raises(DataError, match=message):
        reference_from_arrays(arrays, "r.npz")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("count", [2, 20, 200])
def test_a_singular_covariance_and_one_rounded_to_float32_are_taken(dtype, count):
    gaussian = moments.of(normal(count, 60)).gaussian()
    rounded = gaussian.covariance.astype(dtype)
    for sigma in (rounded, rounded.astype(np.float64), np.zeros((60, 60))):
        found = reference_from_arrays({"mu": gaussian.mean, "sigma": sigma}, "r.npz")
        np.testing.assert_array_equal(found.gaussian.covariance, sigma)
