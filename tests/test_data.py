"""Tests of `memembed.data`: all on generated ratings, none on the network."""

import functools
import http.server
import io
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import textwrap
import threading
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memembed import data
from memembed.data import (
    Examples,
    Vocabulary,
    format_ratings,
    load_ratings,
    prepare,
    read_ratings,
    split,
    synthetic_ratings,
)

small_ratings = functools.partial(synthetic_ratings, 50, 40, 1200)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No variable of the caller's, no cache of the home, no server out there."""
    monkeypatch.delenv("MEMEMBED_DATA_DIR", raising=False)
    monkeypatch.delenv("MEMEMBED_DATASET", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(data, "ARCHIVE_URL", "http://127.0.0.1:9/ml-1m.zip")


@pytest.fixture(scope="module")
def full():
    return synthetic_ratings()


@pytest.fixture
def small_stand_in(monkeypatch):
    monkeypatch.setattr(data, "synthetic_ratings", small_ratings)


@pytest.fixture
def cached(tmp_path):
    return tmp_path / "cache" / "memembed" / "ml-1m.zip"


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def archive(monkeypatch):
    """The bytes of an archive that passes for the official one."""
    content = zipped(**{"ml-1m/ratings.dat": format_ratings(small_ratings(seed=1))})
    accept(monkeypatch, content)
    return content


def accept(monkeypatch, content):
    sha256 = pooch.hashes.hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(data, "ARCHIVE_SHA256", sha256)


class Server(http.server.ThreadingHTTPServer):
    """Sends `content`, or what is left of it after `breaks_after` bytes."""

    def __init__(self, content, status=200, breaks_after=None):
        self.content, self.status, self.breaks_after = content, status, breaks_after
        self.requests = 0
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, client_address):
        """Stay silent about clients that turn away."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.breaks_after])

    def log_message(self, *args):
        """Stay silent."""


@contextmanager
def serving(monkeypatch, content, certificate=None, **options):
    with Server(content, **options) as server:
        scheme = "http"
        if certificate:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"{scheme}://127.0.0.1:{server.server_port}/ml-1m.zip"
        monkeypatch.setattr(data, "ARCHIVE_URL", url)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def certificate(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    path = tmp_path / "server.pem"
    public = tmp_path / "public.pem"
    command = (
        "openssl req -x509 -nodes -days 1 -subj /CN=localhost -newkey ec "
        f"-pkeyopt ec_paramgen_curve:prime256v1 -keyout {path} -out {public}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + public.read_bytes())
    return path


def assert_stand_in(ratings):
    assert ratings.attrs["dataset"] == "synthetic"
    pd.testing.assert_frame_equal(ratings, small_ratings())


def assert_real(ratings):
    assert ratings.attrs["dataset"] == "ml-1m"
    pd.testing.assert_frame_equal(ratings, small_ratings(seed=1))


class TestReadRatings:
    def test_types_and_values(self):
        ratings = read_ratings(io.BytesIO(b"1::1193::5::978300760\n6040::7::1::0\n"))
        expected = pd.DataFrame(
            {
                "user_id": np.array([1, 6040], "int32"),
                "movie_id": np.array([1193, 7], "int32"),
                "rating": np.array([5, 1], "float32"),
            }
        )
        pd.testing.assert_frame_equal(ratings, expected)

    @pytest.mark.parametrize(
        "content",
        [
            b"1::2::3::4\n5::6::1::8\n",
            b"1::2::3::4\n5::6::1::8",
            b"1::2::3::4\r\n5::6::1::8\r\n",
            b"1::2::3::4\r\n5::6::1::8\r\n\r\n",
        ],
        ids=["LF", "no final newline", "CRLF", "empty lines at the end"],
    )
    def test_line_ends(self, content):
        assert read_ratings(io.BytesIO(content)).values.tolist() == [
            [1, 2, 3],
            [5, 6, 1],
        ]

    def test_path_and_string(self, tmp_path):
        path = tmp_path / "ratings.dat"
        path.write_bytes(b"1::2::3::4\n")
        assert read_ratings(path).equals(read_ratings(str(path)))

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            (b"", "found 1 field(s)"),
            (b"1::2::3", "found 3 field(s)"),
            (b"1::2::3::4::5", "found 5 field(s)"),
            (b"1,2,3,4", "found 1 field(s)"),
            (b"1,2::3::4::5", "user_id is not a whole number"),
            (b"1::2::3::", "timestamp is not a whole number"),
            (b"1:2::3::4::5", "user_id is not a whole number"),
            (b"1::2:::3::4", "rating is not a whole number"),
            (b"1::x::3::4", "movie_id is not a whole number"),
            (b"1::2::3.5::4", "rating is not a whole number"),
            (b"1::2::NA::4", "rating is not a whole number"),
            (b" 1::2::3::4", "user_id is not a whole number"),
            (b'"1"::2::3::4', "user_id is not a whole number"),
            (b"1::2::3\x00::4", "rating is not a whole number"),
            (b"-1::2::3::4", "user_id is not a whole number"),
            (b"0::2::3::4", "user_id must be from 1 to 2147483647"),
            (b"1::0::3::4", "movie_id must be from 1 to 2147483647"),
            (b"2147483648::2::3::4", "user_id must be from 1 to 2147483647"),
            (b"1::2147483648::3::4", "movie_id must be from 1 to 2147483647"),
            (b"1::2::0::4", "rating must be from 1 to 5"),
            (b"1::2::6::4", "rating must be from 1 to 5"),
            (b"1::2::3::9007199254740993", "timestamp must be from 0 to 9007"),
            (b"1::2::3::9223372036854775808", "timestamp must be from 0 to"),
            (b"9223372036854775809::2::3::4", "user_id must be from 1 to"),
            (b"18446744073709551617::2::3::4", "user_id is not a whole number"),
            (b"1" * 5000 + b"::2::3::4", "user_id is not a whole number"),
        ],
    )
    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_broken_line(self, tmp_path, line, fault, position):
        lines = [b"1::2::3::4", b"5::6::1::8"]
        lines.insert(position, line)
        path = tmp_path / "ratings.dat"
        path.write_bytes(b"\n".join(lines) + b"\n")
        if line == b"" and position == 2:
            return  # at the end, that is no broken line
        with pytest.raises(ValueError, match=re.escape(fault)) as raised:
            read_ratings(path)
        message = str(raised.value)
        assert message.startswith(f"{path}, line {position + 1}: ")
        assert message.endswith(f"Received: {line[:80]!r}")

    def test_all_lines_broken_alike(self):
        # A fifth field everywhere, which pandas alone would take for an index.
        with pytest.raises(ValueError, match=r"line 1: .* found 5 field"):
            read_ratings(io.BytesIO(b"1::2::3::4::5\n" * 3))

    @pytest.mark.parametrize("content", [b"", b"\n\r\n"])
    def test_empty(self, tmp_path, content):
        path = tmp_path / "ratings.dat"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is empty") as raised:
            read_ratings(path)
        assert str(path) in str(raised.value)

    def test_greatest_values(self):
        line = b"2147483647::2147483647::5::9007199254740992\n"
        ratings = read_ratings(io.BytesIO(line))
        assert ratings.values.tolist() == [[2**31 - 1, 2**31 - 1, 5]]

    @given(
        st.lists(
            st.from_regex(rb"[1-9][0-9]{0,3}::[1-9]::[1-5]::[0-9]{1,3}", fullmatch=True)
            | st.text("0123456789:", max_size=12).map(str.encode)
            | st.text(":12,- \"'#.ex\t\0", max_size=12).map(str.encode)
            | st.from_regex(rb"[0-9]{1,2}(::?[0-9]){2,4}", fullmatch=True),
            min_size=1,
            max_size=5,
        )
    )
    def test_reads_just_the_lines_that_are_whole(self, lines):
        whole = re.compile(rb"0*[1-9][0-9]*::0*[1-9][0-9]*::0*[1-5]::[0-9]+")
        content = b"\n".join(lines).rstrip(b"\n")
        lines = content.split(b"\n")
        broken = [n for n, line in enumerate(lines, 1) if not whole.fullmatch(line)]
        if broken:
            # The only line of an empty file has no number.
            place = f"line {broken[0]}:" if content else "empty"
            with pytest.raises(ValueError, match=place):
                read_ratings(io.BytesIO(content))
        else:
            expected = [[float(x) for x in line.split(b"::")[:3]] for line in lines]
            assert read_ratings(io.BytesIO(content)).values.tolist() == expected

    def test_whole_lines_are_not_read_one_by_one(self, monkeypatch):
        monkeypatch.delattr(data, "_fault")
        assert len(read_ratings(io.BytesIO(b"1::2::3::4\n" * 1000))) == 1000


class TestFormatRatings:
    def test_inverse_of_reading(self):
        ratings = small_ratings()
        content = format_ratings(ratings)
        assert content.startswith(b"1::")
        assert content.endswith(b"::0\n")
        pd.testing.assert_frame_equal(read_ratings(io.BytesIO(content)), ratings)

    def test_nothing_is_rounded(self):
        ratings = pd.DataFrame({"user_id": [1], "movie_id": [2], "rating": [3.5]})
        assert format_ratings(ratings) == b"1::2::3.5::0\n"


class TestSyntheticRatings:
    def test_size(self, full):
        assert len(full) == 1_000_209
        assert full.user_id.unique().tolist() == list(range(1, 6041))  # sorted, too
        assert sorted(full.movie_id.unique()) == list(range(1, 3707))
        assert not full.duplicated(["user_id", "movie_id"]).any()
        assert full.dtypes.astype(str).to_dict() == {
            "user_id": "int32",
            "movie_id": "int32",
            "rating": "float32",
        }
        assert full.attrs == {"dataset": "synthetic"}

    def test_activity_and_popularity_are_those_of_movielens(self, full):
        activity = full.user_id.value_counts()
        assert activity.min() >= 20
        assert activity.median() == pytest.approx(96, rel=0.1)
        assert 1500 < activity.max() < 3000
        popularity = full.movie_id.value_counts()
        assert popularity.min() == 1
        assert popularity.median() == pytest.approx(123.5, rel=0.15)
        assert popularity.quantile(0.99) == pytest.approx(1785, rel=0.1)
        assert 2500 < popularity.max() < 4000

    def test_ratings_are_those_of_movielens(self, full):
        shares = full.rating.value_counts(normalize=True).sort_index()
        assert shares.index.tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(
            shares, [0.0562, 0.1075, 0.2611, 0.3489, 0.2263], atol=0.001
        )
        movies = full.groupby("movie_id").rating.agg(["size", "mean"])
        by_popularity = movies.sort_values("size")["mean"].to_numpy()
        rare, popular = np.array_split(by_popularity, 5)[::4]
        assert popular.mean() - rare.mean() == pytest.approx(0.68, abs=0.15)

    def test_models_do_as_well_as_on_movielens(self, full):
        # Least squares on MovieLens 1M: .907 with biases alone, .888 with one
        # column besides, .862 with eight.
        user, movie = full.user_id.to_numpy() - 1, full.movie_id.to_numpy() - 1
        rating = full.rating.to_numpy("float64")
        rng = np.random.default_rng(0)
        test = rng.random(len(full)) < 0.15
        train_user, train_movie = user[~test], movie[~test]

        def sums(rows, values):
            return np.bincount(rows, values)

        mean = rating[~test].mean()
        bias = np.zeros(6040), np.zeros(3706)
        for _ in range(8):
            rest = rating[~test] - mean
            bias[1][:] = sums(train_movie, rest - bias[0][train_user])
            bias[1][:] /= np.bincount(train_movie, minlength=3706) + 3
            bias[0][:] = sums(train_user, rest - bias[1][train_movie])
            bias[0][:] /= np.bincount(train_user, minlength=6040) + 5
        error = rating - mean - bias[0][user] - bias[1][movie]

        def rmse():
            return np.sqrt(np.mean(error[test] ** 2))

        errors = [rmse()]
        for _ in range(8):  # one column at a time, fitted to what is left
            rest, q = error[~test], rng.normal(size=3706)
            for _ in range(12):
                known = q[train_movie]
                p = sums(train_user, rest * known) / (sums(train_user, known**2) + 8)
                known = p[train_user]
                q = sums(train_movie, rest * known) / (sums(train_movie, known**2) + 8)
                p, q = p / np.sqrt(p.std() / q.std()), q * np.sqrt(p.std() / q.std())
            error -= p[user] * q[movie]
            errors.append(rmse())
        assert errors[0] == pytest.approx(0.91, abs=0.01)
        assert errors[1] == pytest.approx(0.888, abs=0.01)
        assert errors[8] == pytest.approx(0.865, abs=0.01)

    def test_seed(self):
        assert small_ratings().equals(small_ratings())
        assert not small_ratings().equals(small_ratings(seed=1))

    @settings(max_examples=50)
    @given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 9))
    def test_any_size(self, num_users, num_movies, fullness, seed):
        least_active = min(20, num_movies)
        least = max(least_active * num_users, num_movies)
        size = least + round(fullness * (num_users * num_movies - least))
        ratings = synthetic_ratings(num_users, num_movies, size, seed)
        assert len(ratings) == size
        assert not ratings.duplicated(["user_id", "movie_id"]).any()
        assert (ratings.user_id.value_counts() >= least_active).all()
        assert set(ratings.user_id) == set(range(1, num_users + 1))
        assert set(ratings.movie_id) == set(range(1, num_movies + 1))
        assert ratings.rating.isin([1, 2, 3, 4, 5]).all()

    @pytest.mark.parametrize("num_ratings", [999, 2001])
    def test_impossible_number(self, num_ratings):
        message = f"num_ratings must be from 1000 to 2000 .* Received: {num_ratings}"
        with pytest.raises(ValueError, match=message):
            synthetic_ratings(50, 40, num_ratings)

    def test_one_rating_a_movie_at_the_least(self):
        with pytest.raises(ValueError, match="num_ratings must be from 40 to 40 "):
            synthetic_ratings(1, 40, 39)
        with pytest.raises(ValueError, match="num_ratings must be from 100 to 200 "):
            synthetic_ratings(2, 100, 99)

    @pytest.mark.parametrize("name", ["num_users", "num_movies"])
    def test_impossible_size(self, name):
        with pytest.raises(ValueError, match=f"{name} must be positive. Received: 0"):
            synthetic_ratings(**{name: 0})


class TestDataset:
    """What MEMEMBED_DATASET asks for."""

    @pytest.mark.parametrize(
        "value", ["ml1m", "SYNTHETIC", "synthetic:", "synthetic:x", "synthetic:-1"]
    )
    def test_unknown(self, monkeypatch, value):
        monkeypatch.setenv("MEMEMBED_DATASET", value)
        with pytest.raises(ValueError, match="MEMEMBED_DATASET must be") as raised:
            load_ratings()
        assert str(raised.value).endswith(f"Received: {value!r}")

    def test_synthetic(self, monkeypatch, small_stand_in, recwarn, capfd):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic")
        assert_stand_in(load_ratings())
        assert not recwarn
        assert capfd.readouterr() == ("", "")

    def test_synthetic_beats_a_local_copy(self, monkeypatch, small_stand_in):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic")
        monkeypatch.setenv("MEMEMBED_DATA_DIR", "/no/such/folder")
        assert_stand_in(load_ratings())

    def test_synthetic_size(self, monkeypatch):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic:130000")
        ratings = load_ratings()
        assert len(ratings) == 130_000
        assert (ratings.user_id.max(), ratings.movie_id.max()) == (6040, 3706)

    def test_synthetic_goes_through_the_parser(self, monkeypatch, small_stand_in):
        contents = []

        def spy(source):
            contents.append(source.read())
            return read_ratings(io.BytesIO(contents[0]))

        monkeypatch.setattr(data, "read_ratings", spy)
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic")
        load_ratings()
        assert contents == [format_ratings(small_ratings())]

    def test_synthetic_impossible_size(self, monkeypatch):
        monkeypatch.setenv("MEMEMBED_DATASET", "synthetic:5")
        message = "MEMEMBED_DATASET=synthetic:5: num_ratings must be from 120800 "
        with pytest.raises(ValueError, match=message):
            load_ratings()

    def test_real_or_nothing(self, monkeypatch):
        monkeypatch.setenv("MEMEMBED_DATASET", "ml-1m")
        with pytest.raises(FileNotFoundError) as raised:
            load_ratings()
        assert str(raised.value) == (
            "MEMEMBED_DATASET=ml-1m, but http://127.0.0.1:9/ml-1m.zip could not be "
            "downloaded (ConnectionError). Download https://files.grouplens.org/"
            "datasets/movielens/ml-1m.zip and set MEMEMBED_DATA_DIR to the folder that "
            "holds it."
        )

    def test_stand_in_warns_where_it_was_not_asked_for(self, small_stand_in):
        with pytest.warns(UserWarning, match="synthetic, not MovieLens 1M") as record:
            assert_stand_in(load_ratings())
        assert len(record) == 1
        assert record[0].filename == __file__
        assert "could not be downloaded (ConnectionError)" in str(record[0].message)
        assert "set MEMEMBED_DATA_DIR" in str(record[0].message)


class TestLocalCopy:
    @pytest.fixture
    def folder(self, monkeypatch, tmp_path):
        folder = tmp_path / "data"
        (folder / "ml-1m").mkdir(parents=True)
        monkeypatch.setenv("MEMEMBED_DATA_DIR", str(folder))
        return folder

    def test_ratings(self, folder):
        content = format_ratings(small_ratings(seed=1))
        (folder / "ml-1m" / "ratings.dat").write_bytes(content)
        assert_real(load_ratings())

    def test_archive(self, folder, archive):
        (folder / "ml-1m.zip").write_bytes(archive)
        assert_real(load_ratings())
        assert os.listdir(folder / "ml-1m") == []

    def test_ratings_before_archive(self, folder):
        content = format_ratings(small_ratings(seed=1))
        (folder / "ml-1m" / "ratings.dat").write_bytes(content)
        (folder / "ml-1m.zip").write_bytes(b"not looked at")
        assert_real(load_ratings())

    def test_before_the_cache(self, folder, archive, cached):
        cached.parent.mkdir(parents=True)
        cached.write_bytes(archive)
        (folder / "ml-1m" / "ratings.dat").write_bytes(b"1::2::3::4\n")
        assert len(load_ratings()) == 1

    def test_home_is_expanded(self, monkeypatch, folder):
        content = format_ratings(small_ratings(seed=1))
        (folder / "ml-1m" / "ratings.dat").write_bytes(content)
        monkeypatch.setenv("HOME", str(folder.parent))
        monkeypatch.setenv("USERPROFILE", str(folder.parent))
        monkeypatch.setenv("MEMEMBED_DATA_DIR", "~/data")
        assert_real(load_ratings())

    def test_no_folder(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MEMEMBED_DATA_DIR", "gone")
        with pytest.raises(FileNotFoundError) as raised:
            load_ratings()
        path = tmp_path / "gone"
        message = f"MEMEMBED_DATA_DIR=gone, but there is no folder {path}."
        assert str(raised.value) == message

    def test_nothing_in_it(self, folder, archive, cached):
        cached.parent.mkdir(parents=True)
        cached.write_bytes(archive)
        assert_real(load_ratings())

    def test_empty_variables_count_as_unset(self, monkeypatch, folder, small_stand_in):
        (folder / "ml-1m" / "ratings.dat").write_bytes(b"1::2::3::4\n")
        monkeypatch.chdir(folder)  # which an empty path would mean
        monkeypatch.setenv("MEMEMBED_DATA_DIR", "")
        monkeypatch.setenv("MEMEMBED_DATASET", "")
        with pytest.warns(UserWarning, match="synthetic"):
            assert_stand_in(load_ratings())

    def test_broken_ratings(self, folder):
        path = folder / "ml-1m" / "ratings.dat"
        path.write_bytes(b"1::2::3::4\n1::2::3")
        with pytest.raises(ValueError, match="line 2: ") as raised:
            load_ratings()
        assert str(path) in str(raised.value)

    @pytest.mark.parametrize("damage", [lambda zip: zip[:-9], lambda zip: zip + b"x"])
    def test_damaged_archive(self, folder, archive, damage):
        path = folder / "ml-1m.zip"
        path.write_bytes(damage(archive))
        with pytest.raises(ValueError, match="is damaged or another") as raised:
            load_ratings()
        message = str(raised.value)
        assert message.startswith(str(path))
        assert f"expected SHA-256 {data.ARCHIVE_SHA256}" in message
        assert f"received {pooch.file_hash(path)}" in message
        assert "Delete it" in message

    def test_archive_without_ratings(self, monkeypatch, folder):
        content = zipped(**{"ml-1m/movies.dat": b""})
        accept(monkeypatch, content)
        (folder / "ml-1m.zip").write_bytes(content)
        with pytest.raises(ValueError, match=r"ml-1m\.zip holds no ml-1m/ratings\.dat"):
            load_ratings()

    def test_archive_that_climbs_out(self, monkeypatch, folder):
        content = zipped(
            **{
                "../../escaped": b"x",
                "/tmp/memembed-escaped": b"x",
                "ml-1m/ratings.dat": format_ratings(small_ratings(seed=1)),
            }
        )
        accept(monkeypatch, content)
        (folder / "ml-1m.zip").write_bytes(content)
        before = set(folder.parent.rglob("*"))
        assert_real(load_ratings())
        assert set(folder.parent.rglob("*")) == before
        assert not Path("/tmp/memembed-escaped").exists()


class TestDownload:
    @pytest.fixture(autouse=True)
    def real_or_nothing(self, monkeypatch):
        monkeypatch.setenv("MEMEMBED_DATASET", "ml-1m")

    def test_once(self, monkeypatch, archive, cached, capfd):
        with serving(monkeypatch, archive) as server:
            assert_real(load_ratings())
            assert_real(load_ratings())
        assert server.requests == 1
        assert os.listdir(cached.parent) == ["ml-1m.zip"]
        assert capfd.readouterr() == ("", "")

    def test_without_a_word(self, monkeypatch, archive, caplog):
        logger = pooch.get_logger()
        logger.setLevel(logging.INFO)
        monkeypatch.setattr(logger, "handlers", [caplog.handler])
        with serving(monkeypatch, archive):
            load_ratings()
        assert not caplog.records
        assert logger.level == logging.INFO

    def test_progress_on_a_terminal(self, monkeypatch, archive, capsys):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with serving(monkeypatch, archive):
            load_ratings()
        assert "100%" in capsys.readouterr().err

    def test_wrong_bytes(self, monkeypatch, archive, cached):
        message = r"http://127.0.0.1:\d+/ml-1m.zip sent something else \(its SHA-256"
        with (
            serving(monkeypatch, archive + b"x"),
            pytest.raises(FileNotFoundError, match=message),
        ):
            load_ratings()
        assert os.listdir(cached.parent) == []

    def test_error_page(self, monkeypatch, archive, cached):
        with (
            serving(monkeypatch, archive, status=503),
            pytest.raises(FileNotFoundError, match=r"downloaded \(HTTPError\)"),
        ):
            load_ratings()
        assert os.listdir(cached.parent) == []

    def test_broken_off(self, monkeypatch, archive, cached):
        half = len(archive) // 2
        with (
            serving(monkeypatch, archive, breaks_after=half) as server,
            pytest.raises(FileNotFoundError, match="could not be downloaded"),
        ):
            load_ratings()
        assert os.listdir(cached.parent) == []
        with serving(monkeypatch, archive) as server:
            assert_real(load_ratings())
        assert server.requests == 1

    def test_damaged_cache_is_replaced(self, monkeypatch, archive, cached):
        cached.parent.mkdir(parents=True)
        cached.write_bytes(archive[:100])
        with serving(monkeypatch, archive):
            assert_real(load_ratings())
        assert cached.read_bytes() == archive

    def test_damaged_cache_and_no_server(self, archive, cached):
        cached.parent.mkdir(parents=True)
        cached.write_bytes(archive[:100])
        with pytest.raises(FileNotFoundError, match="could not be downloaded"):
            load_ratings()

    def test_untrusted_certificate(
        self, monkeypatch, archive, certificate, recwarn, capfd
    ):
        with serving(monkeypatch, archive, certificate) as server:
            assert_real(load_ratings())
        assert server.requests == 1
        assert not recwarn
        assert capfd.readouterr() == ("", "")

    def test_untrusted_certificate_and_wrong_bytes(
        self, monkeypatch, archive, certificate, cached
    ):
        with (
            serving(monkeypatch, archive + b"x", certificate),
            pytest.raises(FileNotFoundError, match="sent something else"),
        ):
            load_ratings()
        assert os.listdir(cached.parent) == []

    def test_no_cache_folder(self, tmp_path, cached):
        (tmp_path / "cache").write_bytes(b"a file is in the way")
        with pytest.raises(FileNotFoundError) as raised:
            load_ratings()
        reason = f"the cache folder {cached.parent} could not be used ("
        assert str(raised.value).startswith(f"MEMEMBED_DATASET=ml-1m, but {reason}")
        assert "set MEMEMBED_DATA_DIR to the folder" in str(raised.value)

    def test_no_cache_folder_and_no_demand(
        self, monkeypatch, tmp_path, cached, small_stand_in
    ):
        monkeypatch.delenv("MEMEMBED_DATASET")
        (tmp_path / "cache").write_bytes(b"a file is in the way")
        with pytest.warns(UserWarning, match="synthetic") as record:
            assert_stand_in(load_ratings())
        assert f"the cache folder {cached.parent}" in str(record[0].message)

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() == 0,
        reason="root may write anywhere",
    )
    def test_read_only_cache_folder(self, archive, cached):
        cached.parent.mkdir(parents=True)
        cached.parent.chmod(0o500)
        message = r"could not be used \(PermissionError\)"
        with pytest.raises(FileNotFoundError, match=message):
            load_ratings()

    def test_other_warnings_stay_on(self, monkeypatch, archive, certificate):
        with serving(monkeypatch, archive, certificate):
            load_ratings()
        with pytest.warns(UserWarning, match="Unverified HTTPS request"):
            warnings.warn("Unverified HTTPS request", stacklevel=1)


class TestNotebook:
    SETUP = """
        import functools, os, pooch
        from memembed import data
        data.synthetic_ratings = functools.partial(data.synthetic_ratings, 50, 40, 1200)
        pooch.os_cache = lambda name: os.environ["CACHE"]
    """

    def test_the_page_says_so(self, tmp_path):
        nbclient = pytest.importorskip("nbclient")
        nbformat = pytest.importorskip("nbformat")
        # The cache folder cannot be made, so that the server is not even asked.
        (tmp_path / "file").touch()
        cache = str(tmp_path / "file" / "cache")
        cells = [
            textwrap.dedent(self.SETUP),
            "print(len(data.load_ratings()))",
            "os.environ['MEMEMBED_DATASET'] = 'synthetic'",
            "print(len(data.load_ratings()))",
        ]
        cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        root = str(Path(data.__file__).parents[1])
        nbclient.NotebookClient(
            nbformat.v4.new_notebook(cells=cells), kernel_name="python3", timeout=60
        ).execute(env=os.environ | {"PYTHONPATH": root, "CACHE": cache})

        bold = "> **These ratings are synthetic, not MovieLens 1M**, "
        notice, printed = cells[1].outputs
        assert notice.output_type == "display_data"
        markdown = notice.data["text/markdown"]
        assert markdown.startswith(bold)
        assert f"the cache folder {cache} could not be used" in markdown
        assert "set MEMEMBED_DATA_DIR" in markdown
        assert "\n" not in markdown  # or the quote ends there
        assert (printed.name, printed.text) == ("stdout", "1200\n")

        notice, printed = cells[3].outputs
        assert notice.data["text/markdown"].startswith(bold)
        assert "MEMEMBED_DATASET=synthetic asks for them." in str(notice.data)
        assert (printed.name, printed.text) == ("stdout", "1200\n")

    def test_no_ipython_is_imported(self):
        code = (
            "import sys, memembed.data; memembed.data._in_notebook()\n"
            "print([name for name in ('IPython', 'keras') if name in sys.modules])"
        )
        root = Path(data.__file__).parents[1]
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
        )
        assert (result.stdout, result.stderr) == ("[]\n", "")


class TestVocabulary:
    def test_most_popular_first(self):
        vocabulary = Vocabulary([30, 10, 20, 20, 30, 20])
        assert vocabulary.ids.tolist() == [20, 30, 10]
        assert vocabulary.counts.tolist() == [3, 2, 1]
        assert vocabulary.counts.dtype == "int64"
        assert len(vocabulary) == 3

    def test_ties_in_ascending_order(self):
        ids = np.random.default_rng(0).permutation(100)
        assert Vocabulary(ids).ids.tolist() == list(range(100))

    def test_untrained_ids_come_last(self):
        vocabulary = Vocabulary([9, 9, 7], catalogue=[9, 8, 7, 1, 8])
        assert vocabulary.ids.tolist() == [9, 7, 1, 8]
        assert vocabulary.counts.tolist() == [2, 1, 0, 0]

    def test_training_id_outside_the_catalogue(self):
        with pytest.raises(ValueError, match=r"all be in catalogue. .*: 3, 4$"):
            Vocabulary([1, 3, 4, 3], catalogue=[1, 2])

    @pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0)])
    def test_shapes(self, shape):
        vocabulary = Vocabulary([5, 5, 3])
        rows = vocabulary.encode(np.full(shape, 3))
        assert rows.shape == shape
        assert rows.dtype == "int32"
        assert (rows == 1).all()
        ids = vocabulary.decode(rows)
        assert ids.shape == shape
        assert (ids == 3).all()

    def test_scalar(self):
        vocabulary = Vocabulary([5, 5, 3])
        assert repr(vocabulary.encode(3)) == "np.int32(1)"
        assert repr(vocabulary.decode(1)) == "np.int64(3)"

    @pytest.mark.parametrize("make", [list, np.array, pd.Series, pd.Categorical])
    def test_strings(self, make):
        vocabulary = Vocabulary(make(["b", "a", "b"]), catalogue=make(["c", "b", "a"]))
        assert vocabulary.ids.tolist() == ["b", "a", "c"]
        assert vocabulary.encode(make(["c", "b"])).tolist() == [2, 0]
        assert vocabulary.encode("a") == 1
        assert vocabulary.decode([1, 2]).tolist() == ["a", "c"]
        with pytest.raises(ValueError, match=r"not in the vocabulary: 'd', 'e'$"):
            vocabulary.encode(make(["a", "d", "e"]))

    @given(
        st.lists(st.integers(-(2**40), 2**40), min_size=1)
        | st.lists(st.text("abcé", max_size=3), min_size=1)
    )
    def test_round_trip(self, ids):
        vocabulary = Vocabulary(ids)
        assert vocabulary.decode(vocabulary.encode(ids)).tolist() == ids
        assert vocabulary.counts.tolist() == [ids.count(i) for i in vocabulary.ids]
        order = list(zip(-vocabulary.counts, vocabulary.ids, strict=True))
        assert order == sorted(order)
        rows = range(len(vocabulary))
        assert vocabulary.encode(vocabulary.ids).tolist() == list(rows)

    def test_unknown_ids(self):
        vocabulary = Vocabulary([1, 2])
        message = "ids not in the vocabulary: 9, 8, 7, 6, 5, ...$"
        with pytest.raises(ValueError, match=message):
            vocabulary.encode([[1, 9, 8, 9], [7, 6, 5, 4]])
        with pytest.raises(ValueError, match=r"ids not in the vocabulary: 9$"):
            vocabulary.encode(9)
        with pytest.raises(ValueError, match=r"ids not in the vocabulary: '1'$"):
            vocabulary.encode("1")

    def test_out_of_vocabulary_row(self):
        vocabulary = Vocabulary([2, 1, 2], catalogue=[1, 2, 3], num_oov_indices=1)
        assert len(vocabulary) == 4
        assert vocabulary.ids.tolist() == [2, 1, 3]
        assert vocabulary.counts.tolist() == [2, 1, 0, 0]
        assert vocabulary.encode([[3, 99], [2, -1]]).tolist() == [[2, 3], [0, 3]]
        assert vocabulary.encode(99) == 3

    @pytest.mark.parametrize("value", [-1, 2, None])
    def test_number_of_out_of_vocabulary_rows(self, value):
        message = f"num_oov_indices must be 0 or 1. Received: {value}"
        with pytest.raises(ValueError, match=message):
            Vocabulary([1], num_oov_indices=value)

    @pytest.mark.parametrize("row", [-1, 2, 3])
    def test_rows_without_an_id(self, row):
        vocabulary = Vocabulary([1, 2], num_oov_indices=1)
        message = f"rows must be from 0 to 1 to have an id. Received: {row}$"
        with pytest.raises(ValueError, match=message):
            vocabulary.decode([0, row])
        with pytest.raises(ValueError, match=message):
            vocabulary.decode(row)

    def test_read_only(self):
        vocabulary = Vocabulary([1, 2])
        for array in (vocabulary.ids, vocabulary.counts):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 5

    def test_repr(self):
        assert repr(Vocabulary([4, 3, 3])) == (
            "Vocabulary(2 rows, most popular first: 3, 4)"
        )
        assert len(repr(Vocabulary(range(1000)))) < 80


class TestSplit:
    def test_disjoint_and_complete(self):
        ratings = small_ratings()
        parts = split(ratings, seed=3)
        assert [len(part) for part in parts] == [960, 60, 180]
        pd.testing.assert_frame_equal(pd.concat(parts).sort_index(), ratings)
        for part in parts:
            assert part.index.is_monotonic_increasing
            assert part.attrs == {"dataset": "synthetic"}
            pd.testing.assert_frame_equal(part, ratings.loc[part.index])
        assert parts.evaluation is parts[2]

    def test_seed(self):
        ratings = small_ratings()
        first, again, other = (
            split(ratings, seed=seed).evaluation for seed in (0, 0, 1)
        )
        assert first.equals(again)
        assert not first.index.equals(other.index)

    def test_drawn_from_everywhere(self):
        position = split(small_ratings()).evaluation.index.to_numpy()
        assert np.histogram(position, bins=4, range=(0, 1200))[0].min() > 25

    @pytest.mark.parametrize("validation", [0, 0.1, 0.5])
    def test_evaluation_does_not_depend_on_validation(self, validation):
        ratings = small_ratings()
        parts = split(ratings, validation=validation)
        assert parts.evaluation.equals(split(ratings).evaluation)
        assert len(parts.validation) == 1200 * validation

    @pytest.mark.parametrize("evaluation", [0, 1, -0.1, 15, float("nan")])
    def test_impossible_evaluation(self, evaluation):
        message = f"evaluation must be between 0 and 1. Received: {evaluation}"
        with pytest.raises(ValueError, match=message):
            split(small_ratings(), evaluation=evaluation)

    @pytest.mark.parametrize("validation", [-0.1, 0.85, 5, float("nan")])
    def test_impossible_validation(self, validation):
        message = f"validation must .* Received: validation={validation}, evaluation"
        with pytest.raises(ValueError, match=message):
            split(small_ratings(), validation=validation)


class TestPrepare:
    def test_encodes_every_part(self):
        ratings = small_ratings()
        prepared = prepare(ratings, seed=5)
        assert prepared.dataset == "synthetic"
        for name, part in split(ratings, seed=5)._asdict().items():
            examples = getattr(prepared, name)
            assert len(examples) == len(part)
            assert (prepared.users.decode(examples.user) == part.user_id).all()
            assert (prepared.movies.decode(examples.movie) == part.movie_id).all()
            assert (examples.rating == part.rating).all()

    def test_types(self):
        train = prepare(small_ratings()).train
        arrays = [train.user, train.movie, train.rating]
        assert [array.dtype for array in arrays] == ["int32", "int32", "float32"]
        assert all(array.flags.writeable for array in arrays)  # or torch warns

    def test_popularity_of_the_training_part_alone(self):
        ratings = small_ratings()
        prepared = prepare(ratings)
        for vocabulary, rows, column in (
            (prepared.users, prepared.train.user, "user_id"),
            (prepared.movies, prepared.train.movie, "movie_id"),
        ):
            counts = np.bincount(rows, minlength=len(vocabulary))
            assert vocabulary.counts.tolist() == counts.tolist()
            assert sorted(vocabulary.ids) == sorted(ratings[column].unique())

    def test_every_id_has_a_row(self):
        # Users with one rating each: those not trained on have rows at the end.
        ratings = pd.DataFrame(
            {"user_id": range(1, 101), "movie_id": 1, "rating": np.float32(3)}
        )
        prepared = prepare(ratings)
        assert prepared.dataset == "custom"
        assert prepared.users.counts.tolist() == [1] * 80 + [0] * 20
        assert prepared.evaluation.user.min() >= 80

    def test_fractions(self):
        prepared = prepare(small_ratings(), evaluation=0.5, validation=0)
        sizes = [
            len(prepared.train),
            len(prepared.validation),
            len(prepared.evaluation),
        ]
        assert sizes == [600, 0, 600]

    def test_inputs(self):
        user, movie, rating = np.arange(3), np.arange(3), np.ones(3)
        examples = Examples(user, movie, rating)
        assert len(examples) == 3
        assert list(examples.inputs) == ["user", "movie"]
        assert examples.inputs["user"] is user
        assert examples.inputs["movie"] is movie
