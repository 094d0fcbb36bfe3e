import pytest

from memembed.experiments.journal import Journal, measure_and_keep


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.csv"


@pytest.fixture
def journal(path):
    return lambda: Journal(path, ["name", "seed", "error"], ["name", "seed"])


def test_a_journal_is_read_again(journal):
    first = journal()
    first.append({"name": 'a "b", c', "seed": 0, "error": 0.1})
    first.append({"name": "d", "seed": None, "error": None})
    for each in (first, journal()):
        assert {"name": "d", "seed": None} in each
        assert {"name": "d", "seed": 0} not in each
        assert each[{"name": 'a "b", c', "seed": 0}]["error"] == "0.1"
        assert each[{"name": "d", "seed": None}]["error"] == ""


@pytest.mark.parametrize("rest", ["d", "d,1,", 'd,1,"0.', "d,1,0.7", "é"])
def test_a_row_that_was_never_finished_is_dropped_and_written_again(journal, rest):
    first = journal()
    first.append({"name": "a", "seed": 0, "error": 0.1})
    whole = first.path.read_bytes()
    first.path.write_bytes(whole + rest.encode()[:-1])
    again = journal()
    assert again.path.read_bytes() == whole
    assert {"name": "d", "seed": 1} not in again
    again.append({"name": "d", "seed": 1, "error": 0.75})
    assert journal()[{"name": "d", "seed": 1}]["error"] == "0.75"


@pytest.mark.parametrize("half", ["", "na", "name,seed,error"])
def test_a_header_that_was_never_finished_is_written_again(path, journal, half):
    path.write_text(half)
    journal().append({"name": "a", "seed": 0, "error": 0.1})
    assert path.read_text() == "name,seed,error\na,0,0.1\n"


@pytest.mark.parametrize(
    "content",
    [
        b"name,error\na,0.1\n",
        b"something precious",
        b"\xff\xfe\n",
        b"name,seed,errors\n",
    ],
)
def test_a_file_that_is_something_else_is_refused_and_left_alone(
    path, journal, content
):
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"must be a table with the columns .*Received"
    ):
        journal()
    assert path.read_bytes() == content


def test_a_row_of_other_columns_is_refused(journal):
    with pytest.raises(ValueError, match=r"`row` must have the columns .*\['name'\]"):
        journal().append({"name": "a"})


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be in a folder"):
        Journal(tmp_path / "none" / "a.csv", ["a"], ["a"])


def add_a_row(journal):
    journal.append({"a": len(journal)})


def measure(name="study", rows=add_a_row):
    measure_and_keep(name, "Count.", ["a"], ["a"], rows)


def test_rows_go_to_the_checkout_or_to_the_path_that_is_given(tmp_path, monkeypatch):
    results = tmp_path / "memembed" / "experiments" / "results"
    results.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["study"])
    measure()
    assert (results / "study.csv").read_text() == "a\n0\n"
    monkeypatch.setattr("sys.argv", ["study", "--path", "a.csv"])
    measure()
    measure()
    assert (tmp_path / "a.csv").read_text() == "a\n0\n1\n"


def test_outside_a_checkout_a_path_must_be_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["study"])
    with pytest.raises(SystemExit):
        measure()
    assert "--path" in capsys.readouterr().err


def test_an_interruption_says_what_is_kept_and_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study", "--path", str(tmp_path / "a.csv")])

    def interrupted(journal):
        add_a_row(journal)
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match=r"a\.csv has 1 rows\. The same command"):
        measure(rows=interrupted)
    measure()
    assert (tmp_path / "a.csv").read_text() == "a\n0\n1\n"
