"""Tests of which ratings and titles are found, and of the notes about them."""

import functools
import hashlib
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import nbclient
import nbformat
import pandas as pd
import pooch
import pytest
from jupyter_client import AsyncKernelManager

from memembed import data
from memembed.data import (
    format_ratings,
    goodbooks,
    load_ratings,
    load_titles,
    loading,
    movielens,
    prepare,
    synthetic_ratings,
)

small_ratings = functools.partial(synthetic_ratings, 50, 40, num_ratings=1200)
REAL = small_ratings(seed=1)  # stands for MovieLens 1M here
MOVIES = """\
1::Café, The (L'Été) (1995)::Comedy|Drama
47::Seven (Se7en): Part 1 (1995)::Crime
58::Postino, Il (The Postman) (1994)::Drama
124::Star Maker, The (Uomo delle stelle, L') (1995)::Drama
3952::Paris, Texas (1984)::Drama
""".encode("latin-1")
TITLES = {
    1: "The Café (L'Été) (1995)",
    47: "Seven (Se7en): Part 1 (1995)",
    58: "Il Postino (The Postman) (1994)",
    124: "The Star Maker (L'Uomo delle stelle) (1995)",
    3952: "Paris, Texas (1984)",
}
BOOKS = b"book_id,user_id,rating\n7,1,5\n7,2,3\n9,1,4\n7,1,2\n"


@pytest.fixture(autouse=True)
def isolated(monkeypatch):
    """No environment variables, no network, and few ratings."""
    monkeypatch.delenv("MEMEMBED_DATA_DIR", raising=False)
    monkeypatch.delenv("MEMEMBED_DATASET", raising=False)
    monkeypatch.setattr(loading, "download", no_download)
    monkeypatch.setattr(loading, "synthetic_ratings", small_ratings)
    monkeypatch.setattr(movielens, "COUNTS", (1200, 50, 40))
    monkeypatch.setattr(movielens, "NUM_TITLES", len(TITLES))


def no_download(url, sha256, folder):
    raise FileNotFoundError(f"{url} could not be downloaded")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    folder = tmp_path / "data"
    (folder / "ml-1m").mkdir(parents=True)
    monkeypatch.setenv("MEMEMBED_DATA_DIR", str(folder))
    return folder


def write_ratings(folder, ratings=REAL):
    path = folder / "ml-1m" / "ratings.dat"
    path.write_bytes(format_ratings(ratings))
    return path


