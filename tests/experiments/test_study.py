import keras
import pandas as pd
import pytest
from tqdm import tqdm

from memembed.data import prepare, synthetic_ratings
from memembed.experiments import study
from memembed.experiments.journal import Journal
from memembed.experiments.study import (
    COLUMNS,
    KEY,
    Configuration,
    configurations,
    rerun,
    run,
)

PLAIN = {"layer": "Embedding"}


@pytest.fixture(scope="module")
def data():
    return prepare(synthetic_ratings(num_users=60, num_movies=50, num_ratings=2000))


@pytest.fixture(scope="module")
def full():
    return prepare(synthetic_ratings(num_ratings=130_000))


def quiet(**arguments):
    return tqdm(**arguments, disable=True)


def test_every_configuration_can_be_built_and_is_there_once(full):
    models = configurations(full)
    parameters = {}
    for model in models:
        built = model.build(full, l2=0.1)
        assert built.output_shape == (None, 1)
        assert sum(layer.activity_regularizer is not None for layer in built.layers)
        key = model.method, model.on, model.name
        assert key not in parameters
        parameters[key] = built.count_params()
    assert parameters["plain", "both", "64 columns"] == 623_744
    assert parameters["plain and biases", "both", "64 columns"] == 633_490
    assert parameters["QR and MD combined", "both", "the Keras example's"] == 117_968
    assert parameters["biases alone", "movies", "biases of movies"] == 3707
    assert parameters["QR, multiply", "both", "8 columns, 1 x sqrt buckets"] == 8 * 278
    for columns in (2, 4, 8, 12):
        plan = parameters["MD by plan", "both", f"the size of {columns} columns"]
        plain = columns * (6040 + 3706)
        assert 0.99 * plain < plan <= plain


def test_biases_are_held_back_less(data):
    layers = {side: PLAIN for side in ("user", "movie", "user_bias", "movie_bias")}
    model = Configuration("plain", "both", "x", 3, layers).build(data, l2=0.12)
    assert model.get_layer("user_embedding").activity_regularizer.l2 == pytest.approx(
        0.12
    )
    assert model.get_layer("user_bias").activity_regularizer.l2 == pytest.approx(0.01)
    assert (model.get_layer("user_bias").get_weights()[0] == 0).all()


@pytest.fixture
def short(monkeypatch):
    """Two models of two choices and two seeds, one of them as the example trains it."""
    plain = {"user": PLAIN, "movie": PLAIN}
    biases = {"user_bias": PLAIN, "movie_bias": PLAIN}
    models = [
        Configuration("plain", "both", "12 columns", 12, plain),
        Configuration("biases alone", "both", "biases alone", 0, biases),
    ]
    monkeypatch.setattr(study, "configurations", lambda data: models)
    choices = [choice | {"epochs": 2} for choice in study.CHOICES[:2]]
    monkeypatch.setattr(study, "CHOICES", choices)
    monkeypatch.setattr(study, "EXAMPLE", study.EXAMPLE | {"epochs": 1})
    monkeypatch.setattr(study, "SEEDS", range(2))


def test_it_goes_on_where_it_was_stopped(data, short, tmp_path, monkeypatch):
    path, finished, stops = tmp_path / "study.csv", [], [3, 5]

    def interrupted(*arguments):
        if len(finished) in stops:
            stops.remove(len(finished))
            raise KeyboardInterrupt
        finished.append(run(*arguments))
        return finished[-1]

    monkeypatch.setattr(study, "run", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            study.study(data, Journal(path, COLUMNS, KEY), quiet)
        assert len(pd.read_csv(path)) == len(finished)
    for _ in range(2):  # there is nothing left to do the second time
        study.study(data, Journal(path, COLUMNS, KEY), quiet)
        rows = pd.read_csv(path)
        assert len(rows) == len(finished) == 2 * (2 + 2) + 2
    assert not rows.duplicated(KEY).any()
    assert rows.stage.value_counts().to_dict() == {
        "choose": 4,
        "report": 4,
        "example": 2,
    }
    assert rows.mse[rows.stage == "choose"].isna().all()
    assert rows.mse[rows.stage != "choose"].notna().all()
    for _, group in rows[rows.epochs == 2].groupby("configuration"):
        tried = group[group.stage == "choose"]
        best = tried.loc[tried.val_mse.idxmin()]
        kept = group[group.stage == "report"]
        for setting in ("learning_rate", "l2"):
            assert set(kept[setting]) == {best[setting]}


def test_a_stored_row_can_be_run_again(data, short, tmp_path):
    journal = Journal(tmp_path / "study.csv", COLUMNS, KEY)
    study.study(data, journal, quiet)
    keras.backend.clear_session()
    rows = pd.read_csv(journal.path)
    for i in rows.groupby("stage").sample(1, random_state=0).index:
        row = rows.loc[i]
        again = rerun(row, data)
        assert set(again) == set(COLUMNS)
        assert again["val_mse"] == pytest.approx(row.val_mse, rel=1e-4)
        if row.stage != "choose":
            assert again["mae"] == pytest.approx(row.mae, rel=1e-4)
        assert [again[name] for name in KEY] == [row[name] for name in KEY]


def test_the_hash_tells_splits_apart(data):
    assert study.split_hash(data) == study.split_hash(data)
    ratings = synthetic_ratings(num_users=60, num_movies=50, num_ratings=2000)
    assert study.split_hash(prepare(ratings)) == study.split_hash(data)
    assert study.split_hash(prepare(ratings, seed=1)) != study.split_hash(data)


def test_summary():
    columns = ["method", "on", "name", "parameters", "bytes", "training_bytes"]
    columns += ["seconds", "mse", "mae"]
    rows = [
        ("plain", "both", "a", 500, 2000, 8000, 2.2, 0.50, 0.6),
        ("plain", "both", "a", 500, 2000, 8000, 4.2, 0.54, 0.8),
        ("biases alone", "both", "b", 1, 4, 16, 1.0, 0.9, 0.9),
    ]
    table = study.summary(pd.DataFrame(rows, columns=columns))
    assert table.index.tolist() == [
        ("plain", "both", "a"),
        ("biases alone", "both", "b"),
    ]
    first = table.iloc[0]
    assert first[["parameters", "weights, kB", "training, kB", "seconds"]].tolist() == [
        *(500, 2, 8, 3)
    ]
    assert first["MSE"] == pytest.approx(0.52)
    assert first["MAE ±"] == pytest.approx(0.1 * 2**0.5)
