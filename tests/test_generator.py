"""Sampling through a model: an image depends on its number alone."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug import experiment, rng
from synthaug.diffusion.sampler import draw_noise
from synthaug.errors import ConfigError
from synthaug.models.functional import Weights, abstract
from synthaug.models.text import embed_prompts
from synthaug.models.unet import build_unet
from synthaug.stages.embed import PromptBank
from synthaug.stages.generator import Generator, Wanted
from synthaug.stages.sampling import sampler

TINY = experiment.load(pathlib.Path(__file__).parent / "tiny.yaml")
LABELS = ["cascade.base4.unet.conditioning=label", "cascade.base4.unet.attention=self",
          "cascade.base4.finetune.text_drop=0", "cascade.base4.sampler.guidance_weight=1",
          "sweep.phases.base.grid.guidance_weight=[]", "sweep.phases.base.grid.checkpoint=[40]"]  # fmt: skip


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    prompts = ["zero", "one", "two"]
    text, mask = embed_prompts(TINY.text_encoder, [*prompts, ""])
    ones = np.ones(3, np.int32)
    null = text[-1], mask[-1]
    return PromptBank(tuple(prompts), np.arange(3, dtype=np.int32), ones, text[:-1], mask[:-1], *null)


@functools.cache
def weights_of(network: experiment.Network, seed: int = 5) -> Weights:
    """Random everywhere: initial output layers are zero, and would make every image look alike."""
    draws = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        one = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return one + 0.2 * draws.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract(build_unet(network)))


def generator(
    bank: PromptBank,
    name: str,
    batch_size: int,
    study: experiment.Experiment = TINY,
    **settings: Any,
) -> Generator:
    model, network = study.cascade[name], experiment.network_of(study, name)
    sampling = dataclasses.replace(model.sampler, **settings)
    weights = weights_of(network)
    return Generator(name, network, model, sampling, weights, "w", bank, seed=0, batch_size=batch_size)


def wanted(*numbers: int, classes: Any = None, low: np.ndarray | None = None) -> Wanted:
    index = np.array(numbers)
    class_index = np.asarray(index % 3 if classes is None else classes, np.int32)
    return Wanted(index, class_index, np.zeros(len(index), np.int64), low)


def test_image_i_is_the_same_in_any_batch_and_any_order(bank: PromptBank) -> None:
    whole = generator(bank, "base4", 2, guidance_weight=2.0).generate(wanted(*range(7)))
    assert len({image.tobytes() for image in whole}) == 7
    other = generator(bank, "base4", 3, guidance_weight=2.0)
    order = [6, 2, 0, 5, 1]
    np.testing.assert_array_equal(other.generate(wanted(*order)), whole[order])
    np.testing.assert_array_equal(other.generate(wanted(3)), whole[[3]])


def test_prompt_number_and_seed_all_matter(bank: PromptBank) -> None:
    made = generator(bank, "base4", 2, guidance_weight=2.0)
    image = made.generate(wanted(5, classes=[1]))
    assert (image != made.generate(wanted(5, classes=[2]))).any()
    assert (image != made.generate(wanted(6, classes=[1]))).any()
    assert (image != dataclasses.replace(made, seed=1).generate(wanted(5, classes=[1]))).any()
    np.testing.assert_array_equal(image, made.generate(wanted(5, classes=[1])))


def test_enlarged_image_depends_on_the_low_resolution_one(bank: PromptBank) -> None:
    made = generator(bank, "sr8", 2)
    low = np.full((1, 4, 4, 1), 40, np.uint8)
    image = made.generate(wanted(0, low=low))
    assert image.shape == (1, 8, 8, 1)
    assert (image != made.generate(wanted(0, low=low + 150))).any()
    noised = dataclasses.replace(made, settings=dataclasses.replace(made.settings, aug_level=0.5))
    assert (image != noised.generate(wanted(0, low=low))).any()


def test_a_sweep_over_weights_and_mixes_compiles_once(bank: PromptBank) -> None:
    misses = set()
    for weight in (1.25, 2.0, 5.0):
        for mix in (0.0, 0.3, 1.0):
            generator(bank, "base4", 2, guidance_weight=weight, logvar_mix=mix).generate(wanted(0))
            misses.add(sampler.cache_info().misses)
    assert len(misses) == 1


def test_the_text_is_read_once_and_gives_what_reading_it_at_every_step_gives(bank: PromptBank) -> None:
    """The sampler keeps the text's keys and values; the network alone reads the text itself."""
    study = experiment.load(
        pathlib.Path(__file__).parent / "tiny.yaml", ["cascade.base4.diffusion.prediction=x"]
    )
    made = generator(bank, "base4", 2, study, num_sampling_steps=1, solver="ddim", guidance_weight=2.0)
    image = made.generate(wanted(0, 1))
    network, process = build_unet(made.network), made.model.diffusion
    assert (process.prediction, process.num_timesteps) == ("x", 0)
    keys = rng.for_images(rng.stream(rng.root(0), "sample/base4"), np.arange(2, dtype=np.uint32))
    z = draw_noise(keys, 1, (4, 4, 1))
    text, mask = (
        np.stack([*known[:2], null, null])
        for known, null in zip((bank.text, bank.mask), bank.null(made.network.unet), strict=True)
    )
    twice, times = jnp.concatenate([z, z]), jnp.full(4, 1000.0)
    output = jax.jit(network.apply)(made.weights, twice, times, {"text": text, "text_mask": mask})
    x = 2 * output[:2] - output[2:]
    expected = np.clip(np.round((np.clip(x, -1, 1) + 1) * 127.5), 0, 255)
    assert np.abs(image.astype(float) - expected).max() <= 1
    assert image.std() > 10


