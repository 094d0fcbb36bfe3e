"""Tests of the stand-in: its size, and how similar it is to MovieLens 1M."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memembed.data import synthetic_ratings


@pytest.fixture(scope="module")
def full():
    return synthetic_ratings()


def test_size(full):
    assert len(full) == 1_000_209
    assert full.user_id.unique().tolist() == list(range(1, 6041))  # sorted, too
    assert sorted(full.movie_id.unique()) == list(range(1, 3707))
    assert not full.duplicated(["user_id", "movie_id"]).any()
    assert full.dtypes.astype(str).tolist() == ["int32", "int32", "float32"]
    assert full.attrs == {"dataset": "synthetic"}


def test_activity_and_popularity_are_those_of_movielens(full):
    activity = full.user_id.value_counts()
    assert activity.min() >= 20
    assert activity.median() == pytest.approx(96, rel=0.1)
    assert 1500 < activity.max() < 3000
    popularity = full.movie_id.value_counts()
    assert popularity.min() == 1
    assert popularity.median() == pytest.approx(123.5, rel=0.15)
    assert popularity.quantile(0.99) == pytest.approx(1785, rel=0.1)
    assert 2500 < popularity.max() < 4000


def test_ratings_are_those_of_movielens(full):
    shares = full.rating.value_counts(normalize=True).sort_index()
    expected = [0.0562, 0.1075, 0.2611, 0.3489, 0.2263]
    np.testing.assert_allclose(shares, expected, atol=0.001)
    movies = full.groupby("movie_id").rating.agg(["size", "mean"])
    by_popularity = movies.sort_values("size")["mean"].to_numpy()
    rare, popular = np.array_split(by_popularity, 5)[::4]
    assert popular.mean() - rare.mean() == pytest.approx(0.68, abs=0.15)


def test_biases_predict_as_well_as_on_movielens(full):
    # Least squares on MovieLens 1M: .907.
    test = np.random.default_rng(0).random(len(full)) < 0.15
    error = full.rating - full.rating[~test].mean()
    for _ in range(4):
        for column, damping in (("movie_id", 3), ("user_id", 5)):
            sums = error[~test].groupby(full[column]).agg(["sum", "size"])
            error -= full[column].map(sums["sum"] / (sums["size"] + damping)).fillna(0)
    assert np.sqrt(np.mean(error[test] ** 2)) == pytest.approx(0.91, abs=0.01)


def test_seed():
    first, again, other = (synthetic_ratings(50, 40, 1200, seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 9))
def test_any_size(num_users, num_movies, fullness, seed):
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


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ((50, 40, 999), "`num_ratings` must be from 1000 to 2000 .*ratings=999"),
        ((50, 40, 2001), "`num_ratings` must be from 1000 to 2000 .*ratings=2001"),
        ((1, 40, 39), "`num_ratings` must be from 40 to 40 "),
        ((2, 100, 99), "`num_ratings` must be from 100 to 200 "),
        ((0, 40, 1200), "`num_users` must be a positive integer.*num_users=0"),
        ((50, 0, 1200), "`num_movies` must be a positive integer.*num_movies=0"),
    ],
)
def test_impossible_size(sizes, fault):
    with pytest.raises(ValueError, match=fault):
        synthetic_ratings(*sizes)
