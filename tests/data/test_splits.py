import numpy as np
import pandas as pd
import pytest

from memembed.data import prepare, split, synthetic_ratings


@pytest.fixture(scope="module")
def ratings():
    return synthetic_ratings(50, 40, 1200)


class TestSplit:
    def test_disjoint_and_complete(self, ratings):
        parts = split(ratings, seed=3)
        assert [len(part) for part in parts] == [960, 60, 180]
        pd.testing.assert_frame_equal(pd.concat(parts).sort_index(), ratings)
        for part in parts:
            assert part.attrs == {"dataset": "synthetic"}
            pd.testing.assert_frame_equal(part, ratings.loc[sorted(part.index)])

    def test_seed(self, ratings):
        first, again, other = (
            split(ratings, seed=seed).evaluation for seed in (0, 0, 1)
        )
        assert first.equals(again)
        assert not first.index.equals(other.index)

    @pytest.mark.parametrize("validation", [0, 0.1, 0.5])
    def test_evaluation_does_not_depend_on_validation(self, ratings, validation):
        parts = split(ratings, validation=validation)
        assert parts.evaluation.equals(split(ratings).evaluation)
        assert len(parts.validation) == 1200 * validation

    @pytest.mark.parametrize(
        "fractions",
        [{"evaluation": value} for value in (0, 1, -0.1, 15, float("nan"))]
        + [{"validation": value} for value in (-0.1, 0.85, 5, float("nan"))],
    )
    def test_impossible_fractions(self, ratings, fractions):
        ((name, value),) = fractions.items()
        message = f"`{name}` must be .* Received: .*{value}"
        with pytest.raises(ValueError, match=message):
            split(ratings, **fractions)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_too_few_ratings_for_all_parts(self, ratings, count):
        message = f"enough for all parts. Received: {count} ratings"
        with pytest.raises(ValueError, match=message):
            split(ratings[:count])
        with pytest.raises(ValueError, match="enough for all parts"):
            split(ratings[:3], evaluation=0.9, validation=0)


class TestPrepare:
    @pytest.mark.parametrize("column", ["user_id", "movie_id", "rating"])
    def test_missing_values_are_refused(self, ratings, column):
        ratings = ratings.astype({column: "Int64"})  # as a nullable column, or floats
        ratings.loc[[3, 5], column] = None
        for kind in ("Int64", "float64", "object"):
            with pytest.raises(ValueError, match=f"column '{column}'. Received: 2"):
                prepare(ratings.astype({column: kind}))

    def test_ratings_that_are_not_finite_are_refused(self, ratings):
        with pytest.raises(ValueError, match=r"column 'rating'. Received: inf"):
            prepare(ratings.assign(rating=np.inf))

    def test_encodes_every_part(self, ratings):
        options = {"seed": 5, "evaluation": 0.5, "validation": 0.1}
        prepared = prepare(ratings, **options)
        assert prepared.dataset == "synthetic"
        for name, part in split(ratings, **options)._asdict().items():
            examples = getattr(prepared, name)
            assert len(examples) == len(part)
            assert (prepared.users.decode(examples.user) == part.user_id).all()
            assert (prepared.movies.decode(examples.movie) == part.movie_id).all()
            assert (examples.rating == part.rating).all()
            assert examples.inputs["user"] is examples.user
            assert examples.inputs["movie"] is examples.movie
            arrays = [examples.user, examples.movie, examples.rating]
            assert [array.dtype for array in arrays] == ["int32", "int32", "float32"]
            assert all(array.flags.writeable for array in arrays)  # or torch warns

    def test_popularity_of_the_training_part_alone(self, ratings):
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
        ratings = pd.DataFrame({"user_id": range(1, 101), "movie_id": 1, "rating": 3})
        prepared = prepare(ratings)
        assert prepared.dataset == "custom"
        assert prepared.users.counts.tolist() == [1] * 80 + [0] * 20
        assert prepared.evaluation.user.min() >= 80

    def test_last_of_repeated_ratings_counts(self):
        # 50 users rate one movie twice, first 1 and later 5, and 10 once.
        users = [*range(50), *range(60)]
        ratings = pd.DataFrame(
            {"user_id": users, "movie_id": "m", "rating": [1] * 50 + [5] * 60}
        )
        ratings.attrs["dataset"] = "mine"
        with pytest.warns(UserWarning, match="50 of 110 ratings") as record:
            prepared = prepare(ratings)
        assert [warning.filename for warning in record] == [__file__]
        parts = prepared.train, prepared.validation, prepared.evaluation
        rated = np.concatenate([prepared.users.decode(part.user) for part in parts])
        assert sorted(rated) == list(range(60))
        assert {rating for part in parts for rating in part.rating} == {5}
        assert prepared.dataset == "mine"
