"""goodbooks-10k: where to find it, and how to read it."""

import pandas as pd

from memembed.data.files import check_hash

TITLE = "goodbooks-10k"
# A user's copy of the first release, which its author has since replaced.
URL = (
    "https://raw.githubusercontent.com/AmolMavuduru/SurprisePythonExamples/"
    "4851ae62a8e6e3f00d8f137d472683b83d4af62a/data/ratings.csv.zip"
)
SHA256 = "f39c7cb62a1d7e6731eb8aa11d7b69ae00d66c1bda9c4d940530cc9e57eebf04"
RATINGS = ("goodbooks/ratings.csv.zip",)


def read(path):
    """Read the archive of ratings. The ids of books are in the column `movie_id`."""
    check_hash(path, SHA256, URL)
    types = {"user_id": "int32", "book_id": "int32", "rating": "float32"}
    ratings = pd.read_csv(path, dtype=types)[list(types)]
    ratings = ratings.rename(columns={"book_id": "movie_id"})
    ratings.attrs["dataset"] = "goodbooks"
    return ratings
