import keras
import numpy as np
import pytest

from memembed.compression import (
    average,
    compress,
    equal_shares,
    plan_bits,
    principal_axes,
    rounding_errors,
    sensitivities,
)
from memembed.data import Examples, prepare, synthetic_ratings
from memembed.layers import LowBitEmbedding, pack
from memembed.models import bias_model, dot_product_model, embeddings_of
from memembed.sizing import low_bit_bytes
from memembed.training import evaluate, train

SIDES = ("user", "movie", "user", "movie")


@pytest.fixture(scope="module")
def data():
    return prepare(synthetic_ratings(num_users=120, num_movies=90, num_ratings=5000))


@pytest.fixture(scope="module")
def model(data):
    keras.utils.set_random_seed(0)
    regularizer = keras.regularizers.L2(0.01)
    users, movies = (
        keras.layers.Embedding(size, 6, activity_regularizer=regularizer)
        for size in (len(data.users), len(data.movies))
    )
    model = dot_product_model(users, movies, biases=True)
    train(model, data, epochs=6, batch_size=64, learning_rate=0.01)
    return model


def stored_bytes(model):
    return sum(weight.nbytes for weight in pack(model).get_weights())


@pytest.mark.parametrize("max_bytes", [460, 700, 1000])
def test_it_makes_the_most_of_a_budget_and_never_exceeds_it(model, data, max_bytes):
    small = compress(model, data.train, max_bytes, num_blocks=2)
    assert 0.95 * max_bytes < stored_bytes(small) <= max_bytes


def test_the_more_bytes_the_less_is_lost(model, data):
    full = evaluate(model, data.train)["mse"]
    losses = [
        evaluate(compress(model, data.train, size, num_blocks=2), data.train)["mse"]
        - full
        for size in (500, 900, 1300, 2000)
    ]
    assert (np.diff(losses) < 0).all()
    assert losses[0] > 10 * losses[-1] > 0


def test_it_is_better_than_the_same_bits_for_all(model, data):
    bits, blocks = 3, 2
    layers = embeddings_of(compress(model, data.train, 10_000, num_blocks=blocks))
    alike = [
        LowBitEmbedding.from_embedding(
            layer.tables[0], bits, block_sizes=layer.block_sizes
        )
        for layer in layers.values()
    ]
    alike = dot_product_model(*alike[:2], biases=alike[2:])
    small = compress(model, data.train, stored_bytes(alike), num_blocks=blocks)
    assert stored_bytes(small) <= stored_bytes(alike)
    better, worse = (evaluate(each, data.train)["mse"] for each in (small, alike))
    assert better < worse


def test_it_can_be_trained_saved_and_loaded(model, data, tmp_path):
    small = compress(model, data.train, 600, num_blocks=2)
    regularizers = {
        name: layer.activity_regularizer for name, layer in embeddings_of(small).items()
    }
    assert regularizers["user"].l2 == pytest.approx(0.01)
    assert regularizers["user_bias"] is None
    before = evaluate(small, data.train)["mse"]
    train(small, data, epochs=5, batch_size=64, learning_rate=0.003)
    assert evaluate(small, data.train)["mse"] < before
    packed = pack(small)
    np.testing.assert_allclose(
        packed.predict(data.evaluation.inputs, verbose=0),
        small.predict(data.evaluation.inputs, verbose=0),
        rtol=1e-5,
    )
    packed.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras", safe_mode=True)
    np.testing.assert_array_equal(
        loaded.predict(data.evaluation.inputs, verbose=0),
        packed.predict(data.evaluation.inputs, verbose=0),
    )


@pytest.mark.parametrize("biases", [False, True])
def test_the_average_of_models_has_the_average_of_their_scores(data, biases):
    rng = np.random.default_rng(0)
    models, scores = [], []
    for columns in (3, 3, 3):
        layers = [
            keras.layers.Embedding(size, columns)
            for size in (len(data.users), len(data.movies))
        ]
        models.append(dot_product_model(*layers, biases=biases))
        models[-1].set_weights([rng.normal(size=w.shape) for w in models[-1].weights])
        rating = models[-1].predict(data.evaluation.inputs, verbose=0) / 5
        scores.append(np.log(rating / (1 - rating)))
    mean = average(models).predict(data.evaluation.inputs, verbose=0)
    np.testing.assert_allclose(
        mean, 5 / (1 + np.exp(-np.mean(scores, axis=0))), rtol=1e-3
    )


def test_what_cannot_be_averaged(model):
    other = dot_product_model(
        keras.layers.Embedding(9, 2), keras.layers.Embedding(9, 2)
    )
    with pytest.raises(ValueError, match=r"`models` must be one or more .*'user': 9"):
        average([model, other])
    with pytest.raises(ValueError, match=r"`models` must be one or more .*\[\]"):
        average([])


def test_a_model_without_biases(data):
    layers = [keras.layers.Embedding(n, 3) for n in (len(data.users), len(data.movies))]
    small = compress(dot_product_model(*layers), data.train, 400, num_blocks=1)
    assert list(embeddings_of(small)) == ["user", "movie"]
    assert stored_bytes(small) <= 400


