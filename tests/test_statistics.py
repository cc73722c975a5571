"""Statistics of a set: any batches and parts give the same bits; what is drawn; every error they raise."""

from __future__ import annotations

import dataclasses
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from synthaug.errors import ConfigError, DataError
from synthaug.metrics import moments, statistics
from synthaug.metrics.inception_score import inception_score
from synthaug.metrics.rows import shuffled_order
from synthaug.metrics.statistics import Accumulator, Draw, merge, merge_all

law = hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
DRAW = Draw(n=50, seed=3, splits=4, max_images=20, sizes=(10, 30))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


FEATURES, LOGITS, SPATIAL = normal(50, 5), normal(50, 7, seed=1), normal(50, 3, seed=2)


def part(index, draw=DRAW, batch=7):
    """Returns the statistics of the images of these numbers."""
    index, made = np.asarray(index, np.int64), Accumulator(draw)
    for i in range(0, max(len(index), 1), batch):
        some = index[i : i + batch]
        made.add(some, FEATURES[some], LOGITS[some], SPATIAL[some])
    return made.statistics()


WHOLE = statistics.of(DRAW, FEATURES, LOGITS, SPATIAL)


def assert_same(a, b):
    one, other = statistics.to_arrays(a), statistics.to_arrays(b)
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.tolist() == other[name].tolist(), name


def test_statistics_are_those_of_the_single_metrics():
    order = shuffled_order(50, 3)
    assert WHOLE.count == 50
    assert WHOLE.moments().gaussian().covariance.tolist() == (
        moments.of(FEATURES).gaussian().covariance.tolist()
    )
    for size in (10, 30):
        expected = moments.of(FEATURES[order[:size]])
        assert WHOLE.moments(size).count == size
        assert WHOLE.moments(size).gram.tolist() == expected.gram.tolist()
    assert WHOLE.spatial.gram.tolist() == moments.of(SPATIAL).gram.tolist()
    assert WHOLE.splits.score() == inception_score(LOGITS, 4, seed=3)
    assert WHOLE.numbers.tolist() == order[:20].tolist()
    np.testing.assert_array_equal(WHOLE.features, FEATURES[WHOLE.numbers])
    assert np.shares_memory(WHOLE.drawn(6), WHOLE.features)
    np.testing.assert_array_equal(WHOLE.drawn(20), FEATURES[order[:20]])
    np.testing.assert_array_equal(WHOLE.drawn(6), FEATURES[order[:6]])
    WHOLE.check_complete()


@law
@hypothesis.given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 50), max_size=4),
    st.integers(1, 60),
    st.randoms(use_true_random=False),
)
def test_batches_parts_and_their_order_change_no_bit(seed, cuts, batch, random):
    order = np.random.default_rng(seed).permutation(50)
    parts = [part(index, batch=batch) for index in np.split(order, sorted(cuts))]
    random.shuffle(parts)
    assert_same(merge_all(parts), WHOLE)
    while len(parts) > 1:
        a, b = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append(merge(a, b))
    assert_same(parts[0], WHOLE)
    parts[0].check_complete()


def test_features_are_kept_once(monkeypatch):
    """Neither a set that is encoded, in whatever order, nor a draw of it is held twice."""
    monkeypatch.setattr(moments, "ROWS", 64)  # of which sums hold some at a time
    n, width = 20_000, 50
    draw, rows = Draw(n=n, seed=0, splits=1, max_images=n), normal(n, width)
    parts = np.split(np.random.default_rng(0).permutation(n), 400)
    tracemalloc.start()
    made = Accumulator(draw)
    for index in parts:
        made.add(index, rows[index], None, None)
    drawn = made.statistics().drawn(n)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(drawn, rows[shuffled_order(n, 0)])
    assert rows.nbytes < peak < 1.5 * rows.nbytes


