"""Inception Score, KID and accuracy against closed forms, scipy, sklearn and brute force."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from synthaug.errors import ConfigError, DataError
from synthaug.metrics import inception_score as splits_of
from synthaug.metrics import kid as kernel
from synthaug.metrics.accuracy import accuracy, mean_and_deviation, paired_test
from synthaug.metrics.inception_score import inception_score, num_splits, split_of
from synthaug.metrics.kid import kid, kid_of_subsets
from synthaug.metrics.rows import random_draw, shuffled_order

law = hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
NAN, INF = float("nan"), float("inf")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


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
    for i in range(splits):
        part = p[i * 10000 // splits : (i + 1) * 10000 // splits]
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


def assert_same_sums(a, b):
    for name, array in splits_of.to_arrays(a).items():
        assert array.tolist() == splits_of.to_arrays(b)[name].tolist(), name
    assert not (a.counts.all() and a.score() != b.score())


@law
@hypothesis.given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 60), max_size=5),
    st.sampled_from([3, 17, 1008]),
    st.sampled_from(["float32", "float64"]),
)
def test_no_bit_of_the_inception_score_depends_on_batches_or_their_order(seed, cuts, classes, dtype):
    logits = (5 * normal(60, classes, seed=seed)).astype(dtype)
    split = split_of(np.argsort(shuffled_order(60, seed)), 60, 4)
    whole = splits_of.of(logits, split, 4)
    order = np.random.default_rng(seed).permutation(60)
    sums = splits_of.of(logits[:0], split[:0], 4)
    for part in np.split(order, sorted(cuts)):
        sums = splits_of.merge(splits_of.of(np.asfortranarray(logits[part]), split[part], 4), sums)
    assert_same_sums(sums, whole)
    assert whole.score() == inception_score(logits, 4, seed=seed)
    assert_same_sums(splits_of.from_arrays(splits_of.to_arrays(whole)), whole)


def test_rare_classes_are_not_rounded_away():
    """A thousand classes of probability 1e-9 each hold a millionth of the mass, and of the entropy more."""
    p = np.full((50, 1001), 1e-9)
    p[:, 0] = 1 - 1e-6
    p[::2, 1:501] *= 2
    p[::2, 501:] *= 1e-6
    p /= p.sum(axis=1, keepdims=True)
    marginal = p.mean(axis=0)
    expected = np.exp((p * np.log(p / marginal)).sum(axis=1).mean()) - 1
    assert inception_score(np.log(p), 1, seed=None)[0] - 1 == pytest.approx(expected, abs=1e-11)


@law
@hypothesis.given(st.integers(1, 200), st.integers(1, 40))
def test_splits_are_contiguous_and_differ_by_one_image_at_most(count, splits):
    hypothesis.assume(splits <= count)
    found = split_of(np.arange(count), count, splits)
    sizes = np.bincount(found, minlength=splits)
    assert len(sizes) == splits
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(found) >= 0).all()


def test_splits_may_be_given_by_their_size():
    assert [num_splits(n, 5000) for n in (1, 5000, 49_999, 50_000, 1_200_000)] == [1, 1, 10, 10, 240]
    with pytest.raises(ConfigError, match="splits of 0 images"):
        num_splits(10, 0)


def test_sums_of_other_splits_or_classes_do_not_merge():
    sums = splits_of.of(normal(6, 3), np.arange(6) % 2, 2)
    for other in (
        splits_of.of(normal(6, 4), np.arange(6) % 2, 2),
        splits_of.of(normal(6, 3), np.arange(6) % 3, 3),
    ):
        with pytest.raises(DataError, match="splits and classes against"):
            splits_of.merge(sums, other)
    with pytest.raises(DataError, match="split 1 of 2 has no images"):
        splits_of.of(normal(6, 3), np.zeros(6, int), 2).score()
    arrays = splits_of.to_arrays(sums)
    for damage in ({"counts": arrays["counts"].astype(float)}, {"entropy": arrays["entropy"][0]}):
        with pytest.raises(DataError, match=r"expected counts i64\[S\]"):
            splits_of.from_arrays({**arrays, **damage})
    with pytest.raises(DataError, match="Inception Score: found"):
        splits_of.from_arrays({"counts": arrays["counts"]})


# ---------------------------------------------------------------------------------------------- KID


def plain_kid(a, b):
    """Returns the unbiased estimate, pair by pair."""

    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within = [
        sum(k(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)) / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    return sum(within) - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


@pytest.mark.parametrize(("n", "m", "width"), [(2, 2, 1), (9, 14, 5), (30, 11, 3)])
@pytest.mark.parametrize("block", [4, 4096])
def test_kid_is_the_plain_formula(monkeypatch, n, m, width, block):
    monkeypatch.setattr(kernel, "_BLOCK", block)
    a, b = normal(n, width), normal(m, width, seed=1) + 0.3
    assert kid(a, b) == pytest.approx(plain_kid(a, b), rel=1e-11, abs=1e-12)
    assert kid(a, b) == pytest.approx(kid(b, a), rel=1e-12)


def test_kid_of_point_masses_is_the_closed_form():
    a, b = np.full((5, 4), 2.0), np.full((7, 4), -1.0)
    assert kid(a, b) == pytest.approx((4 + 1) ** 3 + (1 + 1) ** 3 - 2 * (-2 + 1) ** 3, rel=1e-14)


def test_kid_has_no_bias():
    """The mean over many small draws of one distribution is 0 within its error."""
    values = [kid(normal(10, 3, seed=2 * s), normal(10, 3, seed=2 * s + 1)) for s in range(2000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(2000)
    assert min(values) < 0


def test_kid_of_subsets_draws_by_the_seed():
    a, b = normal(60, 4), normal(50, 4, seed=1) + 0.5
    mean, deviation = kid_of_subsets(a, b, subsets=20, size=30, seed=0)
    assert deviation > 0
    assert mean == pytest.approx(kid(a, b), abs=3 * deviation)
    assert kid_of_subsets(a, b, subsets=20, size=30, seed=0) == (mean, deviation)
    assert kid_of_subsets(a, b, subsets=20, size=30, seed=1) != (mean, deviation)
    drawn = [kid(a[random_draw(60, 30, (0, i, 0))], b[random_draw(50, 30, (0, i, 1))]) for i in range(20)]
    assert (mean, deviation) == (np.mean(drawn), np.std(drawn))


def test_kid_of_draws_that_are_the_whole_sets_is_one_number_without_a_deviation(monkeypatch):
    a, b = normal(50, 4), normal(50, 4, seed=1) + 0.5
    monkeypatch.setattr(kernel, "random_draw", None)  # nothing is drawn, so nothing is computed twice
    assert kid_of_subsets(a, b, subsets=3, size=50, seed=0) == (kid(a, b), None)
    monkeypatch.undo()
    assert kid_of_subsets(a, b[:49], subsets=3, size=49, seed=0)[1] > 0


def test_kid_refuses_what_it_cannot_draw():
    with pytest.raises(DataError, match="KID: draws of 10 from 9 and 20 images"):
        kid_of_subsets(normal(9, 2), normal(20, 2), subsets=2, size=10, seed=0)
    with pytest.raises(DataError, match="KID: draws of 1 "):
        kid_of_subsets(normal(9, 2), normal(20, 2), subsets=2, size=1, seed=0)
    with pytest.raises(DataError, match=r"KID: features \[1, 2\] against \[9, 2\]"):
        kid(normal(1, 2), normal(9, 2))
    with pytest.raises(DataError, match=r"KID: features \[9, 3\] against \[9, 2\]"):
        kid(normal(9, 3), normal(9, 2))
    with pytest.raises(DataError, match="features of the reference: 9 of 9 rows"):
        kid(normal(9, 2), np.full((9, 2), NAN))


# --------------------------------------------------------------------------------------------- rows


def test_a_draw_has_different_numbers_and_is_the_same_in_every_numpy_version():
    # Recorded with numpy 2.4. If this fails, KID is no longer comparable with earlier values.
    assert random_draw(8, 3, (0, 1)).tolist() == [7, 4, 5]
    for size in (1, 50, 100):
        assert len(set(random_draw(100, size, (3, 4, 1)).tolist())) == size
    hits = np.bincount(np.concatenate([random_draw(10, 3, (0, i)) for i in range(3000)]), minlength=10)
    assert abs(hits / 900 - 1).max() < 0.15


def test_the_shuffled_order_is_the_same_in_every_numpy_version():
    # Recorded with numpy 2.4. If this fails, scores are no longer comparable with earlier ones.
    assert shuffled_order(8, seed=0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert sorted(shuffled_order(1000, seed=7).tolist()) == list(range(1000))


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
