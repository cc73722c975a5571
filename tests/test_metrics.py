"""Metrics against closed forms, scipy, sklearn and brute force; and every error they raise."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tracemalloc

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import sklearn.metrics

from synthaug.errors import ConfigError, DataError
from synthaug.metrics import moments, neighbours
from synthaug.metrics.accuracy import accuracy, mean_and_deviation, paired_test
from synthaug.metrics.fid import frechet_distance
from synthaug.metrics.inception_score import inception_score
from synthaug.metrics.moments import Moments
from synthaug.metrics.neighbours import precision_recall
from synthaug.metrics.protocol import Protocol, score_row
from synthaug.metrics.rows import check_rows, shuffled_order
from synthaug.metrics.score import score_features

law = hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
NAN, INF = float("nan"), float("inf")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def gaussian(mean, covariance, count=1000):
    """Returns moments with exactly this mean and covariance."""
    covariance = np.asarray(covariance, np.float64)
    return Moments(count, np.asarray(mean, np.float64), covariance * (count - 1))


def covariance_with(eigenvalues, seed):
    """Returns a covariance with these eigenvalues and random eigenvectors."""
    basis = np.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed))[0]
    return (basis * np.asarray(eigenvalues)) @ basis.T


# -------------------------------------------------------------------------------------------- moments


def test_moments_are_numpys_mean_and_covariance():
    x = normal(20000, 5) * [1, 2, 3, 4, 5] + 100.0  # more rows than one block holds
    m = moments.of(x)
    assert m.count == 20000
    np.testing.assert_allclose(m.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(m.covariance(), np.cov(x.T), rtol=1e-11, atol=1e-13)
    assert m.mean.dtype == m.scatter.dtype == np.float64
    np.testing.assert_array_equal(m.scatter, m.scatter.T)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_moments_of_narrow_features_are_summed_in_float64(dtype):
    x = jnp.asarray(normal(500, 3) + 50.0, dtype)
    exact = np.asarray(x).astype(np.float64)
    np.testing.assert_allclose(moments.of(x).covariance(), np.cov(exact.T), rtol=1e-11)


shards = st.lists(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 6), st.just(3)),
        elements=st.floats(-100, 100, allow_subnormal=False),
    ),
    min_size=3,
    max_size=5,
)


def assert_same_moments(a, b):
    # The scatter is a sum of `count` squares, so rounding is relative to those and not to their difference.
    largest = 100.0
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=1e-12 * largest)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=0, atol=1e-12 * largest**2 * max(a.count, 1))


@law
@hypothesis.given(shards)
def test_merging_is_associative_and_equals_the_whole_set(parts):
    a, b, c, *_ = map(moments.of, parts)
    whole = moments.of(np.concatenate(parts[:3]))
    assert_same_moments(moments.merge(moments.merge(a, b), c), whole)
    assert_same_moments(moments.merge(a, moments.merge(b, c)), whole)


@law
@hypothesis.given(shards)
def test_merging_is_commutative_to_the_bit(parts):
    a, b = map(moments.of, parts[:2])
    one, other = moments.merge(a, b), moments.merge(b, a)
    assert one.count == other.count
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.scatter, other.scatter)


@law
@hypothesis.given(shards, st.randoms(use_true_random=False))
def test_the_order_of_shards_does_not_matter(parts, random):
    shuffled = random.sample(parts, len(parts))
    assert_same_moments(
        moments.merge_all(map(moments.of, parts)), moments.merge_all(map(moments.of, shuffled))
    )


def test_fid_does_not_depend_on_the_order_of_shards():
    x, other = normal(400, 8), moments.of(normal(300, 8, seed=1))
    parts = [moments.of(part) for part in np.split(x, [7, 100, 101, 350])]
    values = [
        frechet_distance(moments.merge_all(order), other) for order in (parts, parts[::-1], [moments.of(x)])
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-12)


def test_an_empty_shard_changes_nothing():
    a, empty = moments.of(normal(5, 3)), moments.of(np.zeros((0, 3)))
    assert empty.count == 0
    assert moments.merge(a, empty) is a
    assert moments.merge(empty, a) is a


def test_moments_survive_an_npz_file_bit_for_bit(tmp_path):
    m = moments.of(normal(9, 4))
    np.savez(tmp_path / "m.npz", **moments.to_arrays(m))
    with np.load(tmp_path / "m.npz") as arrays:
        back = moments.from_arrays(arrays)
    assert type(back.count) is int
    assert back.count == 9
    np.testing.assert_array_equal(back.mean, m.mean)
    np.testing.assert_array_equal(back.scatter, m.scatter)


def test_moments_in_an_npz_file_are_checked():
    good = moments.to_arrays(moments.of(normal(9, 4)))
    with pytest.raises(DataError, match="scatter missing among count, mean"):
        moments.from_arrays({name: good[name] for name in ("count", "mean")})
    with pytest.raises(DataError, match="mean float32"):
        moments.from_arrays({**good, "mean": good["mean"].astype(np.float32)})
    with pytest.raises(DataError, match=r"count int64\(1,\)"):
        moments.from_arrays({**good, "count": np.array([9])})
    with pytest.raises(DataError, match=r"mean \(3,\) and scatter \(4, 4\)"):
        moments.from_arrays({**good, "mean": good["mean"][:3]})
    with pytest.raises(DataError, match="count = -1"):
        moments.from_arrays({**good, "count": np.array(-1)})
    with pytest.raises(DataError, match="NaN or inf"):
        moments.from_arrays({**good, "mean": np.full(4, INF)})


def test_features_that_are_not_finite_are_counted_and_the_first_is_named():
    x = normal(10, 3)
    x[4, 1], x[7, 0], x[7, 2] = NAN, INF, -INF
    with pytest.raises(DataError, match="features: 2 of 10 rows hold NaN or inf, the first is row 4"):
        moments.of(x)


def test_tables_of_another_shape_or_type_are_refused():
    with pytest.raises(DataError, match=r"x: found shape \(3,\)"):
        check_rows(np.zeros(3), "x")
    with pytest.raises(DataError, match=r"x: found shape \(3, 0\)"):
        check_rows(np.zeros((3, 0)), "x")
    for table in (np.zeros((2, 2), complex), np.zeros((2, 2), bool), [["a", "b"]]):
        with pytest.raises(DataError, match="x: found dtype"):
            check_rows(table, "x")


def test_moments_that_cannot_be_merged_or_used_are_refused():
    with pytest.raises(DataError, match="no shard"):
        moments.merge_all([])
    with pytest.raises(DataError, match="3 features against 4"):
        moments.merge(moments.of(normal(5, 3)), moments.of(normal(5, 4)))
    with pytest.raises(DataError, match="1 images; a covariance needs at least 2"):
        moments.of(normal(1, 3)).covariance()


# ------------------------------------------------------------------------------------------------ FID


@pytest.mark.parametrize("count", [500, 20, 2], ids=["full rank", "fewer images than features", "two images"])
def test_fid_of_identical_sets_is_zero(count):
    m = moments.of(normal(count, 64))
    assert abs(frechet_distance(m, m)) < 1e-9


def test_fid_of_a_set_and_its_shards_is_zero_for_an_ill_conditioned_covariance():
    x = normal(300, 40) * np.logspace(-5, 0, 40) @ np.linalg.qr(normal(40, 40, seed=1))[0] + 3.0
    m = moments.merge_all(map(moments.of, np.array_split(x, 7)))
    assert abs(frechet_distance(m, moments.of(x))) < 1e-9


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
    root = scipy.linalg.sqrtm(a.covariance() @ b.covariance()).real
    shift = a.mean - b.mean
    expected = shift @ shift + np.trace(a.covariance() + b.covariance() - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(200, 150), (10, 12), (2, 300)])
def test_fid_is_symmetric(n, m):
    a, b = moments.of(normal(n, 50)), moments.of(2 * normal(m, 50, seed=1) + 0.1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@law
@hypothesis.given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_fid_of_fewer_images_than_features_is_finite_and_not_negative(n, m, seed, scale):
    a, b = moments.of(scale * normal(n, 12, seed=seed)), moments.of(scale * normal(m, 12, seed=seed + 1))
    value = frechet_distance(a, b)
    assert type(value) is float
    assert math.isfinite(value)
    assert value >= 0.0


def test_rounding_never_makes_fid_negative():
    for seed in range(20):
        x = normal(40, 16, seed=seed)
        whole, merged = moments.of(x), moments.merge_all(map(moments.of, np.split(x, 4)))
        assert 0.0 <= frechet_distance(whole, merged) < 1e-9


def test_fid_of_constant_features_is_the_squared_distance_of_the_means():
    assert frechet_distance(moments.of(np.ones((3, 4))), moments.of(np.zeros((2, 4)))) == 4.0


def test_fid_refuses_other_features_and_single_images():
    with pytest.raises(DataError, match="3 features against 4"):
        frechet_distance(moments.of(normal(5, 3)), moments.of(normal(5, 4)))
    for pair in itertools.permutations([moments.of(normal(1, 3)), moments.of(normal(5, 3))]):
        with pytest.raises(DataError, match="1 images"):
            frechet_distance(*pair)


# ------------------------------------------------------------------------------------ Inception Score


def test_inception_score_of_an_undecided_classifier_is_one():
    mean, deviation = inception_score(np.zeros((40, 7)), 4, seed=0)
    assert mean == pytest.approx(1.0, abs=1e-14)
    assert deviation == pytest.approx(0.0, abs=1e-14)


def test_inception_score_of_certain_and_balanced_answers_is_the_number_of_classes():
    logits = 1000.0 * np.eye(7)[np.arange(70) % 7]
    mean, deviation = inception_score(logits, 10, seed=None)
    assert mean == pytest.approx(7.0, rel=1e-14)
    assert deviation == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_inception_score_is_the_plain_formula(splits):
    logits = 2 * normal(10000, 6)  # more rows than one block holds; 3 does not divide it
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for part in np.array_split(p, splits):
        divergence = (part * (np.log(part) - np.log(part.mean(axis=0)))).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    expected = np.mean(scores), np.std(scores)
    assert inception_score(logits, splits, seed=None) == pytest.approx(expected, rel=1e-12, abs=1e-13)


def test_inception_score_shuffles_classes_that_come_in_order():
    logits = 1000.0 * np.eye(4)[np.repeat(np.arange(4), 250)]
    assert inception_score(logits, 4, seed=None)[0] == pytest.approx(1.0)
    assert inception_score(logits, 4, seed=0)[0] == pytest.approx(4.0, rel=0.02)
    assert inception_score(logits, 4, seed=0) == inception_score(logits, 4, seed=0)
    assert inception_score(logits, 4, seed=0) != inception_score(logits, 4, seed=1)


def test_inception_score_does_not_depend_on_a_logit_offset():
    logits = normal(50, 5)
    shifted = logits + 1e4 * normal(50, 1, seed=1)
    assert inception_score(shifted, 2, seed=0) == pytest.approx(inception_score(logits, 2, seed=0), rel=1e-9)


def test_inception_score_refuses_what_it_cannot_split():
    with pytest.raises(DataError, match="9 images do not fill 10 splits"):
        inception_score(normal(9, 3), 10, seed=0)
    with pytest.raises(ConfigError, match="splits = 0"):
        inception_score(normal(9, 3), 0, seed=0)
    with pytest.raises(ConfigError, match="seed = -1"):
        inception_score(normal(9, 3), 2, seed=-1)
    with pytest.raises(DataError, match="logits: 9 of 9 rows hold NaN"):
        inception_score(np.full((9, 3), NAN), 2, seed=0)


def test_the_shuffled_order_is_the_same_in_every_numpy_version():
    # Recorded with numpy 2.4. If this fails, scores are no longer comparable with earlier ones.
    assert shuffled_order(8, seed=0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert sorted(shuffled_order(1000, seed=7).tolist()) == list(range(1000))


# ------------------------------------------------------------------------------- precision and recall


def brute_force(real, generated, k):
    def share(points, centres):
        radii = [
            sorted(np.sum((c - o) ** 2) for o in np.delete(centres, i, 0))[k - 1]
            for i, c in enumerate(centres)
        ]
        return np.mean(
            [any(np.sum((p - c) ** 2) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        )

    return share(generated, real), share(real, generated)


def test_identical_sets_have_precision_and_recall_one():
    x = normal(200, 16).astype(np.float32) + 1000.0
    assert precision_recall(x, x, k=3, chunk=64) == (1.0, 1.0)


def test_precision_and_recall_do_not_depend_on_a_common_offset():
    real, generated = (np.round(normal(60, 3, seed=seed) * 2**10) / 2**10 for seed in (0, 1))
    assert 0.0 < precision_recall(real, generated)[0] < 1.0
    offset = 2.0**30  # added without rounding; its square has no digits left for the distances
    assert precision_recall(real + offset, generated + offset) == precision_recall(real, generated)


def test_disjoint_sets_have_precision_and_recall_zero():
    assert precision_recall(normal(50, 4), normal(60, 4, seed=1) + 100.0) == (0.0, 0.0)


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize("width", [3, 64, 300])
def test_a_collapsed_generator_has_precision_one_and_recalls_only_what_it_copies(width, chunk):
    """Balls of radius 0: matrix products round a duplicate's distance differently from block to block."""
    for seed in range(6):
        real = normal(50, width, seed=seed)
        copies = np.repeat(real[5:9], 6, axis=0)
        assert precision_recall(real, copies, chunk=chunk) == (1.0, 4 / 50)


