"""The command that makes what a report shows as not run."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting.document import Cell, Column, Details, Line, Table
from synthaug.reporting.numbers import plural

CASCADE = {64: "synthaug run jobs/imagenet-64.yaml", 256: "synthaug run jobs/imagenet-256.yaml",
           1024: "synthaug run jobs/imagenet-1024.yaml"}  # fmt: skip
CAS, AUGMENT = "synthaug run jobs/cas.yaml", "synthaug run jobs/augment.yaml"
SCALING, FEW_SHOT = "synthaug run jobs/scaling.yaml", "synthaug run jobs/fewshot.yaml"


def with_overrides(command: str, name: str, *overrides: str) -> str:
    """Returns the command with overrides, under a name of its own: a run never changes its settings.

    Example:
        >>> with_overrides("synthaug run jobs/a.yaml", "a-real", "classify.mixes=[real]")
        'synthaug run jobs/a.yaml name=a-real classify.mixes=[real]'
    """
    return " ".join([command, f"name={name}", *overrides])


def table_4(resolution: int, copies: int) -> str:
    """Returns the command for a cell of Table 4 or Fig. 6."""
    if resolution == 64:
        return CASCADE[64]
    if not copies:
        return with_overrides(SCALING, "scaling-real", "classify.mixes=[real]")
    overrides = (f"classify.sets=[imagen-{resolution}]", f"classify.copies=[{copies}]")
    return with_overrides(SCALING, f"scaling-{resolution}-{copies}x", *overrides)


def details(lines: Sequence[tuple[str, str]]) -> list[Details]:
    """Returns the rows that were not run beside the commands that run them; nothing if there are none."""
    if not lines:
        return []
    columns = [Column("not run", numeric=False), Column("command", numeric=False)]
    table = Table(
        columns,
        [Line([Cell(what), Cell(command, "code")]) for what, command in lines],
        "What is not run above, and the command that runs it; it reads ImageNet from where data.path says.",
    )
    return [Details(f"{plural(len(lines), 'row')} not run, with the commands that run them", [table])]
