"""Sampling through a model: an image depends on its number alone."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from synthaug import experiment, rng
from synthaug.models.text import embed_prompts
from synthaug.stages.embed import PromptBank
from synthaug.stages.finetune import trainer
from synthaug.stages.generator import Generator, sampler

TINY = experiment.load(pathlib.Path(__file__).parent / "tiny.yaml")


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    prompts = ["zero", "one", "two"]
    text, mask = embed_prompts(TINY.text_encoder, prompts)
    ones = np.ones(3, np.int32)
    return PromptBank(tuple(prompts), np.arange(3, dtype=np.int32), ones, text, mask)


def generator(bank: PromptBank, name: str, batch_size: int, **settings: float) -> Generator:
    model = TINY.cascade[name]
    weights = trainer(model, 1, bank.width).unet.init(rng.root(3))
    # Zero-initialised output layers would make every prompt and every weight look alike.
    leaves, tree = jax.tree.flatten(weights)
    noise = [0.05 * jax.random.normal(rng.at(rng.root(5), i), x.shape) for i, x in enumerate(leaves)]
    weights = jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])
    sampling = dataclasses.replace(model.sampler, **settings)
    return Generator(name, model, sampling, weights, "w", bank, channels=1, seed=0, batch_size=batch_size)


def test_image_i_is_the_same_in_any_batch_and_any_order(bank: PromptBank) -> None:
    rows = np.array([0, 1, 2, 0, 1, 2, 0], np.int32)
    whole = generator(bank, "base4", 4, guidance_weight=2.0).generate(np.arange(7), rows, None)
    assert len({image.tobytes() for image in whole}) == 7
    other = generator(bank, "base4", 3, guidance_weight=2.0)
    order = np.array([6, 2, 0, 5, 1])
    shuffled = other.generate(order, rows[order], None)
    np.testing.assert_array_equal(shuffled, whole[order])
    alone = other.generate(np.array([3]), rows[3:4], None)
    np.testing.assert_array_equal(alone, whole[3:4])


def test_prompt_number_and_seed_all_matter(bank: PromptBank) -> None:
    made = generator(bank, "base4", 2, guidance_weight=2.0)
    index, row = np.array([5]), np.array([1], np.int32)
    image = made.generate(index, row, None)
    assert (image != made.generate(index, np.array([2], np.int32), None)).any()
    assert (image != made.generate(index + 1, row, None)).any()
    assert (image != dataclasses.replace(made, seed=1).generate(index, row, None)).any()
    np.testing.assert_array_equal(image, made.generate(index, row, None))


def test_enlarged_image_depends_on_the_low_resolution_one(bank: PromptBank) -> None:
    made = generator(bank, "sr8", 2)
    low = np.full((1, 4, 4, 1), 40, np.uint8)
    index, row = np.array([0]), np.array([0], np.int32)
    image = made.generate(index, row, low)
    assert image.shape == (1, 8, 8, 1)
    assert (image != made.generate(index, row, low + 150)).any()
    noised = dataclasses.replace(made, settings=dataclasses.replace(made.settings, aug_level=0.5))
    assert (image != noised.generate(index, row, low)).any()


def test_a_sweep_over_weights_and_mixes_compiles_once(bank: PromptBank) -> None:
    index, row = np.array([0]), np.array([0], np.int32)
    sampler.cache_clear()
    for weight in (1.25, 2.0, 5.0):
        for mix in (0.0, 0.3, 1.0):
            generator(bank, "base4", 2, guidance_weight=weight, logvar_mix=mix).generate(index, row, None)
    assert sampler.cache_info().misses == 1


def test_settings_hash_changes_with_every_sampling_knob(bank: PromptBank) -> None:
    base = generator(bank, "base4", 2)
    knobs = {"guidance_weight": 3.0, "logvar_mix": 0.5, "num_sampling_steps": 5, "checkpoint": 20, "eta": 0.5}
    hashes = {generator(bank, "base4", 2, **{knob: value}).settings_sha256 for knob, value in knobs.items()}
    assert len(hashes | {base.settings_sha256}) == len(knobs) + 1
    assert generator(bank, "base4", 8).settings_sha256 == base.settings_sha256  # where, not what
