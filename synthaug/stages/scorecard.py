"""What `synthaug score` prints: a table on a terminal, lines of plain text anywhere else."""

from __future__ import annotations

import json
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

NOT_KNOWN = "-"


def show(result: dict[str, Any], stream: TextIO) -> None:
    """Writes the result of `scoring.score` for a person."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    lines = numbers(result["score"])
    if console.is_terminal:
        table = Table("metric", "value", "", header_style="bold")
        for line in lines:
            table.add_row(Text(line[0]), Text(line[1], justify="right"), Text(line[2], style="dim"))
        console.print(table)
    else:
        widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
        for name, value, remark in lines:
            text = f"{name:{widths[0]}}  {value:>{widths[1]}}  {remark}".rstrip()
            console.print(text, markup=False)
    for remark in protocol(result):
        console.print(remark, markup=False)


def numbers(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (metric, value, how) of a row, without what its encoder does not give."""
    title = "FD-DINOv2" if row["encoder"].startswith("dinov2") else "FID"
    kept = f"{row['max_images']} images of a set at most"
    k = f"k = {row['neighbours']}, {kept}"
    lines = [(title, _number(row["fid"], 4), f"n = {row['n']}, reference n = {row['n_reference'] or '?'}")]
    for size, value in row["fid_sizes"].items():
        lines.append((f"{title} of {size}", _number(value, 4), "images drawn"))
    if row["fid_infinity"] is not None:
        lines.append((f"{title}-infinity", _number(row["fid_infinity"], 4), "extrapolated in 1/n"))
    lines.append((f"s{title}", _number(row["sfid"], 4), "spatial features"))
    score = _number(row["inception_score"], 3) + _deviation(row["inception_score_std"], 3)
    lines.append(("Inception Score", score, f"{row['splits']} splits"))
    for name in ("precision", "recall", "density", "coverage"):
        lines.append((name.capitalize(), _number(row[name], 4), k))
    kid = _number(row["kid"], 6) + _deviation(row["kid_std"], 6)
    subsets = f"{row['kid_subsets']} subsets of {row['kid_subset_size']}, {kept}"
    lines.append(("KID", kid, subsets))
    return [line for line in lines if line[1] != NOT_KNOWN]


def protocol(result: dict[str, Any]) -> list[str]:
    """Returns how it was measured, and what to know before the numbers are compared."""
    row, images, reference = result["score"], result["images"], result["reference"]
    lines = [
        f"images:    {images['path']} ({images['source']}, {row['resolution']} px, {row['codec']})",
        f"reference: {reference['path']} ({reference['source']}, {row['reference_codec'] or 'codec ?'}"
        f"{_resized(reference['resize'])})",
        f"encoder:   {row['encoder']}, weights {row['encoder_hash'][:16]}, {row['backend']}; "
        f"resize: {row['resize']}; seed {row['seed']}",
    ]
    if result["images_per_second"]:
        rate = f"{result['images_per_second']:.1f} images/s"
        lines.append(f"time:      {result['seconds']:.1f} s, {rate} on {result['versions']['device']}")
    for side in (images, reference):
        if skipped := side.get("skipped"):
            names = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
            lines.append(
                f"note: {side['path']}: {len(skipped)} images cannot be read and are left out: {names}"
            )
    return [*lines, *(f"note: {note}" for note in row["notes"])]


def _resized(words: str) -> str:
    return "" if words in ("", "none") else f", resize: {words}"


def as_json(result: dict[str, Any]) -> str:
    """Returns the result as JSON text; NaN has no place in it."""
    return json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _number(value: float | None, places: int) -> str:
    return NOT_KNOWN if value is None else f"{value:.{places}f}"


def _deviation(value: float | None, places: int) -> str:
    return "" if value is None else f" ± {value:.{places}f}"
