"""Generated images beside those of another arm and real ones, class by class (the paper's Fig. 2)."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import matplotlib.figure
import numpy as np
from PIL import Image

from synthaug.reporting import commands, drawing
from synthaug.reporting.data import Report, SampleGrid
from synthaug.reporting.document import Gallery, Section, Strip, missing_section
from synthaug.reporting.text import label

TITLE = "Samples: Figure 2"
MOST_BYTES = 1_700_000
"""PNG bytes of all galleries in the page, which is to stay below 3 MB."""
MOST_PIXELS = 64
"""Larger images are shown as thumbnails of this side; the sample set has them whole."""
MOST_CLASSES = 40
MOST_IMAGES = 8
"""Of each class and kind; all kinds show equally many."""


def section(report: Report) -> Section:
    """Returns one gallery per resolution."""
    grids = [g for g in report.samples if g.class_names and _per_class(g)]
    if not grids:
        reason = "no images were handed to the report."
        return missing_section("samples", TITLE, reason, commands.CASCADE[1024])
    share = MOST_BYTES // len(grids)
    top = max(grid.resolution for grid in grids)
    ordered = sorted(grids, key=lambda grid: -grid.resolution)
    drawn = [(grid.resolution, gallery(grid, share)) for grid in ordered]
    numbered = [dataclasses.replace(g, number=2) if px == top else g for px, g in drawn]
    return Section("samples", TITLE, numbered)


def _per_class(grid: SampleGrid) -> int:
    """Returns how many images of a class every kind has."""
    return min((images.shape[1] for images in grid.kinds.values()), default=0)


def gallery(grid: SampleGrid, most_bytes: int) -> Gallery:
    """Returns as many classes as fit into `most_bytes`, evenly spread over all of them."""
    native = max(images.shape[2] for images in grid.kinds.values())
    side, n = min(native, MOST_PIXELS), min(_per_class(grid), MOST_IMAGES)
    grid = dataclasses.replace(grid, kinds={kind: images[:, :n] for kind, images in grid.kinds.items()})
    fits = most_bytes // sum(map(len, _strip(grid, 0, side).pngs))
    shown = _spread_over(range(len(grid.class_names)), min(MOST_CLASSES, max(1, fits)))
    return Gallery(
        slug=f"samples-{grid.resolution}",
        kinds=[label(kind, 40) for kind in grid.kinds],
        strips=[_strip(grid, k, side) for k in shown],
        pixels_per_image=side,
        png=_sheet(grid, shown, side),
        caption=_caption(grid, shown, side, native),
    )


def _caption(grid: SampleGrid, shown: Sequence[int], side: int, native: int) -> str:
    total = len(grid.class_names)
    which = f"all {total}" if len(shown) == total else f"{len(shown)} of {total}"
    spaced = "" if len(shown) == total else ", evenly spaced,"
    size = "without smoothing" if side == native else f"reduced to {side} px"
    return (
        f"As the paper's Fig. 2: {which} classes{spaced} at {grid.resolution} px, from left to right "
        f"{', '.join(label(kind, 40) for kind in grid.kinds)}; the first of each class, not selected, {size}."
    )


def _spread_over(classes: Sequence[int], most: int) -> list[int]:
    if len(classes) <= most:
        return list(classes)
    return [classes[round(i)] for i in np.linspace(0, len(classes) - 1, most)]


def _gap(side: int) -> int:
    return max(1, side // 16)


def _strip(grid: SampleGrid, k: int, side: int) -> Strip:
    rows = [_row(images[k], side) for images in grid.kinds.values()]
    return Strip(grid.class_names[k], [_png(row) for row in rows], [row.shape[1] for row in rows])


def _row(images: np.ndarray, side: int) -> np.ndarray:
    """Returns u8[side, n * (side + gap) - gap, 4]: the images side by side, transparent between them."""
    gap = _gap(side)
    row = np.zeros((side, max(1, len(images) * (side + gap) - gap), 4), np.uint8)
    for i, image in enumerate(images):
        at = i * (side + gap)
        row[:, at : at + side, :3] = _fit(image, side)
        row[:, at : at + side, 3] = 255
    return row


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    """Returns u8[side,side,3] of u8[H,W,C], C = 1 or 3."""
    colour = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    if colour.shape[0] == side:
        return colour
    return np.asarray(Image.fromarray(colour).resize((side, side), Image.Resampling.BOX))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _sheet(grid: SampleGrid, shown: Sequence[int], side: int) -> bytes:
    """Returns one PNG with a line per class: its name, then the images of each kind."""
    with drawing.style():
        figure = matplotlib.figure.Figure(figsize=(10, max(1.5, 0.62 * len(shown) + 0.6)))
        panels = figure.subplots(1, len(grid.kinds), squeeze=False)[0]
        for panel, (title, images) in zip(panels, grid.kinds.items(), strict=True):
            rows = [np.pad(_row(images[k], side), ((0, _gap(side)), (0, 0), (0, 0))) for k in shown]
            panel.imshow(np.concatenate(rows), interpolation="nearest")
            panel.set_title(label(title, 30))
            panel.set_axis_off()
        step = side + _gap(side)
        panels[0].set_axis_on()
        panels[0].set_frame_on(False)
        panels[0].grid(False)
        panels[0].set_xticks([])
        panels[0].set_yticks([i * step + side / 2 for i in range(len(shown))])
        panels[0].set_yticklabels([label(grid.class_names[k]) for k in shown])
        panels[0].tick_params(length=0)
        return drawing.to_png(figure)
