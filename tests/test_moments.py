"""Exact moments: the same bits in any batches, shards and order; closed forms; every error they raise."""

from __future__ import annotations

import fractions
import itertools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug.errors import DataError
from synthaug.metrics import limbs, moments
from synthaug.metrics.fid import frechet_distance
from synthaug.metrics.moments import Moments, Sums
from synthaug.metrics.rows import check_rows

law = hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
NAN, INF = float("nan"), float("inf")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def assert_same_bits(a: Moments, b: Moments) -> None:
    assert a.count == b.count
    assert a.total.tolist() == b.total.tolist()
    assert a.gram.tolist() == b.gram.tolist()
    if a.count > 1:
        one, other = a.gaussian(), b.gaussian()
        assert one.mean.tobytes() == other.mean.tobytes()
        assert one.covariance.tobytes() == other.covariance.tobytes()


def exact_gaussian(features):
    """Returns mean and covariance in rational arithmetic of the features as they are rounded."""
    units = [[round(fractions.Fraction(float(x)) * 2**30) for x in row] for row in features]
    n, width = len(units), len(units[0])
    total = [sum(column) for column in zip(*units, strict=True)]
    mean = [float(fractions.Fraction(t, n * 2**30)) for t in total]
    covariance = np.empty((width, width))
    for i, j in itertools.product(range(width), repeat=2):
        product = n * sum(row[i] * row[j] for row in units) - total[i] * total[j]
        covariance[i, j] = float(fractions.Fraction(product, n * (n - 1) * 2**60))
    return np.array(mean), covariance


# ------------------------------------------------------------------------------------------- limbs

whole = st.integers(-(2**150), 2**150)


@law
@hypothesis.given(st.lists(whole, min_size=1, max_size=5), st.lists(whole, min_size=5, max_size=5))
def test_limbs_add_like_whole_numbers_and_are_unique(a, b):
    b = b[: len(a)]

    def limbs_of(numbers):
        digits = limbs.digits_of(numbers)
        return limbs.carry(limbs.to_limbs(dict(enumerate(digits))))

    total = limbs.add(limbs_of(a), limbs_of(b))
    assert limbs.to_integers(total) == [x + y for x, y in zip(a, b, strict=True)]
    assert total.tolist() == limbs_of([x + y for x, y in zip(a, b, strict=True)]).tolist()
    np.testing.assert_allclose(
        limbs.to_floats(total), np.array(a, float) + np.array(b, float), rtol=1e-13, atol=2.0**100
    )
    assert total.min() >= -(2**39)
    assert total.max() < 2**39


@law
@hypothesis.given(hnp.arrays(np.float64, 4, elements=st.floats(-(2.0**28), 2.0**28)))
def test_digits_of_features_are_balanced_and_sum_to_them(values):
    count = limbs.num_digits(float(abs(values).max()) * 2.0**30)
    digits = [np.empty(4) for _ in range(count)]
    limbs.split_digits(values, digits)
    assert all(abs(digit).max() <= 2**19 for digit in digits)
    sums = [sum(int(digit[i]) << (20 * place) for place, digit in enumerate(digits)) for i in range(4)]
    assert sums == [round(fractions.Fraction(value) * 2**30) for value in values]


# ----------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize(
    ("scale", "offset"), [(1, 0), (1e-3, 1e3), (1e-6, 0), (1e6, 0), (1e-3, -1e7), (3e7, 2e8), (1e-9, 1)]
)
def test_mean_and_covariance_are_those_of_rational_arithmetic(scale, offset):
    x = normal(40, 4) * scale + offset
    gaussian = moments.of(x).gaussian()
    mean, covariance = exact_gaussian(x)
    assert gaussian.mean.tobytes() == mean.tobytes()
    spread = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (abs(gaussian.covariance - covariance) <= 1e-15 * spread).all()


