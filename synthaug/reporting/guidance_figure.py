"""The search on the base model, after the paper's Fig. 3: FID, Inception Score and CAS against guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.figure

from synthaug.reporting import comparable, drawing, paper
from synthaug.reporting.data import Results, Row, run_rows
from synthaug.reporting.document import Figure
from synthaug.reporting.numbers import finite, setting

RESOLUTION = 64
"""px of the paper's Fig. 3."""
OTHER_KNOBS = (
    "checkpoint",
    "num_sampling_steps",
    "solver",
    "aug_level",
    "guidance_min_t",
    "guidance_max_t",
    "guide_checkpoint",
    "ema_length",
)


def missing(results: Results) -> str:
    """Returns why there is nothing to draw; empty if there is."""
    return "" if _searches(results) else "no phase of the sweep varies guidance_weight of the base model."


def figure(results: Results) -> Figure:
    """Returns the three panels, if it is not `missing`."""
    phases = _searches(results)
    search = max(phases, key=lambda p: (len({r["logvar_mix"] for r in p}), p[0]["reference"] == "val"))
    close = max(phases, key=lambda p: (p[0]["reference"] == "train", min(r["n"] for r in p)))
    judged = max(phases, key=lambda p: (_has_cas(p), min(r["n"] for r in p)))
    same = _as_in_the_paper(results, search[0], close[0], judged[0])
    with drawing.style():
        drawn = matplotlib.figure.Figure(figsize=(10.4, 3.7))
        left, centre, right = drawn.subplots(1, 3)
        _by_logvar(left, search, same[0])
        _against_score(centre, close, same[1])
        _accuracy(right, judged, same[2])
        for axis, own in ((left, search), (right, judged)):
            axis.set_xlabel("guidance weight")
            _space_weights(axis, _weights(own))
        for axis in (left, centre, right):
            axis.margins(x=0.09, y=0.12)
        svg, png = drawing.to_svg(drawn, "guidance"), drawing.to_png(drawn)
    caption = _caption(search, close, judged, any(same))
    return Figure("guidance", svg, png, caption, "FID, IS and CAS against guidance", 3)


def _as_in_the_paper(results: Results, search: Row, close: Row, judged: Row) -> tuple[bool, bool, bool]:
    """Returns for each panel whether the paper's curve may be drawn beside ours.

    Left, its FID is that of 50,000 images against val; centre and right, of 1.2 M against train.
    """
    if not (comparable.same_data(results) and search["resolution"] == RESOLUTION):
        return False, False, False
    return (
        search["reference"] == "val" and comparable.same_fid(search, num_images=comparable.NUM_VAL),
        close["reference"] == "train" and comparable.same_fid(close),
        comparable.same_proxy(judged),
    )


def _caption(search: Sequence[Row], close: Sequence[Row], judged: Sequence[Row], same: bool) -> str:
    text = (
        f"As the paper's Fig. 3, the base model at {search[0]['resolution']} px. Left: FID of "
        f"{search[0]['n']:,} images against {search[0]['reference']}, a line per log-variance coefficient. "
        f"Centre: FID of {close[0]['n']:,} images against {close[0]['reference']}, and Inception Score, "
        "labelled with the guidance weight. Right: CAS on real validation images; a band spans lowest and "
        "highest of the points that share a weight."
    )
    if not _has_cas(judged):
        text += " No CAS was measured in this sweep (cas_steps is 0)."
    return text + (" Grey: the paper's curve, digitised." if same else "")


def _searches(results: Results) -> list[list[Row]]:
    """Returns the phases that vary the guidance weight of the base model and have a FID."""
    rows = run_rows(results, "sweep")
    base = min((row["resolution"] for row in rows), default=0)
    phases = _phases([r for r in rows if r["resolution"] == base and finite(r["fid"]) is not None])
    return [phase for phase in phases if len(_weights(phase)) > 1]


def _phases(rows: Sequence[Row]) -> list[list[Row]]:
    """Returns the rows by phase; knobs beside guidance and log-variance are held at the chosen point's."""
    phases = []
    for name in dict.fromkeys(row["phase"] for row in rows):
        own = [row for row in rows if row["phase"] == name]
        kept = next((row for row in own if row["chosen"]), own[-1])
        phases.append([row for row in own if all(row[k] == kept[k] for k in OTHER_KNOBS)])
    return phases


def _weights(rows: Sequence[Row]) -> list[float]:
    return sorted({row["guidance_weight"] for row in rows})


