"""Ratings in Parquet files: each is read, and errors name the file."""

from collections import Counter
from threading import Event, Thread

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memembed import fine_tune
from memembed.data import RatingShards, Vocabulary, write_synthetic_shards
from memembed.models import dot_product_model

BATCH = 64


def write(file, user, movie, rating, row_group_size=100):
    table = pa.table({"user_id": user, "movie_id": movie, "rating": rating})
    pq.write_table(table, file, row_group_size=row_group_size)


@pytest.fixture
def folder(tmp_path):
    """Three files of 500, 500 and 250 ratings, all of them different numbers."""
    for i, numbers in enumerate(np.split(np.arange(1250), [500, 1000])):
        file = tmp_path / f"part-{i}-of-3.parquet"
        write(file, numbers % 37 + 5, numbers % 11, numbers.astype("float32"))
    return tmp_path


def batches_of(folder, **options):
    shards = RatingShards(folder)
    vocabularies = map(shards.vocabulary, ("user_id", "movie_id"))
    return shards.batches(*vocabularies, BATCH, **{"pool_size": 200} | options)


def seen(batches):
    return np.concatenate([batches[i][1] for i in range(len(batches))])


def test_a_vocabulary_is_that_of_all_ratings(folder):
    numbers = np.arange(1250)
    found = RatingShards(folder).vocabulary("user_id")
    expected = Vocabulary(numbers % 37 + 5)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.counts.tolist() == expected.counts.tolist()


def test_counts_are_right_however_often_they_are_merged(folder, monkeypatch):
    expected = RatingShards(folder).vocabulary("movie_id").counts.tolist()
    monkeypatch.setattr("memembed.data.shards.LEAST_MERGED", 1)
    assert RatingShards(folder).vocabulary("movie_id").counts.tolist() == expected


def test_rare_ids_share_a_row(folder):
    shards = RatingShards(folder)
    vocabulary = shards.vocabulary("user_id", min_count=34)
    kept = np.bincount(np.arange(1250) % 37) >= 34
    assert 0 < kept.sum() < 37
    assert len(vocabulary) == kept.sum() + 1
    assert vocabulary.encode(-7) == len(vocabulary) - 1


def test_ids_may_be_strings(tmp_path):
    names = np.array(["b", "a", "c", "b"])
    write(tmp_path / "one.parquet", names, [1, 2, 3, 1], [1.0, 2.0, 3.0, 4.0])
    shards = RatingShards(tmp_path)
    users = shards.vocabulary("user_id")
    assert users.ids.tolist() == ["b", "a", "c"]
    inputs, ratings = shards.batches(users, shards.vocabulary("movie_id"), 4)[0]
    assert names[np.argsort(ratings)].size == 4
    order = np.argsort(ratings)
    assert users.decode(inputs["user"][order]).tolist() == names.tolist()


def test_an_epoch_has_every_rating_once(folder):
    ratings = seen(batches_of(folder))
    assert len(ratings) == 1250 // BATCH * BATCH
    assert len(set(ratings)) == len(ratings)


def test_ids_and_ratings_stay_together(folder):
    shards = RatingShards(folder)
    users, movies = map(shards.vocabulary, ("user_id", "movie_id"))
    for inputs, ratings in shards.batches(users, movies, BATCH, pool_size=200):
        assert (users.decode(inputs["user"]) == ratings % 37 + 5).all()
        assert (movies.decode(inputs["movie"]) == ratings % 11).all()


