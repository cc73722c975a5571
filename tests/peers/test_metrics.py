"""The metrics against prdc, torch-fidelity and pytorch-fid, on the same arrays of features.

Where their definition is another one than ours it is said at the test, and ours is tested after conversion.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from synthaug.metrics import kid as kernel
from synthaug.metrics import moments
from synthaug.metrics.fid import frechet_distance
from synthaug.metrics.inception_score import inception_score
from synthaug.metrics.neighbours import compare

torch = pytest.importorskip("torch")
prdc = pytest.importorskip("prdc.prdc")
metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
metric_prc = pytest.importorskip("torch_fidelity.metric_prc")
pytest.importorskip("torchvision.models.inception")  # the stub has modules only where they are imported
fid_score = pytest.importorskip("pytorch_fid.fid_score")
pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = 1e-6  # relative; both sides compute in float64 from the same float32 features


def features(count, width, seed, spread=1.0):
    """Returns f32[count,width], not negative and correlated, like pooled activations."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(1000).normal(size=(width, width)) / np.sqrt(width)
    return np.maximum(rng.normal(size=(count, width)) * spread @ mix + 0.3, 0).astype(np.float32)


def statistics(rows):
    return rows.astype(np.float64).mean(axis=0), np.cov(rows.astype(np.float64).T)


@pytest.mark.parametrize(("n", "m", "width"), [(900, 700, 160), (5000, 4000, 300)])
def test_fid_is_that_of_torch_fidelity_and_pytorch_fid(n, m, width):
    a, b = features(n, width, 0), features(m, width, 1, 1.2)
    ours = frechet_distance(moments.of(a).gaussian(), moments.of(b).gaussian())
    (mean_a, cov_a), (mean_b, cov_b) = statistics(a), statistics(b)
    sides = [
        metric_fid.fid_features_to_statistics(torch.from_numpy(rows.astype(np.float64))) for rows in (a, b)
    ]
    theirs = metric_fid.fid_statistics_to_metric(*sides, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert ours == pytest.approx(theirs, rel=TOLERANCE)
    assert ours == pytest.approx(
        fid_score.calculate_frechet_distance(mean_a, cov_a, mean_b, cov_b), rel=TOLERANCE
    )
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    shift = mean_a - mean_b
    assert ours == pytest.approx(shift @ shift + np.trace(cov_a + cov_b - 2 * root), rel=TOLERANCE)


def test_fid_of_fewer_images_than_features_is_that_of_torch_fidelity():
    """Singular covariances: the roots of eigenvalues that should be 0 cost the others about 1e-6."""
    a, b = features(150, 200, 0), features(120, 200, 1, 1.2)
    ours = frechet_distance(moments.of(a).gaussian(), moments.of(b).gaussian())
    sides = [metric_fid.fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (a, b)]
    theirs = metric_fid.fid_statistics_to_metric(*sides, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(("count", "splits"), [(1000, 10), (1003, 10), (997, 1), (64, 64)])
def test_the_inception_score_is_that_of_torch_fidelity(count, splits):
    logits = (3 * np.random.default_rng(0).normal(size=(count, 1008))).astype(np.float32)
    theirs = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits, shuffle=False)
    ours = inception_score(logits, splits, seed=None)
    assert ours[0] == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_MEAN], rel=TOLERANCE)
    assert ours[1] == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_STD], rel=TOLERANCE, abs=1e-12)


def test_kid_is_that_of_torch_fidelity_for_the_same_draws(monkeypatch):
    """Draws are ours, by a seed that numpy keeps for ever; with theirs, mean and deviation are theirs."""
    a, b = features(400, 96, 0), features(300, 96, 1, 1.2)
    options = {"kid_subsets": 20, "kid_subset_size": 100, "rng_seed": 5, "verbose": False}
    theirs = metric_kid.kid_features_to_metric(
        torch.from_numpy(a.astype(np.float64)), torch.from_numpy(b.astype(np.float64)), **options
    )
    random = np.random.RandomState(5)
    monkeypatch.setattr(
        kernel, "random_draw", lambda count, size, seed: random.choice(count, size, replace=False)
    )
    ours = kernel.kid_of_subsets(a, b, subsets=20, size=100, seed=0)
    assert ours[0] == pytest.approx(theirs[metric_kid.KEY_METRIC_KID_MEAN], rel=TOLERANCE)
    assert ours[1] == pytest.approx(theirs[metric_kid.KEY_METRIC_KID_STD], rel=TOLERANCE)
    in_float32 = metric_kid.kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **options)
    assert ours[0] == pytest.approx(in_float32[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-4)


def test_kid_of_whole_sets_is_that_of_torch_fidelity():
    a, b = (x.astype(np.float64) for x in (features(250, 64, 0), features(250, 64, 1, 1.1)))
    kernel_of = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    theirs = metric_kid.kernel_mmd(a, b, kid_kernel="poly", **kernel_of)
    assert kernel.kid(a, b) == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_torch_fidelity(k):
    real, generated = features(900, 64, 0), features(700, 64, 1, 0.9)
    ours = compare(real, generated, k)
    pair = torch.from_numpy(generated.astype(np.float64)), torch.from_numpy(real.astype(np.float64))
    assert metric_prc.calculate_precision_recall_full(*pair, k) == pytest.approx(
        (ours.precision, ours.recall), rel=TOLERANCE
    )
    assert 0 < ours.precision < 1
    assert 0 < ours.recall < 1


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_shares_are_those_of_prdc(k):
    real, generated = features(900, 64, 0), features(700, 64, 1, 0.9)
    theirs = prdc.compute_prdc(real.astype(np.float64), generated.astype(np.float64), nearest_k=k)
    ours = compare(real, generated, k)
    assert vars(ours) == pytest.approx(theirs, rel=TOLERANCE)
    assert 0 < ours.coverage < 1


def test_on_the_boundary_prdc_leaves_out_what_the_paper_takes_in(monkeypatch):
    """It compares with <, Kynkaanniemi et al. (eq. 1) and we with <=: it matters for equal images."""
    rng = np.random.default_rng(0)
    real, generated = (rng.integers(-2, 3, (n, 3)).astype(np.float64) for n in (90, 70))
    ours, theirs = vars(compare(real, generated, 3)), prdc.compute_prdc(real, generated, nearest_k=3)
    assert ours["precision"] > theirs["precision"]
    inner = prdc.get_kth_value
    monkeypatch.setattr(
        prdc, "get_kth_value", lambda *args, **kwargs: np.nextafter(inner(*args, **kwargs), np.inf)
    )
    assert ours == pytest.approx(prdc.compute_prdc(real, generated, nearest_k=3), rel=TOLERANCE)
