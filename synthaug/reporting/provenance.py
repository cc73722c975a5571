"""What was run and what was not: the paper's results one by one, versions, settings, the command."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import cas_figure, commands, guidance_figure, noise_figure
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
from synthaug.reporting.mixes import budgets
from synthaug.reporting.numbers import setting

RESULTS = (
    ("Fig. 1: CAS, and gains by size", "figure-1", commands.AUGMENT),
    ("Fig. 2: samples by class", "samples", commands.CASCADE[1024]),
    ("Fig. 3: FID, IS and CAS against guidance", "figure-3", commands.CASCADE[64]),
    ("Fig. 4: noise augmentation of super-resolution", "figure-4", commands.CASCADE[256]),
    ("Table 1: FID and Inception Score", "scores", commands.CASCADE[256]),
    ("Table 2: CAS", "cas", commands.CAS),
    ("Table 3: real + generated", "mixes", commands.AUGMENT),
    ("Table 4 and Fig. 6: more generated data", "scaling", commands.SCALING),
    ("Fig. 5: class by class", "classes", commands.CAS),
    ("beyond the paper: few real images", "few-shot", commands.FEW_SHOT),
)
"""What the paper shows, the section or figure that repeats it, and the command that makes it at full size."""


def section(report: Report, before: Sequence[Section]) -> Section:
    """Returns the last section; `before` are the others, whose `missing` says what was not run."""
    blocks: list[Block] = [_coverage(report, before)]
    lost = [
        (kind, row)
        for kind in ("sweep", "score", "further_scores", "classify")
        for row in report.results.get(kind, ())
        if "not_run" in row
    ]
    if lost:
        blocks.append(_lost(lost))
    blocks += _licences(report)
    if report.notes:
        blocks += [Text("Notes", kind="heading"), Bullets(report.notes)]
    blocks += [Text("Run it again", kind="heading"), Code(report.results["command"])]
    if rows := report.rows("classify"):
        blocks.append(budgets(rows))
    blocks.append(_versions(report))
    blocks.append(Details("Every setting of the experiment", [Code(report.settings_text)]))
    return Section("provenance", "What was run", blocks)


def _licences(report: Report) -> list[Block]:
    """Returns under which terms the generated images stand: those of the weights that made them."""
    lines = [f"{held['name']}: {held['terms']} {held['url']}" for held in report.results["licences"]]
    made = [s for s in report.results["sets"] if s["source"] != "own"]
    lines += [f"{s['name']}: {s['licence'] or 'not stated in sets.licence.'}" for s in made]
    own = "None: the cascade was trained from random weights."
    return [Text("Licence of the generated images", kind="heading"), Bullets(lines or [own])]


def _coverage(report: Report, before: Sequence[Section]) -> Table:
    figures = {"figure-1": (cas_figure, "headline"), "figure-3": (guidance_figure, "sweep")}
    figures["figure-4"] = (noise_figure, "sweep")
    reasons, titles = {s.slug: s.missing for s in before}, {s.slug: s.title for s in before}
    for slug, (module, place) in figures.items():
        found = module.missing(report.results)
        reasons[slug], titles[slug] = reasons[place] or found, titles[place]
    lines = []
    for result, slug, command in RESULTS:
        reason = reasons[slug]
        status = Cell("not run", "muted") if reason else Cell("run", "strong")
        where = Cell(reason or f"section “{titles[slug]}”")
        lines.append(Line([Cell(result), status, where, Cell(command if reason else "", "code")]))
    names = ("result of the paper", "here", "where, or why not", "command that makes it")
    caption = "Which of the paper's results this study has, in its own size."
    return Table([Column(name, numeric=False) for name in names], lines, caption)


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
