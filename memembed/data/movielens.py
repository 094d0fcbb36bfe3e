"""MovieLens 1M: where to find it, and how to read it."""

import io
import re
import zipfile
from pathlib import Path

import pandas as pd

from memembed.data.files import check_hash

TITLE = "MovieLens 1M"
URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
COUNTS = (1_000_209, 6_040, 3_706)  # ratings, users, movies rated
NUM_TITLES = 3_883
MAX_MOVIE_ID = 3_952
RATINGS = ("ml-1m/ratings.dat", "ml-1m.zip")
TITLES = ("ml-1m/movies.dat", "ml-1m.zip")

# All lines up to the first broken one. The `+` after a repeat makes it possessive: with
# backtracking, a million lines take four times as long and 300 MB.
_LINES = re.compile(rb"(?:[1-9]\d{0,8}+::[1-9]\d{0,8}+::[1-5]::\d++\r?\n)*+")

# A title, or a second title in parentheses, that ends in its article.
_ARTICLE_LAST = re.compile(
    r"([^()]+), (The|An?|Das|De[rt]|Die|El|Il?|La|Les?|L'|O)(?= \(|\))"
)


def read(path):
    """Read the ratings or the archive, and check that all ratings are there."""
    with _unpacked(path, "ratings.dat").open("rb") as file:
        ratings = read_ratings(file)
    counts = len(ratings), ratings.user_id.nunique(), ratings.movie_id.nunique()
    if counts != COUNTS:
        form = "{:,} ratings of {:,} users and {:,} movies"
        raise ValueError(
            f"{path} is incomplete or not {TITLE}: expected {form.format(*COUNTS)}, "
            f"received {form.format(*counts)}."
        )
    ratings.attrs["dataset"] = "ml-1m"
    return ratings


def read_titles(path):
    """Read the titles or the archive, and return a dict from movie ids to titles."""
    content = _unpacked(path, "movies.dat").read_text(encoding="latin-1")
    lines = re.findall(r"^([1-9]\d{0,8})::(.+)::", content, re.MULTILINE)
    titles = {int(movie): _article_first(title) for movie, title in lines}
    if len(titles) != NUM_TITLES:
        raise ValueError(
            f"{path} is damaged, incomplete or not {TITLE}: expected {NUM_TITLES:,} "
            f"lines of movie::title::genres, received {len(titles):,}."
        )
    return titles


def _unpacked(path, name):
    """Return `path`, or the path of file `name` in it if it is the archive."""
    if path.suffix != ".zip":
        return path
    check_hash(path, SHA256, URL)
    return zipfile.Path(path, f"ml-1m/{name}")


def _article_first(title):
    """Turn "Matrix, The (1999)" into "The Matrix (1999)"."""
    return _ARTICLE_LAST.sub(r"\2 \1", title).replace("L' ", "L'")


def read_ratings(source):
    """Read ratings in MovieLens's format: lines of `user::movie::rating::timestamp`.

    Args:
        source: a path, or a file opened in binary mode.

    Returns:
        A table of `user_id`, `movie_id` (int32) and `rating` (float32).

    Raises:
        ValueError: a line is broken, or there is none. The message names the file and
            the line.

    Example:
        >>> read_ratings(io.BytesIO(b"1::7::5::0"))
           user_id  movie_id  rating
        0        1         7     5.0
    """
    if hasattr(source, "read"):
        name, data = getattr(source, "name", "ratings"), source.read()
    else:
        name, data = source, Path(source).read_bytes()
    data = data.rstrip(b"\r\n") + b"\n"
    end = _LINES.match(data).end()
    if end < len(data):
        number = data.count(b"\n", 0, end) + 1
        line = data[end:].split(b"\n", 1)[0]
        raise ValueError(
            f"{name}, line {number}: expected user::movie::rating::timestamp, the ids "
            f"from 1 to 999999999 and the rating from 1 to 5. Received: {line[:80]!r}"
        )
    # pandas reads ":" ten times faster than "::": then every other column is empty.
    return pd.read_csv(
        io.BytesIO(data),
        sep=":",
        names=["user_id", "movie_id", "rating"],
        usecols=[0, 2, 4],
        dtype={"user_id": "int32", "movie_id": "int32", "rating": "float32"},
    )


def format_ratings(ratings):
    r"""Write ratings in MovieLens's format, for `read_ratings`. All timestamps are 0.

    Args:
        ratings: a table of `user_id`, `movie_id` and `rating`.

    Returns:
        The content of a `ratings.dat`.

    Example:
        >>> ratings = pd.DataFrame({"user_id": [1], "movie_id": [7], "rating": [5.0]})
        >>> format_ratings(ratings)
        b'1::7::5::0\n'
    """
    columns = (ratings[name].tolist() for name in ("user_id", "movie_id", "rating"))
    return b"".join(b"%d::%d::%g::0\n" % row for row in zip(*columns, strict=True))
