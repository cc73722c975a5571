"""Few-shot and long-tailed subsets."""

from __future__ import annotations

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from synthaug.data.subset import choose, class_sizes
from synthaug.errors import DataError
from synthaug.experiment.data import Subset

LABELS = st.lists(st.integers(0, 4), max_size=60).map(
    lambda more: np.array(more + [k for k in range(5) for _ in range(6)], np.int32)
)
SEEDS = st.integers(0, 2**31 - 1)
SUBSETS = st.builds(
    Subset,
    per_class=st.integers(0, 6),
    fraction=st.floats(0.01, 1.0),
    exponent=st.floats(0.0, 3.0),
)


@hypothesis.given(LABELS, st.integers(1, 5), SEEDS)
def test_few_shot_takes_the_same_number_of_each_class(labels, shots, seed):
    chosen = choose(labels, Subset(per_class=shots), seed)
    assert np.bincount(labels[chosen]).tolist() == [shots] * 5
    assert chosen.dtype == np.int64 and (np.diff(chosen) > 0).all()
    assert set(chosen) < set(choose(labels, Subset(per_class=shots + 1), seed))


@hypothesis.given(LABELS, SUBSETS, SEEDS, st.data())
def test_smaller_subsets_lie_inside_larger_ones(labels, subset, seed, data):
    larger = dataclasses.replace(
        subset,
        per_class=data.draw(st.integers(subset.per_class, 6)) if subset.per_class else 0,
        fraction=data.draw(st.floats(subset.fraction, 1.0)),
        exponent=data.draw(st.floats(0.0, subset.exponent)),
    )
    small, large = choose(labels, subset, seed), choose(labels, larger, seed)
    assert set(small) <= set(large) <= set(range(len(labels)))
    assert np.bincount(labels[small], minlength=5).min() >= 1
    assert np.array_equal(small, choose(labels, subset, seed))


@hypothesis.given(st.integers(1, 1000), st.integers(1, 100), SEEDS)
def test_fraction_is_rounded_up_exactly(count, percent, seed):
    size = class_sizes(np.array([count, count]), Subset(fraction=percent / 100), seed)
    assert size.tolist() == [-(-count * percent // 100)] * 2


def test_all_images_are_chosen_by_default():
    labels = np.array([2, 0, 1, 0], np.int32)
    assert choose(labels, Subset(), 7).tolist() == [0, 1, 2, 3]


def test_long_tail_follows_the_power_law_over_classes_in_random_order():
    labels = np.repeat(np.arange(10, dtype=np.int32), 1000)
    sizes = {}
    for seed in (0, 1):
        sizes[seed] = np.bincount(labels[choose(labels, Subset(exponent=1.0), seed)]).tolist()
        assert sorted(sizes[seed], reverse=True) == [-(-1000 // k) for k in range(1, 11)]
    assert sizes[0] != sizes[1]
    ten = choose(labels, Subset(per_class=10, exponent=1.0), 0)
    assert sorted(np.bincount(labels[ten])) == sorted(-(-10 // k) for k in range(1, 11))


def test_choice_depends_on_the_seed_and_is_the_same_in_every_version():
    labels = np.repeat(np.arange(3, dtype=np.int32), 50)
    assert not np.array_equal(choose(labels, Subset(per_class=5), 0), choose(labels, Subset(per_class=5), 1))
    # update by hand, and only with a note in the change log: it changes every few-shot result
    assert choose(labels, Subset(per_class=2), 0).tolist() == [0, 43, 54, 66, 102, 111]


def test_class_with_too_few_images_is_named():
    with pytest.raises(DataError, match=r"class 1 has 2 train images, per_class = 3; set per_class to 2"):
        choose(np.array([0, 0, 0, 1, 1], np.int32), Subset(per_class=3), 0)
