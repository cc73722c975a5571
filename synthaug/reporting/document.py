"""What a section is made of. Every text here is plain text: `page` and `markdown` escape it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph. `kind` is body, heading, lead (the headline), missing (not run) or note."""

    text: str
    kind: str = "body"


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One number in large type."""

    label: str
    value: str
    unit: str
    detail: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The numbers a reader looks for first."""

    tiles: Sequence[Tile]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A field of a table. `tone` holds words of: up, down, sure, muted, strong, code."""

    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table; numeric ones are right-aligned. Neighbours of one `group` share a heading."""

    name: str
    numeric: bool = True
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table. `kind` is "", chosen, published, or group (one cell over all columns)."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with what it shows and under which protocol it was measured."""

    columns: Sequence[Column]
    lines: Sequence[Line]
    caption: str
    protocol: str = ""
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing: `svg` goes into the page, `png` into figures/<slug>.png."""

    slug: str
    svg: str
    png: bytes
    caption: str
    alt: str
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Strip:
    """Images of one class side by side, as PNG files, one per kind of the gallery."""

    class_name: str
    pngs: Sequence[bytes]
    widths: Sequence[int]  # pixels


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images of several kinds (generated, real, ...) class by class; `png` shows all of it in one file."""

    slug: str
    kinds: Sequence[str]
    strips: Sequence[Strip]
    pixels_per_image: int  # side of an image inside the strips
    png: bytes
    caption: str
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Code:
    """Text to be read or typed exactly."""

    text: str


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that open on a click."""

    summary: str
    blocks: Sequence[Block]


Block = Text | Bullets | Tiles | Table | Figure | Gallery | Code | Details


@dataclasses.dataclass(frozen=True)
class Section:
    """A chapter. `missing` says why it holds no numbers; empty if it does."""

    slug: str
    title: str
    blocks: Sequence[Block]
    missing: str = ""


def missing_section(slug: str, title: str, reason: str, command: str = "") -> Section:
    """Returns a section that says why it is empty, and how to fill it."""
    return Section(slug, title, not_run("", reason, command), missing=reason)


def not_run(what: str, reason: str, command: str) -> list[Block]:
    """Returns what stands in the place of a figure or table that there is nothing for."""
    said = Text(f"{what}{': n' if what else 'N'}ot run: {reason}", kind="missing")
    return [said, Code(command)] if command else [said]


def numbered(sections: Sequence[Section]) -> list[Section]:
    """Returns the sections with all tables and figures numbered.

    Tables 1 to 4 and Figures 1 to 6 are those of the paper and bear its numbers already; the others are
    counted on from there in reading order.
    """
    counts = {"table": 4, "figure": 6}
    return [dataclasses.replace(s, blocks=[_numbered(b, counts) for b in s.blocks]) for s in sections]


def _numbered(block: Block, counts: dict[str, int]) -> Block:
    if isinstance(block, Details):
        return dataclasses.replace(block, blocks=[_numbered(b, counts) for b in block.blocks])
    if isinstance(block, (Table, Figure, Gallery)) and block.number:
        return block
    if isinstance(block, Table):
        counts["table"] += 1
        return dataclasses.replace(block, number=counts["table"])
    if isinstance(block, (Figure, Gallery)):
        counts["figure"] += 1
        return dataclasses.replace(block, number=counts["figure"])
    return block


def images(sections: Sequence[Section]) -> Iterator[Figure | Gallery]:
    """Yields every block that has a PNG file."""
    stack: list[Block] = [block for section in sections for block in section.blocks]
    for block in stack:
        if isinstance(block, Details):
            stack.extend(block.blocks)
        if isinstance(block, (Figure, Gallery)):
            yield block
