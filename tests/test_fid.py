"""Frechet distance and FID-infinity against closed forms and scipy."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.linalg

from synthaug.errors import DataError
from synthaug.metrics import moments
from synthaug.metrics.fid import Gaussian, fid_infinity, frechet_distance

law = hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def gaussian(mean, covariance):
    return Gaussian(1000, np.asarray(mean, np.float64), np.asarray(covariance, np.float64))


def fitted(features):
    return moments.of(features).gaussian()


def covariance_with(eigenvalues, seed):
    """Returns a covariance with these eigenvalues and random eigenvectors."""
    basis = np.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed))[0]
    return (basis * np.asarray(eigenvalues)) @ basis.T


@pytest.mark.parametrize("count", [500, 20, 2], ids=["full rank", "fewer images than features", "two images"])
def test_fid_of_identical_sets_is_zero(count):
    m = fitted(normal(count, 64))
    assert abs(frechet_distance(m, m)) < 1e-9


def test_fid_of_a_set_and_its_shards_is_zero_for_an_ill_conditioned_covariance():
    x = normal(300, 40) * np.logspace(-5, 0, 40) @ np.linalg.qr(normal(40, 40, seed=1))[0] + 3.0
    m = moments.merge_all(map(moments.of, np.array_split(x, 7))).gaussian()
    assert abs(frechet_distance(m, fitted(x))) < 1e-9


def test_fid_of_two_gaussians_is_the_closed_form():
    assert frechet_distance(gaussian([0.0], [[4.0]]), gaussian([3.0], [[1.0]])) == pytest.approx(
        10.0, rel=1e-14
    )
    # Covariances that commute: |m|^2 + sum (sqrt a - sqrt b)^2.
    a, b = np.array([4.0, 9.0, 0.25]), np.array([1.0, 16.0, 2.25])
    rotated = [covariance_with(values, seed=3) for values in (a, b)]
    value = frechet_distance(gaussian([1, 2, 3], rotated[0]), gaussian([0, 0, 0], rotated[1]))
    assert value == pytest.approx(14.0 + 3.0, rel=1e-13)
    # 2 x 2 without commuting: tr (AB)^1/2 = sqrt(tr AB + 2 sqrt(det AB)).
    a2, b2 = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 4.0]])
    overlap = math.sqrt(np.trace(a2 @ b2) + 2 * math.sqrt(np.linalg.det(a2 @ b2)))
    value = frechet_distance(gaussian([0, 0], a2), gaussian([0, 0], b2))
    assert value == pytest.approx(np.trace(a2) + np.trace(b2) - 2 * overlap, rel=1e-13)


def test_fid_of_singular_gaussians_is_the_closed_form():
    """Disjoint supports overlap nowhere; equal ones as in full rank."""
    basis = np.linalg.qr(normal(30, 30))[0]
    low, high = basis[:, :5], basis[:, 5:12]
    a = gaussian(np.zeros(30), low @ low.T)
    assert frechet_distance(a, gaussian(np.zeros(30), high @ high.T)) == pytest.approx(5 + 7, rel=1e-12)
    assert frechet_distance(a, gaussian(np.zeros(30), 9 * low @ low.T)) == pytest.approx(5 * 4, rel=1e-12)
    assert frechet_distance(a, gaussian(np.zeros(30), np.zeros((30, 30)))) == pytest.approx(5, rel=1e-12)


@pytest.mark.parametrize("smallest", [1.0, 1e-4, 1e-8, 1e-10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fid_agrees_with_scipys_matrix_root(smallest, seed):
    spectra = [np.geomspace(smallest, 2.0, 24), np.geomspace(smallest, 1.0, 24) ** 0.8]
    a, b = (gaussian(normal(24, seed=seed + i), covariance_with(s, seed + i)) for i, s in enumerate(spectra))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    shift = a.mean - b.mean
    expected = shift @ shift + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(200, 150), (10, 12), (2, 300)])
def test_fid_is_symmetric(n, m):
    a, b = fitted(normal(n, 50)), fitted(2 * normal(m, 50, seed=1) + 0.1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@law
@hypothesis.given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_fid_of_fewer_images_than_features_is_finite_and_not_negative(n, m, seed, scale):
    a, b = fitted(scale * normal(n, 12, seed=seed)), fitted(scale * normal(m, 12, seed=seed + 1))
    value = frechet_distance(a, b)
    assert type(value) is float
    assert math.isfinite(value)
    assert value >= 0.0


def test_rounding_never_makes_fid_negative():
    for seed in range(20):
        x = normal(40, 16, seed=seed)
        whole, merged = fitted(x), moments.merge_all(map(moments.of, np.split(x, 4))).gaussian()
        assert 0.0 <= frechet_distance(whole, merged) < 1e-9


def test_fid_of_constant_features_is_the_squared_distance_of_the_means():
    assert frechet_distance(fitted(np.ones((3, 4))), fitted(np.zeros((2, 4)))) == 4.0


def test_rounding_is_a_millionth_of_a_millionth_of_the_traces_for_ill_conditioned_covariances():
    """Covariances that share eigenvectors: the closed form is the sum of (sqrt a - sqrt b)^2."""
    for smallest in (1e-3, 1e-6, 1e-9, 1e-12):
        a, b = np.geomspace(smallest, 2.0, 60), np.geomspace(smallest, 1.0, 60)[::-1]
        expected = float(np.square(np.sqrt(a) - np.sqrt(b)).sum())
        zero = np.zeros(60)
        value = frechet_distance(
            gaussian(zero, covariance_with(a, seed=5)), gaussian(zero, covariance_with(b, seed=5))
        )
        assert value == pytest.approx(expected, rel=1e-8 if smallest < 1e-10 else 1e-10)


def test_the_singular_case_is_more_exact_than_scipys_root():
    """Fewer images than features: the distance of a set to twice itself is the trace of its covariance."""
    a = fitted(normal(40, 64))
    b = Gaussian(40, a.mean, 4.0 * a.covariance)
    expected = float(np.trace(a.covariance))
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).astype(np.complex128))
    scipys = float(5 * np.trace(a.covariance) - 2 * np.trace(root).real)
    error = abs(frechet_distance(a, b) - expected) / expected
    assert error < 1e-13
    assert error < abs(scipys - expected) / expected


@law
@hypothesis.given(st.integers(0, 10**6), st.integers(2, 6))
def test_both_factors_of_a_covariance_give_the_same_distance(seed, width):
    a, b = fitted(normal(30, width, seed=seed)), fitted(normal(30, width, seed=seed + 1) + 0.1)
    padded = [
        gaussian(np.pad(g.mean, (0, 1)), np.pad(g.covariance, (0, 1))) for g in (a, b)
    ]  # a feature that never varies: singular, so by eigenvalues
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-9, abs=1e-12)


def test_fid_refuses_statistics_that_do_not_belong_together():
    with pytest.raises(DataError, match="3 features against 4"):
        frechet_distance(fitted(normal(5, 3)), fitted(normal(5, 4)))
    with pytest.raises(DataError, match=r"mean \(3,\) and covariance \(2, 2\)"):
        gaussian(np.zeros(3), np.eye(2))
    with pytest.raises(DataError, match="NaN or inf"):
        gaussian(np.zeros(2), np.full((2, 2), np.nan))


# ------------------------------------------------------------------------------------ FID-infinity


@law
@hypothesis.given(
    st.lists(st.integers(10, 10**6), min_size=2, max_size=8, unique=True),
    st.floats(-1, 100),
    st.floats(0, 1e4),
)
def test_fid_infinity_finds_the_line_in_the_inverse_of_n(sizes, limit, slope):
    values = [limit + slope / n for n in sizes]
    scale = abs(limit) + slope * max(1 / n for n in sizes)
    across = np.std([1 / n for n in sizes]) / max(1 / n for n in sizes)
    found = fid_infinity(sizes, values)
    assert found[0] == pytest.approx(limit, abs=1e-12 * scale / across + 1e-12)


def test_fid_infinity_is_numpys_least_squares_line():
    sizes, values = [100, 200, 300, 700], [3.0, 2.2, 1.9, 1.1]
    slope, limit = np.polyfit(1 / np.array(sizes), values, 1)
    assert fid_infinity(sizes, values) == pytest.approx((limit, slope), rel=1e-10)


def test_fid_infinity_takes_most_of_the_bias_of_small_sets_away():
    """Two sets of one distribution: the true distance is 0."""
    x, reference = normal(8000, 12), fitted(normal(200_000, 12, seed=1))
    sizes = [250, 500, 1000, 2000, 4000, 8000]
    values = [frechet_distance(fitted(x[:n]), reference) for n in sizes]
    assert values[0] > 5 * values[-1] > 0
    assert abs(fid_infinity(sizes, values)[0]) < 0.1 * values[0]


def test_fid_infinity_refuses_what_is_no_line():
    for sizes, values in (([100], [1.0]), ([100, 100], [1.0, 2.0]), ([100, 200], [1.0]), ([], [])):
        with pytest.raises(DataError, match="FID-infinity"):
            fid_infinity(sizes, values)
