"""Precision, recall, density and coverage against brute force, with ties, duplicates and large offsets."""

from __future__ import annotations

import tracemalloc

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from synthaug.errors import ConfigError, DataError
from synthaug.metrics import distances, neighbours
from synthaug.metrics.neighbours import Shares, compare

law = hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
INF = float("inf")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def squared(a, b):
    """Returns f64[N,M], squared distances as sums of squared differences."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.array([np.square(b - row).sum(axis=1) for row in a])


def plain_radii(x, k):
    own = squared(x, x)
    np.fill_diagonal(own, INF)
    return np.sort(own, axis=1)[:, k - 1]


def radii_of(x, k):
    return neighbours.squared_radii(distances.place((x,))[0], k)


def plain(real, generated, k):
    """Returns the shares by the formulas of the papers, on the whole matrix."""
    between = squared(real, generated)
    in_real = between <= plain_radii(real, k)[:, None]
    in_generated = between <= plain_radii(generated, k)[None, :]
    return Shares(
        in_real.any(axis=0).mean(),
        in_generated.any(axis=1).mean(),
        in_real.sum() / (k * len(generated)),
        in_real.any(axis=1).mean(),
    )


@pytest.fixture(params=[None, 16], ids=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """Blocks of 8 by 16 distances are as exact as one of all."""
    if request.param:
        monkeypatch.setattr(distances, "ROWS", request.param // 2)
        monkeypatch.setattr(distances, "COLUMNS", request.param)
        monkeypatch.setattr(neighbours, "_EXACT_ROWS", 3)
        monkeypatch.setattr(neighbours, "_BIT_ROWS", 3)
        monkeypatch.setattr(distances, "_PAIRS", 5)


KINDS = {
    "normal": lambda n, width, seed: normal(n, width, seed=seed),
    "ties": lambda n, width, seed: np.round(normal(n, width, seed=seed)),
    "duplicates": lambda n, width, seed: normal(9, width, seed=seed % 2)[np.arange(n) % 9],
    "offset": lambda n, width, seed: normal(n, width, seed=seed) * 1e-4 + 1e4,
    "near equals": lambda n, width, seed: 1.0 + 1e-7 * np.round(normal(n, width, seed=seed)),
    "tiny": lambda n, width, seed: 1e-25 * normal(n, width, seed=seed),
    "huge": lambda n, width, seed: 1e25 * normal(n, width, seed=seed),
    "two far clusters": lambda n, width, seed: (
        normal(n, width, seed=seed) * 1e-3 + 1e4 * (np.arange(n) % 2)[:, None]
    ),
    "far outlier": lambda n, width, seed: normal(n, width, seed=seed) + 1e6 * (np.arange(n) == 3)[:, None],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m", "width", "k"), [(50, 61, 5, 3), (37, 90, 2, 1), (64, 33, 70, 5)])
def test_shares_are_those_of_the_whole_matrix_in_float64(blocks, kind, n, m, width, k):
    real, generated = KINDS[kind](n, width, 0), KINDS[kind](m, width, 1)
    assert compare(real, generated, k) == plain(real, generated, k)
    assert radii_of(real, k).tolist() == plain_radii(real, k).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_larger_set_of_narrow_features(dtype):
    real, generated = normal(700, 40).astype(dtype), (1.1 * normal(1500, 40, seed=1)).astype(dtype)
    assert compare(real, generated, 3) == plain(real, generated, 3)
    shares = compare(real, generated, 3)
    assert 0 < shares.precision < 1
    assert 0 < shares.recall < 1
    assert 0 < shares.coverage < 1


@law
@hypothesis.given(
    hnp.arrays(np.int64, st.tuples(st.integers(4, 40), st.just(2)), elements=st.integers(-2, 2)),
    hnp.arrays(np.int64, st.tuples(st.integers(4, 40), st.just(2)), elements=st.integers(-2, 2)),
    st.integers(1, 3),
)
def test_points_on_the_boundary_and_duplicates_count_as_inside(real, generated, k):
    assert compare(real, generated, k) == plain(real, generated, k)


@law
@hypothesis.given(st.integers(4, 12), st.integers(4, 12), st.integers(1, 3), st.integers(0, 10**6))
def test_small_sets_agree_with_brute_force(n, m, k, seed):
    real, generated = normal(n, 2, seed=seed), normal(m, 2, seed=seed + 1)
    assert compare(real, generated, k) == plain(real, generated, k)


def test_the_error_of_float32_is_within_its_bound():
    real, generated = KINDS["offset"](300, 40, 0), KINDS["offset"](300, 40, 1)
    points, others = distances.place((real, generated))
    assert points.squares.shape == others.squares.shape == (512,)
    product = np.asarray(points.block(0, 512)[0]) @ np.asarray(others.block(0, 512)[0]).T
    fast = points.squares[:, None] + others.squares[None] - 2 * product
    error = abs(fast[:300, :300].astype(np.float64) - squared(real, generated) * points.scale**2)
    scale = np.add.outer(*(p.squares[:300].astype(np.float64) for p in (points, others)))
    assert 0 < (error / scale).max() < distances.rounding(40)


def test_blocks_that_stay_on_an_accelerator_change_nothing(blocks, monkeypatch):
    real, generated = normal(60, 20), normal(45, 20, seed=1)
    expected = compare(real, generated, 3)
    monkeypatch.setattr(distances.jax, "default_backend", lambda: "gpu")
    placed = []
    inner = distances._place
    monkeypatch.setattr(distances, "_place", lambda *args: placed.append(inner(*args)) or placed[-1])
    assert compare(real, generated, 3) == expected
    assert all(points.kept for points in placed)
    assert placed[0].block(0, 8)[0] is placed[0].block(0, 8)[0]


def test_no_table_is_copied(monkeypatch):
    """Beside the features, a few of the blocks are there at a time: memory is O(D) per image otherwise."""
    monkeypatch.setattr(distances, "ROWS", 32)
    monkeypatch.setattr(distances, "COLUMNS", 64)
    real, generated = (normal(4000, 200, seed=seed).astype(np.float32) for seed in (0, 1))
    compare(real[:500], generated[:500], 3)  # compiles
    tracemalloc.start()
    shares = compare(real, generated, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < shares.precision < 1
    assert peak < real.nbytes / 2


def test_without_the_exact_decision_float32_is_wrong(monkeypatch):
    """So the tests above would notice if nothing were decided exactly."""
    real, generated = KINDS["two far clusters"](200, 30, 0), KINDS["two far clusters"](200, 30, 1)
    expected = plain(real, generated, 3)
    assert compare(real, generated, 3) == expected
    monkeypatch.setattr(neighbours, "_is_sure", lambda points, radii, rows, reach: np.ones(len(radii), bool))
    assert radii_of(real, 3).tolist() != plain_radii(real, 3).tolist()


def test_identical_sets_lie_in_each_other():
    x = normal(200, 16).astype(np.float32) + 1000.0
    shares = compare(x, x, 3)
    assert (shares.precision, shares.recall, shares.coverage) == (1.0, 1.0, 1.0)
    assert shares.density > 1.0


def test_disjoint_sets_share_nothing():
    assert compare(normal(50, 4), normal(60, 4, seed=1) + 100.0, 3) == Shares(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("width", [3, 64, 300])
def test_a_collapsed_generator_has_precision_one_and_covers_only_what_it_copies(blocks, width):
    """Generated balls have radius 0: matrix products round a duplicate's distance, so exact ones decide."""
    for seed in range(3):
        real = normal(50, width, seed=seed)
        shares = compare(real, np.repeat(real[5:9], 6, axis=0), 3)
        assert (shares.precision, shares.recall) == (1.0, 4 / 50)
        assert shares.density >= 1 / 3
        assert 4 / 50 <= shares.coverage < 1.0