def test_a_file_gives_the_same_bits(tmp_path):
    alone = statistics.of(
        dataclasses.replace(DRAW, sizes=()), FEATURES
    )  # neither logits nor spatial features
    for made in (WHOLE, part([3, 4, 9]), alone):
        np.savez(tmp_path / "s.npz", **statistics.to_arrays(made))
        with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
            back = statistics.from_arrays(arrays)
        assert_same(back, made)
        assert back.draw == made.draw
        assert (back.spatial is None) == (made.spatial is None)
    with pytest.raises(DataError, match=r"\['draw', 'seen'\] missing"):
        statistics.from_arrays({"numbers": WHOLE.numbers, "features": WHOLE.features})
    good = statistics.to_arrays(WHOLE)
    for damage in ({"draw": np.array("{")}, {"draw": np.array("{}")}):
        with pytest.raises(DataError, match="the draw cannot be read"):
            statistics.from_arrays({**good, **damage})
    for damage in ({"seen": good["seen"][1:]}, {"numbers": good["numbers"][1:]}, {"features": good["seen"]}):
        with pytest.raises(DataError, match="expected arrays that belong together"):
            statistics.from_arrays({**good, **damage})
    for numbers in (np.sort(good["numbers"]), good["numbers"] + 50, good["numbers"].astype(float)):
        with pytest.raises(DataError, match="features do not stand by rank"):
            statistics.from_arrays({**good, "numbers": numbers})
    with pytest.raises(DataError, match="moments: count, total, gram missing"):
        arrays = statistics.to_arrays(WHOLE)
        statistics.from_arrays({name: array for name, array in arrays.items() if "band1" not in name})


def test_sizes_that_the_set_does_not_exceed_and_small_sets_need_no_draw():
    draw = Draw(n=50, seed=0, splits=1, max_images=1000, sizes=(50, 80, 20, 20))
    made = part(range(50), draw)
    assert draw.edges() == [20]
    assert sorted(made.numbers.tolist()) == list(range(50))
    with pytest.raises(DataError, match=r"no moments of 80 images; expected one of \[20\]"):
        made.moments(80)


def test_features_are_float32_however_they_come():
    wide = statistics.of(DRAW, FEATURES.astype(np.float64) + 1e-12, LOGITS, SPATIAL)
    assert wide.features.dtype == np.float32
    assert_same(wide, WHOLE)


def test_images_must_be_there_once_and_all():
    with pytest.raises(DataError, match="1 images stand in two parts, the first is image 9"):
        merge(part([3, 9]), part([9, 10]))
    with pytest.raises(DataError, match="1 images stand twice, the first is image 4"):
        part([4, 4])
    with pytest.raises(DataError, match="1 images stand twice, the first is image 5"):
        part([5, 6, 5], batch=2)
    with pytest.raises(DataError, match=r"1 of 50 images are missing, the first is image 7; encode"):
        part([i for i in range(50) if i != 7]).check_complete()
    with pytest.raises(DataError, match="image numbers 3 to 50 in a set of 50"):
        Accumulator(DRAW).add([3, 50], FEATURES[:2], None, None)


def test_arrays_must_belong_together():
    made = Accumulator(DRAW)
    with pytest.raises(DataError, match=r"2 image numbers for {'features': 3}"):
        made.add([0, 1], FEATURES[:3], None, None)
    with pytest.raises(DataError, match=r"2 image numbers for {'features': 2, 'logits': 1}"):
        made.add([0, 1], FEATURES[:2], LOGITS[:1], None)
    made.add([0, 1], FEATURES[:2], LOGITS[:2], None)
    with pytest.raises(DataError, match="logits of some images only"):
        made.add([2], FEATURES[:1], None, None)
    with pytest.raises(DataError, match="spatial features of some images only"):
        made.add([2], FEATURES[:1], LOGITS[:1], SPATIAL[:1])
    with pytest.raises(DataError, match="features: 3 per image after 5"):
        made.add([2], SPATIAL[:1], LOGITS[:1], None)
    with pytest.raises(DataError, match=r"against .*parts of one set"):
        merge(part([0]), part([1], dataclasses.replace(DRAW, seed=4)))
    with pytest.raises(DataError, match=r"against .*parts of one set"):
        merge(part([2]), made.statistics())
    with pytest.raises(DataError, match="found no image"):
        Accumulator(DRAW).statistics()
    with pytest.raises(DataError, match="found no part"):
        merge_all([])


def test_images_whose_features_are_not_finite_are_named():
    bad = FEATURES[10:20].copy()
    bad[4, 0], bad[6, 2] = np.nan, np.inf
    with pytest.raises(DataError, match="features: 2 of 10 rows hold NaN or inf, the first is image 14"):
        Accumulator(DRAW).add(np.arange(10, 20), bad, None, None)
    with pytest.raises(DataError, match="logits: 1 of 1 rows hold NaN or inf, the first is image 3"):
        Accumulator(DRAW).add([3], FEATURES[:1], np.full((1, 7), np.nan), None)


def test_a_draw_needs_images_for_its_splits():
    with pytest.raises(DataError, match="3 images do not fill 4 splits"):
        dataclasses.replace(DRAW, n=3)
    with pytest.raises(ConfigError, match="splits = 0"):
        dataclasses.replace(DRAW, splits=0)
    with pytest.raises(ConfigError, match="seed = -1"):
        dataclasses.replace(DRAW, seed=-1).ranks()
