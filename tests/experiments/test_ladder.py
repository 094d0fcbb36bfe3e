import pandas as pd
import pytest
from tqdm import tqdm

from memembed.data import prepare, synthetic_ratings
from memembed.experiments.journal import Journal
from memembed.experiments.ladder import (
    COLUMNS,
    KEY,
    LAST,
    climb,
    in_int8,
    ladder,
    plain,
)
from memembed.training import measure


@pytest.fixture(scope="module")
def ratings():
    return synthetic_ratings(num_users=600, num_movies=400, num_ratings=15_000)


def test_the_rungs(ratings):
    data = prepare(ratings)
    sizes = {rung.name: rung.bytes for rung in climb(data, seed=0)}
    assert sizes["full tables"] == 4 * 64 * 1000
    assert sizes["full tables at their best"] == 4 * 65 * 1000
    assert sizes["12 columns"] == 4 * 13 * 1000
    assert sizes["12 columns in int8"] == (12 + 4 + 1 + 4) * 1000
    assert sizes["mixed dimensions"] <= 4 * (6 + 1) * 1000
    assert sizes["few bits, not trained"] == sizes["few bits"]
    assert 2400 < sizes["few bits"] <= 2560
    assert 2400 < sizes[LAST] <= 2560
    assert sizes["few bits of an average, a 120th"] <= 256_000 // 120
    assert 8200 < sizes["few bits of an average, a thirtieth"] <= 260_000 // 30


def test_it_resumes_where_it_was_stopped(ratings, tmp_path):
    path, stops = tmp_path / "ladder.csv", [2]

    def three(data, seed, all_rungs):
        for name in ("a", "b", LAST):
            if path.exists() and len(pd.read_csv(path)) in stops:
                stops.clear()
                raise KeyboardInterrupt
            model = plain(data, 2, biases=all_rungs)
            yield measure(name, model, data, seed=seed, verbose=False)

    def run():
        journal = Journal(path, COLUMNS, KEY)
        ladder(
            ratings, journal, range(2), [0], three, lambda **k: tqdm(**k, disable=True)
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(pd.read_csv(path)) == 2
    for _ in range(2):
        run()
        rows = pd.read_csv(path)
        names = rows.groupby("split_seed").name.apply(list).tolist()
        assert names == [["a", "b", LAST]] * 2
        assert not rows.duplicated(KEY).any()
    assert rows.split.nunique() == 2


def test_int8_leaves_the_model_as_it_was(ratings, recwarn):
    model = plain(prepare(ratings), 3)
    before = [weights.dtype for weights in model.get_weights()]
    assert in_int8(model).get_weights()[0].dtype == "int8"
    assert [weights.dtype for weights in model.get_weights()] == before
    assert not [each for each in recwarn.list if each.category is UserWarning]
