"""FID, Inception Score, precision and recall of the generated set, with real images as the yardstick."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import paper
from synthaug.reporting.data import Report, Row
from synthaug.reporting.document import Cell, Column, Details, Line, Section, Table, missing_section
from synthaug.reporting.numbers import count, decimal, places_for, protocol
from synthaug.reporting.sweep import with_deviation


def section(report: Report) -> Section:
    """Returns the score table and the paper's Table 1 beneath it."""
    rows = report.rows("score")
    if not rows:
        reason = report.why_not("score", "", "the study has no score stage, so there is no FID.")
        return missing_section("scores", "Image quality", reason)
    published = Details("The paper's Table 1, for orientation", [_published()])
    return Section("scores", "Image quality", [_table(rows), published])


def _table(rows: Sequence[Row]) -> Table:
    places = places_for(row["fid"] for row in rows)
    names = ("n", "reference n", "FID ↓", "IS ↑", "precision ↑", "recall ↑")
    columns = [
        Column("set", numeric=False),
        Column("px"),
        Column("reference", numeric=False),
        *map(Column, names),
    ]
    caption = (
        "The generated set against the real splits. The rows of real images say what a perfect generator "
        "would score: their FID is not 0, since two finite sets differ. Precision is the share of images "
        "that lie among the reference, recall the share of the reference that is covered."
    )
    lines = [_line(row, places) for row in sorted(rows, key=lambda r: r["resolution"])]
    return Table(columns, lines, caption, protocol(rows))


def _line(row: Row, places: int) -> Line:
    tone = "strong" if row["set"] == "generated" else ""
    texts = [
        row["set"],
        str(row["resolution"]),
        row["reference"],
        count(row["n"]),
        count(row["n_reference"]),
        decimal(row["fid"], places),
        with_deviation(row),
        decimal(row["precision"], 3),
        decimal(row["recall"], 3),
    ]
    return Line([Cell(texts[0], tone), *map(Cell, texts[1:])])


def _published() -> Table:
    names = ("px", "FID train ↓", "FID val ↓", "IS ↑")
    lines = [
        Line(
            [
                Cell(row.model),
                Cell(str(row.resolution)),
                Cell(decimal(row.fid_train)),
                Cell(decimal(row.fid_val)),
                Cell(decimal(row.inception_score)),
            ],
            "published",
        )
        for row in paper.TABLE_1
    ]
    caption = f"{paper.SOURCE}, Table 1: {paper.LABEL}."
    how = "Inception features, ImageNet-1K, sets of training-set size (1.28 M images), unguided baselines"
    return Table([Column("model", numeric=False), *map(Column, names)], lines, caption, how)
