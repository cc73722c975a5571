"""Accuracy against the amount of generated data (the paper's Table 4 and Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.figure
from matplotlib.ticker import MaxNLocator

from synthaug.reporting import drawing, paper
from synthaug.reporting.comparisons import (
    Arm,
    arm_name,
    arms,
    compare,
    copies_of,
    p_note,
    score_cell,
    select,
    trained_on,
)
from synthaug.reporting.data import Report, Row
from synthaug.reporting.document import Cell, Column, Details, Figure, Line, Section, Table, missing_section
from synthaug.reporting.numbers import MINUS, SURE, Spread, decimal, delta_cell, paired, protocol, spread
from synthaug.reporting.text import label

TITLE = "More generated data"


def section(report: Report) -> Section:
    """Returns the curve and its table; it takes at least two numbers of copies."""
    rows = [r for r in report.rows("classify") if r["shots"] == 0 and r["mix"] in ("real", "real+generated")]
    copies = copies_of(rows, "real+generated")
    if len(copies) < 2:
        had = f"only {copies[0]} was trained" if copies else "none was trained"
        reason = f"a curve needs at least two numbers of generated copies beside the real set; {had}."
        return missing_section("scaling", TITLE, reason)
    published = Details("The paper's Table 4, for orientation", [_published()])
    return Section("scaling", TITLE, [_figure(rows, copies), _table(rows, copies), published])


def curve(rows: Sequence[Row], arm: Arm, copies: Sequence[int]) -> list[tuple[int, Spread]]:
    """Returns (copies, top-1) with 0 copies for the real set alone; points without a number are left out."""
    cells = [(0, select(rows, arm, "real"))] + [(c, select(rows, arm, "real+generated", c)) for c in copies]
    points = [(c, spread([row["top1"] for row in cell])) for c, cell in cells if cell]
    return [(c, s) for c, s in points if s.mean is not None]


def _figure(rows: Sequence[Row], copies: Sequence[int]) -> Figure:
    every = arms(rows)
    with drawing.style():
        drawn = matplotlib.figure.Figure(figsize=(8.6, 3.9))
        axis = drawn.subplots()
        for i, arm in enumerate(every):
            _draw_curve(axis, curve(rows, arm, copies), i, label(arm_name(arm, every), 40))
        axis.set_xlabel("generated copies added to the real set (0 = real images only)")
        axis.set_ylabel("top-1 %, real validation images")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.margins(x=0.05, y=0.1)
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            drawn.legend(handles, labels, loc="outside right upper")
        svg, png = drawing.to_svg(drawn, "scaling"), drawing.to_png(drawn)
    caption = (
        "Top-1 against the number of generated copies added to the real set; bars: ± one deviation over "
        "training seeds. Dotted: each classifier with real images only. Large marker: its best point."
    )
    return Figure(
        "scaling", svg, png, caption, "Top-1 accuracy against generated copies, a line per classifier"
    )


def _draw_curve(axis: Any, points: Sequence[tuple[int, Spread]], i: int, name: str) -> None:
    if not points:
        return
    colour, marker = drawing.SERIES[i % len(drawing.SERIES)], drawing.MARKERS[i % len(drawing.MARKERS)]
    shift = 0.03 * i  # keeps bars of several classifiers apart
    x, y = [c + shift for c, _ in points], [100 * (s.mean or 0.0) for _, s in points]
    bars = [100 * (s.deviation or 0.0) for _, s in points]
    axis.errorbar(x, y, yerr=bars, color=colour, marker=marker, capsize=3, elinewidth=1.1, label=name)
    best = max(range(len(y)), key=y.__getitem__)
    axis.plot([x[best]], [y[best]], color=colour, marker=marker, markersize=10, linestyle="none")
    if points[0][0] == 0:
        axis.axhline(y[0], color=colour, linestyle=":", linewidth=1.1)


def _table(rows: Sequence[Row], copies: Sequence[int]) -> Table:
    every = arms(rows)
    columns = [Column("copies"), Column("training images")]
    for arm in every:
        columns += [Column(f"{arm_name(arm, every)}, top-1 %"), Column("Δ, points")]
    lines = []
    for number in (0, *copies):
        mix, wanted = ("real", None) if number == 0 else ("real+generated", number)
        cells = [select(rows, arm, mix, wanted) for arm in every]
        line = [Cell(str(number)), Cell(trained_on([row for cell in cells for row in cell]))]
        for arm, cell in zip(every, cells, strict=True):
            delta = delta_cell(paired(select(rows, arm, "real"), cell, "top1")) if number else Cell("")
            line += [score_cell(cell, "top1"), delta]
        lines.append(Line(line))
    caption = (
        f"The points of the curve. Δ is against 0 copies; the sign says better (+) or worse ({MINUS}), bold: "
        f"p < {SURE:g}."
    )
    how = f"{protocol(rows)}. {p_note(compare(rows, 'real+generated'))}"
    return Table(columns, lines, caption, how)


def _published() -> Table:
    names = ("copies", "256 px set, top-1 %", "Δ, points", "1024 px set, top-1 %", "Δ, points")
    zero = paper.TABLE_4[0]
    lines = []
    for row in paper.TABLE_4:
        line = [Cell(str(row.copies))]
        for top1, dev, base in (
            (row.top1_256, row.dev_256, zero.top1_256),
            (row.top1_1024, row.dev_1024, zero.top1_1024),
        ):
            delta = Cell(f"{top1 - base:+.2f}".replace("-", MINUS), "up" if top1 > base else "down")
            line += [Cell(f"{decimal(top1)} ± {decimal(dev)}"), delta if row.copies else Cell("")]
        lines.append(Line(line, "published"))
    caption = f"{paper.SOURCE}, Table 4: {paper.LABEL}."
    how = "ImageNet-1K, ResNet-50; 0 copies = 1.2 M real images, each copy adds 1.2 M generated images"
    return Table([Column(name) for name in names], lines, caption, how)