@law
@hypothesis.given(
    st.integers(4, 12), st.integers(4, 12), st.integers(1, 3), st.integers(1, 13), st.integers(0, 10**6)
)
def test_precision_and_recall_agree_with_brute_force(n, m, k, chunk, seed):
    real, generated = normal(n, 2, seed=seed), normal(m, 2, seed=seed + 1)
    assert precision_recall(real, generated, k, chunk) == pytest.approx(brute_force(real, generated, k))


@law
@hypothesis.given(
    hnp.arrays(np.int64, (9, 2), elements=st.integers(-2, 2)),
    hnp.arrays(np.int64, (7, 2), elements=st.integers(-2, 2)),
    st.integers(1, 3),
    st.integers(1, 9),
)
def test_points_on_the_boundary_and_duplicates_count_as_inside(real, generated, k, chunk):
    assert precision_recall(real, generated, k, chunk) == pytest.approx(brute_force(real, generated, k))


def test_neighbours_need_memory_for_one_block_of_distances_only():
    x = normal(1500, 4)
    peaks = {}
    for chunk in (100, 1500):
        tracemalloc.start()
        result = precision_recall(x, x + 0.1, chunk=chunk)
        peaks[chunk] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert result == precision_recall(x, x + 0.1)
    full_matrix = 1500 * 1500 * 8
    assert peaks[100] < full_matrix / 15  # rows x all columns would be a 15th
    assert peaks[1500] > full_matrix


