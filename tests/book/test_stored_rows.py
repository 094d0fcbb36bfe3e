"""The stored results of the study must be what the study finds."""

import random

import pytest

from memembed.data import load_ratings, prepare
from memembed.experiments.results import stored
from memembed.experiments.study import rerun, split_hash

pytestmark = pytest.mark.book


def test_a_random_stored_row_comes_out_again():
    ratings = load_ratings()
    if ratings.attrs["dataset"] != "ml-1m":
        pytest.skip("the stored results are about MovieLens 1M")
    data = prepare(ratings, seed=0)
    rows = stored("study")
    row = rows.loc[random.choice(rows.index)]
    print(row.to_string())  # shown if this fails
    assert row.split == split_hash(data)
    again = rerun(row, data)
    # Other processors round differently, which changes a few of the last digits.
    assert again["parameters"] == row.parameters
    assert again["val_mse"] == pytest.approx(row.val_mse, abs=0.0005)
    if row.stage != "choose":
        assert again["mae"] == pytest.approx(row.mae, abs=0.0005)
