"""The look of every figure: one palette, one style, and its way into SVG and PNG.

Colours are those of Okabe and Ito (2008), which readers with colour vision deficiency tell apart; shape, line
style or position repeat what colour says. In the page each colour becomes a CSS variable, so that a figure
follows the reader's light or dark scheme.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1c2430", "#5c6773", "#dfe3e8", "#fefefe"
BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, ORANGE, SKY, GREY = "#aa5a8c", "#e69f00", "#56b4e9", "#8a949e"

VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    BLUE: "--blue",
    VERMILLION: "--vermillion",
    GREEN: "--green",
    PURPLE: "--purple",
    ORANGE: "--orange",
    SKY: "--sky",
    GREY: "--grey",
}

MIX_COLOURS = {"real": BLUE, "generated": VERMILLION, "real+generated": GREEN}
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", ":", "-.")

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,  # inch
    "figure.constrained_layout.w_pad": 0.1,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",  # real text: searchable, sharp, and in the page's own font
    "svg.hashsalt": "synthaug",  # ids from content, so that equal figures give equal bytes
    "text.color": INK,
    "text.parse_math": False,  # a class name may hold a dollar sign
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}
DPI = 200
"""Twice matplotlib's 100, for sharp figures on today's screens and in print."""
PIXELS_PER_INCH = 94
"""Largest size in the page: text of 9 points is then 12 pixels in every figure."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Sets the house style for figures made, drawn and rendered inside the block."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change a report
        matplotlib.rcParams.update(STYLE)
        yield


def to_png(figure: Figure) -> bytes:
    """Returns the figure on paper white; call inside `style()`."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    with _without_glyph_warnings():
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, slug: str) -> str:
    """Returns the figure as an SVG element for a page; call inside `style()`.

    Args:
        figure: the drawing.
        slug: prefix of all ids, which must be unique in a page.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with _without_glyph_warnings():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    for size in ("width", "height"):
        del root.attrib[size]  # the viewBox keeps the shape
    root.set("style", f"max-width: {figure.get_figwidth() * PIXELS_PER_INCH:.0f}px")
    _for_page(root, slug)
    return ElementTree.tostring(root, encoding="unicode")


def _for_page(element: ElementTree.Element, slug: str) -> None:
    """Removes name spaces and metadata, makes ids unique, and turns colours into CSS variables."""
    element.tag = element.tag.rpartition("}")[2]
    for name, value in list(element.attrib.items()):
        del element.attrib[name]
        element.attrib[name.rpartition("}")[2]] = _attribute(name, value, slug)
    for child in list(element):
        if child.tag.endswith("}metadata"):
            element.remove(child)
        else:
            _for_page(child, slug)


def _attribute(name: str, value: str, slug: str) -> str:
    if name == "id":
        return f"{slug}-{value}"
    if name.endswith("}href"):
        return value.replace("#", f"#{slug}-", 1)
    if name == "clip-path":
        return value.replace("url(#", f"url(#{slug}-")
    if name == "style":
        for colour, variable in VARIABLES.items():
            value = value.replace(f": {colour}", f": var({variable})")
    return value


@contextlib.contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """A class name in a script that DejaVu lacks is boxes in the PNG and right in the page: no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