def test_moments_are_numpys_mean_and_covariance():
    x = normal(9000, 70) * np.arange(1, 71) + 100.0  # more rows and columns than one block holds
    gaussian = moments.of(x).gaussian()
    assert gaussian.count == 9000
    assert gaussian.mean.dtype == gaussian.covariance.dtype == np.float64
    np.testing.assert_allclose(gaussian.mean, x.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(gaussian.covariance, np.cov(x.T), rtol=0, atol=1e-8)
    np.testing.assert_array_equal(gaussian.covariance, gaussian.covariance.T)


def test_a_large_mean_costs_no_digit_of_a_small_deviation():
    x = np.random.default_rng(0).integers(-1000, 1000, (5000, 3)) * 2.0**-20 + 1000.0
    small = (x - 1000.0).astype(np.longdouble)
    small -= small.mean(axis=0)
    expected = (small.T @ small / 4999).astype(np.float64)
    np.testing.assert_allclose(moments.of(x).gaussian().covariance, expected, rtol=1e-14)


def test_constant_features_have_no_covariance_at_all():
    assert not moments.of(np.full((37, 3), 123456.789)).gaussian().covariance.any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_moments_of_narrow_features_are_those_of_the_same_numbers_in_float64(dtype):
    x = jnp.asarray(normal(500, 3) + 50.0, dtype)
    assert_same_bits(moments.of(x), moments.of(np.asarray(x).astype(np.float64)))


shards = st.lists(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 6), st.just(3)),
        elements=st.one_of(st.floats(-10, 10), st.floats(-(2.0**27), 2.0**27)),
    ),
    min_size=3,
    max_size=5,
)


@law
@hypothesis.given(shards, st.randoms(use_true_random=False))
def test_rows_shards_and_merges_in_any_order_give_the_same_bits(parts, random):
    whole_set = moments.of(np.concatenate(parts))
    rows = list(np.concatenate(parts))
    random.shuffle(rows)
    assert_same_bits(moments.of(np.array(rows).reshape(-1, 3)), whole_set)
    pieces = [moments.of(part) for part in parts]
    random.shuffle(pieces)
    assert_same_bits(moments.merge_all(pieces), whole_set)
    while len(pieces) > 1:  # any tree
        a, b = (pieces.pop(random.randrange(len(pieces))) for _ in range(2))
        pieces.append(moments.merge(a, b))
    assert_same_bits(pieces[0], whole_set)


@law
@hypothesis.given(
    st.integers(0, 10**6), st.lists(st.integers(0, 300), max_size=4), st.sampled_from([40, 200])
)
def test_no_bit_of_fid_depends_on_batches_shards_or_their_order(seed, cuts, width):
    x = normal(300, width, seed=seed).astype(np.float32)  # of full rank, and of fewer images than features
    x = np.concatenate([x[:150], x[150:] ** 2])
    other = moments.of(normal(250, width, seed=seed + 1)).gaussian()
    expected = frechet_distance(moments.of(x).gaussian(), other)
    order = np.random.default_rng(seed).permutation(300)
    parts = np.split(x[order], sorted(cuts))
    shuffled = moments.merge_all(map(moments.of, parts)).gaussian()
    assert frechet_distance(shuffled, other) == expected
    sums = Sums(width)
    for part in parts[::-1]:
        sums.add(part)
    assert frechet_distance(sums.moments().gaussian(), other) == expected


@pytest.mark.parametrize(("rows", "fold"), [(7, 2), (4096, 256), (50, 1)])
def test_block_sizes_change_no_bit(monkeypatch, rows, fold):
    x = np.concatenate([normal(60, 5), 1e5 * normal(50, 5)])  # blocks with two digits and with three
    expected = moments.of(x)
    monkeypatch.setattr(moments, "ROWS", rows)
    monkeypatch.setattr(moments, "_FOLD", fold)
    monkeypatch.setattr(moments, "_STRIP", 3)
    sums = Sums(5)
    for i in range(0, 110, 4):
        sums.add(x[i : i + 4])
    assert_same_bits(sums.moments(), expected)
    sums.add(x)  # goes on after an intermediate result
    assert_same_bits(sums.moments(), moments.merge(expected, expected))


