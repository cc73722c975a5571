"""What generated images are worth at a glance, after the paper's Fig. 1: CAS, and what adding them gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.figure

from synthaug.reporting import comparable, drawing, paper
from synthaug.reporting.comparisons import copies_of, full, models, select, set_name, sets_of
from synthaug.reporting.data import Results, Row, run_rows
from synthaug.reporting.document import Figure
from synthaug.reporting.numbers import finite, signed, spread
from synthaug.reporting.text import label

MOST_GROUPS = 4
MOST_GAINS = 10
SHIFT = 1.04
"""Of the paper's arrows to the right, so that they stand beside ours and not beneath them."""
WIDTH, HEIGHT = 7.6, 2.7
"""About the size of the lower panel in inches, to find room for names before it is laid out."""


class Point(NamedTuple):
    """The CAS of one set in percent."""

    name: str
    top1: float
    deviation: float
    published: bool = False


class Group(NamedTuple):
    """The sets that one classifier learnt from, lowest first, and what it reaches with real images."""

    name: str
    real: float | None  # percent
    points: list[Point]


class Gain(NamedTuple):
    """A classifier with real images, and with generated ones added; percent."""

    name: str
    parameters: float  # millions
    real: float
    both: float
    published: bool = False


def missing(results: Results) -> str:
    """Returns why there is nothing to draw; empty if there is."""
    rows = full(run_rows(results, "classify"))
    drawable = groups(results, rows) or gains(results, rows)
    return "" if drawable else "no classifier was trained on generated images."


def figure(results: Results) -> Figure:
    """Returns the figure, if it is not `missing`."""
    rows = full(run_rows(results, "classify"))
    above, below = groups(results, rows), gains(results, rows)
    lines = sum(len(group.points) for group in above) + 0.6 * len(above)
    heights = [0.27 * lines + 0.5] * bool(above) + [3.6] * bool(below)
    with drawing.style():
        drawn = matplotlib.figure.Figure(figsize=(9.4, sum(heights) + 1.0))
        axes = list(drawn.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
        if above:
            _top(axes.pop(0), above)
        if below:
            _bottom(axes.pop(0), below)
        svg, png = drawing.to_svg(drawn, "gains"), drawing.to_png(drawn)
    caption = (
        "As the paper's Fig. 1. Top: CAS, top-1 of a classifier trained on generated images alone; dotted: "
        "the same classifier with real images. Bottom: top-1 with real images (open) and with real and "
        "generated ones (filled) over the number of parameters, with the fewest generated copies there are."
    )
    if comparable.same_data(results):
        caption += " Grey: the paper's own points."
    return Figure("gains", svg, png, caption, "CAS by generated set, and gains by classifier size", 1)


def groups(results: Results, rows: Sequence[Row]) -> list[Group]:
    """Returns the groups of the upper panel: the CAS network, or else the first classifiers."""
    taught = models([row for row in rows if row["mix"] == "generated"])
    same = comparable.same_data(results)
    networks = [
        m for m in taught if same and any(comparable.is_cas_network(r) for r in rows if r["model"] == m)
    ]
    found = []
    for model in (networks or taught)[:MOST_GROUPS]:
        points = _points(results, rows, model)
        if points and model in networks:
            points += [
                Point(f"{r.trained_on}, {r.resolution} px (paper)", r.top1, 0.0, True)
                for r in paper.TABLE_2[1:]
            ]
        real = spread([row["top1"] for row in select(rows, model, "real")]).mean
        if points:
            ordered = sorted(points, key=lambda p: p.top1)
            found.append(Group(model, None if real is None else 100 * real, ordered))
    return found


def _points(results: Results, rows: Sequence[Row], model: str) -> list[Point]:
    points = []
    for name, _ in sets_of(rows):
        copies = next(iter(copies_of(rows, "generated", name)), 1)
        value = spread([row["top1"] for row in select(rows, model, "generated", name, copies)])
        if value.mean is not None:
            points.append(Point(set_name(results, name), 100 * value.mean, 100 * (value.deviation or 0.0)))
    return points


def gains(results: Results, rows: Sequence[Row]) -> list[Gain]:
    """Returns the arrows of the lower panel: of several generated sets the first that a classifier has."""
    found = []
    for model in models(rows):
        for name, _ in sets_of([row for row in rows if row["mix"] == "real+generated"]):
            copies = next(iter(copies_of(rows, "real+generated", name)), 1)
            both = select(rows, model, "real+generated", name, copies)
            means = [spread([r["top1"] for r in cell]).mean for cell in (select(rows, model, "real"), both)]
            size = finite(both[0]["parameters"]) if both else None
            if means[0] is not None and means[1] is not None and size:
                found.append(Gain(model, size / 1e6, 100 * means[0], 100 * means[1]))
                break
    untouched = any(not row["resolution"] for row in rows)  # as the paper's classifiers saw real images
    if not found or not untouched or not comparable.same_data(results):
        return found[:MOST_GAINS]
    drawn = [gain for gain in found if gain.name in paper.FIGURE_1] or found[:MOST_GAINS]
    return drawn + [
        Gain(row.model, 25.6 if row.name == "resnet50" else row.parameters, row.real, row.mixed, True)
        for row in paper.TABLE_3
        if row.name in paper.FIGURE_1
    ]


def _top(axis: Any, above: Sequence[Group]) -> None:
    names, y = dict[float, str](), 0.0
    for group in reversed(above):
        start = y
        for point in group.points:
            names[y] = point.name if len(above) == 1 else f"{group.name}, {point.name}"
            _dot(axis, y, point)
            y += 1
        if group.real is not None:
            axis.vlines(group.real, start - 0.5, y - 0.3, color=drawing.BLUE, linestyle=":", linewidth=1.6)
            axis.annotate(
                f"real {group.real:.2f}", (group.real, y - 0.5), xytext=(-5, 0), textcoords="offset points",
                fontsize=8.5, color=drawing.BLUE, ha="right", va="center",
            )  # fmt: skip
        y += 0.6
    axis.set_yticks(list(names), [label(name, 40) for name in names.values()])
    axis.set_ylim(-0.6, y - 0.6)
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.12)
    axis.set_xlabel("top-1 %, trained on generated images alone")
    axis.set_title("Classification Accuracy Score")


