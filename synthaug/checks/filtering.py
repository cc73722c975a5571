"""What is wrong with the filter of generated images."""

from __future__ import annotations

from synthaug.experiment import Experiment


def filter_problems(e: Experiment) -> list[str]:
    """Returns what is wrong between the settings of the filter and the rest."""
    f, problems = e.filter, []
    if f.reserve and not f.active:
        problems.append(
            f"filter.reserve = {f.reserve:g} makes images that nothing uses; set filter.min_confidence or "
            "filter.duplicate_quantile, or remove it."
        )
    if f.active and not e.cascade:
        problems.append("filter: judges the images of the cascade, and there is none; remove it.")
    probes = min(f.num_probes, e.data.num_train)
    if 0 < f.duplicate_quantile * probes < 1 - 1e-9:
        problems.append(
            f"filter.duplicate_quantile = {f.duplicate_quantile:g} of {probes} real train images is less "
            f"than one; expected at least {1 / probes:.2g}; raise it, or filter.num_probes."
        )
    return problems
