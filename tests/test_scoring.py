"""score, reference and export as a person calls them: numbers, files, protocol, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import signal
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from synthaug import __main__ as command_line
from synthaug import arguments, experiment, parallel
from synthaug.__main__ import main, parse
from synthaug.console import Watch
from synthaug.data import shards
from synthaug.data.collection import open_images
from synthaug.data.export import card_path
from synthaug.errors import DataError, Interrupted, SynthaugError
from synthaug.manifest import ClassEntry, ClassTable
from synthaug.metrics import fid, moments
from synthaug.metrics.score import NUMBERS
from synthaug.metrics.statistics import Draw
from synthaug.rundir import RunDir
from synthaug.stages import encoding, scorecard, scoring, sides
from synthaug.stages.arrays import write_arrays
from synthaug.stages.encoders import Encoded, Encoder
from synthaug.stages.request import Request, request_of
from synthaug.stages.selection import selection_file
from synthaug.train.quiet import hold_back_stderr
from tests import inception_graph, study, tiny_dinov2

SIDE = 16
SHARED = ("splits", "neighbours", "max_images", "kid_subsets", "kid_subset_size")
WEIGHTS = ["--weights", "weights.pb", "--allow-small-n", "--quiet"]


# ------------------------------------------------------------------------------------- a tiny encoder


def features_of(images: np.ndarray) -> np.ndarray:
    """Returns f32[B,6]: means over halves, by channel."""
    images, half = np.repeat(images, 3 // images.shape[3], axis=3), images.shape[1] // 2
    parts = [images[:, :half].mean((1, 2)), images[:, half:].mean((1, 2))]
    return (np.concatenate(parts, axis=1) / 64).astype(np.float32)


def tiny(name: str = "inception-tiny", sha256: str = "ab" * 32, damage: float = 0.0) -> Encoder:
    """An encoder that costs nothing; `damage` is added to every feature."""

    def look(images: np.ndarray) -> Encoded:
        features = features_of(images) + np.float32(damage)
        return Encoded(features, features[:, :4] * np.float32(3), features[:, ::2])

    return Encoder(
        name=name,
        sha256=sha256,
        backend="flax",
        batch_size=8,
        channels=3,
        num_features=6,
        num_logits=4,
        num_spatial=3,
        shrink_to=0,
        own_resize=lambda side: f"{side}->tiny",
        look=look,
        fewest_images=experiment.fewest_images(name.partition("-")[0]),
    )


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Encoder], None]:
    """Puts the tiny encoder, or another, in the place of the real ones."""

    def use(made: Encoder) -> None:
        monkeypatch.setattr(scoring, "open_encoder_of", lambda request: made)

    use(tiny())
    return use


def pictures(count: int, seed: int, side: int = SIDE) -> np.ndarray:
    """Returns u8[count,side,side,3] with some structure."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, side // 4, side // 4, 1), np.int64)).astype(np.uint8)


def write_folder(folder: pathlib.Path, images: np.ndarray, suffix: str = "png") -> str:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.{suffix}")
    return str(folder)


@pytest.fixture
def sets(tmp_path: pathlib.Path) -> tuple[str, str]:
    """Two folders, of 30 and of 24 images."""
    first = write_folder(tmp_path / "made", pictures(30, 0))
    return first, write_folder(tmp_path / "real", pictures(24, 1))


def request(*words: str, verb: str = "score", defaults: bool = True) -> Request:
    named = ["IMAGES", "--reference", "REF"] if verb == "score" else ["IMAGES", "OUT.npz"]
    return request_of(parse([verb, *named, *(WEIGHTS if defaults else []), *words]))


def score(images: str, reference: str, *words: str) -> dict[str, Any]:
    return scoring.score_images(request("--splits", "3", *words), images, reference)


def refused(images: str, reference: str, *words: str) -> str:
    """Returns the one line of an error of the user."""
    with pytest.raises(SynthaugError) as caught:
        score(images, reference, *words)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.fixture
def unused(encoder: Callable[[Encoder], None]) -> None:
    """An encoder that must not be opened: what is refused is refused before."""
    encoder(dataclasses.replace(tiny(), look=forbidden))


def forbidden(images: np.ndarray) -> Encoded:
    raise AssertionError("encoded, though nothing should be")


# ------------------------------------------------------------------------------------------- numbers


def test_numbers_are_those_of_the_metrics(sets: tuple[str, str]) -> None:
    result = score(*sets)
    features = [features_of(pictures(n, seed)) for n, seed in ((30, 0), (24, 1))]
    expected = fid.frechet_distance(*(moments.of(f).gaussian() for f in features))
    assert result["score"]["fid"] == pytest.approx(expected, rel=1e-12)
    assert result["score"]["sfid"] == pytest.approx(
        fid.frechet_distance(*(moments.of(f[:, ::2]).gaussian() for f in features)), rel=1e-12
    )


def test_a_set_against_itself_has_no_distance(sets: tuple[str, str]) -> None:
    row = score(sets[0], sets[0])["score"]
    assert abs(row["fid"]) < 1e-9 and abs(row["sfid"]) < 1e-9
    assert (row["precision"], row["recall"], row["coverage"]) == (1.0, 1.0, 1.0)


