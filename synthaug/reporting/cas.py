"""Classification Accuracy Score: trained on one set, tested on real images (the paper's Table 2)."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import commands, comparable, paper
from synthaug.reporting.comparisons import (
    beside,
    copies_of,
    full,
    models,
    p_note,
    published_cell,
    select,
    set_name,
    sets_of,
    trained_on,
)
from synthaug.reporting.comparisons import compare as compare_mixes
from synthaug.reporting.data import Report, Results, Row, run_rows
from synthaug.reporting.document import (
    Block,
    Cell,
    Column,
    Details,
    Line,
    Section,
    Table,
    Text,
    missing_section,
)
from synthaug.reporting.numbers import delta_cell, p_value, paired, plural, protocol, signed

TITLE = "Classification Accuracy Score: Table 2"


def section(report: Report) -> Section:
    """Returns Table 2: the paper's CAS and ours."""
    rows = report.rows("classify")
    if not any(row["mix"] == "generated" for row in rows):
        otherwise = "no classifier was trained on generated images alone."
        reason = report.why_not("classify", "generated", otherwise)
        return missing_section("cas", TITLE, reason, commands.CAS)
    text = (
        "A classifier is trained on one set only and tested on real validation images. CAS is its accuracy "
        "with the generated set; the real set is what it has to reach."
    )
    table, lost = table_2(report.results)
    blocks: list[Block] = [Text(text), table, *commands.details(lost)]
    if others := _others(report.results):
        blocks.append(Details("The same for the other classifiers", [others]))
    return Section("cas", TITLE, blocks)


def table_2(results: Results) -> tuple[Table, list[tuple[str, str]]]:
    """Returns the table, and the paper's own rows that are not run with the command that runs them."""
    rows = _rows(results)
    shown: set[paper.Cas | None] = set()
    lines = _lines(results, rows, _judges(results, rows)[0], shown)
    lines.append(Line([Cell(f"{paper.SOURCE}, ResNet-50 on ImageNet-1K")], "group"))
    left = [row for row in paper.TABLE_2 if row not in shown]
    lines += [_published_line(row) for row in left]
    return _table(results, rows, lines, 2), [_command(row) for row in left if _ours(row)]


def _rows(results: Results) -> list[Row]:
    return [r for r in full(run_rows(results, "classify")) if r["mix"] in ("real", "generated")]


def _judges(results: Results, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Returns the classifiers that have a CAS: those of Table 2, and the others."""
    taught = models([row for row in rows if row["mix"] == "generated"])
    if not comparable.same_data(results):
        return taught, []
    networks = [m for m in taught if any(comparable.is_cas_network(r) for r in rows if r["model"] == m)]
    return networks, [model for model in taught if model not in networks]


def _others(results: Results) -> Table | None:
    rows = _rows(results)
    lines = _lines(results, rows, _judges(results, rows)[1], set())
    return _table(results, rows, lines, 0) if lines else None


def _lines(
    results: Results, rows: Sequence[Row], judges: Sequence[str], shown: set[paper.Cas | None]
) -> list[Line]:
    lines = []
    for model in judges:
        lines.append(Line([Cell(model)], "group"))
        lines += _model_lines(results, rows, model, shown)
    return lines


def _table(results: Results, rows: Sequence[Row], lines: Sequence[Line], number: int) -> Table:
    columns = [Column("trained on", numeric=False), Column("images")]
    for group, names in (
        ("top-1 % ↑", ("paper", "ours", "diff.")),
        ("top-5 % ↑", ("paper", "ours", "diff.")),
        ("Δ top-1 to real, points", ("paper", "ours", "p")),
    ):
        columns += [Column(name, group=group) for name in names]
    how = (
        f"{plural(results['data']['num_classes'], 'class')}; {protocol(rows)}. "
        f"{p_note(compare_mixes(rows, 'generated'))}"
    )
    return Table(columns, lines, _caption(results), how, number=number)


def _caption(results: Results) -> str:
    text = (
        "The paper's Table 2: accuracy on real validation images, mean ± deviation over training seeds; "
        "Δ is generated minus real. "
    )
    if not comparable.same_data(results):
        return text + (
            "This study has other images than ImageNet-1K, so the paper's rows stand for orientation and no "
            "difference is written."
        )
    return text + (
        "Difference: ours minus the paper's, where network, classes and set agree; a row of another network "
        "has none."
    )


def _model_lines(
    results: Results, rows: Sequence[Row], model: str, shown: set[paper.Cas | None]
) -> list[Line]:
    real = select(rows, model, "real")
    lines = [_line(results, paper.REAL, real, [Cell("")] * 2, shown)]
    for name, _ in sets_of(rows):
        for copies in copies_of(rows, "generated", name):
            cell = select(rows, model, "generated", name, copies)
            if not cell:
                continue  # not planned: this classifier learns from other sets
            delta = paired(real, cell, "top1")
            label = f"{set_name(results, name)}, {plural(copies, 'copy')}"
            lines.append(_line(results, label, cell, [delta_cell(delta), Cell(p_value(delta.p))], shown))
    return lines


def _line(
    results: Results, label: str, cell: Sequence[Row], rest: Sequence[Cell], shown: set[paper.Cas | None]
) -> Line:
    published = comparable.table_2(results, cell[0]) if cell else None
    shown.add(published)
    if published and published.trained_on != paper.REAL:
        label += f" ({published.trained_on})"
    cells = [Cell(label), Cell(trained_on(cell))]
    for metric in ("top1", "top5"):
        cells += beside(cell, metric, getattr(published, metric) if published else None)
    return Line([*cells, _published_delta(published), *rest])


def _published_delta(row: paper.Cas | None) -> Cell:
    if row is None or row.trained_on == paper.REAL:
        return Cell("")
    return Cell(signed(row.top1 - paper.TABLE_2[0].top1), "muted")


def _ours(row: paper.Cas) -> bool:
    """Returns whether a column of Table 2 is the paper's own, not one of comparison."""
    return row.trained_on in (paper.REAL, paper.OWN)


def _published_line(row: paper.Cas) -> Line:
    name = row.trained_on if row.trained_on == paper.REAL else f"{row.trained_on}, {row.resolution} px"
    ours = Cell("not run", "muted") if _ours(row) else Cell("")
    scores = [c for v in (row.top1, row.top5) for c in (published_cell(v), ours, Cell(""))]
    return Line([Cell(name), Cell(""), *scores, _published_delta(row), Cell(""), Cell("")], "published")


def _command(row: paper.Cas) -> tuple[str, str]:
    if row.trained_on == paper.REAL:
        return row.trained_on, commands.with_overrides(commands.CAS, "cas-real", "classify.mixes=[real]")
    name = f"cas-{row.resolution}"
    overrides = (f"classify.sets=[imagen-{row.resolution}]", "classify.mixes=[generated]")
    return f"{row.trained_on}, {row.resolution} px", commands.with_overrides(commands.CAS, name, *overrides)
