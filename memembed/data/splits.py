"""From a table of ratings to arrays for training, validation and evaluation."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from memembed.data.notes import announce
from memembed.data.vocabulary import Vocabulary


class Split(NamedTuple):
    """Three disjoint parts of a table of ratings: train, validation, evaluation."""

    train: pd.DataFrame
    validation: pd.DataFrame
    evaluation: pd.DataFrame


def split(ratings, evaluation=0.15, validation=0.05, seed=0):
    """Split ratings at random into train, validation and evaluation parts.

    The evaluation part is drawn first: it depends on the seed, and not on
    `validation`. Each part keeps the order and the index of `ratings`.

    Args:
        ratings: the table to split.
        evaluation: the fraction of all ratings to evaluate on, above 0.
        validation: the fraction of all ratings to choose settings on; may be 0.
        seed: equal seeds give equal parts.

    Returns:
        A `Split`: `train`, `validation`, `evaluation`.

    Raises:
        ValueError: a fraction is out of range, or there are so few ratings that one of
            the parts would be empty.

    Example:
        >>> from memembed.data import synthetic_ratings
        >>> ratings = synthetic_ratings(num_users=50, num_movies=40, num_ratings=1200)
        >>> [len(part) for part in split(ratings)]
        [960, 60, 180]
    """
    if not 0 < evaluation < 1:
        raise ValueError(
            f"`evaluation` must be between 0 and 1. Received: evaluation={evaluation}"
        )
    if not 0 <= validation < 1 - evaluation:
        raise ValueError(
            "`validation` must be at least 0 and leave something to train on. "
            f"Received: validation={validation}, evaluation={evaluation}"
        )
    order = np.random.default_rng(seed).permutation(len(ratings))
    first = round(evaluation * len(ratings))
    second = first + round(validation * len(ratings))
    parts = order[second:], order[first:second], order[:first]
    if not (len(parts[0]) and len(parts[2]) and (len(parts[1]) or not validation)):
        raise ValueError(
            "`ratings` must be enough for all parts. "
            f"Received: {len(ratings)} ratings, evaluation={evaluation}, "
            f"validation={validation}"
        )
    return Split(*(ratings.iloc[np.sort(part)] for part in parts))


def keep_last(ratings):
    """Keep the last rating of each user and movie, and announce what was dropped.

    Otherwise, a split could train on one of them and evaluate on another.
    """
    repeated = ratings.duplicated(["user_id", "movie_id"], keep="last")
    if not repeated.any():
        return ratings
    announce(
        f"Dropped {repeated.sum():,} of {len(ratings):,} ratings",
        ": where a user rated one item more than once, the last rating is kept.",
    )
    return ratings[~repeated]


@dataclass(frozen=True, eq=False)
class Examples:
    """Ratings as arrays: rows of users, rows of movies (int32), ratings (float32).

    The length is the number of ratings.
    """

    user: np.ndarray
    movie: np.ndarray
    rating: np.ndarray

    def __len__(self):
        return len(self.rating)

    @property
    def inputs(self):
        """The inputs of a rating model, by name."""
        return {"user": self.user, "movie": self.movie}

    @property
    def arrays(self):
        """The inputs and the ratings, a tuple, as `keras.Model.fit` takes them."""
        return self.inputs, self.rating


@dataclass(frozen=True, eq=False)
class RatingData:
    """The data of an experiment: see `prepare`."""

    dataset: str
    users: Vocabulary
    movies: Vocabulary
    train: Examples
    validation: Examples
    evaluation: Examples


def prepare(ratings, seed=0, evaluation=0.15, validation=0.05):
    """Split ratings, build the vocabularies, and encode every part.

    Every user and movie in `ratings` has a row. Their popularity is counted on the
    training part. If a user rated a movie more than once, the last rating is kept, and
    a note or a warning says how many were dropped.

    Args:
        ratings: a table such as `load_ratings` returns.
        seed: see `split`.
        evaluation: see `split`.
        validation: see `split`.

    Returns:
        A `RatingData`.

    Raises:
        ValueError: an id or a rating is missing, or a rating is not finite; or as in
            `split` and `Vocabulary`.

    Example:
        >>> from memembed.data import synthetic_ratings
        >>> ratings = synthetic_ratings(num_users=50, num_movies=40, num_ratings=1200)
        >>> data = prepare(ratings)
        >>> len(data.users), len(data.movies), len(data.train)
        (50, 40, 960)
    """
    for name in ("user_id", "movie_id", "rating"):
        if missing := int(ratings[name].isna().sum()):
            raise ValueError(
                f"`ratings` must not have missing values in column {name!r}. "
                f"Received: {missing}"
            )
    values = ratings["rating"].to_numpy("float32")
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise ValueError(
            f"`ratings` must have finite numbers in column 'rating'. Received: {wrong}"
        )
    ratings = keep_last(ratings)
    parts = split(ratings, evaluation, validation, seed)
    users = Vocabulary(parts.train["user_id"], ratings["user_id"])
    movies = Vocabulary(parts.train["movie_id"], ratings["movie_id"])
    examples = {
        name: Examples(
            users.encode(part["user_id"]),
            movies.encode(part["movie_id"]),
            part["rating"].to_numpy("float32", copy=True),  # pandas' own is read-only
        )
        for name, part in parts._asdict().items()
    }
    return RatingData(ratings.attrs.get("dataset", "custom"), users, movies, **examples)