def write_archive(monkeypatch, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/ratings.dat", format_ratings(REAL))
        archive.writestr("ml-1m/movies.dat", MOVIES)
    return pin(monkeypatch, movielens, path)


def write_books(monkeypatch, path):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ratings.csv", BOOKS)
    return pin(monkeypatch, goodbooks, path)


def pin(monkeypatch, source, path):
    """Make this file the one that `source` expects."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(source, "SHA256", sha256)
    return path


def assert_stand_in(ratings):
    assert ratings.attrs["dataset"] == "synthetic"
    pd.testing.assert_frame_equal(ratings, small_ratings())


def assert_books(ratings):
    """Check that the last rating of book 7 by user 1 is kept, and all others."""
    assert ratings.attrs["dataset"] == "goodbooks"
    assert ratings.columns.tolist() == ["user_id", "movie_id", "rating"]
    assert ratings.dtypes.astype(str).tolist() == ["int32", "int32", "float32"]
    assert ratings.values.tolist() == [[2, 7, 3], [1, 9, 4], [1, 7, 2]]


def assert_titles(titles, expected):
    assert (titles.name, titles.index.name) == ("title", "movie_id")
    assert titles.to_dict() == expected


def assert_real(ratings):
    assert ratings.attrs["dataset"] == "ml-1m"
    pd.testing.assert_frame_equal(ratings, REAL)


class TestDataset:
    """What MEMEMBED_DATASET asks for."""

    @pytest.mark.parametrize(
        "value", ["ml1m", "SYNTHETIC", "synthetic:", "synthetic:x", "synthetic:-1"]
    )
    def test_unknown(self, monkeypatch, value):
        monkeypatch.setenv("MEMEMBED_DATASET", value)
        with pytest.raises(ValueError, match=f"must be .* Received: '{value}'"):
            load_ratings()

    @pytest.mark.parametrize("dataset", [None, "ml-1m", "goodbooks"])
    def test_synthetic(self, monkeypatch, recwarn, capfd, dataset):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic")
        monkeypatch.setenv("MEMEMBED_DATA_DIR", "/no/such/folder")  # not looked at
        assert_stand_in(load_ratings(dataset))
        assert not recwarn
        assert capfd.readouterr() == ("", "")

    def test_synthetic_size(self, monkeypatch):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic:1300")
        assert len(load_ratings()) == 1300
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic:5")
        with pytest.raises(ValueError, match=r"=synthetic:5: .* from 1000 to 2000"):
            load_ratings()

    @pytest.mark.parametrize(
        ("variable", "dataset"),
        [("ml-1m", None), ("ml-1m", "goodbooks"), ("ml-1m", "ml-1m"), ("", "ml-1m")],
    )
    def test_real_or_nothing(self, monkeypatch, variable, dataset):
        monkeypatch.setenv("MEMEMBED_DATASET", variable)
        url = (goodbooks if dataset == "goodbooks" else movielens).URL
        refuses = "dataset='ml-1m'" if dataset == "ml-1m" else f"DATASET={variable}"
        message = f"{refuses} allows no stand-in, but {url} could not be .* set MEMEM"
        with pytest.raises(FileNotFoundError, match=message):
            load_ratings(dataset)

    @pytest.mark.parametrize(
        ("dataset", "title"),
        [(None, "MovieLens 1M"), ("goodbooks", "goodbooks-10k")],
    )
    def test_stand_in_warns_if_it_was_not_asked_for(self, dataset, title):
        message = f"synthetic, not {title}.* could not be .* set MEMEMBED_DATA_DIR"
        with pytest.warns(UserWarning, match=message) as record:
            assert_stand_in(load_ratings(dataset))
        assert [warning.filename for warning in record] == [__file__]

    @pytest.mark.parametrize("dataset", ["", "books", "synthetic"])
    def test_unknown_argument(self, monkeypatch, dataset):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic")
        with pytest.raises(ValueError, match=f"dataset must be .*: '{dataset}'"):
            load_ratings(dataset)


class TestLocalCopy:
    def test_order(self, monkeypatch, folder, tmp_path):
        cached = write_archive(monkeypatch, tmp_path / "cached.zip")
        wanted = movielens.URL, movielens.SHA256, pooch.os_cache("memembed")
        downloads = {wanted: cached}
        monkeypatch.setattr(loading, "download", lambda *args: downloads.pop(args))
        assert_real(load_ratings())  # and there is no second download
        archive = write_archive(monkeypatch, folder / "ml-1m.zip")
        assert_real(load_ratings())
        assert os.listdir(folder / "ml-1m") == []  # nothing is extracted
        write_ratings(folder)
        archive.write_bytes(b"not looked at")
        assert_real(load_ratings())

    def test_no_folder(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MEMEMBED_DATA_DIR", "gone")
        with pytest.raises(FileNotFoundError, match=f"DIR=gone.*{tmp_path / 'gone'}"):
            load_ratings()

    def test_empty_variables_count_as_unset(self, monkeypatch, folder):
        write_ratings(folder)
        monkeypatch.chdir(folder)  # an empty path would mean this folder
        monkeypatch.setenv("MEMEMBED_DATA_DIR", "")
        monkeypatch.setenv("MEMEMBED_DATASET", "")
        with pytest.warns(UserWarning, match="synthetic"):
            assert_stand_in(load_ratings())

    @pytest.mark.parametrize("damage", [lambda zip: zip[:-9], lambda zip: zip + b"x"])
    def test_damaged_archive(self, monkeypatch, folder, damage):
        path = write_archive(monkeypatch, folder / "ml-1m.zip")
        path.write_bytes(damage(path.read_bytes()))
        received = pooch.file_hash(path)
        message = f"{path} is .* expected .*{movielens.SHA256}, received {received}"
        with pytest.raises(ValueError, match=message):
            load_ratings()

    @pytest.mark.parametrize(
        ("ratings", "received"),
        [
            (REAL[:-1], "1,199 ratings of 50 users and 40"),
            (synthetic_ratings(49, 40, 1200), "1,200 ratings of 49 users and 40"),
            (synthetic_ratings(50, 39, 1200), "1,200 ratings of 50 users and 39"),
        ],
    )
    def test_incomplete_or_other_ratings(self, folder, ratings, received):
        path = write_ratings(folder, ratings)
        expected = "1,200 ratings of 50 users and 40 movies"
        message = f"{path} is .* expected {expected}, received {received} movies"
        with pytest.raises(ValueError, match=message):
            load_ratings()

    @pytest.mark.parametrize("name", ["ml-1m", "ml-1m/ratings.dat", "ml-1m.zip"])
    def test_broken_link(self, folder, name):
        if name == "ml-1m":
            (folder / name).rmdir()
        (folder / name).symlink_to(folder / "gone")
        message = f"{folder / name} is a broken link: there is no {folder / 'gone'}"
        with pytest.raises(FileNotFoundError, match=message):
            load_ratings()

    def test_repeated_ratings(self, folder):
        # Replace the sixth line by a second rating of the first user and movie.
        again = REAL[:1].assign(rating=6 - REAL.rating[0])
        repeated = pd.concat([REAL.drop(index=5), again])
        write_ratings(folder, repeated)
        with pytest.warns(UserWarning, match="1 of 1,200 ratings") as record:
            ratings = load_ratings()
        assert [warning.filename for warning in record] == [__file__]
        assert len(ratings) == 1199
        assert ratings.values.tolist() == repeated.values[1:].tolist()
        with warnings.catch_warnings(action="error"):
            prepare(ratings)


class TestGoodbooks:
    def test_order(self, monkeypatch, folder, tmp_path):
        cached = write_books(monkeypatch, tmp_path / "cached.zip")
        cache = pooch.os_cache("memembed") / "goodbooks"
        downloads = {(goodbooks.URL, goodbooks.SHA256, cache): cached}
        monkeypatch.setattr(loading, "download", lambda *args: downloads.pop(args))
        with pytest.warns(UserWarning, match="1 of 4 ratings") as record:
            assert_books(load_ratings("goodbooks"))  # and there is no second download
        assert [warning.filename for warning in record] == [__file__]
        write_books(monkeypatch, folder / "goodbooks" / "ratings.csv.zip")
        with pytest.warns(UserWarning, match="1 of 4 ratings"):
            assert_books(load_ratings("goodbooks"))

    def test_the_argument_wins(self, monkeypatch, folder):
        monkeypatch.setenv("MEMEMBED_DATASET", "ml-1m")
        write_books(monkeypatch, folder / "goodbooks" / "ratings.csv.zip")
        with pytest.warns(UserWarning, match="1 of 4 ratings"):
            assert_books(load_ratings("goodbooks"))

    @pytest.mark.parametrize("damage", [lambda zip: zip[:-9], lambda zip: BOOKS])
    def test_damaged_archive(self, monkeypatch, folder, damage):
        path = write_books(monkeypatch, folder / "goodbooks" / "ratings.csv.zip")
        path.write_bytes(damage(path.read_bytes()))
        message = f"{path} is .* expected .*{goodbooks.SHA256}, .*{goodbooks.URL} again"
        with pytest.raises(ValueError, match=message):
            load_ratings("goodbooks")


class TestTitles:
    MADE_UP = {i: f"Movie {i}" for i in range(1, 3953)}

    def test_order(self, monkeypatch, folder, tmp_path):
        cached = write_archive(monkeypatch, tmp_path / "cached.zip")
        wanted = movielens.URL, movielens.SHA256, pooch.os_cache("memembed")
        downloads = {wanted: cached}
        monkeypatch.setattr(loading, "download", lambda *args: downloads.pop(args))
        write_ratings(folder)  # not looked at
        assert_titles(load_titles(), TITLES)
        archive = write_archive(monkeypatch, folder / "ml-1m.zip")
        assert_titles(load_titles(), TITLES)
        (folder / "ml-1m" / "movies.dat").write_bytes(MOVIES)
        archive.write_bytes(b"not looked at")
        assert_titles(load_titles(), TITLES)

    def test_stand_in(self, monkeypatch, recwarn):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic:1300")
        assert_titles(load_titles(), self.MADE_UP)
        assert not recwarn

    def test_stand_in_that_was_not_asked_for(self):
        message = "titles are made up.* could not be .* set MEMEMBED_DATA_DIR"
        with pytest.warns(UserWarning, match=message) as record:
            assert_titles(load_titles(), self.MADE_UP)
        assert [warning.filename for warning in record] == [__file__]

    def test_real_or_nothing(self, monkeypatch):
        monkeypatch.setenv("MEMEMBED_DATASET", "ml-1m")
        with pytest.raises(FileNotFoundError, match="could not be downloaded"):
            load_titles()

    @pytest.mark.parametrize("damaged", [MOVIES[:-20], MOVIES.replace(b"::C", b"C")])
    def test_incomplete_or_broken(self, folder, damaged):
        path = folder / "ml-1m" / "movies.dat"
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=f"{path} is .* expected 5 .*received [34]"
        ):
            load_titles()


SETUP = """
import functools, sys, types
sys.modules["memembed"] = types.ModuleType("memembed")  # importing Keras takes seconds
sys.modules["memembed"].__path__ = [{package!r}]
import pandas as pd
from memembed.data import loading, prepare
loading.synthetic_ratings = functools.partial(loading.synthetic_ratings, 50, 40, 1200)
"""


def test_notes_in_a_notebook():
    package = str(Path(data.__file__).parents[1])
    cells = [
        SETUP.format(package=package),
        "print(len(loading.load_ratings()))",
        "movies = [*range(30), *[7] * 8]",
        "prepare(pd.DataFrame({'user_id': 1, 'movie_id': movies, 'rating': 3}));",
    ]
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    # Through files: a port can be taken by a kernel of another test that runs beside.
    with tempfile.TemporaryDirectory() as folder:  # `tmp_path` is too long for it
        kernel = AsyncKernelManager(transport="ipc", ip=f"{folder}/kernel")
        nbclient.NotebookClient(
            nbformat.v4.new_notebook(cells=cells), km=kernel, timeout=60
        ).execute(env=os.environ | {"MEMEMBED_DATASET": "synthetic"})

    stand_in, printed = cells[1].outputs
    assert (printed.name, printed.text) == ("stdout", "1200\n")
    (repeated,) = cells[3].outputs
    for note, text in (
        (stand_in, "These ratings are synthetic, not MovieLens 1M"),
        (repeated, "Dropped 8 of 38 ratings"),
    ):
        markdown = note.data["text/markdown"]
        assert markdown.startswith(f"> **{text}**")
        assert "\n" not in markdown  # a line break would end the quote
