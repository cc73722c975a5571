"""Every metric of every scored set with its protocol, encoder by encoder; FID by the number of images."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting.data import Row
from synthaug.reporting.document import Block, Bullets, Cell, Column, Line, Table, Text
from synthaug.reporting.numbers import NONE, count, decimal, finite, places_for, protocol
from synthaug.reporting.sweep import with_deviation

_CAPTION = (
    "Every measured set with its protocol. The rows of real images say what a perfect generator would score: "
    "their FID is not 0, since two finite sets differ. Precision is the share of images that lie among the "
    "reference, recall the share of the reference that is covered; density and coverage (Naeem et al. 2020) "
    "are the same questions, less moved by single outliers."
)


def measured_blocks(rows: Sequence[Row], further: Sequence[Row]) -> list[Block]:
    """Returns the tables of the study's encoder and of the further ones, and what is to be said of them.

    Args:
        rows: of `score`, also those that were not run.
        further: of `further_scores`, as well.
    """
    blocks = _tables(rows)
    for encoder in dict.fromkeys(row["encoder"] for row in further):
        own = [row for row in further if row["encoder"] == encoder]
        blocks += [Text(f"By another encoder: {encoder}", "heading"), *_tables(own)]
    notes = list(dict.fromkeys(note for row in [*rows, *further] for note in row.get("notes", ())))
    return [*blocks, Bullets(notes)] if notes else blocks


def _tables(rows: Sequence[Row]) -> list[Block]:
    run, lost = [r for r in rows if "not_run" not in r], [r for r in rows if "not_run" in r]
    sizes = sorted({int(size) for row in run for size in row["fid_sizes"]})
    reasons = dict.fromkeys(str(row["not_run"]) for row in lost)
    blocks: list[Block] = [_measured(run, lost)] if rows else []
    blocks += [Text(f"Not run: {reason}", "missing") for reason in reasons]
    return [*blocks, _by_size(run, sizes)] if sizes else blocks


def _measured(rows: Sequence[Row], lost: Sequence[Row]) -> Table:
    """Returns a line for each row, and for each of those that were not run."""
    places = places_for(row["fid"] for row in rows)
    spatial = any(row["sfid"] is not None for row in rows)
    names = ["n", "reference n", "FID ↓", *(["sFID ↓"] if spatial else []), "IS ↑", "KID ↓"]
    names += ["precision ↑", "recall ↑", "density ↑", "coverage ↑"]
    lead = [Column("set", numeric=False), Column("px"), Column("reference", numeric=False)]
    lines = [_line(row, places, spatial) for row in sorted(rows, key=lambda r: r["resolution"])]
    blank = [Cell("")] * (len(names) - 1)
    lines += [
        Line([Cell(row["set"]), Cell(str(row["resolution"])), Cell(""), Cell("not run", "muted"), *blank])
        for row in lost
    ]
    return Table([*lead, *map(Column, names)], lines, _CAPTION, protocol(rows))


def _line(row: Row, places: int, spatial: bool) -> Line:
    shares = [decimal(row[name], 3) for name in ("precision", "recall", "density", "coverage")]
    texts = [str(row["resolution"]), row["reference"], count(row["n"]), count(row["n_reference"])]
    texts += [decimal(row["fid"], places), *([decimal(row["sfid"])] if spatial else [])]
    texts += [with_deviation(row), _kid(row), *shares]
    tone = "" if row["set"].startswith("real ") else "strong"
    return Line([Cell(row["set"], tone), *map(Cell, texts)])


def _kid(row: Row) -> str:
    value, deviation = finite(row["kid"]), finite(row["kid_std"])
    if value is None:
        return NONE
    around = "" if deviation is None else f" ± {decimal(deviation, 4)}"
    return f"{decimal(value, 4)}{around}"


def _by_size(rows: Sequence[Row], sizes: Sequence[int]) -> Table:
    """Returns FID by the number of images, the whole set last, and what it would be for endlessly many."""
    places = places_for(row["fid"] for row in rows)
    columns = [Column("set", numeric=False), Column("px"), Column("reference", numeric=False)]
    columns += [Column(f"n = {size:,}", group="FID of the first n images") for size in sizes]
    columns += [Column("all", group="FID of the first n images"), Column("n → ∞")]
    lines = []
    for row in sorted(rows, key=lambda r: r["resolution"]):
        texts = [row["set"], str(row["resolution"]), row["reference"]]
        texts += [decimal(row["fid_sizes"].get(str(size)), places) for size in sizes]
        texts += [decimal(row["fid"], places), decimal(row["fid_infinity"], places)]
        lines.append(Line([*map(Cell, texts)]))
    caption = (
        "FID falls with the number of images: values of different n cannot be compared. The last column is "
        "where a straight line through these values over 1/n ends (Chong and Forsyth 2020)."
    )
    return Table(columns, lines, caption)
