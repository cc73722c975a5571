"""All metrics of one set against one reference, as one row."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from synthaug.errors import DataError
from synthaug.metrics import moments
from synthaug.metrics.fid import frechet_distance
from synthaug.metrics.inception_score import inception_score
from synthaug.metrics.neighbours import precision_recall
from synthaug.metrics.protocol import Protocol, score_row
from synthaug.metrics.rows import check_rows, shuffled_order


def score_features(
    set_name: str,
    features: npt.ArrayLike,
    logits: npt.ArrayLike,
    reference_features: npt.ArrayLike,
    *,
    encoder: str,
    encoder_hash: str,
    resize: str,
    resolution: int,
    reference: str,
    splits: int,
    neighbours: int,
    max_images: int,
    seed: int,
) -> dict[str, Any]:
    """Returns the row of `score_row`: FID and Inception Score of all images, precision and recall of a draw.

    Args:
        set_name: what the row is about, e.g. "generated-256".
        features: f[N,D] of the scored set.
        logits: f[N,K] of the same images, in the same order.
        reference_features: f[M,D] of real images.
        encoder: name of the network behind features and logits.
        encoder_hash: hash of its weights.
        resize: filter that brought the images to its input size.
        resolution: px, side of the scored images.
        reference: split of the real images, "train" or "val".
        splits: equal splits of the Inception Score.
        neighbours: k of precision and recall.
        max_images: images per set in precision and recall; larger sets are drawn from.
        seed: of the splits and of that draw.

    Raises:
        ConfigError: protocol fields that no measurement can have.
        DataError: arrays that are not finite or do not belong together.
    """
    features = check_rows(features, f"{set_name}: features")
    logits = check_rows(logits, f"{set_name}: logits")
    real = check_rows(reference_features, f"{set_name}: features of the {reference} reference")
    if len(logits) != len(features):
        raise DataError(
            f"{set_name}: {len(features)} rows of features against {len(logits)} of logits; "
            "expected one each per image; encode the set again."
        )
    protocol = Protocol(
        encoder=encoder,
        encoder_hash=encoder_hash,
        resize=resize,
        resolution=resolution,
        n=len(features),
        n_reference=len(real),
        reference=reference,
        splits=splits,
        neighbours=neighbours,
        max_images=max_images,
        seed=seed,
    )
    fid = frechet_distance(moments.of(features), moments.of(real))
    score, score_std = inception_score(logits, splits, seed=seed)
    precision, recall = precision_recall(
        _draw(real, max_images, seed), _draw(features, max_images, seed), neighbours
    )
    return score_row(set_name, protocol, fid, score, score_std, precision, recall)


def _draw(rows: npt.NDArray, count: int, seed: int) -> npt.NDArray:
    """Returns at most `count` rows; which ones depends on the number of rows and the seed alone."""
    return rows if len(rows) <= count else rows[shuffled_order(len(rows), seed)[:count]]
