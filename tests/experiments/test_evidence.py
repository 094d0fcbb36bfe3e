from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from tqdm import tqdm

from memembed.compression import num_bytes
from memembed.data import prepare, synthetic_ratings
from memembed.experiments import evidence as module
from memembed.experiments.evidence import (
    COLUMNS,
    KEY,
    NUM_AVERAGED,
    Study,
    against_full_tables,
    evidence,
)
from memembed.experiments.journal import Journal
from memembed.experiments.tasks import BOOKS, RANKING, RATINGS, TASKS
from memembed.rebuild import rebuild

SEEDS, CURVE_SEEDS = range(2), range(1)
FEW_BITS = {"few bits", "few bits, not trained", "few bits of an average"}
REFERENCES = {
    *("full tables", "full tables, fine-tuned"),
    *("average", "average, cut back and fine-tuned"),
}


def quiet(items, **options):
    return tqdm(items, disable=True, **options)


@pytest.fixture(scope="module")
def ratings():
    return synthetic_ratings(num_users=300, num_movies=200, num_ratings=6000)


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """Do not train: multiply weights by a factor. Compress by fewer columns."""

    def compress(model, examples, max_bytes, **options):
        columns = max(1, max_bytes // 2000 - 1)  # of 500 ids, beside a bias

        def narrow(layer):
            if isinstance(layer, keras.layers.Embedding) and layer.output_dim > 1:
                name = layer.name
                return keras.layers.Embedding(layer.input_dim, columns, name=name)

        return rebuild(model, narrow)

    def small(model, examples, max_bytes, validation_data, score, **options):
        assert set(options) == {"batch_size", "verbose"}
        assert np.isfinite(score(model))
        return compress(model, examples, max_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fine_tune", lambda model, **options: model)
        patch.setattr(module, "compress", compress)
        patch.setattr(module, "compress_and_train", small)
        patch.setattr(module, "pack", lambda model: model)
        patch.setattr(module, "forget", lambda: None)
        yield


def fake(task, **options):
    def train(model, data, settings):
        factor = 1 + settings.l2 + 10 * settings.learning_rate
        model.set_weights([factor * weight for weight in model.get_weights()])

    options = {"columns": 16, "sizes": (4,), "bar": 8, "train": train} | options
    return replace(task, **options)


def run(path, ratings, tasks, rivals):
    evidence(
        Journal(path, COLUMNS, KEY),
        tasks,
        SEEDS,
        CURVE_SEEDS,
        rivals,
        lambda name: ratings,
        quiet,
    )
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


@pytest.fixture(scope="module")
def rows(ratings, tmp_path_factory):
    tasks = [fake(RATINGS, splits=(0, 1)), fake(RANKING, averages=False)]
    return run(
        tmp_path_factory.mktemp("evidence") / "all.csv",
        ratings,
        tasks,
        ["fewer columns", "hashing", "product quantisation"],
    )


def test_all_rows(rows):
    rows = rows[rows.method != "choice"]
    first = rows[(rows.task == "ratings") & (rows.split_seed == 0)]
    of = {size: set(part.method) for size, part in first.groupby("size")}
    assert of[1] == REFERENCES | {"biases alone"}
    rivals = {"fewer columns", "hashing", "product quantisation"}
    assert of[4] == of[8] == FEW_BITS | rivals
    further = rows[rows.split_seed == 1]
    assert set(further["size"]) == {1, 8} and set(further.seed) == set(SEEDS)
    assert not rivals & set(further.method)
    ranking = rows[rows.task == "ranking"]
    assert not {"average", "biases alone"} & set(ranking.method)
    assert ranking[["recall", "ndcg"]].notna().all().all()
    assert ranking[["mse", "mae"]].isna().all().all()
    assert set(rows[rows["size"] == 4].seed) == set(CURVE_SEEDS)
    assert not rows.duplicated(KEY).any()


def test_nothing_exceeds_its_budget(rows):
    for _, part in rows[rows.method != "choice"].groupby("task"):
        (full,) = part[part.method == "full tables"].bytes.unique()
        small = part[part["size"] > 1]
        assert (small.bytes <= full // small["size"]).all()


def test_settings_are_those_of_the_least_validation_loss(rows):
    for name, part in rows[rows.split_seed == 0].groupby("task"):
        task = {"ratings": RATINGS, "ranking": RANKING}[name]
        choices = part[(part.method == "choice") & part.detail.isin(task.builds)]
        best = (
            choices.val_ndcg.idxmax() if name == "ranking" else choices.val_mse.idxmin()
        )
        full = part[part.method == "full tables"]
        assert len(choices) >= 5 * len(task.builds) + 2
        for chosen in ("detail", "l2", "learning_rate"):
            assert set(full[chosen]) == {choices.loc[best, chosen]}
    choices = rows[(rows.method == "choice") & (rows["size"] == 4)]
    found = rows[(rows.method == "hashing") & (rows["size"] == 4)]
    assert len(found) == 2
    for _, row in found.iterrows():
        tried = choices[(choices.task == row.task)]
        tried = tried[tried.detail.str.startswith("hashing")]
        ranking = row.task == "ranking"
        best = tried.val_ndcg.idxmax() if ranking else tried.val_mse.idxmin()
        names = ["detail", "l2", "learning_rate"]
        assert tried.loc[best, names].tolist() == row[names].tolist()
    assert choices.mse.isna().all() and choices.recall.isna().all()


def test_a_summary_has_only_complete_pairs(rows):
    tasks = [fake(RATINGS, splits=(0, 1)), fake(RANKING, averages=False)]
    whole = against_full_tables(rows, tasks)
    assert whole["pairs"].tolist() == [4, 4, 2, 2]
    ratings = rows[(rows.task == "ratings") & (rows.seed == 0)]
    full = ratings[ratings.method == "full tables"]
    few = ratings[(ratings.method == "few bits") & (ratings["size"] == 8)]
    last = few.index[few.split_seed == 1]
    part = against_full_tables(rows[rows.seed == 0].drop(last), tasks)
    first = ("ratings", "MSE")
    assert part["pairs"][first] == 1
    assert part["few bits"][first] == few.mse[few.split_seed == 0].item()
    assert part["full tables"][first] == full.mse[full.split_seed == 0].item()
    assert part["few bits of an average"].notna().tolist() == 2 * [True] + 2 * [False]
    other = against_full_tables(rows, tasks, ["average"])
    average = rows[(rows.method == "average") & (rows.task == "ratings")]
    assert other["average"][first] == pytest.approx(average.mse.mean())
    assert other["pairs"][first] == len(average) == 2
    full = rows[(rows.method == "full tables") & (rows.task == "ratings")]
    spread = full.groupby("split_seed").mse.std().mean()
    assert whole["±"][first] == pytest.approx(spread)


def test_it_resumes_where_it_was_stopped(ratings, tmp_path, monkeypatch):
    path, task = tmp_path / "stopped.csv", fake(RATINGS)
    before = Study.row

    def stop(self, *arguments, **options):
        if len(self.journal) == 9:
            raise KeyboardInterrupt
        return before(self, *arguments, **options)

    monkeypatch.setattr(Study, "row", stop)
    with pytest.raises(KeyboardInterrupt):
        run(path, ratings, [task], ["hashing"])
    begun = path.read_text()
    monkeypatch.setattr(Study, "row", before)
    run(path, ratings, [task], ["hashing"])
    done = path.read_text()
    assert done.startswith(begun) and len(done) > len(begun)
    run(path, ratings, [task], ["hashing"])
    assert path.read_text() == done


def test_what_does_not_fit_is_left_out(ratings, tmp_path):
    task = fake(RANKING, columns=2, bar=3, sizes=(3,), averages=False)
    rows = run(tmp_path / "small.csv", ratings, [task], ["fewer columns"])
    assert set(rows[rows["size"] == 3].method) == {"few bits", "few bits, not trained"}


def test_cutting_back_an_average_keeps_its_first_axes(ratings, tmp_path):
    task = fake(RATINGS, columns=6)
    journal = Journal(tmp_path / "cut.csv", COLUMNS, KEY)
    study = Study(task, prepare(ratings), 0, journal, progress=quiet)
    inputs = {name: ids[:500] for name, ids in study.data.train.inputs.items()}
    wide, cut = (np.array(x(0)(inputs)) for x in (study.averaged, study.cut_back))
    assert num_bytes(study.cut_back(0)) == num_bytes(study.full(0))
    other = np.array(study.full(0)(inputs))
    assert np.abs(cut - wide).mean() < 0.7 * np.abs(other - wide).mean()
    assert study.full.cache_info().misses == NUM_AVERAGED  # each is trained once


def test_the_tasks():
    assert len({task.name for task in TASKS}) == len(TASKS)
    bars = {task.name: task.bar for task in TASKS}
    assert bars[RATINGS.name] >= 40 and bars[BOOKS.name] >= 30
    assert bars[RANKING.name] >= 20 and len(RATINGS.splits) == 3
