"""Classify rows by what they compare: one classifier trained on real, generated and mixed sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from synthaug.reporting.data import Row
from synthaug.reporting.document import Cell
from synthaug.reporting.numbers import NONE, SURE, Delta, Spread, paired, percent_spread, plural, spread


class Arm(NamedTuple):
    """A classifier at a resolution: what is held fixed while the training set changes."""

    model: str
    resolution: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Top-1 of one arm with the real set alone and with another set, paired by seed."""

    arm: Arm
    mix: str
    copies: int
    shots: int
    real: Spread
    other: Spread
    delta: Delta  # other - real


def arms(rows: Sequence[Row]) -> list[Arm]:
    """Returns the classifiers in the rows, in order of appearance."""
    return list(dict.fromkeys(Arm(row["model"], row["resolution"]) for row in rows))


def arm_name(arm: Arm, every: Sequence[Arm]) -> str:
    """Returns the model's name, with its resolution only where a study has several."""
    return arm.model if len({a.resolution for a in every}) < 2 else f"{arm.model}, {arm.resolution} px"


def select(rows: Sequence[Row], arm: Arm, mix: str, copies: int | None = None, shots: int = 0) -> list[Row]:
    """Returns one cell of a table: a row per seed.

    Args:
        rows: classify rows.
        arm: the classifier.
        mix: real, generated or real+generated.
        copies: generated copies; None for any, as for the mix `real`.
        shots: real images per class; 0 = all. The mix `generated` uses none and is the same for any.
    """
    found = [
        row
        for row in rows
        if Arm(row["model"], row["resolution"]) == arm
        and row["mix"] == mix
        and (copies is None or row["copies"] == copies)
        and (mix == "generated" or row["shots"] == shots)
    ]
    return list({row["seed"]: row for row in found}.values())


def copies_of(rows: Sequence[Row], mix: str) -> list[int]:
    """Returns the numbers of generated copies that a mix was trained with, ascending."""
    return sorted({row["copies"] for row in rows if row["mix"] == mix})


def compare(rows: Sequence[Row], mix: str, shots: int = 0) -> list[Comparison]:
    """Returns every arm and number of copies that has both the real set and `mix`."""
    found = []
    for arm in arms(rows):
        real = select(rows, arm, "real", shots=shots)
        for copies in copies_of(rows, mix):
            other = select(rows, arm, mix, copies, shots)
            if real and other:
                found.append(_comparison(arm, mix, copies, shots, real, other))
    return found


def _comparison(
    arm: Arm, mix: str, copies: int, shots: int, real: Sequence[Row], other: Sequence[Row]
) -> Comparison:
    means = [spread([row["top1"] for row in cell]) for cell in (real, other)]
    return Comparison(arm, mix, copies, shots, means[0], means[1], paired(real, other, "top1"))


def score_cell(rows: Sequence[Row], metric: str) -> Cell:
    """Returns mean and deviation over the seeds of one cell in percent, or "not run"."""
    return Cell(percent_spread(spread([row[metric] for row in rows]))) if rows else Cell("not run", "muted")


def trained_on(rows: Sequence[Row]) -> str:
    """Returns the numbers of training images behind some rows."""
    sizes = sorted({row["n_train"] for row in rows})
    return " to ".join(f"{n:,}" for n in dict.fromkeys((sizes[0], sizes[-1]))) if sizes else NONE


def how_sure(delta: Delta) -> str:
    """Returns the evidence behind a difference in words: "p = 0.031, 6 paired seeds"."""
    pairs = plural(delta.difference.seeds, "paired seed")
    if delta.p is None:
        return f"{pairs}, too few for a test"
    return f"p {'< 0.001' if delta.p < 0.001 else f'= {delta.p:.3f}'}, {pairs}"


def smallest_p(pairs: int) -> float:
    """Returns the lowest p-value that a sign-flip test can give: all differences of one sign."""
    return 2.0 / 2**pairs


def p_note(comparisons: Sequence[Comparison]) -> str:
    """Returns what the p-values of these comparisons can and cannot show."""
    pairs = [c.delta.difference.seeds for c in comparisons]
    text = "Δ is paired by seed; p is a two-sided sign-flip test over seeds, not corrected for many rows"
    if pairs and 1 < min(pairs) < 6:
        text += (
            f"; {min(pairs)} seeds cannot give p below {smallest_p(min(pairs)):.3g}, "
            f"six are needed to get under {SURE:g}"
        )
    return text