def test_result_carries_the_whole_protocol(sets: tuple[str, str]) -> None:
    result = score(*sets, "--seed", "3", "--kid-subsets", "5", "--sizes", "10,20")
    assert set(result) == {
        "images", "reference", "score", "encoder_batch_size", "size", "resize", "num_images", "seconds",
        "images_per_second", "versions",
    }  # fmt: skip
    assert set(result["score"]) == {
        "set", "resolution", "reference", "n", "encoder", "fid", "sfid", "inception_score",
        "inception_score_std", "precision", "recall", "density", "coverage", "kid", "kid_std", "fid_sizes",
        "fid_infinity", "notes", "n_reference", "encoder_hash", "backend", "resize", "splits", "neighbours",
        "max_images", "kid_subsets", "kid_subset_size", "seed", "codec", "reference_codec",
    }  # fmt: skip
    row = result["score"]
    assert (row["n"], row["n_reference"], row["resolution"], row["splits"]) == (30, 24, SIDE, 3)
    assert (row["codec"], row["reference_codec"], row["resize"]) == ("png", "png", "16->tiny")
    assert set(row["fid_sizes"]) == {"10", "20", "30"} and row["fid_infinity"] is not None
    assert {"synthaug", "jax", "numpy", "pillow", "tensorflow", "device"} <= set(result["versions"])
    assert json.loads(scorecard.as_json(result)) == result
    assert any("2048" in note for note in row["notes"])  # the bias of small sets


