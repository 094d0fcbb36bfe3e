from memembed import compression
from memembed.data import prepare, synthetic_ratings
from memembed.experiments.trials import LAST, trials


def test_each_trial_is_as_small_and_another_model(monkeypatch):
    # As for MovieLens: tables that are too large to try other numbers of blocks.
    monkeypatch.setattr(compression, "SMALL", 0)
    ratings = synthetic_ratings(num_users=300, num_movies=200, num_ratings=6_000)
    found = list(trials(prepare(ratings), seed=0))
    assert found[0].name == "as in this chapter" and found[-1].name == LAST
    assert all(1000 < each.bytes <= 4 * 64 * 500 // 100 for each in found)
    assert len({each.mse for each in found}) == len(found)
