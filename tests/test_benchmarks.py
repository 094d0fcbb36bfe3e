"""The two ways that `make bench` compares must do the same work."""

import pandas as pd
import pytest

from benchmarks import epoch, keras_example, training
from memembed.data import prepare, synthetic_ratings


@pytest.fixture(scope="module")
def data():
    return training.like_the_example(prepare(synthetic_ratings(num_ratings=130_000)))


@pytest.mark.parametrize(
    ("name", "parameters"), [("baseline", 623_744), ("QR and MD", 117_968)]
)
def test_both_ways_train_models_of_the_same_parameters(data, name, parameters):
    for way in (keras_example, training):
        assert way.builders(data)[name]().count_params() == parameters


def test_both_ways_train_on_the_same_ratings(data):
    assert len(data.train) + len(data.evaluation) == 130_000
    assert len(data.evaluation) == 19_500
    assert data.validation is data.evaluation


def test_both_ways_run():
    data = training.like_the_example(
        prepare(synthetic_ratings(num_users=90, num_movies=1800, num_ratings=4000))
    )
    theirs, ours = (way.run(data, epochs=1) for way in (keras_example, training))
    assert [row["model"] for row in theirs] == [row["model"] for row in ours]
    assert all(0 < row["MSE"] < 5 for row in theirs + ours)


def test_ratios_are_taken_pair_by_pair():
    rows = [
        (0, "Keras example", "a", 30),
        (0, "Keras example", "b", 10),
        (0, "memembed", "a", 3),
        (0, "memembed", "b", 5),
    ]
    found = training.ratios(
        pd.DataFrame(rows, columns=["pair", "way", "model", "seconds"])
    )
    assert found.loc[0].to_dict() == {"a": 10, "b": 2, "both": 5}


def test_bytes_that_adam_moves():
    assert epoch.bytes_per_epoch(1000, 300, batch_size=128) == 4 * 8 * 1000 * 3
