"""A synthetic stand-in of MovieLens 1M's shape."""

import numpy as np
import pandas as pd

_MIN_RATINGS_PER_USER = 20  # what MovieLens 1M promises
_RATING_SHARES = (0.056, 0.108, 0.261, 0.349, 0.226)  # its ratings 1 to 5


def synthetic_ratings(num_users=6040, num_movies=3706, num_ratings=1_000_209, seed=0):
    """Generate ratings of MovieLens 1M's shape.

    How active users are and how popular movies are follow gamma laws (a power law
    with an exponential tail) fitted to MovieLens 1M. A rating is the sum of a user's
    effect, a movie's effect (popular movies are rated higher), a taste of rank 8,
    and noise, cut into 1 to 5 at MovieLens 1M's own shares. No user rates a movie
    twice, every user rates at least 20 movies, and every movie is rated.

    Args:
        num_users: how many users, with ids from 1.
        num_movies: how many movies, with ids from 1.
        num_ratings: how many ratings: at least 20 a user and one a movie, at most
            one for each user and movie.
        seed: equal seeds give equal ratings.

    Returns:
        A table like that of `load_ratings`, sorted by user and movie.

    Raises:
        ValueError: a size is out of range.

    Example:
        >>> ratings = synthetic_ratings(num_users=50, num_movies=40, num_ratings=1200)
        >>> len(ratings), ratings.user_id.nunique(), ratings.movie_id.nunique()
        (1200, 50, 40)
    """
    for name, size in (("num_users", num_users), ("num_movies", num_movies)):
        if size < 1:
            raise ValueError(f"{name} must be positive. Received: {size}")
    least_active = min(_MIN_RATINGS_PER_USER, num_movies)
    least = max(least_active * num_users, num_movies)
    if not least <= num_ratings <= num_users * num_movies:
        raise ValueError(
            f"num_ratings must be from {least} to {num_users * num_movies} for "
            f"{num_users} users and {num_movies} movies. Received: {num_ratings}"
        )
    rng = np.random.default_rng(seed)
    activity = _share_out(
        num_ratings, rng.gamma(0.6, size=num_users), least_active, num_movies, rng
    )
    popularity = rng.gamma(0.6, size=num_movies)
    user = np.repeat(np.arange(num_users), activity)
    movie = _choose_movies(user, activity, popularity, rng)

    # Weighted so that user and movie biases alone, and then one and eight columns
    # on top of them, predict as well as they do on MovieLens 1M.
    columns = np.arange(1, 9) ** -0.5
    user_taste = columns * rng.normal(size=(num_users, 8))
    movie_taste = rng.normal(size=(num_movies, 8))
    user_effect = 0.44 * rng.normal(size=num_users)
    movie_effect = 0.5 * np.sqrt(popularity) + 0.53 * rng.normal(size=num_movies)
    score = (
        user_effect[user]
        + movie_effect[movie]
        + 0.25 * np.einsum("nk,nk->n", user_taste[user], movie_taste[movie])
        + 0.83 * rng.normal(size=num_ratings)
    )
    cuts = np.quantile(score, np.cumsum(_RATING_SHARES)[:-1])
    ratings = pd.DataFrame(
        {
            "user_id": (user + 1).astype("int32"),
            "movie_id": (movie + 1).astype("int32"),
            "rating": (np.searchsorted(cuts, score) + 1).astype("float32"),
        }
    )
    ratings.attrs["dataset"] = "synthetic"
    return ratings


def _share_out(total, weights, least, most, rng):
    """Draw counts from `least` to `most` that add up to `total`, by weight."""
    counts = np.full(len(weights), least)
    while remaining := total - counts.sum():
        weights = np.where(counts < most, weights, 0)
        drawn = rng.multinomial(remaining, weights / weights.sum())
        counts = np.minimum(counts + drawn, most)
    return counts


def _choose_movies(user, activity, popularity, rng):
    """Draw `activity` distinct movies for each user, popular ones more often."""
    # One rating of each movie is promised to a user drawn by activity.
    promised_to = rng.permutation(user)[: len(popularity)]
    # Active users run out of popular movies: the power makes up for it.
    rate = popularity**1.3
    chosen = []
    for i, count in enumerate(activity):
        # The first arrivals of a race at these rates are a weighted draw without
        # replacement.
        arrival = rng.exponential(size=len(rate)) / rate
        arrival[promised_to == i] = 0
        first = np.argpartition(arrival, count - 1)[:count]
        chosen.append(np.sort(first))
    return np.concatenate(chosen)
