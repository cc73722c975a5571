"""Images that stand twice in the data: the same bytes, by SHA-256. Re-encoded copies are not found by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from synthaug.data.facts import Facts

_NAMED = 20


def duplicates(train: Facts, val: Facts) -> dict[str, Any]:
    """Returns how often the same image stands twice in a split, and in both: validation images trained on.

    Returns:
        JSON values: for "train" and "val" {"images": how many are the copy of another, "groups": distinct
        images with copies, "other_class": groups under more than one class, "first": the names in the first
        20 groups}; for "between" {"images": validation images that are train images too, "groups",
        "other_class", "first"}.
    """
    return {
        "train": _within(train),
        "val": _within(val),
        "between": _between(train, val),
    }


def _within(facts: Facts) -> dict[str, Any]:
    groups = [rows for rows in _equal(facts.sha256) if len(rows) > 1]
    return {
        "images": sum(len(rows) - 1 for rows in groups),
        "groups": len(groups),
        "other_class": sum(len(set(facts.class_index[rows].tolist())) > 1 for rows in groups),
        "first": [[facts.source[row] for row in rows] for rows in groups[:_NAMED]],
    }


def _between(train: Facts, val: Facts) -> dict[str, Any]:
    sources, classes = train.source + val.source, np.concatenate([train.class_index, val.class_index])
    groups = []
    for rows in _equal(np.concatenate([train.sha256, val.sha256])):
        if rows[0] < len(train) <= rows[-1]:
            groups.append(rows)
    return {
        "images": sum(int((rows >= len(train)).sum()) for rows in groups),
        "groups": len(groups),
        "other_class": sum(len(set(classes[rows].tolist())) > 1 for rows in groups),
        "first": [[sources[row] for row in rows] for rows in groups[:_NAMED]],
    }


def _equal(hashes: np.ndarray) -> list[np.ndarray]:
    """Returns the ascending rows of each hash of u8[N,32] that stands more than once, by their first row."""
    words = np.ascontiguousarray(hashes).view(np.uint64)  # u64[N,4]
    order = np.lexsort((np.arange(len(words)), *words.T))
    changes = np.flatnonzero((np.diff(words[order], axis=0) != 0).any(axis=1)) + 1
    starts, ends = np.append(0, changes), np.append(changes, len(order))
    groups = [order[a:b] for a, b in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True)]
    return sorted(groups, key=lambda rows: int(rows[0]))
