"""Real, generated, and both together (the paper's Table 3), with all real images or a few per class."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import paper
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
from synthaug.reporting.document import Cell, Column, Details, Line, Section, Table, Text, missing_section
from synthaug.reporting.numbers import MINUS, SURE, decimal, delta_cell, p_value, paired, plural, protocol

NAMES = ("copies", "real", "generated", "real + generated", "Δ, points", "p")
SIGNS = f"The sign says better (+) or worse ({MINUS}) than real images alone; bold: p < {SURE:g}."


def section(report: Report) -> Section:
    """Returns real / generated / real+generated for every classifier and number of copies."""
    title, rows = "Real, generated, both", report.rows("classify")
    if not any(row["mix"] == "real+generated" and row["shots"] == 0 for row in rows):
        otherwise = "no classifier was trained on all real images and generated images together."
        return missing_section("mixes", title, report.why_not("classify", "real+generated", otherwise))
    full = [row for row in rows if row["shots"] == 0 or row["mix"] == "generated"]
    lines = [line for arm in arms(full) for line in _lines(full, arm, 0, [Cell(arm_name(arm, arms(full)))])]
    caption = (
        "Top-1 % on real validation images, mean ± deviation over training seeds. Δ is real + generated "
        f"minus real. {SIGNS} A copy is one generated image per real image, class by class."
    )
    how = f"{protocol(full)}; {trained_on(full)} training images. {p_note(compare(full, 'real+generated'))}"
    columns = [Column("classifier", numeric=False), *map(Column, NAMES)]
    published = Details("The paper's Table 3, for orientation", [_published()])
    return Section("mixes", title, [Table(columns, lines, caption, how), published])


def few_shot_section(report: Report) -> Section:
    """Returns the same table for few real images per class."""
    title = "Few real images per class"
    rows = [row for row in report.rows("classify") if row["shots"] > 0 or row["mix"] == "generated"]
    shots = sorted({row["shots"] for row in rows} - {0})
    if not shots:
        return missing_section("few-shot", title, "classify.shots holds 0 only: all real images were used.")
    lines = []
    for arm in arms([row for row in rows if row["shots"] > 0]):
        for number in shots:
            first = [Cell(arm_name(arm, arms(rows))), Cell(str(number))]
            lines += _lines(rows, arm, number, first)
    caption = (
        "Top-1 % on real validation images when a class has only a few real training images. Δ is "
        f"real + generated minus real. {SIGNS}"
    )
    pairs = [c for number in shots for c in compare(rows, "real+generated", number)]
    columns = [Column("classifier", numeric=False), Column("real per class"), *map(Column, NAMES)]
    text = (
        "The generator itself was fine-tuned on all real images, so generated images carry more than the few "
        "shots: these rows measure how well it passes that on, not few-shot learning end to end."
    )
    table = Table(columns, lines, caption, f"{protocol(rows)}. {p_note(pairs)}")
    return Section("few-shot", title, [Text(text), table])


def _lines(rows: Sequence[Row], arm: Arm, shots: int, first: Sequence[Cell]) -> list[Line]:
    """Returns a line per number of copies; sets that were not trained say so."""
    lines = []
    real = select(rows, arm, "real", shots=shots)
    every = sorted({*copies_of(rows, "real+generated"), *copies_of(rows, "generated")})
    for copies in every:
        generated = select(rows, arm, "generated", copies)
        both = select(rows, arm, "real+generated", copies, shots)
        delta = paired(real, both, "top1")
        cells = [score_cell(cell, "top1") for cell in (real, generated, both)]
        lines.append(Line([*first, Cell(str(copies)), *cells, delta_cell(delta), Cell(p_value(delta.p))]))
    return lines


def _published() -> Table:
    lines = [
        Line(
            [
                Cell(f"{row.model}, {row.input} px"),
                Cell("1"),
                *(Cell(decimal(value)) for value in (row.real, row.generated, row.mixed)),
                Cell(f"{row.mixed - row.real:+.2f}", "up"),
                Cell(""),
            ],
            "published",
        )
        for row in paper.TABLE_3
    ]
    caption = f"{paper.SOURCE}, Table 3: {paper.LABEL}. Δ is computed from the printed columns."
    how = f"ImageNet-1K, {plural(1, 'generated copy')} of the 1024 px set (1.2 M images)"
    return Table([Column("classifier", numeric=False), *map(Column, NAMES)], lines, caption, how)
