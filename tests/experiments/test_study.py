import keras
import pandas as pd
import pytest
from tqdm import tqdm

from memembed.data import prepare, synthetic_ratings
from memembed.experiments.journal import Journal
from memembed.experiments.study import (
    COLUMNS,
    KEY,
    PLAIN,
    Configuration,
    configurations,
    rerun,
    study,
)
from memembed.training import EXAMPLE, Settings

# Two models, two choices, two seeds. One is also trained as the example trains it.
MODELS = [
    Configuration("plain", "both", "12", 12, {"user": PLAIN, "movie": PLAIN}),
    Configuration("biases", "both", "b", 0, {"user_bias": PLAIN, "movie_bias": PLAIN}),
]
CHOICES = [Settings(0.01, "cosine", epochs=2, l2=l2) for l2 in (0.0, 0.03)]
RUNS = 2 * (2 + 2) + 2


@pytest.fixture(scope="module")
def data():
    return prepare(synthetic_ratings(num_users=60, num_movies=50, num_ratings=2000))


def run(data, path, update=lambda: None):
    class Bar(tqdm):
        def update(self):
            update()

    def progress(**arguments):
        return Bar(**arguments, disable=True)

    journal = Journal(path, COLUMNS, KEY)
    study(data, journal, MODELS, CHOICES, range(2), progress)
    return pd.read_csv(path)


@pytest.fixture(scope="module")
def rows(data, tmp_path_factory):
    """The rows of a study that was stopped twice and then run to its end."""
    path = tmp_path_factory.mktemp("study") / "study.csv"
    stops = [3, 5]

    def interrupt():
        if stops and len(pd.read_csv(path)) == stops[0]:
            del stops[0]
            raise KeyboardInterrupt

    for expected in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(data, path, interrupt)
        assert len(pd.read_csv(path)) == expected
    finished = run(data, path)
    pd.testing.assert_frame_equal(run(data, path), finished)  # nothing left to do
    return finished


def test_every_configuration_can_be_built_and_is_listed_once():
    data = prepare(synthetic_ratings(num_ratings=130_000))
    parameters = {}
    for model in configurations(data):
        built = model.build(data)
        assert built.output_shape == (None, 1)
        key = model.method, model.on, model.name
        assert key not in parameters
        parameters[key] = built.count_params()
    assert len(parameters) == 68
    assert parameters["plain", "both", "64 columns"] == 623_744
    assert parameters["plain and biases", "both", "64 columns"] == 633_490
    assert parameters["QR and MD combined", "both", "the Keras example's"] == 117_968
    assert parameters["biases alone", "movies", "biases of movies"] == 3707
    assert parameters["QR, multiply", "both", "8 columns, 1 x sqrt buckets"] == 8 * 278
    for columns in (2, 4, 8, 12):
        plan = parameters["MD by plan", "both", f"the size of {columns} columns"]
        plain = columns * (6040 + 3706)
        assert 0.99 * plain < plan <= plain


def test_it_trains_what_it_should_and_nothing_twice(rows):
    assert len(rows) == RUNS
    assert not rows.duplicated(KEY).any()
    stages = rows.stage.value_counts().to_dict()
    assert stages == {"choose": 4, "report": 4, "example": 2}
    assert rows.mse.isna().equals(rows.stage == "choose")
    assert (rows.learning_rate[rows.stage == "example"] == EXAMPLE.learning_rate).all()


def test_the_choice_is_made_on_the_validation_part(rows):
    for _, group in rows[rows.stage != "example"].groupby("configuration"):
        tried = group[group.stage == "choose"]
        best = tried.loc[tried.val_mse.idxmin()]
        assert set(group[group.stage == "report"].l2) == {best.l2}


def test_a_stored_row_can_be_run_again(data, rows):
    keras.backend.clear_session()
    for i in rows.groupby("stage").sample(1, random_state=0).index:
        row = rows.loc[i]
        again = rerun(row, data)
        assert list(again) == COLUMNS
        assert again["val_mse"] == pytest.approx(row.val_mse, rel=1e-4)
        if row.stage != "choose":
            assert again["mae"] == pytest.approx(row.mae, rel=1e-4)
        same = [name for name in KEY if row[name] == row[name]]
        assert [again[name] for name in same] == [row[name] for name in same]
