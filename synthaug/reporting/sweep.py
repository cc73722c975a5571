"""The search for sampling settings, phase by phase: every point, the chosen one, and the rule."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import commands, guidance_figure, noise_figure, sweep_figure
from synthaug.reporting.data import Choice, Report, Row
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
    not_run,
)
from synthaug.reporting.numbers import NONE, decimal, finite, percent, places_for, plural, protocol, setting

KNOBS = {
    "guidance_weight": "guidance",
    "logvar_mix": "logvar_mix",
    "num_sampling_steps": "steps",
    "aug_level": "aug_level",
    "checkpoint": "checkpoint",
    "solver": "solver",
    "guidance_min_t": "guidance from t",
    "guidance_max_t": "guidance up to t",
    "guide_checkpoint": "guide checkpoint",
    "ema_length": "EMA length",
}
TITLE = "Sampling settings: Figures 3 and 4"
MOST_LINES = 24
"""Larger tables fold away; the chosen point and the Pareto front stay in sight."""


def section(report: Report) -> Section:
    """Returns a figure and a table per phase."""
    rows = report.rows("sweep")
    if not rows:
        otherwise = "the study has no sweep; sampling used the settings of its job file."
        reason = report.why_not("sweep", "", otherwise)
        return missing_section("sweep", TITLE, reason, commands.CASCADE[256])
    blocks: list[Block] = [
        Text(
            "Each phase samples a small set at every setting, scores it, and starts from what the phase "
            "before chose. FID at these sample counts is higher than at the full set's: compare points of "
            "one phase only."
        )
    ]
    for name, module, command in (
        ("Figure 3", guidance_figure, commands.CASCADE[64]),
        ("Figure 4", noise_figure, commands.CASCADE[256]),
    ):
        reason = module.missing(report.results)
        blocks += not_run(name, reason, command) if reason else [module.figure(report.results)]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        blocks += _phase(phase, [r for r in rows if r["phase"] == phase], report.choices)
    return Section("sweep", TITLE, blocks)


def _phase(phase: str, rows: Sequence[Row], choices: Sequence[Choice]) -> list[Block]:
    rule = next((c for c in choices if c.phase == phase), None)
    model = rows[0]["model"]
    blocks: list[Block] = [Text(f"Phase {phase}: {model}, {rows[0]['resolution']} px", kind="heading")]
    blocks.append(Text(_chosen_text(rule)))
    if any(finite(row["fid"]) is not None for row in rows):
        blocks.append(Details("Every point of the phase, drawn", [sweep_figure.figure(phase, rows)]))
    else:
        blocks.append(Text("No point of this phase has a FID: nothing to draw.", kind="missing"))
    if len(rows) <= MOST_LINES:
        return [*blocks, _table(phase, rows, rows)]
    kept = [row for row in rows if row["chosen"] or row["pareto"]]
    whole = Details(f"All {plural(len(rows), 'point')} of phase {phase}", [_table(phase, rows, rows)])
    return [*blocks, _table(phase, kept, rows), whole]


def _chosen_text(choice: Choice | None) -> str:
    if choice is None:
        return "No choice was recorded for this phase."
    settings = ", ".join(f"{name} = {setting(value)}" for name, value in choice.settings.items())
    found = [
        f"{name} {shown}"
        for name, shown in (
            ("FID", decimal(choice.fid, places_for([choice.fid]))),
            ("Inception Score", decimal(choice.inception_score)),
            ("CAS", f"{percent(choice.cas)} %"),
        )
        if not shown.startswith(NONE)
    ]
    return f"Rule: {choice.rule}. Chosen: {settings or 'nothing to vary'}" + (
        f" ({', '.join(found)})." if found else "."
    )


def shown_knobs(rows: Sequence[Row]) -> list[str]:
    """Returns the knobs worth a column: guidance, and whatever is not the same and empty everywhere."""
    varying = [k for k in KNOBS if len({row[k] for row in rows}) > 1]
    return [k for k in KNOBS if k in varying or k in ("guidance_weight", "logvar_mix", "num_sampling_steps")]


def _table(phase: str, rows: Sequence[Row], every: Sequence[Row]) -> Table:
    knobs, places = shown_knobs(every), places_for(row["fid"] for row in every)
    columns = [Column(KNOBS[k], numeric=k != "solver") for k in knobs]
    columns += [Column("FID ↓"), Column("IS ↑"), Column("CAS, top-1 % ↑"), Column("", numeric=False)]
    lines = [_line(row, knobs, places) for row in rows]
    what = "All points" if len(rows) == len(every) else f"The chosen and Pareto points of {len(every)}"
    networks = ", ".join(sorted({str(row["cas_network"]) for row in every if row["cas"] is not None}))
    caption = (
        f"{what} of phase {phase}. IS is the Inception Score ± its deviation over splits; CAS the accuracy "
        f"on real validation images of a classifier{f' ({networks})' if networks else ''} trained on the "
        "point's images alone."
    )
    return Table(columns, lines, caption, protocol(every))


def _line(row: Row, knobs: Sequence[str], places: int) -> Line:
    cells = [Cell(setting(row[k])) for k in knobs]
    cells += [Cell(decimal(row["fid"], places)), Cell(with_deviation(row)), Cell(percent(row["cas"]))]
    marks = [word for word, flag in (("chosen", row["chosen"]), ("Pareto", row["pareto"])) if flag]
    return Line(
        [*cells, Cell(", ".join(marks), "strong" if row["chosen"] else "")], "chosen" if row["chosen"] else ""
    )


def with_deviation(row: Row) -> str:
    """Returns the Inception Score with its deviation over splits."""
    around = finite(row["inception_score_std"])
    return decimal(row["inception_score"]) + ("" if around is None else f" ± {decimal(around)}")