def test_a_set_of_equal_images_is_no_case_of_its_own():
    same = np.full((300, 20), 0.1)
    assert compare(same, same, 3) == Shares(1.0, 1.0, 100.0, 1.0)
    assert compare(same, same + 1, 3) == Shares(0.0, 0.0, 0.0, 0.0)


def test_a_common_offset_changes_nothing():
    real, generated = (np.round(normal(60, 3, seed=seed) * 2**10) / 2**10 for seed in (0, 1))
    expected = compare(real, generated, 3)
    assert 0.0 < expected.precision < 1.0
    offset = 2.0**30  # added without rounding; its square has no digits left for the distances
    assert compare(real + offset, generated + offset, 3) == expected


def test_sets_without_neighbours_are_refused():
    with pytest.raises(DataError, match="3 images have no neighbour number 3"):
        compare(normal(3, 2), normal(9, 2), 3)
    with pytest.raises(DataError, match="0 images have no neighbour number 3"):
        compare(normal(9, 2), np.zeros((0, 2)), 3)
    with pytest.raises(ConfigError, match="neighbours = 0"):
        compare(normal(9, 2), normal(9, 2), 0)
    with pytest.raises(DataError, match="2 of real images against 3"):
        compare(normal(9, 2), normal(9, 3), 3)
    with pytest.raises(DataError, match="generated features: 9 of 9 rows"):
        compare(normal(9, 2), np.full((9, 2), INF), 3)