def _dot(axis: Any, y: float, point: Point) -> None:
    colour = drawing.GREY if point.published else drawing.VERMILLION
    axis.errorbar(
        [point.top1], [y], xerr=[point.deviation] if point.deviation else None, color=colour, capsize=3,
        elinewidth=1.1, marker="D" if point.published else "o", markersize=5 if point.published else 7,
    )  # fmt: skip
    axis.annotate(
        f"{point.top1:.2f}", (point.top1 + point.deviation, y), xytext=(8, 0), textcoords="offset points",
        va="center", fontsize=8.5, color=drawing.MUTED if point.published else drawing.INK,
    )  # fmt: skip


def _bottom(axis: Any, below: Sequence[Gain]) -> None:
    axis.set_xscale("log")
    for gain in sorted(below, key=lambda g: not g.published):
        colour = drawing.GREY if gain.published else drawing.GREEN
        x = gain.parameters * (SHIFT if gain.published else 1.0)  # beside ours, not beneath it
        look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 3, "shrinkB": 3}
        axis.plot([x], [gain.real], "o", markerfacecolor="none", markeredgecolor=colour, markersize=6)
        axis.plot([x], [gain.both], "o", color=colour, markersize=6)
        axis.annotate("", (x, gain.both), xytext=(x, gain.real), arrowprops=look)
    axis.set_xticks(ticks := _ticks([gain.parameters for gain in below]), [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.margins(x=0.14, y=0.14)
    axis.set_xlabel("parameters, millions (logarithmic)")
    axis.set_ylabel("top-1 %")
    _name_gains(axis, below)
    axis.set_title("Real images (open) to real + generated (filled)")


def _name_gains(axis: Any, below: Sequence[Gain]) -> None:
    """Writes name and gain beside each arrow, where no other arrow or name is in the way."""
    ours = {round(gain.parameters) for gain in below if not gain.published}
    taken = [_inches(axis, gain) for gain in below]
    for gain in below:
        if gain.published and round(gain.parameters) in ours:
            continue  # ours beside it says the name
        text = f"{label(gain.name, 24)}\n{signed(gain.both - gain.real)}"
        width, height = 0.08 * len(text.split("\n")[0]), 0.32
        left, low, right, high = _inches(axis, gain)
        middle, across = (low + high) / 2, (left + right) / 2
        places = (
            ("right", "center", (left - width - 0.05, middle - height / 2)),
            ("center", "bottom", (across - width / 2, high + 0.05)),
            ("center", "top", (across - width / 2, low - height - 0.05)),
            ("left", "center", (right + 0.12, middle - height / 2)),
        )
        boxes = [(x, y, x + width, y + height) for _, _, (x, y) in places]
        free = [i for i, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)]
        best = free[0] if free else 0
        taken.append(boxes[best])
        x, y = boxes[best][:2]
        axis.annotate(
            text, (x / WIDTH, y / HEIGHT), xycoords="axes fraction", fontsize=8.5, linespacing=1.25,
            ha="left", va="bottom", multialignment=places[best][0],
            color=drawing.MUTED if gain.published else drawing.INK,
        )  # fmt: skip


def _inches(axis: Any, gain: Gain) -> tuple[float, float, float, float]:
    """Returns (left, low, right, high) of an arrow with its dots, in inches of the panel."""
    (x0, x1), (y0, y1) = axis.get_xlim(), axis.get_ylim()
    x = gain.parameters * (SHIFT if gain.published else 1.0)
    across = WIDTH * math.log(x / x0) / math.log(x1 / x0)
    ends = [HEIGHT * (v - y0) / (y1 - y0) for v in (gain.real, gain.both)]
    return across - 0.06, min(ends) - 0.06, across + 0.06, max(ends) + 0.06


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ticks(sizes: Sequence[float]) -> list[float]:
    """Returns round numbers that span the sizes: 1, 2 and 5 of each decade."""
    steps = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5)]
    low = max((s for s in steps if s <= min(sizes)), default=steps[0])
    high = min((s for s in steps if s >= max(sizes)), default=steps[-1])
    return [s for s in steps if low <= s <= high]
