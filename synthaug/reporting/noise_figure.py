"""The search on super-resolution, after the paper's Fig. 4: FID against CAS, by noise augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.figure

from synthaug.reporting import comparable, drawing, paper
from synthaug.reporting.data import Results, Row, run_rows
from synthaug.reporting.document import Figure
from synthaug.reporting.numbers import finite, setting

RESOLUTION = 256
"""px of the paper's Fig. 4."""
OTHER_KNOBS = ("guidance_weight", "checkpoint", "num_sampling_steps", "solver")


def missing(results: Results) -> str:
    """Returns why there is nothing to draw; empty if there is."""
    varied = _varied(results)
    if not varied:
        return "no phase of the sweep varies aug_level."
    return (
        ""
        if any(map(_with_cas, varied))
        else "the phase that varies aug_level measures no CAS (cas_steps is 0)."
    )


def figure(results: Results) -> Figure:
    """Returns the figure, if it is not `missing`."""
    phase = max(
        _varied(results), key=lambda p: (_with_cas(p) > 0, p[0]["reference"] == "train", _with_cas(p))
    )
    kept = next((r for r in phase if r["chosen"]), phase[0])
    own = [r for r in phase if all(r[k] == kept[k] for k in OTHER_KNOBS)]
    same = comparable.same_data(results) and own[0]["resolution"] == RESOLUTION
    same = same and _as_in_the_paper(own[0])
    with drawing.style():
        drawn = matplotlib.figure.Figure(figsize=(6.6, 4.1))
        axis = drawn.subplots()
        _draw(axis, own, same)
        svg, png = drawing.to_svg(drawn, "noise"), drawing.to_png(drawn)
    return Figure("noise", svg, png, _caption(own, same), "FID against CAS by noise level", 4)


def _as_in_the_paper(row: Row) -> bool:
    """Returns whether FID (against train) and CAS of a phase may be set against the paper's curves."""
    return row["reference"] == "train" and comparable.same_fid(row) and comparable.same_proxy(row)


def _varied(results: Results) -> list[list[Row]]:
    rows = run_rows(results, "sweep")
    phases = [[r for r in rows if r["phase"] == name] for name in dict.fromkeys(r["phase"] for r in rows)]
    return [phase for phase in phases if len({row["aug_level"] for row in phase}) > 1]


def _with_cas(rows: Sequence[Row]) -> int:
    return sum(finite(r["cas"]) is not None for r in rows)


def _caption(rows: Sequence[Row], same: bool) -> str:
    first = rows[0]
    return (
        f"As the paper's Fig. 4, super-resolution to {first['resolution']} px at guidance "
        f"{setting(first['guidance_weight'])}: FID of {first['n']:,} images against {first['reference']} "
        "and CAS top-1 on real validation images. A line per log-variance coefficient, labelled with the "
        "noise level; better is up and left." + (" Grey: the paper's curves, digitised." if same else "")
    )


def _draw(axis: Any, rows: Sequence[Row], same: bool) -> None:
    if same:
        for i, (fids, scores) in enumerate(paper.DIGITISED_FIGURE_4.values()):
            look = {"color": drawing.GREY, "linewidth": 1.0, "linestyle": "--", "marker": ".", "zorder": 1}
            axis.plot(fids, scores, **look, label="paper" if i == 0 else None)
    for i, mix in enumerate(sorted({r["logvar_mix"] for r in rows}, key=str)):
        own = sorted((r for r in rows if r["logvar_mix"] == mix), key=lambda r: r["aug_level"])
        pairs = [(finite(r["fid"]), finite(r["cas"]), r["aug_level"]) for r in own]
        points = [(f, 100 * c, a) for f, c, a in pairs if f is not None and c is not None]
        look = {"color": drawing.SERIES[i % 7], "marker": drawing.MARKERS[i % 7]}
        axis.plot([p[0] for p in points], [p[1] for p in points], **look, label=setting(mix))
        for fid, cas, level in points:
            text = {"fontsize": 8.5, "textcoords": "offset points", "color": drawing.SERIES[i % 7]}
            side = {"xytext": (6, 4)} if i % 2 == 0 else {"xytext": (-5, -11), "ha": "right"}
            axis.annotate(setting(level), (fid, cas), **side, **text)
    axis.legend(title="log-variance", title_fontsize=8.5)
    axis.set_xlabel("FID (lower is better)")
    axis.set_ylabel("CAS, top-1 % (higher is better)")
    axis.margins(x=0.1, y=0.12)
