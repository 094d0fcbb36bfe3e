"""Load the ratings and titles that the chapters use."""

import os
import re

import pandas as pd
import pooch

from memembed.data import goodbooks, movielens
from memembed.data.download import download
from memembed.data.files import local_copy
from memembed.data.notes import announce
from memembed.data.splits import keep_last
from memembed.data.synthetic import synthetic_ratings
from memembed.progress import in_notebook

_SOURCES = {"ml-1m": movielens, "goodbooks": goodbooks}


def load_ratings(dataset=None):
    """Load MovieLens 1M or goodbooks-10k, or the synthetic stand-in.

    The real ratings are looked for in `$MEMEMBED_DATA_DIR` (`ml-1m/ratings.dat`, then
    `ml-1m.zip`; for goodbooks-10k, `goodbooks/ratings.csv.zip`), in the cache of
    earlier downloads, and on the server (GroupLens; for goodbooks-10k, GitHub), in
    this order. `memembed.data` describes the variables. If a user rated an item more
    than once, the last rating is kept.

    goodbooks-10k is the first release of the ratings of Goodreads that Zygmunt Zając
    collected in 2017 (https://github.com/zygmuntz/goodbooks-10k, CC BY-SA 4.0):
    979,478 ratings of 53,424 users on 10,000 books, about 100 per book.

    Args:
        dataset: `"goodbooks"` for goodbooks-10k. `"ml-1m"` for MovieLens 1M without a
            stand-in. Default: MovieLens 1M, or the stand-in if it is not available. If
            `MEMEMBED_DATASET` asks for the stand-in, it replaces all of them.

    Returns:
        A table of `user_id`, `movie_id` (int32) and `rating` (float32), one row per
        rating. The ids of books are in `movie_id` too, so that the same code works for
        them. Its `.attrs["dataset"]` is `"ml-1m"`, `"goodbooks"` or
        `"synthetic"`.

    Raises:
        ValueError: `dataset` or `MEMEMBED_DATASET` has an unknown value, or a local
            file is damaged, incomplete, or not the data set.
        FileNotFoundError: `MEMEMBED_DATA_DIR` is not a folder or has a broken link, or
            there is no copy and `dataset` or `MEMEMBED_DATASET` is `"ml-1m"`.

    Example:
        >>> ratings = load_ratings()  # doctest: +SKIP
        >>> ratings.attrs["dataset"]  # doctest: +SKIP
        'ml-1m'
        >>> len(load_ratings("goodbooks"))  # doctest: +SKIP
        979478
    """
    if dataset not in (None, *_SOURCES):
        raise ValueError(
            f"dataset must be 'ml-1m', 'goodbooks' or None. Received: {dataset!r}"
        )
    wanted = _wanted()
    source = _SOURCES[dataset or "ml-1m"]
    headline = f"These ratings are synthetic, not {source.TITLE}"
    follows = ", and so is every number computed from them: "
    if wanted.startswith("synthetic"):
        size = wanted.partition(":")[2]
        try:
            ratings = synthetic_ratings(**{"num_ratings": int(size)} if size else {})
        except ValueError as error:
            raise ValueError(f"MEMEMBED_DATASET={wanted}: {error}") from error
        if in_notebook():
            announce(headline, f"{follows}MEMEMBED_DATASET={wanted} asks for them.")
        return ratings
    insists = "dataset='ml-1m'" if dataset == "ml-1m" else _insists(wanted)
    path = _find(source, source.RATINGS, insists, headline, follows)
    return synthetic_ratings() if path is None else keep_last(source.read(path))


def load_titles():
    """Load the titles of MovieLens 1M's films, or made-up titles for the stand-in.

    They are looked for where `load_ratings` looks for the ratings of MovieLens 1M: in
    `$MEMEMBED_DATA_DIR` as `ml-1m/movies.dat` or `ml-1m.zip`, and so on. MovieLens
    puts an article last, as in "Matrix, The (1999)"; here it comes first.

    Returns:
        A series of strings named `title`, indexed by `movie_id`. The titles of the
        stand-in are "Movie 1", "Movie 2" and so on, one for every id of MovieLens 1M.

    Raises:
        ValueError: see `load_ratings`.
        FileNotFoundError: see `load_ratings`.

    Example:
        >>> load_titles()[1]  # doctest: +SKIP
        'Toy Story (1995)'
    """
    wanted = _wanted()
    path = None
    if not wanted.startswith("synthetic"):
        headline = f"These titles are made up, not those of {movielens.TITLE}"
        path = _find(movielens, movielens.TITLES, _insists(wanted), headline, ": ")
    if path is None:
        titles = {i: f"Movie {i}" for i in range(1, movielens.MAX_MOVIE_ID + 1)}
    else:
        titles = movielens.read_titles(path)
    return pd.Series(titles, name="title").rename_axis("movie_id")


def _wanted():
    """Return `$MEMEMBED_DATASET`, and check its value."""
    wanted = os.environ.get("MEMEMBED_DATASET", "")
    if not re.fullmatch(r"(ml-1m|synthetic(:[0-9]+)?)?", wanted):
        raise ValueError(
            "MEMEMBED_DATASET must be 'ml-1m', 'synthetic' or 'synthetic:<number of "
            f"ratings>'. Received: {wanted!r}"
        )
    return wanted


def _insists(wanted):
    """Return the setting that refuses the stand-in, or None if there is none."""
    return f"MEMEMBED_DATASET={wanted}" if wanted else None


def _find(source, places, insists, headline, follows):
    """Return a local, cached or downloaded file, or announce the stand-in.

    If `insists` is a setting that refuses the stand-in, raise a FileNotFoundError.
    """
    path = local_copy(*places)
    if path is not None:
        return path
    # The cache is laid out like MEMEMBED_DATA_DIR.
    cached = pooch.os_cache("memembed") / places[-1]
    try:
        return download(source.URL, source.SHA256, cached.parent)
    except FileNotFoundError as error:
        reason = (
            f"{error}. Download {source.URL} to a folder, as {places[-1]}, and set "
            "MEMEMBED_DATA_DIR to that folder."
        )
        if insists:
            raise FileNotFoundError(
                f"{insists} allows no stand-in, but {reason}"
            ) from error
        announce(headline, follows + reason)
        return None
