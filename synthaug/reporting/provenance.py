"""What was run and what was not: the paper's results one by one, versions, settings, the command."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting.data import Report, Row
from synthaug.reporting.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Column,
    Details,
    Line,
    Section,
    Table,
    Text,
)
from synthaug.reporting.numbers import setting

RESULTS = (
    ("Fig. 2: samples by class", "samples"),
    ("Fig. 3: FID, IS and CAS against guidance", "sweep"),
    ("Fig. 4: noise augmentation of super-resolution", "augmentation"),
    ("Table 1: FID and Inception Score", "scores"),
    ("Table 2 and Fig. 1, top: CAS", "cas"),
    ("Table 3 and Fig. 1, bottom: real + generated", "mixes"),
    ("Table 4 and Fig. 6: more generated data", "scaling"),
    ("Fig. 5: class by class", "classes"),
    ("beyond the paper: few real images per class", "few-shot"),
)


def section(report: Report, before: Sequence[Section]) -> Section:
    """Returns the last section; `before` are the others, whose `missing` says what was not run."""
    blocks: list[Block] = [_coverage(report, before)]
    lost = [
        (kind, row)
        for kind in ("sweep", "score", "classify")
        for row in report.results[kind]
        if "not_run" in row
    ]
    if lost:
        blocks.append(_lost(lost))
    blocks += _licences(report)
    if report.notes:
        blocks += [Text("Notes", kind="heading"), Bullets(report.notes)]
    blocks += [Text("Run it again", kind="heading"), Code(report.command)]
    blocks.append(_versions(report))
    blocks.append(Details("Every setting of the experiment", [Code(report.settings_text)]))
    return Section("provenance", "What was run", blocks)


def _licences(report: Report) -> list[Block]:
    """Returns under which terms the generated images stand: those of the weights that made them."""
    lines = [f"{held['name']}: {held['terms']} {held['url']}" for held in report.results["licences"]]
    own = "None: the cascade was trained from random weights."
    return [Text("Licence of the generated images", kind="heading"), Bullets(lines or [own])]


def _coverage(report: Report, before: Sequence[Section]) -> Table:
    reasons = {s.slug: s.missing for s in before} | {"augmentation": _augmentation_missing(report)}
    titles = {s.slug: s.title for s in before} | {"augmentation": "Sampling settings"}
    lines = []
    for result, slug in RESULTS:
        reason = reasons[slug]
        status = Cell("not run", "muted") if reason else Cell("run", "strong")
        lines.append(Line([Cell(result), status, Cell(reason or f"section “{titles[slug]}”")]))
    columns = [Column(name, numeric=False) for name in ("result of the paper", "here", "where, or why not")]
    return Table(columns, lines, "Which of the paper's results this study has, in its own size.")


def _augmentation_missing(report: Report) -> str:
    levels = {(row["phase"], row["aug_level"]) for row in report.rows("sweep")}
    phases = [phase for phase, _ in levels]
    several = any(phases.count(phase) > 1 for phase in phases)
    return "" if several else "no phase of the sweep varies aug_level."


def _lost(rows: Sequence[tuple[str, Row]]) -> Table:
    lines = []
    for kind, row in rows:
        what = ", ".join(f"{k} {setting(v)}" for k, v in row.items() if k != "not_run" and v is not None)
        lines.append(Line([Cell(kind), Cell(what), Cell(f"not run: {row['not_run']}")]))
    columns = [Column(name, numeric=False) for name in ("stage", "line", "reason")]
    return Table(columns, lines, "Lines that were planned and not run.")


def _versions(report: Report) -> Table:
    lines = [Line([Cell(name), Cell(str(version))]) for name, version in report.results["versions"].items()]
    columns = [Column("software", numeric=False), Column("version", numeric=False)]
    return Table(columns, lines, "Versions that made these numbers.")