def test_ratings_of_many_row_groups_are_shuffled_together(folder):
    first = batches_of(folder)[0][1]
    assert len({number // 100 for number in first}) > 1
    assert (np.diff(first) < 0).any()


def test_each_epoch_has_its_own_order_that_can_be_repeated(folder):
    batches = batches_of(folder)
    first, second = seen(batches), seen(batches)
    assert batches.epoch == 1
    assert first.tolist() != second.tolist()
    assert seen(batches_of(folder, epoch=1)).tolist() == second.tolist()
    assert seen(batches_of(folder, seed=1)).tolist() != first.tolist()


def test_the_first_batches_can_be_read_twice_in_an_epoch(folder):
    batches = batches_of(folder)
    looked_at = [batches[i][1].tolist() for i in range(2)]
    assert [batches[i][1].tolist() for i in range(2)] == looked_at
    assert batches.epoch == 0
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_a_stream_that_is_dropped_waits_for_no_thread(folder):
    # The garbage collector may drop it where waiting would block forever.
    batches, may_read = batches_of(folder), Event()
    read, reads = batches.read, []

    def slow_after_the_first(groups):
        reads.append(groups)
        assert len(reads) == 1 or may_read.wait(60)
        return read(groups)

    batches.read = slow_after_the_first
    batches[0]
    closing = Thread(target=batches.stream.close, daemon=True)
    closing.start()
    closing.join(timeout=30)
    may_read.set()
    assert not closing.is_alive()


def test_batches_out_of_order_are_refused(folder):
    batches = batches_of(folder)
    with pytest.raises(ValueError, match="Received: batch 3, but batch 0 is next"):
        batches[3]


def test_processes_share_the_ratings(folder):
    shares = [batches_of(folder, process=i, processes=3) for i in range(3)]
    assert len({len(share) for share in shares}) == 1
    ratings = np.concatenate([seen(share) for share in shares])
    assert len(set(ratings)) == len(ratings) > 1000


def test_fit_accepts_the_batches(folder):
    batches, ratings = batches_of(folder), Counter()
    read = batches.read

    def reading(groups):
        ratings[batches.epoch] += sum(rows for *_, rows in groups)
        return read(groups)

    batches.read = reading
    layers = keras.layers.Embedding(37, 2), keras.layers.Embedding(11, 2)
    model = dot_product_model(*layers)
    model.compile("adam", "mse")
    model.fit(batches, epochs=3, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 3 * len(batches)
    assert ratings[1] == ratings[2] == 1250
    assert ratings[0] >= 1250  # more if Keras looks at the shapes first


def test_fine_tune_accepts_the_batches(folder):
    layers = keras.layers.Embedding(37, 2), keras.layers.Embedding(11, 2)
    model = dot_product_model(*layers)
    model.compile("adam", "mse")
    parts = batches_of(folder), batches_of(folder, seed=1)
    better = fine_tune(model, *parts, epochs=1)
    data = batches_of(folder)
    errors = [each.evaluate(data, verbose=0) for each in (better, model)]
    assert errors[0] < errors[1]


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`folder` must hold Parquet files.*Received"):
        RatingShards(tmp_path)


def test_files_without_ratings_are_refused(tmp_path):
    table = {"user_id": pa.array([], "int64"), "movie_id": pa.array([], "int64")}
    table = pa.table({**table, "rating": pa.array([], "float32")})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"`folder` must hold ratings.*Received"):
        RatingShards(tmp_path)


def test_a_missing_file_is_named(folder):
    (folder / "part-1-of-3.parquet").unlink()
    with pytest.raises(ValueError, match=r"part-1-of-3\.parquet is missing"):
        RatingShards(folder)


def test_a_file_that_was_cut_is_named(folder):
    file = folder / "part-2-of-3.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"part-2-of-3\.parquet is not a complete"):
        RatingShards(folder)


def test_a_file_that_is_cut_or_gone_later_is_named(folder):
    batches = batches_of(folder)
    for file in folder.glob("part-0*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"part-0-of-3\.parquet cannot be read"):
        seen(batches)


def test_a_file_of_other_columns_is_named(folder):
    table = pa.table({"user_id": [1], "stars": [2.0]})
    pq.write_table(table, folder / "part-1-of-3.parquet")
    message = r"part-1-of-3\.parquet must have a column 'movie_id'\. It has: user_id, s"
    with pytest.raises(ValueError, match=message):
        RatingShards(folder)


@pytest.mark.parametrize(
    ("column", "values", "wanted"),
    [("user_id", [1.5], "integers or strings"), ("rating", ["good"], "numbers")],
)
def test_a_column_of_another_type_is_named(folder, column, values, wanted):
    table = {"user_id": [1], "movie_id": [1], "rating": [1.0], column: values}
    pq.write_table(pa.table(table), folder / "part-1-of-3.parquet")
    message = rf"part-1-of-3\.parquet: column '{column}' .* {wanted}"
    with pytest.raises(ValueError, match=message):
        RatingShards(folder)


def test_a_null_is_named(folder):
    write(folder / "part-1-of-3.parquet", pa.array([None, 1]), [1, 1], [1.0, 1.0])
    message = r"part-1-of-3\.parquet: column 'user_id' must not have"
    with pytest.raises(ValueError, match=message):
        RatingShards(folder).vocabulary("user_id")


@pytest.mark.parametrize("rating", [np.nan, np.inf])
def test_a_rating_that_is_not_finite_is_named(folder, rating):
    write(folder / "part-1-of-3.parquet", [5], [1], [rating])
    message = r"part-1-of-3\.parquet: column 'rating' must hold finite numbers"
    with pytest.raises(ValueError, match=message):
        seen(batches_of(folder))


def test_ids_of_two_types_are_named(folder):
    write(folder / "part-1-of-3.parquet", ["u5"], [1], [1.0])
    message = r"part-1-of-3\.parquet: column 'user_id' must be int64, as in part-0-of-3"
    with pytest.raises(ValueError, match=message):
        RatingShards(folder)


def test_a_copy_of_a_numbered_file_is_named(folder):
    file = folder / "part-1-of-3.parquet"
    (folder / "part-1-of-3 (copy).parquet").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"\(copy\)\.parquet does not belong to"):
        RatingShards(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "part-0-of-1",
            r"-0-of-3\.parquet is not of the same run as part-0-of-1",
        ),
        ("part-3-of-3", r"part-3-of-3\.parquet must have a number below 3, from 0"),
        ("part-01-of-3", r"part-1-of-3\.parquet has the number of part-01-of-3\.parq"),
    ],
)
def test_files_of_another_run_are_named(folder, name, message):
    file = folder / "part-1-of-3.parquet"
    (folder / f"{name}.parquet").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=message):
        RatingShards(folder)