def test_neighbours_refuse_sets_that_have_none():
    with pytest.raises(DataError, match="3 images have no neighbour number 3"):
        precision_recall(normal(3, 2), normal(9, 2))
    with pytest.raises(DataError, match="0 images have no neighbour number 3"):
        precision_recall(normal(9, 2), np.zeros((0, 2)))
    with pytest.raises(ConfigError, match="neighbours = 0"):
        neighbours.squared_radii(normal(9, 2), 0, 4)
    with pytest.raises(ValueError, match="chunk = 0"):
        precision_recall(normal(9, 2), normal(9, 2), chunk=0)
    with pytest.raises(DataError, match="2 of real images against 3"):
        precision_recall(normal(9, 2), normal(9, 3))
    with pytest.raises(DataError, match="generated features: 9 of 9 rows"):
        precision_recall(normal(9, 2), np.full((9, 2), INF))


# ------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("num_classes", [3, 5, 6, 20])
def test_accuracy_agrees_with_sklearn(num_classes):
    labels = np.random.default_rng(0).integers(num_classes, size=300)
    logits = normal(300, num_classes) + np.eye(num_classes)[labels]
    result = accuracy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    assert result.n == 300
    assert result.top1 == pytest.approx(sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1)))
    if num_classes > 5:  # sklearn warns that k = K is trivial
        names = np.arange(num_classes)
        expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=5, labels=names)
        assert result.top5 == pytest.approx(expected)
        assert result.top5 < 1.0
    else:
        assert result.top5 == 1.0
    recall = sklearn.metrics.recall_score(labels, logits.argmax(axis=1), average=None)
    np.testing.assert_allclose(result.per_class, recall)


