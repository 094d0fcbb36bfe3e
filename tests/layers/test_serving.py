"""From raw ids to a served model: trained, saved, reloaded, quantised, and called."""

import json

import keras
import numpy as np
import pytest

from memembed.layers import MDEmbedding, QREmbedding
from memembed.models import dot_product_model
from standards import BACKEND, quantize

NUM_USERS, NUM_MOVIES = 60, 40


@pytest.fixture(scope="module")
def ratings():
    """Names of users and movies, and ratings that depend on their tastes."""
    rng = np.random.default_rng(0)
    users = rng.integers(NUM_USERS, size=4000)
    movies = (NUM_MOVIES * rng.random(4000) ** 2).astype(int)
    taste = rng.normal(size=(NUM_USERS, 2)), rng.normal(size=(NUM_MOVIES, 2))
    ratings = 3 + (taste[0][users] * taste[1][movies]).sum(axis=1).clip(-2, 2)
    names = (
        np.char.add("user ", users.astype(str)),
        np.char.add("movie ", movies.astype(str)),
    )
    return {"user": names[0], "movie": names[1]}, ratings.astype("float32")


@pytest.fixture(scope="module")
def trained(ratings):
    """A model with both layers, and the vocabularies of its ids."""
    names, targets = ratings
    vocabularies = {side: np.unique(values) for side, values in names.items()}
    keras.utils.set_random_seed(0)
    model = dot_product_model(
        QREmbedding(len(vocabularies["user"]), 8, num_buckets=20),
        MDEmbedding([10, len(vocabularies["movie"]) - 10], [8, 4], 8),
    )
    rows = {side: np.searchsorted(vocabularies[side], names[side]) for side in names}
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    history = model.fit(rows, targets, batch_size=256, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.1 * np.var(targets)
    return model, vocabularies


def test_a_saved_and_quantised_model_answers_raw_ids(ratings, trained, tmp_path):
    """On any backend: the rows are looked up outside the model."""
    names, targets = ratings
    model, vocabularies = trained
    model.save(tmp_path / "float.keras")
    smaller = keras.saving.load_model(tmp_path / "float.keras")
    quantize(smaller)
    smaller.save(tmp_path / "model.keras")
    ids = {side: vocabulary.tolist() for side, vocabulary in vocabularies.items()}
    (tmp_path / "vocabulary.json").write_text(json.dumps(ids))

    served = keras.saving.load_model(tmp_path / "model.keras")
    assert {weight.dtype for weight in served.layers[2].weights} == {"int8", "float32"}
    ids = json.loads((tmp_path / "vocabulary.json").read_text())
    rows = {
        side: np.array([ids[side].index(name) for name in names[side]], "int32")
        for side in names
    }
    answers = served.predict(rows, verbose=0)[:, 0]
    before = model.predict(rows, verbose=0)[:, 0]
    assert np.abs(answers - before).max() < 0.1  # of 5; nothing is NaN
    assert np.square(answers - targets).mean() < 0.1 * np.var(targets)

    rows = {"user": np.array([0, NUM_USERS]), "movie": np.array([0, 0])}
    assert np.isnan(served.predict(rows, verbose=0)[:, 0]).tolist() == [False, True]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="StringLookup is TensorFlow's")
def test_raw_ids_looked_up_in_the_model(ratings, trained, tmp_path):
    """On TensorFlow the lookup can be part of the model, and of the SavedModel."""
    import tensorflow as tf

    names, _ = ratings
    model, vocabularies = trained
    inputs, rows = {}, {}
    for side, vocabulary in vocabularies.items():
        inputs[side] = keras.Input((), dtype="string", name=side)
        lookup = keras.layers.StringLookup(vocabulary=list(vocabulary))
        rows[side] = lookup(inputs[side]) - 1  # unknown strings are -1, so NaN
    whole = keras.Model(inputs, model(rows))
    whole.save(tmp_path / "model.keras")
    served = keras.saving.load_model(tmp_path / "model.keras")
    quantize(served)
    served.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")

    asked = {side: tf.constant(names[side][:50]) for side in names}
    known = {
        side: np.searchsorted(vocabularies[side], names[side][:50]) for side in names
    }
    answers = exported.serve(asked)[:, 0]
    np.testing.assert_allclose(answers, model.predict(known, verbose=0)[:, 0], atol=0.1)
    asked = {
        "user": tf.constant(["user 0", "nobody"]),
        "movie": tf.constant(["movie 0"] * 2),
    }
    assert np.isnan(exported.serve(asked)[:, 0]).tolist() == [False, True]
