"""The filter of generated images, which the paper has not: what is flagged, how many are spare."""

from __future__ import annotations

import dataclasses
import math

from synthaug.config import knob


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
    """Flags generated images and chooses among the others; nothing is deleted.

    Only images of the study's own cascade are judged, at its highest resolution; the choice holds for all.
    Sets made elsewhere are used as they are, but a manifest of another run brings that run's choice.
    """

    reserve: float = knob(
        0.0,
        "spare images sampled beyond sample.copies, as a share of those; they replace flagged ones",
        at_least=0,
    )
    min_confidence: float = knob(
        0.0,
        "flag images to whose own class the encoder gives less probability; 0 = off",
        at_least=0,
        at_most=1,
    )
    duplicate_quantile: float = knob(
        0.0,
        "flag images as near to a real one, by the encoder's features, as this share of real train images is "
        "to the nearest other one, or nearer; 0 = off",
        at_least=0,
        at_most=1,
    )
    num_probes: int = knob(
        50_000, "real train images whose nearest other one is looked up for that", unit="images", at_least=2
    )

    @property
    def active(self) -> bool:
        """Returns whether anything can be flagged."""
        return self.min_confidence > 0 or self.duplicate_quantile > 0

    def num_spare(self, num_images: int) -> int:
        """Returns the spare images of a set of `num_images`.

        Example:
            >>> Filter(reserve=0.1).num_spare(25)
            3
        """
        # 0.1 * 30 is a little above 3 in floating point
        return math.ceil(round(self.reserve * num_images, 6))
