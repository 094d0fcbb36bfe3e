"""Which ratings the chapters work on."""

import os
import re

import pooch

from memembed.data import movielens
from memembed.data.download import download
from memembed.data.notes import announce, in_notebook
from memembed.data.splits import keep_last
from memembed.data.synthetic import synthetic_ratings


def load_ratings():
    """Load MovieLens 1M, or the synthetic stand-in.

    The real ratings are looked for in `$MEMEMBED_DATA_DIR/ml-1m/ratings.dat`,
    `$MEMEMBED_DATA_DIR/ml-1m.zip`, the cache of earlier downloads, and the
    GroupLens server, in this order. `memembed.data` describes the variables.

    Returns:
        A table of `user_id`, `movie_id` (int32) and `rating` (float32), one row a
        rating. Its `.attrs["dataset"]` is `"ml-1m"` or `"synthetic"`.

    Raises:
        ValueError: `MEMEMBED_DATASET` is not understood, or a local file is damaged,
            cut, or not MovieLens 1M.
        FileNotFoundError: `MEMEMBED_DATA_DIR` is no folder or holds a broken link, or
            `MEMEMBED_DATASET` is `ml-1m` and no copy can be had.

    Example:
        >>> ratings = load_ratings()  # doctest: +SKIP
        >>> ratings.attrs["dataset"]  # doctest: +SKIP
        'ml-1m'
    """
    wanted = os.environ.get("MEMEMBED_DATASET", "")
    if synthetic := re.fullmatch(r"synthetic(?::([0-9]+))?", wanted):
        size = {"num_ratings": int(synthetic[1])} if synthetic[1] else {}
        try:
            ratings = synthetic_ratings(**size)
        except ValueError as error:
            raise ValueError(f"MEMEMBED_DATASET={wanted}: {error}") from error
        if in_notebook():
            _announce_stand_in(f"MEMEMBED_DATASET={wanted} asks for them.")
        return ratings
    if wanted not in ("", "ml-1m"):
        raise ValueError(
            "MEMEMBED_DATASET must be 'ml-1m', 'synthetic' or 'synthetic:<number of "
            f"ratings>'. Received: {wanted!r}"
        )
    path = movielens.local_copy()
    if path is None:
        folder = pooch.os_cache("memembed")
        try:
            path = download(movielens.URL, movielens.SHA256, folder)
        except FileNotFoundError as error:
            remedy = (
                f"Download {movielens.URL} and set MEMEMBED_DATA_DIR to its folder."
            )
            if wanted == "ml-1m":
                raise FileNotFoundError(
                    f"MEMEMBED_DATASET=ml-1m, but {error}. {remedy}"
                ) from error
            _announce_stand_in(f"{error}. {remedy}")
            return synthetic_ratings()
    return keep_last(movielens.read(path))


def _announce_stand_in(reason):
    """Tell the reader of the page, or the caller, that the ratings are synthetic."""
    announce(
        "These ratings are synthetic, not MovieLens 1M",
        f", and so is every number that follows from them: {reason}",
    )
