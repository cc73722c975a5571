"""DINOv2: its resize and positions by closed forms, its files in both families' names, damaged ones."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from synthaug.errors import ConfigError, DataError
from synthaug.models.dinov2 import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    SIZES,
    DinoConfig,
    build_dinov2,
    name_of,
    prepare_images,
    resample,
)
from synthaug.models.functional import abstract, count_parameters, hash_weights
from synthaug.weights.dinov2 import open_dinov2
from synthaug.weights.dinov2_names import TIMM, TRANSFORMERS, rules
from synthaug.weights.rules import flatten, write_params
from synthaug.weights.tensors import write_tensors
from tests.tiny_dinov2 import CONFIG, random_params, write_file


def pixels(side: int, batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "count"), [("vits14", 22_056_192), ("vitb14", 86_579_712), ("vitl14", 304_367_616)]
)
def test_published_sizes_have_their_parameters(name, count):
    """Facebook counts 21 M, 86 M and 300 M; their checkpoints hold a mask token besides."""
    config = SIZES[f"dinov2-{name}"]
    assert count_parameters(abstract(build_dinov2(config))["params"]) == count
    assert name_of(config) == f"dinov2-{name}"


# ------------------------------------------------------------------------------------------ images


def test_images_of_the_networks_size_are_normalised_and_no_more():
    images = pixels(224, 2)
    expected = (images / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION
    np.testing.assert_allclose(prepare_images(images), expected, atol=1e-6)


@pytest.mark.parametrize("side", [17, 64, 256, 600])
def test_a_flat_image_stays_flat_and_a_ramp_straight(side):
    """The filter's weights sum to 1 at every pixel, and it keeps straight lines away from the border."""
    flat = np.full((1, side, side, 3), 77, np.uint8)
    one = (77 / 255 - np.array(IMAGENET_MEAN)) / IMAGENET_DEVIATION
    np.testing.assert_allclose(prepare_images(flat)[0], np.broadcast_to(one, (224, 224, 3)), atol=2e-5)
    if side > 255:
        return
    ramp = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None], (1, side, side, 3))
    grey = np.asarray(prepare_images(ramp))[0, :, 0, 0] * IMAGENET_DEVIATION[0] + IMAGENET_MEAN[0]
    expected = ((np.arange(224) + 0.5) * side / 224 - 0.5) / 255
    inside = slice(math.ceil(2 * 224 / side) + 2, -math.ceil(2 * 224 / side) - 2)
    np.testing.assert_allclose(grey[inside], expected[inside], atol=2e-6 if side < 224 else 2e-4)


def test_shrinking_averages_where_plain_bicubic_would_alias():
    """Columns in turn black and white become grey: their mean, but for what the filter lets through."""
    stripes = np.zeros((1, 896, 896, 3), np.uint8)
    stripes[:, :, ::2] = 255
    grey = np.asarray(prepare_images(stripes))[0, :, 8:-8, 0] * IMAGENET_DEVIATION[0] + IMAGENET_MEAN[0]
    assert np.abs(grey - 0.5).max() < 0.01


def test_every_product_is_of_the_highest_precision():
    """Accelerators otherwise round the factors to bf16 or tf32; two thirds of the digits would be gone."""
    from synthaug.weights.dinov2 import _encode

    model = build_dinov2(CONFIG)
    params = abstract(model)["params"]
    text = str(jax.make_jaxpr(lambda p, x: _encode(model, p, x))(params, pixels(64, 1)))
    products, precise = text.count("dot_general["), text.count("precision=(Precision.HIGHEST")
    assert products == precise + text.count("precision=Precision.HIGHEST") > 10


# --------------------------------------------------------------------------------------- positions


def test_positions_of_the_same_grid_are_not_touched():
    positions = np.random.default_rng(0).normal(size=(26, 4)).astype(np.float32)
    np.testing.assert_array_equal(resample(positions, (5, 5)), positions)


def test_positions_are_interpolated_by_the_hubs_scale():
    """A ramp shows where the grid's points are read: at (i + 0.5) * 37 / 16.1 - 0.5, not 37 / 16."""
    rows = np.repeat(np.arange(37.0), 37)
    columns = np.tile(np.arange(37.0), 37)
    table = np.concatenate([[[-1, -2]], np.stack([rows, columns], axis=1)]).astype(np.float32)
    made = np.asarray(resample(table, (16, 16)))
    np.testing.assert_array_equal(made[0], [-1, -2])
    # Keys' kernel with a = -0.75 bends lines by 0.07 of a step, and the repeated border by a little more
    places = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
    squares = made[1:].reshape(16, 16, 2)
    np.testing.assert_allclose(squares[:, 3, 0], places, atol=0.1)
    np.testing.assert_allclose(squares[3, :, 1], places, atol=0.1)
    assert abs(places[-1] - (15.5 * 37 / 16 - 0.5)) > 0.2  # what the plain ratio would read