def test_every_container_gives_the_same_numbers(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    pixels = pictures(30, 0)
    np.savez(tmp_path / "made.npz", arr_0=pixels)
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for file in sorted(pathlib.Path(sets[0]).iterdir()):
            archive.write(file, file.name)
    rows = [
        score(str(path), sets[1])["score"] for path in (sets[0], tmp_path / "made.npz", tmp_path / "made.zip")
    ]
    for name in ("fid", "sfid", "inception_score", "precision", "recall", "density", "coverage", "kid"):
        assert len({row[name] for row in rows}) == 1, name


def test_a_draw_of_images_and_splits_of_a_size(sets: tuple[str, str]) -> None:
    result = scoring.score_images(request("--num-images", "20", "--split-size", "5"), *sets)
    assert (result["score"]["n"], result["images"]["of"], result["score"]["splits"]) == (20, 30, 4)
    assert result["score"]["n_reference"] == 24  # the reference is never drawn from
    again = scoring.score_images(request("--num-images", "20", "--split-size", "5"), *sets)
    assert again["score"] == result["score"]
    other = scoring.score_images(request("--num-images", "20", "--split-size", "5", "--seed", "1"), *sets)
    assert other["score"]["fid"] != result["score"]["fid"]


def test_sizes_are_brought_together_by_a_named_resize(tmp_path: pathlib.Path) -> None:
    made = write_folder(tmp_path / "made", pictures(12, 0, 32))
    real = write_folder(tmp_path / "real", pictures(12, 1, 16))
    assert "name --size and --resize" in refused(made, real)
    row = score(made, real, "--size", "16", "--resize", "area")["score"]
    assert row["resolution"] == 16
    assert row["fid"] == pytest.approx(
        score(write_folder(tmp_path / "small", pictures(12, 0)), real)["score"]["fid"], rel=1e-9
    )


# ----------------------------------------------------------------------------------------- reference


def test_reference_file_gives_the_numbers_of_its_images(
    sets: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "real.npz"
    words = ("--max-images", "12")
    said = scoring.write_reference(request(*words, verb="reference"), sets[1], out)
    assert "24 images" in said
    direct, through = score(*sets, *words)["score"], score(sets[0], str(out), *words)["score"]
    assert {k: v for k, v in direct.items() if k != "reference"} == {
        k: v for k, v in through.items() if k != "reference"
    }
    with np.load(out) as arrays:  # as pytorch-fid and ADM's evaluator read it
        features = features_of(pictures(24, 1))
        np.testing.assert_allclose(arrays["mu"], features.astype(np.float64).mean(0), rtol=1e-8)
        np.testing.assert_allclose(
            arrays["sigma"], np.cov(features.astype(np.float64), rowvar=False), rtol=1e-6
        )
        assert {"mu_s", "sigma_s", "features", "protocol"} <= set(arrays.files)


def test_reference_is_written_once(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    out = tmp_path / "real.npz"
    scoring.write_reference(request(verb="reference"), sets[1], out)
    before = out.read_bytes()
    assert "nothing left to do" in scoring.write_reference(request(verb="reference"), sets[1], out)
    with pytest.raises(SynthaugError, match="other images, weights or settings"):
        scoring.write_reference(request(verb="reference"), sets[0], out)
    assert out.read_bytes() == before
    out.unlink()
    scoring.write_reference(request(verb="reference"), sets[1], out)
    assert out.read_bytes() == before


def test_reference_of_another_encoder_or_resize_is_refused(
    sets: tuple[str, str], tmp_path: pathlib.Path, encoder: Callable[[Encoder], None], unused: None
) -> None:
    out = tmp_path / "real.npz"
    for made, expected in (
        (tiny(name="dinov2-tiny"), "encoder are dinov2-tiny"),
        (tiny(sha256="cd" * 32), "weights are cdcd"),
    ):
        encoder(made)
        scoring.write_reference(request(verb="reference"), sets[1], out)
        encoder(tiny())
        assert expected in refused(sets[0], str(out))
        out.unlink()
    large = write_folder(tmp_path / "large", pictures(12, 1, 32))
    scoring.write_reference(request(verb="reference"), large, out)
    assert "resizes are 32->tiny, those of this command 16->tiny" in refused(sets[0], str(out))


def test_adm_reference_has_statistics_and_images(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    features = features_of(pictures(24, 1)).astype(np.float64)
    adm = {"mu": features.mean(0), "sigma": np.cov(features, rowvar=False)}
    adm |= {"mu_s": adm["mu"][::2], "sigma_s": adm["sigma"][::2, ::2]}
    np.savez(tmp_path / "adm.npz", arr_0=pictures(24, 1), **adm)
    np.savez(tmp_path / "fid.npz", mu=adm["mu"], sigma=adm["sigma"])
    expected = score(*sets)["score"]
    row = score(sets[0], str(tmp_path / "adm.npz"))["score"]
    assert row["fid"] == pytest.approx(expected["fid"], rel=1e-6)
    assert row["sfid"] == pytest.approx(expected["sfid"], rel=1e-6)
    for name in ("precision", "recall", "density", "coverage", "kid"):
        assert row[name] == expected[name]
    assert row["n_reference"] is None and any("encoder_hash" in note for note in row["notes"])
    row = score(sets[0], str(tmp_path / "fid.npz"))["score"]
    assert row["fid"] == pytest.approx(expected["fid"], rel=1e-6)
    assert row["sfid"] is None and row["precision"] is None and row["kid"] is None
    assert any("precision" in note for note in row["notes"]) and any("sFID" in note for note in row["notes"])


def test_a_run_lends_its_encoder(
    sets: tuple[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # what opens an encoder
    study_settings = experiment.load(study.TINY, [])
    run = RunDir(tmp_path / "run")
    run.create(study_settings)
    asked = request("--encoder", str(run.path), "--quiet", "--splits", "3", defaults=False)
    assert (asked.kind, asked.channels()) == ("classifier", study_settings.data.channels)
    lent = dataclasses.replace(tiny(name="classifier"), channels=1)
    monkeypatch.setattr(scoring, "load_encoder", lambda found, settings: {run.path: lent}[found.path])
    grey = [write_folder(tmp_path / f"grey{i}", pictures(12, i)[..., 0]) for i in range(2)]
    row = scoring.score_images(asked, *grey)["score"]
    assert row["encoder"] == "classifier" and row["n"] == 12  # and no word about 2048 images is needed
    with pytest.raises(SynthaugError, match="has colours; expected grey"):
        scoring.score_images(asked, *sets)
    with pytest.raises(SynthaugError, match="has its own weights"):
        request("--encoder", str(run.path), "--weights", "weights.pb", defaults=False)


# --------------------------------------------------------------------------------------------- cache


def test_cache_encodes_nothing_twice_and_changes_no_bit(
    sets: tuple[str, str], tmp_path: pathlib.Path, encoder: Callable[[Encoder], None], unused: None
) -> None:
    cache = ["--cache", str(tmp_path / "cache")]
    encoder(tiny())
    plain, first = score(*sets), score(*sets, *cache)
    assert first["score"] == plain["score"] and first["images_per_second"]
    encoder(dataclasses.replace(tiny(), look=forbidden))
    again = score(*sets, *cache)
    assert again["score"] == plain["score"] and again["images_per_second"] is None
    file = pathlib.Path(sets[0]) / "000.png"
    Image.fromarray(pictures(1, 9)[0]).save(file)  # other images, another file of the cache
    encoder(tiny())
    assert score(*sets, *cache)["score"]["fid"] != plain["score"]["fid"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_stop_keeps_what_is_encoded(
    sets: tuple[str, str], tmp_path: pathlib.Path, encoder: Callable[[Encoder], None], kept: bool
) -> None:
    cache = ["--cache", str(tmp_path / "cache")] if kept else []
    plain, seen = score(*sets)["score"], []

    def stopping(images: np.ndarray) -> Encoded:
        seen.append(len(images))
        if len(seen) == 5:  # the reference has 3 batches, this is the second of the set
            signal.raise_signal(signal.SIGTERM)
        return tiny().look(images)

    encoder(dataclasses.replace(tiny(), look=stopping))
    with pytest.raises(Interrupted, match="stopped by SIGTERM after 16 of 30") as caught:
        score(*sets, *cache)
    assert caught.value.exit_code == 75
    assert ("run the same command again to go on" in str(caught.value)) == kept
    assert ("--cache" in str(caught.value)) != kept
    assert score(*sets, *cache)["score"] == plain
    assert len(seen) == 5 + (2 if kept else 7)


def test_a_kill_costs_what_was_not_saved(
    sets: tuple[str, str],
    tmp_path: pathlib.Path,
    encoder: Callable[[Encoder], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "SAVE_SECONDS", 0.0)
    cache, seen = ["--cache", str(tmp_path / "cache")], []
    plain = score(*sets)["score"]

    def dying(images: np.ndarray) -> Encoded:
        seen.append(len(images))
        if len(seen) == 6:  # the reference has 3 batches, this is the third of the set
            raise KeyboardInterrupt
        return tiny().look(images)

    encoder(dataclasses.replace(tiny(), look=dying))
    with pytest.raises(KeyboardInterrupt):
        score(*sets, *cache)
    (tmp_path / "cache" / ".half.npz.1-0.tmp").write_bytes(b"half a file")  # of the attempt that was killed
    assert score(*sets, *cache)["score"] == plain
    assert len(seen) == 6 + 2


def test_a_torn_cache_is_named(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    score(*sets, "--cache", str(tmp_path / "cache"))
    for file in (tmp_path / "cache").glob("*.npz"):
        file.write_bytes(file.read_bytes()[:500])
    assert "delete it and run again" in refused(*sets, "--cache", str(tmp_path / "cache"))
    for file in (tmp_path / "cache").glob("*.npz"):
        np.savez(file, state=np.array([0, SIDE]), seen_images=np.zeros((2, 0), np.uint8))
    text = refused(*sets, "--cache", str(tmp_path / "cache"))
    assert text.startswith(f"{tmp_path / 'cache'}/") and ".npz: is no whole file" in text
    assert "missing" in text and "delete it and run again" in text


# ----------------------------------------------------------------------------------------- bad input


@pytest.mark.usefixtures("unused")
def test_sets_that_cannot_be_scored_are_refused_before_work(
    sets: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images" in refused(str(tmp_path / "empty"), sets[1])
    assert "no such file" in refused(str(tmp_path / "nowhere"), sets[1])
    mixed = pathlib.Path(write_folder(tmp_path / "mixed", pictures(12, 0)))
    Image.fromarray(pictures(1, 0, 32)[0]).save(mixed / "x.png")
    text = refused(str(mixed), sets[1])
    assert "mixed sizes" in text and "32 x 32 (1)" in text and "name --size and --resize" in text
    assert "mixed sizes" in refused(sets[0], str(mixed))
    alpha = pathlib.Path(write_folder(tmp_path / "alpha", pictures(12, 0)))
    Image.fromarray(np.full((SIDE, SIDE, 4), 100, np.uint8)).save(alpha / "x.png")
    assert "1 of 13 images" in refused(str(alpha), sets[1])
    few = write_folder(tmp_path / "few", pictures(2, 0))
    assert "2 images for 3 splits" in refused(few, sets[1])
    assert "neighbours" in refused(sets[0], few)
    assert "lower --num-images" in refused(*sets, "--num-images", "31")
    assert "lower --sizes" in refused(*sets, "--sizes", "10,40")
    text = refused(*sets, "--size", "16", "--resize", "foo")
    assert "resize 'foo' is unknown; expected one of" in text and text.count("expected one of") == 1
    assert text.endswith("pillow-lanczos.")
    assert "lower --neighbours" in refused(*sets, "--max-images", "3")
    assert "--reference: 24 images; expected more than 24" in refused(*sets, "--neighbours", "24")
    one = write_folder(tmp_path / "one", pictures(1, 0))
    assert "IMAGES: 1 image for 3 splits" in refused(one, sets[1])


@pytest.mark.usefixtures("unused")
def test_small_sets_need_a_word(sets: tuple[str, str]) -> None:
    asked = request("--weights", "weights.pb", "--quiet", defaults=False)
    with pytest.raises(
        DataError, match=r"30 images, for which a FID of Inception is mostly bias; .*--allow-small-n"
    ):
        scoring.score_images(asked, *sets)


@pytest.mark.usefixtures("unused")
def test_sizes_too_small_are_named_as_such(sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "fewest_images", lambda kind: 20)
    asked = request("--weights", "weights.pb", "--quiet", "--sizes", "2,25", defaults=False)
    with pytest.raises(DataError, match=r"^--sizes: 2 images, for which a FID of Inception"):
        scoring.score_images(asked, *sets)


def test_resizes_by_another_filter_are_refused(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    large = write_folder(tmp_path / "large", pictures(12, 1, 32))
    small = ("--size", "16", "--resize")
    out = tmp_path / "area.npz"
    scoring.write_reference(request(*small, "area", verb="reference"), large, out)
    other = write_folder(tmp_path / "other", pictures(12, 2, 32))
    text = refused(other, str(out), *small, "pillow-bicubic")
    assert "resizes are area ->16, 8 bit; 16->tiny" in text and "pillow-bicubic ->16, 8 bit; 16->tiny" in text
    result = score(other, str(out), *small, "area")
    assert result["score"]["resize"] == "area ->16, 8 bit; 16->tiny"
    assert result["images"]["resize"] == "area ->16, 8 bit"
    assert not any("resized before" in note for note in result["score"]["notes"])
    assert "resize: area ->16, 8 bit; 16->tiny" in "\n".join(scorecard.protocol(result))
    row = score(sets[0], str(out))["score"]  # samples have their size, the real images were brought to it
    assert row["resize"] == "16->tiny"
    assert "resized before the encoder: IMAGES not at all, the reference area ->16, 8 bit" in row["notes"]
    row = score(sets[0], large, *small, "area")["score"]
    assert any("IMAGES not at all, the reference area" in note for note in row["notes"])


def test_what_becomes_of_odd_images_is_noted(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    odd = pathlib.Path(write_folder(tmp_path / "odd", pictures(12, 0)))
    Image.fromarray(pictures(1, 3)[0, ..., 0]).save(odd / "grey.png")
    Image.fromarray(np.dstack([pictures(1, 4)[0], np.full((SIDE, SIDE), 255, np.uint8)])).save(
        odd / "rgba.png"
    )
    Image.fromarray(pictures(1, 5)[0, :8]).save(odd / "wide.png")
    for name in ("a.tif", "b.tiff", "notes.txt"):
        (odd / name).write_bytes(b"II*")
    words = ("--size", "16", "--resize", "pillow-bicubic", "--cache", str(tmp_path / "cache"))
    result = score(str(odd), sets[1], *words)
    facts, notes = result["images"], result["score"]["notes"]
    names = ("grey", "alpha_dropped", "enlarged", "stretched", "not_images")
    assert [facts[name] for name in names] == [1, 1, 1, 1, 3]
    assert facts["not_images_first"] == ["a.tif", "b.tiff", "notes.txt"]
    for expected in (
        "2 files of kinds that are not read, left out: a.tif, b.tiff",
        "grey repeated to 3 channels in 1 of 15 images",
        "an opaque alpha channel dropped in 1 of 15 images",
        "pixels made up to reach 16 px in 1 of 15 images",
        "no square, and pulled out of shape by pillow-bicubic in 1 of 15 images",
    ):
        assert f"{odd}: {expected}" in notes
    again = score(str(odd), sets[1], *words)  # from the cache
    assert (again["score"], again["images"]) == (result["score"], facts)


def test_codec_is_of_the_images_that_count(tmp_path: pathlib.Path) -> None:
    made = write_folder(tmp_path / "made", np.repeat(pictures(2, 0), 600, axis=0))
    photo = pathlib.Path(write_folder(tmp_path / "photo", pictures(1, 3), "jpg")) / "000.jpg"
    (pathlib.Path(made) / "0001.jpg").write_bytes(photo.read_bytes())  # not among the 1000 looked at first
    words = ("--cache", str(tmp_path / "cache"))
    first = score(made, made, *words)
    assert first["score"]["codec"] == first["score"]["reference_codec"] == "png 99.9 %, jpeg 0.0833 %"
    again = score(made, made, *words)
    assert again["score"] == first["score"] and again["images_per_second"] is None
    assert not any("FID sees" in note for note in again["score"]["notes"])


def test_a_run_s_set_is_scored_as_its_study_does(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "run")
    run = RunDir(tmp_path / "run")
    words = ("--neighbours", "2")
    assert score(f"{run.path}:generated/8", str(folder), *words)["score"]["n"] == 14  # nothing is known yet
    run.finish("collect", 0, {"result": {"num_train": 6, "sets": {}}})
    result = score(f"{run.path}:generated/8", str(folder), *words)
    assert (result["score"]["n"], result["images"]["of"]) == (6, 14)
    assert result["score"]["n_reference"] == 14  # the folder means all of it
    assert any("the first 6 of 14 images, one copy" in note for note in result["score"]["notes"])
    first = write_folder(tmp_path / "first", pictures(14, 0, 8)[:6])
    assert score(first, str(folder), *words)["score"]["fid"] == result["score"]["fid"]
    chosen = {"index": np.array([1, 2, 4, 7, 8]), "copy": np.array([0, 0, 0, 0, 1], np.int32)}
    sha256 = write_arrays(selection_file(run), {**chosen, "missing": np.zeros(2, np.int64)})
    run.finish("select", 0, {"result": {"sha256": sha256}})
    result = score(f"{run.path}:generated/8", str(folder), *words)
    assert any("4 of 14 images, the filter's choice" in note for note in result["score"]["notes"])
    kept = write_folder(tmp_path / "kept", pictures(14, 0, 8)[[1, 2, 4, 7]])
    assert score(kept, str(folder), *words)["score"]["fid"] == result["score"]["fid"]
    assert f"name the folder {folder} for all" in refused(
        f"{run.path}:generated/8", str(folder), "--num-images", "9"
    )
    assert score(str(folder), str(folder), *words, "--num-images", "9")["score"]["n"] == 9


def test_sizes_are_compared_across_a_stop(tmp_path: pathlib.Path, encoder: Callable[[Encoder], None]) -> None:
    made = pathlib.Path(write_folder(tmp_path / "made", pictures(30, 0)))
    cache, seen = ["--cache", str(tmp_path / "cache")], []

    def stopping(images: np.ndarray) -> Encoded:
        seen.append(len(images))
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        return tiny().look(images)

    encoder(dataclasses.replace(tiny(), look=stopping))
    asked = request("--splits", "3", *cache)
    everything = sides.look_at(asked, str(made), "IMAGES")
    before = {file: os.stat(file) for file in made.iterdir()}
    draw = Draw(n=30, seed=0, splits=1, max_images=10)
    watch = Watch(1, 0, quiet=True, interval=1.0)

    def pass_of(side: sides.Side) -> Any:
        return encoding.measure(
            side.images, side.numbers, dataclasses.replace(tiny(), look=stopping), draw, side.view,
            what="IMAGES", cache=asked.cache, watch=watch,
        )  # fmt: skip

    with pytest.raises(Interrupted):
        pass_of(everything)
    for i in range(16, 30):  # larger, in files of the same size and time
        file = made / f"{i:03}.png"
        data = io.BytesIO()
        Image.fromarray(np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)).save(data, "PNG")
        room = before[file].st_size - len(data.getvalue())
        assert room >= 0
        file.write_bytes(data.getvalue() + bytes(room))
        os.utime(file, ns=(before[file].st_atime_ns, before[file].st_mtime_ns))
    again = dataclasses.replace(everything, images=open_images(str(made), what="IMAGES"))
    with pytest.raises(DataError, match="32 x 32 px, expected 16 x 16 px"):
        pass_of(again)


@pytest.mark.usefixtures("unused")
def test_a_cache_that_cannot_be_written_is_refused_before_work(
    sets: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(*sets, "--cache", str(tmp_path / "file" / "cache"))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")],
)
def test_too_large_a_batch_is_one_line(
    sets: tuple[str, str], encoder: Callable[[Encoder], None], error: Exception
) -> None:
    def full(images: np.ndarray) -> Encoded:
        raise error

    encoder(dataclasses.replace(tiny(), look=full))
    assert "batch_size = 8: too little memory" in refused(*sets)
    encoder(dataclasses.replace(tiny(), look=broken))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):  # a fault of ours keeps its traceback
        score(*sets)


def broken(images: np.ndarray) -> Encoded:
    raise jax.errors.JaxRuntimeError("INTERNAL: broken")


def test_a_frozen_graph_of_another_origin_is_noted(
    sets: tuple[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "graph.pb"
    graph.write_bytes(b"some graph")
    words = ("--splits", "3", "--weights", str(graph), "--allow-small-n", "--quiet")
    note = f"{graph} is not the published file"
    row = scoring.score_images(request(*words, defaults=False), *sets)["score"]
    assert any(text.startswith(note) for text in row["notes"])
    said = scoring.write_reference(
        request(*words[2:], verb="reference", defaults=False), sets[1], tmp_path / "r.npz"
    )
    assert f"note: {note}" in said
    monkeypatch.setattr(scoring, "PUBLISHED", hashlib.sha256(b"some graph").hexdigest())
    row = scoring.score_images(request(*words, defaults=False), *sets)["score"]
    assert not any(text.startswith(note) for text in row["notes"])


def test_grey_images_are_repeated(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    grey = pictures(12, 0)[..., :1]
    one = write_folder(tmp_path / "grey", grey[..., 0])
    three = write_folder(tmp_path / "colour", np.repeat(grey, 3, axis=3))
    assert score(one, sets[1])["score"]["fid"] == score(three, sets[1])["score"]["fid"]


def test_corrupt_images_are_counted_and_named(sets: tuple[str, str]) -> None:
    (pathlib.Path(sets[0]) / "007.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (pathlib.Path(sets[0]) / "zero.png").write_bytes(b"")
    text = refused(*sets)
    assert "2 of 31 images cannot be read" in text and "007.png" in text and "--skip-corrupt" in text
    result = score(*sets, "--skip-corrupt")
    assert [*result["images"]["skipped"]] == ["007.png", "zero.png"]
    assert (result["score"]["n"], result["images"]["of"]) == (29, 31)
    kept = pictures(30, 0)[[i for i in range(30) if i != 7]]
    other = write_folder(pathlib.Path(sets[0]).parent / "kept", kept)
    assert score(other, sets[1])["score"]["fid"] == result["score"]["fid"]


def test_features_that_are_not_finite_are_named(
    sets: tuple[str, str], encoder: Callable[[Encoder], None]
) -> None:
    encoder(tiny(damage=float("nan")))
    text = refused(*sets)
    assert "NaN or inf for all of 8 images, first for 000.png" in text and "weights" in text


def test_a_mix_of_codecs_is_noted(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    photos = write_folder(tmp_path / "photos", pictures(24, 1), "jpg")
    row = score(sets[0], photos)["score"]
    assert (row["codec"], row["reference_codec"]) == ("png", "jpeg")
    assert any("jpeg" in note for note in row["notes"])


@pytest.mark.usefixtures("unused")
def test_statistics_that_are_not_whole_are_refused(sets: tuple[str, str], tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "half.npz", sigma=np.eye(6), mu_s=np.zeros(3))
    assert "mu missing among" in refused(sets[0], str(tmp_path / "half.npz"))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(9), sigma=np.eye(9))
    assert "features are 9, those of this command 6" in refused(sets[0], str(tmp_path / "wide.npz"))
    whole = {"mu": np.zeros(6), "sigma": np.eye(6)}
    np.savez(tmp_path / "narrow.npz", **whole, features=np.zeros((9, 5), np.float32))
    assert "features of single images are 5" in refused(sets[0], str(tmp_path / "narrow.npz"))
    np.savez(tmp_path / "spatial.npz", **whole, mu_s=np.zeros(4), sigma_s=np.eye(4))
    assert "spatial features are 4, those of this command 3" in refused(
        sets[0], str(tmp_path / "spatial.npz")
    )
    np.savez(tmp_path / "few.npz", **whole, features=np.zeros((3, 6), np.float32))
    assert "features of --reference: 3 images" in refused(sets[0], str(tmp_path / "few.npz"))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04torn")
    assert "torn.npz" in refused(sets[0], str(tmp_path / "torn.npz"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--encoder", "inception"], "no weights for inception"),
        (["--encoder", "dinov2"], "https://huggingface.co/facebook/dinov2-large"),
        (["--encoder", "inceptoin"], "did you mean 'inception'?"),
        ([*WEIGHTS, "--neighbours", "0"], "neighbours = 0 is out of range"),
        ([*WEIGHTS, "--kid-subset-size", "many"], "kid_subset_size = 'many'"),
        ([*WEIGHTS, "--sizes", "10,1"], "sizes[1] = 1 is out of range"),
        ([*WEIGHTS, "--backend", "torch"], "backend = 'torch'; expected one of flax, tensorflow"),
        ([*WEIGHTS, "--splits", "2", "--split-size", "5"], "exclude each other"),
        ([*WEIGHTS, "--size", "64"], "name both"),
        ([*WEIGHTS, "--num-images", "0"], "num_images = 0"),
        ([*WEIGHTS, "--seed", "-1"], "seed = -1"),
    ],
)
def test_words_that_mean_nothing_are_refused(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "IMAGES", "--reference", "REF", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("synthaug: score: ") and expected in line


def test_a_file_that_cannot_be_written_is_refused_before_work(
    sets: tuple[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for verb in (
        ["score", sets[0], "--reference", sets[1], "--json", str(blocked / "x.json"), *WEIGHTS],
        ["reference", sets[0], str(blocked / "x.npz"), *WEIGHTS],
        ["reference", sets[0], str(tmp_path / "x.pt"), *WEIGHTS],
    ):
        assert main(verb) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


# -------------------------------------------------------------------------------------- command line


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices and signals are the test's own."""
    monkeypatch.setattr(parallel, "start", lambda site, cache: None)
    monkeypatch.setattr(command_line, "_stop_on_signals", lambda rest: None)


@pytest.mark.usefixtures("started")
def test_table_and_json(
    sets: tuple[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", sets[0], "--reference", sets[1], *WEIGHTS[:-1], "--splits", "3"]
    assert main([*words, "--json", str(tmp_path / "score.json")]) == 0
    shown, progress = capsys.readouterr()
    row = json.loads((tmp_path / "score.json").read_text())["score"]
    lines = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert f"{row['fid']:.4f}" in lines["FID"] and "n = 30, reference n = 24" in lines["FID"]
    assert f"{row['inception_score']:.3f} ± {row['inception_score_std']:.3f}" in lines["Inception Score"]
    assert f"{row['kid']:.6f} ± {row['kid_std']:.6f}" in lines["KID"]
    assert {"sFID", "Precision", "Recall", "Density", "Coverage"} <= lines.keys()
    assert f"images:    {sets[0]} (folder, 16 px, png)" in shown and "weights abababababababab" in shown
    assert progress.splitlines()[-1].startswith(f"[2/2] {sets[0]}")
    assert main([*words, "--json", "-"]) == 0
    out, table = capsys.readouterr()
    assert json.loads(out)["score"] == row and "Inception Score" in table
    assert main([*words, "--quiet", "--json", str(tmp_path / "score.json")]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("started")
def test_reference_says_what_it_wrote(
    sets: tuple[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reference", sets[1], str(tmp_path / "real.npz"), *WEIGHTS[:-1]]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("statistics of 24 images of 16 px under inception-tiny\n")
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("nothing left to do.\n")
    (tmp_path / "real.npz").write_bytes(b"mine")
    assert main(words) == 2
    assert "delete or rename it" in capsys.readouterr().err


def test_a_terminal_gets_a_table(sets: tuple[str, str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    scorecard.show(score(*sets), screen)
    assert (
        "metric" in screen.getvalue() and "━" in screen.getvalue() and "Inception Score" in screen.getvalue()
    )


def test_chatter_of_libraries_is_held_back_unless_they_fail(capfd: pytest.CaptureFixture[str]) -> None:
    with hold_back_stderr():
        os.write(2, b"no GPU here\n")
    os.write(2, b"between\n")
    with pytest.raises(DataError), hold_back_stderr():
        os.write(2, b"why it failed\n")
        raise DataError("x.")
    assert capfd.readouterr().err == "between\nwhy it failed\n"


# ------------------------------------------------------------------------------------- the real encoder


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of Inception's structure with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow's own, while it is imported
        return str(inception_graph.write_graph(tmp_path_factory.mktemp("graph") / "graph.pb"))


def test_both_backends_of_inception_agree(
    tmp_path: pathlib.Path, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real encoder
    real = write_folder(tmp_path / "real", pictures(10, 1, 64))
    found = {}
    for backend in ("flax", "tensorflow"):
        words = ("--weights", graph, "--allow-small-n", "--quiet", "--batch-size", "10", "--backend", backend)
        scoring.write_reference(
            request(*words, verb="reference", defaults=False), real, tmp_path / f"{backend}.npz"
        )
        with np.load(tmp_path / f"{backend}.npz") as arrays:
            found[backend] = {name: arrays[name] for name in arrays.files}
    flax, graphs = found["flax"], found["tensorflow"]
    for name in ("mu", "mu_s", "sigma", "sigma_s", "features"):
        np.testing.assert_allclose(flax[name], graphs[name], atol=1e-4 * np.abs(graphs[name]).max())
    facts = [json.loads(str(one["protocol"])) for one in (flax, graphs)]
    assert [one.pop("backend") for one in facts] == ["flax", "tensorflow"]
    assert facts[0] == facts[1]
    assert facts[0]["resize"] == "TF1 bilinear without antialiasing 64->299, f32"


def test_dinov2_has_neither_spatial_features_nor_logits(
    sets: tuple[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real encoder
    weights = tiny_dinov2.write_file(tmp_path / "dino.safetensors")
    words = ["--encoder", "dinov2", "--weights", str(weights), "--batch-size", "10", "--quiet"]
    result = scoring.score_images(request(*words, defaults=False), *sets)
    row = result["score"]
    assert row["encoder"].startswith("dinov2") and row["fid"] > 0 and row["precision"] is not None
    assert row["sfid"] is None and row["inception_score"] is None
    shown = [line[0] for line in scorecard.numbers(row)]
    assert shown == ["FD-DINOv2", "Precision", "Recall", "Density", "Coverage", "KID"]
    few = write_folder(tmp_path / "few", pictures(8, 0))  # fewer than the splits of a score that it has not
    assert scoring.score_images(request(*words, defaults=False), few, sets[1])["score"]["n"] == 8
    tensors = load_file(weights)
    tensors["layernorm.bias"][0] = np.nan
    save_file(tensors, weights)
    with pytest.raises(DataError, match=r"dino\.safetensors: layernorm\.bias holds numbers that are not"):
        scoring.score_images(request(*words, defaults=False), *sets)


@pytest.mark.slow
def test_command_line_from_images_to_json(tmp_path: pathlib.Path, graph: str) -> None:
    """`reference` by the graph itself, then `score` by flax, each in a process of its own."""
    made = write_folder(tmp_path / "made", pictures(12, 0, 64))
    real = write_folder(tmp_path / "real", pictures(10, 1, 64))
    words, out = ["--weights", graph, "--allow-small-n", "--batch-size", "12"], str(tmp_path / "real.npz")
    done = study.synthaug("reference", real, out, *words, "--backend", "tensorflow")
    assert done.returncode == 0, done.stderr
    said, note = done.stdout.splitlines()
    assert said == f"{out}: statistics of 10 images of 64 px under inception-2015-12-05"
    assert note.startswith(f"note: {graph} is not the published file")
    done = study.synthaug("score", made, "--reference", out, *words, "--splits", "2", "--json", "-")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["score"]
    assert row["fid"] > 1 and row["sfid"] > 1 and row["inception_score"] >= 1
    assert "backend flax against tensorflow of the reference" in row["notes"]
    for line in ("FID  ", "sFID  ", "Inception Score", "Precision", "encoder:", "note: 12 images in the set"):
        assert any(shown.startswith(line) for shown in done.stderr.splitlines()), done.stderr
    assert "onednn" not in done.stderr.lower() and "cuda" not in done.stderr.lower()


@pytest.mark.slow
def test_a_study_and_the_verb_give_the_same_bits(
    reference_run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real encoder
    run = RunDir(reference_run)
    settings = run.experiment()
    parts = range(len(list(run.path.glob("score-*/done.json"))))
    rows = [row for i in parts for row in run.result("score", i)["rows"]]
    assert any(row["set"] == "generated" for row in rows)
    words = [f"--{name.replace('_', '-')}={getattr(settings.score, name)}" for name in SHARED]
    words += [f"--encoder={run.path}", f"--seed={settings.seed}", "--quiet"]
    compared = set()
    for row in rows:
        side, name = row["resolution"], row["set"].removeprefix("real ").partition("-")[0]
        sets = [f"{run.path}:{one}/{side}" for one in (name, row["reference"])]
        again = scoring.score_images(request(*words, defaults=False), *sets)["score"]
        # of several copies a study scores the first one alone, or what its filter chose for it
        keys = ("n", *NUMBERS)
        assert {key: again[key] for key in keys} == {key: row[key] for key in keys}, name
        compared.add(name)
    assert {"train", "val", "generated"} <= compared


# -------------------------------------------------------------------------------------------- export


def write_run(run: pathlib.Path, count: int = 14, side: int = 8) -> pathlib.Path:
    """Writes what a run has of a generated set: shards of 5, the table of its classes."""
    keys, folder = ("n1", "n2"), run / "sets" / "generated" / str(side)
    for shard, first in enumerate(range(0, count, 5)):
        part = range(first, min(first + 5, count))
        headers = [{"class_key": keys[i % 2], "class_index": i % 2, "prompt": "a", "seed": i} for i in part]
        records = zip(headers, pictures(count, 0, side)[list(part)], strict=True)
        made_by = {"settings": "s", "weights": "w", "licences": ("deepfloyd-if",)}
        shards.write_shard(folder, shard, first, records, attempt=0, **made_by)
    entries = tuple(ClassEntry(key, f"name of {key}", 7, 1) for key in keys)
    (run / "sets" / "classes.json").write_text(ClassTable(entries).to_json())
    (run / "experiment.yaml").write_text("name: made\n")
    return folder


@pytest.mark.parametrize("layout", arguments.FORMATS)
def test_export_is_scored_as_the_set_is(tmp_path: pathlib.Path, layout: str) -> None:
    folder = write_run(tmp_path / "run")
    out = tmp_path / ("out.npz" if layout == "npz" else "out")
    words = ["export", f"{tmp_path}/run:generated/8", str(out), "--format", layout]
    assert main([*words, "--quiet"]) == 0
    card = json.loads(card_path(out).read_text())
    assert [entry["name"] for entry in card["classes"]] == ["name of n1", "name of n2"]
    assert "Non-commercial research use only" in card["terms"][0]
    assert score(str(out), str(folder))["score"]["fid"] < 1e-9
    assert main([*words, "--quiet"]) == 0  # it is there: nothing to do


def test_npz_export_is_what_adm_reads(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    out = tmp_path / "out.npz"
    words = ["export", f"{tmp_path}/run:generated/8", str(out), "--format", "npz", "--num-images", "9"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}: 9 images as npz\n"
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], pictures(14, 0, 8)[:9])
        np.testing.assert_array_equal(arrays["arr_1"], np.arange(9) % 2)


def test_export_leaves_out_what_the_filter_left_out(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run")
    run = RunDir(tmp_path / "run")
    chosen = {"index": np.array([1, 2, 4, 7, 8]), "copy": np.array([0, 0, 0, 1, 1], np.int32)}
    sha256 = write_arrays(selection_file(run), {**chosen, "missing": np.zeros(2, np.int64)})
    run.finish("select", 0, {"result": {"sha256": sha256}})
    words = ["export", f"{run.path}:generated/8", "--format", "npz"]
    assert main([*words, str(tmp_path / "all.npz")]) == 0
    assert "5 images that the filter chose" in capsys.readouterr().out
    for count, expected in ((5, [1, 2, 4, 7, 8]), (2, [1, 2])):
        out = tmp_path / f"{count}.npz"
        assert main([*words, str(out), "--num-images", str(count)]) == 0
        with np.load(out) as arrays:
            np.testing.assert_array_equal(arrays["arr_0"], pictures(14, 0, 8)[expected])


def test_export_of_nothing_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    for words, expected in (
        ([f"{tmp_path}/run:generated/9", "x.npz", "--format", "npz"], "no such set"),
        ([f"{tmp_path}/run", "x.npz", "--format", "npz"], "expected one of its sets"),
        ([f"{tmp_path}/run:generated/8", "x", "--format", "npz"], "ends in .npz"),
        ([f"{tmp_path}/run:generated/8", "x.npz", "--format", "npz", "--num-images", "15"], "has 14 images"),
        (
            [f"{tmp_path}/run:generated/8", "x.npz", "--format", "npz", "--num-images", "0"],
            "expected 1 or more",
        ),
    ):
        assert main(["export", words[0], str(tmp_path / words[1]), *words[2:]]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
    with pytest.raises(SystemExit) as caught:
        main(["export", "SET", "OUT", "--format", "rar"])
    assert caught.value.code == 2