def test_what_it_refuses(model, data):
    with pytest.raises(ValueError, match=r"`max_bytes` must be at least (\d+).*=10"):
        compress(model, data.train, 10)
    with pytest.raises(TypeError, match="`max_bytes` must be a positive integer"):
        compress(model, data.train, 1e4)
    with pytest.raises(ValueError, match=r"`num_blocks` must.*Received: num_blocks=90"):
        compress(model, data.train, 10_000, num_blocks=90)
    with pytest.raises(ValueError, match="`model` must be made by `dot_product_model`"):
        compress(bias_model(120, 90), data.train, 1000)


def test_principal_axes_keep_the_products_and_part_with_nothing_else():
    rng = np.random.default_rng(0)
    users, movies = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    movies[:, 3] = movies[:, 0]  # rank 4 still: the users' columns differ
    turned = principal_axes(users, movies)
    np.testing.assert_allclose(turned[0] @ turned[1].T, users @ movies.T, atol=1e-9)
    strengths = np.linalg.svd(users @ movies.T, compute_uv=False)[:3]
    for table in turned:
        np.testing.assert_allclose(
            table.T @ table, np.diag(strengths), atol=1e-9 * strengths[0]
        )


def test_shares_are_as_equal_as_whole_ids_allow():
    counts = np.sort(np.random.default_rng(0).pareto(1, 1000))[::-1]
    sizes = equal_shares(counts, 5)
    assert sum(sizes) == 1000
    shares = [part.sum() / counts.sum() for part in np.split(counts, np.cumsum(sizes))]
    assert np.abs(np.array(shares[1:5]) - 0.2).max() < counts[1] / counts.sum()


def test_sensitivities_foretell_what_an_error_does(data):
    """Where ratings are predicted exactly, so that only the square of it counts."""
    rng = np.random.default_rng(0)
    sizes = [len(data.users), len(data.movies)] * 2
    widths = (3, 3, 1, 1)
    names = ("user", "movie", "user_bias", "movie_bias")
    tables = {
        name: rng.normal(scale=0.5, size=(rows, width))
        for name, rows, width in zip(names, sizes, widths, strict=True)
    }

    def predict(tables):
        user, movie = data.train.user, data.train.movie
        score = (tables["user"][user] * tables["movie"][movie]).sum(axis=1)
        score += tables["user_bias"][user, 0] + tables["movie_bias"][movie, 0]
        return 5 / (1 + np.exp(-score))

    ratings = predict(tables)
    found = sensitivities(tables, Examples(data.train.user, data.train.movie, ratings))
    for name, table in tables.items():
        assert found[name].shape == table.shape
        for row, column in ((0, 0), (40, table.shape[1] - 1)):
            moved = table.copy()
            moved[row, column] += 1e-3
            error = np.mean((predict(tables | {name: moved}) - ratings) ** 2)
            assert error == pytest.approx(1e-6 * found[name][row, column], rel=0.01)


def planned(table, weights, blocks, max_bytes):
    """Return the bits of a table's blocks, and the error."""
    parts = dict(
        enumerate(zip(*(np.split(x, blocks) for x in (table, weights)), strict=True))
    )
    errors = {block: rounding_errors(*part) for block, part in parts.items()}
    rows = {block: len(part[0]) for block, part in parts.items()}
    bits, error = plan_bits(errors, rows, max_bytes)
    used = low_bit_bytes(*table.shape, list(bits.values()), list(rows.values()))
    assert used <= max_bytes
    return bits, error


def test_bits_go_where_they_are_worth_most():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 3)) * [1, 0.4, 0.001]
    weights = np.ones_like(table)
    weights[:100] = 100.0
    bits, _ = planned(table, weights, [100], max_bytes=160)
    assert bits[0][0] > bits[0][1] > bits[0][2] == 0
    assert bits[0][0] > bits[1][0] > bits[1][1]


@pytest.mark.parametrize("max_bytes", [30, 40, 50])
def test_an_exhaustive_search_finds_no_better_bits(max_bytes):
    """None that is better in a budget that is smaller by one column's bit."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(40, 2)) * [1, 0.4]
    weights = rng.random(size=table.shape)
    _, mine = planned(table, weights, [], max_bytes)
    errors = rounding_errors(table, weights)
    best = min(
        errors[0, i] + errors[1, j]
        for i in range(8)
        for j in range(8)
        if i + j and low_bit_bytes(40, 2, [i, j]) <= max_bytes - 40 / 8
    )
    assert mine <= best + 1e-12


def test_columns_that_hold_nothing_cost_nothing(data):
    """They would have an offset and a scale in each block."""
    rng = np.random.default_rng(0)
    layers = []
    for rows in (len(data.users), len(data.movies)):
        table = rng.normal(size=(rows, 6)) * [1, 1, 1e-4, 1e-4, 1e-4, 1e-4]
        layers.append(keras.layers.Embedding(rows, 6))
        layers[-1].build()
        layers[-1].set_weights([table])
    small = compress(dot_product_model(*layers), data.train, 600, num_blocks=2)
    assert small.get_layer("dot_product").input[0].shape == (None, 2)
