"""Encoders and numbers of images that make no sense: one line, before any work."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from synthaug import checks, experiment
from synthaug.checks.scoring import file_problems
from synthaug.errors import ConfigError
from tests import inception_graph, study, tiny_dinov2

MAIN, OTHER, PHASE = "score.encoder", "score.further.other", "sweep.phases.base"
GRAPH = f"{MAIN}.path=weights/classify_image_graph_def.pb"
FEW = "score.allow_small_n=true"


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (
            (f"{MAIN}.kind=inception", FEW),
            f"{MAIN}.path is empty; kind = inception expects classify_image_graph",
        ),
        (
            (f"{OTHER}.kind=dinov2",),
            f"{OTHER}.path is empty; kind = dinov2 expects the safetensors of DINOv2",
        ),
        (
            (f"{MAIN}.kind=inception", f"{MAIN}.path=pt_inception.pth", FEW),
            "is a pickle, which is never loaded",
        ),
        (
            (f"{MAIN}.kind=inception", f"{MAIN}.path=weights.npz", FEW),
            "ends in .pb or .safetensors: classify_",
        ),
        ((f"{MAIN}.kind=inception", f"{MAIN}.path=weights", FEW), "ends in .pb or .safetensors: classify_"),
        (
            (f"{OTHER}.kind=dinov2", f"{OTHER}.path=dino.pb"),
            "'dino.pb'; expected a name that ends in .safetensors",
        ),
        (
            (f"{MAIN}.path=a.pb",),
            f"{MAIN}.path has no meaning with kind = classifier; remove it, or set kind",
        ),
        ((f"{MAIN}.backend=tensorflow",), f"{MAIN}.backend has no meaning with kind = classifier"),
        (
            (f"{OTHER}.kind=dinov2", f"{OTHER}.path=a.safetensors", f"{OTHER}.backend=tensorflow"),
            f"{OTHER}.backend = tensorflow has no meaning with kind = dinov2",
        ),
        (
            (f"{MAIN}.kind=inception", f"{MAIN}.path=a.safetensors", f"{MAIN}.backend=tensorflow", FEW),
            "backend = tensorflow runs the frozen graph, and path = 'a.safetensors' is none",
        ),
        (("score.further={two words: {}}",), "score.further.two words: expected a name of letters"),
        (("score.further={größe: {}}",), "score.further.größe: expected a name"),
        (
            (f"{MAIN}.kind=inception", GRAPH, FEW, "filter.min_confidence=0.1"),
            "filter.min_confidence = 0.1: score.encoder.kind = inception does not know the classes",
        ),
        (
            (f"{MAIN}.kind=dinov2", f"{MAIN}.path=a.safetensors", f"{PHASE}.choose=inception_score"),
            f"{PHASE}.choose = inception_score: score.encoder.kind = dinov2 has no classes",
        ),
        (
            (f"{MAIN}.kind=inception", GRAPH, "data.num_train=3000", "data.num_val=2047", "sweep.phases={}"),
            "data.num_val = 2047 is too few",
        ),
        (
            (f"{MAIN}.kind=inception", GRAPH),
            "num_images = 200 is too few for score.encoder.kind = inception: FID",
        ),
        ((f"{MAIN}.kind=inception", GRAPH, "sweep.phases={}"), "data.num_train = 1442 is too few"),
        (
            (f"{OTHER}.kind=inception", f"{OTHER}.path=a.pb"),
            f"data.num_train = 1442 is too few for {OTHER}.kind = inception: FID of less than 2048 images",
        ),
        (("score.splits=300",), f"score.splits = 300 exceeds {PHASE}.num_images = 200 images; lower splits"),
        (
            ("score.neighbours=200",),
            f"score.neighbours = 200 needs more images than {PHASE}.num_images = 200;",
        ),
        (
            ("score.max_images=50", "score.neighbours=50"),
            "more images than sweep.phases.base.num_images = 200 and score.max_images = 50 leave; lower",
        ),
        (("score.sizes=[100, 2000]",), "score.sizes: 2000 images; the largest set that is scored has 1442"),
        (
            (f"{PHASE}.cas_steps=5", f"{PHASE}.cas_classifier=resnett"),
            f"{PHASE}.cas_classifier = 'resnett' is unknown; did you mean 'resnet'?",
        ),
        (
            (f"{PHASE}.cas_steps=5", f"{PHASE}.cas_classifier=vit", "classify.models.vit.init=a.safetensors"),
            f"{PHASE}.cas_classifier = vit: the CAS of a point is that of random weights",
        ),
        (
            (f"{MAIN}.classifier.init=a.safetensors",),
            f"{MAIN}.classifier.init = a.safetensors: an encoder is",
        ),
        (
            ("sweep.classifiers={vit: {kind: resnet}}",),
            "sweep.classifiers.vit: classify.models has a vit, too, and phase.cas_classifier could mean",
        ),
        (
            (
                "cascade={}",
                "sweep.phases={}",
                "data.resolutions=[8]",
                "stages=[score]",
                f"{MAIN}.kind=inception",
            ),
            "tiny.yaml: stages: score has no generated images; name some in sets, or a cascade",
        ),
        (
            ("cascade={}", "data.resolutions=[8]", "stages=[sweep]", f"{MAIN}.kind=inception"),
            "tiny.yaml: stages: sweep varies the sampling of a cascade, and there is none; name one",
        ),
        (
            ("cascade={}", "data.resolutions=[8]", "sweep.phases={}", "stages=[sweep]"),
            "tiny.yaml: stages: sweep varies the sampling of a cascade, and there is none; name one",
        ),
        (
            (f"{PHASE}.cas_classifier=resnet",),
            f"{PHASE}.cas_classifier = resnet: cas_steps = 0 trains nothing",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(overrides, found):
    error = study.problem(*overrides)
    assert found in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (f"{MAIN}.kind=inception", GRAPH, FEW),
        (f"{MAIN}.kind=inception", GRAPH, FEW, f"{MAIN}.backend=tensorflow"),
        (f"{MAIN}.kind=dinov2", f"{MAIN}.path=weights/dinov2-large", f"{PHASE}.choose=fid"),
        ("score.further={one: {}, two-2: {kind: dinov2, path: a.safetensors}}",),
        ("score.sizes=[100, 1442]", "score.kid_subset_size=5000"),  # the row says what was drawn
        (f"{PHASE}.cas_steps=5", f"{PHASE}.cas_classifier=vit"),
        # the phases of 200 images are looked at by the main encoder alone
        ("data.num_train=3000", "data.num_val=2048", f"{OTHER}.kind=inception", f"{OTHER}.path=a.pb"),
        # nothing looks through an encoder here: neither its file nor the numbers of images matter
        ("stages=[classify]", f"{MAIN}.kind=inception"),
    ],
)
def test_what_makes_sense_passes(overrides):
    assert study.problem(*overrides) == ""


def test_nothing_to_score_or_to_sweep_asks_for_no_weights():
    settings = experiment.load(study.TINY, [f"{MAIN}.kind=inception", GRAPH, FEW])
    assert len(file_problems(settings)) == 1
    assert file_problems(dataclasses.replace(settings, cascade={}, stages=("score", "sweep"))) == []


def test_weights_that_are_not_there_are_named_before_anything_is_submitted(tmp_path: pathlib.Path):
    there, gone = tmp_path / "a.pb", tmp_path / "b.safetensors"
    inception_graph.write_graph(there)
    words = [f"{MAIN}.kind=inception", f"{MAIN}.path={there}", FEW]
    settings = experiment.load(study.TINY, words)
    assert file_problems(settings) == []
    settings = experiment.load(study.TINY, [*words, f"{OTHER}.kind=dinov2", f"{OTHER}.path={gone}"])
    (found,) = file_problems(settings)
    assert found.startswith(f"{OTHER}.path = '{gone}': nothing is there; expected the safetensors of DINOv2")
    with pytest.raises(ConfigError, match=r"tiny\.yaml: score\.further\.other\.path"):
        checks.check_inputs(settings, "tiny.yaml")
    gone.write_bytes(b"torn")
    (found,) = file_problems(settings)
    assert found.startswith(f"{OTHER}.path: {gone}: has 4 bytes and no table")
    tiny_dinov2.write_file(tmp_path / "whole" / "b.safetensors").rename(gone)
    assert file_problems(settings) == []
    there.write_bytes(there.read_bytes()[:-10])
    (found,) = file_problems(settings)
    assert found.startswith(f"{MAIN}.path: {there}: is no TensorFlow graph, or was cut off")
    there.unlink()
    there.mkdir()
    (found,) = file_problems(settings)
    assert found.startswith(f"{MAIN}.path: {there}: is no file")
    # a study that only classifies does not need them
    settings = experiment.load(study.TINY, [*words[:2], "stages=[classify]"])
    there.rmdir()
    assert file_problems(settings) == []
