"""Writes the report: the same document once as a page, once as Markdown, and its images as files."""

from __future__ import annotations

import pathlib

from synthaug.reporting import (
    cas,
    classes,
    dataset,
    extras,
    headline,
    markdown,
    mixes,
    page,
    provenance,
    samples,
    scaling,
    scores,
    sweep,
    timing,
)
from synthaug.reporting.data import Report
from synthaug.reporting.document import Section, images, numbered


def write(report: Report, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes report.html, report.md and figures/*.png; equal reports give equal bytes.

    Args:
        report: everything to show.
        out: the directory; made if it does not exist. Files of the same names are replaced.

    Returns:
        The files, report.html first.
    """
    sections = build(report)
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    files = [out / "report.html", out / "report.md"]
    files[0].write_text(page.render(report, sections), encoding="utf-8", newline="\n")
    files[1].write_text(markdown.render(report, sections), encoding="utf-8", newline="\n")
    for image in images(sections):
        files.append(folder / f"{image.slug}.png")
        files[-1].write_bytes(image.png)
    return files


def build(report: Report) -> list[Section]:
    """Returns the sections in reading order, numbered."""
    before = [
        headline.section(report),
        samples.section(report),
        sweep.section(report),
        scores.section(report),
        cas.section(report),
        mixes.section(report),
        scaling.section(report),
        mixes.few_shot_section(report),
        classes.section(report),
        *extras.sections(report),
        dataset.section(report),
        timing.section(report),
    ]
    return numbered([*before, provenance.section(report, before)])
