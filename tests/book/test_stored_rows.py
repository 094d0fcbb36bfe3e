"""Running the experiments again must give their stored rows."""

import random
from dataclasses import fields, replace
from types import SimpleNamespace

import pandas as pd
import pytest

from memembed.data import load_ratings, prepare
from memembed.experiments.evidence import COLUMNS, KEY, Study
from memembed.experiments.journal import Journal
from memembed.experiments.ladder import climb
from memembed.experiments.results import stored
from memembed.experiments.study import rerun
from memembed.experiments.tasks import RATINGS
from memembed.training import Settings, split_hash

pytestmark = pytest.mark.book

# Other processors round the last few digits differently. A bit may then go to another
# column, so the errors of models with few bits differ more than those of plain tables.
TOLERANCE, OF_FEW_BITS = 0.0005, 0.003


@pytest.fixture(scope="module")
def ratings():
    ratings = load_ratings()
    if ratings.attrs["dataset"] != "ml-1m":
        pytest.skip("the stored rows are about MovieLens 1M")
    return ratings


def test_a_random_row_of_the_study_is_reproduced(ratings):
    data = prepare(ratings, seed=0)
    rows = stored("study")
    row = rows.loc[random.choice(rows.index)]
    print(row.to_string())  # pytest shows it if this fails
    assert row.split == split_hash(data)
    again = rerun(row, data)
    assert again["parameters"] == row.parameters
    assert again["val_mse"] == pytest.approx(row.val_mse, abs=TOLERANCE)
    if row.stage != "choose":
        assert again["mae"] == pytest.approx(row.mae, abs=TOLERANCE)


def test_a_random_climb_of_the_ladder_is_reproduced(ratings):
    """Up to a random rung: the last ones take a minute."""
    rows = stored("ladder")
    split_seed, seed = random.choice(rows[["split_seed", "seed"]].values.tolist())
    data = prepare(ratings, seed=split_seed)
    climbed = climb(data, seed, all_rungs=False)
    for _, result in zip(range(random.randint(1, 4)), climbed, strict=False):
        found = rows[(rows["name"] == result.name) & (rows.seed == seed)]
        (row,) = found[found.split == result.split].itertuples()
        print(row)
        few_bits = result.name.startswith("few bits")
        tolerance = OF_FEW_BITS if few_bits else TOLERANCE
        assert result.bytes == pytest.approx(row.bytes, rel=0.001 if few_bits else 0)
        assert result.mse == pytest.approx(row.mse, abs=tolerance)
        assert result.mae == pytest.approx(row.mae, abs=tolerance)


def test_a_random_pair_of_the_evidence_is_reproduced(ratings, tmp_path):
    """Full tables, and few bits made from them; books and rankings take too long."""
    rows = stored("evidence")
    rows = rows[(rows.task == RATINGS.name) & rows["size"].isin([1, RATINGS.bar])]
    full = rows[rows.method == "full tables"].sample(1).iloc[0]
    print(full.to_string())
    data = prepare(ratings, seed=int(full.split_seed))
    assert full.split == split_hash(data)
    settings = Settings(**{each.name: full[each.name] for each in fields(Settings)})
    like = SimpleNamespace(build=full.detail, settings=settings)
    journal = Journal(tmp_path / "again.csv", COLUMNS, KEY)
    task = replace(RATINGS, averages=False)
    Study(task, data, int(full.split_seed), journal, like).bar(int(full.seed))
    again = pd.read_csv(journal.path).set_index("method")
    pair = rows[(rows.seed == full.seed) & (rows.split_seed == full.split_seed)]
    pair = pair.set_index("method")
    for method in again.index:
        tolerance = TOLERANCE if method == "full tables" else OF_FEW_BITS
        for error in ("mse", "mae"):
            expected = pytest.approx(pair[error][method], abs=tolerance)
            assert again[error][method] == expected
