"""Classification Accuracy Score: trained on one set, tested on real images (the paper's Table 2)."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import paper
from synthaug.reporting.comparisons import (
    Arm,
    arm_name,
    arms,
    copies_of,
    p_note,
    score_cell,
    select,
    trained_on,
)
from synthaug.reporting.comparisons import compare as compare_mixes
from synthaug.reporting.data import Report, Row
from synthaug.reporting.document import Cell, Column, Line, Section, Table, Text, missing_section
from synthaug.reporting.numbers import decimal, delta_cell, p_value, paired, plural, protocol

TITLE = "Classification Accuracy Score"


def section(report: Report) -> Section:
    """Returns the CAS table with the paper's Table 2 beneath it."""
    rows = [row for row in report.rows("classify") if row["shots"] == 0 or row["mix"] == "generated"]
    if not any(row["mix"] == "generated" for row in rows):
        otherwise = "no classifier was trained on generated images alone."
        return missing_section("cas", TITLE, report.why_not("classify", "generated", otherwise))
    used = [row for row in rows if row["mix"] in ("real", "generated")]
    text = (
        "A classifier is trained on one set only and tested on real validation images. CAS is its accuracy "
        "with the generated set; the real set is what it has to reach."
    )
    return Section("cas", TITLE, [Text(text), _table(used, len(report.class_names))])


def _table(rows: Sequence[Row], num_classes: int) -> Table:
    names = ("images", "top-1 % ↑", "top-5 % ↑", "Δ top-1, points", "p")
    columns = [Column("trained on", numeric=False), *map(Column, names)]
    lines: list[Line] = []
    for arm in arms(rows):
        lines.append(Line([Cell(arm_name(arm, arms(rows)))], "group"))
        lines += _arm_lines(rows, arm)
    lines.append(Line([Cell(f"ResNet-50, {paper.SOURCE}, Table 2: {paper.LABEL}")], "group"))
    lines += [_published_line(row) for row in paper.TABLE_2]
    caption = (
        "Accuracy on real validation images, mean ± deviation over training seeds; Δ is generated minus real."
    )
    how = f"{plural(num_classes, 'class')}; {protocol(rows)}. {p_note(compare_mixes(rows, 'generated'))}"
    return Table(columns, lines, caption, how)


def _arm_lines(rows: Sequence[Row], arm: Arm) -> list[Line]:
    real = select(rows, arm, "real")
    lines = [_line("real images", real, [Cell(""), Cell("")])]
    for copies in copies_of(rows, "generated"):
        cell = select(rows, arm, "generated", copies)
        delta = paired(real, cell, "top1")
        lines.append(
            _line(f"generated, {plural(copies, 'copy')}", cell, [delta_cell(delta), Cell(p_value(delta.p))])
        )
    return lines


def _line(name: str, cell: Sequence[Row], rest: Sequence[Cell]) -> Line:
    scores = [score_cell(cell, metric) for metric in ("top1", "top5")]
    return Line([Cell(name), Cell(trained_on(cell)), *scores, *rest])


def _published_line(row: paper.Cas) -> Line:
    real = paper.TABLE_2[0].top1
    gap = "" if row.top1 == real else decimal(row.top1 - real)
    texts = [row.trained_on, "", decimal(row.top1), decimal(row.top5), gap, ""]
    return Line([Cell(text) for text in texts], "published")
