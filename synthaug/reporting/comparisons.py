"""Classify rows by what they compare: one classifier trained on real, generated and mixed sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from synthaug.reporting import paper
from synthaug.reporting.data import Row
from synthaug.reporting.document import Cell
from synthaug.reporting.numbers import (
    NONE,
    SURE,
    Delta,
    Spread,
    decimal,
    paired,
    percent_spread,
    plural,
    signed,
    spread,
)

ALL = "all"
"""The subset that holds every real training image."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Top-1 of one classifier with the real set alone and with another set, paired by seed."""

    model: str
    mix: str
    set: str
    copies: int
    subset: str
    real: Spread
    other: Spread
    delta: Delta  # other - real


def models(rows: Sequence[Row]) -> list[str]:
    """Returns the classifiers in the rows, in order of appearance."""
    return list(dict.fromkeys(row["model"] for row in rows))


def sets_of(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Returns (name, resolution) of the generated sets in the rows, in order of appearance."""
    return list(dict.fromkeys((row["set"], row["set_resolution"]) for row in rows if row["set"]))


def set_name(results: Mapping[str, Any], name: str) -> str:
    """Returns what a generated set is called in a table: "our 256 px set", "biggan, 256 px"."""
    made = next((s for s in results["sets"] if s["name"] == name), None)
    if made is None:
        return name
    return (
        f"our {made['resolution']} px set" if made["source"] == "own" else f"{name}, {made['resolution']} px"
    )


def full(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that use all real images, or none."""
    return [row for row in rows if row["subset"] == ALL or row["mix"] == "generated"]


def select(
    rows: Sequence[Row], model: str, mix: str, name: str = "", copies: int | None = None, subset: str = ALL
) -> list[Row]:
    """Returns one cell of a table: a row per seed.

    Args:
        rows: classify rows.
        model: the classifier.
        mix: real, generated or real+generated.
        name: of the generated set; the mix `real` has none.
        copies: generated copies; None for any.
        subset: of the real images. The mix `generated` uses none of them and is the same for any.
    """
    found = [
        row
        for row in rows
        if (row["model"], row["mix"]) == (model, mix)
        and (mix == "real" or row["set"] == name)
        and (copies is None or mix == "real" or row["copies"] == copies)
        and (mix == "generated" or row["subset"] == subset)
    ]
    return list({row["seed"]: row for row in found}.values())


def copies_of(rows: Sequence[Row], mix: str, name: str = "") -> list[int]:
    """Returns the numbers of copies that a mix was trained with, ascending; of one set, or of any."""
    return sorted({row["copies"] for row in rows if row["mix"] == mix and name in ("", row["set"])})


def compare(rows: Sequence[Row], mix: str, subset: str = ALL) -> list[Comparison]:
    """Returns every classifier, set and number of copies that has both the real set and `mix`."""
    found = []
    for model in models(rows):
        real = select(rows, model, "real", subset=subset)
        for name, _ in sets_of(rows):
            for copies in copies_of(rows, mix, name):
                other = select(rows, model, mix, name, copies, subset)
                if real and other:
                    means = [spread([row["top1"] for row in cell]) for cell in (real, other)]
                    delta = paired(real, other, "top1")
                    found.append(Comparison(model, mix, name, copies, subset, means[0], means[1], delta))
    return found


def score_cell(rows: Sequence[Row], metric: str) -> Cell:
    """Returns mean and deviation over the seeds of one cell in percent, or "not run"."""
    return Cell(percent_spread(spread([row[metric] for row in rows]))) if rows else Cell("not run", "muted")


def published_cell(value: paper.Value | float | None) -> Cell:
    """Returns a number of the paper with its deviation; empty where the paper has none."""
    if value is None:
        return Cell("")
    mean, deviation = value if isinstance(value, paper.Value) else (value, None)
    return Cell(decimal(mean) + (f" ± {decimal(deviation)}" if deviation is not None else ""), "muted")


def beside(
    rows: Sequence[Row], metric: str, published: paper.Value | float | None, same: bool = True
) -> list[Cell]:
    """Returns three cells: the paper's percent, ours, and ours minus the paper's.

    Args:
        rows: one cell of ours, a row per seed; empty: not run.
        metric: top1 or top5.
        published: the paper's number, or None.
        same: whether the two measure the same; else no difference is written.
    """
    mean = spread([row[metric] for row in rows]).mean
    known = published[0] if isinstance(published, paper.Value) else published
    gap = Cell("")
    if same and mean is not None and known is not None:
        points = 100 * mean - known
        gap = Cell(signed(points), "up" if points > 0 else "down")
    return [published_cell(published), score_cell(rows, metric), gap]


def trained_on(rows: Sequence[Row]) -> str:
    """Returns the numbers of training images behind some rows."""
    return _range(sorted({row["n_train"] for row in rows}), "{:,}")


def steps_of(rows: Sequence[Row]) -> str:
    """Returns the training steps behind some rows."""
    return _range(sorted({row["num_steps"] for row in rows}), "{:,}")


def epochs_of(rows: Sequence[Row]) -> str:
    """Returns the passes over the training set behind some rows."""
    return _range(sorted({round(row["num_epochs"], 1) for row in rows}), "{:,.1f}")


def _range(values: Sequence[float], form: str) -> str:
    """Returns "90", or "90 to 112" of several values; ascending order is expected."""
    return " to ".join(dict.fromkeys(form.format(v) for v in (values[0], values[-1]))) if values else NONE


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