# ------------------------------------------------------------------------------------------- files


def test_both_families_names_give_the_same_parameters_hash_and_features(tmp_path):
    one = open_dinov2(write_file(tmp_path / "hf.safetensors"), batch_size=2)
    other = open_dinov2(write_file(tmp_path / "timm.safetensors", family=TIMM), batch_size=2)
    assert one.weights_sha256 == other.weights_sha256 == hash_weights(random_params())
    assert (one.name, one.config) == ("dinov2-64x2", CONFIG)
    np.testing.assert_array_equal(one.encode(pixels(50, 3)), other.encode(pixels(50, 3)))
    assert open_dinov2(write_file(tmp_path / "b.safetensors", seed=1), 2).weights_sha256 != one.weights_sha256


def test_a_folder_a_mask_token_and_half_precision_are_read(tmp_path):
    tensors = dict(write_params(rules(CONFIG, TRANSFORMERS), random_params()))
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    masked = {**halves, "embeddings.mask_token": np.zeros((1, 64), np.float16)}
    write_tensors(tmp_path, "model", masked.items())
    found = open_dinov2(tmp_path, batch_size=1)
    for name, leaf in flatten(found.params).items():
        assert leaf.dtype == np.float32, name
    exact = open_dinov2(write_file(tmp_path / "f32.safetensors"), batch_size=1)
    a, b = found.encode(pixels(32, 1)), exact.encode(pixels(32, 1))
    assert 0 < np.abs(a - b).max() < 0.02 * np.abs(b).max()


def test_features_are_of_the_image_alone(tmp_path):
    """Neither the number of images, nor their order, nor the batch that one falls into changes a bit."""
    config = DinoConfig(384, 1)
    dino = open_dinov2(write_file(tmp_path / "a.safetensors", config), batch_size=4)
    images = pixels(40, 6)
    features = dino.encode(images)
    assert features.shape == (6, 384) and np.isfinite(features).all()
    for order in ([5, 4, 3, 2, 1, 0], [2], [0, 0, 0, 1], [3, 5, 1, 0, 4, 2, 1]):
        np.testing.assert_array_equal(dino.encode(images[order]), features[order])
    assert len({row.tobytes() for row in features}) == 6
    assert dino.encode(images[:0]).shape == (0, 384)


Spoil = Callable[[dict[str, np.ndarray]], None]


def without(name: str) -> Spoil:
    return lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith(name)] and None


def put(name: str, *shape: int) -> Spoil:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


def nan(tensors: dict[str, np.ndarray]) -> None:
    tensors["layernorm.bias"] = np.full(64, np.nan, np.float32)


WRONG = {
    "registers": (put("embeddings.register_tokens", 1, 4, 64), "holds a DINOv2 with registers"),
    "gated": (put("encoder.layer.0.mlp.weights_in.weight", 8, 64), "with gated MLPs, as the giant has"),
    "token": (without("embeddings.cls"), "has no embeddings.cls_token; its first tensor is embeddings.patch"),
    "scale": (without("encoder.layer.0.layer_scale1"), "lambda1: it is another vision transformer"),
    "layer": (without("encoder.layer.0.norm1.bias"), "encoder.layer.0.norm1.bias is missing"),
    "extra": (put("classifier.weight", 10, 64), "classifier.weight of shape [10, 64] is left over"),
    "patch": (put("embeddings.patch_embeddings.projection.weight", 64, 3, 16, 16), "patches have 14 x 14 px"),
    "square": (put("embeddings.position_embeddings", 1, 12, 64), "no class token and a square of patches"),
    "nan": (nan, "layernorm.bias holds numbers that are not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_one_line(case, tmp_path):
    spoil, message = WRONG[case]
    tensors = dict(write_params(rules(CONFIG, TRANSFORMERS), random_params()))
    spoil(tensors)
    write_tensors(tmp_path, "model", tensors.items())
    with pytest.raises(DataError) as error:
        open_dinov2(tmp_path / "model.safetensors", batch_size=1)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.safetensors", "nothing is there"), ("a.pth", "is no safetensors file"), (".", "has no model")],
)
def test_a_path_that_is_no_such_file_is_one_line(name, message, tmp_path):
    pathlib.Path(tmp_path / "a.pth").write_bytes(b"pickle")
    with pytest.raises(DataError, match=message):
        open_dinov2(tmp_path / name, batch_size=1)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 4), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(images, tmp_path):
    dino = open_dinov2(write_file(tmp_path / "a.safetensors"), batch_size=1)
    with pytest.raises(ConfigError, match=r"dinov2-64x2: images are .*; expected u8\[B,H,W,3\]"):
        dino.encode(images)
