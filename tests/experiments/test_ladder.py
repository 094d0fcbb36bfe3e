import pandas as pd
import pytest
from tqdm import tqdm

from memembed.data import prepare, synthetic_ratings
from memembed.experiments import ladder
from memembed.experiments.journal import Journal
from memembed.experiments.ladder import (
    COLUMNS,
    KEY,
    LAST,
    climb,
    in_int8,
    plain,
    stored_bytes,
)
from memembed.models import embeddings_of


@pytest.fixture(scope="module")
def ratings():
    return synthetic_ratings(num_users=600, num_movies=400, num_ratings=15_000)


@pytest.fixture
def short(monkeypatch):
    """One epoch each, and budgets in proportion to the ratings."""
    for name in ("EXAMPLE", "FULL", "ROUNDED", "FINE"):
        settings = getattr(ladder, name) | {"epochs": 1, "learning_rate": 1e-3}
        monkeypatch.setattr(ladder, name, settings)
    monkeypatch.setattr(ladder, "BASELINE", 400_000)
    monkeypatch.setattr(ladder, "FULL_AND_BIASES", 300_000)
    monkeypatch.setattr(ladder, "SPLITS", range(2))
    monkeypatch.setattr(ladder, "SEEDS", range(1))


def test_the_rungs(ratings, short):
    data = prepare(ratings)
    rungs = {name: stored_bytes(model) for name, model in climb(data, seed=0)}
    assert rungs["full tables"] == 4 * 64 * 1000
    assert rungs["full tables at their best"] == 4 * 65 * 1000
    assert rungs["12 columns"] == 4 * 13 * 1000
    assert rungs["12 columns in int8"] == (12 + 4 + 1 + 4) * 1000
    assert rungs["mixed dimensions"] <= 4 * (6 + 1) * 1000
    assert rungs["few bits, not trained"] == rungs["few bits"]
    assert 3800 < rungs["few bits"] <= 4000
    assert 3800 < rungs[LAST] <= 4000
    assert rungs["few bits of an average, a 120th"] <= 400_000 // 120
    assert 9000 < rungs["few bits of an average, a thirtieth"] <= 10_000
    bars = [name for name, _ in climb(data, seed=0, all_rungs=False)]
    assert bars == [
        "full tables",
        "full tables at their best",
        "few bits of an average, a thirtieth",
        LAST,
    ]


def test_it_goes_on_where_it_was_stopped(ratings, short, tmp_path, monkeypatch):
    path, stops = tmp_path / "ladder.csv", [2]

    def three(data, seed, all_rungs):
        for name in ("a", "b", LAST):
            yield name, plain(data, 2, biases=all_rungs)

    def measured(model, data):
        if len(pd.read_csv(path)) in stops:
            stops.clear()
            raise KeyboardInterrupt
        return found(model, data)

    found = ladder.measured
    monkeypatch.setattr(ladder, "climb", three)
    monkeypatch.setattr(ladder, "measured", measured)

    def run():
        ladder.ladder(
            ratings, Journal(path, COLUMNS, KEY), lambda **k: tqdm(**k, disable=True)
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(pd.read_csv(path)) == 2
    for _ in range(2):
        run()
        rows = pd.read_csv(path)
        assert (
            rows.groupby("split_seed").rung.apply(list).tolist()
            == [["a", "b", LAST]] * 2
        )
        assert not rows.duplicated(KEY).any()
    assert rows.split.nunique() == 2


def test_int8_leaves_the_model_as_it_was(ratings, recwarn):
    data = prepare(ratings)
    model = plain(data, 3)
    before = stored_bytes(model)
    assert stored_bytes(in_int8(model)) != before == stored_bytes(model)
    assert not [each for each in recwarn.list if each.category is UserWarning]


def test_holding_back(ratings):
    model = plain(prepare(ratings), 3)
    ladder.hold_back(model, 0.12)
    layers = embeddings_of(model)
    strengths = {name: layers[name].activity_regularizer.l2 for name in layers}
    assert strengths == pytest.approx(
        {"user": 0.12, "movie": 0.12, "user_bias": 0.01, "movie_bias": 0.01}
    )