def test_integers_that_fit_into_no_type_are_named(tmp_path):
    for i, kind in enumerate(("int64", "uint64")):
        ids = np.array([1, 2**62], kind) * 3
        write(tmp_path / f"{i}.parquet", ids, [1, 2], [3.0, 4.0])
    with pytest.raises(ValueError, match=r"'user_id' must have ids of one.*uint64"):
        RatingShards(tmp_path).vocabulary("user_id")


@pytest.mark.parametrize("columns", [("user_id", "rating"), ("user_id", "movie_id", 2)])
def test_columns_must_be_three_names(folder, columns):
    with pytest.raises(ValueError, match=r"`columns` must be the names.*Received"):
        RatingShards(folder, columns)


def test_a_vocabulary_of_an_unknown_column(folder):
    with pytest.raises(
        ValueError, match=r"`column` must be one of.*Received: 'rating'"
    ):
        RatingShards(folder).vocabulary("rating")


def test_an_unknown_id_is_named_with_its_file(folder):
    shards = RatingShards(folder)
    few = Vocabulary.from_counts([5], [1])
    with pytest.raises(ValueError, match=r"part-.-of-3\.parquet: ids not in the voc"):
        shards.batches(few, shards.vocabulary("movie_id"), BATCH)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process": 2, "processes": 2}, "`process` must be from 0 to 1. Received: 2"),
        ({"processes": 20}, "`batch_size` must be smaller: 20 processes"),
        ({"pool_size": 0}, "`pool_size` must be a positive integer"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
        ({"epoch": -1}, "`epoch` must be an integer of at least 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        batches_of(folder, **options)


def test_synthetic_shards_are_the_same_after_an_interruption(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        write_synthetic_shards(folder, 2500, 100, 30, shard_size=1000)
    times = {file.name: file.stat().st_mtime_ns for file in resumed.iterdir()}
    (resumed / "ratings-1-of-3.parquet").unlink()
    write_synthetic_shards(resumed, 2500, 100, 30, shard_size=1000)
    assert [*RatingShards(resumed).groups[-1][1:]] == [0, 500]
    for file in whole.iterdir():
        assert pq.read_table(file).equals(pq.read_table(resumed / file.name))
        kept = (resumed / file.name).stat().st_mtime_ns == times[file.name]
        assert kept == ("-1-" not in file.name)


def test_synthetic_shards_of_another_call_are_refused(tmp_path):
    write_synthetic_shards(tmp_path, np.uint32(1000), 50, 20, shard_size=600)
    write_synthetic_shards(tmp_path, 1000, 50, 20, shard_size=600)
    assert len(RatingShards(tmp_path)) == 1000
    before = sorted(tmp_path.iterdir())
    for other in ({"seed": 1}, {"noise": 0}, {"shard_size": 300}, {"num_users": 51}):
        options = {"num_users": 50, "num_movies": 20, "shard_size": 600} | other
        with pytest.raises(ValueError, match=r"of the same call.*-0-of-2\.parquet"):
            write_synthetic_shards(tmp_path, 1000, **options)
    assert sorted(tmp_path.iterdir()) == before
    before[0].write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"-0-of-2\.parquet cannot be read"):
        write_synthetic_shards(tmp_path, 1000, 50, 20, shard_size=600)


def test_only_the_noise_does_not_depend_on_the_ids(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        write_synthetic_shards(folder, 40_000, 20, 20, noise=0.5, seed=seed)
    tables = [pq.read_table(tmp_path / str(seed)).to_pandas() for seed in (0, 1)]
    means, others = (x.groupby(["user_id", "movie_id"]).rating.mean() for x in tables)
    assert len(means) == 400
    assert abs(means - others).max() < 0.5
    noise = tables[0].set_index(["user_id", "movie_id"]).rating - means
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    assert means.std() > 0.7


def test_users_movies_and_taste_have_a_third_of_the_variance_each(tmp_path):
    write_synthetic_shards(tmp_path, 400_000, 2000, 500, noise=0)
    ratings = pq.read_table(tmp_path).to_pandas()
    # Each user and movie counts once here, however often they are rated.
    ratings = ratings.drop_duplicates(["user_id", "movie_id"])
    effects = [ratings.groupby(f"{of}_id").rating.mean() for of in ("user", "movie")]
    assert [each.var() for each in effects] == pytest.approx([0.25, 0.25], rel=0.15)
    assert ratings.rating.var() == pytest.approx(0.745, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -1}, "`noise` must not be negative"),
        ({"num_users": 0}, "`num_users`"),
    ],
)
def test_synthetic_shards_of_bad_sizes(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_synthetic_shards(tmp_path / "x", 10, **options)
    assert not (tmp_path / "x").exists()