def test_autoguidance_is_led_by_other_weights_and_needs_no_null_text(bank: PromptBank) -> None:
    settings = {"guidance_weight": 2.0, "guide_checkpoint": 20}
    made = generator(bank, "base4", 2, **settings)
    alone = generator(bank, "base4", 2).generate(wanted(0, 1))
    same = dataclasses.replace(made, weaker=made.weights).generate(wanted(0, 1))
    assert np.abs(same.astype(int) - alone).max() <= 1  # led away from itself
    weaker = dataclasses.replace(made, weaker=weights_of(made.network, seed=6))
    assert (weaker.generate(wanted(0, 1)) != alone).any()


def test_a_model_with_labels_is_told_the_class_and_guided_by_weaker_weights_only(bank: PromptBank) -> None:
    study = experiment.load(pathlib.Path(__file__).parent / "tiny.yaml", LABELS)
    made = generator(bank, "base4", 2, study)
    image = made.generate(wanted(0, 1, classes=[0, 1]))
    assert (image != made.generate(wanted(0, 1, classes=[2, 2]))).any()
    guided = dataclasses.replace(made, settings=dataclasses.replace(made.settings, guidance_weight=2.0))
    with pytest.raises(ConfigError, match="labels has no unconditional mode"):
        guided.generate(wanted(0, 1))
    led = dataclasses.replace(guided, weaker=weights_of(made.network, seed=6))
    assert (led.generate(wanted(0, 1, classes=[0, 1])) != image).any()


def test_an_edited_image_comes_from_its_source_and_its_number(bank: PromptBank) -> None:
    made = dataclasses.replace(generator(bank, "base4", 2), edit_level=0.5)
    sources = np.stack([np.full((4, 4, 1), value, np.uint8) for value in (250, 5)])
    bright, dark = made.generate(dataclasses.replace(wanted(1, 1), start=sources))
    assert (bright != dark).any()
    again = made.generate(dataclasses.replace(wanted(2, 1), start=sources[::-1]))
    np.testing.assert_array_equal(again[1], bright)
    assert made.settings_sha256 != dataclasses.replace(made, edit_level=0.0).settings_sha256


def test_settings_hash_changes_with_every_sampling_knob(bank: PromptBank) -> None:
    base = generator(bank, "base4", 2)
    knobs = {"guidance_weight": 3.0, "logvar_mix": 0.5, "num_sampling_steps": 5, "checkpoint": 20, "eta": 0.5,
             "guidance_min_t": 0.1, "guidance_max_t": 0.9, "guide_checkpoint": 20, "ema_length": 0.1,
             "solver": "heun"}  # fmt: skip
    hashes = {generator(bank, "base4", 2, **{knob: value}).settings_sha256 for knob, value in knobs.items()}
    assert len(hashes | {base.settings_sha256}) == len(knobs) + 1
    assert generator(bank, "base4", 8).settings_sha256 == base.settings_sha256  # where, not what