@law
@hypothesis.given(
    hnp.arrays(np.int64, (6, 8), elements=st.integers(0, 2)),
    st.lists(st.integers(0, 7), min_size=6, max_size=6),
)
def test_ties_go_to_the_lowest_class(logits, labels):
    ranking = np.argsort(-logits, axis=1, kind="stable")
    result = accuracy(logits, labels)
    assert result.top1 == np.mean(logits.argmax(axis=1) == labels)
    assert result.top5 == np.mean([label in row[:5] for row, label in zip(ranking, labels, strict=True)])


def test_a_class_without_images_has_no_accuracy():
    result = accuracy(np.eye(3)[[0, 0, 2, 2]], [0, 0, 2, 0])
    np.testing.assert_array_equal(result.per_class, [2 / 3, NAN, 1.0])
    assert result.top1 == 0.75


def test_labels_that_do_not_fit_the_logits_are_refused():
    logits = normal(4, 3)
    with pytest.raises(DataError, match="1 of 4 are no class, the first is 3 of image 2; expected 0 to 2"):
        accuracy(logits, [0, 1, 3, 0])
    with pytest.raises(DataError, match="first is -1 of image 0"):
        accuracy(logits, [-1, 1, 2, 0])
    with pytest.raises(DataError, match=r"found int64\[3\] for 4 images"):
        accuracy(logits, [0, 1, 2])
    with pytest.raises(DataError, match=r"found float64\[4\]"):
        accuracy(logits, [0.0, 1.0, 2.0, 0.0])
    with pytest.raises(DataError, match="logits: 0 images"):
        accuracy(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(DataError, match="logits: 1 of 2 rows"):
        accuracy([[NAN, 1.0], [0.0, 1.0]], [0, 1])


def test_mean_and_deviation_are_those_of_a_sample():
    assert mean_and_deviation([0.5]) == (0.5, 0.0)
    values = normal(7).tolist()
    assert mean_and_deviation(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    with pytest.raises(DataError, match="values: found none"):
        mean_and_deviation([])
    with pytest.raises(DataError, match="values: 1 of 2 rows"):
        mean_and_deviation([1.0, NAN])


@law
@hypothesis.given(st.lists(st.integers(-5, 5), min_size=2, max_size=7), st.sampled_from([1.0, 0.1, 1e-3 / 3]))
def test_the_paired_test_counts_every_sign_pattern(differences, unit):
    """Against whole numbers, where ties between patterns are exact; `unit` makes them inexact."""
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([s >= abs(sum(differences)) for s in sums])
    base = normal(len(differences)).tolist()
    arm = [x + unit * d for x, d in zip(base, differences, strict=True)]
    assert paired_test(np.multiply(differences, unit), np.zeros(len(differences))) == expected
    assert paired_test(arm, base) == pytest.approx(expected)


def test_the_paired_test_agrees_with_scipys_permutation_test():
    a, b = normal(9), normal(9, seed=1) + 0.5
    expected = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=INF
    )
    assert paired_test(a, b) == pytest.approx(expected.pvalue, rel=1e-12)
    assert paired_test(a, b) == paired_test(b, a)


@pytest.mark.parametrize("effect", [0.2, 0.4, 0.5])
def test_the_paired_test_of_many_pairs_is_close_to_the_exact_one(effect):
    a, b = normal(14), normal(14, seed=1) + effect
    difference = a - b
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=14)))
    exact = np.mean(abs(signs @ difference) >= abs(difference.sum()) - 1e-12)
    assert 0.01 < exact < 0.5
    assert paired_test(a, b) == pytest.approx(exact, abs=0.01)


