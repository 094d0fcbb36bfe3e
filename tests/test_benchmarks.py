"""The two ways that `make bench` compares must do the same work."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import epoch, growth, keras_example, ours, training, vocabulary
from benchmarks.__main__ import PARTS, page
from memembed.data import prepare, synthetic_ratings
from memembed.experiments.results import stored


@pytest.fixture(scope="module")
def data():
    return ours.like_the_example(
        prepare(synthetic_ratings(num_users=90, num_movies=1800, num_ratings=4000))
    )


@pytest.mark.parametrize(
    ("name", "parameters"), [("baseline", 623_744), ("QR and MD", 117_968)]
)
def test_both_ways_train_models_of_the_same_parameters(name, parameters):
    data = prepare(synthetic_ratings(num_ratings=130_000))
    for way in (keras_example, ours):
        assert way.builders(data)[name]().count_params() == parameters


def test_both_ways_train_on_the_same_ratings(data):
    assert len(data.train) + len(data.evaluation) == 4000
    assert len(data.evaluation) == 600
    assert data.validation is data.evaluation


def test_both_ways_run(data):
    theirs, our = (way.run(data, epochs=1) for way in (keras_example, ours))
    assert [row.keys() for row in theirs] == [row.keys() for row in our]
    assert [row["model"] for row in theirs] == [row["model"] for row in our]
    assert all(0 < row["MSE"] < 5 for row in theirs + our)


def test_every_way_of_an_epoch_runs(data):
    assert all(run() > 0 for run in epoch.ways(data).values())


def test_ratios_are_taken_pair_by_pair():
    rows = [
        (0, "Keras example", "b", 30),
        (0, "Keras example", "a", 10),
        (0, "memembed", "b", 3),
        (0, "memembed", "a", 5),
    ]
    found = training.ratios(
        pd.DataFrame(rows, columns=["pair", "way", "model", "seconds"])
    )
    assert list(found.loc[0].items()) == [("b", 10), ("a", 2), ("both", 5)]


def test_bytes_that_adam_moves():
    assert epoch.bytes_per_epoch(1000, 300, batch_size=128) == 4 * 8 * 1000 * 3


def test_the_page_shows_what_is_stored():
    assert sorted(stored("machine").part) == sorted(PARTS)
    written = Path(__file__).parents[1] / "benchmarks" / "results.md"
    assert written.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("numbers", [1, 1 / 4, 1 / 8])
@pytest.mark.parametrize("make", [growth.hashing, growth.quotient_remainder])
def test_layers_with_shared_rows_have_the_size_in_their_name(make, numbers):
    layer = make(numbers)(10**5)
    layer.build()
    assert 0.99 < layer.count_params() / (10**5 * numbers) <= 1.001


def test_a_search_finds_the_best_penalty_and_rate():
    class Data:
        def trained(self, name, l2, rate, seed):
            return l2, rate

        def error(self, model, part):
            """Have a minimum at a penalty of 0.1, and a lower one at 0.00001."""
            l2, rate = model
            high, low = abs(np.log(l2 / 0.1)), abs(np.log(l2 / 1e-5)) - 1
            return min(high, low) + abs(np.log(rate / 0.9))

    penalty, rate = growth.choose(Data(), "hashing, 1 numbers")
    assert 0.5e-5 < penalty < 2e-5
    assert rate == pytest.approx(0.9)


def test_out_of_memory_gives_nan_and_other_errors_are_raised(monkeypatch):
    def end_with(code, words):
        ended = subprocess.CompletedProcess([], code, "1 2 3 4\n", words)
        monkeypatch.setattr("subprocess.run", lambda *_, **__: ended)

    end_with(0, "")
    assert vocabulary.run("full table", "adam", 10) == [1, 2, 3, 4]
    for code, words in ((1, "ran out of memory"), (1, "OOM when"), (-9, "")):
        end_with(code, words)
        assert np.isnan(vocabulary.run("full table", "adam", 10)).all()
    end_with(1, "TypeError")
    with pytest.raises(RuntimeError, match="TypeError"):
        vocabulary.run("full table", "adam", 10)
