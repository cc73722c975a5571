"""What a set is compared with: statistics of real images, computed now or read from a file.

A file holds mu and sigma, as pytorch-fid and ADM's evaluator read them, mu_s and sigma_s of the spatial
features, as ADM's does; ours also the features of a draw of images and the protocol, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from synthaug.errors import DataError
from synthaug.metrics.fid import Gaussian
from synthaug.metrics.protocol import UNKNOWN
from synthaug.metrics.rows import Floats, check_rows
from synthaug.metrics.statistics import Statistics


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """Statistics of real images; what its file did not tell is "", 0 or None."""

    gaussian: Gaussian
    spatial: Gaussian | None = None
    features: npt.NDArray[np.float32] | None = None  # f32[m,D], of a draw, by rank
    encoder: str = UNKNOWN
    encoder_hash: str = UNKNOWN
    backend: str = UNKNOWN
    resize: str = UNKNOWN
    resolution: int = 0
    codec: str = UNKNOWN


def of_statistics(
    statistics: Statistics,
    *,
    encoder: str,
    encoder_hash: str,
    backend: str,
    resize: str,
    resolution: int,
    codec: str,
) -> Reference:
    """Returns a set's statistics as a reference; `codec` is that of its own images.

    Raises:
        DataError: fewer than 2 images.
    """
    return Reference(
        gaussian=statistics.moments().gaussian(),
        spatial=None if statistics.spatial is None else statistics.spatial.gaussian(),
        features=statistics.drawn(statistics.draw.max_images),
        encoder=encoder,
        encoder_hash=encoder_hash,
        backend=backend,
        resize=resize,
        resolution=resolution,
        codec=codec,
    )


FACTS = ("encoder", "encoder_hash", "backend", "resize", "resolution", "codec")


def reference_to_arrays(reference: Reference) -> dict[str, npt.NDArray]:
    """Returns the arrays of a reference's file, as `np.savez` takes them; nothing in them is pickled."""
    arrays: dict[str, npt.NDArray] = {"mu": reference.gaussian.mean, "sigma": reference.gaussian.covariance}
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    if reference.features is not None:
        arrays["features"] = reference.features
    facts = {name: getattr(reference, name) for name in FACTS}
    arrays["protocol"] = np.array(json.dumps({"count": reference.gaussian.count, **facts}))
    return arrays


def reference_from_arrays(arrays: Mapping[str, npt.NDArray], what: str) -> Reference:
    """Returns the reference in the arrays of a file: ours, ADM's or pytorch-fid's.

    Args:
        arrays: by name, e.g. an open npz file. Images (arr_0) in it are not looked at: whoever has the
            encoder adds their features with `dataclasses.replace`.
        what: names the file in errors.

    Raises:
        DataError: no mu or sigma, shapes that do not fit each other, NaN or inf, a sigma that is no
            covariance, a damaged protocol.
    """
    missing = [name for name in ("mu", "sigma") if name not in arrays]
    if missing:
        raise DataError(
            f"{what}: {' and '.join(missing)} missing among {', '.join(arrays) or 'no arrays'}; expected "
            "statistics with mu and sigma; make them with `synthaug reference`, or name a folder of images."
        )
    facts: dict[str, Any] = {"count": 0, **dict.fromkeys(FACTS, UNKNOWN), "resolution": 0}
    if "protocol" in arrays:
        try:
            found = json.loads(str(np.asarray(arrays["protocol"])))
            facts = {name: type(known)(found[name]) for name, known in facts.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{what}: its protocol cannot be read ({error!r}); expected what "
                "`synthaug reference` writes; make the file again."
            ) from error
    count = facts.pop("count")
    features = check_rows(arrays["features"], f"{what}: features") if "features" in arrays else None
    try:
        return Reference(
            gaussian=_gaussian(arrays, "mu", "sigma", count),
            spatial=_gaussian(arrays, "mu_s", "sigma_s", count) if "mu_s" in arrays else None,
            features=features,
            **facts,
        )
    except DataError as error:
        raise DataError(f"{what}: {error}") from error


def _gaussian(arrays: Mapping[str, npt.NDArray], mean: str, covariance: str, count: int) -> Gaussian:
    if covariance not in arrays:
        raise DataError(f"{mean} without {covariance}; expected both; make the file again.")
    pair = [np.asarray(arrays[name]) for name in (mean, covariance)]
    if any(array.dtype.kind != "f" for array in pair):
        raise DataError(f"{mean} is {pair[0].dtype}, {covariance} {pair[1].dtype}; expected floats.")
    found = Gaussian(count, *(array.astype(np.float64) for array in pair))
    _check_covariance(found.covariance, covariance)
    return found


def _check_covariance(matrix: Floats, name: str) -> None:
    """Checks that a matrix is symmetric without negative eigenvalues, as far as float32 could round it.

    A Frechet distance would be a number, and a wrong one, of any other.

    Raises:
        DataError: it is not.
    """
    largest = float(np.abs(matrix).max(initial=0.0))
    rounding = len(matrix) * 2.0**-24 * largest
    skew = float(np.abs(matrix - matrix.T).max(initial=0.0))
    if skew > rounding:
        raise DataError(
            f"{name} is no covariance: entries differ by up to {skew:.3g} from their mirror images; "
            "expected a symmetric matrix; make the file again."
        )
    try:
        np.linalg.cholesky(matrix + rounding * np.eye(len(matrix)))  # 20 times faster than eigenvalues
    except np.linalg.LinAlgError:
        lowest = float(np.linalg.eigvalsh(matrix).min(initial=0.0))
        if lowest < -rounding:
            raise DataError(
                f"{name} is no covariance: its lowest eigenvalue is {lowest:.3g}; expected none below 0; "
                "make the file again."
            ) from None
