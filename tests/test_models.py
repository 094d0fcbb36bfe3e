import keras
import numpy as np
import pytest

from memembed import models
from memembed.layers import HashEmbedding, LowBitEmbedding, MDEmbedding, QREmbedding
from memembed.models import (
    LookupL2,
    bias_model,
    dot_product_model,
    embeddings_of,
    input_dims,
    penalize,
)

INPUTS = {"user": np.array([0, 4, 2]), "movie": np.array([1, 1, 6])}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_rating_is_the_dot_product_squashed():
    rng = np.random.default_rng(0)
    model = dot_product_model(
        keras.layers.Embedding(5, 3), keras.layers.Embedding(7, 3)
    )
    users, movies = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    model.set_weights([users, movies])
    scores = (users[INPUTS["user"]] * movies[INPUTS["movie"]]).sum(axis=1)
    np.testing.assert_allclose(
        model.predict(INPUTS, verbose=0)[:, 0], 5 * sigmoid(scores), rtol=1e-5
    )


def test_biases_are_added_to_the_score_and_start_at_zero():
    users, movies = keras.layers.Embedding(5, 3), keras.layers.Embedding(7, 3)
    model = dot_product_model(users, movies, biases=True)
    assert model.count_params() == 5 * 4 + 7 * 4
    plain = dot_product_model(users, movies).predict(INPUTS, verbose=0)
    np.testing.assert_allclose(model.predict(INPUTS, verbose=0), plain, rtol=1e-6)
    model.get_layer("user_bias").set_weights([np.full((5, 1), 0.5)])
    model.get_layer("movie_bias").set_weights([np.full((7, 1), 0.25)])
    scores = np.log(plain / (5 - plain))  # the sigmoid undone
    np.testing.assert_allclose(
        model.predict(INPUTS, verbose=0), 5 * sigmoid(scores + 0.75), rtol=1e-4
    )


def test_biases_may_be_layers_of_any_kind():
    tables = keras.layers.Embedding(3, 2), keras.layers.Embedding(2, 2)
    biases = LowBitEmbedding(3, 1, bits=2), LowBitEmbedding(2, 1, bits=2)
    model = dot_product_model(*tables, biases=biases)
    inputs = {"user": np.array([0, 2]), "movie": np.array([1, 1])}
    users, movies, user_bias, movie_bias = (
        keras.ops.convert_to_numpy(layer(inputs[name]))
        for layer, name in zip((*tables, *biases), ("user", "movie") * 2, strict=True)
    )
    score = (users * movies).sum(axis=1, keepdims=True) + user_bias + movie_bias
    predicted = keras.ops.convert_to_numpy(model(inputs))
    np.testing.assert_allclose(predicted, 5 / (1 + np.exp(-score)), rtol=1e-6)


def test_bias_model():
    model = bias_model(5, 7)
    assert model.count_params() == 12
    users, movies = np.arange(5.0) / 10, np.arange(7.0) / 10
    model.get_layer("user_bias").set_weights([users[:, None]])
    model.get_layer("movie_bias").set_weights([movies[:, None]])
    scores = users[INPUTS["user"]] + movies[INPUTS["movie"]]
    np.testing.assert_allclose(
        model.predict(INPUTS, verbose=0)[:, 0], 5 * sigmoid(scores), rtol=1e-6
    )


def test_the_keras_example_to_the_parameter(tmp_path):
    model = dot_product_model(
        QREmbedding(120 * 120, 64, num_buckets=120),
        MDEmbedding([401, 1301, 2007], [64, 32, 16], 64, use_bias=True),
    )
    assert model.count_params() == 117_968
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(
        loaded.predict(INPUTS, verbose=0), model.predict(INPUTS, verbose=0)
    )


def test_embeddings_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"same `output_dim`\. Received: 3 and 4"):
        dot_product_model(keras.layers.Embedding(5, 3), keras.layers.Embedding(7, 4))


@pytest.mark.parametrize("biases", [False, True])
def test_embeddings_of_a_model_and_of_its_copies(biases, tmp_path):
    layers = [keras.layers.Embedding(5, 3), keras.layers.Embedding(7, 3)]
    dot_product_model(*layers)  # a layer may be in several models
    model = dot_product_model(*layers, biases=biases)
    found = embeddings_of(model)
    assert list(found.values())[:2] == layers
    assert ("user_bias" in found) == ("movie_bias" in found) == biases
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.models.clone_model(model),
        keras.saving.load_model(tmp_path / "model.keras"),
    ):
        sizes = {name: layer.input_dim for name, layer in embeddings_of(copy).items()}
        assert sizes == {name: layer.input_dim for name, layer in found.items()}


@pytest.mark.parametrize(
    "model",
    [
        keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(1, name="dot_product")]
        ),
        keras.Sequential([keras.layers.Embedding(3, 1)]),
    ],
)
def test_other_models_have_no_embeddings(model):
    with pytest.raises(ValueError, match=r"`model` must be .*Received"):
        embeddings_of(model)


def test_the_vocabulary_of_each_input():
    model = dot_product_model(
        QREmbedding(5, 3), MDEmbedding([2, 5], [3, 1], 3), biases=True
    )
    expected = [("movie", 7), ("movie", 7), ("user", 5), ("user", 5)]
    assert sorted(input_dims(model)) == expected


def test_a_bias_is_penalised_by_a_twelfth():
    tables = keras.layers.Embedding(5, 3), keras.layers.Embedding(7, 3)
    model = dot_product_model(*tables, biases=True)
    penalize(model, 0.12)
    strengths = {
        name: layer.activity_regularizer.l2
        for name, layer in embeddings_of(model).items()
    }
    assert strengths == pytest.approx(
        {"user": 0.12, "movie": 0.12, "user_bias": 0.01, "movie_bias": 0.01}
    )
    penalize(floor := bias_model(5, 7), 0.12)
    assert floor.get_layer("movie_bias").activity_regularizer.l2 == pytest.approx(0.01)


def test_bias_model_of_layers():
    one_for_all = HashEmbedding(5, 1, num_buckets=1)
    assert bias_model(one_for_all, 7).count_params() == 8


@pytest.mark.parametrize("batch", [1, 8, 1000])
def test_the_penalty_is_a_mean_over_the_batch(batch):
    """On whatever version of Keras this runs."""
    layer = keras.layers.Embedding(5, 3, activity_regularizer=LookupL2(0.1))
    ids = np.random.default_rng(0).integers(5, size=batch)
    layer(ids)
    squares = np.square(layer.get_weights()[0][ids]).sum(axis=1)
    assert float(layer.losses[0]) == pytest.approx(0.1 * squares.mean(), rel=1e-5)


def test_the_penalty_is_divided_where_keras_does_not(monkeypatch):
    embeddings = np.full((4, 3), 2.0, "float32")
    monkeypatch.setattr(models, "DIVIDES", True)
    assert float(LookupL2(0.5)(embeddings)) == 24
    monkeypatch.setattr(models, "DIVIDES", False)
    assert float(LookupL2(0.5)(embeddings)) == 6
    assert LookupL2.from_config(LookupL2(0.5).get_config()).l2 == 0.5
