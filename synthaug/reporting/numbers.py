"""Numbers as text, and means with their spread over seeds. None and NaN are shown as "–"."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from synthaug.metrics import accuracy
from synthaug.reporting.data import Row
from synthaug.reporting.document import Cell

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
SURE = 0.05
"""A p-value below this is called a difference; above it the text says so."""


def finite(value: Any) -> float | None:
    """Returns `value` as a float, or None if it is None, NaN or infinite."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    return float(value)


def decimal(value: Any, places: int = 2) -> str:
    """Returns a number with `places` decimals.

    Example:
        >>> decimal(1234.5), decimal(-0.25), decimal(None), decimal(float("nan"))
        ('1,234.50', '−0.25', '–', '–')
    """
    number = finite(value)
    return NONE if number is None else f"{number:,.{places}f}".replace("-", MINUS)


def percent(fraction: Any) -> str:
    """Returns a fraction in percent with two decimals, without the sign.

    Example:
        >>> percent(0.97219)
        '97.22'
    """
    number = finite(fraction)
    return NONE if number is None else decimal(100 * number)


def places_for(values: Iterable[Any]) -> int:
    """Returns how many decimals a column needs to keep three digits of its smallest value: 2 to 4.

    Example:
        >>> places_for([12.3, 4.5]), places_for([12.3, 0.45, None]), places_for([0.001])
        (2, 3, 4)
    """
    sizes = [abs(v) for v in map(finite, values) if v]
    smallest = min(sizes, default=1.0)
    return 2 if smallest >= 1 else 3 if smallest >= 0.1 else 4


def count(value: Any) -> str:
    """Returns an integer with thousands separators."""
    return NONE if finite(value) is None else f"{int(value):,}"


def setting(value: Any) -> str:
    """Returns a knob's value as it is written in a job file: 1.25, 0, ddpm."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def plural(number: int, word: str) -> str:
    """Returns "1 copy", "2 copies", "3 seeds"."""
    many = f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number:,} {word if number == 1 else many}"


def duration(seconds: Any) -> str:
    """Returns a time for people.

    Example:
        >>> duration(4.21), duration(125), duration(3725)
        ('4.2 s', '2 min 05 s', '1 h 02 min')
    """
    number = finite(seconds)
    if number is None:
        return NONE
    if number < 59.95:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(number / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and deviation over seeds; `missing` seeds had no number."""

    mean: float | None
    deviation: float | None
    seeds: int
    missing: int = 0


def spread(values: Sequence[Any]) -> Spread:
    """Returns the mean and sample deviation of the values that are numbers."""
    numbers = [v for v in map(finite, values) if v is not None]
    lost = len(values) - len(numbers)
    if not numbers:
        return Spread(None, None, 0, lost)
    mean, deviation = accuracy.mean_and_deviation(numbers)
    return Spread(float(mean), finite(deviation) if len(numbers) > 1 else None, len(numbers), lost)


def percent_spread(value: Spread) -> str:
    """Returns "97.22 ± 0.31"; one seed has no ±; seeds without a number are counted."""
    if value.mean is None:
        return NONE
    around = "" if value.deviation is None else f" ± {percent(value.deviation)}"
    lost = f" ({value.seeds} of {value.seeds + value.missing} seeds)" if value.missing else ""
    return f"{percent(value.mean)}{around}{lost}"


@dataclasses.dataclass(frozen=True)
class Delta:
    """A difference paired by seed, in fractions; `p` is None if it cannot be tested."""

    difference: Spread
    p: float | None

    @property
    def sure(self) -> bool:
        """Whether the difference stands out from the scatter between seeds."""
        return self.p is not None and self.p < SURE

    @property
    def sign(self) -> int:
        """-1, 0 or 1 of the difference as printed, so that no word contradicts a "0.00"."""
        points = round(100 * (self.difference.mean or 0.0), 2)
        return (points > 0) - (points < 0)


def paired(before: Sequence[Row], after: Sequence[Row], metric: str) -> Delta:
    """Returns after - before over the seeds that both have."""
    old = {row["seed"]: finite(row[metric]) for row in before}
    new = {row["seed"]: finite(row[metric]) for row in after}
    pairs = [(a, b) for s, a in sorted(old.items()) if a is not None and (b := new.get(s)) is not None]
    if len(pairs) < 2:
        return Delta(spread([b - a for a, b in pairs]), None)
    p = accuracy.paired_test([b for _, b in pairs], [a for a, _ in pairs])
    return Delta(spread([b - a for a, b in pairs]), finite(p))


def signed_points(value: Spread) -> str:
    """Returns a difference of fractions in points, always with its sign.

    Example:
        >>> signed_points(Spread(0.0056, 0.002, 3)), signed_points(Spread(-0.01, None, 1))
        ('+0.56 ± 0.20', '−1.00')
    """
    if value.mean is None:
        return NONE
    points = round(100 * value.mean, 2)
    sign = "+" if points > 0 else MINUS if points < 0 else "±"
    around = "" if value.deviation is None else f" ± {percent(value.deviation)}"
    return f"{sign}{abs(points):.2f}{around}"


def signed(value: float | None, places: int = 2) -> str:
    """Returns a difference in its own unit, always with its sign.

    Example:
        >>> signed(0.214), signed(-1.5), signed(0.001), signed(None)
        ('+0.21', '−1.50', '±0.00', '–')
    """
    if finite(value) is None:
        return NONE
    rounded = round(float(value or 0.0), places)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):,.{places}f}"


def p_value(p: float | None) -> str:
    """Returns "0.031", "< 0.001" or "–"."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def delta_cell(delta: Delta) -> Cell:
    """Returns the difference with its sign; the tone repeats the sign and adds whether it is sure."""
    tone = {1: "up", -1: "down", 0: "muted"}[delta.sign]
    return Cell(signed_points(delta.difference), f"{tone} sure" if delta.sure else tone)


PROTOCOL = {
    "n": "n",
    "n_reference": "reference n",
    "reference": "reference split",
    "encoder": "encoder",
    "encoder_hash": "encoder hash",
    "backend": "run by",
    "resize": "resize",
    "splits": "IS splits",
    "neighbours": "k of precision, recall, density and coverage",
    "max_images": "images of these and of KID at most",
    "kid_subsets": "KID subsets",
    "kid_subset_size": "of",
    "codec": "codec",
    "reference_codec": "codec of the reference",
    "num_steps": "training steps",
    "num_epochs": "passes over the training set",
    "budget": "held fixed",
    "seed": "seed",
}


def protocol(rows: Sequence[Row]) -> str:
    """Returns how the rows were measured: every distinct value of each protocol key they carry."""
    parts = []
    for key, name in PROTOCOL.items():
        values = list(dict.fromkeys(row[key] for row in rows if key in row))
        if values:
            length = 12 if key == "encoder_hash" else 64  # results.json has the whole hash
            if key == "num_epochs":
                values = list(dict.fromkeys(round(v, 1) for v in values))
            shown = [count(v) if isinstance(v, int) else str(setting(v))[:length] for v in values]
            parts.append(f"{name} {shorten(shown)}")
    return "; ".join(parts)


def shorten(words: Sequence[str], most: int = 6) -> str:
    """Returns the words joined; of many only the first and the last."""
    if len(words) <= most:
        return ", ".join(words)
    return f"{', '.join(words[: most - 2])}, … {words[-1]} ({len(words)} values)"
