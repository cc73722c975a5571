"""Random changes of training images on the host; what the device does is in synthaug.train.mixing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from synthaug.data import crops, randaugment
from synthaug.data.stream import (
    COLOUR,
    CROP,
    FLIP,
    RAND_AUGMENT,
    SHIFT,
    random_raw,
    random_uniform,
    translate,
)
from synthaug.experiment import Augment, View


def draw(settings: Augment, view: View, seed: int, step: int, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the random numbers of a whole batch, by what they decide, f64[B,n] in [0, 1).

    They are drawn for the global batch: a row's do not depend on how hosts share it.
    """
    wanted = {
        "flip": (FLIP, int(settings.flip)),
        "crop": (CROP, crops.NUM_UNIFORM * (view.crop == "random_resized")),
        "colour": (COLOUR, randaugment.JITTER_UNIFORM * (settings.color_jitter > 0)),
        "rand_augment": (RAND_AUGMENT, randaugment.NUM_UNIFORM * settings.rand_augment),
    }
    drawn = {
        name: random_uniform(seed, purpose, step, batch_size, count)
        for name, (purpose, count) in wanted.items()
        if count
    }
    if settings.max_shift:
        raw = random_raw(seed, SHIFT, step, 2 * batch_size).reshape(batch_size, 2)
        drawn["shift"] = (raw % (2 * settings.max_shift + 1)).astype(np.int64) - settings.max_shift
    return drawn


def move(images: np.ndarray, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns u8[B,H,W,C] with its rows moved by whole pixels, if shifts were drawn."""
    return translate(images, drawn["shift"]) if "shift" in drawn else images
