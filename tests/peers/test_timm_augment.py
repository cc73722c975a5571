"""Augmentation against timm's own: operations, strengths, mixup's targets, areas of cutmix and erasing."""

from __future__ import annotations

import importlib.util
import pathlib
import random
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from synthaug import rng
from synthaug.data import randaugment
from synthaug.experiment import Augment
from synthaug.train import mixing

pytest.importorskip("torch")
SPEC = importlib.util.find_spec("timm")
if SPEC is None:
    pytest.skip("needs timm", allow_module_level=True)

NAMES = {
    "AutoContrast": "auto_contrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Rotate": "rotate",
    "PosterizeIncreasing": "posterize",
    "SolarizeIncreasing": "solarize",
    "SolarizeAdd": "solarize_add",
    "ColorIncreasing": "color",
    "ContrastIncreasing": "contrast",
    "BrightnessIncreasing": "brightness",
    "SharpnessIncreasing": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}


def module(name: str) -> types.ModuleType:
    """Returns one file of timm.data, without the package: that would import torchvision."""
    path = pathlib.Path(SPEC.submodule_search_locations[0]) / "data" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"timm_{name}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def timm_ops() -> list:
    settings = {
        "translate_const": 100,
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.BICUBIC,
    }
    made = module("auto_augment").rand_augment_transform("rand-m9-mstd0.5-inc1", settings)
    assert made.num_layers == 2
    return made.ops


def test_operations_and_their_probability(timm_ops):
    assert [NAMES[op.name] for op in timm_ops] and {NAMES[op.name] for op in timm_ops} == set(
        randaugment.TIMM
    )
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in timm_ops} == {(0.5, 9, 0.5)}


@pytest.mark.parametrize("level", [0.0, 2.3, 8.7, 9.0, 10.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_operations_give_timms_pixels(timm_ops, level, sign, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize((72, 56), Image.Resampling.BICUBIC)
    monkeypatch.setattr(random, "random", lambda: 0.0 if sign > 0 else 0.9)  # timm negates above 0.5
    for op in timm_ops:
        name = NAMES[op.name]
        side = image.width if name == "translate_x" else image.height
        value = randaugment.argument(name, "timm", level, sign, side)
        if (name, value) == ("posterize", 0):  # newer Pillows refuse it; older ones gave black
            theirs = Image.new("RGB", image.size)
        else:
            theirs = op.aug_fn(image, *(op.level_fn(level, op.hparams) if op.level_fn else ()), **op.kwargs)
        ours = randaugment.operate(image, name, value, randaugment.paint_of("timm", "bicubic", "RGB"), (0, 0))
        assert ours.tobytes() == theirs.tobytes(), name


def test_targets_of_mixup():
    import torch

    labels = np.array([0, 2, 1, 1])
    theirs = module("mixup").mixup_target(torch.tensor(labels), 3, 0.3, 0.1).numpy()
    own = mixing.smooth_targets(jnp.asarray(labels), 3, 0.1)
    np.testing.assert_allclose(0.3 * own + 0.7 * own[::-1], theirs, atol=1e-6)


def test_rectangles_of_cutmix_have_timms_distribution():
    theirs, mixup = [], module("mixup")
    np.random.seed(0)
    for _ in range(4000):
        (top, bottom, left, right), weight = mixup.cutmix_bbox_and_lam((1, 24, 32), np.random.beta(1.0, 1.0))
        theirs.append((top, bottom, left, right, weight))
    images = jnp.stack([jnp.zeros((24, 32, 1)), jnp.ones((24, 32, 1))])

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed, soft = mixing.mix(images, jnp.eye(2), Augment(cutmix=1.0), key)
        return mixed[0, :, :, 0] > 0, soft[0, 0]

    keys = rng.for_images(rng.root(0), jnp.arange(4000))
    cut, weight = map(np.asarray, jax.jit(jax.vmap(one))(keys))
    expected = np.array(theirs)
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(weight, q) == pytest.approx(np.quantile(expected[:, 4], q), abs=0.03)
    rows, columns = cut.any(2).sum(1), cut.any(1).sum(1)
    assert rows.mean() == pytest.approx((expected[:, 1] - expected[:, 0]).mean(), abs=0.4)
    assert columns.mean() == pytest.approx((expected[:, 3] - expected[:, 2]).mean(), abs=0.5)


def test_rectangles_of_erasing_have_timms_distribution():
    import torch

    random.seed(0)
    erasing = module("random_erasing").RandomErasing(0.25, mode="pixel", device="cpu")
    theirs = (erasing(torch.full((3000, 1, 32, 32), 100.0)).numpy()[:, 0] != 100).sum((1, 2)) / 1024
    images = jnp.full((3000, 32, 32, 1), 100.0)
    ours = (np.asarray(jax.jit(mixing.erase)(images, 0.25, rng.root(1)))[..., 0] != 100).sum((1, 2)) / 1024
    assert (ours > 0).mean() == pytest.approx((theirs > 0).mean(), abs=0.04)
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(ours[ours > 0], q) == pytest.approx(np.quantile(theirs[theirs > 0], q), abs=0.03)
