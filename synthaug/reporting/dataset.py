"""The images behind the numbers: how many of each class, which stand twice, which were left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthaug.reporting.data import Report
from synthaug.reporting.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Details,
    Line,
    Section,
    Table,
    Text,
)
from synthaug.reporting.numbers import count, plural, shorten

MOST_NAMED = 20
WHERE = {"train": "within train", "val": "within validation", "between": "in train and in validation"}


def section(report: Report) -> Section:
    """Returns class balance, duplicates, left-out files, and how images were decoded and resized."""
    data = report.results["data"]
    blocks: list[Block] = [Text(_how(data)), _balance(data["balance"])]
    small = [f"{name}: {shorten(found['below'], MOST_NAMED)}" for name, found in data["balance"].items()]
    if any(found["below"] for found in data["balance"].values()):
        blocks.append(Details("Classes with few images", [Bullets(small)]))
    blocks.append(_duplicates(data["duplicates"]))
    named = [
        f"{WHERE[where]}: {' = '.join(names)}"
        for where, found in data["duplicates"].items()
        for names in found["first"]
    ]
    if named:
        blocks.append(Details("The first duplicates by name", [Bullets(named)]))
    return Section("data", "Images", [*blocks, _left_out(data["corrupt"])])


def _how(data: Mapping[str, Any]) -> str:
    sides = ", ".join(map(str, data["resolutions"]))
    text = (
        f"{plural(data['num_train'], 'train image')} and {plural(data['num_val'], 'validation image')} of "
        f"{plural(data['num_classes'], 'class')}, decoded by {data['decoder']} and brought to {sides} px by "
        f"the filter “{data['resize']}”."
    )
    for side, number in data["enlarged"].items():
        if number:
            text += f" {plural(number, 'image')} were smaller than {side} px and were enlarged."
    if data["other_files"]:
        text += f" {plural(data['other_files'], 'file')} of the source are no images by their names."
    return text


def _balance(found: Mapping[str, Mapping[str, Any]]) -> Table:
    names = ("fewest", "median", "most", "classes below 90 % of the median")
    lines = [
        Line(
            [
                Cell(name),
                Cell(count(row["min"])),
                Cell(f"{row['median']:,g}"),
                Cell(count(row["max"])),
                Cell(count(len(row["below"]))),
            ]
        )
        for name, row in found.items()
    ]
    columns = [Column("split", numeric=False), *map(Column, names)]
    return Table(columns, lines, "Class balance: images per class, of those that could be read.")


def _duplicates(found: Mapping[str, Mapping[str, Any]]) -> Table:
    lines = [
        Line([Cell(WHERE[where]), *(Cell(count(row[k])) for k in ("images", "groups", "other_class"))])
        for where, row in found.items()
    ]
    caption = (
        "Images whose source bytes are equal (SHA-256). What stands in train and in validation is leakage: "
        "the classifier has seen what it is tested on. No image was removed."
    )
    names = ("images that repeat another", "groups", "groups under several classes")
    return Table([Column("where", numeric=False), *map(Column, names)], lines, caption)


def _left_out(corrupt: Mapping[str, str]) -> Block:
    """Returns the unreadable files, each with its reason."""
    if not corrupt:
        return Text("Every listed image could be read.")
    lines = [Line([Cell(source), Cell(reason)]) for source, reason in list(corrupt.items())[:MOST_NAMED]]
    columns = [Column(name, numeric=False) for name in ("file", "reason")]
    more = f" The first {MOST_NAMED} of them:" if len(corrupt) > MOST_NAMED else ""
    caption = f"{plural(len(corrupt), 'file')} could not be read and were left out.{more}"
    return Table(columns, lines, caption)
