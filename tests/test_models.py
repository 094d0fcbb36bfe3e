import keras
import numpy as np
import pytest

from memembed import models
from memembed.layers import HashEmbedding, LowBitEmbedding, MDEmbedding, QREmbedding
from memembed.models import (
    InBatchSoftmax,
    LookupL2,
    bias_model,
    dot_product_model,
    embeddings_of,
    input_dims,
    mlp_model,
    penalize,
    two_tower_model,
)

INPUTS = {"user": np.array([0, 4, 2]), "movie": np.array([1, 1, 6])}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_rating_is_the_sigmoid_of_the_dot_product():
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
    scores = np.log(plain / (5 - plain))  # the inverse of the sigmoid
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


def test_the_keras_example_has_the_same_number_of_parameters(tmp_path):
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
def test_embeddings_of_other_models_are_refused(model):
    with pytest.raises(ValueError, match=r"`model` must be .*Received"):
        embeddings_of(model)


def test_the_vocabulary_of_each_input():
    model = dot_product_model(
        QREmbedding(5, 3), MDEmbedding([2, 5], [3, 1], 3), biases=True
    )
    expected = [("movie", 7), ("movie", 7), ("user", 5), ("user", 5)]
    assert sorted(input_dims(model)) == expected


def test_a_bias_gets_a_twelfth_of_the_penalty():
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
    """On every version of Keras."""
    layer = keras.layers.Embedding(5, 3, activity_regularizer=LookupL2(0.1))
    ids = np.random.default_rng(0).integers(5, size=batch)
    layer(ids)
    squares = np.square(layer.get_weights()[0][ids]).sum(axis=1)
    assert float(layer.losses[0]) == pytest.approx(0.1 * squares.mean(), rel=1e-5)


def test_the_penalty_is_divided_if_keras_does_not_divide_it(monkeypatch):
    embeddings = np.full((4, 3), 2.0, "float32")
    monkeypatch.setattr(models, "DIVIDES", True)
    assert float(LookupL2(0.5)(embeddings)) == 24
    monkeypatch.setattr(models, "DIVIDES", False)
    assert float(LookupL2(0.5)(embeddings)) == 6
    large = np.full(
        (8, 64), 30, "float16"
    )  # squares that sum to more than float16 holds
    assert np.isfinite(float(LookupL2(0.5)(large)))
    assert LookupL2.from_config(LookupL2(0.5).get_config()).l2 == 0.5


def tables(output_dim=3, **arguments):
    return (
        keras.layers.Embedding(5, output_dim, name="users", **arguments),
        keras.layers.Embedding(7, output_dim, name="movies", **arguments),
    )


