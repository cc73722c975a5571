"""How a set was scored: everything that two rows must share before their numbers may be compared."""

from __future__ import annotations

import dataclasses

from synthaug.errors import ConfigError

UNKNOWN = ""
"""A fact that a file does not tell, e.g. the weights behind a reference of ADM's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What was asked for; what came of it (numbers of images) is in the row."""

    encoder: str  # e.g. "inception-2015-12-05"
    encoder_hash: str  # of its weights
    backend: str  # that computed the features
    resize: str  # how images were brought to the encoder's input size
    resolution: int  # px, side of the scored images
    reference: str  # what is compared with: a split of the real data, or a file
    splits: int  # of the Inception Score
    neighbours: int  # k of precision, recall, density and coverage
    max_images: int  # per set in these and in KID, drawn with `seed` from larger sets
    kid_subsets: int  # draws that KID is the mean of
    kid_subset_size: int  # images of each
    seed: int  # of all draws
    codec: str  # of the scored images' files: "png", "jpeg", "png 90 %, jpeg 10 %", "raw"
    reference_codec: str = UNKNOWN
    fewest_images: int = 0  # below so many, FID of this encoder is mostly bias
    allow_small_n: bool = False  # score such sets all the same

    def __post_init__(self) -> None:
        """Checks each field.

        Raises:
            ConfigError: a value that no measurement can have.
        """
        for name in ("encoder", "encoder_hash", "backend", "resize", "reference", "codec"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigError(f"protocol: {name} = {value!r}; expected a text; state what was used.")
        smallest = {"resolution": 1, "splits": 1, "neighbours": 1, "max_images": 2, "kid_subsets": 1}
        for name, low in {**smallest, "kid_subset_size": 2, "seed": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(
                    f"protocol: {name} = {value!r}; expected a whole number >= {low}; change it."
                )