def test_products_of_digits_stay_exact_where_they_are_largest():
    largest = np.full((moments.ROWS, 3), 2.0**19 * (1 + 2.0**20)) * 2.0**-30  # both digits at their bound
    units = 2**19 * (1 + 2**20)
    result = moments.of(largest)
    assert limbs.to_integers(result.total) == [moments.ROWS * units] * 3
    assert limbs.to_integers(result.gram) == [moments.ROWS * units**2] * 6


def test_an_empty_shard_changes_nothing():
    a, empty = moments.of(normal(5, 3)), moments.of(np.zeros((0, 3)))
    assert empty.count == 0
    assert moments.merge(a, empty) is a
    assert moments.merge(empty, a) is a
    assert_same_bits(empty, moments.of_none(3))


def test_a_batch_may_be_changed_once_it_is_added():
    sums, batch = Sums(3), normal(5, 3)
    expected = moments.of(batch)
    sums.add(batch)
    batch[:] = 0
    assert_same_bits(sums.moments(), expected)


def test_moments_survive_an_npz_file_bit_for_bit(tmp_path):
    m = moments.of(1e4 * normal(9, 4))
    np.savez(tmp_path / "m.npz", **moments.to_arrays(m))
    with np.load(tmp_path / "m.npz") as arrays:
        back = moments.from_arrays(arrays)
    assert type(back.count) is int
    assert_same_bits(back, m)


def test_moments_in_an_npz_file_are_checked():
    good = moments.to_arrays(moments.of(normal(9, 4)))
    with pytest.raises(DataError, match="gram missing among count, total"):
        moments.from_arrays({name: good[name] for name in ("count", "total")})
    with pytest.raises(DataError, match="total float32"):
        moments.from_arrays({**good, "total": good["total"].astype(np.float32)})
    with pytest.raises(DataError, match=r"count int64\(1,\)"):
        moments.from_arrays({**good, "count": np.array([9])})
    with pytest.raises(DataError, match=r"total \(1, 3\) and gram \(2, 10\)"):
        moments.from_arrays({**good, "total": good["total"][:, :3]})
    with pytest.raises(DataError, match="count = -1"):
        moments.from_arrays({**good, "count": np.array(-1)})
    with pytest.raises(DataError, match="limbs beyond 40 bits"):
        moments.from_arrays({**good, "gram": good["gram"] + 2**40})


# ------------------------------------------------------------------------------------------- errors


def test_features_that_are_not_finite_are_counted_and_the_first_is_named():
    x = normal(10, 3)
    x[4, 1], x[7, 0], x[7, 2] = NAN, INF, -INF
    with pytest.raises(DataError, match="features: 2 of 10 rows hold NaN or inf, the first is row 4"):
        moments.of(x)


@pytest.mark.parametrize("value", [2.0**28, -(2.0**28), 1e300])
def test_features_beyond_the_range_are_counted_and_the_first_is_named(value):
    x = normal(10, 3)
    x[3, 1] = x[8, 2] = value
    with pytest.raises(DataError, match=r"2 of 10 rows hold values beyond 2.68e\+08, the first is row 3"):
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
    with pytest.raises(DataError, match="4 per image after 3"):
        Sums(3).add(normal(5, 4))
    with pytest.raises(DataError, match="1 images; a covariance needs at least 2"):
        moments.of(normal(1, 3)).gaussian()
    with pytest.raises(DataError, match="0 images; a mean needs at least 1"):
        moments.of_none(3).mean()
    assert math.isclose(moments.of(normal(1, 3)).mean()[0], normal(1, 3)[0, 0], abs_tol=2**-30)
