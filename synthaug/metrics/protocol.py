"""How a FID was measured. A number without its protocol cannot be written: `score_row` demands one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from synthaug.errors import ConfigError, DataError

REFERENCES = ("train", "val")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything two rows must share before their numbers may be compared."""

    encoder: str  # e.g. "inception-2015-12-05", or the name of the toy encoder
    encoder_hash: str  # hash of its weights
    resize: str  # filter that brings images to the encoder's input size
    resolution: int  # px, side of the scored images
    n: int  # images in the scored set; FID falls with it
    n_reference: int  # images in the reference set
    reference: str  # split of the real data that is compared with
    splits: int  # of the Inception Score
    neighbours: int  # k of precision and recall
    max_images: int  # per set in precision and recall, drawn with `seed` from larger sets
    seed: int  # of the splits and of that draw

    def __post_init__(self) -> None:
        """Checks each field, then those that depend on each other.

        Raises:
            ConfigError: a value that no measurement can have.
        """
        for name in ("encoder", "encoder_hash", "resize"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigError(f"protocol: {name} = {value!r}; expected a text; state what was used.")
        if self.reference not in REFERENCES:
            raise ConfigError(f"protocol: reference = {self.reference!r}; expected train or val; choose one.")
        smallest = {"resolution": 1, "n": 2, "n_reference": 2, "splits": 1, "neighbours": 1, "max_images": 2}
        for name, low in {**smallest, "seed": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(
                    f"protocol: {name} = {value!r}; expected a whole number >= {low}; change it."
                )
        if self.splits > self.n:
            raise ConfigError(f"protocol: splits = {self.splits} exceeds n = {self.n} images; lower splits.")
        available = min(self.n, self.n_reference, self.max_images)
        if self.neighbours >= available:
            raise ConfigError(
                f"protocol: neighbours = {self.neighbours} needs more than the {available} images that "
                "n, n_reference and max_images leave; lower neighbours or score more images."
            )


def score_row(
    set_name: str,
    protocol: Protocol,
    fid: float,
    inception_score: float,
    inception_score_std: float,
    precision: float,
    recall: float,
) -> dict[str, Any]:
    """Returns one flat, JSON-ready row: a set, its numbers, and how they were measured.

    Raises:
        DataError: no name, or a number that the metric cannot have (NaN included).
    """
    if not set_name.strip():
        raise DataError(f"score: set name {set_name!r}; expected a text; name the scored set.")
    bounds = {
        "fid": (fid, 0.0, math.inf),
        "inception_score": (inception_score, 1.0 - 1e-9, math.inf),  # exactly 1 for a uniform classifier
        "inception_score_std": (inception_score_std, 0.0, math.inf),
        "precision": (precision, 0.0, 1.0),
        "recall": (recall, 0.0, 1.0),
    }
    for name, (value, low, high) in bounds.items():
        if not (math.isfinite(value) and low <= value <= high):
            raise DataError(
                f"{set_name}: {name} = {value}; expected {low:g} to {high:g}; score the set again."
            )
    return {
        "set": set_name,
        "resolution": protocol.resolution,
        "reference": protocol.reference,
        "n": protocol.n,
        "encoder": protocol.encoder,
        **{name: float(value) for name, (value, _, _) in bounds.items()},
        "n_reference": protocol.n_reference,
        "encoder_hash": protocol.encoder_hash,
        "resize": protocol.resize,
        "splits": protocol.splits,
        "neighbours": protocol.neighbours,
        "max_images": protocol.max_images,
        "seed": protocol.seed,
    }