def test_the_paired_test_says_nothing_below_two_pairs_and_one_without_differences():
    assert paired_test([], []) is None
    assert paired_test([1.0], [0.0]) is None
    for n in (2, 12, 13, 40):
        assert paired_test([0.5] * n, [0.5] * n) == 1.0
    assert paired_test([1.0] * 12, [0.0] * 12) == 2 / 2**12


def test_the_paired_test_refuses_arms_that_are_not_pairs():
    with pytest.raises(DataError, match="2 values against 3"):
        paired_test([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="paired values: 1 of 2 rows"):
        paired_test([1.0, NAN], [1.0, 2.0])


# ------------------------------------------------------------------------------- protocol and the row

FIELDS = {
    "encoder": "resnet", "encoder_hash": "ab12", "resize": "area", "resolution": 8, "reference": "train",
    "splits": 2, "neighbours": 3, "max_images": 100, "seed": 0,
}  # fmt: skip
PROTOCOL = Protocol(**FIELDS, n=50, n_reference=60)
KEYS = [
    "set", "resolution", "reference", "n", "encoder", "fid", "inception_score", "inception_score_std",
    "precision", "recall", "n_reference", "encoder_hash", "resize", "splits", "neighbours",
    "max_images", "seed",
]  # fmt: skip


def test_a_row_carries_every_field_of_its_protocol():
    row = score_row("generated", PROTOCOL, 1.5, 3.0, 0.1, 0.9, np.float64(0.8))
    assert list(row) == KEYS
    assert {name: row[name] for name in dataclasses.asdict(PROTOCOL)} == dataclasses.asdict(PROTOCOL)
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": ""}, "encoder = ''"),
        ({"encoder_hash": " "}, "encoder_hash = ' '"),
        ({"resize": None}, "resize = None"),
        ({"reference": "test"}, "reference = 'test'; expected train or val"),
        ({"resolution": 0}, "resolution = 0"),
        ({"n": 1}, "n = 1"),
        ({"n_reference": 2.5}, "n_reference = 2.5"),
        ({"splits": True}, "splits = True"),
        ({"neighbours": 0}, "neighbours = 0"),
        ({"max_images": 1}, "max_images = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"splits": 51}, "splits = 51 exceeds n = 50"),
        ({"neighbours": 50}, "neighbours = 50 needs more than the 50 images"),
        ({"max_images": 3}, "neighbours = 3 needs more than the 3 images"),
    ],
)
def test_a_protocol_that_no_measurement_can_have_is_refused(change, message):
    with pytest.raises(ConfigError, match=f"protocol: {message}"):
        dataclasses.replace(PROTOCOL, **change)


