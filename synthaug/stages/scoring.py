"""score and reference: any images against any others, measured as the stages of a study measure theirs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from synthaug import commit, parallel
from synthaug.console import Watch
from synthaug.errors import DataError, RunError
from synthaug.metrics import reference as references
from synthaug.metrics import score as scores
from synthaug.metrics.protocol import Protocol
from synthaug.metrics.reference import Reference
from synthaug.metrics.statistics import Draw
from synthaug.stages.encoder import load_encoder
from synthaug.stages.encoders import Encoder, open_encoder
from synthaug.stages.encoding import Measured, fitting, identity, measure
from synthaug.stages.request import Request
from synthaug.stages.sides import (
    Side,
    as_scored,
    check_counts,
    check_fits,
    images_,
    look_at,
    read_statistics,
    splits_of,
)
from synthaug.train.quiet import hold_back_stderr

PACKAGES = ("pillow", "tensorflow")
"""What a score depends on besides the packages of every stage."""

PUBLISHED = "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6"
"""SHA-256 of classify_image_graph_def.pb as it is in inception-2015-12-05.tgz."""

# ------------------------------------------------------------------------------------------- verbs


def score_images(request: Request, images: str, reference: str) -> dict[str, Any]:
    """Returns numbers and protocol of one set against another, as JSON values.

    Args:
        request: what is asked for.
        images: the set, see `synthaug.data.collection.open_images`.
        reference: another set, or an npz with statistics: ours, ADM's or pytorch-fid's.

    Raises:
        SynthaugError: sets, weights or settings that cannot be used; where it can be known, before anything
            is encoded.
    """
    started = time.monotonic()
    known = read_statistics(reference)
    scored = look_at(request, images, "IMAGES", request.num_images)
    # ADM's files hold 10,000 images beside the statistics, for precision and recall.
    real = look_at(request, reference, "--reference") if known is None or known[1] else None
    splits = splits_of(request, scored.count)
    if known:
        features = known[0].features
        check_counts(request, scored, known[0].gaussian.count, 0 if features is None else len(features))
    check_counts(request, scored, real.count if real else 0)
    if real and real.side != scored.side:
        raise DataError(
            f"IMAGES are {scored.side} px, --reference {real.side} px; expected one size, or FID measures "
            "the resize; name --size and --resize."
        )
    encoder = open_encoder_of(request)
    if known:
        check_fits(known[0], encoder, scored, reference)
    passes: list[Measured] = []
    with _watching(request, 1 + (real is not None)) as watch:
        compared = known[0] if known else None
        if real:
            compared = _as_reference(request, real, encoder, watch, passes, compared)
        draw = Draw(
            n=scored.count,
            seed=request.seed,
            splits=splits,
            max_images=request.settings.max_images,
            sizes=request.settings.sizes,
        )
        mine = _measure(request, scored, encoder, draw, watch)
    passes.append(mine)
    if compared is None:
        raise DataError(f"{reference}: has neither statistics nor images; name another reference.")
    check_fits(compared, encoder, scored, reference)  # only now all images were seen
    made_by = compared.resize
    compared, notes = as_scored(compared, encoder, scored)
    protocol = _protocol(request, encoder, draw, scored, reference, compared)
    row = scores.score(images, mine.statistics, compared, protocol)
    notes += scored.notes() + (real.notes() if real else []) + _notes_on_weights(request)
    row["notes"] += dict.fromkeys(notes)  # both sets may be one
    about = real.facts() if real else {"path": reference, "source": "npz", "codec": compared.codec}
    about["resize"] = real.words or "none" if real else made_by
    return {
        "images": scored.facts(),
        "reference": {**about, "statistics": known is not None},
        "score": row,
        "encoder_batch_size": encoder.batch_size,
        "size": request.side,
        "resize": request.resize,
        "num_images": request.num_images,
        "seconds": round(time.monotonic() - started, 3),
        "images_per_second": _rate(passes),
        "versions": versions(),
    }


def write_reference(request: Request, images: str, out: pathlib.Path) -> str:
    """Writes the statistics of a set to a file for `score --reference`, and returns a sentence about it.

    The file has mu and sigma as pytorch-fid reads them, mu_s and sigma_s as ADM's evaluator does, the
    features of a draw of images, and the protocol. Written again it is the same, bit for bit.

    Raises:
        SynthaugError: see `score_images`; RunError: another file is there.
    """
    side = look_at(request, images, "IMAGES", request.num_images)
    check_counts(request, side)
    encoder = open_encoder_of(request)
    made_of = json.dumps(identity(side.images, side.numbers, encoder, _draw(request, side), side.view))
    if out.exists():
        if _made_of(out) != made_of:
            raise RunError(
                f"{out}: is there and was made of other images, weights or settings; delete or rename it."
            )
        return f"{out}: is there and was made of the same images; nothing left to do.\n"
    passes: list[Measured] = []
    with _watching(request, 1) as watch:
        made = _as_reference(request, side, encoder, watch, passes, None)
    arrays = references.reference_to_arrays(made) | {"made_of": np.array(made_of)}
    tmp = commit.temporary(out)
    try:
        with open(tmp, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise commit.write_error(out, error) from None
    commit.adopt_new(tmp, out, commit.sha256_file(tmp))
    notes = "".join(f"note: {note}\n" for note in side.notes() + _notes_on_weights(request))
    return f"{out}: statistics of {images_(side.count)} of {side.side} px under {encoder.name}\n{notes}"


# --------------------------------------------------------------------------------------- measuring


def open_encoder_of(request: Request) -> Encoder:
    """Returns the encoder that is asked for: of a file, or of a run."""
    batch_size = request.settings.encoder.batch_size
    with fitting(batch_size), hold_back_stderr():  # tensorflow, reading the frozen graph, talks about GPUs
        if request.run:
            return load_encoder(request.run, request.run.experiment())
        return open_encoder(request.settings.encoder)


def _notes_on_weights(request: Request) -> list[str]:
    """Returns a note if the frozen graph is not the one that all published FIDs are by."""
    file = pathlib.Path(request.settings.encoder.path)
    if request.run or request.kind != "inception" or file.suffix != ".pb" or not file.is_file():
        return []
    found = commit.sha256_file(file)
    if found == PUBLISHED:
        return []
    return [f"{file} is not the published file, which has SHA-256 {PUBLISHED[:16]}...: compare with care"]


def _draw(request: Request, side: Side) -> Draw:
    """Returns what is kept of a reference: no splits, no sizes."""
    return Draw(n=side.count, seed=request.seed, splits=1, max_images=request.settings.max_images)


def _measure(request: Request, side: Side, encoder: Encoder, draw: Draw, watch: Watch) -> Measured:
    return measure(
        side.images,
        side.numbers,
        encoder,
        draw,
        side.view,
        what=side.path,
        cache=request.cache,
        watch=watch,
    )


def _as_reference(
    request: Request,
    side: Side,
    encoder: Encoder,
    watch: Watch,
    passes: list[Measured],
    known: Reference | None,
) -> Reference:
    """Returns images as a reference; where statistics are known, only their features are added to these."""
    found = _measure(request, side, encoder, _draw(request, side), watch)
    passes.append(found)
    made = references.of_statistics(
        found.statistics,
        encoder=encoder.name,
        encoder_hash=encoder.sha256,
        backend=encoder.backend,
        resize=side.resize(encoder),
        resolution=side.side,
        codec=side.codec,
    )
    if known is None:
        return made
    return dataclasses.replace(known, features=made.features, resolution=side.side)


def _protocol(
    request: Request, encoder: Encoder, draw: Draw, scored: Side, reference: str, compared: Reference
) -> Protocol:
    settings = request.settings
    return Protocol(
        encoder=encoder.name,
        encoder_hash=encoder.sha256,
        backend=encoder.backend,
        resize=scored.resize(encoder),
        resolution=scored.side,
        reference=reference,
        splits=draw.splits,
        neighbours=settings.neighbours,
        max_images=settings.max_images,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=settings.kid_subset_size,
        seed=request.seed,
        codec=scored.codec,
        reference_codec=compared.codec,
        fewest_images=encoder.fewest_images,
        allow_small_n=settings.allow_small_n,
    )


@contextlib.contextmanager
def _watching(request: Request, passes: int) -> Iterator[Watch]:
    watch = Watch(passes, 0, quiet=request.quiet, interval=request.site.log_interval)
    try:
        yield watch
    finally:
        watch.close()


def _rate(passes: list[Measured]) -> float | None:
    """Returns the images per second of what was encoded in this call."""
    images, seconds = sum(p.encoded for p in passes), sum(p.seconds for p in passes if p.encoded)
    return round(images / seconds, 2) if images else None


def versions() -> dict[str, str]:
    """Returns the packages and the device that a score depends on."""
    return parallel.versions() | {name: importlib.metadata.version(name) for name in PACKAGES}


# ----------------------------------------------------------------------------------------- outputs


def _made_of(path: pathlib.Path) -> str:
    """Returns what a reference's file was made of, "" if it does not say."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return str(arrays["made_of"]) if "made_of" in arrays.files else ""
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return ""