def _has_cas(rows: Sequence[Row]) -> bool:
    return any(finite(row["cas"]) is not None for row in rows)


def _number(value: Any) -> float:
    number = finite(value)
    return math.nan if number is None else number


def _faint(axis: Any, x: Sequence[float], y: Sequence[float], name: str = "") -> None:
    look = {"color": drawing.GREY, "linewidth": 1.0, "linestyle": "--", "marker": ".", "markersize": 4}
    axis.plot(x, y, **look, label=name or None, zorder=1)


def _space_weights(axis: Any, weights: Sequence[float]) -> None:
    """Spreads the weights, which lie close at the small end, by their logarithm."""
    if weights[0] > 0:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(weights, [setting(w) for w in weights])
    axis.tick_params(axis="x", labelsize=7.5)


def _by_logvar(axis: Any, rows: Sequence[Row], same: bool) -> None:
    mixes = list(dict.fromkeys(row["logvar_mix"] for row in rows))
    for i, mix in enumerate(sorted(mixes, key=str)):
        own = sorted((r for r in rows if r["logvar_mix"] == mix), key=lambda r: r["guidance_weight"])
        look = {"color": drawing.SERIES[i % 7], "marker": drawing.MARKERS[i % 7]}
        x, y = [r["guidance_weight"] for r in own], [_number(r["fid"]) for r in own]
        axis.plot(x, y, **look, label=setting(mix))
    if same:
        for i, curve in enumerate(paper.DIGITISED_FIGURE_3_FID_50K.values()):
            _faint(axis, paper.GUIDANCE, curve, "paper" if i == 0 else "")
    axis.legend(title="log-variance", title_fontsize=8.5)
    axis.set_ylabel("FID")
    axis.set_title("FID against guidance")


def _against_score(axis: Any, rows: Sequence[Row], same: bool) -> None:
    mix = next((r["logvar_mix"] for r in rows if r["chosen"]), rows[0]["logvar_mix"])
    own = sorted((r for r in rows if r["logvar_mix"] == mix), key=lambda r: r["guidance_weight"])
    x, y = [_number(r["inception_score"]) for r in own], [_number(r["fid"]) for r in own]
    axis.plot(x, y, color=drawing.BLUE, marker="o")
    known = [(a, b, r) for a, b, r in zip(x, y, own, strict=True) if math.isfinite(a) and math.isfinite(b)]
    for a, b, row in known:
        look = {"fontsize": 8.5, "textcoords": "offset points", "color": drawing.INK}
        axis.annotate(setting(row["guidance_weight"]), (a, b), xytext=(-5, 4), ha="right", **look)
    if same:
        _faint(axis, paper.DIGITISED_FIGURE_3_INCEPTION_SCORE, paper.DIGITISED_FIGURE_3_FID_1200K)
    axis.set_xlabel("Inception Score")
    axis.set_ylabel("FID")
    axis.set_title("FID against Inception Score")


def _accuracy(axis: Any, rows: Sequence[Row], same: bool) -> None:
    axis.set_title("CAS against guidance")
    axis.set_ylabel("accuracy %")
    for metric, name, colour, marker in (
        ("cas", "top-1", drawing.BLUE, "o"),
        ("cas_top5", "top-5", drawing.VERMILLION, "s"),
    ):
        points = _spans(rows, metric)
        if points:
            x, low, mean, high = zip(*points, strict=True)
            axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(x, mean, color=colour, marker=marker, label=name)
    if same and _has_cas(rows):
        _faint(axis, paper.GUIDANCE, paper.DIGITISED_FIGURE_3_TOP1, "paper")
        _faint(axis, paper.GUIDANCE, paper.DIGITISED_FIGURE_3_TOP5)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    else:
        axis.annotate("not measured", (0.5, 0.5), xycoords="axes fraction", ha="center", color=drawing.MUTED)
        axis.set_yticks([])


def _spans(rows: Sequence[Row], metric: str) -> list[tuple[float, float, float, float]]:
    """Returns (weight, lowest, mean, highest) percent of the points that share a guidance weight."""
    spans = []
    for weight in _weights(rows):
        own = [r for r in rows if r["guidance_weight"] == weight and metric in r]
        values = [100 * v for r in own if (v := finite(r[metric])) is not None]
        if values:
            spans.append((weight, min(values), sum(values) / len(values), max(values)))
    return spans
