"""What the paper has not: the filter's findings about memorisation, and further validation sets."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting.comparisons import set_name
from synthaug.reporting.data import Report, Row
from synthaug.reporting.document import Block, Bullets, Cell, Column, Details, Line, Section, Table, Text
from synthaug.reporting.numbers import count, decimal, percent, percent_spread, plural, shorten, spread

MOST_NAMED = 20


def sections(report: Report) -> list[Section]:
    """Returns the sections that the study has numbers for."""
    found = [_filter(report.results["filter"])] if report.results.get("filter") else []
    rows = [row for row in report.rows("classify") if row.get("val_sets")]
    return [*found, *([_validation(report, rows)] if rows else [])]


def _filter(found: Row) -> Section:
    """Returns how many images have which flag, beside real ones, and what was done about it."""
    names = ("images", "flagged", "low_confidence", "near_train", "near_val")
    lines = [
        Line(
            [
                Cell(name, "strong" if name == "generated" else ""),
                Cell(count(row["images"])),
                *(Cell(percent(row[key] / row["images"])) for key in names[1:]),
                *(Cell(decimal(row["train_distance"].get(q), 3)) for q in ("0.001", "0.01", "0.5")),
            ]
        )
        for name, row in found["sets"].items()
        if row["images"]
    ]
    columns = [Column("set", numeric=False), Column("images")]
    columns += [Column(name, group="flagged, %") for name in ("any", "doubtful", "near train", "near val")]
    columns += [Column(q, group="distance to train, quantile") for q in ("0.1 %", "1 %", "50 %")]
    caption = (
        "Doubtful: the encoder gives the image's own class too little probability. Near: "
        + (
            f"its features are at most {decimal(found['distance'], 3)} from those of a real image. "
            if found["distance"] >= 0
            else "not looked for. "
        )
        + "Real images beside them show what is usual; the encoder has seen the train split."
    )
    text = (
        f"{plural(found['topped_up'], 'image')} from the reserve took the place of flagged ones; "
        f"{plural(sum(found['copies']), 'generated image')} are used. Nothing was deleted: flags.parquet has "
        "a line per image."
    )
    blocks: list[Block] = [
        Table(columns, lines, caption),
        Text(text),
        *(Text(n, "note") for n in found["notes"]),
    ]
    if found["missing"]:
        short = [f"{key}: {count(number)}" for key, number in found["missing"].items()]
        blocks.append(Details("Images missing by class", [Text(shorten(short, MOST_NAMED))]))
    nearest = [
        f"image {row['image']} and train image {row['train_image']}: {decimal(row['distance'], 3)}"
        for row in found["examples"]
    ]
    if nearest:
        blocks.append(Details("The generated images nearest to a train image", [Bullets(nearest)]))
    return Section("filter", "Filter: doubtful and copied images", blocks)


def _validation(report: Report, rows: Sequence[Row]) -> Section:
    """Returns the accuracy of every arm on the validation images and on each further set."""
    names = list(dict.fromkeys(name for row in rows for name in row["val_sets"]))
    arms: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        arms.setdefault(tuple(row[k] for k in ("model", "mix", "set", "copies", "subset")), []).append(row)
    lines = [
        Line(
            [
                Cell(str(model)),
                Cell(str(mix)),
                Cell(set_name(report.results, str(made)) if made else ""),
                Cell(str(copies or "")),
                Cell(str(subset)),
                Cell(percent_spread(spread([row["top1"] for row in own]))),
                *(Cell(percent_spread(spread([_top1(row, name) for row in own]))) for name in names),
            ]
        )
        for (model, mix, made, copies, subset), own in arms.items()
    ]
    columns = [Column(name, numeric=False) for name in ("classifier", "trained on", "generated set")]
    columns += [Column("copies"), Column("subset", numeric=False), Column("val"), *map(Column, names)]
    sizes = ", ".join(f"{name}: {count(n)}" for name in names if (n := _size(rows, name)))
    caption = (
        f"Top-1 accuracy in percent on the study's validation images and on further sets ({sizes} images "
        "that count). No setting was chosen on the further ones."
    )
    return Section("validation", "Further validation sets", [Table(columns, lines, caption)])


def _top1(row: Row, name: str) -> float | None:
    return row["val_sets"][name]["top1"] if name in row["val_sets"] else None


def _size(rows: Sequence[Row], name: str) -> int:
    return next(row["val_sets"][name]["n"] for row in rows if name in row["val_sets"])
