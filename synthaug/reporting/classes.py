"""Accuracy class by class, real-trained against synthetic-trained (the paper's Fig. 5)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
import numpy as np

from synthaug.reporting import commands, drawing
from synthaug.reporting.comparisons import ALL, set_name
from synthaug.reporting.data import Report, Results
from synthaug.reporting.document import (
    Block,
    Cell,
    Column,
    Figure,
    Line,
    Section,
    Table,
    Text,
    missing_section,
)
from synthaug.reporting.numbers import NONE, percent, plural, signed_points, spread
from synthaug.reporting.text import label

TITLE = "Class by class: Figure 5"
MOST_PANELS = 4
MOST_NAMES = 30
"""Up to this many classes their names stand under the axis; above, the rank."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Per-class accuracy of one classifier, mean over seeds; f64[K] each, NaN where nothing was measured."""

    model: str
    set: str
    copies: int
    seeds: int  # of the set with fewer seeds
    real: np.ndarray
    generated: np.ndarray


def section(report: Report) -> Section:
    """Returns the figure, the statistics of the paper's Fig. 5, and the classes that differ most."""
    results = report.results
    pairs = pairs_of(results)
    if not pairs:
        reason = "per-class accuracy of both a real-trained and a generated-trained classifier is needed."
        return missing_section("classes", TITLE, reason, commands.CAS)
    blocks: list[Block] = [figure(results), _statistics(results, pairs)]
    blocks += [_extremes(results, pair) for pair in _panels(pairs)[:1]]
    if len(pairs) > MOST_PANELS:
        blocks.insert(1, Text(f"Drawn: {MOST_PANELS} of {len(pairs)} pairs of classifier and generated set."))
    return Section("classes", TITLE, blocks)


def pairs_of(results: Results) -> list[Pair]:
    """Returns the classifiers and sets with both, all real images and the fewest generated copies."""
    rows, pairs = results["per_class"], []
    for model, name in dict.fromkeys((r["model"], r["set"]) for r in rows if r["mix"] == "generated"):
        own = [r for r in rows if r["model"] == model]
        real = {r["seed"]: r["accuracy"] for r in own if r["mix"] == "real" and r["subset"] == ALL}
        generated = [r for r in own if r["mix"] == "generated" and r["set"] == name]
        copies = min((r["copies"] for r in generated), default=0)
        fake = {r["seed"]: r["accuracy"] for r in generated if r["copies"] == copies}
        if real and fake:
            seeds = min(len(real), len(fake))
            pairs.append(Pair(model, name, copies, seeds, _mean([*real.values()]), _mean([*fake.values()])))
    return pairs


def _panels(pairs: Sequence[Pair]) -> list[Pair]:
    """Returns what is drawn: every set of the first classifier, then the other classifiers."""
    return sorted(pairs, key=lambda pair: pair.model != pairs[0].model)[:MOST_PANELS]


