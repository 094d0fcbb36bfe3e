import keras
import numpy as np
import pytest

from memembed.compression import average, compress, pack
from memembed.data import Examples, prepare, synthetic_ratings
from memembed.layers import LowBitEmbedding
from memembed.models import bias_model, dot_product_model, embeddings_of


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
    return trained(dot_product_model(users, movies, biases=True), data, 6, 0.01)


def trained(model, data, epochs, learning_rate):
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    inputs, ratings = data.train.inputs, data.train.rating
    model.fit(inputs, ratings, batch_size=64, epochs=epochs, verbose=0)
    return model


def predict(model, examples):
    return model.predict(examples.inputs, batch_size=1000, verbose=0)[:, 0]


def loss(model, data):
    return np.mean((predict(model, data.train) - data.train.rating) ** 2)


def stored_bytes(model):
    return sum(weight.nbytes for weight in pack(model).get_weights())


def random_model(data, columns, scale=1.0, biases=False):
    rng = np.random.default_rng(columns)
    layers = [
        keras.layers.Embedding(size, columns)
        for size in (len(data.users), len(data.movies))
    ]
    model = dot_product_model(*layers, biases=biases)
    model.set_weights([rng.normal(0, scale, w.shape) for w in model.weights])
    return model


def test_it_makes_the_most_of_a_budget_and_never_exceeds_it(model, data):
    full, losses = loss(model, data), []
    for max_bytes in (460, 700, 1000, 1400):
        small = compress(model, data.train, max_bytes, num_blocks=2)
        assert 0.95 * max_bytes < stored_bytes(small) <= max_bytes
        losses.append(loss(small, data) - full)
    assert (np.diff(losses) < 0).all()
    assert losses[0] > 10 * abs(losses[-1])


def test_it_is_better_than_the_same_bits_for_all(model, data):
    layers = embeddings_of(compress(model, data.train, 10_000, num_blocks=2))
    alike = [
        LowBitEmbedding.from_embedding(
            layer.tables[0], bits=3, block_sizes=layer.block_sizes
        )
        for layer in layers.values()
    ]
    alike = dot_product_model(*alike[:2], biases=alike[2:])
    small = compress(model, data.train, stored_bytes(alike), num_blocks=2)
    assert stored_bytes(small) <= stored_bytes(alike)
    assert loss(small, data) < loss(alike, data)


def test_it_can_be_trained_packed_saved_and_loaded(model, data, tmp_path):
    small = compress(model, data.train, 600, num_blocks=2)
    regularizers = {
        name: layer.activity_regularizer for name, layer in embeddings_of(small).items()
    }
    assert regularizers["user"].l2 == pytest.approx(0.01)
    assert regularizers["user_bias"] is None
    before = loss(small, data)
    assert loss(trained(small, data, 3, 0.003), data) < before
    packed, some = pack(small), data.evaluation
    np.testing.assert_allclose(predict(packed, some), predict(small, some), rtol=1e-5)
    packed.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras", safe_mode=True)
    np.testing.assert_array_equal(predict(loaded, some), predict(packed, some))


@pytest.mark.parametrize("biases", [False, True])
def test_the_average_of_models_has_the_average_of_their_scores(data, biases):
    models = [random_model(data, columns, biases=biases) for columns in (2, 3, 4)]
    ratings = np.array([predict(each, data.evaluation) for each in models]) / 5
    scores = np.log(ratings / (1 - ratings))
    mean = average(models)
    np.testing.assert_allclose(
        predict(mean, data.evaluation), 5 / (1 + np.exp(-scores.mean(0))), rtol=1e-3
    )
    assert stored_bytes(compress(mean, data.train, 400, num_blocks=1)) <= 400


def test_what_cannot_be_averaged(model):
    layers = [keras.layers.Embedding(9, 2) for _ in range(2)]
    with pytest.raises(ValueError, match=r"`models` must be one or more .*'user': 9"):
        average([model, dot_product_model(*layers)])
    with pytest.raises(ValueError, match=r"`models` must be one or more .*\[\]"):
        average([])


def test_it_leaves_the_model_alone_and_shows_progress_if_asked(model, data, capsys):
    model.predict(data.evaluation.inputs, verbose=0)  # clears the penalties of `fit`
    before = model.get_weights()
    compress(model, data.train, 700, num_blocks=2)
    assert not capsys.readouterr().out  # which is no terminal
    compress(model, data.train, 700, num_blocks=2, verbose=1)
    assert f"{7 * (120 + 90)}/{7 * (120 + 90)}" in capsys.readouterr().out
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not model.losses


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_bytes": 10}, ValueError, r"`max_bytes` must be at least (\d+).*=10"),
        ({"max_bytes": 1e4}, TypeError, "`max_bytes` must be a positive integer"),
        ({"num_blocks": 90}, ValueError, "`num_blocks` must.*Received: num_blocks=90"),
    ],
)
def test_arguments_that_it_refuses(model, data, arguments, error, message):
    with pytest.raises(error, match=message):
        compress(model, data.train, **{"max_bytes": 10_000} | arguments)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (np.nan, r"`model` must have .* finite. Received: user\[0, 0\]=nan"),
        (np.inf, r"`model` must have .* finite. Received: user\[0, 0\]=-?inf"),
        (1e19, r"`model` must give .*too large. Received: scores from -\d.*e\+\d\d to"),
    ],
)
def test_weights_that_it_refuses(data, scale, message):
    with pytest.raises(ValueError, match=message):
        compress(random_model(data, 3, scale), data.train, 1000)


def test_models_that_it_refuses(data):
    foreign = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    foreign.layers[0].name = "dot_product"
    sides = [keras.Input((3,)), keras.Input((3,))]
    towers = keras.layers.Dot(1, name="dot_product")(
        [keras.layers.Dense(2)(side) for side in sides]
    )
    towers = keras.layers.Rescaling(5, name="rating")(towers)
    for model in (bias_model(120, 90), foreign, keras.Model(sides, towers)):
        with pytest.raises(ValueError, match="`model` must be "):
            compress(model, data.train, 1000)
        with pytest.raises(ValueError, match="`model` must be "):
            average([model])


@pytest.mark.parametrize(
    ("users", "movies", "message"),
    [
        ([], [], "`examples` must hold ratings. Received: none"),
        ([120, 3], [0, 0], r"`examples.user` must be .* 120. Received: .* 3 to 120"),
        ([0, 1], [-1, 5], r"`examples.movie` must be .* 90. Received: .* -1 to 5"),
    ],
)
def test_examples_that_it_refuses(model, users, movies, message):
    rows = (np.array(each, "int32") for each in (users, movies))
    with pytest.raises(ValueError, match=message):
        compress(model, Examples(*rows, np.ones(len(users), "float32")), 1000)
