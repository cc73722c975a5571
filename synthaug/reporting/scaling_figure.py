"""Top-1 against the amount of generated data, after the paper's Fig. 6: a band, and arrows for the gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.figure
from matplotlib.ticker import MaxNLocator

from synthaug.reporting import comparable, drawing, paper
from synthaug.reporting.comparisons import ALL, copies_of, models, select, set_name, sets_of
from synthaug.reporting.data import Results, Row, run_rows
from synthaug.reporting.document import Figure
from synthaug.reporting.numbers import Spread, signed, spread
from synthaug.reporting.text import label

MOST_PANELS = 6
Curve = list[tuple[int, Spread]]


def figure(results: Results) -> Figure:
    """Returns a panel per classifier and generated set; there must be a curve to draw."""
    rows = [r for r in run_rows(results, "classify") if r["subset"] == ALL and r["mix"] != "generated"]
    every = [
        (model, name, px, points)
        for model in models(rows)
        for name, px in sorted(sets_of(rows), key=lambda found: found[1])
        if len(points := curve(rows, model, name)) > 2
    ]
    panels = every[:MOST_PANELS]
    across = min(3, max(1, len(panels)))
    down = -(-max(1, len(panels)) // across)
    with drawing.style():
        drawn = matplotlib.figure.Figure(figsize=(min(10.2, 2.2 + 3.5 * across), 3.3 * down + 0.4))
        axes = drawn.subplots(down, across, squeeze=False).ravel()
        for axis, (model, name, px, points) in zip(axes, panels, strict=False):
            row = next(row for row in rows if row["model"] == model)
            _panel(axis, points, comparable.table_4(results, row, name, px))
            axis.set_title(label(f"{model}, {set_name(results, name)}", 40))
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        for axis in axes[::across][: max(1, len(panels))]:
            axis.set_ylabel("top-1 %, real validation images")
        handles = {
            text: h for axis in axes for h, text in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        drawn.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=4 if across > 1 else 2
        )
        svg, png = drawing.to_svg(drawn, "scaling"), drawing.to_png(drawn)
    return Figure(
        "scaling", svg, png, _caption(len(every)), "Top-1 against the number of generated copies", 6
    )


def _caption(panels: int) -> str:
    text = (
        "As the paper's Fig. 6: top-1 against the number of generated copies beside the real set, "
        "a panel per classifier and set. Band: ± one deviation over seeds. Dotted: real images only. "
        "Arrows: the gain over it, in points."
    )
    return text + (f" Drawn: {MOST_PANELS} of {panels}." if panels > MOST_PANELS else "")


def curve(rows: Sequence[Row], model: str, name: str) -> Curve:
    """Returns (copies, top-1) with 0 copies for the real set alone; points without a number are left out."""
    cells = [(0, select(rows, model, "real"))]
    cells += [
        (c, select(rows, model, "real+generated", name, c)) for c in copies_of(rows, "real+generated", name)
    ]
    points = [(c, spread([row["top1"] for row in cell])) for c, cell in cells if cell]
    return [(c, s) for c, s in points if s.mean is not None]


def arrows_at(copies: Sequence[int]) -> list[int]:
    """Returns where an arrow stands: at every third copy as in the paper, of few at the middle and the last.

    Example:
        >>> arrows_at([1, 2, 3, 4, 5, 6, 7, 8, 9]), arrows_at([1, 2, 4])
        ([3, 6, 9], [2, 4])
    """
    own = [c for c in copies if c]
    thirds = [c for c in own if c % 3 == 0]
    return thirds if len(thirds) > 1 else sorted({own[(len(own) - 1) // 2], own[-1]}) if own else []


def _panel(axis: Any, points: Curve, published: Sequence[paper.Value]) -> None:
    x, y = [c for c, _ in points], [100 * (s.mean or 0.0) for _, s in points]
    around = [100 * (s.deviation or 0.0) for _, s in points]
    if published:
        shown = published[: max(x) + 1]
        axis.plot(
            range(len(shown)), [v.mean for v in shown], color=drawing.GREY, marker="o", markersize=3,
            linewidth=1.1, linestyle="--", label="the paper's curve",
        )  # fmt: skip
    low, high = ([a + sign * b for a, b in zip(y, around, strict=True)] for sign in (-1, 1))
    axis.fill_between(x, low, high, color=drawing.GREEN, alpha=0.18, linewidth=0, label="± one deviation")
    axis.plot(x, y, color=drawing.GREEN, marker="o", label="real + generated")
    if x and x[0] == 0:
        axis.axhline(y[0], color=drawing.BLUE, linestyle=":", linewidth=1.4, label="real only")
        for at in arrows_at(x):
            _arrow(axis, at, y[0], y[x.index(at)])
    axis.set_xlabel("generated copies")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.margins(x=0.09, y=0.2)
    low, high = axis.get_ylim()
    axis.set_ylim(low, min(high, 101.0))  # no accuracy lies above 100 %


def _arrow(axis: Any, x: float, start: float, end: float) -> None:
    """Draws the gain from the real set to a point, with its size in points."""
    look = {"arrowstyle": "-|>", "color": drawing.INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 3}
    axis.annotate("", (x, end), xytext=(x, start), arrowprops=look)
    side = 5 if end >= start else -5
    axis.annotate(
        signed(end - start), (x, end), xytext=(0, side), textcoords="offset points", fontsize=8.5,
        ha="center", va="bottom" if end >= start else "top", color=drawing.INK,
        bbox={"facecolor": drawing.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
    )  # fmt: skip