def _mean(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Returns f64[K], the mean over seeds of what was measured."""
    table = np.array([[math.nan if v is None else v for v in row] for row in rows], np.float64)
    known = np.isfinite(table)
    total = np.where(known, table, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(table.shape[1], np.nan), where=known.any(axis=0))


def figure(results: Results) -> Figure:
    """Returns a panel per generated set; there must be a pair to draw."""
    pairs = _panels(pairs_of(results))
    with drawing.style():
        drawn = matplotlib.figure.Figure(figsize=(9.9, 2.7 * len(pairs) + 0.5))
        axes = drawn.subplots(len(pairs), 1, squeeze=False)[:, 0]
        for axis, pair in zip(axes, pairs, strict=True):
            _panel(axis, results, pair)
            axis.set_ylim(_floor(pairs), 102)
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=1.6)
        svg, png = drawing.to_svg(drawn, "classes"), drawing.to_png(drawn)
    caption = (
        "As the paper's Fig. 5: top-1 of every class on real validation images, classes sorted by accuracy "
        "of the real-trained classifier, a panel per generated set; mean over training seeds. Red above "
        "blue: a class that generated images teach better."
    )
    return Figure("classes", svg, png, caption, "Accuracy per class, real against generated", 5)


def _floor(pairs: Sequence[Pair]) -> float:
    """Returns the lower end of the y axis in percent: 0, or higher if every class is well above."""
    values = np.concatenate([v[np.isfinite(v)] for pair in pairs for v in (pair.real, pair.generated)])
    low = 100 * float(values.min()) if len(values) else 0.0
    return -3.0 if low < 40 else 10 * ((low - 5) // 10)


def _panel(axis: Any, results: Results, pair: Pair) -> None:
    names = results["class_names"]
    order = np.argsort(np.where(np.isfinite(pair.real), pair.real, np.inf), kind="stable")
    x, real, fake = np.arange(len(order)), 100 * pair.real[order], 100 * pair.generated[order]
    small = len(order) <= MOST_NAMES
    size = 6.5 if small else max(1.2, 5 - len(order) / 300)
    if small:
        axis.vlines(x, np.fmin(real, fake), np.fmax(real, fake), color=drawing.GREY, linewidth=1.2)
    axis.plot(
        x, fake, "s", color=drawing.VERMILLION, markersize=size * 0.9, label="trained on generated images"
    )
    dots = "o" if small else "-"
    axis.plot(x, real, dots, color=drawing.BLUE, markersize=size, label="trained on real images")
    axis.set_ylabel("top-1 %")
    axis.set_title(label(_title(results, pair), 70))
    if small:
        axis.set_xticks(x)
        shown = [label(names[k], 16) for k in order]
        crowded = sum(map(len, shown)) > 90
        axis.set_xticklabels(shown, rotation=45 if crowded else 0, ha="right" if crowded else "center")
        axis.grid(visible=False, axis="x")
    else:
        axis.set_xlabel("classes, by accuracy of the real-trained classifier")


def _title(results: Results, pair: Pair) -> str:
    return f"{pair.model}, {set_name(results, pair.set)}, {plural(pair.copies, 'copy')}"


def _statistics(results: Results, pairs: Sequence[Pair]) -> Table:
    names = (
        "seeds",
        "classes",
        "generated better",
        "equal",
        "generated worse",
        "at 0: real",
        "at 0: generated",
    )
    first = [Column("classifier", numeric=False), Column("generated set", numeric=False)]
    columns = [*first, *map(Column, names), Column("mean Δ, points")]
    lines = []
    for pair in pairs:
        known = np.isfinite(pair.real) & np.isfinite(pair.generated)
        real, fake = pair.real[known], pair.generated[known]
        counts = (pair.seeds, known.sum(), (fake > real).sum(), (fake == real).sum(), (fake < real).sum())
        zeros = ((real == 0).sum(), (fake == 0).sum())
        gap = Cell(signed_points(spread([float((fake - real).mean())]))) if known.any() else Cell(NONE)
        names_of = [Cell(pair.model), Cell(set_name(results, pair.set))]
        lines.append(Line([*names_of, *(Cell(f"{n:,}") for n in (*counts, *zeros)), gap]))
    caption = (
        "How many classes the generated set teaches better or worse than the real set, and how many are "
        "never recognised (accuracy 0). Counts use the mean over seeds."
    )
    return Table(columns, lines, caption, "real validation images; classes without any are left out")


def _extremes(results: Results, pair: Pair, most: int = 3) -> Table:
    names = results["class_names"]
    known = np.flatnonzero(np.isfinite(pair.real) & np.isfinite(pair.generated))
    order = known[np.argsort((pair.generated - pair.real)[known], kind="stable")]
    shown = order if len(order) <= 2 * most else np.concatenate([order[:most], order[-most:]])
    lines = [
        Line(
            [
                Cell(names[k]),
                Cell(percent(pair.real[k])),
                Cell(percent(pair.generated[k])),
                _gap_cell(float(pair.generated[k] - pair.real[k])),
            ]
        )
        for k in shown
    ]
    columns = [Column("class", numeric=False), Column("real %"), Column("generated %"), Column("Δ, points")]
    caption = (
        f"{label(_title(results, pair), 70)}: the classes that generated images teach worst and best, beside "
        "real ones."
    )
    return Table(
        columns, lines, caption, f"top-1 on real validation images, mean over {plural(pair.seeds, 'seed')}"
    )


def _gap_cell(gap: float) -> Cell:
    return Cell(signed_points(spread([gap])), "up" if gap > 0 else "down" if gap < 0 else "muted")
