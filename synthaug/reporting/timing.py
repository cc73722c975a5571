"""Where the time went, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import matplotlib.figure

from synthaug.reporting import drawing
from synthaug.reporting.data import Report, StageTime
from synthaug.reporting.document import Cell, Column, Figure, Line, Section, Table, missing_section
from synthaug.reporting.numbers import NONE, count, decimal, duration, finite
from synthaug.reporting.text import label


def section(report: Report) -> Section:
    """Returns a stacked bar per stage and the table behind it."""
    if not report.stages:
        return missing_section("time", "Time", "no stage recorded its time.")
    drawable = any(v and finite(v) for stage in report.stages for v in stage.buckets.values())
    figure = [_figure(report.stages)] if drawable else []
    return Section("time", "Time", [*figure, _table(report.stages)])


def bucket_names(stages: Sequence[StageTime]) -> list[str]:
    """Returns the kinds of work, the largest first."""
    total: dict[str, float] = {}
    for stage in stages:
        for name, seconds in stage.buckets.items():
            total[name] = total.get(name, 0.0) + (finite(seconds) or 0.0)
    return sorted(total, key=lambda name: (-total[name], name))


def _unit(seconds: float) -> tuple[float, str]:
    return (
        (1.0, "seconds") if seconds < 180 else (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")
    )


def _figure(stages: Sequence[StageTime]) -> Figure:
    size, unit = _unit(max(sum(finite(v) or 0.0 for v in s.buckets.values()) for s in stages))
    colours = (*drawing.SERIES[:1], *drawing.SERIES[4:6], *drawing.SERIES[1:4], drawing.GREY)
    with drawing.style():
        drawn = matplotlib.figure.Figure(figsize=(9.9, 0.42 * len(stages) + 1.5))
        axis = drawn.subplots()
        left = [0.0] * len(stages)
        for i, name in enumerate(bucket_names(stages)):
            widths = [(finite(s.buckets.get(name)) or 0.0) / size for s in stages]
            hatch = "" if i < len(colours) else "//"
            axis.barh(
                range(len(stages)), widths, left=left, height=0.62, color=colours[i % len(colours)],
                edgecolor=drawing.PAPER, linewidth=0.8, hatch=hatch, label=label(name, 30),
            )  # fmt: skip
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for y, (stage, end) in enumerate(zip(stages, left, strict=True)):
            text = "" if finite(stage.goodput) is None else f"{share(stage.goodput)} %"
            axis.annotate(
                text, (end, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        axis.set_yticks(range(len(stages)), [label(s.stage) for s in stages])
        axis.invert_yaxis()
        axis.margins(x=0.09)
        axis.set_xlim(left=0)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(f"{unit} of all parts together; the number at the bar is goodput")
        drawn.legend(loc="outside lower center", ncols=7)
        svg, png = drawing.to_svg(drawn, "time"), drawing.to_png(drawn)
    caption = "Time of all parts of a stage together, by kind of work. Goodput: the share that was kept."
    return Figure("time", svg, png, caption, "Stacked bars of time per stage and kind of work")


def _table(stages: Sequence[StageTime]) -> Table:
    buckets = bucket_names(stages)
    names = ["parts / attempts", "wall-clock", "busy", "goodput %", *(f"{b} %" for b in buckets)]
    lines = [_line(stage, buckets, "") for stage in stages]
    lines.append(_line(total(stages), buckets, "chosen"))
    caption = (
        "Wall-clock is first start to last end of a stage; busy adds up its parts, and the last columns say "
        "what share of busy each kind of work took. More attempts than parts: some were stopped and resumed."
    )
    return Table([Column("stage", numeric=False), *map(Column, names)], lines, caption)


def _line(stage: StageTime, buckets: Sequence[str], kind: str) -> Line:
    parts = f"{count(stage.parts)} / {count(stage.attempts)}"
    texts = [parts, duration(stage.wall_seconds), duration(stage.busy_seconds)]
    busy = finite(stage.busy_seconds) or math.nan
    shares = [stage.goodput, *(stage.buckets[b] / busy if b in stage.buckets else None for b in buckets)]
    return Line([Cell(stage.stage), *map(Cell, texts), *(Cell(share(v)) for v in shares)], kind)


def share(fraction: float | None) -> str:
    """Returns a share of time in percent with one decimal."""
    return NONE if finite(fraction) is None else decimal(100 * (fraction or 0.0), 1)


def total(stages: Sequence[StageTime]) -> StageTime:
    """Returns all stages as one; goodput is weighted by busy time."""
    known = [s for s in stages if finite(s.goodput) is not None]
    weight = _added(s.busy_seconds for s in known)
    kept = _added((s.goodput or 0.0) * s.busy_seconds for s in known)
    return StageTime(
        "all",
        sum(s.parts for s in stages),
        sum(s.attempts for s in stages),
        _added(s.wall_seconds for s in stages),
        _added(s.busy_seconds for s in stages),
        kept / weight if weight else None,
        {b: _added(s.buckets[b] for s in stages if b in s.buckets) for b in bucket_names(stages)},
    )


def _added(values: Iterable[float | None]) -> float:
    return sum(finite(v) or 0.0 for v in values)
