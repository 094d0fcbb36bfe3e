"""The lines of the figure that grows from chapter to chapter."""

import pytest

from memembed.experiments.frontiers import METHODS, frontiers, references


def test_each_model_is_larger_and_better_than_the_one_before():
    found = frontiers()
    assert list(found) == list(METHODS)
    for line in found.values():
        assert len(line) >= 2
        assert line.bytes.is_monotonic_increasing and line.bytes.is_unique
        assert line.mse.is_monotonic_decreasing and line.mse.is_unique


def test_only_the_methods_that_are_asked_for():
    assert list(frontiers("few bits", "hashing")) == ["few bits", "hashing"]
    with pytest.raises(ValueError, match=r"Received: \['pruning'\]"):
        frontiers("pruning")


def test_references_are_full_tables():
    for size, error in references().values():
        assert size > 2_400_000 and 0.7 < error < 0.75
