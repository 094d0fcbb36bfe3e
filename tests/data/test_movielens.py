"""Tests of reading and writing MovieLens's format."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from memembed.data import format_ratings, read_ratings, synthetic_ratings


def test_types_and_values(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_bytes(b"1::1193::5::978300760\n999999999::7::1::0\n")
    expected = pd.DataFrame(
        {
            "user_id": np.array([1, 999_999_999], "int32"),
            "movie_id": np.array([1193, 7], "int32"),
            "rating": np.array([5, 1], "float32"),
        }
    )
    pd.testing.assert_frame_equal(read_ratings(path), expected)
    pd.testing.assert_frame_equal(read_ratings(str(path)), expected)


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\r\n"])
@pytest.mark.parametrize("between", [b"\n", b"\r\n"])
def test_line_ends(between, end):
    content = b"1::2::3::4" + between + b"5::6::1::8" + end
    assert read_ratings(io.BytesIO(content)).values.tolist() == [[1, 2, 3], [5, 6, 1]]


BROKEN = b"""1::2::3
1::2::3::
1::2::3::4::5
1,2,3,4
1:2::3::4::5
1::2:::3::4
1::x::3::4
1::2::3.5::4
1::2::NA::4
 1::2::3::4
"1"::2::3::4
1::2::3\x00::4
1::2::3::\xd9\xa1
-1::2::3::4
0::2::3::4
1::2::0::4
1::2::6::4
1000000000::2::3::4
18446744073709551617::2::3::4"""


@pytest.mark.parametrize(
    "line", [b"", b"1" * 5000 + b"::2::3::4", *BROKEN.split(b"\n")]
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_broken_line(tmp_path, line, position):
    lines = [b"1::2::3::4", b"5::6::1::8", b"9::6::1::8"]
    lines.insert(position, line)
    path = tmp_path / "ratings.dat"
    path.write_bytes(b"\n".join(lines) + b"\n")
    start = re.escape(f"{path}, line {position + 1}: ")
    with pytest.raises(ValueError, match=f"^{start}.* from 1 to 999999999 .* 1 to 5"):
        read_ratings(path)


def test_empty():
    with pytest.raises(ValueError, match="ratings, line 1: "):
        read_ratings(io.BytesIO(b"\n"))


def test_written_ratings_are_read_again():
    ratings = synthetic_ratings(50, 40, 1200)
    content = format_ratings(ratings)
    pd.testing.assert_frame_equal(read_ratings(io.BytesIO(content)), ratings)
    halves = pd.DataFrame({"user_id": [1], "movie_id": [2], "rating": [3.5]})
    assert format_ratings(halves) == b"1::2::3.5::0\n"
