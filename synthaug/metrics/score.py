"""All metrics of one set against one reference, as one row that carries its protocol."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from synthaug.errors import ConfigError, DataError
from synthaug.metrics import reference as references
from synthaug.metrics.fid import Gaussian, fid_infinity, frechet_distance
from synthaug.metrics.kid import kid_of_subsets
from synthaug.metrics.neighbours import compare
from synthaug.metrics.protocol import Protocol
from synthaug.metrics.reference import Reference
from synthaug.metrics.statistics import Statistics

SIZES_FOR_INFINITY = 3

SMALLEST_SPREAD = 2.0**-13
"""Root of the mean variance of features below which rounding them to 2^-30 (`moments`) may show in a FID."""

LOSSLESS = ("png", "raw", "bmp", "tiff", "gif")

Row = dict[str, Any]


def score(set_name: str, scored: Statistics, reference: Statistics | Reference, protocol: Protocol) -> Row:
    """Returns one flat, JSON-ready row: a set, its numbers, and how they were measured.

    What cannot be computed (the encoder has no logits, the reference no images) is None and named in `notes`.

    Args:
        set_name: what the row is about, e.g. "generated-256".
        scored: of the whole set.
        reference: of real images, by the same encoder in this study, or from a file.
        protocol: how both were made, and what is asked for.

    Raises:
        ConfigError: neighbours that the sets do not have.
        DataError: no name, a reference of another encoder, weights or resize, sets too small for a FID, or a
            number that its metric cannot have.
    """
    if not set_name.strip():
        raise DataError(f"score: set name {set_name!r}; expected a text; name the scored set.")
    if isinstance(reference, Statistics):
        facts = {name: getattr(protocol, name) for name in references.FACTS}
        facts["codec"] = protocol.reference_codec
        reference = references.of_statistics(reference, **facts)
    notes = _notes_on_reference(set_name, reference, protocol)
    notes += _notes_on_size(set_name, scored, reference, protocol)
    numbers = {
        "sfid": _spatial(scored, reference, notes),
        **_inception_score(scored, notes),
        **_pairs(scored, reference, protocol, notes),
        **_at_sizes(scored, reference, notes),
    }
    _check_numbers(set_name, numbers)
    return {
        "set": set_name,
        "resolution": protocol.resolution,
        "reference": protocol.reference,
        "n": scored.count,
        "encoder": protocol.encoder,
        **{name: numbers[name] for name in NUMBERS},
        "notes": notes,
        "n_reference": reference.gaussian.count or None,
        "encoder_hash": protocol.encoder_hash,
        "backend": protocol.backend,
        "resize": protocol.resize,
        "splits": protocol.splits,
        "neighbours": protocol.neighbours,
        "max_images": protocol.max_images,
        "kid_subsets": protocol.kid_subsets,
        "kid_subset_size": numbers["kid_subset_size"],
        "seed": protocol.seed,
        "codec": protocol.codec,
        "reference_codec": protocol.reference_codec or reference.codec,
    }


NUMBERS = (
    "fid", "sfid", "inception_score", "inception_score_std", "precision", "recall", "density", "coverage",
    "kid", "kid_std", "fid_sizes", "fid_infinity",
)  # fmt: skip


def _notes_on_reference(set_name: str, reference: Reference, protocol: Protocol) -> list[str]:
    """Returns what is not known of the reference; what is known must be equal."""
    notes = []
    for name in ("encoder", "encoder_hash", "resize"):
        found, expected = getattr(reference, name), getattr(protocol, name)
        if found and found != expected:
            raise DataError(
                f"{set_name}: the reference {protocol.reference} has {name} {found!r}; expected "
                f"{expected!r}, that of the scored set; make the reference again with this encoder and size."
            )
        if not found:
            notes.append(f"the reference does not tell its {name}: taken to be that of the scored set")
    if reference.backend and reference.backend != protocol.backend:
        notes.append(f"backend {protocol.backend} against {reference.backend} of the reference")
    if reference.resolution and reference.resolution != protocol.resolution:
        notes.append(f"{protocol.resolution} px against {reference.resolution} px of the reference")
    codecs = protocol.codec, protocol.reference_codec or reference.codec
    if not codecs[1]:
        notes.append("the codec of the reference's images is not known; JPEG changes FID")
    elif codecs[0] != codecs[1] and not set(codecs) <= set(LOSSLESS):
        notes.append(f"codec {codecs[0]} against {codecs[1]} of the reference: FID sees the difference")
    elif codecs[0] not in LOSSLESS:
        notes.append(f"codec {codecs[0]}, which loses detail, on both sides")
    return notes


def _notes_on_size(set_name: str, scored: Statistics, reference: Reference, protocol: Protocol) -> list[str]:
    """Returns warnings about small sets; refuses those that are too small for the encoder."""
    notes = []
    counts = {"the set": scored.count, "the reference": reference.gaussian.count}
    if scored.draw.edges():
        counts["the smallest of sizes"] = scored.draw.edges()[0]
    for what, count in counts.items():
        if not count:
            notes.append(f"{what} does not tell its number of images")
        elif count < protocol.fewest_images:
            bias = (
                f"{count} images in {what}: below {protocol.fewest_images} a FID of {protocol.encoder} is "
                "mostly bias and cannot be compared with one of another number of images"
            )
            if not protocol.allow_small_n:
                raise DataError(
                    f"{set_name}: {bias}; expected so many or more, published values use 50000; "
                    "take more images, or --allow-small-n (score.allow_small_n)."
                )
            notes.append(bias)
        elif count <= reference.gaussian.mean.size:
            notes.append(
                f"{count} images in {what} for {reference.gaussian.mean.size} features: the covariance is "
                "singular, and FID biased upwards"
            )
    return notes


def _spatial(scored: Statistics, reference: Reference, notes: list[str]) -> float | None:
    if scored.spatial is None:
        return None
    if reference.spatial is None:
        notes.append("no sFID: the reference has no spatial features")
        return None
    mine = scored.spatial.gaussian()
    notes += _notes_on_spread("spatial features", mine, reference.spatial)
    return frechet_distance(mine, reference.spatial)


def _notes_on_spread(what: str, *sides: Gaussian) -> list[str]:
    """Returns a warning about features that are too small for their rounding."""
    least = min(math.sqrt(max(0.0, np.trace(side.covariance) / side.mean.size)) for side in sides)
    if least >= SMALLEST_SPREAD:
        return []
    return [
        f"{what} spread by {least:.2g} only: rounding them to 1e-9 may change more than a millionth of a "
        "Frechet distance"
    ]


def _inception_score(scored: Statistics, notes: list[str]) -> dict[str, float | None]:
    if scored.splits is None:
        notes.append("no Inception Score: the encoder has no logits")
    value, deviation = (None, None) if scored.splits is None else scored.splits.score()
    return {"inception_score": value, "inception_score_std": deviation}


def _pairs(scored: Statistics, reference: Reference, protocol: Protocol, notes: list[str]) -> Row:
    """Returns the metrics that compare images with images: precision to coverage, and KID."""
    names = ("precision", "recall", "density", "coverage", "kid", "kid_std")
    if reference.features is None:
        notes.append("no precision, recall, density, coverage and KID: the reference has no images")
        return {**dict.fromkeys(names), "kid_subset_size": protocol.kid_subset_size}
    real, mine = reference.features[: protocol.max_images], scored.drawn(protocol.max_images)
    if protocol.neighbours >= min(len(real), len(mine)):
        raise ConfigError(
            f"protocol: neighbours = {protocol.neighbours} needs more than the {min(len(real), len(mine))} "
            "images that the sets and max_images leave; lower neighbours or score more images."
        )
    if len(real) < min(protocol.max_images, reference.gaussian.count):
        notes.append(f"precision to KID compare with {len(real)} images of the reference: it keeps no more")
    size = min(protocol.kid_subset_size, len(real), len(mine))
    if size < protocol.kid_subset_size:
        notes.append(f"KID draws {size} images, the smaller set, and not {protocol.kid_subset_size}")
    kid, kid_std = kid_of_subsets(mine, real, subsets=protocol.kid_subsets, size=size, seed=protocol.seed)
    if kid_std is None:
        notes.append(f"one KID of all {size} images of both sets: there is nothing to draw, and no deviation")
    shares = compare(real, mine, protocol.neighbours)
    values = (shares.precision, shares.recall, shares.density, shares.coverage, kid, kid_std)
    return {**dict(zip(names, values, strict=True)), "kid_subset_size": size}


def _at_sizes(scored: Statistics, reference: Reference, notes: list[str]) -> Row:
    """Returns FID of the set and at its smaller sizes, and the limit of them all."""
    edges = scored.draw.edges()
    left_out = sorted(set(scored.draw.sizes) - set(edges) - {scored.draw.n})
    if left_out:
        notes.append(f"no FID of {', '.join(map(str, left_out))} images: the set has {scored.draw.n}")
    values: dict[int, float] = {}
    counts = []
    for size in [*edges, None]:
        gaussian = scored.moments(size).gaussian()
        values[size or scored.draw.n] = frechet_distance(gaussian, reference.gaussian)
        counts.append(gaussian.count)
    notes += _notes_on_spread("features", gaussian, reference.gaussian)
    enough = len(values) >= SIZES_FOR_INFINITY and bool(scored.draw.sizes)
    limit = fid_infinity(counts, list(values.values()))[0] if enough else None
    if scored.draw.sizes and not enough:
        notes.append(f"no FID-infinity: it needs {SIZES_FOR_INFINITY} sizes, the whole set among them")
    sizes = {str(size): value for size, value in values.items()} if scored.draw.sizes else {}
    return {"fid": values[scored.draw.n], "fid_sizes": sizes, "fid_infinity": limit}


def _check_numbers(set_name: str, numbers: Row) -> None:
    """Checks that each number is one that its metric can have.

    Raises:
        DataError: one is not, NaN included.
    """
    lowest = {name: 0.0 for name in NUMBERS if name != "fid_sizes"} | {
        "inception_score": 1.0 - 1e-9,  # exactly 1 for a uniform classifier
        "kid": -math.inf,  # unbiased estimates of 0 lie on both sides of it
        "fid_infinity": -math.inf,
    }
    for name, low in lowest.items():
        value = numbers[name]
        high = 1.0 if name in ("precision", "recall", "coverage") else math.inf
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise DataError(
                f"{set_name}: {name} = {value}; expected {low:g} to {high:g}; score the set again."
            )
