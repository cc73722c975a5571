"""Accuracy against the amount of generated data (the paper's Table 4 and Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import commands, comparable, paper, scaling_figure
from synthaug.reporting.comparisons import (
    ALL,
    beside,
    compare,
    copies_of,
    epochs_of,
    models,
    p_note,
    select,
    set_name,
    sets_of,
    steps_of,
    trained_on,
)
from synthaug.reporting.data import Report, Results, Row, run_rows
from synthaug.reporting.document import Cell, Column, Line, Section, Table, missing_section
from synthaug.reporting.numbers import MINUS, SURE, delta_cell, p_value, paired, protocol, signed

TITLE = "More generated data: Table 4 and Figure 6"
Lost = list[tuple[str, str]]


def section(report: Report) -> Section:
    """Returns the curve and its table; it takes at least two numbers of copies."""
    rows = scaling_rows(report.results)
    copies = copies_of(rows, "real+generated")
    if len(copies) < 2:
        had = f"only {copies[0]} was trained" if copies else "none was trained"
        reason = f"a curve needs at least two numbers of generated copies beside the real set; {had}."
        return missing_section("scaling", TITLE, reason, commands.SCALING)
    table, lost = table_4(report.results)
    return Section("scaling", TITLE, [scaling_figure.figure(report.results), table, *commands.details(lost)])


def scaling_rows(results: Results) -> list[Row]:
    """Returns the rows with all real images, alone or with generated ones."""
    rows = run_rows(results, "classify")
    return [r for r in rows if r["subset"] == ALL and r["mix"] in ("real", "real+generated")]


def table_4(results: Results) -> tuple[Table, Lost]:
    """Returns the table, and the paper's rows that are not run with the command that runs them."""
    rows = scaling_rows(results)
    lines, lost, shown = list[Line](), Lost(), set[int]()
    for model in models(rows):
        for name, px in sorted(sets_of(rows), key=lambda found: found[1]):
            own = [row for row in rows if row["model"] == model]
            published = comparable.table_4(results, own[0], name, px)
            if not published and len(copies_of(own, "real+generated", name)) < 2:
                continue  # no curve, and nothing of the paper's to set it against
            if published:
                shown.add(px)
            lines.append(Line([Cell(f"{model}, {set_name(results, name)}")], "group"))
            more, left = _block(rows, model, name, px, published)
            lines, lost = lines + more, lost + left
    for px in (64, 256, 1024):
        if px not in shown:
            lines.append(Line([Cell(f"{paper.SOURCE}, ResNet-50, {_published_name(px)}")], "group"))
            more, left = _block([], "ResNet-50", "", px, comparable.published_sizes(px))
            lines, lost = lines + more, lost + left
    columns = [Column("copies"), *map(Column, ("training images", "steps", "passes"))]
    columns += [Column(name, group="top-1 % ↑") for name in ("paper", "ours", "diff.")]
    columns += [Column(name, group="Δ to 0 copies, points") for name in ("paper", "ours", "p")]
    how = f"{protocol(rows)}. {p_note(compare(rows, 'real+generated'))}"
    return Table(columns, lines, _caption(results), how, number=4), lost


def _published_name(px: int) -> str:
    return f"{px} px set" + (" (Fig. 6, digitised)" if px == 64 else "")


def _caption(results: Results) -> str:
    text = (
        "The paper's Table 4: top-1 % by the number of generated copies beside the real set; a copy is one "
        "generated image per real image, class by class. Δ is against 0 copies; the sign says better (+) or "
        f"worse ({MINUS}), bold: p < {SURE:g}. "
    )
    if not comparable.same_data(results):
        return text + (
            "This study has other images than ImageNet-1K, so the paper's rows stand for orientation and no "
            "difference is written; there a copy is 1.2 M images."
        )
    return text + "Difference: ours minus the paper's. At 64 px the paper's values are those of Fig. 6."


def _block(
    rows: Sequence[Row], model: str, name: str, px: int, published: Sequence[paper.Value]
) -> tuple[list[Line], Lost]:
    """Returns the lines of one classifier with one set: ours, and what only the paper has."""
    ours = copies_of([r for r in rows if r["model"] == model], "real+generated", name) if rows else []
    zero = select(rows, model, "real")
    lines, lost = list[Line](), Lost()
    for copies in sorted({0, *ours, *range(len(published))}):
        cell = select(rows, model, "real+generated", name, copies) if copies else zero
        known = published[copies] if copies < len(published) else None
        delta = paired(zero, cell, "top1")
        if not cell:
            lost.append((f"{model}, {px} px set, {copies} copies", commands.table_4(px, copies)))
        cells = [Cell(str(copies)), Cell(trained_on(cell)), Cell(steps_of(cell)), Cell(epochs_of(cell))]
        cells += beside(cell, "top1", known)
        paper_delta = signed(known.mean - published[0].mean) if known and copies else ""
        ours_delta = delta_cell(delta) if copies and cell else Cell("")
        p = p_value(delta.p) if copies and cell else ""
        cells += [Cell(paper_delta, "muted"), ours_delta, Cell(p)]
        lines.append(Line(cells, "" if cell else "published"))
    return lines, lost