def test_a_protocol_cannot_be_left_incomplete():
    for name in dataclasses.asdict(PROTOCOL):
        with pytest.raises(TypeError, match=name):
            Protocol(**{key: value for key, value in dataclasses.asdict(PROTOCOL).items() if key != name})


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((NAN, 3, 0, 1, 1), "fid"), ((-1, 3, 0, 1, 1), "fid"), ((1, 0.5, 0, 1, 1), "inception_score"),
        ((1, 3, INF, 1, 1), "inception_score_std"), ((1, 3, 0, 1.1, 1), "precision"),
        ((1, 3, 0, 1, -0.1), "recall"),
    ],
)  # fmt: skip
def test_numbers_that_a_metric_cannot_have_are_not_written(numbers, name):
    with pytest.raises(DataError, match=f"generated: {name} = "):
        score_row("generated", PROTOCOL, *numbers)


def test_a_row_needs_the_name_of_its_set():
    with pytest.raises(DataError, match="set name ' '"):
        score_row(" ", PROTOCOL, 1, 3, 0, 1, 1)


def test_a_scored_set_has_the_numbers_of_the_single_metrics():
    features, real, logits = normal(50, 5), normal(60, 5, seed=1) + 0.3, normal(50, 4)
    row = score_features("generated", features, logits, real, **FIELDS)
    assert list(row) == KEYS
    assert (row["n"], row["n_reference"]) == (50, 60)
    assert row["fid"] == frechet_distance(moments.of(features), moments.of(real))
    assert (row["inception_score"], row["inception_score_std"]) == inception_score(logits, 2, seed=0)
    assert (row["precision"], row["recall"]) == precision_recall(real, features, 3)


def test_large_sets_are_drawn_from_for_precision_and_recall_only():
    features, real, logits = normal(50, 5), normal(60, 5, seed=1) + 0.3, normal(50, 4)
    drawn = real[shuffled_order(60, 7)[:20]], features[shuffled_order(50, 7)[:20]]
    row = score_features("generated", features, logits, real, **{**FIELDS, "max_images": 20, "seed": 7})
    assert (row["precision"], row["recall"]) == precision_recall(*drawn, 3)
    assert (row["n"], row["max_images"], row["seed"]) == (50, 20, 7)
    assert row["fid"] == frechet_distance(moments.of(features), moments.of(real))


def test_a_set_scored_against_itself_is_perfect():
    x = normal(50, 5)
    row = score_features("val", x, normal(50, 4), x, **{**FIELDS, "max_images": 20})
    assert row["fid"] < 1e-9
    assert (row["precision"], row["recall"]) == (1.0, 1.0)


def test_scoring_names_the_set_whose_arrays_do_not_belong_together():
    x = normal(50, 5)
    with pytest.raises(DataError, match="toy: 50 rows of features against 49 of logits"):
        score_features("toy", x, normal(49, 4), x, **FIELDS)
    with pytest.raises(DataError, match="toy: features of the train reference: 50 of 50 rows"):
        score_features("toy", x, normal(50, 4), np.full_like(x, NAN), **FIELDS)
    with pytest.raises(DataError, match="5 features against 6"):
        score_features("toy", x, normal(50, 4), normal(50, 6), **FIELDS)
    with pytest.raises(ConfigError, match="splits = 51"):
        score_features("toy", x, normal(50, 4), x, **{**FIELDS, "splits": 51})
