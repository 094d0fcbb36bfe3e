"""What the package has stored, how it is kept, and the page that shows it."""

from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS, page
from memembed.experiments.results import stored


def test_every_part_of_the_benchmarks_is_stored():
    assert sorted(stored("machine").part) == sorted(PARTS)
    assert all(len(stored(part)) for part in PARTS)


def test_the_page_shows_what_is_stored():
    written = Path(__file__).parents[2] / "benchmarks" / "results.md"
    assert written.read_text(encoding="utf-8") == page()


def test_an_unknown_table():
    with pytest.raises(ValueError, match=r"`name` must be one of .*Received: name='x'"):
        stored("x")