BUILDERS = {
    "dot product": lambda **given: dot_product_model(*tables(), **given),
    "dot product, biases": lambda **given: dot_product_model(*tables(), True, **given),
    "biases": lambda **given: bias_model(5, 7, **given),
    "MLP": lambda **given: mlp_model(*tables(), **given),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_mean_rating_is_the_rating_for_a_score_of_0(build):
    plain = build()
    assert "mean" not in [layer.name for layer in plain.layers]
    plain.set_weights([np.zeros_like(weight) for weight in plain.get_weights()])
    np.testing.assert_allclose(plain.predict(INPUTS, verbose=0), 2.5)
    model = build(mean_rating=3.58, max_rating=10)
    assert model.get_layer("mean").count_params() == 0
    assert embeddings_of(model).keys() == embeddings_of(plain).keys()
    model.set_weights(plain.get_weights())
    np.testing.assert_allclose(model.predict(INPUTS, verbose=0), 3.58, rtol=1e-6)
    assert model.get_layer("rating").scale == 10


def test_mean_rating_adds_a_constant_to_the_score():
    model = dot_product_model(*tables(), biases=True, mean_rating=4)
    bias = np.arange(7.0)[:, None] / 10
    model.get_layer("movie_bias").set_weights([bias])
    for layer in embeddings_of(model).values():
        if layer.name != "movie_bias":
            layer.set_weights([np.zeros_like(layer.get_weights()[0])])
    expected = 5 * sigmoid(np.log(4 / 1) + bias[INPUTS["movie"]])
    np.testing.assert_allclose(model.predict(INPUTS, verbose=0), expected, rtol=1e-6)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean_rating": 0}, "`mean_rating` must be .*Received: 0"),
        ({"mean_rating": 5}, "`mean_rating` must be .*Received: 5"),
        ({"mean_rating": np.nan}, "`mean_rating` must be .*Received: nan"),
        ({"max_rating": 0}, "`max_rating` must be positive. Received: 0"),
        ({"max_rating": np.inf}, "`max_rating` must be positive. Received: inf"),
    ],
)
def test_ratings_out_of_range_are_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_mlp_by_hand():
    model = mlp_model(*tables(2), hidden=[2], mean_rating=3)
    users, movies = np.eye(5, 2), np.full((7, 2), 2.0)
    kernel = np.array([[1.0, 0], [0, 1], [0.5, 0], [0, -1]])
    weights = users, movies, kernel, [0, 1], [[0.3], [2]], [0.1]
    model.set_weights([np.array(weight) for weight in weights])
    # Hidden units of user 0: 1 + 1, and 0 - 2 + 1, which ReLU makes 0.
    score = 0.3 * np.array([2, 1, 1]) + 0.1
    np.testing.assert_allclose(
        model.predict(INPUTS, verbose=0)[:, 0],
        5 * sigmoid(score + np.log(3 / 2)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("hidden", [[], [8, 0]])
def test_hidden_layers_without_units_are_refused(hidden):
    with pytest.raises(ValueError, match=r"`hidden.*` must.*Received"):
        mlp_model(*tables(), hidden=hidden)


def test_two_towers_score_every_pair_of_the_batch():
    model = two_tower_model(*tables())
    rng = np.random.default_rng(0)
    users, movies = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    model.set_weights([users, movies])
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model(INPUTS)),
        users[INPUTS["user"]] @ movies[INPUTS["movie"]].T,
        rtol=1e-5,
    )
    assert [each.name for each in embeddings_of(model).values()] == ["users", "movies"]
    with pytest.raises(ValueError, match=r"same `output_dim`\. Received: 3 and 4"):
        two_tower_model(tables()[0], keras.layers.Embedding(7, 4))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_in_batch_softmax_by_hand(shape):
    """The logarithm of a probability is subtracted from the column of its movie."""
    probability = np.array([0.5, 0.25, 0.125])
    scores = np.log([[4.0, 2, 1], [1, 1, 1], [3, 1, 2]])
    weights = np.array([[8.0, 8, 8], [2, 4, 8], [6, 4, 16]])
    expected = -np.log(np.diag(weights) / weights.sum(axis=1))
    loss = InBatchSoftmax()
    found = loss(probability.reshape(shape), scores)
    assert float(found) == pytest.approx(expected.mean(), rel=1e-6)
    rare = loss(probability * 1e-9, scores)
    assert float(rare) == pytest.approx(expected.mean(), rel=1e-5)


def test_the_loss_estimates_the_loss_over_the_whole_catalogue():
    """Exactly, if each movie's share of the batch is its probability."""
    movie = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    scores = np.array([0.3, -1, 2.0])
    share = np.bincount(movie) / len(movie)
    log_softmax = scores - np.log(np.exp(scores).sum())
    # Each term of the softmax is 1 / (batch * share) times too large.
    expected = -(log_softmax[movie] - np.log(len(movie) * share[movie])).mean()
    found = InBatchSoftmax()(share[movie], np.tile(scores[movie], (len(movie), 1)))
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("build", [two_tower_model, mlp_model])
def test_fit_save_and_load(build, tmp_path):
    """In batches of 8; the last one has 4."""
    keras.utils.set_random_seed(0)
    users = np.random.default_rng(0).integers(5, size=20)
    inputs = {"user": users, "movie": users}
    model = build(QREmbedding(5, 3), MDEmbedding([2, 5], [3, 1], 3))
    loss, y = "mse", 1.0 + users
    if build is two_tower_model:
        loss, y = InBatchSoftmax(), np.bincount(inputs["movie"])[inputs["movie"]] / 20
    model.compile(keras.optimizers.Adam(0.05), loss)
    penalize(model, 0.001)
    history = model.fit(inputs, y, batch_size=8, epochs=10, verbose=0).history["loss"]
    assert history[-1] < history[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(
        loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0)
    )
    loaded.fit(inputs, y, batch_size=8, verbose=0)
    assert embeddings_of(loaded)["movie"].block_sizes == [2, 5]
