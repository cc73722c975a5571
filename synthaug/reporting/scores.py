"""FID and Inception Score of the generated sets beside the paper's Table 1; real images are the yardstick."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from synthaug.reporting import commands, comparable, paper
from synthaug.reporting.comparisons import published_cell
from synthaug.reporting.data import Report, Results, Row, run_rows
from synthaug.reporting.document import Cell, Column, Line, Section, Table, missing_section
from synthaug.reporting.numbers import NONE, decimal, finite, places_for, protocol, signed
from synthaug.reporting.quality import measured_blocks
from synthaug.reporting.sweep import with_deviation

TITLE = "Image quality: Table 1"


def section(report: Report) -> Section:
    """Returns Table 1, the paper's numbers and ours in one row, and the full protocol of ours."""
    rows = report.rows("score")
    measured = measured_blocks(report.results["score"], report.results["further_scores"])
    if not rows:
        reason = report.why_not("score", "", "the study has no score stage, so there is no FID.")
        empty = missing_section("scores", TITLE, reason, commands.CASCADE[256])
        others = run_rows(report.results, "further_scores")
        return dataclasses.replace(empty, blocks=[*empty.blocks, *measured]) if others else empty
    table, lost = table_1(report.results)
    return Section("scores", TITLE, [table, *commands.details(lost), *measured])


def table_1(results: Results) -> tuple[Table, list[tuple[str, str]]]:
    """Returns the table, and the paper's own rows that are not run with the command that runs them."""
    rows = [r for r in results["score"] if "not_run" not in r]
    sets = list(dict.fromkeys((r["set"], r["resolution"]) for r in rows))
    lines, shown = [Line([Cell("this study")], "group")], set()
    for name, px in sorted(sets, key=lambda s: s[1]):
        published = comparable.table_1(results, name, px)
        shown.add(published)
        own = [r for r in rows if (r["set"], r["resolution"]) == (name, px)]
        lines.append(_line(name, px, own, published))
    lost = []
    for px in (64, 256):
        lines.append(Line([Cell(f"{paper.SOURCE}, {px} px")], "group"))
        for row in (r for r in paper.TABLE_1 if r.resolution == px and r not in shown):
            lines.append(_published_line(row))
            if row.model == paper.OWN:
                lost.append((f"{row.model}, {px} px", commands.CASCADE[px]))
    columns = [Column("model or set", numeric=False), Column("px")]
    for group in ("FID against train ↓", "FID against val ↓", "Inception Score ↑"):
        columns += [Column(name, group=group) for name in ("paper", "ours", "diff.")]
    return Table(columns, lines, _caption(results, rows), protocol(rows), number=1), lost


def _caption(results: Results, rows: Sequence[Row]) -> str:
    text = "The paper's Table 1, sample quality: its number and ours in one row. "
    if not comparable.same_data(results):
        return text + (
            "This study has other images than ImageNet-1K, so the paper's rows stand for orientation and no "
            "difference is written. The rows of real images say what a perfect generator would score here."
        )
    if rows and not any(map(comparable.is_inception, rows)):
        encoders = ", ".join(dict.fromkeys(str(row["encoder"]) for row in rows))
        return text + (
            f"Our features do not come from Inception but from {encoders}, so no difference is written: the "
            "scales differ."
        )
    return f"{text}Difference: ours minus the paper's. {comparable.FID_PROTOCOL}"


def _line(name: str, px: int, own: Sequence[Row], published: paper.Quality | None) -> Line:
    by_reference = {row["reference"]: row for row in own}
    label = f"{name} ({published.model})" if published and published.model != name else name
    cells = [Cell(label, "strong" if not name.startswith("real ") else ""), Cell(str(px))]
    places = places_for(row["fid"] for row in own)
    for reference in ("train", "val"):
        row = by_reference.get(reference)
        known = None if published is None else getattr(published, f"fid_{reference}")
        ours = None if row is None else finite(row["fid"])
        same = row is not None and comparable.same_fid(row)
        gap = ours - known if same and ours is not None and known is not None else None
        cells += [published_cell(known), Cell(NONE if row is None else decimal(ours, places)), _gap(gap, -1)]
    score = published.inception_score if published else None
    ours = finite(own[0]["inception_score"])
    same = comparable.same_inception_score(own[0])
    gap = ours - score.mean if same and ours is not None and score else None
    return Line([*cells, published_cell(score), Cell(with_deviation(own[0])), _gap(gap, 1)])


def _gap(value: float | None, better: int) -> Cell:
    if value is None:
        return Cell("")
    return Cell(signed(value), "up" if better * value > 0 else "down")


def _published_line(row: paper.Quality) -> Line:
    ours = Cell("not run", "muted") if row.model == paper.OWN else Cell("")
    cells = [Cell(row.model), Cell(str(row.resolution))]
    for value in (row.fid_train, row.fid_val, row.inception_score):
        cells += [Cell(NONE) if value is None else published_cell(value), ours, Cell("")]
    return Line(cells, "published")
