import dataclasses

import keras
import keras_rs
import numpy as np
import pandas as pd
import pytest

from memembed import ranking
from memembed.compression import pack
from memembed.data import Examples, RatingData, prepare, synthetic_ratings
from memembed.layers import LowBitEmbedding
from memembed.models import dot_product_model, two_tower_model
from memembed.ranking import recall_and_ndcg, train_two_tower
from memembed.training import Settings


def examples(*pairs):
    user, movie = np.array(pairs, "int32").reshape(-1, 2).T
    return Examples(user, movie, np.ones(len(user), "float32"))


@pytest.fixture
def tiny():
    """Three users and five movies; the last user has no ratings to evaluate."""
    return RatingData(
        "tiny",
        users=range(3),
        movies=range(5),
        train=examples((0, 0), (2, 4)),
        validation=examples((0, 1)),
        evaluation=examples((0, 2), (0, 4), (1, 0), (1, 2), (1, 4)),
    )


SCORES = np.array([[9, 8, 7, 6, 5], [5, 4, 3, 2, 9], [1, 2, 3, 4, 5]], "float32")


@pytest.fixture(scope="module")
def data():
    return prepare(synthetic_ratings(num_users=60, num_movies=50, num_ratings=2000))


def test_recall_and_ndcg_by_hand(tiny):
    """Movies 0 and 1 are left out for the first user, who gets 2 and 3: one hit of two.

    The second user gets 4 and 0, both hits; the third positive does not fit into 2.
    """
    found = recall_and_ndcg(SCORES, tiny, k=2)
    assert found["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["ndcg"] == pytest.approx((1 / (1 + 1 / np.log2(3)) + 1) / 2)


def test_validation_leaves_only_the_training_part_out(tiny):
    expected = {"recall": 1, "ndcg": 1}
    assert recall_and_ndcg(SCORES, tiny, k=1, part="validation") == expected


def test_one_order_for_all_users(tiny):
    """Both users are recommended movies 4 and 3."""
    found = recall_and_ndcg(np.arange(5), tiny, k=2)
    assert found["recall"] == pytest.approx(1 / 2)
    assert found["ndcg"] == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_it_agrees_with_keras_rs(data, monkeypatch):
    """Its recall divides by all positives: the same if no user has more than `k`."""
    scores = np.random.default_rng(0).normal(size=(60, 50))
    users, counts = np.unique(data.evaluation.user, return_counts=True)
    labels = np.zeros((60, 50))
    labels[data.evaluation.user, data.evaluation.movie] = 1
    mask = np.ones((60, 50), bool)
    for part in (data.train, data.validation):
        mask[part.user, part.movie] = False
    truth = {"labels": labels[users], "mask": mask[users]}
    few, many = 3, int(counts.max())
    assert few < many
    for k, chunk in ((few, 1024), (many, 7)):
        monkeypatch.setattr(ranking, "CHUNK", chunk)
        found = recall_and_ndcg(scores, data, k)
        ndcg = keras_rs.metrics.NDCG(k=k)(truth, scores[users])
        assert found["ndcg"] == pytest.approx(float(ndcg), rel=1e-5)
    recall = keras_rs.metrics.RecallAtK(k=many)(truth, scores[users])
    assert found["recall"] == pytest.approx(float(recall), rel=1e-5)


@pytest.mark.parametrize("bits", [None, 2])
def test_a_model_ranks_by_its_two_towers(data, bits):
    if bits is None:
        layers = keras.layers.Embedding(60, 4), keras.layers.Embedding(50, 4)
    else:
        layers = LowBitEmbedding(60, 4, bits), LowBitEmbedding(50, 4, bits)
    model = two_tower_model(*layers)
    users, movies = (
        keras.ops.convert_to_numpy(layer(np.arange(size))).astype("float64")
        for layer, size in zip(layers, (60, 50), strict=True)
    )
    expected = recall_and_ndcg(users @ movies.T, data)
    # With few bits, some scores are equal, and rounding decides their order.
    assert recall_and_ndcg(model, data) == pytest.approx(expected, abs=0.01)
    if bits is not None:
        assert recall_and_ndcg(pack(model), data) == recall_and_ndcg(model, data)


def test_it_learns_who_watches_what():
    """Even users watch all even movies, and odd users all odd ones."""
    pairs = [(i, j, 5) for i in range(40) for j in range(i % 2, 30, 2)]
    data = prepare(pd.DataFrame(pairs, columns=["user_id", "movie_id", "rating"]))
    keras.utils.set_random_seed(0)
    tables = keras.layers.Embedding(40, 4), keras.layers.Embedding(30, 4)
    model = two_tower_model(*tables)
    settings = Settings(0.05, "cosine", epochs=10, batch_size=64, l2=0.001)
    losses = train_two_tower(model, data, settings)
    assert losses[-1] < losses[0]
    assert recall_and_ndcg(model, data, k=3)["recall"] > 0.95
    assert recall_and_ndcg(data.movies.counts, data, k=3)["recall"] < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": "train"}, r"`part` must be .*Received: part='train'"),
        ({"k": 0}, r"`k` must be .*Received: k=0"),
        ({"scores": np.zeros((5, 3))}, r"`scores` must .*\(3, 5\).* shape \(5, 3\)"),
        ({"scores": np.full(5, np.nan)}, r"`scores` must be .*finite"),
    ],
)
def test_bad_arguments(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        recall_and_ndcg(**{"scores": SCORES, "data": tiny} | arguments)


def test_an_empty_part(tiny):
    empty = dataclasses.replace(tiny, evaluation=examples())
    with pytest.raises(ValueError, match="`part` must hold ratings"):
        recall_and_ndcg(SCORES, empty)


def test_models_that_cannot_rank(tiny):
    tables = keras.layers.Embedding(3, 2), keras.layers.Embedding(4, 2)
    with pytest.raises(ValueError, match=r"all 5 rows of 'movie' .*Received: .* of 4"):
        recall_and_ndcg(two_tower_model(*tables), tiny)
    with pytest.raises(ValueError, match=r"made by `memembed.models.two_tower_model`"):
        recall_and_ndcg(dot_product_model(*tables), tiny)
    model = two_tower_model(tables[0], keras.layers.Embedding(5, 2))
    model.set_weights([np.full((3, 2), np.nan), np.zeros((5, 2))])
    with pytest.raises(ValueError, match="finite user vectors"):
        recall_and_ndcg(model, tiny)
