"""Inception Score (Salimans et al. 2016): are images recognisable, and together diverse?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from synthaug.errors import ConfigError, DataError
from synthaug.metrics.rows import Floats, check_rows, shuffled_order

_ROWS_AT_ONCE = 8192  # bounds the float64 copy; 64 MiB at 1000 classes


def inception_score(logits: npt.ArrayLike, splits: int, *, seed: int | None) -> tuple[float, float]:
    """Returns mean and standard deviation over splits of exp(E_x KL(p(y|x) || p(y))), between 1 and K.

    Every image is used; split sizes differ by at most one. The deviation is over all splits (no n - 1), as in
    Salimans' code; it measures the splits, not repeated sampling.

    Args:
        logits: f[N,K], before the softmax (ADM's evaluator leaves out the last layer's bias).
        splits: number of equal splits; published values use 10 of 5000 images.
        seed: shuffles the images before they are split. None keeps their order, as ADM's evaluator does:
            only right if classes come in random order, since a split of one class scores 1.

    Raises:
        ConfigError: fewer than one split, or a negative seed.
        DataError: fewer images than splits, NaN or inf.
    """
    rows = check_rows(logits, "logits")
    if splits < 1:
        raise ConfigError(f"score: splits = {splits}; expected 1 or more, e.g. 10.")
    if len(rows) < splits:
        raise DataError(
            f"logits: {len(rows)} images do not fill {splits} splits; "
            "expected at least one image each; lower splits or score a larger set."
        )
    order = np.arange(len(rows)) if seed is None else shuffled_order(len(rows), seed)
    scores = [_score_one_split(rows, indices) for indices in np.array_split(order, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score_one_split(logits: npt.NDArray, indices: npt.NDArray[np.int64]) -> float:
    """Returns exp(H(mean p) - mean H(p)), the same number from sums that images add to one by one."""
    probability, negative_entropy = np.zeros(logits.shape[1]), 0.0
    for i in range(0, len(indices), _ROWS_AT_ONCE):
        log_p = _log_softmax(logits[indices[i : i + _ROWS_AT_ONCE]].astype(np.float64))
        p = np.exp(log_p)
        probability += p.sum(axis=0)
        negative_entropy += float((p * log_p).sum())
    marginal = probability[probability > 0] / len(indices)  # 0 log 0 = 0
    return float(np.exp(negative_entropy / len(indices) - (marginal * np.log(marginal)).sum()))


def _log_softmax(logits: Floats) -> Floats:
    """Returns f64[N,K], log-probabilities that stay finite where the probability underflows."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
