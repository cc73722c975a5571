"""Prints a document as one HTML file that needs nothing else: no script, no link, no font to load."""

from __future__ import annotations

import base64
import html
import itertools
import pathlib
from collections.abc import Sequence

from synthaug.reporting.data import Report
from synthaug.reporting.document import (
    Block,
    Bullets,
    Code,
    Column,
    Details,
    Figure,
    Gallery,
    Line,
    Section,
    Strip,
    Table,
    Text,
    Tile,
    Tiles,
)
from synthaug.reporting.text import plain

MIN_IMAGE = 40
"""Sample images are enlarged by a whole factor to about this many pixels."""
WIDE = 10
"""Tables of more columns are set smaller."""


def render(report: Report, sections: Sequence[Section]) -> str:
    """Returns the whole page."""
    css = pathlib.Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    links = "".join(
        f'<li{_class(_state(s))}><a href="#{s.slug}">{escape(s.title)}</a></li>' for s in sections
    )
    body = "\n".join(_section(s) for s in sections)
    description = "".join(f'<p class="description">{escape(p)}</p>' for p in report.description.split("\n\n"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(report.title)} · synthaug</title>
<style>
{css}</style>
</head>
<body>
<header>
<p class="eyebrow">synthaug report · {escape(report.name)}</p>
<h1>{escape(report.title)}</h1>
{description}
</header>
<nav aria-label="Sections"><ol>{links}</ol></nav>
<main>
{body}
</main>
</body>
</html>
"""


def escape(text: str) -> str:
    """Returns the text as HTML: nothing from the data is ever markup, and no line breaks inside "1 ± 2 %".

    Example:
        >>> escape('<script> & "quotes"')
        '&lt;script&gt; &amp; &quot;quotes&quot;'
    """
    safe = html.escape(plain(text), quote=True)
    for sign in (" ±", " %", " ↓", " ↑"):
        safe = safe.replace(sign, f"&nbsp;{sign[1]}")
    return safe.replace("± ", "±&nbsp;")


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _state(section: Section) -> str:
    return "missing" if section.missing else ""


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    title = f'{escape(section.title)} <a class="anchor" href="#{section.slug}" aria-label="Link">#</a>'
    return f'<section id="{section.slug}">\n<h2>{title}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Text(text, "heading"):
            return f"<h3>{escape(text)}</h3>"
        case Text(text, kind):
            return f"<p{_class('' if kind == 'body' else kind)}>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Tiles(tiles):
            return '<div class="tiles">' + "".join(map(_tile, tiles)) + "</div>" if tiles else ""
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Details(summary, blocks):
            inner = "\n".join(map(_block, blocks))
            return f"<details><summary>{escape(summary)}</summary>\n{inner}\n</details>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Gallery():
            return _gallery(block)


def _tile(tile: Tile) -> str:
    unit = f' <span class="unit">{escape(tile.unit)}</span>' if tile.unit else ""
    return (
        f'<div class="tile"><p class="label">{escape(tile.label)}</p>'
        f"<p{_class(f'value {tile.tone}'.strip())}>{escape(tile.value)}{unit}</p>"
        f'<p class="detail">{escape(tile.detail)}</p></div>'
    )


def _table(table: Table) -> str:
    head, wide = _head(table.columns), " wide" if len(table.columns) > WIDE else ""
    lines = "\n".join(_line(line, table.columns) for line in table.lines)
    protocol = f'<p class="protocol">Protocol: {escape(table.protocol)}.</p>' if table.protocol else ""
    return (
        f'<div class="table{wide}" id="table-{table.number}">\n'
        f'<p class="caption"><b>Table {table.number}.</b> {escape(table.caption)}</p>\n'
        f'<div class="scroll" tabindex="0"><table>\n<thead>{head}</thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>\n"
        f"{protocol}</div>"
    )


def _head(columns: Sequence[Column]) -> str:
    """Returns one header row, or two where columns have a heading in common."""

    def cell(column: Column, span: str = "") -> str:
        return f'<th scope="col"{span}{_class(_align(column))}>{escape(column.name)}</th>'

    if not any(column.group for column in columns):
        return f"<tr>{''.join(map(cell, columns))}</tr>"
    first, second = [], []
    for group, found in itertools.groupby(columns, key=lambda column: column.group):
        members = list(found)
        if group:
            first.append(f'<th scope="colgroup" colspan="{len(members)}" class="over">{escape(group)}</th>')
            second += [cell(column) for column in members]
        else:
            first += [cell(column, ' rowspan="2"') for column in members]
    return f"<tr>{''.join(first)}</tr><tr>{''.join(second)}</tr>"


def _align(column: Column) -> str:
    return "number" if column.numeric else ""


def _line(line: Line, columns: Sequence[Column]) -> str:
    if line.kind == "group":
        return f'<tr class="group"><th colspan="{len(columns)}">{escape(line.cells[0].text)}</th></tr>'
    cells = "".join(
        f"<td{_class(f'{_align(column)} {cell.tone}'.strip())}>{escape(cell.text)}</td>"
        for cell, column in zip(line.cells, columns, strict=True)
    )
    return f"<tr{_class(line.kind)}>{cells}</tr>"


def _figure(figure: Figure) -> str:
    svg = figure.svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.alt)}"', 1)
    return (
        f'<figure id="figure-{figure.number}">\n<div class="scroll" tabindex="0">{svg}</div>\n'
        f"<figcaption><b>Figure {figure.number}.</b> {escape(figure.caption)}</figcaption>\n</figure>"
    )


def _gallery(gallery: Gallery) -> str:
    rows = "\n".join(_strip(strip, gallery) for strip in gallery.strips)
    head = '<div class="head"></div>' + "".join(
        f'<div class="head">{escape(kind)}</div>' for kind in gallery.kinds
    )
    look = f' style="--kinds: {len(gallery.kinds)}"'
    return (
        f'<figure id="figure-{gallery.number}">\n<div class="strips"{look}>\n{head}\n{rows}\n</div>\n'
        f"<figcaption><b>Figure {gallery.number}.</b> {escape(gallery.caption)}</figcaption>\n</figure>"
    )


def _strip(strip: Strip, gallery: Gallery) -> str:
    zoom = max(1, round(MIN_IMAGE / gallery.pixels_per_image))
    look = _class("enlarged" if zoom > 1 else "")
    cells = [f'<div class="class">{escape(strip.class_name)}</div>']
    for kind, png, width in zip(gallery.kinds, strip.pngs, strip.widths, strict=True):
        data = base64.b64encode(png).decode("ascii")
        alt = f"{escape(kind)} images of class {escape(strip.class_name)}"
        cells.append(
            f'<div class="strip" data-kind="{escape(kind)}"><img{look} alt="{alt}" width="{width * zoom}" '
            f'height="{gallery.pixels_per_image * zoom}" src="data:image/png;base64,{data}"></div>'
        )
    return "".join(cells)
