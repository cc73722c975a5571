"""Sampler settings that make no sense, alone or together with the sweep: one line, before any work."""

from __future__ import annotations

import pytest

from tests import study

BASE, GRID = "cascade.base4.sampler", "sweep.phases.base.grid"
LABELS = ("cascade.base4.unet.conditioning=label", "cascade.base4.unet.attention=self",
          "cascade.base4.finetune.text_drop=0")  # fmt: skip
PROFILES = ("cascade.base4.finetune.ema_profiles=[0.05, 0.1]", "cascade.base4.finetune.ema_every=10")
DISCRETE = "cascade.base4.diffusion.num_timesteps=1000"


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ((f"{BASE}.guidance_min_t=0.6", f"{BASE}.guidance_max_t=0.4"),
         f"{BASE}.guidance_min_t = 0.6 and guidance_max_t = 0.4; expected 0 <= min_t < max_t <= 1"),
        ((f"{BASE}.guidance_min_t=0.3", f"{BASE}.guidance_max_t=0.4"),
         "none of the 4 sampling steps lies between them"),
        ((f"{BASE}.guidance_max_t=1.5",), "and <= 1"),
        ((f"{GRID}.guidance_min_t=[0.2, 0.8]", f"{GRID}.guidance_max_t=[0.5, 1.0]"),
         f"{GRID}: guidance_min_t = 0.8 and guidance_max_t = 0.5"),
        ((f"{BASE}.guide_checkpoint=15",), "guide_checkpoint = 15 is not kept; expected one of [20, 40]"),
        ((f"{BASE}.guide_checkpoint=20",), "guides by nothing at guidance_weight = 1"),
        ((f"{BASE}.guide_checkpoint=40", f"{BASE}.guidance_weight=2"), "is the checkpoint that is sampled"),
        ((f"{GRID}.guide_checkpoint=[0, 30]",), "guide_checkpoint = 30 is not kept"),
        ((*LABELS, f"{BASE}.guidance_weight=1.5"), "labels has no unconditional mode to guide by"),
        (LABELS, f"{GRID}: guidance_weight = 2: a network with labels"),
        ((f"{BASE}.ema_length=0.1",), "ema_length = 0.1 needs finetune.ema_profiles"),
        ((*PROFILES, f"{BASE}.ema_length=0.01"), "give lengths from"),
        ((*PROFILES, f"{BASE}.ema_length=0.28"), "give lengths from"),
        ((f"{BASE}.ema_length=0.5",), "and <= 0.28"),
        ((f"{BASE}.aug_level=0.1",), "aug_level = 0.1, but the model has no low-resolution input"),
        (("cascade.sr8.augmentation=none",), "aug_level = 0.2, but the model is trained without noise"),
        (("cascade.sr8.sampler.aug_level=1.5",), "and <= 1"),
        ((f"{BASE}.solver=ddim", f"{GRID}.logvar_mix=[0, 0.3]"), f"{GRID}.logvar_mix changes nothing"),
        ((DISCRETE, f"{BASE}.timesteps=[999, 500, 0]", f"{GRID}.num_sampling_steps=[8]"),
         f"{GRID}.num_sampling_steps changes nothing: sampler.timesteps states the steps"),
        ((f"{GRID}.guidance_weight=[]", f"{GRID}.guidance_max_t=[0.5]"), "guidance_max_t changes nothing"),
        ((DISCRETE, f"{GRID}.num_sampling_steps=[2000]"), "exceeds the 1000 timesteps"),
        ((f"{BASE}.timesteps=[5]",), "the schedule is continuous"),
        (("sample.edit_level=0.2",), "4 sampling steps; expected 0 (off), or 0.25"),
        (("sample.edit_level=0.2", f"{GRID}.num_sampling_steps=[2, 8]"), "last of base4's 2 sampling steps"),
        (("sample.edit_level=1.2",), "and <= 1"),
        (("cascade.sr8.resolution=6",), "expected a multiple of base4's 4 px"),
        ((f"{GRID}.solver=[euler]",), "ddpm, ddim, dpmpp_2m"),
    ],
)  # fmt: skip
def test_a_sampler_setting_that_makes_no_sense_is_refused(overrides: tuple[str, ...], found: str) -> None:
    message = study.problem(*overrides)
    assert found in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "overrides",
    [
        (f"{BASE}.guidance_min_t=0.2", f"{BASE}.guidance_max_t=0.5", f"{GRID}.solver=[ddpm, heun]"),
        (f"{BASE}.guide_checkpoint=20", f"{BASE}.guidance_weight=2", f"{GRID}.checkpoint=[40]"),
        (*LABELS, f"{GRID}.guide_checkpoint=[20]"),
        (*PROFILES, f"{GRID}.ema_length=[0, 0.05, 0.07, 0.1]"),
        ("sample.edit_level=0.25",),
        (DISCRETE, f"{BASE}.timesteps=[999, 500, 0]", "sample.edit_level=0.001"),
        ("cascade.sr8.augmentation=discrete",),
    ],
)
def test_what_makes_sense_is_accepted(overrides: tuple[str, ...]) -> None:
    assert study.problem(*overrides) == ""
