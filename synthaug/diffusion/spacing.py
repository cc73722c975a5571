"""The named, uneven step grids of DeepFloyd IF: many steps where they matter, few elsewhere."""

from __future__ import annotations

from synthaug.errors import ConfigError

SECTIONS: dict[str, tuple[int, ...]] = {
    "fast27": (10, 10, 3, 2, 2),
    "smart27": (7, 4, 2, 1, 2, 4, 7),
    "smart50": (10, 6, 4, 3, 2, 2, 3, 4, 6, 10),
    "smart100": (1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 13),
    "smart185": (1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20),
    "super27": (1, 1, 1, 1, 1, 1, 1, 2, 5, 13),
    "super40": (2, 2, 2, 2, 2, 2, 3, 4, 6, 15),
    "super100": (4, 4, 6, 6, 8, 8, 10, 10, 14, 30),
}
"""Steps taken in each of equally long sections, the cleanest first (deep-floyd/IF, model/respace.py)."""


def named_timesteps(name: str, num_timesteps: int = 1000) -> tuple[int, ...]:
    """Returns the falling timesteps of a named grid, for `sampler.timesteps`.

    Each section takes its steps evenly from its first timestep to its last.

    Raises:
        ConfigError: an unknown name.

    Example:
        >>> named_timesteps("smart27")[:8], named_timesteps("smart27")[-3:]
        ((999, 976, 952, 928, 905, 882, 858, 857), (47, 24, 0))
    """
    if name not in SECTIONS:
        raise ConfigError(f"spacing {name!r}; expected one of {', '.join(SECTIONS)}; choose one.")
    counts, taken, first = SECTIONS[name], set[int](), 0
    for i, count in enumerate(counts):
        size = num_timesteps // len(counts) + (i < num_timesteps % len(counts))
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Added up, not multiplied: IF's own rounding of ties, which moves one step of super40.
        position = 0.0
        for _ in range(count):
            taken.add(first + round(position))
            position += stride
        first += size
    if name == "fast27":  # IF leaves out the last two timesteps of this one
        taken = {997 if t == 999 else t for t in taken}
    return tuple(sorted(taken, reverse=True))
