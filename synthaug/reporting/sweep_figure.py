"""FID against guidance, Inception Score and CAS, after the paper's Fig. 3 and 4."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
from matplotlib.lines import Line2D

from synthaug.reporting import drawing
from synthaug.reporting.data import Row
from synthaug.reporting.document import Figure
from synthaug.reporting.numbers import finite, setting
from synthaug.reporting.text import label, slug

AXES = {
    "guidance_weight": "guidance weight",
    "aug_level": "noise augmentation level",
    "num_sampling_steps": "sampling steps",
    "checkpoint": "checkpoint",
    "guidance_min_t": "guidance from t",
    "guidance_max_t": "guidance up to t",
    "guide_checkpoint": "guide checkpoint",
    "ema_length": "EMA length",
}
RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 13,
    "markeredgecolor": drawing.INK,
    "markerfacecolor": "none",
    "markeredgewidth": 1.6,
}
MOST_LABELS = 14
"""With more points only the chosen line and the Pareto front are annotated."""


def figure(phase: str, rows: Sequence[Row]) -> Figure:
    """Returns up to three panels: FID against the first knob that varies, IS and CAS against FID."""
    knob = main_knob(rows)
    panels = [m for m in ("inception_score", "cas") if any(finite(row[m]) is not None for row in rows)]
    front = panels[-1] if panels else ""
    with drawing.style():
        width = 3.4 * (1 + len(panels)) if panels else 6.0
        drawn = matplotlib.figure.Figure(figsize=(width, 3.7))
        axes = drawn.subplots(1, 1 + len(panels), squeeze=False)[0]
        _knob_panel(axes[0], rows, knob)
        for axis, metric in zip(axes[1:], panels, strict=True):
            _scatter_panel(axis, rows, metric, knob, front=metric == front)
        handles = _legend(rows, knob)
        drawn.legend(handles=handles, loc="outside lower center", ncols=2 * len(panels) + 1)
        name = f"sweep-{slug(phase)}"
        svg, png = drawing.to_svg(drawn, name), drawing.to_png(drawn)
    alt = f"FID, IS and CAS at each point of phase {phase}"
    return Figure(name, svg, png, _caption(rows, knob, front), alt)


def main_knob(rows: Sequence[Row]) -> str:
    """Returns the knob on the x axis: the first of AXES with several values, else guidance."""
    return next((k for k in AXES if len({row[k] for row in rows}) > 1), "guidance_weight")


def _caption(rows: Sequence[Row], knob: str, front: str) -> str:
    labels = _label_knobs(rows, knob)
    names = " and ".join(AXES[k] for k in labels)
    text = f"Left: FID against {AXES[knob]}, a colour per log-variance mix (logvar_mix). "
    if front:
        others = "Inception Score and CAS" if front == "cas" else "Inception Score"
        text += f"Right: {others} against FID, labelled with {names}; better is up and left. "
        text += f"Dashed: the Pareto front, drawn in the {'CAS' if front == 'cas' else 'right'} panel. "
    if front != "cas":
        text += "No CAS was measured in this phase. "
    return text + "Circle: the chosen point."


def _label_knobs(rows: Sequence[Row], knob: str) -> list[str]:
    extra = [k for k in ("aug_level",) if k != knob and len({row[k] for row in rows}) > 1]
    return [knob, *extra]


def _looks(rows: Sequence[Row], knob: str) -> tuple[dict[Any, Any], list[str], dict[Any, str]]:
    """Returns colour and marker by logvar_mix, the other knobs that vary, and line style by their values."""
    mixes = [values[0] for values in _distinct(rows, ("logvar_mix",))]
    other = [k for k in (*AXES, "solver") if k != knob and len({row[k] for row in rows}) > 1]
    colours, markers = itertools.cycle(drawing.SERIES), itertools.cycle(drawing.MARKERS)
    looks = {mix: {"color": next(colours), "marker": next(markers)} for mix in mixes}
    return looks, other, dict(zip(_distinct(rows, other), itertools.cycle(drawing.LINE_STYLES), strict=False))


def _series(rows: Sequence[Row], knob: str) -> list[tuple[dict[str, Any], list[Row]]]:
    """Returns (look, rows by rising knob) of every line."""
    looks, other, styles = _looks(rows, knob)
    series = []
    for mix, look in looks.items():
        for values, line_style in styles.items():
            own = [r for r in rows if r["logvar_mix"] == mix and tuple(r[k] for k in other) == values]
            ordered = sorted(own, key=lambda r: _number(r[knob]))
            series.append(({**look, "linestyle": line_style}, ordered))
    return series


def _legend(rows: Sequence[Row], knob: str) -> list[Line2D]:
    """Returns an entry per colour, one per line style if there are several, and the chosen point."""
    looks, other, styles = _looks(rows, knob)
    handles = [Line2D([], [], label=f"logvar_mix {setting(mix)}", **look) for mix, look in looks.items()]
    for values, line_style in styles.items() if other else ():
        text = ", ".join(f"{AXES.get(k, k)} {setting(v)}" for k, v in zip(other, values, strict=True))
        handles.append(Line2D([], [], label=label(text, 48), color=drawing.INK, linestyle=line_style))
    return [*handles, Line2D([], [], label="chosen", linestyle="none", **RING)]


def _distinct(rows: Sequence[Row], knobs: Sequence[str]) -> list[tuple[Any, ...]]:
    found = {tuple(row[k] for k in knobs) for row in rows}
    return sorted(found, key=lambda values: [(isinstance(v, str), v or 0) for v in values])


def _number(value: Any) -> float:
    number = finite(value)
    return math.nan if number is None else number


def _knob_panel(axis: Any, rows: Sequence[Row], knob: str) -> None:
    for look, own in _series(rows, knob):
        axis.plot([_number(r[knob]) for r in own], [_number(r["fid"]) for r in own], **look)
    _ring(axis, rows, knob, "fid", 1.0)
    axis.set_xlabel(AXES[knob])
    axis.set_ylabel("FID (lower is better)")
    axis.set_title(f"FID against {AXES[knob].split(',')[0].removesuffix(' level')}")
    _pad(axis)


def _scatter_panel(axis: Any, rows: Sequence[Row], metric: str, knob: str, front: bool) -> None:
    scale = 100.0 if metric == "cas" else 1.0
    for look, own in _series(rows, knob):
        y = [scale * _number(r[metric]) for r in own]
        axis.plot([_number(r["fid"]) for r in own], y, **{**look, "linewidth": 0.9})
    if front:
        best = sorted((r for r in rows if r["pareto"]), key=lambda r: _number(r["fid"]))
        x, y = [_number(r["fid"]) for r in best], [scale * _number(r[metric]) for r in best]
        axis.plot(x, y, color=drawing.INK, linestyle=(0, (4, 3)), linewidth=1.1, zorder=1.5)
    _ring(axis, rows, "fid", metric, scale)
    _annotate(axis, rows, metric, knob, scale)
    name = "CAS, top-1 %" if metric == "cas" else "Inception Score"
    axis.set_xlabel("FID (lower is better)")
    axis.set_ylabel(f"{name} (higher is better)")
    axis.set_title(f"{name.split(',')[0]} against FID")
    _pad(axis)


def _ring(axis: Any, rows: Sequence[Row], x: str, y: str, scale: float) -> None:
    chosen = [r for r in rows if r["chosen"]]
    at = [_number(r[x]) for r in chosen], [scale * _number(r[y]) for r in chosen]
    axis.plot(*at, linestyle="none", zorder=4, **RING)


def _annotate(axis: Any, rows: Sequence[Row], metric: str, knob: str, scale: float) -> None:
    """Writes the knob beside each point; of many points only of the chosen line and the Pareto front."""
    knobs, placed = _label_knobs(rows, knob), list[tuple[float, float]]()
    lines = {row["logvar_mix"] for row in rows if row["chosen"]}
    few = len(rows) <= MOST_LABELS
    wanted = [r for r in rows if few or r["pareto"] or r["logvar_mix"] in lines]
    points = [(r, _number(r["fid"]), scale * _number(r[metric])) for r in wanted]
    points = [p for p in points if math.isfinite(p[1]) and math.isfinite(p[2])]
    width, height = _extent([x for _, x, _ in points]), _extent([y for _, _, y in points])
    for row, x, y in sorted(points, key=lambda p: not p[0]["chosen"]):
        if all(abs(x - a) > 0.12 * width or abs(y - b) > 0.08 * height for a, b in placed):
            placed.append((x, y))
            text = " / ".join(setting(row[k]) for k in knobs)
            look = {"fontsize": 8.5, "color": drawing.INK, "textcoords": "offset points"}
            axis.annotate(text, (x, y), xytext=(9, 3) if row["chosen"] else (5, 5), **look)


def _extent(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0


def _pad(axis: Any) -> None:
    axis.margins(x=0.1, y=0.12)
