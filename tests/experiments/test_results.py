"""What the package has stored, how it is kept, and the page that shows it."""

from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS, page
from memembed.experiments.journal import Journal
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


@pytest.fixture
def journal(tmp_path):
    def opened():
        return Journal(
            tmp_path / "journal.csv", ["name", "seed", "error"], ["name", "seed"]
        )

    return opened


def test_a_journal_is_read_again(journal):
    first = journal()
    first.append({"name": 'a "b", c', "seed": 0, "error": 0.1})
    first.append({"name": "d", "seed": 1, "error": None})
    for each in (first, journal()):
        assert {"name": "d", "seed": 1} in each
        assert {"name": "d", "seed": 0} not in each
        assert each[{"name": 'a "b", c', "seed": 0}]["error"] == "0.1"
        assert each[{"name": "d", "seed": 1}]["error"] == ""


@pytest.mark.parametrize("rest", ["d", "d,1,", 'd,1,"0.', "d,1,0.7"])
def test_a_row_that_was_never_finished_is_dropped_and_written_again(journal, rest):
    first = journal()
    first.append({"name": "a", "seed": 0, "error": 0.1})
    whole = first.path.read_bytes()
    first.path.write_bytes(whole + rest.encode())
    again = journal()
    assert again.path.read_bytes() == whole
    assert {"name": "d", "seed": 1} not in again
    again.append({"name": "d", "seed": 1, "error": 0.75})
    assert journal()[{"name": "d", "seed": 1}]["error"] == "0.75"


def test_a_journal_of_other_columns_is_refused_and_left_alone(tmp_path, journal):
    path = tmp_path / "journal.csv"
    path.write_text("name,error\na,0.1\n")
    with pytest.raises(ValueError, match=r"must have the columns .*'seed'.*Received"):
        journal()
    assert path.read_text() == "name,error\na,0.1\n"


def test_a_row_of_other_columns_is_refused(journal):
    with pytest.raises(ValueError, match=r"`row` must have the columns .*\['name'\]"):
        journal().append({"name": "a"})
