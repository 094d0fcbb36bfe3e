"""Synthetic ratings: a stand-in like MovieLens 1M, and files of any size."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from memembed.progress import bar
from memembed.shapes import check_size

_MIN_RATINGS_PER_USER = 20  # as in MovieLens 1M
_RATING_SHARES = (0.056, 0.108, 0.261, 0.349, 0.226)  # of MovieLens 1M's ratings 1 to 5


def synthetic_ratings(num_users=6040, num_movies=3706, num_ratings=1_000_209, seed=0):
    """Generate ratings like those of MovieLens 1M.

    The activity of users and the popularity of movies follow gamma distributions (a
    power law with an exponential tail) fitted to MovieLens 1M. A rating is the sum of a
    user's effect, a movie's effect (popular movies are rated higher), a taste of rank
    8, and noise, cut into 1 to 5 so that their shares are those of MovieLens 1M. No
    user rates a movie twice, every user rates at least 20 movies, and every movie is
    rated.

    Args:
        num_users: how many users, with ids from 1.
        num_movies: how many movies, with ids from 1.
        num_ratings: how many ratings: at least 20 per user and 1 per movie, at most 1
            for each pair of user and movie.
        seed: equal seeds give equal ratings.

    Returns:
        A table like that of `load_ratings`, sorted by user and movie.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is out of range.

    Example:
        >>> ratings = synthetic_ratings(num_users=50, num_movies=40, num_ratings=1200)
        >>> len(ratings), ratings.user_id.nunique(), ratings.movie_id.nunique()
        (1200, 50, 40)
    """
    num_users = check_size("num_users", num_users)
    num_movies = check_size("num_movies", num_movies)
    num_ratings = check_size("num_ratings", num_ratings)
    least_active = min(_MIN_RATINGS_PER_USER, num_movies)
    least = max(least_active * num_users, num_movies)
    if not least <= num_ratings <= num_users * num_movies:
        raise ValueError(
            f"`num_ratings` must be from {least} to {num_users * num_movies} for "
            f"{num_users} users and {num_movies} movies. "
            f"Received: num_ratings={num_ratings}"
        )
    rng = np.random.default_rng(seed)
    activity = _share_out(
        num_ratings, rng.gamma(0.6, size=num_users), least_active, num_movies, rng
    )
    popularity = rng.gamma(0.6, size=num_movies)
    user = np.repeat(np.arange(num_users), activity)
    movie = _choose_movies(user, activity, popularity, rng)

    # The weights are such that user and movie biases alone, and 1 or 8 columns in
    # addition, predict as well as they do on MovieLens 1M.
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


def write_synthetic_shards(
    folder,
    num_ratings,
    num_users=10**6,
    num_movies=10_000,
    noise=0.8,
    seed=0,
    shard_size=2**22,
    progress=bar,
):
    """Write ratings of any number of users to Parquet files.

    A rating is the sum of a user's effect, a movie's effect, a taste of rank 8, and
    normal noise. All of it except the noise is computed from the ids, by a hash. So
    only the file that is being written is in memory. Ratings from another seed are of
    the same users. And the lowest mean squared error that a model can reach is known:
    `noise` squared. Some users rate more often than others, and some movies are far
    more popular. Ids are any 64-bit integers, and do not depend on popularity.

    Each of the two effects has a variance of 0.25, and the taste one of 0.245.

    A file appears when it is complete. Existing files are not written again, so that
    the same call resumes after an interruption. Each file says which call it is of, and
    another call is refused.

    Args:
        folder: where to write. It is created if it does not exist.
        num_ratings: how many ratings.
        num_users: how many users there are to draw from.
        num_movies: how many movies.
        noise: standard deviation of the noise.
        seed: seed of who rates what, and of the noise.
        shard_size: ratings in a file. The last file may have fewer.
        progress: `tqdm`, or a replacement. The default is silent in logs.

    Raises:
        TypeError: a size or `seed` is not an integer.
        ValueError: a size is not positive, or `noise` or `seed` is negative, or
            `folder` has Parquet files that are not of the same call.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_synthetic_shards(folder, 1000, 50, 20, shard_size=600)
        >>> sorted(file.name for file in Path(folder).iterdir())
        ['ratings-0-of-2.parquet', 'ratings-1-of-2.parquet']
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    num_ratings = check_size("num_ratings", num_ratings)
    num_users = check_size("num_users", num_users)
    num_movies = check_size("num_movies", num_movies)
    shard_size = check_size("shard_size", shard_size)
    seed = check_size("seed", seed, least=0)
    if not 0 <= noise < np.inf:
        raise ValueError(f"`noise` must not be negative. Received: {noise}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    call = {"num_ratings": num_ratings, "num_users": num_users}
    call |= {"num_movies": num_movies, "noise": float(noise), "seed": seed}
    call = json.dumps(call | {"shard_size": shard_size}).encode()
    for file in sorted(folder.glob("*.parquet")):
        try:
            found = (pq.read_schema(file).metadata or {}).get(b"memembed", b"unknown")
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if found != call:
            raise ValueError(
                "`folder` must be empty, or hold files of the same call. "
                f"Received: {file}, whose call is {found.decode()}"
            )
    count = -(-num_ratings // shard_size)
    for i in progress(range(count), "ratings", unit="file"):
        name = f"ratings-{i:0{len(str(count))}}-of-{count}.parquet"
        if (folder / name).exists():
            continue
        rows = min(shard_size, num_ratings - i * shard_size)
        random = np.random.default_rng([seed, i])
        table = _draw(rows, num_users, num_movies, noise, random)
        table = table.replace_schema_metadata({"memembed": call})
        unfinished = folder / f".{name}.unfinished"
        pq.write_table(table, unfinished, row_group_size=2**18)
        unfinished.rename(folder / name)


def _draw(rows, num_users, num_movies, noise, random):
    """Return a table of ratings."""
    import pyarrow as pa

    user = (num_users * random.random(rows) ** 2).astype("uint64")
    movie = (num_movies * random.random(rows) ** 3).astype("uint64")
    user_id, movie_id = _hash(user), _hash(movie + np.uint64(2**63))
    rating = 3.5 + 0.5 * _unit(user_id, 0) + 0.5 * _unit(movie_id, 0)
    for k in range(1, 9):
        rating += 0.3 / np.sqrt(k) * _unit(user_id, k) * _unit(movie_id, k)
    rating += noise * random.standard_normal(rows)
    return pa.table(
        {
            "user_id": user_id.view("int64"),
            "movie_id": movie_id.view("int64"),
            "rating": rating.astype("float32"),
        }
    )


def _hash(x):
    """Scramble 64-bit integers. Different integers stay different.

    This is the mixing function of SplitMix64: Steele, Lea and Flood, Fast Splittable
    Pseudorandom Number Generators, 2014, doi:10.1145/2660193.2660195.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _unit(ids, k):
    """Return the k-th number of each id: uniform, with mean 0 and variance 1."""
    share = _hash(ids ^ _hash(np.uint64([k]))) / 2.0**64
    return np.sqrt(12) * (share - 0.5)


def _share_out(total, weights, least, most, rng):
    """Draw counts from `least` to `most`, by weight, with the sum `total`."""
    counts = np.full(len(weights), least)
    while remaining := total - counts.sum():
        weights = np.where(counts < most, weights, 0)
        drawn = rng.multinomial(remaining, weights / weights.sum())
        counts = np.minimum(counts + drawn, most)
    return counts


def _choose_movies(user, activity, popularity, rng):
    """Draw `activity` distinct movies for each user, popular ones more often."""
    # Each movie gets at least one rating, from a user drawn by activity.
    promised_to = rng.permutation(user)[: len(popularity)]
    # Active users run out of popular movies. The power 1.3 corrects for this.
    rate = popularity**1.3
    chosen = []
    for i, count in enumerate(activity):
        # The first exponential arrivals at these rates are a weighted draw without
        # replacement.
        arrival = rng.exponential(size=len(rate)) / rate
        arrival[promised_to == i] = 0
        first = np.argpartition(arrival, count - 1)[:count]
        chosen.append(np.sort(first))
    return np.concatenate(chosen)
