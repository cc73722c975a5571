"""Prints the same document as GitHub-flavoured Markdown, with images in figures/."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from synthaug.reporting.data import Report
from synthaug.reporting.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Column,
    Details,
    Figure,
    Gallery,
    Line,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
)
from synthaug.reporting.text import plain

_ACTIVE = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINE_START = re.compile(r"^(\d*)(#{1,6}|[-+=.)])(?=\s|$)")


def render(report: Report, sections: Sequence[Section]) -> str:
    """Returns the whole Markdown file."""
    head = [f"# {escape(report.title)}", f"synthaug report · {escape(report.name)}"]
    head += [escape(p) for p in report.description.split("\n\n")]
    links = [f"- [{escape(s.title)}](#{s.slug}){' (not run)' if s.missing else ''}" for s in sections]
    parts = [*head, "\n".join(links)]
    for section in sections:
        parts.append(f'<a id="{section.slug}"></a>\n\n## {escape(section.title)}')
        parts += [text for text in map(_block, section.blocks) if text]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""Returns the text on one line such that Markdown shows it as it is.

    Example:
        >>> print(escape("a|b <script> *x* logvar_mix"))
        a\|b &lt;script&gt; \*x\* logvar_mix
    """
    line = html.escape(" ".join(plain(text).split()), quote=False)
    line = _ACTIVE.sub(lambda found: "\\" + found.group(), line)
    return _LINE_START.sub(r"\1\\\2", line)  # no list, no heading


def _block(block: Block) -> str:
    match block:
        case Text(text, "heading"):
            return f"### {escape(text)}"
        case Text(text, kind):
            return f"> {escape(text)}" if kind in ("note", "missing") else escape(text)
        case Bullets(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Tiles(tiles):
            return _tiles(tiles)
        case Code(text):
            return _code(text)
        case Details(summary, blocks):
            inner = "\n\n".join(map(_block, blocks))
            title = html.escape(plain(summary), quote=False)
            return f"<details><summary>{title}</summary>\n\n{inner}\n\n</details>"
        case Table():
            return _table(block)
        case Figure(alt=alt) as figure:
            return _image(figure.slug, alt, figure.number, figure.caption)
        case Gallery() as gallery:
            return _image(
                gallery.slug, f"Images by class: {', '.join(gallery.kinds)}", gallery.number, gallery.caption
            )


def _tiles(tiles: Sequence[Tile]) -> str:
    values = (f"{tile.value} {tile.unit}".strip() for tile in tiles)
    return "\n".join(
        f"- {escape(tile.label)}: **{escape(value)}** ({escape(tile.detail)})"
        for tile, value in zip(tiles, values, strict=True)
    )


def _code(text: str) -> str:
    """Returns a fenced block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{plain(text).rstrip()}\n{fence}"


def _image(slug: str, alt: str, number: int, caption: str) -> str:
    return f"![{escape(alt)}](figures/{slug}.png)\n\n**Figure {number}.** {escape(caption)}"


def _table(table: Table) -> str:
    head = _row([escape(_name(column)) for column in table.columns])
    rule = _row(["---:" if column.numeric else "---" for column in table.columns])
    lines = [_line(line, len(table.columns)) for line in table.lines]
    protocol = f"\n\nProtocol: {escape(table.protocol)}." if table.protocol else ""
    return (
        f"**Table {table.number}.** {escape(table.caption)}\n\n" + "\n".join([head, rule, *lines]) + protocol
    )


def _name(column: Column) -> str:
    return f"{column.group}: {column.name}" if column.group else column.name


def _line(line: Line, width: int) -> str:
    if line.kind == "group":
        return _row([_bold(escape(line.cells[0].text)), *[""] * (width - 1)])
    return _row([_cell(cell) for cell in line.cells])


def _cell(cell: Cell) -> str:
    words = cell.tone.split()
    if "code" in words and "`" not in cell.text and "|" not in cell.text:
        return f"`{plain(cell.text)}`" if cell.text else ""
    return _bold(escape(cell.text)) if "strong" in words or "sure" in words else escape(cell.text)


def _bold(text: str) -> str:
    return f"**{text}**" if text else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
